package syncengine

// retry.go is the engine's way into quarantine (quarantine.go), and the caller's way out of it:
// list, retry, discard.

import (
	"context"
	"errors"
	"math"
	"slices"
	"time"

	"github.com/syncengine-go/syncengine/internal/failpoint"
)

// refuse is the flusher's way into quarantine.
func (e *Engine) refuse(ctx context.Context, u *unit, why error) error {
	var re *RefusedError
	if errors.As(why, &re) {
		why = re.Err
	}
	at := time.Now().UnixNano() - e.queue.Now() + u.at
	added, err := e.bad.add(context.WithoutCancel(ctx), u, at, why)
	if err != nil || !added {
		return err
	}
	failpoint.Hit(failpoint.Quarantined)
	q := badUnit{at: at, attempts: attempts(u.ops()), err: why.Error(), ops: u.ops()}
	e.news.Quarantined(q.public())
	return nil
}

// decided is told what became of units in L3, before the queue lets go of them.
func (e *Engine) decided(ctx context.Context, units []unit, a *archived) error {
	for _, recs := range [][]Record{a.stored, a.losers} { // of either L3 holds it, or something higher
		if err := e.bad.Landed(ctx, recs); err != nil {
			return err
		}
	}
	return e.numbers.Decided(ctx, units, a)
}

// Quarantined lists the ops that L3 refuses, oldest first, read from the WAL file.
func (e *Engine) Quarantined(ctx context.Context) (ops []QuarantinedOp, err error) {
	if err := e.door.Enter(); err != nil {
		return nil, err
	}
	defer e.door.Exit(ctx, &err)
	units, err := e.bad.list(ctx)
	if err != nil {
		return nil, err
	}
	var out []QuarantinedOp
	for i := range units {
		out = append(out, units[i].public()...)
	}
	return out, nil
}

// RetryQuarantined puts quarantined ops back into the queue, as if submitted again with
// the same version: those of ids with their groups, or all without ids. It returns how many
// ops left quarantine, also with an error; they are in the WAL then, but for those that L3 holds
// something newer of, which are forgotten. An op that L3 refuses again comes back to quarantine.
// One whose content was changed in memory stays there: the error is a *CorruptionError. What
// another call retries or discards at the moment is left to that.
func (e *Engine) RetryQuarantined(ctx context.Context, ids ...string) (n int, err error) {
	if err := e.door.Enter(); err != nil {
		return 0, err
	}
	defer e.door.Exit(ctx, &err)
	rows := e.bad.claim(ids)
	defer e.bad.unclaim(rows) // those that left don't mind
	var damaged []error
	for _, r := range rows {
		if err := ctx.Err(); err != nil {
			return n, err
		}
		u, err := e.bad.read(ctx, r)
		if err != nil {
			return n, err
		}
		if u == nil { // it has landed meanwhile
			continue
		}
		if err := u.damaged(); err != nil {
			damaged = append(damaged, err)
			continue
		}
		if err := e.retryUnit(ctx, r, u); err != nil {
			return n, err
		}
		n += len(u.ops)
	}
	return n, errors.Join(damaged...)
}

// retryUnit logs a unit of the quarantine again and removes its row.
func (e *Engine) retryUnit(ctx context.Context, r *badRow, u *badUnit) error {
	left, err := e.notOutranked(ctx, u.ops)
	if err != nil {
		return err
	}
	if len(left) > 0 {
		for _, op := range left {
			op.attempts = uint8(min(u.attempts, math.MaxUint8))
		}
		if err := e.pressure.Reserve(left); err != nil {
			return err
		}
		e.bad.retrying(r)
		// From here on the outcome must be known.
		if err := e.logOps(context.WithoutCancel(ctx), left, Logged, keepVersion); err != nil {
			return err
		}
	}
	return e.bad.remove(context.WithoutCancel(ctx), r)
}

// keepVersion is an assign for ops that keep their versions, though something newer may have
// been written since.
func keepVersion(*entry) error { return nil }

// notOutranked returns the ops that L3 holds nothing higher of. The others were overtaken
// while they waited in quarantine: they would lose, and until then reads would answer with
// them.
func (e *Engine) notOutranked(ctx context.Context, ops []*entry) ([]*entry, error) {
	heads, err := e.archive.Heads(ctx, idsOf(ops))
	if err != nil {
		return nil, err
	}
	above := make(map[string]Record, len(heads))
	for _, h := range heads {
		above[h.ID] = h.record()
	}
	e.numbers.order.Lock()
	defer e.numbers.order.Unlock()
	return slices.DeleteFunc(slices.Clone(ops), func(op *entry) bool {
		if e.numbers.Newest(op.id()).version > op.version { // a later op of this engine, which waits or was refused
			return true
		}
		head, ok := above[op.id()]
		rec := op.record()
		return op.state.Load()&stateSuperseded != 0 || ok && head.Compare(&rec) > 0
	}), nil
}

// DiscardQuarantined forgets quarantined ops: those of ids with their groups, or all
// without ids; all of them or, with an error, none. Reads then answer with what L3 holds. It
// returns how many ops it removed. What another call retries or discards at the moment is left
// to that.
func (e *Engine) DiscardQuarantined(ctx context.Context, ids ...string) (n int, err error) {
	if err := e.door.Enter(); err != nil {
		return 0, err
	}
	defer e.door.Exit(ctx, &err)
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	rows := e.bad.claim(ids)
	if len(rows) == 0 {
		return 0, nil
	}
	defer e.bad.unclaim(rows)
	upTo, err := e.bad.discard(context.WithoutCancel(ctx), rows) // its outcome must be known
	if err != nil {
		return 0, err
	}
	n = 0
	hashes := make(map[string]uint64)
	for _, r := range rows {
		n += len(r.ops)
		for _, op := range r.ops {
			hashes[op.id] = e.l1.Hash(op.id)
			e.wal.DropDiscarded(e.l1.Hash(op.id), op.head.version, upTo) // the drain will skip it
			if ent, ok := e.l1.Peek(op.id); ok && ent.compare(op.head) == 0 {
				e.l1.Drop(ent)
			}
		}
	}
	if err := e.queue.Uncover(context.WithoutCancel(ctx), hashes, e.bad.WasDiscarded); err != nil {
		e.news.Log().Warn("what waits below a discarded op is not found until it lands", "error", err)
	}
	return n, nil
}
