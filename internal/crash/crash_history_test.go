package crash

// crash_history_test.go judges what a crash has left. It keeps the history of all children
// of a test, from their lines, and holds an engine or L3 itself against it.
//
// An op is durable once it was acknowledged at Logged or above, or once the child has said
// that what it had acknowledged before is safe. A key may hold an op exactly if
//
//   - a child began it and it was not refused, and
//   - no durable op of the key began after it had ended.
//
// So two ops that overlap may have come in either order, but no older op stands after a
// newer one, no deleted value comes back, and nothing acknowledged is missing (INV-1, 3,
// 4). What was found after a crash is the only truth from then on: it is where the next
// child begins. All ids of a group hold the same op (INV-5). What no child wrote stands
// nowhere (INV-11).

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/failpoint"
	"github.com/syncengine-go/syncengine/internal/lab"
)

// crashOp is one op, or the state a key was found in.
type crashOp struct {
	n            int64 // 0 and deleted: the key did not exist
	deleted      bool
	began, ended int // lines; ended is math.MaxInt while it is under way
	acked        bool
	durable      bool
}

// crashSeen is what some tier holds of an id.
type crashSeen struct {
	n       int64 // 0: nothing, or a tombstone
	deleted bool  // a tombstone
	version uint64
}

type crashHistory struct {
	ops   map[string][]*crashOp // by key, in the order they began
	wrote map[int64]string      // the key of each op that was ever begun and not refused
	line  int
	marks map[string]int
	l3    map[string]uint64 // the highest version seen in L3, by id
	kills map[failpoint.Point]int

	acks, ackedOps, refused, safe          int
	lost, resurrected, torn, wentBack, odd int
	faults                                 []string
}

func newCrashHistory() *crashHistory {
	h := &crashHistory{ops: make(map[string][]*crashOp), wrote: make(map[int64]string), marks: make(map[string]int),
		l3: make(map[string]uint64), kills: make(map[failpoint.Point]int)}
	for w := range crashWriters {
		for i := range crashOwn {
			h.settle(fmt.Sprintf("own-%d-%d", w, i), 0)
		}
	}
	for i := range max(crashHot, crashGroups) {
		h.settle(fmt.Sprintf("hot-%d", i), 0)
		h.settle(fmt.Sprintf("group-%d", i), 0)
	}
	return h
}

// settle makes n what a key holds, 0 for nothing.
func (h *crashHistory) settle(key string, n int64) {
	h.ops[key] = []*crashOp{{n: n, deleted: n == 0, durable: true}}
}

func (h *crashHistory) fault(count *int, format string, args ...any) {
	*count++
	h.faults = append(h.faults, fmt.Sprintf(format, args...))
}

// read takes in a line of a child.
func (h *crashHistory) read(line string) error {
	h.line++
	verb, rest, _ := strings.Cut(line, " ")
	f := strings.Fields(rest)
	switch {
	case verb == "ready" || verb == "end":
	case verb == "kill":
		h.kills[failpoint.Point(rest)]++
	case verb == "wrong":
		h.fault(&h.odd, "the child saw a %s", line)
	case verb == "mark" && len(f) == 1:
		h.marks[f[0]] = h.line
	case verb == "safe" && len(f) == 1:
		h.safe++
		h.secure(h.marks[f[0]])
	case verb == "closed":
		h.secure(h.line)
	case len(f) > 1:
		return h.readOp(verb, f)
	default:
		return fmt.Errorf("bad line %q", line)
	}
	return nil
}

