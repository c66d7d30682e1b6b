package oplog

import (
	"encoding/binary"
	"fmt"
	"sync"

	"github.com/syncengine-go/syncengine/internal/filelock"
)

// witness is what the lock file says about the log: how many commits were durable before
// anybody was told of them. A file that holds fewer has lost its end.
//
// SQLite can't tell: from the first frame of the -wal file that does not match its checksum
// it drops everything, since that is what a commit looks like that a crash cut off. The same
// goes for a -wal file that was removed, and for an old copy of the database.
//
// The claim is written after each commit and not synced. After a kill it is exact. After a
// loss of power it may be older, or unreadable, and then claims less: never more than what
// was synced before. Without fsync nothing may be claimed (NoSync).
type witness struct {
	lock *filelock.Lock
	mute bool

	mu    sync.Mutex // guards claim, and keeps its writes in order: a write is some 1 µs, into memory
	claim claim
}

// claim counts the commits of the loop and those beside it.
type claim struct{ commits, side int64 }

// newWitness reads what the last owner claimed. used tells whether there was one.
func newWitness(lock *filelock.Lock, mute bool) (w *witness, used bool, err error) {
	rec, used, err := lock.Read()
	c := claim{int64(binary.BigEndian.Uint64(rec[:])), int64(binary.BigEndian.Uint64(rec[8:]))}
	return &witness{lock: lock, mute: mute, claim: c}, used, err
}

// begin marks the file as used, durably. An earlier claim is kept, but not by an owner that
// does not sync: a loss of power would make it untrue.
func (w *witness) begin() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.mute {
		w.claim = claim{}
	}
	if err := w.write(); err != nil {
		return err
	}
	return w.lock.Sync()
}

// saw notes commits that are durable.
func (w *witness) saw(c claim) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.claim.commits, w.claim.side = max(w.claim.commits, c.commits), max(w.claim.side, c.side)
	if !w.mute {
		_ = w.write() // without it the witness claims less, which is no reason to refuse work
	}
}

func (w *witness) write() (err error) {
	var rec [filelock.RecordSize]byte
	binary.BigEndian.PutUint64(rec[:], uint64(w.claim.commits))
	binary.BigEndian.PutUint64(rec[8:], uint64(w.claim.side))
	return w.lock.Write(rec)
}

// check compares what a file holds with the claim.
func (w *witness) check(path string, holds claim) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if holds.commits >= w.claim.commits && holds.side >= w.claim.side {
		return nil
	}
	return fmt.Errorf("%w: %s has lost its end: it holds %d commits of %d that were acknowledged. Was %s-wal damaged or "+
		"removed, or an old copy put in place? Nothing was changed. Restore the files, or remove %s.lock to go on with what is left",
		ErrCorrupt, path, holds.commits+holds.side, w.claim.commits+w.claim.side, path, path)
}
