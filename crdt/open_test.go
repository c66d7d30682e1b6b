package crdt_test

import (
	"errors"
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/syncengine-go/syncengine/crdt"
)

// TestAnOpenStateIsThatOfTheSameSequence compares it with Apply and Merge, one by one.
func TestAnOpenStateIsThatOfTheSameSequence(t *testing.T) {
	deltas := map[crdt.Kind][]string{
		crdt.KindGCounter: {"1", "2"}, crdt.KindPNCounter: {"1", "-2"}, crdt.KindGSet: {`["x"]`, `["y","x"]`},
		crdt.KindORSet: {`{"add":["x"]}`, `{"remove":["x"]}`}, crdt.KindLWWSet: {`{"add":["x"]}`, `{"remove":["x"]}`},
		crdt.KindLWWRegister: {`{"value":"a"}`, `{"value":"b","timestamp":7}`}, crdt.KindFWWRegister: {`{"value":"a"}`, `{"value":"b","timestamp":7}`},
		crdt.KindMVRegister: {`"a"`, `"b"`}, crdt.KindLWWMap: {`{"set":{"k":"1"}}`, `{"remove":["k"]}`}, crdt.KindORMap: {`{"set":{"k":"1"}}`, `{"remove":["k"]}`},
	}
	for _, k := range crdt.Kinds() {
		t.Run(k.String(), func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				s, err := crdt.Open(k, nil)
				if err != nil {
					t.Fatal(err)
				}
				want := crdt.Empty(k)
				for n := range rapid.IntRange(1, 8).Draw(t, "changes") {
					delta := []byte(rapid.SampledFrom(deltas[k]).Draw(t, "delta"))
					op := crdt.Op{Node: fmt.Sprint("n", rapid.IntRange(1, 2).Draw(t, "node")), Time: uint64(rapid.IntRange(1, 9).Draw(t, "time"))}
					if rapid.Bool().Draw(t, "merge") {
						with, err := crdt.Apply(k, nil, delta, op)
						if err != nil {
							t.Fatal(err)
						}
						want, err = crdt.Merge(k, want, with)
						if err := errors.Join(err, s.Merge(with)); err != nil {
							t.Fatal(err)
						}
					} else {
						want, err = crdt.Apply(k, want, delta, op)
						if err := errors.Join(err, s.Apply(delta, op)); err != nil {
							t.Fatal(err)
						}
					}
					got, err := s.Bytes()
					if err != nil || string(got) != string(want) {
						t.Fatalf("after %d changes: %s, %v; want %s", n+1, got, err, want)
					}
				}
			})
		})
	}
	if _, err := crdt.Open(0, nil); !errors.Is(err, crdt.ErrUnknownKind) {
		t.Errorf("no kind: %v", err)
	}
	if _, err := crdt.Open(crdt.KindGSet, []byte(`{}`)); !errors.Is(err, crdt.ErrInvalidState) {
		t.Errorf("no state: %v", err)
	}
	s, err := crdt.Limits{Elements: 2}.Open(crdt.KindGSet, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		delta string
		node  string
		want  error
	}{{`["x"]`, "", crdt.ErrInvalidDelta}, {`{}`, "n", crdt.ErrInvalidDelta}, {`["x","y"]`, "n", nil}, {`["z"]`, "n", crdt.ErrTooLarge}} {
		if err := s.Apply([]byte(c.delta), crdt.Op{Node: c.node}); !errors.Is(err, c.want) {
			t.Errorf("%s by %q: %v, want %v", c.delta, c.node, err, c.want)
		}
	}
}

// TestSeenIsTheLastNumberOfANode of each kind, and through a merge.
func TestSeenIsTheLastNumberOfANode(t *testing.T) {
	deltas := map[crdt.Kind]string{
		crdt.KindGCounter: "1", crdt.KindPNCounter: "-2", crdt.KindGSet: `["x"]`, crdt.KindORSet: `{"add":["x"]}`, crdt.KindLWWSet: `{"remove":["x"]}`,
		crdt.KindLWWRegister: `{"value":"a"}`, crdt.KindFWWRegister: `{"value":"a"}`, crdt.KindMVRegister: `"a"`, crdt.KindLWWMap: `{"set":{"k":"1"}}`,
		crdt.KindORMap: `{"set":{"k":"1"}}`,
	}
	for _, k := range crdt.Kinds() {
		with, err := crdt.Apply(k, nil, []byte(deltas[k]), crdt.Op{Node: "a", Number: 7, Time: 1})
		if err != nil {
			t.Fatal(err)
		}
		s, err := crdt.Open(k, nil)
		if err != nil {
			t.Fatal(err)
		}
		before := s.Seen("a")
		if err := s.Merge(with); err != nil {
			t.Fatal(err)
		}
		if a, b := s.Seen("a"), s.Seen("b"); before != 0 || a != 7 || b != 0 {
			t.Errorf("%s: %d, then %d, and of another node %d", k, before, a, b)
		}
	}
}
