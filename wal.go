package syncengine

// wal.go is the face of the log (internal/oplog) in the engine's words: it encodes units
// of ops into payloads, decodes them, and counts what is live.
//
// A unit is one op, or all ops of a group. A payload is a sequence of units, so a group is
// never torn (INV-5).
//
// Ops get their versions under the same lock that puts them into the log (versions.go), so
// that the log holds the ops of one id in version order; and segments are trimmed from the front only.
// So when the log holds an op it holds all later ones of that id, too, and a crash never
// brings back an old op alone. (Two exceptions remain, where L3 may hold something newer
// than what is recovered: a Buffered op that was flushed but never logged, and a write of
// another engine. Reads of recovered ops therefore ask L3 as well, see read.go.)
//
// Format of a unit: uvarint number of ops, then each op: flags byte, priority byte,
// uvarint version, varint updated-at (unix ns), uvarint-prefixed id, content, and, if
// flagged, crdt kind, traceparent, tracestate, home instance, and, if flagged, a byte that
// tells how often L3 has refused the op, and, if flagged, the hash. Hashes are not stored but
// for content that no longer matches its own (sound.go): the log's checksum guards the bytes and
// the hash is computed again. One more flag tells of an op in quarantine that it is superseded.

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/syncengine-go/syncengine/internal/oplog"
)

const (
	opDeleted byte = 1 << iota
	opCarried
	opRetried
	opHashed
	opSuperseded
	opKnown = opDeleted | opCarried | opRetried | opHashed | opSuperseded
)

var errBadPayload = errors.New("payload can't be decoded")

// encodeUnit appends a unit to b. check tells that readers have seen the ops, and may have
// changed their content.
func encodeUnit(b []byte, ops []*entry, check bool) []byte {
	b = binary.AppendUvarint(b, uint64(len(ops)))
	for _, e := range ops {
		var flags byte
		if e.deleted {
			flags |= opDeleted
		}
		if e.meta != nil {
			flags |= opCarried
		}
		if e.attempts > 0 {
			flags |= opRetried
		}
		if check && !e.deleted && hashOf(e.content()) != e.hash {
			flags |= opHashed
		}
		if e.state.Load()&stateSuperseded != 0 {
			flags |= opSuperseded
		}
		b = append(b, flags, byte(e.priority))
		b = binary.AppendUvarint(b, e.version)
		b = binary.AppendVarint(b, e.updatedAt)
		b = binary.AppendUvarint(b, uint64(e.idLen))
		b = binary.AppendUvarint(b, uint64(len(e.content())))
		b = append(append(b, e.id()...), e.content()...)
		if m := e.meta; m != nil {
			for _, s := range [...]string{m.crdt, m.traceParent, m.traceState, m.home} {
				b = binary.AppendUvarint(b, uint64(len(s)))
				b = append(b, s...)
			}
		}
		if e.attempts > 0 {
			b = append(b, e.attempts)
		}
		if flags&opHashed != 0 {
			b = append(b, e.hash[:]...)
		}
	}
	return b
}

// unitSize is an upper bound of what encodeUnit appends.
func unitSize(ops []*entry) int {
	n := binary.MaxVarintLen64
	for _, e := range ops {
		n += 3 + 4*binary.MaxVarintLen64 + len(e.hash) + e.bytes()
		if m := e.meta; m != nil {
			n += 4*binary.MaxVarintLen64 + len(m.crdt) + len(m.traceParent) + len(m.traceState) + len(m.home)
		}
	}
	return n
}

// decodeUnits returns the units of a payload. Entries have memory of their own. Any
// payload yields units or an error, never a panic, and memory in proportion to its size.
func decodeUnits(payload []byte) (units [][]*entry, err error) { return decodeOps(payload, "") }

// decodeOps is decodeUnits for the ops of one id: the others are skipped, and nothing is
// allocated for them. No id stands for all.
func decodeOps(payload []byte, id string) (units [][]*entry, err error) {
	d := decoder{b: payload, only: id}
	for len(d.b) > 0 && !d.bad {
		n := d.uvarint()
		if n == 0 || n > uint64(len(d.b)) { // an op has more than one byte
			return nil, errBadPayload
		}
		var ops []*entry
		if id == "" {
			ops = make([]*entry, 0, n)
		}
		for range n {
			e := d.op()
			if d.bad {
				return nil, errBadPayload
			}
			if e != nil {
				ops = append(ops, e)
			}
		}
		if len(ops) > 0 {
			units = append(units, ops)
		}
	}
	if d.bad {
		return nil, errBadPayload
	}
	return units, nil
}

// decoder reads from the front of b; after an error bad is set and all results are zero.
type decoder struct {
	b    []byte
	bad  bool
	only string // the id of the ops to decode, "" for all
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.bad, d.b = true, nil
		return 0
	}
	d.b = d.b[n:]
	return v
}

