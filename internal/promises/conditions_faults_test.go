package promises

// conditions_faults_test.go tests conditional writes beside what goes wrong: functions that edit in
// place, content that is damaged, outcomes that are unknown, an engine that closes.

import (
	"context"
	"errors"
	"fmt"
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

// refuseInPlace changes the bytes that it is given, and then says why.
func refuseInPlace(why error) func(syncengine.Item, bool) (syncengine.Item, error) {
	return func(cur syncengine.Item, _ bool) (syncengine.Item, error) {
		cur.Content = append(cur.Content[:0], "7"...)
		return cur, why
	}
}

func TestINV11AnUpdateThatEditsInPlaceAndWritesNothingChangesNothing(t *testing.T) {
	onEachL3(t, func(t *testing.T, cfg syncengine.Config) {
		ctx := context.Background()
		e := lab.Open(t, cfg)
		lab.Put(t, e, "x", 1)
		lab.Must(t, e.Flush(ctx))
		it, err := e.Update(ctx, "x", refuseInPlace(syncengine.ErrNoChange))
		if err != nil || string(it.Content) != string(lab.Doc("x", 1)) {
			t.Errorf("no change: %s, %v", it.Content, err)
		}
		lab.WantContent(t, e, "x", 1)
	})
}

// TestINV11AnUpdateThatEditsInPlaceLeavesTheOneBeforeAsItWas: on its way to L3, it is what the
// next one in the line is given.
func TestINV11AnUpdateThatEditsInPlaceLeavesTheOneBeforeAsItWas(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	l3 := newGated()
	e := lab.Open(t, syncengine.Config{L3: l3, L3Timeout: time.Minute})
	busy, before := make(chan error, 1), make(chan error, 1)
	go func() { busy <- e.Insert(ctx, syncengine.Item{ID: "y", Content: lab.Doc("y", 1)}) }()
	<-l3.seen // the loop that asks L3 is busy
	ran := make(chan struct{})
	go func() {
		_, err := e.Update(ctx, "x", func(syncengine.Item, bool) (syncengine.Item, error) {
			close(ran)
			return syncengine.Item{Content: lab.Doc("x", 1)}, nil
		})
		before <- err
	}()
	<-ran
	release := sync.OnceFunc(l3.release) // it runs again on what L3 holds then
	_, err := e.Update(ctx, "x", func(cur syncengine.Item, exists bool) (syncengine.Item, error) {
		if !exists {
			t.Error("it was not given the result of the one before")
		}
		defer release()
		return refuseInPlace(lab.ErrAway)(cur, exists)
	})
	if err != lab.ErrAway {
		t.Errorf("%v, want the function's error", err)
	}
	lab.Must(t, <-busy)
	lab.Must(t, <-before)
	rec, err := l3.Get(ctx, "x")
	if err != nil || string(rec.Content) != string(lab.Doc("x", 1)) {
		t.Errorf("L3 holds %s, %v", rec.Content, err)
	}
}

// doubtful is an L3 that commits, does not say so, and can't be asked.
type doubtful struct {
	syncengine.ConditionalStore
	on atomic.Bool
}

func (d *doubtful) ApplyIf(ctx context.Context, nonce uint64, units [][]syncengine.Conditional) ([]syncengine.Verdict, error) {
	verdicts, err := d.ConditionalStore.ApplyIf(ctx, nonce, units)
	if err == nil && d.on.Load() {
		err = fmt.Errorf("%w: %w", syncengine.ErrUnknownOutcome, lab.ErrAway)
	}
	return verdicts, err
}

func (d *doubtful) Landed(ctx context.Context, nonce uint64) (bool, error) {
	if d.on.Load() {
		return false, lab.ErrAway
	}
	return d.ConditionalStore.Landed(ctx, nonce)
}

// TestINV02AfterAnUnknownOutcomeReadsAskL3: what L2 holds may be what was there before.
func TestINV02AfterAnUnknownOutcomeReadsAskL3(t *testing.T) {
	for _, hung := range []bool{false, true} {
		t.Run(fmt.Sprintf("L2 can be told %v", !hung), func(t *testing.T) {
			ctx := context.Background()
			var away atomic.Bool
			l3 := &doubtful{ConditionalStore: storetest.NewArchive().(syncengine.ConditionalStore)}
			l2 := &lab.AroundCache{In: storetest.NewCache(), Fn: func(_ context.Context, _, call string, do func() error) error {
				if away.Load() && call != "Get" {
					return lab.ErrAway
				}
				return do()
			}}
			cfg := syncengine.Config{L2: l2, L3: l3, L3Timeout: 50 * time.Millisecond, VerifyInterval: time.Hour}
			e, other := lab.Open(t, cfg), lab.Open(t, cfg)
			lab.Put(t, e, "x", 1)
			lab.Must(t, e.Flush(ctx))
			l3.on.Store(true)
			away.Store(hung)
			_, err := e.Update(ctx, "x", func(cur syncengine.Item, _ bool) (syncengine.Item, error) {
				cur.Content = lab.Doc("x", 2)
				return cur, nil
			})
			if !errors.Is(err, syncengine.ErrUnknownOutcome) {
				t.Fatalf("Update: %v", err)
			}
			l3.on.Store(false)
			if !hung {
				lab.WantContent(t, other, "x", 2)
			}
			lab.WantContent(t, e, "x", 2)
			away.Store(false)
			lab.Eventually(t, "L2 is repaired", func() bool {
				rec, err := l2.In.Get(ctx, "x")
				return err == nil && string(rec.Content) == string(lab.Doc("x", 2)) && e.Stats().L2Missed == 0
			})
		})
	}
}

// hungIn is an L3 whose calls of one method hang until their contexts end.
func hungIn(method string) (l3 *lab.AroundArchive, entered chan struct{}) {
	entered = make(chan struct{}, 100)
	return &lab.AroundArchive{In: storetest.NewArchive(), Fn: func(ctx context.Context, _, call string, do func() error) error {
		if call != method {
			return do()
		}
		entered <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	}}, entered
}

// TestACallThatCloseCutsOffIsToldErrClosed: its own context has not ended.
func TestACallThatCloseCutsOffIsToldErrClosed(t *testing.T) {
	ctx := context.Background()
	update := func(e *syncengine.Engine, _ chan struct{}) error {
		_, err := e.Update(ctx, "counter", lab.Increment)
		return err
	}
	for _, test := range []struct {
		what, hung string
		call       func(e *syncengine.Engine, entered chan struct{}) error
	}{
		{"Update", "ApplyIf", update},
		{"Update that reads", "GetMany", update},
		{"Insert", "ApplyIf", func(e *syncengine.Engine, _ chan struct{}) error {
			return e.Insert(ctx, syncengine.Item{ID: "x", Content: lab.Doc("x", 1)})
		}},
		{"Insert after a write", "Apply", func(e *syncengine.Engine, _ chan struct{}) error {
			lab.Put(t, e, "x", 1)
			return e.Insert(ctx, syncengine.Item{ID: "x", Content: lab.Doc("x", 2)})
		}},
		{"Flush", "Apply", func(e *syncengine.Engine, _ chan struct{}) error {
			lab.Put(t, e, "x", 1)
			return e.Flush(ctx)
		}},
		{"GetOrInsertWith", "ApplyIf", func(e *syncengine.Engine, _ chan struct{}) error {
			_, err := e.GetOrInsertWith(ctx, "x", func(context.Context) (syncengine.Item, error) {
				return syncengine.Item{Content: lab.Doc("x", 1)}, nil
			})
			return err
		}},
		{"a factory", "nothing", func(e *syncengine.Engine, entered chan struct{}) error {
			_, err := e.GetOrInsertWith(ctx, "x", func(ctx context.Context) (syncengine.Item, error) {
				entered <- struct{}{}
				<-ctx.Done()
				return syncengine.Item{}, ctx.Err()
			})
			return err
		}},
	} {
		t.Run(test.what, func(t *testing.T) {
			l3, entered := hungIn(test.hung)
			e := lab.Open(t, syncengine.Config{L3: l3, CloseTimeout: 100 * time.Millisecond, L3Timeout: time.Minute})
			done := make(chan error, 1)
			go func() { done <- test.call(e, entered) }()
			<-entered
			returns(t, "Close", func() { _ = e.Close() })
			if err := <-done; !errors.Is(err, syncengine.ErrClosed) || errors.Is(err, context.Canceled) {
				t.Errorf("%v, want ErrClosed", err)
			}
		})
	}
}

func TestINV14ACommitThatCloseCutsOffIsUnknown(t *testing.T) {
	ctx := context.Background()
	entered := make(chan struct{})
	l3 := &lab.AroundArchive{In: storetest.NewArchive(), Fn: func(ctx context.Context, _, call string, do func() error) error {
		err := do()
		if call == "ApplyIf" {
			close(entered)
			<-ctx.Done()
			return ctx.Err()
		}
		return err
	}}
	e := lab.Open(t, syncengine.Config{L3: l3, CloseTimeout: 100 * time.Millisecond, L3Timeout: time.Minute})
	done := make(chan error, 1)
	go func() { done <- e.Insert(ctx, syncengine.Item{ID: "x", Content: lab.Doc("x", 1)}) }()
	<-entered
	returns(t, "Close", func() { _ = e.Close() })
	if err := <-done; !errors.Is(err, syncengine.ErrClosed) || !errors.Is(err, syncengine.ErrUnknownOutcome) || errors.Is(err, context.Canceled) {
		t.Errorf("%v, want ErrClosed and ErrUnknownOutcome", err)
	}
}

// TestINV12AFunctionOfTheUsersDoesNotHoldUpShutdownBeyondItsContext: nothing is released under it,
// and the next Shutdown tells how it went.
func TestINV12AFunctionOfTheUsersDoesNotHoldUpShutdownBeyondItsContext(t *testing.T) {
	ctx := context.Background()
	var prioritize func()
	for _, test := range []struct {
		what string
		call func(e *syncengine.Engine, run func()) error
	}{
		{"Update", func(e *syncengine.Engine, run func()) error {
			_, err := e.Update(ctx, "x", func(cur syncengine.Item, _ bool) (syncengine.Item, error) {
				run()
				cur.Content = lab.Doc("x", 2)
				return cur, nil
			})
			return err
		}},
		{"PriorityFunc", func(e *syncengine.Engine, run func()) error {
			prioritize = run
			_, err := e.Update(ctx, "x", func(cur syncengine.Item, _ bool) (syncengine.Item, error) { return cur, nil })
			return err
		}},
	} {
		t.Run(test.what, func(t *testing.T) {
			onEachL3(t, func(t *testing.T, cfg syncengine.Config) {
				cfg.CloseTimeout, prioritize = 50*time.Millisecond, func() {}
				cfg.PriorityFunc = func(syncengine.AccessStats) syncengine.Priority { prioritize(); return 0 }
				e := lab.Open(t, cfg)
				lab.Put(t, e, "x", 1)
				gate, release := lab.Hold()
				defer release()
				running, done, waits := make(chan struct{}), make(chan error, 1), make(chan error, 1)
				go func() { done <- test.call(e, func() { close(running); <-gate }) }()
				<-running
				go func() { _, err := e.Update(ctx, "x", lab.Increment); waits <- err }()
				returns(t, "Close", func() {
					if err := e.Close(); !errors.Is(err, context.DeadlineExceeded) || !containsText(err, "function") {
						t.Errorf("Close: %v, want one that says what it waits for", err)
					}
				})
				if err := <-waits; !errors.Is(err, syncengine.ErrClosed) {
					t.Errorf("the next in the line: %v", err)
				}
				if s := e.State(); s != syncengine.StateShuttingDown {
					t.Errorf("%v under a call", s)
				}
				release()
				stored := <-done
				if stored != nil && !errors.Is(stored, syncengine.ErrClosed) {
					t.Errorf("%v", stored)
				}
				if err := e.Shutdown(ctx); err != nil && !errors.Is(err, syncengine.ErrPending) {
					t.Errorf("Shutdown: %v", err)
				}
				if s := e.State(); s != syncengine.StateClosed {
					t.Errorf("%v in the end", s)
				}
				want := 1
				if stored == nil && test.what == "Update" {
					want = 2
				}
				lab.WantContent(t, lab.Open(t, cfg), "x", want)
			})
		})
	}
}

func TestINV12AnUpdateFunctionMayClose(t *testing.T) {
	ctx := context.Background()
	e := lab.Open(t, syncengine.Config{CloseTimeout: 50 * time.Millisecond})
	returns(t, "Update", func() {
		_, err := e.Update(ctx, "counter", func(cur syncengine.Item, exists bool) (syncengine.Item, error) {
			if err := e.Close(); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("Close: %v", err)
			}
			return lab.Increment(cur, exists)
		})
		if err != nil && !errors.Is(err, syncengine.ErrClosed) {
			t.Errorf("Update: %v", err)
		}
	})
	returns(t, "Shutdown", func() { _ = e.Shutdown(ctx) })
}

