// Package oplog is a durable log of opaque payloads in a SQLite file, with group commit.
//
// # How it works
//
// Callers hand in requests; one loop (Run) takes all that are waiting, packs their
// payloads into one segment, a row of one table, and commits it. So however many callers
// there are, they share one transaction, one row and one fsync. A request is never split
// over two segments. Once committed, each request's Done runs on the loop, in log order.
//
// Packing is what makes the log fast: inserting and deleting one row per op costs about
// 4 µs each in SQLite, on one connection; copying an op into a segment costs a tenth of
// that. The price is that a segment is trimmed as a whole, when its last op is done: ops
// of a half-done segment come back after a crash. Their writes are conditional, so that
// is harmless.
//
// Trimmed segments are deleted in the next commit, or after a short while in one of their
// own: a deletion lost in a crash only repeats harmless work.
//
// # What must hold
//
//   - Done(nil) runs only after COMMIT returned nil with synchronous=FULL.
//   - After a failed commit the outcome on disk is unknown (a failed fsync has dropped the
//     pages, trying again proves nothing): the handle is thrown away, the file reopened
//     and checked, and the segment deleted if it is there, before any later Done(nil).
//   - Every payload carries a CRC-32C; one that does not match is ErrCorrupt, never data.
//   - A file that was in use and is now missing or empty is ErrCorrupt, never a fresh
//     start: the lock file beside it remembers.
//
// The log starts no goroutine; its owner runs Run.
package oplog

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/syncengine-go/syncengine/internal/failpoint"
	"github.com/syncengine-go/syncengine/internal/filelock"
	"github.com/syncengine-go/syncengine/internal/sqlkit"
)

// The errors of the log. Each wraps its cause.
var (
	ErrLocked  = errors.New("oplog: in use by another process or engine")
	ErrCorrupt = errors.New("oplog: file is damaged")
	ErrClosed  = errors.New("oplog: closed")
	// errReopening stands for a moment after a failed commit.
	errReopening = errors.New("oplog: being reopened after a failed commit")
)

const (
	// segmentBytes is where a segment ends and the next begins within one commit: a
	// reader that looks for one op reads a whole segment.
	segmentBytes = 256 << 10
	// trimDelay bounds how long a trimmed segment stays when nothing is appended.
	trimDelay = 100 * time.Millisecond
	// reclaimPages is how much free space, in pages, an empty log gives back to the
	// file system.
	reclaimPages = 1024
	readers      = 4
	reopenWait   = 2 * time.Second // how long a reader waits for the file to be reopened
	// gatherTime is the longest that gather waits: about half of what a commit takes on a
	// fast disk.
	gatherTime = 100 * time.Microsecond
	usedNote   = "in use"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Options of Open.
type Options struct {
	Path   string
	NoSync bool // commit without fsync: survives a killed process, not power loss
}

// Request is one append. The payload must not be changed until Done has run.
type Request struct {
	Payload []byte
	Ops     int    // how many ops the payload holds, for Segment.Ops
	Max     uint64 // a number of which the log remembers the largest (Log.Max)
	At      int64  // when the request was made, unix nanoseconds
	// Done runs exactly once, on the loop, with the segment the request became part of and
	// the ops of that whole segment, or with the error that kept it out. It must be quick
	// and must not call the log except Trim. The requests of one segment follow each other.
	Done func(seg int64, segOps int, err error)
}

// Segment is what one or more requests became.
type Segment struct {
	ID      int64 // rising, never reused
	Ops     int
	At      int64 // of its oldest request
	Payload []byte
}

// Log is an open log. Its methods are safe for concurrent use.
type Log struct {
	opts Options
	lock *filelock.Lock

	mu      sync.Mutex // guards the fields below
	waiting []*Request
	trimTo  int64 // segments up to this one may go
	urgent  bool  // commit the trim now
	closed  bool
	wake    chan struct{} // cap 1: something is waiting

	// Only the loop uses these once Run is running.
	db      *sql.DB
	w       *writer
	next    int64   // id of the next segment
	trimmed int64   // segments up to this one are gone
	retract []int64 // segments of failed commits, to be deleted if they are there
	max     uint64

	readMu sync.RWMutex // guards reader and sideDB against being reopened
	reader *sql.DB
	gone   bool          // CloseFiles was called
	opened chan struct{} // closed and replaced when the readers are open again
	sideDB *sql.DB       // small writes beside the loop: quarantine, meta
}

// Open locks and opens the log, or creates it when neither the file nor a memory of it
// exists. It checks the file's structure, which takes time in proportion to its size.
func Open(ctx context.Context, opts Options) (_ *Log, err error) {
	lock, err := filelock.Acquire(opts.Path + ".lock")
	if errors.Is(err, filelock.ErrHeld) {
		return nil, fmt.Errorf("%w: %s", ErrLocked, opts.Path)
	}
	if err != nil {
		return nil, err
	}
	l := &Log{opts: opts, lock: lock, wake: make(chan struct{}, 1), opened: make(chan struct{})}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.closeFiles(), lock.Release())
		}
	}()
	note, err := lock.Note()
	if err != nil {
		return nil, err
	}
	if st, serr := os.Stat(opts.Path); note == usedNote && (serr != nil || st.Size() == 0) {
		return nil, fmt.Errorf("%w: %s is missing or empty but was in use; restore it, or remove %s.lock as well to start empty",
			ErrCorrupt, opts.Path, opts.Path)
	}
	if err := l.openFiles(ctx); err != nil {
		return nil, err
	}
	if err := lock.SetNote(usedNote); err != nil {
		return nil, err
	}
	return l, nil
}

