package promises

// discard_test.go is about ops around one that L3 refuses and that is discarded or retried: below
// it, like it, decided by it, and on their way while it happens.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/failpoint"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/sqlkit"
)

// privateWith is an engine with an archive of its own that refuses what a trigger refuses.
func privateWith(t *testing.T, when string) *syncengine.Engine {
	t.Helper()
	dir := t.TempDir()
	e := lab.Open(t, syncengine.Config{Dir: dir, BatchFlushInterval: time.Hour})
	lab.Must(t, e.Submit(context.Background(), syncengine.Item{ID: "x", Content: []byte(`{"n":0}`)}))
	lab.Must(t, e.Flush(context.Background()))
	raw, err := sqlkit.OpenSQLite(filepath.Join(dir, "archive.db"), "")
	lab.Must(t, err)
	t.Cleanup(func() { _ = raw.Close() })
	_, err = raw.Exec(`CREATE TRIGGER refuses BEFORE UPDATE ON sync_items WHEN ` + when + ` BEGIN SELECT RAISE(ABORT, 'not this'); END`)
	lab.Must(t, err)
	return e
}

// holdFirst holds the first document of x in L3's hands until release, and tells when it is there.
func holdFirst(l3 *lab.Choosy) (in chan struct{}, release func()) {
	in = make(chan struct{}, 1)
	gate, release := lab.Hold()
	inner := l3.OnApply
	l3.OnApply = func(ctx context.Context, recs []syncengine.Record) error {
		if err := inner(ctx, recs); err != nil {
			return err
		}
		for i := range recs {
			if recs[i].ID == "x" && string(recs[i].Content) == string(lab.Doc("x", 1)) {
				select {
				case in <- struct{}{}:
				default:
				}
				<-gate
			}
		}
		return nil
	}
	return in, release
}

// An op waits below one that is refused and discarded. A read brought what L3 held to memory, and
// was answered with that also when the op had landed.
func TestINV02AnOpBelowADiscardedOneIsRead(t *testing.T) {
	for name, d := range map[string]syncengine.Durability{"buffered": syncengine.Buffered, "logged": syncengine.Logged} {
		t.Run(name, func(t *testing.T) {
			ctx := context.Background()
			l3 := lab.NewChoosy(t)
			in, release := holdFirst(l3)
			e := lab.Open(t, syncengine.Config{L3: l3, BatchFlushInterval: time.Hour})
			defer release()
			lab.Put(t, e, "x", 0)
			lab.Must(t, e.Flush(ctx))
			lab.Put(t, e, "x", 1, syncengine.WithDurability(d), syncengine.WithPriority(syncengine.PriorityLow))
			lab.Must(t, e.Submit(ctx, syncengine.Item{ID: "x", Content: lab.Poison}, syncengine.WithPriority(syncengine.PriorityCritical)))
			flushed := make(chan error, 1)
			go func() { flushed <- e.Flush(ctx) }()
			<-in
			wantQuarantined(t, e, "x")
			wantPoison(t, e, "x")
			if n, err := e.DiscardQuarantined(ctx, "x"); n != 1 || err != nil {
				t.Fatal(n, err)
			}
			lab.WantContent(t, e, "x", 1)
			release()
			lab.Must(t, <-flushed)
			lab.WantContent(t, e, "x", 1)
		})
	}
}

// After an outage L3 has refused a row: Health said until the next write that it takes none.
func TestARefusalProvesThatL3TakesWrites(t *testing.T) {
	ctx := context.Background()
	l3 := lab.NewChoosy(t)
	e := lab.Open(t, syncengine.Config{L3: l3, BatchFlushInterval: time.Hour})
	l3.Away.Store(true)
	lab.Must(t, e.Submit(ctx, syncengine.Item{ID: "x", Content: lab.Poison}))
	if err := e.Flush(ctx); !errors.Is(err, syncengine.ErrUnavailable) {
		t.Fatal(err)
	}
	l3.Away.Store(false)
	lab.Eventually(t, "refused", func() bool { return errors.Is(e.Flush(ctx), syncengine.ErrRefused) })
	h := e.Health(ctx)
	if !h.L3.OK {
		t.Errorf("Health: %+v", h.L3)
	}
}

