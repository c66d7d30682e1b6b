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
//     its row goes when it lands.
//
// retry.go has the calls. No goroutines.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// quarantine is the index of the table.
type quarantine struct {
	wal      *journal
	l1       *l1
	queue    *queue
	numbers  *numbers
	archive  *archive
	pressure *pressure
	door     *door
	news     *news

	some atomic.Bool // there are rows; so that readers need no lock when there are none

	mu        sync.Mutex // guards the fields below
	rows      map[int64]*badRow
	byID      map[string][]*badOp
	ops       int
	discarded map[discardedOp]int64 // up to which segment
	leaving   map[discardedOp]int64 // the same, of calls of Discard that have not noted it yet

	discards [64]atomic.Uint64 // how often something was discarded, by the hashes of ids

	saving  sync.Mutex // held from a copy of discarded until it is stored
	marking sync.Mutex // held from reading a row until it is stored with its marks
}

func newQuarantine(w *journal, mem *l1, q *queue, n *numbers, a *archive, p *pressure, d *door, news *news) *quarantine {
	return &quarantine{wal: w, l1: mem, queue: q, numbers: n, archive: a, pressure: p, door: d, news: news}
}

// badRow is a row of the table: a unit.
type badRow struct {
	id       int64
	err      string
	seq      int64 // of the unit, 0 when an earlier engine put it here
	upTo     int64 // the segment of the WAL that has the ops, or the last one of an earlier engine; 0: not known
	ops      []*badOp
	claimed  bool // by a Retry or Discard under way
	retrying bool // the op is on its way to L3 again: refused again, it needs a new row
}

// badOp is an op of a row, without content.
type badOp struct {
	id         string
	head       *entry
	row        *badRow
	superseded bool
}

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

// Load fills the index when the engine opens.
func (q *quarantine) Load(ctx context.Context) error {
	q.rows, q.byID = make(map[int64]*badRow), make(map[string][]*badOp)
	q.leaving = make(map[discardedOp]int64)
	bads, err := q.wal.Bads(ctx, 0, math.MaxInt64)
	if err != nil {
		return err
	}
	last, _ := q.wal.Extent()
	for i := range bads {
		q.index(bads[i].Ops, bads[i].Row, bads[i].Err, 0, last)
	}
	b, err := q.wal.Meta(ctx, discardedKey)
	if err != nil {
		return err
	}
	_, trimmed := q.wal.Extent()
	q.discarded, err = decodeDiscarded(b, trimmed)
	return err
}

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

