package promises

// promises_test.go holds one test per defect that once broke a promise. Each stands a store
// in the way of a single call, so that the moment at which it went wrong comes every time.

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/storetest"
)

// returns fails the test when fn does not return at all.
func returns(t testing.TB, what string, fn func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		fn()
	}()
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		t.Fatalf("%s does not return", what)
	}
}

// walFile opens the WAL file of a running engine as another process would.
func walFile(t testing.TB, dir string) *sql.Conn {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "wal.db")+"?_pragma=busy_timeout(5000)")
	lab.Must(t, err)
	t.Cleanup(func() { _ = db.Close() })
	conn, err := db.Conn(context.Background())
	lab.Must(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func execSQL(t testing.TB, conn *sql.Conn, query string) {
	t.Helper()
	_, err := conn.ExecContext(context.Background(), query)
	lab.Must(t, err)
}

// breakWAL makes the WAL take no ops until repair is called.
func breakWAL(t testing.TB, dir string) (repair func()) {
	t.Helper()
	conn := walFile(t, dir)
	execSQL(t, conn, "CREATE TRIGGER broken BEFORE INSERT ON segments BEGIN SELECT RAISE(ABORT, 'broken by a test'); END")
	return func() { execSQL(t, conn, "DROP TRIGGER broken") }
}

// leavesL1 reads and writes other ids until L1 has evicted id.
func leavesL1(t testing.TB, e *syncengine.Engine, id string, others func(round int)) {
	t.Helper()
	for round := range 1000 {
		st, err := e.Status(context.Background(), id)
		lab.Must(t, err)
		if !st.InL1 {
			return
		}
		others(round)
	}
	t.Fatalf("%s is never evicted", id)
}

// Archived used to look at its epoch only, where a neighbour's error could stand or be missing.
func TestINV09EachArchivedCallLearnsTheFateOfItsOwnOp(t *testing.T) {
	ctx := context.Background()
	e := lab.Open(t, syncengine.Config{L3: &lab.HookedArchive{ArchiveStore: storetest.NewArchive(), OnApply: lab.RefusePoison}})
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for round := range 20 {
				it := syncengine.Item{ID: fmt.Sprintf("%d-%d", w, round), Content: lab.Poison}
				if w%2 == 0 {
					it.Content = lab.Doc(it.ID, round)
				}
				err := e.Submit(ctx, it, syncengine.WithDurability(syncengine.Archived))
				if bad := w%2 == 1; errors.Is(err, syncengine.ErrRefused) != bad || !bad && err != nil {
					t.Errorf("%s: %v; refused by L3: %v", it.ID, err, bad)
				}
			}
		})
	}
	wg.Wait()
}

// An Archived call returned as soon as a neighbour was refused, with its own op still spooled.
func TestArchivedWaitsForItsSpooledOpAlsoWhenANeighbourIsRefused(t *testing.T) {
	ctx := context.Background()
	l3 := &lab.HookedArchive{ArchiveStore: storetest.NewArchive()}
	before, refuse := lab.Hold()
	defer refuse()
	last, release := lab.Hold()
	defer release()
	reached := make(chan struct{}, 1)
	l3.OnApply = func(ctx context.Context, recs []syncengine.Record) error {
		if err := lab.RefusePoison(ctx, recs); err != nil {
			<-before
			return err
		}
		for i := range recs {
			if recs[i].ID == "mine" {
				reached <- struct{}{}
				<-last
			}
		}
		return nil
	}
	e := lab.Open(t, syncengine.Config{L3: l3, L1MaxBytes: 64 << 10, FlushConcurrency: 1, BatchFlushCount: 1, L3Timeout: time.Minute})
	lab.Must(t, e.Submit(ctx, syncengine.Item{ID: "bad", Content: lab.Poison}))
	for n := 0; e.Stats().SpooledOps == 0; n++ {
		lab.Put(t, e, fmt.Sprint("fill-", n), n)
	}
	waiting := e.Stats().PendingOps
	got := make(chan error, 1)
	go func() {
		got <- e.Submit(ctx, syncengine.Item{ID: "mine", Content: lab.Doc("mine", 1)}, syncengine.WithDurability(syncengine.Archived))
	}()
	lab.Eventually(t, "the op is spooled", func() bool { return e.Stats().PendingOps > waiting })
	refuse()
	<-reached
	select {
	case err := <-got:
		t.Errorf("Submit returned %v before L3 had the op", err)
		return
	default:
	}
	release()
	lab.Must(t, <-got)
}

// When L3 took a batch but did not say who won in it, L2 kept the version before and reads
// were answered from there.
func TestINV02AnUnansweredComparisonLeavesNoOldCopyInL2(t *testing.T) {
	ctx := context.Background()
	var fail atomic.Bool
	l3 := &lab.HookedArchive{ArchiveStore: storetest.NewArchive(), OnHeads: func() error {
		if fail.Load() {
			return lab.ErrAway
		}
		return nil
	}}
	e := lab.Open(t, syncengine.Config{L3: l3, L2: storetest.NewCache()})
	lab.Put(t, e, "x", 1)
	lab.Must(t, e.Flush(ctx))
	fail.Store(true)
	lab.Put(t, e, "x", 2)
	lab.Must(t, e.Flush(ctx))
	lab.WantContent(t, e, "x", 2)
	fail.Store(false)
	lab.WantContent(t, e, "x", 2)
}

