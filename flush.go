package syncengine

// flush.go moves batches from the queue to L3 and L2, and refills the queue from the WAL.
//
// # How it works
//
// One loop takes a batch when it is due and a slot is free, and hands it to a goroutine.
// A batch is written in this order, and no step may be moved up:
//
//  1. content is compared with its hash (sound.go); of each id the op that compares highest
//     is left
//  2. L3, in one transaction; a batch refused for a row's sake is split until the unit at
//     fault is alone, which goes to quarantine (INV-9). L3 tells which ops lost to something
//     higher that it holds, so that no other tier gets them
//  3. L2; ids it misses are kept from being read there (l2missed.go)
//  4. the queue lets go: L1 may evict the ops, the WAL may trim them
//
// A crash between two steps repeats the later ones: all writes are conditional, so that
// changes nothing.
//
// When L3 fails the batch goes back, Buffered ops that wait are put into the WAL, and the
// loop probes L3 until it answers. Nothing else waits for it meanwhile.

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/syncengine-go/syncengine/internal/failpoint"
)

type flusher struct {
	q        *queue
	numbers  *numbers
	wal      *journal
	cache    *cache
	archive  *archive
	trust    *trust
	push     *push
	pressure *pressure
	door     *door
	news     *news
	up       sink
	conc     int // batches in flight

	waits     backoff.BackOff // between probes; only the loop uses it
	landedOne atomic.Bool     // a batch landed since waits was last reset
	kick      chan struct{}   // cap 1: try L3 now
	flushed   atomic.Uint64   // ops
	drained   atomic.Uint64   // the part of them that was read back from the WAL
	batches   atomic.Uint64
	errs      atomic.Uint64
}

// sink is whom the pipeline tells of what it finds: the departments above it. Nothing else goes up
// in the house.
type sink interface {
	// Refuse puts a unit that L3 refuses into quarantine.
	Refuse(ctx context.Context, u *unit, why error) error
	// RefusedAt returns the version of the newest op of an id in quarantine, or 0.
	RefusedAt(id string) uint64
	// Waiting returns the newest op of an id in quarantine or spooled, nil for none, by a look into
	// the WAL. askL3 tells that L3 may have a newer one.
	Waiting(ctx context.Context, id string) (op *entry, askL3 bool, err error)
	// WasDiscarded tells that a unit read from a segment of the WAL is not wanted any more.
	WasDiscarded(ops []*entry, segment int64) bool
	// Landed is told what L3 holds now, or holds something higher of, before the queue lets go of
	// it.
	Landed(ctx context.Context, recs []Record) error
	// Outranked is told of records that L2 does not get: L3 holds something higher.
	Outranked(ctx context.Context, recs []Record)
	// Superseded is told of ops that L3 holds a later op of another engine of, before the queue
	// lets go of them.
	Superseded(lost []lostOp)
}

func newFlusher(q *queue, n *numbers, w *journal, c *cache, a *archive, t *trust, push *push, p *pressure, d *door, news *news, up sink, conc int) *flusher {
	return &flusher{q: q, numbers: n, wal: w, cache: c, archive: a, trust: t, push: push, pressure: p, door: d, news: news, up: up, conc: conc,
		kick: make(chan struct{}, 1)}
}

// CountDirect counts ops that reached L3 past the queue.
func (f *flusher) CountDirect(ops int) { f.flushed.Add(uint64(ops)) }

// Stats sets this part of the pipeline's part.
func (f *flusher) Stats(s *Stats) {
	s.FlushedOps, s.DrainedOps, s.FlushBatches, s.FlushErrors = f.flushed.Load(), f.drained.Load(), f.batches.Load(), f.errs.Load()
}

// Run is the loop. It returns when ctx ends; the batches in flight land by themselves.
func (f *flusher) Run(ctx context.Context) {
	defer f.q.end(ErrClosed)
	slots := make(chan struct{}, f.conc) // its capacity bounds the batches in flight
	for {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			break
		}
		b := f.next(ctx)
		if b == nil {
			break
		}
		f.door.Spawn("flush batch", func() {
			f.flush(ctx, b)
			<-slots
			f.q.Signal()
		})
	}
}

