package cuckoo

// layer.go plans how many partitions of which size a layer has, and is the only user of the
// dependency but for its encoding.

import (
	"math"
	"sync"
	"unsafe"

	filter "github.com/seiflotfy/cuckoofilter"
)

const (
	// maxLoad is the part of a filter's slots that are filled. Of 76,000 filters of 1024 slots and
	// more, the first failed between .92 and .94.
	maxLoad = .85
	// idsPerSlot is how many ids bring a filter to maxLoad. It is more than maxLoad, because an id
	// takes no slot where another one's fingerprint affirms it already; .861 was measured.
	idsPerSlot = .86

	// Filters have 2^minBits to 2^maxBits slots. Smaller ones fail at lower loads, and their
	// headers weigh more. Larger ones spread ids hardly more evenly, and a writer waits for a
	// snapshot to copy one.
	minBits = 10
	maxBits = 16
	// maxExpected bounds what New takes at once.
	maxExpected = 1 << 30
	// spillChance is the accepted chance that a partition of a layer fills up before the layer has
	// its expected ids.
	spillChance = 1e-3
	// smallerFor is how much more memory more partitions may take: goroutines seldom meet in many
	// small ones.
	smallerFor = 1.01
)

// layout is the shape of a layer.
type layout struct {
	bits  int // a filter has 2^bits slots
	parts int
}

// plan returns the layout that holds expected ids in the least memory, or one with more partitions
// that takes hardly more.
func plan(expected int) layout {
	expected = min(max(expected, 0), maxExpected)
	var fits [maxBits + 1]layout
	least := math.MaxInt
	for bits := minBits; bits <= maxBits; bits++ {
		fits[bits] = layout{bits, partsFor(expected, bits)}
		least = min(least, fits[bits].bytes())
	}
	for _, fit := range fits[minBits:maxBits] {
		if float64(fit.bytes()) <= float64(least)*smallerFor {
			return fit
		}
	}
	return fits[maxBits]
}

// partsFor returns how many partitions of a size hold expected ids. The number of ids in one is
// binomial, near enough normal, with the mean expected/parts.
func partsFor(expected, bits int) int {
	room := float64(idsIn(bits))
	for parts := max(1, int(float64(expected)/room)); ; parts++ {
		n := float64(parts)
		mean := float64(expected) / n
		if mean > room {
			continue
		}
		deviation := math.Sqrt(mean * (1 - 1/n))
		if parts == 1 || n*math.Erfc((room-mean)/deviation/math.Sqrt2)/2 <= spillChance {
			return parts
		}
	}
}

// idsIn returns how many ids fill a partition.
func idsIn(bits int) int { return int(idsPerSlot * float64(int(1)<<bits)) }

func (s layout) capacity() int { return s.parts * idsIn(s.bits) }

// bytes is what a layer of this layout takes: partitions, which hold the headers of their filters,
// and slots.
func (s layout) bytes() int {
	return int(unsafe.Sizeof(layer{})) + s.parts*(int(unsafe.Sizeof(partition{}))+2<<s.bits)
}

// layer is a row of equal partitions.
type layer struct {
	layout
	limit      uint // a partition one of whose filters has so many fingerprints takes no more
	partitions []partition
}

func newLayer(shape layout) *layer {
	l := &layer{layout: shape, limit: uint(maxLoad * float64(int(1)<<shape.bits)), partitions: make([]partition, shape.parts)}
	for i := range l.partitions {
		l.partitions[i].a = *filter.NewFilter(1 << shape.bits)
		l.partitions[i].b = *filter.NewFilter(1 << shape.bits)
	}
	return l
}

// partition is a pair of filters. It is two cache lines, so that neighbours' locks don't share one.
type partition struct {
	mu       sync.RWMutex // guards all below
	a, b     filter.Filter
	added    uint32
	poisoned bool
	_        [16]byte
}

// full reports whether the partition takes no more. Once full it stays full, since nothing is ever
// taken out: that is why a partition that isn't full proves that no id of it went on to the next
// layer.
func (p *partition) full(limit uint) bool { return p.a.Count() >= limit || p.b.Count() >= limit }

func (p *partition) contains(d *digests, limit uint) (found, full bool) {
	p.mu.RLock()
	found = p.poisoned || p.a.Lookup(d.a[:]) && p.b.Lookup(d.b[:])
	full = p.full(limit)
	p.mu.RUnlock()
	return found, full
}

// outcome is what became of an insert into a partition.
type outcome int

const (
	inserted outcome = iota
	present          // the partition affirms the id already
	noRoom           // it is full: the next layer's turn
)

func (p *partition) insert(d *digests, limit uint) outcome {
	// Most inserts repeat an id, so look first, beside all readers.
	if found, full := p.contains(d, limit); found {
		return present
	} else if full {
		return noRoom
	}
	return p.add(d, limit)
}

// add looks again, since others may have been here between the look and the lock.
func (p *partition) add(d *digests, limit uint) outcome {
	p.mu.Lock()
	defer p.mu.Unlock()
	inA, inB := p.a.Lookup(d.a[:]), p.b.Lookup(d.b[:])
	switch {
	case p.poisoned || inA && inB:
		return present
	case p.full(limit):
		return noRoom
	}
	// No fingerprint goes in twice, so eight places in two buckets are enough for it. A filter that
	// refuses has lost a fingerprint, and nobody knows whose.
	if !inA && !p.a.Insert(d.a[:]) || !inB && !p.b.Insert(d.b[:]) {
		p.poisoned = true
	}
	p.added++
	return inserted
}

func (p *partition) state() (added int, poisoned bool) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return int(p.added), p.poisoned
}
