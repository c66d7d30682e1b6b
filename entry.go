package syncengine

// entry.go is what an op looks like in memory, from its version to the moment when memory lets go
// of it, and what an item or tombstone read from elsewhere looks like. All departments pass
// entries on.
//
// An entry is immutable but for its atomics, and seg, which belongs to the queue.

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/syncengine-go/syncengine/internal/evict"
)

// entryOverhead is what an entry costs beside id and content: the struct (size class 128, a short
// id within), the map's node and bucket share (47 bytes measured), the place in residents (8),
// and half a step of rounding in the allocation of the content. What eviction remembers (16 to 32
// bytes) is counted by itself.
const entryOverhead = 190

// metaOverhead is the struct of carried strings.
const metaOverhead = int(unsafe.Sizeof(carried{}))

// Bits of entry.state.
const (
	statePinned     uint32 = 1 << iota // the queue waits to write this op: it must stay in memory
	stateDetached                      // counted in l1.detached: the queue holds it, the map does not
	stateAsked                         // of an op before accept: its priority was asked for, see raise
	stateSuperseded                    // of an op read from quarantine: a later one of its id is in L3
	stateDamaged                       // of an op read from the WAL: its content does not match its hash
	stateLost                          // of an op before accept: the log did not take it
	stateRaised                        // of a queued op: it is flushed as if its priority were high
	stateReplaced                      // of a queued op: a later op of this engine stands for it
	stateOwn                           // of an entry in L1: this engine has written it
	stateLate                          // of an op in the log: a later one of its id was there before it
	stateUnsure                        // of a queued merge: L3 may have it already
	stateDecided                       // of an op in the log: L3 had stored it before
	stateOutdated                      // of a pinned entry: another engine has written the id since
)

// entry is an item or a tombstone in memory. A short id lies in the entry itself, so that the
// map's comparison of keys loads the line that the reader needs next; a longer one shares an
// allocation with the content. Nobody else holds either.
type entry struct {
	short      [shortID]byte
	deleted    bool
	idLen      uint16
	attempts   uint8 // how often L3 has refused the op, as far as quarantine knows; 255 and more are 255
	priority   Priority
	data       *byte    // length bytes: the id unless it is short, then the content; nil for none
	meta       *carried // nil for most items
	seg        *segment // where the WAL holds the op; guarded by the queue's mutex but in flight; nil: not logged, or done
	version    uint64
	updatedAt  int64 // unix nanoseconds
	hash       [32]byte
	place      evict.State
	length     uint32
	lastAccess atomic.Uint32 // ticks of the engine's clock, see coarse
	checked    atomic.Uint32 // ticks: when it was written, or last compared with a lower tier
	state      atomic.Uint32
}

// shortID is the length up to which an id is kept in the entry. With it an entry is two lines
// of the processor's cache, and fills its size class.
const shortID = 19

// carried holds the fields that most items leave empty.
type carried struct {
	crdt, traceParent, traceState, home string
	expires                             int64 // unix milliseconds, 0 for never
}

// strings reports whether there is one.
func (c *carried) strings() bool {
	return c.crdt != "" || c.traceParent != "" || c.traceState != "" || c.home != ""
}

// segment is a committed segment of the log.
type segment struct {
	id      int64
	live    int   // ops that are not done; guarded by the queue's mutex
	pending int   // ops whose requests have not been told yet; only the log's loop uses it
	bytes   int64 // of the payload
	decided bool  // spooled is set
	spooled bool  // memory did not take its ops; the drain will read them
}

// newEntry copies an item into memory of the engine's own.
func newEntry(r *Record) *entry {
	e := &entry{hash: r.ContentHash, version: r.Version, updatedAt: r.UpdatedAt.UnixNano(), priority: r.Priority, deleted: r.Deleted}
	e.setBytes(r.ID, r.Content)
	m := carried{crdt: r.CRDT, traceParent: r.TraceParent, traceState: r.TraceState, home: r.HomeInstanceID}
	if !r.Deleted {
		m.expires = millis(r.ExpiresAt)
	}
	if m.expires != 0 || m.strings() {
		e.meta = new(carried) // not &m, which would be on the heap for all
		*e.meta = m
	}
	return e
}

// setBytes copies id and content.
func (e *entry) setBytes(id string, content []byte) {
	e.idLen = uint16(len(id))
	if len(id) <= shortID {
		copy(e.short[:], id)
		id = ""
	}
	if n := len(id) + len(content); n > 0 {
		buf := append(append(make([]byte, 0, n), id...), content...)
		e.data, e.length = unsafe.SliceData(buf), uint32(n)
	}
}

// setPriority sets a priority that counts as it is.
func (e *entry) setPriority(p Priority) {
	e.priority = p
	e.state.Store(stateAsked)
}

// become makes an op that nobody has seen yet a copy of another one.
func (e *entry) become(o *entry) {
	e.deleted, e.hash, e.meta, e.priority, e.updatedAt = o.deleted, o.hash, o.meta, o.priority, o.updatedAt
	e.setBytes(o.id(), o.content())
}

