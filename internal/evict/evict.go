// Package evict decides who leaves a cache of bounded memory.
//
// # How it works
//
// Entries that are new stand in a queue, the arrivals, which may hold a share of the budget; all
// others are in the main part. While memory is full, the oldest arrival has to stand up to one of
// the main part: a victim, which is the one with the lowest tan-curve score (tancurve) of a
// random sample. The one of the two that is used more often, for its size, stays. So a scan, or a
// loop over more than memory holds, passes through the arrivals and leaves the rest alone (this
// is the admission of TinyLFU: Einziger, Friedman and Manes, 2017).
//
// How often is remembered beyond an entry's stay, in a few bits per key (sketch), and halved
// from time to time, so that nobody lives on old fame. An arrival's frequency counts its
// arrival; the main part's does not know yet of the round that brings the arrival. So the
// arrival needs two more: otherwise a loop over more than memory holds would push out
// exactly what it comes to next.
//
// What share of memory the arrivals should have depends on the load: where the newest is what is
// read again they need most of it, and where popularity lasts, a hundredth. So the policy tries
// several shares at once, each in a miniature of the cache that holds no contents and sees a
// sample of the keys (trial.go), and follows the best. Trying one after the other, as a
// hill climber does, mistakes changes of the load for effects of the share.
//
// Cost per eviction does not depend on how many entries there are. No goroutines. A use takes no
// lock. While a cache is busy, each entry is written to once per epoch at most, and an epoch lasts
// until a 64th of the entries have come in; so where all is found, nothing is written. Of at most
// one key in eight, uses that are counted are noted for the miniatures.
package evict

import (
	"math/bits"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/syncengine-go/syncengine/internal/sketch"
	"github.com/syncengine-go/syncengine/internal/tancurve"
)

const (
	sampleSize    = 8  // entries looked at for a victim
	settleAtOnce  = 16 // arrivals that may leave when one comes
	secondChances = 64
	agePeriod     = 10 // uses per entry after which frequencies are halved
	epochs        = 64 // while as many entries come in as there are
	leastShare    = .01
)

// Entry is what a Policy keeps: a pointer.
type Entry interface {
	comparable
	EvictState() *State
	Size() int64     // in bytes, always the same
	Pinned() bool    // it may not go now
	LastUse() uint32 // when, by the Clock
}

// Clock gives stamps.
type Clock interface {
	Now() uint32
	Since(stamp uint32) time.Duration
}

// State is what a Policy knows of an entry, which holds it. The zero value is that of an entry
// in no Policy, never used.
type State struct {
	bits atomic.Uint64
	slot uint32 // place in main or in the arrivals; guarded by the policy's mutex
}

// The bits of a State. They are one word, so that a use is one write: an atomic write is a barrier,
// behind which the processor can't start what the next read has to load.
const (
	countMask  = 0xf    // how often it was used, at most sketch.Max, as of its era
	read       = 1 << 4 // since it came, or since leave looked last
	arrival    = 1 << 5 // slot is one of the arrivals
	rankShift  = 6      // leading zeros of the hash
	rankMask   = 0x3f   // after shifting
	eraShift   = 12     // era of the count
	epochShift = 20     // epoch of the last use that was counted
	usesShift  = 32     // see Uses
	byteMask   = 0xff   // era and epoch, after shifting
	noRank     = 0x40   // is above all ranks
)

// Counted tells whether a use at this pace need not be counted, since one was lately.
func (s *State) Counted(p Pace) bool {
	return p.Busy() && uint32(s.bits.Load()>>epochShift)&byteMask == uint32(p)&byteMask
}

// Count counts one use of the entry. It may be called at any time. The rank returned is for
// Sample.Wants.
func (s *State) Count(p Pace) (rank uint32) {
	for {
		b := s.bits.Load()
		next := b&^(byteMask<<epochShift) | uint64(p&byteMask)<<epochShift | read
		if b&countMask < sketch.Max {
			next++
		}
		if !p.Busy() {
			next += 1 << usesShift
		}
		if s.bits.CompareAndSwap(b, next) {
			return uint32(b >> rankShift & rankMask)
		}
	}
}

// Uses returns how often the entry was used: what Count counted while it was not busy, and AddUses.
func (s *State) Uses() uint32 { return uint32(s.bits.Load() >> usesShift) }

