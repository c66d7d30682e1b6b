package crdt

// deviations_test.go has one test for each rule that differs from the crate whose shapes these are
// (see "Other implementations" in doc.go).

import (
	"errors"
	"fmt"
	"math"
	"testing"
)

// steps applies deltas, each by its node, to the empty state.
func steps(t *testing.T, k Kind, ops ...[2]string) []byte {
	t.Helper()
	var state []byte
	for _, op := range ops {
		state = apply(t, k, state, op[0], op[1])
	}
	return state
}

func apply(t *testing.T, k Kind, state []byte, node, delta string) []byte {
	t.Helper()
	b, err := Apply(k, state, []byte(delta), Op{Node: node, Time: 1})
	return []byte(sure(t, b, err))
}

func join(t *testing.T, k Kind, states ...[]byte) []byte {
	t.Helper()
	b, err := Compact(k, states...)
	return []byte(sure(t, b, err))
}

func wantValue(t *testing.T, k Kind, state []byte, want string) {
	t.Helper()
	got, err := Value(k, state)
	if sure(t, got, err) != want {
		t.Errorf("%s shows %s, want %s", state, got, want)
	}
}

func TestD1FWWRegisterIsCommutative(t *testing.T) {
	x := []byte(`{"value":"x","timestamp":1,"node_id":"a"}`)
	y := []byte(`{"value":"y","timestamp":1,"node_id":"a"}`)
	wantValue(t, KindFWWRegister, join(t, KindFWWRegister, x, y), `"x"`)
	wantValue(t, KindFWWRegister, join(t, KindFWWRegister, y, x), `"x"`)
}

func TestD2LWWMapRemovalSurvivesAMerge(t *testing.T) {
	old := steps(t, KindLWWMap, [2]string{"a", `{"set":{"k":"v"},"timestamp":5}`})
	removed := apply(t, KindLWWMap, old, "a", `{"remove":["k"],"timestamp":6}`)
	if want := `{"entries":{},"removed":{"k":[6,"a"]},"vclock":{"clocks":{"a":[2,0]}}}`; string(removed) != want {
		t.Errorf("a removed key leaves\n%s, want\n%s", removed, want)
	}
	wantValue(t, KindLWWMap, join(t, KindLWWMap, removed, old), `{}`)
	wantValue(t, KindLWWMap, apply(t, KindLWWMap, removed, "a", `{"set":{"k":"w"},"timestamp":7}`), `{"k":"w"}`)
}

func TestD2LWWMapRemovalHasATimestamp(t *testing.T) {
	state := steps(t, KindLWWMap, [2]string{"a", `{"set":{"k":"v"},"timestamp":99}`})
	after := apply(t, KindLWWMap, state, "b", `{"remove":["k"],"timestamp":5}`)
	if string(after) != string(state) {
		t.Errorf("an old removal changes\n%s to\n%s", state, after)
	}
}

func TestD2LWWMapHasOneTotalOrder(t *testing.T) {
	ranked := []string{ // each is later than those before
		`"entries":{"k":["z",1,"b"]}`,
		`"entries":{},"removed":{"k":[1,"b"]}`,
		`"entries":{"k":["y",1,"c"]}`,
		`"entries":{"k":["z",1,"c"]}`,
		`"entries":{},"removed":{"k":[1,"c"]}`,
		`"entries":{"k":["a",2,"a"]}`,
	}
	for i, a := range ranked {
		for _, b := range ranked[:i+1] {
			want, err := Canonical(KindLWWMap, []byte("{"+a+"}"))
			sure(t, want, err)
			if got := join(t, KindLWWMap, []byte("{"+b+"}"), []byte("{"+a+"}")); string(got) != string(want) {
				t.Errorf("%s and %s merge to %s", b, a, got)
			}
		}
	}
	both := []byte(`{"entries":{"k":["v",1,"b"]},"removed":{"k":[1,"b"]}}`)
	if got, err := Canonical(KindLWWMap, both); sure(t, got, err) != `{"entries":{},"removed":{"k":[1,"b"]},"vclock":{"clocks":{}}}` {
		t.Errorf("a key in both is %s", got)
	}
}

