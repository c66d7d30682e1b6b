package neighbours

// trust_test.go holds the filter to INV-7: with several engines on one L3, over restarts, and
// while sets are built beside writes, it never denies an id that L3 has. Every check looks for
// all ids that exist; that an absent one is denied without I/O is only checked where the filter
// says it is trusted.

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/sqlkit"
	"github.com/syncengine-go/syncengine/internal/storetest"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

// denied checks that an absent id costs no I/O.
func denied(t testing.TB, e *syncengine.Engine, id string) {
	t.Helper()
	before := e.Stats()
	if _, err := e.Get(context.Background(), id); !errors.Is(err, syncengine.ErrNotFound) {
		t.Fatalf("%s: %v", id, err)
	}
	if s := e.Stats(); e.Contains(id) || s.L3Misses != before.L3Misses || s.L2Misses != before.L2Misses {
		t.Errorf("%s: Contains %v, %d questions to L3", id, e.Contains(id), s.L3Misses-before.L3Misses)
	}
}

func TestAnEngineAloneDeniesAbsentIDsWithoutIO(t *testing.T) {
	lab.EachL3(t, func(t *testing.T, cfg syncengine.Config, _ *sql.DB) {
		e := lab.Open(t, cfg)
		for n := range 300 {
			lab.Put(t, e, fmt.Sprint("id-", n), n)
		}
		lab.Must(t, e.Flush(context.Background()))
		lab.Trusted(t, e)
		for n := range 50 { // of 50, all are denied with a chance of 97 %; one that is not asks L3, which is no error
			if id := fmt.Sprint("absent-", n); !e.Contains(id) {
				denied(t, e, id)
				return
			}
		}
		t.Error("50 absent ids, and none is denied")
	})
}

// A trusts its filter; B comes and writes; A must find at once what B has acknowledged.
func TestINV07WhatAnotherEngineWritesIsNeverDenied(t *testing.T) {
	t.Parallel()
	lab.EachL3(t, func(t *testing.T, cfg syncengine.Config, _ *sql.DB) {
		ctx := context.Background()
		a := lab.Open(t, cfg)
		lab.Put(t, a, "a", 1)
		lab.Must(t, a.Flush(ctx))
		for round := range 3 {
			lab.Trusted(t, a)
			b := lab.Open(t, cfg)
			for n := range 30 {
				id := fmt.Sprintf("b-%d-%d", round, n)
				lab.Put(t, b, id, n, syncengine.WithDurability(syncengine.Archived))
				lab.WantContent(t, a, id, n)
				if !a.Contains(id) {
					t.Fatalf("%s: Contains is false", id)
				}
			}
			if a.Stats().FilterTrusted || b.Stats().FilterTrusted {
				t.Error("two engines, and one trusts its filter")
			}
			lab.Must(t, b.Close())
		}
		lab.Trusted(t, a)
		cold := lab.Open(t, cfg) // has every id only from L3
		for round := range 3 {
			for n := range 30 {
				lab.WantContent(t, cold, fmt.Sprintf("b-%d-%d", round, n), n)
			}
		}
	})
}

// An engine that died leaves its row: the next ones wait until it has missed its lease.
func TestAnEngineThatDiedIsForgottenAfterItsLease(t *testing.T) {
	t.Parallel()
	lab.EachL3(t, func(t *testing.T, cfg syncengine.Config, raw *sql.DB) {
		if _, err := raw.Exec("INSERT INTO sync_instances (id, name, seen, beats) VALUES ('dead', 'dead', 0, 7)"); err != nil {
			t.Fatal(err)
		}
		e := lab.Open(t, cfg)
		lab.Put(t, e, "a", 1) // acknowledged from the WAL meanwhile
		if e.Stats().FilterTrusted {
			t.Error("the filter is trusted beside an engine that may live")
		}
		lab.Must(t, e.Flush(context.Background()))
		lab.Trusted(t, e)
		var rows int
		lab.Must(t, raw.QueryRow("SELECT COUNT(*) FROM sync_instances").Scan(&rows))
		if rows != 1 {
			t.Errorf("%d engines are in the table", rows)
		}
	})
}

