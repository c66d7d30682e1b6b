package syncengine

// eviction.go decides who leaves L1: of a random sample of entries, the one with the
// lowest tan-curve score (internal/tancurve). Cost per eviction does not depend on how
// many entries there are. Pinned entries never go (INV-6).
//
// No goroutines: whoever puts an entry in pays for the evictions it makes needed.

import (
	"math/rand/v2"
	"sync"

	"github.com/syncengine-go/syncengine/internal/tancurve"
)

const (
	evictSample   = 8  // entries looked at per eviction
	evictAttempts = 64 // fruitless samples in a row after which it gives up: pinned entries may fill memory
)

// sampler holds the entries of L1 in an array, so that one can be picked at random.
type sampler struct {
	mu    sync.Mutex // guards slots and entry.slot
	slots []*entry
}

func (s *sampler) add(e *entry) {
	s.mu.Lock()
	e.slot = uint32(len(s.slots))
	s.slots = append(s.slots, e)
	s.mu.Unlock()
}

func (s *sampler) replace(old, e *entry) {
	s.mu.Lock()
	e.slot = old.slot
	s.slots[e.slot] = e
	s.mu.Unlock()
}

func (s *sampler) remove(e *entry) {
	s.mu.Lock()
	last := len(s.slots) - 1
	moved := s.slots[last]
	s.slots[e.slot], moved.slot = moved, e.slot
	s.slots[last] = nil
	s.slots = s.slots[:last]
	s.mu.Unlock()
}

// pick returns the entry worth least among a few random ones that may go.
func (s *sampler) pick(score func(*entry) float64) *entry {
	var worst *entry
	var least float64
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.slots) == 0 {
		return nil
	}
	for range evictSample {
		e := s.slots[rand.IntN(len(s.slots))]
		if e.pinned() {
			continue
		}
		if sc := score(e); worst == nil || sc < least {
			worst, least = e, sc
		}
	}
	return worst
}

// evict makes room for so many bytes within the budget, as far as entries may go. Below the
// budget nothing is evicted: memory that is there is there to be used.
func (c *l1) evict(room int64) {
	score := func(e *entry) float64 {
		return tancurve.Score(c.clock.since(e.lastAccess.Load()), uint64(e.accesses.Load()), e.size())
	}
	for fruitless := 0; c.used()+room > c.budget && fruitless < evictAttempts; {
		if e := c.samples.pick(score); e != nil && c.drop(e) {
			c.evicted.Add(1)
			fruitless = 0
		} else {
			fruitless++
		}
	}
}
