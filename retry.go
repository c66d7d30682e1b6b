package syncengine

// retry.go is the engine's way into quarantine (quarantine.go), and the caller's way out of it:
// list, retry, discard.

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/syncengine-go/syncengine/internal/failpoint"
	"github.com/syncengine-go/syncengine/internal/sqlkit"
)

// Refuse is the flusher's way into quarantine.
func (q *quarantine) Refuse(ctx context.Context, u *unit, why error) error {
	var re *RefusedError
	if errors.As(why, &re) && re.Err != nil {
		why = re.Err
	}
	at := time.Now().UnixNano() - q.queue.Now() + u.At
	added, err := q.add(context.WithoutCancel(ctx), u, at, why)
	if err != nil || !added {
		return err
	}
	failpoint.Hit(failpoint.Quarantined)
	bad := badUnit{At: at, Attempts: attempts(u.Ops()), Err: why.Error(), Ops: u.Ops()}
	group := bad.GroupIDs()
	q.news.Quarantined(len(bad.Ops), func(i int) QuarantinedOp { return bad.One(i, group) }, sqlkit.Number(why))
	return nil
}

func (q *quarantine) List(ctx context.Context) (ops []QuarantinedOp, err error) {
	if err := q.door.Enter(); err != nil {
		return nil, err
	}
	defer q.door.Exit(ctx, &err)
	units, damaged, err := q.list(ctx)
	if err != nil {
		return nil, said(ctx, err)
	}
	for i := range units {
		ops = append(ops, units[i].Public()...)
	}
	return ops, damaged
}

func (q *quarantine) Retry(ctx context.Context, ids ...string) (n int, err error) {
	if err := q.door.Enter(); err != nil {
		return 0, err
	}
	defer q.door.Exit(ctx, &err)
	rows := q.claim(ids)
	defer q.unclaim(rows) // those that left don't mind
	var damaged []error
	for some := range slices.Chunk(rows, retriedAtOnce) {
		if err := ctx.Err(); err != nil {
			return n, err
		}
		ops, bad, err := q.retrySome(ctx, some)
		if err != nil {
			return n + ops, said(ctx, err)
		}
		n, damaged = n+ops, append(damaged, bad...)
	}
	return n, errors.Join(damaged...)
}

// retriedAtOnce is of how many rows a retry discards together what the WAL still has: each time,
// the whole list of what was discarded is stored.
const retriedAtOnce = 100

// retrySome logs the ops of rows again and removes these. It returns how many there are, without
// those that have landed meanwhile, and what is damaged among them, or a merge that this build does
// not know: its row stays.
//
// What the WAL still has of them, from before a crash, is discarded first: L3 would refuse that,
// too, and the row that it gets could be discarded, while what was retried is on its way.
func (q *quarantine) retrySome(ctx context.Context, rows []*badRow) (n int, damaged []error, err error) {
	rows, end, err := q.part(ctx, rows)
	defer end()
	if err != nil {
		return 0, nil, err
	}
	sound := rows[:0]
	for _, r := range rows {
		u, err := q.read(ctx, r)
		if err == nil && u != nil {
			err = u.Damaged()
		}
		if err == nil && u != nil && !crdtBuilt && slices.ContainsFunc(u.Ops, (*entry).isMerge) {
			err = mergesNotBuilt(fmt.Sprintf("what is quarantined of %q", u.Ops[0].item())) // the WAL must not have it
		}
		switch {
		case errors.Is(err, ErrWALCorrupt), errors.Is(err, ErrCorruption), errors.Is(err, ErrFeatureNotBuilt):
			damaged = append(damaged, err)
		case err != nil:
			return 0, nil, err
		case u != nil:
			sound = append(sound, r)
		}
	}
	if err := q.disown(ctx, sound); err != nil {
		return 0, nil, err
	}
	for _, r := range sound {
		ops, err := q.retryRow(ctx, r)
		if err != nil {
			return n, nil, err
		}
		n += ops
	}
	return n, damaged, nil
}

// retryRow logs the ops of a row again and removes it.
func (q *quarantine) retryRow(ctx context.Context, r *badRow) (ops int, err error) {
	u, err := q.read(ctx, r) // once more: a hundred rows may be too large to be held
	if err != nil || u == nil {
		return 0, err
	}
	left, err := q.notOutranked(ctx, u.Ops)
	if err != nil {
		return 0, err
	}
	if len(left) > 0 {
		for _, op := range left {
			op.attempts = uint8(min(u.Attempts, math.MaxUint8))
			op.state.And(^stateLate) // the log tells anew: L3 has nothing above it
		}
		q.wal.Occupy(left) // whatever else waits: the room is that of the row, which goes
		q.lift(ctx, left)
		q.retrying(r)
		// From here on the outcome must be known.
		if err := q.numbers.Log(left); err != nil {
			return 0, err
		}
		q.lift(context.WithoutCancel(ctx), left) // it may have been evicted
		q.l1.Shrink()
	}
	return len(u.Ops), q.remove(context.WithoutCancel(ctx), r)
}

