package promises

// faults_test.go holds what the tests of faults share (faults_redis_test.go, faults_sql_test.go,
// faults_process_test.go): documents to write and to find again, and a load; and the tests in
// which servers hang, with every public call under a context of its own.

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

// contents says which number the document of an id holds; below 0 it does not exist.
type contents map[string]int

// write brings e to want, one op per id, of which none may fail, a few at a time.
func (want contents) write(t testing.TB, e *syncengine.Engine) {
	t.Helper()
	ids := make(chan string, len(want))
	for id := range want {
		ids <- id
	}
	close(ids)
	var wg sync.WaitGroup
	for range min(8, len(want)) {
		wg.Go(func() {
			for id := range ids {
				if want[id] < 0 {
					lab.Must(t, e.Delete(context.Background(), id))
				} else {
					lab.Put(t, e, id, want[id])
				}
			}
		})
	}
	wg.Wait()
}

func (want contents) read(t testing.TB, e *syncengine.Engine) {
	t.Helper()
	for id, n := range want {
		lab.WantContent(t, e, id, n)
	}
}

// differsIn returns the ids of which Redis, asked from outside, holds anything else.
func (want contents) differsIn(t testing.TB, rdb redis.UniversalClient) (ids []string) {
	t.Helper()
	for id, n := range want {
		b, err := rdb.Get(lab.Bounded(t), "sync:"+id).Bytes()
		if err != nil && !errors.Is(err, redis.Nil) && !redis.HasErrorPrefix(err, "WRONGTYPE") {
			t.Fatal(err)
		}
		rec, decodeErr := lab.DecodeEnvelope(id, b)
		absent := errors.Is(err, redis.Nil) || decodeErr == nil && rec.Deleted
		if n < 0 && !absent || n >= 0 && (absent || decodeErr != nil || string(rec.Content) != string(lab.Doc(id, n))) {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// numbered is count ids that hold n, each fifth one deleted.
func numbered(count, n int) contents {
	want := make(contents)
	for i := range count {
		if want[fmt.Sprint("id-", i)] = n; i%5 == 4 {
			want[fmt.Sprint("id-", i)] = -1
		}
	}
	return want
}

// another is the config of an engine beside one, on the same stores. If that has a file for itself,
// this one may read it only.
func another(t testing.TB, cfg syncengine.Config) syncengine.Config {
	if cfg.SQLURL == "" {
		cfg.SQLURL = "sqlite:" + filepath.Join(cfg.Dir, "archive.db")
	}
	cfg.Dir = t.TempDir()
	return cfg
}

func execAll(t testing.TB, db *sql.DB, queries ...string) {
	t.Helper()
	for _, q := range queries {
		if _, err := db.ExecContext(lab.Bounded(t), q); err != nil {
			t.Fatalf("%s: %v", q, err)
		}
	}
}

// wantDrained waits until nothing is pending any more, and compares SQL alone with want.
func (want contents) wantDrained(t testing.TB, e *syncengine.Engine, sqlURL string) {
	t.Helper()
	lab.Eventually(t, "all is drained", func() bool { s := e.Stats(); return s.PendingOps == 0 && !s.L3Down })
	want.read(t, e)
	want.read(t, lab.Open(t, syncengine.Config{SQLURL: sqlURL}))
	if s := e.Stats(); s.WALItems != 0 || s.Quarantined != 0 {
		t.Errorf("after the drain: %+v", s)
	}
}

// wantRepaired waits until the engine has by itself brought Redis up to date, and looks at
// it from outside, through Verify, and through an engine without memory.
func (want contents) wantRepaired(t testing.TB, e *syncengine.Engine, cfg syncengine.Config, rdb redis.UniversalClient) {
	t.Helper()
	lab.Eventually(t, "what Redis missed is repaired", func() bool { return e.Stats().L2Missed == 0 })
	if ids := want.differsIn(t, rdb); len(ids) > 0 {
		t.Errorf("Redis holds something else of %d ids, as %s", len(ids), ids[0])
	}
	if r, err := e.Verify(lab.Bounded(t), syncengine.VerifyOptions{}); err != nil || !r.InSync || r.RootL2 != r.RootL3 {
		t.Errorf("Verify: in sync %v, %d differ, %v", r.InSync, len(r.Divergent), err)
	}
	want.read(t, e)
	cold := lab.Open(t, another(t, cfg))
	lab.Eventually(t, "Redis is read, also if it has just come back empty", func() bool { return cold.Stats().L2Missed == 0 })
	live := maps.Clone(want)
	maps.DeleteFunc(live, func(_ string, n int) bool { return n < 0 })
	live.read(t, cold)
	if s := cold.Stats(); s.L2Hits != uint64(len(live)) || s.L3Hits != 0 {
		t.Errorf("without memory %d of %d reads were answered by Redis, %d by SQL", s.L2Hits, len(live), s.L3Hits)
	}
	want.read(t, cold)
}

// small is an engine whose memory holds a fifth of 500 documents, so that reads go to Redis.
func small(t testing.TB, redisURL string) syncengine.Config {
	return syncengine.Config{Dir: t.TempDir(), RedisURL: redisURL, L1MaxBytes: 64 << 10}
}

// groupOf is a group of size ids that all hold n.
func groupOf(name string, size, n int) []syncengine.Item {
	items := make([]syncengine.Item, size)
	for i := range items {
		id := fmt.Sprintf("%s-%02d", name, i)
		items[i] = syncengine.Item{ID: id, Content: lab.Doc(id, n)}
	}
	return items
}

// told is the next thing that an event function said.
func told[T any](t testing.TB, events chan T) T {
	t.Helper()
	lab.Eventually(t, "an event", func() bool { return len(events) > 0 })
	return <-events
}

// load is 8 writers that each write and read back some ids of their own, at Logged; disturb is
// called with the number of ops so far, by whoever did the last one, the others going on.
func load(t testing.TB, e *syncengine.Engine, perWriter, ids int, want contents, disturb func(ops int64)) {
	t.Helper()
	const writers = 8
	var ops atomic.Int64
	var wg sync.WaitGroup
	var mu sync.Mutex // guards want
	for w := range writers {
		wg.Go(func() {
			mine := make(contents)
			for n := range perWriter {
				id := fmt.Sprintf("w%d-%d", w, n%ids)
				if mine[id] = n; n%7 == 3 {
					mine[id] = -1
				}
				contents{id: mine[id]}.write(t, e)
				old := fmt.Sprintf("w%d-%d", w, (n*13+ids/2)%ids)
				if held, ok := mine[old]; ok {
					lab.WantContent(t, e, old, held)
				}
				disturb(ops.Add(1))
			}
			mu.Lock()
			maps.Copy(want, mine)
			mu.Unlock()
		})
	}
	wg.Wait()
}

// returnsSoon is returns for what ends with a context of 100 ms.
func returnsSoon(t *testing.T, what string, fn func(ctx context.Context) error) (err error) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		done <- fn(ctx)
	}()
	select {
	case err := <-done:
		return err
	case <-time.After(30 * time.Second): // Shutdown closes files, on a disk that other tests keep busy
		t.Fatalf("%s goes on 30 s after its context of 100 ms", what)
		return nil
	}
}

// TestEveryCallEndsWithItsContextWhileBothServersHang freezes both servers under an engine
// whose own timeouts are far away.
func TestEveryCallEndsWithItsContextWhileBothServersHang(t *testing.T) {
	ctx := context.Background()
	db, server := testserver.MariaDB(t), testserver.Redis(t)
	cfg := syncengine.Config{Dir: t.TempDir(), SQLURL: db.URL(), RedisURL: server.URL(), L2Timeout: time.Minute, L3Timeout: time.Minute}
	e := lab.Open(t, cfg)
	execAll(t, db.SQL(t), "ALTER TABLE sync_items ADD CONSTRAINT no_poison CHECK (content IS NULL OR content NOT LIKE '%poison%')")
	lab.Must(t, e.Submit(ctx, syncengine.Item{ID: "bad", Content: lab.Poison})) // for RetryQuarantined
	lab.Put(t, e, "a", 1)
	if err := e.Flush(ctx); !errors.Is(err, syncengine.ErrRefused) {
		t.Fatal(err)
	}
	ending := lab.Open(t, another(t, cfg))
	lab.Put(t, ending, "b", 1)
	lab.Must(t, ending.Flush(ctx))
	db.Stop()
	server.Stop()
	lab.Put(t, ending, "b", 2)
	lab.Put(t, e, "c", 1) // so that a Flush has something to wait for
	calls := publicCalls(e)
	calls["Shutdown"] = ending.Shutdown
	calls["Open"] = func(ctx context.Context) error { _, err := syncengine.Open(ctx, another(t, cfg)); return err }
	for name, call := range calls {
		err := returnsSoon(t, name, call)
		switch name {
		case "Quarantined", "DiscardQuarantined", "Explain": // the WAL file answers, or it says what does not
			lab.Must(t, err)
		case "Shutdown":
			if !errors.Is(err, syncengine.ErrPending) {
				t.Errorf("Shutdown: %v, want ErrPending", err)
			}
		default:
			if !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, syncengine.ErrUnavailable) || errors.Is(err, syncengine.ErrNotFound) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	for name, call := range map[string]func(ctx context.Context) error{ // need no server
		"Submit": func(ctx context.Context) error {
			return e.Submit(ctx, syncengine.Item{ID: "a", Content: lab.Doc("a", 2)})
		},
		"Delete": func(ctx context.Context) error { return e.Delete(ctx, "b") },
		"Get":    func(ctx context.Context) error { _, err := e.Get(ctx, "a"); return err },
	} {
		if err := returnsSoon(t, name, call); err != nil {
			t.Errorf("%s needs no server: %v", name, err)
		}
	}
	db.Resume()
	server.Resume()
	contents{"a": 2, "b": -1}.read(t, e)
	lab.Eventually(t, "Flush lands all but the refused one", func() bool { return errors.Is(e.Flush(ctx), syncengine.ErrRefused) })
}

// TestHungSQLCostsAReadOneTimeoutUntilTheBreakerOpens: a thousand reads at a timeout each would
// be minutes; none is repeated; and all is as before once the server goes on.
func TestHungSQLCostsAReadOneTimeoutUntilTheBreakerOpens(t *testing.T) {
	ctx := context.Background()
	db := testserver.MariaDB(t)
	circuit := make(chan string, 100)
	reg := prometheus.NewRegistry()
	e := lab.Open(t, syncengine.Config{SQLURL: db.URL(), L1MaxBytes: 64 << 10, L3Timeout: 300 * time.Millisecond, Registerer: reg,
		OnEvent: syncengine.Events{CircuitChanged: func(tier, from, to string) { circuit <- tier + " " + from + " " + to }}})
	want := numbered(500, 1)
	want.write(t, e)
	lab.Eventually(t, "all is in L3, though a loaded machine may need more than a timeout", func() bool { return e.Flush(ctx) == nil })
	repeated := metric(t, reg, "sync_engine_retries_total")
	db.Stop()
	answered := 0
	returns(t, "reading with SQL frozen", func() {
		for range 2 {
			for id := range want {
				_, err := e.Get(ctx, id)
				switch {
				case err == nil || errors.Is(err, syncengine.ErrNotFound) && want[id] < 0:
					answered++
				case !errors.Is(err, syncengine.ErrUnavailable):
					t.Errorf("%s: %v", id, err)
				}
			}
		}
	})
	if got := told(t, circuit); got != "L3 closed open" || answered == 0 || answered == 1000 {
		t.Errorf("the circuit went %s; memory answered %d of 1000 reads", got, answered)
	}
	if n := metric(t, reg, "sync_engine_retries_total"); n != repeated {
		t.Errorf("%v calls that hung were repeated", n-repeated)
	}
	changed := numbered(100, 2)
	changed.write(t, e)
	changed.read(t, e)
	maps.Copy(want, changed)
	db.Resume()
	lab.Eventually(t, "the breaker closes and all is drained", func() bool { s := e.Stats(); return s.PendingOps == 0 && !s.L3Down })
	want.read(t, e)
}

// metric is the value of a counter without labels.
func metric(t testing.TB, reg *prometheus.Registry, name string) float64 {
	t.Helper()
	families, err := reg.Gather()
	lab.Must(t, err)
	for _, f := range families {
		if f.GetName() == name {
			return f.Metric[0].GetCounter().GetValue()
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}
