package crdt

// gotypes_test.go compares the methods of the Go types with the functions on bytes.

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"math"
	"reflect"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// do calls the method that means the change.
func (c change) do(s state) error {
	switch s := s.(type) {
	case *GCounter:
		return s.Increment(c.node, c.amount)
	case *PNCounter:
		if c.amount < 0 {
			return s.Decrement(c.node, -c.amount)
		}
		return s.Increment(c.node, c.amount)
	case *GSet:
		return s.Insert(c.node, c.key)
	case *ORSet:
		if c.remove {
			s.Remove(c.key)
			return nil
		}
		return s.Insert(c.node, c.key)
	case *LWWSet:
		if c.remove {
			return s.Remove(c.node, c.key, c.time)
		}
		return s.Insert(c.node, c.key, c.time)
	case *LWWRegister:
		return s.Set(c.node, c.value, c.time)
	case *FWWRegister:
		return s.Set(c.node, c.value, c.time)
	case *MVRegister:
		return s.Set(c.node, c.value)
	case *LWWMap:
		if c.remove {
			return s.Delete(c.node, c.key, c.time)
		}
		return s.Put(c.node, c.key, c.value, c.time)
	case *ORMap:
		if c.remove {
			s.Delete(c.key)
			return nil
		}
		return s.Put(c.node, c.key, c.value)
	}
	panic("no such kind")
}

// shown returns what the getters say, as Value writes it.
func shown(t *rapid.T, s state) string {
	t.Helper()
	var v any
	var err error
	list := func(elements []string, contains func(string) bool) {
		v = append([]string{}, elements...)
		for _, element := range someElements {
			if contains(element) != slices.Contains(elements, element) {
				t.Fatalf("Contains(%q) is %v, and Elements %q", element, contains(element), elements)
			}
		}
	}
	get := func(value string, ok bool) {
		if v = nil; ok {
			v = value
		}
	}
	switch s := s.(type) {
	case *GCounter:
		v, err = s.Value()
	case *PNCounter:
		v, err = s.Value()
	case *GSet:
		list(s.Elements(), s.Contains)
	case *ORSet:
		list(s.Elements(), s.Contains)
	case *LWWSet:
		list(s.Elements(), s.Contains)
	case *LWWRegister:
		get(s.Get())
	case *FWWRegister:
		get(s.Get())
	case *MVRegister:
		v = s.Values()
	case *LWWMap:
		m := make(map[string]string)
		for _, key := range s.Keys() {
			m[key], _ = s.Get(key)
		}
		for _, key := range someElements {
			if _, ok := s.Get(key); ok != slices.Contains(s.Keys(), key) {
				t.Fatalf("Get(%q) says %v, and Keys %q", key, ok, s.Keys())
			}
		}
		v = m
	case *ORMap:
		m := make(map[string][]string)
		for _, key := range s.Keys() {
			m[key] = s.Get(key)
		}
		v = m
	}
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		t.Fatal(err)
	}
	return string(bytes.TrimSpace(b.Bytes()))
}

// clone and merge call the public methods, which have a type of their own for each kind.
func clone(s state) state {
	return reflect.ValueOf(s).MethodByName("Clone").Call(nil)[0].Interface().(state)
}

func merge(s, with state) {
	reflect.ValueOf(s).MethodByName("Merge").Call([]reflect.Value{reflect.ValueOf(with)})
}

func canonical(t *rapid.T, s state) string {
	b, err := s.(json.Marshaler).MarshalJSON()
	return sure(t, b, err)
}

