package neighbours

// setup_test.go opens engines on accounts, databases and servers that are not as they should be.

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/redis/go-redis/v9"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/storetest"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

// account makes an account with rights on a database, "" for none, and returns a URL for it.
func account(t testing.TB, admin *sql.DB, dbURL, name, rights string) string {
	t.Helper()
	u, err := url.Parse(dbURL)
	lab.Must(t, err)
	run := func(text string) {
		t.Helper()
		_, err := admin.Exec(text)
		lab.NoError(t, text, err)
	}
	run("CREATE USER IF NOT EXISTS '" + name + "'@'%' IDENTIFIED BY 'pw'")
	if rights != "" {
		run("GRANT " + rights + " ON `" + strings.TrimPrefix(u.Path, "/") + "`.* TO '" + name + "'@'%'")
	}
	u.User = url.UserPassword(name, "pw")
	return u.String()
}

// openFails opens an engine, and returns the *SetupError.
func openFails(t testing.TB, cfg syncengine.Config) *syncengine.SetupError {
	t.Helper()
	cfg.Dir = t.TempDir()
	e, err := syncengine.Open(context.Background(), cfg)
	if err == nil {
		_ = e.Close()
	}
	var se *syncengine.SetupError
	if !errors.As(err, &se) || !errors.Is(err, syncengine.ErrSetup) || se.Mend == "" || strings.Contains(err.Error(), "pw") {
		t.Fatalf("Open: %v", err)
	}
	return se
}

// TestOpenNamesTheRightThatIsMissing, and the statement it names mends it.
func TestOpenNamesTheRightThatIsMissing(t *testing.T) {
	server := testserver.SharedMariaDB(t)
	const all = "SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, INDEX"
	for n, lacks := range []string{"CREATE", "DELETE", "UPDATE", "INSERT", "ALTER"} {
		t.Run(lacks, func(t *testing.T) {
			dbURL := server.NewDatabase(t)
			admin := testserver.OpenSQL(t, dbURL)
			if lacks != "CREATE" && lacks != "ALTER" { // the tables are there
				lab.Must(t, lab.Open(t, syncengine.Config{SQLURL: dbURL}).Close())
			}
			u := account(t, admin, dbURL, fmt.Sprint("lacks", n), strings.Replace(strings.Replace(all, lacks+", ", "", 1), ", "+lacks, "", 1))
			failed := openFails(t, syncengine.Config{SQLURL: u})
			mend, daily := failed.Mend, lacks != "CREATE" && lacks != "ALTER"
			if !strings.HasSuffix(failed.Problem, " "+lacks) || !strings.Contains(mend, lacks) || strings.Contains(mend, "CREATE") == daily {
				t.Errorf("Open: %v", failed)
			}
			_, err := admin.Exec(mend)
			lab.NoError(t, mend, err)
			e := lab.Open(t, syncengine.Config{SQLURL: u})
			submit(t, e, "x", "1", archived)
			lab.Must(t, e.Delete(context.Background(), "x", archived))
		})
	}
}

