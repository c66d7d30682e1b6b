package syncengine

// repair.go makes the tiers agree: L2 with L3, which is the truth (here); a corrupt row of L3 with
// a good copy (heal.go); L2 with what reads have found in L3 (promote.go); and all of them with the
// time, when items expire (purge.go).

import (
	"context"
	"slices"
	"sync/atomic"
	"time"
)

// repair is that department.
type repair struct {
	l1      *l1
	cache   *cache
	archive *archive
	trust   *trust
	bad     *quarantine
	news    *news
	now     func() time.Time // of L3, see fleettime.go

	promotes  chan promotion
	promoting atomic.Int64 // bytes in promotes
	expired   atomic.Uint64
}

func newRepair(mem *l1, c *cache, a *archive, t *trust, bad *quarantine, news *news) *repair {
	return &repair{l1: mem, cache: c, archive: a, trust: t, bad: bad, news: news, now: t.Time().L3, promotes: make(chan promotion, promoteRoom)}
}

// Replace makes L2 hold what L3 holds of ids, also where L2 is ahead or holds garbage: L3 is
// the truth. The copies in L2 go before L3 is read, or a write that lands in between would be
// undone. Those of corrupt rows stay: perhaps they are the only good ones left.
func (r *repair) Replace(ctx context.Context, ids []string) error {
	found, err := r.archive.GetManyOnce(ctx, ids)
	if err != nil {
		return err
	}
	sound := make([]string, 0, len(ids))
	for i := range found {
		if found[i].Err != nil {
			if _, err := r.HealedOr(ctx, ids[i], found[i].Err); err != nil {
				continue
			}
		}
		sound = append(sound, ids[i])
	}
	if err := r.cache.Remove(ctx, sound); err != nil {
		return err
	}
	return r.copy(ctx, sound, true)
}

// Copy makes L2 hold what L3 holds of ids, unless L2 holds something higher.
func (r *repair) Copy(ctx context.Context, ids []string) error { return r.copy(ctx, ids, false) }

// copy is Copy. lower tells that L3 may have gone back: copies in memory above it go, too.
func (r *repair) copy(ctx context.Context, ids []string, lower bool) error {
	found, err := r.archive.GetManyOnce(ctx, ids)
	if err != nil {
		return err
	}
	var recs []Record
	var gone []string
	for i := range found {
		r.refresh(ids[i], &found[i], lower)
		switch f := &found[i]; {
		case f.OK && !f.Record.expired(r.now):
			recs = append(recs, f.Record)
		case f.Err == nil:
			gone = append(gone, ids[i])
		}
	}
	if err := r.cache.Remove(ctx, gone); err != nil || len(recs) == 0 {
		return err
	}
	return r.cache.Repair(ctx, recs)
}

// refresh drops a copy in memory that is not what L3 holds, unless it waits for L3: it may have
// come from the L2 that is repaired.
func (r *repair) refresh(id string, f *Found, lower bool) {
	ent, ok := r.l1.Peek(id)
	if !ok || f.Err != nil {
		return
	}
	was := ent.record()
	if c := was.Compare(&f.Record); f.OK && (c < 0 || c > 0 && lower) || !f.OK && lower {
		r.l1.Drop(ent)
	}
}

// Outranked is told of ops that lost to something higher in L3. Whoever wrote that may not
// have brought it to L2 yet, and what L2 still holds may be older than these ops, which are
// about to be acknowledged.
func (r *repair) Outranked(ctx context.Context, recs []Record) {
	if !r.cache.On() {
		return
	}
	ids, recs := make([]string, len(recs)), slices.Clone(recs)
	for i := range recs {
		ids[i] = itemOf(recs[i].ID)
		recs[i].ID = ids[i]
	}
	if r.Copy(ctx, ids) != nil {
		r.cache.Miss(ctx, recs)
	}
}
