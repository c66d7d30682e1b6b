package promises

// waits_test.go is about what would be waited for while somebody holds what that needs: in a pool
// of connections, in transactions, on a server that has forgotten a client.

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/faultproxy"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

// database/sql waits for the reply to a ROLLBACK whatever becomes of any context.
func TestINV12ALostReplyToARollbackHoldsUpNobody(t *testing.T) {
	server := testserver.SharedMariaDB(t)
	p := faultproxy.New(t, server.Addr())
	db := lab.OpenDriver(t, "mysql", testserver.DSN(t, lab.Via(t, server.NewDatabase(t), p)))
	e := lab.Open(t, syncengine.Config{DB: db, Dialect: syncengine.DialectMySQL, L3Timeout: 500 * time.Millisecond})
	t.Cleanup(p.Cut) // or closing the pool would wait for the reply
	want := numbered(1, 1)
	want.write(t, e)
	lab.Eventually(t, "a first write", func() bool { return e.Flush(lab.Bounded(t)) == nil })
	p.MuteAt("ROLLBACK") // each COMMIT is followed by one
	for n := 2; p.Swallowed() == 0; n++ {
		want = numbered(1, n)
		want.write(t, e)
		_ = e.Flush(lab.Bounded(t)) // what the muted connection did may be unknown
	}
	want = numbered(1, 1000)
	want.write(t, e)
	returns(t, "Flush, of an id that the transaction was about", func() {
		lab.Eventually(t, "it lands", func() bool { return e.Flush(lab.Bounded(t)) == nil })
	})
	returns(t, "Close", func() { lab.Must(t, e.Close()) })
}

// Which statements are needed may differ after a server has begun anew: none is prepared in a
// transaction, for which there may be no other connection.
func TestINV01AServerThatWasReadOnlyAtOpenTakesWritesAfterItsRestart(t *testing.T) {
	for _, conns := range []int{1, 2} {
		t.Run(fmt.Sprint(conns), func(t *testing.T) {
			ctx := context.Background()
			server := testserver.MariaDB(t)
			lab.ArchiveAt(t, server.URL())
			outside := server.SQL(t)
			execAll(t, outside, "SET GLOBAL read_only = 1")
			cfg := syncengine.Config{SQLURL: server.URL() + "?max_open_conns=2", L3Timeout: 2 * time.Second, BatchFlushCount: 10}
			if conns == 1 {
				cfg.SQLURL, cfg.Dialect, cfg.DB = "", syncengine.DialectMySQL, lab.OpenDriver(t, "mysql", testserver.DSN(t, server.URL()))
				cfg.DB.SetMaxOpenConns(1)
			}
			e := lab.Open(t, cfg)
			execAll(t, outside, "SET GLOBAL read_only = 0")
			flushed := func() bool { return e.Flush(ctx) == nil }
			want := numbered(200, 1)
			want.write(t, e)
			lab.Eventually(t, "it takes writes", flushed)
			server.Kill()
			for n := range 200 { // they are inserted, not overwritten
				lab.Put(t, e, fmt.Sprint("another-", n), 1)
			}
			_ = e.Flush(ctx)
			server.Restart()
			lab.Eventually(t, "it takes writes after its restart", flushed)
			want.read(t, e)
		})
	}
}

// A statement is closed on each connection that it was prepared on, when that is free.
func TestINV12CloseDoesNotWaitForTheCallersOwnQueries(t *testing.T) {
	db := lab.OpenDriver(t, "mysql", testserver.DSN(t, testserver.SharedMariaDB(t).NewDatabase(t)))
	db.SetMaxIdleConns(4)
	e := lab.Open(t, syncengine.Config{DB: db, Dialect: syncengine.DialectMySQL})
	numbered(50, 1).write(t, e)
	lab.Must(t, e.Flush(context.Background()))
	execAll(t, db, "CREATE TABLE mine (n INT)", "INSERT INTO mine VALUES (1)")
	tx, err := db.Begin()
	lab.Must(t, err)
	_, err = tx.Exec("UPDATE mine SET n = 2")
	lab.Must(t, err)
	waiting := make(chan struct{}, 4)
	for range cap(waiting) { // for the row, on all the connections
		go func() {
			_, _ = db.Exec("UPDATE mine SET n = 3")
			waiting <- struct{}{}
		}()
	}
	lab.Eventually(t, "they wait", func() bool { return db.Stats().InUse > cap(waiting) })
	returns(t, "Close, before the rows are let go", func() { lab.Must(t, e.Close()) })
	lab.Must(t, tx.Rollback())
	for range cap(waiting) {
		<-waiting
	}
}

