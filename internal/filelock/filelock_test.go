package filelock

import (
	"errors"
	"path/filepath"
	"testing"
)

func TestALockIsHeldOnceAndItsNoteStays(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	first, err := Acquire(path)
	if err != nil {
		t.Fatal(err)
	}
	if note, err := first.Note(); err != nil || note != "" {
		t.Errorf("note of a new file: %q, %v", note, err)
	}
	if err := first.SetNote("in use"); err != nil {
		t.Fatal(err)
	}
	if _, err := Acquire(path); !errors.Is(err, ErrHeld) {
		t.Errorf("a second holder: %v, want ErrHeld", err)
	}
	if err := first.Release(); err != nil {
		t.Fatal(err)
	}
	second, err := Acquire(path)
	if err != nil {
		t.Fatal(err)
	}
	if note, err := second.Note(); err != nil || note != "in use" {
		t.Errorf("note of the next holder: %q, %v", note, err)
	}
	if err := second.Release(); err != nil {
		t.Error(err)
	}
}
