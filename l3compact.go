package syncengine

// l3compact.go takes old rows out of sync_ops, and rebuilds items from what is there.
//
// # What is kept of an item
//
//	key                what
//	id 0 node/n/s, /d  a merge. All that are younger than RetentionFullDays are here
//	id 0 @day          a snapshot: the state after the last merge of a day that is older than that
//	id 0               the base: the snapshot of all that is older than RetentionCompactDays, the
//	                   version of the last delete, and the dots of merges whose rows were removed
//
// Each has an ord: the version of the item when it was so. The merges of an item are applied in the
// order of ord, so the newest snapshot and the merges above it make the state, byte for byte
// (replay). A row goes only in the transaction that writes the snapshot which has it, and its dot
// then stands in the base: so it is not applied again, however late it comes once more. Of a node
// that has said up to where its merges are settled (settled.go), the base remembers that alone. How
// old a merge is says its version or UpdatedAt, whichever is earlier.
//
// Compaction takes one item at a time, in transactions of at most compactOps merges, under the lock
// of the item's row, which those who merge take, too. So several engines may compact at once; they
// would only do the same work twice, and therefore one at a time claims it, while its
// pass goes on (Claim).

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/syncengine-go/syncengine/internal/dotset"
	"github.com/syncengine-go/syncengine/internal/sqlkit"
)

const (
	compactOps   = 1000    // merges folded in one transaction
	compactHeads = 100_000 // heads of one item that are looked at at once
)

// compacter is an L3 that keeps merges.
type compacter interface {
	// ClaimNode replaces the claim on a node, "" if there is none, and reports whether it was was.
	ClaimNode(ctx context.Context, node, was, now string) (mine bool, err error)
	// Claim reports whether this engine may compact for a while: no other one does.
	Claim(ctx context.Context, who string, now time.Time, during time.Duration) (bool, error)
	// Unclaim ends the claim of this engine, if it has it.
	Unclaim(ctx context.Context, who string) error
	// ItemsAbove returns some of the items that have rows, in order.
	ItemsAbove(ctx context.Context, after string) (ids []string, err error)
	// Settle notes that all merges of a node up to a number are settled, and returns up to where
	// those of each node are that has said so.
	Settle(ctx context.Context, node string, upTo uint64) (settled map[string]uint64, err error)
	// CompactItem folds what is old of an item, at most compactOps merges; more tells that there
	// are others.
	CompactItem(ctx context.Context, id string, keepOps, keepDays time.Time, settled map[string]uint64) (r CompactReport, more bool, err error)
	// Rebuild makes an item's row what its merges make it, if it is not. damaged is how many rows
	// of merges can't be read.
	Rebuild(ctx context.Context, id string) (rec Record, changed bool, damaged int, err error)
}

// opHead is a row of sync_ops without content.
type opHead struct {
	key     string
	ord     uint64
	version uint64
	at      int64
	wrong   bool // see opRow
}

// age is when a merge was made.
func (h *opHead) age() time.Time {
	at := storedTime(h.at)
	if byVersion := time.UnixMilli(int64(h.version >> 16)); byVersion.Before(at) {
		return byVersion
	}
	return at
}

func dayKey(id string, at time.Time) string { return id + "\x00@" + at.UTC().Format("2006-01-02") }

// claimKey is the row that says who compacts: no item has it.
const claimKey = "\x00"

// nodeClaimKey is the row that has the claim on a node (mergenumbers.go).
func nodeClaimKey(node string) string { return claimKey + node + "/" }

func (s *sqlStore) ClaimNode(ctx context.Context, node, was, now string) (mine bool, err error) {
	err = s.run(ctx, "claim", func() error {
		if was != "" {
			n, err := s.alone(ctx, "UPDATE sync_ops SET crdt = ? WHERE op = ? AND crdt = ?", now, []byte(nodeClaimKey(node)), was)
			mine = n == 1
			return err
		}
		row := opRow{key: nodeClaimKey(node), kind: now}
		_, err := s.alone(ctx, insertOps(1), row.args(nil)...)
		if mine = err == nil; sqlkit.IsDuplicate(err) {
			return nil
		}
		return err
	})
	return mine, err
}

