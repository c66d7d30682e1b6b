package syncengine

// spool.go is the part of the queue (batch.go) that lives in the WAL alone: ops that memory
// did not take, their way back through the drain, and Buffered ops that an outage puts into
// the WAL. mustSpool, noteSpooled, ageOf, endSpool and setSegment are called with the lock
// held.

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"
)

// mustSpool decides whether memory takes more ops.
func (q *queue) mustSpool(bytes int64) bool {
	return q.spooling || q.l1.Queued()+q.promised+bytes > q.lim.spoolAbove
}

// segmentAge tells when the first op of a spooled segment was accepted: the log keeps it by
// the wall clock, which may have been set since.
type segmentAge struct{ seg, at int64 }

// noteSpooled accounts for ops that the drain will read from the WAL.
func (q *queue) noteSpooled(u *unit, seg *segment, last bool) {
	if !q.spooling {
		q.spooling, q.read, q.whole, q.oldest = true, seg.id-1, seg.id-1, u.At
	}
	if q.written != seg.id || len(q.ages) == 0 {
		q.ages = append(q.ages, segmentAge{seg.id, u.At})
	}
	q.written = seg.id
	q.spooled += len(u.Ops())
	if w := u.done; w != nil {
		w.op = awaitedOp{strings.Clone(u.Ops()[0].id()), u.Ops()[0].version} // memory lets go of the op
		if !w.over.Load() {                                                  // else its caller left before it could be found here
			q.awaited[w.op] = append(q.awaited[w.op], w)
		}
	}
	if last {
		q.whole = seg.id
		q.Signal()
	}
}

// ageOf returns when the first op of a segment was accepted. wall is what the log says.
func (q *queue) ageOf(seg, wall int64) int64 {
	for len(q.ages) > 0 && q.ages[0].seg < seg {
		q.ages = q.ages[1:]
	}
	if len(q.ages) > 0 && q.ages[0].seg == seg {
		return q.ages[0].at
	}
	return q.Now() - max(0, time.Now().UnixNano()-wall) // of an earlier engine
}