// openFiles opens the pools, checks the structure and reads the counters.
func (l *Log) openFiles(ctx context.Context) error {
	if err := sqlkit.TouchPrivate(l.opts.Path); err != nil {
		return err
	}
	sync := "FULL"
	if l.opts.NoSync {
		sync = "OFF"
	}
	db, err := sqlkit.OpenSQLite(l.opts.Path, "_pragma=auto_vacuum(2)&_pragma=journal_mode(WAL)&_pragma=synchronous("+sync+
		")&_pragma=journal_size_limit(67108864)&_txlock=immediate")
	if err != nil {
		return err
	}
	l.db = db
	db.SetMaxOpenConns(1)
	if l.w, err = newWriter(ctx, db); err != nil {
		return l.describe(err)
	}
	if l.next, l.max, err = l.w.counters(ctx); err != nil {
		return l.describe(err)
	}
	if l.sideDB, err = sqlkit.OpenSQLite(l.opts.Path, "_pragma=synchronous(FULL)&_txlock=immediate"); err != nil {
		return err
	}
	l.sideDB.SetMaxOpenConns(1)
	if l.reader, err = sqlkit.OpenSQLite(l.opts.Path, "_pragma=query_only(1)"); err != nil {
		return err
	}
	l.reader.SetMaxOpenConns(readers)
	l.reader.SetMaxIdleConns(readers)
	return nil
}

func (l *Log) closeFiles() error {
	var errs []error
	if l.w != nil {
		errs = append(errs, l.w.close())
		l.w = nil
	}
	// The writing pool is closed last: its last connection checkpoints.
	for _, db := range []**sql.DB{&l.reader, &l.sideDB, &l.db} {
		if *db != nil {
			errs = append(errs, (*db).Close())
			*db = nil
		}
	}
	return errors.Join(errs...)
}

// describe marks damage of the file as ErrCorrupt.
func (l *Log) describe(err error) error {
	if err != nil && sqlkit.Classify(err) == sqlkit.Corrupt && !errors.Is(err, ErrCorrupt) {
		return fmt.Errorf("%w: %s: %w", ErrCorrupt, l.opts.Path, err)
	}
	return err
}

// Append queues a request for the next commit and returns. After Close it runs
// Done(ErrClosed) at once.
func (l *Log) Append(r *Request) {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		r.Done(0, 0, ErrClosed)
		return
	}
	l.waiting = append(l.waiting, r)
	l.mu.Unlock()
	l.signal()
}

// Trim deletes all segments up to and including upTo, soon. It may be called from Done.
// Only a prefix can go: if a later segment went before an earlier one, a crash would bring
// back an old op without the newer one of the same id.
func (l *Log) Trim(upTo int64) {
	l.mu.Lock()
	l.trimTo = max(l.trimTo, upTo)
	l.mu.Unlock()
	l.signal()
}

func (l *Log) signal() {
	select {
	case l.wake <- struct{}{}:
	default: // a signal is already pending
	}
}

// Close makes Run commit what is waiting and return. Run must be awaited before
// CloseFiles.
func (l *Log) Close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.signal()
}

// CloseFiles closes the file and drops the lock. Call it after Run has returned, or when
// Run was never started.
func (l *Log) CloseFiles() error {
	l.readMu.Lock()
	defer l.readMu.Unlock()
	l.gone = true
	close(l.opened)
	return errors.Join(l.closeFiles(), l.lock.Release())
}

// Max returns the largest Request.Max ever committed. Call it before Run.
func (l *Log) Max() uint64 { return l.max }

