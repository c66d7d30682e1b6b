package syncengine

// flight.go lets callers that miss the same id share one load. x/sync/singleflight does
// the like, but a caller here must not join a load that began before a write it has
// already seen acknowledged (INV-2), and the goroutine must come through the engine's
// door.
//
// A load ends with the engine, not with a caller: one that leaves cancels only itself. Of its
// first caller it has the context's values, so that a trace shows what the load asks.

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// flights holds the loads under way, by id.
type flights struct {
	mu sync.Mutex // guards m
	m  map[string]*flight
}

type flight struct {
	stamp uint64 // write count of the id when the load began, see l1.stamp
	done  chan struct{}
	rec   Record // valid once done is closed
	err   error
}

// do returns the result of load for id, joining a load under way if no write came between.
// spawn starts a goroutine.
func (f *flights) do(ctx context.Context, id string, stamp uint64, spawn func(string, func()), load func() (Record, error)) (Record, error) {
	f.mu.Lock()
	fl, ok := f.m[id]
	if !ok || fl.stamp != stamp {
		fl = &flight{stamp: stamp, done: make(chan struct{})}
		if f.m == nil {
			f.m = make(map[string]*flight)
		}
		f.m[id] = fl
		spawn("load", func() { f.fly(id, fl, load) })
	}
	f.mu.Unlock()
	select {
	case <-fl.done:
		return fl.rec, fl.err
	case <-ctx.Done():
		return Record{}, ctx.Err()
	}
}

func (f *flights) fly(id string, fl *flight, load func() (Record, error)) {
	landed := false
	defer func() {
		if p := recover(); p != nil {
			fl.err = fmt.Errorf("syncengine: panic while loading: %v", p)
		} else if !landed { // runtime.Goexit in a factory
			fl.err = errors.New("syncengine: the factory ended its goroutine")
		}
		f.mu.Lock()
		if f.m[id] == fl {
			delete(f.m, id)
		}
		f.mu.Unlock()
		close(fl.done)
	}()
	fl.rec, fl.err = load()
	landed = true
}
