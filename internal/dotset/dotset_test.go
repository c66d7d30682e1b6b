package dotset

import (
	"bytes"
	"math"
	"testing"

	"pgregory.net/rapid"
)

// TestASetIsThatOfAMap: whatever is added and settled, and written and read in between.
func TestASetIsThatOfAMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const most = 20
		s, err := Parse(nil)
		if err != nil {
			t.Fatal(err)
		}
		nodes := []string{"a", "b"}
		want := map[string]map[uint64]bool{}
		for range rapid.IntRange(0, 40).Draw(t, "steps") {
			node, n := rapid.SampledFrom(nodes).Draw(t, "node"), rapid.Uint64Range(1, most).Draw(t, "n")
			switch rapid.IntRange(0, 4).Draw(t, "step") {
			case 0:
				s.Settle(map[string]uint64{node: n})
				for i := uint64(1); want[node] != nil && i <= n; i++ {
					want[node][i] = true
				}
			case 1:
				b := s.Append(nil)
				if s, err = Parse(b); err != nil {
					t.Fatal(err)
				}
				if again := s.Append(nil); !bytes.Equal(again, b) {
					t.Fatalf("%x, then %x", b, again)
				}
			default:
				s.Add(node, n)
				if want[node] == nil {
					want[node] = map[uint64]bool{}
				}
				want[node][n] = true
			}
			for _, node := range nodes {
				above := false
				for n := uint64(most); n >= 1; n-- {
					if s.Has(node, n) != want[node][n] || s.HasAbove(node, n) != above {
						t.Fatalf("%s %d: Has %v, HasAbove %v; want %v, %v", node, n, s.Has(node, n), s.HasAbove(node, n), want[node][n], above)
					}
					above = above || want[node][n]
				}
			}
		}
	})
}

func TestTheLargestNumbersAreKept(t *testing.T) {
	s, _ := Parse(nil)
	s.Add("n", math.MaxUint64)
	s.Settle(map[string]uint64{"n": math.MaxUint64 - 1})
	s, err := Parse(s.Append(nil))
	if err != nil || !s.Has("n", math.MaxUint64) || s.HasAbove("n", math.MaxUint64) || !s.HasAbove("n", 1) {
		t.Fatal(s, err)
	}
	s.Settle(map[string]uint64{"n": math.MaxUint64})
	if b := s.Append(nil); !bytes.Equal(b, append([]byte("\x01n"), 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 0)) {
		t.Errorf("%x", b)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("\x01n\x05\x02\x01\x01"))
	f.Add([]byte("\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"))
	f.Add([]byte("\x01n\x00\xff\xff\xff\x7f"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := Parse(b)
		if err != nil {
			return
		}
		once := s.Append(nil)
		s, err = Parse(once)
		if err != nil || !bytes.Equal(s.Append(nil), once) {
			t.Errorf("%x, %v", once, err)
		}
	})
}
