package storetest

// digest.go holds what a cache adds that can sum up what it holds: the twin's way of it, and the
// suite, which compares with a digest computed here from all the cache gives back by Scan and
// GetMany, after random puts, deletes, removals and damages.

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/digest"
)

// Digester is a cache that sums up what it holds.
type Digester interface {
	syncengine.CacheStore
	// Digest returns the digest of the live records, and the unreadable ids, each once.
	Digest(ctx context.Context, timeout time.Duration) (set *digest.Set, unreadable []string, err error)
	// Leaves returns the records, tombstones included, and the unreadable ids of branches, in any
	// order, each once.
	Leaves(ctx context.Context, timeout time.Duration, branches []int) (leaves []syncengine.Meta, unreadable []string, err error)
}

func meta(r *syncengine.Record) syncengine.Meta {
	return syncengine.Meta{ID: r.ID, Version: r.Version, Deleted: r.Deleted, ContentHash: r.ContentHash}
}

func (c *cache) Digest(ctx context.Context, _ time.Duration) (*digest.Set, []string, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	set := new(digest.Set)
	for id, r := range c.rows {
		if !r.Deleted {
			set.Add(id, digest.LeafOf(id, r.Version, r.ContentHash))
		}
	}
	return set, slices.Collect(maps.Keys(c.damaged)), ctx.Err()
}

func (c *cache) Leaves(ctx context.Context, _ time.Duration, branches []int) (leaves []syncengine.Meta, unreadable []string, err error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	for id, r := range c.rows {
		if slices.Contains(branches, digest.Branch(id)) {
			leaves = append(leaves, meta(&r))
		}
	}
	for id := range c.damaged {
		if slices.Contains(branches, digest.Branch(id)) {
			unreadable = append(unreadable, id)
		}
	}
	return leaves, unreadable, ctx.Err()
}

// Damage puts something unreadable under id of a cache that NewCache made.
func Damage(s syncengine.CacheStore, id string) {
	c := s.(*cache)
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.rows, id)
	c.damaged[id] = true
}

// RunDigest holds a Digester against its interface. open returns an empty store, and a function
// that puts something unreadable under an id of it, behind its back.
func RunDigest(t *testing.T, open func(t *testing.T) (s Digester, damage func(t testing.TB, id string))) {
	t.Run("an empty cache has the empty digest", func(t *testing.T) {
		s, _ := open(t)
		checkDigest(t, s, 0, 0)
	})
	t.Run("odd ids are in the digest as they are", func(t *testing.T) {
		s, damage := open(t)
		var recs []syncengine.Record
		for i, id := range IDs() {
			recs = append(recs, Put(id, uint64(i+1), `1`))
		}
		must(t, "put", s.Put(newContext(t), recs))
		checkDigest(t, s, len(recs), 0)
		for i, r := range recs {
			if i%3 == 0 {
				damage(t, r.ID)
			}
		}
		checkDigest(t, s, len(recs)-(len(recs)+2)/3, (len(recs)+2)/3)
	})
	t.Run("a tombstone is in no digest but among the leaves", func(t *testing.T) {
		s, _ := open(t)
		must(t, "put", s.Put(newContext(t), []syncengine.Record{Put("a", 1, `1`), Put("b", 1, `1`), Tombstone("b", 2), Tombstone("c", 1)}))
		checkDigest(t, s, 1, 0)
		leaves, unreadable, err := s.Leaves(newContext(t), 0, []int{digest.Branch("b"), digest.Branch("c")})
		must(t, "leaves", err)
		b, c := Tombstone("b", 2), Tombstone("c", 1)
		if want := []syncengine.Meta{meta(&b), meta(&c)}; !slices.Equal(byID(leaves), want) || len(unreadable) != 0 {
			t.Errorf("leaves %+v, unreadable %q, want %+v", leaves, unreadable, want)
		}
	})
	t.Run("branches that do not exist have no leaves", func(t *testing.T) {
		s, _ := open(t)
		must(t, "put", s.Put(newContext(t), []syncengine.Record{Put("a", 1, `1`)}))
		for _, branches := range [][]int{nil, {-1, digest.Branches, 1 << 30, digest.Branch("a") + 1<<16}} {
			if leaves, unreadable, err := s.Leaves(newContext(t), 0, branches); err != nil || len(leaves)+len(unreadable) != 0 {
				t.Errorf("branches %v: %v, %v, %v", branches, leaves, unreadable, err)
			}
		}
	})
	t.Run("the digest is that of all records, whatever was done", func(t *testing.T) { testRandomDigest(t, open) })
	t.Run("a dead context ends Digest and Leaves", func(t *testing.T) {
		s, _ := open(t)
		must(t, "put", s.Put(newContext(t), []syncengine.Record{Put("a", 1, `1`)}))
		gone, cancel := context.WithCancel(context.Background())
		cancel()
		if _, _, err := s.Digest(gone, time.Minute); !errors.Is(err, context.Canceled) {
			t.Errorf("digest: %v", err)
		}
		if _, _, err := s.Leaves(gone, time.Minute, []int{digest.Branch("a")}); !errors.Is(err, context.Canceled) {
			t.Errorf("leaves: %v", err)
		}
	})
}

