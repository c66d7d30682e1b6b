package syncengine

// l2missed.go knows which ids can't be read from L2 as they are: those of which L2 missed a write,
// and those of which another engine has written a version that nobody has said is there. Of each it
// knows from which version on a copy is right; a copy that is at or above it may be believed.
//
// Another engine's write becomes known by the log in L3 (tail.go), within a beat or two; that L2
// has it, by that engine's message (push.go), usually before. So the two are compared. What nobody
// has said is in L2 after noted a while is copied there from L3, by whoever is on this L2: the
// engine that wrote it may be dead, cut off from L2, or without one.
//
// The set is bounded: past maxMissed, all of L2 is left alone until a full comparison with L3 has
// repaired it. A mark in the WAL file, made before the ops are let go of, carries the knowledge of
// what this engine's own writes missed over a restart; the rest is found in the log again.

import (
	"context"
	"math"
	"sync"
	"sync/atomic"
	"time"
)

const (
	maxMissed = 100_000
	// toldWait is for how long a message that L2 has a write is waited for.
	toldWait = 2 * time.Second
	// whole is above all versions: whatever L2 holds is not believed.
	whole = math.MaxUint64
)

// l2Missed is that set.
type l2Missed struct {
	some atomic.Bool                                       // the set is not empty, or all is set; so that readers need no lock
	note func(ctx context.Context, dirty bool) (err error) // keeps the mark in the WAL file

	mu    sync.Mutex // guards the fields below
	ids   map[string]lack
	gen   uint64 // of the last change
	all   bool
	allAt uint64               // gen when all was set last
	mark  bool                 // what the WAL file says
	told  [2]map[string]uint64 // versions that L2 has, as other engines say: lately, and before
	later int                  // of ids, those that are waited for
	put   [2]map[string]uint64 // versions of copies that this engine has put there, the same
}

// lack is what L2 lacks of an id, or may lack.
type lack struct {
	gen   uint64
	least uint64    // the version from which on a copy is right
	until time.Time // when a message is not waited for any more; zero: L2 does not have it
}

