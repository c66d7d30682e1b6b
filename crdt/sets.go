package crdt

// sets.go has GSet, ORSet and LWWSet. Elements are strings, and sets return them sorted by bytes.

import (
	"slices"
	"strings"
)

// GSet is a set from which nothing is ever removed. The zero value is the empty set. JSON:
//
//	{"elements":[element],"vclock":{"clocks":{node:[operations,seconds]}}}
type GSet struct {
	elements []string
	clock    clock
}

// Insert adds an element.
func (s *GSet) Insert(node, element string) error {
	if err := checkOperation(KindGSet, node, element); err != nil {
		return err
	}
	i, ok := slices.BinarySearch(s.elements, element)
	switch {
	case ok:
		return nil
	case s.clock.full(Op{Node: node}, 1):
		return fullClock(KindGSet)
	}
	s.elements = slices.Insert(s.elements, i, element)
	s.clock.tick(Op{Node: node}, 1)
	return nil
}

// Contains reports whether the element is in the set.
func (s *GSet) Contains(element string) bool {
	_, ok := slices.BinarySearch(s.elements, element)
	return ok
}

// Elements returns the sorted elements. The slice is the caller's.
func (s *GSet) Elements() []string { return slices.Clone(s.elements) }

// Merge takes in all that other has seen. nil is an empty state.
func (s *GSet) Merge(other *GSet) {
	if other != nil {
		s.join(other)
	}
}

// Clone returns a copy that shares nothing with s.
func (s *GSet) Clone() *GSet { return &GSet{slices.Clone(s.elements), slices.Clone(s.clock)} }

// Validate returns ErrTooLarge if the state is beyond the default limits, else nil.
func (s *GSet) Validate() error { return validate(s) }

// MarshalJSON returns the canonical bytes, as that of GCounter.
func (s GSet) MarshalJSON() ([]byte, error) { return marshal(&s) }

// UnmarshalJSON reads a state, as that of GCounter.
func (s *GSet) UnmarshalJSON(b []byte) error { return unmarshal(s, b) }

func (s *GSet) kind() Kind { return KindGSet }

func (s *GSet) read(c *cursor) error {
	_, err := c.fields(1, []string{"elements", "vclock"}, func(field int) (err error) {
		if field == 0 {
			s.elements, err = c.strs()
		} else {
			s.clock, err = c.clock()
		}
		return err
	})
	slices.Sort(s.elements)
	s.elements = slices.Compact(s.elements)
	return err
}

func (s *GSet) append(b []byte) []byte {
	b = appendStrings(append(b, `{"elements":`...), s.elements)
	return append(s.clock.append(append(b, ',')), '}')
}

func (s *GSet) appendValue(b []byte) []byte { return appendStrings(b, s.elements) }

func (s *GSet) join(with state) {
	o := with.(*GSet)
	s.elements = union(s.elements, o.elements, strings.Compare, func(a, _ string) string { return a })
	s.clock = s.clock.join(o.clock)
}

func (s *GSet) size() size { return size{len(s.elements), len(s.clock)} }

func (s *GSet) apply(d *delta, op Op) error {
	slices.Sort(d.add)
	fresh := slices.DeleteFunc(slices.Compact(d.add), s.Contains)
	if s.clock.full(op, len(fresh)) {
		return fullClock(KindGSet)
	}
	s.clock.tick(op, len(fresh))
	s.elements = union(s.elements, fresh, strings.Compare, func(a, _ string) string { return a })
	return nil
}

// ORSet is a set in which an insert wins over a removal that did not see it. It keeps nothing of
// removed elements. The zero value is the empty set. JSON:
//
//	{"elements":[{"element":element,"observations":[[node,number]]}],
//	 "vclock":{"clocks":{node:[operations,seconds]}}}
//
// An observation, or dot, is an insert: the number-th operation of node. One that the clock doesn't
// cover makes the state invalid. An element without any is not there.
type ORSet struct {
	store store
}

// Insert adds an element. The new observation replaces those that the state has of the element.
func (s *ORSet) Insert(node, element string) error {
	if err := checkOperation(KindORSet, node, element); err != nil {
		return err
	}
	if s.store.clock.full(Op{Node: node}, 1) {
		return fullClock(KindORSet)
	}
	s.store.put(Op{Node: node}, element, "")
	return nil
}

// Remove removes all that the state has of an element. It doesn't count as an operation.
func (s *ORSet) Remove(element string) { s.store.drop(element) }

// Contains reports whether the element is in the set.
func (s *ORSet) Contains(element string) bool {
	from, to := s.store.span(element)
	return from < to
}

// Elements returns the sorted elements. The slice is the caller's.
func (s *ORSet) Elements() []string { return s.store.keys() }

// Merge takes in all that other has seen. nil is an empty state.
func (s *ORSet) Merge(other *ORSet) {
	if other != nil {
		s.join(other)
	}
}

// Clone returns a copy that shares nothing with s.
func (s *ORSet) Clone() *ORSet { return &ORSet{s.store.clone()} }

// Validate returns ErrTooLarge if the state is beyond the default limits, else nil.
func (s *ORSet) Validate() error { return validate(s) }

// MarshalJSON returns the canonical bytes, as that of GCounter.
func (s ORSet) MarshalJSON() ([]byte, error) { return marshal(&s) }

// UnmarshalJSON reads a state, as that of GCounter.
func (s *ORSet) UnmarshalJSON(b []byte) error { return unmarshal(s, b) }

