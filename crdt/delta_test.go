package crdt

// delta_test.go lists the forms of deltas, good and bad, and compares ValidateDelta with Apply.

import (
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

var goodDeltas = []struct {
	kind        Kind
	delta, want string // what it does to the empty state, by node "n" at time 9 and second 7
}{
	{KindGCounter, `3`, `{"counters":{"n":3},"vclock":{"clocks":{"n":[1,7]}}}`},
	{KindGCounter, ` {"increment":3} `, `{"counters":{"n":3},"vclock":{"clocks":{"n":[1,7]}}}`},
	{KindPNCounter, `-3`, `{"negative":{"counters":{"n":3},"vclock":{"clocks":{"n":[1,7]}}},"positive":{"counters":{},"vclock":{"clocks":{}}},"vclock":{"clocks":{"n":[1,7]}}}`},
	{KindPNCounter, `{"increment":3}`, `{"negative":{"counters":{},"vclock":{"clocks":{}}},"positive":{"counters":{"n":3},"vclock":{"clocks":{"n":[1,7]}}},"vclock":{"clocks":{"n":[1,7]}}}`},
	{KindGSet, `["y","x","y"]`, `{"elements":["x","y"],"vclock":{"clocks":{"n":[2,7]}}}`},
	{KindGSet, `{"add":["x"]}`, `{"elements":["x"],"vclock":{"clocks":{"n":[1,7]}}}`},
	{KindGSet, `[]`, `{"elements":[],"vclock":{"clocks":{}}}`},
	{KindORSet, `{"remove":["z"],"add":["y","x","y","z"]}`, `{"elements":[{"element":"x","observations":[["n",2]]},{"element":"y","observations":[["n",3]]}],"vclock":{"clocks":{"n":[4,7]}}}`},
	{KindLWWSet, `{"add":["x","y"],"remove":["y"]}`, `{"add_set":{"x":[9,"n"],"y":[9,"n"]},"remove_set":{"y":[9,"n"]},"vclock":{"clocks":{"n":[3,7]}}}`},
	{KindLWWSet, `{"add":["x"],"timestamp":0}`, `{"add_set":{"x":[0,"n"]},"remove_set":{},"vclock":{"clocks":{"n":[1,7]}}}`},
	{KindLWWRegister, `{"value":"v"}`, `{"node_id":"n","timestamp":9,"value":"v","vclock":{"clocks":{"n":[1,7]}}}`},
	{KindLWWRegister, `{"timestamp":4,"value":"v"}`, `{"node_id":"n","timestamp":4,"value":"v","vclock":{"clocks":{"n":[1,7]}}}`},
	{KindFWWRegister, `{"value":""}`, `{"node_id":"n","timestamp":9,"value":"","vclock":{"clocks":{"n":[1,7]}}}`},
	{KindMVRegister, `"v"`, `{"entries":{"v":[["n",1]]},"vclock":{"clocks":{"n":[1,7]}}}`},
	{KindMVRegister, `{"value":"v"}`, `{"entries":{"v":[["n",1]]},"vclock":{"clocks":{"n":[1,7]}}}`},
	{KindLWWMap, `{"set":{"k":"v","l":"w"},"remove":["l"]}`, `{"entries":{"k":["v",9,"n"]},"removed":{"l":[9,"n"]},"vclock":{"clocks":{"n":[3,7]}}}`},
	{KindLWWMap, `{"remove":["l"],"timestamp":18446744073709551615}`, `{"entries":{},"removed":{"l":[18446744073709551615,"n"]},"vclock":{"clocks":{"n":[1,7]}}}`},
	{KindORMap, `{"set":{"l":"w","k":"v"}}`, `{"elements":{"elements":[{"element":["k","v"],"observations":[["n",1]]},{"element":["l","w"],"observations":[["n",2]]}],"vclock":{"clocks":{"n":[2,7]}}},"vclock":{"clocks":{"n":[2,7]}}}`},
	{KindORMap, `{"set":{"k":"v"},"remove":["k"],"else":null}`, `{"elements":{"elements":[],"vclock":{"clocks":{"n":[1,7]}}},"vclock":{"clocks":{"n":[1,7]}}}`},
}

func TestDeltasDoWhatTheySay(t *testing.T) {
	for _, test := range goodDeltas {
		for _, state := range [][]byte{nil, {}, Empty(test.kind)} {
			got, err := Apply(test.kind, state, []byte(test.delta), Op{Node: "n", Time: 9, Seconds: 7})
			if sure(t, got, err) != test.want {
				t.Errorf("%v: %s leads to\n%s, want\n%s", test.kind, test.delta, got, test.want)
			}
		}
	}
}

func TestDeltasAreReadStrictly(t *testing.T) {
	for _, test := range []struct {
		kind        Kind
		delta, want string
	}{
		{KindGCounter, ``, `want an integer, found the end`},
		{KindGCounter, `null`, `want an integer, found null`},
		{KindGCounter, `1.0`, `want an integer in plain digits, found another number`},
		{KindGCounter, `1 2`, `something after the end`},
		{KindGCounter, `-1`, `a negative increment`},
		{KindGCounter, `{"increment":-1}`, `a negative increment`},
		{KindGCounter, `{}`, `no field increment`},
		{KindGCounter, `{"Increment":1}`, `no field increment`},
		{KindGCounter, `{"increment":1,"increment":1}`, `increment: the field is there twice`},
		{KindPNCounter, `-9223372036854775808`, `an increment that can't be negated`},
		{KindPNCounter, `{"increment":-9223372036854775808}`, `an increment that can't be negated`},
		{KindPNCounter, `9223372036854775808`, `an integer of more than 64 bits`},
		{KindGSet, `"x"`, `want an object, found a string`},
		{KindGSet, `{"remove":["x"]}`, `no field add`},
		{KindGSet, `[1]`, `[0]: want a string, found a number`},
		{KindORSet, `["x"]`, `want an object, found an array`},
		{KindORSet, `{}`, `neither add nor remove`},
		{KindORSet, `{"added":["x"]}`, `neither add nor remove`},
		{KindORSet, `{"add":"x"}`, `add: want an array, found a string`},
		{KindORSet, `{"add":null}`, `add: want an array, found null`},
		{KindLWWSet, `{"timestamp":1}`, `neither add nor remove`},
		{KindLWWSet, `{"add":[],"timestamp":-1}`, `timestamp: want an unsigned integer, found a number`},
		{KindLWWSet, `{"add":[],"timestamp":null}`, `timestamp: want an unsigned integer, found null`},
		{KindLWWRegister, `"v"`, `want an object, found a string`},
		{KindLWWRegister, `{"timestamp":1}`, `no field value`},
		{KindFWWRegister, `{"value":null}`, `value: want a string, found null`},
		{KindMVRegister, `1`, `want an object, found a number`},
		{KindMVRegister, `"\ud800"`, `a bad escape in a string`},
		{KindLWWMap, `{"set":{"k":1}}`, `set[0]: want a string, found a number`},
		{KindLWWMap, `{"set":{"k":"v","k":"w"}}`, `set: a key is there twice`},
		{KindLWWMap, `{"set":[],"remove":[]}`, `set: want an object, found an array`},
		{KindORMap, `{"timestamp":1}`, `neither set nor remove`},
		{KindORMap, "{\"set\":{\"\xff\":\"\"}}", `not UTF-8`},
	} {
		want := "crdt: invalid delta: " + test.kind.String() + ": " + test.want
		_, applyErr := Apply(test.kind, nil, []byte(test.delta), Op{Node: "n"})
		for _, err := range []error{applyErr, ValidateDelta(test.kind, []byte(test.delta))} {
			if !errors.Is(err, ErrInvalidDelta) || err.Error() != want {
				t.Errorf("%s reads as\n%v, want\n%s", test.delta, err, want)
			}
		}
	}
}

// pieces are what random deltas are made of: often nearly right.
var pieces = []string{
	`{`, `}`, `[`, `]`, `,`, `:`, `"add"`, `"remove"`, `"set"`, `"value"`, `"timestamp"`, `"increment"`, `"x"`,
	`1`, `-1`, `0`, `-9223372036854775808`, `9223372036854775807`, `18446744073709551615`, `null`, `1.5`,
	`{"add":["x"]}`, `{"set":{"x":"y"}}`, `{"value":"x"}`, `["x"]`, `{"increment":2}`, `,"timestamp":1}`, `,"remove":["x"]}`, `{"set":{"x":"y"}`, `{"add":["x"]`,
}

func TestValidateDeltaAgreesWithApply(t *testing.T) {
	forEachKind(t, func(t *testing.T, k Kind) {
		var good, bad bool
		rapid.Check(t, func(t *rapid.T) {
			delta := drawChange(t, k).delta(k)
			if rapid.Bool().Draw(t, "odd") {
				delta = []byte(strings.Join(rapid.SliceOfN(rapid.SampledFrom(pieces), 1, 4).Draw(t, "pieces"), ""))
			}
			state := drawState(t, k)
			want := ValidateDelta(k, delta)
			_, err := Apply(k, state, delta, Op{Node: drawNode(t), Time: drawTime(t)})
			switch {
			case want != nil && (err == nil || err.Error() != want.Error()):
				t.Fatalf("%s: ValidateDelta says %v, Apply %v", delta, want, err)
			case want == nil && err != nil && !errors.Is(err, ErrOverflow):
				t.Fatalf("%s is valid; to\n%s Apply says %v", delta, state, err)
			}
			good, bad = good || want == nil, bad || want != nil
		})
		if !good || !bad {
			t.Errorf("there were valid deltas: %v, and invalid ones: %v", good, bad)
		}
	})
}

func TestApplyChecksTheNode(t *testing.T) {
	_, err := Apply(KindORSet, nil, []byte(`{"remove":["x"]}`), Op{})
	if !errors.Is(err, ErrInvalidDelta) || err.Error() != "crdt: invalid delta: ORSet: op.Node: an empty node id" {
		t.Errorf("an empty node: %v", err)
	}
}
