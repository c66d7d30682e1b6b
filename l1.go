package syncengine

// l1.go owns L1, the memory tier: a concurrent map from id to entry, and the exact
// accounting of its bytes.
//
// While the op of an entry is neither in L3 nor readable from the WAL it is pinned: eviction leaves
// it alone (INV-6). Of one id the map keeps the entry that compares highest (INV-3). An entry that
// is replaced while pinned leaves the map but not memory, since the queue still holds it: its bytes
// count as detached until it is unpinned (INV-10).
//
// No goroutines. Get on a hit takes no lock and allocates nothing.

import (
	"hash/maphash"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/puzpuzpuz/xsync/v3"

	"github.com/syncengine-go/syncengine/internal/evict"
	"github.com/syncengine-go/syncengine/internal/tancurve"
)

// coarse is a clock of ticks since it was made. Reads stamp entries with it, because asking
// the system for the time would cost half a Get.
type coarse struct {
	start time.Time
	unix  int64 // start in unix nanoseconds
	now   atomic.Uint32
}

func (c *coarse) begin(at time.Time) { c.start, c.unix = at, at.UnixNano() }

// tickTime is the resolution of coarse. A uint32 of them lasts 13 years.
const tickTime = 100 * time.Millisecond

func (c *coarse) tick() { c.now.Store(uint32(time.Since(c.start) / tickTime)) }

func (c *coarse) time(ticks uint32) time.Time {
	return time.Unix(0, c.unix+int64(ticks)*int64(tickTime)).UTC()
}

// Now is the present stamp.
func (c *coarse) Now() uint32 { return c.now.Load() }

// Since returns the age of a stamp; 0 for one that is ahead of a reader's view of the clock.
func (c *coarse) Since(ticks uint32) time.Duration {
	now := c.now.Load()
	return time.Duration(now-min(now, ticks)) * tickTime
}

// stripes count the writes to ids by hash. A reader that wants to put a copy into L1
// after a slow load compares the count with that from before: if it changed, a write to
// the id may have come and gone meanwhile, and the copy may be old. A false
// alarm costs one promotion.
const stripes = 1024

// l1 is the memory tier.
type l1 struct {
	m         *xsync.MapOf[string, *entry]
	seed      maphash.Seed
	clock     coarse
	doubted   atomic.Uint32 // ticks: see Doubt
	writes    [stripes]atomic.Uint64
	residents *evict.Policy[*entry]
	sample    *evict.Sample
	live      atomic.Int64 // items in the map, tombstones not counted
	bytes     atomic.Int64 // of entries in the map
	detached  atomic.Int64 // of pinned entries no longer in the map
	pinned    atomic.Int64 // of pinned entries, in the map or not
	drained   atomic.Int64 // of entries the drain has read, see Hold
	evicted   atomic.Uint64
	hits      *xsync.Counter // striped: readers don't share a cache line
	misses    *xsync.Counter
	budget    int64
	keepFree  atomic.Int64 // the part of the budget that is left free under pressure
	lastHits  int64        // at the last tick
	expiring  atomic.Int64 // entries in the map that expire
	hearing   hearing

	sweeping  sync.Mutex // held by DropExpired, guards the field below
	sweepNext time.Time
}

func newL1(budget int64) *l1 {
	c := &l1{m: xsync.NewMapOf[string, *entry](), seed: maphash.MakeSeed(), hits: xsync.NewCounter(), misses: xsync.NewCounter(), budget: budget}
	c.clock.begin(time.Now())
	c.residents = evict.New[*entry](budget, &c.clock, c.hits.Value)
	c.sample = c.residents.Sample()
	return c
}

// Get returns the entry of id, perhaps a tombstone, and counts the access.
func (c *l1) Get(id string) (*entry, bool) {
	e, ok := c.m.Load(id)
	if ok && e.saysAbsent() {
		return nil, false // see KeepAbsent
	}
	if ok {
		c.count(e)
	}
	return e, ok
}

// While there are more hits than this in a tick, they are counted by sampling, and eviction
// counts a use of an entry only if it has not lately.
const (
	busyHits   = 10_000
	hitSample  = 16
	accessStep = 10 // ticks: how exact lastAccess is
)

