//go:build crdt

package merging

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/crdt"
	"github.com/syncengine-go/syncengine/internal/lab"
)

// TestINV14AnUpdateGetsItsTurnBesideSteadyMerges, and none of them is lost by it.
func TestINV14AnUpdateGetsItsTurnBesideSteadyMerges(t *testing.T) {
	for name, url := range l3s {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			defer cancel()
			e := lab.Open(t, syncengine.Config{SQLURL: url(t), BatchFlushInterval: time.Millisecond})
			var wg sync.WaitGroup
			var merges atomic.Int64
			done := make(chan struct{})
			for i := range 4 {
				d := []syncengine.Durability{syncengine.Buffered, syncengine.Logged}[i%2]
				wg.Go(func() {
					for {
						select {
						case <-done:
							return
						default:
						}
						if _, err := e.Merge(ctx, "c", "PNCounter", json.RawMessage("1"), syncengine.WithDurability(d)); err != nil {
							t.Error(err)
							return
						}
						merges.Add(1)
						time.Sleep(100 * time.Microsecond)
					}
				})
			}
			for n := range 5 {
				_, err := e.Update(ctx, "c", func(cur syncengine.Item, _ bool) (it syncengine.Item, err error) {
					time.Sleep(5 * time.Millisecond)
					it.CRDT = "PNCounter"
					it.Content, err = crdt.Apply(crdt.KindPNCounter, cur.Content, []byte("1000000"), crdt.Op{Node: "updates"})
					return it, err
				})
				if err != nil {
					t.Errorf("Update %d: %v", n, err)
				}
			}
			close(done)
			wg.Wait()
			lab.Must(t, e.Flush(ctx))
			wantValue(t, e, "c", strconv.FormatInt(5_000_000+merges.Load(), 10))
		})
	}
}

// slowFor delays batches that have an item.
type slowFor struct {
	syncengine.MergingStore
	id   string
	pass chan struct{}
}

func (s *slowFor) ApplyMerges(ctx context.Context, recs []syncengine.Record) ([]syncengine.Meta, []syncengine.Record, error) {
	for _, r := range recs {
		if r.ID == s.id {
			select {
			case <-s.pass:
			case <-ctx.Done():
				return nil, nil, ctx.Err()
			}
		}
	}
	return s.MergingStore.ApplyMerges(ctx, recs)
}

// TestAReadWaitsForMergesOfItsItemAlone, when nobody here knows what they lead to.
func TestAReadWaitsForMergesOfItsItemAlone(t *testing.T) {
	ctx := context.Background()
	raw, err := lab.OpenSQLStore(l3s["SQLite"](t))
	lab.Must(t, err)
	t.Cleanup(func() { _ = raw.Close() })
	lab.Must(t, raw.Prepare(ctx))
	archived := syncengine.WithDurability(syncengine.Archived)
	other := lab.Open(t, syncengine.Config{L3: raw})
	merge(t, other, "c", "PNCounter", "1", archived)
	l3 := &slowFor{MergingStore: raw.(syncengine.MergingStore), id: "slow", pass: make(chan struct{})}
	e := lab.Open(t, syncengine.Config{L3: l3, L3Timeout: 20 * time.Second, FlushConcurrency: 2})
	lab.Must(t, e.Submit(ctx, syncengine.Item{ID: "slow", Content: []byte(`1`)}, syncengine.WithPriority(syncengine.PriorityCritical)))
	lab.Eventually(t, "it is under way", func() bool {
		x, err := e.Explain(ctx, "slow")
		return err == nil && x.InFlight
	})
	if it := merge(t, e, "c", "PNCounter", "2"); it.Content != nil {
		t.Fatalf("it is known: %s", it.Content)
	}
	short, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	it, err := e.Get(short, "c")
	if errors.Is(err, context.DeadlineExceeded) {
		t.Fatal("a read waits for another item")
	}
	if got := value(t, it, err); got != "3" {
		t.Errorf("%s", got)
	}
	close(l3.pass)
}
