package main

// storage.go is what the catalogue asks of SQL, which has the truth, and of Redis, which has
// copies.

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/singleflight"
)

const (
	pageRows = 100              // of a listing, and of the log
	cacheFor = 10 * time.Minute // how long Redis keeps a copy at most
	askFor   = 5 * time.Second  // how long SQL may take to load one
)

// A deleted product stays for a day, so that its versions go on where they were.
const productsTable = `CREATE TABLE IF NOT EXISTS products (
	sku VARBINARY(500) PRIMARY KEY,
	doc MEDIUMBLOB NULL,
	version BIGINT NOT NULL,
	deleted_at DATETIME NULL,
	KEY (deleted_at))`

const viewsTable = `CREATE TABLE IF NOT EXISTS views (
	sku VARBINARY(500) PRIMARY KEY,
	n BIGINT NOT NULL)`

const cartsTable = `CREATE TABLE IF NOT EXISTS carts (
	id VARBINARY(500) PRIMARY KEY,
	doc MEDIUMBLOB NOT NULL,
	version BIGINT NOT NULL,
	expires_at DATETIME(6) NOT NULL,
	KEY (expires_at))`

const (
	changesTable = `CREATE TABLE IF NOT EXISTS changes (
	number BIGINT PRIMARY KEY,
	sku VARBINARY(500) NOT NULL,
	at DATETIME NOT NULL,
	KEY (at))`
	headTable = `CREATE TABLE IF NOT EXISTS changes_head (
	id TINYINT PRIMARY KEY,
	last BIGINT NOT NULL,
	trimmed BIGINT NOT NULL)`
	headRow = `INSERT IGNORE INTO changes_head VALUES (1, 0, 0)`
)

type storage struct {
	db    *sql.DB
	redis *redis.Client
	loads singleflight.Group
}

// openStorage takes a DSN of go-sql-driver and a URL of go-redis.
func openStorage(ctx context.Context, dsn, redisURL string) (*storage, error) {
	cfg, err := mysql.ParseDSN(dsn)
	if err != nil {
		return nil, err
	}
	cfg.Timeout, cfg.ReadTimeout, cfg.WriteTimeout = 2*time.Second, 10*time.Second, 10*time.Second
	cfg.InterpolateParams = true // one round trip for a statement
	cfg.ClientFoundRows = true   // an UPDATE counts the rows it finds
	cfg.Params = map[string]string{"time_zone": "'+00:00'", "innodb_lock_wait_timeout": "5"}
	opts, err := redis.ParseURL(redisURL)
	if err != nil {
		return nil, err
	}
	opts.DialTimeout, opts.ReadTimeout, opts.WriteTimeout = time.Second, 250*time.Millisecond, 250*time.Millisecond
	opts.MaxRetries, opts.DialerRetries = 1, 1 // MariaDB can answer
	connector, err := mysql.NewConnector(cfg)
	if err != nil {
		return nil, err
	}
	s := &storage{db: sql.OpenDB(connector), redis: redis.NewClient(opts)}
	s.db.SetMaxOpenConns(32)
	s.db.SetMaxIdleConns(32)
	s.db.SetConnMaxLifetime(5 * time.Minute)
	for _, statement := range []string{productsTable, viewsTable, cartsTable, changesTable, headTable, headRow} {
		if _, err := s.db.ExecContext(ctx, statement); err != nil {
			return nil, errors.Join(err, s.close())
		}
	}
	return s, nil
}

func (s *storage) close() error { return errors.Join(s.db.Close(), s.redis.Close()) }

// document is what an id has in SQL. Versions of an id only grow.
type document struct {
	id      string
	doc     []byte // nil: deleted
	version int64
	line    int // of an import
}

func newDocument(id string, v any) (document, error) {
	doc, err := json.Marshal(v)
	return document{id: id, doc: doc}, err
}

// transact runs fn in a transaction, and again if it was chosen to end a deadlock.
func (s *storage) transact(ctx context.Context, fn func(tx *sql.Tx) error) error {
	for try := 1; ; try++ {
		tx, err := s.db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		if err = fn(tx); err == nil {
			err = tx.Commit()
		}
		if err == nil {
			return nil
		}
		_ = tx.Rollback()
		var refused *mysql.MySQLError
		if !errors.As(err, &refused) || refused.Number != 1213 || try == 5 {
			return err
		}
		time.Sleep(rand.N(time.Duration(try) * 10 * time.Millisecond))
	}
}

type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// collect returns all rows of a query; fields are where the columns of one go.
func collect[T any](ctx context.Context, q querier, fields func(v *T) []any, query string, args ...any) (all []T, err error) {
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var v T
		if err := rows.Scan(fields(&v)...); err != nil {
			return nil, err
		}
		all = append(all, v)
	}
	return all, rows.Err()
}

