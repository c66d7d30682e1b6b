package syncengine

// merkle.go computes digests of what a tier holds: internal/digest in the engine's words.
// A digest is over the live items: a tombstone and no row are the same.
//
// XOR digests detect accidents, not an adversary who picks contents.

import (
	"context"

	"github.com/syncengine-go/syncengine/internal/digest"
)

// digestOf adds a live row to a digest.
func addToDigest(set *digest.Set, m *Meta) {
	if !m.Deleted {
		set.Add(m.ID, digest.LeafOf(m.ID, m.Version, m.ContentHash))
	}
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
