package neighbours

// expiry_test.go has items that expire, on engines whose hosts' clocks are wrong by an hour.

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
	"github.com/syncengine-go/syncengine/internal/storetest"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

// eachFleet calls run with two engines: one is an hour ahead, the other an hour behind. On the
// private file they are one.
func eachFleet(t *testing.T, cfg syncengine.Config, run func(t *testing.T, a, b *syncengine.Engine, cfg syncengine.Config)) {
	open := func(t *testing.T, name string, cfg syncengine.Config) *syncengine.Engine {
		cfg.InstanceID = name
		e := lab.Open(t, cfg)
		lab.Eventually(t, "Redis was compared", func() bool { return e.Stats().L2Missed == 0 })
		return e
	}
	t.Run("private", func(t *testing.T) {
		t.Parallel()
		e := open(t, "right", cfg)
		run(t, e, e, cfg)
	})
	t.Run("SQLite", func(t *testing.T) {
		t.Parallel()
		cfg := cfg
		cfg.SQLURL = "sqlite:" + t.TempDir() + "/shared.db"
		run(t, open(t, "ahead", cfg), open(t, "behind", cfg), cfg)
	})
	t.Run("MariaDB and Redis", func(t *testing.T) {
		t.Parallel()
		cfg := cfg
		cfg.SQLURL, cfg.RedisURL, cfg.KeyPrefix = testserver.SharedMariaDB(t).NewDatabase(t), testserver.SharedRedis(t).URL(), lab.NewPrefix()
		run(t, open(t, "ahead", cfg), open(t, "behind", cfg), cfg)
	})
}

func ttl(d time.Duration) syncengine.WriteOption { return syncengine.WithTTL(d) }

// untilAbsent waits until a Get says so, and fails if that is before the time or later than it has
// to be.
func untilAbsent(t testing.TB, e *syncengine.Engine, id string, at time.Time) {
	t.Helper()
	lab.Eventually(t, "it expires", func() bool {
		before := time.Now()
		_, err := e.Get(context.Background(), id)
		switch {
		case errors.Is(err, syncengine.ErrNotFound):
			if time.Now().Before(at.Add(-100 * time.Millisecond)) {
				t.Fatalf("%s has expired %v too early", id, time.Until(at))
			}
			return true
		case err != nil:
			t.Fatal(err)
		case before.After(at.Add(500 * time.Millisecond)):
			t.Fatalf("%s is there %v after its time", id, time.Since(at))
		}
		return false
	})
}

// TestAnItemExpiresForEveryCallAtOneMoment, whoever wrote it and whatever the hosts' clocks say.
func TestAnItemExpiresForEveryCallAtOneMoment(t *testing.T) {
	ctx := context.Background()
	eachFleet(t, syncengine.Config{}, func(t *testing.T, a, b *syncengine.Engine, _ syncengine.Config) {
		ids := map[string]uint64{"Insert": 0, "Update": 0, "GetOrInsertWith": 0, "WithIfVersion": 0, "Submit": 0}
		submit(t, a, "warm", "1", archived) // a has joined
		for id := range ids {
			submit(t, a, "x/"+id, `"first"`, archived, ttl(time.Second))
		}
		it, err := b.Get(ctx, "x/Insert")
		lab.Must(t, err)
		if d := time.Until(it.ExpiresAt); d > time.Second+50*time.Millisecond || d < -5*time.Second {
			t.Fatalf("it expires in %v", d)
		}
		var last time.Time
		for id := range ids {
			it, err := a.Get(ctx, "x/"+id)
			lab.Must(t, err)
			if ids[id] = it.Version; it.ExpiresAt.After(last) {
				last = it.ExpiresAt
			}
		}
		for _, e := range []*syncengine.Engine{a, b} {
			untilAbsent(t, e, "x/Insert", it.ExpiresAt)
		}
		lab.Eventually(t, "all have expired", func() bool { return time.Now().After(last.Add(100 * time.Millisecond)) })
		for _, e := range []*syncengine.Engine{a, b} {
			for call, get := range reads {
				if got := get(e, "x/Submit"); got != "absent" {
					t.Errorf("%s: %s", call, got)
				}
			}
			for it, err := range e.All(ctx, "x/") {
				t.Errorf("All: %s, %v", it.ID, err)
			}
			if st, err := e.Status(ctx, "x/Submit"); err != nil || st.State != syncengine.StatusMissing || st.InL1 || st.InL2 || st.InL3 {
				t.Errorf("Status: %+v, %v", st, err)
			}
			if x, err := e.Explain(ctx, "x/Submit"); err != nil || x.Outcome != syncengine.OutcomeNotFound {
				t.Errorf("Explain: %v, %v", x, err)
			}
			if n, err := e.DeletePrefix(ctx, "x/S"); n != 0 || err != nil {
				t.Errorf("DeletePrefix: %d, %v", n, err)
			}
			// Contains knows it by the copy in memory, which is purged at any time: true is not
			// definite.
			if e.Contains("x/Submit") {
				x, err := e.Explain(ctx, "x/Submit")
				if lab.Must(t, err); x.L1Fresh {
					t.Errorf("Contains, with a copy in memory that has expired: %+v", x)
				}
			}
		}
		// It counts as absent in conditions.
		var ce *syncengine.ConflictError
		err = b.Submit(ctx, syncengine.Item{ID: "x/WithIfVersion", Content: []byte(`2`)}, syncengine.WithIfVersion(ids["WithIfVersion"]))
		if !errors.As(err, &ce) || ce.Have != 0 {
			t.Errorf("at the version that has expired: %v", err)
		}
		lab.Must(t, b.Submit(ctx, syncengine.Item{ID: "x/WithIfVersion", Content: []byte(`2`)}, syncengine.WithIfVersion(0)))
		lab.Must(t, b.Insert(ctx, syncengine.Item{ID: "x/Insert", Content: []byte(`2`)}))
		_, err = b.Update(ctx, "x/Update", func(cur syncengine.Item, exists bool) (syncengine.Item, error) {
			if exists {
				t.Errorf("Update is given %v", cur)
			}
			cur.Content = []byte(`2`)
			return cur, nil
		})
		lab.Must(t, err)
		_, err = b.GetOrInsertWith(ctx, "x/GetOrInsertWith", func(context.Context) (syncengine.Item, error) {
			return syncengine.Item{Content: []byte(`2`)}, nil
		})
		lab.Must(t, err)
		if err := b.Touch(ctx, "x/Submit", time.Hour); !errors.Is(err, syncengine.ErrNotFound) {
			t.Errorf("Touch of what has expired: %v", err)
		}
		submit(t, b, "x/Submit", `2`, archived)
		for id, was := range ids {
			a.Invalidate("x/" + id)
			it, err := a.Get(ctx, "x/"+id)
			if err != nil || string(it.Content) != "2" || !it.ExpiresAt.IsZero() || it.Version <= was {
				t.Errorf("written over %s: %v, %v", id, it, err)
			}
		}
	})
}

