package syncengine

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"time"
)

// Record is what a tier holds for one id: an item, or a tombstone (a delete that is
// remembered, with the version of the delete and no content). A store keeps all fields of Item but
// AccessCount, LastAccessed and Stale, of a tombstone without ExpiresAt. It need not do anything
// when an item expires: engines don't show it any more. A cache may drop it then.
type Record struct {
	Item
	Deleted bool
}

// Compare orders two records of one id: by version; at equal versions a delete is
// above a put; then the larger content hash is above. All tiers use this order, so
// they agree whoever writes first (INV-3). It returns -1, 0 or 1.
func (r *Record) Compare(o *Record) int {
	return compareOps(r.Version, o.Version, r.Deleted, o.Deleted, &r.ContentHash, &o.ContentHash)
}

func compareOps(aVersion, bVersion uint64, aDeleted, bDeleted bool, a, b *[32]byte) int {
	switch {
	case aVersion != bVersion:
		return cmp.Compare(aVersion, bVersion)
	case aDeleted != bDeleted:
		if bDeleted {
			return -1
		}
		return 1
	case aDeleted:
		return 0
	}
	return bytes.Compare(a[:], b[:])
}

// Outranks reports whether a row stays when r is applied to it, and so is among those that
// ArchiveStore.Apply returns: it compares above r, or differs from it in ExpiresAt alone, since a
// version has one expiry.
func (m *Meta) Outranks(r *Record) bool {
	head := m.record()
	return head.Compare(r) > 0 || m.twin(r)
}

// Found is a store's answer for one id of a GetMany.
type Found struct {
	Record Record
	OK     bool  // the store holds Record for the id (perhaps a tombstone)
	Err    error // *CorruptionError: the store holds something else for this id
}

// answer returns it as Get would.
func (f *Found) answer() (*Record, error) {
	if f.Err == nil && !f.OK {
		return &f.Record, ErrNotFound
	}
	return &f.Record, f.Err
}

// getMany asks a store for many ids. One that does not answer each has broken its word.
func getMany(ctx context.Context, s interface {
	GetMany(ctx context.Context, ids []string) ([]Found, error)
}, ids []string) ([]Found, error) {
	found, err := s.GetMany(ctx, ids)
	if err == nil && len(found) != len(ids) {
		err = fmt.Errorf("GetMany of the store has %d answers for %d ids", len(found), len(ids))
	}
	return found, err
}

// CacheStore is L2: a cache shared between engines. The engine brings one for Redis;
// Config.L2 takes any other.
//
// Every method may be called concurrently, honours ctx, and returns an error that
// wraps ErrUnavailable for an outage. Values it can't read are a *CorruptionError for
// that id alone. What one store has put or removed, all stores on the same cache see once that
// call has returned.
type CacheStore interface {
	// Get returns the record of id, a tombstone included, or ErrNotFound.
	Get(ctx context.Context, id string) (Record, error)
	// GetMany answers all ids, aligned with them, in one round trip. An id may occur twice.
	GetMany(ctx context.Context, ids []string) ([]Found, error)
	// Put stores each record unless the cache holds one that compares above it. What it can't
	// compare it replaces; damage that makes a value look newer has to be removed first, as the
	// engine does with every value Get could not read. After an error any part may have been
	// stored; repeating it is harmless.
	Put(ctx context.Context, recs []Record) error
	// Remove drops ids, whatever is stored there. A dropped record is a miss, never a
	// lost write.
	Remove(ctx context.Context, ids []string) error
	// Scan calls fn with the ids the cache holds, in pages, in any order, perhaps some
	// of them twice. Ids that come or go meanwhile may be missed.
	Scan(ctx context.Context, fn func(ids []string) error) error
	// Ping reports whether the server answers.
	Ping(ctx context.Context) error
	// Close frees what the store opened itself.
	Close() error
}

// Meta is a row of ArchiveStore.Scan: what a comparison needs, without content.
type Meta struct {
	ID          string
	Version     uint64
	Deleted     bool
	ContentHash [32]byte
	ExpiresAt   time.Time // of a live row that expires, else zero; in UTC
}

// record returns what a comparison needs of a row.
func (m *Meta) record() Record {
	return Record{Item: Item{ID: m.ID, Version: m.Version, ContentHash: m.ContentHash, ExpiresAt: m.ExpiresAt}, Deleted: m.Deleted}
}

