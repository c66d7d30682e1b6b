package syncengine

// loads.go is how reads ask the tiers below memory: each id is a load, which goes to L2, and if
// that has nothing, to L3. Loads that wait for the same server go there in one call
// (internal/loader). What is found is promoted.
//
// With an op that waits in the WAL, in quarantine or since before a restart, L3 alone is asked, and
// the higher of the two is the answer; when L3 can't be asked, the op is the newest this engine can
// know, unless it is known that there was a later one.

import (
	"context"
	"errors"
	"time"

	"github.com/syncengine-go/syncengine/internal/loader"
	"github.com/syncengine-go/syncengine/internal/sqlkit"
)

// togetherMost is how many loads share a call, and callsMost how many calls of one kind are under
// way while a server hangs.
const (
	togetherMost = 32
	callsMost    = 64
)

// load is an id that the tiers below memory are asked for.
type load = loader.Load[string, sought, loaded]

// sought is what a read knows of an id that it asks the tiers below for.
type sought struct {
	since   stamp
	waiting *entry // the op that waits in the WAL, nil for none
}

// The stages of a load.
const (
	fromL2      = iota // with others
	fromL2Alone        // when L2 has failed for many: a part of a cluster may be away
	fromL3             // with others
	fromL3Alone        // of a library; or when L3 has failed for many, or what is there is damaged
)

// source is where a load goes for L3. To a library there is no round trip to share.
func (d *reader) source() (stage int) {
	if d.archive.Near() {
		return fromL3Alone
	}
	return fromL3
}

// under returns the context of a call that is made for a load.
func (d *reader) under(l *load) context.Context {
	if l.Itself && l.Caller.Done() != nil {
		return l.Caller
	}
	return sqlkit.Patient(d.door.Background(l.Caller))
}

// stages are those of a load.
func (d *reader) stages() []loader.Stage[string, sought, loaded] {
	return []loader.Stage[string, sought, loaded]{
		fromL2:      {Most: togetherMost, Calls: callsMost, Ask: d.askL2},
		fromL2Alone: {Most: 1, Calls: callsMost, Ask: d.askL2Alone},
		fromL3:      {Most: togetherMost, Calls: callsMost, Ask: d.askL3},
		fromL3Alone: {Most: 1, Calls: callsMost, Ask: d.askL3Alone},
	}
}

// keysOf returns the ids of loads.
func keysOf(loads []*load) []string {
	ids := make([]string, len(loads))
	for i, l := range loads {
		ids[i] = l.Key
	}
	return ids
}

func (d *reader) askL2(loads []*load) {
	if len(loads) == 1 {
		d.askL2Alone(loads)
		return
	}
	start := time.Now()
	found, err := d.cache.GetMany(d.under(loads[0]), keysOf(loads))
	for i, l := range loads {
		switch {
		case err == nil:
			rec, err := found[i].answer()
			if err == nil && !d.cache.Believes(rec) {
				err = ErrNotFound
			}
			d.saidL2(l, rec, err)
		case d.cache.MayAnswerOne(start):
			l.Pass(fromL2Alone)
		default:
			d.saidL2(l, nil, err)
		}
	}
}

func (d *reader) askL2Alone(loads []*load) {
	rec, err := d.cache.Lookup(d.under(loads[0]), loads[0].Key)
	d.saidL2(loads[0], &rec, err)
}

// saidL2 answers a load with what L2 said, or passes it on.
func (d *reader) saidL2(l *load, rec *Record, err error) {
	if err != nil {
		d.l2Failed(err, l.Key)
		l.Pass(d.source())
		return
	}
	d.cache.Saw(true, 1)
	if rec.Stale = d.cache.Behind(); !rec.Stale {
		d.Promote(rec, l.About.since, false)
	}
	l.Answer(loaded{*rec, byL2}, nil)
}

