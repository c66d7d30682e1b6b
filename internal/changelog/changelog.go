// Package changelog writes down, in few bytes, which keys changed and to which versions: for a log
// that is kept beside what changed, and for messages about it. Keys in order share what they begin
// with, and versions that were made at about the same time share their high digits.
//
// A change of a thousand keys like "product:00012345" takes some 8 bytes.
package changelog

import (
	"encoding/binary"
	"errors"
)

// Change is that of one key.
type Change struct {
	Key     string
	Version uint64
	Flags   uint8 // of the caller's, below 1 << FlagBits
}

// FlagBits is how many bits of Flags are kept.
const FlagBits = 2

// ErrMalformed means that bytes are no changes.
var ErrMalformed = errors.New("malformed changes")

// Appender appends changes to bytes. The zero value is ready; each appender begins anew.
type Appender struct {
	key     string
	version uint64
}

// Append appends one change.
func (a *Appender) Append(b []byte, c Change) []byte {
	shared := 0
	for shared < len(a.key) && shared < len(c.Key) && a.key[shared] == c.Key[shared] {
		shared++
	}
	b = binary.AppendUvarint(b, uint64(shared)<<FlagBits|uint64(c.Flags&(1<<FlagBits-1)))
	b = binary.AppendUvarint(b, uint64(len(c.Key)-shared))
	b = append(b, c.Key[shared:]...)
	b = binary.AppendVarint(b, int64(c.Version-a.version)) // wraps, and back
	a.key, a.version = c.Key, c.Version
	return b
}

// Read calls fn with each change that bytes hold, in order, until it returns false. Of malformed
// bytes it may call fn with what precedes the fault.
func Read(b []byte, fn func(Change) bool) error {
	var c Change
	for len(b) > 0 {
		head, n := binary.Uvarint(b)
		if n <= 0 {
			return ErrMalformed
		}
		b = b[n:]
		more, n := binary.Uvarint(b)
		shared := head >> FlagBits
		if n <= 0 || shared > uint64(len(c.Key)) || more > uint64(len(b)-n) {
			return ErrMalformed
		}
		b = b[n:]
		c.Key, b = c.Key[:shared]+string(b[:more]), b[more:]
		step, n := binary.Varint(b)
		if n <= 0 {
			return ErrMalformed
		}
		b = b[n:]
		c.Version += uint64(step)
		c.Flags = uint8(head & (1<<FlagBits - 1))
		if !fn(c) {
			return nil
		}
	}
	return nil
}
