package syncenginetest

import (
	"testing"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/storetest"
)

// TestArchiveStore holds an ArchiveStore against its interface, and against those of a
// ConditionalStore, a ListingStore and an ExpiringStore if it is one; with -tags crdt against that
// of a MergingStore as well. The log of the test says which. A message names the rule, which the
// doc comment of the method has. open returns an empty store, not yet prepared, and closes by
// t.Cleanup what it opened. What several stores see of each other is TestSharedArchiveStore.
func TestArchiveStore(t *testing.T, open func(t *testing.T) syncengine.ArchiveStore) {
	t.Run("parts", func(t *testing.T) {
		s := open(t)
		_, conditional := s.(syncengine.ConditionalStore)
		_, listing := s.(syncengine.ListingStore)
		_, expiring := s.(syncengine.ExpiringStore)
		_, merging := s.(syncengine.MergingStore)
		t.Logf("%T: ArchiveStore tested; of what it may be beside: ConditionalStore %t, ListingStore %t, ExpiringStore %t, MergingStore (with -tags crdt) %t",
			s, conditional, listing, expiring, merging)
	})
	storetest.RunArchive(t, open)
}

// TestSharedArchiveStore holds several stores on one database, as several engines have, against
// what ArchiveStore and the others say of them. open makes an empty database and returns what opens
// a store on it, not yet prepared, with connections of its own. open closes all by t.Cleanup.
func TestSharedArchiveStore(t *testing.T, open func(t *testing.T) (another func() syncengine.ArchiveStore)) {
	storetest.RunSharedArchive(t, open)
}

// TestCacheStore holds a CacheStore against its interface. open returns an empty store, and closes
// by t.Cleanup what it opened.
func TestCacheStore(t *testing.T, open func(t *testing.T) syncengine.CacheStore) {
	storetest.RunCache(t, open)
}

// TestSharedCacheStore holds several stores on one cache, as several engines have, against what
// CacheStore says of them. open makes an empty cache and returns what opens a store on it. open
// closes all by t.Cleanup.
func TestSharedCacheStore(t *testing.T, open func(t *testing.T) (another func() syncengine.CacheStore)) {
	storetest.RunSharedCache(t, open)
}
