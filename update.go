package syncengine

// update.go is read-change-write. Callers of one id form a line: one at a time reads, runs its
// function and hands a conditional write to conditions.go. It does not wait for the decision
// before the next one's turn: that one gets its result, and its condition is that this result
// is there. So a line of callers is decided in one transaction, or in one commit of the log;
// and if the first write of a chain is not made, none is, and all read again.
//
// Other writes don't stand in that line, and could change the item before each decision. To a
// caller that has tried in vain a few times they give way, but not for long: its function may be
// who makes them.
//
// What a function says without a write (an error, ErrNoChange), and a version that is not the one
// wanted, counts only if what the function was given is known to have been in L3 during the call.
// The write of it was handed over after the call began, and has landed. One that was handed over
// before may have landed before, too, and another engine may have written since; and what this
// engine has accepted without a condition may be outranked on its way. Then the function is run
// again, on what L3 holds.

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

func (e *writer) Update(ctx context.Context, id string, fn func(cur Item, exists bool) (Item, error), opts ...WriteOption) (item Item, err error) {
	if fn == nil {
		return Item{}, missing(id, "fn")
	}
	return e.update(ctx, id, func(cur Item, exists bool) (Item, error) {
		was := cur.UpdatedAt
		it, err := fn(cur, exists)
		if it.UpdatedAt.Equal(was) { // fn has left it as it was: it is updated now
			it.UpdatedAt = time.Time{}
		}
		return it, err
	}, opts)
}

// update is Update that leaves UpdatedAt to fn.
func (e *writer) update(ctx context.Context, id string, fn func(cur Item, exists bool) (Item, error), opts []WriteOption) (item Item, err error) {
	o, err := e.options(id, opts)
	if err != nil {
		return Item{}, err
	}
	if err := checkID(id); err != nil {
		return Item{}, err
	}
	if err := e.door.Enter(); err != nil {
		return Item{}, err
	}
	defer e.door.Exit(ctx, &err)
	u := &update{e: e, id: id, ids: []string{id}, fn: fn, o: o, began: time.Now()}
	if o.unchanged {
		return Item{}, &InvalidItemError{ID: id, Field: "IfUnchanged", Rule: "is what Update is about: it has no item to compare with"}
	}
	if o.conditional {
		u.only = &o.ifVersion
	}
	u.o.conditional, u.o.unchanged = true, false
	l := e.lines.enter(id)
	defer e.lines.leave(id, l)
	start := e.news.Start()
	for try := 0; ; try++ {
		if try == triesBesideOthers {
			defer e.lines.quiet(l)()
		}
		it, err := u.try(ctx, l)
		if !errors.Is(err, errAgain) {
			e.news.Wrote(u.o.durability, true, start, err)
			return it, err
		}
		if err := pause(ctx, try); err != nil {
			return Item{}, err
		}
	}
}

// Touch is an Update that changes nothing but the expiry.
func (e *writer) Touch(ctx context.Context, id string, ttl time.Duration) error {
	_, err := e.update(ctx, id, func(cur Item, exists bool) (Item, error) {
		switch {
		case !exists:
			return cur, &NotFoundError{ID: id}
		case cur.CRDT != "":
			return cur, &InvalidItemError{ID: id, Field: "ttl", Rule: "is not for items with a CRDT kind: they don't expire"}
		}
		return cur, nil
	}, []WriteOption{WithTTL(ttl)})
	return err
}

// errAgain: what fn was given is not what is there.
var errAgain = errors.New("the item has changed")

// triesBesideOthers is how often an Update tries before other writes of its id give way, and
// longestWay for how long each of them does.
const (
	triesBesideOthers = 3
	longestWay        = time.Second
)

// pause waits a random while, longer with every try: engines that met once should not meet again.
func pause(ctx context.Context, try int) error {
	return sleep(ctx, rand.N(min(time.Millisecond<<min(try, 10), 50*time.Millisecond)))
}

