//go:build crdt

package syncengine_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/crdt"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

// mergeL3s are where merges land.
func mergeL3s(b *testing.B) map[string]func() (cfg syncengine.Config, byHand *sql.DB) {
	return map[string]func() (syncengine.Config, *sql.DB){
		"SQLite": func() (syncengine.Config, *sql.DB) {
			file := filepath.Join(b.TempDir(), "hand.db") + "?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)"
			return syncengine.Config{Dir: b.TempDir()}, lab.OpenDriver(b, "sqlite", file)
		},
		"MariaDB": func() (syncengine.Config, *sql.DB) {
			url := testserver.SharedMariaDB(b).NewDatabase(b)
			return syncengine.Config{Dir: b.TempDir(), SQLURL: url}, testserver.OpenSQL(b, url)
		},
	}
}

// BenchmarkMerge adds to counters until L3 has all, and does the same by hand: UPDATE n = n + 1 for
// each, 1000 in a transaction, which a crash or a lost reply counts twice or not at all.
func BenchmarkMerge(b *testing.B) {
	for l3, open := range mergeL3s(b) {
		for _, ids := range []int{1, 10_000} {
			for _, callers := range []int{1, 64} {
				b.Run(fmt.Sprintf("%s/%d ids/%d callers", l3, ids, callers), func(b *testing.B) {
					ctx := context.Background()
					cfg, _ := open()
					e := lab.Open(b, cfg)
					var n atomic.Int64
					var wg sync.WaitGroup
					b.ResetTimer()
					for range callers {
						wg.Go(func() {
							for i := n.Add(1); i <= int64(b.N); i = n.Add(1) {
								if _, err := e.Merge(ctx, fmt.Sprint("id-", i%int64(ids)), "GCounter", json.RawMessage("1")); err != nil {
									b.Error(err)
									return
								}
							}
						})
					}
					wg.Wait()
					lab.Must(b, e.Flush(ctx))
				})
			}
			b.Run(fmt.Sprintf("%s/%d ids/by hand", l3, ids), func(b *testing.B) {
				_, db := open()
				lab.Must(b, execute(db, "CREATE TABLE counters (id VARCHAR(64) NOT NULL PRIMARY KEY, n BIGINT NOT NULL)"))
				for i := range ids {
					lab.Must(b, execute(db, "INSERT INTO counters VALUES (?, 0)", fmt.Sprint("id-", i)))
				}
				b.ResetTimer()
				for done := 0; done < b.N; {
					tx, err := db.Begin()
					lab.Must(b, err)
					st, err := tx.Prepare("UPDATE counters SET n = n + 1 WHERE id = ?")
					lab.Must(b, err)
					for range min(1000, b.N-done) {
						_, err := st.Exec(fmt.Sprint("id-", done%ids))
						lab.Must(b, err)
						done++
					}
					lab.Must(b, tx.Commit())
				}
			})
		}
	}
}

// look opens the database of an engine.
func look(b *testing.B, cfg syncengine.Config) *sql.DB {
	if cfg.SQLURL != "" {
		return testserver.OpenSQL(b, cfg.SQLURL)
	}
	return lab.OpenDriver(b, "sqlite", filepath.Join(cfg.Dir, "archive.db"))
}

func execute(db *sql.DB, text string, args ...any) error {
	_, err := db.Exec(text, args...)
	return err
}

// BenchmarkCompact merges b.N times into 10,000 items, as of ten days ago, and compacts them. The
// time is that of Compact.
func BenchmarkCompact(b *testing.B) {
	const ids = 10_000
	for l3, open := range mergeL3s(b) {
		b.Run(l3, func(b *testing.B) {
			ctx := context.Background()
			cfg, _ := open()
			e := lab.Open(b, cfg)
			var n atomic.Int64
			var wg sync.WaitGroup
			for range 64 {
				wg.Go(func() {
					for i := n.Add(1); i <= int64(b.N); i = n.Add(1) {
						old := syncengine.WithVersion(syncengine.VersionAt(time.Now().AddDate(0, 0, -10)) + uint64(i))
						if _, err := e.Merge(ctx, fmt.Sprint("id-", (i-1)%ids), "GCounter", json.RawMessage("1"), old); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			lab.Must(b, e.Flush(ctx))
			sum := func() (n int64) {
				for i := range min(ids, b.N) {
					it, err := e.Get(ctx, fmt.Sprint("id-", i))
					lab.Must(b, err)
					v, err := crdt.Value(crdt.KindGCounter, it.Content)
					lab.Must(b, err)
					var one int64
					lab.Must(b, json.Unmarshal(v, &one))
					n += one
				}
				return n
			}
			if got := sum(); got != int64(b.N) {
				b.Fatalf("the sum is %d, want %d", got, b.N)
			}
			b.ResetTimer()
			r, err := e.Compact(ctx)
			b.StopTimer()
			lab.Must(b, err)
			if got := sum(); got != int64(b.N) {
				b.Fatalf("after compaction the sum is %d, want %d", got, b.N)
			}
			b.ReportMetric(float64(r.Ops), "rows-before")
			var left float64
			lab.Must(b, look(b, cfg).QueryRow("SELECT COUNT(*) FROM sync_ops").Scan(&left))
			b.ReportMetric(left, "rows-after")
		})
	}
}
