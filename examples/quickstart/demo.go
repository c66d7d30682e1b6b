package main

// demo.go is the demonstration, one function per step.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/syncengine-go/syncengine"
)

const (
	// groupBytes bounds a SubmitMany: it is one transaction everywhere.
	groupBytes = 8 << 20
	// statusSample bounds the ids that Status is asked about; it asks every tier anew.
	statusSample = 1000
	// refusalsMax is how often one write may be refused for pressure before we give up.
	refusalsMax = 12
)

// demo is one run.
type demo struct {
	options
	input
	*report

	engine  *syncengine.Engine // nil while closed
	ids     []string           // each once
	want    map[string]document
	deleted []string // the first of ids
	lost    int      // items that were not as they must be
	notes   []string // shown below the table
}

func newDemo(o options, in input, stdout, stderr io.Writer) *demo {
	d := &demo{options: o, input: in, report: newReport(stdout, stderr), want: make(map[string]document, len(in.docs))}
	for _, doc := range in.docs {
		if _, known := d.want[doc.id]; !known {
			d.ids = append(d.ids, doc.id)
		}
		d.want[doc.id] = doc // the last one wins, as in the engine
	}
	d.deleted = d.ids[:min(2, len(d.ids)-1)]
	return d
}

func (d *demo) run(ctx context.Context) (err error) {
	d.printf("%s, %s, from %s\n", plural(len(d.docs), "document"), size(d.bytes), d.source)
	if n := len(d.docs) - len(d.ids); n > 0 {
		d.printf("%s: the last one wins\n", plural(n, "duplicate id"))
	}
	d.printf("\n")
	d.header()
	// Whatever happens, Ctrl-C included, the engine is closed. Even if it weren't: at Logged
	// and above nothing acknowledged would be lost, as the last step shows.
	defer func() {
		if d.engine != nil {
			err = errors.Join(err, d.engine.Close())
		}
	}()
	steps := []func(context.Context) error{
		d.open, d.store, d.readMemory, d.flush, d.askStatus, d.delete, d.close,
		d.open, d.readMany, d.checkDeleted, d.close, // memory is cold again after each open
		d.open, d.readEach, d.close,
	}
	if d.redis != "" {
		steps = append(steps, d.openWithoutL2, d.readMany, d.close) // past Redis: the ground truth
	}
	if len(d.deleted) > 0 {
		steps = append(steps, d.open, d.putBack, d.close)
	}
	steps = append(steps, d.killOne)
	for _, step := range steps {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := step(ctx); err != nil {
			return err
		}
	}
	return d.conclude()
}

func (d *demo) conclude() error {
	d.printf("\nFiles: %s\n", sizes(d.dir))
	for _, n := range d.notes {
		d.printf("Note: %s\n", n)
	}
	if d.lost > 0 {
		return fmt.Errorf("%s did not come back as they must", plural(d.lost, "item"))
	}
	d.printf("Everything is as it must be: each byte came back, each deleted id stayed deleted.\n")
	return nil
}

// open opens the engine. The zero value of every other Config field means its default.
func (d *demo) open(ctx context.Context) error {
	return d.openAs(ctx, "open", syncengine.Config{Dir: d.dir, SQLURL: d.sql, RedisURL: d.redis, Durability: d.durability})
}

func (d *demo) openWithoutL2(ctx context.Context) error {
	return d.openAs(ctx, "open without Redis", syncengine.Config{Dir: d.dir, SQLURL: d.sql, Durability: d.durability})
}

func (d *demo) openAs(ctx context.Context, name string, cfg syncengine.Config) (err error) {
	start := time.Now()
	if d.engine, err = syncengine.Open(ctx, cfg); err != nil {
		return err
	}
	took := time.Since(start)
	result := fmt.Sprintf("%s in memory", plural(d.engine.Len(), "item"))
	// Servers that are away do not keep an engine from opening. Health asks them.
	h := d.engine.Health(ctx)
	for _, tier := range []struct {
		name  string
		probe syncengine.Probe
	}{{"Redis (L2)", h.L2}, {"SQL (L3)", h.L3}} {
		if tier.probe.Configured && !tier.probe.OK {
			result += ", " + tier.name + " is away"
			d.note(tier.name + " does not answer: " + tier.probe.Error)
		}
	}
	d.row(name, 0, took, result)
	return nil
}

// note remembers a line for the end, once.
func (d *demo) note(text string) {
	for _, n := range d.notes {
		if n == text {
			return
		}
	}
	d.notes = append(d.notes, text)
}

