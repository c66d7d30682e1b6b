package digest

// encode_test.go proves that sets and deltas are stored so that they come back as they were, that a
// delta applied is the set recomputed, and that whatever is no encoding is refused and changes
// nothing: by random rows against a fresh set, by golden bytes of another program, by every flipped
// bit and every cut, and by fuzzing both readers.

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// The golden bytes were made by another program in another language, from the format in encode.go.
func TestFormatOfEncodingsNeverChanges(t *testing.T) {
	var empty, set Set
	for i := range 5000 {
		id := fmt.Sprintf("id-%d", i)
		set.Add(id, LeafOf(id, uint64(i)<<16, contentHash(fmt.Sprint(i))))
	}
	var none, some Delta
	some.Remove("a", LeafOf("a", 1, contentHash("1")))
	some.Remove("b", LeafOf("b", 1, contentHash("1")))
	some.Add("b", LeafOf("b", 2, contentHash("2")))
	some.Add("c", LeafOf("c", 300, contentHash("3")))
	for name, test := range map[string]struct{ got, want string }{
		"empty set":   {hex.EncodeToString(empty.AppendBinary(nil)), "11b048173d"},
		"empty delta": {hex.EncodeToString(none.AppendBinary(nil)), "2180ab5e8c"},
		"5000 rows":   {fmt.Sprintf("%x", sha256.Sum256(set.AppendBinary(nil))), "ff1bb2eb57ee71d2fbf5f1d32e5443a0ed244d15116761ba1e6859d58314f254"},
		"delta": {
			hex.EncodeToString(some.AppendBinary(nil)),
			"21a50802e63f6180c2151dd101f8e0180f384a394daa76bd110113bce9e385e1ce54c3c3480a7eaedc4189a8a0da960600f17137663a3b056caea7d9d0f92d883173d2151133a7f8be",
		},
	} {
		if test.got != test.want {
			t.Errorf("%s is encoded as %s", name, test.got)
		}
	}
}

// drawSum draws sums of all sizes; most are zero.
func drawSum(t *rapid.T) Sum {
	var s Sum
	if rapid.Bool().Draw(t, "counted") {
		s.Count = rapid.OneOf(rapid.Uint64(), rapid.Uint64Range(0, 300), rapid.Just(uint64(math.MaxUint64))).Draw(t, "count")
	}
	if rapid.Bool().Draw(t, "hashed") {
		copy(s.Xor[:], rapid.SliceOfN(rapid.Byte(), 20, 20).Draw(t, "xor"))
	}
	return s
}

func drawSet(t *rapid.T) *Set {
	s := new(Set)
	branches := rapid.OneOf(rapid.IntRange(0, Branches-1), rapid.SampledFrom([]int{0, 1, Branches - 2, Branches - 1}))
	for branch, sum := range rapid.MapOfN(branches, rapid.Custom(drawSum), 0, 20).Draw(t, "sums") {
		s[branch] = sum
	}
	return s
}

func TestSetComesBackAsItWas(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		set := drawSet(t)
		before := []byte("before")
		b := set.AppendBinary(before)
		if !bytes.HasPrefix(b, before) {
			t.Fatalf("what was there is gone: %x", b)
		}
		got, err := Decode(b[len(before):])
		if err != nil || *got != *set {
			t.Fatalf("%v, differs in branches %v", err, got.Diff(set))
		}
	})
}

// TestAppliedDeltaIsTheSetRecomputed changes rows at random, sums up the changes in a few deltas,
// applies those in any order, and compares with a fresh set of the rows.
func TestAppliedDeltaIsTheSetRecomputed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rows := drawRows(t, "rows")
		set := fresh(rows)
		var encoded [][]byte
		var delta Delta
		for range rapid.IntRange(1, 4).Draw(t, "deltas") {
			for range rapid.IntRange(0, 20).Draw(t, "changes") {
				id := rapid.StringMatching(`[a-e]{0,2}`).Draw(t, "id")
				if old, ok := rows[id]; ok {
					delta.Remove(id, old.leaf(id))
					delete(rows, id)
				}
				if rapid.Bool().Draw(t, "put") {
					rows[id] = drawRow(t)
					delta.Add(id, rows[id].leaf(id))
				}
			}
			b := delta.AppendBinary(nil)
			if delta.Empty() != (len(b) == 5) {
				t.Fatalf("empty is %v, encoded as %x", delta.Empty(), b)
			}
			encoded = append(encoded, b)
			delta.Reset()
		}
		for _, b := range rapid.Permutation(encoded).Draw(t, "order") {
			if err := set.Apply(b); err != nil {
				t.Fatal(err)
			}
		}
		if want := fresh(rows); *set != *want {
			t.Fatalf("differs from a fresh set in branches %v", set.Diff(want))
		}
	})
}

