package syncengine

import "time"

// Events are functions the engine calls when something of note happens. Each may be
// nil. They run on the engine's own goroutines, outside its locks, one at a time and
// in order; a slow one delays the next events, not reads or writes. A panic in one is
// recovered and logged.
//
// What waits for a slow one is bounded: with more than 16 MiB, ops are told of without their
// Content, which is nil then. With more than 32 MiB, some 100,000 of them, the next are not told
// of, nor are copies and batches; the log is told how many were left out, and Stats counts all.
// Changes of state have another 8 MiB.
type Events struct {
	StateChanged        func(from, to State)             // the engine is in another state
	BackpressureChanged func(from, to BackpressureLevel) // the level has changed
	CircuitChanged      func(tier, from, to string)      // the breaker of "L2" or "L3" opened or closed
	L3Outage            func(down bool, cause error)     // writes to L3 began or ceased to fail
	L2Outage            func(down bool, cause error)     // writes to L2 began or ceased to fail
	Quarantined         func(op QuarantinedOp)           // an op went to quarantine
	Corrupted           func(err *CorruptionError)       // a copy did not match its hash
	Superseded          func(op SupersededOp)            // an accepted op lost to a later one of another engine
	Healed              func(id, tier string)            // a corrupt copy was replaced
	Verified            func(report VerifyReport)        // a background verification ended

	// Compacted tells of a Compact under way, by a call or in the background, how far it is, some
	// thousand merges apart, and that it is done.
	Compacted func(report CompactReport, done bool)

	// Flushed tells of each batch that was written to L3 and L2, or failed and went back. nil costs
	// nothing; else each batch is looked through for its trace contexts.
	Flushed func(batch FlushedBatch)
}

// FlushedBatch is what became of a batch of ops on its way to L3. Writes that L3 decides, since
// they have a condition, are in none: L3 has them when the call returns. On the SQLite file in Dir
// the engine decides them itself, but for those of CRDT items, and they are in batches like all
// others.
type FlushedBatch struct {
	Start   time.Time
	Took    time.Duration
	Ops     int
	Bytes   int64 // of ids and contents
	Refused int   // ops of it that went to quarantine
	Err     error // nil: it has landed; else why it went back, to be tried again
	// TraceParents are those of its items, each once, the first 128.
	TraceParents []string
}

// SupersededOp is an accepted op that was not stored, since L3 held a later one of another engine.
// After a crash it may be told of an op that had been stored before, and then replaced.
type SupersededOp struct {
	ID       string
	Version  uint64
	Deleted  bool
	Content  []byte // of a put, see Events
	By       uint64 // version of what L3 holds
	ByDelete bool   // and that is a delete
}