func TestD3ORSetInsertReplacesObservations(t *testing.T) {
	state := steps(t, KindORSet, [2]string{"a", `{"add":["x"]}`}, [2]string{"b", `{"add":["x"]}`}, [2]string{"a", `{"add":["x"]}`})
	want := `{"elements":[{"element":"x","observations":[["a",2]]}],"vclock":{"clocks":{"a":[2,0],"b":[1,0]}}}`
	if string(state) != want {
		t.Errorf("three inserts leave\n%s, want\n%s", state, want)
	}
	// With a state that has them all, as the crate leaves it.
	crate := []byte(`{"elements":[{"element":"x","observations":[["a",1],["b",1],["a",2]]}],"vclock":{"clocks":{"a":[2,0],"b":[1,0]}}}`)
	if got := join(t, KindORSet, state, crate); string(got) != want {
		t.Errorf("merged with all observations, it is\n%s", got)
	}
	// And it still wins over a removal that did not see it.
	removed := apply(t, KindORSet, crate, "c", `{"remove":["x"]}`)
	again := apply(t, KindORSet, crate, "b", `{"add":["x"]}`)
	wantValue(t, KindORSet, join(t, KindORSet, again, removed), `["x"]`)
}

func TestD4EqualClocksAreNotEqualStates(t *testing.T) {
	state := steps(t, KindORSet, [2]string{"a", `{"add":["x"]}`})
	removed := apply(t, KindORSet, state, "b", `{"remove":["x"]}`)
	if want := `{"elements":[],"vclock":{"clocks":{"a":[1,0]}}}`; string(removed) != want {
		t.Errorf("a removal leaves %s, want %s", removed, want)
	}
	if equal, err := Equal(KindORSet, state, removed); err != nil || equal {
		t.Errorf("%s and %s are equal: %v, %v", state, removed, equal, err)
	}
}

func TestD4EqualStatesHaveEqualBytes(t *testing.T) {
	one := []byte(`{"vclock":{"clocks":{"b":[1,0],"a":[2,0]}},"elements":[{"observations":[["b",1],["a",2],["a",1],["b",1]],"element":"x"}]}`)
	other := []byte(`{"elements":[{"element":"x","observations":[["a",1]]},{"element":"x","observations":[["b",1],["a",2]]}],"vclock":{"clocks":{"a":[2,0],"b":[1,0]}}}`)
	if equal, err := Equal(KindORSet, one, other); err != nil || !equal {
		t.Errorf("not equal: %v", err)
	}
}

func TestD5CountersDoNotWrap(t *testing.T) {
	full := []byte(`{"counters":{"a":9223372036854775807}}`)
	if _, err := Apply(KindGCounter, full, []byte("1"), Op{Node: "a"}); !errors.Is(err, ErrOverflow) {
		t.Errorf("2^63-1 + 1: %v", err)
	}
	apply(t, KindGCounter, full, "b", "1")
	pn := steps(t, KindPNCounter, [2]string{"a", "-9223372036854775807"})
	wantValue(t, KindPNCounter, pn, "-9223372036854775807")
	if _, err := Apply(KindPNCounter, pn, []byte("-1"), Op{Node: "a"}); !errors.Is(err, ErrOverflow) {
		t.Errorf("-2^63+1 - 1: %v", err)
	}
}

func TestD5SmallestIncrementIsRefused(t *testing.T) {
	if _, err := Apply(KindPNCounter, nil, []byte("-9223372036854775808"), Op{Node: "a"}); !errors.Is(err, ErrInvalidDelta) {
		t.Errorf("Apply: %v", err)
	}
	var c PNCounter
	if err := c.Increment("a", math.MinInt64); !errors.Is(err, ErrInvalidDelta) {
		t.Errorf("Increment: %v", err)
	}
	if err := c.Decrement("a", math.MinInt64); !errors.Is(err, ErrInvalidDelta) {
		t.Errorf("Decrement: %v", err)
	}
	must(t, c.Decrement("a", math.MaxInt64))
}

func TestD5NegativeAmountsAreRefused(t *testing.T) {
	if _, err := Apply(KindGCounter, nil, []byte("-1"), Op{Node: "a"}); !errors.Is(err, ErrInvalidDelta) {
		t.Errorf("increment of -1: %v", err)
	}
	if err := Validate(KindGCounter, []byte(`{"counters":{"a":-1}}`)); !errors.Is(err, ErrInvalidState) {
		t.Errorf("amount of -1: %v", err)
	}
}

func TestD5ZeroIsNoOperation(t *testing.T) {
	for _, k := range []Kind{KindGCounter, KindPNCounter} {
		if got := steps(t, k, [2]string{"a", "0"}); string(got) != string(Empty(k)) {
			t.Errorf("%v: an increment of 0 leaves %s", k, got)
		}
	}
}

func TestD6SecondsComeFromTheCallerAndNeverGoBack(t *testing.T) {
	var state []byte
	for i, seconds := range []uint64{7, 3, 9} {
		b, err := Apply(KindGCounter, state, []byte("1"), Op{Node: "a", Seconds: seconds})
		state = []byte(sure(t, b, err))
		want := fmt.Sprintf(`{"counters":{"a":%d},"vclock":{"clocks":{"a":[%d,%d]}}}`, i+1, i+1, max(7, seconds))
		if string(state) != want {
			t.Errorf("at %d it is %s, want %s", seconds, state, want)
		}
	}
}

