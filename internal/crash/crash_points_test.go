package crash

// crash_points_test.go kills a process at each named point of internal/failpoint, where a
// crash would hurt most, and in the middle of recovering from a crash. The child kills itself
// on the very goroutine that reaches the point, so it never gets beyond.

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/failpoint"
	"github.com/syncengine-go/syncengine/internal/lab"
)

// crashPoints tells of each point at which of its hits children are killed: one of the first
// so many. How they come to pass there is in crashAt.
var crashPoints = map[failpoint.Point]int64{
	failpoint.WALCommitting:   30,
	failpoint.WALCommitted:    30,
	failpoint.SpoolRead:       15,
	failpoint.L3Committing:    10,
	failpoint.L3Committed:     10,
	failpoint.L2Written:       10,
	failpoint.Quarantined:     3,
	failpoint.WALTrimming:     10,
	failpoint.WALIndexed:      1,
	failpoint.Recovered:       1,
	failpoint.ShutdownFlushed: 1,
}

// crashAt runs children the last of which kills itself at a point.
func (r *crashRun) crashAt(t *testing.T, p failpoint.Point) {
	t.Helper()
	c := r.c
	c.L1MaxBytes, c.Flaky = 64<<10, r.rng.IntN(2) == 0
	c.Steps = 2000 // of each writer, should the point never come
	c.Kill, c.KillAt = p, 1+r.rng.Int64N(crashPoints[p])
	switch p {
	case failpoint.WALIndexed, failpoint.Recovered:
		r.fillWAL(t)
		c.Do = doRecover
	case failpoint.ShutdownFlushed:
		c.Do, c.Steps = doClose, 50+r.rng.Int64N(300)
		c.Durability = []syncengine.Durability{syncengine.Buffered, syncengine.Logged}[r.rng.IntN(2)]
		c.AwayFrom = 2 + r.rng.Int64N(4)
	}
	before := r.h.kills[p]
	r.child(t, c, nil)
	if r.h.kills[p] != before+1 {
		t.Fatalf("the child never came to %q %d times: %v", p, c.KillAt, r.h)
	}
}

// fillWAL has a child write ops that L3 does not take, and kills it.
func (r *crashRun) fillWAL(t *testing.T) {
	t.Helper()
	c := r.c
	c.AwayFrom = 2
	r.child(t, c, r.killAfter(200+r.rng.IntN(400)))
}

// TestINV01NothingIsLostByAKillAtANamedPoint covers all points, on both kinds of L3.
func TestINV01NothingIsLostByAKillAtANamedPoint(t *testing.T) {
	t.Parallel()
	if len(crashPoints) != len(failpoint.Points) {
		t.Errorf("%d points are killed at, there are %d", len(crashPoints), len(failpoint.Points))
	}
	onCrashStores(t, func(t *testing.T, r *crashRun) {
		r.c.Refuse = true
		kills := max(2, crashRounds(3))
		for _, p := range failpoint.Points {
			if crashPoints[p] == 0 {
				t.Errorf("nobody is killed at %q", p)
				continue
			}
			for kill := range kills {
				r.crashAt(t, p)
				r.look(t, func(t *testing.T, e *syncengine.Engine) {
					if kill == kills-1 {
						r.drained(t, e)
					}
				})
			}
			t.Logf("%q: %d kills: %v", p, r.h.kills[p], r.h)
		}
	})
}

// quarantined looks at the ops that L3 refuses, and discards them: each is in quarantine once,
// though crashes have repeated its flush. What is discarded stays away.
func (r *crashRun) quarantined(t *testing.T, e *syncengine.Engine) {
	t.Helper()
	ctx := context.Background()
	ops, err := e.Quarantined(ctx)
	lab.Must(t, err)
	type op struct {
		id      string
		version uint64
	}
	seen := make(map[op]bool)
	for i := range ops {
		o := op{ops[i].ID, ops[i].Version}
		if seen[o] {
			t.Errorf("version %d of %s is in quarantine twice", o.version, o.id)
		}
		seen[o] = true
	}
	n, err := e.DiscardQuarantined(ctx)
	lab.Must(t, err)
	if n != len(ops) {
		t.Errorf("%d ops discarded, %d were in quarantine", n, len(ops))
	}
	for i := range crashBad {
		r.h.settle(fmt.Sprintf("bad-%d", i), 0)
	}
	r.h.settle(badGroup, 0)
}

