package syncengine

// write.go is the one write path. Put or delete, one op or a group, at any durability:
//
//	validate → admit (pressure) → assign versions → WAL (Logged, Archived) → L1 and queue
//	→ acknowledge [→ wait for L3 (Archived)]
//
// Nothing is changed before the op is admitted, so a refusal leaves no trace. After the
// WAL has an op nothing can refuse it any more. The step "L1 and queue" runs on the log's
// loop, in log order, and also when the caller has left meanwhile: what is in the log is
// what the engine answers with (INV-2).

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// WriteOption changes one call.
type WriteOption struct {
	durability  Durability
	version     uint64
	priority    Priority
	hasPriority bool
}

// WithDurability overrides Config.Durability for one call. DefaultDurability changes
// nothing.
func WithDurability(d Durability) WriteOption { return WriteOption{durability: d} }

// WithVersion numbers the ops of one call that have no version of their own. It is for
// deletes by callers who number the versions of an id themselves. 0 changes nothing.
func WithVersion(v uint64) WriteOption { return WriteOption{version: v} }

// WithPriority overrides the priority of all ops of one call.
func WithPriority(p Priority) WriteOption { return WriteOption{priority: p, hasPriority: true} }

// writeOptions are the options of a call with the config's defaults.
type writeOptions struct {
	durability Durability
	version    uint64
	priority   *Priority
}

func (e *Engine) options(opts []WriteOption) (writeOptions, error) {
	o := writeOptions{durability: e.cfg.Durability}
	for i := range opts {
		switch opt := &opts[i]; {
		case opt.hasPriority && !opt.priority.valid():
			return o, &InvalidItemError{Field: "WithPriority", Rule: "must be one of the four priorities"}
		case opt.hasPriority:
			p := opt.priority
			o.priority = &p
		case opt.version > MaxVersion:
			return o, &InvalidItemError{Field: "WithVersion", Rule: "must be at most 2^63 - 1"}
		case opt.version != 0:
			o.version = opt.version
		case opt.durability > Archived:
			return o, &InvalidItemError{Field: "WithDurability", Rule: "must be Buffered, Logged or Archived"}
		case opt.durability != DefaultDurability:
			o.durability = opt.durability
		}
	}
	return o, nil
}

// Submit stores an item. It returns once the item has reached the durability of the call
// (see Durability); from then on this engine's reads answer with it or a later write.
//
// It may wait: for a group commit of the WAL (Logged), for L3 (Archived), or to be slowed
// at LevelThrottle; ctx bounds all of these. When ctx ends while a commit is under way the
// outcome is unknown: the item may be stored.
//
// Errors: ErrInvalidItem, ErrStaleVersion, ErrBackpressure, ErrClosed: nothing was changed.
// ErrUnavailable at Logged: the WAL could not be written, nothing was acknowledged. At
// Archived, ErrUnavailable means that the item is in the WAL and will reach L3 later, and
// ErrRefused that L3 refuses it and it is in quarantine.
func (e *Engine) Submit(ctx context.Context, item Item, opts ...WriteOption) error {
	o, err := e.options(opts)
	if err != nil {
		return err
	}
	if err := checkItem(&item, e.cfg.MaxItemBytes); err != nil {
		return err
	}
	return e.submitOne(ctx, e.newPut(&item, &o), o.durability)
}

// Delete removes an id. It is idempotent: deleting what does not exist succeeds. A delete
// is an op like a put, with the same durability and errors, and is remembered for
// TombstoneRetention: no older put brings the id back.
func (e *Engine) Delete(ctx context.Context, id string, opts ...WriteOption) error {
	o, err := e.options(opts)
	if err != nil {
		return err
	}
	if err := checkID(id); err != nil {
		return err
	}
	return e.submitOne(ctx, e.newDelete(id, &o), o.durability)
}

