package promises

// each_test.go is about SubmitEach: one bad item fails alone, and what is full is waited for.

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/storetest"
)

// docs yields n items k.0000 and so on; others, if not nil, may change them.
func docs(n int, change func(n int, it *syncengine.Item)) iter.Seq[syncengine.Item] {
	return func(yield func(syncengine.Item) bool) {
		var buf []byte
		for i := range n {
			id := fmt.Sprintf("k.%04d", i)
			buf = append(buf[:0], lab.Doc(id, i)...) // the engine must copy
			it := syncengine.Item{ID: id, Content: buf}
			if change != nil {
				change(i, &it)
			}
			if !yield(it) {
				return
			}
		}
	}
}

func TestINV09OneBadItemOfAnImportFailsAlone(t *testing.T) {
	onEachL3(t, func(t *testing.T, cfg syncengine.Config) {
		ctx := context.Background()
		e := lab.Open(t, cfg)
		want := make(map[string]int)
		told, turns := 0, 0
		tell := syncengine.EachOptions{
			OnError:  func(syncengine.ItemError) { told++ },
			Progress: func(r syncengine.EachResult) { turns++ },
		}
		r, err := e.SubmitEach(ctx, docs(3000, func(n int, it *syncengine.Item) {
			switch n % 20 {
			case 3:
				it.Content = []byte("no JSON")
			case 4:
				it.ID = ""
			default:
				want[it.ID] = n
			}
		}), tell)
		if err != nil || r.Total != 3000 || r.Failed != 300 || r.Succeeded != 2700 || len(r.Errors) != 100 || told != 300 || turns < 3 {
			t.Fatalf("%d, %d, %d, %d errors, %d told, %d turns, %v", r.Total, r.Succeeded, r.Failed, len(r.Errors), told, turns, err)
		}
		if bad := r.Errors[0]; bad.Index != 3 || bad.ID != "k.0003" || !errors.Is(bad.Err, syncengine.ErrInvalidItem) {
			t.Errorf("the first error: %+v", bad)
		}
		wantListed(t, e, "", want)

		// Conditions are each item's own: those that exist don't fail the others of their group.
		r, err = e.SubmitEach(ctx, docs(3010, nil), syncengine.EachOptions{}, syncengine.WithIfVersion(0))
		if err != nil || r.Succeeded != 310 || r.Failed != 2700 || !errors.Is(r.Errors[0].Err, syncengine.ErrExists) {
			t.Errorf("of what is new: %d, %d, %v", r.Succeeded, r.Failed, err)
		}
		if _, contents := listed(t, e, "k."); len(contents) != 3010 || contents["k.3009"] != string(lab.Doc("k.3009", 3009)) {
			t.Errorf("%d items", len(contents))
		}
	})
}

// Of imports side by side that take what is new alone, one wins each id, and holds what it says.
func TestINV14ImportsOfWhatIsNewShareIt(t *testing.T) {
	onEachL3(t, func(t *testing.T, cfg syncengine.Config) {
		const items, imports = 1500, 3
		ctx := context.Background()
		e := lab.Open(t, cfg)
		by := make([]int, items) // who has won, from 1
		var mu sync.Mutex
		var wg sync.WaitGroup
		for n := range imports {
			wg.Go(func() {
				lost := make(map[int]bool)
				tell := syncengine.EachOptions{OnError: func(bad syncengine.ItemError) {
					if lost[bad.Index] = true; !errors.Is(bad.Err, syncengine.ErrExists) {
						t.Errorf("%s: %v", bad.ID, bad.Err)
					}
				}}
				r, err := e.SubmitEach(ctx, docs(items, func(i int, it *syncengine.Item) {
					it.Content = fmt.Appendf(nil, `{"by":%d}`, n+1)
				}), tell, syncengine.WithIfVersion(0))
				if err != nil || r.Total != items || r.Failed != len(lost) || r.Succeeded != items-len(lost) {
					t.Errorf("import %d: %+v, %v", n, r, err)
				}
				mu.Lock()
				defer mu.Unlock()
				for i := range by {
					if !lost[i] && by[i] != 0 {
						t.Errorf("item %d was new to %d and to %d", i, by[i], n+1)
					} else if !lost[i] {
						by[i] = n + 1
					}
				}
			})
		}
		wg.Wait()
		lab.Must(t, e.Flush(ctx))
		_, contents := listed(t, e, "k.")
		for i := range by {
			if want := fmt.Sprintf(`{"by":%d}`, by[i]); contents[fmt.Sprintf("k.%04d", i)] != want {
				t.Fatalf("item %d is %q, want %s", i, contents[fmt.Sprintf("k.%04d", i)], want)
			}
		}
	})
}

