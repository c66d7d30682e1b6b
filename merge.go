package syncengine

// merge.go is the way of merges through the writer: states of items with a kind, which Submit and
// the like are given, and deltas. What they have in common with other ops is in write.go; what is
// different is that each has a key of its own (mergekey.go), and that L3 merges it (l3merge.go).
//
// A merge with a condition is decided by L3, wherever that is, after what waits of its item has
// landed.

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

// Merge is the method of the engine.
func (e *writer) Merge(ctx context.Context, id, kind string, delta json.RawMessage, opts ...WriteOption) (Item, error) {
	o, err := e.options(id, opts)
	if err != nil {
		return Item{}, err
	}
	it := Item{ID: id, Content: delta}
	if err := checkItem(&it, e.cfg.MaxItemBytes); err != nil {
		return Item{}, err
	}
	if it.CRDT, err = checkMerge(id, kind, delta, &o); err != nil {
		return Item{}, err
	}
	c, err := e.newCall(ctx, &o, 1, roomFor(&it))
	if err != nil {
		return Item{}, err
	}
	rec := Record{Item: it}
	rec.Version, rec.UpdatedAt = o.version, time.Now()
	e.asMerge(&rec, true)
	op := newEntry(&rec)
	op.hash = hashOf(op.content())
	if o.priority != nil {
		op.setPriority(*o.priority)
	}
	c.ops = append(c.ops, op)
	if err := e.write(ctx, c); err != nil {
		return Item{}, err
	}
	return e.afterMerge(op), nil
}

// checkMerge checks what is special in a call of Merge, and returns the kind.
func checkMerge(id, kind string, delta json.RawMessage, o *writeOptions) (string, error) {
	refuse := func(field, rule string) error { return &InvalidItemError{ID: id, Field: field, Rule: rule} }
	if !crdtBuilt {
		return "", says(fmt.Errorf("item %q: CRDT kind %q: %w: build with -tags crdt", id, kind, ErrFeatureNotBuilt))
	}
	if o.conditional {
		return "", refuse("WithIfVersion or IfUnchanged", "is not for a delta: it changes what is there, whatever that is")
	}
	if o.givenTTL && o.ttl > 0 {
		return "", refuse("WithTTL", "is not for items with a CRDT kind: they don't expire")
	}
	name, err := kindName(kind)
	if err != nil {
		return "", refuse("CRDT", "must name a kind: "+err.Error())
	}
	if err := checkDelta(name, delta); err != nil {
		return "", refuse("delta", "must be one of kind "+name+": "+err.Error())
	}
	return name, nil
}

// afterMerge is what is known of an item after a merge was accepted.
func (e *writer) afterMerge(op *entry) Item {
	if rec, known, waiting := e.queue.View(op.item()); known {
		return rec.Item
	} else if ent, ok := e.l1.Peek(op.item()); ok && !waiting && !ent.gone(e.now) && ent.version >= op.version {
		return ent.record().Item // it has landed
	}
	it := op.record().Item
	it.ID, it.Content, it.ContentHash = op.item(), nil, [32]byte{}
	return it
}

// storedAs returns what L3 has stored of an op that it has decided.
func (e *writer) storedAs(op *entry) Record {
	rec := op.record()
	if op.isMerge() {
		if ent, ok := e.l1.Peek(op.item()); ok && ent.version >= rec.Version {
			rec = ent.record()
		}
		rec.ID = op.item()
	}
	return rec
}

// asMerge gives a record the key of a merge of its item, for now without a number.
func (e *writer) asMerge(rec *Record, delta bool) {
	rec.CRDT, _ = kindName(rec.CRDT) // checked
	rec.ID = MergeKey{ID: rec.ID, Node: e.numbers.Node(), Delta: delta}.String()
}

// checkKinds refuses ops of another kind than what is known of their items. What is not known here,
// or aged, L3 decides.
func (e *writer) checkKinds(ops []*entry) error {
	group := make(map[string]*entry)
	for _, op := range ops {
		if op.isMerge() && !e.archive.Merges() {
			return &ConfigError{Field: "L3", Value: "(set)", Rule: "must be a MergingStore for items with a CRDT kind"}
		}
		rec := op.record()
		before := e.queue.NewestOf(op.item())
		if len(ops) > 1 {
			if other := group[op.item()]; other != nil {
				before = other
			}
			group[op.item()] = op
		}
		if before != nil {
			if err := mayReplace(before.kind(), &rec); err != nil && !before.gone(e.now) {
				return says(err.Err)
			}
			continue
		}
		ent, ok := e.l1.Peek(op.item())
		if !ok || ent.gone(e.now) || op.deleted && crdtBuilt || !e.reader.Fresh(ent) {
			continue
		}
		if err := mayReplace(ent.kind(), &rec); err != nil {
			return says(err.Err)
		}
	}
	return nil
}

func (c *call) merges() bool { return slices.ContainsFunc(c.ops, (*entry).isMerge) }

func itemsOf(ops []*entry) []string {
	ids := make([]string, len(ops))
	for i, op := range ops {
		ids[i] = op.item()
	}
	return ids
}

// landMerges waits until no merges of ids wait.
func (e *writer) landMerges(ctx context.Context, ids []string) error {
	if !slices.ContainsFunc(ids, e.queue.Merging) {
		return nil
	}
	_, err := e.flush.FlushAll(ctx)
	return err
}

// noteViews notes which of the versions that ids must be at are those of views: of items as they
// were read while merges waited. L3 has others (mergekey.go).
func (e *writer) noteViews(c *call) {
	for i, version := range c.want {
		if hash, ok := e.queue.Shown(c.ops[i].item(), version); ok {
			if c.views == nil {
				c.views = make(map[int][32]byte)
			}
			c.views[i] = hash
		}
	}
}

// versionsOfViews puts the versions of rows in the place of those of views, where they hold the
// same, once the merges have landed. Where they do not, the condition fails.
func (e *writer) versionsOfViews(ctx context.Context, c *call) error {
	if len(c.views) == 0 {
		return nil
	}
	rows, err := e.archive.Heads(ctx, itemsOf(c.ops))
	if err != nil {
		return err
	}
	for i, op := range c.ops {
		hash, ok := c.views[i]
		if !ok {
			continue
		}
		var now Meta
		for _, row := range rows {
			if row.ID == op.item() && !row.Deleted {
				now = row
			}
		}
		if now.Version == 0 || now.ContentHash != hash {
			return &ConflictError{ID: op.item(), Want: c.want[i], Have: now.Version}
		}
		c.want[i] = now.Version
	}
	c.views = nil
	return nil
}

// mergedNow brings what items are after merges that L3 has decided into L1, and returns it for L2.
func (e *writer) mergedNow(ctx context.Context, ids []string) (recs []Record) {
	if len(ids) == 0 {
		return nil
	}
	slices.Sort(ids)
	ids = slices.Compact(ids)
	moment := e.l1.Moment()
	found, err := e.archive.GetManyOnce(ctx, ids)
	for i, id := range ids {
		if err == nil && found[i].OK {
			e.l1.KeepOf(newEntry(&found[i].Record), moment)
			e.l1.Heard(id)
			recs = append(recs, found[i].Record)
			continue
		}
		if ent, ok := e.l1.Peek(id); ok {
			e.l1.Drop(ent)
		}
	}
	if len(recs) < len(ids) {
		missed := make([]Record, len(ids))
		for i, id := range ids {
			missed[i] = Record{Item: Item{ID: id}}
		}
		e.cache.Miss(ctx, missed)
	}
	return recs
}
