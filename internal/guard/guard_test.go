package guard_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine/internal/guard"
)

var (
	errDown = errors.New("the server is down")
	errMiss = errors.New("the server says no")
	errFull = errors.New("the server takes no writes")
)

// guarded is a breaker that opens at the third failure, for ever.
func guarded(open time.Duration) (b *guard.Breaker, changes *[]string) {
	changes = new([]string)
	return guard.New(guard.Limits{Failures: 3, Successes: 1, Open: open}, func(err error) (error, bool) {
		if errors.Is(err, errMiss) {
			return nil, false
		}
		return fmt.Errorf("told: %w", err), !errors.Is(err, errFull)
	}, func(from, to string) { *changes = append(*changes, from+" to "+to) }), changes
}

func call(b *guard.Breaker, err error) error {
	return b.Do(context.Background(), time.Minute, func(context.Context) error { return err })
}

// A connection may fail at the deadline of a caller before the caller's context has ended.
func TestTheDeadlineOfACallerOpensNothing(t *testing.T) {
	b, changes := guarded(time.Hour)
	for range 200 {
		ctx, cancel := context.WithTimeout(context.Background(), 300*time.Microsecond)
		err := b.Do(ctx, time.Minute, func(ctx context.Context) error {
			for at, _ := ctx.Deadline(); time.Now().Before(at); {
			}
			return errDown
		})
		if !errors.Is(err, context.DeadlineExceeded) || ctx.Err() == nil {
			t.Fatalf("at the deadline: %v", err)
		}
		cancel()
	}
	if b.State() != "closed" || len(*changes) != 0 {
		t.Errorf("it is %s, after %v", b.State(), *changes)
	}
}

func TestOnlyFailuresOfTheServerOpenABreaker(t *testing.T) {
	b, changes := guarded(time.Hour)
	gone, cancel := context.WithCancel(context.Background())
	for range 5 {
		if err := call(b, errMiss); err != errMiss {
			t.Errorf("an answer: %v", err)
		}
		if err := call(b, errFull); err == nil || err.Error() != "told: the server takes no writes" {
			t.Errorf("a failure that does not count: %v", err)
		}
		var leave context.CancelFunc
		gone, leave = context.WithCancel(context.Background())
		err := b.Do(gone, time.Minute, func(ctx context.Context) error { leave(); <-ctx.Done(); return errDown })
		if !errors.Is(err, errDown) || !errors.Is(err, context.Canceled) {
			t.Errorf("a caller that leaves: %v", err)
		}
	}
	cancel()
	if err := b.Do(gone, time.Minute, nil); err != context.Canceled { // fn is not called
		t.Errorf("a caller that has left: %v", err)
	}
	if b.State() != "closed" || len(*changes) != 0 {
		t.Fatalf("it is %s, after %v", b.State(), *changes)
	}
	for range 2 {
		if err := call(b, errDown); err == nil || err.Error() != "told: the server is down" {
			t.Errorf("a failure: %v", err)
		}
	}
	if err := b.Do(context.Background(), time.Minute, func(context.Context) error { panic("boom") }); !errors.Is(err, guard.ErrPanicked) {
		t.Errorf("a panic: %v", err)
	}
	if err := b.Do(context.Background(), time.Minute, nil); !errors.Is(err, guard.ErrOpen) {
		t.Errorf("after three failures: %v", err)
	}
	b.Reset()
	if err := call(b, nil); err != nil || b.State() != "closed" {
		t.Errorf("after a reset: %v, %s", err, b.State())
	}
	if want := []string{"closed to open", "open to closed"}; !slices.Equal(*changes, want) {
		t.Errorf("changes: %v, want %v", *changes, want)
	}
}

// One that leaves has proved nothing, so a half-open breaker must not close for it.
func TestAHalfOpenBreakerAsksOnce(t *testing.T) {
	b, _ := guarded(time.Nanosecond)
	for range 3 {
		_ = call(b, errDown)
	}
	for b.State() != "half-open" { // it stays open for a nanosecond
		runtime.Gosched()
	}
	ctx, leave := context.WithCancel(context.Background())
	_ = b.Do(ctx, time.Minute, func(ctx context.Context) error { leave(); return ctx.Err() })
	for b.State() != "half-open" { // it stays open for a nanosecond
		runtime.Gosched()
	}
	if err := call(b, nil); err != nil || b.State() != "closed" {
		t.Errorf("a success: %v, %s", err, b.State())
	}
}

func TestACallHasADeadline(t *testing.T) {
	b, _ := guarded(time.Hour)
	err := b.Do(context.Background(), time.Millisecond, func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
	if !errors.Is(err, context.DeadlineExceeded) || err.Error() != "told: context deadline exceeded" {
		t.Errorf("%v", err)
	}
}

func TestRetriesEnd(t *testing.T) {
	s := guard.Schedule{Tries: 3, First: time.Millisecond, Longest: 2 * time.Millisecond}
	for name, c := range map[string]struct {
		results []error
		again   bool
		want    error
		tries   int
	}{
		"with a success":      {[]error{errDown, nil}, true, nil, 2},
		"with the schedule":   {[]error{errDown, errMiss, errDown, nil}, true, errDown, 3},
		"when there's no use": {[]error{errDown, nil}, false, errDown, 1},
	} {
		tries, told := 0, 0
		err := s.Retry(context.Background(), func() { told++ }, func(error) bool { return c.again }, func() error { tries++; return c.results[tries-1] })
		if err != c.want || tries != c.tries || told != tries-1 {
			t.Errorf("%s: %v after %d tries, told of %d", name, err, tries, told)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	s = guard.Schedule{First: time.Hour, Longest: time.Hour}
	if err := s.Retry(ctx, cancel, func(error) bool { return true }, func() error { return errDown }); err != errDown {
		t.Errorf("a caller that leaves: %v", err)
	}
}
