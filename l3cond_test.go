package syncengine_test

// l3cond_test.go holds conditional transactions of SQL against what several stores do at once,
// and looks at what they leave in sync_deltas. What each decides is in the conformance suite;
// lost replies are in l3cond_faults_test.go.

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
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/storetest"
)

// memberAt opens a store that writes as an engine of the fleet.
func memberAt(t testing.TB, url, engine string) syncengine.ConditionalStore {
	t.Helper()
	s := lab.ArchiveAt(t, url)
	_, err := s.(syncengine.Registrar).Join(lab.Bounded(t), engine, "", 0, nil)
	lab.NoError(t, "join", err)
	s.(syncengine.Registrar).Fence(engine)
	return s.(syncengine.ConditionalStore)
}

type units = [][]syncengine.Conditional

// insertOf is a call that inserts one id.
func insertOf(id string, version uint64) units {
	return units{{storetest.If(0, storetest.Put(id, version, `1`))}}
}

// mustApply asserts that all units are stored.
func mustApply(t testing.TB, s syncengine.ConditionalStore, nonce uint64, us units) {
	t.Helper()
	verdicts, err := s.ApplyIf(lab.Bounded(t), nonce, us)
	lab.NoError(t, "apply if", err)
	for i, v := range verdicts {
		if v.Decision != syncengine.DecidedApplied {
			t.Errorf("unit %d: %+v", i, v)
		}
	}
}

// wantLanded asserts an answer of Landed.
func wantLanded(t testing.TB, s syncengine.ConditionalStore, nonce uint64, want bool) {
	t.Helper()
	if landed, err := s.Landed(lab.Bounded(t), nonce); landed != want || err != nil {
		t.Errorf("nonce %d landed: %v, %v, want %v", nonce, landed, err, want)
	}
}

// labels lists the named rows of sync_deltas, and how many have no name.
func labels(t testing.TB, raw *sql.DB) (named string, others int) {
	t.Helper()
	rows, err := raw.QueryContext(lab.Bounded(t), "SELECT engine, nonce, LENGTH(delta) FROM sync_deltas ORDER BY engine, nonce")
	lab.NoError(t, "deltas", err)
	var out []string
	for rows.Next() {
		var engine sql.NullString
		var nonce sql.NullInt64
		var size int
		lab.NoError(t, "deltas", rows.Scan(&engine, &nonce, &size))
		switch {
		case engine.Valid != nonce.Valid:
			t.Errorf("half a name: %v %v", engine, nonce)
		case !engine.Valid:
			others++
		case size == 0:
			out = append(out, fmt.Sprintf("%s %d empty", engine.String, nonce.Int64))
		default:
			out = append(out, fmt.Sprintf("%s %d", engine.String, nonce.Int64))
		}
	}
	lab.NoError(t, "deltas", errors.Join(rows.Err(), rows.Close()))
	return strings.Join(out, ", "), others
}

