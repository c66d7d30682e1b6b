package syncengine

// read.go is the one read path:
//
//	L1 → quarantine and spool (in the WAL) → filter → L2 → L3 → promote to L1 and L2
//
// A tombstone in any tier answers "not found". A tier that can't be asked yields to the
// next one; only L3 or a tombstone may say that an id does not exist (INV-8). A copy in L2
// that can't be read or does not match its hash is a miss and is replaced from L3.
//
// A copy is promoted only if the id was not written while it was loaded (l1.Promote), and
// into L2 only if L2 holds nothing higher.

import (
	"context"
	"errors"
	"time"

	"github.com/syncengine-go/syncengine/internal/loader"
)

// reader is the department of reads.
type reader struct {
	l1       *l1
	wal      *journal
	bad      *quarantine
	queue    *queue
	flush    *flusher
	trust    *trust
	cache    *cache
	archive  *archive
	repair   *repair
	push     *push
	pressure *pressure
	door     *door
	news     *news
	now      func() time.Time // of L3, see fleettime.go
	ages     ages
	loads    loader.Group[string, sought, loaded]
	watched  *loader.Calls[watchedAt, []Found] // items that watches read together
	began    time.Time
}

// ages are how long what memory knows counts, from Config.
type ages struct {
	max    time.Duration // of a copy, while other engines may write
	absent time.Duration // of L3's word that there is nothing; 0: it is not remembered
	stale  time.Duration // of a copy beyond max, while L3 can't be asked; 0: no limit, less: never
}

func newReader(mem *l1, w *journal, q *queue, f *flusher, bad *quarantine, t *trust, c *cache, a *archive, rep *repair, push *push, p *pressure, d *door, news *news, lim ages) *reader {
	r := &reader{l1: mem, wal: w, queue: q, flush: f, bad: bad, trust: t, cache: c, archive: a, repair: rep, push: push, pressure: p, door: d, news: news, now: t.Time().L3, ages: lim, watched: loader.NewCalls[watchedAt](d.Work, small), began: time.Now()}
	r.loads.Spawn, r.loads.Stages = d.Work, r.stages()
	return r
}

func (d *reader) Get(ctx context.Context, id string) (it Item, err error) {
	if !d.door.Closed() {
		ent, ok := d.l1.Get(id)
		if ok && d.atOnce(ent) {
			err = d.show(ent, &it)
			return it, err
		}
		if !ok && (d.Denies(id) || d.knowsAbsent(id)) {
			d.l1.Missed()
			return it, ErrNotFound
		}
	}
	return d.getSlow(ctx, id)
}

// knowsAbsent reports whether L3 has lately said that there is nothing of a valid id that was not
// in L1. Nobody who decides by it may write.
func (d *reader) knowsAbsent(id string) bool {
	return d.ages.absent > 0 && d.l1.Absent(id, d.ages.absent) && !d.waits(id) && !d.trust.Trusted()
}

// sawNone notes that L3 has nothing of an id.
func (d *reader) sawNone(id string, since stamp) {
	if d.ages.absent > 0 && !d.trust.Trusted() {
		d.l1.KeepAbsent(id, since)
	}
}

// waits reports whether ops of an id may wait that L1 does not show.
func (d *reader) waits(id string) bool {
	_, spooled := d.wal.Spooled(d.l1.Hash(id))
	return spooled || d.bad.Has(id) || d.queue.Merging(id)
}

// Denies reports, without I/O, that a valid id that was not in L1 does not exist. The filter
// is asked last: an op leaves L1 and the WAL only after the filter got its id.
func (d *reader) Denies(id string) bool {
	if checkID(id) != nil || d.waits(id) || d.trust.MayContain(id) {
		return false
	}
	_, retried := d.l1.Peek(id) // it may just have left quarantine, where it was not any more
	return !retried
}

// atOnce reports whether an L1 entry is what its item is.
func (d *reader) atOnce(ent *entry) bool { return d.Fresh(ent) && !d.mayMerge(ent) }

// Fresh reports whether an L1 entry, a tombstone included, may be served without asking the tiers
// below: another engine may have written the id since (INV-15). All reads go by this.
func (d *reader) Fresh(ent *entry) bool { return d.freshness(ent) != aged }

// freshness is why an L1 entry may be served as it is.
type freshness uint8

const (
	aged      freshness = iota // it may not
	checked                    // it was compared with the tiers below a short while ago
	notInL3                    // it is this engine's own op, and waits for L3
	unrivaled                  // no other engine has written since it was
)

