package crdt

// strict_test.go lists what is not read, with the error, and what is.

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestStatesAreReadStrictly(t *testing.T) {
	for _, test := range []struct {
		kind        Kind
		state, want string // the error after its kind
	}{
		// Form.
		{KindGSet, ``, `want an object, found the end`},
		{KindGSet, ` `, `want an object, found the end`},
		{KindGSet, `null`, `want an object, found null`},
		{KindGSet, `[[],{}]`, `want an object, found an array`},
		{KindGSet, `"x"`, `want an object, found a string`},
		{KindGSet, `{`, `[0]: want a string, found the end`},
		{KindGSet, `{"elements":[]`, `want a comma or the end of an object, found the end`},
		{KindGSet, `{"elements":[]}}`, `something after the end`},
		{KindGSet, `{"elements":[]} {}`, `something after the end`},
		{KindGSet, "{\"elements\":[]}\x00", `something after the end`},
		{KindGSet, `{"elements":[],}`, `[1]: want a string, found no JSON`},
		{KindGSet, `{"elements":["x",]}`, `elements[1]: want a string, found no JSON`},
		{KindGSet, `{"elements":["x" "y"]}`, `elements: want a comma or the end of an array, found a string`},
		{KindGSet, `{"elements" []}`, `want a colon, found an array`},
		{KindGSet, `{elements:[]}`, `[0]: want a string, found no JSON`},
		{KindGSet, `{'elements':[]}`, `[0]: want a string, found no JSON`},
		{KindGSet, "{\"elements\":[]\f}", `want a comma or the end of an object, found no JSON`},
		{KindGSet, "\ufeff{\"elements\":[]}", `want an object, found no JSON`},

		// Fields.
		{KindGSet, `{}`, `no field elements`},
		{KindGSet, `{"Elements":[]}`, `no field elements`},
		{KindGSet, `{"elements":null}`, `elements: want an array, found null`},
		{KindGSet, `{"elements":[null]}`, `elements[0]: want a string, found null`},
		{KindGSet, `{"elements":[1]}`, `elements[0]: want a string, found a number`},
		{KindGSet, `{"elements":[],"elements":[]}`, `elements: the field is there twice`},
		{KindGSet, `{"elements":[],"el\u0065ments":[]}`, `elements: the field is there twice`},
		{KindGSet, `{"elements":[],"vclock":null}`, `vclock: want an object, found null`},
		{KindGSet, `{"elements":[],"vclock":{}}`, `vclock: no field clocks`},
		{KindGSet, `{"elements":[],"vclock":{"clocks":[]}}`, `vclock.clocks: want an object, found an array`},
		{KindGSet, `{"elements":[],"other":[}}`, `(unknown field)[0]: want a value, found no JSON`},
		{KindGSet, `{"elements":[],"other":nul}`, `(unknown field): want a value, found null`},
		{KindGSet, `{"elements":[],"other":01}`, `want a comma or the end of an object, found a number`},
		{KindGSet, `{"elements":[],"other":1.}`, `(unknown field): a bad number`},
		{KindGSet, `{"elements":[],"other":-}`, `(unknown field): a bad number`},
		{KindGSet, `{"elements":[],"other":1e}`, `(unknown field): a bad number`},
		{KindGSet, `{"elements":[],"other":"\ud800"}`, `(unknown field): a bad escape in a string`},
		{KindGCounter, `{"vclock":{"clocks":{}}}`, `no field counters`},
		{KindPNCounter, `{"positive":{"counters":{}}}`, `no field negative`},
		{KindPNCounter, `{"negative":{"counters":{}}}`, `no field positive`},
		{KindPNCounter, `{"positive":{},"negative":{"counters":{}}}`, `positive: no field counters`},
		{KindLWWSet, `{"add_set":{}}`, `no field remove_set`},
		{KindLWWSet, `{"remove_set":{}}`, `no field add_set`},
		{KindLWWRegister, `{"value":"v","timestamp":1}`, `no field node_id`},
		{KindLWWRegister, `{"value":"v","node_id":"a"}`, `no field timestamp`},
		{KindLWWRegister, `{"timestamp":1,"node_id":"a"}`, `no field value`},
		{KindLWWMap, `{"removed":{}}`, `no field entries`},
		{KindLWWMap, `{"entries":{},"removed":null}`, `removed: want an object, found null`},
		{KindMVRegister, `{}`, `no field entries`},
		{KindORSet, `{}`, `no field elements`},
		{KindORSet, `{"elements":[{"element":"x"}]}`, `elements[0]: no field observations`},
		{KindORSet, `{"elements":[{"observations":[]}]}`, `elements[0]: no field element`},
		{KindORSet, `{"elements":[["x",[]]]}`, `elements[0]: want an object, found an array`},
		{KindORMap, `{"elements":[]}`, `elements: want an object, found an array`},
		{KindORMap, `{"elements":{}}`, `elements: no field elements`},

		// Strings.
		{KindGSet, "{\"elements\":[\"\xff\"]}", `not UTF-8`},
		{KindGSet, "{\"elements\":[\"\xed\xa0\x80\"]}", `not UTF-8`},
		{KindGSet, `{"elements":["\ud800"]}`, `elements[0]: a bad escape in a string`},
		{KindGSet, `{"elements":["\udc00\ud800"]}`, `elements[0]: a bad escape in a string`},
		{KindGSet, `{"elements":["\ud800\u0041"]}`, `elements[0]: a bad escape in a string`},
		{KindGSet, `{"elements":["\ud800x"]}`, `elements[0]: a bad escape in a string`},
		{KindGSet, `{"elements":["\x41"]}`, `elements[0]: a bad escape in a string`},
		{KindGSet, `{"elements":["\u00g0"]}`, `elements[0]: a bad escape in a string`},
		{KindGSet, `{"elements":["\u00`, `elements[0]: a bad escape in a string`},
		{KindGSet, `{"elements":["\`, `elements[0]: a bad escape in a string`},
		{KindGSet, "{\"elements\":[\"a\nb\"]}", `elements[0]: a control character in a string`},
		{KindGSet, "{\"elements\":[\"\\na\nb\"]}", `elements[0]: a control character in a string`},
		{KindGSet, `{"elements":["x`, `elements[0]: a string without an end`},
		{KindGSet, `{"elements":["\n`, `elements[0]: a string without an end`},

		// Integers.
		{KindGCounter, `{"counters":{"a":1.0}}`, `counters[0]: want an integer in plain digits, found another number`},
		{KindGCounter, `{"counters":{"a":1e3}}`, `counters[0]: want an integer in plain digits, found another number`},
		{KindGCounter, `{"counters":{"a":1E3}}`, `counters[0]: want an integer in plain digits, found another number`},
		{KindGCounter, `{"counters":{"a":-0}}`, `counters[0]: a negative zero`},
		{KindGCounter, `{"counters":{"a":00}}`, `counters[0]: an integer with a leading zero`},
		{KindGCounter, `{"counters":{"a":+1}}`, `counters[0]: want an integer, found no JSON`},
		{KindGCounter, `{"counters":{"a":-}}`, `counters[0]: a sign without a number`},
		{KindGCounter, `{"counters":{"a":- 1}}`, `counters[0]: a sign without a number`},
		{KindGCounter, `{"counters":{"a":"1"}}`, `counters[0]: want an integer, found a string`},
		{KindGCounter, `{"counters":{"a":null}}`, `counters[0]: want an integer, found null`},
		{KindGCounter, `{"counters":{"a":true}}`, `counters[0]: want an integer, found a boolean`},
		{KindGCounter, `{"counters":{"a":9223372036854775808}}`, `counters[0]: an integer of more than 64 bits`},
		{KindGCounter, `{"counters":{"a":-9223372036854775809}}`, `counters[0]: an integer of more than 64 bits`},
		{KindGCounter, `{"counters":{"a":-9223372036854775808}}`, `counters[0]: a negative amount`},
		{KindGCounter, `{"counters":{"b":1,"a":-1}}`, `counters[1]: a negative amount`},
		{KindLWWRegister, `{"value":"v","timestamp":18446744073709551616,"node_id":"a"}`, `timestamp: an integer of more than 64 bits`},
		{KindLWWRegister, `{"value":"v","timestamp":-1,"node_id":"a"}`, `timestamp: want an unsigned integer, found a number`},
		{KindLWWRegister, `{"value":"v","timestamp":1.5,"node_id":"a"}`, `timestamp: want an integer in plain digits, found another number`},

		// Keys.
		{KindGCounter, `{"counters":{"a":1,"b":1,"a":1}}`, `counters: a node is there twice`},
		{KindGCounter, `{"counters":{"a":1,"\u0061":0}}`, `counters: a node is there twice`},
		{KindGCounter, `{"counters":{},"vclock":{"clocks":{"a":[1,0],"a":[0,0]}}}`, `vclock.clocks: a node is there twice`},
		{KindLWWSet, `{"add_set":{"x":[1,"a"],"x":[1,"a"]},"remove_set":{}}`, `add_set: a key is there twice`},
		{KindLWWMap, `{"entries":{"y":["",1,"a"],"x":["",1,"a"],"y":["",1,"a"]}}`, `entries: a key is there twice`},
		{KindLWWMap, `{"entries":{},"removed":{"x":[1,"a"],"x":[1,"a"]}}`, `removed: a key is there twice`},
		{KindMVRegister, `{"entries":{"x":[],"x":[]}}`, `entries: a key is there twice`},

		// Tuples.
		{KindLWWSet, `{"add_set":{"x":[1]},"remove_set":{}}`, `add_set[0]: want 2 elements, found 1`},
		{KindLWWSet, `{"add_set":{"x":[1,"a",2]},"remove_set":{}}`, `add_set[0]: want 2 elements, found more`},
		{KindLWWSet, `{"add_set":{"x":[1 "a"]},"remove_set":{}}`, `add_set[0]: want a comma or the end of an array, found a string`},
		{KindLWWSet, `{"add_set":{"x":[1,1]},"remove_set":{}}`, `add_set[0][1]: want a string, found a number`},
		{KindLWWSet, `{"add_set":{"x":["a",1]},"remove_set":{}}`, `add_set[0][0]: want an unsigned integer, found a string`},
		{KindLWWMap, `{"entries":{"x":[1,"a"]}}`, `entries[0][0]: want a string, found a number`},
		{KindLWWMap, `{"entries":{"x":["v",1]}}`, `entries[0]: want 3 elements, found 2`},
		{KindORMap, `{"elements":{"elements":[{"element":["k"],"observations":[]}]}}`, `elements.elements[0].element: want 2 elements, found 1`},
		{KindORMap, `{"elements":{"elements":[{"element":"k","observations":[]}]}}`, `elements.elements[0].element: want an array, found a string`},
		{KindGCounter, `{"counters":{},"vclock":{"clocks":{"a":[1]}}}`, `vclock.clocks[0]: want 2 elements, found 1`},
		{KindGCounter, `{"counters":{},"vclock":{"clocks":{"a":1}}}`, `vclock.clocks[0]: want an array, found a number`},

		// Nodes.
		{KindGCounter, `{"counters":{"":1}}`, `counters[0]: an empty node id`},
		{KindGCounter, `{"counters":{},"vclock":{"clocks":{"":[1,1]}}}`, `vclock.clocks[0]: an empty node id`},
		{KindLWWSet, `{"add_set":{"x":[1,""]},"remove_set":{}}`, `add_set[0][1]: an empty node id`},
		{KindLWWRegister, `{"value":"v","timestamp":0,"node_id":""}`, `node_id: an empty node id in a register that was set`},
		{KindLWWRegister, `{"value":"","timestamp":1,"node_id":""}`, `node_id: an empty node id in a register that was set`},
		{KindFWWRegister, `{"value":"","timestamp":0,"node_id":""}`, `node_id: an empty node id in a register that was set`},
		{KindLWWRegister, `{"value":"v","timestamp":0,"node_id":"` + strings.Repeat("n", 257) + `"}`, `node_id: a node id longer than 256 bytes`},

		// Dots.
		{KindORSet, `{"elements":[{"element":"x","observations":[["a",1]]}]}`, `elements[0].observations: a dot that the clock does not cover`},
		{KindORSet, `{"elements":[{"element":"y","observations":[["a",1]]},{"element":"x","observations":[["a",1],["a",2]]}],"vclock":{"clocks":{"a":[1,0]}}}`, `elements[1].observations: a dot that the clock does not cover`},
		{KindORSet, `{"elements":[{"element":"x","observations":[["a",0]]}]}`, `elements[0].observations[0]: a counter of 0`},
		{KindORSet, `{"elements":[{"element":"x","observations":[["",1]]}]}`, `elements[0].observations[0][0]: an empty node id`},
		{KindORSet, `{"elements":[{"element":"x","observations":[["a"]]}]}`, `elements[0].observations[0]: want 2 elements, found 1`},
		{KindMVRegister, `{"entries":{"x":[["a",1]]}}`, `entries[0]: a dot that the clock does not cover`},
		{KindORMap, `{"elements":{"elements":[{"element":["k","v"],"observations":[["a",1]]}]},"vclock":{"clocks":{"a":[1,0]}}}`, `elements.elements[0].observations: a dot that the clock does not cover`},
	} {
		_, err := Canonical(test.kind, []byte(test.state))
		want := "crdt: invalid state: " + test.kind.String() + ": " + test.want
		if !errors.Is(err, ErrInvalidState) || err.Error() != want {
			t.Errorf("%s reads as\n%v, want\n%s", test.state, err, want)
		}
	}
}

func TestErrorsNameTheArgument(t *testing.T) {
	good, bad := Empty(KindGSet), []byte("{}")
	for want, call := range map[string]func() ([]byte, error){
		"a: no field elements":         func() ([]byte, error) { return Merge(KindGSet, bad, bad) },
		"b: no field elements":         func() ([]byte, error) { return Merge(KindGSet, good, bad) },
		"states[2]: no field elements": func() ([]byte, error) { return Compact(KindGSet, good, good, bad) },
		"no field elements":            func() ([]byte, error) { return Apply(KindGSet, bad, []byte("[]"), Op{Node: "a"}) },
	} {
		if _, err := call(); err == nil || err.Error() != "crdt: invalid state: GSet: "+want {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

func TestOddFormsAreRead(t *testing.T) {
	for _, test := range []struct {
		kind        Kind
		state, want string
	}{
		{KindGSet, " \t\r\n{ \"elements\" : [ \"x\" ] } \n", `{"elements":["x"],"vclock":{"clocks":{}}}`},
		{KindGSet, `{"elements":["\u0078\ud83d\ude00\/\u001F\"\\\b\f\n\r\t<>&` + "\u2028\x7f" + `"]}`, `{"elements":["x😀/\u001f\"\\\b\f\n\r\t<>&` + "\u2028\x7f" + `"],"vclock":{"clocks":{}}}`},
		{KindGSet, `{"elements":["\ufffd","\u0000",""]}`, `{"elements":["","\u0000","` + "\ufffd" + `"],"vclock":{"clocks":{}}}`},
		{KindGSet, `{"elements":["é","e","z","e"]}`, `{"elements":["e","z","é"],"vclock":{"clocks":{}}}`},
		{KindGSet, `{"a":[{"b":null,"b":[-0.5e+3,true,false,"",{}]}],"a":0,"elements":[]}`, `{"elements":[],"vclock":{"clocks":{}}}`},
		{KindGSet, `{"elements":[],"vclock":{"clocks":{"b":[2,1],"a":[0,9]},"x":1}}`, `{"elements":[],"vclock":{"clocks":{"b":[2,1]}}}`},
		{KindGCounter, `{"counters":{"b":9223372036854775807,"a":0}}`, `{"counters":{"b":9223372036854775807},"vclock":{"clocks":{}}}`},
		{KindPNCounter, `{"negative":{"counters":{},"vclock":{"clocks":{"a":[3,3]}}},"positive":{"counters":{}},"vclock":{"clocks":{"a":[1,9],"b":[1,1]}}}`, `{"negative":{"counters":{},"vclock":{"clocks":{"a":[3,3]}}},"positive":{"counters":{},"vclock":{"clocks":{}}},"vclock":{"clocks":{"a":[3,9],"b":[1,1]}}}`},
		{KindORSet, `{"elements":[{"element":"x","observations":[]}]}`, `{"elements":[],"vclock":{"clocks":{}}}`},
		{KindLWWMap, `{"removed":{},"entries":{}}`, `{"entries":{},"vclock":{"clocks":{}}}`},
		{KindFWWRegister, `{"value":"v","timestamp":18446744073709551615,"node_id":"` + strings.Repeat("n", 256) + `"}`, `{"node_id":"` + strings.Repeat("n", 256) + `","timestamp":18446744073709551615,"value":"v","vclock":{"clocks":{}}}`},
	} {
		got, err := Canonical(test.kind, []byte(test.state))
		if sure(t, got, err) != test.want {
			t.Errorf("%s is\n%s, want\n%s", test.state, got, test.want)
		}
	}
}

// TestStringsAreThoseOfEncodingJSON compares both ways, for text without HTML's characters.
func TestStringsAreThoseOfEncodingJSON(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.String().Draw(t, "s")
		ours := appendString(nil, s)
		var back string
		if err := json.Unmarshal(ours, &back); err != nil || back != s {
			t.Fatalf("%q is written as %s, which encoding/json reads as %q, %v", s, ours, back, err)
		}
		theirs, err := json.Marshal(s)
		sure(t, theirs, err)
		for _, text := range [][]byte{ours, theirs} {
			c, err := newCursor(text, Limits{}.withDefaults(), ErrInvalidState)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := c.str(); err != nil || got != s || c.end() != nil {
				t.Fatalf("%s is read as %q, %v", text, got, err)
			}
		}
	})
}

// TestErrorsDoNotQuote: content may be secret.
func TestErrorsDoNotQuote(t *testing.T) {
	forEachKind(t, func(t *testing.T, k Kind) {
		for _, text := range []string{
			`"secret"`, `{"secret":secret}`, `{"elements":[{"secret":1}],"entries":{"secret":["secret",1]},"counters":{"secret":"secret"},"positive":"secret","add_set":{"secret":"secret"},"value":{"secret":1},"add":{"secret":"secret"},"set":{"secret":1},"increment":"secret"}`,
		} {
			for _, err := range []error{Validate(k, []byte(text)), ValidateDelta(k, []byte(text))} {
				if err != nil && strings.Contains(err.Error(), "secret") {
					t.Errorf("%s: %v", text, err)
				}
			}
		}
	})
}

func TestUnknownKinds(t *testing.T) {
	for _, k := range []Kind{0, KindORMap + 1, 255} {
		one := func(b []byte, err error) error { return err }
		_, valueErr := Value(k, nil)
		_, equalErr := Equal(k, nil, nil)
		for i, err := range []error{
			one(Merge(k, nil, nil)), one(Compact(k)), one(Canonical(k, nil)), Validate(k, nil), equalErr, valueErr,
			one(Apply(k, nil, nil, Op{})), ValidateDelta(k, nil), one(Prune(k, nil, 0)),
		} {
			if !errors.Is(err, ErrUnknownKind) {
				t.Errorf("%v: call %d returns %v", k, i, err)
			}
		}
	}
}

func TestParseKind(t *testing.T) {
	for _, k := range Kinds() {
		for _, name := range []string{k.String(), strings.ToLower(k.String()), strings.ToUpper(k.String())} {
			if got, err := ParseKind(name); err != nil || got != k {
				t.Errorf("%s is %v, %v", name, got, err)
			}
		}
	}
	for name, want := range map[string]Kind{"g_counter": KindGCounter, "OR_Set": KindORSet, "_lww__map_": KindLWWMap} {
		if got, err := ParseKind(name); err != nil || got != want {
			t.Errorf("%s is %v, %v", name, got, err)
		}
	}
	for _, name := range []string{"", "counter", "ORSet ", "Kind(0)"} {
		if got, err := ParseKind(name); got != 0 || !errors.Is(err, ErrUnknownKind) {
			t.Errorf("%q is %v, %v", name, got, err)
		}
	}
	if len(Kinds()) != 10 || Kind(0).String() != "Kind(0)" || Kind(11).String() != "Kind(11)" {
		t.Errorf("kinds are %v; others are %v and %v", Kinds(), Kind(0), Kind(11))
	}
}
