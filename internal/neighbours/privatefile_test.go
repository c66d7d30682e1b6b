package neighbours

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
)

// TestINV07And14AFileThatAnEngineHasForItselfIsWrittenByNobodyElse: an engine without SQLURL goes
// by what it remembers of the file in its Dir, and would neither see nor keep what others write
// there.
func TestINV07And14AFileThatAnEngineHasForItselfIsWrittenByNobodyElse(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	dir := t.TempDir()
	link := filepath.Join(t.TempDir(), "link.db")
	file := filepath.Join(dir, "archive.db")
	lab.Must(t, os.Symlink(file, link))
	own := syncengine.Config{Dir: dir}
	put := func(e *syncengine.Engine, content string) error {
		return e.Submit(ctx, syncengine.Item{ID: "x", Content: []byte(content)}, archived)
	}
	refused := func(what string, cfg syncengine.Config) {
		t.Helper()
		e, err := syncengine.Open(ctx, cfg)
		if !errors.Is(err, syncengine.ErrLocked) || !strings.Contains(err.Error(), "archive.db") {
			t.Errorf("%s: %v", what, err)
		}
		if err == nil {
			_ = e.Close()
		}
	}
	for name, cfg := range map[string]syncengine.Config{
		"by SQLURL": {SQLURL: "sqlite:" + file}, "by a link": {SQLURL: "sqlite:" + link}, "with a prefix": {SQLURL: "sqlite:" + file, TablePrefix: "mine_"},
	} {
		e := lab.Open(t, own)
		lab.Must(t, put(e, "1"))
		other := lab.Open(t, cfg) // it may read
		if got := reads["Get"](other, "x"); cfg.TablePrefix == "" && got != "1" {
			t.Errorf("%s it reads %q", name, got)
		}
		if err := put(other, "2"); !errors.Is(err, syncengine.ErrUnavailable) || !errors.Is(err, syncengine.ErrLocked) {
			t.Errorf("%s it writes: %v", name, err)
		}
		if err := other.Insert(ctx, syncengine.Item{ID: "new", Content: []byte("1")}); !errors.Is(err, syncengine.ErrUnavailable) {
			t.Errorf("%s it inserts: %v", name, err)
		}
		submit(t, other, "y", `"waits"`) // in its own WAL
		if got := reads["Get"](e, "x"); got != "1" {
			t.Errorf("%s beside it, the owner reads %q", name, got)
		}
		lab.Must(t, e.Close())
		lab.Must(t, other.Flush(lab.Bounded(t)))
		if got := reads["Get"](other, "y"); got != `"waits"` {
			t.Errorf("%s, what waited is %q", name, got)
		}
		refused("for itself, beside one "+name, own)
		lab.Must(t, other.Close())
	}
	another := syncengine.Config{Dir: dir, WALPath: filepath.Join(t.TempDir(), "wal.db")}
	e := lab.Open(t, own)
	refused("by another WAL", another)
	waited := make(chan error, 1)
	go func() {
		another.LockWait = time.Minute
		e, err := syncengine.Open(ctx, another)
		if err == nil {
			err = e.Close()
		}
		waited <- err
	}()
	lab.Must(t, e.Close())
	lab.NoError(t, "one that waits", <-waited)

	shared := syncengine.Config{SQLURL: "sqlite:" + file}
	a, b := lab.Open(t, shared), lab.Open(t, shared)
	lab.Must(t, put(a, "3"))
	lab.Must(t, put(b, "4"))
	lab.Must(t, a.Close())
	refused("for itself, beside one of two that are left", own)
	lab.Must(t, b.Close())
	if got := reads["Get"](lab.Open(t, own), "x"); got != "4" {
		t.Errorf("when they have ended, one for itself reads %q", got)
	}
}

// TestINV01WhatWaitsForTheFileOfADirLandsInNoOther: WALPath is the same, and Dir is not.
func TestINV01WhatWaitsForTheFileOfADirLandsInNoOther(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	base := t.TempDir()
	in := func(dir string) syncengine.Config {
		return syncengine.Config{Dir: filepath.Join(base, dir), WALPath: filepath.Join(base, "wal.db"), BatchFlushInterval: time.Hour}
	}
	e := lab.Open(t, in("one"))
	submit(t, e, "x", "1", archived)
	submit(t, e, "x", "2")
	kept := filepath.Join(t.TempDir(), "wal.db")
	for _, name := range []string{"", "-wal", ".lock"} { // as after a kill
		b, err := os.ReadFile(filepath.Join(base, "wal.db") + name)
		if err == nil {
			err = os.WriteFile(kept+name, b, 0o600)
		}
		lab.Must(t, err)
	}
	lab.Must(t, e.Close())
	killed := func(dir string) syncengine.Config {
		cfg := in(dir)
		cfg.WALPath = kept
		return cfg
	}
	if e, err := syncengine.Open(ctx, killed("two")); !errors.Is(err, syncengine.ErrSetup) || !strings.Contains(err.Error(), filepath.Join(base, "one")) {
		t.Errorf("another Dir: %v", err)
		if err == nil {
			_ = e.Close()
		}
	}
	lab.Must(t, os.Rename(filepath.Join(base, "one"), filepath.Join(base, "moved")))
	e = lab.Open(t, killed("moved"))
	lab.Must(t, e.Flush(lab.Bounded(t)))
	if got := reads["Get"](e, "x"); got != "2" {
		t.Errorf("in the Dir that has moved: %q", got)
	}
	lab.Must(t, e.Close())
	e = lab.Open(t, killed("two")) // nothing waits
	lab.Must(t, e.Close())
}
