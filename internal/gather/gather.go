// Package gather lets questions that wait at the same time share one call, as a group commit does
// for writes: reads of many callers that all go to one server take a round trip together.
//
// # How it works
//
// Who finds fewer calls under way than there may be asks by itself, so a lone caller pays for a
// lock and nothing else. All others wait. Who comes back hands its turn on to the first of those
// that wait, and that one asks for all of them. So the more callers there are, the more share a
// call.
//
// What is gained is some ten microseconds of processor a question, on both sides, and that is worth
// no long wait. So two calls may be under way, and one more for each Worth that calls take: then
// one comes back about that often. A server that is far away, or reads from a disk, is asked by all
// at once. If none has come back for twice as long as they took, something hangs, and who comes
// asks by itself.
//
// A question is sent after it was put: an answer is never older than its question.
//
// What fails for many is asked again by each of them alone, with the context that is its own: one
// whose caller has left, or a value that can't be read, takes nobody else's answer away.
//
// No goroutines.
package gather

import (
	"context"
	"slices"
	"sync"
	"time"
)

// Worth is about how long a question waits for others at most, on average.
const Worth = 250 * time.Microsecond

// Answer is what came of one question.
type Answer[V any] struct {
	Value V
	Err   error
}

// Group gathers questions. It must not be copied after its first use.
type Group[K, V any] struct {
	// Most is how many questions go in one call.
	Most int
	// One asks one question.
	One func(ctx context.Context, key K) (V, error)
	// Many asks several. The answers stand in the order of the keys. An error is about all of them.
	Many func(ctx context.Context, keys []K) ([]Answer[V], error)

	mu      sync.Mutex    // guards the fields below
	busy    int           // calls under way
	took    time.Duration // calls lately
	back    time.Time     // when the last one came back
	waiting []*question[K, V]
}

// question is one that waits.
type question[K, V any] struct {
	key  K
	left bool            // its caller has left
	turn chan turn[K, V] // cap 1
}

// turn ends the waiting: ask for all of lead; or, if that is empty, here is the answer.
type turn[K, V any] struct {
	lead   []*question[K, V]
	answer *Answer[V] // nil: ask alone
}

// Do returns the answer for a key, or an error of One, or that of ctx.
func (g *Group[K, V]) Do(ctx context.Context, key K) (V, error) {
	g.mu.Lock()
	now := time.Now()
	if g.busy < 2+int(g.took/Worth) || now.Sub(g.back) > 2*g.took {
		g.busy++
		g.mu.Unlock()
		defer g.handOn(now)
		return g.One(ctx, key)
	}
	q := &question[K, V]{key: key, turn: make(chan turn[K, V], 1)}
	g.waiting = append(g.waiting, q)
	g.mu.Unlock()
	select {
	case t := <-q.turn:
		switch {
		case len(t.lead) > 1:
			t.answer = g.lead(ctx, t.lead)
		case len(t.lead) == 1:
			defer g.handOn(time.Now())
			return g.One(ctx, key)
		}
		if t.answer == nil {
			return g.One(ctx, key)
		}
		return t.answer.Value, t.answer.Err
	case <-ctx.Done():
		g.leave(q)
		var none V
		return none, ctx.Err()
	}
}

// handOn gives a turn to those that wait, or back, after a call that began at a time.
func (g *Group[K, V]) handOn(began time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.back = time.Now()
	g.took += (g.back.Sub(began) - g.took) / 8
	g.next()
}

// next is handOn without a call. mu is held.
func (g *Group[K, V]) next() {
	n := min(len(g.waiting), g.Most)
	if n == 0 {
		g.busy--
		return
	}
	lead := slices.Clone(g.waiting[:n])
	g.waiting = slices.Delete(g.waiting, 0, n)
	lead[0].turn <- turn[K, V]{lead: lead}
}

// lead asks for all of qs, of which the first is the caller's own, and tells the others. It returns
// nil for nothing.
func (g *Group[K, V]) lead(ctx context.Context, qs []*question[K, V]) (own *Answer[V]) {
	var answers []Answer[V]
	began := time.Now()
	defer func() { // also if Many panics
		for i, q := range qs[1:] {
			t := turn[K, V]{}
			if answers != nil {
				t.answer = &answers[i+1]
			}
			q.turn <- t
		}
		g.handOn(began)
	}()
	keys := make([]K, len(qs))
	for i, q := range qs {
		keys[i] = q.key
	}
	got, err := g.Many(ctx, keys)
	if err != nil || len(got) != len(qs) {
		return nil
	}
	answers = got
	return &answers[0]
}

// leave is for one whose caller has left. A turn that it was given meanwhile goes to the next.
func (g *Group[K, V]) leave(q *question[K, V]) {
	g.mu.Lock()
	defer g.mu.Unlock()
	q.left = true
	if i := slices.Index(g.waiting, q); i >= 0 {
		g.waiting = slices.Delete(g.waiting, i, i+1)
		return
	}
	select {
	case t := <-q.turn:
		if len(t.lead) == 0 {
			return
		}
		rest := slices.DeleteFunc(t.lead, func(q *question[K, V]) bool { return q.left })
		if len(rest) == 0 {
			g.next()
			return
		}
		rest[0].turn <- turn[K, V]{lead: rest}
	default: // it is in another's call, which does not wait for it
	}
}
