package crdt

// limits_test.go checks each limit at its edge, and that too much is noticed before it takes
// memory.

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
)

func TestLimitsHoldAtTheirEdge(t *testing.T) {
	for _, test := range []struct {
		limits     Limits
		kind       Kind
		fits, over string
		what       string
	}{
		{Limits{Bytes: 40}, KindGSet, `{"elements":[],"vclock":{"clocks":{}}}  `, `{"elements":[],"vclock":{"clocks":{}}}   `, "more than 40 bytes"},
		{Limits{Bytes: 38}, KindGSet, `{"elements":[],"vclock":{"clocks":{}}}`, `{"elements":["x"]}`, "more than 38 bytes"}, // as it is written
		{Limits{Elements: 2}, KindGSet, `{"elements":["x","y"]}`, `{"elements":["x","x","x"]}`, "elements[2]: more than 2 elements"},
		{Limits{Elements: 2}, KindORSet, `{"elements":[` + strings.Repeat(`{"element":"x","observations":[]},`, 1) + `{"element":"x","observations":[]}]}`, `{"elements":[` + strings.Repeat(`{"element":"x","observations":[]},`, 2) + `{"element":"x","observations":[]}]}`, "elements[2]: more than 2 elements"},
		{Limits{Elements: 2}, KindLWWSet, `{"add_set":{"x":[1,"a"]},"remove_set":{"x":[1,"a"]}}`, `{"add_set":{"x":[1,"a"]},"remove_set":{"y":[1,"a"],"x":[1,"a"]}}`, "remove_set[1]: more than 2 elements"},
		{Limits{Elements: 2}, KindLWWMap, `{"entries":{"x":["",1,"a"]},"removed":{"x":[1,"a"]}}`, `{"entries":{"x":["",1,"a"]},"removed":{"x":[1,"a"],"y":[1,"a"]}}`, "removed[1]: more than 2 elements"},
		{Limits{Elements: 1}, KindMVRegister, `{"entries":{"x":[]}}`, `{"entries":{"x":[],"y":[]}}`, "entries[1]: more than 1 elements"},
		{Limits{Nodes: 1}, KindGCounter, `{"counters":{"a":1}}`, `{"counters":{"a":1,"b":0}}`, "counters[1]: more than 1 nodes"},
		{Limits{Nodes: 1}, KindGSet, `{"elements":[],"vclock":{"clocks":{"a":[1,1]}}}`, `{"elements":[],"vclock":{"clocks":{"a":[1,1],"b":[0,1]}}}`, "vclock.clocks[1]: more than 1 nodes"},
		{Limits{Nodes: 1}, KindORMap, `{"elements":{"elements":[],"vclock":{"clocks":{"a":[1,1]}}},"vclock":{"clocks":{"a":[2,1]}}}`, `{"elements":{"elements":[],"vclock":{"clocks":{"a":[1,1]}}},"vclock":{"clocks":{"b":[2,1]}}}`, "more than 1 nodes"},
		{Limits{StringBytes: 2}, KindGSet, `{"elements":["xy","\u00e9","é","\n\n"],"elements2":1}`, `{"elements":["x","xyz"]}`, "[0]: more than 2 bytes in a string"},
		{Limits{StringBytes: 9}, KindGSet, `{"elements":["\u0041\u0041\u0041\u0041\u0041\u0041\u0041\u0041\u0041"]}`, `{"elements":["\u0041\u0041\u0041\u0041\u0041\u0041\u0041\u0041\u0041\u0041"]}`, "elements[0]: more than 9 bytes in a string"},
		{Limits{StringBytes: 9}, KindGSet, `{"elements":["123456789"]}`, `{"elements":["1234567890"]}`, "elements[0]: more than 9 bytes in a string"},
		{Limits{}, KindGSet, `{"elements":[],"x":` + strings.Repeat("[", 64) + strings.Repeat("]", 64) + `}`, `{"elements":[],"x":` + strings.Repeat("[", 65) + strings.Repeat("]", 65) + `}`, ": more than 64 levels"},
	} {
		err := test.limits.Validate(test.kind, []byte(test.over))
		if !errors.Is(err, ErrTooLarge) || !strings.HasPrefix(err.Error(), "crdt: too large: "+test.kind.String()+": ") || !strings.HasSuffix(err.Error(), test.what) {
			t.Errorf("%+v: %s: %v, want %s", test.limits, test.over, err, test.what)
		}
		if test.limits.StringBytes == 2 { // shorter than the names of fields
			continue
		}
		if err := test.limits.Validate(test.kind, []byte(test.fits)); err != nil {
			t.Errorf("%+v: %s: %v", test.limits, test.fits, err)
		}
	}
}

