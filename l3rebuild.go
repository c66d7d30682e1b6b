package syncengine

// l3rebuild.go makes an item anew of what sync_ops has of it. Damaged rows are left out, and told
// of.

import (
	"context"
	"fmt"
	"slices"

	"github.com/syncengine-go/syncengine/internal/sqlkit"
)

func (s *sqlStore) Rebuild(ctx context.Context, id string) (rec Record, changed bool, damaged int, err error) {
	if err := s.run(ctx, "prepare", func() error { return s.prepareWrites(ctx, []Record{{Item: Item{ID: id}, Deleted: true}}, nil) }); err != nil {
		return rec, false, 0, err
	}
	nonce, engine := s.plain.begin(), s.engine()
	err = s.run(ctx, "rebuild", func() error {
		return s.inTx(ctx, func(tx *sqlkit.Tx) error {
			rec, changed, damaged = Record{}, false, 0
			head, err := s.lockItem(ctx, tx, id)
			if err != nil {
				return err
			}
			if head == nil || head.Deleted {
				return ErrNotFound
			}
			return s.rebuildIn(ctx, tx, head, nonce, &rec, &changed, &damaged)
		})
	})
	s.plain.end(nonce, false, engine, nil)
	return rec, changed, damaged, err
}

func (s *sqlStore) rebuildIn(ctx context.Context, tx *sqlkit.Tx, head *lockedHead, nonce int64, rec *Record, changed *bool, damaged *int) error {
	var row scanned
	if err := tx.QueryRowContext(ctx, selectOne, head.ID).Scan(row.fields()...); err != nil {
		return err
	}
	now, why := row.record(s.codec)
	rows, err := s.itemRows(ctx, tx, head.ID)
	if err != nil {
		return err
	}
	*damaged = damagedRows(rows, head.kind)
	made, ok := replay(head.ID, rows)
	switch {
	case !ok && why != nil:
		return why
	case !ok, why == nil && made.ContentHash == now.ContentHash, why == nil && *damaged > 0:
		*rec = now // there is nothing better than this
		return nil
	}
	// The columns beside the content may be damaged as well; what can be read of them stays.
	made.Version, made.Priority = head.Version, PriorityNormal
	if p := Priority(row.priority.value); !row.priority.bad && p.valid() {
		made.Priority = p
	}
	made.TraceParent, made.TraceState, made.HomeInstanceID = string(row.parent), string(row.state), string(row.home)
	if made.ContentHash != head.ContentHash {
		if head.Version >= MaxVersion-1 {
			return staleError(newEntry(&made), head.Version)
		}
		made.Version = rowVersion(head.Version)
	}
	p := &plan{}
	packed := rowsOf([]Record{made}, s.codec)
	p.write(&packed[0], true, head)
	if err := s.writePlan(ctx, tx, p); err != nil {
		return err
	}
	*rec, *changed = made, true
	return s.noteDelta(ctx, tx, p, nonce)
}

// replay returns the state that the rows of an item make: the newest snapshot, and the merges above
// it in the order in which they were applied. Damaged rows are left out. ok tells whether there was
// any.
func replay(id string, rows []opRow) (rec Record, ok bool) {
	slices.SortStableFunc(rows, func(a, b opRow) int { return compareVersions(a.ord, b.ord) })
	var state *merged
	for i := range rows {
		r := &rows[i]
		if r.damaged() {
			continue
		}
		if r.hash == nil {
			if isSnapshot(r.key) { // all that was there was deleted
				state, rec = nil, Record{}
			}
			continue
		}
		op := r.record()
		if isSnapshot(r.key) {
			if s, err := openState(r.kind, r.content); err == nil {
				state, rec.CRDT, rec.UpdatedAt = s, r.kind, op.UpdatedAt
			}
			continue
		}
		if state == nil || rec.CRDT != r.kind {
			var err error
			if state, err = openState(r.kind, nil); err != nil {
				continue
			}
		}
		if state.Merge(&op) != nil {
			return rec, false // it was merged once: this is not what was
		}
		rec.CRDT, rec.UpdatedAt = r.kind, op.UpdatedAt
	}
	if state == nil {
		return rec, false
	}
	content, err := state.Bytes()
	rec.ID, rec.Content, rec.ContentHash = id, content, hashOf(content)
	return rec, err == nil
}

// rebuild returns the live row of an item as its merges make it, for one that can't be read for a
// reason.
func (s *sqlStore) rebuild(ctx context.Context, tx *sqlkit.Tx, id string, version uint64, why error) (rec Record, err error) {
	ops, err := s.itemRows(ctx, tx, id)
	if err != nil {
		return rec, err
	}
	rec, ok := replay(id, ops)
	if !ok {
		return rec, &RefusedError{Err: fmt.Errorf("the state is damaged, and there are no merges to rebuild it from: %w", why)}
	}
	rec.Version = version
	return rec, nil
}
