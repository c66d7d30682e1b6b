// Package hlc is a clock that hands out versions: numbers that always grow, and that tell the time.
//
// A version is the milliseconds since the Unix epoch, shifted left by 16, plus a counter. When the
// wall clock has moved on to another millisecond, the counter starts at a random point of its lower
// half, so that two clocks that read the same time don't hand out the same versions. Else, and when
// the wall clock went back, a version is one more than the last. A counter that runs over borrows
// from the next millisecond, so order never depends on how fast versions are asked for.
//
// A clock follows time alone. It takes no notice of versions that others made: a single one far
// ahead would push the versions of all ids there, on every clock that saw it, for ever. Who needs a
// version above another asks After for it, and the clock stays where it is.
//
// It owns one word of memory. It never blocks, never allocates, starts no goroutine and knows
// nothing of ids.
package hlc

import (
	"math/rand/v2"
	"sync/atomic"
	"time"
)

const (
	// MaxVersion is the largest version there is. It fits a signed 64-bit integer, which is what
	// databases have.
	MaxVersion = 1<<63 - 1

	// MaxFloor bounds what a wall clock or a floor can do: it is the first version of the year
	// 4199, in which no right clock is. The versions between it and MaxVersion last for one a
	// nanosecond for 146 years, so that Next always has one.
	MaxFloor = 1 << 62

	counterBits = 16
	startBelow  = 1 << (counterBits - 1) // the upper half is left for versions of the same millisecond
)

// Clock hands out versions. The zero value reads time.Now and has no floor. All methods are safe
// for concurrent use; none blocks or allocates. A Clock must not be copied after its first use.
type Clock struct {
	last atomic.Uint64 // largest version handed out, or the floor
	now  func() time.Time
}

// New returns a clock that reads now, nil for time.Now, and whose versions are above floor: a bound
// of what was handed out before, by the clock of an earlier process. A floor above MaxFloor counts
// as MaxFloor. now runs once in each Next and After, on the caller's goroutine, and must be safe
// for concurrent use.
func New(now func() time.Time, floor uint64) *Clock {
	c := &Clock{now: now}
	c.Raise(floor)
	return c
}

// Next returns a version above every one this clock has returned from Next, and above its floor.
func (c *Clock) Next() uint64 {
	// The wall clock is read once, not once a turn: a version a few nanoseconds older than it could
	// be is in order all the same, as last decides.
	wall := c.wall()
	for {
		last := c.last.Load()
		next := last + 1
		if wall>>counterBits > last>>counterBits {
			next = wall | uint64(rand.Uint32N(startBelow))
		}
		if c.last.CompareAndSwap(last, next) {
			return next
		}
	}
}

// After returns a version above v, and not below Next: for an id that is known at v. It does not
// move the clock to v, so two calls with the same v far ahead return the same, and other ids keep
// their time. Above MaxVersion is nothing, so for v >= MaxVersion it returns MaxVersion.
func (c *Clock) After(v uint64) uint64 {
	return max(c.Next(), min(v, MaxVersion-1)+1)
}

// Last returns the largest version that Next has made, for After as well, or the floor while there
// is none. What After returned instead of it, above its v, does not count.
func (c *Clock) Last() uint64 { return c.last.Load() }

// Raise makes later versions be above floor, too. A floor above MaxFloor counts as MaxFloor; one
// below Last changes nothing.
func (c *Clock) Raise(floor uint64) {
	floor = min(floor, MaxFloor)
	for {
		last := c.last.Load()
		if floor <= last || c.last.CompareAndSwap(last, floor) {
			return
		}
	}
}

// At returns the lowest version of the millisecond of t: 0 for a time before 1970, and at most
// MaxVersion.
func At(t time.Time) uint64 {
	const last = MaxVersion >> counterBits // millisecond that has versions, in the year 6429
	switch sec := t.Unix(); {              // UnixMilli overflows in the far future
	case sec < 0:
		return 0
	case sec > last/1000, t.UnixMilli() > last:
		return MaxVersion
	}
	return uint64(t.UnixMilli()) << counterBits
}

// wall returns the first version of the current millisecond, at most MaxFloor.
func (c *Clock) wall() uint64 {
	if c.now == nil {
		return min(At(time.Now()), MaxFloor)
	}
	return min(At(c.now()), MaxFloor)
}
