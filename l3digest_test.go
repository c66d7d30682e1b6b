package syncengine_test

// l3digest_test.go holds the digest of L3 against its rows: after writes by several stores at
// once, after damage, and after changes behind the engine's back. Every check recomputes the
// digest from a listing.

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/digest"
	"github.com/syncengine-go/syncengine/internal/storetest"
)

// eachSQL runs a test over both kinds of L3, with a way to the tables from outside.
func eachSQL(t *testing.T, run func(t *testing.T, url string, raw *sql.DB)) {
	for _, srv := range sqlServers {
		t.Run(srv.name, func(t *testing.T) {
			url := srv.url(t)
			archiveAt(t, url)
			run(t, url, srv.raw(t, url))
		})
	}
}

// rowsOf lists the live rows of an archive.
func rowsOf(t testing.TB, s syncengine.ArchiveStore) (rows []syncengine.Meta) {
	t.Helper()
	for after := ""; ; {
		page, err := s.Scan(bounded(t), after, 1000)
		noError(t, "scan", err)
		if len(page) == 0 {
			return slices.DeleteFunc(rows, func(m syncengine.Meta) bool { return m.Deleted })
		}
		rows, after = append(rows, page...), page[len(page)-1].ID
	}
}

func digestOfRows(rows []syncengine.Meta) *digest.Set {
	set := new(digest.Set)
	for _, m := range rows {
		set.Add(m.ID, digest.LeafOf(m.ID, m.Version, m.ContentHash))
	}
	return set
}

// wantDigest checks the stored digest against the rows.
func wantDigest(t testing.TB, s syncengine.ArchiveStore) {
	t.Helper()
	set, err := s.(syncengine.ArchiveDigester).Digest(bounded(t))
	noError(t, "digest", err)
	if want := digestOfRows(rowsOf(t, s)); set.Root() != want.Root() {
		t.Fatalf("the digest differs from that of the rows in %d branches", len(set.Diff(want)))
	}
}

// randomRecs draws records over few ids, so that they meet, some of them stale.
func randomRecs(rnd *rand.Rand, ids int) (recs []syncengine.Record) {
	for _, i := range rnd.Perm(ids)[:1+rnd.IntN(ids/2)] {
		id, version := fmt.Sprintf("id-%03d", i), 1+rnd.Uint64N(1000)
		if rnd.IntN(4) == 0 {
			recs = append(recs, storetest.Tombstone(id, version))
		} else {
			recs = append(recs, storetest.Put(id, version, fmt.Sprintf(`{"n":%d}`, rnd.IntN(5))))
		}
	}
	slices.SortFunc(recs, func(a, b syncengine.Record) int { return strings.Compare(a.ID, b.ID) })
	return recs
}

func TestTheDigestOfL3IsThatOfItsRowsWhoeverWrites(t *testing.T) {
	eachSQL(t, func(t *testing.T, url string, raw *sql.DB) {
		const stores, rounds = 3, 120
		seed := rand.Uint64()
		t.Logf("seed %d", seed)
		var wg sync.WaitGroup
		for n := range stores {
			s := archiveAt(t, url)
			wg.Go(func() {
				rnd := rand.New(rand.NewPCG(seed, uint64(n)))
				for range rounds {
					if _, err := s.Apply(bounded(t), randomRecs(rnd, 100)); err != nil {
						t.Errorf("apply: %v", err)
						return
					}
				}
			})
		}
		wg.Wait()
		s := archiveAt(t, url)
		wantDigest(t, s)
		var deltas int
		noError(t, "count", raw.QueryRow("SELECT COUNT(*) FROM sync_deltas").Scan(&deltas))
		if deltas >= stores*rounds/2 {
			t.Errorf("%d deltas of %d batches are left: nobody folds", deltas, stores*rounds)
		}
	})
}

func TestApplyTellsWhichRowsStayAboveTheirRecords(t *testing.T) {
	eachSQL(t, func(t *testing.T, url string, _ *sql.DB) {
		s := archiveAt(t, url)
		held := []syncengine.Record{storetest.Put("a", 5, `5`), storetest.Tombstone("b", 5), storetest.Put("c", 5, `5`), storetest.Put("d", 5, `5`)}
		noError(t, "apply", applied(s.Apply(bounded(t), held)))
		above, err := s.Apply(bounded(t), []syncengine.Record{
			storetest.Put("a", 4, `4`), storetest.Put("b", 5, `5`), storetest.Put("c", 5, `5`), storetest.Put("d", 6, `6`), storetest.Put("e", 1, `1`),
		})
		noError(t, "apply", err)
		var ids []string
		for _, m := range above {
			ids = append(ids, fmt.Sprintf("%s %d %v", m.ID, m.Version, m.Deleted))
		}
		slices.Sort(ids)
		if got := strings.Join(ids, ", "); got != "a 5 false, b 5 true" {
			t.Errorf("above: %s", got)
		}
		wantDigest(t, s)
	})
}

