package syncengine

// watch.go tells of what is written to L3, by any engine, from the log that L3 keeps (l3log.go).
// It needs no Redis; what it hears of there only makes it look sooner.
//
// A Watch is a place in the log and no more: nothing is kept for a reader that is slow, but for the
// next watchMost changes and their first items, and nobody waits for it. It is told what an id is
// now, not what each write made it: of several changes of an id that it has not seen, the last. So
// what it costs is bounded by what there is to tell.
//
// The place after a change is its row of the log and how many changes of that row come before. All
// rows below are done, but for those that were not yet there (l3log.go).
//
// # Many watches
//
// The watches of an engine look at the same moments: when they hear of a change, and each
// watchPoll. Those that stand at the same place share a look that began after the last change they
// have heard of, in the same watchPoll (l3log.go). Those that found the same ids in it share what
// is read of them, too: that began when the look was over, and by then each of them had read what
// it read before. So none is told of a version below one that it knows.
//
// So what an engine asks of L3 does not grow with the number of its watches, but for those that lag
// behind.
//
// What is asked together goes on when the one who began it leaves: a goroutine each. Nothing else
// is under way while the caller's loop runs.

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"strings"
	"time"

	"github.com/syncengine-go/syncengine/internal/changelog"
)

const (
	watchPoll = beatEvery // when nobody tells of a change
	watchRows = 16        // of the log, at once
	watchMost = 1024      // changes of them, at once
	watchPage = 256       // items read at once
	watchKept = 64 << 10  // bytes of what was read together last
)

// place is one in the log.
type place struct {
	log  *logReader
	row  int64 // of which the first changes were told
	told int
}

// String is the token of a place.
func (p *place) String() string {
	return fmt.Sprintf("%s-%d-%d-%d", p.log.Origin(), p.log.UpTo(), p.row, p.told)
}

// placeOf reads a token.
func (d *reader) placeOf(ctx context.Context, token string) (*place, error) {
	parts := strings.Split(token, "-")
	bad := fmt.Errorf("%w: %q is no token of this L3, or one from longer than ChangeRetention ago", ErrWatchExpired, token)
	if len(parts) != 4 {
		return nil, bad
	}
	var n [3]int64
	for i := range n {
		var err error
		if n[i], err = strconv.ParseInt(parts[i+1], 10, 64); err != nil || n[i] < 0 {
			return nil, bad
		}
	}
	log, err := d.archive.ReadLogAbove(ctx, parts[0], n[0])
	if errors.Is(err, errLogTrimmed) {
		return nil, bad
	}
	return &place{log: log, row: n[1], told: int(n[2])}, err
}

// here returns the place where the log ends, or that of a token.
func (d *reader) here(ctx context.Context, token string) (p *place, err error) {
	if err := d.door.Enter(); err != nil { // not d.Enter: it puts nothing into memory, whose room that is about
		return nil, err
	}
	defer d.door.Exit(ctx, &err)
	if token != "" {
		return d.placeOf(ctx, token)
	}
	log, err := d.archive.ReadLog(ctx)
	return &place{log: log}, err
}

// hereSoon is here, and waits while L3 is away.
func (d *reader) hereSoon(ctx context.Context, token string) (p *place, err error) {
	for {
		if p, err = d.here(ctx, token); err == nil || !didNotAnswer(ctx, err) {
			return p, err
		}
		if err := d.pause(ctx, nil); err != nil {
			return nil, err
		}
	}
}

