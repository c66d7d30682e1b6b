package cuckoo

// snapshot.go writes a set to a stream and reads it back. All integers are little-endian:
//
//	magic    8  "cuckoo", 0, version 1
//	canary   8  what the dependency makes of known digests
//	seed    16
//	stamp   32  the caller's
//	stale    8
//	layers   4
//	for each layer:
//	  bits   4  a filter has 2^bits slots
//	  parts  4
//	  for each partition:
//	    added  4
//	    a, b     2^bits each, the slots of its filters
//	SHA-256 32  of all before
//
// It keeps no partition's fullness: that follows from the slots.

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"

	filter "github.com/seiflotfy/cuckoofilter"
)

// The errors of Encode and Decode.
var (
	// ErrCorrupt means that this is no snapshot, or a damaged one, or one that this build can't
	// use.
	ErrCorrupt = errors.New("cuckoo: no usable snapshot")
	// ErrPoisoned means that a filter of the set has failed, or its hash has changed: it isn't
	// worth a snapshot.
	ErrPoisoned = errors.New("cuckoo: set is poisoned")
)

// Stamp is what a snapshot stands for, in terms of its owner: that of the ids it holds, say.
type Stamp [32]byte

var magic = [8]byte{'c', 'u', 'c', 'k', 'o', 'o', 0, 1}

const (
	headerBytes = 8 + 8 + 16 + 32 + 8 + 4
	maxLayers   = 64
	maxParts    = 1 << 20
)

// Encode writes a snapshot to w, in pieces of at most 64 KiB. It may run beside Insert. The
// snapshot contains each id whose Insert has returned before the call; of those inserted meanwhile
// it may contain any or none. No lock is held while w is written to.
//
// On an error, which is ErrPoisoned or w's, what has been written is worthless, and Decode refuses
// it.
func (s *Set) Encode(w io.Writer, stamp Stamp) error {
	layers := *s.layers.Load()
	sum := sha256.New()
	w = io.MultiWriter(w, sum)

	if canary() != s.canary {
		return fmt.Errorf("%w: the hash of the dependency has changed", ErrPoisoned)
	}
	header := append(make([]byte, 0, headerBytes), magic[:]...)
	header = append(header, s.canary[:]...)
	header = append(header, s.seed[:]...)
	header = append(header, stamp[:]...)
	header = binary.LittleEndian.AppendUint64(header, uint64(s.stale.Load()))
	header = binary.LittleEndian.AppendUint32(header, uint32(len(layers)))
	if _, err := w.Write(header); err != nil {
		return fmt.Errorf("cuckoo: write snapshot: %w", err)
	}
	for _, l := range layers {
		if err := l.encode(w); err != nil {
			return err
		}
	}
	if _, err := w.Write(sum.Sum(nil)); err != nil {
		return fmt.Errorf("cuckoo: write snapshot: %w", err)
	}
	return nil
}

func (l *layer) encode(w io.Writer) error {
	head := binary.LittleEndian.AppendUint32(nil, uint32(l.bits))
	head = binary.LittleEndian.AppendUint32(head, uint32(len(l.partitions)))
	for i := range l.partitions {
		p := &l.partitions[i]
		p.mu.RLock()
		added, poisoned, a, b := p.added, p.poisoned, p.a.Encode(), p.b.Encode()
		p.mu.RUnlock()
		if poisoned {
			return ErrPoisoned
		}
		head = binary.LittleEndian.AppendUint32(head, added)
		for _, piece := range [][]byte{head, a, b} {
			if _, err := w.Write(piece); err != nil {
				return fmt.Errorf("cuckoo: write snapshot: %w", err)
			}
		}
		head = head[:0]
	}
	return nil
}

// Decode reads a snapshot, which must be all of r, and returns the set and the stamp Encode was
// given. An error that is not ErrCorrupt is r's. It takes memory as it reads, about as much as r
// has bytes, whatever they claim. Small reads cost time: give it a buffered reader.
func Decode(r io.Reader) (*Set, Stamp, error) {
	s, stamp, err := decode(r)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = fmt.Errorf("%w: it ends early", ErrCorrupt)
	}
	if err != nil {
		return nil, Stamp{}, err
	}
	return s, stamp, nil
}

