package syncengine_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/storetest"
)

// list reads all pages of a prefix, and checks that each keeps its bounds.
func list(t *testing.T, s syncengine.ArchiveStore, prefix string, limit int, maxBytes int64) (ids []string) {
	t.Helper()
	for after, more := "", true; more; {
		var page []syncengine.Found
		var err error
		page, more, err = s.(syncengine.ListingStore).List(lab.Bounded(t), prefix, after, limit, maxBytes)
		lab.Must(t, err)
		bytes := int64(0)
		for i := range page {
			if bytes >= maxBytes || i == limit {
				t.Fatalf("a page of %d rows, the first %d of which have %d bytes", len(page), i, bytes)
			}
			bytes += int64(len(page[i].Record.Content))
			ids = append(ids, page[i].Record.ID)
		}
		if len(page) > 0 {
			after = page[len(page)-1].Record.ID
		} else if more {
			t.Fatal("an empty page, and more")
		}
	}
	return ids
}

// Ids are bytes to a listing: no letter, wildcard or rune is special, nor where one is cut.
func TestListingAPrefixIsByBytes(t *testing.T) {
	for _, srv := range lab.SQLServers {
		t.Run(srv.Name, func(t *testing.T) {
			s := lab.ArchiveAt(t, srv.URL(t))
			ids := []string{
				"a", "A", "a%", "a%b", "aXb", "a_", "a_b", "ab", "a.", "a/", "a~", "aé", "aê", "é", "éé", "ê", "日", "日本", "月", "日\u00ff",
				"\U0010ffff", "\U0010ffffx", "￿", "a\\", "a\\%", "a'", "a\"", "z ", "z", " ",
			}
			var recs []syncengine.Record
			for n, id := range ids {
				if recs = append(recs, storetest.Put(id, 1, fmt.Sprint(n))); id == "a~" {
					recs[n] = storetest.Tombstone(id, 1)
				}
			}
			_, err := s.Apply(lab.Bounded(t), recs)
			lab.Must(t, err)
			prefixes := []string{"", "\xc3", "\xe6", "\xf4\x8f\xbf\xbf", "\xff", "\xff\xff", "a\xff", "\x7f", "\xef\xbf", strings.Repeat("a", 600)}
			for _, prefix := range append(prefixes, ids...) {
				var want []string
				for _, id := range ids {
					if strings.HasPrefix(id, prefix) {
						want = append(want, id)
					}
				}
				slices.Sort(want)
				for _, limit := range []int{1, 3, 1000} {
					if got := list(t, s, prefix, limit, 1<<20); !slices.Equal(got, want) {
						t.Errorf("%q by %d: %q, want %q", prefix, limit, got, want)
					}
				}
			}
			if got := list(t, s, "", 1000, 3); len(got) != len(ids) {
				t.Errorf("in pages of 3 bytes: %q", got)
			}
			if page, _, err := s.(syncengine.ListingStore).List(lab.Bounded(t), "a", "A", 1, 1); err != nil || page[0].Record.ID != "a" {
				t.Errorf("after what is below the prefix: %v, %v", page, err)
			}
		})
	}
}
