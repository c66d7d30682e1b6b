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
	"sync/atomic"
	"time"

	"github.com/syncengine-go/syncengine/internal/gather"
	"github.com/syncengine-go/syncengine/internal/sqlkit"
)

const (
	schemaTable = "sync_schema"
	// maxChunk rows make one MySQL statement at most; statements are prepared for powers
	// of two, so a batch of 1000 new rows takes six.
	maxChunk = 512
	// maxLookup ids are looked up by one statement.
	maxLookup = 1024
	// chunkBytes bounds a statement's content, also below the server's max_allowed_packet.
	chunkBytes = 4 << 20
	// What meets another transaction's lock is tried so often at least, and for so long: a caller's
	// own handle on SQLite may have no busy timeout, and then a commit turns readers away at once
	// for as long as its fsyncs take. Our own handles wait as long by themselves.
	conflictTries  = 20
	conflictFor    = 5 * time.Second
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
	) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin`,
		`CREATE TABLE IF NOT EXISTS sync_digest (
		id     TINYINT NOT NULL PRIMARY KEY,
		digest MEDIUMBLOB NOT NULL
	) ENGINE=InnoDB`,
		`INSERT IGNORE INTO sync_digest (id, digest) VALUES (1, '')`,
		`CREATE TABLE IF NOT EXISTS sync_deltas (
		id    BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
		delta MEDIUMBLOB NOT NULL
	) ENGINE=InnoDB`,
		`CREATE TABLE IF NOT EXISTS sync_instances (
		id     VARBINARY(64) NOT NULL PRIMARY KEY,
		ticket BIGINT NOT NULL AUTO_INCREMENT UNIQUE,
		name   VARBINARY(255) NOT NULL,
		seen   BIGINT NOT NULL,
		beats  BIGINT NOT NULL
	) ENGINE=InnoDB`},
		// One statement: it happens as a whole or not at all, and may be repeated (sqlkit.Migrate).
		{`ALTER TABLE sync_deltas ADD COLUMN engine VARBINARY(64) NULL, ADD COLUMN nonce BIGINT NULL,
		ADD UNIQUE KEY sync_deltas_nonce (engine, nonce)`},
		{`ALTER TABLE sync_items ADD COLUMN encoding VARBINARY(16) NOT NULL DEFAULT '' COMMENT 'of content: empty for none'`,
			`CREATE TABLE IF NOT EXISTS sync_dictionaries (
		id         INT NOT NULL PRIMARY KEY,
		dictionary MEDIUMBLOB NOT NULL,
		sha256     BINARY(32) NOT NULL
	) ENGINE=InnoDB`},
		{`CREATE TABLE IF NOT EXISTS sync_ops (
		op           VARBINARY(600) NOT NULL PRIMARY KEY COMMENT 'id of the item, a byte 0, node/number/s or d',
		ord          BIGINT NOT NULL COMMENT 'version of the item when it had this op',
		version      BIGINT NOT NULL,
		updated_at   BIGINT NOT NULL COMMENT 'unix nanoseconds',
		crdt         VARBINARY(32) NOT NULL,
		content_hash BINARY(32) NULL,
		content      LONGBLOB NULL,
		applied      MEDIUMBLOB NULL
	) ENGINE=InnoDB ROW_FORMAT=DYNAMIC`},
		{`ALTER TABLE sync_instances ADD COLUMN clock BIGINT NOT NULL DEFAULT 0 COMMENT 'as a version',
		ADD COLUMN ahead BIGINT NOT NULL DEFAULT 0 COMMENT 'of the server, in microseconds'`,
			`CREATE TABLE IF NOT EXISTS sync_fences (
		engine VARBINARY(64) NOT NULL,
		slot   TINYINT NOT NULL,
		writes BIGINT NOT NULL DEFAULT 0,
		PRIMARY KEY (engine, slot)
	) ENGINE=InnoDB`},
		{`CREATE TABLE IF NOT EXISTS sync_meta (name VARBINARY(64) NOT NULL PRIMARY KEY, value VARBINARY(255) NOT NULL) ENGINE=InnoDB`,
			`INSERT IGNORE INTO sync_meta (name, value) VALUES ('identity', UUID())`},
		{`ALTER TABLE sync_deltas ADD COLUMN changes MEDIUMBLOB NULL, ADD COLUMN at BIGINT NULL COMMENT 'unix microseconds'`,
			`CREATE TABLE IF NOT EXISTS sync_log (
		id      BIGINT NOT NULL PRIMARY KEY,
		engine  VARBINARY(64) NOT NULL,
		at      BIGINT NOT NULL COMMENT 'unix microseconds',
		changes MEDIUMBLOB NOT NULL
	) ENGINE=InnoDB`, `INSERT IGNORE INTO sync_meta (name, value) VALUES ('log_trimmed', '0')`},
		{`ALTER TABLE sync_items ADD COLUMN expires_at BIGINT NULL COMMENT 'unix milliseconds; NULL for never',
		ADD KEY sync_items_expires (expires_at)`},
		{`CREATE TABLE IF NOT EXISTS sync_due (
		kind TINYINT NOT NULL COMMENT '1: at is deleted_at; 2: expires_at',
		at   BIGINT NOT NULL,
		id   VARBINARY(512) NOT NULL,
		PRIMARY KEY (kind, at, id)
	) ENGINE=InnoDB ROW_FORMAT=DYNAMIC`,
			// Each is one transaction: one that was cut off has filled in all by the time that it
			// is repeated, or nothing.
			fillDues[0] + " AND (SELECT COUNT(*) FROM (SELECT 1 FROM sync_due WHERE kind = 1 LIMIT 1) AS t) = 0",
			fillDues[1] + " AND (SELECT COUNT(*) FROM (SELECT 1 FROM sync_due WHERE kind = 2 LIMIT 1) AS t) = 0",
			`ALTER TABLE sync_items DROP KEY sync_items_deleted, DROP KEY sync_items_expires`}},
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
	)`, `CREATE INDEX IF NOT EXISTS sync_items_deleted ON sync_items (deleted_at) WHERE deleted_at IS NOT NULL`,
		`CREATE TABLE IF NOT EXISTS sync_digest (id INTEGER PRIMARY KEY, digest BLOB NOT NULL)`,
		`INSERT OR IGNORE INTO sync_digest (id, digest) VALUES (1, X'')`,
		`CREATE TABLE IF NOT EXISTS sync_deltas (id INTEGER PRIMARY KEY AUTOINCREMENT, delta BLOB NOT NULL)`,
		`CREATE TABLE IF NOT EXISTS sync_instances (ticket INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE,
		name TEXT NOT NULL, seen INTEGER NOT NULL, beats INTEGER NOT NULL)`},
		{`ALTER TABLE sync_deltas ADD COLUMN engine TEXT NULL`, `ALTER TABLE sync_deltas ADD COLUMN nonce INTEGER NULL`,
			`CREATE UNIQUE INDEX IF NOT EXISTS sync_deltas_nonce ON sync_deltas (engine, nonce)`},
		{`ALTER TABLE sync_items ADD COLUMN encoding TEXT NOT NULL DEFAULT ''`,
			`CREATE TABLE IF NOT EXISTS sync_dictionaries (id INTEGER PRIMARY KEY, dictionary BLOB NOT NULL, sha256 BLOB NOT NULL)`},
		{`CREATE TABLE IF NOT EXISTS sync_ops (op BLOB NOT NULL PRIMARY KEY, ord INTEGER NOT NULL, version INTEGER NOT NULL,
		updated_at INTEGER NOT NULL, crdt TEXT NOT NULL, content_hash BLOB NULL, content BLOB NULL, applied BLOB NULL) WITHOUT ROWID`},
		{`ALTER TABLE sync_instances ADD COLUMN clock INTEGER NOT NULL DEFAULT 0`,
			`ALTER TABLE sync_instances ADD COLUMN ahead INTEGER NOT NULL DEFAULT 0`,
			`CREATE TABLE IF NOT EXISTS sync_fences (engine TEXT NOT NULL, slot INTEGER NOT NULL, writes INTEGER NOT NULL DEFAULT 0,
		PRIMARY KEY (engine, slot)) WITHOUT ROWID`},
		{`CREATE TABLE IF NOT EXISTS sync_meta (name TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL)`,
			`INSERT OR IGNORE INTO sync_meta (name, value) VALUES ('identity', lower(hex(randomblob(16))))`},
		{`ALTER TABLE sync_deltas ADD COLUMN changes BLOB NULL`, `ALTER TABLE sync_deltas ADD COLUMN at INTEGER NULL`,
			`CREATE TABLE IF NOT EXISTS sync_log (id INTEGER PRIMARY KEY, engine TEXT NOT NULL, at INTEGER NOT NULL, changes BLOB NOT NULL)`,
			`INSERT OR IGNORE INTO sync_meta (name, value) VALUES ('log_trimmed', '0')`},
		{`ALTER TABLE sync_items ADD COLUMN expires_at INTEGER NULL`, // unix milliseconds; NULL for never
			`CREATE INDEX IF NOT EXISTS sync_items_expires ON sync_items (expires_at) WHERE expires_at IS NOT NULL`}},
}

