package cuckoo

// properties_test.go runs random inserts, deletes, snapshots and rebuilds, and compares the set
// with a plain map.

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"
)

// model is an owner: it knows what is in the set, and what of it is deleted.
type model struct {
	set     *Set
	ids     map[string]bool // false: deleted
	stale   int
	batches int
}

func (m *model) insert(t *rapid.T, id string) {
	contained := m.set.Contains(id)
	if m.set.Insert(id) == contained {
		t.Fatalf("Insert(%q) says it changed the set: %v, it had contained it: %v", id, !contained, contained)
	}
	if isLive, isThere := m.ids[id]; isThere && !isLive {
		m.set.AddStale(-1)
		m.stale--
	}
	m.ids[id] = true
}

// check is the invariant.
func (m *model) check(t *rapid.T) {
	for id := range m.ids {
		if !m.set.Contains(id) {
			t.Fatalf("%q is denied, among %d ids", id, len(m.ids))
		}
	}
	if added := m.set.Added(); added > len(m.ids) || added < len(m.ids)-5-len(m.ids)/100 {
		t.Fatalf("%d ids added, want %d", added, len(m.ids))
	} else if stale := min(m.stale, added); m.set.Stale() != stale || m.set.Len() != added-stale {
		t.Fatalf("stale %d, len %d, want %d, %d", m.set.Stale(), m.set.Len(), stale, added-stale)
	}
	if m.set.Poisoned() {
		t.Fatal("poisoned")
	}
}

func TestSetAgreesWithAMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seed := Seed(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "seed"))
		m := &model{set: New(rapid.IntRange(0, 3000).Draw(t, "expected"), seed), ids: map[string]bool{}}
		t.Repeat(map[string]func(*rapid.T){
			"": m.check,
			"insert": func(t *rapid.T) {
				m.insert(t, rapid.OneOf(rapid.StringMatching(`[ab]{0,3}`), rapid.String()).Draw(t, "id"))
			},
			"insert many": func(t *rapid.T) {
				m.batches++
				for i := range rapid.IntRange(100, 1500).Draw(t, "ids") {
					m.insert(t, nth(nth("batch", m.batches), i))
				}
			},
			"insert all again": func(t *rapid.T) {
				added := m.set.Added()
				for id, isLive := range m.ids {
					if isLive {
						m.insert(t, id)
					}
				}
				if m.set.Added() != added {
					t.Fatal("an id was added twice")
				}
			},
			"delete": func(t *rapid.T) {
				left := rapid.IntRange(1, 300).Draw(t, "ids")
				for id, isLive := range m.ids {
					if isLive && left > 0 {
						left--
						m.ids[id] = false
						m.stale++
						m.set.AddStale(1)
					}
				}
			},
			"snapshot": func(t *rapid.T) {
				stamp := Stamp(rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "stamp"))
				var out bytes.Buffer
				if err := m.set.Encode(&out, stamp); err != nil {
					t.Fatal(err)
				}
				back, backStamp, err := Decode(&out)
				if err != nil || stamp != backStamp {
					t.Fatalf("stamp %x came back as %x, error %v", stamp, backStamp, err)
				}
				m.set = back
			},
			"rebuild": func(t *rapid.T) {
				live := map[string]bool{}
				for id, isLive := range m.ids {
					if isLive {
						live[id] = true
					}
				}
				room := len(live) + rapid.IntRange(0, 1000).Draw(t, "room")
				m.set, m.ids, m.stale = New(room, NewSeed()), live, 0
				for id := range live {
					m.set.Insert(id)
				}
			},
		})
	})
}