func TestD7MergingCountersTwiceAddsNothing(t *testing.T) {
	state := []byte(`{"counters":{"a":10}}`)
	delta := []byte(`{"counters":{"a":5,"b":1}}`)
	wantValue(t, KindGCounter, join(t, KindGCounter, state, delta), "11")
	wantValue(t, KindGCounter, join(t, KindGCounter, state, delta, delta), "11")
}

func TestD8AWriteAtAnyTimestampCounts(t *testing.T) {
	last := steps(t, KindLWWRegister, [2]string{"a", `{"value":"","timestamp":0}`})
	wantValue(t, KindLWWRegister, last, `""`)
	wantValue(t, KindLWWRegister, join(t, KindLWWRegister, last, Empty(KindLWWRegister)), `""`)

	first := steps(t, KindFWWRegister, [2]string{"a", `{"value":"v","timestamp":18446744073709551615}`})
	wantValue(t, KindFWWRegister, first, `"v"`)
	wantValue(t, KindFWWRegister, join(t, KindFWWRegister, Empty(KindFWWRegister), first), `"v"`)

	for _, k := range []Kind{KindLWWRegister, KindFWWRegister} {
		wantValue(t, k, Empty(k), "null")
	}
}

func TestD8ATombstoneIsNotEmpty(t *testing.T) {
	for k, delta := range map[Kind]string{KindLWWSet: `{"remove":["x"]}`, KindLWWMap: `{"remove":["x"]}`} {
		state := steps(t, k, [2]string{"a", delta})
		if equal, err := Equal(k, state, Empty(k)); err != nil || equal {
			t.Errorf("%v: %s equals the empty state: %v, %v", k, state, equal, err)
		}
	}
}

// TestD9RegistersHoldStrings: other JSON values are not offered.
func TestD9RegistersHoldStrings(t *testing.T) {
	for _, k := range []Kind{KindLWWRegister, KindFWWRegister, KindMVRegister} {
		for _, value := range []string{`1`, `null`, `{}`, `["x"]`, `true`} {
			if err := ValidateDelta(k, []byte(`{"value":`+value+`}`)); !errors.Is(err, ErrInvalidDelta) {
				t.Errorf("%v of %s: %v", k, value, err)
			}
		}
	}
}

func TestLWWSetTies(t *testing.T) {
	for _, test := range []struct{ add, remove, want string }{
		{`[5,"a"]`, `[5,"a"]`, `[]`}, // a full tie
		{`[5,"b"]`, `[5,"a"]`, `["x"]`},
		{`[5,"a"]`, `[5,"b"]`, `[]`},
		{`[6,"a"]`, `[5,"b"]`, `["x"]`},
	} {
		state := `{"add_set":{"x":` + test.add + `},"remove_set":{"x":` + test.remove + `}}`
		wantValue(t, KindLWWSet, []byte(state), test.want)
	}
}

// TestOuterClocksTeachNothing: an outer clock that is ahead must not make dots look seen.
func TestOuterClocksTeachNothing(t *testing.T) {
	ahead := []byte(`{"elements":{"elements":[]},"vclock":{"clocks":{"a":[9,0]}}}`)
	state := steps(t, KindORMap, [2]string{"a", `{"set":{"k":"v"}}`})
	got := join(t, KindORMap, ahead, state)
	wantValue(t, KindORMap, got, `{"k":["v"]}`)
	want := `{"elements":{"elements":[{"element":["k","v"],"observations":[["a",1]]}],"vclock":{"clocks":{"a":[1,0]}}},"vclock":{"clocks":{"a":[9,0]}}}`
	if string(got) != want {
		t.Errorf("merged, it is\n%s, want\n%s", got, want)
	}
}

