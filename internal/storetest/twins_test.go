package storetest

import (
	"errors"
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

func TestTwinsOnTheSameRecords(t *testing.T) {
	t.Run("cache", func(t *testing.T) {
		RunSharedCache(t, func(*testing.T) func() syncengine.CacheStore {
			s := NewCache()
			return func() syncengine.CacheStore { return s }
		})
	})
	t.Run("archive", func(t *testing.T) {
		RunSharedArchive(t, func(*testing.T) func() syncengine.ArchiveStore {
			s := NewArchive()
			return func() syncengine.ArchiveStore { return Another(s) }
		})
	})
}

// The twins keep what they were given, whatever the caller does to it afterwards.
func TestTwinsCopy(t *testing.T) {
	c, a := NewCache(), NewArchive()
	recs := []syncengine.Record{Put("a", 1, `"mine"`)}
	must(t, "put", c.Put(newContext(t), recs))
	must(t, "apply", applied(a.Apply(newContext(t), recs)))
	copy(recs[0].Content, `"evil"`)
	cacheKeeper(c).want(t, Put("a", 1, `"mine"`))
	archiveKeeper(a).want(t, Put("a", 1, `"mine"`))
}

func TestTwinSumsUpWhatItHolds(t *testing.T) {
	RunDigest(t, func(*testing.T) (Digester, func(testing.TB, string)) {
		s := NewCache()
		return s.(Digester), func(_ testing.TB, id string) { Damage(s, id) }
	})
}

// A damaged record of the twin is a corrupt one until it is replaced or removed.
func TestDamageToATwin(t *testing.T) {
	s := NewCache()
	k := cacheKeeper(s)
	k.mustPut(t, Put("a", 5, `5`), Put("b", 5, `5`))
	Damage(s, "a")
	found, err := s.GetMany(newContext(t), []string{"b", "a"})
	must(t, "get many", err)
	if _, err := s.Get(newContext(t), "a"); !errors.Is(err, syncengine.ErrCorruption) || !errors.Is(found[1].Err, syncengine.ErrCorruption) || found[1].OK {
		t.Errorf("get: %v, get many: %+v", err, found[1])
	}
	k.want(t, Put("b", 5, `5`))
	k.mustPut(t, Put("a", 1, `1`))
	k.want(t, Put("a", 1, `1`))
	Damage(s, "a")
	must(t, "remove", s.Remove(newContext(t), []string{"a"}))
	k.wantAbsent(t, "a")
}
