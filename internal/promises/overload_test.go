package promises

// overload_test.go asks for more than there is: priorities on a slow L3, and more writes than
// stores can take, from an open-loop generator, which goes on at its rate whatever becomes of
// its calls.

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/storetest"
)

// TestUrgentOpsLandFirstOnASlowL3AndLowOnesStillLand queues ops of all priorities behind a
// batch under way, in the wrong order.
func TestUrgentOpsLandFirstOnASlowL3AndLowOnesStillLand(t *testing.T) {
	ctx := context.Background()
	gate, release := lab.Hold()
	var mu sync.Mutex
	batch, batches := make(map[string]int), 0 // the last that an id was in
	l3 := &lab.HookedArchive{ArchiveStore: storetest.NewArchive(), OnApply: func(_ context.Context, recs []syncengine.Record) error {
		<-gate
		mu.Lock()
		defer mu.Unlock()
		batches++
		for i := range recs {
			batch[recs[i].ID] = batches
		}
		return nil
	}}
	e := lab.Open(t, syncengine.Config{L3: l3, FlushConcurrency: 1, BatchFlushCount: 5, BatchFlushInterval: time.Millisecond, L3Timeout: time.Minute})
	lab.Put(t, e, "read often", 1)
	for range 20 {
		lab.WantContent(t, e, "read often", 1)
	}
	for n := range 4 { // the first batch, which waits at the gate
		lab.Put(t, e, fmt.Sprint("first-", n), 1)
	}
	lab.Eventually(t, "a batch is under way", func() bool { return e.Stats().L1Pinned > 0 })
	names := []string{"low", "normal", "high", "critical"}
	for n := range 5 {
		for i, name := range names {
			lab.Put(t, e, fmt.Sprint(name, "-", n), 1, syncengine.WithPriority(syncengine.Priority(i-1)))
		}
		lab.Put(t, e, fmt.Sprint("normal too-", n), 1)
	}
	lab.Put(t, e, "read often", 2) // is raised
	release()
	lab.Must(t, e.Flush(ctx))
	for n := range 5 {
		for i := range names[1:] {
			urgent, other := fmt.Sprint(names[i+1], "-4"), fmt.Sprint(names[i], "-", n)
			if batch[urgent] > batch[other] {
				t.Errorf("%s landed in batch %d, %s in %d", urgent, batch[urgent], other, batch[other])
			}
		}
	}
	// "first-3" was there before, but if it went with the first batch at once.
	if at := batch["first-3"]; at > 1 && batch["read often"] > at {
		t.Errorf("what is read often landed in batch %d, others in %d", batch["read often"], at)
	}
	if it, err := e.Get(ctx, "read often"); err != nil || it.Priority != syncengine.PriorityNormal {
		t.Errorf("its priority became %v, %v", it.Priority, err)
	}
}

// TestALowOpWaitsABoundedTime keeps urgent ops coming faster than L3 takes them.
func TestALowOpWaitsABoundedTime(t *testing.T) {
	var low atomic.Bool
	l3 := &lab.HookedArchive{ArchiveStore: storetest.NewArchive(), OnApply: func(_ context.Context, recs []syncengine.Record) error {
		time.Sleep(2 * time.Millisecond)
		if slices.ContainsFunc(recs, func(r syncengine.Record) bool { return r.ID == "low" }) {
			low.Store(true)
		}
		return nil
	}}
	e := lab.Open(t, syncengine.Config{L3: l3, FlushConcurrency: 1, BatchFlushCount: 10, BatchFlushInterval: time.Millisecond, Durability: syncengine.Buffered})
	urgent := func(n int) {
		err := e.Submit(context.Background(), syncengine.Item{ID: fmt.Sprint("urgent-", n), Content: lab.Doc("u", n), Priority: syncengine.PriorityCritical})
		lab.Must(t, err)
	}
	for n := range 500 {
		urgent(n)
	}
	lab.Put(t, e, "low", 1, syncengine.WithPriority(syncengine.PriorityLow))
	for n := 500; !low.Load(); n++ { // 10 ops land in 2 ms, and there are always more waiting
		for e.Stats().PendingOps > 1000 && !low.Load() {
			time.Sleep(100 * time.Microsecond)
		}
		urgent(n)
		if n > 200_000 {
			t.Fatal("the low op starves")
		}
	}
	if e.Stats().PendingOps < 100 {
		t.Error("nothing urgent was waiting any more: this proves nothing")
	}
}

// slowL3 takes so many rows a second, and keeps of them the number alone.
type slowL3 struct {
	syncengine.ArchiveStore
	mu   sync.Mutex
	rate float64
	busy time.Time // until then
	rows atomic.Int64
}

