package syncengine

// wal.go is the journal: the log (internal/oplog) in the engine's words. Nobody else sees the log.
// It encodes units of ops into payloads (walunit.go), counts what has a place in the log, and knows
// where the spooled ops of an id are (walspool.go). Beside the ops the file keeps values and blobs
// by key, and the ops in quarantine.
//
// Ops get their versions under the same lock that puts them into the log (versions.go), so that the
// log holds the ops of one id in version order; and segments are trimmed from the front only. So
// when the log holds an op it holds all later ones of that id, too, and a crash never brings back
// an old op alone. But L3 may hold something newer than what is recovered: a Buffered op that was
// flushed but never logged; a write of another engine; and an op that came later than one that was
// retried, or that was Buffered and logged in an outage: it is further back in the log, and lands
// first. Reads of recovered ops therefore ask L3 as well, see read.go. In an outage they can't;
// then an op of the last kind, which is marked, answers nothing. What this engine has let L3 decide
// is not among them: see walkept.go.
//
// One goroutine, "wal", which whoever opens the journal starts with Run.

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync/atomic"
	"time"

	"github.com/syncengine-go/syncengine/internal/oplog"
)

// journal is the local log.
type journal struct {
	log  *oplog.Log
	lim  walLimits
	sync bool // see Open

	items atomic.Int64 // ops that are not done and have a place in the log, see Reserve
	bytes atomic.Int64 // of their ids and contents
	// The part of them that is in memory alone: Buffered ops, which go into the log in an outage.
	loneItems, loneBytes atomic.Int64
	// Those in quarantine. They are not among them.
	badItems, badBytes atomic.Int64

	current *segment // only the log's loop uses it: the segment of the last request
	spool   spoolIndex
	kept    keptOps
}

// walLimits bound what the log holds.
type walLimits struct {
	items, bytes int64
	full         float64 // part of them from which on nothing more is taken
}

func newJournal(lim walLimits) *journal { return &journal{lim: lim} }

// Open opens the file. With sync a commit survives a power loss. What is read at once is not much
// larger than most bytes. After an error there is nothing to close.
// While another engine has it open, Open waits, for wait at most.
func (j *journal) Open(ctx context.Context, path string, sync bool, most int64, wait time.Duration) (err error) {
	ended := awaitLock(ctx, wait, func() bool {
		j.log, err = oplog.Open(ctx, oplog.Options{Path: path, NoSync: !sync, SegmentBytes: int(min(oplog.DefaultSegmentBytes, most))})
		return errors.Is(err, oplog.ErrLocked)
	})
	if ended != nil {
		return errors.Join(walError(err), ended)
	}
	if err == nil {
		j.sync = sync
		return nil
	}
	if errors.Is(err, oplog.ErrLocked) || errors.Is(err, oplog.ErrCorrupt) {
		return walError(err)
	}
	return says(fmt.Errorf("opening the WAL: %w", err))
}

// lockPoll is how often a lock is tried: the operating system has no wait with an end for one.
const lockPoll = 20 * time.Millisecond

// awaitLock calls try while it reports that a lock is held, for wait at most. When ctx ends
// meanwhile, it returns its error.
func awaitLock(ctx context.Context, wait time.Duration, try func() (held bool)) error {
	for began := time.Now(); try(); {
		left := wait - time.Since(began)
		if left <= 0 {
			return nil
		}
		if err := sleep(ctx, min(left, lockPoll)); err != nil {
			return err
		}
	}
	return nil
}

// IsOpen reports whether Open has succeeded.
func (j *journal) IsOpen() bool { return j.log != nil }

// Syncs reports whether a commit survives a power loss.
func (j *journal) Syncs() bool { return j.sync }

// Run commits what is appended, until End.
func (j *journal) Run() { j.log.Run() }

// End lets Run return when all that was appended is committed.
func (j *journal) End() { j.log.Close() }

// Close closes the file, after Run has returned.
func (j *journal) Close() error { return j.log.CloseFiles() }

