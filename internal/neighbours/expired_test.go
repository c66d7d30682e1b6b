package neighbours

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/faultproxy"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

// eachL3 calls run with a private L3 and with shared ones.
func eachL3(t *testing.T, run func(t *testing.T, cfg syncengine.Config)) {
	t.Run("private", func(t *testing.T) { run(t, syncengine.Config{}) })
	eachShared(t, func(t *testing.T, url string) { run(t, syncengine.Config{SQLURL: url}) })
}

// TestINV15AVersionHasOneExpiry: whoever repeats a version with another time to live is refused,
// or, when nobody here knew better, outranked by what L3 holds.
func TestINV15AVersionHasOneExpiry(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	eachL3(t, func(t *testing.T, cfg syncengine.Config) {
		var told atomic.Int32
		cfg.OnEvent = syncengine.Events{Superseded: func(syncengine.SupersededOp) { told.Add(1) }}
		a := lab.Open(t, cfg)
		b := a
		if cfg.SQLURL != "" {
			b = lab.Open(t, cfg)
		}
		v := syncengine.WithVersion(syncengine.VersionAt(time.Now()))
		put := func(e *syncengine.Engine, ttl time.Duration, opts ...syncengine.WriteOption) error {
			return e.Submit(ctx, syncengine.Item{ID: "x", Content: []byte("1")}, append(opts, v, syncengine.WithTTL(ttl))...)
		}
		lab.Must(t, put(a, 2*time.Second, archived))
		it, err := a.Get(ctx, "x")
		lab.Must(t, err)
		for _, opts := range [][]syncengine.WriteOption{nil, {archived}} {
			if err := put(a, time.Hour, opts...); !errors.Is(err, syncengine.ErrStaleVersion) {
				t.Errorf("repeated: %v", err)
			}
		}
		b.Invalidate("x")
		lab.Must(t, put(b, time.Hour)) // it can't know
		lab.Must(t, b.Flush(ctx))
		lab.Eventually(t, "that is told", func() bool { return b.Stats().Superseded == 1 && told.Load() == 1 })
		for name, e := range map[string]*syncengine.Engine{"a": a, "b": b} {
			if got, err := e.Get(ctx, "x"); err != nil || !got.ExpiresAt.Equal(it.ExpiresAt) {
				t.Errorf("%s: %v, %v, and a was told %v", name, got.ExpiresAt, err, it.ExpiresAt)
			}
		}
		time.Sleep(time.Until(it.ExpiresAt) + 10*time.Millisecond)
		for name, read := range reads {
			if got, other := read(a, "x"), read(b, "x"); got != "absent" || other != "absent" {
				t.Errorf("%s after its time: %s and %s", name, got, other)
			}
		}
	})
}

// TestINV01WhatIsSupersededIsToldWhereNobodyElseWrites: by a number of the caller's.
func TestINV01WhatIsSupersededIsToldWhereNobodyElseWrites(t *testing.T) {
	t.Parallel()
	eachL3(t, func(t *testing.T, cfg syncengine.Config) {
		var told atomic.Int64
		cfg.OnEvent = syncengine.Events{Superseded: func(syncengine.SupersededOp) { told.Add(1) }}
		e := lab.Open(t, cfg)
		submit(t, e, "x", "1", archived)
		it, err := e.Get(context.Background(), "x")
		lab.Must(t, err)
		submit(t, e, "x", "2", archived)
		e.Invalidate("x") // or it was evicted
		submit(t, e, "x", "3", syncengine.WithVersion(it.Version))
		lab.Must(t, e.Flush(context.Background()))
		lab.Eventually(t, "that is told", func() bool { return e.Stats().Superseded == 1 && told.Load() == 1 })
		if got := reads["Get"](e, "x"); got != "2" {
			t.Error(got)
		}
	})
}