// mayRead reports whether a copy of an id may be one that is right.
func (m *l2Missed) mayRead(id string) bool {
	if !m.some.Load() {
		return true
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	l, ok := m.ids[id]
	return !m.all && (!ok || !l.until.IsZero())
}

// believes reports whether a copy of that version is right.
func (m *l2Missed) believes(id string, version uint64) bool {
	if !m.some.Load() {
		return true
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.all {
		return false
	}
	l, ok := m.ids[id]
	if ok && version >= l.least && !l.until.IsZero() {
		m.forget(id)
		return true
	}
	return !ok || version >= l.least
}

// forget drops an id. mu is held.
func (m *l2Missed) forget(id string) {
	if l, ok := m.ids[id]; ok && !l.until.IsZero() {
		m.later--
	}
	delete(m.ids, id)
	m.some.Store(m.all || len(m.ids) > 0)
}

// lacks notes what L2 lacks of an id. mu is held.
func (m *l2Missed) lacks(id string, l lack) {
	if m.ids == nil {
		m.ids = make(map[string]lack)
	}
	was, ok := m.ids[id]
	if l.least = max(l.least, was.least); ok && was.until.IsZero() {
		l.until = was.until
	}
	m.forget(id)
	if l.gen = m.gen; !l.until.IsZero() {
		m.later++
	}
	m.ids[id] = l
	if len(m.ids) > maxMissed {
		m.ids, m.later = make(map[string]lack), 0
		m.all, m.allAt = true, m.gen
	}
	m.some.Store(true)
}

// add remembers ids that L2 missed. When it returns nil the mark is durable.
func (m *l2Missed) add(ctx context.Context, recs []Record, least uint64) error {
	m.mu.Lock()
	m.gen++
	for i := range recs {
		l := lack{least: max(least, recs[i].Version)}
		if l.least == 0 { // nobody knows
			l.least = whole
		}
		m.lacks(recs[i].ID, l)
	}
	marked := m.mark
	m.mu.Unlock()
	if marked {
		return nil
	}
	if err := m.note(ctx, true); err != nil {
		return err
	}
	m.mu.Lock()
	m.mark = true
	m.mu.Unlock()
	return nil
}

// addAll remembers that nothing in L2 is to be trusted.
func (m *l2Missed) addAll() {
	m.mu.Lock()
	m.gen++
	m.all, m.allAt, m.mark = true, m.gen, true
	m.some.Store(true)
	m.mu.Unlock()
}

// wrote is told that another engine has written an id, and whether it knows that L2 lacks it.
func (m *l2Missed) wrote(id string, version uint64, lacks bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.gen++
	l := lack{least: version}
	if m.mayHaveUndone(id, version) {
		lacks = true
	}
	if !lacks {
		if m.told[0][id] >= version || m.told[1][id] >= version {
			return
		}
		l.until = time.Now().Add(toldWait)
	}
	m.lacks(id, l)
}

// has is told that L2 has what another engine has written.
func (m *l2Missed) has(id string, version uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.told[0] == nil || len(m.told[0]) >= maxMissed {
		m.told[0] = make(map[string]uint64) // what is forgotten is asked for once more
	}
	m.told[0][id] = max(m.told[0][id], version)
	if m.mayHaveUndone(id, version) {
		m.gen++
		m.lacks(id, lack{least: version})
	}
	if l, ok := m.ids[id]; ok && version >= l.least && !l.until.IsZero() {
		m.forget(id)
	}
}

// copied notes copies that go to L2. A write that came to L2 before one of them, and that L2 has
// forgotten by then, has no say there: whoever hears of such a write looks here.
func (m *l2Missed) copied(recs []Record) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.put[0] == nil {
		m.put[0] = make(map[string]uint64)
	}
	for i := range recs {
		if len(m.put[0]) < maxMissed {
			m.put[0][recs[i].ID] = recs[i].Version
		}
	}
}

// mayHaveUndone reports whether this engine has put something below a version there lately. mu is
// held.
func (m *l2Missed) mayHaveUndone(id string, version uint64) bool {
	for _, put := range m.put {
		if v, ok := put[id]; ok && v < version {
			return true
		}
	}
	return false
}

// turn forgets what was told and put before the last turn: the log was read since.
func (m *l2Missed) turn() {
	m.mu.Lock()
	m.told = [2]map[string]uint64{nil, m.told[0]}
	m.put = [2]map[string]uint64{nil, m.put[0]}
	m.mu.Unlock()
}

// pick returns a few ids that L2 lacks, or that all are, with the generation repaired needs.
func (m *l2Missed) pick(n int) (ids []string, all bool, gen uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	for id, l := range m.ids {
		if len(ids) == n {
			break
		}
		if l.until.Before(now) {
			ids = append(ids, id)
		}
	}
	return ids, m.all, m.gen
}

// repaired forgets ids, or all, unless they were missed again after gen.
func (m *l2Missed) repaired(ctx context.Context, ids []string, all bool, gen uint64) error {
	m.mu.Lock()
	for _, id := range ids {
		if m.ids[id].gen <= gen {
			m.forget(id)
		}
	}
	if all && m.allAt <= gen {
		m.all = false
	}
	// The mark goes only while nobody can add: the file must never say clean too early.
	var err error
	if len(m.ids) == m.later && !m.all && m.mark {
		if err = m.note(ctx, false); err == nil {
			m.mark = false
		}
	}
	m.some.Store(m.all || len(m.ids) > 0)
	m.mu.Unlock()
	return err
}

// now is a time, for noneUntil.
func (m *l2Missed) now() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.gen
}

// noneUntil reports whether nothing of a time or before is lacking. What an id has lacked longer
// does not count when it lacks something later.
func (m *l2Missed) noneUntil(gen uint64) bool {
	if !m.some.Load() {
		return true
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, l := range m.ids {
		if l.gen <= gen {
			return false
		}
	}
	return !m.all
}

// owes reports whether there is something to repair.
func (m *l2Missed) owes() bool {
	if !m.some.Load() {
		return false
	}
	ids, all, _ := m.pick(1)
	return all || len(ids) > 0
}

// count returns how many ids are missed, -1 for all, and of how many a message is waited for.
func (m *l2Missed) count() (missed, later int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.all {
		return -1, 0
	}
	return len(m.ids) - m.later, m.later
}
