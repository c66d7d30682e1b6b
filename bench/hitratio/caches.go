package main

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	"github.com/maypok86/otter/v2"

	"github.com/syncengine-go/syncengine"
)

const (
	// itemCost is what an item of itemBytes counts in all caches: its bytes and what the engine
	// adds for itself, some 194 bytes for the entry and 30 to 60 for what eviction remembers.
	itemBytes = 4000
	itemCost  = itemBytes + 240
)

// cache answers a read from memory, or loads the item. size is that of the content.
type cache interface {
	read(k uint32, size int) (hit bool)
	close() error
}

// engineCache is an engine on an L3 that has every item.
type engineCache struct {
	e   *syncengine.Engine
	l3  *everything
	dir string
}

func newEngine(room int64) (cache, error) {
	dir, err := os.MkdirTemp("", "hitratio-")
	if err != nil {
		return nil, err
	}
	l3 := &everything{}
	e, err := syncengine.Open(context.Background(), syncengine.Config{Dir: dir, L3: l3, L1MaxBytes: max(64<<10, room), L1MaxAge: 24 * time.Hour})
	return &engineCache{e, l3, dir}, err
}

func (c *engineCache) read(k uint32, size int) bool {
	c.l3.size, c.l3.asked = size, false
	if _, err := c.e.Get(context.Background(), fmt.Sprintf("k%03d", k)); err != nil {
		panic(err)
	}
	return !c.l3.asked
}

func (c *engineCache) close() error {
	return errors.Join(c.e.Close(), os.RemoveAll(c.dir))
}

// everything is an L3 that holds every id, with content of the size set.
type everything struct {
	syncengine.ArchiveStore // no other call is made
	size                    int
	asked                   bool
}

var content = func() []byte {
	b := make([]byte, 64<<10)
	for i := range b {
		b[i] = '1'
	}
	return b
}()

func (s *everything) Get(_ context.Context, id string) (syncengine.Record, error) {
	s.asked = true
	item, err := syncengine.NewItem(id, nil)
	item.Content, item.Version = content[:s.size-len(id)], 1
	return syncengine.Record{Item: item}, err
}

func (*everything) Prepare(context.Context) error { return nil }
func (*everything) Ping(context.Context) error    { return nil }
func (*everything) Close() error                  { return nil }

type otterCache struct{ c *otter.Cache[uint32, int] }

func newOtter(room int64) (cache, error) {
	return otterOf(otter.Options[uint32, int]{
		MaximumWeight: uint64(room),
		Weigher:       func(_ uint32, size int) uint32 { return uint32(size + itemCost - itemBytes) },
	})
}

// newCountingOtter is for items of one size: otter finds more when it counts than when it weighs.
func newCountingOtter(room int64) (cache, error) {
	return otterOf(otter.Options[uint32, int]{MaximumSize: int(room / itemCost)})
}

func otterOf(o otter.Options[uint32, int]) (cache, error) {
	o.Executor = func(fn func()) { fn() } // not in the background: the same in each run
	c, err := otter.New(&o)
	return &otterCache{c}, err
}

func (c *otterCache) read(k uint32, size int) bool {
	_, hit := c.c.GetIfPresent(k)
	if !hit {
		c.c.Set(k, size)
	}
	c.c.CleanUp()
	return hit
}

func (c *otterCache) close() error { return nil }

// lru is the textbook's.
type lru struct {
	room, used int64
	at         map[uint32]*list.Element
	order      *list.List // newest first
}

type lruItem struct {
	k    uint32
	cost int64
}

func newLRU(room int64) (cache, error) {
	return &lru{room: room, at: make(map[uint32]*list.Element), order: list.New()}, nil
}

func (c *lru) read(k uint32, size int) bool {
	if el, ok := c.at[k]; ok {
		c.order.MoveToFront(el)
		return true
	}
	it := lruItem{k, int64(size + itemCost - itemBytes)}
	c.at[k] = c.order.PushFront(it)
	for c.used += it.cost; c.used > c.room; {
		old := c.order.Remove(c.order.Back()).(lruItem)
		delete(c.at, old.k)
		c.used -= old.cost
	}
	return false
}

func (c *lru) close() error { return nil }

// random evicts anybody.
type random struct {
	room, used int64
	at         map[uint32]int
	all        []lruItem
	rng        *rand.Rand
}

func newRandom(room int64) (cache, error) {
	return &random{room: room, at: make(map[uint32]int), rng: rand.New(rand.NewPCG(3, 4))}, nil
}

func (c *random) read(k uint32, size int) bool {
	if _, ok := c.at[k]; ok {
		return true
	}
	it := lruItem{k, int64(size + itemCost - itemBytes)}
	c.at[k] = len(c.all)
	c.all = append(c.all, it)
	for c.used += it.cost; c.used > c.room; {
		i, last := c.rng.IntN(len(c.all)), len(c.all)-1
		old := c.all[i]
		c.all[i] = c.all[last]
		c.at[c.all[i].k] = i
		c.all = c.all[:last]
		delete(c.at, old.k)
		c.used -= old.cost
	}
	return false
}

func (c *random) close() error { return nil }
