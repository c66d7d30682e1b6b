package syncengine

// mergekey.go is how merges are told from other ops. A merge, of a state or of a delta, is an op
// with a key of its own instead of the id of its item: the id, a byte 0, which no id has, and the
// merge's dot, which is the node that made it and a number that node never uses again. So a merge
// is never taken for a later or earlier form of another one, whatever keeps ops by their ids: the
// log, the spool, quarantine; and L3 applies a dot once, however often it comes.
//
// A node is a Dir: the WAL file keeps its name, which no copy of the Dir has (mergenumbers.go).
//
// # Versions
//
// What is read while merges wait, a view (merging.go), has a version, too, which may come back in
// a condition, here or on another engine. It must be the version of nothing else that somebody may
// read (INV-14). So rows that merges make have even versions, and views odd ones. Views of two
// engines, be their merges numbered the same, differ by what is drawn for each that begins with a
// row: below viewRoom, once in 8,192 the same. The next row is above what any view of its merges
// can be.

import (
	crand "crypto/rand"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
)

// MergeKey is the key of a merge: what the ID of its Record says, as a MergingStore is given it.
// Node and Seq are its dot. A delta of a counter counts for Node.
type MergeKey struct {
	ID    string // of the item
	Node  string // no "/" in it
	Seq   uint64
	Delta bool // Content is a delta; else it is a whole state
}

// Where the number is in a key: it is set when the merge gets its version (numbers.dot).
const (
	seqDigits = 16
	seqEnd    = seqDigits + 2 // with "/d" or "/s"
	noSeq     = "0000000000000000"
)

// maxMergeKey is the length of the longest key.
const maxMergeKey = MaxIDBytes + 1 + maxNode + 1 + seqEnd

// maxNode is the length of a node's name.
const maxNode = 32

// viewRoom is how many versions above its merges a row leaves for views: those of a quarter of a
// millisecond. No more, since an item whose batches come faster than that gets ahead of the clock.
const viewRoom = 1 << 14

// viewNumbers make the versions of views that begin with a row.
type viewNumbers struct{ row, draw uint64 }

// drawViews returns those of one engine.
func drawViews(row uint64) viewNumbers { return viewNumbers{row, rand.Uint64N(viewRoom)} }

// With returns the version of a view with a merge more, above the one before.
func (n viewNumbers) With(merge, before uint64) uint64 {
	return min(max(before+1, max(merge, n.row)+n.draw)|1, MaxVersion)
}

// rowVersion returns the version of a row above that of a view or another row.
func rowVersion(over uint64) uint64 { return min((over+2)&^1, MaxVersion-1) }

// newNode returns a name that no other node has.
func newNode() string {
	var b [8]byte
	_, _ = crand.Read(b[:]) // it never fails
	return hex.EncodeToString(b[:])
}

// String returns the key.
func (k MergeKey) String() string {
	class := "/s"
	if k.Delta {
		class = "/d"
	}
	return k.ID + "\x00" + k.Node + fmt.Sprintf("/%016x", k.Seq) + class
}

// isMerge reports whether an op's key is that of a merge.
func isMerge(key string) bool { return strings.IndexByte(key, 0) >= 0 }

// itemOf returns the id of the item that an op's key is about.
func itemOf(key string) string {
	if i := strings.IndexByte(key, 0); i >= 0 {
		return key[:i]
	}
	return key
}

// ParseMergeKey reads what String wrote. An id of an item is an error.
func ParseMergeKey(key string) (k MergeKey, err error) {
	id, dot, _ := strings.Cut(key, "\x00")
	parts := strings.Split(dot, "/")
	if len(parts) != 3 || parts[0] == "" || parts[2] != "s" && parts[2] != "d" {
		return k, fmt.Errorf("%q is no key of a merge", key)
	}
	seq, err := strconv.ParseUint(parts[1], 16, 64)
	if err != nil {
		return k, fmt.Errorf("%q is no key of a merge: %w", key, err)
	}
	return MergeKey{ID: id, Node: parts[0], Seq: seq, Delta: parts[2] == "d"}, nil
}
