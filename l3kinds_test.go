//go:build crdt

package syncengine

import (
	"errors"
	"testing"

	"github.com/syncengine-go/syncengine/crdt"
)

func TestTheKindsOfRowsAreThoseOfThePackage(t *testing.T) {
	kinds := crdt.Kinds()
	if len(kinds) != len(storedKinds) {
		t.Fatalf("%d kinds, %d names of them", len(kinds), len(storedKinds))
	}
	for i, k := range kinds {
		if storedKinds[i] != k.String() {
			t.Errorf("kind %d is %s, and not %s", i, k, storedKinds[i])
		}
	}
}

func TestTheBoundOfAStateIsThatOfThePackage(t *testing.T) {
	for more, want := range []bool{false, true} {
		if err := checkState("GSet", make([]byte, maxStateBytes+more)); errors.Is(err, crdt.ErrTooLarge) != want {
			t.Errorf("%d more: %v", more, err)
		}
	}
}