// store submits all documents in groups. A group is atomic: all of it is stored or nothing.
func (d *demo) store(ctx context.Context) error {
	name := fmt.Sprintf("store: SubmitMany of %d, %s", d.group, d.durability)
	if d.group == 1 {
		name = fmt.Sprintf("store: Submit, %s", d.durability)
	}
	t := d.ticker(name, len(d.docs))
	defer t.end()
	for rest := d.docs; len(rest) > 0; {
		n, weight := 1, len(rest[0].content)
		for n < min(d.group, len(rest)) && weight+len(rest[n].content) <= groupBytes {
			weight += len(rest[n].content)
			n++
		}
		if err := d.submit(ctx, rest[:n]); err != nil {
			return d.explain(err)
		}
		rest = rest[n:]
		t.add(n)
	}
	took := time.Since(t.began)
	d.row(name, len(d.docs), took, fmt.Sprintf("%.1f MB/s, acknowledged", float64(d.bytes)/1e6/took.Seconds()))
	return nil
}

// submit stores one group. An engine whose stores can't keep up refuses writes rather than
// grow without bound, and says when to come back.
func (d *demo) submit(ctx context.Context, docs []document) error {
	items := make([]syncengine.Item, len(docs))
	for i, doc := range docs {
		items[i] = syncengine.Item{ID: doc.id, Content: doc.content} // version and time are up to the engine
	}
	for refusals := 0; ; refusals++ {
		var err error
		if len(items) == 1 {
			err = d.engine.Submit(ctx, items[0])
		} else {
			_, err = d.engine.SubmitMany(ctx, items)
		}
		var refused *syncengine.BackpressureError
		if !errors.As(err, &refused) || refusals == refusalsMax {
			return err
		}
		select {
		case <-time.After(refused.RetryAfter):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// explain says which line of the input an error is about.
func (d *demo) explain(err error) error {
	var invalid *syncengine.InvalidItemError
	if errors.As(err, &invalid) {
		if doc, ok := d.want[invalid.ID]; ok {
			return fmt.Errorf("%s: line %d: %w", d.source, doc.line, err)
		}
	}
	return err
}

// readMemory reads what was just written: it is in L1, on its way to the stores or not.
func (d *demo) readMemory(ctx context.Context) error { return d.get(ctx, "read back: Get", d.ids) }

// readEach reads everything with one Get per id.
func (d *demo) readEach(ctx context.Context) error {
	return d.get(ctx, "read cold: Get", d.ids[len(d.deleted):])
}

func (d *demo) get(ctx context.Context, name string, ids []string) error {
	return d.read(name, ids, func(t *ticker) (same int, err error) {
		for _, id := range ids {
			item, err := d.engine.Get(ctx, id)
			switch {
			case err == nil:
				same += d.compare(id, &item)
			case errors.Is(err, syncengine.ErrNotFound): // counted as not identical
			default:
				return same, err
			}
			t.add(1)
		}
		return same, nil
	})
}

// readMany reads everything with GetMany, which asks each tier once for all it lacks.
func (d *demo) readMany(ctx context.Context) error {
	ids := d.ids[len(d.deleted):]
	name := fmt.Sprintf("read cold: GetMany of %d", d.group)
	return d.read(name, ids, func(t *ticker) (same int, err error) {
		for rest := ids; len(rest) > 0; {
			n := min(d.group, len(rest))
			items, err := d.engine.GetMany(ctx, rest[:n])
			if err != nil {
				return same, err
			}
			for i, item := range items { // aligned with the ids; nil: not found
				same += d.compare(rest[i], item)
			}
			rest = rest[n:]
			t.add(n)
		}
		return same, nil
	})
}

// compare returns 1 if item is, byte for byte, the document that was stored, else 0.
func (d *demo) compare(id string, item *syncengine.Item) int {
	if item != nil && item.ID == id && bytes.Equal(item.Content, d.want[id].content) {
		return 1
	}
	return 0
}

// read measures a step that reads ids, and counts what is not identical as lost.
func (d *demo) read(name string, ids []string, work func(*ticker) (same int, err error)) error {
	before := d.engine.Stats()
	t := d.ticker(name, len(ids))
	same, err := work(t)
	t.end()
	if err != nil {
		return err
	}
	took := time.Since(t.began)
	d.lost += len(ids) - same
	d.row(name, len(ids), took, fmt.Sprintf("%d of %d identical, %s", same, len(ids), sources(len(ids), before, d.engine.Stats())))
	return nil
}

// sources tells which tiers answered n reads.
func sources(n int, before, after syncengine.Stats) string {
	l1, l2, l3 := int(after.L1Hits-before.L1Hits), int(after.L2Hits-before.L2Hits), int(after.L3Hits-before.L3Hits)
	var from []string
	for _, tier := range []struct {
		name string
		hits int
	}{{"L1 (memory)", l1}, {"L2 (Redis)", l2}, {"L3 (SQL)", l3}, {"the WAL", n - l1 - l2 - l3}} {
		if tier.hits == n {
			return "from " + tier.name
		}
		if tier.hits > 0 {
			from = append(from, fmt.Sprintf("%d from %s", tier.hits, tier.name))
		}
	}
	return strings.Join(from, ", ")
}

// flush waits until L3 holds everything. An engine does that by itself all the time; a
// program calls Flush only to know when it is done.
func (d *demo) flush(ctx context.Context) error {
	pending, start := d.engine.Stats().PendingOps, time.Now()
	err := d.engine.Flush(ctx)
	took := time.Since(start)
	switch {
	case err == nil:
		d.row("Flush", 0, took, fmt.Sprintf("%s were still to be written to L3", plural(pending, "op")))
	case errors.Is(err, syncengine.ErrUnavailable):
		d.row("Flush", 0, took, fmt.Sprintf("L3 is away, %s stay in the WAL", plural(d.engine.Stats().PendingOps, "op")))
		d.note("L3 could not be written. Nothing is lost: the ops are in the WAL and flushed once L3 is back.")
	default:
		return err
	}
	return nil
}

// askStatus asks which tiers hold the documents.
func (d *demo) askStatus(ctx context.Context) error {
	ids := d.ids[:min(statusSample, len(d.ids))]
	var l1, l2, l3, synced, pending int
	start := time.Now()
	for _, id := range ids {
		st, err := d.engine.Status(ctx, id)
		if err != nil && !errors.Is(err, syncengine.ErrUnavailable) { // a tier away leaves the rest valid
			return err
		}
		l1, l2, l3 = l1+count(st.InL1), l2+count(st.InL2), l3+count(st.InL3)
		synced, pending = synced+count(st.State == syncengine.StatusSynced), pending+count(st.State == syncengine.StatusPending)
	}
	took := time.Since(start)
	d.lost += len(ids) - synced - pending
	where := fmt.Sprintf("in L1 %d", l1)
	if d.redis != "" {
		where += fmt.Sprintf(", in L2 %d", l2)
	}
	d.row("Status", len(ids), took, fmt.Sprintf("%d synced, %d pending; %s, in L3 %d", synced, pending, where, l3))
	return nil
}

func count(b bool) int {
	if b {
		return 1
	}
	return 0
}

// delete deletes a document or two. A delete is a write like any other: logged, flushed,
// and remembered, so that no older copy brings the id back.
func (d *demo) delete(ctx context.Context) error {
	if len(d.deleted) == 0 {
		return nil // there is only one document
	}
	start := time.Now()
	if _, err := d.engine.DeleteMany(ctx, d.deleted); err != nil {
		return err
	}
	took := time.Since(start)
	d.row("DeleteMany", len(d.deleted), took, d.countGone(ctx))
	return nil
}

// checkDeleted looks for the deleted ids in an engine whose memory knows nothing of them.
func (d *demo) checkDeleted(ctx context.Context) error {
	if len(d.deleted) > 0 {
		start := time.Now()
		result := d.countGone(ctx)
		d.row("read deleted: Get", len(d.deleted), time.Since(start), result)
	}
	return nil
}

func (d *demo) countGone(ctx context.Context) string {
	gone := 0
	for _, id := range d.deleted {
		// ErrNotFound is certain: an engine that can't ask L3 says ErrUnavailable instead.
		_, err := d.engine.Get(ctx, id)
		gone += count(errors.Is(err, syncengine.ErrNotFound))
	}
	d.lost += len(d.deleted) - gone
	return fmt.Sprintf("%d of %d not found", gone, len(d.deleted))
}

// putBack stores the deleted documents again, for those who keep the data.
func (d *demo) putBack(ctx context.Context) error {
	start := time.Now()
	docs := make([]document, len(d.deleted))
	for i, id := range d.deleted {
		docs[i] = d.want[id]
	}
	if err := d.submit(ctx, docs); err != nil {
		return err
	}
	d.row("put the deleted ones back", len(docs), time.Since(start), "acknowledged")
	return d.get(ctx, "read them: Get", d.deleted)
}

// close ends the engine. What L3 could not take stays in the WAL for the next Open; the
// error that says so is no loss.
func (d *demo) close(context.Context) error {
	start := time.Now()
	err := d.engine.Close()
	d.engine = nil
	result := "all flushed"
	var pending *syncengine.PendingError
	if errors.As(err, &pending) {
		result = fmt.Sprintf("%s left in the WAL", plural(pending.Ops, "op"))
	} else if err != nil {
		return err
	}
	d.row("Close", 0, time.Since(start), result)
	return nil
}