// TestWritesThatLoseChangeNothing: not even the clock.
func TestWritesThatLoseChangeNothing(t *testing.T) {
	for _, test := range []struct {
		kind            Kind
		winner, another string
	}{
		{KindGSet, `["x"]`, `["x"]`},
		{KindLWWSet, `{"add":["x"],"remove":["y"],"timestamp":5}`, `{"add":["x"],"remove":["y"],"timestamp":5}`},
		{KindLWWSet, `{"add":["x"],"remove":["y"],"timestamp":5}`, `{"add":["x"],"remove":["y"],"timestamp":4}`},
		{KindLWWRegister, `{"value":"v","timestamp":5}`, `{"value":"v","timestamp":5}`},
		{KindLWWRegister, `{"value":"v","timestamp":5}`, `{"value":"u","timestamp":5}`},
		{KindLWWRegister, `{"value":"v","timestamp":5}`, `{"value":"w","timestamp":4}`},
		{KindFWWRegister, `{"value":"v","timestamp":5}`, `{"value":"w","timestamp":5}`},
		{KindFWWRegister, `{"value":"v","timestamp":5}`, `{"value":"u","timestamp":6}`},
		{KindLWWMap, `{"set":{"k":"v"},"remove":["l"],"timestamp":5}`, `{"set":{"k":"u"},"remove":["l"],"timestamp":5}`},
		{KindLWWMap, `{"set":{"k":"v"},"remove":["l"],"timestamp":5}`, `{"set":{"k":"w","l":"w"},"timestamp":4}`},
	} {
		state := steps(t, test.kind, [2]string{"a", test.winner})
		if got := apply(t, test.kind, state, "a", test.another); string(got) != string(state) {
			t.Errorf("%v: after %s, %s changes\n%s to\n%s", test.kind, test.winner, test.another, state, got)
		}
	}
}

// TestFullClocksOverflow: a number that was used must not come again.
func TestFullClocksOverflow(t *testing.T) {
	const full = `"vclock":{"clocks":{"a":[18446744073709551615,0]}}`
	for k, state := range map[Kind]string{
		KindGCounter:    `{"counters":{},` + full + `}`,
		KindPNCounter:   `{"positive":{"counters":{}},"negative":{"counters":{}},` + full + `}`,
		KindGSet:        `{"elements":[],` + full + `}`,
		KindORSet:       `{"elements":[{"element":"x","observations":[["a",18446744073709551615]]}],` + full + `}`,
		KindLWWSet:      `{"add_set":{},"remove_set":{},` + full + `}`,
		KindLWWRegister: `{"value":"","timestamp":0,"node_id":"",` + full + `}`,
		KindFWWRegister: `{"value":"","timestamp":18446744073709551615,"node_id":"",` + full + `}`,
		KindMVRegister:  `{"entries":{"x":[["a",18446744073709551615]]},` + full + `}`,
		KindLWWMap:      `{"entries":{},` + full + `}`,
		KindORMap:       `{"elements":{"elements":[],` + full + `}}`,
	} {
		c := change{node: "a", amount: 1, key: "y", value: "y", time: 1}
		if _, err := Apply(k, []byte(state), c.delta(k), c.op()); !errors.Is(err, ErrOverflow) {
			t.Errorf("%v: %v", k, err)
		}
		c.node = "b"
		if _, err := Apply(k, []byte(state), c.delta(k), c.op()); err != nil {
			t.Errorf("%v by another node: %v", k, err)
		}
		// The methods leave the state as it was.
		s := newState(k)
		must(t, s.(interface{ UnmarshalJSON([]byte) error }).UnmarshalJSON([]byte(state)))
		before, err := marshal(s)
		sure(t, before, err)
		c.node = "a"
		if err := c.do(s); !errors.Is(err, ErrOverflow) {
			t.Errorf("%v, method: %v", k, err)
		}
		if after, err := marshal(s); sure(t, after, err) != string(before) {
			t.Errorf("%v: a failed operation leaves\n%s, it was\n%s", k, after, before)
		}
	}
}

// TestClocksAreFullForAll: a delta of several operations has room for all of them, or is refused.
func TestClocksAreFullForAll(t *testing.T) {
	const nearly = `"vclock":{"clocks":{"a":[18446744073709551613,0]}}` // room for two
	for k, test := range map[Kind]struct{ state, fits, over string }{
		KindGSet:   {`{"elements":["x"],` + nearly + `}`, `["x","y","y","z"]`, `["x","y","z","w"]`},
		KindORSet:  {`{"elements":[],` + nearly + `}`, `{"add":["x","x"],"remove":["x","y"]}`, `{"add":["x","x","x"]}`},
		KindLWWSet: {`{"add_set":{},"remove_set":{},` + nearly + `}`, `{"add":["x","x"],"remove":["x"]}`, `{"add":["x","y"],"remove":["x"]}`},
		KindLWWMap: {`{"entries":{},` + nearly + `}`, `{"set":{"k":"v"},"remove":["k"]}`, `{"set":{"k":"v","l":"w"},"remove":["k"]}`},
		KindORMap:  {`{"elements":{"elements":[],` + nearly + `}}`, `{"set":{"k":"v","l":"w"},"remove":["k","m"]}`, `{"set":{"k":"v","l":"w","m":"x"}}`},
	} {
		apply(t, k, []byte(test.state), "a", test.fits)
		if _, err := Apply(k, []byte(test.state), []byte(test.over), Op{Node: "a"}); !errors.Is(err, ErrOverflow) {
			t.Errorf("%v: %v", k, err)
		}
	}
}
