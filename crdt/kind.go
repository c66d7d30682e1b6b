package crdt

// kind.go names the ten kinds.

import (
	"fmt"
	"strings"
)

// Kind says which data type a state is of. States don't say it themselves, so it must be kept
// beside them. The zero value is no kind, and every function answers it with ErrUnknownKind. The
// numbers may change with the package: store the name.
type Kind uint8

// The kinds. The Go type of the same name (GCounter, ...) says what each does.
const (
	KindGCounter Kind = 1 + iota
	KindPNCounter
	KindGSet
	KindORSet
	KindLWWSet
	KindLWWRegister
	KindFWWRegister
	KindMVRegister
	KindLWWMap
	KindORMap
)

var kindNames = [...]string{
	KindGCounter:    "GCounter",
	KindPNCounter:   "PNCounter",
	KindGSet:        "GSet",
	KindORSet:       "ORSet",
	KindLWWSet:      "LWWSet",
	KindLWWRegister: "LWWRegister",
	KindFWWRegister: "FWWRegister",
	KindMVRegister:  "MVRegister",
	KindLWWMap:      "LWWMap",
	KindORMap:       "ORMap",
}

// String returns the name in CamelCase, as in "ORSet". It is "Kind(0)" for the zero value, and
// alike for other numbers that are no kind.
func (k Kind) String() string {
	if !k.known() {
		return fmt.Sprintf("Kind(%d)", uint8(k))
	}
	return kindNames[k]
}

func (k Kind) known() bool { return k != 0 && int(k) < len(kindNames) }

// ParseKind returns the kind of a name. Case and underscores don't matter: "ORSet", "or_set" and
// "orset" are one. Other names are ErrUnknownKind.
func ParseKind(name string) (Kind, error) {
	plain := strings.ReplaceAll(name, "_", "")
	for k := KindGCounter; k.known(); k++ {
		if strings.EqualFold(plain, kindNames[k]) {
			return k, nil
		}
	}
	return 0, fmt.Errorf("%w: a name of %d bytes", ErrUnknownKind, len(name))
}

// Kinds returns all kinds, in the order of the constants. The slice is the caller's.
func Kinds() []Kind {
	var kinds []Kind
	for k := KindGCounter; k.known(); k++ {
		kinds = append(kinds, k)
	}
	return kinds
}
