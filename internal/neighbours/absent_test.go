package neighbours

// absent_test.go is about what is remembered of L3: that it had nothing, and what it had.

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/storetest"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

// TestINV15AbsentForBoundsHowLongAnInsertIsUnseen: meanwhile L3 is not asked. What writes does not
// go by it, and an own write ends it.
func TestINV15AbsentForBoundsHowLongAnInsertIsUnseen(t *testing.T) {
	ctx := context.Background()
	const absentFor = time.Second
	eachShared(t, func(t *testing.T, url string) {
		a := lab.Open(t, syncengine.Config{SQLURL: url, AbsentFor: absentFor})
		b := lab.Open(t, syncengine.Config{SQLURL: url})
		submit(t, b, "there", "1", archived)
		for _, id := range []string{"x", "own", "Insert", "Update", "GetOrInsertWith"} {
			if got := reads["Get"](a, id); got != "absent" {
				t.Fatal(got)
			}
		}
		asked := a.Stats().L3Misses
		start := time.Now()
		for _, call := range []string{"Get", "GetVerified", "GetMany"} {
			if got := reads[call](a, "x"); got != "absent" {
				t.Errorf("%s: %s", call, got)
			}
		}
		if x, err := a.Explain(ctx, "x"); err != nil || x.Outcome != syncengine.OutcomeNotFound || x.Source != syncengine.SourceMemory {
			t.Errorf("Explain: %v, %v", x, err)
		}
		if n := a.Stats().L3Misses - asked; n > 0 && time.Since(start) < absentFor-200*time.Millisecond {
			t.Errorf("L3 was asked %d times", n)
		}
		for _, id := range []string{"x", "Insert", "Update", "GetOrInsertWith"} {
			submit(t, b, id, "1", archived)
		}
		written := time.Now()
		submit(t, a, "own", "1")
		if got := reads["Get"](a, "own"); got != "1" {
			t.Errorf("an own write: %s", got)
		}
		if err := a.Insert(ctx, syncengine.Item{ID: "Insert", Content: []byte("2")}); !errors.Is(err, syncengine.ErrExists) {
			t.Errorf("Insert: %v", err)
		}
		_, err := a.Update(ctx, "Update", func(_ syncengine.Item, exists bool) (syncengine.Item, error) {
			if !exists {
				t.Error("Update goes by it")
			}
			return syncengine.Item{}, syncengine.ErrNoChange
		})
		lab.Must(t, err)
		if got := reads["GetOrInsertWith"](a, "GetOrInsertWith"); got != "1" {
			t.Errorf("GetOrInsertWith: %s", got)
		}
		if !a.Contains("x") {
			t.Error("Contains goes by it: its false is definite")
		}
		lab.Eventually(t, "another engine's write is seen", func() bool { return reads["Get"](a, "x") == "1" })
		if d := time.Since(written); d > absentFor+500*time.Millisecond {
			t.Errorf("seen after %v", d)
		}
		reads["Get"](a, "later")
		submit(t, b, "later", "1", archived)
		a.Invalidate("later")
		if got := reads["Get"](a, "later"); got != "1" {
			t.Errorf("after Invalidate: %s", got)
		}
	})
}

// TestINV15AMessageEndsWhatIsRememberedAsAbsent.
func TestINV15AMessageEndsWhatIsRememberedAsAbsent(t *testing.T) {
	cfg := syncengine.Config{SQLURL: testserver.SharedMariaDB(t).NewDatabase(t), RedisURL: testserver.SharedRedis(t).URL(), KeyPrefix: lab.NewPrefix(), AbsentFor: time.Hour}
	a, b := lab.Open(t, cfg), lab.Open(t, cfg)
	lab.Eventually(t, "a hears", func() bool { return a.Stats().PushListens })
	lab.Eventually(t, "it is remembered, and not only denied by the filter", func() bool {
		reads["Get"](a, "x")
		x, err := a.Explain(context.Background(), "x")
		return err == nil && x.Source == syncengine.SourceMemory
	})
	submit(t, b, "x", "1", archived)
	lab.Eventually(t, "the write is seen", func() bool { return reads["Get"](a, "x") == "1" })
}