func TestAFactoryThatIgnoresItsEndDoesNotHoldUpClose(t *testing.T) {
	ctx := context.Background()
	e := lab.Open(t, syncengine.Config{CloseTimeout: 50 * time.Millisecond, FactoryTimeout: time.Hour})
	gate, release := lab.Hold()
	defer release()
	running, done := make(chan struct{}), make(chan error, 1)
	go func() {
		_, err := e.GetOrInsertWith(ctx, "x", func(context.Context) (syncengine.Item, error) {
			close(running)
			<-gate
			return syncengine.Item{Content: lab.Doc("x", 1)}, nil
		})
		done <- err
	}()
	<-running
	returns(t, "Close", func() { _ = e.Close() })
	if err := <-done; !errors.Is(err, syncengine.ErrClosed) {
		t.Errorf("GetOrInsertWith: %v", err)
	}
	if s := e.State(); s != syncengine.StateClosed {
		t.Errorf("%v after Close", s)
	}
}

// One that goes by its context does not either, whatever CloseTimeout is, and the rest is flushed.
func TestAFactoryEndsWhenTheEngineBeginsToClose(t *testing.T) {
	ctx := context.Background()
	e := lab.Open(t, syncengine.Config{CloseTimeout: time.Hour, FactoryTimeout: time.Hour, BatchFlushInterval: time.Hour})
	lab.Put(t, e, "y", 1)
	running, done := make(chan struct{}), make(chan error, 1)
	go func() {
		_, err := e.GetOrInsertWith(ctx, "x", func(ctx context.Context) (syncengine.Item, error) {
			close(running)
			<-ctx.Done()
			return syncengine.Item{}, ctx.Err()
		})
		done <- err
	}()
	<-running
	returns(t, "Close", func() { lab.Must(t, e.Close()) })
	if err := <-done; !errors.Is(err, syncengine.ErrClosed) {
		t.Errorf("GetOrInsertWith: %v", err)
	}
}