// Schema returns the statements that make the tables of L3 in an empty database, in order, for a
// service whose user may not make them itself: Open finds nothing to do then. For a dialect that
// there is not it returns nil.
//
// While it runs the engine needs SELECT, INSERT, UPDATE and DELETE on these tables, no more.
func Schema(d Dialect) []string { return SchemaUpgrade(d, "", 0) }

// SchemaUpgrade returns the statements that bring the tables of an earlier version up to date, in
// order, each to be run once; none if they are. tablePrefix is Config.TablePrefix. The version of
// tables is what SELECT MAX(version) FROM sync_schema says; 0 is that of an empty database.
func SchemaUpgrade(d Dialect, tablePrefix string, version int) []string {
	known := migrations[sqlkit.Dialect(d)]
	if known == nil || version < 0 || !isTablePrefix(tablePrefix) {
		return nil
	}
	return sqlkit.Script(tablePrefix, schemaTable, known, version)
}

const columns = "id, version, updated_at, deleted, content_hash, content, priority, crdt, trace_parent, trace_state, home_instance, expires_at"

// sqlStore is an ArchiveStore.
type sqlStore struct {
	dialect sqlkit.Dialect
	pools   sqlkit.Pools
	codec   codec
	owned   bool // Close closes the pools

	// writing is held during a transaction on SQLite, which has one writer: with a caller's
	// own handle, perhaps without a busy timeout, our writers would only push each other away.
	writing sync.Mutex

	mu       sync.Mutex // guards the fields below
	prepared bool
	packet   int64 // bytes one statement may have
	identity string
	stmts    map[stmtKey]*sqlkit.Stmt
	// joining is what the fence of joins said when another engine held it, and since when.
	joining      int64
	joiningSince time.Time

	clock    func() time.Time // the clock of L3, once it is followed
	followed bool
	self     string                 // see engine
	fence    atomic.Pointer[string] // the engine whose fence transactions hold
	asker    atomic.Pointer[string] // the engine of the last ApplyIf
	window   int                    // ids that one call of Leaves looks at
	deltas   atomic.Int32           // digest deltas this store wrote since it last folded
	plain    unresolved             // transactions of Apply
	nonce    atomic.Uint64          // of the last ApplyIf: nobody asks about lower ones
	logFor   time.Duration          // how long the log is kept
	gets     gather.Group[string, Record]
}

