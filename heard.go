package syncengine

// heard.go is the part of L1 that keeps in mind what other engines are told to have written, of ids
// whose copies come later: what this engine's own write has led to is known at its COMMIT, and gets
// into L1 when L2 has it. Until then there is nothing to outdate, and a stamp (l1.go) would not do,
// since this engine's own writes end it.
//
// No goroutines.

import (
	"strings"
	"sync"
	"sync/atomic"
)

// hearing is what was told of some ids. The zero value is ready.
type hearing struct {
	count atomic.Int32 // len(ids)
	mu    sync.Mutex   // guards the field below
	ids   map[string]*heard
}

// heard is what was told of an id since somebody has begun to listen.
type heard struct {
	listeners int
	version   uint64 // the highest
}

// Listen keeps what is told of an id in mind until Unlisten, for Heard.
func (c *l1) Listen(id string) {
	h := &c.hearing
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ids == nil {
		h.ids = make(map[string]*heard)
	}
	of := h.ids[id]
	if of == nil {
		of = new(heard)
		h.ids[strings.Clone(id)] = of // it may be in an op's own memory
		h.count.Add(1)
	}
	of.listeners++
}

// Unlisten ends one Listen.
func (c *l1) Unlisten(id string) {
	h := &c.hearing
	h.mu.Lock()
	defer h.mu.Unlock()
	if of := h.ids[id]; of.listeners > 1 {
		of.listeners--
		return
	}
	delete(h.ids, id)
	h.count.Add(-1)
}

// Heard makes a copy in L1 older that is below what was told of its id, and returns the version of
// that, or 0. It is called when the copy is there: who is told later finds it.
func (c *l1) Heard(id string) (version uint64) {
	h := &c.hearing
	h.mu.Lock()
	if of := h.ids[id]; of != nil {
		version = of.version
	}
	h.mu.Unlock()
	if version > 0 {
		c.Outdate(id, version)
	}
	return version
}

// note keeps what is told in mind if somebody listens.
func (h *hearing) note(id string, version uint64) {
	if h.count.Load() == 0 {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if of := h.ids[id]; of != nil {
		of.version = max(of.version, version)
	}
}
