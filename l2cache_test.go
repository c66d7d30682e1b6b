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