func TestResultsAreLimited(t *testing.T) {
	x, y := []byte(`{"elements":["x"],"vclock":{"clocks":{"a":[1,0]}}}`), []byte(`{"elements":["y"],"vclock":{"clocks":{"b":[1,0]}}}`)
	for _, l := range []Limits{{Elements: 1}, {Nodes: 1}, {Bytes: len(x)}} {
		if _, err := l.Merge(KindGSet, x, y); !errors.Is(err, ErrTooLarge) {
			t.Errorf("%+v: Merge: %v", l, err)
		}
		if _, err := l.Apply(KindGSet, x, []byte(`["y"]`), Op{Node: "b"}); !errors.Is(err, ErrTooLarge) {
			t.Errorf("%+v: Apply: %v", l, err)
		}
		if _, err := l.Compact(KindGSet, x, y); !errors.Is(err, ErrTooLarge) {
			t.Errorf("%+v: Compact: %v", l, err)
		}
		if _, err := l.Merge(KindGSet, x, x); err != nil {
			t.Errorf("%+v: Merge with itself: %v", l, err)
		}
	}
	// What is too large on the way to the result is none.
	seen := `{"elements":[{"element":%q,"observations":[[%q,1]]}],"vclock":{"clocks":{%q:[1,0]}}}`
	gone := []byte(`{"elements":[],"vclock":{"clocks":{"a":[1,0],"b":[1,0]}}}`)
	got, err := Limits{Elements: 1}.Compact(KindORSet, fmt.Appendf(nil, seen, "x", "a", "a"), fmt.Appendf(nil, seen, "y", "b", "b"), gone)
	if sure(t, got, err) != string(gone) {
		t.Errorf("compacts to %s", got)
	}
}

// TestJoinedClocksAreLimited: an outer clock may only be too large with what the inner ones add.
func TestJoinedClocksAreLimited(t *testing.T) {
	state := []byte(`{"elements":{"elements":[],"vclock":{"clocks":{"a":[1,1]}}},"vclock":{"clocks":{"b":[2,1]}}}`)
	if _, err := (Limits{Nodes: 1}).Value(KindORMap, state); !errors.Is(err, ErrTooLarge) {
		t.Errorf("2 nodes of 1: %v", err)
	}
}

func TestCompactionsAreLimited(t *testing.T) {
	states := [][]byte{Empty(KindGSet), Empty(KindGSet), Empty(KindGSet)}
	if _, err := (Limits{Values: 2}).Compact(KindGSet, states...); !errors.Is(err, ErrTooLarge) {
		t.Errorf("3 states of 2: %v", err)
	}
	if _, err := (Limits{Values: 3}).Compact(KindGSet, states...); err != nil {
		t.Errorf("3 states of 3: %v", err)
	}
}

func TestDeltasAreLimited(t *testing.T) {
	for delta, l := range map[string]Limits{
		`{"add":["x"],"remove":["y"]}`:     {Elements: 1},
		`{"set":{"x":"y"},"remove":["y"]}`: {Elements: 1},
		`{"set":{"x":"y","y":"x"}}`:        {Elements: 1},
		`{"add":["0123456789"]}`:           {StringBytes: 9},
		`{"add":[]}`:                       {Bytes: 9},
	} {
		k := KindORSet
		if strings.Contains(delta, "set") {
			k = KindORMap
		}
		if err := l.ValidateDelta(k, []byte(delta)); !errors.Is(err, ErrTooLarge) {
			t.Errorf("%+v: %s: %v", l, delta, err)
		}
	}
}

