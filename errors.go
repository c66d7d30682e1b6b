package syncengine

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// The errors a caller can test for with errors.Is. Most come with more detail. Their texts, and
// those of all errors of this package, begin with "syncengine: ", once. Of several that are joined,
// as the faults of a Config are, each line does. What a context says comes as it is, alone or as a
// line beside others, and so does what a function of the caller's returns.
var (
	// ErrNotFound means L3 or a tombstone said that the id does not exist (with Config.AbsentFor,
	// that L3 did lately), or the filter, while it knows all ids of L3 (INV-7), or that the item
	// has expired. A tier that could not be asked never leads to it (INV-8). See NotFoundError,
	// which names the id.
	ErrNotFound = errors.New("syncengine: not found")
	// ErrClosed means that the engine is shutting down or closed.
	ErrClosed = errors.New("syncengine: engine is closed")
	// ErrInvalidItem means that an id or item breaks a rule; see InvalidItemError.
	ErrInvalidItem = errors.New("syncengine: invalid item")
	// ErrInvalidConfig means that a Config field breaks a rule; Open joins one
	// *ConfigError for each.
	ErrInvalidConfig = errors.New("syncengine: invalid config")
	// ErrStaleVersion means that a caller-given version is older than one the engine
	// knows for that id, or equal to it and loses the tie: a delete beats a put, then the
	// larger content hash wins. An identical repetition is no error, but with a condition that
	// still holds, as that of Update does, it is this one. Nothing was changed.
	ErrStaleVersion = errors.New("syncengine: stale version")
	// ErrBackpressure means that a call was refused before anything was changed; see
	// BackpressureError.
	ErrBackpressure = errors.New("syncengine: backpressure")
	// ErrUnavailable means that no tier that could answer can be reached. A store
	// wraps it to say "outage: the call may be repeated".
	ErrUnavailable = errors.New("syncengine: unavailable")
	// ErrCorruption means that stored bytes do not match their hash; see
	// CorruptionError.
	ErrCorruption = errors.New("syncengine: corruption")
	// ErrWALCorrupt means that the WAL file is damaged. Open keeps the file as it is.
	ErrWALCorrupt = errors.New("syncengine: WAL is corrupt")
	// ErrSetup means that a server, a database or an account must be set up otherwise, by a person;
	// the *SetupError says how. Open fails with it; only an outage opens degraded.
	ErrSetup = errors.New("syncengine: a server is not set up for the engine")
	// ErrLocked means that another engine has this WAL open, or this SQLite file: one without
	// SQLURL has that in its Dir for itself. Those that name a file by SQLURL share it; one that
	// is in the Dir of another they may read, and to write there is ErrUnavailable and ErrLocked.
	ErrLocked = errors.New("syncengine: locked by another engine")
	// ErrFeatureNotBuilt means that a build tag is missing. Open fails with it rather than put
	// merges that wait in the WAL into quarantine.
	ErrFeatureNotBuilt = errors.New("syncengine: feature not built in")
	// ErrKindMismatch means that an item's CRDT kind differs from the stored one.
	ErrKindMismatch = errors.New("syncengine: CRDT kind mismatch")
	// ErrRefused means that L3 refuses an op for its own sake (not an outage); see RefusedError.
	// The op is in quarantine; one that was decided in L3 (Insert, Update, Touch, with a
	// condition, or WithVersion at Archived) is not: nothing was changed.
	ErrRefused = errors.New("syncengine: refused by L3")
	// ErrSchema means that the database holds a schema of a newer build. Nothing was
	// changed.
	ErrSchema = errors.New("syncengine: unknown database schema")
	// ErrConflict means that the condition of a write does not hold: the id is not at the
	// version asked for; see ConflictError. Nothing was changed.
	ErrConflict = errors.New("syncengine: conflict")
	// ErrExists means that an id that was to be new exists. It is ErrConflict, too, and like
	// it comes as a *ConflictError.
	ErrExists error = existsError{}
	// ErrUnknownOutcome means that nobody can tell now whether a write with a condition took
	// effect: its commit was sent to L3 and L3 can't be asked, or the caller left meanwhile. It
	// took effect as a whole, or it never will.
	ErrUnknownOutcome = errors.New("syncengine: outcome unknown")
	// ErrNoChange is what the function given to Update returns when there is nothing to
	// write. Update does not return it.
	ErrNoChange = errors.New("syncengine: no change")
	// ErrWatchExpired means that a watch can't go on from where it was left: the log of changes
	// does not reach back so far, or the token is of another L3. List again, and watch from now.
	ErrWatchExpired = errors.New("syncengine: watch expired")
	// ErrPending means that Shutdown or Close left ops in the WAL; see PendingError.
	ErrPending = errors.New("syncengine: ops left in the WAL")
)

