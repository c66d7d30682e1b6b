package table

// read_test.go are the rows about reads that memory does not answer. It holds a hundredth of the
// items.

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/dgraph-io/ristretto/v2"
	gocache "github.com/go-redis/cache/v9"
	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/singleflight"

	"github.com/syncengine-go/syncengine"
)

const below = 50_000 // items in L2 or L3

var readRows = func() (rows []row) {
	for _, callers := range []int{1, 16} {
		who := fmt.Sprintf(", %d callers", callers)
		n := 8000 * min(callers, 4)
		of := func(fn func(t *testing.T, callers, n int) time.Duration) func(t *testing.T) time.Duration {
			return func(t *testing.T) time.Duration { return fn(t, callers, n) }
		}
		rows = append(rows,
			row{work: "Get from Redis, beside go-redis GET" + who, goal: 1.15, ours: of(engineL2), theirs: of(plainGET)},
			row{work: "Get from Redis, beside cache-aside by hand" + who, ours: of(engineL2), theirs: of(asideGET)},
			row{work: "Get from Redis, beside go-redis/cache" + who, ours: of(engineL2), theirs: of(cacheGET)},
			row{work: "Get from MariaDB, beside a prepared SELECT" + who, goal: 1.15, ours: of(engineMariaDB), theirs: of(plainMariaDB)},
			row{work: "Get from SQLite, beside a prepared SELECT" + who, goal: 1.15, ours: of(engineSQLite), theirs: of(plainSQLite)},
		)
	}
	return rows
}()

func engineL2(t *testing.T, callers, n int) time.Duration {
	return engineReads(t, syncengine.Config{SQLURL: newSQLite(t), RedisURL: newRedis(t)}, callers, n)
}

func engineMariaDB(t *testing.T, callers, n int) time.Duration {
	return engineReads(t, syncengine.Config{SQLURL: newMariaDB(t)}, callers, n)
}

func engineSQLite(t *testing.T, callers, n int) time.Duration {
	return engineReads(t, syncengine.Config{SQLURL: newSQLite(t)}, callers, n)
}

func engineReads(t *testing.T, cfg syncengine.Config, callers, n int) time.Duration {
	cfg.L1MaxBytes, cfg.Durability, cfg.MaxItemBytes = below*(int64(len(document))+200)/100, syncengine.Buffered, 10_000
	e := open(t, cfg)
	defer whole(t, e)
	for _, id := range idsOf(below) {
		err := e.Submit(ctx, syncengine.Item{ID: id, Content: document})
		for errors.Is(err, syncengine.ErrBackpressure) { // more than memory may hold waits
			ok(t, e.Flush(ctx))
			err = e.Submit(ctx, syncengine.Item{ID: id, Content: document})
		}
		ok(t, err)
	}
	ok(t, e.Flush(ctx))
	settle(t, e)
	return reading(t, callers, n, func(id string) (int, error) {
		it, err := e.Get(ctx, id)
		return len(it.Content), err
	})
}

// reading reads ids in an order that is not sorted, and checks what it gets.
func reading(t *testing.T, callers, n int, get func(id string) (int, error)) time.Duration {
	ids := idsOf(below)
	return each(t, callers, n, func(i int64) error {
		got, err := get(ids[scattered(i, below)])
		if err == nil && got != len(document) {
			err = fmt.Errorf("%d bytes, want %d", got, len(document))
		}
		return err
	})
}

// settle returns when e has nothing under way.
func settle(t *testing.T, e *syncengine.Engine) {
	await(t, func() bool { return e.Stats().PendingOps == 0 && e.Stats().FilterTrusted })
	time.Sleep(200 * time.Millisecond) // the verification that follows Open tells nobody when it has ended
}

