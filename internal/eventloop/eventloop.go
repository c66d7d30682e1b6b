// Package eventloop calls functions one at a time, in order, on the goroutine of Run. A sender
// never waits: calls queue up while a function is slow. What they hold is bounded, by bytes, and
// past that the newest are dropped and counted. There are three bounds: a caller that may tell the
// same with less asks whether there is room for all (Offer); else the call has more (Send); and
// what comes seldom, and nobody should miss, has the most (Tell).
package eventloop

import (
	"log/slog"
	"sync"
)

// The most bytes that calls hold that are queued, so that another one of its kind is.
const (
	mostOffered = 16 << 20
	mostSent    = 32 << 20
	mostTold    = 40 << 20
	overhead    = 256 // of each call
)

// Loop is a queue of calls. Make one with New.
type Loop struct {
	log   *slog.Logger
	wake  chan struct{} // cap 1: something is queued, or closed is set
	ended chan struct{} // closed when Run returns

	mu      sync.Mutex // guards the fields below
	queued  []call
	held    int // bytes, of those queued and the one that is being made
	dropped int
	closed  bool
}

type call struct {
	fn    func()
	bytes int
}

// New returns a loop that tells log of dropped calls and of panics.
func New(log *slog.Logger) *Loop {
	return &Loop{log: log, wake: make(chan struct{}, 1), ended: make(chan struct{})}
}

// Offer queues a call that holds so many bytes, or reports that they are too many now.
func (l *Loop) Offer(bytes int, fn func()) bool { return l.queue(bytes, mostOffered, fn) }

// Send queues a call that holds so many bytes.
func (l *Loop) Send(bytes int, fn func()) {
	if !l.queue(bytes, mostSent, fn) {
		l.drop()
	}
}

// Tell queues a call of a kind that comes seldom.
func (l *Loop) Tell(fn func()) {
	if !l.queue(0, mostTold, fn) {
		l.drop()
	}
}

func (l *Loop) queue(bytes, most int, fn func()) bool {
	bytes += overhead
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held+bytes > most {
		return false
	}
	l.held += bytes
	l.queued = append(l.queued, call{fn, bytes})
	l.signal()
	return true
}

func (l *Loop) drop() {
	l.mu.Lock()
	l.dropped++
	l.mu.Unlock()
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
		for i := range calls {
			c := calls[i]
			calls[i] = call{} // it may hold much
			l.protect(c.fn)
			l.mu.Lock()
			l.held -= c.bytes
			l.mu.Unlock()
		}
		if closed {
			return
		}
	}
}

func (l *Loop) protect(fn func()) {
	defer func() {
		if p := recover(); p != nil {
			l.log.Error("event function panicked", "panic", p)
		}
	}()
	fn()
}