// TestManyExpireAtOnceAndTheTiersAgreeAllTheTime: Verify sees no difference before, while and after
// they are purged, repairs nothing, and nothing is left in memory and Redis. L3 has tombstones.
func TestManyExpireAtOnceAndTheTiersAgreeAllTheTime(t *testing.T) {
	const items = 2500 // more than two batches
	ctx := context.Background()
	eachFleet(t, syncengine.Config{}, func(t *testing.T, a, b *syncengine.Engine, cfg syncengine.Config) {
		var group []syncengine.Item
		for n := range items {
			group = append(group, syncengine.Item{ID: fmt.Sprint("id-", n), Content: lab.Doc("x", n)})
		}
		_, err := a.SubmitMany(ctx, group, ttl(time.Second), archived)
		lab.Must(t, err)
		submit(t, a, "stays", "1", archived)
		_, err = b.GetMany(ctx, []string{"id-1", "id-2", "stays"})
		lab.Must(t, err)
		verify := func() {
			for _, e := range []*syncengine.Engine{a, b} {
				r, err := e.Verify(ctx, syncengine.VerifyOptions{Repair: true, Deep: true})
				if err != nil || !r.InSync || r.Repaired > 0 {
					t.Errorf("Verify: %+v, %v", r, err)
				}
			}
		}
		lab.Eventually(t, "they have expired, and the tiers agree", func() bool {
			verify()
			_, err := b.Get(ctx, fmt.Sprint("id-", items-1))
			return errors.Is(err, syncengine.ErrNotFound)
		})
		verify()
		lab.Eventually(t, "memory is free", func() bool { return a.Len() == 1 && b.Len() <= 1 })
		if cfg.RedisURL != "" {
			client := lab.RedisAt(t, cfg.RedisURL)
			keys, err := client.Keys(ctx, cfg.KeyPrefix+"id-*").Result()
			lab.Must(t, err)
			for _, key := range keys {
				v, err := client.Get(ctx, key).Result()
				if left := client.PTTL(ctx, key).Val(); err == nil && (!strings.Contains(v, `"deleted":true`) || left > time.Minute) {
					t.Fatalf("Redis holds %s for %v", v, left)
				}
			}
		}
		if cfg.SQLURL != "" {
			l3 := lab.ArchiveAt(t, cfg.SQLURL)
			lab.WantDigest(t, l3)
			live := 0
			for _, m := range lab.RowsOf(t, l3) {
				if !m.Deleted {
					live++
				}
			}
			if live != 1 {
				t.Errorf("%d live rows in L3", live)
			}
		}
	})
}

