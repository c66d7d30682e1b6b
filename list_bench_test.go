package syncengine_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
)

// BenchmarkAll lists 100,000 items, beside a loop over one SELECT by hand of ids, versions and
// contents, which checks no hash and holds its connection meanwhile. ns/op is of one item.
func BenchmarkAll(b *testing.B) {
	const items = 100_000
	for _, srv := range lab.SQLServers {
		b.Run(srv.Name, func(b *testing.B) {
			ctx := context.Background()
			url := srv.URL(b)
			e := openBench(b, syncengine.Config{SQLURL: url})
			group := make([]syncengine.Item, 1000)
			for n := 0; n < items; n += len(group) {
				for i := range group {
					group[i] = syncengine.Item{ID: fmt.Sprintf("bench:item:%08d", n+i), Content: benchContent}
				}
				_, err := e.SubmitMany(ctx, group)
				lab.Must(b, err)
			}
			lab.Must(b, e.Flush(ctx))
			raw := srv.Raw(b, url)
			b.Run("All", func(b *testing.B) {
				b.ReportAllocs()
				for n := 0; n < b.N; {
					for _, err := range e.All(ctx, "") {
						lab.Must(b, err)
						if n++; n >= b.N {
							break
						}
					}
				}
			})
			b.Run("SELECT", func(b *testing.B) {
				b.ReportAllocs()
				for n := 0; n < b.N; {
					rows, err := raw.QueryContext(ctx, "SELECT id, version, content FROM sync_items ORDER BY id")
					lab.Must(b, err)
					for n < b.N && rows.Next() {
						var id string
						var version uint64
						var content []byte
						lab.Must(b, rows.Scan(&id, &version, &content))
						n++
					}
					lab.Must(b, rows.Close())
				}
			})
		})
	}
}
