package crdt

// crdt.go has the functions that work on JSON of any kind, except Apply.

import (
	"bytes"
	"encoding/json"
)

// EmptyCompaction is what Compact returns for no states: JSON null. It is no state of any kind.
const EmptyCompaction = "null"

// Empty returns the canonical bytes of the state that nothing was done to, nil for an unknown kind.
// It is the neutral element of Merge. The slice is the caller's.
//
// A state that shows nothing (see Value) need not be empty: it may remember removals. To learn
// whether it can be thrown away, compare its canonical bytes with Empty.
func Empty(k Kind) []byte {
	if s := newState(k); s != nil {
		return s.append(nil)
	}
	return nil
}

// Merge returns the state that has seen all that a and b have seen. It doesn't matter which is
// first, in what groups more than two are merged, and whether some are merged twice: the bytes are
// the same. In an error, the path begins with a or b.
func Merge(k Kind, a, b []byte) ([]byte, error) { return Limits{}.Merge(k, a, b) }

// Merge is the function Merge with these limits.
func (l Limits) Merge(k Kind, a, b []byte) ([]byte, error) {
	l = l.withDefaults()
	s, err := l.decode(k, a, ".a")
	if err != nil {
		return nil, err
	}
	with, err := l.decode(k, b, ".b")
	if err != nil {
		return nil, err
	}
	s.join(with)
	return l.encode(s, max(len(a), len(b)))
}

// Compact merges any number of states into one: EmptyCompaction for none, the canonical form of
// the one if there is one. The order of the states doesn't matter, nor whether some of them were
// compacted before: the bytes are the same. Only the arguments and the result are limited in size.
// Nothing is pruned: see Prune.
func Compact(k Kind, states ...[]byte) ([]byte, error) { return Limits{}.Compact(k, states...) }

// Compact is the function Compact with these limits.
func (l Limits) Compact(k Kind, states ...[]byte) ([]byte, error) {
	l = l.withDefaults()
	switch {
	case !k.known():
		return nil, unknown(k)
	case len(states) > l.Values:
		return nil, of(moreThan(l.Values, "states"), k, "")
	case len(states) == 0:
		return []byte(EmptyCompaction), nil
	}
	var all state
	longest := 0
	for i, b := range states {
		s, err := l.decode(k, b, ".states"+index(i))
		if err != nil {
			return nil, err
		}
		if longest = max(longest, len(b)); all == nil {
			all = s
		} else {
			all.join(s)
		}
	}
	return l.encode(all, longest)
}

// Canonical returns the one form of a state that equal states share: to be hashed, compared and
// stored. Unknown fields are lost.
func Canonical(k Kind, state []byte) ([]byte, error) { return Limits{}.Canonical(k, state) }

// Canonical is the function Canonical with these limits.
func (l Limits) Canonical(k Kind, state []byte) ([]byte, error) {
	l = l.withDefaults()
	s, err := l.decode(k, state, "")
	if err != nil {
		return nil, err
	}
	return l.encode(s, len(state))
}

// Validate returns the error that Canonical would, ErrInvalidState or ErrTooLarge, or nil.
func Validate(k Kind, state []byte) error { return Limits{}.Validate(k, state) }

// Validate is the function Validate with these limits.
func (l Limits) Validate(k Kind, state []byte) error {
	_, err := l.Canonical(k, state)
	return err
}

// Equal reports whether two states are the same, however they are written. Use it, and not the
// clocks, to learn whether a merge changes anything: a removal leaves the clock as it is.
func Equal(k Kind, a, b []byte) (bool, error) { return Limits{}.Equal(k, a, b) }

// Equal is the function Equal with these limits.
func (l Limits) Equal(k Kind, a, b []byte) (bool, error) {
	a, err := l.Canonical(k, a)
	if err != nil {
		return false, err
	}
	b, err = l.Canonical(k, b)
	return err == nil && bytes.Equal(a, b), err
}

// Value returns what a state shows to a user, as JSON without spaces:
//
//	GCounter, PNCounter       the number. It is exact, and may be beyond int64
//	GSet, ORSet, LWWSet       the sorted array of elements
//	LWWRegister, FWWRegister  the string, null if it was never set
//	MVRegister                the sorted array of values
//	LWWMap                    the object
//	ORMap                     the object, with a sorted array of values for each key
func Value(k Kind, state []byte) (json.RawMessage, error) { return Limits{}.Value(k, state) }

// Value is the function Value with these limits.
func (l Limits) Value(k Kind, state []byte) (json.RawMessage, error) {
	s, err := l.withDefaults().decode(k, state, "")
	if err != nil {
		return nil, err
	}
	return s.appendValue(nil), nil
}

// Prune returns a state without the tombstones of LWWSet and LWWMap whose timestamp is before the
// given one. Its value is the same. Other kinds have no tombstones, and come back in canonical
// form.
//
// It is unsafe unless every replica has merged those removals and none will write at a timestamp
// before the bound: any state that still has the removed element or entry, and any late write,
// brings it back. This package can't know that; who calls it must. All replicas should prune alike,
// as a pruned state takes the tombstones back when it merges with another that has them.
func Prune(k Kind, state []byte, before uint64) ([]byte, error) {
	return Limits{}.Prune(k, state, before)
}

// Prune is the function Prune with these limits.
func (l Limits) Prune(k Kind, state []byte, before uint64) ([]byte, error) {
	l = l.withDefaults()
	s, err := l.decode(k, state, "")
	if err != nil {
		return nil, err
	}
	if s, ok := s.(interface{ Prune(before uint64) }); ok {
		s.Prune(before)
	}
	return l.encode(s, len(state))
}
