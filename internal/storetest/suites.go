package storetest

// suites.go holds the two conformance suites: the shared tests, and what only a cache or
// only an archive promises.

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
)

// RunCache holds a CacheStore against its interface. open returns an empty store; it
// closes what it opened by t.Cleanup.
func RunCache(t *testing.T, open func(t *testing.T) syncengine.CacheStore) {
	runRecords(t, func(t *testing.T) *keeper { return cacheKeeper(open(t)) })
	t.Run("an equal record is stored again", func(t *testing.T) {
		// What compares equal may differ in the fields that are carried along: the
		// cache takes the later one, which repairs a damaged copy.
		k := cacheKeeper(open(t))
		first, second := Put("a", 1, `1`), Put("a", 1, `1`)
		first.HomeInstanceID, second.HomeInstanceID = "first", "second"
		k.mustPut(t, first)
		k.mustPut(t, second)
		k.want(t, second)
	})
	t.Run("an id twice in one Put ends with the higher", func(t *testing.T) {
		k := cacheKeeper(open(t))
		k.mustPut(t, Put("up", 1, `1`), Put("other", 1, `1`), Put("up", 2, `2`), Put("down", 2, `2`), Put("down", 1, `1`),
			Put("gone", 2, `2`), Tombstone("gone", 2), Put("gone", 1, `1`))
		k.wantAll(t, []syncengine.Record{Put("up", 2, `2`), Put("other", 1, `1`), Put("down", 2, `2`), Tombstone("gone", 2)})
	})
	t.Run("Remove drops ids, whatever is stored there", func(t *testing.T) { testRemove(t, open(t)) })
	t.Run("Scan delivers every id", func(t *testing.T) { testCacheScan(t, open(t)) })
	t.Run("Scan ends with the error of its function", func(t *testing.T) {
		s := open(t)
		must(t, "put", s.Put(newContext(t), []syncengine.Record{Put("a", 1, `1`), Put("b", 1, `1`)}))
		mine, calls := errors.New("enough"), 0
		err := s.Scan(newContext(t), func([]string) error { calls++; return mine })
		if !errors.Is(err, mine) || calls != 1 {
			t.Errorf("scan: %v after %d calls", err, calls)
		}
		if errors.Is(err, syncengine.ErrUnavailable) {
			t.Errorf("the function's own error is taken for an outage: %v", err)
		}
	})
}

func cacheKeeper(s syncengine.CacheStore) *keeper {
	return &keeper{get: s.Get, getMany: s.GetMany, put: s.Put, ping: s.Ping, others: map[string]func(context.Context) error{
		"Remove": func(ctx context.Context) error { return s.Remove(ctx, []string{"a"}) },
		"Scan":   func(ctx context.Context) error { return s.Scan(ctx, func([]string) error { return nil }) },
	}}
}

func testRemove(t *testing.T, s syncengine.CacheStore) {
	k := cacheKeeper(s)
	k.mustPut(t, Put("a", 5, `5`), Put("b", 5, `5`), Tombstone("c", 5), Put("d", 5, `5`))
	must(t, "remove", s.Remove(newContext(t), []string{"a", "absent", "c", "a"}))
	must(t, "remove nothing", s.Remove(newContext(t), nil))
	k.wantAbsent(t, "a")
	k.wantAbsent(t, "c")
	k.wantAll(t, []syncengine.Record{Put("b", 5, `5`), Put("d", 5, `5`)})
	// Nothing of the dropped record is remembered.
	k.mustPut(t, Put("a", 1, `1`), Put("c", 1, `1`))
	k.wantAll(t, []syncengine.Record{Put("a", 1, `1`), Put("c", 1, `1`)})
}