// TestINV14ManyStoresCountExactly: each caller adds one to counters that it has read, in calls
// of many units, among plain writers of other ids and of one that all write.
func TestINV14ManyStoresCountExactly(t *testing.T) {
	eachSQL(t, func(t *testing.T, url string, _ *sql.DB) {
		const stores, counters, perStore = 4, 5, 60
		ctx := lab.Bounded(t)
		var counted [counters]int
		var conflicts int
		var mu sync.Mutex
		var wg sync.WaitGroup
		var together sync.WaitGroup // all have read before any writes for the first time
		together.Add(stores)
		for n := range stores {
			s := memberAt(t, url, fmt.Sprint("engine-", n))
			rng := rand.New(rand.NewPCG(uint64(n), 1))
			wg.Go(func() {
				applied := [counters]int{}
				lost := 0
				for nonce := uint64(1); nonce <= perStore; nonce++ {
					us, at, err := nextCounts(ctx, s, rng, counters)
					if nonce == 1 {
						together.Done()
						together.Wait()
					}
					var verdicts []syncengine.Verdict
					if err == nil {
						verdicts, err = s.ApplyIf(ctx, nonce, us)
					}
					if err != nil {
						t.Errorf("store %d: %v", n, err)
						return
					}
					for i, v := range verdicts {
						if v.Decision == syncengine.DecidedApplied {
							applied[at[i]]++
						} else {
							lost++
						}
					}
					plain := randomRecs(rng, 40)
					if _, err := s.Apply(ctx, append(plain, storetest.Put("shared", nonce, fmt.Sprint(n)))); err != nil {
						t.Errorf("store %d: %v", n, err)
						return
					}
				}
				mu.Lock()
				defer mu.Unlock()
				conflicts += lost
				for i := range applied {
					counted[i] += applied[i]
				}
			})
		}
		wg.Wait()
		s := lab.ArchiveAt(t, url)
		for i, want := range counted {
			r, err := s.Get(ctx, fmt.Sprint("counter-", i))
			if err != nil || string(r.Content) != fmt.Sprint(want) {
				t.Errorf("counter %d holds %s, %v; %d callers were told that they counted", i, r.Content, err, want)
			}
		}
		if conflicts == 0 {
			t.Error("nobody ever met")
		}
		lab.WantDigest(t, s)
		if wrong, err := s.(syncengine.ArchiveDigester).Recount(ctx, time.Minute, false, func(err error) { t.Error(err) }); wrong != 0 || err != nil {
			t.Errorf("recount: %d branches wrong, %v", wrong, err)
		}
	})
}

// nextCounts makes units that each add one to a counter as it is now; some of them two units on
// the same one, of which the second counts on the first. at is the counter of each unit.
func nextCounts(ctx context.Context, s syncengine.ArchiveStore, rng *rand.Rand, counters int) (us units, at []int, err error) {
	for _, i := range rng.Perm(counters)[:1+rng.IntN(counters)] {
		id := fmt.Sprint("counter-", i)
		r, err := s.Get(ctx, id)
		if err != nil && !errors.Is(err, syncengine.ErrNotFound) {
			return nil, nil, err
		}
		n, _ := fmt.Sscan(string(r.Content), new(int))
		count := 0
		if n == 1 {
			_, _ = fmt.Sscan(string(r.Content), &count) // it was read just now
		}
		for range 1 + rng.IntN(2) {
			count++
			next := storetest.Put(id, r.Version+1, fmt.Sprint(count))
			us, at = append(us, []syncengine.Conditional{storetest.If(r.Version, next)}), append(at, i)
			r = next
		}
	}
	return us, at, nil
}

// The store folds by itself, conditional transactions too.
func TestConditionalTransactionsLeaveFewDeltas(t *testing.T) {
	eachSQL(t, func(t *testing.T, url string, raw *sql.DB) {
		s := memberAt(t, url, "a")
		for nonce := range uint64(100) {
			mustApply(t, s, nonce, units{{storetest.If(nonce, storetest.Put("a", nonce+1, `1`))}})
		}
		if named, _ := labels(t, raw); strings.Count(named, "a ") > 40 {
			t.Errorf("100 transactions left %s", named)
		}
		lab.WantDigest(t, s)
	})
}

