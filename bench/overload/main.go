// Command overload finds how many Logged writes a second an engine on SQLite sustains, and
// then offers a half, one, two and four times as many from an open-loop generator, which
// goes on at its rate whatever becomes of its calls. For each it prints what was accepted,
// refused and landed in L3 (the goodput), how long the calls and reads from memory beside them
// took, and the process's memory. Disks are seldom as fast in one minute as in the next, so it does
// so in several rounds, each load beside a closed loop, and compares what they come to together.
//
//	go run ./overload [-for 5s] [-rounds 3] [-l1 16] [-wal 20000]
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"github.com/syncengine-go/syncengine"
)

func main() {
	d := flag.Duration("for", 5*time.Second, "how long each load lasts")
	rounds := flag.Int("rounds", 3, "how often")
	l1 := flag.Int64("l1", 16, "L1MaxBytes in MiB")
	wal := flag.Int64("wal", 20_000, "WALMaxItems")
	flag.Parse()
	if err := run(*d, *rounds, syncengine.Config{L1MaxBytes: *l1 << 20, WALMaxItems: *wal}); err != nil {
		log.Fatal(err)
	}
}

const (
	hotIDs = 1000    // are read
	ids    = 100_000 // are written
)

var content = []byte(`{"pad":"` + strings.Repeat("x", 290) + `"}`)

func run(d time.Duration, rounds int, cfg syncengine.Config) (err error) {
	if cfg.Dir, err = os.MkdirTemp("", "overload-"); err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(cfg.Dir) }()
	ctx := context.Background()
	e, err := syncengine.Open(ctx, cfg)
	if err != nil {
		return err
	}
	for n := range hotIDs {
		if err := e.Submit(ctx, syncengine.Item{ID: fmt.Sprint("hot-", n), Content: content}); err != nil {
			return err
		}
	}
	for n := range ids {
		for e.Submit(ctx, syncengine.Item{ID: fmt.Sprint("id-", n), Content: content}, syncengine.WithDurability(syncengine.Buffered)) != nil {
			time.Sleep(time.Millisecond) // until the WAL has room
		}
	}
	out := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(out, "offered/s\taccepted/s\trefused/s\tat level\tgoodput/s\tof closed loop\taccepted p50 p99 p99.9 ms\trefused p99 ms\tGet p50 p99 p99.9 µs\tpeak RSS MiB\tnormal after s\t")
	closed := &load{e: e, d: d}
	loads := []*load{closed}
	for _, times := range []float64{.5, 1, 2, 4} {
		loads = append(loads, &load{e: e, d: d, times: times})
	}
	for range rounds {
		for _, l := range loads[1:] {
			if err := closed.run(ctx, 0); err != nil {
				return err
			}
			if err := l.run(ctx, l.times*closed.goodput()); err != nil {
				return err
			}
		}
	}
	for _, l := range loads {
		l.print(out, closed.goodput())
	}
	_ = out.Flush()
	return e.Close()
}

// load is what came of a load in all rounds.
type load struct {
	e     *syncengine.Engine
	times float64 // of what the closed loop sustains; 0 is the closed loop
	d     time.Duration

	mu                    sync.Mutex
	accepted, refused, of []time.Duration // how long calls took
	levels                map[syncengine.BackpressureLevel]int
	offered               int
	landed                uint64
	took                  time.Duration
	rss                   int64
	recovery              time.Duration // the longest
}

// goodput is what landed in L3 in a second.
func (l *load) goodput() float64 { return float64(l.landed) / l.took.Seconds() }

func (l *load) submit(ctx context.Context) error {
	start := time.Now()
	err := l.e.Submit(ctx, syncengine.Item{ID: "id-" + strconv.FormatUint(rand.Uint64N(ids), 10), Content: content})
	took := time.Since(start)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.offered++
	var bp *syncengine.BackpressureError
	switch {
	case err == nil:
		l.accepted = append(l.accepted, took)
	case errors.As(err, &bp):
		l.refused = append(l.refused, took)
		l.levels[bp.Level]++
	default:
		log.Print(err)
	}
	return err
}

// run is one round. Rate 0 is the closed loop: 64 writers, each at its own pace, that wait a
// little after a refusal.
func (l *load) run(ctx context.Context, rate float64) error {
	if l.levels == nil {
		l.levels = make(map[syncengine.BackpressureLevel]int)
	}
	if err := l.e.Flush(ctx); err != nil {
		return err
	}
	var done atomic.Bool
	var aside, calls sync.WaitGroup
	aside.Go(func() { // reads of what is in memory
		for !done.Load() {
			start := time.Now()
			if _, err := l.e.Get(ctx, fmt.Sprint("hot-", rand.IntN(hotIDs))); err != nil {
				log.Print(err)
			}
			l.of = append(l.of, time.Since(start))
			l.rss = max(l.rss, rss())
			time.Sleep(500 * time.Microsecond)
		}
	})
	start, before := time.Now(), l.e.Stats().FlushedOps
	if rate == 0 {
		for range 64 {
			calls.Go(func() {
				for time.Since(start) < l.d {
					if l.submit(ctx) != nil {
						time.Sleep(5 * time.Millisecond)
					}
				}
			})
		}
		calls.Wait()
	} else {
		for n := 0; time.Since(start) < l.d; n++ {
			if ahead := time.Duration(float64(n)/rate*1e9) - time.Since(start); ahead > time.Millisecond {
				time.Sleep(ahead)
			}
			calls.Go(func() { _ = l.submit(ctx) })
		}
	}
	l.landed += l.e.Stats().FlushedOps - before
	l.took += time.Since(start)
	calls.Wait()
	done.Store(true)
	aside.Wait()
	end := time.Now()
	for l.e.Backpressure() != syncengine.LevelNormal {
		time.Sleep(time.Millisecond)
	}
	l.recovery = max(l.recovery, time.Since(end))
	return nil
}

func (l *load) print(out *tabwriter.Writer, sustained float64) {
	s := l.took.Seconds()
	fmt.Fprintf(out, "%.0f\t%.0f\t%.0f\t%v\t%.0f\t%.0f %%\t%s\t%s\t%s\t%d\t%.2f\t\n", float64(l.offered)/s, float64(len(l.accepted))/s, float64(len(l.refused))/s,
		l.levels, l.goodput(), 100*l.goodput()/sustained, at(l.accepted, time.Millisecond, .5, .99, .999), at(l.refused, time.Millisecond, .99),
		at(l.of, time.Microsecond, .5, .99, .999), l.rss>>20, l.recovery.Seconds())
}

// at returns quantiles in a unit.
func at(ds []time.Duration, unit time.Duration, qs ...float64) string {
	if len(ds) == 0 {
		return "-"
	}
	slices.Sort(ds)
	var texts []string
	for _, q := range qs {
		texts = append(texts, fmt.Sprintf("%.1f", float64(ds[int(q*float64(len(ds)-1))])/float64(unit)))
	}
	return strings.Join(texts, " ")
}

// rss is the memory of this process, in bytes; 0 where /proc does not tell.
func rss() int64 {
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	pages, _ := strconv.ParseInt(strings.Fields(string(b))[1], 10, 64)
	return pages * int64(os.Getpagesize())
}
