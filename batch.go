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
// units until it is full: a quarter of it goes to those that have waited long (nothing
// starves), the rest by priority (an urgent op does not wait behind a backlog). An id that
// is in flight in one batch is not taken into another, so with several batches in flight
// ops of one id still reach L3 in order (INV-3): a unit with such an id is parked with the
// flight it waits for, where it costs nobody a look, and comes back when that lands. A
// failed batch goes back to its place in its lanes.
//
// Units are numbered in the order in which they are accepted or read back (unit.Seq). What
// Flush waits for is one number: landing.go.
//
// Ages and waits are monotonic time: nanoseconds since the queue was made (queue.Now).
//
// No goroutines, no I/O. The log's loop, callers of Submit (Buffered), and the flusher
// call it.

import (
	"cmp"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"
)

// unit is one op or a group. One of the two is set.
type unit struct {
	one     *entry
	many    []*entry
	At      int64   // accepted, see queue.Now
	Seq     int64   // its place in the order of acceptance
	done    *waiter // of the Archived call that waits for it; nil: nobody does
	drained bool    // read back from the WAL
}

// Ops returns the ops of the unit without allocating.
func (u *unit) Ops() []*entry {
	if u.many != nil {
		return u.many
	}
	return (*[1]*entry)(unsafe.Pointer(&u.one))[:]
}

