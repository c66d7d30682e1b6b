package storetest

// listing.go holds what an archive adds that lists its rows with content.

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
)

var _ syncengine.ListingStore = (*archive)(nil)

func (a *archive) List(ctx context.Context, prefix, after string, limit int, maxBytes int64) (page []syncengine.Found, more bool, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, false, err
	}
	a.sort()
	at, _ := slices.BinarySearch(a.ids, max(prefix, after))
	bytes := int64(0)
	for _, id := range a.ids[at:] {
		if !strings.HasPrefix(id, prefix) {
			break
		}
		if id == after && after != "" {
			continue
		}
		page = append(page, syncengine.Found{Record: a.rows[id], OK: true})
		if bytes += int64(len(a.rows[id].Content)); len(page) == limit || bytes >= maxBytes {
			return page, true, nil
		}
	}
	return page, false, nil
}

// listed reads all pages of a prefix, checks that each keeps its bounds, and calls between after
// each.
func listed(t *testing.T, s syncengine.ListingStore, prefix string, limit int, maxBytes int64, between func()) (out []syncengine.Record) {
	t.Helper()
	for after, more := "", true; more; {
		page, m, err := s.List(newContext(t), prefix, after, limit, maxBytes)
		must(t, "list", err)
		bytes := int64(0)
		for i := range page {
			r := &page[i].Record
			switch {
			case !page[i].OK || page[i].Err != nil:
				t.Errorf("ListingStore.List: row %q: ok %v, err %v: a row that can be read is OK and has no Err", short(r.ID), page[i].OK, page[i].Err)
			case !strings.HasPrefix(r.ID, prefix):
				t.Fatalf("ListingStore.List of %q: row %q: ids begin with prefix", short(prefix), short(r.ID))
			case after != "" && r.ID <= after:
				t.Fatalf("ListingStore.List of %q: row %q after %q: rows are above after, in byte order of the id", short(prefix), short(r.ID), short(after))
			case i == limit:
				t.Fatalf("ListingStore.List: a page of %d rows at limit %d: a page ends after limit rows", len(page), limit)
			case bytes >= maxBytes:
				t.Fatalf("ListingStore.List: a page of %d rows, of which the first %d have %d bytes: a page ends after the row with which contents have maxBytes, %d", len(page), i, bytes, maxBytes)
			}
			bytes += int64(len(r.Content))
			out, after = append(out, *r), r.ID
		}
		full := len(page) == limit || bytes >= maxBytes
		if more = m; more && !full {
			t.Fatalf("ListingStore.List: more is set after %d rows of %d and %d bytes of %d: it is set where the page has ended by them", len(page), limit, bytes, maxBytes)
		}
		if between != nil {
			between()
		}
	}
	return out
}

// RunListing holds a ListingStore against its interface. open returns an empty store, prepared; it
// closes what it opened by t.Cleanup.
func RunListing(t *testing.T, open func(t *testing.T) syncengine.ListingStore) {
	t.Run("List pages by prefix, in byte order of the id", func(t *testing.T) { testListPrefixes(t, open(t)) })
	t.Run("List gives back what was put", func(t *testing.T) {
		s := open(t)
		var recs []syncengine.Record
		contents := Contents()
		for i, id := range IDs() {
			r := Put(id, uint64(i+1), contents[i%len(contents)])
			switch i % 4 {
			case 1:
				r = expiring(r, far)
			case 2:
				r = Tombstone(id, uint64(i+1))
			case 3:
				r.Priority, r.TraceParent, r.TraceState, r.HomeInstanceID = syncengine.PriorityHigh, "p", "s", "h"
			}
			recs = append(recs, r)
		}
		must(t, "apply", applied(s.Apply(newContext(t), recs)))
		wantListed(t, listed(t, s, "", 7, 1<<20, nil), recs)
	})
	t.Run("a page of List ends by its bytes", func(t *testing.T) {
		s := open(t)
		var recs []syncengine.Record
		for i := range 40 {
			recs = append(recs, Put(fmt.Sprintf("%02d", i), 1, `"`+strings.Repeat("x", (i%5)*1000)+`"`))
		}
		recs[20] = Put("20", 1, `"`+strings.Repeat("x", 1<<20)+`"`) // larger than any page
		must(t, "apply", applied(s.Apply(newContext(t), recs)))
		for _, most := range []int64{1, 3000, 5000, 10_000, 1 << 30} {
			wantListed(t, listed(t, s, "", 1000, most, nil), recs)
		}
	})
	t.Run("nothing is held open between two pages of List", func(t *testing.T) { testListHolds(t, open(t)) })
	t.Run("a dead context ends List", func(t *testing.T) {
		s := open(t)
		must(t, "apply", applied(s.Apply(newContext(t), []syncengine.Record{Put("a", 1, `1`)})))
		gone, cancel := context.WithCancel(context.Background())
		cancel()
		if _, _, err := s.List(gone, "", "", 10, 1000); !errors.Is(err, context.Canceled) {
			t.Errorf("list with a cancelled context: %v, want context.Canceled", err)
		}
	})
}

