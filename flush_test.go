package syncengine_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/storetest"
)

// heard is all that is above the pipeline: it notes what it is told of, in words.
type heard struct {
	mu       sync.Mutex // guards words
	words    []string
	onLanded func(recs []syncengine.Record)
	deaf     atomic.Bool // what it is told it can't keep, as when the log can't be written
}

// hears notes what it is told, or that it is deaf, once.
func (h *heard) hears(format string, args ...any) error {
	if !h.deaf.Load() {
		h.note(format, args...)
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.words = slices.Compact(append(h.words, "deaf"))
	return errors.New("deaf")
}

func (h *heard) note(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.words = append(h.words, fmt.Sprintf(format, args...))
}

// want compares what was noted since the last call.
func (h *heard) want(t *testing.T, words ...string) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	if !slices.Equal(h.words, words) {
		t.Errorf("noted is %q, want %q", h.words, words)
	}
	h.words = nil
}

func (h *heard) Refuse(_ context.Context, u *syncengine.Unit, why error) error {
	var ids []string
	for _, op := range u.Ops() {
		ids = append(ids, syncengine.IDOf(op))
	}
	return h.hears("refused %v, %v", ids, errors.Is(why, syncengine.ErrRefused))
}

func (h *heard) Landed(_ context.Context, recs []syncengine.Record) error {
	if len(recs) == 0 {
		return nil
	}
	err := h.hears("landed %v", idsOf(recs))
	if h.onLanded != nil {
		h.onLanded(recs)
	}
	return err
}

func (h *heard) Outranked(_ context.Context, recs []syncengine.Record) {
	h.note("outranked %v", idsOf(recs))
}

func (h *heard) Superseded(lost []syncengine.LostOp) {
	for i := range lost {
		h.note("superseded %s at %d by %d", lost[i].Op.ID, lost[i].Op.Version, lost[i].Held.Version)
	}
}

func (h *heard) RefusedAt(string) uint64 { return 0 }

func (h *heard) Waiting(context.Context, string) (*syncengine.OpEntry, bool, error) {
	return nil, false, nil
}

func (h *heard) WasDiscarded([]*syncengine.OpEntry, int64) bool { return false }

// holds reports at which version a store holds an id, 0 for not at all.
func holds(t testing.TB, s getter, id string) uint64 {
	t.Helper()
	rec, err := s.Get(context.Background(), id)
	if err != nil && !errors.Is(err, syncengine.ErrNotFound) {
		t.Errorf("%s: %v", id, err)
	}
	return rec.Version
}

func flushed(h *syncengine.House) error {
	_, err := h.Flush.FlushAll(context.Background())
	return err
}

// TestABatchGoesToL3ThenIsToldThenToL2ThenMemoryLetsGo: after a crash in between the later steps
// can be made good, the earlier ones can't.
func TestABatchGoesToL3ThenIsToldThenToL2ThenMemoryLetsGo(t *testing.T) {
	var h *syncengine.House
	up := &heard{}
	l2, l3 := storetest.NewCache(), storetest.NewArchive()
	note := func(where string) {
		up.note("%s: L3 %d, L2 %d, waits %v", where, holds(t, l3, "x"), holds(t, l2, "x"), h.Queue.Waits("x"))
	}
	up.onLanded = func([]syncengine.Record) { note("told") }
	h = syncengine.HouseOn(t, syncengine.Plan{
		L3: &lab.HookedArchive{ArchiveStore: l3, OnApply: func(context.Context, []syncengine.Record) error { note("to L3"); return nil }},
		L2: &lab.HookedCache{CacheStore: l2, OnPut: func(context.Context, []syncengine.Record) error { note("to L2"); return nil }},
		Up: up, Private: true,
	})
	h.Log(t, storetest.Put("x", 5, "1"))
	h.Start(h.Flush.Run)
	lab.Must(t, flushed(h))
	note("in the end")
	up.want(t, "to L3: L3 0, L2 0, waits true", "landed [x]", "told: L3 5, L2 0, waits true", "to L2: L3 5, L2 0, waits true",
		"in the end: L3 5, L2 5, waits false")
}

func TestINV09AUnitThatL3RefusesGoesUpAloneAndAsAWhole(t *testing.T) {
	up, l3 := &heard{}, storetest.NewArchive()
	h := syncengine.HouseOn(t, syncengine.Plan{L3: &lab.HookedArchive{ArchiveStore: l3, OnApply: lab.RefusePoison}, Up: up, Private: true})
	for n, id := range []string{"a", "b", "c"} {
		h.Log(t, storetest.Put(id, uint64(n+1), "1"))
	}
	h.Log(t, storetest.Put("mate", 7, "1"), storetest.Put("poison", 8, string(lab.Poison)))
	h.Log(t, storetest.Put("d", 9, "1"))
	up.deaf.Store(true)
	h.Start(h.Flush.Run)
	if err := flushed(h); !errors.Is(err, syncengine.ErrUnavailable) || !h.Queue.Waits("poison") || !h.Queue.Waits("mate") {
		t.Errorf("a refused unit that nobody keeps is let go of: %v", err)
	}
	up.deaf.Store(false)
	lab.Eventually(t, "it is refused again and kept", func() bool { return flushed(h) == nil })
	for id, want := range map[string]uint64{"a": 1, "b": 2, "c": 3, "d": 9, "mate": 0, "poison": 0} {
		if got := holds(t, l3, id); got != want || h.Queue.Waits(id) {
			t.Errorf("L3 holds %s at %d, want %d; it waits: %v", id, got, want, h.Queue.Waits(id))
		}
	}
	up.want(t, "deaf", "refused [mate poison], true", "landed [a b c d]")
}

