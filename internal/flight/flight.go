// Package flight lets callers that want the same thing share one call that finds it.
// golang.org/x/sync/singleflight does the like, but here a call is joined only by those who could
// have begun it: each caller brings a stamp, and one that has seen something newer than a call
// under way begins its own.
//
// A call ends by itself, not with a caller: one that leaves gives up only its own wait. Only one
// that a caller makes itself, without a goroutine, ends with it: others that wait begin anew then.
package flight

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// ErrGone is the result of a call that ended its goroutine (runtime.Goexit).
var ErrGone = errors.New("the call ended its goroutine")

// Group holds the calls under way, by key. The zero value is ready.
type Group[K comparable, V any] struct {
	mu sync.Mutex // guards m
	m  map[K]*call[V]
}

type call[V any] struct {
	stamp  uint64
	caller context.Context // of the one that makes the call itself; nil: a goroutine does
	done   chan struct{}
	v      V // valid once done is closed
	err    error
}

// Do returns the result of fn for a key. It joins the newest call under way if that has the same
// stamp; else it begins one by spawn, which starts a goroutine, or, if that is nil, makes it
// itself: fn has to end with ctx then. A panic of fn is an error. When ctx ends first, its error is
// returned, and a call in a goroutine goes on.
func (g *Group[K, V]) Do(ctx context.Context, key K, stamp uint64, spawn func(func()), fn func() (V, error)) (V, error) {
	for {
		c, begins := g.join(ctx, key, stamp, spawn == nil)
		switch {
		case begins && spawn == nil:
			g.fly(key, c, fn)
			return c.v, c.err
		case begins:
			spawn(func() { g.fly(key, c, fn) })
		}
		select {
		case <-c.done:
			if c.caller != nil && c.err != nil && c.caller.Err() != nil { // that one has left
				continue
			}
			return c.v, c.err
		case <-ctx.Done():
			var none V
			return none, ctx.Err()
		}
	}
}

// join returns the call under way that a caller takes part in, or is to begin.
func (g *Group[K, V]) join(ctx context.Context, key K, stamp uint64, itself bool) (c *call[V], begins bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if c = g.m[key]; c != nil && c.stamp == stamp {
		return c, false
	}
	c = &call[V]{stamp: stamp, done: make(chan struct{}), err: ErrGone}
	if itself {
		c.caller = ctx
	}
	if g.m == nil {
		g.m = make(map[K]*call[V])
	}
	g.m[key] = c
	return c, true
}

func (g *Group[K, V]) fly(key K, c *call[V], fn func() (V, error)) {
	defer func() {
		if p := recover(); p != nil {
			c.err = fmt.Errorf("panic: %v", p)
		}
		g.mu.Lock()
		if g.m[key] == c { // else a newer call has taken its place
			delete(g.m, key)
		}
		g.mu.Unlock()
		close(c.done)
	}()
	c.v, c.err = fn()
}
