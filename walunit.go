package syncengine

// walunit.go is what the journal's payloads are made of.
//
// A unit is one op, or all ops of a group. A payload is a sequence of units, so a group is
// never torn (INV-5).
//
// Format of a unit: uvarint number of ops, then each op: flags byte, priority byte, uvarint
// version, varint updated-at (unix ns), uvarint-prefixed id, content, and, if flagged, crdt kind,
// traceparent, tracestate, home instance, and, if flagged, a byte that tells how often L3 has
// refused the op, and, if flagged, the hash, and, if flagged, varint expiry (unix ms). Hashes are
// not stored but for content that no longer matches its own (sound.go): the log's checksum guards
// the bytes and the hash is computed again.
//
// Three more flags tell of an op in quarantine that it is superseded, and of one in the log that a
// later one of its id was there before it, and that L3 had stored it before.

import (
	"encoding/binary"
	"errors"
)

const (
	opDeleted byte = 1 << iota
	opCarried
	opRetried
	opHashed
	opSuperseded
	opLate
	opExpires
	opDecided
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
		if e.meta != nil && e.meta.strings() {
			flags |= opCarried
		}
		if e.expires() != 0 {
			flags |= opExpires
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
		if e.state.Load()&stateLate != 0 {
			flags |= opLate
		}
		if e.state.Load()&stateDecided != 0 {
			flags |= opDecided
		}
		b = append(b, flags, byte(e.priority))
		b = binary.AppendUvarint(b, e.version)
		b = binary.AppendVarint(b, e.updatedAt)
		b = binary.AppendUvarint(b, uint64(e.idLen))
		b = binary.AppendUvarint(b, uint64(len(e.content())))
		b = append(append(b, e.id()...), e.content()...)
		if m := e.meta; flags&opCarried != 0 {
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
		if flags&opExpires != 0 {
			b = binary.AppendVarint(b, e.meta.expires)
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
			n += 5*binary.MaxVarintLen64 + len(m.crdt) + len(m.traceParent) + len(m.traceState) + len(m.home)
		}
	}
	return n
}

// decodeUnits returns the units of a payload. Entries have memory of their own. Any
// payload yields units or an error, never a panic, and memory in proportion to its size.
func decodeUnits(payload []byte) (units [][]*entry, err error) { return decodeOps(payload, nil) }

// decodeOps is decodeUnits for the ops that are wanted: the others are skipped, and nothing is
// allocated for them. Without want it is all of them.
func decodeOps(payload []byte, want opFilter) (units [][]*entry, err error) {
	d := decoder{b: payload, want: want}
	for len(d.b) > 0 && !d.bad {
		n := d.uvarint()
		if n == 0 || n > uint64(len(d.b)) { // an op has more than one byte
			return nil, errBadPayload
		}
		var ops []*entry
		if want == nil {
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

// supersede sets the flag of those ops in a payload that are found to be superseded.
func supersede(payload []byte, want opFilter, found func(e *entry) bool) error {
	d := decoder{b: payload, want: want}
	for len(d.b) > 0 && !d.bad {
		for n := d.uvarint(); n > 0 && !d.bad; n-- {
			head := d.b
			if e := d.op(); e != nil && found(e) {
				head[0] |= opSuperseded
			}
		}
	}
	if d.bad {
		return errBadPayload
	}
	return nil
}

// opFilter tells which ops are decoded. It must not keep id.
type opFilter func(id []byte, version uint64) bool

// decoder reads from the front of b; after an error bad is set and all results are zero.
type decoder struct {
	b    []byte
	bad  bool
	want opFilter // nil for all
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
	if d.bad || !Priority(int8(head[1])).valid() {
		d.bad = true
		return nil
	}
	version, updatedAt := d.uvarint(), d.varint()
	idLen, contentLen := d.uvarint(), d.uvarint()
	if idLen == 0 || idLen > maxMergeKey || contentLen > uint64(len(d.b)) || version > MaxVersion {
		d.bad = true
		return nil
	}
	id := d.take(idLen)
	if d.want != nil && !d.want(id, version) {
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
	if head[0]&opLate != 0 {
		e.state.Or(stateLate)
	}
	if head[0]&opDecided != 0 {
		e.state.Or(stateDecided)
	}
	if head[0]&opHashed != 0 {
		copy(e.hash[:], d.take(uint64(len(e.hash))))
		e.state.Or(stateDamaged)
	} else if !e.deleted && !d.bad {
		e.hash = hashOf(e.content())
	}
	if head[0]&opExpires != 0 {
		ms := d.varint()
		if d.bad = d.bad || ms == 0 || e.deleted; e.meta == nil {
			e.meta = &carried{}
		}
		e.meta.expires = ms
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
	if flags&opExpires != 0 {
		d.varint()
	}
}