// index adds a row. q.mu is held, or nobody else knows q yet.
func (q *quarantine) index(ops []*entry, row int64, why string, seq, upTo int64) {
	r := &badRow{id: row, err: why, seq: seq, upTo: upTo}
	for _, e := range ops {
		op := &badOp{id: e.id(), head: e.shadow(), row: r, superseded: e.state.Load()&stateSuperseded != 0}
		r.ops = append(r.ops, op)
		q.byID[op.id] = append(q.byID[op.id], op)
	}
	q.rows[row] = r
	q.ops += len(ops)
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

func (q *quarantine) unpin(ops []*entry) {
	for _, e := range ops {
		q.l1.Unpin(e)
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
	bads, err := q.wal.Bads(ctx, r.id, r.id)
	if err != nil || len(bads) == 0 { // none: retried or discarded just now
		return err
	}
	for _, e := range bads[0].Ops {
		for op := range ops {
			if op.id == e.id() && op.head.compare(e) == 0 {
				e.state.Or(stateSuperseded)
			}
		}
	}
	if err := q.wal.UpdateBad(ctx, &bads[0]); err != nil {
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
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(q.rows)) {
		r := q.rows[id]
		wanted := len(ids) == 0 || slices.ContainsFunc(r.ops, func(op *badOp) bool { return slices.Contains(ids, itemOf(op.id)) })
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

// discard deletes claimed rows for good, and returns up to which segment the WAL may still hold
// their ops.
func (q *quarantine) discard(ctx context.Context, rows []*badRow) (last int64, err error) {
	q.saving.Lock()
	defer q.saving.Unlock()
	last, trimmed := q.wal.Extent()
	q.mu.Lock()
	next := maps.Clone(q.discarded)
	q.mu.Unlock()
	maps.DeleteFunc(next, func(_ discardedOp, upTo int64) bool { return upTo <= trimmed })
	ids := make([]int64, len(rows))
	for i, r := range rows {
		ids[i] = r.id
		for _, op := range r.ops {
			next[op.discarded()] = r.inWAL(last)
		}
	}
	list := make([]savedDiscard, 0, len(next))
	for d, upTo := range next {
		list = append(list, savedDiscard{ID: d.id, Version: d.version, Deleted: d.deleted, Hash: slices.Clone(d.hash[:]), Of: d.of, UpTo: upTo})
	}
	b, err := json.Marshal(list)
	if err != nil {
		return 0, err
	}
	if err := q.wal.DiscardBad(ctx, ids, discardedKey, b); err != nil {
		return 0, err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.discarded = next
	q.forget(slices.DeleteFunc(slices.Clone(rows), func(r *badRow) bool { return q.rows[r.id] != r })...)
	return last, nil
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
// waits for those that are on their way there. It returns the rows that are left then: of the
// others L3 has taken the ops.
func (q *quarantine) part(ctx context.Context, rows []*badRow) (left []*badRow, end func(), err error) {
	last, _ := q.wal.Extent()
	q.mu.Lock()
	for _, r := range rows {
		for _, op := range r.ops {
			q.leaving[op.discarded()] = r.inWAL(last)
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

// inWAL returns up to which segment the WAL may hold the ops of a row. An identical repetition that
// came later is another op.
func (r *badRow) inWAL(last int64) int64 {
	if r.upTo > 0 {
		return r.upTo
	}
	return last // a Buffered one may have been logged while it was refused
}

// discarded is what tells an op of the WAL that was discarded.
func (op *badOp) discarded() discardedOp {
	return discardedOp{op.id, op.head.version, op.head.deleted, op.head.hash, len(op.row.ops)}
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

// Discards counts discards of an id, and of a few others: what was found before one may not be
// there any more.
func (q *quarantine) Discards(id string) uint64 { return q.discardsOf(id).Load() }

func (q *quarantine) discardsOf(id string) *atomic.Uint64 {
	return &q.discards[q.l1.Hash(id)%uint64(len(q.discards))]
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

// find returns the newest op of id that is not superseded, or nil.
func (q *quarantine) find(ctx context.Context, id string) (*entry, error) {
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
		bads, err := q.wal.Bads(ctx, op.row.id, op.row.id)
		if err != nil {
			return nil, err
		}
		if len(bads) > 0 {
			return newestOf(id, bads[0].Ops)
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
	spooled, recovered, err := q.wal.FindSpooled(ctx, id, q.l1.Hash(id))
	if err != nil {
		return nil, false, err
	}
	refused, err := q.find(ctx, id)
	if err != nil || refused == nil {
		return spooled, recovered, err
	}
	if spooled != nil && spooled.compare(refused) > 0 {
		return spooled, recovered, nil
	}
	return refused, true, nil // L3 may have taken a later op of the id
}

// list returns all rows.
func (q *quarantine) list(ctx context.Context) ([]badUnit, error) {
	return q.wal.Bads(ctx, 0, math.MaxInt64)
}

// read returns a row, nil when it is not there any more.
func (q *quarantine) read(ctx context.Context, r *badRow) (*badUnit, error) {
	bads, err := q.wal.Bads(ctx, r.id, r.id)
	if err != nil || len(bads) == 0 {
		return nil, err
	}
	return &bads[0], nil
}

// Public returns the ops of a unit as the user sees them.
func (u *badUnit) Public() []QuarantinedOp {
	var group []string
	if len(u.Ops) > 1 {
		for _, e := range u.Ops {
			group = append(group, e.item())
		}
	}
	out := make([]QuarantinedOp, len(u.Ops))
	for i, e := range u.Ops {
		out[i] = QuarantinedOp{
			ID: e.item(), Version: e.version, Deleted: e.deleted, GroupIDs: group, Error: u.Err,
			Attempts: u.Attempts, At: time.Unix(0, u.At).UTC(), Superseded: e.state.Load()&stateSuperseded != 0,
		}
		if !e.deleted {
			out[i].Content = slices.Clone(e.content())
		}
	}
	return out
}

// Damaged returns the error of an op that is not what was submitted, nil when all are.
func (u *badUnit) Damaged() error {
	var errs []error
	for _, e := range u.Ops {
		if e.state.Load()&(stateDamaged|stateSuperseded) == stateDamaged {
			errs = append(errs, e.damage("WAL"))
		}
	}
	return errors.Join(errs...)
}
