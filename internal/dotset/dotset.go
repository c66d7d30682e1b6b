// Package dotset is a set of dots: numbers of things that nodes have done. Where nothing of a node
// is missing below a number, it remembers that number alone.
package dotset

import (
	"encoding/binary"
	"errors"
	"maps"
	"math"
	"slices"
)

// Set has the numbers of each node. The zero value is empty, and can't be added to; make one with
// Parse. Not safe for concurrent use.
type Set map[string]*numbers

type numbers struct {
	upTo uint64   // all up to this one are in the set
	some []uint64 // others, sorted
}

// ErrMalformed is the error of Parse.
var ErrMalformed = errors.New("a set of dots can't be read")

// Parse reads what Append wrote. No bytes are the empty set.
func Parse(b []byte) (Set, error) {
	s := make(Set)
	for len(b) > 0 {
		var head [3]uint64 // length of the name, bound, count; the name is behind its length
		var name string
		for i := range head {
			v, n := binary.Uvarint(b)
			if n <= 0 {
				return nil, ErrMalformed
			}
			if head[i], b = v, b[n:]; i == 0 {
				if v == 0 || v > uint64(len(b)) {
					return nil, ErrMalformed
				}
				name, b = string(b[:v]), b[v:]
			}
		}
		if head[2] > uint64(len(b)) { // each has a byte at least
			return nil, ErrMalformed
		}
		of := &numbers{upTo: head[1], some: make([]uint64, 0, head[2])}
		last := of.upTo
		for range head[2] {
			by, n := binary.Uvarint(b)
			if n <= 0 || by == 0 || by > math.MaxUint64-last {
				return nil, ErrMalformed
			}
			last, b = last+by, b[n:]
			of.some = append(of.some, last)
		}
		s[name] = of
	}
	return s, nil
}

// Append writes the set: for each node its name, its bound, and its numbers, each as the distance
// from the one before. Equal sets give equal bytes.
func (s Set) Append(b []byte) []byte {
	for _, name := range slices.Sorted(maps.Keys(s)) {
		of := s[name]
		b = binary.AppendUvarint(b, uint64(len(name)))
		b = append(b, name...)
		b = binary.AppendUvarint(b, of.upTo)
		b = binary.AppendUvarint(b, uint64(len(of.some)))
		last := of.upTo
		for _, n := range of.some {
			b = binary.AppendUvarint(b, n-last)
			last = n
		}
	}
	return b
}

// Has reports whether a number of a node is in the set.
func (s Set) Has(node string, n uint64) bool {
	of := s[node]
	if of == nil {
		return false
	}
	_, found := slices.BinarySearch(of.some, n)
	return found || n <= of.upTo
}

// HasAbove reports whether a higher number of the node is.
func (s Set) HasAbove(node string, n uint64) bool {
	of := s[node]
	return of != nil && (of.upTo > n || len(of.some) > 0 && of.some[len(of.some)-1] > n)
}

// Add puts a number of a node, which is not empty, into the set.
func (s Set) Add(node string, n uint64) {
	of := s[node]
	if of == nil {
		of = &numbers{}
		s[node] = of
	}
	if at, found := slices.BinarySearch(of.some, n); !found && n > of.upTo {
		of.some = slices.Insert(of.some, at, n)
	}
}

// Settle puts all numbers up to a bound of those nodes that are here already into the set.
func (s Set) Settle(upTo map[string]uint64) {
	for node, of := range s {
		if n := upTo[node]; n > of.upTo {
			at, found := slices.BinarySearch(of.some, n)
			if found {
				at++
			}
			of.upTo, of.some = n, of.some[at:]
		}
	}
}
