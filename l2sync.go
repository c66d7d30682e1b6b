package syncengine

// l2sync.go keeps L2 honest. An id whose write L2 missed must not be read from there until
// it is repaired, or a read would answer with an old version (INV-2). The set of such ids
// is bounded: past maxMissed, all of L2 is left alone until a full comparison with L3 has
// repaired it. A mark in the WAL file, made before the ops are let go of, carries the
// knowledge over a restart.
//
// Two loops: one repairs what was missed, one compares all of L2 with L3 now and then.

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

const (
	maxMissed   = 100_000
	repairBatch = 500
	repairEvery = time.Second
	missedKey   = "l2_missed"
	unsureKey   = "l2_unsure"
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
	return e.wal.SetMeta(ctx, missedKey, v)
}

// readMissed reads what an earlier engine knew of L2.
func (e *Engine) readMissed(ctx context.Context) error {
	missed, err := e.wal.Meta(ctx, missedKey)
	if err != nil {
		return err
	}
	unsure, err := e.wal.Meta(ctx, unsureKey)
	if err != nil {
		return err
	}
	set := func(b []byte) bool { return len(b) > 0 && b[0] != 0 }
	e.unsure.Store(set(unsure))
	if set(missed) || set(unsure) {
		e.missed.addAll()
		return e.noteMissed(ctx, true)
	}
	return nil
}

// noteUnsure notes, once, that ops go to L3 and L2 that are not in the WAL. After a crash between
// the two nobody would know that L2 has missed them; so the next engine on this Dir compares all
// of L2 before it reads there. A clean end takes the note back.
func (e *Engine) noteUnsure(ctx context.Context) {
	if e.l2 == nil || e.unsure.Load() {
		return
	}
	if err := e.wal.SetMeta(context.WithoutCancel(ctx), unsureKey, []byte{1}); err != nil {
		e.news.Log().Error("can't note in the WAL file that L2 may fall behind", "error", err)
		return
	}
	e.unsure.Store(true)
}

// writeL2 is the flusher's way to L2. It never fails: what L2 misses is remembered.
func (e *Engine) writeL2(ctx context.Context, recs []Record) {
	if e.l2 == nil {
		return
	}
	err := e.call2(ctx, "put", func(ctx context.Context) error { return e.l2.Put(ctx, recs) })
	e.noteL2Write(err)
	if err != nil {
		e.missL2(ctx, recs)
	}
}

// noteL2Back makes the loop "l2 verify" look: what L2 lost in an outage nobody has noted.
func (e *Engine) noteL2Back() {
	select {
	case e.l2Back <- struct{}{}:
	default: // one signal is enough
	}
}

// noteL2Write keeps why writes to L2 fail: the first cause, since later ones may only say that
// the circuit is open.
func (e *Engine) noteL2Write(err error) {
	if err == nil {
		if e.l2Cause.Swap(nil) != nil {
			e.l2Outage(nil)
		}
	} else if e.l2Cause.CompareAndSwap(nil, &err) {
		e.l2Outage(err)
	}
}

// l2Outage tells the user that writes to L2 began (err is set) or ceased to fail.
func (e *Engine) l2Outage(err error) {
	if err == nil {
		e.noteL2Back()
	}
	e.news.L2Outage(err)
}

// outrankedL2 is told of ops that lost to something higher in L3. Whoever wrote that may not
// have brought it to L2 yet, and what L2 still holds may be older than these ops, which are
// about to be acknowledged.
func (e *Engine) outrankedL2(ctx context.Context, recs []Record) {
	if e.l2 == nil {
		return
	}
	ids := make([]string, len(recs))
	for i := range recs {
		ids[i] = recs[i].ID
	}
	if e.copyToL2(ctx, ids) != nil {
		e.missL2(ctx, recs)
	}
}

// missL2 remembers that L2 did not get what L3 may hold of these ids.
func (e *Engine) missL2(ctx context.Context, recs []Record) {
	if e.l2 == nil {
		return
	}
	if err := e.missed.add(context.WithoutCancel(ctx), recs); err != nil {
		e.news.Log().Error("can't note in the WAL file that L2 missed writes", "error", err)
	}
}

