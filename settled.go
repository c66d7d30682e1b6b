package syncengine

// settled.go finds out up to which number the merges of this node are settled: each is in L3, or
// never will be. Compaction then need not remember their dots one by one (l3compact.go).

import "math"

// SettledMerges returns that number, 0 when it is not known: while merges are spooled. refused
// returns the lowest number of those in quarantine.
//
// A merge gets its number under the order lock, and from then on is on its way into the log, or in
// the queue, until it is in L3 or in quarantine; from there it may come back. So whoever looks into
// quarantine, the log, the queue and quarantine again, in that order, misses none.
func (n *numbers) SettledMerges(refused func() uint64) uint64 {
	low := refused()
	n.order.Lock()
	low = min(low, n.merges.last+1)
	n.mu.Lock()
	for op := range n.logging {
		low = min(low, seqOf(op))
	}
	n.mu.Unlock()
	n.order.Unlock()
	if n.wal.AnySpooledMerge() {
		return 0
	}
	return min(low, n.queue.LowestMerge(), refused()) - 1
}

func seqOf(op *entry) uint64 { return seqOfKey(op.id()) }

func seqOfKey(key string) uint64 {
	k, err := ParseMergeKey(key)
	if err != nil {
		return math.MaxUint64
	}
	return k.Seq
}

// LowestMerge returns the lowest number of a merge that the queue holds.
func (q *queue) LowestMerge() uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	low := uint64(math.MaxUint64)
	look := func(units []unit) {
		for i := range units {
			for _, e := range units[i].Ops() {
				if e.isMerge() {
					low = min(low, seqOf(e))
				}
			}
		}
	}
	for i := range q.lanes {
		look(q.lanes[i].buf[q.lanes[i].head:])
	}
	for _, b := range q.flights {
		look(b.units)
		look(b.parked)
	}
	return low
}
