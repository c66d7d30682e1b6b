package syncengine_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/sqlkit"
	"github.com/syncengine-go/syncengine/internal/storetest"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

// elsewhere names the test in which a field changes behaviour.
func elsewhere(string) func(*testing.T) { return func(*testing.T) {} }

// fieldTests has one entry per field of Config (TRAPS 30: fields nobody reads).
var fieldTests = map[string]func(t *testing.T){
	"Dir":      elsewhere("TestEmbeddedDefaultSurvivesReopenAndDeletesStayDeleted"),
	"SQLURL":   elsewhere("TestThreeTiersEndToEnd"),
	"RedisURL": elsewhere("TestThreeTiersEndToEnd"),
	"DB":       elsewhere("TestACallersOwnHandlesWorkAndStayOpen"),
	"Dialect":  elsewhere("TestACallersOwnHandlesWorkAndStayOpen"),
	"Redis":    elsewhere("TestACallersOwnHandlesWorkAndStayOpen"),
	"L2":       elsewhere("TestINV04AnOldPutInAWALDoesNotUndoAnothersDelete"),
	"L3":       elsewhere("TestINV04AnOldPutInAWALDoesNotUndoAnothersDelete"),
	"KeyPrefix": func(t *testing.T) {
		redis := testserver.Redis(t)
		e := lab.Open(t, syncengine.Config{RedisURL: redis.URL(), KeyPrefix: "mine/"})
		lab.Put(t, e, "a", 1)
		lab.Must(t, e.Flush(context.Background()))
		if n := redis.Do(t, "EXISTS", "mine/a"); n != "1" {
			t.Errorf("EXISTS mine/a = %s", n)
		}
	},
	"TablePrefix": elsewhere("TestNamespacesInOneDatabaseKnowNothingOfEachOther"),
	"InstanceID": func(t *testing.T) {
		var out bytes.Buffer
		e := lab.Open(t, syncengine.Config{InstanceID: "engine-seven", Logger: slog.New(slog.NewTextHandler(&out, nil))})
		lab.Must(t, e.Close())
		if !strings.Contains(out.String(), "instance=engine-seven") {
			t.Errorf("log: %s", out.String())
		}
	},
	"Logger": elsewhere("InstanceID"),
	"L1MaxBytes": func(t *testing.T) {
		e := lab.Open(t, syncengine.Config{L1MaxBytes: 64 << 10})
		for n := range 500 {
			lab.Put(t, e, fmt.Sprint("id-", n), n)
		}
		lab.Must(t, e.Flush(context.Background()))
		if s := e.Stats(); s.L1Bytes > 64<<10 || s.Evictions == 0 || e.Len() >= 500 {
			t.Errorf("%d bytes, %d evictions, %d items", s.L1Bytes, s.Evictions, e.Len())
		}
	},
	"MaxItemBytes": func(t *testing.T) {
		e := lab.Open(t, syncengine.Config{MaxItemBytes: 10})
		var ie *syncengine.InvalidItemError
		err := e.Submit(context.Background(), syncengine.Item{ID: "a", Content: []byte(`"123456789"`)})
		if !errors.As(err, &ie) || !ie.TooLarge {
			t.Errorf("11 bytes: %v", err)
		}
		lab.Must(t, e.Submit(context.Background(), syncengine.Item{ID: "a", Content: []byte(`"12345678"`)}))
	},
	"GroupMaxItems":  elsewhere("TestAGroupTooLargeToLandIsRefusedAndHurtsNobody"),
	"GroupMaxBytes":  elsewhere("TestAGroupTooLargeToLandIsRefusedAndHurtsNobody"),
	"MaxClockSkew":   elsewhere("TestINV02AWriteIsAboveASpooledOpNumberedFarAhead"),
	"FactoryTimeout": elsewhere("TestAFactoryThatNeverReturnsIsLeftBehind"),
	"DefaultTTL":     elsewhere("TestDefaultTTLIsOfPutsWithoutATimeOfTheirOwn"),
	"Durability": func(t *testing.T) {
		e := lab.Open(t, syncengine.Config{Durability: syncengine.Buffered, BatchFlushInterval: time.Hour})
		lab.Put(t, e, "a", 1)
		if n := e.Stats().WALItems; n != 0 {
			t.Errorf("%d ops in the WAL", n)
		}
	},
	"BatchFlushInterval": func(t *testing.T) {
		flushes(t, syncengine.Config{BatchFlushInterval: time.Millisecond}, 1, true)
		flushes(t, syncengine.Config{BatchFlushInterval: time.Hour}, 1, false)
	},
	"BatchFlushCount": func(t *testing.T) {
		flushes(t, syncengine.Config{BatchFlushInterval: time.Hour, BatchFlushCount: 5}, 5, true)
		flushes(t, syncengine.Config{BatchFlushInterval: time.Hour, BatchFlushCount: 6}, 5, false)
	},
	"BatchFlushBytes": func(t *testing.T) {
		flushes(t, syncengine.Config{BatchFlushInterval: time.Hour, BatchFlushBytes: 1000}, 5, true)
		flushes(t, syncengine.Config{BatchFlushInterval: time.Hour, BatchFlushBytes: 100_000}, 5, false)
	},
	"FlushConcurrency": func(t *testing.T) {
		for _, conc := range []int{1, 3} {
			l3 := &lab.SlowArchive{ArchiveStore: storetest.NewArchive(), Entered: make(chan struct{}, 100), Release: make(chan struct{})}
			e := lab.Open(t, syncengine.Config{L3: l3, FlushConcurrency: conc, BatchFlushCount: 1})
			for n := range 10 {
				lab.Put(t, e, fmt.Sprint("id-", n), n)
			}
			for range conc {
				<-l3.Entered
			}
			close(l3.Release)
			lab.Must(t, e.Flush(context.Background()))
			if int(l3.Most.Load()) != conc {
				t.Errorf("FlushConcurrency %d: %d batches at once", conc, l3.Most.Load())
			}
		}
	},
	"BackpressureWarn":      levelAt(syncengine.LevelWarn, 150),
	"BackpressureThrottle":  levelAt(syncengine.LevelThrottle, 250),
	"BackpressureCritical":  levelAt(syncengine.LevelCritical, 301),
	"BackpressureEmergency": levelAt(syncengine.LevelEmergency, 301),
	"BackpressureShutdown":  levelAt(syncengine.LevelShutdown, 301),
	"WALPath": func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "log.db")
		lab.Open(t, syncengine.Config{WALPath: path})
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
	},
	"WALMaxItems": elsewhere("TestFullWALRefusesBeforeAnythingChangesAndRecovers"),
	"WALMaxBytes": func(t *testing.T) {
		e := lab.Open(t, syncengine.Config{L3: lab.AwayArchive(), WALMaxBytes: 10_000, BatchFlushBytes: 10_000})
		for n := 0; ; n++ {
			err := e.Submit(context.Background(), syncengine.Item{ID: fmt.Sprint("id-", n), Content: lab.Doc("x", n)})
			if errors.Is(err, syncengine.ErrBackpressure) {
				break
			}
			lab.Must(t, err)
			if n > 100 {
				t.Fatal("100 documents of 300 bytes fit into 10,000 bytes")
			}
		}
	},
	"WALNoSync": elsewhere("oplog: TestNoSyncIsTheOnlyWayToSkipTheFsync"),
	"L2Timeout": func(t *testing.T) {
		l2 := &deadlineCache{CacheStore: storetest.NewCache()}
		e := lab.Open(t, syncengine.Config{L2: l2, L3: storetest.NewArchive(), L2Timeout: 70 * time.Millisecond}) // an L3 that trusts no filter
		lab.WantContent(t, e, "absent", -1)
		if d := time.Duration(l2.within.Load()); d <= 0 || d > 70*time.Millisecond {
			t.Errorf("an L2 call had %v", d)
		}
	},
	"L3Timeout": func(t *testing.T) {
		l3 := &lab.SlowArchive{ArchiveStore: storetest.NewArchive(), Entered: make(chan struct{}, 10), Release: make(chan struct{})}
		e := lab.Open(t, syncengine.Config{L3: l3, L3Timeout: 50 * time.Millisecond})
		lab.Put(t, e, "a", 1)
		if err := e.Flush(context.Background()); !errors.Is(err, syncengine.ErrUnavailable) { // Apply hangs until its context ends
			t.Errorf("Flush to a store that hangs: %v", err)
		}
		close(l3.Release)
	},
	"L2Breaker": func(t *testing.T) {
		for preset, failures := range map[syncengine.BreakerPreset]int{syncengine.BreakerDefault: 5, syncengine.BreakerAggressive: 3, syncengine.BreakerLenient: 10} {
			l2 := &awayCache{CacheStore: storetest.NewCache()}
			e := lab.Open(t, syncengine.Config{L2: l2, L3: storetest.NewArchive(), L2Breaker: preset}) // an L3 that trusts no filter
			for range 20 {
				lab.WantContent(t, e, "absent", -1)
			}
			if n := int(l2.asked.Load()); n != failures && n != failures+1 { // the verification's question may be under way
				t.Errorf("preset %d: a dead L2 was asked %d times, want %d", preset, n, failures)
			}
		}
	},
	"L3Breaker": func(t *testing.T) {
		for preset, failures := range map[syncengine.BreakerPreset]int{syncengine.BreakerDefault: 5, syncengine.BreakerAggressive: 3, syncengine.BreakerLenient: 10} {
			asked := 0
			l3 := &lab.HookedArchive{ArchiveStore: storetest.NewArchive(), OnGet: func() error { asked++; return lab.ErrAway }}
			e := lab.Open(t, syncengine.Config{L3: l3, L3Breaker: preset})
			for range 20 {
				if _, err := e.Get(context.Background(), "a"); !errors.Is(err, syncengine.ErrUnavailable) {
					t.Fatal(err)
				}
			}
			if asked < failures || asked > failures+2 { // a probe in the background may close it once
				t.Errorf("preset %d: a dead L3 was asked %d times, want %d", preset, asked, failures)
			}
		}
	},
	"CloseTimeout": func(t *testing.T) {
		l3 := &lab.SlowArchive{ArchiveStore: storetest.NewArchive(), Entered: make(chan struct{}, 10), Release: make(chan struct{})}
		e := lab.Open(t, syncengine.Config{L3: l3, L3Timeout: time.Hour, CloseTimeout: 50 * time.Millisecond})
		lab.Put(t, e, "a", 1)
		if err := e.Close(); !errors.Is(err, syncengine.ErrPending) {
			t.Errorf("Close with a store that hangs: %v", err)
		}
	},
	"ChangeRetention": elsewhere("TestAWatchThatCantGoOnSaysSo"),
	"NoPush":          elsewhere("TestNoPushIsSilent"),
	"LockWait": func(t *testing.T) {
		cfg := syncengine.Config{Dir: t.TempDir(), LockWait: 200 * time.Millisecond}
		e := lab.Open(t, cfg)
		if _, err := syncengine.Open(context.Background(), cfg); !errors.Is(err, syncengine.ErrLocked) {
			t.Errorf("the one before stays: %v", err)
		}
		cfg.LockWait = time.Hour
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		defer cancel()
		if _, err := syncengine.Open(ctx, cfg); !errors.Is(err, syncengine.ErrLocked) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the context ends first: %v", err)
		}
		opened := make(chan error)
		go func() {
			next, err := syncengine.Open(context.Background(), cfg)
			if err == nil {
				err = next.Close()
			}
			opened <- err
		}()
		select {
		case err := <-opened:
			t.Fatalf("Open beside another engine: %v", err)
		case <-time.After(100 * time.Millisecond):
		}
		lab.Must(t, e.Close())
		lab.NoError(t, "Open after the one before has closed", <-opened)
	},
	"TombstoneRetention": elsewhere("TestTombstonesArePurgedAfterTheirRetention"),
	"L1MaxAge":           elsewhere("TestINV15L1MaxAgeBoundsHowLongAnotherEnginesWriteIsUnseen"),
	"AbsentFor":          elsewhere("TestINV15AbsentForBoundsHowLongAnInsertIsUnseen"),
	"StaleFor":           elsewhere("TestStaleForBoundsWhatIsServedWhileSQLIsAway"),
	"PriorityFunc": func(t *testing.T) {
		asked := make(chan syncengine.AccessStats, 10)
		e := lab.Open(t, syncengine.Config{PriorityFunc: func(s syncengine.AccessStats) syncengine.Priority {
			asked <- s
			if s.ID == "panics" {
				panic("ouch")
			}
			return syncengine.PriorityCritical
		}})
		lab.Put(t, e, "a", 1)
		lab.WantContent(t, e, "a", 1)
		lab.Put(t, e, "a", 2)
		if s := <-asked; s.ID != "a" || s.Accesses != 1 {
			t.Errorf("asked about %+v", s)
		}
		if it, err := e.Get(context.Background(), "a"); err != nil || it.Priority != syncengine.PriorityCritical {
			t.Errorf("priority %v, %v", it.Priority, err)
		}
		lab.Put(t, e, "panics", 1)
		lab.Put(t, e, "panics", 2)
	},
	"Registerer":       elsewhere("TestMetricsAreRegisteredAndUnregistered"),
	"OnEvent":          elsewhere("TestLifecycle"),
	"Compression":      testCompression,
	"CompressionLevel": testCompressionLevel,
	"FilterWarmupBatch": func(t *testing.T) {
		url := "sqlite:" + t.TempDir() + "/l3.db"
		e := lab.Open(t, syncengine.Config{SQLURL: url})
		for n := range 100 {
			lab.Put(t, e, fmt.Sprint("id-", n), n, syncengine.WithDurability(syncengine.Buffered))
		}
		lab.Must(t, e.Close())
		for batch, pages := range map[int]int{1000: 2, 10: 11} { // the last page is empty
			reg := prometheus.NewRegistry()
			e := lab.Open(t, syncengine.Config{SQLURL: url, FilterWarmupBatch: batch, Registerer: reg})
			lab.Trusted(t, e)
			if n := lab.CallsOf(t, reg, "warmup"); n != pages {
				t.Errorf("batches of %d: %d pages, want %d", batch, n, pages)
			}
			lab.Must(t, e.Close()) // two engines would trust nothing
		}
	},
	"FilterSnapshotInterval": func(t *testing.T) {
		snapshots(t, syncengine.Config{FilterSnapshotInterval: time.Millisecond}, true)
		snapshots(t, syncengine.Config{FilterSnapshotInterval: time.Hour}, false)
	},
	"FilterSnapshotInserts": func(t *testing.T) {
		snapshots(t, syncengine.Config{FilterSnapshotInterval: time.Hour, FilterSnapshotInserts: 10}, true)
		snapshots(t, syncengine.Config{FilterSnapshotInterval: time.Hour, FilterSnapshotInserts: 11}, false)
	},
	"VerifyInterval": func(t *testing.T) {
		redis := testserver.Redis(t)
		found := make(chan int, 1000)
		dir := t.TempDir()
		e := lab.Open(t, syncengine.Config{RedisURL: redis.URL(), VerifyInterval: 10 * time.Millisecond, Dir: dir,
			OnEvent: syncengine.Events{Verified: func(r syncengine.VerifyReport) { found <- len(r.Divergent) }}})
		lab.Put(t, e, "a", 1)
		lab.Must(t, e.Flush(context.Background()))
		redis.Do(t, "DEL", "sync:a")
		lab.Eventually(t, "the lost copy is found", func() bool { return <-found == 1 })
		lab.Eventually(t, "the lost copy is back", func() bool { return redis.Do(t, "EXISTS", "sync:a") == "1" })
		lab.Must(t, e.Close())
		redis.Do(t, "DEL", "sync:a")
		e = lab.Open(t, syncengine.Config{RedisURL: redis.URL(), VerifyInterval: -1, Dir: dir})
		time.Sleep(100 * time.Millisecond) // a comparison takes 2 ms, and would begin at once
		if r, err := e.Verify(context.Background(), syncengine.VerifyOptions{}); err != nil || len(r.Divergent) != 1 {
			t.Errorf("%+v, %v", r, err)
		}
	},
	"RetentionFullDays":    elsewhere("TestCompactionKeepsWhatItMust"),
	"RetentionCompactDays": elsewhere("TestCompactionKeepsWhatItMust"),
	"CompactionInterval":   elsewhere("TestCompactionGoesOnInTheBackground"),
}

