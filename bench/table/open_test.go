package table

// open_test.go are the rows about opening on what is there, and about memory.

import (
	"crypto/sha256"
	"errors"
	"flag"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
)

var stored = flag.Int("stored", 1_000_000, "rows in SQLite to open on")

var openRows = []row{
	{work: "Open until the filter is trusted, with a snapshot, beside without", goal: .05, rounds: 1, ours: opened(true), theirs: opened(false)},
	{work: "Open with spooled ops, an op", rounds: 1, unit: "µs", figure: func(t *testing.T) float64 { return spool(t).open }},
	{work: "heap after Open with spooled ops, an op", rounds: 1, unit: "bytes", figure: func(t *testing.T) float64 { return spool(t).opened }},
	{work: "heap at most while spooled ops drain to SQLite, L1MaxBytes 4 MiB", rounds: 1, unit: "MiB", figure: func(t *testing.T) float64 { return spool(t).drain }},
}

type spooling struct{ open, opened, drain float64 }

var spooledOnce spooling

// spool leaves ops in the log, opens on them, and lets them drain.
func spool(t *testing.T) spooling {
	if spooledOnce != (spooling{}) {
		return spooledOnce
	}
	s := store(t, newSQLite(t))
	o := &outage{ArchiveStore: s}
	cfg := syncengine.Config{Dir: t.TempDir(), L3: o, L1MaxBytes: 4 << 20, WALMaxItems: 10_000_000, WALMaxBytes: 8 << 30, Durability: syncengine.Logged}
	e := open(t, cfg)
	ids := idsOf(*spooled)
	each(t, callers, *spooled, func(n int64) error {
		return e.Submit(ctx, syncengine.Item{ID: ids[scattered(n, len(ids))], Content: document})
	})
	if err := e.Close(); !errors.Is(err, syncengine.ErrPending) {
		t.Fatalf("Close: %v", err)
	}
	e, ids = nil, nil
	before, start := heap(), time.Now()
	e = open(t, cfg)
	spooledOnce.open = float64(time.Since(start).Microseconds()) / float64(*spooled)
	spooledOnce.opened = float64(heap()-before) / float64(*spooled)
	defer whole(t, e)
	o.over.Store(true)
	most := before
	await(t, func() bool {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		most = max(most, m.HeapAlloc)
		return e.Stats().PendingOps == 0
	})
	spooledOnce.drain = float64(most-before) / (1 << 20)
	return spooledOnce
}

// opened opens on a SQLite of many rows. What an engine saves when it closes is the snapshot.
func opened(snapshot bool) func(t *testing.T) time.Duration {
	return func(t *testing.T) time.Duration {
		url := newSQLite(t)
		s := store(t, url)
		ok(t, s.Prepare(ctx))
		ids := idsOf(*stored)
		for i := 0; i < len(ids); i += batch {
			var recs []syncengine.Record
			for _, id := range ids[i:min(i+batch, len(ids))] {
				recs = append(recs, syncengine.Record{Item: syncengine.Item{ID: id, Version: 1, UpdatedAt: time.Now(), Content: document, ContentHash: sha256.Sum256(document)}})
			}
			must[[]syncengine.Meta](t)(s.Apply(ctx, recs))
		}
		ok(t, s.Close())
		dir := must[string](t)(os.MkdirTemp(t.TempDir(), "dir"))
		took := trusted(t, dir, url)
		if snapshot {
			took = trusted(t, dir, url)
		}
		return took
	}
}

func trusted(t *testing.T, dir, url string) time.Duration {
	start := time.Now()
	e := open(t, syncengine.Config{Dir: dir, SQLURL: url})
	defer whole(t, e)
	await(t, func() bool { return e.Stats().FilterTrusted })
	return time.Since(start)
}
