package syncengine

// eviction.go decides who leaves L1.
//
// # How it works
//
// Entries that are new stand in a queue, the arrivals, which may hold a small share of the
// budget; all others are in the main part. While memory is full, the oldest arrival has to
// stand up to one of the main part: a victim, which is the one with the lowest tan-curve score
// (internal/tancurve) of a random sample. The one of the two that is used more often, for its
// size, stays. So a scan, or a loop over more than memory holds, passes through the arrivals
// and leaves the rest alone (this is the admission of TinyLFU: Einziger, Friedman and Manes, 2017).
//
// How often is remembered beyond an entry's stay, in a few bits per id (internal/sketch), and
// halved from time to time, so that nobody lives on old fame. An arrival's frequency counts its
// arrival; the main part's does not know yet of the round that brings the arrival. So the
// arrival needs two more: otherwise a loop over more than memory holds would push out
// exactly what it comes to next.
//
// The share of the arrivals follows the hit ratio: it is doubled, or halved, as long as that
// makes it better. Where the newest is what is read again, arrivals get most of memory, and it is
// an LRU; where popularity lasts, they get a hundredth.
//
// Cost per eviction does not depend on how many entries there are, and nobody who reads waits.
// Pinned entries never go (INV-6).
//
// No goroutines: whoever puts an entry in pays for the evictions it makes needed.

import (
	"cmp"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"

	"github.com/syncengine-go/syncengine/internal/sketch"
	"github.com/syncengine-go/syncengine/internal/tancurve"
)

const (
	evictSample   = 8  // entries looked at for a victim
	settleAtOnce  = 16 // arrivals that may leave when one comes
	secondChances = 64
	evictAttempts = 64 // fruitless looks in a row after which it gives up: pinned entries may fill memory

	agePeriod   = 10 // uses per entry after which frequencies are halved
	climbPeriod = 10 // uses per entry after which the share of the arrivals is changed

	leastShare, mostShare = .01, .8
	climbDecay            = .98 // of the step, each time
	climbAnew             = .05 // change of the hit ratio that means another load, so a full step again
)

// residents are the entries of L1 as eviction sees them.
type residents struct {
	hash   func(id string) uint64
	hits   func() int64
	budget int64

	remembers atomic.Int64 // bytes of seen
	inserts   atomic.Int64 // entries that came in

	mu       sync.Mutex // guards the fields below and, of entries, slot, arrival, fame, base and era
	main     []*entry   // in no order, so that one can be picked at random
	arrivals arrivals
	arrived  int64         // bytes of arrivals
	seen     sketch.Sketch // of ids that are here and of others

	era      uint8 // how often frequencies were halved
	nextAge  int64 // number of uses at which they will be
	evicted  bool  // somebody had to go since the last climb
	climbed  int64 // number of uses at the last climb
	hitsThen int64 // hits at the last climb
	ratio    float64
	step     float64 // power of two by which the share changes
	share    float64
}

func newResidents(budget int64, hash func(string) uint64, hits func() int64) *residents {
	return &residents{hash: hash, hits: hits, budget: budget, share: leastShare, step: 1}
}

// add takes in a new entry. full tells that memory is: who leaves the arrivals has to stand up
// to somebody, see loser.
func (s *residents) add(e *entry, full bool) {
	h := s.hash(e.id())
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.len() + 1
	s.seen.Grow(n)
	s.remembers.Store(s.seen.Bytes())
	s.seen.Step()
	if s.inserts.Add(1)&63 == 0 || n < 64 {
		s.pass()
	}
	fame := min(s.seen.Estimate(h)+1, sketch.Max)
	s.seen.Raise(h, fame)
	e.fame, e.base, e.era = uint8(fame), uint16(e.accesses.Load()), s.era
	e.arrival = true
	e.slot = s.arrivals.push(e)
	s.arrived += e.size()
	for left := 0; left < settleAtOnce && s.crowded(); left++ {
		if full && float64(s.arrived-e.size()) <= s.share*float64(s.budget) {
			break // the next to leave has to stand up to somebody, see loser
		}
		s.leave()
	}
}

// leave moves the oldest arrival to the main part, and returns it. Arrivals that were read since
// they came, or since this looked last, get a second chance, as in CLOCK.
func (s *residents) leave() *entry {
	for chances := min(s.arrivals.n-1, secondChances); ; chances-- {
		e := s.arrivals.pop()
		if n := uint16(e.accesses.Load()); chances > 0 && !e.pinned() && n != e.base {
			e.fame, e.base = e.uses(n), n
			e.slot = s.arrivals.push(e)
			continue
		}
		s.settle(e)
		return e
	}
}

func (s *residents) len() int { return len(s.main) + s.arrivals.n }

// crowded reports whether the arrivals hold more than their share.
func (s *residents) crowded() bool { return float64(s.arrived) > s.share*float64(s.budget) }

// settle moves an entry that has just left the arrivals to the main part.
func (s *residents) settle(e *entry) {
	s.arrived -= e.size()
	e.arrival, e.slot = false, uint32(len(s.main))
	s.main = append(s.main, e)
}

// replace puts e in the place of an older entry of the same id.
func (s *residents) replace(old, e *entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e.slot, e.arrival, e.fame, e.base, e.era = old.slot, old.arrival, old.fame, old.base, old.era
	if e.arrival {
		s.arrivals.put(e.slot, e)
		s.arrived += e.size() - old.size()
	} else {
		s.main[e.slot] = e
	}
}

