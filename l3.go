package syncengine

// l3.go is L3 on SQL: the table sync_items in MySQL/MariaDB or SQLite (l3schema.go).
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

	"github.com/syncengine-go/syncengine/internal/sqlkit"
)

const (
	// maxLookup ids are looked up by one statement, fewer where the server's packets are small.
	maxLookup = 1024
	idBytes   = 600 // an id, or the key of a merge, as a parameter, at most
	// chunkBytes bounds a statement, also below the server's max_allowed_packet: the length up to
	// which the driver keeps the buffer that it writes a statement to.
	chunkBytes = 240 << 10
	// What meets another transaction's lock is tried so often at least, and for so long: a caller's
	// own handle on SQLite may have no busy timeout, and then a commit turns readers away at once
	// for as long as its fsyncs take. Our own handles wait as long by themselves.
	conflictTries  = 20
	conflictFor    = 5 * time.Second
	conflictWait   = 2 * time.Millisecond
	rowOverheadSQL = 96
)

const columns = "id, version, updated_at, deleted, content_hash, content, priority, crdt, trace_parent, trace_state, home_instance, expires_at"

// sqlStore is an ArchiveStore.
type sqlStore struct {
	dialect sqlkit.Dialect
	pools   sqlkit.Pools
	codec   codec
	owned   bool // Close closes the pools

	stmts sqlkit.Statements

	// writing is held during a transaction on SQLite, which has one writer: with a caller's
	// own handle, perhaps without a busy timeout, our writers would only push each other away.
	writing sync.Mutex

	mu       sync.Mutex // guards the fields below
	prepared bool
	packet   int64 // bytes one statement may have
	identity string
	ready    []writesReady // what all statements are prepared for
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
	noSHA1   atomic.Bool            // the server has no such function
	counts   atomic.Bool            // the server counts the rows that a statement changes, not those it finds
	known    knownRows
	nonce    atomic.Uint64 // of the last ApplyIf: nobody asks about lower ones
	logFor   time.Duration // how long the log is kept
}

func newSQLStore(d sqlkit.Dialect, pools sqlkit.Pools, c codec, owned bool) *sqlStore {
	return &sqlStore{dialect: d, pools: pools, codec: c, owned: owned, window: leafWindow, clock: time.Now, self: newEngineID(), logFor: changesKept}
}

// PrepareInSteps is Prepare with a bound for each of its steps, of which there are many, and none
// for the whole.
func (s *sqlStore) PrepareInSteps(ctx context.Context, each time.Duration) error {
	return s.inSteps(ctx, each, s.Prepare)
}

// inSteps calls fn with a bound for each of its steps, and none for the whole.
func (s *sqlStore) inSteps(ctx context.Context, each time.Duration, fn func(context.Context) error) error {
	under, end := sqlkit.InSteps(ctx, each)
	defer end()
	err := fn(under)
	if err != nil && ctx.Err() == nil && context.Cause(under) == sqlkit.ErrSlowStep {
		return fmt.Errorf("%s: %w: %w", s.dialect, ErrUnavailable, sqlkit.ErrSlowStep)
	}
	return err
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
		if err = sqlkit.Migrate(ctx, s.pools.Write, s.dialect, schemaTable, migrations[s.dialect]); err != nil {
			return err
		}
		err = sqlkit.CheckTables(ctx, s.pools.Write, s.dialect, tablesOf(s.dialect))
		if err != nil && sqlkit.Classify(err) != sqlkit.Unwritable { // Writable tells of that
			return err
		}
		sqlkit.Step(ctx)
		if identity, err = s.identify(ctx); err != nil {
			return err
		}
		sqlkit.Step(ctx)
		if s.dialect == sqlkit.MySQL { // a handle may have been opened with clientFoundRows
			res, err := s.pools.Write.ExecContext(ctx, "UPDATE sync_meta SET value = value WHERE name = 'identity'")
			if err == nil {
				n, err := res.RowsAffected()
				s.counts.Store(err == nil && n == 0)
			}
		} else {
			s.counts.Store(true)
		}
		sqlkit.Step(ctx)
		if packet, err = sqlkit.MaxPacket(ctx, s.pools.Write, s.dialect); err != nil {
			return err
		}
		sqlkit.Step(ctx)
		return s.recall(ctx, s.pools.Write)
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.prepared, s.packet, s.identity, s.ready = true, packet, identity, nil // which statements are needed goes by the server
	s.mu.Unlock()
	return nil
}

// identify returns the identity of the database.
func (s *sqlStore) identify(ctx context.Context) (string, error) {
	var identity sql.NullString
	var rows int
	text := "SELECT MAX(CASE WHEN name = 'identity' THEN value END), COUNT(*) FROM sync_meta WHERE name IN ('identity', 'log_trimmed')"
	err := s.pools.Write.QueryRowContext(ctx, text).Scan(&identity, &rows)
	if err == nil && rows < 2 {
		err = sqlkit.Lost(s.pools.Write, "sync_meta", "has lost rows", nil)
	}
	return identity.String, err
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
	if errors.Is(err, errRaced) { // whatever the statement failed with: nothing was refused
		return fmt.Errorf("%s: %w: %w", s.dialect, ErrUnavailable, err)
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

// stmt returns a prepared statement, which lives as long as the store.
func (s *sqlStore) stmt(ctx context.Context, db *sqlkit.DB, text string) (*sqlkit.Stmt, error) {
	return s.stmts.Get(ctx, db, text)
}

const selectOne = "SELECT " + columns + " FROM sync_items WHERE id = ?"

func (s *sqlStore) Get(ctx context.Context, id string) (rec Record, err error) {
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

// fitting returns how many ids, keys or entries one statement may be about: of n, or of as many as
// there are places for, a power of two, where packets are small.
func (s *sqlStore) fitting(n int) int {
	s.mu.Lock()
	fit := s.packet / 4 / idBytes
	s.mu.Unlock()
	if fit >= int64(n) || fit == 0 { // 0: not known yet
		return n
	}
	return 1 << (bits.Len64(uint64(fit)) - 1)
}

// chunkLimit is how many bytes of contents one statement may write.
func (s *sqlStore) chunkLimit() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return min(chunkBytes, s.packet/4)
}

// lookup reads columns of the rows of ids, maxLookup at a time. A statement is prepared for
// the next power of two: the last id fills the places that are left. fn may see a row twice.
func (s *sqlStore) lookup(ctx context.Context, op, columns string, ids []string, fn func(*sql.Rows) error) error {
	for len(ids) > 0 {
		n := min(len(ids), s.fitting(maxLookup))
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
	err := s.stmts.Close()
	if s.owned {
		err = errors.Join(err, s.pools.Close())
	}
	if s.dialect == sqlkit.MySQL { // what has ended before, in an outage, is closed as well
		return nil
	}
	return err
}
