package syncengine

// eviction.go makes room in L1. Who leaves is decided by internal/evict: by the tan-curve score,
// with remembered frequencies, an admission, and a share for arrivals that follows the load.
//
// Pinned entries never go (INV-6). Below the budget nothing is evicted: memory that is there
// is there to be used.
//
// No goroutines: whoever puts an entry in pays for the evictions it makes needed.

import "github.com/syncengine-go/syncengine/internal/evict"

// evictAttempts is after how many fruitless looks in a row evict gives up: pinned entries
// may fill memory.
const evictAttempts = 64

// An entry is what the policy keeps.

func (e *entry) EvictState() *evict.State { return &e.place }
func (e *entry) Size() int64              { return e.size() }
func (e *entry) Pinned() bool             { return e.pinned() }
func (e *entry) LastUse() uint32          { return e.lastAccess.Load() }

// evict makes room for so many bytes within the budget, as far as entries may go.
func (c *l1) evict(room int64) {
	for fruitless := 0; c.over(room) > 0 && fruitless < evictAttempts; {
		if e, ok := c.residents.Loser(); ok && c.drop(e) {
			c.evicted.Add(1)
			fruitless = 0
		} else {
			fruitless++
		}
	}
}
