package syncengine

// l3row.go is what a row of sync_items looks like on its way in and out. On the way out
// anything may be damaged: a bad row is a *CorruptionError and nothing else fails for it.

import (
	"database/sql"
	"encoding/hex"
	"slices"
	"strconv"
	"time"
)

// plain reports whether a row has defaults in all columns but those of writtenPlain.
func (r *storedRow) plain() bool { return r.simple() && r.encoding == "" }

// simple reports whether it has in all but those and its encoding.
func (r *storedRow) simple() bool {
	return !r.Deleted && r.Priority == 0 && r.ExpiresAt.IsZero() && r.CRDT == "" && r.TraceParent == "" && r.TraceState == "" && r.HomeInstanceID == ""
}

// appendArgs appends the values of the columns in written, or writtenPlain.
func appendArgs(args []any, r *storedRow, plain bool) []any {
	if plain {
		return append(args, r.ID, int64(r.Version), r.UpdatedAt.UnixNano(), r.ContentHash[:], r.content)
	}
	var content, deletedAt, expires any
	deleted := int64(0)
	if r.Deleted {
		deleted, deletedAt = 1, r.UpdatedAt.UnixNano()
	} else {
		content = r.content
		if ms := millis(r.ExpiresAt); ms != 0 {
			expires = ms
		}
	}
	return append(args, r.ID, int64(r.Version), r.UpdatedAt.UnixNano(), deleted, r.ContentHash[:], content, int64(r.Priority),
		r.CRDT, r.TraceParent, r.TraceState, r.HomeInstanceID, expires, deletedAt, r.encoding)
}

// storedTime is a time as it is stored.
func storedTime(unixNano int64) time.Time { return time.Unix(0, unixNano).UTC() }

// scanHead reads a row of headColumns. A version that is none counts as 0, which is below
// all.
func scanHead(rows *sql.Rows) (m Meta, err error) {
	err = scanMeta(rows, &m)
	return m, err
}

// scanLocked is scanHead with the kind, and when it was deleted.
func scanLocked(rows *sql.Rows) (m lockedHead, err error) {
	var deletedAt optional
	err = scanMeta(rows, &m.Meta, &m.kind, &deletedAt)
	m.deletedAt = deletedAt.value
	return m, err
}

func scanMeta(rows *sql.Rows, m *Meta, more ...any) error {
	var hash sql.RawBytes
	var version, deleted number
	var expires optional
	err := rows.Scan(append([]any{&m.ID, &version, &deleted, &hash, &expires}, more...)...)
	copy(m.ContentHash[:], hash)
	if m.Version, m.Deleted = uint64(max(version.value, 0)), deleted.value != 0; !m.Deleted {
		m.ExpiresAt = expiryAt(expires.value)
	}
	return err
}

// scanned holds a row as the database has it: anything may be damaged.
type scanned struct {
	id, hash, content                     []byte
	crdt, parent, state, home             []byte
	version, updatedAt, priority, deleted number
	expires                               optional
}

func (r *scanned) fields() []any {
	return []any{&r.id, &r.version, &r.updatedAt, &r.deleted, &r.hash, &r.content, &r.priority, &r.crdt, &r.parent, &r.state, &r.home, &r.expires}
}

// number scans an integer. What is none does not fail the row, since that would fail the
// other rows of the query as well.
type number struct {
	value int64
	bad   bool
}

// Scan implements sql.Scanner.
func (n *number) Scan(src any) (err error) {
	*n = number{}
	switch v := src.(type) {
	case int64:
		n.value = v
	case []byte:
		n.value, err = strconv.ParseInt(string(v), 10, 64)
	case string:
		n.value, err = strconv.ParseInt(v, 10, 64)
	case bool:
		if v {
			n.value = 1
		}
	default:
		n.bad = true
	}
	n.bad = n.bad || err != nil
	return nil
}

// optional is a number that may be NULL, which is 0.
type optional struct{ number }

// Scan implements sql.Scanner.
func (n *optional) Scan(src any) error {
	if src == nil {
		*n = optional{}
		return nil
	}
	return n.number.Scan(src)
}

// head returns the row without content, unchecked.
func (r *scanned) head() (m Meta) {
	copy(m.ContentHash[:], r.hash)
	if m.ID, m.Version, m.Deleted = string(r.id), uint64(max(r.version.value, 0)), r.deleted.value != 0; !m.Deleted {
		m.ExpiresAt = expiryAt(r.expires.value)
	}
	return m
}

// storedKinds are the names of kinds (crdt.Kinds), also for a build without them: the hash of a row
// says nothing of its kind.
var storedKinds = [...]string{"GCounter", "PNCounter", "GSet", "ORSet", "LWWSet", "LWWRegister", "FWWRegister", "MVRegister", "LWWMap", "ORMap"}

// isKind reports whether a row may have a kind; "" is none.
func isKind(name string) bool { return name == "" || slices.Contains(storedKinds[:], name) }

// record unpacks content and checks the row against its hash.
func (r *scanned) record(c codec) (Record, error) {
	if r.version.bad || r.version.value < 1 || r.updatedAt.bad || r.priority.bad || !Priority(r.priority.value).valid() ||
		r.deleted.bad || r.deleted.value&^1 != 0 || r.expires.bad || !isKind(string(r.crdt)) {
		return Record{}, &CorruptionError{ID: string(r.id), Tier: "L3", Expected: "a row of this engine", Actual: "unreadable"}
	}
	rec := Record{Deleted: r.deleted.value == 1, Item: Item{
		ID: string(r.id), Version: uint64(r.version.value), UpdatedAt: storedTime(r.updatedAt.value), Priority: Priority(r.priority.value),
		CRDT: string(r.crdt), TraceParent: string(r.parent), TraceState: string(r.state), HomeInstanceID: string(r.home),
	}}
	if rec.Deleted {
		return rec, nil
	}
	content, err := unpack(r.content, c)
	if err != nil {
		return Record{}, &CorruptionError{ID: string(r.id), Tier: "L3", Expected: hex.EncodeToString(r.hash), Actual: err.Error(), Err: err}
	}
	rec.Content, rec.ContentHash, rec.ExpiresAt = content, hashOf(content), expiryAt(r.expires.value)
	if string(r.hash) != string(rec.ContentHash[:]) {
		expected := "none"
		if len(r.hash) > 0 {
			expected = hex.EncodeToString(r.hash)
		}
		return Record{}, &CorruptionError{ID: string(r.id), Tier: "L3", Expected: expected, Actual: hex.EncodeToString(rec.ContentHash[:])}
	}
	return rec, nil
}
