package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

func TestMain(m *testing.M) {
	if arg := os.Getenv(victimEnv); arg != "" { // kill.go has started this test binary
		os.Exit(victim(arg, os.Stdin, os.Stdout))
	}
	os.Exit(testserver.Run(m))
}

// demoOutput runs the demo and returns what it prints, with runs of spaces made one.
func demoOutput(t *testing.T, stdin string, args ...string) (stdout string, err error) {
	t.Helper()
	t.Setenv("TMPDIR", t.TempDir())
	var out, stderr bytes.Buffer
	err = run(t.Context(), args, strings.NewReader(stdin), &out, &stderr)
	t.Logf("%s%s", &out, &stderr)
	if left, _ := os.ReadDir(os.Getenv("TMPDIR")); len(left) > 0 && !slices.Contains(args, "-keep") {
		t.Errorf("left behind in the temporary directory: %v", left)
	}
	return regexp.MustCompile(` +`).ReplaceAllString(out.String(), " "), err
}

func wantLines(t *testing.T, output string, patterns ...string) {
	t.Helper()
	for _, p := range patterns {
		if !regexp.MustCompile(`(?m)` + p).MatchString(output) {
			t.Errorf("the output has no line that matches %q", p)
		}
	}
}

const fine = "^Everything is as it must be"

func TestDocumentsOfAFileSurvive(t *testing.T) {
	out, err := demoOutput(t, "", "testdata/events.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	wantLines(t, out, `^6 documents, .* from testdata/events.jsonl$`, `^1 duplicate id: the last one wins$`,
		`^store: SubmitMany of 100, logged 6 .* acknowledged$`,
		`^read back: Get 5 .* 5 of 5 identical, from L1`,
		`^Status 5 .* 5 synced, 0 pending; in L1 5, in L3 5$`,
		`^DeleteMany 2 .* 2 of 2 not found$`,
		`^read cold: GetMany of 100 3 .* 3 of 3 identical, from L3`,
		`^read deleted: Get 2 .* 2 of 2 not found$`,
		`^read cold: Get 3 .* 3 of 3 identical, from L3`,
		`^read them: Get 2 .* 2 of 2 identical`,
		`^child: .* killed after [345] acknowledged writes$`,
		`([345]) of ([345]) acknowledged identical$`,
		`^Files: .*archive.db .*wal.db`, fine)
}

func TestPackagesOfTheStandardLibraryAreTheDefault(t *testing.T) {
	out, err := demoOutput(t, "", "-durability", "archived")
	if err != nil {
		t.Fatal(err)
	}
	wantLines(t, out, "^[0-9]{3} documents, .* from `go list -json std`$", `^Flush .* 0 ops were still`, fine)
}

func TestKeptDirectoryHoldsEveryDocument(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "by", "the", "demo")
	if _, err := demoOutput(t, "", "-dir", dir, "-group", "1", "testdata/events.jsonl"); err != nil {
		t.Fatal(err)
	}
	engine, err := syncengine.Open(t.Context(), syncengine.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer engine.Close()
	for id, want := range map[string]string{
		"order/1001": `{"id":"order/1001","item":"teapot","price":19.90,"tags":[]}`,
		"3":          `{"item":"a document without an id gets its line number"}`,
		"1004":       `{"id":1004,"item":"numbers are ids too","big":12345678901234567890}`,
		"Straße 7 😀": "{\n  \"id\": \"Straße 7 😀\",\n  \"item\": \"a document may span lines\"\n}",
	} {
		if item, err := engine.Get(t.Context(), id); err != nil || string(item.Content) != want {
			t.Errorf("Get(%q) = %s, %v, want %s", id, item.Content, err, want)
		}
	}
}

func TestRealServers(t *testing.T) {
	redis, db := testserver.Redis(t), testserver.SharedMariaDB(t).NewDatabase(t)
	out, err := demoOutput(t, "", "-redis", redis.URL(), "-sql", db, "testdata/events.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	wantLines(t, out, `^Status .* in L2 5, in L3 5$`, `^read cold: GetMany .* 3 of 3 identical, from L2`,
		`^open without Redis`, `^read cold: GetMany .* 3 of 3 identical, from L3`, fine)
}

// Each of its four opens waits three seconds for the database.
func TestOutageOfSQLLosesNothing(t *testing.T) {
	out, err := demoOutput(t, "", "-sql", "mysql://demo:secret@127.0.0.1:1/demo", "testdata/events.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	wantLines(t, out, `^open .* SQL \(L3\) is away$`, `^Flush .* 5 ops stay in the WAL$`, `^Status .* 0 synced, 5 pending`,
		`3 of 3 identical, from the WAL$`, `^Close .* 7 ops left in the WAL$`, fine)
	if strings.Contains(out, "secret") {
		t.Error("the output shows a password")
	}
}