func (s *ORSet) kind() Kind                  { return KindORSet }
func (s *ORSet) read(c *cursor) error        { return s.store.readElements(c, false) }
func (s *ORSet) append(b []byte) []byte      { return s.store.appendElements(b, false) }
func (s *ORSet) appendValue(b []byte) []byte { return appendStrings(b, s.store.keys()) }
func (s *ORSet) join(with state)             { s.store.join(&with.(*ORSet).store) }
func (s *ORSet) size() size                  { return s.store.size() }

func (s *ORSet) apply(d *delta, op Op) error {
	if s.store.clock.full(op, len(d.add)) {
		return fullClock(KindORSet)
	}
	items := make([]item, len(d.add))
	for i, element := range d.add {
		items[i].key = element
	}
	s.store.putAll(op, items)
	s.store.takeAll(op, d.remove)
	return nil
}

// LWWSet is a set in which the later of an insert and a removal wins: that of the larger timestamp,
// then of the larger node id, then the removal. The zero value is the empty set. JSON:
//
//	{"add_set":{element:[timestamp,node]},"remove_set":{element:[timestamp,node]},
//	 "vclock":{"clocks":{node:[operations,seconds]}}}
//
// An element may be in both maps, and removals stay until Prune. So a state of removals alone has
// no elements, but is not empty.
type LWWSet struct {
	adds, removals cells
	clock          clock
}

// Insert adds an element, unless the state has a later insert of it.
func (s *LWWSet) Insert(node, element string, timestamp uint64) error {
	if err := checkOperation(KindLWWSet, node, element); err != nil {
		return err
	}
	x := cell{key: element, timestamp: timestamp, node: node}
	return s.adds.put(KindLWWSet, &s.clock, Op{Node: node}, x)
}

// Remove removes an element, unless the state has a later removal of it. The element need not be
// there.
func (s *LWWSet) Remove(node, element string, timestamp uint64) error {
	if err := checkOperation(KindLWWSet, node, element); err != nil {
		return err
	}
	x := cell{key: element, timestamp: timestamp, node: node, removed: true}
	return s.removals.put(KindLWWSet, &s.clock, Op{Node: node}, x)
}

// Contains reports whether the element is in the set.
func (s *LWWSet) Contains(element string) bool {
	i, ok := s.adds.find(element)
	return ok && s.wins(s.adds[i])
}

// wins reports whether no removal is later than an insert.
func (s *LWWSet) wins(x cell) bool {
	i, ok := s.removals.find(x.key)
	return !ok || compareWrites(x, s.removals[i]) > 0
}

// Elements returns the sorted elements. The slice is the caller's.
func (s *LWWSet) Elements() []string {
	list := make([]string, 0, len(s.adds))
	for _, x := range s.adds {
		if s.wins(x) {
			list = append(list, x.key)
		}
	}
	return list
}

// Prune forgets the removals before a timestamp, and the inserts that lost against them. It is
// unsafe: see the function Prune.
func (s *LWWSet) Prune(before uint64) {
	s.adds = slices.DeleteFunc(s.adds, func(x cell) bool {
		i, ok := s.removals.find(x.key)
		return ok && s.removals[i].timestamp < before && compareWrites(x, s.removals[i]) < 0
	})
	s.removals = slices.DeleteFunc(s.removals, func(x cell) bool { return x.timestamp < before })
}

// Merge takes in all that other has seen. nil is an empty state.
func (s *LWWSet) Merge(other *LWWSet) {
	if other != nil {
		s.join(other)
	}
}

// Clone returns a copy that shares nothing with s.
func (s *LWWSet) Clone() *LWWSet {
	return &LWWSet{slices.Clone(s.adds), slices.Clone(s.removals), slices.Clone(s.clock)}
}

// Validate returns ErrTooLarge if the state is beyond the default limits, else nil.
func (s *LWWSet) Validate() error { return validate(s) }

// MarshalJSON returns the canonical bytes, as that of GCounter.
func (s LWWSet) MarshalJSON() ([]byte, error) { return marshal(&s) }

// UnmarshalJSON reads a state, as that of GCounter.
func (s *LWWSet) UnmarshalJSON(b []byte) error { return unmarshal(s, b) }

func (s *LWWSet) kind() Kind { return KindLWWSet }

func (s *LWWSet) read(c *cursor) error {
	names := []string{"add_set", "remove_set", "vclock"}
	_, err := c.fields(2, names, func(field int) (err error) {
		switch field {
		case 0:
			s.adds, err = c.cells(false, false)
		case 1:
			s.removals, err = c.cells(false, true)
		case 2:
			s.clock, err = c.clock()
		}
		return err
	})
	return err
}

func (s *LWWSet) append(b []byte) []byte {
	b = s.adds.append(append(b, `{"add_set":`...), false)
	b = s.removals.append(append(b, `,"remove_set":`...), false)
	return append(s.clock.append(append(b, ',')), '}')
}

func (s *LWWSet) appendValue(b []byte) []byte { return appendStrings(b, s.Elements()) }

func (s *LWWSet) join(with state) {
	o := with.(*LWWSet)
	s.adds, s.removals = s.adds.join(o.adds), s.removals.join(o.removals)
	s.clock = s.clock.join(o.clock)
}

func (s *LWWSet) size() size { return size{len(s.adds) + len(s.removals), len(s.clock)} }

func (s *LWWSet) apply(d *delta, op Op) error {
	var adds cells
	for _, element := range d.add {
		adds = append(adds, cell{key: element, timestamp: d.time(op), node: op.Node})
	}
	if err := s.adds.putAll(KindLWWSet, &s.clock, op, adds); err != nil {
		return err
	}
	return s.removals.putAll(KindLWWSet, &s.clock, op, d.removals(op))
}