// next waits until a batch is due and takes it; nil when ctx has ended.
func (f *flusher) next(ctx context.Context) *batch {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for ctx.Err() == nil {
		if f.archive.Down() && !f.awaitL3(ctx) {
			return nil
		}
		if err := f.refill(ctx); err != nil {
			f.fail(ctx, err)
			f.q.failNow(err)
			continue
		}
		ok, wait := f.q.due(f.pressure.Level() >= LevelWarn)
		if ok {
			if b := f.q.take(); b != nil {
				return b
			}
			wait = time.Hour // all that wait are in flight: landing wakes us
		}
		timer.Reset(wait)
		select {
		case <-timer.C:
		case <-f.q.wake:
		case <-ctx.Done():
		}
	}
	return nil
}

// refill reads spooled ops into memory while there is room for them, a segment at a time.
func (f *flusher) refill(ctx context.Context) error {
	for {
		w, ok := f.q.wantsRefill(f.conc + 1)
		if !ok {
			return nil
		}
		next, ops, size, ok, err := f.wal.Peek(ctx, w.after, w.upTo)
		if err != nil {
			return err
		}
		if !ok { // nothing left up to there
			f.q.refill(nil, 0, &segment{id: w.upTo}, time.Now().UnixNano())
			continue
		}
		if size+int64(ops)*entryOverhead > w.room && !w.empty {
			return nil // a batch that lands makes room
		}
		s, ok, err := f.wal.Read(ctx, next)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		failpoint.Hit(failpoint.SpoolRead)
		dropped := 0
		units := slices.DeleteFunc(s.Units, func(ops []*entry) bool {
			if !f.up.WasDiscarded(ops, s.ID) {
				return false
			}
			f.q.dropAwaited(ops)
			f.wal.Release(ops)
			dropped += len(ops)
			return true
		})
		f.q.refill(units, dropped, &segment{id: s.ID, live: s.Ops - dropped}, s.At)
	}
}

// flush writes one batch.
func (f *flusher) flush(ctx context.Context, b *batch) {
	start := f.news.FlushStart()
	if b.memory {
		f.cache.Unsure(ctx)
	}
	under := f.cache.Begin()
	defer f.cache.End(under)
	a := &outcome{refused: make(map[*entry]error), lost: make(map[*entry]lostOp), claimed: make(map[*waiter]bool)}
	units, err := f.sound(ctx, f.wanted(b.units, a), a)
	if err == nil && len(units) > 0 {
		err = f.store(ctx, units, a)
	}
	if err != nil {
		f.errs.Add(1)
		f.fail(ctx, err)
		f.tell(b, a, start, err)
		f.q.giveBack(b, a, err)
		return
	}
	failpoint.Hit(failpoint.L3Committed)
	a.absorb()
	if err := f.decided(ctx, b, a); err != nil { // the WAL can't be written; nothing is let go of
		f.errs.Add(1)
		f.fail(ctx, err)
		f.tell(b, a, start, err)
		f.q.giveBack(b, a, err)
		return
	}
	if len(a.stored) > 0 {
		f.push.Announce(a.stored, f.cache.Write(ctx, a.stored))
	}
	if len(a.losers) > 0 {
		f.up.Outranked(ctx, a.losers)
	}
	failpoint.Hit(failpoint.L2Written)
	f.count(b, a) // first: complete wakes Flush, whose caller may look at Stats
	f.tell(b, a, start, nil)
	f.q.complete(b, a)
	f.landedOne.Store(true)
}

// decided passes on what became of a batch in L3, before the queue lets go of it.
func (f *flusher) decided(ctx context.Context, b *batch, a *outcome) error {
	for _, recs := range [][]Record{a.stored, a.merges, a.losers} { // of either L3 holds it, or something higher
		if err := f.up.Landed(ctx, recs); err != nil {
			return err
		}
	}
	return f.numbers.Decided(ctx, b.units, a)
}

