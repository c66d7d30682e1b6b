package syncengine

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"time"
)

// calls.go has the public calls that read and write, each the way to its department.

// Get returns the item of id, or ErrNotFound. A hit in L1 takes no lock, allocates nothing and
// does not look at ctx; so does an id that a trusted filter denies. Otherwise it asks the WAL,
// Redis and SQL in turn; callers that miss the same id share one load, which carries the values
// of the first caller's ctx, and ctx bounds only this caller's wait.
//
// Errors: ErrNotFound, ErrInvalidItem, ErrClosed, ErrBackpressure (at LevelShutdown, and only
// when memory alone can't answer), ErrCorruption (L3's row does not match its hash),
// ErrUnavailable.
func (e *Engine) Get(ctx context.Context, id string) (it Item, err error) {
	return e.reader.Get(ctx, id)
}

// GetVerified is Get with the hash of the content recomputed, also for a copy in memory.
// A corrupt copy in L1 is dropped and the item read from the tiers below, the WAL while it waits
// for L3; when no tier has a copy that matches, the error is a *CorruptionError.
func (e *Engine) GetVerified(ctx context.Context, id string) (item Item, err error) {
	return e.reader.GetVerified(ctx, id)
}

// GetMany returns the items of ids, aligned with them; nil stands for not found. Each tier is asked
// once for all that the tiers above did not have. When some ids could not be answered, the others
// are returned together with an error: ErrUnavailable, one ErrCorruption per corrupt row, joined,
// or ErrBackpressure at LevelShutdown, when memory has not all of them. One invalid id is
// ErrInvalidItem for all: then the slice is nil.
func (e *Engine) GetMany(ctx context.Context, ids []string) (items []*Item, err error) {
	return e.reader.GetMany(ctx, ids)
}

// Invalidate forgets copies in memory of these ids, so that the next read of each asks the tiers
// below, also for one that the filter knew not to exist: for callers who know that a row was
// changed past all engines, by a restore say. (A row is content, hash and version: one whose
// content alone is changed by hand is damaged.) What waits for L3 is no copy and stays. Without
// ids it does nothing. It does no I/O.
func (e *Engine) Invalidate(ids ...string) { e.reader.Invalidate(ids) }

// All yields the items whose ids begin with prefix, all items when it is empty, in order of ids, by
// bytes. It reads L3 in pages, at most some 2 MiB of content and one item at a time, whatever there
// is; it asks no cache and leaves memory as it is.
//
// What this engine has accepted before the loop begins is seen, whatever its durability, deletes as
// well; to that end All waits until it is in L3, as Flush does. What L3 refuses is shown as Get
// shows it. What is written during the loop, here or elsewhere, may be seen or not. No id comes
// twice.
//
// An error ends the loop, after it came once with the zero Item: ErrUnavailable while L3 is away,
// also when that happens halfway; ErrClosed, ErrBackpressure at LevelShutdown, what ctx says when
// it ends, a *ConfigError when Config.L3 is no ListingStore. A row that is damaged and can't be
// healed is the exception: its *CorruptionError names the id, and the loop goes on. A loop that
// ends without an error has seen all.
//
// The loop may call the engine, Close included. Each range over the result is a new listing.
func (e *Engine) All(ctx context.Context, prefix string) iter.Seq2[Item, error] {
	return e.reader.All(ctx, prefix, "")
}

// AllAfter is All from the first id above after, which need not exist: the next page of a list
// whose last page ended with it. "" is from the beginning. A page costs what its items do, wherever
// it begins.
func (e *Engine) AllAfter(ctx context.Context, prefix, after string) iter.Seq2[Item, error] {
	return e.reader.All(ctx, prefix, after)
}

// Contains reports, without I/O, whether id may exist. False is definite; true may be
// wrong.
func (e *Engine) Contains(id string) bool { return e.reader.Contains(id) }

// Status tells which tiers hold id, by asking all of them. A tier that could not be asked
// counts as not holding it, and the error says so: the rest of the status is then still
// valid. So does L3 when what it holds can't be read (ErrCorruption). Deleted ids are
// StatusMissing.
func (e *Engine) Status(ctx context.Context, id string) (status ItemStatus, err error) {
	return e.reader.Status(ctx, id)
}

