//go:build crdt

package merging

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/crdt"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

// l3s are where merges are decided.
var l3s = map[string]func(t testing.TB) string{
	"SQLite":  func(t testing.TB) string { return "sqlite:" + t.TempDir() + "/shared.db" },
	"MariaDB": func(t testing.TB) string { return testserver.SharedMariaDB(t).NewDatabase(t) },
}

func value(t testing.TB, it syncengine.Item, err error) string {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	k, err := crdt.ParseKind(it.CRDT)
	lab.Must(t, err)
	v, err := crdt.Value(k, it.Content)
	if err != nil {
		t.Fatalf("%+v: %v", it, err)
	}
	return string(v)
}

func wantValue(t testing.TB, e *syncengine.Engine, id, want string) {
	t.Helper()
	it, err := e.Get(context.Background(), id)
	if got := value(t, it, err); got != want {
		t.Errorf("Get(%s): %s, want %s", id, got, want)
	}
}

func merge(t testing.TB, e *syncengine.Engine, id, kind, delta string, opts ...syncengine.WriteOption) syncengine.Item {
	t.Helper()
	it, err := e.Merge(context.Background(), id, kind, json.RawMessage(delta), opts...)
	if err != nil {
		t.Fatalf("Merge: %v", err)
	}
	return it
}

func TestMergesOfOneEngineAreReadAtOnceAndLandOnce(t *testing.T) {
	for _, d := range []syncengine.Durability{syncengine.Buffered, syncengine.Logged, syncengine.Archived} {
		t.Run(fmt.Sprint(d), func(t *testing.T) {
			ctx := context.Background()
			dir := t.TempDir()
			e := lab.Open(t, syncengine.Config{Dir: dir})
			for n := range 50 {
				merge(t, e, "c", "GCounter", "2", syncengine.WithDurability(d))
				if n%7 == 0 {
					wantValue(t, e, "c", fmt.Sprint(2*n+2))
				}
			}
			lab.Must(t, e.Flush(ctx))
			wantValue(t, e, "c", "100")
			merge(t, e, "c", "GCounter", "1", syncengine.WithDurability(d))
			wantValue(t, e, "c", "101")
			lab.Must(t, e.Close())
			e = lab.Open(t, syncengine.Config{Dir: dir})
			wantValue(t, e, "c", "101")
			if n := e.Len(); n != 1 {
				t.Errorf("Len: %d", n)
			}
			lab.Must(t, e.Delete(ctx, "c"))
			merge(t, e, "c", "GCounter", "5")
			wantValue(t, e, "c", "5")
			lab.Must(t, e.Flush(ctx))
			wantValue(t, e, "c", "5")
		})
	}
}

func TestINV14CountersOfTwoEnginesAddUp(t *testing.T) {
	for name, l3 := range l3s {
		t.Run(name, func(t *testing.T) {
			ctx := context.Background()
			cfg := syncengine.Config{SQLURL: l3(t), L1MaxAge: time.Millisecond, BatchFlushInterval: 5 * time.Millisecond}
			var wg sync.WaitGroup
			engines := []*syncengine.Engine{lab.Open(t, cfg), lab.Open(t, cfg)}
			for i, e := range engines {
				for c := range 4 {
					wg.Go(func() {
						for n := range 50 {
							if _, err := e.Merge(ctx, fmt.Sprint("c-", n%3), "PNCounter", json.RawMessage(fmt.Sprint(1+(i+c)%2))); err != nil {
								t.Error(err)
							}
						}
					})
				}
			}
			wg.Wait()
			for _, e := range engines {
				lab.Must(t, e.Flush(ctx))
			}
			for _, e := range engines {
				sum := 0
				for n := range 3 {
					lab.Eventually(t, "both see the same", func() bool {
						a, err := engines[0].Get(ctx, fmt.Sprint("c-", n))
						lab.Must(t, err)
						b, err := engines[1].Get(ctx, fmt.Sprint("c-", n))
						lab.Must(t, err)
						return string(a.Content) == string(b.Content)
					})
					it, err := e.Get(ctx, fmt.Sprint("c-", n))
					var v int
					lab.Must(t, json.Unmarshal([]byte(value(t, it, err)), &v))
					sum += v
				}
				if sum != 600 {
					t.Errorf("the sum is %d, want 600", sum)
				}
			}
		})
	}
}