func TestMethodsAndApplyGiveTheSameBytes(t *testing.T) {
	forEachKind(t, func(t *testing.T, k Kind) {
		rapid.Check(t, func(t *rapid.T) {
			text := [][]byte{drawState(t, k), nil}
			typed := []state{newState(k), newState(k)}
			if err := json.Unmarshal(text[0], typed[0]); err != nil {
				t.Fatal(err)
			}
			for range rapid.IntRange(1, 10).Draw(t, "steps") {
				i := rapid.IntRange(0, 1).Draw(t, "which")
				if rapid.IntRange(0, 3).Draw(t, "merge") == 0 && text[1] != nil {
					other := canonical(t, typed[1-i])
					b, err := Merge(k, text[i], text[1-i])
					text[i] = []byte(sure(t, b, err))
					if merge(typed[i], typed[1-i]); canonical(t, typed[1-i]) != other {
						t.Fatal("Merge changed its argument")
					}
				} else {
					c := drawChange(t, k)
					b, err := Apply(k, text[i], c.delta(k), c.op())
					text[i] = []byte(sure(t, b, err))
					before, copied := canonical(t, typed[i]), clone(typed[i])
					if err := c.do(typed[i]); err != nil {
						t.Fatal(err)
					}
					if canonical(t, copied) != before {
						t.Fatalf("an operation changed a clone from %s to %s", before, canonical(t, copied))
					}
				}
				if got := canonical(t, typed[i]); got != string(text[i]) {
					t.Fatalf("the methods lead to\n%s, the functions to\n%s", got, text[i])
				}
				value, err := Value(k, text[i])
				if got := shown(t, typed[i]); got != sure(t, value, err) {
					t.Fatalf("%s shows %s, and Value says %s", text[i], got, value)
				}
			}
		})
	})
}

// TestALongDeltaIsASequence: many elements at once lead to the same bytes as one by one.
func TestALongDeltaIsASequence(t *testing.T) {
	for _, k := range []Kind{KindGSet, KindORSet, KindLWWSet, KindLWWMap, KindORMap} {
		t.Run(k.String(), func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				state, at := drawState(t, k), drawTime(t)
				list := rapid.SliceOfN(rapid.SampledFrom(append([]string{"", "u", "v", "zz"}, someElements...)), 0, 40)
				add, remove := list.Draw(t, "add"), list.Draw(t, "remove")
				op := Op{Node: drawNode(t), Time: at}
				delta := map[string]any{"remove": remove}
				var changes []change
				switch k {
				case KindGSet:
					delta, remove = map[string]any{"add": add}, nil
				case KindLWWMap, KindORMap:
					set := make(map[string]string)
					for i, key := range add {
						set[key] = someElements[i%3]
					}
					delta["set"] = set
					add = slices.Sorted(maps.Keys(set))
					for _, key := range add {
						changes = append(changes, change{node: op.Node, key: key, value: set[key], time: at})
					}
				default:
					delta["add"] = add
				}
				if len(changes) == 0 {
					for _, element := range add {
						changes = append(changes, change{node: op.Node, key: element, time: at})
					}
				}
				for _, element := range remove {
					changes = append(changes, change{node: op.Node, key: element, time: at, remove: true})
				}
				text, err := json.Marshal(delta)
				got, err2 := Apply(k, state, []byte(sure(t, text, err)), op)
				s := newState(k)
				if err := json.Unmarshal(state, s); err != nil {
					t.Fatal(err)
				}
				for _, c := range changes {
					if err := c.do(s); err != nil {
						t.Fatal(err)
					}
				}
				if want := canonical(t, s); sure(t, got, err2) != want {
					t.Fatalf("%s leads from %s to\n%s, one by one to\n%s", text, state, got, want)
				}
			})
		})
	}
}

func TestZeroValuesAreEmptyStates(t *testing.T) {
	forEachKind(t, func(t *testing.T, k Kind) {
		s := newState(k)
		merge(s, newState(k))
		reflect.ValueOf(s).MethodByName("Merge").Call([]reflect.Value{reflect.Zero(reflect.TypeOf(s))})
		for _, v := range []any{s, reflect.ValueOf(s).Elem().Interface()} { // pointer and value
			b, err := json.Marshal(v)
			if sure(t, b, err) != string(Empty(k)) {
				t.Errorf("%T is %s", v, b)
			}
		}
		if got := reflect.ValueOf(s).MethodByName("Validate").Call(nil)[0]; !got.IsNil() {
			t.Errorf("Validate: %v", got)
		}
	})
}

