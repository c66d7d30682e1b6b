package sqlkit

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// await calls fn, which waits for something that knows no context, and reports whether it has ended
// before ctx has. Else fn goes on in the background, and nobody awaits it: it waits for what is the
// caller's, a server's reply or other users of the caller's pool, and ends with that.
func await(ctx context.Context, fn func()) bool {
	done := make(chan struct{})
	go func() {
		defer close(done)
		fn()
	}()
	select {
	case <-done:
		return true
	case <-ctx.Done():
		return false
	}
}

// How long a reply is awaited when whoever asked has left, from the question on.
const (
	replyWait   = time.Second
	connectWait = 3 * time.Second // some eight replies
)

// question is the context of a read outside of transactions, in a pool of ours. When a context ends
// while the driver waits for a reply under it, the driver closes the connection, and the pool makes
// others one by one, some eight round trips each, which it hands to whoever waits. Callers with
// less patience than a round trip so left no connections to those who have more, and to the engine
// itself: its beats and flushes failed, on a server that had nothing. So the caller leaves, and the
// connection does not: it waits for the reply, for a while, and is then free for others.
//
// Until something is asked a question ends with the caller: nobody waits for a connection who is
// not there. So there are no more questions without callers than there are connections.
type question struct {
	context.Context // ends when the connection is to be closed
	cut             context.CancelFunc
	caller          context.Context
	stop            func() bool // ends that the caller's end is waited for

	mu       sync.Mutex
	left     bool      // the caller has
	answered bool      // what there is has been handed to the caller
	until    time.Time // how long the reply is awaited; zero: nothing has been asked
}

// patient is the key of a context in which nobody leaves but for a server that hangs.
type patient struct{}

// Patient returns a context for reads of several callers together: it ends with the timeout of the
// call, and then the connection may go. They need no goroutine of their own.
func Patient(ctx context.Context) context.Context { return context.WithValue(ctx, patient{}, true) }

// asked calls fn with a context that does not close the connection when ctx ends, and returns what
// it returns, or the error of ctx as soon as that ends: then drop gets what fn returns. Rows that
// are returned end with ctx. Where the pool is not ours, it calls fn with ctx.
func asked[T any](ctx context.Context, ours bool, fn func(context.Context) (T, error), drop func(T)) (T, error) {
	if !ours || ctx.Done() == nil || ctx.Err() != nil || ctx.Value(patient{}) != nil {
		return fn(ctx)
	}
	q := &question{caller: ctx}
	q.Context, q.cut = context.WithCancel(context.WithoutCancel(ctx))
	q.stop = context.AfterFunc(ctx, q.leave)
	var out T
	var err error
	if !await(ctx, func() {
		out, err = unpanicked(q, fn)
		if !q.answer() && err == nil {
			drop(out)
		}
	}) {
		q.leave()
	}
	if !q.isAnswered() {
		var none T
		return none, ctx.Err()
	}
	if err != nil {
		q.stop()
	}
	return out, err
}

// unpanicked calls fn, whose panic would end the process: it is in a goroutine of its own.
func unpanicked[T any](ctx context.Context, fn func(context.Context) (T, error)) (out T, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the driver panicked: %v", p)
		}
	}()
	return fn(ctx)
}

// ask says that something is about to be asked, under ctx, which need not be a question's. It is
// not if the caller has left.
func ask(ctx context.Context, wait time.Duration) error {
	q, ok := ctx.(*question)
	if !ok {
		return nil
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.left {
		return q.caller.Err()
	}
	q.until = time.Now().Add(wait)
	return nil
}

// answer hands what fn has returned to the caller, and reports whether it is there.
func (q *question) answer() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.answered = !q.left
	return q.answered
}

func (q *question) isAnswered() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.answered
}

// leave is what happens at the end of the caller's context.
func (q *question) leave() {
	q.mu.Lock()
	again, wait := q.left, time.Until(q.until)
	if q.answered {
		wait = 0 // the caller reads rows, or has read them
	}
	q.left = true
	q.mu.Unlock()
	switch {
	case again:
	case wait > 0:
		time.AfterFunc(wait, q.cut)
	default:
		q.cut()
	}
}

// Err is that of the caller's context: a timeout must not look as if the caller had cancelled.
func (q *question) Err() error {
	if q.Context.Err() == nil {
		return nil
	}
	return q.caller.Err()
}
