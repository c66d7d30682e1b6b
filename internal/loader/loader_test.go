package loader

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

var errBroken = errors.New("broken")

type (
	group = Group[int, string, string]
	load  = Load[int, string, string]
)

// result is what a caller gets.
type result struct {
	v   string
	err error
}

// call is one of a stage, which stands until it is told what to do with its loads.
type call struct {
	stage int
	keys  []int
	own   bool // a caller makes it itself
	do    chan func(loads []*load)
}

// gated is a group of two stages whose calls stand. It runs in a bubble of synctest.
func gated(most int) (*group, chan *call) {
	calls := make(chan *call, 100)
	g := &group{Spawn: func(f func()) { go f() }}
	for stage := range 2 {
		g.Stages = append(g.Stages, Stage[int, string, string]{Most: most, Ask: func(loads []*load) {
			c := &call{stage: stage, own: loads[0].Itself, do: make(chan func([]*load))}
			for _, l := range loads {
				c.keys = append(c.keys, l.Key)
			}
			calls <- c
			(<-c.do)(loads)
		}})
	}
	return g, calls
}

func answerAll(loads []*load) {
	for _, l := range loads {
		l.Answer(fmt.Sprint(l.Key, l.About), nil)
	}
}

func passAll(loads []*load) {
	for _, l := range loads {
		l.Pass(1)
	}
}

// asking begins a Do from the first stage on.
func asking(ctx context.Context, g *group, key int, stamp uint64, itself bool) chan result {
	out := make(chan result, 1)
	go func() {
		v, err := g.Do(ctx, key, stamp, "!", 0, itself)
		out <- result{v, err}
	}()
	synctest.Wait()
	return out
}

// took makes g believe that calls take so long, and that none hangs.
func took(g *group, d time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.lines = make([]line[int, string, string], len(g.Stages))
	g.loads = map[int]*load{}
	for i := range g.lines {
		g.lines[i].took = d
	}
}

func idle(t *testing.T, g *group) {
	t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	for at, in := range g.lines {
		if in.busy != 0 || len(in.waiting) != 0 || in.left != 0 {
			t.Errorf("at the end, of stage %d: %+v", at, in)
		}
	}
	if len(g.loads) != 0 || g.itself {
		t.Errorf("at the end %d loads are left; a caller asks itself: %v", len(g.loads), g.itself)
	}
}

func (c *call) want(t *testing.T, stage int, keys ...int) {
	t.Helper()
	if c.stage != stage || !slices.Equal(c.keys, keys) {
		t.Errorf("stage %d is asked for %v, want %d, %v", c.stage, c.keys, stage, keys)
	}
}

// two takes the next two calls, which came in any order: first that for which is says so.
func two(calls chan *call, is func(*call) bool) (that, other *call) {
	that, other = <-calls, <-calls
	if !is(that) {
		return other, that
	}
	return that, other
}

func want(t *testing.T, from chan result, v string, err error) {
	t.Helper()
	if r := <-from; r.v != v || !errors.Is(r.err, err) {
		t.Errorf("%q, %v, want %q, %v", r.v, r.err, v, err)
	}
}

func TestLoadsThatWaitShareACall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, calls := gated(4)
		took(g, Worth/2)
		out := map[int]chan result{}
		for key := range 7 {
			out[key] = asking(t.Context(), g, key, 0, false)
		}
		one, other := <-calls, <-calls
		if len(one.keys) != 1 || len(other.keys) != 1 || len(calls) != 0 {
			t.Fatalf("two that find nothing under way begin calls: %v, %v, and %d more", one.keys, other.keys, len(calls))
		}
		one.do <- passAll
		synctest.Wait() // it goes on with those that wait, and what it passed on is asked for
		four, passed := two(calls, func(c *call) bool { return c.stage == 0 })
		four.want(t, 0, 2, 3, 4, 5)
		passed.want(t, 1, one.keys[0])
		four.do <- answerAll
		synctest.Wait()
		last := <-calls
		last.want(t, 0, 6)
		for _, c := range []*call{other, last, passed} {
			c.do <- answerAll
		}
		for key, from := range out {
			want(t, from, fmt.Sprint(key, "!"), nil)
		}
		idle(t, g)
	})
}