func TestEveryConfigFieldChangesBehaviour(t *testing.T) {
	t.Parallel()
	for _, f := range reflect.VisibleFields(reflect.TypeFor[syncengine.Config]()) {
		test, ok := fieldTests[f.Name]
		if !ok {
			t.Errorf("Config.%s has no test in which it changes behaviour", f.Name)
			continue
		}
		t.Run(f.Name, test)
	}
}

// flushes submits n ops and checks whether they reach L3 without being asked to.
func flushes(t *testing.T, cfg syncengine.Config, n int, want bool) {
	t.Helper()
	e := lab.Open(t, cfg)
	for i := range n {
		lab.Put(t, e, fmt.Sprint("id-", i), i)
	}
	if want {
		lab.Eventually(t, "a batch is flushed", func() bool { return e.Stats().PendingOps < n })
	} else if p := e.Stats().PendingOps; p != n {
		t.Errorf("%d of %d ops are pending, want all", p, n)
	}
}

// snapshots writes 10 ids and checks whether a snapshot of the filter is saved meanwhile.
func snapshots(t *testing.T, cfg syncengine.Config, want bool) {
	t.Helper()
	cfg.Dir = t.TempDir()
	e := lab.Open(t, cfg)
	lab.Trusted(t, e)
	for n := range 10 {
		lab.Put(t, e, fmt.Sprint("id-", n), n)
	}
	lab.Must(t, e.Flush(context.Background()))
	db, err := sqlkit.OpenSQLite(cfg.Dir+"/wal.db", "")
	lab.Must(t, err)
	defer db.Close()
	saved := func() bool {
		var n int
		return db.QueryRow("SELECT COUNT(*) FROM blobs WHERE done").Scan(&n) == nil && n > 0
	}
	if want {
		lab.Eventually(t, "a snapshot is saved", saved)
		return
	}
	lab.Must(t, syncengine.RebuildFilter(context.Background(), e)) // some turns of the loop have passed by then
	if saved() {
		t.Errorf("%+v: a snapshot is saved already", cfg)
	}
}