// Eviction gave up after 64 entries, however little they freed.
func TestINV10SmallItemsMakeRoomForLargeOnes(t *testing.T) {
	ctx := context.Background()
	const budget = 2 << 20
	e := lab.Open(t, syncengine.Config{L3: storetest.NewArchive(), L1MaxBytes: budget})
	items := make([]syncengine.Item, 6000)
	for n := range items {
		items[n] = syncengine.Item{ID: fmt.Sprint("small-", n), Content: lab.Doc("s", n)}
	}
	for group := range slices.Chunk(items, 1000) {
		_, err := e.SubmitMany(ctx, group)
		lab.Must(t, err)
	}
	lab.Must(t, e.Flush(ctx))
	for n := range items {
		if _, err := e.Get(ctx, items[n].ID); err != nil {
			t.Fatal(err)
		}
	}
	for n := range 12 {
		lab.Must(t, e.Submit(ctx, syncengine.Item{ID: fmt.Sprint("large-", n), Content: lab.BigDoc(192)}))
		if used := e.Stats().L1Bytes; used > budget*11/10 {
			t.Fatalf("after %d large items L1 holds %d bytes of %d", n+1, used, budget)
		}
	}
}

// Writers side by side each found room for their group, and all took it.
func TestINV10WritersSideBySideShareATinyBudget(t *testing.T) {
	const budget, writers = 64 << 10, 8
	for _, d := range []syncengine.Durability{syncengine.Buffered, syncengine.Logged} {
		ctx := context.Background()
		e := lab.Open(t, syncengine.Config{L3: storetest.NewArchive(), L1MaxBytes: budget, Durability: d})
		var peak atomic.Int64
		var wg sync.WaitGroup
		for w := range writers {
			wg.Go(func() {
				for n := range 60 {
					var items []syncengine.Item
					for i := range 9 {
						items = append(items, syncengine.Item{ID: fmt.Sprint(w, n, i), Content: lab.BigDoc(1)})
					}
					_, err := e.SubmitMany(ctx, items)
					lab.Must(t, err)
					for used := e.Stats().L1Bytes; ; {
						if was := peak.Load(); used <= was || peak.CompareAndSwap(was, used) {
							break
						}
					}
				}
			})
		}
		wg.Wait()
		if peak := peak.Load(); peak > budget*11/10 {
			t.Errorf("durability %d: memory reached %d bytes, the budget is %d", d, peak, budget)
		}
		lab.Must(t, e.Flush(ctx))
	}
}

// Copies on their way to a hung L2 were bounded by their number only.
func TestINV10CopiesForAHungL2HoldLittleMemory(t *testing.T) {
	const items = 200
	ctx := context.Background()
	l3 := &lab.HookedArchive{ArchiveStore: storetest.NewArchive()}
	big := storetest.Put("big", 1, string(lab.BigDoc(256)))
	for n := range items {
		rec := big
		rec.ID = fmt.Sprint(n)
		lab.Must(t, lab.Applied(l3.Apply(ctx, []syncengine.Record{rec})))
	}
	gate, release := lab.Hold()
	defer release()
	l2 := &lab.HookedCache{CacheStore: storetest.NewCache(), OnPut: func(context.Context, []syncengine.Record) error {
		<-gate
		return nil
	}}
	e := lab.Open(t, syncengine.Config{L3: l3, L2: l2, L1MaxBytes: 4 << 20, L2Timeout: time.Minute})
	heap := func() int {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int(m.HeapAlloc >> 20)
	}
	before := heap()
	for n := range items {
		if _, err := e.Get(ctx, fmt.Sprint(n)); err != nil {
			t.Fatal(err)
		}
	}
	if grown := heap() - before; grown > 25 {
		t.Errorf("L1MaxBytes is 4 MiB, the heap grew by %d MiB after reads of %d", grown, items/4)
	}
}

// Ops that waited for a commit counted nowhere, so a stalled disk let them fill memory.
func TestINV10OpsThatWaitForTheLogCountAgainstItsLimits(t *testing.T) {
	const calls, maxBytes = 400, 2 << 20
	ctx := context.Background()
	dir := t.TempDir()
	e := lab.Open(t, syncengine.Config{Dir: dir, L3: storetest.NewArchive(), L1MaxBytes: 1 << 20, WALMaxBytes: maxBytes})
	lab.Put(t, e, "first", 1)
	lab.Must(t, e.Flush(ctx))
	other := walFile(t, dir)
	execSQL(t, other, "BEGIN IMMEDIATE") // no commit gets through
	big := lab.BigDoc(16)
	var refused atomic.Int64
	var wg sync.WaitGroup
	for n := range calls {
		wg.Go(func() {
			err := e.Submit(ctx, syncengine.Item{ID: fmt.Sprint(n), Content: big})
			if errors.Is(err, syncengine.ErrBackpressure) {
				refused.Add(1)
			} else if err != nil {
				t.Error(err)
			}
		})
	}
	lab.Eventually(t, "every call is refused or waits for the log", func() bool { return refused.Load()+e.Stats().WALItems == calls })
	if s := e.Stats(); refused.Load() == 0 || s.WALItems == 0 || s.WALBytes > maxBytes {
		t.Errorf("%d calls refused, %d wait with %d bytes; WALMaxBytes is %d", refused.Load(), s.WALItems, s.WALBytes, maxBytes)
	}
	execSQL(t, other, "ROLLBACK")
	wg.Wait()
	lab.Must(t, e.Flush(ctx))
}

