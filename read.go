package syncengine

// read.go is the one read path:
//
//	L1 → quarantine and spool (in the WAL) → filter → L2 → L3 → promote to L1 and L2
//
// A tombstone in any tier answers "not found". A tier that can't be asked yields to the
// next one; only L3 or a tombstone may say that an id does not exist (INV-8). A copy in L2
// that can't be read or does not match its hash is a miss and is replaced from L3.
//
// A copy is promoted only if the id was not written while it was loaded (l1.promote), and
// into L2 only if L2 holds nothing higher.

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
)

// Get returns the item of id, or ErrNotFound. A hit in L1 takes no lock, allocates nothing
// and does not look at ctx. Otherwise it asks the WAL, Redis and SQL in turn; callers that
// miss the same id share one load, and ctx bounds only this caller's wait.
//
// Errors: ErrNotFound, ErrInvalidItem, ErrClosed, ErrBackpressure (at LevelShutdown),
// ErrCorruption (L3's row does not match its hash), ErrUnavailable.
func (e *Engine) Get(ctx context.Context, id string) (Item, error) {
	if e.gate.Load() == 0 {
		if ent, ok := e.l1.get(id); ok && e.fresh(ent) {
			return e.itemOf(ent)
		}
	}
	return e.getSlow(ctx, id)
}

// fresh reports whether an L1 entry may be served without asking the tiers below: another
// engine may have written the id since.
func (e *Engine) fresh(ent *entry) bool {
	return e.maxAge == 0 || e.l1.clock.since(ent.checked.Load()) < e.maxAge || ent.pinned()
}

// itemOf returns what a caller sees of an entry.
func (e *Engine) itemOf(ent *entry) (it Item, err error) {
	if ent.deleted {
		return it, ErrNotFound
	}
	ent.fill(&it)
	it.AccessCount = uint64(ent.accesses.Load())
	it.LastAccessed = e.l1.clock.time(ent.lastAccess.Load())
	return it, nil
}

// enterRead begins a read that is not an L1 hit.
func (e *Engine) enterRead(ctx context.Context) error {
	if err := e.enter(); err != nil {
		return err
	}
	err := ctx.Err()
	if err == nil && e.gate.Load()&gateReadsRefused != 0 {
		l := e.gauge.current()
		err = &BackpressureError{Level: l, RetryAfter: l.RetryAfter(), Reason: "reads are refused: " + e.pressureReason()}
	}
	if err != nil {
		e.leave()
	}
	return err
}

func (e *Engine) getSlow(ctx context.Context, id string) (Item, error) {
	if err := checkID(id); err != nil {
		return Item{}, err
	}
	if err := e.enterRead(ctx); err != nil {
		return Item{}, err
	}
	defer e.leave()
	rec, err := e.find(ctx, id)
	if err != nil {
		return Item{}, err
	}
	return rec.item()
}

// item returns the item of a record, or ErrNotFound for a tombstone.
func (r *Record) item() (Item, error) {
	if r.Deleted {
		return Item{}, ErrNotFound
	}
	return r.Item, nil
}

// find looks for id in all tiers. A tombstone is a result.
func (e *Engine) find(ctx context.Context, id string) (Record, error) {
	// The stamp is taken before L1 is asked: a write that L1 does not show has not been
	// counted yet, and will be.
	stamp := e.l1.stamp(id)
	ent, ok := e.l1.get(id)
	if ok && e.fresh(ent) {
		return ent.record(), nil
	}
	if !ok {
		e.l1.misses.Add(1)
	}
	waiting, recovered, err := e.inWAL(ctx, id)
	switch {
	case err != nil:
		return Record{}, err
	case waiting != nil && !recovered:
		rec := waiting.record()
		e.promote(&rec, stamp, false)
		return rec, nil
	case waiting == nil && !e.filter.mayContain(id):
		return Record{}, ErrNotFound
	}
	rec, err := e.loads.do(ctx, id, stamp, e.spawn, func() (Record, error) { return e.load(e.bg, id, stamp, waiting) })
	if ok {
		return e.refreshed(ent, rec, err)
	}
	return rec, err
}

