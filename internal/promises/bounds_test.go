package promises

// bounds_test.go tests what must hold at any load: limits that hold before a write is accepted,
// memory, and waits that end.

import (
	"context"
	"errors"
	"fmt"
	"runtime"
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

// gated is an L3 whose Apply waits while the gate is shut.
type gated struct {
	*lab.HookedArchive
	mu   sync.Mutex // guards open
	open chan struct{}
	seen chan []syncengine.Record // what Apply was called with
}

func newGated() *gated {
	g := &gated{open: make(chan struct{}), seen: make(chan []syncengine.Record, 100_000)}
	g.HookedArchive = &lab.HookedArchive{ArchiveStore: storetest.NewArchive(), OnApply: func(ctx context.Context, recs []syncengine.Record) error {
		g.seen <- recs
		g.mu.Lock()
		open := g.open
		g.mu.Unlock()
		select {
		case <-open:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}}
	return g
}

func (g *gated) release() {
	g.mu.Lock()
	defer g.mu.Unlock()
	close(g.open)
}

func TestAGroupTooLargeToLandIsRefusedAndHurtsNobody(t *testing.T) {
	ctx := context.Background()
	e := lab.Open(t, syncengine.Config{})
	many := make([]syncengine.Item, 10_001)
	for n := range many {
		many[n] = syncengine.Item{ID: fmt.Sprint(n), Content: lab.Doc("x", n)}
	}
	big := make([]syncengine.Item, 17)
	for n := range big {
		big[n] = syncengine.Item{ID: fmt.Sprint(n), Content: lab.BigDoc(1024)}
	}
	for what, items := range map[string][]syncengine.Item{"GroupMaxItems": many, "GroupMaxBytes": big} {
		res, err := e.SubmitMany(ctx, items)
		var ie *syncengine.InvalidItemError
		if !errors.As(err, &ie) || !ie.TooLarge || res.Failed != len(items) || !containsText(err, what) {
			t.Errorf("%s: %+v, %v", what, res, err)
		}
	}
	_, err := e.SubmitMany(ctx, many[:10_000])
	lab.Must(t, err)
	lab.Put(t, e, "innocent", 1)
	lab.Must(t, e.Flush(ctx))
	lab.WantContent(t, e, "innocent", 1)
}

func containsText(err error, text string) bool {
	return err != nil && strings.Contains(err.Error(), text)
}

// TestINV10TheLimitOfTheWALHoldsBeforeBufferedOpsAreAccepted: an outage puts them there.
func TestINV10TheLimitOfTheWALHoldsBeforeBufferedOpsAreAccepted(t *testing.T) {
	ctx := context.Background()
	l3 := &lab.FaultyArchive{ArchiveStore: storetest.NewArchive()}
	e := lab.Open(t, syncengine.Config{L3: l3, WALMaxItems: 1000, BatchFlushInterval: time.Hour, BatchFlushCount: 1000, Durability: syncengine.Buffered})
	l3.Away.Store(true)
	accepted := 0
	for n := range 3000 {
		if err := e.Submit(ctx, syncengine.Item{ID: fmt.Sprint("id-", n), Content: lab.Doc("x", n)}); err == nil {
			accepted++
		} else if !errors.Is(err, syncengine.ErrBackpressure) {
			t.Fatal(err)
		}
	}
	if accepted == 0 || accepted > 1000 {
		t.Errorf("%d accepted, the WAL holds 1000", accepted)
	}
	if err := e.Flush(ctx); !errors.Is(err, syncengine.ErrUnavailable) {
		t.Errorf("Flush: %v", err)
	}
	lab.Eventually(t, "they are in the WAL", func() bool { return e.Stats().WALItems == int64(accepted) })
	if p := e.MemoryPressure(); p > 1 {
		t.Errorf("pressure %v", p)
	}
	for n := range accepted {
		if it, err := e.Get(ctx, fmt.Sprint("id-", n)); err != nil || string(it.Content) != string(lab.Doc("x", n)) {
			t.Fatalf("a hit in L1: %v", err)
		}
	}
	l3.Away.Store(false)
	lab.Eventually(t, "all is drained", func() bool { return e.Flush(ctx) == nil })
	if s := e.Stats(); s.WALItems != 0 || s.WALBytes != 0 || s.PendingOps != 0 {
		t.Errorf("after the drain: %+v", s)
	}
}

// TestINV10TinyOpsCountWithTheirOverheadInTheDrain, and large groups leave as they come.
func TestINV10TheDrainStaysWithinTheBudget(t *testing.T) {
	for _, c := range []struct {
		name   string
		budget int64
		write  func(t *testing.T, e *syncengine.Engine)
	}{
		{"tiny deletes", 64 << 10, func(t *testing.T, e *syncengine.Engine) {
			var wg sync.WaitGroup
			for g := range 8 {
				wg.Go(func() {
					for n := range 2500 {
						lab.Must(t, e.Delete(context.Background(), fmt.Sprint(g, "-", n)))
					}
				})
			}
			wg.Wait()
		}},
		{"tiny deletes in groups", 256 << 10, func(t *testing.T, e *syncengine.Engine) {
			for g := range 40 {
				ids := make([]string, 500)
				for n := range ids {
					ids[n] = fmt.Sprint(g, "-", n)
				}
				_, err := e.DeleteMany(context.Background(), ids)
				lab.Must(t, err)
			}
		}},
		{"large groups", 4 << 20, func(t *testing.T, e *syncengine.Engine) {
			for g := range 6 {
				items := make([]syncengine.Item, 3)
				for n := range items {
					items[n] = syncengine.Item{ID: fmt.Sprint(g, "-", n), Content: lab.BigDoc(1100)}
				}
				_, err := e.SubmitMany(context.Background(), items)
				lab.Must(t, err)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx := context.Background()
			l3 := &lab.FaultyArchive{ArchiveStore: storetest.NewArchive()}
			e := lab.Open(t, syncengine.Config{L3: l3, L1MaxBytes: c.budget})
			l3.Away.Store(true)
			var peak atomic.Int64
			look := func() {
				for used := e.Stats().L1Bytes; ; {
					if was := peak.Load(); used <= was || peak.CompareAndSwap(was, used) {
						return
					}
				}
			}
			c.write(t, e)
			look()
			for n := range 3 {
				_, _ = e.Get(ctx, fmt.Sprint("0-", n))
				look()
			}
			l3.Away.Store(false)
			lab.Eventually(t, "all is drained", func() bool {
				look()
				return e.Stats().PendingOps == 0
			})
			if peak.Load() > c.budget*11/10 {
				t.Errorf("L1 held %d bytes of %d", peak.Load(), c.budget)
			}
		})
	}
}

// TestAnUrgentArchivedWriteDoesNotWaitForTheBacklog that was there before it.
func TestAnUrgentArchivedWriteDoesNotWaitForTheBacklog(t *testing.T) {
	ctx := context.Background()
	g := newGated()
	e := lab.Open(t, syncengine.Config{L3: g, FlushConcurrency: 1, BatchFlushInterval: time.Millisecond, L3Timeout: time.Minute})
	for n := range 20_000 {
		lab.Put(t, e, fmt.Sprint("id-", n), n, syncengine.WithDurability(syncengine.Buffered))
	}
	<-g.seen // the first batch is in flight
	done := make(chan error, 1)
	go func() {
		done <- e.Submit(ctx, syncengine.Item{ID: "urgent", Content: lab.Doc("urgent", 1)},
			syncengine.WithDurability(syncengine.Archived), syncengine.WithPriority(syncengine.PriorityCritical))
	}()
	lab.Eventually(t, "it waits", func() bool { return e.Stats().PendingOps == 20_001 })
	g.release()
	lab.Must(t, <-done)
	batches := 1
	for recs := range g.seen {
		if batches++; batches > 3 {
			t.Fatal("the urgent write is not among the next two batches")
		}
		for i := range recs {
			if recs[i].ID == "urgent" {
				return
			}
		}
	}
}

// TestFlushWithAnEndedContextHasOneAnswer: nothing is pending, so all is in L3.
func TestFlushWithAnEndedContextHasOneAnswer(t *testing.T) {
	e := lab.Open(t, syncengine.Config{})
	lab.Put(t, e, "x", 1)
	lab.Must(t, e.Flush(context.Background()))
	over, cancel := context.WithCancel(context.Background())
	cancel()
	for range 100 {
		lab.Must(t, e.Flush(over))
	}
	lab.Must(t, e.Shutdown(over))
}

// TestINV10ManyArchivedCallersTakeLittleMemory while L3 hangs.
func TestINV10ManyArchivedCallersTakeLittleMemory(t *testing.T) {
	const callers = 5000
	g := newGated()
	e := lab.Open(t, syncengine.Config{L3: g, L1MaxBytes: 4 << 20, L3Timeout: time.Minute})
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var wg sync.WaitGroup
	for n := range callers {
		wg.Go(func() {
			_ = e.Submit(ctx, syncengine.Item{ID: fmt.Sprint("id-", n), Content: lab.Doc("x", n)}, syncengine.WithDurability(syncengine.Archived))
		})
	}
	lab.Eventually(t, "all wait", func() bool { return e.Stats().PendingOps == callers })
	if used := heap() - before; used > 24<<20 {
		t.Errorf("%d callers take %d bytes", callers, used)
	}
	g.release()
	wg.Wait()
}

// TestINV10CallersWaitBeforeTheyCopy: what is on its way into the log is bounded, however many
// callers there are, and so is what they keep while they wait for an L3 that hangs.
func TestINV10CallersWaitBeforeTheyCopy(t *testing.T) {
	const ops, budget, limit = 10_000, 16 << 20, 160 << 20 // of 100 MiB, of which there were three copies
	content := lab.BigDoc(10)
	for _, c := range []struct {
		d     syncengine.Durability
		group int
	}{{syncengine.Buffered, 1}, {syncengine.Logged, 100}, {syncengine.Archived, 1}} {
		t.Run(c.d.String(), func(t *testing.T) {
			e := lab.Open(t, syncengine.Config{L3: newGated(), L1MaxBytes: budget, WALNoSync: true, L3Timeout: time.Minute, CloseTimeout: time.Millisecond})
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			var wg sync.WaitGroup
			defer wg.Wait()
			before, now, most := lab.HeapInUse(), int64(0), int64(0)
			for n := 0; n < ops; n += c.group {
				wg.Go(func() {
					items := make([]syncengine.Item, c.group)
					for i := range items {
						items[i] = syncengine.Item{ID: fmt.Sprint("id-", n+i), Content: content}
					}
					_, err := e.SubmitMany(ctx, items, syncengine.WithDurability(c.d))
					if err != nil && c.d != syncengine.Archived {
						t.Error(err)
					}
				})
			}
			lab.Eventually(t, "all is accepted", func() bool {
				now = lab.HeapInUse() - before
				most = max(most, now)
				return e.Stats().PendingOps == ops
			})
			if most > limit || now > limit/2 {
				t.Errorf("the heap grew by %d MiB, and by %d MiB when all was accepted", most>>20, now>>20)
			}
			cancel()
		})
	}
}

// TestINV10WhatL3IsToDecideIsBounded: calls that wait for L3's decision while it hangs have a room
// of their own; others go on meanwhile, and all does when it is back.
func TestINV10WhatL3IsToDecideIsBounded(t *testing.T) {
	const calls, limit = 2000, 64 << 20 // of 200 MiB
	db := testserver.MariaDB(t)
	e := lab.Open(t, syncengine.Config{SQLURL: db.URL(), L1MaxBytes: 16 << 20, L3Timeout: 30 * time.Second, Durability: syncengine.Logged})
	lab.Put(t, e, "first", 1)
	lab.Must(t, e.Flush(context.Background()))
	content := lab.BigDoc(100)
	for name, call := range map[string]func(ctx context.Context, id string) error{
		"Insert": func(ctx context.Context, id string) error {
			return e.Insert(ctx, syncengine.Item{ID: id, Content: content})
		},
		"Update": func(ctx context.Context, id string) error {
			_, err := e.Update(ctx, id[:len(id)-1], func(syncengine.Item, bool) (syncengine.Item, error) {
				return syncengine.Item{Content: content}, nil
			})
			return err
		},
		"GetOrInsertWith": func(ctx context.Context, id string) error {
			_, err := e.GetOrInsertWith(ctx, id, func(context.Context) (syncengine.Item, error) {
				return syncengine.Item{Content: content}, nil
			})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			before := lab.HeapInUse()
			db.Stop()
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			var wg sync.WaitGroup
			for i := range calls {
				wg.Go(func() {
					if err := call(ctx, fmt.Sprint(name, "-", i)); err == nil {
						t.Error("nil while SQL hangs")
					}
				})
			}
			for range 10 {
				time.Sleep(50 * time.Millisecond)
				lab.Put(t, e, "another", 1)
				if grown := lab.HeapInUse() - before; grown > limit {
					t.Fatalf("%d calls with 100 KiB hold %d MiB", calls, grown>>20)
				}
			}
			cancel()
			wg.Wait()
			if grown := lab.HeapInUse() - before; grown > limit {
				t.Errorf("%d calls that have left hold %d MiB", calls, grown>>20)
			}
			db.Resume()
			lab.Eventually(t, "L3 decides again", func() bool { return call(context.Background(), name+" again-") == nil })
		})
	}
}

// TestINV10WhoWaitsToCopyLeavesNoTrace: a call that does not fit beside what others copy ends with
// its ctx, or is refused at once when the log is full; one that memory takes does not wait.
func TestINV10WhoWaitsToCopyLeavesNoTrace(t *testing.T) {
	ctx := context.Background()
	large := lab.BigDoc(3 << 10)
	gate, release := lab.Hold()
	defer release()
	in := make(chan struct{}, 1)
	l3 := lab.NewChoosy(t)
	defer l3.Release()
	e := lab.Open(t, syncengine.Config{L3: l3, L1MaxBytes: 8 << 20, WALMaxBytes: 8 << 20, BatchFlushInterval: time.Hour, PriorityFunc: func(s syncengine.AccessStats) syncengine.Priority {
		if s.ContentBytes == len(large) { // its call has copied it
			in <- struct{}{}
			<-gate
		}
		return s.Priority
	}})
	lab.Put(t, e, "held", 1)
	held, waited := make(chan error, 1), make(chan error, 1)
	go func() { held <- e.Submit(ctx, syncengine.Item{ID: "held", Content: large}) }()
	<-in
	given, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
	defer cancel()
	if err := e.Submit(given, syncengine.Item{ID: "left", Content: large}); err != context.DeadlineExceeded { // its outcome is known
		t.Errorf("who waits: %v", err)
	}
	lab.WantContent(t, e, "left", -1)
	lab.Must(t, e.Submit(ctx, syncengine.Item{ID: "buffered", Content: lab.BigDoc(2 << 10)}, syncengine.WithDurability(syncengine.Buffered)))
	l3.Away.Store(true)
	var err error
	for n := 0; err == nil; n++ {
		err = e.Submit(ctx, syncengine.Item{ID: fmt.Sprint("fits-", n), Content: lab.BigDoc(100)})
	}
	if !errors.Is(err, syncengine.ErrBackpressure) {
		t.Fatalf("until the log is full: %v", err)
	}
	if err := e.Submit(ctx, syncengine.Item{ID: "refused", Content: large}); !errors.Is(err, syncengine.ErrBackpressure) {
		t.Errorf("the log is full: %v", err)
	}
	l3.Away.Store(false)
	lab.Eventually(t, "L3 is back", func() bool { return e.Flush(ctx) == nil })
	go func() { waited <- e.Submit(ctx, syncengine.Item{ID: "waited", Content: large}) }()
	release()
	lab.Must(t, <-held)
	lab.Must(t, <-waited)
	lab.Must(t, e.Flush(ctx))
	lab.Must(t, e.Submit(ctx, syncengine.Item{ID: "alone", Content: lab.BigDoc(5 << 10)}))
}

// TestINV11WhatACallerDoesToContentChangesNothingStored: content that was changed in memory is
// taken from the WAL, or is refused.
func TestINV11WhatACallerDoesToContentChangesNothingStored(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	cfg := syncengine.Config{Dir: dir, BatchFlushInterval: time.Hour}
	e := lab.Open(t, cfg)
	lab.Put(t, e, "logged", 1)
	lab.Put(t, e, "buffered", 1, syncengine.WithDurability(syncengine.Buffered))
	for _, id := range []string{"logged", "buffered"} {
		it, err := e.Get(ctx, id)
		lab.Must(t, err)
		it.Content[2] ^= 1
	}
	if err := e.Flush(ctx); !errors.Is(err, syncengine.ErrRefused) {
		t.Errorf("Flush: %v, want ErrRefused for what can't be mended", err)
	}
	lab.WantContent(t, e, "logged", 1)
	ops, err := e.Quarantined(ctx)
	if err != nil || len(ops) != 1 || ops[0].ID != "buffered" {
		t.Errorf("quarantine: %+v, %v", ops, err)
	}
	if n, err := e.RetryQuarantined(ctx); n != 0 || !errors.Is(err, syncengine.ErrCorruption) {
		t.Errorf("a retry: %d, %v, want ErrCorruption", n, err)
	}
	lab.Must(t, e.Close())
	e = lab.Open(t, cfg)
	lab.WantContent(t, e, "logged", 1)
	if _, err := e.Get(ctx, "buffered"); !errors.Is(err, syncengine.ErrCorruption) {
		t.Errorf("Get of the changed one: %v, want ErrCorruption", err)
	}
	if r, err := e.Verify(ctx, syncengine.VerifyOptions{Deep: true}); err != nil || !r.InSync {
		t.Errorf("Verify: %+v, %v", r, err)
	}
}

// spoil changes what memory holds of an item, as a caller may that must not.
func spoil(t *testing.T, e *syncengine.Engine, id string) {
	t.Helper()
	it, err := e.Get(context.Background(), id)
	lab.Must(t, err)
	it.Content[2] ^= 1
}

// wantVerified checks one id: n < 0 means that nobody knows any more what it is.
func wantVerified(t *testing.T, e *syncengine.Engine, id string, n int) {
	t.Helper()
	it, err := e.GetVerified(context.Background(), id)
	if n < 0 && errors.Is(err, syncengine.ErrCorruption) {
		return
	}
	if n < 0 || err != nil || string(it.Content) != string(lab.Doc(id, n)) {
		t.Errorf("GetVerified of %s: %.40s, %v, want n = %d", id, it.Content, err, n)
	}
}

// TestINV11GetVerifiedTakesAPendingOpFromTheWAL when a caller has changed the content in memory.
func TestINV11GetVerifiedTakesAPendingOpFromTheWAL(t *testing.T) {
	ctx := context.Background()
	for _, away := range []bool{false, true} {
		t.Run(fmt.Sprint("L3 is away: ", away), func(t *testing.T) {
			l3 := lab.NewChoosy(t)
			defer l3.Release()
			e := lab.Open(t, syncengine.Config{L3: l3, BatchFlushInterval: time.Hour, CloseTimeout: time.Second})
			l3.Away.Store(away)
			lab.Put(t, e, "p", 0)
			lab.Must(t, e.Delete(ctx, "p"))
			_, err := e.SubmitMany(ctx, []syncengine.Item{{ID: "p", Content: lab.Doc("p", 1)}, {ID: "q", Content: lab.Doc("q", 2)}})
			lab.Must(t, err)
			spoil(t, e, "p")
			spoil(t, e, "q")
			for range 2 {
				wantVerified(t, e, "p", 1)
				wantVerified(t, e, "q", 2)
			}
			lab.Must(t, e.Delete(ctx, "p"))
			if it, err := e.GetVerified(ctx, "p"); !errors.Is(err, syncengine.ErrNotFound) {
				t.Errorf("GetVerified of the deleted one: %s, %v", it.Content, err)
			}
			wantVerified(t, e, "q", 2)
		})
	}
}

// TestINV11ABufferedOpIsWhatItWasWhenTheLogGotIt: one that was changed before is refused, also once
// an outage has put it into the log, which then holds what it was changed to.
func TestINV11ABufferedOpIsWhatItWasWhenTheLogGotIt(t *testing.T) {
	ctx := context.Background()
	l3 := lab.NewChoosy(t)
	defer l3.Release()
	inner := l3.OnApply
	l3.OnApply = func(ctx context.Context, recs []syncengine.Record) error {
		if err := inner(ctx, recs); err != nil || !l3.Away.Load() {
			return err
		}
		return lab.ErrAway
	}
	e := lab.Open(t, syncengine.Config{L3: l3, BatchFlushInterval: time.Hour, BatchFlushCount: 1, FlushConcurrency: 1, CloseTimeout: time.Second})
	l3.Stick(t, e)
	lab.Put(t, e, "before", 1, syncengine.WithDurability(syncengine.Buffered))
	lab.Put(t, e, "after", 2, syncengine.WithDurability(syncengine.Buffered))
	spoil(t, e, "before")
	wantVerified(t, e, "before", -1)
	l3.Away.Store(true)
	l3.Release()
	lab.Eventually(t, "all are logged", func() bool { return e.Stats().WALItems == 3 })
	spoil(t, e, "after")
	wantVerified(t, e, "after", 2)
	wantVerified(t, e, "before", -1)
	l3.Away.Store(false)
	lab.Eventually(t, "L3 is back", func() bool { return errors.Is(e.Flush(ctx), syncengine.ErrRefused) })
	wantVerified(t, e, "after", 2)
	if it, err := l3.ArchiveStore.Get(ctx, "before"); !errors.Is(err, syncengine.ErrNotFound) {
		t.Errorf("L3 holds %.40s, %v", it.Content, err)
	}
}

// TestFlushTellsOfWhatIsRefused, whoever was told before, and not of what is no longer.
func TestFlushTellsOfWhatIsRefused(t *testing.T) {
	ctx := context.Background()
	var refuse atomic.Bool
	refuse.Store(true)
	e := lab.Open(t, syncengine.Config{L3: &lab.HookedArchive{ArchiveStore: storetest.NewArchive(), OnApply: func(ctx context.Context, recs []syncengine.Record) error {
		if refuse.Load() {
			return lab.RefusePoison(ctx, recs)
		}
		return nil
	}}})
	if err := e.Submit(ctx, syncengine.Item{ID: "x", Content: lab.Poison}, syncengine.WithDurability(syncengine.Archived)); !errors.Is(err, syncengine.ErrRefused) {
		t.Fatalf("Archived: %v", err)
	}
	for range 3 {
		if err := e.Flush(ctx); !errors.Is(err, syncengine.ErrRefused) {
			t.Errorf("Flush: %v, want ErrRefused", err)
		}
	}
	refuse.Store(false)
	if n, err := e.RetryQuarantined(ctx); n != 1 || err != nil {
		t.Fatalf("RetryQuarantined: %d, %v", n, err)
	}
	lab.Must(t, e.Flush(ctx))
}
