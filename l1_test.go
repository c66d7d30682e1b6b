package syncengine

import "testing"

// A write that was evicted before it was counted let a reader put the version before it back.
func TestINV2APromotionNeverUndoesAWriteThatWasEvictedAtOnce(t *testing.T) {
	c := newL1(64 << 10)
	before := newEntry(&Record{Item: Item{ID: "x", Version: 1, Content: []byte("1")}})
	after := newEntry(&Record{Item: Item{ID: "x", Version: 2, Content: []byte("2")}})
	stamp := c.stamp("x") // a reader goes on to load version 1 from a store
	c.store(after, nil)   // what accept does first
	if !c.drop(after) {
		t.Fatal("an entry that is not pinned could not be evicted")
	}
	c.promote(before, stamp)
	if e, ok := c.peek("x"); ok {
		t.Errorf("L1 holds version %d after version 2 was accepted", e.version)
	}
}
