package syncengine

import (
	"fmt"
	"slices"
	"time"
)

// levels.go has the six levels of backpressure, as users see them. backpressure.go finds the
// current one.

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

// UnmarshalText reads what MarshalText writes. Another text is an error.
func (l *BackpressureLevel) UnmarshalText(text []byte) error {
	return fromName(l, levelNames[:], text, "level")
}

// fromName sets a value to the one of a name.
func fromName[T ~uint8](v *T, names []string, text []byte, what string) error {
	i := slices.Index(names, string(text))
	if i < 0 {
		return fmt.Errorf("syncengine: %q is no %s", text, what)
	}
	*v = T(i)
	return nil
}

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
