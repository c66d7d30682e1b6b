package syncengine_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/sqlkit"
	"github.com/syncengine-go/syncengine/internal/storetest"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

// BenchmarkGetAbsent asks a trusted filter for ids that do not exist, beside hits in memory.
func BenchmarkGetAbsent(b *testing.B) {
	ctx := context.Background()
	ids := benchIDs()
	e := openBench(b, syncengine.Config{L1MaxBytes: 1 << 30, Durability: syncengine.Buffered})
	for _, id := range ids {
		lab.Must(b, e.Submit(ctx, syncengine.Item{ID: id, Content: benchContent}))
	}
	lab.Must(b, e.Flush(ctx))
	lab.Trusted(b, e)
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
	lab.Must(b, err)
	lab.Must(b, store.Prepare(ctx))
	var recs []syncengine.Record
	for n := range b.N {
		if recs = append(recs, storetest.Put(fmt.Sprintf("item:%09d", n), 1, string(benchContent))); len(recs) == 1000 || n == b.N-1 {
			lab.Must(b, lab.Applied(store.Apply(ctx, recs)))
			recs = recs[:0]
		}
	}
	lab.Must(b, store.Close())
	dir := b.TempDir()
	took := map[string]time.Duration{}
	for _, how := range []string{"rebuild", "snapshot"} { // the second finds what the first has saved
		start := time.Now()
		e, err := syncengine.Open(ctx, syncengine.Config{Dir: dir, SQLURL: url})
		lab.Must(b, err)
		opened := time.Since(start)
		for !e.Stats().FilterTrusted {
			time.Sleep(100 * time.Microsecond)
		}
		took[how] = time.Since(start)
		b.ReportMetric(float64(opened.Milliseconds()), how+"-open-ms")
		b.ReportMetric(float64(took[how].Milliseconds()), how+"-trusted-ms")
		lab.Must(b, e.Close())
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
	rdb := lab.RedisAt(b, server.URL())
	e := openBench(b, syncengine.Config{RedisURL: server.URL(), Durability: syncengine.Buffered, VerifyInterval: 24 * time.Hour})
	id := func(n int) string { return fmt.Sprintf("item:%09d", n) }
	for n := range b.N {
		lab.Must(b, e.Submit(ctx, syncengine.Item{ID: id(n), Content: benchContent}))
	}
	lab.Must(b, e.Flush(ctx))
	wire := func() (n int) {
		for _, key := range []string{"total_net_input_bytes", "total_net_output_bytes"} {
			v, err := strconv.Atoi(rdb.InfoMap(ctx, "stats").Item("Stats", key))
			lab.Must(b, err)
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
			lab.Must(b, rdb.Del(ctx, "sync:"+rec.ID).Err())
		case 1:
			rec.ID = fmt.Sprint("left-over-", n)
			fallthrough
		case 2:
			lab.Must(b, rdb.Set(ctx, "sync:"+rec.ID, syncengine.EncodeEnvelope(&rec), 0).Err())
		}
		want = append(want, rec.ID)
	}
	slices.Sort(want)
	before, start := wire(), time.Now()
	r, err := e.Verify(ctx, syncengine.VerifyOptions{})
	lab.Must(b, err)
	took, bytes := time.Since(start), wire()-before
	if slices.Sort(r.Divergent); !slices.Equal(r.Divergent, want) {
		b.Fatalf("found %q, want %q", r.Divergent, want)
	}
	before, start = wire(), time.Now()
	for it, keys := uint64(0), []string(nil); ; {
		keys, it, err = rdb.Scan(ctx, it, "sync:*", 1000).Result()
		lab.Must(b, err)
		_, err = rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
			for _, key := range keys {
				p.GetRange(ctx, key, 0, 100)
			}
			return nil
		})
		lab.Must(b, err)
		if it == 0 {
			break
		}
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(took.Seconds(), "s")
	b.ReportMetric(time.Since(start).Seconds(), "listing-s")
	b.ReportMetric(100*float64(bytes)/float64(wire()-before), "%-of-listing")
}