func testCacheScan(t *testing.T, s syncengine.CacheStore) {
	scan := func() map[string]bool {
		t.Helper()
		seen := make(map[string]bool)
		must(t, "scan", s.Scan(newContext(t), func(ids []string) error {
			for _, id := range ids {
				seen[id] = true
			}
			return nil
		}))
		return seen
	}
	if seen := scan(); len(seen) != 0 {
		t.Errorf("an empty cache delivers %d ids", len(seen))
	}
	var recs []syncengine.Record
	want := make(map[string]bool)
	add := func(r syncengine.Record) { recs, want[r.ID] = append(recs, r), true }
	for i, id := range IDs() {
		add(Put(id, uint64(i+1), `1`))
	}
	for i := range 3000 {
		add(Put(fmt.Sprintf("scanned-%d", i), 1, `1`))
	}
	add(Tombstone("a tombstone", 1))
	must(t, "put", s.Put(newContext(t), recs))
	seen := scan()
	for id := range want {
		if !seen[id] {
			t.Errorf("id %q was not delivered", short(id))
		}
	}
	for id := range seen {
		if !want[id] {
			t.Errorf("id %q was delivered and is not there", short(id))
		}
	}
	must(t, "remove", s.Remove(newContext(t), []string{"a", "scanned-7"}))
	if seen = scan(); seen["a"] || seen["scanned-7"] || !seen["A"] {
		t.Errorf("after Remove: a %v, scanned-7 %v, A %v", seen["a"], seen["scanned-7"], seen["A"])
	}
}

// RunArchive holds an ArchiveStore against its interface, and against those of a ConditionalStore,
// an ExpiringStore, a ListingStore and, with -tags crdt, a MergingStore if it is one. open returns
// an empty store, not yet prepared; it closes what it opened by t.Cleanup.
func RunArchive(t *testing.T, open func(t *testing.T) syncengine.ArchiveStore) {
	prepared := func(t *testing.T) syncengine.ArchiveStore {
		s := open(t)
		must(t, "prepare", s.Prepare(newContext(t)))
		return s
	}
	runRecords(t, func(t *testing.T) *keeper { return archiveKeeper(prepared(t)) })
	t.Run("Prepare may be called again and changes nothing", func(t *testing.T) {
		s := prepared(t)
		k := archiveKeeper(s)
		k.mustPut(t, Put("a", 1, `1`))
		must(t, "prepare", s.Prepare(newContext(t)))
		k.want(t, Put("a", 1, `1`))
	})
	t.Run("Prepare may be called again after an error", func(t *testing.T) {
		s := open(t)
		gone, cancel := context.WithCancel(context.Background())
		cancel()
		if err := s.Prepare(gone); !errors.Is(err, context.Canceled) {
			t.Errorf("prepare with a cancelled context: %v", err)
		}
		must(t, "prepare", s.Prepare(newContext(t)))
		archiveKeeper(s).mustPut(t, Put("a", 1, `1`))
	})
	t.Run("Prepare may be called concurrently", func(t *testing.T) {
		s := open(t)
		var wg sync.WaitGroup
		for range writers {
			wg.Add(1)
			go func() {
				defer wg.Done()
				if err := s.Prepare(newContext(t)); err != nil {
					t.Errorf("prepare: %v", err)
				}
			}()
		}
		wg.Wait()
	})
	t.Run("a record that compares equal is left alone", func(t *testing.T) {
		k := archiveKeeper(prepared(t))
		first, second := Put("a", 1, `1`), Put("a", 1, `1`)
		first.HomeInstanceID, second.HomeInstanceID = "first", "second"
		k.mustPut(t, first)
		k.mustPut(t, second)
		k.want(t, first)
	})
	t.Run("Apply returns the rows that stay", func(t *testing.T) { testAbove(t, prepared(t)) })
	t.Run("Heads returns the rows that exist", func(t *testing.T) { testHeads(t, prepared(t)) })
	t.Run("Scan pages in byte order of the id", func(t *testing.T) { testArchiveScan(t, prepared(t)) })
	t.Run("Scan begins above any bytes", func(t *testing.T) { testScanAfter(t, prepared(t)) })
	t.Run("PurgeTombstones removes only old tombstones", func(t *testing.T) { testPurge(t, prepared(t)) })
	t.Run("PurgeTombstones removes at most limit", func(t *testing.T) { testPurgeLimit(t, prepared(t)) })
	if _, ok := open(t).(syncengine.ExpiringStore); ok {
		RunExpiring(t, func(t *testing.T) syncengine.ExpiringStore { return prepared(t).(syncengine.ExpiringStore) })
	}
	if _, ok := open(t).(syncengine.ListingStore); ok {
		RunListing(t, func(t *testing.T) syncengine.ListingStore { return prepared(t).(syncengine.ListingStore) })
	}
	if _, ok := open(t).(syncengine.ConditionalStore); ok {
		RunConditional(t, func(t *testing.T) syncengine.ConditionalStore { return prepared(t).(syncengine.ConditionalStore) })
	}
	if _, ok := open(t).(syncengine.MergingStore); ok {
		RunMerging(t, func(t *testing.T) syncengine.MergingStore { return prepared(t).(syncengine.MergingStore) })
	}
}