// The very same op was accepted again after it was refused. A discard of the refused one let the
// WAL forget the other.
func TestINV01ADiscardTakesNoRepetitionOfTheSameOp(t *testing.T) {
	ctx := context.Background()
	l3 := lab.NewChoosy(t)
	defer l3.Release()
	cfg := syncengine.Config{Dir: t.TempDir(), L3: l3, BatchFlushInterval: time.Hour, FlushConcurrency: 2}
	e := lab.Open(t, cfg)
	v := syncengine.WithVersion(syncengine.VersionAt(time.Now()))
	lab.Must(t, e.Submit(ctx, syncengine.Item{ID: "x", Content: lab.Poison}, v))
	if err := e.Flush(ctx); !errors.Is(err, syncengine.ErrRefused) {
		t.Fatal(err)
	}
	l3.Tolerant.Store(true)
	lab.Must(t, e.Submit(ctx, syncengine.Item{ID: "x", Content: lab.Poison}, v)) // acknowledged at Logged
	if n, err := e.DiscardQuarantined(ctx, "x"); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	wantPoison(t, e, "x") // read before the crash
	crash := lab.Killed(t, cfg.Dir)
	lab.Must(t, e.Flush(ctx))
	wantPoison(t, e, "x")
	lab.Must(t, e.Close())
	l3b := lab.NewChoosy(t)
	l3b.Tolerant.Store(true)
	cfg.L3, cfg.Dir = l3b, crash
	e = lab.Open(t, cfg)
	lab.Must(t, e.Flush(ctx))
	wantPoison(t, e, "x")
}

// A discard counted for all ids.
func TestADiscardOfAnotherIDStartsNoSecondFactory(t *testing.T) {
	ctx := context.Background()
	l3 := lab.NewChoosy(t)
	e := lab.Open(t, syncengine.Config{L3: l3, BatchFlushInterval: time.Hour})
	second := func(id string) bool {
		other := "not " + id
		poisonous(t, e, other)
		gate, release := lab.Hold()
		defer release()
		in := make(chan struct{}, 2)
		factory := func(context.Context) (syncengine.Item, error) {
			in <- struct{}{}
			<-gate
			return syncengine.Item{Content: lab.Doc("a", 1)}, nil
		}
		made := make(chan error, 1)
		go func() {
			_, err := e.GetOrInsertWith(ctx, id, factory)
			made <- err
		}()
		<-in
		if n, err := e.DiscardQuarantined(ctx, other); n != 1 || err != nil {
			t.Fatal(n, err)
		}
		short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		defer cancel()
		if _, err := e.GetOrInsertWith(short, id, factory); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a call that shares the factory: %v", err)
		}
		begun := len(in) > 0
		release()
		lab.Must(t, <-made)
		return begun
	}
	// Of a thousand ids one counts a discard as its own.
	if second("a") && second("b") {
		t.Error("a second factory of the id has begun")
	}
}