// cached returns a document from Redis, or else from SQL, which is asked once however many wait.
// query selects doc, version, and for how many microseconds it is there, or NULL.
func cached[T any](ctx context.Context, s *storage, prefix, id, query string) (v T, err error) {
	key := prefix + id
	doc, err := s.redis.HGet(ctx, key, "doc").Bytes()
	if err != nil { // Redis has no copy, or is away
		load := s.loads.DoChan(key, func() (any, error) {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askFor) // others wait, too
			defer cancel()
			d, keep := document{id: id}, cacheFor
			var left *int64
			err := s.db.QueryRowContext(ctx, query, id).Scan(&d.doc, &d.version, &left)
			if errors.Is(err, sql.ErrNoRows) {
				return d.doc, nil
			}
			if left != nil {
				keep = min(keep, time.Duration(*left)*time.Microsecond)
			}
			if err == nil {
				s.remember(ctx, prefix, keep, d)
			}
			return d.doc, err
		})
		select {
		case <-ctx.Done():
			return v, ctx.Err()
		case loaded := <-load:
			if loaded.Err != nil {
				return v, loaded.Err
			}
			doc = loaded.Val.([]byte)
		}
	}
	if len(doc) == 0 {
		return v, errNotFound
	}
	return v, json.Unmarshal(doc, &v)
}

// keepNewer leaves what is as new in its place: who read SQL before a write may come to Redis after
// it. A delete is kept as an empty document, for the same reason.
const keepNewer = `
local version = redis.call('HGET', KEYS[1], 'version')
if version and tonumber(version) >= tonumber(ARGV[1]) then return 0 end
redis.call('HSET', KEYS[1], 'version', ARGV[1], 'doc', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1`

// remember has Redis keep copies, of what was written or read. If it can't, one of before is served
// until its time is over. They end at different times, so that not all are loaded at once.
func (s *storage) remember(ctx context.Context, prefix string, keep time.Duration, docs ...document) {
	ctx = context.WithoutCancel(ctx) // it is written, whether or not the client waits
	_, err := s.redis.Pipelined(ctx, func(p redis.Pipeliner) error {
		for _, d := range docs {
			s.loads.Forget(prefix + d.id)
			ttl := keep - rand.N(keep/10+1)
			p.Eval(ctx, keepNewer, []string{prefix + d.id}, d.version, d.doc, ttl.Milliseconds())
		}
		return nil
	})
	if err != nil {
		slog.Warn("Redis has not been told", "documents", len(docs), "err", err)
	}
}

const selectProduct = `SELECT doc, version, NULL FROM products WHERE sku = ?`

// storeProducts stores products, in one transaction. All lock rows in the order of SKUs, so that
// they don't wait for each other in a circle.
func (s *storage) storeProducts(ctx context.Context, docs []document) error {
	if len(docs) == 0 {
		return nil
	}
	slices.SortStableFunc(docs, func(a, b document) int { return strings.Compare(a.id, b.id) })
	var args []any
	for _, d := range docs {
		args = append(args, d.id, d.doc)
	}
	var stored []document
	err := s.transact(ctx, func(tx *sql.Tx) (err error) {
		stored, err = collect(ctx, tx, func(d *document) []any { return []any{&d.id, &d.doc, &d.version} },
			`INSERT INTO products (sku, doc, version) VALUES (?, ?, 1)`+strings.Repeat(`, (?, ?, 1)`, len(docs)-1)+
				` ON DUPLICATE KEY UPDATE doc = VALUES(doc), version = version + 1, deleted_at = NULL RETURNING sku, doc, version`, args...)
		if err != nil {
			return err
		}
		return logChanges(ctx, tx, docs...)
	})
	if err == nil {
		s.remember(ctx, "product.", cacheFor, stored...)
	}
	return err
}

// storeEach stores a batch, or, if SQL refuses what is in it, each document alone, to find out
// which.
func (s *storage) storeEach(ctx context.Context, batch []document, refuse func(line int, err error)) (stored int, err error) {
	err = s.storeProducts(ctx, batch)
	var refused *mysql.MySQLError
	if !errors.As(err, &refused) || !slices.Contains([]string{"22", "23"}, string(refused.SQLState[:2])) {
		if err == nil {
			stored = len(batch)
		}
		return stored, err
	}
	if len(batch) == 1 {
		refuse(batch[0].line, err)
		return 0, nil
	}
	for i := range batch {
		n, err := s.storeEach(ctx, batch[i:i+1], refuse)
		if stored += n; err != nil {
			return stored, err
		}
	}
	return stored, nil
}

func (s *storage) dropProduct(ctx context.Context, sku string) error {
	d := document{id: sku}
	err := s.transact(ctx, func(tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, `UPDATE products SET doc = NULL, version = LAST_INSERT_ID(version + 1), deleted_at = NOW()
			WHERE sku = ? AND doc IS NOT NULL`, sku)
		if err != nil {
			return err
		}
		if d.version, err = res.LastInsertId(); err != nil { // it is 0 if there was none
			return err
		}
		return logChanges(ctx, tx, d)
	})
	if err == nil {
		s.remember(ctx, "product.", cacheFor, d)
	}
	return err
}

func (s *storage) productsAfter(ctx context.Context, sku string) ([]document, error) {
	return collect(ctx, s.db, func(d *document) []any { return []any{&d.id, &d.doc} },
		`SELECT sku, doc FROM products WHERE sku > ? AND doc IS NOT NULL ORDER BY sku LIMIT ?`, sku, pageRows)
}

