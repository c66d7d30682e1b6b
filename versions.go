package syncengine

// versions.go gives ops their versions (INV-3, INV-16).
//
// A version is a time, made here (internal/hlc). The clock follows no item: what a caller
// numbers with WithVersion orders that id alone. Only an op whose id is known at a version
// above the clock gets that one's successor, or it would lose unseen.
//
// # The order lock
//
// An op gets its version under one lock, which is held until the op is on its way to the log
// or in memory. So the log holds the ops of one id in version order, two groups of the same
// ids are not mixed, and a condition (conditions.go) is decided against the newest version
// that any op of the id has, acknowledged or not.
//
// # The bound
//
// A clock that starts lower than an earlier one of this Dir ended, since the host's clock was
// set back, would give out versions that lose to what is in L3. So a bound of all versions
// given out is kept in the WAL file: for logged ops by the log itself, in their commits; for
// Buffered ops, and those that go to L3 directly, by a value that is at most boundAhead ahead of
// the time: a clock that starts there after a kill is passed by the time soon, and the next bound
// is no further ahead, or kills in a row would move versions on and on.
// It is moved on before it is reached, by the loop "housekeeping" while versions are in use;
// the first op after a pause does it for itself. A clean end makes it exact.
//
// So numbers is the way of every op into the log (log.go) or into memory, and of its
// acknowledgement back: what LogUnit is given to call runs on the loop "wal".
//
// marks.go knows the ops between their versions and L1; ahead.go the ids that L3 holds above the
// clock.
//
// The time is that of L3 (fleettime.go).

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/syncengine-go/syncengine/internal/hlc"
)

const (
	boundKey   = "versions"
	boundAhead = mayLead
	boundEarly = boundAhead / 2 // it is moved on when so much of it is left
	boundRoom  = 10 << 16       // versions that there is room for when the clock itself is ahead
	aheadKey   = "versions_ahead"
	maxAhead   = 1000
)

// numbers hands out the versions of an engine.
type numbers struct {
	clock *hlc.Clock
	time  func() time.Time // see fleettime.go
	l3    func() time.Time // by which items expire
	l1    *l1
	wal   *journal
	queue *queue
	up    sink

	order  sync.Mutex // see above
	merges mergeNumbers
	lone   sync.WaitGroup // units on their way into the log that are known, see LogLone

	mu      sync.Mutex // guards the three
	marks   map[string]mark
	logging map[*entry]struct{} // merges on their way into the log
	ahead   map[string]uint64
	watched atomic.Int64 // watchers of marks
	saving  sync.Mutex   // held from a copy of ahead until it is stored

	bound   atomic.Uint64 // durable: no version above it was given to an op outside the log
	boundMu sync.Mutex    // held while it is moved on
	used    atomic.Bool   // since housekeeping looked last
}

func newNumbers(mem *l1, w *journal, q *queue, up sink) *numbers {
	n := &numbers{time: time.Now, l3: time.Now, l1: mem, wal: w, queue: q, up: up, marks: make(map[string]mark), logging: make(map[*entry]struct{}), ahead: make(map[string]uint64)}
	n.clock = hlc.New(func() time.Time { return n.time() }, 0)
	return n
}

// Follow makes the time of L3 that of versions.
func (n *numbers) Follow(t *fleetTime) {
	n.time, n.l3 = t.Now, t.L3
	t.Tell(n.clock.Last, n.clock.Raise)
}

// head is what is known of the newest op of an id: an entry, or of a spooled one its version.
type head struct {
	op      *entry // nil: only the version is known
	Version uint64 // 0: nothing is known
}

// Newest returns the newest op of an id that is known without I/O. The order lock is held.
func (n *numbers) Newest(id string) (h head) {
	see := func(e *entry) {
		if e != nil && (h.op == nil || e.compare(h.op) > 0) {
			h = head{e, e.version}
		}
	}
	if e, ok := n.l1.Peek(id); ok {
		see(e)
	}
	n.mu.Lock()
	see(n.marks[id].op)
	if v := n.ahead[id]; v > h.Version {
		h = head{nil, v}
	}
	n.mu.Unlock()
	if v := n.up.RefusedAt(id); v > h.Version {
		h = head{nil, v}
	}
	if v := n.queue.NewestMerge(id); v > h.Version {
		h = head{nil, v}
	}
	if version, ok := n.wal.Spooled(n.l1.Hash(id)); ok && version > h.Version {
		h = head{nil, version}
	}
	return h
}

