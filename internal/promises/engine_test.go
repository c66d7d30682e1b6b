package promises

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/storetest"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

// documentsIn counts the keys in Redis but for those of the engine's own, which have a byte 0 and
// come when they come.
func documentsIn(t testing.TB, redis *testserver.Server) string {
	t.Helper()
	return redis.Do(t, "EVAL", `local n = 0 for _, k in ipairs(redis.call('KEYS', '*')) do if not string.find(k, '%z') then n = n + 1 end end return n`, "0")
}

// TestThreeTiersEndToEnd is the main job: groups go in, both servers hold them as seen from
// outside, a cold engine reads them back, Status names the tiers.
func TestThreeTiersEndToEnd(t *testing.T) {
	const total, group = 5000, 250
	ctx := context.Background()
	redis := testserver.Redis(t)
	dbURL := testserver.SharedMariaDB(t).NewDatabase(t)
	cfg := syncengine.Config{SQLURL: dbURL, RedisURL: redis.URL()}
	e := lab.Open(t, cfg)
	for first := 0; first < total; first += group {
		items := make([]syncengine.Item, group)
		for i := range items {
			id := fmt.Sprint("item-", first+i)
			items[i] = syncengine.Item{ID: id, Content: lab.Doc(id, first+i)}
		}
		r, err := e.SubmitMany(ctx, items)
		if err != nil || r != (syncengine.BatchResult{Total: group, Succeeded: group}) {
			t.Fatalf("SubmitMany: %+v, %v", r, err)
		}
	}
	lab.Must(t, e.Flush(ctx))
	var rows int
	lab.Must(t, testserver.OpenSQL(t, dbURL).QueryRow("SELECT COUNT(*) FROM sync_items WHERE deleted = 0").Scan(&rows))
	if keys := documentsIn(t, redis); rows != total || keys != fmt.Sprint(total) {
		t.Fatalf("from outside: %d rows, %s documents in Redis; want %d of each", rows, keys, total)
	}
	cold := lab.Open(t, cfg)
	for n := range total {
		if n%2 == 0 {
			lab.WantContent(t, cold, fmt.Sprint("item-", n), n)
		}
	}
	if s := cold.Stats(); s.L2Hits != total/2 || s.L3Hits != 0 {
		t.Errorf("the cold engine read %d from L2 and %d from L3, want all from L2", s.L2Hits, s.L3Hits)
	}
	st, err := cold.Status(ctx, "item-0")
	if err != nil || st.State != syncengine.StatusSynced || !st.InL1 || !st.InL2 || !st.InL3 {
		t.Errorf("Status of a read item: %+v, %v", st, err)
	}
	st, err = cold.Status(ctx, "item-1")
	if err != nil || st.State != syncengine.StatusSynced || st.InL1 || !st.InL2 || !st.InL3 {
		t.Errorf("Status of an unread item: %+v, %v", st, err)
	}
	st, err = cold.Status(ctx, "nothing")
	if err != nil || st != (syncengine.ItemStatus{}) {
		t.Errorf("Status of nothing: %+v, %v", st, err)
	}
	// One round trip per tier for many ids.
	ids := make([]string, 0, total)
	for n := range total {
		ids = append(ids, fmt.Sprint("item-", n))
	}
	items, err := lab.Open(t, cfg).GetMany(ctx, append(ids, "nothing", "item-7"))
	lab.Must(t, err)
	for n, it := range items[:total] {
		if it == nil || string(it.Content) != string(lab.Doc(ids[n], n)) {
			t.Fatalf("GetMany[%d] = %v", n, it)
		}
	}
	if items[total] != nil || items[total+1] == nil || items[total+1].ID != "item-7" {
		t.Errorf("GetMany: absent %v, repeated %v", items[total], items[total+1])
	}
	report, err := e.Verify(ctx, syncengine.VerifyOptions{})
	if err != nil || !report.InSync || report.RootL2 != report.RootL3 {
		t.Errorf("Verify: %+v, %v", report, err)
	}
	if root, err := cold.MerkleRoot(ctx); err != nil || root != report.RootL3 {
		t.Errorf("MerkleRoot: %x, %v; Verify said %x", root, err, report.RootL3)
	}
}

