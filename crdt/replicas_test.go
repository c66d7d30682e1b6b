package crdt

// replicas_test.go lets replicas change and exchange states at random: late, twice, out of order.
// Beside each state goes the set of operations it has seen, and what they mean is computed from
// that set alone, by other rules than those of the package: an operation knows which earlier ones
// it has replaced, and of timed ones the greatest counts.

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// happened is an operation with what its replica had seen.
type happened struct {
	change
	kills []int // operations on the same thing that it replaces
}

// seen is a state, and the operations in it.
type seen struct {
	state []byte
	ops   map[int]bool
}

type world struct {
	kind     Kind
	numbered bool // the nodes number what they do
	history  []happened
	replicas []seen
	mail     []seen // sent at some time, by anybody
}

// alive returns those operations that no other one has replaced.
func (w *world) alive(ops map[int]bool) []happened {
	dead := make(map[int]bool)
	for i := range ops {
		for _, killed := range w.history[i].kills {
			dead[killed] = true
		}
	}
	var list []happened
	for _, i := range slices.Sorted(maps.Keys(ops)) {
		if !dead[i] && !w.history[i].remove {
			list = append(list, w.history[i])
		}
	}
	return list
}

func (w *world) do(t *rapid.T) {
	c := drawChange(t, w.kind)
	r := &w.replicas[slices.Index(someNodes, c.node)]
	h := happened{change: c}
	for i := range r.ops {
		if w.kind == KindMVRegister || w.history[i].key == c.key {
			h.kills = append(h.kills, i)
		}
	}
	op := c.op()
	if w.numbered {
		op.Number = uint64(len(w.history) + 1)
	}
	state, err := Apply(w.kind, r.state, c.delta(w.kind), op)
	r.state = []byte(sure(t, state, err))
	r.ops[len(w.history)] = true
	w.history = append(w.history, h)
}

func (w *world) take(t *rapid.T, r *seen, from seen) {
	state, err := Merge(w.kind, r.state, from.state)
	r.state = []byte(sure(t, state, err))
	maps.Copy(r.ops, from.ops)
}

// last returns the greatest write by timestamp, node, kind and value, of those that count.
func last(list []happened, counts func(happened) bool) (greatest happened, ok bool) {
	rank := func(h happened) string { return fmt.Sprintf("%020d %s %v %s", h.time, h.node, h.remove, h.value) }
	for _, h := range list {
		if counts(h) && (!ok || rank(h) > rank(greatest)) {
			greatest, ok = h, true
		}
	}
	return greatest, ok
}

// meaning is the value that the operations add up to.
func (w *world) meaning(ops map[int]bool) any {
	var all []happened
	for i := range ops {
		all = append(all, w.history[i])
	}
	switch w.kind {
	case KindGCounter, KindPNCounter:
		var sum int64
		for _, h := range all {
			sum += h.amount
		}
		return sum
	case KindGSet:
		set := make(map[string]bool)
		for _, h := range all {
			set[h.key] = true
		}
		return slices.AppendSeq([]string{}, sortedKeys(set))
	case KindORSet:
		set := make(map[string]bool)
		for _, h := range w.alive(ops) {
			set[h.key] = true
		}
		return slices.AppendSeq([]string{}, sortedKeys(set))
	case KindMVRegister:
		set := make(map[string]bool)
		for _, h := range w.alive(ops) {
			set[h.value] = true
		}
		return slices.AppendSeq([]string{}, sortedKeys(set))
	case KindORMap:
		values := make(map[string][]string)
		for _, h := range w.alive(ops) {
			if !slices.Contains(values[h.key], h.value) {
				values[h.key] = append(values[h.key], h.value)
				slices.Sort(values[h.key])
			}
		}
		return values
	case KindLWWRegister, KindFWWRegister:
		if w.kind == KindFWWRegister {
			return first(all)
		}
		if h, ok := last(all, func(happened) bool { return true }); ok {
			return h.value
		}
		return nil
	default: // KindLWWSet, KindLWWMap
		set, values := []string{}, make(map[string]string)
		for _, key := range slices.Sorted(slices.Values(someElements)) {
			h, ok := last(all, func(h happened) bool { return h.key == key })
			if ok && !h.remove {
				set, values[key] = append(set, key), h.value
			}
		}
		if w.kind == KindLWWSet {
			return set
		}
		return values
	}
}

func first(list []happened) any {
	var value any
	least := ""
	for _, h := range list {
		if rank := fmt.Sprintf("%020d %s %s", h.time, h.node, h.value); value == nil || rank < least {
			value, least = h.value, rank
		}
	}
	return value
}

func sortedKeys(set map[string]bool) func(yield func(string) bool) {
	return slices.Values(slices.Sorted(maps.Keys(set)))
}

