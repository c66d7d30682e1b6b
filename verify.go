package syncengine

// verify.go compares L2 with L3, branch by branch, then leaf by leaf where branches differ,
// and then asks both tiers about the ids that are left: rows written meanwhile are no
// differences.

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/syncengine-go/syncengine/internal/digest"
)

const (
	verifyPage = 1000
	// verifyTime bounds one pass over a whole tier; each of its steps has the tier's timeout.
	verifyTime = time.Hour
)

// Verify compares L2 with L3 and, with Repair, fixes exactly the ids that differ. Without an
// L2 and without Deep it is a *ConfigError. L3 answers from its digest, and Redis computes its
// own, so little is read however much they hold; of stores of the caller's own, everything
// is. It may take as long as Redis needs to look at all its values; ctx bounds it.
func (e *Engine) Verify(ctx context.Context, opts VerifyOptions) (report VerifyReport, err error) {
	if err := e.door.Enter(); err != nil {
		return VerifyReport{}, err
	}
	defer e.door.Exit(ctx, &err)
	if e.l2 == nil && !opts.Deep {
		return VerifyReport{}, &ConfigError{Field: "RedisURL", Value: `""`, Rule: "Verify compares L2 with L3: it needs an L2"}
	}
	start := time.Now()
	r, err := e.verify(ctx, opts, false)
	e.news.Verified(&r, time.Since(start), err, false)
	return r, err
}

func (e *Engine) verify(ctx context.Context, opts VerifyOptions, background bool) (VerifyReport, error) {
	v := &verification{e: e, background: background, r: VerifyReport{Branches: digest.Branches}}
	if opts.Deep {
		if err := v.deep(ctx, opts.Repair); err != nil {
			return v.r, err
		}
	}
	if e.l2 != nil {
		if err := v.compare(ctx); err != nil {
			return v.r, err
		}
		if opts.Repair {
			if err := v.repair(ctx); err != nil {
				return v.r, err
			}
		}
	}
	v.r.InSync = len(v.r.Divergent) == 0 && len(v.r.Corrupt) == 0 && v.r.WrongBranches == 0
	return v.r, nil
}

// verification is one run.
type verification struct {
	e          *Engine
	r          VerifyReport
	all2, all3 []Meta // what stores without a digest hold
	unreadable []string
	// Of the divergent ids, those that L2 does not hold, those of which it holds something
	// lower than L3, and those whose copies have to go before L3's can be put there.
	missing, behind, ahead []string
	background             bool // nobody asked for it: a cache that is full decides itself what it holds
}

// compare finds the ids that differ.
func (v *verification) compare(ctx context.Context) error {
	set3, err := v.digest3(ctx)
	if err != nil {
		return err
	}
	set2, err := v.digest2(ctx)
	if err != nil {
		return err
	}
	v.r.RootL2, v.r.RootL3 = set2.Root(), set3.Root()
	branches := set3.Diff(set2)
	v.r.DivergentBranches = len(branches)
	suspects := v.unreadable
	if len(branches) > 0 {
		leaves3, err := v.leaves3(ctx, branches)
		if err != nil {
			return err
		}
		leaves2, err := v.leaves2(ctx, branches)
		if err != nil {
			return err
		}
		suspects = append(v.unreadable, differing(leaves2, leaves3)...)
	}
	slices.Sort(suspects)
	return v.confirm(ctx, slices.Compact(suspects))
}

// digest3 returns the digest of L3.
func (v *verification) digest3(ctx context.Context) (set *digest.Set, err error) {
	if d := v.e.digest3; d != nil {
		err = v.e.call3(ctx, "digest", true, func(ctx context.Context) (err error) {
			set, err = d.Digest(ctx)
			return err
		})
		return set, err
	}
	set = new(digest.Set)
	v.all3 = nil
	err = scanL3(ctx, v.e.scanPage, func(rows []Meta) error {
		for i := range rows {
			if addToDigest(set, &rows[i]); !rows[i].Deleted {
				v.all3 = append(v.all3, rows[i])
			}
		}
		return nil
	})
	return set, err
}

