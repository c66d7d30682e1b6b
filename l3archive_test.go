package syncengine_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/storetest"
)

func TestNothingAsksL3BeforeItIsPrepared(t *testing.T) {
	ctx := context.Background()
	asked := 0
	store := &lab.HookedArchive{ArchiveStore: storetest.NewArchive(), OnGet: func() error { asked++; return nil }}
	a := syncengine.NewArchiveOf(t, store, syncengine.Events{})
	if _, err := a.Get(ctx, "x"); !errors.Is(err, syncengine.ErrUnavailable) || asked != 0 || a.Ready() {
		t.Errorf("Get: %v, asked %d times", err, asked)
	}
	lab.Must(t, a.Prepare(ctx))
	if _, err := a.Get(ctx, "x"); err != syncengine.ErrNotFound || asked != 1 || !a.Ready() {
		t.Errorf("Get: %v, asked %d times", err, asked)
	}
}

// TestL3HasOneState: writes fail or they don't, which is told once; a probe that succeeds lets the
// next write try, and Health believes only a write.
func TestL3HasOneState(t *testing.T) {
	ctx := context.Background()
	var away error
	store := &lab.HookedArchive{ArchiveStore: storetest.NewArchive(), OnApply: func(context.Context, []syncengine.Record) error { return away }}
	told := make(chan bool, 10)
	a := syncengine.NewArchiveOf(t, store, syncengine.Events{L3Outage: func(down bool, cause error) {
		if down != (cause != nil) {
			t.Errorf("down %v, for %v", down, cause)
		}
		told <- down
	}})
	lab.Must(t, a.Prepare(ctx))
	recs := []syncengine.Record{{Item: syncengine.Item{ID: "x", Version: 1, Content: []byte("1")}}}
	want := func(when string, down, well bool, events ...bool) {
		t.Helper()
		if a.Down() != down || a.Health(ctx).OK != well {
			t.Errorf("%s: down %v, well %v", when, a.Down(), a.Health(ctx).OK)
		}
		var got []bool
		for range events {
			select {
			case event := <-told:
				got = append(got, event)
			case <-time.After(10 * time.Second):
				t.Fatalf("%s: told %v, want %v", when, got, events)
			}
		}
		if !slices.Equal(got, events) || len(told) > 0 {
			t.Errorf("%s: told %v and %d more, want %v", when, got, len(told), events)
		}
	}
	want("at first", false, true)
	away = lab.ErrAway
	_, _, err := a.Apply(ctx, recs, nil)
	if !errors.Is(err, lab.ErrAway) {
		t.Fatalf("Apply: %v", err)
	}
	want("after a write that failed", false, false)
	a.Fail(err)
	a.Fail(errors.New("another"))
	want("while all waits", true, false, true)
	lab.Must(t, a.Look(ctx))
	want("when it answers", false, false)
	a.Fail(err)
	want("when it takes no writes all the same", true, false)
	away = nil
	_, _, err = a.Apply(ctx, recs, nil)
	lab.Must(t, err)
	want("after a write", false, true, false)
	away = &syncengine.RefusedError{Err: errors.New("not this row")}
	if _, _, err = a.Apply(ctx, recs, nil); !errors.Is(err, syncengine.ErrRefused) {
		t.Errorf("Apply: %v", err)
	}
	want("after a refusal", false, true)
}