// meta returns what a comparison needs of a record.
func (r *Record) meta() Meta {
	return Meta{ID: r.ID, Version: r.Version, Deleted: r.Deleted, ContentHash: r.ContentHash, ExpiresAt: r.ExpiresAt}
}

// ArchiveStore is L3, the ground truth. The engine brings one for MySQL/MariaDB and
// SQLite; Config.L3 takes any other.
//
// Every method may be called concurrently and honours ctx. An error that wraps
// neither ErrRefused, ErrNotFound nor ErrCorruption is taken for an outage.
//
// Engines have a store each, on one database. What one store has written, all of them read, by
// every method, once that call has returned: a store remembers no rows, and reads no replica that
// may lag behind. Writers of one id follow each other, whichever stores they use.
type ArchiveStore interface {
	// Prepare connects and brings the schema up to date. It may be called again after
	// an error; the other methods are called only after it returned nil once. An error
	// that wraps ErrUnavailable is an outage; any other makes Open fail.
	Prepare(ctx context.Context) error
	// Get returns the record of id, a tombstone included, or ErrNotFound, or a
	// *CorruptionError.
	Get(ctx context.Context, id string) (Record, error)
	// GetMany answers all ids, aligned with them. An id may occur twice. Reads of single ids that
	// wait at the same time are asked for by it, too.
	GetMany(ctx context.Context, ids []string) ([]Found, error)
	// Heads returns the rows of ids without content, those that exist, in any order.
	Heads(ctx context.Context, ids []string) ([]Meta, error)
	// Apply writes all records in one transaction; each replaces what the store holds
	// only if it compares above that. It returns the rows that compare above their records
	// and so stay, without content; see Meta.Outranks. An id occurs at most once. A *RefusedError
	// means that a row was refused for its own sake and nothing was written. After any other error
	// the outcome is unknown and Apply may be repeated.
	Apply(ctx context.Context, recs []Record) (above []Meta, err error)
	// Scan returns up to limit rows with ids above after, in byte order of the id,
	// tombstones included: fewer only if there are no more. after need not be an id, nor valid
	// UTF-8, and may be longer than one.
	Scan(ctx context.Context, after string, limit int) ([]Meta, error)
	// PurgeTombstones removes up to limit tombstones of deletes before the given time
	// and returns how many.
	PurgeTombstones(ctx context.Context, before time.Time, limit int) (int, error)
	// Ping reports whether the server answers.
	Ping(ctx context.Context) error
	// Close frees what the store opened itself.
	Close() error
}

// Conditional is a record that is stored only if a condition holds.
type Conditional struct {
	Record
	// Version that the id must be at: that of its live row. 0: it has none; a tombstone is
	// none.
	IfVersion uint64
	// Always waives IfVersion: what decides is only that the record is not below the row.
	Always bool
	// Now is the time by which a row that expires counts as none. Zero: no live row
	// does.
	Now time.Time
}

// Decision is what became of a unit of conditional records.
type Decision uint8

// The decisions. Only DecidedApplied has changed anything.
const (
	DecidedApplied   Decision = iota // stored; with Always also when the row was equal
	DecidedConflict                  // a condition does not hold
	DecidedOutranked                 // the conditions hold, but a record is not above the row of its id
)

// Verdict is the answer of ApplyIf for one unit.
type Verdict struct {
	Decision Decision
	// Of the record that decided against the unit: its place in the unit, and the row of its
	// id, zero when there is none. With DecidedOutranked it is the highest of those rows.
	At  int
	Row Meta
}

// ConditionalStore is an ArchiveStore that decides conditions in its transactions. Engines
// that share an L3 need it for Insert, Update and the like; without it these return a
// *ConfigError.
type ConditionalStore interface {
	ArchiveStore
	// ApplyIf judges units in order, in one transaction: each sees what those before it
	// have stored. A unit is stored as a whole or not at all. An id occurs at most once in a
	// unit, and in as many units as you like.
	//
	// An error that wraps ErrUnknownOutcome means that the transaction may have been
	// committed, now or later: then the verdicts are those that hold if it was, and Landed
	// tells. After any other error nothing was stored, nor will be. A *RefusedError means
	// that a row was refused for its own sake.
	//
	// nonce names the transaction. It rises from call to call, and calls follow each other:
	// a call tells the store that nobody will ask about lower ones. Nonces are those of one store:
	// others on the same database use the same numbers, for transactions of their own.
	ApplyIf(ctx context.Context, nonce uint64, units [][]Conditional) ([]Verdict, error)
	// Landed reports whether the ApplyIf of that nonce was committed. Once it has said no, that
	// transaction is never committed.
	Landed(ctx context.Context, nonce uint64) (bool, error)
}