// id aliases the entry or its data, which never change.
func (e *entry) id() string {
	if e.idLen <= shortID {
		return unsafe.String(&e.short[0], int(e.idLen))
	}
	return unsafe.String(e.data, int(e.idLen))
}

// isMerge reports whether this is a merge, whose id is a key of its own.
func (e *entry) isMerge() bool { return e.meta != nil && e.meta.crdt != "" && isMerge(e.id()) }

// kind is that of its item, "" for a plain one.
func (e *entry) kind() string {
	if e.meta == nil {
		return ""
	}
	return e.meta.crdt
}

// item is the id of the item that an op is about.
func (e *entry) item() string {
	if e.meta == nil || e.meta.crdt == "" { // nearly always
		return e.id()
	}
	return itemOf(e.id())
}

// setSeq gives a merge that nobody has seen yet the number of its dot.
func (e *entry) setSeq(seq uint64) { copy(e.seqText(), fmt.Sprintf("%0*x", seqDigits, seq)) }

func (e *entry) hasSeq() bool { return string(e.seqText()) != noSeq }

func (e *entry) seqText() []byte {
	key := unsafe.Slice(e.data, int(e.idLen)) // longer than shortID
	return key[len(key)-seqEnd:][:seqDigits]
}

// content aliases the data; it has no room to append to.
func (e *entry) content() json.RawMessage {
	buf := unsafe.Slice(e.data, int(e.length))
	if e.idLen > shortID {
		buf = buf[e.idLen:]
	}
	return buf
}

// bytes is the length of id and content.
func (e *entry) bytes() int { return int(e.idLen) + len(e.content()) }

func (e *entry) size() int64 {
	n := e.bytes() + entryOverhead
	if e.meta != nil {
		n += metaOverhead + len(e.meta.crdt) + len(e.meta.traceParent) + len(e.meta.traceState) + len(e.meta.home)
	}
	return int64(n)
}

// compare is Record.Compare for entries.
func (e *entry) compare(o *entry) int {
	return compareOps(e.version, o.version, e.deleted, o.deleted, &e.hash, &o.hash)
}

// twin reports whether two ops are one but for the expiry; see Meta.twin.
func (e *entry) twin(o *entry) bool {
	return e.version == o.version && !e.deleted && e.compare(o) == 0 && e.expires() != o.expires()
}

// record returns the entry as stores see it, sharing its content.
func (e *entry) record() (r Record) {
	r.Deleted = e.deleted
	e.fill(&r.Item)
	return r
}

// fill sets the fields of an item, sharing the content.
func (e *entry) fill(it *Item) {
	it.ID, it.Version, it.UpdatedAt = e.id(), e.version, time.Unix(0, e.updatedAt).UTC()
	it.ContentHash, it.Priority = e.hash, e.priority
	if !e.deleted {
		it.Content = e.content()
	}
	if m := e.meta; m != nil {
		it.CRDT, it.TraceParent, it.TraceState, it.HomeInstanceID = m.crdt, m.traceParent, m.traceState, m.home
		it.ExpiresAt = expiryAt(m.expires)
	}
}

// saysAbsent reports whether an entry in L1 stands for L3's word that there is nothing
// (KeepAbsent); a view of merges into nothing (merging.go) has no version either.
func (e *entry) saysAbsent() bool { return e.version == 0 && !isMerge(e.id()) }

func (e *entry) pinned() bool { return e.state.Load()&statePinned != 0 }

// shadow is an entry without id and content, to compare with.
func (e *entry) shadow() *entry {
	s := &entry{version: e.version, deleted: e.deleted, hash: e.hash}
	if ms := e.expires(); ms != 0 {
		s.meta = &carried{expires: ms}
	}
	return s
}

// damage is the error of an op whose content does not match its hash.
func (e *entry) damage(tier string) error {
	actual := hashOf(e.content())
	return &CorruptionError{ID: e.id(), Tier: tier, Expected: hex.EncodeToString(e.hash[:]), Actual: hex.EncodeToString(actual[:])}
}

// What internal/evict asks of an entry.
func (e *entry) EvictState() *evict.State { return &e.place }

func (e *entry) Size() int64 { return e.size() }

func (e *entry) Pinned() bool { return e.pinned() }

func (e *entry) LastUse() uint32 { return e.lastAccess.Load() }

// sizeOf is what ops take in memory.
func sizeOf(ops []*entry) (n int64) {
	for _, e := range ops {
		n += e.size()
	}
	return n
}

// opsBytes is the length of their ids and contents.
func opsBytes(ops []*entry) (n int64) {
	for _, e := range ops {
		n += int64(e.bytes())
	}
	return n
}

func idsOf(ops []*entry) []string {
	ids := make([]string, len(ops))
	for i, op := range ops {
		ids[i] = op.id()
	}
	return ids
}

func staleError(op *entry, known uint64) error {
	return fmt.Errorf("%w: item %q: version %d, known is %d", ErrStaleVersion, op.id(), op.version, known)
}
