package crdt

// vectors_test.go has pairs of states and what they merge to, made by hand and checked against
// another implementation of the same shapes. If one fails, data in the wild reads otherwise.

import (
	"testing"
)

var vectors = []struct {
	name       string
	kind       Kind
	a, b       string
	want       string // in canonical form
	wantsValue string
}{
	{
		"GCounter", KindGCounter,
		`{"counters":{"a":5,"b":2},"vclock":{"clocks":{"a":[2,100],"b":[1,90]}}}`,
		`{"counters":{"b":4,"c":1},"vclock":{"clocks":{"b":[2,110],"c":[1,105]}}}`,
		`{"counters":{"a":5,"b":4,"c":1},"vclock":{"clocks":{"a":[2,100],"b":[2,110],"c":[1,105]}}}`,
		`10`,
	},
	{
		"PNCounter", KindPNCounter,
		`{"positive":{"counters":{"a":7},"vclock":{"clocks":{"a":[1,100]}}},
		  "negative":{"counters":{"a":2},"vclock":{"clocks":{"a":[1,101]}}},"vclock":{"clocks":{"a":[2,101]}}}`,
		`{"positive":{"counters":{"b":3},"vclock":{"clocks":{"b":[1,99]}}},
		  "negative":{"counters":{},"vclock":{"clocks":{}}},"vclock":{"clocks":{"b":[1,99]}}}`,
		`{"negative":{"counters":{"a":2},"vclock":{"clocks":{"a":[1,101]}}},` +
			`"positive":{"counters":{"a":7,"b":3},"vclock":{"clocks":{"a":[1,100],"b":[1,99]}}},` +
			`"vclock":{"clocks":{"a":[2,101],"b":[1,99]}}}`,
		`8`,
	},
	{
		"GSet", KindGSet,
		`{"elements":["pear","apple"],"vclock":{"clocks":{"a":[2,100]}}}`,
		`{"elements":["fig","pear"],"vclock":{"clocks":{"b":[2,101]}}}`,
		`{"elements":["apple","fig","pear"],"vclock":{"clocks":{"a":[2,100],"b":[2,101]}}}`,
		`["apple","fig","pear"]`,
	},
	{
		"ORSet", KindORSet,
		`{"elements":[{"element":"x","observations":[["a",1]]},{"element":"y","observations":[["a",2]]}],"vclock":{"clocks":{"a":[2,100]}}}`,
		`{"elements":[{"element":"y","observations":[["a",2],["b",1]]}],"vclock":{"clocks":{"a":[2,100],"b":[1,101]}}}`,
		`{"elements":[{"element":"y","observations":[["a",2],["b",1]]}],"vclock":{"clocks":{"a":[2,100],"b":[1,101]}}}`,
		`["y"]`,
	},
	{
		"ORSet add wins", KindORSet,
		`{"elements":[{"element":"x","observations":[["a",1],["a",2]]}],"vclock":{"clocks":{"a":[2,100]}}}`,
		`{"elements":[],"vclock":{"clocks":{"a":[1,100]}}}`,
		`{"elements":[{"element":"x","observations":[["a",2]]}],"vclock":{"clocks":{"a":[2,100]}}}`,
		`["x"]`,
	},
	{
		"LWWSet", KindLWWSet,
		`{"add_set":{"x":[10,"a"],"y":[10,"a"]},"remove_set":{}}`,
		`{"add_set":{"y":[9,"b"]},"remove_set":{"x":[10,"b"]}}`,
		`{"add_set":{"x":[10,"a"],"y":[10,"a"]},"remove_set":{"x":[10,"b"]},"vclock":{"clocks":{}}}`,
		`["y"]`,
	},
	{
		"LWWRegister", KindLWWRegister,
		`{"value":"red","timestamp":50,"node_id":"a","vclock":{"clocks":{"a":[1,100]}}}`,
		`{"value":"blue","timestamp":50,"node_id":"b","vclock":{"clocks":{"b":[1,101]}}}`,
		`{"node_id":"b","timestamp":50,"value":"blue","vclock":{"clocks":{"a":[1,100],"b":[1,101]}}}`,
		`"blue"`,
	},
	{
		"FWWRegister", KindFWWRegister,
		`{"value":"red","timestamp":50,"node_id":"b","vclock":{"clocks":{"b":[1,101]}}}`,
		`{"value":"blue","timestamp":50,"node_id":"a","vclock":{"clocks":{"a":[1,100]}}}`,
		`{"node_id":"a","timestamp":50,"value":"blue","vclock":{"clocks":{"a":[1,100],"b":[1,101]}}}`,
		`"blue"`,
	},
	{
		"MVRegister", KindMVRegister,
		`{"entries":{"red":[["a",1]]},"vclock":{"clocks":{"a":[1,100]}}}`,
		`{"entries":{"blue":[["b",1]]},"vclock":{"clocks":{"b":[1,101]}}}`,
		`{"entries":{"blue":[["b",1]],"red":[["a",1]]},"vclock":{"clocks":{"a":[1,100],"b":[1,101]}}}`,
		`["blue","red"]`,
	},
	{
		"MVRegister seen", KindMVRegister,
		`{"entries":{"red":[["a",1]]},"vclock":{"clocks":{"a":[1,100]}}}`,
		`{"entries":{"blue":[["b",1]]},"vclock":{"clocks":{"a":[1,100],"b":[1,101]}}}`,
		`{"entries":{"blue":[["b",1]]},"vclock":{"clocks":{"a":[1,100],"b":[1,101]}}}`,
		`["blue"]`,
	},
	{
		"LWWMap", KindLWWMap,
		`{"entries":{"k":["v1",10,"a"],"z":["zz",3,"a"]},"vclock":{"clocks":{"a":[2,100]}}}`,
		`{"entries":{"k":["v2",12,"b"]},"vclock":{"clocks":{"b":[1,101]}}}`,
		`{"entries":{"k":["v2",12,"b"],"z":["zz",3,"a"]},"vclock":{"clocks":{"a":[2,100],"b":[1,101]}}}`,
		`{"k":"v2","z":"zz"}`,
	},
	{
		"ORMap", KindORMap,
		`{"elements":{"elements":[{"element":["k","v1"],"observations":[["a",1]]}],"vclock":{"clocks":{"a":[1,100]}}},"vclock":{"clocks":{"a":[1,100]}}}`,
		`{"elements":{"elements":[{"element":["k","v2"],"observations":[["b",1]]}],"vclock":{"clocks":{"b":[1,101]}}},"vclock":{"clocks":{"b":[1,101]}}}`,
		`{"elements":{"elements":[{"element":["k","v1"],"observations":[["a",1]]},{"element":["k","v2"],"observations":[["b",1]]}],` +
			`"vclock":{"clocks":{"a":[1,100],"b":[1,101]}}},"vclock":{"clocks":{"a":[1,100],"b":[1,101]}}}`,
		`{"k":["v1","v2"]}`,
	},
	{
		"ORMap seen", KindORMap,
		`{"elements":{"elements":[{"element":["k","v1"],"observations":[["a",1]]}],"vclock":{"clocks":{"a":[1,100]}}},"vclock":{"clocks":{"a":[1,100]}}}`,
		`{"elements":{"elements":[{"element":["k","v2"],"observations":[["b",1]]}],"vclock":{"clocks":{"a":[1,100],"b":[1,101]}}},"vclock":{"clocks":{"b":[1,101]}}}`,
		`{"elements":{"elements":[{"element":["k","v2"],"observations":[["b",1]]}],` +
			`"vclock":{"clocks":{"a":[1,100],"b":[1,101]}}},"vclock":{"clocks":{"a":[1,100],"b":[1,101]}}}`,
		`{"k":["v2"]}`,
	},
}

