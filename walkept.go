package syncengine

// walkept.go is what the journal knows of ids whose ops the log has: those that wait, and those
// that are done, since a segment goes as a whole, only from the front, and a little late. After a
// kill, or a Close in an outage, such an op is the newest of its id that the next engine has, for
// all that it knows. Where L3 has decided another one since, which is not in the log, that must not
// be: see numbers.LogDecided.
//
// It costs 8 bytes for each op in the log, up to keptMost of them, and nothing in an engine that
// never decides anything in L3. Ops are told apart by a hash of their items' ids: that two share
// one makes a decided op go into the log that need not.

import (
	"hash/maphash"
	"math"
	"slices"
	"sync"
	"sync/atomic"
)

// keptMost is how many ops are told apart. Of more, any may be there.
const keptMost = 1 << 14

type keptOps struct {
	on atomic.Bool // somebody has asked

	mu      sync.Mutex // guards the rest
	seed    maphash.Seed
	pending []*keptUnit   // on their way into the log
	segs    []keptSegment // in their order
	n       int           // hashes in segs
	all     int64         // up to this segment any id may be there
}

// keptUnit is what is handed to the log at once.
type keptUnit struct{ hashes []uint64 }

type keptSegment struct {
	id     int64
	hashes []uint64
}

// begin notes ops that are about to be appended; nil: nobody has asked yet.
func (k *keptOps) begin(ops []*entry) *keptUnit {
	if !k.on.Load() {
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	u := &keptUnit{hashes: make([]uint64, len(ops))}
	for i, op := range ops {
		u.hashes[i] = maphash.String(k.seed, op.item())
	}
	k.pending = append(k.pending, u)
	return u
}

// end notes that they are in a segment, 0: they are not.
func (k *keptOps) end(u *keptUnit, seg int64) {
	if !k.on.Load() {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if u == nil { // somebody has asked since they were appended
		k.all = max(k.all, seg)
		return
	}
	k.pending = slices.DeleteFunc(k.pending, func(o *keptUnit) bool { return o == u })
	if seg == 0 {
		return
	}
	last := len(k.segs) - 1
	if last < 0 || k.segs[last].id != seg {
		k.segs = append(k.segs, keptSegment{id: seg})
		last++
	}
	k.segs[last].hashes = append(k.segs[last].hashes, u.hashes...)
	if k.n += len(u.hashes); k.n > keptMost {
		k.all, k.segs, k.n = max(k.all, seg), nil, 0
	}
}

// forget drops what has gone. k.mu is held.
func (k *keptOps) forget(trimmed int64) {
	gone := 0
	for gone < len(k.segs) && k.segs[gone].id <= trimmed {
		k.n -= len(k.segs[gone].hashes)
		gone++
	}
	k.segs = slices.Delete(k.segs, 0, gone)
}

// Kept returns the last segment of the log in which there may be an op of an item of ops, 0 for
// none, and the largest number there is when one is on its way into the log.
func (j *journal) Kept(ops []*entry) (seg int64) {
	k := &j.kept
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.on.Load() {
		k.seed = maphash.MakeSeed()
		k.on.Store(true)
		k.all, _ = j.log.Extent() // after on: what is committed later is noted
	}
	_, trimmed := j.log.Extent()
	if k.all > trimmed {
		seg = k.all
	}
	k.forget(trimmed)
	for _, op := range ops {
		h := maphash.String(k.seed, op.item())
		if slices.ContainsFunc(k.pending, func(u *keptUnit) bool { return slices.Contains(u.hashes, h) }) {
			return math.MaxInt64
		}
		for i := len(k.segs) - 1; i >= 0 && k.segs[i].id > seg; i-- {
			if slices.Contains(k.segs[i].hashes, h) {
				seg = k.segs[i].id
			}
		}
	}
	return seg
}

// Trimming reports whether a segment goes, as it and all before it are done.
func (j *journal) Trimming(seg int64) bool { return j.log.Trims() >= seg }

// Trimmed calls then when a segment that goes is gone from disk, or with why it is not.
func (j *journal) Trimmed(seg int64, then func(error)) {
	j.log.Trimmed(seg, func(err error) { then(walError(err)) })
}