// wantListed asserts that all of want were listed, each once, in order.
func wantListed(t *testing.T, got, want []syncengine.Record) {
	t.Helper()
	want = slices.SortedFunc(slices.Values(want), func(a, b syncengine.Record) int { return strings.Compare(a.ID, b.ID) })
	for i := range max(len(got), len(want)) {
		switch {
		case i == len(got) || i < len(want) && got[i].ID > want[i].ID:
			t.Fatalf("ListingStore.List lacks the row of %q, of %d listed: it returns all that begin with prefix, tombstones included", short(want[i].ID), len(got))
		case i == len(want) || got[i].ID != want[i].ID:
			t.Fatalf("ListingStore.List has a row of %q that it should not", short(got[i].ID))
		}
		if field := Diff(&got[i], &want[i]); field != "" {
			t.Errorf("ListingStore.List, row of %q: %s differs from what was put", short(got[i].ID), field)
		}
	}
}

func testListPrefixes(t *testing.T, s syncengine.ListingStore) {
	if page, more, err := s.List(newContext(t), "", "", 10, 1000); err != nil || len(page) != 0 || more {
		t.Fatalf("an empty archive: %d rows, more %v, %v", len(page), more, err)
	}
	ids := append(IDs(), "aXb", "a%b", "a_b", "a~", "\u65e5", "\u65e5\u672c", "\u6708", "\U0010ffff", "\U0010ffffx")
	var recs []syncengine.Record
	for i, id := range ids {
		recs = append(recs, Put(id, 1, fmt.Sprint(i)))
	}
	must(t, "apply", applied(s.Apply(newContext(t), recs)))
	// Those that are no ids are cut within a letter, or none at all.
	prefixes := []string{"", "\xc3", "\xe6", "\xf4\x8f\xbf\xbf", "\xff", "\xff\xff", "a\xff", "\x7f", "\xef\xbf", "a\x00", "none", strings.Repeat("a", 2*syncengine.MaxIDBytes)}
	for _, prefix := range append(prefixes, ids...) {
		var want []syncengine.Record
		for _, r := range recs {
			if strings.HasPrefix(r.ID, prefix) {
				want = append(want, r)
			}
		}
		for _, limit := range []int{1, 3, 1000} {
			if limit == 1 && len(want) > 20 {
				continue
			}
			wantListed(t, listed(t, s, prefix, limit, 1<<20, nil), want)
		}
	}
	for _, c := range [][2]string{{"a", "A"}, {"a.", "a.b."}, {"", "a.b.\xff"}, {"a", "b"}, {"\xe6", "\xe6\x97\xa5"}, {"a.b", "a.b\xff"}, {"", "\xff\xff"}} {
		prefix, after := c[0], c[1]
		page, _, err := s.List(newContext(t), prefix, after, 1, 1000)
		must(t, "list", err)
		var want []string
		for _, id := range slices.Sorted(slices.Values(ids)) {
			if strings.HasPrefix(id, prefix) && id > after && want == nil {
				want = []string{id}
			}
		}
		if got := foundIDs(page); !slices.Equal(got, want) {
			t.Errorf("ListingStore.List of %q after %q: %q, want %q: rows begin with prefix and are above after, which need not be valid UTF-8", prefix, after, got, want)
		}
	}
}

func foundIDs(page []syncengine.Found) (ids []string) {
	for i := range page {
		ids = append(ids, page[i].Record.ID)
	}
	return ids
}

// testListHolds writes, purges and lists between two pages: a call that waits for the listing ends
// with its deadline.
func testListHolds(t *testing.T, s syncengine.ListingStore) {
	const rule = "ListingStore.List: nothing is held open between two calls"
	var want []syncengine.Record
	for i := range 30 {
		want = append(want, Put(fmt.Sprintf("m%02d", i), 1, `1`))
	}
	must(t, "apply", applied(s.Apply(newContext(t), append(want, Tombstone("a-gone", 1)))))
	pages := 0
	got := listed(t, s, "m", 10, 1<<20, func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if pages++; pages > 1 {
			return
		}
		below, above := Put("m00-below", 1, `1`), Put("m20-above", 1, `1`)
		changed := Put("m25", 2, `2`)
		if err := applied(s.Apply(ctx, []syncengine.Record{below, changed, above})); err != nil {
			t.Errorf("%s: apply between two pages: %v", rule, err)
		}
		if _, err := s.PurgeTombstones(ctx, time.Now(), 10); err != nil {
			t.Errorf("%s: purge between two pages: %v", rule, err)
		}
		if page, _, err := s.List(ctx, "m", "", 5, 1000); err != nil || len(page) != 5 {
			t.Errorf("%s: another listing between two pages: %d rows, %v", rule, len(page), err)
		}
		want[25] = changed
		want = append(want, above)
	})
	wantListed(t, got, want)
}
