package syncengine

import "context"

// readmerge.go is how reads see items that are merged into (merging.go).

// mayMerge reports whether an entry may not be what its item is, since merges wait: they are none
// of plain items that are there. Those that have just landed have replaced it.
func (d *reader) mayMerge(ent *entry) bool {
	if !ent.gone(d.now) && (ent.meta == nil || ent.meta.crdt == "") {
		return false
	}
	if d.queue.Merging(ent.id()) {
		return true
	}
	now, ok := d.l1.Peek(ent.id())
	return !ok || now != ent
}

// merged returns what an item is of which merges wait for L3. When nobody here knows, it waits
// until somebody does, or none waits, and lets the tiers answer; known is false then.
func (d *reader) merged(ctx context.Context, id string) (rec Record, known bool, err error) {
	for {
		rec, known, waiting := d.queue.View(id)
		if known || !waiting {
			rec.Stale = known && d.passed() // as a plain op that waits (INV-15)
			return rec, known, nil
		}
		if err != nil {
			return rec, false, unavailableUnless(ctx, err)
		}
		err = d.flush.AwaitChange(ctx, id)
	}
}
