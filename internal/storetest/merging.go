//go:build crdt

package storetest

// merging.go holds what an archive adds that merges, with -tags crdt.

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/crdt"
)

// merge makes the record of a merge of a PN counter: of a delta, or, if whole, of the state that
// the delta makes of nothing at another node.
func merge(t testing.TB, id, node string, seq, version uint64, delta string, whole bool) syncengine.Record {
	t.Helper()
	return mergeOf(t, crdt.KindPNCounter, id, node, seq, version, delta, whole)
}

func mergeOf(t testing.TB, kind crdt.Kind, id, node string, seq, version uint64, delta string, whole bool) syncengine.Record {
	t.Helper()
	if whole {
		b, err := crdt.Apply(kind, nil, []byte(delta), crdt.Op{Node: "foreign-" + node, Number: seq, Time: version})
		must(t, "a state", err)
		delta = string(b)
	}
	r := Put(syncengine.MergeKey{ID: id, Node: node, Seq: seq, Delta: !whole}.String(), version, delta)
	r.CRDT = kind.String()
	return r
}

// merger is a store, and what its items must be.
type merger struct {
	syncengine.MergingStore
	versions map[string]uint64
}

// apply asserts that merged is what the items hold that recs merge into, with states as Get
// returns, each at a version that has risen if changes has its id, and else has not; and that
// above is as wanted.
func (m *merger) apply(t *testing.T, recs []syncengine.Record, changes []string, above ...syncengine.Meta) (merged map[string]syncengine.Record) {
	t.Helper()
	got, held, err := m.ApplyMerges(newContext(t), recs)
	must(t, "apply merges", err)
	wantRows(t, "MergingStore.ApplyMerges: above has the rows that stay, and of merges their item's tombstone, under the key of the merge", got, above)
	merged = make(map[string]syncengine.Record)
	for _, r := range held {
		merged[r.ID] = r
		row, err := m.Get(newContext(t), r.ID)
		if field := Diff(&r, &row); err != nil || field != "" {
			t.Errorf("MergingStore.ApplyMerges: merged is what the items hold: %q: %v, %s differs from what Get returns", short(r.ID), err, field)
		}
	}
	for i := range recs {
		key, err := syncengine.ParseMergeKey(recs[i].ID)
		if err != nil {
			continue
		}
		dead := slices.ContainsFunc(above, func(a syncengine.Meta) bool { return a.ID == recs[i].ID })
		r, ok := merged[key.ID]
		was := m.versions[key.ID]
		switch {
		case dead:
			continue
		case !ok:
			t.Errorf("MergingStore.ApplyMerges: merged lacks %q: it has what the items hold that a merge of recs is about", short(key.ID))
		case slices.Contains(changes, key.ID) && r.Version <= was:
			t.Errorf("MergingStore: %q is at %d after a merge, and was at %d: its version is above the one before", short(key.ID), r.Version, was)
		case r.CRDT != "" && !r.Deleted && r.Version%2 != 0:
			t.Errorf("MergingStore: %q is at %d after a merge: its version is even", short(key.ID), r.Version)
		case !slices.Contains(changes, key.ID) && r.Version != was:
			t.Errorf("MergingStore: %q is at %d, and was at %d: a merge that was applied before changes nothing", short(key.ID), r.Version, was)
		}
	}
	for id, r := range merged {
		m.versions[id] = r.Version
	}
	return merged
}

// holds asserts what an item shows.
func (m *merger) holds(t *testing.T, rule, id string, kind crdt.Kind, want string) {
	t.Helper()
	row, err := m.Get(newContext(t), id)
	if err != nil || row.Deleted || row.CRDT != kind.String() {
		t.Errorf("MergingStore: %s: get %q: %+v, %v", rule, id, row, err)
		return
	}
	got, err := crdt.Value(kind, row.Content)
	if err != nil || string(got) != want {
		t.Errorf("MergingStore: %s: %q is %s, %v, want %s", rule, id, got, err, want)
	}
}

