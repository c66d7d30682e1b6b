package hlc

import (
	"math"
	"slices"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// wallClock is a clock that stands where it is put.
type wallClock struct{ t time.Time }

func (w *wallClock) now() time.Time { return w.t }

func atMilli(ms int64) *wallClock { return &wallClock{time.UnixMilli(ms)} }

func TestVersionIsMillisecondsAndCounter(t *testing.T) {
	wall := atMilli(1_700_000_000_123)
	c := New(wall.now, 0)
	for range 100 {
		first := c.Next()
		if ms, counter := first>>16, first&math.MaxUint16; ms != uint64(wall.t.UnixMilli()) || counter >= 1<<15 {
			t.Fatalf("first version of millisecond %d is of %d, counter %d", wall.t.UnixMilli(), ms, counter)
		}
		if got := c.Next(); got != first+1 {
			t.Fatalf("%#x is followed by %#x", first, got)
		}
		wall.t = wall.t.Add(time.Millisecond)
	}
}

// Clocks that read the same time must not hand out the same versions, each time it moves on.
func TestClocksThatReadOneTimeDoNotTie(t *testing.T) {
	const rounds = 1000
	wall := atMilli(1_700_000_000_000)
	a, b := New(wall.now, 0), New(wall.now, 0)
	ties, low, high := 0, uint64(math.MaxUint64), uint64(0)
	for range rounds {
		wall.t = wall.t.Add(time.Millisecond)
		v, w := a.Next(), b.Next()
		if v == w {
			ties++
		}
		low, high = min(low, v&math.MaxUint16), max(high, v&math.MaxUint16)
	}
	if ties > 5 { // 0.03 are expected
		t.Errorf("%d ties in %d milliseconds", ties, rounds)
	}
	if low > 1<<10 || high < 1<<15-1<<10 { // each is missed once in 10^13 runs
		t.Errorf("counters start at %d to %d, want all of the lower half", low, high)
	}
}

func TestZeroClockTellsTheTime(t *testing.T) {
	var c Clock
	if c.Last() != 0 {
		t.Fatalf("a new clock has seen %d", c.Last())
	}
	before := time.Now().UnixMilli()
	got := int64(c.Next() >> 16)
	if after := time.Now().UnixMilli(); got < before || got > after {
		t.Fatalf("version is of millisecond %d, the time was %d to %d", got, before, after)
	}
}

func TestVersionsGrowWhenTheWallClockGoesBack(t *testing.T) {
	wall := atMilli(1_700_000_000_000)
	c := New(wall.now, 0)
	before := c.Next()
	wall.t = wall.t.Add(-time.Hour)
	if after := c.Next(); after != before+1 {
		t.Fatalf("after the wall clock went back: %d follows %d", after, before)
	}
}

func TestCounterRunsOverIntoTheNextMillisecond(t *testing.T) {
	wall := atMilli(5)
	c := New(wall.now, 5<<16|math.MaxUint16)
	if next := c.Next(); next != 6<<16 {
		t.Fatalf("a counter that is used up is followed by %#x", next)
	}
	wall.t = wall.t.Add(time.Millisecond)
	if next := c.Next(); next != 6<<16+1 {
		t.Fatalf("the wall clock reached a borrowed millisecond and the version is %#x", next)
	}
}

func TestVersionsStartAboveTheFloor(t *testing.T) {
	for _, floor := range []uint64{1, 10<<16 - 1, 10 << 16, 99 << 16, MaxFloor} {
		c := New(atMilli(10).now, floor)
		if c.Last() != floor {
			t.Errorf("floor %#x: last is %#x", floor, c.Last())
		}
		if got := c.Next(); got <= floor {
			t.Errorf("floor %#x: first is %#x", floor, got)
		}
	}
}

func TestARaisedFloorIsPassedAndALowerOneIgnored(t *testing.T) {
	c := New(atMilli(10).now, 0)
	c.Raise(99 << 16)
	c.Raise(98 << 16)
	if got := c.Next(); got != 99<<16+1 {
		t.Fatalf("next is %#x", got)
	}
}

// A floor that only a damaged file can name must not use up the versions there are.
func TestAnAbsurdFloorLeavesVersions(t *testing.T) {
	for _, floor := range []uint64{MaxFloor + 1, MaxVersion, math.MaxUint64} {
		c := New(atMilli(10).now, floor)
		c.Raise(floor)
		if a, b := c.Next(), c.Next(); a != MaxFloor+1 || b != a+1 {
			t.Errorf("floor %#x: %#x, then %#x", floor, a, b)
		}
	}
}

func TestWallClockOutsideOfItsRangeIsHeldBack(t *testing.T) {
	if got := New(atMilli(-5).now, 0).Next(); got != 1 {
		t.Errorf("before 1970: %d", got)
	}
	for _, ms := range []int64{math.MaxInt64, MaxVersion >> 16, MaxFloor >> 16} {
		if got := New(atMilli(ms).now, 0).Next(); got>>15 != MaxFloor>>15 {
			t.Errorf("millisecond %d: %#x", ms, got)
		}
	}
}

func TestAfterIsAboveAndLeavesTheClockAlone(t *testing.T) {
	const floor = 20 << 16 // ahead of the wall clock, so that what Next returns is known
	for _, test := range []struct{ v, want uint64 }{
		{0, floor + 1},
		{floor, floor + 1},
		{floor + 1, floor + 2},
		{floor + 700, floor + 701},
		{1 << 60, 1<<60 + 1},
		{MaxVersion - 1, MaxVersion},
		{MaxVersion, MaxVersion},
		{math.MaxUint64, MaxVersion},
	} {
		c := New(atMilli(10).now, floor)
		if got := c.After(test.v); got != test.want {
			t.Errorf("After(%#x) = %#x, want %#x", test.v, got, test.want)
		}
		if last, next := c.Last(), c.Next(); last != floor+1 || next != floor+2 {
			t.Errorf("after After(%#x) last is %#x and next %#x", test.v, last, next)
		}
	}
}

// TestClockAgainstItsRules runs random calls under a wall clock that jumps both ways.
func TestClockAgainstItsRules(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		wall := atMilli(1000)
		version := rapid.OneOf(rapid.Uint64Range(0, 2000<<16), rapid.Uint64(), rapid.Uint64Range(MaxFloor-2, MaxFloor+2))
		seen := version.Draw(t, "floor") // largest version of Next, or floor
		c := New(wall.now, seen)
		seen = min(seen, MaxFloor)
		next := func(got uint64) {
			now := uint64(max(wall.t.UnixMilli(), 0))
			switch {
			case now > seen>>16 && (got>>16 != now || got&math.MaxUint16 >= 1<<15):
				t.Fatalf("%#x follows %#x in millisecond %d", got, seen, now)
			case now <= seen>>16 && got != seen+1:
				t.Fatalf("%#x follows %#x while the wall clock stands", got, seen)
			}
			seen = got
		}
		t.Repeat(map[string]func(*rapid.T){
			"jump": func(t *rapid.T) { wall.t = time.UnixMilli(rapid.Int64Range(-10, 2000).Draw(t, "ms")) },
			"next": func(*rapid.T) { next(c.Next()) },
			"after": func(t *rapid.T) {
				v := version.Draw(t, "v")
				got := c.After(v)
				if got > MaxVersion || got <= v && got != MaxVersion || got < c.Last() {
					t.Fatalf("After(%#x) = %#x", v, got)
				}
				if next(c.Last()); got != seen && got != min(v, MaxVersion-1)+1 {
					t.Fatalf("After(%#x) = %#x, neither the next nor one more", v, got)
				}
			},
			"raise": func(t *rapid.T) {
				v := version.Draw(t, "v")
				c.Raise(v)
				seen = max(seen, min(v, MaxFloor))
			},
			"": func(t *rapid.T) {
				if c.Last() != seen {
					t.Fatalf("last is %#x, want %#x", c.Last(), seen)
				}
			},
		})
	})
}