// TestTheRightsThatAreDocumentedAreEnough, to make the tables and, once they are there, without,
// and in Redis: the statements are those of docs/operations.md.
func TestTheRightsThatAreDocumentedAreEnough(t *testing.T) {
	ctx := context.Background()
	doc, err := os.ReadFile("../../docs/operations.md")
	lab.Must(t, err)
	grants := regexp.MustCompile(`(?m)^GRANT (.*) ON .app.\.\* TO 'service'@'%';$`).FindAllStringSubmatch(string(doc), -1)
	acl := regexp.MustCompile(`(?m)^ACL SETUSER service .*$`).FindString(string(doc))
	if len(grants) != 2 || acl == "" {
		t.Fatalf("%q, %q", grants, acl)
	}
	dbURL := testserver.SharedMariaDB(t).NewDatabase(t)
	admin := testserver.OpenSQL(t, dbURL)
	lab.Must(t, lab.Open(t, syncengine.Config{SQLURL: account(t, admin, dbURL, "makes", grants[1][1])}).Close())
	redis := testserver.Redis(t)
	redis.Do(t, strings.Fields(acl)...)
	redisURL := mustParse(t, redis.URL())
	redisURL.User = url.UserPassword("service", "secret")
	cfg := syncengine.Config{SQLURL: account(t, admin, dbURL, "uses", grants[0][1]), RedisURL: redisURL.String()}
	e, other := lab.Open(t, cfg), lab.Open(t, cfg)
	lab.Eventually(t, "they listen, and Redis was compared", func() bool {
		return e.Stats().PushListens && other.Stats().PushListens && e.Stats().L2Missed == 0 && other.Stats().L2Missed == 0
	})
	var ids []string
	for n := range 100 {
		ids = append(ids, fmt.Sprint("x", n))
		submit(t, e, ids[n], "1", archived)
	}
	_, err = e.Update(ctx, "x1", func(it syncengine.Item, _ bool) (syncengine.Item, error) {
		it.Content = []byte("2")
		return it, nil
	})
	lab.Must(t, err)
	lab.Must(t, e.Delete(ctx, "x2", archived))
	redis.Do(t, "SET", "sync:x3", "garbage")
	redis.Do(t, "DEL", "sync:x4", "sync:x5")
	other.Invalidate(ids...)
	_, err = other.GetMany(ctx, ids[:50])
	lab.Must(t, err)
	if got := reads["Get"](other, "x60"); got != "1" {
		t.Error(got)
	}
	for _, e := range []*syncengine.Engine{e, other} {
		if _, err := e.Verify(ctx, syncengine.VerifyOptions{Deep: true, Repair: true}); err != nil {
			t.Error(err)
		}
		if h := e.Health(ctx); !h.L2.OK || !h.L3.OK {
			t.Errorf("%+v", h)
		}
	}
	if denied := redis.Do(t, "ACL", "LOG"); denied != "" {
		t.Errorf("Redis has denied: %s", denied)
	}
}

func TestOpenRefusesATableOfAnotherProgram(t *testing.T) {
	dbURL := testserver.SharedMariaDB(t).NewDatabase(t)
	_, err := testserver.OpenSQL(t, dbURL).Exec("CREATE TABLE sync_items (id INT PRIMARY KEY, name TEXT)")
	lab.Must(t, err)
	if se := openFails(t, syncengine.Config{SQLURL: dbURL}); !strings.Contains(se.Problem, "sync_items") {
		t.Errorf("%v", se)
	}
	var columns int
	lab.Must(t, testserver.OpenSQL(t, dbURL).QueryRow("SELECT COUNT(*) FROM information_schema.columns WHERE table_schema = DATABASE() AND table_name = 'sync_items'").Scan(&columns))
	if columns != 2 {
		t.Errorf("the table has %d columns now", columns)
	}
	path := t.TempDir() + "/other.db"
	_, err = lab.OpenDriver(t, "sqlite", path).Exec("CREATE TABLE sync_items (id INTEGER PRIMARY KEY, name TEXT)")
	lab.Must(t, err)
	openFails(t, syncengine.Config{SQLURL: "sqlite:" + path})
}

// A password is rotated under services that run: those go on without Redis.
func TestOpenRefusesAWrongPasswordOfRedis(t *testing.T) {
	t.Parallel()
	server, url := testserver.Redis(t, "--requirepass", "right"), testserver.SharedMariaDB(t).NewDatabase(t)
	for _, user := range []string{"", ":pw@", "nobody:pw@"} {
		if se := openFails(t, syncengine.Config{SQLURL: url, RedisURL: "redis://" + user + server.Addr()}); se.Server != "redis" || !strings.Contains(se.Problem, "password") {
			t.Errorf("%s: %v", user, se)
		}
	}
	client := redis.NewClient(&redis.Options{Addr: server.Addr(), Password: "pw"})
	defer client.Close()
	openFails(t, syncengine.Config{SQLURL: url, Redis: client})
	e := lab.Open(t, syncengine.Config{SQLURL: url, RedisURL: server.URL()})
	ctx := context.Background()
	admin := redis.NewClient(&redis.Options{Addr: server.Addr(), Password: "right", PoolSize: 1})
	defer admin.Close()
	lab.Must(t, admin.ConfigSet(ctx, "requirepass", "another").Err())
	defer func() { lab.Must(t, admin.ConfigSet(ctx, "requirepass", "right").Err()) }()
	lab.Must(t, admin.ClientKillByFilter(ctx, "TYPE", "normal", "SKIPME", "yes").Err())
	lab.Eventually(t, "Health tells", func() bool { return !e.Health(ctx).L2.OK })
	lab.Must(t, e.Submit(ctx, syncengine.Item{ID: "x", Content: []byte("1")}, syncengine.WithDurability(syncengine.Archived)))
}

