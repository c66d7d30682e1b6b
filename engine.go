package syncengine

// engine.go is the engine: which departments it has, its state, and its housekeeping. open.go wires
// them, calls.go has the public calls, which only delegate.
//
// # Goroutines
//
// All are started by the door and awaited by Shutdown, but for functions of the user's that do not
// end:
//
//	wal          commits the log (oplog.Run); ends after the last append
//	flusher      takes batches; ends when the background context does
//	flush batch  one per batch in flight
//	events       calls the user's functions in order
//	housekeeping ticks the coarse clock, watches pressure, evicts
//	l3 watch     closes L3's breaker when it is back, purges tombstones
//	expiry       purges what has expired from L1 and L3
//	fleet        tells other engines of this one, and looks for them
//	filter       builds and saves the filter
//	l2 repair    brings ids that L2 missed up to date
//	l2 verify    compares all of L2 with L3 now and then
//	push         tells other engines what this one has written
//	listen       hears them
//	tail         follows what they write by the log in L3
//	l2 promote   writes copies read from L3 to L2
//	conditions   has L3 decide conditional writes, where it is shared
//	load         one per id being loaded, and per call that watches share
//	compaction   folds old merges of CRDT items in L3
//	health       asks L2 while the caller asks L3
//	left behind  waits for what a call has left behind; see door.Stay
//	shutdown     closes the engine; whoever calls Close waits for it as long as its context allows
//	factory      one per id in GetOrInsertWith; what it calls has one more, which may be left
//	             behind when it does not end

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/syncengine-go/syncengine/internal/filelock"
)

// Engine keeps items in step across the tiers. Make one with Open. All methods are safe
// for concurrent use.
type Engine struct {
	cfg Config

	// The departments, lowest first; CONTRIBUTING.md has their files.
	news     *news
	door     *door
	l1       *l1
	wal      *journal
	pressure *pressure
	cache    *cache
	archive  *archive
	trust    *trust
	push     *push
	tail     *tail
	queue    *queue // these three are the pipeline
	numbers  *numbers
	home     *homeKeeper
	flush    *flusher
	bad      *quarantine
	repair   *repair
	verifier *verifier
	compact  *compaction
	reader   *reader
	writer   *writer

	state    atomic.Uint32
	sharing  sync.Mutex     // guards fileLock while calls are under way
	fileLock *filelock.Lock // see lockFile; nil for none

	closeErr error         // valid once closed is
	closed   chan struct{} // closed when Shutdown is over
}

// setState moves to a later state and tells the user. States never go back.
func (e *Engine) setState(to State) {
	from := State(e.state.Swap(uint32(to)))
	if from == to {
		return
	}
	e.news.State(from, to)
}

// State returns where the engine stands in its life.
func (e *Engine) State() State { return State(e.state.Load()) }

// Backpressure returns the current level.
func (e *Engine) Backpressure() BackpressureLevel { return e.pressure.Observe() }

// MemoryPressure is the largest of: bytes that can't be evicted / L1MaxBytes; ops in the WAL, in
// quarantine, or accepted into memory alone, which an outage will put into the WAL / WALMaxItems;
// their bytes / WALMaxBytes. It may pass 1 for a moment. What is in quarantine counts up to
// BackpressureCritical: it can't make reads be refused.
func (e *Engine) MemoryPressure() float64 { return e.pressure.Now() }

// levelChanged is told by the gauge.
func (e *Engine) levelChanged(from, to BackpressureLevel) {
	e.queue.Signal() // from LevelWarn on, any batch is due
	e.news.Level(from, to)
}

// Len returns how many items L1 holds. Deleted ids do not count; what has expired may, for a second
// or two; nor do CRDT items of which it has only merges that wait for L3.
func (e *Engine) Len() int { return e.l1.Len() }

// IsEmpty reports whether L1 holds no item.
func (e *Engine) IsEmpty() bool { return e.Len() == 0 }

// housekeep is the loop of small periodic work.
func (e *Engine) housekeep(ctx context.Context) {
	tick := time.NewTicker(tickTime)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			e.l1.Tick()
			e.reader.Tick()
			e.Backpressure() // falls by itself when nobody writes
			e.l1.Press(e.pressure.Now())
			e.l1.Evict(0)
			if err := e.numbers.Tick(ctx); err != nil && ctx.Err() == nil {
				e.news.Log().Warn("the bound of versions can't be kept in the WAL file", "error", err)
			}
		case <-ctx.Done():
			return
		}
	}
}

// watchL3 is the loop that asks L3 whether it is back when only reads have noticed that it
// was away, and that purges tombstones.
func (e *Engine) watchL3(ctx context.Context) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	purge := time.NewTimer(purgeEvery(e.cfg.TombstoneRetention))
	defer purge.Stop()
	for {
		select {
		case <-tick.C:
			if e.archive.State() != "closed" && !e.archive.Down() {
				_ = e.archive.Look(ctx) // a yes closes the breaker; a no leaves all as it is
			}
		case <-purge.C:
			e.purgeTombstones(ctx)
			purge.Reset(purgeEvery(e.cfg.TombstoneRetention))
		case <-ctx.Done():
			return
		}
	}
}

const watchEvery = time.Second

// expire is the loop that purges what has expired. Engines don't do it at the same moment.
func (e *Engine) expire(ctx context.Context) {
	wait := time.NewTimer(expireEvery)
	defer wait.Stop()
	told := false
	for {
		select {
		case <-wait.C:
		case <-ctx.Done():
			return
		}
		more, err := e.repair.Expire(ctx)
		if err != nil && ctx.Err() == nil && !told {
			e.news.Log().Warn("purging what has expired failed; nobody sees it, and it is tried again", "error", err)
		}
		told = err != nil
		if wait.Reset(expireEvery + rand.N(expireEvery)); more {
			wait.Reset(0)
		}
	}
}

const expireEvery = 500 * time.Millisecond

// purgeEvery looks often enough that a tombstone stays at most an eighth too long.
func purgeEvery(retention time.Duration) time.Duration {
	return min(max(retention/8, 100*time.Millisecond), time.Hour)
}

// purgeTombstones is also done at the end: of services whose processes live for a second, too.
func (e *Engine) purgeTombstones(ctx context.Context) {
	if e.archive.Down() || !e.archive.Ready() {
		return
	}
	before := time.Now().Add(-e.cfg.TombstoneRetention)
	for ctx.Err() == nil {
		n, err := e.archive.PurgeTombstones(ctx, before, purgeBatch)
		if err != nil {
			e.news.Log().Warn("purging tombstones failed", "error", err)
			return
		}
		if n < purgeBatch {
			return
		}
	}
}