func (v *verification) leaves3(ctx context.Context, branches []int) (out []Meta, err error) {
	d := v.e.digest3
	if d == nil {
		return inBranches(v.all3, branches), nil
	}
	for after, first := "", true; first || after != ""; first = false {
		err := v.e.call3(ctx, "leaves", true, func(ctx context.Context) error {
			leaves, last, err := d.Leaves(ctx, branches, after)
			if err == nil {
				out, after = append(out, leaves...), last
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// digest2 returns the digest of L2 and notes the ids whose values can't be read.
func (v *verification) digest2(ctx context.Context) (set *digest.Set, err error) {
	if d := v.e.digest2; d != nil {
		err = v.e.pass2(ctx, "digest", func(ctx context.Context) (err error) {
			set, v.unreadable, err = d.Digest(ctx, v.e.cfg.L2Timeout)
			return err
		})
		return set, err
	}
	if err = v.list2(ctx); err != nil {
		return nil, err
	}
	set = new(digest.Set)
	for i := range v.all2 {
		addToDigest(set, &v.all2[i])
	}
	return set, nil
}

func (v *verification) leaves2(ctx context.Context, branches []int) (out []Meta, err error) {
	d := v.e.digest2
	if d == nil {
		return inBranches(v.all2, branches), nil
	}
	err = v.e.pass2(ctx, "leaves", func(ctx context.Context) (err error) {
		var unreadable []string
		out, unreadable, err = d.Leaves(ctx, v.e.cfg.L2Timeout, branches)
		v.unreadable = append(v.unreadable, unreadable...)
		return err
	})
	return slices.DeleteFunc(out, func(m Meta) bool { return m.Deleted }), err
}

// list2 reads all of an L2 that has no digest.
func (v *verification) list2(ctx context.Context) error {
	v.all2, v.unreadable = nil, nil
	seen := make(map[string]struct{})
	return v.e.pass2(ctx, "scan", func(ctx context.Context) error {
		// A store that hangs is left when it delivers nothing for L2Timeout.
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		idle := time.AfterFunc(v.e.cfg.L2Timeout, func() { cancel(context.DeadlineExceeded) })
		defer idle.Stop()
		err := v.e.l2.Scan(ctx, func(ids []string) error {
			idle.Stop()
			defer idle.Reset(v.e.cfg.L2Timeout)
			ids = slices.DeleteFunc(slices.Clone(ids), func(id string) bool {
				_, twice := seen[id]
				seen[id] = struct{}{}
				return twice
			})
			found, err := v.fromL2(ctx, ids)
			if err != nil {
				return err
			}
			for i := range found {
				switch f := &found[i]; {
				case f.Err != nil:
					v.unreadable = append(v.unreadable, ids[i])
				case f.OK && !f.Record.Deleted:
					v.all2 = append(v.all2, f.Record.meta())
				}
			}
			return nil
		})
		if err != nil && context.Cause(ctx) == context.DeadlineExceeded {
			return context.DeadlineExceeded
		}
		return err
	})
}

// differing returns the ids of which the two lists hold something else. An id may be twice in
// one of them.
func differing(a, b []Meta) (ids []string) {
	in := make(map[string]Meta, len(b))
	for _, m := range b {
		in[m.ID] = m
	}
	for _, m := range a {
		if other, ok := in[m.ID]; !ok || other != m {
			ids = append(ids, m.ID)
		}
	}
	clear(in)
	for _, m := range a {
		in[m.ID] = m
	}
	for _, m := range b {
		if _, ok := in[m.ID]; !ok {
			ids = append(ids, m.ID)
		}
	}
	return ids
}

// confirm asks both tiers about the suspects: rows written between the two looks are no
// differences, nor are ids that wait to be written.
func (v *verification) confirm(ctx context.Context, suspects []string) error {
	for ids := range slices.Chunk(suspects, verifyPage) {
		var rows []Meta
		err := v.e.call3(ctx, "heads", true, func(ctx context.Context) (err error) {
			rows, err = v.e.l3.Heads(ctx, ids)
			return err
		})
		if err != nil {
			return err
		}
		heads := make(map[string]Meta, len(rows))
		for _, m := range rows {
			heads[m.ID] = m
		}
		found, err := v.fromL2(ctx, ids)
		if err != nil {
			return err
		}
		for i, id := range ids {
			row, ok := heads[id]
			row.Deleted = row.Deleted || !ok
			if agree(&row, &found[i]) || v.e.isPending(id) {
				continue
			}
			v.r.Divergent = append(v.r.Divergent, id)
			switch f := &found[i]; {
			case f.Err == nil && !f.OK:
				v.missing = append(v.missing, id)
			case f.Err == nil && below(&f.Record, &row):
				v.behind = append(v.behind, id)
			default:
				v.ahead = append(v.ahead, id)
			}
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

// below reports whether a Put of the row would replace what L2 holds.
func below(r *Record, row *Meta) bool {
	head := row.record()
	return r.Compare(&head) < 0
}

// fromL2 reads ids from L2, fewer at a time when the values are so large that L2 needs too
// long for many.
func (v *verification) fromL2(ctx context.Context, ids []string) (found []Found, err error) {
	err = v.e.call2(ctx, "get_many", func(ctx context.Context) (err error) {
		found, err = v.e.l2.GetMany(ctx, ids)
		return err
	})
	if err == nil || len(ids) < 2 || ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) {
		return found, err
	}
	first, err := v.fromL2(ctx, ids[:len(ids)/2])
	if err != nil {
		return nil, err
	}
	second, err := v.fromL2(ctx, ids[len(ids)/2:])
	return append(first, second...), err
}

// repair makes L2 hold what L3 holds of the ids that differ. In the background it does not fill
// a cache that would drop something else for it, perhaps what is read most; reads will bring
// back what is worth it.
func (v *verification) repair(ctx context.Context) error {
	for _, part := range []struct {
		ids   []string
		fix   func(context.Context, []string) error
		fills bool
	}{{v.ahead, v.e.repairIDs, false}, {v.behind, v.e.copyToL2, false}, {v.missing, v.e.copyToL2, true}} {
		for ids := range slices.Chunk(part.ids, repairBatch) {
			if d := v.e.digest2; d != nil && part.fills && v.background {
				if full, err := d.Evicts(ctx, v.e.cfg.L2Timeout); full || err != nil {
					return err
				}
			}
			if err := part.fix(ctx, ids); err != nil {
				return err
			}
			v.r.Repaired += len(ids)
		}
	}
	return nil
}

// deep reads all of L3 and recomputes what is stored about it. Rows are healed before the
// digest is corrected, for it may be the rows that are wrong; then all is read once more.
func (v *verification) deep(ctx context.Context, repair bool) error {
	d := v.e.digest3
	if d == nil {
		return &ConfigError{Field: "L3", Value: "(set)", Rule: "Verify with Deep needs a store of this package"}
	}
	recount := func(fix bool, bad func(error)) error {
		return v.e.pass3(ctx, "recount", func(ctx context.Context) (err error) {
			v.r.WrongBranches, err = d.Recount(ctx, fix, bad)
			return err
		})
	}
	err := recount(false, func(err error) {
		if ce, ok := errors.AsType[*CorruptionError](err); ok {
			v.r.Corrupt = append(v.r.Corrupt, ce.ID)
			v.e.news.Corrupted(ce)
		}
	})
	if err != nil || !repair {
		return err
	}
	for _, id := range v.r.Corrupt {
		if v.e.healL3(ctx, id) != nil {
			v.r.Healed++
		}
	}
	if v.r.WrongBranches == 0 && v.r.Healed == 0 {
		return nil
	}
	return recount(true, func(error) {})
}

func (e *Engine) scanPage(ctx context.Context, after string) (rows []Meta, err error) {
	err = e.call3(ctx, "scan", true, func(ctx context.Context) (err error) {
		rows, err = e.l3.Scan(ctx, after, verifyPage)
		return err
	})
	return rows, err
}

// isPending reports whether an op of id waits for L3.
func (e *Engine) isPending(id string) bool {
	if ent, ok := e.l1.Peek(id); ok && ent.pinned() {
		return true
	}
	_, spooled := e.wal.Spooled(e.l1.Hash(id))
	return spooled
}

// MerkleRoot returns the digest of the live items of L3: SHA-256 over the branches, each
// the XOR of the leaves of its items and their count (internal/digest). Equal contents have
// equal roots, whoever wrote them in whatever order. It is that of one moment, and reading it
// costs the same however many items there are; only an L3 of the caller's own is read whole.
// XOR detects accidents, not an adversary who picks contents.
func (e *Engine) MerkleRoot(ctx context.Context) (root [32]byte, err error) {
	if err := e.door.Enter(); err != nil {
		return [32]byte{}, err
	}
	defer e.door.Exit(ctx, &err)
	v := &verification{e: e}
	set, err := v.digest3(ctx)
	if err != nil {
		return [32]byte{}, unavailableUnless(ctx, err)
	}
	return set.Root(), nil
}

// unavailableUnless marks err as an outage unless the caller left, or it says what is wrong.
func unavailableUnless(ctx context.Context, err error) error {
	if ctx.Err() != nil || errors.Is(err, ErrUnavailable) || errors.Is(err, ErrCorruption) {
		return err
	}
	return unavailable("syncengine", err)
}
