//go:build !crdt

package syncengine

import "fmt"

func kindName(name string) (string, error) { return "", noKinds(name) }

func checkState(kind string, _ []byte) error { return noKinds(kind) }

func checkDelta(kind string, _ []byte) error { return noKinds(kind) }

func mergeOp(kind string, _ []byte, _ *Record) ([]byte, error) { return nil, noKinds(kind) }

func noKinds(kind string) error {
	return fmt.Errorf("CRDT kind %q: %w: build with -tags crdt", kind, ErrFeatureNotBuilt)
}