// An engine whose row is gone changes nothing and gets no answer: what it wrote may be folded.
func TestAFencedEngineAppliesNothingAndGetsNoAnswer(t *testing.T) {
	eachSQL(t, func(t *testing.T, url string, _ *sql.DB) {
		s, other := memberAt(t, url, "a"), memberAt(t, url, "b")
		mustApply(t, s, 1, insertOf("first", 1))
		lab.NoError(t, "leave", other.(syncengine.Registrar).Leave(lab.Bounded(t), "a"))
		lab.NoError(t, "fold", syncengine.FoldDeltas(lab.Bounded(t), other))
		wantFenced := func(nonce uint64) {
			t.Helper()
			if landed, err := s.Landed(lab.Bounded(t), nonce); landed || !errors.Is(err, syncengine.ErrUnavailable) {
				t.Errorf("landed %d: %v, %v, want an error", nonce, landed, err)
			}
		}
		wantFenced(1)
		verdicts, err := s.ApplyIf(lab.Bounded(t), 2, insertOf("second", 1))
		if verdicts != nil || !errors.Is(err, syncengine.ErrUnavailable) || errors.Is(err, syncengine.ErrUnknownOutcome) {
			t.Errorf("apply if: %v, %v", verdicts, err)
		}
		// Back under another id: what it did before was done under the old one.
		_, err = s.(syncengine.Registrar).Join(lab.Bounded(t), "a2", "", 0, nil)
		lab.NoError(t, "join", err)
		s.(syncengine.Registrar).Fence("a2")
		wantFenced(2)
		mustApply(t, s, 3, insertOf("third", 1))
		wantLanded(t, s, 3, true)
		if rows := lab.RowsOf(t, other); len(rows) != 2 {
			t.Errorf("%d rows, want the first and the third", len(rows))
		}
		lab.WantDigest(t, other)
	})
}

// A damaged delta is corrected by a recount, and still tells that its transaction was committed.
func TestARecountKeepsTheNameOfADamagedDelta(t *testing.T) {
	eachSQL(t, func(t *testing.T, url string, raw *sql.DB) {
		s := memberAt(t, url, "a")
		mustApply(t, s, 1, insertOf("a", 1))
		if _, err := raw.Exec("UPDATE sync_deltas SET delta = 'garbage'"); err != nil {
			t.Fatal(err)
		}
		wrong, err := s.(syncengine.ArchiveDigester).Recount(lab.Bounded(t), time.Minute, true, func(err error) { t.Error(err) })
		if wrong == 0 || err != nil {
			t.Errorf("recount: %d, %v", wrong, err)
		}
		lab.WantDigest(t, s)
		wantLanded(t, s, 1, true)
	})
}

// A row that the server refuses, or never could take, is the caller's own affair.
func TestARefusedConditionalRowStoresNothing(t *testing.T) {
	eachSQL(t, func(t *testing.T, url string, raw *sql.DB) {
		s := memberAt(t, url, "a")
		rule := "CREATE TRIGGER no_bad BEFORE INSERT ON sync_items FOR EACH ROW IF NEW.home_instance = 'bad' THEN SIGNAL SQLSTATE '45000'; END IF"
		if strings.HasPrefix(url, "sqlite:") {
			rule = "CREATE TRIGGER no_bad BEFORE INSERT ON sync_items WHEN NEW.home_instance = 'bad' BEGIN SELECT RAISE(ABORT, 'no_bad'); END"
		}
		if _, err := raw.Exec(rule); err != nil {
			t.Fatal(err)
		}
		bad := storetest.Put("bad", 1, `1`)
		bad.HomeInstanceID = "bad"
		us := append(insertOf("a", 1), []syncengine.Conditional{storetest.If(0, bad)})
		_, err := s.ApplyIf(lab.Bounded(t), 1, us)
		var refused *syncengine.RefusedError
		if !errors.As(err, &refused) || errors.Is(err, syncengine.ErrUnknownOutcome) {
			t.Errorf("apply if: %v, want a *RefusedError", err)
		}
		lab.WantRows(t, raw, 0)
		mustApply(t, s, 2, us[:1])
	})
}