// BenchmarkDigest compares Apply, which keeps the digest, with the same batches of 1000 written
// by hand to the same table without one: conditional upserts, which need not read the rows
// first. The two take turns batch by batch, so that both meet the same noise; ids come in no
// order, the first 200,000 rows are new and the rest overwrite. Run it with -benchtime 400000x.
func BenchmarkDigest(b *testing.B) {
	for _, name := range []string{"sqlite", "mariadb"} {
		b.Run(name, func(b *testing.B) {
			ctx := context.Background()
			url := func() string {
				if name == "sqlite" {
					return "sqlite:" + b.TempDir() + "/l3.db"
				}
				return testserver.SharedMariaDB(b).NewDatabase(b)
			}
			store, err := syncengine.OpenSQLStore(url())
			lab.Must(b, err)
			b.Cleanup(func() { _ = store.Close() })
			lab.Must(b, store.Prepare(ctx))
			plain := openPlainUpserts(b, url())
			var took [2][2]time.Duration // new or overwritten, with or without
			var rows [2]int
			for n := 0; n < b.N; n += 1000 {
				recs := make([]syncengine.Record, 0, 1000)
				for i := n; i < min(n+1000, b.N); i++ {
					r := storetest.Put(fmt.Sprintf("item:%09d", i*7919%benchKeys), uint64(i+1), string(benchContent))
					recs = append(recs, r)
				}
				slices.SortFunc(recs, func(a, b syncengine.Record) int { return strings.Compare(a.ID, b.ID) })
				over := min(n/benchKeys, 1)
				rows[over] += len(recs)
				for turn := range 2 {
					start := time.Now()
					if with := (n/1000+turn)%2 == 0; with {
						lab.Must(b, lab.Applied(store.Apply(ctx, recs)))
						took[over][0] += time.Since(start)
					} else {
						plain.apply(ctx, b, recs)
						took[over][1] += time.Since(start)
					}
				}
			}
			b.ReportMetric(0, "ns/op")
			for over, what := range []string{"insert", "overwrite"} {
				if rows[over] > 0 {
					b.ReportMetric(float64(rows[over])/took[over][0].Seconds(), what+"s/s")
					b.ReportMetric(float64(rows[over])/took[over][1].Seconds(), what+"s-without/s")
					b.ReportMetric(float64(took[over][0])/float64(took[over][1]), what+"-ratio")
				}
			}
		})
	}
}

// plainUpserts writes records by conditional statements, in the order of INV-3. It does not learn
// which rows stay.
type plainUpserts struct {
	db        *sqlkit.DB
	isolation sql.IsolationLevel
	tail      string
	chunk     int // rows of a statement
	stmts     map[int]*sqlkit.Stmt
}

func openPlainUpserts(b *testing.B, url string) *plainUpserts {
	// The store makes the table.
	store, err := syncengine.OpenSQLStore(url)
	lab.Must(b, err)
	lab.Must(b, store.Prepare(context.Background()))
	lab.Must(b, store.Close())
	src, err := sqlkit.Parse(url)
	lab.Must(b, err)
	pools, err := src.Open("", 0)
	lab.Must(b, err)
	b.Cleanup(func() { _ = pools.Close() })
	p := &plainUpserts{db: pools.Write, chunk: 1, stmts: make(map[int]*sqlkit.Stmt)}
	rest := []string{"updated_at", "content", "priority", "crdt", "trace_parent", "trace_state", "home_instance", "deleted_at", "content_hash"}
	if src.Dialect == sqlkit.SQLite {
		p.tail = " ON CONFLICT (id) DO UPDATE SET version = excluded.version, deleted = excluded.deleted"
		for _, c := range rest {
			p.tail += fmt.Sprintf(", %s = excluded.%[1]s", c)
		}
		p.tail += " WHERE (excluded.version, excluded.deleted, excluded.content_hash) > (version, deleted, content_hash)"
		return p
	}
	// MySQL assigns from left to right, so what the comparison reads comes last.
	p.tail, p.chunk, p.isolation = " ON DUPLICATE KEY UPDATE ", 256, sql.LevelReadCommitted
	for _, c := range rest {
		p.tail += fmt.Sprintf("%s = IF(VALUES(version) > version OR VALUES(version) = version AND (VALUES(deleted) > deleted OR "+
			"VALUES(deleted) = deleted AND VALUES(content_hash) > content_hash), VALUES(%[1]s), %[1]s), ", c)
	}
	p.tail += "deleted = IF(VALUES(version) > version, VALUES(deleted), IF(VALUES(version) = version, GREATEST(deleted, VALUES(deleted)), deleted)), " +
		"version = GREATEST(version, VALUES(version))"
	return p
}

func (p *plainUpserts) apply(ctx context.Context, b *testing.B, recs []syncengine.Record) {
	for n := p.chunk; n > 0; n /= 2 {
		if p.stmts[n] != nil {
			continue
		}
		st, err := p.db.PrepareContext(ctx, "INSERT INTO sync_items (id, version, updated_at, deleted, content_hash, content, priority, crdt, "+
			"trace_parent, trace_state, home_instance, deleted_at) VALUES (?"+strings.Repeat(",?", 11)+")"+
			strings.Repeat(",(?"+strings.Repeat(",?", 11)+")", n-1)+p.tail)
		lab.Must(b, err)
		p.stmts[n] = st
	}
	tx, err := p.db.BeginTx(ctx, &sql.TxOptions{Isolation: p.isolation})
	lab.Must(b, err)
	var args []any
	for chunk := p.chunk; len(recs) > 0; {
		for chunk > len(recs) {
			chunk /= 2
		}
		args = args[:0]
		for i := range recs[:chunk] {
			r := &recs[i]
			args = append(args, r.ID, int64(r.Version), r.UpdatedAt.UnixNano(), 0, r.ContentHash[:], []byte(r.Content), int64(r.Priority), r.CRDT,
				r.TraceParent, r.TraceState, r.HomeInstanceID, nil)
		}
		_, err := tx.StmtContext(ctx, p.stmts[chunk]).ExecContext(ctx, args...)
		lab.Must(b, err)
		recs = recs[chunk:]
	}
	lab.Must(b, tx.Commit(ctx))
}