// errDiscarded is what becomes of an op that was discarded while it was on its way.
var errDiscarded = &RefusedError{Err: errors.New("discarded meanwhile")}

// wanted returns the units that were not discarded since they were read from the WAL: a crash had
// left them there and in quarantine.
func (f *flusher) wanted(units []unit, a *outcome) []unit {
	gone := 0
	for i := range units {
		if f.discarded(&units[i]) {
			for _, e := range units[i].Ops() {
				a.refused[e] = errDiscarded
			}
			gone++
		}
	}
	if gone == 0 {
		return units
	}
	return slices.DeleteFunc(slices.Clone(units), func(u unit) bool { return a.refused[u.Ops()[0]] == errDiscarded })
}

func (f *flusher) discarded(u *unit) bool {
	return u.drained && f.up.WasDiscarded(u.Ops(), u.Ops()[0].seg.id)
}

// count adds a batch to the figures, and tells of its ops that are superseded. One that a
// later op of this engine has replaced is not: whatever becomes of that one is told then. Nor is
// one whose Archived caller waits, or that such a one stands for: the caller will see to it.
func (f *flusher) count(b *batch, a *outcome) {
	var seenTo map[awaitedOp]bool
	if len(a.lost) > 0 {
		seenTo = make(map[awaitedOp]bool)
	}
	for i := range b.units {
		u := &b.units[i]
		if u.drained && a.refused[u.Ops()[0]] == nil {
			f.drained.Add(uint64(len(u.Ops())))
		}
		if len(a.lost) > 0 && u.done != nil && u.done.claim() {
			a.claimed[u.done] = true
			for _, e := range u.Ops() {
				l := a.lost[e]
				seenTo[awaitedOp{l.Op.ID, l.Op.Version}] = true
			}
		}
	}
	var lost []lostOp
	for e, l := range a.lost {
		if f.archive.Private() && e.seg != nil && f.q.IsOfEarlier(e.seg.id) {
			continue // the WAL has only told again of what had landed before a crash: nobody else writes
		}
		told := seenTo[awaitedOp{e.id(), e.version}] || e.state.Load()&stateDecided != 0 // it was stored
		if !told && !f.q.replaced(e) {
			lost = append(lost, lostOp{Op: e.record(), Held: l.Held})
		}
	}
	if len(lost) > 0 {
		f.up.Superseded(lost)
	}
	f.flushed.Add(uint64(b.ops - len(a.refused)))
	f.batches.Add(1)
	f.news.Batch(b.ops, b.bytes)
}

// outcome is what became of the units of a batch in L3.
type outcome struct {
	stored  []Record           // L3 holds them now
	losers  []Record           // it holds something higher of another engine
	lost    map[*entry]lostOp  // the ops they stand for
	refused map[*entry]error   // ops that are now in quarantine
	claimed map[*waiter]bool   // of Archived calls that will hear what they lost
	healed  map[*entry]*Record // of ops whose content has changed in memory: as they were logged
	merges  []Record           // the part of stored that are merges, under their own keys
	merged  []Record           // what the items are that were merged into; stored has them, too
}

// verdictOf tells what became of a unit.
func (a *outcome) verdictOf(ops []*entry) (v verdict) {
	for _, e := range ops {
		if err := a.refused[e]; err != nil {
			v.Refused = err
		} else if l, ok := a.lost[e]; ok {
			v.Lost = append(v.Lost, l)
		}
	}
	return v
}

