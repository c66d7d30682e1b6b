package syncengine

// conditions.go decides writes that have a condition: Insert, WithIfVersion, IfUnchanged,
// Update, the write of GetOrInsertWith, and at Archived WithVersion (INV-14). They are decided
// where the truth is.
//
// # L3 is shared
//
// L3 decides, in the transaction that stores the op. So the op is not in the WAL before (nor
// after, but for what numbers.LogDecided is about), nobody sees it before L3 has it, and L3's
// commit is its durability. It gets its version under the order lock; what this engine has
// accepted of the id before lands first; then it is handed to a loop (decide.go) that puts all
// that wait into one transaction, each with a verdict of its own. One that holds but is numbered
// below the row (a tombstone, or a clock ahead of ours) gets a number above that and another round.
//
// A COMMIT whose reply was lost is resolved by asking L3 for the transaction's nonce
// (ConditionalStore.Landed). Only if that can't be asked the caller gets ErrUnknownOutcome.
//
// # L3 is this engine's own
//
// Nobody else writes, so the newest op of the id decides: what the tiers held before, and what
// any call has got a version for since (versions.go). The comparison is made under the order
// lock, without I/O; then the op is an op like any other, at the durability of the call. If it
// rests on an op whose commit is under way, the log takes it only together with that one.

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// writeIf is write for a call with conditions, or numbered by its caller at Archived.
func (e *writer) writeIf(ctx context.Context, c *call) error {
	if err := e.admitIf(ctx); err != nil {
		return err
	}
	e.noteViews(c)
	if e.asks(c) {
		return e.writeIfShared(ctx, c)
	}
	return e.writeIfAlone(ctx, c)
}

// admitIf is Admit for calls that L3 decides: they need no place in the WAL.
func (e *writer) admitIf(ctx context.Context) error {
	if err := e.pressure.Allow(ctx); err != nil {
		return err
	}
	return e.pressure.Slow(ctx)
}

// asks reports whether L3 decides a call that has to be decided.
func (e *writer) asks(c *call) bool { return !e.archive.Private() || c.merges() }

// writeIfAlone decides by what this engine knows.
func (e *writer) writeIfAlone(ctx context.Context, c *call) error {
	ids := idsOf(c.ops)
	for {
		at, err := e.watchTruth(ctx, ids)
		merging := slices.ContainsFunc(at, func(k known) bool { return k.Merging })
		if err == nil && !merging {
			err = e.logKnown(ctx, c, at)
		}
		e.numbers.Unwatch(ids)
		if err == nil && merging { // where merges with a condition are decided, too
			return e.writeIfShared(ctx, c)
		}
		if !errors.Is(err, errUnsettled) {
			return err
		}
		if err := e.numbers.Settle(ctx, ids...); err != nil {
			return err
		}
	}
}

// watchTruth watches ids and returns what they hold. Unwatch must follow, after an error, too.
func (e *writer) watchTruth(ctx context.Context, ids []string) ([]known, error) {
	failed := e.numbers.Watch(ids)
	if err := e.landMerges(ctx, ids); err != nil { // those that come later are seen
		return nil, err
	}
	recs, err := e.truth(ctx, ids)
	if err != nil {
		return nil, err
	}
	at := make([]known, len(ids))
	for i := range recs {
		at[i] = knownAs(&recs[i], failed[i])
	}
	return at, nil
}

// judge returns the assign of a call whose ids are watched.
func (e *writer) judge(c *call, at []known) func(*entry) (*entry, error) {
	next := 0 // ops are asked for in order
	return func(op *entry) (*entry, error) {
		i := next
		next++
		if c.want == nil {
			return e.numbers.Judge(op, &at[i], 0, true)
		}
		return e.numbers.Judge(op, &at[i], c.want[i], false)
	}
}

// logKnown decides a call whose ids are watched, and logs it or takes it into memory.
func (e *writer) logKnown(ctx context.Context, c *call, at []known) error {
	if err := e.enterLate(ctx, c); err != nil {
		return err
	}
	defer e.leave(c)
	if err := e.pressure.Reserve(c.ops); err != nil {
		return err
	}
	var err error
	var l *logging
	if assign := e.judge(c, at); c.d == Buffered && e.queue.Promise(sizeOf(c.ops)) {
		err = e.accept(c.ops, settled(assign))
	} else if l, err = e.log(c, assign); err == nil {
		err = e.await(ctx, l)
	}
	if errors.Is(err, errUnsettled) {
		c.renumber()
	}
	return err
}

// settled is an assign that rests on no op whose commit is under way.
func settled(assign func(*entry) (*entry, error)) func(*entry) error {
	return func(op *entry) error {
		on, err := assign(op)
		if err == nil && on != nil {
			err = errUnsettled
		}
		return err
	}
}

// renumber takes versions back that ops got in a round that decided nothing.
func (c *call) renumber() {
	if !c.numbered {
		for _, op := range c.ops {
			op.version = 0
		}
	}
}

// truth returns what ids hold: what L3 holds or what this engine has accepted, whichever is
// higher; of version 0 when that is nothing. Where L3 is this engine's own, it is asked only
// about ids of which memory and the WAL know nothing, or what an earlier engine has left. What L3
// says is promoted.
func (e *writer) truth(ctx context.Context, ids []string) ([]Record, error) {
	recs, _, err := e.truths(ctx, ids)
	return recs, err
}

