package storetest

// shared.go holds what several stores on the same records, of several engines, see of each other.

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
)

// RunSharedCache holds CacheStores on one cache against what their interface says of others. open
// makes an empty cache and returns what opens a store on it.
func RunSharedCache(t *testing.T, open func(t *testing.T) func() syncengine.CacheStore) {
	t.Run("what one store has put or removed the others see", func(t *testing.T) {
		another := open(t)
		a, b := another(), another()
		ka, kb := cacheKeeper(a), cacheKeeper(b)
		kb.wantAbsent(t, "a") // which b must not remember
		ka.mustPut(t, Put("a", 1, `1`), Put("gone", 1, `1`), Put("removed", 1, `1`))
		wantSeen(t, "CacheStore", kb, Put("a", 1, `1`), Put("gone", 1, `1`), Put("removed", 1, `1`))
		ka.mustPut(t, Put("a", 2, `2`), Tombstone("gone", 2))
		must(t, "remove", a.Remove(newContext(t), []string{"removed"}))
		for _, k := range []*keeper{kb, cacheKeeper(another())} {
			wantSeen(t, "CacheStore", k, Put("a", 2, `2`), Tombstone("gone", 2))
			k.wantAbsent(t, "removed")
		}
		seen := make(map[string]bool)
		must(t, "scan", b.Scan(newContext(t), func(ids []string) error {
			for _, id := range ids {
				seen[id] = true
			}
			return nil
		}))
		if !seen["a"] || !seen["gone"] || seen["removed"] {
			t.Errorf("CacheStore.Scan of another store: %v, want a and gone: what one store has put or removed the others see", seen)
		}
	})
	t.Run("the higher record stays, whichever store put it", func(t *testing.T) {
		another := open(t)
		testSharedOrder(t, cacheKeeper(another()), cacheKeeper(another()))
	})
	t.Run("concurrent writers on several stores end with the highest record", func(t *testing.T) {
		another := open(t)
		testConcurrent(t, cacheKeeper(another()), cacheKeeper(another()), cacheKeeper(another()))
	})
}

// wantSeen asserts by Get and GetMany that a store holds what was written through another one.
func wantSeen(t *testing.T, what string, k *keeper, recs ...syncengine.Record) {
	t.Helper()
	ids := make([]string, len(recs))
	for i := range recs {
		ids[i] = recs[i].ID
	}
	found, err := k.getMany(newContext(t), ids)
	must(t, "get many", err)
	for i := range recs {
		got, err := k.get(newContext(t), ids[i])
		if Diff(&got, &recs[i]) != "" || err != nil {
			t.Errorf("%s.Get of %q: version %d, deleted %v, %v, want version %d: what one store has written the others see from then on", what, ids[i], got.Version, got.Deleted, err, recs[i].Version)
		}
		if f := &found[i]; !f.OK || f.Err != nil || Diff(&f.Record, &recs[i]) != "" {
			t.Errorf("%s.GetMany of %q: version %d, ok %v, %v, want version %d: what one store has written the others see from then on", what, ids[i], f.Record.Version, f.OK, f.Err, recs[i].Version)
		}
	}
}

// testSharedOrder writes every ordered pair of the ladder, each record through another store.
func testSharedOrder(t *testing.T, a, b *keeper) {
	var first, second, end []syncengine.Record
	for i := range ladder("") {
		for j := range ladder("") {
			pair := ladder(fmt.Sprintf("%d over %d", j, i))
			first, second, end = append(first, pair[i]), append(second, pair[j]), append(end, pair[max(i, j)])
		}
	}
	a.mustPut(t, first...)
	b.mustPut(t, second...)
	a.wantAll(t, end)
	b.wantAll(t, end)
}

