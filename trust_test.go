package syncengine_test

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/storetest"
)

// denies reports whether ids that nobody has written are denied: a few of them may be affirmed.
func denies(h *syncengine.House) bool {
	for n := range 50 {
		if !h.Trust.MayContain(fmt.Sprint("absent-", n)) {
			return true
		}
	}
	return false
}

func TestINV07OnlyWhoIsAloneAndHasReadAllOfL3DeniesIDs(t *testing.T) {
	ctx := context.Background()
	l3 := storetest.NewArchive()
	_, err := l3.Apply(ctx, []syncengine.Record{storetest.Put("there", 1, "1")})
	lab.Must(t, err)
	alone := syncengine.HouseOn(t, syncengine.Plan{L3: l3, Private: true})
	if !alone.Trust.Alone() || denies(alone) {
		t.Error("ids are denied before L3 was read")
	}
	alone.Start(alone.Trust.KeepFilter)
	lab.Eventually(t, "absent ids are denied", func() bool { return denies(alone) })
	if !alone.Trust.MayContain("there") {
		t.Error("what L3 holds is denied")
	}
	shared := syncengine.HouseOn(t, syncengine.Plan{L3: l3}) // which keeps no table of its engines
	if err := shared.BuildFilter(ctx); err == nil || shared.Trust.Alone() || denies(shared) {
		t.Errorf("nobody knows who else writes, and the filter is believed: %v", err)
	}
}

// TestINV07WhatIsBeingWrittenIsNotDenied, also when the set that answers is replaced meanwhile by
// one of what L3 held before.
func TestINV07WhatIsBeingWrittenIsNotDenied(t *testing.T) {
	ctx := context.Background()
	l3 := storetest.NewArchive()
	h := syncengine.HouseOn(t, syncengine.Plan{L3: l3, Private: true})
	lab.Must(t, h.BuildFilter(ctx))
	recs := []syncengine.Record{storetest.Put("new", 1, "1")}
	lab.Must(t, h.Trust.Write(recs, func([]bool) error {
		if !h.Trust.MayContain("new") {
			t.Error("denied before L3 has it, which may be any moment")
		}
		lab.Must(t, h.BuildFilter(ctx))
		return lab.Applied(l3.Apply(ctx, recs))
	}))
	if !h.Trust.MayContain("new") || !denies(h) {
		t.Error("denied by the set that came meanwhile")
	}
}

// onSQLite is a house on a file that others share.
func onSQLite(t *testing.T, dir, url string) *syncengine.House {
	return syncengine.HouseOn(t, syncengine.Plan{L3: lab.UnpreparedAt(t, url), Config: syncengine.Config{Dir: dir}})
}

func TestANewcomerWritesOnlyWhenTheOthersKnowOfIt(t *testing.T) {
	url := "sqlite:" + filepath.Join(t.TempDir(), "archive.db")
	first := onSQLite(t, "", url)
	lab.Must(t, first.BuildFilter(context.Background()))
	if !first.Trust.Alone() || !denies(first) {
		t.Fatal("the first one is not alone")
	}
	newcomer := onSQLite(t, "", url)
	short, end := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer end() // it ends while the first one does not look
	if _, _, err := newcomer.Trust.Apply(short, []syncengine.Record{storetest.Put("x", 1, "1")}); err == nil {
		t.Error("a newcomer has written, and the first one does not know of it")
	}
	first.Start(first.Trust.KeepFleet)
	lab.Must(t, newcomer.Trust.Join(lab.Bounded(t)))
	if first.Trust.Alone() || newcomer.Trust.Alone() || denies(first) {
		t.Error("there are two, and one of them is alone")
	}
	_, _, err := newcomer.Trust.Apply(lab.Bounded(t), []syncengine.Record{storetest.Put("x", 1, "1")})
	lab.Must(t, err)
}

// TestWhoLeavesIsNotWaitedForAndLeavesItsFilter to the next one on its Dir, if L3 is as it was.
func TestWhoLeavesIsNotWaitedForAndLeavesItsFilter(t *testing.T) {
	ctx := context.Background()
	gone, leave := context.WithCancel(ctx)
	leave()
	dir, url := t.TempDir(), "sqlite:"+filepath.Join(t.TempDir(), "archive.db")
	h := onSQLite(t, dir, url)
	_, _, err := h.Trust.Apply(ctx, []syncengine.Record{storetest.Put("there", 1, "1")})
	lab.Must(t, err)
	lab.Must(t, h.BuildFilter(ctx))
	h.Trust.Leave(ctx)
	h.End()
	next := onSQLite(t, dir, url)
	if !denies(next) || !next.Trust.MayContain("there") {
		t.Error("the filter that was left is not believed")
	}
	next.Trust.Leave(ctx)
	next.End()
	other := onSQLite(t, "", url)
	if err := other.Trust.Join(gone); err != nil || !other.Trust.Alone() {
		t.Errorf("who has left is waited for: %v", err)
	}
	_, _, err = other.Trust.Apply(ctx, []syncengine.Record{storetest.Put("other", 1, "1")})
	lab.Must(t, err)
	other.Trust.Leave(ctx)
	if late := onSQLite(t, dir, url); denies(late) {
		t.Error("a filter is believed that was left before another one wrote")
	}
}
