package syncengine

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
)

// Who waits goes in the order of calls, a large one alone; who leaves lets those behind it in.
func TestRoomIsGivenInTheOrderOfCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &room{most: 10}
		var in []string
		come := func(ctx context.Context, name string, size int64) {
			go func() {
				if r.wait(ctx, size) == nil {
					in = append(in, name)
				}
			}()
			synctest.Wait()
		}
		want := func(taken int64, names ...string) {
			t.Helper()
			if synctest.Wait(); !slices.Equal(in, names) || r.taken != taken {
				t.Fatalf("in are %v, taken is %d, want %v, %d", in, r.taken, names, taken)
			}
		}
		if !r.take(8) {
			t.Fatal("there is room")
		}
		ctx, leave := context.WithCancel(t.Context())
		come(ctx, "large", 100)
		come(t.Context(), "small", 1)
		if r.take(1) {
			t.Fatal("one has overtaken those who wait")
		}
		want(8)
		leave()
		want(9, "small")
		come(t.Context(), "alone", 100)
		come(t.Context(), "last", 2)
		r.give(8)
		want(1, "small")
		r.give(1)
		want(10, "small", "alone")
		r.give(100)
		want(2, "small", "alone", "last")
		r.give(2)
		want(0, "small", "alone", "last")
	})
}