func TestStatesAreMergedNotOverwritten(t *testing.T) {
	ctx := context.Background()
	cfg := syncengine.Config{SQLURL: l3s["SQLite"](t), L1MaxAge: time.Millisecond}
	a, b := lab.Open(t, cfg), lab.Open(t, cfg)
	set := func(e *syncengine.Engine, node, element string) {
		var s crdt.GSet
		lab.Must(t, s.Insert(node, element))
		content, err := json.Marshal(s)
		lab.Must(t, err)
		lab.Must(t, e.Submit(ctx, syncengine.Item{ID: "s", CRDT: "g_set", Content: content}))
	}
	set(a, "a", "x")
	set(b, "b", "y")
	lab.Must(t, a.Flush(ctx))
	lab.Must(t, b.Flush(ctx))
	for _, e := range []*syncengine.Engine{a, b} {
		lab.Eventually(t, "both elements", func() bool {
			it, err := e.Get(ctx, "s")
			return value(t, it, err) == `["x","y"]`
		})
	}
	archived := syncengine.WithDurability(syncengine.Archived) // L3 knows, whatever memory does
	err := a.Submit(ctx, syncengine.Item{ID: "s", Content: []byte(`1`)}, archived)
	if !errors.Is(err, syncengine.ErrKindMismatch) {
		t.Errorf("a plain item over a set: %v", err)
	}
	if _, err := b.Merge(ctx, "s", "GCounter", []byte(`1`), archived); !errors.Is(err, syncengine.ErrKindMismatch) {
		t.Errorf("a counter's delta to a set: %v", err)
	}
}

// TestAMergeIntoANewIDIsKnownAtOnce: an engine alone knows that nothing was there.
func TestAMergeIntoANewIDIsKnownAtOnce(t *testing.T) {
	ctx := context.Background()
	e := lab.Open(t, syncengine.Config{Dir: t.TempDir(), BatchFlushInterval: time.Hour})
	lab.Eventually(t, "the filter is trusted", func() bool { return e.Stats().FilterTrusted })
	if got := value(t, merge(t, e, "new", "GCounter", "2"), nil); got != "2" {
		t.Errorf("Merge returns %s", got)
	}
	wantValue(t, e, "new", "2")
	if s := e.Stats(); s.PendingOps != 1 {
		t.Errorf("a read has flushed: %d pending", s.PendingOps)
	}
	lab.Must(t, e.Flush(ctx))
	merge(t, e, "new", "GCounter", "2")
	wantValue(t, e, "new", "4")
}

// TestINV02AConditionDecidedBesideMergesIsSeen: L3 is changed past the merges that wait.
func TestINV02AConditionDecidedBesideMergesIsSeen(t *testing.T) {
	ctx := context.Background()
	e := lab.Open(t, syncengine.Config{SQLURL: l3s["SQLite"](t)})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 25 {
				if _, err := e.Merge(ctx, "c", "PNCounter", json.RawMessage("1")); err != nil {
					t.Error(err)
				}
			}
		})
		wg.Go(func() {
			for n := range 10 {
				node := fmt.Sprint("update-", n)
				it, err := e.Update(ctx, "c", func(cur syncengine.Item, _ bool) (it syncengine.Item, err error) {
					it.CRDT = "PNCounter"
					it.Content, err = crdt.Apply(crdt.KindPNCounter, cur.Content, []byte("1000"), crdt.Op{Node: node})
					return it, err
				})
				if err != nil {
					t.Error(err)
					continue
				}
				now, err := e.Get(ctx, "c")
				was, is := counter(t, it), counter(t, now)
				if err != nil || is/1000 < was/1000 {
					t.Errorf("Update returned %d, then Get %d, %v", was, is, err)
				}
			}
		})
	}
	wg.Wait()
	it, err := e.Get(ctx, "c")
	lab.Must(t, err)
	if got := counter(t, it); got != 40_100 {
		t.Errorf("%d, want 40100", got)
	}
}