// TestEmbeddedDefaultSurvivesReopen needs no server: one directory.
func TestEmbeddedDefaultSurvivesReopenAndDeletesStayDeleted(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	e := lab.Open(t, syncengine.Config{Dir: dir})
	for n := range 300 {
		lab.Put(t, e, fmt.Sprint("id-", n), n)
	}
	r, err := e.DeleteMany(ctx, []string{"id-1", "id-2", "never"})
	if err != nil || r.Succeeded != 3 {
		t.Fatalf("DeleteMany: %+v, %v", r, err)
	}
	lab.Must(t, e.Delete(ctx, "id-3"))
	if e.Len() != 297 || e.IsEmpty() {
		t.Errorf("Len = %d, want 297", e.Len())
	}
	lab.Must(t, e.Close())
	files, err := os.ReadDir(dir)
	lab.Must(t, err)
	for _, f := range files {
		if info, err := f.Info(); err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("INV-13: %s is readable by others: %v, %v", f.Name(), info.Mode(), err)
		}
	}
	e = lab.Open(t, syncengine.Config{Dir: dir})
	for n := range 300 {
		want := n
		if n >= 1 && n <= 3 {
			want = -1
		}
		lab.WantContent(t, e, fmt.Sprint("id-", n), want)
	}
	if e.Contains("id-1") {
		t.Error("Contains of an id that L1 knows to be deleted")
	}
}

// TestDurabilityLevels checks what is where when Submit returns.
func TestDurabilityLevelsReachWhatTheyPromise(t *testing.T) {
	ctx := context.Background()
	e := lab.Open(t, syncengine.Config{BatchFlushInterval: time.Hour})
	lab.Put(t, e, "buffered", 1, syncengine.WithDurability(syncengine.Buffered))
	if s := e.Stats(); s.WALItems != 0 || s.PendingOps != 1 {
		t.Errorf("Buffered: %d in the WAL, %d pending; want 0 and 1", s.WALItems, s.PendingOps)
	}
	lab.Put(t, e, "logged", 1)
	if s := e.Stats(); s.WALItems != 1 || s.PendingOps != 2 {
		t.Errorf("Logged: %d in the WAL, %d pending; want 1 and 2", s.WALItems, s.PendingOps)
	}
	if st, err := e.Status(ctx, "logged"); err != nil || st.State != syncengine.StatusPending || st.InL3 {
		t.Errorf("Status of a logged item: %+v, %v", st, err)
	}
	lab.Put(t, e, "archived", 1, syncengine.WithDurability(syncengine.Archived))
	if st, err := e.Status(ctx, "archived"); err != nil || st.State != syncengine.StatusSynced || !st.InL3 {
		t.Errorf("Status of an archived item: %+v, %v", st, err)
	}
}

// TestVersions covers numbering by the engine and by the caller.
func TestINV03VersionsOrderWrites(t *testing.T) {
	ctx := context.Background()
	e := lab.Open(t, syncengine.Config{})
	submit := func(version uint64, n int) error {
		return e.Submit(ctx, syncengine.Item{ID: "numbered", Version: 12345, Content: lab.Doc("numbered", n)}, syncengine.WithVersion(version))
	}
	lab.Must(t, submit(10, 1))
	if err := submit(9, 2); !errors.Is(err, syncengine.ErrStaleVersion) {
		t.Errorf("an older version: %v, want ErrStaleVersion", err)
	}
	lab.WantContent(t, e, "numbered", 1)
	lab.Must(t, submit(10, 1)) // a repetition is no conflict
	lab.Must(t, submit(11, 3))
	lab.WantContent(t, e, "numbered", 3)
	lab.Must(t, e.Delete(ctx, "numbered", syncengine.WithVersion(11))) // at equal versions a delete wins
	lab.WantContent(t, e, "numbered", -1)
	lab.Must(t, e.Flush(ctx))
	lab.WantContent(t, e, "numbered", -1)

	lab.Put(t, e, "free", 1)
	first, err := e.Get(ctx, "free")
	lab.Must(t, err)
	lab.Put(t, e, "free", 2)
	second, err := e.Get(ctx, "free")
	if err != nil || second.Version <= first.Version {
		t.Errorf("versions %d then %d, %v", first.Version, second.Version, err)
	}
}

