package machines

// machine_test.go drives an engine of a random configuration with random calls, outages,
// losses of L2, restarts and crashes, beside a plain map. Whatever the configuration, the
// answers are those of the map: options change speed, never answers. A read may fail with
// ErrUnavailable after L3 was away, but not for an op that was accepted meanwhile, which is
// in the WAL.
//
// Versions of most ids are the engine's. Those of ids with "numbered" in their name are the
// test's, and often stale: such an op is refused, or loses without a trace once L3 has said
// so.
//
// machine_model_test.go holds the map, and what it says of an answer.

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/storetest"
)

// machine is one engine after another on the same directory and stores.
type machine struct {
	model
	cfg          syncengine.Config
	l2           syncengine.CacheStore // nil: none
	l3           syncengine.ArchiveStore
	away2, away3 atomic.Bool
	e            *syncengine.Engine
	n            int  // of the last content
	shaky        bool // L3 was away, and the engine may not know yet that it is back
}

func (m *machine) around(_ context.Context, tier, _ string, do func() error) error {
	if tier == "L2" && m.away2.Load() || tier == "L3" && m.away3.Load() {
		return lab.ErrAway
	}
	return do()
}

// draws of a configuration.
func drawConfig(t *rapid.T) syncengine.Config {
	pick := func(name string, of ...int64) int64 { return rapid.SampledFrom(of).Draw(t, name) }
	cfg := syncengine.Config{
		L1MaxBytes:         pick("L1MaxBytes", 64<<10, 80<<10, 1<<20, 256<<20),
		Durability:         syncengine.Durability(pick("Durability", 0, 1, 2, 3)),
		BatchFlushInterval: time.Duration(pick("BatchFlushInterval", 1e6, 20e6, 3600e9)),
		BatchFlushCount:    int(pick("BatchFlushCount", 1, 3, 20, 1000)),
		BatchFlushBytes:    pick("BatchFlushBytes", 1, 4<<10, 1<<20),
		FlushConcurrency:   int(pick("FlushConcurrency", 1, 2, 8)),
		L1MaxAge:           time.Duration(pick("L1MaxAge", 1, 200e6, 3600e9)),
		WALNoSync:          rapid.Bool().Draw(t, "WALNoSync"),
		L3Timeout:          slowly(time.Second), // bounds how long Open tries
		L2Timeout:          5 * time.Second,
	}
	cfg.WALMaxItems = max(int64(cfg.BatchFlushCount), pick("WALMaxItems", 30, 1_000_000))
	cfg.WALMaxBytes = max(cfg.BatchFlushBytes, pick("WALMaxBytes", 200<<10, 1<<30))
	return cfg
}

// newMachine opens the first engine. It is closed when the check ends.
func newMachine(t *rapid.T, dir string, l3 syncengine.ArchiveStore) *machine {
	m := &machine{model: newModel(), cfg: drawConfig(t), l3: l3}
	m.cfg.Dir = dir
	m.cfg.L3 = &lab.AroundArchive{In: m.l3, Fn: m.around}
	if rapid.Bool().Draw(t, "with an L2") {
		m.l2 = storetest.NewCache()
		m.cfg.L2 = &lab.AroundCache{In: m.l2, Fn: m.around}
	}
	m.open(t)
	t.Cleanup(func() { _ = m.e.Close() })
	return m
}

func (m *machine) open(t *rapid.T) {
	e, err := syncengine.Open(context.Background(), m.cfg)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	m.e = e
	m.shaky = m.away3.Load()
}

func (m *machine) actions() map[string]func(*rapid.T) {
	return map[string]func(*rapid.T){
		"Submit": m.submit, "Submit (again)": m.submit, "Submit (once more)": m.submit,
		"SubmitMany": m.submitMany, "Delete": m.delete, "DeleteMany": m.deleteMany,
		"Insert": m.insert, "Update": m.update, "Submit unchanged": m.submitUnchanged,
		"Submit for a time": m.submitForATime, "Touch": m.touch,
		"Submit numbered": m.submitNumbered, "GetOrInsertWith": m.getOrInsert,
		"Get": m.get, "Get (again)": m.get, "GetMany": m.getMany, "Status": m.status,
		"Flush": m.flush, "Verify": m.verify,
		"L3 goes or comes": m.toggleL3, "L2 goes or comes": m.toggleL2, "L2 is emptied": m.emptyL2,
		"close and open": m.reopen, "crash and open": m.crash,
	}
}