// TestINV10WhatIsAbsentIsRememberedWithinMemory.
func TestINV10WhatIsAbsentIsRememberedWithinMemory(t *testing.T) {
	const most = 64 << 10
	e := lab.Open(t, syncengine.Config{L3: storetest.NewArchive(), AbsentFor: time.Hour, L1MaxBytes: most}) // one that trusts no filter
	for n := range 2000 {
		if got := reads["Get"](e, fmt.Sprint("absent-", n)); got != "absent" {
			t.Fatal(got)
		}
	}
	s := e.Stats()
	if s.L1Bytes > most+most/10 || s.L1Bytes < most/2 || s.Evictions == 0 || e.Len() != 0 {
		t.Errorf("%d bytes, %d evictions, %d items", s.L1Bytes, s.Evictions, e.Len())
	}
}

// awayAtWill is an L3 that can be told to be away.
func awayAtWill() (*lab.AroundArchive, *atomic.Bool) {
	var away atomic.Bool
	return &lab.AroundArchive{In: storetest.NewArchive(), Fn: func(_ context.Context, _, _ string, do func() error) error {
		if away.Load() {
			return lab.ErrAway
		}
		return do()
	}}, &away
}

// TestStaleForBoundsWhatIsServedWhileSQLIsAway, and what is served says that it is stale. What an
// engine has written itself is served whatever StaleFor says.
func TestStaleForBoundsWhatIsServedWhileSQLIsAway(t *testing.T) {
	ctx := context.Background()
	for _, staleFor := range []time.Duration{0, -1, 500 * time.Millisecond} {
		t.Run(fmt.Sprint(staleFor), func(t *testing.T) {
			t.Parallel()
			l3, away := awayAtWill()
			e := lab.Open(t, syncengine.Config{L3: l3, L1MaxAge: 200 * time.Millisecond, StaleFor: staleFor, L3Timeout: time.Second})
			submit(t, e, "x", "1", archived)
			submit(t, e, "gone", "1", archived)
			lab.Must(t, e.Delete(ctx, "gone", archived))
			wrote := time.Now()
			it, err := e.Get(ctx, "x")
			if err != nil || it.Stale {
				t.Errorf("young: %+v, %v", it, err)
			}
			away.Store(true)
			submit(t, e, "own", "1")
			served := func() bool {
				it, err := e.Get(ctx, "x")
				return err == nil && it.Stale
			}
			if staleFor >= 0 {
				lab.Eventually(t, "it is served stale", served)
				many, err := e.GetMany(ctx, []string{"x"})
				if err != nil || !many[0].Stale {
					t.Errorf("GetMany: %v, %v", many, err)
				}
				if it, err := e.GetVerified(ctx, "x"); err != nil || !it.Stale {
					t.Errorf("GetVerified: %v, %v", it, err)
				}
				if got := reads["Get"](e, "gone"); got != "absent" {
					t.Errorf("a tombstone: %s", got)
				}
			}
			if staleFor != 0 {
				lab.Eventually(t, "it is not served any more", func() bool {
					_, err := e.Get(ctx, "x")
					return errors.Is(err, syncengine.ErrUnavailable)
				})
				if d := time.Since(wrote); d < 200*time.Millisecond+max(0, staleFor)-150*time.Millisecond { // ages are coarse
					t.Errorf("already after %v", d)
				}
				for _, call := range []string{"Get", "GetVerified", "GetMany", "GetOrInsertWith"} {
					for _, id := range []string{"x", "gone"} {
						if got := reads[call](e, id); got == "1" || got == "absent" {
							t.Errorf("%s(%s): %s", call, id, got)
						}
					}
				}
				if x, err := e.Explain(ctx, "x"); err != nil || x.Outcome != syncengine.OutcomeUnavailable {
					t.Errorf("Explain: %v, %v", x, err)
				}
			} else if !served() {
				t.Error("not served any more")
			}
			if it, err := e.Get(ctx, "own"); err != nil || it.Stale {
				t.Errorf("an own write: %+v, %v", it, err)
			}
			away.Store(false)
			lab.Eventually(t, "it is fresh again", func() bool {
				it, err := e.Get(ctx, "x")
				return err == nil && !it.Stale
			})
		})
	}
}
