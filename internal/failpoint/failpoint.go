// Package failpoint names the moments at which a crash would hurt most, so that tests can
// stop the process at each of them. The library calls Hit there; without a hook that is one
// atomic load, on paths that cost a transaction anyway.
package failpoint

import "sync/atomic"

// Point is a moment in the life of an op.
type Point string

// The points, in the order an op meets them.
const (
	WALCommitting   Point = "wal committing"   // the transaction is written, COMMIT is not sent
	WALCommitted    Point = "wal committed"    // durable, and nobody has been told
	SpoolRead       Point = "spool read"       // the drain has read ops back, none has been sent
	L3Committing    Point = "l3 committing"    // the rows are sent, COMMIT is not
	L3Committed     Point = "l3 committed"     // L3 has the batch, L2 and the WAL don't know
	L2Written       Point = "l2 written"       // the WAL doesn't know
	Quarantined     Point = "quarantined"      // the refused op is in both the quarantine and the WAL
	WALTrimming     Point = "wal trimming"     // the deletion is about to be written
	WALIndexed      Point = "wal indexed"      // recovery has read the WAL, nothing is drained
	Recovered       Point = "recovered"        // Open is about to return
	ShutdownFlushed Point = "shutdown flushed" // what could be flushed is, the rest is not logged yet
)

// Points lists all of them.
var Points = [...]Point{WALCommitting, WALCommitted, SpoolRead, L3Committing, L3Committed, L2Written, Quarantined,
	WALTrimming, WALIndexed, Recovered, ShutdownFlushed}

var hook atomic.Pointer[func(Point)]

// Hit tells the hook, if there is one, that a point was reached.
func Hit(p Point) {
	if fn := hook.Load(); fn != nil {
		(*fn)(p)
	}
}

// SetHook installs fn, which is called on whichever goroutine reaches a point, for the rest
// of the process's life. It is for tests.
func SetHook(fn func(Point)) { hook.Store(&fn) }