func TestDeltaOfABatchIsSmall(t *testing.T) {
	for changes, atMost := range map[int]int{1: 28, 1000: 1000 * 23, 100_000: Branches*23 + 5} {
		var delta Delta
		for i := range changes {
			id := fmt.Sprint(i)
			delta.Add(id, LeafOf(id, 1, contentHash(id)))
		}
		if n := len(delta.AppendBinary(nil)); n > atMost {
			t.Errorf("%d changes take %d bytes, want at most %d", changes, n, atMost)
		}
	}
}

// seal makes an encoding of a body that may be none.
func seal(body ...byte) []byte {
	return binary.BigEndian.AppendUint32(body, crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli)))
}

// refused asserts that neither reader takes b, and that a set is left as it was.
func refused(t *testing.T, name string, b []byte) {
	t.Helper()
	if s, err := Decode(b); !errors.Is(err, ErrEncoding) || s != nil {
		t.Errorf("%s: decoded, %v", name, err)
	}
	set := Set{7: {Count: 1}}
	if err := set.Apply(b); !errors.Is(err, ErrEncoding) || set != (Set{7: {Count: 1}}) {
		t.Errorf("%s: applied, %v", name, err)
	}
}

func TestGarbageIsRefusedAndChangesNothing(t *testing.T) {
	xor := strings.Repeat("\x01", 20)
	entry := func(kind byte, parts ...string) []byte {
		return seal(append([]byte{kind}, strings.Join(parts, "")...)...)
	}
	for _, kind := range []byte{setKind, deltaKind} {
		for name, b := range map[string][]byte{
			"no bytes": nil, "a crc alone": seal(), "short": {kind, 1, 2, 3}, "unknown kind": entry(0x31), "no crc": {kind},
			"half an xor":                     entry(kind, "\x00\x01", xor[:19]),
			"a byte more":                     entry(kind, "\x00\x01", xor, "\x00"),
			"no count":                        entry(kind, "\x00"),
			"endless gap":                     entry(kind, strings.Repeat("\xff", 11), xor),
			"endless count":                   entry(kind, "\x00", strings.Repeat("\xff", 11), xor),
			"gap in more bytes than it takes": entry(kind, "\x80\x00\x01", xor),
			"count in more bytes":             entry(kind, "\x00\x81\x00", xor),
			"branch 2048":                     entry(kind, "\x80\x10\x01", xor),
			"2048 behind another":             entry(kind, "\xfe\x0f\x01", xor, "\x01\x01", xor),
			"a gap of 2^64-1":                 entry(kind, "\x00\x01", xor, strings.Repeat("\xff", 9)+"\x01\x01", xor),
			"a zero branch":                   entry(kind, "\x00\x00", strings.Repeat("\x00", 20)),
			"second entry broken":             entry(kind, "\x00\x01", xor, "\x00\x01", xor[1:]),
		} {
			refused(t, fmt.Sprintf("kind %x, %s", kind, name), b)
		}
	}
	var set Set
	if err := set.Apply((&Set{3: {Count: 1}}).AppendBinary(nil)); !errors.Is(err, ErrEncoding) || set != (Set{}) {
		t.Errorf("a set was applied as a delta: %v", err)
	}
	if last, err := Decode(entry(setKind, "\xff\x0f\x01", xor)); err != nil || last[Branches-1].Count != 1 {
		t.Errorf("the last branch is refused: %v", err)
	}
}

// TestEveryFlippedBitAndEveryCutIsNoticed is what a stored digest may meet.
func TestEveryFlippedBitAndEveryCutIsNoticed(t *testing.T) {
	var set Set
	var delta Delta
	for i := range 20 {
		id := fmt.Sprint(i)
		set.Add(id, LeafOf(id, 1, contentHash(id)))
		delta.Remove(id, LeafOf(id, 2, contentHash(id)))
	}
	for name, b := range map[string][]byte{"set": set.AppendBinary(nil), "delta": delta.AppendBinary(nil)} {
		for bit := range 8 * len(b) {
			flipped := bytes.Clone(b)
			flipped[bit/8] ^= 1 << (bit % 8)
			refused(t, fmt.Sprintf("%s, bit %d", name, bit), flipped)
		}
		for n := range b {
			refused(t, fmt.Sprintf("first %d bytes of a %s", n, name), b[:n])
		}
		refused(t, name+" twice", append(bytes.Clone(b), b...))
	}
}

