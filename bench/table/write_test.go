package table

// write_test.go are the rows about writes, from Submit until the log, SQL and Redis hold them.

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/syncengine-go/syncengine"
)

var spooled = flag.Int("spooled", 200_000, "ops that wait in the log for a drain")

const (
	batch    = 1000
	ingested = 100_000 // writes of a measurement, to half as many ids
	applies  = 50_000  // rows of a measurement of batches
	callers  = 64
)

var writeRows = []row{
	{work: "Submit, Logged, one caller, beside an append and fdatasync", goal: 1.15, ours: logged(1, 3000), theirs: appendAndSync},
	{work: "Submit, Logged, 64 callers, beside SQLite upserts at 1000 a transaction", goal: 1 / .7, ours: logged(callers, ingested), theirs: sqliteUpserts(ingested)},
	{work: "Ingest until SQLite holds it, Logged, beside those upserts", ours: ingest(syncengine.Logged, newSQLite, nil, callers, 1), theirs: sqliteUpserts(ingested)},
	{work: "Ingest until MariaDB and Redis hold it, Logged, beside the overlapped loop", goal: 1 / .8, ours: ingest(syncengine.Logged, newMariaDB, newRedis, callers, 1), theirs: overlapped},
	{work: "The same in groups of 1000, two callers", goal: 1 / .8, ours: ingest(syncengine.Logged, newMariaDB, newRedis, 2, batch), theirs: overlapped},
	{work: "Ingest until MariaDB and Redis hold it, Buffered, beside the overlapped loop", goal: 1 / .8, ours: ingest(syncengine.Buffered, newMariaDB, newRedis, callers, 1), theirs: overlapped},
	{work: "Ingest beside another engine, Logged, MariaDB and Redis, with messages beside NoPush", ours: told(false), theirs: told(true)},
	{work: "MariaDB, batch of 1000, new rows, beside a multi-row upsert with a condition", goal: 1 / .9, ours: applied(false), theirs: upserted(false, applies)},
	{work: "MariaDB, batch of 1000, rows that are there, beside that upsert", goal: 1 / .9, ours: applied(true), theirs: upserted(true, applies)},
	{work: "MariaDB, drain of spooled ops, beside that upsert", goal: 1 / .8, rounds: 3, ours: drained, theirs: func(t *testing.T) time.Duration { return upserted(false, *spooled)(t) }},
	{work: "Submit, Logged, 10,000 callers, beside 64 callers", goal: 1.2, ours: logged(10_000, ingested), theirs: logged(callers, ingested)},
	{work: "SubmitMany of 1000, Logged, for an item, beside Submit with 64 callers", goal: 1, ours: grouped(batch, ingested), theirs: logged(callers, ingested)},
	{work: "Submit of 1 MB, Logged, 4 callers, beside an append of that and fdatasync", ours: sized(large, largeCount), theirs: appendLarge},
	{work: "A write of one id that is in flight, beside a write of any, Buffered", goal: 1.2, ours: hot(1), theirs: hot(cached)},
}

// nowhere is an L3 that takes everything and keeps nothing, for what comes before L3.
type nowhere struct{ syncengine.ArchiveStore }

func (nowhere) Prepare(context.Context) error                              { return nil }
func (nowhere) Ping(context.Context) error                                 { return nil }
func (nowhere) Close() error                                               { return nil }
func (nowhere) Heads(context.Context, []string) ([]syncengine.Meta, error) { return nil, nil }
func (nowhere) Get(context.Context, string) (r syncengine.Record, err error) {
	return r, syncengine.ErrNotFound
}
func (nowhere) GetMany(_ context.Context, ids []string) ([]syncengine.Found, error) {
	return make([]syncengine.Found, len(ids)), nil
}
func (nowhere) Apply(context.Context, []syncengine.Record) ([]syncengine.Meta, error) {
	return nil, nil
}
func (nowhere) Scan(context.Context, string, int) ([]syncengine.Meta, error) { return nil, nil }
func (nowhere) PurgeTombstones(context.Context, time.Time, int) (int, error) { return 0, nil }

func logged(callers, n int) func(t *testing.T) time.Duration {
	return func(t *testing.T) time.Duration {
		e := open(t, syncengine.Config{L1MaxBytes: 1 << 30, Durability: syncengine.Logged, L3: nowhere{}})
		defer whole(t, e)
		ids := idsOf(ingested / 2)
		return each(t, callers, n, func(i int64) error {
			return e.Submit(ctx, syncengine.Item{ID: ids[scattered(i, len(ids))], Content: document})
		})
	}
}

