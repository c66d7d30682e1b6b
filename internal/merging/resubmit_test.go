//go:build crdt

package merging

// resubmit_test.go reads states while merges wait, and submits them again.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/crdt"
	"github.com/syncengine-go/syncengine/internal/lab"
)

// A state that was read has the dots that its merges get in L3, whatever they wait for: lanes, the
// log, the spool.
func TestAStateThatWasReadWhileMergesWaitMayBeSubmittedAgain(t *testing.T) {
	kinds := []struct{ kind, first, second, third, want string }{
		{"GCounter", "1", "2", "4", "7"},
		{"PNCounter", "1", "-2", "4", "3"},
		{"ORSet", `{"add":["x","y"]}`, `{"remove":["x"],"add":["z"]}`, `{"add":["x"]}`, `["x","y","z"]`},
		{"ORMap", `{"set":{"k":"1","l":"1"}}`, `{"set":{"k":"2"}}`, `{"remove":["l"]}`, `{"k":["2"]}`},
		{"MVRegister", `"a"`, `"b"`, `"c"`, `["c"]`},
		{"LWWMap", `{"set":{"k":"1"}}`, `{"set":{"k":"2"}}`, `{"remove":["l"]}`, `{"k":"2"}`},
	}
	for name, url := range l3s {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := context.Background()
			raw, err := lab.OpenSQLStore(url(t))
			lab.Must(t, err)
			t.Cleanup(func() { _ = raw.Close() })
			lab.Must(t, raw.Prepare(ctx))
			var mode atomic.Int32
			e := lab.Open(t, syncengine.Config{L3: &gate{MergingStore: raw.(syncengine.MergingStore), mode: &mode}, BatchFlushCount: 1})
			other := lab.Open(t, syncengine.Config{L3: raw})
			again := func(id, kind string, d syncengine.Durability) {
				t.Helper()
				it, err := e.Get(ctx, id)
				lab.Must(t, err)
				it.Priority = syncengine.PriorityCritical
				lab.Must(t, e.Submit(ctx, it, syncengine.WithDurability(d)))
			}
			low, buffered := syncengine.WithPriority(syncengine.PriorityLow), syncengine.WithDurability(syncengine.Buffered)
			for _, k := range kinds {
				merge(t, e, k.kind, k.kind, k.first, syncengine.WithDurability(syncengine.Archived))
				again(k.kind, k.kind, syncengine.Archived) // it is known here now
			}
			mode.Store(gateShut)
			for _, k := range kinds {
				again(k.kind, k.kind, syncengine.Logged)
				merge(t, e, k.kind, k.kind, k.second, low, buffered)
				again(k.kind, k.kind, syncengine.Buffered)
				merge(t, e, k.kind, k.kind, k.third, low)
				again(k.kind, k.kind, syncengine.Logged)
			}
			mode.Store(gateOpen)
			lab.Eventually(t, "Flush succeeds", func() bool { return e.Flush(ctx) == nil })
			for _, k := range kinds {
				wantValue(t, e, k.kind, k.want)
				it, err := other.Rebuild(ctx, k.kind)
				if got := value(t, it, err); got != k.want {
					t.Errorf("%s: the other engine rebuilds %s, want %s", k.kind, got, k.want)
				}
				again(k.kind, k.kind, syncengine.Archived)
				wantValue(t, other, k.kind, k.want)
			}
		})
	}
}

// Merges in memory alone go into the log before a later state that has them: the next engine would
// take those that it drains after it for late ones, and apply them once more.
func TestAStateIsNotLoggedBeforeTheBufferedMergesThatItHas(t *testing.T) {
	ctx := context.Background()
	raw, err := lab.OpenSQLStore(l3s["SQLite"](t))
	lab.Must(t, err)
	t.Cleanup(func() { _ = raw.Close() })
	lab.Must(t, raw.Prepare(ctx))
	var mode atomic.Int32
	cfg := syncengine.Config{
		Dir: t.TempDir(), L3: &gate{MergingStore: raw.(syncengine.MergingStore), mode: &mode}, BatchFlushInterval: time.Hour, BatchFlushCount: 1000,
		CloseTimeout: 200 * time.Millisecond,
	}
	e := lab.Open(t, cfg)
	merge(t, e, "n", "PNCounter", "1", syncengine.WithDurability(syncengine.Archived))
	_, err = e.Get(ctx, "n")
	lab.Must(t, err)
	mode.Store(gateShut)
	for range 3 {
		merge(t, e, "n", "PNCounter", "10", syncengine.WithDurability(syncengine.Buffered))
		merge(t, e, "other", "PNCounter", "10", syncengine.WithDurability(syncengine.Buffered))
		it, err := e.Get(ctx, "n")
		lab.Must(t, err)
		lab.Must(t, e.Submit(ctx, it))
	}
	if err := e.Close(); err == nil {
		t.Fatal("nothing waits")
	}
	mode.Store(gateOpen)
	cfg.BatchFlushCount = 1 // what is flushed together is in order
	e = lab.Open(t, cfg)
	lab.Must(t, e.Flush(ctx))
	wantValue(t, e, "n", "31")
	wantValue(t, e, "other", "30")
}