// RunSharedArchive holds ArchiveStores on one database against what their interface, and those
// that they implement as well, say of others. open makes an empty database and returns what opens a
// store on it, not yet prepared.
func RunSharedArchive(t *testing.T, open func(t *testing.T) func() syncengine.ArchiveStore) {
	opened := func(t *testing.T, n int) (stores []syncengine.ArchiveStore) {
		another := open(t)
		for range n {
			s := another()
			must(t, "prepare", s.Prepare(newContext(t)))
			stores = append(stores, s)
		}
		return stores
	}
	t.Run("stores may prepare an empty database at once", func(t *testing.T) {
		another := open(t)
		var wg sync.WaitGroup
		for range writers {
			s := another()
			wg.Go(func() {
				if err := s.Prepare(newContext(t)); err != nil {
					t.Errorf("ArchiveStore.Prepare, beside that of other stores: %v", err)
				} else if err := applied(s.Apply(newContext(t), []syncengine.Record{Put("a", 1, `1`)})); err != nil {
					t.Errorf("ArchiveStore.Apply, beside Prepare of other stores: %v", err)
				}
			})
		}
		wg.Wait()
	})
	t.Run("what one store has written the others see", func(t *testing.T) { testSharedWrites(t, open(t)) })
	t.Run("the higher record stays, whichever store wrote it", func(t *testing.T) {
		s := opened(t, 2)
		testSharedOrder(t, archiveKeeper(s[0]), archiveKeeper(s[1]))
		high := Put("high", 9, `9`)
		must(t, "apply", applied(s[0].Apply(newContext(t), []syncengine.Record{high})))
		above, err := s[1].Apply(newContext(t), []syncengine.Record{Put("high", 8, `8`)})
		must(t, "apply", err)
		wantRows(t, "ArchiveStore.Apply returns the rows that compare above, whichever store wrote them", above, []syncengine.Meta{metaOf(&high)})
	})
	t.Run("concurrent writers on several stores end with the highest record", func(t *testing.T) {
		s := opened(t, 3)
		testConcurrent(t, archiveKeeper(s[0]), archiveKeeper(s[1]), archiveKeeper(s[2]))
	})
	t.Run("the highest record of several stores is not outranked", func(t *testing.T) { testSharedAbove(t, opened(t, 2)) })
	if _, ok := open(t)().(syncengine.ExpiringStore); ok {
		t.Run("several stores may purge what has expired", func(t *testing.T) {
			s := opened(t, 2)
			due := expiring(Put("due", 3, `1`), far)
			must(t, "apply", applied(s[0].Apply(newContext(t), []syncengine.Record{due})))
			for i, s := range s {
				rows, err := s.(syncengine.ExpiringStore).Expired(newContext(t), far, 10)
				must(t, "expired", err)
				if want := 1 - i; len(rows) != want {
					t.Errorf("ExpiringStore.Expired of store %d: %d rows, want %d: what another store has deleted is not live", i, len(rows), want)
				}
				above, err := s.Apply(newContext(t), []syncengine.Record{Tombstone("due", 3)})
				must(t, "apply", err)
				wantRows(t, "ArchiveStore.Apply of a delete that another store has applied: it is equal, not above", above, nil)
			}
		})
	}
	if _, ok := open(t)().(syncengine.ConditionalStore); ok {
		t.Run("nonces are those of one store", func(t *testing.T) { testSharedNonces(t, opened(t, 2)) })
		t.Run("several stores count exactly by conditions", func(t *testing.T) { testSharedCounter(t, opened(t, 3)) })
		t.Run("of several stores that insert an id one wins", func(t *testing.T) { testSharedInserts(t, opened(t, 3)) })
	}
	if _, ok := open(t)().(syncengine.MergingStore); ok {
		runSharedMerging(t, func(t *testing.T) []syncengine.ArchiveStore { return opened(t, 2) })
	}
}

