package lab

import (
	"database/sql"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/faultproxy"
	"github.com/syncengine-go/syncengine/internal/rediskit"
	"github.com/syncengine-go/syncengine/internal/sqlkit"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

// Via returns a database or Redis URL that goes through a proxy.
func Via(t testing.TB, rawURL string, p *faultproxy.Proxy) string {
	t.Helper()
	u, err := url.Parse(rawURL)
	Must(t, err)
	u.Host = p.Addr()
	return u.String()
}

// BehindRedis opens two engines on one MariaDB and one Redis, the first of which reaches Redis
// through p, and gives it time: held there, its writes are in SQL and not yet in memory. Copies in
// memory stay for as long as nobody tells of a write.
func BehindRedis(t testing.TB) (behind, direct *syncengine.Engine, raw *sql.DB, p *faultproxy.Proxy) {
	t.Helper()
	url, redis := testserver.SharedMariaDB(t).NewDatabase(t), testserver.SharedRedis(t)
	p = faultproxy.New(t, redis.Addr())
	cfg := syncengine.Config{SQLURL: url, KeyPrefix: NewPrefix(), L1MaxAge: time.Hour, L2Timeout: time.Minute}
	through := cfg
	through.RedisURL, cfg.RedisURL = Via(t, redis.URL(), p), redis.URL()
	return Open(t, through), Open(t, cfg), testserver.OpenSQL(t, url), p
}

var prefixes atomic.Int64

// NewPrefix is a key prefix that no other test of this run uses.
func NewPrefix() string { return fmt.Sprintf("stores-%d:", prefixes.Add(1)) }

// RedisAt opens url as Open does, for the test.
func RedisAt(t testing.TB, url string) redis.UniversalClient {
	t.Helper()
	c, err := rediskit.Open(url)
	NoError(t, "open redis", err)
	t.Cleanup(func() { _ = c.Close() }) // a test may have closed it already
	return c
}

// ArchiveAt opens url as Open does, prepared, for the test.
func ArchiveAt(t testing.TB, url string) syncengine.ArchiveStore {
	t.Helper()
	s := UnpreparedAt(t, url)
	NoError(t, "prepare", s.Prepare(Bounded(t)))
	return s
}

// UnpreparedAt opens url as Open does, not prepared yet, for the test.
func UnpreparedAt(t testing.TB, url string) syncengine.ArchiveStore {
	t.Helper()
	s, err := OpenSQLStore(url)
	NoError(t, "open sql", err)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

// SQLServer is a kind of L3 that tests run on.
type SQLServer struct {
	Name string
	URL  func(t testing.TB) string              // of an empty database
	Raw  func(t testing.TB, url string) *sql.DB // the same database from outside
	List string                                 // a query that describes the whole schema
}

// SQLServers are all kinds.
var SQLServers = []SQLServer{
	{
		Name: "SQLite",
		URL:  func(t testing.TB) string { return "sqlite:" + filepath.Join(t.TempDir(), "archive.db") },
		Raw: func(t testing.TB, url string) *sql.DB {
			db, err := sqlkit.OpenSQLite(strings.TrimPrefix(url, "sqlite:"), "")
			NoError(t, "open sqlite", err)
			t.Cleanup(func() { _ = db.Close() })
			return db
		},
		List: "SELECT name, COALESCE(sql, '') FROM sqlite_master ORDER BY name",
	},
	{
		Name: "MariaDB",
		URL:  func(t testing.TB) string { return testserver.SharedMariaDB(t).NewDatabase(t) },
		Raw:  func(t testing.TB, url string) *sql.DB { return testserver.OpenSQL(t, url) },
		List: `SELECT CONCAT(table_name, '.', column_name), CONCAT(column_type, COALESCE(collation_name, ''))
			FROM information_schema.columns WHERE table_schema = DATABASE() ORDER BY 1`,
	},
}

// OpenDriver opens a database with a driver of that name, for the test.
func OpenDriver(t testing.TB, driver, dsn string) *sql.DB {
	t.Helper()
	db, err := sql.Open(driver, dsn)
	NoError(t, "open "+driver, err)
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// Killed copies what a kill leaves in the directory of an engine that goes on.
func Killed(t testing.TB, dir string) (left string) {
	t.Helper()
	left = t.TempDir()
	Must(t, Image(dir, left, "wal.db"))
	return left
}

// Image copies a directory of an engine that goes on into one that is there, all as of one moment:
// nothing is committed meanwhile to databases in it, of which that of the log must be one.
func Image(dir, to string, databases ...string) error {
	for _, file := range databases {
		db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, file)+"?_pragma=busy_timeout(30000)&_txlock=immediate")
		if err != nil {
			return err
		}
		defer func() { _ = db.Close() }()
		tx, err := db.Begin()
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback() }()
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, f := range files {
		if strings.HasSuffix(f.Name(), "-shm") {
			continue // it is made anew from the -wal, and to close one is to let go of its locks
		}
		b, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err == nil {
			err = os.WriteFile(filepath.Join(to, f.Name()), b, 0o600)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// EachL3 runs a test over kinds of L3 that several engines may share.
func EachL3(t *testing.T, run func(t *testing.T, cfg syncengine.Config, raw *sql.DB)) {
	for _, srv := range SQLServers {
		t.Run(srv.Name, func(t *testing.T) {
			url := srv.URL(t)
			ArchiveAt(t, url)
			run(t, syncengine.Config{SQLURL: url}, srv.Raw(t, url))
		})
	}
}
