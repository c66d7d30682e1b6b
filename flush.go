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
//     fault is alone, which goes to quarantine (INV-9). L3 tells which ops lost to something
//     higher that it holds, so that no other tier gets them
//  3. L2; ids it misses are kept from being read there (l2sync.go)
//  4. the queue lets go: L1 may evict the ops, the WAL may trim them
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

	// The outside, as functions. apply writes records to L3 in one transaction and returns the
	// rows that compare above them. cache writes them to L2 or remembers that it could not; it
	// never fails. uncached remembers records that L2 does not get. refuse puts a unit into
	// quarantine. probe asks L3 whether it is back, bringing up its schema if need be. outage
	// is told of changes. haste tells that pressure is high.
	apply  func(context.Context, []Record) ([]Meta, error)
	cache  func(context.Context, []Record)
	refuse func(context.Context, *unit, error) error
	probe  func(context.Context) error
	outage func(down bool, cause error)
	// unlogged is told before ops that are not in the WAL go to L3.
	unlogged func(context.Context)
	// dropped tells that a unit read from the WAL is not wanted any more.
	dropped  func(ops []*entry) bool
	landed   func(ops int, bytes int64)
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
			f.q.refill(nil, 0, &segment{id: upTo}, 0)
			continue
		}
		for _, s := range segs {
			units, err := decodeUnits(s.Payload)
			if err != nil {
				return walError(err)
			}
			failpoint.Hit(failpoint.SpoolRead)
			dropped := 0
			units = slices.DeleteFunc(units, func(ops []*entry) bool {
				if !f.dropped(ops) {
					return false
				}
				f.wal.release(ops)
				dropped += len(ops)
				return true
			})
			f.q.refill(units, dropped, &segment{id: s.ID, live: s.Ops - dropped}, s.At)
		}
	}
}

// flush writes one batch.
func (f *flusher) flush(ctx context.Context, b *batch) {
	if b.memory {
		f.unlogged(ctx)
	}
	a := archived{refused: make(map[*entry]error), lost: make(map[string]bool)}
	if err := f.archive(ctx, b.units, &a); err != nil {
		f.errs.Add(1)
		f.fail(ctx, err)
		f.q.giveBack(b, a.refused, err)
		return
	}
	failpoint.Hit(failpoint.L3Committed)
	written, left := a.parted()
	if len(written) > 0 {
		f.cache(ctx, written)
	}
	if len(left) > 0 {
		f.uncached(ctx, left)
	}
	failpoint.Hit(failpoint.L2Written)
	f.count(b, len(a.refused)) // first: complete wakes Flush, whose caller may look at Stats
	f.q.complete(b, a.refused, a.lost)
	f.landedOne.Store(true)
	if f.down.CompareAndSwap(true, false) {
		f.outage(false, nil)
	}
}

// count adds a batch to the figures.
func (f *flusher) count(b *batch, refused int) {
	f.flushed.Add(uint64(b.ops - refused))
	for i := range b.units {
		if u := &b.units[i]; u.spooled {
			f.drained.Add(uint64(len(u.ops())))
		}
	}
	f.batches.Add(1)
	f.landed(b.ops, b.bytes)
}

// archived is what became of the units of a batch in L3.
type archived struct {
	recs    []Record         // handed to L3, one per id
	lost    map[string]bool  // those of ids of which L3 holds something higher
	refused map[*entry]error // ops that are now in quarantine
}

// parted divides the records into those that L3 holds now and those that lost: the version
// was given by a caller, or another engine wrote meanwhile, or has a clock ahead of ours. A
// loser must not reach L2, where nothing may be left that beats it (INV-4), nor stay in L1.
func (a *archived) parted() (written, lost []Record) {
	if len(a.lost) == 0 {
		return a.recs, nil
	}
	for _, r := range a.recs {
		if a.lost[r.ID] {
			lost = append(lost, r)
		} else {
			written = append(written, r)
		}
	}
	return written, lost
}

// archive writes units to L3 in one transaction, splitting them when L3 refuses a row.
func (f *flusher) archive(ctx context.Context, units []unit, a *archived) error {
	recs := coalesce(units)
	above, err := f.apply(ctx, recs)
	switch {
	case err == nil:
		a.recs = append(a.recs, recs...)
		for i := range above {
			a.lost[above[i].ID] = true
		}
		return nil
	case !errors.Is(err, ErrRefused):
		return err
	case len(units) == 1:
		if err := f.refuse(ctx, &units[0], err); err != nil {
			return err
		}
		for _, e := range units[0].ops() {
			a.refused[e] = err
		}
		return nil
	}
	half := len(units) / 2
	if err := f.archive(ctx, units[:half], a); err != nil {
		return err
	}
	return f.archive(ctx, units[half:], a)
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
		f.wal.claim(ops) // they were accepted: there is no refusing them
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