func (s *sqlStore) Claim(ctx context.Context, who string, now time.Time, during time.Duration) (mine bool, err error) {
	err = s.run(ctx, "claim", func() error {
		return s.inTx(ctx, func(tx *sqlkit.Tx) error {
			text := "SELECT crdt, updated_at FROM sync_ops WHERE op = ?"
			if s.dialect == sqlkit.MySQL {
				text += " FOR UPDATE"
			}
			var holder string
			var until int64
			err := tx.QueryRowContext(ctx, text, []byte(claimKey)).Scan(&holder, &until)
			if err != nil && !errors.Is(err, sql.ErrNoRows) {
				return err
			}
			// One whose clock is far ahead must not keep all others from it for ever.
			left := storedTime(until).Sub(now)
			if mine = err != nil || holder == who || left <= 0 || left > 2*during; !mine {
				return nil
			}
			row := opRow{key: claimKey, kind: who, at: now.Add(during).UnixNano()}
			_, err = tx.ExecContext(ctx, replaceOp, row.args(nil)...)
			return err
		})
	})
	return mine, err
}

// Unclaim leaves the row where it is: two that insert it at the same time may deadlock.
func (s *sqlStore) Unclaim(ctx context.Context, who string) error {
	return s.run(ctx, "unclaim", func() error {
		_, err := s.alone(ctx, "UPDATE sync_ops SET updated_at = 0 WHERE op = ? AND crdt = ?", []byte(claimKey), who)
		return err
	})
}

func (s *sqlStore) ItemsAbove(ctx context.Context, after string) (ids []string, err error) {
	_, above := rangeOf(after)
	if after == "" {
		above = []byte("\x01")
	}
	err = s.query(ctx, "items", "SELECT op FROM sync_ops WHERE op >= ? ORDER BY op LIMIT 10000", []any{above}, func(rows *sql.Rows) error {
		var key []byte
		err := rows.Scan(&key)
		if id := itemOf(string(key)); len(ids) == 0 || ids[len(ids)-1] < id { // not again after a retry
			ids = append(ids, id)
		}
		return err
	})
	return ids, err
}

// heads returns rows of an item without contents, by ord.
func (s *sqlStore) heads(ctx context.Context, id string) (out []opHead, err error) {
	from, below := rangeOf(id)
	seen := make(map[string]bool)
	text := fmt.Sprintf("SELECT op, ord, version, updated_at FROM sync_ops WHERE op >= ? AND op < ? ORDER BY ord LIMIT %d", compactHeads)
	err = s.query(ctx, "op heads", text, []any{from, below}, func(rows *sql.Rows) error {
		var h opHead
		var r opRow
		var key []byte
		var ord, version int64
		err := rows.Scan(&key, &ord, &version, &h.at)
		r.number(ord, version)
		h.ord, h.version, h.wrong = r.ord, r.version, r.wrong
		if h.key = string(key); !seen[h.key] {
			seen[h.key] = true
			out = append(out, h)
		}
		return err
	})
	return out, err
}