// A whose row is gone was taken for dead: another engine may have trusted its filter since, so
// A's next write must not land before A is known again.
func TestAnEngineTakenForDeadWritesNothingBeforeItIsKnownAgain(t *testing.T) {
	lab.EachL3(t, func(t *testing.T, cfg syncengine.Config, raw *sql.DB) {
		ctx := context.Background()
		a := lab.Open(t, cfg)
		lab.Put(t, a, "before", 1)
		lab.Must(t, a.Flush(ctx))
		var old string
		lab.Must(t, raw.QueryRow("SELECT id FROM sync_instances").Scan(&old))
		if _, err := raw.Exec("DELETE FROM sync_instances"); err != nil {
			t.Fatal(err)
		}
		lab.Put(t, a, "after", 2)
		lab.Eventually(t, "the write lands", func() bool { return a.Flush(ctx) == nil })
		var now string
		lab.Must(t, raw.QueryRow("SELECT id FROM sync_instances").Scan(&now))
		if now == old {
			t.Error("the engine writes under the row that was removed")
		}
		lab.WantContent(t, lab.Open(t, cfg), "after", 2)
	})
}

// TestINV07WhatAnEngineWroteThatHasLeftIsNotDenied: the filter of the one that stays is from before
// the company.
func TestINV07WhatAnEngineWroteThatHasLeftIsNotDenied(t *testing.T) {
	t.Parallel()
	eachShared(t, func(t *testing.T, url string) {
		a := lab.Open(t, syncengine.Config{SQLURL: url})
		submit(t, a, "x", "1", archived)
		lab.Trusted(t, a)
		for n := range 3 {
			b := lab.Open(t, syncengine.Config{SQLURL: url})
			id := fmt.Sprint("new", n)
			submit(t, b, id, "1", archived)
			lab.Must(t, b.Close())
			lab.Trusted(t, a)
			if got := reads["Get"](a, id); got != "1" {
				t.Errorf("%s: %s", id, got)
			}
		}
	})
}

// An engine that reads the private file of another one, which its owner writes without looking
// around, must not trust its filter.
func TestINV07AReaderOfAPrivateFileDeniesNothing(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	reader := lab.Open(t, syncengine.Config{SQLURL: "sqlite:" + dir + "/archive.db"})
	lab.Trusted(t, reader)
	owner := lab.Open(t, syncengine.Config{Dir: dir})
	for n := range 300 {
		id := fmt.Sprint("id-", n)
		lab.Put(t, owner, id, n, syncengine.WithDurability(syncengine.Archived))
		lab.WantContent(t, reader, id, n)
	}
	lab.Trusted(t, owner)
	if reader.Stats().FilterTrusted {
		t.Error("the reader trusts its filter")
	}
	lab.Must(t, reader.Close())
	lab.Must(t, owner.Flush(ctx))
	reader = lab.Open(t, syncengine.Config{SQLURL: "sqlite:" + dir + "/archive.db"})
	lab.Put(t, owner, "late", 1, syncengine.WithDurability(syncengine.Archived))
	lab.WantContent(t, reader, "late", 1)
}

// After a clean end the snapshot is good as long as L3 is what it was.
func TestASnapshotIsTrustedOnlyIfL3IsWhatItWas(t *testing.T) {
	lab.EachL3(t, func(t *testing.T, cfg syncengine.Config, _ *sql.DB) {
		ctx := context.Background()
		cfg.Dir = t.TempDir()
		cfg.FilterWarmupBatch = 10
		e := lab.Open(t, cfg)
		for n := range 100 {
			lab.Put(t, e, fmt.Sprint("id-", n), n)
		}
		lab.Must(t, e.Flush(ctx))
		lab.Trusted(t, e)
		lab.Must(t, e.Close())

		e = lab.Open(t, cfg)
		if s := e.Stats(); !s.FilterTrusted || s.FilterEntries == 0 {
			t.Errorf("right after Open: trusted %v, %d ids", s.FilterTrusted, s.FilterEntries)
		}
		for n := range 100 {
			lab.WantContent(t, e, fmt.Sprint("id-", n), n)
		}
		lab.Must(t, e.Close())

		other := lab.Open(t, syncengine.Config{SQLURL: cfg.SQLURL})
		lab.Put(t, other, "new", 1)
		lab.Must(t, other.Close())
		e = lab.Open(t, cfg)
		if e.Stats().FilterTrusted && !e.Contains("new") {
			t.Error("an old snapshot is trusted")
		}
		lab.WantContent(t, e, "new", 1)
		lab.Trusted(t, e)
		lab.WantContent(t, e, "new", 1)
	})
}