// refill takes units the drain has read. They are not pinned: the WAL holds them.
func (q *queue) refill(units [][]*entry, dropped int, seg *segment, wall int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	at := q.ageOf(seg.id, wall)
	q.spooled -= dropped
	if len(units) > 0 {
		q.segments = append(q.segments, seg)
	}
	for _, ops := range units {
		q.l1.Evict(sizeOf(ops)) // not sooner: writers make room for themselves, too
		u := unitOf(ops, at)
		u.drained = true
		if len(q.awaited) > 0 {
			key := awaitedOp{ops[0].id(), ops[0].version}
			if ws := q.awaited[key]; len(ws) > 1 {
				u.done, q.awaited[key] = ws[0], ws[1:]
			} else if len(ws) == 1 {
				u.done = ws[0]
				delete(q.awaited, key)
			}
		}
		setSegment(ops, seg)
		copied := q.copies[awaitedOp{ops[0].id(), ops[0].version}]
		for _, e := range ops {
			q.l1.Hold(e)
			q.hold(e, copied)
			if e.isMerge() {
				q.drainedMerge(e, copied)
			}
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
		q.spooling, q.spooled, q.ages, q.copies = false, 0, nil, nil
	}
}

// wanted is what the drain may read next: segments in (after, upTo]. One that takes more
// memory than room waits, unless there is nothing else in memory.
type wanted struct {
	after, upTo int64
	room        int64
	empty       bool
}

// wantsRefill tells what to read, when fewer than batches batches wait in memory. What is in
// the queue then stays below the budget of L1, with the segment that is read (INV-10).
func (q *queue) wantsRefill(batches int) (w wanted, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	held := q.l1.Queued() + q.promised
	few := q.ops/q.lim.count < batches && q.bytes/q.lim.bytes < int64(batches) && held < q.lim.spoolAbove
	w = wanted{after: q.read, upTo: q.whole, room: 2*q.lim.spoolAbove - held, empty: held == 0}
	return w, q.spooling && q.read < q.whole && few
}

// Two values of entry.seg stand for no segment of the queue's own. beingLogged: a Buffered
// op is on its way into the log. elsewhere: it got there while spooling, so that the drain
// will read it back and the op is on both ways to L3; that is harmless, and simpler than
// calling it back from one of them.
var beingLogged, elsewhere = &segment{}, &segment{}

// Logged notes that a Buffered unit, still waiting, is now in the WAL too. last tells that
// it is the last unit of its segment.
func (q *queue) Logged(u *unit, seg *segment, last bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	ops := u.Ops()
	q.wal.Lone(ops, -1)
	if !seg.decided {
		seg.decided, seg.spooled = true, q.spooling
		if !seg.spooled {
			q.segments = append(q.segments, seg)
		}
	}
	waiting := ops[0].pinned() // else it reached L3 meanwhile
	switch {
	case seg.spooled:
		spooled := *u
		spooled.done = nil // of the one that is in memory
		for _, e := range ops {
			if e.isMerge() {
				q.wal.AddSpooledMerge(q.l1.Hash(e.item()))
			}
		}
		q.noteSpooled(&spooled, seg, last)
		if q.copies == nil {
			q.copies = make(map[awaitedOp]bool)
		}
		q.copies[awaitedOp{strings.Clone(ops[0].id()), ops[0].version}] = true
		if waiting {
			q.doubled += len(ops)
			setSegment(ops, elsewhere)
		}
	case waiting:
		setSegment(ops, seg)
	default:
		q.wal.Done(seg, ops)
		q.trim()
	}
}

func setSegment(ops []*entry, seg *segment) {
	for _, e := range ops {
		e.seg = seg
	}
}

// alone reports whether the ops of a unit are in memory alone. q.mu is held.
func alone(ops []*entry) bool {
	waits := ops[0].state.Load()&(statePinned|stateDetached) != 0 // else it is in quarantine by now
	return ops[0].seg == nil && waits
}

// Lone returns the units that are in memory alone, queued or flying, in the order in which they
// came. With items it returns those with merges of one of them.
func (q *queue) Lone(items ...string) (us []unit) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(items) > 0 && !slices.ContainsFunc(items, q.lonelyMerge) {
		return nil
	}
	pick := func(units []unit) {
		for _, u := range units {
			ops := u.Ops()
			of := func(e *entry) bool { return e.isMerge() && slices.Contains(items, e.item()) }
			if alone(ops) && (len(items) == 0 || slices.ContainsFunc(ops, of)) {
				us = append(us, u)
			}
		}
	}
	for i := range q.lanes {
		pick(q.lanes[i].buf[q.lanes[i].head:])
	}
	for _, b := range q.flights {
		pick(b.units)
		pick(b.parked)
	}
	slices.SortFunc(us, func(a, b unit) int { return cmp.Compare(a.Seq, b.Seq) })
	return us
}

// lonelyMerge reports whether a merge of an item is in memory alone. q.mu is held.
func (q *queue) lonelyMerge(item string) bool {
	m := q.merges[item]
	return m != nil && slices.ContainsFunc(m.ops, func(e *entry) bool { return e.seg == nil })
}

// StartLogging marks a unit as on its way into the WAL, unless it is not in memory alone any more.
func (q *queue) StartLogging(ops []*entry) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !alone(ops) {
		return false
	}
	setSegment(ops, beingLogged)
	return true
}

// NotLogged takes the mark back from a unit that the log did not take.
func (q *queue) NotLogged(ops []*entry) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if ops[0].seg == beingLogged {
		setSegment(ops, nil)
		return
	}
	q.wal.Lone(ops, -1) // it reached L3 meanwhile
	q.wal.Release(ops)
}

// drainedTo reports whether the drain has read up to a segment, with the channels that tell
// when it has read on and of failures from now on.
func (q *queue) drainedTo(seg int64) (ok bool, moved, failed chan struct{}) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return !q.spooling || q.read >= seg, q.moved, q.failed
}

// Promise sets memory aside for a Buffered unit of that size, which its accept takes, unless
// such ops would stay in the WAL now.
func (q *queue) Promise(size int64) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.mustSpool(size) {
		return false
	}
	q.promised += size
	return true
}

// Takes reports whether memory has room for a Buffered unit of that size now.
func (q *queue) Takes(size int64) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return !q.mustSpool(size)
}

