// Package guard stands between a caller and a server that fails: a circuit breaker with a timeout
// (github.com/sony/gobreaker), and retries on a schedule (github.com/cenkalti/backoff).
//
// Every protected call has a deadline, since a call that never returned would leave a half-open
// breaker closed to all for ever.
//
// No goroutines.
package guard

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/sony/gobreaker"
)

// Schedule says how often a call is tried again, and after what waits.
type Schedule struct {
	Tries    int           // 0: without end
	First    time.Duration // the first wait; each is twice the one before,
	Longest  time.Duration // up to this
	Jittered float64       // the part of a wait by which it may be longer or shorter
}

// Waits returns the waits between tries. It is for one operation only.
func (s Schedule) Waits() backoff.BackOff {
	b := backoff.NewExponentialBackOff(backoff.WithInitialInterval(s.First), backoff.WithMaxInterval(s.Longest),
		backoff.WithMultiplier(2), backoff.WithRandomizationFactor(s.Jittered), backoff.WithMaxElapsedTime(0))
	if s.Tries == 0 {
		return b
	}
	return backoff.WithMaxRetries(b, uint64(s.Tries-1))
}

// Retry runs fn until it succeeds, fails with an error that is not worth another try, the schedule
// ends, or ctx does. It returns fn's last error, not the context's.
func (s Schedule) Retry(ctx context.Context, onRetry func(), again func(error) bool, fn func() error) error {
	last := fn()
	if last == nil || !again(last) { // the usual end, without a schedule
		return last
	}
	first := true
	err := backoff.RetryNotify(func() error {
		if first {
			first = false
			return last
		}
		if last = fn(); last != nil && !again(last) {
			return backoff.Permanent(last)
		}
		return last
	}, backoff.WithContext(s.Waits(), ctx), func(error, time.Duration) { onRetry() })
	if err != nil && last != nil {
		return last
	}
	return err
}

// Limits say when a breaker opens and closes.
type Limits struct {
	Failures  uint32        // consecutive ones that open it
	Successes uint32        // that close it again
	Open      time.Duration // time it stays open
}

// countsFor clears the counts of a closed breaker.
const countsFor = time.Minute

// ErrOpen means that a breaker has let a call not through.
var ErrOpen = errors.New("circuit")

// ErrPanicked means that a call has panicked, which is a failure of its server.
var ErrPanicked = errors.New("panicked")

// Breaker guards the calls to one server.
type Breaker struct {
	limits   Limits
	failure  func(error) (told error, counts bool)
	onChange func(from, to string)
	cb       atomic.Pointer[gobreaker.TwoStepCircuitBreaker]
}

// New returns a closed breaker. failure returns nil for errors that are not the server's; and of
// others what callers get, and whether they count: one by which a server that answers refuses what
// it was asked for is no reason to ask it nothing else. onChange is told of changes; it must not
// block and must not call the breaker.
func New(limits Limits, failure func(error) (told error, counts bool), onChange func(from, to string)) *Breaker {
	b := &Breaker{limits: limits, failure: failure, onChange: onChange}
	b.cb.Store(b.fresh())
	return b
}

func (b *Breaker) fresh() *gobreaker.TwoStepCircuitBreaker {
	return gobreaker.NewTwoStepCircuitBreaker(gobreaker.Settings{
		MaxRequests: b.limits.Successes, Interval: countsFor, Timeout: b.limits.Open,
		ReadyToTrip:   func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= b.limits.Failures },
		OnStateChange: func(_ string, from, to gobreaker.State) { b.onChange(from.String(), to.String()) },
	})
}

// State returns "closed", "half-open" or "open".
func (b *Breaker) State() string { return b.cb.Load().State().String() }

// Reset closes the breaker at once: something proved that the server is back.
func (b *Breaker) Reset() {
	if from := b.State(); from != gobreaker.StateClosed.String() {
		b.cb.Store(b.fresh())
		b.onChange(from, gobreaker.StateClosed.String())
	}
}

// hasEnded reports whether ctx has ended. A connection that goes by the deadline of a context knows
// of it some microseconds before the context does, whose timer has yet to fire: that is waited for,
// so that everybody else sees it, too; but not for long, since the time of day may have been set.
func hasEnded(ctx context.Context) bool {
	if at, ok := ctx.Deadline(); ok && ctx.Err() == nil && !time.Now().Before(at) {
		late := time.NewTimer(100 * time.Millisecond)
		defer late.Stop()
		select {
		case <-ctx.Done():
		case <-late.C:
		}
	}
	return ctx.Err() != nil
}

// Do calls fn with a deadline, unless the breaker is open: then it returns ErrOpen at once. A panic
// of fn is ErrPanicked. When fn fails and ctx has ended, the error is both.
func (b *Breaker) Do(ctx context.Context, timeout time.Duration, fn func(context.Context) error) (err error) {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	cb := b.cb.Load()
	done, err := cb.Allow()
	if err != nil {
		return fmt.Errorf("%w %s", ErrOpen, cb.State())
	}
	success := false
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v", ErrPanicked, p)
		}
		done(success)
	}()
	sub, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	err = fn(sub)
	if err != nil && hasEnded(ctx) {
		// The caller left or had less patience than the timeout: that proves nothing about the
		// server, so it may neither open a closed breaker nor close a half-open one.
		success = cb.State() == gobreaker.StateClosed
		return errors.Join(err, ctx.Err())
	}
	if err != nil {
		if told, counts := b.failure(err); told != nil {
			success = !counts
			return told
		}
	}
	success = true
	return err
}
