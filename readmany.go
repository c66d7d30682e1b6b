package syncengine

// readmany.go is the read path for many ids at once: the steps of read.go, each taken once
// for all ids that the steps before did not answer.

import (
	"context"
	"errors"
	"slices"
)

// GetMany returns the items of ids, aligned with them; nil stands for not found. Each tier
// is asked once for all that the tiers above did not have. When some ids could not be
// answered, the others are returned together with an error: ErrUnavailable, one ErrCorruption
// per corrupt row, joined, or ErrBackpressure at LevelShutdown, when memory has not all of them.
func (e *Engine) GetMany(ctx context.Context, ids []string) (items []*Item, err error) {
	for _, id := range ids {
		if err := checkID(id); err != nil {
			return nil, err
		}
	}
	if err := e.door.Enter(); err != nil {
		return nil, err
	}
	defer e.door.Exit(ctx, &err)
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	refusal := e.pressure.AdmitRead()
	var refused error // refusal, once it has met an id
	out := make([]*Item, len(ids))
	m := &manyLoad{at: make(map[string][]int), out: out}
	for i, id := range ids {
		if at, ok := m.at[id]; ok { // asked for twice
			m.at[id] = append(at, i)
			continue
		}
		stamp := e.l1.Stamp(id)
		known, ok := e.l1.Get(id)
		if ok && e.fresh(known) {
			if it := new(Item); e.show(known, it) == nil {
				out[i] = it
			}
			continue
		}
		if !ok {
			e.l1.Missed()
		}
		m.at[id] = []int{i}
		if refusal != nil {
			if ok || !e.denies(id) {
				refused = refusal
			}
			continue
		}
		waiting, recovered, err := e.bad.Find(ctx, id)
		switch {
		case err != nil:
			return out, err
		case waiting != nil && !recovered:
			rec := waiting.record()
			e.promote(&rec, stamp, false)
			m.answer(id, &rec)
		case waiting != nil || ok || e.trust.MayContain(id):
			m.asks = append(m.asks, ask{id, stamp, waiting, known})
		}
	}
	if refused != nil {
		return out, refused
	}
	return out, e.loadMany(ctx, m)
}

// manyLoad is what a GetMany still has to find.
type manyLoad struct {
	asks []ask
	at   map[string][]int // places of an id in out
	out  []*Item
	errs []error
}

// ask is one id of a manyLoad.
type ask struct {
	id      string
	stamp   uint64
	waiting *entry // an op recovered from the WAL: L3 is asked as well, L2 is not
	known   *entry // an L1 entry past its age: served when nobody can be asked
}

func (m *manyLoad) ids() []string {
	ids := make([]string, len(m.asks))
	for i := range m.asks {
		ids[i] = m.asks[i].id
	}
	return ids
}

func (m *manyLoad) answer(id string, rec *Record) {
	for _, i := range m.at[id] {
		m.out[i] = nil
		if !rec.Deleted {
			it := rec.Item
			m.out[i] = &it
		}
	}
}

// loadMany is load for many ids.
func (e *Engine) loadMany(ctx context.Context, m *manyLoad) error {
	if e.cache.On() && len(m.asks) > 0 {
		e.manyFromL2(ctx, m)
	}
	if len(m.asks) == 0 {
		return errors.Join(m.errs...)
	}
	found, err := e.archive.GetMany(ctx, m.ids())
	if err != nil {
		return e.withoutL3(ctx, m, err)
	}
	for i := range found {
		e.answerFromL3(ctx, m, &m.asks[i], &found[i])
	}
	return errors.Join(m.errs...)
}

func (e *Engine) answerFromL3(ctx context.Context, m *manyLoad, a *ask, f *Found) {
	if f.Err != nil {
		var err error
		if f.Record, err = e.repair.HealedOr(ctx, a.id, f.Err); err != nil {
			m.errs = append(m.errs, err)
			return
		}
		f.OK = true
	}
	e.archive.Saw(f.OK, 1)
	if f.OK || a.waiting != nil {
		rec := e.higher(f.Record, a.waiting, a.stamp)
		m.answer(a.id, &rec)
	} else if a.known != nil {
		e.l1.Drop(a.known)
	}
}

// withoutL3 answers what this engine knows by itself. Only ids of which it knows nothing are
// an error.
func (e *Engine) withoutL3(ctx context.Context, m *manyLoad, err error) error {
	unanswered := false
	for i := range m.asks {
		a := &m.asks[i]
		op := a.waiting
		if op == nil {
			op = a.known
		}
		if op == nil {
			unanswered = true
			continue
		}
		rec := op.record()
		m.answer(a.id, &rec)
	}
	switch {
	case !unanswered:
		return errors.Join(m.errs...)
	case ctx.Err() != nil:
		return ctx.Err()
	}
	return errors.Join(append(m.errs, unavailable("syncengine: get many", err))...)
}

// manyFromL2 answers what L2 holds and leaves the rest in m.
func (e *Engine) manyFromL2(ctx context.Context, m *manyLoad) {
	ids := make([]string, 0, len(m.asks))
	for i := range m.asks {
		if a := &m.asks[i]; a.waiting == nil && e.cache.Trusts(a.id) {
			ids = append(ids, a.id)
		}
	}
	if len(ids) == 0 {
		return
	}
	found, err := e.cache.GetMany(ctx, ids)
	if err != nil {
		return
	}
	answers := make(map[string]*Record, len(found))
	for i := range found {
		switch f := &found[i]; {
		case f.Err != nil:
			e.l2Failed(f.Err, ids[i])
		case f.OK && e.cache.Trusts(ids[i]): // see load
			answers[ids[i]] = &f.Record
			e.cache.Saw(true, 1)
		default:
			e.cache.Saw(false, 1)
		}
	}
	m.asks = slices.DeleteFunc(m.asks, func(a ask) bool {
		rec, ok := answers[a.id]
		if ok {
			e.promote(rec, a.stamp, false)
			m.answer(a.id, rec)
		}
		return ok
	})
}
