package syncengine_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/faultproxy"
	"github.com/syncengine-go/syncengine/internal/storetest"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

func open(t testing.TB, cfg syncengine.Config) *syncengine.Engine {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	e, err := syncengine.Open(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	return e
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// doc is a document of some 300 bytes that names its id and a number.
func doc(id string, n int) []byte {
	return []byte(fmt.Sprintf(`{"id":%q,"n":%d,"pad":%q}`, id, n, strings.Repeat("x", 240)))
}

func put(t testing.TB, e *syncengine.Engine, id string, n int, opts ...syncengine.WriteOption) {
	t.Helper()
	must(t, e.Submit(context.Background(), syncengine.Item{ID: id, Content: doc(id, n)}, opts...))
}

// wantContent checks one id: n < 0 means that it must not exist.
func wantContent(t testing.TB, e *syncengine.Engine, id string, n int) {
	t.Helper()
	it, err := e.Get(context.Background(), id)
	switch {
	case n < 0 && errors.Is(err, syncengine.ErrNotFound):
	case n < 0:
		t.Fatalf("%s: got %v, %v; want not found", id, it.Version, err)
	case err != nil:
		t.Fatalf("%s: %v", id, err)
	case string(it.Content) != string(doc(id, n)):
		t.Fatalf("%s holds %.60s, want n = %d", id, it.Content, n)
	}
}

// via returns a database or Redis URL that goes through a proxy.
func via(t testing.TB, rawURL string, p *faultproxy.Proxy) string {
	t.Helper()
	u, err := url.Parse(rawURL)
	must(t, err)
	u.Host = p.Addr()
	return u.String()
}

// eventually waits until cond holds, asking again whenever the engine may have moved.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	deadline := time.NewTimer(30 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("never came true: %s", what)
		}
	}
}

// TestINV01And10OutageOfL3SpoolsDrainsAndLosesNothing kills the database in the middle of a
// load that is many times larger than memory, reads everything meanwhile, and compares L3
// with the model after it came back.
func TestINV01And10OutageOfL3SpoolsDrainsAndLosesNothing(t *testing.T) {
	const writers, perWriter, ids = 16, 1500, 400
	ctx := context.Background()
	db := testserver.MariaDB(t)
	down := make(chan struct{}, 8)
	e := open(t, syncengine.Config{
		SQLURL: db.URL(), L1MaxBytes: 1 << 20, L3Timeout: time.Second,
		OnEvent: syncengine.Events{L3Outage: func(isDown bool, _ error) {
			if isDown {
				down <- struct{}{}
			}
		}},
	})
	var used atomic.Int64
	model := make([]map[string]int, writers)
	write := func(from, to int) {
		var wg sync.WaitGroup
		for w := range writers {
			wg.Go(func() {
				for n := from; n < to; n++ {
					id := fmt.Sprintf("w%d-%d", w, n%ids)
					if n%7 == 3 {
						must(t, e.Delete(ctx, id))
						model[w][id] = -1
					} else {
						put(t, e, id, n)
						model[w][id] = n
					}
					if b := e.Stats().L1Bytes; b > used.Load() {
						used.Store(b)
					}
				}
			})
		}
		wg.Wait()
	}
	check := func(e *syncengine.Engine) {
		t.Helper()
		for w := range writers {
			for id, n := range model[w] {
				wantContent(t, e, id, n)
			}
		}
	}
	for w := range model {
		model[w] = make(map[string]int)
	}
	write(0, 300)
	db.Kill()
	write(300, perWriter)
	<-down
	check(e) // every pending id is readable, most of them from the WAL alone
	s := e.Stats()
	if s.SpooledOps == 0 || s.PendingOps < s.SpooledOps || s.OldestPending == 0 {
		t.Errorf("nothing was spooled: %+v", s)
	}
	if limit := int64(1<<20) * 11 / 10; used.Load() > limit {
		t.Errorf("memory reached %d bytes, the bound is %d", used.Load(), limit)
	}
	if err := e.Flush(ctx); !errors.Is(err, syncengine.ErrUnavailable) {
		t.Errorf("Flush during the outage: %v, want ErrUnavailable", err)
	}
	db.Restart()
	eventually(t, "Flush succeeds", func() bool { return e.Flush(ctx) == nil })
	check(e)
	if s := e.Stats(); s.PendingOps != 0 || s.WALItems != 0 || s.SpooledOps != 0 {
		t.Errorf("after the drain: %+v", s)
	}
	check(open(t, syncengine.Config{SQLURL: db.URL(), L1MaxBytes: 1 << 20})) // from L3 alone
}

