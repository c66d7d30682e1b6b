package sketch

import (
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"
)

// TestEstimatesAreNeverBelowTheTruth checks against a map, with aging and growth in between.
func TestEstimatesAreNeverBelowTheTruth(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s Sketch
		room := 1
		s.Grow(room)
		key := func() uint64 { return uint64(rapid.IntRange(0, 40).Draw(t, "key")+1) * 0xD6E8FEB86659FD93 }
		want := map[uint64]int{}
		t.Repeat(map[string]func(*rapid.T){
			"raise": func(*rapid.T) {
				k := key()
				n := s.Estimate(k) + 1
				s.Raise(k, n)
				want[k] = min(Max, max(want[k], n))
			},
			"age": func(*rapid.T) {
				s.Age()
				for k := range want {
					want[k] /= 2
				}
			},
			"step": func(*rapid.T) { s.Step() },
			"grow": func(*rapid.T) {
				room *= 2
				s.Grow(min(room, 10_000))
			},
			"": func(t *rapid.T) {
				for k, n := range want {
					if got := s.Estimate(k); got < n {
						t.Fatalf("%x was seen %d times, the estimate is %d", k, n, got)
					}
				}
			},
		})
	})
}

func TestAgingHalvesEverything(t *testing.T) {
	var s Sketch
	s.Grow(1000)
	for k := range uint64(1000) {
		s.Raise(hashOf(k), int(k%16))
	}
	before := make([]int, 1000)
	for k := range before {
		before[k] = s.Estimate(hashOf(uint64(k)))
	}
	s.Age()
	check := func(when string) {
		for k, n := range before {
			if got := s.Estimate(hashOf(uint64(k))); got != n/2 {
				t.Fatalf("%s: key %d was seen %d times, the estimate is %d", when, k, n, got)
			}
		}
	}
	check("at once")
	for range 256 {
		s.Step()
		check("half way")
	}
	if s.swept != len(s.words) {
		t.Errorf("after a quarter of its keys %d of %d words are halved", s.swept, len(s.words))
	}
}

func TestGrowthChangesNoEstimate(t *testing.T) {
	var s Sketch
	for keys := 1; keys < 1<<16; keys *= 2 {
		s.Grow(keys)
		for k := range uint64(keys) {
			s.Raise(hashOf(k), int(k%16))
		}
		before := make([]int, keys)
		for k := range before {
			before[k] = s.Estimate(hashOf(uint64(k)))
		}
		s.Grow(2 * keys)
		for k, n := range before {
			if got := s.Estimate(hashOf(uint64(k))); got != n {
				t.Fatalf("%d keys: key %d was %d and is %d", keys, k, n, got)
			}
		}
	}
	if s.Bytes() < 1<<16*16 || s.Bytes() > 1<<16*32 {
		t.Errorf("%d bytes for %d keys", s.Bytes(), 1<<16)
	}
}

// TestFewEstimatesAreTooHigh counts collisions at twice the planned load.
func TestFewEstimatesAreTooHigh(t *testing.T) {
	var s Sketch
	const keys = 1 << 15
	s.Grow(keys)
	for k := range uint64(2 * keys) {
		s.Raise(hashOf(k), 1+s.Estimate(hashOf(k)))
	}
	high := 0
	for k := range uint64(2 * keys) {
		if s.Estimate(hashOf(k)) > 1 {
			high++
		}
	}
	t.Logf("%.2f %% of %d are too high", 100*float64(high)/(2*keys), 2*keys)
	if high > 2*keys*2/100 {
		t.Errorf("%d of %d estimates are too high", high, 2*keys)
	}
}

func TestAZeroSketchKnowsNothing(t *testing.T) {
	var s Sketch
	s.Raise(1, 5)
	s.Age()
	s.Step()
	if s.Estimate(1) != 0 || s.Bytes() != 0 {
		t.Error("a sketch without room counts")
	}
}

// hashOf stands for the hash of a key.
func hashOf(k uint64) uint64 {
	return rand.New(rand.NewPCG(k, 1)).Uint64()
}

func BenchmarkSketch(b *testing.B) {
	var s Sketch
	s.Grow(1 << 20)
	h := uint64(1)
	for b.Loop() {
		h = h*6364136223846793005 + 1442695040888963407
		s.Raise(h, s.Estimate(h)+1)
		s.Step()
	}
}