// AddUses adds to Uses.
func (s *State) AddUses(n uint32) { s.bits.Add(uint64(n) << usesShift) }

func (s *State) isArrival() bool { return s.bits.Load()&arrival != 0 }

// memory is what outlives an entry's stay.
type memory struct {
	seen  sketch.Sketch // of keys that are gone
	era   uint8         // how often frequencies were halved
	clock Clock
}

// frequencyOf brings bits to the present era.
func (m *memory) frequencyOf(b uint64) int {
	return int(b&countMask) >> min(m.era-uint8(b>>eraShift), 8)
}

// frequency returns how often an entry was used, at most sketch.Max, and brings it to the present
// era. Uses between the end of an era and then are halved as well.
func (m *memory) frequency(s *State) int {
	b := s.bits.Load()
	n := m.frequencyOf(b)
	if uint8(b>>eraShift) != m.era {
		s.bits.CompareAndSwap(b, b&^(countMask|byteMask<<eraShift)|uint64(n)|uint64(m.era)<<eraShift)
	}
	return n
}

// stock is a set of entries that leave in some order. Of keys it knows the hash alone.
type stock[E Entry] struct {
	*memory
	budget   int64
	share    float64 // of the budget, for the arrivals
	main     []E     // in no order, so that one can be picked at random
	arrivals queue[E]
	arrived  int64 // bytes of arrivals
}

func (s *stock[E]) len() int { return len(s.main) + s.arrivals.n }

// add takes in a new entry whose key was used so often. full tells that memory is: who leaves
// the arrivals has to stand up to somebody then, see loser.
func (s *stock[E]) add(e E, hash uint64, frequency int, full bool) {
	st := e.EvictState()
	rank := min(uint64(bits.LeadingZeros64(hash)), rankMask)
	st.bits.Store(st.bits.Load()&^(1<<usesShift-1) | uint64(min(frequency, sketch.Max)) | arrival | rank<<rankShift | uint64(s.era)<<eraShift)
	st.slot = s.arrivals.push(e)
	s.arrived += e.Size()
	for left := 0; left < settleAtOnce && s.crowded(); left++ {
		if full && float64(s.arrived-e.Size()) <= s.share*float64(s.budget) {
			break
		}
		s.leave()
	}
}

// crowded reports whether the arrivals hold more than their share.
func (s *stock[E]) crowded() bool { return float64(s.arrived) > s.share*float64(s.budget) }

// leave moves the oldest arrival to the main part, and returns it. Arrivals that were read since
// they came, or since this looked last, get a second chance, as in CLOCK.
func (s *stock[E]) leave() E {
	for chances := min(s.arrivals.n-1, secondChances); ; chances-- {
		e := s.arrivals.pop()
		st := e.EvictState()
		if chances > 0 && st.bits.Load()&read != 0 && !e.Pinned() {
			st.bits.And(^uint64(read))
			st.slot = s.arrivals.push(e)
			continue
		}
		s.arrived -= e.Size()
		st.bits.And(^uint64(arrival))
		st.slot = uint32(len(s.main))
		s.main = append(s.main, e)
		return e
	}
}

// replace puts e in the place of an older entry of the same key, and gives it what was known of
// that.
func (s *stock[E]) replace(old, e E) {
	st, was := e.EvictState(), old.EvictState()
	st.bits.Store(was.bits.Load())
	st.slot = was.slot
	if st.isArrival() {
		s.arrivals.put(st.slot, e)
		s.arrived += e.Size() - old.Size()
	} else {
		s.main[st.slot] = e
	}
}

// remove lets an entry go and remembers how often it was used.
func (s *stock[E]) remove(e E, hash uint64) {
	st := e.EvictState()
	s.seen.Raise(hash, s.frequency(st))
	if st.isArrival() {
		s.arrivals.remove(st.slot)
		s.arrived -= e.Size()
		return
	}
	var none E
	last := len(s.main) - 1
	moved := s.main[last]
	s.main[st.slot] = moved
	moved.EvictState().slot = st.slot
	s.main[last] = none
	s.main = s.main[:last]
}

