package table

// load_test.go is what both sides of a row are given: ids, documents, servers, callers.

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	_ "github.com/go-sql-driver/mysql"
	"github.com/redis/go-redis/v9"
	"golang.org/x/sys/unix"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/backdoor"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

var ctx = context.Background()

// document is JSON of some 300 bytes.
var document = []byte(`{"name":"example item","tags":["a","b","c"],"count":12345,"nested":{"x":1.5,"y":true,"text":"` +
	strings.Repeat("lorem ipsum ", 16) + `"}}`)

func idsOf(n int) []string {
	ids := make([]string, n)
	for i := range ids {
		ids[i] = fmt.Sprintf("item:%09d", i)
	}
	return ids
}

// scattered is the n-th of count in an order that is not sorted.
func scattered(n int64, count int) int { return int(n * 7919 % int64(count)) }

// each calls fn n times from so many callers, with 0 to n-1, and returns what one call took of the
// time that all took.
func each(t testing.TB, callers, n int, fn func(n int64) error) time.Duration {
	t.Helper()
	var next atomic.Int64
	var wg sync.WaitGroup
	start := time.Now()
	for range callers {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
				if err := fn(i); err != nil {
					t.Errorf("call %d: %v", i, err)
					return
				}
			}
		})
	}
	wg.Wait()
	return time.Since(start) / time.Duration(n)
}

var (
	servers    sync.Once
	mariaDB    *testserver.Server
	redisStore *testserver.Server
)

// start starts the servers, once for the whole run.
func start(t *testing.T) {
	servers.Do(func() {
		parent := longest{t}
		mariaDB = testserver.MariaDB(parent, "--innodb-buffer-pool-size=1G", "--innodb-log-file-size=512M")
		redisStore = testserver.Redis(parent)
	})
}

// longest is a test whose servers stay until the program ends.
type longest struct{ *testing.T }

func (longest) Cleanup(fn func()) { atEnd = append(atEnd, fn) }

// Log is for what comes when the test has ended.
func (longest) Log(args ...any) { fmt.Fprintln(os.Stderr, args...) }

var atEnd []func()

func newMariaDB(t *testing.T) string { start(t); return mariaDB.NewDatabase(t) }

func newSQLite(t *testing.T) string { return "sqlite:" + t.TempDir() + "/l3.db" }

// newRedis is the one Redis, emptied.
func newRedis(t *testing.T) string {
	start(t)
	c := redisClient(t)
	ok(t, c.FlushAll(ctx).Err())
	return redisStore.URL()
}

func redisClient(t *testing.T) *redis.Client {
	start(t)
	c := redis.NewClient(must[*redis.Options](t)(redis.ParseURL(redisStore.URL())))
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func openMySQL(t *testing.T, url string) *sql.DB {
	db := must[*sql.DB](t)(sql.Open("mysql", testserver.DSN(t, url)))
	db.SetMaxOpenConns(16)
	db.SetMaxIdleConns(16)
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func openSQLite(t *testing.T, path string) *sql.DB {
	db := must[*sql.DB](t)(sql.Open("sqlite", "file:"+path+"?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)"))
	db.SetMaxOpenConns(1)
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// open opens an engine, in a directory of its own if none is given.
func open(t *testing.T, cfg syncengine.Config) *syncengine.Engine {
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	return must[*syncengine.Engine](t)(syncengine.Open(ctx, cfg))
}

// whole shuts e down, after which all it acknowledged is where it belongs.
func whole(t testing.TB, e *syncengine.Engine) { ok(t, e.Close()) }

// drop drops a database that newMariaDB made, so that the next measurement has the server's memory.
func drop(t *testing.T, url string) {
	db := openMySQL(t, url)
	name := url[strings.LastIndexByte(url, '/')+1:]
	if at := strings.IndexByte(name, '?'); at >= 0 {
		name = name[:at]
	}
	must[sql.Result](t)(db.Exec("DROP DATABASE `" + name + "`"))
}

// datasync makes what was written to f durable.
func datasync(f *os.File) error { return unix.Fdatasync(int(f.Fd())) }

// store is L3 as an engine makes it from a URL.
func store(t *testing.T, url string) syncengine.ArchiveStore {
	return must[any](t)(backdoor.OpenSQLStore(url)).(syncengine.ArchiveStore)
}

// await returns once what the engine tells nobody of has come. It sleeps, since nothing signals it,
// and shortly, since the wait is measured.
func await(t *testing.T, there func() bool) {
	t.Helper()
	for start := time.Now(); !there(); time.Sleep(100 * time.Microsecond) { // see above
		if time.Since(start) > 10*time.Minute {
			t.Fatal("it does not come")
		}
	}
}

// inRedis fails unless Redis has so many documents: a batch is flushed when it is there as well.
// Keys of the engine's own have a byte 0.
func inRedis(t *testing.T, want int) {
	t.Helper()
	c := redisClient(t)
	got := int(must[int64](t)(c.DBSize(ctx).Result()))
	for own := c.Scan(ctx, 0, "*\x00*", 10_000).Iterator(); own.Next(ctx); {
		got--
	}
	if got != want {
		t.Fatalf("Redis has %d documents, want %d", got, want)
	}
}