// TestGetOrInsertWith: one factory per id at a time, never after an error.
func TestGetOrInsertWithRunsTheFactoryOnce(t *testing.T) {
	ctx := context.Background()
	e := lab.Open(t, syncengine.Config{})
	var calls atomic.Int32
	entered, release := make(chan struct{}, 1), make(chan struct{})
	factory := func(context.Context) (syncengine.Item, error) {
		calls.Add(1)
		entered <- struct{}{}
		<-release
		return syncengine.Item{Content: lab.Doc("made", 1)}, nil
	}
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			it, err := e.GetOrInsertWith(ctx, "made", factory)
			if err != nil || string(it.Content) != string(lab.Doc("made", 1)) || it.ID != "made" {
				t.Errorf("GetOrInsertWith: %+v, %v", it, err)
			}
		})
	}
	<-entered
	left, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := e.GetOrInsertWith(left, "made", factory); !errors.Is(err, context.Canceled) {
		t.Errorf("a caller that left: %v", err)
	}
	close(release)
	wg.Wait()
	if calls.Load() != 1 {
		t.Errorf("the factory ran %d times", calls.Load())
	}
	boom := errors.New("boom")
	if _, err := e.GetOrInsertWith(ctx, "other", func(context.Context) (syncengine.Item, error) { return syncengine.Item{}, boom }); !errors.Is(err, boom) {
		t.Errorf("factory error: %v", err)
	}
	if _, err := e.GetOrInsertWith(ctx, "other", func(context.Context) (syncengine.Item, error) { panic("ouch") }); err == nil {
		t.Error("factory panic: no error")
	}
	if _, err := e.GetOrInsertWith(ctx, "other", func(context.Context) (syncengine.Item, error) {
		return syncengine.Item{ID: "another", Content: []byte("1")}, nil
	}); !errors.Is(err, syncengine.ErrInvalidItem) {
		t.Errorf("factory with another id: %v", err)
	}
	// A write that comes while the factory runs wins.
	it, err := e.GetOrInsertWith(ctx, "raced", func(context.Context) (syncengine.Item, error) {
		lab.Put(t, e, "raced", 9)
		return syncengine.Item{Content: lab.Doc("raced", 1)}, nil
	})
	if err != nil || string(it.Content) != string(lab.Doc("raced", 9)) {
		t.Errorf("GetOrInsertWith over a newer write: %s, %v", it.Content, err)
	}
	lab.Must(t, e.Flush(ctx))
	lab.WantContent(t, e, "raced", 9)
}

func TestINV08FactoryIsNotCalledWhenTheStoreCantBeAsked(t *testing.T) {
	ctx := context.Background()
	e := lab.Open(t, syncengine.Config{SQLURL: "mysql://root@127.0.0.1:1/none", L3Timeout: 200 * time.Millisecond})
	_, err := e.GetOrInsertWith(ctx, "x", func(context.Context) (syncengine.Item, error) {
		t.Error("the factory was called")
		return syncengine.Item{}, nil
	})
	if !errors.Is(err, syncengine.ErrUnavailable) {
		t.Errorf("got %v, want ErrUnavailable", err)
	}
	if _, err := e.Get(ctx, "x"); !errors.Is(err, syncengine.ErrUnavailable) {
		t.Errorf("Get: %v, want ErrUnavailable", err)
	}
}

