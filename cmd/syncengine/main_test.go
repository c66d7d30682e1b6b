package main_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

// binary is the command, built once.
var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "syncengine-cmd-")
	if err != nil {
		panic(err)
	}
	binary = filepath.Join(dir, "syncengine")
	tags := ""
	if lab.Compression != syncengine.CompressionOff { // the tests' engines compress: the command must read that
		tags = "compression"
	}
	if out, err := exec.Command("go", "build", "-buildvcs=false", "-tags", tags, "-o", binary, ".").CombinedOutput(); err != nil {
		panic(fmt.Sprintf("%v: %s", err, out))
	}
	code := testserver.Run(m)
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// ran is what a run of the command has left.
type ran struct {
	code     int
	out, err string
}

// run runs the binary with more lines for its environment.
func run(t *testing.T, env []string, stdin string, args ...string) ran {
	t.Helper()
	return runOn(t, env, strings.NewReader(stdin), nil, args...)
}

// runOn is run with an input and, if it is not nil, an output of the test's own.
func runOn(t *testing.T, env []string, stdin io.Reader, stdout io.Writer, args ...string) ran {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, binary, args...)
	c.Env = append([]string{"PATH=" + os.Getenv("PATH"), "TMPDIR=" + t.TempDir()}, env...)
	var out, errs bytes.Buffer
	c.Stdin, c.Stdout, c.Stderr = stdin, &out, &errs
	if stdout != nil {
		c.Stdout = stdout
	}
	err := c.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) || ctx.Err() != nil {
		t.Fatalf("%v: %v, %v\n%s", args, err, ctx.Err(), errs.String())
	}
	if strings.Contains(out.String()+errs.String(), lab.CanaryWord) {
		t.Errorf("%v shows a password:\n%s\n%s", args, out.String(), errs.String())
	}
	left, err := os.ReadDir(strings.TrimPrefix(c.Env[1], "TMPDIR="))
	if err != nil || len(left) > 0 && c.ProcessState.ExitCode() != 3 {
		t.Errorf("%v leaves temporary files: %v, %v", args, left, err)
	}
	return ran{c.ProcessState.ExitCode(), out.String(), errs.String()}
}

// want checks an exit code, and what was written.
func (r ran) want(t *testing.T, code int, says ...string) {
	t.Helper()
	if r.code != code {
		t.Errorf("exit code %d, want %d\n%s\n%s", r.code, code, r.out, r.err)
	}
	for _, s := range says {
		if !strings.Contains(r.out+r.err, s) {
			t.Errorf("does not say %q:\n%s\n%s", s, r.out, r.err)
		}
	}
}

// lines decodes lines of JSON.
func (r ran) lines(t *testing.T) (out []map[string]any) {
	t.Helper()
	for l := range strings.Lines(r.out) {
		var v map[string]any
		if err := json.Unmarshal([]byte(l), &v); err != nil {
			t.Fatalf("%s: %v", l, err)
		}
		out = append(out, v)
	}
	return out
}

func TestAWrongCommandLineIsSaid(t *testing.T) {
	dir := t.TempDir()
	for _, args := range [][]string{
		{}, {"stats"}, {"wal"}, {"wal", "drop"}, {"status"}, {"status", dir, "more"}, {"status", "-nothing", dir}, {"verify"},
		{"explain"}, {"quarantine", "discard", dir}, {"quarantine", "discard", dir, "x", "-all"}, {"schema", "print"},
		{"schema", "print", "-dialect", "mysql", "-user", "a; DROP TABLE x"}, {"schema", "print", "-dialect", "mysql", "-from", "-1"}, {"schema", "print", "-dialect", "sqlite", "-from", "99"}, {"schema", "print", "-dialect", "mysql", "-table-prefix", "A;"}, {"export", "-sql", "http://x"}, {"export"},
		{"export", "-json", dir}, {"drain", "-json", dir}, {"stats", "-h"},
	} {
		run(t, nil, "", args...).want(t, 2, "")
	}
	run(t, nil, "", "help").want(t, 0, "Exit codes")
	run(t, nil, "", "status", "-h").want(t, 0, "usage: syncengine status")
	run(t, nil, "", "wal", "-h").want(t, 0, "usage: syncengine wal list", "-content")
	if r := run(t, nil, "", "schema", "--help"); strings.Contains(r.err, "DIR") {
		t.Errorf("schema print knows no DIR: %s", r.err)
	} else {
		r.want(t, 0, "usage: syncengine schema print", "-dialect")
	}
	run(t, nil, "", "quarantine", "-help").want(t, 0, "quarantine list", "quarantine retry", "quarantine discard")
	run(t, nil, "", "wal").want(t, 2, "wal list")
	run(t, nil, "", "export", "-timeout", "-1s", dir).want(t, 2, "-timeout must not be negative")
	run(t, nil, "", "status", dir).want(t, 6, "has no WAL of an engine")
	run(t, nil, "", "export", filepath.Join(dir, "missing")).want(t, 6, "has no WAL of an engine")
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("it made %v, %v", left, err)
	}
}

