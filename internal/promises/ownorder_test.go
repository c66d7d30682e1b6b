package promises

// ownorder_test.go is about several ops of one id by one engine, when L3 gets them in another
// order than they were accepted in, or in several transactions: since priorities differ, or since
// L3 refuses something else in the batch. The last one stands, and none of them was superseded by
// another engine.

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/storetest"
)

// wantNoneSuperseded checks that no op was counted as superseded.
func wantNoneSuperseded(t *testing.T, e *syncengine.Engine) {
	t.Helper()
	if n := e.Stats().Superseded; n != 0 {
		t.Errorf("%d superseded, though there is no other engine", n)
	}
}

// A batch is split where L3 refuses something, so that two ops of an id are in two transactions.
// The caller of the later one was told of what the earlier one had lost to it, and wrote the
// earlier one again, above.
func TestINV03ASplitBatchKeepsTheOrderOfAnID(t *testing.T) {
	ctx := context.Background()
	high, archived := syncengine.WithPriority(syncengine.PriorityHigh), syncengine.WithDurability(syncengine.Archived)
	for name, c := range map[string]struct {
		earlier, later func(e *syncengine.Engine) error
		want           int
	}{
		"a put": {
			func(e *syncengine.Engine) error {
				return e.Submit(ctx, syncengine.Item{ID: "x", Content: lab.Doc("x", 1)})
			},
			func(e *syncengine.Engine) error {
				return e.Submit(ctx, syncengine.Item{ID: "x", Content: lab.Doc("x", 2)}, archived, high)
			}, 2},
		"a put that nobody waits for": {
			func(e *syncengine.Engine) error {
				return e.Submit(ctx, syncengine.Item{ID: "x", Content: lab.Doc("x", 1)})
			},
			func(e *syncengine.Engine) error {
				return e.Submit(ctx, syncengine.Item{ID: "x", Content: lab.Doc("x", 2)}, high)
			}, 2},
		"a delete": {
			func(e *syncengine.Engine) error {
				return e.Submit(ctx, syncengine.Item{ID: "x", Content: lab.Doc("x", 1)})
			},
			func(e *syncengine.Engine) error { return e.Delete(ctx, "x", archived, high) }, -1},
		"a group": {
			func(e *syncengine.Engine) error {
				_, err := e.SubmitMany(ctx, []syncengine.Item{{ID: "x", Content: lab.Doc("x", 1)}, {ID: "y", Content: lab.Doc("y", 1)}})
				return err
			},
			func(e *syncengine.Engine) error {
				_, err := e.SubmitMany(ctx, []syncengine.Item{{ID: "x", Content: lab.Doc("x", 2)}, {ID: "y", Content: lab.Doc("y", 2)}}, archived, high)
				return err
			}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			l3 := lab.NewChoosy(t)
			e := lab.Open(t, syncengine.Config{L3: l3, BatchFlushInterval: time.Hour})
			lab.Must(t, c.earlier(e))
			lab.Must(t, e.Submit(ctx, syncengine.Item{ID: "bad", Content: lab.Poison}))
			lab.Must(t, c.later(e))
			if err := e.Flush(ctx); !errors.Is(err, syncengine.ErrRefused) {
				t.Fatalf("Flush: %v", err)
			}
			lab.WantContent(t, e, "x", c.want)
			wantNoneSuperseded(t, e)
			rec, err := l3.ArchiveStore.Get(ctx, "x")
			if rec.Deleted != (c.want < 0) || c.want > 0 && (err != nil || string(rec.Content) != string(lab.Doc("x", c.want))) {
				t.Errorf("L3 holds %.40s (deleted %v), %v", rec.Content, rec.Deleted, err)
			}
		})
	}
}