func TestLeavesAreTheLiveRowsOfTheirBranches(t *testing.T) {
	eachSQL(t, func(t *testing.T, url string, _ *sql.DB) {
		s := archiveAt(t, url)
		syncengine.SetLeafWindow(s, 100)
		var recs []syncengine.Record
		for i := range 1234 {
			if id := fmt.Sprintf("leaf-%04d", i); i%10 == 3 {
				recs = append(recs, storetest.Tombstone(id, 1))
			} else {
				recs = append(recs, storetest.Put(id, 1, `1`))
			}
		}
		for _, id := range storetest.IDs() {
			recs = append(recs, storetest.Put(id, 2, `2`))
		}
		noError(t, "apply", applied(s.Apply(bounded(t), recs)))
		rows := rowsOf(t, s)
		for _, branches := range [][]int{{digest.Branch("leaf-0000")}, {0, 1, 2, 3, 2047}, allBranches()} {
			var got []syncengine.Meta
			calls := 0
			for after := ""; calls == 0 || after != ""; calls++ {
				leaves, last, err := s.(syncengine.ArchiveDigester).Leaves(bounded(t), branches, after)
				noError(t, "leaves", err)
				if last != "" && last <= after {
					t.Fatalf("%q after %q", last, after)
				}
				got, after = append(got, leaves...), last
			}
			want := slices.DeleteFunc(slices.Clone(rows), func(m syncengine.Meta) bool { return !slices.Contains(branches, digest.Branch(m.ID)) })
			slices.SortFunc(got, func(a, b syncengine.Meta) int { return strings.Compare(a.ID, b.ID) })
			if !slices.Equal(got, want) {
				t.Errorf("%d branches: %d leaves, want %d", len(branches), len(got), len(want))
			}
			if calls < 10 {
				t.Errorf("%d calls for 1234 rows", calls)
			}
		}
	})
}

func allBranches() []int {
	all := make([]int, digest.Branches)
	for i := range all {
		all[i] = i
	}
	return all
}

// What is done behind the engine's back is not in the digest; a recount finds it.
func TestARecountFindsAndCorrectsWhatTheDigestDoesNotKnow(t *testing.T) {
	eachSQL(t, func(t *testing.T, url string, raw *sql.DB) {
		s := archiveAt(t, url)
		d := s.(syncengine.ArchiveDigester)
		var recs []syncengine.Record
		for i := range 50 {
			recs = append(recs, storetest.Put(fmt.Sprintf("id-%02d", i), 1, fmt.Sprint(i)))
		}
		noError(t, "apply", applied(s.Apply(bounded(t), recs)))
		recount := func(fix bool) (wrong int, corrupt []string) {
			t.Helper()
			wrong, err := d.Recount(bounded(t), fix, func(err error) {
				var ce *syncengine.CorruptionError
				if !errors.As(err, &ce) {
					t.Errorf("reported: %v", err)
					return
				}
				corrupt = append(corrupt, ce.ID)
			})
			noError(t, "recount", err)
			return wrong, corrupt
		}
		if wrong, corrupt := recount(true); wrong != 0 || corrupt != nil {
			t.Fatalf("nothing was done yet: %d wrong, corrupt %v", wrong, corrupt)
		}
		for _, test := range []struct {
			sql     string
			wrong   bool
			corrupt string
		}{
			{"DELETE FROM sync_items WHERE id = 'id-07'", true, ""},
			{"UPDATE sync_items SET version = 9 WHERE id = 'id-08'", true, ""},
			{"UPDATE sync_items SET content = '77' WHERE id = 'id-09'", false, "id-09"},
			{"UPDATE sync_digest SET digest = 'garbage'", true, "id-09"},
			{"INSERT INTO sync_deltas (delta) VALUES ('garbage')", true, "id-09"},
			{"DELETE FROM sync_deltas", true, "id-09"},
		} {
			if _, err := raw.Exec(test.sql); err != nil {
				t.Fatal(err)
			}
			for _, fix := range []bool{false, true} {
				wrong, corrupt := recount(fix)
				if got := strings.Join(corrupt, " "); (wrong > 0) != test.wrong || got != test.corrupt {
					t.Errorf("%s (fix %v): %d branches wrong, corrupt %q", test.sql, fix, wrong, got)
				}
			}
			wantDigest(t, s)
		}
	})
}

// A digest that can't be read is an error, not another root.
func TestAnUnreadableDigestIsAnError(t *testing.T) {
	eachSQL(t, func(t *testing.T, url string, raw *sql.DB) {
		s := archiveAt(t, url)
		noError(t, "apply", applied(s.Apply(bounded(t), []syncengine.Record{storetest.Put("a", 1, `1`)})))
		if _, err := raw.Exec("UPDATE sync_deltas SET delta = 'x'"); err != nil {
			t.Fatal(err)
		}
		if _, err := s.(syncengine.ArchiveDigester).Digest(bounded(t)); !errors.Is(err, syncengine.ErrCorruption) {
			t.Errorf("Digest: %v", err)
		}
		// Writes go on all the same.
		for n := range 100 {
			noError(t, "apply", applied(s.Apply(context.Background(), []syncengine.Record{storetest.Put("a", uint64(n+2), `1`)})))
		}
	})
}
