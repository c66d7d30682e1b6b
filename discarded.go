package syncengine

// discarded.go is the part of quarantine that remembers what was discarded, since the WAL may hold
// it still.

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
)

// discardedOp is an op that is not wanted any more.
type discardedOp struct {
	id      string
	version uint64
	deleted bool
	hash    [32]byte
	of      int // how many ops its unit has: another unit may hold the same op
}

// savedDiscard is a discardedOp in the WAL file.
type savedDiscard struct {
	ID      string `json:"id"`
	Version uint64 `json:"version"`
	Deleted bool   `json:"deleted,omitempty"`
	Hash    []byte `json:"hash,omitempty"`
	Of      int    `json:"of"`
	UpTo    int64  `json:"up_to"`
}

const discardedKey = "discarded"

// decodeDiscarded reads what discard stores, without what was trimmed since.
func decodeDiscarded(b []byte, trimmed int64) (map[discardedOp]int64, error) {
	out := make(map[discardedOp]int64)
	if len(b) == 0 {
		return out, nil
	}
	var list []savedDiscard
	if err := json.Unmarshal(b, &list); err != nil {
		return nil, walError(fmt.Errorf("%w: list of discarded ops: %w", errBadPayload, err))
	}
	for _, d := range list {
		if d.UpTo > trimmed {
			op := discardedOp{id: d.ID, version: d.Version, deleted: d.Deleted, of: d.Of}
			copy(op.hash[:], d.Hash)
			out[op] = d.UpTo
		}
	}
	return out, nil
}

// discardedIn tells of a file that no engine has open which units were discarded, as WasDiscarded
// does.
func discardedIn(b []byte, trimmed int64) (was func(ops []*entry, segment int64) bool, err error) {
	q := &quarantine{}
	q.discarded, err = decodeDiscarded(b, trimmed)
	return q.WasDiscarded, err
}

// discard deletes rows that were parted from what the WAL still has of them, and disowns that.
func (q *quarantine) discard(ctx context.Context, rows []*badRow) error {
	ids := make([]int64, len(rows))
	for i, r := range rows {
		ids[i] = r.id
	}
	return q.disown(ctx, rows, ids...)
}

// disown notes that what the WAL still has of rows is not wanted any more, and deletes rows with
// these ids, both or neither.
func (q *quarantine) disown(ctx context.Context, rows []*badRow, ids ...int64) error {
	q.saving.Lock()
	defer q.saving.Unlock()
	_, trimmed := q.wal.Extent()
	q.mu.Lock()
	next := maps.Clone(q.discarded)
	q.mu.Unlock()
	maps.DeleteFunc(next, func(_ discardedOp, upTo int64) bool { return upTo <= trimmed })
	news := len(ids) > 0
	for _, r := range rows {
		for _, op := range r.ops {
			if key := op.discarded(); r.upTo > max(trimmed, next[key]) {
				next[key], news = r.upTo, true
			}
		}
	}
	if !news {
		return nil
	}
	list := make([]savedDiscard, 0, len(next))
	for d, upTo := range next {
		list = append(list, savedDiscard{ID: d.id, Version: d.version, Deleted: d.deleted, Hash: slices.Clone(d.hash[:]), Of: d.of, UpTo: upTo})
	}
	b, err := json.Marshal(list)
	if err != nil {
		return err
	}
	if err := q.wal.DiscardBad(ctx, ids, discardedKey, b); err != nil {
		return err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.discarded = next
	for _, id := range ids {
		if r, ok := q.rows[id]; ok {
			q.forget(r)
		}
	}
	return nil
}

// WasDiscarded reports whether a unit read from a segment of the WAL was discarded since. One
// that holds something else as well is another unit.
func (q *quarantine) WasDiscarded(ops []*entry, segment int64) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.discarded)+len(q.leaving) > 0 && !slices.ContainsFunc(ops, func(op *entry) bool {
		key := discardedOp{op.id(), op.version, op.deleted, op.hash, len(ops)}
		return max(q.discarded[key], q.leaving[key]) < segment
	})
}

// part keeps ops of claimed rows from being sent to L3 from the WAL, until the end of the call, and
// waits for those that are on their way there. It returns the rows that are left then, and notes up
// to which segment the WAL may have them: of the others L3 has taken the ops.
func (q *quarantine) part(ctx context.Context, rows []*badRow) (left []*badRow, end func(), err error) {
	for _, r := range rows {
		for _, op := range r.ops { // a Buffered one was refused while an outage put it into the log
			if err := q.numbers.Settle(ctx, itemOf(op.id)); err != nil {
				return nil, func() {}, err
			}
		}
	}
	// What comes later and is the same is another op.
	last, _ := q.wal.Extent()
	q.mu.Lock()
	for _, r := range rows {
		if r.upTo == 0 {
			r.upTo = last
		}
		for _, op := range r.ops {
			q.leaving[op.discarded()] = r.upTo
		}
	}
	q.mu.Unlock()
	for _, r := range rows {
		for _, op := range r.ops {
			if err == nil {
				err = q.queue.AwaitFlight(ctx, op.id, op.head)
			}
		}
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	left = slices.DeleteFunc(slices.Clone(rows), func(r *badRow) bool { return q.rows[r.id] != r })
	return left, func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		for _, r := range rows {
			for _, op := range r.ops {
				delete(q.leaving, op.discarded())
			}
		}
	}, err
}

// discarded is what tells an op of the WAL that was discarded.
func (op *badOp) discarded() discardedOp {
	return discardedOp{op.id, op.head.version, op.head.deleted, op.head.hash, len(op.row.ops)}
}

// Discards counts discards of an id, and of a few others: what was found before one may not be
// there any more.
func (q *quarantine) Discards(id string) uint64 { return q.discardsOf(id).Load() }

func (q *quarantine) discardsOf(id string) *atomic.Uint64 {
	return &q.discards[q.l1.Hash(id)%uint64(len(q.discards))]
}
