package syncengine

// merkle.go knows the digests of what a tier holds: internal/digest in the engine's words.
// A digest is over the live items: a tombstone and no row are the same.
//
// A store of ours knows its digest: L3 keeps it in the transactions of its rows
// (l3digest.go), Redis computes it from the values themselves (l2digest.go), so that it is
// never right by mistake after an eviction or a FLUSHALL. A store of the caller's is listed.
//
// XOR digests detect accidents, not an adversary who picks contents.

import (
	"context"

	"github.com/syncengine-go/syncengine/internal/digest"
)

// addToDigest adds a live row to a digest.
func addToDigest(set *digest.Set, m *Meta) {
	if !m.Deleted {
		set.Add(m.ID, digest.LeafOf(m.ID, m.Version, m.ContentHash))
	}
}

// inBranches returns those of the rows that belong to the branches.
func inBranches(rows []Meta, branches []int) (out []Meta) {
	var want [digest.Branches]bool
	for _, b := range branches {
		want[b] = true
	}
	for _, m := range rows {
		if want[digest.Branch(m.ID)] {
			out = append(out, m)
		}
	}
	return out
}

// scanL3 calls fn with all rows of L3 in pages, in order of id.
func scanL3(ctx context.Context, page func(ctx context.Context, after string) ([]Meta, error), fn func([]Meta) error) error {
	for after := ""; ; {
		rows, err := page(ctx, after)
		if err != nil || len(rows) == 0 {
			return err
		}
		if err := fn(rows); err != nil {
			return err
		}
		after = rows[len(rows)-1].ID
	}
}
