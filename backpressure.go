package syncengine

// backpressure.go turns how full the engine is into a level (levels.go). It owns no structure of
// its own: the engine feeds it.
//
// No goroutines.

import (
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

// pressureGauge holds the current level.
type pressureGauge struct {
	limits  [5]float64
	level   atomic.Uint32
	changed func(from, to BackpressureLevel) // must not block
}

func (g *pressureGauge) current() BackpressureLevel { return BackpressureLevel(g.level.Load()) }

// observe moves to the level of pressure p. It rises at once and falls only when p is
// clearly below the threshold.
func (g *pressureGauge) observe(p float64) BackpressureLevel {
	for {
		from := g.current()
		to := levelFor(p, &g.limits)
		if to < from {
			to = min(from, levelFor(p+hysteresis, &g.limits))
		}
		if to == from {
			return to
		}
		if g.level.CompareAndSwap(uint32(from), uint32(to)) {
			g.changed(from, to)
			return to
		}
	}
}

// throttle is how long a write should wait at pressure p: on average nothing where LevelThrottle
// begins, throttleMax where LevelCritical does, in proportion between; each call half to
// one and a half of that, so that those that came together don't go on together.
func (g *pressureGauge) throttle(p float64) time.Duration {
	low, high := g.limits[LevelThrottle-1], g.limits[LevelCritical-1]
	part := min(1, max(0, (p-low)/(high-low)))
	return time.Duration(part * float64(throttleMax) * (.5 + rand.Float64()))
}
