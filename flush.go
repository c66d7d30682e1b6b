package syncengine

// flush.go moves batches from the queue to L3 and L2, and refills the queue from the WAL.
//
// # How it works
//
// One loop takes a batch when it is due and a slot is free, and hands it to a goroutine.
// A batch is written in this order, and no step may be moved up:
//
//  1. coalesce: of each id the op that compares highest
//  2. L3, in one transaction; a batch refused for a row's sake is split until the unit at
//     fault is alone, which goes to quarantine (INV-9)
//  3. a look at which ops lost to something higher in L3, so that no other tier gets them
//  4. L2; ids it misses are kept from being read there (l2sync.go)
//  5. the queue lets go: L1 may evict the ops, the WAL may trim them
//
// A crash between two steps repeats the later ones: all writes are conditional, so that
// changes nothing.
//
// When L3 fails the batch goes back, Buffered ops that wait are put into the WAL, and the
// loop probes L3 until it answers. Nothing else waits for it meanwhile.
//
// The flusher sees stores as functions, so it knows no server.

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/syncengine-go/syncengine/internal/failpoint"
)

// refillBytes is how much of the WAL the drain reads at a time.
const refillBytes = 4 << 20

type flusher struct {
	q    *queue
	wal  *wal
	conc int

	// The outside, as functions. apply writes records to L3 in one transaction. cache
	// writes them to L2 or remembers that it could not; it never fails. refuse puts a unit
	// into quarantine. probe asks L3 whether it is back, bringing up its schema if need
	// be. outage is told of changes.
	apply  func(context.Context, []Record) error
	cache  func(context.Context, []Record)
	refuse func(context.Context, *unit, error) error
	probe  func(context.Context) error
	outage func(down bool, cause error)
	landed func(ops int, bytes int64)
	// heads reads what L3 holds of ids. cached reports whether there is an L2.
	heads  func(ctx context.Context, ids []string) ([]Meta, error)
	cached func() bool
	// uncached remembers records that L2 does not get. haste tells that pressure is high.
	uncached func(context.Context, []Record)
	haste    func() bool
	spawn    func(name string, fn func())

	waits     backoff.BackOff // between probes; only the loop uses it
	landedOne atomic.Bool     // a batch landed since waits was last reset
	down      atomic.Bool
	kick      chan struct{}  // cap 1: try L3 now
	logging   sync.WaitGroup // Buffered units on their way into the WAL
	flushed   atomic.Uint64  // ops
	drained   atomic.Uint64  // the part of them that was read back from the WAL
	batches   atomic.Uint64
	errs      atomic.Uint64
}

// run is the loop. It returns when ctx ends; the batches in flight land by themselves.
func (f *flusher) run(ctx context.Context) {
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
		f.spawn("flush batch", func() {
			f.flush(ctx, b)
			<-slots
			f.q.signal()
		})
	}
}