// grouped submits n items in groups from one caller.
func grouped(group, n int) func(t *testing.T) time.Duration {
	return func(t *testing.T) time.Duration {
		e := open(t, syncengine.Config{L1MaxBytes: 1 << 30, Durability: syncengine.Logged, L3: nowhere{}})
		defer whole(t, e)
		ids := idsOf(ingested / 2)
		return each(t, 1, n/group, func(i int64) error { return submitGroup(e, ids, i, group) }) / time.Duration(group)
	}
}

// submitGroup submits the n-th of the groups of so many.
func submitGroup(e *syncengine.Engine, ids []string, n int64, size int) error {
	items := make([]syncengine.Item, size)
	for k := range items {
		items[k] = syncengine.Item{ID: ids[scattered(n*int64(size)+int64(k), len(ids))], Content: document}
	}
	_, err := e.SubmitMany(ctx, items)
	return err
}

// text is JSON of so many bytes.
func text(size int) []byte {
	return []byte(`"` + strings.Repeat("lorem ipsum ", size/12+1)[:size-2] + `"`)
}

const (
	large      = 1 << 20
	largeCount = 200
)

// sized submits n documents of a size from four callers.
func sized(size, n int) func(t *testing.T) time.Duration {
	return func(t *testing.T) time.Duration {
		e := open(t, syncengine.Config{L1MaxBytes: 1 << 30, Durability: syncengine.Logged, L3: nowhere{}, MaxItemBytes: 2 << 20, WALMaxBytes: 2 << 30})
		defer whole(t, e)
		ids, content := idsOf(n), text(size)
		return each(t, 4, n, func(i int64) error { return e.Submit(ctx, syncengine.Item{ID: ids[i], Content: content}) })
	}
}

func appendLarge(t *testing.T) time.Duration {
	f := must[*os.File](t)(os.Create(t.TempDir() + "/log"))
	defer func() { _ = f.Close() }()
	content := text(large)
	return each(t, 1, largeCount, func(int64) error {
		if _, err := f.Write(content); err != nil {
			return err
		}
		return datasync(f)
	})
}

func appendAndSync(t *testing.T) time.Duration {
	f := must[*os.File](t)(os.Create(t.TempDir() + "/log"))
	defer func() { _ = f.Close() }()
	ok(t, f.Truncate(16<<20)) // as a log that is written over again: its length stays
	page := bytes.Repeat([]byte{1}, 4096)
	return each(t, 1, 3000, func(n int64) error {
		if _, err := f.WriteAt(page, n*4096); err != nil {
			return err
		}
		return datasync(f)
	})
}

func sqliteUpserts(n int) func(t *testing.T) time.Duration {
	return func(t *testing.T) time.Duration {
		db := openSQLite(t, t.TempDir()+"/upserts.db")
		must[sql.Result](t)(db.Exec("CREATE TABLE items (id TEXT PRIMARY KEY, version INTEGER, content BLOB) WITHOUT ROWID"))
		ids := idsOf(n / 2)
		start := time.Now()
		for i := 0; i < n; i += batch {
			tx := must[*sql.Tx](t)(db.Begin())
			st := must[*sql.Stmt](t)(tx.Prepare("INSERT INTO items VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE SET version = excluded.version, content = excluded.content WHERE excluded.version > version"))
			for k := i; k < i+batch; k++ {
				must[sql.Result](t)(st.Exec(ids[scattered(int64(k), len(ids))], k+1, document))
			}
			ok(t, tx.Commit())
		}
		return time.Since(start) / time.Duration(n)
	}
}

// ingest submits from so many callers, one item at a time or a group, until all is where it
// belongs.
func ingest(d syncengine.Durability, sqlURL, redisURL func(t *testing.T) string, callers, group int) func(t *testing.T) time.Duration {
	return func(t *testing.T) time.Duration {
		cfg := syncengine.Config{SQLURL: sqlURL(t), Durability: d}
		if redisURL != nil {
			cfg.RedisURL = redisURL(t)
		}
		e := open(t, cfg)
		defer whole(t, e)
		settle(t, e)
		ids := idsOf(ingested / 2)
		start := time.Now()
		each(t, callers, ingested/group, func(n int64) error {
			if group == 1 {
				return e.Submit(ctx, syncengine.Item{ID: ids[scattered(n, len(ids))], Content: document})
			}
			return submitGroup(e, ids, n, group)
		})
		ok(t, e.Flush(ctx))
		took := time.Since(start) / ingested
		if redisURL != nil {
			inRedis(t, len(ids))
		}
		n := 0
		for _, err := range e.All(ctx, "") {
			ok(t, err)
			n++
		}
		if n != len(ids) {
			t.Fatalf("%d items, want %d", n, len(ids))
		}
		return took
	}
}