// lift puts into memory what is here, or in the log, above ops that are retried: reads go on
// answering with it, not with what goes to L3 before it. An op that can't be read now they look for
// here.
func (q *quarantine) lift(ctx context.Context, ops []*entry) {
	r := newReading(idsOf(ops))
	for _, op := range ops {
		since := q.l1.Stamp(op.id())
		if op.isMerge() || !q.mayBeBelow(op) {
			continue
		}
		if best, _, err := q.WaitingIn(ctx, r, op.id()); err == nil && best != nil && best.compare(op) > 0 {
			rec := best.record()
			q.l1.Promote(newEntry(&rec), since)
		}
	}
}

// mayBeBelow reports whether an op of the same id is here that is above one, or in the log and
// perhaps so.
func (q *quarantine) mayBeBelow(op *entry) bool {
	if version, ok := q.wal.Spooled(q.l1.Hash(op.id())); ok && version >= op.version {
		return true
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	best := q.newest(op.id())
	return best != nil && best.head.compare(op) > 0
}

// notOutranked returns the ops that L3 holds nothing higher of. The others were overtaken while
// they waited in quarantine: they would lose, and until then reads would answer with them. Nor
// does it return one that another op of its version beats which is on its way to L3: in the log it
// would come behind that.
func (q *quarantine) notOutranked(ctx context.Context, ops []*entry) ([]*entry, error) {
	ids := idsOf(ops)
	heads, err := q.archive.Heads(ctx, ids)
	if err != nil {
		return nil, err
	}
	above := make(map[string]Record, len(heads))
	for _, h := range heads {
		above[h.ID] = h.record()
	}
	r := newReading(ids)
	for _, op := range ops {
		rival, _ := q.l1.Peek(op.id())
		if version, ok := q.wal.Spooled(q.l1.Hash(op.id())); ok && version == op.version {
			if rival, _, err = q.wal.FindSpooled(ctx, r, op.id(), q.l1.Hash); err != nil {
				return nil, err
			}
		} else if rival != nil && !rival.pinned() { // L3 has it, or it is here, too, and may be discarded
			rival = nil
		}
		if rival != nil && rival.version == op.version && rival.compare(op) > 0 {
			above[op.id()] = rival.record()
		}
	}
	return slices.DeleteFunc(slices.Clone(ops), func(op *entry) bool {
		head, ok := above[op.id()]
		rec := op.record()
		return op.state.Load()&stateSuperseded != 0 || ok && head.Compare(&rec) > 0
	}), nil
}

func (q *quarantine) Discard(ctx context.Context, ids ...string) (n int, err error) {
	if err := q.door.Enter(); err != nil {
		return 0, err
	}
	defer q.door.Exit(ctx, &err)
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	rows := q.claim(ids)
	if len(rows) == 0 {
		return 0, nil
	}
	defer q.unclaim(rows)
	rows, end, err := q.part(ctx, rows)
	defer end()
	if err != nil || len(rows) == 0 {
		return 0, said(ctx, err)
	}
	ids = ids[:0:0]
	of := make(map[string]bool)
	for _, r := range rows {
		for _, op := range r.ops {
			ids, of[op.id] = append(ids, op.id), true
		}
	}
	below, err := q.queue.Covered(ctx, of, q.WasDiscarded)
	if err != nil {
		return 0, said(ctx, err)
	}
	if err := q.discard(context.WithoutCancel(ctx), rows); err != nil { // its outcome must be known
		return 0, err
	}
	q.numbers.Discarded(ids)
	q.queue.Uncover(of, below, func() {
		for _, r := range rows {
			for _, op := range r.ops {
				q.wal.DropDiscarded(q.l1.Hash(op.id), op.head.version, r.upTo) // the drain will skip it
				q.discardsOf(op.id).Add(1)
				q.l1.Touch(op.id) // nobody finds it from here on, who found it does not promote it
				if ent, ok := q.l1.Peek(op.id); ok && ent.compare(op.head) == 0 {
					q.l1.Drop(ent)
				}
			}
		}
	}, q.WasDiscarded)
	for _, r := range rows {
		n += len(r.ops)
	}
	return n, nil
}

// Public returns the ops of a unit as the user sees them.
func (u *badUnit) Public() []QuarantinedOp {
	group := u.GroupIDs()
	out := make([]QuarantinedOp, len(u.Ops))
	for i := range out {
		out[i] = u.One(i, group)
		out[i].Content = slices.Clone(out[i].Content)
	}
	return out
}

func (u *badUnit) GroupIDs() (group []string) {
	if len(u.Ops) > 1 {
		for _, e := range u.Ops {
			group = append(group, strings.Clone(e.item()))
		}
	}
	return group
}

// One returns an op with the content that it has itself.
func (u *badUnit) One(i int, group []string) QuarantinedOp {
	e := u.Ops[i]
	op := QuarantinedOp{
		ID: e.item(), Version: e.version, Deleted: e.deleted, GroupIDs: group, Error: u.Err,
		Attempts: u.Attempts, At: time.Unix(0, u.At).UTC(), Superseded: e.state.Load()&stateSuperseded != 0,
	}
	if !e.deleted {
		op.Content = e.content()
	}
	return op
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
