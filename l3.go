package syncengine

// l3.go is L3 on SQL: the table sync_items in MySQL/MariaDB or SQLite.
//
// Every write is conditional on (version, deleted, content hash), in one order for all
// tiers (INV-3), and so may be repeated after an unknown outcome. Ids are exact bytes.
// Content is bytes: a JSON column would rewrite it (INV-11). Rows of one call are written
// in one READ COMMITTED transaction, in the order given (the flusher sorts by id); a
// deadlock is repeated at once.
//
// No goroutines. Dialects, migrations and error classes live in internal/sqlkit; SQL text
// lives here, because it is about items.

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"math/bits"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/syncengine-go/syncengine/internal/failpoint"
	"github.com/syncengine-go/syncengine/internal/sqlkit"
)

const (
	schemaTable = "sync_schema"
	// maxChunk rows make one MySQL statement at most; statements are prepared for powers
	// of two, so a batch of 1000 takes seven.
	maxChunk = 256
	// maxLookup ids are looked up by one statement.
	maxLookup = 1024
	// chunkBytes bounds a statement's content, also below the server's max_allowed_packet.
	chunkBytes     = 4 << 20
	conflictTries  = 20
	conflictWait   = 2 * time.Millisecond
	rowOverheadSQL = 256
)

var migrations = map[sqlkit.Dialect][][]string{
	sqlkit.MySQL: {{`CREATE TABLE IF NOT EXISTS sync_items (
		id            VARBINARY(512) NOT NULL PRIMARY KEY,
		version       BIGINT NOT NULL,
		updated_at    BIGINT NOT NULL COMMENT 'unix nanoseconds',
		deleted       TINYINT NOT NULL DEFAULT 0,
		deleted_at    BIGINT NULL COMMENT 'unix nanoseconds; NULL unless deleted',
		content_hash  BINARY(32) NULL,
		content       LONGBLOB NULL,
		priority      TINYINT NOT NULL DEFAULT 0,
		crdt          VARBINARY(32) NOT NULL DEFAULT '',
		trace_parent  VARBINARY(64) NOT NULL DEFAULT '',
		trace_state   VARBINARY(512) NOT NULL DEFAULT '',
		home_instance VARBINARY(255) NOT NULL DEFAULT '',
		KEY sync_items_deleted (deleted_at)
	) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin`}},
	sqlkit.SQLite: {{`CREATE TABLE IF NOT EXISTS sync_items (
		id            TEXT NOT NULL PRIMARY KEY,
		version       INTEGER NOT NULL,
		updated_at    INTEGER NOT NULL, -- unix nanoseconds
		deleted       INTEGER NOT NULL DEFAULT 0,
		deleted_at    INTEGER NULL,     -- unix nanoseconds; NULL unless deleted
		content_hash  BLOB NULL,
		content       BLOB NULL,
		priority      INTEGER NOT NULL DEFAULT 0,
		crdt          TEXT NOT NULL DEFAULT '',
		trace_parent  TEXT NOT NULL DEFAULT '',
		trace_state   TEXT NOT NULL DEFAULT '',
		home_instance TEXT NOT NULL DEFAULT ''
	)`, `CREATE INDEX IF NOT EXISTS sync_items_deleted ON sync_items (deleted_at) WHERE deleted_at IS NOT NULL`}},
}

const (
	columns = "id, version, updated_at, deleted, content_hash, content, priority, crdt, trace_parent, trace_state, home_instance"
	// written are the columns of an upsert.
	written      = columns + ", deleted_at"
	writtenCount = 12
)

// onDuplicate ends a multi-row INSERT. MySQL evaluates the assignments from left to right,
// each seeing those before it (TRAPS 22). So the columns the condition reads come last,
// each once the ones after it no longer need it: the hash, which matters at equal version
// and equal deleted; then deleted, which matters at equal version; then version.
// VALUES(c) is deprecated in MySQL but the only form MariaDB knows.
const onDuplicate = ` ON DUPLICATE KEY UPDATE
	updated_at = IF(@c, VALUES(updated_at), updated_at),
	deleted_at = IF(@c, VALUES(deleted_at), deleted_at),
	content = IF(@c, VALUES(content), content),
	priority = IF(@c, VALUES(priority), priority),
	crdt = IF(@c, VALUES(crdt), crdt),
	trace_parent = IF(@c, VALUES(trace_parent), trace_parent),
	trace_state = IF(@c, VALUES(trace_state), trace_state),
	home_instance = IF(@c, VALUES(home_instance), home_instance),
	content_hash = IF(@c, VALUES(content_hash), content_hash),
	deleted = IF(VALUES(version) > version, VALUES(deleted), IF(VALUES(version) = version, GREATEST(deleted, VALUES(deleted)), deleted)),
	version = GREATEST(version, VALUES(version))`

