package main_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

// Contents as large and as deep as the engine takes them, and small ones beside them.
func TestImportTakesWhatExportWrites(t *testing.T) {
	deep := strings.Repeat("[", 10_000) + strings.Repeat("]", 10_000)
	contents := map[string]string{
		"a": string(lab.BigDoc(7 << 10)), "b": string(lab.BigDoc(10 << 10)), "c": "1", "d": string(lab.BigDoc(16 << 10)),
		"deep": deep, "deep and spaced": " " + deep, "deeper named": `{"content":{"content":[1,"}\\\"",{"content":2}]}}`,
		"null": "null", "text": `"\ud83d\ude00 \ud800"`, "spaced text": ` "\ud800"`, "\ufffd": "1",
	}
	from, to := t.TempDir(), t.TempDir()
	e := lab.Open(t, syncengine.Config{Dir: from})
	for id, c := range contents {
		lab.Must(t, e.Submit(lab.Bounded(t), syncengine.Item{ID: id, Content: []byte(c)}))
	}
	lab.Must(t, e.Close())
	file := filepath.Join(t.TempDir(), "items.ndjson")
	run(t, nil, "", "export", "-file", file, from).want(t, 0, "11 items exported")
	for _, args := range [][]string{{"import", "-file", file, to}, {"import", "-keep-versions", "-file", file, t.TempDir()}} {
		run(t, nil, "", args...).want(t, 0, "11 items imported")
	}
	e = lab.Open(t, syncengine.Config{Dir: to})
	for id, c := range contents {
		if it, err := e.Get(lab.Bounded(t), id); err != nil || string(it.Content) != c {
			t.Errorf("%s: %d bytes, want %d, %v", id, len(it.Content), len(c), err)
		}
	}
}

func TestExportWritesToWhatIsNoFile(t *testing.T) {
	dir := t.TempDir()
	e := lab.Open(t, syncengine.Config{Dir: dir})
	lab.Put(t, e, "x", 1)
	lab.Must(t, e.Close())
	run(t, nil, "", "export", "-file", "/dev/null", dir).want(t, 0, "1 items exported")
	pipe := filepath.Join(t.TempDir(), "pipe")
	lab.Must(t, exec.Command("mkfifo", pipe).Run())
	var got bytes.Buffer
	reader := exec.CommandContext(lab.Bounded(t), "cat", pipe)
	reader.Stdout = &got
	lab.Must(t, reader.Start())
	run(t, nil, "", "export", "-file", pipe, dir).want(t, 0, "1 items exported")
	if lab.Must(t, reader.Wait()); !strings.Contains(got.String(), `"id":"x"`) {
		t.Errorf("through the pipe came %q", got.String())
	}
}

// A service that began on the file in its Dir and has gone to another database leaves the file
// there: it is not what the command is to read or write.
func TestAnOldDatabaseIsNotTakenForTheServices(t *testing.T) {
	db := testserver.SharedMariaDB(t)
	url := db.NewDatabase(t)
	for name, cfg := range map[string]syncengine.Config{
		"mysql://": {SQLURL: url},
		"handle":   {DB: testserver.OpenSQL(t, db.NewDatabase(t)), Dialect: syncengine.DialectMySQL},
	} {
		t.Run(name, func(t *testing.T) {
			cfg.Dir = t.TempDir()
			e := lab.Open(t, syncengine.Config{Dir: cfg.Dir})
			lab.Put(t, e, "old", 1)
			lab.Must(t, e.Close())
			run(t, nil, "", "export", cfg.Dir).want(t, 0, "1 items exported")
			e = lab.Open(t, cfg)
			lab.Put(t, e, "new", 1)
			lab.Must(t, e.Close())
			was := run(t, nil, "", "status", "-json", cfg.Dir)
			for _, args := range [][]string{{"export"}, {"import"}, {"drain"}, {"drain", "-moved"}, {"verify", "-deep"}, {"quarantine", "retry", "-all"}} {
				run(t, nil, "", append(args, cfg.Dir)...).want(t, 2, "name it by -sql")
			}
			if is := run(t, nil, "", "status", "-json", cfg.Dir); is != was {
				t.Errorf("the directory was %v, is %v", was, is)
			}
			if cfg.SQLURL != "" {
				run(t, nil, "", "export", "-sql", url, cfg.Dir).want(t, 0, `"id":"new"`, "1 items exported")
			}
		})
	}
}