// InvalidItemError names the field of an item and the rule it breaks. It is
// ErrInvalidItem. Its text never holds content, nor what a codec said, which may quote it.
type InvalidItemError struct {
	ID    string // as given, so perhaps not valid; "" when it is the call's fault, not an item's
	Field string // name of the Item field, or of the argument
	Rule  string
	// TooLarge: Content is longer than MaxItemBytes, or than a state of a CRDT item may be; or the
	// ops of the call don't fit into L1MaxBytes, WALMaxBytes, WALMaxItems, or what a group may
	// have.
	TooLarge bool
	Index    int   // of the op in a SubmitMany or DeleteMany
	Err      error // what a codec said that could not encode the content; else nil
}

func (e *InvalidItemError) Error() string {
	id := e.ID
	if len(id) > 64 {
		id = id[:64] + "…"
	}
	text := "syncengine: invalid item"
	if id != "" || e.Field == "ID" { // else it is about the call
		text += " " + strconv.Quote(id)
	}
	return text + ": " + e.Field + " " + e.Rule
}

// Unwrap returns the codec's error.
func (e *InvalidItemError) Unwrap() error { return e.Err }

// Is makes errors.Is(err, ErrInvalidItem) true.
func (e *InvalidItemError) Is(target error) bool { return target == ErrInvalidItem }

// ConfigError names a Config field, its value (secrets removed) and the rule it
// breaks. It is ErrInvalidConfig.
type ConfigError struct{ Field, Value, Rule string }

func (e *ConfigError) Error() string {
	return "syncengine: config " + e.Field + " = " + e.Value + ": " + e.Rule
}

// Is makes errors.Is(err, ErrInvalidConfig) true.
func (e *ConfigError) Is(target error) bool { return target == ErrInvalidConfig }

// ConflictError tells at which version an id is instead of the one that a condition asked
// for. It is ErrConflict, and ErrExists when the id was to be absent.
type ConflictError struct {
	ID         string
	Want, Have uint64 // 0: absent
}

func (e *ConflictError) Error() string {
	switch {
	case e.Want == 0:
		return fmt.Sprintf("syncengine: conflict: item %q exists, at version %d", e.ID, e.Have)
	case e.Have == 0:
		return fmt.Sprintf("syncengine: conflict: item %q does not exist, wanted at version %d", e.ID, e.Want)
	}
	return fmt.Sprintf("syncengine: conflict: item %q is at version %d, wanted at %d", e.ID, e.Have, e.Want)
}

// Is makes errors.Is work for ErrConflict, and for ErrExists when Want is 0.
func (e *ConflictError) Is(target error) bool {
	return target == ErrConflict || target == ErrExists && e.Want == 0
}

type existsError struct{}

func (existsError) Error() string { return "syncengine: item exists" }

func (existsError) Is(target error) bool { return target == ErrConflict }

// BackpressureError refuses a call before anything is changed. It is
// ErrBackpressure.
type BackpressureError struct {
	Level      BackpressureLevel
	RetryAfter time.Duration // when a retry may succeed
	Reason     string
}

func (e *BackpressureError) Error() string {
	return fmt.Sprintf("syncengine: backpressure %s: %s (retry after %s)", e.Level, e.Reason, e.RetryAfter)
}

// Is makes errors.Is(err, ErrBackpressure) true.
func (e *BackpressureError) Is(target error) bool { return target == ErrBackpressure }

// CorruptionError tells where stored bytes do not match their hash. Expected and
// Actual are hex SHA-256, or a word when there is no hash ("none"). It is
// ErrCorruption.
type CorruptionError struct {
	ID, Tier, Expected, Actual string
	Err                        error // why it can't be read at all; nil: it can, but is not what its hash says
}

func (e *CorruptionError) Error() string {
	return fmt.Sprintf("syncengine: corruption in %s of item %q: expected %s, actual %s", e.Tier, e.ID, e.Expected, e.Actual)
}

// Is makes errors.Is(err, ErrCorruption) true.
func (e *CorruptionError) Is(target error) bool { return target == ErrCorruption }

func (e *CorruptionError) Unwrap() error { return e.Err }

// DecodeError tells that the content of an item is not what its reader takes it for. Err is what
// the codec said, encoding/json's as a rule; its text may quote the content.
type DecodeError struct {
	ID  string
	Err error
}

func (e *DecodeError) Error() string {
	return fmt.Sprintf("syncengine: decode item %q: %s", e.ID, plain(e.Err))
}

// Unwrap returns the codec's error.
func (e *DecodeError) Unwrap() error { return e.Err }

