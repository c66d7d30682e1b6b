package sqlkit

import (
	"context"
	"database/sql"
	"errors"
	"io"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-sql-driver/mysql"
)

func TestClassifyTellsRowsFromOutages(t *testing.T) {
	my := func(number uint16, state, text string) error {
		e := &mysql.MySQLError{Number: number, Message: text}
		copy(e.SQLState[:], state)
		return e
	}
	for name, c := range map[string]struct {
		err  error
		want Class
	}{
		"deadlock":            {my(1213, "40001", ""), Conflict},
		"lock wait":           {my(1205, "HY000", ""), Conflict},
		"check, MariaDB":      {my(4025, "23000", ""), Refused},
		"too long":            {my(1406, "22001", ""), Refused},
		"trigger":             {my(1644, "45000", ""), Refused},
		"parameter too long":  {my(1105, "HY000", "longer than 'max_allowed_packet' bytes"), Refused},
		"unknown, of a proxy": {my(1105, "HY000", "target: primary is not available"), Outage},
		"wrong password":      {my(1045, "28000", ""), Permanent},
		"unknown variable":    {my(1193, "HY000", ""), Permanent},
		"account locked":      {my(3118, "HY000", ""), Permanent},
		"password expired":    {my(1820, "HY000", ""), Permanent},
		"schema read only":    {my(3989, "HY000", ""), Unwritable},
		"binlog cache":        {my(1197, "HY000", ""), Refused},
		"disk full":           {my(1114, "HY000", ""), Unwritable},
		"read only":           {my(1290, "HY000", ""), Unwritable},
		"too many":            {my(1040, "08004", ""), Outage},
		"lost connection":     {io.ErrUnexpectedEOF, Outage},
		"caller left":         {context.Canceled, Canceled},
	} {
		if got := Classify(c.err); got != c.want {
			t.Errorf("%s: class %d, want %d", name, got, c.want)
		}
	}
}

func TestMigrateRunsEachStepOnceAndRefusesANewerSchema(t *testing.T) {
	ctx := context.Background()
	db, err := OpenSQLite(filepath.Join(t.TempDir(), "m.db"), "")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	steps := [][]string{{"CREATE TABLE a (n INTEGER)", "INSERT INTO a VALUES (1)"}, {"INSERT INTO a VALUES (2)"}}
	for _, upTo := range []int{1, 1, 2, 2} {
		if err := Migrate(ctx, NewDB(db, SQLite, ""), SQLite, "versions", steps[:upTo]); err != nil {
			t.Fatal(err)
		}
	}
	if n := count(t, db, "a"); n != 2 {
		t.Errorf("the steps left %d rows, want 2", n)
	}
	if err := Migrate(ctx, NewDB(db, SQLite, ""), SQLite, "versions", steps[:1]); !errors.Is(err, ErrNewer) {
		t.Errorf("an older build: %v, want ErrNewer", err)
	}
	broken := append(steps, []string{"INSERT INTO a VALUES (3)", "no SQL"})
	if err := Migrate(ctx, NewDB(db, SQLite, ""), SQLite, "versions", broken); err == nil || !strings.Contains(err.Error(), "migration 3") {
		t.Errorf("a broken step: %v", err)
	}
	if n := count(t, db, "a"); n != 2 {
		t.Errorf("a broken step left %d rows, want 2", n)
	}
}

