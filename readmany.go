package syncengine

// readmany.go is the read path for many ids at once: the steps of read.go, each taken once
// for all ids that the steps before did not answer.

import (
	"context"
	"errors"
	"slices"
	"time"
)

func (d *reader) GetMany(ctx context.Context, ids []string) (items []*Item, err error) {
	for _, id := range ids {
		if err := checkID(id); err != nil {
			return nil, err
		}
	}
	if err := d.door.Enter(); err != nil {
		return nil, err
	}
	defer d.door.Exit(ctx, &err)
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	refusal := d.pressure.AdmitRead()
	var refused error // refusal, once it has met an id
	out := make([]*Item, len(ids))
	r := newReading(ids)
	m := &manyLoad{at: make(map[string][]int), out: out, now: d.now}
	for i, id := range ids {
		if at, ok := m.at[id]; ok { // asked for twice; it may be answered already
			m.at[id] = append(at, i)
			if first := out[at[0]]; first != nil {
				it := *first
				out[i] = &it
			}
			continue
		}
		since := d.l1.Stamp(id)
		merging := d.queue.Merging(id) // before L1 is asked, which gets what they lead to
		known, ok := d.l1.Get(id)
		if merging {
			m.at[id] = []int{i}
			switch rec, err := d.findIn(ctx, r, id); {
			case err == nil:
				m.answer(id, &rec)
			case !errors.Is(err, ErrNotFound):
				m.errs = append(m.errs, err)
			}
			continue
		}
		if ok && d.Fresh(known) {
			if it := new(Item); d.show(known, it) == nil {
				out[i] = it
			}
			continue
		}
		if !ok {
			d.l1.Missed()
		}
		m.at[id] = []int{i}
		if refusal != nil {
			if ok || !d.Denies(id) {
				refused = refusal
			}
			continue
		}
		refusals := d.bad.Any()
		waiting, askL3, err := d.bad.WaitingIn(ctx, r, id)
		switch {
		case err != nil:
			return out, err
		case refusals && waiting == nil && !ok && d.l1.Written(id, since): // it may just have left quarantine
			switch rec, err := d.findIn(ctx, r, id); {
			case err == nil:
				m.answer(id, &rec)
			case !errors.Is(err, ErrNotFound):
				return out, err
			}
		case waiting != nil && !askL3:
			rec := waiting.record()
			rec.Stale = d.passed()
			d.Promote(&rec, since, false)
			m.answer(id, &rec)
		case waiting == nil && !ok && d.knowsAbsent(id):
		case waiting != nil || ok || d.trust.MayContain(id):
			m.asks = append(m.asks, ask{id, since, waiting, known})
		}
	}
	if refused != nil {
		return out, refused
	}
	return out, d.loadMany(ctx, m)
}

// manyLoad is what a GetMany still has to find.
type manyLoad struct {
	asks []ask
	at   map[string][]int // places of an id in out
	out  []*Item
	errs []error
	now  func() time.Time
}

// ask is one id of a manyLoad.
type ask struct {
	id      string
	since   stamp
	waiting *entry // an op in quarantine, or recovered from the WAL: L3 is asked as well, L2 is not
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
		if !rec.Deleted && !rec.expired(m.now) {
			it := rec.Item
			m.out[i] = &it
		}
	}
}

// loadMany is load for many ids.
func (d *reader) loadMany(ctx context.Context, m *manyLoad) error {
	if d.cache.On() && len(m.asks) > 0 {
		d.manyFromL2(ctx, m)
	}
	if len(m.asks) == 0 {
		return errors.Join(m.errs...)
	}
	found, err := d.archive.GetMany(ctx, m.ids())
	if err != nil {
		return d.withoutL3(ctx, m, err)
	}
	d.outranked(ctx, m, found)
	for i := range found {
		d.answerFromL3(ctx, m, &m.asks[i], &found[i])
	}
	return errors.Join(m.errs...)
}

// outranked notes what L3 holds above ops that wait, all at once: a group's are in one row.
func (d *reader) outranked(ctx context.Context, m *manyLoad, found []Found) {
	var recs []Record
	for i := range found {
		if f, op := &found[i], m.asks[i].waiting; op != nil && f.OK && f.Err == nil && !aboveL3(op, &f.Record) {
			recs = append(recs, f.Record)
		}
	}
	_ = d.bad.Landed(ctx, recs) // see higher
}

func (d *reader) answerFromL3(ctx context.Context, m *manyLoad, a *ask, f *Found) {
	if f.Err != nil {
		var err error
		if f.Record, err = d.repair.HealedOr(ctx, a.id, f.Err); err != nil {
			m.errs = append(m.errs, err)
			return
		}
		f.OK = true
	}
	d.archive.Saw(f.OK, 1)
	if f.OK || a.waiting != nil {
		rec := d.higher(ctx, f.Record, a.waiting, a.since)
		d.answerMany(m, a, &rec)
		return
	}
	if a.known != nil {
		d.l1.Drop(a.known)
	}
	d.sawNone(a.id, a.since)
}

// answerMany answers with what a lower tier said, or what memory knows that is above it.
func (d *reader) answerMany(m *manyLoad, a *ask, rec *Record) {
	if a.known != nil && !outdates(a.known, rec, nil) {
		known := a.known.record()
		rec = &known
	}
	m.answer(a.id, rec)
}

// withoutL3 answers what this engine knows by itself. Only ids of which it knows nothing are
// an error.
func (d *reader) withoutL3(ctx context.Context, m *manyLoad, err error) error {
	unanswered := false
	for i := range m.asks {
		a := &m.asks[i]
		op := a.waiting
		if op != nil && op.state.Load()&stateLate != 0 { // see load
			op = nil
		}
		if k := a.known; k != nil && !d.tooStale(k) && (op == nil || k.compare(op) > 0) {
			op = k // what waits may be from before it
		}
		if op == nil {
			unanswered = true
			continue
		}
		rec := op.record()
		rec.Stale = true
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
func (d *reader) manyFromL2(ctx context.Context, m *manyLoad) {
	ids := make([]string, 0, len(m.asks))
	for i := range m.asks {
		if a := &m.asks[i]; d.asksL2(a.id, a.waiting) {
			ids = append(ids, a.id)
		}
	}
	if len(ids) == 0 {
		return
	}
	found, err := d.cache.GetMany(ctx, ids)
	if err != nil {
		return
	}
	answers := make(map[string]*Record, len(found))
	for i := range found {
		switch f := &found[i]; {
		case f.Err != nil:
			d.l2Failed(f.Err, ids[i])
		case f.OK && d.cache.Believes(&f.Record):
			answers[ids[i]] = &f.Record
			d.cache.Saw(true, 1)
		default:
			d.cache.Saw(false, 1)
		}
	}
	m.asks = slices.DeleteFunc(m.asks, func(a ask) bool {
		rec, ok := answers[a.id]
		if ok {
			if rec.Stale = d.cache.Behind(); !rec.Stale {
				d.Promote(rec, a.since, false)
			}
			d.answerMany(m, &a, rec)
		}
		return ok
	})
}