// lines are the callers of Update, by id.
type lines struct {
	eager atomic.Int64 // callers that others give way to

	mu sync.Mutex // guards m, and of each line what it says
	m  map[string]*line
}

type line struct {
	callers int           // under lines.mu
	eager   int           // under lines.mu
	over    chan struct{} // under lines.mu; closed when none is eager any more
	turn    chan baton    // cap 1: whoever takes the baton puts one back
}

// baton is what the caller before leaves: the result of its write, which is decided by after. Or
// that L3 did not answer it, which those who were in line then need not find out one after the
// other.
type baton struct {
	rec      Record
	after    *decision // nil: nothing is known
	at       time.Time // when it was about to be handed over
	silent   error
	silentAt time.Time
}

// decision of a write. err is valid once done is closed.
type decision struct {
	done chan struct{}
	err  error
}

// wait returns errAgain for a write that was not made.
func (d *decision) wait(ctx context.Context) error {
	select {
	case <-d.done:
		if d.err != nil {
			return errAgain
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (ls *lines) enter(id string) *line {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	l, ok := ls.m[id]
	if !ok {
		l = &line{turn: make(chan baton, 1)}
		l.turn <- baton{}
		if ls.m == nil {
			ls.m = make(map[string]*line)
		}
		ls.m[id] = l
	}
	l.callers++
	return l
}

func (ls *lines) leave(id string, l *line) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if l.callers--; l.callers == 0 {
		delete(ls.m, id)
	}
}

// quiet makes other writes of a line's id give way until it is over.
func (ls *lines) quiet(l *line) (over func()) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if l.eager++; l.eager == 1 {
		l.over = make(chan struct{})
	}
	ls.eager.Add(1)
	return func() {
		ls.mu.Lock()
		defer ls.mu.Unlock()
		ls.eager.Add(-1)
		if l.eager--; l.eager == 0 {
			close(l.over)
		}
	}
}

// giveWay waits for Updates of the ids of ops that have tried in vain.
func (ls *lines) giveWay(ctx context.Context, ops []*entry) error {
	wait, cancel := context.WithTimeout(ctx, longestWay)
	defer cancel()
	for _, op := range ops {
		ls.mu.Lock()
		over := (chan struct{})(nil)
		if l := ls.m[op.item()]; l != nil && l.eager > 0 {
			over = l.over
		}
		ls.mu.Unlock()
		if over == nil {
			continue
		}
		select {
		case <-over:
		case <-wait.Done():
			return ctx.Err()
		}
	}
	return nil
}

// update is one call.
type update struct {
	e    *writer
	id   string
	ids  []string
	fn   func(Item, bool) (Item, error)
	o    writeOptions
	only *uint64 // the version that the id must be at

	began time.Time
}

// try takes one turn.
func (u *update) try(ctx context.Context, l *line) (Item, error) {
	var b baton
	began := time.Now()
	select {
	case b = <-l.turn:
	case <-ctx.Done():
		return Item{}, ctx.Err()
	case <-u.e.door.Context().Done(): // the one before may never end
		return Item{}, ErrClosed
	}
	if b.silent != nil && began.Before(b.silentAt) {
		l.turn <- b
		return Item{}, b.silent
	}
	failed := u.e.numbers.Watch(u.ids)
	defer u.e.numbers.Unwatch(u.ids)
	rest, err := u.turn(ctx, l, b.valid(), failed[0])
	if err != nil {
		return Item{}, err
	}
	return rest()
}

// turn does what only one caller at a time may do, and returns what is left to do. The baton is
// put back even if fn ends its goroutine (runtime.Goexit).
func (u *update) turn(ctx context.Context, l *line, b baton, failed uint64) (rest func() (Item, error), err error) {
	next := baton{}
	defer func() { l.turn <- next }()
	var at known
	var it Item
	var exists bool
	var why error   // of a call that writes nothing
	landed := false // what this engine had accepted before
	for done := false; !done; {
		ahead := false // of L3
		if b.after == nil {
			if b.rec, ahead, err = u.truth(ctx, landed); err != nil {
				if ctx.Err() == nil && errors.Is(err, ErrUnavailable) {
					next = baton{silent: err, silentAt: time.Now()}
				}
				return nil, err
			}
		}
		b.rec.lapse(u.e.now)
		at = knownAs(&b.rec, failed)
		it, exists, why = u.run(&b.rec, &at)
		switch {
		case why == nil || b.after == nil && !ahead || b.after != nil && b.at.After(u.began):
			done = true
			continue
		case b.after != nil:
			err = b.after.wait(ctx)
		default:
			err, landed = u.e.landOwn(ctx, u.ids), true
		}
		if b = (baton{}); err != nil {
			return nil, err
		}
	}
	if why != nil {
		next = b
		return func() (Item, error) { return u.nothing(ctx, it, exists, why, b.after) }, nil
	}
	now := time.Now()
	w, err := u.start(ctx, &it, &at, u.options(exists, b.rec.ExpiresAt))
	if err != nil {
		return nil, err
	}
	if next = (baton{rec: w.op.record(), after: &w.decision, at: now}); w.op.isMerge() { // what it becomes is not known yet
		next = baton{}
	}
	return func() (Item, error) { return w.wait(ctx) }, nil
}

// truth reads the item, as it is without what waits in line; or, once what this engine had accepted
// has landed, as L3 holds it. ahead tells that L3 does not hold that, and will.
func (u *update) truth(ctx context.Context, landed bool) (rec Record, ahead bool, err error) {
	if err := u.e.landMerges(ctx, u.ids); err != nil {
		return Record{}, false, err
	}
	recs, inL3, err := u.e.truths(ctx, u.ids)
	switch {
	case err != nil:
		return Record{}, false, err
	case u.e.archive.Private() || u.e.bad.Has(u.id):
		return recs[0], false, nil
	case landed:
		return inL3[0], false, nil
	}
	return recs[0], recs[0].Version != inL3[0].Version, nil
}

// valid drops what can't be built on: a write that failed, or one that was decided long ago, as
// far as anybody knows.
func (b baton) valid() baton {
	if b.after == nil {
		return baton{}
	}
	select {
	case <-b.after.done:
		return baton{}
	default:
		return b
	}
}

// run calls fn.
func (u *update) run(rec *Record, at *known) (it Item, exists bool, err error) {
	cur := Item{ID: u.id}
	if exists = rec.Version != 0 && !rec.Deleted; exists {
		cur = rec.Item
	}
	if live := at.Live(); u.only != nil && *u.only != live {
		return cur, exists, &ConflictError{ID: u.id, Want: *u.only, Have: live}
	}
	mine := cur // fn may write into what it gets: an op on its way, or in memory, must not change
	mine.Content = slices.Clone(cur.Content)
	if it, err = u.callFn(mine, exists); err != nil {
		return cur, exists, err
	}
	if def(&it.ID, u.id); it.ID != u.id {
		return cur, exists, &InvalidItemError{ID: it.ID, Field: "ID", Rule: fmt.Sprintf("of Update's item must be %q", u.id)}
	}
	if err := checkItem(&it, u.e.cfg.MaxItemBytes); err != nil {
		return it, exists, err
	}
	return it, exists, u.o.mayExpire(&it)
}

// callFn calls fn. While it runs Shutdown waits no longer than its context allows.
func (u *update) callFn(cur Item, exists bool) (it Item, err error) {
	u.e.door.EnterUser()
	defer u.e.door.LeaveUser()
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("syncengine: the function given to Update panicked: %v", p)
		}
	}()
	return u.fn(cur, exists)
}

