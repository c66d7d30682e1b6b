package crdt

// generators_test.go draws states and deltas that collide: three nodes, three elements, timestamps
// 1 to 3 and the ends of their range. A generator whose states never tie proves nothing about ties.
// States come as other implementations may write them: unsorted, with repetitions, zeros, elements
// without observations, and outer clocks that disagree.

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// quiet is what rapid.T and testing.T have in common here.
type quiet interface {
	Helper()
	Fatalf(format string, args ...any)
}

// sure returns b, and fails the test for an error.
func sure(t quiet, b []byte, err error) string {
	t.Helper()
	if err != nil {
		t.Fatalf("%v", err)
	}
	return string(b)
}

func forEachKind(t *testing.T, fn func(t *testing.T, k Kind)) {
	t.Helper()
	for _, k := range Kinds() {
		t.Run(k.String(), func(t *testing.T) { fn(t, k) })
	}
}

var (
	someNodes    = []string{"a", "b", "c"}
	someElements = []string{"x", "y", `<z">`}
)

func drawNode(t *rapid.T) string    { return rapid.SampledFrom(someNodes).Draw(t, "node") }
func drawElement(t *rapid.T) string { return rapid.SampledFrom(someElements).Draw(t, "element") }

func drawTime(t *rapid.T) uint64 {
	return rapid.SampledFrom([]uint64{1, 2, 3, 1, 2, 3, 0, math.MaxUint64}).Draw(t, "time")
}

func quote(s string) string { return string(appendString(nil, s)) }

// drawSome draws a subset in any order.
func drawSome(t *rapid.T, all []string) []string {
	some := rapid.Permutation(all).Draw(t, "order")
	return some[:rapid.IntRange(0, len(all)).Draw(t, "count")]
}

// drawObject writes an object with some of the keys.
func drawObject(t *rapid.T, keys []string, value func(key string) string) string {
	var parts []string
	for _, key := range drawSome(t, keys) {
		parts = append(parts, quote(key)+":"+value(key))
	}
	return "{" + strings.Join(parts, ", ") + "}"
}

// drawClock writes a clock field that covers some counters at least, maybe none if it needn't.
func drawClock(t *rapid.T, least map[string]int) string {
	if len(least) == 0 && rapid.Bool().Draw(t, "no clock") {
		return ""
	}
	keys := slices.Sorted(maps.Keys(least))
	for _, node := range drawSome(t, someNodes) {
		if _, ok := least[node]; !ok {
			keys = append(keys, node)
		}
	}
	var parts []string
	for _, node := range keys {
		counter := least[node] + rapid.IntRange(0, 2).Draw(t, "more")
		parts = append(parts, fmt.Sprintf("%s:[%d,%d]", quote(node), counter, rapid.IntRange(0, 2).Draw(t, "seconds")))
	}
	return `,"vclock":{"clocks":{` + strings.Join(parts, ",") + `}}`
}

// drawDots writes a list of dots, and notes the largest counters.
func drawDots(t *rapid.T, largest map[string]int) string {
	var parts []string
	for range rapid.IntRange(0, 3).Draw(t, "dots") {
		node, counter := drawNode(t), rapid.IntRange(1, 3).Draw(t, "counter")
		largest[node] = max(largest[node], counter)
		parts = append(parts, fmt.Sprintf("[%s,%d]", quote(node), counter))
	}
	return "[" + strings.Join(parts, ",") + "]"
}

func drawCounter(t *rapid.T) string {
	counters := drawObject(t, someNodes, func(string) string { return fmt.Sprint(rapid.IntRange(0, 3).Draw(t, "amount")) })
	return `{"counters":` + counters + drawClock(t, nil) + `}`
}

func drawElements(t *rapid.T, element func() string) string {
	largest := make(map[string]int)
	var parts []string
	for range rapid.IntRange(0, 4).Draw(t, "elements") {
		parts = append(parts, `{"element":`+element()+`,"observations":`+drawDots(t, largest)+`}`)
	}
	return `{"elements":[` + strings.Join(parts, ",") + `]` + drawClock(t, largest) + `}`
}