// Explain tells what every tier knows of id, and what a Get of it would do now and why, by the
// decisions that Get takes; it does not do it: nothing is promoted, healed or counted as read. It
// asks L2 and L3 once each, whatever a Get would do, also when the level refuses reads; what they
// can't tell is in the Explanation. ctx bounds that. Between the two of them things may change.
//
// Errors: ErrInvalidItem, ErrClosed.
func (e *Engine) Explain(ctx context.Context, id string) (Explanation, error) {
	return e.reader.Explain(ctx, id)
}

// Submit stores an item. It returns once the item has reached the durability of the call
// (see Durability); from then on this engine's reads answer with it or a later write.
//
// It may wait: for a group commit of the WAL (Logged), for L3 (Archived), to be slowed at
// LevelThrottle, or, for up to a second, for an Update of the same id that has tried three times in
// vain; ctx bounds all of these. When ctx ends while a commit is under way the
// outcome is unknown: the item may be stored.
//
// Errors: ErrInvalidItem, ErrStaleVersion, ErrBackpressure, ErrClosed: nothing was changed.
// ErrUnavailable at Logged: the WAL could not be written, nothing was acknowledged. At
// Archived, ErrUnavailable means that the item is in the WAL and will reach L3 later, and
// ErrRefused that L3 refuses it and it is in quarantine, or, with a condition or WithVersion, that
// nothing was changed.
func (e *Engine) Submit(ctx context.Context, item Item, opts ...WriteOption) error {
	return e.writer.Submit(ctx, item, opts...)
}

// Merge changes a CRDT item by a delta (package crdt: for a counter, 3), without reading it first.
// Deltas of all engines are applied, each exactly once, whatever is retried, killed or replayed; in
// what order does not matter to the result but where the kind says so. An id that does not exist
// begins as an empty state. Merge is a write like Submit, with the same durability and errors, also
// while L3 is away; it has no condition.
//
// The item returned is what this engine knows it to be now, other engines' merges as of when they
// were last seen. When it does not know, which is so while L3 has not been asked since the item was
// last read, Content is nil. A read then waits until L3 has all that this engine has merged, or is
// ErrUnavailable.
//
// MaxItemBytes bounds the delta. A state grows up to the limits of package crdt, 16 MiB among them,
// and Submit and the like take it up to there, if it fits into L1MaxBytes and WALMaxBytes.
//
// A state that was read may be submitted again at any time, changed or not, here or through another
// engine, also while merges of the item wait: a delta has its dot from the moment it is accepted,
// merges of an item land in that order, whatever their priority, and one that lands where a state
// has brought it already changes nothing. Changes to it need a node of the caller's own. A state
// from before a delete brings back what the merges since have not seen; of a counter, for each node
// the larger amount. A merge that changes nothing is no newer than what it meets: a delete that
// lands later takes both, though its version may be lower than that of the merge.
//
// What was in quarantine and is retried comes late. To a set or a map it adds what a state that was
// read in between takes back. To a counter it adds the same twice if a state that was read before
// L3 refused it was submitted, and another merge of this engine has landed.
//
// Errors, beside Submit's: ErrKindMismatch when the item is of another kind, and, when only L3
// knows that, ErrRefused at Archived: then the op is in quarantine. ErrFeatureNotBuilt without
// -tags crdt.
func (e *Engine) Merge(ctx context.Context, id, kind string, delta json.RawMessage, opts ...WriteOption) (Item, error) {
	return e.writer.Merge(ctx, id, kind, delta, opts...)
}

// Compact folds merges of CRDT items in L3 that are older than Config.RetentionFullDays into one
// snapshot per item and day, and snapshots older than RetentionCompactDays into one per item. A
// merge is as old as its version or its UpdatedAt says, whichever is earlier, so a state that is
// submitted with an old UpdatedAt may be folded at once; merges that a delete has taken are folded
// at any age. No item changes by it, nor does what may still come: a merge that was folded is
// recognised when it is replayed. The engine does so by itself each CompactionInterval. It takes
// one item at a time, and so disturbs nobody; several engines on one L3 do it one at a time, for
// the others the report says Elsewhere. ctx bounds it; what was done until then stays done.
//
// Without -tags crdt the error is ErrFeatureNotBuilt.
func (e *Engine) Compact(ctx context.Context) (report CompactReport, err error) {
	if !crdtBuilt {
		return report, says(fmt.Errorf("compact: %w: build with -tags crdt", ErrFeatureNotBuilt))
	}
	if err := e.door.Enter(); err != nil {
		return report, err
	}
	defer e.door.Exit(ctx, &err)
	return e.compact.Compact(ctx)
}