func (c *l1) count(e *entry) {
	pace := c.sample.Pace()
	if !e.place.Counted(pace) {
		if rank := e.place.Count(pace); c.sample.Wants(rank) {
			c.sample.Note(&e.place, c.Hash(e.id()), e.size())
		}
	}
	if now := c.clock.now.Load(); now-e.lastAccess.Load() >= accessStep {
		e.lastAccess.Store(now)
	}
	if !pace.Busy() {
		c.hits.Inc()
	} else if rand.Uint32()%hitSample == 0 {
		c.hits.Add(hitSample)
		e.place.AddUses(hitSample)
	}
}

// Tick moves the clock and decides how uses are counted from now on.
func (c *l1) Tick() {
	c.clock.tick()
	hits := c.hits.Value()
	c.sample.SetBusy(hits-c.lastHits > busyHits)
	c.lastHits = hits
}

// Peek is get without counting.
func (c *l1) Peek(id string) (*entry, bool) {
	e, ok := c.m.Load(id)
	if ok && e.saysAbsent() {
		return nil, false
	}
	return e, ok
}

// KeepAbsent remembers that L3 has said that it has nothing of an id, after since was taken: as an
// entry of version 0, which takes room and is evicted like any, but which nobody sees. A write of
// the id, here or heard of, ends that.
func (c *l1) KeepAbsent(id string, since stamp) {
	c.Promote(newEntry(&Record{Item: Item{ID: id}, Deleted: true}), since)
	c.Shrink()
}

// Absent reports whether L3 has said so less than a time ago.
func (c *l1) Absent(id string, than time.Duration) bool {
	e, ok := c.m.Load(id)
	return ok && e.saysAbsent() && c.Young(e, than)
}

func (c *l1) Hash(id string) uint64 { return maphash.String(c.seed, id) }

// stamp is taken before a lower tier is asked about an id: what is found may be promoted if nothing
// was written meanwhile, and is as old as that.
type stamp struct {
	Writes uint64 // count of the id's stripe
	at     uint32 // ticks
}

// Stamp returns the stamp of id now.
func (c *l1) Stamp(id string) stamp {
	return stamp{c.writes[c.Hash(id)%stripes].Load(), c.clock.now.Load()}
}

// Written reports whether id may have been written since a stamp was taken.
func (c *l1) Written(id string, since stamp) bool {
	return c.writes[c.Hash(id)%stripes].Load() != since.Writes
}

// Touch counts a write of an id that memory does not see: what was read before is not promoted, nor
// shared with readers that come later.
func (c *l1) Touch(id string) {
	c.writes[c.Hash(id)%stripes].Add(1)
	if e, ok := c.m.Load(id); ok && e.saysAbsent() {
		c.Drop(e)
	}
}

// Used is what L1 and the queue hold together.
func (c *l1) Used() int64 {
	return c.bytes.Load() + c.detached.Load() + c.residents.Bytes()
}

// Over returns by how much memory with so many bytes more would exceed what may be filled.
func (c *l1) Over(more int64) int64 {
	return c.Used() + more - c.budget + c.keepFree.Load()
}

// Press tells how full the engine is. From three quarters on a part of the budget is left free,
// up to a tenth, along the tangent curve: bursts then find room without waiting for evictions.
func (c *l1) Press(pressure float64) {
	c.keepFree.Store(int64(float64(c.budget) / 10 * (1 - tancurve.Multiplier(pressure))))
}

// Accept puts the entry of an accepted op into the map unless a higher one is there.
// pinned says whether the queue holds it; otherwise it is spooled.
func (c *l1) Accept(e *entry, pinned bool) {
	e.state.Or(stateOwn)
	if pinned {
		e.state.Store(stateOwn | statePinned | e.state.Load()&(stateRaised|stateLate))
		c.pinned.Add(e.size())
	}
	if !c.store(e, c.clock.now.Load(), nil) && pinned {
		c.detach(e) // a higher one was there: the queue alone holds this
		if h, ok := c.Peek(e.id()); ok && h.state.Load()&(statePinned|stateOwn) != 0 {
			e.state.Or(stateReplaced)
		}
	}
	c.writes[c.Hash(e.id())%stripes].Add(1)
}

