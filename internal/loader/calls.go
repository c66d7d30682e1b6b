package loader

import (
	"context"
	"sync/atomic"
)

// Calls shares calls: who asks for the same as the one under way, or as the last one that was kept,
// gets its answer. So a key has to say all that an answer depends on, and what a caller knows that
// it must not be older than. It is a Group of one stage whose loads don't wait for each other.
type Calls[K comparable, V any] struct {
	group Group[K, func() (V, error), V]
	last  atomic.Pointer[kept[K, V]] // nil for none
}

// kept is an answer.
type kept[K comparable, V any] struct {
	key K
	v   V
}

// NewCalls returns one that starts goroutines with spawn, and keeps the last answer that is no
// error if keep says so.
func NewCalls[K comparable, V any](spawn func(func()), keep func(V) bool) *Calls[K, V] {
	c := &Calls[K, V]{}
	ask := func(loads []*Load[K, func() (V, error), V]) {
		v, err := loads[0].About()
		if err == nil && keep(v) {
			c.last.Store(&kept[K, V]{loads[0].Key, v})
		}
		loads[0].Answer(v, err)
	}
	c.group.Spawn, c.group.Stages = spawn, []Stage[K, func() (V, error), V]{{Most: 1, Ask: ask}}
	return c
}

// Do returns the kept answer for a key if good says so, or what the call for it returns that is
// under way, or call. When ctx ends first, its error is returned, and the call goes on.
func (c *Calls[K, V]) Do(ctx context.Context, key K, good func(V) bool, call func() (V, error)) (V, error) {
	if last := c.last.Load(); last != nil && last.key == key && good(last.v) {
		return last.v, nil
	}
	return c.group.Do(ctx, key, 0, call, 0, false)
}
