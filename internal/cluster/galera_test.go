//go:build cluster

package cluster

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

// TestGalera has one cluster for all that needs one.
func TestGalera(t *testing.T) {
	began := time.Now()
	c := testserver.Galera(t)
	t.Logf("three nodes are up after %v", time.Since(began).Round(100*time.Millisecond))
	for name, test := range map[string]func(*testing.T, *testserver.GaleraCluster){
		"six open at once": sixOpen, "read on another node": readElsewhere, "a lagging node": lagging,
		"what waiting costs": cost, "a pool of one's own": ownPool,
	} {
		t.Run(name, func(t *testing.T) { test(t, c) })
	}
	t.Run("a node is killed", func(t *testing.T) { killed(t, c) }) // last
}

// nodes are URLs of an empty database, one for each node.
func nodes(t *testing.T, c *testserver.GaleraCluster) (urls []string) {
	t.Helper()
	first := c.Nodes[0].NewDatabase(t)
	for _, node := range c.Nodes {
		url := onNode(t, first, node.Addr())
		db := testserver.OpenSQL(t, url)
		lab.Eventually(t, "each node has the database", func() bool { return db.Ping() == nil })
		urls = append(urls, url)
	}
	return urls
}

// sixOpen opens six engines on an empty database, two on each node, again and again.
func sixOpen(t *testing.T, c *testserver.GaleraCluster) {
	const rounds = 12
	opens, failed, unread := 0, 0, 0
	var why error
	var longest time.Duration
	for round := range rounds {
		urls, causes := nodes(t, c), make([]atomic.Value, 6)
		engines := make([]*syncengine.Engine, 6)
		var tasks sync.WaitGroup
		began := time.Now()
		for n := range engines {
			tasks.Go(func() {
				e, err := syncengine.Open(context.Background(), syncengine.Config{Dir: t.TempDir(), SQLURL: urls[n%3], L3Timeout: 8 * time.Second,
					OnEvent: syncengine.Events{L3Outage: func(_ bool, err error) { causes[n].Store(fmt.Sprint(err)) }}})
				if err != nil {
					t.Errorf("round %d, engine %d: %v", round, n, err)
					return
				}
				t.Cleanup(func() { _ = e.Close() })
				engines[n] = e
			})
		}
		tasks.Wait()
		longest = max(longest, time.Since(began))
		for n, e := range engines {
			opens++
			if e == nil || e.Stats().L3Down || e.Submit(lab.Bounded(t), syncengine.Item{ID: fmt.Sprint(n), Content: []byte("1")}, archived) != nil {
				failed++
				t.Log(causes[n].Load())
			}
		}
		for _, e := range engines {
			for n := range engines {
				if e == nil {
					continue
				}
				if _, err := e.Get(lab.Bounded(t), fmt.Sprint(n)); err != nil {
					unread, why = unread+1, err
				}
			}
		}
		for _, e := range engines {
			if e != nil {
				_ = e.Close()
			}
		}
	}
	t.Logf("%d opened, %d failed; six took %v at most", opens, failed, longest.Round(time.Millisecond))
	if failed+unread > 0 {
		t.Errorf("%d of %d failed; %d reads: %v", failed, opens, unread, why)
	}
}

// on opens an engine on each node.
func on(t *testing.T, urls []string, cfg syncengine.Config) (engines []*syncengine.Engine) {
	t.Helper()
	for _, url := range urls {
		cfg.SQLURL, cfg.Dir = url, t.TempDir()
		engines = append(engines, lab.Open(t, cfg))
	}
	return engines
}

// readElsewhere writes at Archived on one node, and reads on the next one as soon as that is
// acknowledged.
func readElsewhere(t *testing.T, c *testserver.GaleraCluster) {
	engines := on(t, nodes(t, c), syncengine.Config{L1MaxAge: time.Nanosecond})
	ctx := context.Background()
	var acked, stale, reads atomic.Int64
	var tasks sync.WaitGroup
	for part := range 3 {
		tasks.Go(func() {
			for i := range 500 {
				writer, reader, again := engines[(part+i)%3], engines[(part+i+1)%3], engines[(part+i+2)%3]
				id := fmt.Sprint("x", part, "-", i)
				for n, e := range []*syncengine.Engine{reader, again} {
					if err := writer.Submit(ctx, syncengine.Item{ID: id, Content: content(int64(n + 1))}, archived); err != nil {
						t.Error(err)
						return
					}
					acked.Add(1)
					it, err := e.Get(ctx, id)
					reads.Add(1)
					if err != nil && !isAbsent(err) {
						t.Error(err)
					} else if number(it) < int64(n+1) {
						stale.Add(1)
					}
				}
			}
		})
	}
	tasks.Wait()
	t.Logf("%d acknowledged, %d read, stale %d", acked.Load(), reads.Load(), stale.Load())
	if n := stale.Load(); n > 0 {
		t.Errorf("%d of %d reads are stale", n, reads.Load())
	}
}

