package syncengine

// fleet.go knows whether this engine is the only one that writes to L3. Replicas of a service
// share one L3; that needs no configuration. But only an engine that is alone may let its
// filter deny an id (INV-7), and needn't look for others' writes (L1MaxAge).
//
// # How it works
//
// Every engine has a row in a table of L3 (l3fleet.go) and beats: it reads the other rows,
// then notes in its own which of them it has noticed.
//
//  1. An engine that comes writes nothing to L3 before each of those that were there has
//     noticed it, or was removed because it stopped beating. Until then its ops wait, at Logged
//     in the WAL. Those that come later see its row before they write.
//  2. An engine that notices another is not alone from that moment on; only then does it say
//     that it has noticed.
//  3. Being alone is a lease: it ends by itself, measured by this engine's own clock from
//     before the beat that proved it, well before anybody may take the engine for dead.
//  4. Whoever was taken for dead can't write any more: its row is gone, and L3's transactions
//     demand the row (a fence). It joins anew.
//
// So while an engine is alone, nobody else has written to L3 since it last was not, also across an
// outage in which the lease lapsed: its row is still there, so nobody could come without being
// noticed. company counts the times at which this was not so, and since is when the first look at
// the table found that it is: what was read of L3 before may be from before a write of those that
// have left.
//
// On the SQLite file in Dir no other engine is meant to write, so the engine is alone always. Its
// row is there all the same, so that one that reads the file trusts nothing. An L3 of the caller's
// own that keeps no table: never.
//
// Trust drives it (warmup.go): join from its first write, step from the loop "fleet".

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	beatEvery  = 500 * time.Millisecond
	fleetLease = 5 * time.Second
	// aloneProof is how long one beat proves that the engine is alone. The rest of the lease is
	// room for clocks of different speed.
	aloneProof = fleetLease - time.Second
	joinPoll   = 50 * time.Millisecond
)

type fleet struct {
	reg     registrar // nil: L3 keeps no table
	private bool      // nobody else is meant to write to L3
	time    *fleetTime
	id      string // of this engine's row
	name    string
	call    func(ctx context.Context, op string, fn func(context.Context) error) error
	// noticed is told when the others know of this engine: from then on they tell it what they
	// write.
	noticed func()
	// remember notes ids of rows of this Dir's engines durably, so that the next one can remove
	// what a crash leaves behind.
	remember func(ctx context.Context, ids []string) error

	joined  atomic.Bool
	company atomic.Uint64 // times at which others may have written
	// until when the engine is alone: by the monotonic clock since start, and by the wall clock,
	// which also runs while a machine sleeps.
	start     time.Time
	since     atomic.Int64 // when the time alone began, 0 for none; monotonic since start
	untilMono atomic.Int64
	untilWall atomic.Int64

	mu     sync.Mutex // guards the fields below, and that one goroutine joins or steps
	ticket int64
	next   string             // what this engine is to be called that has no ticket
	dead   []string           // rows of earlier engines on this Dir
	known  map[string]sighted // the others
	still  []member           // those of them that have stopped beating

	// shown is what the last look saw, for people: mu is held while servers are asked.
	shown atomic.Pointer[Fleet]
}

// sighted is when a member was first seen, and when with its present count of beats.
type sighted struct {
	beats     int64
	first, at time.Time
}

func newFleet(name string) *fleet {
	return &fleet{name: name, time: newFleetTime(), start: time.Now(), known: make(map[string]sighted), noticed: func() {}}
}

// alone reports whether no other engine writes to L3 at this moment.
func (f *fleet) alone() bool {
	if f.private {
		return true
	}
	_, ok := f.aloneNow()
	return ok
}

// aloneNow returns the time since start if the lease has not ended.
func (f *fleet) aloneNow() (now int64, ok bool) {
	mono := f.untilMono.Load()
	if mono == 0 {
		return 0, false
	}
	t := time.Now()
	now = int64(t.Sub(f.start))
	return now, now < mono && t.UnixNano() < f.untilWall.Load()
}

