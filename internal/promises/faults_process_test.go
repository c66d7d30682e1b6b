package promises

// faults_process_test.go is about the engine's own process: every public call during Close and
// after it, what a hundred engines leave behind, and panics in functions of the user.

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"reflect"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/storetest"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

// publicCalls are all calls that may wait for something, by the name of their method. Each asks
// for an id that nobody knows, or writes at Archived: it needs a server.
func publicCalls(e *syncengine.Engine) map[string]func(ctx context.Context) error {
	archived := syncengine.WithDurability(syncengine.Archived)
	item := syncengine.Item{ID: "new", Content: []byte("1")}
	calls := map[string]func(ctx context.Context) error{
		"Submit": func(ctx context.Context) error { return e.Submit(ctx, item, archived) },
		"SubmitMany": func(ctx context.Context) error {
			_, err := e.SubmitMany(ctx, []syncengine.Item{item}, archived)
			return err
		},
		"Insert": func(ctx context.Context) error {
			return e.Insert(ctx, syncengine.Item{ID: "inserted", Content: item.Content})
		},
		"Update": func(ctx context.Context) error {
			_, err := e.Update(ctx, "new", func(syncengine.Item, bool) (syncengine.Item, error) { return item, nil })
			return err
		},
		"Touch":       func(ctx context.Context) error { return e.Touch(ctx, "unknown-9", time.Hour) },
		"Delete":      func(ctx context.Context) error { return e.Delete(ctx, "new", archived) },
		"DeleteMany":  func(ctx context.Context) error { _, err := e.DeleteMany(ctx, []string{"new"}, archived); return err },
		"Get":         func(ctx context.Context) error { _, err := e.Get(ctx, "unknown-1"); return err },
		"GetVerified": func(ctx context.Context) error { _, err := e.GetVerified(ctx, "unknown-2"); return err },
		"GetMany":     func(ctx context.Context) error { _, err := e.GetMany(ctx, []string{"unknown-3"}); return err },
		"GetOrInsertWith": func(ctx context.Context) error {
			_, err := e.GetOrInsertWith(ctx, "unknown-4", func(context.Context) (syncengine.Item, error) { return item, errors.New("no item") })
			return err
		},
		"Watch": func(ctx context.Context) (err error) {
			for _, err = range e.Watch(ctx, "unknown-8") {
			}
			return err
		},
		"WatchFrom": func(ctx context.Context) (err error) {
			token, err := e.WatchToken(ctx)
			if err != nil {
				return err
			}
			for _, err = range e.WatchFrom(ctx, "unknown-8", token) {
			}
			return err
		},
		"WatchToken": func(ctx context.Context) error {
			_, err := e.WatchToken(ctx)
			return err
		},
		"All": func(ctx context.Context) (err error) {
			for _, err = range e.All(ctx, "unknown-7") {
			}
			return err
		},
		"AllAfter": func(ctx context.Context) (err error) {
			for _, err = range e.AllAfter(ctx, "unknown-7", "unknown-70") {
			}
			return err
		},
		"DeletePrefix": func(ctx context.Context) error { _, err := e.DeletePrefix(ctx, "unknown-8"); return err },
		"SubmitEach": func(ctx context.Context) error {
			_, err := e.SubmitEach(ctx, slices.Values([]syncengine.Item{item}), syncengine.EachOptions{}, archived)
			return err
		},
		"Explain": func(ctx context.Context) error { _, err := e.Explain(ctx, "unknown-8"); return err },
		"Status":  func(ctx context.Context) error { _, err := e.Status(ctx, "unknown-5"); return err },
		"Flush":   e.Flush,
		"Verify": func(ctx context.Context) error {
			_, err := e.Verify(ctx, syncengine.VerifyOptions{Repair: true})
			return err
		},
		"MerkleRoot":         func(ctx context.Context) error { _, err := e.MerkleRoot(ctx); return err },
		"Quarantined":        func(ctx context.Context) error { _, err := e.Quarantined(ctx); return err },
		"RetryQuarantined":   func(ctx context.Context) error { _, err := e.RetryQuarantined(ctx); return err },
		"DiscardQuarantined": func(ctx context.Context) error { _, err := e.DiscardQuarantined(ctx, "none"); return err },
		"Health": func(ctx context.Context) error {
			h := e.Health(ctx)
			switch {
			case !h.Live || !h.L3.Configured: // closed or closing: nobody was asked
				return syncengine.ErrClosed
			case !h.L2.OK || !h.L3.OK:
				return fmt.Errorf("%w: %s, %s", syncengine.ErrUnavailable, h.L2.Error, h.L3.Error)
			}
			return nil
		},
		"Shutdown": e.Shutdown,
	}
	maps.Copy(calls, mergeCalls(e))
	return calls
}

