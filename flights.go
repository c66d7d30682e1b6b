package syncengine

// flights.go is the part of the queue (batch.go) that is on its way to L3: batches from when they
// are taken until they land, or come back.

import (
	"context"
	"math"
	"slices"
)

// batch is what one L3 transaction takes.
type batch struct {
	done   chan struct{} // closed when it has landed, or failed
	memory bool          // some ops are not in the WAL
	units  []unit
	ops    int
	bytes  int64
	low    int64    // lowest seq of units and parked
	oldest int64    // when the first of them was accepted
	moment uint32   // when it was taken, see l1.Moment
	parked []unit   // wait until this flight lands, since they share an id with it
	also   []string // ids of parked units that no flight is with: later ops of theirs wait, too
}

// take removes the next batch from the lanes, or returns nil when all ids that wait are
// in flight.
func (q *queue) take() *batch {
	q.mu.Lock()
	defer q.mu.Unlock()
	b := &batch{done: make(chan struct{}), low: math.MaxInt64, oldest: math.MaxInt64, moment: q.l1.Moment()}
	b.units = make([]unit, 0, min(q.lim.count, q.ops))
	q.takes++
	late, patience := q.lateShare(), q.Now()-int64(q.lim.patience)
	for b.ops < q.lim.count && b.bytes < q.lim.bytes {
		l := q.nextLane(patience, b.ops < late)
		if l < 0 {
			break
		}
		u := q.lanes[l].pop()
		n, size := len(u.Ops()), opsBytes(u.Ops())
		q.ops -= n
		q.bytes -= size
		if f := q.blockedBy(&u, b); f != nil {
			q.park(u, f)
			continue
		}
		for _, e := range u.Ops() {
			q.inFlight[e.item()] = b
		}
		b.memory = b.memory || u.Ops()[0].seg == nil
		b.units = append(b.units, u)
		b.note(&u)
		b.ops += n
		b.bytes += size
	}
	if b.ops == 0 {
		return nil
	}
	q.flights = append(q.flights, b)
	return b
}

// lateShare is how many ops of a batch may be of units that waited too long. Batches too small
// to be divided take turns.
func (q *queue) lateShare() int {
	if n := q.lim.count / 4; n > 0 {
		return n
	}
	if q.takes%4 == 0 {
		return 1
	}
	return 0
}

// nextLane picks the lane to take from: the most urgent one, or, if late is set, one whose
// first unit was accepted before the given time. -1: all are empty.
func (q *queue) nextLane(before int64, late bool) int {
	pick := -1
	for i := range q.lanes {
		l := &q.lanes[i]
		if l.len() == 0 {
			continue
		}
		if at := l.front().At; late && at < before {
			before, pick = at, i
		} else if pick < 0 {
			pick = i
		}
	}
	return pick
}

// blockedBy returns the flight that one of the unit's ids is in, or waits for, if it is not b.
func (q *queue) blockedBy(u *unit, b *batch) *batch {
	if len(q.inFlight) == 0 {
		return nil
	}
	for _, e := range u.Ops() {
		if f := q.inFlight[e.item()]; f != nil && f != b {
			return f
		}
	}
	return nil
}

// park lets a unit wait for a flight. Its other ids wait with it, so that no later op of
// theirs comes first.
func (q *queue) park(u unit, f *batch) {
	for _, e := range u.Ops() {
		if q.inFlight[e.item()] == nil {
			q.inFlight[e.item()] = f
			f.also = append(f.also, e.item())
		}
	}
	f.parked = append(f.parked, u)
	f.note(&u)
}

// note keeps what is asked of a flight's units often.
func (b *batch) note(u *unit) {
	b.low, b.oldest = min(b.low, u.Seq), min(b.oldest, u.At)
}

// land ends a flight. What was parked with it goes back to its lanes.
func (q *queue) land(b *batch) {
	if i := slices.Index(q.flights, b); i >= 0 {
		q.flights = slices.Delete(q.flights, i, i+1)
	}
	for i := range b.units {
		for _, e := range b.units[i].Ops() {
			delete(q.inFlight, e.item())
		}
	}
	for _, id := range b.also {
		if q.inFlight[id] == b {
			delete(q.inFlight, id)
		}
	}
	q.putBack(b.parked)
	b.parked = nil
	close(b.done)
}

