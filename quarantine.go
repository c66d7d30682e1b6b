package syncengine

// quarantine.go keeps ops that L3 refuses for their own sake (INV-9), in a table of the
// WAL file, until somebody retries or discards them. A refused op of a group takes the
// group with it. Reads go on answering with a quarantined put or delete: it was
// acknowledged (INV-2).
//
// What must hold:
//
//   - An op that a later one of its id has outranked in L3 is superseded: it stays listed, and
//     answers nothing. That is noted in its row before the WAL forgets the later one.
//   - A row is retried or discarded by one call at a time, which claims it first: so each is
//     counted once, and no two calls undo each other.
//   - The WAL may still hold what is discarded, in a segment that waits for others. So it is
//     remembered as: this op, in segments up to the newest there was. In the transaction that
//     deletes its row; and until those segments are gone. Submitted again it is in a later one.
//   - A retried op is in the WAL before its row goes. A crash in between leaves it in both, and
//     its row goes when it lands. What the WAL has of it from before is discarded with the row.
//   - What is here takes room in the WAL (journal.Reserve), or an L3 that refuses everything would
//     fill the disk. So a retry needs no more of it.
//
// discarded.go has what was discarded, retry.go the calls. No goroutines.

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"unique"
)

// quarantine is the index of the table.
type quarantine struct {
	wal     *journal
	l1      *l1
	queue   *queue
	numbers *numbers
	archive *archive
	door    *door
	news    *news

	some atomic.Bool // there are rows; so that readers need no lock when there are none

	mu        sync.Mutex // guards the fields below
	rows      map[int64]*badRow
	byID      map[string][]*badOp
	ops       int
	discarded map[discardedOp]int64 // up to which segment
	leaving   map[discardedOp]int64 // the same, of calls of Discard that have not noted it yet

	discards [1024]atomic.Uint64 // how often something was discarded, by the hashes of ids

	saving  sync.Mutex // held from a copy of discarded until it is stored
	marking sync.Mutex // held from reading a row until it is stored with its marks
}

func newQuarantine(w *journal, mem *l1, q *queue, n *numbers, a *archive, d *door, news *news) *quarantine {
	return &quarantine{wal: w, l1: mem, queue: q, numbers: n, archive: a, door: d, news: news}
}

// badRow is a row of the table: a unit.
type badRow struct {
	id       int64
	err      string
	seq      int64 // of the unit, 0 when an earlier engine put it here
	upTo     int64 // the segment of the WAL that has the ops, or the last one of an earlier engine; 0: not known
	ops      []*badOp
	bytes    int64 // of the ops: what they take of the WAL
	claimed  bool  // by a Retry or Discard under way
	retrying bool  // the op is on its way to L3 again: refused again, it needs a new row
}

// badOp is an op of a row, without content.
type badOp struct {
	id         string
	head       *entry
	size       int // of its content
	row        *badRow
	superseded bool
}

// Load fills the index when the engine opens.
func (q *quarantine) Load(ctx context.Context) error {
	q.rows, q.byID = make(map[int64]*badRow), make(map[string][]*badOp)
	q.leaving = make(map[discardedOp]int64)
	last, _ := q.wal.Extent()
	err := q.wal.EachBad(ctx, func(u *badUnit) { q.index(u.Ops, u.Row, u.Err, 0, last) })
	if err != nil {
		return err
	}
	b, err := q.wal.Meta(ctx, discardedKey)
	if err != nil {
		return err
	}
	_, trimmed := q.wal.Extent()
	q.discarded, err = decodeDiscarded(b, trimmed)
	return err
}

// index adds a row. q.mu is held, or nobody else knows q yet.
func (q *quarantine) index(ops []*entry, row int64, why string, seq, upTo int64) {
	r := &badRow{id: row, err: unique.Make(why).Value(), seq: seq, upTo: upTo, bytes: opsBytes(ops)} // many rows say the same
	for _, e := range ops {
		op := &badOp{id: strings.Clone(e.id()), head: e.shadow(), size: len(e.content()), row: r, superseded: e.state.Load()&stateSuperseded != 0}
		r.ops = append(r.ops, op)
		q.byID[op.id] = append(q.byID[op.id], op)
	}
	q.rows[row] = r
	q.ops += len(ops)
	q.wal.Refused(len(ops), r.bytes)
	q.some.Store(true)
}