// The drain read 4 MiB at a time, whatever L1MaxBytes was.
func TestINV10TheDrainReadsInProportionToMemory(t *testing.T) {
	const budget = 1 << 20
	ctx := context.Background()
	l3 := &lab.FaultyArchive{ArchiveStore: storetest.NewArchive()}
	var e *syncengine.Engine
	var peak atomic.Int64
	hooked := &lab.HookedArchive{ArchiveStore: l3, OnApply: func(context.Context, []syncengine.Record) error {
		peak.Store(max(peak.Load(), e.Stats().L1Bytes))
		return nil
	}}
	e = lab.Open(t, syncengine.Config{L3: hooked, L1MaxBytes: budget, FlushConcurrency: 1})
	l3.Away.Store(true)
	items := make([]syncengine.Item, 4)
	for n := range 60 {
		for i := range items {
			items[i] = syncengine.Item{ID: fmt.Sprint(n, "-", i), Content: lab.BigDoc(64)}
		}
		_, err := e.SubmitMany(ctx, items)
		lab.Must(t, err)
	}
	l3.Away.Store(false)
	lab.Eventually(t, "Flush succeeds", func() bool { return e.Flush(ctx) == nil })
	if s := e.Stats(); s.DrainedOps == 0 || peak.Load() > budget*11/10 {
		t.Errorf("memory reached %d bytes while %d ops were drained, the budget is %d", peak.Load(), s.DrainedOps, budget)
	}
}

// Shutdown waited for a Flush that waited for a probe that hung.
func TestINV12ShutdownEndsAFlushThatWaitsForAHungL3(t *testing.T) {
	ctx := context.Background()
	l3 := &lab.HookedArchive{ArchiveStore: storetest.NewArchive()}
	var away atomic.Bool
	probing := make(chan struct{}, 1)
	l3.OnApply = func(context.Context, []syncengine.Record) error {
		if away.Load() {
			return lab.ErrAway
		}
		return nil
	}
	l3.OnPrepare = func(ctx context.Context) error {
		if !away.Load() {
			return nil
		}
		select {
		case probing <- struct{}{}:
		default:
		}
		<-ctx.Done()
		return lab.ErrAway
	}
	e := lab.Open(t, syncengine.Config{L3: l3, L3Timeout: time.Hour})
	away.Store(true)
	lab.Put(t, e, "x", 1)
	<-probing
	waiting := &watchedContext{Context: ctx, waited: make(chan struct{})}
	flushed := make(chan error, 1)
	go func() { flushed <- e.Flush(waiting) }()
	<-waiting.waited
	returns(t, "Shutdown", func() {
		sctx, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		defer cancel()
		if e.Shutdown(sctx) == nil {
			t.Error("Shutdown says that all is in L3")
		}
	})
	if err := e.Shutdown(ctx); !errors.Is(err, syncengine.ErrPending) { // what the first one did
		t.Errorf("Shutdown: %v, want ErrPending", err)
	}
	returns(t, "Flush", func() {
		if err := <-flushed; err == nil {
			t.Error("Flush says that all is in L3")
		}
	})
}

// watchedContext tells when somebody waits for it.
type watchedContext struct {
	context.Context
	once   sync.Once
	waited chan struct{}
}

func (c *watchedContext) Done() <-chan struct{} {
	c.once.Do(func() { close(c.waited) })
	return c.Context.Done()
}

// A second Shutdown waited for the first one whatever its own context said.
func TestASecondShutdownIsBoundedByItsOwnContext(t *testing.T) {
	ctx := context.Background()
	l3 := &lab.SlowArchive{ArchiveStore: storetest.NewArchive(), Entered: make(chan struct{}, 1), Release: make(chan struct{})}
	e := lab.Open(t, syncengine.Config{L3: l3, L3Timeout: time.Hour})
	lab.Put(t, e, "x", 1)
	<-l3.Entered
	first := make(chan error, 1)
	go func() { first <- e.Shutdown(ctx) }()
	lab.Eventually(t, "the first Shutdown is under way", func() bool { return e.State() == syncengine.StateShuttingDown })
	left, cancel := context.WithCancel(ctx)
	cancel()
	returns(t, "the second Shutdown", func() {
		if err := e.Shutdown(left); !errors.Is(err, context.Canceled) {
			t.Errorf("the second Shutdown: %v", err)
		}
	})
	close(l3.Release)
	lab.Must(t, <-first)
	lab.Must(t, e.Shutdown(ctx))
}

// Close waited for an event function that did not return.
func TestCloseDoesNotWaitForAnEventFunction(t *testing.T) {
	gate, release := lab.Hold()
	defer release()
	e := lab.Open(t, syncengine.Config{L3: storetest.NewArchive(), CloseTimeout: 50 * time.Millisecond,
		OnEvent: syncengine.Events{StateChanged: func(_, to syncengine.State) {
			if to >= syncengine.StateShuttingDown {
				<-gate
			}
		}}})
	returns(t, "Close", func() { _ = e.Close() }) // its time ends, and that may be its answer
	lab.Must(t, e.Shutdown(context.Background())) // all the same, everything was done
}

