package oplog

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

// hold waits until the file is open and keeps it so until release is called.
func (l *Log) hold(ctx context.Context) (release func(), err error) {
	timer := time.NewTimer(reopenWait)
	defer timer.Stop()
	for {
		l.readMu.RLock()
		if l.reader != nil {
			return l.readMu.RUnlock, nil
		}
		gone, opened := l.gone, l.opened
		l.readMu.RUnlock()
		if gone {
			return nil, ErrClosed
		}
		select {
		case <-opened:
		case <-timer.C:
			return nil, errReopening
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Totals are the segments present when the log was opened.
type Totals struct {
	Ops         int
	Bytes       int64
	First, Last int64 // segment ids; Last is 0 when there are none
	OldestAt    int64
}

// Totals sums up what the log holds.
func (l *Log) Totals(ctx context.Context) (t Totals, err error) {
	if last, trimmed := l.Extent(); last == trimmed {
		return t, nil
	}
	release, err := l.hold(ctx)
	if err != nil {
		return t, err
	}
	defer release()
	err = l.reader.QueryRowContext(ctx, `SELECT COALESCE(SUM(ops), 0), COALESCE(SUM(LENGTH(payload)), 0),
		COALESCE(MIN(id), 0), COALESCE(MAX(id), 0), COALESCE(MIN(at), 0) FROM segments`).
		Scan(&t.Ops, &t.Bytes, &t.First, &t.Last, &t.OldestAt)
	return t, l.describe(err)
}

// ReadAfter returns segments with ids in (after, upTo], in order, until they hold
// maxBytes: at least one if there is one.
func (l *Log) ReadAfter(ctx context.Context, after, upTo, maxBytes int64) ([]Segment, error) {
	return l.read(ctx, maxBytes, "SELECT id, ops, at, crc, payload FROM segments WHERE id > ? AND id <= ? ORDER BY id", after, upTo)
}

// Get returns one segment; ok is false when it was trimmed.
func (l *Log) Get(ctx context.Context, id int64) (seg Segment, ok bool, err error) {
	segs, err := l.read(ctx, 0, "SELECT id, ops, at, crc, payload FROM segments WHERE id = ?", id)
	if err != nil || len(segs) == 0 {
		return Segment{}, false, err
	}
	return segs[0], true, nil
}

func (l *Log) read(ctx context.Context, maxBytes int64, query string, args ...any) (segs []Segment, err error) {
	release, err := l.hold(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	rows, err := l.reader.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, l.describe(err)
	}
	defer func() { err = l.describe(errors.Join(err, rows.Close())) }()
	var bytes int64
	for rows.Next() {
		var s Segment
		var sum int64
		if err := scan(ctx, rows, &s.ID, &s.Ops, &s.At, &sum, &s.Payload); err != nil {
			return nil, err
		}
		if sum != segmentSum(&s) && sum != payloadSum(s.Payload) {
			return nil, fmt.Errorf("%w: segment %d does not match its checksum", ErrCorrupt, s.ID)
		}
		segs = append(segs, s)
		if bytes += int64(len(s.Payload)); bytes >= maxBytes {
			break
		}
	}
	return segs, rows.Err()
}

// scan reads a row. A value of another type than was stored is damage.
func scan(ctx context.Context, rows *sql.Rows, to ...any) error {
	err := rows.Scan(to...)
	if err == nil || ctx.Err() != nil { // the end of a context closes rows
		return errors.Join(err, ctx.Err())
	}
	return fmt.Errorf("%w: %w", ErrCorrupt, err)
}

// Bad is a quarantined payload.
type Bad struct {
	ID       int64
	Ops      int
	At       int64
	Attempts int
	Error    string
	Payload  []byte
}

// side runs fn in a transaction of its own on the writing connection, beside the loop.
func (l *Log) side(ctx context.Context, fn func(ctx context.Context, tx *sql.Tx, to *sideLedger) error) error {
	release, err := l.hold(ctx)
	if err != nil {
		return err
	}
	defer release()
	l.bare.Store(false)
	tx, err := l.sideDB.BeginTx(ctx, nil)
	if err != nil {
		return l.describe(err)
	}
	var to sideLedger
	err = readLedger(ctx, tx, sideLedgerKey, to.fields())
	if err == nil {
		err = fn(ctx, tx, &to)
	}
	if err == nil {
		to.commits++
		_, err = tx.ExecContext(ctx, putMeta, sideLedgerKey, sealLedger(sideLedgerKey, to.fields()))
	}
	if err != nil {
		return l.describe(errors.Join(err, tx.Rollback()))
	}
	if err := tx.Commit(); err != nil {
		return l.describe(err)
	}
	l.witness.saw(claim{side: to.commits})
	return nil
}

// AddBad stores a payload in quarantine and returns its id.
func (l *Log) AddBad(ctx context.Context, b Bad) (id int64, err error) {
	err = l.side(ctx, func(ctx context.Context, tx *sql.Tx, to *sideLedger) error {
		to.last++
		to.rows++
		to.sum += to.last
		b.ID = to.last
		_, err := tx.ExecContext(ctx, "INSERT INTO quarantine (id, ops, at, attempts, error, crc, payload) VALUES (?, ?, ?, ?, ?, ?, ?)",
			b.ID, b.Ops, b.At, b.Attempts, b.Error, badSum(&b), b.Payload)
		return err
	})
	return b.ID, err
}

// DeleteBad removes payloads from quarantine.
func (l *Log) DeleteBad(ctx context.Context, ids ...int64) error {
	return l.side(ctx, deleteBad(ids))
}

// DiscardBad removes payloads from quarantine and stores a small value, both or neither.
func (l *Log) DiscardBad(ctx context.Context, ids []int64, key string, value []byte) error {
	return l.side(ctx, func(ctx context.Context, tx *sql.Tx, to *sideLedger) error {
		if err := deleteBad(ids)(ctx, tx, to); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, putMeta, key, seal(key, value))
		return err
	})
}

// UpdateBad changes the payload of a quarantined one, if it is still there.
func (l *Log) UpdateBad(ctx context.Context, b Bad) error {
	return l.side(ctx, func(ctx context.Context, tx *sql.Tx, _ *sideLedger) error {
		_, err := tx.ExecContext(ctx, "UPDATE quarantine SET payload = ?, crc = ? WHERE id = ?", b.Payload, badSum(&b), b.ID)
		return err
	})
}

func deleteBad(ids []int64) func(ctx context.Context, tx *sql.Tx, to *sideLedger) error {
	return func(ctx context.Context, tx *sql.Tx, to *sideLedger) error {
		for _, id := range ids {
			res, err := tx.ExecContext(ctx, "DELETE FROM quarantine WHERE id = ?", id)
			if err != nil {
				return err
			}
			n, err := res.RowsAffected()
			if err != nil {
				return err
			}
			to.rows -= n
			to.sum -= n * id
		}
		return nil
	}
}

// Bads lists the quarantine in order, from id first up to id last.
func (l *Log) Bads(ctx context.Context, first, last int64) (bads []Bad, err error) {
	err = l.EachBad(ctx, first, last, func(b Bad) error {
		bads = append(bads, b)
		return nil
	})
	return bads, err
}

// EachBad calls fn with each row of the quarantine in order, from id first up to id last, until it
// returns an error. fn must not call the log.
func (l *Log) EachBad(ctx context.Context, first, last int64, fn func(Bad) error) (err error) {
	if l.bare.Load() {
		return nil
	}
	release, err := l.hold(ctx)
	if err != nil {
		return err
	}
	defer release()
	rows, err := l.reader.QueryContext(ctx, "SELECT id, ops, at, attempts, error, crc, payload FROM quarantine WHERE id BETWEEN ? AND ? ORDER BY id", first, last)
	if err != nil {
		return l.describe(err)
	}
	defer func() { err = l.describe(errors.Join(err, rows.Close())) }()
	for rows.Next() {
		var b Bad
		var sum int64
		if err := scan(ctx, rows, &b.ID, &b.Ops, &b.At, &b.Attempts, &b.Error, &sum, &b.Payload); err != nil {
			return err
		}
		if sum != badSum(&b) && sum != payloadSum(b.Payload) {
			return fmt.Errorf("%w: quarantined payload %d does not match its checksum", ErrCorrupt, b.ID)
		}
		if err := fn(b); err != nil {
			return err
		}
	}
	return rows.Err()
}

// SetMeta stores a small value under a key, durably. The keys "ledger" and "side ledger" are
// the log's own.
func (l *Log) SetMeta(ctx context.Context, key string, value []byte) error {
	return l.side(ctx, func(ctx context.Context, tx *sql.Tx, _ *sideLedger) error {
		_, err := tx.ExecContext(ctx, putMeta, key, seal(key, value))
		return err
	})
}

// Meta returns the value under a key, nil when there is none.
func (l *Log) Meta(ctx context.Context, key string) (value []byte, err error) {
	if l.bare.Load() {
		return nil, nil
	}
	release, err := l.hold(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	value, err = readMeta(ctx, l.sideDB, key)
	return value, l.describe(err)
}
