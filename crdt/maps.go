package crdt

// maps.go has LWWMap and ORMap. Keys and values are strings.

import (
	"slices"
)

// LWWMap is a map in which the last write or removal of a key wins: that of the largest timestamp,
// then node id, then a removal over a write, then the larger value. The zero value is the empty
// map. JSON:
//
//	{"entries":{key:[value,timestamp,node]},"removed":{key:[timestamp,node]},
//	 "vclock":{"clocks":{node:[operations,seconds]}}}
//
// Removals stay in removed until Prune; the field is left out if there are none. A key is in
// entries or in removed: of a state that has it in both, the later is read.
type LWWMap struct {
	cells cells
	clock clock
}

// Put writes the value of a key, unless the state has a later write or removal of it.
func (s *LWWMap) Put(node, key, value string, timestamp uint64) error {
	if err := checkOperation(KindLWWMap, node, key, value); err != nil {
		return err
	}
	x := cell{key: key, value: value, timestamp: timestamp, node: node}
	return s.cells.put(KindLWWMap, &s.clock, Op{Node: node}, x)
}

// Delete removes a key, unless the state has a later write or removal of it. The key need not be
// there: an earlier write that comes later has no effect, then.
func (s *LWWMap) Delete(node, key string, timestamp uint64) error {
	if err := checkOperation(KindLWWMap, node, key); err != nil {
		return err
	}
	x := cell{key: key, timestamp: timestamp, node: node, removed: true}
	return s.cells.put(KindLWWMap, &s.clock, Op{Node: node}, x)
}

// Get returns the value of a key, and whether there is one.
func (s *LWWMap) Get(key string) (value string, ok bool) {
	i, ok := s.cells.find(key)
	if !ok || s.cells[i].removed {
		return "", false
	}
	return s.cells[i].value, true
}

// Keys returns the sorted keys that have a value. The slice is the caller's.
func (s *LWWMap) Keys() []string {
	list := make([]string, 0, len(s.cells))
	for _, x := range s.cells {
		if !x.removed {
			list = append(list, x.key)
		}
	}
	return list
}

// Prune forgets the removals before a timestamp. It is unsafe: see the function Prune.
func (s *LWWMap) Prune(before uint64) {
	s.cells = slices.DeleteFunc(s.cells, func(x cell) bool { return x.removed && x.timestamp < before })
}

// Merge takes in all that other has seen. nil is an empty state.
func (s *LWWMap) Merge(other *LWWMap) {
	if other != nil {
		s.join(other)
	}
}

// Clone returns a copy that shares nothing with s.
func (s *LWWMap) Clone() *LWWMap { return &LWWMap{slices.Clone(s.cells), slices.Clone(s.clock)} }

// Validate returns ErrTooLarge if the state is beyond the default limits, else nil.
func (s *LWWMap) Validate() error { return validate(s) }

// MarshalJSON returns the canonical bytes, as that of GCounter.
func (s LWWMap) MarshalJSON() ([]byte, error) { return marshal(&s) }

// UnmarshalJSON reads a state, as that of GCounter.
func (s *LWWMap) UnmarshalJSON(b []byte) error { return unmarshal(s, b) }

func (s *LWWMap) kind() Kind { return KindLWWMap }

func (s *LWWMap) read(c *cursor) error {
	var removed cells
	names := []string{"entries", "removed", "vclock"}
	_, err := c.fields(1, names, func(field int) (err error) {
		switch field {
		case 0:
			s.cells, err = c.cells(true, false)
		case 1:
			removed, err = c.cells(false, true)
		case 2:
			s.clock, err = c.clock()
		}
		return err
	})
	if len(removed) > 0 {
		s.cells = s.cells.join(removed)
	}
	return err
}

// split returns the writes and the removals.
func (s *LWWMap) split() (entries, removed cells) {
	isEntry := func(x cell) bool { return !x.removed }
	if !slices.ContainsFunc(s.cells, func(x cell) bool { return x.removed }) {
		return s.cells, nil
	}
	removed = slices.DeleteFunc(slices.Clone(s.cells), isEntry)
	entries = slices.DeleteFunc(slices.Clone(s.cells), func(x cell) bool { return x.removed })
	return entries, removed
}

func (s *LWWMap) append(b []byte) []byte {
	entries, removed := s.split()
	b = entries.append(append(b, `{"entries":`...), true)
	if len(removed) > 0 {
		b = removed.append(append(b, `,"removed":`...), false)
	}
	return append(s.clock.append(append(b, ',')), '}')
}

func (s *LWWMap) appendValue(b []byte) []byte {
	entries, _ := s.split()
	return appendList(b, "{}", entries, func(b []byte, x cell) []byte {
		return appendString(append(appendString(b, x.key), ':'), x.value)
	})
}

