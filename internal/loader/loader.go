// Package loader finds things on servers for many callers at once. Callers that want the same
// thing share one load, as with golang.org/x/sync/singleflight; and loads that wait for the same
// server go there in one call, as a group commit does for writes.
//
// # How it works
//
// A load goes through stages, of which each asks one server: one that does not answer a load
// passes it on. Who finds fewer calls of a stage under way than there may be begins one, for its
// own load alone. The others wait, and a call that comes back goes on with all that wait. So the
// more callers there are, the more of them share a call, its deadline, its round trip.
//
// What is gained is some ten microseconds of processor a load, on both sides, and that is worth no
// long wait. So two calls may be under way, and one more for each Worth that calls take: then one
// comes back about that often. A server that is far away, or reads from a disk, is asked by all at
// once. If none has come back, or was the first to go, for twice as long as they took, something
// hangs, and who comes begins one; for those that wait while nobody comes, Tick does. In all, no
// more are under way than the stage says.
//
// A call is begun after its loads were: an answer is never older than what began its load. A load
// is joined only by those who could have begun it: each caller brings a stamp, and one that has
// seen something newer begins its own.
//
// A call ends by itself, not with its callers: one that leaves gives up only its own wait. A load
// that nobody waits for any more is in no further call. Only what a caller asks itself, without a
// goroutine, may end with it: others that wait begin anew then.
//
// The goroutines are those that Spawn starts: each lives while loads wait.
package loader

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// Worth is about how long a load waits for others at most, on average.
const Worth = 250 * time.Microsecond

// ErrGone is the result of a load whose stage has ended its goroutine (runtime.Goexit), or has
// neither answered it nor passed it on.
var ErrGone = errors.New("the load was given up")

// Stage asks one server.
type Stage[K comparable, A, V any] struct {
	// Most is how many loads a call is for at most. With 1 none waits for another.
	Most int
	// Calls is how many may be under way at most, 0 for any number.
	Calls int
	// Ask asks for loads. It must call Answer or Pass for each. A panic is an error of all of those
	// for which it has not.
	Ask func(loads []*Load[K, A, V])
}

// Load is something that callers want.
type Load[K comparable, A, V any] struct {
	Key K
	// About is what the caller who began it knows.
	About A
	// Caller is the context of that one. Only if Itself is set, and its end with it, a call may end
	// with it.
	Caller context.Context
	Itself bool

	stamp uint64
	stage int           // where it goes next
	who   int           // callers that wait for it
	line  bool          // it waits for a call
	ready bool          // it has been answered
	done  chan struct{} // closed at the end
	v     V             // valid then
	err   error
}

// Answer ends a load.
func (l *Load[K, A, V]) Answer(v V, err error) { l.v, l.err, l.ready = v, err, true }

// Pass passes a load on to a stage.
func (l *Load[K, A, V]) Pass(stage int) { l.stage = stage }

// Group holds the loads under way. Its upper-case fields are set before it is used.
type Group[K comparable, A, V any] struct {
	Stages []Stage[K, A, V]
	Spawn  func(func()) // starts a goroutine

	mu     sync.Mutex // guards the fields below
	loads  map[K]*Load[K, A, V]
	lines  []line[K, A, V] // one a stage
	itself bool            // a caller asks itself
}

// line is what waits for a stage.
type line[K comparable, A, V any] struct {
	waiting []*Load[K, A, V]
	left    int            // those of them that nobody waits for
	stuck   *Load[K, A, V] // the first of them at the last Tick
	busy    int            // calls under way
	took    time.Duration  // calls lately
	back    time.Time      // when the last one came back, or one began while there was none
}

// Do returns what the stages, from the given one on, find for a key. It joins the newest load under
// way if that has the same stamp. With itself, ctx may be asked with on the caller's own goroutine.
// When ctx ends first, its error is returned.
func (g *Group[K, A, V]) Do(ctx context.Context, key K, stamp uint64, about A, stage int, itself bool) (V, error) {
	for {
		l, own := g.join(ctx, key, stamp, about, stage, itself)
		if own {
			g.askItself(l)
			return l.v, l.err
		}
		select {
		case <-l.done:
			if l.Itself && l.err != nil && l.Caller.Err() != nil { // that one has left
				continue
			}
			return l.v, l.err
		case <-ctx.Done():
			g.leave(l)
			var none V
			return none, ctx.Err()
		}
	}
}

// join returns the load under way that a caller takes part in, or a new one, which it is to make
// itself if own is set.
func (g *Group[K, A, V]) join(ctx context.Context, key K, stamp uint64, about A, stage int, itself bool) (l *Load[K, A, V], own bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if l = g.loads[key]; l != nil && l.stamp == stamp {
		if l.who++; l.who == 1 && l.line {
			g.lines[l.stage].left--
		}
		return l, false
	}
	if g.loads == nil {
		g.loads = make(map[K]*Load[K, A, V])
		g.lines = make([]line[K, A, V], len(g.Stages))
	}
	l = &Load[K, A, V]{Key: key, About: about, Caller: ctx, stamp: stamp, stage: stage, who: 1, done: make(chan struct{}), err: ErrGone}
	g.loads[key] = l
	if in := &g.lines[stage]; itself && !g.itself && len(in.waiting) == 0 {
		l.Itself, g.itself = true, true
		in.goes(time.Now())
		return l, true
	}
	g.wait(l, time.Now())
	return l, false
}

