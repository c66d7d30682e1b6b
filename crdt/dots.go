package crdt

// dots.go is what ORSet, ORMap and MVRegister share: items with dots, and the clock that covers
// them.
//
// A dot (node, counter) names the operation that put an item there. For each item and dot, a state
// is at one of three points: not seen (no dot, the clock is below it), there (the dot, and the
// clock covers it), gone (no dot, and the clock covers it). Merging takes the later point, so
// removals need no tombstone, and an item put anew while another node removed it stays, because its
// new dot was not seen there.
//
// A dot that the clock doesn't cover is a fourth point that operations can't treat right: removing
// it would leave no trace, and the node would make the same dot again. Such a state is invalid. It
// is not repaired by raising the clock, which would claim that all lower dots of the node were seen
// and removed.

import (
	"cmp"
	"slices"
	"strings"
)

type dot struct {
	node    string
	counter uint64
}

func compareDots(a, b dot) int {
	return cmp.Or(strings.Compare(a.node, b.node), cmp.Compare(a.counter, b.counter))
}

// item is an element of a set, a value of a register (both have no value here), or a pair of a map.
type item struct {
	key, value string
	dots       []dot // sorted; at least one; never changed in place, as slices are shared
}

func compareItems(a, b item) int {
	return cmp.Or(strings.Compare(a.key, b.key), strings.Compare(a.value, b.value))
}

// store is sorted by key and value. Its zero value is empty.
type store struct {
	items []item
	clock clock
}

// dots reads an array of dots. They are appended to all, so that there is no allocation for each
// item.
func (c *cursor) dots(all *[]dot) ([]dot, error) {
	start := len(*all)
	err := c.array(func(int) error {
		var d dot
		err := c.tuple(2, func(i int) (err error) {
			if i == 0 {
				d.node, err = c.node()
			} else {
				d.counter, err = c.uint64()
			}
			return err
		})
		if err == nil && d.counter == 0 {
			err = c.fail("a counter of 0")
		}
		*all = append(*all, d)
		return err
	})
	list := (*all)[start:len(*all):len(*all)]
	if !sortUnique(list, compareDots) {
		list = slices.Compact(list)
	}
	return slices.Clip(list), err
}

// readElements reads the list of elements with their dots, and the clock. Elements are pairs of key
// and value, or strings.
func (s *store) readElements(c *cursor, pairs bool) error {
	var all []dot
	_, err := c.fields(1, []string{"elements", "vclock"}, func(field int) (err error) {
		if field == 1 {
			s.clock, err = c.clock()
			return err
		}
		s.items, all = make([]item, 0, c.room(64)), make([]dot, 0, c.room(64))
		return c.array(func(int) error {
			if err := c.element(); err != nil {
				return err
			}
			var x item
			_, err := c.fields(2, []string{"element", "observations"}, func(field int) (err error) {
				switch {
				case field == 1:
					x.dots, err = c.dots(&all)
				case pairs:
					err = c.pair(&x)
				default:
					x.key, err = c.str()
				}
				return err
			})
			s.items = append(s.items, x)
			return err
		})
	})
	if err != nil {
		return err
	}
	if err := s.covered(c, ".elements", ".observations"); err != nil {
		return err
	}
	s.tidy()
	return nil
}

func (c *cursor) pair(x *item) error {
	return c.tuple(2, func(i int) (err error) {
		if i == 0 {
			x.key, err = c.str()
		} else {
			x.value, err = c.str()
		}
		return err
	})
}

// readEntries reads a map of values to dots, and the clock.
func (s *store) readEntries(c *cursor) error {
	var all []dot
	_, err := c.fields(1, []string{"entries", "vclock"}, func(field int) (err error) {
		if field == 1 {
			s.clock, err = c.clock()
			return err
		}
		s.items, all = make([]item, 0, c.room(64)), make([]dot, 0, c.room(64))
		return c.table(func(value string) error {
			if err := c.element(); err != nil {
				return err
			}
			dots, err := c.dots(&all)
			s.items = append(s.items, item{key: value, dots: dots})
			return err
		})
	})
	if err != nil {
		return err
	}
	if err := s.covered(c, ".entries", ""); err != nil {
		return err
	}
	if !s.tidy() {
		return under(c.fail("a key is there twice"), ".entries")
	}
	return nil
}

