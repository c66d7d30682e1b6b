package syncengine

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/syncengine-go/syncengine/internal/hlc"
	"github.com/syncengine-go/syncengine/internal/jsonvalid"
)

// Limits of an item. They hold in every tier, so an item that one tier takes is
// never refused by the next for its form.
const (
	MaxIDBytes       = 512           // length of an id
	MaxVersion       = math.MaxInt64 // largest version there is
	maxJSONDepth     = 10_000        // nesting of arrays and objects in Content
	maxTraceParent   = 64            // a W3C traceparent has 55 bytes
	maxTraceState    = 512           // W3C asks for at least 512
	maxHomeInstance  = 255
	maxStateBytes    = 16 << 20  // of a CRDT item: the limit of package crdt
	maxGroupBytes    = 256 << 20 // content of one SubmitMany: it is one transaction everywhere
	minUpdatedAtYear = 1678      // what int64 nanoseconds since 1970 can hold
	maxUpdatedAtYear = 2261
)

// Priority orders the flush of pending ops; it does not change what is stored
// otherwise. The zero value is PriorityNormal.
type Priority int8

// The four priorities.
const (
	PriorityLow      Priority = -1
	PriorityNormal   Priority = 0
	PriorityHigh     Priority = 1
	PriorityCritical Priority = 2
)

// String returns "low", "normal", "high" or "critical".
func (p Priority) String() string {
	switch p {
	case PriorityLow:
		return "low"
	case PriorityNormal:
		return "normal"
	case PriorityHigh:
		return "high"
	case PriorityCritical:
		return "critical"
	}
	return fmt.Sprintf("priority(%d)", int8(p))
}

func (p Priority) valid() bool { return p >= PriorityLow && p <= PriorityCritical }

// Item is one JSON document under an id.
//
// An Item handed to Submit is copied: changing its Content afterwards changes
// nothing. An Item received from Get shares its Content with the engine: treat it as
// read-only.
type Item struct {
	// ID is 1 to MaxIDBytes bytes of valid UTF-8 without control characters. Ids are
	// compared byte by byte in every tier: "a" and "A" are two ids.
	ID string
	// Version orders the writes of one id. It is a time, made by the engine (see VersionAt).
	// Writes ignore it, so an item that was read can be changed and submitted again; with
	// IfUnchanged it is the version that the id must still be at. Replicators that carry
	// versions from elsewhere use WithVersion.
	Version uint64
	// UpdatedAt is stamped by the engine when zero on Submit. It is kept to the
	// nanosecond and comes back in UTC.
	UpdatedAt time.Time
	// ExpiresAt is when the item ceases to exist, zero for never: from then on no call finds it.
	// It is by the clock of L3, to the millisecond. Reads return it; writes ignore it and go by
	// WithTTL and Config.DefaultTTL.
	ExpiresAt time.Time
	// Content is one valid JSON text, kept byte for byte; that of an item with a CRDT kind comes
	// back as that kind writes its states. It has at most Config.MaxItemBytes, and fits into
	// L1MaxBytes and WALMaxBytes as well; arrays and objects in it are nested at most 10,000 deep.
	Content json.RawMessage
	// ContentHash is the SHA-256 of Content. The engine sets it; it is ignored on
	// Submit.
	ContentHash [32]byte
	// Priority orders the flush of this item among pending ones.
	Priority Priority
	// CRDT names a CRDT kind (package crdt), or is empty for a plain item. Content is then a
	// state of that kind, and what is submitted is merged with what is stored, in whatever order
	// and on whatever engine, never written over it; nor does a kind change until the item is
	// deleted (ErrKindMismatch). It needs the crdt build tag; without it a kind is
	// ErrFeatureNotBuilt: such items can be read, but not written.
	CRDT string
	// TraceParent and TraceState are a W3C trace context, carried along: UTF-8 of at most 64 and
	// 512 bytes.
	TraceParent, TraceState string
	// HomeInstanceID is an optional owner, carried along: UTF-8 of at most 255 bytes.
	HomeInstanceID string
	// AccessCount and LastAccessed tell how this engine's memory has seen the item
	// read. They are set by a Get or GetVerified that memory answers at once, zero on all other
	// reads, and ignored on Submit. The count is exact while the engine
	// answers fewer than 100,000 reads a second from memory, and one read in 16 counts as
	// 16 while there are more; the time is exact to a second.
	AccessCount  uint64
	LastAccessed time.Time
	// Stale tells that this is what the engine knows while L3 is away: past Config.L1MaxAge, or an
	// own op that waits for L3, when other engines that are known may have written since. It is set
	// on reads and ignored on Submit; see Config.StaleFor.
	Stale bool
}

// NewItem marshals v with encoding/json and returns an item of that content. It
// fails with ErrInvalidItem when v can't be marshalled, which wraps why, or id is not a valid id.
func NewItem(id string, v any) (Item, error) {
	if err := checkID(id); err != nil {
		return Item{}, err
	}
	b, err := json.Marshal(v)
	if err != nil {
		return Item{}, notEncoded(id, jsonCodec, err)
	}
	return Item{ID: id, Content: b}, nil
}

const jsonCodec = "encoding/json"

// notEncoded is the error of a value that a codec could not encode.
func notEncoded(id, codec string, err error) error {
	return &InvalidItemError{ID: id, Field: "Content", Rule: "can't be encoded by " + codec + "; Unwrap tells why", Err: err}
}