// levelAt checks that a level begins where its threshold says: the WAL of 1000 ops holds
// ops ones, and thresholds are .1 .2 .3, with those above .3 pulled down to reach them.
func levelAt(level syncengine.BackpressureLevel, ops int) func(*testing.T) {
	return func(t *testing.T) {
		cfg := syncengine.Config{L3: lab.AwayArchive(), WALMaxItems: 1000, BackpressureWarn: .1, BackpressureThrottle: .2, BackpressureCritical: .3,
			BackpressureEmergency: .8, BackpressureShutdown: .9}
		switch level {
		case syncengine.LevelEmergency:
			cfg.BackpressureCritical, cfg.BackpressureEmergency = .29, .3
		case syncengine.LevelShutdown:
			cfg.BackpressureCritical, cfg.BackpressureEmergency, cfg.BackpressureShutdown = .28, .29, .3
		}
		e := lab.Open(t, cfg)
		items := make([]syncengine.Item, ops)
		for i := range items {
			items[i] = syncengine.Item{ID: fmt.Sprint("id-", i), Content: []byte("1")}
		}
		_, err := e.SubmitMany(context.Background(), items) // at once: the level is not reached before
		lab.Must(t, err)
		if got := e.Backpressure(); got != level {
			t.Fatalf("level %v, want %v", got, level)
		}
		err = e.Submit(context.Background(), syncengine.Item{ID: "more", Content: []byte("1")})
		if got := !errors.Is(err, syncengine.ErrBackpressure); got != level.AcceptsWrites() {
			t.Errorf("a write at %v: %v", level, err)
		}
		_, err = e.Get(context.Background(), "absent")
		if got := !errors.Is(err, syncengine.ErrBackpressure); got != level.AcceptsReads() {
			t.Errorf("a read at %v: %v", level, err)
		}
	}
}

// awayCache is an L2 that is away.
type awayCache struct {
	syncengine.CacheStore
	asked atomic.Int32
}

func (c *awayCache) Get(context.Context, string) (syncengine.Record, error) {
	c.asked.Add(1)
	return syncengine.Record{}, syncengine.ErrUnavailable
}

func (c *awayCache) Ping(context.Context) error { return syncengine.ErrUnavailable }

func (c *awayCache) Scan(context.Context, func([]string) error) error {
	c.asked.Add(1) // the verification after Open
	return syncengine.ErrUnavailable
}

// deadlineCache notes how much time its calls have.
type deadlineCache struct {
	syncengine.CacheStore
	within atomic.Int64
}

func (c *deadlineCache) Get(ctx context.Context, id string) (syncengine.Record, error) {
	if at, ok := ctx.Deadline(); ok {
		c.within.Store(int64(time.Until(at)))
	}
	return c.CacheStore.Get(ctx, id)
}
