package crdt

// state.go is what every kind can do, and the way from bytes to a state and back.

// state is a pointer to one of the ten Go types. What it holds is normal, after read and after all
// operations: append writes equal states as equal bytes.
type state interface {
	kind() Kind
	read(c *cursor) error        // into the zero value
	append(b []byte) []byte      // canonical JSON
	appendValue(b []byte) []byte // what Value returns
	join(with state)             // with is of the same type
	apply(d *delta, op Op) error // the delta is one of this kind
	size() size
}

func newState(k Kind) state {
	switch k {
	case KindGCounter:
		return new(GCounter)
	case KindPNCounter:
		return new(PNCounter)
	case KindGSet:
		return new(GSet)
	case KindORSet:
		return new(ORSet)
	case KindLWWSet:
		return new(LWWSet)
	case KindLWWRegister:
		return new(LWWRegister)
	case KindFWWRegister:
		return new(FWWRegister)
	case KindMVRegister:
		return new(MVRegister)
	case KindLWWMap:
		return new(LWWMap)
	case KindORMap:
		return new(ORMap)
	}
	return nil
}

// decode reads a state. Root says which argument it is. l has its defaults.
func (l Limits) decode(k Kind, b []byte, root string) (state, error) {
	s := newState(k)
	if s == nil {
		return nil, unknown(k)
	}
	c, err := newCursor(b, l, ErrInvalidState)
	if err == nil {
		err = s.read(c)
	}
	if err == nil {
		err = c.end()
	}
	if err == nil {
		err = l.check(s.size()) // joined clocks may have more nodes than each had
	}
	if err != nil {
		return nil, of(err, k, root)
	}
	return s, nil
}

// encode writes a state. Hint is about how long it will be.
func (l Limits) encode(s state, hint int) ([]byte, error) {
	err := l.check(s.size())
	if err != nil {
		return nil, of(err, s.kind(), "")
	}
	b := s.append(make([]byte, 0, min(hint, l.Bytes)+64))
	if len(b) > l.Bytes {
		return nil, of(moreThan(l.Bytes, "bytes"), s.kind(), "")
	}
	return b, nil
}

func unknown(k Kind) error { return &fault{base: ErrUnknownKind, kind: k, what: "none of the ten"} }

// marshal is MarshalJSON of all kinds.
func marshal(s state) ([]byte, error) {
	return Limits{}.withDefaults().encode(s, 0)
}

// unmarshal is UnmarshalJSON of all kinds: it leaves to as it was if there is an error.
func unmarshal[T any, P interface {
	*T
	state
}](to P, b []byte) error {
	s, err := Limits{}.withDefaults().decode(to.kind(), b, "")
	if err == nil {
		*to = *s.(P)
	}
	return err
}

func validate(s state) error {
	_, err := marshal(s)
	return err
}
