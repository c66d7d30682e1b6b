package digest

// encode.go stores a Set, or a Delta (the change of one), in few bytes that tell whether they are
// still what was written.
//
//	set    = 0x11 | entries | crc      entry = uvarint(gap) | uvarint(count)  | xor [20]
//	delta  = 0x21 | entries | crc      entry = uvarint(gap) | zigzag(change of count) | xor [20]
//
// There is one entry for each branch that is not zero, in ascending order; gap is how many branches
// it lies behind the one before (behind branch -1 for the first), less one. Varints are those of
// encoding/binary in their shortest form. crc is the CRC-32C of all before it, in 4 big-endian
// bytes. So each set and each delta has exactly one encoding, and everything else is ErrEncoding. A
// full set takes some 46 KB, an empty one 5 bytes, the change of one row 28.

import (
	"crypto/sha1"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

const (
	setKind   = 0x11
	deltaKind = 0x21
	crcBytes  = 4
)

// ErrEncoding says that bytes are no encoded Set or no encoded Delta.
var ErrEncoding = errors.New("digest: not a sound encoding")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// AppendBinary appends the encoded set to b.
func (s *Set) AppendBinary(b []byte) []byte {
	w := begin(b, setKind)
	for i := range s {
		if s[i] != (Sum{}) {
			w.entry(i, s[i].Count, &s[i])
		}
	}
	return w.end()
}

// Decode reads what AppendBinary of a Set wrote. It keeps nothing of b.
func Decode(b []byte) (*Set, error) {
	s := new(Set)
	err := entries(b, setKind, func(branch int, n uint64, xor []byte) {
		s[branch].Count = n
		copy(s[branch].Xor[:], xor)
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// Delta sums up a batch of changes: only the branches they touch. The zero value is no change. Its
// changes may take out more than they put in, and deltas may be applied in any order, each once.
// Not safe for concurrent use.
type Delta struct {
	place [Branches]uint16 // of a branch in sums, plus one; 0 is a branch that no change touched
	sums  []Sum
}

// Add puts the leaf of id in.
func (d *Delta) Add(id string, leaf Leaf) { d.at(Branch(id)).Add(leaf) }

// Remove takes the leaf of id out: the one that was put in, that of the old version and not of the
// new.
func (d *Delta) Remove(id string, leaf Leaf) { d.at(Branch(id)).Remove(leaf) }

// Replace is Remove of one leaf of id and Add of another.
func (d *Delta) Replace(id string, old, by Leaf) {
	s := d.at(Branch(id))
	s.Remove(old)
	s.Add(by)
}

func (d *Delta) at(branch int) *Sum {
	if d.place[branch] == 0 {
		d.sums = append(d.sums, Sum{})
		d.place[branch] = uint16(len(d.sums)) // at most Branches
	}
	return &d.sums[d.place[branch]-1]
}

// Empty reports whether applying the delta would change nothing.
func (d *Delta) Empty() bool {
	for i := range d.sums {
		if d.sums[i] != (Sum{}) {
			return false
		}
	}
	return true
}

// Reset makes the delta empty and keeps its memory.
func (d *Delta) Reset() {
	d.place, d.sums = [Branches]uint16{}, d.sums[:0]
}

// AppendBinary appends the encoded delta to b.
func (d *Delta) AppendBinary(b []byte) []byte {
	w := begin(b, deltaKind)
	for i, place := range d.place {
		if place == 0 || d.sums[place-1] == (Sum{}) {
			continue
		}
		sum := &d.sums[place-1]
		change := int64(sum.Count)
		w.entry(i, uint64(change<<1)^uint64(change>>63), sum)
	}
	return w.end()
}

// Apply changes the set by an encoded Delta. When it returns an error, nothing was changed. Applied
// twice, a delta does not undo itself: see Sum.
func (s *Set) Apply(delta []byte) error {
	if err := entries(delta, deltaKind, func(int, uint64, []byte) {}); err != nil {
		return err
	}
	return entries(delta, deltaKind, func(branch int, n uint64, xor []byte) {
		s[branch].Merge(Sum{Xor: [sha1.Size]byte(xor), Count: n>>1 ^ -(n & 1)})
	})
}

// writer appends entries.
type writer struct {
	b    []byte
	from int // where this encoding begins in b
	last int // branch of the entry before
}

func begin(b []byte, kind byte) writer {
	return writer{b: append(b, kind), from: len(b), last: -1}
}

func (w *writer) entry(branch int, n uint64, sum *Sum) {
	w.b = binary.AppendUvarint(w.b, uint64(branch-w.last-1))
	w.b = binary.AppendUvarint(w.b, n)
	w.b = append(w.b, sum.Xor[:]...)
	w.last = branch
}

func (w *writer) end() []byte {
	return binary.BigEndian.AppendUint32(w.b, crc32.Checksum(w.b[w.from:], castagnoli))
}

// entries calls fn with each entry of b, and returns an error at the first thing that AppendBinary
// would not have written.
func entries(b []byte, kind byte, fn func(branch int, n uint64, xor []byte)) error {
	size := len(b) - crcBytes
	switch {
	case size < 1 || b[0] != kind:
		return fmt.Errorf("%w: %d bytes of another kind", ErrEncoding, len(b))
	case crc32.Checksum(b[:size], castagnoli) != binary.BigEndian.Uint32(b[size:]):
		return fmt.Errorf("%w: checksum", ErrEncoding)
	}
	branch := -1
	for b = b[1:size]; len(b) > 0; {
		gap, n := shortest(b)
		b = b[n:]
		count, m := shortest(b)
		b = b[m:]
		if n == 0 || m == 0 || gap >= uint64(Branches-1-branch) || len(b) < sha1.Size {
			return fmt.Errorf("%w: entry after branch %d", ErrEncoding, branch)
		}
		branch += 1 + int(gap)
		xor := b[:sha1.Size]
		if b = b[sha1.Size:]; count == 0 && [sha1.Size]byte(xor) == [sha1.Size]byte{} {
			return fmt.Errorf("%w: branch %d is zero", ErrEncoding, branch)
		}
		fn(branch, count, xor)
	}
	return nil
}

// shortest reads a varint; its length is 0 if there is none, or if it could be written shorter.
func shortest(b []byte) (v uint64, length int) {
	v, n := binary.Uvarint(b)
	if n <= 0 || n > 1 && b[n-1] == 0 {
		return 0, 0
	}
	return v, n
}
