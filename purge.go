package syncengine

// purge.go makes room where items have expired (expiry.go): in L1, and in L3 by a delete of the
// version that is there. Readers don't need it.

import (
	"context"
	"slices"
	"strings"
)

const purgeBatch = 1000 // rows that one transaction purges

// expireMost is how many batches one turn purges: others of the loop wait meanwhile.
const expireMost = 20

// Expire purges what has expired from L3, and drops it from L1. more tells that there is still some
// in L3. Other engines may do the same. Nothing is purged before this engine has joined the others:
// until then its time may be that of a host whose clock is wrong.
func (r *repair) Expire(ctx context.Context) (more bool, err error) {
	r.l1.DropExpired(r.now)
	if !r.archive.Expires() || !r.archive.Ready() || r.archive.Down() || !r.trust.Joined() {
		return false, nil
	}
	for range expireMost {
		n, err := r.expireBatch(ctx)
		if err != nil || n < purgeBatch {
			return false, err
		}
	}
	return true, nil
}

// Stats sets this department's part.
func (r *repair) Stats(s *Stats) { s.Expired = r.expired.Load() }

// expireBatch purges one batch, and returns how many rows were due.
func (r *repair) expireBatch(ctx context.Context) (due int, err error) {
	rows, err := r.archive.Expired(ctx, r.now(), purgeBatch)
	if err != nil {
		return 0, err
	}
	recs := make([]Record, 0, len(rows))
	for i := range rows {
		m := &rows[i]
		rec := Record{Item: Item{ID: m.ID, Version: m.Version, ExpiresAt: m.ExpiresAt}}
		if rec.lapse(r.now); rec.Deleted && !m.Deleted && rec.Version != 0 { // else it can't be read
			rec.ExpiresAt = m.ExpiresAt // see redisStore.lifetime
			recs = append(recs, rec)
		}
	}
	if len(recs) == 0 {
		return 0, nil
	}
	slices.SortFunc(recs, func(a, b Record) int { return strings.Compare(a.ID, b.ID) })
	above, _, err := r.trust.Apply(ctx, recs)
	if err != nil {
		return 0, err
	}
	if len(above) > 0 { // written meanwhile
		newer := make(map[string]bool, len(above))
		for i := range above {
			newer[above[i].ID] = true
		}
		recs = slices.DeleteFunc(recs, func(rec Record) bool { return newer[rec.ID] })
	}
	if len(recs) > 0 {
		r.cache.Write(ctx, recs)
	}
	r.expired.Add(uint64(len(recs)))
	return len(rows), nil
}