// What can't be written is an error of every command that writes, whatever else it has found.
func TestAnOutputThatTakesNothingIsAnError(t *testing.T) {
	waits, dir, full := t.TempDir(), t.TempDir(), "/dev/full"
	if _, err := os.Stat(full); err != nil {
		t.Skip(err)
	}
	db := testserver.MariaDB(t)
	lab.Must(t, os.CopyFS(waits, os.DirFS(outage(t, db))))
	e := lab.Open(t, syncengine.Config{Dir: dir})
	lab.Put(t, e, "x", 1)
	lab.Must(t, e.Close())
	text := `{"id":"x","version":"5","content":1}`
	for _, args := range [][]string{
		{"schema", "print", "-dialect", "mysql"}, {"schema", "print", "-dialect", "mysql", "-json"},
		{"status", dir}, {"status", "-json", dir}, {"status", waits}, {"wal", "list", waits}, {"wal", "list", "-json", waits},
		{"quarantine", "list", waits}, {"quarantine", "list", "-json", waits}, {"quarantine", "retry", "-all", dir},
		{"verify", "-deep", dir}, {"explain", dir, "x"}, {"explain", dir, "missing"}, {"export", dir}, {"export", "-file", full, dir},
		{"import", "-keep-versions", dir}, {"import", "-json", dir},
	} {
		out, err := os.OpenFile(full, os.O_WRONLY, 0)
		lab.Must(t, err)
		t.Log(args)
		runOn(t, nil, strings.NewReader(text), out, args...).want(t, 6, "no space left on device")
		lab.Must(t, out.Close())
	}
}

// outage leaves ops in the WAL of a directory whose service has a MariaDB, and one in quarantine.
func outage(t *testing.T, db *testserver.Server) (dir string) {
	t.Helper()
	ctx := lab.Bounded(t)
	dir = t.TempDir()
	e := lab.Open(t, syncengine.Config{Dir: dir, SQLURL: db.URL()})
	_, err := db.SQL(t).Exec("ALTER TABLE sync_items ADD CONSTRAINT no_poison CHECK (content IS NULL OR content NOT LIKE '%poison%')")
	lab.Must(t, err)
	lab.Must(t, e.Submit(ctx, syncengine.Item{ID: "bad", Content: lab.Poison}))
	if err := e.Flush(ctx); !errors.Is(err, syncengine.ErrRefused) {
		t.Fatal(err)
	}
	db.Kill()
	lab.Put(t, e, "one", 1)
	lab.Must(t, e.Delete(ctx, "two"))
	if err := e.Close(); !errors.Is(err, syncengine.ErrPending) {
		t.Fatal(err)
	}
	return dir
}

