package syncengine_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/storetest"
)

// l3With is a twin that holds records.
func l3With(t testing.TB, recs ...syncengine.Record) syncengine.ArchiveStore {
	s := storetest.NewArchive()
	lab.Must(t, lab.Applied(s.Apply(context.Background(), recs)))
	return s
}

// l2With is a twin that holds records.
func l2With(t testing.TB, recs ...syncengine.Record) syncengine.CacheStore {
	s := storetest.NewCache()
	lab.Must(t, s.Put(context.Background(), recs))
	return s
}

// want checks at which versions a store holds ids, 0 for not at all.
func want(t testing.TB, what string, s getter, versions map[string]uint64) {
	t.Helper()
	for id, version := range versions {
		if got := holds(t, s, id); got != version {
			t.Errorf("%s: %s is held at %d, want %d", what, id, got, version)
		}
	}
}

// TestCopyRaisesL2AndReplaceMakesItWhatL3Is, also where it is ahead: L3 is the truth.
func TestCopyRaisesL2AndReplaceMakesItWhatL3Is(t *testing.T) {
	ctx := context.Background()
	l2 := l2With(t, storetest.Put("behind", 1, "1"), storetest.Put("ahead", 9, "1"), storetest.Put("gone", 3, "1"), storetest.Put("deleted", 9, "1"), storetest.Put("unreadable", 9, "1"))
	storetest.Damage(l2, "unreadable")
	h := syncengine.HouseOn(t, syncengine.Plan{L2: l2, L3: l3With(t, storetest.Put("behind", 5, "1"), storetest.Put("ahead", 5, "1"), storetest.Tombstone("deleted", 5), storetest.Put("unreadable", 5, "1"))})
	ids := []string{"behind", "ahead", "gone", "deleted"}
	lab.Must(t, h.Repair.Copy(ctx, ids))
	want(t, "after Copy", l2, map[string]uint64{"behind": 5, "ahead": 9, "gone": 0, "deleted": 9})
	lab.Must(t, h.Repair.Replace(ctx, append(ids, "unreadable")))
	want(t, "after Replace", l2, map[string]uint64{"behind": 5, "ahead": 5, "gone": 0, "deleted": 5, "unreadable": 5})
}

// TestINV03AWriteBesideReplaceIsNotUndone: what was read from L3 before it must not come after it.
func TestINV03AWriteBesideReplaceIsNotUndone(t *testing.T) {
	ctx := context.Background()
	later := []syncengine.Record{storetest.Put("x", 7, "1")}
	l2, l3 := l2With(t, storetest.Put("x", 9, "1")), l3With(t, storetest.Put("x", 5, "1"))
	h := syncengine.HouseOn(t, syncengine.Plan{L3: l3, L2: &lab.HookedCache{CacheStore: l2, OnRemove: func() {
		lab.Must(t, lab.Applied(l3.Apply(ctx, later)))
		lab.Must(t, l2.Put(ctx, later))
	}}})
	lab.Must(t, h.Repair.Replace(ctx, []string{"x"}))
	want(t, "L2", l2, map[string]uint64{"x": 7})
}

func TestINV11ACorruptRowIsHealedByASoundCopyOfItsVersionAlone(t *testing.T) {
	ctx := context.Background()
	good, other := storetest.Put("x", 5, `"good"`), storetest.Put("x", 6, `"another version"`)
	changed := good
	changed.Content = []byte(`"changed"`)
	for name, c := range map[string]struct {
		place  func(h *syncengine.House)
		healed bool
	}{
		"in memory":     {func(h *syncengine.House) { h.Memory.Keep(syncengine.OpsOf(good)[0]) }, true},
		"in quarantine": {func(h *syncengine.House) { refuse(t, h, good) }, true},
		"in L2":         {func(h *syncengine.House) { h.Cache.Write(ctx, []syncengine.Record{good}) }, true},
		"in L2, missed": {func(h *syncengine.House) {
			h.Cache.Write(ctx, []syncengine.Record{good})
			h.Cache.Miss(ctx, []syncengine.Record{other})
		}, true},
		"in L2, another version in memory": {func(h *syncengine.House) {
			h.Memory.Keep(syncengine.OpsOf(other)[0])
			h.Cache.Write(ctx, []syncengine.Record{good})
		}, true},
		"changed in memory": {func(h *syncengine.House) { h.Memory.Keep(syncengine.OpsOf(changed)[0]) }, false},
		"of another version": {func(h *syncengine.House) {
			h.Memory.Keep(syncengine.OpsOf(other)[0])
			h.Cache.Write(ctx, []syncengine.Record{other})
		}, false},
		"nowhere": {func(*syncengine.House) {}, false},
	} {
		t.Run(name, func(t *testing.T) {
			url := lab.SQLServers[0].URL(t)
			var told []string // by the loop of events, until the house ends
			h := syncengine.HouseOn(t, syncengine.Plan{L2: storetest.NewCache(), L3: lab.UnpreparedAt(t, url), Config: syncengine.Config{OnEvent: syncengine.Events{
				Healed: func(id, tier string) { told = append(told, id+" in "+tier) },
			}}})
			_, _, err := h.Trust.Apply(ctx, []syncengine.Record{good})
			lab.Must(t, err)
			_, err = lab.SQLServers[0].Raw(t, url).Exec("UPDATE sync_items SET content = ?", []byte(`"rotten"`))
			lab.Must(t, err)
			c.place(h)
			_, err = h.Archive.Get(ctx, "x")
			rec, left := h.Repair.HealedOr(ctx, "x", err)
			after, now := h.Archive.Get(ctx, "x")
			h.End()
			if c.healed && (left != nil || string(rec.Content) != `"good"` || string(after.Content) != `"good"` || len(told) != 1 || told[0] != "x in L3") {
				t.Errorf("%s, %v; L3 holds %s, %v; told %v", rec.Content, left, after.Content, now, told)
			}
			if !c.healed && (!errors.Is(left, syncengine.ErrCorruption) || !errors.Is(now, syncengine.ErrCorruption) || len(told) > 0) {
				t.Errorf("%s, %v; L3 holds %s, %v; told %v", rec.Content, left, after.Content, now, told)
			}
		})
	}
}

