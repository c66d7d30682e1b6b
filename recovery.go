package syncengine

// recovery.go is the startup sequence:
//
//	Connecting    the WAL is opened; L3 is asked, with retries
//	DrainingWAL   what the WAL holds becomes readable; the flusher starts to drain it
//	SyncingRedis  whether L2 missed writes is known
//	WarmingUp     (the filter)
//	Ready         reads and writes are right
//	Running
//
// The drain itself goes on in the background: what is still in the WAL is read from there.
// When L3 does not answer, the engine comes up all the same, and the flusher goes on asking.

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/syncengine-go/syncengine/internal/failpoint"
)

func (e *Engine) recover(ctx context.Context) error {
	start := time.Now()
	e.trust.Meet()
	err := onStartup.Retry(ctx, e.news.Retried,
		// Not after a wrong password or a newer schema; and a server that hangs will hang again.
		func(err error) bool { return errors.Is(err, ErrUnavailable) && time.Since(start) < e.cfg.L3Timeout },
		func() error { return e.archive.Prepare(ctx) })
	switch {
	case ctx.Err() != nil:
		return says(fmt.Errorf("open: %w", errors.Join(ctx.Err(), err)))
	case err != nil && !errors.Is(err, ErrUnavailable):
		return says(fmt.Errorf("open: %w", err))
	case err != nil:
		e.archive.Fail(unavailable("L3", err))
	}
	e.setState(StateDrainingWAL)
	if err := e.bad.Load(ctx); err != nil {
		return err
	}
	if err := e.indexWAL(ctx); err != nil {
		return err
	}
	if crdtBuilt {
		if mine, err := e.numbers.ClaimNode(ctx, e.archive.ClaimNode); !mine {
			e.news.Log().Info("Dir may be a copy: its merges go on under another node's name", "error", err)
		}
	}
	failpoint.Hit(failpoint.WALIndexed)
	e.setState(StateSyncingRedis)
	where := ""
	if e.cache.On() {
		where = "L2 " + e.cfg.KeyPrefix
	}
	if err := e.cache.Succeed(ctx, where); err != nil {
		return err
	}
	if e.cache.On() {
		if err := e.cache.Load(ctx); err != nil {
			return err
		}
		if err := e.cache.Claim(ctx, e.archive.Identity()); errors.Is(err, ErrSetup) {
			return says(fmt.Errorf("open: %w", err))
		}
	}
	e.setState(StateWarmingUp)
	if err := e.trust.Load(ctx); err != nil {
		return says(fmt.Errorf("open: %w", err))
	}
	if e.tail.On() {
		e.tail.Begin(ctx)
	}
	if e.cache.On() { // not before it is known who else writes
		e.door.Spawn("l2 repair", func() { e.verifier.RunRepair(e.door.Context()) })
		if e.cfg.VerifyInterval > 0 {
			e.door.Spawn("l2 verify", func() { e.verifier.Run(e.door.Context()) })
		}
		e.door.Spawn("l2 promote", func() { e.repair.Run(e.door.Context()) })
	}
	e.door.Spawn("fleet", func() { e.trust.KeepFleet(e.door.Context()) })
	if e.push.On() {
		e.door.Spawn("push", func() { e.push.Run(e.door.Context()) })
		e.door.Spawn("listen", func() { e.push.Listen(e.door.Context()) })
	}
	if e.tail.On() {
		e.door.Spawn("tail", func() { e.tail.Run(e.door.Context()) })
	}
	e.door.Spawn("filter", func() { e.trust.KeepFilter(e.door.Context()) })
	e.door.Spawn("conditions", func() { e.writer.Decide(e.door.Context()) })
	if crdtBuilt && e.archive.Compacts() {
		e.door.Spawn("compaction", func() { e.compact.Run(e.door.Context()) })
	}
	e.door.Spawn("flusher", func() { e.flush.Run(e.door.Context()) })
	e.door.Spawn("housekeeping", func() { e.housekeep(e.door.Context()) })
	e.door.Spawn("expiry", func() { e.expire(e.door.Context()) })
	e.door.Spawn("l3 watch", func() { e.watchL3(e.door.Context()) })
	e.setState(StateReady)
	e.setState(StateRunning)
	failpoint.Hit(failpoint.Recovered)
	return nil
}

// indexWAL makes what the WAL holds readable, and starts the queue with it.
func (e *Engine) indexWAL(ctx context.Context) error {
	if err := e.numbers.Load(ctx); err != nil {
		return err
	}
	l, err := e.wal.Recover(ctx, e.l1.Hash, e.bad.WasDiscarded)
	if err == nil && !crdtBuilt && e.wal.AnySpooledMerge() {
		err = mergesNotBuilt("open: the WAL") // L3 would refuse them
	}
	if err == nil {
		err = e.home.Load(ctx, &e.cfg, l.Last != 0 || e.bad.Any(), e.archive.Identity())
		e.archive.Admit(e.home.Check)
	}
	if err != nil || l.Last == 0 {
		return err
	}
	e.queue.Restore(l.Ops, l.First, l.Last, l.Oldest)
	e.news.Log().Info("draining what an earlier engine left in the WAL", "ops", l.Ops)
	return nil
}
