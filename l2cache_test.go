package syncengine_test

import (
	"context"
	"slices"
	"testing"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/storetest"
)

// TestWhatL2MissedIsNotReadUntilItIsPaid, also by the next engine on the Dir, which knows no ids.
func TestWhatL2MissedIsNotReadUntilItIsPaid(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	var away error
	store := &lab.HookedCache{CacheStore: storetest.NewCache(), OnPut: func(context.Context, []syncengine.Record) error { return away }}
	told := make(chan bool, 10)
	events := syncengine.Events{L2Outage: func(down bool, _ error) { told <- down }}
	write := func(c *syncengine.Cache, id string) {
		c.Write(ctx, []syncengine.Record{{Item: syncengine.Item{ID: id, Version: 1, Content: []byte("1")}}})
	}
	t.Run("one engine", func(t *testing.T) {
		c := syncengine.NewCacheOf(t, store, syncengine.NewJournal(t, dir, 100, 1<<20), events)
		lab.Must(t, c.Load(ctx))
		write(c, "well")
		away = lab.ErrAway
		write(c, "missed")
		write(c, "missed too")
		away = nil
		if !c.MayRead("well") || c.MayRead("missed") || c.MayRead("missed too") || !c.Owes() {
			t.Error("what was missed is read")
		}
		if !<-told || len(told) > 0 {
			t.Error("the outage is told once")
		}
		ids, all, gen := c.Owed(10)
		if slices.Sort(ids); all || !slices.Equal(ids, []string{"missed", "missed too"}) {
			t.Errorf("owed are %v, all %v", ids, all)
		}
		lab.Must(t, c.Paid(ctx, ids[:1], false, gen))
		if !c.MayRead("missed") || c.MayRead("missed too") {
			t.Error("what was paid is read, and nothing else")
		}
		away = lab.ErrAway
		write(c, "missed") // after it was picked
		away = nil
		lab.Must(t, c.Paid(ctx, []string{"missed"}, false, gen))
		if c.MayRead("missed") {
			t.Error("what was missed again is read")
		}
	})
	t.Run("the next", func(t *testing.T) {
		c := syncengine.NewCacheOf(t, store, syncengine.NewJournal(t, dir, 100, 1<<20), events)
		lab.Must(t, c.Load(ctx))
		if c.MayRead("well") || !c.Owes() {
			t.Error("an engine that does not know what was missed reads all")
		}
		ids, all, gen := c.Owed(10)
		if !all {
			t.Errorf("owed are %v", ids)
		}
		away = lab.ErrAway
		write(c, "missed since") // in a busy engine something always is
		away = nil
		lab.Must(t, c.Paid(ctx, nil, true, gen))
		if !c.MayRead("well") || c.MayRead("missed since") {
			t.Error("what was missed since is owed, and nothing else")
		}
		lab.Must(t, c.Paid(ctx, []string{"missed since"}, false, gen+1))
		if c.Owes() {
			t.Error("all is paid, and not read")
		}
	})
}