// aloneFor returns for how long this engine has been alone, 0 if it is not.
func (f *fleet) aloneFor() time.Duration {
	if f.private {
		return math.MaxInt64
	}
	now, ok := f.aloneNow()
	since := f.since.Load() // not before: a time alone that has begun since is short, and that is safe
	if since == 0 || !ok {
		return 0
	}
	return time.Duration(now - since)
}

// lapse ends the time alone.
func (f *fleet) lapse() {
	f.untilMono.Store(0)
	f.since.Store(0)
	f.company.Add(1)
}

// join makes sure that this engine may write: it has a row, and those that were there before
// have noticed it. It waits for that, at most until ctx ends.
func (f *fleet) join(ctx context.Context) error {
	if f.reg == nil || f.joined.Load() {
		return nil
	}
	tick := time.NewTicker(joinPoll)
	defer tick.Stop()
	for {
		if ok, err := f.tryJoin(ctx); ok || err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// tryJoin is join without waiting for the others. It beats, since engines that come at the
// same time wait for it; the owner of a private file never does.
func (f *fleet) tryJoin(ctx context.Context) (ok bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.reg == nil || f.joined.Load() {
		return true, nil
	}
	if f.ticket == 0 {
		if err := f.enter(ctx); err != nil || f.ticket == 0 {
			return false, err
		}
	}
	turn := f.beat
	if f.private {
		turn = f.look
	}
	members, err := turn(ctx)
	if err == nil {
		err = f.evict(ctx)
	}
	if err != nil {
		return false, err
	}
	for _, m := range members {
		if m.Ticket < f.ticket && m.Seen < f.ticket && m.Beats != beatsNot {
			return false, nil
		}
	}
	f.reg.Fence(f.id) // not before: what is repeated after it was fenced must not land unnoticed
	f.joined.Store(true)
	if !f.alone() {
		f.noticed()
	}
	return true, nil
}

// enter makes the row, unless another engine is doing that: then there is no ticket yet.
func (f *fleet) enter(ctx context.Context) error {
	if f.next == "" {
		id := newEngineID()
		if err := f.keep(ctx, append([]string{id}, f.dead...)); err != nil {
			return err
		}
		f.next = id
	}
	var ticket, beats int64
	if f.private {
		beats = beatsNot
	}
	err := f.call(ctx, "join", func(ctx context.Context) (err error) {
		ticket, err = f.reg.Join(ctx, f.next, f.name, beats, f.dead)
		return err
	})
	if err != nil {
		f.dead, f.next = append(f.dead, f.next), "" // it may be there
		return err
	}
	if ticket == 0 {
		return nil
	}
	f.id, f.ticket, f.next, f.dead = f.next, ticket, "", nil
	return f.keep(ctx, []string{f.id})
}

// keep remembers ids. The owner of a private file needs none: it removes those of owners before it.
func (f *fleet) keep(ctx context.Context, ids []string) error {
	if f.private {
		return nil
	}
	return f.remember(ctx, ids)
}

// look reads the other rows. Those that have stopped beating are in f.still.
func (f *fleet) look(ctx context.Context) (members []member, err error) {
	var asked, replied, l3 time.Time
	err = f.call(ctx, "members", func(ctx context.Context) (err error) {
		asked = time.Now()
		members, l3, err = f.reg.Members(ctx, f.id)
		replied = time.Now()
		return err
	})
	if err != nil {
		return nil, err
	}
	if !f.private {
		f.time.heard(l3, asked, replied)
	}
	now := time.Now()
	f.still = f.still[:0]
	known := make(map[string]sighted, len(members))
	for _, m := range members {
		f.time.meet(&m)
		s, ok := f.known[m.ID]
		if !ok {
			s.first = now
		}
		if !ok || s.beats != m.Beats {
			s.beats, s.at = m.Beats, now
		}
		if now.Sub(s.at) > fleetLease && m.Beats != beatsNot {
			f.still = append(f.still, m)
		}
		known[m.ID] = s
	}
	f.known = known
	f.show(members)
	return members, nil
}

// hear learns L3's time, and asks past the breaker.
func (f *fleet) hear(ctx context.Context) error {
	if f.reg == nil || f.private {
		return nil
	}
	asked := time.Now()
	_, l3, err := f.reg.Members(ctx, f.id)
	if err == nil {
		f.time.heard(l3, asked, time.Now())
	}
	return err
}

// show sets what people see.
func (f *fleet) show(members []member) {
	shown := &Fleet{Known: true, ID: f.id, Name: f.name, Others: make([]Neighbour, 0, len(members))}
	slices.SortFunc(members, func(a, b member) int { return cmp.Compare(a.Ticket, b.Ticket) })
	for _, m := range members {
		s := f.known[m.ID]
		shown.Others = append(shown.Others, Neighbour{
			ID: m.ID, Name: m.Name, Since: s.first, Heard: s.at, Ahead: m.Ahead, Noticed: m.Seen >= f.ticket,
			Still: m.Beats == beatsNot || slices.ContainsFunc(f.still, func(still member) bool { return still.ID == m.ID }),
		})
	}
	f.shown.Store(shown)
}

// others reports whether the last look saw any.
func (f *fleet) others() bool {
	shown := f.shown.Load()
	return shown != nil && len(shown.Others) > 0
}

// Shown returns what the last look saw, and what holds now.
func (f *fleet) Shown() (out Fleet) {
	if shown := f.shown.Load(); shown != nil {
		out = *shown
		out.Others = slices.Clone(shown.Others)
		out.Joined, out.Alone, out.Ahead = f.joined.Load(), f.alone(), time.Duration(f.time.lift.Load())
	}
	return out
}

// evict removes those that have stopped beating: after this engine's own beat, which must not wait
// for them. They count as members until they are not seen any more.
func (f *fleet) evict(ctx context.Context) error {
	for _, m := range f.still {
		if err := f.call(ctx, "evict", func(ctx context.Context) error { return f.reg.Evict(ctx, f.id, m) }); err != nil {
			return err
		}
	}
	return nil
}

// step is one turn of the loop.
func (f *fleet) step(ctx context.Context) error {
	if ok, err := f.tryJoin(ctx); !ok || err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.reg == nil || f.private || !f.joined.Load() { // fenced meanwhile
		return nil
	}
	if _, err := f.beat(ctx); err != nil {
		return err
	}
	return f.evict(ctx)
}

// beat looks at the others and then tells them that it has noticed them. f.mu is held.
func (f *fleet) beat(ctx context.Context) ([]member, error) {
	began := time.Now()
	members, err := f.look(ctx)
	if err != nil {
		return nil, err
	}
	looked := time.Now()
	seen := f.ticket
	for _, m := range members {
		seen = max(seen, m.Ticket)
	}
	if len(members) > 0 {
		f.lapse() // before anybody is told that it was noticed
	}
	gone := false
	err = f.call(ctx, "beat", func(ctx context.Context) (err error) {
		me := member{ID: f.id, Seen: seen}
		me.Clock, me.Ahead = f.time.own()
		gone, err = f.reg.Beat(ctx, me)
		return err
	})
	switch {
	case err != nil:
		return nil, err
	case gone:
		f.rejoin()
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, errFenced)
	case len(members) == 0:
		f.untilWall.Store(began.Add(aloneProof).UnixNano())
		f.untilMono.Store(int64(began.Add(aloneProof).Sub(f.start)))
		f.since.CompareAndSwap(0, int64(looked.Sub(f.start)))
	}
	return members, nil
}

// fenced is told that L3 refused a write because the row is gone.
func (f *fleet) fenced() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rejoin()
}

// rejoin makes the next join begin anew. f.mu is held.
func (f *fleet) rejoin() {
	f.lapse()
	f.joined.Store(false)
	f.ticket = 0
}

// leave removes the row. The engine writes no more.
func (f *fleet) leave(ctx context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lapse()
	f.shown.Store(nil)
	if f.reg == nil || f.ticket == 0 {
		return nil
	}
	return f.call(ctx, "leave", func(ctx context.Context) error { return f.reg.Leave(ctx, f.id) })
}

// KeepFleet is the loop "fleet".
func (t *trust) KeepFleet(ctx context.Context) {
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	for {
		if t.archive.Ready() {
			_ = t.fleet.step(ctx) // an error ends the time alone by itself
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