// see notes what became of units in one transaction: L3 holds recs, but for what is above. A
// loser must not reach L2, where nothing may be left that beats what L3 holds (INV-4), nor stay
// in L1.
func (a *outcome) see(units []unit, recs []Record, above []Meta, merged []Record) {
	if len(above) == 0 && len(merged) == 0 {
		if len(a.stored) == 0 {
			a.stored = recs
		} else {
			a.stored = append(a.stored, recs...)
		}
		return
	}
	a.merged, a.stored = append(a.merged, merged...), append(a.stored, merged...)
	also := make(map[string]bool, len(merged))
	for i := range merged {
		also[merged[i].ID] = true
	}
	lost := make(map[string]lostOp, len(above))
	for i := range above {
		held := above[i]
		held.ID = itemOf(held.ID)
		lost[above[i].ID] = lostOp{Held: held}
	}
	for i := range recs {
		if l, ok := lost[recs[i].ID]; ok {
			lost[recs[i].ID] = lostOp{Op: recs[i], Held: l.Held}
			a.losers = append(a.losers, recs[i])
		} else if isMerge(recs[i].ID) {
			a.merges = append(a.merges, recs[i])
		} else if !also[recs[i].ID] { // else the merges came after it
			a.stored = append(a.stored, recs[i])
		}
	}
	for i := range units {
		for _, e := range units[i].Ops() {
			if l, ok := lost[e.id()]; ok {
				a.lost[e] = l
			}
		}
	}
}

// absorb forgets losses to what this very batch has stored, in another transaction: it was split.
func (a *outcome) absorb() {
	if len(a.lost) == 0 {
		return
	}
	own := make(map[awaitedOp]bool, len(a.stored))
	for i := range a.stored {
		own[awaitedOp{a.stored[i].ID, a.stored[i].Version}] = true
	}
	left := make(map[string]bool)
	for e, l := range a.lost {
		if own[awaitedOp{l.Held.ID, l.Held.Version}] {
			delete(a.lost, e)
		} else {
			left[e.id()] = true
		}
	}
	a.losers = slices.DeleteFunc(a.losers, func(r Record) bool { return !left[r.ID] })
}

// store writes units to L3 in one transaction, splitting them when L3 refuses a row.
func (f *flusher) store(ctx context.Context, units []unit, a *outcome) error {
	recs := coalesce(units, a.healed)
	above, merged, err := f.trust.Apply(ctx, recs)
	switch {
	case err == nil:
		a.see(units, recs, f.becameOf(recs, above), merged)
		return nil
	case !errors.Is(err, ErrRefused):
		return err
	case len(units) == 1:
		if f.discarded(&units[0]) {
			err = errDiscarded
		} else if err := f.up.Refuse(ctx, &units[0], err); err != nil {
			return err
		}
		for _, e := range units[0].Ops() {
			a.refused[e] = err
		}
		return nil
	}
	half := len(units) / 2
	if err := f.store(ctx, units[:half], a); err != nil {
		return err
	}
	return f.store(ctx, units[half:], a)
}

// becameOf drops from the rows above records those that the records have become: purged, since they
// had landed before, and have expired. The record is that tombstone then.
func (f *flusher) becameOf(recs []Record, above []Meta) []Meta {
	return slices.DeleteFunc(above, func(m Meta) bool {
		if !m.Deleted || isMerge(m.ID) {
			return false
		}
		at, ok := slices.BinarySearchFunc(recs, m.ID, func(r Record, id string) int { return strings.Compare(r.ID, id) })
		if !ok || recs[at].Version != m.Version || !recs[at].expired(f.trust.Time().L3) {
			return false
		}
		recs[at].lapse(f.trust.Time().L3)
		return true
	})
}

// coalesce returns the highest op of each id, sorted by id: transactions that lock rows in
// one order don't wait for each other in a circle.
func coalesce(units []unit, healed map[*entry]*Record) []Record {
	ops := make([]*entry, 0, len(units))
	for i := range units {
		ops = append(ops, units[i].Ops()...)
	}
	slices.SortFunc(ops, func(a, b *entry) int {
		if c := strings.Compare(a.id(), b.id()); c != 0 {
			return c
		}
		return b.compare(a) // the highest first
	})
	ops = slices.CompactFunc(ops, func(a, b *entry) bool { return a.id() == b.id() })
	recs := make([]Record, len(ops))
	for i, e := range ops {
		if rec := healed[e]; rec != nil {
			recs[i] = *rec
		} else {
			recs[i] = e.record()
		}
	}
	return recs
}