func (s *slowL3) Apply(ctx context.Context, recs []syncengine.Record) ([]syncengine.Meta, error) {
	s.mu.Lock()
	now := time.Now()
	if s.busy.Before(now) {
		s.busy = now
	}
	s.busy = s.busy.Add(time.Duration(float64(len(recs)) / s.rate * 1e9))
	wait := s.busy.Sub(now)
	s.mu.Unlock()
	select {
	case <-time.After(wait):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	s.rows.Add(int64(len(recs)))
	return nil, nil
}

// haveGoroutines has so many goroutines at once, each waiting in a select, as callers do.
func haveGoroutines(n int) {
	var wg sync.WaitGroup
	gate, never := make(chan struct{}), make(chan struct{})
	for range n {
		wg.Go(func() {
			select {
			case <-gate:
			case <-never:
			}
		})
	}
	close(gate)
	wg.Wait()
}

// TestINV10OverloadIsRefusedWithinBoundsAndEndsByItself offers four times what L3 takes to an
// engine whose WAL is small, until the WAL is full, and beyond. What was accepted lands; what
// was refused changed nothing; memory stays within L1MaxBytes, a tenth of that, and the index of
// what is in the WAL alone; reads of what is in memory go on; and when the load ends,
// so does the refusing.
func TestINV10OverloadIsRefusedWithinBoundsAndEndsByItself(t *testing.T) {
	const (
		budget     = 4 << 20
		walItems   = 3000
		rate       = 1000 // rows a second: the slowest machine offers more
		offered    = 4 * rate
		lasts      = 3 * time.Second // at least, and until enough was refused
		constant   = 12 << 20        // buffers of the WAL and the drain
		perSpooled = 70
	)
	ctx := context.Background()
	l3 := &slowL3{ArchiveStore: storetest.NewArchive(), rate: rate}
	heap := func() int64 {
		runtime.GC()
		runtime.GC() // what pools hold goes with the second
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	lab.Must(t, lab.Applied(l3.ArchiveStore.Apply(ctx, []syncengine.Record{storetest.Put("hot", 1, string(lab.Doc("hot", 1)))})))
	e := lab.Open(t, syncengine.Config{L3: l3, L1MaxBytes: budget, WALMaxItems: walItems, BatchFlushInterval: 10 * time.Millisecond})
	haveGoroutines(offered) // so that what goroutines leave behind, which the runtime keeps, is there before
	before := heap()
	content := lab.BigDoc(1)
	var accepted, refused, failed atomic.Int64
	var wg sync.WaitGroup
	start := time.Now()
	for n := 0; time.Since(start) < lasts || refused.Load() < 500 && time.Since(start) < 20*lasts; n++ {
		if ahead := time.Duration(n)*time.Second/offered - time.Since(start); ahead > time.Millisecond {
			time.Sleep(ahead)
		}
		wg.Go(func() {
			err := e.Submit(ctx, syncengine.Item{ID: fmt.Sprint("id-", n), Content: content})
			var bp *syncengine.BackpressureError
			switch {
			case err == nil:
				accepted.Add(1)
			case errors.As(err, &bp):
				refused.Add(1)
				if bp.RetryAfter <= 0 || bp.Reason == "" {
					t.Errorf("a refusal without advice: %+v", bp)
				}
			default:
				failed.Add(1)
			}
		})
		if n%1000 == 0 {
			lab.WantContent(t, e, "hot", 1)
			if s := e.Stats(); s.L1Bytes > budget*11/10 || s.WALItems > walItems {
				t.Errorf("L1Bytes %d of %d, WAL %d of %d", s.L1Bytes, budget, s.WALItems, walItems)
			}
		}
	}
	wg.Wait()
	took := time.Since(start)
	landed := l3.rows.Load()
	grown := heap() - before
	t.Logf("%d accepted, %d refused, %d landed in %v; the heap grew by %d bytes", accepted.Load(), refused.Load(), landed, took.Round(time.Millisecond), grown)
	if limit := int64(budget*11/10 + constant + walItems*perSpooled); grown > limit {
		t.Errorf("the heap grew by %d bytes, more than %d", grown, limit)
	}
	if failed.Load() > 0 {
		t.Errorf("%d calls failed otherwise", failed.Load())
	}
	if refused.Load() == 0 || accepted.Load() < landed {
		t.Error("nothing was refused, or more landed than was accepted")
	}
	lab.Eventually(t, "the level falls", func() bool { return e.Backpressure() == syncengine.LevelNormal })
	lab.Put(t, e, "afterwards", 1)
	lab.Must(t, e.Flush(ctx))
	if rows := l3.rows.Load(); rows != accepted.Load()+1 {
		t.Errorf("%d ops were accepted, %d rows written", accepted.Load()+1, rows)
	}
}

// TestAWriteThatLeavesWhileItIsSlowedGivesItsPlaceBack fills the WAL until writes are slowed.
func TestAWriteThatLeavesWhileItIsSlowedGivesItsPlaceBack(t *testing.T) {
	e := lab.Open(t, syncengine.Config{L3: lab.AwayArchive(), WALMaxItems: 1000, BatchFlushCount: 100})
	for n := 0; e.Backpressure() < syncengine.LevelThrottle; n++ {
		lab.Put(t, e, fmt.Sprint("fill-", n), n)
	}
	before, left, stayed := e.Stats().WALItems, 0, int64(0)
	for n := range 40 {
		ctx, cancel := context.WithTimeout(context.Background(), time.Microsecond<<(n%12))
		switch err := e.Submit(ctx, syncengine.Item{ID: fmt.Sprint("late-", n), Content: lab.Doc("x", n)}); {
		case err == nil || !errors.Is(err, syncengine.ErrBackpressure) && errors.Is(err, context.DeadlineExceeded):
			stayed++ // or perhaps, when the commit was under way
		case errors.Is(err, syncengine.ErrBackpressure) && errors.Is(err, context.DeadlineExceeded):
			left++
		default:
			t.Fatal(err)
		}
		cancel()
	}
	if after := e.Stats().WALItems; left == 0 || after > before+stayed {
		t.Errorf("%d writes left while they were slowed, %d may have stayed; the WAL held %d ops and holds %d", left, stayed, before, after)
	}
}