// refreshed decides between an L1 entry past its age and what the tiers below said.
func (e *Engine) refreshed(ent *entry, rec Record, err error) (Record, error) {
	known := ent.record()
	switch {
	case errors.Is(err, ErrNotFound):
		e.l1.drop(ent)
		return rec, err
	case err != nil && !errors.Is(err, ErrCorruption): // nobody could be asked
		return known, nil
	case err == nil && known.Compare(&rec) < 0:
		return rec, nil
	}
	return known, nil
}

// inWAL returns the newest op of id that is in quarantine or spooled, or nil. recovered
// tells that an earlier engine wrote it, so that L3 may hold something newer (wal.go).
func (e *Engine) inWAL(ctx context.Context, id string) (op *entry, recovered bool, err error) {
	spooled, recovered, err := e.wal.findSpooled(ctx, id, e.l1.hash(id))
	if err != nil {
		return nil, false, err
	}
	refused, err := e.bad.find(ctx, id)
	if err != nil || refused == nil {
		return spooled, recovered, err
	}
	if spooled != nil && spooled.compare(refused) > 0 {
		return spooled, recovered, nil
	}
	return refused, true, nil // L3 may have taken a later op of the id
}

// load asks L2, then L3, and promotes what it found. With an op recovered from the WAL it
// asks L3 alone and returns the higher of the two; when L3 can't be asked, the op is the
// newest this engine can know.
func (e *Engine) load(ctx context.Context, id string, stamp uint64, waiting *entry) (Record, error) {
	if waiting == nil && e.l2 != nil && !e.missed.has(id) {
		var rec Record
		err := e.call2(ctx, "get", func(ctx context.Context) (err error) {
			rec, err = e.l2.Get(ctx, id)
			return err
		})
		if err == nil {
			e.l2Counts.hits.Add(1)
			e.promote(&rec, stamp, false)
			return rec, nil
		}
		e.l2Failed(err, id)
	}
	var rec Record
	err := e.call3(ctx, "get", true, func(ctx context.Context) (err error) {
		rec, err = e.l3.Get(ctx, id)
		return err
	})
	switch {
	case err == nil:
		e.l3Counts.hits.Add(1)
		return e.higher(rec, waiting, stamp), nil
	case errors.Is(err, ErrNotFound):
		e.l3Counts.misses.Add(1)
		if waiting != nil {
			return e.higher(Record{}, waiting, stamp), nil
		}
		return Record{}, ErrNotFound
	case waiting != nil:
		return waiting.record(), nil // not promoted: L3 will be asked again
	case errors.Is(err, ErrCorruption):
		e.noteCorruption(err)
		return Record{}, err
	}
	return Record{}, unavailable("syncengine: get", err)
}

// higher promotes and returns the higher of L3's record, zero for none, and an op that
// waits in the WAL, nil for none.
func (e *Engine) higher(rec Record, waiting *entry, stamp uint64) Record {
	if waiting != nil {
		if op := waiting.record(); rec.Version == 0 || op.Compare(&rec) > 0 {
			e.promote(&op, stamp, false) // L2 gets it with the flush
			return op
		}
	}
	e.promote(&rec, stamp, true)
	return rec
}

// l2Failed accounts for an L2 read that gave nothing. A corrupt copy is removed; the copy
// read from L3 then takes its place.
func (e *Engine) l2Failed(err error, ids ...string) {
	switch {
	case errors.Is(err, ErrNotFound):
		e.l2Counts.misses.Add(uint64(len(ids)))
	case errors.Is(err, ErrCorruption):
		e.l2Counts.misses.Add(uint64(len(ids)))
		e.noteCorruption(err)
		for _, id := range ids {
			e.sendPromotion(promotion{heal: id})
		}
	}
}

