package syncengine

// batch.go owns the queue: accepted ops that wait in memory for L3, and the account of
// those that wait in the WAL alone.
//
// # How it works
//
// The queue is a chain of two parts. Memory holds the older ops, in four lanes by
// priority. When memory is half full of them, later ops stay in the WAL only: they are
// spooled. From then on every logged op is spooled until the drain, which reads the WAL
// in order into memory, has caught up with the writers. So memory is bounded whatever
// the length of an outage (INV-10), and the order of ops is kept without sorting.
//
// A unit is one op or all ops of a group; it is never split (INV-5). A batch takes whole
// units until it is full: the longest waiting first if they have waited long (nothing
// starves), else by priority. An id that is in flight in one batch is not taken into
// another, so with several batches in flight ops of one id still reach L3 in order
// (INV-3). A failed batch goes back to the front of its lanes.
//
// No goroutines, no I/O. The log's loop, callers of Submit (Buffered), and the flusher
// call it.

import (
	"sync"
	"time"
	"unsafe"
)

// unit is one op or a group. One of the two is set.
type unit struct {
	one     *entry
	many    []*entry
	at      int64 // accepted, unix nanoseconds
	epoch   *epoch
	spooled bool // read back from the WAL
}

// ops returns the ops of the unit without allocating.
func (u *unit) ops() []*entry {
	if u.many != nil {
		return u.many
	}
	return (*[1]*entry)(unsafe.Pointer(&u.one))[:]
}

func unitOf(ops []*entry, at int64) unit {
	if len(ops) == 1 {
		return unit{one: ops[0], at: at}
	}
	return unit{many: ops, at: at}
}

// lane is a first-in first-out list of units.
type lane struct {
	buf  []unit
	head int
}

func (l *lane) len() int { return len(l.buf) - l.head }

func (l *lane) front() *unit { return &l.buf[l.head] }

func (l *lane) push(u unit) {
	if l.head > 64 && l.head > len(l.buf)/2 { // reuse the space in front
		n := copy(l.buf, l.buf[l.head:])
		clear(l.buf[n:])
		l.buf, l.head = l.buf[:n], 0
	}
	l.buf = append(l.buf, u)
}

func (l *lane) pop() unit {
	u := l.buf[l.head]
	l.buf[l.head] = unit{}
	l.head++
	if l.head == len(l.buf) {
		l.buf, l.head = l.buf[:0], 0
	}
	return u
}

// unpop puts units back in front, in order.
func (l *lane) unpop(us []unit) {
	if len(us) == 0 {
		return
	}
	if l.head >= len(us) {
		l.head -= len(us)
		copy(l.buf[l.head:], us)
		return
	}
	l.buf = append(append(make([]unit, 0, len(us)+l.len()), us...), l.buf[l.head:]...)
	l.head = 0
}

const lanes = int(PriorityCritical-PriorityLow) + 1

// laneOf returns the lane of a unit: that of its most urgent op.
func laneOf(ops []*entry) int {
	p := PriorityLow
	for _, e := range ops {
		if p = max(p, e.priority); e.state.Load()&stateRaised != 0 {
			p = max(p, PriorityHigh)
		}
	}
	return int(PriorityCritical - p)
}

// limits of a batch and of the queue, from Config.
type queueLimits struct {
	count      int
	bytes      int64
	age        time.Duration
	patience   time.Duration // wait after which a unit goes first whatever its priority
	spoolAbove int64         // bytes in the queue above which ops are spooled
	evictAhead int64         // size of what comes at once above which memory is made free before it is taken
}

type queue struct {
	lim queueLimits
	l1  *l1
	wal *wal

	wake chan struct{} // cap 1: the flusher should look again

	mu       sync.Mutex // guards all below
	lanes    [lanes]lane
	ops      int   // in the lanes
	bytes    int64 // in the lanes
	promised int64 // memory for Buffered units on their way here, see promise
	flights  []*batch
	inFlight map[string]struct{} // ids of flights
	epochs   []*epoch            // oldest first; the last one is open
	forced   int                 // Flush calls that wait
	failed   chan struct{}       // closed and replaced when L3 or the drain fails
	cause    error               // why it failed
	ended    bool                // the flusher is gone: failed stays closed
	moved    chan struct{}       // closed and replaced when the drain has read on

	segments []*segment // that hold ops in memory, in log order, until they are trimmed

	// The spooled part.
	spooling bool
	read     int64 // last segment the drain has read
	written  int64 // last segment of which any op was spooled
	whole    int64 // last segment of which all ops were spooled: the drain may read up to it
	spooled  int   // ops not yet read by the drain
	oldest   int64 // a lower bound on when the oldest of them was accepted
	doubled  int   // ops that are both in memory and spooled, see elsewhere
}