// forget removes rows from the index. q.mu is held.
func (q *quarantine) forget(rows ...*badRow) {
	for _, r := range rows {
		for _, op := range r.ops {
			left := slices.DeleteFunc(q.byID[op.id], func(o *badOp) bool { return o.row == r })
			if q.byID[op.id] = left; len(left) == 0 {
				delete(q.byID, op.id)
			}
		}
		delete(q.rows, r.id)
		q.ops -= len(r.ops)
		q.wal.Refused(-len(r.ops), -r.bytes)
	}
	q.some.Store(len(q.rows) > 0)
}

// add stores a unit, unless it is there already: L3 refuses it again when the rest of its
// batch met an outage, or when a crash came before the WAL was trimmed. The caller lets go of
// the unit only after a nil result. added tells whether it is new.
//
// From then on memory need not keep the ops: a discard finds them as free to go as any copy, though
// the batch that they came in goes on.
func (q *quarantine) add(ctx context.Context, u *unit, acceptedAt int64, why error) (added bool, err error) {
	ops := u.Ops()
	if q.holds(ops) {
		return false, nil
	}
	row, err := q.wal.AddBad(ctx, &badUnit{At: acceptedAt, Attempts: attempts(ops), Err: why.Error(), Ops: ops})
	if err != nil {
		return false, err
	}
	upTo := q.queue.SegmentOf(ops[0])
	q.mu.Lock()
	defer q.mu.Unlock()
	q.index(ops, row, why.Error(), u.Seq, upTo)
	q.unpin(ops)
	return true, nil
}

// attempts counts the refusal that has just happened.
func attempts(ops []*entry) int { return int(ops[0].attempts) + 1 } // a unit is refused as a whole

// holds reports whether each of these very ops has a row that will stay, or that a call is
// about to discard.
func (q *quarantine) holds(ops []*entry) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, e := range ops {
		if !slices.ContainsFunc(q.byID[e.id()], func(o *badOp) bool { return o.head.compare(e) == 0 && !o.row.retrying }) {
			return false
		}
	}
	q.unpin(ops)
	return true
}

// unpin lets memory forget ops. Whether L3 holds something above them, which their version alone
// does not tell (WithVersion), the next read finds out, since it asks L3 beside quarantine.
func (q *quarantine) unpin(ops []*entry) {
	for _, e := range ops {
		q.l1.Unpin(e)
		q.l1.Drop(e)
	}
}

// Landed is told what L3 holds now, or holds something higher of. Ops below are superseded; one
// that is in L3 itself after all is not needed here any more.
func (q *quarantine) Landed(ctx context.Context, recs []Record) error {
	if !q.some.Load() {
		return nil
	}
	rows := make(map[*badRow]map[*badOp]int) // what to change: ops by how they compare with what landed
	q.mu.Lock()
	for i := range recs {
		for _, op := range q.byID[recs[i].ID] {
			have := Record{Item: Item{Version: op.head.version, ContentHash: op.head.hash}, Deleted: op.head.deleted}
			if c := recs[i].Compare(&have); c >= 0 && !op.superseded {
				if rows[op.row] == nil {
					rows[op.row] = make(map[*badOp]int)
				}
				rows[op.row][op] = c
			}
		}
	}
	q.mu.Unlock()
	for r, ops := range rows {
		if err := q.outrank(context.WithoutCancel(ctx), r, ops); err != nil {
			return err
		}
	}
	return nil
}

