package syncengine

// fleettime.go is the time that versions are made of (INV-16): that of L3, so that engines whose
// hosts' clocks differ order their writes alike. Each beat brings a look at L3's clock; between
// beats it goes on by this machine's monotonic one, which nobody sets. Without a table of engines,
// on the private SQLite file, and until L3 has answered once, it is the host's clock.
//
// A look is wrong by half of what the reply took at most. One that is away from what this clock
// says by more than that, and a millisecond, moves it; by skewStep at most at one beat, since a
// server may answer wrongly for a moment, as after a failover. The first is taken as it is.
//
// Time never goes back behind a version that was made by it: when L3's clock does, when another
// server's is behind, or when versions were made by a host's clock that was ahead, while L3 was
// away, the time stays ahead of L3's by as much (lift), and goes on from there. Where versions are
// ahead of the time for another reason, it is lifted to mayLead before them: so much they are
// after a kill (versions.go), and if that lifted it, kills in a row would move it on and on. The
// row of each engine tells its lift and its newest version; nobody stays below another one. So all
// agree within a beat, on the fastest.
//
// A lift is above the clock of the server that its engine asks. Servers of one L3 may differ, and
// who asks one that is ahead and took the lift of who asks another would be ahead by both; the
// other would follow, and with each that comes they would be further ahead. So nobody takes more of
// a lift than leads to what its engine's time can have reached since it was told (beatAge); that is
// all of it where both ask the same clock. That age is less than mayLead, and so not even what one
// engine lifts another by can come back to it as more.

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/syncengine-go/syncengine/internal/hlc"
)

// mayLead is how far versions may be ahead of the time.
const mayLead = time.Second

// beatAge is how old a row may be that tells the time of an engine: a beat, and some.
const beatAge = beatEvery + beatEvery/2

// skewStep bounds how far one beat moves the time.
const skewStep = time.Minute

// fleetTime is that clock.
type fleetTime struct {
	host  func() time.Time
	start time.Time                // for the monotonic clock
	told  func(step time.Duration) // of a step
	last  func() uint64            // this engine's newest version
	raise func(version uint64)     // makes later ones be above it

	mu   sync.Mutex   // held while the two are changed
	base atomic.Int64 // unix nanoseconds of L3 at start, 0: not known
	lift atomic.Int64 // nanoseconds
	most atomic.Int64 // the host's clock beside the monotonic one at its furthest, as base
}

func newFleetTime() *fleetTime {
	return &fleetTime{host: time.Now, start: time.Now(), told: func(time.Duration) {}, last: func() uint64 { return 0 }, raise: func(uint64) {}}
}

// Tell sets whose versions are told to other engines, and raised above theirs.
func (c *fleetTime) Tell(last func() uint64, raise func(version uint64)) {
	c.last, c.raise = last, raise
}

// OnHost sets the clock of the host.
func (c *fleetTime) OnHost(clock func() time.Time) { c.host = clock }

// Now returns the time.
func (c *fleetTime) Now() time.Time {
	if base := c.base.Load(); base != 0 {
		return time.Unix(0, base+c.lift.Load()+int64(time.Since(c.start)))
	}
	return c.host()
}

// L3 returns the time of L3 itself, by which items expire. It has no lift, or an hour of a host's
// wrong clock would take an hour from what lives; in return it goes back where L3's clock does. The
// host's clock, where that is all there is, does not go back: what has expired stays so.
func (c *fleetTime) L3() time.Time {
	mono := int64(time.Since(c.start))
	if base := c.base.Load(); base != 0 {
		return time.Unix(0, base+mono)
	}
	ahead := c.host().UnixNano() - mono
	for {
		most := c.most.Load()
		if ahead <= most {
			return time.Unix(0, most+mono)
		}
		if c.most.CompareAndSwap(most, ahead) {
			return time.Unix(0, ahead+mono)
		}
	}
}

// Offset returns by how much the host's clock is ahead; known tells whether L3 has been asked.
func (c *fleetTime) Offset() (ahead time.Duration, known bool) {
	if c.base.Load() == 0 {
		return 0, false
	}
	return c.host().Sub(c.Now()) + time.Duration(c.lift.Load()), true
}

// heard takes what L3's clock said in reply to a question.
func (c *fleetTime) heard(l3, asked, replied time.Time) {
	if l3.IsZero() {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.Now()
	margin := replied.Sub(asked) / 2
	base := l3.UnixNano() - int64(asked.Add(margin).Sub(c.start))
	margin += time.Millisecond // SQLite's clock has no more
	if was := c.base.Load(); was == 0 {
		if own := c.host().UnixNano() - int64(time.Since(c.start)); time.Duration(base-own).Abs() <= margin {
			base = own // as good, and no step
		}
		c.base.Store(base)
	} else if step := time.Duration(base - was); step.Abs() > margin {
		step = min(max(step, -skewStep), skewStep)
		if c.base.Store(was + int64(step)); step.Abs() > time.Second {
			c.told(step)
		}
	}
	last := c.last()
	if made := timeOf(last); made.Before(before) {
		before = made
	}
	c.notBelow(before)
	c.notBelow(timeOf(last).Add(-mayLead))
}

// meet takes the time of another engine's row.
func (c *fleetTime) meet(m *member) {
	c.raise(m.Clock)
	c.mu.Lock()
	defer c.mu.Unlock()
	reached := timeOf(m.Clock)
	c.lift.Store(max(c.lift.Load(), min(int64(m.Ahead), int64(reached.Add(beatAge).Sub(c.L3())))))
	c.notBelow(reached.Add(-mayLead))
}

// timeOf is the time that a version was made at.
func timeOf(version uint64) time.Time { return time.UnixMilli(int64(version >> 16)) }

// notBelow lifts the time to t. mu is held.
func (c *fleetTime) notBelow(t time.Time) {
	if behind := t.Sub(c.Now()); behind > 0 && c.base.Load() != 0 {
		c.lift.Add(int64(behind))
	}
}

// own is what this engine's row says.
func (c *fleetTime) own() (clock uint64, ahead time.Duration) {
	return max(c.last(), hlc.At(c.Now())), time.Duration(c.lift.Load())
}
