package syncengine

// warmup.go knows what may be said of an id without asking L3: that it is absent, by the filter
// (filter.go), and that a copy is fresh, since nobody else writes (fleet.go). All writes to L3 go
// through here, so that other engines know of this one first, and the filter of the ids.
//
// It makes the filter trusted and keeps it so: from the snapshot of an earlier engine
// on this Dir if L3 still has the root it stands for, else by reading the ids of L3 in pages,
// in the background. It saves snapshots, now and then and at the end.
//
// Two loops, "fleet" and "filter".
//
// A snapshot lies in the WAL file. Its root is read before its ids are: what L3 held then was
// put into the set earlier.

import (
	"bytes"
	"context"
	"errors"
	"math"
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

// trust is the department of the filter and the fleet.
type trust struct {
	filter  filter
	fleet   *fleet
	archive *archive
	wal     *journal
	news    *news
	lim     trustLimits
}

// trustLimits are how the filter is built and saved, from Config.
type trustLimits struct {
	page    int           // rows that are read at once
	every   time.Duration // between snapshots
	inserts int64         // ids after which a snapshot is saved
}

func newTrust(name string, a *archive, wal *journal, news *news, lim trustLimits) *trust {
	t := &trust{fleet: newFleet(name), archive: a, wal: wal, news: news, lim: lim}
	t.filter.fleet = t.fleet
	t.fleet.remember = func(ctx context.Context, ids []string) error {
		return wal.SetMeta(ctx, deadKey, []byte(strings.Join(ids, "\n")))
	}
	t.fleet.call = a.Call
	t.fleet.time.told = news.ClockStep
	return t
}

// MayContain reports whether id may be in L3; false is definite.
func (t *trust) MayContain(id string) bool { return t.filter.mayContain(id) }

// Doubt makes MayContain true of ids: L3 may have them, though no engine has written them.
func (t *trust) Doubt(ids []string) {
	recs := make([]Record, len(ids))
	for i, id := range ids {
		recs[i].ID = id
	}
	t.filter.insert(recs, notBegun)
}

// Trusted reports whether MayContain can be false.
func (t *trust) Trusted() bool { return t.filter.trusted() }

// Alone reports whether no other engine writes to L3 at this moment.
func (t *trust) Alone() bool { return t.fleet.alone() }

// Company returns how often others may have come: while it stays the same, and this engine is
// alone, nobody else has written to L3.
func (t *trust) Company() uint64 { return t.fleet.company.Load() }

// WhenNoticed sets what is called when the other engines know of this one.
func (t *trust) WhenNoticed(fn func()) { t.fleet.noticed = fn }

// Fleet returns what is known of the other engines.
func (t *trust) Fleet() Fleet { return t.fleet.Shown() }

// Accompanied reports whether other engines were there at the last look.
func (t *trust) Accompanied() bool { return t.fleet.others() }

// Time is the clock that versions are made of.
func (t *trust) Time() *fleetTime { return t.fleet.time }

// AloneFor returns for how long nobody else has written to L3, 0 if somebody may: what was read of
// L3 in that time is what it holds.
func (t *trust) AloneFor() time.Duration { return t.fleet.aloneFor() }

// Join makes sure that this engine may write to L3: those that were there before have noticed it.
// It waits for that, at most until ctx ends.
func (t *trust) Join(ctx context.Context) error { return t.fleet.join(ctx) }

// Joined reports whether it may, and whether the time is that of L3, if that tells.
func (t *trust) Joined() bool { return t.fleet.reg == nil || t.fleet.joined.Load() }

// Write calls fn, which writes records to L3. The filter knows their ids before, and after. unseen
// is which of them it did not know, and so L3 neither; nil: none.
func (t *trust) Write(recs []Record, fn func(unseen []bool) error) error {
	begun, unseen := t.filter.insert(recs, notBegun)
	defer func() { t.filter.insert(recs, begun) }()
	err := fn(unseen)
	if errors.Is(err, errFenced) {
		t.fleet.fenced()
	}
	return err
}

// Apply joins, and writes records to L3. It returns the rows that compare above them, and what
// items are that were merged into.
func (t *trust) Apply(ctx context.Context, recs []Record) (above []Meta, merged []Record, err error) {
	if err := t.Join(ctx); err != nil {
		return nil, nil, err
	}
	err = t.Write(recs, func(unseen []bool) (err error) {
		above, merged, err = t.archive.Apply(ctx, recs, unseen)
		return err
	})
	return above, merged, err
}

// Leave leaves L3 as the next engine likes it: with a snapshot of the filter, and without this
// engine's row. Without either it only takes a little longer to open.
func (t *trust) Leave(ctx context.Context) {
	if err := t.saveFilter(ctx); err != nil {
		t.news.Log().Warn("the filter's snapshot could not be saved", "error", err)
	}
	if err := t.fleet.leave(ctx); err != nil {
		t.news.Log().Warn("this engine's row in L3 could not be removed", "error", err)
	}
}

// Stats sets this department's part.
func (t *trust) Stats(s *Stats) {
	s.FilterEntries, s.FilterTrusted = t.filter.entries(), t.filter.trusted()
}

var errNotAlone = errors.New("another engine writes to L3")

// KeepFilter is the loop "filter".
func (t *trust) KeepFilter(ctx context.Context) {
	tick := time.NewTicker(filterEvery)
	defer tick.Stop()
	var built time.Time
	saved, room, added := time.Now(), roomNone, int64(0)
	build := func(with float64) {
		if err := t.warmFilter(ctx, with); err == nil {
			built, room = time.Now(), with
		} else if ctx.Err() == nil {
			t.news.Log().Info("the filter could not be built yet", "error", err)
		}
	}
	for {
		t.filter.forget()
		h := t.filter.held.Load()
		before := added
		wrote := t.filter.wrote.Load()
		added = t.filter.added.Load()
		due := time.Since(saved) >= t.lim.every
		switch {
		case !t.archive.Ready() || !t.fleet.alone():
		case !t.filter.good(h):
			build(roomNone)
		case h.set.NeedsRebuild() && time.Since(built) < soon:
			build(roomMuch)
		case h.set.NeedsRebuild(), room == roomMuch && due && added == before:
			build(roomSome)
		case added >= t.lim.inserts || wrote > 0 && due:
			if err := t.saveFilter(ctx); err != nil && ctx.Err() == nil {
				t.news.Log().Warn("the filter's snapshot could not be saved", "error", err)
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
func (t *trust) warmFilter(ctx context.Context, room float64) error {
	t.filter.turn.Lock()
	defer t.filter.turn.Unlock()
	company := t.fleet.company.Load() // before L3 is read
	if !t.fleet.alone() {
		return errNotAlone
	}
	expected := 0
	if t.archive.HasDigest() {
		set, err := t.archive.Digest(ctx, nil)
		if err != nil && !errors.Is(err, ErrCorruption) {
			return err
		}
		for i := 0; err == nil && i < len(set); i++ {
			expected += int(set[i].Count)
		}
	}
	page := func(ctx context.Context, after string) ([]Meta, error) {
		return t.archive.Scan(ctx, "warmup", after, t.lim.page)
	}
	start := time.Now()
	set := cuckoo.New(int(float64(expected)*room), cuckoo.NewSeed())
	t.filter.build(set)
	err := scanL3(ctx, page, func(rows []Meta) error {
		for i := range rows {
			if !rows[i].Deleted {
				set.Insert(rows[i].ID)
			}
		}
		if t.fleet.company.Load() != company {
			return errNotAlone
		}
		return nil
	})
	if err != nil {
		t.filter.adopt(nil, 0)
		return err
	}
	t.filter.adopt(set, company)
	t.news.Log().Info("the filter is built", "ids", set.Len(), "bytes", set.Bytes(), "took", time.Since(start))
	return nil
}

// saveFilter saves a snapshot if the filter is trusted.
func (t *trust) saveFilter(ctx context.Context) error {
	h := t.filter.held.Load()
	if !t.filter.good(h) {
		return nil
	}
	added, wrote := t.filter.added.Load(), t.filter.wrote.Load()
	root, ok, err := t.archive.Root(ctx)
	if err != nil || !ok {
		return err
	}
	var b bytes.Buffer
	if err := h.set.Encode(&b, root); err != nil {
		return err
	}
	if !t.filter.good(h) { // else somebody may have written before the root was read
		return nil
	}
	if err := t.wal.SetBlob(ctx, filterKey, b.Bytes()); err != nil {
		return err
	}
	t.filter.added.Add(-added)
	t.filter.wrote.Add(-wrote)
	return nil
}

// loadFilter trusts the snapshot of an earlier engine if L3 has not changed since.
func (t *trust) loadFilter(ctx context.Context) (trusted bool, err error) {
	company := t.fleet.company.Load()
	if !t.fleet.alone() {
		return false, nil
	}
	b, err := t.wal.Blob(ctx, filterKey)
	if err != nil || b == nil {
		return false, err
	}
	set, stamp, err := cuckoo.Decode(bytes.NewReader(b))
	if err != nil {
		t.news.Log().Info("a filter snapshot that can't be read is discarded", "error", err)
		return false, nil
	}
	root, ok, err := t.archive.Root(ctx)
	if err != nil || !ok || root != [32]byte(stamp) || set.Poisoned() {
		return false, err
	}
	t.filter.adopt(set, company)
	return true, nil
}

// Meet makes L3's time known before L3 is used, whenever it can be.
func (t *trust) Meet() {
	t.fleet.reg, t.fleet.private = t.archive.Members(), t.archive.Private()
	t.archive.Hear(t.fleet.hear)
}

// Load makes this engine known in L3, if no other one has to notice it first; else the
// loop goes on with it.
func (t *trust) Load(ctx context.Context) error {
	b, err := t.wal.Meta(ctx, deadKey)
	if err != nil {
		return err
	}
	if len(b) > 0 {
		t.fleet.dead = strings.Split(string(b), "\n")
	}
	if t.archive.Ready() {
		if _, err := t.fleet.tryJoin(ctx); err == nil && ctx.Err() == nil {
			if _, err := t.loadFilter(ctx); err != nil {
				t.news.Log().Info("the filter's snapshot is of no use", "error", err)
			}
		}
	}
	return ctx.Err()
}

// notBegun is no value of filter.begun.
const notBegun = math.MaxUint64
