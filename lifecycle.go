package syncengine

// lifecycle.go ends an engine. The order matters: no new calls; the calls under way end;
// what is queued is flushed, what can't be is in the WAL; background loops end; the log
// ends after the last append; files and connections close; events end last.

import (
	"context"
	"errors"
)

// Shutdown stops accepting calls, waits for those under way, flushes what is pending, and
// releases everything. What can't be flushed before ctx ends, or because L3 is away, stays
// in the WAL for the next Open, Buffered ops included: then the error is a *PendingError
// that says how many. Nothing is lost by closing. Later calls return what the first did.
func (e *Engine) Shutdown(ctx context.Context) error {
	first := false
	e.shutdown.Do(func() {
		first = true
		e.closeErr = e.shut(ctx)
		close(e.closed)
	})
	if !first {
		select {
		case <-e.closed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return e.closeErr
}

// Close is Shutdown bounded by Config.CloseTimeout.
func (e *Engine) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), e.cfg.CloseTimeout)
	defer cancel()
	return e.Shutdown(ctx)
}

// Flush waits until all ops accepted before the call are in L3. When L3 can't be written it
// returns ErrUnavailable after the attempt, and the ops stay pending; when L3 refused some
// of them, ErrRefused: those are in quarantine, the rest is in L3.
func (e *Engine) Flush(ctx context.Context) error {
	if err := e.enter(); err != nil {
		return err
	}
	defer e.leave()
	return e.flush.flushAll(ctx)
}

func (e *Engine) shut(ctx context.Context) error {
	e.callsMu.Lock()
	e.closing = true
	busy := e.calls > 0
	e.callsMu.Unlock()
	setBit(&e.gate, gateClosed, true)
	e.setState(StateShuttingDown)
	var cause error
	for busy { // calls under way are bounded by their contexts and by bg
		select {
		case <-e.idle:
			busy = false
		case <-ctx.Done():
			cause = ctx.Err()
			e.stop() // ends what they wait for
			<-e.idle
			busy = false
		}
	}
	if cause == nil {
		cause = e.flush.flushAll(ctx)
	}
	e.stop()
	e.wg.Wait()
	err := e.settle(cause)
	e.wal.log.Close()
	e.walWG.Wait()
	err = errors.Join(err, e.closeStores(), e.wal.log.CloseFiles())
	e.setState(StateClosed)
	e.endEvents()
	return err
}

// settle puts Buffered ops that were not flushed into the WAL and says how many ops stay
// behind.
func (e *Engine) settle(cause error) error {
	results := e.flush.logBuffered()
	var errs []error
	for range cap(results) {
		if err := <-results; err != nil {
			errs = append(errs, err)
		}
	}
	pending, _, _ := e.queue.pending()
	if pending > 0 {
		errs = append(errs, &PendingError{Ops: pending, Err: cause})
	} else if cause != nil && !errors.Is(cause, ErrRefused) {
		errs = append(errs, cause)
	}
	return errors.Join(errs...)
}

func (e *Engine) closeStores() error {
	var errs []error
	if e.l2 != nil {
		errs = append(errs, e.l2.Close())
	}
	if e.l3 != nil {
		errs = append(errs, e.l3.Close())
	}
	e.meters.unregister()
	return errors.Join(errs...)
}

func (e *Engine) endEvents() {
	e.events.close()
	e.lastWG.Wait()
}

// abandon undoes a failed open.
func (e *Engine) abandon() error {
	e.stop()
	e.wg.Wait()
	var err error
	if e.wal.log != nil {
		e.wal.log.Close()
		e.walWG.Wait()
		err = e.wal.log.CloseFiles()
	}
	err = errors.Join(err, e.closeStores())
	e.endEvents()
	return err
}