func TestVectorsMergeAsEverywhere(t *testing.T) {
	for _, v := range vectors {
		for _, order := range [][2]string{{v.a, v.b}, {v.b, v.a}} {
			got, err := Merge(v.kind, []byte(order[0]), []byte(order[1]))
			if err != nil {
				t.Fatalf("%s: %v", v.name, err)
			}
			if string(got) != v.want {
				t.Errorf("%s merges to\n%s, want\n%s", v.name, got, v.want)
			}
		}
		value, err := Value(v.kind, []byte(v.want))
		if err != nil || string(value) != v.wantsValue {
			t.Errorf("%s has value %s, %v, want %s", v.name, value, err, v.wantsValue)
		}
	}
}

func TestEmptyStates(t *testing.T) {
	for k, want := range map[Kind]string{
		KindGCounter:    `{"counters":{},"vclock":{"clocks":{}}}`,
		KindPNCounter:   `{"negative":{"counters":{},"vclock":{"clocks":{}}},"positive":{"counters":{},"vclock":{"clocks":{}}},"vclock":{"clocks":{}}}`,
		KindGSet:        `{"elements":[],"vclock":{"clocks":{}}}`,
		KindORSet:       `{"elements":[],"vclock":{"clocks":{}}}`,
		KindLWWSet:      `{"add_set":{},"remove_set":{},"vclock":{"clocks":{}}}`,
		KindLWWRegister: `{"node_id":"","timestamp":0,"value":"","vclock":{"clocks":{}}}`,
		KindFWWRegister: `{"node_id":"","timestamp":18446744073709551615,"value":"","vclock":{"clocks":{}}}`,
		KindMVRegister:  `{"entries":{},"vclock":{"clocks":{}}}`,
		KindLWWMap:      `{"entries":{},"vclock":{"clocks":{}}}`,
		KindORMap:       `{"elements":{"elements":[],"vclock":{"clocks":{}}},"vclock":{"clocks":{}}}`,
	} {
		if got := Empty(k); string(got) != want {
			t.Errorf("empty %v is %s, want %s", k, got, want)
		}
		if got, err := Canonical(k, Empty(k)); err != nil || string(got) != want {
			t.Errorf("empty %v reads as %s, %v", k, got, err)
		}
	}
	if got := Empty(0); got != nil {
		t.Errorf("empty of no kind is %s", got)
	}
}
