//go:build cluster

package cluster

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
)

func TestMain(m *testing.M) { lab.Main(m) }

var archived = syncengine.WithDurability(syncengine.Archived)

const (
	// seenAfter is when others' writes must be seen: L1MaxAge and two beats, and the time that a
	// slow machine takes.
	maxAge    = 100 * time.Millisecond
	seenAfter = maxAge + time.Second + time.Second
	l3Timeout = 2 * time.Second
	// noticed is when a failover of Redis must be: with the next beat, which is a call that a
	// dead node may hold up.
	noticed = 3 * time.Second
)

// load writes and reads ids on engines until it is stopped. Each id has one writer, which counts.
type load struct {
	engines []*syncengine.Engine
	opts    []syncengine.WriteOption
	ids     int // of each engine

	acked, tried []atomic.Int64 // the last number of each id
	writes       atomic.Int64   // acknowledged
	refused      atomic.Int64
	reads        atomic.Int64
	stale, brief atomic.Int64
	forgiven     atomic.Int64 // until when stale reads are brief ones; unix nanoseconds
	away         atomic.Int64 // an engine without L3, from 1: it serves of others' ids what it knows
	first        atomic.Pointer[string]

	mu    sync.Mutex // guards past
	past  []snapshot // of acked, the oldest first
	stop  context.CancelFunc
	tasks sync.WaitGroup
}

type snapshot struct {
	at    time.Time
	acked []int64
}

// start begins the load. opts are those of writes.
func start(engines []*syncengine.Engine, ids int, opts ...syncengine.WriteOption) *load {
	l := &load{engines: engines, opts: opts, ids: ids, acked: make([]atomic.Int64, ids*len(engines)), tried: make([]atomic.Int64, ids*len(engines))}
	ctx, stop := context.WithCancel(context.Background())
	l.stop = stop
	for n := range engines {
		for part := range 4 {
			l.tasks.Go(func() { l.write(ctx, n, part) })
		}
		for range 2 {
			l.tasks.Go(func() { l.read(ctx, n) })
		}
	}
	l.tasks.Go(func() { l.snap(ctx) })
	return l
}

func (l *load) id(n int) string { return fmt.Sprint("id", n) }

func (l *load) write(ctx context.Context, engine, part int) {
	for ctx.Err() == nil {
		n := engine*l.ids + part + 4*rand.IntN(l.ids/4)
		next := l.tried[n].Add(1)
		call, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := l.engines[engine].Submit(call, syncengine.Item{ID: l.id(n), Content: content(next)}, l.opts...)
		cancel()
		if err == nil {
			l.acked[n].Store(next)
			l.writes.Add(1)
		} else if ctx.Err() == nil {
			l.refused.Add(1)
			time.Sleep(time.Millisecond) // refused: as a caller that tries again
		}
		time.Sleep(200 * time.Microsecond) // a load, no overload
	}
}

// content is a number in so many bytes that memory has no room for many.
func content(n int64) []byte { return fmt.Appendf(nil, "%-2000d", n) }

func number(it syncengine.Item) int64 {
	n, _ := strconv.ParseInt(strings.TrimSpace(string(it.Content)), 10, 64)
	return n
}

func (l *load) read(ctx context.Context, engine int) {
	for ctx.Err() == nil {
		n := rand.IntN(len(l.acked))
		floor := l.acked[n].Load()
		if n/l.ids != engine {
			if floor = l.before(n); int(l.away.Load()) == engine+1 {
				floor = 0
			}
		}
		began := time.Now()
		it, err := l.engines[engine].Get(ctx, l.id(n))
		if ctx.Err() == nil { // else it may be what memory knows, since nobody could be asked
			l.reads.Add(1)
			l.judge(engine, n, floor, it, err, time.Since(began))
		}
		time.Sleep(100 * time.Microsecond) // a load, no overload
	}
}

// judge notes a read that answers with something older than floor. An error is no answer; and while
// L3 does not answer what is known is served.
func (l *load) judge(engine, n int, floor int64, it syncengine.Item, err error, took time.Duration) {
	got := int64(0)
	if err == nil {
		got = number(it)
	} else if !isAbsent(err) {
		return
	}
	if got >= floor {
		return
	}
	l3 := l.engines[engine].Health(context.Background()).L3
	if time.Now().UnixNano() < l.forgiven.Load() || n/l.ids != engine && (took >= l3Timeout || !l3.OK || l3.Circuit != "closed") {
		l.brief.Add(1)
		return
	}
	l.stale.Add(1)
	text := fmt.Sprintf("engine %d reads %d of %s, acknowledged was %d (%v, after %v, %+v)", engine, got, l.id(n), floor, err, took, l3)
	l.first.CompareAndSwap(nil, &text)
}

// snap remembers what was acknowledged when.
func (l *load) snap(ctx context.Context) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		s := snapshot{at: time.Now(), acked: make([]int64, len(l.acked))}
		for i := range l.acked {
			s.acked[i] = l.acked[i].Load()
		}
		l.mu.Lock()
		l.past = append(l.past, s)
		for len(l.past) > 1 && time.Since(l.past[1].at) > seenAfter {
			l.past = l.past[1:]
		}
		l.mu.Unlock()
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// before is what had been acknowledged of an id when all must have seen it by now.
func (l *load) before(n int) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.past) == 0 || time.Since(l.past[0].at) < seenAfter {
		return 0
	}
	return l.past[0].acked[n]
}

// run lets the load run until more writes are acknowledged.
func (l *load) run(t testing.TB, more int64) {
	t.Helper()
	upTo := l.writes.Load() + more
	lab.Eventually(t, "writes are acknowledged", func() bool { return l.writes.Load() >= upTo })
}

// end stops the load, and looks at all ids by all engines.
func (l *load) end(t testing.TB, recovered time.Duration) {
	t.Helper()
	l.stop()
	l.tasks.Wait()
	ended, ctx := time.Now(), lab.Bounded(t)
	for _, e := range l.engines {
		lab.Eventually(t, "what waits lands", func() bool { return e.Flush(ctx) == nil })
	}
	for _, e := range l.engines {
		lab.Eventually(t, "Redis is repaired", func() bool { return e.Stats().L2Missed == 0 })
	}
	lost := 0
	for n := range l.acked {
		floor, most := l.acked[n].Load(), l.tried[n].Load()
		for engine, e := range l.engines {
			var got int64
			lab.Eventually(t, l.id(n)+" is what was written last", func() bool {
				it, err := e.GetVerified(ctx, l.id(n))
				if err != nil && !isAbsent(err) {
					return false
				}
				if got = 0; err == nil {
					got = number(it)
				}
				return got >= floor || time.Since(ended) > seenAfter
			})
			if got < floor || got > most {
				lost++
				t.Errorf("engine %d holds %d of %s; acknowledged was %d, tried %d", engine, got, l.id(n), floor, most)
			}
		}
	}
	if text := l.first.Load(); text != nil {
		t.Error(*text)
	}
	t.Logf("%d acknowledged, %d refused, %d read; lost %d, stale %d (and %d while a server was away); recovered after %v",
		l.writes.Load(), l.refused.Load(), l.reads.Load(), lost, l.stale.Load(), l.brief.Load(), recovered.Round(10*time.Millisecond))
}

func isAbsent(err error) bool { return errors.Is(err, syncengine.ErrNotFound) }

// onNode is a URL of the same database on another node.
func onNode(t testing.TB, raw, addr string) string {
	t.Helper()
	u, err := url.Parse(raw)
	lab.Must(t, err)
	u.Host = addr
	return u.String()
}