// TestINV04ALateCopyOfWhatHasExpiredStaysDead: the put, and an older version, come again to every
// tier after the purge.
func TestINV04ALateCopyOfWhatHasExpiredStaysDead(t *testing.T) {
	ctx := context.Background()
	cfg := syncengine.Config{SQLURL: testserver.SharedMariaDB(t).NewDatabase(t), RedisURL: testserver.SharedRedis(t).URL(), KeyPrefix: lab.NewPrefix()}
	a, b := lab.Open(t, cfg), lab.Open(t, cfg)
	l2, l3 := lab.NewRedisStore(lab.RedisAt(t, cfg.RedisURL), cfg.KeyPrefix, time.Hour), lab.ArchiveAt(t, cfg.SQLURL)
	submit(t, a, "x", `"old"`, archived)
	old, err := l3.Get(ctx, "x")
	lab.Must(t, err)
	submit(t, a, "x", `"new"`, archived, ttl(700*time.Millisecond))
	put, err := l3.Get(ctx, "x")
	lab.Must(t, err)
	lab.Eventually(t, "it is purged", func() bool {
		rec, err := l3.Get(ctx, "x")
		return err == nil && rec.Deleted && rec.Version == put.Version
	})
	lab.Eventually(t, "Redis knows", func() bool {
		rec, err := l2.Get(ctx, "x")
		return err == nil && rec.Deleted && rec.Version == put.Version
	})
	for _, late := range []syncengine.Record{old, put} {
		lab.Must(t, lab.Applied(l3.Apply(ctx, []syncengine.Record{late})))
		lab.Must(t, l2.Put(ctx, []syncengine.Record{late}))
		for _, e := range []*syncengine.Engine{a, b} {
			e.Invalidate("x")
			for call, get := range reads {
				if got := get(e, "x"); got != "absent" {
					t.Errorf("%s: %s", call, got)
				}
			}
		}
	}
	if rec, err := l3.Get(ctx, "x"); err != nil || !rec.Deleted {
		t.Errorf("L3 holds %v, %v", rec, err)
	}
}

