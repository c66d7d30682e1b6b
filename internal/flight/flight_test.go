package flight_test

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/syncengine-go/syncengine/internal/flight"
)

type result struct {
	v   int
	err error
}

// under starts a call that waits for gate, and returns when it is under way.
func under(g *flight.Group[string, int], stamp uint64, v int, gate chan struct{}) (res chan result) {
	res = make(chan result, 1)
	begun := make(chan struct{})
	go func() {
		got, err := g.Do(context.Background(), "k", stamp, func(f func()) { go f() }, func() (int, error) {
			close(begun)
			<-gate
			return v, nil
		})
		res <- result{got, err}
	}()
	<-begun
	return res
}

// One that leaves ends no call.
func TestCallersOfOneStampShareACall(t *testing.T) {
	var g flight.Group[string, int]
	gate := make(chan struct{})
	first := under(&g, 7, 1, gate)
	other, err := g.Do(context.Background(), "other", 7, func(f func()) { go f() }, func() (int, error) { return 2, nil })
	if other != 2 || err != nil {
		t.Errorf("another key: %d, %v", other, err)
	}
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	for range 3 { // each has joined, or spawn were called, which is nil
		if _, err := g.Do(gone, "k", 7, nil, nil); !errors.Is(err, context.Canceled) {
			t.Errorf("one that leaves: %v", err)
		}
	}
	close(gate)
	if r := <-first; r != (result{1, nil}) {
		t.Errorf("the first caller: %+v", r)
	}
}

func TestOneThatHasSeenMoreDoesNotJoin(t *testing.T) {
	var g flight.Group[string, int]
	gate := make(chan struct{})
	first := under(&g, 7, 1, gate)
	second := under(&g, 8, 2, gate)
	// The one before lands while the newer is under way: it must not be taken for it.
	gate <- struct{}{}
	gate <- struct{}{}
	if a, b := <-first, <-second; a != (result{1, nil}) || b != (result{2, nil}) {
		t.Errorf("%+v, %+v", a, b)
	}
	if v, err := g.Do(context.Background(), "k", 8, func(f func()) { go f() }, func() (int, error) { return 3, nil }); v != 3 || err != nil {
		t.Errorf("after both: %d, %v", v, err)
	}
}

func TestACallThatFailsToReturnIsAnError(t *testing.T) {
	var g flight.Group[string, int]
	for what, fn := range map[string]func() (int, error){
		"boom":                 func() (int, error) { panic("boom") },
		flight.ErrGone.Error(): func() (int, error) { runtime.Goexit(); return 0, nil },
	} {
		_, err := g.Do(context.Background(), "k", 0, func(f func()) {
			var wg sync.WaitGroup
			wg.Go(f)
		}, fn)
		if err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// A call that its caller makes itself ends with that, and those who wait for it begin anew.
func TestCallersThatMakeTheCallThemselves(t *testing.T) {
	var g flight.Group[string, int]
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		left := make(chan result, 1)
		go func() {
			v, err := g.Do(ctx, "k", 7, nil, func() (int, error) {
				<-ctx.Done()
				return 0, ctx.Err()
			})
			left <- result{v, err}
		}()
		synctest.Wait()
		var made atomic.Int32
		others := make(chan result, 10)
		for range cap(others) {
			go func() {
				v, err := g.Do(context.Background(), "k", 7, nil, func() (int, error) {
					made.Add(1)
					return 2, nil
				})
				others <- result{v, err}
			}()
		}
		synctest.Wait() // all wait for the first one
		if made.Load() != 0 || len(others) != 0 {
			t.Error("one of the others did not wait")
		}
		cancel()
		if r := <-left; !errors.Is(r.err, context.Canceled) {
			t.Errorf("the one that left: %+v", r)
		}
		for range cap(others) {
			if r := <-others; r != (result{2, nil}) {
				t.Errorf("one that waited: %+v", r)
			}
		}
		if made.Load() < 1 {
			t.Error("nobody made a call")
		}
	})
	failed := errors.New("failed")
	if _, err := g.Do(context.Background(), "k", 7, nil, func() (int, error) { return 0, failed }); err != failed {
		t.Errorf("an error of the call: %v", err)
	}
	if _, err := g.Do(context.Background(), "k", 7, nil, func() (int, error) { panic("boom") }); err == nil || !strings.Contains(err.Error(), "boom") {
		t.Errorf("a panic: %v", err)
	}
}
