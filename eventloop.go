package syncengine

// eventloop.go calls the user's event functions, one at a time, in order, outside all
// locks. A sender never waits: events queue up while a function is slow, and past
// maxEvents the newest are dropped and counted.

import (
	"log/slog"
	"sync"
)

const maxEvents = 10_000

type eventLoop struct {
	log   *slog.Logger
	wake  chan struct{} // cap 1: something is queued, or closed is set
	ended chan struct{} // closed when run returns

	mu      sync.Mutex // guards the fields below
	queued  []func()
	dropped int
	closed  bool
}

func newEventLoop(log *slog.Logger) *eventLoop {
	return &eventLoop{log: log, wake: make(chan struct{}, 1), ended: make(chan struct{})}
}

func (l *eventLoop) send(call func()) {
	l.mu.Lock()
	if len(l.queued) < maxEvents {
		l.queued = append(l.queued, call)
	} else {
		l.dropped++
	}
	l.mu.Unlock()
	l.signal()
}

func (l *eventLoop) signal() {
	select {
	case l.wake <- struct{}{}:
	default: // a signal is already pending
	}
}

// close makes run return after the events that are queued.
func (l *eventLoop) close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.signal()
}

func (l *eventLoop) run() {
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

func (l *eventLoop) protect(call func()) {
	defer func() {
		if p := recover(); p != nil {
			l.log.Error("event function panicked", "panic", p)
		}
	}()
	call()
}