// TestLifecycle: typed errors after Close, Close twice, a lock on the directory.
func TestLifecycle(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	var states []syncengine.State
	e := lab.Open(t, syncengine.Config{Dir: dir, OnEvent: syncengine.Events{
		StateChanged: func(_, to syncengine.State) {
			states = append(states, to)
			if to == syncengine.StateReady {
				panic("a user's panic is nobody else's business")
			}
		},
	}})
	if e.State() != syncengine.StateRunning {
		t.Errorf("after Open the state is %v", e.State())
	}
	if _, err := syncengine.Open(ctx, syncengine.Config{Dir: dir}); !errors.Is(err, syncengine.ErrLocked) {
		t.Errorf("a second engine on the directory: %v, want ErrLocked", err)
	}
	lab.Put(t, e, "a", 1)
	lab.Must(t, e.Close())
	lab.Must(t, e.Close())
	if e.State() != syncengine.StateClosed {
		t.Errorf("after Close the state is %v", e.State())
	}
	for name, call := range map[string]func() error{
		"Submit":      func() error { return e.Submit(ctx, syncengine.Item{ID: "a", Content: []byte("1")}) },
		"Delete":      func() error { return e.Delete(ctx, "a") },
		"Get":         func() error { _, err := e.Get(ctx, "a"); return err },
		"GetVerified": func() error { _, err := e.GetVerified(ctx, "a"); return err },
		"GetMany":     func() error { _, err := e.GetMany(ctx, []string{"a"}); return err },
		"Status":      func() error { _, err := e.Status(ctx, "a"); return err },
		"Flush":       func() error { return e.Flush(ctx) },
		"Verify":      func() error { _, err := e.Verify(ctx, syncengine.VerifyOptions{}); return err },
		"Quarantined": func() error { _, err := e.Quarantined(ctx); return err },
		"SubmitMany":  func() error { _, err := e.SubmitMany(ctx, nil); return err },
	} {
		if err := call(); !errors.Is(err, syncengine.ErrClosed) {
			t.Errorf("%s after Close: %v, want ErrClosed", name, err)
		}
	}
	want := []syncengine.State{syncengine.StateConnecting, syncengine.StateDrainingWAL, syncengine.StateSyncingRedis,
		syncengine.StateWarmingUp, syncengine.StateReady, syncengine.StateRunning, syncengine.StateShuttingDown, syncengine.StateClosed}
	if fmt.Sprint(states) != fmt.Sprint(want) {
		t.Errorf("states %v, want %v", states, want)
	}
	for range 50 {
		lab.Open(t, syncengine.Config{Dir: dir}).Close()
	}
}

// TestINV12CloseDuringSubmit: every write is either acknowledged and kept, or refused.
func TestINV12CloseDuringSubmitKeepsWhatWasAcknowledged(t *testing.T) {
	for _, d := range []syncengine.Durability{syncengine.Buffered, syncengine.Logged, syncengine.Archived} {
		t.Run(d.String(), func(t *testing.T) {
			ctx := context.Background()
			dir := t.TempDir()
			e := lab.Open(t, syncengine.Config{Dir: dir, Durability: d})
			var acked [8]int
			var wg sync.WaitGroup
			begun := make(chan struct{}, 8*1000)
			for w := range acked {
				wg.Go(func() {
					for {
						id := fmt.Sprintf("w%d-%d", w, acked[w])
						err := e.Submit(ctx, syncengine.Item{ID: id, Content: lab.Doc(id, acked[w])})
						if errors.Is(err, syncengine.ErrClosed) {
							return
						}
						if err != nil {
							t.Error(err)
							return
						}
						acked[w]++
						select {
						case begun <- struct{}{}:
						default: // enough is known
						}
					}
				})
			}
			for range 200 {
				<-begun
			}
			lab.Must(t, e.Close())
			wg.Wait()
			e = lab.Open(t, syncengine.Config{Dir: dir})
			for w, n := range acked {
				for i := range n {
					lab.WantContent(t, e, fmt.Sprintf("w%d-%d", w, i), i)
				}
			}
		})
	}
}

