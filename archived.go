package syncengine

// archived.go is what an Archived call waits for after its op is logged: that L3 holds this op,
// or a later one of this engine. An op that L3 holds something higher of, by another engine, is
// submitted again above that while its caller waits: as a new op with a new version, since a
// renumbered one could overtake what came later. Without a caller it is superseded (INV-1).

import (
	"context"
	"errors"
	"fmt"
)

// awaitArchived waits until L3 holds a unit, or a later op of this engine. What it holds something
// higher of, by another engine, is submitted again, unless its caller has numbered it. The ids are
// watched.
func (e *writer) awaitArchived(ctx context.Context, w *waiter, numbered bool) error {
	for {
		v, err := e.flush.AwaitUnit(ctx, w)
		switch {
		case err != nil:
			return err
		case v.Refused != nil:
			return v.Refused
		case len(v.Lost) == 0:
			return nil
		}
		if numbered {
			e.Superseded(v.Lost)
			return fmt.Errorf("%w: item %q: version %d, L3 holds %d", ErrStaleVersion, v.Lost[0].Op.ID, v.Lost[0].Op.Version, v.Lost[0].Held.Version)
		}
		if w, err = e.again(ctx, v.Lost); err != nil {
			if !errors.Is(err, errOnItsWay) {
				e.Superseded(v.Lost) // nobody will see to them any more
			}
			return err
		}
		if w == nil {
			return nil // a later op of this engine is in L3
		}
	}
}

// errOnItsWay means that an op was submitted again, and goes on as an ordinary one: if it loses it
// is told of then.
var errOnItsWay = errors.New("syncengine: outranked in L3, submitted again, outcome unknown")

// again submits ops anew, above what L3 holds, and waits for the log. If a later op of this
// engine stands for one of them, that is left to it: nil when all are.
func (e *writer) again(ctx context.Context, lost []lostOp) (w *waiter, err error) {
	for lost = e.numbers.StillLost(lost); len(lost) > 0; lost = e.numbers.StillLost(lost) {
		of := make(map[*entry]*lostOp, len(lost))
		ops := make([]*entry, len(lost))
		for i := range lost {
			l := &lost[i]
			if err := e.numbers.Settle(ctx, itemOf(l.Op.ID)); err != nil { // a later op may be on its way
				return nil, err
			}
			rec := l.Op
			rec.Version = 0
			ops[i] = newEntry(&rec)
			of[ops[i]] = l
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if err := e.pressure.Reserve(ops); err != nil {
			return nil, err
		}
		logged := make(chan error, 1)
		w, err = e.numbers.StartLog(ops, Archived, func(op *entry) (*entry, error) { return nil, e.numbers.Above(op, of[op]) }, func(err error) { logged <- err })
		if err == nil {
			select {
			case err = <-logged:
				return w, err
			case <-ctx.Done(): // it goes on by itself, as an ordinary op
				w.Leave()
				e.door.Stay(func() { <-logged })
				return nil, fmt.Errorf("%w: %w", errOnItsWay, ctx.Err())
			}
		}
		if !errors.Is(err, errNewer) {
			return nil, err
		}
		if _, err := e.flush.FlushAll(ctx); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// Superseded counts ops that L3 holds something higher of, by another engine, and tells the user.
func (e *writer) Superseded(lost []lostOp) {
	e.news.Superseded(len(lost), func(i int) SupersededOp {
		l := &lost[i]
		op := SupersededOp{ID: itemOf(l.Op.ID), Version: l.Op.Version, Deleted: l.Op.Deleted, By: l.Held.Version, ByDelete: l.Held.Deleted}
		if !l.Op.Deleted {
			op.Content = l.Op.Content
		}
		return op
	})
}
