package syncengine

// heal.go replaces corrupt rows of L3 by good copies. A good copy matches its own hash and
// has the version of the row; it is looked for in L1, in what waits in the WAL, and in L2.
// The digest of L3 does not change by it: it still counts the row as it was written. A CRDT item of
// which there is none is made anew of its merges (l3compact.go).

import (
	"context"
	"errors"
)

// Heal looks for a good copy of a row of L3 that is corrupt and puts it there, or makes the row
// anew of its merges. It returns what is there then, or nil when it can't be done.
func (r *repair) Heal(ctx context.Context, id string) *Record {
	if rec := r.fromCopy(ctx, id); rec != nil {
		return rec
	}
	return r.rebuild(ctx, id)
}

func (r *repair) fromCopy(ctx context.Context, id string) *Record {
	if !r.archive.Heals() {
		return nil
	}
	heads, err := r.archive.Heads(ctx, []string{id})
	if err != nil || len(heads) != 1 || heads[0].Deleted {
		return nil
	}
	rec := r.goodCopy(ctx, id, heads[0].Version)
	if rec == nil {
		return nil
	}
	done, err := r.archive.Heal(ctx, *rec)
	if err != nil || !done {
		return nil
	}
	r.news.Healed(id, "L3")
	return rec
}

// goodCopy returns a live copy of a version of id whose content matches its hash, or nil.
func (r *repair) goodCopy(ctx context.Context, id string, version uint64) *Record {
	good := func(rec *Record) bool {
		return rec.Version == version && !rec.Deleted && hashOf(rec.Content) == rec.ContentHash
	}
	if ent, ok := r.l1.Peek(id); ok {
		if rec := ent.record(); good(&rec) {
			return &rec
		}
	}
	if op, _, err := r.bad.Waiting(ctx, id); err == nil && op != nil {
		if rec := op.record(); good(&rec) {
			return &rec
		}
	}
	if !r.cache.On() {
		return nil
	}
	// Also if L2 has missed a write of the id: the version tells which one this is.
	rec, err := r.cache.Get(ctx, "get", id)
	if err != nil || !good(&rec) {
		return nil
	}
	return &rec
}

// rebuild makes a row of a CRDT item of its merges, and returns it; nil when that can't be done.
func (r *repair) rebuild(ctx context.Context, id string) *Record {
	if !crdtBuilt || !r.archive.Compacts() {
		return nil
	}
	rec, changed, damaged, err := r.archive.Rebuild(ctx, id)
	r.news.DamagedMerges(id, damaged)
	if err != nil || !changed {
		return nil
	}
	r.news.Healed(id, "L3")
	r.l1.Forget(newEntry(&rec))
	if r.cache.On() && r.cache.Repair(ctx, []Record{rec}) != nil {
		r.cache.Miss(ctx, []Record{rec})
	}
	return &rec
}

// HealedOr returns the good copy of a corrupt row of L3, now healed, or the error.
func (r *repair) HealedOr(ctx context.Context, id string, err error) (Record, error) {
	if !errors.Is(err, ErrCorruption) {
		return Record{}, err
	}
	r.news.Corrupted(err)
	if rec := r.Heal(ctx, id); rec != nil {
		return *rec, nil
	}
	return Record{}, err
}
