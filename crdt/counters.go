package crdt

// counters.go has GCounter and PNCounter. A counter keeps one amount for each node, which only this
// node raises, so merging takes the larger of two.

import (
	"math"
	"math/big"
	"slices"
	"strings"
)

// amount is what a node has counted, more than 0: having counted nothing says the same as no entry,
// and merging takes the larger, so entries of 0 are dropped when they are read.
type amount struct {
	node string
	n    int64
}

func compareAmounts(a, b amount) int { return strings.Compare(a.node, b.node) }

// GCounter is a counter that only grows. The zero value is 0. JSON:
//
//	{"counters":{node:amount},"vclock":{"clocks":{node:[operations,seconds]}}}
//
// Not safe for concurrent use, as all types here. Copy one with Clone: a plain copy shares memory.
type GCounter struct {
	amounts []amount // sorted by node
	clock   clock
}

// Increment adds n for a node. 0 changes nothing, and less is ErrInvalidDelta. What one node counts
// can't exceed int64: that is ErrOverflow, and nothing was changed.
func (s *GCounter) Increment(node string, n int64) error {
	if err := checkOperation(KindGCounter, node); err != nil {
		return err
	}
	if n < 0 {
		return &fault{base: ErrInvalidDelta, kind: KindGCounter, what: "a negative increment"}
	}
	return s.add(n, Op{Node: node})
}

// add adds n >= 0.
func (s *GCounter) add(n int64, op Op) error {
	i, ok := slices.BinarySearchFunc(s.amounts, op.Node, func(a amount, node string) int {
		return strings.Compare(a.node, node)
	})
	switch {
	case n == 0:
		return nil
	case s.clock.full(op, 1):
		return fullClock(KindGCounter)
	case !ok:
		s.amounts = slices.Insert(s.amounts, i, amount{op.Node, n})
	case s.amounts[i].n > math.MaxInt64-n:
		return &fault{base: ErrOverflow, kind: KindGCounter, path: ".counters", what: "an amount beyond 64 bits"}
	default:
		s.amounts[i].n += n
	}
	s.clock.tick(op, 1)
	return nil
}

// Value returns the sum over all nodes, or ErrOverflow if it is beyond int64: see ValueBig.
func (s *GCounter) Value() (int64, error) { return narrow(KindGCounter, s.ValueBig()) }

// ValueBig returns the sum over all nodes, however large. It is the caller's.
func (s *GCounter) ValueBig() *big.Int {
	sum, n := new(big.Int), new(big.Int)
	for _, a := range s.amounts {
		sum.Add(sum, n.SetInt64(a.n))
	}
	return sum
}

func narrow(k Kind, n *big.Int) (int64, error) {
	if !n.IsInt64() {
		return 0, &fault{base: ErrOverflow, kind: k, what: "a value beyond 64 bits"}
	}
	return n.Int64(), nil
}

// Merge takes in all that other has seen. nil is an empty state.
func (s *GCounter) Merge(other *GCounter) {
	if other != nil {
		s.join(other)
	}
}

// Clone returns a copy that shares nothing with s.
func (s *GCounter) Clone() *GCounter {
	return &GCounter{slices.Clone(s.amounts), slices.Clone(s.clock)}
}

// Validate returns ErrTooLarge if the state is beyond the default limits, else nil.
func (s *GCounter) Validate() error { return validate(s) }

// MarshalJSON returns the canonical bytes, or ErrTooLarge as Validate. json.Marshal escapes "<",
// ">" and "&" in them; what it writes is the same state, but not canonical.
func (s GCounter) MarshalJSON() ([]byte, error) { return marshal(&s) }

// UnmarshalJSON reads a state as Canonical does, with the default limits. null is an error, and an
// error leaves s as it was.
func (s *GCounter) UnmarshalJSON(b []byte) error { return unmarshal(s, b) }

func (s *GCounter) kind() Kind { return KindGCounter }

func (s *GCounter) read(c *cursor) error {
	_, err := c.fields(1, []string{"counters", "vclock"}, func(field int) (err error) {
		if field == 1 {
			s.clock, err = c.clock()
			return err
		}
		s.amounts = make([]amount, 0, c.room(24))
		err = c.table(func(node string) error {
			if len(s.amounts) == c.limits.Nodes {
				return moreThan(c.limits.Nodes, "nodes")
			}
			if err := c.checkNode(node); err != nil {
				return err
			}
			n, err := c.int64()
			if err == nil && n < 0 {
				err = c.fail("a negative amount")
			}
			s.amounts = append(s.amounts, amount{node, n})
			return err
		})
		if err == nil && !sortUnique(s.amounts, compareAmounts) {
			err = c.fail("a node is there twice")
		}
		return err
	})
	s.amounts = slices.DeleteFunc(s.amounts, func(a amount) bool { return a.n == 0 })
	return err
}

func (s *GCounter) append(b []byte) []byte {
	b = append(b, `{"counters":`...)
	b = appendList(b, "{}", s.amounts, func(b []byte, a amount) []byte {
		return appendUint(append(appendString(b, a.node), ':'), uint64(a.n))
	})
	return append(s.clock.append(append(b, ',')), '}')
}

