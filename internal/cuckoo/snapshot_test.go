package cuckoo

// snapshot_test.go proves that a set comes back from its snapshot as it was, that a snapshot taken
// beside writers has all ids inserted before it began, and that anything else than an undamaged
// snapshot is an error: each truncation, each flipped bit, and what the fuzzer makes up.

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
)

var testStamp = Stamp{1, 2, 3, 31: 255}

func snapshotOf(t testing.TB, s *Set) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := s.Encode(&out, testStamp); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func restored(t testing.TB, snapshot []byte) *Set {
	t.Helper()
	s, stamp, err := Decode(bytes.NewReader(snapshot))
	if err != nil {
		t.Fatal(err)
	}
	if stamp != testStamp {
		t.Fatalf("stamp %x", stamp)
	}
	return s
}

// resum makes the checksum right again.
func resum(snapshot []byte) []byte {
	body := snapshot[:len(snapshot)-sha256.Size]
	sum := sha256.Sum256(body)
	return append(slices.Clone(body), sum[:]...)
}

// wantRefused decodes garbage.
func wantRefused(t testing.TB, snapshot []byte, what string) {
	t.Helper()
	s, stamp, err := Decode(bytes.NewReader(snapshot))
	if !errors.Is(err, ErrCorrupt) || s != nil || stamp != (Stamp{}) {
		t.Errorf("%s: set %v, stamp %x, error %v", what, s != nil, stamp, err)
	}
}

func TestSetComesBackFromItsSnapshot(t *testing.T) {
	for _, size := range []struct{ expected, ids, layers int }{
		{0, 0, 1}, {1000, 1000, 1}, {50_000, 50_000, 1}, {1000, 20_000, 8},
	} {
		s := New(size.expected, seeded(t))
		insertRange(s, "id", 0, size.ids)
		s.AddStale(size.ids / 4)
		snapshot := snapshotOf(t, s)
		back := restored(t, snapshot)
		if layerCount(s) > size.layers || back.Bytes() != s.Bytes() {
			t.Errorf("%d layers, %d bytes; %d bytes came back", layerCount(s), s.Bytes(), back.Bytes())
		}
		wantAll(t, back, "id", size.ids)
		if back.Added() != s.Added() || back.Stale() != s.Stale() || back.NeedsRebuild() != s.NeedsRebuild() {
			t.Errorf("added %d, stale %d; %d and %d came back", s.Added(), s.Stale(), back.Added(), back.Stale())
		}
		if !bytes.Equal(snapshotOf(t, back), snapshot) {
			t.Error("what came back has another snapshot")
		}
		for i := range 100_000 { // the same answers, by mistake or not
			if id := nth("absent", i); s.Contains(id) != back.Contains(id) {
				t.Fatalf("%s is affirmed by one only", id)
			}
		}
		// It goes on as the first one would: full partitions are known to be full.
		insertRange(back, "id", size.ids, 2*size.ids)
		wantAll(t, back, "id", 2*size.ids)
	}
}

// TestSnapshotBesideWritersHasAllThatWasInserted decodes snapshots taken while writers insert and
// layers grow.
func TestSnapshotBesideWritersHasAllThatWasInserted(t *testing.T) {
	const writers, rounds, perRound = 3, 20, 1000
	s := New(5000, seeded(t))
	var allowed atomic.Int64 // how far writers may go, so that they are not done before the first snapshot
	var progress [writers]atomic.Int64
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range rounds * perRound {
				for allowed.Load() <= int64(i) {
					runtime.Gosched()
				}
				s.Insert(nth(strconv.Itoa(w), i))
				progress[w].Store(int64(i + 1))
			}
		})
	}
	beside := 0
	for range rounds {
		allowed.Add(perRound)
		var before [writers]int
		for w := range writers {
			before[w] = int(progress[w].Load())
		}
		var out yielding
		if err := s.Encode(&out, testStamp); err != nil {
			t.Error(err)
		}
		if int(progress[0].Load()) > before[0] {
			beside++
		}
		back := restored(t, out.Bytes())
		for w, n := range before {
			wantAll(t, back, strconv.Itoa(w), n)
		}
	}
	wg.Wait()
	if beside == 0 || layerCount(s) < 3 {
		t.Errorf("%d snapshots were taken beside a writer, of a set that grew to %d layers", beside, layerCount(s))
	}
}

