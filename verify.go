package syncengine

// verify.go compares L2 with L3.

import (
	"context"
	"errors"

	"github.com/syncengine-go/syncengine/internal/digest"
)

// VerifyOptions of Verify.
type VerifyOptions struct {
	Repair bool // make L2 hold what L3 holds, for the ids that differ
}

// VerifyReport tells what Verify found. Ops that are pending, or that were written while it
// ran, are not differences.
type VerifyReport struct {
	InSync                      bool
	RootL2, RootL3              [32]byte // digests of the live items of each tier
	Branches, DivergentBranches int
	Divergent                   []string // ids whose L2 copy differs from, lacks, or outlives the L3 row
	Repaired                    int
}

const verifyPage = 1000

// Verify compares L2 with L3 and, with Repair, fixes exactly the ids that differ. Without
// an L2 it is an error. It reads both tiers whole, in pages.
func (e *Engine) Verify(ctx context.Context, opts VerifyOptions) (VerifyReport, error) {
	if err := e.enter(); err != nil {
		return VerifyReport{}, err
	}
	defer e.leave()
	if e.l2 == nil {
		return VerifyReport{}, &ConfigError{Field: "RedisURL", Value: `""`, Rule: "Verify compares L2 with L3: it needs an L2"}
	}
	return e.verify(ctx, opts)
}

func (e *Engine) verify(ctx context.Context, opts VerifyOptions) (VerifyReport, error) {
	v := &verification{e: e, seen: make(map[string]struct{})}
	err := scanL3(ctx, e.scanPage, func(rows []Meta) error { return v.page(ctx, rows) })
	if err == nil {
		err = v.leftovers(ctx)
	}
	if err != nil {
		return VerifyReport{}, err
	}
	if err := v.confirm(ctx); err != nil {
		return VerifyReport{}, err
	}
	r := VerifyReport{
		RootL2: v.setL2.Root(), RootL3: v.setL3.Root(), Branches: digest.Branches,
		DivergentBranches: len(v.setL3.Diff(&v.setL2)), Divergent: v.suspects, InSync: len(v.suspects) == 0,
	}
	e.meters.divergent(len(r.Divergent))
	if opts.Repair && len(r.Divergent) > 0 {
		for rest := r.Divergent; len(rest) > 0; {
			n := min(len(rest), repairBatch)
			if err := e.repairIDs(ctx, rest[:n]); err != nil {
				return r, err
			}
			r.Repaired += n
			rest = rest[n:]
		}
	}
	return r, nil
}

// repairIDs makes L2 hold what L3 holds of ids, also where L2 is ahead: L3 is the truth.
func (e *Engine) repairIDs(ctx context.Context, ids []string) error {
	if err := e.call2(ctx, "remove", func(ctx context.Context) error { return e.l2.Remove(ctx, ids) }); err != nil {
		return err
	}
	return e.copyToL2(ctx, ids)
}

func (e *Engine) scanPage(ctx context.Context, after string) (rows []Meta, err error) {
	err = e.call3(ctx, "scan", true, func(ctx context.Context) (err error) {
		rows, err = e.l3.Scan(ctx, after, verifyPage)
		return err
	})
	return rows, err
}

// verification is one run.
type verification struct {
	e            *Engine
	setL2, setL3 digest.Set
	seen         map[string]struct{} // ids of L3, tombstones included
	suspects     []string
}

// page compares a page of L3 rows with L2.
func (v *verification) page(ctx context.Context, rows []Meta) error {
	ids := make([]string, len(rows))
	for i := range rows {
		ids[i] = rows[i].ID
		v.seen[ids[i]] = struct{}{}
		addToDigest(&v.setL3, &rows[i])
	}
	found, err := v.fromL2(ctx, ids)
	if err != nil {
		return err
	}
	for i := range rows {
		if f := &found[i]; f.OK {
			addToDigest(&v.setL2, &Meta{ID: f.Record.ID, Version: f.Record.Version, Deleted: f.Record.Deleted, ContentHash: f.Record.ContentHash})
		}
		if !agree(&rows[i], &found[i]) {
			v.suspects = append(v.suspects, rows[i].ID)
		}
	}
	return nil
}

