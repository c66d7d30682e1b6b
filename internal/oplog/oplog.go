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
//   - Every row carries a CRC-32C; one that does not match is ErrCorrupt, never data.
//   - A file that holds fewer commits than were acknowledged is ErrCorrupt, never a shorter
//     log or a fresh start: the lock file beside it remembers (witness.go), and ledgers tell
//     whether its pages belong together (format.go). A file is refused before anything is
//     written to it (inspect.go).
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
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
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
	// ErrFull refuses an append before anything is changed. When the disk fills up in the
	// midst of a commit, SQLite's error says so instead.
	ErrFull = errors.New("oplog: the disk is full")
	// errReopening stands for a moment after a failed commit.
	errReopening = errors.New("oplog: being reopened after a failed commit")
)

const (
	// trimDelay bounds how long a trimmed segment stays when nothing is appended.
	trimDelay  = 100 * time.Millisecond
	readers    = 4
	reopenWait = 2 * time.Second // how long a reader waits for the file to be reopened
	// gatherTime is the longest that gather waits: about half of what a commit takes on a
	// fast disk.
	gatherTime = 100 * time.Microsecond
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// packedKept is the most that is kept between commits for what they write.
const packedKept = 4 << 20

// DefaultSegmentBytes is Options.SegmentBytes when that is 0.
const DefaultSegmentBytes = 256 << 10

// Options of Open.
type Options struct {
	Path   string
	NoSync bool // commit without fsync: survives a killed process, not power loss
	// SegmentBytes is where a segment ends and the next begins within one commit: a reader
	// that looks for one op reads a whole segment. A larger request is a segment of its own. 0 is
	// DefaultSegmentBytes.
	SegmentBytes int
}

// Request is one append. The payload is the log's: it lets go of it once it has copied it.
type Request struct {
	Payload []byte
	Ops     int    // how many ops the payload holds, for Segment.Ops
	Max     uint64 // a number below 2^63 of which the log remembers the largest (Log.Max)
	At      int64  // when the request was made, unix nanoseconds
	// Unless, if not nil, is asked on the loop just before the commit, after the Done of all
	// requests of earlier commits: an error keeps the request out, and is what Done gets.
	Unless func() error
	// Done runs exactly once, on the loop, with the whole segment the request became part of,
	// or with the error that kept it out. It must be quick, must not keep the segment, and must
	// not call the log except Trim. The requests of one segment follow each other.
	Done func(seg *Segment, err error)
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
	opts    Options
	lock    *filelock.Lock
	witness *witness

	mu      sync.Mutex // guards the fields below
	waiting []*Request
	trimTo  int64 // segments up to this one may go
	urgent  bool  // commit the trim now
	trims   []trimWait
	closed  bool
	wake    chan struct{} // cap 1: something is waiting

	// Only the loop uses these once Run is running.
	db      *sql.DB
	w       *writer
	next    int64   // id of the next segment
	ledger  ledger  // as of the last commit
	retract []int64 // segments of failed commits, to be deleted if they are there
	packed  []byte  // room for the payloads of a commit
	fresh   int     // bytes appended since the size of the -wal file was looked up
	unseen  int     // bytes appended since the disk was found to have room

	readMu sync.RWMutex  // guards reader and sideDB against being reopened
	reader *sql.DB       // of segments and quarantine
	gone   bool          // CloseFiles was called
	opened chan struct{} // closed and replaced when the readers are open again
	sideDB *sql.DB       // writes what is beside the segments, and reads meta and blobs

	last, trimmed atomic.Int64 // of the ledger, for Extent
	bare          atomic.Bool  // nothing was written yet beside segments
	made          bool         // by this Open
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
	if opts.SegmentBytes == 0 {
		opts.SegmentBytes = DefaultSegmentBytes
	}
	l := &Log{opts: opts, lock: lock, unseen: diskLook, wake: make(chan struct{}, 1), opened: make(chan struct{})}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.closeFiles(), lock.Release())
		}
	}()
	w, used, err := newWitness(lock, opts.NoSync)
	if err != nil {
		return nil, err
	}
	l.witness = w
	if st, serr := os.Stat(opts.Path); used && (serr != nil || st.Size() == 0) {
		return nil, fmt.Errorf("%w: %s is missing or empty but was in use; restore it, or remove %s.lock as well to start empty",
			ErrCorrupt, opts.Path, opts.Path)
	}
	if err := l.openFiles(ctx, used); err != nil {
		return nil, err
	}
	if !l.made { // the last owner may have died of a failed fsync; the disk may be full now, or a backup under way
		_ = l.w.startOver(ctx)
	}
	if err := w.begin(); err != nil {
		return nil, err
	}
	return l, nil
}

