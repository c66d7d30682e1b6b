package syncengine

// change.go is what Watch tells of.

// ChangeKind is what happened to an item.
type ChangeKind uint8

// The kinds.
const (
	ChangePut    ChangeKind = iota // it was written
	ChangeDelete                   // it was deleted
	ChangeExpire                   // its time has come
)

// String returns "put", "delete" or "expire".
func (k ChangeKind) String() string {
	switch k {
	case ChangeDelete:
		return "delete"
	case ChangeExpire:
		return "expire"
	}
	return "put"
}

// Change is a write that L3 holds.
type Change struct {
	Kind    ChangeKind
	ID      string
	Version uint64 // of the write, or of a later one that L3 holds by now
	Item    Item   // of a put: the item in that version; its Content is shared with other watches, as that of Get
	// Token is where WatchFrom goes on: after this change. It is short, printable, and means
	// something to engines on the same L3 only.
	Token string
}
