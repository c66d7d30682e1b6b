package crdt

// fuzz_test.go throws any bytes at all kinds.

import (
	"bytes"
	"testing"
)

// seeds adds one input for each vector and odd text.
func seeds(add func(k Kind, a, b string)) {
	for _, v := range vectors {
		add(v.kind, v.a, v.b)
	}
	for _, k := range Kinds() {
		add(k, string(Empty(k)), " null")
		add(k, `{"elements":["\ud83d\ude00"],"x":[[{"y":-1.5e9}]]}`, `{"elements":[{"element":"x","observations":[["a",1]]}]}`)
	}
}

func FuzzMerge(f *testing.F) {
	seeds(func(k Kind, a, b string) { f.Add(byte(k), []byte(a), []byte(b)) })
	f.Fuzz(func(t *testing.T, kind byte, a, b []byte) {
		k := Kind(kind)
		ca, err := Canonical(k, a)
		if err != nil {
			return
		}
		again, err := Canonical(k, ca)
		if sure(t, again, err) != string(ca) {
			t.Fatalf("%q is canonically %q, and that is %q", a, ca, again)
		}
		if self, err := Merge(k, a, a); sure(t, self, err) != string(ca) {
			t.Fatalf("%q merges with itself to %q", a, self)
		}
		if _, err := Value(k, a); err != nil {
			t.Fatal(err)
		}
		if _, err := Canonical(k, b); err != nil {
			return
		}
		ab, err := Merge(k, a, b)
		ba, err2 := Merge(k, b, a)
		if sure(t, ab, err) != sure(t, ba, err2) {
			t.Fatalf("%q and %q merge to %q or %q", a, b, ab, ba)
		}
		if abb, err := Merge(k, ab, b); sure(t, abb, err) != string(ab) {
			t.Fatalf("%q and %q merge to %q, and again to %q", a, b, ab, abb)
		}
		pruned, err := Prune(k, ab, 2)
		must(t, Validate(k, []byte(sure(t, pruned, err))))
	})
}

func FuzzApply(f *testing.F) {
	for _, d := range goodDeltas {
		f.Add(byte(d.kind), []byte(d.want), []byte(d.delta), "n", uint64(9), uint64(7), uint64(0))
		f.Add(byte(d.kind), []byte(d.want), []byte(d.delta), "n", uint64(9), uint64(7), uint64(1))
	}
	f.Add(byte(KindPNCounter), []byte{}, []byte("-9223372036854775808"), "", uint64(0), uint64(0), uint64(0))
	f.Fuzz(func(t *testing.T, kind byte, state, delta []byte, node string, time, seconds, number uint64) {
		k := Kind(kind)
		deltaErr := ValidateDelta(k, delta)
		after, err := Apply(k, state, delta, Op{Node: node, Time: time, Seconds: seconds, Number: number})
		if err != nil {
			return
		}
		if deltaErr != nil {
			t.Fatalf("%q is applied, but %v", delta, deltaErr)
		}
		canonical, err := Canonical(k, after)
		if sure(t, canonical, err) != string(after) {
			t.Fatalf("%q leads to %q, which is canonically %q", delta, after, canonical)
		}
		if len(state) == 0 || number > 0 { // it may come late
			return
		}
		if merged, err := Merge(k, state, after); sure(t, merged, err) != string(after) {
			t.Fatalf("%q leads from %q to %q, and both merge to %q", delta, state, after, merged)
		}
	})
}

// FuzzUnmarshal reads every text as every kind.
func FuzzUnmarshal(f *testing.F) {
	seeds(func(_ Kind, a, b string) { f.Add([]byte(a)); f.Add([]byte(b)) })
	f.Fuzz(func(t *testing.T, text []byte) {
		for _, k := range Kinds() {
			s, input := newState(k), bytes.Clone(text)
			if s.(interface{ UnmarshalJSON([]byte) error }).UnmarshalJSON(input) != nil {
				continue
			}
			clear(input)
			got, err := marshal(s)
			want, err2 := Canonical(k, text)
			if sure(t, got, err) != sure(t, want, err2) {
				t.Fatalf("%q is %q or %q", text, got, want)
			}
		}
	})
}