func TestGoTypesHaveTheDefaultLimits(t *testing.T) {
	var c GCounter
	for i := range defaultNodes {
		must(t, c.Increment(fmt.Sprintf("%05d", i), 1))
	}
	must(t, c.Validate())
	b, err := c.MarshalJSON()
	sure(t, b, err)
	must(t, c.Increment("one more", 1))
	if err := c.Validate(); !errors.Is(err, ErrTooLarge) {
		t.Errorf("Validate: %v", err)
	}
	if _, err := c.MarshalJSON(); !errors.Is(err, ErrTooLarge) {
		t.Errorf("MarshalJSON: %v", err)
	}
}

// TestDefaultLimits names the numbers, which users may rely on.
func TestDefaultLimits(t *testing.T) {
	if got, want := (Limits{Bytes: -1}).withDefaults(), (Limits{16 << 20, 100_000, 10_000, 1 << 20, 1000}); got != want {
		t.Errorf("defaults are %+v, want %+v", got, want)
	}
	if got, want := (Limits{1, 2, 3, 4, 5}).withDefaults(), (Limits{1, 2, 3, 4, 5}); got != want {
		t.Errorf("%+v becomes %+v", want, got)
	}
}

// TestTooMuchIsNoticedEarly: a text far beyond a limit takes no more memory than its own copy and
// what the limit allows.
func TestTooMuchIsNoticedEarly(t *testing.T) {
	many := []byte(`{"elements":[` + strings.Repeat(`"",`, 1<<20) + `""]}`)
	long := []byte(`{"elements":["\n` + strings.Repeat(`\n`, 1<<20) + `"]}`)
	deep := []byte(`{"elements":[],"x":` + strings.Repeat(`[`, 1<<20))
	for name, text := range map[string][]byte{"many": many, "long": long, "deep": deep} {
		const runs = 10
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range runs {
			if err := (Limits{Elements: 100, StringBytes: 100}).Validate(KindGSet, text); !errors.Is(err, ErrTooLarge) {
				t.Fatal(err)
			}
		}
		runtime.ReadMemStats(&after)
		if extra := int(after.TotalAlloc-before.TotalAlloc)/runs - len(text); extra > 64<<10 {
			t.Errorf("%s: %d bytes more than the text", name, extra)
		}
	}
}

// TestTheLargestInputIsTaken: nothing grows with the square of what the limits allow, or this would
// take minutes; it takes well below a second.
func TestTheLargestInputIsTaken(t *testing.T) {
	list := make([]string, defaultElements/2) // the worst order, and every second one is new
	odd := make([]string, len(list))
	for i := range list {
		list[len(list)-1-i] = quote(fmt.Sprintf("%06d", 2*i))
		odd[len(list)-1-i] = quote(fmt.Sprintf("%06d", 2*i+1))
	}
	join := func(list []string, suffix string) string { return strings.Join(list, suffix+",") + suffix }
	for k, texts := range map[Kind][2]string{
		KindGSet:   {`{"add":[` + join(odd, "") + `]}`, `{"add":[` + join(list, "") + `]}`},
		KindORSet:  {`{"add":[` + join(odd, "") + `]}`, `{"add":[` + join(list, "") + `],"remove":[` + join(odd, "") + `]}`},
		KindLWWSet: {`{"add":[` + join(odd, "") + `]}`, `{"add":[` + join(list, "") + `],"remove":[]}`},
		KindLWWMap: {`{"set":{` + join(odd, `:""`) + `}}`, `{"set":{` + join(list, `:""`) + `}}`},
		KindORMap:  {`{"set":{` + join(odd, `:""`) + `}}`, `{"set":{` + join(list, `:""`) + `},"remove":[` + join(odd, "") + `]}`},
	} {
		state, err := Apply(k, nil, []byte(texts[0]), Op{Node: "a"})
		sure(t, state, err)
		after, err := Apply(k, state, []byte(texts[1]), Op{Node: "a"})
		sure(t, after, err)
		merged, err := Merge(k, state, after)
		sure(t, merged, err)
	}
	// One element, again and again, each time with another observation.
	const times = defaultElements
	var b []byte
	for i := range times {
		b = fmt.Appendf(b, `,{"element":"x","observations":[["a",%d]]}`, times-i)
	}
	got, err := Canonical(KindORSet, fmt.Appendf(nil, `{"elements":[%s],"vclock":{"clocks":{"a":[%d,0]}}}`, b[1:], times))
	sure(t, got, err)
}
