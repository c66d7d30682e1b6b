package syncengine

// filter.go answers "absent" without I/O. A trusted filter holds every id of L3; nothing
// makes it trusted yet, so it denies nothing (INV-7): reads ask L3, and Contains is false
// only for what L1 knows to be deleted.

// filter is the set of ids that may be in L3.
type filter struct{}

// mayContain reports whether id may be in L3; false is definite.
func (filter) mayContain(string) bool { return true }

// trusted reports whether mayContain can be false.
func (filter) trusted() bool { return false }

// entries is how many ids the filter holds.
func (filter) entries() int { return 0 }