// next waits until a batch is due and takes it; nil when ctx has ended.
func (f *flusher) next(ctx context.Context) *batch {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for ctx.Err() == nil {
		if f.down.Load() && !f.awaitL3(ctx) {
			return nil
		}
		if err := f.refill(ctx); err != nil {
			f.fail(ctx, err)
			f.q.failNow(err)
			continue
		}
		ok, wait := f.q.due(time.Now(), f.haste())
		if ok {
			if b := f.q.take(time.Now()); b != nil {
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

// refill reads spooled ops into memory while there is room for them.
func (f *flusher) refill(ctx context.Context) error {
	for {
		after, upTo, ok := f.q.wantsRefill(f.conc + 1)
		if !ok {
			return nil
		}
		segs, err := f.wal.log.ReadAfter(ctx, after, upTo, min(refillBytes, f.q.lim.spoolAbove/2))
		if err != nil {
			return walError(err)
		}
		if len(segs) == 0 { // nothing left up to there
			f.q.refill(nil, &segment{id: upTo}, 0)
			continue
		}
		for _, s := range segs {
			units, err := decodeUnits(s.Payload)
			if err != nil {
				return walError(err)
			}
			failpoint.Hit(failpoint.SpoolRead)
			f.q.l1.evict(int64(len(s.Payload) + s.Ops*entryOverhead))
			f.q.refill(units, &segment{id: s.ID, live: s.Ops}, s.At)
		}
	}
}

// flush writes one batch.
func (f *flusher) flush(ctx context.Context, b *batch) {
	refused := make(map[*entry]error)
	written, err := f.archive(ctx, b.units, refused)
	if err != nil {
		f.errs.Add(1)
		f.fail(ctx, err)
		f.q.giveBack(b, err)
		return
	}
	failpoint.Hit(failpoint.L3Committed)
	losers := f.findLosers(ctx, b.units)
	var left []Record
	written = slices.DeleteFunc(written, func(r Record) bool {
		_, lost := losers[r.ID]
		if lost {
			left = append(left, r)
		}
		return lost
	})
	if len(written) > 0 {
		f.cache(ctx, written)
	}
	if len(left) > 0 {
		f.uncached(ctx, left)
	}
	failpoint.Hit(failpoint.L2Written)
	f.q.complete(b, refused, losers)
	f.flushed.Add(uint64(b.ops - len(refused)))
	for i := range b.units {
		if u := &b.units[i]; u.spooled {
			f.drained.Add(uint64(len(u.ops())))
		}
	}
	f.batches.Add(1)
	f.landedOne.Store(true)
	if f.down.CompareAndSwap(true, false) {
		f.outage(false, nil)
	}
	f.landed(b.ops, b.bytes)
}

// findLosers returns the ops that L3 did not take because it holds something higher: the
// version was given by a caller, or another engine wrote meanwhile, or has a clock ahead of
// ours. A loser must not reach L2, where nothing may be left that beats it (INV-4), nor stay
// in L1. So with an L2 every op is looked up again; without one only those with a caller's
// version, since L1MaxAge bounds how long L1 may be behind another engine. When L3 can't be
// asked, all that are in doubt count as lost: they will be read from there.
func (f *flusher) findLosers(ctx context.Context, units []unit) map[string]*entry {
	var ids []string
	doubtful := make(map[string]*entry)
	cached := f.cached()
	for i := range units {
		u := &units[i]
		for _, e := range u.ops() {
			if !e.numbered && !cached {
				continue
			}
			old, ok := doubtful[e.id()]
			if !ok {
				ids = append(ids, e.id())
			}
			if !ok || e.compare(old) > 0 {
				doubtful[e.id()] = e
			}
		}
	}
	if len(ids) == 0 {
		return nil
	}
	heads, err := f.heads(ctx, ids)
	if err != nil {
		return doubtful
	}
	losers := make(map[string]*entry)
	for i := range heads {
		h := &heads[i]
		e := doubtful[h.ID]
		head := h.record()
		if op := e.record(); op.Compare(&head) < 0 {
			losers[h.ID] = e
		}
	}
	return losers
}

// archive writes units to L3 in one transaction, splitting them when L3 refuses a row. It
// returns what was written. A unit found at fault is in quarantine and in refused.
func (f *flusher) archive(ctx context.Context, units []unit, refused map[*entry]error) ([]Record, error) {
	recs := coalesce(units)
	err := f.apply(ctx, recs)
	switch {
	case err == nil:
		return recs, nil
	case !errors.Is(err, ErrRefused):
		return nil, err
	case len(units) == 1:
		if err := f.refuse(ctx, &units[0], err); err != nil {
			return nil, err
		}
		for _, e := range units[0].ops() {
			refused[e] = err
		}
		return nil, nil
	}
	half := len(units) / 2
	first, err := f.archive(ctx, units[:half], refused)
	if err != nil {
		return nil, err
	}
	second, err := f.archive(ctx, units[half:], refused)
	return append(first, second...), err
}

// coalesce returns the highest op of each id, sorted by id: transactions that lock rows in
// one order don't wait for each other in a circle.
func coalesce(units []unit) []Record {
	recs := make([]Record, 0, len(units))
	for i := range units {
		for _, e := range units[i].ops() {
			recs = append(recs, e.record())
		}
	}
	slices.SortFunc(recs, func(a, b Record) int {
		if c := strings.Compare(a.ID, b.ID); c != 0 {
			return c
		}
		return b.Compare(&a) // the highest first
	})
	return slices.CompactFunc(recs, func(a, b Record) bool { return a.ID == b.ID })
}

// fail notes an outage of L3 and saves Buffered ops to the WAL.
func (f *flusher) fail(ctx context.Context, cause error) {
	if ctx.Err() != nil {
		return // the engine is closing
	}
	if f.down.CompareAndSwap(false, true) {
		f.outage(true, cause)
	}
	f.logBuffered()
}

// logBuffered hands the queued units that are not in the WAL to it. Each reports to the
// queue by itself; logging tells when all have.
func (f *flusher) logBuffered() {
	us := f.q.unlogged()
	for i := range us {
		ops, at := us[i].ops(), us[i].at
		f.logging.Add(1)
		f.wal.reserve(ops, math.MaxInt64, math.MaxInt64) // they were accepted: there is no refusing them
		_ = f.wal.append(ops, asIs, func(seg *segment, last bool, err error) {
			if err == nil {
				f.q.logged(ops, at, seg, last)
			} else {
				f.q.notLogged(ops)
			}
			f.logging.Done()
		})
	}
}

// awaitL3 probes until L3 answers or ctx ends. A Flush call makes it try at once.
func (f *flusher) awaitL3(ctx context.Context) bool {
	// The waits go on growing while probes succeed but writes don't, as with a database
	// that has become read-only.
	if f.waits == nil || f.landedOne.Swap(false) {
		f.waits = daemonPreset.schedule()
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
		err := f.probe(ctx)
		if err == nil {
			if f.down.CompareAndSwap(true, false) {
				f.outage(false, nil)
			}
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		f.q.failNow(err)
		f.logBuffered()
		timer.Reset(f.waits.NextBackOff())
	}
}

// flushAll waits until all ops accepted before the call are in L3, or tells why not. First
// the drain must have read what is spooled now; then all that is in memory must land.
func (f *flusher) flushAll(ctx context.Context) error {
	spooledTo := f.q.force()
	defer f.q.unforce()
	select {
	case f.kick <- struct{}{}:
	default: // a kick is already pending
	}
	for {
		ok, moved, failed := f.q.drainedTo(spooledTo)
		if ok {
			break
		}
		if err := f.await(ctx, moved, failed); err != nil {
			return err
		}
	}
	epochs, failed := f.q.seal()
	if err := f.await(ctx, epochs[len(epochs)-1].done, failed); err != nil {
		f.q.leave(epochs)
		return err
	}
	for _, ep := range epochs {
		if ep.refused > 0 {
			return &RefusedError{Err: errors.New("ops went to quarantine, see Quarantined")}
		}
	}
	return nil
}

func (f *flusher) await(ctx context.Context, done, failed chan struct{}) error {
	select {
	case <-done:
		return nil
	case <-failed:
		select {
		case <-done:
			return nil
		default:
			return unavailable("flush", f.q.whyFailed())
		}
	case <-ctx.Done():
		return ctx.Err()
	}
}
