package syncengine

// merging.go is the part of the queue (batch.go) that knows which merges of an item wait for L3,
// and what the item is with them.
//
// A merge is an op under a key of its own (mergekey.go), so L1 does not hold what a read wants to
// see: the state that L3 held when the first of them came, with all of them applied. That is a
// view. It lies in L1 under the id and a byte 0, where it is counted and evicted like any copy, and
// is brought up to date by whoever wants to see it, or before a merge leaves memory for the spool.
// While merges of an item wait, nothing else answers for it: a copy from a lower tier may have some
// of them, or not. Without a view nobody here knows; a reader waits until L3 has them all.
//
// A view begins with a copy in L1 that no waiting merge can be in, with nothing when the filter
// knows that L3 has nothing, or with what L3 says the item is after a batch, if it is certain that
// L3 has none of those that still wait: they have not been sent, or were refused with a batch that
// certainly did not land.
//
// All but View is called with the lock held.

import (
	"slices"
	"strings"
	"sync"
)

// merging is what waits for one item.
type merging struct {
	ops    []*entry      // in memory, in the order of acceptance
	seen   int           // how many of them the view has
	view   *entry        // shadow of the view in L1; nil: there is none
	floor  uint64        // version of a later plain op or delete: what is below does not count
	newest uint64        // version of all that came
	views  viewNumbers   // of this view
	change chan struct{} // closed and dropped when some have landed, or L3 failed; nil: nobody waits
	gen    int           // counts what changes, but for ops that come at the end
}

// viewKey is where the view of an item is in L1.
func viewKey(id string) string { return id + "\x00" }

// noteMerge accounts for a merge that was accepted. spooled tells that memory does not keep it.
func (q *queue) noteMerge(e *entry, spooled bool) {
	id := e.item()
	m := q.merges[id]
	if m == nil {
		m = &merging{}
		q.addMerging(id, m)
		if q.wal.SpooledMerges(q.l1.Hash(id)) == 0 {
			q.begin(m, id)
		}
	}
	m.newest = max(m.newest, e.version)
	q.l1.Touch(id)
	if e.version <= m.floor {
		if spooled {
			q.wal.AddSpooledMerge(q.l1.Hash(id))
		}
		return // a delete came after it
	}
	if !spooled {
		m.ops = append(m.ops, e)
		return
	}
	q.wal.AddSpooledMerge(q.l1.Hash(id))
	m.gen++
	if view := q.current(m, id); view != nil && len(view.content()) <= maxFold {
		q.setView(m, id, fold(view, append(slices.Clone(m.ops[m.seen:]), e), m.views), len(m.ops))
	} else {
		q.dropView(m, id)
	}
}

// drainedMerge accounts for a merge that was read back from the WAL. If there is a view, it has the
// merge. copied tells that the merge was in memory as well.
func (q *queue) drainedMerge(e *entry, copied bool) {
	id := e.item()
	q.wal.DropSpooledMerge(q.l1.Hash(id))
	e.state.Or(stateUnsure) // it may have landed before a crash, or the copy in memory has
	m := q.merges[id]
	if m == nil {
		m = &merging{}
		q.addMerging(id, m)
	}
	if copied && slices.ContainsFunc(m.ops, func(o *entry) bool { return o.id() == e.id() }) {
		return
	}
	if e.version <= m.floor {
		return
	}
	m.newest, m.gen = max(m.newest, e.version), m.gen+1
	if m.seen != len(m.ops) {
		q.dropView(m, id)
	} else if m.view != nil {
		m.seen++
	}
	m.ops = append(m.ops, e)
}

func (q *queue) addMerging(id string, m *merging) {
	if q.merges == nil {
		q.merges = make(map[string]*merging)
	}
	q.merges[strings.Clone(id)] = m // it may be in an op's own memory
	q.merging.Store(int64(len(q.merges)))
	q.l1.Listen(id)
}

// AskAbsent sets who knows which ids L3 has nothing of.
func (q *queue) AskAbsent(absent func(id string) bool) { q.absent = absent }

// maxFold is how large a view may be that merges on their way into the spool are applied to: that
// holds up the log.
const maxFold = 64 << 10

// begin takes a copy in L1 for the first view of an item.
func (q *queue) begin(m *merging, id string) {
	e, ok := q.l1.Peek(id)
	if !ok {
		_, spooled := q.wal.Spooled(q.l1.Hash(id)) // perhaps this very merge
		if !spooled && q.held[id] == nil && q.absent(id) {
			q.putView(m, id, Record{Deleted: true}, 0)
		}
		return
	}
	rec := e.record()
	if rec.Deleted {
		m.floor = rec.Version
		rec.Content, rec.CRDT = nil, ""
	} else if rec.CRDT == "" {
		return // L3 will refuse the merge
	}
	q.putView(m, id, rec, 0)
}

// putView makes a record the view of an item.
func (q *queue) putView(m *merging, id string, rec Record, seen int) {
	rec.ID = viewKey(id)
	m.views = drawViews(rec.Version)
	q.setView(m, id, newEntry(&rec), seen)
}