// remove lets an entry go and remembers how often it was used.
func (s *residents) remove(e *entry) {
	h := s.hash(e.id())
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen.Raise(h, s.frequency(e))
	if e.arrival {
		s.arrivals.put(e.slot, nil)
		s.arrived -= e.size()
		return
	}
	last := len(s.main) - 1
	moved := s.main[last]
	s.main[e.slot], moved.slot = moved, e.slot
	s.main[last] = nil
	s.main = s.main[:last]
}

// frequency returns how often an entry was used, at most sketch.Max, and brings it to the
// present era. Uses between the end of an era and then are halved as well.
func (s *residents) frequency(e *entry) int {
	n := uint16(e.accesses.Load())
	f := e.uses(n) >> min(s.era-e.era, 8)
	if e.era != s.era {
		e.fame, e.base, e.era = f, n, s.era
	}
	return int(f)
}

// uses returns fame and what came since, when n is the count of accesses.
func (e *entry) uses(n uint16) uint8 {
	return uint8(min(uint16(e.fame)+min(n-e.base, sketch.Max), sketch.Max))
}

// pass looks whether it is time to halve frequencies or to change the share of the arrivals.
func (s *residents) pass() {
	hits, n := s.hits(), int64(s.len()+1)
	uses := s.inserts.Load() + hits
	if uses >= s.nextAge {
		if s.nextAge > 0 {
			s.era++
			s.seen.Age()
		}
		s.nextAge = uses + agePeriod*n
	}
	if span := uses - s.climbed; span >= climbPeriod*n {
		if s.evicted {
			s.climb(float64(hits-s.hitsThen) / float64(span))
		}
		s.climbed, s.hitsThen, s.evicted = uses, hits, false
	}
}

// climb changes the share of the arrivals in the direction that made the hit ratio better.
func (s *residents) climb(ratio float64) {
	change := ratio - s.ratio
	if change < 0 {
		s.step = -s.step
	}
	if s.step *= climbDecay; math.Abs(change) >= climbAnew {
		s.step = math.Copysign(1, s.step)
	}
	s.share = min(mostShare, max(leastShare, s.share*math.Exp2(s.step)))
	s.ratio = ratio
}

// loser returns the entry that should go next, or nil when it found none that may.
func (s *residents) loser(score func(*entry) float64) *entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.evicted = true
	var c *entry
	if s.crowded() {
		c = s.next()
	}
	victim := s.sample(score, c)
	if victim == nil && c == nil { // the main part is small, and perhaps all pinned
		c = s.next()
	}
	if c == nil || victim == nil {
		return cmp.Or(victim, c)
	}
	if s.frequency(c)*int(victim.size()) > (s.frequency(victim)+1)*int(c.size()) {
		return victim
	}
	return c
}

// next returns the next arrival to leave, unless there is none or it may not go yet.
func (s *residents) next() *entry {
	if s.arrivals.n == 0 {
		return nil
	}
	if e := s.leave(); !e.pinned() {
		return e
	}
	return nil
}

// sample returns the entry worth least among a few random ones of the main part that may go,
// without the one given.
func (s *residents) sample(score func(*entry) float64, without *entry) (worst *entry) {
	if len(s.main) == 0 {
		return nil
	}
	var least float64
	for range evictSample {
		e := s.main[rand.IntN(len(s.main))]
		if e == without || e.pinned() {
			continue
		}
		if sc := score(e); worst == nil || sc < least {
			worst, least = e, sc
		}
	}
	return worst
}

// arrivals is a queue of entries, oldest first, any of which can be taken out.
type arrivals struct {
	ring  []*entry // its length is a power of two
	first uint32   // slot of the oldest
	next  uint32   // slot of the next to come
	n     int      // entries, without the gaps that others have left
}

// at is the place of a slot in the ring.
func (a *arrivals) at(slot uint32) uint32 { return slot & uint32(len(a.ring)-1) }

func (a *arrivals) push(e *entry) (slot uint32) {
	if int(a.next-a.first) == len(a.ring) {
		a.closeGaps()
	}
	slot = a.next
	a.ring[a.at(slot)] = e
	a.next++
	a.n++
	return slot
}

// closeGaps moves all into a ring of which they fill half at most.
func (a *arrivals) closeGaps() {
	length := 16
	for length < 2*a.n {
		length *= 2
	}
	ring := make([]*entry, 0, length)
	for slot := a.first; slot != a.next; slot++ {
		if e := a.ring[a.at(slot)]; e != nil {
			e.slot = uint32(len(ring))
			ring = append(ring, e)
		}
	}
	a.ring, a.first, a.next = ring[:length], 0, uint32(len(ring))
}

// put replaces the entry of a slot; nil takes it out.
func (a *arrivals) put(slot uint32, e *entry) {
	a.ring[a.at(slot)] = e
	if e == nil {
		a.n--
		a.skip()
	}
}

// skip leaves gaps at the front behind.
func (a *arrivals) skip() {
	for a.first != a.next && a.ring[a.at(a.first)] == nil {
		a.first++
	}
}

// pop takes the oldest out. There must be one.
func (a *arrivals) pop() *entry {
	at := a.at(a.first)
	e := a.ring[at]
	a.ring[at] = nil
	a.first++
	a.n--
	a.skip()
	return e
}

// evict makes room for so many bytes within the budget, as far as entries may go. Below the
// budget nothing is evicted: memory that is there is there to be used.
func (c *l1) evict(room int64) {
	score := func(e *entry) float64 {
		return tancurve.Score(c.clock.since(e.lastAccess.Load()), uint64(c.residents.frequency(e)), e.size())
	}
	for fruitless := 0; c.over(room) > 0 && fruitless < evictAttempts; {
		if e := c.residents.loser(score); e != nil && c.drop(e) {
			c.evicted.Add(1)
			fruitless = 0
		} else {
			fruitless++
		}
	}
}
