// Package filelock holds a lock on a file for as long as a process lives: an exclusive one, or one
// that it shares with others of the kind.
// The operating system drops the lock when the process ends, however it ends, so there
// are no stale locks.
//
// The file holds a record for the next holder. A record is replaced by one write, which
// costs a microsecond or two and survives a kill of the process; after a loss of power an
// older one may be back. Its checksum makes a half-written one unreadable, never wrong.
package filelock

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"hash/crc32"
	"io"
	"os"
	"strings"
)

// ErrHeld means that another holder, in this process or another, has the lock.
var ErrHeld = errors.New("file is locked")

// RecordSize is the length of a record.
const RecordSize = 16

// The file is a line of text that an operator can read: usedNote, then the record and its
// checksum in hexadecimal. Files of earlier builds hold usedNote alone.
const (
	usedNote = "in use"
	fileSize = len(usedNote) + 1 + 2*(RecordSize+crc32.Size) + 1
)

// Lock is a held lock.
type Lock struct{ f *os.File }

// Acquire opens or creates the file (mode 0600) and locks it without waiting.
func Acquire(path string) (*Lock, error) { return open(path, false) }

// Share is Acquire for one that stands others who share, and them alone.
func Share(path string) (*Lock, error) { return open(path, true) }

func open(path string, shared bool) (*Lock, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := lock(f, shared); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &Lock{f: f}, nil
}

// Read returns what earlier holders left: whether any of them wrote a record, and the last
// record. It is zero when there is none, or none that matches its checksum.
func (l *Lock) Read() (rec [RecordSize]byte, used bool, err error) {
	b := make([]byte, fileSize)
	n, err := l.f.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return rec, false, err
	}
	text := strings.TrimSpace(strings.TrimPrefix(string(b[:n]), usedNote))
	sealed, err := hex.DecodeString(text)
	if err != nil || len(sealed) != RecordSize+crc32.Size ||
		crc32.Checksum(sealed[:RecordSize], castagnoli) != binary.BigEndian.Uint32(sealed[RecordSize:]) {
		return rec, n > 0, nil
	}
	return [RecordSize]byte(sealed), true, nil
}

// Write replaces the record. It does not sync.
func (l *Lock) Write(rec [RecordSize]byte) error {
	sealed := binary.BigEndian.AppendUint32(rec[:], crc32.Checksum(rec[:], castagnoli))
	b := make([]byte, 0, fileSize)
	b = hex.AppendEncode(append(b, usedNote+" "...), sealed)
	_, err := l.f.WriteAt(append(b, '\n'), 0)
	return err
}

// Sync makes what was written survive a loss of power.
func (l *Lock) Sync() error { return l.f.Sync() }

// Release drops the lock. The file stays.
func (l *Lock) Release() error {
	// Closing alone would not do: a child that this process is just starting holds a copy of
	// the descriptor until it executes its program.
	return errors.Join(unlock(l.f), l.f.Close())
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)
