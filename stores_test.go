package syncengine_test

// stores_test.go runs the conformance suites over every store of the library, and tests
// what is particular to Redis and SQL: damage done from outside, refusals, schemas and
// servers that go away.

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/digest"
	"github.com/syncengine-go/syncengine/internal/rediskit"
	"github.com/syncengine-go/syncengine/internal/sqlkit"
	"github.com/syncengine-go/syncengine/internal/storetest"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

// bounded is a context that ends with the test, or when the test hangs.
func bounded(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func noError(t testing.TB, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

var prefixes atomic.Int64

// newPrefix is a key prefix that no other test of this run uses.
func newPrefix() string { return fmt.Sprintf("stores-%d:", prefixes.Add(1)) }

// redisAt opens url as Open does, for the test.
func redisAt(t testing.TB, url string) redis.UniversalClient {
	t.Helper()
	c, err := rediskit.Open(url)
	noError(t, "open redis", err)
	t.Cleanup(func() { _ = c.Close() }) // a test may have closed it already
	return c
}

// archiveAt opens url as Open does, prepared, for the test.
func archiveAt(t testing.TB, url string) syncengine.ArchiveStore {
	t.Helper()
	s := unpreparedAt(t, url)
	noError(t, "prepare", s.Prepare(bounded(t)))
	return s
}

func unpreparedAt(t testing.TB, url string) syncengine.ArchiveStore {
	t.Helper()
	s, err := syncengine.OpenSQLStore(url)
	noError(t, "open sql", err)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

// sqlServer is a kind of L3 that the tests below run on.
type sqlServer struct {
	name string
	url  func(t testing.TB) string              // of an empty database
	raw  func(t testing.TB, url string) *sql.DB // the same database from outside
	list string                                 // a query that describes the whole schema
}

var sqlServers = []sqlServer{
	{
		name: "SQLite",
		url:  func(t testing.TB) string { return "sqlite:" + filepath.Join(t.TempDir(), "archive.db") },
		raw: func(t testing.TB, url string) *sql.DB {
			db, err := sqlkit.OpenSQLite(strings.TrimPrefix(url, "sqlite:"), "")
			noError(t, "open sqlite", err)
			t.Cleanup(func() { _ = db.Close() })
			return db
		},
		list: "SELECT name, COALESCE(sql, '') FROM sqlite_master ORDER BY name",
	},
	{
		name: "MariaDB",
		url:  func(t testing.TB) string { return testserver.SharedMariaDB(t).NewDatabase(t) },
		raw:  func(t testing.TB, url string) *sql.DB { return testserver.OpenSQL(t, url) },
		list: `SELECT CONCAT(table_name, '.', column_name), CONCAT(column_type, COALESCE(collation_name, ''))
			FROM information_schema.columns WHERE table_schema = DATABASE() ORDER BY 1`,
	},
}

func TestRedisStore(t *testing.T) {
	rdb := redisAt(t, testserver.SharedRedis(t).URL())
	storetest.RunCache(t, func(*testing.T) syncengine.CacheStore {
		return syncengine.NewRedisStore(rdb, newPrefix(), time.Hour, false)
	})
}

// A prefix that is itself a glob pattern, and one that begins as another does.
func TestRedisStoreOddPrefixes(t *testing.T) {
	rdb := redisAt(t, testserver.Redis(t).URL())
	for _, prefix := range []string{"*", "[ab]?:", `\`, "", "{tag}"} {
		t.Run(prefix, func(t *testing.T) {
			noError(t, "flush", rdb.FlushDB(bounded(t)).Err())
			other := syncengine.NewRedisStore(rdb, "another:", time.Hour, false)
			s := syncengine.NewRedisStore(rdb, prefix, time.Hour, false)
			if prefix != "" {
				noError(t, "put", other.Put(bounded(t), []syncengine.Record{storetest.Put("x", 1, `1`)}))
			}
			noError(t, "put", s.Put(bounded(t), []syncengine.Record{storetest.Put("x", 2, `2`), storetest.Put("a:x", 3, `3`)}))
			seen := make(map[string]bool)
			noError(t, "scan", s.Scan(bounded(t), func(ids []string) error {
				for _, id := range ids {
					seen[id] = true
				}
				return nil
			}))
			if len(seen) != 2 || !seen["x"] || !seen["a:x"] {
				t.Errorf("scan of prefix %q delivers %v", prefix, seen)
			}
			wantRecord(t, s, storetest.Put("x", 2, `2`))
		})
	}
}

func TestRedisClusterStore(t *testing.T) {
	cluster := testserver.RedisCluster(t, 3)
	rdb := redisAt(t, "redis://"+strings.Join(cluster.Addrs(), ","))
	storetest.RunCache(t, func(*testing.T) syncengine.CacheStore {
		return syncengine.NewRedisStore(rdb, newPrefix(), time.Hour, false)
	})
	t.Run("digest", func(t *testing.T) { storetest.RunDigest(t, digesterAt(rdb)) })
}

// Tombstones end by themselves in L2, puts don't.
func TestRedisStoreTombstonesExpire(t *testing.T) {
	rdb := redisAt(t, testserver.SharedRedis(t).URL())
	prefix := newPrefix()
	s := syncengine.NewRedisStore(rdb, prefix, time.Hour, false)
	noError(t, "put", s.Put(bounded(t), []syncengine.Record{
		storetest.Put("put", 1, `1`), storetest.Tombstone("gone", 1), storetest.Tombstone("back", 1),
	}))
	noError(t, "put", s.Put(bounded(t), []syncengine.Record{storetest.Put("back", 2, `2`)}))
	for id, expires := range map[string]bool{"put": false, "gone": true, "back": false} {
		ttl, err := rdb.PTTL(bounded(t), prefix+id).Result()
		noError(t, "pttl", err)
		if got := ttl > 0; got != expires || ttl > time.Hour {
			t.Errorf("%s lives for %v, expires: want %v", id, ttl, expires)
		}
	}
}

func TestSQLStores(t *testing.T) {
	for _, srv := range sqlServers {
		t.Run(srv.name, func(t *testing.T) {
			storetest.RunArchive(t, func(t *testing.T) syncengine.ArchiveStore { return unpreparedAt(t, srv.url(t)) })
		})
	}
}

// A caller's own handle, with no option that the engine would like but maxAllowedPacket=0
// (Config.DB says why), on a database whose default character set and collation would merge
// ids (TRAPS 21).
func TestSQLStoreOnTheCallersOwnHandle(t *testing.T) {
	storetest.RunArchive(t, func(t *testing.T) syncengine.ArchiveStore {
		url := testserver.SharedMariaDB(t).NewDatabase(t)
		_, err := testserver.OpenSQL(t, url).ExecContext(bounded(t), "ALTER DATABASE CHARACTER SET latin1 COLLATE latin1_swedish_ci")
		noError(t, "alter database", err)
		db := openDriver(t, "mysql", testserver.DSN(t, url)+"?maxAllowedPacket=0")
		s := syncengine.NewSQLStore(syncengine.DialectMySQL, db)
		t.Cleanup(func() {
			noError(t, "close", s.Close())
			if err := db.Ping(); err != nil {
				t.Errorf("closing the store closed the caller's handle: %v", err)
			}
		})
		return s
	})
}

// The same with options that a caller may have in its DSN for its own queries.
func TestSQLStoreOnOtherOptions(t *testing.T) {
	for name, options := range map[string]string{
		"parseTime":    "parseTime=true&loc=Local",
		"interpolated": "interpolateParams=true",
		"ascii":        "charset=ascii",
		"latin1":       "charset=latin1&collation=latin1_german2_ci",
		"foundRows":    "clientFoundRows=true",
		"sql_mode":     "sql_mode=%27ANSI_QUOTES%27",
	} {
		t.Run(name, func(t *testing.T) {
			dsn := testserver.DSN(t, testserver.SharedMariaDB(t).NewDatabase(t)) + "?" + options
			s := syncengine.NewSQLStore(syncengine.DialectMySQL, openDriver(t, "mysql", dsn))
			t.Cleanup(func() { _ = s.Close() })
			noError(t, "prepare", s.Prepare(bounded(t)))
			var recs []syncengine.Record
			for i, id := range storetest.IDs() {
				recs = append(recs, storetest.Put(id, uint64(i+1), storetest.Contents()[i%len(storetest.Contents())]))
			}
			noError(t, "apply", applied(s.Apply(bounded(t), recs)))
			found, err := s.GetMany(bounded(t), idsOf(recs))
			noError(t, "get many", err)
			for i := range found {
				if field := storetest.Diff(&found[i].Record, &recs[i]); !found[i].OK || field != "" {
					t.Errorf("id %.80q: ok %v, err %v, %s differs", recs[i].ID, found[i].OK, found[i].Err, field)
				}
				wantRecord(t, s, recs[i])
			}
		})
	}
}

// SQLite on a caller's own handle: a pool of many connections, no busy timeout, no WAL
// mode.
func TestSQLiteStoreOnTheCallersOwnHandle(t *testing.T) {
	storetest.RunArchive(t, func(t *testing.T) syncengine.ArchiveStore {
		s := syncengine.NewSQLStore(syncengine.DialectSQLite, openDriver(t, "sqlite", filepath.Join(t.TempDir(), "own.db")))
		t.Cleanup(func() { noError(t, "close", s.Close()) })
		return s
	})
}

func openDriver(t testing.TB, driver, dsn string) *sql.DB {
	t.Helper()
	db, err := sql.Open(driver, dsn)
	noError(t, "open "+driver, err)
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func idsOf(recs []syncengine.Record) []string {
	ids := make([]string, len(recs))
	for i := range recs {
		ids[i] = recs[i].ID
	}
	return ids
}

// getter is what both kinds of store answer with.
type getter interface {
	Get(ctx context.Context, id string) (syncengine.Record, error)
	GetMany(ctx context.Context, ids []string) ([]syncengine.Found, error)
}

func wantRecord(t testing.TB, s getter, want syncengine.Record) {
	t.Helper()
	got, err := s.Get(bounded(t), want.ID)
	if field := storetest.Diff(&got, &want); err != nil || field != "" {
		t.Errorf("get %.80q: %v, %s differs", want.ID, err, field)
	}
}

// wantCorrupt asserts that id alone is answered by a *CorruptionError, by Get and between
// two sound neighbours by GetMany.
func wantCorrupt(t testing.TB, s getter, tier, id string, left, right syncengine.Record) {
	t.Helper()
	check := func(how string, err error) {
		t.Helper()
		var ce *syncengine.CorruptionError
		if !errors.As(err, &ce) || !errors.Is(err, syncengine.ErrCorruption) {
			t.Errorf("%s %q: %v, want a *CorruptionError", how, id, err)
			return
		}
		if ce.ID != id || ce.Tier != tier || ce.Expected == "" || ce.Actual == "" {
			t.Errorf("%s %q: the error says %+v", how, id, *ce)
		}
		if errors.Is(err, syncengine.ErrUnavailable) || errors.Is(err, syncengine.ErrNotFound) {
			t.Errorf("%s %q: %v is also an outage or a miss", how, id, err)
		}
	}
	_, err := s.Get(bounded(t), id)
	check("get", err)
	found, err := s.GetMany(bounded(t), []string{left.ID, id, "absent", right.ID, id})
	if err != nil {
		t.Errorf("get many with %q among the ids: %v", id, err)
		return
	}
	for i, want := range map[int]*syncengine.Record{0: &left, 3: &right} {
		if field := storetest.Diff(&found[i].Record, want); !found[i].OK || found[i].Err != nil || field != "" {
			t.Errorf("the neighbour %q: ok %v, err %v, %s differs", want.ID, found[i].OK, found[i].Err, field)
		}
	}
	if found[2].OK || found[2].Err != nil {
		t.Errorf("the absent neighbour: ok %v, err %v", found[2].OK, found[2].Err)
	}
	for _, i := range []int{1, 4} {
		check("get many", found[i].Err)
		if found[i].OK {
			t.Errorf("get many %q: corrupt and OK", id)
		}
	}
}

func TestDamagedRedisValues(t *testing.T) {
	rdb := redisAt(t, testserver.SharedRedis(t).URL())
	prefix := newPrefix()
	s := syncengine.NewRedisStore(rdb, prefix, time.Hour, false)
	left, right := storetest.Put("left", 1, `1`), storetest.Put("right", 1, `1`)
	noError(t, "put", s.Put(bounded(t), []syncengine.Record{left, right}))
	sound := storetest.Put("x", 7, `{"sound":true}`)
	other, dead := storetest.Put("y", 7, `{"sound":true}`), storetest.Tombstone("x", 7)
	envelope := syncengine.EncodeEnvelope(&sound)
	replace := func(from, to string) []byte {
		out := bytes.Replace(envelope, []byte(from), []byte(to), 1)
		if bytes.Equal(out, envelope) {
			t.Fatalf("%q is not in the envelope %s", from, envelope)
		}
		return out
	}
	damages := map[string][]byte{
		"empty": {}, "garbage": []byte("\x00\xff garbage"), "JSON of somebody else": []byte(`{"id":"x","version":7,"content":{}}`),
		"rank alone": envelope[:80], "another id inside": syncengine.EncodeEnvelope(&other), "a byte more": append(bytes.Clone(envelope), ' '),
		"twice": append(bytes.Clone(envelope), envelope...), "another content": replace(`"sound":true`, `"sound":trux`),
		"shorter content": replace(`true`, `tru`), "another version": replace(`"version":7`, `"version":8`),
		"no content": replace(`{"sound":true}`, ``), "a huge version": replace(`"version":7`, `"version":99999999999999999999`),
		"a tombstone's rank": append(syncengine.EncodeEnvelope(&dead)[:84], envelope[84:]...), "bad time": replace(`"updated_at":"20`, `"updated_at":"xx`),
		"unknown priority": replace(`,"content"`, `,"priority":7,"content"`),
	}
	for n := range envelope {
		damages[fmt.Sprintf("first %d bytes", n)] = envelope[:n]
	}
	for name, value := range damages {
		t.Run(name, func(t *testing.T) {
			noError(t, "set", rdb.Set(bounded(t), prefix+"x", value, 0).Err())
			wantCorrupt(t, s, "L2", "x", left, right)
			noError(t, "remove", s.Remove(bounded(t), []string{"x"}))
			noError(t, "put", s.Put(bounded(t), []syncengine.Record{sound}))
			wantRecord(t, s, sound)
		})
	}
	for name, damage := range map[string]func() error{
		"list": func() error { return rdb.RPush(bounded(t), prefix+"x", "a").Err() },
		"hash": func() error { return rdb.HSet(bounded(t), prefix+"x", "a", "b").Err() },
		"stream": func() error {
			return rdb.XAdd(bounded(t), &redis.XAddArgs{Stream: prefix + "x", Values: []string{"a", "b"}}).Err()
		},
	} {
		t.Run("of another type: "+name, func(t *testing.T) {
			noError(t, "del", rdb.Del(bounded(t), prefix+"x").Err())
			noError(t, "damage", damage())
			wantCorrupt(t, s, "L2", "x", left, right)
			noError(t, "put", s.Put(bounded(t), []syncengine.Record{sound})) // what it can't read it replaces
			wantRecord(t, s, sound)
			noError(t, "del", rdb.Del(bounded(t), prefix+"x").Err())
			noError(t, "damage", damage())
			noError(t, "remove", s.Remove(bounded(t), []string{"x"}))
			noError(t, "put", s.Put(bounded(t), []syncengine.Record{sound}))
			wantRecord(t, s, sound)
		})
	}
	t.Run("garbage is replaced without Remove", func(t *testing.T) {
		noError(t, "set", rdb.Set(bounded(t), prefix+"x", "garbage", 0).Err())
		noError(t, "put", s.Put(bounded(t), []syncengine.Record{sound}))
		wantRecord(t, s, sound)
	})
	t.Run("a damaged body of the same rank is replaced without Remove", func(t *testing.T) {
		noError(t, "set", rdb.Set(bounded(t), prefix+"x", replace(`true`, `trux`), 0).Err())
		noError(t, "put", s.Put(bounded(t), []syncengine.Record{sound}))
		wantRecord(t, s, sound)
	})
	// Damage that makes a value look newer can't be told from a newer value by a rank: it has
	// to be removed first, as the engine does with all it can't read.
	t.Run("a damaged rank is replaced after Remove", func(t *testing.T) {
		noError(t, "set", rdb.Set(bounded(t), prefix+"x", replace(`{"rank":"0`, `{"rank":"7`), 0).Err())
		wantCorrupt(t, s, "L2", "x", left, right)
		noError(t, "remove", s.Remove(bounded(t), []string{"x"}))
		noError(t, "put", s.Put(bounded(t), []syncengine.Record{sound}))
		wantRecord(t, s, sound)
	})
}

// Every single flipped bit of a value is found, in the time and the carried fields too: by a
// reader, and by Redis itself.
func TestFlippedBitsInRedisNeverGiveAWrongItem(t *testing.T) {
	rdb := redisAt(t, testserver.Redis(t).URL()) // of its own: Redis looks at all keys for a digest
	s := syncengine.NewRedisStore(rdb, "flip:", time.Hour, false)
	put, dead := storetest.Put("x", 7, ` {"n": 1.0}`), storetest.Tombstone("x", 7)
	put.Priority, put.HomeInstanceID = syncengine.PriorityHigh, "h"
	for _, want := range []syncengine.Record{put, dead} {
		value := syncengine.EncodeEnvelope(&want)
		for bit := range 8 * len(value) {
			flipped := bytes.Clone(value)
			flipped[bit/8] ^= 1 << (bit % 8)
			noError(t, "set", rdb.Set(bounded(t), "flip:x", flipped, 0).Err())
			if got, err := s.Get(bounded(t), "x"); !errors.Is(err, syncengine.ErrCorruption) {
				t.Errorf("bit %d: %v, %+v from %q", bit, err, got, flipped)
			}
			if set, unreadable, err := s.Digest(bounded(t), 0); err != nil || *set != (digest.Set{}) || len(unreadable) != 1 {
				t.Errorf("bit %d: Redis takes it for sound: %v, unreadable %q, %q", bit, err, unreadable, flipped)
			}
		}
	}
}

func TestDamagedSQLRows(t *testing.T) {
	for _, srv := range sqlServers {
		t.Run(srv.name, func(t *testing.T) {
			url := srv.url(t)
			s, raw := archiveAt(t, url), srv.raw(t, url)
			left, right := storetest.Put("left", 1, `1`), storetest.Put("right", 1, `1`)
			sound := storetest.Put("x", 7, `{"sound":true}`)
			noError(t, "apply", applied(s.Apply(bounded(t), []syncengine.Record{left, sound, right})))
			for _, damage := range []string{
				"content_hash = NULL", "content_hash = X'00'", "content_hash = X'" + strings.Repeat("00", 32) + "'", "content_hash = ''",
				"content = NULL", "content = ''", "content = X'7B7D'", "content = X'28B52FFD'", "content = NULL, content_hash = NULL",
			} {
				t.Run(damage, func(t *testing.T) {
					_, err := raw.ExecContext(bounded(t), "UPDATE sync_items SET "+damage+" WHERE id = 'x'")
					noError(t, "damage", err)
					wantCorrupt(t, s, "L3", "x", left, right)
					newer := sound // a later write repairs it, and a delete too
					newer.Version = 8
					noError(t, "apply", applied(s.Apply(bounded(t), []syncengine.Record{newer})))
					wantRecord(t, s, newer)
					_, err = raw.ExecContext(bounded(t), "DELETE FROM sync_items WHERE id = 'x'")
					noError(t, "delete", err)
					noError(t, "apply", applied(s.Apply(bounded(t), []syncengine.Record{sound})))
				})
			}
			t.Run("a row without a hash takes the record of its version", func(t *testing.T) {
				_, err := raw.ExecContext(bounded(t), "UPDATE sync_items SET content_hash = NULL, content = NULL WHERE id = 'x'")
				noError(t, "damage", err)
				noError(t, "apply", applied(s.Apply(bounded(t), []syncengine.Record{sound})))
				wantRecord(t, s, sound)
			})
			t.Run("Scan goes on over damaged rows", func(t *testing.T) {
				_, err := raw.ExecContext(bounded(t), "UPDATE sync_items SET content_hash = NULL WHERE id = 'x'")
				noError(t, "damage", err)
				page, err := s.Scan(bounded(t), "", 10)
				noError(t, "scan", err)
				if len(page) != 3 {
					t.Errorf("%d rows, want 3: %+v", len(page), page)
				}
			})
		})
	}
}

// Columns that hold what the engine never writes: one row's damage stays its own.
func TestForeignValuesInSQLRows(t *testing.T) {
	for _, srv := range sqlServers {
		damages := []string{"deleted = 7", "deleted = -1", "version = -1", "version = 0"}
		if srv.name == "SQLite" { // has no types to stop these
			damages = append(damages, "deleted = 'yes'", "version = 'one'", "updated_at = 'now'", "version = 1e300")
		}
		for _, damage := range damages {
			t.Run(srv.name+": "+damage, func(t *testing.T) {
				url := srv.url(t)
				s, raw := archiveAt(t, url), srv.raw(t, url)
				left, right := storetest.Put("left", 1, `1`), storetest.Put("right", 1, `1`)
				noError(t, "apply", applied(s.Apply(bounded(t), []syncengine.Record{left, storetest.Put("x", 7, `1`), right})))
				_, err := raw.ExecContext(bounded(t), "UPDATE sync_items SET "+damage+" WHERE id = 'x'")
				noError(t, "damage", err)
				wantCorrupt(t, s, "L3", "x", left, right)
			})
		}
	}
}

// describeSchema returns everything about the database that Prepare could have changed.
func describeSchema(t testing.TB, srv *sqlServer, raw *sql.DB) string {
	t.Helper()
	var b strings.Builder
	for _, query := range []string{srv.list, "SELECT version, applied_at FROM sync_schema ORDER BY version"} {
		rows, err := raw.QueryContext(bounded(t), query)
		noError(t, "describe", err)
		for rows.Next() {
			var name, text string
			noError(t, "describe", rows.Scan(&name, &text))
			fmt.Fprintln(&b, name, text)
		}
		noError(t, "describe", errors.Join(rows.Err(), rows.Close()))
	}
	return b.String()
}

func TestNewerSchemaIsRefused(t *testing.T) {
	for _, srv := range sqlServers {
		t.Run(srv.name, func(t *testing.T) {
			t.Run("with tables", func(t *testing.T) {
				url := srv.url(t)
				noError(t, "apply", applied(archiveAt(t, url).Apply(bounded(t), []syncengine.Record{storetest.Put("a", 1, `1`)})))
				raw := srv.raw(t, url)
				_, err := raw.ExecContext(bounded(t), "INSERT INTO sync_schema (version, applied_at) VALUES (999, 1)")
				noError(t, "insert", err)
				refusesSchema(t, &srv, url, raw)
			})
			t.Run("without tables", func(t *testing.T) { // of a layout this build does not know
				url := srv.url(t)
				raw := srv.raw(t, url)
				_, err := raw.ExecContext(bounded(t), "CREATE TABLE sync_schema (version INTEGER NOT NULL PRIMARY KEY, applied_at BIGINT NOT NULL)")
				noError(t, "create", err)
				_, err = raw.ExecContext(bounded(t), "INSERT INTO sync_schema (version, applied_at) VALUES (2, 1), (999, 1)")
				noError(t, "insert", err)
				refusesSchema(t, &srv, url, raw)
			})
		})
	}
}

func refusesSchema(t *testing.T, srv *sqlServer, url string, raw *sql.DB) {
	t.Helper()
	before := describeSchema(t, srv, raw)
	if !strings.Contains(before, "999") {
		t.Fatalf("the schema table is not in the description:\n%s", before)
	}
	check := func(how string, err error) {
		t.Helper()
		if !errors.Is(err, syncengine.ErrSchema) || errors.Is(err, syncengine.ErrUnavailable) || !strings.Contains(err.Error(), "999") {
			t.Errorf("%s: %v, want ErrSchema that names version 999", how, err)
		}
	}
	check("prepare", unpreparedAt(t, url).Prepare(bounded(t)))
	e, err := syncengine.Open(bounded(t), syncengine.Config{Dir: t.TempDir(), SQLURL: url})
	if err == nil {
		_ = e.Close()
	}
	check("open", err)
	if after := describeSchema(t, srv, raw); after != before {
		t.Errorf("the database changed:\n%s\nwas\n%s", after, before)
	}
}

// Stores that prepare one empty database at the same moment agree.
func TestPrepareByManyStoresAtOnce(t *testing.T) {
	for _, srv := range sqlServers {
		t.Run(srv.name, func(t *testing.T) {
			url := srv.url(t)
			stores := make([]syncengine.ArchiveStore, 6)
			for i := range stores {
				stores[i] = unpreparedAt(t, url)
			}
			var wg sync.WaitGroup
			for i, s := range stores {
				wg.Add(1)
				go func() {
					defer wg.Done()
					if err := s.Prepare(bounded(t)); err != nil {
						t.Errorf("store %d: %v", i, err)
					}
				}()
			}
			wg.Wait()
			noError(t, "apply", applied(stores[0].Apply(bounded(t), []syncengine.Record{storetest.Put("a", 1, `1`)})))
			wantRecord(t, stores[5], storetest.Put("a", 1, `1`))
		})
	}
}

// A row that the server refuses for its own sake is a *RefusedError, and its transaction
// leaves nothing behind.
func TestRefusedRows(t *testing.T) {
	for _, tc := range []struct{ name, server, rule string }{
		{"CHECK constraint", "MariaDB", "ALTER TABLE sync_items ADD CONSTRAINT no_bad CHECK (home_instance <> 'bad')"},
		{"SIGNAL in a trigger", "MariaDB", "CREATE TRIGGER no_bad BEFORE INSERT ON sync_items FOR EACH ROW IF NEW.home_instance = 'bad' THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'no_bad'; END IF"},
		{"RAISE(ABORT) in a trigger", "SQLite", "CREATE TRIGGER no_bad BEFORE INSERT ON sync_items WHEN NEW.home_instance = 'bad' BEGIN SELECT RAISE(ABORT, 'no_bad'); END"},
		{"RAISE(ROLLBACK) in a trigger", "SQLite", "CREATE TRIGGER no_bad BEFORE INSERT ON sync_items WHEN NEW.home_instance = 'bad' BEGIN SELECT RAISE(ROLLBACK, 'no_bad'); END"},
		{"RAISE(FAIL) in a trigger", "SQLite", "CREATE TRIGGER no_bad BEFORE INSERT ON sync_items WHEN NEW.home_instance = 'bad' BEGIN SELECT RAISE(FAIL, 'no_bad'); END"},
	} {
		for _, srv := range sqlServers {
			if srv.name != tc.server {
				continue
			}
			t.Run(srv.name+": "+tc.name, func(t *testing.T) {
				url := srv.url(t)
				s, raw := archiveAt(t, url), srv.raw(t, url)
				held := storetest.Put("held", 1, `1`)
				noError(t, "apply", applied(s.Apply(bounded(t), []syncengine.Record{held})))
				_, err := raw.ExecContext(bounded(t), tc.rule)
				noError(t, "rule", err)
				// Rows enough for several statements, the bad one in the middle.
				recs := []syncengine.Record{storetest.Put("held", 2, `2`)}
				for i := range 700 {
					recs = append(recs, storetest.Put(fmt.Sprintf("row-%03d", i), 1, `1`))
				}
				recs[400].HomeInstanceID = "bad"
				_, err = s.Apply(bounded(t), recs)
				var refused *syncengine.RefusedError
				if !errors.As(err, &refused) || !errors.Is(err, syncengine.ErrRefused) || errors.Is(err, syncengine.ErrUnavailable) {
					t.Fatalf("apply: %v, want a *RefusedError", err)
				}
				if !strings.Contains(err.Error(), "no_bad") {
					t.Errorf("the error does not say why: %v", err)
				}
				wantRows(t, raw, 1)
				wantRecord(t, s, held)
				// The connection is fit for the next transaction.
				recs[400].HomeInstanceID = "good"
				noError(t, "apply", applied(s.Apply(bounded(t), recs)))
				wantRows(t, raw, 701)
			})
		}
	}
}

func wantRows(t testing.TB, raw *sql.DB, want int) {
	t.Helper()
	var n int
	noError(t, "count", raw.QueryRowContext(bounded(t), "SELECT COUNT(*) FROM sync_items").Scan(&n))
	if n != want {
		t.Errorf("%d rows, want %d", n, want)
	}
}

// A record that the server's max_allowed_packet can't take is refused; what fits is split;
// and the refusal says nothing about the records after it (INV-9).
func TestRecordBeyondThePacketIsRefused(t *testing.T) {
	srv := testserver.MariaDB(t, "--max-allowed-packet=1M")
	s := archiveAt(t, srv.URL())
	big := func(id string, n int) syncengine.Record {
		return storetest.Put(id, 1, `"`+strings.Repeat("x", n)+`"`)
	}
	var recs []syncengine.Record
	for i := range 12 {
		recs = append(recs, big(fmt.Sprintf("fits-%02d", i), 300_000))
	}
	noError(t, "apply", applied(s.Apply(bounded(t), recs)))
	_, err := s.Apply(bounded(t), append(recs[:0:0], storetest.Put("a", 1, `1`), big("b", 2<<20), storetest.Put("c", 1, `1`)))
	var refused *syncengine.RefusedError
	if !errors.As(err, &refused) {
		t.Errorf("apply of 2 MiB: %v, want a *RefusedError", err)
	}
	wantRows(t, srv.SQL(t), 12)
	noError(t, "apply", applied(s.Apply(bounded(t), []syncengine.Record{storetest.Put("a", 1, `1`)})))
}

// Statements are cut to the server's limit, also where the driver of a caller's own handle
// believes in a larger one.
func TestStatementsFitTheServersPacket(t *testing.T) {
	srv := testserver.MariaDB(t, "--max-allowed-packet=1M")
	s := syncengine.NewSQLStore(syncengine.DialectMySQL, openDriver(t, "mysql", testserver.DSN(t, srv.URL())))
	t.Cleanup(func() { _ = s.Close() })
	noError(t, "prepare", s.Prepare(bounded(t)))
	var recs []syncengine.Record
	for i := range 300 {
		recs = append(recs, storetest.Put(fmt.Sprintf("row-%03d", i), 1, `"`+strings.Repeat("x", i*200)+`"`))
	}
	noError(t, "apply", applied(s.Apply(bounded(t), recs)))
	for _, r := range []syncengine.Record{recs[0], recs[128], recs[299]} {
		wantRecord(t, s, r)
	}
	wantRows(t, srv.SQL(t), 300)
}

// No call holds a connection while it waits for another one: a pool of one is enough, and
// as many writers as there are connections don't wait for each other for ever.
func TestAPoolOfOneConnectionIsEnough(t *testing.T) {
	for _, srv := range sqlServers {
		t.Run(srv.name, func(t *testing.T) {
			url := srv.url(t)
			db, dialect := srv.raw(t, url), syncengine.DialectSQLite
			if srv.name == "MariaDB" {
				dialect = syncengine.DialectMySQL
			}
			db.SetMaxOpenConns(1)
			s := syncengine.NewSQLStore(dialect, db)
			t.Cleanup(func() { _ = s.Close() })
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			noError(t, "prepare", s.Prepare(ctx))
			noError(t, "apply", applied(s.Apply(ctx, []syncengine.Record{storetest.Put("a", 1, `1`), storetest.Put("b", 1, `1`), storetest.Put("c", 1, `1`)})))
			_, err := s.GetMany(ctx, []string{"a", "b"})
			noError(t, "get many", err)
			wantRecord(t, s, storetest.Put("a", 1, `1`))
			page, err := s.Scan(ctx, "", 10)
			if err != nil || len(page) != 3 {
				t.Errorf("scan: %v, %v", page, err)
			}
			_, err = s.PurgeTombstones(ctx, time.Unix(1, 0), 1)
			noError(t, "purge", err)
			noError(t, "ping", s.Ping(ctx))
		})
	}
}

// A server that is gone is an outage to every method, and nothing worse.
func TestServersThatAreGone(t *testing.T) {
	t.Run("Redis", func(t *testing.T) {
		srv := testserver.Redis(t)
		s := syncengine.NewRedisStore(redisAt(t, srv.URL()), "p:", time.Hour, false)
		noError(t, "put", s.Put(bounded(t), []syncengine.Record{storetest.Put("a", 1, `1`)}))
		calls := map[string]func() error{
			"Get":     func() error { _, err := s.Get(bounded(t), "a"); return err },
			"GetMany": func() error { _, err := s.GetMany(bounded(t), []string{"a", "b"}); return err },
			"Put":     func() error { return s.Put(bounded(t), []syncengine.Record{storetest.Put("a", 2, `2`)}) },
			"Remove":  func() error { return s.Remove(bounded(t), []string{"a"}) },
			"Scan":    func() error { return s.Scan(bounded(t), func([]string) error { return nil }) },
			"Ping":    func() error { return s.Ping(bounded(t)) },
		}
		srv.Kill()
		wantOutage(t, calls)
		srv.Restart()
		for name, call := range calls {
			if err := call(); err != nil && !errors.Is(err, syncengine.ErrNotFound) {
				t.Errorf("%s after the restart: %v", name, err)
			}
		}
	})
	t.Run("MariaDB", func(t *testing.T) {
		srv := testserver.MariaDB(t)
		s, fresh := archiveAt(t, srv.URL()), unpreparedAt(t, srv.URL())
		noError(t, "apply", applied(s.Apply(bounded(t), []syncengine.Record{storetest.Put("a", 1, `1`)})))
		calls := map[string]func() error{
			"Get":             func() error { _, err := s.Get(bounded(t), "a"); return err },
			"GetMany":         func() error { _, err := s.GetMany(bounded(t), []string{"a", "b"}); return err },
			"Apply":           func() error { return applied(s.Apply(bounded(t), []syncengine.Record{storetest.Put("a", 2, `2`)})) },
			"Scan":            func() error { _, err := s.Scan(bounded(t), "", 10); return err },
			"PurgeTombstones": func() error { _, err := s.PurgeTombstones(bounded(t), time.Unix(1, 0), 1); return err },
			"Ping":            func() error { return s.Ping(bounded(t)) },
			"Prepare":         func() error { return fresh.Prepare(bounded(t)) },
		}
		srv.Kill()
		wantOutage(t, calls)
		srv.Restart()
		for name, call := range calls {
			if err := call(); err != nil {
				t.Errorf("%s after the restart: %v", name, err)
			}
		}
		wantRecord(t, s, storetest.Put("a", 2, `2`))
	})
}

func wantOutage(t *testing.T, calls map[string]func() error) {
	t.Helper()
	for name, call := range calls {
		err := call()
		if !errors.Is(err, syncengine.ErrUnavailable) {
			t.Errorf("%s: %v, want ErrUnavailable", name, err)
		}
		for _, other := range []error{syncengine.ErrRefused, syncengine.ErrNotFound, syncengine.ErrCorruption} {
			if errors.Is(err, other) {
				t.Errorf("%s: %v is also %v", name, err, other)
			}
		}
	}
}
