// Package crdt has ten conflict-free replicated data types. Replicas of such a state change on
// their own, without asking each other, and merge what they have, in any order and as often as they
// like; those that have seen the same operations are equal then.
//
//	GCounter     a number that only grows
//	PNCounter    a number that grows and shrinks
//	GSet         a set that only grows
//	ORSet        a set; an insert wins over a removal that did not see it
//	LWWSet       a set; the later of insert and removal wins
//	LWWRegister  a string; the last write wins
//	FWWRegister  a string; the first write wins
//	MVRegister   strings; all values stay that were written without knowledge of each other
//	LWWMap       strings by key; the last write or removal of a key wins
//	ORMap        strings by key; all concurrent values of a key stay
//
// States are JSON, and there are two ways to work with them. The functions take and return bytes,
// and a Kind: Apply does an operation, Merge and Compact merge, Value returns what to show to a
// user. The Go types have the same operations as methods, and are their JSON. Nothing here starts a
// goroutine, reads a clock or keeps anything: all results depend on the arguments alone.
//
// # Canonical bytes
//
// All functions and MarshalJSON write one form of each state, so that states are equal if and only
// if their bytes are. This form has no spaces, fields in alphabetical order, keys, elements and
// observations sorted by their bytes, integers in plain digits, and only the escapes that JSON
// demands. Merge is commutative, associative and idempotent on those bytes, and Compact of any
// permutation and any grouping returns the same ones.
//
// What is read may be in any order and with spaces, and fields of other names are ignored and lost.
// All else is strict, as a lax reader changes states in silence: field names are case-sensitive,
// null stands for nothing, equal keys and broken UTF-8 (in escapes, too) are errors, integers are
// 64 bits without fraction, exponent or -0. Equal keys within an unknown field are nobody's
// business. Some things that say the same have one form: an amount or clock entry of 0 is no entry,
// an element without observations is not there, repeated elements and observations are one, a
// clock is always written, and an outer clock is never behind the inner ones.
//
// # Caveats
//
// A node id belongs to one replica, which must not go back: after the loss of its newest state it
// needs another id. Else counters lose increments, and sets with observations lose elements.
//
// LWW kinds are as good as their timestamps. Take them from a hybrid logical clock, or from
// anything that no node reads twice alike.
//
// Every node that ever wrote stays in the clock, so ids should be few. LWWSet and LWWMap keep
// removals; Prune can forget them, but only where somebody knows that all replicas have seen them.
// ORSet, ORMap and MVRegister keep nothing of what is removed.
//
// A removal from ORSet and ORMap leaves the clock as it is. Two different states can have equal
// clocks: compare states with Equal.
//
// The functions are safe for concurrent use, as they keep nothing; values of the Go types are not.
// An operation of a Go type looks up and moves sorted slices: inserting into a set of n elements
// moves n/2 of them on average. Strings of a state that was read from JSON share one copy of the
// text, which stays in memory as long as one of them does.
//
// # Other implementations
//
// The shapes are those of the Rust crate crdt-data-types 0.1.10, with which data can be exchanged.
// The rules differ where that crate's are no CRDT's, or harmful:
//
//   - FWWRegister: on equal timestamps and nodes the smaller value wins; there, merging does not
//     commute.
//   - LWWMap: a removal leaves a tombstone, in the field removed; there, the entry comes back with
//     the next merge. A reader that drops the field loses the removals.
//   - ORSet: an insert replaces the observations that it has seen; there, they pile up.
//   - Counters: amounts are checked and never wrap, negative ones are invalid, 0 is no operation,
//     and a negative increment of a GCounter is an error.
//   - Seconds in a clock come from the caller and never go back; there, from the wall clock.
//   - There is no additive merge of counters: it is not idempotent.
//   - Registers know whether they were set, so a write at any timestamp counts.
//   - Node ids are not empty, and observations that the clock doesn't cover are invalid.
//
// # Reading the source
//
//	crdt.go, apply.go              the functions on bytes
//	counters.go, sets.go,          the ten Go types, each with its shape; both ways end here
//	registers.go, maps.go
//	clock.go, dots.go, cells.go    what they share: vector clock, items with dots, timed writes
//	state.go, sorted.go            what a kind must do; sorted slices, of which states are made
//	json.go, encode.go             a strict reader, and the canonical writer
//	kind.go, limits.go, errors.go  names, bounds, errors
package crdt