// content makes a document nobody else has, of a drawn size.
func (m *machine) content(t *rapid.T, id string) []byte {
	m.n++
	size := rapid.SampledFrom([]int{0, 0, 300, 3 << 10, 9 << 10}).Draw(t, "size")
	return fmt.Appendf(nil, `{"id":%q,"n":%d,"pad":"%0*d"}`, id, m.n, size, 0)
}

func drawOptions(t *rapid.T) (syncengine.Durability, []syncengine.WriteOption) {
	d := syncengine.Durability(rapid.IntRange(0, 3).Draw(t, "durability"))
	p := syncengine.Priority(rapid.IntRange(-1, 2).Draw(t, "priority"))
	return d, []syncengine.WriteOption{syncengine.WithDurability(d), syncengine.WithPriority(p)}
}

// accepted tells from the error of a write whether it counts.
func (m *machine) accepted(t *rapid.T, what string, err error, d syncengine.Durability, decided bool) bool {
	if d == syncengine.DefaultDurability {
		d = m.cfg.Durability
	}
	switch {
	case err == nil:
		return true
	case errors.Is(err, syncengine.ErrBackpressure):
		return false
	case decided && m.shaky && errors.Is(err, syncengine.ErrUnavailable):
		return false // L3 was to decide, and was sent nothing
	case d == archived && m.shaky && errors.Is(err, syncengine.ErrUnavailable):
		return true // it is in the WAL
	}
	t.Fatalf("%s: %v", what, err)
	return false
}

func (m *machine) submit(t *rapid.T) {
	id := rapid.SampledFrom(plainIDs).Draw(t, "id")
	content := m.content(t, id)
	d, opts := drawOptions(t)
	err := m.e.Submit(context.Background(), syncengine.Item{ID: id, Content: content}, opts...)
	if m.accepted(t, "Submit", err, d, false) {
		m.wrote(id, content, m.away3.Load())
	}
}

func (m *machine) submitMany(t *rapid.T) {
	ids := rapid.SliceOfN(rapid.SampledFrom(plainIDs), 0, 5).Draw(t, "ids") // some of them twice
	items := make([]syncengine.Item, len(ids))
	for i, id := range ids {
		items[i] = syncengine.Item{ID: id, Content: m.content(t, id)}
	}
	d, opts := drawOptions(t)
	res, err := m.e.SubmitMany(context.Background(), items, opts...)
	if !m.accepted(t, "SubmitMany", err, d, false) {
		return
	}
	if err == nil && (res.Succeeded != len(ids) || res.Failed != 0) {
		t.Fatalf("SubmitMany of %d: %+v", len(ids), res)
	}
	for i := range items {
		m.wrote(ids[i], items[i].Content, m.away3.Load())
	}
}

func (m *machine) delete(t *rapid.T) {
	id := rapid.SampledFrom(plainIDs).Draw(t, "id")
	d, opts := drawOptions(t)
	if m.accepted(t, "Delete", m.e.Delete(context.Background(), id, opts...), d, false) {
		m.wrote(id, nil, m.away3.Load())
	}
}

func (m *machine) deleteMany(t *rapid.T) {
	ids := rapid.SliceOfN(rapid.SampledFrom(plainIDs), 0, 5).Draw(t, "ids")
	d, opts := drawOptions(t)
	_, err := m.e.DeleteMany(context.Background(), ids, opts...)
	if m.accepted(t, "DeleteMany", err, d, false) {
		for _, id := range ids {
			m.wrote(id, nil, m.away3.Load())
		}
	}
}

// insert puts what must not exist. L3 decides it, whatever the durability.
func (m *machine) insert(t *rapid.T) {
	id := rapid.SampledFrom(plainIDs).Draw(t, "id")
	content := m.content(t, id)
	d, opts := drawOptions(t)
	err := m.e.Insert(context.Background(), syncengine.Item{ID: id, Content: content}, opts...)
	if errors.Is(err, syncengine.ErrExists) {
		if m.held[id].now == "" {
			t.Fatalf("Insert of absent %s: %v", id, err)
		}
	} else if m.accepted(t, "Insert", err, d, true) {
		if m.held[id].now != "" {
			t.Fatalf("Insert of %s, which exists, succeeds", id)
		}
		m.wrote(id, content, m.away3.Load())
	}
}

// drawTTL draws how long an item lives: no time, or a long one.
func drawTTL(t *rapid.T) time.Duration {
	return rapid.SampledFrom([]time.Duration{time.Millisecond, time.Hour}).Draw(t, "ttl")
}

// outlived waits until what has a short time has expired, and returns what is left.
func outlived(ttl time.Duration, content []byte) []byte {
	if ttl == time.Hour {
		return content
	}
	time.Sleep(2 * ttl)
	return nil
}

