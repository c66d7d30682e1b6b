package sqlkit

import (
	"context"
	"database/sql"
	"strings"
)

// Prefix is what the code's own names of tables and indexes begin with.
const Prefix = "sync_"

// DB is a pool of connections that sees the tables of one namespace. Statements call tables and
// indexes by the names that the code has for them, which begin with Prefix; the namespace's prefix
// takes its place on the way to the server. The pool itself can't be reached from outside of this
// package, so that no statement goes past that. Texts must hold no other word that begins with
// Prefix: values are parameters.
type DB struct {
	pool   *sql.DB
	prefix string // "" for Prefix itself
	local  bool   // the database is a library: see Stmt
	idle   int    // how many connections may be idle; 0: the pool is the caller's
}

// NewDB returns a DB on a pool. A prefix of "" is Prefix.
func NewDB(pool *sql.DB, d Dialect, prefix string) *DB {
	if prefix == Prefix {
		prefix = ""
	}
	return &DB{pool: pool, prefix: prefix, local: d == SQLite}
}

// Named returns a text with the names of a namespace; see DB.
func Named(text, prefix string) string {
	if prefix == "" || prefix == Prefix {
		return text
	}
	var b strings.Builder
	for from := 0; ; {
		n := strings.Index(text[from:], Prefix)
		if n < 0 {
			b.WriteString(text[from:])
			return b.String()
		}
		at := from + n
		b.WriteString(text[from:at])
		if at > 0 && isWord(text[at-1]) { // the middle of a word
			b.WriteString(Prefix)
		} else {
			b.WriteString(prefix)
		}
		from = at + len(Prefix)
	}
}

