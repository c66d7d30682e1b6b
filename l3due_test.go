package syncengine_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/storetest"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

// Whatever becomes of rows, sync_due has an entry for each that is deleted or expires, no other.
func TestDuesAreThoseOfTheRows(t *testing.T) {
	url := testserver.SharedMariaDB(t).NewDatabase(t)
	s, raw := lab.ArchiveAt(t, url), testserver.OpenSQL(t, url)
	ctx := lab.Bounded(t)
	rng := rand.New(rand.NewPCG(1, 2))
	start := time.Now()
	for version := uint64(1); version <= 60; version++ {
		var recs []syncengine.Record
		for n := range 300 {
			r := storetest.Put(fmt.Sprintf("id-%03d", n), version, `1`)
			r.UpdatedAt = start.Add(time.Duration(version) * time.Second)
			switch rng.IntN(8) {
			case 0:
				r = storetest.Tombstone(r.ID, version)
				r.UpdatedAt = start.Add(time.Duration(version) * time.Second)
			case 1:
				r.ExpiresAt = start.Add(time.Duration(rng.IntN(5)) * time.Minute).Truncate(time.Millisecond)
			case 2:
			default:
				continue
			}
			recs = append(recs, r)
		}
		lab.Must(t, lab.Applied(s.Apply(ctx, recs)))
		if version%10 == 0 {
			before := start.Add(time.Duration(version-5) * time.Second)
			var old, purged int
			lab.Must(t, raw.QueryRow("SELECT COUNT(*) FROM sync_items WHERE deleted_at < ?", before.UnixNano()).Scan(&old))
			for n := -1; n != 0; purged += n {
				var err error
				n, err = s.PurgeTombstones(ctx, before, 20)
				lab.Must(t, err)
			}
			if purged != old || old == 0 {
				t.Errorf("%d tombstones were purged, want %d", purged, old)
			}
		}
		var wrong, due int
		lab.Must(t, raw.QueryRow(`SELECT COUNT(*) FROM (SELECT 1 AS kind, deleted_at AS at, id FROM sync_items WHERE deleted_at IS NOT NULL
			UNION ALL SELECT 2, expires_at, id FROM sync_items WHERE expires_at IS NOT NULL UNION ALL SELECT kind, at, id FROM sync_due) AS a
			GROUP BY kind, at, id HAVING COUNT(*) <> 2 UNION ALL SELECT 0 LIMIT 1`).Scan(&wrong))
		lab.Must(t, raw.QueryRow("SELECT COUNT(*) FROM sync_due").Scan(&due))
		if wrong != 0 || due == 0 {
			t.Fatalf("after version %d the entries are not those of the rows; there are %d", version, due)
		}
	}
}

// Tombstones and items that expire of before sync_due are found after an upgrade.
func TestRowsOfBeforeDuesAreFound(t *testing.T) {
	url := testserver.SharedMariaDB(t).NewDatabase(t)
	raw := testserver.OpenSQL(t, url)
	for _, text := range syncengine.Schema(syncengine.DialectMySQL) {
		if strings.Contains(text, "sync_due") {
			break
		}
		_, err := raw.Exec(text)
		lab.NoError(t, text, err)
	}
	_, err := raw.Exec("INSERT INTO sync_items (id, version, updated_at, deleted, deleted_at, content_hash, content, expires_at) VALUES " +
		"('gone', 1, 1, 1, 5, NULL, NULL, NULL), ('going', 1, 1, 0, NULL, UNHEX(SHA2('1', 256)), '1', 7), ('staying', 1, 1, 0, NULL, UNHEX(SHA2('1', 256)), '1', NULL)")
	lab.Must(t, err)
	s, ctx := lab.ArchiveAt(t, url), lab.Bounded(t)
	if rows, err := s.(syncengine.ExpiringStore).Expired(ctx, time.UnixMilli(8), 10); err != nil || len(rows) != 1 || rows[0].ID != "going" {
		t.Errorf("Expired: %+v, %v", rows, err)
	}
	if n, err := s.PurgeTombstones(ctx, time.Unix(0, 6), 10); err != nil || n != 1 {
		t.Errorf("PurgeTombstones: %d, %v", n, err)
	}
}

