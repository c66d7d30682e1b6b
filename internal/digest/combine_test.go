package digest

import (
	"testing"

	"pgregory.net/rapid"
)

// A correction applied to what it was made for gives the other, whatever the two are.
func TestBetweenLeadsFromOneSetToAnother(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var from, to, common Set
		for _, s := range []*Set{&from, &to, &common} {
			for _, id := range rapid.SliceOfN(rapid.StringN(1, 20, -1), 0, 50).Draw(t, "ids") {
				s.Add(id, LeafOf(id, rapid.Uint64().Draw(t, "version"), contentHash(id)))
			}
		}
		from.Merge(&common)
		to.Merge(&common)
		d, n := Between(&from, &to)
		if n != len(from.Diff(&to)) {
			t.Fatalf("%d branches, want %d", n, len(from.Diff(&to)))
		}
		if err := from.Apply(d.AppendBinary(nil)); err != nil || from.Root() != to.Root() {
			t.Fatalf("not the other set: %v", err)
		}
	})
}
