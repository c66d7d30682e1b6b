package syncengine

// l3prepare.go is how L3 becomes one that can be used: it is connected, its schema brought up to
// date, and it is looked at whether it is the right database, what time it is there, and whether it
// takes writes. Until that has succeeded once, nothing else is asked of it (Ready).
//
// One goroutine while L3 is prepared: whoever wants it prepared waits for that.

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// preparing is L3 being prepared, once at a time.
type preparing struct {
	mu  sync.Mutex
	run *prepareRun // nil: it is not
}

// prepareRun is one time. err is valid when done is closed.
type prepareRun struct {
	done chan struct{}
	err  error
}

// Prepare connects L3 and brings its schema up to date. That goes on when nobody waits for it any
// more, for L3Timeout or until ctx ends: to make or alter tables may take longer than any one call,
// and to begin anew each time would lead nowhere.
func (a *archive) Prepare(ctx context.Context) error { return a.Probe(ctx, a.awaitPrepared) }

// awaitPrepared is Prepare without a bound of its own.
func (a *archive) awaitPrepared(ctx context.Context) error {
	run := a.joinPrepare()
	select {
	case <-run.done:
		return run.err
	case <-ctx.Done():
		return unavailable("L3", fmt.Errorf("connecting: %w", ctx.Err()))
	}
}

// joinPrepare returns the run under way, or begins one.
func (a *archive) joinPrepare() *prepareRun {
	p := &a.preparing
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.run != nil {
		return p.run
	}
	run := &prepareRun{done: make(chan struct{}), err: unavailable("L3", errors.New("connecting was given up"))}
	p.run = run
	a.InBackground("prepare", func(ctx context.Context) {
		defer func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.run = nil
			close(run.done)
		}()
		run.err = a.prepare(ctx)
	})
	return run
}

func (a *archive) prepare(ctx context.Context) (err error) {
	first := !a.Ready()
	if s, ok := a.store.(interface {
		PrepareInSteps(ctx context.Context, each time.Duration) error
	}); ok {
		err = s.PrepareInSteps(ctx, a.Timeout)
	} else {
		err = a.Probe(ctx, a.store.Prepare)
	}
	if err == nil && a.admit != nil {
		err = a.Probe(ctx, func(ctx context.Context) error { return a.admit(ctx, a.Identity()) })
	}
	if err == nil && a.hear != nil {
		err = a.Probe(ctx, a.hear)
	}
	if err != nil {
		return err
	}
	a.change(nil, func(s *l3State) { s.prepared = true })
	if first { // nothing may be written for long, and Health is about writes
		a.tried(a.writable(ctx))
	}
	return nil
}

// writable reports why L3 takes no writes, as far as can be seen without one.
func (a *archive) writable(ctx context.Context) error {
	w, ok := a.store.(interface{ Writable(context.Context) error })
	if !ok {
		return nil
	}
	return a.Probe(ctx, w.Writable)
}

// Look is the question whether L3 is back. A yes closes the breaker.
func (a *archive) Look(ctx context.Context) error {
	if err := a.Prepare(ctx); err != nil {
		return err
	}
	if a.state.Load().cause != nil {
		if err := a.writable(ctx); err != nil {
			return err
		}
	}
	a.Reset()
	a.change(nil, func(s *l3State) { s.down = false })
	return nil
}

// Ready reports whether Prepare has succeeded once.
func (a *archive) Ready() bool { return a.state.Load().prepared }

// Identity is that of the database, "" while it is not known, or the store has none.
func (a *archive) Identity() string {
	if x, ok := a.store.(interface{ Identity() string }); ok {
		return x.Identity()
	}
	return ""
}

// Admit makes fn, which is told the identity of L3, decide whether it is the right one, from now on
// before L3 is used. It is called once.
func (a *archive) Admit(fn func(ctx context.Context, identity string) error) { a.admit = fn }

// Hear makes fn learn L3's time, from now on before L3 is used: what has expired goes by it. It is
// called once.
func (a *archive) Hear(fn func(ctx context.Context) error) { a.hear = fn }
