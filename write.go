package syncengine

// write.go is the one write path. Put or delete, one op or a group, at any durability:
//
//	validate → room to copy (room.go) → admit (pressure, a place in the WAL) → version
//	→ WAL (Logged, Archived) → L1 and queue → acknowledge [→ wait for L3 (Archived)]
//
// Nothing is changed before the op is admitted, so a refusal leaves no trace. When the WAL has an
// op it is this engine's to keep (INV-1): L3 may refuse it, and then it is in quarantine. The step
// "L1 and queue" runs on the log's loop, in log order, and also when the caller has left meanwhile:
// what is in the log is what the engine answers with (INV-2). A Buffered op skips the WAL while
// memory has room for it; then that step runs in its call.
//
// The caller's goroutine owns a call; the room (room.go), lines (update.go), makers (insert.go) and
// conditions (decide.go) are the only state of this department.
//
// Writes with a condition leave this path after validation: conditions.go. What an Archived
// call waits for in the end is in archived.go.

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/syncengine-go/syncengine/internal/loader"
)

// writer is the department of writes.
type writer struct {
	cfg        Config
	l1         *l1
	wal        *journal
	queue      *queue
	flush      *flusher
	numbers    *numbers
	pressure   *pressure
	cache      *cache
	archive    *archive
	trust      *trust
	push       *push
	bad        *quarantine
	repair     *repair
	reader     *reader
	door       *door
	news       *news
	now        func() time.Time // of L3, see fleettime.go
	room       room             // for the log
	asking     room             // for L3
	conditions conditions
	lines      lines
	makers     loader.Group[string, func() (Record, error), Record] // factories under way, by id
}

func newWriter(cfg *Config, mem *l1, w *journal, q *queue, f *flusher, n *numbers, p *pressure, c *cache, a *archive, t *trust, push *push, bad *quarantine, r *repair, rd *reader, d *door, news *news) *writer {
	e := &writer{
		cfg: *cfg, l1: mem, wal: w, queue: q, flush: f, numbers: n, pressure: p, cache: c, archive: a, trust: t, push: push, bad: bad, repair: r,
		reader: rd, door: d, news: news, now: t.Time().L3, conditions: conditions{wake: make(chan struct{}, 1)}, room: room{most: max(cfg.L1MaxBytes/2, leastRoom)}, asking: room{most: max(cfg.L1MaxBytes/2, leastRoom)},
	}
	e.makers.Spawn = func(make func()) { d.Spawn("factory", make) }
	e.makers.Stages = []loader.Stage[string, func() (Record, error), Record]{{Most: 1, Ask: func(made []*making) { made[0].Answer(made[0].About()) }}}
	return e
}

// making is a factory's result that is waited for.
type making = loader.Load[string, func() (Record, error), Record]

// WriteOption changes one call. The zero value changes nothing.
type WriteOption struct {
	kind       optionKind
	durability Durability
	priority   Priority
	version    uint64
	ttl        time.Duration
}

type optionKind uint8

const (
	optionNone optionKind = iota
	optionDurability
	optionPriority
	optionVersion
	optionIfVersion
	optionIfUnchanged
	optionTTL
	optionUntil // version is the time
)

// WithDurability overrides Config.Durability for one call. DefaultDurability changes
// nothing.
func WithDurability(d Durability) WriteOption {
	return WriteOption{kind: optionDurability, durability: d}
}

// WithPriority overrides the priority of all ops of one call.
func WithPriority(p Priority) WriteOption { return WriteOption{kind: optionPriority, priority: p} }

// WithVersion numbers the ops of one call. It is for replicators, which carry versions from
// elsewhere: all others let the engine number, since a version decides which write wins. It
// orders its id only. A version that lies more than Config.MaxClockSkew ahead of this engine's
// clock (see VersionAt) is ErrInvalidItem. One that is older than what the id is known at is
// ErrStaleVersion; an identical repetition is no error. (With another time to live it is not one:
// the expiry that is there stays, and the repetition is older. With a condition that still holds,
// as that of Update does, it is ErrStaleVersion.) At Archived L3 decides that, before anything is
// stored; at the other levels an op that L3 holds something higher of is superseded
// (Stats.Superseded). 0 changes nothing.
func WithVersion(v uint64) WriteOption { return WriteOption{kind: optionVersion, version: v} }

