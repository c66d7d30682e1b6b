package syncengine_test

import (
	"context"
	"database/sql"
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

// BenchmarkMillion does with b.N items what is done with all of them at once: All lists them,
// DeletePrefix deletes them, until L3 has that, and Expire is that their time comes, until the
// engine has purged them. ns/op is of one id, heap-MiB the largest heap meanwhile.
//
// Beside it, and for some seconds without it before ("alone"), each every millisecond: a Get of an
// item in memory, a Get that mostly has to ask L3, and a Submit at Logged. The latency of a call is
// counted from when it was due, if the one before it was late. refused-% are Submits that met
// ErrBackpressure. Run it with -benchtime 1000000x -timeout 3h.
func BenchmarkMillion(b *testing.B) {
	type work func(b *testing.B, e *syncengine.Engine, raw *sql.DB)
	for _, srv := range lab.SQLServers {
		for _, w := range []struct {
			name string
			do   work
		}{{"All", listMillion}, {"DeletePrefix", deleteMillion}, {"Expire", expireMillion}} {
			b.Run(srv.Name+"/"+w.name, func(b *testing.B) {
				url := srv.URL(b)
				fillMillion(b, url)
				raw := srv.Raw(b, url)
				e := openBench(b, syncengine.Config{SQLURL: url, L1MaxBytes: 16 << 20})
				lab.Trusted(b, e)
				alone := startBeside(b, e, 0)
				time.Sleep(aloneFor)
				alone.end()
				w.do(b, e, raw)
				alone.report(b, "-alone") // what is reported before ResetTimer is lost
			})
		}
	}
}

const (
	aloneFor    = 5 * time.Second
	besideEvery = time.Millisecond
	besideHot   = 100
	besideCold  = 100_000 // more than fit into memory
)

// fillMillion writes b.N items, and those that are read beside.
func fillMillion(b *testing.B, url string) {
	ctx := context.Background()
	store, err := syncengine.OpenSQLStore(url)
	lab.Must(b, err)
	lab.Must(b, store.Prepare(ctx))
	recs := make([]syncengine.Record, 0, 1000)
	put := func(rec syncengine.Record) {
		if recs = append(recs, rec); len(recs) == cap(recs) {
			lab.Must(b, lab.Applied(store.Apply(ctx, recs)))
			recs = recs[:0]
		}
	}
	for n := range besideCold {
		put(storetest.Put(besideID(n), 1, string(benchContent)))
	}
	for n := range b.N {
		rec := storetest.Put(fmt.Sprintf("million:%09d", n), 1, string(benchContent))
		rec.ExpiresAt = time.Now().Add(24 * time.Hour).Truncate(time.Millisecond).UTC()
		put(rec)
	}
	lab.Must(b, lab.Applied(store.Apply(ctx, recs)))
	lab.Must(b, store.Close())
}

func besideID(n int) string { return fmt.Sprintf("beside:%06d", n) }

func listMillion(b *testing.B, e *syncengine.Engine, _ *sql.DB) {
	beside := startBeside(b, e, besideCold/2)
	n := 0
	b.ResetTimer()
	for _, err := range e.All(context.Background(), "million:") {
		lab.Must(b, err)
		n++
	}
	b.StopTimer()
	beside.done(b)
	if n != b.N {
		b.Fatalf("listed %d items, want %d", n, b.N)
	}
}

func deleteMillion(b *testing.B, e *syncengine.Engine, _ *sql.DB) {
	ctx := context.Background()
	beside := startBeside(b, e, besideCold/2)
	n, pauses := 0, 0
	b.ResetTimer()
	for {
		some, err := e.DeletePrefix(ctx, "million:")
		if n += some; err == nil {
			break
		}
		var full *syncengine.BackpressureError
		if !errors.As(err, &full) {
			b.Fatal(err)
		}
		pauses++ // it goes on where it has ended
		time.Sleep(max(full.RetryAfter, 10*time.Millisecond))
	}
	accepted := b.Elapsed()
	lab.Must(b, e.Flush(ctx))
	b.StopTimer()
	beside.done(b)
	if n < b.N {
		b.Fatalf("deleted %d items, want %d", n, b.N)
	}
	for it, err := range e.All(ctx, "million:") {
		b.Fatalf("%q is left, %v", it.ID, err)
	}
	b.ReportMetric(float64(accepted.Nanoseconds())/float64(b.N), "accepted-ns/op")
	b.ReportMetric(float64(pauses), "pauses")
}

// expireMillion has the time of all items come at once, behind the engine's back: it has not read
// one of them.
func expireMillion(b *testing.B, e *syncengine.Engine, raw *sql.DB) {
	ctx := context.Background()
	at := time.Now()
	_, err := raw.ExecContext(ctx, "UPDATE sync_items SET expires_at = ? WHERE expires_at IS NOT NULL", at.UnixMilli())
	lab.Must(b, err)
	if strings.HasSuffix(b.Name(), "MariaDB/Expire") { // whose store finds them there
		_, err = raw.ExecContext(ctx, "UPDATE sync_due SET at = ? WHERE kind = 2", at.UnixMilli())
		lab.Must(b, err)
	}
	beside := startBeside(b, e, besideCold/2)
	b.ResetTimer()
	for e.Stats().Expired < uint64(b.N) {
		time.Sleep(time.Millisecond)
	}
	b.StopTimer()
	beside.done(b)
	var left int
	lab.Must(b, raw.QueryRowContext(ctx, "SELECT COUNT(*) FROM sync_items WHERE deleted = 0 AND expires_at IS NOT NULL").Scan(&left))
	if left != 0 {
		b.Fatalf("%d items are left", left)
	}
}

// beside are calls beside other work.
type beside struct {
	b       *testing.B
	stop    chan struct{}
	wg      sync.WaitGroup
	kinds   []string
	took    [][]time.Duration // by kind
	refused []int             // the same
	heap    func() uint64
	endHeap func()
}

// startBeside starts the calls. Of the items that are read from L3 it begins with one of a number.
func startBeside(b *testing.B, e *syncengine.Engine, first int) *beside {
	ctx := context.Background()
	s := &beside{b: b, stop: make(chan struct{})}
	peak, stop := watchHeap()
	s.heap, s.endHeap = peak.Load, stop
	get := func(ids int) func(int) error {
		return func(n int) error {
			_, err := e.Get(ctx, besideID((first+n)*7919%ids))
			return err
		}
	}
	for n := range besideHot {
		lab.Must(b, get(besideHot)(n))
	}
	s.start("get", get(besideHot))
	s.start("get-sql", get(besideCold))
	s.start("submit", func(n int) error {
		return e.Submit(ctx, syncengine.Item{ID: fmt.Sprintf("written:%06d", n%10_000), Content: benchContent})
	})
	return s
}

// start makes calls of one kind, each when it is due.
func (s *beside) start(kind string, call func(n int) error) {
	k := len(s.kinds)
	s.kinds, s.took, s.refused = append(s.kinds, kind), append(s.took, nil), append(s.refused, 0)
	s.wg.Add(1)
	go func() {
		defer s.wg.Done()
		var took []time.Duration
		refused := 0
		due := time.Now()
		for n := 0; ; n++ {
			due = due.Add(besideEvery)
			from := due
			if wait := time.Until(due); wait > 0 {
				select {
				case <-time.After(wait):
				case <-s.stop:
				}
				from = time.Now() // a timer that is late is not the engine's fault
			}
			select {
			case <-s.stop:
				s.took[k], s.refused[k] = took, refused
				return
			default:
			}
			switch err := call(n); {
			case errors.Is(err, syncengine.ErrBackpressure):
				refused++
			case err != nil:
				s.b.Errorf("%s: %v", kind, err)
			}
			took = append(took, time.Since(from))
		}
	}()
}

func (s *beside) end() {
	close(s.stop)
	s.wg.Wait()
	s.endHeap()
}

// done ends the calls, and reports them.
func (s *beside) done(b *testing.B) {
	s.end()
	s.report(b, "")
}

func (s *beside) report(b *testing.B, tail string) {
	b.ReportMetric(float64(s.heap())/(1<<20), "heap"+tail+"-MiB")
	for k, kind := range s.kinds {
		took := s.took[k]
		if len(took) == 0 {
			continue
		}
		slices.Sort(took)
		for name, at := range map[string]int{"p50": len(took) / 2, "p99": len(took) * 99 / 100, "max": len(took) - 1} {
			b.ReportMetric(float64(took[at].Nanoseconds())/1e3, kind+"-"+name+tail+"-µs")
		}
		if kind == "submit" {
			b.ReportMetric(100*float64(s.refused[k])/float64(len(took)), "refused"+tail+"-%")
		}
	}
}
