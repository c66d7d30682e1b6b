package syncengine

// l3due.go finds the rows whose time has come on MySQL and MariaDB: tombstones to purge, and items
// that have expired. An index would have an entry for each row of the table, since MySQL has none
// for a part of the rows (SQLite has), and the two that are needed made an insert a third slower.
// So the table sync_due has an entry for just those rows that are deleted or expire. It is kept by
// the transaction that writes the row, which knows from its locked head what entry the row had: an
// entry is there if and only if the row has that time. Rows that somebody else has changed are the
// exception: so an entry is no proof, and a deep check with repair adds those that are missing.

import (
	"context"
	"database/sql"
	"math/bits"
	"slices"
	"strings"

	"github.com/syncengine-go/syncengine/internal/sqlkit"
)

// The kinds of entries.
const (
	dueDelete = 1 // at is the row's deleted_at
	dueExpiry = 2 // its expires_at
)

const (
	// maxDues entries are written by one statement.
	maxDues = 128
	// strayTurns is how often expiredDue looks again: a server that is read may lag behind.
	strayTurns = 100
)

// due is a row of sync_due.
type due struct {
	kind int64
	at   int64
	id   string
}

// due returns the entry of a row that is to be written, if it has one.
func (r *storedRow) due() (d due, ok bool) {
	if r.Deleted {
		return due{dueDelete, r.UpdatedAt.UnixNano(), r.ID}, true
	}
	ms := millis(r.ExpiresAt)
	return due{dueExpiry, ms, r.ID}, ms != 0
}

// due returns the entry of a row that is there, if it has one.
func (h *lockedHead) due() (d due, ok bool) {
	if h.Deleted {
		return due{dueDelete, h.deletedAt, h.ID}, h.deletedAt != 0
	}
	ms := millis(h.ExpiresAt)
	return due{dueExpiry, ms, h.ID}, ms != 0
}

func insertDues(n int) string {
	return "INSERT INTO sync_due (kind, at, id) VALUES (?,?,?)" + strings.Repeat(",(?,?,?)", n-1) + " ON DUPLICATE KEY UPDATE kind = VALUES(kind)"
}

func deleteDues(n int) string {
	return "DELETE FROM sync_due WHERE (kind = ? AND at = ? AND id = ?)" + strings.Repeat(" OR (kind = ? AND at = ? AND id = ?)", n-1)
}

// selectDue reads entries of items that have expired, with their heads, NULL for a stray entry.
const selectDue = "SELECT d.at, d.id, i.version, i.content_hash FROM (SELECT at, id FROM sync_due WHERE kind = 2 AND at <= ? ORDER BY at, id LIMIT ?) AS d " +
	"LEFT JOIN sync_items AS i ON i.id = d.id AND i.deleted = 0 AND i.expires_at = d.at"

// fillDues adds the entries that rows should have.
var fillDues = []string{
	"INSERT IGNORE INTO sync_due (kind, at, id) SELECT 1, deleted_at, id FROM sync_items WHERE deleted_at IS NOT NULL",
	"INSERT IGNORE INTO sync_due (kind, at, id) SELECT 2, expires_at, id FROM sync_items WHERE deleted_at IS NULL AND expires_at IS NOT NULL",
}

// strayDues removes those of n entries of expiries that no row has.
func strayDues(n int) string {
	return "DELETE d FROM sync_due AS d LEFT JOIN sync_items AS i ON i.id = d.id AND i.deleted = 0 AND i.expires_at = d.at " +
		"WHERE i.id IS NULL AND d.kind = 2 AND ((d.at = ? AND d.id = ?)" + strings.Repeat(" OR (d.at = ? AND d.id = ?)", n-1) + ")"
}

// expiredDue returns up to limit items that have expired by a time, in unix milliseconds. It
// removes stray entries that it meets, so that they never stand before others.
func (s *sqlStore) expiredDue(ctx context.Context, by int64, limit int) (out []Meta, err error) {
	for range strayTurns {
		var stray []any
		seen := 0
		err := s.run(ctx, "expired", func() error {
			out, stray, seen = out[:0], nil, 0 // not again after a retry
			return s.query(ctx, "expired", selectDue, []any{by, limit}, func(rows *sql.Rows) error {
				var at int64
				var m Meta
				var version sql.NullInt64
				var hash sql.RawBytes
				if err := rows.Scan(&at, &m.ID, &version, &hash); err != nil {
					return err
				}
				if seen++; !version.Valid {
					stray = append(stray, at, m.ID)
					return nil
				}
				m.Version, m.ExpiresAt = uint64(max(version.Int64, 0)), expiryAt(at)
				copy(m.ContentHash[:], hash)
				out = append(out, m)
				return nil
			})
		})
		if err != nil {
			return nil, err
		}
		for some := range slices.Chunk(stray, s.fitting(2*maxDues)) {
			err := s.run(ctx, "expired", func() error {
				return s.inTx(ctx, func(tx *sqlkit.Tx) error {
					_, err := tx.ExecContext(ctx, strayDues(len(some)/2), some...)
					return err
				})
			})
			if err != nil {
				return nil, err
			}
		}
		if len(out) > 0 || seen < limit {
			break
		}
	}
	return out, nil
}

