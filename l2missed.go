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
	"strings"
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
	gen  uint64 // when that was found last
	from uint64 // the version from which on a copy is right, if it may lack that
	// Of what it is known to lack the same; 0 is nothing.
	hard, hardFrom uint64
	until          time.Time // when a message, or a copy that is right, is not waited for any more
}

// right reports whether a copy of that version is right.
func (l *lack) right(version uint64) bool { return version >= max(l.from, l.hardFrom) }

// mayRead reports whether a copy of an id may be one that is right.
func (m *l2Missed) mayRead(id string) bool {
	if !m.some.Load() {
		return true
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	l, ok := m.ids[id]
	return !m.all && (!ok || l.hard == 0)
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
	if ok && l.right(version) && l.hard == 0 {
		m.forget(id)
	}
	return !ok || l.right(version)
}

// forget drops an id. mu is held.
func (m *l2Missed) forget(id string) {
	if l, ok := m.ids[id]; ok && l.hard == 0 {
		m.later--
	}
	delete(m.ids, id)
	m.some.Store(m.all || len(m.ids) > 0)
}

// lacks notes that a copy of an id is right from a version on, and whether L2 surely has none. mu
// is held.
func (m *l2Missed) lacks(id string, from uint64, surely bool) {
	if m.ids == nil {
		m.ids = make(map[string]lack)
	}
	l := m.ids[id]
	if l.gen = m.gen; surely {
		l.hard, l.hardFrom = m.gen, max(from, l.hardFrom)
	} else {
		l.from = max(from, l.from)
	}
	m.keep(id, l)
	if len(m.ids) > maxMissed {
		m.ids, m.later = make(map[string]lack), 0
		m.all, m.allAt = true, m.gen
	}
	m.some.Store(true)
}

// keep notes what L2 lacks of an id, in place of what was noted before. mu is held.
func (m *l2Missed) keep(id string, l lack) {
	m.forget(id)
	if l.hard == 0 {
		m.later++
		l.until = time.Now().Add(toldWait)
	}
	m.ids[strings.Clone(id)] = l // it may be in an op's own memory
	m.some.Store(true)
}

// add remembers ids that L2 missed. When it returns nil the mark is durable.
func (m *l2Missed) add(ctx context.Context, recs []Record, least uint64) error {
	m.mu.Lock()
	m.gen++
	for i := range recs {
		from := max(least, recs[i].Version)
		if from == 0 { // nobody knows
			from = whole
		}
		m.lacks(recs[i].ID, from, true)
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
	if !lacks && !m.mayHaveUndone(id, version) && (m.told[0][id] >= version || m.told[1][id] >= version) {
		return
	}
	m.lacks(id, version, lacks)
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
		m.lacks(id, version, false)
	} else if l, ok := m.ids[id]; ok && l.right(version) && l.hard == 0 {
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
		if l.hard != 0 || l.until.Before(now) {
			ids = append(ids, id)
		}
	}
	return ids, m.all, m.gen
}

// repaired forgets ids, or all, unless they were missed again after gen. An id that was only
// written again since is not lacking any more, as far as anybody knows.
func (m *l2Missed) repaired(ctx context.Context, ids []string, all bool, gen uint64) error {
	m.mu.Lock()
	for _, id := range ids {
		if l, ok := m.ids[id]; ok && l.gen <= gen {
			m.forget(id)
		} else if ok && l.hard != 0 && l.hard <= gen {
			m.forget(id)
			l.hard, l.hardFrom = 0, 0
			m.keep(id, l)
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
