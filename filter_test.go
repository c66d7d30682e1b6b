package syncengine_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
)

// Sets are built over and over beside writes, deletes and evictions; every acknowledged id
// must be found all the time.
func TestINV07NothingIsDeniedWhileSetsAreBuiltBesideWrites(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	e := lab.Open(t, syncengine.Config{L1MaxBytes: 64 << 10, FilterWarmupBatch: 7, FilterSnapshotInserts: 20, BatchFlushInterval: time.Millisecond})
	var wrote atomic.Int64
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(done)
		for n := range 3000 {
			lab.Put(t, e, fmt.Sprint("id-", n), n, syncengine.WithDurability(syncengine.Buffered))
			if n%3 == 0 {
				lab.Must(t, e.Delete(ctx, fmt.Sprint("gone-", n)))
			}
			wrote.Store(int64(n + 1))
		}
	})
	for r := range 3 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-done:
					return
				default:
				}
				if w := wrote.Load(); w > 0 {
					n := int(uint64(i*7919+r) % uint64(w))
					lab.WantContent(t, e, fmt.Sprint("id-", n), n)
				}
				if i%50 == 0 {
					lab.Must(t, syncengine.RebuildFilter(ctx, e))
				}
			}
		})
	}
	wg.Wait()
	lab.Must(t, e.Flush(ctx))
	lab.Trusted(t, e)
	for n := range 3000 {
		lab.WantContent(t, e, fmt.Sprint("id-", n), n)
	}
}
