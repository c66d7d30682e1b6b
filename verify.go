package syncengine

// verify.go compares L2 with L3, branch by branch, then leaf by leaf where branches differ,
// and then asks both tiers about the ids that are left: rows written meanwhile are no
// differences.
//
// Two loops: "l2 repair" repairs what L2 missed, "l2 verify" compares all of L2 with L3 now and
// then.

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/syncengine-go/syncengine/internal/digest"
)

const (
	repairBatch = 500
	repairEvery = time.Second
)

// verifier is the department that compares.
type verifier struct {
	cache   *cache
	archive *archive
	queue   *queue
	repair  *repair
	news    *news
	every   time.Duration
	now     func() time.Time // of L3, see fleettime.go
}

func newVerifier(c *cache, a *archive, t *trust, q *queue, r *repair, news *news, every time.Duration) *verifier {
	return &verifier{c, a, q, r, news, every, t.Time().L3}
}

// Verify compares the tiers, and with Repair makes them agree.
func (w *verifier) Verify(ctx context.Context, opts VerifyOptions) (VerifyReport, error) {
	start := time.Now()
	_, all, gen := w.cache.Owed(0)
	r, err := w.verify(ctx, opts, false)
	if err == nil && opts.Repair && all {
		err = w.cache.Paid(ctx, nil, true, gen)
	}
	w.news.Verified(&r, time.Since(start), err, false)
	return r, err
}

func (w *verifier) verify(ctx context.Context, opts VerifyOptions, background bool) (VerifyReport, error) {
	v := &verification{e: w, background: background, r: VerifyReport{Branches: digest.Branches}}
	for more, err := true, error(nil); more && err == nil; { // see expiry.go; if it can't be done, look knows
		more, err = w.repair.Expire(ctx)
	}
	if opts.Deep {
		if err := v.deep(ctx, opts.Repair); err != nil {
			return v.r, err
		}
	}
	if w.cache.On() {
		if err := w.cache.Claim(ctx, w.archive.Identity()); err != nil { // nothing of another database's is removed
			return v.r, err
		}
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

// RunRepair is the loop that brings what L2 missed up to date.
func (w *verifier) RunRepair(ctx context.Context) {
	page := repairBatch // halved while a page takes L2 too long, as with large items
	tick := time.NewTicker(repairEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		w.cache.Look(ctx)
		_ = w.cache.Claim(ctx, w.archive.Identity()) // told there
		for w.cache.Owes() {
			if !w.repairSome(ctx, page) {
				page = max(1, page/2)
				break
			}
			page = min(repairBatch, page*2)
		}
	}
}

// Run is the loop that compares all of L2 with L3: soon after Open, since L2 may have lost
// its data or kept what others' engines missed; after an outage; and on an interval.
func (w *verifier) Run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-w.cache.Back():
		case <-ctx.Done():
			return
		}
		next := w.every
		if !w.archive.Ready() || w.cache.State() != "closed" || w.verifyAndTell(ctx) != nil {
			next = min(next, verifyAgain)
		}
		timer.Reset(next)
	}
}

// verifyAgain is the wait after a verification that failed.
const verifyAgain = 30 * time.Second

// verifyAndTell repairs L2 and tells the user what differed.
func (w *verifier) verifyAndTell(ctx context.Context) error {
	start := time.Now()
	r, err := w.verify(ctx, VerifyOptions{Repair: true}, true)
	w.news.Verified(&r, time.Since(start), err, true)
	return err
}

// repairSome repairs up to page ids and reports whether it succeeded.
func (w *verifier) repairSome(ctx context.Context, page int) bool {
	ids, all, gen := w.cache.Owed(page)
	if !w.archive.Ready() || w.cache.Ping(ctx) != nil {
		return false
	}
	if all {
		return w.verifyAndTell(ctx) == nil && w.cache.Paid(ctx, nil, true, gen) == nil
	}
	if err := w.repair.Copy(ctx, ids); err != nil || len(ids) == 0 {
		return false
	}
	return w.cache.Paid(ctx, ids, false, gen) == nil
}