func (h *crashHistory) readOp(verb string, f []string) error {
	key := f[0]
	n, err := strconv.ParseInt(f[1], 10, 64)
	if err != nil {
		return err
	}
	if h.ops[key] == nil {
		h.settle(key, 0)
	}
	ops := h.ops[key]
	if verb == "try" && len(f) == 3 {
		h.wrote[n] = key
		h.ops[key] = append(ops, &crashOp{n: n, deleted: f[2] == "del", began: h.line, ended: math.MaxInt})
		return nil
	}
	i := slices.IndexFunc(ops, func(op *crashOp) bool { return op.n == n && op.began > 0 })
	switch {
	case i < 0:
		return fmt.Errorf("%s of op %d of %s, which was not begun", verb, n, key)
	case verb == "ack" && len(f) == 3:
		h.acks++
		h.ackedOps += len(crashIDsOf(key))
		ops[i].ended, ops[i].acked, ops[i].durable = h.line, true, ops[i].durable || f[2] == "safe"
	case verb == "ref":
		h.ops[key] = slices.Delete(ops, i, i+1)
		delete(h.wrote, n)
		h.refused++
	default:
		return fmt.Errorf("bad line %q", verb)
	}
	return nil
}

// secure makes durable what was acknowledged before a line.
func (h *crashHistory) secure(line int) {
	for _, ops := range h.ops {
		for _, op := range ops {
			op.durable = op.durable || op.acked && op.ended < line
		}
	}
}

// died ends what a child had begun: it is in the WAL by now, or never will be.
func (h *crashHistory) died() {
	for _, ops := range h.ops {
		for _, op := range ops {
			op.ended = min(op.ended, h.line)
		}
	}
}

// judge counts it as a fault when a key may not hold op n, 0 for nothing.
func (h *crashHistory) judge(where, key string, n int64) {
	var outranked *crashOp
	known := false
	for _, op := range h.ops[key] {
		if n == 0 && !op.deleted || n != 0 && (op.deleted || op.n != n) {
			continue
		}
		known = true
		by := h.newerThan(key, op)
		if by == nil {
			return
		}
		outranked = by
	}
	switch {
	case !known && n != 0:
		h.fault(&h.odd, "%s: %s holds %d, which nobody wrote", where, key, n)
	case !known:
		h.fault(&h.lost, "%s: %s is gone and was never deleted", where, key)
	case outranked.deleted && n != 0:
		h.fault(&h.resurrected, "%s: %s holds %d, which was deleted by %d", where, key, n, outranked.n)
	default:
		h.fault(&h.lost, "%s: %s holds %d, lost is %d", where, key, n, outranked.n)
	}
}

// newerThan returns a durable op that began after op had ended.
func (h *crashHistory) newerThan(key string, op *crashOp) *crashOp {
	for _, w := range slices.Backward(h.ops[key]) {
		if w.durable && w.began > op.ended {
			return w
		}
	}
	return nil
}

// ids returns the ids of all keys.
func (h *crashHistory) ids() (ids []string) {
	for key := range h.ops {
		ids = append(ids, crashIDsOf(key)...)
	}
	slices.Sort(ids)
	return ids
}

// crashLook reads ids from somewhere.
type crashLook func(ctx context.Context, ids []string) (map[string]crashSeen, error)

// check holds what an engine answers against the history. What it found is settled then.
func (h *crashHistory) check(ctx context.Context, where string, look crashLook) error {
	seen, err := look(ctx, h.ids())
	if err != nil {
		return fmt.Errorf("%s: %w", where, err)
	}
	for key := range h.ops {
		n, whole := h.whole(where, key, seen)
		if !whole {
			continue
		}
		h.judge(where, key, n)
		h.settle(key, n)
	}
	for id, s := range seen {
		if s.n != 0 && s.version < h.l3[id] {
			h.fault(&h.wentBack, "%s: %s has version %d, L3 had %d", where, id, s.version, h.l3[id])
		}
	}
	return nil
}

