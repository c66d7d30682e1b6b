package crdt

// registers.go has LWWRegister, FWWRegister and MVRegister. Values are strings.

import (
	"math"
	"slices"
)

// register is one write, or none, and the clock. LWW and FWW differ in which of two writes stays.
type register struct {
	write cell // without a node: never set
	clock clock
}

// stays picks one of two writes.
type stays func(a, b cell) cell

func earlier(a, b cell) cell {
	if compareWrites(a, b) > 0 {
		return b
	}
	return a
}

// pick returns the write that stays; any write stays over none, whatever its timestamp.
func (s *register) pick(x cell, rule stays) cell {
	switch {
	case s.write.node == "":
		return x
	case x.node == "":
		return s.write
	}
	return rule(s.write, x)
}

func (s *register) set(k Kind, value string, timestamp uint64, op Op, rule stays) error {
	x := s.pick(cell{value: value, timestamp: timestamp, node: op.Node}, rule)
	if x == s.write {
		return nil
	}
	if s.clock.full(op, 1) {
		return fullClock(k)
	}
	s.write = x
	s.clock.tick(op, 1)
	return nil
}

func (s *register) join(with *register, rule stays) {
	s.write = s.pick(with.write, rule)
	s.clock = s.clock.join(with.clock)
}

func (s *register) clone() register { return register{s.write, slices.Clone(s.clock)} }

// read reads a register; unset is the timestamp of one that was never set.
func (s *register) read(c *cursor, unset uint64) error {
	names := []string{"node_id", "timestamp", "value", "vclock"}
	_, err := c.fields(3, names, func(field int) (err error) {
		switch field {
		case 0:
			s.write.node, err = c.str()
			if err == nil && s.write.node != "" {
				err = c.checkNode(s.write.node)
			}
		case 1:
			s.write.timestamp, err = c.uint64()
		case 2:
			s.write.value, err = c.str()
		case 3:
			s.clock, err = c.clock()
		}
		return err
	})
	if err != nil || s.write.node != "" {
		return err
	}
	if s.write.timestamp != unset || s.write.value != "" {
		return under(c.fail("an empty node id in a register that was set"), ".node_id")
	}
	s.write = cell{}
	return nil
}

func (s *register) append(b []byte, unset uint64) []byte {
	timestamp := s.write.timestamp
	if s.write.node == "" {
		timestamp = unset
	}
	b = appendString(append(b, `{"node_id":`...), s.write.node)
	b = appendUint(append(b, `,"timestamp":`...), timestamp)
	b = appendString(append(b, `,"value":`...), s.write.value)
	return append(s.clock.append(append(b, ',')), '}')
}

func (s *register) appendValue(b []byte) []byte {
	if s.write.node == "" {
		return append(b, "null"...)
	}
	return appendString(b, s.write.value)
}

func (s *register) size() size { return size{0, len(s.clock)} }

// LWWRegister is a register in which the last write wins: that of the largest timestamp, then node
// id, then value. The zero value was never set. JSON:
//
//	{"node_id":node,"timestamp":timestamp,"value":value,
//	 "vclock":{"clocks":{node:[operations,seconds]}}}
//
// A register that was never set has node "", timestamp 0 and value "". A write has a node, so one
// at timestamp 0 is a write.
type LWWRegister struct {
	register register
}

// Set writes a value, unless the state has a later write.
func (s *LWWRegister) Set(node, value string, timestamp uint64) error {
	if err := checkOperation(KindLWWRegister, node, value); err != nil {
		return err
	}
	return s.register.set(KindLWWRegister, value, timestamp, Op{Node: node}, later)
}

// Get returns the value, and whether it was ever set.
func (s *LWWRegister) Get() (value string, ok bool) {
	return s.register.write.value, s.register.write.node != ""
}

// Written returns by whom and when the value was written: "" and 0 if never.
func (s *LWWRegister) Written() (node string, timestamp uint64) {
	return s.register.write.node, s.register.write.timestamp
}

// Merge takes in all that other has seen. nil is an empty state.
func (s *LWWRegister) Merge(other *LWWRegister) {
	if other != nil {
		s.join(other)
	}
}

// Clone returns a copy that shares nothing with s.
func (s *LWWRegister) Clone() *LWWRegister { return &LWWRegister{s.register.clone()} }

// Validate returns ErrTooLarge if the state is beyond the default limits, else nil.
func (s *LWWRegister) Validate() error { return validate(s) }

// MarshalJSON returns the canonical bytes, as that of GCounter.
func (s LWWRegister) MarshalJSON() ([]byte, error) { return marshal(&s) }

// UnmarshalJSON reads a state, as that of GCounter.
func (s *LWWRegister) UnmarshalJSON(b []byte) error { return unmarshal(s, b) }

func (s *LWWRegister) kind() Kind                  { return KindLWWRegister }
func (s *LWWRegister) read(c *cursor) error        { return s.register.read(c, 0) }
func (s *LWWRegister) append(b []byte) []byte      { return s.register.append(b, 0) }
func (s *LWWRegister) appendValue(b []byte) []byte { return s.register.appendValue(b) }
func (s *LWWRegister) size() size                  { return s.register.size() }

