package bench

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/maypok86/otter/v2"
	"github.com/puzpuzpuz/xsync/v3"

	"github.com/syncengine-go/syncengine"
)

const keys = 200_000

// BenchmarkGet reads ids at random from memory, from all processors, out of the engine, a raw
// xsync map, and otter with statistics.
func BenchmarkGet(b *testing.B) {
	ctx := context.Background()
	ids := make([]string, keys)
	content := []byte(`{"pad":"` + strings.Repeat("x", 290) + `"}`)
	for n := range ids {
		ids[n] = fmt.Sprintf("item:%09d", n)
	}
	run := func(name string, get func(id string) bool) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for i := uint32(7919); pb.Next(); i = i*1664525 + 1013904223 {
					if !get(ids[i%keys]) {
						b.Error("a miss")
					}
				}
			})
		})
	}

	m := xsync.NewMapOf[string, *syncengine.Item]()
	o := otter.Must(&otter.Options[string, syncengine.Item]{MaximumSize: 2 * keys})
	e, err := syncengine.Open(ctx, syncengine.Config{Dir: b.TempDir(), L1MaxBytes: 1 << 30, L1MaxAge: time.Hour, Durability: syncengine.Buffered})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = e.Close() }()
	for _, id := range ids {
		id = strings.Clone(id) // as everywhere but in benchmarks: a key equal by pointer would not be compared
		it, err := syncengine.NewItem(id, nil)
		if err != nil {
			b.Fatal(err)
		}
		it.Content = content
		m.Store(id, &it)
		o.Set(id, it)
		if err := e.Submit(ctx, it); err != nil {
			b.Fatal(err)
		}
	}
	if err := e.Flush(ctx); err != nil {
		b.Fatal(err)
	}
	run("xsync", func(id string) bool { p, ok := m.Load(id); it := *p; return ok && len(it.Content) > 0 })
	run("otter", func(id string) bool { it, ok := o.GetIfPresent(id); return ok && len(it.Content) > 0 })
	run("engine", func(id string) bool { it, err := e.Get(ctx, id); return err == nil && len(it.Content) > 0 })
}