func (e *Engine) submitOne(ctx context.Context, op *entry, d Durability) error {
	if err := e.enter(); err != nil {
		return err
	}
	defer e.leave()
	if err := e.checkSize([]*entry{op}); err != nil {
		return err
	}
	if err := e.admit(ctx, []*entry{op}, d); err != nil {
		return err
	}
	if err := e.bad.revive(ctx, []*entry{op}); err != nil {
		e.unadmit([]*entry{op}, d)
		return err
	}
	if d == Buffered && e.queue.promise(op.size()) {
		if err := e.assignVersion(op); err != nil {
			e.queue.unpromise(op.size())
			return err
		}
		e.queue.accept(unit{one: op, at: time.Now().UnixNano()}, nil, false)
		e.afterWrite()
		return nil
	}
	if d == Buffered { // memory has no room, so it is logged
		if err := e.reserve([]*entry{op}); err != nil {
			return err
		}
	}
	return e.logOps(ctx, []*entry{op}, d, e.assignVersion)
}

// SubmitMany stores a group of items: all of them or none are accepted, logged, and
// committed to L3 in one transaction each. Durability and errors are those of Submit; an
// error about one item refuses all. Of items with the same id the last one wins.
func (e *Engine) SubmitMany(ctx context.Context, items []Item, opts ...WriteOption) (BatchResult, error) {
	o, err := e.options(opts)
	if err != nil {
		return BatchResult{Total: len(items), Failed: len(items)}, err
	}
	ops := make([]*entry, 0, len(items))
	for i := range items {
		if err := checkItem(&items[i], e.cfg.MaxItemBytes); err != nil {
			return BatchResult{Total: len(items), Failed: len(items)}, at(i, err)
		}
	}
	for i := range items {
		ops = append(ops, e.newPut(&items[i], &o))
	}
	return e.submitGroup(ctx, ops, o.durability)
}

// DeleteMany removes a group of ids, atomically as SubmitMany does.
func (e *Engine) DeleteMany(ctx context.Context, ids []string, opts ...WriteOption) (BatchResult, error) {
	o, err := e.options(opts)
	if err != nil {
		return BatchResult{Total: len(ids), Failed: len(ids)}, err
	}
	ops := make([]*entry, 0, len(ids))
	for i, id := range ids {
		if err := checkID(id); err != nil {
			return BatchResult{Total: len(ids), Failed: len(ids)}, at(i, err)
		}
		ops = append(ops, e.newDelete(id, &o))
	}
	return e.submitGroup(ctx, ops, o.durability)
}

// at notes in an error which op of a group it is about.
func at(i int, err error) error {
	var ie *InvalidItemError
	if errors.As(err, &ie) {
		ie.Index = i
	}
	return err
}

func (e *Engine) submitGroup(ctx context.Context, ops []*entry, d Durability) (BatchResult, error) {
	total := len(ops)
	failed := BatchResult{Total: total, Failed: total}
	if err := e.enter(); err != nil {
		return failed, err
	}
	defer e.leave()
	if total == 0 {
		return BatchResult{}, ctx.Err()
	}
	ops = lastOfEach(ops)
	if err := e.checkSize(ops); err != nil {
		return failed, err
	}
	if err := e.admit(ctx, ops, d); err != nil {
		return failed, err
	}
	if err := e.bad.revive(ctx, ops); err != nil {
		e.unadmit(ops, d)
		return failed, err
	}
	ok := BatchResult{Total: total, Succeeded: total}
	if d == Buffered {
		if e.queue.promise(sizeOf(ops)) {
			if err := e.acceptBuffered(ops); err != nil {
				return failed, err
			}
			e.afterWrite()
			return ok, nil
		}
		if err := e.reserve(ops); err != nil { // memory has no room, so they are logged
			return failed, err
		}
	}
	if err := e.logOps(ctx, ops, d, e.assignVersion); err != nil {
		return failed, err
	}
	return ok, nil
}

// acceptBuffered gives the ops of a group, for which memory is promised, their versions and hands them over, in one turn with
// other groups: two of the same ids must not be mixed, each ahead of the other for some of them
// (INV-5).
func (e *Engine) acceptBuffered(ops []*entry) error {
	e.wal.order.Lock()
	defer e.wal.order.Unlock()
	for _, op := range ops {
		if err := e.assignVersion(op); err != nil {
			e.queue.unpromise(sizeOf(ops))
			return err
		}
	}
	e.queue.accept(unitOf(ops, time.Now().UnixNano()), nil, false)
	return nil
}

