package crdt

// apply.go turns deltas into operations. What an operation does to a state is in the file of its
// kind.

import (
	"math"
	"strings"
)

// Op says who applies a delta, and when.
type Op struct {
	// Node is the id of the replica, not empty, at most MaxNodeBytes of UTF-8. Unless it gives the
	// Number, a node must never apply anything to a state older than one it has given to others: it
	// would use numbers of its operations twice. One that lost its state needs a new id.
	Node string

	// Time is the timestamp for LWW and FWW kinds when the delta has none. Its unit is up to the
	// caller. Of two different writes of one node at one timestamp the larger value wins (the
	// smaller, for FWWRegister), whichever came later, so a node should not use one twice.
	Time uint64

	// Number is the number of the operation among those of Node, and is that of all that one delta
	// adds. A node that numbers what it does itself, over all its states, can name a delta's dots
	// before it is applied, and whoever applies it makes the same state. It must use no number
	// twice, and deltas of one state are to be applied in the order of their numbers. One that
	// comes late leaves alone what the node has put there later; and what it puts there itself is
	// taken for removed when a state is merged that has seen a higher number of the node, but not
	// this one. 0: the operations of a delta get the numbers that follow the state's last one of
	// Node.
	Number uint64

	// Seconds is written into the clock's entry of the node, if it is more than what is there. It
	// means nothing here: it is for readers that show when a node was last active. 0 is fine.
	Seconds uint64
}

// Apply returns the state after a delta, in canonical form. No bytes, or nil, for the state stand
// for Empty. The arguments alone decide the result. It has all of the state before: merging both
// gives the result (but for a Number that comes late).
//
// The deltas of each kind; each field of an object may be left out unless it says "required", but
// not all of them:
//
//	GCounter                  3, or {"increment":3}; 0 changes nothing, less is ErrInvalidDelta
//	PNCounter                 -3, or {"increment":-3}; -2^63 is ErrInvalidDelta
//	GSet                      ["x"], or {"add":["x"]}
//	ORSet                     {"add":["x"],"remove":["y"]}
//	LWWSet                    {"add":["x"],"remove":["y"],"timestamp":7}
//	LWWRegister, FWWRegister  {"value":"x","timestamp":7}; value is required
//	MVRegister                "x", or {"value":"x"}
//	LWWMap                    {"set":{"k":"v"},"remove":["l"],"timestamp":7}
//	ORMap                     {"set":{"k":"v"},"remove":["l"]}
//
// A timestamp alone is no delta. Elements are added in their order, keys are set in the order of
// their bytes, and removals come last. Unknown fields are ignored.
//
// Errors are ErrUnknownKind, ErrInvalidDelta (for the node as well), ErrInvalidState, ErrTooLarge
// and ErrOverflow.
func Apply(k Kind, state, delta []byte, op Op) ([]byte, error) {
	return Limits{}.Apply(k, state, delta, op)
}

// Apply is the function Apply with these limits.
func (l Limits) Apply(k Kind, state, delta []byte, op Op) ([]byte, error) {
	l = l.withDefaults()
	d, err := l.delta(k, delta)
	if err != nil {
		return nil, err
	}
	if what := nodeFault(op.Node); what != "" {
		return nil, &fault{base: ErrInvalidDelta, kind: k, path: ".op.Node", what: what}
	}
	s := newState(k)
	if len(state) > 0 {
		if s, err = l.decode(k, state, ""); err != nil {
			return nil, err
		}
	}
	if err := s.apply(d, op); err != nil {
		return nil, of(err, k, "")
	}
	return l.encode(s, len(state)+len(delta))
}

// ValidateDelta returns the error that Apply would return for the delta, whatever the state. If it
// is nil, Apply with a valid node to a valid state can only fail with ErrOverflow and ErrTooLarge.
func ValidateDelta(k Kind, delta []byte) error { return Limits{}.ValidateDelta(k, delta) }

