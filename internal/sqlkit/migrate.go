package sqlkit

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

// ErrNewer means that the database records a migration this build does not know.
var ErrNewer = errors.New("schema is newer than this build")

const migrationLock = "syncengine_schema"

// Migrate brings the database to the last of the migrations and records each in the table named by
// table. Migrations are numbered from 1 by their place; one that has landed never changes. Each is
// a list of statements, idempotent for MySQL, whose DDL can't be rolled back; one that adds what is
// there counts as done. Several processes may call it at once. When the database records a higher
// number, Migrate changes nothing and returns ErrNewer.
func Migrate(ctx context.Context, db *sql.DB, d Dialect, table string, migrations [][]string) (err error) {
	conn, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	have, err := recorded(ctx, conn, d, table)
	if err != nil {
		return err
	}
	if have == len(migrations) {
		return nil // the usual case costs no lock
	}
	unlock, err := lockSchema(ctx, conn, d)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock(err == nil)) }()
	if have, err = recorded(ctx, conn, d, table); err != nil {
		return err
	}
	if have > len(migrations) {
		return fmt.Errorf("%w: the database has version %d, this build knows %d", ErrNewer, have, len(migrations))
	}
	if _, err = conn.ExecContext(ctx, recordTable(table)); err != nil {
		return err
	}
	for n := have; n < len(migrations); n++ {
		for _, stmt := range migrations[n] {
			if _, err = conn.ExecContext(ctx, stmt); err != nil && !isThere(err) {
				return fmt.Errorf("migration %d: %w", n+1, err)
			}
		}
		if _, err = conn.ExecContext(ctx, "INSERT INTO "+table+" (version, applied_at) VALUES (?, ?)", n+1, time.Now().UnixNano()); err != nil {
			return fmt.Errorf("migration %d: %w", n+1, err)
		}
	}
	return nil
}

func recordTable(table string) string {
	return "CREATE TABLE IF NOT EXISTS " + table + " (version INTEGER NOT NULL PRIMARY KEY, applied_at BIGINT NOT NULL)"
}

// Script returns the statements that Migrate runs on an empty database, for somebody who runs them
// by hand: Migrate finds nothing to do then.
func Script(table string, migrations [][]string) []string {
	out := []string{recordTable(table)}
	for n, m := range migrations {
		out = append(append(out, m...), fmt.Sprintf("INSERT INTO %s (version, applied_at) VALUES (%d, 0)", table, n+1))
	}
	return out
}

// recorded returns the highest migration in the table, 0 when there is no table.
func recorded(ctx context.Context, conn *sql.Conn, d Dialect, table string) (int, error) {
	exists := "SELECT COUNT(*) FROM sqlite_master WHERE type = 'table' AND name = ?"
	if d == MySQL {
		exists = "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = ?"
	}
	var n int
	if err := conn.QueryRowContext(ctx, exists, table).Scan(&n); err != nil || n == 0 {
		return 0, err
	}
	err := conn.QueryRowContext(ctx, "SELECT COALESCE(MAX(version), 0) FROM "+table).Scan(&n)
	return n, err
}

// lockSchema keeps other processes from migrating at the same time. unlock commits when
// ok; it works after ctx has ended.
func lockSchema(ctx context.Context, conn *sql.Conn, d Dialect) (unlock func(ok bool) error, err error) {
	bg := context.WithoutCancel(ctx)
	if d == SQLite {
		if _, err := conn.ExecContext(ctx, "BEGIN IMMEDIATE"); err != nil {
			return nil, err
		}
		return func(ok bool) error {
			end := "ROLLBACK"
			if ok {
				end = "COMMIT"
			}
			_, err := conn.ExecContext(bg, end)
			return err
		}, nil
	}
	var got sql.NullInt64
	if err := conn.QueryRowContext(ctx, "SELECT GET_LOCK(?, 10)", migrationLock).Scan(&got); err != nil {
		return nil, err
	}
	if got.Int64 != 1 {
		return nil, errors.New("another process holds the schema lock")
	}
	return func(bool) error {
		_, err := conn.ExecContext(bg, "DO RELEASE_LOCK(?)", migrationLock)
		return err
	}, nil
}