// Promote puts a copy read from another tier into the map, unless it holds a higher entry
// or the id was written since stamp was taken. What was there goes in both cases, if it is lower:
// somebody has seen the copy, and would see what is older than that in an outage.
func (c *l1) Promote(e *entry, since stamp) {
	e.lastAccess.Store(c.clock.now.Load())
	e.place.AddUses(1)
	if c.store(e, since.at, func() bool { return !c.Written(e.id(), since) }) {
		return
	}
	if old, ok := c.m.Load(e.id()); ok && old.compare(e) < 0 {
		c.outdate(old)
	}
}

// Keep puts what nobody waits for into the map, unless it holds a higher entry.
func (c *l1) Keep(e *entry) { c.KeepOf(e, c.Moment()) }

// KeepOf is Keep for what L3 held after a moment.
func (c *l1) KeepOf(e *entry, moment uint32) {
	e.lastAccess.Store(c.clock.now.Load())
	c.store(e, moment, func() bool { return true })
}

// Moment is now, for KeepOf.
func (c *l1) Moment() uint32 { return c.clock.now.Load() }

// store is the one door into the map. An equal entry replaces the old one only when that
// is not pinned: whoever waits for the old one would lose it. checked is when this was what L3 or
// L2 held.
func (c *l1) store(e *entry, checked uint32, still func() bool) (stored bool) {
	c.m.Compute(e.id(), func(old *entry, loaded bool) (*entry, bool) {
		if loaded {
			if e.saysAbsent() && old.version != 0 {
				return old, false // it says nothing of that
			}
			cmp := e.compare(old)
			if still != nil && cmp <= 0 {
				old.checked.Store(max(old.checked.Load(), checked))
			}
			if cmp < 0 || cmp == 0 && still != nil {
				return old, false
			}
		}
		if still != nil && !still() {
			return old, !loaded
		}
		stored = true
		e.checked.Store(checked)
		if loaded {
			e.lastAccess.Store(old.lastAccess.Load())
			c.bytes.Add(e.size() - old.size())
			c.tally(e, 1)
			c.tally(old, -1)
			c.residents.Replace(old, e)
			c.detach(old)
			if still == nil && old.pinned() {
				old.state.Or(stateReplaced)
			}
		} else {
			c.bytes.Add(e.size())
			c.tally(e, 1)
			c.residents.Add(e, c.Hash(e.id()), c.Over(0) > 0)
		}
		return e, false
	})
	return stored
}

// tally counts an entry that comes into the map, or leaves it.
func (c *l1) tally(e *entry, n int64) {
	if !e.deleted && !e.isMerge() {
		c.live.Add(n)
	}
	if e.expires() != 0 {
		c.expiring.Add(n)
	}
}

// Hold accounts for an entry that the drain read from the WAL: it is in memory, not in
// the map, and not pinned.
func (c *l1) Hold(e *entry) {
	e.state.Store(stateDetached | e.state.Load()&(stateDecided|stateLate))
	c.detached.Add(e.size())
	c.drained.Add(e.size())
}

// Queued is what the queue holds, in the map or not.
func (c *l1) Queued() int64 { return c.pinned.Load() + c.drained.Load() }

// detach notes that a pinned entry left the map.
func (c *l1) detach(e *entry) {
	for {
		st := e.state.Load()
		if st&statePinned == 0 || st&stateDetached != 0 {
			return
		}
		// The bytes are added first: between the two steps memory is over-counted, never
		// under-counted.
		c.detached.Add(e.size())
		if e.state.CompareAndSwap(st, st|stateDetached) {
			return
		}
		c.detached.Add(-e.size())
	}
}

// Unpin notes that the queue no longer holds an entry.
func (c *l1) Unpin(e *entry) {
	st := e.state.Load()
	for !e.state.CompareAndSwap(st, st&stateOwn) {
		st = e.state.Load()
	}
	if st&statePinned != 0 {
		c.pinned.Add(-e.size())
	} else if st&stateDetached != 0 {
		c.drained.Add(-e.size())
	}
	if st&stateDetached != 0 {
		c.detached.Add(-e.size())
	}
	if st&stateOutdated != 0 {
		c.Drop(e)
	}
}

