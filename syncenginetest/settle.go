package syncenginetest

import (
	"context"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
)

const (
	settleWithin = 20 * time.Second
	settleAsks   = 10 * time.Millisecond
)

// Settle waits until everything that e has accepted before the call is in L3, nothing is pending,
// and L2, if there is one, holds what L3 holds. It ends the test, and says what is left, after 20
// seconds, and at once when an op is in quarantine. Call it from the goroutine of the test.
func Settle(t testing.TB, e *syncengine.Engine) {
	t.Helper()
	settle(t, e, settleWithin)
}

func settle(t testing.TB, e *syncengine.Engine, within time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	tick := time.NewTicker(settleAsks)
	defer tick.Stop()
	for {
		left := e.Stats()
		err := e.Flush(ctx)
		if err == nil {
			left = e.Stats()
			var differ []string
			if differ, err = inL2(ctx, e); err == nil && left.PendingOps == 0 && left.L2Missed == 0 && len(differ) == 0 {
				return
			}
		}
		select {
		case <-tick.C:
			if left.Quarantined == 0 && ctx.Err() == nil {
				continue
			}
		case <-ctx.Done():
		}
		left = e.Stats()
		probe, done := context.WithTimeout(context.Background(), time.Second)
		defer done()
		t.Fatalf("syncenginetest: not settled: %d ops pending (%d of them in the WAL only, the oldest for %v), "+
			"%d in quarantine, %d ids missed by L2 (-1: all); last error: %v; health: %+v",
			left.PendingOps, left.SpooledOps, left.OldestPending, left.Quarantined, left.L2Missed, err, e.Health(probe))
	}
}

// inL2 returns the ids that L2 does not hold as L3 does; none without an L2.
func inL2(ctx context.Context, e *syncengine.Engine) ([]string, error) {
	if !e.Health(ctx).L2.Configured {
		return nil, nil
	}
	report, err := e.Verify(ctx, syncengine.VerifyOptions{})
	return report.Divergent, err
}