func newSQLStore(d sqlkit.Dialect, pools sqlkit.Pools, c codec, owned bool) *sqlStore {
	s := &sqlStore{dialect: d, pools: pools, codec: c, owned: owned, stmts: make(map[stmtKey]*sqlkit.Stmt), window: leafWindow, clock: time.Now, self: newEngineID(), logFor: changesKept}
	s.gets.Most, s.gets.One, s.gets.Many = gatherMost, s.getOne, answers(s.GetMany)
	return s
}

// Follow sets the clock by which items expire.
func (s *sqlStore) Follow(clock func() time.Time) { s.clock, s.followed = clock, true }

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
	if s.dialect == sqlkit.SQLite { // see writing
		s.writing.Lock()
		defer s.writing.Unlock()
	}
	var packet int64
	var identity string
	err := s.run(ctx, "prepare", func() (err error) {
		if err = sqlkit.CheckSession(ctx, s.pools.Write, s.dialect); err != nil {
			return err
		}
		if err = s.ours(ctx); err != nil {
			return err
		}
		if err = sqlkit.Migrate(ctx, s.pools.Write, s.dialect, schemaTable, migrations[s.dialect]); err != nil {
			return sqlkit.Fit(ctx, s.pools.Write, s.dialect, schemaTable, err)
		}
		err = sqlkit.CheckTables(ctx, s.pools.Write, s.dialect, tablesOf(s.dialect))
		if err != nil && sqlkit.Classify(err) != sqlkit.Unwritable { // Writable tells of that
			return err
		}
		if err = s.pools.Write.QueryRowContext(ctx, "SELECT value FROM sync_meta WHERE name = 'identity'").Scan(&identity); err != nil {
			return err
		}
		if packet, err = sqlkit.MaxPacket(ctx, s.pools.Write, s.dialect); err != nil {
			return err
		}
		return s.recall(ctx, s.pools.Write)
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.prepared, s.packet, s.identity = true, packet, identity
	s.mu.Unlock()
	return nil
}

// tables are what an account must have rights on.
var tables = []sqlkit.Table{
	{Name: "sync_items", Columns: strings.Split(written, ", ")},
	{Name: "sync_digest", Columns: []string{"id", "digest"}},
	{Name: "sync_deltas", Columns: []string{"delta", "engine", "nonce", "changes", "at"}},
	{Name: "sync_log", Columns: []string{"id", "engine", "at", "changes"}},
	{Name: "sync_instances", Columns: []string{"id", "name", "seen", "beats", "clock", "ahead"}},
	{Name: "sync_fences", Columns: []string{"engine", "slot", "writes"}},
	{Name: "sync_meta", Columns: []string{"name", "value"}},
	{Name: "sync_dictionaries", Columns: []string{"id", "dictionary", "sha256"}},
	{Name: "sync_ops", Columns: strings.Split(opColumns, ", ")},
}

// tablesOf are those of a dialect.
func tablesOf(d sqlkit.Dialect) []sqlkit.Table {
	if d == sqlkit.MySQL {
		return append(slices.Clone(tables), sqlkit.Table{Name: "sync_due", Columns: []string{"kind", "at", "id"}})
	}
	return tables
}

// ours fails if there is a table of our name that another program made: it must not be migrated.
func (s *sqlStore) ours(ctx context.Context) error {
	rows, err := s.pools.Write.QueryContext(ctx, "SELECT id, version, updated_at, deleted, deleted_at, content_hash, content FROM sync_items WHERE 1 = 0")
	if err == nil {
		return rows.Close()
	}
	if u, ok := errors.AsType[*sqlkit.Unfit](sqlkit.Fit(ctx, s.pools.Write, s.dialect, "sync_items", err)); ok {
		return u
	}
	return nil // most likely there is none
}

// Near reports whether the database is a library with pools as Open makes them: then readers don't
// wait for writers.
func (s *sqlStore) Near() bool { return s.dialect == sqlkit.SQLite && s.owned }

// Identity tells this database from others. A backup that is restored has that of the original.
func (s *sqlStore) Identity() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.identity
}

