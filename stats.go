package syncengine

import "time"

// State is where an engine stands in its life.
type State uint8

// The states, in order. An engine serves reads and writes from Ready on until
// ShuttingDown; Open returns it Running.
const (
	StateCreated State = iota
	StateConnecting
	StateDrainingWAL
	StateSyncingRedis
	StateWarmingUp
	StateReady
	StateRunning
	StateShuttingDown
	StateClosed
)

var stateNames = [...]string{"created", "connecting", "draining_wal", "syncing_redis", "warming_up", "ready",
	"running", "shutting_down", "closed"}

// String returns the state in lower case with underscores.
func (s State) String() string {
	if int(s) < len(stateNames) {
		return stateNames[s]
	}
	return "unknown"
}

// MarshalText returns String, for JSON and logs.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads what MarshalText writes. Another text is an error.
func (s *State) UnmarshalText(text []byte) error { return fromName(s, stateNames[:], text, "state") }

// SyncState tells how far an id has come.
type SyncState uint8

// The sync states. StatusMissing is the zero value: no tier holds the id, or it is
// deleted.
const (
	StatusMissing SyncState = iota
	StatusPending           // accepted, not yet in L3
	StatusSynced            // L3 holds it
)

var syncStateNames = [...]string{"missing", "pending", "synced"}

// String returns "missing", "pending" or "synced".
func (s SyncState) String() string {
	if int(s) < len(syncStateNames) {
		return syncStateNames[s]
	}
	return "missing"
}

// MarshalText returns String, for JSON and logs.
func (s SyncState) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads what MarshalText writes. Another text is an error.
func (s *SyncState) UnmarshalText(text []byte) error {
	return fromName(s, syncStateNames[:], text, "sync state")
}

// ItemStatus is the answer of Status. The three flags say which tiers hold a live
// copy of the id, of whatever version.
type ItemStatus struct {
	State                SyncState
	InL1, InL2, InL3     bool
	Quarantined          bool   // L3 refuses the newest op of this id
	Version              uint64 // newest version known of the id, 0 when missing
	VersionL2, VersionL3 uint64 // what the tiers hold, 0 for none
}

// BatchResult counts the ops of one SubmitMany or DeleteMany. Groups are atomic, so
// Failed is 0 or Total. It is Total with any error: also with one that leaves the outcome open, and
// at Archived with ErrUnavailable, though the group is in the WAL then and lands later.
type BatchResult struct{ Total, Succeeded, Failed int }

// Stats is a snapshot of an engine. Taking it does no I/O.
type Stats struct {
	State    State
	Pressure float64 // see MemoryPressure
	Level    BackpressureLevel

	L1Items       int    // items in memory; not tombstones, but what has expired within the last seconds
	L1Bytes       int64  // what L1 and the queue hold, with overhead
	L1Pinned      int64  // the part of L1Bytes that can't be evicted: ops not yet in L3 or spooled
	L1Hits        uint64 // an estimate after 10,000, while there are over 1000 for each item that comes in: counting each would slow Get
	L1Misses      uint64
	L2Hits        uint64
	L2Misses      uint64
	L3Hits        uint64
	L3Misses      uint64
	Evictions     uint64
	PendingOps    int           // on their way to L3, spooled ones included; not those in quarantine
	SpooledOps    int           // the part of PendingOps that lives only in the WAL
	OldestPending time.Duration // age of the oldest pending op: what a lost machine would cost
	WALItems      int64         // ops in the WAL
	WALBytes      int64         // their bytes
	FlushedOps    uint64        // ops that reached L3
	DrainedOps    uint64        // the part of them that was read back from the WAL
	// Superseded counts accepted ops of which L3 held a later op of another engine: they were
	// not stored (INV-1). An Archived one counts only if its caller has left.
	Superseded   uint64
	Expired      uint64 // items that this engine has purged from L3, their time being past
	FlushBatches uint64
	FlushErrors  uint64

	// FilterEntries is an estimate of how many ids there are: each delete lowers it, also one of
	// an id that was never there, until the filter is built anew.
	FilterEntries int
	FilterTrusted bool

	Quarantined int    // ops in quarantine
	L3Down      bool   // what is to be written to L3 waits: a write failed, L3 was away at Open, or the WAL fails
	PushTold    uint64 // ids announced to other engines, while there are some
	PushUntold  uint64 // the same, but nobody could be told: they see it from the log in L3
	PushHeard   uint64 // ids that others have announced
	PushListens bool   // this engine hears the others
	PushPending int    // ids that others are still to be told of
	L2Missed    int    // ids not read from L2 until repaired; -1: all of L2
	// L2Doubted counts ids of which another engine has written a version that L2 is not yet said to
	// have: a copy below it is not believed.
	L2Doubted   int
	Corruptions uint64
	Healed      uint64
}