func TestOpenRefusesAServerOfTooSmallPackets(t *testing.T) {
	t.Parallel()
	db := testserver.MariaDB(t, "--max-allowed-packet=8K")
	if se := openFails(t, syncengine.Config{SQLURL: db.URL()}); !strings.Contains(se.Problem, "max_allowed_packet") {
		t.Errorf("%v", se)
	}
}

func TestOpenRefusesASQLiteDatabaseInUTF16(t *testing.T) {
	for _, encoding := range []string{"UTF-16le", "UTF-16be"} {
		path := t.TempDir() + "/other.db"
		_, err := lab.OpenDriver(t, "sqlite", path).Exec("PRAGMA encoding = '" + encoding + "'; CREATE TABLE t (a)")
		lab.Must(t, err)
		if se := openFails(t, syncengine.Config{SQLURL: "sqlite:" + path}); !strings.Contains(se.Problem, encoding) {
			t.Errorf("%v", se)
		}
	}
}

var (
	mariaAlone     = regexp.MustCompile("ORACLE|EMPTY_STRING|alter.algorithm|timestamp=4") // MySQL does not have them
	alterAlgorithm = regexp.MustCompile("alter.algorithm.*(NOCOPY|INSTANT)")               // MariaDB takes no notice since 11.5
	since115       = regexp.MustCompile(`^(11\.([5-9]|\d\d)|1[2-9])\.`)
)

// hasNoSuch reports whether a setting means nothing to the server.
func hasNoSuch(t *testing.T, server *testserver.Server, setting string) bool {
	var version string
	lab.Must(t, server.SQL(t).QueryRow("SELECT VERSION()").Scan(&version))
	return testserver.IsMySQL() && mariaAlone.MatchString(setting) || alterAlgorithm.MatchString(setting) && since115.MatchString(version)
}

// TestSettingsOfTheServerDoNotMatter, but for a pool of the caller's own, which is refused.
func TestSettingsOfTheServerDoNotMatter(t *testing.T) {
	for _, setting := range []string{"--autocommit=0", "--sql-mode=EMPTY_STRING_IS_NULL", "--transaction-isolation=SERIALIZABLE", "--sql-mode=ORACLE,EMPTY_STRING_IS_NULL",
		"--init-connect=SET sql_safe_updates = 1, sql_select_limit = 3", "--init-connect=SET character_set_client = latin1",
		"--completion-type=CHAIN", "--completion-type=RELEASE", "--max-join-size=1", "--alter-algorithm=NOCOPY", "--alter-algorithm=INSTANT"} {
		if hasNoSuch(t, testserver.SharedMariaDB(t), setting) {
			continue
		}
		t.Run(setting, func(t *testing.T) {
			t.Parallel()
			db := testserver.MariaDB(t, setting)
			e := lab.Open(t, syncengine.Config{SQLURL: db.URL()})
			submit(t, e, "x", "1", archived)
			other := lab.Open(t, syncengine.Config{SQLURL: db.URL()})
			if got := reads["Get"](other, "x"); got != "1" {
				t.Errorf("another engine reads %s", got)
			}
			if strings.Contains(setting, "isolation") {
				return
			}
			u, err := url.Parse(db.URL())
			lab.Must(t, err)
			pass, _ := u.User.Password()
			c := mysql.NewConfig()
			c.User, c.Passwd, c.Net, c.Addr, c.DBName = u.User.Username(), pass, "tcp", u.Host, strings.TrimPrefix(u.Path, "/")
			own := lab.OpenDriver(t, "mysql", c.FormatDSN())
			openFails(t, syncengine.Config{DB: own, Dialect: syncengine.DialectMySQL})
		})
	}
}

// A variable that the server does not know, or with another value, does not get well.
func TestOpenFailsOnAVariableThatTheServerDoesNotTake(t *testing.T) {
	url := testserver.SharedMariaDB(t).NewDatabase(t)
	for _, option := range []string{"no_such_variable=1", "sql_mode=%27NO_SUCH_MODE%27"} {
		cfg := syncengine.Config{Dir: t.TempDir(), DB: lab.OpenDriver(t, "mysql", testserver.DSN(t, url)+"?"+option), Dialect: syncengine.DialectMySQL}
		if _, err := syncengine.Open(lab.Bounded(t), cfg); err == nil || errors.Is(err, syncengine.ErrUnavailable) || !strings.Contains(err.Error(), strings.Trim(strings.SplitAfter(option, "=")[0], "=")) {
			t.Errorf("%s: %v", option, err)
		}
	}
}