// A service that has come back to the file in its Dir is on it.
func TestADirectoryMayComeBackToItsFile(t *testing.T) {
	dir := t.TempDir()
	for _, url := range []string{"", testserver.SharedMariaDB(t).NewDatabase(t), ""} {
		e := lab.Open(t, syncengine.Config{Dir: dir, SQLURL: url})
		lab.Put(t, e, "x", 1)
		lab.Must(t, e.Close())
	}
	run(t, nil, "", "drain", "-moved", dir).want(t, 0)
	run(t, nil, "", "export", dir).want(t, 0, "1 items exported")
}

// A damaged row ends an import that has to compare with it, at its line.
func TestImportWithVersionsEndsAtADamagedRow(t *testing.T) {
	dir := t.TempDir()
	e := lab.Open(t, syncengine.Config{Dir: dir})
	lab.Put(t, e, "b", 1)
	lab.Must(t, e.Close())
	raw := lab.OpenDriver(t, "sqlite", filepath.Join(dir, "archive.db"))
	_, err := raw.Exec("UPDATE sync_items SET content = '2' WHERE id = 'b'")
	lab.Must(t, err)
	lab.Must(t, raw.Close())
	in := `{"id":"a","version":"5","content":1}` + "\n" + `{"id":"b","version":"5","content":1}` + "\n" + `{"id":"c","version":"5","content":1}`
	run(t, nil, in, "import", "-keep-versions", dir).want(t, 5, "line 2", `"b"`, "1 items imported")
	if r := run(t, nil, "", "export", dir); !strings.Contains(r.out, `"id":"a"`) || strings.Contains(r.out, `"id":"c"`) {
		t.Error(r.out)
	}
}

// What is older than what is there is looked at all the same: a line that can't be stored ends the
// import whatever there is of its id.
func TestImportWithVersionsEndsAtALineThatCanNotBeWhateverIsThere(t *testing.T) {
	for where, url := range map[string]string{"private": "", "MariaDB": testserver.SharedMariaDB(t).NewDatabase(t)} {
		t.Run(where, func(t *testing.T) {
			dir := t.TempDir()
			var env []string
			if url != "" {
				env = []string{"SYNCENGINE_SQL=" + url}
			}
			e := lab.Open(t, syncengine.Config{Dir: dir, SQLURL: url})
			for _, id := range []string{"a", "b", "c"} {
				lab.Put(t, e, id, 1)
			}
			lab.Must(t, e.Close())
			older := func(id string) string { return `{"id":"` + id + `","version":"5","content":2}` + "\n" }
			for i, bad := range []string{`"content":2,"priority":9`, `"content":2,"crdt":"Nope"`, `"updated_at":"2020-01-01T00:00:00Z"`, `"content_text":"{"`} {
				before, after := fmt.Sprint("before", i), fmt.Sprint("after", i)
				in := older("a") + older(before) + `{"id":"b","version":"5",` + bad + "}\n" + older("c") + older(after)
				run(t, env, in, "import", "-keep-versions", "-json", dir).want(t, 1, "line 3", `{"expired":0,"imported":1,"older":1,"refused":0}`)
				if r := run(t, env, "", "export", dir); !strings.Contains(r.out, before) || strings.Contains(r.out, after) {
					t.Errorf("%s: what is before the line is stored, what is after it is not:\n%s", bad, r.out)
				}
			}
			run(t, env, older("a")+older("b"), "import", "-keep-versions", dir).want(t, 0, "2 items were older", "0 items imported")
		})
	}
}

