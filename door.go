package syncengine

// door.go lets calls in and out, and starts goroutines. It knows when the engine closes: no call
// enters any more; those under way are awaited, as long as a context allows; what they wait for
// ends with the background context; and the goroutines are awaited.
//
// The one go statement of the library stands here.

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// door is the department of calls and goroutines.
type door struct {
	bg     context.Context // ends when background work must stop
	stop   context.CancelFunc
	closes context.Context // ends when no call enters any more
	close  context.CancelFunc
	cut    context.Context // ends when calls under way are cut off
	cutOff context.CancelFunc
	loops  sync.WaitGroup // goroutines that end when bg does
	log    sync.WaitGroup // the log's loop, which outlives them
	last   sync.WaitGroup // the event loop and Shutdown itself, which end last
	closed atomic.Bool    // reads of memory look here
	inUser atomic.Int64   // functions of the user's that a call is in, and that know no context
	work   chan func()    // to an idle goroutine of Work
	rested atomic.Int64   // how many of those there are

	mu      sync.Mutex    // guards the two below
	closing bool          // no new calls
	calls   int           // public calls under way, but for L1 hits
	idle    chan struct{} // cap 1: calls has become 0 while closing
}

func newDoor() *door {
	d := &door{idle: make(chan struct{}, 1), work: make(chan func())}
	d.bg, d.stop = context.WithCancel(context.Background())
	d.closes, d.close = context.WithCancel(context.Background())
	d.cut, d.cutOff = context.WithCancel(context.Background())
	return d
}

// Enter begins a public call. Every nil result must be followed by Exit, or Leave.
func (d *door) Enter() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closing {
		return ErrClosed
	}
	d.calls++
	return nil
}

// Leave ends a call.
func (d *door) Leave() {
	d.mu.Lock()
	d.calls--
	last := d.closing && d.calls == 0
	d.mu.Unlock()
	if last {
		select {
		case d.idle <- struct{}{}:
		default: // one signal is enough
		}
	}
}

// Exit is Leave for a call with the error err. One that comes from the end of the engine, not of
// the caller's context, is ErrClosed: what the call asked for was cut off.
func (d *door) Exit(ctx context.Context, err *error) {
	d.Leave()
	if *err == nil || d.bg.Err() == nil || ctx.Err() != nil || errors.Is(*err, ErrClosed) {
		return
	}
	switch {
	case errors.Is(*err, ErrUnknownOutcome):
		*err = says(fmt.Errorf("%w: %w", ErrClosed, ErrUnknownOutcome))
	case errors.Is(*err, context.Canceled), errors.Is(*err, ErrUnavailable):
		*err = ErrClosed
	}
}

// Stay makes a call count as under way until what it leaves behind has ended: Shutdown flushes
// only then.
func (d *door) Stay(ended func()) {
	d.mu.Lock()
	d.calls++
	d.mu.Unlock()
	d.Spawn("left behind", func() {
		ended()
		d.Leave()
	})
}

// EnterUser and LeaveUser stand around a function of the user's that knows no context. Shutdown
// does not wait for it longer than its own allows.
func (d *door) EnterUser() { d.inUser.Add(1) }
func (d *door) LeaveUser() { d.inUser.Add(-1) }

// UserRuns reports whether such a function is running.
func (d *door) UserRuns() bool { return d.inUser.Load() > 0 }

// Closed reports whether the engine is closing, or closed.
func (d *door) Closed() bool { return d.closed.Load() }

// Close lets no more calls in. It reports whether it is the first, and whether calls are under way.
func (d *door) Close() (first, busy bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	first, d.closing = !d.closing, true
	d.closed.Store(true)
	d.close()
	return first, d.calls > 0
}

// AwaitCalls waits for the calls under way. When ctx ends they are cut off: background work is
// stopped, which ends what they wait for, and so do calls to servers.
func (d *door) AwaitCalls(ctx context.Context, busy bool) error {
	if !busy {
		return nil
	}
	select {
	case <-d.idle:
		return nil
	case <-ctx.Done():
	}
	d.stop()
	d.cutOff()
	<-d.idle
	return ctx.Err()
}

// AwaitLoops stops background work and waits for its end.
func (d *door) AwaitLoops() {
	d.stop()
	d.loops.Wait()
}

// AwaitLog waits for the log's loop.
func (d *door) AwaitLog() { d.log.Wait() }

// Context is that of background work.
func (d *door) Context() context.Context { return d.bg }

// Background returns a context that ends when background work does, with the values of a caller's.
func (d *door) Background(values context.Context) context.Context {
	return valued{d.bg, context.WithoutCancel(values)}
}

// Until returns a context that ends when background work does, too.
func (d *door) Until(ctx context.Context) (context.Context, func()) { return until(ctx, d.bg) }

// UntilClosing returns a context that ends when the engine begins to close, too.
func (d *door) UntilClosing(ctx context.Context) (context.Context, func()) {
	return until(ctx, d.closes)
}

// Cut returns a context that ends when calls are cut off, too.
func (d *door) Cut(ctx context.Context) (context.Context, func()) {
	if v, ok := ctx.(valued); ok && v.Context == d.bg {
		return ctx, func() {} // background work ends first, see AwaitCalls
	}
	return until(ctx, d.cut)
}

func until(ctx, end context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(end, cancel)
	return ctx, func() { stop(); cancel() }
}

// Spawn starts a goroutine that ends when background work does. It is called while the engine is
// open: by Open or Shutdown, or within a public call, which Shutdown awaits first.
func (d *door) Spawn(_ string, fn func()) { goIn(&d.loops, fn) }

// Work is Spawn for what is short and comes often. It takes a goroutine that has done such work
// before, if one is idle: growing the stack of a new one to what calls to a server need costs a
// fifth of a read from Redis.
func (d *door) Work(fn func()) {
	select {
	case d.work <- fn:
		return
	default:
	}
	d.Spawn("work", func() {
		for fn != nil {
			fn()
			fn = nil // it may hold what a caller gave, for as long as this waits
			fn = d.nextWork()
		}
	})
}

// restedMost is how many goroutines stay for more work.
const restedMost = 64

// nextWork waits for work. nil: the goroutine is not needed any more.
func (d *door) nextWork() (fn func()) {
	defer d.rested.Add(-1)
	if d.rested.Add(1) > restedMost {
		return nil
	}
	select {
	case fn = <-d.work:
	case <-d.bg.Done():
	}
	return fn
}

// SpawnLog starts the log's loop, and SpawnLast what ends last.
func (d *door) SpawnLog(fn func())  { goIn(&d.log, fn) }
func (d *door) SpawnLast(fn func()) { goIn(&d.last, fn) }

// goIn starts fn as part of a group.
func goIn(wg *sync.WaitGroup, fn func()) {
	wg.Add(1)
	go func() {
		defer wg.Done()
		fn()
	}()
}

// sleep waits for a time, or until ctx ends: then it returns its error.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// valued has the end of one context and the values of two.
type valued struct {
	context.Context
	values context.Context
}

// Value asks values first. Package context asks it, too, for the parent that cancels: values, made
// by WithoutCancel, don't name theirs, so that it gets the embedded one.
func (v valued) Value(key any) any {
	if value := v.values.Value(key); value != nil {
		return value
	}
	return v.Context.Value(key)
}