// covered checks that the clock covers all dots. The items are in the order of the text.
func (s *store) covered(c *cursor, list, dots string) error {
	for i, x := range s.items {
		for _, d := range x.dots {
			if d.counter > s.clock.counter(d.node) {
				return under(c.fail("a dot that the clock does not cover"), list+index(i)+dots)
			}
		}
	}
	return nil
}

// tidy sorts the items, drops those without dots, which are not there, and makes one of equal ones.
// It reports whether there were no equal ones.
func (s *store) tidy() bool {
	unique := sortUnique(s.items, compareItems)
	if !unique {
		list := s.items[:0]
		for rest := s.items; len(rest) > 0; {
			x, n := rest[0], 1
			for n < len(rest) && compareItems(x, rest[n]) == 0 {
				x.dots = append(x.dots, rest[n].dots...)
				n++
			}
			if n > 1 && !sortUnique(x.dots, compareDots) {
				x.dots = slices.Compact(x.dots)
			}
			list, rest = append(list, x), rest[n:]
		}
		s.items = list
	}
	s.items = slices.DeleteFunc(s.items, func(x item) bool { return len(x.dots) == 0 })
	return unique
}

func (s *store) clone() store { return store{slices.Clone(s.items), slices.Clone(s.clock)} }

func (s *store) size() size { return size{len(s.items), len(s.clock)} }

// span returns where the items of a key are.
func (s *store) span(key string) (from, to int) {
	from, _ = slices.BinarySearchFunc(s.items, key, func(x item, key string) int {
		return strings.Compare(x.key, key)
	})
	for to = from; to < len(s.items) && s.items[to].key == key; to++ {
	}
	return from, to
}

// outdone reports whether an operation comes late, and the node has put something at a key since.
func (s *store) outdone(op Op, key string) bool {
	if op.Number == 0 || op.Number >= s.clock.counter(op.Node) {
		return false
	}
	from, to := s.span(key)
	return slices.ContainsFunc(s.items[from:to], func(x item) bool {
		return slices.ContainsFunc(x.dots, func(d dot) bool { return d.node == op.Node && d.counter > op.Number })
	})
}

// put replaces all items of a key by one with a new dot. The clock must not be full.
func (s *store) put(op Op, key, value string) {
	from, to := s.span(key)
	d := dot{op.Node, s.clock.tick(op, 1)}
	s.items = slices.Replace(s.items, from, to, item{key, value, []dot{d}})
}

// putAll does what put does for each of the items, in their order. Of many items, that would move
// the others as often. The clock must have room for all.
func (s *store) putAll(op Op, items []item) {
	items = slices.DeleteFunc(items, func(x item) bool { return s.outdone(op, x.key) })
	if len(items) == 0 {
		return
	}
	number := s.clock.tick(op, len(items))
	keys := make([]string, len(items))
	for i := range items {
		items[i].dots = []dot{{op.Node, number}}
		keys[i] = items[i].key
		if op.Number == 0 {
			number++
		}
	}
	s.dropAll(keys)
	slices.SortStableFunc(items, func(a, b item) int { return strings.Compare(a.key, b.key) })
	list := items[:0]
	for i, x := range items {
		if i+1 == len(items) || x.key != items[i+1].key { // the last of its key
			list = append(list, x)
		}
	}
	s.items = union(s.items, list, compareItems, func(_, x item) item { return x })
}

// drop removes all items of a key. That the clock goes on covering their dots is all that is left
// of them.
func (s *store) drop(key string) {
	from, to := s.span(key)
	s.items = slices.Delete(s.items, from, to)
}