func (w *world) check(t *rapid.T, r seen) {
	t.Helper()
	var want bytes.Buffer
	enc := json.NewEncoder(&want)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(w.meaning(r.ops)); err != nil {
		t.Fatal(err)
	}
	got, err := Value(w.kind, r.state)
	if sure(t, got, err) != string(bytes.TrimSpace(want.Bytes())) {
		t.Fatalf("%s shows %s, want %s", r.state, got, want.Bytes())
	}
}

func TestReplicasAgreeOnWhatTheOperationsMean(t *testing.T) {
	forEachKind(t, func(t *testing.T, k Kind) {
		rapid.Check(t, func(t *rapid.T) {
			w := &world{kind: k, numbered: rapid.Bool().Draw(t, "numbered")}
			for range someNodes {
				w.replicas = append(w.replicas, seen{Empty(k), make(map[int]bool)})
			}
			t.Repeat(map[string]func(*rapid.T){
				"do": w.do,
				"send": func(t *rapid.T) {
					r := w.replicas[rapid.IntRange(0, 2).Draw(t, "from")]
					w.mail = append(w.mail, seen{r.state, maps.Clone(r.ops)})
				},
				"receive": func(t *rapid.T) {
					if len(w.mail) == 0 {
						t.Skip("no mail") // rapid draws another action
					}
					w.take(t, &w.replicas[rapid.IntRange(0, 2).Draw(t, "to")], rapid.SampledFrom(w.mail).Draw(t, "mail"))
				},
				"": func(t *rapid.T) {
					for _, r := range w.replicas {
						w.check(t, r)
					}
				},
			})
			// Everybody gets everything, each in another order.
			w.mail = append(w.mail, w.replicas...)
			for i := range w.mail {
				w.mail[i].ops = maps.Clone(w.mail[i].ops)
			}
			for i := range w.replicas {
				for _, m := range rapid.Permutation(w.mail).Draw(t, "order") {
					w.take(t, &w.replicas[i], m)
				}
				if w.check(t, w.replicas[i]); !bytes.Equal(w.replicas[i].state, w.replicas[0].state) {
					t.Fatalf("in the end one has\n%s, another\n%s", w.replicas[0].state, w.replicas[i].state)
				}
			}
		})
	})
}

// Where deltas with numbers are applied in their order, a state that was read anywhere on the way
// adds nothing when it is merged later, and one that begins anew shares no dot with what was
// before.
func TestANumberedDeltaIsTheSameWhereverItIsApplied(t *testing.T) {
	forEachKind(t, func(t *testing.T, k Kind) {
		rapid.Check(t, func(t *rapid.T) {
			var changes []change
			var ops []Op
			for range rapid.IntRange(1, 8).Draw(t, "deltas") {
				changes = append(changes, drawChange(t, k))
				op := changes[len(changes)-1].op()
				op.Number = uint64(len(changes)) * 10
				ops = append(ops, op)
			}
			apply := func(state []byte, from, to int) []byte {
				for i := from; i < to; i++ {
					next, err := Apply(k, state, changes[i].delta(k), ops[i])
					state = []byte(sure(t, next, err))
				}
				return state
			}
			part := rapid.IntRange(0, len(changes)).Draw(t, "landed")
			early := apply(nil, 0, part)
			all := apply(early, part, len(changes))
			if whole := apply(nil, 0, len(changes)); !bytes.Equal(all, whole) {
				t.Fatalf("in two parts\n%s, at once\n%s", all, whole)
			}
			if part == 0 {
				return
			}
			merged, err := Merge(k, all, early)
			if sure(t, merged, err) != string(all) {
				t.Fatalf("a state that was read on the way turns\n%s into\n%s", all, merged)
			}
		})
	})
}

func TestANumberedDeltaThatComesLateTouchesNothingLater(t *testing.T) {
	for _, c := range []struct {
		kind        Kind
		early, late string
		want        string
	}{
		{KindORSet, `{"add":["x","y"]}`, `{"remove":["x","z"],"add":["y","w"]}`, `["w","x","y"]`},
		{KindORMap, `{"set":{"k":"v"}}`, `{"set":{"k":"old","l":"m"}}`, `{"k":["v"],"l":["m"]}`},
		{KindMVRegister, `"later"`, `"earlier"`, `["later"]`},
	} {
		state, err := Apply(c.kind, nil, []byte(c.early), Op{Node: "n", Number: 9})
		must(t, err)
		before := state
		state, err = Apply(c.kind, state, []byte(c.late), Op{Node: "n", Number: 5})
		must(t, err)
		if got, err := Value(c.kind, state); sure(t, got, err) != c.want {
			t.Errorf("%s: %s, want %s", c.kind, got, c.want)
		}
		merged, err := Merge(c.kind, state, before)
		var missing []string
		for _, x := range []string{"x", "y", "v", "later"} {
			if was, now := bytes.Contains(before, []byte(quote(x))), bytes.Contains([]byte(sure(t, merged, err)), []byte(quote(x))); was && !now {
				missing = append(missing, x)
			}
		}
		if missing != nil {
			t.Errorf("%s: merging with what was before loses %q", c.kind, missing)
		}
	}
}