// Rebuild makes a CRDT item what its merges make it, snapshots and single ones, in every tier, and
// returns it. Reads do so by themselves with a row of L3 that does not match its hash. Rows of
// merges that are damaged are left out, and told of (Events.Corrupted); an item that can be read is
// then left as it is. It first waits until L3 has what this engine has accepted of the item.
//
// Errors: ErrNotFound, ErrUnavailable, ErrCorruption when neither the row nor any merge can be
// read, ErrFeatureNotBuilt without -tags crdt. An item without a kind has no merges: it is returned
// as it is.
func (e *Engine) Rebuild(ctx context.Context, id string) (item Item, err error) {
	if !crdtBuilt {
		return Item{}, says(fmt.Errorf("rebuild: %w: build with -tags crdt", ErrFeatureNotBuilt))
	}
	if err := checkID(id); err != nil {
		return Item{}, err
	}
	if err := e.door.Enter(); err != nil {
		return Item{}, err
	}
	defer e.door.Exit(ctx, &err)
	return e.compact.Rebuild(ctx, id)
}

// Insert is Submit of an item that must not exist: else the error is ErrExists, a
// *ConflictError that says at which version it does, and nothing is changed. Deleted ids do not
// exist. See WithIfVersion for durability and the other errors. A condition of opts is
// ErrInvalidItem. It returns no version: a Get tells it, or Update with WithIfVersion(0) does.
func (e *Engine) Insert(ctx context.Context, item Item, opts ...WriteOption) error {
	return e.writer.Insert(ctx, item, opts...)
}

// Delete removes an id. It is idempotent: deleting what does not exist succeeds. A delete
// is an op like a put, with the same durability and errors, and is remembered for
// TombstoneRetention: no older put brings the id back.
func (e *Engine) Delete(ctx context.Context, id string, opts ...WriteOption) error {
	return e.writer.Delete(ctx, id, opts...)
}

// SubmitMany stores a group of items: all of them or none are accepted, logged, and
// committed to L3 in one transaction each. Durability and errors are those of Submit; an
// error about one item refuses all. Of items with the same id the last one wins; those before it
// are dropped, and with IfUnchanged their versions, too: that of the last one is the condition.
// Items with a CRDT kind are merged one after the other.
func (e *Engine) SubmitMany(ctx context.Context, items []Item, opts ...WriteOption) (BatchResult, error) {
	return e.writer.SubmitMany(ctx, items, opts...)
}

// SubmitEach stores items that have nothing to do with each other, as an import does: many share a
// commit, but one that is refused takes no other with it, and is told of by itself. It takes
// items one at a time, in bounded memory, and copies each: the sequence may use its slices again.
// While there is no room it waits, until ctx ends. An item may come more than once: the last one
// wins, unless WithVersion gives them one version: then the larger hash does, as everywhere.
// Conditions and versions of opts hold for each item by itself: so with WithIfVersion(0) the first
// one wins, and those after it are ErrExists.
//
// The error is nil when all items were stored or refused; look at Failed. Refused are those that
// break a rule, lose to their condition or version, or that L3 refuses at Archived. What L3 refuses
// is in quarantine, alone; at Buffered and Logged it is refused later, as with Submit. Another
// error (ErrUnavailable, ErrClosed, what ctx says) ends the call; items counted neither as stored
// nor as refused are as it says. Calling it again with all items is harmless. A nil sequence is
// ErrInvalidItem.
//
// The functions of tell, and the sequence, run on the caller's goroutine, and may block.
func (e *Engine) SubmitEach(ctx context.Context, items iter.Seq[Item], tell EachOptions, opts ...WriteOption) (EachResult, error) {
	return e.writer.SubmitEach(ctx, items, tell, opts...)
}

// DeleteMany removes a group of ids, atomically as SubmitMany does.
func (e *Engine) DeleteMany(ctx context.Context, ids []string, opts ...WriteOption) (BatchResult, error) {
	return e.writer.DeleteMany(ctx, ids, opts...)
}

