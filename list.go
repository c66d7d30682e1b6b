package syncengine

// list.go reads items in order of ids from L3. What this engine has accepted before is flushed
// first, so that L3 has it, or refuses it; what it refuses is merged in, as reads show it (INV-2).
// No call to a server is under way, and no call of this engine's, while the caller's loop runs.
//
// No state, no goroutines.

import (
	"context"
	"errors"
	"iter"
	"slices"
	"strings"
)

// Bounds of a page. The first pages are small, for callers that look at a few items, and for items
// that are large: a server sends a page whole.
const (
	firstPage = 16
	pageRows  = 1000
	pageBytes = 2 << 20
)

// All yields items; see Engine.AllAfter.
func (d *reader) All(ctx context.Context, prefix, after string) iter.Seq2[Item, error] {
	return func(yield func(Item, error) bool) {
		l := listing{d: d, prefix: prefix, after: after, limit: firstPage, more: true}
		err := l.begin(ctx)
		for err == nil && !l.done() {
			err = l.next(ctx)
			for i := range l.items {
				if ctx.Err() != nil {
					err = ctx.Err()
					break
				}
				if !yield(l.items[i].item, l.items[i].err) {
					return
				}
			}
		}
		if err != nil {
			yield(Item{}, said(ctx, err))
		}
	}
}

// listing is one run of All.
type listing struct {
	d       *reader
	prefix  string
	refused []string // ids of ops in quarantine that are still to come, in order
	page    []Found  // rows of L3 that are still to come
	after   string   // the id of the last row that was read
	more    bool     // there may be rows above it
	limit   int      // of the next page
	items   []listed // what is to be yielded
}

// listed is an item, or why it can't be read.
type listed struct {
	item Item
	err  error
}

func (l *listing) done() bool { return len(l.page) == 0 && !l.more && len(l.refused) == 0 }

// begin makes L3 the place to look.
func (l *listing) begin(ctx context.Context) (err error) {
	if err := l.d.Enter(ctx); err != nil {
		return err
	}
	defer l.d.door.Exit(ctx, &err)
	if !l.d.archive.Lists() {
		return &ConfigError{Field: "L3", Value: "(set)", Rule: "must be a ListingStore for All and what stands on it"}
	}
	l.refused, err = l.d.landed(ctx, l.prefix)
	l.refused = slices.DeleteFunc(l.refused, func(id string) bool { return id <= l.after })
	return err
}

// landed waits until L3 has all that was accepted before, but for what it refuses: it returns the
// ids of that, in order.
func (d *reader) landed(ctx context.Context, prefix string) (refused []string, err error) {
	before := d.bad.Below(prefix) // may have left quarantine when the flush ends
	if _, err := d.flush.FlushAll(ctx); err != nil {
		return nil, unavailableUnless(ctx, err)
	}
	refused = append(before, d.bad.Below(prefix)...)
	slices.Sort(refused)
	return slices.Compact(refused), nil
}

// next fills items. With an error they are what comes before it.
func (l *listing) next(ctx context.Context) (err error) {
	clear(l.items) // the last page may go while this one is read
	l.items = l.items[:0]
	if err := l.d.Enter(ctx); err != nil {
		return err
	}
	defer l.d.door.Exit(ctx, &err)
	if len(l.page) == 0 && l.more {
		if err := l.read(ctx); err != nil {
			return err
		}
	}
	var r *reading // of the first of what is refused and left
	left := 0
	for bytes := 0; bytes < pageBytes; {
		refused := len(l.refused) > 0 && (len(l.page) > 0 && l.refused[0] <= l.page[0].Record.ID || len(l.page) == 0 && !l.more)
		n := len(l.items)
		switch {
		case refused:
			if left == 0 {
				r, left = l.d.ahead(ctx, l.refused[:l.due()])
			}
			left--
			err = l.addRefused(ctx, r)
		case len(l.page) > 0:
			l.addRow(ctx)
		default:
			return nil
		}
		if err != nil {
			return err
		}
		if len(l.items) > n {
			bytes += len(l.items[n].item.Content)
		}
	}
	return nil
}

// due is of how many ids that are refused it is known that they come before the next page of L3.
func (l *listing) due() int {
	if !l.more {
		return len(l.refused)
	}
	n, found := slices.BinarySearch(l.refused, l.after)
	if found {
		n++
	}
	return n
}

// ahead begins to read what is refused of the first of ids, of some page at most, and tells of how
// many. What L3 holds above it is noted at once, as each of these would be (see higher): it may all
// be in one row.
func (d *reader) ahead(ctx context.Context, ids []string) (r *reading, n int) {
	n = d.bad.Within(ids, pageBytes)
	if n > 1 {
		if heads, err := d.archive.Heads(ctx, ids[:n]); err == nil { // else each is asked for
			recs := make([]Record, len(heads))
			for i := range heads {
				recs[i] = heads[i].record()
			}
			_ = d.bad.Landed(ctx, recs)
		}
	}
	return newReading(ids[:n]), n
}