func (s *sqlStore) Settle(ctx context.Context, node string, upTo uint64) (map[string]uint64, error) {
	if upTo > 0 {
		row := opRow{key: claimKey + node, ord: upTo}
		err := s.run(ctx, "settle", func() error {
			_, err := s.alone(ctx, replaceOp, row.args(nil)...)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	settled := make(map[string]uint64)
	err := s.query(ctx, "settled", "SELECT op, ord FROM sync_ops WHERE op > ? AND op < ?", []any{[]byte(claimKey), []byte("\x01")}, func(rows *sql.Rows) error {
		var key []byte
		var n int64
		err := rows.Scan(&key, &n)
		settled[string(key[min(1, len(key)):])] = uint64(max(0, n))
		return err
	})
	return settled, err
}

// emptiedAt returns up to where the rows of an item are of no use but for their dots, 0 for none.
func (s *sqlStore) emptiedAt(ctx context.Context, id string) (ord uint64, err error) {
	text := "SELECT ord FROM sync_ops WHERE op = ? AND content_hash IS NULL AND ord >= 0"
	err = s.query(ctx, "base", text, []any{[]byte(baseKey(id))}, func(rows *sql.Rows) error { return rows.Scan(&ord) })
	return ord, err
}

func (s *sqlStore) CompactItem(ctx context.Context, id string, keepOps, keepDays time.Time, settled map[string]uint64) (r CompactReport, more bool, err error) {
	heads, err := s.heads(ctx, id)
	if err != nil {
		return r, false, err
	}
	if slices.ContainsFunc(heads, func(h opHead) bool { return h.wrong }) {
		return CompactReport{Damaged: 1}, false, nil
	}
	emptied, err := s.emptiedAt(ctx, id)
	if err != nil {
		return r, false, err
	}
	var fold []opHead
	oldDay := false
	for i := range heads {
		h := &heads[i]
		switch {
		case h.ord <= emptied && !isSnapshot(h.key): // however young
			if more = len(fold) == compactOps; !more {
				fold = append(fold, *h)
				continue
			}
		case isSnapshot(h.key):
			oldDay = oldDay || h.key != baseKey(id) && storedTime(h.at).Before(keepDays)
			continue
		case h.age().Before(keepOps) && len(fold) < compactOps:
			fold = append(fold, *h)
			continue
		case h.age().Before(keepOps):
			more = true
		}
		break
	}
	if len(fold) == 0 && !oldDay {
		return r, false, nil
	}
	err = s.run(ctx, "compact", func() error {
		return s.inTx(ctx, func(tx *sqlkit.Tx) (err error) {
			r, err = s.compactIn(ctx, tx, id, fold, keepDays, settled)
			return err
		})
	})
	if r.Damaged > 0 {
		more = false // nothing of the item is touched
	}
	return r, more, err
}

// compactIn folds merges, which were the oldest of an item, in a transaction.
func (s *sqlStore) compactIn(ctx context.Context, tx *sqlkit.Tx, id string, fold []opHead, keepDays time.Time, settled map[string]uint64) (r CompactReport, err error) {
	head, err := s.lockItem(ctx, tx, id)
	if err != nil || head == nil {
		return r, err
	}
	keys := []string{}
	for i := range fold {
		keys = append(keys, fold[i].key)
	}
	snapshots, err := s.readRows(ctx, tx, "op >= ? AND op < ?", []byte(baseKey(id)), []byte(id+"\x00A"))
	if err != nil {
		return r, err
	}
	snapshots = slices.DeleteFunc(snapshots, func(o opRow) bool { return !isSnapshot(o.key) })
	ops, err := s.readKeys(ctx, tx, keys)
	if err != nil {
		return r, err
	}
	if len(ops) < len(fold) {
		return r, nil // another engine was here
	}
	base := opRow{key: baseKey(id), kind: head.kind}
	for i := range snapshots {
		if snapshots[i].key == base.key {
			base = snapshots[i]
		}
	}
	if head.Deleted && !base.empties(head.Version) {
		return r, nil // its merges are on their way out
	}
	applied, err := dotset.Parse(base.applied)
	if n := damagedRows(slices.Concat(ops, snapshots), head.kind); err != nil || n > 0 {
		return CompactReport{Damaged: max(1, n)}, nil
	}
	for i := range ops {
		if k, err := ParseMergeKey(ops[i].key); err == nil {
			applied.Add(k.Node, k.Seq)
		}
	}
	folded := len(ops)
	dead := func(o opRow) bool { return base.hash == nil && o.ord <= base.ord }
	anyDead := slices.ContainsFunc(ops, dead)
	if base.hash == nil { // those that a delete has taken leave their dots
		for _, d := range snapshots {
			if d.key != base.key && dead(d) {
				keys = append(keys, d.key)
			}
		}
		ops, snapshots = slices.DeleteFunc(ops, dead), slices.DeleteFunc(snapshots, dead)
	}
	ops = slices.DeleteFunc(ops, func(o opRow) bool { return o.hash == nil }) // they changed nothing
	slices.SortFunc(ops, func(a, b opRow) int { return compareVersions(a.ord, b.ord) })
	days := make(map[string]opRow) // snapshots to keep, by key
	latest := base
	for _, d := range snapshots {
		if d.key != base.key {
			days[d.key] = d
		}
		if d.hash != nil && d.ord >= latest.ord {
			latest = d
		}
	}
	if len(ops) > 0 && latest.hash != nil && ops[0].ord <= latest.ord {
		return r, nil // another engine was here
	}
	if damaged, err := foldDays(id, ops, latest, days); err != nil {
		return r, err
	} else if damaged {
		return CompactReport{Damaged: 1}, nil
	}
	// What is old of the snapshots becomes the base.
	var gone []string
	for key, d := range days {
		if !storedTime(d.at).Before(keepDays) || anyDead { // the base stays empty while there are such below
			continue
		}
		if d.ord > base.ord || base.hash == nil {
			base.ord, base.at, base.kind, base.hash, base.content = d.ord, d.at, d.kind, d.hash, d.content
		}
		delete(days, key)
		gone = append(gone, key)
	}
	applied.Settle(settled)
	base.applied = applied.Append(nil)
	if err := s.deleteKeys(ctx, tx, append(keys, gone...)); err != nil { // before: a day may have the key of one that a delete has taken
		return r, err
	}
	for _, d := range days {
		if err := s.exec1(ctx, tx, replaceOp, d.args(nil)...); err != nil {
			return r, err
		}
	}
	if err := s.exec1(ctx, tx, replaceOp, base.args(nil)...); err != nil {
		return r, err
	}
	r = CompactReport{Items: 1, Ops: folded, Snapshots: len(days)}
	if base.hash != nil {
		r.Snapshots++
	}
	return r, nil
}

// foldDays adds to days what an item was after the last of ops, in order, of each day. latest is
// what it was before. The day never goes back: a merge that came late counts for the day it came
// on.
func foldDays(id string, ops []opRow, latest opRow, days map[string]opRow) (damaged bool, err error) {
	if len(ops) == 0 {
		return false, nil
	}
	at := time.Time{}
	var content []byte
	if latest.hash != nil {
		at, content = storedTime(latest.at), latest.content
	}
	state, err := openState(ops[0].kind, content)
	if err != nil {
		return false, err
	}
	for i := range ops {
		op := &ops[i]
		rec := op.record()
		if op.kind != ops[0].kind || state.Merge(&rec) != nil {
			return true, nil
		}
		if day := (&opHead{version: op.version, at: op.at}).age(); day.After(at) {
			at = day
		}
		if i+1 < len(ops) {
			if next := (&opHead{version: ops[i+1].version, at: ops[i+1].at}).age(); dayKey(id, at) == dayKey(id, next) || next.Before(at) {
				continue
			}
		}
		content, err := state.Bytes()
		if err != nil {
			return true, nil
		}
		sum := hashOf(content)
		days[dayKey(id, at)] = opRow{key: dayKey(id, at), ord: op.ord, version: op.version, at: at.UnixNano(), kind: op.kind, hash: sum[:], content: content}
	}
	return false, nil
}

// exec1 runs a statement that is not worth to be prepared for ever.
func (s *sqlStore) exec1(ctx context.Context, tx *sqlkit.Tx, text string, args ...any) error {
	_, err := tx.ExecContext(ctx, text, args...)
	return err
}

// lockItem locks the row of an item until the transaction ends; nil when there is none.
func (s *sqlStore) lockItem(ctx context.Context, tx *sqlkit.Tx, id string) (*lockedHead, error) {
	rows, err := tx.QueryContext(ctx, s.lockText(1), id)
	if err != nil {
		return nil, err
	}
	var head *lockedHead
	for rows.Next() && err == nil {
		var m lockedHead
		m, err = scanLocked(rows)
		head = &m
	}
	return head, errors.Join(err, rows.Err(), rows.Close())
}