func count(t *testing.T, db *sql.DB, table string) (n int) {
	t.Helper()
	if err := db.QueryRow("SELECT COUNT(*) FROM " + table).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func FuzzURL(f *testing.F) {
	const canary = "kn4ryb1rd"
	f.Add("mysql", "u", "p@:/?#%", "h:1", "/db", "tls=true")
	f.Add("sqlite", "", "x", "", "a b.db", "mode=ro")
	f.Fuzz(func(t *testing.T, scheme, user, password, host, path, query string) {
		if strings.Contains(user+host+path+query, canary[:3]) {
			return
		}
		for _, secret := range []string{canary + password, url.PathEscape(canary + password)} {
			raw := scheme + "://" + user + ":" + secret + "@" + host + path + "?" + query
			if shown := Redact(raw); strings.Contains(shown, canary) {
				t.Errorf("redacted shows the password: %s", shown)
			}
			if _, err := Parse(raw); err != nil && strings.Contains(err.Error(), canary) {
				t.Errorf("error shows the password: %v", err)
			}
		}
	})
}

func TestDuplicatesOfSQLiteAreKnown(t *testing.T) {
	db, err := OpenSQLite(filepath.Join(t.TempDir(), "d.db"), "")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for stmt, want := range map[string]bool{
		"INSERT INTO a VALUES ('x', 2, 1)": true, "INSERT INTO a VALUES ('y', 1, 1)": true, "INSERT INTO a VALUES ('y', 2, NULL)": false, "no SQL": false,
	} {
		if _, err := db.Exec("DROP TABLE IF EXISTS a; CREATE TABLE a (k TEXT PRIMARY KEY, u INTEGER UNIQUE, n INTEGER NOT NULL); INSERT INTO a VALUES ('x', 1, 1)"); err != nil {
			t.Fatal(err)
		}
		if _, err := db.Exec(stmt); err == nil || IsDuplicate(err) != want {
			t.Errorf("%s: %v, want a duplicate: %v", stmt, err, want)
		}
	}
}

func TestNamed(t *testing.T) {
	for text, want := range map[string]string{
		"SELECT 1": "SELECT 1",
		"SELECT sync_a.id, x FROM sync_a, `sync_b` WHERE wsrep_sync_c = ?": "SELECT my_a.id, x FROM my_a, `my_b` WHERE wsrep_sync_c = ?",
		"sync_sync_x": "my_sync_x", "": "", "sync_": "my_",
	} {
		if got := Named(text, "my_"); got != want {
			t.Errorf("%q, want %q", got, want)
		}
		for _, same := range []string{"", Prefix} {
			if got := NewDB(nil, SQLite, same).Named(text); got != text {
				t.Errorf("%q, want %q", got, text)
			}
		}
	}
}

func TestURLsThatAreRefused(t *testing.T) {
	for raw, sound := range map[string]bool{
		"mysql://u:p@127.0.0.1:3306/db": true, "mysql://u:p@[::1]:3306/db": true, "mysql://u:p@[::1]/db": true, "mysql://u:p:q@h/db?tls=true&max_open_conns=4": true,
		"mysql://u:p@127.0.0.1:3306:1/db": false, "mysql://u:p@h:1:2:3/db": false, "mysql://u:p@::1/db": false,
		"mysql://u:p@h/db?tls=true&tls=false": false, "mysql://u:p@h/db?tls=true&tls=true": false, "mysql://u:p@h/db?max_open_conns=4&max_open_conns=5": false,
	} {
		if _, err := Parse(raw); (err == nil) != sound {
			t.Errorf("%s: %v", raw, err)
		}
	}
}

func TestTablesOfMigrations(t *testing.T) {
	for stmt, want := range map[string]string{
		"CREATE TABLE IF NOT EXISTS sync_a (\n\tid INT": "sync_a", "CREATE TABLE a (n INT)": "a", "ALTER TABLE sync_b ADD COLUMN c INT": "sync_b",
		"INSERT IGNORE INTO sync_c (id) SELECT id FROM sync_a": "sync_c", "CREATE UNIQUE INDEX IF NOT EXISTS sync_i ON sync_d (x)": "sync_d", "no SQL": "",
	} {
		if got := tableOf(stmt); got != want {
			t.Errorf("%s: %q, want %q", stmt, got, want)
		}
	}
}

// TestMigrateJudgesBeforeItMakesAnything: tables of migrations that are not recorded are another
// program's, those of recorded ones are lost.
func TestMigrateJudgesBeforeItMakesAnything(t *testing.T) {
	ctx := context.Background()
	steps := [][]string{{"CREATE TABLE sync_a (n INTEGER)"}, {"CREATE TABLE sync_b (n INTEGER)", "ALTER TABLE sync_a ADD COLUMN m INTEGER"}, {"CREATE TABLE sync_c (n INTEGER)"}}
	for spoil, want := range map[string]string{
		"CREATE TABLE my_b (n INTEGER)": "table my_b is another program's", "CREATE TABLE my_c (n INTEGER)": "table my_c is another program's",
		"CREATE VIEW my_c AS SELECT 1 AS n": "table my_c is another program's: it is a view", "DROP TABLE my_a": "table my_a is lost", "DELETE FROM my_schema": "table my_schema has no rows",
		"DROP TABLE my_schema": "table my_schema is gone", "DROP TABLE my_schema; CREATE TABLE my_schema (version INTEGER)": "table my_schema is another program's",
		"DROP TABLE my_schema; CREATE TABLE my_schema AS SELECT 'one' AS version, 1 AS applied_at": "table my_schema is another program's", "CREATE TABLE sync_b (n INTEGER)": "",
		"ALTER TABLE my_a ADD COLUMN m INTEGER": "table my_schema is older than the other tables",
	} {
		pool, err := OpenSQLite(filepath.Join(t.TempDir(), "m.db"), "")
		if err != nil {
			t.Fatal(err)
		}
		defer pool.Close()
		pool.SetMaxOpenConns(1)
		db := NewDB(pool, SQLite, "my_")
		if err := Migrate(ctx, db, SQLite, "sync_schema", steps[:1]); err != nil {
			t.Fatal(err)
		}
		if _, err := pool.Exec(spoil); err != nil {
			t.Fatalf("%s: %v", spoil, err)
		}
		before := count(t, pool, "sqlite_master")
		err = Migrate(ctx, db, SQLite, "sync_schema", steps)
		var u *Unfit
		if want == "" {
			if err != nil {
				t.Errorf("%s: %v", spoil, err)
			}
		} else if !errors.As(err, &u) || !strings.Contains(u.Problem, want) || u.Mend == "" {
			t.Errorf("%s: %v, want %q", spoil, err, want)
		} else if n := count(t, pool, "sqlite_master"); n != before {
			t.Errorf("%s: there are %d tables and indexes, were %d", spoil, n, before)
		}
	}
}
