package syncengine

// ahead.go keeps the ids that L3 holds above the clock (versions.go, INV-16).
//
// L3 may hold an op of an id above the clock: a caller numbered it so, within MaxClockSkew, or it
// was numbered above such a one. When nothing in memory knows it any more the next op of the id
// would lose to it. So these ids are kept with their versions, in the WAL file before the op
// leaves it, until the clock has passed them. They are few; beyond maxAhead the clock itself
// moves on, by MaxClockSkew at most.

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// KeepAhead keeps the versions of records that are above the clock, and forgets those that it has
// passed. It is told before the WAL forgets them, and of what goes to L3 directly before that.
func (n *numbers) KeepAhead(ctx context.Context, recs []Record) error {
	if !anyAbove(recs, n.clock.Last()) {
		return nil
	}
	n.saving.Lock()
	defer n.saving.Unlock()
	now := n.clock.Next() // not the host's clock, which may go back
	if err := n.Within(now); err != nil || !anyAbove(recs, now) {
		return err
	}
	n.mu.Lock()
	next := maps.Clone(n.ahead)
	n.mu.Unlock()
	maps.DeleteFunc(next, func(_ string, v uint64) bool { return v <= now })
	for i := range recs {
		if v := recs[i].Version; v > max(now, next[recs[i].ID]) {
			next[strings.Clone(recs[i].ID)] = v // it may be in an op's own memory
		}
	}
	if len(next) > maxAhead {
		to := slices.Max(slices.Collect(maps.Values(next)))
		if err := n.coverTo(ctx, to); err != nil {
			return err
		}
		n.clock.Raise(to)
		clear(next)
	}
	list := make([]aheadID, 0, len(next))
	for id, v := range next {
		list = append(list, aheadID{[]byte(id), v})
	}
	b, err := json.Marshal(list)
	if err != nil {
		return err
	}
	if err := n.wal.SetMeta(ctx, aheadKey, b); err != nil {
		return err
	}
	n.mu.Lock()
	n.ahead = next
	n.mu.Unlock()
	return nil
}

func anyAbove(recs []Record, version uint64) bool {
	return slices.ContainsFunc(recs, func(r Record) bool { return r.Version > version })
}

// coverTo moves the bound on to a version at least.
func (n *numbers) coverTo(ctx context.Context, to uint64) error {
	n.boundMu.Lock()
	defer n.boundMu.Unlock()
	if n.bound.Load() >= to {
		return nil
	}
	return n.saveBound(ctx, to)
}

// aheadID is an id in the WAL file that L3 holds above the clock.
type aheadID struct {
	ID      []byte `json:"id"`
	Version uint64 `json:"version"`
}

func (n *numbers) loadAhead(ctx context.Context) error {
	b, err := n.wal.Meta(ctx, aheadKey)
	if err != nil || len(b) == 0 {
		return err
	}
	var list []aheadID
	if err := json.Unmarshal(b, &list); err != nil {
		return walError(fmt.Errorf("%w: versions above the clock: %w", errBadPayload, err))
	}
	for _, a := range list {
		n.ahead[string(a.ID)] = a.Version
	}
	return nil
}
