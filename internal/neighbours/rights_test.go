package neighbours

// rights_test.go opens engines on Redis accounts that may not do everything, and on a pool of one
// connection.

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

// redisRights are those of docs/operations.md.
const redisRights = "+get +set +incr +unlink +scan +exists +getrange +mset +eval +evalsha +ping +hello +publish +subscribe"

// redisAccount makes an account of a Redis, and returns a URL for it.
func redisAccount(t testing.TB, server *testserver.Server, name, prefix, rights string) string {
	t.Helper()
	server.Do(t, append([]string{"ACL", "SETUSER", name, "reset", "on", ">pw", "~" + prefix + "*", "&" + prefix + "!changes"}, strings.Fields(rights)...)...)
	u, err := url.Parse(server.URL())
	lab.Must(t, err)
	u.User = url.UserPassword(name, "pw")
	return u.String()
}

// TestTheRedisRightsThatAreDocumentedAreEnough: without INFO, too.
func TestTheRedisRightsThatAreDocumentedAreEnough(t *testing.T) {
	ctx := context.Background()
	server := testserver.SharedRedis(t)
	doc, err := os.ReadFile("../../docs/operations.md")
	lab.Must(t, err)
	if !strings.Contains(string(doc), redisRights) {
		t.Error("docs/operations.md does not list the rights")
	}
	for name, rights := range map[string]string{"documented": redisRights, "nodanger": "+@all -@dangerous"} {
		t.Run(name, func(t *testing.T) {
			prefix := lab.NewPrefix()
			u := redisAccount(t, server, name, prefix, rights)
			cfg := syncengine.Config{SQLURL: testserver.SharedMariaDB(t).NewDatabase(t), RedisURL: u, KeyPrefix: prefix}
			a, b := lab.Open(t, cfg), lab.Open(t, cfg)
			listening(t, a, b)
			for n := range 20 {
				submit(t, a, fmt.Sprint("x", n), "1", archived)
			}
			lab.Must(t, a.Delete(ctx, "x7", archived))
			if r, err := a.Verify(ctx, syncengine.VerifyOptions{Repair: true}); err != nil || !r.InSync {
				t.Errorf("%+v %v", r, err)
			}
			before := b.Stats().L2Hits
			if got := reads["Get"](b, "x1"); got != "1" || b.Stats().L2Hits == before {
				t.Errorf("read %s, %d hits", got, b.Stats().L2Hits)
			}
			for n, e := range []*syncengine.Engine{a, b} {
				if h := e.Health(ctx); !h.L2.OK || e.Stats().L2Missed != 0 {
					t.Errorf("engine %d: %+v, %d missed", n, h.L2, e.Stats().L2Missed)
				}
			}
		})
	}
}

// TestOpenNamesTheRedisRightThatIsMissing, and the statement it names mends it.
func TestOpenNamesTheRedisRightThatIsMissing(t *testing.T) {
	server := testserver.SharedRedis(t)
	sql := testserver.SharedMariaDB(t).NewDatabase(t)
	prefix := lab.NewPrefix()
	for _, lacks := range []string{"+@all -select", "+@all -@scripting", "+@all -set", "+@all -incr", "+@all -unlink", "+@all -scan", "+@all -mset", "+@all -get"} {
		t.Run(lacks, func(t *testing.T) {
			u := redisAccount(t, server, "lacks", prefix, lacks)
			if strings.Contains(lacks, "select") {
				u += "/3"
			}
			cfg := syncengine.Config{SQLURL: sql, RedisURL: u, KeyPrefix: prefix}
			mend := openFails(t, cfg).Mend
			if !strings.HasPrefix(mend, "ACL SETUSER lacks ") {
				t.Fatal(mend)
			}
			server.Do(t, strings.Fields(mend)...)
			if e := lab.Open(t, cfg); !e.Health(context.Background()).L2.OK {
				t.Error("L2 is not well")
			}
		})
	}
	redisAccount(t, server, "lacks", "another:", "+@all")
	u, err := url.Parse(server.URL())
	lab.Must(t, err)
	u.User = url.UserPassword("lacks", "pw")
	if se := openFails(t, syncengine.Config{SQLURL: sql, RedisURL: u.String(), KeyPrefix: prefix}); !strings.Contains(se.Mend, "~"+prefix+"*") {
		t.Error(se)
	}
}

// TestOneConnectionIsEnoughForADeepRepair, with rows that are damaged and a digest that is wrong.
func TestOneConnectionIsEnoughForADeepRepair(t *testing.T) {
	ctx := lab.Bounded(t)
	dbURL := testserver.SharedMariaDB(t).NewDatabase(t)
	db := lab.OpenDriver(t, "mysql", testserver.DSN(t, dbURL))
	db.SetMaxOpenConns(1)
	e := lab.Open(t, syncengine.Config{DB: db, Dialect: syncengine.DialectMySQL, RedisURL: testserver.SharedRedis(t).URL(), KeyPrefix: lab.NewPrefix()})
	for n := range 50 {
		submit(t, e, fmt.Sprint("x", n), "1", archived)
	}
	admin := testserver.OpenSQL(t, dbURL)
	for _, text := range []string{"UPDATE sync_items SET content = 'rot' WHERE id = 'x7'", "DELETE FROM sync_items WHERE id = 'x8'", "UPDATE sync_items SET version = version + 1 WHERE id = 'x9'"} {
		_, err := admin.Exec(text)
		lab.NoError(t, text, err)
	}
	r, err := e.Verify(ctx, syncengine.VerifyOptions{Deep: true, Repair: true})
	if err != nil || r.Healed != 1 || r.WrongBranches == 0 {
		t.Fatalf("%+v %v", r, err)
	}
	if r, err = e.Verify(ctx, syncengine.VerifyOptions{Deep: true, Repair: true}); err != nil || !r.InSync {
		t.Errorf("after it: %+v %v", r, err)
	}
}