// ownPool opens an engine on a pool whose sessions don't wait, which is refused, and on one whose
// sessions do.
func ownPool(t *testing.T, c *testserver.GaleraCluster) {
	dsn := testserver.DSN(t, nodes(t, c)[1])
	cfg := syncengine.Config{Dir: t.TempDir(), Dialect: syncengine.DialectMySQL, DB: lab.OpenDriver(t, "mysql", dsn)}
	if e, err := syncengine.Open(context.Background(), cfg); !errors.Is(err, syncengine.ErrSetup) || !strings.Contains(err.Error(), "wsrep_sync_wait=1") {
		_ = e.Close()
		t.Fatal(err)
	}
	cfg.DB = lab.OpenDriver(t, "mysql", dsn+"?wsrep_sync_wait=1")
	lab.Put(t, lab.Open(t, cfg), "x", 1, archived)
}

// cost measures reads of rows on one node, and transactions that write one, while another node is
// written to, with the wait for what is committed there and without.
func cost(t *testing.T, c *testserver.GaleraCluster) {
	urls := nodes(t, c)
	db := testserver.OpenSQL(t, urls[1])
	_, err := db.Exec("CREATE TABLE t (id INT PRIMARY KEY, n INT); INSERT INTO t VALUES (1, 0), (2, 0)")
	lab.Must(t, err)
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	var tasks sync.WaitGroup
	other := testserver.OpenSQL(t, urls[0])
	tasks.Go(func() {
		for ctx.Err() == nil {
			_, _ = other.Exec("UPDATE t SET n = n + 1 WHERE id = 2")
		}
	})
	for _, wait := range []string{"0", "1", "0", "1"} {
		conn, err := db.Conn(ctx)
		lab.Must(t, err)
		_, err = conn.ExecContext(ctx, "SET SESSION wsrep_sync_wait = "+wait)
		lab.Must(t, err)
		read, err := conn.PrepareContext(ctx, "SELECT n FROM t WHERE id = ?")
		lab.Must(t, err)
		const rounds = 1000
		n, began := 0, time.Now()
		for range rounds {
			lab.Must(t, read.QueryRowContext(ctx, 1).Scan(&n))
		}
		reads := time.Since(began) / rounds
		began = time.Now()
		for range rounds {
			tx, err := conn.BeginTx(ctx, nil)
			lab.Must(t, err)
			_, err = tx.Exec("UPDATE t SET n = n + 1 WHERE id = 1")
			lab.Must(t, errors.Join(err, tx.Commit()))
		}
		t.Logf("wsrep_sync_wait = %s: a read %v, a transaction %v", wait, reads, time.Since(began)/rounds)
		lab.Must(t, errors.Join(read.Close(), conn.Close()))
	}
	stop()
	tasks.Wait()
}

