// Package digest sums up a set of rows (id, version, content hash) in a few bytes, so that two
// copies of the set can be compared without listing them.
//
// A leaf is the hash of one row. Every id belongs to one of a fixed number of branches; a branch is
// the XOR of its leaves and their count. The root is the hash of all branches. A deleted row is no
// row: its leaf is taken out, and the digest is as if it had never been there. Hence the digest
// depends on the set alone and not on the order of writes, writers needn't wait for each other, and
// a change costs the same whatever the size of the set. Two sets differ only in the branches Diff
// names, and only those need listing.
//
// XOR detects accidents (a lost row, an old version, rotten bytes), not an adversary: whoever picks
// contents at will can find some whose leaves cancel out. Don't use a root as proof towards
// somebody who doesn't trust the writer. That is why a leaf may be SHA-1: nothing is lost by it,
// and Redis computes it at the speed of C (internal/rediskit), while it has no SHA-256 and no
// 64-bit integers.
//
// # Format
//
// Digests are stored and compared between processes and with what Redis computes, so nothing here
// may ever change; golden values in the tests watch over it. Integers are big-endian, and | joins
// bytes. Ids contain no NUL.
//
//	rank   = "%016x.0.%064x" of version and content hash, in lower case: what a value in Redis begins with
//	leaf   = SHA-1(id | 0x00 | rank)
//	branch = the first 11 bits of SHA-1(id)
//	root   = SHA-256(0x02 | branch 0 | branch 1 | ... | branch 2047), each as uint64(count) | xor [20]
//
// A branch of no leaves is 28 zero bytes, and an empty set has the root of 2048 of those. How a set
// or a change of one is stored is in encode.go.
package digest

import (
	"crypto/sha1"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"encoding/hex"
)

// Branches is how many branches a set has. It is a compromise for 1 to 10 million ids. To find d
// differing rows among n, all branches (24 bytes each) and some d*n/Branches leaves (about 100
// bytes each) are read: of a full listing of a million rows, to find 10, that is 1.0 % with 1024
// branches, 0.54 % with 2048, 0.34 % with 4096. On the other side, a batch of 1000 writes changes
// 639, 791 or 887 branches. 2048 has most of the gain, and its set is 64 KB.
const Branches = 2048

const (
	rootDomain = 0x02
	maxID      = 512 // longest id that is hashed without allocating
)

// Branch returns the branch id belongs to, from 0 to Branches-1. It allocates as LeafOf does.
func Branch(id string) int {
	var space [maxID]byte
	sum := sha1.Sum(append(space[:0], id...))
	return int(binary.BigEndian.Uint16(sum[:])) >> 5
}

// Leaf is the hash of one row.
type Leaf [sha1.Size]byte

// LeafOf returns the leaf of a row that is there; a deleted row has none. It doesn't allocate for
// an id of up to 512 bytes.
func LeafOf(id string, version uint64, hash [32]byte) Leaf {
	var space [maxID + 1 + 16 + 3 + 64]byte
	row := append(space[:0], id...)
	row = append(row, 0)
	var v [8]byte
	binary.BigEndian.PutUint64(v[:], version)
	row = hex.AppendEncode(row, v[:])
	row = append(row, ".0."...)
	row = hex.AppendEncode(row, hash[:])
	return sha1.Sum(row)
}

// Sum is the digest of a set of leaves: a branch, or the change of one. The zero value is that of
// no leaves.
//
// Count is modulo 2^64, so a Sum is also a change that takes out more than it puts in, and merging
// it into the whole comes out right. Adding one leaf twice undoes the XOR but not the count: a Sum
// doesn't know its leaves, and its user must add each once and remove only what was added. Not safe
// for concurrent use.
type Sum struct {
	Xor   [sha1.Size]byte
	Count uint64
}

// Add puts a leaf in.
func (s *Sum) Add(leaf Leaf) {
	s.xor((*[sha1.Size]byte)(&leaf))
	s.Count++
}

// Remove takes a leaf out.
func (s *Sum) Remove(leaf Leaf) {
	s.xor((*[sha1.Size]byte)(&leaf))
	s.Count--
}

// Merge puts in all that other holds.
func (s *Sum) Merge(other Sum) {
	s.xor(&other.Xor)
	s.Count += other.Count
}

func (s *Sum) xor(with *[sha1.Size]byte) {
	subtle.XORBytes(s.Xor[:], s.Xor[:], with[:])
}

// Set is the digest of a whole set, branch by branch. The zero value is that of the empty set. It
// is 64 KB: pass it by pointer. Not safe for concurrent use.
type Set [Branches]Sum

// Add puts the leaf of id in.
func (s *Set) Add(id string, leaf Leaf) {
	s[Branch(id)].Add(leaf)
}

// Remove takes the leaf of id out. It must be the leaf that was put in, that of the old version and
// not of the new.
func (s *Set) Remove(id string, leaf Leaf) {
	s[Branch(id)].Remove(leaf)
}

// Diff returns the branches in which the two sets differ, in ascending order, nil if they don't.
func (s *Set) Diff(other *Set) []int {
	var differ []int
	for i := range s {
		if s[i] != other[i] {
			differ = append(differ, i)
		}
	}
	return differ
}

// Root returns the hash of the whole set. Equal sets have equal roots, the empty one included.
func (s *Set) Root() [32]byte {
	const perWrite = 64 // branches; a write for each takes longer than hashing it
	var space [perWrite * (8 + sha1.Size)]byte
	var root [32]byte
	h := sha256.New()
	h.Write([]byte{rootDomain})
	for i := 0; i < Branches; i += perWrite {
		block := space[:0]
		for k := range perWrite {
			block = binary.BigEndian.AppendUint64(block, s[i+k].Count)
			block = append(block, s[i+k].Xor[:]...)
		}
		h.Write(block)
	}
	h.Sum(root[:0])
	return root
}
