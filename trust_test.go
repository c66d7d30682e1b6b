package syncengine_test

// trust_test.go holds the filter to INV-7: with several engines on one L3, over restarts, and
// while sets are built beside writes, it never denies an id that L3 has. Every check looks for
// all ids that exist; that an absent one is denied without I/O is only checked where the filter
// says it is trusted.

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/sqlkit"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

func trusted(t testing.TB, e *syncengine.Engine) {
	t.Helper()
	eventually(t, "the filter is trusted", func() bool { return e.Stats().FilterTrusted })
}

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

// eachL3 runs a test over kinds of L3 that several engines may share.
func eachL3(t *testing.T, run func(t *testing.T, cfg syncengine.Config, raw *sql.DB)) {
	for _, srv := range sqlServers {
		t.Run(srv.name, func(t *testing.T) {
			url := srv.url(t)
			archiveAt(t, url)
			run(t, syncengine.Config{SQLURL: url}, srv.raw(t, url))
		})
	}
}

func TestAnEngineAloneDeniesAbsentIDsWithoutIO(t *testing.T) {
	eachL3(t, func(t *testing.T, cfg syncengine.Config, _ *sql.DB) {
		e := open(t, cfg)
		for n := range 300 {
			put(t, e, fmt.Sprint("id-", n), n)
		}
		must(t, e.Flush(context.Background()))
		trusted(t, e)
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
	eachL3(t, func(t *testing.T, cfg syncengine.Config, _ *sql.DB) {
		ctx := context.Background()
		a := open(t, cfg)
		put(t, a, "a", 1)
		must(t, a.Flush(ctx))
		for round := range 3 {
			trusted(t, a)
			b := open(t, cfg)
			for n := range 30 {
				id := fmt.Sprintf("b-%d-%d", round, n)
				put(t, b, id, n, syncengine.WithDurability(syncengine.Archived))
				wantContent(t, a, id, n)
				if !a.Contains(id) {
					t.Fatalf("%s: Contains is false", id)
				}
			}
			if a.Stats().FilterTrusted || b.Stats().FilterTrusted {
				t.Error("two engines, and one trusts its filter")
			}
			must(t, b.Close())
		}
		trusted(t, a)
		cold := open(t, cfg) // has every id only from L3
		for round := range 3 {
			for n := range 30 {
				wantContent(t, cold, fmt.Sprintf("b-%d-%d", round, n), n)
			}
		}
	})
}

// An engine that died leaves its row: the next ones wait until it has missed its lease.
func TestAnEngineThatDiedIsForgottenAfterItsLease(t *testing.T) {
	eachL3(t, func(t *testing.T, cfg syncengine.Config, raw *sql.DB) {
		if _, err := raw.Exec("INSERT INTO sync_instances (id, name, seen, beats) VALUES ('dead', 'dead', 0, 7)"); err != nil {
			t.Fatal(err)
		}
		e := open(t, cfg)
		put(t, e, "a", 1) // acknowledged from the WAL meanwhile
		if e.Stats().FilterTrusted {
			t.Error("the filter is trusted beside an engine that may live")
		}
		must(t, e.Flush(context.Background()))
		trusted(t, e)
		var rows int
		must(t, raw.QueryRow("SELECT COUNT(*) FROM sync_instances").Scan(&rows))
		if rows != 1 {
			t.Errorf("%d engines are in the table", rows)
		}
	})
}

// A whose row is gone was taken for dead: another engine may have trusted its filter since, so
// A's next write must not land before A is known again.
func TestAnEngineTakenForDeadWritesNothingBeforeItIsKnownAgain(t *testing.T) {
	eachL3(t, func(t *testing.T, cfg syncengine.Config, raw *sql.DB) {
		ctx := context.Background()
		a := open(t, cfg)
		put(t, a, "before", 1)
		must(t, a.Flush(ctx))
		var old string
		must(t, raw.QueryRow("SELECT id FROM sync_instances").Scan(&old))
		if _, err := raw.Exec("DELETE FROM sync_instances"); err != nil {
			t.Fatal(err)
		}
		put(t, a, "after", 2)
		eventually(t, "the write lands", func() bool { return a.Flush(ctx) == nil })
		var now string
		must(t, raw.QueryRow("SELECT id FROM sync_instances").Scan(&now))
		if now == old {
			t.Error("the engine writes under the row that was removed")
		}
		wantContent(t, open(t, cfg), "after", 2)
	})
}

// An engine that reads the private file of another one, which its owner writes without looking
// around, must not trust its filter.
func TestINV07AReaderOfAPrivateFileDeniesNothing(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	reader := open(t, syncengine.Config{SQLURL: "sqlite:" + dir + "/archive.db"})
	trusted(t, reader)
	owner := open(t, syncengine.Config{Dir: dir})
	for n := range 300 {
		id := fmt.Sprint("id-", n)
		put(t, owner, id, n, syncengine.WithDurability(syncengine.Archived))
		wantContent(t, reader, id, n)
	}
	trusted(t, owner)
	if reader.Stats().FilterTrusted {
		t.Error("the reader trusts its filter")
	}
	must(t, reader.Close())
	must(t, owner.Flush(ctx))
	reader = open(t, syncengine.Config{SQLURL: "sqlite:" + dir + "/archive.db"})
	put(t, owner, "late", 1, syncengine.WithDurability(syncengine.Archived))
	wantContent(t, reader, "late", 1)
}

// After a clean end the snapshot is good as long as L3 is what it was.
func TestASnapshotIsTrustedOnlyIfL3IsWhatItWas(t *testing.T) {
	eachL3(t, func(t *testing.T, cfg syncengine.Config, _ *sql.DB) {
		ctx := context.Background()
		cfg.Dir = t.TempDir()
		cfg.FilterWarmupBatch = 10
		e := open(t, cfg)
		for n := range 100 {
			put(t, e, fmt.Sprint("id-", n), n)
		}
		must(t, e.Flush(ctx))
		trusted(t, e)
		must(t, e.Close())

		e = open(t, cfg)
		if s := e.Stats(); !s.FilterTrusted || s.FilterEntries == 0 {
			t.Errorf("right after Open: trusted %v, %d ids", s.FilterTrusted, s.FilterEntries)
		}
		for n := range 100 {
			wantContent(t, e, fmt.Sprint("id-", n), n)
		}
		must(t, e.Close())

		other := open(t, syncengine.Config{SQLURL: cfg.SQLURL})
		put(t, other, "new", 1)
		must(t, other.Close())
		e = open(t, cfg)
		if e.Stats().FilterTrusted && !e.Contains("new") {
			t.Error("an old snapshot is trusted")
		}
		wantContent(t, e, "new", 1)
		trusted(t, e)
		wantContent(t, e, "new", 1)
	})
}

func TestAGarbageSnapshotIsDiscarded(t *testing.T) {
	cfg := syncengine.Config{Dir: t.TempDir()}
	e := open(t, cfg)
	put(t, e, "a", 1)
	must(t, e.Flush(context.Background()))
	trusted(t, e)
	must(t, e.Close())
	db, err := sqlkit.OpenSQLite(cfg.Dir+"/wal.db", "")
	must(t, err)
	res, err := db.Exec("UPDATE blobs SET data = X'00' || substr(data, 2)")
	must(t, err)
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		t.Fatalf("%d snapshots, %v", n, err)
	}
	must(t, db.Close())
	e = open(t, cfg)
	wantContent(t, e, "a", 1)
	trusted(t, e)
	wantContent(t, e, "a", 1)
}

// Sets are built over and over beside writes, deletes and evictions; every acknowledged id
// must be found all the time.
func TestINV07NothingIsDeniedWhileSetsAreBuiltBesideWrites(t *testing.T) {
	ctx := context.Background()
	e := open(t, syncengine.Config{L1MaxBytes: 64 << 10, FilterWarmupBatch: 7, FilterSnapshotInserts: 20, BatchFlushInterval: time.Millisecond})
	var wrote atomic.Int64
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(done)
		for n := range 3000 {
			put(t, e, fmt.Sprint("id-", n), n, syncengine.WithDurability(syncengine.Buffered))
			if n%3 == 0 {
				must(t, e.Delete(ctx, fmt.Sprint("gone-", n)))
			}
			wrote.Store(int64(n + 1))
		}
	})
	for r := range 3 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-done:
					return
				default:
				}
				if w := wrote.Load(); w > 0 {
					n := int(uint64(i*7919+r) % uint64(w))
					wantContent(t, e, fmt.Sprint("id-", n), n)
				}
				if i%50 == 0 {
					must(t, syncengine.RebuildFilter(ctx, e))
				}
			}
		})
	}
	wg.Wait()
	must(t, e.Flush(ctx))
	trusted(t, e)
	for n := range 3000 {
		wantContent(t, e, fmt.Sprint("id-", n), n)
	}
}

// A lost connection to L3 ends the trust within the lease, and the return gives it back
// without reading all rows again, since nobody can have come unnoticed.
func TestTrustLapsesWhileL3CanNotBeAsked(t *testing.T) {
	db := testserver.MariaDB(t)
	e := open(t, syncengine.Config{SQLURL: db.URL(), L3Timeout: time.Second})
	put(t, e, "a", 1)
	must(t, e.Flush(context.Background()))
	trusted(t, e)
	db.Kill()
	eventually(t, "the trust lapses", func() bool { return !e.Stats().FilterTrusted })
	if _, err := e.Get(context.Background(), "absent"); !errors.Is(err, syncengine.ErrUnavailable) {
		t.Errorf("an absent id in an outage: %v", err)
	}
	db.Restart()
	trusted(t, e)
	wantContent(t, e, "a", 1)
}