// Decode unmarshals Content into v with encoding/json, by whose rules v must be a pointer. What v
// then holds shares no memory with Content. The error is a *DecodeError, which wraps that of
// encoding/json and names the id; an item without content, or a nil one as GetMany returns
// it for not found, is an error.
func (it *Item) Decode(v any) error {
	if it == nil {
		return errors.New("syncengine: decode: no item")
	}
	if len(it.Content) == 0 {
		return &DecodeError{ID: it.ID, Err: errors.New("no content")}
	}
	content := it.Content
	if raw, ok := v.(*json.RawMessage); ok && raw != nil {
		*raw = nil // else written in place, where it may be a slice of some item's Content
	}
	if err := json.Unmarshal(content, v); err != nil {
		return &DecodeError{ID: it.ID, Err: err}
	}
	return nil
}

// VersionAt returns the lowest version of the millisecond of t. A version is the milliseconds
// since 1970, shifted left by 16 bits, plus a counter, so versions and times order alike. It
// is 0, which is no version, for a time before 1970, and at most MaxVersion.
func VersionAt(t time.Time) uint64 { return hlc.At(t) }

// missing is the error of an argument that must not be nil.
func missing(id, argument string) error {
	return &InvalidItemError{ID: id, Field: argument, Rule: "must not be nil"}
}

// checkID reports whether id may name an item. The rules are those of Item.ID.
func checkID(id string) error {
	refuse := func(rule string) error { return &InvalidItemError{ID: id, Field: "ID", Rule: rule} }
	switch {
	case id == "":
		return refuse("must not be empty")
	case len(id) > MaxIDBytes:
		return refuse(fmt.Sprintf("must be at most %d bytes, has %d", MaxIDBytes, len(id)))
	}
	ascii := true
	for i := 0; i < len(id); i++ {
		if c := id[i]; c < 0x20 || c == 0x7f {
			return refuse("must not contain control characters")
		} else if c >= utf8.RuneSelf {
			ascii = false
		}
	}
	if ascii {
		return nil
	}
	if !utf8.ValidString(id) {
		return refuse("must be valid UTF-8")
	}
	for _, r := range id {
		if unicode.IsControl(r) {
			return refuse("must not contain control characters")
		}
	}
	return nil
}

// checkItem reports whether it may be submitted. It does not change anything.
func checkItem(it *Item, maxBytes int64) error {
	if err := checkID(it.ID); err != nil {
		return err
	}
	refuse := func(field, rule string) error { return &InvalidItemError{ID: it.ID, Field: field, Rule: rule} }
	if len(it.Content) == 0 {
		return refuse("Content", "must not be empty")
	}
	limit := "MaxItemBytes"
	if it.CRDT != "" { // merges may have made it so large, and what was read may be submitted again
		maxBytes, limit = maxStateBytes, "the bound of a state"
	}
	if int64(len(it.Content)) > maxBytes {
		return &InvalidItemError{ID: it.ID, Field: "Content", TooLarge: true,
			Rule: fmt.Sprintf("must be at most %s = %d bytes, has %d", limit, maxBytes, len(it.Content))}
	}
	if err := jsonvalid.Check(it.Content, maxJSONDepth); err != nil {
		return refuse("Content", "must be one valid JSON text: "+err.Error())
	}
	return checkCarried(it)
}

// checkCarried checks the fields beside id and content.
func checkCarried(it *Item) error {
	refuse := func(field, rule string) error { return &InvalidItemError{ID: it.ID, Field: field, Rule: rule} }
	if !it.Priority.valid() {
		return refuse("Priority", "must be PriorityLow, PriorityNormal, PriorityHigh or PriorityCritical")
	}
	if !it.UpdatedAt.IsZero() {
		if y := it.UpdatedAt.UTC().Year(); y < minUpdatedAtYear || y > maxUpdatedAtYear {
			return refuse("UpdatedAt", fmt.Sprintf("must lie in the years %d to %d", minUpdatedAtYear, maxUpdatedAtYear))
		}
	}
	if it.TraceParent == "" && it.TraceState == "" && it.HomeInstanceID == "" && it.CRDT == "" {
		return nil
	}
	for _, f := range [...]struct {
		name, value string
		max         int
	}{
		{"TraceParent", it.TraceParent, maxTraceParent},
		{"TraceState", it.TraceState, maxTraceState},
		{"HomeInstanceID", it.HomeInstanceID, maxHomeInstance},
	} {
		if len(f.value) > f.max {
			return refuse(f.name, fmt.Sprintf("must be at most %d bytes", f.max))
		}
		if !utf8.ValidString(f.value) {
			return refuse(f.name, "must be valid UTF-8")
		}
	}
	if it.CRDT != "" {
		return checkKind(it)
	}
	return nil
}

// checkKind checks the kind of an item, and that its content is a state of it.
func checkKind(it *Item) error {
	if !crdtBuilt {
		return says(fmt.Errorf("item %q: CRDT kind %q: %w: build with -tags crdt", it.ID, it.CRDT, ErrFeatureNotBuilt))
	}
	if _, err := kindName(it.CRDT); err != nil {
		return &InvalidItemError{ID: it.ID, Field: "CRDT", Rule: "must name a kind: " + err.Error()}
	}
	if err := checkState(it.CRDT, it.Content); err != nil {
		return &InvalidItemError{ID: it.ID, Field: "Content", Rule: "must be a state of kind " + it.CRDT + ": " + err.Error()}
	}
	return nil
}

// hashOf is the content hash of an item: SHA-256 over the very bytes (INV-11).
func hashOf(content []byte) [32]byte { return sha256.Sum256(content) }
