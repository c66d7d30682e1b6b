//go:build crdt

package syncengine

// kinds.go is what the engine asks of the package crdt: alone here, so that the rest does not
// depend on the build tag.

import (
	"github.com/syncengine-go/syncengine/crdt"
)

// kindName returns the canonical name of a kind.
func kindName(name string) (string, error) {
	k, err := crdt.ParseKind(name)
	if err != nil {
		return "", err
	}
	return k.String(), nil
}

// checkState returns what is wrong with a state of a kind.
func checkState(kind string, state []byte) error {
	k, err := crdt.ParseKind(kind)
	if err != nil {
		return err
	}
	return crdt.Validate(k, state)
}

// checkDelta returns what is wrong with a delta of a kind.
func checkDelta(kind string, delta []byte) error {
	k, err := crdt.ParseKind(kind)
	if err != nil {
		return err
	}
	return crdt.ValidateDelta(k, delta)
}

// merged is a state that ops are merged into. One decoding serves them all.
type merged struct {
	kind  crdt.Kind
	open  *crdt.State // nil: not yet
	bytes []byte      // canonical; nil: see fresh
	fresh bool        // bytes are those of open
}

// openState opens a state in canonical form; nil stands for none.
func openState(kind string, state []byte) (*merged, error) {
	k, err := crdt.ParseKind(kind)
	return &merged{kind: k, bytes: state, fresh: true}, err
}

// Merge merges an op. The arguments alone decide the result. After an error the state is of no use.
func (m *merged) Merge(op *Record) (err error) {
	key, err := ParseMergeKey(op.ID)
	if err != nil {
		return err
	}
	if err := m.decode(); err != nil {
		return err
	}
	m.fresh = false
	if key.Delta {
		return m.open.Apply(op.Content, crdt.Op{
			Node: key.Node, Number: key.Seq, Time: op.Version, Seconds: uint64(max(0, op.UpdatedAt.Unix())),
		})
	}
	return m.open.Merge(op.Content)
}

func (m *merged) decode() (err error) {
	if m.open == nil {
		m.open, err = crdt.Open(m.kind, m.bytes)
	}
	return err
}

// Seen reports whether the state has a delta already, unless that comes late (l3merge.go).
func (m *merged) Seen(op *Record) (bool, error) {
	key, err := ParseMergeKey(op.ID)
	if err == nil {
		err = m.decode()
	}
	return err == nil && key.Delta && m.open.Seen(key.Node) >= key.Seq, err
}

// Bytes returns the state.
func (m *merged) Bytes() (_ []byte, err error) {
	if !m.fresh {
		m.bytes, err = m.open.Bytes()
		m.fresh = err == nil
	}
	return m.bytes, err
}