// Reattach puts an op that the queue alone holds back into the map, unless that holds a higher one.
// The caller sees to it that nobody lets go of the op meanwhile.
func (c *l1) Reattach(e *entry) {
	if !c.store(e, c.clock.now.Load(), nil) {
		return
	}
	c.Touch(e.id())
	for st := e.state.Load(); st&stateDetached != 0; st = e.state.Load() {
		if e.state.CompareAndSwap(st, st&^stateDetached) {
			c.detached.Add(-e.size())
		}
	}
}

// Outdate drops a copy that is below a version which another engine has written, and keeps what was
// read before from being promoted. An op that the queue holds goes when that lets go of it.
func (c *l1) Outdate(id string, version uint64) {
	c.hearing.note(id, version) // first, see Heard
	e, ok := c.Peek(id)
	switch {
	case !ok:
		c.Touch(id)
	case e.version < version:
		c.outdate(e)
	}
}

func (c *l1) outdate(e *entry) {
	if c.Drop(e) {
		return
	}
	if e.state.Or(stateOutdated); !e.pinned() { // the queue has let go meanwhile
		c.Drop(e)
	}
}

// Forget drops an op, or what is below it, that turned out to be worth nothing.
func (c *l1) Forget(op *entry) {
	if e, ok := c.Peek(op.id()); ok && e.compare(op) <= 0 {
		c.Drop(e)
	}
}

// Drop removes exactly this entry if it may go.
func (c *l1) Drop(e *entry) (dropped bool) {
	c.m.Compute(e.id(), func(old *entry, loaded bool) (*entry, bool) {
		if !loaded || old != e || e.pinned() {
			return old, !loaded
		}
		c.bytes.Add(-e.size())
		c.tally(e, -1)
		c.residents.Remove(e, c.Hash(e.id()))
		// A write may be dropped before accept has counted it, and a reader that loaded the
		// version before it must not promote that.
		c.writes[c.Hash(e.id())%stripes].Add(1)
		dropped = true
		return nil, true
	})
	return dropped
}

// DropExpired drops entries that have expired, but for those that wait for L3. While there are any
// that expire it looks at all entries, at most a hundredth of the time.
func (c *l1) DropExpired(clock func() time.Time) {
	if c.expiring.Load() == 0 || !c.sweeping.TryLock() {
		return
	}
	defer c.sweeping.Unlock()
	if time.Now().Before(c.sweepNext) {
		return
	}
	start := time.Now()
	c.m.Range(func(_ string, e *entry) bool {
		if e.expires() != 0 && e.expired(clock) {
			c.Drop(e)
		}
		return true
	})
	c.sweepNext = time.Now().Add(100 * time.Since(start))
}

// Missed counts a read that memory could not answer.
func (c *l1) Missed() { c.misses.Inc() }

// Len returns how many items are here, tombstones not counted.
func (c *l1) Len() int { return int(c.live.Load()) }

// Fill returns how full memory is of what can't be evicted; 1 is full.
func (c *l1) Fill() float64 { return float64(c.pinned.Load()) / float64(c.budget) }

// Age returns how long ago an entry was written, or last compared with a lower tier.
func (c *l1) Age(e *entry) time.Duration { return c.clock.Since(e.checked.Load()) }

// Doubt makes all copies that are here old: others may have written since they were compared.
func (c *l1) Doubt() { c.doubted.Store(c.clock.now.Load() + 1) }

// Young reports whether an entry was written, or compared with a lower tier, less than a time ago,
// and since Doubt was called last.
func (c *l1) Young(e *entry, than time.Duration) bool {
	checked := e.checked.Load()
	return c.clock.Since(checked) < than && checked >= c.doubted.Load()
}

// Idle returns for how long an entry was not read.
func (c *l1) Idle(e *entry) time.Duration { return c.clock.Since(e.lastAccess.Load()) }

// LastUse returns when an entry was read last.
func (c *l1) LastUse(e *entry) time.Time { return c.clock.time(e.lastAccess.Load()) }

// Stats sets this department's part.
func (c *l1) Stats(s *Stats) {
	s.L1Items, s.L1Bytes, s.L1Pinned = c.Len(), c.Used(), c.pinned.Load()
	s.L1Hits, s.L1Misses, s.Evictions = uint64(c.hits.Value()), uint64(c.misses.Value()), c.evicted.Load()
}