// After a kill that loses Buffered merges, states that had them may be about still.
func TestADotIsNotGivenOutAgainAfterAKill(t *testing.T) {
	ctx := context.Background()
	url := l3s["SQLite"](t)
	raw, err := lab.OpenSQLStore(url)
	lab.Must(t, err)
	t.Cleanup(func() { _ = raw.Close() })
	lab.Must(t, raw.Prepare(ctx))
	var mode atomic.Int32
	cfg := syncengine.Config{Dir: t.TempDir(), L3: &gate{MergingStore: raw.(syncengine.MergingStore), mode: &mode}, BatchFlushInterval: time.Hour}
	e := lab.Open(t, cfg)
	merge(t, e, "set", "ORSet", `{"add":["logged"]}`, syncengine.WithDurability(syncengine.Archived))
	_, err = e.Get(ctx, "set")
	lab.Must(t, err)
	mode.Store(gateShut)
	merge(t, e, "set", "ORSet", `{"add":["lost"]}`, syncengine.WithDurability(syncengine.Buffered))
	image := lab.Killed(t, cfg.Dir)
	seen, err := e.Get(ctx, "set")
	lab.Must(t, err)

	mode.Store(gateOpen)
	cfg = syncengine.Config{Dir: image, L3: raw}
	e = lab.Open(t, cfg)
	merge(t, e, "set", "ORSet", `{"add":["later"]}`)
	wantValue(t, e, "set", `["later","logged"]`)
	lab.Must(t, e.Submit(ctx, seen))
	lab.Must(t, e.Flush(ctx))
	wantValue(t, e, "set", `["later","logged","lost"]`)
	lab.Must(t, e.Close())
	e = lab.Open(t, cfg)
	merge(t, e, "set", "ORSet", `{"add":["last"]}`)
	lab.Must(t, e.Submit(ctx, seen, syncengine.WithDurability(syncengine.Archived)))
	wantValue(t, e, "set", `["last","later","logged","lost"]`)
}

// What was before a delete has other dots than what comes after.
func TestADeletedItemBeginsWithNewDots(t *testing.T) {
	ctx := context.Background()
	e := lab.Open(t, syncengine.Config{SQLURL: l3s["SQLite"](t)})
	archived := syncengine.WithDurability(syncengine.Archived)
	merge(t, e, "set", "ORSet", `{"add":["old"]}`, archived)
	old, err := e.Get(ctx, "set")
	lab.Must(t, err)
	lab.Must(t, e.Delete(ctx, "set", archived))
	merge(t, e, "set", "ORSet", `{"add":["new"]}`, archived)
	lab.Must(t, e.Submit(ctx, old, archived))
	wantValue(t, e, "set", `["new"]`) // it has seen more of the node than the old state, and not "old"
}

// TestAStateThatWasReadWhereMergesWaitMayBeGivenToOthers: they land later, perhaps in a transaction
// whose reply is lost, and change nothing.
func TestAStateThatWasReadWhereMergesWaitMayBeGivenToOthers(t *testing.T) {
	kinds := []struct{ kind, first, second, third, then, want string }{
		{"GCounter", "1", "2", "4", "8", "15"},
		{"PNCounter", "1", "-2", "4", "-8", "-5"},
		{"GSet", `["a"]`, `["b"]`, `["c"]`, `["d"]`, `["a","b","c","d"]`},
		{"ORSet", `{"add":["x","y"]}`, `{"add":["z"]}`, `{"add":["x"]}`, `{"remove":["x","z"]}`, `["y"]`},
		{"ORMap", `{"set":{"k":"1"}}`, `{"set":{"l":"2"}}`, `{"set":{"k":"3"}}`, `{"remove":["k"]}`, `{"l":["2"]}`},
		{"MVRegister", `"a"`, `"b"`, `"c"`, `"d"`, `["d"]`},
		{"LWWRegister", `{"value":"a"}`, `{"value":"b"}`, `{"value":"c"}`, `{"value":"d"}`, `"d"`},
	}
	for name, url := range l3s {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := context.Background()
			url := url(t)
			raw, err := lab.OpenSQLStore(url)
			lab.Must(t, err)
			t.Cleanup(func() { _ = raw.Close() })
			lab.Must(t, raw.Prepare(ctx))
			var mode atomic.Int32
			archived := syncengine.WithDurability(syncengine.Archived)
			a := lab.Open(t, syncengine.Config{L3: &gate{MergingStore: raw.(syncengine.MergingStore), mode: &mode}, BatchFlushCount: 1, L1MaxAge: time.Millisecond})
			b := lab.Open(t, syncengine.Config{SQLURL: url, L1MaxAge: time.Millisecond})
			for _, k := range kinds {
				merge(t, a, k.kind, k.kind, k.first, archived)
				_, err := a.Get(ctx, k.kind)
				lab.Must(t, err)
			}
			mode.Store(gateShut)
			for i, k := range kinds {
				var seen [2]syncengine.Item
				for n, delta := range []string{k.second, k.third} {
					merge(t, a, k.kind, k.kind, delta, syncengine.WithDurability([]syncengine.Durability{syncengine.Buffered, syncengine.Logged}[(i+n)%2]))
					seen[n], err = a.Get(ctx, k.kind)
					lab.Must(t, err)
				}
				lab.Must(t, b.Submit(ctx, seen[i%2], archived))
				lab.Must(t, b.Submit(ctx, seen[1-i%2], archived))
				merge(t, b, k.kind, k.kind, k.then, archived)
			}
			mode.Store(gateMute)
			lab.Eventually(t, "it is tried", func() bool { return a.Flush(ctx) != nil })
			mode.Store(gateOpen)
			lab.Eventually(t, "Flush succeeds", func() bool { return a.Flush(ctx) == nil })
			for _, k := range kinds {
				wantValue(t, a, k.kind, k.want)
				it, err := b.Rebuild(ctx, k.kind)
				if got := value(t, it, err); got != k.want {
					t.Errorf("%s: rebuilt: %s, want %s", k.kind, got, k.want)
				}
			}
		})
	}
}

