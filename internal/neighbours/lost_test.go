package neighbours

// lost_test.go opens engines on databases whose tables are another program's, or not all there.

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

// tableNames are the tables of an engine, without their prefix.
func tableNames(srv lab.SQLServer) []string {
	names := []string{"items", "digest", "deltas", "instances", "fences", "meta", "log", "ops", "dictionaries", "schema"}
	if srv.Name == "MariaDB" {
		names = append(names, "due")
	}
	return names
}

// described is all that there is in a database.
func described(t testing.TB, srv lab.SQLServer, raw *sql.DB) (out []string) {
	t.Helper()
	rows, err := raw.Query(srv.List)
	lab.Must(t, err)
	for rows.Next() {
		var name, how string
		lab.Must(t, rows.Scan(&name, &how))
		out = append(out, name+" "+how)
	}
	lab.Must(t, errors.Join(rows.Err(), rows.Close()))
	return out
}

func execute(t testing.TB, raw *sql.DB, texts ...string) {
	t.Helper()
	for _, text := range texts {
		_, err := raw.Exec(text)
		lab.NoError(t, text, err)
	}
}

// TestOpenLeavesWhatIsAnotherProgramsAlone, under each of the engine's names: it names it, and
// neither alters it nor makes anything.
func TestOpenLeavesWhatIsAnotherProgramsAlone(t *testing.T) {
	for _, srv := range lab.SQLServers {
		for _, prefix := range []string{"", "own_sync_"} {
			var others [][2]string // name, statement
			for _, name := range tableNames(srv) {
				name = map[bool]string{true: "sync_", false: prefix}[prefix == ""] + name
				others = append(others, [2]string{name, "CREATE TABLE " + name + " (a INT)"}, [2]string{name, "CREATE VIEW " + name + " AS SELECT 1 AS version, 1 AS applied_at"})
			}
			if srv.Name == "SQLite" && prefix == "" {
				others = append(others, [2]string{"sync_meta", "CREATE TABLE SYNC_Meta (a INT)"}, [2]string{"sync_log", "CREATE INDEX sync_log ON mine (a)"})
			} else if prefix == "" {
				if !testserver.IsMySQL() { // which has none
					others = append(others, [2]string{"sync_log", "CREATE SEQUENCE sync_log"})
				}
				others = append(others, [2]string{"sync_schema", "CREATE TABLE sync_schema (version TEXT, applied_at INT) AS SELECT 'v1' AS version, 2 AS applied_at"})
			}
			url := srv.URL(t)
			raw := srv.Raw(t, url)
			execute(t, raw, "CREATE TABLE mine (a INT)")
			for _, o := range others {
				execute(t, raw, o[1])
				before := described(t, srv, raw)
				se := openFails(t, syncengine.Config{SQLURL: url, TablePrefix: prefix})
				if !strings.Contains(se.Problem, "table "+o[0]+" is another program's") || !strings.Contains(se.Mend, "TablePrefix") {
					t.Errorf("%s, %s: %v", srv.Name, o[1], se)
				}
				if now := described(t, srv, raw); !slices.Equal(now, before) {
					t.Errorf("%s, %s: there is now %q", srv.Name, o[1], now)
				}
				execute(t, raw, "DROP "+strings.Fields(o[1])[1]+" "+o[0])
			}
			lab.Open(t, syncengine.Config{SQLURL: url, TablePrefix: prefix})
		}
	}
}

// In another namespace, or where names that differ in case are different ones, it is no matter.
func TestOthersTablesBesideAreNoMatter(t *testing.T) {
	for _, srv := range lab.SQLServers {
		url := srv.URL(t)
		execute(t, srv.Raw(t, url), "CREATE TABLE sync_items (a INT)", "CREATE TABLE sync_users (a INT)", "CREATE TABLE sync_schema (a INT)")
		submit(t, lab.Open(t, syncengine.Config{SQLURL: url, TablePrefix: "own_"}), "x", "1", archived)
		if srv.Name == "MariaDB" { // on Linux
			url = srv.URL(t)
			execute(t, srv.Raw(t, url), "CREATE TABLE SYNC_Items (a INT)", "CREATE TABLE sync_users (a INT)")
			submit(t, lab.Open(t, syncengine.Config{SQLURL: url}), "x", "1", archived)
		}
	}
}