// nothing ends a try that writes nothing, once it is certain that cur is there.
func (u *update) nothing(ctx context.Context, cur Item, exists bool, err error, after *decision) (Item, error) {
	if after != nil {
		if err := after.wait(ctx); err != nil {
			return Item{}, err
		}
	}
	switch {
	case !errors.Is(err, ErrNoChange):
		return Item{}, err
	case !exists:
		return Item{}, nil
	}
	return cur, nil
}

// handed is a write that was handed over.
type handed struct {
	decision
	e  *writer
	op *entry
	c  *call
	q  *question // nil: it is decided and on its way into the log
	w  *waiter   // of an Archived one
}

// options are those of the write of a result: an item keeps its expiry, or that it has none.
func (u *update) options(exists bool, until time.Time) writeOptions {
	o := u.o
	if exists && !o.givenTTL {
		o.ttl, o.until = 0, until
	}
	return o
}

// start hands over the write of a result, on the condition that the id is what fn was given.
func (u *update) start(ctx context.Context, it *Item, at *known, o writeOptions) (w *handed, err error) {
	e := u.e
	if err := e.pressure.Allow(ctx); err != nil {
		return nil, err
	}
	if err := e.pressure.Slow(ctx); err != nil {
		return nil, err
	}
	o.ifVersion = at.Live()
	c, err := e.newCall(ctx, &o, 1, roomFor(it))
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil || w == nil || w.q == nil { // else L3 is asked, see waitL3
			e.leave(c)
		}
	}()
	if err := c.put(e, it, &o); err != nil {
		return nil, err
	}
	if err := e.checkSize(c.ops); err != nil {
		return nil, err
	}
	w = &handed{decision: decision{done: make(chan struct{})}, e: e, op: c.ops[0], c: c}
	if err := e.checkKinds(c.ops); err != nil {
		return nil, err
	}
	if !e.archive.Private() || c.merges() {
		w.q, err = e.askL3(ctx, c, at.Version())
		if err == nil {
			w.q.chain = &w.decision
			err = e.conditions.enqueue(w.q)
		}
		return w, err
	}
	return w, u.log(ctx, w, at)
}

