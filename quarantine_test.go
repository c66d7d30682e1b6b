package syncengine_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/storetest"
)

// refuse puts a unit of records into quarantine, as the flusher does.
func refuse(t testing.TB, h *syncengine.House, recs ...syncengine.Record) *syncengine.Unit {
	t.Helper()
	u := syncengine.UnitOf(syncengine.OpsOf(recs...)...)
	lab.Must(t, h.Bad.Refuse(context.Background(), u, &syncengine.RefusedError{Err: errors.New("not this row")}))
	return u
}

// answer is the version of the op in quarantine, or in the log, that answers for an id; 0: none.
func answer(t testing.TB, h *syncengine.House, id string) uint64 {
	t.Helper()
	op, askL3, err := h.Bad.Waiting(context.Background(), id)
	lab.Must(t, err)
	if op == nil {
		return 0
	}
	if syncengine.IDOf(op) != id || !askL3 && h.Bad.Has(id) {
		t.Errorf("%s is answered by %s, L3 is asked: %v", id, syncengine.IDOf(op), askL3)
	}
	return syncengine.VersionOf(op)
}

// TestINV09WhatIsRefusedIsKeptAndAnswers, also in the next engine on the Dir.
func TestINV09WhatIsRefusedIsKeptAndAnswers(t *testing.T) {
	ctx := context.Background()
	told := make(chan syncengine.QuarantinedOp, 10)
	plan := syncengine.Plan{L3: storetest.NewArchive(), Private: true, Config: syncengine.Config{
		Dir: t.TempDir(), OnEvent: syncengine.Events{Quarantined: func(op syncengine.QuarantinedOp) { told <- op }},
	}}
	want := func(h *syncengine.House) {
		t.Helper()
		ops, err := h.Bad.List(ctx)
		lab.Must(t, err)
		if len(ops) != 3 || ops[0].ID != "x" || ops[0].Version != 5 || ops[0].Error != "not this row" || string(ops[0].Content) != `"x"` ||
			ops[1].ID != "y" || !slices.Equal(ops[2].GroupIDs, []string{"y", "z"}) || !ops[2].Deleted || h.Bad.Count() != 3 {
			t.Errorf("listed are %+v, counted %d", ops, h.Bad.Count())
		}
		if !h.Bad.Has("x") || h.Bad.Has("other") || h.Bad.RefusedAt("z") != 7 || answer(t, h, "x") != 5 || answer(t, h, "z") != 7 || answer(t, h, "other") != 0 {
			t.Errorf("x: %d, z: %d, other: %d", answer(t, h, "x"), answer(t, h, "z"), answer(t, h, "other"))
		}
	}
	h := syncengine.HouseOn(t, plan)
	u := refuse(t, h, storetest.Put("x", 5, `"x"`))
	lab.Must(t, h.Bad.Refuse(ctx, u, errors.New("again"))) // the rest of its batch met an outage
	refuse(t, h, storetest.Put("y", 6, `"y"`), storetest.Tombstone("z", 7))
	want(h)
	h.End()
	if len(told) != 3 {
		t.Errorf("%d events", len(told))
	}
	want(syncengine.HouseOn(t, plan))
}

// TestINV04WhatL3HoldsSomethingHigherOfAnswersNothing: op by op, and the next engine knows it. What
// L3 holds after all is kept no longer.
func TestINV04WhatL3HoldsSomethingHigherOfAnswersNothing(t *testing.T) {
	ctx := context.Background()
	plan := syncengine.Plan{L3: storetest.NewArchive(), Private: true, Config: syncengine.Config{Dir: t.TempDir()}}
	h := syncengine.HouseOn(t, plan)
	refuse(t, h, storetest.Put("x", 5, "1"), storetest.Put("y", 5, "1"))
	refuse(t, h, storetest.Put("landed", 5, "1"))
	lab.Must(t, h.Bad.Landed(ctx, []syncengine.Record{storetest.Put("x", 4, "1"), storetest.Put("y", 6, "1"), storetest.Put("landed", 5, "1")}))
	want := func(h *syncengine.House) {
		t.Helper()
		ops, err := h.Bad.List(ctx)
		lab.Must(t, err)
		if len(ops) != 2 || ops[0].Superseded || !ops[1].Superseded {
			t.Errorf("listed are %+v", ops)
		}
		if h.Bad.RefusedAt("x") != 5 || answer(t, h, "x") != 5 || h.Bad.Has("y") || answer(t, h, "y") != 0 || h.Bad.Has("landed") {
			t.Errorf("x: %d, y: %d", answer(t, h, "x"), answer(t, h, "y"))
		}
	}
	want(h)
	h.End()
	want(syncengine.HouseOn(t, plan))
}

// TestINV01ARetriedUnitLeavesQuarantineForTheLogAlone: without room there it stays where it is.
func TestINV01ARetriedUnitLeavesQuarantineForTheLogAlone(t *testing.T) {
	ctx := context.Background()
	l3, dir := storetest.NewArchive(), t.TempDir()
	h := syncengine.HouseOn(t, syncengine.Plan{L3: l3, Private: true, Config: syncengine.Config{Dir: dir, WALMaxItems: 10, BatchFlushCount: 10}})
	refuse(t, h, storetest.Put("x", 5, "1"), storetest.Put("outranked", 5, "1"))
	lab.Must(t, lab.Applied(l3.Apply(ctx, []syncengine.Record{storetest.Put("outranked", 6, "1")})))
	lab.Must(t, h.Pressure.Reserve(syncengine.OpsOf(make([]syncengine.Record, 7)...)))
	if err := h.Pressure.Reserve(syncengine.OpsOf(syncengine.Record{})); !errors.Is(err, syncengine.ErrBackpressure) {
		t.Errorf("beside quarantine there is no room, and an op gets some: %v", err)
	}
	n, err := h.Bad.Retry(ctx, "x") // it has its own
	if n != 2 || err != nil || h.Bad.Count() != 0 || lab.WALOps(t, dir) != 1 {
		t.Errorf("%d, %v; %d are in quarantine, %d in the log", n, err, h.Bad.Count(), lab.WALOps(t, dir))
	}
	lab.Must(t, h.Pressure.Reserve(syncengine.OpsOf(syncengine.Record{})))
	if !h.Queue.Waits("x") || h.Queue.Waits("outranked") {
		t.Error("what is retried waits for L3, unless that holds something higher")
	}
}

