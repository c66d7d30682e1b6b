package syncengine_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/storetest"
)

// askedCache notes what it is asked.
type askedCache struct {
	syncengine.CacheStore
	notes *heard
	err   error // of reads
}

func (c *askedCache) Get(ctx context.Context, id string) (syncengine.Record, error) {
	c.notes.note("L2: %s", id)
	if c.err != nil {
		return syncengine.Record{}, c.err
	}
	return c.CacheStore.Get(ctx, id)
}

func (c *askedCache) GetMany(ctx context.Context, ids []string) ([]syncengine.Found, error) {
	c.notes.note("L2: %v", ids)
	if c.err != nil {
		return nil, c.err
	}
	return c.CacheStore.GetMany(ctx, ids)
}

// versionOf is what a read answered: a version, 0 for not found.
func versionOf(t testing.TB, it syncengine.Item, err error) uint64 {
	t.Helper()
	if err != nil && !errors.Is(err, syncengine.ErrNotFound) {
		t.Errorf("%s: %v", it.ID, err)
	}
	return it.Version
}

func TestATierIsAskedOnlyWhenThoseAboveItDoNotKnow(t *testing.T) {
	ctx, asked := context.Background(), &heard{}
	l2 := l2With(t, storetest.Put("in L2", 5, "1"), storetest.Tombstone("deleted", 5), storetest.Put("missed", 4, "1"))
	l3 := l3With(t, storetest.Put("in L2", 5, "1"), storetest.Put("in L3", 5, "1"), storetest.Put("missed", 5, "1"), storetest.Put("many", 5, "1"))
	h := syncengine.HouseOn(t, syncengine.Plan{
		L2: &askedCache{CacheStore: l2, notes: asked},
		L3: &lab.HookedArchive{ArchiveStore: l3, OnGet: func() error { asked.note("L3"); return nil }},
	})
	h.Start(h.Repair.Run)
	h.Memory.Keep(syncengine.OpsOf(storetest.Put("in memory", 5, "1"))[0])
	h.Cache.Miss(ctx, []syncengine.Record{storetest.Put("missed", 5, "1")})
	for _, c := range []struct {
		id           string
		want         uint64
		first, again []string // who is asked
	}{
		{"in memory", 5, nil, nil},
		{"in L2", 5, []string{"L2: in L2"}, nil},
		{"in L3", 5, []string{"L2: in L3", "L3"}, nil},
		{"deleted", 0, []string{"L2: deleted"}, nil},
		{"missed", 5, []string{"L3"}, nil},
		{"absent", 0, []string{"L2: absent", "L3"}, []string{"L2: absent", "L3"}},
	} {
		for _, who := range [][]string{c.first, c.again} {
			it, err := h.Reader.Get(ctx, c.id)
			if got := versionOf(t, it, err); got != c.want {
				t.Errorf("%s: version %d, want %d", c.id, got, c.want)
			}
			asked.want(t, who...)
		}
	}
	lab.Eventually(t, "what L3 had comes to L2", func() bool { return holds(t, l2, "in L3") == 5 })
	if e, ok := h.Memory.Peek("in L2"); !ok || !h.Memory.Drop(e) {
		t.Error("a copy read from L2 is not in memory, or may not go")
	}
	items, err := h.Reader.GetMany(ctx, []string{"many", "in L2", "in L3", "absent", "in L2"})
	lab.Must(t, err)
	for i, found := range []bool{true, true, true, false, true} {
		if (items[i] != nil) != found {
			t.Errorf("of many, number %d: %+v", i, items[i])
		}
	}
	asked.want(t, "L2: [many in L2 absent]", "L3")
}

func TestINV08ATierThatCanNotBeAskedIsNotOneThatHasNothing(t *testing.T) {
	ctx := context.Background()
	var away error
	l2 := &askedCache{CacheStore: l2With(t, storetest.Put("in L2", 5, "1")), notes: &heard{}}
	h := syncengine.HouseOn(t, syncengine.Plan{L2: l2, L3: &lab.HookedArchive{
		ArchiveStore: l3With(t, storetest.Put("in L3", 5, "1"), storetest.Put("one more", 5, "1")), OnGet: func() error { return away },
	}})
	l2.err = lab.ErrAway
	if it, err := h.Reader.Get(ctx, "in L3"); versionOf(t, it, err) != 5 {
		t.Errorf("without L2: %+v", it)
	}
	l2.err, away = nil, lab.ErrAway
	if it, err := h.Reader.Get(ctx, "one more"); !errors.Is(err, syncengine.ErrUnavailable) || errors.Is(err, syncengine.ErrNotFound) {
		t.Errorf("without L3: %+v, %v", it, err)
	}
	items, err := h.Reader.GetMany(ctx, []string{"in L2", "one more", "absent"})
	if !errors.Is(err, syncengine.ErrUnavailable) || items[0] == nil || items[1] != nil || items[2] != nil {
		t.Errorf("many without L3: %v, %v", items, err)
	}
	if !h.Reader.Contains("absent") {
		t.Error("nobody knows that it is absent")
	}
}