// WithIfVersion makes the ops of one call conditional: they are stored only if the id of
// each is at version v, as a read returned it; 0: only if the id does not exist. Otherwise
// the error is a *ConflictError and nothing is changed. Where L3 is shared it decides, in the
// transaction that stores the ops, whatever durability was asked for: then the call fails with
// ErrUnavailable while L3 is away, and nothing was sent; with ErrUnknownOutcome when the
// connection broke, or ctx ended, while the commit was under way; and with ErrRefused when L3
// refuses the op, or this engine's own last op of the id, which is in quarantine; merges of a CRDT
// item that are there count for nothing, as in reads. An op of the id that still waits for L3 lands
// first, and all that this engine had accepted by then is flushed for it: after an outage the call
// takes as long as the drain. On the SQLite file in Dir, which this engine alone writes, durability
// is that of the call, but for CRDT items: those L3 decides there, too.
func WithIfVersion(v uint64) WriteOption { return WriteOption{kind: optionIfVersion, version: v} }

// IfUnchanged is WithIfVersion(item.Version) for each item of the call: compare and set. A
// Delete has no item: there it is ErrInvalidItem, as it is beside a WithIfVersion.
func IfUnchanged() WriteOption { return WriteOption{kind: optionIfUnchanged} }

// WithTTL makes the items of one call expire after a time, counted from the call by the clock of
// L3, which engines share (by the host's in an engine that has not reached L3 since Open): from
// then on no call finds them, and they count as absent. It is exact
// to a millisecond, rounded up. 0 is never, whatever Config.DefaultTTL says; less is
// ErrInvalidItem. The expiry is that of this write: what is written over the item later has its
// own, or none; but an Update without WithTTL keeps it. Engine.Touch changes it alone.
//
// An item with a CRDT kind does not expire: with it, and with Merge, a time above 0 is
// ErrInvalidItem; so is any in a delete. A Config.L3 has to be an ExpiringStore, else the error is
// a *ConfigError.
func WithTTL(d time.Duration) WriteOption { return WriteOption{kind: optionTTL, ttl: d} }

// expiresAt is WithTTL with the time itself. It is for those who carry versions from elsewhere: a
// version has one expiry.
func expiresAt(at time.Time) WriteOption {
	return WriteOption{kind: optionUntil, version: uint64(millis(at))}
}

// comparesItems reports whether an IfUnchanged is among opts.
func comparesItems(opts []WriteOption) bool {
	return slices.ContainsFunc(opts, func(o WriteOption) bool { return o.kind == optionIfUnchanged })
}

// writeOptions are the options of a call with the config's defaults.
type writeOptions struct {
	durability  Durability
	version     uint64
	priority    *Priority
	conditional bool
	unchanged   bool   // the condition is the version of each item,
	ifVersion   uint64 // else this one
	ttl         time.Duration
	givenTTL    bool      // by the call
	until       time.Time // instead of ttl, if it is not zero
}

