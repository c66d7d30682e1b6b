package storetest

// expiring.go holds what an archive adds that finds what has expired.

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
)

var _ syncengine.ExpiringStore = (*archive)(nil)

// expiring is a record with an expiry.
func expiring(r syncengine.Record, at time.Time) syncengine.Record {
	r.ExpiresAt = at.UTC()
	return r
}

// RunExpiring holds an ExpiringStore against its interface. open returns an empty store, prepared;
// it closes what it opened by t.Cleanup.
func RunExpiring(t *testing.T, open func(t *testing.T) syncengine.ExpiringStore) {
	due := func(t *testing.T, s syncengine.ExpiringStore, at time.Time, limit int) (rows []syncengine.Meta) {
		t.Helper()
		rows, err := s.Expired(newContext(t), at, limit)
		must(t, "expired", err)
		slices.SortFunc(rows, func(a, b syncengine.Meta) int { return cmp.Compare(a.ID, b.ID) })
		return rows
	}
	t.Run("Expired finds the live rows whose time has come", func(t *testing.T) {
		s := open(t)
		k := archiveKeeper(s)
		before, at, after := far.Add(-time.Millisecond), far, far.Add(time.Millisecond)
		a, b := expiring(Put("a", 1, `1`), before), expiring(Put("b", 2, `{"n":2}`), at)
		k.mustPut(t, a, b, expiring(Put("c", 1, `1`), after), Put("d", 1, `1`), Tombstone("e", 1),
			expiring(Put("f", 1, `1`), before), expiring(Put("g", 1, `1`), before), expiring(Put("h", 1, `1`), before))
		k.mustPut(t, Tombstone("f", 1), Put("g", 2, `2`), expiring(Put("h", 2, `1`), after))
		if got, want := due(t, s, at, 10), []syncengine.Meta{metaOf(&a), metaOf(&b)}; !slices.Equal(got, want) {
			t.Errorf("ExpiringStore.Expired returns live rows whose ExpiresAt is not after the time:\n got %+v\nwant %+v", got, want)
		}
		if got := due(t, s, at, 1); len(got) != 1 {
			t.Errorf("ExpiringStore.Expired returns up to limit rows: %d at limit 1", len(got))
		}
		if got := due(t, s, before.Add(-time.Millisecond), 10); len(got) != 0 {
			t.Errorf("ExpiringStore.Expired, before any row is due: %+v", got)
		}
		for _, r := range []syncengine.Record{a, b} {
			if row, err := s.Get(newContext(t), r.ID); err != nil || Diff(&row, &r) != "" {
				t.Errorf("ExpiringStore.Expired changes nothing, and yet %q is at %d, deleted %v, %v", r.ID, row.Version, row.Deleted, err)
			}
		}
		k.mustPut(t, Tombstone("a", 1), Tombstone("b", 1)) // of another version
		if got := due(t, s, at, 10); len(got) != 1 || got[0].ID != "b" {
			t.Errorf("ExpiringStore.Expired returns live rows, not those that were deleted: %+v, want b alone", got)
		}
		k.wantAll(t, []syncengine.Record{Tombstone("a", 1), b, Tombstone("f", 1), Put("g", 2, `2`)})
	})
	t.Run("Heads and Scan tell of the expiry", func(t *testing.T) {
		s := open(t)
		var recs []syncengine.Record
		for i := range 20 {
			recs = append(recs, expiring(Put(fmt.Sprintf("id-%02d", i), 1, `1`), far.Add(time.Duration(i)*time.Millisecond)))
		}
		archiveKeeper(s).mustPut(t, recs...)
		rows, err := s.Heads(newContext(t), []string{recs[7].ID})
		if must(t, "heads", err); len(rows) != 1 || rows[0] != metaOf(&recs[7]) {
			t.Errorf("ArchiveStore.Heads: %+v, want its Meta.ExpiresAt", rows)
		}
		rows, err = s.Scan(newContext(t), "", 100)
		if must(t, "scan", err); len(rows) != len(recs) || rows[19] != metaOf(&recs[19]) {
			t.Errorf("ArchiveStore.Scan: %+v, want their Meta.ExpiresAt", rows)
		}
	})
	if s, ok := open(t).(syncengine.ConditionalStore); ok {
		t.Run("a row that has expired counts as none", func(t *testing.T) {
			k := archiveKeeper(s)
			k.mustPut(t, expiring(Put("a", 5, `5`), far))
			decide := func(want syncengine.Decision, nonce uint64, now time.Time, version uint64, r syncengine.Record) {
				t.Helper()
				c := If(version, r)
				c.Now = now
				v, err := s.ApplyIf(newContext(t), nonce, [][]syncengine.Conditional{{c}})
				if must(t, "apply if", err); v[0].Decision != want || want == syncengine.DecidedConflict && !v[0].Row.ExpiresAt.Equal(far) {
					t.Errorf("Conditional.Now: a row that expires counts as none from then on: unit %d at %v: %+v", nonce, now, v[0])
				}
			}
			early := far.Add(-time.Millisecond)
			decide(syncengine.DecidedConflict, 1, early, 0, Put("a", 6, `6`))
			decide(syncengine.DecidedConflict, 2, far, 5, Put("a", 6, `6`))
			decide(syncengine.DecidedOutranked, 3, far, 0, Put("a", 4, `6`))
			decide(syncengine.DecidedApplied, 4, far, 0, Put("a", 6, `6`))
			k.want(t, Put("a", 6, `6`))
		})
	}
	t.Run("a dead context ends Expired", func(t *testing.T) {
		gone, cancel := context.WithCancel(context.Background())
		cancel()
		if _, err := open(t).Expired(gone, far, 1); !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
	})
}
