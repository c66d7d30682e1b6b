package syncengine_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/storetest"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

// BenchmarkGetAbsent asks a trusted filter for ids that do not exist, beside hits in memory.
func BenchmarkGetAbsent(b *testing.B) {
	ctx := context.Background()
	ids := benchIDs()
	e := openBench(b, syncengine.Config{L1MaxBytes: 1 << 30, Durability: syncengine.Buffered})
	for _, id := range ids {
		must(b, e.Submit(ctx, syncengine.Item{ID: id, Content: benchContent}))
	}
	must(b, e.Flush(ctx))
	trusted(b, e)
	absent := make([]string, 0, benchKeys)
	for i := 0; len(absent) < benchKeys; i++ {
		if id := fmt.Sprintf("absent:item:%08d", i); !e.Contains(id) {
			absent = append(absent, id)
		}
	}
	for name, of := range map[string][]string{"hit": ids, "absent": absent} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for i := uint32(7919); pb.Next(); i = i*1664525 + 1013904223 {
					if _, err := e.Get(ctx, of[i%benchKeys]); (name == "absent") != errors.Is(err, syncengine.ErrNotFound) {
						b.Error(err)
					}
				}
			})
		})
	}
}

// BenchmarkOpen opens an engine on b.N rows, with a valid snapshot of the filter and without,
// until the filter is trusted. Run it with -benchtime 1000000x.
func BenchmarkOpen(b *testing.B) {
	ctx := context.Background()
	url := "sqlite:" + b.TempDir() + "/l3.db"
	store, err := syncengine.OpenSQLStore(url)
	must(b, err)
	must(b, store.Prepare(ctx))
	var recs []syncengine.Record
	for n := range b.N {
		if recs = append(recs, storetest.Put(fmt.Sprintf("item:%09d", n), 1, string(benchContent))); len(recs) == 1000 || n == b.N-1 {
			must(b, applied(store.Apply(ctx, recs)))
			recs = recs[:0]
		}
	}
	must(b, store.Close())
	dir := b.TempDir()
	took := map[string]time.Duration{}
	for _, how := range []string{"rebuild", "snapshot"} { // the second finds what the first has saved
		start := time.Now()
		e, err := syncengine.Open(ctx, syncengine.Config{Dir: dir, SQLURL: url})
		must(b, err)
		opened := time.Since(start)
		for !e.Stats().FilterTrusted {
			time.Sleep(100 * time.Microsecond)
		}
		took[how] = time.Since(start)
		b.ReportMetric(float64(opened.Milliseconds()), how+"-open-ms")
		b.ReportMetric(float64(took[how].Milliseconds()), how+"-trusted-ms")
		must(b, e.Close())
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(took["rebuild"])/float64(took["snapshot"]), "ratio")
}

// BenchmarkVerify compares b.N items in Redis and SQLite of which ten differ: missing, old,
// and left over ones. It reports how long the comparison and a raw listing of Redis take (keys
// and versions, pipelined), and what share of the listing's bytes the comparison needed. Run
// it with -benchtime 1000000x.
func BenchmarkVerify(b *testing.B) {
	ctx := context.Background()
	server := testserver.Redis(b)
	rdb := redisAt(b, server.URL())
	e := openBench(b, syncengine.Config{RedisURL: server.URL(), Durability: syncengine.Buffered, VerifyInterval: 24 * time.Hour})
	id := func(n int) string { return fmt.Sprintf("item:%09d", n) }
	for n := range b.N {
		must(b, e.Submit(ctx, syncengine.Item{ID: id(n), Content: benchContent}))
	}
	must(b, e.Flush(ctx))
	wire := func() (n int) {
		for _, key := range []string{"total_net_input_bytes", "total_net_output_bytes"} {
			v, err := strconv.Atoi(rdb.InfoMap(ctx, "stats").Item("Stats", key))
			must(b, err)
			n += v
		}
		return n
	}
	if r, err := e.Verify(ctx, syncengine.VerifyOptions{}); err != nil || !r.InSync {
		b.Fatalf("%+v, %v", r, err)
	}
	var want []string
	for n := range min(10, b.N) {
		rec := storetest.Put(id(n*(b.N/10)), 1, `"old"`)
		switch n % 3 {
		case 0:
			must(b, rdb.Del(ctx, "sync:"+rec.ID).Err())
		case 1:
			rec.ID = fmt.Sprint("left-over-", n)
			fallthrough
		case 2:
			must(b, rdb.Set(ctx, "sync:"+rec.ID, syncengine.EncodeEnvelope(&rec), 0).Err())
		}
		want = append(want, rec.ID)
	}
	slices.Sort(want)
	before, start := wire(), time.Now()
	r, err := e.Verify(ctx, syncengine.VerifyOptions{})
	must(b, err)
	took, bytes := time.Since(start), wire()-before
	if slices.Sort(r.Divergent); !slices.Equal(r.Divergent, want) {
		b.Fatalf("found %q, want %q", r.Divergent, want)
	}
	before, start = wire(), time.Now()
	for it, keys := uint64(0), []string(nil); ; {
		keys, it, err = rdb.Scan(ctx, it, "sync:*", 1000).Result()
		must(b, err)
		_, err = rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
			for _, key := range keys {
				p.GetRange(ctx, key, 0, 100)
			}
			return nil
		})
		must(b, err)
		if it == 0 {
			break
		}
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(took.Seconds(), "s")
	b.ReportMetric(time.Since(start).Seconds(), "listing-s")
	b.ReportMetric(100*float64(bytes)/float64(wire()-before), "%-of-listing")
}