// Those who wait in line for an id while SQL hangs hear of it with the one whose turn it was, not
// one L3Timeout after the other.
func TestUpdatesInLineShareOneSilenceOfSQL(t *testing.T) {
	server := testserver.SharedMariaDB(t)
	p := faultproxy.New(t, server.Addr())
	e := lab.Open(t, syncengine.Config{SQLURL: lab.Via(t, server.NewDatabase(t), p), L3Timeout: 2 * time.Second, CloseTimeout: time.Second})
	_, err := e.Update(lab.Bounded(t), "n", lab.Increment)
	lab.Must(t, err)
	p.Hold()
	defer p.Release()
	var callers sync.WaitGroup
	heard := make(chan error, 6)
	for range cap(heard) {
		callers.Go(func() {
			_, err := e.Update(lab.Bounded(t), "n", lab.Increment)
			heard <- err
		})
	}
	callers.Wait()
	first := <-heard
	for range cap(heard) - 1 {
		if err := <-heard; err != first || !errors.Is(err, syncengine.ErrUnavailable) {
			t.Errorf("%v, and another one heard %v", err, first)
		}
	}
	p.Release()
	lab.Eventually(t, "it goes on", func() bool { _, err := e.Update(lab.Bounded(t), "n", lab.Increment); return err == nil })
}