// TestTombstonesArePurged makes TombstoneRetention visible.
func TestTombstonesArePurgedAfterTheirRetention(t *testing.T) {
	ctx := context.Background()
	dbURL := testserver.SharedMariaDB(t).NewDatabase(t)
	e := lab.Open(t, syncengine.Config{SQLURL: dbURL, TombstoneRetention: 200 * time.Millisecond})
	lab.Put(t, e, "stays", 1)
	lab.Put(t, e, "goes", 1)
	lab.Must(t, e.Delete(ctx, "goes"))
	lab.Must(t, e.Flush(ctx))
	outside := testserver.OpenSQL(t, dbURL)
	lab.Eventually(t, "the tombstone is purged", func() bool {
		var n int
		lab.Must(t, outside.QueryRow("SELECT COUNT(*) FROM sync_items").Scan(&n))
		return n == 1
	})
	lab.WantContent(t, e, "stays", 1)
}

// TestMetrics: two engines share a registry under labels; Close takes them away.
func TestMetricsAreRegisteredAndUnregistered(t *testing.T) {
	ctx := context.Background()
	reg := prometheus.NewRegistry()
	a := lab.Open(t, syncengine.Config{Registerer: prometheus.WrapRegistererWith(prometheus.Labels{"engine": "a"}, reg)})
	b := lab.Open(t, syncengine.Config{Registerer: prometheus.WrapRegistererWith(prometheus.Labels{"engine": "b"}, reg)})
	if _, err := syncengine.Open(ctx, syncengine.Config{Dir: t.TempDir(), Registerer: prometheus.WrapRegistererWith(prometheus.Labels{"engine": "a"}, reg)}); !errors.Is(err, syncengine.ErrInvalidConfig) {
		t.Errorf("the same labels twice: %v", err)
	}
	lab.Put(t, a, "x", 1)
	lab.Must(t, a.Flush(ctx))
	lab.WantContent(t, b, "absent", -1)
	lab.WantContent(t, a, "x", 1)
	found := map[string]float64{}
	families, err := reg.Gather()
	lab.Must(t, err)
	for _, f := range families {
		for _, m := range f.Metric {
			for _, l := range m.Label {
				if l.GetName() == "engine" && l.GetValue() == "a" {
					found[f.GetName()] += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
				}
			}
		}
	}
	for _, name := range []string{"sync_engine_operations_total", "sync_engine_operation_seconds", "sync_engine_batch_size",
		"sync_engine_l1_items", "sync_engine_l1_bytes", "sync_engine_flushed_ops_total", "sync_engine_reads_total"} {
		if found[name] == 0 {
			t.Errorf("metric %s counted nothing", name)
		}
	}
	lab.Must(t, a.Close())
	lab.Must(t, b.Close())
	if families, err := reg.Gather(); err != nil || len(families) != 0 {
		t.Errorf("after Close %d metrics are left, %v", len(families), err)
	}
}

// TestGetVerified needs a corrupt copy: it damages the row of a cold engine.
func TestINV11GetVerifiedReportsACorruptRow(t *testing.T) {
	ctx := context.Background()
	dbURL := testserver.SharedMariaDB(t).NewDatabase(t)
	e := lab.OpenAsIs(t, syncengine.Config{SQLURL: dbURL})
	lab.Put(t, e, "sound", 1)
	lab.Put(t, e, "rotten", 1)
	lab.Must(t, e.Flush(ctx))
	if _, err := testserver.OpenSQL(t, dbURL).Exec("UPDATE sync_items SET content = CONCAT(content, ' ') WHERE id = 'rotten'"); err != nil {
		t.Fatal(err)
	}
	if _, err := e.GetVerified(ctx, "rotten"); err != nil {
		t.Errorf("the copy in memory is sound: %v", err)
	}
	cold := lab.OpenAsIs(t, syncengine.Config{SQLURL: dbURL})
	var ce *syncengine.CorruptionError
	if _, err := cold.GetVerified(ctx, "rotten"); !errors.As(err, &ce) || ce.ID != "rotten" || ce.Tier != "L3" || len(ce.Expected) != 64 || len(ce.Actual) != 64 {
		t.Errorf("GetVerified: %v", err)
	}
	items, err := cold.GetMany(ctx, []string{"sound", "rotten"})
	if !errors.Is(err, syncengine.ErrCorruption) || items[0] == nil || items[1] != nil {
		t.Errorf("GetMany: %v, %v; the sound row must be answered", items, err)
	}
	if s := cold.Stats(); s.Corruptions == 0 {
		t.Error("nobody counted the corruption")
	}
}

