package gather

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var errBroken = errors.New("broken")

// gate is a server that answers when it is told to.
type gate struct {
	asked chan []int // the keys of a call that stands
	open  chan error // what it says
}

func newGate() (*Group[int, int], *gate) {
	s := &gate{asked: make(chan []int), open: make(chan error)}
	return &Group[int, int]{
		Most: 4,
		One: func(_ context.Context, key int) (int, error) {
			s.asked <- []int{key}
			return key * 10, <-s.open
		},
		Many: func(_ context.Context, keys []int) ([]Answer[int], error) {
			s.asked <- keys
			out := make([]Answer[int], len(keys))
			for i, k := range keys {
				out[i].Value = k * 10
				if k == 13 {
					out[i].Err = errBroken
				}
			}
			return out, <-s.open
		},
	}, s
}

// stands waits until so many questions wait in g.
func stands(t *testing.T, g *Group[int, int], n int) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		g.mu.Lock()
		have := len(g.waiting)
		g.took = time.Millisecond / 8 // two at once
		g.back = time.Now().Add(time.Hour)
		g.mu.Unlock()
		if have == n {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%d questions wait, want %d", have, n)
		}
	}
}

// ask asks on goroutines of their own.
func ask(ctx context.Context, g *Group[int, int], out chan<- Answer[int], keys ...int) {
	for _, k := range keys {
		go func() {
			v, err := g.Do(ctx, k)
			out <- Answer[int]{v, err}
		}()
	}
}

func idle(t *testing.T, g *Group[int, int]) {
	t.Helper()
	if g.mu.Lock(); g.busy != 0 || len(g.waiting) != 0 {
		t.Errorf("%d calls are under way and %d questions wait, at the end", g.busy, len(g.waiting))
	}
	g.mu.Unlock()
}

func TestQuestionsThatWaitShareACall(t *testing.T) {
	ctx := context.Background()
	g, s := newGate()
	out := make(chan Answer[int], 10)
	stands(t, g, 0)
	ask(ctx, g, out, 1, 2)
	for range 2 {
		if got := <-s.asked; len(got) != 1 {
			t.Fatalf("a question of two that find nothing under way asks for %v", got)
		}
	}
	ask(ctx, g, out, 11, 12, 13, 14, 15)
	stands(t, g, 5)
	s.open <- nil
	if got := <-s.asked; len(got) != 4 {
		t.Errorf("of five that wait, four at most in one call: %v", got)
	}
	s.open <- nil // of one of the two
	got := map[int]bool{}
	last := <-s.asked
	if len(last) != 1 {
		t.Errorf("the fifth asks for %v", last)
	}
	s.open <- nil
	s.open <- nil
	for range 7 {
		a := <-out
		if broken := errors.Is(a.Err, errBroken); a.Err != nil && !broken || broken && last[0] == 13 {
			t.Errorf("%v", a)
		}
		got[a.Value/10] = true
	}
	if len(got) != 7 {
		t.Errorf("answers for %v", got)
	}
	idle(t, g)
}

func TestWhatFailsForAllIsAskedByEach(t *testing.T) {
	ctx := context.Background()
	g, s := newGate()
	out := make(chan Answer[int], 10)
	stands(t, g, 0)
	ask(ctx, g, out, 1, 2)
	<-s.asked
	<-s.asked
	ask(ctx, g, out, 3, 4, 5)
	stands(t, g, 3)
	s.open <- nil
	if got := <-s.asked; len(got) != 3 {
		t.Fatal(got)
	}
	s.open <- nil // the other one of the two, or the three
	for range 3 {
		select {
		case s.open <- errBroken:
		case got := <-s.asked:
			if len(got) != 1 {
				t.Errorf("after a failure %v are asked for", got)
			}
			s.open <- nil
		}
	}
	for n := 0; n < 5; {
		select {
		case a := <-out:
			if n++; a.Err != nil && !errors.Is(a.Err, errBroken) {
				t.Error(a)
			}
		case <-s.asked:
		case s.open <- nil:
		}
	}
	idle(t, g)
}

