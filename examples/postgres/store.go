package postgres

// store.go reads and writes the rows of sync_items.
//
// Ids, contents and the fields that are carried along are BYTEA: TEXT takes no byte 0, and orders
// by a collation. The order of records is one comparison of rows in SQL: false is below true, and
// BYTEA is compared byte by byte. A tombstone has 32 zero bytes as its hash, so that two of one
// version are equal.

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"slices"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // driver "pgx"
	"github.com/syncengine-go/syncengine"
)

var schema = []string{
	"SELECT pg_advisory_xact_lock(7310033)", // CREATE ... IF NOT EXISTS fails when two do it at once
	`CREATE TABLE IF NOT EXISTS sync_items (
	id            BYTEA NOT NULL PRIMARY KEY,
	version       BIGINT NOT NULL,
	updated_at    BIGINT NOT NULL, -- unix nanoseconds
	deleted       BOOLEAN NOT NULL,
	content_hash  BYTEA NOT NULL,
	content       BYTEA,           -- NULL if deleted
	priority      SMALLINT NOT NULL,
	crdt          BYTEA NOT NULL,
	trace_parent  BYTEA NOT NULL,
	trace_state   BYTEA NOT NULL,
	home_instance BYTEA NOT NULL,
	expires_at    BIGINT           -- unix milliseconds, NULL for never
)`,
	"ALTER TABLE sync_items ADD COLUMN IF NOT EXISTS expires_at BIGINT", // of tables of before
	`CREATE INDEX IF NOT EXISTS sync_items_expires ON sync_items (expires_at) WHERE expires_at IS NOT NULL`,
	`CREATE INDEX IF NOT EXISTS sync_items_deleted ON sync_items (updated_at) WHERE deleted`,
	`CREATE TABLE IF NOT EXISTS sync_nonces (
	store  BYTEA NOT NULL,
	nonce  BIGINT NOT NULL,
	landed BOOLEAN NOT NULL,
	PRIMARY KEY (store, nonce)
)`,
}

const (
	columns     = "id, version, updated_at, deleted, content_hash, content, priority, crdt, trace_parent, trace_state, home_instance, expires_at"
	headColumns = "id, version, deleted, content_hash, expires_at"

	// upsert returns the ids it wrote. It locks the other rows too, although it leaves them alone.
	upsert = `INSERT INTO sync_items (` + columns + `)
SELECT * FROM unnest($1::bytea[], $2::bigint[], $3::bigint[], $4::boolean[], $5::bytea[], $6::bytea[], $7::smallint[],
	$8::bytea[], $9::bytea[], $10::bytea[], $11::bytea[], $12::bigint[])
ON CONFLICT (id) DO UPDATE SET version = excluded.version, updated_at = excluded.updated_at, deleted = excluded.deleted,
	content_hash = excluded.content_hash, content = excluded.content, priority = excluded.priority, crdt = excluded.crdt,
	trace_parent = excluded.trace_parent, trace_state = excluded.trace_state, home_instance = excluded.home_instance,
	expires_at = excluded.expires_at
WHERE (sync_items.version, sync_items.deleted, sync_items.content_hash) < (excluded.version, excluded.deleted, excluded.content_hash)
RETURNING id`

	purge = `DELETE FROM sync_items WHERE id IN
	(SELECT id FROM sync_items WHERE deleted AND updated_at < $1 LIMIT $2 FOR UPDATE SKIP LOCKED)`

	// list is a page: of at most $4 rows those before which there is less than $5 of content. The
	// server cuts it: what the driver does not read is sent all the same.
	list = `SELECT ` + columns + ` FROM (
	SELECT *, sum(coalesce(length(content), 0)) OVER (ORDER BY id) - coalesce(length(content), 0) AS before FROM (
		SELECT ` + columns + ` FROM sync_items WHERE id > $1 AND id >= $2 AND ($3::bytea IS NULL OR id < $3) ORDER BY id LIMIT $4) AS page
	) AS sized WHERE before < $5 ORDER BY id`

	// One statement holds at most so many rows, and so much content unless one row has more.
	chunkRows, chunkBytes = 1000, 8 << 20
)

