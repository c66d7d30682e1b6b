package syncengine

import (
	"context"
	"sync"
	"sync/atomic"
)

// walspool.go is the journal's index of spooled ops: those that memory did not take. It costs some
// 40 bytes per spooled id, which it knows by a 64-bit hash: at a million spooled ids the chance
// that any two share one is 3e-8.

type spoolIndex struct {
	recovered int64 // segments up to this one were written by an earlier engine; set by Recover

	mu sync.RWMutex        // guards the two maps
	m  map[uint64]spoolRef // hash of id -> its newest spooled op
	// merges counts spooled merges by the hash of the id of their item.
	merges map[uint64]int
	any    atomic.Int64 // of all items
	n      atomic.Int64 // len(m), so that readers need no lock when it is 0
}

// spoolRef tells where an op is. The newest op is the one of the highest version, not
// that of the last segment: concurrent writers may be logged in another order.
type spoolRef struct {
	seg     int64
	version uint64
}

// AddSpooled remembers where a spooled op is.
func (j *journal) AddSpooled(hash uint64, seg int64, version uint64) {
	j.spool.mu.Lock()
	if j.spool.m == nil {
		j.spool.m = make(map[uint64]spoolRef)
	}
	if old, ok := j.spool.m[hash]; !ok || old.version <= version {
		j.spool.m[hash] = spoolRef{seg, version}
	}
	j.spool.n.Store(int64(len(j.spool.m)))
	j.spool.mu.Unlock()
}

// AddSpooledMerge counts a spooled merge of an item.
func (j *journal) AddSpooledMerge(item uint64) {
	j.spool.mu.Lock()
	defer j.spool.mu.Unlock()
	if j.spool.merges == nil {
		j.spool.merges = make(map[uint64]int)
	}
	j.spool.merges[item]++
	j.spool.any.Add(1)
}

// DropSpooledMerge takes one back.
func (j *journal) DropSpooledMerge(item uint64) {
	j.spool.mu.Lock()
	defer j.spool.mu.Unlock()
	if j.spool.merges[item]--; j.spool.merges[item] <= 0 {
		delete(j.spool.merges, item)
	}
	j.spool.any.Add(-1)
}

// AnySpooledMerge reports whether any merge is spooled.
func (j *journal) AnySpooledMerge() bool { return j.spool.any.Load() > 0 }

// SpooledMerges returns how many merges of an item are spooled.
func (j *journal) SpooledMerges(item uint64) int {
	if !j.AnySpooledMerge() {
		return 0
	}
	j.spool.mu.RLock()
	defer j.spool.mu.RUnlock()
	return j.spool.merges[item]
}

// DropSpooled forgets where ops of an id up to a version are spooled.
func (j *journal) DropSpooled(hash, version uint64) {
	if j.spool.n.Load() == 0 {
		return
	}
	j.spool.mu.Lock()
	if ref, ok := j.spool.m[hash]; ok && ref.version <= version {
		delete(j.spool.m, hash)
	}
	if len(j.spool.m) == 0 {
		j.spool.m = nil // a map never shrinks
	}
	j.spool.n.Store(int64(len(j.spool.m)))
	j.spool.mu.Unlock()
}

// DropDiscarded forgets where an op is spooled that is not wanted any more, in segments up to one.
func (j *journal) DropDiscarded(hash, version uint64, upTo int64) {
	j.spool.mu.Lock()
	if ref, ok := j.spool.m[hash]; ok && ref.version == version && ref.seg <= upTo {
		delete(j.spool.m, hash)
	}
	j.spool.n.Store(int64(len(j.spool.m)))
	j.spool.mu.Unlock()
}

// Spooled returns the version of the newest spooled op of an id.
func (j *journal) Spooled(hash uint64) (version uint64, ok bool) {
	ref, ok := j.spooledAt(hash)
	return ref.version, ok
}

// spooledAt returns where the newest spooled op of an id is.
func (j *journal) spooledAt(hash uint64) (ref spoolRef, ok bool) {
	if j.spool.n.Load() == 0 {
		return spoolRef{}, false
	}
	j.spool.mu.RLock()
	ref, ok = j.spool.m[hash]
	j.spool.mu.RUnlock()
	return ref, ok
}

// FindSpooled returns the newest spooled op of id, or nil when there is none, within what a call
// reads, see reading. recovered tells that an earlier engine wrote it.
func (j *journal) FindSpooled(ctx context.Context, r *reading, id string, hash func(id string) uint64) (op *entry, recovered bool, err error) {
	h := hash(id)
	for {
		ref, ok := j.spooledAt(h)
		if !ok {
			return nil, false, nil
		}
		newest := func(id string) uint64 {
			version, _ := j.Spooled(hash(id))
			return version
		}
		op, ok, err := j.opAt(ctx, r, walOp{at: walPlace{n: ref.seg}, id: id, version: ref.version}, newest)
		if err != nil || ok {
			return op, ref.seg <= j.spool.recovered, err
		}
		// Drained meanwhile: the index was changed before the segment was trimmed. Or what was
		// there was discarded, and the drain has passed over it.
		j.DropDiscarded(h, ref.version, ref.seg)
		if ctx.Err() != nil {
			return nil, false, ctx.Err()
		}
	}
}