func (d *reader) freshness(ent *entry) freshness {
	switch {
	case ent.pinned() && !(ent.expired(d.now) && d.passed()):
		return notInL3
	case d.l1.Young(ent, d.ages.max) && !ent.expired(d.now): // a later expiry may be there: only L3, or a tombstone, says that an item is not
		return checked
	case d.l1.Age(ent) < d.trust.AloneFor()-2*tickTime: // ages are coarse
		return unrivaled
	}
	return aged
}

// way is how a read goes on that memory does not answer.
type way uint8

const (
	toTiers    way = iota // to the tiers below
	fromWAL               // no further: the op that waits in the WAL is the answer
	fromDenial            // no further: the filter denies the id
)

func (d *reader) way(id string, inL1 bool, waiting *entry, askL3 bool) way {
	switch {
	case waiting != nil && !askL3:
		return fromWAL
	case waiting == nil && !inL1 && !d.trust.MayContain(id):
		return fromDenial
	}
	return toTiers
}

// asksL2 reports whether a read below memory asks L2 first.
func (d *reader) asksL2(id string, waiting *entry) bool { return waiting == nil && d.cache.MayRead(id) }

// show sets what a caller sees of an entry: in place, since an item is 200 bytes to copy.
func (d *reader) show(ent *entry, it *Item) error {
	if ent.gone(d.now) {
		return ErrNotFound
	}
	ent.fill(it)
	it.Stale = ent.pinned() && d.passed()
	it.AccessCount = uint64(ent.place.Uses())
	it.LastAccessed = d.l1.LastUse(ent)
	return nil
}

// errLapsed is why what is known is no answer.
var errLapsed = errors.New("what is known of the item has expired, and another engine may have written it since")

// passed reports whether another engine that is known may have written over this engine's ops that
// wait for L3, for longer than it takes to write a batch.
func (d *reader) passed() bool { return d.archive.Down() && d.trust.Accompanied() }

// Enter begins a read that memory alone can't answer.
func (d *reader) Enter(ctx context.Context) error {
	if err := d.door.Enter(); err != nil {
		return err
	}
	err := ctx.Err()
	if err == nil {
		err = d.pressure.AdmitRead()
	}
	if err != nil {
		d.door.Leave()
	}
	return err
}

func (d *reader) getSlow(ctx context.Context, id string) (item Item, err error) {
	if err := checkID(id); err != nil {
		return Item{}, err
	}
	if err := d.Enter(ctx); err != nil {
		return Item{}, err
	}
	defer d.door.Exit(ctx, &err)
	start := d.news.Start()
	rec, by, err := d.find(ctx, nil, id)
	d.news.Got(by, start, err)
	if err != nil {
		return Item{}, err
	}
	return rec.item()
}

// item returns the item of a record, or ErrNotFound for a tombstone.
func (r *Record) item() (Item, error) {
	if r.Deleted {
		return Item{}, ErrNotFound
	}
	return r.Item, nil
}

// Find looks for id in all tiers. A tombstone is a result; so is an item that has expired, as one.
func (d *reader) Find(ctx context.Context, id string) (Record, error) {
	return d.findIn(ctx, nil, id)
}

// findIn is Find within what a call reads that asks for many ids.
func (d *reader) findIn(ctx context.Context, r *reading, id string) (Record, error) {
	rec, _, err := d.find(ctx, r, id)
	return rec, err
}

// find also tells who answered.
func (d *reader) find(ctx context.Context, r *reading, id string) (rec Record, by answerer, err error) {
	rec, by, err = d.look(ctx, r, id)
	rec.lapse(d.now)
	return rec, by, err
}

