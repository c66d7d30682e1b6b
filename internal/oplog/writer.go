package oplog

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/syncengine-go/syncengine/internal/failpoint"
)

// writer is the single writing connection with its statements.
type writer struct {
	conn                           *sql.Conn
	begin, end, insert, trim, meta *sql.Stmt
}

func newWriter(ctx context.Context, db *sql.DB) (_ *writer, made bool, err error) {
	w := &writer{}
	if w.conn, err = db.Conn(ctx); err != nil {
		return nil, false, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	if made, err = prepare(ctx, w.conn); err != nil {
		return nil, false, err
	}
	for _, p := range []struct {
		stmt **sql.Stmt
		text string
	}{
		{&w.begin, "BEGIN IMMEDIATE"}, {&w.end, "COMMIT"},
		{&w.insert, "INSERT INTO segments (id, ops, at, crc, payload) VALUES (?, ?, ?, ?, ?)"},
		{&w.trim, "DELETE FROM segments WHERE id BETWEEN ? AND ?"},
		{&w.meta, putMeta},
	} {
		if *p.stmt, err = w.conn.PrepareContext(ctx, p.text); err != nil {
			return nil, false, err
		}
	}
	return w, made, nil
}

func (w *writer) close() error {
	var errs []error
	// Statements first: SQLite keeps a connection half open, and skips the checkpoint,
	// while one of its statements lives.
	for _, st := range []*sql.Stmt{w.begin, w.end, w.insert, w.trim, w.meta} {
		if st != nil {
			errs = append(errs, st.Close())
		}
	}
	if w.conn != nil {
		errs = append(errs, w.conn.Close())
	}
	return errors.Join(errs...)
}

// commit inserts segments, deletes those up to trimTo and those of failed commits, and brings
// the ledger up to date, in one transaction.
func (w *writer) commit(segs []Segment, trimTo int64, retract []int64, to *ledger) error {
	return w.tx(to, func(ctx context.Context) error {
		if trimTo > to.trimmed {
			if err := w.remove(ctx, 0, trimTo, to); err != nil {
				return err
			}
			to.trimmed = trimTo
		}
		for _, id := range retract {
			if err := w.remove(ctx, id, id, to); err != nil {
				return err
			}
		}
		for i := range segs {
			s := &segs[i]
			if _, err := w.insert.ExecContext(ctx, s.ID, s.Ops, s.At, segmentSum(s), s.Payload); err != nil {
				return err
			}
			to.rows++
			to.last = s.ID
		}
		return nil
	})
}

func (w *writer) remove(ctx context.Context, first, last int64, to *ledger) error {
	res, err := w.trim.ExecContext(ctx, first, last)
	if err != nil {
		return err
	}
	n, err := res.RowsAffected()
	to.rows -= n
	return err
}

// tx runs fn in a transaction and writes the ledger as fn left it. It takes no context: a
// commit that was begun is never cut off half-way, since that would leave its outcome unknown.
func (w *writer) tx(to *ledger, fn func(context.Context) error) error {
	ctx := context.Background()
	if _, err := w.begin.ExecContext(ctx); err != nil {
		return err
	}
	err := fn(ctx)
	if err == nil {
		to.commits++
		_, err = w.meta.ExecContext(ctx, ledgerKey, sealLedger(ledgerKey, to.fields()))
	}
	if err != nil {
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

// reclaim gives some free pages back to the file system when there are many, and at most one
// page of so many is in use. It reports whether it did: it may be worth calling again.
func (w *writer) reclaim(to *ledger, ofEach int64) (did bool, err error) {
	ctx := context.Background()
	var free, all int64
	if w.conn.QueryRowContext(ctx, "PRAGMA freelist_count").Scan(&free) != nil || free < reclaimPages ||
		w.conn.QueryRowContext(ctx, "PRAGMA page_count").Scan(&all) != nil || (all-free)*ofEach > all {
		return false, nil // only space is at stake
	}
	return true, w.tx(to, func(ctx context.Context) error {
		_, err := w.conn.ExecContext(ctx, fmt.Sprintf("PRAGMA incremental_vacuum(%d)", reclaimPages))
		return err
	})
}

// startOver moves all that the -wal file holds into the main file and empties it. After a
// failed fsync, pages of it may be in the cache of the operating system alone, which takes
// them for written: a commit appended behind them would be durable, and yet lost with them.
func (w *writer) startOver(ctx context.Context) error {
	var patience, busy, frames, moved int
	if err := w.conn.QueryRowContext(ctx, "PRAGMA busy_timeout").Scan(&patience); err != nil {
		return err
	}
	if _, err := w.conn.ExecContext(ctx, "PRAGMA busy_timeout(0)"); err != nil { // a backup may read for long
		return err
	}
	err := w.conn.QueryRowContext(ctx, "PRAGMA wal_checkpoint(TRUNCATE)").Scan(&busy, &frames, &moved)
	if busy != 0 {
		err = errors.New("another process is reading the log, whose -wal file has to be started anew")
	}
	_, rerr := w.conn.ExecContext(ctx, fmt.Sprintf("PRAGMA busy_timeout(%d)", patience))
	return errors.Join(err, rerr)
}