// Writable tries writes that change nothing, each of the kinds that there is a right for: or an
// outage would end, and begin again with the next flush.
func (s *sqlStore) Writable(ctx context.Context) error {
	return s.run(ctx, "write", func() error {
		texts := []string{
			"DELETE FROM sync_items WHERE 1 = 0",
			"UPDATE sync_items SET version = version WHERE 1 = 0",
			"INSERT INTO sync_items (id, version, updated_at) SELECT id, version, updated_at FROM sync_items WHERE 1 = 0",
		}
		if s.dialect == sqlkit.SQLite { // it knows no rights
			texts = texts[:1]
		}
		for _, text := range texts {
			if _, err := s.alone(ctx, text); err != nil {
				if sqlkit.Classify(err) == sqlkit.Unwritable { // a session keeps the rights that it began with
					s.pools.Write.Renew()
				}
				return err
			}
		}
		return nil
	})
}

// describe puts a driver's error into the engine's words.
func (s *sqlStore) describe(op string, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, ErrRefused) || errors.Is(err, ErrNotFound) || errors.Is(err, ErrUnavailable) {
		return err // this store's own words
	}
	if u, ok := errors.AsType[*sqlkit.Unfit](err); ok {
		return &SetupError{Server: string(s.dialect), Problem: u.Problem, Mend: u.Mend, Err: u.Err}
	}
	if errors.Is(err, sqlkit.ErrNewer) {
		return fmt.Errorf("%w: %w", ErrSchema, err)
	}
	switch sqlkit.Classify(err) {
	case sqlkit.Canceled:
		return err
	case sqlkit.Refused:
		return &RefusedError{Err: err}
	case sqlkit.Unwritable:
		return fmt.Errorf("%s: %w: %w: %w", s.dialect, ErrUnavailable, errNoWrites, err)
	case sqlkit.Permanent:
		return fmt.Errorf("%s %s: %w", s.dialect, op, err)
	case sqlkit.Corrupt:
		return fmt.Errorf("%s %s: %w: %w", s.dialect, op, ErrCorruption, err)
	}
	return fmt.Errorf("%s: %w: %w", s.dialect, ErrUnavailable, err) // what was asked says nothing
}