// Close counted Buffered ops as kept in a WAL that had not taken them.
func TestINV12CloseSaysWhenTheWALDidNotTakeABufferedOp(t *testing.T) {
	dir := t.TempDir()
	l3 := &lab.FaultyArchive{ArchiveStore: storetest.NewArchive()}
	e := lab.Open(t, syncengine.Config{Dir: dir, L3: l3, CloseTimeout: time.Second})
	l3.Away.Store(true)
	breakWAL(t, dir)
	lab.Put(t, e, "x", 1, syncengine.WithDurability(syncengine.Buffered))
	lab.Eventually(t, "the outage is noticed", func() bool { return e.Stats().L3Down })
	if err := e.Close(); !errors.Is(err, syncengine.ErrUnavailable) || errors.Is(err, syncengine.ErrPending) {
		t.Errorf("Close: %v; want ErrUnavailable and no op kept", err)
	}
}

// After a failed commit nothing in the log could be read before the next append.
func TestINV02SpooledOpsAreReadableAfterAFailedCommit(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	l3 := &lab.FaultyArchive{ArchiveStore: storetest.NewArchive()}
	e := lab.Open(t, syncengine.Config{Dir: dir, L3: l3, L1MaxBytes: 64 << 10})
	l3.Away.Store(true)
	for n := range 400 {
		lab.Put(t, e, fmt.Sprint("id-", n), n)
	}
	repair := breakWAL(t, dir)
	if err := e.Submit(ctx, syncengine.Item{ID: "late", Content: lab.Doc("late", 1)}); !errors.Is(err, syncengine.ErrUnavailable) {
		t.Errorf("Submit to a WAL that takes nothing: %v", err)
	}
	for n := range 400 {
		lab.WantContent(t, e, fmt.Sprint("id-", n), n)
	}
	if it, err := e.Get(ctx, "late"); err == nil { // not found, or unavailable once the circuit is open
		t.Errorf("late: %s", it.Content)
	}
	repair()
	l3.Away.Store(false)
	lab.Eventually(t, "Flush succeeds", func() bool { return e.Flush(ctx) == nil })
	lab.WantContent(t, lab.Open(t, syncengine.Config{L3: l3}), "id-399", 399)
}

// Flush waited for ever for ops in a segment that can't be read.
func TestADamagedSegmentIsAnErrorOfFlush(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	l3 := &lab.FaultyArchive{ArchiveStore: storetest.NewArchive()}
	e := lab.Open(t, syncengine.Config{Dir: dir, L3: l3, L1MaxBytes: 64 << 10, CloseTimeout: time.Second})
	l3.Away.Store(true)
	for n := 0; e.Stats().SpooledOps < 10; n++ {
		lab.Put(t, e, fmt.Sprint("id-", n), n)
	}
	execSQL(t, walFile(t, dir), "UPDATE segments SET crc = crc + 1 WHERE id = (SELECT MAX(id) FROM segments)")
	l3.Away.Store(false)
	returns(t, "Flush", func() {
		lab.Eventually(t, "Flush names the damage", func() bool { return errors.Is(e.Flush(ctx), syncengine.ErrWALCorrupt) })
	})
}

// A full WAL refused writes until the flush interval had passed, with L3 well and idle.
func TestPressureStartsAFlush(t *testing.T) {
	ctx := context.Background()
	e := lab.Open(t, syncengine.Config{L3: storetest.NewArchive(), WALMaxItems: 1000, BatchFlushCount: 1000, BatchFlushInterval: time.Hour})
	items := make([]syncengine.Item, 950)
	for n := range items {
		items[n] = syncengine.Item{ID: fmt.Sprint(n), Content: []byte("1")}
	}
	_, err := e.SubmitMany(ctx, items)
	lab.Must(t, err)
	lab.Eventually(t, "writes are taken again", func() bool {
		return e.Submit(ctx, syncengine.Item{ID: "again", Content: []byte("1")}) == nil
	})
}

// A write that never fits was told to come back later.
func TestAWriteLargerThanTheWALIsInvalid(t *testing.T) {
	e := lab.Open(t, syncengine.Config{L3: storetest.NewArchive(), WALMaxBytes: 1 << 20})
	err := e.Submit(context.Background(), syncengine.Item{ID: "x", Content: lab.BigDoc(2048)})
	var ie *syncengine.InvalidItemError
	if !errors.As(err, &ie) || !ie.TooLarge || errors.Is(err, syncengine.ErrBackpressure) {
		t.Errorf("2 MiB into a WAL of 1 MiB: %v", err)
	}
}