// options returns those of a call about an id, "" if it is about several.
func (e *writer) options(id string, opts []WriteOption) (writeOptions, error) {
	o := writeOptions{durability: e.cfg.Durability, ttl: e.cfg.DefaultTTL}
	for i := range opts {
		switch opt := &opts[i]; opt.kind {
		case optionDurability:
			if opt.durability > Archived {
				return o, &InvalidItemError{ID: id, Field: "WithDurability", Rule: "must be Buffered, Logged or Archived"}
			}
			if opt.durability != DefaultDurability {
				o.durability = opt.durability
			}
		case optionPriority:
			if !opt.priority.valid() {
				return o, &InvalidItemError{ID: id, Field: "WithPriority", Rule: "must be one of the four priorities"}
			}
			p := opt.priority // not a pointer into opts, which would be on the heap for it
			o.priority = &p
		case optionVersion:
			if e.numbers.TooFarAhead(opt.version, e.cfg.MaxClockSkew) {
				return o, &InvalidItemError{ID: id, Field: "WithVersion", Rule: fmt.Sprintf(
					"must lie at most MaxClockSkew = %s ahead of now, which is VersionAt(time.Now()) = %d; is %d", e.cfg.MaxClockSkew, VersionAt(time.Now()), opt.version)}
			}
			o.version = opt.version
		case optionIfVersion, optionIfUnchanged:
			if o.conditional && o.unchanged != (opt.kind == optionIfUnchanged) {
				return o, &InvalidItemError{ID: id, Field: "IfUnchanged", Rule: "is another condition than WithIfVersion: give one of them"}
			}
			o.conditional, o.unchanged, o.ifVersion = true, opt.kind == optionIfUnchanged, opt.version
		case optionTTL, optionUntil:
			if opt.ttl < 0 {
				return o, &InvalidItemError{ID: id, Field: "WithTTL", Rule: "must not be negative"}
			}
			o.ttl, o.givenTTL, o.until = opt.ttl, true, time.Time{}
			if opt.kind == optionUntil {
				o.ttl, o.until = 1, expiryAt(int64(opt.version)) // ttl: it expires
			}
			if o.ttl > 0 && !e.archive.Expires() {
				return o, &ConfigError{Field: "L3", Value: "(set)", Rule: "must be an ExpiringStore for items that expire"}
			}
		}
	}
	return o, nil
}

// call is one write: its ops, and what its caller asked for.
type call struct {
	ops      []*entry
	want     []uint64 // versions that the ids must be at, aligned with ops; nil: none in particular
	d        Durability
	numbered bool             // by the caller
	views    map[int][32]byte // see noteViews
	kept     bool             // somebody may hold it when the call has returned
	room     int64            // that it has, see room.go
	in       *room            // where

	first [1]*entry // room for ops of the usual call
}

// usual are calls of one op that nobody holds any more.
var usual = sync.Pool{New: func() any { return new(call) }}

func (o *writeOptions) call(n int) *call {
	c := usual.Get().(*call)
	*c = call{d: o.durability, numbered: o.version != 0}
	if c.ops = c.first[:0]; n > len(c.first) || c.d == Archived {
		c.ops = make([]*entry, 0, n)
	}
	if o.conditional {
		c.want = make([]uint64, 0, n)
	}
	return c
}

// put adds the put of a checked item.
func (c *call) put(e *writer, it *Item, o *writeOptions) error {
	if err := o.mayExpire(it); err != nil {
		return err
	}
	c.ops = append(c.ops, e.newPut(it, o))
	switch {
	case o.unchanged:
		c.want = append(c.want, it.Version)
	case o.conditional:
		c.want = append(c.want, o.ifVersion)
	}
	return nil
}

// mayExpire refuses a time to live for an item that can't have one.
func (o *writeOptions) mayExpire(it *Item) error {
	if o.givenTTL && o.ttl > 0 && it.CRDT != "" {
		return &InvalidItemError{ID: it.ID, Field: "WithTTL", Rule: "is not for items with a CRDT kind: they don't expire"}
	}
	return nil
}

// remove adds the delete of a checked id.
func (c *call) remove(e *writer, id string, o *writeOptions) error {
	if o.unchanged {
		return &InvalidItemError{ID: id, Field: "IfUnchanged", Rule: "needs an item: use WithIfVersion to delete an id at a version"}
	}
	if o.givenTTL {
		return &InvalidItemError{ID: id, Field: "WithTTL", Rule: "is for items that are put: a delete does not expire"}
	}
	c.ops = append(c.ops, e.newDelete(id, o))
	if o.conditional {
		c.want = append(c.want, o.ifVersion)
	}
	return nil
}

func (e *writer) Submit(ctx context.Context, item Item, opts ...WriteOption) error {
	o, err := e.options(item.ID, opts)
	if err != nil {
		return err
	}
	return e.submit(ctx, &item, &o)
}