// TestINV02ACopyReadBesideAWriteIsNotPromoted: the write may have come and gone meanwhile.
func TestINV02ACopyReadBesideAWriteIsNotPromoted(t *testing.T) {
	ctx := context.Background()
	written := true
	l2 := storetest.NewCache()
	var h *syncengine.House
	h = syncengine.HouseOn(t, syncengine.Plan{L2: l2, L3: &lab.HookedArchive{
		ArchiveStore: l3With(t, storetest.Put("x", 5, "1")),
		OnGet: func() error {
			if written {
				h.Memory.Touch("x")
			}
			return nil
		},
	}})
	h.Start(h.Repair.Run)
	it, err := h.Reader.Get(ctx, "x")
	if _, ok := h.Memory.Peek("x"); versionOf(t, it, err) != 5 || ok {
		t.Errorf("%+v, in memory: %v", it, ok)
	}
	written = false
	_, err = h.Reader.Get(ctx, "x")
	if e, ok := h.Memory.Peek("x"); err != nil || !ok || syncengine.VersionOf(e) != 5 {
		t.Errorf("of a read with no write beside it memory has nothing: %v", err)
	}
	lab.Eventually(t, "that copy is in L2", func() bool { _, err := l2.Get(ctx, "x"); return err == nil })
}

// TestINV02WhatWasAcknowledgedAndRefusedAnswersReads, unless L3 holds something higher.
func TestINV02WhatWasAcknowledgedAndRefusedAnswersReads(t *testing.T) {
	ctx := context.Background()
	var away error
	below, above := storetest.Put("below", 3, "1"), storetest.Put("above", 7, "1")
	h := syncengine.HouseOn(t, syncengine.Plan{L2: l2With(t, below, above), L3: &lab.HookedArchive{
		ArchiveStore: l3With(t, below, above, storetest.Put("deleted", 3, "1"), storetest.Put("away", 3, "1")), OnGet: func() error { return away },
	}})
	refuse(t, h, storetest.Tombstone("later in memory", 5), storetest.Put("below", 5, "1"), storetest.Put("above", 5, "1"), storetest.Put("nowhere", 5, "1"), storetest.Tombstone("deleted", 5), storetest.Put("away", 5, "1"))
	get := func(id string, want uint64) {
		t.Helper()
		if it, err := h.Reader.Get(ctx, id); versionOf(t, it, err) != want {
			t.Errorf("%s: version %d, want %d", id, it.Version, want)
		}
		if items, err := h.Reader.GetMany(ctx, []string{id}); err != nil || items[0] == nil != (want == 0) || want != 0 && items[0].Version != want {
			t.Errorf("%s of many: %v, %v, want version %d", id, items, err, want)
		}
	}
	for id, want := range map[string]uint64{"below": 5, "above": 7, "nowhere": 5, "deleted": 0} {
		get(id, want)
	}
	h.Memory.Promote(syncengine.NewEntry("later in memory", 7, "1"), h.Memory.Stamp("later in memory"))
	h.Memory.Doubt()
	away = lab.ErrAway
	get("away", 5)
	get("later in memory", 7)
}

// manyArchive notes the reads of single ids, and says what many is told to.
type manyArchive struct {
	syncengine.ArchiveStore
	many func(ctx context.Context, found []syncengine.Found) ([]syncengine.Found, error)

	mu     sync.Mutex // guards the fields below
	shared [][]string
	alone  []string
}

func (a *manyArchive) Get(ctx context.Context, id string) (syncengine.Record, error) {
	time.Sleep(50 * time.Microsecond) // as a server takes
	a.mu.Lock()
	a.alone = append(a.alone, id)
	a.mu.Unlock()
	return a.ArchiveStore.Get(ctx, id)
}

func (a *manyArchive) GetMany(ctx context.Context, ids []string) ([]syncengine.Found, error) {
	a.mu.Lock()
	a.shared = append(a.shared, ids)
	a.mu.Unlock()
	found, err := a.ArchiveStore.GetMany(ctx, ids)
	if a.many == nil || err != nil {
		return found, err
	}
	return a.many(ctx, found)
}