// A refused Buffered op is discarded while its batch goes on. An outage lab.Put it into the WAL all
// the same, and the next engine sent it to L3.
func TestINV02AnOutageLogsNothingThatWasDiscarded(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"killed", "goes on"} {
		t.Run(how, func(t *testing.T) {
			ctx := context.Background()
			l3 := lab.NewChoosy(t)
			cfg := syncengine.Config{Dir: t.TempDir(), L3: l3, BatchFlushInterval: time.Hour, Durability: syncengine.Buffered, FlushConcurrency: 2}
			e := lab.Open(t, cfg)
			defer l3.Release()
			lab.Put(t, e, "refused", 1)
			lab.Put(t, e, "stuck", 1)
			flushed := make(chan error, 1)
			go func() { flushed <- e.Flush(ctx) }()
			<-l3.Stuck
			wantQuarantined(t, e, "refused")
			if n, err := e.DiscardQuarantined(ctx, "refused"); n != 1 || err != nil {
				t.Fatal(n, err)
			}
			lab.WantContent(t, e, "refused", -1)
			l3.Away.Store(true)
			lab.Put(t, e, "other", 1)
			if err := e.Flush(ctx); !errors.Is(err, syncengine.ErrUnavailable) {
				t.Fatal(err)
			}
			lab.Eventually(t, "logged", func() bool { return e.Stats().WALItems >= 2 })
			crash := lab.Killed(t, cfg.Dir)
			l3.Release()
			<-flushed
			if how == "goes on" {
				l3.Away.Store(false)
				lab.Eventually(t, "flushed", func() bool { return e.Flush(ctx) == nil })
				wantQuarantined(t, e)
				lab.WantContent(t, e, "refused", -1)
				return
			}
			_ = e.Close()
			cfg.Dir = crash
			l3.Tolerant.Store(true)
			e = lab.Open(t, cfg)
			if it, err := e.Get(ctx, "refused"); err == nil {
				t.Errorf("the discarded op is back after a crash: %.20s", it.Content)
			}
			l3.Away.Store(false)
			lab.Eventually(t, "flushed", func() bool { return e.Flush(ctx) == nil })
			if rec, err := l3.Get(ctx, "refused"); err == nil {
				t.Errorf("L3 has got the discarded op: %.20s", rec.Content)
			}
		})
	}
}

// The same, in an engine that lives on, and spools.
func TestINV02AnOutageSpoolsNothingThatWasDiscarded(t *testing.T) {
	ctx := context.Background()
	l3 := lab.NewChoosy(t)
	var fails atomic.Bool
	inner := l3.OnApply
	l3.OnApply = func(ctx context.Context, recs []syncengine.Record) error {
		err := inner(ctx, recs) // waits for the gate
		if err == nil && fails.Load() {
			return fmt.Errorf("read only: %w", syncengine.ErrUnavailable)
		}
		return err
	}
	e := lab.Open(t, syncengine.Config{L3: l3, BatchFlushInterval: time.Hour, FlushConcurrency: 1, L1MaxBytes: 512 << 10})
	defer l3.Release()
	lab.Put(t, e, "refused", 1, syncengine.WithDurability(syncengine.Buffered))
	lab.Put(t, e, "stuck", 1, syncengine.WithDurability(syncengine.Buffered))
	flushed := make(chan error, 1)
	go func() { flushed <- e.Flush(ctx) }()
	<-l3.Stuck
	wantQuarantined(t, e, "refused")
	if n, err := e.DiscardQuarantined(ctx, "refused"); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	lab.WantContent(t, e, "refused", -1)
	for n := 0; e.Stats().SpooledOps < 3; n++ {
		lab.Must(t, e.Submit(ctx, syncengine.Item{ID: fmt.Sprint("other-", n), Content: lab.BigDoc(20)}))
	}
	fails.Store(true)
	l3.Release()
	l3.Tolerant.Store(true)
	fails.Store(false)
	lab.Eventually(t, "flushed", func() bool { return e.Flush(ctx) == nil })
	if rec, err := l3.Get(ctx, "refused"); err == nil {
		t.Errorf("L3 has got what was discarded: %.20s", rec.Content)
	}
}

// What fn was given is discarded while it runs.
func TestINV14AnUpdateDoesNotBuildOnWhatIsDiscardedMeanwhile(t *testing.T) {
	ctx := context.Background()
	e := privateWith(t, `NEW.content = CAST('{"n":100}' AS BLOB)`)
	lab.Must(t, e.Submit(ctx, syncengine.Item{ID: "x", Content: []byte(`{"n":100}`)}))
	if err := e.Flush(ctx); !errors.Is(err, syncengine.ErrRefused) {
		t.Fatal(err)
	}
	runs := 0
	it, err := e.Update(ctx, "x", func(cur syncengine.Item, _ bool) (syncengine.Item, error) {
		runs++
		if runs == 1 {
			if n, err := e.DiscardQuarantined(ctx, "x"); n != 1 || err != nil {
				t.Error(n, err)
			}
		}
		var n int
		_, err := fmt.Sscanf(string(cur.Content), `{"n":%d}`, &n)
		cur.Content = []byte(fmt.Sprintf(`{"n":%d}`, n+1))
		return cur, err
	})
	if err != nil || !bytes.Equal(it.Content, []byte(`{"n":1}`)) {
		t.Errorf("%d runs; Update stored %s, %v; the item was {n:0} when it was decided", runs, it.Content, err)
	}
}