// Store keeps items in the tables sync_items and sync_nonces of a Postgres database. Use New.
type Store struct {
	db   *sql.DB
	self []byte // whose nonces are ours
}

var (
	_ syncengine.ConditionalStore = (*Store)(nil)
	_ syncengine.ExpiringStore    = (*Store)(nil)
	_ syncengine.ListingStore     = (*Store)(nil)
)

// New returns a store on a URL like postgres://user:password@host:5432/database. It does not
// connect: Prepare does. An error means that the URL is not understood.
func New(url string) (*Store, error) {
	db, err := sql.Open("pgx", url)
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(16)
	db.SetMaxIdleConns(16)
	self := make([]byte, 16)
	_, _ = rand.Read(self) // never fails
	return &Store{db, self}, nil
}

// Prepare creates the tables if they are missing.
func (s *Store) Prepare(ctx context.Context) error {
	return s.run(ctx, "prepare", func() error {
		return s.inTx(ctx, func(tx *sql.Tx) error {
			for _, statement := range schema {
				if _, err := tx.ExecContext(ctx, statement); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

// Get returns the record of id.
func (s *Store) Get(ctx context.Context, id string) (syncengine.Record, error) {
	found, err := s.GetMany(ctx, []string{id})
	switch {
	case err != nil:
		return syncengine.Record{}, err
	case found[0].Err != nil:
		return syncengine.Record{}, found[0].Err
	case !found[0].OK:
		return syncengine.Record{}, syncengine.ErrNotFound
	}
	return found[0].Record, nil
}

// GetMany answers all ids, aligned with them.
func (s *Store) GetMany(ctx context.Context, ids []string) ([]syncengine.Found, error) {
	var rows map[string]syncengine.Found
	err := s.run(ctx, "get", func() error {
		rows = make(map[string]syncengine.Found, len(ids))
		return query(ctx, s.db, func(r *sql.Rows) error {
			found, _, err := scanRecord(r)
			rows[found.Record.ID] = found
			return err
		}, "SELECT "+columns+" FROM sync_items WHERE id = ANY($1::bytea[])", keys(ids))
	})
	if err != nil {
		return nil, err
	}
	out := make([]syncengine.Found, len(ids))
	for i, id := range ids {
		out[i] = rows[id]
	}
	return out, nil
}

// Heads returns the rows of ids without content.
func (s *Store) Heads(ctx context.Context, ids []string) (heads []syncengine.Meta, err error) {
	err = s.run(ctx, "heads", func() (err error) {
		heads, err = s.heads(ctx, s.db, keys(ids))
		return err
	})
	return heads, err
}

// Apply writes the records that are above their rows, in one transaction.
func (s *Store) Apply(ctx context.Context, recs []syncengine.Record) (above []syncengine.Meta, err error) {
	recs = inOrder(recs)
	err = s.run(ctx, "apply", func() error {
		return s.inTx(ctx, func(tx *sql.Tx) (err error) {
			above, err = s.write(ctx, tx, recs)
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	return above, nil
}

// Scan returns rows in byte order of the id.
func (s *Store) Scan(ctx context.Context, after string, limit int) (page []syncengine.Meta, err error) {
	err = s.run(ctx, "scan", func() error {
		page = nil
		return query(ctx, s.db, func(r *sql.Rows) error {
			m, err := scanHead(r)
			page = append(page, m)
			return err
		}, "SELECT "+headColumns+" FROM sync_items WHERE id > $1 ORDER BY id LIMIT $2", []byte(after), limit)
	})
	return page, err
}

// List returns rows whose ids begin with prefix, with content, in byte order of the id. Each page
// is a query of its own: nothing is held open between two.
func (s *Store) List(ctx context.Context, prefix, after string, limit int, maxBytes int64) (page []syncengine.Found, more bool, err error) {
	// At least one row: of a page of no bytes it is the row that reaches them.
	args := []any{[]byte(after), []byte(prefix), above(prefix), limit, max(maxBytes, 1)}
	err = s.run(ctx, "list", func() error {
		page, more = nil, false
		bytes := int64(0)
		return query(ctx, s.db, func(r *sql.Rows) error {
			f, size, err := scanRecord(r)
			page, bytes = append(page, f), bytes+size
			more = len(page) == limit || bytes >= maxBytes
			return err
		}, list, args...)
	})
	return page, more, err
}

// above is the lowest string above all that begin with prefix, nil if there is none.
func above(prefix string) []byte {
	end := []byte(prefix)
	for len(end) > 0 && end[len(end)-1] == 0xff {
		end = end[:len(end)-1]
	}
	if len(end) == 0 {
		return nil
	}
	end[len(end)-1]++
	return end
}

// Expired returns live rows whose time has come.
func (s *Store) Expired(ctx context.Context, at time.Time, limit int) (due []syncengine.Meta, err error) {
	err = s.run(ctx, "expired", func() error {
		due = nil
		return query(ctx, s.db, func(r *sql.Rows) error {
			m, err := scanHead(r)
			due = append(due, m)
			return err
		}, "SELECT "+headColumns+" FROM sync_items WHERE expires_at <= $1 AND NOT deleted ORDER BY expires_at LIMIT $2", at.UnixMilli(), limit)
	})
	return due, err
}

// PurgeTombstones removes old tombstones. It leaves alone those that somebody writes over just now.
func (s *Store) PurgeTombstones(ctx context.Context, before time.Time, limit int) (n int, err error) {
	err = s.run(ctx, "purge", func() error {
		res, err := s.db.ExecContext(ctx, purge, before.UnixNano(), limit)
		if err != nil {
			return err
		}
		rows, err := res.RowsAffected()
		n = int(rows)
		return err
	})
	return n, err
}

// Ping reports whether the server answers.
func (s *Store) Ping(ctx context.Context) error {
	var one int
	return s.run(ctx, "ping", func() error { return s.db.QueryRowContext(ctx, "SELECT 1").Scan(&one) })
}

// Close closes all connections.
func (s *Store) Close() error { return s.db.Close() }

// inOrder sorts by id: transactions that lock rows in one order don't deadlock.
func inOrder(recs []syncengine.Record) []syncengine.Record {
	recs = slices.Clone(recs)
	slices.SortFunc(recs, func(a, b syncengine.Record) int { return cmp.Compare(a.ID, b.ID) })
	return recs
}

// write writes records in their order, and returns the rows that are above them.
func (s *Store) write(ctx context.Context, tx *sql.Tx, recs []syncengine.Record) (above []syncengine.Meta, err error) {
	for len(recs) > 0 {
		n, size := 0, 0
		for n < len(recs) && n < chunkRows && (n == 0 || size+len(recs[n].Content) <= chunkBytes) {
			size += len(recs[n].Content)
			n++
		}
		left := make(map[string]*syncengine.Record, n)
		for i := range recs[:n] {
			left[recs[i].ID] = &recs[i]
		}
		err := query(ctx, tx, func(r *sql.Rows) error {
			var id []byte
			err := r.Scan(&id)
			delete(left, string(id))
			return err
		}, upsert, arrays(recs[:n])...)
		if err != nil {
			return nil, err
		}
		if len(left) > 0 { // their rows are locked: what is read is what they were compared with
			ids := make([][]byte, 0, len(left))
			for id := range left {
				ids = append(ids, []byte(id))
			}
			heads, err := s.heads(ctx, tx, ids)
			if err != nil {
				return nil, err
			}
			for _, m := range heads {
				if m.Outranks(left[m.ID]) {
					above = append(above, m)
				}
			}
		}
		recs = recs[n:]
	}
	return above, nil
}

// arrays are the parameters of upsert.
func arrays(recs []syncengine.Record) []any {
	n := len(recs)
	bin := func() [][]byte { return make([][]byte, n) }
	id, hash, content, crdt, parent, state, home := bin(), bin(), bin(), bin(), bin(), bin(), bin()
	version, updated, priority, deleted := make([]int64, n), make([]int64, n), make([]int16, n), make([]bool, n)
	expires := make([]*int64, n)
	for i := range recs {
		r := &recs[i]
		id[i], version[i], updated[i], deleted[i], priority[i] = []byte(r.ID), int64(r.Version), r.UpdatedAt.UnixNano(), r.Deleted, int16(r.Priority)
		crdt[i], parent[i], state[i], home[i] = []byte(r.CRDT), []byte(r.TraceParent), []byte(r.TraceState), []byte(r.HomeInstanceID)
		if hash[i] = make([]byte, sha256.Size); !r.Deleted {
			hash[i], content[i] = r.ContentHash[:], r.Content
			if !r.ExpiresAt.IsZero() {
				ms := r.ExpiresAt.UnixMilli()
				expires[i] = &ms
			}
		}
	}
	return []any{id, version, updated, deleted, hash, content, priority, crdt, parent, state, home, expires}
}

// querier is a database or a transaction.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// query calls fn for each row.
func query(ctx context.Context, q querier, fn func(*sql.Rows) error, text string, args ...any) error {
	rows, err := q.QueryContext(ctx, text, args...)
	if err != nil {
		return err
	}
	for err == nil && rows.Next() {
		err = fn(rows)
	}
	return errors.Join(err, rows.Err(), rows.Close())
}

func (s *Store) heads(ctx context.Context, q querier, ids [][]byte) (heads []syncengine.Meta, err error) {
	err = query(ctx, q, func(r *sql.Rows) error {
		m, err := scanHead(r)
		heads = append(heads, m)
		return err
	}, "SELECT "+headColumns+" FROM sync_items WHERE id = ANY($1::bytea[])", ids)
	return heads, err
}

func keys(ids []string) [][]byte {
	out := make([][]byte, len(ids))
	for i, id := range ids {
		out[i] = []byte(id)
	}
	return out
}

func scanHead(r *sql.Rows) (m syncengine.Meta, err error) {
	var id, hash []byte
	var version int64
	var expires sql.NullInt64
	err = r.Scan(&id, &version, &m.Deleted, &hash, &expires)
	m.ExpiresAt = expiry(expires)
	copy(m.ContentHash[:], hash)
	m.ID, m.Version = string(id), uint64(max(version, 0))
	return m, err
}

func expiry(ms sql.NullInt64) time.Time {
	if !ms.Valid {
		return time.Time{}
	}
	return time.UnixMilli(ms.Int64).UTC()
}

// scanRecord reads a row and compares its content with its hash. size is that of the content, also
// of a row that is damaged.
func scanRecord(r *sql.Rows) (f syncengine.Found, size int64, err error) {
	var id, hash, content, crdt, parent, state, home []byte
	var version, updated int64
	var priority int16
	var expires sql.NullInt64
	rec := &f.Record
	if err = r.Scan(&id, &version, &updated, &rec.Deleted, &hash, &content, &priority, &crdt, &parent, &state, &home, &expires); err != nil {
		return f, 0, err
	}
	rec.ID, rec.Version, rec.UpdatedAt, rec.Priority = string(id), uint64(version), time.Unix(0, updated).UTC(), syncengine.Priority(priority)
	rec.ExpiresAt = expiry(expires)
	rec.CRDT, rec.TraceParent, rec.TraceState, rec.HomeInstanceID = string(crdt), string(parent), string(state), string(home)
	if !rec.Deleted {
		rec.Content, rec.ContentHash = content, sha256.Sum256(content)
		if !bytes.Equal(hash, rec.ContentHash[:]) {
			f.Err = &syncengine.CorruptionError{ID: rec.ID, Tier: "L3", Expected: hex.EncodeToString(hash), Actual: hex.EncodeToString(rec.ContentHash[:])}
		}
	}
	if f.Err == nil && version < 1 {
		f.Err = &syncengine.CorruptionError{ID: rec.ID, Tier: "L3", Expected: "a version", Actual: "none"}
	}
	f.OK = f.Err == nil
	return f, int64(len(content)), nil
}
