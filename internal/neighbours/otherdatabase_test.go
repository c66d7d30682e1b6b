package neighbours

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

// TestINV01WhatWaitsForADatabaseLandsInNoOther: a service with acknowledged writes in its Dir is
// started with another database, or without any.
func TestINV01WhatWaitsForADatabaseLandsInNoOther(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	server, second := testserver.MariaDB(t), testserver.SharedMariaDB(t)
	cfg := syncengine.Config{Dir: t.TempDir(), SQLURL: server.URL(), CloseTimeout: time.Second}
	e := lab.Open(t, cfg)
	submit(t, e, "x", "1", archived)
	server.Kill()
	submit(t, e, "x", "2")
	if err := e.Close(); !errors.Is(err, syncengine.ErrPending) {
		t.Fatal(err)
	}
	elsewhere := map[string]func(*syncengine.Config){
		"no URL":           func(c *syncengine.Config) { c.SQLURL = "" },
		"another database": func(c *syncengine.Config) { c.SQLURL = second.NewDatabase(t) },
		"another file":     func(c *syncengine.Config) { c.SQLURL = "sqlite:" + filepath.Join(t.TempDir(), "other.db") },
		"a handle": func(c *syncengine.Config) {
			c.DB, c.Dialect = lab.OpenDriver(t, "mysql", testserver.DSN(t, second.NewDatabase(t))), syncengine.DialectMySQL
			c.SQLURL = ""
		},
	}
	for name, change := range elsewhere {
		other := cfg
		change(&other)
		if e, err := syncengine.Open(ctx, other); !errors.Is(err, syncengine.ErrSetup) || !strings.Contains(err.Error(), "/sync") {
			t.Errorf("%s: %v", name, err)
			if err == nil {
				_ = e.Close()
			}
		}
	}
	// One that does not answer at Open is not written to when it does.
	late := testserver.MariaDB(t)
	other := cfg
	other.SQLURL = late.URL()
	late.Kill()
	e = lab.OpenAsIs(t, other)
	late.Restart()
	lab.Eventually(t, "it says why", func() bool { return strings.Contains(e.Health(ctx).L3.Error, "another database") })
	if err := e.Close(); !errors.Is(err, syncengine.ErrPending) {
		t.Errorf("close: %v", err)
	}
	if n := lab.Number(t, testserver.OpenSQL(t, late.URL()), "SELECT COUNT(*) FROM sync_items"); n != 0 {
		t.Error("what was accepted for one database is in another")
	}
	// That there is no other one any more a person has to say.
	moved := cfg
	moved.Dir = t.TempDir()
	lab.Must(t, os.CopyFS(moved.Dir, os.DirFS(cfg.Dir)))
	lab.Must(t, syncengine.ForgetDatabase(ctx, moved))
	moved.SQLURL = second.NewDatabase(t)
	e = lab.Open(t, moved)
	if err := syncengine.ForgetDatabase(ctx, moved); !errors.Is(err, syncengine.ErrLocked) {
		t.Errorf("beside an engine: %v", err)
	}
	lab.Must(t, e.Flush(lab.Bounded(t)))
	if n := lab.Number(t, testserver.OpenSQL(t, moved.SQLURL), "SELECT COUNT(*) FROM sync_items WHERE id = 'x' AND content = '2'"); n != 1 {
		t.Error("what waited is not in the database that was named")
	}
	lab.Must(t, e.Close())
	moved.Dir = t.TempDir()
	if err := syncengine.ForgetDatabase(ctx, moved); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("where there is no WAL: %v", err)
	}
	server.Restart()
	e = lab.Open(t, cfg)
	lab.Must(t, e.Flush(lab.Bounded(t)))
	if got := reads["Get"](e, "x"); got != "2" {
		t.Errorf("%s, and 2 was acknowledged", got)
	}
	lab.Must(t, e.Close())
	for name, change := range elsewhere { // nothing waits
		other := cfg
		change(&other)
		e := lab.Open(t, other)
		lab.NoError(t, name, e.Submit(ctx, syncengine.Item{ID: name, Content: []byte("1")}, archived))
		lab.NoError(t, name, e.Close())
	}
}

// A database that was made anew is the one that ops wait for, and so is one that has moved.
func TestWhatWaitsLandsInTheSameDatabaseWhereverItIs(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	server := testserver.MariaDB(t)
	cfg := syncengine.Config{Dir: t.TempDir(), SQLURL: server.URL(), CloseTimeout: time.Second}
	wait := func(content string) {
		e := lab.Open(t, cfg)
		submit(t, e, "x", "0", archived)
		server.Kill()
		submit(t, e, "x", content)
		if err := e.Close(); !errors.Is(err, syncengine.ErrPending) {
			t.Fatal(err)
		}
		server.Restart()
	}
	landed := func(content string) {
		t.Helper()
		e := lab.Open(t, cfg)
		lab.Must(t, e.Flush(lab.Bounded(t)))
		if got := reads["Get"](e, "x"); got != content {
			t.Errorf("%s, and %s was acknowledged", got, content)
		}
		lab.Must(t, e.Close())
	}
	wait("1")
	cfg.SQLURL = strings.Replace(server.URL(), "127.0.0.1", "localhost", 1)
	landed("1")
	wait("2")
	raw := testserver.OpenSQL(t, server.URL())
	for _, table := range []string{"items", "digest", "deltas", "instances", "fences", "meta", "log", "due", "ops", "dictionaries", "schema"} {
		_, err := raw.ExecContext(ctx, "DROP TABLE sync_"+table)
		lab.Must(t, err)
	}
	landed("2")
}
