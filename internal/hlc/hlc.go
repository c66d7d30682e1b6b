// Package hlc is a hybrid logical clock: it hands out versions that always grow, and that tell the time.
//
// A version is the milliseconds since the Unix epoch, shifted left by 16, plus a counter. A version is one more than
// the last if the wall clock has not moved on (or went back), and the wall clock's if it has. A counter that runs over
// borrows from the next millisecond, so order never depends on how fast versions are asked for; an engine that hands out
// more than 65 million a second merely runs ahead of the wall clock.
//
// It owns one word of memory. It never blocks, never allocates, starts no goroutine and knows nothing of ids.
package hlc

import (
	"sync/atomic"
	"time"
)

const (
	// MaxVersion is the largest version there is. It fits a signed 64-bit integer, which is what databases have.
	MaxVersion = 1<<63 - 1

	// MaxObserved is the largest version that moves a clock: the wall clock reaches it in the year 4199. A caller who
	// numbers the versions of one id himself may use any number up to MaxVersion. If the clock followed such a number, one
	// id would push the versions of all others to the end of their range, where there is no next. Between MaxObserved and
	// MaxVersion are enough versions to hand out one a nanosecond for 146 years.
	MaxObserved = 1 << 62

	counterBits = 16
)

// Clock hands out versions. The zero value is ready and reads time.Now. All methods are safe for concurrent use; none
// blocks or allocates. A Clock must not be copied after its first use.
type Clock struct {
	last atomic.Uint64 // largest version handed out or observed
	now  func() time.Time
}

// New returns a clock that reads now instead of time.Now; nil means time.Now. now runs once in each Next, NextN and
// NextAfter, on the caller's goroutine, and must be safe for concurrent use.
func New(now func() time.Time) *Clock {
	return &Clock{now: now}
}

// Next returns a version above every version this clock has returned or observed.
//
// It returns 0, which is no version, if none is left below MaxVersion. Time and observed versions don't lead there, only
// reserving some 2^62 versions by NextN does.
func (c *Clock) Next() uint64 {
	return c.reserve(0, 1)
}

// NextN reserves n consecutive versions, all above every version this clock has returned or observed, and returns the
// first: the others are the n-1 numbers after it. It returns 0 and reserves nothing if n < 1 or if fewer than n versions
// are left.
func (c *Clock) NextN(n int) uint64 {
	if n < 1 {
		return 0
	}
	return c.reserve(0, uint64(n))
}

// NextAfter returns a version above v and above every version this clock has returned or observed: v is observed on the
// way.
//
// For v >= MaxObserved it returns v+1, at most MaxVersion, and doesn't move the clock (see MaxObserved). Such a version
// is above v only: it may be below others this clock knows, and two calls with the same v return the same. So it is good
// for an id numbered by its caller, whose versions are compared with each other only, and not for an id that needs a
// version nobody else has. For v >= MaxVersion nothing is above, and the result is MaxVersion.
func (c *Clock) NextAfter(v uint64) uint64 {
	if v >= MaxObserved {
		return min(v, MaxVersion-1) + 1
	}
	return c.reserve(v, 1)
}

// Observe makes sure that later versions are above v. It ignores v above MaxObserved: a caller who numbers an id with a
// huge version must not push the clock of all other ids to the end of its range.
func (c *Clock) Observe(v uint64) {
	if v > MaxObserved {
		return
	}
	for {
		last := c.last.Load()
		if v <= last || c.last.CompareAndSwap(last, v) {
			return
		}
	}
}

// Last returns the largest version handed out or observed so far, 0 if there is none.
func (c *Clock) Last() uint64 {
	return c.last.Load()
}

// reserve takes n (1 to MaxVersion) consecutive versions above floor and above last. The wall clock is read once, not once
// a turn: a version a few nanoseconds older than it could be is in order all the same, as last decides.
func (c *Clock) reserve(floor, n uint64) uint64 {
	wall := c.wall()
	for {
		last := c.last.Load()
		first := max(wall, floor+1, last+1)
		if first > MaxVersion-(n-1) {
			return 0
		}
		if c.last.CompareAndSwap(last, first+(n-1)) {
			return first
		}
	}
}

// wall returns the first version of the current millisecond, kept between 0 and MaxObserved: a wall clock set before 1970
// or after 4199 is wrong, and must not do what an observed version must not do.
func (c *Clock) wall() uint64 {
	var ms int64
	if c.now == nil {
		ms = time.Now().UnixMilli()
	} else {
		ms = c.now().UnixMilli()
	}
	return uint64(min(max(ms, 0), MaxObserved>>counterBits)) << counterBits
}