func (d *reader) look(ctx context.Context, r *reading, id string) (rec Record, by answerer, err error) {
	// The stamp is taken before L1 is asked: a write that L1 does not show has not been
	// counted yet, and will be.
	since := d.l1.Stamp(id)
	if rec, known, err := d.merged(ctx, id); known || err != nil {
		return rec, byL1, err
	}
	ent, ok := d.l1.Get(id)
	if ok && d.Fresh(ent) {
		rec := ent.record()
		rec.Stale = ent.pinned() && d.passed()
		return rec, byL1, nil
	}
	if !ok {
		d.l1.Missed()
	}
	refused := d.bad.Any()
	waiting, askL3, err := d.bad.WaitingIn(ctx, r, id)
	switch {
	case err != nil:
		return Record{}, byWAL, err
	case refused && waiting == nil && !ok && d.l1.Written(id, since): // it may just have left quarantine
		return d.find(ctx, r, id)
	}
	switch d.way(id, ok, waiting, askL3) {
	case fromWAL:
		rec := waiting.record()
		if rec.Stale = d.passed(); rec.Stale && rec.expired(d.now) { // as of a copy in memory
			return Record{}, byWAL, unavailable("L3", errLapsed)
		}
		d.Promote(&rec, since, false)
		return rec, byWAL, nil
	case fromDenial:
		return Record{}, byFilter, ErrNotFound
	}
	from := d.source()
	if d.asksL2(id, waiting) {
		from = fromL2
	}
	// A server is asked on another goroutine, so that a caller may leave while it hangs. One that
	// can't leave asks itself, and so does one that asks a library, which does not hang: waking
	// somebody takes longer than a look.
	itself := ctx.Done() == nil || from == fromL3Alone
	got, err := d.loads.Do(ctx, id, since.Writes, sought{since, waiting}, from, itself)
	if ok {
		rec, err = d.refreshed(ent, got.Record, err)
		return rec, got.by, err
	}
	return got.Record, got.by, err
}

// refreshed decides between an L1 entry past its age and what the tiers below said.
func (d *reader) refreshed(ent *entry, rec Record, err error) (Record, error) {
	switch {
	case outdates(ent, &rec, err):
		if err != nil {
			d.l1.Drop(ent)
		}
		return rec, err
	case err == nil:
		return ent.record(), nil
	case d.tooStale(ent):
		return Record{}, err
	}
	rec = ent.record()
	rec.Stale = true
	return rec, nil
}

// tooStale reports whether an L1 entry past its age is not to be served, though nobody can be
// asked. One whose item has expired is not, as nobody says that it has no later expiry.
func (d *reader) tooStale(ent *entry) bool {
	return ent.expired(d.now) || d.ages.stale < 0 || d.ages.stale > 0 && d.l1.Age(ent)-d.ages.max > d.ages.stale
}

// outdates reports whether what the tiers below said counts, and not the L1 entry. When nobody
// could be asked, or what is there can't be read, the entry does.
func outdates(ent *entry, rec *Record, err error) bool {
	if err != nil {
		return errors.Is(err, ErrNotFound)
	}
	known := ent.record()
	return known.Compare(rec) < 0
}

// Invalidate forgets copies of ids, and that there are none.
func (d *reader) Invalidate(ids []string) {
	d.trust.Doubt(ids)
	for _, id := range ids {
		d.l1.Touch(id) // what is being read now is not promoted
		if ent, ok := d.l1.Peek(id); ok {
			d.l1.Drop(ent)
		}
	}
}

// Promote puts a record read from a lower tier into L1, and one read from L3 into L2.
func (d *reader) Promote(rec *Record, since stamp, toL2 bool) {
	d.l1.Promote(newEntry(rec), since)
	d.l1.Shrink()
	if toL2 && d.cache.On() {
		d.repair.Promote(promotion{Rec: *rec, Stamp: since})
	}
}

func (d *reader) GetVerified(ctx context.Context, id string) (item Item, err error) {
	if err := checkID(id); err != nil {
		return Item{}, err
	}
	if err := d.door.Enter(); err != nil {
		return Item{}, err
	}
	defer d.door.Exit(ctx, &err)
	if err := ctx.Err(); err != nil {
		return Item{}, err
	}
	for {
		ent, ok := d.l1.Get(id)
		if !ok || !d.Fresh(ent) || d.mayMerge(ent) {
			break
		}
		if ent.gone(d.now) {
			return Item{}, ErrNotFound
		}
		if hashOf(ent.content()) == ent.hash {
			var it Item
			err := d.show(ent, &it)
			return it, err
		}
		rec, err := d.flush.SoundRecord(ctx, ent)
		if err != nil {
			return Item{}, err // the only copy there is
		}
		if rec.Version != 0 {
			rec.Stale = ent.pinned() && d.passed()
			return rec.item()
		}
	}
	if err := d.pressure.AdmitRead(); err != nil && !d.Denies(id) {
		return Item{}, err
	}
	if _, ok := d.l1.Peek(id); !ok && d.knowsAbsent(id) {
		return Item{}, ErrNotFound
	}
	rec, err := d.Find(ctx, id) // L2 and L3 check hashes on every read
	if err != nil {
		return Item{}, err
	}
	if !rec.Deleted && hashOf(rec.Content) != rec.ContentHash { // of an aged copy, L3 being away
		err := newEntry(&rec).damage("L1")
		d.news.Corrupted(err)
		return Item{}, err
	}
	return rec.item()
}
