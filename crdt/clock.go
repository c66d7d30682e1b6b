package crdt

// clock.go is the vector clock: how many operations of each node a state has seen. It matters for
// kinds with dots (dots.go); for the others it only counts.

import (
	"math"
	"slices"
	"strings"
)

// clock is sorted by node. An entry whose counter is 0 says the same as none, and is dropped when
// it is read; its seconds go with it. Dropping is the choice that makes equal knowledge equal
// bytes, and merging commutes with it, since no merge turns a counter into 0.
type clock []entry

type entry struct {
	node    string
	counter uint64
	seconds uint64 // time of the last operation, as the caller of Apply has it; means nothing here
}

func compareEntries(a, b entry) int { return strings.Compare(a.node, b.node) }

func (c *cursor) clock() (clock, error) {
	var list clock
	_, err := c.fields(1, []string{"clocks"}, func(int) error {
		list = make(clock, 0, c.room(24))
		err := c.table(func(node string) error {
			e := entry{node: node}
			if len(list) == c.limits.Nodes {
				return moreThan(c.limits.Nodes, "nodes")
			}
			if err := c.checkNode(node); err != nil {
				return err
			}
			err := c.tuple(2, func(i int) (err error) {
				if i == 0 {
					e.counter, err = c.uint64()
				} else {
					e.seconds, err = c.uint64()
				}
				return err
			})
			list = append(list, e)
			return err
		})
		if err == nil && !sortUnique(list, compareEntries) {
			err = c.fail("a node is there twice")
		}
		return err
	})
	return slices.DeleteFunc(list, func(e entry) bool { return e.counter == 0 }), err
}

func (v clock) find(node string) (int, bool) {
	return slices.BinarySearchFunc(v, node, func(e entry, node string) int {
		return strings.Compare(e.node, node)
	})
}

// counter returns how many operations of node were seen.
func (v clock) counter(node string) uint64 {
	if i, ok := v.find(node); ok {
		return v[i].counter
	}
	return 0
}

// full reports whether there is no room for n operations.
func (v clock) full(op Op, n int) bool {
	return op.Number == 0 && v.counter(op.Node) > math.MaxUint64-uint64(n)
}

// tick counts n operations and returns the number of the first; the others follow it, or, if op has
// a number, share it. The clock must not be full. Neither it nor seconds go back: merging takes the
// larger, and an operation must not lead to a state that merging with the one before would change.
func (v *clock) tick(op Op, n int) uint64 {
	i, ok := v.find(op.Node)
	switch {
	case n == 0:
		return 0
	case !ok:
		*v = slices.Insert(*v, i, entry{node: op.Node})
	}
	e := &(*v)[i]
	e.seconds = max(e.seconds, op.Seconds)
	if op.Number > 0 {
		e.counter = max(e.counter, op.Number)
		return op.Number
	}
	e.counter += uint64(n)
	return e.counter - uint64(n) + 1
}

func (v clock) join(with clock) clock {
	return union(v, with, compareEntries, func(a, b entry) entry {
		return entry{a.node, max(a.counter, b.counter), max(a.seconds, b.seconds)}
	})
}

func (v clock) append(b []byte) []byte {
	b = append(b, `"vclock":{"clocks":`...)
	b = appendList(b, "{}", v, func(b []byte, e entry) []byte {
		b = append(appendString(b, e.node), ":["...)
		b = append(appendUint(b, e.counter), ',')
		return append(appendUint(b, e.seconds), ']')
	})
	return append(b, '}')
}

func fullClock(k Kind) error {
	return &fault{base: ErrOverflow, kind: k, path: ".vclock", what: "no counter is left for the node"}
}
