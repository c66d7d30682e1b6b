//go:build crdt

package merging

import (
	"encoding/json"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

// count merges n times in an engine, and closes it.
func count(t *testing.T, cfg syncengine.Config, n int) {
	t.Helper()
	e := lab.Open(t, cfg)
	for range n {
		merge(t, e, "c", "GCounter", "1")
	}
	lab.Must(t, e.Close())
}

// wantNodes looks how many nodes have merged into an item.
func wantNodes(t *testing.T, e *syncengine.Engine, id string, want int) {
	t.Helper()
	it, err := e.Get(t.Context(), id)
	lab.Must(t, err)
	var state struct{ Counters map[string]int }
	lab.Must(t, json.Unmarshal(it.Content, &state))
	if len(state.Counters) != want {
		t.Errorf("the state has %d nodes, want %d: %s", len(state.Counters), want, it.Content)
	}
}

func TestINV01ADirRestoredFromABackupLosesNoMerge(t *testing.T) {
	for name, l3 := range l3s {
		t.Run(name, func(t *testing.T) {
			cfg := syncengine.Config{Dir: t.TempDir(), SQLURL: l3(t), Durability: syncengine.Archived}
			count(t, cfg, 1)
			backup := lab.Killed(t, cfg.Dir)
			for range 5 {
				count(t, cfg, 1)
			}
			e := lab.Open(t, cfg)
			wantValue(t, e, "c", "6")
			wantNodes(t, e, "c", 1)
			lab.Must(t, e.Close())
			cfg.Dir = backup
			count(t, cfg, 3)
			count(t, cfg, 4)
			e = lab.Open(t, cfg)
			wantValue(t, e, "c", "13")
			wantNodes(t, e, "c", 2)
		})
	}
}

// TestINV01ADirRestoredFromASnapshotLosesNoMerge has copies that were made while an engine ran,
// which gave out more numbers afterwards than it once kept in store.
func TestINV01ADirRestoredFromASnapshotLosesNoMerge(t *testing.T) {
	cfg := syncengine.Config{Dir: t.TempDir(), SQLURL: l3s["SQLite"](t), Durability: syncengine.Logged}
	count(t, cfg, 1)
	e := lab.Open(t, cfg)
	merge(t, e, "c", "GCounter", "1")
	snapshots := []string{lab.Killed(t, cfg.Dir), lab.Killed(t, cfg.Dir)}
	others := slices.Repeat([]syncengine.Item{{ID: "s", CRDT: "GSet", Content: []byte(`{"elements":[]}`)}}, 1<<16-1)
	for some := range slices.Chunk(others, 1000) {
		_, err := e.SubmitMany(t.Context(), some)
		lab.Must(t, err)
	}
	merge(t, e, "c", "GCounter", "1")
	lab.Must(t, e.Close())
	for _, dir := range append(snapshots, cfg.Dir) {
		cfg.Dir = dir
		count(t, cfg, 3)
	}
	wantValue(t, lab.Open(t, cfg), "c", "12")
}

// TestINV01EnginesOnCopiesOfADirLoseNoMerge has copies in which merges wait, and an older one whose
// engine begins while SQL is away.
func TestINV01EnginesOnCopiesOfADirLoseNoMerge(t *testing.T) {
	db := testserver.MariaDB(t)
	cfg := syncengine.Config{Dir: t.TempDir(), SQLURL: db.URL(), L3Timeout: time.Second, CloseTimeout: 10 * time.Second}
	leave := func(dir string, before, n int) {
		t.Helper()
		cfg := cfg
		cfg.Dir = dir
		e := lab.Open(t, cfg)
		if before > 0 {
			for range before {
				merge(t, e, "c", "GCounter", "1", syncengine.WithDurability(syncengine.Archived))
			}
			db.Kill()
		}
		for range n {
			merge(t, e, "c", "GCounter", "1", syncengine.WithDurability(syncengine.Logged))
		}
		var pending *syncengine.PendingError
		if err := e.Close(); !errors.As(err, &pending) || pending.Ops != n {
			t.Fatalf("Close: %v", err)
		}
	}
	count(t, cfg, 2)
	older := lab.Killed(t, cfg.Dir)
	leave(cfg.Dir, 3, 4)
	leave(older, 0, 5)
	dirs := []string{older, cfg.Dir, lab.Killed(t, cfg.Dir), lab.Killed(t, cfg.Dir)}
	db.Restart()
	var wg sync.WaitGroup
	for _, dir := range dirs {
		wg.Go(func() {
			cfg := cfg
			cfg.Dir = dir
			e, err := syncengine.Open(t.Context(), cfg)
			if err != nil {
				t.Error(err)
				return
			}
			for range 11 {
				if _, err := e.Merge(t.Context(), "c", "GCounter", []byte("1")); err != nil {
					t.Error(err)
				}
			}
			if err := e.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	wantValue(t, lab.Open(t, cfg), "c", "58")
}