func (m *machine) submitForATime(t *rapid.T) {
	id, ttl := rapid.SampledFrom(plainIDs).Draw(t, "id"), drawTTL(t)
	content := m.content(t, id)
	d, opts := drawOptions(t)
	err := m.e.Submit(context.Background(), syncengine.Item{ID: id, Content: content}, append(opts, syncengine.WithTTL(ttl))...)
	if m.accepted(t, "Submit for a time", err, d, false) {
		m.wrote(id, outlived(ttl, content), m.away3.Load())
	}
}

// touch changes the expiry of what is there, and nothing else.
func (m *machine) touch(t *rapid.T) {
	id, ttl := rapid.SampledFrom(plainIDs).Draw(t, "id"), drawTTL(t)
	was := m.held[id].now
	err := m.e.Touch(context.Background(), id, ttl)
	if errors.Is(err, syncengine.ErrNotFound) {
		if was != "" {
			t.Fatalf("Touch of %s, which exists: %v", id, err)
		}
	} else if m.accepted(t, "Touch", err, syncengine.DefaultDurability, true) {
		if was == "" {
			t.Fatalf("Touch of absent %s succeeds", id)
		}
		m.wrote(id, outlived(ttl, []byte(was)), m.away3.Load())
	}
}

// update changes what its function is given, which is what the map holds.
func (m *machine) update(t *rapid.T) {
	id := rapid.SampledFrom(plainIDs).Draw(t, "id")
	content := m.content(t, id)
	d, opts := drawOptions(t)
	it, err := m.e.Update(context.Background(), id, func(cur syncengine.Item, exists bool) (syncengine.Item, error) {
		if exists != (m.held[id].now != "") || string(cur.Content) != m.held[id].now {
			t.Fatalf("Update of %s is given %.40s, want %.40s", id, cur.Content, m.held[id].now)
		}
		cur.Content = content
		return cur, nil
	}, opts...)
	if m.accepted(t, "Update", err, d, true) {
		if string(it.Content) != string(content) || it.Version == 0 {
			t.Fatalf("Update of %s returns %+v", id, it)
		}
		m.wrote(id, content, m.away3.Load())
	}
}

// submitUnchanged reads, changes and submits. Nobody writes in between.
func (m *machine) submitUnchanged(t *rapid.T) {
	id := rapid.SampledFrom(plainIDs).Draw(t, "id")
	content := m.content(t, id)
	it, err := m.e.Get(context.Background(), id)
	if err != nil {
		t.Skip("nothing to change")
	}
	it.Content = content
	d, opts := drawOptions(t)
	err = m.e.Submit(context.Background(), it, append(opts, syncengine.IfUnchanged())...)
	if m.accepted(t, "Submit unchanged", err, d, true) {
		m.wrote(id, content, m.away3.Load())
	}
}

// submitNumbered puts or deletes with a version of the caller's.
func (m *machine) submitNumbered(t *rapid.T) {
	rec := syncengine.Record{Item: syncengine.Item{ID: rapid.SampledFrom(numberedIDs).Draw(t, "id"), Version: rapid.Uint64Range(1, 12).Draw(t, "version")}}
	d, opts := drawOptions(t)
	var err error
	if rec.Deleted = rapid.Bool().Draw(t, "delete"); rec.Deleted {
		err = m.e.Delete(context.Background(), rec.ID, append(opts, syncengine.WithVersion(rec.Version))...)
	} else {
		rec.Content = m.content(t, rec.ID)
		err = m.e.Submit(context.Background(), rec.Item, append(opts, syncengine.WithVersion(rec.Version))...)
	}
	if errors.Is(err, syncengine.ErrStaleVersion) {
		if !m.isStale(&rec) {
			t.Fatalf("refused as stale: version %d of %s, the highest is %+v", rec.Version, rec.ID, m.held[rec.ID])
		}
	} else if m.accepted(t, "a numbered op", err, d, d == archived || d == syncengine.DefaultDurability && m.cfg.Durability == archived) {
		m.wroteNumbered(&rec, m.away3.Load())
	}
}

func (m *machine) getOrInsert(t *rapid.T) {
	id, called := rapid.SampledFrom(plainIDs).Draw(t, "id"), false
	content := m.content(t, id)
	it, err := m.e.GetOrInsertWith(context.Background(), id, func(context.Context) (syncengine.Item, error) {
		called = true
		return syncengine.Item{Content: content}, nil
	})
	if !called {
		m.judge(t, "GetOrInsertWith", id, it.Content, err)
		if err == nil && m.held[id].now == "" {
			t.Fatalf("GetOrInsertWith of absent %s did not call the factory", id)
		}
		return
	}
	if m.held[id].now != "" {
		t.Fatalf("GetOrInsertWith called the factory though %s exists", id)
	}
	if m.accepted(t, "GetOrInsertWith", err, syncengine.DefaultDurability, true) {
		m.wrote(id, content, m.away3.Load())
	}
}