// Dots gives merges the numbers of their dots, if they have none.
func (n *numbers) Dots(ops []*entry) error {
	n.order.Lock()
	defer n.order.Unlock()
	for _, op := range ops {
		if err := n.dot(op); err != nil {
			return err
		}
	}
	return nil
}

func (n *numbers) dot(op *entry) error {
	if !op.isMerge() || op.hasSeq() {
		return nil
	}
	seq, err := n.merges.next(n.wal)
	if err == nil {
		op.setSeq(seq)
	}
	return err
}

// Assign gives an op the next version, or checks the one its caller gave. The order lock is held.
func (n *numbers) Assign(op *entry) error {
	if err := n.dot(op); err != nil {
		return err
	}
	known := n.Newest(op.item())
	if known.op != nil {
		n.raise(op, known.op)
	}
	if op.version == 0 {
		op.version = n.clock.Next()
		least := known.Version
		if !op.isMerge() {
			least = n.queue.WithMerges(op.id(), least)
		}
		if least >= op.version {
			op.version = n.clock.After(least)
		}
	}
	if op.isMerge() { // it may be older
		return nil
	}
	if op.version == known.Version && known.op == nil { // its caller's own number; which of the two wins, their contents decide
		waiting, _, err := n.up.Waiting(context.Background(), op.id())
		if err != nil {
			return err
		}
		if waiting != nil && waiting.version == op.version {
			known.op = waiting
		}
	}
	if op.version < known.Version || op.version == known.Version && known.op != nil && (op.compare(known.op) < 0 || op.twin(known.op)) {
		return staleError(op, known.Version)
	}
	return nil
}

// raise is the default scoring: an op of normal priority whose id is read often here, and was
// read just now, is flushed before others, since elsewhere it is probably read, too. What is
// stored is the priority it was submitted with.
func (n *numbers) raise(op, known *entry) {
	if op.priority == PriorityNormal && op.state.Load() != stateAsked && known.place.Uses() >= oftenRead &&
		n.l1.Idle(known) < freshAccess {
		op.state.Store(stateRaised)
	}
}

// What is read so often, the last time so lately, is raised.
const (
	oftenRead   = 16
	freshAccess = time.Minute
)

// errRestsOnLost keeps an op out of the log whose condition was decided by another one that
// the log did not take.
var errRestsOnLost = errors.New("the log did not take the op that a condition was decided by")

// LogUnit gives ops their versions and appends them to the log as one unit. assign is called
// for each, and may refuse them all; what it finds the decision to rest on, ops whose commits
// are under way, must be committed as well. then runs on the log's loop. The ops have their
// place in the log; when LogUnit or then gets an error, they have it still.
func (n *numbers) LogUnit(ops []*entry, assign func(*entry) (restsOn *entry, err error), then func(seg *segment, last bool, err error)) error {
	n.order.Lock()
	defer n.order.Unlock()
	var rests []*entry
	for _, op := range ops {
		on, err := assign(op)
		if err != nil {
			return err
		}
		if on != nil {
			rests = append(rests, on)
		}
	}
	n.append(ops, unlessLost(rests, n.logMergesBefore(ops)), then)
	return nil
}

// append hands ops that have their versions to the log. The order lock is held.
func (n *numbers) append(ops []*entry, unless func() error, then func(seg *segment, last bool, err error)) {
	n.begin(ops)
	n.wal.Append(ops, n.clock.Last(), unless, func(seg *segment, last bool, err error) {
		if err != nil {
			for _, op := range ops {
				if op.state.Load()&(statePinned|stateOwn) == 0 { // others are known by other means
					op.state.Or(stateLost)
				}
			}
		}
		then(seg, last, err)
		n.end(ops, err) // after L1 has them
	})
}

// unlessLost returns an error when the log has not taken one of rests, or when lost, if it is not
// nil, says that it has not taken another one.
func unlessLost(rests []*entry, lost func() bool) func() error {
	if len(rests) == 0 && lost == nil {
		return nil
	}
	return func() error {
		if lost != nil && lost() {
			return errRestsOnLost
		}
		for _, op := range rests {
			if op.state.Load()&stateLost != 0 {
				return errRestsOnLost
			}
		}
		return nil
	}
}

