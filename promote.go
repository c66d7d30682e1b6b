package syncengine

// promote.go writes copies that were read from L3 to L2, in a loop of its own, so that no read
// waits for it, and replaces values of L2 that can't be read.

import "context"

const (
	promoteRoom  = 1024    // copies waiting for L2; more are dropped, they are only copies
	promoteBytes = 4 << 20 // of them
)

// promotion is a copy on its way to L2, or an id whose copy there is corrupt.
type promotion struct {
	Rec   Record
	Stamp stamp // of the id before rec was read
	Heal  string
}

// Promote never waits. What L2 is too slow for, or what would take too much memory, is
// dropped: the next read of the id tries again.
func (r *repair) Promote(p promotion) {
	size := int64(len(p.Rec.Content)) + entryOverhead
	if held := r.promoting.Add(size); held > promoteBytes && held > size {
		r.promoting.Add(-size)
		return
	}
	select {
	case r.promotes <- p:
	default:
		r.promoting.Add(-size)
	}
}

// Run is the loop that writes copies to L2.
func (r *repair) Run(ctx context.Context) {
	for {
		select {
		case p := <-r.promotes:
			r.promoteBatch(ctx, p)
		case <-ctx.Done():
			return
		}
	}
}

func (r *repair) promoteBatch(ctx context.Context, p promotion) {
	var recs []Record
	var stamps []stamp
	var heal []string
	for more := true; more; {
		r.promoting.Add(-int64(len(p.Rec.Content)) - entryOverhead)
		if p.Heal != "" {
			heal = append(heal, p.Heal)
		} else if !r.l1.Written(p.Rec.ID, p.Stamp) && (p.Rec.Deleted || hashOf(p.Rec.Content) == p.Rec.ContentHash) { // readers share it
			recs, stamps = append(recs, p.Rec), append(stamps, p.Stamp)
		}
		select {
		case p = <-r.promotes:
			more = true
		default:
			more = false
		}
	}
	// Errors are no concern of anybody: a copy that does not arrive is a miss. A write that
	// L2 misses is remembered elsewhere.
	_ = r.cache.Promote(ctx, recs)
	// An id that was written meanwhile is in L2 in its new version, unless L2 has forgotten it.
	var late []Record
	for i := range recs {
		if r.l1.Written(recs[i].ID, stamps[i]) {
			late = append(late, Record{Item: Item{ID: recs[i].ID}})
		}
	}
	if len(late) > 0 {
		r.cache.Miss(ctx, late)
	}
	if len(heal) > 0 && r.Replace(ctx, heal) == nil {
		for _, id := range heal {
			r.news.Healed(id, "L2")
		}
	}
}
