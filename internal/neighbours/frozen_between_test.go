package neighbours

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/faultproxy"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

// TestAnEngineFrozenInItsOwnAffairsHoldsUpNobody: an engine with a pool of the caller's, which has
// no idle timeout, stops in what it does beside the writes of its callers. Others write on, and one
// that comes joins.
func TestAnEngineFrozenInItsOwnAffairsHoldsUpNobody(t *testing.T) {
	const itsRow = "SELECT id FROM sync_instances WHERE name = 'frozen' FOR UPDATE"
	for name, in := range map[string]struct {
		lock  string // what it waits for
		first bool   // lock it before the engine opens
		waits string // the statement that waits
		close bool   // it closes
	}{
		"join":  {lock: "SELECT id FROM sync_instances FOR UPDATE", first: true, waits: "INSERT INTO sync_instances%"},
		"beat":  {lock: itsRow, waits: "UPDATE sync_instances%"},
		"purge": {lock: "SELECT at FROM sync_due WHERE kind = 1 FOR UPDATE", waits: "DELETE FROM sync_due%"},
		"leave": {lock: itsRow, waits: "DELETE FROM sync_instances%", close: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := context.Background()
			server := testserver.MariaDB(t)
			p := faultproxy.New(t, server.Addr())
			b := lab.Open(t, ownPool(t, server.URL(), "b"))
			submit(t, b, "b", "0", archived)
			submit(t, b, "old", "0", archived)
			lab.Must(t, b.Delete(ctx, "old", archived))
			raw := testserver.OpenSQL(t, server.URL())
			tx, err := raw.Begin()
			lab.Must(t, err)
			hold := func() {
				rows, err := tx.Query(in.lock)
				lab.Must(t, err)
				for rows.Next() {
				}
				lab.Must(t, rows.Close())
			}
			if in.first {
				hold()
			}
			frozen := ownPool(t, lab.Via(t, server.URL(), p), "frozen")
			frozen.TombstoneRetention = 4 * time.Second
			frozen.L3Timeout = time.Minute // or it would close its connections
			ended := make(chan struct{})
			if in.first {
				go func() {
					defer close(ended)
					if f, err := syncengine.Open(ctx, frozen); err == nil {
						_ = f.Close()
					}
				}()
			} else {
				f := lab.Open(t, frozen)
				submit(t, f, "f", "1", archived)
				hold()
				go func() {
					defer close(ended)
					if in.close {
						_ = f.Close()
					}
				}()
			}
			lab.Eventually(t, "it waits in a transaction", func() bool {
				time.Sleep(200 * time.Millisecond) // the server shows what was 100 ms before, to those who ask all the time as well
				return lab.Number(t, raw, "SELECT COUNT(*) FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT' AND trx_query LIKE ?", in.waits) > 0
			})
			p.Hold()
			time.Sleep(100 * time.Millisecond) // what is on its way through the proxy has arrived
			lab.Must(t, tx.Rollback())
			othersGoOn(t, server.URL(), b)
			p.Release()
			<-ended
		})
	}
}

// An engine stops while it removes one that is dead.
func TestAnEngineFrozenWhileItEvictsHoldsUpNobody(t *testing.T) {
	t.Parallel()
	server := testserver.MariaDB(t)
	p := faultproxy.New(t, server.Addr())
	frozen := ownPool(t, lab.Via(t, server.URL(), p), "frozen")
	frozen.L3Timeout = time.Minute // or it would close its connections
	f := lab.Open(t, frozen)
	submit(t, f, "f", "0", archived)
	raw := testserver.OpenSQL(t, server.URL())
	for _, text := range []string{
		"INSERT INTO sync_instances (id, name, seen, beats) VALUES ('dead', 'dead', 0, 1)",
		"INSERT INTO sync_fences (engine, slot) VALUES ('dead', 0)",
		"CREATE TRIGGER dead BEFORE DELETE ON sync_fences FOR EACH ROW SET @asleep = IF(OLD.engine = 'dead', SLEEP(2), 0)",
	} {
		_, err := raw.Exec(text)
		lab.Must(t, err)
	}
	lab.Eventually(t, "it evicts", func() bool {
		return lab.Number(t, raw, "SELECT COUNT(*) FROM "+lab.Processes()+" WHERE info LIKE 'SET @asleep%'") > 0
	})
	p.Hold()
	lab.Eventually(t, "its transaction is idle", func() bool {
		return lab.Number(t, raw, "SELECT COUNT(*) FROM "+lab.Processes()+" WHERE info LIKE 'SET @asleep%'") == 0
	})
	othersGoOn(t, server.URL(), lab.Open(t, ownPool(t, server.URL(), "b")))
	p.Release()
}