// stmtKey is a statement of one of the pools.
type stmtKey struct {
	db   *sqlkit.DB
	text string
}

// stmt returns a prepared statement, which lives as long as the store.
func (s *sqlStore) stmt(ctx context.Context, db *sqlkit.DB, text string) (*sqlkit.Stmt, error) {
	key := stmtKey{db, text}
	s.mu.Lock()
	st := s.stmts[key]
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
	if first := s.stmts[key]; first != nil { // another caller was faster
		_ = st.Close()
		return first, nil
	}
	s.stmts[key] = st
	return st, nil
}

const selectOne = "SELECT " + columns + " FROM sync_items WHERE id = ?"

// Get shares a round trip with others that wait; to a library there is none.
func (s *sqlStore) Get(ctx context.Context, id string) (Record, error) {
	if s.dialect == sqlkit.SQLite {
		return s.getOne(ctx, id)
	}
	return s.gets.Do(ctx, id)
}

func (s *sqlStore) getOne(ctx context.Context, id string) (rec Record, err error) {
	if rec, err = s.get(ctx, id); errors.Is(err, errLacksDictionary) && s.recall(ctx, s.pools.Read) == nil {
		return s.get(ctx, id)
	}
	return rec, err
}

func (s *sqlStore) get(ctx context.Context, id string) (rec Record, err error) {
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
	return row.record(s.codec)
}