// TestINV02OfWhatWasOutrankedL2HoldsWhatL3Does before that is acknowledged, or is not read.
func TestINV02OfWhatWasOutrankedL2HoldsWhatL3Does(t *testing.T) {
	ctx := context.Background()
	var away error
	l2 := l2With(t, storetest.Put("x", 1, "1"), storetest.Put("y", 1, "1"))
	h := syncengine.HouseOn(t, syncengine.Plan{
		L2: &lab.HookedCache{CacheStore: l2, OnPut: func(context.Context, []syncengine.Record) error { return away }},
		L3: l3With(t, storetest.Put("x", 9, "1"), storetest.Put("y", 9, "1")),
	})
	h.Repair.Outranked(ctx, []syncengine.Record{storetest.Put("x", 5, "1")})
	want(t, "L2", l2, map[string]uint64{"x": 9})
	away = lab.ErrAway
	h.Repair.Outranked(ctx, []syncengine.Record{storetest.Put("y", 5, "1")})
	if !h.Cache.MayRead("x") || h.Cache.MayRead("y") {
		t.Error("what L2 did not get is read there")
	}
}

// TestINV02PromotionsWaitForNobodyAndHideNoLaterWrite: L2 may have forgotten that one.
func TestINV02PromotionsWaitForNobodyAndHideNoLaterWrite(t *testing.T) {
	var h *syncengine.House
	l2 := &lab.HookedCache{CacheStore: storetest.NewCache(), OnPut: func(context.Context, []syncengine.Record) error {
		h.Memory.Touch("written as it arrives")
		return nil
	}}
	var healed []string // by the loop of events, until the house ends
	h = syncengine.HouseOn(t, syncengine.Plan{L2: l2, L3: l3With(t, storetest.Put("unreadable", 5, "1")), Config: syncengine.Config{OnEvent: syncengine.Events{
		Healed: func(id, tier string) { healed = append(healed, id+" in "+tier) },
	}}})
	storetest.Damage(l2.CacheStore, "unreadable")
	promote := func(rec syncengine.Record) {
		h.Repair.Promote(syncengine.Promotion{Rec: rec, Stamp: h.Memory.Stamp(rec.ID)})
	}
	meanwhile := apartFrom(h, "written as it arrives")
	x := apartFrom(h, "written as it arrives", meanwhile)
	promote(storetest.Put(x, 5, "1"))
	promote(storetest.Put("written as it arrives", 5, "1"))
	promote(storetest.Put(meanwhile, 5, "1"))
	h.Memory.Touch(meanwhile)
	changed := storetest.Put("changed by a reader", 5, "1")
	changed.Content = []byte("2")
	promote(changed)
	h.Repair.Promote(syncengine.Promotion{Heal: "unreadable"})
	for range 5000 {
		promote(storetest.Put("y", 5, "1")) // nobody takes them
	}
	h.Start(h.Repair.Run)
	lab.Eventually(t, "the unreadable copy is replaced", func() bool {
		rec, err := l2.Get(context.Background(), "unreadable")
		return err == nil && rec.Version == 5
	})
	want(t, "L2", l2, map[string]uint64{x: 5, "changed by a reader": 0, meanwhile: 0})
	if !h.Cache.MayRead(x) || h.Cache.MayRead("written as it arrives") {
		t.Error("a copy of an id is read that was written while the copy was on its way")
	}
	h.End()
	if len(healed) != 1 || healed[0] != "unreadable in L2" {
		t.Errorf("told: healed %v", healed)
	}
}

// apartFrom returns an id that is not counted as written when one of others is.
func apartFrom(h *syncengine.House, others ...string) string {
	for n := 0; ; n++ {
		id := fmt.Sprint("x", len(others), n)
		before := h.Memory.Stamp(id)
		for _, o := range others {
			h.Memory.Touch(o)
		}
		if !h.Memory.Written(id, before) {
			return id
		}
	}
}
