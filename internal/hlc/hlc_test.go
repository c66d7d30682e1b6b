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
	c := New(wall.now)
	if got, want := c.Next(), uint64(1_700_000_000_123<<16); got != want {
		t.Fatalf("first version of a millisecond is %#x, want %#x", got, want)
	}
	if got, want := c.Next(), uint64(1_700_000_000_123<<16+1); got != want {
		t.Fatalf("second version of a millisecond is %#x, want %#x", got, want)
	}
	wall.t = wall.t.Add(time.Millisecond)
	if got, want := c.Next(), uint64(1_700_000_000_124<<16); got != want {
		t.Fatalf("first version of the next millisecond is %#x, want %#x", got, want)
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
	c := New(wall.now)
	before := c.Next()
	wall.t = wall.t.Add(-time.Hour)
	if after := c.Next(); after != before+1 {
		t.Fatalf("after the wall clock went back: %d follows %d", after, before)
	}
}

func TestCounterRunsOverIntoTheNextMillisecond(t *testing.T) {
	wall := atMilli(5)
	c := New(wall.now)
	first := c.NextN(1 << 16)
	if next := c.Next(); first != 5<<16 || next != 6<<16 {
		t.Fatalf("65536 versions from %#x are followed by %#x", first, next)
	}
	wall.t = wall.t.Add(time.Millisecond)
	if next := c.Next(); next != 6<<16+1 {
		t.Fatalf("the wall clock reached a borrowed millisecond and the version is %#x", next)
	}
}

func TestWallClockOutsideOfItsRangeIsHeldBack(t *testing.T) {
	before1970 := New(atMilli(-5).now)
	if got := before1970.Next(); got != 1 {
		t.Errorf("before 1970: %d", got)
	}
	farAway := New(atMilli(math.MaxInt64).now)
	if got := farAway.Next(); got != MaxObserved {
		t.Errorf("far future: %#x", got)
	}
	if got := farAway.Next(); got != MaxObserved+1 {
		t.Errorf("far future, second: %#x", got)
	}
}

func TestObservedVersionIsPassed(t *testing.T) {
	c := New(atMilli(10).now)
	c.Observe(99 << 16)
	c.Observe(98 << 16)
	if c.Last() != 99<<16 {
		t.Fatalf("last is %#x", c.Last())
	}
	if got := c.Next(); got != 99<<16+1 {
		t.Fatalf("next is %#x", got)
	}
}

func TestHugeObservedVersionDoesNotMoveTheClock(t *testing.T) {
	for _, huge := range []uint64{MaxObserved + 1, MaxVersion - 1, MaxVersion, MaxVersion + 1, math.MaxUint64} {
		c := New(atMilli(10).now)
		c.Observe(huge)
		if got := c.Next(); got != 10<<16 {
			t.Errorf("after observing %#x next is %#x", huge, got)
		}
	}
	c := New(atMilli(10).now)
	c.Observe(MaxObserved)
	if got := c.Next(); got != MaxObserved+1 {
		t.Errorf("after observing MaxObserved itself next is %#x", got)
	}
}

func TestNextAfter(t *testing.T) {
	const wall, seen = 10 << 16, 20 << 16
	for _, test := range []struct{ v, want, last uint64 }{
		{0, seen + 1, seen + 1},
		{wall, seen + 1, seen + 1},
		{seen, seen + 1, seen + 1},
		{seen + 7, seen + 8, seen + 8},
		{MaxObserved - 1, MaxObserved, MaxObserved},
		{MaxObserved, MaxObserved + 1, seen},
		{MaxVersion - 1, MaxVersion, seen},
		{MaxVersion, MaxVersion, seen},
		{math.MaxUint64, MaxVersion, seen},
	} {
		c := New(atMilli(10).now)
		c.Observe(seen)
		if got := c.NextAfter(test.v); got != test.want || c.Last() != test.last {
			t.Errorf("NextAfter(%#x) = %#x and last is %#x, want %#x and %#x", test.v, got, c.Last(), test.want, test.last)
		}
	}
	if got := New(atMilli(10).now).NextAfter(3); got != wall {
		t.Errorf("a version older than the wall clock is followed by %#x, want %#x", got, wall)
	}
}