// outrank marks ops of a row as superseded, first in the file. A row all of whose ops are in L3
// goes.
func (q *quarantine) outrank(ctx context.Context, r *badRow, ops map[*badOp]int) error {
	q.marking.Lock()
	defer q.marking.Unlock()
	same := 0
	for _, c := range ops {
		if c == 0 {
			same++
		}
	}
	if same == len(r.ops) {
		if err := q.wal.DeleteBad(ctx, r.id); err != nil {
			return err
		}
		q.mu.Lock()
		defer q.mu.Unlock()
		if q.rows[r.id] == r {
			q.forget(r)
		}
		return nil
	}
	heads := make(map[string][]*entry, len(ops))
	for op := range ops {
		heads[op.id] = append(heads[op.id], op.head)
	}
	want := func(id []byte, _ uint64) bool { return heads[string(id)] != nil }
	ok, err := q.wal.MarkBad(ctx, r.id, want, func(e *entry) bool {
		return slices.ContainsFunc(heads[e.id()], func(head *entry) bool { return head.compare(e) == 0 })
	})
	if err != nil || !ok { // gone: retried or discarded just now
		return err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for op := range ops {
		op.superseded = true
	}
	return nil
}

// claim takes the rows that hold any of ids, all of them without ids, and that no other call has
// claimed, oldest first.
func (q *quarantine) claim(ids []string) (rows []*badRow) {
	those := make(map[string]bool, len(ids))
	for _, id := range ids {
		those[id] = true
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(q.rows)) {
		r := q.rows[id]
		wanted := len(ids) == 0 || slices.ContainsFunc(r.ops, func(op *badOp) bool { return those[itemOf(op.id)] })
		if wanted && !r.claimed {
			r.claimed = true
			rows = append(rows, r)
		}
	}
	return rows
}

// unclaim gives back what is left of claimed rows.
func (q *quarantine) unclaim(rows []*badRow) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, r := range rows {
		r.claimed, r.retrying = false, false
	}
}

// retrying notes that the op of a claimed row is about to be in the queue again.
func (q *quarantine) retrying(r *badRow) {
	q.mu.Lock()
	r.retrying = true
	q.mu.Unlock()
}

