package syncengine

// status.go tells what is known of an id: Contains without I/O, Status by asking every tier.

import (
	"context"
	"errors"
)

// Contains reports, without I/O, whether id may exist. False is definite; true may be
// wrong.
func (e *Engine) Contains(id string) bool {
	if checkID(id) != nil {
		return false
	}
	if ent, ok := e.l1.Peek(id); ok {
		return !ent.deleted
	}
	return !e.denies(id)
}

// Status tells which tiers hold id, by asking all of them. A tier that could not be asked
// counts as not holding it, and the error says so: the rest of the status is then still
// valid. Deleted ids are StatusMissing.
func (e *Engine) Status(ctx context.Context, id string) (status ItemStatus, err error) {
	var st ItemStatus
	if err := checkID(id); err != nil {
		return st, err
	}
	if err := e.enterRead(ctx); err != nil {
		return st, err
	}
	defer e.door.Exit(ctx, &err)
	newest := Record{}
	see := func(r *Record) {
		if newest.Version == 0 || r.Compare(&newest) > 0 {
			newest = *r
		}
	}
	waiting, _, err := e.bad.Find(ctx, id)
	errs := []error{err}
	if ent, ok := e.l1.Peek(id); ok {
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
	if e.cache.On() {
		rec, err := there(e.cache.Get(ctx, "status", id))
		if errs = append(errs, err); rec.Version > 0 {
			st.InL2, st.VersionL2 = !rec.Deleted, rec.Version
			see(&rec)
		}
	}
	rec, err := there(e.archive.GetOnce(ctx, "status", id))
	if errs = append(errs, err); rec.Version > 0 {
		st.InL3, st.VersionL3 = !rec.Deleted, rec.Version
		see(&rec)
	}
	st.Quarantined = e.bad.Has(id)
	if !newest.Deleted && newest.Version > 0 {
		st.Version = newest.Version
		st.State = StatusSynced
		if waiting != nil && waiting.version >= newest.Version {
			st.State = StatusPending
		}
	}
	return st, errors.Join(errs...)
}

// there takes absent and corrupt for answers: they are no errors of the question.
func there(rec Record, err error) (Record, error) {
	if errors.Is(err, ErrNotFound) || errors.Is(err, ErrCorruption) {
		return Record{}, nil
	}
	return rec, err
}
