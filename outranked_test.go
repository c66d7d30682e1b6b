package syncengine_test

// outranked_test.go is about what an engine must remember of an id beyond memory: versions above
// the clock, wherever their ops have gone, and discards, wherever what is discarded is.

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/storetest"
)

// slowDecision is an L3 whose ApplyIf can be held, and can lose its replies.
type slowDecision struct {
	*aroundArchive
	hold, mute atomic.Bool
	in         chan struct{} // gets one when an ApplyIf is held
	gate       chan struct{}
	release    func()
}

func newSlowDecision(t *testing.T) *slowDecision {
	t.Helper()
	store, err := syncengine.OpenSQLStore("sqlite:" + filepath.Join(t.TempDir(), "archive.db"))
	must(t, err)
	t.Cleanup(func() { _ = store.Close() })
	s := &slowDecision{in: make(chan struct{}, 10)}
	s.gate, s.release = hold()
	s.aroundArchive = &aroundArchive{in: store, fn: func(ctx context.Context, _, call string, do func() error) error {
		if call == "ApplyIf" && s.hold.Load() {
			s.in <- struct{}{}
			select {
			case <-s.gate:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if !s.mute.Load() {
			return do()
		}
		if call == "ApplyIf" {
			_ = do()
		}
		return errAway
	}}
	return s
}

// ahead numbers an op ahead of the clock.
func ahead(by time.Duration) syncengine.WriteOption {
	return syncengine.WithVersion(syncengine.VersionAt(time.Now().Add(by)))
}

// crowdOut lets other ids take the place of x in memory.
func crowdOut(t *testing.T, e *syncengine.Engine) {
	t.Helper()
	leavesL1(t, e, "x", func(round int) {
		must(t, e.Submit(context.Background(), syncengine.Item{ID: fmt.Sprint("other-", round), Content: bigDoc(20)}))
		_ = e.Flush(context.Background())
	})
}

// L3 refused an op numbered ahead. A later op got a lower number, and reads went on answering with
// the refused one.
func TestINV16AWriteIsAboveARefusedOpOfItsID(t *testing.T) {
	for _, how := range []string{"in memory", "reopened", "evicted"} {
		t.Run(how, func(t *testing.T) {
			ctx := context.Background()
			l3 := newChoosy(t)
			cfg := syncengine.Config{Dir: t.TempDir(), L3: l3, L1MaxBytes: 64 << 10}
			e := open(t, cfg)
			must(t, e.Submit(ctx, syncengine.Item{ID: "x", Content: poison}, ahead(50*time.Second)))
			if err := e.Flush(ctx); !errors.Is(err, syncengine.ErrRefused) {
				t.Fatalf("Flush: %v", err)
			}
			switch how {
			case "reopened":
				must(t, e.Close())
				e = open(t, cfg)
			case "evicted":
				crowdOut(t, e)
			}
			put(t, e, "x", 2)
			must(t, e.Flush(ctx)) // what is refused is superseded
			crowdOut(t, e)
			wantContent(t, e, "x", 2)
			l3.tolerant.Store(true)
			_, err := e.RetryQuarantined(ctx)
			must(t, err)
			must(t, e.Flush(ctx))
			wantContent(t, e, "x", 2)
		})
	}
}

// L3 has decided a conditional write numbered ahead, and this engine does not know, or is killed
// before it can note anything.
func TestINV16AWriteIsAboveADecisionThatNobodyHasHeard(t *testing.T) {
	for _, how := range []string{"mute", "killed"} {
		t.Run(how, func(t *testing.T) {
			ctx := context.Background()
			l3 := newSlowDecision(t)
			cfg := syncengine.Config{Dir: t.TempDir(), L3: l3, L3Timeout: 200 * time.Millisecond}
			e := open(t, cfg)
			put(t, e, "other", 1)
			must(t, e.Flush(ctx))
			eventually(t, "the log is empty", func() bool { return e.Stats().WALItems == 0 })
			if how == "mute" {
				l3.mute.Store(true)
				if err := e.Insert(ctx, syncengine.Item{ID: "x", Content: doc("x", 1)}, ahead(50*time.Second)); err == nil {
					t.Fatal("Insert says that it was stored")
				}
				l3.mute.Store(false)
			} else {
				inner := l3.fn
				l3.fn = func(ctx context.Context, tier, call string, do func() error) error {
					err := inner(ctx, tier, call, do)
					if call == "ApplyIf" {
						cfg.Dir = crashed(t, cfg.Dir)
					}
					return err
				}
				must(t, e.Insert(ctx, syncengine.Item{ID: "x", Content: doc("x", 1)}, ahead(50*time.Second)))
				l3.fn = inner
				e = open(t, cfg)
			}
			put(t, e, "x", 2)
			eventually(t, "L3 is back", func() bool { return e.Flush(ctx) == nil })
			wantContent(t, e, "x", 2)
			wantNoneSuperseded(t, e)
		})
	}
}

// More ids than are kept one by one.
func TestINV16ManyIDsNumberedAheadAreKnownAfterACrash(t *testing.T) {
	ctx := context.Background()
	l3 := storetest.NewArchive()
	cfg := syncengine.Config{Dir: t.TempDir(), L3: l3}
	e := open(t, cfg)
	items := make([]syncengine.Item, 1200)
	for i := range items {
		items[i] = syncengine.Item{ID: fmt.Sprint("a-", i), Content: doc("a", 1)}
	}
	_, err := e.SubmitMany(ctx, items, ahead(50*time.Second))
	must(t, err)
	must(t, e.Flush(ctx))
	eventually(t, "the log is empty", func() bool { return e.Stats().WALItems == 0 })
	e = open(t, syncengine.Config{Dir: crashed(t, cfg.Dir), L3: l3})
	for _, id := range []string{"a-5", "a-1100"} {
		put(t, e, id, 2)
		must(t, e.Flush(ctx))
		wantContent(t, e, id, 2)
	}
	wantNoneSuperseded(t, e)
}

// The copy of an outranked op becomes one of a later op, of another size, in the same place.
func TestThePlaceOfAnOpThatIsSubmittedAgainFitsIt(t *testing.T) {
	for _, sizes := range [][2]int{{1, 20}, {20, 1}} {
		ctx := context.Background()
		l3 := newChoosy(t)
		under, gate := make(chan bool), make(chan bool)
		inner, once := l3.apply, sync.OnceFunc(func() { close(under); <-gate })
		l3.apply = func(ctx context.Context, recs []syncengine.Record) error {
			if recs[0].ID == "x" {
				once()
			}
			return inner(ctx, recs)
		}
		e := open(t, syncengine.Config{L3: l3, BatchFlushInterval: time.Millisecond})
		first := make(chan error, 1)
		go func() {
			first <- e.Submit(ctx, syncengine.Item{ID: "x", Content: bigDoc(sizes[0])}, syncengine.WithDurability(syncengine.Archived))
		}()
		<-under
		_, err := l3.ArchiveStore.Apply(ctx, []syncengine.Record{storetest.Put("x", syncengine.VersionAt(time.Now().Add(5*time.Second)), `"theirs"`)})
		must(t, err)
		must(t, e.Submit(ctx, syncengine.Item{ID: "x", Content: bigDoc(sizes[1])}))
		close(gate)
		must(t, <-first)
		must(t, e.Flush(ctx))
		if items, bytes := syncengine.PlacesInWAL(e); items != 0 || bytes != 0 {
			t.Errorf("%d ops with %d bytes have a place in the WAL, and nothing waits", items, bytes)
		}
	}
}

// Nothing can be written above the largest version there is: that is said, and not tried for ever.
func TestAnArchivedOpBelowTheLargestVersionIsStale(t *testing.T) {
	ctx := context.Background()
	for n := range 4 {
		l3 := newChoosy(t)
		e := open(t, syncengine.Config{L3: l3, BatchFlushInterval: time.Millisecond})
		_, err := l3.ArchiveStore.Apply(ctx, []syncengine.Record{storetest.Put("x", syncengine.MaxVersion, `"theirs"`)})
		must(t, err)
		err = e.Submit(ctx, syncengine.Item{ID: "x", Content: doc("x", n)}, syncengine.WithDurability(syncengine.Archived))
		rec, gerr := l3.ArchiveStore.Get(ctx, "x")
		must(t, gerr)
		if (err == nil) != (string(rec.Content) == string(doc("x", n))) || err != nil && !errors.Is(err, syncengine.ErrStaleVersion) {
			t.Errorf("Submit: %v; L3 holds %.30s", err, rec.Content)
		}
		if n := e.Stats().FlushedOps; n > 5 {
			t.Errorf("%d ops were flushed for one call", n)
		}
	}
}

// After a crash an op is in the WAL and in quarantine. It is discarded while the drain has it.
func TestADiscardedOpDoesNotComeBackFromTheDrain(t *testing.T) {
	for name, takes := range map[string]bool{"that L3 refuses again": false, "that L3 takes now": true} {
		t.Run(name, func(t *testing.T) {
			ctx := context.Background()
			l3 := newChoosy(t)
			defer l3.release()
			cfg := syncengine.Config{Dir: t.TempDir(), L3: l3, BatchFlushInterval: time.Millisecond, BatchFlushCount: 1}
			e := open(t, cfg)
			l3.stick(t, e) // keeps the WAL from being trimmed
			must(t, e.Submit(ctx, syncengine.Item{ID: "x", Content: poison}))
			eventually(t, "it is refused", func() bool { return e.Stats().Quarantined == 1 })
			cfg.Dir = crashed(t, cfg.Dir)
			l3.release()
			other := newChoosy(t)
			other.release()
			other.tolerant.Store(takes)
			under, gate := make(chan bool), make(chan bool)
			inner, once := other.apply, sync.OnceFunc(func() { close(under); <-gate })
			other.apply = func(ctx context.Context, recs []syncengine.Record) error {
				if recs[0].ID == "x" {
					once()
				}
				return inner(ctx, recs)
			}
			cfg.L3 = other
			e = open(t, cfg)
			<-under // the WAL has it as well
			short, cancel := context.WithTimeout(ctx, time.Millisecond)
			defer cancel()
			if n, err := e.DiscardQuarantined(short, "x"); n != 0 || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("DiscardQuarantined, while L3 has it in hands: %d, %v", n, err)
			}
			wantQuarantined(t, e, "x")
			discarded := make(chan error, 1)
			want := 1
			if takes {
				want = 0
			}
			go func() {
				n, err := e.DiscardQuarantined(ctx, "x")
				if n != want {
					err = fmt.Errorf("%d ops, want %d; %w", n, want, err)
				}
				discarded <- err
			}()
			close(gate)
			must(t, <-discarded)
			must(t, e.Flush(ctx))
			wantQuarantined(t, e)
			if takes {
				wantPoison(t, e, "x")
			} else {
				wantContent(t, e, "x", -1)
			}
		})
	}
}

// An op is discarded whose like waits in the WAL, for an Archived caller: the same id, version and
// content. The caller waited for ever.
func TestAnArchivedCallIsToldThatItsOpWasDiscarded(t *testing.T) {
	ctx := context.Background()
	l3 := newChoosy(t)
	defer l3.release()
	e := open(t, syncengine.Config{L3: struct{ syncengine.ArchiveStore }{l3}, L1MaxBytes: 64 << 10, BatchFlushInterval: time.Millisecond, FlushConcurrency: 1})
	version := ahead(0)
	must(t, e.Submit(ctx, syncengine.Item{ID: "x", Content: poison}, version))
	if err := e.Flush(ctx); !errors.Is(err, syncengine.ErrRefused) {
		t.Fatalf("Flush: %v", err)
	}
	l3.stick(t, e)
	for i := 0; e.Stats().SpooledOps == 0; i++ {
		put(t, e, fmt.Sprint("other-", i), i)
	}
	before := e.Stats().SpooledOps
	done := make(chan error, 1)
	go func() {
		done <- e.Submit(ctx, syncengine.Item{ID: "x", Content: poison}, version, syncengine.WithDurability(syncengine.Archived))
	}()
	eventually(t, "it is spooled", func() bool { return e.Stats().SpooledOps > before })
	_, err := e.DiscardQuarantined(ctx)
	must(t, err)
	l3.release()
	_ = e.Flush(ctx)
	if err := <-done; !errors.Is(err, syncengine.ErrRefused) {
		t.Errorf("the Archived call: %v", err)
	}
}

// Two ops are discarded; a group of the very same two was accepted later.
func TestINV01ADiscardOfOpsTakesNoGroupOfThem(t *testing.T) {
	ctx := context.Background()
	l3 := newChoosy(t)
	defer l3.release()
	e := open(t, syncengine.Config{L3: l3, L1MaxBytes: 64 << 10, BatchFlushInterval: time.Millisecond, FlushConcurrency: 1})
	version := ahead(0)
	for _, id := range []string{"x", "y"} {
		must(t, e.Submit(ctx, syncengine.Item{ID: id, Content: poison}, version))
	}
	if err := e.Flush(ctx); !errors.Is(err, syncengine.ErrRefused) {
		t.Fatalf("Flush: %v", err)
	}
	l3.stick(t, e)
	for i := 0; e.Stats().SpooledOps == 0; i++ {
		put(t, e, fmt.Sprint("other-", i), i)
	}
	l3.tolerant.Store(true)
	_, err := e.SubmitMany(ctx, []syncengine.Item{{ID: "x", Content: poison}, {ID: "y", Content: poison}}, version)
	must(t, err)
	_, err = e.DiscardQuarantined(ctx)
	must(t, err)
	l3.release()
	must(t, e.Flush(ctx))
	wantPoison(t, e, "x")
	wantPoison(t, e, "y")
}

// What an event function, or a reader, does to the content that it got.
func TestINV11WhatIsShownMayBeWrittenInto(t *testing.T) {
	ctx := context.Background()
	told := make(chan bool, 1)
	e := open(t, syncengine.Config{L3: newChoosy(t), BatchFlushInterval: time.Millisecond, OnEvent: syncengine.Events{Quarantined: func(op syncengine.QuarantinedOp) {
		clear(op.Content)
		told <- true
	}}})
	must(t, e.Submit(ctx, syncengine.Item{ID: "x", Content: poison}))
	<-told
	wantPoison(t, e, "x")
	e = open(t, syncengine.Config{})
	must(t, e.Submit(ctx, syncengine.Item{ID: "counter", Content: []byte("1")}))
	must(t, e.Flush(ctx))
	it, err := e.Get(ctx, "counter")
	must(t, err)
	it.Content[0] = '7'
	if it, err = e.Update(ctx, "counter", increment); err != nil || string(it.Content) != "2" {
		t.Errorf("1 + 1 = %s, %v", it.Content, err)
	}
}

// An op waits below one that is refused and discarded: since that overtook it, or since both are in
// the WAL. It was not found, and a new one was put in its place.
func TestINV02ADiscardUncoversWhatWaits(t *testing.T) {
	for _, budget := range []int64{1 << 20, 64 << 10} {
		t.Run(fmt.Sprint(budget), func(t *testing.T) {
			ctx := context.Background()
			l3 := newChoosy(t)
			defer l3.release()
			cfg := syncengine.Config{Dir: t.TempDir(), L3: l3, BatchFlushInterval: time.Hour, BatchFlushCount: 1, FlushConcurrency: 1, L1MaxBytes: budget}
			e := open(t, cfg)
			l3.stick(t, e)
			if budget < 1<<20 {
				for i := 0; e.Stats().SpooledOps == 0; i++ {
					put(t, e, fmt.Sprint("other-", i), i)
				}
			}
			put(t, e, "x", 1, syncengine.WithPriority(syncengine.PriorityLow))
			must(t, e.Submit(ctx, syncengine.Item{ID: "x", Content: poison}, syncengine.WithPriority(syncengine.PriorityCritical)))
			put(t, e, "stuck", 2, syncengine.WithPriority(syncengine.PriorityLow)) // before x, if it is older
			var once sync.Once
			inner := l3.apply
			l3.apply = func(ctx context.Context, recs []syncengine.Record) error {
				if recs[0].ID == "x" && string(recs[0].Content) != string(poison) {
					once.Do(func() { l3.away.Store(true) })
				}
				return inner(ctx, recs)
			}
			l3.release()
			eventually(t, "poison is refused", func() bool { return e.Stats().Quarantined == 1 })
			if n, err := e.DiscardQuarantined(ctx, "x"); n != 1 || err != nil {
				t.Fatalf("DiscardQuarantined: %d, %v", n, err)
			}
			wantContent(t, e, "x", 1)
			l3.away.Store(false)
			eventually(t, "L3 is back", func() bool { return e.Flush(ctx) == nil })
			wantContent(t, e, "x", 1)
			wantNoneSuperseded(t, e)
		})
	}
}
