package syncengine

// decide.go is the loop "conditions": it puts the questions that calls have for L3 (conditions.go),
// all that wait, into one transaction, and brings what that has stored to the other tiers before
// anybody is told.

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

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
	defer e.listen(qs)() // from before the COMMIT until L1 has what comes of it (INV-15)
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

// listen keeps in mind what is told of the ids of questions, until the end that it returns.
func (e *writer) listen(qs []*question) (end func()) {
	var ids []string
	for _, q := range qs {
		ids = append(ids, itemsOf(q.ops)...)
	}
	for _, id := range ids {
		e.l1.Listen(id)
	}
	return func() {
		for _, id := range ids {
			e.l1.Unlisten(id)
		}
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
					e.l1.Heard(op.id())
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