// An account, and a server, that a person has to mend.
func TestOpenFailsOnWhatOnlyAPersonMends(t *testing.T) {
	server := testserver.SharedMariaDB(t)
	dbURL := server.NewDatabase(t)
	admin := testserver.OpenSQL(t, dbURL)
	lab.Must(t, lab.Open(t, syncengine.Config{SQLURL: dbURL}).Close())
	for name, set := range map[string]string{"locked": "ALTER USER 'locked'@'%' ACCOUNT LOCK", "expired": "ALTER USER 'expired'@'%' PASSWORD EXPIRE"} {
		u := account(t, admin, dbURL, name, "SELECT, INSERT, UPDATE, DELETE")
		_, err := admin.Exec(set)
		lab.Must(t, err)
		if e, err := syncengine.Open(lab.Bounded(t), syncengine.Config{SQLURL: u, Dir: t.TempDir()}); err == nil || errors.Is(err, syncengine.ErrUnavailable) {
			t.Errorf("%s: %v", name, err)
			if err == nil {
				_ = e.Close()
			}
		}
		_, err = admin.Exec("DROP USER '" + name + "'@'%'")
		lab.Must(t, err)
	}
	db := testserver.MariaDB(t, "--log-bin=bin", "--server-id=1", "--binlog-format=STATEMENT")
	if se := openFails(t, syncengine.Config{SQLURL: db.URL()}); se.Mend != "SET GLOBAL binlog_format = ROW" {
		t.Errorf("%v", se)
	}
	_, err := db.SQL(t).Exec("SET GLOBAL binlog_format = ROW")
	lab.Must(t, err)
	submit(t, lab.Open(t, syncengine.Config{SQLURL: db.URL()}), "x", "1", archived)
}

// TestOptionsOfTheCallersPool: with some nothing would be right, which Open says; others do not
// matter.
func TestOptionsOfTheCallersPool(t *testing.T) {
	t.Parallel()
	for options, refused := range map[string]string{"sql_safe_updates=1": "sql_safe_updates", "sql_select_limit=3": "sql_select_limit", "sql_mode=%27ORACLE%27": "",
		"character_set_client=latin1": "character_set_client", "character_set_client=latin1&interpolateParams=true": "character_set_client",
		"character_set_connection=latin1": "character_set_client", "charset=latin1": "", "interpolateParams=true": "",
		"charset=gbk&interpolateParams=true": "gbk", "charset=sjis": "sjis", "charset=cp932": "cp932", "charset=big5": "big5",
		"completion_type=1": "CHAIN", "completion_type=2": "RELEASE", "completion_type=0": "", "timestamp=1000000": "timestamp", "timestamp=4000000000": "timestamp",
		"timestamp=DEFAULT": "", "max_join_size=1": "max_join_size", "sql_big_selects=0": "", "alter_algorithm=%27NOCOPY%27": "NOCOPY", "alter_algorithm=%27INSTANT%27": "INSTANT",
		"alter_algorithm=%27COPY%27": ""} {
		server := testserver.SharedMariaDB(t)
		if hasNoSuch(t, server, options) {
			continue
		}
		url := server.NewDatabase(t)
		cfg := syncengine.Config{DB: lab.OpenDriver(t, "mysql", testserver.DSN(t, url)+"?"+options), Dialect: syncengine.DialectMySQL}
		if refused != "" {
			if se := openFails(t, cfg); !strings.Contains(se.Problem, refused) {
				t.Errorf("%s: %v", options, se)
			}
			continue
		}
		e := lab.Open(t, cfg)
		submit(t, e, "x", "1", archived)
		submit(t, e, "x", "2", archived)
		if r, err := lab.ArchiveAt(t, url).Get(context.Background(), "x"); err != nil || string(r.Content) != "2" {
			t.Errorf("%s: %v, %v", options, r, err)
		}
	}
}

