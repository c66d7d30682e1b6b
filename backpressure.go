package syncengine

// backpressure.go turns how full the engine is into six levels. It owns no structure of
// its own: the engine feeds it.
//
// No goroutines.

import (
	"math/rand/v2"
	"sync/atomic"
	"time"
)

// BackpressureLevel says what the engine still accepts. The zero value is LevelNormal.
type BackpressureLevel uint8

// The levels, rising.
const (
	LevelNormal    BackpressureLevel = iota
	LevelWarn                        // full speed, but worth an alert
	LevelThrottle                    // writes are slowed
	LevelCritical                    // writes are refused
	LevelEmergency                   // writes are refused, everything is flushed at once
	LevelShutdown                    // reads are refused too, but for what memory alone can answer
)

var levelNames = [...]string{"normal", "warn", "throttle", "critical", "emergency", "shutdown"}

// String returns the level in lower case.
func (l BackpressureLevel) String() string {
	if int(l) < len(levelNames) {
		return levelNames[l]
	}
	return "unknown"
}

// MarshalText returns String, for JSON and logs.
func (l BackpressureLevel) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// AcceptsWrites reports whether writes are taken at this level.
func (l BackpressureLevel) AcceptsWrites() bool { return l < LevelCritical }

// AcceptsReads reports whether all reads are served at this level. Hits in L1 always are.
func (l BackpressureLevel) AcceptsReads() bool { return l < LevelShutdown }

// HTTPStatus is the status a service may answer a write with: 0 (none) up to LevelWarn,
// 429 at LevelThrottle, 503 above.
func (l BackpressureLevel) HTTPStatus() int {
	switch {
	case l < LevelThrottle:
		return 0
	case l == LevelThrottle:
		return 429
	}
	return 503
}

// RetryAfter is how long a caller should wait: 0 up to LevelWarn, 1 s at LevelThrottle,
// 5 s at LevelCritical, 30 s above.
func (l BackpressureLevel) RetryAfter() time.Duration {
	switch {
	case l < LevelThrottle:
		return 0
	case l == LevelThrottle:
		return time.Second
	case l == LevelCritical:
		return 5 * time.Second
	}
	return 30 * time.Second
}

// defaultThresholds are where the levels above LevelNormal begin.
var defaultThresholds = [5]float64{.70, .80, .90, .95, .98}

// LevelFor returns the level of a pressure at the default thresholds. NaN is LevelShutdown:
// a pressure nobody knows is not a safe one.
func LevelFor(pressure float64) BackpressureLevel { return levelFor(pressure, &defaultThresholds) }

func levelFor(p float64, limits *[5]float64) BackpressureLevel {
	l := LevelShutdown
	for l > LevelNormal && p < limits[l-1] {
		l--
	}
	return l
}

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