// No call of conditions waits for a second connection while it holds one.
func TestConditionsNeedOneConnection(t *testing.T) {
	eachSQL(t, func(t *testing.T, url string, raw *sql.DB) {
		dialect := syncengine.DialectMySQL
		if strings.HasPrefix(url, "sqlite:") {
			dialect = syncengine.DialectSQLite
		}
		raw.SetMaxOpenConns(1)
		fresh := syncengine.NewSQLStore(dialect, raw).(syncengine.ConditionalStore)
		t.Cleanup(func() { lab.NoError(t, "close", fresh.Close()) })
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		lab.NoError(t, "prepare", fresh.Prepare(ctx))
		if landed, err := fresh.Landed(ctx, 1); landed || err != nil {
			t.Errorf("landed: %v, %v", landed, err)
		}
		_, err := fresh.ApplyIf(ctx, 2, append(insertOf("a", 1), insertOf("b", 1)...))
		lab.NoError(t, "apply if", err)
		if landed, err := fresh.Landed(ctx, 2); !landed || err != nil {
			t.Errorf("landed: %v, %v", landed, err)
		}
	})
}

// TestASchemaOfBeforeConditionsIsUpgraded: with rows and deltas in it, by several stores at
// once, and after one that died between the change and writing down that it was made.
func TestASchemaOfBeforeConditionsIsUpgraded(t *testing.T) {
	for _, srv := range lab.SQLServers {
		for _, died := range []bool{false, true} {
			if died && srv.Name == "SQLite" { // where both are one transaction
				continue
			}
			t.Run(fmt.Sprintf("%s, died half-way: %v", srv.Name, died), func(t *testing.T) {
				url := srv.URL(t)
				archiveOfVersion1(t, url, srv.Raw(t, url), died)
				stores := make([]syncengine.ConditionalStore, 5)
				for i := range stores {
					stores[i] = lab.UnpreparedAt(t, url).(syncengine.ConditionalStore)
				}
				var wg sync.WaitGroup
				for i, s := range stores {
					wg.Go(func() {
						if err := s.Prepare(lab.Bounded(t)); err != nil {
							t.Errorf("store %d: %v", i, err)
						}
					})
				}
				wg.Wait()
				lab.WantDigest(t, stores[0])
				mustApply(t, stores[1], 1, units{{storetest.If(1, storetest.Put("old-1", 2, `2`))}, {storetest.If(1, storetest.Tombstone("old-2", 2))}})
				wantLanded(t, stores[1], 1, true)
				lab.NoError(t, "fold", syncengine.FoldDeltas(lab.Bounded(t), stores[3]))
				if rows := lab.RowsOf(t, stores[4]); len(rows) != 9 {
					t.Errorf("%d rows, want 9", len(rows))
				}
				lab.WantDigest(t, stores[4])
			})
		}
	}
}

// archiveOfVersion1 makes a database as builds before migration 2 left it: 10 rows, three deltas.
func archiveOfVersion1(t testing.TB, url string, raw *sql.DB, altered bool) {
	t.Helper()
	dialect := syncengine.DialectMySQL
	if strings.HasPrefix(url, "sqlite:") {
		dialect = syncengine.DialectSQLite
	}
	lab.NoError(t, "migrate", syncengine.MigrateTo(lab.Bounded(t), raw, dialect, 1))
	exec := func(text string, args ...any) {
		t.Helper()
		_, err := raw.ExecContext(lab.Bounded(t), text, args...)
		lab.NoError(t, text, err)
	}
	for chunk := range slices.Chunk([]int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, 4) {
		var delta digest.Delta
		for _, i := range chunk {
			r := storetest.Put(fmt.Sprint("old-", i), 1, `1`)
			exec("INSERT INTO sync_items (id, version, updated_at, content_hash, content) VALUES (?, 1, ?, ?, ?)",
				r.ID, r.UpdatedAt.UnixNano(), r.ContentHash[:], []byte(r.Content))
			delta.Add(r.ID, digest.LeafOf(r.ID, 1, r.ContentHash))
		}
		exec("INSERT INTO sync_deltas (delta) VALUES (?)", delta.AppendBinary(nil))
	}
	if altered {
		lab.NoError(t, "migrate", syncengine.MigrateTo(lab.Bounded(t), raw, dialect, 2))
		exec("DELETE FROM sync_schema WHERE version = 2")
	}
}