// What somebody else does to rows by hand purges nothing that is not due, and a deep check makes up
// for entries that are missing.
func TestDuesAreNoProof(t *testing.T) {
	url := testserver.SharedMariaDB(t).NewDatabase(t)
	s, raw, ctx := lab.ArchiveAt(t, url), testserver.OpenSQL(t, url), lab.Bounded(t)
	soon := storetest.Put("soon", 1, `1`)
	soon.ExpiresAt = time.UnixMilli(1000)
	lab.Must(t, lab.Applied(s.Apply(ctx, []syncengine.Record{storetest.Put("dead by hand", 1, `1`), storetest.Put("due by hand", 1, `1`), soon})))
	for _, text := range []string{
		"UPDATE sync_items SET expires_at = NULL WHERE id = 'soon'", "UPDATE sync_items SET expires_at = 2000 WHERE id = 'due by hand'",
		"UPDATE sync_items SET deleted = 1, deleted_at = 5, content = NULL WHERE id = 'dead by hand'",
	} {
		_, err := raw.Exec(text)
		lab.NoError(t, text, err)
	}
	expired := func() (ids []string) {
		rows, err := s.(syncengine.ExpiringStore).Expired(ctx, time.UnixMilli(5000), 10)
		lab.Must(t, err)
		for _, m := range rows {
			ids = append(ids, m.ID)
		}
		return ids
	}
	if ids := expired(); len(ids) != 0 {
		t.Errorf("%q have expired", ids)
	}
	syncengine.SetLeafWindow(s, 1)
	_, err := s.(syncengine.ArchiveDigester).Recount(ctx, time.Minute, true, func(error) {})
	lab.Must(t, err)
	if ids := expired(); !slices.Equal(ids, []string{"due by hand"}) {
		t.Errorf("after a deep check %q have expired", ids)
	}
	if n, err := s.PurgeTombstones(ctx, time.UnixMilli(1500), 10); err != nil || n != 1 {
		t.Errorf("PurgeTombstones: %d, %v", n, err)
	}
	var left int
	lab.Must(t, raw.QueryRow("SELECT COUNT(*) FROM sync_due").Scan(&left))
	if left != 1 {
		t.Errorf("%d entries are left, want that of the item that is due by hand", left)
	}
}

// However many entries have no row any more, they don't stand before those that do.
func TestStrayDuesStopNoExpiry(t *testing.T) {
	url := testserver.SharedMariaDB(t).NewDatabase(t)
	s, raw, ctx := lab.ArchiveAt(t, url), testserver.OpenSQL(t, url), lab.Bounded(t)
	var recs []syncengine.Record
	for n := range 700 {
		r := storetest.Put(fmt.Sprintf("%03d", n), 1, `1`)
		r.ExpiresAt = time.UnixMilli(int64(1000 + n))
		recs = append(recs, r)
	}
	lab.Must(t, lab.Applied(s.Apply(ctx, recs)))
	_, err := raw.Exec("DELETE FROM sync_items WHERE id < '690'")
	lab.Must(t, err)
	rows, err := s.(syncengine.ExpiringStore).Expired(ctx, time.UnixMilli(1694), 100)
	if err != nil || len(rows) != 5 || rows[0].ID != "690" || rows[0].Version != 1 || !rows[0].ExpiresAt.Equal(time.UnixMilli(1690)) || rows[0].ContentHash != recs[690].ContentHash {
		t.Errorf("Expired: %+v, %v", rows, err)
	}
	var left int
	lab.Must(t, raw.QueryRow("SELECT COUNT(*) FROM sync_due").Scan(&left))
	if left != 10 {
		t.Errorf("%d entries are left", left)
	}
}