const winsMySQL = `(VALUES(version) > version OR VALUES(version) = version AND (VALUES(deleted) > deleted OR
	VALUES(deleted) = deleted AND VALUES(content_hash) > COALESCE(content_hash, '')))`

const upsertSQLite = `INSERT INTO sync_items (` + written + `) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
	ON CONFLICT (id) DO UPDATE SET version = excluded.version, updated_at = excluded.updated_at, deleted = excluded.deleted,
	content_hash = excluded.content_hash, content = excluded.content, priority = excluded.priority, crdt = excluded.crdt,
	trace_parent = excluded.trace_parent, trace_state = excluded.trace_state, home_instance = excluded.home_instance,
	deleted_at = excluded.deleted_at
	WHERE excluded.version > sync_items.version OR excluded.version = sync_items.version AND (excluded.deleted > sync_items.deleted OR
	excluded.deleted = sync_items.deleted AND excluded.content_hash > COALESCE(sync_items.content_hash, X''))`

// sqlStore is an ArchiveStore.
type sqlStore struct {
	dialect sqlkit.Dialect
	pools   sqlkit.Pools
	owned   bool // Close closes the pools

	// writing is held during a transaction on SQLite, which has one writer: with a caller's
	// own handle, perhaps without a busy timeout, our writers would only push each other away.
	writing sync.Mutex

	mu       sync.Mutex // guards the fields below
	prepared bool
	packet   int64 // bytes one statement may have
	stmts    map[string]*sql.Stmt
}

func newSQLStore(d sqlkit.Dialect, pools sqlkit.Pools, owned bool) *sqlStore {
	return &sqlStore{dialect: d, pools: pools, owned: owned, stmts: make(map[string]*sql.Stmt)}
}

