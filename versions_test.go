package syncengine

// versions_test.go tests what the numbering keeps beyond the life of an engine, with clocks that
// are wrong.

import (
	"context"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine/internal/hlc"
	"github.com/syncengine-go/syncengine/internal/oplog"
)

// withLog lets fn number ops on a log, by a clock that is ahead of this host's. Nothing is done
// at the end that a killed process would not do.
func withLog(t *testing.T, path string, ahead time.Duration, fn func(n *numbers, q *queue)) {
	t.Helper()
	log, err := oplog.Open(context.Background(), oplog.Options{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	var loop sync.WaitGroup
	loop.Go(log.Run)
	q := newTestQueue(1000)
	q.wal.log = log
	n := newNumbers(q.l1, q.wal, q, &above{quarantine: &quarantine{}})
	n.time = func() time.Time { return time.Now().Add(ahead) }
	if err := n.Load(context.Background()); err != nil {
		t.Fatal(err)
	}
	fn(n, q)
	log.Close()
	loop.Wait()
	if err := log.CloseFiles(); err != nil {
		t.Fatal(err)
	}
}

// TestINV16AClockSetBackMakesNoLaterVersionLower, though a process was killed in between: for ops
// in memory alone by the bound, for logged ones by the log.
func TestINV16AClockSetBackMakesNoLaterVersionLower(t *testing.T) {
	op := func() *entry {
		return newEntry(&Record{Item: Item{ID: "x", Content: []byte("1")}})
	}
	for name, write := range map[string]func(t *testing.T, n *numbers, q *queue) uint64{
		"buffered": func(t *testing.T, n *numbers, q *queue) uint64 {
			e := op()
			q.Promise(e.size())
			if err := n.AcceptUnit(unitOf([]*entry{e}, q.Now()), n.Assign); err != nil {
				t.Fatal(err)
			}
			return e.version
		},
		"logged": func(t *testing.T, n *numbers, q *queue) uint64 {
			e, logged := op(), make(chan error, 1)
			err := n.LogUnit([]*entry{e}, func(e *entry) (*entry, error) { return nil, n.Assign(e) }, func(_ *segment, _ bool, err error) { logged <- err })
			if err == nil {
				err = <-logged
			}
			if err != nil {
				t.Fatal(err)
			}
			return e.version
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "wal.db")
			var before uint64
			withLog(t, path, time.Hour, func(n *numbers, q *queue) { before = write(t, n, q) })
			withLog(t, path, 0, func(n *numbers, q *queue) {
				if after := write(t, n, q); after <= before {
					t.Errorf("version %d after %d", after, before)
				}
			})
		})
	}
}

// TestTheBoundOfVersionsIsAtMostASecondAhead, and exact after a clean end.
func TestTheBoundOfVersionsIsAtMostASecondAhead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "wal.db")
	withLog(t, path, 0, func(n *numbers, _ *queue) {
		if err := n.Within(n.clock.Next()); err != nil {
			t.Fatal(err)
		}
		if last, bound := n.clock.Last(), n.bound.Load(); bound < last || bound > hlc.At(time.Now().Add(boundAhead+time.Millisecond)) {
			t.Errorf("the bound is %d, the last version %d", bound, last)
		}
		if err := n.Close(context.Background()); err != nil || n.bound.Load() != n.clock.Last() {
			t.Errorf("after the end the bound is %d, the last version %d, %v", n.bound.Load(), n.clock.Last(), err)
		}
	})
}

// The host's clock leaps, something is numbered meanwhile, and it comes back.
func TestINV16AnIDNumberedAheadIsKnownWhenTheClockHasLeapt(t *testing.T) {
	withLog(t, filepath.Join(t.TempDir(), "wal.db"), 0, func(n *numbers, _ *queue) {
		note := func(id string, ahead time.Duration) uint64 {
			v := hlc.At(time.Now().Add(ahead))
			if err := n.KeepAhead(context.Background(), []Record{{Item: Item{ID: id, Version: v}}}); err != nil {
				t.Fatal(err)
			}
			return v
		}
		x := note("x", 50*time.Second)
		n.time = func() time.Time { return time.Now().Add(time.Minute) }
		note("y", 100*time.Second)
		n.time = time.Now
		op := newEntry(&Record{Item: Item{ID: "x"}})
		if err := n.Assign(op); err != nil || op.version <= x {
			t.Errorf("the next op of x gets version %d, %v; x is at %d", op.version, err, x)
		}
	})
}
