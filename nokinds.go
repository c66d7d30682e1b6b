//go:build !crdt

package syncengine

import "fmt"

func kindName(name string) (string, error) { return "", noKinds(name) }

func checkState(kind string, _ []byte) error { return noKinds(kind) }

func checkDelta(kind string, _ []byte) error { return noKinds(kind) }

type merged struct{}

func openState(kind string, _ []byte) (*merged, error) { return nil, noKinds(kind) }

func (*merged) Merge(*Record) error { return noKinds("") }

func (*merged) Seen(*Record) (bool, error) { return false, noKinds("") }

func (*merged) Bytes() ([]byte, error) { return nil, noKinds("") }

func noKinds(kind string) error {
	return says(fmt.Errorf("CRDT kind %q: %w: build with -tags crdt", kind, ErrFeatureNotBuilt))
}
