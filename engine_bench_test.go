package syncengine_test

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/puzpuzpuz/xsync/v3"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

const benchKeys = 200_000

// benchContent is a document of some 300 bytes.
var benchContent = []byte(`{"name":"example item","tags":["a","b","c"],"count":12345,"nested":{"x":1.5,"y":true,"text":"` +
	strings.Repeat("lorem ipsum ", 16) + `"}}`)

func benchIDs() []string {
	ids := make([]string, benchKeys)
	for i := range ids {
		ids[i] = fmt.Sprintf("bench:item:%08d", i)
	}
	return ids
}

func openBench(b *testing.B, cfg syncengine.Config) *syncengine.Engine {
	b.Helper()
	cfg.Dir = b.TempDir()
	e, err := syncengine.Open(context.Background(), cfg)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = e.Close() })
	return e
}

// BenchmarkGetL1 compares a hit in memory, in one run, with a bare Load of the raw map that
// touches nothing of the value, and with what one would write by hand: a map of items, read
// by copying the item out.
func BenchmarkGetL1(b *testing.B) {
	ids := benchIDs()
	read := func(b *testing.B, get func(id string) bool) {
		b.ReportAllocs()
		b.ResetTimer()
		var seed atomic.Uint32
		b.RunParallel(func(pb *testing.PB) {
			for i := seed.Add(7919); pb.Next(); i = i*1664525 + 1013904223 {
				if !get(ids[i%benchKeys]) {
					b.Error("missing")
				}
			}
		})
	}
	m := xsync.NewMapOf[string, *syncengine.Item]()
	for _, id := range ids {
		id = strings.Clone(id) // a key equal by pointer would not be compared
		m.Store(id, &syncengine.Item{ID: id, Content: append([]byte(nil), benchContent...), ContentHash: sha256.Sum256(benchContent)})
	}
	b.Run("xsync bare", func(b *testing.B) {
		read(b, func(id string) bool { _, ok := m.Load(id); return ok })
	})
	b.Run("xsync item", func(b *testing.B) {
		read(b, func(id string) bool {
			it, ok := m.Load(id)
			if !ok {
				return false
			}
			out := *it
			return copied(&out)
		})
	})
	ctx := context.Background()
	e := openBench(b, syncengine.Config{L1MaxBytes: 1 << 30, Durability: syncengine.Buffered})
	for _, id := range ids {
		lab.Must(b, e.Submit(ctx, syncengine.Item{ID: id, Content: benchContent}))
	}
	lab.Must(b, e.Flush(ctx))
	runtime.GC()
	b.Run("engine", func(b *testing.B) {
		read(b, func(id string) bool {
			it, err := e.Get(ctx, id)
			return err == nil && copied(&it)
		})
	})
}

// copied looks at both ends of an item, so that all of it was needed.
//
//go:noinline
func copied(it *syncengine.Item) bool {
	return len(it.ID) > 0 && len(it.Content) > 0 && it.ContentHash[31]|1 != 0
}

// BenchmarkSubmit compares a write at each durability with a raw map store of a copy. The
// store is the twin that drops everything, so that only the path to the acknowledgement is
// measured.
func BenchmarkSubmit(b *testing.B) {
	ids := benchIDs()
	b.Run("xsync", func(b *testing.B) {
		m := xsync.NewMapOf[string, *[]byte]()
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			c := append([]byte(nil), benchContent...)
			m.Store(ids[i%benchKeys], &c)
		}
	})
	b.Run("sqlite upsert/1000 per transaction", func(b *testing.B) { rawUpserts(b, ids) })
	for _, d := range []syncengine.Durability{syncengine.Buffered, syncengine.Logged} {
		for _, callers := range []int{1, 64} {
			b.Run(fmt.Sprintf("%s/callers=%d", d, callers), func(b *testing.B) {
				ctx := context.Background()
				e := openBench(b, syncengine.Config{L1MaxBytes: 1 << 30, Durability: d, L3: nullArchive{}})
				b.ReportAllocs()
				b.ResetTimer()
				if callers == 1 {
					for i := 0; b.Loop(); i++ {
						if err := e.Submit(ctx, syncengine.Item{ID: ids[i%benchKeys], Content: benchContent}); err != nil {
							b.Fatal(err)
						}
					}
					return
				}
				var n atomic.Int64
				b.SetParallelism(callers / 2)
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						if err := e.Submit(ctx, syncengine.Item{ID: ids[n.Add(1)%benchKeys], Content: benchContent}); err != nil {
							b.Error(err)
							return
						}
					}
				})
			})
		}
	}
}