// ownPool is the configuration of an engine with a pool of the caller's.
func ownPool(t *testing.T, url, id string) syncengine.Config {
	db := lab.OpenDriver(t, "mysql", testserver.DSN(t, url)+"?maxAllowedPacket=0")
	return syncengine.Config{DB: db, Dialect: syncengine.DialectMySQL, InstanceID: id, Dir: t.TempDir()}
}

// othersGoOn reports what of the writes of an engine, and of one that comes, does not reach L3
// soon.
func othersGoOn(t *testing.T, url string, b *syncengine.Engine) {
	t.Helper()
	began := time.Now()
	bounded, cancel := context.WithTimeout(context.Background(), 40*time.Second)
	defer cancel()
	c := lab.Open(t, ownPool(t, url, "c"))
	err := c.Submit(bounded, syncengine.Item{ID: "c", Content: []byte("1")}, archived)
	if took := time.Since(began); err != nil || took > 20*time.Second {
		t.Errorf("a new engine's first write: %v, after %v", err, took)
	}
	for _, id := range []string{"b", "old"} {
		lab.NoError(t, "a write of "+id, b.Submit(bounded, syncengine.Item{ID: id, Content: []byte("1")}, archived))
	}
}

// Engines are seen in the order of their tickets, on which rests who waits for whom: one that joins
// meanwhile does not overtake one that has its ticket and is slow to commit.
func TestEnginesJoinInTheOrderOfTheirTickets(t *testing.T) {
	t.Parallel()
	server := testserver.MariaDB(t)
	lab.Must(t, lab.Open(t, ownPool(t, server.URL(), "tables")).Close())
	raw := testserver.OpenSQL(t, server.URL())
	_, err := raw.Exec("CREATE TRIGGER slow AFTER INSERT ON sync_instances FOR EACH ROW SET @asleep = IF(NEW.name = 'first', SLEEP(2), 0)")
	lab.Must(t, err)
	var opened sync.WaitGroup
	seen := make(chan struct{}) // until then they stay
	open := func(id string) {
		cfg := ownPool(t, server.URL(), id)
		opened.Go(func() {
			e, err := syncengine.Open(context.Background(), cfg)
			lab.NoError(t, id, err)
			<-seen
			lab.NoError(t, id, e.Submit(lab.Bounded(t), syncengine.Item{ID: id, Content: []byte("1")}, archived))
			lab.NoError(t, id, e.Close())
		})
	}
	open("first")
	lab.Eventually(t, "the first one has a ticket", func() bool {
		return lab.Number(t, raw, "SELECT COUNT(*) FROM "+lab.Processes()+" WHERE info LIKE 'SET @asleep%'") > 0
	})
	open("second")
	lab.Eventually(t, "the second one is seen", func() bool {
		second := lab.Number(t, raw, "SELECT COUNT(*) FROM sync_instances WHERE name = 'second'") > 0
		if first := lab.Number(t, raw, "SELECT COUNT(*) FROM sync_instances WHERE name = 'first'") > 0; second && !first {
			t.Error("the second one is seen before the first")
		}
		return second
	})
	close(seen)
	opened.Wait()
}