// TestSQLiteURL: L3 in a file elsewhere.
func TestSQLiteFileElsewhere(t *testing.T) {
	path := filepath.Join(t.TempDir(), "odd name?#%.db")
	e := lab.Open(t, syncengine.Config{SQLURL: "sqlite:" + path})
	lab.Put(t, e, "a", 1)
	lab.Must(t, e.Close())
	if _, err := os.Stat(path); err != nil {
		t.Fatal(err)
	}
	lab.WantContent(t, lab.Open(t, syncengine.Config{SQLURL: "sqlite:" + path}), "a", 1)
}

// orderArchive checks what batches hold: an id once, in one batch at a time, in rising
// versions.
type orderArchive struct {
	syncengine.ArchiveStore
	mu     sync.Mutex // guards the fields below
	last   map[string]uint64
	flying map[string]bool
	faults []string
	recs   int
}

func (o *orderArchive) Apply(ctx context.Context, recs []syncengine.Record) ([]syncengine.Meta, error) {
	o.mu.Lock()
	o.recs += len(recs)
	for _, r := range recs {
		if o.flying[r.ID] || r.Version <= o.last[r.ID] {
			o.faults = append(o.faults, fmt.Sprintf("%s version %d after %d, in flight %v", r.ID, r.Version, o.last[r.ID], o.flying[r.ID]))
		}
		o.last[r.ID], o.flying[r.ID] = r.Version, true
	}
	o.mu.Unlock()
	above, err := o.ArchiveStore.Apply(ctx, recs)
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, r := range recs {
		delete(o.flying, r.ID)
	}
	return above, err
}

func TestINV03OpsOfOneIDReachL3InOrderWithManyBatchesInFlight(t *testing.T) {
	ctx := context.Background()
	l3 := &orderArchive{ArchiveStore: storetest.NewArchive(), last: map[string]uint64{}, flying: map[string]bool{}}
	e := lab.Open(t, syncengine.Config{L3: l3, FlushConcurrency: 8, BatchFlushCount: 7, BatchFlushInterval: time.Millisecond})
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for n := range 300 {
				id := fmt.Sprintf("id-%d-%d", w, n%5) // one writer per id, so that versions rise
				switch n % 6 {
				case 0:
					lab.Must(t, e.Delete(ctx, id))
				case 1:
					_, err := e.SubmitMany(ctx, []syncengine.Item{{ID: id, Content: lab.Doc(id, n)}, {ID: id + "-twin", Content: lab.Doc(id, n)}})
					lab.Must(t, err)
				default:
					lab.Put(t, e, id, n, syncengine.WithDurability(syncengine.Buffered))
				}
			}
		})
	}
	wg.Wait()
	lab.Must(t, e.Flush(ctx))
	for i, f := range l3.faults {
		if i < 5 {
			t.Error(f)
		}
	}
}

func TestABatchHoldsOnlyTheNewestOpOfAnID(t *testing.T) {
	l3 := &orderArchive{ArchiveStore: storetest.NewArchive(), last: map[string]uint64{}, flying: map[string]bool{}}
	e := lab.Open(t, syncengine.Config{L3: l3, BatchFlushInterval: time.Hour})
	for n := range 100 {
		lab.Put(t, e, "hot", n)
	}
	lab.Must(t, e.Flush(context.Background()))
	if l3.recs != 1 {
		t.Errorf("100 writes of one id became %d rows", l3.recs)
	}
}