// doubtL2 is told of ops that L3 may hold, or may not. This engine does not read their ids in L2
// until it has copied them from L3; and the copies there are removed, for other engines.
func (e *Engine) doubtL2(ctx context.Context, unit []Conditional) {
	if e.l2 == nil {
		return
	}
	recs, ids := make([]Record, len(unit)), make([]string, len(unit))
	for i := range unit {
		recs[i], ids[i] = unit[i].Record, unit[i].Record.ID
	}
	e.missL2(ctx, recs)
	e.noteL2Write(e.call2(ctx, "remove", func(ctx context.Context) error { return e.l2.Remove(ctx, ids) }))
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
			e.noteL2Back()
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

// verifyL2 is the loop that compares all of L2 with L3: soon after Open, since L2 may have lost
// its data or kept what others' engines missed; after an outage; and on an interval.
func (e *Engine) verifyL2(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-e.l2Back:
		case <-ctx.Done():
			return
		}
		next := e.cfg.VerifyInterval
		if !e.l3Ready.Load() || e.cb2.state() != "closed" || e.verifyAndTell(ctx) != nil {
			next = min(next, verifyAgain)
		}
		timer.Reset(next)
	}
}

// verifyAgain is the wait after a verification that failed.
const verifyAgain = 30 * time.Second

// verifyAndTell repairs L2 and tells the user what differed.
func (e *Engine) verifyAndTell(ctx context.Context) error {
	start := time.Now()
	r, err := e.verify(ctx, VerifyOptions{Repair: true}, true)
	e.news.Verified(&r, time.Since(start), err, true)
	return err
}

// repairSome repairs up to page ids and reports whether it succeeded.
func (e *Engine) repairSome(ctx context.Context, page int) bool {
	ids, all, gen := e.missed.pick(page)
	if !e.l3Ready.Load() || e.pingL2(ctx) != nil {
		return false
	}
	if all {
		return e.verifyAndTell(ctx) == nil && e.missed.repaired(ctx, nil, true, gen) == nil
	}
	if err := e.copyToL2(ctx, ids); err != nil {
		return false
	}
	return e.missed.repaired(ctx, ids, false, gen) == nil
}

// repairIDs makes L2 hold what L3 holds of ids, also where L2 is ahead or holds garbage: L3 is
// the truth. The copies in L2 go before L3 is read, or a write that lands in between would be
// undone. Those of corrupt rows stay: perhaps they are the only good ones left.
func (e *Engine) repairIDs(ctx context.Context, ids []string) error {
	found, err := e.readL3(ctx, ids)
	if err != nil {
		return err
	}
	sound := make([]string, 0, len(ids))
	for i := range found {
		if found[i].Err != nil {
			if _, err := e.healedOr(ctx, ids[i], found[i].Err); err != nil {
				continue
			}
		}
		sound = append(sound, ids[i])
	}
	if err := e.removeL2(ctx, sound); err != nil {
		return err
	}
	return e.copyToL2(ctx, sound)
}

// copyToL2 makes L2 hold what L3 holds of ids, unless L2 holds something higher.
func (e *Engine) copyToL2(ctx context.Context, ids []string) error {
	found, err := e.readL3(ctx, ids)
	if err != nil {
		return err
	}
	var recs []Record
	var gone []string
	for i := range found {
		switch f := &found[i]; {
		case f.OK:
			recs = append(recs, f.Record)
		case f.Err == nil:
			gone = append(gone, ids[i])
		}
	}
	if err := e.removeL2(ctx, gone); err != nil || len(recs) == 0 {
		return err
	}
	err = e.call2(ctx, "repair", func(ctx context.Context) error { return e.l2.Put(ctx, recs) })
	if err == nil {
		e.noteL2Write(nil)
	}
	return err
}

func (e *Engine) readL3(ctx context.Context, ids []string) (found []Found, err error) {
	err = e.call3(ctx, "get_many", false, func(ctx context.Context) (err error) {
		found, err = e.l3.GetMany(ctx, ids)
		return err
	})
	return found, err
}

func (e *Engine) removeL2(ctx context.Context, ids []string) error {
	if len(ids) == 0 {
		return nil
	}
	return e.call2(ctx, "remove", func(ctx context.Context) error { return e.l2.Remove(ctx, ids) })
}

// pingL2 asks L2 for a sign of life, past its breaker.
func (e *Engine) pingL2(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, e.cfg.L2Timeout)
	defer cancel()
	return e.l2.Ping(ctx)
}
