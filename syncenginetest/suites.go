package syncenginetest

import (
	"testing"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/storetest"
)

// TestArchiveStore holds an ArchiveStore against its interface, and against those of a
// ConditionalStore and an ExpiringStore if it is one; the log of the test says which. What a
// MergingStore adds is not tested. open returns an empty store, not yet prepared, and closes by
// t.Cleanup what it opened.
func TestArchiveStore(t *testing.T, open func(t *testing.T) syncengine.ArchiveStore) {
	t.Run("parts", func(t *testing.T) {
		s := open(t)
		_, conditional := s.(syncengine.ConditionalStore)
		_, merging := s.(syncengine.MergingStore)
		_, expiring := s.(syncengine.ExpiringStore)
		t.Logf("%T: ArchiveStore tested, ConditionalStore tested: %t, ExpiringStore tested: %t, MergingStore (not tested): %t", s, conditional, expiring, merging)
	})
	storetest.RunArchive(t, open)
}

// TestCacheStore holds a CacheStore against its interface. open returns an empty store, and closes
// by t.Cleanup what it opened.
func TestCacheStore(t *testing.T, open func(t *testing.T) syncengine.CacheStore) {
	storetest.RunCache(t, open)
}