func TestConcurrentVersionsAreUniqueAndGrow(t *testing.T) {
	const callers, calls = 4, 100_000
	var c Clock
	const floor = 1 << 61 // far ahead, so that calls meet on the counter and not on the wall clock
	versions := make([][]uint64, callers)
	var wg sync.WaitGroup
	start := make(chan struct{})
	for caller := range callers {
		wg.Go(func() {
			mine := make([]uint64, 0, calls) // so that callers spend their time in the clock
			<-start
			for call := range calls {
				switch {
				case call == calls/2:
					c.Raise(floor)
				case call%3 == 0:
					mine = append(mine, c.After(0))
				default:
					mine = append(mine, c.Next())
				}
			}
			versions[caller] = mine
		})
	}
	close(start)
	wg.Wait()

	var all []uint64
	for caller, mine := range versions {
		for i := 1; i < len(mine); i++ {
			if mine[i] <= mine[i-1] {
				t.Fatalf("caller %d got %#x after %#x", caller, mine[i], mine[i-1])
			}
		}
		all = append(all, mine...)
	}
	slices.Sort(all)
	for i := 1; i < len(all); i++ {
		if all[i] == all[i-1] {
			t.Fatalf("version %#x was handed out twice", all[i])
		}
	}
	if last := all[len(all)-1]; c.Last() != last || last <= floor {
		t.Fatalf("last is %#x, largest is %#x", c.Last(), last)
	}
}

func TestNothingIsAllocated(t *testing.T) {
	ms := int64(0)
	c := New(func() time.Time { ms++; return time.UnixMilli(ms) }, 0) // each call starts a counter
	if n := testing.AllocsPerRun(100, func() { c.Raise(c.After(c.Next())) }); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}

func BenchmarkNext(b *testing.B) {
	b.ReportAllocs()
	var c Clock
	for b.Loop() {
		c.Next()
	}
}

func BenchmarkNextParallel(b *testing.B) {
	b.ReportAllocs()
	var c Clock
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			c.Next()
		}
	})
}

// BenchmarkTimeNow is the part of Next that is not ours.
func BenchmarkTimeNow(b *testing.B) {
	for b.Loop() {
		_ = time.Now().UnixMilli()
	}
}

func TestAtIsTheLowestVersionOfAMillisecond(t *testing.T) {
	const last = MaxVersion >> 16
	for _, test := range []struct {
		t    time.Time
		want uint64
	}{
		{time.UnixMilli(0), 0},
		{time.UnixMilli(1), 1 << 16},
		{time.Unix(0, 1_999_999), 1 << 16},
		{time.UnixMilli(1_700_000_000_123), 1_700_000_000_123 << 16},
		{time.UnixMilli(1_700_000_000_123).In(time.FixedZone("", 7*3600)), 1_700_000_000_123 << 16},
		{time.Unix(0, -1), 0},
		{time.UnixMilli(-1), 0},
		{time.Time{}, 0},
		{time.Unix(math.MinInt64, 0), 0},
		{time.UnixMilli(last), last << 16},
		{time.UnixMilli(last + 1), MaxVersion},
		{time.UnixMilli(math.MaxInt64), MaxVersion},
		{time.Unix(1<<60, 0), MaxVersion}, // UnixMilli overflows
	} {
		if got := At(test.t); got != test.want {
			t.Errorf("At(%v) = %#x, want %#x", test.t, got, test.want)
		}
	}
}