// told is an ingest while another engine is there, which is told of each write or finds it in the
// log.
func told(noPush bool) func(t *testing.T) time.Duration {
	return func(t *testing.T) time.Duration {
		sqlURL, redisURL := newMariaDB(t), newRedis(t)
		other := open(t, syncengine.Config{SQLURL: sqlURL, RedisURL: redisURL, NoPush: noPush})
		defer whole(t, other)
		cfg := syncengine.Config{SQLURL: sqlURL, RedisURL: redisURL, NoPush: noPush, Durability: syncengine.Logged}
		e := open(t, cfg)
		defer whole(t, e)
		ok(t, e.Submit(ctx, syncengine.Item{ID: "first", Content: document}, syncengine.WithDurability(syncengine.Archived)))
		ids := idsOf(ingested / 2)
		start := time.Now()
		each(t, callers, ingested, func(n int64) error {
			return e.Submit(ctx, syncengine.Item{ID: ids[scattered(n, len(ids))], Content: document})
		})
		ok(t, e.Flush(ctx))
		return time.Since(start) / ingested
	}
}

// write is one of the loops by hand.
type write struct {
	id      string
	version int64
}

// batches are the writes of a measurement, as loops by hand take them.
func batches(n, ids int) (all [][]write) {
	names := idsOf(ids)
	for i := 0; i < n; i += batch {
		var b []write
		for k := i; k < i+batch; k++ {
			b = append(b, write{names[scattered(int64(k), ids)], int64(k + 1)})
		}
		all = append(all, b)
	}
	return all
}

const newTable = `CREATE TABLE items (id VARBINARY(512) NOT NULL PRIMARY KEY, version BIGINT NOT NULL, updated_at BIGINT NOT NULL,
	content_hash BINARY(32) NOT NULL, content LONGBLOB NOT NULL) ENGINE=InnoDB`

// upsert is prepared once, for a batch. What is not newer than its row is not written.
var upsert = "INSERT INTO items (id, version, updated_at, content_hash, content) VALUES " +
	strings.Repeat("(?,?,?,?,?),", batch-1) + `(?,?,?,?,?) ON DUPLICATE KEY UPDATE
	updated_at = IF(VALUES(version) > version, VALUES(updated_at), updated_at),
	content_hash = IF(VALUES(version) > version, VALUES(content_hash), content_hash),
	content = IF(VALUES(version) > version, VALUES(content), content),
	version = GREATEST(version, VALUES(version))`

func upsertArgs(b []write) []any {
	args := make([]any, 0, 5*batch)
	for _, w := range b {
		sum := sha256.Sum256(document)
		args = append(args, w.id, w.version, time.Now().UnixNano(), sum[:], document)
	}
	return args
}

// overlapped is the loop that overlaps the three: while a batch is in SQL, the next one is logged,
// and the one before is in Redis.
func overlapped(t *testing.T) time.Duration {
	url := newMariaDB(t)
	db := openMySQL(t, url)
	must[sql.Result](t)(db.Exec(newTable))
	st := must[*sql.Stmt](t)(db.Prepare(upsert))
	newRedis(t)
	rdb := redisClient(t)
	log := openSQLite(t, t.TempDir()+"/log.db")
	must[sql.Result](t)(log.Exec("CREATE TABLE log (n INTEGER PRIMARY KEY, ops BLOB)"))
	add := must[*sql.Stmt](t)(log.Prepare("INSERT INTO log VALUES (?, ?)"))
	all := batches(ingested, ingested/2)

	start := time.Now()
	toSQL, toRedis, failed := make(chan []write, 4), make(chan []write, 4), make(chan error, 3)
	go func() {
		defer close(toSQL)
		for n, b := range all {
			ops := make([]byte, 0, batch*(len(document)+30))
			for _, w := range b {
				ops = append(append(ops, w.id...), document...)
			}
			if _, err := add.Exec(n, ops); err != nil {
				failed <- err
				return
			}
			toSQL <- b
		}
	}()
	go func() {
		defer close(toRedis)
		for b := range toSQL {
			if _, err := st.Exec(upsertArgs(b)...); err != nil {
				failed <- err
				return
			}
			toRedis <- b
		}
	}()
	for b := range toRedis {
		p := rdb.Pipeline()
		for _, w := range b {
			p.Set(ctx, w.id, document, 0)
		}
		must[[]redis.Cmder](t)(p.Exec(ctx))
	}
	select {
	case err := <-failed:
		t.Fatal(err)
	default:
	}
	took := time.Since(start) / ingested
	drop(t, url)
	return took
}