// A refused delete is discarded while the factory runs: the item is there again.
func TestINV14AFactoryDoesNotOverwriteWhatADiscardedDeleteHid(t *testing.T) {
	ctx := context.Background()
	e := privateWith(t, `NEW.deleted = 1`)
	lab.Must(t, e.Delete(ctx, "x"))
	if err := e.Flush(ctx); !errors.Is(err, syncengine.ErrRefused) {
		t.Fatal(err)
	}
	it, err := e.GetOrInsertWith(ctx, "x", func(context.Context) (syncengine.Item, error) {
		if n, err := e.DiscardQuarantined(ctx, "x"); n != 1 || err != nil {
			t.Error(n, err)
		}
		if it, err := e.Get(ctx, "x"); err != nil {
			t.Error(it, err)
		}
		return syncengine.Item{Content: []byte(`{"made":true}`)}, nil
	})
	if err != nil || !bytes.Equal(it.Content, []byte(`{"n":0}`)) {
		t.Errorf("the item existed when the factory's was inserted, and is now %s, %v", it.Content, err)
	}
}

// An op is retried, and spooled, while the batch that L3 refused it in goes on. When that ended,
// the index of spooled ops forgot it.
func TestINV02ARetriedOpOutlivesItsFirstBatch(t *testing.T) {
	ctx := context.Background()
	l3 := lab.NewChoosy(t)
	var ro atomic.Bool
	inner := l3.OnApply
	l3.OnApply = func(ctx context.Context, recs []syncengine.Record) error {
		if ro.Load() {
			return fmt.Errorf("read only: %w", syncengine.ErrUnavailable)
		}
		return inner(ctx, recs)
	}
	cfg := syncengine.Config{L3: l3, Dir: t.TempDir(), BatchFlushInterval: time.Hour, FlushConcurrency: 1, L1MaxBytes: 512 << 10}
	e := lab.Open(t, cfg)
	defer l3.Release()
	lab.Put(t, e, "refused", 1)
	lab.Put(t, e, "stuck", 1)
	flushed := make(chan error, 1)
	go func() { flushed <- e.Flush(ctx) }()
	<-l3.Stuck
	wantQuarantined(t, e, "refused")
	n := 0
	fill := func(int) {
		lab.Must(t, e.Submit(ctx, syncengine.Item{ID: fmt.Sprint("other-", n), Content: lab.BigDoc(20)}))
		n++
	}
	for e.Stats().SpooledOps < 3 {
		fill(0)
	}
	if n, err := e.RetryQuarantined(ctx); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	wantQuarantined(t, e)
	lab.WantContent(t, e, "refused", 1)
	for range 60 { // evict it
		fill(0)
	}
	for i := range 20 {
		for k := range 5 {
			_, _ = e.Get(ctx, fmt.Sprint("other-", n-1-k-i))
		}
	}
	lab.WantContent(t, e, "refused", 1)
	leavesL1(t, e, "refused", func(int) { fill(0) })
	ro.Store(true)
	l3.Release()
	<-flushed
	lab.WantContent(t, e, "refused", 1) // it waits in the WAL
}

