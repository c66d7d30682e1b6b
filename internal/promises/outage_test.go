package promises

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/faultproxy"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/storetest"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

// TestINV01And10OutageOfL3SpoolsDrainsAndLosesNothing kills the database in the middle of a
// load that is many times larger than memory, reads everything meanwhile, and compares L3
// with the model after it came back.
func TestINV01And10OutageOfL3SpoolsDrainsAndLosesNothing(t *testing.T) {
	const writers, perWriter, ids = 16, 1500, 400
	ctx := context.Background()
	db := testserver.MariaDB(t)
	down := make(chan struct{}, 8)
	e := lab.Open(t, syncengine.Config{
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
						lab.Must(t, e.Delete(ctx, id))
						model[w][id] = -1
					} else {
						lab.Put(t, e, id, n)
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
				lab.WantContent(t, e, id, n)
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
	lab.Eventually(t, "Flush succeeds", func() bool { return e.Flush(ctx) == nil })
	check(e)
	if s := e.Stats(); s.PendingOps != 0 || s.WALItems != 0 || s.SpooledOps != 0 {
		t.Errorf("after the drain: %+v", s)
	}
	check(lab.Open(t, syncengine.Config{SQLURL: db.URL(), L1MaxBytes: 1 << 20})) // from L3 alone
}

// TestINV12CloseDuringOutageKeepsAllForTheNextOpen also covers Buffered ops.
func TestINV12CloseDuringOutageKeepsAllForTheNextOpen(t *testing.T) {
	ctx := context.Background()
	db := testserver.MariaDB(t)
	cfg := syncengine.Config{Dir: t.TempDir(), SQLURL: db.URL(), L3Timeout: time.Second, CloseTimeout: 5 * time.Second}
	e := lab.Open(t, cfg)
	lab.Put(t, e, "first", 1)
	lab.Must(t, e.Flush(ctx))
	db.Kill()
	for n := range 100 {
		lab.Put(t, e, fmt.Sprint("buffered-", n), n, syncengine.WithDurability(syncengine.Buffered))
		lab.Put(t, e, fmt.Sprint("logged-", n), n)
	}
	lab.Must(t, e.Delete(ctx, "first", syncengine.WithDurability(syncengine.Buffered)))
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
			lab.WantContent(t, e, fmt.Sprint("buffered-", n), n)
			lab.WantContent(t, e, fmt.Sprint("logged-", n), n)
		}
		lab.WantContent(t, e, "first", -1)
	}
	e = lab.Open(t, cfg) // degraded: L3 is still away
	check(e)
	lab.Put(t, e, "late", 7)
	db.Restart()
	lab.Eventually(t, "Flush succeeds", func() bool { return e.Flush(ctx) == nil })
	check(e)
	check(lab.Open(t, syncengine.Config{SQLURL: db.URL()}))
}

// TestINV02And08StaleL2IsNeverRead cuts the wire to Redis, writes, restores the wire, and
// reads with cold memory.
func TestINV02And08StaleL2IsNeverRead(t *testing.T) {
	ctx := context.Background()
	redis := testserver.Redis(t)
	proxy := faultproxy.New(t, redis.Addr())
	cfg := syncengine.Config{Dir: t.TempDir(), RedisURL: lab.Via(t, redis.URL(), proxy), L1MaxBytes: 64 << 10}
	e := lab.Open(t, cfg)
	for n := range 500 {
		lab.Put(t, e, fmt.Sprint("id-", n), 1)
	}
	lab.Must(t, e.Flush(ctx))
	proxy.Cut()
	for n := range 500 {
		if n%5 == 0 {
			lab.Must(t, e.Delete(ctx, fmt.Sprint("id-", n)))
		} else {
			lab.Put(t, e, fmt.Sprint("id-", n), 2)
		}
	}
	lab.Must(t, e.Flush(ctx))
	check := func(e *syncengine.Engine) {
		t.Helper()
		for n := range 500 {
			if n%5 == 0 {
				lab.WantContent(t, e, fmt.Sprint("id-", n), -1)
			} else {
				lab.WantContent(t, e, fmt.Sprint("id-", n), 2)
			}
		}
	}
	check(e)
	if e.Stats().L2Missed == 0 {
		t.Error("L2 missed writes and nobody noticed")
	}
	// A restart must not forget it: Redis is back, with the old values.
	lab.Must(t, e.Close())
	proxy.Restore()
	e = lab.Open(t, cfg)
	check(e)
	lab.Eventually(t, "L2 is repaired", func() bool { return e.Stats().L2Missed == 0 })
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
	e := lab.Open(t, syncengine.Config{RedisURL: redis.URL(), L1MaxBytes: 64 << 10})
	for n := range 300 {
		lab.Put(t, e, fmt.Sprint("id-", n), n)
	}
	lab.Must(t, e.Flush(ctx))
	redis.Kill()
	for n := range 300 {
		lab.WantContent(t, e, fmt.Sprint("id-", n), n)
	}
	redis.Restart()
	lab.Eventually(t, "Redis answers", func() bool { return e.Health(ctx).L2.OK })
	report, err := e.Verify(ctx, syncengine.VerifyOptions{Repair: true})
	if err != nil || report.InSync || len(report.Divergent) != report.Repaired || report.Repaired == 0 {
		t.Fatalf("an empty Redis: %+v, %v", report, err)
	}
	report, err = e.Verify(ctx, syncengine.VerifyOptions{})
	if err != nil || !report.InSync {
		t.Fatalf("after the repair: in sync %v, %d differ, %v", report.InSync, len(report.Divergent), err)
	}
	if n := documentsIn(t, redis); n != "300" {
		t.Errorf("Redis holds %s documents, want 300", n)
	}
}

