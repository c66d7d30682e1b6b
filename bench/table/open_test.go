package table

// open_test.go are the rows about opening on what is there, and about memory.

import (
	"crypto/sha256"
	"flag"
	"os"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
)

var stored = flag.Int("stored", 1_000_000, "rows in SQLite to open on")

var openRows = []row{
	{work: "Open until the filter is trusted, with a snapshot, beside without", goal: .05, rounds: 1, ours: opened(true), theirs: opened(false)},
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
	for !e.Stats().FilterTrusted {
		time.Sleep(100 * time.Microsecond)
	}
	return time.Since(start)
}