func (q *queue) setView(m *merging, id string, e *entry, seen int) {
	q.dropView(m, id)
	if e != nil {
		q.l1.Keep(e)
		m.view, m.seen = e.shadow(), seen
	}
}

func (q *queue) dropView(m *merging, id string) {
	if m.view != nil {
		if old, ok := q.l1.Peek(viewKey(id)); ok {
			q.l1.Drop(old)
		}
		m.view, m.seen = nil, 0
	}
}

// current returns the view of an item as L1 has it, nil when there is none.
func (q *queue) current(m *merging, id string) *entry {
	if m.view == nil {
		return nil
	}
	e, ok := q.l1.Peek(viewKey(id))
	if !ok || e.version != m.view.version || e.hash != m.view.hash || e.deleted != m.view.deleted {
		m.view, m.seen = nil, 0 // evicted
		return nil
	}
	return e
}

// fold returns a view with more merges; nil when one can't be applied.
func fold(view *entry, ops []*entry, views viewNumbers) *entry {
	rec := view.record()
	if len(ops) == 0 {
		return view
	}
	kind := ops[0].meta.crdt
	if rec.CRDT != "" && rec.CRDT != kind {
		return nil
	}
	state, err := openState(kind, rec.Content)
	for i := 0; err == nil && i < len(ops); i++ {
		op := ops[i].record()
		if op.CRDT != kind {
			return nil
		}
		seen := false
		if ops[i].attempts == 0 { // else it comes late
			seen, err = state.Seen(&op)
		}
		if err == nil && !seen {
			err = state.Merge(&op)
		}
		op.ID, op.Version = rec.ID, views.With(op.Version, rec.Version)
		if rec.UpdatedAt.After(op.UpdatedAt) {
			op.UpdatedAt = rec.UpdatedAt
		}
		rec = op
	}
	if err == nil {
		rec.Content, err = state.Bytes()
	}
	if err != nil {
		return nil
	}
	rec.Deleted, rec.ContentHash = false, hashOf(rec.Content)
	return newEntry(&rec)
}

// View returns what an item is with the merges that wait for L3. waiting tells that some do; then,
// unless known, nobody here knows what the item is.
func (q *queue) View(id string) (rec Record, known, waiting bool) {
	if !q.AnyMerge() {
		return rec, false, false
	}
	q.mu.Lock()
	m := q.merges[id]
	if m == nil {
		q.mu.Unlock()
		return rec, false, q.wal.SpooledMerges(q.l1.Hash(id)) > 0
	}
	view, gen, seen, views := q.current(m, id), m.gen, len(m.ops), m.views
	var unseen []*entry
	if view != nil {
		unseen = slices.Clone(m.ops[m.seen:])
	}
	q.mu.Unlock()
	if view == nil {
		return rec, false, true
	}
	q.l1.Get(viewKey(id)) // counts as a use
	if len(unseen) > 0 {
		view = fold(view, unseen, views) // may take long
		q.mu.Lock()
		if q.merges[id] == m && m.gen == gen {
			q.setView(m, id, view, seen)
		}
		q.mu.Unlock()
	}
	if view == nil {
		return rec, false, true
	}
	rec = view.record()
	rec.ID = id
	if !view.deleted {
		q.shown.note(id, view)
	}
	return rec, true, true
}

// shownViews are views that were read lately: their versions are none that L3 has (mergekey.go),
// and who has read one may give it in a condition, also when the merges have landed. The zero value
// is ready.
type shownViews struct {
	mu         sync.Mutex // guards the fields below
	now, older map[string]shownView
}

type shownView struct {
	version uint64
	hash    [32]byte
}

// shownMost is how many views of each half are remembered.
const shownMost = 4096

func (s *shownViews) note(id string, view *entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.now == nil || len(s.now) >= shownMost {
		s.now, s.older = make(map[string]shownView), s.now
	}
	s.now[id] = shownView{view.version, view.hash}
}

// Shown returns the hash of the view of an item at a version, if one was read lately.
func (q *queue) Shown(id string, version uint64) (hash [32]byte, ok bool) {
	s := &q.shown
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.now[id]
	if !ok {
		v, ok = s.older[id]
	}
	return v.hash, ok && v.version == version
}

// AnyMerge reports whether merges of any item wait.
func (q *queue) AnyMerge() bool { return q.merging.Load() > 0 || q.wal.AnySpooledMerge() }

// Merging reports whether merges of an item wait.
func (q *queue) Merging(id string) bool {
	if !q.AnyMerge() {
		return false
	}
	q.mu.Lock()
	_, ok := q.merges[id]
	q.mu.Unlock()
	return ok || q.wal.SpooledMerges(q.l1.Hash(id)) > 0
}

// WithMerges returns the version of an item that is known at one once L3 has the merges that wait:
// it is not above that.
func (q *queue) WithMerges(id string, known uint64) uint64 {
	if !q.AnyMerge() {
		return known
	}
	wait := q.wal.SpooledMerges(q.l1.Hash(id))
	q.mu.Lock()
	if m := q.merges[id]; m != nil {
		wait += len(m.ops)
	}
	q.mu.Unlock()
	if wait == 0 {
		return known
	}
	return max(known, rowVersion(viewNumbers{known, viewRoom}.With(known, known)+2*uint64(wait-1)))
}

