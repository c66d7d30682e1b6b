package digest

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func contentHash(content string) [32]byte { return sha256.Sum256([]byte(content)) }

// The golden values were computed by another program in another language, from the format in the
// package comment. If one of these tests fails, stored digests have become worthless: change the
// code back, not the values.
func TestFormatOfLeavesAndBranchesNeverChanges(t *testing.T) {
	for _, test := range []struct {
		id      string
		version uint64
		content string
		branch  int
		leaf    string
	}{
		{"", 0, "", 1745, "987bc62f821bd7935b1e136e05442074e06dfa07"},
		{"a", 1, `{}`, 1079, "3b7cc368b6a7d6f5a07cd87ea9cb0a5c0d89b2c9"},
		{"user:42", 1 << 62, `{"n":1}`, 1391, "95aea79f0056d61b01ed98225f4ce73985c2fcf2"},
		{"ключ/日本", math.MaxInt64, `[]`, 140, "18f560139f03505d1f1bce351c9fcdc4c8969bec"},
		{strings.Repeat("x", 512), 65536, `null`, 1130, "cf3b34566a4d05112ac225e2ee6828bf3935f0c0"},
		{"\xff{}", 7, `0`, 1844, "387f55e0188f36129f44eacd5ce1fa3c98684915"},
	} {
		if got := Branch(test.id); got != test.branch {
			t.Errorf("%.20q is in branch %d, want %d", test.id, got, test.branch)
		}
		if leaf := LeafOf(test.id, test.version, contentHash(test.content)); hex.EncodeToString(leaf[:]) != test.leaf {
			t.Errorf("%.20q has leaf %x, want %s", test.id, leaf, test.leaf)
		}
	}
}

func TestFormatOfRootsNeverChanges(t *testing.T) {
	var set Set
	if root := set.Root(); hex.EncodeToString(root[:]) != "4063253ee76e2a8724f46ecae9c86fda041513d42df7cc8f76aa68cc0af963ef" {
		t.Errorf("the empty set has root %x", root)
	}
	for i := range 5000 {
		id := fmt.Sprintf("id-%d", i)
		set.Add(id, LeafOf(id, uint64(i)<<16, contentHash(fmt.Sprint(i))))
	}
	if root := set.Root(); hex.EncodeToString(root[:]) != "165404bd6dce134f1330ab33cfd2ab6893902327d7c9fe4b9b6c3b95da48f67d" {
		t.Errorf("5000 rows have root %x", root)
	}
}

func TestLeafDependsOnEveryPartOfARow(t *testing.T) {
	base := LeafOf("id", 1, contentHash("a"))
	if base != LeafOf("id", 1, contentHash("a")) {
		t.Error("equal rows have different leaves")
	}
	others := map[string]Leaf{
		"id":      LeafOf("iD", 1, contentHash("a")),
		"version": LeafOf("id", 2, contentHash("a")),
		"content": LeafOf("id", 1, contentHash("b")),
		"longer":  LeafOf("id0", 1, contentHash("a")),
	}
	for part, leaf := range others {
		if leaf == base {
			t.Errorf("another %s, the same leaf", part)
		}
	}

	// Beyond the space that is kept on the stack.
	long := strings.Repeat("y", 5000)
	if LeafOf(long+"a", 1, contentHash("a")) == LeafOf(long+"b", 1, contentHash("a")) {
		t.Error("the end of a long id isn't in its leaf")
	}
}

// TestBranchesAreEven puts ids as services make them into branches and asks for Pearson's
// chi-squared to be within six standard deviations of that of a random spread.
func TestBranchesAreEven(t *testing.T) {
	const ids = 400_000
	for name, id := range map[string]func(i int) string{
		"decimal":  func(i int) string { return fmt.Sprint(i) },
		"padded":   func(i int) string { return fmt.Sprintf("customer-%012d", i) },
		"hex":      func(i int) string { return fmt.Sprintf("%08x", i*4096) },
		"suffixed": func(i int) string { return fmt.Sprintf("%d/profile/settings.json", i) },
		"binary":   func(i int) string { return string([]byte{byte(i >> 16), 1, byte(i >> 8), 1, byte(i)}) },
	} {
		var counts [Branches]int
		for i := range ids {
			counts[Branch(id(i))]++
		}
		const mean = float64(ids) / Branches
		var chi2 float64
		for _, n := range counts {
			chi2 += (float64(n) - mean) * (float64(n) - mean) / mean
		}
		const freedom = Branches - 1
		if deviations := (chi2 - freedom) / math.Sqrt(2*freedom); math.Abs(deviations) > 6 {
			t.Errorf("%s ids: chi-squared %.0f is %.1f standard deviations from random (fullest branch %d, mean %.0f)",
				name, chi2, deviations, slices.Max(counts[:]), mean)
		}
	}
}

// row is what a Set sums up; rows are a plain map beside it.
type row struct {
	version uint64
	content string
}

func (r row) leaf(id string) Leaf { return LeafOf(id, r.version, contentHash(r.content)) }

// fresh sums up rows in the random order of a map.
func fresh(rows map[string]row) *Set {
	var set Set
	for id, r := range rows {
		set.Add(id, r.leaf(id))
	}
	return &set
}

func drawRow(t *rapid.T) row {
	return row{rapid.Uint64Range(0, 3).Draw(t, "version"), rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "content")}
}

func drawRows(t *rapid.T, name string) map[string]row {
	return rapid.MapOfN(rapid.StringN(0, 3, -1), rapid.Custom(drawRow), 0, 30).Draw(t, name)
}