// UpdatedAt is when an item was updated, unless the function says otherwise; a Touch changes no
// item.
func TestUpdatedAtIsTheTimeOfAnUpdate(t *testing.T) {
	ctx := context.Background()
	for _, url := range []string{"", testserver.SharedMariaDB(t).NewDatabase(t)} {
		e := lab.Open(t, syncengine.Config{SQLURL: url})
		first, err := e.Update(ctx, "n", lab.Increment)
		lab.Must(t, err)
		time.Sleep(5 * time.Millisecond) // so that a later time is one
		second, err := e.Update(ctx, "n", lab.Increment)
		lab.Must(t, err)
		if !second.UpdatedAt.After(first.UpdatedAt) || first.UpdatedAt.IsZero() {
			t.Errorf("%q: %v, after %v", url, second.UpdatedAt, first.UpdatedAt)
		}
		lab.Must(t, e.Touch(ctx, "n", time.Hour))
		touched, err := e.Get(ctx, "n")
		if err != nil || !touched.UpdatedAt.Equal(second.UpdatedAt) {
			t.Errorf("%q: touched: %v, %v; it was %v", url, touched.UpdatedAt, err, second.UpdatedAt)
		}
		own := time.Unix(1, 0).UTC()
		it, err := e.Update(ctx, "n", func(cur syncengine.Item, _ bool) (syncengine.Item, error) {
			cur.UpdatedAt = own
			return cur, nil
		})
		if err != nil || !it.UpdatedAt.Equal(own) {
			t.Errorf("%q: a time of its own: %v, %v", url, it.UpdatedAt, err)
		}
	}
}