// ValidateDelta is the function ValidateDelta with these limits.
func (l Limits) ValidateDelta(k Kind, delta []byte) error {
	_, err := l.withDefaults().delta(k, delta)
	return err
}

// delta is what a delta of any kind can hold.
type delta struct {
	amount      int64
	value       string
	add, remove []string
	set         []pair // sorted by key
	timestamp   uint64
	timed       bool // there is a timestamp
}

type pair struct{ key, value string }

// time returns the timestamp of the delta's writes.
func (d *delta) time(op Op) uint64 {
	if d.timed {
		return d.timestamp
	}
	return op.Time
}

func (l Limits) delta(k Kind, b []byte) (*delta, error) {
	if !k.known() {
		return nil, unknown(k)
	}
	c, err := newCursor(b, l, ErrInvalidDelta)
	if err != nil {
		return nil, of(err, k, "")
	}
	d := new(delta)
	if err = d.read(c, k); err == nil {
		err = c.end()
	}
	if err != nil {
		return nil, of(err, k, "")
	}
	return d, nil
}

// deltaFields are the fields of the deltas that are objects; if one is required, it is the first.
var deltaFields = [...][]string{
	KindGCounter:    {"increment"},
	KindPNCounter:   {"increment"},
	KindGSet:        {"add"},
	KindORSet:       {"add", "remove"},
	KindLWWSet:      {"add", "remove", "timestamp"},
	KindLWWRegister: {"value", "timestamp"},
	KindFWWRegister: {"value", "timestamp"},
	KindMVRegister:  {"value"},
	KindLWWMap:      {"set", "remove", "timestamp"},
	KindORMap:       {"set", "remove"},
}

// read reads a delta of a known kind.
func (d *delta) read(c *cursor, k Kind) error {
	var err error
	switch first := c.peek(); {
	case first == '{':
		err = d.object(c, k)
	case k == KindGCounter || k == KindPNCounter:
		err = d.field(c, "increment")
	case k == KindGSet && first == '[', k == KindMVRegister && first == '"':
		err = d.field(c, deltaFields[k][0])
	default:
		err = c.want("an object")
	}
	switch {
	case err != nil:
		return err
	case k == KindGCounter && d.amount < 0:
		return c.fail("a negative increment")
	case k == KindPNCounter && d.amount == math.MinInt64:
		return c.fail("an increment that can't be negated")
	}
	return nil
}

func (d *delta) object(c *cursor, k Kind) error {
	names, required := deltaFields[k], 0
	switch k {
	case KindORSet, KindLWWSet, KindLWWMap, KindORMap:
	default:
		required = 1
	}
	seen, err := c.fields(required, names, func(field int) error { return d.field(c, names[field]) })
	if err == nil && required == 0 && seen&3 == 0 { // neither of the first two
		err = c.fail("neither " + names[0] + " nor " + names[1])
	}
	return err
}

func (d *delta) field(c *cursor, name string) (err error) {
	switch name {
	case "increment":
		d.amount, err = c.int64()
	case "value":
		d.value, err = c.str()
	case "add":
		d.add, err = c.strs()
	case "remove":
		d.remove, err = c.strs()
	case "set":
		d.set, err = c.pairs()
	case "timestamp":
		d.timed = true
		d.timestamp, err = c.uint64()
	}
	return err
}

// pairs reads an object of strings, and returns it sorted by key.
func (c *cursor) pairs() ([]pair, error) {
	var list []pair
	err := c.table(func(key string) error {
		if err := c.element(); err != nil {
			return err
		}
		value, err := c.str()
		list = append(list, pair{key, value})
		return err
	})
	if err == nil && !sortUnique(list, func(a, b pair) int { return strings.Compare(a.key, b.key) }) {
		err = c.fail("a key is there twice")
	}
	return list, err
}

// removals returns what remove means to LWW kinds.
func (d *delta) removals(op Op) cells {
	var list cells
	for _, key := range d.remove {
		list = append(list, cell{key: key, timestamp: d.time(op), node: op.Node, removed: true})
	}
	return list
}