// DeletePrefix deletes the items whose ids begin with prefix: those that All would show at the
// beginning of the call. What is written meanwhile may be deleted or not. It reads their ids from
// L3, no contents, and deletes them in groups as DeleteMany does, each atomic, at the durability
// and priority of opts. It returns how many it has deleted, also with an error: then those are
// deleted for good, and calling it again deletes the rest. A group whose outcome the error leaves
// open is not counted.
//
// An empty prefix is ErrInvalidItem: nobody should delete everything for want of a value. So are
// WithIfVersion, IfUnchanged, WithVersion, and a prefix that is longer than an id can be. The other
// errors are those of All and DeleteMany, ErrUnavailable while L3 is away among them: nobody knows
// then which items there are.
func (e *Engine) DeletePrefix(ctx context.Context, prefix string, opts ...WriteOption) (int, error) {
	return e.writer.DeletePrefix(ctx, prefix, opts...)
}

// Update changes an item: it calls fn with the item of id, or with exists false and an item that
// has the id only, and stores what fn returns if the id is still what fn was given. Otherwise it
// begins again: fn may run more than once, on the caller's goroutine, one at a time per id in this
// engine, so it must not do anything else, nor call Update for the same id. Nor may it write the id
// by itself, with Submit say: then the item has changed each time, and Update ends when ctx does. N
// callers on M engines that add 1 have added N.
//
// fn is given what L3 holds, and what this engine has accepted since, never an aged copy; the
// content is fn's own, and may be changed in place. Its item's ID may be empty; another id is
// ErrInvalidItem, and so is a nil fn. An error of fn ends Update and is returned as it is, but for
// ErrNoChange, with which Update returns what is there (the zero Item when there is nothing) and
// nil. A panic in it is returned as an error. An Update can't delete: for that take the version
// from a Get, and Delete with WithIfVersion.
//
// UpdatedAt is the time of the call, unless fn sets another one. An item that expires keeps its
// expiry, unless opts has a WithTTL; Config.DefaultTTL is for one
// that there was not.
//
// Update returns the item as it was stored. ctx bounds waiting and retries. Durability and the
// other errors are those of WithIfVersion, except that a conflict is only returned when opts
// has a WithIfVersion of its own; after ErrUnknownOutcome fn is not run again.
func (e *Engine) Update(ctx context.Context, id string, fn func(cur Item, exists bool) (Item, error), opts ...WriteOption) (item Item, err error) {
	return e.writer.Update(ctx, id, fn, opts...)
}

// Touch gives an item another expiry, ttl from now, and none with 0: it writes a new version with
// the same content, if the id is still what was there when it looked, else it looks again. So of a
// Touch and any other write both count, whichever engines they come from. Durability and errors are
// those of WithIfVersion; also ErrNotFound when there is no item, or it has expired, and
// ErrInvalidItem for a ttl below 0 and for an item with a CRDT kind.
func (e *Engine) Touch(ctx context.Context, id string, ttl time.Duration) error {
	return e.writer.Touch(ctx, id, ttl)
}

// GetOrInsertWith returns the item of id, or calls factory and inserts what it returns, at
// Config.Durability (see WithIfVersion for what that means where L3 is shared).
//
// At a time factory runs once per id in this engine; callers that come meanwhile share its result.
// It runs on a goroutine of the engine with ctx's values, is called only after L3, a tombstone or a
// trusted filter said that the id does not exist, never after an error, and is cancelled when the
// engine closes or after Config.FactoryTimeout: then its callers get an error that is ErrClosed or
// context.DeadlineExceeded, and what it returns later is thrown away. (The filter says so also
// during the first seconds of an outage of L3; what factory made is then refused with
// ErrUnavailable, unless L3 is the file in Dir.) Its item's ID may be empty; another id is
// ErrInvalidItem, and so is a nil factory, and one that asks for the id it makes. A panic in it is
// returned as an error. When somebody else, here or on another engine, wrote the id while factory
// ran, that is returned instead.
//
// opts are those of what is inserted, WithTTL for a cache say; of callers that share a result the
// one that began has them. A condition or a version is ErrInvalidItem.
func (e *Engine) GetOrInsertWith(ctx context.Context, id string, factory func(context.Context) (Item, error), opts ...WriteOption) (item Item, err error) {
	return e.writer.GetOrInsertWith(ctx, id, factory, opts...)
}