func TestUnmarshalKeepsNothingOfItsInput(t *testing.T) {
	forEachKind(t, func(t *testing.T, k Kind) {
		rapid.Check(t, func(t *rapid.T) {
			input := drawState(t, k)
			want, err := Canonical(k, input)
			sure(t, want, err)
			s := newState(k)
			if err := s.(json.Unmarshaler).UnmarshalJSON(input); err != nil {
				t.Fatal(err)
			}
			for i := range input {
				input[i] = '#'
			}
			if got := canonical(t, s); got != string(want) {
				t.Fatalf("%s has become %s", want, got)
			}
			// What can't be read changes nothing.
			for _, bad := range []string{"null", "[]", "{}", string(want) + "x"} {
				if err := s.(json.Unmarshaler).UnmarshalJSON([]byte(bad)); !errors.Is(err, ErrInvalidState) {
					t.Fatalf("%s reads as %v", bad, err)
				}
			}
			if got := canonical(t, s); got != string(want) {
				t.Fatalf("%s has become %s", want, got)
			}
		})
	})
}

func TestOperationsRefuseWhatApplyRefuses(t *testing.T) {
	forEachKind(t, func(t *testing.T, k Kind) {
		c := change{node: "a", amount: 1, key: "x", value: "y", time: 1}
		for _, node := range []string{"", string(make([]byte, MaxNodeBytes+1)), "\xff"} {
			bad := c
			bad.node = node
			s := newState(k)
			if err := bad.do(s); !errors.Is(err, ErrInvalidDelta) {
				t.Errorf("node of %d bytes: %v", len(node), err)
			}
			if _, err := Apply(k, nil, c.delta(k), bad.op()); !errors.Is(err, ErrInvalidDelta) {
				t.Errorf("Apply by a node of %d bytes: %v", len(node), err)
			}
			if b, err := marshal(s); sure(t, b, err) != string(Empty(k)) {
				t.Errorf("left behind %s", b)
			}
		}
		if k == KindLWWSet || k == KindLWWMap {
			if err := (change{key: "x", time: 1, remove: true}).do(newState(k)); !errors.Is(err, ErrInvalidDelta) {
				t.Errorf("a removal without a node: %v", err)
			}
		}
		if k == KindGCounter || k == KindPNCounter {
			return
		}
		for text, want := range map[string]error{"\xff": ErrInvalidDelta, string(make([]byte, defaultStringBytes+1)): ErrTooLarge} {
			bad := c
			bad.key, bad.value = text, text
			if err := bad.do(newState(k)); !errors.Is(err, want) {
				t.Errorf("a text of %d bytes: %v", len(text), err)
			}
		}
	})
	if err := new(GCounter).Increment("a", -1); !errors.Is(err, ErrInvalidDelta) {
		t.Errorf("a negative increment: %v", err)
	}
}

func TestWrittenTellsWhoAndWhen(t *testing.T) {
	var last LWWRegister
	var first FWWRegister
	for _, w := range []struct {
		node string
		time uint64
	}{{"b", 2}, {"a", 1}, {"c", 3}} {
		must(t, last.Set(w.node, "v", w.time))
		must(t, first.Set(w.node, "v", w.time))
	}
	if node, at := last.Written(); node != "c" || at != 3 {
		t.Errorf("last written by %s at %d", node, at)
	}
	if node, at := first.Written(); node != "a" || at != 1 {
		t.Errorf("first written by %s at %d", node, at)
	}
}

func TestCounterBeyondInt64(t *testing.T) {
	var c PNCounter
	for _, node := range someNodes {
		must(t, c.Increment(node, math.MaxInt64))
	}
	if _, err := c.Value(); !errors.Is(err, ErrOverflow) {
		t.Errorf("3 * 2^63: %v", err)
	}
	if got := c.ValueBig().String(); got != "27670116110564327421" {
		t.Errorf("3 * (2^63-1) is %s", got)
	}
	b, err := c.MarshalJSON()
	sure(t, b, err)
	value, err := Value(KindPNCounter, b)
	if sure(t, value, err) != "27670116110564327421" {
		t.Errorf("3 * (2^63-1) shows %s", value)
	}
}
