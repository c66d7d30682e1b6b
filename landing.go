package syncengine

// landing.go is the part of the queue (batch.go) that tells callers what has reached L3.
//
// Flush waits on one number. Units have numbers in the order in which they came (unit.Seq);
// all up to n have landed when the lowest one that is still here is above n. A lane is in
// that order and there are few flights, so the lowest is found by looking at the front of
// each. A Flush costs one channel, however many wait.
//
// An Archived call waits on its own unit, which carries a waiter; what the WAL alone holds
// is found again by id and version, in the order of the log, when the drain reads it back.
//
// Both hear of a failure of L3 by the channel failed.

import (
	"errors"
	"math"
	"slices"
	"sync/atomic"
)

// numberWait waits until all up to a number have landed: a Flush, units; in marks.go, ops of an id.
type numberWait struct {
	upTo int64
	done chan struct{}
}

// verdict is what became of a unit in L3.
type verdict struct {
	Refused error    // it is in quarantine
	Lost    []lostOp // ops that L3 holds something higher of
}

// lostOp is an op that is not in L3 since L3 holds something higher of its id.
type lostOp struct {
	Op     Record // what was to be written: this op, or a later one of this engine
	Held   Meta   // what L3 holds
	waited uint64 // later ops up to that version have been waited for, see numbers.Above
}

// waiter is an Archived call that waits for its unit.
type waiter struct {
	op      awaitedOp
	verdict chan verdict // cap 1: the flusher does not wait for the call
	over    atomic.Bool  // the verdict was given, or the caller has left: whoever is first
}

// awaitedOp names a unit by its first op.
type awaitedOp struct {
	id      string
	version uint64
}

func newWaiter() *waiter { return &waiter{verdict: make(chan verdict, 1)} }

// claim reports whether the caller still waits, and then it will until it gets the verdict.
func (w *waiter) claim() bool { return w.over.CompareAndSwap(false, true) }

// Leave ends a wait without a verdict.
func (w *waiter) Leave() { w.over.Store(true) }

// dropAwaited tells the call that waits for a unit, if any, that it was discarded.
func (q *queue) dropAwaited(ops []*entry) {
	q.mu.Lock()
	defer q.mu.Unlock()
	key := awaitedOp{ops[0].id(), ops[0].version}
	for _, w := range q.awaited[key] {
		if w.claim() {
			w.verdict <- verdict{Refused: errDiscarded}
		}
	}
	delete(q.awaited, key)
	for _, e := range ops {
		if e.isMerge() {
			q.wal.DropSpooledMerge(q.l1.Hash(e.item()))
			q.endMerging(e.item())
		}
	}
}

// lowest returns the lowest number of the units that are in memory. q.mu is held.
func (q *queue) lowest() int64 {
	low := int64(math.MaxInt64)
	for i := range q.lanes {
		if l := &q.lanes[i]; l.len() > 0 {
			low = min(low, l.front().Seq)
		}
	}
	for _, b := range q.flights {
		low = min(low, b.low)
	}
	return low
}

// tell wakes the Flush calls whose units have landed. q.mu is held.
func (q *queue) tell() {
	if len(q.waits) == 0 {
		return
	}
	n, low := 0, q.lowest()
	for n < len(q.waits) && q.waits[n].upTo < low {
		close(q.waits[n].done)
		n++
	}
	q.waits = append(q.waits[:0], q.waits[n:]...)
}

// force makes batches due at once until unforce. It returns the last segment of which ops
// are spooled now, and the channel that tells of failures from now on.
func (q *queue) force() (spooledTo int64, failed chan struct{}) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.forced++
	q.Signal()
	if q.spooling {
		spooledTo = q.written
	}
	return spooledTo, q.failed
}

// unforce ends a Flush.
func (q *queue) unforce() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.forced--
}

// landing returns the number of the newest unit, a channel that is closed when all up to it
// have landed, and the one that tells of failures from now on.
func (q *queue) landing() (upTo int64, done, failed chan struct{}) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.lowest() == math.MaxInt64 {
		done = make(chan struct{})
		close(done)
		return q.accepted, done, q.failed
	}
	if n := len(q.waits); n > 0 && q.waits[n-1].upTo == q.accepted {
		return q.accepted, q.waits[n-1].done, q.failed
	}
	q.waits = append(q.waits, numberWait{q.accepted, make(chan struct{})})
	return q.accepted, q.waits[len(q.waits)-1].done, q.failed
}

// leave ends a wait that has not heard its verdict; told says that it has one after all.
func (q *queue) leave(w *waiter) (told bool) {
	if !w.over.CompareAndSwap(false, true) {
		return true
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	left := slices.DeleteFunc(q.awaited[w.op], func(o *waiter) bool { return o == w })
	if q.awaited[w.op] = left; len(left) == 0 {
		delete(q.awaited, w.op)
	}
	return false
}

// fail tells those who wait that L3 can't be written now. q.mu is held.
func (q *queue) fail(cause error) {
	if q.ended {
		return
	}
	q.cause = cause
	close(q.failed)
	q.failed = make(chan struct{})
}

// failNow is fail for callers without the lock.
func (q *queue) failNow(cause error) {
	q.mu.Lock()
	q.fail(cause)
	q.mu.Unlock()
}

// end tells all who wait, and all who will, that nothing is flushed any more.
func (q *queue) end(cause error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.cause, q.ended = cause, true
	close(q.failed)
}

// whyFailed returns why L3 failed last, never nil.
func (q *queue) whyFailed() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.cause == nil {
		return errors.New("L3 failed and is back")
	}
	return q.cause
}
