package oplog

import (
	"context"
	"database/sql"
)

// blobPart is how much of a blob one transaction writes: the loop's commits get in between.
const blobPart = 512 << 10

const blobSchema = `CREATE TABLE IF NOT EXISTS blobs (
	key TEXT NOT NULL, gen INTEGER NOT NULL, part INTEGER NOT NULL, done INTEGER NOT NULL, data BLOB NOT NULL,
	PRIMARY KEY (key, gen, part))`

// SetBlob stores a large value under a key in place of the one that is there, in several
// transactions: a crash leaves the old one. Only one goroutine may set a key at a time.
func (l *Log) SetBlob(ctx context.Context, key string, value []byte) error {
	var gen int64
	err := l.side(ctx, func(ctx context.Context, tx *sql.Tx, _ *sideLedger) error {
		if _, err := tx.ExecContext(ctx, blobSchema); err != nil {
			return err
		}
		// What a crash left unfinished goes; the finished one stays until the new one is.
		if _, err := tx.ExecContext(ctx, "DELETE FROM blobs WHERE key = ? AND gen > COALESCE((SELECT MAX(gen) FROM blobs WHERE key = ? AND done), 0)", key, key); err != nil {
			return err
		}
		return tx.QueryRowContext(ctx, "SELECT COALESCE(MAX(gen), 0) + 1 FROM blobs WHERE key = ?", key).Scan(&gen)
	})
	for part := 0; err == nil; part++ {
		n := min(len(value), blobPart)
		last := n == len(value)
		err = l.side(ctx, func(ctx context.Context, tx *sql.Tx, _ *sideLedger) error {
			if _, err := tx.ExecContext(ctx, "INSERT INTO blobs (key, gen, part, done, data) VALUES (?, ?, ?, ?, ?)", key, gen, part, last, value[:n]); err != nil || !last {
				return err
			}
			_, err := tx.ExecContext(ctx, "DELETE FROM blobs WHERE key = ? AND gen < ?", key, gen)
			return err
		})
		if value = value[n:]; last {
			break
		}
	}
	return err
}

// Blob returns what SetBlob has stored under a key, nil when there is nothing. Nothing checks
// the bytes: a value should carry a checksum of its own.
func (l *Log) Blob(ctx context.Context, key string) (value []byte, err error) {
	release, err := l.hold(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	var n int
	if err := l.sideDB.QueryRowContext(ctx, "SELECT COUNT(*) FROM sqlite_master WHERE name = 'blobs'").Scan(&n); err != nil || n == 0 {
		return nil, l.describe(err)
	}
	rows, err := l.sideDB.QueryContext(ctx, "SELECT data FROM blobs WHERE key = ?1 AND gen = (SELECT MAX(gen) FROM blobs WHERE key = ?1 AND done) ORDER BY part", key)
	if err != nil {
		return nil, l.describe(err)
	}
	value = []byte(nil)
	for rows.Next() && err == nil {
		var part sql.RawBytes
		err = rows.Scan(&part)
		value = append(value, part...)
	}
	if err == nil {
		err = rows.Err()
	}
	if cerr := rows.Close(); err == nil {
		err = cerr
	}
	return value, l.describe(err)
}