func (e *writer) Insert(ctx context.Context, item Item, opts ...WriteOption) error {
	o, err := e.options(item.ID, opts)
	if err != nil {
		return err
	}
	if o.conditional {
		return &InvalidItemError{ID: item.ID, Field: "options", Rule: "of Insert have no condition of their own: it is that there is no item"}
	}
	o.conditional = true
	return e.submit(ctx, &item, &o)
}

func (e *writer) submit(ctx context.Context, item *Item, o *writeOptions) error {
	if err := checkItem(item, e.cfg.MaxItemBytes); err != nil {
		return err
	}
	c, err := e.newCall(ctx, o, 1, roomFor(item))
	if err != nil {
		return err
	}
	defer func() { e.leave(c) }() // also if PriorityFunc ends the goroutine
	if err := c.put(e, item, o); err != nil {
		return err
	}
	err = e.write(ctx, c)
	if err == nil && !c.kept {
		*c = call{}
		usual.Put(c)
		c = nil
	}
	return err
}

func (e *writer) Delete(ctx context.Context, id string, opts ...WriteOption) error {
	o, err := e.options(id, opts)
	if err != nil {
		return err
	}
	if err := checkID(id); err != nil {
		return err
	}
	c := o.call(1)
	if err := c.remove(e, id, &o); err != nil {
		return err
	}
	return e.write(ctx, c)
}

func (e *writer) SubmitMany(ctx context.Context, items []Item, opts ...WriteOption) (BatchResult, error) {
	return e.writeMany(ctx, opts, len(items), func(i int) (int64, error) {
		return roomFor(&items[i]), checkItem(&items[i], e.cfg.MaxItemBytes)
	}, func(c *call, i int, o *writeOptions) error {
		return c.put(e, &items[i], o)
	})
}

func (e *writer) DeleteMany(ctx context.Context, ids []string, opts ...WriteOption) (BatchResult, error) {
	return e.writeMany(ctx, opts, len(ids), func(i int) (int64, error) {
		return roomFor(&Item{ID: ids[i]}), checkID(ids[i])
	}, func(c *call, i int, o *writeOptions) error {
		return c.remove(e, ids[i], o)
	})
}

// writeMany writes n ops as a group. All are checked before anything is copied.
func (e *writer) writeMany(ctx context.Context, opts []WriteOption, n int, check func(i int) (size int64, err error), add func(c *call, i int, o *writeOptions) error) (BatchResult, error) {
	failed := BatchResult{Total: n, Failed: n}
	o, err := e.options("", opts)
	if err != nil {
		return failed, err
	}
	if n > e.cfg.GroupMaxItems {
		return failed, &InvalidItemError{Field: "items", TooLarge: true, Index: e.cfg.GroupMaxItems,
			Rule: fmt.Sprintf("of one call must be at most GroupMaxItems = %d, are %d: they are one transaction", e.cfg.GroupMaxItems, n)}
	}
	all := int64(0)
	for i := range n {
		size, err := check(i)
		if err != nil {
			return failed, at(i, err)
		}
		all += size
	}
	c, err := e.newCall(ctx, &o, n, all)
	if err != nil {
		return failed, err
	}
	defer e.leave(c)
	for i := range n {
		if err := add(c, i, &o); err != nil {
			return failed, at(i, err)
		}
	}
	c.keepLast()
	if err := e.write(ctx, c); err != nil {
		return failed, err
	}
	return BatchResult{Total: n, Succeeded: n}, nil
}

// at notes in an error which op of a group it is about.
func at(i int, err error) error {
	var ie *InvalidItemError
	if errors.As(err, &ie) {
		ie.Index = i
	}
	return err
}

// keepLast drops all but the last op of each id, keeping order.
func (c *call) keepLast() {
	last := make(map[string]int, len(c.ops))
	merges := 0
	for i, op := range c.ops {
		if op.isMerge() { // no other one replaces it
			merges++
			continue
		}
		last[op.id()] = i
	}
	if len(last)+merges == len(c.ops) {
		return
	}
	ops, want := c.ops[:0], c.want[:0]
	for i, op := range c.ops {
		if op.isMerge() || last[op.id()] == i {
			if ops = append(ops, op); c.want != nil {
				want = append(want, c.want[i])
			}
		}
	}
	c.ops, c.want = ops, want
}