// Unpromise is for a unit that does not come.
func (q *queue) Unpromise(size int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.promised -= size
}

// Restore starts in spooling mode with what an earlier engine left in the WAL.
func (q *queue) Restore(ops int, first, last, oldest int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.spooling, q.read, q.written, q.whole = true, first-1, last, last
	q.earlier = last
	q.spooled, q.oldest = ops, q.ageOf(0, oldest)
	q.Signal()
}

// IsOfEarlier reports whether a segment is what an earlier engine has left.
func (q *queue) IsOfEarlier(segment int64) bool { return segment <= q.earlier }

// hold notes an op that the drain has read; it is not in the map of L1, where a later op would
// find it. copied tells that it was in memory as well, and that stands for it. q.mu is held.
func (q *queue) hold(e *entry, copied bool) {
	h := q.held[e.id()]
	if h != nil && h.version <= e.version {
		h.state.Or(stateReplaced)
	}
	if h == nil || h.version <= e.version {
		q.held[e.id()] = e
	} else {
		copied = true
	}
	if copied {
		e.state.Or(stateReplaced)
	}
}

// replaceHeld marks what the drain has read of the ids of later ops. q.mu is held.
func (q *queue) replaceHeld(ops []*entry) {
	if len(q.held) == 0 {
		return
	}
	for _, e := range ops {
		if h := q.held[e.id()]; h != nil && h.version < e.version {
			h.state.Or(stateReplaced)
		}
	}
}

// replaced reports whether a later op of this engine stands for an op that the queue still
// holds: it came later, whether it waits or has landed, or it waits in the WAL.
func (q *queue) replaced(e *entry) bool {
	if e.state.Load()&stateReplaced != 0 {
		return true
	}
	version, ok := q.wal.Spooled(q.l1.Hash(e.id()))
	return ok && version > e.version
}

// spooledOp is where an op is spooled.
type spooledOp struct {
	id      string
	seg     int64
	version uint64
}

// Covered returns what is spooled of ids, but for what is unwanted. It reads all that is spooled.
func (q *queue) Covered(ctx context.Context, ids map[string]bool, unwanted func(ops []*entry, seg int64) bool) (found []spooledOp, err error) {
	q.mu.Lock()
	after, upTo := q.read, q.written
	if !q.spooling {
		upTo = after
	}
	q.mu.Unlock()
	err = q.wal.Look(ctx, ids, after, upTo, func(ops []*entry, op *entry, seg int64) {
		if !unwanted(ops, seg) {
			found = append(found, spooledOp{op.id(), seg, op.version})
		}
	})
	return found, err
}

// Uncover drops what covered waiting ops of ids, and makes those readable again: L1 and the index
// of spooled ops know the newest op of an id alone. spooled is what Covered has found.
func (q *queue) Uncover(ids map[string]bool, spooled []spooledOp, drop func(), unwanted func(ops []*entry, seg int64) bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	drop()
	// What the drain has read meanwhile is in memory, or has landed.
	spooled = slices.DeleteFunc(spooled, func(s spooledOp) bool { return s.seg <= q.read || !q.spooling })
	inMemory := func(units []unit) {
		for i := range units {
			ops := units[i].Ops()
			for _, e := range ops {
				if !ids[e.id()] || e.seg != nil && e.seg.id > 0 && unwanted(ops, e.seg.id) {
					continue
				}
				switch st := e.state.Load(); {
				case st&statePinned != 0:
					q.l1.Reattach(e)
				case st&stateDetached != 0: // the drain has read it
					spooled = append(spooled, spooledOp{e.id(), e.seg.id, e.version})
				}
			}
		}
	}
	for i := range q.lanes {
		inMemory(q.lanes[i].buf[q.lanes[i].head:])
	}
	for _, b := range q.flights {
		inMemory(b.units)
		inMemory(b.parked)
	}
	for _, s := range spooled {
		q.wal.AddSpooled(q.l1.Hash(s.id), s.seg, s.version)
		if e, ok := q.l1.Peek(s.id); ok && e.version < s.version {
			q.l1.Drop(e)
		}
		q.l1.Touch(s.id)
	}
}
