package main

// transfer.go has export and import: one item is one line of JSON, which line.go has.

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/backdoor"
)

const (
	exportPage   = 500
	exportBuffer = 64 << 10
	importGroup  = 500
	groupBytes   = 8 << 20  // of a group that is imported
	longestLine  = 64 << 20 // of a file that is imported
)

func (t *tool) export(ctx context.Context, o *options) error {
	dir, _, err := o.optional(0)
	if err != nil {
		return err
	}
	return t.with(ctx, o, dir, func(ctx context.Context, e *syncengine.Engine) (err error) {
		if err := e.Flush(ctx); err != nil && !errors.Is(err, syncengine.ErrRefused) {
			return err
		} else if err != nil {
			fmt.Fprintln(t.err, "syncengine: ops in quarantine are not in SQL: of their ids what a read answers is exported")
		}
		to, finish, err := t.output(ctx, o)
		if err != nil {
			return err
		}
		w := bufio.NewWriterSize(to, exportBuffer)
		p, n := t.progress(o, "items exported"), 0
		defer func() {
			if flushed := w.Flush(); err == nil || !errors.Is(err, flushed) {
				err = errors.Join(err, flushed)
			}
			p.end(to.lines)
			err = errors.Join(err, finish())
		}()
		damaged := 0
		for it, err := range e.All(ctx, o.prefix) {
			if errors.Is(err, syncengine.ErrCorruption) {
				damaged++
				fmt.Fprintln(t.err, err)
				continue
			}
			if err == nil {
				err = writeJSON(w, lineOf(&it))
			}
			if err != nil {
				return err
			}
			if n++; n%exportPage == 0 {
				p.at(n)
			}
		}
		if damaged > 0 {
			return fmt.Errorf("%d items are damaged, and left out: %w", damaged, syncengine.ErrCorruption)
		}
		return nil
	})
}

// output opens what export writes to. finish closes it, on disk if it is a file. A pipe waits for
// somebody who reads.
func (t *tool) output(ctx context.Context, o *options) (to *output, finish func() error, err error) {
	if o.file == "" {
		t.out.ctx = ctx
		return t.out, func() error { return nil }, nil
	}
	f, err := within(ctx, func() (*os.File, error) { return os.OpenFile(o.file, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600) })
	if err != nil {
		return nil, nil, err
	}
	st, err := f.Stat()
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	to = &output{w: f, ctx: ctx}
	if !st.Mode().IsRegular() { // a pipe, say, can't be synced
		return to, f.Close, nil
	}
	return to, func() error { return errors.Join(f.Sync(), f.Close()) }, nil
}

func (t *tool) imports(ctx context.Context, o *options) error {
	dir, _, err := o.optional(0)
	if err != nil {
		return err
	}
	ctx, cancel := o.within(ctx)
	defer cancel()
	from := t.in
	if o.file != "" {
		f, err := within(ctx, func() (*os.File, error) { return os.Open(o.file) }) // a pipe waits for somebody who writes
		if err != nil {
			return err
		}
		defer f.Close()
		from = f
	}
	return t.with(ctx, o, dir, func(ctx context.Context, e *syncengine.Engine) error {
		if err := flush(ctx, e); err != nil { // what waited before
			return err
		}
		was, refused := e.Stats().Superseded, refusals(ctx, e)
		im := &importer{e: e, keep: o.keepVersions, offset: e.Health(ctx).ClockOffset, p: t.progress(o, "items imported")}
		err := im.read(ctx, &input{ctx: ctx, r: from})
		if flushed := flush(ctx, e); flushed != nil && (err == nil || ctx.Err() == nil) {
			err = errors.Join(err, fmt.Errorf("waiting for SQL: %w", flushed))
		}
		bad := 0
		for op := range refusals(ctx, e) {
			if !refused[op] {
				bad++
			}
		}
		if im.n -= bad; bad > 0 {
			err = errors.Join(err, foundError{fmt.Sprintf("SQL refused %d items%s", bad, note(dir != "", ": see syncengine quarantine list"))})
		}
		older := int(e.Stats().Superseded - was) // as SQL has found
		im.n, im.older = im.n-older, im.older+older
		im.p.end(im.n)
		if o.json {
			err = errors.Join(err, writeJSON(t.out, map[string]int{"imported": im.n, "older": im.older, "expired": im.expired, "refused": bad}))
			return err
		}
		if im.older > 0 {
			fmt.Fprintf(t.out, "%d items were older than what is there, and were left out\n", im.older)
		}
		if im.expired > 0 {
			fmt.Fprintf(t.out, "%d items have expired, and were left out\n", im.expired)
		}
		return err
	})
}

// refusals are the ops in quarantine, but for damaged ones.
func refusals(ctx context.Context, e *syncengine.Engine) map[[2]string]bool {
	ops, _ := e.Quarantined(ctx)
	out := make(map[[2]string]bool, len(ops))
	for _, op := range ops {
		out[[2]string{op.ID, fmt.Sprint(op.Version)}] = true
	}
	return out
}

// importer submits lines, and asks for many at a time what there is of them, if they have versions.
type importer struct {
	e      *syncengine.Engine
	keep   bool
	p      *progress
	group  []syncengine.Item
	lines  []int // of the group
	bytes  int
	offset time.Duration // by which this host's clock is ahead

	n, older, expired int
}

// hasExpired reports whether the expiry of an item that has one is over.
func (im *importer) hasExpired(it *syncengine.Item) bool {
	return time.Until(it.ExpiresAt)+im.offset <= 0
}