// toggleL3 begins or ends an outage of L3.
func (m *machine) toggleL3(t *rapid.T) {
	if m.away3.CompareAndSwap(false, true) {
		m.shaky = true
		return
	}
	m.comeBack()
	if rapid.Bool().Draw(t, "await the engine") {
		m.steady(t)
	}
}

func (m *machine) comeBack() {
	m.away3.Store(false)
	m.noneIsEarly()
}

// steady waits until the engine knows that L3 is back. From then on every read must be
// answered.
func (m *machine) steady(t *rapid.T) {
	m.until(t, "the engine knows that L3 is back", func() bool {
		return m.e.Flush(context.Background()) == nil && m.e.Health(context.Background()).L3.Circuit == "closed" && !m.e.Stats().L3Down
	})
	m.shaky = false
	m.staleIsGone()
}

func (m *machine) until(t *rapid.T, what string, cond func() bool) {
	deadline := time.Now().Add(30 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("never came true: %s; %+v", what, m.e.Stats())
		}
		<-tick.C
	}
}

func (m *machine) toggleL2(*rapid.T) { m.away2.Store(!m.away2.Load()) }

// emptyL2 is a cache that restarts, or needs the room for others.
func (m *machine) emptyL2(t *rapid.T) {
	if m.l2 == nil {
		t.Skip("no L2")
	}
	if err := m.l2.Scan(context.Background(), func(ids []string) error { return m.l2.Remove(context.Background(), ids) }); err != nil {
		t.Fatal(err)
	}
}

func (m *machine) reopen(t *rapid.T) {
	err := m.e.Close()
	var pe *syncengine.PendingError
	if err != nil && (!m.shaky || !errors.As(err, &pe) || pe.Ops == 0) {
		t.Fatalf("Close: %v", err)
	}
	if err == nil {
		if m.away3.Load() && m.anyEarly() {
			t.Fatal("Close says that all is in L3, which is away")
		}
		m.staleIsGone()
	}
	m.open(t)
}

// crash is a process that ends: from some moment on it reaches no store. What is in the WAL
// is there when the next one begins.
func (m *machine) crash(t *rapid.T) {
	was2, was3 := m.away2.Swap(true), m.away3.Swap(true)
	over, cancel := context.WithCancel(context.Background())
	cancel()
	if err := m.e.Shutdown(over); err != nil && !errors.Is(err, syncengine.ErrPending) && !errors.Is(err, context.Canceled) {
		t.Fatalf("Shutdown: %v", err)
	}
	m.away2.Store(was2)
	m.away3.Store(was3)
	m.open(t)
}

// runMachine does one check.
func runMachine(t *rapid.T, dir string, l3 syncengine.ArchiveStore) {
	m := newMachine(t, dir, l3)
	t.Repeat(m.actions())
	m.atRest(t)
}

// slowly is d, or four times as much under the race detector.
func slowly(d time.Duration) time.Duration {
	if raceDetector {
		return 4 * d
	}
	return d
}

// checkMachines makes n checks in each of some goroutines, since engines mostly wait.
func checkMachines(t *testing.T, n, goroutines int, archive func(dir string) (syncengine.ArchiveStore, error)) {
	lab.Checks(t, n)
	if raceDetector {
		goroutines /= 2
	}
	root := t.TempDir()
	var dirs atomic.Int64
	var wg sync.WaitGroup
	for range goroutines {
		wg.Go(func() {
			rapid.Check(t, func(t *rapid.T) {
				dir := filepath.Join(root, strconv.FormatInt(dirs.Add(1), 10))
				if err := os.Mkdir(dir, 0o700); err != nil {
					t.Fatal(err)
				}
				l3, err := archive(dir)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = l3.Close() })
				runMachine(t, dir, l3)
			})
		})
	}
	wg.Wait()
}

func TestINV02AnEngineAnswersLikeAMapWhateverItsOptions(t *testing.T) {
	checkMachines(t, 2, 32, func(string) (syncengine.ArchiveStore, error) { return storetest.NewArchive(), nil })
}

func TestINV02AnEngineOnSQLiteAnswersLikeAMap(t *testing.T) {
	checkMachines(t, 1, 16, func(dir string) (syncengine.ArchiveStore, error) {
		return lab.OpenSQLStore("sqlite:" + filepath.Join(dir, "archive.db"))
	})
}
