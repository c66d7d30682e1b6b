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
	"maps"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/digest"
	"github.com/syncengine-go/syncengine/internal/faultproxy"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/storetest"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

func TestRedisStore(t *testing.T) {
	rdb := lab.RedisAt(t, testserver.SharedRedis(t).URL())
	storetest.RunCache(t, func(*testing.T) syncengine.CacheStore {
		return syncengine.NewRedisStore(rdb, lab.NewPrefix(), time.Hour, false)
	})
}

func TestRedisStoresOnOneServer(t *testing.T) {
	url := testserver.SharedRedis(t).URL()
	storetest.RunSharedCache(t, func(t *testing.T) func() syncengine.CacheStore {
		prefix := lab.NewPrefix()
		return func() syncengine.CacheStore {
			return syncengine.NewRedisStore(lab.RedisAt(t, url), prefix, time.Hour, false)
		}
	})
}

// A prefix that is itself a glob pattern, and one that begins as another does.
func TestRedisStoreOddPrefixes(t *testing.T) {
	rdb := lab.RedisAt(t, testserver.Redis(t).URL())
	for _, prefix := range []string{"*", "[ab]?:", `\`, "", "{tag}"} {
		t.Run(prefix, func(t *testing.T) {
			lab.NoError(t, "flush", rdb.FlushDB(lab.Bounded(t)).Err())
			other := syncengine.NewRedisStore(rdb, "another:", time.Hour, false)
			s := syncengine.NewRedisStore(rdb, prefix, time.Hour, false)
			if prefix != "" {
				lab.NoError(t, "put", other.Put(lab.Bounded(t), []syncengine.Record{storetest.Put("x", 1, `1`)}))
			}
			lab.NoError(t, "put", s.Put(lab.Bounded(t), []syncengine.Record{storetest.Put("x", 2, `2`), storetest.Put("a:x", 3, `3`)}))
			seen := make(map[string]bool)
			lab.NoError(t, "scan", s.Scan(lab.Bounded(t), func(ids []string) error {
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
	t.Parallel()
	cluster := testserver.RedisCluster(t, 3)
	rdb := lab.RedisAt(t, "redis://"+strings.Join(cluster.Addrs(), ","))
	storetest.RunCache(t, func(*testing.T) syncengine.CacheStore {
		return syncengine.NewRedisStore(rdb, lab.NewPrefix(), time.Hour, false)
	})
	t.Run("digest", func(t *testing.T) { storetest.RunDigest(t, digesterAt(rdb)) })
}

// Tombstones end by themselves in L2, puts don't.
func TestRedisStoreTombstonesExpire(t *testing.T) {
	rdb := lab.RedisAt(t, testserver.SharedRedis(t).URL())
	prefix := lab.NewPrefix()
	s := syncengine.NewRedisStore(rdb, prefix, time.Hour, false)
	lab.NoError(t, "put", s.Put(lab.Bounded(t), []syncengine.Record{
		storetest.Put("put", 1, `1`), storetest.Tombstone("gone", 1), storetest.Tombstone("back", 1),
	}))
	lab.NoError(t, "put", s.Put(lab.Bounded(t), []syncengine.Record{storetest.Put("back", 2, `2`)}))
	for id, expires := range map[string]bool{"put": false, "gone": true, "back": false} {
		ttl, err := rdb.PTTL(lab.Bounded(t), prefix+id).Result()
		lab.NoError(t, "pttl", err)
		if got := ttl > 0; got != expires || ttl > time.Hour {
			t.Errorf("%s lives for %v, expires: want %v", id, ttl, expires)
		}
	}
}

// Items end in L2 when they expire, and one that is put after its time leaves nothing below it.
func TestRedisStoreItemsExpire(t *testing.T) {
	rdb := lab.RedisAt(t, testserver.SharedRedis(t).URL())
	prefix := lab.NewPrefix()
	s := syncengine.NewRedisStore(rdb, prefix, time.Hour, false)
	put := func(id string, version uint64, in time.Duration) syncengine.Record {
		r := storetest.Put(id, version, `1`)
		r.ExpiresAt = time.Now().Add(in).Truncate(time.Millisecond).UTC()
		return r
	}
	lives, gone := put("lives", 1, time.Minute), storetest.Tombstone("gone", 2)
	gone.ExpiresAt = time.Now()
	lab.NoError(t, "put", s.Put(lab.Bounded(t), []syncengine.Record{
		lives, storetest.Put("over", 1, `1`), put("back", 1, time.Minute), put("gone", 2, time.Minute), put("soon", 1, 300*time.Millisecond),
	}))
	lab.NoError(t, "put", s.Put(lab.Bounded(t), []syncengine.Record{put("over", 2, -time.Minute), storetest.Put("back", 2, `2`), gone}))
	wantRecord(t, s, lives)
	for id, most := range map[string]time.Duration{"lives": time.Minute, "gone": time.Minute} {
		if ttl, err := rdb.PTTL(lab.Bounded(t), prefix+id).Result(); err != nil || ttl <= most-30*time.Second || ttl > most {
			t.Errorf("%s lives for %v, %v", id, ttl, err)
		}
	}
	if ttl := rdb.PTTL(lab.Bounded(t), prefix+"back").Val(); ttl >= 0 {
		t.Errorf("what was put over an item that expires lives for %v", ttl)
	}
	lab.Eventually(t, "nothing is left of those whose time has come", func() bool {
		n, err := rdb.Exists(lab.Bounded(t), prefix+"over", prefix+"soon").Result()
		return err == nil && n == 0
	})
}

func TestSQLStores(t *testing.T) {
	t.Parallel()
	for _, srv := range lab.SQLServers {
		t.Run(srv.Name, func(t *testing.T) {
			storetest.RunArchive(t, func(t *testing.T) syncengine.ArchiveStore { return lab.UnpreparedAt(t, srv.URL(t)) })
		})
	}
}

// sureOfAll says of each record that there is no row of its id, as a filter that is wrong might.
type sureOfAll struct{ syncengine.ArchiveStore }

func (s sureOfAll) Apply(ctx context.Context, recs []syncengine.Record) ([]syncengine.Meta, error) {
	unseen := make([]bool, len(recs))
	for i := range unseen {
		unseen[i] = true
	}
	above, _, err := s.ArchiveStore.(interface {
		Insert(context.Context, []syncengine.Record, []bool) ([]syncengine.Meta, []syncengine.Record, error)
	}).Insert(ctx, recs, unseen)
	return above, err
}

// What is thought not to be there is inserted without a look, and compared after all if it is.
func TestSQLStoresThatAreToldWrong(t *testing.T) {
	for _, srv := range lab.SQLServers {
		t.Run(srv.Name, func(t *testing.T) {
			storetest.RunArchive(t, func(t *testing.T) syncengine.ArchiveStore {
				return sureOfAll{lab.UnpreparedAt(t, srv.URL(t))}
			})
		})
	}
}

func TestSQLStoresOnOneDatabase(t *testing.T) {
	t.Parallel()
	for _, srv := range lab.SQLServers {
		t.Run(srv.Name, func(t *testing.T) {
			storetest.RunSharedArchive(t, func(t *testing.T) func() syncengine.ArchiveStore {
				url := srv.URL(t)
				return func() syncengine.ArchiveStore { return lab.UnpreparedAt(t, url) }
			})
		})
	}
}

// Batches of any size are written in statements of some sizes.
func TestBatchesOfAnySizeAreOverwritten(t *testing.T) {
	for _, srv := range lab.SQLServers {
		t.Run(srv.Name, func(t *testing.T) {
			s, ctx := lab.ArchiveAt(t, srv.URL(t)), lab.Bounded(t)
			version := uint64(0)
			for _, n := range []int{1, 2, 3, 7, 8, 9, 15, 29, 60, 116, 230, 447, 448, 460, 511, 513, 900, 1000} {
				for range 2 {
					version++
					var recs []syncengine.Record
					for i := range n {
						recs = append(recs, storetest.Put(fmt.Sprintf("%04d", i), version, fmt.Sprint(version, i)[:1]+fmt.Sprint(i)))
					}
					lab.Must(t, lab.Applied(s.Apply(ctx, recs)))
					found, err := s.GetMany(ctx, idsOf(recs))
					lab.Must(t, err)
					for i := range recs {
						if field := storetest.Diff(&found[i].Record, &recs[i]); !found[i].OK || field != "" {
							t.Fatalf("%d rows, version %d: %s of %s differs", n, version, field, recs[i].ID)
						}
					}
				}
			}
			lab.WantDigest(t, s)
		})
	}
}

// A caller's own handle, with no option that the engine would like but maxAllowedPacket=0
// (Config.DB says why), on a database whose default character set and collation would merge
// ids (TRAPS 21).
func TestSQLStoreOnTheCallersOwnHandle(t *testing.T) {
	t.Parallel()
	storetest.RunArchive(t, func(t *testing.T) syncengine.ArchiveStore {
		url := testserver.SharedMariaDB(t).NewDatabase(t)
		_, err := testserver.OpenSQL(t, url).ExecContext(lab.Bounded(t), "ALTER DATABASE CHARACTER SET latin1 COLLATE latin1_swedish_ci")
		lab.NoError(t, "alter database", err)
		db := lab.OpenDriver(t, "mysql", testserver.DSN(t, url)+"?maxAllowedPacket=0")
		s := syncengine.NewSQLStoreNamed(syncengine.DialectMySQL, db, "own_")
		t.Cleanup(func() {
			lab.NoError(t, "close", s.Close())
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
			s := syncengine.NewSQLStore(syncengine.DialectMySQL, lab.OpenDriver(t, "mysql", dsn))
			t.Cleanup(func() { _ = s.Close() })
			lab.NoError(t, "prepare", s.Prepare(lab.Bounded(t)))
			var recs []syncengine.Record
			for i, id := range storetest.IDs() {
				recs = append(recs, storetest.Put(id, uint64(i+1), storetest.Contents()[i%len(storetest.Contents())]))
			}
			lab.NoError(t, "apply", lab.Applied(s.Apply(lab.Bounded(t), recs)))
			found, err := s.GetMany(lab.Bounded(t), idsOf(recs))
			lab.NoError(t, "get many", err)
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
// mode. Its tables have a prefix of their own.
func TestSQLiteStoreOnTheCallersOwnHandle(t *testing.T) {
	t.Parallel()
	storetest.RunArchive(t, func(t *testing.T) syncengine.ArchiveStore {
		s := syncengine.NewSQLStoreNamed(syncengine.DialectSQLite, lab.OpenDriver(t, "sqlite", filepath.Join(t.TempDir(), "own.db")), "own_")
		t.Cleanup(func() { lab.NoError(t, "close", s.Close()) })
		return s
	})
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
	got, err := s.Get(lab.Bounded(t), want.ID)
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
	_, err := s.Get(lab.Bounded(t), id)
	check("get", err)
	found, err := s.GetMany(lab.Bounded(t), []string{left.ID, id, "absent", right.ID, id})
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
	rdb := lab.RedisAt(t, testserver.SharedRedis(t).URL())
	prefix := lab.NewPrefix()
	s := syncengine.NewRedisStore(rdb, prefix, time.Hour, false)
	left, right := storetest.Put("left", 1, `1`), storetest.Put("right", 1, `1`)
	lab.NoError(t, "put", s.Put(lab.Bounded(t), []syncengine.Record{left, right}))
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
			lab.NoError(t, "set", rdb.Set(lab.Bounded(t), prefix+"x", value, 0).Err())
			wantCorrupt(t, s, "L2", "x", left, right)
			lab.NoError(t, "remove", s.Remove(lab.Bounded(t), []string{"x"}))
			lab.NoError(t, "put", s.Put(lab.Bounded(t), []syncengine.Record{sound}))
			wantRecord(t, s, sound)
		})
	}
	for name, damage := range map[string]func() error{
		"list": func() error { return rdb.RPush(lab.Bounded(t), prefix+"x", "a").Err() },
		"hash": func() error { return rdb.HSet(lab.Bounded(t), prefix+"x", "a", "b").Err() },
		"stream": func() error {
			return rdb.XAdd(lab.Bounded(t), &redis.XAddArgs{Stream: prefix + "x", Values: []string{"a", "b"}}).Err()
		},
	} {
		t.Run("of another type: "+name, func(t *testing.T) {
			lab.NoError(t, "del", rdb.Del(lab.Bounded(t), prefix+"x").Err())
			lab.NoError(t, "damage", damage())
			wantCorrupt(t, s, "L2", "x", left, right)
			lab.NoError(t, "put", s.Put(lab.Bounded(t), []syncengine.Record{sound})) // what it can't read it replaces
			wantRecord(t, s, sound)
			lab.NoError(t, "del", rdb.Del(lab.Bounded(t), prefix+"x").Err())
			lab.NoError(t, "damage", damage())
			lab.NoError(t, "remove", s.Remove(lab.Bounded(t), []string{"x"}))
			lab.NoError(t, "put", s.Put(lab.Bounded(t), []syncengine.Record{sound}))
			wantRecord(t, s, sound)
		})
	}
	t.Run("garbage is replaced without Remove", func(t *testing.T) {
		lab.NoError(t, "set", rdb.Set(lab.Bounded(t), prefix+"x", "garbage", 0).Err())
		lab.NoError(t, "put", s.Put(lab.Bounded(t), []syncengine.Record{sound}))
		wantRecord(t, s, sound)
	})
	t.Run("a damaged body of the same rank is replaced without Remove", func(t *testing.T) {
		lab.NoError(t, "set", rdb.Set(lab.Bounded(t), prefix+"x", replace(`true`, `trux`), 0).Err())
		lab.NoError(t, "put", s.Put(lab.Bounded(t), []syncengine.Record{sound}))
		wantRecord(t, s, sound)
	})
	// Damage that makes a value look newer can't be told from a newer value by a rank: it has
	// to be removed first, as the engine does with all it can't read.
	t.Run("a damaged rank is replaced after Remove", func(t *testing.T) {
		lab.NoError(t, "set", rdb.Set(lab.Bounded(t), prefix+"x", replace(`{"rank":"0`, `{"rank":"7`), 0).Err())
		wantCorrupt(t, s, "L2", "x", left, right)
		lab.NoError(t, "remove", s.Remove(lab.Bounded(t), []string{"x"}))
		lab.NoError(t, "put", s.Put(lab.Bounded(t), []syncengine.Record{sound}))
		wantRecord(t, s, sound)
	})
}

// Every single flipped bit of a value is found, in the time and the carried fields too: by a
// reader, and by Redis itself.
func TestFlippedBitsInRedisNeverGiveAWrongItem(t *testing.T) {
	rdb := lab.RedisAt(t, testserver.Redis(t).URL()) // of its own: Redis looks at all keys for a digest
	s := syncengine.NewRedisStore(rdb, "flip:", time.Hour, false)
	put, dead := storetest.Put("x", 7, ` {"n": 1.0}`), storetest.Tombstone("x", 7)
	put.Priority, put.HomeInstanceID = syncengine.PriorityHigh, "h"
	for _, want := range []syncengine.Record{put, dead} {
		value := syncengine.EncodeEnvelope(&want)
		for bit := range 8 * len(value) {
			flipped := bytes.Clone(value)
			flipped[bit/8] ^= 1 << (bit % 8)
			lab.NoError(t, "set", rdb.Set(lab.Bounded(t), "flip:x", flipped, 0).Err())
			if got, err := s.Get(lab.Bounded(t), "x"); !errors.Is(err, syncengine.ErrCorruption) {
				t.Errorf("bit %d: %v, %+v from %q", bit, err, got, flipped)
			}
			if set, unreadable, err := s.Digest(lab.Bounded(t), 0); err != nil || *set != (digest.Set{}) || len(unreadable) != 1 {
				t.Errorf("bit %d: Redis takes it for sound: %v, unreadable %q, %q", bit, err, unreadable, flipped)
			}
		}
	}
}

func TestDamagedSQLRows(t *testing.T) {
	for _, srv := range lab.SQLServers {
		t.Run(srv.Name, func(t *testing.T) {
			url := srv.URL(t)
			s, raw := lab.ArchiveAt(t, url), srv.Raw(t, url)
			left, right := storetest.Put("left", 1, `1`), storetest.Put("right", 1, `1`)
			sound := storetest.Put("x", 7, `{"sound":true}`)
			lab.NoError(t, "apply", lab.Applied(s.Apply(lab.Bounded(t), []syncengine.Record{left, sound, right})))
			for _, damage := range []string{
				"content_hash = NULL", "content_hash = X'00'", "content_hash = X'" + strings.Repeat("00", 32) + "'", "content_hash = ''",
				"content = NULL", "content = ''", "content = X'7B7D'", "content = X'28B52FFD'", "content = NULL, content_hash = NULL",
			} {
				t.Run(damage, func(t *testing.T) {
					_, err := raw.ExecContext(lab.Bounded(t), "UPDATE sync_items SET "+damage+" WHERE id = 'x'")
					lab.NoError(t, "damage", err)
					wantCorrupt(t, s, "L3", "x", left, right)
					newer := sound // a later write repairs it, and a delete too
					newer.Version = 8
					lab.NoError(t, "apply", lab.Applied(s.Apply(lab.Bounded(t), []syncengine.Record{newer})))
					wantRecord(t, s, newer)
					_, err = raw.ExecContext(lab.Bounded(t), "DELETE FROM sync_items WHERE id = 'x'")
					lab.NoError(t, "delete", err)
					lab.NoError(t, "apply", lab.Applied(s.Apply(lab.Bounded(t), []syncengine.Record{sound})))
				})
			}
			t.Run("a row without a hash takes the record of its version", func(t *testing.T) {
				_, err := raw.ExecContext(lab.Bounded(t), "UPDATE sync_items SET content_hash = NULL, content = NULL WHERE id = 'x'")
				lab.NoError(t, "damage", err)
				lab.NoError(t, "apply", lab.Applied(s.Apply(lab.Bounded(t), []syncengine.Record{sound})))
				wantRecord(t, s, sound)
			})
			t.Run("Scan goes on over damaged rows", func(t *testing.T) {
				_, err := raw.ExecContext(lab.Bounded(t), "UPDATE sync_items SET content_hash = NULL WHERE id = 'x'")
				lab.NoError(t, "damage", err)
				page, err := s.Scan(lab.Bounded(t), "", 10)
				lab.NoError(t, "scan", err)
				if len(page) != 3 {
					t.Errorf("%d rows, want 3: %+v", len(page), page)
				}
			})
		})
	}
}

// Columns that hold what the engine never writes: one row's damage stays its own.
func TestForeignValuesInSQLRows(t *testing.T) {
	for _, srv := range lab.SQLServers {
		damages := []string{"deleted = 7", "deleted = -1", "version = -1", "version = 0"}
		if srv.Name == "SQLite" { // has no types to stop these
			damages = append(damages, "deleted = 'yes'", "version = 'one'", "updated_at = 'now'", "version = 1e300")
		}
		for _, damage := range damages {
			t.Run(srv.Name+": "+damage, func(t *testing.T) {
				url := srv.URL(t)
				s, raw := lab.ArchiveAt(t, url), srv.Raw(t, url)
				left, right := storetest.Put("left", 1, `1`), storetest.Put("right", 1, `1`)
				lab.NoError(t, "apply", lab.Applied(s.Apply(lab.Bounded(t), []syncengine.Record{left, storetest.Put("x", 7, `1`), right})))
				_, err := raw.ExecContext(lab.Bounded(t), "UPDATE sync_items SET "+damage+" WHERE id = 'x'")
				lab.NoError(t, "damage", err)
				wantCorrupt(t, s, "L3", "x", left, right)
			})
		}
	}
}

// describeSchema returns everything about the database that Prepare could have changed.
func describeSchema(t testing.TB, srv *lab.SQLServer, raw *sql.DB) string {
	t.Helper()
	var b strings.Builder
	for _, query := range []string{srv.List, "SELECT version, applied_at FROM sync_schema ORDER BY version"} {
		rows, err := raw.QueryContext(lab.Bounded(t), query)
		lab.NoError(t, "describe", err)
		for rows.Next() {
			var name, text string
			lab.NoError(t, "describe", rows.Scan(&name, &text))
			fmt.Fprintln(&b, name, text)
		}
		lab.NoError(t, "describe", errors.Join(rows.Err(), rows.Close()))
	}
	return b.String()
}

// TestAMigrationThatWasKilledIsWaitedFor, until its lease ends, and no longer.
func TestAMigrationThatWasKilledIsWaitedFor(t *testing.T) {
	url := testserver.SharedMariaDB(t).NewDatabase(t)
	raw := testserver.OpenSQL(t, url)
	_, err := raw.Exec("CREATE TABLE sync_schema (version INTEGER NOT NULL PRIMARY KEY, applied_at BIGINT NOT NULL)")
	lab.NoError(t, "create", err)
	_, err = raw.Exec("INSERT INTO sync_schema VALUES (0, 1000 * (400000 + TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))))")
	lab.NoError(t, "insert", err)
	began := time.Now()
	lab.ArchiveAt(t, url)
	if took := time.Since(began); took < 300*time.Millisecond {
		t.Errorf("it took %v: nobody waited", took)
	}
	var lease int64
	lab.NoError(t, "look", raw.QueryRow("SELECT applied_at FROM sync_schema WHERE version = 0").Scan(&lease))
	if lease != 0 {
		t.Error("the lock was not given back")
	}
}

func TestNewerSchemaIsRefused(t *testing.T) {
	for _, srv := range lab.SQLServers {
		t.Run(srv.Name, func(t *testing.T) {
			t.Run("with tables", func(t *testing.T) {
				url := srv.URL(t)
				lab.NoError(t, "apply", lab.Applied(lab.ArchiveAt(t, url).Apply(lab.Bounded(t), []syncengine.Record{storetest.Put("a", 1, `1`)})))
				raw := srv.Raw(t, url)
				_, err := raw.ExecContext(lab.Bounded(t), "INSERT INTO sync_schema (version, applied_at) VALUES (999, 1)")
				lab.NoError(t, "insert", err)
				refusesSchema(t, &srv, url, raw)
			})
			t.Run("without tables", func(t *testing.T) { // of a layout this build does not know
				url := srv.URL(t)
				raw := srv.Raw(t, url)
				_, err := raw.ExecContext(lab.Bounded(t), "CREATE TABLE sync_schema (version INTEGER NOT NULL PRIMARY KEY, applied_at BIGINT NOT NULL)")
				lab.NoError(t, "create", err)
				_, err = raw.ExecContext(lab.Bounded(t), "INSERT INTO sync_schema (version, applied_at) VALUES (2, 1), (999, 1)")
				lab.NoError(t, "insert", err)
				refusesSchema(t, &srv, url, raw)
			})
		})
	}
}

func refusesSchema(t *testing.T, srv *lab.SQLServer, url string, raw *sql.DB) {
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
	check("prepare", lab.UnpreparedAt(t, url).Prepare(lab.Bounded(t)))
	e, err := syncengine.Open(lab.Bounded(t), syncengine.Config{Dir: t.TempDir(), SQLURL: url})
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
	for _, srv := range lab.SQLServers {
		t.Run(srv.Name, func(t *testing.T) {
			url := srv.URL(t)
			stores := make([]syncengine.ArchiveStore, 6)
			for i := range stores {
				stores[i] = lab.UnpreparedAt(t, url)
			}
			var wg sync.WaitGroup
			for i, s := range stores {
				wg.Add(1)
				go func() {
					defer wg.Done()
					if err := s.Prepare(lab.Bounded(t)); err != nil {
						t.Errorf("store %d: %v", i, err)
					}
				}()
			}
			wg.Wait()
			lab.NoError(t, "apply", lab.Applied(stores[0].Apply(lab.Bounded(t), []syncengine.Record{storetest.Put("a", 1, `1`)})))
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
		for _, srv := range lab.SQLServers {
			if srv.Name != tc.server {
				continue
			}
			t.Run(srv.Name+": "+tc.name, func(t *testing.T) {
				url := srv.URL(t)
				s, raw := lab.ArchiveAt(t, url), srv.Raw(t, url)
				held := storetest.Put("held", 1, `1`)
				lab.NoError(t, "apply", lab.Applied(s.Apply(lab.Bounded(t), []syncengine.Record{held})))
				_, err := raw.ExecContext(lab.Bounded(t), tc.rule)
				lab.NoError(t, "rule", err)
				// Rows enough for several statements, the bad one in the middle.
				recs := []syncengine.Record{storetest.Put("held", 2, `2`)}
				for i := range 700 {
					recs = append(recs, storetest.Put(fmt.Sprintf("row-%03d", i), 1, `1`))
				}
				recs[400].HomeInstanceID = "bad"
				_, err = s.Apply(lab.Bounded(t), recs)
				var refused *syncengine.RefusedError
				if !errors.As(err, &refused) || !errors.Is(err, syncengine.ErrRefused) || errors.Is(err, syncengine.ErrUnavailable) {
					t.Fatalf("apply: %v, want a *RefusedError", err)
				}
				if !strings.Contains(err.Error(), "no_bad") {
					t.Errorf("the error does not say why: %v", err)
				}
				lab.WantRows(t, raw, 1)
				wantRecord(t, s, held)
				// The connection is fit for the next transaction.
				recs[400].HomeInstanceID = "good"
				lab.NoError(t, "apply", lab.Applied(s.Apply(lab.Bounded(t), recs)))
				lab.WantRows(t, raw, 701)
			})
		}
	}
}

// A record that the server's max_allowed_packet can't take is refused; what fits is split;
// and the refusal says nothing about the records after it (INV-9).
func TestRecordBeyondThePacketIsRefused(t *testing.T) {
	srv := testserver.MariaDB(t, "--max-allowed-packet=1M")
	s := lab.ArchiveAt(t, srv.URL())
	big := func(id string, n int) syncengine.Record {
		return storetest.Put(id, 1, `"`+strings.Repeat("x", n)+`"`)
	}
	var recs []syncengine.Record
	for i := range 12 {
		recs = append(recs, big(fmt.Sprintf("fits-%02d", i), 300_000))
	}
	lab.NoError(t, "apply", lab.Applied(s.Apply(lab.Bounded(t), recs)))
	_, err := s.Apply(lab.Bounded(t), append(recs[:0:0], storetest.Put("a", 1, `1`), big("b", 2<<20), storetest.Put("c", 1, `1`)))
	var refused *syncengine.RefusedError
	if !errors.As(err, &refused) {
		t.Errorf("apply of 2 MiB: %v, want a *RefusedError", err)
	}
	lab.WantRows(t, srv.SQL(t), 12)
	lab.NoError(t, "apply", lab.Applied(s.Apply(lab.Bounded(t), []syncengine.Record{storetest.Put("a", 1, `1`)})))
}

// Statements are cut to the server's limit, also where the driver of a caller's own handle
// believes in a larger one.
func TestStatementsFitTheServersPacket(t *testing.T) {
	srv := testserver.MariaDB(t, "--max-allowed-packet=1M")
	s := syncengine.NewSQLStore(syncengine.DialectMySQL, lab.OpenDriver(t, "mysql", testserver.DSN(t, srv.URL())))
	t.Cleanup(func() { _ = s.Close() })
	lab.NoError(t, "prepare", s.Prepare(lab.Bounded(t)))
	var recs []syncengine.Record
	for i := range 300 {
		recs = append(recs, storetest.Put(fmt.Sprintf("row-%03d", i), 1, `"`+strings.Repeat("x", i*200)+`"`))
	}
	lab.NoError(t, "apply", lab.Applied(s.Apply(lab.Bounded(t), recs)))
	for _, r := range []syncengine.Record{recs[0], recs[128], recs[299]} {
		wantRecord(t, s, r)
	}
	lab.WantRows(t, srv.SQL(t), 300)
}

// With the smallest packets there are as few ids in a statement as fit, and batches are halved
// until what is written of them does.
func TestAServerOfSmallPacketsIsEnough(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	url := testserver.MariaDB(t, "--max-allowed-packet=16K").URL()
	cfg := syncengine.Config{Dir: t.TempDir(), SQLURL: url, RedisURL: testserver.SharedRedis(t).URL(), KeyPrefix: lab.NewPrefix()}
	e := lab.Open(t, cfg)
	long := strings.Repeat("i", 500)
	var ids []string
	for i := range 1500 {
		id := fmt.Sprint("short-", i)
		if i%2 == 1 {
			id = fmt.Sprint(long, i)
		}
		ids = append(ids, id)
		lab.Must(t, e.Submit(ctx, syncengine.Item{ID: id, Content: lab.Doc(id, i)}, syncengine.WithDurability(syncengine.Buffered), syncengine.WithTTL(time.Hour)))
	}
	lab.Must(t, e.Delete(ctx, ids[0]))
	lab.Must(t, e.Flush(ctx))
	large := make([]byte, 20<<10) // also when it is compressed
	for i := range large {
		large[i] = byte(rand.Uint32())
	}
	lab.Must(t, e.Submit(ctx, syncengine.Item{ID: "large", Content: fmt.Appendf(nil, `"%x"`, large)}))
	if err := e.Flush(ctx); !errors.Is(err, syncengine.ErrRefused) {
		t.Errorf("what is larger than a packet: %v", err)
	}
	if n, err := e.DiscardQuarantined(ctx, "large"); n != 1 || err != nil {
		t.Errorf("in quarantine beside that: %d, %v", n, err)
	}
	if q, err := e.Quarantined(ctx); len(q) != 0 || err != nil {
		t.Errorf("in quarantine: %d ops, %v", len(q), err)
	}
	cfg.Dir, cfg.KeyPrefix = "", lab.NewPrefix() // a Redis that has nothing: all branches are looked at
	fresh := lab.Open(t, cfg)
	if r, err := fresh.Verify(ctx, syncengine.VerifyOptions{Deep: true, Repair: true}); err != nil || r.Repaired != len(r.Divergent) || r.WrongBranches != 0 {
		t.Errorf("Verify: %d of %d repaired, %v", r.Repaired, len(r.Divergent), err)
	}
	items, err := fresh.GetMany(ctx, ids)
	lab.Must(t, err)
	for i, it := range items {
		if (it == nil) != (i == 0) {
			t.Errorf("%.20s: %v", ids[i], it)
		}
	}
	if n, err := fresh.DeletePrefix(ctx, long); n != 750 || err != nil {
		t.Errorf("DeletePrefix: %d, %v", n, err)
	}
	lab.Must(t, fresh.Flush(ctx))
}

// No call holds a connection while it waits for another one: a pool of one is enough, and
// as many writers as there are connections don't wait for each other for ever.
func TestAPoolOfOneConnectionIsEnough(t *testing.T) {
	for _, srv := range lab.SQLServers {
		t.Run(srv.Name, func(t *testing.T) {
			url := srv.URL(t)
			db, dialect := srv.Raw(t, url), syncengine.DialectSQLite
			if srv.Name == "MariaDB" {
				dialect = syncengine.DialectMySQL
			}
			db.SetMaxOpenConns(1)
			s := syncengine.NewSQLStore(dialect, db)
			t.Cleanup(func() { _ = s.Close() })
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			lab.NoError(t, "prepare", s.Prepare(ctx))
			lab.NoError(t, "apply", lab.Applied(s.Apply(ctx, []syncengine.Record{storetest.Put("a", 1, `1`), storetest.Put("b", 1, `1`), storetest.Put("c", 1, `1`)})))
			_, err := s.GetMany(ctx, []string{"a", "b"})
			lab.NoError(t, "get many", err)
			wantRecord(t, s, storetest.Put("a", 1, `1`))
			page, err := s.Scan(ctx, "", 10)
			if err != nil || len(page) != 3 {
				t.Errorf("scan: %v, %v", page, err)
			}
			_, err = s.PurgeTombstones(ctx, time.Unix(1, 0), 1)
			lab.NoError(t, "purge", err)
			lab.NoError(t, "ping", s.Ping(ctx))
		})
	}
}

// A server that is gone is an outage to every method, and nothing worse.
func TestServersThatAreGone(t *testing.T) {
	t.Run("Redis", func(t *testing.T) {
		srv := testserver.Redis(t)
		s := syncengine.NewRedisStore(lab.RedisAt(t, srv.URL()), "p:", time.Hour, false)
		lab.NoError(t, "put", s.Put(lab.Bounded(t), []syncengine.Record{storetest.Put("a", 1, `1`)}))
		calls := map[string]func() error{
			"Get":     func() error { _, err := s.Get(lab.Bounded(t), "a"); return err },
			"GetMany": func() error { _, err := s.GetMany(lab.Bounded(t), []string{"a", "b"}); return err },
			"Put":     func() error { return s.Put(lab.Bounded(t), []syncengine.Record{storetest.Put("a", 2, `2`)}) },
			"Remove":  func() error { return s.Remove(lab.Bounded(t), []string{"a"}) },
			"Scan":    func() error { return s.Scan(lab.Bounded(t), func([]string) error { return nil }) },
			"Ping":    func() error { return s.Ping(lab.Bounded(t)) },
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
		s, fresh := lab.ArchiveAt(t, srv.URL()), lab.UnpreparedAt(t, srv.URL())
		lab.NoError(t, "apply", lab.Applied(s.Apply(lab.Bounded(t), []syncengine.Record{storetest.Put("a", 1, `1`)})))
		calls := map[string]func() error{
			"Get":     func() error { _, err := s.Get(lab.Bounded(t), "a"); return err },
			"GetMany": func() error { _, err := s.GetMany(lab.Bounded(t), []string{"a", "b"}); return err },
			"Apply": func() error {
				return lab.Applied(s.Apply(lab.Bounded(t), []syncengine.Record{storetest.Put("a", 2, `2`)}))
			},
			"Scan":            func() error { _, err := s.Scan(lab.Bounded(t), "", 10); return err },
			"PurgeTombstones": func() error { _, err := s.PurgeTombstones(lab.Bounded(t), time.Unix(1, 0), 1); return err },
			"Ping":            func() error { return s.Ping(lab.Bounded(t)) },
			"Prepare":         func() error { return fresh.Prepare(lab.Bounded(t)) },
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

// What a DBA runs by hand makes of tables of any version what Open makes in an empty database.
func TestSchemaUpgradeEndsAtTheSchema(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	open := map[syncengine.Dialect]func(t *testing.T) *sql.DB{
		syncengine.DialectSQLite: func(t *testing.T) *sql.DB {
			return lab.OpenDriver(t, "sqlite", filepath.Join(t.TempDir(), "own.db"))
		},
		syncengine.DialectMySQL: func(t *testing.T) *sql.DB {
			return testserver.OpenSQL(t, testserver.SharedMariaDB(t).NewDatabase(t))
		},
	}
	for d, open := range open {
		t.Run(string(d), func(t *testing.T) {
			run := func(t *testing.T, db *sql.DB, statements []string) {
				for _, text := range statements {
					_, err := db.Exec(text)
					lab.NoError(t, text, err)
				}
			}
			db := open(t)
			run(t, db, syncengine.Schema(d))
			want := tablesOf(t, db, d)
			var newest int
			lab.Must(t, db.QueryRow("SELECT MAX(version) FROM sync_schema").Scan(&newest))
			if more := syncengine.SchemaUpgrade(d, "", newest); len(more) != 0 || newest < 8 {
				t.Errorf("beyond version %d: %q", newest, more)
			}
			for version := range newest {
				db := open(t)
				if version > 0 {
					lab.Must(t, syncengine.MigrateTo(ctx, db, d, version))
				}
				run(t, db, syncengine.SchemaUpgrade(d, "", version))
				if got := tablesOf(t, db, d); !maps.Equal(got, want) {
					t.Errorf("from version %d: %v, want %v", version, got, want)
				}
				s := syncengine.NewSQLStore(d, db)
				lab.NoError(t, "prepare", s.Prepare(ctx))
			}
		})
	}
	if got := append(syncengine.SchemaUpgrade("Oracle", "", 1), syncengine.SchemaUpgrade(syncengine.DialectSQLite, "x y", 0)...); got != nil {
		t.Error(got)
	}
}

// TestAMigrationThatWasCutOffIsRepeated on a server whose DDL can't be rolled back: after any of
// its statements.
func TestAMigrationThatWasCutOffIsRepeated(t *testing.T) {
	t.Parallel()
	server, ctx := testserver.SharedMariaDB(t), context.Background()
	all := syncengine.Schema(syncengine.DialectMySQL)
	var want map[string]string
	for done := len(all); done > 0; done-- {
		url := server.NewDatabase(t)
		db := testserver.OpenSQL(t, url)
		for n, text := range all[:done] {
			_, err := db.Exec(text)
			lab.NoError(t, text, err)
			if n == 0 { // the lock of a process that is gone
				_, err = db.Exec("INSERT INTO sync_schema (version, applied_at) VALUES (0, 1)")
				lab.Must(t, err)
			}
		}
		lab.NoError(t, "prepare after "+all[done-1], syncengine.NewSQLStore(syncengine.DialectMySQL, db).Prepare(ctx))
		got := tablesOf(t, db, syncengine.DialectMySQL)
		if want == nil {
			want = got
		}
		if !maps.Equal(got, want) {
			t.Errorf("after %s: %v, want %v", all[done-1], got, want)
		}
	}
}

// To prepare a database takes more than any one call of it, above all where it is far away.
func TestAFarDatabaseIsPreparedInSteps(t *testing.T) {
	t.Parallel()
	server := testserver.SharedMariaDB(t)
	p := faultproxy.New(t, server.Addr())
	p.Delay(10 * time.Millisecond) // each way: some four seconds for all of it
	url := lab.Via(t, server.NewDatabase(t), p)
	e := lab.OpenAsIs(t, syncengine.Config{Dir: t.TempDir(), SQLURL: url, L3Timeout: 500 * time.Millisecond})
	lab.Eventually(t, "L3 is there", func() bool {
		_, err := e.GetVerified(context.Background(), "x")
		return errors.Is(err, syncengine.ErrNotFound)
	})
}

// A migration of which a step was cut off leaves no lock behind that anybody has to wait for, and
// no session that waits for tables otherwise than before.
func TestAMigrationThatIsCutOffUnlocks(t *testing.T) {
	t.Parallel()
	server, ctx := testserver.SharedMariaDB(t), context.Background()
	url := server.NewDatabase(t)
	p := faultproxy.New(t, server.Addr())
	pool, direct := testserver.OpenSQL(t, lab.Via(t, url, p)), testserver.OpenSQL(t, url)
	pool.SetMaxOpenConns(1)
	s := syncengine.NewSQLStore(syncengine.DialectMySQL, pool)
	p.SwallowReplyTo("CREATE TABLE IF NOT EXISTS sync_deltas")
	if err := s.Prepare(ctx); !errors.Is(err, syncengine.ErrUnavailable) {
		t.Fatal(err)
	}
	if p.Swallowed() != 1 {
		t.Fatalf("%d replies are lost", p.Swallowed())
	}
	if until := lab.Number(t, direct, "SELECT applied_at FROM sync_schema WHERE version = 0"); until != 0 {
		t.Errorf("the schema is locked until %d", until)
	}
	tx, err := direct.Begin()
	lab.Must(t, err)
	_, err = tx.Exec("UPDATE sync_schema SET applied_at = 1 WHERE version = 0")
	lab.Must(t, err)
	if err := syncengine.PrepareInSteps(ctx, s, 200*time.Millisecond); !errors.Is(err, syncengine.ErrUnavailable) || !strings.Contains(err.Error(), "did not answer in time") {
		t.Errorf("while the lock can't be taken: %v", err)
	}
	lab.Must(t, tx.Rollback())
	lab.Must(t, s.Prepare(ctx))
	if n := lab.Number(t, pool, "SELECT @@lock_wait_timeout = @@global.lock_wait_timeout"); n != 1 {
		t.Error("the session waits otherwise than before")
	}
}

// Who comes after one that waits to alter a table waits for that one: so it does not wait long.
func TestAMigrationWaitsForNoTableForLong(t *testing.T) {
	t.Parallel()
	url := testserver.SharedMariaDB(t).NewDatabase(t)
	db := testserver.OpenSQL(t, url)
	for _, text := range syncengine.Schema(syncengine.DialectMySQL)[:8] {
		_, err := db.Exec(text)
		lab.NoError(t, text, err)
	}
	tx, err := db.Begin()
	lab.Must(t, err)
	_, err = tx.Exec("SELECT * FROM sync_deltas")
	lab.Must(t, err)
	err = syncengine.NewSQLStore(syncengine.DialectMySQL, db).Prepare(context.Background())
	if err == nil || !errors.Is(err, syncengine.ErrUnavailable) || !strings.Contains(err.Error(), "somebody holds the table sync_deltas") {
		t.Errorf("while somebody reads a table that is to be altered: %v", err)
	}
	lab.Must(t, tx.Rollback())
	lab.Must(t, syncengine.NewSQLStore(syncengine.DialectMySQL, db).Prepare(context.Background()))
}

// tablesOf is how the tables and indexes of the engine are declared.
func tablesOf(t *testing.T, db *sql.DB, d syncengine.Dialect) map[string]string {
	t.Helper()
	text := "SELECT name, COALESCE(sql, '') FROM sqlite_master WHERE name LIKE 'sync%'"
	if d == syncengine.DialectMySQL {
		text = `SELECT CONCAT(table_name, '.', column_name), CONCAT_WS(' ', column_type, is_nullable, column_default, extra)
			FROM information_schema.columns WHERE table_schema = DATABASE()
			UNION ALL SELECT CONCAT(table_name, '#', index_name, seq_in_index), CONCAT(column_name, non_unique)
			FROM information_schema.statistics WHERE table_schema = DATABASE()`
	}
	rows, err := db.Query(text)
	lab.Must(t, err)
	out := make(map[string]string)
	for rows.Next() {
		var name, how string
		lab.Must(t, rows.Scan(&name, &how))
		out[name] = how
	}
	lab.Must(t, errors.Join(rows.Err(), rows.Close()))
	if len(out) < 10 {
		t.Fatalf("only %v", out)
	}
	return out
}