// varint is the zigzag form of uvarint, as binary.AppendVarint writes it.
func (d *decoder) varint() int64 {
	u := d.uvarint()
	return int64(u>>1) ^ -int64(u&1)
}

func (d *decoder) take(n uint64) []byte {
	if n > uint64(len(d.b)) {
		d.bad, d.b = true, nil
		return nil
	}
	p := d.b[:n]
	d.b = d.b[n:]
	return p
}

func (d *decoder) op() *entry {
	head := d.take(2)
	if d.bad || head[0]&^opKnown != 0 || !Priority(int8(head[1])).valid() {
		d.bad = true
		return nil
	}
	version, updatedAt := d.uvarint(), d.varint()
	idLen, contentLen := d.uvarint(), d.uvarint()
	if idLen == 0 || idLen > MaxIDBytes || contentLen > uint64(len(d.b)) || version > MaxVersion {
		d.bad = true
		return nil
	}
	id := d.take(idLen)
	if d.only != "" && string(id) != d.only {
		d.skip(contentLen, head[0])
		return nil
	}
	e := &entry{deleted: head[0]&opDeleted != 0, priority: Priority(int8(head[1])), version: version, updatedAt: updatedAt}
	e.setBytes(string(id), d.take(contentLen))
	if head[0]&opCarried != 0 {
		e.meta = &carried{}
		for _, s := range [...]*string{&e.meta.crdt, &e.meta.traceParent, &e.meta.traceState, &e.meta.home} {
			*s = string(d.take(d.uvarint()))
		}
	}
	if head[0]&opRetried != 0 {
		if n := d.take(1); !d.bad {
			e.attempts = n[0]
		}
	}
	if head[0]&opSuperseded != 0 {
		e.state.Store(stateSuperseded)
	}
	if head[0]&opHashed != 0 {
		copy(e.hash[:], d.take(uint64(len(e.hash))))
		e.state.Or(stateDamaged)
	} else if !e.deleted && !d.bad {
		e.hash = hashOf(e.content())
	}
	if d.bad {
		return nil
	}
	return e
}

// skip passes over what follows the id of an op.
func (d *decoder) skip(contentLen uint64, flags byte) {
	d.take(contentLen)
	if flags&opCarried != 0 {
		for range 4 {
			d.take(d.uvarint())
		}
	}
	if flags&opRetried != 0 {
		d.take(1)
	}
	if flags&opHashed != 0 {
		d.take(32)
	}
}

// wal is the engine's view of the log.
type wal struct {
	log   *oplog.Log
	items atomic.Int64 // ops that are not done and have a place in the log, see reserve
	bytes atomic.Int64 // of their ids and contents
	// The part of them that is in memory alone: Buffered ops, which go into the log in an outage.
	loneItems, loneBytes atomic.Int64

	current   *segment // only the log's loop uses it: the segment of the last request
	recovered int64    // segments up to this one were written by an earlier engine; set by Open

	// The spool index costs some 40 bytes per spooled id. It knows ids by their 64-bit
	// hash: at a million spooled ids the chance that any two share one is 3e-8.
	mu     sync.RWMutex        // guards spool
	spool  map[uint64]spoolRef // hash of id -> its newest spooled op
	spooln atomic.Int64        // len(spool), so that readers need no lock when it is 0
}

// spoolRef tells where an op is. The newest op is the one of the highest version, not
// that of the last segment: concurrent writers may be logged in another order.
type spoolRef struct {
	seg     int64
	version uint64
}

// append hands a unit, whose ops have their versions and their place (reserve), to the log.
// then runs on the log's loop, in log order, with the segment of the unit or the error that
// kept it out; last is true for the last unit of the segment. unless, if not nil, is asked on
// the loop just before the commit: an error keeps the unit out. newest is the largest version
// the clock has given out.
//
// Units enter the log in the order of these calls, so whoever gives out versions holds a lock
// from then until append has returned (versions.go).
func (w *wal) append(ops []*entry, newest uint64, unless func() error, then func(seg *segment, last bool, err error)) {
	payload := encodeUnit(make([]byte, 0, unitSize(ops)), ops, ops[0].pinned()) // accepted before: a Buffered unit
	w.log.Append(&oplog.Request{Payload: payload, Ops: len(ops), Max: newest, At: time.Now().UnixNano(), Unless: unless, Done: func(s *oplog.Segment, err error) {
		if err != nil {
			then(nil, false, walError(err))
			return
		}
		if w.current == nil || w.current.id != s.ID {
			w.current = &segment{id: s.ID, live: s.Ops, pending: s.Ops, bytes: int64(len(s.Payload))}
		}
		w.current.pending -= len(ops)
		then(w.current, w.current.pending == 0, nil)
	}})
}

// walLimits bound what the log holds.
type walLimits struct {
	items, bytes int64
	full         float64 // part of them from which on nothing more is taken
}

