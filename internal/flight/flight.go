// Package flight lets callers that want the same thing share one call that finds it.
// golang.org/x/sync/singleflight does the like, but here a call is joined only by those who could
// have begun it: each caller brings a stamp, and one that has seen something newer than a call
// under way begins its own.
//
// A call ends by itself, not with a caller: one that leaves gives up only its own wait.
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
	stamp uint64
	done  chan struct{}
	v     V // valid once done is closed
	err   error
}

// Do returns the result of fn for a key. It joins the newest call under way if that has the same
// stamp; else it begins one by spawn, which starts a goroutine. A panic of fn is an error. When ctx
// ends first, its error is returned, and the call goes on.
func (g *Group[K, V]) Do(ctx context.Context, key K, stamp uint64, spawn func(func()), fn func() (V, error)) (V, error) {
	g.mu.Lock()
	c, ok := g.m[key]
	if !ok || c.stamp != stamp {
		c = &call[V]{stamp: stamp, done: make(chan struct{}), err: ErrGone}
		if g.m == nil {
			g.m = make(map[K]*call[V])
		}
		g.m[key] = c
		spawn(func() { g.fly(key, c, fn) })
	}
	g.mu.Unlock()
	select {
	case <-c.done:
		return c.v, c.err
	case <-ctx.Done():
		var none V
		return none, ctx.Err()
	}
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
