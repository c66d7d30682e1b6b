//go:build crdt

package merging

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
)

// TestItemsWithAKindDoNotExpire: a time to live is refused, and DefaultTTL is not theirs.
func TestItemsWithAKindDoNotExpire(t *testing.T) {
	ctx := context.Background()
	for name, url := range l3s {
		t.Run(name, func(t *testing.T) {
			e := lab.Open(t, syncengine.Config{SQLURL: url(t), DefaultTTL: time.Hour})
			merge(t, e, "n", "GCounter", "3", syncengine.WithTTL(0))
			it, err := e.Get(ctx, "n")
			if wantValue(t, e, "n", "3"); err != nil || !it.ExpiresAt.IsZero() {
				t.Errorf("it expires at %v, %v", it.ExpiresAt, err)
			}
			_, merged := e.Merge(ctx, "n", "GCounter", []byte("1"), syncengine.WithTTL(time.Hour))
			_, many := e.SubmitMany(ctx, []syncengine.Item{{ID: "plain", Content: []byte("1")}, it}, syncengine.WithTTL(time.Hour))
			_, updated := e.Update(ctx, "n", func(cur syncengine.Item, _ bool) (syncengine.Item, error) { return cur, nil }, syncengine.WithTTL(time.Hour))
			for call, err := range map[string]error{
				"Merge": merged, "SubmitMany": many, "Update": updated,
				"Submit": e.Submit(ctx, it, syncengine.WithTTL(time.Hour)),
				"Touch":  e.Touch(ctx, "n", time.Hour), "Touch with 0": e.Touch(ctx, "n", 0),
			} {
				if !errors.Is(err, syncengine.ErrInvalidItem) {
					t.Errorf("%s: %v", call, err)
				}
			}
			wantValue(t, e, "n", "3")
			if _, err := e.Get(ctx, "plain"); !errors.Is(err, syncengine.ErrNotFound) {
				t.Errorf("of the group that was refused: %v", err)
			}
		})
	}
}

// TestAMergeOverWhatHasExpiredBeginsAnew: also before it is purged, in L3 and in one batch with it.
func TestAMergeOverWhatHasExpiredBeginsAnew(t *testing.T) {
	ctx := context.Background()
	for name, url := range l3s {
		t.Run(name, func(t *testing.T) {
			e := lab.Open(t, syncengine.Config{SQLURL: url(t), BatchFlushInterval: 300 * time.Millisecond})
			for id, d := range map[string]syncengine.Durability{"landed": syncengine.Archived, "waits": syncengine.Logged} {
				lab.Must(t, e.Submit(ctx, syncengine.Item{ID: id, Content: []byte(`{"plain":1}`)}, syncengine.WithTTL(5*time.Millisecond), syncengine.WithDurability(d)))
			}
			lab.Eventually(t, "both have expired", func() bool {
				items, err := e.GetMany(ctx, []string{"landed", "waits"})
				return err == nil && items[0] == nil && items[1] == nil
			})
			for _, id := range []string{"landed", "waits"} {
				merge(t, e, id, "GCounter", "3", syncengine.WithDurability(syncengine.Archived))
				wantValue(t, e, id, "3")
				merge(t, e, id, "GCounter", "4", syncengine.WithDurability(syncengine.Archived))
				e.Invalidate(id)
				wantValue(t, e, id, "7")
			}
			if s := e.Stats(); s.Quarantined > 0 || s.Superseded > 0 {
				t.Errorf("%d in quarantine, %d superseded", s.Quarantined, s.Superseded)
			}
			if r, err := e.Verify(ctx, syncengine.VerifyOptions{Deep: true}); err != nil || !r.InSync {
				t.Errorf("%+v, %v", r, err)
			}
		})
	}
}

// TestINV02AMergeOverWhatHasExpiredIsRead, though memory has a copy of that.
func TestINV02AMergeOverWhatHasExpiredIsRead(t *testing.T) {
	ctx := context.Background()
	for name, url := range l3s {
		t.Run(name, func(t *testing.T) {
			e := lab.Open(t, syncengine.Config{SQLURL: url(t), BatchFlushInterval: time.Second})
			lab.Must(t, e.Submit(ctx, syncengine.Item{ID: "c", Content: []byte("1")}, syncengine.WithTTL(50*time.Millisecond), syncengine.WithDurability(syncengine.Archived)))
			time.Sleep(60 * time.Millisecond) // its time has come
			merge(t, e, "c", "PNCounter", "2")
			if !e.Contains("c") {
				t.Error("Contains denies it")
			}
			wantValue(t, e, "c", "2")
		})
	}
}