func counter(t testing.TB, it syncengine.Item) (n int) {
	t.Helper()
	lab.NoError(t, "counter", json.Unmarshal([]byte(value(t, it, nil)), &n))
	return n
}

// decides runs a function when L3 has decided conditions, and before the engine knows.
type decides struct {
	syncengine.MergingStore
	then func()
}

func (d *decides) ApplyIf(ctx context.Context, nonce uint64, units [][]syncengine.Conditional) ([]syncengine.Verdict, error) {
	verdicts, err := d.MergingStore.ApplyIf(ctx, nonce, units)
	d.then()
	return verdicts, err
}

// TestINV02AMergeBesideTheVerdictOnAConditionHidesItNot: what the merge is seen applied to is
// older.
func TestINV02AMergeBesideTheVerdictOnAConditionHidesItNot(t *testing.T) {
	ctx := context.Background()
	raw, err := lab.OpenSQLStore(l3s["SQLite"](t))
	lab.Must(t, err)
	t.Cleanup(func() { _ = raw.Close() })
	lab.Must(t, raw.Prepare(ctx))
	l3 := &decides{MergingStore: raw.(syncengine.MergingStore), then: func() {}}
	e := lab.Open(t, syncengine.Config{L3: l3, BatchFlushInterval: time.Hour})
	merge(t, e, "c", "PNCounter", "1", syncengine.WithDurability(syncengine.Archived))
	wantValue(t, e, "c", "1")
	l3.then = func() { merge(t, e, "c", "PNCounter", "5", syncengine.WithDurability(syncengine.Buffered)) }
	_, err = e.Update(ctx, "c", func(cur syncengine.Item, _ bool) (it syncengine.Item, err error) {
		it.CRDT = "PNCounter"
		it.Content, err = crdt.Apply(crdt.KindPNCounter, cur.Content, []byte("100"), crdt.Op{Node: "update"})
		return it, err
	})
	lab.Must(t, err)
	wantValue(t, e, "c", "106")
}

// TestINV14ReadAndResetMissesNoMerge: what was read and deleted, and what is left, is all that was
// merged.
func TestINV14ReadAndResetMissesNoMerge(t *testing.T) {
	for name, url := range l3s {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := context.Background()
			url := url(t)
			engines := []*syncengine.Engine{lab.Open(t, syncengine.Config{SQLURL: url}), lab.Open(t, syncengine.Config{SQLURL: url})}
			var wg sync.WaitGroup
			var left atomic.Int32
			for i := range 4 {
				left.Add(1)
				wg.Go(func() {
					defer left.Add(-1)
					for n := range 100 {
						d := []syncengine.Durability{syncengine.Buffered, syncengine.Logged, syncengine.Archived}[n%3]
						merge(t, engines[i%2], "c", "PNCounter", "1", syncengine.WithDurability(d))
					}
				})
			}
			sum := 0
			reset := func() {
				it, err := engines[0].Get(ctx, "c")
				if errors.Is(err, syncengine.ErrNotFound) {
					return
				}
				n := counter(t, it)
				lab.Must(t, err)
				if err := engines[0].Delete(ctx, "c", syncengine.WithIfVersion(it.Version)); err == nil {
					sum += n
				} else if !errors.Is(err, syncengine.ErrConflict) {
					t.Error(err)
				}
			}
			resets := 0
			for left.Load() > 0 {
				reset()
				resets++
			}
			wg.Wait()
			for _, e := range engines {
				lab.Must(t, e.Flush(ctx))
			}
			engines[0].Close()
			engines[0] = lab.Open(t, syncengine.Config{SQLURL: url}) // with no copy in memory
			reset()
			if sum != 400 {
				t.Errorf("%d were read and reset, of 400, in %d tries", sum, resets)
			}
		})
	}
}

