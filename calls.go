package syncengine

// calls.go is the only way to a server: every call to L2 and L3 goes through its breaker,
// with its timeout, and is counted.

import (
	"context"
	"errors"
	"time"
)

// call2 calls L2 once: a cache that does not answer is not worth a second try.
func (e *Engine) call2(ctx context.Context, op string, fn func(context.Context) error) error {
	start := time.Now()
	err := e.cb2.do(ctx, e.cfg.L2Timeout, fn)
	e.meters.call("l2", op, start, err)
	return err
}

// call3 calls L3; with again it repeats after an outage, on the query schedule, unless a
// try took the whole timeout: a server that hangs will hang again.
func (e *Engine) call3(ctx context.Context, op string, again bool, fn func(context.Context) error) error {
	once := func() error {
		if !e.l3Ready.Load() {
			return unavailable("L3", errors.New("not connected yet"))
		}
		start := time.Now()
		err := e.cb3.do(ctx, e.cfg.L3Timeout, fn)
		e.meters.call("l3", op, start, err)
		return err
	}
	if !again {
		return once()
	}
	start := time.Now()
	return retry(ctx, queryPreset, func() { e.retries.Add(1); start = time.Now() }, func(err error) bool {
		return isOutage(err) && time.Since(start) < e.cfg.L3Timeout && e.l3Ready.Load() && e.cb3.state() != "open"
	}, once)
}

// heads reads what L3 holds of ids.
func (e *Engine) heads(ctx context.Context, ids []string) (out []Meta, err error) {
	err = e.call3(ctx, "heads", true, func(ctx context.Context) (err error) {
		out, err = e.l3.Heads(ctx, ids)
		return err
	})
	return out, err
}
