package syncengine

// warmup.go makes the filter trusted and keeps it so: from the snapshot of an earlier engine
// on this Dir if L3 still has the root it stands for, else by reading the ids of L3 in pages,
// in the background. It saves snapshots, now and then and at the end.
//
// A snapshot lies in the WAL file. Its root is read before its ids are: what L3 held then was
// put into the set earlier.

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"time"

	"github.com/syncengine-go/syncengine/internal/cuckoo"
)

const (
	filterKey = "filter"
	deadKey   = "instances"
	// filterEvery is how often the loop looks whether there is something to do.
	filterEvery = 200 * time.Millisecond
	// A set is made for the ids that are there; one that was outgrown, for some more; one that
	// was outgrown soon after it was made, for twice as many, until growth pauses.
	roomNone, roomSome, roomMuch = 1.0, 1.05, 2.0
	soon                         = time.Minute
)

var errNotAlone = errors.New("another engine writes to L3")

// keepFilter is the loop "filter".
func (e *Engine) keepFilter(ctx context.Context) {
	tick := time.NewTicker(filterEvery)
	defer tick.Stop()
	var built time.Time
	saved, room, added := time.Now(), roomNone, int64(0)
	build := func(with float64) {
		if err := e.warmFilter(ctx, with); err == nil {
			built, room = time.Now(), with
		} else if ctx.Err() == nil {
			e.news.Log().Info("the filter could not be built yet", "error", err)
		}
	}
	for {
		e.filter.forget()
		h := e.filter.held.Load()
		before := added
		wrote := e.filter.wrote.Load()
		added = e.filter.added.Load()
		due := time.Since(saved) >= e.cfg.FilterSnapshotInterval
		switch {
		case !e.l3Ready.Load() || !e.fleet.alone():
		case !e.filter.good(h):
			build(roomNone)
		case h.set.NeedsRebuild() && time.Since(built) < soon:
			build(roomMuch)
		case h.set.NeedsRebuild(), room == roomMuch && due && added == before:
			build(roomSome)
		case added >= int64(e.cfg.FilterSnapshotInserts) || wrote > 0 && due:
			if err := e.saveFilter(ctx); err != nil && ctx.Err() == nil {
				e.news.Log().Warn("the filter's snapshot could not be saved", "error", err)
			}
			saved = time.Now()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// warmFilter builds a set from the rows of L3, made for room times their number.
func (e *Engine) warmFilter(ctx context.Context, room float64) error {
	e.filter.turn.Lock()
	defer e.filter.turn.Unlock()
	company := e.fleet.company.Load() // before L3 is read
	if !e.fleet.alone() {
		return errNotAlone
	}
	expected := 0
	if e.digest3 != nil {
		set, err := (&verification{e: e}).digest3(ctx)
		if err != nil && !errors.Is(err, ErrCorruption) {
			return err
		}
		for i := 0; err == nil && i < len(set); i++ {
			expected += int(set[i].Count)
		}
	}
	start := time.Now()
	set := cuckoo.New(int(float64(expected)*room), cuckoo.NewSeed())
	e.filter.build(set)
	err := scanL3(ctx, e.warmupPage, func(rows []Meta) error {
		for i := range rows {
			if !rows[i].Deleted {
				set.Insert(rows[i].ID)
			}
		}
		if e.fleet.company.Load() != company {
			return errNotAlone
		}
		return nil
	})
	if err != nil {
		e.filter.adopt(nil, 0)
		return err
	}
	e.filter.adopt(set, company)
	e.news.Log().Info("the filter is built", "ids", set.Len(), "bytes", set.Bytes(), "took", time.Since(start))
	return nil
}

func (e *Engine) warmupPage(ctx context.Context, after string) (rows []Meta, err error) {
	err = e.call3(ctx, "warmup", true, func(ctx context.Context) (err error) {
		rows, err = e.l3.Scan(ctx, after, e.cfg.FilterWarmupBatch)
		return err
	})
	return rows, err
}

// rootL3 reads the root of L3. ok is false when it would have to be computed from all rows.
func (e *Engine) rootL3(ctx context.Context) (root [32]byte, ok bool, err error) {
	if e.digest3 == nil {
		return root, false, nil
	}
	set, err := (&verification{e: e}).digest3(ctx)
	if err != nil {
		return root, false, err
	}
	return set.Root(), true, nil
}

// saveFilter saves a snapshot if the filter is trusted.
func (e *Engine) saveFilter(ctx context.Context) error {
	h := e.filter.held.Load()
	if !e.filter.good(h) {
		return nil
	}
	added, wrote := e.filter.added.Load(), e.filter.wrote.Load()
	root, ok, err := e.rootL3(ctx)
	if err != nil || !ok {
		return err
	}
	var b bytes.Buffer
	if err := h.set.Encode(&b, root); err != nil {
		return err
	}
	if !e.filter.good(h) { // else somebody may have written before the root was read
		return nil
	}
	if err := e.wal.SetBlob(ctx, filterKey, b.Bytes()); err != nil {
		return err
	}
	e.filter.added.Add(-added)
	e.filter.wrote.Add(-wrote)
	return nil
}

// loadFilter trusts the snapshot of an earlier engine if L3 has not changed since.
func (e *Engine) loadFilter(ctx context.Context) (trusted bool, err error) {
	company := e.fleet.company.Load()
	if !e.fleet.alone() {
		return false, nil
	}
	b, err := e.wal.Blob(ctx, filterKey)
	if err != nil || b == nil {
		return false, err
	}
	set, stamp, err := cuckoo.Decode(bytes.NewReader(b))
	if err != nil {
		e.news.Log().Info("a filter snapshot that can't be read is discarded", "error", err)
		return false, nil
	}
	root, ok, err := e.rootL3(ctx)
	if err != nil || !ok || root != [32]byte(stamp) || set.Poisoned() {
		return false, err
	}
	e.filter.adopt(set, company)
	return true, nil
}

// keepFleet is the loop "fleet".
func (e *Engine) keepFleet(ctx context.Context) {
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	for {
		if e.l3Ready.Load() {
			_ = e.fleet.step(ctx) // an error ends the time alone by itself
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// joinFleet makes this engine known in L3, if no other one has to notice it first; else the
// loop goes on with it.
func (e *Engine) joinFleet(ctx context.Context) error {
	b, err := e.wal.Meta(ctx, deadKey)
	if err != nil {
		return err
	}
	if len(b) > 0 {
		e.fleet.dead = strings.Split(string(b), "\n")
	}
	if e.l3Ready.Load() {
		if _, err := e.fleet.tryJoin(ctx); err == nil && ctx.Err() == nil {
			if _, err := e.loadFilter(ctx); err != nil {
				e.news.Log().Info("the filter's snapshot is of no use", "error", err)
			}
		}
	}
	return ctx.Err()
}

// rememberInstances notes in the WAL file which rows of the instance table are this Dir's.
func (e *Engine) rememberInstances(ctx context.Context, ids []string) error {
	return e.wal.SetMeta(ctx, deadKey, []byte(strings.Join(ids, "\n")))
}