// applied drops the first result of Apply.
func applied(_ []syncengine.Meta, err error) error { return err }

func archiveKeeper(s syncengine.ArchiveStore) *keeper {
	return &keeper{get: s.Get, getMany: s.GetMany, put: func(ctx context.Context, recs []syncengine.Record) error { return applied(s.Apply(ctx, recs)) }, ping: s.Ping, others: map[string]func(context.Context) error{
		"Prepare": s.Prepare,
		"Heads":   func(ctx context.Context) error { _, err := s.Heads(ctx, []string{"a"}); return err },
		"Scan":    func(ctx context.Context) error { _, err := s.Scan(ctx, "", 10); return err },
		"PurgeTombstones": func(ctx context.Context) error {
			_, err := s.PurgeTombstones(ctx, time.Unix(1, 0), 10)
			return err
		},
	}}
}

func testArchiveScan(t *testing.T, s syncengine.ArchiveStore) {
	if page, err := s.Scan(newContext(t), "", 10); err != nil || len(page) != 0 {
		t.Fatalf("an empty archive: %v, %v", page, err)
	}
	var recs []syncengine.Record
	var want []syncengine.Meta
	add := func(r syncengine.Record) {
		recs = append(recs, r)
		want = append(want, metaOf(&r))
	}
	for i, id := range IDs() {
		if i%5 == 2 {
			add(Tombstone(id, uint64(i+1)))
		} else {
			add(Put(id, uint64(i+1), fmt.Sprintf(`{"n":%d}`, i)))
		}
	}
	must(t, "apply", applied(s.Apply(newContext(t), recs)))
	slices.SortFunc(want, func(a, b syncengine.Meta) int { return slices.Compare([]byte(a.ID), []byte(b.ID)) })
	for _, limit := range []int{1, 7, len(want) - 1, len(want), len(want) + 1} {
		var got []syncengine.Meta
		for after := ""; ; {
			page, err := s.Scan(newContext(t), after, limit)
			must(t, "scan", err)
			if len(page) == 0 {
				break
			}
			if len(page) > limit || len(got) > len(want) {
				t.Fatalf("ArchiveStore.Scan returns up to limit rows with ids above after: limit %d, a page of %d rows, %d of %d in all", limit, len(page), len(got), len(want))
			}
			got, after = append(got, page...), page[len(page)-1].ID
			if len(page) < limit && len(got) < len(want) {
				t.Errorf("ArchiveStore.Scan: a page of %d rows at limit %d, and more above it: only the last page may be short", len(page), limit)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("ArchiveStore.Scan returns all rows, tombstones included, in byte order of the id: limit %d: %d rows, want %d:\n got %.300q\nwant %.300q", limit, len(got), len(want), metaIDs(got), metaIDs(want))
		}
	}
	// A start between two ids, before the first and after the last.
	for after, first := range map[string]string{"a.b.": "a.b.c", "A\x7f": "NULL", "\U0010ffff": ""} {
		page, err := s.Scan(newContext(t), after, 1)
		must(t, "scan", err)
		if got := fmt.Sprint(metaIDs(page)); first == "" && len(page) != 0 || first != "" && got != fmt.Sprint([]string{first}) {
			t.Errorf("after %q: %s, want %q", after, got, first)
		}
	}
}

// testScanAfter begins pages at all kinds of places, while rows come and go.
func testScanAfter(t *testing.T, s syncengine.ArchiveStore) {
	var recs []syncengine.Record
	for i := range 30 {
		recs = append(recs, Put(fmt.Sprintf("m%02d", i), 1, `1`))
	}
	recs = append(recs, Put("\u00e9", 1, `1`), Put("\u65e5", 1, `1`))
	recs[9] = Tombstone(recs[9].ID, 1)
	must(t, "apply", applied(s.Apply(newContext(t), recs)))
	page := func(after string, limit int, want ...string) {
		t.Helper()
		rows, err := s.Scan(newContext(t), after, limit)
		if got := metaIDs(rows); err != nil || !slices.Equal(got, want) {
			t.Errorf("ArchiveStore.Scan after %q, which need be no id: %q, %v, want %q, the first rows above it", short(after), got, err, want)
		}
	}
	page("m0\x00", 1, "m00")
	page("m00\x00", 1, "m01")
	page("m29\xff", 2, "\u00e9", "\u65e5")
	page("\xc3", 1, "\u00e9")
	page("\xc3\xff", 1, "\u65e5")
	page("m28"+strings.Repeat("x", 2*syncengine.MaxIDBytes), 1, "m29")
	page("\xff\xff", 1)
	// Rows come below the place where a page begins, and its own row goes.
	page("m06", 3, "m07", "m08", "m09")
	for i := range 20 {
		must(t, "apply", applied(s.Apply(newContext(t), []syncengine.Record{Put(fmt.Sprintf("a%02d", i), 1, `1`)})))
	}
	n, err := s.PurgeTombstones(newContext(t), recs[9].UpdatedAt.Add(time.Second), 10)
	if err != nil || n != 1 {
		t.Errorf("purged %d, %v, want 1", n, err)
	}
	page("m09", 3, "m10", "m11", "m12")
}

func metaIDs(rows []syncengine.Meta) []string {
	ids := make([]string, len(rows))
	for i := range rows {
		ids[i] = short(rows[i].ID)
	}
	return ids
}

func testPurge(t *testing.T, s syncengine.ArchiveStore) {
	k := archiveKeeper(s)
	now := time.Unix(1_700_000_000, 500)
	at := func(r syncengine.Record, when time.Time) syncengine.Record { r.UpdatedAt = when.UTC(); return r }
	old, just, young := now.Add(-time.Hour), now.Add(-time.Nanosecond), now
	keep := []syncengine.Record{
		at(Put("old put", 1, `1`), old), at(Tombstone("young delete", 1), young), at(Put("put over an old delete", 2, `1`), old),
		at(Tombstone("deleted again", 2), young),
	}
	k.mustPut(t, at(Tombstone("old delete", 1), old), at(Tombstone("just old enough", 1), just),
		at(Tombstone("put over an old delete", 1), old), at(Tombstone("deleted again", 1), old))
	k.mustPut(t, keep...)
	n, err := s.PurgeTombstones(newContext(t), now, 100)
	if err != nil || n != 2 {
		t.Errorf("purged %d, %v, want 2", n, err)
	}
	k.wantAbsent(t, "old delete")
	k.wantAbsent(t, "just old enough")
	k.wantAll(t, keep)
	if n, err = s.PurgeTombstones(newContext(t), now, 100); err != nil || n != 0 {
		t.Errorf("purged %d more, %v", n, err)
	}
	// What was purged is forgotten: an old put is a new one.
	k.mustPut(t, Put("old delete", 1, `1`))
	k.want(t, Put("old delete", 1, `1`))
}

func testPurgeLimit(t *testing.T, s syncengine.ArchiveStore) {
	var recs []syncengine.Record
	for i := range 25 {
		recs = append(recs, Tombstone(fmt.Sprintf("gone-%02d", i), 1), Put(fmt.Sprintf("kept-%02d", i), 1, `1`))
	}
	must(t, "apply", applied(s.Apply(newContext(t), recs)))
	after := recs[0].UpdatedAt.Add(time.Second)
	for _, want := range []int{10, 10, 5, 0} {
		if n, err := s.PurgeTombstones(newContext(t), after, 10); err != nil || n != want {
			t.Errorf("purged %d, %v, want %d", n, err, want)
		}
	}
	page, err := s.Scan(newContext(t), "", 100)
	must(t, "scan", err)
	if len(page) != 25 {
		t.Errorf("%d rows left, want the 25 puts", len(page))
	}
}