// TestNothingIsLetGoOfBeforeThoseAboveHaveHeardOfIt: they may have to keep it, too.
func TestNothingIsLetGoOfBeforeThoseAboveHaveHeardOfIt(t *testing.T) {
	up, l2, l3 := &heard{}, storetest.NewCache(), storetest.NewArchive()
	up.deaf.Store(true)
	h := syncengine.HouseOn(t, syncengine.Plan{L2: l2, L3: l3, Up: up, Private: true})
	h.Log(t, storetest.Put("x", 5, "1"))
	h.Start(h.Flush.Run)
	if err := flushed(h); !errors.Is(err, syncengine.ErrUnavailable) || holds(t, l3, "x") != 5 || holds(t, l2, "x") != 0 || !h.Queue.Waits("x") {
		t.Errorf("%v; L3 %d, L2 %d, waits %v", err, holds(t, l3, "x"), holds(t, l2, "x"), h.Queue.Waits("x"))
	}
	up.deaf.Store(false)
	lab.Eventually(t, "it is told again", func() bool { return flushed(h) == nil })
	up.want(t, "deaf", "landed [x]")
	if holds(t, l2, "x") != 5 || h.Queue.Waits("x") {
		t.Error("it was told, and has not gone on")
	}
}

// TestINV01AnOutageGivesBatchesBackAndSavesWhatIsInMemoryAlone: a crash would lose it.
func TestINV01AnOutageGivesBatchesBackAndSavesWhatIsInMemoryAlone(t *testing.T) {
	dir, l3 := t.TempDir(), &lab.FaultyArchive{ArchiveStore: storetest.NewArchive()}
	h := syncengine.HouseOn(t, syncengine.Plan{L3: l3, Up: &heard{}, Private: true, Config: syncengine.Config{Dir: dir}})
	l3.Away.Store(true)
	h.Buffer(t, storetest.Put("buffered", 3, "1"), storetest.Put("its mate", 4, "1"))
	h.Log(t, storetest.Put("logged", 5, "1"))
	if n := h.Journal.Alone(); n != 2 || lab.WALOps(t, dir) != 1 {
		t.Errorf("%d ops are in memory alone, %d in the log", n, lab.WALOps(t, dir))
	}
	h.Start(h.Flush.Run)
	if err := flushed(h); !errors.Is(err, syncengine.ErrUnavailable) || !h.Archive.Down() {
		t.Errorf("Flush: %v, down %v", err, h.Archive.Down())
	}
	lab.Eventually(t, "all is in the log", func() bool { return h.Journal.Alone() == 0 })
	if n := lab.WALOps(t, dir); n != 3 {
		t.Errorf("%d ops are in the log", n)
	}
	if ops, _, _ := h.Queue.Pending(); ops != 3 {
		t.Errorf("%d ops wait", ops)
	}
	l3.Away.Store(false)
	lab.Eventually(t, "all lands", func() bool { return flushed(h) == nil })
	for id, want := range map[string]uint64{"buffered": 3, "its mate": 4, "logged": 5} {
		if got := holds(t, l3, id); got != want {
			t.Errorf("L3 holds %s at %d, want %d", id, got, want)
		}
	}
}

// TestINV04WhatLosesToAnotherInL3ReachesNoOtherTier, and those above hear of it before it is let
// go of.
func TestINV04WhatLosesToAnotherInL3ReachesNoOtherTier(t *testing.T) {
	up, l2, l3 := &heard{}, storetest.NewCache(), storetest.NewArchive()
	lab.Must(t, lab.Applied(l3.Apply(context.Background(), []syncengine.Record{storetest.Tombstone("x", 9)})))
	h := syncengine.HouseOn(t, syncengine.Plan{L2: l2, L3: l3, Up: up, Private: true})
	up.onLanded = func(recs []syncengine.Record) {
		if recs[0].ID == "x" && !h.Queue.Waits("x") {
			t.Error("it is let go of")
		}
	}
	h.Log(t, storetest.Put("x", 5, "1"))
	h.Log(t, storetest.Put("y", 6, "1"))
	h.Start(h.Flush.Run)
	lab.Must(t, flushed(h))
	up.want(t, "landed [y]", "landed [x]", "outranked [x]", "superseded x at 5 by 9")
	if _, ok := h.Memory.Peek("x"); ok || holds(t, l2, "x") != 0 || holds(t, l2, "y") != 6 {
		t.Errorf("memory has it: %v, L2 %d", ok, holds(t, l2, "x"))
	}
}
