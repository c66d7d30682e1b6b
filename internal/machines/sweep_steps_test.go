package machines

// sweep_steps_test.go is the scenario of sweep_test.go: every way to write, at every
// durability, with reads between them that must never answer with what is not so.

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/syncengine-go/syncengine"
)

const (
	buffered = syncengine.Buffered
	logged   = syncengine.Logged
	archived = syncengine.Archived
)

func (r *sweepRun) open() bool {
	e, err := syncengine.Open(context.Background(), r.cfg)
	if err != nil {
		r.failf("Open: %v", err)
		return false
	}
	r.e = e
	return true
}

// scenario returns false when it could not go on.
func (r *sweepRun) scenario() bool {
	r.fill()
	r.change()
	r.read("after changes")
	r.flush()
	_, err := r.e.Verify(context.Background(), syncengine.VerifyOptions{Repair: true})
	r.mayFail("Verify", err)
	r.quarantine()
	r.put("c", 8, buffered)
	if !r.reopen() { // with ops that no Flush was called for
		return false
	}
	r.read("after reopening")
	r.changeAgain()
	r.read("after changes by an engine that has just started")
	return true
}

// fill writes ids and a group, and waits for L3.
func (r *sweepRun) fill() {
	for _, id := range []string{"a", "b", "c"} {
		r.put(id, 1, logged)
	}
	for _, id := range []string{"d", "e", "f", "bad-put"} {
		r.put(id, 1, buffered)
	}
	r.putMany(sweepGroups[0], 1, logged)
	r.putMany(sweepGroups[1], 1, buffered)
	r.flush()
}

// change overwrites and deletes at every durability.
func (r *sweepRun) change() {
	r.put("a", 2, buffered)
	r.put("b", 2, logged)
	r.put("c", 2, archived)
	r.remove("d", buffered)
	r.remove("e", logged)
	r.remove("f", archived)
	r.getOrInsert("a", 3) // exists
	r.getOrInsert("e", 3) // is deleted
	r.getOrInsert("made", 3)
	r.putMany(sweepGroups[0], 4, archived)
	r.removeMany(sweepGroups[1], archived)
	r.putInHaste("hasty", 4)
}

// quarantine has L3 refuse ops, lets it take them later, retries some and discards one.
func (r *sweepRun) quarantine() {
	ctx := context.Background()
	r.put("bad-put", poisoned, logged)
	r.put("bad-discarded", poisoned, buffered)
	r.putMany(sweepGroups[2], poisoned, logged)
	r.put("good-neighbour", 5, archived)
	r.flush()
	r.read("while ops are in quarantine")
	if n, err := r.e.DiscardQuarantined(ctx, "bad-discarded"); err != nil {
		r.failf("DiscardQuarantined asks nobody, and fails: %v", err)
	} else if n > 0 {
		r.truth["bad-discarded"] = []int{absent}
	} else if !r.in.excuses() {
		r.failf("DiscardQuarantined found nothing")
	}
	r.takesPoison.Store(true)
	for _, id := range []string{"bad-put", sweepGroups[2][0]} {
		n, err := r.e.RetryQuarantined(ctx, id)
		r.mayFail("RetryQuarantined", err)
		if n == 0 && !r.in.excuses() {
			r.failf("RetryQuarantined found nothing of %s", id)
		}
	}
	r.flush()
}

// changeAgain writes to an engine that has just started.
func (r *sweepRun) changeAgain() {
	r.remove("a", logged)
	r.put("e", 6, logged)
	r.put("bad-put", 6, buffered)
	r.removeMany(sweepGroups[0], logged)
	r.putMany(sweepGroups[1], 6, buffered)
	r.removeMany(sweepGroups[2], buffered)
	r.getOrInsert("a", 7)
	r.put("d", 7, archived)
	r.remove("made", buffered)
}

// mayFail notes an error that a fault of a store does not explain.
func (r *sweepRun) mayFail(what string, err error) {
	if err != nil && (!errors.Is(err, syncengine.ErrUnavailable) || !r.in.excuses()) {
		r.failf("%s: %v", what, err)
	}
}

func (r *sweepRun) flush() {
	if err := r.e.Flush(context.Background()); !errors.Is(err, syncengine.ErrRefused) {
		r.mayFail("Flush", err)
	}
}

// wrote keeps what a write said. Below Archived nothing waits for a store, so no fault of one
// is an excuse; at Archived the op is in the WAL whatever the stores say.
func (r *sweepRun) wrote(what string, err error, ids []string, n int, d syncengine.Durability) {
	if errors.Is(err, syncengine.ErrRefused) && n < poisoned || d != archived && err != nil {
		r.failf("%s of %v: %v", what, ids, err)
	}
	r.mayFail(what, err)
	for _, id := range ids {
		r.truth[id] = []int{n}
	}
}

func (r *sweepRun) put(id string, n int, d syncengine.Durability) {
	err := r.e.Submit(context.Background(), syncengine.Item{ID: id, Content: page(id, n)}, syncengine.WithDurability(d))
	r.wrote("Submit", err, []string{id}, n, d)
}

