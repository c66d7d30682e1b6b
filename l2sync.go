package syncengine

// l2sync.go keeps L2 honest. An id whose write L2 missed must not be read from there until
// it is repaired, or a read would answer with an old version (INV-2). The set of such ids
// is bounded: past maxMissed, all of L2 is left alone until a full comparison with L3 has
// repaired it. A mark in the WAL file, made before the ops are let go of, carries the
// knowledge over a restart.
//
// Two loops: one repairs, one writes copies read from L3 to L2, so that no read waits for
// it.

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

const (
	maxMissed    = 100_000
	repairBatch  = 500
	repairEvery  = time.Second
	promoteRoom  = 1024    // copies waiting for L2; more are dropped, they are only copies
	promoteBytes = 4 << 20 // of them
	missedKey    = "l2_missed"
)

// l2Missed is the set of ids not to be read from L2.
type l2Missed struct {
	some atomic.Bool                                       // the set is not empty, or all is set; so that readers need no lock
	note func(ctx context.Context, dirty bool) (err error) // keeps the mark in the WAL file

	mu   sync.Mutex // guards the fields below
	ids  map[string]uint64
	gen  uint64 // of the last add
	all  bool
	mark bool // what the WAL file says
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
		m.all, m.ids = true, make(map[string]uint64)
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
	m.all, m.mark = true, true
	m.some.Store(true)
	m.mu.Unlock()
}

// some returns a few missed ids, or that all are, with the generation repaired needs.
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
	if all && m.gen == gen {
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

// noteMissed keeps the mark in the WAL file.
func (e *Engine) noteMissed(ctx context.Context, dirty bool) error {
	v := []byte{0}
	if dirty {
		v[0] = 1
	}
	return walError(e.wal.log.SetMeta(ctx, missedKey, v))
}

// writeL2 is the flusher's way to L2. It never fails: what L2 misses is remembered.
func (e *Engine) writeL2(ctx context.Context, recs []Record) {
	if e.l2 == nil {
		return
	}
	err := e.call2(ctx, "put", func(ctx context.Context) error { return e.l2.Put(ctx, recs) })
	if e.l2Down.Swap(err != nil) != (err != nil) {
		e.l2Outage(err)
	}
	if err != nil {
		e.missL2(ctx, recs)
	}
}

// l2Outage tells the user that writes to L2 began (err is set) or ceased to fail.
func (e *Engine) l2Outage(err error) {
	e.log.Info("L2 changed", "down", err != nil, "error", err)
	if fn := e.cfg.OnEvent.L2Outage; fn != nil {
		e.events.send(func() { fn(err != nil, err) })
	}
}

// missL2 remembers that L2 did not get what L3 may hold of these ids.
func (e *Engine) missL2(ctx context.Context, recs []Record) {
	if e.l2 == nil {
		return
	}
	if err := e.missed.add(context.WithoutCancel(ctx), recs); err != nil {
		e.log.Error("can't note in the WAL file that L2 missed writes", "error", err)
	}
}

// repairL2 is the loop that brings what L2 missed up to date.
func (e *Engine) repairL2(ctx context.Context) {
	page := repairBatch // halved while a page takes L2 too long, as with large items
	tick := time.NewTicker(repairEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if e.cb2.state() != "closed" && e.pingL2(ctx) == nil {
			e.cb2.reset() // sooner than by its own timeout
		}
		for e.missed.some.Load() {
			if !e.repairSome(ctx, page) {
				page = max(1, page/2)
				break
			}
			page = min(repairBatch, page*2)
		}
	}
}

// repairSome repairs up to page ids and reports whether it succeeded.
func (e *Engine) repairSome(ctx context.Context, page int) bool {
	ids, all, gen := e.missed.pick(page)
	if !e.l3Ready.Load() || e.pingL2(ctx) != nil {
		return false
	}
	if all {
		report, err := e.verify(ctx, VerifyOptions{Repair: true})
		if err != nil {
			return false
		}
		if fn := e.cfg.OnEvent.Verified; fn != nil {
			e.events.send(func() { fn(report) })
		}
		return e.missed.repaired(ctx, nil, true, gen) == nil
	}
	if err := e.copyToL2(ctx, ids); err != nil {
		return false
	}
	return e.missed.repaired(ctx, ids, false, gen) == nil
}

// copyToL2 makes L2 hold what L3 holds of ids.
func (e *Engine) copyToL2(ctx context.Context, ids []string) error {
	var found []Found
	if err := e.call3(ctx, "get_many", false, func(ctx context.Context) (err error) {
		found, err = e.l3.GetMany(ctx, ids)
		return err
	}); err != nil {
		return err
	}
	var recs []Record
	var gone []string
	for i := range found {
		if found[i].OK {
			recs = append(recs, found[i].Record)
		} else {
			gone = append(gone, ids[i])
		}
	}
	return e.call2(ctx, "repair", func(ctx context.Context) error {
		if len(gone) > 0 {
			if err := e.l2.Remove(ctx, gone); err != nil {
				return err
			}
		}
		return e.l2.Put(ctx, recs)
	})
}

// pingL2 asks L2 for a sign of life, past its breaker.
func (e *Engine) pingL2(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, e.cfg.L2Timeout)
	defer cancel()
	return e.l2.Ping(ctx)
}

// promotion is a copy on its way to L2, or an id whose copy there is corrupt.
type promotion struct {
	rec  Record
	heal string
}

// sendPromotion never waits. What L2 is too slow for, or what would take too much memory, is
// dropped: the next read of the id tries again.
func (e *Engine) sendPromotion(p promotion) {
	size := int64(len(p.rec.Content)) + entryOverhead
	if held := e.promoting.Add(size); held > promoteBytes && held > size {
		e.promoting.Add(-size)
		return
	}
	select {
	case e.promotes <- p:
	default:
		e.promoting.Add(-size)
	}
}

// promoteL2 is the loop that writes copies to L2.
func (e *Engine) promoteL2(ctx context.Context) {
	for {
		select {
		case p := <-e.promotes:
			e.promoteBatch(ctx, p)
		case <-ctx.Done():
			return
		}
	}
}

func (e *Engine) promoteBatch(ctx context.Context, p promotion) {
	var recs []Record
	var heal []string
	for more := true; more; {
		e.promoting.Add(-int64(len(p.rec.Content)) - entryOverhead)
		if p.heal != "" {
			heal = append(heal, p.heal)
		} else {
			recs = append(recs, p.rec)
		}
		select {
		case p = <-e.promotes:
			more = true
		default:
			more = false
		}
	}
	// Errors are no concern of anybody: a copy that does not arrive is a miss. A write that
	// L2 misses is remembered elsewhere.
	_ = e.call2(ctx, "promote", func(ctx context.Context) error { return e.l2.Put(ctx, recs) })
	if len(heal) > 0 && e.repairIDs(ctx, heal) == nil {
		for _, id := range heal {
			e.noteHealed(id, "L2")
		}
	}
}

// noteHealed counts a corrupt copy that was replaced, and tells the user.
func (e *Engine) noteHealed(id, tier string) {
	e.healed.Add(1)
	if fn := e.cfg.OnEvent.Healed; fn != nil {
		e.events.send(func() { fn(id, tier) })
	}
}