// Append hands a unit, whose ops have their versions and their place (Reserve), to the log.
// then runs on the log's loop, in log order, with the segment of the unit or the error that
// kept it out; last is true for the last unit of the segment. unless, if not nil, is asked on
// the loop just before the commit: an error keeps the unit out. newest is the largest version
// the clock has given out.
//
// Units enter the log in the order of these calls, so whoever gives out versions holds a lock
// from then until Append has returned (versions.go).
func (j *journal) Append(ops []*entry, newest uint64, unless func() error, then func(seg *segment, last bool, err error)) {
	seen := ops[0].state.Load()&(statePinned|stateOwn) != 0 // accepted before: Buffered, or decided
	payload := encodeUnit(make([]byte, 0, unitSize(ops)), ops, seen)
	kept := j.kept.begin(ops)
	j.log.Append(&oplog.Request{Payload: payload, Ops: len(ops), Max: newest, At: time.Now().UnixNano(), Unless: unless, Done: func(s *oplog.Segment, err error) {
		if err != nil {
			j.kept.end(kept, 0)
			then(nil, false, walError(err))
			return
		}
		j.kept.end(kept, s.ID)
		if j.current == nil || j.current.id != s.ID {
			j.current = &segment{id: s.ID, live: s.Ops, pending: s.Ops, bytes: int64(len(s.Payload))}
		}
		j.current.pending -= len(ops)
		then(j.current, j.current.pending == 0, nil)
	}})
}

// Reserve gives ops their place in the log, unless it is full or they would pass a limit. They
// keep it until they are in L3: those in the log, those on their way there, and Buffered ops,
// which an outage of L3 will put there. So the log has room for whatever was accepted, and calls
// side by side pass the mark of fullness by one unit, not by as many as there are. What is in
// quarantine takes room as well.
func (j *journal) Reserve(ops []*entry) bool {
	n, size := int64(len(ops)), opsBytes(ops)
	items, bytes := j.items.Add(n)+j.badItems.Load(), j.bytes.Add(size)+j.badBytes.Load()
	if items <= j.lim.items && bytes <= j.lim.bytes &&
		float64(items-n) < j.lim.full*float64(j.lim.items) && float64(bytes-size) < j.lim.full*float64(j.lim.bytes) {
		return true
	}
	j.Release(ops)
	return false
}

// Occupy gives ops a place whatever the limits are.
func (j *journal) Occupy(ops []*entry) {
	j.items.Add(int64(len(ops)))
	j.bytes.Add(opsBytes(ops))
}

// Release takes a place back.
func (j *journal) Release(ops []*entry) {
	j.items.Add(-int64(len(ops)))
	j.bytes.Add(-opsBytes(ops))
}

// Resize notes that an op with a place in the log has become larger, or smaller.
func (j *journal) Resize(by int64) { j.bytes.Add(by) }

// Lone notes that accepted ops are in memory alone (by is 1), or no longer (-1).
func (j *journal) Lone(ops []*entry, by int64) {
	j.loneItems.Add(by * int64(len(ops)))
	j.loneBytes.Add(by * opsBytes(ops))
}

// Refused notes that so many ops, of so many bytes, have come to be in quarantine, or left it.
// While their batch goes on they have their own place, too.
func (j *journal) Refused(n int, bytes int64) {
	j.badItems.Add(int64(n))
	j.badBytes.Add(bytes)
}

// Done notes that ops of a segment are done.
func (j *journal) Done(seg *segment, ops []*entry) {
	j.Release(ops)
	seg.live -= len(ops)
}

// Alone returns how many ops are in memory alone.
func (j *journal) Alone() int { return int(j.loneItems.Load()) }

// Stats sets this department's part: what is in the log.
func (j *journal) Stats(s *Stats) {
	s.WALItems, s.WALBytes = j.items.Load()-j.loneItems.Load(), j.bytes.Load()-j.loneBytes.Load()
}

// Fill returns how full the log is of ops and of bytes; 1 is full.
func (j *journal) Fill() (items, bytes float64) {
	return j.fill(&j.items, &j.badItems, j.lim.items), j.fill(&j.bytes, &j.badBytes, j.lim.bytes)
}

