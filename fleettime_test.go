package syncengine

import (
	"testing"
	"time"

	"github.com/syncengine-go/syncengine/internal/hlc"
)

// meets is a member as c's row tells of it to d.
func meets(c, d *fleetTime) {
	clock, ahead := c.own()
	d.meet(&member{Clock: clock, Ahead: ahead})
}

// Engines that ask a server of L3 whose clock is ahead come one after the other, while one asks
// another server.
func TestINV16TheTimeIsNeverAheadOfTheFastestClock(t *testing.T) {
	for _, fast := range []time.Duration{500 * time.Millisecond, time.Second, 1100 * time.Millisecond, 2 * time.Second, 10 * time.Second, 24 * time.Hour} {
		a, now := newFleetTime(), time.Now()
		a.heard(now, now, now)
		for range 20 {
			c, now := newFleetTime(), time.Now()
			c.heard(now.Add(fast), now, now)
			meets(a, c)
			meets(c, a)
		}
		if ahead := time.Until(a.Now()); ahead > fast || ahead < fast-mayLead-time.Second/10 {
			t.Errorf("the fastest clock is %v ahead, the engines' time %v", fast, ahead)
		}
	}
}

// Who asks the same clock takes all of a lift, from a row that is a beat old, too.
func TestINV16ALiftIsTakenWhole(t *testing.T) {
	const lift = time.Hour
	a, b, now := newFleetTime(), newFleetTime(), time.Now()
	a.heard(now.Add(lift), now, now)
	made := hlc.At(a.Now())
	a.last = func() uint64 { return made }
	for range 100 { // L3's clock goes back
		a.heard(now, now, now)
	}
	clock, ahead := a.own()
	b.heard(now, now, now)
	b.meet(&member{Clock: clock - uint64(beatEvery.Milliseconds())<<16, Ahead: ahead})
	if d := a.Now().Sub(b.Now()).Abs(); d > time.Millisecond || a.Now().Sub(now) < lift-time.Second {
		t.Errorf("they differ by %v, and are %v ahead", d, a.Now().Sub(now))
	}
	dead := newFleetTime() // one whose last row is older
	dead.heard(now, now, now)
	dead.meet(&member{Clock: clock - uint64((4*time.Second).Milliseconds())<<16, Ahead: ahead})
	if d := a.Now().Sub(dead.Now()); d > 4*time.Second || d < 3*time.Second {
		t.Errorf("it is %v behind", d)
	}
}
