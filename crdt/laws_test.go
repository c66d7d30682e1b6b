package crdt

// laws_test.go checks what makes merging safe, on canonical bytes, for all kinds.

import (
	"testing"

	"pgregory.net/rapid"
)

func TestMergeIsASemilattice(t *testing.T) {
	forEachKind(t, func(t *testing.T, k Kind) {
		rapid.Check(t, func(t *rapid.T) {
			states := make([][]byte, 4)
			for i := range states {
				states[i] = drawState(t, k)
			}
			merge := func(a, b []byte) []byte { m, err := Merge(k, a, b); return []byte(sure(t, m, err)) }
			for _, a := range states {
				c, err := Canonical(k, a)
				canonical := sure(t, c, err)
				if got := merge(a, a); string(got) != canonical {
					t.Fatalf("%s merges with itself to\n%s", a, got)
				}
				if got := merge(a, Empty(k)); string(got) != canonical {
					t.Fatalf("%s merges with the empty state to\n%s", a, got)
				}
				for _, b := range states {
					ab, ba := merge(a, b), merge(b, a)
					if string(ab) != string(ba) {
						t.Fatalf("%s and\n%s merge to\n%s or\n%s", a, b, ab, ba)
					}
					if got := merge(ab, a); string(got) != string(ab) {
						t.Fatalf("%s already has\n%s, but merges with it to\n%s", ab, a, got)
					}
					for _, c := range states {
						if left, right := merge(ab, c), merge(a, merge(b, c)); string(left) != string(right) {
							t.Fatalf("%s and\n%s and\n%s merge to\n%s or\n%s", a, b, c, left, right)
						}
					}
				}
			}
		})
	})
}

func TestCompactDoesNotDependOnOrderOrGroups(t *testing.T) {
	forEachKind(t, func(t *testing.T, k Kind) {
		rapid.Check(t, func(t *rapid.T) {
			states := make([][]byte, rapid.IntRange(1, 6).Draw(t, "states"))
			for i := range states {
				states[i] = drawState(t, k)
			}
			all, err := Compact(k, states...)
			want := sure(t, all, err)
			rest := rapid.Permutation(states).Draw(t, "permutation")
			var groups [][]byte
			for len(rest) > 0 {
				n := rapid.IntRange(1, len(rest)).Draw(t, "group")
				group, err := Compact(k, rest[:n]...)
				groups, rest = append(groups, []byte(sure(t, group, err))), rest[n:]
			}
			got, err := Compact(k, groups...)
			if sure(t, got, err) != want {
				t.Fatalf("%q compact to\n%s or\n%s", states, want, got)
			}
		})
	})
}

func TestCompactOfNoneAndOne(t *testing.T) {
	forEachKind(t, func(t *testing.T, k Kind) {
		none, err := Compact(k)
		if sure(t, none, err) != "null" || EmptyCompaction != "null" {
			t.Errorf("no states compact to %s", none)
		}
		spaced := append([]byte(" "), Empty(k)...)
		one, err := Compact(k, spaced)
		if sure(t, one, err) != string(Empty(k)) {
			t.Errorf("%s compacts to %s", spaced, one)
		}
	})
}

func TestCanonicalFormReadsAsItself(t *testing.T) {
	forEachKind(t, func(t *testing.T, k Kind) {
		rapid.Check(t, func(t *rapid.T) {
			state := drawState(t, k)
			once, err := Canonical(k, state)
			want := sure(t, once, err)
			twice, err := Canonical(k, once)
			if got := sure(t, twice, err); got != want {
				t.Fatalf("%s is canonically\n%s, and that is\n%s", state, want, got)
			}
			if equal, err := Equal(k, state, once); err != nil || !equal {
				t.Fatalf("%s does not equal its canonical form: %v, %v", state, equal, err)
			}
			a, err := Value(k, state)
			b, err2 := Value(k, once)
			if sure(t, a, err) != sure(t, b, err2) {
				t.Fatalf("%s shows %s, its canonical form %s", state, a, b)
			}
		})
	})
}

// TestApplyMovesUp: the state before adds nothing to the one after. Otherwise a replica that gets
// back its own old state would lose an operation or undo one.
func TestApplyMovesUp(t *testing.T) {
	forEachKind(t, func(t *testing.T, k Kind) {
		rapid.Check(t, func(t *rapid.T) {
			before := drawState(t, k)
			c := drawChange(t, k)
			op := c.op()
			op.Seconds = rapid.Uint64Range(0, 3).Draw(t, "seconds")
			b, err := Apply(k, before, c.delta(k), op)
			after := sure(t, b, err)
			again, err := Apply(k, before, c.delta(k), op)
			if sure(t, again, err) != after {
				t.Fatalf("the same arguments lead to\n%s and\n%s", after, again)
			}
			merged, err := Merge(k, []byte(after), before)
			if sure(t, merged, err) != after {
				t.Fatalf("%s leads by %s of %+v to\n%s, and both merge to\n%s", before, c.delta(k), op, after, merged)
			}
		})
	})
}

func TestPruneKeepsTheValue(t *testing.T) {
	forEachKind(t, func(t *testing.T, k Kind) {
		rapid.Check(t, func(t *rapid.T) {
			state := drawState(t, k)
			before := drawTime(t)
			pruned, err := Prune(k, state, before)
			sure(t, pruned, err)
			was, err := Value(k, state)
			is, err2 := Value(k, pruned)
			if sure(t, was, err) != sure(t, is, err2) {
				t.Fatalf("%s shows %s; pruned before %d, it is\n%s and shows %s", state, was, before, pruned, is)
			}
			again, err := Prune(k, pruned, before)
			if sure(t, again, err) != string(pruned) {
				t.Fatalf("%s is pruned again to\n%s", pruned, again)
			}
			if canonical, err := Canonical(k, state); k != KindLWWSet && k != KindLWWMap && sure(t, canonical, err) != string(pruned) {
				t.Fatalf("%s is pruned to\n%s", state, pruned)
			}
		})
	})
}

func TestPruneForgetsOldRemovalsOnly(t *testing.T) {
	for _, test := range []struct {
		kind        Kind
		state, want string
	}{
		{
			KindLWWSet,
			`{"add_set":{"dead":[1,"a"],"alive":[5,"a"],"young":[1,"a"]},"remove_set":{"dead":[2,"a"],"alive":[2,"a"],"young":[3,"a"]}}`,
			`{"add_set":{"alive":[5,"a"],"young":[1,"a"]},"remove_set":{"young":[3,"a"]},"vclock":{"clocks":{}}}`,
		},
		{
			KindLWWMap,
			`{"entries":{"k":["v",1,"a"]},"removed":{"old":[2,"a"],"young":[3,"a"]}}`,
			`{"entries":{"k":["v",1,"a"]},"removed":{"young":[3,"a"]},"vclock":{"clocks":{}}}`,
		},
	} {
		got, err := Prune(test.kind, []byte(test.state), 3)
		if sure(t, got, err) != test.want {
			t.Errorf("%v: pruned to %s, want %s", test.kind, got, test.want)
		}
	}
}