// agree reports whether L2 holds what L3 does. A tombstone and no copy are the same.
func agree(row *Meta, f *Found) bool {
	switch {
	case f.Err != nil:
		return false
	case row.Deleted:
		return !f.OK || f.Record.Deleted
	}
	return f.OK && !f.Record.Deleted && f.Record.Version == row.Version && f.Record.ContentHash == row.ContentHash
}

func (v *verification) fromL2(ctx context.Context, ids []string) (found []Found, err error) {
	err = v.e.call2(ctx, "get_many", func(ctx context.Context) (err error) {
		found, err = v.e.l2.GetMany(ctx, ids)
		return err
	})
	return found, err
}

// leftovers finds live copies in L2 of ids that L3 does not have.
func (v *verification) leftovers(ctx context.Context) error {
	return v.e.l2.Scan(ctx, func(ids []string) error {
		var extra []string
		for _, id := range ids {
			if _, ok := v.seen[id]; !ok {
				v.seen[id] = struct{}{} // a scan may deliver an id twice
				extra = append(extra, id)
			}
		}
		found, err := v.fromL2(ctx, extra)
		if err != nil {
			return err
		}
		for i := range found {
			if f := &found[i]; f.Err != nil || f.OK && !f.Record.Deleted {
				v.suspects = append(v.suspects, extra[i])
				addToDigest(&v.setL2, &Meta{ID: extra[i], Version: f.Record.Version, ContentHash: f.Record.ContentHash})
			}
		}
		return nil
	})
}

// confirm looks at the suspects again, one by one in both tiers: rows written between the
// two scans are no differences, nor are ids that wait to be written.
func (v *verification) confirm(ctx context.Context) error {
	suspects := v.suspects
	v.suspects = nil
	for len(suspects) > 0 {
		ids := suspects[:min(len(suspects), verifyPage)]
		suspects = suspects[len(ids):]
		var rows []Found
		err := v.e.call3(ctx, "get_many", true, func(ctx context.Context) (err error) {
			rows, err = v.e.l3.GetMany(ctx, ids)
			return err
		})
		if err != nil {
			return err
		}
		found, err := v.fromL2(ctx, ids)
		if err != nil {
			return err
		}
		for i, id := range ids {
			row := Meta{Deleted: true} // no row
			if r := &rows[i]; r.OK {
				row = Meta{Version: r.Record.Version, Deleted: r.Record.Deleted, ContentHash: r.Record.ContentHash}
			} else if r.Err != nil {
				continue // a corrupt row of L3 is not L2's fault
			}
			if !agree(&row, &found[i]) && !v.e.isPending(id) {
				v.suspects = append(v.suspects, id)
			}
		}
	}
	return nil
}

// isPending reports whether an op of id waits for L3.
func (e *Engine) isPending(id string) bool {
	if ent, ok := e.l1.peek(id); ok && ent.pinned() {
		return true
	}
	_, spooled := e.wal.spooledAt(e.l1.hash(id))
	return spooled
}

// MerkleRoot returns the digest of the live items of L3: SHA-256 over the branches, each
// the XOR of the SHA-256 leaves of its items and their count (internal/digest). Equal
// contents have equal roots, whoever wrote them in whatever order. It reads L3 whole, in
// pages, and is not a snapshot while others write. XOR detects accidents, not an adversary
// who picks contents.
func (e *Engine) MerkleRoot(ctx context.Context) ([32]byte, error) {
	if err := e.enter(); err != nil {
		return [32]byte{}, err
	}
	defer e.leave()
	var set digest.Set
	err := scanL3(ctx, e.scanPage, func(rows []Meta) error {
		for i := range rows {
			addToDigest(&set, &rows[i])
		}
		return nil
	})
	if err != nil {
		return [32]byte{}, unavailableUnless(ctx, err)
	}
	return set.Root(), nil
}

// unavailableUnless marks err as an outage unless the caller left.
func unavailableUnless(ctx context.Context, err error) error {
	if ctx.Err() != nil || errors.Is(err, ErrUnavailable) {
		return err
	}
	return unavailable("syncengine", err)
}