// loser returns the entry that should go next, if it found one that may.
func (s *stock[E]) loser() (e E, ok bool) {
	var arrival E
	var arrives bool
	if s.crowded() {
		arrival, arrives = s.next()
	}
	victim, found := s.sample(arrival)
	if !found && !arrives { // the main part is small, and perhaps all pinned
		arrival, arrives = s.next()
	}
	if !found {
		return arrival, arrives
	}
	if arrives && int64(s.frequency(arrival.EvictState()))*victim.Size() <= int64(s.frequency(victim.EvictState())+1)*arrival.Size() {
		return arrival, true
	}
	return victim, true
}

// next returns the next arrival to leave, unless there is none or it may not go yet.
func (s *stock[E]) next() (e E, ok bool) {
	if s.arrivals.n == 0 {
		return e, false
	}
	e = s.leave()
	return e, !e.Pinned()
}

// sample returns the entry worth least among a few random ones of the main part that may go,
// without the one given.
func (s *stock[E]) sample(without E) (worst E, ok bool) {
	if len(s.main) == 0 {
		return worst, false
	}
	var least float64
	for range sampleSize {
		e := s.main[rand.IntN(len(s.main))]
		if e == without || e.Pinned() {
			continue
		}
		score := tancurve.Score(s.clock.Since(e.LastUse()), uint64(s.frequency(e.EvictState())), e.Size())
		if !ok || score < least {
			worst, least, ok = e, score, true
		}
	}
	return worst, ok
}

// Policy keeps the entries of a cache. Its methods may be called side by side, if for one
// entry Add, Replace and Remove are not.
type Policy[E Entry] struct {
	hits func() int64 // uses of entries that are there

	inserts atomic.Int64
	takes   atomic.Int64 // bytes that the policy itself needs

	mu        sync.Mutex // guards the fields below and State.slot
	all       stock[E]
	nextAge   int64 // number of uses at which frequencies are halved
	nextEpoch int64 // number of inserts at which an epoch ends
	trials    trials

	sample Sample
}

// New returns an empty Policy for a cache of budget bytes. hits tells how many uses found
// an entry so far.
func New[E Entry](budget int64, clock Clock, hits func() int64) *Policy[E] {
	p := &Policy[E]{hits: hits}
	p.all = stock[E]{memory: &memory{clock: clock}, budget: budget, share: leastShare}
	p.sample.least.Store(noRank)
	return p
}

// Inserts returns how many entries came in so far.
func (p *Policy[E]) Inserts() int64 { return p.inserts.Load() }

// Len returns how many entries there are.
func (p *Policy[E]) Len() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.all.len()
}

// Bytes is the memory that the policy itself needs.
func (p *Policy[E]) Bytes() int64 { return p.takes.Load() }

// Sample is where uses are noted.
func (p *Policy[E]) Sample() *Sample { return &p.sample }

// Add takes in a new entry; its key has the hash. full tells that the cache holds more than it
// should with this one, so that Loser will be called.
func (p *Policy[E]) Add(e E, hash uint64, full bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := p.all.len() + 1
	p.all.seen.Grow(n)
	p.all.seen.Step()
	inserts := p.inserts.Add(1)
	if inserts >= p.nextEpoch {
		p.sample.nextEpoch()
		p.nextEpoch = inserts + int64(n)/epochs + 1
	}
	if inserts&63 == 0 || n < 64 {
		p.pass(n)
	}
	frequency := p.all.seen.Estimate(hash) + 1 // before a trial that lets the key go raises it
	if full {
		p.try(e, hash, frequency, n)
	}
	p.all.add(e, hash, frequency, full)
	p.takes.Store(p.all.seen.Bytes() + p.trials.bytes())
}

// pass looks whether it is time to halve frequencies or to choose a share.
func (p *Policy[E]) pass(n int) {
	uses := p.inserts.Load() + p.hits()
	if uses >= p.nextAge {
		if p.nextAge > 0 {
			p.all.era++
			p.all.seen.Age()
		}
		p.nextAge = uses + agePeriod*int64(n)
	}
	if uses >= p.trials.nextChoice {
		p.all.share = p.trials.choose()
		p.trials.nextChoice = uses + int64(n)
	}
}

// Replace puts e in the place of an older entry of the same key.
func (p *Policy[E]) Replace(old, e E) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all.replace(old, e)
}

// Remove lets an entry go and remembers how often it was used.
func (p *Policy[E]) Remove(e E, hash uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all.remove(e, hash)
}

// Loser returns the entry that should go next, if it found one that may. It stays until Remove.
func (p *Policy[E]) Loser() (e E, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.all.loser()
}
