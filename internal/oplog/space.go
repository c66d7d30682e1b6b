package oplog

import (
	"context"
	"fmt"
	"os"
)

// space.go keeps the files from holding much more than the log does, and the disk from being
// filled by it. SQLite empties the -wal file by itself, but only at a moment when nobody reads
// it; and pages of the main file that have become free stay there until they are asked for.

const (
	// reclaimPages is how much free space, in pages, an empty log gives back to the file
	// system.
	reclaimPages = 1024
	// walLimit is how large the -wal file may become while readers follow each other without
	// a gap. Then they are stopped for the time it takes to empty it.
	walLimit = 32 << 20
	walLook  = walLimit / 8 // after so many bytes its size is looked up
	diskLook = 1 << 20      // after so many bytes the disk is asked for its free space
	// spare is what appends leave free on the disk, beside the size of the -wal file. Trimming
	// writes to that file, and emptying it makes the main file grow: a log that had filled the
	// disk to the last byte could never be trimmed, and would stay full when all is drained.
	spare = 8 << 20
)

// admit returns the requests there is room for: all of them, or none.
func (l *Log) admit(reqs []*Request) []*Request {
	for _, r := range reqs {
		l.unseen += len(r.Payload)
	}
	if len(reqs) == 0 || l.unseen < diskLook {
		return reqs
	}
	full := l.room(int64(l.unseen))
	if full == nil {
		l.unseen = 0
		return reqs
	}
	l.unseen = diskLook // look again the next time
	for _, r := range reqs {
		r.Done(nil, full)
	}
	return nil
}

// room tells whether the disk has room for so many bytes, and makes some if it can.
func (l *Log) room(bytes int64) error {
	free, need, err := l.space()
	if err == nil && free < need+bytes {
		l.makeRoom()
		free, need, err = l.space()
	}
	if err != nil || free >= need+bytes { // when nothing is known, a commit will tell
		return nil
	}
	return fmt.Errorf("%w: %d MiB are left, and the log needs %d MiB to be emptied", ErrFull, free>>20, need>>20)
}

// makeRoom gives back what the files need not hold.
func (l *Log) makeRoom() {
	for more := true; more; {
		if l.walSize() > spare/8 {
			l.emptyWAL()
		}
		more = l.giveBack(1)
	}
}

// space returns how much of the disk is free, and how much of it must stay so.
func (l *Log) space() (free, need int64, err error) {
	free, err = diskFree(l.opts.Path)
	return free, spare + l.walSize(), err
}

// walSize is the size of the -wal file, 0 when there is none.
func (l *Log) walSize() int64 {
	st, err := os.Stat(l.opts.Path + "-wal")
	if err != nil {
		return 0
	}
	return st.Size()
}

// boundWAL empties the -wal file when it has become too large.
func (l *Log) boundWAL(segs []Segment) {
	for i := range segs {
		l.fresh += len(segs[i].Payload)
	}
	if l.fresh < walLook {
		return
	}
	if l.fresh = 0; l.walSize() >= walLimit {
		l.emptyWAL()
	}
}

// emptyWAL empties the -wal file at a moment without readers of this process. It fails while
// another process reads, or when the disk is full, and is tried again.
func (l *Log) emptyWAL() {
	l.readMu.Lock()
	defer l.readMu.Unlock()
	if l.w != nil {
		_ = l.w.startOver(context.Background())
	}
}

// reclaim gives space back to the file system while the log has nothing else to do. It waits
// until three quarters of the file are free: pages that are in use have to be moved, and during
// a drain that would be most of them.
func (l *Log) reclaim() {
	for l.idle() && l.giveBack(4) {
	}
}

// giveBack takes one step of it, when at most one page of so many is in use, and reports
// whether there may be more to take.
func (l *Log) giveBack(ofEach int64) (more bool) {
	if l.w == nil {
		return false
	}
	to := l.ledger
	did, err := l.w.reclaim(&to, ofEach)
	if did {
		l.settle(to, nil, err)
	}
	return did && err == nil
}