// TestHealthIsAboutWrites: of a server or an account that takes none, from Open on and while
// running; and users are told of one outage, not of each try.
func TestHealthIsAboutWrites(t *testing.T) {
	ctx := context.Background()
	db := testserver.MariaDB(t)
	admin := testserver.OpenSQL(t, db.URL())
	exec := func(text string) {
		t.Helper()
		_, err := admin.Exec(text)
		lab.NoError(t, text, err)
	}
	lab.Must(t, lab.Open(t, syncengine.Config{SQLURL: db.URL()}).Close())
	rights := "SELECT, INSERT, UPDATE, DELETE"
	u := account(t, admin, db.URL(), "service", rights)
	database := strings.TrimPrefix(mustParse(t, u).Path, "/")
	for name, c := range map[string]struct{ begin, end string }{ // the end is noticed on sessions that began before it
		"a read-only server":      {"SET GLOBAL read_only = 1", "SET GLOBAL read_only = 0"},
		"one right of them":       {"REVOKE INSERT ON `" + database + "`.* FROM 'service'@'%'", "GRANT INSERT ON `" + database + "`.* TO 'service'@'%'"},
		"a right that is no more": {"REVOKE DELETE, UPDATE, INSERT ON `" + database + "`.* FROM 'service'@'%'", "GRANT " + rights + " ON `" + database + "`.* TO 'service'@'%'"},
	} {
		t.Run(name, func(t *testing.T) {
			var told atomic.Int32
			events := syncengine.Events{L3Outage: func(bool, error) { told.Add(1) }}
			e := lab.Open(t, syncengine.Config{SQLURL: u, OnEvent: events})
			submit(t, e, "x", "1", archived)
			exec(c.begin)
			lab.KillConnections(t, admin, "service") // sessions keep their rights on a database
			submit(t, e, "x", "2")
			lab.Eventually(t, "Health says so", func() bool { return !e.Health(ctx).L3.OK })
			time.Sleep(3 * time.Second)
			if h := e.Health(ctx); h.L3.OK || told.Load() != 1 {
				t.Errorf("after a while: %+v; told %d times", h.L3, told.Load())
			}
			if got := reads["Get"](e, "x"); got != "2" {
				t.Error(got)
			}
			if strings.HasPrefix(name, "a read-only") { // at Open it is an outage; a missing right is for a person
				late := lab.Open(t, syncengine.Config{SQLURL: u})
				if h := late.Health(ctx); h.L3.OK {
					t.Errorf("opened on it: %+v", h.L3)
				}
				if got := reads["Get"](late, "x"); got != "1" {
					t.Errorf("it is read as it is: %s", got)
				}
			}
			exec(c.end)
			lab.Eventually(t, "Flush succeeds", func() bool { return e.Flush(ctx) == nil })
			lab.Eventually(t, "Health is well, and that is told", func() bool { return e.Health(ctx).L3.OK && told.Load() == 2 })
		})
	}
}

func mustParse(t testing.TB, raw string) *url.URL {
	t.Helper()
	u, err := url.Parse(raw)
	lab.Must(t, err)
	return u
}

// TestShortLivesLeaveNoMoreThanALongOne: deltas to fold, tombstones, engines.
func TestShortLivesLeaveNoMoreThanALongOne(t *testing.T) {
	ctx := context.Background()
	eachShared(t, func(t *testing.T, dbURL string) {
		cfg := syncengine.Config{SQLURL: dbURL, TombstoneRetention: time.Millisecond}
		for n := range 80 {
			cfg.Dir = t.TempDir()
			e, err := syncengine.Open(ctx, cfg)
			lab.Must(t, err)
			submit(t, e, fmt.Sprint("x", n%20), fmt.Sprint(n), archived)
			lab.Must(t, e.Delete(ctx, fmt.Sprint("gone", n%20), archived))
			lab.Must(t, e.Close())
		}
		var raw *sql.DB
		if path, ok := strings.CutPrefix(dbURL, "sqlite:"); ok {
			raw = lab.OpenDriver(t, "sqlite", path)
		} else {
			raw = testserver.OpenSQL(t, dbURL)
		}
		// The fence of joins stays.
		for table, most := range map[string]int{"sync_deltas": 40, "sync_instances": 0, "sync_fences": 1} {
			var n int
			lab.Must(t, raw.QueryRow("SELECT COUNT(*) FROM "+table).Scan(&n))
			if n > most {
				t.Errorf("%d rows in %s", n, table)
			}
		}
	})
}