func drawRegister(t *rapid.T, empty string) string {
	if rapid.IntRange(0, 4).Draw(t, "unset") == 0 {
		return `{"value":"","node_id":"","timestamp":` + empty + drawClock(t, nil) + `}`
	}
	value := rapid.SampledFrom(append([]string{""}, someElements...)).Draw(t, "value")
	return fmt.Sprintf(`{"value":%s,"timestamp":%d,"node_id":%s%s}`, quote(value), drawTime(t), quote(drawNode(t)), drawClock(t, nil))
}

func drawState(t *rapid.T, k Kind) []byte { return []byte(drawStateText(t, k)) }

func drawStateText(t *rapid.T, k Kind) string {
	write := func(string) string { return fmt.Sprintf("[%d,%s]", drawTime(t), quote(drawNode(t))) }
	switch k {
	case KindGCounter:
		return drawCounter(t)
	case KindPNCounter:
		return `{"positive":` + drawCounter(t) + `,"negative":` + drawCounter(t) + drawClock(t, nil) + `}`
	case KindGSet:
		var parts []string
		for range rapid.IntRange(0, 4).Draw(t, "elements") {
			parts = append(parts, quote(drawElement(t)))
		}
		return `{"elements":[` + strings.Join(parts, ",") + `]` + drawClock(t, nil) + `}`
	case KindORSet:
		return drawElements(t, func() string { return quote(drawElement(t)) })
	case KindLWWSet:
		return `{"add_set":` + drawObject(t, someElements, write) + `,"remove_set":` + drawObject(t, someElements, write) + drawClock(t, nil) + `}`
	case KindLWWRegister:
		return drawRegister(t, "0")
	case KindFWWRegister:
		return drawRegister(t, "18446744073709551615")
	case KindMVRegister:
		largest := make(map[string]int)
		entries := drawObject(t, someElements, func(string) string { return drawDots(t, largest) })
		return `{"entries":` + entries + drawClock(t, largest) + `}`
	case KindLWWMap:
		entries := drawObject(t, someElements, func(string) string {
			return fmt.Sprintf("[%s,%d,%s]", quote(drawElement(t)), drawTime(t), quote(drawNode(t)))
		})
		state := `{"entries":` + entries
		if rapid.Bool().Draw(t, "removed") {
			state += `,"removed":` + drawObject(t, someElements, write)
		}
		return state + drawClock(t, nil) + `}`
	default: // KindORMap
		pair := func() string { return "[" + quote(drawElement(t)) + "," + quote(drawElement(t)) + "]" }
		return `{"elements":` + drawElements(t, pair) + drawClock(t, nil) + `}`
	}
}

// change is an operation of any kind, in parts.
type change struct {
	node   string
	amount int64
	remove bool
	key    string // or element
	value  string
	time   uint64
}

func drawChange(t *rapid.T, k Kind) change {
	c := change{node: drawNode(t), key: drawElement(t), value: drawElement(t), time: drawTime(t)}
	switch k {
	case KindGCounter:
		c.amount = rapid.Int64Range(0, 3).Draw(t, "amount")
	case KindPNCounter:
		c.amount = rapid.Int64Range(-3, 3).Draw(t, "amount")
	case KindORSet, KindLWWSet, KindLWWMap, KindORMap:
		c.remove = rapid.Bool().Draw(t, "remove")
	}
	return c
}

// delta writes the change as JSON. Its timestamp is left to Op.
func (c change) delta(k Kind) []byte {
	switch k {
	case KindGCounter, KindPNCounter:
		return fmt.Append(nil, c.amount)
	case KindGSet:
		return []byte(`[` + quote(c.key) + `]`)
	case KindLWWRegister, KindFWWRegister:
		return []byte(`{"value":` + quote(c.value) + `}`)
	case KindMVRegister:
		return []byte(quote(c.value))
	case KindORSet, KindLWWSet:
		if !c.remove {
			return []byte(`{"add":[` + quote(c.key) + `]}`)
		}
	case KindLWWMap, KindORMap:
		if !c.remove {
			return []byte(`{"set":{` + quote(c.key) + `:` + quote(c.value) + `}}`)
		}
	}
	return []byte(`{"remove":[` + quote(c.key) + `]}`)
}

func (c change) op() Op { return Op{Node: c.node, Time: c.time} }