// leave is for a caller who does not wait for a load any more.
func (g *Group[K, A, V]) leave(l *Load[K, A, V]) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if l.who--; l.who > 0 || !l.line {
		return
	}
	in := &g.lines[l.stage]
	if in.left++; in.left > len(in.waiting)/2 {
		g.drop(in)
	}
}

// drop ends the loads in a line that nobody waits for. g.mu is held.
func (g *Group[K, A, V]) drop(in *line[K, A, V]) {
	if in.left == 0 {
		return
	}
	in.left = 0
	in.waiting = slices.DeleteFunc(in.waiting, func(l *Load[K, A, V]) bool {
		if l.who == 0 {
			g.end(l)
		}
		return l.who == 0
	})
}

// wait puts a load into the line of its stage, and begins a call if there may be one. g.mu is held.
func (g *Group[K, A, V]) wait(l *Load[K, A, V], now time.Time) {
	at := l.stage
	in := &g.lines[at]
	in.waiting, l.line = append(in.waiting, l), true
	if g.mayBegin(at) && (g.Stages[at].Most == 1 || in.busy < 2+int(in.took/Worth) || now.Sub(in.back) > 2*max(in.took, Worth)) {
		g.begin(at, now)
	}
}

// mayBegin reports whether there may be another call of a stage at all. g.mu is held.
func (g *Group[K, A, V]) mayBegin(at int) bool {
	most := g.Stages[at].Calls
	return most == 0 || g.lines[at].busy < most
}

// begin begins a call of a stage for which loads wait. g.mu is held.
func (g *Group[K, A, V]) begin(at int, now time.Time) {
	loads := g.take(at)
	if len(loads) == 0 { // nobody waits for them any more
		return
	}
	g.lines[at].goes(now)
	g.Spawn(func() { g.work(at, loads) })
}

// goes counts a call that begins.
func (in *line[K, A, V]) goes(now time.Time) {
	if in.busy++; in.busy == 1 {
		in.back = now
	}
}

// take takes loads out of the line of a stage. g.mu is held.
func (g *Group[K, A, V]) take(at int) []*Load[K, A, V] {
	in := &g.lines[at]
	g.drop(in)
	n := min(len(in.waiting), g.Stages[at].Most)
	loads := slices.Clone(in.waiting[:n])
	in.waiting = slices.Delete(in.waiting, 0, n)
	for _, l := range loads {
		l.line = false
	}
	return loads
}

// work asks for loads, and then for those that wait, until none does.
func (g *Group[K, A, V]) work(at int, loads []*Load[K, A, V]) {
	defer func() {
		if len(loads) > 0 { // Ask has ended this goroutine
			g.Spawn(func() { g.work(at, loads) })
		}
	}()
	for len(loads) > 0 {
		began, asked := time.Now(), loads
		func() {
			defer func() { loads = g.next(at, began, asked) }()
			g.ask(at, asked)
		}()
	}
}

// ask makes one call.
func (g *Group[K, A, V]) ask(at int, loads []*Load[K, A, V]) {
	for _, l := range loads {
		l.stage = -1
	}
	defer func() {
		if p := recover(); p != nil {
			for _, l := range loads {
				if !l.ready && l.stage < 0 {
					l.err = fmt.Errorf("panic: %v", p)
				}
			}
		}
	}()
	g.Stages[at].Ask(loads)
}

// next ends a call of a stage and what it has answered, passes on the rest, and returns what a call
// may go on with.
func (g *Group[K, A, V]) next(at int, began time.Time, asked []*Load[K, A, V]) []*Load[K, A, V] {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	g.came(at, began, now)
	for _, l := range asked {
		if !l.ready && l.stage >= 0 && l.who > 0 {
			g.wait(l, now)
			continue
		}
		g.end(l)
	}
	loads := g.take(at)
	if len(loads) == 0 {
		g.lines[at].busy--
	}
	return loads
}

// came notes that a call has come back. g.mu is held.
func (g *Group[K, A, V]) came(at int, began, now time.Time) {
	in := &g.lines[at]
	in.back = now
	in.took += (now.Sub(began) - in.took) / 8
}

// end ends a load. g.mu is held.
func (g *Group[K, A, V]) end(l *Load[K, A, V]) {
	if g.loads[l.Key] == l { // else a newer one has taken its place
		delete(g.loads, l.Key)
	}
	close(l.done)
}

// askItself takes a caller's own load through the stages.
func (g *Group[K, A, V]) askItself(l *Load[K, A, V]) {
	defer func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.itself = false
		g.end(l)
	}()
	for at := l.stage; at >= 0; {
		at = g.askAt(at, l)
	}
}

// askAt takes a caller's own load through one stage, and returns the next, or -1.
func (g *Group[K, A, V]) askAt(at int, l *Load[K, A, V]) (next int) {
	next = -1
	began := time.Now()
	defer func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		now := time.Now()
		g.came(at, began, now)
		in := &g.lines[at]
		in.busy--
		if len(in.waiting) > 0 {
			g.begin(at, now)
		}
		if next >= 0 {
			g.lines[next].goes(now)
		}
	}()
	g.ask(at, []*Load[K, A, V]{l})
	if !l.ready {
		next = l.stage
	}
	return next
}

// Tick begins calls for all that waits, if some of it did at the last one: those under way hang.
func (g *Group[K, A, V]) Tick() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for at := range g.lines {
		in := &g.lines[at]
		if len(in.waiting) > 0 && in.waiting[0] == in.stuck {
			for len(in.waiting) > 0 && g.mayBegin(at) {
				g.begin(at, time.Now())
			}
		}
		in.stuck = nil
		if len(in.waiting) > 0 {
			in.stuck = in.waiting[0]
		}
	}
}