// A server may have a limit for a transaction in its binary log.
func TestINV09ATransactionBeyondTheServersLimitBlocksNobody(t *testing.T) {
	ctx := context.Background()
	server := testserver.MariaDB(t, "--log-bin=bin", "--server-id=1", "--max-binlog-cache-size=524288")
	e := lab.Open(t, syncengine.Config{SQLURL: server.URL()})
	var items []syncengine.Item
	for i := range 40 {
		content := make([]byte, 100<<10)
		for k := range content {
			content[k] = 'A' + byte(rand.IntN(26)) // it does not compress
		}
		content[0], content[len(content)-1] = '"', '"'
		items = append(items, syncengine.Item{ID: fmt.Sprint("g", i), Content: content})
	}
	for _, it := range items {
		lab.Must(t, e.Submit(ctx, it))
	}
	lab.Eventually(t, "one by one they land", func() bool { return e.Flush(ctx) == nil })
	for i := range items {
		items[i].ID = fmt.Sprint("together", i)
	}
	_, err := e.SubmitMany(ctx, items)
	lab.Must(t, err)
	if err := e.Flush(ctx); !errors.Is(err, syncengine.ErrRefused) {
		t.Errorf("Flush of a group that does not fit: %v, want ErrRefused", err)
	}
	lab.Put(t, e, "other", 1, syncengine.WithDurability(syncengine.Archived))
	if h := e.Health(ctx); !h.L3.OK || h.PendingOps != 0 || h.Quarantined != len(items) {
		t.Errorf("%+v", h)
	}
}

// Callers that leave before a reply can be there cost no connections: others, and the engine
// itself, would wait for new ones, and take a server for dead that has nothing.
func TestCallersWithoutPatienceTakeNoConnectionsFromOthers(t *testing.T) {
	server := testserver.SharedMariaDB(t)
	p := faultproxy.New(t, server.Addr())
	var troubles atomic.Int64
	db := server.NewDatabase(t)
	e := lab.Open(t, syncengine.Config{SQLURL: lab.Via(t, db, p), L1MaxAge: time.Millisecond, OnEvent: syncengine.Events{
		L3Outage:       func(bool, error) { troubles.Add(1) },
		CircuitChanged: func(string, string, string) { troubles.Add(1) },
	}})
	lab.Open(t, syncengine.Config{SQLURL: db}) // so that it asks SQL what is new
	numbered(100, 1).write(t, e)
	lab.Must(t, e.Flush(lab.Bounded(t)))
	const oneWay = 10 * time.Millisecond
	p.Delay(oneWay)
	defer p.Delay(0)
	before := p.Connections()
	over := make(chan struct{})
	var callers sync.WaitGroup
	for n := range 24 {
		callers.Go(func() {
			for ended := false; !ended; {
				ctx, cancel := context.WithTimeout(context.Background(), time.Duration(rand.Int64N(int64(2*oneWay))))
				switch n % 4 {
				case 0:
					_, _ = e.WatchToken(ctx)
				case 1:
					e.Health(ctx)
				case 2:
					_, _ = e.MerkleRoot(ctx)
				default:
					_, _ = e.GetMany(ctx, []string{"a", "b", "c"})
				}
				cancel()
				select {
				case <-over:
					ended = true
				default:
				}
			}
		})
	}
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); {
		if err := e.Submit(lab.Bounded(t), syncengine.Item{ID: "patient", Content: lab.Doc("patient", 1)}, syncengine.WithDurability(syncengine.Archived)); err != nil {
			t.Errorf("a patient writer: %v", err)
		}
	}
	close(over)
	callers.Wait()
	if n := troubles.Load(); n > 0 {
		t.Errorf("%d events tell of an outage, on a server that has none", n)
	}
	if n := p.Connections() - before; n > 24 { // the pool may have 8
		t.Errorf("%d connections were made", n)
	}
}
