package syncengine

// quarantine.go keeps ops that L3 refuses for their own sake (INV-9), in a table of the
// WAL file, until somebody retries or discards them. A refused op of a group takes the
// group with it. Reads go on answering with a quarantined put or delete: it was
// acknowledged (INV-2).

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/syncengine-go/syncengine/internal/failpoint"
	"github.com/syncengine-go/syncengine/internal/oplog"
)

// QuarantinedOp is an op that L3 refuses.
type QuarantinedOp struct {
	ID       string
	Version  uint64
	Deleted  bool
	Content  []byte    // of a put
	GroupIDs []string  // ids of the group it belongs to, itself included; nil for a single op
	Error    string    // L3's words
	Attempts int       // how often L3 has refused it
	At       time.Time // when it was accepted, or put back by RetryQuarantined
}

// quarantine is the index of the table.
type quarantine struct {
	log  *oplog.Log
	some atomic.Bool // so that readers need no lock when it is empty

	mu   sync.Mutex // guards the fields below
	rows map[string][]badRow
	ops  int
	// Ops that were discarded, newest last. The WAL may hold them still, and a crash would bring
	// them back.
	discarded []discardedOp
	dropped   map[discardedOp]struct{} // the same, to look up
	lists     atomic.Bool              // there are some
}

type discardedOp struct {
	ID      string `json:"id"`
	Version uint64 `json:"version"`
}

const (
	discardedKey  = "discarded"
	discardedKept = 10_000
)

// badRow tells which row of the table holds a quarantined op of an id.
type badRow struct {
	row      int64
	version  uint64
	err      string
	retrying bool // the op is on its way to L3 again; the row goes soon
}

// load fills the index when the engine opens.
func (q *quarantine) load(ctx context.Context) error {
	bads, err := q.log.Bads(ctx, 0, math.MaxInt64)
	if err != nil {
		return walError(err)
	}
	if b, err := q.log.Meta(ctx, discardedKey); err != nil {
		return walError(err)
	} else if len(b) > 0 {
		var list []discardedOp
		if err := json.Unmarshal(b, &list); err != nil {
			return walError(fmt.Errorf("%w: list of discarded ops: %w", errBadPayload, err))
		}
		q.setDiscarded(list)
	}
	q.rows = make(map[string][]badRow)
	for _, b := range bads {
		units, err := decodeUnits(b.Payload)
		if err != nil {
			return walError(err)
		}
		for _, ops := range units {
			q.index(ops, b.ID, b.Error)
		}
	}
	return nil
}

// discard notes durably that units are to be forgotten wherever they are found again.
func (q *quarantine) discard(ctx context.Context, us []quarantinedUnit) error {
	q.mu.Lock()
	list := q.discarded
	for _, u := range us {
		for _, op := range u.ops {
			list = append(list, discardedOp{op.id(), op.version})
		}
	}
	q.setDiscarded(list[max(0, len(list)-discardedKept):])
	list = q.discarded
	q.mu.Unlock()
	return q.saveDiscarded(ctx, list)
}

func (q *quarantine) saveDiscarded(ctx context.Context, list []discardedOp) error {
	b, err := json.Marshal(list)
	if err != nil {
		return err
	}
	return walError(q.log.SetMeta(ctx, discardedKey, b))
}

// revive forgets that ops were discarded: their caller submits them again, with the same
// versions.
func (q *quarantine) revive(ctx context.Context, ops []*entry) error {
	if !q.lists.Load() {
		return nil
	}
	q.mu.Lock()
	list := slices.DeleteFunc(slices.Clone(q.discarded), func(d discardedOp) bool {
		return slices.ContainsFunc(ops, func(op *entry) bool { return op.version == d.Version && op.id() == d.ID })
	})
	changed := len(list) != len(q.discarded)
	if changed {
		q.setDiscarded(list)
	}
	q.mu.Unlock()
	if !changed {
		return nil
	}
	return q.saveDiscarded(ctx, list)
}

// wasDiscarded reports whether a unit read from the WAL was discarded from quarantine.
func (q *quarantine) wasDiscarded(ops []*entry) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.dropped) > 0 && slices.ContainsFunc(ops, func(op *entry) bool {
		_, ok := q.dropped[discardedOp{op.id(), op.version}]
		return ok
	})
}

// setDiscarded sets the list. q.mu is held.
func (q *quarantine) setDiscarded(list []discardedOp) {
	q.lists.Store(len(list) > 0)
	q.discarded, q.dropped = list, make(map[discardedOp]struct{}, len(list))
	for _, d := range list {
		q.dropped[d] = struct{}{}
	}
}

func (q *quarantine) index(ops []*entry, row int64, why string) {
	for _, e := range ops {
		q.rows[e.id()] = append(q.rows[e.id()], badRow{row: row, version: e.version, err: why})
	}
	q.ops += len(ops)
	q.some.Store(q.ops > 0)
}

