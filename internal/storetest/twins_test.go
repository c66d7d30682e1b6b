package storetest

import (
	"testing"

	"github.com/syncengine-go/syncengine"
)

func TestTwinsAreStores(t *testing.T) {
	t.Run("cache", func(t *testing.T) {
		RunCache(t, func(*testing.T) syncengine.CacheStore { return NewCache() })
	})
	t.Run("archive", func(t *testing.T) {
		RunArchive(t, func(*testing.T) syncengine.ArchiveStore { return NewArchive() })
	})
}

// The twins keep what they were given, whatever the caller does to it afterwards.
func TestTwinsCopy(t *testing.T) {
	c, a := NewCache(), NewArchive()
	recs := []syncengine.Record{Put("a", 1, `"mine"`)}
	must(t, "put", c.Put(newContext(t), recs))
	must(t, "apply", a.Apply(newContext(t), recs))
	copy(recs[0].Content, `"evil"`)
	cacheKeeper(c).want(t, Put("a", 1, `"mine"`))
	archiveKeeper(a).want(t, Put("a", 1, `"mine"`))
}
