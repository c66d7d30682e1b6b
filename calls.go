package syncengine

// calls.go is the only way to a server: every call to L2 and L3 goes through its breaker,
// with its timeout, and is counted.

import (
	"context"
	"errors"
	"math"
	"time"
)

// call2 calls L2 once: a cache that does not answer is not worth a second try.
func (e *Engine) call2(ctx context.Context, op string, fn func(context.Context) error) error {
	start := time.Now()
	err := e.cb2.do(ctx, e.cfg.L2Timeout, fn)
	e.news.Call("l2", op, start, err)
	return err
}

// call3 calls L3; with again it repeats after an outage, on the query schedule, unless a
// try took the whole timeout: a server that hangs will hang again.
func (e *Engine) call3(ctx context.Context, op string, again bool, fn func(context.Context) error) error {
	return e.call3For(ctx, op, e.cfg.L3Timeout, again, fn)
}

// call3For is call3 with a timeout of its own.
func (e *Engine) call3For(ctx context.Context, op string, timeout time.Duration, again bool, fn func(context.Context) error) error {
	once := func() error {
		if !e.l3Ready.Load() {
			return unavailable("L3", errors.New("not connected yet"))
		}
		start := time.Now()
		err := e.cb3.do(ctx, timeout, fn)
		e.news.Call("l3", op, start, err)
		return err
	}
	if !again {
		return once()
	}
	start := time.Now()
	return retry(ctx, queryPreset, func() { e.news.Retried(); start = time.Now() }, func(err error) bool {
		return isOutage(err) && !errors.Is(err, errFenced) && !errors.Is(err, ErrUnknownOutcome) && time.Since(start) < e.cfg.L3Timeout && e.l3Ready.Load() && e.cb3.state() != "open"
	}, once)
}

// pass2 and pass3 are for passes over a whole tier: of many steps, each with a timeout of its
// own.
func (e *Engine) pass2(ctx context.Context, op string, fn func(context.Context) error) error {
	start := time.Now()
	err := e.cb2.do(ctx, verifyTime, fn)
	e.news.Call("l2", op, start, err)
	return err
}

func (e *Engine) pass3(ctx context.Context, op string, fn func(context.Context) error) error {
	start := time.Now()
	err := e.cb3.do(ctx, verifyTime, fn)
	e.news.Call("l3", op, start, err)
	return err
}

// heads reads what L3 holds of ids.
func (e *Engine) heads(ctx context.Context, ids []string) (out []Meta, err error) {
	err = e.call3(ctx, "heads", true, func(ctx context.Context) (err error) {
		out, err = e.l3.Heads(ctx, ids)
		return err
	})
	return out, err
}

// applyL3 writes records to L3 and returns the rows that compare above them. Other engines
// know of this one first (fleet.go), and the filter of the ids.
func (e *Engine) applyL3(ctx context.Context, recs []Record) (above []Meta, err error) {
	if err := e.fleet.join(ctx); err != nil {
		return nil, err
	}
	begun := e.filter.insert(recs, notBegun)
	defer func() { e.filter.insert(recs, begun) }()
	err = e.call3For(ctx, "apply", e.timeFor(recs), true, func(ctx context.Context) (err error) {
		above, err = e.l3.Apply(ctx, recs)
		return err
	})
	if errors.Is(err, errFenced) {
		e.fleet.fenced()
	}
	if err == nil {
		e.l3Cause.Store(nil)
	} else if isOutage(err) {
		e.l3Cause.CompareAndSwap(nil, &err) // the first: later ones may only say that the circuit is open
	}
	return above, err
}

// What a transaction may hold within one L3Timeout; it gets another one for as much again.
const (
	rowsPerTimeout  = 1000
	bytesPerTimeout = 4 << 20
)

// timeFor is how long a transaction over records may take: a large group must not be cut off for
// ever by a bound that is meant for servers that hang (INV-9).
func (e *Engine) timeFor(recs []Record) time.Duration {
	var bytes int64
	for i := range recs {
		bytes += int64(len(recs[i].ID) + len(recs[i].Content))
	}
	times := 1 + time.Duration(max(0, len(recs)-1)/rowsPerTimeout) + time.Duration(max(0, bytes-1)/bytesPerTimeout)
	if t := e.cfg.L3Timeout * times; t/times == e.cfg.L3Timeout {
		return t
	}
	return e.cfg.L3Timeout // so long that it makes no difference
}

// notBegun is no value of filter.begun.
const notBegun = math.MaxUint64
