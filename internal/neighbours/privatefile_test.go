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

// TestINV07And14AFileThatAnEngineHasForItselfIsNobodyElses: an engine without SQLURL goes by what
// it remembers of the file in its Dir, and would neither see nor keep what others write there.
func TestINV07And14AFileThatAnEngineHasForItselfIsNobodyElses(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	dir := t.TempDir()
	link := filepath.Join(t.TempDir(), "link.db")
	file := filepath.Join(dir, "archive.db")
	lab.Must(t, os.Symlink(file, link))
	own := syncengine.Config{Dir: dir}
	others := map[string]syncengine.Config{
		"by SQLURL":       {SQLURL: "sqlite:" + file},
		"by a link":       {SQLURL: "sqlite:" + link},
		"by another WAL":  {Dir: dir, WALPath: filepath.Join(t.TempDir(), "wal.db")},
		"by a prefix too": {SQLURL: "sqlite:" + file, TablePrefix: "mine_"},
	}
	refused := func(name string, cfg syncengine.Config) {
		t.Helper()
		if cfg.Dir == "" {
			cfg.Dir = t.TempDir()
		}
		e, err := syncengine.Open(ctx, cfg)
		if !errors.Is(err, syncengine.ErrLocked) || !strings.Contains(err.Error(), "archive.db") {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil {
			_ = e.Close()
		}
	}
	for name, cfg := range others {
		e := lab.Open(t, own)
		submit(t, e, "x", "1", archived)
		refused(name, cfg)
		waited := make(chan error, 1)
		patient := cfg
		patient.LockWait = time.Minute
		if patient.Dir == "" {
			patient.Dir = t.TempDir()
		}
		go func() {
			e, err := syncengine.Open(ctx, patient)
			if err == nil {
				err = e.Close()
			}
			waited <- err
		}()
		lab.Must(t, e.Close())
		lab.NoError(t, name+", which waits", <-waited)
		e = lab.Open(t, cfg)
		refused("for itself, beside one "+name, own)
		lab.Must(t, e.Close())
	}
	shared := syncengine.Config{SQLURL: "sqlite:" + file}
	a, b := lab.Open(t, shared), lab.Open(t, shared)
	submit(t, a, "y", "1", archived)
	if got := reads["Get"](b, "y"); got != "1" {
		t.Errorf("of two that name the file, one reads %q", got)
	}
	lab.Must(t, a.Close())
	refused("for itself, beside one of two that are left", own)
	lab.Must(t, b.Close())
	e := lab.Open(t, own)
	if got := reads["Get"](e, "y"); got != "1" {
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