func TestWhatWaitsIsShownAndCanBeSettled(t *testing.T) {
	db := testserver.MariaDB(t)
	dir := outage(t, db)
	run(t, nil, "", "status", dir).want(t, 1, "wal         ", "quarantine  1 ops")
	st := run(t, nil, "", "status", "-json", dir).lines(t)[0]
	if st["ops"].(float64) < 2 || st["quarantined"] != 1.0 || st["met_redis"] != false || st["dir"] != dir {
		t.Errorf("%v", st)
	}
	r := run(t, nil, "", "wal", "list", dir, "-json")
	r.want(t, 1)
	ops := r.lines(t)
	if n := len(ops); n < 2 || ops[n-2]["id"] != "one" || ops[n-1]["deleted"] != true || strings.Contains(r.out, "xxx") {
		t.Errorf("%s", r.out)
	}
	run(t, nil, "", "wal", "list", "-content", dir).want(t, 1, "put", "delete", `"one"`, `"pad":"xxx`)
	bad := run(t, nil, "", "quarantine", "list", "-json", dir).lines(t)
	if len(bad) != 1 || bad[0]["id"] != "bad" || bad[0]["content"] != nil || !strings.Contains(bad[0]["error"].(string), "no_poison") {
		t.Errorf("%v", bad)
	}
	run(t, nil, "", "quarantine", "list", "-content", dir).want(t, 1, `"poison"`)

	// It would be drained into a database that is not the service's.
	run(t, nil, "", "quarantine", "retry", "-all", dir).want(t, 2, "name it by -sql")
	if _, err := os.Stat(filepath.Join(dir, "archive.db")); err == nil {
		t.Error("it made an archive.db")
	}
	env := []string{"SYNCENGINE_SQL=" + db.URL()}
	run(t, env, "", "quarantine", "retry", "-all", dir).want(t, 3)
	db.Restart()
	run(t, env, "", "quarantine", "retry", "-all", "-json", dir).want(t, 1, `{"left":1,"retried":1,"superseded":0}`)
	run(t, env, "", "drain", dir).want(t, 1)
	elsewhere := t.TempDir()
	lab.Must(t, os.CopyFS(elsewhere, os.DirFS(dir)))
	other := []string{"SYNCENGINE_SQL=" + testserver.SharedMariaDB(t).NewDatabase(t)}
	run(t, other, "", "drain", elsewhere).want(t, 6, "was accepted for another database")
	run(t, other, "", "drain", "-moved", elsewhere).want(t, 1)
	run(t, env, "", "explain", dir, "one").want(t, 0, "SQL has it", "sql     live")
	run(t, env, "", "explain", dir, "two").want(t, 1, "not found")
	run(t, env, "", "quarantine", "discard", dir, "bad", "gone").want(t, 1, `not in quarantine: ["gone"]`)
	run(t, env, "", "quarantine", "retry", dir, "gone").want(t, 1, `not in quarantine: ["gone"]`)
	run(t, env, "", "quarantine", "discard", dir, "bad").want(t, 0, "discarded 1 ops; 0 are in quarantine")
	run(t, nil, "", "status", dir).want(t, 0, "wal         0 ops", "quarantine  0 ops")
}

// TestWhatSQLRefusesIsToldFromWhatItTook: of what waited, and of what is imported. What was refused
// before is no fault of an import.
func TestWhatSQLRefusesIsToldFromWhatItTook(t *testing.T) {
	db := testserver.MariaDB(t)
	ctx, dir := lab.Bounded(t), t.TempDir()
	e := lab.Open(t, syncengine.Config{Dir: dir, SQLURL: db.URL()})
	_, err := db.SQL(t).Exec("ALTER TABLE sync_items ADD CONSTRAINT no_poison CHECK (content IS NULL OR content NOT LIKE '%poison%')")
	lab.Must(t, err)
	db.Kill()
	lab.Put(t, e, "one", 1)
	lab.Must(t, e.Submit(ctx, syncengine.Item{ID: "bad", Content: lab.Poison}))
	if err := e.Close(); !errors.Is(err, syncengine.ErrPending) {
		t.Fatal(err)
	}
	db.Restart()
	env := []string{"SYNCENGINE_SQL=" + db.URL()}
	run(t, env, "", "drain", dir).want(t, 1, "1 of the 2 ops that waited", "in quarantine are 1 ops")
	run(t, env, "", "drain", dir).want(t, 1, "in quarantine are 1 ops")
	run(t, env, "", "import", "-json", dir).want(t, 0, `"imported":0`, `"refused":0`)
	run(t, env, `{"id":"two","content":2}`, "import", dir).want(t, 0, "1 items imported")
	lines := `{"id":"three","content":3}
{"id":"worse","expires_at":"2100-01-01T00:00:00Z","content":{"poison":true}}
{"id":"worst","content":{"poison":true}}
{"id":"four","content":4}`
	run(t, env, lines, "import", "-json", dir).want(t, 1, `"imported":2`, `"refused":2`, "SQL refused 2 items")
	run(t, env, "", "quarantine", "list", dir).want(t, 1, "bad", "worse", "worst")
	run(t, env, "", "export", dir).want(t, 0, `"three"`, `"four"`)
}