// fill counts what is in quarantine up to the mark at which writes are refused: it does not leave
// by itself, and reads shall go on.
func (j *journal) fill(taken, bad *atomic.Int64, most int64) float64 {
	now := float64(taken.Load())
	return max(now, min(now+float64(bad.Load()), j.lim.full*float64(most))) / float64(most)
}

// MostlyRefused reports whether quarantine takes more room than what waits for L3.
func (j *journal) MostlyRefused() bool {
	return j.badItems.Load() > j.items.Load() || j.badBytes.Load() > j.bytes.Load()
}

// Peek returns the first segment in (after, upTo], how many ops it holds, and of how many bytes.
func (j *journal) Peek(ctx context.Context, after, upTo int64) (seg int64, ops int, bytes int64, ok bool, err error) {
	s, bytes, ok, err := j.log.Peek(ctx, after, upTo)
	return s.ID, s.Ops, bytes, ok, walError(err)
}

// storedSegment is what a segment holds.
type storedSegment struct {
	ID    int64
	Ops   int
	At    int64 // unix nanoseconds when the first of them was accepted
	Units [][]*entry
}

// Read returns what a segment holds, false when it was trimmed.
func (j *journal) Read(ctx context.Context, seg int64) (r storedSegment, ok bool, err error) {
	s, ok, err := j.log.Get(ctx, seg)
	if err != nil || !ok {
		return r, false, walError(err)
	}
	r = storedSegment{ID: s.ID, Ops: s.Ops, At: s.At}
	if r.Units, err = decodeUnits(s.Payload); err != nil {
		err = walError(fmt.Errorf("segment %d: %w", s.ID, err))
	}
	return r, true, err
}

// leftover is what an earlier engine left in the log.
type leftover struct {
	Ops         int
	First, Last int64 // segments
	Oldest      int64 // unix nanoseconds when the first op was accepted
}

// recoverBytes is how much of the log is read at once.
const recoverBytes = 4 << 20

// Recover makes readable what an earlier engine left in the log, but for units that are not
// wanted any more.
func (j *journal) Recover(ctx context.Context, hash func(id string) uint64, unwanted func(ops []*entry, seg int64) bool) (l leftover, err error) {
	t, err := j.log.Totals(ctx)
	if err != nil || t.Last == 0 {
		return leftover{}, walError(err)
	}
	l = leftover{First: t.First, Last: t.Last, Oldest: t.OldestAt}
	j.spool.recovered = t.Last
	err = j.each(ctx, 0, t.Last, func(seg int64, ops []*entry) {
		l.Ops += len(ops)
		j.bytes.Add(opsBytes(ops))
		if unwanted(ops, seg) {
			return
		}
		for _, op := range ops {
			j.AddSpooled(hash(op.id()), seg, op.version)
			if op.isMerge() {
				j.AddSpooled(hash(op.item()), seg, op.version)
				j.AddSpooledMerge(hash(op.item()))
			}
		}
	})
	if err != nil {
		return leftover{}, err
	}
	j.items.Add(int64(l.Ops))
	return l, nil
}

// Look calls fn with the segment of each op of some ids in segments of (after, upTo]. It reads them
// all.
func (j *journal) Look(ctx context.Context, ids map[string]bool, after, upTo int64, fn func(ops []*entry, op *entry, seg int64)) error {
	return j.each(ctx, after, upTo, func(seg int64, ops []*entry) {
		for _, op := range ops {
			if ids[op.id()] {
				fn(ops, op, seg)
			}
		}
	})
}

// each calls fn with all units in segments of (after, upTo].
func (j *journal) each(ctx context.Context, after, upTo int64, fn func(seg int64, ops []*entry)) error {
	for after < upTo {
		segs, err := j.log.ReadAfter(ctx, after, upTo, recoverBytes)
		if err != nil || len(segs) == 0 {
			return walError(err)
		}
		for _, s := range segs {
			units, err := decodeUnits(s.Payload)
			if err != nil {
				return walError(fmt.Errorf("segment %d: %w", s.ID, err))
			}
			for _, ops := range units {
				fn(s.ID, ops)
			}
			after = s.ID
		}
	}
	return nil
}