// TestEveryPublicCallIsInTheTable: a method that takes a context and is not in publicCalls
// would be tested nowhere here.
func TestEveryPublicCallIsInTheTable(t *testing.T) {
	calls := publicCalls(nil)
	for m := range reflect.TypeFor[*syncengine.Engine]().Methods() {
		waits := m.Type.NumIn() > 1 && m.Type.In(1) == reflect.TypeFor[context.Context]()
		if _, ok := calls[m.Name]; ok != waits && !slices.Contains(callsOfTags, m.Name) {
			t.Errorf("%s takes a context: %v; is in publicCalls: %v", m.Name, waits, ok)
		}
	}
}

func TestUseAfterCloseIsErrClosedAndCloseMayBeRepeated(t *testing.T) {
	ctx := context.Background()
	e := lab.Open(t, syncengine.Config{RedisURL: testserver.SharedRedis(t).URL(), KeyPrefix: lab.NewPrefix()})
	lab.Put(t, e, "a", 1)
	lab.Must(t, e.Close())
	for name, call := range publicCalls(e) {
		returns(t, name+" after Close", func() {
			if err := call(ctx); name == "Shutdown" && err != nil || name != "Shutdown" && !errors.Is(err, syncengine.ErrClosed) {
				t.Errorf("%s after Close: %v", name, err)
			}
		})
	}
	for _, d := range []syncengine.Durability{syncengine.Buffered, syncengine.Logged} {
		err := e.Submit(ctx, syncengine.Item{ID: "a", Content: []byte("2")}, syncengine.WithDurability(d))
		if _, many := e.SubmitMany(ctx, []syncengine.Item{{ID: "a", Content: []byte("2")}}, syncengine.WithDurability(d)); !errors.Is(err, syncengine.ErrClosed) || !errors.Is(many, syncengine.ErrClosed) {
			t.Errorf("%v after Close: %v, %v", d, err, many)
		}
	}
	if _, err := e.Get(ctx, "a"); !errors.Is(err, syncengine.ErrClosed) { // though it is in memory
		t.Errorf("Get: %v", err)
	}
	lab.Must(t, e.Close())
	if h := e.Health(ctx); h.Live || h.Ready || e.State() != syncengine.StateClosed || e.Stats().State != syncengine.StateClosed {
		t.Errorf("Health: %+v, state %v", h, e.State())
	}
	_, _, _, _, _ = e.Contains("a"), e.Len(), e.IsEmpty(), e.Backpressure(), e.MemoryPressure() // answer, whatever it is
}

// TestCloseDuringEveryCallFailsNoneOfThem: a call ends as if there were no Close, or does not
// begin. Several callers close at once.
func TestCloseDuringEveryCallFailsNoneOfThem(t *testing.T) {
	ctx := context.Background()
	for range 5 {
		e := lab.Open(t, syncengine.Config{SQLURL: testserver.SharedMariaDB(t).NewDatabase(t), RedisURL: testserver.SharedRedis(t).URL(), KeyPrefix: lab.NewPrefix()})
		var wg sync.WaitGroup
		var calls atomic.Int64
		for name, call := range publicCalls(e) {
			if name == "Shutdown" {
				continue
			}
			wg.Go(func() {
				for n := 0; ; n++ {
					err := call(ctx)
					calls.Add(1)
					switch {
					case errors.Is(err, syncengine.ErrClosed):
						return
					case err != nil && !errors.Is(err, syncengine.ErrNotFound) && err.Error() != "no item":
						t.Errorf("%s during Close: %v", name, err)
						return
					}
				}
			})
		}
		lab.Eventually(t, "all are at it", func() bool { return calls.Load() > 200 })
		for range 3 {
			wg.Go(func() { lab.Must(t, e.Close()) })
		}
		returns(t, "calls and Close", wg.Wait)
	}
}

// inUse is how many goroutines and descriptors this process has.
func inUse(t testing.TB) (goroutines, descriptors int) {
	t.Helper()
	if files, err := os.ReadDir("/proc/self/fd"); err == nil {
		descriptors = len(files)
	} else if runtime.GOOS == "linux" {
		t.Fatal(err)
	}
	return runtime.NumGoroutine(), descriptors
}