// takeAll is dropAll as an operation.
func (s *store) takeAll(op Op, keys []string) {
	s.dropAll(slices.DeleteFunc(keys, func(key string) bool { return s.outdone(op, key) }))
}

// dropAll removes all items of all keys. It sorts the keys.
func (s *store) dropAll(keys []string) {
	slices.Sort(keys)
	s.items = slices.DeleteFunc(s.items, func(x item) bool { // is asked in order
		for len(keys) > 0 && keys[0] < x.key {
			keys = keys[1:]
		}
		return len(keys) > 0 && keys[0] == x.key
	})
}

func (s *store) join(with *store) {
	a, b := s.items, with.items
	items := make([]item, 0, len(a)+len(b))
	dots := make([]dot, 0, len(a)+len(b))
	for len(a) > 0 || len(b) > 0 {
		var x, y item
		order := 0
		switch {
		case len(b) == 0:
			order = -1
		case len(a) == 0:
			order = 1
		default:
			order = compareItems(a[0], b[0])
		}
		if order <= 0 {
			x, a = a[0], a[1:]
		}
		if order >= 0 {
			y, b = b[0], b[1:]
		}
		start := len(dots)
		dots = appendSurvivors(dots, x.dots, y.dots, s.clock, with.clock)
		if own := dots[start:len(dots):len(dots)]; len(own) > 0 {
			if order > 0 {
				x = y
			}
			items = append(items, item{x.key, x.value, own})
		}
	}
	s.items, s.clock = items, s.clock.join(with.clock)
}

// appendSurvivors appends the dots that both sides have, and those of one side that the clock of
// the other does not cover.
func appendSurvivors(dots, a, b []dot, clockA, clockB clock) []dot {
	for len(a) > 0 || len(b) > 0 {
		switch {
		case len(a) > 0 && len(b) > 0 && a[0] == b[0]:
			dots = append(dots, a[0])
			a, b = a[1:], b[1:]
		case len(b) == 0 || len(a) > 0 && compareDots(a[0], b[0]) < 0:
			if a[0].counter > clockB.counter(a[0].node) {
				dots = append(dots, a[0])
			}
			a = a[1:]
		default:
			if b[0].counter > clockA.counter(b[0].node) {
				dots = append(dots, b[0])
			}
			b = b[1:]
		}
	}
	return dots
}

// appendElements writes what readElements reads.
func (s *store) appendElements(b []byte, pairs bool) []byte {
	b = append(b, `{"elements":`...)
	b = appendList(b, "[]", s.items, func(b []byte, x item) []byte {
		b = append(b, `{"element":`...)
		if pairs {
			b = appendString(append(b, '['), x.key)
			b = appendString(append(b, ','), x.value)
			b = append(b, ']')
		} else {
			b = appendString(b, x.key)
		}
		b = appendDots(append(b, `,"observations":`...), x.dots)
		return append(b, '}')
	})
	return append(s.clock.append(append(b, ',')), '}')
}

// appendEntries writes what readEntries reads.
func (s *store) appendEntries(b []byte) []byte {
	b = append(b, `{"entries":`...)
	b = appendList(b, "{}", s.items, func(b []byte, x item) []byte {
		return appendDots(append(appendString(b, x.key), ':'), x.dots)
	})
	return append(s.clock.append(append(b, ',')), '}')
}

func appendDots(b []byte, dots []dot) []byte {
	return appendList(b, "[]", dots, func(b []byte, d dot) []byte {
		b = append(appendString(append(b, '['), d.node), ',')
		return append(appendUint(b, d.counter), ']')
	})
}

// keys returns each key once.
func (s *store) keys() []string {
	list := make([]string, 0, len(s.items))
	for i, x := range s.items {
		if i == 0 || x.key != s.items[i-1].key {
			list = append(list, x.key)
		}
	}
	return list
}
