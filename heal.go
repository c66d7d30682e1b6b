package syncengine

// heal.go replaces corrupt rows of L3 by good copies. A good copy matches its own hash and
// has the version of the row; it is looked for in L1, in what waits in the WAL, and in L2.
// The digest of L3 does not change by it: it still counts the row as it was written.

import (
	"context"
	"errors"
)

// healer is an L3 that can replace a damaged row.
type healer interface {
	// Heal replaces the row of rec's id if it is a live row of rec's version, and reports
	// whether it did.
	Heal(ctx context.Context, rec Record) (bool, error)
}

// healL3 looks for a good copy of a row of L3 that is corrupt and puts it there. It returns
// the copy, or nil when there is none or L3 did not take it.
func (e *Engine) healL3(ctx context.Context, id string) *Record {
	h := e.healer
	if h == nil {
		return nil
	}
	heads, err := e.heads(ctx, []string{id})
	if err != nil || len(heads) != 1 || heads[0].Deleted {
		return nil
	}
	rec := e.goodCopy(ctx, id, heads[0].Version)
	if rec == nil {
		return nil
	}
	done := false
	err = e.call3(ctx, "heal", true, func(ctx context.Context) (err error) {
		done, err = h.Heal(ctx, *rec)
		return err
	})
	if err != nil || !done {
		return nil
	}
	e.news.Healed(id, "L3")
	return rec
}

// goodCopy returns a live copy of a version of id whose content matches its hash, or nil.
func (e *Engine) goodCopy(ctx context.Context, id string, version uint64) *Record {
	good := func(rec *Record) bool {
		return rec.Version == version && !rec.Deleted && hashOf(rec.Content) == rec.ContentHash
	}
	if ent, ok := e.l1.Peek(id); ok {
		if rec := ent.record(); good(&rec) {
			return &rec
		}
	}
	if op, _, err := e.inWAL(ctx, id); err == nil && op != nil {
		if rec := op.record(); good(&rec) {
			return &rec
		}
	}
	if e.l2 == nil {
		return nil
	}
	// Also if L2 has missed a write of the id: the version tells which one this is.
	var rec Record
	err := e.call2(ctx, "get", func(ctx context.Context) (err error) {
		rec, err = e.l2.Get(ctx, id)
		return err
	})
	if err != nil || !good(&rec) {
		return nil
	}
	return &rec
}

// healedOr returns the good copy of a corrupt row of L3, now healed, or the error.
func (e *Engine) healedOr(ctx context.Context, id string, err error) (Record, error) {
	if !errors.Is(err, ErrCorruption) {
		return Record{}, err
	}
	e.news.Corrupted(err)
	if rec := e.healL3(ctx, id); rec != nil {
		return *rec, nil
	}
	return Record{}, err
}