// verification is one run.
type verification struct {
	e          *verifier
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

func (v *verification) digest3(ctx context.Context) (*digest.Set, error) {
	v.all3 = nil
	return v.e.archive.Digest(ctx, func(m *Meta) { v.all3 = append(v.all3, *m) })
}

func (v *verification) leaves3(ctx context.Context, branches []int) ([]Meta, error) {
	if !v.e.archive.HasDigest() {
		return inBranches(v.all3, branches), nil
	}
	return v.e.archive.Leaves(ctx, branches)
}

// digest2 returns the digest of L2 and notes the ids whose values can't be read.
func (v *verification) digest2(ctx context.Context) (set *digest.Set, err error) {
	if v.e.cache.HasDigest() {
		set, v.unreadable, err = v.e.cache.Digest(ctx)
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

func (v *verification) leaves2(ctx context.Context, branches []int) ([]Meta, error) {
	if !v.e.cache.HasDigest() {
		return inBranches(v.all2, branches), nil
	}
	out, unreadable, err := v.e.cache.Leaves(ctx, branches)
	v.unreadable = append(v.unreadable, unreadable...)
	return slices.DeleteFunc(out, func(m Meta) bool { return m.Deleted }), err
}

// list2 reads all of an L2 that has no digest.
func (v *verification) list2(ctx context.Context) error {
	v.all2, v.unreadable = nil, nil
	seen := make(map[string]struct{})
	return v.e.cache.Scan(ctx, func(ctx context.Context, ids []string) error {
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
			case f.OK && !f.Record.Deleted && !f.Record.expired(v.e.now):
				v.all2 = append(v.all2, f.Record.meta())
			}
		}
		return nil
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
		if other, ok := in[m.ID]; !ok || !other.same(&m) {
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

// difference is an id that the tiers hold different things of.
type difference struct {
	row Meta // of L3
	l2  Found
}

// confirm asks both tiers about the suspects: rows written between the two looks are no
// differences, nor are ids that wait to be written, here or by another engine.
func (v *verification) confirm(ctx context.Context, suspects []string) error {
	for ids := range slices.Chunk(suspects, scanRows) {
		found, err := v.look(ctx, ids)
		if err == nil && len(found) > 0 && !v.e.archive.Private() {
			found, err = v.settled(ctx, found)
		}
		if err != nil {
			return err
		}
		for i := range found {
			d := &found[i]
			v.r.Divergent = append(v.r.Divergent, d.row.ID)
			switch {
			case d.l2.Err == nil && !d.l2.OK:
				v.missing = append(v.missing, d.row.ID)
			case d.l2.Err == nil && below(&d.l2.Record, &d.row):
				v.behind = append(v.behind, d.row.ID)
			default:
				v.ahead = append(v.ahead, d.row.ID)
			}
		}
	}
	return nil
}

// look returns which of ids differ now.
func (v *verification) look(ctx context.Context, ids []string) (out []difference, err error) {
	rows, err := v.e.archive.Heads(ctx, ids)
	if err != nil {
		return nil, err
	}
	heads := make(map[string]Meta, len(rows))
	for _, m := range rows {
		heads[m.ID] = m
	}
	found, err := v.fromL2(ctx, ids)
	if err != nil {
		return nil, err
	}
	for i, id := range ids {
		row, ok := heads[id]
		row.ID, row.Deleted = id, row.Deleted || !ok
		row.lapse(v.e.now)
		found[i].Record.lapse(v.e.now)
		if !agree(&row, &found[i]) && !v.e.queue.Waits(id) {
			out = append(out, difference{row, found[i]})
		}
	}
	return out, nil
}

// Between its commit and its write to L2 another engine's batch is a difference for a moment. Ids
// are looked at again until their rows stand still; one that is written all the time is in order as
// far as anybody can tell.
const (
	settleTries = 6
	settleWait  = 20 * time.Millisecond // doubled each time
)

// settled returns those of differences that are none of a moment.
func (v *verification) settled(ctx context.Context, found []difference) (left []difference, err error) {
	for try := range settleTries {
		if err := sleep(ctx, settleWait<<try); err != nil {
			return nil, err
		}
		rows := make(map[string]Meta, len(found))
		ids := make([]string, len(found))
		for i := range found {
			ids[i] = found[i].row.ID
			rows[ids[i]] = found[i].row
		}
		if found, err = v.look(ctx, ids); err != nil {
			return nil, err
		}
		moving := found[:0]
		for _, d := range found {
			if was := rows[d.row.ID]; d.row.same(&was) && try > 1 { // for 60 ms at least
				left = append(left, d)
			} else {
				moving = append(moving, d)
			}
		}
		if found = moving; len(found) == 0 {
			break
		}
	}
	return left, nil
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
	found, err = v.e.cache.GetMany(ctx, ids)
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
	}{{v.ahead, v.e.repair.Replace, false}, {v.behind, v.e.repair.Copy, false}, {v.missing, v.e.repair.Copy, true}} {
		for ids := range slices.Chunk(part.ids, repairBatch) {
			if part.fills && v.background {
				if full, err := v.e.cache.Evicts(ctx); full || err != nil {
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
	if !v.e.archive.HasDigest() {
		return &ConfigError{Field: "L3", Value: "(set)", Rule: "Verify with Deep needs a store of this package"}
	}
	recount := func(fix bool, bad func(error)) (err error) {
		v.r.WrongBranches, err = v.e.archive.Recount(ctx, fix, bad)
		return err
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
		if v.e.repair.Heal(ctx, id) != nil {
			v.r.Healed++
		}
	}
	if v.r.WrongBranches == 0 && v.r.Healed == 0 {
		return nil
	}
	return recount(true, func(error) {})
}
