package loader

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
)

// TestACallIsSharedAndOutlivesWhoBeganIt: by those who ask for the same while it is under way.
func TestACallIsSharedAndOutlivesWhoBeganIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := NewCalls[string](func(f func()) { go f() }, func(int) bool { return true })
		begun, gate := 0, make(chan struct{})
		ask := func(ctx context.Context, key string) chan result {
			out := make(chan result, 1)
			go func() {
				_, err := c.Do(ctx, key, nil, func() (int, error) {
					begun++
					<-gate
					return 0, errBroken
				})
				out <- result{key, err}
			}()
			synctest.Wait()
			return out
		}
		ctx, cancel := context.WithCancel(context.Background())
		first, second := ask(ctx, "a"), ask(context.Background(), "a")
		if begun != 1 {
			t.Errorf("%d calls for one key", begun)
		}
		other := ask(context.Background(), "b")
		if begun != 2 {
			t.Errorf("%d calls for two keys", begun)
		}
		cancel()
		if r := <-first; !errors.Is(r.err, context.Canceled) {
			t.Errorf("who has left got %v", r.err)
		}
		close(gate)
		for _, r := range []result{<-second, <-other} {
			if !errors.Is(r.err, errBroken) {
				t.Errorf("%s: %v", r.v, r.err)
			}
		}
		if <-ask(context.Background(), "a"); begun != 3 {
			t.Errorf("%d calls, one of them after the others", begun)
		}
	})
}

// TestTheLastAnswerIsKept: unless it is an error, or one that is not to be kept, or that the caller
// has no use for.
func TestTheLastAnswerIsKept(t *testing.T) {
	ctx := context.Background()
	c := NewCalls[string](func(f func()) { go f() }, func(v int) bool { return v < 10 })
	yes := func(int) bool { return true }
	asked := 0
	want := func(key string, good func(int) bool, answer int, err error, times int) {
		t.Helper()
		v, got := c.Do(ctx, key, good, func() (int, error) { asked++; return answer, err })
		if v != answer || got != err || asked != times {
			t.Errorf("%s: %d, %v after %d calls, want %d, %v after %d", key, v, got, asked, answer, err, times)
		}
	}
	want("a", yes, 1, nil, 1)
	want("a", yes, 1, nil, 1)
	want("b", yes, 2, errBroken, 2)
	want("a", yes, 1, nil, 2)
	want("a", func(v int) bool { return v > 1 }, 3, nil, 3)
	want("a", yes, 3, nil, 3)
	want("c", yes, 10, nil, 4)
	want("c", yes, 10, nil, 5)
}
