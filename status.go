package syncengine

// status.go tells what is known of an id: Contains without I/O, Status by asking every tier.

import (
	"context"
	"errors"
)

func (d *reader) Contains(id string) bool {
	if checkID(id) != nil {
		return false
	}
	if ent, ok := d.l1.Peek(id); ok && !d.mayMerge(ent) {
		switch {
		case d.Fresh(ent):
			return !ent.gone(d.now)
		case ent.expired(d.now) && d.l1.Young(ent, d.ages.max) && d.archive.Answers():
			return false // it would have been told of a later expiry
		}
	}
	return !d.Denies(id)
}

func (d *reader) Status(ctx context.Context, id string) (status ItemStatus, err error) {
	var st ItemStatus
	if err := checkID(id); err != nil {
		return st, err
	}
	if err := d.Enter(ctx); err != nil {
		return st, err
	}
	defer d.door.Exit(ctx, &err)
	newest := Record{}
	see := func(r *Record) {
		r.lapse(d.now)
		if newest.Version == 0 || r.Compare(&newest) > 0 {
			newest = *r
		}
	}
	waiting, _, err := d.bad.Waiting(ctx, id)
	errs := []error{err}
	if ent, ok := d.l1.Peek(id); ok {
		rec := ent.record()
		see(&rec)
		if st.InL1 = !rec.Deleted; ent.pinned() {
			waiting = ent
		}
	}
	if waiting != nil {
		rec := waiting.record()
		see(&rec)
	}
	if d.cache.On() {
		rec, err := d.cache.Get(ctx, "status", id)
		if errors.Is(err, ErrNotFound) || errors.Is(err, ErrCorruption) { // no copy that counts
			rec, err = Record{}, nil
		}
		if errs = append(errs, err); rec.Version > 0 {
			see(&rec)
			st.InL2, st.VersionL2 = !rec.Deleted, rec.Version
		}
	}
	rec, err := d.archive.GetOnce(ctx, "status", id)
	if errors.Is(err, ErrNotFound) { // an answer
		rec, err = Record{}, nil
	}
	if errs = append(errs, err); rec.Version > 0 {
		see(&rec)
		st.InL3, st.VersionL3 = !rec.Deleted, rec.Version
		_ = d.bad.Landed(ctx, []Record{rec}) // see higher
	}
	if err == nil && waiting == nil { // L3 is the truth: copies above it are of what it has lost
		newest = rec
	}
	refused := d.bad.RefusedAt(id)
	st.Quarantined = refused > 0 && refused >= newest.Version || d.bad.HasMerge(id)
	if rec, known, merging := d.queue.View(id); merging {
		st.State, st.Version = StatusPending, newest.Version
		if known {
			st.Version = rec.Version
		}
		return st, errors.Join(errs...)
	}
	if !newest.Deleted && newest.Version > 0 {
		st.Version = newest.Version
		st.State = StatusSynced
		if waiting != nil && waiting.version >= newest.Version {
			st.State = StatusPending
		}
	}
	return st, errors.Join(errs...)
}
