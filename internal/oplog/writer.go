package oplog

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/syncengine-go/syncengine/internal/failpoint"
)

var schema = [...]string{
	`CREATE TABLE IF NOT EXISTS segments (
		id INTEGER PRIMARY KEY AUTOINCREMENT, -- AUTOINCREMENT: ids are not reused after a trim
		ops INTEGER NOT NULL, at INTEGER NOT NULL, crc INTEGER NOT NULL, payload BLOB NOT NULL)`,
	`CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID`,
	`CREATE TABLE IF NOT EXISTS quarantine (
		id INTEGER PRIMARY KEY AUTOINCREMENT, ops INTEGER NOT NULL, at INTEGER NOT NULL, attempts INTEGER NOT NULL,
		error TEXT NOT NULL, crc INTEGER NOT NULL, payload BLOB NOT NULL)`,
}

// writer is the single writing connection with its statements.
type writer struct {
	conn                             *sql.Conn
	begin, end, insert, trim, setMax *sql.Stmt
}

func newWriter(ctx context.Context, db *sql.DB) (_ *writer, err error) {
	w := &writer{}
	if w.conn, err = db.Conn(ctx); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	var verdict string
	if err := w.conn.QueryRowContext(ctx, "PRAGMA quick_check(1)").Scan(&verdict); err != nil {
		return nil, err
	}
	if verdict != "ok" {
		return nil, fmt.Errorf("%w: %s", ErrCorrupt, verdict)
	}
	for _, s := range schema {
		if _, err := w.conn.ExecContext(ctx, s); err != nil {
			return nil, err
		}
	}
	for _, p := range []struct {
		stmt **sql.Stmt
		text string
	}{
		{&w.begin, "BEGIN IMMEDIATE"}, {&w.end, "COMMIT"},
		{&w.insert, "INSERT INTO segments (id, ops, at, crc, payload) VALUES (?, ?, ?, ?, ?)"},
		{&w.trim, "DELETE FROM segments WHERE id BETWEEN ? AND ?"},
		{&w.setMax, "INSERT INTO meta (key, value) VALUES ('max', ?) ON CONFLICT (key) DO UPDATE SET value = MAX(value, excluded.value)"},
	} {
		if *p.stmt, err = w.conn.PrepareContext(ctx, p.text); err != nil {
			return nil, err
		}
	}
	return w, nil
}

func (w *writer) close() error {
	var errs []error
	// Statements first: SQLite keeps a connection half open, and skips the checkpoint,
	// while one of its statements lives.
	for _, st := range []*sql.Stmt{w.begin, w.end, w.insert, w.trim, w.setMax} {
		if st != nil {
			errs = append(errs, st.Close())
		}
	}
	if w.conn != nil {
		errs = append(errs, w.conn.Close())
	}
	return errors.Join(errs...)
}

// counters reads the next segment id and the remembered maximum.
func (w *writer) counters(ctx context.Context) (next int64, maxSeen uint64, err error) {
	var last, m sql.NullInt64
	if err = w.conn.QueryRowContext(ctx, "SELECT seq FROM sqlite_sequence WHERE name = 'segments'").Scan(&last); err != nil && !errors.Is(err, sql.ErrNoRows) {
		return 0, 0, err
	}
	err = w.conn.QueryRowContext(ctx, "SELECT value FROM meta WHERE key = 'max'").Scan(&m)
	if errors.Is(err, sql.ErrNoRows) {
		err = nil
	}
	return last.Int64 + 1, uint64(m.Int64), err
}

// commit inserts segments, deletes those up to trimTo and those of failed commits, and
// remembers a new maximum, in one transaction.
func (w *writer) commit(segs []Segment, trimTo int64, retract []int64, maxSeen uint64, newMax bool) error {
	return w.tx(func(ctx context.Context) error {
		if trimTo > 0 {
			if _, err := w.trim.ExecContext(ctx, 0, trimTo); err != nil {
				return err
			}
		}
		for _, id := range retract {
			if _, err := w.trim.ExecContext(ctx, id, id); err != nil {
				return err
			}
		}
		for _, s := range segs {
			if _, err := w.insert.ExecContext(ctx, s.ID, s.Ops, s.At, crc32.Checksum(s.Payload, castagnoli), s.Payload); err != nil {
				return err
			}
		}
		if newMax {
			_, err := w.setMax.ExecContext(ctx, int64(maxSeen))
			return err
		}
		return nil
	})
}

// tx runs fn in a transaction. It takes no context: a commit that was begun is never cut
// off half-way, since that would leave its outcome unknown.
func (w *writer) tx(fn func(context.Context) error) error {
	ctx := context.Background()
	if _, err := w.begin.ExecContext(ctx); err != nil {
		return err
	}
	if err := fn(ctx); err != nil {
		_, rerr := w.conn.ExecContext(ctx, "ROLLBACK")
		return errors.Join(err, rerr)
	}
	failpoint.Hit(failpoint.WALCommitting)
	if _, err := w.end.ExecContext(ctx); err != nil {
		_, _ = w.conn.ExecContext(ctx, "ROLLBACK") // fails when COMMIT already ended the transaction
		return err
	}
	return nil
}

// reclaim gives some free pages back to the file system when there are many, and reports
// whether it may be worth calling again.
func (w *writer) reclaim() bool {
	ctx := context.Background()
	var n int64
	if w.conn.QueryRowContext(ctx, "PRAGMA freelist_count").Scan(&n) != nil || n < reclaimPages {
		return false
	}
	_, err := w.conn.ExecContext(ctx, fmt.Sprintf("PRAGMA incremental_vacuum(%d)", reclaimPages))
	return err == nil // only space is at stake
}