// upserted writes n rows in batches by hand, to an empty table, or over what is there.
func upserted(over bool, n int) func(t *testing.T) time.Duration {
	return func(t *testing.T) time.Duration {
		url := newMariaDB(t)
		defer drop(t, url)
		db := openMySQL(t, url)
		must[sql.Result](t)(db.Exec(newTable))
		st := must[*sql.Stmt](t)(db.Prepare(upsert))
		return inBatches(t, over, n, func(b []write) error {
			_, err := st.Exec(upsertArgs(b)...)
			return err
		})
	}
}

// inBatches applies n rows in batches. Another comes before them that is not timed: the loop by
// hand has prepared its statement, too, which takes a store 40 ms.
func inBatches(t *testing.T, over bool, n int, apply func([]write) error) time.Duration {
	first := make([]write, batch)
	for i := range first {
		first[i] = write{fmt.Sprintf("first:%09d", i), 1}
	}
	ok(t, apply(first))
	all := batches(n, n)
	if over {
		for _, b := range all {
			ok(t, apply(b))
			for i := range b {
				b[i].version += int64(n)
			}
		}
	}
	start := time.Now()
	for _, b := range all {
		ok(t, apply(b))
	}
	return time.Since(start) / time.Duration(n)
}

// inserter is a store that is told which rows are not there.
type inserter interface {
	Insert(ctx context.Context, recs []syncengine.Record, unseen []bool) (above []syncengine.Meta, merged []syncengine.Record, err error)
}

func applied(over bool) func(t *testing.T) time.Duration {
	return func(t *testing.T) time.Duration {
		url := newMariaDB(t)
		defer drop(t, url)
		s := store(t, url)
		defer func() { ok(t, s.Close()) }()
		ok(t, s.Prepare(ctx))
		unseen := slices.Repeat([]bool{true}, batch)
		return inBatches(t, over, applies, func(b []write) error {
			recs := make([]syncengine.Record, 0, batch)
			for _, w := range b {
				recs = append(recs, syncengine.Record{Item: syncengine.Item{ID: w.id, Version: uint64(w.version), UpdatedAt: time.Now(),
					Content: document, ContentHash: sha256.Sum256(document)}})
			}
			if over {
				_, err := s.Apply(ctx, recs)
				return err
			}
			_, _, err := s.(inserter).Insert(ctx, recs, unseen) // as an engine that is alone does
			return err
		})
	}
}

// outage is an L3 that is away until it is let back.
type outage struct {
	syncengine.ArchiveStore
	over atomic.Bool
}

func (o *outage) Apply(ctx context.Context, recs []syncengine.Record) ([]syncengine.Meta, error) {
	if !o.over.Load() {
		return nil, fmt.Errorf("%w: on purpose", syncengine.ErrUnavailable)
	}
	return o.ArchiveStore.Apply(ctx, recs)
}

func (o *outage) Ping(ctx context.Context) error {
	if !o.over.Load() {
		return fmt.Errorf("%w: on purpose", syncengine.ErrUnavailable)
	}
	return o.ArchiveStore.Ping(ctx)
}

// drained is what one of many ops takes that were spooled to the log in an outage, from when L3 is
// back.
func drained(t *testing.T) time.Duration {
	url := newMariaDB(t)
	defer drop(t, url)
	s := store(t, url)
	o := &outage{ArchiveStore: s}
	e := open(t, syncengine.Config{L3: o, L1MaxBytes: 4 << 20, WALMaxItems: 10_000_000, WALMaxBytes: 8 << 30, Durability: syncengine.Logged})
	defer whole(t, e)
	ids := idsOf(*spooled)
	each(t, callers, *spooled, func(n int64) error {
		return e.Submit(ctx, syncengine.Item{ID: ids[scattered(n, len(ids))], Content: document})
	})
	if got := e.Stats().PendingOps; got != *spooled {
		t.Fatalf("%d ops are pending, want %d", got, *spooled)
	}
	o.over.Store(true)
	start := time.Now()
	await(t, func() bool { return e.Flush(ctx) == nil })
	return time.Since(start) / time.Duration(*spooled)
}

// hot writes at Buffered, from one caller, to so many ids of a store that takes its time, so that
// what is written again is under way.
func hot(ids int) func(t *testing.T) time.Duration {
	return func(t *testing.T) time.Duration {
		e := open(t, syncengine.Config{L1MaxBytes: 1 << 30, Durability: syncengine.Buffered, L3: nowhere{}})
		defer whole(t, e)
		names := inMemory().ids[:ids]
		return each(t, 1, 300_000, func(n int64) error {
			return e.Submit(ctx, syncengine.Item{ID: names[n%int64(ids)], Content: document})
		})
	}
}
