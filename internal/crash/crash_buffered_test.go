package crash

// crash_buffered_test.go is about ops that were acknowledged from memory: what a kill may take
// of them, and what Close may not.

import (
	"context"
	"fmt"
	"math"
	"slices"
	"sync"
	"testing"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/failpoint"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/storetest"
)

// TestINV03And05ABufferedOpIsLostOnlyWhileItIsYoung kills children that write at Buffered. What
// had been flushed may not be missing, whether a Flush said so or Stats().OldestPending did; the
// rest may be missing, but only from the end of each key's ops, and group by group.
func TestINV03And05ABufferedOpIsLostOnlyWhileItIsYoung(t *testing.T) {
	t.Parallel()
	onCrashStores(t, func(t *testing.T, r *crashRun) {
		r.c.Durability = syncengine.Buffered
		kills := int64(max(2, crashRounds(12)))
		for r.children < kills || r.h.safe < int(kills) && r.children < 10*kills { // few may have come to a mark
			c := r.c
			if c.Flaky = r.rng.IntN(4) == 0; r.children%2 == 0 {
				r.child(t, c, r.killAfter(200+r.rng.IntN(3000)))
			} else { // no WAL will bring to L2 what L3 has just got
				c.Kill, c.KillAt, c.Steps = failpoint.L3Committed, 1+r.rng.Int64N(20), 4000
				r.child(t, c, nil)
			}
			r.look(t, r.lastOf(kills, 5))
			t.Logf("%d kills, %d marks: %v", r.children, r.h.safe, r.h)
		}
		if r.h.safe < int(kills) {
			t.Errorf("only %d marks became safe with %d kills: nothing was proven", r.h.safe, kills)
		}
	})
}

// TestINV12AfterCloseNothingIsMissing ends children by Close while they write at Buffered and
// L3 is away, or not.
func TestINV12AfterCloseNothingIsMissing(t *testing.T) {
	t.Parallel()
	onCrashStores(t, func(t *testing.T, r *crashRun) {
		r.c.Durability = syncengine.Buffered
		rounds := max(3, crashRounds(12))
		for round := range rounds {
			c := r.c
			c.Do, c.Steps = doClose, int64(100+r.rng.IntN(500))
			switch round % 3 {
			case 0:
				c.AwayFrom = int64(1 + r.rng.IntN(10))
			case 1:
				c.Do = doHurry
			}
			r.child(t, c, nil)
			r.look(t, r.lastOf(int64(rounds), 4))
		}
	})
}

// TestINV01ABufferedOpIsLoggedOnceL3IsAway writes at Buffered while L3 takes nothing, waits
// until the WAL file holds as many ops as were acknowledged, and kills: then they stay.
func TestINV01ABufferedOpIsLoggedOnceL3IsAway(t *testing.T) {
	t.Parallel()
	onCrashStores(t, func(t *testing.T, r *crashRun) {
		c := r.c
		c.Durability, c.AwayFrom, c.Do, c.Steps = syncengine.Buffered, 1, doStay, 30
		for range 3 {
			before, held := r.h.ackedOps, lab.WALOps(t, r.c.Dir)
			r.child(t, c, func(_ int, line string, kill func()) {
				if line == "end" {
					lab.Eventually(t, "all ops are in the WAL", func() bool { return lab.WALOps(t, r.c.Dir)-held >= int64(r.h.ackedOps-before) })
					r.h.secure(math.MaxInt)
					kill()
				}
			})
			r.look(t, r.drained)
		}
	})
}

// TestINV05BufferedGroupsOfTheSameIDsDoNotMix submits groups of the same ids side by side: one
// of them stands in the end, in all its ids. Whether two calls meet is up to the scheduler;
// under the race detector one round in ten has them meet.
func TestINV05BufferedGroupsOfTheSameIDsDoNotMix(t *testing.T) {
	const writers, size, rounds = 4, 300, 150
	ctx := context.Background()
	e := lab.Open(t, syncengine.Config{L3: storetest.NewArchive(), Durability: syncengine.Buffered})
	ids := make([]string, size)
	groups := make([][]syncengine.Item, writers)
	for i := range ids {
		ids[i] = fmt.Sprint("id-", i)
		for w := range groups {
			groups[w] = append(groups[w], syncengine.Item{ID: ids[i], Content: fmt.Append(nil, w)})
		}
	}
	mixed := 0
	for range rounds {
		var wg sync.WaitGroup
		for _, items := range groups {
			wg.Go(func() {
				_, err := e.SubmitMany(ctx, items)
				lab.Must(t, err)
			})
		}
		wg.Wait()
		items, err := e.GetMany(ctx, ids)
		lab.Must(t, err)
		if slices.ContainsFunc(items, func(it *syncengine.Item) bool { return string(it.Content) != string(items[0].Content) }) {
			mixed++
		}
	}
	if mixed > 0 {
		t.Errorf("in %d rounds of %d two groups stood side by side", mixed, rounds)
	}
}