// A store that answered with context.Canceled was asked again at once, without end, and
// Buffered ops did not get into the WAL.
func TestACancelledCallOfTheStoreIsAnOutage(t *testing.T) {
	ctx := context.Background()
	var well atomic.Bool
	l3 := &lab.HookedArchive{ArchiveStore: storetest.NewArchive(), OnApply: func(context.Context, []syncengine.Record) error {
		if well.Load() {
			return nil
		}
		return fmt.Errorf("a proxy gave up: %w", context.Canceled)
	}}
	e := lab.Open(t, syncengine.Config{L3: l3})
	lab.Put(t, e, "x", 1, syncengine.WithDurability(syncengine.Buffered))
	lab.Eventually(t, "the op is in the WAL", func() bool { s := e.Stats(); return s.L3Down && s.WALItems == 1 })
	well.Store(true)
	lab.Eventually(t, "Flush succeeds", func() bool { return e.Flush(ctx) == nil })
	lab.WantContent(t, lab.Open(t, syncengine.Config{L3: l3}), "x", 1)
}

// A put below a delete by an engine whose clock is ahead stayed in L1, and went to L2 from
// where every engine read it.
func TestINV04APutThatLosesToAnAheadClockReachesNoCache(t *testing.T) {
	ctx := context.Background()
	l3, l2 := storetest.NewArchive(), storetest.NewCache()
	ahead := uint64(time.Now().Add(time.Minute).UnixMilli()) << 16
	lab.Must(t, lab.Applied(l3.Apply(ctx, []syncengine.Record{storetest.Tombstone("x", ahead)})))
	e := lab.Open(t, syncengine.Config{L3: l3, L2: l2})
	lab.Put(t, e, "x", 1)
	lab.Must(t, e.Flush(ctx))
	lab.WantContent(t, e, "x", -1)
	lab.WantContent(t, lab.Open(t, syncengine.Config{L3: l3, L2: l2}), "x", -1)
	lab.WantContent(t, lab.Open(t, syncengine.Config{L3: l3}), "x", -1)
}

// The factory's item got its version last, so it replaced a write that L1 had evicted.
func TestAWriteMadeDuringTheFactoryWinsAlsoWhenItWasEvicted(t *testing.T) {
	ctx := context.Background()
	e := lab.Open(t, syncengine.Config{L3: storetest.NewArchive(), L1MaxBytes: 64 << 10})
	it, err := e.GetOrInsertWith(ctx, "x", func(ctx context.Context) (syncengine.Item, error) {
		lab.Put(t, e, "x", 2)
		lab.Must(t, e.Flush(ctx))
		leavesL1(t, e, "x", func(round int) {
			for n := range 200 {
				lab.Put(t, e, fmt.Sprint("other-", n), round, syncengine.WithDurability(syncengine.Buffered))
			}
			lab.Must(t, e.Flush(ctx))
		})
		return syncengine.Item{Content: lab.Doc("x", 1)}, nil
	})
	if lab.Must(t, err); !bytes.Equal(it.Content, lab.Doc("x", 2)) {
		t.Errorf("GetOrInsertWith returned %.40s, not the write", it.Content)
	}
	lab.Must(t, e.Flush(ctx))
	lab.WantContent(t, e, "x", 2)
}

// A Buffered op logged late was taken for the newest of its id by the index of the spool.
func TestINV02ADrainedOpNeverHidesANewerOne(t *testing.T) {
	ctx := context.Background()
	l3 := &lab.FaultyArchive{ArchiveStore: storetest.NewArchive()}
	gate, release := lab.Hold()
	defer release()
	reached := make(chan struct{}, 1)
	hooked := &lab.HookedArchive{ArchiveStore: l3, OnApply: func(_ context.Context, recs []syncengine.Record) error {
		for i := range recs {
			if recs[i].ID == "gate" && !l3.Away.Load() {
				reached <- struct{}{}
				<-gate
			}
		}
		return nil
	}}
	e := lab.Open(t, syncengine.Config{L3: hooked, L1MaxBytes: 64 << 10, BatchFlushCount: 10, FlushConcurrency: 1,
		BatchFlushInterval: time.Hour, L3Timeout: time.Minute})
	l3.Away.Store(true)
	lab.Put(t, e, "x", 1, syncengine.WithDurability(syncengine.Buffered))
	lab.Put(t, e, "x", 2)
	fill := 0
	for ; e.Stats().SpooledOps == 0; fill++ {
		lab.Put(t, e, fmt.Sprint("fill-", fill), fill)
	}
	lab.Put(t, e, "gate", 1)
	lab.Eventually(t, "the outage has put the Buffered op into the WAL", func() bool { return e.Stats().WALItems == int64(fill+3) })
	l3.Away.Store(false)
	flushed := make(chan struct{})
	go func() {
		defer close(flushed)
		for e.Flush(ctx) != nil { // the outage may be noticed once more
		}
	}()
	<-reached // both ops of x are in L3, or wait to be overtaken
	leavesL1(t, e, "x", func(round int) {
		for n := range min(60, fill) {
			_, _ = e.Get(ctx, fmt.Sprint("fill-", n))
		}
		for n := range 30 {
			lab.Put(t, e, fmt.Sprint("other-", n), round)
		}
	})
	lab.WantContent(t, e, "x", 2)
	release()
	<-flushed
	lab.WantContent(t, e, "x", 2)
}

