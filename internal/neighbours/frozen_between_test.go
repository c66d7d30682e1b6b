package neighbours

import (
	"context"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/faultproxy"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

// TestAnEngineFrozenInItsOwnAffairsHoldsUpNobody: an engine with a pool of the caller's, which has
// no idle timeout, stops in its beat or in the purge of tombstones. Others write on, and one that
// comes joins.
func TestAnEngineFrozenInItsOwnAffairsHoldsUpNobody(t *testing.T) {
	for name, in := range map[string]struct{ lock, waits string }{
		"beat":  {"SELECT id FROM sync_instances WHERE name = 'frozen' FOR UPDATE", "UPDATE sync_instances%"},
		"purge": {"SELECT at FROM sync_due WHERE kind = 1 FOR UPDATE", "DELETE FROM sync_due%"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := context.Background()
			server := testserver.MariaDB(t)
			p := faultproxy.New(t, server.Addr())
			own := func(url, id string) syncengine.Config {
				db := lab.OpenDriver(t, "mysql", testserver.DSN(t, url)+"?maxAllowedPacket=0")
				return syncengine.Config{DB: db, Dialect: syncengine.DialectMySQL, InstanceID: id, Dir: t.TempDir()}
			}
			b := lab.Open(t, own(server.URL(), "b"))
			submit(t, b, "b", "0", archived)
			submit(t, b, "old", "0", archived)
			lab.Must(t, b.Delete(ctx, "old", archived))
			frozen := own(lab.Via(t, server.URL(), p), "frozen")
			frozen.TombstoneRetention = 4 * time.Second
			frozen.L3Timeout = time.Minute // or it would close its connections
			f := lab.Open(t, frozen)
			_ = f.Submit(ctx, syncengine.Item{ID: "f", Content: []byte("1")})
			raw := testserver.OpenSQL(t, server.URL())
			tx, err := raw.Begin()
			lab.Must(t, err)
			rows, err := tx.Query(in.lock)
			lab.Must(t, err)
			for rows.Next() {
			}
			lab.Must(t, rows.Close())
			lab.Eventually(t, "it waits in a transaction", func() bool {
				time.Sleep(200 * time.Millisecond) // the server shows what was 100 ms before, to those who ask all the time as well
				return lab.Number(t, raw, "SELECT COUNT(*) FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT' AND trx_query LIKE ?", in.waits) > 0
			})
			p.Hold()
			time.Sleep(100 * time.Millisecond) // what is on its way through the proxy has arrived
			lab.Must(t, tx.Rollback())
			began := time.Now()
			bounded, cancel := context.WithTimeout(ctx, 40*time.Second)
			defer cancel()
			c := lab.Open(t, own(server.URL(), "c"))
			err = c.Submit(bounded, syncengine.Item{ID: "c", Content: []byte("1")}, archived)
			if took := time.Since(began); err != nil || took > 20*time.Second {
				t.Errorf("a new engine's first write: %v, after %v", err, took)
			}
			if err := b.Submit(lab.Bounded(t), syncengine.Item{ID: "b", Content: []byte("1")}, archived); err != nil {
				t.Errorf("b: %v", err)
			}
			if err := b.Submit(lab.Bounded(t), syncengine.Item{ID: "old", Content: []byte("1")}, archived); err != nil {
				t.Errorf("what it was about to purge: %v", err)
			}
			p.Release()
		})
	}
}
