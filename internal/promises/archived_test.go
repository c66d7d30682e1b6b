package promises

// archived_test.go tests what becomes of ops that L3 holds a later one of, by another engine.

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/storetest"
)

// theirsAbove puts a row into L3 that is above all that an engine of today writes.
func theirsAbove(t *testing.T, l3 syncengine.ArchiveStore, ids ...string) {
	t.Helper()
	for _, id := range ids {
		_, err := l3.Apply(context.Background(), []syncengine.Record{storetest.Put(id, 1<<61, `"theirs"`)})
		lab.Must(t, err)
	}
}

func TestINV01AnOutrankedArchivedOpIsSubmittedAgainAbove(t *testing.T) {
	ctx := context.Background()
	archived := syncengine.WithDurability(syncengine.Archived)
	for name, budget := range map[string]int64{"in memory": 1 << 20, "spooled": 64 << 10} {
		t.Run(name, func(t *testing.T) {
			l3 := &lab.FaultyArchive{ArchiveStore: storetest.NewArchive()}
			cfg := syncengine.Config{Dir: t.TempDir(), L3: l3, L1MaxBytes: budget}
			e := lab.Open(t, cfg)
			theirsAbove(t, l3, "put", "deleted", "g-1")
			lab.Must(t, e.Submit(ctx, syncengine.Item{ID: "put", Content: lab.BigDoc(40)}, archived))
			lab.Must(t, e.Delete(ctx, "deleted", archived))
			_, err := e.SubmitMany(ctx, []syncengine.Item{{ID: "g-1", Content: lab.Doc("g-1", 1)}, {ID: "g-2", Content: lab.Doc("g-2", 1)}}, archived)
			lab.Must(t, err)
			rows, err := lab.ArchiveOf(ctx, l3)
			lab.Must(t, err)
			for id, rec := range rows {
				if id != "g-2" && rec.Version <= 1<<61 || string(rec.Content) == `"theirs"` {
					t.Errorf("L3 holds %.20s at version %d of %s", rec.Content, rec.Version, id)
				}
			}
			if s := e.Stats(); s.Superseded != 0 || s.PendingOps != 0 {
				t.Errorf("%+v", s)
			}
			lab.WantContent(t, e, "deleted", -1)
			lab.Must(t, e.Close())
			lab.WantContent(t, lab.Open(t, cfg), "g-1", 1)
		})
	}
}

func TestINV01AnOutrankedOpOfAnotherLevelIsCountedAndTold(t *testing.T) {
	ctx := context.Background()
	l3 := storetest.NewArchive()
	told := make(chan syncengine.SupersededOp, 10)
	e := lab.Open(t, syncengine.Config{L3: l3, BatchFlushInterval: time.Hour, OnEvent: syncengine.Events{Superseded: func(op syncengine.SupersededOp) { told <- op }}})
	theirsAbove(t, l3, "logged", "buffered", "removed", "twice")
	lab.Put(t, e, "logged", 1)
	lab.Put(t, e, "buffered", 1, syncengine.WithDurability(syncengine.Buffered))
	lab.Must(t, e.Delete(ctx, "removed"))
	lab.Put(t, e, "twice", 1)
	lab.Put(t, e, "twice", 2) // what it replaces is not superseded by another engine
	lab.Put(t, e, "landed", 1)
	lab.Must(t, e.Flush(ctx))
	if n := e.Stats().Superseded; n != 4 {
		t.Errorf("%d superseded, want 4", n)
	}
	seen := make(map[string]bool)
	for range 4 {
		op := <-told
		seen[op.ID] = true
		if op.By != 1<<61 || op.ByDelete || op.Deleted != (op.ID == "removed") || op.Version == 0 || op.Deleted != (op.Content == nil) {
			t.Errorf("told of %+v", op)
		}
		if want := map[string]int{"twice": 2}[op.ID]; op.ID == "twice" && string(op.Content) != string(lab.Doc("twice", want)) {
			t.Errorf("told of %s", op.Content)
		}
	}
	if len(seen) != 4 || len(told) != 0 {
		t.Errorf("told of %v, and %d more", seen, len(told))
	}
	for id := range seen {
		if it, err := e.Get(ctx, id); err != nil || string(it.Content) != `"theirs"` {
			t.Errorf("%s is read as %s, %v", id, it.Content, err)
		}
	}
}

