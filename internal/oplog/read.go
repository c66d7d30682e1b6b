package oplog

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"hash/crc32"
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
		var crc uint32
		if err := rows.Scan(&s.ID, &s.Ops, &s.At, &crc, &s.Payload); err != nil {
			return nil, err
		}
		if crc32.Checksum(s.Payload, castagnoli) != crc {
			return nil, fmt.Errorf("%w: segment %d does not match its checksum", ErrCorrupt, s.ID)
		}
		segs = append(segs, s)
		if bytes += int64(len(s.Payload)); bytes >= maxBytes {
			break
		}
	}
	return segs, rows.Err()
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
func (l *Log) side(ctx context.Context, fn func(ctx context.Context, tx *sql.Tx) error) error {
	release, err := l.hold(ctx)
	if err != nil {
		return err
	}
	defer release()
	tx, err := l.sideDB.BeginTx(ctx, nil)
	if err != nil {
		return l.describe(err)
	}
	if err := fn(ctx, tx); err != nil {
		return l.describe(errors.Join(err, tx.Rollback()))
	}
	return l.describe(tx.Commit())
}

// AddBad stores a payload in quarantine and returns its id.
func (l *Log) AddBad(ctx context.Context, b Bad) (id int64, err error) {
	err = l.side(ctx, func(ctx context.Context, tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, "INSERT INTO quarantine (ops, at, attempts, error, crc, payload) VALUES (?, ?, ?, ?, ?, ?)",
			b.Ops, b.At, b.Attempts, b.Error, crc32.Checksum(b.Payload, castagnoli), b.Payload)
		if err == nil {
			id, err = res.LastInsertId()
		}
		return err
	})
	return id, err
}

// DeleteBad removes payloads from quarantine.
func (l *Log) DeleteBad(ctx context.Context, ids ...int64) error {
	return l.side(ctx, func(ctx context.Context, tx *sql.Tx) error {
		for _, id := range ids {
			if _, err := tx.ExecContext(ctx, "DELETE FROM quarantine WHERE id = ?", id); err != nil {
				return err
			}
		}
		return nil
	})
}

// Bads lists the quarantine in order, from id first up to id last.
func (l *Log) Bads(ctx context.Context, first, last int64) (bads []Bad, err error) {
	release, err := l.hold(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	rows, err := l.reader.QueryContext(ctx, "SELECT id, ops, at, attempts, error, crc, payload FROM quarantine WHERE id BETWEEN ? AND ? ORDER BY id", first, last)
	if err != nil {
		return nil, l.describe(err)
	}
	defer func() { err = l.describe(errors.Join(err, rows.Close())) }()
	for rows.Next() {
		var b Bad
		var crc uint32
		if err := rows.Scan(&b.ID, &b.Ops, &b.At, &b.Attempts, &b.Error, &crc, &b.Payload); err != nil {
			return nil, err
		}
		if crc32.Checksum(b.Payload, castagnoli) != crc {
			return nil, fmt.Errorf("%w: quarantined payload %d does not match its checksum", ErrCorrupt, b.ID)
		}
		bads = append(bads, b)
	}
	return bads, rows.Err()
}

// SetMeta stores a small value under a key, durably.
func (l *Log) SetMeta(ctx context.Context, key string, value []byte) error {
	return l.side(ctx, func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, "INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value", key, value)
		return err
	})
}

// Meta returns the value under a key, nil when there is none.
func (l *Log) Meta(ctx context.Context, key string) (value []byte, err error) {
	release, err := l.hold(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	err = l.reader.QueryRowContext(ctx, "SELECT value FROM meta WHERE key = ?", key).Scan(&value)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	return value, l.describe(err)
}