// reserve gives ops their place in the log, unless it is full or they would pass a limit. They
// keep it until they are in L3: those in the log, those on their way there, and Buffered ops,
// which an outage of L3 will put there. So the log has room for whatever was accepted, and calls
// side by side pass the mark of fullness by one unit, not by as many as there are.
func (w *wal) reserve(ops []*entry, lim walLimits) bool {
	n, size := int64(len(ops)), opsBytes(ops)
	items, bytes := w.items.Add(n), w.bytes.Add(size)
	if items <= lim.items && bytes <= lim.bytes &&
		float64(items-n) < lim.full*float64(lim.items) && float64(bytes-size) < lim.full*float64(lim.bytes) {
		return true
	}
	w.release(ops)
	return false
}

// release takes a place back.
func (w *wal) release(ops []*entry) {
	w.items.Add(-int64(len(ops)))
	w.bytes.Add(-opsBytes(ops))
}

// unlogged notes that accepted ops are in memory alone (by is 1), or no longer (-1).
func (w *wal) unlogged(ops []*entry, by int64) {
	w.loneItems.Add(by * int64(len(ops)))
	w.loneBytes.Add(by * opsBytes(ops))
}

// done notes that ops of a segment are done.
func (w *wal) done(seg *segment, ops []*entry) {
	w.release(ops)
	seg.live -= len(ops)
}

// addSpooled remembers where a spooled op is.
func (w *wal) addSpooled(hash uint64, ref spoolRef) {
	w.mu.Lock()
	if w.spool == nil {
		w.spool = make(map[uint64]spoolRef)
	}
	if old, ok := w.spool[hash]; !ok || old.version <= ref.version {
		w.spool[hash] = ref
	}
	w.spooln.Store(int64(len(w.spool)))
	w.mu.Unlock()
}

// dropSpooled forgets where ops of an id up to a version are spooled.
func (w *wal) dropSpooled(hash, version uint64) {
	if w.spooln.Load() == 0 {
		return
	}
	w.mu.Lock()
	if ref, ok := w.spool[hash]; ok && ref.version <= version {
		delete(w.spool, hash)
	}
	if len(w.spool) == 0 {
		w.spool = nil // a map never shrinks
	}
	w.spooln.Store(int64(len(w.spool)))
	w.mu.Unlock()
}

// dropDiscarded forgets where an op is spooled that is not wanted any more, in segments up to one.
func (w *wal) dropDiscarded(hash, version uint64, upTo int64) {
	w.mu.Lock()
	if ref, ok := w.spool[hash]; ok && ref.version == version && ref.seg <= upTo {
		delete(w.spool, hash)
	}
	w.spooln.Store(int64(len(w.spool)))
	w.mu.Unlock()
}

// spooledAt returns where the newest spooled op of an id is.
func (w *wal) spooledAt(hash uint64) (ref spoolRef, ok bool) {
	if w.spooln.Load() == 0 {
		return spoolRef{}, false
	}
	w.mu.RLock()
	ref, ok = w.spool[hash]
	w.mu.RUnlock()
	return ref, ok
}

// findSpooled returns the newest spooled op of id, or nil when there is none. recovered
// tells that an earlier engine wrote it.
func (w *wal) findSpooled(ctx context.Context, id string, hash uint64) (op *entry, recovered bool, err error) {
	for {
		ref, ok := w.spooledAt(hash)
		if !ok {
			return nil, false, nil
		}
		s, ok, err := w.log.Get(ctx, ref.seg)
		if err != nil {
			return nil, false, walError(err)
		}
		if ok {
			op, err = newestIn(s, id)
			return op, ref.seg <= w.recovered, err
		}
		// Drained meanwhile: the index is changed before the segment is trimmed, so it
		// no longer says the same.
		if ctx.Err() != nil {
			return nil, false, ctx.Err()
		}
	}
}

// newestIn returns the newest op of an id in a segment, nil when there is none.
func newestIn(s oplog.Segment, id string) (best *entry, err error) {
	units, err := decodeOps(s.Payload, id)
	if err != nil {
		return nil, walError(err)
	}
	for _, ops := range units {
		for _, e := range ops {
			if best == nil || e.compare(best) > 0 {
				best = e
			}
		}
	}
	if best != nil && best.state.Load()&stateDamaged != 0 {
		return nil, best.damage("WAL")
	}
	return best, nil
}

// walError puts a log error into the engine's words.
func walError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, oplog.ErrLocked):
		return fmt.Errorf("%w: %w", ErrLocked, err)
	case errors.Is(err, oplog.ErrCorrupt), errors.Is(err, errBadPayload):
		return fmt.Errorf("%w: %w", ErrWALCorrupt, err)
	case errors.Is(err, oplog.ErrClosed):
		return ErrClosed
	case errors.Is(err, oplog.ErrFull):
		return &BackpressureError{Level: LevelCritical, RetryAfter: LevelCritical.RetryAfter(), Reason: "the disk of the WAL is full"}
	}
	return unavailable("WAL", err)
}