// pause waits until there may be something new. All who pause look again at the same moment.
func (d *reader) pause(ctx context.Context, changed <-chan struct{}) error {
	timer := time.NewTimer(watchPoll - time.Since(d.began)%watchPoll)
	defer timer.Stop()
	select {
	case <-changed:
	case <-timer.C:
	case <-d.door.Context().Done():
		return ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// didNotAnswer reports whether an error is of a call that L3 did not answer.
func didNotAnswer(ctx context.Context, err error) bool {
	return ctx.Err() == nil && (errors.Is(err, ErrUnavailable) || errors.Is(err, context.DeadlineExceeded))
}

// WatchToken returns the place where the log ends.
func (d *reader) WatchToken(ctx context.Context) (string, error) {
	if err := d.logs(); err != nil {
		return "", err
	}
	p, err := d.here(ctx, "")
	if err != nil {
		return "", said(ctx, unavailableUnless(ctx, err))
	}
	return p.String(), nil
}

func (d *reader) logs() error {
	if d.archive.KeepsLog() {
		return nil
	}
	return &ConfigError{Field: "L3", Value: "(set)", Rule: "must be a store of this package for Watch"}
}

// Watch yields changes; see Engine.Watch.
func (d *reader) Watch(ctx context.Context, prefix, token string) iter.Seq2[Change, error] {
	err := d.logs()
	var from *place
	if err == nil {
		from, err = d.hereSoon(ctx, token)
	}
	return func(yield func(Change, error) bool) {
		if err != nil {
			yield(Change{}, said(ctx, err))
			return
		}
		w := watching{d: d, prefix: prefix, place: place{from.log.Fork(), from.row, from.told}, atOnce: watchRows}
		for {
			err := w.next(ctx)
			for i := range w.found {
				if !yield(w.found[i].change, w.found[i].err) {
					return
				}
			}
			switch {
			case err == nil && !w.more && len(w.told) == 0:
				err = d.pause(ctx, w.changed)
			case err != nil && didNotAnswer(ctx, err):
				err = d.pause(ctx, nil)
			}
			if err != nil {
				yield(Change{}, said(ctx, err))
				return
			}
		}
	}
}

// watching is one run of Watch.
type watching struct {
	d      *reader
	prefix string
	place
	atOnce  int             // rows of the log to look at: few, when they have many changes
	told    []told          // what is to be read of L3, in order: at most watchMost
	rows    []int64         // of the log, that told is from to their ends
	found   []found         // what is to be yielded
	changed <-chan struct{} // closed at a change after the look
	more    bool            // there was more at the look
	after   uint64          // looks with higher numbers began when all that was read had been
}

// told is a change of the log.
type told struct {
	changelog.Change
	row int64
	nth int // of that row, from 1
}

// found is what L3 holds of it.
type found struct {
	change Change
	err    error
}

// next fills found.
func (w *watching) next(ctx context.Context) (err error) {
	clear(w.found)
	w.found = w.found[:0]
	if err := w.d.door.Enter(); err != nil {
		return err
	}
	defer w.d.door.Exit(ctx, &err)
	if len(w.told) == 0 {
		for _, row := range w.rows {
			w.log.Done(row)
		}
		w.rows, w.told = w.rows[:0], nil
		if err = w.look(ctx); err != nil || len(w.told) == 0 {
			return err
		}
	}
	return w.read(ctx)
}

// look reads rows of the log, the last perhaps not to its end.
func (w *watching) look(ctx context.Context) (err error) {
	changed, news := w.d.push.Changed() // before it is looked
	w.changed = changed
	news += uint64(time.Since(w.d.began) / watchPoll) // both only rise
	rows, more, err := w.log.Next(ctx, w.atOnce, news, w.after)
	switch {
	case errors.Is(err, errLogTrimmed):
		return fmt.Errorf("%w: it was left for longer than ChangeRetention", ErrWatchExpired)
	case err != nil:
		return err
	}
	w.more = more
	last := make(map[string]int)
	for i, row := range rows {
		full, err := w.note(row, last)
		if err != nil {
			return fmt.Errorf("%w: row %d of the log of changes: %w", ErrCorruption, row.Number, err)
		}
		if full {
			w.more, w.atOnce = true, max(1, i)
			return nil
		}
		w.rows = append(w.rows, row.Number)
	}
	w.atOnce = min(2*w.atOnce, watchRows)
	return nil
}

// note puts the changes of a row behind what is told. last is where ids stand there. full: the
// row has more of them.
func (w *watching) note(row logRow, last map[string]int) (full bool, err error) {
	n := 0
	err = changelog.Read(row.Changes, func(c changelog.Change) bool {
		if n++; row.Number == w.row && n <= w.place.told || !strings.HasPrefix(c.Key, w.prefix) {
			return true
		}
		if full = len(w.told) == watchMost; full {
			return false
		}
		if at, twice := last[c.Key]; twice {
			w.told[at].Key = "" // told of later
		}
		last[c.Key] = len(w.told)
		w.told = append(w.told, told{c, row.Number, n})
		return true
	})
	return full, err
}

// read reads the next items.
func (w *watching) read(ctx context.Context) error {
	var ids []string
	for i := 0; i < len(w.told) && len(ids) < watchPage; i++ {
		if w.told[i].Key != "" {
			ids = append(ids, w.told[i].Key)
		}
	}
	at := watchedAt{w.log.Seen(), strings.Join(ids, "\x00")}
	any := func([]Found) bool { return true }
	rows, err := w.d.watched.Do(ctx, at, any, func() ([]Found, error) { return w.d.fitting(w.d.door.Background(ctx), ids) })
	if err != nil {
		return err
	}
	w.after = w.d.archive.Looked()
	n := 0
	for ; len(rows) > 0; n++ {
		t := &w.told[n]
		if t.Key == "" {
			continue
		}
		for len(w.rows) > 0 && w.rows[0] < t.row {
			w.log.Done(w.rows[0])
			w.rows = w.rows[1:]
		}
		w.row, w.place.told = t.row, t.nth
		if f := rows[0]; !f.OK || !f.Record.Deleted || f.Record.Version <= t.Version { // else the log tells of that delete later, and whether it is one
			w.found = append(w.found, w.tell(ctx, t, f))
		}
		rows = rows[1:]
	}
	w.told = w.told[n:]
	return nil
}

// watchedAt are ids that were found in a look.
type watchedAt struct {
	look uint64
	ids  string
}

// small reports whether items are kept for other watches.
func small(items []Found) bool {
	n := 0
	for i := range items {
		n += len(items[i].Record.Content)
	}
	return n <= watchKept
}

// fitting reads the first of some items: no more than have pageBytes, or one.
func (d *reader) fitting(ctx context.Context, ids []string) ([]Found, error) {
	if len(ids) > 1 {
		sizes, err := d.archive.Sizes(ctx, ids)
		if err != nil {
			return nil, err
		}
		fit, bytes := 0, 0
		for fit < len(ids) && (fit == 0 || bytes+sizes[ids[fit]] <= pageBytes) {
			bytes += sizes[ids[fit]]
			fit++
		}
		ids = ids[:fit]
	}
	return d.archive.GetMany(ctx, ids)
}

// tell is what is told of a change, by what L3 holds of the id now.
func (w *watching) tell(ctx context.Context, t *told, f Found) found {
	c := Change{Kind: ChangeDelete, ID: t.Key, Version: t.Version, Token: w.String()}
	if f.Err != nil {
		if f.Record, f.Err = w.d.repair.HealedOr(ctx, t.Key, f.Err); f.Err != nil {
			return found{c, f.Err}
		}
		f.OK = true
	}
	if f.OK {
		c.Version = f.Record.Version
	}
	switch {
	case f.OK && f.Record.expired(w.d.now), t.Flags == loggedExpiry && c.Version == t.Version,
		t.Flags != loggedDelete && c.Version == t.Version && f.OK && f.Record.Deleted: // a put that is a tombstone now
		c.Kind = ChangeExpire
	case f.OK && !f.Record.Deleted:
		c.Kind, c.Item = ChangePut, f.Record.Item
	}
	return found{change: c}
}