// TestOpenAndClose100TimesLeavesNothingBehind counts goroutines and descriptors, also after
// Opens that fail, each at another step.
func TestOpenAndClose100TimesLeavesNothingBehind(t *testing.T) {
	ctx := context.Background()
	dbURL := testserver.SharedMariaDB(t).NewDatabase(t)
	cfg := syncengine.Config{Dir: t.TempDir(), SQLURL: dbURL, RedisURL: testserver.SharedRedis(t).URL(), KeyPrefix: lab.NewPrefix()}
	wrongPassword, wrongDatabase := cfg, cfg
	wrongPassword.SQLURL = strings.Replace(dbURL, "sync:", "sync:not", 1)
	wrongDatabase.SQLURL = dbURL + "_missing"
	gone, cancel := context.WithCancel(ctx)
	cancel()
	round := func(n int) {
		e, err := syncengine.Open(ctx, cfg)
		lab.Must(t, err)
		lab.Put(t, e, "a", n)
		lab.WantContent(t, e, "a", n)
		_, _ = e.Get(ctx, fmt.Sprint("unknown-", n))
		if n%10 == 0 {
			if _, err := syncengine.Open(ctx, cfg); !errors.Is(err, syncengine.ErrLocked) {
				t.Errorf("a second engine on Dir: %v", err)
			}
		}
		lab.Must(t, e.Close())
		if n%10 != 0 {
			return
		}
		for _, bad := range []syncengine.Config{wrongPassword, wrongDatabase} {
			if _, err := syncengine.Open(ctx, bad); err == nil || errors.Is(err, syncengine.ErrUnavailable) {
				t.Errorf("Open of %s: %v", bad.SQLURL, err)
			}
		}
		if _, err := syncengine.Open(gone, cfg); !errors.Is(err, context.Canceled) {
			t.Errorf("Open for a caller that left: %v", err)
		}
	}
	for n := range 3 {
		round(n)
	}
	// Without a collector: it would close the descriptors that an engine has forgotten.
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	goroutines, descriptors := inUse(t)
	for n := range 100 {
		round(n)
	}
	lab.Eventually(t, fmt.Sprintf("%d goroutines and %d descriptors again", goroutines, descriptors), func() bool {
		g, d := inUse(t)
		return g <= goroutines && d <= descriptors
	})
}

// everyEvent has each event function count its name and then panic.
func everyEvent(count func(name string)) syncengine.Events {
	ouch := func(name string) {
		count(name)
		panic("a user's panic in " + name)
	}
	return syncengine.Events{
		StateChanged:        func(syncengine.State, syncengine.State) { ouch("StateChanged") },
		BackpressureChanged: func(syncengine.BackpressureLevel, syncengine.BackpressureLevel) { ouch("BackpressureChanged") },
		CircuitChanged:      func(string, string, string) { ouch("CircuitChanged") },
		L3Outage:            func(bool, error) { ouch("L3Outage") },
		L2Outage:            func(bool, error) { ouch("L2Outage") },
		Quarantined:         func(syncengine.QuarantinedOp) { ouch("Quarantined") },
		Corrupted:           func(*syncengine.CorruptionError) { ouch("Corrupted") },
		Superseded:          func(syncengine.SupersededOp) { ouch("Superseded") },
		Healed:              func(string, string) { ouch("Healed") },
		Verified:            func(syncengine.VerifyReport) { ouch("Verified") },
		Compacted:           func(syncengine.CompactReport, bool) { ouch("Compacted") },
		Flushed:             func(syncengine.FlushedBatch) { ouch("Flushed") },
	}
}