// testSharedWrites looks at each kind of write from a store that was there before, and has looked
// before, and from one that is opened afterwards.
func testSharedWrites(t *testing.T, another func() syncengine.ArchiveStore) {
	a, b := another(), another()
	must(t, "prepare", a.Prepare(newContext(t)))
	must(t, "prepare", b.Prepare(newContext(t)))
	look := func(s syncengine.ArchiveStore, recs ...syncengine.Record) {
		t.Helper()
		const rule = "what one store has written the others see from then on"
		k := archiveKeeper(s)
		wantSeen(t, "ArchiveStore", k, recs...)
		ids, want := []string{"never written"}, []syncengine.Meta(nil)
		for i := range recs {
			ids, want = append(ids, recs[i].ID), append(want, metaOf(&recs[i]))
		}
		heads, err := s.Heads(newContext(t), ids)
		must(t, "heads", err)
		wantRows(t, "ArchiveStore.Heads: "+rule, heads, want)
		page, err := s.Scan(newContext(t), "", 100)
		must(t, "scan", err)
		wantRows(t, "ArchiveStore.Scan: "+rule, page, want)
		if l, ok := s.(syncengine.ListingStore); ok {
			rows, _, err := l.List(newContext(t), "", "", 100, 1<<20)
			must(t, "list", err)
			var got []syncengine.Meta
			for i := range rows {
				got = append(got, metaOf(&rows[i].Record))
			}
			wantRows(t, "ListingStore.List: "+rule, got, want)
		}
		if e, ok := s.(syncengine.ExpiringStore); ok {
			rows, err := e.Expired(newContext(t), far, 100)
			must(t, "expired", err)
			want := slices.DeleteFunc(want, func(m syncengine.Meta) bool { return m.ExpiresAt.IsZero() })
			wantRows(t, "ExpiringStore.Expired: "+rule, rows, want)
		}
	}
	look(b)
	x, y, z := Put("x", 1, `1`), expiring(Put("y", 1, `1`), far), Tombstone("z", 1)
	must(t, "apply", applied(a.Apply(newContext(t), []syncengine.Record{x, y, z})))
	look(b, x, y, z)
	x = Put("x", 2, `2`)
	must(t, "apply", applied(a.Apply(newContext(t), []syncengine.Record{x, Put("y", 2, `2`)})))
	y = Put("y", 2, `2`)
	look(b, x, y, z)
	if n, err := a.PurgeTombstones(newContext(t), z.UpdatedAt.Add(time.Second), 10); err != nil || n != 1 {
		t.Errorf("purged %d, %v, want 1", n, err)
	}
	look(b, x, y)
	if c, ok := a.(syncengine.ConditionalStore); ok {
		y = Tombstone("y", 3)
		_, err := c.ApplyIf(newContext(t), 1, [][]syncengine.Conditional{unit(If(2, y))})
		must(t, "apply if", err)
		look(b, x, y)
	}
	late := another()
	must(t, "prepare", late.Prepare(newContext(t)))
	look(late, x, y)
	x = Put("x", 3, `3`)
	must(t, "apply", applied(late.Apply(newContext(t), []syncengine.Record{x})))
	look(a, x, y)
	look(b, x, y)
}

// testSharedAbove has two stores write the same ids at once, each at versions of its own. The one
// that wrote the lower version may find the other's row, or be written over; not so the other one.
func testSharedAbove(t *testing.T, s []syncengine.ArchiveStore) {
	const calls, ids = 20, 10
	for call := range calls {
		above := make([][]syncengine.Meta, len(s))
		var wg sync.WaitGroup
		for i := range s {
			wg.Go(func() {
				var recs []syncengine.Record
				for n := range ids {
					recs = append(recs, Put(fmt.Sprintf("id-%d", n), uint64(1+2*call+(i+n)%2), fmt.Sprint(i)))
				}
				var err error
				if above[i], err = s[i].Apply(newContext(t), recs); err != nil {
					t.Errorf("apply: %v", err)
				}
			})
		}
		wg.Wait()
		for n := range ids {
			id, highest := fmt.Sprintf("id-%d", n), uint64(2+2*call)
			for _, m := range above[(n+1)%2] {
				if m.ID == id {
					t.Errorf("ArchiveStore.Apply: above has %+v, and yet its record was at %d, the highest of all stores", m, highest)
				}
			}
			if got, err := s[0].Get(newContext(t), id); err != nil || got.Version != highest {
				t.Errorf("%q is at %d, %v, want %d", id, got.Version, err, highest)
			}
		}
	}
}