// read ends at the first line that can't be imported; those before it are.
func (im *importer) read(ctx context.Context, r io.Reader) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 1<<20), longestLine)
	number := 0
	for lines.Scan() && lines.Err() == nil { // else it is what was read of a line
		number++
		text := bytes.TrimSpace(lines.Bytes())
		if len(text) == 0 {
			continue
		}
		var l line
		if err := l.read(text); err != nil {
			return errors.Join(im.submit(ctx), badLine(number, err))
		}
		if err := im.add(ctx, &l, number); err != nil {
			return err
		}
	}
	if err := lines.Err(); err != nil && ctx.Err() != nil {
		return fmt.Errorf("waiting for line %d: %w", number+1, ctx.Err())
	} else if err != nil {
		return errors.Join(im.submit(ctx), badLine(number+1, err))
	}
	return im.submit(ctx)
}

func (im *importer) add(ctx context.Context, l *line, number int) error {
	it := l.item()
	if !im.keep {
		if err := im.submitOne(ctx, &it); err != nil {
			return lineError(number, err)
		}
		im.p.at(im.n)
		return nil
	}
	it.Version = uint64(l.Version)
	size := len(it.ID) + len(it.Content)
	if len(im.group) >= importGroup || im.bytes+size > groupBytes { // one item may be larger
		if err := im.submit(ctx); err != nil {
			return err
		}
	}
	im.group, im.lines, im.bytes = append(im.group, it), append(im.lines, number), im.bytes+size
	return nil
}

// submit stores the group, which is of items with versions of their own.
func (im *importer) submit(ctx context.Context) error {
	group, lines := im.group, im.lines
	im.group, im.lines, im.bytes = nil, nil, 0
	return im.submitEach(ctx, group, lines)
}

// submitEach stores items at their own versions, but for those that are older than what is there.
func (im *importer) submitEach(ctx context.Context, group []syncengine.Item, lines []int) error {
	if len(group) == 0 {
		return nil
	}
	ids := make([]string, len(group))
	for i := range group {
		ids[i] = group[i].ID
	}
	have, err := im.e.GetMany(ctx, ids)
	if ofAnItem(err) && len(group) > 1 { // of which one is not always said
		for i := range group {
			if err := im.submitEach(ctx, group[i:i+1], lines[i:i+1]); err != nil {
				return err
			}
		}
		return nil
	}
	if err != nil {
		return lineError(lines[0], err)
	}
	older := make(map[int]bool)
	for i := range group {
		older[i] = have[i] != nil && have[i].Version > group[i].Version
	}
	end, bad := im.firstBad(ctx, group, older)
	for i, it := range group[:end] {
		if older[i] {
			im.older++
			continue
		}
		err := im.submitOne(ctx, &it, syncengine.WithVersion(it.Version))
		if errors.Is(err, syncengine.ErrStaleVersion) {
			im.older++
			continue
		}
		if err != nil {
			return lineError(lines[i], err)
		}
	}
	if im.p.at(im.n); bad != nil {
		return lineError(lines[end], bad)
	}
	return nil
}

// firstBad returns the place of the first item, of those that are to be left out as older, which
// could not be stored anyway, and why. The engine looks at an item before it does at a condition,
// and this one never holds.
func (im *importer) firstBad(ctx context.Context, group []syncengine.Item, older map[int]bool) (end int, bad error) {
	var items []syncengine.Item
	var places []int
	for i := range group {
		if older[i] {
			items, places = append(items, group[i]), append(places, i)
		}
	}
	if end = len(group); len(items) == 0 {
		return end, nil
	}
	tell := syncengine.EachOptions{OnError: func(ie syncengine.ItemError) {
		// That there is an item of another kind is no fault of one that is left out.
		if at := places[ie.Index]; at < end && isBad(ie.Err) && !errors.Is(ie.Err, syncengine.ErrKindMismatch) {
			end, bad = at, ie.Err
		}
	}}
	if _, err := im.e.SubmitEach(ctx, slices.Values(items), tell, syncengine.WithIfVersion(math.MaxInt64)); err != nil {
		return 0, err
	}
	return end, bad
}

// submitOne stores an item, unless it has expired. A Flush follows.
func (im *importer) submitOne(ctx context.Context, it *syncengine.Item, opts ...syncengine.WriteOption) error {
	opts = append(opts, syncengine.WithDurability(syncengine.Buffered))
	return im.patiently(ctx, func() error {
		with := opts
		if !it.ExpiresAt.IsZero() {
			if im.hasExpired(it) {
				im.expired++
				return nil
			}
			with = append(with, backdoor.ExpiresAt(it.ExpiresAt).(syncengine.WriteOption))
		}
		err := im.e.Submit(ctx, *it, with...)
		if err == nil {
			im.n++
		}
		return err
	})
}

// ofAnItem reports whether an error is about one item: others of its group can be stored.
func ofAnItem(err error) bool {
	return isBad(err) || errors.Is(err, syncengine.ErrCorruption)
}

// isBad reports whether an item can't be imported for its own sake.
func isBad(err error) bool {
	return errors.Is(err, syncengine.ErrInvalidItem) || errors.Is(err, syncengine.ErrKindMismatch) || errors.Is(err, syncengine.ErrFeatureNotBuilt)
}

// badLine is the error of a line that can't be imported for its own sake.
func badLine(number int, err error) error {
	return foundError{fmt.Sprintf("line %d: %v", number, err)}
}

// lineError is the error of a line, or of a group that begins there.
func lineError(number int, err error) error {
	if isBad(err) {
		return badLine(number, err)
	}
	return fmt.Errorf("line %d: %w", number, err)
}

// patiently submits again what was refused since there was too much.
func (im *importer) patiently(ctx context.Context, submit func() error) error {
	for {
		err := submit()
		var full *syncengine.BackpressureError
		if !errors.As(err, &full) {
			return err
		}
		if err := flush(ctx, im.e); err != nil {
			return err
		}
		select {
		case <-time.After(min(full.RetryAfter, 100*time.Millisecond)):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
