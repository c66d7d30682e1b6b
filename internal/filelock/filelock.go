// Package filelock holds an exclusive lock on a file for as long as a process lives.
// The operating system drops the lock when the process ends, however it ends, so there
// are no stale locks.
package filelock

import (
	"errors"
	"io"
	"os"
)

// ErrHeld means that another holder, in this process or another, has the lock.
var ErrHeld = errors.New("file is locked")

// Lock is a held lock. The file may hold a note for the next holder.
type Lock struct{ f *os.File }

// Acquire opens or creates the file (mode 0600) and locks it without waiting.
func Acquire(path string) (*Lock, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := lock(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &Lock{f: f}, nil
}

// Note returns what an earlier holder left in the file.
func (l *Lock) Note() (string, error) {
	b := make([]byte, 256)
	n, err := l.f.ReadAt(b, 0)
	if errors.Is(err, io.EOF) {
		err = nil // the note is shorter than the buffer
	}
	return string(b[:n]), err
}

// SetNote replaces the note and syncs it.
func (l *Lock) SetNote(s string) error {
	if err := l.f.Truncate(0); err != nil {
		return err
	}
	if _, err := l.f.WriteAt([]byte(s), 0); err != nil {
		return err
	}
	return l.f.Sync()
}

// Release drops the lock. The file stays.
func (l *Lock) Release() error { return l.f.Close() }