// The later op overtakes by its priority, lands, and leaves memory. The earlier one, whose caller
// waits, was then taken for the last.
func TestINV03AnOvertakenArchivedOpStaysBelowALaterOne(t *testing.T) {
	ctx := context.Background()
	l3 := lab.NewChoosy(t)
	defer l3.Release()
	landed, gate := make(chan bool), make(chan bool)
	inner, once := l3.OnApply, sync.OnceFunc(func() { close(landed); <-gate })
	l3.OnApply = func(ctx context.Context, recs []syncengine.Record) error {
		for i := range recs {
			if recs[i].ID == "after" {
				once()
			}
		}
		return inner(ctx, recs)
	}
	e := lab.Open(t, syncengine.Config{L3: l3, BatchFlushInterval: time.Hour, BatchFlushCount: 1, FlushConcurrency: 1, L1MaxBytes: 1 << 20})
	large := func(n int) []byte { return fmt.Appendf(nil, "%d%s", n, strings.Repeat(" ", 100<<10)) }
	for i := range 10 {
		lab.Must(t, e.Submit(ctx, syncengine.Item{ID: fmt.Sprint("other-", i), Content: large(0)}))
	}
	lab.Must(t, e.Flush(ctx))
	l3.Stick(t, e)
	first := make(chan error, 1)
	go func() {
		first <- e.Submit(ctx, syncengine.Item{ID: "x", Content: large(1)}, syncengine.WithDurability(syncengine.Archived), syncengine.WithPriority(syncengine.PriorityLow))
	}()
	lab.Eventually(t, "the first waits", func() bool { return e.Stats().PendingOps == 2 })
	lab.Must(t, e.Submit(ctx, syncengine.Item{ID: "x", Content: large(2)}, syncengine.WithPriority(syncengine.PriorityCritical)))
	lab.Put(t, e, "after", 1)
	l3.Release()
	<-landed
	lab.Eventually(t, "the second leaves memory", func() bool {
		for i := range 10 {
			_, err := e.Get(ctx, fmt.Sprint("other-", i))
			lab.Must(t, err)
		}
		st, err := e.Status(ctx, "x")
		lab.Must(t, err)
		return !st.InL1
	})
	close(gate)
	lab.Must(t, <-first)
	lab.Must(t, e.Flush(ctx))
	if it, err := e.Get(ctx, "x"); err != nil || it.Content[0] != '2' {
		t.Errorf("x holds %.3s, %v; want 2", it.Content, err)
	}
	wantNoneSuperseded(t, e)
}

// theirsBetween puts another engine's row into L3 that is above all that was written before, and
// waits until the clock has passed it.
func theirsBetween(t *testing.T, l3 *lab.Choosy, id string) {
	t.Helper()
	v := syncengine.VersionAt(time.Now().Add(2 * time.Millisecond))
	_, err := l3.ArchiveStore.Apply(context.Background(), []syncengine.Record{storetest.Put(id, v, `"theirs"`)})
	lab.Must(t, err)
	lab.Eventually(t, "the clock passes it", func() bool { return syncengine.VersionAt(time.Now()) > v+1<<16 })
}

// An Archived op, then a delete that overtakes it and loses to another engine's write. The op
// must not come back above all of them: what its caller stands for is the delete.
func TestINV03AnOvertakenArchivedOpDoesNotUndoALaterDelete(t *testing.T) {
	ctx := context.Background()
	l3 := lab.NewChoosy(t)
	defer l3.Release()
	e := lab.Open(t, syncengine.Config{L3: l3, BatchFlushInterval: time.Hour, BatchFlushCount: 1, FlushConcurrency: 1})
	l3.Stick(t, e)
	first := make(chan error, 1)
	go func() {
		first <- e.Submit(ctx, syncengine.Item{ID: "x", Content: lab.Doc("x", 1)}, syncengine.WithDurability(syncengine.Archived), syncengine.WithPriority(syncengine.PriorityLow))
	}()
	lab.Eventually(t, "the first waits", func() bool { return e.Stats().PendingOps == 2 })
	lab.Must(t, e.Delete(ctx, "x", syncengine.WithPriority(syncengine.PriorityCritical)))
	theirsBetween(t, l3, "x")
	l3.Release()
	lab.Must(t, <-first)
	lab.Must(t, e.Flush(ctx))
	lab.WantContent(t, e, "x", -1)
}