func (s *sqlStore) Prepare(ctx context.Context) error {
	s.mu.Lock()
	done := s.prepared
	s.mu.Unlock()
	if done {
		err := s.Ping(ctx)
		if err != nil { // the tables may be gone with the server: look again when it is back
			s.mu.Lock()
			s.prepared = false
			s.mu.Unlock()
		}
		return err
	}
	var packet int64
	err := s.run(ctx, "prepare", func() (err error) {
		if err = sqlkit.Migrate(ctx, s.pools.Write, s.dialect, schemaTable, migrations[s.dialect]); err != nil {
			return err
		}
		packet, err = sqlkit.MaxPacket(ctx, s.pools.Write, s.dialect)
		return err
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.prepared, s.packet = true, packet
	s.mu.Unlock()
	return nil
}

// describe puts a driver's error into the engine's words.
func (s *sqlStore) describe(op string, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, sqlkit.ErrNewer) {
		return fmt.Errorf("%w: %w", ErrSchema, err)
	}
	switch sqlkit.Classify(err) {
	case sqlkit.Canceled:
		return err
	case sqlkit.Refused:
		return &RefusedError{Err: err}
	case sqlkit.Permanent:
		return fmt.Errorf("%s %s: %w", s.dialect, op, err)
	case sqlkit.Corrupt:
		return fmt.Errorf("%s %s: %w: %w", s.dialect, op, ErrCorruption, err)
	}
	return fmt.Errorf("%s %s: %w: %w", s.dialect, op, ErrUnavailable, err)
}

// stmt returns a prepared statement, which lives as long as the store.
func (s *sqlStore) stmt(ctx context.Context, db *sql.DB, text string) (*sql.Stmt, error) {
	s.mu.Lock()
	st := s.stmts[text]
	s.mu.Unlock()
	if st != nil {
		return st, nil
	}
	st, err := db.PrepareContext(ctx, text)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if first := s.stmts[text]; first != nil { // another caller was faster
		_ = st.Close()
		return first, nil
	}
	s.stmts[text] = st
	return st, nil
}

const selectOne = "SELECT " + columns + " FROM sync_items WHERE id = ?"

func (s *sqlStore) Get(ctx context.Context, id string) (rec Record, err error) {
	var row scanned
	err = s.run(ctx, "get", func() error {
		st, err := s.stmt(ctx, s.pools.Read, selectOne)
		if err != nil {
			return err
		}
		row = scanned{}
		return st.QueryRowContext(ctx, id).Scan(row.fields()...)
	})
	if errors.Is(err, sql.ErrNoRows) {
		return Record{}, ErrNotFound
	}
	if err != nil {
		return Record{}, err
	}
	return row.record()
}

func (s *sqlStore) GetMany(ctx context.Context, ids []string) ([]Found, error) {
	at := make(map[string][]int, len(ids)) // an id may occur more than once
	for i, id := range ids {
		at[id] = append(at[id], i)
	}
	out := make([]Found, len(ids))
	err := s.lookup(ctx, "get many", columns, ids, func(rows *sql.Rows) error {
		var row scanned
		if err := rows.Scan(row.fields()...); err != nil {
			return err
		}
		rec, err := row.record()
		for _, i := range at[string(row.id)] {
			out[i] = Found{Record: rec, OK: err == nil, Err: err}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// lookup reads columns of the rows of ids, maxLookup at a time. A statement is prepared for
// the next power of two: the last id fills the places that are left. fn may see a row twice.
func (s *sqlStore) lookup(ctx context.Context, op, columns string, ids []string, fn func(*sql.Rows) error) error {
	for len(ids) > 0 {
		n := min(len(ids), maxLookup)
		places := 1 << bits.Len(uint(n-1))
		args := make([]any, places)
		for i := range args {
			args[i] = ids[min(i, n-1)]
		}
		text := "SELECT " + columns + " FROM sync_items WHERE id IN (?" + strings.Repeat(",?", places-1) + ")"
		if err := s.query(ctx, op, text, args, fn); err != nil {
			return err
		}
		ids = ids[n:]
	}
	return nil
}

// query runs a prepared SELECT and calls fn for each row.
func (s *sqlStore) query(ctx context.Context, op, text string, args []any, fn func(*sql.Rows) error) error {
	return s.run(ctx, op, func() error {
		st, err := s.stmt(ctx, s.pools.Read, text)
		if err != nil {
			return err
		}
		rows, err := st.QueryContext(ctx, args...)
		if err != nil {
			return err
		}
		for rows.Next() && err == nil {
			err = fn(rows)
		}
		return errors.Join(err, rows.Err(), rows.Close())
	})
}

const headColumns = "id, version, deleted, content_hash"

func (s *sqlStore) Heads(ctx context.Context, ids []string) ([]Meta, error) {
	seen := make(map[string]Meta, len(ids))
	err := s.lookup(ctx, "heads", headColumns, ids, func(rows *sql.Rows) error {
		m, err := scanHead(rows)
		seen[m.ID] = m
		return err
	})
	return slices.Collect(maps.Values(seen)), err
}

// run calls fn again after a deadlock or the like, and describes its error.
func (s *sqlStore) run(ctx context.Context, op string, fn func() error) error {
	for try := 1; ; try++ {
		err := fn()
		if errors.Is(err, sql.ErrNoRows) {
			return err
		}
		if err == nil || sqlkit.Classify(err) != sqlkit.Conflict || try == conflictTries {
			return s.describe(op, err)
		}
		// Two engines that met once should not meet again: wait a random while.
		timer := time.NewTimer(rand.N(conflictWait * time.Duration(try)))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return s.describe(op, err)
		}
	}
}

func (s *sqlStore) Apply(ctx context.Context, recs []Record) error {
	if err := s.checkSizes(recs); err != nil {
		return err
	}
	return s.run(ctx, "apply", func() error { return s.applyOnce(ctx, recs) })
}

// checkSizes refuses what the server would. MySQL must not even be asked: it remembers the
// refusal of a long parameter in the prepared statement and then refuses the next rows, too.
func (s *sqlStore) checkSizes(recs []Record) error {
	s.mu.Lock()
	packet := s.packet
	s.mu.Unlock()
	for i := range recs {
		if n := int64(len(recs[i].Content)); n > packet {
			return &RefusedError{Err: fmt.Errorf("content of %d bytes is larger than the server's max_allowed_packet of %d", n, packet)}
		}
	}
	return nil
}

func (s *sqlStore) applyOnce(ctx context.Context, recs []Record) (err error) {
	var opts *sql.TxOptions
	if s.dialect == sqlkit.MySQL {
		opts = &sql.TxOptions{Isolation: sql.LevelReadCommitted} // set for each transaction: a pool's connections differ
	}
	chunks, err := s.chunks(ctx, recs) // before the transaction: preparing takes a connection of the pool
	if err != nil {
		return err
	}
	if s.dialect == sqlkit.SQLite {
		s.writing.Lock()
		defer s.writing.Unlock()
	}
	tx, err := s.pools.Write.BeginTx(ctx, opts)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = tx.Rollback() // its error adds nothing: the connection is given up
		}
	}()
	if s.dialect == sqlkit.SQLite {
		err = s.upsertSQLite(ctx, tx, recs)
	} else {
		err = upsertMySQL(ctx, tx, chunks)
	}
	if err != nil {
		return err
	}
	failpoint.Hit(failpoint.L3Committing)
	return tx.Commit()
}

func (s *sqlStore) upsertSQLite(ctx context.Context, tx *sql.Tx, recs []Record) error {
	st, err := tx.PrepareContext(ctx, upsertSQLite)
	if err != nil {
		return err
	}
	defer func() { _ = st.Close() }()
	args := make([]any, 0, writtenCount)
	for i := range recs {
		if _, err := st.ExecContext(ctx, appendArgs(args[:0], &recs[i])...); err != nil {
			return err
		}
	}
	return nil
}

// chunk is what one multi-row statement writes.
type chunk struct {
	stmt *sql.Stmt
	recs []Record
}

// chunks divides records over prepared statements. SQLite needs none: it writes row by row.
func (s *sqlStore) chunks(ctx context.Context, recs []Record) (out []chunk, err error) {
	s.mu.Lock()
	limit := min(chunkBytes, s.packet/4)
	s.mu.Unlock()
	for s.dialect == sqlkit.MySQL && len(recs) > 0 {
		n := chunkLen(recs, limit)
		st, err := s.stmt(ctx, s.pools.Write, multiUpsert(n))
		if err != nil {
			return nil, err
		}
		out = append(out, chunk{st, recs[:n]})
		recs = recs[n:]
	}
	return out, nil
}

func upsertMySQL(ctx context.Context, tx *sql.Tx, chunks []chunk) error {
	var args []any
	for _, c := range chunks {
		args = args[:0]
		for i := range c.recs {
			args = appendArgs(args, &c.recs[i])
		}
		if _, err := tx.StmtContext(ctx, c.stmt).ExecContext(ctx, args...); err != nil {
			return err
		}
	}
	return nil
}

// chunkLen returns how many of the records one statement takes: a power of two, at most
// maxChunk, within limit bytes; one record always goes alone, whatever its size.
func chunkLen(recs []Record, limit int64) int {
	n, bytes := 0, int64(0)
	for n < len(recs) && n < maxChunk {
		if bytes += int64(len(recs[n].Content)) + rowOverheadSQL; bytes > limit && n > 0 {
			break
		}
		n++
	}
	return 1 << (bits.Len(uint(n)) - 1)
}

func multiUpsert(rows int) string {
	place := "(?" + strings.Repeat(",?", writtenCount-1) + ")"
	return "INSERT INTO sync_items (" + written + ") VALUES " + place + strings.Repeat(","+place, rows-1) +
		strings.ReplaceAll(onDuplicate, "@c", winsMySQL)
}

func (s *sqlStore) Scan(ctx context.Context, after string, limit int) ([]Meta, error) {
	var out []Meta
	err := s.query(ctx, "scan", "SELECT "+headColumns+" FROM sync_items WHERE id > ? ORDER BY id LIMIT ?", []any{after, limit}, func(rows *sql.Rows) error {
		m, err := scanHead(rows)
		if len(out) == 0 || m.ID > out[len(out)-1].ID { // not again after a retry
			out = append(out, m)
		}
		return err
	})
	return out, err
}

func (s *sqlStore) PurgeTombstones(ctx context.Context, before time.Time, limit int) (n int, err error) {
	text := "DELETE FROM sync_items WHERE deleted_at < ? LIMIT ?"
	if s.dialect == sqlkit.SQLite {
		text = "DELETE FROM sync_items WHERE rowid IN (SELECT rowid FROM sync_items WHERE deleted_at < ? LIMIT ?)"
	}
	err = s.run(ctx, "purge", func() error {
		res, err := s.pools.Write.ExecContext(ctx, text, before.UnixNano(), limit)
		if err != nil {
			return err
		}
		rows, err := res.RowsAffected()
		n = int(rows)
		return err
	})
	return n, err
}

func (s *sqlStore) Ping(ctx context.Context) error {
	// A statement, not the driver's ping: an SQLite ping does not touch the file.
	var one int
	return s.describe("ping", s.pools.Write.QueryRowContext(ctx, "SELECT 1 FROM (SELECT COUNT(*) FROM "+schemaTable+") AS t").Scan(&one))
}

func (s *sqlStore) Close() error {
	s.mu.Lock()
	stmts := s.stmts
	s.stmts = make(map[string]*sql.Stmt)
	s.mu.Unlock()
	var errs []error
	for _, st := range stmts {
		errs = append(errs, st.Close())
	}
	if s.owned {
		errs = append(errs, s.pools.Close())
	}
	return errors.Join(errs...)
}