// TestINV14TouchCountsBesideOtherWrites: two engines touch, delete and insert; each Touch that
// succeeded was of an item that was there, and a version is touched once.
func TestINV14TouchCountsBesideOtherWrites(t *testing.T) {
	ctx := context.Background()
	eachFleet(t, syncengine.Config{}, func(t *testing.T, a, b *syncengine.Engine, _ syncengine.Config) {
		submit(t, a, "x", `{"n":1}`, archived, ttl(time.Hour))
		was, err := b.Get(ctx, "x")
		lab.Must(t, err)
		var wg sync.WaitGroup
		for i, e := range []*syncengine.Engine{a, b} {
			wg.Go(func() {
				for n := range 10 {
					if err := e.Touch(ctx, "x", time.Duration(10*i+n+1)*time.Hour); err != nil {
						t.Error(err)
					}
				}
			})
			wg.Go(func() {
				for range 10 {
					_, err := e.Update(ctx, "counter", lab.Increment, ttl(time.Hour))
					lab.NoError(t, "Update", err)
					if err := e.Touch(ctx, "counter", time.Hour); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		lab.Must(t, a.Touch(ctx, "counter", 0))
		if it, err := a.Get(ctx, "counter"); err != nil || !it.ExpiresAt.IsZero() {
			t.Errorf("Touch with 0: %v, %v", it.ExpiresAt, err)
		}
		for _, e := range []*syncengine.Engine{a, b} {
			e.Invalidate("x", "counter")
			it, err := e.Get(ctx, "x")
			if err != nil || string(it.Content) != `{"n":1}` || it.ContentHash != was.ContentHash || !it.UpdatedAt.Equal(was.UpdatedAt) || it.Version <= was.Version ||
				time.Until(it.ExpiresAt) < 9*time.Hour {
				t.Errorf("after Touch: %+v, %v", it, err)
			}
			it, err = e.Get(ctx, "counter")
			if lab.Must(t, err); string(it.Content) != "20" {
				t.Errorf("counted %s", it.Content)
			}
		}
		lab.Must(t, b.Delete(ctx, "x", archived))
		a.Invalidate("x")
		if err := a.Touch(ctx, "x", time.Hour); !errors.Is(err, syncengine.ErrNotFound) {
			t.Errorf("Touch of what is deleted: %v", err)
		}
		lab.Must(t, a.Insert(ctx, syncengine.Item{ID: "x", Content: []byte(`2`)}, ttl(time.Hour)))
		lab.Must(t, b.Touch(ctx, "x", 100*time.Millisecond))
		lab.Eventually(t, "it expires", func() bool { return reads["Get"](b, "x") == "absent" })
		if got := reads["GetVerified"](b, "x"); got != "absent" {
			t.Error(got)
		}
	})
}

// TestAnOpThatWaitsKeepsItsExpiry: in the WAL over a restart and in quarantine, and one that is due
// when it lands is neither there nor superseded, also when another engine has purged it before.
func TestAnOpThatWaitsKeepsItsExpiry(t *testing.T) {
	ctx := context.Background()
	l3 := &lab.FaultyArchive{ArchiveStore: storetest.NewArchive()}
	l3.Away.Store(true)
	lost := make(chan syncengine.SupersededOp, 10)
	cfg := syncengine.Config{Dir: t.TempDir(), L3: l3, L3Timeout: 200 * time.Millisecond, OnEvent: syncengine.Events{Superseded: func(op syncengine.SupersededOp) { lost <- op }}}
	e := lab.OpenAsIs(t, cfg)
	submit(t, e, "long", "1", ttl(time.Hour))
	submit(t, e, "short", "1", ttl(500*time.Millisecond))
	long, err := e.Get(ctx, "long")
	lab.Must(t, err)
	short, err := e.Get(ctx, "short")
	lab.Must(t, err)
	if err := e.Close(); !errors.Is(err, syncengine.ErrPending) {
		t.Fatal(err)
	}
	e = lab.OpenAsIs(t, cfg)
	untilAbsent(t, e, "short", short.ExpiresAt)
	if it, err := e.Get(ctx, "long"); err != nil || !it.ExpiresAt.Equal(long.ExpiresAt) {
		t.Errorf("after a restart: %v, %v", it, err)
	}
	// It had landed, and was purged, before that crash.
	lab.Must(t, lab.Applied(l3.ArchiveStore.Apply(ctx, []syncengine.Record{storetest.Tombstone("short", short.Version)})))
	l3.Away.Store(false)
	lab.Eventually(t, "all lands", func() bool { return e.Flush(ctx) == nil })
	if rec, err := l3.ArchiveStore.Get(ctx, "long"); err != nil || !rec.ExpiresAt.Equal(long.ExpiresAt) {
		t.Errorf("in L3: %v, %v", rec, err)
	}
	if s := e.Stats(); s.Superseded > 0 || len(lost) > 0 {
		t.Errorf("%d superseded", s.Superseded)
	}
	if got := reads["Get"](e, "short"); got != "absent" {
		t.Error(got)
	}
}

// TestVerifyTakesWhatIsDueForAbsent, also when it can't be purged, and no repair brings it back to
// L2: L3 does not say what has expired, and L2, which missed the write, gets nothing of it.
func TestVerifyTakesWhatIsDueForAbsent(t *testing.T) {
	ctx := context.Background()
	var l2Away atomic.Bool
	in2, in3 := storetest.NewCache(), storetest.NewArchive()
	l3 := &lab.AroundArchive{In: in3, Fn: func(_ context.Context, _, call string, do func() error) error {
		if call == "Expired" {
			return lab.ErrAway
		}
		return do()
	}}
	l2 := &lab.AroundCache{In: in2, Fn: func(_ context.Context, _, _ string, do func() error) error {
		if l2Away.Load() {
			return lab.ErrAway
		}
		return do()
	}}
	e := lab.Open(t, syncengine.Config{L2: l2, L3: l3, L2Breaker: syncengine.BreakerLenient})
	lab.Eventually(t, "L2 was compared", func() bool { return e.Stats().L2Missed == 0 })
	submit(t, e, "dropped", "1", archived, ttl(200*time.Millisecond))
	submit(t, e, "kept", "1", archived, ttl(200*time.Millisecond))
	submit(t, e, "missed", "0", archived)
	l2Away.Store(true)
	submit(t, e, "missed", "1", archived, ttl(200*time.Millisecond))
	lab.Eventually(t, "they expire", func() bool { return reads["Get"](e, "missed") == "absent" && reads["Get"](e, "kept") == "absent" })
	l2Away.Store(false)
	lab.Must(t, in2.Remove(ctx, []string{"dropped"}))
	lab.Eventually(t, "what L2 has missed is repaired", func() bool { return e.Stats().L2Missed == 0 })
	r, err := e.Verify(ctx, syncengine.VerifyOptions{Repair: true})
	if err != nil || !r.InSync || len(r.Divergent) > 0 {
		t.Errorf("Verify: %+v, %v", r, err)
	}
	for _, id := range []string{"dropped", "missed"} {
		if rec, err := in2.Get(ctx, id); !errors.Is(err, syncengine.ErrNotFound) {
			t.Errorf("L2 holds %s: %v, %v", id, rec, err)
		}
	}
	if rec, err := in3.Get(ctx, "missed"); err != nil || rec.Deleted {
		t.Errorf("L3 has purged it after all: %v, %v", rec, err)
	}
}
