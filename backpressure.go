package syncengine

// backpressure.go finds the level of backpressure (levels.go), and lets calls in, slows them, or
// refuses them by it. How full the engine is it reads from memory and from the journal. Whoever
// is let in to write has a place in the log then, so that it does not wait in vain, and so that
// what is accepted into memory alone can be logged when L3 goes away (INV-10).
//
// No goroutines.

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync/atomic"
	"time"
)

const (
	// hysteresis is how far pressure must fall below a level's threshold to leave it.
	hysteresis = .02
	// throttleMax is the average wait of a write at LevelThrottle where LevelCritical begins.
	throttleMax = 50 * time.Millisecond
)

// pressure is the department that lets calls in.
type pressure struct {
	l1      *l1
	wal     *journal
	limits  [5]float64
	level   atomic.Uint32
	changed func(from, to BackpressureLevel) // must not block
}

func newPressure(mem *l1, wal *journal, limits [5]threshold, changed func(from, to BackpressureLevel)) *pressure {
	p := &pressure{l1: mem, wal: wal, changed: changed}
	for i, t := range limits {
		p.limits[i] = t.value
	}
	return p
}

// Now returns how full the engine is; 1 is full.
func (p *pressure) Now() float64 {
	items, bytes := p.wal.Fill()
	return max(p.l1.Fill(), items, bytes)
}

// Level returns the level as it was observed last.
func (p *pressure) Level() BackpressureLevel { return BackpressureLevel(p.level.Load()) }

// Observe moves to the level of the pressure now. It rises at once and falls only when pressure is
// clearly below the threshold.
func (p *pressure) Observe() BackpressureLevel { return p.observe(p.Now()) }

func (p *pressure) observe(now float64) BackpressureLevel {
	for {
		from := p.Level()
		to := levelFor(now, &p.limits)
		if to < from {
			to = min(from, levelFor(now+hysteresis, &p.limits))
		}
		if to == from {
			return to
		}
		if p.level.CompareAndSwap(uint32(from), uint32(to)) {
			p.changed(from, to)
			return to
		}
	}
}

// Admit lets ops in: it refuses them at once, or slows them. Nothing has been changed when it
// returns an error; else they have their place in the log.
func (p *pressure) Admit(ctx context.Context, ops []*entry) error {
	if err := p.AdmitMore(ctx, ops); err != nil {
		return err
	}
	if err := p.Slow(ctx); err != nil {
		p.wal.Release(ops)
		return err
	}
	return nil
}

// AdmitMore is Admit for ops of a call that was slowed already.
func (p *pressure) AdmitMore(ctx context.Context, ops []*entry) error {
	if err := p.Allow(ctx); err != nil {
		return err
	}
	return p.Reserve(ops)
}

// Allow refuses a write at a level that takes none.
func (p *pressure) Allow(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if level := p.Observe(); !level.AcceptsWrites() {
		return p.refusal(level)
	}
	return nil
}

// Slow makes a write wait at LevelThrottle.
func (p *pressure) Slow(ctx context.Context) error {
	level := p.Level()
	if level < LevelThrottle {
		return nil
	}
	timer := time.NewTimer(p.throttle(p.Now()))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return errors.Join(p.refusal(level), ctx.Err())
	}
}

// Reserve gives ops a place in the log, or refuses them.
func (p *pressure) Reserve(ops []*entry) error {
	if p.wal.Reserve(ops) {
		return nil
	}
	return &BackpressureError{Level: LevelCritical, RetryAfter: LevelCritical.RetryAfter(), Reason: "the WAL has no room for this call"}
}

// AdmitRead refuses a read at LevelShutdown: what it brings from the tiers below needs room. What
// is in memory already needs none, and is never refused.
func (p *pressure) AdmitRead() error {
	l := p.Level()
	if l.AcceptsReads() {
		return nil
	}
	return &BackpressureError{Level: l, RetryAfter: l.RetryAfter(), Reason: "reads are refused: " + p.reason()}
}

func (p *pressure) refusal(level BackpressureLevel) error {
	return &BackpressureError{Level: level, RetryAfter: level.RetryAfter(), Reason: p.reason()}
}

// reason names what the pressure is made of.
func (p *pressure) reason() string {
	items, bytes := p.wal.Fill()
	switch {
	case p.l1.Fill() > max(items, bytes):
		return "memory is full of ops that L3 has not taken"
	case p.wal.MostlyRefused():
		return "the WAL is full of ops that L3 refuses, until they are retried or discarded"
	case items >= bytes:
		return "the WAL is full of ops that L3 has not taken"
	}
	return "the WAL is full of bytes that L3 has not taken"
}

// throttle is how long a write should wait: on average nothing where LevelThrottle begins,
// throttleMax where LevelCritical does, in proportion between; each call half to one and a half of
// that, so that those that came together don't go on together.
func (p *pressure) throttle(now float64) time.Duration {
	low, high := p.limits[LevelThrottle-1], p.limits[LevelCritical-1]
	part := min(1, max(0, (now-low)/(high-low)))
	return time.Duration(part * float64(throttleMax) * (.5 + rand.Float64()))
}
