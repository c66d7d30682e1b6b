package syncengine

// conditions.go decides writes that have a condition: Insert, WithIfVersion, IfUnchanged,
// Update, the write of GetOrInsertWith, and at Archived WithVersion (INV-14). They are decided
// where the truth is.
//
// # L3 is shared
//
// L3 decides, in the transaction that stores the op. So the op is never in the WAL, nobody sees
// it before L3 has it, and L3's commit is its durability. It gets its version under the order
// lock; what this engine has accepted of the id before lands first; then it is handed to a loop
// that puts all that wait into one transaction, each with a verdict of its own. One that holds
// but is numbered below the row (a tombstone, or a clock ahead of ours) gets a number above
// that and another round.
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
	"sync"
	"sync/atomic"
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

// admitIf is Admit for calls that L3 decides: they need no room.
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
		waiting, askL3, err := e.bad.Waiting(ctx, id)
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

// conditions is what the loop "conditions" works on. That loop alone calls ApplyIf, one call at a
// time: the nonces of archive need no lock.
type conditions struct {
	wake chan struct{} // cap 1: something waits

	mu      sync.Mutex // guards waiting and ended
	waiting []*question
	ended   bool
}

// question is a unit that waits for L3's verdict.
type question struct {
	ops   []*entry
	unit  []Conditional
	stage atomic.Uint32 // see the stages
	done  chan struct{} // closed when the fields below are set
	chain *decision     // of an Update that others may build on; nil: none

	verdict Verdict
	err     error
}

// The stages of a question.
const (
	stageWaiting uint32 = iota
	stageSent           // L3 may decide it at any moment
	stageLeft           // the caller is gone, nothing was sent
)

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

func (c *conditions) enqueue(q *question) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return ErrClosed
	}
	c.waiting = append(c.waiting, q)
	select {
	case c.wake <- struct{}{}:
	default: // a signal is already pending
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

// Decide is the loop "conditions".
func (e *writer) Decide(ctx context.Context) {
	defer e.conditions.end()
	for {
		qs := e.conditions.take(e.cfg.BatchFlushCount, e.cfg.BatchFlushBytes)
		if len(qs) > 0 {
			e.decideMany(ctx, qs)
			continue
		}
		select {
		case <-e.conditions.wake:
		case <-ctx.Done():
			return
		}
	}
}

// take removes the questions of one transaction.
func (c *conditions) take(count int, bytes int64) (qs []*question) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, ops, size := 0, 0, int64(0)
	for n < len(c.waiting) && ops < count && size < bytes {
		q := c.waiting[n]
		n++
		if q.stage.CompareAndSwap(stageWaiting, stageSent) {
			qs = append(qs, q)
			ops += len(q.ops)
			size += opsBytes(q.ops)
		}
	}
	rest := copy(c.waiting, c.waiting[n:])
	clear(c.waiting[rest:])
	c.waiting = c.waiting[:rest]
	return qs
}

// end answers those that nobody will ask about any more.
func (c *conditions) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	for _, q := range c.waiting {
		if q.stage.CompareAndSwap(stageWaiting, stageSent) {
			q.answer(Verdict{}, ErrClosed)
		}
	}
	c.waiting = nil
}

func (q *question) answer(v Verdict, err error) {
	q.verdict, q.err = v, err
	close(q.done)
	if q.chain != nil {
		if q.chain.err = err; err == nil && v.Decision != DecidedApplied {
			q.chain.err = errAgain
		}
		close(q.chain.done)
	}
}

// decideMany asks L3 about questions, in one transaction unless it refuses a row.
func (e *writer) decideMany(ctx context.Context, qs []*question) {
	under := e.cache.Begin()
	defer e.cache.End(under)
	verdicts, err := e.applyIf(ctx, qs)
	var refused *RefusedError
	if errors.As(err, &refused) && len(qs) > 1 { // one of them is at fault
		e.decideMany(ctx, qs[:len(qs)/2])
		e.decideMany(ctx, qs[len(qs)/2:])
		return
	}
	if err != nil {
		for _, q := range qs {
			if errors.Is(err, ErrUnknownOutcome) { // what memory and L2 hold may be old
				e.forgetCopies(q.ops)
				e.cache.Doubt(ctx, q.unit)
			}
			q.answer(Verdict{}, err)
		}
		return
	}
	if err := e.landed(ctx, qs, verdicts); err != nil {
		e.news.Log().Error("can't note in the WAL file what L3 holds now", "error", err)
	}
	for i, q := range qs {
		if verdicts[i].Decision != DecidedApplied {
			q.answer(verdicts[i], nil)
			continue
		}
		e.numbers.LogDecided(q.ops, func(err error) {
			if err != nil {
				e.news.Log().Warn("a kill while SQL is away would show an older version of an item", "id", q.ops[0].item(), "error", err)
			}
			q.answer(verdicts[i], nil)
		})
	}
}