// A watch that comes late, when the purge has been, tells of an expiry, and of a delete as one.
func TestAWatchTellsExpiriesFromDeletes(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	eachL3(t, func(t *testing.T, cfg syncengine.Config) {
		e := lab.Open(t, cfg)
		token, err := e.WatchToken(ctx)
		lab.Must(t, err)
		submit(t, e, "expires", "1", archived)
		submit(t, e, "expires", "2", archived, syncengine.WithTTL(50*time.Millisecond))
		submit(t, e, "deleted", "1", archived)
		for n := range 20 { // more than a watch reads of the log at once
			submit(t, e, fmt.Sprint("other", n), "1", archived)
		}
		lab.Must(t, e.Delete(ctx, "deleted", archived))
		lab.Eventually(t, "it is purged", func() bool { return e.Stats().Expired == 1 })
		submit(t, e, "last", "1", archived)
		kinds := map[string]map[syncengine.ChangeKind]int{}
		for c, err := range e.WatchFrom(ctx, "", token) {
			lab.Must(t, err)
			if kinds[c.ID] == nil {
				kinds[c.ID] = map[syncengine.ChangeKind]int{}
			}
			if kinds[c.ID][c.Kind]++; c.ID == "last" {
				break
			}
		}
		if k := kinds["expires"]; k[syncengine.ChangeDelete] > 0 || k[syncengine.ChangeExpire] == 0 {
			t.Errorf("of what has expired it tells %v", k)
		}
		if k := kinds["deleted"]; k[syncengine.ChangeDelete] == 0 || k[syncengine.ChangeExpire] > 0 {
			t.Errorf("of what was deleted it tells %v", k)
		}
	})
}

// TestINV08ACopyThatHasExpiredIsNoWordOfAbsence: another engine may have given the item more time.
func TestINV08ACopyThatHasExpiredIsNoWordOfAbsence(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	db := testserver.SharedMariaDB(t)
	url, p := db.NewDatabase(t), faultproxy.New(t, db.Addr())
	a := lab.Open(t, syncengine.Config{SQLURL: lab.Via(t, url, p), L3Timeout: time.Second, CloseTimeout: time.Second})
	b := lab.Open(t, syncengine.Config{SQLURL: url})
	submit(t, b, "warm", "1", archived) // they know of each other
	submit(t, b, "s", "1", archived, syncengine.WithTTL(3*time.Second))
	lab.Eventually(t, "a has it", func() bool { return reads["Get"](a, "s") == "1" })
	it, err := a.Get(ctx, "s")
	lab.Must(t, err)
	p.Cut()
	defer p.Restore()
	lab.Must(t, b.Touch(ctx, "s", time.Hour))
	time.Sleep(time.Until(it.ExpiresAt) + 10*time.Millisecond)
	for name, read := range reads {
		if got := read(a, "s"); got == "absent" || got == "1" {
			t.Errorf("%s: %s", name, got)
		}
	}
	if !a.Contains("s") {
		t.Error("Contains denies it")
	}
	_, err = a.GetOrInsertWith(ctx, "s", func(context.Context) (syncengine.Item, error) {
		t.Error("a factory is called")
		return syncengine.Item{Content: []byte("2")}, nil
	})
	if !errors.Is(err, syncengine.ErrUnavailable) {
		t.Error(err)
	}
}

// cutOff opens two engines that know of each other, and cuts the first one off from SQL.
func cutOff(t *testing.T) (cfg syncengine.Config, e, other *syncengine.Engine, p *faultproxy.Proxy) {
	db := testserver.SharedMariaDB(t)
	url := db.NewDatabase(t)
	p = faultproxy.New(t, db.Addr())
	cfg = syncengine.Config{Dir: t.TempDir(), SQLURL: lab.Via(t, url, p), L3Timeout: time.Second, CloseTimeout: time.Second}
	e = lab.Open(t, cfg)
	other = lab.Open(t, syncengine.Config{SQLURL: url})
	lab.Eventually(t, "it knows of the other one", func() bool { return len(e.Health(context.Background()).Fleet.Others) == 1 })
	p.Cut()
	return cfg, e, other, p
}

