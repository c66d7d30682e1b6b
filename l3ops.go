package syncengine

// l3ops.go is the table sync_ops: its rows, and how they are read and written. What they mean is in
// l3merge.go and l3compact.go.

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"slices"
	"strings"

	"github.com/syncengine-go/syncengine/internal/sqlkit"
)

// opRow is a row of sync_ops.
type opRow struct {
	key     string
	ord     uint64
	version uint64 // of a base: of the item's last delete
	at      int64
	kind    string
	hash    []byte // nil: no content. Of a merge: it changed nothing
	content []byte
	applied []byte // of a base: a dotset.Set of merges
	wrong   bool   // its numbers are none
}

const opColumns = "op, ord, version, updated_at, crdt, content_hash, content, applied"

// number sets the numbers of a row.
func (r *opRow) number(ord, version int64) {
	r.ord, r.version, r.wrong = uint64(max(0, ord)), uint64(max(0, version)), ord < 0 || version < 0
}

// baseKey is the key of an item's base.
func baseKey(id string) string { return id + "\x00" }

// rangeOf is where the rows of an item are in sync_ops.
func rangeOf(id string) (from, below []byte) { return []byte(id + "\x00"), []byte(id + "\x01") }

func isDelta(key string) bool { return strings.HasSuffix(key, "/d") }

// isSnapshot reports whether a key of sync_ops is that of a base or of a day.
func isSnapshot(key string) bool {
	_, dot, _ := strings.Cut(key, "\x00")
	return dot == "" || dot[0] == '@'
}

// emptied is a base after a delete at a version that has taken all there was.
func (r opRow) emptied(id string, at uint64) opRow {
	return opRow{key: baseKey(id), ord: at, version: r.version, applied: r.applied}
}

// empties reports whether a base was emptied by the delete at a version.
func (r *opRow) empties(version uint64) bool { return r.hash == nil && r.ord == version && version > 0 }

// record is the merge that a row holds.
func (r *opRow) record() Record {
	return Record{Item: Item{ID: r.key, Version: r.version, UpdatedAt: storedTime(r.at), Content: r.content, CRDT: r.kind}}
}

// damagedRows counts rows of an item of a kind that are not what was stored. Those that a delete
// has taken may be of another kind.
func damagedRows(rows []opRow, kind string) (n int) {
	emptied := uint64(0)
	for i := range rows {
		if r := &rows[i]; r.hash == nil && isSnapshot(r.key) {
			emptied = r.ord
		}
	}
	for i := range rows {
		if r := &rows[i]; r.damaged() || r.kind != kind && r.hash != nil && r.ord > emptied {
			n++
		}
	}
	return n
}

// damaged reports whether a row is not what its hash says.
func (r *opRow) damaged() bool {
	sum := hashOf(r.content)
	return r.wrong || r.hash == nil && r.content != nil || r.hash != nil && !bytes.Equal(sum[:], r.hash)
}

// readMerged returns the rows of sync_ops with the keys of merges, without content, and the bases
// of their items.
func (s *sqlStore) readMerged(ctx context.Context, tx *sqlkit.Tx, merges []itemMerges) (map[string]opRow, error) {
	var keys []string
	for i := range merges {
		keys = append(keys, baseKey(merges[i].id))
		for _, op := range merges[i].ops {
			keys = append(keys, op.ID)
		}
	}
	out := make(map[string]opRow)
	err := s.inChunks(ctx, tx, keys, selectOps, func(rows *sql.Rows) error {
		var key []byte
		var r opRow
		var ord, version int64
		if err := rows.Scan(&key, &ord, &version, &r.hash, &r.applied); err != nil {
			return err
		}
		r.key = string(key)
		if r.number(ord, version); !r.wrong || r.key[len(r.key)-1] != 0 { // a base is left out
			out[r.key] = r
		}
		return nil
	})
	return out, err
}

// inChunks runs a prepared SELECT for many keys in a transaction.
func (s *sqlStore) inChunks(ctx context.Context, tx *sqlkit.Tx, keys []string, text func(n int) string, fn func(*sql.Rows) error) error {
	for len(keys) > 0 {
		n := min(len(keys), s.fitting(maxLookup))
		args := make([]any, places(n))
		for i := range args {
			args[i] = keys[min(i, n-1)]
			if text(1) == selectOps(1) {
				args[i] = []byte(keys[min(i, n-1)]) // bytes in both dialects
			}
		}
		st, err := s.stmt(ctx, s.pools.Write, text(n))
		if err != nil {
			return err
		}
		rows, err := tx.StmtContext(ctx, st).QueryContext(ctx, args...)
		if err != nil {
			return err
		}
		for rows.Next() && err == nil {
			err = fn(rows)
		}
		if err = errors.Join(err, rows.Err(), rows.Close()); err != nil {
			return err
		}
		keys = keys[n:]
	}
	return nil
}