// TestWhatOthersWriteIsBelievedOnceL2HasIt: they say so before it is seen in the log, or after, or
// never, or that L2 has missed it; or a copy says it.
func TestWhatOthersWriteIsBelievedOnceL2HasIt(t *testing.T) {
	ctx := context.Background()
	c := syncengine.NewCacheOf(t, storetest.NewCache(), syncengine.NewJournal(t, t.TempDir(), 100, 1<<20), syncengine.Events{})
	lab.Must(t, c.Load(ctx))
	believes := func(id string, version uint64) bool {
		return c.Believes(&syncengine.Record{Item: syncengine.Item{ID: id, Version: version}})
	}
	c.Told("before", 5, true)
	for _, id := range []string{"before", "after", "never", "copy"} {
		c.Others(id, 5)
	}
	c.Told("after", 5, true)
	c.Told("missed", 5, false)
	c.Told("never", 4, true)
	for id, want := range map[string]bool{"unknown": true, "before": true, "after": true, "never": false, "copy": false, "missed": false} {
		if believes(id, 4) != want {
			t.Errorf("%s at 4 is believed: %v", id, !want)
		}
		if id != "missed" && !c.MayRead(id) {
			t.Errorf("%s is not read", id)
		}
	}
	if !believes("copy", 5) || !believes("copy", 4) {
		t.Error("a copy at that version has shown that L2 has it")
	}
	if !believes("missed", 6) || believes("missed", 4) || c.MayRead("missed") {
		t.Error("what L2 has missed is not read before it is repaired")
	}
	if ids, all, _ := c.Owed(10); all || !slices.Equal(ids, []string{"missed"}) {
		t.Errorf("owed are %v: what may still be told is waited for", ids)
	}
	copied := []syncengine.Record{{Item: syncengine.Item{ID: "undone", Version: 4, Content: []byte("1")}}}
	lab.Must(t, c.Promote(ctx, copied))
	if c.Told("undone", 5, true); believes("undone", 4) {
		t.Error("a copy of before a write, that L2 has forgotten since, is believed")
	}
	ids, _, gen := c.Owed(10)
	c.Others("missed", 6) // while it is repaired
	lab.Must(t, c.Paid(ctx, ids, false, gen))
	if !c.MayRead("missed") || c.Owes() || believes("missed", 5) || !believes("missed", 6) {
		t.Error("what is written all the time is lacking for ever")
	}
	c.LogRead()
	c.Others("before", 5)
	if !believes("before", 4) {
		t.Error("what was told before the log was read last counts")
	}
	c.LogRead()
	c.Others("before", 5)
	if believes("before", 4) {
		t.Error("what was told long ago counts")
	}
}

// TestAPlaceIsReachedWhenAllUnderWayIsOver, and L2 has it.
func TestAPlaceIsReachedWhenAllUnderWayIsOver(t *testing.T) {
	ctx := context.Background()
	var away error
	store := &lab.HookedCache{CacheStore: storetest.NewCache(), OnPut: func(context.Context, []syncengine.Record) error { return away }}
	c := syncengine.NewCacheOf(t, store, syncengine.NewJournal(t, t.TempDir(), 100, 1<<20), syncengine.Events{})
	lab.Must(t, c.Load(ctx))
	write := func(id string) {
		c.Write(ctx, []syncengine.Record{{Item: syncengine.Item{ID: id, Version: 1, Content: []byte("1")}}})
	}
	if !c.Reached(c.Mark()) {
		t.Error("nothing is under way")
	}
	before := c.Begin()
	m := c.Mark()
	after := c.Begin()
	if c.Reached(m) {
		t.Error("one is under way")
	}
	away = lab.ErrAway
	write("x")
	c.End(before)
	if c.Reached(m) {
		t.Error("L2 has missed it")
	}
	away = nil
	ids, _, gen := c.Owed(10)
	lab.Must(t, c.Paid(ctx, ids, false, gen))
	away = lab.ErrAway
	write("later")
	if !c.Reached(m) {
		t.Error("what began after it, or was missed, does not count")
	}
	c.End(after)
}

// TestStatsTellWhatL2MayLack: what another engine has written is doubted until somebody says that
// L2 has it, and lacks it when somebody says so.
func TestStatsTellWhatL2MayLack(t *testing.T) {
	c := syncengine.NewCacheOf(t, storetest.NewCache(), syncengine.NewJournal(t, t.TempDir(), 100, 1<<20), syncengine.Events{})
	lab.Must(t, c.Load(context.Background()))
	want := func(missed, doubted int) {
		t.Helper()
		var s syncengine.Stats
		if c.Stats(&s); s.L2Missed != missed || s.L2Doubted != doubted {
			t.Errorf("%d are missed, %d doubted, want %d, %d", s.L2Missed, s.L2Doubted, missed, doubted)
		}
	}
	want(0, 0)
	c.Others("x", 5)
	c.Others("y", 5)
	want(0, 2)
	c.Told("x", 4, true)
	want(0, 2)
	c.Told("x", 5, true)
	want(0, 1)
	c.Told("y", 5, false)
	want(1, 0)
}