func (s *sqlStore) GetMany(ctx context.Context, ids []string) ([]Found, error) {
	found, err := s.getMany(ctx, ids)
	lacks := func(f Found) bool { return errors.Is(f.Err, errLacksDictionary) }
	if err == nil && slices.ContainsFunc(found, lacks) && s.recall(ctx, s.pools.Read) == nil {
		return s.getMany(ctx, ids)
	}
	return found, err
}

func (s *sqlStore) getMany(ctx context.Context, ids []string) ([]Found, error) {
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
		rec, err := row.record(s.codec)
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
		args := make([]any, places(n))
		for i := range args {
			args[i] = ids[min(i, n-1)]
		}
		if err := s.query(ctx, op, selectMany(columns, n), args, fn); err != nil {
			return err
		}
		ids = ids[n:]
	}
	return nil
}

// places is how many parameters a statement for n ids has.
func places(n int) int { return 1 << bits.Len(uint(n-1)) }

// selectMany is the SELECT for n ids.
func selectMany(columns string, n int) string {
	return "SELECT " + columns + " FROM sync_items WHERE id IN (?" + strings.Repeat(",?", places(n)-1) + ")"
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

const headColumns = "id, version, deleted, content_hash, expires_at"

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
	var met time.Time // when fn met another's lock first
	for try := 1; ; try++ {
		err := fn()
		if errors.Is(err, sql.ErrNoRows) {
			return err
		}
		if err == nil || sqlkit.Classify(err) != sqlkit.Conflict && !errors.Is(err, errRaced) {
			return s.describe(op, err)
		}
		if try == 1 {
			met = time.Now()
		} else if try >= conflictTries && time.Since(met) > conflictFor {
			return s.describe(op, err)
		}
		// Two engines that met once should not meet again: wait a random while.
		timer := time.NewTimer(rand.N(conflictWait * time.Duration(min(try, conflictTries))))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return s.describe(op, err)
		}
	}
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
	if s.dialect == sqlkit.MySQL {
		return s.purgeDue(ctx, before.UnixNano(), limit)
	}
	const text = "DELETE FROM sync_items WHERE rowid IN (SELECT rowid FROM sync_items WHERE deleted_at < ? LIMIT ?)"
	err = s.run(ctx, "purge", func() error {
		rows, err := s.alone(ctx, text, before.UnixNano(), limit)
		n = int(rows)
		return err
	})
	return n, err
}

// Expired implements ExpiringStore.
func (s *sqlStore) Expired(ctx context.Context, at time.Time, limit int) (out []Meta, err error) {
	if s.dialect == sqlkit.MySQL {
		return s.expiredDue(ctx, millis(at), limit)
	}
	const text = "SELECT " + headColumns + " FROM sync_items WHERE expires_at <= ? AND deleted = 0 ORDER BY expires_at LIMIT ?"
	err = s.run(ctx, "expired", func() error {
		out = out[:0] // not again after a retry
		return s.query(ctx, "expired", text, []any{millis(at), limit}, func(rows *sql.Rows) error {
			m, err := scanHead(rows)
			out = append(out, m)
			return err
		})
	})
	return out, err
}

func (s *sqlStore) Ping(ctx context.Context) error {
	// A statement, not the driver's ping: an SQLite ping does not touch the file.
	var one int
	return s.describe("ping", s.pools.Write.QueryRowContext(ctx, "SELECT 1 FROM (SELECT COUNT(*) FROM "+schemaTable+") AS t").Scan(&one))
}

func (s *sqlStore) Close() error {
	s.mu.Lock()
	stmts := s.stmts
	s.stmts = make(map[stmtKey]*sqlkit.Stmt)
	s.mu.Unlock()
	var errs []error
	for _, st := range stmts {
		errs = append(errs, st.Close())
	}
	if s.owned {
		errs = append(errs, s.pools.Close())
	}
	if s.dialect == sqlkit.MySQL { // what has ended before, in an outage, is closed as well
		return nil
	}
	return errors.Join(errs...)
}
