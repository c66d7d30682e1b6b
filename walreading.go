package syncengine

import "context"

// walreading.go finds single ops in the file, for calls that ask for many ids.
//
// A group is one row of quarantine, or lies in one segment: read anew for each of its ids, it would
// cost its size for each, and whoever reads them would pay for what others wrote together (INV-9).
// So a call reads each row and each segment once, keeps what it will ask for, and lets go of that
// when it asks.
//
// What is kept are contents, which don't change. Where the newest op of an id is, and whether it
// counts still, the indexes are asked for each id when its turn comes, so that what has landed or
// was discarded meanwhile answers nothing.

// reading is what one call reads. It is of that call's goroutine, and goes with it. Nil is one of
// a call that asks for a single id.
type reading struct {
	ids  []string
	want map[string]bool // ids, made when something is read
	read map[walPlace]bool
	kept map[walOp]*entry
}

// walPlace is a row of quarantine, or a segment.
type walPlace struct {
	bad bool
	n   int64
}

// walOp is where an op is.
type walOp struct {
	at      walPlace
	id      string
	version uint64
}

// newReading begins what a call reads that will ask for ids.
func newReading(ids []string) *reading { return &reading{ids: ids} }

// others are the ids that are kept of a place that is about to be read: none the second time, which
// is for an op that was not the newest of its id before.
func (r *reading) others(at walPlace) map[string]bool {
	if r == nil || len(r.ids) < 2 || r.read[at] {
		return nil
	}
	if r.want == nil {
		r.read, r.kept = make(map[walPlace]bool), make(map[walOp]*entry)
		r.want = make(map[string]bool, len(r.ids))
		for _, id := range r.ids {
			r.want[id] = true
		}
	}
	r.read[at] = true
	return r.want
}

// take returns what is kept of an op, nil for nothing.
func (r *reading) take(key walOp) *entry {
	if r == nil {
		return nil
	}
	op := r.kept[key]
	delete(r.kept, key)
	return op
}

// FindBad returns the op of an id at a version in a row of quarantine, false when the row is gone.
// newest tells the version of the newest op of an id in quarantine.
func (j *journal) FindBad(ctx context.Context, r *reading, row int64, id string, version uint64, newest func(id string) uint64) (op *entry, ok bool, err error) {
	return j.opAt(ctx, r, walOp{at: walPlace{bad: true, n: row}, id: id, version: version}, newest)
}

// opAt returns an op, nil when its place has none such; false when the place is gone. newest tells
// the version of the newest op of an id, which is what is kept of others.
func (j *journal) opAt(ctx context.Context, r *reading, key walOp, newest func(id string) uint64) (op *entry, ok bool, err error) {
	if op = r.take(key); op == nil {
		payload, ok, err := j.payload(ctx, key.at)
		if err != nil || !ok {
			return nil, false, err
		}
		others := r.others(key.at)
		units, err := decodeOps(payload, func(id []byte, version uint64) bool {
			return version == key.version && string(id) == key.id || others[string(id)] && version == newest(string(id))
		})
		if err != nil {
			return nil, false, walError(err)
		}
		for _, ops := range units {
			for _, e := range ops {
				switch k := (walOp{key.at, e.id(), e.version}); {
				case k == key:
					op = higherOp(op, e)
				default:
					r.kept[k] = higherOp(r.kept[k], e)
				}
			}
		}
	}
	if op != nil && op.state.Load()&stateDamaged != 0 {
		return nil, true, op.damage("WAL")
	}
	return op, true, nil
}

// payload reads a place, false when it is gone.
func (j *journal) payload(ctx context.Context, at walPlace) (b []byte, ok bool, err error) {
	if at.bad {
		bads, err := j.log.Bads(ctx, at.n, at.n)
		if err != nil || len(bads) == 0 {
			return nil, false, walError(err)
		}
		return bads[0].Payload, true, nil
	}
	s, ok, err := j.log.Get(ctx, at.n)
	return s.Payload, ok, walError(err)
}

// higherOp returns the one that wins, of two ops of an id, or of nothing and one.
func higherOp(a, b *entry) *entry {
	if a == nil || b.compare(a) > 0 {
		return b
	}
	return a
}