// Health is the answer of Engine.Health: live probes of the servers. As JSON it fits a
// /readyz endpoint; Probe.Error may name hosts, and Fleet names engines, so show it to operators
// only.
type Health struct {
	State State             `json:"state"`
	Level BackpressureLevel `json:"level"`
	// Live is true while the process can do its work at all: false only when closed.
	Live bool `json:"live"`
	// Ready is true when reads and writes are served: running, and the level accepts
	// writes. A tier that is away does not make the engine unready: that is what it is
	// for.
	Ready       bool  `json:"ready"`
	L2          Probe `json:"l2"`
	L3          Probe `json:"l3"`
	PendingOps  int   `json:"pending_ops"`
	Quarantined int   `json:"quarantined"`
	// ClockOffset is by how much this host's clock is ahead of L3's, which versions are made of; 0
	// while L3 has not answered, and on the SQLite file in Dir. Nothing goes wrong by it: UpdatedAt
	// alone is of the host's clock.
	ClockOffset time.Duration `json:"clock_offset_ns"`
	Fleet       Fleet         `json:"fleet"`
}

// Fleet is what an engine knows of those that share its L3: what it has read from their table with
// its last beat, twice a second while L3 answers. No server is asked for it.
type Fleet struct {
	// Known is false on an L3 that keeps no table of its engines, as a Config.L3 of your own, and
	// until it was read once. Then nothing below is set.
	Known bool   `json:"known"`
	ID    string `json:"id,omitempty"`   // of this engine's row
	Name  string `json:"name,omitempty"` // its Config.InstanceID
	// Joined is true once those that were there before know of this engine. Until then its writes
	// wait.
	Joined bool `json:"joined"`
	Alone  bool `json:"alone"` // nobody else writes to L3
	// Ahead is by how much the time that versions are made of is ahead of L3's clock, as after that
	// went back. Engines agree on the largest.
	Ahead  time.Duration `json:"ahead_ns"`
	Others []Neighbour   `json:"others"` // those that write to L3, in order of their coming
}

// Neighbour is another engine on the same L3. Times are of this host's clock.
type Neighbour struct {
	ID    string        `json:"id"`
	Name  string        `json:"name"`
	Since time.Time     `json:"since"` // when this engine saw it first
	Heard time.Time     `json:"heard"` // when this engine saw a beat of it last
	Ahead time.Duration `json:"ahead_ns"`
	// Noticed is true once it knows of this engine.
	Noticed bool `json:"noticed"`
	// Still is true when it does not beat: it is taken for dead, or L3 is the SQLite file in its
	// Dir, where it need not.
	Still bool `json:"still"`
}

// Probe is the result of asking one server.
type Probe struct {
	Configured bool          `json:"configured"`
	OK         bool          `json:"ok"`
	Latency    time.Duration `json:"latency_ns"`
	Error      string        `json:"error,omitempty"`   // without secrets; empty when OK
	Circuit    string        `json:"circuit,omitempty"` // "closed", "half-open", "open"
}

// QuarantinedOp is an op that L3 refuses.
type QuarantinedOp struct {
	ID       string
	Version  uint64
	Deleted  bool
	Content  []byte    // of a put; in an event see Events
	GroupIDs []string  // ids of the group it belongs to, itself included; nil for a single op
	Error    string    // L3's words
	Attempts int       // how often L3 has refused it
	At       time.Time // when it was accepted, or put back by RetryQuarantined
	// Superseded: L3 holds a later op of the id, or this one after all, in a unit of which another
	// op is outranked. It answers no reads from here, and nothing has to be done about it.
	Superseded bool
}

// VerifyOptions of Verify.
type VerifyOptions struct {
	Repair bool // make L2 hold what L3 holds, for the ids that differ
	// Deep also reads all of L3, in one snapshot, and recomputes everything from the stored
	// bytes: rows that rotted in silence are found (and with Repair healed, if a tier holds a
	// sound copy of the same version), and a digest that is not that of the rows is found (and
	// with Repair corrected), as after a change of the table by hand. It works without an L2, too.
	// It takes as long as SQL takes to read all; where no row comes for L3Timeout it fails.
	Deep bool
}

// VerifyReport tells what Verify found. Ops that are pending, or that were written while it
// ran, are not differences.
type VerifyReport struct {
	InSync                      bool     // nothing differed, nothing was corrupt
	RootL2, RootL3              [32]byte // digests of the live items of each tier
	Branches, DivergentBranches int
	Divergent                   []string // ids whose L2 copy differs from, lacks, or outlives the L3 row
	Repaired                    int      // of Divergent
	// Of a deep check: rows of L3 that do not match their hash, how many of them were healed,
	// and how many branches of the stored digest were then not those of the rows.
	Corrupt       []string
	Healed        int
	WrongBranches int
}

// CompactReport tells what Compact did.
type CompactReport struct {
	Items     int  // that had something to fold
	Ops       int  // merges whose rows went
	Snapshots int  // that were written
	Damaged   int  // rows of merges or snapshots that can't be read: their items were left alone
	Elsewhere bool // another engine compacts: nothing was done
}