// BenchmarkIngest compares the engine, from Submit until L3 holds everything, with a loop that
// hands batches of 1000 to the same store.
func BenchmarkIngest(b *testing.B) {
	for name, url := range map[string]func(b *testing.B) string{
		"sqlite":  func(b *testing.B) string { return "sqlite:" + b.TempDir() + "/l3.db" },
		"mariadb": func(b *testing.B) string { return testserver.SharedMariaDB(b).NewDatabase(b) },
	} {
		b.Run(name+"/loop", func(b *testing.B) {
			ctx := context.Background()
			store, err := syncengine.OpenSQLStore(url(b))
			lab.Must(b, err)
			b.Cleanup(func() { _ = store.Close() })
			lab.Must(b, store.Prepare(ctx))
			recs := make([]syncengine.Record, 0, 1000)
			for i := 0; b.Loop(); i++ {
				recs = append(recs, syncengine.Record{Item: syncengine.Item{ID: fmt.Sprintf("item:%09d", i*7919%benchKeys), Version: uint64(i + 1),
					UpdatedAt: time.Now(), Content: benchContent, ContentHash: sha256.Sum256(benchContent)}})
				if len(recs) == cap(recs) {
					if _, err := store.Apply(ctx, recs); err != nil {
						b.Fatal(err)
					}
					recs = recs[:0]
				}
			}
		})
		for _, d := range []syncengine.Durability{syncengine.Buffered, syncengine.Logged} {
			b.Run(fmt.Sprintf("%s/engine/%s", name, d), func(b *testing.B) {
				ctx := context.Background()
				e := openBench(b, syncengine.Config{SQLURL: url(b), Durability: d})
				var n atomic.Int64
				b.SetParallelism(32)
				b.ResetTimer()
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						i := n.Add(1)
						if err := e.Submit(ctx, syncengine.Item{ID: fmt.Sprintf("item:%09d", i*7919%benchKeys), Content: benchContent}); err != nil {
							b.Error(err)
							return
						}
					}
				})
				if err := e.Flush(ctx); err != nil {
					b.Fatal(err)
				}
			})
		}
	}
}

// rawUpserts is what one would write by hand to make writes durable in SQLite: one writer, a
// prepared upsert, an fsync per thousand rows.
func rawUpserts(b *testing.B, ids []string) {
	db, err := sql.Open("sqlite", "file:"+b.TempDir()+"/raw.db?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)")
	lab.Must(b, err)
	defer db.Close()
	db.SetMaxOpenConns(1)
	_, err = db.Exec("CREATE TABLE items (id TEXT PRIMARY KEY, version INTEGER, content BLOB) WITHOUT ROWID")
	lab.Must(b, err)
	tx, st := (*sql.Tx)(nil), (*sql.Stmt)(nil)
	for i := 0; b.Loop(); i++ {
		if i%1000 == 0 {
			if tx != nil {
				lab.Must(b, tx.Commit())
			}
			tx, err = db.Begin()
			lab.Must(b, err)
			st, err = tx.Prepare("INSERT INTO items VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE SET version = excluded.version, content = excluded.content")
			lab.Must(b, err)
		}
		_, err = st.Exec(ids[i%benchKeys], i, benchContent)
		lab.Must(b, err)
	}
	lab.Must(b, tx.Commit())
}
