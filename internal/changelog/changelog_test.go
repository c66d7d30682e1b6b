package changelog

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func encode(changes []Change) []byte {
	var a Appender
	var b []byte
	for _, c := range changes {
		b = a.Append(b, c)
	}
	return b
}

func decode(b []byte) (out []Change, err error) {
	err = Read(b, func(c Change) bool {
		out = append(out, c)
		return true
	})
	return out, err
}

func TestWhatIsWrittenIsRead(t *testing.T) {
	change := rapid.Custom(func(t *rapid.T) Change {
		return Change{
			Key:     rapid.OneOf(rapid.String(), rapid.StringMatching("item:0{0,3}[0-9]{2}")).Draw(t, "key"),
			Version: rapid.OneOf(rapid.Uint64(), rapid.SampledFrom([]uint64{0, 1, math.MaxInt64, math.MaxUint64})).Draw(t, "version"),
			Flags:   rapid.Uint8Max(1<<FlagBits-1).Draw(t, "flags"),
		}
	})
	rapid.Check(t, func(t *rapid.T) {
		want := rapid.SliceOf(change).Draw(t, "changes")
		b := encode(want)
		got, err := decode(b)
		if err != nil || !slices.Equal(got, want) {
			t.Fatalf("read %v, %v; want %v", got, err, want)
		}
		if n := len(b); n > 0 {
			if got, err := decode(b[:n-1]); err == nil && len(got) >= len(want) {
				t.Fatal("a part of it was read as all")
			}
		}
	})
}

func TestKeysInOrderTakeFewBytes(t *testing.T) {
	var changes []Change
	for n := range 1000 {
		changes = append(changes, Change{Key: fmt.Sprintf("product:%08d", n*7), Version: 1764378000000<<16 + uint64(n)*113})
	}
	if b := encode(changes); len(b) > 9*len(changes) {
		t.Errorf("%d changes take %d bytes", len(changes), len(b))
	}
}

func TestReadingEndsWhenAskedTo(t *testing.T) {
	n := 0
	err := Read(encode([]Change{{Key: "a"}, {Key: "b"}}), func(Change) bool { n++; return false })
	if n != 1 || err != nil {
		t.Errorf("%d calls, %v", n, err)
	}
}

func FuzzRead(f *testing.F) {
	f.Add(encode([]Change{{Key: "a", Version: 1}, {Key: "ab", Version: 3, Flags: 1}}))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01})
	f.Add([]byte{4, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := decode(b)
		if err != nil && !errors.Is(err, ErrMalformed) {
			t.Fatal(err)
		}
		if err != nil {
			return
		}
		again, err := decode(encode(got))
		if err != nil || !slices.Equal(again, got) {
			t.Fatalf("%v is read again as %v, %v", got, again, err)
		}
	})
}