// AwaitFlight waits while an op is in flight and nobody knows yet whether L3 takes it.
func (q *queue) AwaitFlight(ctx context.Context, id string, op *entry) error {
	for {
		q.mu.Lock()
		b, undecided := q.inFlight[itemOf(id)], false
		for i := 0; b != nil && i < len(b.units); i++ {
			for _, e := range b.units[i].Ops() { // quarantine lets go of those that it gets
				held := e.state.Load()&(statePinned|stateDetached) != 0
				undecided = undecided || held && e.id() == id && e.compare(op) == 0
			}
		}
		q.mu.Unlock()
		if !undecided {
			return nil
		}
		select {
		case <-b.done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// putBack returns units to their lanes.
func (q *queue) putBack(us []unit) {
	var back [lanes][]unit
	for _, u := range us {
		l := laneOf(u.Ops())
		back[l] = append(back[l], u)
		q.ops += len(u.Ops())
		q.bytes += opsBytes(u.Ops())
	}
	for l := range back {
		q.lanes[l].unpop(back[l])
	}
}

// giveBack puts a batch that failed for an outage back to where it was, and tells those
// who wait in Flush. Units that are in quarantine already stay out: they may be discarded there.
func (q *queue) giveBack(b *batch, a *outcome, cause error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.land(b)
	b.unsure()
	var back []unit
	for i := range b.units {
		if u := &b.units[i]; a.refused[u.Ops()[0]] != nil {
			q.finish(u, a)
		} else {
			back = append(back, *u)
		}
	}
	q.putBack(back)
	q.endMergings(b)
	q.trim()
	q.tell()
	q.fail(cause)
}

// complete notes that all units of a batch are in L3, or in quarantine (refused), or that L3
// holds something higher of the id (lost): the next read gets that.
func (q *queue) complete(b *batch, a *outcome) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.land(b)
	if !q.ended {
		q.cause = nil
	}
	for i := range b.units {
		q.finish(&b.units[i], a)
	}
	for i := range b.units { // when the queue holds none of them any more
		q.outdate(&b.units[i], a)
	}
	for i := range a.merged {
		q.landed(a.merged[i], b.moment)
	}
	q.endMergings(b)
	q.trim()
	q.tell()
}

// outdate drops copies from memory that are below what the drain has read and L3 has taken. With
// versions of the caller's own, an op that waits in the WAL may be above one that came later, which
// memory shows, and which has landed before it, or was absorbed by it.
func (q *queue) outdate(u *unit, a *outcome) {
	if !u.drained {
		return
	}
	for _, e := range u.Ops() {
		if _, lost := a.lost[e]; lost || e.isMerge() || a.refused[e] != nil {
			continue
		}
		if below, ok := q.l1.Peek(e.id()); ok && below.compare(e) < 0 {
			q.l1.Drop(below)
		}
	}
}

// finish lets go of a unit and tells the call that waits for it. q.mu is held.
func (q *queue) finish(u *unit, a *outcome) {
	ops := u.Ops()
	for _, e := range ops {
		refused := a.refused[e] != nil
		if !refused {
			// L3 holds this op or a higher one, so no spooled op up to it may answer reads.
			q.wal.DropSpooled(q.l1.Hash(e.id()), e.version)
		} else if e.seg != nil && e.seg.id > 0 { // others may wait, of the same version, if it is retried
			q.wal.DropDiscarded(q.l1.Hash(e.id()), e.version, e.seg.id)
		}
		q.l1.Unpin(e) // not before (INV-6)
		if q.held[e.id()] == e {
			delete(q.held, e.id())
		}
		if e.isMerge() {
			q.wal.DropSpooled(q.l1.Hash(e.item()), e.version)
			l, lost := a.lost[e]
			if q.doneMerge(e, refused || lost); lost { // to a delete
				held := l.Held.record()
				held.ID = e.item()
				q.l1.Forget(newEntry(&held))
			}
		} else if _, lost := a.lost[e]; lost {
			q.l1.Forget(e)
		} else if a.healed[e] != nil {
			q.l1.Drop(e)
		}
	}
	switch seg := ops[0].seg; seg {
	case nil:
		q.wal.Lone(ops, -1)
		q.wal.Release(ops)
	case beingLogged: // the log will tell
	case elsewhere:
		q.doubled -= len(ops)
	default:
		q.wal.Done(seg, ops)
	}
	setSegment(ops, nil)
	if u.done != nil && (a.claimed[u.done] || u.done.claim()) {
		u.done.verdict <- a.verdictOf(ops)
	}
}

// InFlight reports whether an op of id is in a batch that is being written to L3.
func (q *queue) InFlight(id string) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	b := q.inFlight[id]
	for i := 0; b != nil && i < len(b.units); i++ {
		for _, e := range b.units[i].Ops() {
			if e.item() == id {
				return true
			}
		}
	}
	return false // what is parked waits
}
