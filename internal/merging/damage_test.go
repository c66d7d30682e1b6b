//go:build crdt

package merging

import (
	"context"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
)

// TestINV09DamagedMergesBlockNobody: neither other items, nor the item itself, whose state is sound
// and stays as it is.
func TestINV09DamagedMergesBlockNobody(t *testing.T) {
	const merges, base = `CAST(op AS TEXT) LIKE 'c' || char(0) || '%/d'`, `op = CAST('c' || char(0) AS BLOB)`
	for name, damage := range map[string]string{
		"dots":                 "applied = 'nonsense' WHERE " + base,
		"order of the base":    "ord = -5 WHERE " + base,
		"delete of the base":   "version = -5 WHERE " + base,
		"kind of the base":     "crdt = 'Nonsense' WHERE " + base,
		"hash of the base":     "content_hash = NULL WHERE " + base,
		"order of merges":      "ord = -5 WHERE " + merges,
		"versions of merges":   "version = -5 WHERE " + merges,
		"hashes of merges":     "content_hash = NULL WHERE " + merges,
		"kinds of merges":      "crdt = 'GSet' WHERE " + merges,
		"contents of merges":   "content = NULL WHERE " + merges,
		"up to where it knows": "ord = -1 WHERE op < CAST(char(1) AS BLOB)",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
			defer cancel()
			path := t.TempDir() + "/shared.db"
			cfg := syncengine.Config{SQLURL: "sqlite:" + path, RetentionFullDays: 5, RetentionCompactDays: 10}
			e := lab.Open(t, cfg)
			for _, n := range []int{20, 15, 7, 1} {
				merge(t, e, "c", "GCounter", "1", daysAgo(n))
				merge(t, e, "neighbour", "GCounter", "1", daysAgo(n))
			}
			lab.Must(t, e.Flush(ctx))
			_, err := e.Compact(ctx)
			lab.Must(t, err)
			lab.Must(t, e.Close())
			db := lab.OpenDriver(t, "sqlite", path+"?_pragma=busy_timeout(5000)")
			res, err := db.Exec("UPDATE sync_ops SET " + damage)
			lab.Must(t, err)
			if n, err := res.RowsAffected(); n == 0 || err != nil {
				t.Fatalf("%d rows are damaged, %v", n, err)
			}
			_, err = db.Exec("DELETE FROM sync_ops WHERE op = CAST(char(0) AS BLOB)") // who compacts
			lab.Must(t, err)
			lab.Must(t, db.Close())
			e = lab.Open(t, cfg)
			merge(t, e, "c", "GCounter", "1")
			merge(t, e, "neighbour", "GCounter", "1", daysAgo(6))
			lab.Must(t, e.Flush(ctx))
			wantValue(t, e, "neighbour", "5")
			it, err := e.Rebuild(ctx, "c")
			if got := value(t, it, err); got != "5" {
				t.Errorf("rebuilt: %s", got)
			}
			merge(t, e, "c", "GCounter", "1", syncengine.WithDurability(syncengine.Archived))
			wantValue(t, e, "c", "6")
			if _, err := e.Compact(ctx); err != nil {
				t.Errorf("Compact: %v", err)
			}
			if v, err := e.Verify(ctx, syncengine.VerifyOptions{Deep: true}); err != nil || len(v.Corrupt) > 0 || v.WrongBranches > 0 {
				t.Errorf("Verify: %+v, %v", v, err)
			}
		})
	}
}