// TestARedisOfAnotherDatabaseIsLeftAlone: at Open, and when it becomes that while an engine runs.
func TestARedisOfAnotherDatabaseIsLeftAlone(t *testing.T) {
	ctx := context.Background()
	server := testserver.SharedRedis(t)
	prefix := lab.NewPrefix()
	cfg := func() syncengine.Config {
		return syncengine.Config{SQLURL: testserver.SharedMariaDB(t).NewDatabase(t), RedisURL: server.URL(), KeyPrefix: prefix}
	}
	mine := cfg()
	a := lab.Open(t, mine)
	submit(t, a, "x", `"mine"`, archived)
	if se := openFails(t, cfg()); !strings.Contains(se.Mend, "KeyPrefix") {
		t.Errorf("%v", se)
	}
	b := lab.Open(t, mine) // of the same database
	if got := reads["Get"](b, "x"); got != `"mine"` {
		t.Error(got)
	}
	lab.Must(t, b.Close())

	redis := lab.RedisAt(t, server.URL())
	key := prefix + "\x00owner"
	owner, err := redis.Get(ctx, key).Result()
	lab.Must(t, err)
	lab.Must(t, redis.Set(ctx, key, "another/x", 0).Err())
	lab.Eventually(t, "Health says so", func() bool { return !a.Health(ctx).L2.OK })
	planted := storetest.Put("x", syncengine.VersionAt(time.Now().Add(time.Second)), `"foreign"`)
	lab.Must(t, lab.NewRedisStore(redis, prefix, time.Hour).Put(ctx, []syncengine.Record{planted}))
	a.Invalidate("x")
	for call, get := range reads {
		if got := get(a, "x"); got != `"mine"` {
			t.Errorf("%s: %s", call, got)
		}
	}
	submit(t, a, "y", `"mine"`, archived)
	if n, err := redis.Exists(ctx, prefix+"y").Result(); err != nil || n > 0 {
		t.Errorf("it is written to: %d, %v", n, err)
	}
	if _, err := a.Verify(ctx, syncengine.VerifyOptions{Repair: true}); err == nil {
		t.Error("it is repaired")
	}
	lab.Must(t, redis.Set(ctx, key, owner, 0).Err())
	lab.Eventually(t, "all is well, and what was missed is there", func() bool {
		n, err := redis.Exists(ctx, prefix+"y").Result()
		return a.Health(ctx).L2.OK && err == nil && n == 1 && a.Stats().L2Missed == 0
	})
	a.Invalidate("x")
	if got := reads["Get"](a, "x"); got != `"mine"` {
		t.Errorf("what was planted: %s", got)
	}
}

// TestINV15ARedisThatWentBackIsNotBelieved: its values are those of a while ago, whoever made the
// client and whichever server answers.
func TestINV15ARedisThatWentBackIsNotBelieved(t *testing.T) {
	ctx := context.Background()
	server := testserver.SharedRedis(t)
	client := lab.RedisAt(t, server.URL())
	prefix := lab.NewPrefix()
	e := lab.Open(t, syncengine.Config{SQLURL: testserver.SharedMariaDB(t).NewDatabase(t), Redis: client, KeyPrefix: prefix, VerifyInterval: time.Hour})
	lab.Eventually(t, "Redis was compared", func() bool { return e.Stats().L2Missed == 0 })
	submit(t, e, "x", "1", archived)
	keys, err := client.Keys(ctx, prefix+"*").Result()
	lab.Must(t, err)
	dump := make(map[string]string)
	for _, key := range keys {
		dump[key], err = client.Dump(ctx, key).Result()
		lab.Must(t, err)
	}
	submit(t, e, "x", "2", archived)
	beat := func() (n int) {
		n, err := client.Get(ctx, prefix+"\x00beat").Int()
		lab.Must(t, err)
		return n
	}
	before := beat()
	lab.Eventually(t, "it beats", func() bool { return beat() > before })
	for key, value := range dump {
		lab.Must(t, client.RestoreReplace(ctx, key, 0, value).Err())
	}
	lab.Eventually(t, "it is compared, and repaired", func() bool {
		e.Invalidate("x")
		return reads["Get"](e, "x") == "2"
	})
}