// truths is truth that also tells what L3 holds, where it was asked.
func (e *writer) truths(ctx context.Context, ids []string) (out, inL3 []Record, err error) {
	out, inL3 = make([]Record, len(ids)), make([]Record, len(ids))
	stamps := make([]stamp, len(ids))
	var ask []string
	var at []int
	r := newReading(ids)
	for i, id := range ids {
		stamps[i] = e.l1.Stamp(id)
		ent, ok := e.l1.Get(id)
		if ok && (ent.pinned() || e.archive.Private()) {
			rec, err := e.flush.SoundRecord(ctx, ent)
			if err != nil {
				return nil, nil, err
			}
			out[i] = rec
		}
		waiting, askL3, err := e.bad.WaitingIn(ctx, r, id)
		if err != nil {
			return nil, nil, err
		}
		if waiting != nil {
			if rec := waiting.record(); out[i].Version == 0 || rec.Compare(&out[i]) > 0 {
				out[i] = rec
			}
		}
		if !ok {
			e.l1.Missed()
		}
		own := out[i].Version != 0 && !askL3
		if e.archive.Private() && (own || waiting == nil && !e.trust.MayContain(id)) {
			continue
		}
		ask, at = append(ask, id), append(at, i)
	}
	lapsed := func() ([]Record, []Record, error) {
		for i := range out {
			out[i].lapse(e.now)
			inL3[i].lapse(e.now)
		}
		return out, inL3, nil
	}
	if len(ask) == 0 {
		return lapsed()
	}
	found, err := e.archive.GetManyOnce(ctx, ask)
	if err != nil {
		return nil, nil, unavailableUnless(ctx, err)
	}
	for k := range found {
		rec, i := found[k].Record, at[k]
		if found[k].Err != nil {
			if rec, err = e.repair.HealedOr(ctx, ask[k], found[k].Err); err != nil {
				return nil, nil, err
			}
		}
		e.archive.Saw(rec.Version != 0, 1)
		inL3[i] = rec
		if rec.Version != 0 && (out[i].Version == 0 || rec.Compare(&out[i]) > 0) {
			e.reader.Promote(&rec, stamps[i], false) // to L2 goes what comes of it
			out[i] = rec
		}
	}
	return lapsed()
}

// writeIfShared lets L3 decide.
func (e *writer) writeIfShared(ctx context.Context, c *call) error {
	q, err := e.ask(ctx, c, 0)
	if err != nil {
		return err
	}
	return e.hear(ctx, c, q)
}

// ask puts a call, numbered above floor, before L3.
func (e *writer) ask(ctx context.Context, c *call, floor uint64) (*question, error) {
	q, err := e.askL3(ctx, c, floor)
	if err == nil {
		err = e.conditions.enqueue(q)
	}
	return q, err
}

// hear waits for what becomes of a call that was put before L3.
func (e *writer) hear(ctx context.Context, c *call, q *question) error {
	for {
		floor, err := e.answered(ctx, c, q)
		if err != nil || floor == 0 {
			return err
		}
		c.renumber()
		if q, err = e.ask(ctx, c, floor); err != nil {
			return err
		}
	}
}

// askL3 numbers a call above floor and makes a question of it, once L3 has what this engine
// has accepted of its ids before.
func (e *writer) askL3(ctx context.Context, c *call, floor uint64) (*question, error) {
	if !e.archive.Conditional() {
		return nil, &ConfigError{Field: "L3", Value: "(set)", Rule: "must be a ConditionalStore for writes with a condition"}
	}
	e.leaveLog(c)
	ids := itemsOf(c.ops)
	if err := e.numbers.Dots(c.ops); err != nil {
		return nil, err
	}
	if !c.numbered {
		if err := e.numbers.NumberAbove(c.ops, floor); err != nil {
			return nil, err
		}
	}
	if err := e.landOwn(ctx, ids); err != nil {
		return nil, err
	}
	if err := e.versionsOfViews(ctx, c); err != nil {
		return nil, err
	}
	q := &question{ops: c.ops, done: make(chan struct{})}
	for i, op := range c.ops {
		cond := Conditional{Record: op.record(), Always: c.want == nil}
		if c.want != nil {
			cond.IfVersion = c.want[i]
		}
		q.unit = append(q.unit, cond)
	}
	return q, nil
}

// landOwn waits until L3 has what this engine has accepted of ids.
func (e *writer) landOwn(ctx context.Context, ids []string) error {
	if err := e.numbers.Settle(ctx, ids...); err != nil {
		return err
	}
	if slices.ContainsFunc(ids, e.queue.Waits) {
		if _, err := e.flush.FlushAll(ctx); err != nil {
			return err
		}
	}
	for _, id := range ids {
		if e.bad.Has(id) {
			return &RefusedError{Err: fmt.Errorf("the last op of item %q is in quarantine", id)}
		}
	}
	return nil
}

// answered waits for the verdict and puts it into the words of a write. floor is not 0 when the
// condition holds and the call has to be numbered above it.
func (e *writer) answered(ctx context.Context, c *call, q *question) (floor uint64, err error) {
	select {
	case <-q.done:
	case <-ctx.Done():
		if q.stage.CompareAndSwap(stageWaiting, stageLeft) { // nobody else answers it now
			q.ops, q.unit = nil, nil      // it stays in line
			q.answer(Verdict{}, errAgain) // for those who built on it
			return 0, ctx.Err()
		}
		return 0, fmt.Errorf("%w: %w", ErrUnknownOutcome, ctx.Err())
	}
	if q.err != nil {
		return 0, q.err
	}
	op := c.ops[q.verdict.At]
	switch row := &q.verdict.Row; q.verdict.Decision {
	case DecidedConflict:
		have, judged := row.Version, func() time.Time { return q.unit[q.verdict.At].Now }
		if row.Deleted || row.expired(judged) {
			have = 0
		}
		return 0, &ConflictError{ID: op.item(), Want: c.want[q.verdict.At], Have: have}
	case DecidedOutranked:
		if c.numbered || row.Version == MaxVersion {
			return 0, staleError(op, row.Version)
		}
		return row.Version, nil
	}
	return 0, nil
}
