package syncengine_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
)

// BenchmarkSubmitEach compares an import with groups of 1000 by hand. ns/op is of one item.
func BenchmarkSubmitEach(b *testing.B) {
	ctx := context.Background()
	b.Run("SubmitEach", func(b *testing.B) {
		e := openBench(b, syncengine.Config{L3: nullArchive{}})
		b.ReportAllocs()
		r, err := e.SubmitEach(ctx, func(yield func(syncengine.Item) bool) {
			for n := range b.N {
				if !yield(syncengine.Item{ID: fmt.Sprintf("bench:item:%08d", n), Content: benchContent}) {
					return
				}
			}
		}, syncengine.EachOptions{})
		if lab.Must(b, err); r.Succeeded != b.N {
			b.Errorf("%d of %d", r.Succeeded, b.N)
		}
	})
	b.Run("SubmitMany", func(b *testing.B) {
		e := openBench(b, syncengine.Config{L3: nullArchive{}})
		b.ReportAllocs()
		group := make([]syncengine.Item, 0, 1000)
		for n := range b.N {
			group = append(group, syncengine.Item{ID: fmt.Sprintf("bench:item:%08d", n), Content: benchContent})
			if len(group) == cap(group) || n == b.N-1 {
				_, err := e.SubmitMany(ctx, group)
				lab.Must(b, err)
				group = group[:0]
			}
		}
	})
}
