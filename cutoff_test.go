package syncengine_test

// cutoff_test.go is about conditional writes that something gets into the way of while L3 decides
// them: a caller's hands on the bytes, a lost reply, and Close.

import (
	"context"
	"crypto/sha256"
	"errors"
	"path/filepath"
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

// The function of the next Update in the line is given the result of the one that L3 decides at
// the moment, and edits it in place.
func TestINV11AnUpdateFunctionMayWriteIntoWhatItIsGiven(t *testing.T) {
	ctx := context.Background()
	l3 := newSlowDecision(t)
	defer l3.release()
	e := open(t, syncengine.Config{L3: l3})
	must(t, e.Insert(ctx, syncengine.Item{ID: "x", Content: []byte(`{"n":1}`)}))
	l3.hold.Store(true)
	first := make(chan error, 1)
	go func() {
		_, err := e.Update(ctx, "x", func(cur syncengine.Item, _ bool) (syncengine.Item, error) {
			cur.Content = []byte(`{"n":2}`)
			return cur, nil
		})
		first <- err
	}()
	<-l3.in
	scribble := func(then error) (ran chan error) {
		ran, seen := make(chan error, 1), make(chan struct{}, 10)
		go func() {
			_, err := e.Update(ctx, "x", func(cur syncengine.Item, _ bool) (syncengine.Item, error) {
				cur.Content = append(cur.Content[:0], `{"n":7}`...)
				seen <- struct{}{}
				return cur, then
			})
			ran <- err
		}()
		select {
		case <-seen:
		case err := <-ran: // of a row that can't be read
			ran <- err
		}
		return ran
	}
	no := errors.New("no")
	second := scribble(no)
	l3.hold.Store(false)
	l3.release()
	must(t, <-first)
	if err := <-second; !errors.Is(err, no) {
		t.Errorf("the second Update: %v", err)
	}
	if err := <-scribble(syncengine.ErrNoChange); err != nil {
		t.Errorf("an Update that changes nothing: %v", err)
	}
	rec, err := l3.aroundArchive.in.Get(ctx, "x")
	if err != nil || string(rec.Content) != `{"n":2}` || rec.ContentHash != sha256.Sum256(rec.Content) {
		t.Errorf("L3 holds %s, %v", rec.Content, err)
	}
	if it, err := e.Get(ctx, "x"); err != nil || string(it.Content) != `{"n":2}` {
		t.Errorf("Get: %s, %v", it.Content, err)
	}
}

// L3 has committed and nobody could be told. L2 held the old value until the next verification.
func TestINV8AnUnknownOutcomeLeavesNothingOldInL2(t *testing.T) {
	ctx := context.Background()
	l3, l2 := newSlowDecision(t), storetest.NewCache()
	e := open(t, syncengine.Config{L3: l3, L2: l2, L3Timeout: 200 * time.Millisecond, L1MaxAge: time.Millisecond})
	put(t, e, "x", 1)
	must(t, e.Flush(ctx))
	_, err := e.Update(ctx, "x", func(cur syncengine.Item, _ bool) (syncengine.Item, error) {
		l3.mute.Store(true)
		cur.Content = doc("x", 2)
		return cur, nil
	})
	if !errors.Is(err, syncengine.ErrUnknownOutcome) {
		t.Fatalf("Update: %v", err)
	}
	l3.mute.Store(false)
	wantContent(t, open(t, syncengine.Config{L3: l3, L2: l2}), "x", 2)
	eventually(t, "the engine asks L3 again", func() bool {
		it, err := e.Get(ctx, "x")
		return err == nil && string(it.Content) == string(doc("x", 2))
	})
}

// Calls that Close cuts off are told so, and not that their context, which lives, was cancelled.
func TestCallsThatCloseCutsOffGetErrClosed(t *testing.T) {
	ctx := context.Background()
	l3 := newSlowDecision(t)
	defer l3.release()
	e := open(t, syncengine.Config{L3: l3, CloseTimeout: 100 * time.Millisecond, L3Timeout: time.Minute})
	l3.hold.Store(true)
	errs := make(chan error)
	go func() { errs <- e.Insert(ctx, syncengine.Item{ID: "a", Content: []byte("1")}) }()
	<-l3.in
	go func() {
		_, err := e.Update(ctx, "b", increment)
		errs <- err
	}()
	go func() {
		_, err := e.GetOrInsertWith(ctx, "c", func(context.Context) (syncengine.Item, error) {
			l3.in <- struct{}{}
			return syncengine.Item{Content: []byte("1")}, nil
		})
		errs <- err
	}()
	<-l3.in
	closed := make(chan error, 1)
	go func() { closed <- e.Close() }()
	for range 3 {
		if err := <-errs; !errors.Is(err, syncengine.ErrClosed) || errors.Is(err, context.Canceled) {
			t.Errorf("a call that was cut off: %v, want ErrClosed", err)
		}
	}
	<-closed
}

// A function given to Update knows no context. While it runs Close returns when its time is over,
// and goes on when it has returned.
func TestINV12CloseIsBoundedWhileAnUpdateFunctionRuns(t *testing.T) {
	ctx := context.Background()
	cfg := syncengine.Config{Dir: t.TempDir(), CloseTimeout: 50 * time.Millisecond}
	e := open(t, cfg)
	put(t, e, "x", 1)
	for _, from := range []string{"outside", "within"} {
		in, gate := make(chan struct{}), make(chan struct{})
		done := make(chan error, 1)
		go func() {
			_, err := e.Update(ctx, "counter", func(cur syncengine.Item, _ bool) (syncengine.Item, error) {
				close(in)
				if from == "within" {
					if err := e.Close(); !errors.Is(err, context.DeadlineExceeded) {
						t.Errorf("Close within the function: %v", err)
					}
				}
				<-gate
				cur.Content = []byte("1")
				return cur, nil
			})
			done <- err
		}()
		<-in
		if err := e.Close(); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Close while the function runs: %v", err)
		}
		close(gate)
		<-done
		if err := e.Shutdown(ctx); err != nil && !errors.Is(err, syncengine.ErrPending) { // its time was over
			t.Errorf("Shutdown in the end: %v", err)
		}
		e = open(t, cfg)
		wantContent(t, e, "x", 1)
	}
}
