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
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/digest"
	"github.com/syncengine-go/syncengine/internal/faultproxy"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/storetest"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

// eachSQL runs a test over both kinds of L3, with a way to the tables from outside.
func eachSQL(t *testing.T, run func(t *testing.T, url string, raw *sql.DB)) {
	for _, srv := range lab.SQLServers {
		t.Run(srv.Name, func(t *testing.T) {
			url := srv.URL(t)
			lab.ArchiveAt(t, url)
			run(t, url, srv.Raw(t, url))
		})
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
			s := lab.ArchiveAt(t, url)
			wg.Go(func() {
				rnd := rand.New(rand.NewPCG(seed, uint64(n)))
				for range rounds {
					if _, err := s.Apply(lab.Bounded(t), randomRecs(rnd, 100)); err != nil {
						t.Errorf("apply: %v", err)
						return
					}
				}
			})
		}
		wg.Wait()
		s := lab.ArchiveAt(t, url)
		lab.WantDigest(t, s)
		var deltas int
		lab.NoError(t, "count", raw.QueryRow("SELECT COUNT(*) FROM sync_deltas").Scan(&deltas))
		if deltas >= stores*rounds/2 {
			t.Errorf("%d deltas of %d batches are left: nobody folds", deltas, stores*rounds)
		}
	})
}

func TestApplyTellsWhichRowsStayAboveTheirRecords(t *testing.T) {
	eachSQL(t, func(t *testing.T, url string, _ *sql.DB) {
		s := lab.ArchiveAt(t, url)
		held := []syncengine.Record{storetest.Put("a", 5, `5`), storetest.Tombstone("b", 5), storetest.Put("c", 5, `5`), storetest.Put("d", 5, `5`)}
		lab.NoError(t, "apply", lab.Applied(s.Apply(lab.Bounded(t), held)))
		above, err := s.Apply(lab.Bounded(t), []syncengine.Record{
			storetest.Put("a", 4, `4`), storetest.Put("b", 5, `5`), storetest.Put("c", 5, `5`), storetest.Put("d", 6, `6`), storetest.Put("e", 1, `1`),
		})
		lab.NoError(t, "apply", err)
		var ids []string
		for _, m := range above {
			ids = append(ids, fmt.Sprintf("%s %d %v", m.ID, m.Version, m.Deleted))
		}
		slices.Sort(ids)
		if got := strings.Join(ids, ", "); got != "a 5 false, b 5 true" {
			t.Errorf("above: %s", got)
		}
		lab.WantDigest(t, s)
	})
}

func TestLeavesAreTheLiveRowsOfTheirBranches(t *testing.T) {
	eachSQL(t, func(t *testing.T, url string, _ *sql.DB) {
		s := lab.ArchiveAt(t, url)
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
		lab.NoError(t, "apply", lab.Applied(s.Apply(lab.Bounded(t), recs)))
		rows := lab.RowsOf(t, s)
		for _, branches := range [][]int{{digest.Branch("leaf-0000")}, {0, 1, 2, 3, 2047}, allBranches()} {
			var got []syncengine.Meta
			calls := 0
			for after := ""; calls == 0 || after != ""; calls++ {
				leaves, last, err := s.(syncengine.ArchiveDigester).Leaves(lab.Bounded(t), branches, after)
				lab.NoError(t, "leaves", err)
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
		s := lab.ArchiveAt(t, url)
		d := s.(syncengine.ArchiveDigester)
		var recs []syncengine.Record
		for i := range 50 {
			recs = append(recs, storetest.Put(fmt.Sprintf("id-%02d", i), 1, fmt.Sprint(i)))
		}
		lab.NoError(t, "apply", lab.Applied(s.Apply(lab.Bounded(t), recs)))
		recount := func(fix bool) (wrong int, corrupt []string) {
			t.Helper()
			wrong, err := d.Recount(lab.Bounded(t), time.Minute, fix, func(err error) {
				var ce *syncengine.CorruptionError
				if !errors.As(err, &ce) {
					t.Errorf("reported: %v", err)
					return
				}
				corrupt = append(corrupt, ce.ID)
			})
			lab.NoError(t, "recount", err)
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
			{"DELETE FROM sync_digest", true, "id-09"},
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
			lab.WantDigest(t, s)
		}
	})
}

// A digest that can't be read is an error, not another root.
func TestAnUnreadableDigestIsAnError(t *testing.T) {
	eachSQL(t, func(t *testing.T, url string, raw *sql.DB) {
		s := lab.ArchiveAt(t, url)
		lab.NoError(t, "apply", lab.Applied(s.Apply(lab.Bounded(t), []syncengine.Record{storetest.Put("a", 1, `1`)})))
		if _, err := raw.Exec("UPDATE sync_deltas SET delta = 'x'"); err != nil {
			t.Fatal(err)
		}
		if _, err := s.(syncengine.ArchiveDigester).Digest(lab.Bounded(t)); !errors.Is(err, syncengine.ErrCorruption) {
			t.Errorf("Digest: %v", err)
		}
		// Writes go on all the same.
		for n := range 100 {
			lab.NoError(t, "apply", lab.Applied(s.Apply(context.Background(), []syncengine.Record{storetest.Put("a", uint64(n+2), `1`)})))
		}
	})
}

// A step of a recount is the next row: however long all rows take, it ends only where none comes.
func TestARecountGoesOnWhileRowsCome(t *testing.T) {
	t.Parallel()
	const each = 500 * time.Millisecond
	server := testserver.SharedMariaDB(t)
	p := faultproxy.New(t, server.Addr())
	s := lab.ArchiveAt(t, lab.Via(t, server.NewDatabase(t), p))
	for i := range 80 {
		rec := storetest.Put(fmt.Sprintf("id-%02d", i), 1, string(lab.BigDoc(64)))
		lab.NoError(t, "apply", lab.Applied(s.Apply(lab.Bounded(t), []syncengine.Record{rec})))
	}
	recount := func() error {
		wrong, err := s.(syncengine.ArchiveDigester).Recount(lab.Bounded(t), each, true, func(err error) { t.Error(err) })
		if wrong != 0 {
			t.Errorf("%d branches are wrong", wrong)
		}
		return err
	}
	p.Delay(10 * time.Millisecond)
	start := time.Now()
	lab.NoError(t, "of a server that is slow", recount())
	if took := time.Since(start); took < each {
		t.Fatalf("all rows came within %v", took)
	}
	p.Delay(0)
	p.MuteAt("FROM sync_items")
	if err := recount(); !errors.Is(err, syncengine.ErrUnavailable) || !strings.Contains(err.Error(), "did not answer in time") {
		t.Errorf("of a server that falls silent: %v", err)
	}
}
