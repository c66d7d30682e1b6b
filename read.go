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
)

// Get returns the item of id, or ErrNotFound. A hit in L1 takes no lock, allocates nothing and
// does not look at ctx; so does an id that a trusted filter denies. Otherwise it asks the WAL,
// Redis and SQL in turn; callers that miss the same id share one load, which carries the values
// of the first caller's ctx, and ctx bounds only this caller's wait.
//
// Errors: ErrNotFound, ErrInvalidItem, ErrClosed, ErrBackpressure (at LevelShutdown, and only
// when memory alone can't answer), ErrCorruption (L3's row does not match its hash),
// ErrUnavailable.
func (e *Engine) Get(ctx context.Context, id string) (it Item, err error) {
	if !e.door.Closed() {
		ent, ok := e.l1.Get(id)
		if ok && e.fresh(ent) {
			err = e.show(ent, &it)
			return it, err
		}
		if !ok && e.denies(id) {
			e.l1.Missed()
			return it, ErrNotFound
		}
	}
	return e.getSlow(ctx, id)
}

// denies reports, without I/O, that a valid id that was not in L1 does not exist. The filter
// is asked last: an op leaves L1 and the WAL only after the filter got its id.
func (e *Engine) denies(id string) bool {
	if checkID(id) != nil {
		return false
	}
	if _, spooled := e.wal.Spooled(e.l1.Hash(id)); spooled || e.bad.Has(id) {
		return false
	}
	if e.trust.MayContain(id) {
		return false
	}
	_, retried := e.l1.Peek(id) // it may just have left quarantine, where it was not any more
	return !retried
}

// fresh reports whether an L1 entry may be served without asking the tiers below: another
// engine may have written the id since.
func (e *Engine) fresh(ent *entry) bool {
	return e.l1.Age(ent) < e.cfg.L1MaxAge || ent.pinned() || e.trust.Alone()
}

// show sets what a caller sees of an entry: in place, since an item is 200 bytes to copy.
func (e *Engine) show(ent *entry, it *Item) error {
	if ent.deleted {
		return ErrNotFound
	}
	ent.fill(it)
	it.AccessCount = uint64(ent.place.Uses())
	it.LastAccessed = e.l1.LastUse(ent)
	return nil
}

// enterRead begins a read that memory alone can't answer.
func (e *Engine) enterRead(ctx context.Context) error {
	if err := e.door.Enter(); err != nil {
		return err
	}
	err := ctx.Err()
	if err == nil {
		err = e.pressure.AdmitRead()
	}
	if err != nil {
		e.door.Leave()
	}
	return err
}

func (e *Engine) getSlow(ctx context.Context, id string) (item Item, err error) {
	if err := checkID(id); err != nil {
		return Item{}, err
	}
	if err := e.enterRead(ctx); err != nil {
		return Item{}, err
	}
	defer e.door.Exit(ctx, &err)
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
	stamp := e.l1.Stamp(id)
	ent, ok := e.l1.Get(id)
	if ok && e.fresh(ent) {
		return ent.record(), nil
	}
	if !ok {
		e.l1.Missed()
	}
	refused := e.bad.some.Load()
	waiting, recovered, err := e.bad.Find(ctx, id)
	switch {
	case err != nil:
		return Record{}, err
	case refused && waiting == nil && !ok && e.l1.Stamp(id) != stamp: // it may just have left quarantine
		return e.find(ctx, id)
	case waiting != nil && !recovered:
		rec := waiting.record()
		e.promote(&rec, stamp, false)
		return rec, nil
	case waiting == nil && !ok && !e.trust.MayContain(id):
		return Record{}, ErrNotFound
	}
	shared := e.door.Background(ctx)
	rec, err := e.loads.do(ctx, id, stamp, e.door.Spawn, func() (Record, error) { return e.load(shared, id, stamp, waiting) })
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
		e.l1.Drop(ent)
		return rec, err
	case err != nil && !errors.Is(err, ErrCorruption): // nobody could be asked
		return known, nil
	case err == nil && known.Compare(&rec) < 0:
		return rec, nil
	}
	return known, nil
}

// load asks L2, then L3, and promotes what it found. With an op recovered from the WAL it
// asks L3 alone and returns the higher of the two; when L3 can't be asked, the op is the
// newest this engine can know.
func (e *Engine) load(ctx context.Context, id string, stamp uint64, waiting *entry) (Record, error) {
	if waiting == nil && e.cache.Trusts(id) {
		rec, err := e.cache.Lookup(ctx, id)
		if err == nil {
			e.cache.Saw(true, 1)
			e.promote(&rec, stamp, false)
			return rec, nil
		}
		e.l2Failed(err, id)
	}
	rec, err := e.archive.Get(ctx, id)
	switch {
	case err == nil:
		e.archive.Saw(true, 1)
		return e.higher(rec, waiting, stamp), nil
	case errors.Is(err, ErrNotFound):
		e.archive.Saw(false, 1)
		if waiting != nil {
			return e.higher(Record{}, waiting, stamp), nil
		}
		return Record{}, ErrNotFound
	case waiting != nil:
		return waiting.record(), nil // not promoted: L3 will be asked again
	case errors.Is(err, ErrCorruption):
		if rec, err = e.repair.HealedOr(ctx, id, err); err == nil {
			e.promote(&rec, stamp, true)
		}
		return rec, err
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
		e.cache.Saw(false, len(ids))
	case errors.Is(err, ErrCorruption):
		e.cache.Saw(false, len(ids))
		e.news.Corrupted(err)
		for _, id := range ids {
			e.repair.Promote(promotion{heal: id})
		}
	}
}

// promote puts a record read from a lower tier into L1, and one read from L3 into L2.
func (e *Engine) promote(rec *Record, stamp uint64, toL2 bool) {
	e.l1.Promote(newEntry(rec), stamp)
	e.afterWrite()
	if toL2 && e.cache.On() {
		e.repair.Promote(promotion{rec: *rec, stamp: stamp})
	}
}

// GetVerified is Get with the hash of the content recomputed, also for a copy in memory.
// A corrupt copy in L1 is dropped and the item read from the tiers below; when no tier has
// a copy that matches, the error is a *CorruptionError.
func (e *Engine) GetVerified(ctx context.Context, id string) (item Item, err error) {
	if err := checkID(id); err != nil {
		return Item{}, err
	}
	if err := e.door.Enter(); err != nil {
		return Item{}, err
	}
	defer e.door.Exit(ctx, &err)
	if err := ctx.Err(); err != nil {
		return Item{}, err
	}
	for {
		ent, ok := e.l1.Get(id)
		if !ok {
			break
		}
		if ent.deleted {
			return Item{}, ErrNotFound
		}
		actual := hashOf(ent.content())
		if actual == ent.hash {
			var it Item
			err := e.show(ent, &it)
			return it, err
		}
		err := &CorruptionError{ID: id, Tier: "L1", Expected: hex.EncodeToString(ent.hash[:]), Actual: hex.EncodeToString(actual[:])}
		e.news.Corrupted(err)
		if !e.l1.Drop(ent) {
			return Item{}, err // the only copy there is
		}
	}
	if err := e.pressure.AdmitRead(); err != nil && !e.denies(id) {
		return Item{}, err
	}
	rec, err := e.find(ctx, id) // L2 and L3 check hashes on every read
	if err != nil {
		return Item{}, err
	}
	return rec.item()
}