func unitOf(ops []*entry, at int64) unit {
	if len(ops) == 1 {
		return unit{one: ops[0], At: at}
	}
	return unit{many: ops, At: at}
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

// unpop puts units back where they were: a lane is in the order of seq.
func (l *lane) unpop(us []unit) {
	if len(us) == 0 {
		return
	}
	last := us[0].Seq
	for i := range us {
		last = max(last, us[i].Seq)
	}
	for l.len() > 0 && l.front().Seq < last { // another batch came back before this one
		us = append(us, l.pop())
	}
	slices.SortFunc(us, func(a, b unit) int { return cmp.Compare(a.Seq, b.Seq) })
	if l.head >= len(us) {
		l.head -= len(us)
		copy(l.buf[l.head:], us)
		return
	}
	l.buf = append(append(make([]unit, 0, len(us)+l.len()), us...), l.buf[l.head:]...)
	l.head = 0
}

const lanes = int(PriorityCritical-PriorityLow) + 1

// laneOf returns the lane of a unit: that of its most urgent op. Merges keep to one lane, so that
// those of an item land in the order of their dots; and so do deletes that the drain has read,
// which may be of such an item: later merges would raise its version above theirs.
func laneOf(ops []*entry) int {
	p := PriorityLow
	for _, e := range ops {
		drained := e.state.Load()&(statePinned|stateDetached) == stateDetached
		if e.isMerge() || crdtBuilt && e.deleted && drained {
			return int(PriorityCritical - PriorityNormal)
		}
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

func queueLimitsOf(cfg *Config) queueLimits {
	// The queue multiplies these two: huge values mean the same as these.
	bytes, age := min(cfg.BatchFlushBytes, 1<<40), min(cfg.BatchFlushInterval, 10*365*24*time.Hour)
	return queueLimits{
		count: cfg.BatchFlushCount, bytes: bytes, age: age,
		patience: max(10*age, time.Second), spoolAbove: cfg.L1MaxBytes / 2, evictAhead: min(32<<10, cfg.L1MaxBytes/64),
	}
}

type queue struct {
	lim   queueLimits
	l1    *l1
	wal   *journal
	start time.Time // see Now

	wake chan struct{} // cap 1: the flusher should look again

	mu       sync.Mutex // guards all below
	lanes    [lanes]lane
	ops      int   // in the lanes
	bytes    int64 // in the lanes
	promised int64 // memory for Buffered units on their way here, see Promise
	takes    uint  // batches taken
	flights  []*batch
	inFlight map[string]*batch // which flight an id is in, or waits for
	accepted int64             // seq of the newest unit
	waits    []numberWait      // Flush calls, in the order of what they wait for
	forced   int               // Flush and Archived calls that wait
	failed   chan struct{}     // closed and replaced when L3 or the drain fails
	cause    error             // why it failed
	ended    bool              // the flusher is gone: failed stays closed
	moved    chan struct{}     // closed and replaced when the drain has read on

	segments []*segment // that hold ops in memory, in log order, until they are trimmed

	// The spooled part.
	spooling bool
	read     int64 // last segment the drain has read
	written  int64 // last segment of which any op was spooled
	whole    int64 // last segment of which all ops were spooled: the drain may read up to it
	earlier  int64 // last segment of an earlier engine; set once
	spooled  int   // ops not yet read by the drain
	oldest   int64 // a lower bound on when the oldest of them was accepted
	ages     []segmentAge
	doubled  int                // ops that are both in memory and spooled, see elsewhere
	copies   map[awaitedOp]bool // the units of those, until the drain reads them
	held     map[string]*entry  // the newest op of an id that the drain has read and that has not landed
	awaited  map[awaitedOp][]*waiter

	absent  func(id string) bool // reports that L3 has nothing of an id, when that is certain
	merges  map[string]*merging  // see merging.go
	merging atomic.Int64         // len(merges)
	shown   shownViews           // see merging.go
}

func newQueue(lim queueLimits, mem *l1, w *journal) *queue {
	return &queue{
		lim: lim, l1: mem, wal: w, start: time.Now(), wake: make(chan struct{}, 1), inFlight: make(map[string]*batch),
		failed: make(chan struct{}), moved: make(chan struct{}), awaited: make(map[awaitedOp][]*waiter),
		held: make(map[string]*entry), absent: func(string) bool { return false },
	}
}

// Now is the clock of the queue: it does not follow the wall clock when that is set.
func (q *queue) Now() int64 { return int64(time.Since(q.start)) }

func (q *queue) Signal() {
	select {
	case q.wake <- struct{}{}:
	default: // a signal is already pending
	}
}

// Accept takes a unit that was just logged (seg set), or a Buffered one that memory was
// promised (seg nil): it becomes readable in L1 and waits for L3. last tells that it is the
// last unit of its segment. Either has its place in the WAL (Reserve).
func (q *queue) Accept(u unit, seg *segment, last bool) {
	ops := u.Ops()
	size := sizeOf(ops)
	q.mu.Lock()
	q.replaceHeld(ops)
	if seg == nil {
		q.makeRoom(size)
		q.promised -= size
		q.wal.Lone(ops, 1)
	} else if !seg.decided { // all of it is spooled or nothing
		all := seg.bytes + int64(seg.live)*entryOverhead
		q.makeRoom(all)
		seg.decided, seg.spooled = true, q.mustSpool(all)
		if !seg.spooled {
			q.segments = append(q.segments, seg)
		}
	}
	if seg != nil && seg.spooled {
		q.noteSpooled(&u, seg, last)
		for _, e := range ops {
			q.wal.AddSpooled(q.l1.Hash(e.id()), seg.id, e.version) // before L1, which may evict it at once
			if e.isMerge() {
				q.wal.AddSpooled(q.l1.Hash(e.item()), seg.id, e.version)
				q.noteMerge(e, true)
				continue
			}
			q.covers(e)
			q.l1.Accept(e, false)
			q.makeRoomAfter(e, size)
		}
	} else {
		setSegment(ops, seg)
		for _, e := range ops {
			if e.isMerge() {
				q.noteMerge(e, false)
			} else {
				q.covers(e)
			}
			q.l1.Accept(e, true)
		}
		q.push(u)
	}
	q.mu.Unlock()
}

// makeRoom evicts for what is about to be accepted. For little, callers do it afterwards.
func (q *queue) makeRoom(size int64) {
	if size > q.lim.evictAhead {
		q.l1.Evict(size)
	}
}

// makeRoomAfter keeps a large spooled unit from passing the budget while its ops come in one
// by one: the WAL answers for those that have to leave (INV-10).
func (q *queue) makeRoomAfter(e *entry, unit int64) {
	if unit <= q.lim.evictAhead || q.l1.Over(0) <= 0 {
		return
	}
	if q.l1.Evict(0); q.l1.Over(0) > 0 {
		q.l1.Drop(e)
	}
}

// push appends a unit to its lane.
func (q *queue) push(u unit) {
	ops := u.Ops()
	q.accepted++
	u.Seq = q.accepted
	q.lanes[laneOf(ops)].push(u)
	first := q.ops == 0
	q.ops += len(ops)
	q.bytes += opsBytes(ops)
	if first || q.full() {
		q.Signal()
	}
}

func (q *queue) full() bool { return q.ops >= q.lim.count || q.bytes >= q.lim.bytes }

// due reports whether a batch should be taken now, and if not, when at the latest. In haste
// any batch is due.
func (q *queue) due(haste bool) (ok bool, wait time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.ops == 0 {
		return false, time.Hour
	}
	if q.full() || q.forced > 0 || q.spooling || haste {
		return true, 0
	}
	wait = q.lim.age - time.Duration(q.Now()-q.laneOldest())
	return wait <= 0, max(wait, 0)
}

// laneOldest is when the first of the queued units was accepted.
func (q *queue) laneOldest() int64 {
	at := int64(math.MaxInt64)
	for i := range q.lanes {
		if l := &q.lanes[i]; l.len() > 0 {
			at = min(at, l.front().At)
		}
	}
	return at
}

// trim lets the log forget the segments in front whose ops are all done.
func (q *queue) trim() {
	n := 0
	for n < len(q.segments) && q.segments[n].live == 0 {
		n++
	}
	if n > 0 {
		q.wal.Trim(q.segments[n-1].id)
		q.segments = append(q.segments[:0], q.segments[n:]...)
	}
}

// Pending returns how many ops wait for L3, how many of them in the WAL alone, and for how
// long the oldest has waited.
func (q *queue) Pending() (ops, spooled int, age time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	ops, spooled = q.ops+q.spooled-q.doubled, q.spooled
	oldest := q.laneOldest()
	for _, b := range q.flights {
		ops += b.ops
		for i := range b.parked {
			ops += len(b.parked[i].Ops())
		}
		oldest = min(oldest, b.oldest)
	}
	if q.spooled > 0 {
		oldest = min(oldest, q.oldest)
	}
	if ops > 0 {
		age = max(0, time.Duration(q.Now()-oldest))
	}
	return ops, spooled, age
}

// Waits reports whether an op of id waits for L3.
func (q *queue) Waits(id string) bool {
	if ent, ok := q.l1.Peek(id); ok && ent.pinned() {
		return true
	}
	_, spooled := q.wal.Spooled(q.l1.Hash(id))
	return spooled || q.Merging(id)
}
