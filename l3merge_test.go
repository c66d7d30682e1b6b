//go:build crdt

package syncengine_test

// l3merge_test.go checks merges in L3 against a model that applies them one by one: whatever is
// applied again, compacted, deleted or damaged, and in whatever batches.

import (
	"context"
	"database/sql"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/crdt"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/storetest"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

// mergeModel is one L3 and what must be in it.
type mergeModel struct {
	store syncengine.MergingStore
	db    *sql.DB
	items map[string]*modelItem
	sent  []syncengine.Record // merges, to be sent again
	clock uint64
	seq   uint64
	nonce uint64
	// A delta of which a state was read that has it, before it was sent; nil: none.
	waiting *syncengine.Record
}

type modelItem struct {
	kind  crdt.Kind
	live  bool
	state []byte
	floor uint64
	row   uint64 // version
	dots  map[string]bool
	log   []syncengine.Record // merges that were applied, in order
	snaps bool                // some may be in snapshots
}

// add applies a merge.
func (it *modelItem) add(t *rapid.T, r syncengine.Record) {
	key, err := syncengine.ParseMergeKey(r.ID)
	noError(t, err)
	if key.Delta {
		it.state, err = crdt.Apply(it.kind, it.state, r.Content, crdt.Op{Node: key.Node, Number: key.Seq, Time: r.Version, Seconds: uint64(r.UpdatedAt.Unix())})
	} else if it.live {
		it.state, err = crdt.Merge(it.kind, it.state, r.Content)
	} else {
		it.state, err = crdt.Canonical(it.kind, r.Content)
	}
	noError(t, err)
}

// seen reports whether a live item has a delta already, since a state had it that somebody has read
// where it waited: it is in the clock, and no later one of its node has put it there.
func (it *modelItem) seen(t *rapid.T, r syncengine.Record) bool {
	key, err := syncengine.ParseMergeKey(r.ID)
	noError(t, err)
	if !key.Delta || !it.live {
		return false
	}
	s, err := crdt.Open(it.kind, it.state)
	noError(t, err)
	for dot := range it.dots {
		if o, err := syncengine.ParseMergeKey(dot); err == nil && o.Node == key.Node && o.Seq > key.Seq {
			return false
		}
	}
	return s.Seen(key.Node) >= key.Seq
}

var modelKinds = map[string]crdt.Kind{"counter": crdt.KindPNCounter, "set": crdt.KindORSet, "map": crdt.KindLWWMap}

// step draws a version: mostly later than all before, sometimes by days, sometimes earlier.
func (m *mergeModel) version(t *rapid.T) uint64 {
	switch rapid.IntRange(0, 5).Draw(t, "when") {
	case 0:
		return max(1, m.clock-uint64(rapid.IntRange(0, 5).Draw(t, "earlier")))
	case 1:
		m.clock += uint64(rapid.IntRange(1, 40).Draw(t, "days")) * 24 * 3600 * 1000 << 16
	}
	m.clock += uint64(rapid.IntRange(1, 3).Draw(t, "later"))
	return m.clock
}

func (m *mergeModel) op(t *rapid.T) syncengine.Record {
	if rec := m.waiting; rec != nil && rapid.IntRange(0, 3).Draw(t, "what waits") == 0 {
		m.waiting = nil
		return *rec
	}
	id := rapid.SampledFrom(slices.Sorted(maps.Keys(modelKinds))).Draw(t, "item")
	kind := modelKinds[id]
	delta := map[crdt.Kind][]string{
		crdt.KindPNCounter: {"1", "-2", "5"}, crdt.KindORSet: {`{"add":["x"]}`, `{"remove":["x"]}`, `{"add":["y","z"]}`, `{"add":["x"],"remove":["y"]}`},
		crdt.KindLWWMap: {`{"set":{"k":"1"}}`, `{"set":{"k":"2","l":"1"}}`, `{"remove":["k"]}`},
	}[kind]
	content := rapid.SampledFrom(delta).Draw(t, "delta")
	whole := rapid.IntRange(0, 3).Draw(t, "state") == 0
	node := rapid.SampledFrom([]string{"n1", "n2"}).Draw(t, "node")
	version := m.version(t)
	if whole {
		b, err := crdt.Apply(kind, nil, []byte(content), crdt.Op{Node: "foreign-" + node, Time: version})
		noError(t, err)
		content = string(b)
	}
	m.seq++
	rec := m.record(kind, syncengine.MergeKey{ID: id, Node: node, Seq: m.seq, Delta: !whole}, version, content)
	if whole || m.waiting != nil || rapid.IntRange(0, 2).Draw(t, "it waits and is seen") > 0 {
		return rec
	}
	it := m.items[id]
	b, err := crdt.Apply(kind, it.state, []byte(content), crdt.Op{Node: node, Number: m.seq, Time: version, Seconds: uint64(rec.UpdatedAt.Unix())})
	noError(t, err)
	m.waiting = &rec
	m.seq++
	return m.record(kind, syncengine.MergeKey{ID: id, Node: "n3", Seq: m.seq}, m.version(t), string(b))
}

func (m *mergeModel) record(kind crdt.Kind, key syncengine.MergeKey, version uint64, content string) syncengine.Record {
	rec := storetest.Put(key.String(), version, content)
	rec.CRDT, rec.UpdatedAt = kind.String(), time.UnixMilli(int64(version>>16)).UTC()
	return rec
}

func noError(t *rapid.T, err error) {
	if err != nil {
		t.Fatal(err)
	}
}

func (m *mergeModel) apply(t *rapid.T, recs []syncengine.Record) {
	recs = slices.Clone(recs)
	slices.SortFunc(recs, func(a, b syncengine.Record) int { return strings.Compare(a.ID, b.ID) })
	recs = slices.CompactFunc(recs, func(a, b syncengine.Record) bool { return a.ID == b.ID })
	above, merged, err := m.store.ApplyMerges(context.Background(), recs)
	if err != nil {
		t.Fatal(err)
	}
	dead := 0
	for _, r := range recs {
		if r.Deleted {
			it := m.items[r.ID]
			if r.Version < it.row && it.live && !slices.ContainsFunc(above, func(m syncengine.Meta) bool { return m.ID == r.ID }) {
				it.floor = max(it.floor, r.Version)
				log := slices.DeleteFunc(it.log, func(r syncengine.Record) bool { return r.Version <= it.floor })
				it.live, it.state, it.log = false, nil, log
				for _, r := range log {
					it.add(t, r)
					it.live = true
				}
			} else if r.Version < it.row {
				if dead++; it.live && !it.snaps {
					t.Fatalf("a delete of %s at %d is outranked", r.ID, r.Version)
				}
			} else if r.Version > it.row || it.live { // a delete beats a put
				it.live, it.state, it.row, it.log, it.snaps = false, nil, r.Version, nil, false
				m.forget(r.ID, r.Version)
			}
		}
	}
	for _, r := range recs {
		id, _, ok := strings.Cut(r.ID, "\x00")
		if !ok {
			continue
		}
		it := m.items[id]
		switch {
		case r.Version <= it.floor:
			dead++
			continue
		case it.dots[r.ID]:
			continue
		}
		m.sent = append(m.sent, r)
		seen := it.seen(t, r)
		if it.dots[r.ID] = true; seen {
			continue
		}
		before := string(it.state)
		it.add(t, r)
		if it.live && string(it.state) == before && !strings.HasSuffix(r.ID, "/d") {
			continue
		}
		it.live, it.log = true, append(it.log, r)
	}
	if len(above) != dead {
		t.Fatalf("above: %+v, want %d", above, dead)
	}
	for _, r := range merged {
		it := m.items[r.ID]
		if r.Version < it.row || string(r.Content) != string(it.state) {
			t.Fatalf("merged: %s at %d: %s, want %s above %d", r.ID, r.Version, r.Content, it.state, it.row)
		}
		if it.row = r.Version; r.Deleted {
			m.forget(r.ID, r.Version)
		}
	}
}

// forget is for a delete after which nothing of an item is left but its version. Merges above that
// have changed nothing, else the item's version would be higher: they count if they come again.
func (m *mergeModel) forget(id string, version uint64) {
	it := m.items[id]
	it.floor = version
	for _, r := range m.sent {
		if r.Version > version && strings.HasPrefix(r.ID, id+"\x00") {
			delete(it.dots, r.ID)
		}
	}
}

// remove deletes an item at the version it has: what has not landed by then stays.
func (m *mergeModel) remove(t *rapid.T, id string) {
	it := m.items[id]
	del := storetest.Tombstone(id, max(m.version(t), it.row+1))
	m.nonce++
	verdicts, err := m.store.ApplyIf(context.Background(), m.nonce, [][]syncengine.Conditional{{{Record: del, IfVersion: it.row}}})
	if err != nil || len(verdicts) != 1 || verdicts[0].Decision != syncengine.DecidedApplied {
		t.Fatalf("ApplyIf: %+v, %v", verdicts, err)
	}
	it.live, it.state, it.row, it.log, it.snaps = false, nil, del.Version, nil, false
}

func (m *mergeModel) check(t *rapid.T) {
	ctx := context.Background()
	for id, it := range m.items {
		rec, err := m.store.Get(ctx, id)
		switch {
		case errors.Is(err, syncengine.ErrNotFound) || err == nil && rec.Deleted:
			if it.live {
				t.Fatalf("%s is gone, want %s", id, it.state)
			}
		case err != nil || !it.live || string(rec.Content) != string(it.state) || rec.Version != it.row || rec.CRDT != it.kind.String():
			t.Fatalf("%s: %s at %d, %v; want %s at %d", id, rec.Content, rec.Version, err, it.state, it.row)
		default:
			got, changed, damaged, err := m.store.(syncengine.Compacter).Rebuild(ctx, id)
			if err != nil || changed || damaged > 0 || string(got.Content) != string(it.state) {
				t.Fatalf("Rebuild of %s: %s, changed %v, %d damaged, %v", id, got.Content, changed, damaged, err)
			}
		}
	}
	wrong, err := m.store.(syncengine.ArchiveDigester).Recount(ctx, time.Minute, false, func(err error) { t.Error(err) })
	if err != nil || wrong > 0 {
		t.Fatalf("%d branches of the digest are wrong, %v", wrong, err)
	}
}

func (m *mergeModel) compact(t *rapid.T) {
	ctx := context.Background()
	now := time.UnixMilli(int64(m.clock >> 16))
	ops := now.AddDate(0, 0, -rapid.IntRange(0, 60).Draw(t, "days of merges"))
	days := ops.AddDate(0, 0, -rapid.IntRange(0, 60).Draw(t, "days of snapshots"))
	c := m.store.(syncengine.Compacter)
	settled := map[string]uint64{}
	if m.waiting == nil && rapid.Bool().Draw(t, "settled") { // all that was sent has been applied
		var err error
		settled, err = c.Settle(ctx, "n1", m.seq)
		noError(t, err)
		if settled["n1"] != m.seq {
			t.Fatalf("settled: %v", settled)
		}
	}
	ids, err := c.ItemsAbove(ctx, "")
	noError(t, err)
	for _, id := range ids {
		m.items[id].snaps = true
		for more := true; more; {
			var r syncengine.CompactReport
			if r, more, err = c.CompactItem(ctx, id, ops, days, settled); err != nil || r.Damaged > 0 {
				t.Fatalf("CompactItem: %+v, %v", r, err)
			}
		}
	}
}

func TestMergesInL3AreThoseOfAModel(t *testing.T) {
	for name, open := range map[string]func() (syncengine.MergingStore, *sql.DB){
		"SQLite": func() (syncengine.MergingStore, *sql.DB) {
			path := t.TempDir() + "/archive.db"
			return lab.ArchiveAt(t, "sqlite:"+path).(syncengine.MergingStore), lab.OpenDriver(t, "sqlite", path+"?_pragma=busy_timeout(5000)")
		},
		"MariaDB": func() (syncengine.MergingStore, *sql.DB) {
			url := testserver.SharedMariaDB(t).NewDatabase(t)
			return lab.ArchiveAt(t, url).(syncengine.MergingStore), testserver.OpenSQL(t, url)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store, db := open()
			rapid.Check(t, func(t *rapid.T) {
				for _, table := range []string{"sync_items", "sync_ops", "sync_deltas"} {
					_, err := db.Exec("DELETE FROM " + table)
					noError(t, err)
				}
				_, err := store.(syncengine.ArchiveDigester).Recount(context.Background(), time.Minute, true, func(error) {})
				noError(t, err)
				m := &mergeModel{store: store, db: db, items: make(map[string]*modelItem), clock: 1_700_000_000_000 << 16}
				for id, kind := range modelKinds {
					m.items[id] = &modelItem{kind: kind, dots: make(map[string]bool)}
				}
				for range rapid.IntRange(1, 25).Draw(t, "steps") {
					switch rapid.IntRange(0, 9).Draw(t, "step") {
					case 0:
						m.compact(t)
					case 1:
						id := rapid.SampledFrom(slices.Sorted(maps.Keys(modelKinds))).Draw(t, "item")
						recs := []syncengine.Record{storetest.Tombstone(id, m.version(t))}
						if rapid.Bool().Draw(t, "with a merge") {
							recs = append(recs, m.op(t))
						}
						m.apply(t, recs)
					case 2, 3:
						if len(m.sent) > 0 {
							again := rapid.SliceOfN(rapid.SampledFrom(m.sent), 1, 5).Draw(t, "again")
							m.apply(t, append(again, m.op(t)))
						}
					case 4:
						if id := rapid.SampledFrom(slices.Sorted(maps.Keys(modelKinds))).Draw(t, "item"); m.items[id].live {
							m.remove(t, id)
						}
					case 5:
						id := rapid.SampledFrom(slices.Sorted(maps.Keys(modelKinds))).Draw(t, "item")
						if it := m.items[id]; it.live {
							_, err := db.Exec("UPDATE sync_items SET content = 'damaged' WHERE id = ?", id)
							noError(t, err)
							if rapid.Bool().Draw(t, "merge into it") {
								m.apply(t, []syncengine.Record{m.op(t)})
							}
							rec, _, _, err := store.(syncengine.Compacter).Rebuild(context.Background(), id)
							if err != nil || string(rec.Content) != string(it.state) {
								t.Fatalf("Rebuild: %s, %v; want %s", rec.Content, err, it.state)
							}
							it.row = rec.Version
						}
					default:
						var recs []syncengine.Record
						for range rapid.IntRange(1, 6).Draw(t, "merges") {
							recs = append(recs, m.op(t))
						}
						m.apply(t, recs)
					}
					m.check(t)
				}
			})
		})
	}
}