// remove deletes a claimed row.
func (q *quarantine) remove(ctx context.Context, r *badRow) error {
	if err := q.wal.DeleteBad(ctx, r.id); err != nil {
		return err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.rows[r.id] == r { // else its op has landed meanwhile
		q.forget(r)
	}
	return nil
}

// newest returns the newest op of an id that is not superseded, or nil. q.mu is held.
func (q *quarantine) newest(id string) (best *badOp) {
	for _, op := range q.byID[id] {
		if !op.superseded && (best == nil || op.head.compare(best.head) > 0) {
			best = op
		}
	}
	return best
}

// RefusedAt returns the version of the newest op of id that is here and may answer reads, or 0.
func (q *quarantine) RefusedAt(id string) uint64 {
	if !q.some.Load() {
		return 0
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if op := q.newest(id); op != nil {
		return op.head.version
	}
	return 0
}

// Below returns the ids that begin with prefix and of which an op is here that may answer reads, in
// any order. Those of merges are not among them: reads answer without them.
func (q *quarantine) Below(prefix string) (ids []string) {
	if !q.some.Load() {
		return nil
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for id := range q.byID {
		if strings.HasPrefix(id, prefix) && !isMerge(id) && q.newest(id) != nil {
			ids = append(ids, id)
		}
	}
	return ids
}

// Any reports whether anything is here.
func (q *quarantine) Any() bool { return q.some.Load() }

// Has reports whether an op of id is here that may answer reads.
func (q *quarantine) Has(id string) bool {
	if !q.some.Load() {
		return false
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.newest(id) != nil
}

// HasMerge reports whether a merge of an item is here. Reads answer without it.
func (q *quarantine) HasMerge(item string) bool {
	if !q.some.Load() {
		return false
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for key := range q.byID {
		if isMerge(key) && itemOf(key) == item {
			return true
		}
	}
	return false
}

// Of counts the ops of an item that are here: those that count, and those that are superseded; with
// L3's words about the newest of them.
func (q *quarantine) Of(item string) (refused, superseded int, why string) {
	if !q.some.Load() {
		return 0, 0, ""
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	newest := uint64(0)
	for key, ops := range q.byID {
		if itemOf(key) != item {
			continue
		}
		for _, op := range ops {
			if op.superseded {
				superseded++
			} else {
				refused++
			}
			if op.head.version >= newest {
				newest, why = op.head.version, op.row.err
			}
		}
	}
	return refused, superseded, why
}

// LowestMerge returns the lowest number of a merge that is here.
func (q *quarantine) LowestMerge() uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	low := uint64(math.MaxUint64)
	for key := range q.byID {
		if isMerge(key) {
			low = min(low, seqOfKey(key))
		}
	}
	return low
}

// Count returns how many ops are here.
func (q *quarantine) Count() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.ops
}

// RefusedUpTo reports whether an op is here, and not superseded, of a unit up to a number.
func (q *quarantine) RefusedUpTo(seq int64) bool {
	if !q.some.Load() {
		return false
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, r := range q.rows {
		if r.seq <= seq && slices.ContainsFunc(r.ops, func(op *badOp) bool { return !op.superseded }) {
			return true
		}
	}
	return false
}

// Within returns of how many ids, from the first, the ops that answer for them here have so many
// bytes of content: of one at least, if there is one.
func (q *quarantine) Within(ids []string, bytes int) (n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for sum := 0; n < len(ids) && sum < bytes; n++ {
		if op := q.newest(ids[n]); op != nil {
			sum += op.size
		}
	}
	return n
}

// find returns the newest op of id that is not superseded, or nil.
func (q *quarantine) find(ctx context.Context, r *reading, id string) (*entry, error) {
	if !q.some.Load() {
		return nil, nil
	}
	for {
		q.mu.Lock()
		op := q.newest(id)
		q.mu.Unlock()
		if op == nil {
			return nil, nil
		}
		found, ok, err := q.wal.FindBad(ctx, r, op.row.id, id, op.head.version, q.RefusedAt)
		if err != nil || ok {
			return found, err
		}
		q.mu.Lock()
		if q.rows[op.row.id] == op.row && !op.row.claimed { // gone from the file alone: it landed
			q.forget(op.row)
		}
		q.mu.Unlock()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
}

// Waiting returns the newest op of id that is in quarantine or spooled, or nil. askL3
// tells that an earlier engine wrote it, so that L3 may hold something newer (wal.go).
func (q *quarantine) Waiting(ctx context.Context, id string) (op *entry, askL3 bool, err error) {
	return q.WaitingIn(ctx, nil, id)
}

// WaitingIn is Waiting within what a call reads that asks for many ids.
func (q *quarantine) WaitingIn(ctx context.Context, r *reading, id string) (op *entry, askL3 bool, err error) {
	spooled, recovered, err := q.wal.FindSpooled(ctx, r, id, q.l1.Hash)
	if err != nil {
		return nil, false, err
	}
	refused, err := q.find(ctx, r, id)
	if err != nil || refused == nil {
		return spooled, recovered, err
	}
	if spooled != nil && spooled.compare(refused) > 0 {
		return spooled, recovered, nil
	}
	return refused, true, nil // L3 may have taken a later op of the id
}

// list returns all rows, and what is damaged among those that are not in them.
func (q *quarantine) list(ctx context.Context) (units []badUnit, damaged error, err error) {
	units, err = q.wal.Bads(ctx, 0, math.MaxInt64)
	if !errors.Is(err, ErrWALCorrupt) {
		return units, nil, err
	}
	q.mu.Lock()
	rows := slices.SortedFunc(maps.Values(q.rows), func(a, b *badRow) int { return cmp.Compare(a.id, b.id) })
	q.mu.Unlock()
	for _, r := range rows {
		switch u, err := q.read(ctx, r); {
		case errors.Is(err, ErrWALCorrupt):
			damaged = errors.Join(damaged, err)
		case err != nil:
			return nil, nil, err
		case u != nil:
			units = append(units, *u)
		}
	}
	return units, damaged, nil
}

// read returns a row, nil when it is not there any more.
func (q *quarantine) read(ctx context.Context, r *badRow) (*badUnit, error) {
	bads, err := q.wal.Bads(ctx, r.id, r.id)
	switch {
	case errors.Is(err, ErrWALCorrupt):
		var ids []string
		for _, op := range r.ops {
			ids = append(ids, itemOf(op.id))
		}
		return nil, fmt.Errorf("what is quarantined of %q: %w", ids, err)
	case err != nil || len(bads) == 0:
		return nil, err
	}
	return &bads[0], nil
}
