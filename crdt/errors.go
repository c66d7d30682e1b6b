package crdt

// errors.go holds the sentinels, and the one type that carries them with kind and path.

import (
	"errors"
	"strconv"
)

// The errors of this package, to be tested with errors.Is. What is returned adds the kind and where
// in the JSON the fault is, as in "crdt: invalid state: ORSet: elements[3].observations: ...". It
// holds field names, indices (of map entries, too) and lengths, but nothing of the content.
var (
	// ErrUnknownKind says that a Kind or the name of one is none of the ten.
	ErrUnknownKind = errors.New("crdt: unknown kind")

	// ErrInvalidState says that bytes are no state of the kind.
	ErrInvalidState = errors.New("crdt: invalid state")

	// ErrInvalidDelta says that a delta, or an argument of an operation, is none of the kind, or
	// that the node is no node id.
	ErrInvalidDelta = errors.New("crdt: invalid delta")

	// ErrTooLarge says that an argument or the result is beyond a limit.
	ErrTooLarge = errors.New("crdt: too large")

	// ErrOverflow says that a number of the state has no room for the operation: an amount of a
	// counter beyond int64, or an entry of the clock beyond uint64.
	ErrOverflow = errors.New("crdt: overflow")
)

// fault is an error with its place. The path is put together on the way up, from its end.
type fault struct {
	base error
	kind Kind
	path string // each part begins with "." or "["
	what string
}

func (f *fault) Error() string {
	text := f.base.Error() + ": " + f.kind.String() + ": "
	if path := f.path; path != "" {
		if path[0] == '.' {
			path = path[1:]
		}
		text += path + ": "
	}
	return text + f.what
}

func (f *fault) Unwrap() error { return f.base }

// under puts a part before the path of err.
func under(err error, part string) error {
	if f, ok := err.(*fault); ok {
		f.path = part + f.path
	}
	return err
}

// of says which kind err is about, and which argument: root is "" or begins with ".".
func of(err error, k Kind, root string) error {
	if f, ok := err.(*fault); ok {
		f.kind, f.path = k, root+f.path
	}
	return err
}

func index(i int) string { return "[" + strconv.Itoa(i) + "]" }

func moreThan(n int, what string) error {
	return &fault{base: ErrTooLarge, what: "more than " + strconv.Itoa(n) + " " + what}
}
