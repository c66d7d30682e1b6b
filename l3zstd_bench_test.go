//go:build compression

package syncengine_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"testing"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
)

// packages are documents of some kilobytes: what `go list -json std` says of each package.
func packages(b *testing.B) (docs [][]byte) {
	text, err := exec.Command("go", "list", "-json", "std").Output()
	lab.Must(b, err)
	for dec := json.NewDecoder(bytes.NewReader(text)); dec.More(); {
		var one json.RawMessage
		lab.Must(b, dec.Decode(&one))
		var compact bytes.Buffer
		lab.Must(b, json.Compact(&compact, one))
		docs = append(docs, compact.Bytes())
	}
	return docs
}

// BenchmarkCompression writes documents until they are in L3, with and without compression, and
// says how many bytes a document takes there.
func BenchmarkCompression(b *testing.B) {
	var small [][]byte
	for n := range 3000 {
		doc := small200(fmt.Sprint("user:", n), n)
		small = append(small, fmt.Appendf(doc[:len(doc)-1], `,"phone":"+49 30 %07d","locale":"de-DE","plan":"monthly","tags":["new","mail"],"last_seen":"2026-12-%02dT%02d:%02d:00Z"}`,
			n*65_537%9_999_999, 1+n%31, n%24, n%59))
	}
	for _, kind := range []struct {
		name string
		docs [][]byte
	}{{"go list -json std", packages(b)}, {"300 bytes", small}} {
		for _, srv := range lab.SQLServers {
			for _, c := range []syncengine.Compression{syncengine.CompressionOff, syncengine.CompressionZstd, syncengine.CompressionZstdDictionary} {
				b.Run(fmt.Sprintf("%s/%s/%s", kind.name, srv.Name, cmp.Or(string(c), "off")), func(b *testing.B) {
					ctx := context.Background()
					url := srv.URL(b)
					lab.ArchiveAt(b, url)
					e := lab.OpenAsIs(b, syncengine.Config{SQLURL: url, Compression: c, WALNoSync: true})
					write := func(from, n int) {
						for i := from; i < from+n; i++ {
							lab.Must(b, e.Submit(ctx, syncengine.Item{ID: fmt.Sprint("doc-", i), Content: kind.docs[i%len(kind.docs)]}))
						}
						lab.Must(b, e.Flush(ctx))
					}
					write(0, 3000) // here a dictionary is trained
					b.ResetTimer()
					write(3000, b.N)
					b.StopTimer()
					var bytes float64
					lab.Must(b, srv.Raw(b, url).QueryRow("SELECT AVG(LENGTH(content)) FROM sync_items").Scan(&bytes))
					b.ReportMetric(bytes, "bytes/doc")
					b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "docs/s")
				})
			}
		}
	}
}