// A server that is far away is asked by more at once, and one that hangs by all.
func TestCallsThatTakeLongAreMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, calls := gated(4)
		took(g, 5*Worth)
		var out []chan result
		for key := range 9 {
			out = append(out, asking(t.Context(), g, key, 0, false))
		}
		if len(calls) != 7 {
			t.Errorf("%d calls are under way, want 7", len(calls))
		}
		time.Sleep(11 * Worth)
		out = append(out, asking(t.Context(), g, 9, 0, false))
		if len(calls) != 8 {
			t.Fatalf("%d calls are under way, want one more", len(calls))
		}
		for range 7 {
			(<-calls).do <- answerAll
		}
		late := <-calls
		late.want(t, 0, 7, 8, 9)
		time.Sleep(9 * Worth)
		late.do <- answerAll
		synctest.Wait()
		if took := g.lines[0].took; took < 8*Worth || took > 10*Worth {
			t.Errorf("calls take %v, after seven that took %v and one that took %v", took, 11*Worth, 9*Worth)
		}
		for key, from := range out {
			want(t, from, fmt.Sprint(key, "!"), nil)
		}
		idle(t, g)
	})
}

// When nothing was under way for long, nothing hangs.
func TestABurstAfterAPauseSharesCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, calls := gated(4)
		for range 3 {
			var out []chan result
			for key := range 6 {
				out = append(out, asking(t.Context(), g, key, 0, key == 0))
			}
			if len(calls) != 2 {
				t.Errorf("%d calls are under way, want 2", len(calls))
			}
			(<-calls).do <- answerAll
			synctest.Wait()
			for range 2 {
				(<-calls).do <- answerAll
			}
			for key, from := range out {
				want(t, from, fmt.Sprint(key, "!"), nil)
			}
			time.Sleep(time.Hour)
		}
		idle(t, g)
	})
}

// While nobody comes, Tick notices that what is under way hangs.
func TestATickBeginsWhatWaitsForCallsThatHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, calls := gated(2)
		took(g, Worth/2)
		var out []chan result
		for key := range 5 {
			out = append(out, asking(t.Context(), g, key, 0, false))
		}
		g.Tick()
		synctest.Wait()
		if len(calls) != 2 {
			t.Fatalf("the first tick: %d calls", len(calls))
		}
		g.Tick()
		synctest.Wait()
		if len(calls) != 4 {
			t.Fatalf("the second tick: %d calls", len(calls))
		}
		for range 4 {
			(<-calls).do <- answerAll
		}
		for key, from := range out {
			want(t, from, fmt.Sprint(key, "!"), nil)
		}
		g.Tick()
		idle(t, g)
	})
}

// While calls hang, there are no more of them than may be; what nobody waits for any more does not
// pile up behind them, and goes nowhere when they are back.
func TestCallsThatHangAreBounded(t *testing.T) {
	for _, most := range []int{1, 2} {
		synctest.Test(t, func(t *testing.T) {
			g, calls := gated(most)
			g.Stages[0].Calls = 3
			ctx, leave := context.WithCancel(t.Context())
			var left []chan result
			for key := range 100 {
				left = append(left, asking(ctx, g, key, 0, false))
				time.Sleep(time.Second)
				g.Tick()
				synctest.Wait()
			}
			staying := asking(t.Context(), g, 50, 0, false)
			last := asking(t.Context(), g, 200, 0, false)
			leave()
			for _, from := range left {
				want(t, from, "", context.Canceled)
			}
			back := asking(t.Context(), g, 2*most+3, 0, false) // one that was given up, it may be
			g.mu.Lock()
			if n := len(g.loads); n > 3*most+3 {
				t.Errorf("%d loads are left when their callers are not", n)
			}
			g.mu.Unlock()
			if len(calls) != 3 {
				t.Fatalf("%d calls are under way, want 3", len(calls))
			}
			for range 3 {
				(<-calls).do <- passAll // nobody is there to ask the next stage for
			}
			synctest.Wait()
			for len(calls) > 0 {
				c := <-calls
				if c.stage != 0 {
					t.Errorf("stage %d is asked for %v, which nobody waits for", c.stage, c.keys)
				}
				c.do <- answerAll
				synctest.Wait()
			}
			want(t, staying, "50!", nil)
			want(t, last, "200!", nil)
			want(t, back, fmt.Sprint(2*most+3, "!"), nil)
			idle(t, g)
		})
	}
}