// TestINV10NothingIsKeptOfMergesThatHaveLanded: what is noted while they are on their way is noted
// by their item.
func TestINV10NothingIsKeptOfMergesThatHaveLanded(t *testing.T) {
	ctx := context.Background()
	e := lab.Open(t, syncengine.Config{Dir: t.TempDir()})
	for _, d := range []syncengine.Durability{syncengine.Buffered, syncengine.Logged, syncengine.Archived} {
		for range 3 {
			_, err := e.Merge(ctx, "c", "GCounter", []byte("1"), syncengine.WithDurability(d))
			lab.Must(t, err)
		}
	}
	lab.Must(t, e.Flush(ctx))
	lab.Eventually(t, "all marks are gone", func() bool { return syncengine.Marks(e) == 0 })
}

// TestCompactionKeepsADayThatADeletedOneHasTheKeyOf: a merge from before a delete with a condition
// lands after it, so there are two snapshots of one day, one of which is to go.
func TestCompactionKeepsADayThatADeletedOneHasTheKeyOf(t *testing.T) {
	ctx := context.Background()
	store := lab.ArchiveAt(t, "sqlite:"+t.TempDir()+"/archive.db").(syncengine.MergingStore)
	c := store.(syncengine.Compacter)
	const day = 24 * 3600 * 1000 << 16
	old := uint64(1_700_000_000_000 << 16)
	apply := func(seq, version uint64) uint64 {
		t.Helper()
		rec := storetest.Put(syncengine.MergeKey{ID: "n", Node: "node", Seq: seq, Delta: true}.String(), version, "1")
		rec.CRDT, rec.UpdatedAt = "GCounter", time.UnixMilli(int64(version>>16))
		_, merged, err := store.ApplyMerges(ctx, []syncengine.Record{rec})
		lab.Must(t, err)
		return merged[0].Version
	}
	compact := func() {
		t.Helper()
		now := time.UnixMilli(int64(old>>16)).AddDate(0, 0, 40)
		if _, _, err := c.CompactItem(ctx, "n", now.AddDate(0, 0, -7), now.AddDate(0, 0, -90), nil); err != nil {
			t.Fatal(err)
		}
	}
	at := apply(1, old)
	compact()
	del := storetest.Tombstone("n", old+40*day)
	_, err := store.ApplyIf(ctx, 1, [][]syncengine.Conditional{{{Record: del, IfVersion: at}}})
	lab.Must(t, err)
	apply(2, old+1)
	apply(3, old+41*day)
	compact()
	rec, changed, damaged, err := c.Rebuild(ctx, "n")
	if v, _ := crdt.Value(crdt.KindGCounter, rec.Content); err != nil || changed || damaged > 0 || string(v) != "2" {
		t.Errorf("rebuilt: %s, changed %v, %d damaged, %v", rec.Content, changed, damaged, err)
	}
}