func isWord(c byte) bool {
	return c == '_' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

// Named returns a text as this pool's server sees it.
func (d *DB) Named(text string) string { return Named(text, d.prefix) }

// ExecContext is that of sql.DB.
func (d *DB) ExecContext(ctx context.Context, text string, args ...any) (sql.Result, error) {
	return d.pool.ExecContext(ctx, d.Named(text), args...)
}

// QueryContext is that of sql.DB.
func (d *DB) QueryContext(ctx context.Context, text string, args ...any) (*sql.Rows, error) {
	return askRows(ctx, d.idle > 0, func(ctx context.Context) (*sql.Rows, error) {
		return d.pool.QueryContext(ctx, d.Named(text), args...)
	})
}

// QueryRowContext is that of sql.DB.
func (d *DB) QueryRowContext(ctx context.Context, text string, args ...any) *sql.Row {
	return askRow(ctx, d.idle > 0, func(ctx context.Context) *sql.Row {
		return d.pool.QueryRowContext(ctx, d.Named(text), args...)
	})
}

// askRows is asked, for rows.
func askRows(ctx context.Context, ours bool, fn func(context.Context) (*sql.Rows, error)) (*sql.Rows, error) {
	return asked(ctx, ours, fn, func(rows *sql.Rows) { _ = rows.Close() })
}

// askRow is asked, for one row.
func askRow(ctx context.Context, ours bool, fn func(context.Context) *sql.Row) *sql.Row {
	row, _ := asked(ctx, ours, func(ctx context.Context) (*sql.Row, error) {
		row := fn(ctx)
		return row, row.Err()
	}, func(row *sql.Row) { _ = row.Scan() }) // which closes it
	if row == nil {
		return fn(ctx) // asks nothing: ctx has ended
	}
	return row
}

// PrepareContext is that of sql.DB.
func (d *DB) PrepareContext(ctx context.Context, text string) (*Stmt, error) {
	st, err := d.pool.PrepareContext(ctx, d.Named(text))
	if err != nil {
		return nil, err
	}
	return &Stmt{st, d.local, d.idle > 0}, nil
}

// BeginTx is that of sql.DB.
func (d *DB) BeginTx(ctx context.Context, opts *sql.TxOptions) (*Tx, error) {
	tx, err := d.pool.BeginTx(ctx, opts)
	if err != nil {
		return nil, err
	}
	return &Tx{tx, d, ctx}, nil
}

// Renew closes the connections that nobody uses now, unless the pool is the caller's.
func (d *DB) Renew() {
	if d.idle > 0 {
		d.pool.SetMaxIdleConns(0)
		d.pool.SetMaxIdleConns(d.idle)
	}
}

// Close is that of sql.DB.
func (d *DB) Close() error { return d.pool.Close() }

// Tx is a transaction on a DB.
type Tx struct {
	tx  *sql.Tx
	db  *DB
	ctx context.Context
}

// ExecContext is that of sql.Tx.
func (t *Tx) ExecContext(ctx context.Context, text string, args ...any) (sql.Result, error) {
	return t.tx.ExecContext(ctx, t.db.Named(text), args...)
}

// QueryContext is that of sql.Tx.
func (t *Tx) QueryContext(ctx context.Context, text string, args ...any) (*sql.Rows, error) {
	return t.tx.QueryContext(ctx, t.db.Named(text), args...)
}

// QueryRowContext is that of sql.Tx.
func (t *Tx) QueryRowContext(ctx context.Context, text string, args ...any) *sql.Row {
	return t.tx.QueryRowContext(ctx, t.db.Named(text), args...)
}

// StmtContext is that of sql.Tx.
func (t *Tx) StmtContext(ctx context.Context, s *Stmt) *Stmt {
	return &Stmt{t.tx.StmtContext(ctx, s.stmt), s.local, false}
}

// Commit is that of sql.Tx, and ends with ctx, which is that of the transaction. In a pool of the
// caller's, whose driver waits for the reply of its own COMMIT whatever becomes of ctx, that costs
// a round trip, since database/sql wants to see an end after it.
func (t *Tx) Commit(ctx context.Context) error {
	if t.db.local || t.db.idle > 0 {
		return t.tx.Commit()
	}
	_, err := t.tx.ExecContext(ctx, "COMMIT")
	t.Rollback() // there is nothing left to roll back
	return err
}

// Rollback is that of sql.Tx; its error would add nothing. It ends with the context of the
// transaction, too: in a pool of the caller's the ROLLBACK is awaited in the background then.
func (t *Tx) Rollback() {
	if t.db.local || t.db.idle > 0 {
		_ = t.tx.Rollback()
		return
	}
	await(t.ctx, func() { _ = t.tx.Rollback() })
}

// Stmt is a prepared statement, for what takes microseconds: a few rows by their keys. On SQLite it
// does not end with its context once it has begun. For that database/sql and the driver start a
// goroutine each, which takes longer than the statement; and there is nothing to wait for, but
// another process's lock, which has a limit of its own.
type Stmt struct {
	stmt  *sql.Stmt
	local bool
	asks  bool // reads are questions
}

func (s *Stmt) context(ctx context.Context) context.Context {
	if s.local && ctx.Err() == nil {
		return context.WithoutCancel(ctx)
	}
	return ctx
}

// ExecContext is that of sql.Stmt.
func (s *Stmt) ExecContext(ctx context.Context, args ...any) (sql.Result, error) {
	return s.stmt.ExecContext(s.context(ctx), args...)
}

// QueryContext is that of sql.Stmt.
func (s *Stmt) QueryContext(ctx context.Context, args ...any) (*sql.Rows, error) {
	return askRows(s.context(ctx), s.asks, func(ctx context.Context) (*sql.Rows, error) {
		return s.stmt.QueryContext(ctx, args...)
	})
}

// QueryRowContext is that of sql.Stmt.
func (s *Stmt) QueryRowContext(ctx context.Context, args ...any) *sql.Row {
	return askRow(s.context(ctx), s.asks, func(ctx context.Context) *sql.Row {
		return s.stmt.QueryRowContext(ctx, args...)
	})
}

// Close is that of sql.Stmt.
func (s *Stmt) Close() error { return s.stmt.Close() }
