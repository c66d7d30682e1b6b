package sqlkit

import (
	"cmp"
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// ErrNewer means that the database records a migration this build does not know.
var ErrNewer = errors.New("schema is newer than this build")

// The lock of a schema is a row of its own table, the one numbered 0: a lease, until when is in
// applied_at, by the server's clock. It is taken by an UPDATE with a condition, which holds among
// the nodes of a Galera cluster, too; a named lock is of one node, and DDL ends a transaction that
// has locked a row. Who is killed with it is waited for until it ends. Each statement of a
// migration begins a new one; if a statement takes longer, two processes may run it, which does no
// harm (see Migrate).
const (
	leaseRow  = 0
	leaseTime = 10 * time.Second
	leaseWait = 15 * time.Second
	leasePoll = 20 * time.Millisecond
)

// Migrate brings the database to the last of the migrations and records each in the table named by
// table. Migrations are numbered from 1 by their place; one that has landed never changes. Each is
// a list of statements, idempotent for MySQL, whose DDL can't be rolled back; one that adds what is
// there counts as done. Several processes may call it at once. When the database records a higher
// number, Migrate changes nothing and returns ErrNewer. Nor does it where tables are another
// program's, or lost (see survey): what a person has to mend is an *Unfit.
func Migrate(ctx context.Context, db *DB, d Dialect, table string, migrations [][]string) error {
	err := migrate(ctx, db, d, table, migrations)
	if err != nil {
		return Fit(ctx, db, d, table, err) // which may need the connection
	}
	return nil
}

func migrate(ctx context.Context, db *DB, d Dialect, table string, migrations [][]string) (err error) {
	Step(ctx)
	conn, err := db.pool.Conn(ctx)
	if err != nil {
		return err
	}
	defer func() { err = cmp.Or(err, conn.Close()) }()
	is := &survey{conn: conn, db: db, d: d, table: table, made: tablesMade(migrations)}
	have, err := is.version(ctx, len(migrations))
	if err != nil {
		return err
	}
	if have == len(migrations) {
		return nil // the usual case costs no lock
	}
	if have > len(migrations) {
		return tooNew(have, len(migrations))
	}
	lock, err := lockSchema(ctx, conn, db, d, db.Named(table))
	if err != nil {
		return err
	}
	defer func() { err = cmp.Or(err, lock.release(ctx, err == nil)) }()
	back, err := hurry(ctx, conn, d)
	if err != nil {
		return err
	}
	defer back()
	if _, have, err = is.recorded(ctx); err != nil {
		return err
	}
	if have > len(migrations) {
		return tooNew(have, len(migrations))
	}
	for n := have; n < len(migrations); n++ {
		if err = is.step(ctx, lock, n+1, migrations[n]); err != nil {
			return err
		}
	}
	return nil
}

// step makes the n-th migration, and records it.
func (s *survey) step(ctx context.Context, lock *schemaLock, n int, stmts []string) error {
	for _, stmt := range stmts {
		if err := lock.renew(ctx); err != nil {
			return err
		}
		longStep(ctx)
		_, err := s.conn.ExecContext(ctx, s.db.Named(stmt))
		switch {
		case err == nil || isThere(err):
		case LockHeld(err): // no conflict, which would be tried again at once
			return fmt.Errorf("migration %d: somebody holds the table %s: %v", n, s.db.Named(tableOf(stmt)), err)
		default:
			return &atTable{tableOf(stmt), fmt.Errorf("migration %d: %w", n, err)}
		}
	}
	Step(ctx)
	_, err := s.conn.ExecContext(ctx, "INSERT INTO "+s.db.Named(s.table)+" (version, applied_at) VALUES (?, ?)", n, time.Now().UnixNano())
	if err != nil && !(s.d == MySQL && IsDuplicate(err)) { // recorded by another process whose lease was over
		return fmt.Errorf("migration %d: %w", n, err)
	}
	return nil
}

func tooNew(have, known int) error {
	return fmt.Errorf("%w: the database has version %d, this build knows %d", ErrNewer, have, known)
}

func recordTable(table string) string {
	return "CREATE TABLE IF NOT EXISTS " + table + " (version INTEGER NOT NULL PRIMARY KEY, applied_at BIGINT NOT NULL)"
}

// Script returns the statements that Migrate runs on tables of a version, 0 for an empty database,
// in a namespace, for somebody who runs them by hand: Migrate finds nothing to do then.
func Script(prefix, table string, migrations [][]string, version int) (out []string) {
	if version == 0 {
		out = append(out, recordTable(table))
	}
	for n := version; n < len(migrations); n++ {
		out = append(append(out, migrations[n]...), fmt.Sprintf("INSERT INTO %s (version, applied_at) VALUES (%d, 0)", table, n+1))
	}
	for i := range out {
		out[i] = Named(out[i], prefix)
	}
	return out
}

// hurry makes a session wait no longer than a second until nobody uses a table that it wants to
// alter: all who come after it wait for it meanwhile. By default it waits a day. back makes it wait
// as before.
func hurry(ctx context.Context, conn *sql.Conn, d Dialect) (back func(), err error) {
	if d == SQLite {
		return func() {}, nil
	}
	const set = "SET SESSION lock_wait_timeout = ?"
	Step(ctx)
	var was int64
	if err := conn.QueryRowContext(ctx, "SELECT @@lock_wait_timeout").Scan(&was); err != nil {
		return nil, err
	}
	back = func() {
		if _, err := conn.ExecContext(ctx, set, was); err != nil { // nobody is to have it as it is
			_ = conn.Raw(func(any) error { return driver.ErrBadConn })
		}
	}
	if _, err := conn.ExecContext(ctx, set, 1); err != nil {
		back()
		return nil, err
	}
	return back, nil
}

// schemaLock keeps other processes from migrating at the same time.
type schemaLock struct {
	conn  *sql.Conn
	db    *DB
	table string // "" for SQLite, where it is a transaction
	until int64
	tried int64 // what the row may hold by now, instead
}

// lockSchema makes the table of records, if there is none, and waits for the lock.
func lockSchema(ctx context.Context, conn *sql.Conn, db *DB, d Dialect, table string) (*schemaLock, error) {
	l := &schemaLock{conn: conn, db: db}
	Step(ctx)
	if d == SQLite {
		if _, err := conn.ExecContext(ctx, "BEGIN IMMEDIATE"); err != nil {
			return nil, err
		}
		if _, err := conn.ExecContext(ctx, recordTable(table)); err != nil {
			return nil, errors.Join(err, l.release(ctx, false))
		}
		return l, nil
	}
	l.table = table
	if _, err := conn.ExecContext(ctx, recordTable(table)); err != nil {
		return nil, err
	}
	if _, err := conn.ExecContext(ctx, "INSERT IGNORE INTO "+table+" (version, applied_at) VALUES (?, 0)", leaseRow); err != nil {
		return nil, err
	}
	patience := time.NewTimer(leaseWait)
	defer patience.Stop()
	for {
		taken, err := l.lease(ctx, "applied_at < ?")
		if err != nil {
			return nil, errors.Join(err, l.release(ctx, false))
		}
		if taken {
			return l, nil
		}
		select {
		case <-time.After(leasePoll):
		case <-patience.C:
			return nil, errors.New("another process holds the schema lock")
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// lease begins a lease if what is in the row meets a condition on the present time, or, where that
// is of this process, on its end.
func (l *schemaLock) lease(ctx context.Context, condition string) (taken bool, err error) {
	Step(ctx)
	var now int64
	if err := l.conn.QueryRowContext(ctx, "SELECT 1000 * TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))").Scan(&now); err != nil {
		return false, err
	}
	than := now
	if l.until != 0 {
		than = l.until
	}
	until := now + int64(leaseTime) + rand.Int64N(int64(time.Second)) // no two are equal
	l.tried = until
	_, err = l.conn.ExecContext(ctx, "UPDATE "+l.table+" SET applied_at = ? WHERE version = ? AND "+condition, until, leaseRow, than)
	if err != nil && Classify(err) != Conflict { // another node's process was first, or so it says
		return false, err
	}
	// What the reply says is not always so: a node that repeats the statement, after another one's
	// was first, may have changed the row, and says that it did not.
	var is int64
	if err = l.conn.QueryRowContext(ctx, "SELECT applied_at FROM "+l.table+" WHERE version = ?", leaseRow).Scan(&is); err != nil {
		return false, err
	}
	if taken = is == until; taken {
		l.until = until
	}
	return taken, nil
}

func (l *schemaLock) renew(ctx context.Context) error {
	if l.table == "" {
		return nil
	}
	mine, err := l.lease(ctx, "applied_at = ?")
	if err == nil && !mine {
		err = errors.New("another process has taken over the schema lock")
	}
	return err
}

// release works after ctx has ended. Nobody else could migrate until the lease ends, nor this
// process when it tries again: so it is tried again after a conflict, and by another connection if
// this one is cut off, as it is when a step took too long.
func (l *schemaLock) release(ctx context.Context, ok bool) error {
	if l.table != "" {
		ctx, cancel := afterSteps(ctx, leaseTime)
		defer cancel()
		exec := l.conn.ExecContext
		for {
			_, err := exec(ctx, "UPDATE "+l.table+" SET applied_at = 0 WHERE version = ? AND applied_at IN (?, ?)", leaseRow, l.until, l.tried)
			switch {
			case err == nil || ctx.Err() != nil:
				return err
			case errors.Is(err, driver.ErrBadConn), errors.Is(err, sql.ErrConnDone):
				exec = l.db.pool.ExecContext
			case Classify(err) != Conflict:
				return err
			default:
				time.Sleep(leasePoll)
			}
		}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaseTime)
	defer cancel()
	end := "ROLLBACK"
	if ok {
		end = "COMMIT"
	}
	_, err := l.conn.ExecContext(ctx, end)
	return err
}
