package promises

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/storetest"
)

// When ctx ends while items of an import are before L3, and others are not yet, the error says that
// the outcome of some is unknown: L3 may store them.
func TestAnImportThatEndsHalfwaySaysThatSomeMayBeStored(t *testing.T) {
	store := storetest.NewArchive()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	blocked, release := lab.Hold()
	defer release()
	waits := make(chan struct{}, 100) // the second item does, for an op of its own
	around := func(_ context.Context, _, call string, do func() error) error {
		switch call {
		case "ApplyIf": // the first item
			<-waits
			cancel()
			<-blocked
		case "Apply":
			waits <- struct{}{}
			<-blocked
		}
		return do()
	}
	e := lab.Open(t, syncengine.Config{L3: &lab.AroundArchive{In: store, Fn: around}, BatchFlushInterval: time.Hour})
	lab.Put(t, e, "second", 1, syncengine.WithDurability(syncengine.Buffered))
	r, err := e.SubmitEach(ctx, func(yield func(syncengine.Item) bool) {
		for _, id := range []string{"first", "second"} {
			if !yield(syncengine.Item{ID: id, Content: []byte("1")}) {
				return
			}
		}
	}, syncengine.EachOptions{}, syncengine.WithIfVersion(0))
	release()
	lab.Eventually(t, "the first item is stored", func() bool {
		_, err := store.Get(context.Background(), "first")
		return err == nil
	})
	if r.Succeeded == 0 && !errors.Is(err, syncengine.ErrUnknownOutcome) {
		t.Errorf("the first item is stored, but the error is %v", err)
	}
}