// wantSound feeds b to both readers: each refuses it, or it is exactly what would have been
// written.
func wantSound(t interface {
	Fatalf(string, ...any)
	Helper()
}, b []byte,
) {
	t.Helper()
	set, err := Decode(b)
	if err != nil && !errors.Is(err, ErrEncoding) {
		t.Fatalf("%v", err)
	}
	if err == nil && !bytes.Equal(set.AppendBinary(nil), b) {
		t.Fatalf("decoded %x, which would be written as %x", b, set.AppendBinary(nil))
	}
	before := Set{0: {Count: 3}, 9: {Xor: [20]byte{1}}, Branches - 1: {Count: 1}}
	after := before
	if err := after.Apply(b); err != nil {
		if !errors.Is(err, ErrEncoding) || after != before {
			t.Fatalf("%v, changed branches %v", err, after.Diff(&before))
		}
		return
	}
	var delta Delta // what was applied, read off the difference
	for i := range after {
		if change := (Sum{Count: after[i].Count - before[i].Count}); after[i] != before[i] {
			change.Xor = after[i].Xor
			change.xor(&before[i].Xor)
			*delta.at(i) = change
		}
	}
	if !bytes.Equal(delta.AppendBinary(nil), b) {
		t.Fatalf("applied %x as %x", b, delta.AppendBinary(nil))
	}
}

// TestReadersTakeOnlyWhatWritersWrite draws bodies near the format, with a checksum that is right.
func TestReadersTakeOnlyWhatWritersWrite(t *testing.T) {
	varint := rapid.OneOf(
		rapid.Map(rapid.Uint64Range(0, Branches+1), func(v uint64) []byte { return binary.AppendUvarint(nil, v) }),
		rapid.Map(rapid.Uint64(), func(v uint64) []byte { return binary.AppendUvarint(nil, v) }),
		rapid.SliceOfN(rapid.Byte(), 0, 3), rapid.Just([]byte{0}))
	xor := rapid.OneOf(rapid.SliceOfN(rapid.Byte(), 20, 20), rapid.Just(make([]byte, 20)), rapid.SliceOfN(rapid.Byte(), 0, 22))
	rapid.Check(t, func(t *rapid.T) {
		body := []byte{rapid.SampledFrom([]byte{setKind, deltaKind}).Draw(t, "kind")}
		for range rapid.IntRange(0, 4).Draw(t, "entries") {
			body = append(body, varint.Draw(t, "gap")...)
			body = append(body, varint.Draw(t, "count")...)
			body = append(body, xor.Draw(t, "xor")...)
		}
		wantSound(t, seal(body...))
		wantSound(t, body)
	})
}

func FuzzDecode(f *testing.F) {
	var delta Delta
	set := Set{0: {Count: 1}, 5: {Count: math.MaxUint64, Xor: [20]byte{7}}, Branches - 1: {Xor: [20]byte{1}}}
	delta.Remove("a", LeafOf("a", 1, contentHash("a")))
	delta.Add("b", LeafOf("b", 1, contentHash("b")))
	for _, b := range [][]byte{set.AppendBinary(nil), delta.AppendBinary(nil), (&Set{}).AppendBinary(nil), {}, {deltaKind}} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		wantSound(t, b)
		if len(b) > crcBytes { // the mutator won't find a checksum by itself
			body := bytes.Clone(b[:len(b)-crcBytes])
			wantSound(t, seal(body...))
		}
	})
}

func BenchmarkDelta(b *testing.B) {
	for _, changes := range []int{1, 1000, 100_000} {
		ids, leaves := make([]string, changes), make([]Leaf, changes)
		for i := range ids {
			ids[i] = fmt.Sprintf("customer-%08d", i)
			leaves[i] = LeafOf(ids[i], 1, contentHash("a"))
		}
		var set Set
		b.Run(fmt.Sprintf("build and encode/%d", changes), func(b *testing.B) {
			b.ReportAllocs()
			var delta Delta
			var buf []byte
			for b.Loop() {
				delta.Reset()
				for i, id := range ids {
					delta.Add(id, leaves[i])
				}
				buf = delta.AppendBinary(buf[:0])
			}
			b.ReportMetric(float64(len(buf)), "bytes")
		})
		var delta Delta
		for i, id := range ids {
			delta.Add(id, leaves[i])
		}
		encoded := delta.AppendBinary(nil)
		b.Run(fmt.Sprintf("apply/%d", changes), func(b *testing.B) {
			for b.Loop() {
				if err := set.Apply(encoded); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkSetEncoding(b *testing.B) {
	var set Set
	for i := range 100_000 {
		id := fmt.Sprint(i)
		set.Add(id, LeafOf(id, 1, contentHash(id)))
	}
	encoded := set.AppendBinary(nil)
	b.Run("encode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			encoded = set.AppendBinary(encoded[:0])
		}
	})
	b.Run("decode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := Decode(encoded); err != nil {
				b.Fatal(err)
			}
		}
	})
}