// MergingStore is a ConditionalStore that merges the ops of CRDT items; engines need it for items
// with a kind. Such an op is a Record whose ID is a key of its own, see ParseMergeKey: ApplyIf is
// given them, too. It keeps one version for an item whatever is merged: above the one before, and
// even; odd ones are those of what engines show while merges wait.
type MergingStore interface {
	ConditionalStore
	// ApplyMerges is Apply for records some of which are merges. Each changes its item, in the
	// order of keys, unless the same merge was applied before, or the item's tombstone is not
	// below it: then above has the tombstone, under the key of the merge. Nor does a delta change a
	// state whose clock has its number, unless a later merge of its node was applied already:
	// somebody has read a state with it where it waited, and submitted that. A merge into a live
	// item that is plain, or of another kind, is a *RefusedError. merged is what the items hold
	// then that a merge of recs is about, as records with the ids of items; those may be left out
	// whose merges are all in above.
	ApplyMerges(ctx context.Context, recs []Record) (above []Meta, merged []Record, err error)
}

// ListingStore is an ArchiveStore that lists what it holds, with content. Engine.All needs
// it; without it the error is a *ConfigError.
type ListingStore interface {
	ArchiveStore
	// List returns rows with ids that begin with prefix and are above after, in byte order of the
	// id, tombstones included; prefix and after may be empty, and need not be valid UTF-8. It ends
	// a page after limit rows, or after the row with which their contents have maxBytes, and has
	// more set then: there may be more. A row that can't be read has Err set and the ID in Record.
	// Nothing is held open between two calls.
	List(ctx context.Context, prefix, after string, limit int, maxBytes int64) (page []Found, more bool, err error)
}

// ExpiringStore is an ArchiveStore that finds the rows whose time has come. WithTTL and
// Config.DefaultTTL need it; without it they are a *ConfigError.
type ExpiringStore interface {
	ArchiveStore
	// Expired returns up to limit live rows whose ExpiresAt is not after a time, in any order. It
	// changes nothing: the engine then applies a delete of the same version to each. On a store
	// of your own engines go by the clocks of their hosts.
	Expired(ctx context.Context, at time.Time, limit int) ([]Meta, error)
}

// Judge decides units by the rows of their ids, in order, each in sight of what those before it
// have stored. It returns what is to be written, of each id once. It is for writers of a
// ConditionalStore; rows is not changed.
func Judge(rows map[string]Meta, units [][]Conditional) (verdicts []Verdict, write []Record) {
	changed := make(map[string]int) // id -> its place in write
	at := func(key string) Meta {
		id := itemOf(key)
		if i, ok := changed[id]; ok {
			m := write[i].meta()
			m.ID = id
			return m
		}
		return rows[id]
	}
	for _, unit := range units {
		v := judgeUnit(at, unit)
		if verdicts = append(verdicts, v); v.Decision != DecidedApplied {
			continue
		}
		for i := range unit {
			r := &unit[i].Record
			row, as := at(r.ID), r.meta()
			if row.same(&as) {
				continue // an identical repetition
			}
			id := itemOf(r.ID)
			k, ok := changed[id]
			if ok && !isMerge(r.ID) && !isMerge(write[k].ID) {
				write[k] = *r
			} else { // of merges each is needed
				changed[id] = len(write)
				write = append(write, *r)
			}
		}
	}
	return verdicts, write
}

func judgeUnit(at func(id string) Meta, unit []Conditional) Verdict {
	v := Verdict{Decision: DecidedApplied}
	for i := range unit {
		c, row := &unit[i], at(unit[i].ID)
		live := row.Version
		if row.Deleted || !c.Now.IsZero() && row.expired(func() time.Time { return c.Now }) {
			live = 0
		}
		if !c.Always && live != c.IfVersion {
			return Verdict{DecidedConflict, i, row}
		}
		head := row.record()
		cmp := 1
		if row.Version != 0 {
			cmp = c.Record.Compare(&head)
		}
		if (cmp < 0 || cmp == 0 && (!c.Always || row.twin(&c.Record))) && (v.Decision == DecidedApplied || row.Version > v.Row.Version) {
			v = Verdict{DecidedOutranked, i, row}
		}
	}
	return v
}