// mendDues adds what is missing since somebody else has changed rows.
func (s *sqlStore) mendDues(ctx context.Context) error {
	if s.dialect != sqlkit.MySQL {
		return nil
	}
	for after := ""; ; {
		var end []byte
		err := s.run(ctx, "recount", func() error {
			sqlkit.Step(ctx)
			return s.inTx(ctx, func(tx *sqlkit.Tx) (err error) {
				end, err = s.mendWindow(ctx, tx, after)
				return err
			})
		})
		if after = string(end); err != nil || after == "" {
			return err
		}
	}
}

// mendWindow is mendDues for the next rows with ids above after, and returns the last one's, nil
// where there is none. One statement for all rows would hold the more locks, and log the more at
// once, the more rows there are, and nobody could tell it from a server that hangs.
func (s *sqlStore) mendWindow(ctx context.Context, tx *sqlkit.Tx, after string) (end []byte, err error) {
	const last = "SELECT MAX(id) FROM (SELECT id FROM sync_items WHERE id > ? ORDER BY id LIMIT ?) AS w"
	if err := tx.QueryRowContext(ctx, last, after, s.window).Scan(&end); err != nil || end == nil {
		return nil, err
	}
	for _, text := range fillDues {
		sqlkit.Step(ctx)
		if _, err := tx.ExecContext(ctx, text+" AND id > ? AND id <= ?", after, end); err != nil {
			return nil, err
		}
	}
	sqlkit.Step(ctx) // the commit
	return end, nil
}

// writeDues brings the entries of rows that are written up to date.
func (s *sqlStore) writeDues(ctx context.Context, tx *sqlkit.Tx, p *plan) error {
	if err := s.execDues(ctx, tx, deleteDues, p.undue); err != nil {
		return err
	}
	return s.execDues(ctx, tx, insertDues, p.due)
}

func (s *sqlStore) execDues(ctx context.Context, tx *sqlkit.Tx, text func(n int) string, dues []due) error {
	for len(dues) > 0 {
		n := 1 << (bits.Len(uint(min(len(dues), s.fitting(maxDues)))) - 1)
		args := make([]any, 0, 3*n)
		for _, d := range dues[:n] {
			args = append(args, d.kind, d.at, d.id)
		}
		if err := s.exec(ctx, tx, text(n), args...); err != nil {
			return err
		}
		dues = dues[n:]
	}
	return nil
}

// purgeDue removes up to limit tombstones of before a time, in unix nanoseconds, and returns how
// many.
func (s *sqlStore) purgeDue(ctx context.Context, before int64, limit int) (n int, err error) {
	var old []due
	err = s.run(ctx, "purge", func() error {
		old = old[:0] // not again after a retry
		rows, err := s.pools.Write.QueryContext(ctx, "SELECT at, id FROM sync_due WHERE kind = 1 AND at < ? ORDER BY at, id LIMIT ?", before, limit)
		if err != nil {
			return err
		}
		defer func() { _ = rows.Close() }()
		for rows.Next() {
			d := due{kind: dueDelete}
			if err := rows.Scan(&d.at, &d.id); err != nil {
				return err
			}
			old = append(old, d)
		}
		return rows.Err()
	})
	if err != nil {
		return 0, err
	}
	for some := range slices.Chunk(old, s.fitting(maxDues)) {
		args, dues := make([]any, 0, 2*len(some)), make([]any, 0, 3*len(some))
		for _, d := range some {
			args, dues = append(args, d.id, d.at), append(dues, d.kind, d.at, d.id)
		}
		gone := int64(0)
		err := s.run(ctx, "purge", func() error {
			return s.inTx(ctx, func(tx *sqlkit.Tx) error {
				res, err := tx.ExecContext(ctx, "DELETE FROM sync_items WHERE (id = ? AND deleted_at = ?)"+strings.Repeat(" OR (id = ? AND deleted_at = ?)", len(some)-1), args...)
				if err != nil {
					return err
				}
				if gone, err = res.RowsAffected(); err != nil {
					return err
				}
				_, err = tx.ExecContext(ctx, deleteDues(len(some)), dues...)
				return err
			})
		})
		if err != nil {
			return n, err
		}
		n += int(gone)
	}
	return n, nil
}