// A version has one expiry: a file is nothing new to the database that it came from.
func TestImportWithVersionsKeepsWhenItemsExpire(t *testing.T) {
	for where, url := range map[string]string{"private": "", "MariaDB": testserver.SharedMariaDB(t).NewDatabase(t)} {
		t.Run(where, func(t *testing.T) {
			dir := t.TempDir()
			var env []string
			if url != "" {
				env = []string{"SYNCENGINE_SQL=" + url}
			}
			e := lab.Open(t, syncengine.Config{Dir: dir, SQLURL: url})
			for _, id := range []string{"a", "b", "c"} {
				lab.Put(t, e, id, 1, syncengine.WithTTL(time.Hour))
			}
			lab.Must(t, e.Close())
			was := run(t, env, "", "export", "-quiet", dir)
			run(t, env, was.out, "import", "-keep-versions", "-json", dir).want(t, 0, `{"expired":0,"imported":3,"older":0,"refused":0}`)
			elsewhere := t.TempDir()
			run(t, nil, was.out, "import", "-keep-versions", elsewhere).want(t, 0, "3 items imported")
			if is := run(t, nil, "", "export", "-quiet", elsewhere); is != was {
				t.Errorf("it was\n%s\nis\n%s", was.out, is.out)
			}
		})
	}
}

// pipe is one that nobody else reads or writes.
func pipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	lab.Must(t, err)
	t.Cleanup(func() { _, _ = r.Close(), w.Close() })
	return r, w
}

// fifo is one with a name.
func fifo(t *testing.T) (name string) {
	t.Helper()
	name = filepath.Join(t.TempDir(), "pipe")
	lab.Must(t, exec.Command("mkfifo", name).Run())
	return name
}

// large makes a directory with more than a pipe holds.
func large(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	e := lab.Open(t, syncengine.Config{Dir: dir})
	for i := range 10 {
		lab.Must(t, e.Submit(lab.Bounded(t), syncengine.Item{ID: fmt.Sprint(i), Content: lab.BigDoc(64)}))
	}
	lab.Must(t, e.Close())
	return dir
}

// A command that may take so long takes no longer for an input that does not come.
func TestATimeoutEndsAnImportThatWaitsForLines(t *testing.T) {
	dir := t.TempDir()
	r, w := pipe(t)
	_, err := w.WriteString(`{"id":"a","content":1}` + "\n" + `{"id":"b","con`)
	lab.Must(t, err)
	runOn(t, nil, r, nil, "import", "-timeout", "2s", dir).want(t, 3, "waiting for line 2", "1 items imported")
	run(t, nil, "", "export", dir).want(t, 0, "1 items exported", `"id":"a"`)
	run(t, nil, "", "import", "-timeout", "1s", "-file", fifo(t), dir).want(t, 3, "deadline")
}

// A reader that has left is an error, after which there is nothing left in the temporary directory.
func TestAnExportWhoseReaderHasLeftTidiesUp(t *testing.T) {
	url := testserver.SharedMariaDB(t).NewDatabase(t)
	e := lab.Open(t, syncengine.Config{SQLURL: url})
	lab.Put(t, e, "x", 1)
	lab.Must(t, e.Flush(lab.Bounded(t)))
	r, w := pipe(t)
	lab.Must(t, r.Close())
	runOn(t, nil, nil, w, "export", "-sql", url).want(t, 6, "broken pipe", "0 items exported")
}

// Nor for an output that nobody reads.
func TestATimeoutEndsAnExportThatNobodyReads(t *testing.T) {
	dir := large(t)
	_, w := pipe(t)
	runOn(t, nil, nil, w, "export", "-timeout", "2s", dir).want(t, 3, "nobody reads what is written", "0 items exported")
	run(t, nil, "", "export", "-timeout", "1s", "-file", fifo(t), dir).want(t, 3, "deadline")
}
