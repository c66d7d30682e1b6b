package neighbours

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/faultproxy"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/sqlkit"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

// TestAFrozenEngineHoldsUpNobody: it stops in its transactions, whatever those have locked. The
// others write on, beat on, and one that comes joins; what it was about to write is written by
// others after its lease. When it wakes up, it goes on as well. The server ends what is idle on the
// sessions of a URL, on MariaDB; with a pool of the caller's it does not, nor does MySQL.
func TestAFrozenEngineHoldsUpNobody(t *testing.T) {
	t.Run("URL", func(t *testing.T) {
		t.Parallel()
		frozenHoldsUpNobody(t, func(url string) syncengine.Config { return syncengine.Config{SQLURL: url} })
	})
	t.Run("a pool of the caller's", func(t *testing.T) {
		t.Parallel()
		frozenHoldsUpNobody(t, func(url string) syncengine.Config {
			return syncengine.Config{DB: lab.OpenDriver(t, "mysql", testserver.DSN(t, url)+"?maxAllowedPacket=0"), Dialect: syncengine.DialectMySQL}
		})
	})
}

func frozenHoldsUpNobody(t *testing.T, at func(url string) syncengine.Config) {
	ctx := context.Background()
	server := testserver.MariaDB(t)
	p := faultproxy.New(t, server.Addr())
	cfg := at(lab.Via(t, server.URL(), p))
	cfg.BatchFlushCount, cfg.FlushConcurrency, cfg.InstanceID = 1, 8, "frozen"
	cfg.L3Timeout = time.Minute // or it would close its connections
	frozen := lab.Open(t, cfg)
	b := lab.Open(t, syncengine.Config{SQLURL: server.URL(), InstanceID: "b"})
	submit(t, b, "b", "0", archived)
	raw := testserver.OpenSQL(t, server.URL())
	rowOf := func(name string) (id string) {
		_ = raw.QueryRow("SELECT COALESCE(MAX(id), '') FROM sync_instances WHERE name = ?", name).Scan(&id)
		return id
	}
	row := rowOf("b")
	var load sync.WaitGroup
	stop := make(chan struct{})
	for n := range 8 {
		load.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
					_ = frozen.Submit(ctx, syncengine.Item{ID: fmt.Sprint("f", n), Content: []byte(fmt.Sprint(i))}, syncengine.WithDurability(syncengine.Buffered))
					time.Sleep(time.Millisecond)
				}
			}
		})
	}
	lab.Eventually(t, "it writes", func() bool { return frozen.Stats().FlushedOps > 100 })
	p.Hold()
	close(stop)
	load.Wait()
	began, writes := time.Now(), 0
	var c *syncengine.Engine
	for time.Since(began) < 7*time.Second {
		lab.NoError(t, fmt.Sprint("a write of b after ", time.Since(began)), b.Submit(ctx, syncengine.Item{ID: "b", Content: []byte(fmt.Sprint(writes))}, archived))
		if writes++; c == nil && time.Since(began) > time.Second {
			c = lab.Open(t, syncengine.Config{SQLURL: server.URL(), InstanceID: "c"})
			submit(t, c, "c", "1")
		}
	}
	lab.NoError(t, "flush of c", c.Flush(lab.Bounded(t)))
	if now := rowOf("b"); now != row {
		t.Error("b was taken for dead")
	}
	if rowOf("frozen") != "" {
		t.Error("the frozen one is still there")
	}
	for n := range 8 { // its transactions have locked some of these
		submit(t, b, fmt.Sprint("f", n), "-1", archived)
	}
	p.Release()
	lab.Eventually(t, "it goes on", func() bool { return frozen.Flush(ctx) == nil })
	for n := range 8 {
		id := fmt.Sprint("f", n)
		c.Invalidate(id)
		frozen.Invalidate(id)
		if got, want := reads["Get"](c, id), reads["Get"](frozen, id); got != want {
			t.Errorf("%s: %s, want %s", id, got, want)
		}
	}
}

// Nobody is told of a connection that has ended by itself, or is another account's.
func TestAConnectionThatCanNotBeEndedIsLeft(t *testing.T) {
	ctx := context.Background()
	server := testserver.SharedMariaDB(t)
	dbURL := server.NewDatabase(t)
	admin := testserver.OpenSQL(t, dbURL)
	conn, err := admin.Conn(ctx)
	lab.Must(t, err)
	defer func() { _ = conn.Close() }() // it will have ended
	var id int64
	lab.Must(t, conn.QueryRowContext(ctx, "SELECT CONNECTION_ID()").Scan(&id))
	other := sqlkit.NewDB(lab.OpenDriver(t, "mysql", testserver.DSN(t, account(t, admin, dbURL, "ends", "SELECT"))), sqlkit.MySQL, "")
	lab.NoError(t, "one of another account", sqlkit.Kill(ctx, other, id))
	lab.NoError(t, "it goes on", conn.PingContext(ctx))
	lab.NoError(t, "none", sqlkit.Kill(ctx, other, 1<<40))
	db := sqlkit.NewDB(admin, sqlkit.MySQL, "")
	lab.NoError(t, "one of ours", sqlkit.Kill(ctx, db, id))
	if _, err := conn.ExecContext(ctx, "SELECT 1"); err == nil {
		t.Error("it goes on")
	}
}
