package syncengine_test

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
)

// BenchmarkStore compares the typed calls with the untyped ones and encoding/json by hand.
func BenchmarkStore(b *testing.B) {
	type doc struct {
		Name string
		N    int
		Tags []string
	}
	ctx := context.Background()
	e := openBench(b, syncengine.Config{})
	s := syncengine.NewStore[doc](e, "doc.")
	v := doc{"a document", 7, []string{"a", "b"}}
	lab.Must(b, s.Put(ctx, "a", v))
	prefix, key := "doc.", "a"
	buffered := syncengine.WithDurability(syncengine.Buffered)
	run := func(name string, fn func() error) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for range b.N {
				lab.Must(b, fn())
			}
		})
	}
	run("Get typed", func() error { _, err := s.Get(ctx, key); return err })
	run("Get by hand", func() error {
		it, err := e.Get(ctx, prefix+key)
		if err != nil {
			return err
		}
		var v doc
		return json.Unmarshal(it.Content, &v)
	})
	run("Put typed", func() error { return s.Put(ctx, key, v, buffered) })
	run("Put by hand", func() error {
		content, err := json.Marshal(v)
		if err != nil {
			return err
		}
		return e.Submit(ctx, syncengine.Item{ID: prefix + key, Content: content}, buffered)
	})
}
