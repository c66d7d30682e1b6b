package syncengine_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

// BenchmarkOutage takes L3 away, submits b.N writes at Logged from 64 callers with an
// L1MaxBytes of 4 MiB, brings L3 back and waits until it holds all of them. It reports what
// was accepted a second during the outage, the largest heap, and how fast the drain was; the
// loop beside it writes the same rows in batches of 1000 to a store of the same kind. Run it
// with -benchtime 1000000x.
func BenchmarkOutage(b *testing.B) {
	for name, url := range map[string]func(b *testing.B) string{
		"sqlite":  func(b *testing.B) string { return "sqlite:" + b.TempDir() + "/l3.db" },
		"mariadb": func(b *testing.B) string { return testserver.SharedMariaDB(b).NewDatabase(b) },
	} {
		store := func(b *testing.B) syncengine.ArchiveStore {
			s, err := syncengine.OpenSQLStore(url(b))
			lab.Must(b, err)
			b.Cleanup(func() { _ = s.Close() })
			lab.Must(b, s.Prepare(context.Background()))
			return s
		}
		b.Run(name+"/loop", func(b *testing.B) { loopBench(b, store(b)) })
		b.Run(name+"/engine", func(b *testing.B) { outageBench(b, store(b)) })
	}
}

// outageItem is the nth write: ids in no order, each twice when there are fewer than b.N.
func outageItem(n, ids int) syncengine.Item {
	return syncengine.Item{ID: fmt.Sprintf("item:%09d", n*7919%ids), Content: benchContent}
}

func outageIDs(writes int) int { return max(1, writes*9/10) }

func loopBench(b *testing.B, store syncengine.ArchiveStore) {
	ctx := context.Background()
	recs := make([]syncengine.Record, 0, 1000)
	for n := range b.N {
		r := syncengine.Record{Item: outageItem(n, outageIDs(b.N))}
		r.Version, r.UpdatedAt, r.ContentHash = uint64(n+1), time.Now(), sha256.Sum256(r.Content)
		if recs = append(recs, r); len(recs) == cap(recs) || n == b.N-1 {
			lab.Must(b, lab.Applied(store.Apply(ctx, recs)))
			recs = recs[:0]
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "rows/s")
}

func outageBench(b *testing.B, store syncengine.ArchiveStore) {
	ctx := context.Background()
	l3 := &lab.FaultyArchive{ArchiveStore: store}
	e := openBench(b, syncengine.Config{L3: l3, L1MaxBytes: 4 << 20, WALMaxItems: 10_000_000, WALMaxBytes: 8 << 30, OnEvent: syncengine.Events{}})
	l3.Away.Store(true)
	var n atomic.Int64
	ids := outageIDs(b.N)
	peak, stop := watchHeap()
	b.SetParallelism(32)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := e.Submit(ctx, outageItem(int(n.Add(1)-1), ids)); err != nil {
				b.Error(err)
				return
			}
		}
	})
	outage := b.Elapsed()
	if err := e.Flush(ctx); !errors.Is(err, syncengine.ErrUnavailable) {
		b.Fatalf("Flush during the outage: %v", err)
	}
	pending := e.Stats().PendingOps
	l3.Away.Store(false)
	back := time.Now()
	for e.Flush(ctx) != nil {
		runtime.Gosched()
	}
	drain := time.Since(back)
	b.StopTimer()
	stop()
	if pending != b.N {
		b.Fatalf("%d ops were pending, want all %d", pending, b.N)
	}
	rows := 0
	for after := ""; ; {
		page, err := store.Scan(ctx, after, 10_000)
		lab.Must(b, err)
		if len(page) == 0 {
			break
		}
		rows, after = rows+len(page), page[len(page)-1].ID
	}
	if rows != ids {
		b.Fatalf("L3 holds %d rows, want %d", rows, ids)
	}
	b.ReportMetric(0, "ns/op") // outage and drain together say nothing
	b.ReportMetric(float64(b.N)/outage.Seconds(), "accepted/s")
	b.ReportMetric(float64(b.N)/drain.Seconds(), "drained/s")
	b.ReportMetric(float64(peak.Load())/(1<<20), "peak-heap-MiB")
}

// watchHeap notes the largest live heap until stop is called.
func watchHeap() (peak *atomic.Uint64, stop func()) {
	peak = new(atomic.Uint64)
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				peak.Store(max(peak.Load(), m.HeapAlloc))
			case <-done:
				return
			}
		}
	}()
	return peak, func() { close(done); <-ended }
}
