package syncengine

// walkept.go is what the journal knows of ops that are done and that the log still has. A segment
// goes as a whole, only from the front, and a little late. After a kill such an op is one that
// waits, for all that the next engine knows, and while L3 is away it is the newest that it has of
// its id. Where L3 has decided another one since, which is not in the log, that must not be: see
// numbers.LogDecided.
//
// It costs 8 bytes for each op that is done and not gone, and nothing in an engine that never
// decides anything in L3.

import (
	"hash/maphash"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/syncengine-go/syncengine/internal/oplog"
)

// keptMost is how many ops are told apart. Of more, any may be there.
const keptMost = 1 << 14

type keptOps struct {
	on atomic.Bool // somebody has asked

	mu   sync.Mutex // guards the rest
	seed maphash.Seed
	segs []keptSegment // in the order in which their ops were done
	n    int           // hashes in segs
	all  int64         // up to this segment any id may be there
}

// keptSegment are ops of one segment that are done; there may be several of one segment.
type keptSegment struct {
	id     int64
	hashes []uint64 // of ids
}

// add notes that ops of a segment are done.
func (k *keptOps) add(seg int64, ops []*entry, log *oplog.Log) {
	if !k.on.Load() {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	last := len(k.segs) - 1
	if last < 0 || k.segs[last].id != seg {
		if _, trimmed := log.Extent(); last >= 0 && k.segs[0].id <= trimmed {
			k.forget(trimmed)
		}
		k.segs = append(k.segs, keptSegment{id: seg})
		last = len(k.segs) - 1
	}
	for _, op := range ops {
		k.segs[last].hashes = append(k.segs[last].hashes, maphash.String(k.seed, op.id()))
	}
	if k.n += len(ops); k.n > keptMost {
		for i := range k.segs {
			k.all = max(k.all, k.segs[i].id)
		}
		k.segs, k.n = nil, 0
	}
}

// forget drops what has gone. k.mu is held.
func (k *keptOps) forget(trimmed int64) {
	k.segs = slices.DeleteFunc(k.segs, func(s keptSegment) bool {
		if s.id <= trimmed {
			k.n -= len(s.hashes)
		}
		return s.id <= trimmed
	})
}

// Kept returns the last segment of which the log still has an op that is done and may be of one of
// the ids of ops, 0 for none.
func (j *journal) Kept(ops []*entry) (seg int64) {
	k := &j.kept
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.on.Load() {
		k.seed = maphash.MakeSeed()
		k.on.Store(true)
		k.all, _ = j.log.Extent() // after on: what is done in a later segment is noted
	}
	_, trimmed := j.log.Extent()
	if k.all > trimmed {
		seg = k.all
	}
	k.forget(trimmed)
	for _, op := range ops {
		h := maphash.String(k.seed, op.id())
		for i := range k.segs {
			if k.segs[i].id > seg && slices.Contains(k.segs[i].hashes, h) {
				seg = k.segs[i].id
			}
		}
	}
	return seg
}

// Trimming reports whether a segment goes, as all before it are done, too.
func (j *journal) Trimming(seg int64) bool { return j.log.Trims() >= seg }

// Trimmed calls then when a segment that goes is gone from disk, or with why it is not.
func (j *journal) Trimmed(seg int64, then func(error)) {
	j.log.Trimmed(seg, func(err error) { then(walError(err)) })
}