// TestINV01NothingIsLostByKillsDuringRecovery kills a child whose WAL is full, then two more
// while they recover, each somewhere between reading the WAL and trimming it. The third Open
// finds exactly what the WAL holds pending, and all promises kept.
func TestINV01NothingIsLostByKillsDuringRecovery(t *testing.T) {
	t.Parallel()
	onCrashStores(t, func(t *testing.T, r *crashRun) {
		points := []failpoint.Point{failpoint.WALIndexed, failpoint.Recovered, failpoint.SpoolRead, failpoint.L3Committing,
			failpoint.L3Committed, failpoint.L2Written, failpoint.WALTrimming, failpoint.WALCommitting}
		for round := range crashRounds(10) {
			r.fillWAL(t)
			for range 2 {
				c := r.c
				c.Do, c.L1MaxBytes = doRecover, 64<<10
				if c.Kill, c.KillAt = failpoint.WALIndexed, 1; round > 0 {
					c.Kill = points[r.rng.IntN(len(points))]
					c.KillAt = 1 + r.rng.Int64N(min(3, crashPoints[c.Kill]))
				}
				r.child(t, c, nil)
			}
			pending := r.wantPendingAsInWAL(t)
			if round == 0 && (pending == 0 || r.atPoints() != 2) {
				t.Fatalf("%d kills, %d ops left in the WAL: nothing was proven", r.atPoints(), pending)
			}
			t.Logf("%d ops were left in the WAL: %v", pending, r.h)
			r.look(t, r.lastOf(int64(3*crashRounds(10)), 4))
		}
	})
}

// wantPendingAsInWAL opens the directory while L3 takes no writes and compares the counters
// with the file. Then it lets the WAL drain. It returns how many ops there were.
func (r *crashRun) wantPendingAsInWAL(t *testing.T) (inWAL int64) {
	t.Helper()
	ctx := context.Background()
	inWAL = lab.WALOps(t, r.c.Dir)
	store, err := lab.OpenSQLStore(r.c.url())
	lab.Must(t, err)
	var away atomic.Bool
	away.Store(true)
	tried := make(chan struct{}, 1000)
	cfg := syncengine.Config{
		Dir: r.c.Dir, RedisURL: r.c.RedisURL, L1MaxBytes: 64 << 10,
		L3: &lab.HookedArchive{ArchiveStore: store, OnApply: func(context.Context, []syncengine.Record) error {
			if !away.Load() {
				return nil
			}
			select {
			case tried <- struct{}{}:
			default:
			}
			return lab.ErrAway
		}},
	}
	e, err := syncengine.Open(ctx, cfg)
	lab.Must(t, err)
	wantPending := func(when string, want int64) {
		t.Helper()
		if s := e.Stats(); int64(s.PendingOps) != want || s.WALItems != want {
			t.Errorf("%s: %d ops are pending, %d in the WAL by its count; the file holds %d", when, s.PendingOps, s.WALItems, want)
		}
	}
	wantPending("after Open", inWAL)
	if inWAL > 0 {
		<-tried
		wantPending("in the middle of a flush", inWAL)
	}
	lab.Must(t, r.h.check(ctx, "before the drain", lookByGet(e)))
	r.wantNoFaults(t)
	wantPending("after reading all", inWAL)
	away.Store(false)
	lab.Eventually(t, "L3 takes writes again", func() bool { return e.Flush(ctx) == nil })
	lab.Must(t, r.h.check(ctx, "after the drain", lookByGet(e)))
	wantPending("after Flush", 0)
	r.close(t, e, cfg)
	return inWAL
}