// One that leaves ends no load, and takes nobody's place.
func TestCallersOfOneStampShareALoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, calls := gated(4)
		gone, cancel := context.WithCancel(t.Context())
		first := asking(gone, g, 1, 7, false)
		second := asking(t.Context(), g, 1, 7, false)
		cancel()
		want(t, first, "", context.Canceled)
		newer := asking(t.Context(), g, 1, 8, false)
		third := asking(t.Context(), g, 1, 8, false)
		old, fresh := <-calls, <-calls
		if len(calls) != 0 {
			t.Fatalf("%d calls too many", len(calls))
		}
		old.do <- func(loads []*load) { loads[0].Answer("old", nil) }
		want(t, second, "old", nil)
		fourth := asking(t.Context(), g, 1, 8, false)
		if len(calls) != 0 {
			t.Error("the end of the older load has ended the newer one, too")
		}
		fresh.do <- func(loads []*load) { loads[0].Answer("fresh", errBroken) }
		for _, from := range []chan result{newer, third, fourth} {
			want(t, from, "fresh", errBroken)
		}
		idle(t, g)
	})
}

func TestAStageThatFailsToAnswerIsAnError(t *testing.T) {
	for what, do := range map[string]func([]*load){
		"boom":           func(loads []*load) { loads[0].Answer("0!", nil); panic("boom") },
		ErrGone.Error():  func(loads []*load) { loads[0].Answer("0!", nil); runtime.Goexit() },
		"was given up":   func(loads []*load) { loads[0].Answer("0!", nil) },
		"and the others": func(loads []*load) { answerAll(loads[:1]); passAll(loads[1:]); runtime.Goexit() },
	} {
		synctest.Test(t, func(t *testing.T) {
			g, calls := gated(4)
			took(g, Worth/2)
			first := []chan result{asking(t.Context(), g, 5, 0, false), asking(t.Context(), g, 6, 0, false)}
			a, b := asking(t.Context(), g, 0, 0, false), asking(t.Context(), g, 1, 0, false)
			(<-calls).do <- answerAll
			synctest.Wait()
			other := <-calls
			shared := <-calls
			shared.want(t, 0, 0, 1)
			late := asking(t.Context(), g, 2, 0, false)
			shared.do <- do
			synctest.Wait()
			for range len(calls) {
				(<-calls).do <- answerAll
			}
			want(t, a, "0!", nil)
			if r := <-b; (what == "and the others") != (r.err == nil) || r.err != nil && !strings.Contains(r.err.Error(), what) {
				t.Errorf("%s: %+v", what, r)
			}
			want(t, late, "2!", nil)
			other.do <- answerAll
			want(t, first[0], "5!", nil)
			want(t, first[1], "6!", nil)
			synctest.Wait()
			idle(t, g)
		})
	}
	g := &group{Stages: []Stage[int, string, string]{{Most: 4, Ask: func([]*load) { panic("boom") }}}}
	for range 2 {
		if _, err := g.Do(t.Context(), 1, 0, "", 0, true); err == nil || !strings.Contains(err.Error(), "boom") {
			t.Errorf("a caller's own panic: %v", err)
		}
	}
	idle(t, g)
}

// What a caller asks itself may end with it, and those who wait for it begin anew then.
func TestACallerAsksItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, calls := gated(4)
		gone, cancel := context.WithCancel(t.Context())
		left := asking(gone, g, 1, 0, true)
		second := asking(t.Context(), g, 1, 0, true)
		third := asking(t.Context(), g, 1, 0, false)
		other := asking(t.Context(), g, 2, 0, true) // one at a time asks itself
		c, byGoroutine := two(calls, func(c *call) bool { return c.own })
		if len(calls) != 0 {
			t.Fatalf("%d calls too many", len(calls))
		}
		c.do <- passAll // its caller goes on
		synctest.Wait()
		c = <-calls
		c.want(t, 1, 1)
		cancel()
		c.do <- func(loads []*load) {
			if !loads[0].Itself || loads[0].Caller != gone {
				t.Errorf("the call of a caller: %+v", loads[0])
			}
			loads[0].Answer("", loads[0].Caller.Err())
		}
		want(t, left, "", context.Canceled)
		synctest.Wait() // both of the others have begun anew
		again := <-calls
		again.want(t, 0, 1)
		again.do <- answerAll
		byGoroutine.do <- func(loads []*load) {
			if loads[0].Itself {
				t.Error("two callers ask themselves")
			}
			answerAll(loads)
		}
		want(t, second, "1!", nil)
		want(t, third, "1!", nil)
		want(t, other, "2!", nil)
		if len(calls) != 0 {
			t.Errorf("%d calls too many", len(calls))
		}
		idle(t, g)
	})
}