// troubled brings an engine to call every event function there is, and every kind of log line:
// outages of both tiers, a refused op, a corrupt copy, pressure, a close in between.
func troubled(t testing.TB, cfg syncengine.Config) {
	ctx := context.Background()
	l3, l2 := &lab.FaultyArchive{ArchiveStore: storetest.NewArchive()}, &lab.HookedCache{CacheStore: storetest.NewCache()}
	var l2Away, corrupt atomic.Bool
	l2.OnPut = func(context.Context, []syncengine.Record) error {
		if l2Away.Load() {
			return lab.ErrAway
		}
		return nil
	}
	l2.OnGet = func(id string) error {
		if corrupt.CompareAndSwap(true, false) {
			return &syncengine.CorruptionError{ID: id, Tier: "L2"}
		}
		return nil
	}
	cfg.L2, cfg.L3 = l2, &lab.HookedArchive{ArchiveStore: l3, OnApply: lab.RefusePoison}
	cfg.WALMaxItems, cfg.BatchFlushCount, cfg.L1MaxBytes = 100, 10, 64<<10
	e := lab.Open(t, cfg)
	bad := false // an op is in quarantine, and Flush says so
	flush := func() {
		lab.Eventually(t, "Flush succeeds", func() bool {
			err := e.Flush(ctx)
			return err == nil || bad && errors.Is(err, syncengine.ErrRefused)
		})
	}
	numbered(200, 1).write(t, e)
	flush()
	l3.Away.Store(true)
	numbered(75, 2).write(t, e) // pressure
	lab.Eventually(t, "the outage is noticed", func() bool { return e.Stats().L3Down })
	l3.Away.Store(false)
	flush()
	l2Away.Store(true)
	for n := range 6 { // enough for the breaker
		lab.Put(t, e, "x", n)
		flush()
	}
	lab.Must(t, e.Submit(ctx, syncengine.Item{ID: "bad", Content: lab.Poison}))
	if err := e.Flush(ctx); !errors.Is(err, syncengine.ErrRefused) {
		t.Fatal(err)
	}
	bad = true
	lab.Must(t, e.Close()) // with ids that L2 misses: the next engine compares all
	l2Away.Store(false)
	e = lab.Open(t, cfg)
	lab.Eventually(t, "L2 is repaired", func() bool { return e.Stats().L2Missed == 0 })
	corrupt.Store(true)
	contents{"id-0": 2, "id-1": 2}.read(t, e)
	lab.Eventually(t, "the corrupt copy is healed", func() bool { return e.Stats().Healed > 0 })
	lab.Put(t, e, "last", 1)
	flush()
	theirs := syncengine.Record{Item: syncengine.Item{ID: "theirs", Version: 1 << 62, Content: lab.Doc("theirs", 1)}}
	theirs.ContentHash = sha256.Sum256(theirs.Content)
	_, err := l3.Apply(ctx, []syncengine.Record{theirs})
	lab.Must(t, err)
	lab.Put(t, e, "theirs", 2)
	flush()
	contents{"last": 1, "x": 5, "id-4": -1}.read(t, e)
	lab.Must(t, e.Close())
}

func TestPanicsInEventFunctionsStayThere(t *testing.T) {
	var mu sync.Mutex // guards seen
	seen := make(map[string]int)
	cfg := syncengine.Config{Dir: t.TempDir(), OnEvent: everyEvent(func(name string) {
		mu.Lock()
		defer mu.Unlock()
		seen[name]++
	})}
	troubled(t, cfg)
	for i := range reflect.TypeFor[syncengine.Events]().NumField() {
		// A store of the caller's own has nothing to compact: see internal/merging.
		if name := reflect.TypeFor[syncengine.Events]().Field(i).Name; seen[name] == 0 && name != "Compacted" {
			t.Errorf("%s was never called: %v", name, seen)
		}
	}
}

// panicHandler is a log handler with a defect.
type panicHandler struct{}

func (panicHandler) Enabled(context.Context, slog.Level) bool { return true }
func (panicHandler) Handle(context.Context, slog.Record) error {
	panic("a user's panic in a log handler")
}
func (h panicHandler) WithAttrs([]slog.Attr) slog.Handler { return h }
func (h panicHandler) WithGroup(string) slog.Handler      { return h }

// TestAPanicInTheLoggerDoesNotEndTheProcess runs in a process of its own, since a panic on one of
// the engine's goroutines would end this one.
func TestAPanicInTheLoggerDoesNotEndTheProcess(t *testing.T) {
	const role = "SYNCENGINE_LOGGER_CHILD"
	if os.Getenv(role) != "" {
		troubled(t, syncengine.Config{Dir: t.TempDir(), Logger: slog.New(panicHandler{})})
		fmt.Println("survived")
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.timeout=60s")
	cmd.Env = append(os.Environ(), role+"=1")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "survived") {
		t.Errorf("with a logger that panics: %v\n%.1500s", err, out)
	}
}

