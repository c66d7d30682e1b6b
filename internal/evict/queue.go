package evict

// queue is a queue of entries, oldest first, any of which can be taken out.
type queue[E Entry] struct {
	ring  []E    // its length is a power of two
	first uint32 // slot of the oldest
	next  uint32 // slot of the next to come
	n     int    // entries, without the gaps that others have left
}

// at is the place of a slot in the ring.
func (q *queue[E]) at(slot uint32) *E { return &q.ring[slot&uint32(len(q.ring)-1)] }

func (q *queue[E]) push(e E) (slot uint32) {
	if int(q.next-q.first) == len(q.ring) {
		q.closeGaps()
	}
	slot = q.next
	*q.at(slot) = e
	q.next++
	q.n++
	return slot
}

// closeGaps moves all into a ring of which they fill half at most.
func (q *queue[E]) closeGaps() {
	length := 16
	for length < 2*q.n {
		length *= 2
	}
	var gap E
	ring := make([]E, 0, length)
	for slot := q.first; slot != q.next; slot++ {
		if e := *q.at(slot); e != gap {
			e.EvictState().slot = uint32(len(ring))
			ring = append(ring, e)
		}
	}
	q.ring, q.first, q.next = ring[:length], 0, uint32(len(ring))
}

// put replaces the entry of a slot.
func (q *queue[E]) put(slot uint32, e E) { *q.at(slot) = e }

// remove leaves a gap.
func (q *queue[E]) remove(slot uint32) {
	var gap E
	*q.at(slot) = gap
	q.n--
	q.skip()
}

// skip leaves gaps at the front behind.
func (q *queue[E]) skip() {
	var gap E
	for q.first != q.next && *q.at(q.first) == gap {
		q.first++
	}
}

// pop takes the oldest out. There must be one.
func (q *queue[E]) pop() E {
	e := *q.at(q.first)
	q.remove(q.first)
	return e
}