// RunMerging holds a MergingStore against its interface. open returns an empty store, prepared; it
// closes what it opened by t.Cleanup.
func RunMerging(t *testing.T, open func(t *testing.T) syncengine.MergingStore) {
	start := func(t *testing.T) *merger { return &merger{open(t), make(map[string]uint64)} }
	const base = 1_000_000
	type recs = []syncengine.Record
	t.Run("a merge changes its item once", func(t *testing.T) {
		const rule = "a merge changes its item, unless the same merge was applied before"
		m := start(t)
		one, two := merge(t, "n", "x", 1, base, "5", false), merge(t, "n", "y", 1, base+1, "-2", false)
		state := merge(t, "n", "z", 1, base+2, "10", true)
		m.apply(t, recs{one}, []string{"n"})
		m.holds(t, rule, "n", crdt.KindPNCounter, "5")
		m.apply(t, recs{one}, nil)
		m.holds(t, rule, "n", crdt.KindPNCounter, "5")
		m.apply(t, recs{one, two}, []string{"n"})
		m.holds(t, rule, "n", crdt.KindPNCounter, "3")
		m.apply(t, recs{state}, []string{"n"})
		m.holds(t, rule, "n", crdt.KindPNCounter, "13")
		m.apply(t, recs{one, two, state}, nil)
		m.holds(t, rule, "n", crdt.KindPNCounter, "13")
	})
	t.Run("merges stand beside plain records", func(t *testing.T) {
		m := start(t)
		high := Put("plain", 9, `9`)
		m.apply(t, recs{high, merge(t, "n", "x", 1, base, "1", false)}, []string{"n"})
		m.apply(t, recs{Put("other", 1, `1`), Put("plain", 8, `8`), merge(t, "n", "x", 2, base+1, "1", false)}, []string{"n"}, metaOf(&high))
		archiveKeeper(m).wantAll(t, recs{high, Put("other", 1, `1`)})
		m.holds(t, "ApplyMerges is Apply for records some of which are merges", "n", crdt.KindPNCounter, "2")
	})
	t.Run("a tombstone that is not below a merge stays", func(t *testing.T) {
		const rule = "a merge changes nothing if the item's tombstone is not below it"
		m := start(t)
		first := merge(t, "n", "x", 1, base, "1", false)
		merged := m.apply(t, recs{first}, []string{"n"})
		gone := Tombstone("n", merged["n"].Version+100)
		must(t, "apply", applied(m.Apply(newContext(t), recs{gone})))
		m.versions["n"] = gone.Version
		late := merge(t, "n", "y", 1, gone.Version, "7", false)
		told := metaOf(&gone)
		told.ID = late.ID
		m.apply(t, recs{late}, nil, told)
		archiveKeeper(m).want(t, gone)
		m.apply(t, recs{merge(t, "n", "y", 2, gone.Version+1, "3", false)}, []string{"n"})
		m.holds(t, rule, "n", crdt.KindPNCounter, "3")
	})
	t.Run("a delta that a state has seen changes nothing", func(t *testing.T) {
		const rule = "a delta changes no state whose clock has its number, unless a later merge of its node was applied already"
		m := start(t)
		waits := merge(t, "n", "x", 7, base, "5", false)
		b, err := crdt.Apply(crdt.KindPNCounter, nil, waits.Content, crdt.Op{Node: "x", Number: 7, Time: base, Seconds: uint64(waits.UpdatedAt.Unix())})
		must(t, "a state", err)
		read := Put(syncengine.MergeKey{ID: "n", Node: "y", Seq: 1}.String(), base+1, string(b))
		read.CRDT = waits.CRDT
		m.apply(t, recs{read}, []string{"n"})
		m.apply(t, recs{waits}, nil)
		m.holds(t, rule, "n", crdt.KindPNCounter, "5")
		m.apply(t, recs{merge(t, "n", "x", 9, base+2, "1", false)}, []string{"n"})
		m.apply(t, recs{merge(t, "n", "x", 8, base+3, "1", false)}, []string{"n"}) // late, and yet not seen
		m.holds(t, rule, "n", crdt.KindPNCounter, "7")
	})
	t.Run("a merge of another kind is refused", func(t *testing.T) {
		m := start(t)
		m.apply(t, recs{merge(t, "n", "x", 1, base, "1", false)}, []string{"n"})
		must(t, "apply", applied(m.Apply(newContext(t), recs{Put("plain", 1, `1`)})))
		others := recs{mergeOf(t, crdt.KindORSet, "n", "x", 2, base+1, `{"add":["e"]}`, false), merge(t, "plain", "x", 3, base+2, "1", false)}
		for _, r := range others {
			_, _, err := m.ApplyMerges(newContext(t), recs{r, Put("beside", 1, `1`)})
			if !errors.Is(err, syncengine.ErrRefused) {
				t.Errorf("MergingStore.ApplyMerges of a %s into %q: %v: a merge whose kind is not that of its live item is refused", r.CRDT, r.ID, err)
			}
		}
		archiveKeeper(m).wantAbsent(t, "beside")
		m.holds(t, "what is refused changes nothing", "n", crdt.KindPNCounter, "1")
	})
	t.Run("ApplyIf is given merges, too", func(t *testing.T) {
		m := start(t)
		s := &judged{ConditionalStore: m}
		one, two := merge(t, "n", "x", 1, base, "5", false), merge(t, "n", "x", 2, base+1, "1", false)
		s.apply(t, [][]syncengine.Conditional{unit(Always(one), If(0, Put("beside", 1, `1`))), unit(If(3, Put("absent", 4, `1`)), Always(two))}, "applied", "conflict 0 none")
		m.holds(t, "a unit is stored as a whole or not at all", "n", crdt.KindPNCounter, "5")
		row, err := m.Get(newContext(t), "n")
		must(t, "get", err)
		m.versions["n"] = row.Version
		m.apply(t, recs{one}, nil)
		m.apply(t, recs{one, two}, []string{"n"})
		m.holds(t, "ApplyIf and ApplyMerges know of each other's merges", "n", crdt.KindPNCounter, "6")
	})
	t.Run("states are those of a model", func(t *testing.T) { testMergesLikeAModel(t, start(t)) })
}