// TestINV12CloseDuringOutageKeepsAllForTheNextOpen also covers Buffered ops.
func TestINV12CloseDuringOutageKeepsAllForTheNextOpen(t *testing.T) {
	ctx := context.Background()
	db := testserver.MariaDB(t)
	cfg := syncengine.Config{Dir: t.TempDir(), SQLURL: db.URL(), L3Timeout: time.Second, CloseTimeout: 5 * time.Second}
	e := open(t, cfg)
	put(t, e, "first", 1)
	must(t, e.Flush(ctx))
	db.Kill()
	for n := range 100 {
		put(t, e, fmt.Sprint("buffered-", n), n, syncengine.WithDurability(syncengine.Buffered))
		put(t, e, fmt.Sprint("logged-", n), n)
	}
	must(t, e.Delete(ctx, "first", syncengine.WithDurability(syncengine.Buffered)))
	var pe *syncengine.PendingError
	if err := e.Close(); !errors.As(err, &pe) || pe.Ops != 201 {
		t.Fatalf("Close: %v, want 201 ops left", err)
	}
	if s := e.Stats(); s.PendingOps != 201 {
		t.Errorf("after Close %d ops are pending, want 201", s.PendingOps)
	}
	check := func(e *syncengine.Engine) {
		t.Helper()
		for n := range 100 {
			wantContent(t, e, fmt.Sprint("buffered-", n), n)
			wantContent(t, e, fmt.Sprint("logged-", n), n)
		}
		wantContent(t, e, "first", -1)
	}
	e = open(t, cfg) // degraded: L3 is still away
	check(e)
	put(t, e, "late", 7)
	db.Restart()
	eventually(t, "Flush succeeds", func() bool { return e.Flush(ctx) == nil })
	check(e)
	check(open(t, syncengine.Config{SQLURL: db.URL()}))
}

// TestINV02And08StaleL2IsNeverRead cuts the wire to Redis, writes, restores the wire, and
// reads with cold memory.
func TestINV02And08StaleL2IsNeverRead(t *testing.T) {
	ctx := context.Background()
	redis := testserver.Redis(t)
	proxy := faultproxy.New(t, redis.Addr())
	cfg := syncengine.Config{Dir: t.TempDir(), RedisURL: via(t, redis.URL(), proxy), L1MaxBytes: 64 << 10}
	e := open(t, cfg)
	for n := range 500 {
		put(t, e, fmt.Sprint("id-", n), 1)
	}
	must(t, e.Flush(ctx))
	proxy.Cut()
	for n := range 500 {
		if n%5 == 0 {
			must(t, e.Delete(ctx, fmt.Sprint("id-", n)))
		} else {
			put(t, e, fmt.Sprint("id-", n), 2)
		}
	}
	must(t, e.Flush(ctx))
	check := func(e *syncengine.Engine) {
		t.Helper()
		for n := range 500 {
			if n%5 == 0 {
				wantContent(t, e, fmt.Sprint("id-", n), -1)
			} else {
				wantContent(t, e, fmt.Sprint("id-", n), 2)
			}
		}
	}
	check(e)
	if e.Stats().L2Missed == 0 {
		t.Error("L2 missed writes and nobody noticed")
	}
	// A restart must not forget it: Redis is back, with the old values.
	must(t, e.Close())
	proxy.Restore()
	e = open(t, cfg)
	check(e)
	eventually(t, "L2 is repaired", func() bool { return e.Stats().L2Missed == 0 })
	check(e)
	report, err := e.Verify(ctx, syncengine.VerifyOptions{})
	if err != nil || !report.InSync || report.RootL2 != report.RootL3 {
		t.Errorf("after the repair: %+v, %v", report, err)
	}
}

// TestRedisKilledAndRestartedEmptyIsNoticedAndRefilled.
func TestRedisKilledAndRestartedEmptyIsNoticedAndRefilled(t *testing.T) {
	ctx := context.Background()
	redis := testserver.Redis(t)
	e := open(t, syncengine.Config{RedisURL: redis.URL(), L1MaxBytes: 64 << 10})
	for n := range 300 {
		put(t, e, fmt.Sprint("id-", n), n)
	}
	must(t, e.Flush(ctx))
	redis.Kill()
	for n := range 300 {
		wantContent(t, e, fmt.Sprint("id-", n), n)
	}
	redis.Restart()
	eventually(t, "Redis answers", func() bool { return e.Health(ctx).L2.OK })
	report, err := e.Verify(ctx, syncengine.VerifyOptions{Repair: true})
	if err != nil || report.InSync || len(report.Divergent) != report.Repaired || report.Repaired == 0 {
		t.Fatalf("an empty Redis: %+v, %v", report, err)
	}
	report, err = e.Verify(ctx, syncengine.VerifyOptions{})
	if err != nil || !report.InSync {
		t.Fatalf("after the repair: in sync %v, %d differ, %v", report.InSync, len(report.Divergent), err)
	}
	if n := redis.Do(t, "DBSIZE"); n != "300" {
		t.Errorf("Redis holds %s keys, want 300", n)
	}
}

