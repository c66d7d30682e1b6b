package syncengine

// lifecycle.go ends an engine. The order matters: no new calls; the calls under way end;
// what is queued is flushed, what can't be is in the WAL; background loops end; the log
// ends after the last append; files and connections close; events end last.

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/syncengine-go/syncengine/internal/failpoint"
)

// Shutdown stops accepting calls, waits for those under way, flushes what is pending, and releases
// everything. What can't be flushed before ctx ends, or because L3 is away, stays in the WAL for
// the next Open, Buffered ops included: then the error is a *PendingError that says how many.
// Nothing is lost by closing, unless the WAL itself can't be written, which the error says then.
// Later calls wait for the first, until their own ctx ends, and return what it did.
//
// Shutdown awaits every goroutine, and Dir's disk. A store that ignores its context holds it up
// beyond ctx; an event function or a factory does not. A function given to Update, or
// PriorityFunc, that is still running when ctx ends can't be left behind, since what it returns
// would be written: Shutdown then returns an error that says so, and goes on in the background;
// another Shutdown waits for its end. So such a function must not call Shutdown or Close without
// need: they wait for it.
func (e *Engine) Shutdown(ctx context.Context) error {
	first, busy := e.door.Close()
	if !first {
		select {
		case <-e.closed: // whatever ctx says
			return e.closeErr
		default:
		}
		select {
		case <-e.closed:
			return e.closeErr
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	e.door.SpawnLast(func() {
		e.closeErr = e.shut(ctx, busy)
		close(e.closed)
	})
	select {
	case <-e.closed:
		return e.closeErr
	case <-ctx.Done():
	}
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	for {
		select {
		case <-e.closed: // soon, since nothing waits any more
			return e.closeErr
		case <-look.C:
			if e.door.UserRuns() {
				return fmt.Errorf("syncengine: closing goes on when the function given to Update, or PriorityFunc, returns: %w", ctx.Err())
			}
		}
	}
}

// Close is Shutdown bounded by Config.CloseTimeout. Called by an event function, which it waits
// for, it takes all of that.
func (e *Engine) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), e.cfg.CloseTimeout)
	defer cancel()
	return e.Shutdown(ctx)
}

// Flush waits until all ops accepted before the call are in L3. When L3 can't be written it
// returns ErrUnavailable after the attempt, and the ops stay pending. While an op that was
// accepted before the call is in quarantine it returns ErrRefused: the rest is in L3. When
// nothing is pending it does not look at ctx.
func (e *Engine) Flush(ctx context.Context) (err error) {
	if err := e.door.Enter(); err != nil {
		return err
	}
	defer e.door.Exit(ctx, &err)
	upTo, err := e.flush.FlushAll(ctx)
	if err == nil && e.bad.RefusedUpTo(upTo) {
		err = &RefusedError{Err: errors.New("ops are in quarantine, see Quarantined")}
	}
	return err
}

func (e *Engine) shut(ctx context.Context, busy bool) error {
	e.setState(StateShuttingDown)
	cause := e.door.AwaitCalls(ctx, busy)
	if cause == nil {
		_, cause = e.flush.FlushAll(ctx)
	}
	e.door.AwaitLoops()
	failpoint.Hit(failpoint.ShutdownFlushed)
	err := e.settle(cause)
	e.retire(ctx)
	e.wal.End()
	e.door.AwaitLog()
	err = errors.Join(err, e.closeStores(), e.wal.Close())
	e.setState(StateClosed)
	e.news.End(ctx)
	return err
}

// settle puts Buffered ops that were not flushed into the WAL and says how many ops stay
// behind (INV-12).
func (e *Engine) settle(cause error) error {
	var errs []error
	e.flush.LogRest()
	pending, _, _ := e.queue.Pending()
	lost := e.wal.Alone()
	if lost > 0 {
		errs = append(errs, unavailable("syncengine: the WAL could not be written, Buffered ops are lost",
			fmt.Errorf("%d ops: %w", lost, errors.Join(cause, errNotLogged))))
	}
	if pending > lost {
		errs = append(errs, &PendingError{Ops: pending - lost, Err: cause})
	} else if cause != nil && lost == 0 && !errors.Is(cause, ErrRefused) && !errors.Is(cause, ErrUnavailable) {
		errs = append(errs, cause) // an outage that has left nothing behind is over
	}
	return errors.Join(errs...)
}

// retire leaves L3 as the next engine likes it: with a snapshot of the filter, and without
// this engine's row. Without either it only takes a little longer to open.
func (e *Engine) retire(ctx context.Context) {
	if err := e.cache.Sure(context.WithoutCancel(ctx)); err != nil {
		e.news.Log().Warn("L2 will be compared at the next Open", "error", err)
	}
	if err := e.numbers.Close(context.WithoutCancel(ctx)); err != nil {
		e.news.Log().Warn("the next engine's versions begin a little later", "error", err)
	}
	if !e.archive.Ready() || ctx.Err() != nil || e.archive.Down() {
		return
	}
	_, _ = e.repair.Expire(ctx) // the next engine does what is left
	e.purgeTombstones(ctx)
	e.tail.End(ctx)
	e.trust.Leave(ctx)
}

var errNotLogged = errors.New("not logged")

func (e *Engine) closeStores() error {
	err := errors.Join(e.cache.Close(), e.archive.Close())
	if e.fileLock != nil {
		err = errors.Join(err, e.fileLock.Release())
	}
	e.news.Unregister()
	return err
}

// abandon undoes a failed open. An event function may wait for Open itself, so events are not
// awaited beyond ctx, nor beyond CloseTimeout when ctx has no end.
func (e *Engine) abandon(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, e.cfg.CloseTimeout)
	defer cancel()
	e.door.AwaitLoops()
	var err error
	if e.wal.IsOpen() {
		e.wal.End()
		e.door.AwaitLog()
		err = e.wal.Close()
	}
	err = errors.Join(err, e.closeStores())
	e.news.End(ctx)
	return err
}