// yielding lets others run between the pieces of a snapshot, on a single processor too.
type yielding struct{ bytes.Buffer }

func (y *yielding) Write(p []byte) (int, error) {
	runtime.Gosched()
	return y.Buffer.Write(p)
}

func TestDamagedSnapshotIsRefused(t *testing.T) {
	s := New(2000, seeded(t))
	insertRange(s, "id", 0, 2000)
	snapshot := snapshotOf(t, s)
	for n := range snapshot {
		if n < 200 || n%151 == 0 || n > len(snapshot)-200 {
			wantRefused(t, snapshot[:n], "cut to "+strconv.Itoa(n))
		}
	}
	for i := range snapshot {
		if i < 200 || i%151 == 0 || i > len(snapshot)-200 {
			for bit := range 8 {
				damaged := slices.Clone(snapshot)
				damaged[i] ^= 1 << bit
				wantRefused(t, damaged, "bit flipped in byte "+strconv.Itoa(i))
			}
		}
	}
	wantRefused(t, append(slices.Clone(snapshot), 0), "a byte follows")
	wantRefused(t, append(slices.Clone(snapshot), snapshot...), "twice")
	wantRefused(t, nil, "nothing")
	wantRefused(t, make([]byte, 1<<20), "zeros")
	wantRefused(t, bytes.Repeat(snapshot[:headerBytes], 100), "headers")
}

// TestSnapshotThatContradictsItselfIsRefused has a right checksum each time.
func TestSnapshotThatContradictsItselfIsRefused(t *testing.T) {
	s := New(2000, seeded(t))
	insertRange(s, "id", 0, 2000)
	snapshot := snapshotOf(t, s)
	const layers, bits, parts, added = 72, headerBytes, headerBytes + 4, headerBytes + 8
	for _, test := range []struct {
		what string
		at   int
		val  uint32
	}{
		{"another version", 4, 0x02006f6f}, {"another hash", 8, 0},
		{"no layer", layers, 0}, {"a layer too many", layers, 2}, {"absurdly many layers", layers, 1 << 31},
		{"too small filters", bits, minBits - 1}, {"too large filters", bits, maxBits + 1},
		{"absurdly large filters", bits, 1 << 31}, {"other filters", bits, 12},
		{"no partition", parts, 0}, {"a partition too many", parts, 4}, {"absurdly many partitions", parts, 1 << 31},
		{"fewer ids than fingerprints", added, 1}, {"more ids than fingerprints", added, 2000},
	} {
		changed := slices.Clone(snapshot)
		binary.LittleEndian.PutUint32(changed[test.at:], test.val)
		wantRefused(t, resum(changed), test.what)
	}
	full := snapshotOf(t, New(0, seeded(t))) // one partition of two filters
	for i := added + 4; i < len(full)-sha256.Size; i++ {
		full[i] = 7
	}
	binary.LittleEndian.PutUint32(full[added:], 1<<minBits)
	wantRefused(t, resum(full), "filters filled to the last slot")
}

// TestLyingSnapshotTakesNoMemory: a short stream that claims terabytes.
func TestLyingSnapshotTakesNoMemory(t *testing.T) {
	snapshot := snapshotOf(t, New(0, seeded(t)))
	binary.LittleEndian.PutUint32(snapshot[72:], maxLayers)
	binary.LittleEndian.PutUint32(snapshot[headerBytes:], maxBits)
	binary.LittleEndian.PutUint32(snapshot[headerBytes+4:], maxParts)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	wantRefused(t, resum(snapshot), "terabytes")
	runtime.ReadMemStats(&after)
	if took := after.TotalAlloc - before.TotalAlloc; took > 1<<20 {
		t.Errorf("%d bytes allocated", took)
	}
}