// Of what fails for many, each is asked for alone: it may be about one of them. What hangs for many
// would hang again.
func TestReadsThatWaitShareACall(t *testing.T) {
	type found = []syncengine.Found
	damaged := &syncengine.CorruptionError{ID: "b", Tier: "L3"}
	for what, c := range map[string]struct {
		many  func(ctx context.Context, f found) (found, error)
		alone bool // those of a call are asked for alone
		fails bool
	}{
		"an answer":               {},
		"fails":                   {func(context.Context, found) (found, error) { return nil, errors.New("one is damaged") }, true, false},
		"answers some":            {func(_ context.Context, f found) (found, error) { return f[1:], nil }, true, false},
		"hangs":                   {func(ctx context.Context, f found) (found, error) { <-ctx.Done(); return nil, ctx.Err() }, false, true},
		"panics":                  {func(context.Context, found) (found, error) { panic("boom") }, true, false},
		"has one that is damaged": {func(_ context.Context, f found) (found, error) { f[0].Err, f[0].OK = damaged, false; return f, nil }, true, false},
	} {
		t.Run(what, func(t *testing.T) {
			recs := []syncengine.Record{storetest.Tombstone("gone", 7)}
			ids := []string{"gone", "absent"}
			for i := range 16 { // two in a call are eight that fail: fewer in a row than open a circuit
				ids = append(ids, fmt.Sprint("id ", i))
				recs = append(recs, storetest.Put(ids[i+2], 5, "1"))
			}
			l3 := &manyArchive{ArchiveStore: l3With(t, recs...), many: c.many}
			h := syncengine.HouseOn(t, syncengine.Plan{L3: l3, Config: syncengine.Config{L3Timeout: time.Second, L3Breaker: syncengine.BreakerLenient}})
			ctx, cancel := context.WithCancel(context.Background()) // one that can end is not read with on the caller's goroutine
			defer cancel()
			for len(l3.shared) == 0 { // they came one after the other
				l3.alone = nil
				h.Reader.Invalidate(ids)
				var reads sync.WaitGroup
				for _, id := range ids {
					reads.Go(func() {
						it, err := h.Reader.Get(ctx, id)
						switch away := errors.Is(err, syncengine.ErrUnavailable); {
						case away && c.fails:
						case away:
							t.Errorf("%s: %v", id, err)
						case strings.HasPrefix(id, "id ") != (versionOf(t, it, err) == 5):
							t.Errorf("%s: %+v", id, it)
						}
					})
				}
				reads.Wait()
			}
			for _, ids := range l3.shared {
				if asked := slices.Contains(l3.alone, ids[0]); asked != c.alone {
					t.Errorf("%s, asked for with others, was asked for alone: %v, want %v", ids[0], asked, c.alone)
				}
			}
		})
	}
}

// manyCache notes the reads of single ids, and says what many is told to.
type manyCache struct {
	syncengine.CacheStore
	many func(ctx context.Context) error

	mu     sync.Mutex // guards the fields below
	shared [][]string
	alone  []string
}

func (c *manyCache) Get(ctx context.Context, id string) (syncengine.Record, error) {
	time.Sleep(50 * time.Microsecond) // as a server takes
	c.mu.Lock()
	c.alone = append(c.alone, id)
	c.mu.Unlock()
	return c.CacheStore.Get(ctx, id)
}

func (c *manyCache) GetMany(ctx context.Context, ids []string) ([]syncengine.Found, error) {
	c.mu.Lock()
	c.shared = append(c.shared, ids)
	c.mu.Unlock()
	if err := c.many(ctx); err != nil {
		return nil, err
	}
	return c.CacheStore.GetMany(ctx, ids)
}

// A part of a cluster may be away: the others answer. L3 is asked for what L2 does not answer
// alone.
func TestReadsThatWaitShareACallOfL2(t *testing.T) {
	for what, c := range map[string]struct {
		many     func(ctx context.Context) error
		alone    bool // those of a call are asked for alone
		fromL3   bool // and by L3
		timeouts time.Duration
	}{
		"an answer": {func(context.Context) error { return nil }, false, false, time.Minute},
		"fails":     {func(context.Context) error { return lab.ErrAway }, true, false, time.Minute},
		"hangs":     {func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }, false, true, 300 * time.Millisecond},
	} {
		t.Run(what, func(t *testing.T) {
			var ids []string
			var recs []syncengine.Record
			for i := range 40 {
				ids = append(ids, fmt.Sprint("id ", i))
				recs = append(recs, storetest.Put(ids[i], 5, "1"))
			}
			l2 := &manyCache{CacheStore: l2With(t, recs...), many: c.many}
			asked := &heard{}
			h := syncengine.HouseOn(t, syncengine.Plan{L2: l2, Config: syncengine.Config{L2Timeout: c.timeouts},
				L3: &lab.HookedArchive{ArchiveStore: l3With(t, recs...), OnGet: func() error { asked.note("asked"); return nil }}})
			ctx, cancel := context.WithCancel(context.Background()) // as above
			defer cancel()
			for len(l2.shared) == 0 { // they came one after the other
				l2.alone = nil
				h.Reader.Invalidate(ids)
				var reads sync.WaitGroup
				for _, id := range ids {
					reads.Go(func() {
						if it, err := h.Reader.Get(ctx, id); versionOf(t, it, err) != 5 {
							t.Errorf("%s: %+v", id, it)
						}
					})
				}
				reads.Wait()
			}
			for _, ids := range l2.shared {
				if alone := slices.Contains(l2.alone, ids[0]); alone != c.alone {
					t.Errorf("%s, asked for with others, was asked for alone: %v, want %v", ids[0], alone, c.alone)
				}
			}
			if byL3 := len(asked.words) > 0; byL3 != c.fromL3 {
				t.Errorf("L3 was asked: %v, want %v", byL3, c.fromL3)
			}
		})
	}
}
