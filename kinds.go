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

// mergeOp returns the state, in canonical form, that a state becomes by an op; nil stands for the
// empty one. The arguments alone decide the result.
func mergeOp(kind string, state []byte, op *Record) ([]byte, error) {
	k, err := crdt.ParseKind(kind)
	if err != nil {
		return nil, err
	}
	key, err := ParseMergeKey(op.ID)
	if err != nil {
		return nil, err
	}
	if key.Delta {
		by := crdt.Op{Node: key.Node, Time: op.Version, Seconds: uint64(max(0, op.UpdatedAt.Unix()))}
		return crdt.Apply(k, state, op.Content, by)
	}
	if state == nil {
		return crdt.Canonical(k, op.Content)
	}
	return crdt.Merge(k, state, op.Content)
}