// TestHungRedisCostsAReadOneTimeout stops Redis: reads answer from L3, and soon skip L2.
func TestHungRedisCostsAReadOneTimeoutUntilTheBreakerOpens(t *testing.T) {
	ctx := context.Background()
	redis := testserver.Redis(t)
	e := open(t, syncengine.Config{RedisURL: redis.URL(), L1MaxBytes: 64 << 10, L2Timeout: 50 * time.Millisecond})
	for n := range 300 {
		put(t, e, fmt.Sprint("id-", n), n)
	}
	must(t, e.Flush(ctx))
	redis.Stop()
	for n := range 300 {
		wantContent(t, e, fmt.Sprint("id-", n), n)
	}
	if c := e.Health(ctx).L2.Circuit; c != "open" {
		t.Errorf("the circuit is %s, want open", c)
	}
	redis.Resume()
	for n := range 300 {
		wantContent(t, e, fmt.Sprint("id-", n), n)
	}
}

// TestFullWALRefusesAndRecovers lets the WAL reach its limit while L3 is away.
func TestFullWALRefusesBeforeAnythingChangesAndRecovers(t *testing.T) {
	ctx := context.Background()
	db := testserver.MariaDB(t)
	e := open(t, syncengine.Config{SQLURL: db.URL(), WALMaxItems: 1000, L3Timeout: time.Second})
	put(t, e, "first", 0)
	must(t, e.Flush(ctx))
	db.Kill()
	accepted := 0
	var be *syncengine.BackpressureError
	for n := 0; be == nil; n++ {
		id := fmt.Sprint("id-", n)
		err := e.Submit(ctx, syncengine.Item{ID: id, Content: doc(id, n)}, syncengine.WithDurability(syncengine.Logged))
		if err == nil {
			accepted++
			continue
		}
		if !errors.As(err, &be) || be.RetryAfter <= 0 {
			t.Fatalf("refusal: %v", err)
		}
		if e.Contains(id) && func() bool { _, err := e.Get(ctx, id); return err == nil }() {
			t.Error("a refused item is readable")
		}
	}
	if accepted < 850 || accepted > 1000 {
		t.Errorf("%d ops were accepted of a WAL of 1000", accepted)
	}
	for n := range accepted {
		wantContent(t, e, fmt.Sprint("id-", n), n)
	}
	db.Restart()
	eventually(t, "the drain makes room", func() bool {
		return e.Submit(ctx, syncengine.Item{ID: "after", Content: doc("after", 1)}) == nil
	})
	must(t, e.Flush(ctx))
}