// TestHungRedisCostsAReadOneTimeout stops Redis: reads answer from L3, and soon skip L2.
func TestHungRedisCostsAReadOneTimeoutUntilTheBreakerOpens(t *testing.T) {
	ctx := context.Background()
	redis := testserver.Redis(t)
	e := lab.Open(t, syncengine.Config{RedisURL: redis.URL(), L1MaxBytes: 64 << 10, L2Timeout: 50 * time.Millisecond})
	for n := range 300 {
		lab.Put(t, e, fmt.Sprint("id-", n), n)
	}
	lab.Must(t, e.Flush(ctx))
	redis.Stop()
	for n := range 300 {
		lab.WantContent(t, e, fmt.Sprint("id-", n), n)
	}
	if c := e.Health(ctx).L2.Circuit; c != "open" {
		t.Errorf("the circuit is %s, want open", c)
	}
	redis.Resume()
	for n := range 300 {
		lab.WantContent(t, e, fmt.Sprint("id-", n), n)
	}
}

// TestFullWALRefusesAndRecovers lets the WAL reach its limit while L3 is away.
func TestFullWALRefusesBeforeAnythingChangesAndRecovers(t *testing.T) {
	ctx := context.Background()
	db := testserver.MariaDB(t)
	e := lab.Open(t, syncengine.Config{SQLURL: db.URL(), WALMaxItems: 1000, L3Timeout: time.Second})
	lab.Put(t, e, "first", 0)
	lab.Must(t, e.Flush(ctx))
	db.Kill()
	accepted := 0
	var be *syncengine.BackpressureError
	for n := 0; be == nil; n++ {
		id := fmt.Sprint("id-", n)
		err := e.Submit(ctx, syncengine.Item{ID: id, Content: lab.Doc(id, n)}, syncengine.WithDurability(syncengine.Logged))
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
		lab.WantContent(t, e, fmt.Sprint("id-", n), n)
	}
	db.Restart()
	lab.Eventually(t, "the drain makes room", func() bool {
		return e.Submit(ctx, syncengine.Item{ID: "after", Content: lab.Doc("after", 1)}) == nil
	})
	lab.Must(t, e.Flush(ctx))
}