// checkSize refuses what the WAL could never hold, or would be too much for one transaction.
func (e *Engine) checkSize(ops []*entry) error {
	limit := min(maxGroupBytes, e.cfg.WALMaxBytes)
	if opsBytes(ops) <= limit && int64(len(ops)) <= e.cfg.WALMaxItems {
		return nil
	}
	return &InvalidItemError{ID: ops[0].id(), Field: "items", TooLarge: true,
		Rule: fmt.Sprintf("of one call must be at most %d bytes and WALMaxItems = %d ops, since they are one transaction", limit, e.cfg.WALMaxItems)}
}

// lastOfEach drops all but the last op of each id, keeping order.
func lastOfEach(ops []*entry) []*entry {
	last := make(map[string]int, len(ops))
	for i, op := range ops {
		last[op.id()] = i
	}
	if len(last) == len(ops) {
		return ops
	}
	out := ops[:0]
	for i, op := range ops {
		if last[op.id()] == i {
			out = append(out, op)
		}
	}
	return out
}

// newPut copies a checked item.
func (e *Engine) newPut(it *Item, o *writeOptions) *entry {
	rec := Record{Item: *it}
	rec.ContentHash = hashOf(it.Content)
	def(&rec.Version, o.version)
	if rec.UpdatedAt.IsZero() {
		rec.UpdatedAt = time.Now()
	}
	op := newEntry(&rec)
	switch {
	case o.priority != nil:
		op.setPriority(*o.priority)
	case e.cfg.PriorityFunc != nil:
		op.setPriority(e.askPriority(op))
	}
	return op
}

// setPriority sets a priority that counts as it is.
func (e *entry) setPriority(p Priority) {
	e.priority = p
	e.state.Store(stateAsked)
}

// raise is the default scoring: an op of normal priority whose id is read often here, and was
// read just now, is flushed before others, since elsewhere it is probably read, too. What is
// stored is the priority it was submitted with.
func (e *Engine) raise(op, known *entry) {
	if op.priority == PriorityNormal && op.state.Load() != stateAsked && known.place.Uses() >= oftenRead &&
		e.l1.clock.Since(known.lastAccess.Load()) < freshAccess {
		op.state.Store(stateRaised)
	}
}

// What is read so often, the last time so lately, is raised.
const (
	oftenRead   = 16
	freshAccess = time.Minute
)

func (e *Engine) newDelete(id string, o *writeOptions) *entry {
	op := newEntry(&Record{Item: Item{ID: id, Version: o.version, UpdatedAt: time.Now()}, Deleted: true})
	if o.priority != nil {
		op.setPriority(*o.priority)
	}
	return op
}

// askPriority calls the user's PriorityFunc for an id that L1 knows.
func (e *Engine) askPriority(op *entry) (p Priority) {
	known, ok := e.l1.peek(op.id())
	if !ok || known.deleted {
		return op.priority
	}
	defer func() {
		if r := recover(); r != nil {
			e.log.Error("PriorityFunc panicked", "panic", r)
			p = op.priority
		}
	}()
	st := AccessStats{ID: op.id(), Accesses: uint64(known.place.Uses()), ContentBytes: len(op.content()), Priority: op.priority}
	if st.Accesses > 0 {
		st.Idle = max(0, time.Since(e.l1.clock.time(known.lastAccess.Load())))
	}
	if p = e.cfg.PriorityFunc(st); !p.valid() {
		return op.priority
	}
	return p
}

// admit lets a write in, slows it, or refuses it at once. Nothing has been changed when it returns
// an error. Ops that are to be logged have their place in the WAL then, so that they don't wait
// in vain.
func (e *Engine) admit(ctx context.Context, ops []*entry, d Durability) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	p := e.MemoryPressure()
	level := e.gauge.observe(p)
	if !level.AcceptsWrites() {
		return e.refusal(level)
	}
	if d != Buffered {
		if err := e.reserve(ops); err != nil {
			return err
		}
	}
	if level < LevelThrottle {
		return nil
	}
	timer := time.NewTimer(e.gauge.throttle(p))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		e.unadmit(ops, d)
		return errors.Join(e.refusal(level), ctx.Err())
	}
}

