// Package compress packs documents with zstd (github.com/klauspost/compress), each on its own, so
// that a packed document can be stored beside plain ones in one column: it begins with the magic
// number of a zstd frame, which no JSON text begins with.
//
// Encoder and decoders are made once and used for all documents; a new one for each would cost 30
// times the work. What is unpacked is bounded, whatever a frame says of itself.
//
// Small documents of one kind have most of their bytes in common with each other and not within
// themselves: a dictionary (Train) takes JSON of 270 bytes to 37 % of that, where zstd without one
// leaves 99 %. A document that was packed with a dictionary can't be unpacked without it.
//
// Pack unpacks what it has packed and compares: a fault of the encoder costs time, no document.
//
// The bytes of a frame may differ from one release of the encoder to the next: hash and compare
// documents, not frames.
package compress

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/klauspost/compress/zstd"
)

// Magic is what a packed document begins with.
var Magic = []byte{0x28, 0xb5, 0x2f, 0xfd}

// Packed reports whether stored begins as a packed document does.
func Packed(stored []byte) bool { return bytes.HasPrefix(stored, Magic) }

var (
	// ErrDamaged means that bytes are no document that Pack has made.
	ErrDamaged = errors.New("compress: damaged")
	// ErrTooLarge means that a document is larger than Options.MaxBytes, or a frame that says so.
	ErrTooLarge = errors.New("compress: too large")
	// ErrNoDictionary means that a document was packed with a dictionary that the codec has not.
	ErrNoDictionary = errors.New("compress: needs a dictionary that is not there")
)

// Options of a Codec. The zero value works.
type Options struct {
	// Level is zstd's, from 1, the fastest, to 22 [1]. On documents of a few kilobytes levels
	// differ by little but time. The slowest of the encoder's four modes is not used: it has a
	// history of damage.
	Level int
	// MaxBytes is the largest document that Unpack returns, up to 1 GiB [64 MiB].
	MaxBytes int64
	// MinBytes is the size below which documents are not tried [128].
	MinBytes int
	// Dictionaries are what Train returned. All unpack; the last one packs, unless Plain is set.
	Dictionaries [][]byte
	Plain        bool
}

// DefaultMinBytes is the default of Options.MinBytes.
const DefaultMinBytes = 128

// Codec packs and unpacks. Make one with New; it may be used by several goroutines at once.
type Codec struct {
	opts  Options
	known map[uint32]bool // ids of dictionaries
	enc   *zstd.Encoder
	dec   *zstd.Decoder
}

const maxMaxBytes = 1 << 30

// New returns a codec. It holds about a megabyte for each call that runs at once, up to GOMAXPROCS.
func New(o Options) (*Codec, error) {
	if o.Level == 0 {
		o.Level = 1
	}
	if o.MaxBytes == 0 {
		o.MaxBytes = 64 << 20
	}
	if o.MinBytes == 0 {
		o.MinBytes = DefaultMinBytes
	}
	switch {
	case o.Level < 1 || o.Level > 22:
		return nil, fmt.Errorf("compress: Level must be from 1 to 22, is %d", o.Level)
	case o.MaxBytes < 1 || o.MaxBytes > maxMaxBytes:
		return nil, fmt.Errorf("compress: MaxBytes must be from 1 to 1 GiB, is %d", o.MaxBytes)
	}
	c := &Codec{opts: o, known: map[uint32]bool{0: true}}
	packs := []zstd.EOption{zstd.WithEncoderLevel(mode(o.Level)), zstd.WithLowerEncoderMem(true), zstd.WithSingleSegment(true)}
	for i, d := range o.Dictionaries {
		info, err := zstd.InspectDictionary(d)
		if err != nil {
			return nil, fmt.Errorf("compress: dictionary %d of %d: %w", i+1, len(o.Dictionaries), err)
		}
		c.known[info.ID()] = true
		if i == len(o.Dictionaries)-1 && !o.Plain {
			packs = append(packs, zstd.WithEncoderDict(d))
		}
	}
	var err error
	if c.enc, err = zstd.NewWriter(nil, packs...); err != nil {
		return nil, fmt.Errorf("compress: %w", err)
	}
	limit := uint64(max(o.MaxBytes, 1<<10)) // the least that a decoder takes
	c.dec, err = zstd.NewReader(nil, zstd.WithDecoderMaxMemory(limit), zstd.WithDecoderMaxWindow(limit), zstd.WithDecodeAllCapLimit(true),
		zstd.WithDecoderConcurrency(0), zstd.WithDecoderLowmem(true), zstd.WithDecoderDicts(o.Dictionaries...))
	if err != nil {
		return nil, fmt.Errorf("compress: %w", err)
	}
	return c, nil
}

// mode returns the encoder's mode for one of zstd's levels.
func mode(level int) zstd.EncoderLevel {
	return min(zstd.EncoderLevelFromZstd(level), zstd.SpeedBetterCompression)
}

// Pack returns a packed document, false when that is no smaller, or too small to be tried.
func (c *Codec) Pack(doc []byte) (packed []byte, ok bool) {
	if len(doc) < c.opts.MinBytes || int64(len(doc)) > c.opts.MaxBytes {
		return nil, false
	}
	packed = c.enc.EncodeAll(doc, make([]byte, 0, len(doc)/2))
	if len(packed) >= len(doc) {
		return nil, false
	}
	back, err := c.Unpack(packed)
	return packed, err == nil && bytes.Equal(back, doc)
}

// Unpack returns the document that Pack has packed. Anything else is ErrDamaged or ErrTooLarge, and
// costs no more memory than a document of MaxBytes.
func (c *Codec) Unpack(packed []byte) ([]byte, error) {
	var h zstd.Header
	switch err := h.Decode(packed); {
	case err != nil || h.Skippable || !h.HasFCS: // Pack always says the size, and begins with a frame
		return nil, ErrDamaged
	case h.FrameContentSize > uint64(c.opts.MaxBytes):
		return nil, ErrTooLarge
	case !c.known[h.DictionaryID]:
		return nil, ErrNoDictionary
	}
	// What a frame says of its size may be a lie: at first it gets the room that most documents
	// need.
	size := int(h.FrameContentSize)
	room := min(size, firstRoom+len(packed)*usualRatio)
	doc, err := c.dec.DecodeAll(packed, make([]byte, 0, room))
	if room < size && errors.Is(err, zstd.ErrDecoderSizeExceeded) {
		doc, err = c.dec.DecodeAll(packed, make([]byte, 0, size))
	}
	if err != nil || len(doc) != size { // or more than one frame
		return nil, ErrDamaged
	}
	return doc, nil
}

const (
	firstRoom  = 64 << 10
	usualRatio = 64
)

// Close ends the goroutines of the codec, if it has any. It must not be used any more.
func (c *Codec) Close() error {
	c.dec.Close()
	return c.enc.Close()
}