func TestADirectoryInUseIsRefused(t *testing.T) {
	dir := t.TempDir()
	e := lab.Open(t, syncengine.Config{Dir: dir})
	lab.Put(t, e, "x", 1)
	for _, args := range [][]string{{"status", dir}, {"wal", "list", dir}, {"quarantine", "list", dir}, {"quarantine", "discard", "-all", dir},
		{"verify", "-deep", dir}, {"explain", dir, "x"}, {"export", dir}, {"import", dir}} {
		run(t, nil, "", args...).want(t, 4, "in use by a running service")
	}
}

func TestADamagedWALIsSaid(t *testing.T) {
	dir := t.TempDir()
	e := lab.Open(t, syncengine.Config{Dir: dir})
	lab.Put(t, e, "x", 1)
	lab.Must(t, e.Close())
	lab.Must(t, os.Remove(filepath.Join(dir, "wal.db")))
	for _, args := range [][]string{{"status", dir}, {"export", dir}} {
		run(t, nil, "", args...).want(t, 5, "corrupt")
	}
}

func TestVerifyFindsAndRepairs(t *testing.T) {
	dir, prefix := t.TempDir(), lab.NewPrefix()
	redis := testserver.Redis(t, "--requirepass", lab.CanaryWord)
	cfg := syncengine.Config{Dir: dir, SQLURL: testserver.SharedMariaDB(t).NewDatabase(t), RedisURL: redis.URL(), KeyPrefix: prefix}
	e := lab.Open(t, cfg)
	lab.Put(t, e, "x", 1)
	lab.Put(t, e, "y", 1)
	lab.Must(t, e.Flush(lab.Bounded(t)))
	lab.Must(t, e.Close())
	env := []string{"SYNCENGINE_SQL=" + cfg.SQLURL, "SYNCENGINE_REDIS=" + cfg.RedisURL}
	run(t, env[:1], "", "verify", "-deep", dir).want(t, 2, "name it by -redis")
	run(t, env[:1], "", "verify", "-deep", "-without-redis", dir).want(t, 0, "in sync: true")
	run(t, env, "", "verify", "-key-prefix", prefix, "-deep", dir).want(t, 0, "in sync: true")
	if v := run(t, env, "", "verify", "-key-prefix", prefix, "-json", dir).lines(t)[0]; v["root_l2"] != v["root_l3"] || v["in_sync"] != true {
		t.Errorf("%v", v)
	}
	redis.Do(t, "DEL", prefix+"x")
	for range 3 { // it only looks
		run(t, env, "", "verify", "-key-prefix", prefix, dir).want(t, 1, "divergent: 1 ids, 0 repaired", `divergent "x"`)
	}
	run(t, env, "", "verify", "-key-prefix", prefix, "-repair", dir).want(t, 1, "divergent: 1 ids, 1 repaired")
	run(t, env, "", "verify", "-key-prefix", prefix, dir).want(t, 0)
	raw := testserver.OpenSQL(t, cfg.SQLURL)
	_, err := raw.Exec("UPDATE sync_items SET content = '1' WHERE id = 'y'")
	lab.Must(t, err)
	run(t, env, "", "verify", "-key-prefix", prefix, "-deep", "-json", dir).want(t, 1, `"corrupt":["y"]`, `"healed":0`)
	run(t, env, "", "verify", "-key-prefix", prefix, "-deep", "-repair", dir).want(t, 1, "corrupt: 1 rows, 1 healed")
	run(t, env, "", "verify", "-key-prefix", prefix, "-deep", dir).want(t, 0)
	redis.Kill()
	run(t, env, "", "verify", "-key-prefix", prefix, dir).want(t, 3)
}