// read reads a page of L3, and sizes the next one by it.
func (l *listing) read(ctx context.Context) (err error) {
	l.page, l.more, err = l.d.archive.List(ctx, l.prefix, l.after, l.limit, pageBytes)
	if err != nil {
		return unavailableUnless(ctx, err)
	}
	if len(l.page) == 0 {
		l.more = false
		return nil
	}
	bytes := 1
	for i := range l.page {
		bytes += len(l.page[i].Record.Content)
	}
	l.after = l.page[len(l.page)-1].Record.ID
	l.limit = max(1, min(4*l.limit, pageRows, len(l.page)*pageBytes/bytes))
	return nil
}

// addRow takes the next row, healed if it is damaged.
func (l *listing) addRow(ctx context.Context) {
	f := l.page[0]
	l.page = l.page[1:]
	if f.Err != nil {
		f.Record, f.Err = l.d.repair.HealedOr(ctx, f.Record.ID, f.Err)
	}
	f.Record.lapse(l.d.now)
	if f.Err != nil || !f.Record.Deleted {
		l.items = append(l.items, listed{f.Record.Item, f.Err})
	}
}

// addRefused takes the next op in quarantine, as a read of its id answers, which looks at L3, too.
func (l *listing) addRefused(ctx context.Context, r *reading) error {
	id := l.refused[0]
	rec, err := l.d.findIn(ctx, r, id)
	switch {
	case errors.Is(err, ErrCorruption):
		l.items = append(l.items, listed{err: err})
	case err != nil && !errors.Is(err, ErrNotFound):
		return err
	case err == nil && !rec.Deleted:
		l.items = append(l.items, listed{item: rec.Item})
	}
	l.refused = l.refused[1:]
	if len(l.page) > 0 && l.page[0].Record.ID == id {
		l.page = l.page[1:]
	}
	return nil
}

// IDs yields the ids of the items below a prefix that is not empty, without reading contents, those
// of damaged rows as well, each once. It sees what All sees, and ends as All does; any L3 will do.
func (d *reader) IDs(ctx context.Context, prefix string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		refused, ids, err := d.firstIDs(ctx, prefix)
		for after, more := prefix, true; err == nil; {
			for _, id := range ids {
				if !yield(id, nil) {
					return
				}
			}
			if !more {
				return
			}
			ids, after, more, err = d.idsAbove(ctx, prefix, after, refused)
		}
		yield("", err)
	}
}

// firstIDs makes L3 the place to look, but for ids of which it refuses an op, and returns those of
// these that are there, and the prefix when it is an id that is.
func (d *reader) firstIDs(ctx context.Context, prefix string) (refused, ids []string, err error) {
	if err := d.Enter(ctx); err != nil {
		return nil, nil, err
	}
	defer d.door.Exit(ctx, &err)
	if refused, err = d.landed(ctx, prefix); err != nil {
		return nil, nil, err
	}
	var r *reading
	left := 0
	for i, id := range refused {
		if left == 0 {
			r, left = d.ahead(ctx, refused[i:])
		}
		left--
		rec, err := d.findIn(ctx, r, id)
		switch {
		case err == nil && !rec.Deleted, errors.Is(err, ErrCorruption):
			ids = append(ids, id)
		case err != nil && !errors.Is(err, ErrNotFound):
			return nil, nil, err
		}
	}
	if _, found := slices.BinarySearch(refused, prefix); found || checkID(prefix) != nil {
		return refused, ids, nil
	}
	heads, err := d.archive.Heads(ctx, []string{prefix})
	if err != nil {
		return nil, nil, unavailableUnless(ctx, err)
	}
	if len(heads) > 0 && !heads[0].Deleted && !heads[0].expired(d.now) {
		ids = append(ids, prefix)
	}
	return refused, ids, nil
}

// idsAbove returns the next ids of L3 that are live, but for refused ones.
func (d *reader) idsAbove(ctx context.Context, prefix, after string, refused []string) (ids []string, last string, more bool, err error) {
	if err := d.Enter(ctx); err != nil {
		return nil, "", false, err
	}
	defer d.door.Exit(ctx, &err)
	rows, err := d.archive.Scan(ctx, "list", after, pageRows)
	if err != nil {
		return nil, "", false, unavailableUnless(ctx, err)
	}
	for i := range rows {
		if !strings.HasPrefix(rows[i].ID, prefix) {
			return ids, "", false, nil // those with it stand together, right above it
		}
		if _, found := slices.BinarySearch(refused, rows[i].ID); !found && !rows[i].Deleted && !rows[i].expired(d.now) {
			ids = append(ids, rows[i].ID)
		}
		last = rows[i].ID
	}
	return ids, last, len(rows) == pageRows, nil
}