// write takes a call from validation to its acknowledgement. The call may have let go of its ops
// then.
func (e *writer) write(ctx context.Context, c *call) (err error) {
	defer e.leave(c)
	if err := e.door.Enter(); err != nil {
		return err
	}
	defer e.door.Exit(ctx, &err)
	if len(c.ops) == 0 {
		return ctx.Err()
	}
	start := e.news.Start()
	defer func() { e.news.Wrote(c.d, c.want != nil, start, err) }()
	if e.decided(c) {
		c.kept = true
		if err := e.check(c); err != nil {
			return err
		}
		return e.writeIf(ctx, c)
	}
	l, err := e.begin(ctx, c, e.pressure.Admit)
	if err != nil || l == nil {
		return err
	}
	return e.await(ctx, l)
}

// decided reports whether somebody has to decide whether a call's ops are stored: L3, or the log.
func (e *writer) decided(c *call) bool {
	judged := c.numbered && c.d == Archived && !c.merges() // a merge may be older than its item
	return c.want != nil || judged && (e.archive.Private() || e.archive.Conditional())
}

func (e *writer) check(c *call) error {
	if err := e.checkSize(c.ops); err != nil {
		return err
	}
	return e.checkKinds(c.ops)
}

// begin takes a call up to its acknowledgement if that comes from memory, nil, and else into the
// log: await waits for what is left.
func (e *writer) begin(ctx context.Context, c *call, admit func(context.Context, []*entry) error) (*logging, error) {
	if err := e.check(c); err != nil {
		return nil, err
	}
	if e.lines.eager.Load() > 0 {
		e.leave(c) // they need it
		if err := e.lines.giveWay(ctx, c.ops); err != nil {
			return nil, err
		}
	}
	if err := e.enterLate(ctx, c); err != nil {
		return nil, err
	}
	defer e.leave(c)
	if err := admit(ctx, c.ops); err != nil {
		return nil, err
	}
	if c.d == Buffered && e.queue.Promise(sizeOf(c.ops)) {
		if err := e.accept(c.ops, e.numbers.Assign); !errors.Is(err, errMustFollow) {
			return nil, err
		}
	}
	c.kept = true
	l, err := e.log(c, func(op *entry) (*entry, error) { return nil, e.numbers.Assign(op) })
	if c.d == Archived {
		c.ops = nil // it may wait for long, when memory has let go of them
	}
	return l, err
}

// accept takes ops into memory alone: room there is promised to them.
func (e *writer) accept(ops []*entry, assign func(*entry) error) error {
	if err := e.numbers.AcceptUnit(unitOf(ops, e.queue.Now()), assign); err != nil {
		e.queue.Unpromise(sizeOf(ops))
		if !errors.Is(err, errMustFollow) {
			e.wal.Release(ops)
		}
		return err
	}
	e.l1.Shrink()
	return nil
}

// checkSize refuses what could never be held: by the WAL, by memory when it is read back from
// there (INV-10), or by one transaction.
func (e *writer) checkSize(ops []*entry) error {
	bytes, tooLarge := opsBytes(ops), ""
	switch {
	case len(ops) > 1 && bytes > e.cfg.GroupMaxBytes:
		tooLarge = fmt.Sprintf("GroupMaxBytes = %d bytes: they are one transaction", e.cfg.GroupMaxBytes)
	case sizeOf(ops) > e.cfg.L1MaxBytes:
		tooLarge = fmt.Sprintf("L1MaxBytes = %d bytes with %d for each op", e.cfg.L1MaxBytes, entryOverhead)
	case bytes > e.cfg.WALMaxBytes:
		tooLarge = fmt.Sprintf("WALMaxBytes = %d", e.cfg.WALMaxBytes)
	case int64(len(ops)) > e.cfg.WALMaxItems:
		tooLarge = fmt.Sprintf("WALMaxItems = %d ops", e.cfg.WALMaxItems)
	default:
		return nil
	}
	return &InvalidItemError{ID: ops[0].item(), Field: "items", TooLarge: true,
		Rule: fmt.Sprintf("of one call (%d ops, %d bytes) must fit in ", len(ops), bytes) + tooLarge}
}