// fail notes that nothing is written to L3 for now, be it that L3 or the WAL fails, and saves
// Buffered ops to the WAL.
func (f *flusher) fail(ctx context.Context, cause error) {
	if ctx.Err() != nil {
		return // the engine is closing
	}
	f.archive.Fail(cause)
	f.LogBuffered()
}

// LogBuffered hands the queued units that are not in the WAL to it. Each reports to the
// queue by itself.
func (f *flusher) LogBuffered() {
	us := f.q.Lone()
	for i := range us {
		f.numbers.LogLone(&us[i])
	}
}

// awaitL3 probes until L3 answers or ctx ends. A Flush call makes it try at once.
func (f *flusher) awaitL3(ctx context.Context) bool {
	// The waits go on growing while probes succeed but writes don't, as with a database
	// that has become read-only.
	if f.waits == nil || f.landedOne.Swap(false) {
		f.waits = onOutage.Waits()
	}
	timer := time.NewTimer(f.waits.NextBackOff())
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-f.kick:
		case <-ctx.Done():
			return false
		}
		err := f.archive.Look(ctx)
		if err == nil {
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		f.q.failNow(err)
		f.LogBuffered()
		timer.Reset(f.waits.NextBackOff())
	}
}

// FlushAll waits until all ops accepted before the call are in L3 or in quarantine, or tells
// why not. First the drain must have read what is spooled now; then all that is in memory must
// land. It returns the number of the last unit it has waited for. When there is nothing to wait
// for it does not look at ctx.
func (f *flusher) FlushAll(ctx context.Context) (upTo int64, err error) {
	spooledTo, _ := f.q.force()
	defer f.q.unforce()
	f.tryNow()
	for {
		ok, moved, failed := f.q.drainedTo(spooledTo)
		if ok {
			break
		}
		if err := f.await(ctx, moved, failed); err != nil {
			return 0, err
		}
	}
	upTo, done, failed := f.q.landing()
	return upTo, f.await(ctx, done, failed)
}

// AwaitChange waits until more may be known of an item whose merges wait, or tells why not.
func (f *flusher) AwaitChange(ctx context.Context, id string) error {
	change, failed := f.q.Changed(id) // before L3 is tried, which may fail at once
	f.q.force()
	defer f.q.unforce()
	f.tryNow()
	err := f.await(ctx, change, failed)
	select {
	case <-failed: // merges that go back to wait have changed, too
		return unavailable("flush", f.q.whyFailed())
	default:
		return err
	}
}

// LogRest waits until the log has what it takes of all that is in memory alone. The loop has ended.
func (f *flusher) LogRest() {
	f.numbers.AwaitLone() // what is on its way
	f.LogBuffered()
	f.numbers.AwaitLone()
}

// tryNow makes the loop ask L3 at once, if it waits for it.
func (f *flusher) tryNow() {
	select {
	case f.kick <- struct{}{}:
	default: // a kick is already pending
	}
}

func (f *flusher) await(ctx context.Context, done, failed chan struct{}) error {
	isDone := func(otherwise error) error {
		select {
		case <-done:
			return nil
		default:
			return otherwise
		}
	}
	select {
	case <-done:
		return nil
	case <-failed:
		return isDone(unavailable("flush", f.q.whyFailed()))
	case <-ctx.Done():
		return isDone(ctx.Err())
	}
}

// AwaitUnit waits for the verdict on a unit, or tells why there is none. When there is none
// the unit is like any other from then on.
func (f *flusher) AwaitUnit(ctx context.Context, w *waiter) (v verdict, err error) {
	_, failed := f.q.force()
	defer f.q.unforce()
	f.tryNow()
	select {
	case v := <-w.verdict:
		return v, nil
	case <-failed:
		err = unavailable("flush", f.q.whyFailed())
	case <-ctx.Done():
		err = ctx.Err()
	}
	if f.q.leave(w) { // the verdict came first
		return <-w.verdict, nil
	}
	return v, err
}