// batch is what one L3 transaction takes.
type batch struct {
	memory bool // some ops are not in the WAL
	units  []unit
	ops    int
	bytes  int64
	oldest int64
}

func newQueue(lim queueLimits, mem *l1, w *wal) *queue {
	return &queue{
		lim: lim, l1: mem, wal: w, wake: make(chan struct{}, 1), inFlight: make(map[string]struct{}),
		epochs: []*epoch{{done: make(chan struct{})}}, failed: make(chan struct{}), moved: make(chan struct{}),
	}
}

func (q *queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default: // a signal is already pending
	}
}

// accept takes a unit that was just logged (seg set), or a Buffered one that memory was
// promised (seg nil): it becomes readable in L1 and waits for L3. last tells that it is the
// last unit of its segment.
func (q *queue) accept(u unit, seg *segment, last bool) {
	ops := u.ops()
	size := sizeOf(ops)
	q.mu.Lock()
	if seg == nil {
		q.makeRoom(size)
		q.promised -= size
	} else if !seg.decided { // all of it is spooled or nothing
		all := seg.bytes + int64(seg.live)*entryOverhead
		q.makeRoom(all)
		seg.decided, seg.spooled = true, q.mustSpool(all)
		if !seg.spooled {
			q.segments = append(q.segments, seg)
		}
	}
	if seg != nil && seg.spooled {
		q.noteSpooled(ops, u.at, seg, last)
		for _, e := range ops {
			q.wal.addSpooled(q.l1.hash(e.id()), spoolRef{seg.id, e.version}) // before L1, which may evict it at once
			q.l1.accept(e, false)
		}
	} else {
		setSegment(ops, seg)
		for _, e := range ops {
			q.l1.accept(e, true)
		}
		q.push(u)
	}
	q.mu.Unlock()
}

// makeRoom evicts for what is about to be accepted. For little, callers do it afterwards.
func (q *queue) makeRoom(size int64) {
	if size > q.lim.evictAhead {
		q.l1.evict(size)
	}
}

// push appends a unit to its lane.
func (q *queue) push(u unit) {
	ops := u.ops()
	u.epoch = q.epochs[len(q.epochs)-1]
	u.epoch.ops += len(ops)
	q.lanes[laneOf(ops)].push(u)
	first := q.ops == 0
	q.ops += len(ops)
	q.bytes += opsBytes(ops)
	if first || q.full() {
		q.signal()
	}
}

func (q *queue) full() bool { return q.ops >= q.lim.count || q.bytes >= q.lim.bytes }

// due reports whether a batch should be taken now, and if not, when at the latest. In haste
// any batch is due.
func (q *queue) due(now time.Time, haste bool) (ok bool, wait time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.ops == 0 {
		return false, time.Hour
	}
	if q.full() || q.forced > 0 || q.spooling || haste {
		return true, 0
	}
	wait = q.lim.age - time.Duration(now.UnixNano()-q.laneOldest())
	return wait <= 0, max(wait, 0)
}

// laneOldest is when the first of the queued units was accepted.
func (q *queue) laneOldest() (at int64) {
	for i := range q.lanes {
		if l := &q.lanes[i]; l.len() > 0 && (at == 0 || l.front().at < at) {
			at = l.front().at
		}
	}
	return at
}

// take removes the next batch from the lanes, or returns nil when all ids that wait are
// in flight.
func (q *queue) take(now time.Time) *batch {
	q.mu.Lock()
	defer q.mu.Unlock()
	b := &batch{}
	mine := make(map[string]struct{})
	var blocked [lanes][]unit
	for b.ops < q.lim.count && b.bytes < q.lim.bytes {
		l := q.nextLane(now)
		if l < 0 {
			break
		}
		u := q.lanes[l].pop()
		if q.blocked(&u, mine) {
			blocked[l] = append(blocked[l], u)
			continue
		}
		for _, e := range u.ops() {
			mine[e.id()] = struct{}{}
		}
		b.memory = b.memory || u.ops()[0].seg == nil
		b.add(u)
	}
	for l := range blocked {
		q.lanes[l].unpop(blocked[l])
	}
	if b.ops == 0 {
		return nil
	}
	for id := range mine {
		q.inFlight[id] = struct{}{}
	}
	q.ops -= b.ops
	q.bytes -= b.bytes
	q.flights = append(q.flights, b)
	return b
}

