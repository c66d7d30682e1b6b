package filelock

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func acquire(t testing.TB, path string) *Lock {
	t.Helper()
	l, err := Acquire(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Release() })
	return l
}

func wantRecord(t *testing.T, l *Lock, want [RecordSize]byte, wantUsed bool) {
	t.Helper()
	got, used, err := l.Read()
	if err != nil || got != want || used != wantUsed {
		t.Errorf("record %x, used %v, %v; want %x, %v", got, used, err, want, wantUsed)
	}
}

func TestALockIsHeldOnceAndItsRecordStays(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	first := acquire(t, path)
	wantRecord(t, first, [RecordSize]byte{}, false)
	last := [RecordSize]byte{7, 15: 9}
	for _, rec := range [][RecordSize]byte{{1}, {0xff, 15: 0xff}, last} {
		if err := errors.Join(first.Write(rec), first.Sync()); err != nil {
			t.Fatal(err)
		}
		wantRecord(t, first, rec, true)
	}
	if _, err := Acquire(path); !errors.Is(err, ErrHeld) {
		t.Errorf("a second holder: %v, want ErrHeld", err)
	}
	if err := first.Release(); err != nil {
		t.Fatal(err)
	}
	wantRecord(t, acquire(t, path), last, true)
}

// Whatever a loss of power, a bad disk or an earlier build left, the record is the one that
// was written or none; that the file was in use is known from any content at all.
func TestThoseWhoShareStandOneAnotherOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	share := func() *Lock {
		t.Helper()
		l, err := Share(path)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	for _, l := range []*Lock{share(), share()} {
		if _, err := Acquire(path); !errors.Is(err, ErrHeld) {
			t.Errorf("one for itself, while others share: %v, want ErrHeld", err)
		}
		if err := l.Release(); err != nil {
			t.Fatal(err)
		}
	}
	own := acquire(t, path)
	if _, err := Share(path); !errors.Is(err, ErrHeld) {
		t.Errorf("one that shares, while another has it for itself: %v, want ErrHeld", err)
	}
	if err := errors.Join(own.Release(), share().Release()); err != nil {
		t.Error(err)
	}
}

func TestADamagedRecordIsNoRecord(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	l := acquire(t, path)
	if err := l.Write([RecordSize]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}); err != nil {
		t.Fatal(err)
	}
	sound, err := os.ReadFile(path)
	if err != nil || len(sound) != fileSize {
		t.Fatalf("the file is %q, %v", sound, err)
	}
	damage := func(b []byte, wantUsed bool) {
		t.Helper()
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		wantRecord(t, l, [RecordSize]byte{}, wantUsed)
	}
	for n := range fileSize - 1 { // the last byte is a line feed
		damage(sound[:n], n > 0)
	}
	for i := len(usedNote) + 1; i < fileSize-1; i++ {
		flipped := append([]byte(nil), sound...)
		flipped[i] ^= 1
		damage(flipped, true)
	}
	damage([]byte(usedNote), true) // of an earlier build
	damage(make([]byte, 4096), true)
	damage([]byte("something else altogether, longer than what is expected here"), true)
}

func TestTheFileIsReadableByItsOwnerOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	if err := acquire(t, path).Write([RecordSize]byte{}); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v; want 0600", st.Mode(), err)
	}
}

// BenchmarkWrite is what a log pays for its witness at each commit.
func BenchmarkWrite(b *testing.B) {
	l := acquire(b, filepath.Join(b.TempDir(), "lock"))
	for b.Loop() {
		if err := l.Write([RecordSize]byte{1}); err != nil {
			b.Fatal(err)
		}
	}
}