func (s *GCounter) appendValue(b []byte) []byte { return s.ValueBig().Append(b, 10) }

func (s *GCounter) join(with state) {
	o := with.(*GCounter)
	s.amounts = union(s.amounts, o.amounts, compareAmounts, func(a, b amount) amount {
		return amount{a.node, max(a.n, b.n)}
	})
	s.clock = s.clock.join(o.clock)
}

func (s *GCounter) size() size { return size{0, max(len(s.amounts), len(s.clock))} }

func (s *GCounter) apply(d *delta, op Op) error { return s.add(d.amount, op) }

// PNCounter is a counter that grows and shrinks: one GCounter of increments and one of decrements.
// The zero value is 0. JSON:
//
//	{"negative":<GCounter>,"positive":<GCounter>,"vclock":{"clocks":{node:[operations,seconds]}}}
//
// The outer clock counts what both halves do, and it is never behind either: what it lacks is
// added when it is read.
type PNCounter struct {
	positive, negative GCounter
	clock              clock
}

// Increment adds n for a node; less than 0 is a decrement by -n, 0 changes nothing. -2^63 is
// ErrInvalidDelta. What one node has added, and what it has taken off, can't exceed int64: that is
// ErrOverflow, and nothing was changed.
func (s *PNCounter) Increment(node string, n int64) error {
	if err := checkOperation(KindPNCounter, node); err != nil {
		return err
	}
	if n == math.MinInt64 {
		return &fault{base: ErrInvalidDelta, kind: KindPNCounter, what: "an increment that can't be negated"}
	}
	return s.add(n, Op{Node: node})
}

// Decrement takes off n, as Increment of -n does.
func (s *PNCounter) Decrement(node string, n int64) error { return s.Increment(node, -n) }

// add adds n, which is not math.MinInt64.
func (s *PNCounter) add(n int64, op Op) error {
	if n == 0 {
		return nil
	}
	if s.clock.full(op, 1) {
		return fullClock(KindPNCounter)
	}
	half, name := &s.positive, ".positive"
	if n < 0 {
		half, name, n = &s.negative, ".negative", -n
	}
	if err := half.add(n, op); err != nil {
		return of(err, KindPNCounter, name)
	}
	s.clock.tick(op, 1)
	return nil
}

// Value returns the sum over all nodes, or ErrOverflow if it is beyond int64: see ValueBig.
func (s *PNCounter) Value() (int64, error) { return narrow(KindPNCounter, s.ValueBig()) }

// ValueBig returns the sum over all nodes, however large. It is the caller's.
func (s *PNCounter) ValueBig() *big.Int {
	sum := s.positive.ValueBig()
	return sum.Sub(sum, s.negative.ValueBig())
}

// Merge takes in all that other has seen. nil is an empty state.
func (s *PNCounter) Merge(other *PNCounter) {
	if other != nil {
		s.join(other)
	}
}

// Clone returns a copy that shares nothing with s.
func (s *PNCounter) Clone() *PNCounter {
	return &PNCounter{*s.positive.Clone(), *s.negative.Clone(), slices.Clone(s.clock)}
}

// Validate returns ErrTooLarge if the state is beyond the default limits, else nil.
func (s *PNCounter) Validate() error { return validate(s) }

// MarshalJSON returns the canonical bytes, as that of GCounter.
func (s PNCounter) MarshalJSON() ([]byte, error) { return marshal(&s) }

// UnmarshalJSON reads a state, as that of GCounter.
func (s *PNCounter) UnmarshalJSON(b []byte) error { return unmarshal(s, b) }

func (s *PNCounter) kind() Kind { return KindPNCounter }

func (s *PNCounter) read(c *cursor) error {
	names := []string{"positive", "negative", "vclock"}
	_, err := c.fields(2, names, func(field int) (err error) {
		switch field {
		case 0:
			err = s.positive.read(c)
		case 1:
			err = s.negative.read(c)
		case 2:
			s.clock, err = c.clock()
		}
		return err
	})
	s.clock = s.clock.join(s.positive.clock).join(s.negative.clock)
	return err
}

func (s *PNCounter) append(b []byte) []byte {
	b = s.negative.append(append(b, `{"negative":`...))
	b = s.positive.append(append(b, `,"positive":`...))
	return append(s.clock.append(append(b, ',')), '}')
}

func (s *PNCounter) appendValue(b []byte) []byte { return s.ValueBig().Append(b, 10) }

func (s *PNCounter) join(with state) {
	o := with.(*PNCounter)
	s.positive.join(&o.positive)
	s.negative.join(&o.negative)
	s.clock = s.clock.join(o.clock)
}

func (s *PNCounter) size() size {
	return size{0, max(s.positive.size().nodes, s.negative.size().nodes, len(s.clock))}
}

func (s *PNCounter) apply(d *delta, op Op) error { return s.add(d.amount, op) }