// openFiles checks the file, opens the pools and reads the ledger. used tells that the file
// must be there and hold a log.
func (l *Log) openFiles(ctx context.Context, used bool) error {
	if !used {
		if err := sqlkit.TouchPrivate(l.opts.Path); err != nil {
			return err
		}
	}
	options := ""
	if used || l.begun() {
		if err := l.inspect(ctx, used); err != nil {
			return fmt.Errorf("checking %s: %w", l.opts.Path, l.describe(err))
		}
	} else {
		options = "_pragma=auto_vacuum(2)&" // an old file has it, and setting it again would need room on the disk
	}
	sync := "FULL"
	if l.opts.NoSync {
		sync = "OFF"
	}
	// In quotes: the driver sorts, and to begin a file takes eight fsyncs unless this comes first.
	sync = "_pragma=%22synchronous%22(" + sync + ")&"
	db, err := sqlkit.OpenSQLite(l.opts.Path, sync+options+"_pragma=journal_mode(WAL)&_pragma=journal_size_limit("+strconv.Itoa(walLimit)+")&_txlock=immediate")
	if err != nil {
		return err
	}
	l.db = db
	db.SetMaxOpenConns(1)
	var made bool
	if l.w, made, err = newWriter(ctx, db); err != nil {
		return l.describe(err)
	}
	if made {
		l.made = true
		l.bare.Store(true)
	}
	if err := readLedger(ctx, l.w.conn, ledgerKey, l.ledger.fields()); err != nil {
		return l.describe(err)
	}
	l.extend()
	l.next = max(l.next, l.ledger.last+1) // ids are never reused, also not those of failed commits
	if l.sideDB, err = sqlkit.OpenSQLite(l.opts.Path, sync+"_txlock=immediate"); err != nil {
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
		r.Done(nil, ErrClosed)
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

// trimWait is a call of Trimmed.
type trimWait struct {
	upTo int64
	then func(error)
}

// Trimmed calls then when the segments up to upTo, which Trim was told of, are gone from disk, or
// with the error of the commit that should have deleted them, or with ErrClosed. That commit is
// made at once. then runs on the loop, or in the call; what holds for Request.Done holds for it.
func (l *Log) Trimmed(upTo int64, then func(error)) {
	l.mu.Lock()
	if gone := l.trimmed.Load() >= upTo; gone || l.closed {
		l.mu.Unlock()
		if gone {
			then(nil)
		} else {
			then(ErrClosed)
		}
		return
	}
	l.trims, l.urgent = append(l.trims, trimWait{upTo, then}), true
	l.mu.Unlock()
	l.signal()
}

// Trims returns up to where Trim was told that segments may go.
func (l *Log) Trims() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.trimTo
}

// tellTrims tells those who wait that segments up to trimTo are gone, or why not.
func (l *Log) tellTrims(trimTo int64, err error) {
	l.mu.Lock()
	var told []trimWait
	l.trims = slices.DeleteFunc(l.trims, func(w trimWait) bool {
		if w.upTo <= trimTo {
			told = append(told, w)
		}
		return w.upTo <= trimTo
	})
	l.mu.Unlock()
	for _, w := range told {
		w.then(err)
	}
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

// Extent returns the newest segment there ever was, and the one up to which all are gone.
func (l *Log) Extent() (last, trimmed int64) { return l.last.Load(), l.trimmed.Load() }

func (l *Log) extend() {
	l.last.Store(l.ledger.last)
	l.trimmed.Store(l.ledger.trimmed)
}

// Made reports whether this Open has made the log.
func (l *Log) Made() bool { return l.made }

// Max returns the largest Request.Max ever committed. Call it before Run.
func (l *Log) Max() uint64 { return uint64(l.ledger.max) }

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
		trim := l.chores(trimTo)
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

// chores reports whether there is something to do without requests: a trim; and after a failed
// commit to reopen, for which readers wait, and to delete what may have been left behind.
func (l *Log) chores(trimTo int64) bool {
	return trimTo > l.ledger.trimmed || l.w == nil || len(l.retract) > 0
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
	if reqs = standing(l.admit(reqs)); len(reqs) == 0 && !l.chores(trimTo) {
		return true
	}
	err := l.ensureOpen()
	segs, of, used := pack(reqs, l.next, l.opts.SegmentBytes, l.packed)
	if l.packed = used[:0]; cap(used) > packedKept {
		l.packed = nil
	}
	to := l.ledger
	for _, r := range reqs {
		to.max = max(to.max, int64(r.Max))
	}
	if trimTo > to.trimmed {
		failpoint.Hit(failpoint.WALTrimming)
	}
	if err == nil {
		err = l.w.commit(segs, trimTo, l.retract, &to)
	}
	l.settle(to, segs, err)
	if err == nil {
		l.retract = nil
		failpoint.Hit(failpoint.WALCommitted)
	}
	l.next += int64(len(segs))
	for i, r := range reqs {
		if err != nil {
			r.Done(nil, l.describe(err))
		} else {
			r.Done(&segs[of[i]], nil)
		}
	}
	if err == nil {
		l.tellTrims(trimTo, nil)
	} else {
		l.tellTrims(trimTo, l.describe(err))
	}
	l.boundWAL(segs)
	if err == nil && len(reqs) == 0 {
		l.reclaim()
	}
	return err == nil
}

// standing drops the requests that are not to be committed after all.
func standing(reqs []*Request) []*Request {
	return slices.DeleteFunc(reqs, func(r *Request) bool {
		if r.Unless == nil {
			return false
		}
		err := r.Unless()
		if err != nil {
			r.Done(nil, err)
		}
		return err != nil
	})
}

// settle notes how a transaction ended that was to bring the ledger to a new state.
func (l *Log) settle(to ledger, segs []Segment, err error) {
	if err != nil {
		l.abandon(segs, sqlkit.RolledBack(err))
		return
	}
	l.ledger = to
	l.extend()
	l.witness.saw(claim{commits: to.commits})
}

// pack distributes requests over segments, in order; request i is in segs[of[i]]. The payloads of
// the segments lie in b, or, where that is too small, in what is returned for it.
func pack(reqs []*Request, next int64, segmentBytes int, b []byte) (segs []Segment, of []int, packed []byte) {
	size := 0
	for _, r := range reqs {
		size += len(r.Payload)
	}
	of, b = make([]int, len(reqs)), slices.Grow(b[:0], size)
	var cur *Segment
	first := 0 // where the payload of cur begins
	for i, r := range reqs {
		if cur == nil || len(b)-first+len(r.Payload) > segmentBytes {
			segs = append(segs, Segment{ID: next, At: r.At})
			cur, first = &segs[len(segs)-1], len(b)
			next++
		}
		b, r.Payload = append(b, r.Payload...), nil
		cur.Payload = b[first:len(b):len(b)]
		cur.Ops += r.Ops
		cur.At = min(cur.At, r.At)
		of[i] = len(segs) - 1
	}
	return segs, of, b
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
	err := l.openFiles(ctx, true)
	if err == nil {
		err = l.w.startOver(ctx)
	}
	if err != nil {
		return errors.Join(err, l.closeFiles())
	}
	close(l.opened)
	l.opened = make(chan struct{})
	return nil
}