// readRows returns rows of sync_ops, whole.
func (s *sqlStore) readRows(ctx context.Context, tx *sqlkit.Tx, where string, args ...any) (out []opRow, err error) {
	rows, err := tx.QueryContext(ctx, "SELECT "+opColumns+" FROM sync_ops WHERE "+where, args...)
	if err != nil {
		return nil, err
	}
	for rows.Next() && err == nil {
		var r opRow
		var key []byte
		var ord, version int64
		err = rows.Scan(&key, &ord, &version, &r.at, &r.kind, &r.hash, &r.content, &r.applied)
		r.key = string(key)
		r.number(ord, version)
		out = append(out, r)
	}
	return out, errors.Join(err, rows.Err(), rows.Close())
}

// itemRows returns all rows of an item.
func (s *sqlStore) itemRows(ctx context.Context, tx *sqlkit.Tx, id string) ([]opRow, error) {
	from, below := rangeOf(id)
	return s.readRows(ctx, tx, "op >= ? AND op < ?", from, below)
}

func (s *sqlStore) readKeys(ctx context.Context, tx *sqlkit.Tx, keys []string) (out []opRow, err error) {
	err = s.inKeys(keys, func(where string, args []any) error {
		rows, err := s.readRows(ctx, tx, where, args...)
		out = append(out, rows...)
		return err
	})
	return out, err
}

// inKeys calls fn with conditions for keys, some at a time.
func (s *sqlStore) inKeys(keys []string, fn func(where string, args []any) error) error {
	for part := range slices.Chunk(keys, s.fitting(500)) {
		args := make([]any, len(part))
		for i, key := range part {
			args[i] = []byte(key)
		}
		if err := fn("op IN (?"+strings.Repeat(",?", len(part)-1)+")", args); err != nil {
			return err
		}
	}
	return nil
}

func (s *sqlStore) deleteKeys(ctx context.Context, tx *sqlkit.Tx, keys []string) error {
	return s.inKeys(keys, func(where string, args []any) error {
		return s.exec1(ctx, tx, "DELETE FROM sync_ops WHERE "+where, args...)
	})
}

// writeOps writes what a batch changes in sync_ops.
func (s *sqlStore) writeOps(ctx context.Context, tx *sqlkit.Tx, p *plan) error {
	for _, id := range p.gone {
		from, below := rangeOf(id)
		if err := s.exec(ctx, tx, deleteOps, from, below); err != nil {
			return err
		}
	}
	if err := s.deleteKeys(ctx, tx, p.drop); err != nil {
		return err
	}
	for i := range p.bases {
		if err := s.exec(ctx, tx, replaceOp, p.bases[i].args(nil)...); err != nil {
			return err
		}
	}
	rest, limit := p.ops, int(s.chunkLimit())
	for len(rest) > 0 {
		n, size := 0, 0
		for n < len(rest) && n < maxOps {
			if size += len(rest[n].content) + rowOverheadSQL; size > limit && n > 0 {
				break
			}
			n++
		}
		n = chunkWithin(n)
		args := make([]any, 0, 8*n)
		for i := range rest[:n] {
			args = rest[i].args(args)
		}
		if err := s.exec(ctx, tx, insertOps(n), args...); err != nil {
			if sqlkit.IsDuplicate(err) { // of a transaction that began when the item was not there
				return errors.Join(errRaced, err)
			}
			return err
		}
		rest = rest[n:]
	}
	return nil
}

func (r *opRow) args(to []any) []any {
	return append(to, []byte(r.key), int64(r.ord), int64(r.version), r.at, r.kind, r.hash, r.content, r.applied)
}

func selectOps(n int) string {
	return "SELECT op, ord, version, content_hash, applied FROM sync_ops WHERE op IN (?" + strings.Repeat(",?", places(n)-1) + ")"
}

const (
	maxOps    = 500 // of a statement
	opPlace   = "(?,?,?,?,?,?,?,?)"
	replaceOp = "REPLACE INTO sync_ops (" + opColumns + ") VALUES " + opPlace
	deleteOps = "DELETE FROM sync_ops WHERE op >= ? AND op < ?"
)

func insertOps(n int) string {
	return "INSERT INTO sync_ops (" + opColumns + ") VALUES " + opPlace + strings.Repeat(","+opPlace, n-1)
}

// mergeTexts are the statements that a transaction of n records may need for merges.
func (s *sqlStore) mergeTexts(n int) []string {
	texts := []string{replaceOp, deleteOps}
	for _, k := range chunkSizes {
		if k <= min(n, maxOps) {
			texts = append(texts, insertOps(k))
		}
	}
	for k := 1; ; k *= 2 {
		texts = append(texts, selectOps(k), selectStates(k))
		if k >= 2*n || k >= maxLookup { // a key for each, and for each base
			return texts
		}
	}
}
