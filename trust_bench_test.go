package syncengine_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/storetest"
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