// log decides the write by what this engine knows, and logs it or takes it into memory.
func (u *update) log(ctx context.Context, w *handed, at *known) (err error) {
	e, assign := u.e, u.e.judge(w.c, []known{*at})
	if err := e.pressure.Reserve(w.c.ops); err != nil {
		return err
	}
	if w.c.d == Buffered && e.queue.Promise(sizeOf(w.c.ops)) {
		if err = e.accept(w.c.ops, settled(assign)); err == nil {
			close(w.done)
		}
	} else {
		in, room := w.c.in, w.c.handOver()
		w.w, err = e.numbers.StartLog(w.c.ops, w.c.d, assign, func(err error) {
			in.give(room)
			w.err = err
			close(w.done)
		})
		if err != nil {
			in.give(room)
		}
	}
	if errors.Is(err, errUnsettled) || errors.Is(err, ErrConflict) {
		err = errors.Join(e.numbers.Settle(ctx, u.ids...), errAgain)
	}
	return err
}

// wait returns what became of the write.
func (w *handed) wait(ctx context.Context) (Item, error) {
	if w.q != nil {
		return w.waitL3(ctx)
	}
	select {
	case <-w.done:
	case <-ctx.Done():
		if w.w != nil {
			w.w.Leave()
		}
		w.e.door.Stay(func() { <-w.done })
		return Item{}, fmt.Errorf("syncengine: outcome unknown, the WAL commit is under way: %w", ctx.Err())
	}
	switch {
	case w.err != nil:
		return Item{}, w.err
	case w.w != nil:
		if err := w.e.awaitArchived(ctx, w.w, w.c.numbered); err != nil {
			return Item{}, err
		}
	}
	w.e.l1.Shrink()
	return w.stored(), nil
}

// stored is the item that was written.
func (w *handed) stored() Item { return w.e.storedAs(w.op).Item }

func (w *handed) waitL3(ctx context.Context) (Item, error) {
	defer w.e.leave(w.c)
	floor, err := w.e.answered(ctx, w.c, w.q)
	if floor != 0 || errors.Is(err, ErrConflict) {
		return Item{}, errAgain
	}
	if err != nil {
		return Item{}, err
	}
	return w.stored(), nil
}