func (s *LWWRegister) join(with state) {
	s.register.join(&with.(*LWWRegister).register, later)
}

func (s *LWWRegister) apply(d *delta, op Op) error {
	return s.register.set(KindLWWRegister, d.value, d.time(op), op, later)
}

// FWWRegister is a register in which the first write wins: that of the smallest timestamp, then
// node id, then value. The zero value was never set. JSON is that of LWWRegister, but one that was
// never set has timestamp 2^64-1. A write has a node, so one at 2^64-1 is a write.
type FWWRegister struct {
	register register
}

// Set writes a value, unless the state has an earlier write.
func (s *FWWRegister) Set(node, value string, timestamp uint64) error {
	if err := checkOperation(KindFWWRegister, node, value); err != nil {
		return err
	}
	return s.register.set(KindFWWRegister, value, timestamp, Op{Node: node}, earlier)
}

// Get returns the value, and whether it was ever set.
func (s *FWWRegister) Get() (value string, ok bool) {
	return s.register.write.value, s.register.write.node != ""
}

// Written returns by whom and when the value was written: "" and 0 if never.
func (s *FWWRegister) Written() (node string, timestamp uint64) {
	return s.register.write.node, s.register.write.timestamp
}

// Merge takes in all that other has seen. nil is an empty state.
func (s *FWWRegister) Merge(other *FWWRegister) {
	if other != nil {
		s.join(other)
	}
}

// Clone returns a copy that shares nothing with s.
func (s *FWWRegister) Clone() *FWWRegister { return &FWWRegister{s.register.clone()} }

// Validate returns ErrTooLarge if the state is beyond the default limits, else nil.
func (s *FWWRegister) Validate() error { return validate(s) }

// MarshalJSON returns the canonical bytes, as that of GCounter.
func (s FWWRegister) MarshalJSON() ([]byte, error) { return marshal(&s) }

// UnmarshalJSON reads a state, as that of GCounter.
func (s *FWWRegister) UnmarshalJSON(b []byte) error { return unmarshal(s, b) }

func (s *FWWRegister) kind() Kind                  { return KindFWWRegister }
func (s *FWWRegister) read(c *cursor) error        { return s.register.read(c, math.MaxUint64) }
func (s *FWWRegister) append(b []byte) []byte      { return s.register.append(b, math.MaxUint64) }
func (s *FWWRegister) appendValue(b []byte) []byte { return s.register.appendValue(b) }
func (s *FWWRegister) size() size                  { return s.register.size() }

func (s *FWWRegister) join(with state) {
	s.register.join(&with.(*FWWRegister).register, earlier)
}

func (s *FWWRegister) apply(d *delta, op Op) error {
	return s.register.set(KindFWWRegister, d.value, d.time(op), op, earlier)
}

// MVRegister is a register that keeps all values that were written without knowledge of each other.
// The zero value was never set. JSON:
//
//	{"entries":{value:[[node,number]]},"vclock":{"clocks":{node:[operations,seconds]}}}
//
// The dots [node,number] are as in ORSet.
type MVRegister struct {
	store store
}

// Set writes a value, in place of all that the state has.
func (s *MVRegister) Set(node, value string) error {
	if err := checkOperation(KindMVRegister, node, value); err != nil {
		return err
	}
	return s.set(value, Op{Node: node})
}

func (s *MVRegister) set(value string, op Op) error {
	if s.store.clock.full(op, 1) {
		return fullClock(KindMVRegister)
	}
	for _, x := range s.store.items {
		if s.store.outdone(op, x.key) {
			return nil
		}
	}
	s.store.items = nil
	s.store.put(op, value, "")
	return nil
}

// Values returns the sorted values: one if no writes were concurrent, none if it was never set. The
// slice is the caller's.
func (s *MVRegister) Values() []string { return s.store.keys() }

// Merge takes in all that other has seen. nil is an empty state.
func (s *MVRegister) Merge(other *MVRegister) {
	if other != nil {
		s.join(other)
	}
}

// Clone returns a copy that shares nothing with s.
func (s *MVRegister) Clone() *MVRegister { return &MVRegister{s.store.clone()} }

// Validate returns ErrTooLarge if the state is beyond the default limits, else nil.
func (s *MVRegister) Validate() error { return validate(s) }

// MarshalJSON returns the canonical bytes, as that of GCounter.
func (s MVRegister) MarshalJSON() ([]byte, error) { return marshal(&s) }

// UnmarshalJSON reads a state, as that of GCounter.
func (s *MVRegister) UnmarshalJSON(b []byte) error { return unmarshal(s, b) }

func (s *MVRegister) kind() Kind                  { return KindMVRegister }
func (s *MVRegister) read(c *cursor) error        { return s.store.readEntries(c) }
func (s *MVRegister) append(b []byte) []byte      { return s.store.appendEntries(b) }
func (s *MVRegister) appendValue(b []byte) []byte { return appendStrings(b, s.store.keys()) }
func (s *MVRegister) join(with state)             { s.store.join(&with.(*MVRegister).store) }
func (s *MVRegister) size() size                  { return s.store.size() }
func (s *MVRegister) apply(d *delta, op Op) error { return s.set(d.value, op) }
