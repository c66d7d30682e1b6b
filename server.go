package syncengine

// server.go is the way to a server: each call goes through its breaker (internal/guard), with its
// timeout, and is counted. The guarded stores (l2cache.go, l3archive.go) are made of it. Questions
// whether a server is back go past its breaker (Probe, Ask).

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/syncengine-go/syncengine/internal/guard"
)

// server is the way to one server.
type server struct {
	name    string // in metrics
	tier    string // in errors
	Timeout time.Duration
	cb      *guard.Breaker
	news    *news
	door    *door

	hits, misses atomic.Uint64
	cause        atomic.Pointer[error] // why writes fail; nil: the last one did not
	failed       atomic.Pointer[error] // the last failure that counted
}

// newServer is of tier "L2" or "L3".
func newServer(tier string, timeout time.Duration, preset BreakerPreset, news *news, door *door) *server {
	s := &server{name: strings.ToLower(tier), tier: tier, Timeout: timeout, news: news, door: door}
	s.cb = guard.New(breakerPresets[preset], s.failure, func(from, to string) { news.Circuit(tier, from, to, s.lastFailure(to)) })
	return s
}

// breakerPresets are what the values of BreakerPreset stand for.
var breakerPresets = [...]guard.Limits{
	BreakerDefault:    {Failures: 5, Successes: 2, Open: 30 * time.Second},
	BreakerAggressive: {Failures: 3, Successes: 3, Open: time.Minute},
	BreakerLenient:    {Failures: 10, Successes: 1, Open: 15 * time.Second},
}

// When a call to a server is tried again: at the first contact; when somebody waits for it; and to
// ask a server that failed, for ever, whether it is back. That one does not grow to minutes: one
// ping each two seconds is no load, but an outage of an hour followed by five more minutes of
// spooling would be one.
var (
	onStartup = guard.Schedule{Tries: 5, First: 200 * time.Millisecond, Longest: 2 * time.Second, Jittered: .2}
	onQuery   = guard.Schedule{Tries: 3, First: 100 * time.Millisecond, Longest: 2 * time.Second, Jittered: .5}
	onOutage  = guard.Schedule{First: 100 * time.Millisecond, Longest: 2 * time.Second, Jittered: .2}
)

// passTime bounds one pass over a whole tier; each of its steps has the tier's timeout.
const passTime = time.Hour

// Do makes a call, once.
func (s *server) Do(ctx context.Context, op string, fn func(context.Context) error) error {
	return s.DoFor(ctx, op, s.Timeout, fn)
}

// DoFor is Do with a timeout of its own.
func (s *server) DoFor(ctx context.Context, op string, timeout time.Duration, fn func(context.Context) error) error {
	ctx, done := s.door.Cut(ctx)
	defer done()
	start := time.Now()
	err := s.cb.Do(ctx, timeout, fn)
	switch {
	case errors.Is(err, guard.ErrPanicked):
		err = s.panicked(err)
	case errors.Is(err, guard.ErrOpen):
		if why := s.failed.Load(); why != nil { // "circuit open" says nothing to a person
			err = fmt.Errorf("%w since %s", err, strings.TrimPrefix(plain(*why), s.tier+": "))
		}
		err = unavailable(s.tier, err)
	case err != nil && ctx.Err() != nil && err != ctx.Err(): // the caller has left
		err = says(fmt.Errorf("%s: %w", s.tier, err))
	}
	s.news.Call(s.name, op, start, err)
	return err
}

func (s *server) failure(err error) (told error, counts bool) {
	if !isOutage(err) {
		return nil, false
	}
	told, counts = unavailable(s.tier, err), !errors.Is(err, errNoWrites) && !errors.Is(err, errWhoAnswers)
	if counts {
		s.failed.Store(&told)
	}
	return told, counts
}

// lastFailure is why the breaker goes to a state: nil unless it opens.
func (s *server) lastFailure(to string) error {
	if err := s.failed.Load(); to == "open" && err != nil {
		return *err
	}
	return nil
}

// MayAnswerOne reports whether a call for one id may succeed where one for many, which began at a
// time, has failed: it may be about one of them. A server that hangs will hang again.
func (s *server) MayAnswerOne(began time.Time) bool {
	return time.Since(began) < s.Timeout && s.cb.State() != "open"
}

// Again repeats a call after an outage, on the query schedule, unless a try took the whole timeout:
// a server that hangs will hang again. Nor if only says no.
func (s *server) Again(ctx context.Context, only func(error) bool, once func() error) error {
	start := time.Now()
	return onQuery.Retry(ctx, func() { s.news.Retried(); start = time.Now() }, func(err error) bool {
		return isOutage(err) && only(err) && time.Since(start) < s.Timeout && s.cb.State() != "open"
	}, once)
}

// Probe makes a call past the breaker.
func (s *server) Probe(ctx context.Context, fn func(context.Context) error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = s.panicked(fmt.Errorf("%w: %v", guard.ErrPanicked, v))
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, s.Timeout)
	defer cancel()
	return fn(ctx)
}

// panicked is what a panic of a store of the caller's is: an outage.
func (s *server) panicked(err error) error {
	return says(fmt.Errorf("%s: %w: the store %w", s.tier, ErrUnavailable, err))
}

// InBackground starts a goroutine that ends when background work does.
func (s *server) InBackground(name string, fn func(context.Context)) {
	s.door.Spawn(name, func() { fn(s.door.Context()) })
}

// Work starts a goroutine for what is short and comes often, within a call or a loop.
func (s *server) Work(fn func()) { s.door.Work(fn) }

// Background returns the context for that, with the values of a caller's.
func (s *server) Background(values context.Context) context.Context { return s.door.Background(values) }

// State returns the breaker's: "closed", "half-open" or "open".
func (s *server) State() string { return s.cb.State() }

// Reset closes the breaker: something proved that the server is back.
func (s *server) Reset() { s.cb.Reset() }

// Wrote keeps why writes fail: the first cause, since later ones may only say that the circuit is
// open. It reports whether that has changed.
func (s *server) Wrote(err error) (changed bool) {
	if err == nil {
		return s.cause.Load() != nil && s.cause.Swap(nil) != nil
	}
	return s.cause.CompareAndSwap(nil, &err)
}

// WriteCause returns why writes fail, nil when the last one did not.
func (s *server) WriteCause() error {
	if cause := s.cause.Load(); cause != nil {
		return *cause
	}
	return nil
}

// Saw counts answers of reads.
func (s *server) Saw(found bool, n int) {
	if found {
		s.hits.Add(uint64(n))
	} else {
		s.misses.Add(uint64(n))
	}
}

// Counts returns how many reads found something, and how many did not.
func (s *server) Counts() (hits, misses uint64) { return s.hits.Load(), s.misses.Load() }

// Ask asks for a sign of life, past the breaker, for Health.
func (s *server) Ask(ctx context.Context, ping func(context.Context) error) (p Probe) {
	start := time.Now()
	err := s.Probe(ctx, ping)
	p = Probe{Configured: true, OK: err == nil, Latency: time.Since(start)}
	if err != nil {
		p.Error = plain(err)
	}
	return p
}

// unavailableUnless marks err as an outage unless the caller left, or it says what is wrong.
func unavailableUnless(ctx context.Context, err error) error {
	if ctx.Err() != nil || errors.Is(err, ErrUnavailable) || errors.Is(err, ErrCorruption) {
		return err
	}
	return unavailable("syncengine", err)
}