// TestINV09OneBadRowBlocksNobody has L3 refuse one row of a batch, and one of a group.
func TestINV09OneBadRowBlocksNobody(t *testing.T) {
	ctx := context.Background()
	server := testserver.SharedMariaDB(t)
	dbURL := server.NewDatabase(t)
	lab.Open(t, syncengine.Config{SQLURL: dbURL}) // makes the table
	outside := testserver.OpenSQL(t, dbURL)
	if _, err := outside.Exec("ALTER TABLE sync_items ADD CONSTRAINT no_poison CHECK (content IS NULL OR content NOT LIKE '%poison%')"); err != nil {
		t.Fatal(err)
	}
	seen := make(chan syncengine.QuarantinedOp, 100)
	var said listener
	cfg := syncengine.Config{Dir: t.TempDir(), SQLURL: dbURL, OnEvent: syncengine.Events{Quarantined: func(op syncengine.QuarantinedOp) { seen <- op }},
		Logger: slog.New(slog.NewTextHandler(&said, nil))}
	e := lab.Open(t, cfg)
	for n := range 500 {
		lab.Put(t, e, fmt.Sprint("id-", n), n)
	}
	poison := []byte(`{"poison":true}`)
	lab.Must(t, e.Submit(ctx, syncengine.Item{ID: "bad", Content: poison}))
	if _, err := e.SubmitMany(ctx, []syncengine.Item{
		{ID: "group-1", Content: lab.Doc("group-1", 1)}, {ID: "group-2", Content: poison}, {ID: "group-3", Content: lab.Doc("group-3", 3)},
	}); err != nil {
		t.Fatal(err)
	}
	if err := e.Flush(ctx); !errors.Is(err, syncengine.ErrRefused) {
		t.Fatalf("Flush: %v, want ErrRefused", err)
	}
	number := "sql_error=4025"
	if testserver.IsMySQL() {
		number = "sql_error=3819"
	}
	if line := said.line("now in quarantine"); !strings.Contains(line, number) {
		t.Errorf("the log says %s", line)
	}
	rows := func() (n int) {
		lab.Must(t, outside.QueryRow("SELECT COUNT(*) FROM sync_items").Scan(&n))
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
	lab.Must(t, e.Close())
	e = lab.Open(t, cfg)
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

// TestFlushWaitsForRecoveredOps: what an earlier engine left counts as accepted.
func TestFlushWaitsForRecoveredOps(t *testing.T) {
	ctx := context.Background()
	l3 := &lab.FaultyArchive{ArchiveStore: storetest.NewArchive()}
	dir := t.TempDir()
	over, cancel := context.WithCancel(ctx) // a Shutdown that does not try long
	cancel()
	for round := range 50 {
		l3.Away.Store(false)
		e := lab.Open(t, syncengine.Config{Dir: dir, L3: l3, BatchFlushInterval: time.Hour})
		l3.Away.Store(true)
		for n := range 3 {
			lab.Put(t, e, fmt.Sprint("id-", n), round)
		}
		if err := e.Shutdown(over); !errors.Is(err, syncengine.ErrPending) {
			t.Fatalf("Shutdown with L3 away: %v", err)
		}
		l3.Away.Store(false)
		e = lab.Open(t, syncengine.Config{Dir: dir, L3: l3, BatchFlushInterval: time.Hour})
		lab.Must(t, e.Flush(ctx))
		if s := e.Stats(); s.PendingOps != 0 {
			t.Fatalf("round %d: after Flush %d ops are pending", round, s.PendingOps)
		}
		lab.Must(t, e.Close())
	}
}

// TestINV03ALoserIsNotServed: a stale write on a cold id can't be refused, but once L3 has
// refused it, it is gone from L1 and never reaches L2.
func TestINV03ALoserIsNotServedOnceL3RefusedIt(t *testing.T) {
	ctx := context.Background()
	cfg := syncengine.Config{Dir: t.TempDir(), RedisURL: testserver.Redis(t).URL()}
	e := lab.Open(t, cfg)
	lab.Must(t, e.Submit(ctx, syncengine.Item{ID: "a", Content: lab.Doc("a", 5)}, syncengine.WithVersion(5)))
	lab.Must(t, e.Delete(ctx, "b", syncengine.WithVersion(5)))
	lab.Must(t, e.Close())
	cfg.RedisURL = testserver.Redis(t).URL() // an empty cache: nothing there beats the old version
	e = lab.Open(t, cfg)
	lab.Must(t, e.Submit(ctx, syncengine.Item{ID: "a", Content: lab.Doc("a", 4)}, syncengine.WithVersion(4)))
	lab.Must(t, e.Submit(ctx, syncengine.Item{ID: "b", Content: lab.Doc("b", 4)}, syncengine.WithVersion(4)))
	lab.Must(t, e.Flush(ctx))
	for _, e := range []*syncengine.Engine{e, lab.Open(t, syncengine.Config{RedisURL: cfg.RedisURL, SQLURL: "sqlite:" + cfg.Dir + "/archive.db"})} {
		lab.WantContent(t, e, "a", 5)
		lab.WantContent(t, e, "b", -1)
	}
}

// TestINV04AnOldPutInAWALDoesNotUndoAnothersDelete: an engine comes back with a put that
// another engine has deleted meanwhile; Redis has forgotten the delete.
func TestINV04AnOldPutInAWALDoesNotUndoAnothersDelete(t *testing.T) {
	ctx := context.Background()
	l3 := &lab.FaultyArchive{ArchiveStore: storetest.NewArchive()}
	l2 := storetest.NewCache()
	dir := t.TempDir()
	a := lab.Open(t, syncengine.Config{Dir: dir, L3: l3, L2: l2})
	l3.Away.Store(true)
	lab.Put(t, a, "x", 1)
	if err := a.Close(); !errors.Is(err, syncengine.ErrPending) {
		t.Fatal(err)
	}
	l3.Away.Store(false)
	b := lab.Open(t, syncengine.Config{L3: l3, L2: l2})
	lab.Must(t, b.Delete(ctx, "x"))
	lab.Must(t, b.Flush(ctx))
	lab.Must(t, l2.Remove(ctx, []string{"x"}))
	a = lab.Open(t, syncengine.Config{Dir: dir, L3: l3, L2: l2})
	lab.WantContent(t, a, "x", -1) // also before the drain
	lab.Must(t, a.Flush(ctx))
	lab.WantContent(t, a, "x", -1)
	lab.WantContent(t, lab.Open(t, syncengine.Config{L3: l3, L2: l2}), "x", -1)
}

// TestINV06EvictionNeverTakesAnOpThatIsNowhereElse fills memory with reads around Buffered ops
// that L3 does not take.
func TestINV06EvictionNeverTakesAnOpThatIsNowhereElse(t *testing.T) {
	ctx := context.Background()
	l3 := &lab.FaultyArchive{ArchiveStore: storetest.NewArchive()}
	filler := lab.Open(t, syncengine.Config{L3: l3})
	for n := range 1000 {
		lab.Put(t, filler, fmt.Sprint("old-", n), n, syncengine.WithDurability(syncengine.Buffered))
	}
	lab.Must(t, filler.Flush(ctx))
	e := lab.Open(t, syncengine.Config{L3: l3, L1MaxBytes: 64 << 10, BatchFlushInterval: time.Hour})
	for n := range 50 {
		lab.Put(t, e, fmt.Sprint("new-", n), n, syncengine.WithDurability(syncengine.Buffered))
	}
	if s := e.Stats(); s.WALItems != 0 || s.PendingOps != 50 {
		t.Fatalf("the ops are not in memory alone: %+v", s)
	}
	for round := range 3 {
		for n := range 1000 {
			lab.WantContent(t, e, fmt.Sprint("old-", n), n)
		}
		if s := e.Stats(); s.Evictions == 0 || s.L1Bytes > 64<<10 {
			t.Fatalf("round %d: %d evictions, %d bytes", round, s.Evictions, s.L1Bytes)
		}
	}
	for n := range 50 {
		lab.WantContent(t, e, fmt.Sprint("new-", n), n)
	}
}

// TestWhereHealthSaysThatL3IsWellReadsAreServed, also the first time that it is there.
func TestWhereHealthSaysThatL3IsWellReadsAreServed(t *testing.T) {
	t.Parallel() // Open waits for a while
	ctx := context.Background()
	l3 := lab.NewChoosy(t)
	l3.Away.Store(true)
	e := lab.Open(t, syncengine.Config{L3: l3})
	l3.Away.Store(false)
	lab.Eventually(t, "it is well", func() bool {
		h := e.Health(ctx)
		return h.L3.OK && h.L3.Circuit == "closed"
	})
	if _, err := e.Get(ctx, "x"); !errors.Is(err, syncengine.ErrNotFound) {
		t.Errorf("Get: %v", err)
	}
}

// What a read has found is later than what memory had, also when writes of other ids kept it from
// memory: in an outage that older copy came back, as did what was deleted since.
func TestINV15WhatWasReadIsNotForgottenInAnOutage(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	tombstone := syncengine.Record{Item: syncengine.Item{ID: "x", Version: 2, UpdatedAt: time.Now()}, Deleted: true}
	for name, later := range map[string]syncengine.Record{"a put": storetest.Put("x", 2, `2`), "a delete": tombstone} {
		t.Run(name, func(t *testing.T) {
			var hook atomic.Pointer[func() error]
			l3 := &lab.HookedArchive{ArchiveStore: storetest.NewArchive(), OnGet: func() error {
				if f := hook.Load(); f != nil {
					return (*f)()
				}
				return nil
			}}
			lab.NoError(t, "apply", lab.Applied(l3.Apply(ctx, []syncengine.Record{storetest.Put("x", 1, `1`)})))
			e := lab.Open(t, syncengine.Config{L3: l3, L1MaxAge: 100 * time.Millisecond, BatchFlushInterval: time.Hour, BatchFlushCount: 100_000})
			_, err := e.Get(ctx, "x")
			lab.Must(t, err)
			lab.NoError(t, "apply", lab.Applied(l3.Apply(ctx, []syncengine.Record{later})))
			busy := func() error { // some of these share what counts writes with x
				for i := range 10_000 {
					lab.Must(t, e.Submit(ctx, syncengine.Item{ID: fmt.Sprint("other-", i), Content: []byte(`1`)}, syncengine.WithDurability(syncengine.Buffered)))
				}
				return nil
			}
			hook.Store(&busy)
			lab.Eventually(t, "the later one is read", func() bool {
				it, err := e.Get(ctx, "x")
				return err == nil && string(it.Content) == `2` || errors.Is(err, syncengine.ErrNotFound)
			})
			away := func() error { return lab.ErrAway }
			hook.Store(&away)
			it, err := e.Get(ctx, "x")
			if err == nil && (later.Deleted || string(it.Content) != `2`) || err != nil && !errors.Is(err, syncengine.ErrUnavailable) && !errors.Is(err, syncengine.ErrNotFound) {
				t.Errorf("in an outage, after the later one was read: %s stale=%v %v", it.Content, it.Stale, err)
			}
		})
	}
}