// Trim lets the log forget segments up to one.
func (j *journal) Trim(upTo int64) { j.log.Trim(upTo) }

// Extent returns the newest segment that is committed and the newest that is trimmed.
func (j *journal) Extent() (last, trimmed int64) { return j.log.Extent() }

// Max returns the largest version that was given out when something was appended last, by an
// earlier engine included.
func (j *journal) Max() uint64 { return j.log.Max() }

// Made reports whether the file is new.
func (j *journal) Made() bool { return j.log.Made() }

// Meta returns the value of a key, nil when there is none.
func (j *journal) Meta(ctx context.Context, key string) ([]byte, error) {
	b, err := j.log.Meta(ctx, key)
	return b, walError(err)
}

// SetMeta sets the value of a key. It is durable then.
func (j *journal) SetMeta(ctx context.Context, key string, value []byte) error {
	return walError(j.log.SetMeta(ctx, key, value))
}

// Blob and SetBlob are Meta and SetMeta for large values.
func (j *journal) Blob(ctx context.Context, key string) ([]byte, error) {
	b, err := j.log.Blob(ctx, key)
	return b, walError(err)
}

func (j *journal) SetBlob(ctx context.Context, key string, value []byte) error {
	return walError(j.log.SetBlob(ctx, key, value))
}

// badUnit is a unit in quarantine.
type badUnit struct {
	Row      int64
	At       int64 // unix nanoseconds
	Attempts int
	Err      string
	Ops      []*entry
}

func (u *badUnit) stored() oplog.Bad {
	return oplog.Bad{ID: u.Row, Ops: len(u.Ops), At: u.At, Attempts: u.Attempts, Error: u.Err, Payload: encodeUnit(nil, u.Ops, true)}
}

// AddBad stores a unit and returns its row.
func (j *journal) AddBad(ctx context.Context, u *badUnit) (row int64, err error) {
	row, err = j.log.AddBad(ctx, u.stored())
	return row, walError(err)
}

// MarkBad notes in a row which of its ops are found to be superseded; false: the row is gone. Only
// what is wanted is decoded.
func (j *journal) MarkBad(ctx context.Context, row int64, want opFilter, found func(e *entry) bool) (ok bool, err error) {
	bads, err := j.log.Bads(ctx, row, row)
	if err != nil || len(bads) == 0 {
		return false, walError(err)
	}
	if err := supersede(bads[0].Payload, want, found); err != nil {
		return false, walError(err)
	}
	return true, walError(j.log.UpdateBad(ctx, bads[0]))
}

// DeleteBad removes a row.
func (j *journal) DeleteBad(ctx context.Context, row int64) error {
	return walError(j.log.DeleteBad(ctx, row))
}

// DiscardBad removes rows and sets the value of a key, in one transaction.
func (j *journal) DiscardBad(ctx context.Context, rows []int64, key string, value []byte) error {
	return walError(j.log.DiscardBad(ctx, rows, key, value))
}

// Bads returns the units in rows from first to last, none with an error.
func (j *journal) Bads(ctx context.Context, first, last int64) (bads []badUnit, err error) {
	if err := eachBad(ctx, j.log, first, last, func(u *badUnit) { bads = append(bads, *u) }); err != nil {
		return nil, walError(err)
	}
	return bads, nil
}

// EachBad calls fn with each unit in quarantine, one after the other.
func (j *journal) EachBad(ctx context.Context, fn func(*badUnit)) error {
	return walError(eachBad(ctx, j.log, 0, math.MaxInt64, fn))
}

// badRows is a log, or what is read of one.
type badRows interface {
	EachBad(ctx context.Context, first, last int64, fn func(oplog.Bad) error) error
}

// eachBad calls fn with the unit of each row from first to last.
func eachBad(ctx context.Context, log badRows, first, last int64, fn func(*badUnit)) error {
	return log.EachBad(ctx, first, last, func(b oplog.Bad) error {
		units, err := decodeUnits(b.Payload)
		if err == nil {
			fn(&badUnit{b.ID, b.At, b.Attempts, b.Error, slices.Concat(units...)})
		}
		return err
	})
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