// nextLane picks the lane to take from: one whose first unit has waited too long, else the
// most urgent one. -1: all are empty.
func (q *queue) nextLane(now time.Time) int {
	pick, late := -1, now.Add(-q.lim.patience).UnixNano()
	for i := range q.lanes {
		l := &q.lanes[i]
		if l.len() == 0 {
			continue
		}
		if at := l.front().at; at < late {
			late, pick = at, i
		} else if pick < 0 {
			pick = i
		}
	}
	return pick
}

// blocked reports whether an id of the unit is in flight elsewhere.
func (q *queue) blocked(u *unit, mine map[string]struct{}) bool {
	if len(q.inFlight) == 0 {
		return false
	}
	for _, e := range u.ops() {
		if _, ok := q.inFlight[e.id()]; ok {
			if _, own := mine[e.id()]; !own {
				return true
			}
		}
	}
	return false
}

func (b *batch) add(u unit) {
	if b.ops == 0 || u.at < b.oldest {
		b.oldest = u.at
	}
	b.units = append(b.units, u)
	b.ops += len(u.ops())
	b.bytes += opsBytes(u.ops())
}

// land ends a flight.
func (q *queue) land(b *batch) {
	for i, f := range q.flights {
		if f == b {
			q.flights = append(q.flights[:i], q.flights[i+1:]...)
			break
		}
	}
	for i := range b.units {
		for _, e := range b.units[i].ops() {
			delete(q.inFlight, e.id())
		}
	}
}

// giveBack puts a batch that failed for an outage back to where it was, and tells those
// who wait in Flush. Units that are in quarantine already stay out: they may be discarded there.
func (q *queue) giveBack(b *batch, refused map[*entry]error, cause error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.land(b)
	var back [lanes][]unit
	for _, u := range b.units {
		if _, ok := refused[u.ops()[0]]; ok {
			q.finish(&u, refused, nil)
			continue
		}
		l := laneOf(u.ops())
		back[l] = append(back[l], u)
		q.ops += len(u.ops())
		q.bytes += opsBytes(u.ops())
	}
	for l := range back {
		q.lanes[l].unpop(back[l])
	}
	q.trim()
	q.retire()
	q.fail(cause)
}

// complete notes that all units of a batch are in L3, or in quarantine (refused), or that L3
// holds something higher of the id (lost): the next read gets that.
func (q *queue) complete(b *batch, refused map[*entry]error, lost map[string]bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.land(b)
	if !q.ended {
		q.cause = nil
	}
	for i := range b.units {
		q.finish(&b.units[i], refused, lost)
	}
	q.trim()
	q.retire()
}

// finish lets go of a unit. q.mu is held.
func (q *queue) finish(u *unit, refused map[*entry]error, lost map[string]bool) {
	ops := u.ops()
	for _, e := range ops {
		if _, ok := refused[e]; ok {
			u.epoch.refused++
		}
		// L3 holds this op or a higher one, so no spooled op up to it may answer reads.
		q.wal.dropSpooled(q.l1.hash(e.id()), e.version)
		q.l1.unpin(e)
		if lost[e.id()] {
			q.l1.forget(e)
		}
	}
	switch seg := ops[0].seg; seg {
	case nil, beingLogged:
	case elsewhere:
		q.doubled -= len(ops)
	default:
		q.wal.done(seg, ops)
	}
	setSegment(ops, nil)
	u.epoch.ops -= len(ops)
}

// trim lets the log forget the segments in front whose ops are all done.
func (q *queue) trim() {
	n := 0
	for n < len(q.segments) && q.segments[n].live == 0 {
		n++
	}
	if n > 0 {
		q.wal.log.Trim(q.segments[n-1].id)
		q.segments = append(q.segments[:0], q.segments[n:]...)
	}
}

// pending returns how many ops wait for L3, how many of them in the WAL alone, and since
// when the oldest waits (0: none does).
func (q *queue) pending() (ops, spooled int, oldest int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	ops, spooled, oldest = q.ops+q.spooled-q.doubled, q.spooled, q.laneOldest()
	for _, b := range q.flights {
		ops += b.ops
		if oldest == 0 || b.oldest < oldest {
			oldest = b.oldest
		}
	}
	if q.spooled > 0 && (oldest == 0 || q.oldest < oldest) {
		oldest = q.oldest
	}
	return ops, spooled, oldest
}