// NewestMerge returns a version that merges of an item that wait in memory are not above; 0 when
// none does.
func (q *queue) NewestMerge(id string) uint64 {
	if q.merging.Load() == 0 {
		return 0
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if m := q.merges[id]; m != nil {
		return m.newest
	}
	return 0
}

// Outdated tells that L3 has changed items by other ways than the queue: a view of them is not what
// they are.
func (q *queue) Outdated(ids []string) {
	if q.merging.Load() == 0 {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, id := range ids {
		if m := q.merges[id]; m != nil {
			q.dropView(m, id)
			m.gen++
		}
	}
}

// NewestOf returns a merge of an item that waits in memory, the last to come, nil when none does.
func (q *queue) NewestOf(id string) *entry {
	if q.merging.Load() == 0 {
		return nil
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if m := q.merges[id]; m != nil && len(m.ops) > 0 {
		return m.ops[len(m.ops)-1]
	}
	return nil
}

// covers notes a plain op or a delete of an item: merges that came before do not count any more.
func (q *queue) covers(e *entry) {
	if m := q.merges[e.id()]; m != nil {
		q.dropView(m, e.id())
		m.gen, m.floor = m.gen+1, max(m.floor, e.version)
		m.ops = slices.DeleteFunc(m.ops, func(o *entry) bool { return o.version <= m.floor })
		q.endMerging(e.id())
	}
}

// doneMerge notes that a merge is not in the queue any more. without tells that L3 goes on without
// it.
func (q *queue) doneMerge(e *entry, without bool) {
	id := e.item()
	q.l1.Drop(e)
	m := q.merges[id]
	if m == nil {
		return
	}
	if i := slices.Index(m.ops, e); i >= 0 {
		if without || i >= m.seen { // the view has it though it should not, or has it not
			q.dropView(m, id)
		} else {
			m.seen--
		}
		m.ops, m.gen = slices.Delete(m.ops, i, i+1), m.gen+1
	}
}

// landed takes what L3 said an item is, after a moment, when merges have landed: all that landed
// have been told. What was heard of another engine since counts more (INV-15).
func (q *queue) landed(rec Record, moment uint32) {
	spooled, _ := q.wal.Spooled(q.l1.Hash(rec.ID))
	if h := q.held[rec.ID]; spooled > rec.Version || h != nil && h.version > rec.Version {
		q.l1.Forget(newEntry(&rec)) // a later op, perhaps a delete, is not in L1
	} else {
		q.l1.KeepOf(newEntry(&rec), moment)
	}
	m := q.merges[rec.ID]
	if q.l1.Heard(rec.ID) > rec.Version || m == nil || rec.Version < m.floor {
		return
	}
	unsure := func(e *entry) bool { return e.state.Load()&stateUnsure != 0 }
	if len(m.ops) > 0 && q.wal.SpooledMerges(q.l1.Hash(rec.ID)) == 0 && !slices.ContainsFunc(m.ops, unsure) {
		q.putView(m, rec.ID, rec, 0)
		m.gen++
	}
}

// Changed returns a channel that is closed when more may be known of an item whose merges wait, and
// the one that tells of failures of L3.
func (q *queue) Changed(id string) (change, failed chan struct{}) {
	q.mu.Lock()
	defer q.mu.Unlock()
	m := q.merges[id]
	switch {
	case m == nil && q.wal.SpooledMerges(q.l1.Hash(id)) > 0: // until the drain has them
		return q.moved, q.failed
	case m == nil:
		change = make(chan struct{})
		close(change)
		return change, q.failed
	case m.change == nil:
		m.change = make(chan struct{})
	}
	return m.change, q.failed
}

// endMerging tells that merges of an item have left the queue, and forgets it when nothing waits.
func (q *queue) endMerging(id string) {
	m := q.merges[id]
	if m != nil && m.change != nil {
		close(m.change)
		m.change = nil
	}
	if m == nil || len(m.ops) > 0 || q.wal.SpooledMerges(q.l1.Hash(id)) > 0 {
		return
	}
	q.dropView(m, id)
	delete(q.merges, id)
	q.l1.Unlisten(id)
	q.merging.Store(int64(len(q.merges)))
}

// endMergings does so for the items of a batch, after L1 has what they are now.
func (q *queue) endMergings(b *batch) {
	if q.merging.Load() == 0 {
		return
	}
	for i := range b.units {
		for _, e := range b.units[i].Ops() {
			if e.isMerge() {
				q.endMerging(e.item())
			}
		}
	}
}

// unsure notes of merges of a batch that failed that L3 may have them.
func (b *batch) unsure() {
	for i := range b.units {
		for _, e := range b.units[i].Ops() {
			if e.isMerge() {
				e.state.Or(stateUnsure)
			}
		}
	}
}