// testMergesLikeAModel draws deltas and states of several kinds, sends some again, and compares
// with what package crdt makes of them in the order of calls and keys.
func testMergesLikeAModel(t *testing.T, m *merger) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	deltas := map[crdt.Kind][]string{
		crdt.KindPNCounter: {"1", "-2", "5"},
		crdt.KindORSet:     {`{"add":["x"]}`, `{"remove":["x"]}`, `{"add":["y","z"]}`},
		crdt.KindLWWMap:    {`{"set":{"k":"1"}}`, `{"set":{"k":"2","l":"1"}}`, `{"remove":["k"]}`},
	}
	kinds := []crdt.Kind{crdt.KindPNCounter, crdt.KindORSet, crdt.KindLWWMap}
	states, applied := make(map[string][]byte), make(map[string]bool)
	var sent []syncengine.Record
	seq, version := uint64(0), uint64(1_000_000)
	for range 25 {
		var recs []syncengine.Record
		for range 1 + rng.IntN(6) {
			if len(sent) > 0 && rng.IntN(4) == 0 {
				recs = append(recs, sent[rng.IntN(len(sent))])
				continue
			}
			kind := kinds[rng.IntN(len(kinds))]
			seq, version = seq+1, version+uint64(rng.IntN(3))
			recs = append(recs, mergeOf(t, kind, kind.String(), fmt.Sprintf("node%d", rng.IntN(2)), seq, version, deltas[kind][rng.IntN(3)], rng.IntN(4) == 0))
		}
		slices.SortFunc(recs, func(a, b syncengine.Record) int { return strings.Compare(a.ID, b.ID) })
		recs = slices.CompactFunc(recs, func(a, b syncengine.Record) bool { return a.ID == b.ID })
		for _, r := range recs {
			key, err := syncengine.ParseMergeKey(r.ID)
			must(t, "key", err)
			if applied[r.ID] {
				continue
			}
			applied[r.ID], sent = true, append(sent, r)
			kind, state := crdtKind(t, r.CRDT), states[key.ID]
			switch {
			case key.Delta:
				state, err = crdt.Apply(kind, state, r.Content, crdt.Op{Node: key.Node, Number: key.Seq, Time: r.Version, Seconds: uint64(r.UpdatedAt.Unix())})
			case state == nil:
				state, err = crdt.Canonical(kind, r.Content)
			default:
				state, err = crdt.Merge(kind, state, r.Content)
			}
			must(t, "model", err)
			states[key.ID] = state
		}
		above, _, err := m.ApplyMerges(newContext(t), recs)
		if err != nil || len(above) > 0 {
			t.Fatalf("apply merges: %v, %v", above, err)
		}
		for id, state := range states {
			row, err := m.Get(newContext(t), id)
			if err != nil || string(row.Content) != string(state) {
				t.Fatalf("MergingStore: %q is %s, %v, want %s: each merge changes its item once, in the order of keys", id, row.Content, err, state)
			}
			if row.Version < m.versions[id] {
				t.Errorf("MergingStore: %q is at %d, and was at %d: its version is above the one before", id, row.Version, m.versions[id])
			}
			m.versions[id] = row.Version
		}
	}
}

func crdtKind(t testing.TB, name string) crdt.Kind {
	t.Helper()
	k, err := crdt.ParseKind(name)
	must(t, "kind", err)
	return k
}

// runSharedMerging merges through two stores on one database.
func runSharedMerging(t *testing.T, open func(t *testing.T) []syncengine.ArchiveStore) {
	t.Run("merges of several stores all count, once", func(t *testing.T) {
		s := open(t)
		const each = 20
		var wg sync.WaitGroup
		for i := range s {
			wg.Go(func() {
				for n := range uint64(each) {
					recs := []syncengine.Record{
						merge(t, "n", "both", n+1, 1_000_000+n, "100", false), // of a store that has given up, and is sent again by the other one
						merge(t, "n", fmt.Sprint("node", i), n+1, 1_000_000+n, "1", false),
					}
					if _, _, err := s[i].(syncengine.MergingStore).ApplyMerges(newContext(t), recs); err != nil {
						t.Errorf("apply merges: %v", err)
						return
					}
				}
			})
		}
		wg.Wait()
		for i := range s {
			m := &merger{s[i].(syncengine.MergingStore), nil}
			m.holds(t, "a merge changes its item once, whichever store applies it", "n", crdt.KindPNCounter, fmt.Sprint(each*100+len(s)*each))
		}
	})
}
