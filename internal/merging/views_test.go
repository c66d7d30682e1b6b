//go:build crdt

package merging

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
)

// viewers are two engines on one L3, whose merges wait until somebody wants to know.
func viewers(t *testing.T, url string) (a, b *syncengine.Engine) {
	cfg := syncengine.Config{SQLURL: url, BatchFlushInterval: time.Hour}
	return lab.Open(t, cfg), lab.Open(t, cfg)
}

// olderThan waits for a time at which versions are above those that were made.
func olderThan(t *testing.T) {
	t.Helper()
	from := time.Now().UnixMilli()
	lab.Eventually(t, "another millisecond", func() bool { return time.Now().UnixMilli() > from+1 })
}

// viewBesideOthers has b read an item with two merges of its own that wait, the later of which is
// old, and a with one between them, and returns what b has read.
func viewBesideOthers(t *testing.T, a, b *syncengine.Engine) syncengine.Item {
	t.Helper()
	merge(t, b, "c", "PNCounter", "1", syncengine.WithDurability(syncengine.Archived))
	wantValue(t, b, "c", "1")
	olderThan(t)
	merge(t, a, "c", "PNCounter", "10")
	olderThan(t)
	merge(t, b, "c", "PNCounter", "1")
	merge(t, b, "c", "PNCounter", "1", daysAgo(1))
	it, err := b.Get(context.Background(), "c")
	if got := value(t, it, err); got != "3" {
		t.Fatalf("b reads %s", got)
	}
	return it
}

// TestINV14TheVersionOfAViewIsNoRows: the row gets another engine's merge as well, which nobody has
// read, so no condition on what was read holds.
func TestINV14TheVersionOfAViewIsNoRows(t *testing.T) {
	ctx := context.Background()
	for what, write := range map[string]func(e *syncengine.Engine, it syncengine.Item) error{
		"Delete": func(e *syncengine.Engine, it syncengine.Item) error {
			return e.Delete(ctx, it.ID, syncengine.WithIfVersion(it.Version))
		},
		"Submit": func(e *syncengine.Engine, it syncengine.Item) error {
			it.Content = json.RawMessage(`{"negative":{"counters":{"x":1}},"positive":{"counters":{}},"vclock":{"clocks":{"x":[1,0]}}}`)
			return e.Submit(ctx, it, syncengine.IfUnchanged())
		},
	} {
		for name, url := range l3s {
			t.Run(what+" "+name, func(t *testing.T) {
				a, b := viewers(t, url(t))
				it := viewBesideOthers(t, a, b)
				lab.Must(t, a.Flush(ctx)) // below what waits in b
				if err := write(b, it); !errors.Is(err, syncengine.ErrConflict) {
					t.Errorf("a condition on what is no more: %v", err)
				}
				wantValue(t, b, "c", "13")
			})
		}
	}
}

// TestINV14TheVersionOfAViewIsNoRowsElsewhere: it went to another engine, as an ETag does.
func TestINV14TheVersionOfAViewIsNoRowsElsewhere(t *testing.T) {
	ctx := context.Background()
	for name, url := range l3s {
		t.Run(name, func(t *testing.T) {
			a, b := viewers(t, url(t))
			it := viewBesideOthers(t, a, b)
			lab.Must(t, a.Flush(ctx))
			lab.Must(t, b.Flush(ctx))
			if err := a.Delete(ctx, "c", syncengine.WithIfVersion(it.Version)); !errors.Is(err, syncengine.ErrConflict) {
				t.Errorf("a condition on what is no more: %v", err)
			}
			wantValue(t, b, "c", "13")
		})
	}
}

// TestINV14ViewsOfMergesThatAreNumberedTheSame are those that two engines have of an item that
// somebody has numbered ahead, and of merges whose callers have given them one version.
func TestINV14ViewsOfMergesThatAreNumberedTheSame(t *testing.T) {
	ctx := context.Background()
	ahead := syncengine.WithVersion(syncengine.VersionAt(time.Now().Add(50 * time.Second)))
	later := syncengine.WithVersion(syncengine.VersionAt(time.Now().Add(55 * time.Second)))
	for what, merges := range map[string][][]syncengine.WriteOption{
		"one":          {nil},
		"two":          {nil, nil},
		"of a version": {{later}},
	} {
		for _, who := range []string{"own", "other"} {
			for name, url := range l3s {
				t.Run(what+" "+who+" "+name, func(t *testing.T) {
					a, b := viewers(t, url(t))
					id, it := "", syncengine.Item{}
					for _, id = range []string{"c", "d", "e"} { // which are drawn the same once in 10^11
						merge(t, b, id, "PNCounter", "1", syncengine.WithDurability(syncengine.Archived), ahead)
						wantValue(t, a, id, "1")
						wantValue(t, b, id, "1")
						ofA := syncengine.Item{}
						for i, opts := range merges {
							ofA = merge(t, a, id, "PNCounter", []string{"10", "0"}[i], opts...)
							it = merge(t, b, id, "PNCounter", []string{"1", "0"}[i], opts...)
						}
						if it.Version != ofA.Version {
							break
						}
					}
					if got := value(t, it, nil); got != "2" {
						t.Fatalf("b reads %s", got)
					}
					lab.Must(t, a.Flush(ctx))
					wantValue(t, a, id, "11")
					e := b
					if who == "other" {
						e = a
					}
					if err := e.Delete(ctx, id, syncengine.WithIfVersion(it.Version)); !errors.Is(err, syncengine.ErrConflict) {
						t.Errorf("a condition on what is no more: %v", err)
					}
					lab.Must(t, b.Flush(ctx))
					wantValue(t, b, id, "12")
				})
			}
		}
	}
}

// TestVersionsOfAnItemRiseWhileMergesLand: what is read is never numbered below what was read
// before, with merges of any age, of one engine and of two: versions of views are odd, those of
// rows even.
func TestVersionsOfAnItemRiseWhileMergesLand(t *testing.T) {
	ctx := context.Background()
	for name, url := range l3s {
		t.Run(name, func(t *testing.T) {
			a, b := viewers(t, url(t))
			merge(t, a, "c", "PNCounter", "1", syncengine.WithDurability(syncengine.Archived))
			last := uint64(0)
			read := func(e *syncengine.Engine, odd uint64) {
				t.Helper()
				it, err := e.Get(ctx, "c")
				lab.Must(t, err)
				if it.Version < last || it.Version%2 != odd {
					t.Errorf("read %s at %d, and before at %d", value(t, it, nil), it.Version, last)
				}
				last = it.Version
			}
			read(a, 0)
			for n := range 12 {
				if n == 6 {
					merge(t, a, "c", "PNCounter", "1", syncengine.WithVersion(syncengine.VersionAt(time.Now().Add(20*time.Second))))
					read(a, 1)
				}
				for range n % 4 {
					merge(t, a, "c", "PNCounter", "1", daysAgo(n%3))
					read(a, 1)
				}
				merge(t, b, "c", "PNCounter", "1", syncengine.WithDurability(syncengine.Archived))
				merge(t, a, "c", "PNCounter", "1")
				read(a, 1)
				lab.Must(t, a.Flush(ctx))
				read(a, 0)
			}
		})
	}
}