// Watch yields what L3 takes from the call on, also what was accepted before, by this and other
// engines on the same L3, of ids that begin with prefix ("": all): puts, deletes, and a second or
// two late what has expired. Each change comes at least once, those of one id in their order; of
// several that were made since the loop looked last, the last alone, with the item as it is now. A
// change comes within milliseconds when this engine wrote it, or while it reaches the same Redis as
// the one that did; else within half a second.
//
// It goes on until the loop breaks or yields an error, which is the last it yields: what ctx says,
// ErrClosed, ErrWatchExpired when the loop took longer than Config.ChangeRetention for one turn. A
// row that can't be read is an error, too (ErrCorruption), with the ID of its change; the watch
// goes on after it. While L3 is away it waits. Nothing is kept for a slow loop but what was read
// last, 2 MiB of content (as it is stored, see Config.Compression) or one item, and the ids and
// versions of the next thousand changes; and it holds up nobody.
//
// The watches of an engine ask L3 together, so hundreds cost what one does: two statements a second
// while nothing is written, two for each batch of changes that it hears of, whatever their ids, and
// one or two for the items that have the prefix, which those share that find the same ones. Only a
// loop that lags behind asks for itself.
//
// The call itself asks L3 where the log ends, and waits for it. Change.Token is where WatchFrom
// goes on.
func (e *Engine) Watch(ctx context.Context, prefix string) iter.Seq2[Change, error] {
	return e.reader.Watch(ctx, prefix, "")
}

// WatchFrom is Watch that goes on after the change that a token came with, perhaps in another
// process, or from WatchToken. A token that is too old, or of another L3, is ErrWatchExpired. To
// follow a list without a gap: take a WatchToken, list with All, then watch from the token.
func (e *Engine) WatchFrom(ctx context.Context, prefix, token string) iter.Seq2[Change, error] {
	if token == "" {
		return func(yield func(Change, error) bool) {
			yield(Change{}, fmt.Errorf("%w: the token is empty", ErrWatchExpired))
		}
	}
	return e.reader.Watch(ctx, prefix, token)
}

// WatchToken returns a token for now: WatchFrom yields what is written from now on. It asks L3, and
// does not wait for it: ErrUnavailable while that is away.
func (e *Engine) WatchToken(ctx context.Context) (string, error) { return e.reader.WatchToken(ctx) }

// Quarantined lists the ops that L3 refuses, oldest first, read from the WAL file. What is damaged
// there is not in the list: the error, ErrWALCorrupt, names its ids, and comes with all others.
func (e *Engine) Quarantined(ctx context.Context) (ops []QuarantinedOp, err error) {
	return e.bad.List(ctx)
}

// RetryQuarantined puts quarantined ops back into the queue, as if submitted again with the same
// version: those of ids with their groups; without ids, also with an empty slice, all. It returns
// how many ops left quarantine, also with an error; they are in the WAL then, but for those that L3
// holds something newer of, or that another op of their version (WithVersion) beats which waits for
// L3: these are forgotten. An op that L3 refuses again comes back to quarantine. One whose content
// was changed in memory stays there: the error is a *CorruptionError; so does a merge without
// -tags crdt: ErrFeatureNotBuilt. What another call retries or discards at the moment is left to
// that.
func (e *Engine) RetryQuarantined(ctx context.Context, ids ...string) (n int, err error) {
	return e.bad.Retry(ctx, ids...)
}

// DiscardQuarantined forgets quarantined ops: those of ids with their groups; without ids, also
// with an empty slice, all there are: mind that where the ids come from a list. It forgets all of
// them or, with an error, none. Reads then answer with what L3 holds. It returns how many ops it
// removed. An op that is on its way to L3 once more, since a crash had left it in the WAL as well,
// is waited for: if L3 takes it, it is not removed; where the reply of L3 is lost, it is, and L3
// may hold it. What another call retries or discards at the moment is left to that.
func (e *Engine) DiscardQuarantined(ctx context.Context, ids ...string) (n int, err error) {
	return e.bad.Discard(ctx, ids...)
}
