package syncengine

// l3list.go lists rows of L3 in order of ids, a page at a time. Each page is a query of its own,
// which begins above the last id of the page before: no cursor is held between pages.

import (
	"context"
	"errors"
)

// List implements ListingStore.
func (s *sqlStore) List(ctx context.Context, prefix, after string, limit int, maxBytes int64) (page []Found, more bool, err error) {
	page, more, err = s.list(ctx, prefix, after, limit, maxBytes)
	if err == nil && lacksDictionary(page) && s.recall(ctx, s.pools.Read) == nil {
		return s.list(ctx, prefix, after, limit, maxBytes)
	}
	return page, more, err
}

func lacksDictionary(page []Found) bool {
	for i := range page {
		if errors.Is(page[i].Err, errLacksDictionary) {
			return true
		}
	}
	return false
}

func (s *sqlStore) list(ctx context.Context, prefix, after string, limit int, maxBytes int64) (page []Found, more bool, err error) {
	text, args := listQuery(prefix, after, limit)
	err = s.run(ctx, "list", func() error {
		page, more = page[:0], false // not again after a retry
		st, err := s.stmt(ctx, s.pools.Read, text)
		if err != nil {
			return err
		}
		rows, err := st.QueryContext(ctx, args...)
		if err != nil {
			return err
		}
		bytes := int64(0)
		for !more && err == nil && rows.Next() {
			var row scanned
			if err = rows.Scan(row.fields()...); err != nil {
				break
			}
			f := Found{OK: true}
			if f.Record, f.Err = row.record(s.codec); f.Err != nil {
				f.OK, f.Record = false, Record{Item: Item{ID: string(row.id)}}
			}
			page = append(page, f)
			bytes += int64(len(f.Record.Content))
			more = len(page) == limit || bytes >= maxBytes
		}
		return errors.Join(err, rows.Err(), rows.Close())
	})
	return page, more, err
}

// listQuery asks for a page. Ids are bytes in both dialects, and so are bounds: a pattern of LIKE
// would know wildcards and letters.
func listQuery(prefix, after string, limit int) (text string, args []any) {
	text, args = "SELECT "+columns+" FROM sync_items WHERE id >= ?", []any{prefix}
	if after >= prefix && after != "" {
		text, args = "SELECT "+columns+" FROM sync_items WHERE id > ?", []any{after}
	}
	if end := prefixEnd(prefix); end != "" {
		text, args = text+" AND id < ?", append(args, end)
	}
	return text + " ORDER BY id LIMIT ?", append(args, limit)
}

// prefixEnd returns the lowest string above all that begin with prefix, or "" when there is none.
func prefixEnd(prefix string) string {
	for i := len(prefix) - 1; i >= 0; i-- {
		if prefix[i] < 0xff {
			return prefix[:i] + string([]byte{prefix[i] + 1})
		}
	}
	return ""
}