// TestINV15AnOwnOpThatWaitsInAnOutageIsStale, since others may have written since.
func TestINV15AnOwnOpThatWaitsInAnOutageIsStale(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	cfg, e, other, p := cutOff(t)
	defer p.Restore()
	submit(t, e, "x", "1")
	time.Sleep(100 * time.Millisecond) // engines agree on the time to a few milliseconds
	submit(t, other, "x", "2", archived)
	stale := func(e *syncengine.Engine) bool {
		one, err := e.Get(ctx, "x")
		lab.Must(t, err)
		sound, err := e.GetVerified(ctx, "x")
		lab.Must(t, err)
		many, err := e.GetMany(ctx, []string{"x"})
		lab.Must(t, err)
		return one.Stale && sound.Stale && many[0].Stale
	}
	lab.Eventually(t, "it is shown as stale", func() bool { return stale(e) })
	if err := e.Close(); !errors.Is(err, syncengine.ErrPending) {
		t.Error(err)
	}
	e = lab.Open(t, cfg)
	lab.Eventually(t, "it is after a restart", func() bool { return stale(e) })
	p.Restore()
	lab.Must(t, e.Flush(lab.Bounded(t)))
	if it, err := e.Get(ctx, "x"); err != nil || it.Stale || string(it.Content) != "2" {
		t.Errorf("after the outage: %s, %v, %v", it.Content, it.Stale, err)
	}
}

// TestINV10AWatchTakesBoundedMemory while its loop stands still at an item.
func TestINV10AWatchTakesBoundedMemory(t *testing.T) {
	ctx := context.Background()
	eachL3(t, func(t *testing.T, cfg syncengine.Config) {
		cfg.L1MaxBytes = 64 << 20
		e := lab.OpenAsIs(t, cfg)
		token, err := e.WatchToken(ctx)
		lab.Must(t, err)
		const items, kib = 8, 4 << 10
		for n := range items {
			id := fmt.Sprint(10 + n)
			lab.Must(t, e.Submit(ctx, syncengine.Item{ID: id, Content: lab.BigDoc(kib)}, archived))
			e.Invalidate(id)
		}
		n, before := 0, lab.HeapInUse()
		for c, err := range e.WatchFrom(ctx, "", token) {
			lab.Must(t, err)
			if held := lab.HeapInUse() - before; held > 5*kib<<10 {
				t.Fatalf("it holds %d MiB at item %d of 4 MiB", held>>20, n)
			}
			if len(c.Item.Content) != kib<<10 {
				t.Errorf("%s: %d bytes", c.ID, len(c.Item.Content))
			}
			if n++; n == items {
				break
			}
		}
	})
}

// What has expired does not come back when the host's clock is set back.
func TestWhatHasExpiredStaysSoWhateverTheHostsClockDoes(t *testing.T) {
	defer jumps.Store(0)
	eachL3(t, func(t *testing.T, cfg syncengine.Config) {
		jumps.Store(0)
		cfg.InstanceID = "jumping"
		e := lab.Open(t, cfg)
		submit(t, e, "x", "1", archived, syncengine.WithTTL(50*time.Millisecond))
		time.Sleep(60 * time.Millisecond) // its time has come, and is to be gone back behind
		jumps.Store(int64(-time.Hour))
		for name, read := range reads {
			if got := read(e, "x"); got != "absent" {
				t.Errorf("%s: %s", name, got)
			}
		}
		lab.Eventually(t, "it is purged", func() bool { return e.Stats().Expired == 1 })
		submit(t, e, "y", "1", archived, syncengine.WithTTL(50*time.Millisecond))
		lab.Eventually(t, "what is written then expires", func() bool { return reads["Get"](e, "y") == "absent" })
	})
}