// errMustFollow keeps a merge out of memory that would overtake another one of its item there.
var errMustFollow = errors.New("a merge of the item is on its way through the log")

// AcceptUnit gives ops, for which memory is promised, their versions and hands them over.
func (n *numbers) AcceptUnit(u unit, assign func(*entry) error) error {
	n.order.Lock()
	defer n.order.Unlock()
	if n.mustFollow(u.Ops()) {
		return errMustFollow
	}
	if slices.ContainsFunc(u.Ops(), (*entry).isMerge) {
		if err := n.merges.mayLose(n.wal); err != nil {
			return err
		}
	}
	for _, op := range u.Ops() {
		if err := assign(op); err != nil {
			return err
		}
		if err := n.Within(op.version); err != nil {
			return err
		}
	}
	n.queue.Accept(u, nil, false)
	n.note(u.Ops()) // not before: who begins to watch between the two would see it neither here nor in L1
	return nil
}

// errNewer means that a later op of this engine stands for one that was outranked.
var errNewer = errors.New("a later op of the id has come")

// Above numbers the copy of an op that L3 holds something higher of. If another op of this engine
// came later, that one's fate is waited for first; if L3 holds something higher of it as well, the
// copy is of that one. One that L3 refuses does not count. The order lock is held, and the id is
// watched since before the op was accepted.
func (n *numbers) Above(op *entry, l *lostOp) error {
	if op.isMerge() { // no other op stands for it; what is above it is a delete
		return n.numberAbove(op, l.Held.Version)
	}
	n.mu.Lock()
	m := n.marks[op.item()]
	n.mu.Unlock()
	if m.landed > l.Op.Version {
		return errNewer
	}
	if m.op != nil && m.op.version > max(l.Op.Version, l.waited) {
		l.waited = m.op.version
		return errNewer
	}
	if m.lost != nil && m.lost.Op.Version > l.Op.Version {
		was := op.bytes()
		op.become(newEntry(&m.lost.Op))
		n.wal.Resize(int64(op.bytes() - was))
		l.Held = m.lost.Held
	}
	return n.numberAbove(op, l.Held.Version)
}

func (n *numbers) numberAbove(op *entry, floor uint64) error {
	if floor == MaxVersion {
		return staleError(op, MaxVersion)
	}
	if op.version = n.clock.Next(); op.version <= floor {
		op.version = n.clock.After(floor)
	}
	return nil
}

// StillLost returns those of lost ops that no later op of this engine in L3 stands for.
func (n *numbers) StillLost(lost []lostOp) (left []lostOp) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, l := range lost {
		if n.marks[l.Op.ID].landed <= l.Op.Version {
			left = append(left, l)
		}
	}
	return left
}

// Judge decides the condition of an op by what its id held when it was watched and by what came
// since. The order lock is held; the answer errUnsettled means that it rests on an op whose
// commit is under way or failed, and shall be asked again.
func (n *numbers) Judge(op *entry, k *known, want uint64, always bool) (restsOn *entry, err error) {
	n.mu.Lock()
	m := n.marks[op.item()]
	n.mu.Unlock()
	if m.failed != k.failed {
		return nil, errUnsettled
	}
	live := func(e *entry) uint64 {
		if e.expired(n.l3) {
			return 0
		}
		return liveVersion(e)
	}
	cur, underWay := k.at, false
	if m.op != nil && (m.op.compare(cur) >= 0 || m.op.version == cur.version && m.op.expired(n.l3)) { // cur may be what it has lapsed to
		cur, underWay = m.op, m.underWay()
	}
	switch {
	case !always && live(cur) != want:
		err = &ConflictError{ID: op.id(), Want: want, Have: live(cur)}
	case op.version != 0 && (op.compare(cur) < 0 || !always && op.version <= cur.version || op.twin(cur)):
		err = staleError(op, cur.version)
	}
	if err != nil {
		if underWay {
			err = errUnsettled
		}
		return nil, err
	}
	if op.version == 0 {
		if op.version = n.clock.Next(); op.version <= cur.version {
			op.version = n.clock.After(cur.version)
		}
	}
	if underWay {
		restsOn = cur
	}
	return restsOn, nil
}

