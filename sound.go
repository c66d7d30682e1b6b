package syncengine

// sound.go is the flusher's look at what it is about to write: content must match its hash
// (INV-11). Items that reads return share their bytes with the engine, and a caller may have
// changed them, although it must not. What the WAL holds is what was submitted; an op that is
// in memory alone then goes to quarantine as it is, with its hash: nobody can tell any more
// what it was.

import "context"

// sound returns the units that may be written, after those that can't were refused. Records
// that were found in the WAL are in a.healed.
func (f *flusher) sound(ctx context.Context, units []unit, a *outcome) ([]unit, error) {
	out := make([]unit, 0, len(units))
	for i := range units {
		var damage error
		for _, e := range units[i].Ops() {
			if e.deleted || hashOf(e.content()) == e.hash {
				continue
			}
			bad := e.damage("L1")
			f.news.Corrupted(bad)
			if rec := f.fromWAL(ctx, e); rec != nil {
				a.heal(e, rec)
			} else {
				damage = bad
			}
		}
		if damage == nil {
			out = append(out, units[i])
			continue
		}
		if err := f.up.Refuse(ctx, &units[i], damage); err != nil {
			return nil, err
		}
		for _, e := range units[i].Ops() {
			a.refused[e] = damage
		}
	}
	return out, nil
}

func (a *outcome) heal(e *entry, rec *Record) {
	if a.healed == nil {
		a.healed = make(map[*entry]*Record)
	}
	a.healed[e] = rec
}

// SoundRecord returns an entry of L1 for somebody who builds on it: as it was submitted, whatever a
// reader has done to its bytes. It is of version 0 when it has to be read from L3.
func (f *flusher) SoundRecord(ctx context.Context, e *entry) (Record, error) {
	if e.deleted || hashOf(e.content()) == e.hash {
		return e.record(), nil
	}
	bad := e.damage("L1")
	f.news.Corrupted(bad)
	if rec := f.fromWAL(ctx, e); rec != nil {
		return *rec, nil
	}
	if !f.q.l1.Drop(e) {
		return Record{}, bad // in memory alone: nobody knows any more what it was
	}
	return Record{}, nil
}

// fromWAL returns the op as it was submitted, nil when it was not logged, or only after a reader
// had changed it, or can't be read.
func (f *flusher) fromWAL(ctx context.Context, e *entry) *Record {
	seg := f.q.SegmentOf(e)
	if seg == 0 {
		return nil
	}
	s, ok, err := f.wal.Read(ctx, seg)
	if err != nil || !ok {
		return nil
	}
	for _, ops := range s.Units {
		for _, op := range ops {
			if op.id() == e.id() && op.compare(e) == 0 && op.state.Load()&stateDamaged == 0 {
				rec := op.record()
				rec.Priority = e.priority
				return &rec
			}
		}
	}
	return nil
}

// SegmentOf returns where the log holds an op of the queue, 0 when it does not.
func (q *queue) SegmentOf(e *entry) int64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	if e.seg == nil {
		return 0
	}
	return e.seg.id // 0 for beingLogged and elsewhere
}