func TestAGarbageSnapshotIsDiscarded(t *testing.T) {
	cfg := syncengine.Config{Dir: t.TempDir()}
	e := lab.Open(t, cfg)
	lab.Put(t, e, "a", 1)
	lab.Must(t, e.Flush(context.Background()))
	lab.Trusted(t, e)
	lab.Must(t, e.Close())
	db, err := sqlkit.OpenSQLite(cfg.Dir+"/wal.db", "")
	lab.Must(t, err)
	res, err := db.Exec("UPDATE blobs SET data = X'00' || substr(data, 2)")
	lab.Must(t, err)
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		t.Fatalf("%d snapshots, %v", n, err)
	}
	lab.Must(t, db.Close())
	e = lab.Open(t, cfg)
	lab.WantContent(t, e, "a", 1)
	lab.Trusted(t, e)
	lab.WantContent(t, e, "a", 1)
}

// A lost connection to L3 ends the trust within the lease, and the return gives it back
// without reading all rows again, since nobody can have come unnoticed.
func TestTrustLapsesWhileL3CanNotBeAsked(t *testing.T) {
	t.Parallel()
	db := testserver.MariaDB(t)
	e := lab.Open(t, syncengine.Config{SQLURL: db.URL(), L3Timeout: time.Second})
	lab.Put(t, e, "a", 1)
	lab.Must(t, e.Flush(context.Background()))
	lab.Trusted(t, e)
	db.Kill()
	lab.Eventually(t, "the trust lapses", func() bool { return !e.Stats().FilterTrusted })
	if _, err := e.Get(context.Background(), "absent"); !errors.Is(err, syncengine.ErrUnavailable) {
		t.Errorf("an absent id in an outage: %v", err)
	}
	db.Restart()
	lab.Trusted(t, e)
	lab.WantContent(t, e, "a", 1)
}

// TestL1MaxAge: two engines on the same stores; the second sees the first one's writes and
// deletes once its own copies have aged.
func TestINV15L1MaxAgeBoundsHowLongAnotherEnginesWriteIsUnseen(t *testing.T) {
	ctx := context.Background()
	l3, l2 := &lab.FaultyArchive{ArchiveStore: storetest.NewArchive()}, storetest.NewCache()
	a := lab.Open(t, syncengine.Config{L3: l3, L2: l2})
	b := lab.Open(t, syncengine.Config{L3: l3, L2: l2, L1MaxAge: 200 * time.Millisecond})
	lab.Put(t, a, "x", 1)
	lab.Put(t, a, "y", 1)
	lab.Must(t, a.Flush(ctx))
	lab.WantContent(t, b, "x", 1)
	lab.WantContent(t, b, "y", 1)
	lab.Put(t, a, "x", 2)
	lab.Must(t, a.Delete(ctx, "y"))
	lab.Must(t, a.Flush(ctx))
	lab.Eventually(t, "b sees both", func() bool {
		x, errX := b.Get(ctx, "x")
		_, errY := b.Get(ctx, "y")
		return errX == nil && string(x.Content) == string(lab.Doc("x", 2)) && errors.Is(errY, syncengine.ErrNotFound)
	})
	lab.Put(t, a, "x", 3)
	lab.Must(t, a.Flush(ctx))
	lab.Eventually(t, "GetMany sees it too", func() bool {
		items, err := b.GetMany(ctx, []string{"x", "y"})
		return err == nil && items[1] == nil && string(items[0].Content) == string(lab.Doc("x", 3))
	})
}

// A row of an engine that is no more keeps nobody from writing, whatever it says.
func TestABadRowOfADeadEngineStopsNobody(t *testing.T) {
	t.Parallel()
	lab.EachL3(t, func(t *testing.T, cfg syncengine.Config, raw *sql.DB) {
		lab.Must(t, lab.Open(t, cfg).Close())
		for i, values := range []string{"5, 5, -5, 0", "-5, 5, 0, -1", "0, 9223372036854775807, 0, 9223372036854775807"} {
			_, err := raw.Exec(fmt.Sprintf("INSERT INTO sync_instances (id, name, seen, beats, clock, ahead) VALUES ('dead %d', 'dead', %s)", i, values))
			lab.Must(t, err)
		}
		e := lab.Open(t, cfg)
		lab.Must(t, e.Submit(lab.Bounded(t), syncengine.Item{ID: "x", Content: []byte("1")}, archived))
		if got := reads["Get"](e, "x"); got != "1" {
			t.Errorf("read: %q", got)
		}
	})
}