// TestCanaryIsThatOfTheHashWeKnow: if a new version of the dependency changes it, old snapshots are
// refused, as they must be. Then write down the new value.
func TestCanaryIsThatOfTheHashWeKnow(t *testing.T) {
	if want, got := [8]byte{0xc6, 0x09, 0xf9, 0x94, 0xed, 0x93, 0x42, 0x02}, canary(); got != want {
		t.Errorf("canary is %#v", got)
	}
}

func TestErrorsOfStreamsAreToldApart(t *testing.T) {
	s := New(2000, seeded(t))
	insertRange(s, "id", 0, 2000)
	snapshot := snapshotOf(t, s)
	broken := errors.New("disk on fire")
	for n := 0; n <= len(snapshot); n += 97 {
		_, _, err := Decode(io.MultiReader(bytes.NewReader(snapshot[:n]), iotest.ErrReader(broken)))
		if !errors.Is(err, broken) || errors.Is(err, ErrCorrupt) {
			t.Fatalf("reading fails after %d bytes: %v", n, err)
		}
		if err := s.Encode(&limited{n, broken}, testStamp); n < len(snapshot) && !errors.Is(err, broken) {
			t.Fatalf("writing fails after %d bytes: %v", n, err)
		}
	}
	if _, _, err := Decode(iotest.OneByteReader(bytes.NewReader(snapshot))); err != nil {
		t.Errorf("reading byte by byte: %v", err)
	}
}

// limited is a writer that fails once, after left bytes, like a disk that was full for a moment.
type limited struct {
	left int
	err  error
}

func (l *limited) Write(p []byte) (int, error) {
	if l.left -= len(p); l.left < 0 {
		l.left = math.MaxInt
		return 0, l.err
	}
	return len(p), nil
}

func TestPoisonedSetHasNoSnapshot(t *testing.T) {
	s := New(10_000, seeded(t))
	l := (*s.layers.Load())[0]
	l.partitions[len(l.partitions)-1].poisoned = true
	var out bytes.Buffer
	if err := s.Encode(&out, testStamp); !errors.Is(err, ErrPoisoned) {
		t.Errorf("error %v", err)
	}
	wantRefused(t, out.Bytes(), "what was written nevertheless")

	other := New(0, seeded(t))
	other.canary[0]++
	if err := other.Encode(io.Discard, testStamp); !errors.Is(err, ErrPoisoned) {
		t.Errorf("error %v when the hash has changed", err)
	}
}

// FuzzDecode feeds anything to Decode, and once more with the checksum put right, which the fuzzer
// can't guess. What Decode accepts must be a set that works and has the same snapshot again.
func FuzzDecode(f *testing.F) {
	for _, size := range []struct{ expected, ids int }{{0, 0}, {0, 100}, {800, 2000}, {2000, 2000}} {
		s := New(size.expected, Seed{byte(size.ids)})
		insertRange(s, "id", 0, size.ids)
		snapshot := snapshotOf(f, s)
		f.Add(snapshot)
		f.Add(snapshot[:headerBytes+8])
		f.Add(snapshot[:len(snapshot)/2])
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, input []byte) {
		try := [][]byte{input}
		if len(input) >= sha256.Size {
			try = append(try, resum(input))
		}
		for _, snapshot := range try {
			s, stamp, err := Decode(bytes.NewReader(snapshot))
			if err != nil {
				if !errors.Is(err, ErrCorrupt) || s != nil {
					t.Fatalf("set %v, error %v", s != nil, err)
				}
				continue
			}
			var again bytes.Buffer
			if err := s.Encode(&again, stamp); err != nil || !bytes.Equal(again.Bytes(), snapshot) {
				t.Fatalf("another snapshot comes back, error %v", err)
			}
			added := s.Added()
			insertRange(s, "fuzz", 0, 2000)
			wantAll(t, s, "fuzz", 2000)
			if s.Added() < added || s.Stale() > s.Added() || s.Bytes() > 4*len(snapshot)+1<<16 {
				t.Fatalf("added %d, stale %d, %d bytes", s.Added(), s.Stale(), s.Bytes())
			}
		}
	})
}