// A drained op of low priority that still waited answered reads, although a later and more
// urgent one was in L3 already.
func TestINV02AnOpThatOvertookADrainedOneAnswersReads(t *testing.T) {
	ctx := context.Background()
	l3 := &lab.FaultyArchive{ArchiveStore: storetest.NewArchive()}
	first, releaseFirst := lab.Hold()
	defer releaseFirst()
	second, releaseSecond := lab.Hold()
	defer releaseSecond()
	reached := make(chan struct{}, 2)
	hooked := &lab.HookedArchive{ArchiveStore: l3, OnApply: func(_ context.Context, recs []syncengine.Record) error {
		for i := range recs {
			switch r := &recs[i]; {
			case l3.Away.Load():
			case r.ID == "gate":
				reached <- struct{}{}
				<-first
			case r.ID == "x" && bytes.Equal(r.Content, lab.Doc("x", 1)):
				reached <- struct{}{}
				<-second
			}
		}
		return nil
	}}
	e := lab.Open(t, syncengine.Config{L3: hooked, L1MaxBytes: 64 << 10, BatchFlushBytes: 5000, FlushConcurrency: 1,
		BatchFlushInterval: time.Hour, L3Timeout: time.Minute})
	l3.Away.Store(true)
	for n := 0; e.Stats().SpooledOps == 0; n++ {
		lab.Put(t, e, fmt.Sprint("fill-", n), n)
	}
	lab.Put(t, e, "gate", 1)
	for n := range 20 {
		lab.Put(t, e, fmt.Sprint("normal-", n), 1)
	}
	lab.Put(t, e, "x", 1, syncengine.WithPriority(syncengine.PriorityLow))
	lab.Eventually(t, "the outage is noticed", func() bool { return e.Stats().L3Down })
	l3.Away.Store(false)
	flushed := make(chan struct{})
	go func() {
		defer close(flushed)
		for e.Flush(ctx) != nil { // the outage may be noticed once more
		}
	}()
	<-reached // the drain has read all
	lab.Put(t, e, "x", 2, syncengine.WithPriority(syncengine.PriorityCritical))
	for n := range 20 { // more than a batch
		lab.Put(t, e, fmt.Sprint("critical-", n), 1, syncengine.WithPriority(syncengine.PriorityCritical))
	}
	releaseFirst()
	<-reached
	if rec, err := l3.Get(ctx, "x"); err != nil || !bytes.Equal(rec.Content, lab.Doc("x", 2)) {
		t.Fatalf("L3 holds %.40s, %v; the urgent op should be there", rec.Content, err)
	}
	leavesL1(t, e, "x", func(round int) {
		for n := range 100 {
			id := fmt.Sprint("other-", n)
			lab.Put(t, e, id, round)
			_, _ = e.Get(ctx, id)
			_, _ = e.Get(ctx, id)
		}
	})
	lab.WantContent(t, e, "x", 2)
	releaseSecond()
	<-flushed
	lab.WantContent(t, e, "x", 2)
}

// An op that left quarantine answered reads until L3 refused it, though L3 held a later one.
func TestINV02ARetriedOpIsNotServedOverANewerOne(t *testing.T) {
	ctx := context.Background()
	l3 := &lab.HookedArchive{ArchiveStore: storetest.NewArchive(), OnApply: lab.RefusePoison}
	cfg := syncengine.Config{Dir: t.TempDir(), L3: l3, BatchFlushInterval: time.Hour}
	e := lab.Open(t, cfg)
	lab.Must(t, e.Submit(ctx, syncengine.Item{ID: "x", Content: lab.Poison}))
	if err := e.Flush(ctx); !errors.Is(err, syncengine.ErrRefused) {
		t.Fatal(err)
	}
	lab.Put(t, e, "x", 2)
	lab.Must(t, e.Flush(ctx)) // the refused op is superseded
	lab.Must(t, e.Close())
	e = lab.Open(t, cfg) // with nothing in L1
	if n, err := e.RetryQuarantined(ctx, "x"); err != nil || n != 1 {
		t.Fatalf("RetryQuarantined: %d, %v", n, err)
	}
	lab.WantContent(t, e, "x", 2)
	lab.Must(t, e.Flush(ctx))
	lab.WantContent(t, e, "x", 2)
}

// The index knew one quarantined op per id; discarding that one hid the older ones.
func TestINV02DiscardingAGroupLeavesOlderQuarantinedOpsReadable(t *testing.T) {
	ctx := context.Background()
	e := lab.Open(t, syncengine.Config{L3: &lab.HookedArchive{ArchiveStore: storetest.NewArchive(), OnApply: lab.RefusePoison}})
	flush := func() {
		t.Helper()
		if err := e.Flush(ctx); !errors.Is(err, syncengine.ErrRefused) {
			t.Fatal(err)
		}
	}
	lab.Must(t, e.Submit(ctx, syncengine.Item{ID: "b", Content: lab.Poison}))
	flush()
	_, err := e.SubmitMany(ctx, []syncengine.Item{{ID: "a", Content: lab.Poison}, {ID: "b", Content: lab.Poison}})
	lab.Must(t, err)
	flush()
	if n, err := e.DiscardQuarantined(ctx, "a"); err != nil || n != 2 {
		t.Fatalf("DiscardQuarantined: %d, %v", n, err)
	}
	if ops, err := e.Quarantined(ctx); err != nil || len(ops) != 1 || ops[0].ID != "b" {
		t.Fatalf("quarantine: %+v, %v", ops, err)
	}
	if it, err := e.Get(ctx, "b"); err != nil || !bytes.Equal(it.Content, lab.Poison) {
		t.Errorf("b, in quarantine still: %s, %v", it.Content, err)
	}
	lab.WantContent(t, e, "a", -1)
}

