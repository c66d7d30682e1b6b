package syncengine

// room.go bounds what writes copy before memory or the log has it (INV-10). L1 counts an op from
// when it is accepted, and the log takes all that waits for it in one commit: without a bound
// here, as much waits as there are callers.
//
// A call waits before it copies its content, in the order in which calls came; one that is larger
// than all the room has it alone. It gives its room back when memory has its ops, when the log has
// taken them or not, and when it is refused. None of these waits for a call that waits here: from
// the log the room comes back on the log's loop, whatever becomes of the caller. Who puts into the
// log what is accepted already (in an outage, after a retry) takes none.
//
// What L3 decides has another room, as large, until L3 has answered or the caller has left: it may
// hang, and others go on.
//
// No goroutines.

import (
	"container/list"
	"context"
	"sync"
)

// leastRoom is for small budgets: what is logged together is no less than that.
const leastRoom = 4 << 20

type room struct {
	most int64

	mu    sync.Mutex // guards the two
	taken int64
	line  list.List // of *standing
}

// standing is who waits for room.
type standing struct {
	size int64
	in   chan struct{} // closed when it has it
}

// take takes room if there is any, and nobody waits for it.
func (r *room) take(size int64) bool {
	size = min(size, r.most)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.line.Len() > 0 || r.taken+size > r.most {
		return false
	}
	r.taken += size
	return true
}

// wait takes room when there is some.
func (r *room) wait(ctx context.Context, size int64) error {
	s := &standing{min(size, r.most), make(chan struct{})}
	r.mu.Lock()
	at := r.line.PushBack(s)
	r.letIn()
	r.mu.Unlock()
	select {
	case <-s.in:
		return nil
	case <-ctx.Done():
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	select {
	case <-s.in:
		r.taken -= s.size
	default:
		r.line.Remove(at)
	}
	r.letIn() // who stood behind
	return ctx.Err()
}

// give gives room back. Where there is none, r may be nil.
func (r *room) give(size int64) {
	if size == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.taken -= min(size, r.most)
	r.letIn()
}

// letIn gives room to those in front. r.mu is held.
func (r *room) letIn() {
	for at := r.line.Front(); at != nil; at = r.line.Front() {
		s := at.Value.(*standing)
		if r.taken+s.size > r.most {
			return
		}
		r.taken += s.size
		r.line.Remove(at)
		close(s.in)
	}
}

// enter waits until there is room for what a call copies. One that memory takes does not stand
// behind those who wait for the log.
func (e *writer) enter(ctx context.Context, c *call, size int64) error {
	r := &e.room
	if e.forL3(c) {
		r = &e.asking
	}
	if !r.take(size) {
		if r == &e.room && c.d == Buffered && e.queue.Takes(size) {
			return nil
		}
		if err := e.pressure.Allow(ctx); err != nil {
			return err
		}
		if err := r.wait(ctx, size); err != nil {
			return err
		}
	}
	c.room, c.in = size, r
	return nil
}

// forL3 reports whether L3 decides a call, before its ops are known.
func (e *writer) forL3(c *call) bool { return e.decided(c) && !e.archive.Private() }

// enterLate is enter for a call whose ops were copied already.
func (e *writer) enterLate(ctx context.Context, c *call) error {
	if c.room != 0 {
		return nil
	}
	return e.enter(ctx, c, sizeOf(c.ops))
}

// leave gives back what room a call has, if there still is one.
func (e *writer) leave(c *call) {
	if c != nil && c.room != 0 {
		c.in.give(c.handOver())
	}
}

// leaveLog is leave for a call that does not go into the log, as it seemed.
func (e *writer) leaveLog(c *call) {
	if c.in == &e.room {
		e.leave(c)
	}
}

// handOver returns the room of a call for another one to give back.
func (c *call) handOver() (room int64) {
	room, c.room = c.room, 0
	return room
}

// newCall is a call for n ops that are still to be copied, of that size.
func (e *writer) newCall(ctx context.Context, o *writeOptions, n int, size int64) (*call, error) {
	c := o.call(n)
	return c, e.enter(ctx, c, size)
}

// roomFor is what the copy of an item takes.
func roomFor(it *Item) int64 { return int64(len(it.ID)+len(it.Content)) + entryOverhead }
