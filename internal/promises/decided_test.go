package promises

// decided_test.go is about what L3 has decided, and a Dir that knows of earlier ops of the same
// ids alone.

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
)

// TestINV02WhatWasDecidedInL3IsKnownAfterAKillInAnOutage: or it is known that something was. An op
// from before it that the log still has is not taken for the newest.
func TestINV02WhatWasDecidedInL3IsKnownAfterAKillInAnOutage(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	calls := map[string]func(e *syncengine.Engine, id string) error{
		"Update": func(e *syncengine.Engine, id string) error {
			_, err := e.Update(ctx, id, func(syncengine.Item, bool) (syncengine.Item, error) {
				return syncengine.Item{Content: lab.Doc(id, 2)}, nil
			})
			return err
		},
		"Submit": func(e *syncengine.Engine, id string) error {
			it, err := e.Get(ctx, id)
			if err == nil {
				it.Content = lab.Doc(id, 2)
				err = e.Submit(ctx, it, syncengine.IfUnchanged())
			}
			return err
		},
		"SubmitMany": func(e *syncengine.Engine, id string) error {
			it, err := e.Get(ctx, id)
			if err == nil {
				it.Content = lab.Doc(id, 2)
				_, err = e.SubmitMany(ctx, []syncengine.Item{{ID: "new " + id, Content: lab.Doc(id, 1)}, it}, syncengine.IfUnchanged())
			}
			return err
		},
		"Delete and Insert": func(e *syncengine.Engine, id string) error {
			it, err := e.Get(ctx, id)
			if err == nil {
				err = e.Delete(ctx, id, syncengine.WithIfVersion(it.Version))
			}
			if err == nil {
				err = e.Insert(ctx, syncengine.Item{ID: id, Content: lab.Doc(id, 2)})
			}
			return err
		},
	}
	for name, stuck := range map[string]bool{"the op before is trimmed": false, "it can't be": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := lab.NewChoosy(t)
			defer c.Release()
			dir := t.TempDir()
			e := lab.Open(t, syncengine.Config{Dir: dir, L3: c, FlushConcurrency: 2, BatchFlushCount: 1})
			if stuck {
				c.Stick(t, e)
			}
			images := make(map[string]string)
			for id, call := range calls {
				lab.Put(t, e, id, 1)
				lab.Landed(t, e, id)
				lab.Must(t, call(e, id))
				images[id] = lab.Killed(t, dir)
			}
			c.Away.Store(true)
			var all sync.WaitGroup
			for id, image := range images {
				all.Go(func() {
					next := lab.Open(t, syncengine.Config{Dir: image, L3: c})
					switch it, err := next.Get(ctx, id); {
					case errors.Is(err, syncengine.ErrUnavailable) && !stuck: // it knows nothing
					case err != nil || string(it.Content) != string(lab.Doc(id, 2)):
						t.Errorf("%s: after a kill: %s, stale %v, %v", id, it.Content, it.Stale, err)
					}
					_ = next.Close() // ops are pending
				})
			}
			all.Wait()
			c.Away.Store(false)
			c.Release()
			for _, image := range images {
				next := lab.Open(t, syncengine.Config{Dir: image, L3: c})
				lab.Must(t, next.Flush(ctx))
				for id := range calls {
					lab.WantContent(t, next, id, 2)
				}
				if s := next.Stats(); s.Superseded > 0 || s.WALItems > 0 {
					t.Errorf("what comes again: %d superseded, %d left", s.Superseded, s.WALItems)
				}
			}
		})
	}
}