func TestLossIsAnError(t *testing.T) {
	in := input{docs: []document{{id: "a", content: json.RawMessage("1")}, {id: "b", content: json.RawMessage("2")}}}
	d := newDemo(options{}, in, io.Discard, io.Discard)
	if err := d.conclude(); err != nil {
		t.Errorf("nothing was lost, got %v", err)
	}
	other := syncengine.Item{ID: "a", Content: json.RawMessage("1 ")}
	if d.compare("a", &other) != 0 || d.compare("a", nil) != 0 {
		t.Error("a copy that differs by a space, or is missing, counts as identical")
	}
	d.lost = 1
	if err := d.conclude(); err == nil {
		t.Error("a lost item is no error")
	}
}

func TestBadInputSaysWhere(t *testing.T) {
	for _, c := range []struct{ input, idField, want string }{
		{"{\"a\":1}\n{\"a\":2,,\"b\":3}", "", "document 2 is not JSON: line 2, byte 15: invalid character ','"},
		{"{\"a\":1}\n\n{\"a\":\n[1,", "", "document 2 is not JSON: line 4, byte 18: the input ends within the document"},
		{"{\"id\":[]}", "", `document 1, line 1: field "id" is to be the id, but is neither a string nor a number`},
		{"{\"u\":{\"id\":1}}\n{\"u\":3}", "u.id", `document 2, line 2: has no field "u.id"`},
		{"{\"id\":\"\"}", "", "line 1: syncengine: invalid item"},
		{"{\"id\":\"a\"}\n{\"id\":\"b\\u0000\"}", "", "line 2: syncengine: invalid item"},
		{"{\"a\":\"\xff\"}", "", "invalid UTF-8"},
	} {
		_, err := demoOutput(t, c.input, "-id", c.idField)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("input %q: got %v, want %q", c.input, err, c.want)
		}
	}
}

func TestBadFlagsAreErrors(t *testing.T) {
	for _, args := range [][]string{{"-group", "0"}, {"-durability", "soon"}, {"a", "b"}, {"-sql", "nonsense"}, {"-"}} {
		if _, err := demoOutput(t, "", args...); err == nil {
			t.Errorf("%v: no error", args)
		}
	}
	if _, err := demoOutput(t, "", "no such file"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
}

func TestIDsOfDocuments(t *testing.T) {
	docs, err := decode([]byte("{\"id\":\"x\"}{\"id\":7}\n\n {\"no\":1} [3] \"text\"\n5"), "")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, d := range docs {
		got = append(got, d.id+"="+string(d.content))
	}
	want := []string{`x={"id":"x"}`, `7={"id":7}`, `3={"no":1}`, `3=[3]`, `3="text"`, `4=5`}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	docs, err = decode([]byte(`{"a":{"b":{"c":"deep"}}}{"a.b.c":"flat"}`), "a.b.c")
	if err != nil || docs[0].id != "deep" || docs[1].id != "flat" {
		t.Errorf("nested ids: %v, %v", docs, err)
	}
}

// A pipe that says nothing, as CI systems leave to their children, must not hang the demo.
func TestSilentStandardInputIsNotWaitedForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, w := io.Pipe()
		defer w.Close()
		var stderr bytes.Buffer
		data, err := readStdin(t.Context(), r, false, &stderr)
		if len(data) != 0 || err != nil || !strings.Contains(stderr.String(), "Nothing came") {
			t.Errorf("got %q, %v, said %q", data, err, &stderr)
		}
	})
}

// cancelAt cancels when a text is written.
type cancelAt struct {
	text   string
	cancel func()
}

func (c cancelAt) Write(b []byte) (int, error) {
	if bytes.Contains(b, []byte(c.text)) {
		c.cancel()
	}
	return len(b), nil
}

func TestInterruptClosesTheEngine(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	dir := t.TempDir()
	err := run(ctx, []string{"-dir", dir, "testdata/events.jsonl"}, nil, cancelAt{"read back", cancel}, io.Discard)
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v, want it to be context.Canceled", err)
	}
	engine, err := syncengine.Open(t.Context(), syncengine.Config{Dir: dir}) // ErrLocked if it is open
	if err != nil {
		t.Fatal(err)
	}
	defer engine.Close()
	if n := engine.Stats().PendingOps; n != 0 {
		t.Errorf("%d ops were left pending by a close with L3 at hand", n)
	}
}