// TestExportAndImportCarryAllBytes from one database to another, without and with a directory.
func TestExportAndImportCarryAllBytes(t *testing.T) {
	ctx := lab.Bounded(t)
	from, to := testserver.SharedMariaDB(t).NewDatabase(t), t.TempDir()
	e := lab.Open(t, syncengine.Config{SQLURL: from, TablePrefix: "own_"})
	for _, it := range []syncengine.Item{
		{ID: "plain", Content: []byte(`{"a":1}`)},
		{ID: "spaced", Content: []byte("{ \"a\" :\t1 }\n")},
		{ID: "<html> & \u2028", Content: []byte("\"<b>\u2028 & \u2029\"")},
		{ID: "carried", Content: []byte("1.0"), Priority: syncengine.PriorityHigh, HomeInstanceID: "berlin", TraceParent: "tp", TraceState: "ts"},
	} {
		lab.Must(t, e.Submit(ctx, it))
	}
	lab.Must(t, e.Submit(ctx, syncengine.Item{ID: "expires", Content: []byte("1")}, syncengine.WithTTL(time.Hour)))
	for i := range 1200 { // more than two pages
		lab.Put(t, e, fmt.Sprintf("many-%04d", i), i, syncengine.WithDurability(syncengine.Buffered))
	}
	lab.Put(t, e, "deleted", 1)
	lab.Must(t, e.Delete(ctx, "deleted"))
	lab.Must(t, e.Flush(ctx))
	ids := []string{"plain", "spaced", "<html> & \u2028", "carried", "expires", "many-0000", "many-1199", "deleted"}
	read := func(e *syncengine.Engine) map[string]syncengine.Item {
		t.Helper()
		out := map[string]syncengine.Item{}
		items, err := e.GetMany(ctx, ids)
		lab.Must(t, err)
		for i, it := range items {
			if it != nil {
				it.AccessCount, it.LastAccessed = 0, time.Time{}
				out[ids[i]] = *it
			}
		}
		return out
	}
	want := read(e)
	file := filepath.Join(t.TempDir(), "items.ndjson")
	run(t, []string{"SYNCENGINE_SQL=" + from}, "", "export", "-table-prefix", "own_", "-file", file).want(t, 0, "1205 items exported") // beside a running service
	if st, err := os.Stat(file); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the file: %v, %v", st, err)
	}
	run(t, []string{"SYNCENGINE_SQL=" + from}, "", "export", "-table-prefix", "own_", "-prefix", "many-1").want(t, 0, "200 items exported", `"id":"many-1199"`)
	text, err := os.ReadFile(file)
	lab.Must(t, err)
	if n := bytes.Count(text, []byte("\n")); n != 1205 {
		t.Errorf("%d lines", n)
	}
	over := `{"id":"over","version":"7","updated_at":"2020-01-01T00:00:00Z","expires_at":"2020-01-01T00:00:00Z","content":1}`
	run(t, nil, string(text)+over, "import", "-json", to).want(t, 0, `{"expired":1,"imported":1205,"older":0,"refused":0}`)
	again := lab.Open(t, syncengine.Config{Dir: to})
	got := read(again)
	for id, it := range got {
		w := want[id]
		if it.Version == w.Version {
			t.Errorf("%s has the version of the file", id)
		}
		if d := it.ExpiresAt.Sub(w.ExpiresAt).Abs(); d > 100*time.Millisecond {
			t.Errorf("%s expires at %v, want %v", id, it.ExpiresAt, w.ExpiresAt)
		}
		it.Version, it.ExpiresAt = w.Version, w.ExpiresAt
		if !reflect.DeepEqual(it, w) {
			t.Errorf("%s: %+v, want %+v", id, it, w)
		}
	}
	if len(got) != len(want) || len(got) != 7 {
		t.Errorf("%d items, want %d", len(got), len(want))
	}
	lab.Must(t, again.Close())
	kept := t.TempDir()
	run(t, nil, "", "import", "-keep-versions", "-file", file, kept).want(t, 0, "1205 items imported")
	run(t, nil, "", "import", "-keep-versions", "-file", file, kept).want(t, 0)
	got = read(lab.Open(t, syncengine.Config{Dir: kept}))
	it, w := got["expires"], want["expires"]
	if d := it.ExpiresAt.Sub(w.ExpiresAt).Abs(); d > 100*time.Millisecond {
		t.Errorf("it expires at %v, want %v", it.ExpiresAt, w.ExpiresAt)
	}
	it.ExpiresAt = w.ExpiresAt
	if got["expires"] = it; !reflect.DeepEqual(got, want) {
		t.Errorf("with versions: %+v, want %+v", got, want)
	}
	run(t, nil, string(text), "import", "-keep-versions", to).want(t, 0, "1205 items were older")
}