func (d *reader) askL3(loads []*load) {
	if len(loads) == 1 {
		d.askL3Alone(loads)
		return
	}
	ctx, start := d.under(loads[0]), time.Now()
	found, err := d.archive.GetManyOnce(ctx, keysOf(loads))
	for i, l := range loads {
		switch {
		case err == nil && found[i].Err == nil:
			rec, err := found[i].answer()
			d.saidL3(ctx, l, rec, err)
		case err == nil || d.archive.MayAnswerOne(start):
			l.Pass(fromL3Alone)
		default:
			d.saidL3(ctx, l, nil, err)
		}
	}
}

func (d *reader) askL3Alone(loads []*load) {
	l := loads[0]
	ctx := d.under(l)
	rec, err := d.archive.Get(ctx, l.Key)
	d.saidL3(ctx, l, &rec, err)
}

// saidL3 answers a load with what L3 said.
func (d *reader) saidL3(ctx context.Context, l *load, rec *Record, err error) {
	waiting, since := l.About.waiting, l.About.since
	switch verdictOfL3(err, waiting) {
	case l3Row:
		d.archive.Saw(true, 1)
		l.Answer(loaded{d.higher(ctx, *rec, waiting, since), byL3}, nil)
	case l3None:
		d.archive.Saw(false, 1)
		if waiting != nil {
			l.Answer(loaded{d.higher(ctx, Record{}, waiting, since), byL3}, nil)
			return
		}
		d.sawNone(l.Key, since)
		l.Answer(loaded{by: byL3}, ErrNotFound)
	case l3Silent:
		op := waiting.record() // not promoted: L3 will be asked again
		op.Stale = true
		l.Answer(loaded{op, byWAL}, nil)
	case l3Corrupt:
		healed, err := d.repair.HealedOr(ctx, l.Key, err)
		if err == nil {
			d.Promote(&healed, since, true)
		}
		l.Answer(loaded{healed, byL3}, err)
	default:
		l.Answer(loaded{}, unavailable("syncengine: get", err))
	}
}

// loaded is a record, and the tier that had it.
type loaded struct {
	Record
	by answerer
}

// Tick begins calls for reads that wait behind some that hang.
func (d *reader) Tick() { d.loads.Tick() }

// l3Verdict is what a read makes of what L3 said.
type l3Verdict uint8

const (
	l3Away    l3Verdict = iota // nobody knows
	l3Row                      // it has the id
	l3None                     // it does not
	l3Silent                   // it could not be asked, or be read: the op that waits in the WAL is the answer
	l3Corrupt                  // it has the id, and what is there can't be read
)

func verdictOfL3(err error, waiting *entry) l3Verdict {
	switch {
	case err == nil:
		return l3Row
	case errors.Is(err, ErrNotFound):
		return l3None
	case waiting != nil && waiting.state.Load()&stateLate == 0:
		return l3Silent
	case errors.Is(err, ErrCorruption):
		return l3Corrupt
	}
	return l3Away
}

// higher promotes and returns the higher of L3's record, zero for none, and an op that
// waits in the WAL, nil for none. One in quarantine that L3 holds something above is superseded.
func (d *reader) higher(ctx context.Context, rec Record, waiting *entry, since stamp) Record {
	if waiting != nil && aboveL3(waiting, &rec) {
		op := waiting.record()
		d.Promote(&op, since, false) // L2 gets it with the flush
		return op
	}
	if waiting != nil {
		_ = d.bad.Landed(ctx, []Record{rec}) // else the next read notes it
	}
	d.Promote(&rec, since, true)
	return rec
}

// aboveL3 reports whether an op that waits in the WAL is above L3's record.
func aboveL3(waiting *entry, rec *Record) bool {
	op := waiting.record()
	return rec.Version == 0 || op.Compare(rec) > 0
}

// l2Failed accounts for an L2 read that gave nothing. A corrupt copy is removed; the copy
// read from L3 then takes its place.
func (d *reader) l2Failed(err error, ids ...string) {
	switch {
	case errors.Is(err, ErrNotFound):
		d.cache.Saw(false, len(ids))
	case errors.Is(err, ErrCorruption):
		d.cache.Saw(false, len(ids))
		d.news.Corrupted(err)
		for _, id := range ids {
			d.repair.Promote(promotion{Heal: id})
		}
	}
}