// A Buffered op that was numbered ahead waits below the discarded one.
func TestINV16AWriteAfterADiscardIsAboveWhatWasBelow(t *testing.T) {
	ctx := context.Background()
	l3 := lab.NewChoosy(t)
	in, release := holdFirst(l3)
	told := make(chan syncengine.SupersededOp, 9)
	e := lab.Open(t, syncengine.Config{L3: l3, BatchFlushInterval: time.Hour, OnEvent: syncengine.Events{Superseded: func(op syncengine.SupersededOp) { told <- op }}})
	defer release()
	lab.Put(t, e, "x", 1, syncengine.WithDurability(syncengine.Buffered), syncengine.WithPriority(syncengine.PriorityLow), ahead(40*time.Second))
	lab.Must(t, e.Submit(ctx, syncengine.Item{ID: "x", Content: lab.Poison}, syncengine.WithPriority(syncengine.PriorityCritical), ahead(50*time.Second)))
	flushed := make(chan error, 1)
	go func() { flushed <- e.Flush(ctx) }()
	<-in
	wantQuarantined(t, e, "x")
	if n, err := e.DiscardQuarantined(ctx, "x"); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	lab.Put(t, e, "x", 3) // acknowledged at Logged, after v1
	lab.WantContent(t, e, "x", 3)
	release()
	lab.Must(t, <-flushed)
	lab.Must(t, e.Flush(ctx))
	if len(told) > 0 || e.Stats().Superseded > 0 {
		t.Error("an op is told to be superseded by another engine")
	}
	lab.WantContent(t, e, "x", 3)
}

// TestADiscardWaitsForWhatIsOnItsWayIntoTheLog: a Buffered op is refused while an outage puts it
// there, and discarded before it is there.
func TestADiscardWaitsForWhatIsOnItsWayIntoTheLog(t *testing.T) {
	ctx := context.Background()
	g := newGatedStore(t)
	gateX, inX := make(chan bool), make(chan bool, 9)
	var tolerant atomic.Bool
	g.OnApply = func(ctx context.Context, recs []syncengine.Record) error {
		switch {
		case tolerant.Load():
			return nil
		case recs[0].ID == "x":
			inX <- true
			<-gateX
			return lab.RefusePoison(ctx, recs)
		}
		return lab.ErrAway
	}
	dir := t.TempDir()
	e := lab.Open(t, syncengine.Config{Dir: dir, L3: g, FlushConcurrency: 2, BatchFlushCount: 1, BatchFlushInterval: time.Millisecond})
	buffered := syncengine.WithDurability(syncengine.Buffered)
	lab.Must(t, e.Submit(ctx, syncengine.Item{ID: "x", Content: lab.Poison}, buffered))
	<-inX
	var point atomic.Value
	point.Store(failpoint.WALCommitted)
	at, gates := make(chan bool, 9), make(chan bool)
	failpoint.SetHook(func(p failpoint.Point) {
		if p == point.Load() {
			at <- true
			<-gates
		}
	})
	defer failpoint.SetHook(func(failpoint.Point) {})
	z := make(chan bool)
	go func() { lab.Put(t, e, "z", 1); close(z) }()
	<-at // the log is slow
	lab.Must(t, e.Submit(ctx, syncengine.Item{ID: "y", Content: []byte("1")}, buffered))
	lab.Eventually(t, "an outage", func() bool { return e.Stats().L3Down })
	time.Sleep(300 * time.Millisecond) // x waits for the log
	close(gateX)
	lab.Eventually(t, "refused", func() bool { return e.Stats().Quarantined == 1 })
	point.Store(failpoint.WALCommitting)
	gates <- true
	<-at // x is about to be in the log
	done := make(chan error)
	go func() { _, err := e.DiscardQuarantined(ctx, "x"); done <- err }()
	time.Sleep(300 * time.Millisecond) // if it does not wait, it is done
	point.Store(failpoint.Point(""))
	gates <- true
	lab.Must(t, <-done)
	image := lab.Killed(t, dir)
	<-z
	tolerant.Store(true)
	next := lab.Open(t, syncengine.Config{Dir: image, L3: g})
	lab.Must(t, next.Flush(ctx))
	if r, err := g.Get(ctx, "x"); err == nil {
		t.Errorf("what was discarded has landed: %s", r.Content)
	}
}