func (s *storage) countView(ctx context.Context, sku string) (n int, err error) {
	err = s.db.QueryRowContext(ctx, `INSERT INTO views VALUES (?, 1) ON DUPLICATE KEY UPDATE n = n + 1 RETURNING n`, sku).Scan(&n)
	return n, err
}

// Times are those of SQL's clock alone.
const selectCart = `SELECT doc, version, TIMESTAMPDIFF(MICROSECOND, NOW(6), expires_at) FROM carts WHERE id = ? AND expires_at > NOW(6)`

func (s *storage) storeCart(ctx context.Context, d document, ttl time.Duration) error {
	err := s.db.QueryRowContext(ctx, `INSERT INTO carts VALUES (?, ?, 1, NOW(6) + INTERVAL ? SECOND)
		ON DUPLICATE KEY UPDATE doc = VALUES(doc), version = version + 1, expires_at = VALUES(expires_at) RETURNING version`,
		d.id, d.doc, ttl.Seconds()).Scan(&d.version)
	if err == nil {
		s.remember(ctx, "cart.", min(cacheFor, ttl), d)
	}
	return err
}

// touchCart leaves a copy in Redis alone: that one ends earlier, and is loaded again.
func (s *storage) touchCart(ctx context.Context, id string, ttl time.Duration) error {
	res, err := s.db.ExecContext(ctx, `UPDATE carts SET expires_at = NOW(6) + INTERVAL ? SECOND WHERE id = ? AND expires_at > NOW(6)`, ttl.Seconds(), id)
	if err != nil {
		return err
	}
	n, err := res.RowsAffected()
	if err == nil && n == 0 {
		err = errNotFound
	}
	return err
}

// logChanges numbers changes, as the last thing in a transaction. It holds the row of the last
// number until the commit, so that numbers are seen in order: who has seen one misses none below.
// Writers wait here for each other's commits; that is the price.
func logChanges(ctx context.Context, tx *sql.Tx, docs ...document) error {
	res, err := tx.ExecContext(ctx, `UPDATE changes_head SET last = LAST_INSERT_ID(last + ?)`, len(docs))
	if err != nil {
		return err
	}
	last, err := res.LastInsertId()
	if err != nil {
		return err
	}
	var args []any
	for i, d := range docs {
		args = append(args, last-int64(len(docs)-1-i), d.id)
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO changes VALUES (?, ?, NOW())`+strings.Repeat(`, (?, ?, NOW())`, len(docs)-1), args...)
	return err
}

var errTrimmed = errors.New("the log does not go back that far")

// placeInLog is the number that an event had, or the last one if token is empty.
func (s *storage) placeInLog(ctx context.Context, token string) (at int64, err error) {
	if token == "" {
		err = s.db.QueryRowContext(ctx, `SELECT last FROM changes_head`).Scan(&at)
		return at, err
	}
	if at, err = strconv.ParseInt(token, 10, 64); err != nil {
		at = -1 // before all
	}
	return at, nil
}

type change struct {
	number int64
	document
}

// changesAfter returns a page of the log, with what the products are now. One statement sees the
// log and how far it was trimmed as they are at one moment.
func (s *storage) changesAfter(ctx context.Context, at int64) ([]change, error) {
	var last, trimmed int64
	page, err := collect(ctx, s.db, func(c *change) []any { return []any{&last, &trimmed, &c.number, &c.id, &c.doc} },
		`SELECT h.last, h.trimmed, COALESCE(c.number, 0), COALESCE(c.sku, ''), p.doc FROM changes_head h
		LEFT JOIN (SELECT number, sku FROM changes WHERE number > ? ORDER BY number LIMIT ?) c ON TRUE
		LEFT JOIN products p ON p.sku = c.sku ORDER BY c.number`, at, pageRows)
	if err == nil && (at < trimmed || at > last) {
		err = errTrimmed
	}
	return slices.DeleteFunc(page, func(c change) bool { return c.number == 0 }), err // of an empty log
}

// purge removes what is over, each minute, in small transactions. All replicas do.
func (s *storage) purge(ctx context.Context) {
	for {
		for _, statement := range []string{
			`DELETE FROM carts WHERE expires_at < NOW() - INTERVAL 1 HOUR LIMIT 1000`, // no copy in Redis is left
			`DELETE FROM products WHERE deleted_at < NOW() - INTERVAL 1 DAY LIMIT 1000`,
			`UPDATE changes_head SET trimmed = GREATEST(trimmed, (SELECT COALESCE(MAX(number), 0) FROM changes WHERE at < NOW() - INTERVAL 1 DAY))`,
			`DELETE FROM changes WHERE number <= (SELECT trimmed FROM changes_head) LIMIT 1000`,
		} {
			for n := int64(1000); n == 1000; {
				res, err := s.db.ExecContext(ctx, statement)
				if err != nil {
					slog.Warn("purging", "err", err)
					break
				}
				n, _ = res.RowsAffected()
			}
		}
		select {
		case <-time.After(time.Minute):
		case <-ctx.Done():
			return
		}
	}
}