// Healing a corrupt copy in L2 removed it and put back what had been read before, over a
// write that came between.
func TestINV03HealingL2NeverPutsAnOldVersionBack(t *testing.T) {
	ctx := context.Background()
	l3, l2 := storetest.NewArchive(), &lab.HookedCache{CacheStore: storetest.NewCache()}
	cfg := syncengine.Config{L2: l2, L3: l3, L2Timeout: time.Minute}
	e := lab.Open(t, cfg)
	lab.Put(t, e, "x", 1)
	lab.Must(t, e.Flush(ctx))
	lab.Must(t, e.Close())
	var corrupt atomic.Bool
	corrupt.Store(true)
	gate, release := lab.Hold()
	defer release()
	removing := make(chan struct{}, 10)
	l2.OnGet = func(id string) error {
		if corrupt.Swap(false) {
			return &syncengine.CorruptionError{ID: id, Tier: "L2"}
		}
		return nil
	}
	l2.OnRemove = func() {
		removing <- struct{}{}
		<-gate
	}
	e = lab.Open(t, cfg)
	lab.WantContent(t, e, "x", 1) // from L3
	<-removing
	lab.Put(t, e, "x", 2)
	lab.Must(t, e.Flush(ctx))
	release()
	lab.Eventually(t, "the copy is healed", func() bool { return e.Stats().Healed > 0 && e.Stats().L2Missed == 0 })
	if rec, err := l2.Get(ctx, "x"); err == nil && !bytes.Equal(rec.Content, lab.Doc("x", 2)) {
		t.Errorf("L2 holds %.40s, L3 a newer one", rec.Content)
	}
	lab.WantContent(t, lab.Open(t, cfg), "x", 2)
}

// Repair went on sending pages that L2 could not take in time, for ever.
func TestRepairOfL2ShrinksItsPagesUntilTheyPass(t *testing.T) {
	ctx := context.Background()
	l2 := &lab.HookedCache{CacheStore: storetest.NewCache(), OnPut: func(_ context.Context, recs []syncengine.Record) error {
		if len(recs) > 280 {
			return lab.ErrAway
		}
		return nil
	}}
	e := lab.Open(t, syncengine.Config{L2: l2, L3: storetest.NewArchive()})
	items := make([]syncengine.Item, 300)
	for n := range items {
		items[n] = syncengine.Item{ID: fmt.Sprint(n), Content: lab.Doc("x", n)}
	}
	_, err := e.SubmitMany(ctx, items)
	lab.Must(t, err)
	lab.Must(t, e.Flush(ctx))
	if n := e.Stats().L2Missed; n != 300 {
		t.Fatalf("L2 missed %d writes, want the 300 of the group", n)
	}
	lab.Eventually(t, "L2 is repaired", func() bool { return e.Stats().L2Missed == 0 })
	found, err := l2.GetMany(ctx, []string{"0", "299"})
	if err != nil || !found[0].OK || !found[1].OK {
		t.Errorf("after the repair: %+v, %v", found, err)
	}
}

// The second mention of an id past its age was neither asked for nor answered from L1.
func TestINV08GetManyAnswersAnAgedIDEachTimeItIsNamed(t *testing.T) {
	ctx := context.Background()
	var down atomic.Bool
	var refused atomic.Int64
	l3 := &lab.HookedArchive{ArchiveStore: storetest.NewArchive(), OnGet: func() error {
		if down.Load() {
			refused.Add(1)
			return lab.ErrAway
		}
		return nil
	}}
	e := lab.Open(t, syncengine.Config{L3: l3, L1MaxAge: time.Millisecond})
	lab.Put(t, e, "a", 1)
	lab.Put(t, e, "gone", 1)
	lab.Must(t, e.Delete(ctx, "gone"))
	lab.Must(t, e.Flush(ctx))
	down.Store(true)
	lab.Eventually(t, "the copies are past their age", func() bool {
		lab.WantContent(t, e, "a", 1)
		return refused.Load() > 0
	})
	got, err := e.GetMany(ctx, []string{"a", "gone", "a"})
	lab.Must(t, err)
	for _, i := range []int{0, 2} {
		if got[i] == nil || !bytes.Equal(got[i].Content, lab.Doc("a", 1)) {
			t.Errorf("place %d: %+v", i, got[i])
		}
	}
	if got[1] != nil {
		t.Errorf("a deleted id: %+v", got[1])
	}
}