// TestSetIsThatOfItsRowsHoweverItCameAbout adds, replaces and removes in any order, and compares
// with a fresh set.
func TestSetIsThatOfItsRowsHoweverItCameAbout(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var set Set
		rows := map[string]row{}
		for range rapid.IntRange(0, 60).Draw(t, "writes") {
			id := rapid.StringMatching(`[a-e]{0,2}`).Draw(t, "id")
			next, isPut := drawRow(t), rapid.Bool().Draw(t, "put")
			old, isThere := rows[id]
			switch {
			case isPut && rapid.Bool().Draw(t, "new leaf before the old is out"):
				set.Add(id, next.leaf(id))
				if isThere {
					set.Remove(id, old.leaf(id))
				}
				rows[id] = next
			case isThere:
				set.Remove(id, old.leaf(id))
				delete(rows, id)
				if isPut {
					set.Add(id, next.leaf(id))
					rows[id] = next
				}
			}
		}
		want := fresh(rows)
		if set != *want || set.Root() != want.Root() {
			t.Fatalf("differs from a fresh set of %v in branches %v", rows, set.Diff(want))
		}
		for id, r := range rows {
			set.Remove(id, r.leaf(id))
		}
		if set != (Set{}) {
			t.Fatal("something stays behind when all is removed")
		}
	})
}

func TestDiffNamesExactlyTheChangedBranches(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		left := drawRows(t, "left")
		right := drawRows(t, "right")
		for id, r := range left { // most rows are equal
			if _, ok := right[id]; !ok && rapid.IntRange(0, 3).Draw(t, "differ") > 0 {
				right[id] = r
			}
		}
		branches := map[int]bool{}
		for id, r := range left {
			if other, ok := right[id]; !ok || other != r {
				branches[Branch(id)] = true
			}
		}
		for id := range right {
			if _, ok := left[id]; !ok {
				branches[Branch(id)] = true
			}
		}
		var want []int
		for branch := range branches {
			want = append(want, branch)
		}
		slices.Sort(want)

		a, b := fresh(left), fresh(right)
		if got := a.Diff(b); !slices.Equal(got, want) {
			t.Fatalf("differ in %v, want %v", got, want)
		}
		if got := b.Diff(a); !slices.Equal(got, want) {
			t.Fatalf("the other way round they differ in %v, want %v", got, want)
		}
		if (a.Root() == b.Root()) != (len(want) == 0) {
			t.Fatalf("roots are equal: %v, branches differ: %v", a.Root() == b.Root(), want)
		}
	})
}

// TestChangesMergeInAnyOrder is what writers do: each sums up its own change, which may take out
// more than it puts in.
func TestChangesMergeInAnyOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var whole Sum
		var changes []Sum
		for range rapid.IntRange(1, 10).Draw(t, "writers") {
			changes = append(changes, Sum{})
		}
		writer := rapid.IntRange(0, len(changes)-1)
		for _, id := range rapid.SliceOfDistinct(rapid.String(), rapid.ID[string]).Draw(t, "ids") {
			leaf := LeafOf(id, 1, contentHash("a"))
			changes[writer.Draw(t, "adds")].Add(leaf)
			if rapid.Bool().Draw(t, "stays") {
				whole.Add(leaf)
			} else {
				changes[writer.Draw(t, "removes")].Remove(leaf)
			}
		}
		var merged Sum
		for _, change := range rapid.Permutation(changes).Draw(t, "order") {
			merged.Merge(change)
		}
		if merged != whole {
			t.Fatalf("merged to %d leaves, %x; want %d, %x", merged.Count, merged.Xor, whole.Count, whole.Xor)
		}
	})
}

// TestCountTellsWhatXorCancels: a leaf that is there twice is no leaf to XOR.
func TestCountTellsWhatXorCancels(t *testing.T) {
	leaf := LeafOf("id", 1, contentHash("a"))
	var twice, empty Set
	twice.Add("id", leaf)
	twice.Add("id", leaf)
	if got := twice.Diff(&empty); !slices.Equal(got, []int{Branch("id")}) {
		t.Errorf("differ in %v", got)
	}
	if twice.Root() == empty.Root() {
		t.Error("the count isn't in the root")
	}
}

func TestNothingIsAllocatedForALeaf(t *testing.T) {
	hash := contentHash("a")
	var set Set
	for _, id := range []string{"", "user:42", strings.Repeat("x", 512)} {
		if n := testing.AllocsPerRun(100, func() { set.Add(id, LeafOf(id, math.MaxUint64, hash)) }); n != 0 {
			t.Errorf("%v allocations for an id of %d bytes", n, len(id))
		}
	}
}

func BenchmarkLeafOf(b *testing.B) {
	hash := contentHash("a")
	for _, length := range []int{20, 512} {
		id := strings.Repeat("x", length)
		b.Run(fmt.Sprintf("id%d", length), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				LeafOf(id, 1, hash)
			}
		})
	}
}

func BenchmarkBranch(b *testing.B) {
	id := strings.Repeat("x", 20)
	for b.Loop() {
		Branch(id)
	}
}

func BenchmarkAdd(b *testing.B) {
	var set Set
	leaf := LeafOf("a", 1, contentHash("a"))
	id := strings.Repeat("x", 20)
	for b.Loop() {
		set.Add(id, leaf)
	}
}

func BenchmarkRoot(b *testing.B) {
	var set Set
	b.ReportAllocs()
	for b.Loop() {
		set.Root()
	}
}

func BenchmarkDiff(b *testing.B) {
	var left, right Set
	right.Add("a", LeafOf("a", 1, contentHash("a")))
	for b.Loop() {
		if len(left.Diff(&right)) != 1 {
			b.Fatal("no difference")
		}
	}
}