// A good op is outranked, and a later bad one of the id is refused. The caller of the good one was
// told of the refusal, and the bad one was written twice.
func TestINV01AnOutrankedArchivedOpIsNotTakenForALaterRefusedOne(t *testing.T) {
	ctx := context.Background()
	l3 := lab.NewChoosy(t)
	defer l3.Release()
	under, gate := make(chan bool), make(chan bool)
	inner, once := l3.OnApply, sync.OnceFunc(func() { close(under); <-gate })
	l3.OnApply = func(ctx context.Context, recs []syncengine.Record) error {
		if recs[0].ID == "x" {
			once()
		}
		return inner(ctx, recs)
	}
	e := lab.Open(t, syncengine.Config{L3: l3, BatchFlushInterval: time.Millisecond})
	first := make(chan error, 1)
	go func() {
		first <- e.Submit(ctx, syncengine.Item{ID: "x", Content: lab.Doc("x", 1)}, syncengine.WithDurability(syncengine.Archived))
	}()
	<-under
	theirsBetween(t, l3, "x")
	lab.Must(t, e.Submit(ctx, syncengine.Item{ID: "x", Content: lab.Poison}))
	close(gate)
	lab.Must(t, <-first)
	if err := e.Flush(ctx); err != nil {
		t.Errorf("Flush: %v; what is refused was superseded", err)
	}
	wantQuarantined(t, e, "x-")
	lab.WantContent(t, e, "x", 1)
}

// Low and critical ops of an id come back from the WAL after an outage.
func TestOwnOpsOfTheSpoolAreNotSupersededByEachOther(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	l3 := lab.NewChoosy(t)
	cfg := syncengine.Config{Dir: t.TempDir(), L3: l3, BatchFlushCount: 5, FlushConcurrency: 1}
	l3.Away.Store(true)
	e := lab.Open(t, cfg)
	lab.Put(t, e, "x", 1, syncengine.WithPriority(syncengine.PriorityLow))
	for i := range 8 {
		lab.Put(t, e, fmt.Sprint("other-", i), i, syncengine.WithPriority(syncengine.PriorityHigh))
	}
	lab.Put(t, e, "x", 2, syncengine.WithPriority(syncengine.PriorityCritical))
	if err := e.Close(); !errors.Is(err, syncengine.ErrPending) {
		t.Fatalf("Close: %v", err)
	}
	l3.Away.Store(false)
	e = lab.Open(t, cfg)
	lab.Must(t, e.Flush(ctx))
	lab.WantContent(t, e, "x", 2)
	wantNoneSuperseded(t, e)
}

// An op numbered ahead of the clock leaves memory, or the engine ends. A later plain write of the
// id lost to it, on an engine alone on its own file.
func TestINV16AWriteIsAboveWhatItsIDWasNumberedAheadOfTheClock(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for _, durability := range everyLevel[1:] {
		onEachL3(t, func(t *testing.T, cfg syncengine.Config) {
			cfg.L1MaxBytes = 64 << 10
			e := lab.Open(t, cfg)
			lab.Must(t, e.Submit(ctx, syncengine.Item{ID: "x", Content: lab.Doc("x", 1)}, syncengine.WithDurability(durability), syncengine.WithVersion(syncengine.VersionAt(time.Now().Add(50*time.Second)))))
			lab.Must(t, e.Flush(ctx))
			leavesL1(t, e, "x", func(round int) {
				lab.Must(t, e.Submit(ctx, syncengine.Item{ID: fmt.Sprint("other-", round), Content: lab.BigDoc(20)}))
				lab.Must(t, e.Flush(ctx))
			})
			lab.Put(t, e, "x", 2)
			lab.Must(t, e.Flush(ctx))
			lab.WantContent(t, e, "x", 2)
			lab.Must(t, e.Close())
			e = lab.Open(t, cfg)
			lab.Put(t, e, "x", 3)
			lab.Put(t, e, "other", 1)
			lab.Must(t, e.Flush(ctx))
			lab.WantContent(t, e, "x", 3)
			wantNoneSuperseded(t, e)
			wantTimely(t, e, "other")
		})
	}
}

