package syncengine

import (
	"bytes"
	"fmt"
	"runtime"
	"sync"
	"testing"
)

// A write that was evicted before it was counted let a reader put the version before it back.
func TestINV02APromotionNeverUndoesAWriteThatWasEvictedAtOnce(t *testing.T) {
	c := newL1(64 << 10)
	before := newEntry(&Record{Item: Item{ID: "x", Version: 1, Content: []byte("1")}})
	after := newEntry(&Record{Item: Item{ID: "x", Version: 2, Content: []byte("2")}})
	stamp := c.Stamp("x")  // a reader goes on to load version 1 from a store
	c.store(after, 0, nil) // what accept does first
	if !c.Drop(after) {
		t.Fatal("an entry that is not pinned could not be evicted")
	}
	c.Promote(before, stamp)
	if e, ok := c.Peek("x"); ok {
		t.Errorf("L1 holds version %d after version 2 was accepted", e.version)
	}
}

// What is counted is what the heap holds: entries, map, eviction's own memory, and contents.
// What another engine has written while the queue holds an op is told once: when the queue lets go,
// or if it does so at that moment, the op is gone.
func TestINV15AnOpThatIsOutdatedWhileItIsPinnedGoesLater(t *testing.T) {
	c := newL1(64 << 10)
	for i := range 5000 {
		e := newEntry(&Record{Item: Item{ID: "x", Version: 2, Content: []byte("1")}})
		c.Accept(e, true)
		c.Outdate("x", 2) // it is not below that
		if i%2 == 0 {
			c.Outdate("x", 3)
			if _, ok := c.Peek("x"); !ok {
				t.Fatal("an op that the queue holds is gone")
			}
			c.Unpin(e)
		} else {
			var both sync.WaitGroup
			both.Go(func() { c.Outdate("x", 3) })
			both.Go(func() { c.Unpin(e) })
			both.Wait()
		}
		if _, ok := c.Peek("x"); ok {
			t.Fatal("it stays, though another engine has written the id since")
		}
	}
	e := newEntry(&Record{Item: Item{ID: "x", Version: 2, Content: []byte("1")}})
	c.Accept(e, true)
	c.Outdate("x", 2)
	if c.Unpin(e); c.Len() != 1 || c.Queued() != 0 {
		t.Errorf("of one that is not outdated %d are there, %d bytes are queued", c.Len(), c.Queued())
	}
}

func TestINV10CountedBytesAreThoseOfTheHeap(t *testing.T) {
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	for _, size := range []int{10, 100, 1000} {
		for _, idLen := range []int{12, 40} {
			const items = 30_000
			before := heap()
			c := newL1(1 << 40)
			for n := range items {
				e := newEntry(&Record{Item: Item{ID: fmt.Sprintf("%0*d", idLen, n), Version: 1, Content: bytes.Repeat([]byte("1"), size)}})
				c.store(e, 0, nil)
			}
			grown, counted := heap()-before, c.Used()
			t.Logf("content of %d, id of %d bytes: %d bytes an item beside them, %d are counted", size, idLen, grown/items-int64(size+idLen), counted/items-int64(size+idLen))
			if grown > counted*11/10 || grown < counted*7/10 {
				t.Errorf("content of %d, id of %d bytes: the heap grew by %d, counted are %d", size, idLen, grown, counted)
			}
			runtime.KeepAlive(c)
		}
	}
}

// A large unit was taken in first and room made for it afterwards: until then memory held both.
func TestINV10RoomIsMadeBeforeALargeUnitIsTaken(t *testing.T) {
	const budget = 1 << 20
	c := newL1(budget)
	q := newQueue(queueLimits{count: 1000, bytes: budget, spoolAbove: budget / 2, evictAhead: 32 << 10}, c, &journal{})
	item := func(id string, size int) *entry {
		return newEntry(&Record{Item: Item{ID: id, Version: 1, Content: bytes.Repeat([]byte("1"), size)}})
	}
	for n := 0; c.Used() < budget-4096; n++ { // clean items, which may go
		c.Promote(item(fmt.Sprint("clean-", n), 2000), c.Stamp(fmt.Sprint("clean-", n)))
	}
	q.Accept(unit{one: item("large", 256<<10)}, nil, false)
	if used := c.Used(); used > budget {
		t.Errorf("%d bytes are in use right after a large unit, the budget is %d", used, budget)
	}
}