// TestINV09OneBadRowBlocksNobody has L3 refuse one row of a batch, and one of a group.
func TestINV09OneBadRowBlocksNobody(t *testing.T) {
	ctx := context.Background()
	server := testserver.SharedMariaDB(t)
	dbURL := server.NewDatabase(t)
	open(t, syncengine.Config{SQLURL: dbURL}) // makes the table
	outside := testserver.OpenSQL(t, dbURL)
	if _, err := outside.Exec("ALTER TABLE sync_items ADD CONSTRAINT no_poison CHECK (content IS NULL OR content NOT LIKE '%poison%')"); err != nil {
		t.Fatal(err)
	}
	seen := make(chan syncengine.QuarantinedOp, 100)
	cfg := syncengine.Config{Dir: t.TempDir(), SQLURL: dbURL, OnEvent: syncengine.Events{Quarantined: func(op syncengine.QuarantinedOp) { seen <- op }}}
	e := open(t, cfg)
	for n := range 500 {
		put(t, e, fmt.Sprint("id-", n), n)
	}
	poison := []byte(`{"poison":true}`)
	must(t, e.Submit(ctx, syncengine.Item{ID: "bad", Content: poison}))
	if _, err := e.SubmitMany(ctx, []syncengine.Item{
		{ID: "group-1", Content: doc("group-1", 1)}, {ID: "group-2", Content: poison}, {ID: "group-3", Content: doc("group-3", 3)},
	}); err != nil {
		t.Fatal(err)
	}
	if err := e.Flush(ctx); !errors.Is(err, syncengine.ErrRefused) {
		t.Fatalf("Flush: %v, want ErrRefused", err)
	}
	rows := func() (n int) {
		must(t, outside.QueryRow("SELECT COUNT(*) FROM sync_items").Scan(&n))
		return n
	}
	if n := rows(); n != 500 {
		t.Errorf("L3 holds %d rows, want the 500 good ones", n)
	}
	ops, err := e.Quarantined(ctx)
	if err != nil || len(ops) != 4 || len(seen) != 4 {
		t.Fatalf("quarantine: %+v, %v; %d events", ops, err, len(seen))
	}
	for _, op := range ops {
		if op.Error == "" || op.Attempts != 1 || (op.ID == "bad") != (op.GroupIDs == nil) {
			t.Errorf("quarantined: %+v", op)
		}
	}
	// It was acknowledged, so it is readable (INV-2), also after a restart.
	must(t, e.Close())
	e = open(t, cfg)
	if it, err := e.Get(ctx, "bad"); err != nil || string(it.Content) != string(poison) {
		t.Errorf("Get of a quarantined put: %s, %v", it.Content, err)
	}
	if s, err := e.Status(ctx, "bad"); err != nil || !s.Quarantined || s.InL3 {
		t.Errorf("Status: %+v, %v", s, err)
	}
	// Without the constraint a retry succeeds; discarding forgets.
	if _, err := outside.Exec("ALTER TABLE sync_items DROP CONSTRAINT no_poison"); err != nil {
		t.Fatal(err)
	}
	if n, err := e.RetryQuarantined(ctx, "group-1"); err != nil || n != 3 {
		t.Fatalf("RetryQuarantined: %d, %v; want the group of 3", n, err)
	}
	if err := e.Flush(ctx); !errors.Is(err, syncengine.ErrRefused) { // for the one that is left
		t.Errorf("Flush: %v", err)
	}
	if n := rows(); n != 503 {
		t.Errorf("L3 holds %d rows after the retry, want 503", n)
	}
	if n, err := e.DiscardQuarantined(ctx); err != nil || n != 1 {
		t.Fatalf("DiscardQuarantined: %d, %v", n, err)
	}
	if _, err := e.Get(ctx, "bad"); !errors.Is(err, syncengine.ErrNotFound) {
		t.Errorf("Get of a discarded put: %v", err)
	}
	if ops, err := e.Quarantined(ctx); err != nil || len(ops) != 0 {
		t.Errorf("quarantine: %+v, %v", ops, err)
	}
}

// faultyArchive is an L3 that can be told to be away.
type faultyArchive struct {
	syncengine.ArchiveStore
	away atomic.Bool
}

func (f *faultyArchive) err() error {
	if f.away.Load() {
		return fmt.Errorf("told to be away: %w", syncengine.ErrUnavailable)
	}
	return nil
}

func (f *faultyArchive) Prepare(ctx context.Context) error {
	return errors.Join(f.err(), f.ArchiveStore.Prepare(ctx))
}

func (f *faultyArchive) Apply(ctx context.Context, recs []syncengine.Record) ([]syncengine.Meta, error) {
	if err := f.err(); err != nil {
		return nil, err
	}
	return f.ArchiveStore.Apply(ctx, recs)
}

func (f *faultyArchive) ApplyIf(ctx context.Context, nonce uint64, units [][]syncengine.Conditional) ([]syncengine.Verdict, error) {
	if err := f.err(); err != nil {
		return nil, err
	}
	return f.ArchiveStore.(syncengine.ConditionalStore).ApplyIf(ctx, nonce, units)
}

func (f *faultyArchive) Landed(ctx context.Context, nonce uint64) (bool, error) {
	if err := f.err(); err != nil {
		return false, err
	}
	return f.ArchiveStore.(syncengine.ConditionalStore).Landed(ctx, nonce)
}

// TestFlushWaitsForRecoveredOps: what an earlier engine left counts as accepted.
func TestFlushWaitsForRecoveredOps(t *testing.T) {
	ctx := context.Background()
	l3 := &faultyArchive{ArchiveStore: storetest.NewArchive()}
	dir := t.TempDir()
	over, cancel := context.WithCancel(ctx) // a Shutdown that does not try long
	cancel()
	for round := range 50 {
		l3.away.Store(false)
		e := open(t, syncengine.Config{Dir: dir, L3: l3, BatchFlushInterval: time.Hour})
		l3.away.Store(true)
		for n := range 3 {
			put(t, e, fmt.Sprint("id-", n), round)
		}
		if err := e.Shutdown(over); !errors.Is(err, syncengine.ErrPending) {
			t.Fatalf("Shutdown with L3 away: %v", err)
		}
		l3.away.Store(false)
		e = open(t, syncengine.Config{Dir: dir, L3: l3, BatchFlushInterval: time.Hour})
		must(t, e.Flush(ctx))
		if s := e.Stats(); s.PendingOps != 0 {
			t.Fatalf("round %d: after Flush %d ops are pending", round, s.PendingOps)
		}
		must(t, e.Close())
	}
}