func TestReservedRangeIsSkipped(t *testing.T) {
	c := New(atMilli(10).now)
	if first, next := c.NextN(100), c.Next(); first != 10<<16 || next != 10<<16+100 {
		t.Fatalf("100 from %#x, then %#x", first, next)
	}
	for _, n := range []int{0, -1, math.MinInt} {
		last := c.Last()
		if got := c.NextN(n); got != 0 || c.Last() != last {
			t.Errorf("NextN(%d) = %#x", n, got)
		}
	}
}

func TestExhaustedClockReturnsNoVersion(t *testing.T) {
	c := New(atMilli(0).now)
	if got := c.reserve(0, MaxVersion); got != 1 || c.Last() != MaxVersion {
		t.Fatalf("all versions start at %d and end at %#x", got, c.Last())
	}
	if a, b := c.Next(), c.NextN(2); a != 0 || b != 0 || c.Last() != MaxVersion {
		t.Fatalf("an exhausted clock returned %#x and %#x", a, b)
	}
	c = New(atMilli(1).now)
	if got := c.reserve(0, MaxVersion); got != 0 || c.Last() != 0 {
		t.Fatalf("more versions than are left start at %#x", got)
	}
}

// TestClockAgainstItsRules runs random calls under a wall clock that jumps both ways.
func TestClockAgainstItsRules(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		wall := atMilli(1000)
		c := New(wall.now)
		var seen uint64 // largest version returned or observed
		version := rapid.OneOf(rapid.Uint64Range(0, 2000<<16), rapid.Uint64(), rapid.Uint64Range(MaxObserved-2, MaxObserved+2))
		above := func(got, floor uint64, n int) {
			if got <= floor {
				t.Fatalf("returned %#x, not above %#x", got, floor)
			}
			if got < uint64(max(wall.t.UnixMilli(), 0))<<16 {
				t.Fatalf("returned %#x, behind the wall clock", got)
			}
			seen = got + uint64(n) - 1
		}
		t.Repeat(map[string]func(*rapid.T){
			"jump": func(t *rapid.T) { wall.t = time.UnixMilli(rapid.Int64Range(-10, 2000).Draw(t, "ms")) },
			"next": func(*rapid.T) { above(c.Next(), seen, 1) },
			"nextN": func(t *rapid.T) {
				n := rapid.IntRange(1, 1<<18).Draw(t, "n")
				above(c.NextN(n), seen, n)
			},
			"nextAfter": func(t *rapid.T) {
				v := version.Draw(t, "v")
				if v < MaxObserved {
					above(c.NextAfter(v), max(v, seen), 1)
				} else if got := c.NextAfter(v); got > MaxVersion || got <= v && got != MaxVersion {
					t.Fatalf("NextAfter(%#x) = %#x", v, got)
				}
			},
			"observe": func(t *rapid.T) {
				v := version.Draw(t, "v")
				c.Observe(v)
				if v <= MaxObserved {
					seen = max(seen, v)
				}
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
	const observed = 1 << 61 // far ahead, so that calls meet on the counter and not on the wall clock
	versions := make([][]uint64, callers)
	var wg sync.WaitGroup
	start := make(chan struct{})
	for caller := range callers {
		wg.Go(func() {
			mine := make([]uint64, 0, 2*calls) // so that callers spend their time in the clock
			<-start
			for call := range calls {
				switch {
				case call == calls/2:
					c.Observe(observed)
					mine = append(mine, c.Next())
				case call%3 == 0:
					mine = append(mine, c.Next())
				case call%3 == 1:
					first := c.NextN(3)
					mine = append(mine, first, first+1, first+2)
				default:
					c.Observe(c.Last() + 1)
					mine = append(mine, c.NextAfter(c.Last()))
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
	if last := all[len(all)-1]; c.Last() != last || last <= observed {
		t.Fatalf("last is %#x, largest is %#x", c.Last(), last)
	}
}

func TestNothingIsAllocated(t *testing.T) {
	var c Clock
	if n := testing.AllocsPerRun(100, func() { c.Observe(c.NextAfter(c.Next()) + 1); c.NextN(5) }); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}

func BenchmarkNext(b *testing.B) {
	var c Clock
	for b.Loop() {
		c.Next()
	}
}

func BenchmarkNextParallel(b *testing.B) {
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
