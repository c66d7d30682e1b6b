// Package eventloop calls functions one at a time, in order, on the goroutine of Run. A sender
// never waits: calls queue up while a function is slow, and past a limit the newest are dropped
// and counted.
package eventloop

import (
	"log/slog"
	"sync"
)

// most is how many calls may be queued.
const most = 10_000

// Loop is a queue of calls. Make one with New.
type Loop struct {
	log   *slog.Logger
	wake  chan struct{} // cap 1: something is queued, or closed is set
	ended chan struct{} // closed when Run returns

	mu      sync.Mutex // guards the fields below
	queued  []func()
	dropped int
	closed  bool
}

// New returns a loop that tells log of dropped calls and of panics.
func New(log *slog.Logger) *Loop {
	return &Loop{log: log, wake: make(chan struct{}, 1), ended: make(chan struct{})}
}

// Send queues a call.
func (l *Loop) Send(call func()) {
	l.mu.Lock()
	if len(l.queued) < most {
		l.queued = append(l.queued, call)
	} else {
		l.dropped++
	}
	l.mu.Unlock()
	l.signal()
}

func (l *Loop) signal() {
	select {
	case l.wake <- struct{}{}:
	default: // a signal is already pending
	}
}

// Close makes Run return after the calls that are queued.
func (l *Loop) Close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.signal()
}

// Ended is closed when Run has returned.
func (l *Loop) Ended() <-chan struct{} { return l.ended }

// Run makes the calls, until Close. A panic in one is logged.
func (l *Loop) Run() {
	defer close(l.ended)
	for range l.wake {
		l.mu.Lock()
		calls, dropped, closed := l.queued, l.dropped, l.closed
		l.queued, l.dropped = nil, 0
		l.mu.Unlock()
		if dropped > 0 {
			l.log.Warn("event functions are too slow", "dropped", dropped)
		}
		for _, call := range calls {
			l.protect(call)
		}
		if closed {
			return
		}
	}
}

func (l *Loop) protect(call func()) {
	defer func() {
		if p := recover(); p != nil {
			l.log.Error("event function panicked", "panic", p)
		}
	}()
	call()
}