// newest returns the row with the highest version of an id. q.mu is held.
func (q *quarantine) newest(id string) (best badRow, ok bool) {
	for _, r := range q.rows[id] {
		if !ok || r.version > best.version {
			best, ok = r, true
		}
	}
	return best, ok
}

// add stores a unit, unless it is there already: L3 refuses it again when the rest of its
// batch met an outage, or when a crash came before the WAL was trimmed. The caller lets go of
// the unit only after a nil result. added tells whether it is new.
func (q *quarantine) add(ctx context.Context, u *unit, why error) (added bool, err error) {
	ops := u.ops()
	if q.holds(ops) {
		return false, nil
	}
	row, err := q.log.AddBad(ctx, oplog.Bad{Ops: len(ops), At: u.at, Attempts: attempts(ops), Error: why.Error(), Payload: encodeUnit(nil, ops)})
	if err != nil {
		return false, walError(err)
	}
	q.mu.Lock()
	q.index(ops, row, why.Error())
	q.mu.Unlock()
	return true, nil
}

// attempts counts the refusal that has just happened.
func attempts(ops []*entry) int { return int(ops[0].attempts) + 1 } // a unit is refused as a whole

// holds reports whether each of these very ops has a row that will stay.
func (q *quarantine) holds(ops []*entry) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, e := range ops {
		if !slices.ContainsFunc(q.rows[e.id()], func(r badRow) bool { return r.version == e.version && !r.retrying }) {
			return false
		}
	}
	return true
}

// retry marks the rows of units that are about to be put back into the queue: if L3 refuses
// them again before their rows are gone, they need new ones.
func (q *quarantine) retry(us []quarantinedUnit) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, u := range us {
		for _, e := range u.ops {
			for i := range q.rows[e.id()] {
				if r := &q.rows[e.id()][i]; r.row == u.row.ID {
					r.retrying = true
				}
			}
		}
	}
}

func (q *quarantine) has(id string) bool {
	if !q.some.Load() {
		return false
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	_, ok := q.rows[id]
	return ok
}

func (q *quarantine) count() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.ops
}

// errorOf returns why one of these very ops is in quarantine, nil when none is.
func (q *quarantine) errorOf(ops []*entry) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, e := range ops {
		for _, r := range q.rows[e.id()] {
			if r.version == e.version {
				return &RefusedError{Err: errors.New(r.err)}
			}
		}
	}
	return nil
}

// find returns the quarantined op of id, or nil.
func (q *quarantine) find(ctx context.Context, id string) (*entry, error) {
	if !q.some.Load() {
		return nil, nil
	}
	q.mu.Lock()
	r, ok := q.newest(id)
	q.mu.Unlock()
	if !ok {
		return nil, nil
	}
	bads, err := q.log.Bads(ctx, r.row, r.row)
	if err != nil || len(bads) == 0 { // none: retried or discarded just now
		return nil, walError(err)
	}
	return newestIn(oplog.Segment{Payload: bads[0].Payload}, id)
}

// list returns all rows, decoded.
func (q *quarantine) list(ctx context.Context) ([]quarantinedUnit, error) {
	bads, err := q.log.Bads(ctx, 0, math.MaxInt64)
	if err != nil {
		return nil, walError(err)
	}
	var out []quarantinedUnit
	for _, b := range bads {
		units, err := decodeUnits(b.Payload)
		if err != nil {
			return nil, walError(err)
		}
		for _, ops := range units {
			out = append(out, quarantinedUnit{b, ops})
		}
	}
	return out, nil
}