// checkL3 looks at the rows of L3 from outside, while nobody has it open. They may be behind
// what was acknowledged, but never behind what they have been, and a group is whole there,
// too. What L3 holds can't be lost any more.
func (h *crashHistory) checkL3(ctx context.Context, store syncengine.ArchiveStore) error {
	seen, err := lookAtStore(store)(ctx, h.ids())
	if err != nil {
		return fmt.Errorf("L3: %w", err)
	}
	for id, s := range seen {
		if s.version < h.l3[id] {
			h.fault(&h.wentBack, "L3: the row of %s has version %d, it had %d", id, s.version, h.l3[id])
		}
		h.l3[id] = s.version
	}
	for key, ops := range h.ops {
		n, whole := h.whole("L3", key, seen)
		if !whole || n == 0 {
			continue
		}
		switch {
		case strings.HasPrefix(key, "bad-"):
			h.fault(&h.odd, "L3 holds %d of %s, which it refuses", n, key)
		case h.wrote[n] != key:
			h.fault(&h.odd, "L3: %s holds %d, which nobody wrote", key, n)
		}
		for _, op := range ops {
			op.durable = op.durable || op.n == n && !op.deleted
		}
	}
	return nil
}

// whole returns what a key holds, unless it is a group that is torn.
func (h *crashHistory) whole(where, key string, seen map[string]crashSeen) (n int64, ok bool) {
	ids := crashIDsOf(key)
	n = seen[ids[0]].n
	for _, id := range ids {
		if seen[id].n != n {
			h.fault(&h.torn, "%s: %s is torn: %s holds %d, %s holds %d", where, key, ids[0], n, id, seen[id].n)
			return 0, false
		}
	}
	return n, true
}

// lookAtStore reads a store's rows, in one call.
func lookAtStore(store syncengine.ArchiveStore) crashLook {
	return func(ctx context.Context, ids []string) (map[string]crashSeen, error) {
		found, err := store.GetMany(ctx, ids)
		seen := make(map[string]crashSeen)
		for i := range found {
			switch f := &found[i]; {
			case f.Err != nil:
				return nil, f.Err
			case f.OK && f.Record.Deleted:
				seen[ids[i]] = crashSeen{deleted: true, version: f.Record.Version}
			case f.OK:
				n, err := crashNumber(f.Record.Content)
				if err != nil {
					return nil, err
				}
				seen[ids[i]] = crashSeen{n: n, version: f.Record.Version}
			}
		}
		return seen, err
	}
}

// lookByGet and lookByGetMany ask an engine.
func lookByGet(e *syncengine.Engine) crashLook {
	return func(ctx context.Context, ids []string) (map[string]crashSeen, error) {
		seen := make(map[string]crashSeen)
		for _, id := range ids {
			it, err := e.Get(ctx, id)
			n, err := crashRead(it, err)
			if err != nil {
				return nil, fmt.Errorf("get %s: %w", id, err)
			}
			seen[id] = crashSeen{n: n, version: it.Version}
		}
		return seen, nil
	}
}

func lookByGetMany(e *syncengine.Engine) crashLook {
	return func(ctx context.Context, ids []string) (map[string]crashSeen, error) {
		items, err := e.GetMany(ctx, ids)
		if err != nil {
			return nil, err
		}
		seen := make(map[string]crashSeen)
		for i, it := range items {
			if it == nil {
				continue
			}
			n, err := crashNumber(it.Content)
			if err != nil {
				return nil, fmt.Errorf("get %s: %w", ids[i], err)
			}
			seen[ids[i]] = crashSeen{n: n, version: it.Version}
		}
		return seen, nil
	}
}

func (h *crashHistory) String() string {
	return fmt.Sprintf("%d acknowledged, %d refused, %d lost, %d resurrected, %d torn, %d went back, %d odd", h.acks, h.refused, h.lost, h.resurrected, h.torn, h.wentBack, h.odd)
}