// TestINV03ALoserIsNotServed: a stale write on a cold id can't be refused, but once L3 has
// refused it, it is gone from L1 and never reaches L2.
func TestINV03ALoserIsNotServedOnceL3RefusedIt(t *testing.T) {
	ctx := context.Background()
	cfg := syncengine.Config{Dir: t.TempDir(), RedisURL: testserver.Redis(t).URL()}
	e := open(t, cfg)
	must(t, e.Submit(ctx, syncengine.Item{ID: "a", Content: doc("a", 5)}, syncengine.WithVersion(5)))
	must(t, e.Delete(ctx, "b", syncengine.WithVersion(5)))
	must(t, e.Close())
	cfg.RedisURL = testserver.Redis(t).URL() // an empty cache: nothing there beats the old version
	e = open(t, cfg)
	must(t, e.Submit(ctx, syncengine.Item{ID: "a", Content: doc("a", 4)}, syncengine.WithVersion(4)))
	must(t, e.Submit(ctx, syncengine.Item{ID: "b", Content: doc("b", 4)}, syncengine.WithVersion(4)))
	must(t, e.Flush(ctx))
	for _, e := range []*syncengine.Engine{e, open(t, syncengine.Config{RedisURL: cfg.RedisURL, SQLURL: "sqlite:" + cfg.Dir + "/archive.db"})} {
		wantContent(t, e, "a", 5)
		wantContent(t, e, "b", -1)
	}
}

// TestINV04AnOldPutInAWALDoesNotUndoAnothersDelete: an engine comes back with a put that
// another engine has deleted meanwhile; Redis has forgotten the delete.
func TestINV04AnOldPutInAWALDoesNotUndoAnothersDelete(t *testing.T) {
	ctx := context.Background()
	l3 := &faultyArchive{ArchiveStore: storetest.NewArchive()}
	l2 := storetest.NewCache()
	dir := t.TempDir()
	a := open(t, syncengine.Config{Dir: dir, L3: l3, L2: l2})
	l3.away.Store(true)
	put(t, a, "x", 1)
	if err := a.Close(); !errors.Is(err, syncengine.ErrPending) {
		t.Fatal(err)
	}
	l3.away.Store(false)
	b := open(t, syncengine.Config{L3: l3, L2: l2})
	must(t, b.Delete(ctx, "x"))
	must(t, b.Flush(ctx))
	must(t, l2.Remove(ctx, []string{"x"}))
	a = open(t, syncengine.Config{Dir: dir, L3: l3, L2: l2})
	wantContent(t, a, "x", -1) // also before the drain
	must(t, a.Flush(ctx))
	wantContent(t, a, "x", -1)
	wantContent(t, open(t, syncengine.Config{L3: l3, L2: l2}), "x", -1)
}

// TestINV06EvictionNeverTakesAnOpThatIsNowhereElse fills memory with reads around Buffered ops
// that L3 does not take.
func TestINV06EvictionNeverTakesAnOpThatIsNowhereElse(t *testing.T) {
	ctx := context.Background()
	l3 := &faultyArchive{ArchiveStore: storetest.NewArchive()}
	filler := open(t, syncengine.Config{L3: l3})
	for n := range 1000 {
		put(t, filler, fmt.Sprint("old-", n), n, syncengine.WithDurability(syncengine.Buffered))
	}
	must(t, filler.Flush(ctx))
	e := open(t, syncengine.Config{L3: l3, L1MaxBytes: 64 << 10, BatchFlushInterval: time.Hour})
	for n := range 50 {
		put(t, e, fmt.Sprint("new-", n), n, syncengine.WithDurability(syncengine.Buffered))
	}
	if s := e.Stats(); s.WALItems != 0 || s.PendingOps != 50 {
		t.Fatalf("the ops are not in memory alone: %+v", s)
	}
	for round := range 3 {
		for n := range 1000 {
			wantContent(t, e, fmt.Sprint("old-", n), n)
		}
		if s := e.Stats(); s.Evictions == 0 || s.L1Bytes > 64<<10 {
			t.Fatalf("round %d: %d evictions, %d bytes", round, s.Evictions, s.L1Bytes)
		}
	}
	for n := range 50 {
		wantContent(t, e, fmt.Sprint("new-", n), n)
	}
}