// TestOpenNamesWhatIsLost of what the engine's own tables say must be there, and alters nothing;
// all is well once it is back, and anew once all tables are dropped.
func TestOpenNamesWhatIsLost(t *testing.T) {
	ctx := context.Background()
	for _, srv := range lab.SQLServers {
		for _, prefix := range []string{"sync_", "own_"} {
			cfg := syncengine.Config{SQLURL: srv.URL(t), TablePrefix: prefix}
			raw := srv.Raw(t, cfg.SQLURL)
			e := lab.Open(t, cfg)
			submit(t, e, "x", "1", archived)
			lab.Must(t, e.Close())
			refused := func(what, name string) {
				t.Helper()
				before := described(t, srv, raw)
				if se := openFails(t, cfg); !strings.Contains(se.Problem, "table "+prefix+name) || !strings.Contains(se.Mend, "restore "+prefix+name) || !strings.Contains(se.Mend, "loses all items") {
					t.Errorf("%s, %s %s: %v", srv.Name, name, what, se)
				}
				if now := described(t, srv, raw); !slices.Equal(now, before) {
					t.Errorf("%s, %s %s: there is now %q", srv.Name, name, what, now)
				}
			}
			for _, name := range tableNames(srv) {
				execute(t, raw, "ALTER TABLE "+prefix+name+" RENAME TO away")
				refused("is gone", name)
				execute(t, raw, "ALTER TABLE away RENAME TO "+prefix+name)
			}
			for _, name := range []string{"schema", "meta"} {
				execute(t, raw, "CREATE TABLE kept AS SELECT * FROM "+prefix+name, "DELETE FROM "+prefix+name)
				refused("is empty", name)
				execute(t, raw, "INSERT INTO "+prefix+name+" SELECT * FROM kept", "DROP TABLE kept")
			}
			if srv.Name == "SQLite" { // elsewhere a migration that was cut off leaves the like
				execute(t, raw, "CREATE TABLE kept AS SELECT * FROM "+prefix+"schema WHERE version = 8", "DELETE FROM "+prefix+"schema WHERE version = 8")
				refused("is of another backup", "schema")
				execute(t, raw, "INSERT INTO "+prefix+"schema SELECT * FROM kept", "DROP TABLE kept")
			}
			e = lab.Open(t, cfg)
			if got := reads["Get"](e, "x"); got != "1" {
				t.Errorf("%s: %s", srv.Name, got)
			}
			lab.Must(t, e.Close())
			for _, name := range tableNames(srv) {
				execute(t, raw, "DROP TABLE "+prefix+name)
			}
			if _, err := lab.Open(t, cfg).Get(ctx, "x"); !errors.Is(err, syncengine.ErrNotFound) {
				t.Errorf("%s, begun anew: %v", srv.Name, err)
			}
		}
	}
}

// TestATableThatAnAccountDoesNotSeeIsNotLost: the right to it is.
func TestATableThatAnAccountDoesNotSeeIsNotLost(t *testing.T) {
	srv := lab.SQLServers[1]
	dbURL := srv.URL(t)
	raw := srv.Raw(t, dbURL)
	lab.Must(t, lab.Open(t, syncengine.Config{SQLURL: dbURL}).Close())
	u := account(t, raw, dbURL, "seesfew", "")
	database := strings.TrimPrefix(mustParse(t, u).Path, "/")
	for _, hidden := range tableNames(srv) {
		execute(t, raw, "DROP USER seesfew@'%'")
		execute(t, raw, "CREATE USER seesfew@'%' IDENTIFIED BY 'pw'")
		for _, name := range tableNames(srv) {
			if name != hidden {
				execute(t, raw, fmt.Sprintf("GRANT SELECT, INSERT, UPDATE, DELETE ON `%s`.sync_%s TO seesfew@'%%'", database, name))
			}
		}
		if se := openFails(t, syncengine.Config{SQLURL: u}); !strings.HasSuffix(se.Problem, "lacks the right SELECT") || !strings.HasPrefix(se.Mend, "GRANT") {
			t.Errorf("%s is hidden: %v", hidden, se)
		}
	}
}

// TestINV01ATableThatIsGoneForAWhileIsAnOutage of an engine that runs, which ends when it is back.
func TestINV01ATableThatIsGoneForAWhileIsAnOutage(t *testing.T) {
	for _, srv := range lab.SQLServers {
		for _, gone := range [][]string{{"items"}, {"deltas"}, {"schema", "items"}, {"schema", "meta", "digest", "deltas"}} {
			t.Run(fmt.Sprint(srv.Name, gone), func(t *testing.T) {
				cfg := syncengine.Config{SQLURL: srv.URL(t)}
				raw := srv.Raw(t, cfg.SQLURL)
				e := lab.Open(t, cfg)
				submit(t, e, "x", "1", archived)
				for _, name := range gone {
					execute(t, raw, "ALTER TABLE sync_"+name+" RENAME TO away_"+name)
				}
				submit(t, e, "x", "2")
				for range 3 { // each is a look whether it is back
					if err := e.Flush(lab.Bounded(t)); !errors.Is(err, syncengine.ErrUnavailable) {
						t.Fatalf("Flush: %v", err)
					}
				}
				if got := reads["Get"](e, "x"); got != "2" {
					t.Errorf("while it is gone: %s", got)
				}
				for _, name := range slices.Backward(gone) {
					execute(t, raw, "ALTER TABLE away_"+name+" RENAME TO sync_"+name)
				}
				lab.Eventually(t, "it lands", func() bool { return e.Flush(lab.Bounded(t)) == nil })
				if got := reads["Get"](lab.Open(t, cfg), "x"); got != "2" {
					t.Errorf("another engine reads %s", got)
				}
			})
		}
	}
}