// TestTheCrashCheckerSeesWhatIsWrong gives the checker histories and wrong ends of them.
func TestTheCrashCheckerSeesWhatIsWrong(t *testing.T) {
	put := func(n int64) map[string]crashSeen { return map[string]crashSeen{"a": {n: n, version: 1}} }
	group := func(odd string, n, other int64) map[string]crashSeen {
		seen := make(map[string]crashSeen)
		for _, id := range crashIDsOf("group-0") {
			seen[id] = crashSeen{n: n, version: 1}
		}
		seen[odd] = crashSeen{n: other, version: 1}
		return seen
	}
	const one, two, gone = "try a 1 put;ack a 1 safe;", "try a 2 put;ack a 2 safe;", "try a 3 del;ack a 3 safe;"
	for _, c := range []struct {
		name, lines string
		seen        map[string]crashSeen
		want        string // lost, resurrected, torn, wentBack, odd
	}{
		{"the last op stands", one + two, put(2), "0 0 0 0 0"},
		{"nothing was begun", "ready", nil, "0 0 0 0 0"},
		{"an op under way may stand", one + "try a 2 put", put(2), "0 0 0 0 0"},
		{"an op under way may not stand", one + "try a 2 put", put(1), "0 0 0 0 0"},
		{"a delete under way", one + "try a 3 del", nil, "0 0 0 0 0"},
		{"overlapping ops in either order", "try a 1 put;try a 2 put;ack a 1 safe;ack a 2 safe", put(1), "0 0 0 0 0"},
		{"the older op stands", one + two, put(1), "1 0 0 0 0"},
		{"the only op is gone", one, nil, "1 0 0 0 0"},
		{"a deleted value is back", one + gone, put(1), "0 1 0 0 0"},
		{"a put after a delete is gone", gone + two, nil, "1 0 0 0 0"},
		{"a refused op stands", one + "try a 2 put;ref a 2", put(2), "0 0 0 0 1"},
		{"a value from nowhere", one, put(7), "0 0 0 0 1"},
		{"a Buffered op may be gone", one + "try a 2 put;ack a 2 mem", put(1), "0 0 0 0 0"},
		{"a Buffered op may stand", one + "try a 2 put;ack a 2 mem", put(2), "0 0 0 0 0"},
		{"a Buffered op before a mark", one + "try a 2 put;ack a 2 mem;mark 5;safe 5", put(1), "1 0 0 0 0"},
		{"a Buffered op after the mark", one + "try a 2 put;mark 5;ack a 2 mem;safe 5", put(1), "0 0 0 0 0"},
		{"a Buffered op and a Close", one + "try a 2 put;ack a 2 mem;closed", put(1), "1 0 0 0 0"},
		{"a Buffered op is older than a Logged one", "try a 1 put;ack a 1 mem;" + two, put(1), "1 0 0 0 0"},
		{"an op of an earlier child that was under way", "try a 1 put;DIED;" + two, put(1), "1 0 0 0 0"},
		{"an op of an earlier child that was under way, and a mark", "try a 1 put;DIED;mark 5;safe 5", nil, "0 0 0 0 0"},
		{"a whole group", "try group-0 1 put;ack group-0 1 safe", group("", 1, 1), "0 0 0 0 0"},
		{"a group under way lacks one", "try group-0 1 put", group("member-3-of-group-0", 1, 0), "0 0 1 0 0"},
		{"the child saw something", "wrong answer: a holds 1, want 2", nil, "0 0 0 0 1"},
	} {
		h := newCrashHistory()
		for line := range strings.SplitSeq(strings.Trim(c.lines, ";"), ";") {
			if line == "DIED" {
				h.died()
				continue
			}
			lab.Must(t, h.read(line))
		}
		look := func(context.Context, []string) (map[string]crashSeen, error) { return c.seen, nil }
		lab.Must(t, h.check(context.Background(), c.name, look))
		if got := fmt.Sprint(h.lost, h.resurrected, h.torn, h.wentBack, h.odd); got != c.want {
			t.Errorf("%s: %s, want %s: %v", c.name, got, c.want, h.faults)
		}
		if !strings.HasSuffix(c.want, "0 0 0 0 0") {
			continue
		}
		h.l3["a"] = cmp.Or(c.seen["a"].version, 1) + 1 // L3 had more
		lab.Must(t, h.check(context.Background(), c.name, look))
		if (h.wentBack == 1) != (c.seen["a"].n != 0) {
			t.Errorf("%s: it went back %d times: %v", c.name, h.wentBack, h.faults)
		}
	}
}
