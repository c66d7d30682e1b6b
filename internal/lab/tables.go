package lab

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/digest"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

// Applied drops the first result of Apply.
func Applied(_ []syncengine.Meta, err error) error { return err }

// WALOps counts the ops in the WAL file, as another process would.
func WALOps(t *testing.T, dir string) (n int64) {
	t.Helper()
	if _, err := os.Stat(filepath.Join(dir, "wal.db")); errors.Is(err, os.ErrNotExist) {
		return 0 // not made yet
	}
	db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "wal.db")+"?_pragma=busy_timeout(5000)")
	Must(t, err)
	Must(t, db.QueryRow("SELECT COALESCE(SUM(ops), 0) FROM segments").Scan(&n))
	Must(t, db.Close())
	return n
}

// Number is the one number that a query returns.
func Number(t testing.TB, db *sql.DB, query string, args ...any) (n int) {
	t.Helper()
	if err := db.QueryRowContext(Bounded(t), query, args...).Scan(&n); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return n
}

// CallsOf returns how many calls of an operation a registry has counted.
func CallsOf(t testing.TB, reg *prometheus.Registry, operation string) (n int) {
	t.Helper()
	families, err := reg.Gather()
	Must(t, err)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if f.GetName() == "sync_engine_operations_total" && l.GetName() == "operation" && l.GetValue() == operation {
					n += int(m.GetCounter().GetValue())
				}
			}
		}
	}
	return n
}

// ServerStatus is a counter of the server.
func ServerStatus(t testing.TB, db *sql.DB, name string) int {
	t.Helper()
	var n int
	NoError(t, name, db.QueryRowContext(Bounded(t), "SHOW GLOBAL STATUS LIKE '"+name+"'").Scan(&name, &n))
	return n
}

// Deadlocks counts those that the server has met.
func Deadlocks(t testing.TB, db *sql.DB) int {
	t.Helper()
	if testserver.IsMySQL() {
		return Number(t, db, "SELECT count FROM information_schema.innodb_metrics WHERE name = 'lock_deadlocks'")
	}
	return ServerStatus(t, db, "innodb_deadlocks")
}

// Processes is a table of the connections of a server: their id, user and db, and what they do
// (info).
func Processes() string {
	if testserver.IsMySQL() { // the other one fails on bytes that are no text
		return `(SELECT processlist_id AS id, processlist_user AS user, processlist_db AS db, processlist_info AS info
			FROM performance_schema.threads WHERE type = 'FOREGROUND') AS processes`
	}
	return "information_schema.processlist"
}

// KillConnections ends all connections of a user, and says how many.
func KillConnections(t testing.TB, db *sql.DB, user string) (n int) {
	t.Helper()
	rows, err := db.QueryContext(Bounded(t), "SELECT id FROM "+Processes()+" WHERE user = ?", user)
	Must(t, err)
	var ids []int
	for rows.Next() {
		var id int
		Must(t, rows.Scan(&id))
		ids = append(ids, id)
	}
	Must(t, rows.Err())
	for _, id := range ids {
		if _, err := db.ExecContext(Bounded(t), fmt.Sprint("KILL CONNECTION ", id)); err == nil {
			n++ // else it has ended by itself
		}
	}
	return n
}

// RowsOf lists the live rows of an archive.
func RowsOf(t testing.TB, s syncengine.ArchiveStore) (rows []syncengine.Meta) {
	t.Helper()
	for after := ""; ; {
		page, err := s.Scan(Bounded(t), after, 1000)
		NoError(t, "scan", err)
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

// WantDigest checks the stored digest against the rows.
func WantDigest(t testing.TB, s syncengine.ArchiveStore) {
	t.Helper()
	set, err := s.(interface {
		Digest(ctx context.Context) (*digest.Set, error)
	}).Digest(Bounded(t))
	NoError(t, "digest", err)
	if want := digestOfRows(RowsOf(t, s)); set.Root() != want.Root() {
		t.Fatalf("the digest differs from that of the rows in %d branches", len(set.Diff(want)))
	}
}

// WantRows counts the rows of an L3.
func WantRows(t testing.TB, raw *sql.DB, want int) {
	t.Helper()
	var n int
	NoError(t, "count", raw.QueryRowContext(Bounded(t), "SELECT COUNT(*) FROM sync_items").Scan(&n))
	if n != want {
		t.Errorf("%d rows, want %d", n, want)
	}
}