func byID(leaves []syncengine.Meta) []syncengine.Meta {
	return slices.SortedFunc(slices.Values(leaves), func(a, b syncengine.Meta) int { return cmp.Compare(a.ID, b.ID) })
}

// checkDigest compares Digest and Leaves with what Scan and GetMany give, and that with how many
// records there should be; -1 is any number.
func checkDigest(t testing.TB, s Digester, live, damaged int) {
	t.Helper()
	ids := map[string]bool{}
	must(t, "scan", s.Scan(newContext(t), func(page []string) error {
		for _, id := range page {
			ids[id] = true
		}
		return nil
	}))
	sorted := slices.Sorted(maps.Keys(ids))
	found, err := s.GetMany(newContext(t), sorted)
	must(t, "get many", err)
	var want digest.Set
	var all []syncengine.Meta
	var bad []string
	alive := 0
	for i := range found {
		r := &found[i].Record
		switch {
		case found[i].Err != nil:
			bad = append(bad, sorted[i])
			continue
		case !r.Deleted:
			alive++
			want.Add(r.ID, digest.LeafOf(r.ID, r.Version, r.ContentHash))
		}
		all = append(all, meta(r))
	}
	if live >= 0 && (alive != live || len(bad) != damaged) {
		t.Fatalf("%d live and %d unreadable records by Scan and GetMany, want %d and %d", alive, len(bad), live, damaged)
	}
	set, unreadable, err := s.Digest(newContext(t), time.Minute)
	must(t, "digest", err)
	slices.Sort(unreadable)
	if *set != want || !slices.Equal(unreadable, bad) {
		t.Fatalf("%d records: differs in %d branches; unreadable %.200q, want %.200q", len(all), len(set.Diff(&want)), unreadable, bad)
	}
	for _, branches := range someBranches(sorted) {
		wanted := func(id string) bool { return slices.Contains(branches, digest.Branch(id)) }
		wantLeaves := slices.DeleteFunc(slices.Clone(all), func(m syncengine.Meta) bool { return !wanted(m.ID) })
		wantBad := slices.DeleteFunc(slices.Clone(bad), func(id string) bool { return !wanted(id) })
		leaves, unreadable, err := s.Leaves(newContext(t), time.Minute, branches)
		must(t, "leaves", err)
		slices.Sort(unreadable)
		if leaves = byID(leaves); !slices.Equal(leaves, wantLeaves) || !slices.Equal(unreadable, wantBad) {
			t.Fatalf("%d branches: %d leaves, want %d; unreadable %.200q, want %.200q", len(branches), len(leaves), len(wantLeaves), unreadable, wantBad)
		}
	}
}

// someBranches are one branch, those of half the ids, and all.
func someBranches(ids []string) [][]int {
	every := make([]int, digest.Branches)
	for i := range every {
		every[i] = i
	}
	var half []int
	for _, id := range ids[:len(ids)/2] {
		half = append(half, digest.Branch(id))
	}
	return [][]int{{0}, half, every}
}

func testRandomDigest(t *testing.T, open func(t *testing.T) (Digester, func(testing.TB, string))) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	s, damage := open(t)
	id := func() string { return fmt.Sprintf("digest-%d", rng.IntN(2000)) }
	version := uint64(0)
	for range 12 {
		var recs []syncengine.Record
		for range rng.IntN(600) {
			version++
			r := Put(id(), version-uint64(rng.IntN(min(20, int(version)))), fmt.Sprintf(`{"n":%d,"text":%q}`, rng.IntN(3), strings.Repeat("x", rng.IntN(300))))
			if rng.IntN(4) == 0 {
				r = Tombstone(r.ID, r.Version)
			}
			recs = append(recs, r)
		}
		must(t, "put", s.Put(newContext(t), recs))
		for range rng.IntN(8) {
			damage(t, id())
		}
		var removed []string
		for range rng.IntN(50) {
			removed = append(removed, id())
		}
		must(t, "remove", s.Remove(newContext(t), removed))
		checkDigest(t, s, -1, 0)
	}
}