// lagging holds up one node: what engines read there is right, or an error; and a repair through it
// leaves newer copies in Redis alone.
func lagging(t *testing.T, c *testserver.GaleraCluster) {
	ctx := context.Background()
	redis := testserver.SharedRedis(t)
	cfg := syncengine.Config{RedisURL: redis.URL(), KeyPrefix: lab.NewPrefix(), L1MaxAge: time.Nanosecond, L3Timeout: time.Second}
	urls := nodes(t, c)
	engines := on(t, urls, cfg)
	bare := lab.Open(t, syncengine.Config{SQLURL: urls[2], L1MaxAge: time.Nanosecond, L3Timeout: time.Second})
	const ids = 100
	put := func(n int64) {
		t.Helper()
		for i := range ids {
			lab.Must(t, engines[0].Submit(ctx, syncengine.Item{ID: fmt.Sprint("x", i), Content: content(n)}, archived))
		}
	}
	put(1)
	for i := 3; i < ids; i++ { // what memory holds is served while L3 does not answer
		if it, err := bare.Get(ctx, fmt.Sprint("x", i)); err != nil || number(it) != 1 {
			t.Fatalf("before: %v %v", it.Version, err)
		}
	}
	slow := testserver.OpenSQL(t, urls[2])
	slow.SetMaxOpenConns(1) // who locks unlocks
	exec := func(text string) {
		t.Helper()
		_, err := slow.Exec(text)
		lab.NoError(t, text, err)
	}
	exec("SET GLOBAL wsrep_desync = ON; FLUSH TABLES WITH READ LOCK")
	put(2)
	late := lab.RedisAt(t, redis.URL())
	stale, refused, right := 0, 0, 0
	judge := func(it syncengine.Item, err error) {
		switch {
		case err != nil && !isAbsent(err):
			refused++
		case err != nil || number(it) < 2:
			stale++
		default:
			right++
		}
	}
	for i := range 3 {
		it, err := bare.Get(ctx, fmt.Sprint("x", i))
		judge(it, err)
	}
	_, repaired := engines[2].Verify(ctx, syncengine.VerifyOptions{Repair: true})
	for i := range ids {
		// What Redis holds, and what those read who ask it first.
		if text, err := late.Get(ctx, cfg.KeyPrefix+fmt.Sprint("x", i)).Result(); err == nil && !strings.Contains(text, string(content(2))) {
			stale++
		}
		it, err := engines[1].Get(ctx, fmt.Sprint("x", i))
		judge(it, err)
	}
	began := time.Now()
	exec("UNLOCK TABLES; SET GLOBAL wsrep_desync = OFF")
	for _, e := range append(engines, bare) {
		lab.Eventually(t, "all is well", func() bool {
			if r, err := e.Verify(ctx, syncengine.VerifyOptions{Repair: true}); e != bare && (err != nil || !r.InSync) {
				return false
			}
			it, err := e.GetVerified(ctx, "x7")
			return err == nil && number(it) == 2
		})
	}
	t.Logf("%d acknowledged, read %d right, %d refused, stale %d; the repair: %v; recovered after %v",
		2*ids, right, refused, stale, repaired != nil, time.Since(began).Round(10*time.Millisecond))
	if stale > 0 {
		t.Errorf("%d stale", stale)
	}
}

// killed kills a node under load, and counts with Update on all nodes meanwhile.
func killed(t *testing.T, c *testserver.GaleraCluster) {
	engines := on(t, nodes(t, c), syncengine.Config{L1MaxAge: maxAge, L3Timeout: l3Timeout})
	l := start(engines, 300, archived)
	ctx, stop := context.WithCancel(context.Background())
	var counted, unknown atomic.Int64
	var tasks sync.WaitGroup
	for _, e := range engines {
		tasks.Go(func() {
			for ctx.Err() == nil {
				_, err := e.Update(context.WithoutCancel(ctx), "counter", func(it syncengine.Item, _ bool) (syncengine.Item, error) {
					it.Content = content(number(it) + 1)
					return it, nil
				})
				switch {
				case err == nil:
					counted.Add(1)
				case errors.Is(err, syncengine.ErrUnknownOutcome):
					unknown.Add(1)
				default:
					time.Sleep(10 * time.Millisecond) // refused: as a caller that tries again
				}
			}
		})
	}
	l.run(t, 1000)
	l.away.Store(3)
	// No node answers until those that are left agree on who they are; what memory knows is served.
	l.forgiven.Store(time.Now().Add(time.Minute).UnixNano())
	c.Nodes[2].Kill()
	l.run(t, 1000)
	l.forgiven.Store(time.Now().Add(seenAfter).UnixNano())
	l.run(t, 1000)
	// A node that sends another one what it has missed may fail to answer, too.
	l.forgiven.Store(time.Now().Add(time.Minute).UnixNano())
	c.Nodes[2].Restart()
	began := time.Now()
	lab.Eventually(t, "the engine on that node writes", func() bool {
		return engines[2].Submit(ctx, syncengine.Item{ID: "again", Content: []byte("1")}, archived) == nil
	})
	took := time.Since(began)
	l.forgiven.Store(time.Now().Add(seenAfter).UnixNano())
	time.Sleep(seenAfter) // for as long a read may miss what was written before
	l.away.Store(0)
	l.run(t, 1000)
	stop()
	tasks.Wait()
	l.end(t, took)
	it, err := engines[0].GetVerified(context.Background(), "counter")
	lab.Must(t, err)
	t.Logf("counted %d, %d unknown; the counter is %d", counted.Load(), unknown.Load(), number(it))
	if n := number(it); n < counted.Load() || n > counted.Load()+unknown.Load() {
		t.Errorf("the counter is %d", n)
	}
}