// MaxItemBytes bounds what is new. Merges make a state larger than that, and it is one of those
// that may be submitted again.
func TestAStateLargerThanMaxItemBytesMayBeSubmittedAgain(t *testing.T) {
	for name, cfg := range map[string]syncengine.Config{
		"the file in Dir": {}, "SQLite": {SQLURL: l3s["SQLite"](t)}, "MariaDB": {SQLURL: l3s["MariaDB"](t)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := context.Background()
			cfg.MaxItemBytes = 10_000
			e := lab.Open(t, cfg)
			for n := range 20 {
				merge(t, e, "s", "GSet", fmt.Sprintf(`{"add":["%01000d"]}`, n))
			}
			changed := func(it syncengine.Item, element string) syncengine.Item {
				var s crdt.GSet
				lab.Must(t, json.Unmarshal(it.Content, &s))
				lab.Must(t, s.Insert("mine", element))
				content, err := json.Marshal(s)
				lab.Must(t, err)
				it.Content = content
				return it
			}
			for what, again := range map[string]func(syncengine.Item) error{
				"Submit as it is": func(it syncengine.Item) error { return e.Submit(ctx, it) },
				"Submit":          func(it syncengine.Item) error { return e.Submit(ctx, changed(it, "Submit")) },
				"Submit, Archived": func(it syncengine.Item) error {
					return e.Submit(ctx, changed(it, "Archived"), syncengine.WithDurability(syncengine.Archived))
				},
				"SubmitMany": func(it syncengine.Item) error {
					_, err := e.SubmitMany(ctx, []syncengine.Item{changed(it, "SubmitMany"), {ID: "other", Content: []byte("1")}})
					return err
				},
				"SubmitEach": func(it syncengine.Item) error {
					_, err := e.SubmitEach(ctx, slices.Values([]syncengine.Item{changed(it, "SubmitEach")}), syncengine.EachOptions{})
					return err
				},
				"Update": func(syncengine.Item) error {
					_, err := e.Update(ctx, "s", func(it syncengine.Item, _ bool) (syncengine.Item, error) { return changed(it, "Update"), nil })
					return err
				},
			} {
				it, err := e.Get(ctx, "s")
				if lab.Must(t, err); len(it.Content) < 20_000 {
					t.Fatalf("%d bytes", len(it.Content))
				}
				lab.NoError(t, what, again(it))
			}
			lab.Must(t, e.Flush(ctx))
			var s crdt.GSet
			it, err := e.GetVerified(ctx, "s")
			lab.Must(t, err)
			lab.Must(t, json.Unmarshal(it.Content, &s))
			if n := len(s.Elements()); n != 25 {
				t.Errorf("%d elements, want 25", n)
			}
			_, err = e.Merge(ctx, "s", "GSet", []byte(fmt.Sprintf(`{"add":["%010000d"]}`, 1)))
			for what, err := range map[string]error{
				"a delta":                err,
				"a plain item":           e.Submit(ctx, syncengine.Item{ID: "p", Content: []byte(fmt.Sprintf(`"%010000d"`, 1))}),
				"a state of over 16 MiB": e.Submit(ctx, syncengine.Item{ID: "s", CRDT: "GSet", Content: make([]byte, 16<<20+1)}),
			} {
				var ie *syncengine.InvalidItemError
				if !errors.As(err, &ie) || !ie.TooLarge {
					t.Errorf("%s: %v", what, err)
				}
			}
		})
	}
}
