package tancurve

import (
	"math"
	"testing"
	"time"
)

func TestScoreFollowsTheFormula(t *testing.T) {
	for _, c := range []struct {
		idle     time.Duration
		accesses uint64
		bytes    int64
		want     float64
	}{
		{0, 0, 0, .6},
		{0, 1000, 0, 1},
		{0, 1_000_000, 0, 1},
		{time.Hour, 0, 1 << 20, .4/math.E + .1},
		{-time.Second, 0, 0, .6},
	} {
		if got := Score(c.idle, c.accesses, c.bytes); math.Abs(got-c.want) > 1e-12 {
			t.Errorf("Score(%v, %d, %d) = %v, want %v", c.idle, c.accesses, c.bytes, got, c.want)
		}
	}
}

func TestMultiplierFallsFromOneToZero(t *testing.T) {
	if Multiplier(0) != 1 || Multiplier(.7499) != 1 || Multiplier(.95) != 0 || Multiplier(2) != 0 {
		t.Fatal("ends of the curve are off")
	}
	if got := Multiplier(.85); math.Abs(got-.5) > 1e-9 { // x = ½: tan 0 = 0
		t.Fatalf("middle of the curve is %v, want .5", got)
	}
	last := 1.0
	for u := .75; u < .96; u += .001 {
		if m := Multiplier(u); m > last || m < 0 {
			t.Fatalf("Multiplier(%v) = %v rises above %v", u, m, last)
		} else {
			last = m
		}
	}
}