// noteCorruption counts a copy that does not match its hash, and tells the user.
func (e *Engine) noteCorruption(err error) {
	var ce *CorruptionError
	if !errors.As(err, &ce) {
		return
	}
	e.corrupt.Add(1)
	e.meters.corruption(ce.Tier)
	e.log.Warn("corrupt copy", "tier", ce.Tier)
	if fn := e.cfg.OnEvent.Corrupted; fn != nil {
		e.events.send(func() { fn(ce) })
	}
}

// promote puts a record read from a lower tier into L1, and one read from L3 into L2.
func (e *Engine) promote(rec *Record, stamp uint64, toL2 bool) {
	e.clock.Observe(rec.Version)
	e.l1.promote(newEntry(rec), stamp)
	e.afterWrite()
	if toL2 && e.l2 != nil {
		e.sendPromotion(promotion{rec: *rec})
	}
}

// GetMany returns the items of ids, aligned with them; nil stands for not found. Each tier
// is asked once for all that the tiers above did not have. When some ids could not be
// answered, the others are returned together with an error: ErrUnavailable, or one
// ErrCorruption per corrupt row, joined.
func (e *Engine) GetMany(ctx context.Context, ids []string) ([]*Item, error) {
	for _, id := range ids {
		if err := checkID(id); err != nil {
			return nil, err
		}
	}
	if err := e.enterRead(ctx); err != nil {
		return nil, err
	}
	defer e.leave()
	out := make([]*Item, len(ids))
	m := &manyLoad{at: make(map[string][]int), out: out}
	for i, id := range ids {
		if at, ok := m.at[id]; ok { // asked for twice
			m.at[id] = append(at, i)
			continue
		}
		stamp := e.l1.stamp(id)
		known, ok := e.l1.get(id)
		if ok && e.fresh(known) {
			if it, err := e.itemOf(known); err == nil {
				out[i] = &it
			}
			continue
		}
		if !ok {
			e.l1.misses.Add(1)
		}
		m.at[id] = []int{i}
		waiting, recovered, err := e.inWAL(ctx, id)
		switch {
		case err != nil:
			return out, err
		case waiting != nil && !recovered:
			rec := waiting.record()
			e.promote(&rec, stamp, false)
			m.answer(id, &rec)
		case waiting != nil || e.filter.mayContain(id):
			m.asks = append(m.asks, ask{id, stamp, waiting, known})
		}
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
	if e.l2 != nil && len(m.asks) > 0 {
		e.manyFromL2(ctx, m)
	}
	if len(m.asks) == 0 {
		return errors.Join(m.errs...)
	}
	var found []Found
	err := e.call3(ctx, "get_many", true, func(ctx context.Context) (err error) {
		found, err = e.l3.GetMany(ctx, m.ids())
		return err
	})
	if err != nil {
		return e.withoutL3(ctx, m, err)
	}
	for i := range found {
		e.answerFromL3(m, &m.asks[i], &found[i])
	}
	return errors.Join(m.errs...)
}

func (e *Engine) answerFromL3(m *manyLoad, a *ask, f *Found) {
	switch {
	case f.Err != nil:
		e.noteCorruption(f.Err)
		m.errs = append(m.errs, f.Err)
		return
	case f.OK:
		e.l3Counts.hits.Add(1)
	default:
		e.l3Counts.misses.Add(1)
	}
	if f.OK || a.waiting != nil {
		rec := e.higher(f.Record, a.waiting, a.stamp)
		m.answer(a.id, &rec)
	} else if a.known != nil {
		e.l1.drop(a.known)
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
		if a := &m.asks[i]; a.waiting == nil && !e.missed.has(a.id) {
			ids = append(ids, a.id)
		}
	}
	if len(ids) == 0 {
		return
	}
	var found []Found
	if err := e.call2(ctx, "get_many", func(ctx context.Context) (err error) {
		found, err = e.l2.GetMany(ctx, ids)
		return err
	}); err != nil {
		return
	}
	answers := make(map[string]*Record, len(found))
	for i := range found {
		switch f := &found[i]; {
		case f.Err != nil:
			e.l2Failed(f.Err, ids[i])
		case f.OK:
			answers[ids[i]] = &f.Record
			e.l2Counts.hits.Add(1)
		default:
			e.l2Counts.misses.Add(1)
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

// GetVerified is Get with the hash of the content recomputed, also for a copy in memory.
// A corrupt copy in L1 is dropped and the item read from the tiers below; when no tier has
// a copy that matches, the error is a *CorruptionError.
func (e *Engine) GetVerified(ctx context.Context, id string) (Item, error) {
	if err := checkID(id); err != nil {
		return Item{}, err
	}
	if err := e.enterRead(ctx); err != nil {
		return Item{}, err
	}
	defer e.leave()
	for {
		ent, ok := e.l1.get(id)
		if !ok {
			break
		}
		if ent.deleted {
			return Item{}, ErrNotFound
		}
		actual := hashOf(ent.content())
		if actual == ent.hash {
			return e.itemOf(ent)
		}
		err := &CorruptionError{ID: id, Tier: "L1", Expected: hex.EncodeToString(ent.hash[:]), Actual: hex.EncodeToString(actual[:])}
		e.noteCorruption(err)
		if !e.l1.drop(ent) {
			return Item{}, err // the only copy there is
		}
	}
	rec, err := e.find(ctx, id) // L2 and L3 check hashes on every read
	if err != nil {
		return Item{}, err
	}
	return rec.item()
}

// GetOrInsertWith returns the item of id, or calls factory and submits what it returns.
// At a time factory runs once per id in this engine; callers that come meanwhile share its
// result. It runs on a goroutine of the engine with ctx's values, and is cancelled only
// when the engine closes. It is called only after L3 or a tombstone said that the id does
// not exist, never after an error. Its item's ID may be empty; another id is
// ErrInvalidItem. A panic in it is returned as an error. A write that was submitted while
// factory ran wins over its result and is returned instead.
func (e *Engine) GetOrInsertWith(ctx context.Context, id string, factory func(context.Context) (Item, error)) (Item, error) {
	it, err := e.Get(ctx, id)
	if !errors.Is(err, ErrNotFound) {
		return it, err
	}
	if err := e.enterRead(ctx); err != nil {
		return Item{}, err
	}
	defer e.leave()
	values := context.WithoutCancel(ctx)
	rec, err := e.factories.do(ctx, id, 0, e.spawn, func() (Record, error) {
		it, err := e.insertWith(values, id, factory)
		return Record{Item: it}, err
	})
	return rec.Item, err
}

func (e *Engine) insertWith(ctx context.Context, id string, factory func(context.Context) (Item, error)) (Item, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(e.bg, cancel)()
	var made *Item
	for {
		// Stamp and version are taken before the last look: a write that comes later changes
		// the one, so that the insert is refused, and is above the other.
		stamp, version := e.l1.stamp(id), e.clock.Next()
		rec, err := e.find(ctx, id)
		switch {
		case err == nil && !rec.Deleted:
			return rec.Item, nil
		case err != nil && !errors.Is(err, ErrNotFound):
			return Item{}, err
		case rec.Version >= version: // deleted just now, or by a clock ahead of ours
			version = e.clock.NextAfter(rec.Version)
		}
		if made == nil {
			it, err := callFactory(ctx, factory)
			if err != nil {
				return Item{}, err
			}
			if def(&it.ID, id); it.ID != id {
				return Item{}, &InvalidItemError{ID: it.ID, Field: "ID", Rule: fmt.Sprintf("of the factory's item must be %q", id)}
			}
			if err := checkItem(&it, e.cfg.MaxItemBytes); err != nil {
				return Item{}, err
			}
			made = &it
		}
		op := e.newPut(made, &writeOptions{version: version})
		err = e.insert(ctx, op, stamp)
		if errors.Is(err, ErrStaleVersion) {
			continue // somebody wrote meanwhile, to this id or to one of its stripe: look again
		}
		return op.record().Item, err
	}
}

// insert submits an op unless its id was written since stamp was taken.
func (e *Engine) insert(ctx context.Context, op *entry, stamp uint64) error {
	if err := e.checkSize([]*entry{op}); err != nil {
		return err
	}
	if err := e.admit(ctx); err != nil {
		return err
	}
	return e.logOps(ctx, []*entry{op}, e.cfg.Durability, func(op *entry) error {
		if e.l1.stamp(op.id()) != stamp {
			return ErrStaleVersion
		}
		return e.assignVersion(op)
	})
}

func callFactory(ctx context.Context, factory func(context.Context) (Item, error)) (it Item, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("syncengine: factory panicked: %v", p)
		}
	}()
	return factory(ctx)
}

// Contains reports, without I/O, whether id may exist. False is definite; true may be
// wrong.
func (e *Engine) Contains(id string) bool {
	if checkID(id) != nil {
		return false
	}
	if ent, ok := e.l1.peek(id); ok {
		return !ent.deleted
	}
	if _, ok := e.wal.spooledAt(e.l1.hash(id)); ok {
		return true
	}
	return e.filter.mayContain(id)
}

// Status tells which tiers hold id, by asking all of them. A tier that could not be asked
// counts as not holding it, and the error says so: the rest of the status is then still
// valid. Deleted ids are StatusMissing.
func (e *Engine) Status(ctx context.Context, id string) (ItemStatus, error) {
	var st ItemStatus
	if err := checkID(id); err != nil {
		return st, err
	}
	if err := e.enterRead(ctx); err != nil {
		return st, err
	}
	defer e.leave()
	newest := Record{}
	see := func(r *Record) {
		if newest.Version == 0 || r.Compare(&newest) > 0 {
			newest = *r
		}
	}
	waiting, _, err := e.inWAL(ctx, id)
	errs := []error{err}
	if ent, ok := e.l1.peek(id); ok {
		rec := ent.record()
		st.InL1 = !ent.deleted
		if see(&rec); ent.pinned() {
			waiting = ent
		}
	}
	if waiting != nil {
		rec := waiting.record()
		see(&rec)
	}
	if e.l2 != nil {
		rec, err := e.ask(ctx, id, e.call2, e.l2.Get)
		if errs = append(errs, err); rec.Version > 0 {
			st.InL2, st.VersionL2 = !rec.Deleted, rec.Version
			see(&rec)
		}
	}
	rec, err := e.ask(ctx, id, func(ctx context.Context, op string, fn func(context.Context) error) error {
		return e.call3(ctx, op, false, fn)
	}, e.l3.Get)
	if errs = append(errs, err); rec.Version > 0 {
		st.InL3, st.VersionL3 = !rec.Deleted, rec.Version
		see(&rec)
	}
	st.Quarantined = e.bad.has(id)
	if !newest.Deleted && newest.Version > 0 {
		st.Version = newest.Version
		st.State = StatusSynced
		if waiting != nil && waiting.version >= newest.Version {
			st.State = StatusPending
		}
	}
	return st, errors.Join(errs...)
}

// ask reads id from one store; absent and corrupt are no errors of the question.
func (e *Engine) ask(ctx context.Context, id string, call func(context.Context, string, func(context.Context) error) error,
	get func(context.Context, string) (Record, error),
) (rec Record, err error) {
	err = call(ctx, "status", func(ctx context.Context) (err error) {
		rec, err = get(ctx, id)
		return err
	})
	if errors.Is(err, ErrNotFound) || errors.Is(err, ErrCorruption) {
		return Record{}, nil
	}
	return rec, err
}