// TestAFactoryThatDoesNotReturnIsAnErrorToAllWhoWaitForIt: by a panic, or by ending its goroutine
// as a failed assertion of a test does.
func TestAFactoryThatDoesNotReturnIsAnErrorToAllWhoWaitForIt(t *testing.T) {
	for name, leave := range map[string]func(){
		"panic": func() { panic("a user's panic") }, "panic(nil)": func() { panic(nil) }, "Goexit": runtime.Goexit,
	} {
		t.Run(name, func(t *testing.T) {
			ctx := context.Background()
			e := lab.Open(t, syncengine.Config{})
			gate, release := lab.Hold()
			defer release()
			entered := make(chan struct{}, 100)
			var wg sync.WaitGroup
			for range 10 {
				wg.Go(func() {
					it, err := e.GetOrInsertWith(ctx, "x", func(context.Context) (syncengine.Item, error) {
						entered <- struct{}{}
						<-gate
						leave()
						return syncengine.Item{Content: []byte("1")}, nil
					})
					if err == nil || errors.Is(err, syncengine.ErrNotFound) || it.Content != nil {
						t.Errorf("GetOrInsertWith: %+v, %v", it, err)
					}
				})
			}
			<-entered
			lab.Put(t, e, "y", 1) // others go on meanwhile
			release()
			returns(t, "GetOrInsertWith", wg.Wait)
			lab.WantContent(t, e, "x", -1)
			it, err := e.GetOrInsertWith(ctx, "x", func(context.Context) (syncengine.Item, error) {
				return syncengine.Item{Content: lab.Doc("x", 2)}, nil
			})
			if err != nil || string(it.Content) != string(lab.Doc("x", 2)) {
				t.Errorf("the next factory: %.40s, %v", it.Content, err)
			}
			contents{"x": 2, "y": 1}.read(t, e)
		})
	}
}

// TestAPanicInPriorityFuncLeavesThePriorityOfTheItem.
func TestAPanicInPriorityFuncLeavesThePriorityOfTheItem(t *testing.T) {
	ctx := context.Background()
	e := lab.Open(t, syncengine.Config{PriorityFunc: func(syncengine.AccessStats) syncengine.Priority { panic("a user's panic") }})
	items := []syncengine.Item{{ID: "a", Content: lab.Doc("a", 2), Priority: syncengine.PriorityLow}, {ID: "b", Content: lab.Doc("b", 2), Priority: syncengine.PriorityHigh}}
	for range 2 { // the second time they are known, and the function is asked
		_, err := e.SubmitMany(ctx, items)
		lab.Must(t, err)
		lab.Must(t, e.Submit(ctx, items[0]))
	}
	lab.Must(t, e.Flush(ctx))
	for _, it := range items {
		if got, err := e.Get(ctx, it.ID); err != nil || got.Priority != it.Priority || string(got.Content) != string(it.Content) {
			t.Errorf("%s: priority %v, %v", it.ID, got.Priority, err)
		}
	}
}

// moodyArchive and moodyCache are stores of a caller's whose probes panic for a while.
type moodyArchive struct {
	syncengine.ArchiveStore
	panics *atomic.Bool
}

func (m moodyArchive) Prepare(ctx context.Context) error {
	mood(m.panics)
	return m.ArchiveStore.Prepare(ctx)
}

func (m moodyArchive) Ping(ctx context.Context) error {
	mood(m.panics)
	return m.ArchiveStore.Ping(ctx)
}

func (m moodyArchive) Apply(ctx context.Context, recs []syncengine.Record) ([]syncengine.Meta, error) {
	mood(m.panics)
	return m.ArchiveStore.Apply(ctx, recs)
}

type moodyCache struct {
	syncengine.CacheStore
	panics *atomic.Bool
}

func (m moodyCache) Ping(ctx context.Context) error {
	mood(m.panics)
	return m.CacheStore.Ping(ctx)
}

func (m moodyCache) Put(ctx context.Context, recs []syncengine.Record) error {
	mood(m.panics)
	return m.CacheStore.Put(ctx, recs)
}

func mood(panics *atomic.Bool) {
	if panics.Load() {
		panic("not today")
	}
}

// A store that panics when it is asked for a sign of life is away: it ends no process.
func TestAStoreWhoseProbesPanicIsAway(t *testing.T) {
	ctx := context.Background()
	var panics atomic.Bool
	cfg := syncengine.Config{Dir: t.TempDir(), L3: moodyArchive{storetest.NewArchive(), &panics}, L2: moodyCache{storetest.NewCache(), &panics}}
	for _, when := range []string{"at Open", "later"} {
		panics.Store(when == "at Open")
		e := lab.Open(t, cfg)
		panics.Store(true)
		lab.Put(t, e, when, 1)
		if err := e.Flush(lab.Bounded(t)); !errors.Is(err, syncengine.ErrUnavailable) || !strings.Contains(err.Error(), "not today") {
			t.Errorf("%s: Flush: %v", when, err)
		}
		if h := e.Health(ctx); h.L3.OK || !strings.Contains(h.L3.Error, "not today") || h.L2.OK || !strings.Contains(h.L2.Error, "not today") {
			t.Errorf("%s: %+v", when, h)
		}
		panics.Store(false)
		lab.Eventually(t, "it is back", func() bool { return e.Flush(ctx) == nil })
		lab.Must(t, e.Close())
	}
}