func fillRedis(t *testing.T) *redis.Client {
	newRedis(t)
	c := redisClient(t)
	for i, ids := 0, idsOf(below); i < below; i += 1000 {
		p := c.Pipeline()
		for _, id := range ids[i : i+1000] {
			p.Set(ctx, id, document, 0)
		}
		must[[]redis.Cmder](t)(p.Exec(ctx))
	}
	return c
}

func plainGET(t *testing.T, callers, n int) time.Duration {
	c := fillRedis(t)
	return reading(t, callers, n, func(id string) (int, error) { b, err := c.Get(ctx, id).Bytes(); return len(b), err })
}

// asideGET is what a careful service writes by hand: a small cache in memory, one load an id at a
// time, Redis, and SQL behind it.
func asideGET(t *testing.T, callers, n int) time.Duration {
	c := fillRedis(t)
	db := openSQLite(t, t.TempDir()+"/aside.db")
	must[sql.Result](t)(db.Exec("CREATE TABLE items (id TEXT PRIMARY KEY, content BLOB) WITHOUT ROWID"))
	sel := must[*sql.Stmt](t)(db.Prepare("SELECT content FROM items WHERE id = ?"))
	mem := must[*ristretto.Cache[string, []byte]](t)(ristretto.NewCache(&ristretto.Config[string, []byte]{
		NumCounters: below, MaxCost: below / 100 * int64(len(document)+200), BufferItems: 64}))
	defer mem.Close()
	var group singleflight.Group
	return reading(t, callers, n, func(id string) (int, error) {
		if b, ok := mem.Get(id); ok {
			return len(b), nil
		}
		v, err, _ := group.Do(id, func() (any, error) {
			ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
			defer cancel()
			b, err := c.Get(ctx, id).Bytes()
			if errors.Is(err, redis.Nil) {
				err = sel.QueryRowContext(ctx, id).Scan(&b)
			}
			if err == nil {
				mem.Set(id, b, int64(len(b)))
			}
			return b, err
		})
		if err != nil {
			return 0, err
		}
		return len(v.([]byte)), nil
	})
}

func cacheGET(t *testing.T, callers, n int) time.Duration {
	c := fillRedis(t)
	cc := gocache.New(&gocache.Options{Redis: c, LocalCache: gocache.NewTinyLFU(below/100, time.Hour),
		Marshal:   func(v any) ([]byte, error) { return v.([]byte), nil },
		Unmarshal: func(b []byte, v any) error { *v.(*[]byte) = append((*v.(*[]byte))[:0], b...); return nil }})
	return reading(t, callers, n, func(id string) (int, error) {
		var b []byte
		err := cc.Get(ctx, id, &b)
		return len(b), err
	})
}

func plainMariaDB(t *testing.T, callers, n int) time.Duration {
	db := openMySQL(t, newMariaDB(t))
	must[sql.Result](t)(db.Exec("CREATE TABLE items (id VARBINARY(512) NOT NULL PRIMARY KEY, content LONGBLOB)"))
	return plainSELECT(t, db, callers, n)
}

func plainSQLite(t *testing.T, callers, n int) time.Duration {
	db := openSQLite(t, t.TempDir()+"/plain.db")
	must[sql.Result](t)(db.Exec("CREATE TABLE items (id TEXT PRIMARY KEY, content BLOB) WITHOUT ROWID"))
	db.SetMaxOpenConns(4)
	return plainSELECT(t, db, callers, n)
}

func plainSELECT(t *testing.T, db *sql.DB, callers, n int) time.Duration {
	tx := must[*sql.Tx](t)(db.Begin())
	for _, id := range idsOf(below) {
		must[sql.Result](t)(tx.Exec("INSERT INTO items VALUES (?, ?)", id, document))
	}
	ok(t, tx.Commit())
	sel := must[*sql.Stmt](t)(db.Prepare("SELECT content FROM items WHERE id = ?"))
	return reading(t, callers, n, func(id string) (int, error) {
		var b []byte
		err := sel.QueryRowContext(ctx, id).Scan(&b)
		return len(b), err
	})
}