func (s *LWWMap) join(with state) {
	o := with.(*LWWMap)
	s.cells, s.clock = s.cells.join(o.cells), s.clock.join(o.clock)
}

func (s *LWWMap) size() size { return size{len(s.cells), len(s.clock)} }

func (s *LWWMap) apply(d *delta, op Op) error {
	var writes cells
	for _, p := range d.set {
		writes = append(writes, cell{key: p.key, value: p.value, timestamp: d.time(op), node: op.Node})
	}
	if err := s.cells.putAll(KindLWWMap, &s.clock, op, writes); err != nil {
		return err
	}
	return s.cells.putAll(KindLWWMap, &s.clock, op, d.removals(op))
}

// ORMap is a map in which a write wins over a removal or write that did not see it: of concurrent
// writes of a key all values stay. The zero value is the empty map. JSON:
//
//	{"elements":{"elements":[{"element":[key,value],"observations":[[node,number]]}],
//	             "vclock":{"clocks":{node:[operations,seconds]}}},
//	 "vclock":{"clocks":{node:[operations,seconds]}}}
//
// The inner clock is the one that matters, as in ORSet. The outer one is for other readers of this
// shape; it is never behind the inner one: what it lacks is added when it is read.
type ORMap struct {
	store store
	clock clock
}

// Put writes the value of a key, in place of all values that the state has of it.
func (s *ORMap) Put(node, key, value string) error {
	if err := checkOperation(KindORMap, node, key, value); err != nil {
		return err
	}
	if s.clock.full(Op{Node: node}, 1) { // never behind the inner clock
		return fullClock(KindORMap)
	}
	s.store.put(Op{Node: node}, key, value)
	s.clock.tick(Op{Node: node}, 1)
	return nil
}

// Delete removes all values that the state has of a key. It doesn't count as an operation.
func (s *ORMap) Delete(key string) { s.store.drop(key) }

// Get returns the sorted values of a key: none, one, or several after concurrent writes. The slice
// is the caller's.
func (s *ORMap) Get(key string) []string {
	from, to := s.store.span(key)
	var list []string
	for _, x := range s.store.items[from:to] {
		list = append(list, x.value)
	}
	return list
}

// Keys returns the sorted keys that have a value. The slice is the caller's.
func (s *ORMap) Keys() []string { return s.store.keys() }

// Merge takes in all that other has seen. nil is an empty state.
func (s *ORMap) Merge(other *ORMap) {
	if other != nil {
		s.join(other)
	}
}

// Clone returns a copy that shares nothing with s.
func (s *ORMap) Clone() *ORMap { return &ORMap{s.store.clone(), slices.Clone(s.clock)} }

// Validate returns ErrTooLarge if the state is beyond the default limits, else nil.
func (s *ORMap) Validate() error { return validate(s) }

// MarshalJSON returns the canonical bytes, as that of GCounter.
func (s ORMap) MarshalJSON() ([]byte, error) { return marshal(&s) }

// UnmarshalJSON reads a state, as that of GCounter.
func (s *ORMap) UnmarshalJSON(b []byte) error { return unmarshal(s, b) }

func (s *ORMap) kind() Kind { return KindORMap }

func (s *ORMap) read(c *cursor) error {
	_, err := c.fields(1, []string{"elements", "vclock"}, func(field int) (err error) {
		if field == 0 {
			return s.store.readElements(c, true)
		}
		s.clock, err = c.clock()
		return err
	})
	s.clock = s.clock.join(s.store.clock)
	return err
}

func (s *ORMap) append(b []byte) []byte {
	b = s.store.appendElements(append(b, `{"elements":`...), true)
	return append(s.clock.append(append(b, ',')), '}')
}

func (s *ORMap) appendValue(b []byte) []byte {
	b = append(b, '{')
	for i, key := range s.store.keys() {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendStrings(append(appendString(b, key), ':'), s.Get(key))
	}
	return append(b, '}')
}

func (s *ORMap) join(with state) {
	o := with.(*ORMap)
	s.store.join(&o.store)
	s.clock = s.clock.join(o.clock)
}

func (s *ORMap) size() size { return size{len(s.store.items), len(s.clock)} }

func (s *ORMap) apply(d *delta, op Op) error {
	if s.clock.full(op, len(d.set)) {
		return fullClock(KindORMap)
	}
	items := make([]item, len(d.set))
	for i, p := range d.set {
		items[i] = item{key: p.key, value: p.value}
	}
	s.store.putAll(op, items)
	s.clock.tick(op, len(items))
	s.store.takeAll(op, d.remove)
	return nil
}