// What waits behind a caller that asks itself does not wait for the others.
func TestACallersPlaceIsHandedOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, calls := gated(4)
		took(g, Worth/2)
		var out []chan result
		for key := range 3 {
			out = append(out, asking(t.Context(), g, key, 0, key == 0))
		}
		own, other := two(calls, func(c *call) bool { return c.own })
		own.want(t, 0, 0)
		own.do <- answerAll
		third := <-calls
		third.want(t, 0, 2)
		third.do <- answerAll
		other.do <- answerAll
		for key, from := range out {
			want(t, from, fmt.Sprint(key, "!"), nil)
		}
		idle(t, g)
	})
}

// Of one load a call, none waits for another.
func TestLoadsOfAStageForOneDontWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, calls := gated(1)
		took(g, Worth/2)
		var out []chan result
		for key := range 5 {
			out = append(out, asking(t.Context(), g, key, 0, false))
		}
		if len(calls) != 5 {
			t.Errorf("%d calls are under way", len(calls))
		}
		for range 5 {
			(<-calls).do <- answerAll
		}
		for key, from := range out {
			want(t, from, fmt.Sprint(key, "!"), nil)
		}
		idle(t, g)
	})
}

// TestNoAnswerIsOlderThanItsQuestion: with callers that leave at any moment, calls that fail, and
// what is passed on.
func TestNoAnswerIsOlderThanItsQuestion(t *testing.T) {
	var now, shared, itself atomic.Int64
	g := &Group[int, int64, [2]int64]{Spawn: func(f func()) { go f() }}
	for stage := range 2 {
		g.Stages = append(g.Stages, Stage[int, int64, [2]int64]{Most: 8, Ask: func(loads []*Load[int, int64, [2]int64]) {
			at := now.Add(1)
			if len(loads) > 1 {
				shared.Add(1)
			}
			ctx := context.Background()
			if loads[0].Itself {
				itself.Add(1)
				ctx = loads[0].Caller
			}
			time.Sleep(time.Duration(rand.IntN(100)) * time.Microsecond) // as a server takes
			for _, l := range loads {
				switch n := rand.IntN(20); {
				case ctx.Err() != nil:
					l.Answer([2]int64{}, ctx.Err())
				case n == 0:
					l.Answer([2]int64{}, errBroken)
				case n < 8 && stage == 0:
					l.Pass(1)
				default:
					l.Answer([2]int64{int64(l.Key), at}, nil)
				}
			}
		}})
	}
	var work sync.WaitGroup
	for range 24 {
		work.Go(func() {
			for range 500 {
				ctx, cancel := context.WithCancel(context.Background())
				if rand.IntN(4) == 0 {
					time.AfterFunc(time.Duration(rand.IntN(150))*time.Microsecond, cancel)
				}
				key, asked := rand.IntN(60), now.Add(1)
				// A stamp that nobody else has: what is joined may have begun before.
				got, err := g.Do(ctx, key, uint64(asked), asked, 0, rand.IntN(2) == 0)
				if err == nil && (got[0] != int64(key) || got[1] <= asked) {
					t.Errorf("the answer to %d of %d is %v", key, asked, got)
				}
				if err != nil && !errors.Is(err, errBroken) && ctx.Err() == nil {
					t.Errorf("an error of somebody else: %v", err)
				}
				cancel()
			}
		})
	}
	work.Wait()
	for {
		g.mu.Lock()
		left := len(g.loads)
		for _, in := range g.lines {
			left += in.busy + len(in.waiting)
		}
		g.mu.Unlock()
		if left == 0 {
			break
		}
		runtime.Gosched() // until what was left behind has ended; if it does not, go test says so
	}
	if shared.Load() == 0 || itself.Load() == 0 {
		t.Errorf("%d calls were shared, %d were a caller's", shared.Load(), itself.Load())
	}
}