// A refused op was quarantined again each time the rest of its batch met an outage.
func TestINV09ARefusedOpIsQuarantinedOnceThoughItsBatchIsRepeated(t *testing.T) {
	ctx := context.Background()
	var outages atomic.Int32
	outages.Store(3)
	l3 := &lab.HookedArchive{ArchiveStore: storetest.NewArchive(), OnApply: func(_ context.Context, recs []syncengine.Record) error {
		for _, r := range recs {
			if r.ID == "a-bad" {
				return &syncengine.RefusedError{Err: errors.New("not this one")}
			}
		}
		if recs[0].ID == "z-good" && outages.Add(-1) >= 0 {
			return fmt.Errorf("gone: %w", context.Canceled) // an outage that is not tried again at once
		}
		return nil
	}}
	e := lab.Open(t, syncengine.Config{L3: l3, BatchFlushInterval: time.Hour})
	lab.Put(t, e, "a-bad", 1)
	lab.Put(t, e, "z-good", 1)
	lab.Eventually(t, "Flush ends with the refusal", func() bool { return errors.Is(e.Flush(ctx), syncengine.ErrRefused) })
	if ops, err := e.Quarantined(ctx); err != nil || len(ops) != 1 || outages.Load() > 0 {
		t.Errorf("quarantine: %d rows, %v; %d outages left", len(ops), err, outages.Load())
	}
	// Refused again after a retry, it is still there, once.
	if n, err := e.RetryQuarantined(ctx); err != nil || n != 1 {
		t.Fatalf("RetryQuarantined: %d, %v", n, err)
	}
	if err := e.Flush(ctx); err != nil && !errors.Is(err, syncengine.ErrRefused) {
		t.Fatal(err)
	}
	if ops, err := e.Quarantined(ctx); err != nil || len(ops) != 1 || ops[0].Attempts != 2 {
		t.Errorf("after the retry: %+v, %v", ops, err)
	}
}

// A refusal that came after the Flush had left, since L3 was away, was told to nobody.
func TestINV09ARefusalIsToldToTheNextFlushWhenTheFirstMetAnOutage(t *testing.T) {
	ctx := context.Background()
	var away atomic.Bool
	away.Store(true)
	l3 := &lab.HookedArchive{ArchiveStore: storetest.NewArchive(), OnApply: func(_ context.Context, recs []syncengine.Record) error {
		switch {
		case recs[0].ID == "bad":
			return &syncengine.RefusedError{Err: errors.New("not this one")}
		case away.Load():
			return lab.ErrAway
		}
		return nil
	}}
	e := lab.Open(t, syncengine.Config{L3: l3, BatchFlushInterval: time.Millisecond})
	_, err := e.SubmitMany(ctx, []syncengine.Item{{ID: "bad", Content: lab.Doc("bad", 1)}, {ID: "bad-too", Content: lab.Doc("bad-too", 1)}})
	lab.Must(t, err)
	lab.Put(t, e, "good", 1)
	if err := e.Flush(ctx); !errors.Is(err, syncengine.ErrUnavailable) {
		t.Fatalf("Flush in the outage: %v", err)
	}
	away.Store(false)
	lab.Eventually(t, "all has landed while no Flush waits", func() bool { return e.Stats().PendingOps == 0 })
	if err := e.Flush(ctx); !errors.Is(err, syncengine.ErrRefused) {
		t.Errorf("the next Flush: %v, want ErrRefused", err)
	}
	if err := e.Flush(ctx); !errors.Is(err, syncengine.ErrRefused) {
		t.Errorf("Flush while an op is in quarantine: %v, want ErrRefused", err)
	}
}

// TestADiscardedOpThatTheWALStillHeldAnswersNoRead: it was still in the index of spooled ops, so
// reads answered with it, and once its segment was trimmed they looked for it for ever.
func TestADiscardedOpThatTheWALStillHeldAnswersNoRead(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	var down atomic.Bool
	l3 := &lab.HookedArchive{ArchiveStore: storetest.NewArchive(), OnApply: func(ctx context.Context, recs []syncengine.Record) error {
		if err := lab.RefusePoison(ctx, recs); err != nil {
			return err
		}
		return lab.ErrAway
	}, OnPrepare: func(context.Context) error {
		if down.Load() {
			return lab.ErrAway
		}
		return nil
	}}
	dir := t.TempDir()
	cfg := syncengine.Config{Dir: dir, L3: l3, BatchFlushInterval: time.Hour}
	e := lab.Open(t, cfg)
	lab.Put(t, e, "good", 1) // its segment is the first one, and stays
	lab.Must(t, e.Submit(ctx, syncengine.Item{ID: "x", Content: lab.Poison}, syncengine.WithPriority(syncengine.PriorityCritical)))
	_ = e.Flush(ctx)
	if ops, err := e.Quarantined(ctx); err != nil || len(ops) != 1 {
		t.Fatalf("quarantine: %+v, %v", ops, err)
	}
	over, cancel := context.WithCancel(ctx)
	cancel()
	_ = e.Shutdown(over)
	down.Store(true)
	e = lab.Open(t, cfg)
	if n, err := e.DiscardQuarantined(ctx); err != nil || n != 1 {
		t.Fatalf("DiscardQuarantined: %d, %v", n, err)
	}
	if it, err := e.Get(ctx, "x"); err == nil {
		t.Errorf("Get answers with what was discarded: %s", it.Content)
	}
	l3.OnApply = nil // nobody calls it while L3 is not prepared
	down.Store(false)
	lab.Must(t, e.Flush(ctx))
	soon, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if _, err := e.Get(soon, "x"); !errors.Is(err, syncengine.ErrNotFound) {
		t.Errorf("Get of what was discarded: %v", err)
	}
}