func TestINV02ARowIsRetriedOrDiscardedByOneCallAtATime(t *testing.T) {
	ctx := context.Background()
	asked := make(chan struct{})
	gate, release := lab.Hold()
	defer release()
	h := syncengine.HouseOn(t, syncengine.Plan{Private: true, L3: &lab.HookedArchive{ArchiveStore: storetest.NewArchive(), OnHeads: func() error {
		close(asked)
		<-gate
		return nil
	}}})
	refuse(t, h, storetest.Put("x", 5, "1"))
	refuse(t, h, storetest.Put("y", 5, "1"))
	retried := make(chan int, 1)
	go func() {
		n, err := h.Bad.Retry(ctx, "x")
		if err != nil {
			t.Error(err)
		}
		retried <- n
	}()
	<-asked
	if n, err := h.Bad.Discard(ctx); n != 1 || err != nil || !h.Bad.Has("x") || h.Bad.Has("y") {
		t.Errorf("beside a retry of one of two, %d are discarded, %v", n, err)
	}
	release()
	if n := <-retried; n != 1 || h.Bad.Any() || !h.Queue.Waits("x") {
		t.Errorf("%d are retried, and %d left", n, h.Bad.Count())
	}
}

// TestINV04WhatIsDiscardedIsNotTakenFromTheLogAgain, by the next engine neither; another unit of
// the same op is.
func TestINV04WhatIsDiscardedIsNotTakenFromTheLogAgain(t *testing.T) {
	ctx := context.Background()
	plan := syncengine.Plan{L3: storetest.NewArchive(), Private: true, Config: syncengine.Config{Dir: t.TempDir()}}
	x, y := storetest.Put("x", 5, "1"), storetest.Put("y", 5, "1")
	h := syncengine.HouseOn(t, plan)
	h.Log(t, x)
	first, _ := h.Journal.Extent()
	refuse(t, h, x)
	before := h.Bad.Discards("x")
	if n, err := h.Bad.Discard(ctx, "x"); n != 1 || err != nil || h.Bad.Discards("x") == before {
		t.Errorf("%d are discarded, %v; it counts: %v", n, err, h.Bad.Discards("x") > before)
	}
	h.Log(t, x) // the same op once more
	again, _ := h.Journal.Extent()
	for _, h := range []*syncengine.House{h, nil} {
		if h == nil {
			h = syncengine.HouseOn(t, plan)
		}
		if !h.Bad.WasDiscarded(syncengine.OpsOf(x), first) {
			t.Error("it would be taken from the log again")
		}
		if h.Bad.WasDiscarded(syncengine.OpsOf(x, y), first) || h.Bad.WasDiscarded(syncengine.OpsOf(x), again) || h.Bad.WasDiscarded(syncengine.OpsOf(y), first) {
			t.Error("another unit is taken for it")
		}
		h.End()
	}
}

// TestINV02ACallThatReadsManyAsksTheIndexForEach: of a group that it has read, it answers with
// nothing that was outranked, discarded, or refused anew since.
func TestINV02ACallThatReadsManyAsksTheIndexForEach(t *testing.T) {
	ctx := context.Background()
	h := syncengine.HouseOn(t, syncengine.Plan{L3: storetest.NewArchive(), Private: true, Config: syncengine.Config{Dir: t.TempDir()}})
	refuse(t, h, storetest.Put("a", 5, `"a"`), storetest.Put("b", 5, `"b"`), storetest.Put("c", 5, `"c"`), storetest.Put("d", 5, `"d"`))
	refuse(t, h, storetest.Put("e", 5, `"e"`), storetest.Put("f", 5, `"f"`))
	r := syncengine.NewReading([]string{"a", "b", "c", "d", "e", "f"})
	want := func(id string, version uint64) {
		t.Helper()
		op, _, err := h.Bad.WaitingIn(ctx, r, id)
		lab.Must(t, err)
		if op == nil && version == 0 {
			return
		}
		if op == nil || syncengine.IDOf(op) != id || syncengine.VersionOf(op) != version {
			t.Errorf("%s is answered by %v, want version %d", id, op, version)
		}
	}
	want("a", 5)
	want("e", 5)
	lab.Must(t, h.Bad.Landed(ctx, []syncengine.Record{storetest.Put("b", 6, `"later"`)}))
	refuse(t, h, storetest.Put("c", 7, `"again"`))
	if n, err := h.Bad.Discard(ctx, "f"); n != 2 || err != nil {
		t.Errorf("%d are discarded, %v", n, err)
	}
	want("b", 0)
	want("c", 7)
	want("d", 5)
	want("f", 0)
	want("a", 5) // once more
	if n, err := h.Bad.Discard(ctx, "c"); n != 5 || err != nil {
		t.Errorf("%d are discarded, %v", n, err)
	}
	want("d", 0)
}
