package syncengine

// eviction.go makes room in L1. Who leaves is decided by internal/evict: by the tan-curve score,
// with remembered frequencies, an admission, and a share for arrivals that follows the load.
//
// Pinned entries never go (INV-6). Below the budget nothing is evicted: memory that is there
// is there to be used.
//
// No goroutines: whoever puts an entry in pays for the evictions it makes needed.

// evictAttempts is after how many fruitless looks in a row evict gives up: pinned entries
// may fill memory.
const evictAttempts = 64

// Evict makes room for so many bytes within the budget, as far as entries may go.
func (c *l1) Evict(room int64) {
	for fruitless := 0; c.Over(room) > 0 && fruitless < evictAttempts; {
		if e, ok := c.residents.Loser(); ok && c.Drop(e) {
			c.evicted.Add(1)
			fruitless = 0
		} else {
			fruitless++
		}
	}
}

// Shrink pays for the memory that an entry took.
func (c *l1) Shrink() {
	if c.Over(0) > 0 {
		c.Evict(0)
	}
}