func TestINV16AWriteAfterACrashIsAboveWhatItsIDWasNumbered(t *testing.T) {
	l3 := storetest.NewArchive()
	cfg := syncengine.Config{Dir: t.TempDir(), L3: l3}
	e := lab.Open(t, cfg)
	lab.Must(t, e.Submit(context.Background(), syncengine.Item{ID: "x", Content: lab.Doc("x", 1)}, syncengine.WithVersion(syncengine.VersionAt(time.Now().Add(50*time.Second)))))
	lab.Must(t, e.Flush(context.Background()))
	lab.Eventually(t, "the log forgets it", func() bool { return e.Stats().WALItems == 0 })
	e = lab.Open(t, syncengine.Config{Dir: lab.Killed(t, cfg.Dir), L3: l3})
	lab.Put(t, e, "x", 2)
	lab.Must(t, e.Flush(context.Background()))
	lab.WantContent(t, e, "x", 2)
	wantNoneSuperseded(t, e)
}

// A Buffered op that an outage puts into the log comes after a later one of its id there. When that
// one has landed, the next engine found the earlier one alone, and in an outage answered with it.
func TestINV02AnOpThatWasLoggedLateIsNotTakenForTheNewest(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	l3 := lab.NewChoosy(t)
	cfg := syncengine.Config{Dir: t.TempDir(), L3: l3, BatchFlushCount: 1, BatchFlushInterval: time.Hour}
	e := lab.Open(t, cfg)
	l3.Away.Store(true)
	lab.Must(t, e.Submit(ctx, syncengine.Item{ID: "x", Content: lab.Doc("x", 1)}, syncengine.WithDurability(syncengine.Buffered)))
	lab.Must(t, e.Submit(ctx, syncengine.Item{ID: "x", Content: lab.Doc("x", 2)}, syncengine.WithDurability(syncengine.Logged)))
	if err := e.Close(); !errors.Is(err, syncengine.ErrPending) {
		t.Fatalf("Close: %v", err)
	}
	apply := l3.OnApply
	l3.OnApply = func(ctx context.Context, recs []syncengine.Record) error { // after one write it is away again
		if l3.Away.Load() {
			return lab.ErrAway
		}
		l3.Away.Store(true)
		return nil
	}
	l3.Away.Store(false)
	e = lab.Open(t, cfg)
	if err := e.Flush(ctx); !errors.Is(err, syncengine.ErrUnavailable) {
		t.Fatalf("Flush: %v", err)
	}
	if n := e.Stats().PendingOps; n != 1 {
		t.Fatalf("%d ops are pending, want the one that was logged late", n)
	}
	if err := e.Close(); !errors.Is(err, syncengine.ErrPending) {
		t.Fatalf("Close: %v", err)
	}
	l3.OnApply = apply
	e = lab.Open(t, cfg)
	if it, err := e.Get(ctx, "x"); !errors.Is(err, syncengine.ErrUnavailable) {
		t.Errorf("Get: %.20s, %v; want ErrUnavailable", it.Content, err)
	}
	items, err := e.GetMany(ctx, []string{"x"})
	if !errors.Is(err, syncengine.ErrUnavailable) || items[0] != nil {
		t.Errorf("GetMany: %v, %v; want ErrUnavailable", items[0], err)
	}
	l3.Away.Store(false)
	lab.Must(t, e.Flush(ctx))
	lab.WantContent(t, e, "x", 2)
}
