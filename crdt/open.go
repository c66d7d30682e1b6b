package crdt

// State is a state that is held open: a sequence of changes costs one decoding and one encoding,
// where Apply and Merge pay for both each time. Its result is that of the same sequence of those.
//
// After an error of Merge or Apply the state is of no use any more. It is not safe for concurrent
// use.
type State struct {
	limits Limits
	state  state
	bytes  int // about how long it will be
}

// Open decodes a state; no bytes, or nil, stand for Empty.
func Open(k Kind, state []byte) (*State, error) { return Limits{}.Open(k, state) }

// Open is the function Open with these limits.
func (l Limits) Open(k Kind, state []byte) (*State, error) {
	l = l.withDefaults()
	s := &State{limits: l, state: newState(k), bytes: len(state)}
	if s.state == nil {
		return nil, unknown(k)
	}
	if len(state) == 0 {
		return s, nil
	}
	var err error
	s.state, err = l.decode(k, state, "")
	return s, err
}

// Merge joins another state of the kind to this one.
func (s *State) Merge(state []byte) error {
	with, err := s.limits.decode(s.state.kind(), state, "")
	if err != nil {
		return err
	}
	s.state.join(with)
	s.bytes = max(s.bytes, len(state))
	return of(s.limits.check(s.state.size()), s.state.kind(), "")
}

// Apply applies a delta.
func (s *State) Apply(delta []byte, op Op) error {
	k := s.state.kind()
	d, err := s.limits.delta(k, delta)
	if err != nil {
		return err
	}
	if what := nodeFault(op.Node); what != "" {
		return &fault{base: ErrInvalidDelta, kind: k, path: ".op.Node", what: what}
	}
	if err := s.state.apply(d, op); err != nil {
		return of(err, k, "")
	}
	s.bytes += len(delta)
	return of(s.limits.check(s.state.size()), k, "")
}

// Bytes returns the state in canonical form.
func (s *State) Bytes() ([]byte, error) { return s.limits.encode(s.state, s.bytes) }

// Seen returns the highest number of an operation of node that the state has seen, 0 for none; for
// a node that gives its operations Numbers that is one of these. An operation that changes nothing,
// or that removes from an ORSet or ORMap and adds nothing, leaves no trace there.
func (s *State) Seen(node string) uint64 {
	switch s := s.state.(type) {
	case *GCounter:
		return s.clock.counter(node)
	case *PNCounter:
		return max(s.positive.clock.counter(node), s.negative.clock.counter(node))
	case *GSet:
		return s.clock.counter(node)
	case *ORSet:
		return s.store.clock.counter(node)
	case *LWWSet:
		return s.clock.counter(node)
	case *LWWRegister:
		return s.register.clock.counter(node)
	case *FWWRegister:
		return s.register.clock.counter(node)
	case *MVRegister:
		return s.store.clock.counter(node)
	case *LWWMap:
		return s.clock.counter(node)
	case *ORMap:
		return s.store.clock.counter(node)
	}
	return 0
}
