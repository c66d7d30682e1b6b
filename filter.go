package syncengine

// filter.go answers "absent" without I/O: a set of the ids that may be in L3
// (internal/cuckoo). INV-7 lives here: an id may be denied only while the set provably holds
// every id of L3. That takes three things:
//
//   - The set was built from all rows of L3, or is a snapshot taken when L3 had the root that
//     it has now.
//   - This engine's own writes since then are in it: ids go into the set before L3 gets them,
//     and, when a set was begun meanwhile, once more before the queue lets go of the ops, so
//     that until then L1 or the WAL answers for them.
//   - Nobody else has written since then: the engine was alone (fleet.go), and still is.
//
// Nothing is ever taken out, so deleted ids go on being affirmed until the set is built anew.
//
// No goroutines; the loop "filter" builds and saves sets (warmup.go).

import (
	"sync"
	"sync/atomic"

	"github.com/syncengine-go/syncengine/internal/cuckoo"
)

type filter struct {
	fleet *fleet
	held  atomic.Pointer[heldIDs]
	next  atomic.Pointer[cuckoo.Set] // being built
	turn  sync.Mutex                 // one set is built at a time
	begun atomic.Uint64              // sets begun or adopted; so that a write notices
	added atomic.Int64               // new ids since the last snapshot
	wrote atomic.Int64               // records since the last snapshot
}

// heldIDs is a set that held all ids of L3 at a time when fleet.company was this.
type heldIDs struct {
	set     *cuckoo.Set
	company uint64
}

// mayContain reports whether id may be in L3; false is definite.
func (f *filter) mayContain(id string) bool {
	h := f.held.Load()
	return h == nil || h.set.Contains(id) || !f.good(h)
}

// good reports whether a set holds every id that is in L3 now.
func (f *filter) good(h *heldIDs) bool {
	return h != nil && h.company == f.fleet.company.Load() && f.fleet.alone() && !h.set.Poisoned()
}

// trusted reports whether mayContain can be false.
func (f *filter) trusted() bool { return f.good(f.held.Load()) }

// entries is how many ids the filter holds.
func (f *filter) entries() int {
	if h := f.held.Load(); h != nil {
		return h.set.Len()
	}
	return 0
}

// insert puts the ids of records into the sets. It is called before L3 gets them, and again
// afterwards with what it returned. unseen tells of each record whether L3 has no row of its id, as
// far as the filter knows, which may change at any time; nil: of none.
func (f *filter) insert(recs []Record, since uint64) (begun uint64, unseen []bool) {
	begun = f.begun.Load()
	if begun == since {
		return begun, nil
	}
	next := f.next.Load() // before held: adopt changes them in the other order
	h := f.held.Load()
	gone, added := 0, 0
	if since == notBegun && f.good(h) {
		unseen = make([]bool, len(recs))
	}
	for i := range recs {
		if recs[i].Deleted {
			gone++ // perhaps of an id that never was: stale ids are an estimate
			continue
		}
		if h != nil && h.set.Insert(itemOf(recs[i].ID)) {
			if added++; unseen != nil {
				unseen[i] = true
			}
		}
		if next != nil {
			next.Insert(itemOf(recs[i].ID))
		}
	}
	if h != nil {
		h.set.AddStale(gone)
	}
	f.added.Add(int64(added))
	f.wrote.Add(int64(len(recs)))
	return begun, unseen
}

// build begins a set: from now on it gets what insert does.
func (f *filter) build(set *cuckoo.Set) {
	f.next.Store(set)
	f.begun.Add(1)
}

// adopt makes a set the one that answers, if set is not nil, and ends its building.
func (f *filter) adopt(set *cuckoo.Set, company uint64) {
	if set != nil {
		f.held.Store(&heldIDs{set, company})
	}
	f.next.Store(nil)
	f.begun.Add(1)
}

// forget drops a set that is of no use any more.
func (f *filter) forget() {
	if h := f.held.Load(); h != nil && h.company != f.fleet.company.Load() {
		f.held.CompareAndSwap(h, nil)
	}
}