// TestANumberedArchivedOpIsNeverRenumbered: a replicator's version stands, so L3 refuses it.
func TestANumberedArchivedOpIsNeverRenumbered(t *testing.T) {
	onEachL3(t, func(t *testing.T, cfg syncengine.Config) {
		ctx := context.Background()
		archived := syncengine.WithDurability(syncengine.Archived)
		e := lab.Open(t, cfg)
		lab.Must(t, e.Submit(ctx, syncengine.Item{ID: "x", Content: lab.Doc("x", 7)}, archived, syncengine.WithVersion(7)))
		lab.Must(t, e.Submit(ctx, syncengine.Item{ID: "x", Content: lab.Doc("x", 7)}, archived, syncengine.WithVersion(7))) // a repetition
		lab.Must(t, e.Close())
		e = lab.Open(t, cfg) // that knows nothing of it
		if err := e.Submit(ctx, syncengine.Item{ID: "x", Content: lab.Doc("x", 6)}, archived, syncengine.WithVersion(6)); !errors.Is(err, syncengine.ErrStaleVersion) {
			t.Errorf("a stale version: %v", err)
		}
		if s := e.Stats(); s.Superseded != 0 || s.PendingOps != 0 || s.WALItems != 0 {
			t.Errorf("something was kept of what was refused: %+v", s)
		}
		if it, err := e.Get(ctx, "x"); err != nil || it.Version != 7 || string(it.Content) != string(lab.Doc("x", 7)) {
			t.Errorf("x is %s at %d, %v", it.Content, it.Version, err)
		}
	})
}

// TestINV14AConditionSeesWhatThisEngineHasAccepted, at whatever level, wherever it waits.
func TestINV14AConditionSeesWhatThisEngineHasAccepted(t *testing.T) {
	onEachL3(t, func(t *testing.T, cfg syncengine.Config) {
		ctx := context.Background()
		cfg.BatchFlushInterval, cfg.L1MaxBytes = time.Hour, 64<<10
		e := lab.Open(t, cfg)
		for n, d := range everyLevel[:2] {
			id := fmt.Sprint("x-", n)
			lab.Put(t, e, id, 1, syncengine.WithDurability(d))
			err := e.Insert(ctx, syncengine.Item{ID: id, Content: lab.Doc(id, 2)})
			if !errors.Is(err, syncengine.ErrExists) {
				t.Errorf("Insert of what is pending at %v: %v", d, err)
			}
			lab.Put(t, e, id, 3, syncengine.WithDurability(d))
			it, err := e.Get(ctx, id)
			lab.Must(t, err)
			lab.Must(t, e.Submit(ctx, syncengine.Item{ID: id, Content: lab.Doc(id, 4)}, syncengine.WithIfVersion(it.Version)))
			lab.WantContent(t, e, id, 4)
			lab.Must(t, e.Delete(ctx, id, syncengine.WithDurability(d)))
			lab.Must(t, e.Insert(ctx, syncengine.Item{ID: id, Content: lab.Doc(id, 5)}))
			lab.WantContent(t, e, id, 5)
		}
	})
}

// TestAConditionWhileL3IsAwaySendsNothing where L3 is shared.
func TestAConditionWhileL3IsAwaySendsNothing(t *testing.T) {
	ctx := context.Background()
	l3 := &lab.FaultyArchive{ArchiveStore: storetest.NewArchive()}
	e := lab.Open(t, syncengine.Config{L3: l3, BatchFlushInterval: time.Hour})
	lab.Put(t, e, "pending", 1)
	l3.Away.Store(true)
	for _, id := range []string{"new", "pending"} {
		if err := e.Insert(ctx, syncengine.Item{ID: id, Content: lab.Doc(id, 2)}); !errors.Is(err, syncengine.ErrUnavailable) || errors.Is(err, syncengine.ErrUnknownOutcome) {
			t.Errorf("Insert of %s: %v, want ErrUnavailable", id, err)
		}
	}
	l3.Away.Store(false)
	lab.Eventually(t, "L3 is back", func() bool { return e.Flush(ctx) == nil })
	lab.WantContent(t, e, "new", -1)
	lab.WantContent(t, e, "pending", 1)
}