// TestWhoLeavesTakesNothingAway: while it waits, or when it has just got the turn.
func TestWhoLeavesTakesNothingAway(t *testing.T) {
	g, s := newGate()
	out, left := make(chan Answer[int], 10), make(chan Answer[int], 10)
	stands(t, g, 0)
	ask(context.Background(), g, out, 1, 2)
	<-s.asked
	<-s.asked
	ctx, cancel := context.WithCancel(context.Background())
	ask(ctx, g, left, 3)
	stands(t, g, 1)
	ask(context.Background(), g, out, 4)
	stands(t, g, 2)
	cancel()
	if a := <-left; !errors.Is(a.Err, context.Canceled) {
		t.Error(a)
	}
	s.open <- nil
	if got := <-s.asked; len(got) != 1 || got[0] != 4 {
		t.Errorf("%v are asked for", got)
	}
	s.open <- nil
	s.open <- nil
	for range 3 {
		if a := <-out; a.Err != nil {
			t.Error(a)
		}
	}
	idle(t, g)
}

func TestAPanicEndsNoTurn(t *testing.T) {
	ctx := context.Background()
	g, s := newGate()
	g.Many = func(context.Context, []int) ([]Answer[int], error) { panic("many") }
	out := make(chan Answer[int], 10)
	stands(t, g, 0)
	ask(ctx, g, out, 1, 2)
	<-s.asked
	<-s.asked
	said := make(chan any, 2)
	for k := 3; k < 5; k++ {
		go func() {
			defer func() { said <- recover() }()
			v, err := g.Do(ctx, k)
			out <- Answer[int]{v, err}
		}()
	}
	stands(t, g, 2)
	s.open <- nil
	<-s.asked // the other of the two asks alone
	s.open <- nil
	s.open <- nil
	panics := 0
	for range 2 {
		if p := <-said; p != nil {
			panics++
		}
	}
	for range 3 {
		<-out
	}
	if panics != 1 {
		t.Errorf("%d of two that share a call that panics see that", panics)
	}
	idle(t, g)
}

// TestNoAnswerIsOlderThanItsQuestion: with callers that leave at any moment, and calls that fail.
func TestNoAnswerIsOlderThanItsQuestion(t *testing.T) {
	var now, shared atomic.Int64
	look := func(ctx context.Context) (at int64, err error) {
		at = now.Add(1)
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		time.Sleep(time.Duration(rand.IntN(100)) * time.Microsecond)
		if rand.IntN(20) == 0 {
			return 0, errBroken
		}
		return at, nil
	}
	g := &Group[int, [2]int64]{
		Most: 8,
		One: func(ctx context.Context, key int) ([2]int64, error) {
			at, err := look(ctx)
			return [2]int64{int64(key), at}, err
		},
		Many: func(ctx context.Context, keys []int) ([]Answer[[2]int64], error) {
			shared.Add(1)
			at, err := look(ctx)
			out := make([]Answer[[2]int64], len(keys))
			for i, k := range keys {
				out[i].Value = [2]int64{int64(k), at}
			}
			return out, err
		},
	}
	var work sync.WaitGroup
	for c := range 24 {
		work.Go(func() {
			for n := range 500 {
				ctx, cancel := context.WithCancel(context.Background())
				if rand.IntN(4) == 0 {
					time.AfterFunc(time.Duration(rand.IntN(150))*time.Microsecond, cancel)
				}
				key, asked := c*1000+n, now.Add(1)
				got, err := g.Do(ctx, key)
				if err == nil && (got[0] != int64(key) || got[1] <= asked) {
					t.Errorf("the answer to %d of %d is %v", key, asked, got)
				}
				if err != nil && !errors.Is(err, errBroken) && ctx.Err() == nil {
					t.Errorf("an error of somebody else: %v", err)
				}
				cancel()
			}
		})
	}
	work.Wait()
	if g.busy != 0 || len(g.waiting) != 0 || shared.Load() == 0 {
		t.Errorf("%d calls are under way, %d questions wait, %d calls were shared", g.busy, len(g.waiting), shared.Load())
	}
}