func (r *sweepRun) remove(id string, d syncengine.Durability) {
	r.wrote("Delete", r.e.Delete(context.Background(), id, syncengine.WithDurability(d)), []string{id}, absent, d)
}

func (r *sweepRun) putMany(ids []string, n int, d syncengine.Durability) {
	items := make([]syncengine.Item, len(ids))
	for i, id := range ids {
		items[i] = syncengine.Item{ID: id, Content: page(id, n)}
	}
	_, err := r.e.SubmitMany(context.Background(), items, syncengine.WithDurability(d))
	r.wrote("SubmitMany", err, ids, n, d)
}

func (r *sweepRun) removeMany(ids []string, d syncengine.Durability) {
	_, err := r.e.DeleteMany(context.Background(), ids, syncengine.WithDurability(d))
	r.wrote("DeleteMany", err, ids, absent, d)
}

// putInHaste leaves before a hung L3 answers: the outcome is unknown then.
func (r *sweepRun) putInHaste(id string, n int) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	err := r.e.Submit(ctx, syncengine.Item{ID: id, Content: page(id, n)}, syncengine.WithDurability(archived))
	if errors.Is(err, context.DeadlineExceeded) {
		r.truth[id] = append(r.may(id), n)
		return
	}
	r.wrote("Submit in haste", err, []string{id}, n, archived)
}

// may returns what an id may hold.
func (r *sweepRun) may(id string) []int {
	if may, ok := r.truth[id]; ok {
		return may
	}
	return []int{absent}
}

// getOrInsert inserts n if id does not exist. The factory must not be asked when it does,
// whatever a tier says (INV-8).
func (r *sweepRun) getOrInsert(id string, n int) {
	may, called := r.may(id), false
	it, err := r.e.GetOrInsertWith(context.Background(), id, func(context.Context) (syncengine.Item, error) {
		called = true
		return syncengine.Item{Content: page(id, n)}, nil
	})
	if called && !slices.Contains(may, absent) {
		r.failf("GetOrInsertWith called the factory though %s holds one of %v", id, may)
	}
	switch {
	case err != nil && !called: // nothing was changed
		r.mayFail("GetOrInsertWith", err)
	case err != nil: // L3 decides the insert; only a lost reply leaves open whether it did
		if r.mayFail("GetOrInsertWith", err); errors.Is(err, syncengine.ErrUnknownOutcome) {
			r.truth[id] = append(slices.Clone(may), n)
		}
	case called:
		r.wrote("GetOrInsertWith", err, []string{id}, n, logged)
	default:
		if rec := (syncengine.Record{Item: it}); !slices.Contains(may, valueOf(&rec)) {
			r.failf("GetOrInsertWith of %s: %d, want one of %v", id, valueOf(&rec), may)
		}
	}
}

// reopen closes the engine, which may leave ops in the WAL, and opens it again.
func (r *sweepRun) reopen() bool {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := r.e.Shutdown(ctx); err != nil && (!errors.Is(err, syncengine.ErrPending) || !r.in.excuses()) {
		r.failf("Shutdown: %v", err)
	}
	return r.open()
}

// read reads while faults may be under way.
func (r *sweepRun) read(when string) {
	if n := r.readAll(when); n > 0 && !r.in.excuses() {
		r.failf("%s: %d reads were not answered", when, n)
	}
}

// readAll reads every id in every way and returns how often ErrUnavailable was the answer. No
// other answer may be wrong.
func (r *sweepRun) readAll(when string) (outages int) {
	ctx := context.Background()
	ids := slices.Sorted(maps.Keys(r.truth))
	unanswered := func(what, id string, err error) {
		if outages++; !errors.Is(err, syncengine.ErrUnavailable) {
			r.failf("%s: %s of %s, one of %v: %v", when, what, id, r.truth[id], err)
		}
	}
	answered := func(what, id string, n int) {
		if !slices.Contains(r.truth[id], n) {
			r.failf("%s: %s of %s: %d, want one of %v", when, what, id, n, r.truth[id])
		}
	}
	for _, id := range ids {
		it, err := r.e.Get(ctx, id)
		if err == nil || errors.Is(err, syncengine.ErrNotFound) {
			answered("Get", id, valueOf(&syncengine.Record{Item: it}))
		} else {
			unanswered("Get", id, err)
		}
		if !r.e.Contains(id) && !slices.Contains(r.truth[id], absent) {
			r.failf("%s: %s holds one of %v, Contains says no", when, id, r.truth[id])
		}
	}
	many, err := r.e.GetMany(ctx, ids)
	for i, id := range ids {
		switch {
		case many[i] != nil:
			answered("GetMany", id, valueOf(&syncengine.Record{Item: *many[i]}))
		case err == nil:
			answered("GetMany", id, absent)
		default: // nil may stand for unanswered
			unanswered("GetMany", id, err)
		}
	}
	for _, id := range []string{"a", "e"} {
		st, err := r.e.Status(ctx, id)
		if err != nil {
			unanswered("Status", id, err)
		} else if (st.State == syncengine.StatusMissing) != slices.Contains(r.truth[id], absent) {
			r.failf("%s: Status of %s: %+v, want one of %v", when, id, st, r.truth[id])
		}
	}
	return outages
}
