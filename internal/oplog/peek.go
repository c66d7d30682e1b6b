package oplog

import (
	"context"
	"database/sql"
	"errors"
)

// Peek returns the first segment with an id in (after, upTo], without its payload but with its
// length, so that a reader knows what memory it takes; ok is false when there is none.
func (l *Log) Peek(ctx context.Context, after, upTo int64) (seg Segment, bytes int64, ok bool, err error) {
	release, err := l.hold(ctx)
	if err != nil {
		return Segment{}, 0, false, err
	}
	defer release()
	err = l.reader.QueryRowContext(ctx, "SELECT id, ops, at, LENGTH(payload) FROM segments WHERE id > ? AND id <= ? ORDER BY id LIMIT 1", after, upTo).
		Scan(&seg.ID, &seg.Ops, &seg.At, &bytes)
	if errors.Is(err, sql.ErrNoRows) {
		return Segment{}, 0, false, nil
	}
	return seg, bytes, err == nil, l.describe(err)
}