// NumberAbove gives ops versions above floor, for L3 to judge.
func (n *numbers) NumberAbove(ops []*entry, floor uint64) error {
	n.order.Lock()
	defer n.order.Unlock()
	for _, op := range ops {
		least := max(floor, n.queue.WithMerges(op.item(), n.Newest(op.item()).Version))
		if op.version = n.clock.Next(); op.version <= least {
			op.version = n.clock.After(least)
		}
	}
	return n.Within(n.clock.Last())
}

// known is what a watched id held: a shadow, of version 0 when it held nothing.
type known struct {
	at      *entry
	failed  uint64 // see Watch
	Merging bool   // it is a live item that is merged into
}

func knownAs(rec *Record, failed uint64) known {
	at := &entry{version: rec.Version, deleted: rec.Deleted, hash: rec.ContentHash}
	if ms := millis(rec.ExpiresAt); ms != 0 {
		at.meta = &carried{expires: ms}
	}
	return known{at: at, failed: failed, Merging: rec.CRDT != "" && !rec.Deleted}
}

// Version returns its version, a tombstone's, too.
func (k *known) Version() uint64 { return k.at.version }

// Live returns its version as conditions see it: 0 when there is no item.
func (k *known) Live() uint64 { return liveVersion(k.at) }

func liveVersion(e *entry) uint64 {
	if e.deleted {
		return 0
	}
	return e.version
}

// errUnsettled: see Judge.
var errUnsettled = errors.New("a condition rests on an op whose commit is under way")

// Within makes sure that the bound in the WAL file covers a version.
func (n *numbers) Within(version uint64) error {
	if !n.used.Load() {
		n.used.Store(true)
	}
	if version <= n.bound.Load() || version > n.clock.Last() { // numbered by its caller, or above such a one
		return nil
	}
	return n.moveBound(context.Background())
}

// moveBound moves the bound on.
func (n *numbers) moveBound(ctx context.Context) error {
	n.boundMu.Lock()
	defer n.boundMu.Unlock()
	last, now := n.clock.Last(), hlc.At(n.time())
	if n.bound.Load() >= max(now+uint64(boundEarly/time.Millisecond)<<16, last+boundRoom/2) {
		return nil // another caller has just done it
	}
	return n.saveBound(ctx, max(now+uint64(boundAhead/time.Millisecond)<<16, last+boundRoom))
}

func (n *numbers) saveBound(ctx context.Context, to uint64) error {
	if err := n.wal.SetMeta(ctx, boundKey, binary.BigEndian.AppendUint64(nil, to)); err != nil {
		return err
	}
	n.bound.Store(to)
	return nil
}

// Tick moves the bound on in time, if versions were needed lately.
func (n *numbers) Tick(ctx context.Context) error {
	left := int64(n.bound.Load() - hlc.At(n.time()))
	if left > int64(boundEarly/time.Millisecond)<<16 || !n.used.Swap(false) {
		return nil
	}
	return n.moveBound(ctx)
}

// Load starts the clock above all that was given out on this Dir before.
func (n *numbers) Load(ctx context.Context) error {
	b, err := n.wal.Meta(ctx, boundKey)
	if err != nil {
		return err
	}
	if len(b) != 0 && len(b) != 8 {
		return walError(fmt.Errorf("%w: bound of versions", errBadPayload))
	}
	var bound uint64
	if len(b) == 8 {
		bound = binary.BigEndian.Uint64(b)
	}
	n.clock.Raise(max(bound, n.wal.Max()))
	n.bound.Store(bound)
	if err := n.merges.load(ctx, n.wal); err != nil {
		return err
	}
	return n.loadAhead(ctx)
}

// Close makes the bounds exact: no more versions are given out.
func (n *numbers) Close(ctx context.Context) error {
	if err := n.merges.close(ctx, n.wal); err != nil {
		return err
	}
	if n.bound.Load() == 0 {
		return nil
	}
	return n.saveBound(ctx, n.clock.Last())
}

// TooFarAhead reports whether a version given by a caller lies beyond what clocks may differ by.
func (n *numbers) TooFarAhead(version uint64, skew time.Duration) bool {
	return version > max(n.clock.Last(), hlc.At(n.time().Add(skew))|math.MaxUint16)
}