// landed brings what L3 has stored to the other tiers, before anybody is told.
func (e *writer) landed(ctx context.Context, qs []*question, verdicts []Verdict) error {
	last := make(map[string]int)
	var recs []Record
	var merged, changed []string
	for i, q := range qs {
		if verdicts[i].Decision != DecidedApplied {
			e.forgetBelow(q.ops[verdicts[i].At].item(), &verdicts[i].Row)
			continue
		}
		e.flush.CountDirect(len(q.ops))
		for _, op := range q.ops {
			changed = append(changed, op.item())
			if op.isMerge() {
				merged = append(merged, op.item())
				continue
			}
			if at, ok := last[op.id()]; ok { // a later unit has replaced it
				recs[at] = op.record()
				continue
			}
			last[op.id()] = len(recs)
			recs = append(recs, op.record())
		}
	}
	defer e.queue.Outdated(changed)
	recs = append(recs, e.mergedNow(ctx, merged)...)
	if len(recs) == 0 {
		return nil
	}
	e.push.Announce(recs, e.cache.Write(ctx, recs))
	for i, q := range qs {
		if verdicts[i].Decision == DecidedApplied {
			for _, op := range q.ops {
				if !op.isMerge() {
					e.l1.Accept(op, false)
				}
			}
			e.numbers.Stored(q.ops, !q.unit[0].Always)
		}
	}
	e.l1.Shrink()
	return e.bad.Landed(ctx, recs)
}

// forgetBelow drops a clean copy in L1 that L3 has shown to be old.
func (e *writer) forgetBelow(id string, row *Meta) {
	ent, ok := e.l1.Peek(id)
	if !ok {
		e.l1.Touch(id)
		return
	}
	have, rec := ent.record(), row.record()
	if row.Version == 0 || have.Compare(&rec) < 0 {
		e.l1.Drop(ent)
	}
}

// forgetCopies drops the clean copies of ids in L1: the next read asks.
func (e *writer) forgetCopies(ops []*entry) {
	for _, op := range ops {
		if ent, ok := e.l1.Peek(op.item()); ok {
			e.l1.Drop(ent)
		} else {
			e.l1.Touch(op.item())
		}
	}
}

// applyIf is one transaction, repeated for about L3Timeout while it is certain that the last one
// stored nothing.
func (e *writer) applyIf(ctx context.Context, qs []*question) ([]Verdict, error) {
	units := make([][]Conditional, len(qs))
	var recs []Record
	for i, q := range qs {
		units[i] = q.unit
		for k := range q.unit {
			recs = append(recs, q.unit[k].Record)
		}
	}
	if err := e.trust.Join(ctx); err != nil {
		return nil, unavailableUnless(ctx, err)
	}
	if err := e.numbers.KeepAhead(ctx, recs); err != nil {
		return nil, err
	}
	now := e.now() // not before it has joined: then the time is L3's
	for _, unit := range units {
		for k := range unit {
			unit[k].Now = now
		}
	}
	e.cache.Unsure(ctx)
	var verdicts []Verdict
	err := e.trust.Write(recs, func([]bool) (err error) {
		verdicts, err = e.applyIfKnown(ctx, units, recs)
		return err
	})
	return verdicts, err
}

func (e *writer) applyIfKnown(ctx context.Context, units [][]Conditional, recs []Record) ([]Verdict, error) {
	for start := time.Now(); ; {
		verdicts, err := e.applyIfOnce(ctx, units, recs)
		if !errors.Is(err, ErrUnknownOutcome) {
			return verdicts, err
		}
		landed, lerr := e.resolve(ctx)
		switch {
		case lerr != nil:
			return nil, says(fmt.Errorf("%w; asking L3 about it: %w", err, lerr))
		case landed:
			return verdicts, nil
		case time.Since(start) > e.cfg.L3Timeout: // it never tells how one ends; this is known now, so err is not passed on
			return nil, unavailable("L3 stored nothing", errors.New(err.Error()))
		}
	}
}

func (e *writer) applyIfOnce(ctx context.Context, units [][]Conditional, recs []Record) (verdicts []Verdict, err error) {
	verdicts, err = e.archive.ApplyIf(ctx, units, recs)
	if err != nil && !errors.Is(err, ErrRefused) {
		err = unavailableUnless(ctx, err)
	}
	return verdicts, err
}

// resolve asks L3 what became of the last transaction.
func (e *writer) resolve(ctx context.Context) (landed bool, err error) {
	for start := time.Now(); ; {
		landed, err = e.archive.WasCommitted(ctx)
		if err == nil || errors.Is(err, errFenced) || ctx.Err() != nil || time.Since(start) > e.cfg.L3Timeout {
			return landed, err
		}
	}
}