// newPut copies a checked item.
func (e *writer) newPut(it *Item, o *writeOptions) *entry {
	rec := Record{Item: *it}
	rec.Version, rec.ExpiresAt = o.version, time.Time{}
	if it.CRDT != "" {
		e.asMerge(&rec, false)
	} else if !o.until.IsZero() {
		rec.ExpiresAt = o.until
	} else if o.ttl > 0 {
		rec.ExpiresAt = expiryIn(e.now(), o.ttl)
	}
	if rec.UpdatedAt.IsZero() {
		rec.UpdatedAt = time.Now()
	}
	op := newEntry(&rec)
	op.hash = hashOf(op.content()) // of the copy: whatever the caller does to its slice meanwhile (INV-11)
	switch {
	case o.priority != nil:
		op.setPriority(*o.priority)
	case e.cfg.PriorityFunc != nil:
		op.setPriority(e.askPriority(op))
	}
	return op
}

// newDelete makes a tombstone, which is an op like any other from here on (INV-4).
func (e *writer) newDelete(id string, o *writeOptions) *entry {
	op := newEntry(&Record{Item: Item{ID: id, Version: o.version, UpdatedAt: time.Now()}, Deleted: true})
	if o.priority != nil {
		op.setPriority(*o.priority)
	}
	return op
}

// askPriority calls the user's PriorityFunc for an id that L1 knows.
func (e *writer) askPriority(op *entry) (p Priority) {
	known, ok := e.l1.Peek(op.item())
	if !ok || known.deleted {
		return op.priority
	}
	e.door.EnterUser()
	defer func() {
		e.door.LeaveUser()
		if r := recover(); r != nil {
			e.news.Log().Error("PriorityFunc panicked", "panic", r)
			p = op.priority
		}
	}()
	st := AccessStats{ID: op.item(), Accesses: uint64(known.place.Uses()), ContentBytes: len(op.content()), Priority: op.priority}
	if st.Accesses > 0 {
		st.Idle = e.l1.Idle(known)
	}
	if p = e.cfg.PriorityFunc(st); !p.valid() {
		return op.priority
	}
	return p
}

// logging is a unit on its way into the log.
type logging struct {
	c       *call
	logged  chan error // cap 1: the log's loop must not wait for a caller that left
	w       *waiter    // of an Archived one
	watched []string   // its ids, to know what came later, if it is outranked
}

// log gives ops, which have their place in the WAL, their versions with assign, and appends them as
// one unit. assign may rest on another op, see numbers.LogUnit. Every nil error is followed by
// await.
func (e *writer) log(c *call, assign func(*entry) (*entry, error)) (*logging, error) {
	l := &logging{c: c, logged: make(chan error, 1)}
	if c.d == Archived {
		l.watched = itemsOf(c.ops)
		for i, id := range l.watched {
			l.watched[i] = strings.Clone(id) // of an op's own memory
		}
		e.numbers.Watch(l.watched)
	}
	var err error
	in, room := c.in, c.handOver()
	if l.w, err = e.numbers.StartLog(c.ops, c.d, assign, func(err error) { in.give(room); l.logged <- err }); err != nil {
		in.give(room)
		e.numbers.Unwatch(l.watched)
		return nil, err
	}
	return l, nil
}

// await waits for the commit, and at Archived for L3.
func (e *writer) await(ctx context.Context, l *logging) error {
	if l.watched != nil {
		defer e.numbers.Unwatch(l.watched)
	}
	select {
	case err := <-l.logged:
		if err != nil {
			return err
		}
	case <-ctx.Done():
		if l.w != nil {
			l.w.Leave()
		}
		e.door.Stay(func() { <-l.logged })
		return fmt.Errorf("syncengine: outcome unknown, the WAL commit is under way: %w", ctx.Err())
	}
	e.l1.Shrink()
	if l.w == nil {
		return nil
	}
	return e.awaitArchived(ctx, l.w, l.c.numbered)
}