// remove deletes rows from the table and the index.
func (q *quarantine) remove(ctx context.Context, us []quarantinedUnit) error {
	ids := make([]int64, len(us))
	for i := range us {
		ids[i] = us[i].row.ID
	}
	if err := q.log.DeleteBad(ctx, ids...); err != nil {
		return walError(err)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, u := range us {
		for _, e := range u.ops {
			left := slices.DeleteFunc(q.rows[e.id()], func(r badRow) bool { return r.row == u.row.ID })
			if q.rows[e.id()] = left; len(left) == 0 {
				delete(q.rows, e.id())
			}
		}
		q.ops -= len(u.ops)
	}
	q.some.Store(q.ops > 0)
	return nil
}

type quarantinedUnit struct {
	row oplog.Bad
	ops []*entry
}

func (u *quarantinedUnit) public() []QuarantinedOp {
	var group []string
	if len(u.ops) > 1 {
		for _, e := range u.ops {
			group = append(group, e.id())
		}
	}
	out := make([]QuarantinedOp, len(u.ops))
	for i, e := range u.ops {
		out[i] = QuarantinedOp{
			ID: e.id(), Version: e.version, Deleted: e.deleted, GroupIDs: group, Error: u.row.Error,
			Attempts: u.row.Attempts, At: time.Unix(0, u.row.At).UTC(),
		}
		if !e.deleted {
			out[i].Content = e.content()
		}
	}
	return out
}

// refuse is the flusher's way into quarantine.
func (e *Engine) refuse(ctx context.Context, u *unit, why error) error {
	var re *RefusedError
	if errors.As(why, &re) {
		why = re.Err
	}
	added, err := e.bad.add(context.WithoutCancel(ctx), u, why)
	if err != nil || !added {
		return err
	}
	failpoint.Hit(failpoint.Quarantined)
	e.log.Warn("L3 refused an op, now in quarantine", "ops", len(u.ops())) // its words could quote content
	if fn := e.cfg.OnEvent.Quarantined; fn != nil {
		q := quarantinedUnit{oplog.Bad{Error: why.Error(), Attempts: attempts(u.ops()), At: u.at}, u.ops()}
		for _, op := range q.public() {
			e.events.send(func() { fn(op) })
		}
	}
	return nil
}

// Quarantined lists the ops that L3 refuses, oldest first, read from the WAL file.
func (e *Engine) Quarantined(ctx context.Context) ([]QuarantinedOp, error) {
	if err := e.enter(); err != nil {
		return nil, err
	}
	defer e.leave()
	units, err := e.bad.list(ctx)
	if err != nil {
		return nil, err
	}
	var out []QuarantinedOp
	for i := range units {
		out = append(out, units[i].public()...)
	}
	return out, nil
}

// selectBad returns the quarantined units that hold any of ids, all of them without ids.
func (e *Engine) selectBad(ctx context.Context, ids []string) (us []quarantinedUnit, ops int, err error) {
	all, err := e.bad.list(ctx)
	if err != nil {
		return nil, 0, err
	}
	want := make(map[string]bool, len(ids))
	for _, id := range ids {
		want[id] = true
	}
	for _, u := range all {
		pick := len(ids) == 0
		for _, op := range u.ops {
			pick = pick || want[op.id()]
		}
		if pick {
			us, ops = append(us, u), ops+len(u.ops)
		}
	}
	return us, ops, nil
}

// RetryQuarantined puts quarantined ops back into the queue, as if submitted again with
// the same version: those of ids with their groups, or all without ids. It returns how many
// ops left quarantine; they are in the WAL then, but for those that L3 holds something newer
// of, which are forgotten. An op that L3 refuses again comes back to quarantine.
func (e *Engine) RetryQuarantined(ctx context.Context, ids ...string) (int, error) {
	if err := e.enter(); err != nil {
		return 0, err
	}
	defer e.leave()
	us, ops, err := e.selectBad(ctx, ids)
	if err != nil || len(us) == 0 {
		return 0, err
	}
	e.bad.retry(us)
	for _, u := range us {
		for _, op := range u.ops {
			op.attempts = uint8(min(u.row.Attempts, math.MaxUint8))
		}
		left, err := e.notOutranked(ctx, u.ops)
		if err != nil {
			return 0, err
		}
		if len(left) > 0 {
			if err := e.reserve(left); err != nil {
				return 0, err
			}
			if err := e.logOps(ctx, left, Logged, retried); err != nil {
				return 0, err
			}
		}
	}
	return ops, e.bad.remove(ctx, us)
}

// notOutranked returns the ops that L3 holds nothing higher of. The others were overtaken
// while they waited in quarantine: they would lose, and until then reads would answer with
// them.
func (e *Engine) notOutranked(ctx context.Context, ops []*entry) ([]*entry, error) {
	ids := make([]string, len(ops))
	for i, op := range ops {
		ids[i] = op.id()
	}
	heads, err := e.heads(ctx, ids)
	if err != nil {
		return nil, err
	}
	above := make(map[string]Record, len(heads))
	for _, h := range heads {
		above[h.ID] = h.record()
	}
	return slices.DeleteFunc(slices.Clone(ops), func(op *entry) bool {
		head, ok := above[op.id()]
		rec := op.record()
		return ok && head.Compare(&rec) > 0
	}), nil
}

// retried is an assign for ops that keep their versions, though something newer may have
// been written since.
func retried(*entry) error {
	return nil
}

// DiscardQuarantined forgets quarantined ops: those of ids with their groups, or all
// without ids. Reads then answer with what L3 holds. It returns how many ops it removed.
func (e *Engine) DiscardQuarantined(ctx context.Context, ids ...string) (int, error) {
	if err := e.enter(); err != nil {
		return 0, err
	}
	defer e.leave()
	us, ops, err := e.selectBad(ctx, ids)
	if err != nil || len(us) == 0 {
		return 0, err
	}
	if err := e.bad.discard(ctx, us); err != nil {
		return 0, err
	}
	if err := e.bad.remove(ctx, us); err != nil {
		return 0, err
	}
	for _, u := range us {
		for _, op := range u.ops {
			if ent, ok := e.l1.peek(op.id()); ok && ent.version == op.version {
				e.l1.drop(ent)
			}
		}
	}
	return ops, nil
}