// An engine that has merged nothing yet has prepared nothing for it, and SQLite has one connection.
func TestTheFirstWriteOfAnEngineMayBeADelete(t *testing.T) {
	ctx := context.Background()
	for name, write := range map[string]func(e *syncengine.Engine, v uint64) error{
		"plain": func(e *syncengine.Engine, _ uint64) error {
			return e.Delete(ctx, "c", syncengine.WithDurability(syncengine.Archived))
		},
		"with a condition": func(e *syncengine.Engine, v uint64) error { return e.Delete(ctx, "c", syncengine.WithIfVersion(v)) },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := syncengine.Config{SQLURL: l3s["SQLite"](t)}
			e := lab.Open(t, cfg)
			merge(t, e, "c", "PNCounter", "1", syncengine.WithDurability(syncengine.Archived))
			lab.Must(t, e.Close())
			e = lab.Open(t, cfg)
			it, err := e.Get(ctx, "c")
			lab.Must(t, err)
			lab.Must(t, write(e, it.Version))
			if _, err := e.Get(ctx, "c"); !errors.Is(err, syncengine.ErrNotFound) {
				t.Errorf("it is there still: %v", err)
			}
		})
	}
}

// TestINV14ConditionsOnAnItemThatIsMergedIntoAreDecidedInOnePlace, also on the engine's own file:
// of a delete and an update that saw the same version one wins.
func TestINV14ConditionsOnAnItemThatIsMergedIntoAreDecidedInOnePlace(t *testing.T) {
	ctx := context.Background()
	for name, add := range map[string]func(e *syncengine.Engine, n int) error{
		"updates": func(e *syncengine.Engine, n int) error {
			_, err := e.Update(ctx, "c", func(cur syncengine.Item, _ bool) (it syncengine.Item, err error) {
				it.CRDT = "PNCounter"
				it.Content, err = crdt.Apply(crdt.KindPNCounter, cur.Content, []byte("1"), crdt.Op{Node: fmt.Sprint("u", n)})
				return it, err
			})
			return err
		},
		"merges": func(e *syncengine.Engine, _ int) error {
			_, err := e.Merge(ctx, "c", "PNCounter", json.RawMessage("1"))
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := lab.Open(t, syncengine.Config{Dir: t.TempDir()})
			sum, left := 0, make(chan struct{})
			reset := func() {
				it, err := e.Get(ctx, "c")
				if errors.Is(err, syncengine.ErrNotFound) {
					time.Sleep(100 * time.Microsecond)
					return
				}
				n := counter(t, it)
				lab.Must(t, err)
				if err := e.Delete(ctx, "c", syncengine.WithIfVersion(it.Version)); err == nil {
					sum += n
				} else if !errors.Is(err, syncengine.ErrConflict) {
					t.Error(err)
				}
			}
			go func() {
				defer close(left)
				for n := range 60 {
					if err := add(e, n); err != nil {
						t.Error(err)
					}
				}
			}()
			for done := false; !done; {
				select {
				case <-left:
					done = true
				default:
					reset()
				}
			}
			lab.Must(t, e.Flush(ctx))
			reset()
			if sum != 60 {
				t.Errorf("%d were read and reset, of 60", sum)
			}
		})
	}
}

// TestAConditionOnWhatWasReadWhileMergesWaitHolds: the version that was read is that of no row.
func TestAConditionOnWhatWasReadWhileMergesWaitHolds(t *testing.T) {
	ctx := context.Background()
	for name, cfg := range map[string]syncengine.Config{"own file": {Dir: t.TempDir()}, "shared": {SQLURL: l3s["SQLite"](t)}} {
		t.Run(name, func(t *testing.T) {
			cfg.BatchFlushInterval = time.Hour // until a condition wants to know
			e := lab.Open(t, cfg)
			for range 20 {
				merge(t, e, "c", "PNCounter", "1")
				merge(t, e, "c", "PNCounter", "2")
				it, err := e.Get(ctx, "c")
				lab.Must(t, err)
				lab.NoError(t, "delete what was read", e.Delete(ctx, "c", syncengine.WithIfVersion(it.Version)))
				merge(t, e, "c", "PNCounter", "1")
				it, err = e.Get(ctx, "c")
				lab.Must(t, err)
				merge(t, e, "c", "PNCounter", "1") // not read
				if err := e.Delete(ctx, "c", syncengine.WithIfVersion(it.Version)); !errors.Is(err, syncengine.ErrConflict) {
					t.Errorf("delete of what has changed since: %v", err)
				}
				lab.Must(t, e.Delete(ctx, "c"))
			}
		})
	}
}
