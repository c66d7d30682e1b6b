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

func TestVerifyFindsExactlyWhatDiffersAndRepairsIt(t *testing.T) {
	ctx := context.Background()
	l2 := l2With(t, storetest.Put("same", 5, "1"), storetest.Put("behind", 4, "1"), storetest.Put("ahead", 6, "1"), storetest.Put("of other content", 5, "2"),
		storetest.Put("outlived", 5, "1"), storetest.Put("deleted", 4, "1"), storetest.Put("unreadable", 5, "1"), storetest.Tombstone("never was", 5))
	storetest.Damage(l2, "unreadable")
	h := syncengine.HouseOn(t, syncengine.Plan{L2: l2, L3: l3With(t, storetest.Put("same", 5, "1"), storetest.Put("behind", 5, "1"), storetest.Put("ahead", 5, "1"),
		storetest.Put("of other content", 5, "1"), storetest.Tombstone("deleted", 5), storetest.Put("unreadable", 5, "1"), storetest.Put("missing", 5, "1"), storetest.Tombstone("no copy", 5))})
	wrong := []string{"ahead", "behind", "deleted", "missing", "of other content", "outlived", "unreadable"}
	for _, repair := range []bool{false, true} {
		r, err := h.Verifier.Verify(ctx, syncengine.VerifyOptions{Repair: repair})
		lab.Must(t, err)
		slices.Sort(r.Divergent)
		if r.InSync || !slices.Equal(r.Divergent, wrong) || repair != (r.Repaired == len(wrong)) || !repair && r.Repaired != 0 {
			t.Errorf("repair %v: %+v", repair, r)
		}
	}
	r, err := h.Verifier.Verify(ctx, syncengine.VerifyOptions{})
	if err != nil || !r.InSync || r.RootL2 != r.RootL3 || r.DivergentBranches != 0 {
		t.Errorf("after the repair: %+v, %v", r, err)
	}
	want(t, "L2", l2, map[string]uint64{"same": 5, "behind": 5, "ahead": 5, "of other content": 5, "outlived": 0, "deleted": 5, "unreadable": 5, "missing": 5, "no copy": 0})
}

// TestWhatIsOnItsWayIsNoDifference: ops that wait, and those that came between the two looks.
func TestWhatIsOnItsWayIsNoDifference(t *testing.T) {
	ctx := context.Background()
	l2, l3 := l2With(t, storetest.Put("waits", 4, "1"), storetest.Put("came", 4, "1")), l3With(t, storetest.Put("waits", 5, "1"), storetest.Put("came", 5, "1"))
	h := syncengine.HouseOn(t, syncengine.Plan{L3: &lab.HookedArchive{ArchiveStore: l3, OnHeads: func() error {
		return l2.Put(ctx, []syncengine.Record{storetest.Put("came", 5, "1")})
	}}, L2: l2})
	h.Log(t, storetest.Put("waits", 5, "1"))
	r, err := h.Verifier.Verify(ctx, syncengine.VerifyOptions{Repair: true})
	if err != nil || !r.InSync || r.DivergentBranches == 0 || r.Repaired != 0 {
		t.Errorf("%+v, %v", r, err)
	}
	want(t, "L2", l2, map[string]uint64{"waits": 4})
}

// TestATierThatCanNotBeAskedIsNotInSync, and what differs in it is left alone.
func TestATierThatCanNotBeAskedIsNotInSync(t *testing.T) {
	l2, l3 := l2With(t, storetest.Put("x", 4, "1")), l3With(t, storetest.Put("x", 5, "1"))
	h := syncengine.HouseOn(t, syncengine.Plan{L3: &lab.HookedArchive{ArchiveStore: l3, OnHeads: func() error { return lab.ErrAway }}, L2: l2})
	r, err := h.Verifier.Verify(context.Background(), syncengine.VerifyOptions{Repair: true})
	if !errors.Is(err, syncengine.ErrUnavailable) || r.InSync {
		t.Errorf("%+v, %v", r, err)
	}
	want(t, "L2", l2, map[string]uint64{"x": 4})
}

// TestL2IsComparedSoonAfterOpenAndWhenItIsBack: it may have lost what nobody has noted.
func TestL2IsComparedSoonAfterOpenAndWhenItIsBack(t *testing.T) {
	ctx := context.Background()
	var away error
	told := make(chan syncengine.VerifyReport, 10)
	l2, x := storetest.NewCache(), []syncengine.Record{storetest.Put("x", 5, "1")}
	h := syncengine.HouseOn(t, syncengine.Plan{
		L2: &lab.HookedCache{CacheStore: l2, OnPut: func(context.Context, []syncengine.Record) error { return away }}, L3: l3With(t, x...),
		Config: syncengine.Config{OnEvent: syncengine.Events{Verified: func(r syncengine.VerifyReport) { told <- r }}},
	})
	compared := func(when string) {
		t.Helper()
		lab.Eventually(t, "L2 is compared "+when, func() bool { return len(told) > 0 })
		if r := <-told; !slices.Equal(r.Divergent, []string{"x"}) || r.Repaired != 1 || holds(t, l2, "x") != 5 {
			t.Errorf("%s: %+v", when, r)
		}
	}
	h.Start(h.Verifier.Run)
	compared("at first")
	away = lab.ErrAway
	h.Cache.Write(ctx, []syncengine.Record{storetest.Put("y", 5, "1")})
	lab.Must(t, l2.Remove(ctx, []string{"x"})) // it was started again, empty
	away = nil
	lab.Must(t, h.Cache.Repair(ctx, nil))
	compared("when it is back")
}

// TestINV02WhatL2MayHaveMissedIsRepairedAndReadAgain: ids, and all of it after a crash.
func TestINV02WhatL2MayHaveMissedIsRepairedAndReadAgain(t *testing.T) {
	ctx := context.Background()
	l2 := l2With(t, storetest.Put("x", 4, "1"), storetest.Put("y", 4, "1"))
	plan := syncengine.Plan{L2: l2, L3: l3With(t, storetest.Put("x", 5, "1"), storetest.Put("y", 4, "1")), Config: syncengine.Config{Dir: t.TempDir()}}
	h := syncengine.HouseOn(t, plan)
	h.Cache.Miss(ctx, []syncengine.Record{storetest.Put("x", 5, "1")})
	h.Start(h.Verifier.RunRepair)
	lab.Eventually(t, "x is read again", func() bool { return h.Cache.MayRead("x") && !h.Cache.Owes() })
	want(t, "what was missed", l2, map[string]uint64{"x": 5})
	h.Cache.Unsure(ctx) // ops go to L3 and L2 that are not in the log
	lab.Must(t, lab.Applied(plan.L3.Apply(ctx, []syncengine.Record{storetest.Put("y", 5, "1")})))
	h.End()
	next := syncengine.HouseOn(t, plan)
	if next.Cache.MayRead("y") {
		t.Error("L2 is read after a crash that may have left it behind")
	}
	next.Start(next.Verifier.RunRepair)
	lab.Eventually(t, "L2 is read again", func() bool { return next.Cache.MayRead("y") && !next.Cache.Owes() })
	want(t, "after a crash", l2, map[string]uint64{"y": 5})
}