func decode(r io.Reader) (*Set, Stamp, error) {
	in := &summed{r: r, sum: sha256.New()}
	header, err := in.next(headerBytes)
	if err != nil {
		return nil, Stamp{}, err
	}
	c := canary()
	switch {
	case !bytes.Equal(header[:8], magic[:]):
		return nil, Stamp{}, fmt.Errorf("%w: not of this format", ErrCorrupt)
	case !bytes.Equal(header[8:16], c[:]):
		return nil, Stamp{}, fmt.Errorf("%w: written with another hash", ErrCorrupt)
	}
	seed, stamp := Seed(header[16:32]), Stamp(header[32:64])
	stale := int64(binary.LittleEndian.Uint64(header[64:72]))
	count := binary.LittleEndian.Uint32(header[72:76])
	if count == 0 || count > maxLayers {
		return nil, Stamp{}, fmt.Errorf("%w: %d layers", ErrCorrupt, count)
	}
	var layers []*layer
	for range count {
		l, err := decodeLayer(in)
		if err != nil {
			return nil, Stamp{}, err
		}
		layers = append(layers, l)
	}
	want := in.sum.Sum(nil)
	got, err := in.next(len(want))
	if err != nil {
		return nil, Stamp{}, err
	}
	if !bytes.Equal(got, want) {
		return nil, Stamp{}, fmt.Errorf("%w: checksum mismatch", ErrCorrupt)
	}
	if err := in.end(); err != nil {
		return nil, Stamp{}, err
	}
	s := newSet(seed, layers)
	s.stale.Store(stale)
	return s, stamp, nil
}

func decodeLayer(in *summed) (*layer, error) {
	head, err := in.next(8)
	if err != nil {
		return nil, err
	}
	bits, parts := binary.LittleEndian.Uint32(head), binary.LittleEndian.Uint32(head[4:])
	if bits < minBits || bits > maxBits || parts == 0 || parts > maxParts {
		return nil, fmt.Errorf("%w: %d filters of 2^%d slots", ErrCorrupt, parts, bits)
	}
	l := newLayer(layout{bits: int(bits)}) // whose partitions come as their bytes do
	l.parts = int(parts)
	for range parts {
		if err := l.decodePartition(in); err != nil {
			return nil, err
		}
	}
	return l, nil
}

func (l *layer) decodePartition(in *summed) error {
	slots := 1 << l.bits
	record, err := in.next(4 + 2*slots)
	if err != nil {
		return err
	}
	added, record := binary.LittleEndian.Uint32(record), record[4:]
	a, err := filter.Decode(record[:slots])
	if err != nil {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	b, err := filter.Decode(record[slots:])
	if err != nil {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	// Each id that was added has put a fingerprint into one filter or both.
	ids, inA, inB := uint(added), a.Count(), b.Count()
	if inA > l.limit || inB > l.limit || ids < max(inA, inB) || ids > inA+inB {
		return fmt.Errorf("%w: %d ids in filters of %d and %d", ErrCorrupt, ids, inA, inB)
	}
	l.partitions = append(l.partitions, partition{a: *a, b: *b, added: added})
	return nil
}

// summed reads from r and sums up what it has read.
type summed struct {
	r   io.Reader
	sum hash.Hash
	buf []byte
}

// next returns the next n bytes, which are good until the next call.
func (s *summed) next(n int) ([]byte, error) {
	if n > cap(s.buf) {
		s.buf = make([]byte, n)
	}
	s.buf = s.buf[:n]
	if _, err := io.ReadFull(s.r, s.buf); err != nil {
		return nil, fmt.Errorf("cuckoo: read snapshot: %w", err)
	}
	s.sum.Write(s.buf)
	return s.buf, nil
}

// end checks that nothing follows.
func (s *summed) end() error {
	switch _, err := s.next(1); {
	case err == nil:
		return fmt.Errorf("%w: something follows it", ErrCorrupt)
	case errors.Is(err, io.EOF):
		return nil
	default:
		return err
	}
}

// canary returns a sum over what the dependency makes of known digests: where their fingerprints
// go, and where they go when the first bucket is full. Of five inserts of one digest, the fifth
// does.
func canary() [8]byte {
	sum := sha256.New()
	f := filter.NewFilter(1 << minBits)
	var digest [8]byte
	for i := range uint64(32) {
		f.Reset() // together they would kick each other, which is random
		binary.LittleEndian.PutUint64(digest[:], mix(i+1))
		for range 5 {
			f.Insert(digest[:])
		}
		sum.Write(f.Encode())
	}
	return [8]byte(sum.Sum(nil))
}