func testSharedNonces(t *testing.T, s []syncengine.ArchiveStore) {
	const rule = "ConditionalStore: a nonce names a transaction of this store; others use the same numbers"
	a, b := s[0].(syncengine.ConditionalStore), s[1].(syncengine.ConditionalStore)
	insert := func(s syncengine.ConditionalStore, nonce uint64, id string) {
		t.Helper()
		v, err := s.ApplyIf(newContext(t), nonce, [][]syncengine.Conditional{unit(If(0, Put(id, 1, `1`)))})
		if err != nil || len(v) != 1 || v[0].Decision != syncengine.DecidedApplied {
			t.Errorf("%s: ApplyIf of %q with %d: %v, %v", rule, id, nonce, v, err)
		}
	}
	landed := func(s syncengine.ConditionalStore, nonce uint64, want bool) {
		t.Helper()
		if got, err := s.Landed(newContext(t), nonce); got != want || err != nil {
			t.Errorf("%s: Landed of %d: %v, %v, want %v", rule, nonce, got, err, want)
		}
	}
	insert(a, 5, "of a")
	landed(b, 5, false) // which forbids it to b alone
	landed(a, 5, true)
	insert(a, 9, "again of a")
	insert(b, 9, "of b")
	landed(a, 9, true)
	landed(b, 9, true)
	landed(b, 12, false)
	insert(a, 12, "of a at last")
	insert(b, 13, "of b at last")
}

// testSharedCounter counts up by conditions on several stores at once.
func testSharedCounter(t *testing.T, s []syncengine.ArchiveStore) {
	const each = 15
	must(t, "apply", applied(s[0].Apply(newContext(t), []syncengine.Record{Put("n", 1, `0`)})))
	var wg sync.WaitGroup
	for i := range s {
		wg.Go(func() {
			c, nonce := s[i].(syncengine.ConditionalStore), uint64(0)
			ctx, cancel := context.WithTimeout(context.Background(), deadline)
			defer cancel()
			for done := 0; done < each; {
				if nonce == 200*each {
					t.Errorf("ConditionalStore.ApplyIf at the version that Get returns: %d conflicts in a row, or nearly: what one store has written the others see from then on", nonce)
					return
				}
				row, err := c.Get(ctx, "n")
				if err != nil {
					t.Errorf("get: %v", err)
					return
				}
				var n int
				_, _ = fmt.Sscan(string(row.Content), &n)
				nonce++
				v, err := c.ApplyIf(ctx, nonce, [][]syncengine.Conditional{unit(If(row.Version, Put("n", row.Version+1, fmt.Sprint(n+1))))})
				if err != nil || len(v) != 1 {
					t.Errorf("apply if: %v, %v", v, err)
					return
				}
				if v[0].Decision == syncengine.DecidedApplied {
					done++
				}
			}
		})
	}
	wg.Wait()
	row, err := s[0].Get(newContext(t), "n")
	if want := fmt.Sprint(each * len(s)); err != nil || string(row.Content) != want {
		t.Errorf("ConditionalStore.ApplyIf of several stores counted to %s, %v, want %s: a condition holds when the unit is stored, whichever store writes beside it", row.Content, err, want)
	}
}

// testSharedInserts inserts the same ids on several stores at once: a row that is not there can't
// be locked.
func testSharedInserts(t *testing.T, s []syncengine.ArchiveStore) {
	const ids = 25
	var mu sync.Mutex
	won := make(map[string]int)
	var wg sync.WaitGroup
	for i := range s {
		wg.Go(func() {
			for n := range ids {
				id := fmt.Sprintf("id-%d", n)
				v, err := s[i].(syncengine.ConditionalStore).ApplyIf(newContext(t), uint64(n+1), [][]syncengine.Conditional{unit(If(0, Put(id, uint64(10+i), fmt.Sprint(i))))})
				if err != nil || len(v) != 1 {
					t.Errorf("apply if: %v, %v", v, err)
					return
				}
				if v[0].Decision == syncengine.DecidedApplied {
					mu.Lock()
					won[id]++
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	for n := range ids {
		if id := fmt.Sprintf("id-%d", n); won[id] != 1 {
			t.Errorf("ConditionalStore.ApplyIf: %d stores have inserted %q, want 1: at IfVersion 0 an id has no live row, whichever store writes beside it", won[id], id)
		}
	}
}
