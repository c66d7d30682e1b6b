package crdt

// limits.go bounds what is read and written.

import "unicode/utf8"

// MaxNodeBytes is the longest node id. It is part of the format and no field of Limits.
const MaxNodeBytes = 256

const (
	defaultBytes       = 16 << 20
	defaultElements    = 100_000
	defaultNodes       = 10_000
	defaultStringBytes = 1 << 20
	defaultValues      = 1000
	maxDepth           = 64 // of what an unknown field holds
)

// Limits bounds the arguments and the results of its methods, which are those functions of the
// package that read JSON. The functions of the package use the zero value. A field of zero or less
// stands for its default. What is beyond a limit is ErrTooLarge, and memory is used in proportion
// to what was read before the limit showed.
//
// A result is bounded as well, so that it can be read again. Hence two states within the limits may
// be too large together.
type Limits struct {
	Bytes       int // JSON of one state or delta; default 16 MiB
	Elements    int // elements, entries and tombstones of one state or delta; default 100,000
	Nodes       int // entries of one clock, or of one half of a counter; default 10,000
	StringBytes int // one string or name of a field, without its escapes; default 1 MiB
	Values      int // states of one Compact; default 1000
}

func (l Limits) withDefaults() Limits {
	for _, f := range []struct {
		field *int
		value int
	}{
		{&l.Bytes, defaultBytes},
		{&l.Elements, defaultElements},
		{&l.Nodes, defaultNodes},
		{&l.StringBytes, defaultStringBytes},
		{&l.Values, defaultValues},
	} {
		if *f.field <= 0 {
			*f.field = f.value
		}
	}
	return l
}

// size is what of a state is bounded, besides its bytes.
type size struct{ elements, nodes int }

func (l Limits) check(s size) error {
	switch {
	case s.elements > l.Elements:
		return moreThan(l.Elements, "elements")
	case s.nodes > l.Nodes:
		return moreThan(l.Nodes, "nodes")
	}
	return nil
}

// nodeFault returns what is wrong with a node id, "" for nothing.
func nodeFault(node string) string {
	switch {
	case node == "":
		return "an empty node id"
	case len(node) > MaxNodeBytes:
		return "a node id longer than 256 bytes"
	case !utf8.ValidString(node):
		return "a node id that is not UTF-8"
	}
	return ""
}

// checkOperation checks the arguments of an operation on a Go type: the same as Apply demands.
func checkOperation(k Kind, node string, texts ...string) error {
	if what := nodeFault(node); what != "" {
		return &fault{base: ErrInvalidDelta, kind: k, what: what}
	}
	for _, text := range texts {
		if len(text) > defaultStringBytes {
			return of(moreThan(defaultStringBytes, "bytes in a string"), k, "")
		}
		if !utf8.ValidString(text) {
			return &fault{base: ErrInvalidDelta, kind: k, what: "a string that is not UTF-8"}
		}
	}
	return nil
}