// TestINV08AnOwnOpThatHasExpiredIsNoWordOfAbsence, while it waits in an outage and another engine
// has written the id since.
func TestINV08AnOwnOpThatHasExpiredIsNoWordOfAbsence(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	_, e, other, p := cutOff(t)
	defer p.Restore()
	submit(t, e, "x", "1", syncengine.WithTTL(time.Second))
	submit(t, other, "x", "2", archived)
	lab.Eventually(t, "the outage is noticed", func() bool { return !e.Health(ctx).L3.OK })
	time.Sleep(time.Second) // its time has come
	if got := reads["Get"](e, "x"); got == "absent" || got == "1" {
		t.Errorf("Get: %s", got)
	}
	_, err := e.GetOrInsertWith(ctx, "x", func(context.Context) (syncengine.Item, error) {
		t.Error("a factory is called")
		return syncengine.Item{Content: []byte("3")}, nil
	})
	if !errors.Is(err, syncengine.ErrUnavailable) {
		t.Error(err)
	}
}

// TestExpiryGoesByL3sTimeAsSoonAsL3IsRead, by an engine that was opened in an outage, on a host
// whose clock is behind.
func TestExpiryGoesByL3sTimeAsSoonAsL3IsRead(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	db := testserver.SharedMariaDB(t)
	url := db.NewDatabase(t)
	raw := testserver.OpenSQL(t, url)
	for range 3 {
		e := lab.Open(t, syncengine.Config{SQLURL: url})
		submit(t, e, "x", "1", archived, syncengine.WithTTL(time.Hour))
		lab.Must(t, e.Close())
		if _, err := raw.Exec("UPDATE sync_items SET expires_at = expires_at - ? WHERE id = 'x'", time.Hour.Milliseconds()); err != nil {
			t.Fatal(err)
		}
		p := faultproxy.New(t, db.Addr())
		p.Cut()
		e = lab.OpenAsIs(t, syncengine.Config{SQLURL: lab.Via(t, url, p), InstanceID: "behind", L3Timeout: time.Second})
		p.Restore()
		var err error
		lab.Eventually(t, "SQL is read", func() bool {
			_, err = e.Get(ctx, "x")
			return !errors.Is(err, syncengine.ErrUnavailable)
		})
		if !errors.Is(err, syncengine.ErrNotFound) {
			t.Errorf("what has expired: %v", err)
		}
		lab.Must(t, e.Close())
	}
}

// TestWhatIsDecidedGoesByTheTimeOfTheDecision: it waits for a lock until the item has expired, and
// others were told that it is gone.
func TestWhatIsDecidedGoesByTheTimeOfTheDecision(t *testing.T) {
	t.Parallel()
	ctx := lab.Bounded(t)
	url := testserver.SharedMariaDB(t).NewDatabase(t)
	a, b := lab.Open(t, syncengine.Config{SQLURL: url, L3Timeout: 20 * time.Second}), lab.Open(t, syncengine.Config{SQLURL: url})
	submit(t, a, "x", "1", archived, syncengine.WithTTL(700*time.Millisecond))
	it, err := a.Get(ctx, "x")
	lab.Must(t, err)
	tx, err := testserver.OpenSQL(t, url).Begin()
	lab.Must(t, err)
	var v int64
	lab.Must(t, tx.QueryRow("SELECT version FROM sync_items WHERE id = 'x' FOR UPDATE").Scan(&v))
	said := make(chan error, 1)
	go func() { said <- a.Touch(ctx, "x", time.Hour) }()
	time.Sleep(time.Until(it.ExpiresAt) + 100*time.Millisecond) // it stands before the lock, and its time has come
	if got := reads["Get"](b, "x"); got != "absent" {
		t.Errorf("after its time x is %s", got)
	}
	lab.Must(t, tx.Rollback())
	if err := <-said; !errors.Is(err, syncengine.ErrNotFound) {
		t.Errorf("Touch of what was gone: %v", err)
	}
	if got := reads["Get"](b, "x"); got != "absent" {
		t.Errorf("it came back, as %s", got)
	}
}
