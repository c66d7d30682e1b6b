package syncengine

// resilience.go holds what stands between the engine and a server that fails: retry
// presets and circuit breakers. It knows no store.
//
// A breaker counts outages only: not an absent row, not a refused row, not a caller that
// left. Every protected call has a deadline, since a call that never returned would leave
// a half-open breaker closed to all for ever.
//
// No goroutines.

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/sony/gobreaker"
)

// retryPreset is a schedule of retries with jitter.
type retryPreset struct {
	tries    int // 0: without end
	first    time.Duration
	longest  time.Duration
	jittered float64
}

// The presets. Startup is for the first contact, Query for a call that somebody waits for,
// Daemon for asking a server that failed, for ever, whether it is back. Daemon does not grow
// to minutes: one ping each two seconds is no load, but an outage of an hour followed by five
// more minutes of spooling would be one.
var (
	startupPreset = retryPreset{tries: 5, first: 200 * time.Millisecond, longest: 2 * time.Second, jittered: .2}
	queryPreset   = retryPreset{tries: 3, first: 100 * time.Millisecond, longest: 2 * time.Second, jittered: .5}
	daemonPreset  = retryPreset{first: 100 * time.Millisecond, longest: 2 * time.Second, jittered: .2}
)

// Schedule returns the waits between tries. It is for one operation only.
func (p retryPreset) Schedule() backoff.BackOff {
	b := backoff.NewExponentialBackOff(backoff.WithInitialInterval(p.first), backoff.WithMaxInterval(p.longest),
		backoff.WithMultiplier(2), backoff.WithRandomizationFactor(p.jittered), backoff.WithMaxElapsedTime(0))
	if p.tries == 0 {
		return b
	}
	return backoff.WithMaxRetries(b, uint64(p.tries-1))
}

// retry runs fn until it succeeds, fails with an error that is not worth another try, the
// schedule ends, or ctx does. It returns fn's last error, not the context's.
func retry(ctx context.Context, p retryPreset, onRetry func(), again func(error) bool, fn func() error) error {
	var last error
	err := backoff.RetryNotify(func() error {
		if last = fn(); last != nil && !again(last) {
			return backoff.Permanent(last)
		}
		return last
	}, backoff.WithContext(p.Schedule(), ctx), func(error, time.Duration) { onRetry() })
	if err != nil && last != nil {
		return last
	}
	return err
}

// breakerPreset configures a breaker.
type breakerPreset struct {
	failures  uint32        // consecutive outages that open it
	successes uint32        // successes that close it again
	open      time.Duration // time it stays open
}

// breakerPresets are what the values of BreakerPreset stand for.
var breakerPresets = [...]breakerPreset{
	BreakerDefault:    {5, 2, 30 * time.Second},
	BreakerAggressive: {3, 3, time.Minute},
	BreakerLenient:    {10, 1, 15 * time.Second},
}

// breakerInterval clears the counts of a closed breaker.
const breakerInterval = time.Minute

// breaker guards the calls to one server.
type breaker struct {
	tier     string
	preset   breakerPreset
	onChange func(from, to string) // must not block and must not call the breaker
	cb       atomic.Pointer[gobreaker.TwoStepCircuitBreaker]
}

func newBreaker(tier string, p breakerPreset, onChange func(from, to string)) *breaker {
	b := &breaker{tier: tier, preset: p, onChange: onChange}
	b.cb.Store(b.fresh())
	return b
}

func (b *breaker) fresh() *gobreaker.TwoStepCircuitBreaker {
	return gobreaker.NewTwoStepCircuitBreaker(gobreaker.Settings{
		Name: b.tier, MaxRequests: b.preset.successes, Interval: breakerInterval, Timeout: b.preset.open,
		ReadyToTrip:   func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= b.preset.failures },
		OnStateChange: func(_ string, from, to gobreaker.State) { b.onChange(from.String(), to.String()) },
	})
}

// state returns "closed", "half-open" or "open".
func (b *breaker) state() string { return b.cb.Load().State().String() }

// reset closes the breaker at once: something proved that the server is back.
func (b *breaker) reset() {
	if from := b.state(); from != gobreaker.StateClosed.String() {
		b.cb.Store(b.fresh())
		b.onChange(from, gobreaker.StateClosed.String())
	}
}

// do calls fn with a deadline, unless the breaker is open: then it returns an error that
// is ErrUnavailable at once.
func (b *breaker) do(ctx context.Context, timeout time.Duration, fn func(context.Context) error) (err error) {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	cb := b.cb.Load()
	done, err := cb.Allow()
	if err != nil {
		return fmt.Errorf("%s: %w: circuit %s", b.tier, ErrUnavailable, cb.State())
	}
	success := false
	defer func() {
		if p := recover(); p != nil { // a store of the caller's
			err = fmt.Errorf("%s: %w: the store panicked: %v", b.tier, ErrUnavailable, p)
		}
		done(success)
	}()
	sub, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	err = fn(sub)
	switch {
	case ctx.Err() != nil && err != nil:
		// The caller left or had less patience than the timeout: that proves nothing about
		// the server, so it may neither open a closed breaker nor close a half-open one.
		success = cb.State() == gobreaker.StateClosed
		return errors.Join(err, ctx.Err())
	case isOutage(err):
		return unavailable(b.tier, err)
	}
	success = true
	return err
}