// unadmit takes back what admit did.
func (e *Engine) unadmit(ops []*entry, d Durability) {
	if d != Buffered {
		e.wal.release(ops)
	}
}

// reserve gives ops a place in the WAL, or refuses them.
func (e *Engine) reserve(ops []*entry) error {
	if e.wal.reserve(ops, walLimits{e.cfg.WALMaxItems, e.cfg.WALMaxBytes, e.gauge.limits[LevelCritical-1]}) {
		return nil
	}
	return &BackpressureError{Level: LevelCritical, RetryAfter: LevelCritical.RetryAfter(), Reason: "the WAL has no room for this call"}
}

func (e *Engine) refusal(level BackpressureLevel) error {
	return &BackpressureError{Level: level, RetryAfter: level.RetryAfter(), Reason: e.pressureReason()}
}

// pressureReason names what the pressure is made of.
func (e *Engine) pressureReason() string {
	items := float64(e.wal.items.Load()) / float64(e.cfg.WALMaxItems)
	bytes := float64(e.wal.bytes.Load()) / float64(e.cfg.WALMaxBytes)
	mem := float64(e.l1.pinned.Load()) / float64(e.cfg.L1MaxBytes)
	switch max(items, bytes, mem) {
	case items:
		return "the WAL is full of ops that L3 has not taken"
	case bytes:
		return "the WAL is full of bytes that L3 has not taken"
	}
	return "memory is full of ops that L3 has not taken"
}

// assignVersion gives an op the next version, or checks the one its caller gave.
func (e *Engine) assignVersion(op *entry) error {
	known, ok := e.l1.peek(op.id())
	if ok {
		e.raise(op, known)
	}
	if op.version != 0 {
		if ok && op.compare(known) < 0 {
			return staleError(op, known.version)
		}
		if ref, spooled := e.wal.spooledAt(e.l1.hash(op.id())); spooled && ref.version > op.version {
			return staleError(op, ref.version)
		}
		e.clock.Observe(op.version)
		return nil
	}
	op.version = e.clock.Next()
	if ok && known.version >= op.version { // a caller numbered this id far ahead of the clock
		op.version = e.clock.NextAfter(known.version)
		if op.compare(known) < 0 {
			return staleError(op, known.version)
		}
	}
	return nil
}

func staleError(op *entry, known uint64) error {
	return fmt.Errorf("%w: item %q: version %d, known is %d", ErrStaleVersion, op.id(), op.version, known)
}

// logOps gives ops, which are reserved, their versions with assign, appends them to the WAL as
// one unit and waits for the commit, and at Archived for L3.
func (e *Engine) logOps(ctx context.Context, ops []*entry, d Durability, assign func(*entry) error) error {
	done := make(chan error, 1) // the log's loop must not wait for a caller that left
	at := time.Now().UnixNano()
	err := e.wal.append(ops, assign, func(seg *segment, last bool, err error) {
		if err == nil {
			e.queue.accept(unitOf(ops, at), seg, last)
		}
		done <- err
	})
	if err != nil {
		return err
	}
	select {
	case err := <-done:
		if err != nil {
			return err
		}
	case <-ctx.Done():
		return fmt.Errorf("syncengine: outcome unknown, the WAL commit is under way: %w", ctx.Err())
	}
	e.afterWrite()
	if d != Archived {
		return nil
	}
	if err = e.flush.flushAll(ctx); err != nil && !errors.Is(err, ErrRefused) {
		return err
	}
	return e.bad.errorOf(ops) // those that were refused may be other callers' ops
}

// afterWrite pays for the memory a write took.
func (e *Engine) afterWrite() {
	if e.l1.over(0) > 0 {
		e.l1.evict(0)
	}
}