// Also what L3 refuses, and whenever it does, takes no other item of the import with it.
func TestINV09WhatL3RefusesOfAnImportIsAlone(t *testing.T) {
	for _, d := range everyLevel {
		t.Run(d.String(), func(t *testing.T) {
			ctx := context.Background()
			store := &lab.HookedArchive{ArchiveStore: storetest.NewArchive(), OnApply: lab.RefusePoison}
			e := lab.Open(t, syncengine.Config{L3: store})
			r, err := e.SubmitEach(ctx, docs(2500, func(n int, it *syncengine.Item) {
				if n == 7 || n == 1500 {
					it.Content = lab.Poison
				}
			}), syncengine.EachOptions{}, syncengine.WithDurability(d))
			failed := 0
			if d == syncengine.Archived {
				if failed = 2; len(r.Errors) != 2 || r.Errors[0].Index != 7 || r.Errors[1].ID != "k.1500" || !errors.Is(r.Errors[0].Err, syncengine.ErrRefused) {
					t.Errorf("errors: %+v", r.Errors)
				}
			}
			if err != nil || r.Total != 2500 || r.Failed != failed || r.Succeeded != 2500-failed {
				t.Errorf("%+v, %v", r, err)
			}
			if err := e.Flush(ctx); err != nil && !errors.Is(err, syncengine.ErrRefused) {
				t.Fatal(err)
			}
			ops, err := e.Quarantined(ctx)
			lab.Must(t, err)
			var refused []string
			for _, op := range ops {
				refused = append(refused, op.ID)
			}
			slices.Sort(refused) // batches that are under way together end in any order
			if !slices.Equal(refused, []string{"k.0007", "k.1500"}) {
				t.Errorf("in quarantine: %v", refused)
			}
			if rows := lab.RowsOf(t, store); len(rows) != 2498 {
				t.Errorf("L3 has %d rows", len(rows))
			}
		})
	}
}

func TestAnImportTakesAnItemMoreThanOnce(t *testing.T) {
	e := lab.Open(t, syncengine.Config{GroupMaxItems: 7})
	r, err := e.SubmitEach(context.Background(), docs(100, func(n int, it *syncengine.Item) {
		it.ID = fmt.Sprint("k.", n%5)
		it.Content = lab.Doc(it.ID, n)
	}), syncengine.EachOptions{}, syncengine.WithDurability(syncengine.Buffered))
	if err != nil || r.Succeeded != 100 {
		t.Errorf("%+v, %v", r, err)
	}
	r, err = e.SubmitEach(context.Background(), docs(100, func(n int, it *syncengine.Item) {
		it.ID = fmt.Sprint("new.", n%5)
	}), syncengine.EachOptions{}, syncengine.WithIfVersion(0))
	if err != nil || r.Succeeded != 5 || r.Failed != 95 {
		t.Errorf("of what is new: %+v, %v", r, err)
	}
	if n, err := e.DeletePrefix(context.Background(), "new."); n != 5 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	wantListed(t, e, "", map[string]int{"k.0": 95, "k.1": 96, "k.2": 97, "k.3": 98, "k.4": 99})
}

// An import that is larger than the WAL goes on when L3 is back.
func TestINV10AnImportWaitsWhileThereIsNoRoom(t *testing.T) {
	c := lab.NewChoosy(t)
	defer c.Release()
	c.Away.Store(true)
	e := lab.Open(t, syncengine.Config{L3: c, WALMaxItems: 2000})
	short, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
	defer cancel()
	r, err := e.SubmitEach(short, docs(5000, nil), syncengine.EachOptions{})
	if !errors.Is(err, context.DeadlineExceeded) || r.Succeeded == 0 || r.Succeeded > 2000 || r.Failed != 0 {
		t.Fatalf("%d, %d, %v; want what the WAL holds, and the end of ctx", r.Succeeded, r.Failed, err)
	}
	seen := 0
	r, err = e.SubmitEach(lab.Bounded(t), docs(5000, func(n int, it *syncengine.Item) {
		if n == 1 {
			c.Away.Store(false)
		}
		seen = n
	}), syncengine.EachOptions{})
	if err != nil || r.Succeeded != 5000 || seen != 4999 {
		t.Fatalf("%d, %d, %v", r.Succeeded, r.Failed, err)
	}
	if _, contents := listed(t, e, "k."); len(contents) != 5000 {
		t.Errorf("%d items", len(contents))
	}
	lab.Must(t, e.Close())
	if _, err := e.SubmitEach(context.Background(), docs(1, nil), syncengine.EachOptions{}); !errors.Is(err, syncengine.ErrClosed) {
		t.Errorf("of a closed engine: %v", err)
	}
}

// OnError runs outside the call that Close waits for: it may close, or wait for who does.
func TestOnErrorMayClose(t *testing.T) {
	onEachL3(t, func(t *testing.T, cfg syncengine.Config) {
		ctx := context.Background()
		e := lab.Open(t, cfg)
		lab.Put(t, e, "k.0002", 1) // the last one: after it nothing is to be written
		returns(t, "SubmitEach whose OnError closes", func() {
			var closed error
			tell := syncengine.EachOptions{OnError: func(syncengine.ItemError) { closed = e.Close() }}
			r, err := e.SubmitEach(ctx, docs(3, nil), tell, syncengine.WithIfVersion(0))
			if err != nil || closed != nil || r.Succeeded != 2 || r.Failed != 1 {
				t.Errorf("%+v, %v; closed: %v", r, err, closed)
			}
		})
	})
}
