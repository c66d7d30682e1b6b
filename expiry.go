package syncengine

// expiry.go says what it means that an item expires, and holds what all departments know of it.
//
// # What holds
//
// An item may have a time, ExpiresAt, from which on it is not there: no call finds it, a condition
// counts it as absent, and what is written over it is written over nothing. The time is part of a
// version of the item and never changes with it: Touch writes a new version with the same content.
// So wherever two copies have one version they have one expiry, and neither the order of records
// nor the content hash knows of it. A caller's own number could break that, by WithVersion twice
// with a TTL each: the expiry that L3 holds stays, and the other write is outranked by it.
//
// Whoever looks decides, by the clock of L3 (fleettime.go), which engines agree on whatever their
// hosts' clocks say; not by the time of versions, which is ahead of it for good where a host was,
// while L3 was away. Nothing has to happen at that moment. What follows only makes room:
//
//   - Redis drops its copy by itself. The copy carries its time as well, for a Redis that is late.
//   - L1 drops its entries within a second or two (repair.Expire).
//   - L3 keeps the row until some engine purges it (repair.Expire): it reads the rows that are due,
//     and applies, as any write, a delete of the same version to each. A delete is above a put of
//     its version, and below all that was written since, so a row that was touched meanwhile stays,
//     engines that purge at the same time do the same, and no late copy of the put comes back. The
//     tombstone is an ordinary one, purged after TombstoneRetention.
//
// Between its time and the purge the digest of L3 has a row that Redis has not. So Verify purges
// first, and then takes what is due for absent on both sides (verify.go). Nor is a copy of it
// written to Redis by a repair.
//
// An op that is written late, from the WAL after an outage, may be due when it lands. It is written
// all the same, since it is above what was there before. If it is there already, and purged, the
// tombstone of its own version is what it has become: it is not superseded (flush.go).
//
// Items with a CRDT kind don't expire: a merge has no moment at which the whole of it is old.
//
// # Where it is kept
//
// Milliseconds since 1970, everywhere: in the column expires_at of L3, NULL for never; in the
// envelope in Redis; in the entry's carried fields in memory, since most items have none; in a unit
// of the WAL behind a flag of its own (walunit.go), so that older logs are read as they are.

import (
	"math"
	"time"
)

// millis is the time of an expiry as it is stored, 0 for never.
func millis(at time.Time) int64 {
	if at.IsZero() {
		return 0
	}
	if ms := at.UnixMilli(); ms != 0 {
		return ms
	}
	return 1
}

// expiryAt is the reverse of millis.
func expiryAt(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}

// expiryIn is the expiry of what is written now and lives for so long: no part of a millisecond
// less, and never for 0.
func expiryIn(now time.Time, ttl time.Duration) time.Time {
	if ttl <= 0 {
		return time.Time{}
	}
	const round = time.Millisecond - 1
	return expiryAt(millis(now.Add(min(ttl, math.MaxInt64-round) + round)))
}

// isDue reports whether the time of an expiry has come.
func isDue(at time.Time, clock func() time.Time) bool { return !at.IsZero() && !clock().Before(at) }

// expired reports whether the item is not there any more.
func (r *Record) expired(clock func() time.Time) bool { return isDue(r.ExpiresAt, clock) }

func (m *Meta) expired(clock func() time.Time) bool { return isDue(m.ExpiresAt, clock) }

// lapse makes an expired item what it is to everybody: a tombstone of its version, as of a delete
// at its time.
func (r *Record) lapse(clock func() time.Time) {
	if r.expired(clock) {
		*r = Record{Item: Item{ID: r.ID, Version: r.Version, UpdatedAt: r.ExpiresAt, Stale: r.Stale}, Deleted: true}
	}
}

// lapse is that of a record.
func (m *Meta) lapse(clock func() time.Time) {
	if m.expired(clock) {
		*m = Meta{ID: m.ID, Version: m.Version, Deleted: true}
	}
}

// expires is the time of an entry, 0 for never.
func (e *entry) expires() int64 {
	if e.meta == nil { // nearly always
		return 0
	}
	return e.meta.expires
}

// expired reports whether an entry is not there any more.
func (e *entry) expired(clock func() time.Time) bool {
	ms := e.expires()
	return ms != 0 && !clock().Before(expiryAt(ms))
}

// gone reports whether an entry stands for no item.
func (e *entry) gone(clock func() time.Time) bool { return e.deleted || e.expired(clock) }

// twin reports whether a row is what a record says, but for the expiry: a version has one.
func (m *Meta) twin(r *Record) bool {
	return m.Version == r.Version && !m.Deleted && !r.Deleted && m.ContentHash == r.ContentHash && millis(m.ExpiresAt) != millis(r.ExpiresAt)
}

// same reports whether two rows are of one state of an id.
func (m *Meta) same(o *Meta) bool {
	return m.ID == o.ID && m.Version == o.Version && m.Deleted == o.Deleted && m.ContentHash == o.ContentHash
}