// A directory knows the names of its service's tables.
func TestTheTablesOfADirectoryAreKnown(t *testing.T) {
	cfg := syncengine.Config{Dir: t.TempDir(), SQLURL: testserver.SharedMariaDB(t).NewDatabase(t), TablePrefix: "own_"}
	e := lab.Open(t, cfg)
	lab.Put(t, e, "x", 1)
	lab.Must(t, e.Close())
	env := []string{"SYNCENGINE_SQL=" + cfg.SQLURL}
	run(t, env, "", "explain", cfg.Dir, "x").want(t, 0, "sql     live")
	run(t, env, "", "explain", "-table-prefix", "other_", cfg.Dir, "x").want(t, 2, `"own_"`)
	run(t, nil, "", "status", cfg.Dir).want(t, 0, "database    mysql://", ", tables own_…")
	run(t, nil, "", "status", "-json", cfg.Dir).want(t, 0, `"table_prefix":"own_"`, `"database":"mysql://`)
}

// A damaged row is left out of an export, which says so.
func TestExportGoesOnBehindADamagedRow(t *testing.T) {
	dir := t.TempDir()
	e := lab.Open(t, syncengine.Config{Dir: dir})
	for _, id := range []string{"a", "b", "c"} {
		lab.Put(t, e, id, 1)
	}
	lab.Must(t, e.Close())
	raw := lab.OpenDriver(t, "sqlite", filepath.Join(dir, "archive.db"))
	_, err := raw.Exec("UPDATE sync_items SET content = '2' WHERE id = 'b'")
	lab.Must(t, err)
	lab.Must(t, raw.Close())
	run(t, nil, "", "export", dir).want(t, 5, `"id":"a"`, `"id":"c"`, "1 items are damaged", `"b"`)
}