// Run commits requests and trims until Close, then the rest, and returns.
func (l *Log) Run() {
	timer := time.NewTimer(trimDelay)
	timer.Stop()
	defer timer.Stop()
	crowd := 0     // requests of the last commit
	armed := false // the timer runs
	for {
		l.gather(crowd)
		l.mu.Lock()
		reqs, trimTo, closed := l.waiting, l.trimTo, l.closed
		// After a failed commit there is something to do, too: reopen, and delete what may
		// have been left behind. Readers wait for it.
		trim := trimTo > l.trimmed || l.w == nil || len(l.retract) > 0
		if len(reqs) == 0 && trim && !l.urgent && !closed {
			trim = false
			if !armed {
				armed = true
				timer.Reset(trimDelay)
			}
		}
		l.waiting, l.urgent = nil, false
		l.mu.Unlock()
		crowd = len(reqs)
		if len(reqs) > 0 || trim {
			if !l.commit(reqs, trimTo) && closed && len(reqs) == 0 {
				return // a trim that fails now is repeated harmlessly by the next owner
			}
			continue
		}
		if closed {
			return
		}
		select {
		case <-l.wake:
		case <-timer.C:
			armed = false
			l.mu.Lock()
			l.urgent = true
			l.mu.Unlock()
		}
	}
}

// gather gives the callers that the last commit has just woken a moment to come back.
// Without it the loop would take the first of them alone, and the others would wait for two
// commits. A single caller is never waited for.
func (l *Log) gather(crowd int) {
	if crowd < 2 {
		return
	}
	for start := time.Now(); time.Since(start) < gatherTime; {
		l.mu.Lock()
		enough := len(l.waiting) >= crowd || l.closed
		l.mu.Unlock()
		if enough {
			return
		}
		runtime.Gosched()
	}
}

// commit writes one transaction, reports to every request, and tells whether it succeeded.
func (l *Log) commit(reqs []*Request, trimTo int64) bool {
	segs, of := pack(reqs, l.next)
	newMax := l.max
	for _, r := range reqs {
		newMax = max(newMax, r.Max)
	}
	err := l.ensureOpen()
	if trimTo > l.trimmed {
		failpoint.Hit(failpoint.WALTrimming)
	}
	if err == nil {
		err = l.w.commit(segs, trimTo, l.retract, newMax, newMax != l.max)
	}
	if err != nil {
		l.abandon(segs, sqlkit.RolledBack(err))
		err = l.describe(err)
	} else {
		failpoint.Hit(failpoint.WALCommitted)
		l.retract, l.max, l.trimmed = nil, newMax, trimTo
		for len(reqs) == 0 && l.idle() && l.w.reclaim() {
		}
	}
	l.next += int64(len(segs))
	for i, r := range reqs {
		r.Done(segs[of[i]].ID, segs[of[i]].Ops, err)
	}
	return err == nil
}

// pack distributes requests over segments, in order; request i is in segs[of[i]].
func pack(reqs []*Request, next int64) (segs []Segment, of []int) {
	of = make([]int, len(reqs))
	var cur *Segment
	for i, r := range reqs {
		if cur == nil || len(cur.Payload)+len(r.Payload) > segmentBytes {
			segs = append(segs, Segment{ID: next, At: r.At})
			cur = &segs[len(segs)-1]
			next++
		}
		cur.Payload = append(cur.Payload, r.Payload...)
		cur.Ops += r.Ops
		cur.At = min(cur.At, r.At)
		of[i] = len(segs) - 1
	}
	return segs, of
}

// idle reports whether no request is waiting.
func (l *Log) idle() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.waiting) == 0 && !l.closed
}

// abandon throws the handle away after a failed commit, unless the transaction was rolled
// back for certain; the loop then reopens.
func (l *Log) abandon(segs []Segment, rolledBack bool) {
	for _, s := range segs {
		l.retract = append(l.retract, s.ID)
	}
	if rolledBack {
		return
	}
	l.readMu.Lock()
	_ = l.closeFiles() // its error adds nothing: the handle is given up because it failed
	l.readMu.Unlock()
}

// ensureOpen reopens and checks the file after a failed commit.
func (l *Log) ensureOpen() error {
	if l.w != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	l.readMu.Lock()
	defer l.readMu.Unlock()
	if _, err := os.Stat(l.opts.Path); err != nil { // never start afresh in place of a file that was removed
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	next := l.next
	if err := l.openFiles(ctx); err != nil {
		return errors.Join(err, l.closeFiles())
	}
	l.next = max(next, l.next) // ids are never reused, also not those of failed commits
	close(l.opened)
	l.opened = make(chan struct{})
	return nil
}
