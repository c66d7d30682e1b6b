//go:build crdt

package syncenginetest

import (
	"context"
	"strings"
	"testing"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
)

// brokenMerging is a MergingStore but for what is set.
type brokenMerging struct {
	syncengine.MergingStore
	recs   func(recs []rec) []rec // that are applied
	above  func([]meta) []meta
	merged func([]rec) []rec
	row    func(r *rec)      // as Get and ApplyMerges return it
	keeps  func(r *rec) bool // of a unit
}

func (b *brokenMerging) Get(ctx context.Context, id string) (rec, error) {
	r, err := b.MergingStore.Get(ctx, id)
	if b.row != nil && err == nil {
		b.row(&r)
	}
	return r, err
}

func (b *brokenMerging) ApplyMerges(ctx context.Context, recs []rec) ([]meta, []rec, error) {
	if b.recs != nil {
		recs = b.recs(append([]rec(nil), recs...))
	}
	above, merged, err := b.MergingStore.ApplyMerges(ctx, recs)
	if b.above != nil {
		above = b.above(above)
	}
	if b.merged != nil {
		merged = b.merged(merged)
	}
	for i := range merged {
		if b.row != nil {
			b.row(&merged[i])
		}
	}
	return above, merged, err
}

func (b *brokenMerging) ApplyIf(ctx context.Context, nonce uint64, units [][]syncengine.Conditional) ([]syncengine.Verdict, error) {
	if b.keeps == nil {
		return b.MergingStore.ApplyIf(ctx, nonce, units)
	}
	var kept [][]syncengine.Conditional
	for _, unit := range units {
		var one []syncengine.Conditional
		for i := range unit {
			if b.keeps(&unit[i].Record) {
				one = append(one, unit[i])
			}
		}
		kept = append(kept, one)
	}
	return b.MergingStore.ApplyIf(ctx, nonce, kept)
}

// rekeyed changes the keys of merges.
func rekeyed(recs []rec, change func(k *syncengine.MergeKey)) []rec {
	for i := range recs {
		if k, err := syncengine.ParseMergeKey(recs[i].ID); err == nil {
			change(&k)
			recs[i].ID = k.String()
		}
	}
	return recs
}

var brokenMergings = []struct {
	name, says string
	breaks     func(b *brokenMerging)
}{
	{"nothing is wrong", "", func(*brokenMerging) {}},
	{"merged is empty", "it has what the items hold that a merge of recs is about", func(b *brokenMerging) {
		b.merged = func([]rec) []rec { return nil }
	}},
	{"merged has no content", "merged is what the items hold", func(b *brokenMerging) {
		b.merged = func(recs []rec) []rec {
			for i := range recs {
				recs[i].Content = nil
			}
			return recs
		}
	}},
	{"merges are counted again", "a merge that was applied before changes nothing", func(b *brokenMerging) {
		again := uint64(1000)
		b.recs = func(recs []rec) []rec {
			again += 1000
			return rekeyed(recs, func(k *syncengine.MergeKey) { k.Seq += again })
		}
	}},
	{"above has ids of items", "above has the rows that stay, and of merges their item's tombstone, under the key of the merge", func(b *brokenMerging) {
		b.above = func(above []meta) []meta {
			for i := range above {
				above[i].ID, _, _ = strings.Cut(above[i].ID, "\x00")
			}
			return above
		}
	}},
	{"above is empty", "above has the rows that stay", func(b *brokenMerging) {
		b.above = func([]meta) []meta { return nil }
	}},
	{"an item has one version for ever", "its version is above the one before", func(b *brokenMerging) {
		b.row = func(r *rec) {
			if r.CRDT != "" {
				r.Version = 78
			}
		}
	}},
	{"rows have versions of views", "its version is even", func(b *brokenMerging) {
		b.row = func(r *rec) {
			if r.CRDT != "" {
				r.Version++
			}
		}
	}},
	{"a delta that was seen is counted", "a delta changes no state whose clock has its number", func(b *brokenMerging) {
		b.recs = func(recs []rec) []rec {
			return rekeyed(recs, func(k *syncengine.MergeKey) {
				if k.Delta {
					k.Node += "2"
				}
			})
		}
	}},
	{"other kinds are dropped", "is refused", func(b *brokenMerging) {
		b.recs = func(recs []rec) (out []rec) {
			for _, r := range recs {
				if k, err := syncengine.ParseMergeKey(r.ID); err == nil {
					row, err := b.MergingStore.Get(bg, k.ID)
					if err == nil && !row.Deleted && row.CRDT != r.CRDT {
						continue
					}
				}
				out = append(out, r)
			}
			return out
		}
	}},
	{"ApplyIf leaves merges out", "a unit is stored as a whole or not at all", func(b *brokenMerging) {
		b.keeps = func(r *rec) bool { return !strings.Contains(r.ID, "\x00") }
	}},
}

func init() {
	brokenStores["merging"] = func(t *testing.T, name string) {
		for _, c := range brokenMergings {
			if c.name == name {
				TestArchiveStore(t, func(t *testing.T) syncengine.ArchiveStore {
					b := &brokenMerging{MergingStore: lab.UnpreparedAt(t, "sqlite:"+t.TempDir()+"/archive.db").(syncengine.MergingStore)}
					c.breaks(b)
					return b
				})
			}
		}
	}
}

func TestTheSuitesNameTheRuleOfMergesThatIsBroken(t *testing.T) {
	for _, c := range brokenMergings {
		runBroken(t, "merging", c.name, c.says, "(merge|delta|tombstone_that|model)")
	}
}
