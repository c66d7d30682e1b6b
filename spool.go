package syncengine

// spool.go is the part of the queue (batch.go) that lives in the WAL alone: ops that memory
// did not take, their way back through the drain, and Buffered ops that an outage puts into
// the WAL. mustSpool, noteSpooled, endSpool and setSegment are called with the lock held.

// mustSpool decides whether memory takes more ops.
func (q *queue) mustSpool(bytes int64) bool {
	return q.spooling || q.l1.queued()+q.promised+bytes > q.lim.spoolAbove
}

// noteSpooled accounts for ops that the drain will read from the WAL.
func (q *queue) noteSpooled(ops []*entry, at int64, seg *segment, last bool) {
	if !q.spooling {
		q.spooling, q.read, q.whole, q.oldest = true, seg.id-1, seg.id-1, at
	}
	q.written = seg.id
	q.spooled += len(ops)
	if last {
		q.whole = seg.id
		q.signal()
	}
}

// refill takes units the drain has read. They are not pinned: the WAL holds them.
func (q *queue) refill(units [][]*entry, dropped int, seg *segment, at int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.spooled -= dropped
	if len(units) > 0 {
		q.segments = append(q.segments, seg)
	}
	for _, ops := range units {
		q.l1.evict(sizeOf(ops)) // not sooner: writers make room for themselves, too
		u := unitOf(ops, at)
		u.spooled = true
		setSegment(ops, seg)
		for _, e := range ops {
			q.l1.hold(e)
		}
		q.spooled -= len(ops)
		q.push(u)
	}
	q.read, q.oldest = seg.id, at
	close(q.moved)
	q.moved = make(chan struct{})
	q.endSpool()
}

// endSpool returns to direct mode when the drain has read all there is.
func (q *queue) endSpool() {
	if q.spooling && q.read >= q.written {
		q.spooling, q.spooled = false, 0
	}
}

// wantsRefill returns the range of segments the drain should read next, when fewer than
// batches batches wait in memory.
func (q *queue) wantsRefill(batches int) (after, upTo int64, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	room := q.ops < q.lim.count*batches && q.bytes < q.lim.bytes*int64(batches) &&
		q.l1.queued()+q.promised < q.lim.spoolAbove
	return q.read, q.whole, q.spooling && q.read < q.whole && room
}

// Two values of entry.seg stand for no segment of the queue's own. beingLogged: a Buffered
// op is on its way into the log. elsewhere: it got there while spooling, so that the drain
// will read it back and the op is on both ways to L3; that is harmless, and simpler than
// calling it back from one of them.
var beingLogged, elsewhere = &segment{}, &segment{}

// logged notes that a Buffered unit, still waiting, is now in the WAL too. last tells that
// it is the last unit of its segment.
func (q *queue) logged(ops []*entry, at int64, seg *segment, last bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !seg.decided {
		seg.decided, seg.spooled = true, q.spooling
		if !seg.spooled {
			q.segments = append(q.segments, seg)
		}
	}
	waiting := ops[0].pinned() // else it reached L3 meanwhile
	switch {
	case seg.spooled:
		q.noteSpooled(ops, at, seg, last)
		if waiting {
			q.doubled += len(ops)
			setSegment(ops, elsewhere)
		}
	case waiting:
		setSegment(ops, seg)
	default:
		q.wal.done(seg, ops)
		q.trim()
	}
}

func setSegment(ops []*entry, seg *segment) {
	for _, e := range ops {
		e.seg = seg
	}
}

// unlogged returns the queued and flying units that are not in the WAL, and marks them as
// being logged.
func (q *queue) unlogged() (us []unit) {
	q.mu.Lock()
	defer q.mu.Unlock()
	pick := func(units []unit) {
		for _, u := range units {
			if ops := u.ops(); ops[0].seg == nil {
				setSegment(ops, beingLogged)
				us = append(us, u)
			}
		}
	}
	for i := range q.lanes {
		pick(q.lanes[i].buf[q.lanes[i].head:])
	}
	for _, b := range q.flights {
		pick(b.units)
	}
	return us
}

// notLogged takes the mark back from a unit that the log did not take.
func (q *queue) notLogged(ops []*entry) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if ops[0].seg == beingLogged {
		setSegment(ops, nil)
	}
}

// drainedTo reports whether the drain has read up to a segment, with the channels that tell
// when it has read on and of failures from now on.
func (q *queue) drainedTo(seg int64) (ok bool, moved, failed chan struct{}) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return !q.spooling || q.read >= seg, q.moved, q.failed
}

// unsafe returns how many ops are in memory alone.
func (q *queue) unsafe() (ops int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i := range q.lanes {
		l := &q.lanes[i]
		for j := l.head; j < len(l.buf); j++ {
			if seg := l.buf[j].ops()[0].seg; seg == nil || seg == beingLogged {
				ops += len(l.buf[j].ops())
			}
		}
	}
	return ops
}

// promise sets memory aside for a Buffered unit of that size, which its accept takes, unless
// such ops would stay in the WAL now.
func (q *queue) promise(size int64) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.mustSpool(size) {
		return false
	}
	q.promised += size
	return true
}

// unpromise is for a unit that does not come.
func (q *queue) unpromise(size int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.promised -= size
}

// restore starts in spooling mode with what an earlier engine left in the WAL.
func (q *queue) restore(ops int, first, last, oldest int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.spooling, q.read, q.written, q.whole = true, first-1, last, last
	q.spooled, q.oldest = ops, oldest
	q.signal()
}
