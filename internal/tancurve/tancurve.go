// Package tancurve scores cache entries: the lowest score is evicted first.
//
// The score weighs recency, frequency and size. A multiplier that follows a tangent curve tells
// how much of what memory could hold is to be held as pressure rises. Formulas are of this
// project (DESIGN notes, "Pressure, eviction, priority"); constants are below.
package tancurve

import (
	"math"
	"time"
)

const (
	recencyWeight, frequencyWeight, sizeWeight = .4, .4, .2

	idleScale   = time.Hour // recency falls to 1/e in this time
	fullCount   = 1000      // accesses that count as fully frequent
	sizeScale   = 1 << 20   // bytes at which the size term is one half
	calmBelow   = .75       // part of the budget below which the multiplier is 1
	nothingFrom = .95       // part of the budget from which it is 0
)

var lnFull = math.Log(1 + fullCount)

// Score tells how much an entry is worth keeping, in [0, 1]:
//
//	.4·exp(−idle/1 h) + .4·min(1, ln(1+n)/ln(1+1000)) + .2/(1+bytes/1 MiB)
func Score(idle time.Duration, accesses uint64, bytes int64) float64 {
	recency := math.Exp(-float64(max(idle, 0)) / float64(idleScale))
	frequency := min(1, math.Log(1+float64(accesses))/lnFull)
	size := 1 / (1 + float64(bytes)/sizeScale)
	return recencyWeight*recency + frequencyWeight*frequency + sizeWeight*size
}

// Multiplier is the pressure multiplier for a used part of the budget: 1 below .75, 0
// from .95, between them clamp(1 − (tan((x−½)·π/1.2) + 2)/4) with x the position
// between the two.
func Multiplier(used float64) float64 {
	switch {
	case used < calmBelow:
		return 1
	case used >= nothingFrom:
		return 0
	}
	x := (used - calmBelow) / (nothingFrom - calmBelow)
	return min(1, max(0, 1-(math.Tan((x-.5)*math.Pi/1.2)+2)/4))
}