// RefusedError is what an ArchiveStore returns when it refuses rows for their own
// sake: a constraint, a size, a type. The transaction was rolled back. It is
// ErrRefused.
type RefusedError struct {
	Err error // the store's own words; nil: it has none
}

func (e *RefusedError) Error() string { return "syncengine: refused by L3: " + plain(e.Err) }

// Unwrap returns the store's error.
func (e *RefusedError) Unwrap() error { return e.Err }

// Is makes errors.Is(err, ErrRefused) true.
func (e *RefusedError) Is(target error) bool { return target == ErrRefused }

// PendingError is returned by Shutdown and Close when ops could not be flushed. They
// are in the WAL, nothing is lost: the next Open flushes them. It is ErrPending.
type PendingError struct {
	Ops int   // how many stayed behind
	Err error // why
}

func (e *PendingError) Error() string {
	return fmt.Sprintf("syncengine: closed with %d ops left in the WAL for the next Open: %s", e.Ops, plain(e.Err))
}

// Unwrap returns the reason.
func (e *PendingError) Unwrap() error { return e.Err }

// Is makes errors.Is(err, ErrPending) true.
func (e *PendingError) Is(target error) bool { return target == ErrPending }

// errNoWrites is added to ErrUnavailable by a store that answers, but takes no writes just now: its
// disk is full, or it is read-only. Reads must go on.
var errNoWrites = errors.New("takes no writes")

// errWhoAnswers keeps what L2 answered from being believed. It is no failure of the server that
// answered.
var errWhoAnswers = errors.New("it is not known which servers answer")

// unavailable marks err as an outage unless it already says so.
func unavailable(what string, err error) error {
	if errors.Is(err, ErrUnavailable) {
		return says(fmt.Errorf("%s: %w", what, err))
	}
	return says(fmt.Errorf("%s: %w: %w", what, ErrUnavailable, err))
}

const packageName = "syncengine: "

// worded is an error whose text begins with the package's name, which is in it once.
type worded struct {
	text string
	err  error
}

func (e *worded) Error() string { return e.text }

func (e *worded) Unwrap() error { return e.err }

// mergesNotBuilt is what a build without -tags crdt says of merges that something holds.
func mergesNotBuilt(where string) error {
	return says(fmt.Errorf("%s holds merges of CRDT items: %w: build with -tags crdt", where, ErrFeatureNotBuilt))
}

// says words an error that wraps others of this package.
func says(err error) error { return &worded{packageName + plain(err), err} }

// said gives an error the package's name if it has none. What ctx says it says alone.
func said(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil && errors.Is(err, ctx.Err()):
		return ctx.Err()
	case strings.HasPrefix(err.Error(), packageName):
		return err
	}
	return says(err)
}

// plain is the text of an error without the package's name, in one line. A store of the caller's
// may give none.
func plain(err error) string {
	if err == nil {
		return "no reason given"
	}
	return strings.ReplaceAll(strings.ReplaceAll(err.Error(), packageName, ""), "\n", "; ")
}

// isOutage reports whether err is the store's and not the op's or the caller's fault.
// An error that nobody classified is taken for an outage: the op is kept and tried
// again, so nothing is lost by a wrong guess.
func isOutage(err error) bool {
	return err != nil && !errors.Is(err, ErrNotFound) && !errors.Is(err, ErrCorruption) &&
		!errors.Is(err, ErrRefused) && !errors.Is(err, context.Canceled) && !errors.Is(err, ErrSchema)
}

// NotFoundError is the ErrNotFound of calls that do more than to read one id, and of a Store. Get
// and GetVerified return ErrNotFound itself: an answer that memory has costs no allocation.
type NotFoundError struct{ ID string }

// Error implements error.
func (e *NotFoundError) Error() string { return fmt.Sprintf("syncengine: item %q not found", e.ID) }

// Is reports whether target is ErrNotFound.
func (e *NotFoundError) Is(target error) bool { return target == ErrNotFound }

// SetupError is something that a person has to mend.
type SetupError struct {
	Server  string // "mysql", "sqlite", "SQL" for any of these, or "redis"
	Problem string
	Mend    string // what mends it: a statement where there is one
	Err     error  // the server's words; nil when it has not refused anything
}

// Error implements error.
func (e *SetupError) Error() string {
	text := "syncengine: " + e.Server + ": " + e.Problem + "; to mend it: " + e.Mend
	if e.Err != nil {
		text += " (" + plain(e.Err) + ")"
	}
	return text
}

// Unwrap returns the server's words.
func (e *SetupError) Unwrap() error { return e.Err }

// Is reports whether target is ErrSetup.
func (e *SetupError) Is(target error) bool { return target == ErrSetup }