func TestImportEndsAtALineThatCanNotBe(t *testing.T) {
	const first = `{"id":"a","content":1}` + "\n"
	for name, c := range map[string]struct {
		lines string
		bad   string
		kept  bool
		flags []string
	}{
		"no JSON":               {first + "nonsense\n", "line 2", true, nil},
		"an unknown field":      {first + "\n" + `{"id":"b","contents":1}`, "line 3", true, nil},
		"an invalid id":         {first + `{"id":"","content":1}` + "\n" + `{"id":"c","content":1}`, "line 2", true, nil},
		"its own versions":      {first + `{"id":"","content":1}` + "\n" + `{"id":"c","content":1}`, "line 2", true, []string{"-keep-versions"}},
		"a kind, not built":     {first + `{"id":"b","crdt":"GCounter","content":{}}` + "\n" + `{"id":"c","content":1}`, "line 2", true, nil},
		"that kind, versions":   {first + `{"id":"b","version":"5","crdt":"GCounter","content":{}}`, "line 2", true, []string{"-keep-versions"}},
		"two on a line":         {`{"id":"a","content":1} {"id":"b","content":1}`, "line 1", false, nil},
		"a brace too many":      {`{"id":"a","content":1}}`, "line 1", false, nil},
		"a bracket too many":    {`{"id":"a","content":1}]`, "line 1", false, nil},
		"no UTF-8":              {"{\"id\":\"a\xff\",\"content\":1}", "line 1", false, nil},
		"half a character":      {first + `{"id":"b\ud800","content":1}`, "line 2", true, nil},
		"a version that is 5":   {first + `{"id":"b","version":5,"content":1}`, `line 2: a version is text, as in "version":"5"`, true, nil},
		"too deep":              {first + `{"id":"b","content":` + strings.Repeat("[", 10_001) + strings.Repeat("]", 10_001) + `}`, "line 2", true, nil},
		"crossed brackets":      {first + `{"id":"b","content":[1}}`, "line 2", true, nil},
		"not beside other text": {first + `{"id":"b","content":[1},"content_text":"1"}`, "line 2", true, nil},
		"no content":            {first + `{"id":"b","content":}`, "line 2", true, nil},
		"an open end":           {first + `{"id":"b","content":"x`, "line 2", true, nil},
		"two contents":          {first + `{"id":"b","content":1,"content_text":"2"}`, "line 2: it has both content and content_text", true, nil},
		"content twice":         {first + `{"id":"b","content":1,"content":2}`, `line 2: "content" is there twice`, true, nil},
		"two ids":               {first + `{"id":"b","ID":"c","content":1}`, `line 2: "id" is there twice`, true, nil},
		"an id twice":           {first + `{"id":"b","i\u0064":"c","content":1}`, `line 2: "id" is there twice`, true, nil},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			run(t, nil, c.lines, append([]string{"import", dir}, c.flags...)...).want(t, 1, c.bad)
			e := lab.Open(t, syncengine.Config{Dir: dir})
			if _, err := e.Get(lab.Bounded(t), "a"); (err == nil) != c.kept {
				t.Errorf("the line before: %v", err)
			}
			for _, id := range []string{"b", "c"} {
				if _, err := e.Get(lab.Bounded(t), id); !errors.Is(err, syncengine.ErrNotFound) {
					t.Errorf("%s: %v", id, err)
				}
			}
		})
	}
}

// TestAPrintedSchemaIsAllThatAServiceNeeds runs what is printed, as a DBA would.
func TestAPrintedSchemaIsAllThatAServiceNeeds(t *testing.T) {
	db := testserver.MariaDB(t)
	root := db.SQL(t)
	name := filepath.Base(db.URL())
	_, err := root.Exec("CREATE USER app@'127.0.0.1' IDENTIFIED BY '" + lab.CanaryWord + "'")
	lab.Must(t, err)
	r := run(t, nil, "", "schema", "print", "-dialect", "mariadb", "-database", name, "-user", "app@'127.0.0.1'")
	r.want(t, 0, "GRANT SELECT, INSERT, UPDATE, DELETE")
	for text := range strings.SplitSeq(r.out, ";\n") {
		if strings.TrimSpace(text) == "" {
			continue
		}
		if _, err := root.Exec(text); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
	}
	e := lab.Open(t, syncengine.Config{SQLURL: "mysql://app:" + lab.CanaryWord + "@" + db.Addr() + "/" + name})
	lab.Put(t, e, "x", 1, syncengine.WithDurability(syncengine.Archived))
	sqlite := run(t, nil, "", "schema", "print", "-dialect", "sqlite", "-json").lines(t)[0]
	if n := len(sqlite["tables"].([]any)); n != len(syncengine.Schema(syncengine.DialectSQLite)) || n < 5 {
		t.Errorf("%d statements", n)
	}
	upgrade := run(t, nil, "", "schema", "print", "-dialect", "mariadb", "-from", "8", "-table-prefix", "own_")
	if upgrade.want(t, 0, "where they have version 8", "CREATE TABLE IF NOT EXISTS own_due"); strings.Contains(upgrade.out, "own_ops") {
		t.Error(upgrade.out)
	}
}
