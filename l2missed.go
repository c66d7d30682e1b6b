package syncengine

// l2missed.go is the set of ids that must not be read from L2, since it missed a write of them. It
// is bounded: past maxMissed, all of L2 is left alone until a full comparison with L3 has
// repaired it. A mark in the WAL file, made before the ops are let go of, carries the
// knowledge over a restart.

import (
	"context"
	"sync"
	"sync/atomic"
)

const maxMissed = 100_000

// l2Missed is the set of ids not to be read from L2.
type l2Missed struct {
	some atomic.Bool                                       // the set is not empty, or all is set; so that readers need no lock
	note func(ctx context.Context, dirty bool) (err error) // keeps the mark in the WAL file

	mu    sync.Mutex // guards the fields below
	ids   map[string]uint64
	gen   uint64 // of the last add
	all   bool
	whole uint64 // gen when all was set last
	mark  bool   // what the WAL file says
}

func (m *l2Missed) has(id string) bool {
	if !m.some.Load() {
		return false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	_, ok := m.ids[id]
	return ok || m.all
}

// add remembers ids that L2 missed. When it returns nil the mark is durable.
func (m *l2Missed) add(ctx context.Context, recs []Record) error {
	m.mu.Lock()
	if m.ids == nil {
		m.ids = make(map[string]uint64)
	}
	m.gen++
	for i := range recs {
		m.ids[recs[i].ID] = m.gen
	}
	if len(m.ids) > maxMissed {
		m.all, m.whole, m.ids = true, m.gen, make(map[string]uint64)
	}
	m.some.Store(true)
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
	m.all, m.whole, m.mark = true, m.gen, true
	m.some.Store(true)
	m.mu.Unlock()
}

// pick returns a few missed ids, or that all are, with the generation repaired needs.
func (m *l2Missed) pick(n int) (ids []string, all bool, gen uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id := range m.ids {
		if len(ids) == n {
			break
		}
		ids = append(ids, id)
	}
	return ids, m.all, m.gen
}

// repaired forgets ids, or all, unless they were missed again after gen.
func (m *l2Missed) repaired(ctx context.Context, ids []string, all bool, gen uint64) error {
	m.mu.Lock()
	for _, id := range ids {
		if m.ids[id] <= gen {
			delete(m.ids, id)
		}
	}
	if all && m.whole <= gen { // what was missed since is in ids
		m.all = false
	}
	clean := len(m.ids) == 0 && !m.all
	if clean {
		m.some.Store(false)
	}
	// The mark goes only while nobody can add: the file must never say clean too early.
	var err error
	if clean && m.mark {
		if err = m.note(ctx, false); err == nil {
			m.mark = false
		}
	}
	m.mu.Unlock()
	return err
}

// count returns how many ids are missed, -1 for all.
func (m *l2Missed) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.all {
		return -1
	}
	return len(m.ids)
}
