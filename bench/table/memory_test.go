package table

// memory_test.go are the rows about what happens in memory alone.

import (
	"bytes"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/Yiling-J/theine-go"
	"github.com/dgraph-io/ristretto/v2"
	"github.com/maypok86/otter/v2"
	"github.com/puzpuzpuz/xsync/v3"

	"github.com/syncengine-go/syncengine"
)

const (
	cached = 200_000   // ids in memory
	reads  = 4_000_000 // of a measurement
)

var memoryRows = []row{
	{work: "Get, in memory, beside otter v2", goal: 1, ours: engineHits, theirs: otterHits},
	{work: "Get, in memory, beside ristretto v2", goal: 1, ours: engineHits, theirs: ristrettoHits},
	{work: "Get, in memory, beside theine", goal: 1, ours: engineHits, theirs: theineHits},
	{work: "Get of an absent id, beside a Get that hits", goal: 3, ours: engineMisses, theirs: engineHits},
	{work: "Submit, Buffered, one caller, beside storing a copy in an xsync map", ours: buffered, theirs: copies},
	{work: "Submit, Buffered, one caller", goal: 1500, unit: "ns", figure: func(t *testing.T) float64 { return float64(buffered(t)) }},
	{work: "Submit, Buffered, allocations", goal: 3, rounds: 1, unit: "", figure: allocations},
	{work: "memory of an item in L1 beside id and content", goal: 200, rounds: 1, unit: "bytes", figure: beside},
}

// inMemory is what is looked at, made once for the whole run.
var inMemory = sync.OnceValue(func() (m struct{ ids, absent []string }) {
	for _, id := range idsOf(cached) {
		m.ids = append(m.ids, strings.Clone(id))
		m.absent = append(m.absent, "absent:"+id)
	}
	return m
})

// random reads ids at random from two goroutines a processor, and returns the time of one read as
// each processor sees it.
func random(t *testing.T, ids []string, get func(id string) bool) time.Duration {
	t.Helper()
	const callers = 2
	var wg sync.WaitGroup
	start := time.Now()
	for c := range uint32(callers) {
		wg.Go(func() {
			i := c*7919 + 1
			for range reads / callers {
				i = i*1664525 + 1013904223
				if !get(ids[(i>>7)%uint32(len(ids))]) {
					t.Error("not what was stored")
					return
				}
			}
		})
	}
	wg.Wait()
	return time.Since(start) * callers / reads
}

func items() (all []syncengine.Item) {
	for _, id := range inMemory().ids {
		// The caches' keys are other strings than those that are asked for: a key that is equal by
		// pointer would not be compared.
		all = append(all, syncengine.Item{ID: strings.Clone(id), Version: 1, Content: bytes.Clone(document)})
	}
	return all
}

func looksRight(it *syncengine.Item) bool { return len(it.ID) > 0 && len(it.Content) == len(document) }

func full(t *testing.T) *syncengine.Engine {
	e := open(t, syncengine.Config{L1MaxBytes: 1 << 30, L1MaxAge: time.Hour, Durability: syncengine.Buffered})
	for _, it := range items() {
		ok(t, e.Submit(ctx, syncengine.Item{ID: it.ID, Content: it.Content}))
	}
	ok(t, e.Flush(ctx))
	await(t, func() bool { return e.Stats().FilterTrusted })
	return e
}

func engineHits(t *testing.T) time.Duration {
	e := full(t)
	defer whole(t, e)
	return random(t, inMemory().ids, func(id string) bool {
		it, err := e.Get(ctx, id)
		return err == nil && looksRight(&it)
	})
}

func engineMisses(t *testing.T) time.Duration {
	e := full(t)
	defer whole(t, e)
	return random(t, inMemory().absent, func(id string) bool {
		_, err := e.Get(ctx, id)
		return err == syncengine.ErrNotFound
	})
}

func otterHits(t *testing.T) time.Duration {
	c := otter.Must(&otter.Options[string, syncengine.Item]{MaximumSize: 2 * cached})
	for _, it := range items() {
		c.Set(it.ID, it)
	}
	return random(t, inMemory().ids, func(id string) bool { it, ok := c.GetIfPresent(id); return ok && looksRight(&it) })
}

func ristrettoHits(t *testing.T) time.Duration {
	c := must[*ristretto.Cache[string, syncengine.Item]](t)(ristretto.NewCache(&ristretto.Config[string, syncengine.Item]{
		NumCounters: 20 * cached, MaxCost: 2 * cached, BufferItems: 64, IgnoreInternalCost: true}))
	defer c.Close()
	for _, it := range items() {
		for !c.Set(it.ID, it, 1) { // it drops writes under load
			c.Wait()
		}
	}
	c.Wait()
	return random(t, inMemory().ids, func(id string) bool { it, ok := c.Get(id); return ok && looksRight(&it) })
}

func theineHits(t *testing.T) time.Duration {
	c := must[*theine.Cache[string, syncengine.Item]](t)(theine.NewBuilder[string, syncengine.Item](2 * cached).Build())
	defer c.Close()
	for _, it := range items() {
		c.Set(it.ID, it, 1)
	}
	return random(t, inMemory().ids, func(id string) bool { it, ok := c.Get(id); return ok && looksRight(&it) })
}

func buffered(t *testing.T) time.Duration {
	e := open(t, syncengine.Config{L1MaxBytes: 1 << 30, Durability: syncengine.Buffered, L3: nowhere{}})
	defer whole(t, e)
	ids := inMemory().ids
	return each(t, 1, 500_000, func(n int64) error {
		return e.Submit(ctx, syncengine.Item{ID: ids[n%cached], Content: document})
	})
}

func allocations(t *testing.T) float64 {
	e := open(t, syncengine.Config{L1MaxBytes: 1 << 30, Durability: syncengine.Buffered, L3: nowhere{}, BatchFlushInterval: time.Hour, BatchFlushCount: 100_000, BatchFlushBytes: 1 << 30})
	defer whole(t, e)
	ids := inMemory().ids[:10_000]
	for _, id := range ids {
		ok(t, e.Submit(ctx, syncengine.Item{ID: id, Content: document}))
	}
	ok(t, e.Flush(ctx))
	n := 0
	return testing.AllocsPerRun(len(ids)-1, func() {
		ok(t, e.Submit(ctx, syncengine.Item{ID: ids[n], Content: document}))
		n++
	})
}

// beside is what the heap grows by for an item, less its content and its id.
func beside(t *testing.T) float64 {
	ids := inMemory().ids
	e := open(t, syncengine.Config{L1MaxBytes: 1 << 30, L1MaxAge: time.Hour, Durability: syncengine.Buffered, L3: nowhere{}})
	defer whole(t, e)
	before := heap()
	for _, id := range ids {
		ok(t, e.Submit(ctx, syncengine.Item{ID: id, Content: document}))
	}
	ok(t, e.Flush(ctx))
	grown := heap() - before
	if e.Len() != len(ids) {
		t.Fatalf("%d of %d items are in memory", e.Len(), len(ids))
	}
	return float64(grown)/float64(len(ids)) - float64(len(document)+len(ids[0]))
}

func copies(t *testing.T) time.Duration {
	m, ids := xsync.NewMapOf[string, []byte](), inMemory().ids
	return each(t, 1, 500_000, func(n int64) error {
		m.Store(ids[n%cached], bytes.Clone(document))
		return nil
	})
}
