package syncengine

// batch_test.go tests the queue alone: units that wait for a flight, and who is told when.

import (
	"fmt"
	"testing"
	"time"
)

func newTestQueue(count int) *queue {
	return newQueue(queueLimits{count: count, bytes: 1 << 20, age: time.Hour, patience: time.Hour, spoolAbove: 1 << 30, evictAhead: 1 << 20},
		newL1(1<<30), &journal{})
}

// buffered accepts a unit into memory alone.
func (q *queue) buffered(version uint64, ids ...string) *waiter {
	var ops []*entry
	for _, id := range ids {
		ops = append(ops, newEntry(&Record{Item: Item{ID: id, Version: version, Content: []byte("1")}}))
	}
	u := unitOf(ops, q.Now())
	u.done = newWaiter()
	q.Promise(sizeOf(ops))
	q.Accept(u, nil, false)
	return u.done
}

func nothingLost() *outcome {
	return &outcome{refused: make(map[*entry]error), lost: make(map[*entry]lostOp)}
}

// TestUnitsOfAnIDInFlightAreLookedAtOnce: they wait with the flight, and so do later ops of ids
// that wait with them; others go on.
func TestUnitsOfAnIDInFlightAreLookedAtOnce(t *testing.T) {
	q := newTestQueue(10)
	q.buffered(1, "hot")
	flight := q.take()
	for n := range uint64(1000) {
		q.buffered(2+n, "hot")
	}
	q.buffered(2000, "hot", "y")
	q.buffered(2001, "y")
	q.buffered(2002, "free")
	b := q.take()
	if b == nil || b.ops != 1 || b.units[0].one.id() != "free" {
		t.Fatalf("the batch beside the flight: %+v", b)
	}
	if len(flight.parked) != 1002 || q.ops != 0 || q.full() {
		t.Errorf("%d units wait for the flight, %d ops are in the lanes", len(flight.parked), q.ops)
	}
	if ops, _, _ := q.Pending(); ops != 1005 {
		t.Errorf("%d ops are pending, want 1005", ops)
	}
	q.complete(flight, nothingLost())
	next := q.take()
	if next == nil || next.units[0].one.version != 2 {
		t.Errorf("after the landing: %+v", next)
	}
}

// TestFlushWaitsForWhatCameBeforeItWhateverTheOrderOfLandings.
func TestFlushWaitsForWhatCameBeforeIt(t *testing.T) {
	q := newTestQueue(1)
	for n := range 3 {
		q.buffered(1, fmt.Sprint(n))
	}
	first, second := q.take(), q.take()
	_, done, _ := q.landing()
	q.buffered(1, "later")
	isDone := func() bool {
		select {
		case <-done:
			return true
		default:
			return false
		}
	}
	q.complete(second, nothingLost())
	q.giveBack(first, nothingLost(), ErrUnavailable)
	first = q.take()
	if isDone() || first.units[0].one.id() != "0" {
		t.Fatalf("told before all has landed, or the batch that came back lost its place: %s", first.units[0].one.id())
	}
	q.complete(q.take(), nothingLost())
	if isDone() {
		t.Fatal("told before all has landed")
	}
	q.complete(first, nothingLost())
	if !isDone() {
		t.Fatal("not told")
	}
}

// TestAnArchivedCallIsToldOfItsOwnUnit, and a caller that has left is told nothing.
func TestAnArchivedCallIsToldOfItsOwnUnit(t *testing.T) {
	q := newTestQueue(10)
	a, b := q.buffered(1, "a"), q.buffered(1, "b")
	if q.leave(b) {
		t.Error("b was told before it landed")
	}
	f := q.take()
	verdict := nothingLost()
	verdict.lost[f.units[0].Ops()[0]] = lostOp{Held: Meta{ID: "a", Version: 9}}
	q.complete(f, verdict)
	if v := <-a.verdict; len(v.Lost) != 1 || v.Lost[0].Held.Version != 9 {
		t.Errorf("a is told %+v", v)
	}
	if len(b.verdict) != 0 {
		t.Error("b has left and is told")
	}
}
