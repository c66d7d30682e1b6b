package syncengine

// offline.go reads the WAL of a Dir that no engine has open. But for what ForgetDatabase does,
// nothing changes there.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"time"

	"github.com/syncengine-go/syncengine/internal/oplog"
)

// LoggedOp is an op in the WAL.
type LoggedOp struct {
	Segment   int64     `json:"segment"` // where it is: a drain goes by rising numbers
	Unit      int       `json:"unit"`    // ops of one group have the same number in a segment
	ID        string    `json:"id"`
	Version   uint64    `json:"version,string"` // text in JSON: many readers round such numbers
	UpdatedAt time.Time `json:"updated_at"`
	ExpiresAt time.Time `json:"expires_at,omitzero"`
	Deleted   bool      `json:"deleted,omitempty"`
	Merge     bool      `json:"merge,omitempty"` // of a CRDT item: Content is a delta or a state
	CRDT      string    `json:"crdt,omitempty"`
	Priority  Priority  `json:"priority,omitempty"`
	Home      string    `json:"home_instance_id,omitempty"`
	Content   []byte    `json:"-"`
	// Discarded: it was in quarantine and is not wanted any more. It goes with its segment.
	Discarded bool `json:"discarded,omitempty"`
}

// DirStatus is what the WAL of a Dir holds.
type DirStatus struct {
	WALPath   string    `json:"wal_path"`
	Ops       int       `json:"ops"`             // in the WAL: accepted, and perhaps not yet in L3
	Bytes     int64     `json:"bytes"`           // as they lie there
	Segments  int64     `json:"segments"`        // the newest number there ever was
	Trimmed   int64     `json:"trimmed"`         // up to this number they are gone
	Discarded int       `json:"discarded"`       // the part of Ops that is not wanted any more
	Oldest    time.Time `json:"oldest,omitzero"` // when the oldest was accepted; zero without ops
	MetRedis  bool      `json:"met_redis"`       // an engine of this Dir has used Redis, by Config.RedisURL
	L2Missed  bool      `json:"l2_missed"`       // Redis has missed writes, or may have
	// Database is which one the ops are for, without user and password: "" for a handle or a
	// store of the caller's (Config.DB, Config.L3).
	Database    string `json:"database,omitempty"`
	TablePrefix string `json:"table_prefix,omitempty"` // there
	// Quarantine lists the ops that L3 refuses, oldest first. It holds contents, so JSON has it
	// not.
	Quarantine []QuarantinedOp `json:"-"`
}

// ReadOffline reads the WAL in cfg.Dir, or at cfg.WALPath, that no engine has open, and calls each,
// if it is not nil, for its ops in order. An op stays in the WAL until all of its segment has
// landed, so it may be in L3 already. Nothing changes on disk. No engine can open the Dir
// meanwhile, also not while each runs: it must not take long. An error of each ends it and is
// returned. When the files were not closed cleanly, they are copied into the directory for
// temporary files first.
//
// Errors: ErrLocked when an engine has it open, ErrWALCorrupt, fs.ErrNotExist when there is no WAL,
// a *ConfigError when cfg names none.
func ReadOffline(ctx context.Context, cfg Config, each func(LoggedOp) error) (st DirStatus, err error) {
	cfg = cfg.withDefaults()
	if cfg.WALPath == "" {
		return st, errNoDir()
	}
	st.WALPath = cfg.WALPath
	snap, err := oplog.OpenSnapshot(ctx, cfg.WALPath)
	if err != nil {
		return st, offlineError(err)
	}
	defer func() { err = errors.Join(err, snap.Close()) }()
	totals, err := snap.Totals(ctx)
	if err != nil {
		return st, offlineError(err)
	}
	st.Ops, st.Bytes = totals.Ops, totals.Bytes
	st.Segments, st.Trimmed = snap.Extent()
	if totals.Ops > 0 {
		st.Oldest = wallTime(totals.OldestAt)
	}
	if err := st.readMeta(ctx, snap); err != nil {
		return st, err
	}
	err = eachBad(ctx, snap, 0, math.MaxInt64, func(u *badUnit) { st.Quarantine = append(st.Quarantine, u.Public()...) })
	if err != nil {
		return st, offlineError(err)
	}
	return st, st.readOps(ctx, snap, totals.Last, each)
}

// ForgetDatabase makes the WAL in cfg.Dir, or at cfg.WALPath, that no engine has open, forget which
// database its ops wait for: they land in the one that the next engine on it has, whichever that
// is. It is for a move to another database on purpose: else Open returns a SetupError, as long as
// anything waits. One that was dropped and made anew at the same SQLURL counts as the same and
// needs no call; of a Config.DB, which has no URL to know it by, it is another one.
//
// Errors: ErrLocked when an engine has it open, ErrWALCorrupt, fs.ErrNotExist when there is no WAL,
// a *ConfigError when cfg names none, and, as of Open, ErrFeatureNotBuilt.
func ForgetDatabase(ctx context.Context, cfg Config) error {
	cfg = cfg.withDefaults()
	if cfg.WALPath == "" {
		return errNoDir()
	}
	if _, err := os.Stat(cfg.WALPath); err != nil { // to open the log would make it
		return offlineError(err)
	}
	if !crdtBuilt {
		_, err := ReadOffline(ctx, cfg, func(op LoggedOp) error {
			if op.Merge && !op.Discarded {
				return mergesNotBuilt("the WAL")
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	log, err := oplog.Open(ctx, oplog.Options{Path: cfg.WALPath, NoSync: cfg.WALNoSync})
	if err != nil {
		return offlineError(err)
	}
	if err := errors.Join(log.SetMeta(ctx, homeKey, nil), log.CloseFiles()); err != nil {
		return offlineError(err)
	}
	return nil
}

func (st *DirStatus) readMeta(ctx context.Context, snap *oplog.Snapshot) error {
	for key, use := range map[string]func(b []byte){
		missedKey:  func(b []byte) { st.L2Missed = st.L2Missed || b[0] != 0 },
		unsureKey:  func(b []byte) { st.L2Missed = st.L2Missed || b[0] != 0 },
		serversKey: func([]byte) { st.MetRedis = true },
		homeKey: func(b []byte) {
			var h home
			_ = json.Unmarshal(b, &h) // Open says so
			st.Database, st.TablePrefix = h.Place, h.Prefix
		},
	} {
		b, err := snap.Meta(ctx, key)
		if err != nil {
			return offlineError(err)
		}
		if len(b) > 0 {
			use(b)
		}
	}
	return nil
}

// readOps reads all ops, if only to prove that they can be read.
func (st *DirStatus) readOps(ctx context.Context, snap *oplog.Snapshot, last int64, each func(LoggedOp) error) error {
	list, err := snap.Meta(ctx, discardedKey)
	if err != nil {
		return offlineError(err)
	}
	discarded, err := discardedIn(list, st.Trimmed)
	if err != nil {
		return err
	}
	for after := int64(0); after < last; {
		segs, err := snap.ReadAfter(ctx, after, last, recoverBytes)
		if err != nil {
			return offlineError(err)
		}
		if len(segs) == 0 {
			return nil
		}
		for _, s := range segs {
			after = s.ID
			units, err := decodeUnits(s.Payload)
			if err != nil {
				return walError(fmt.Errorf("segment %d: %w", s.ID, err))
			}
			for n, ops := range units {
				gone := discarded(ops, s.ID)
				if gone {
					st.Discarded += len(ops)
				}
				for _, e := range ops {
					if each == nil {
						break
					}
					if err := each(loggedOp(e, s.ID, n, gone)); err != nil {
						return err
					}
				}
			}
		}
	}
	return nil
}

func loggedOp(e *entry, segment int64, unit int, discarded bool) LoggedOp {
	rec := e.record()
	return LoggedOp{Segment: segment, Unit: unit, ID: e.item(), Version: e.version, UpdatedAt: rec.UpdatedAt, ExpiresAt: rec.ExpiresAt, Deleted: e.deleted, Merge: e.isMerge(),
		CRDT: rec.CRDT, Priority: e.priority, Home: rec.HomeInstanceID, Content: rec.Content, Discarded: discarded}
}

// wallTime is a time that was stored.
func wallTime(at int64) time.Time { return time.Unix(0, at).UTC() }

// offlineError is walError for a file that is not there, too.
func offlineError(err error) error {
	if errors.Is(err, oplog.ErrLocked) || errors.Is(err, oplog.ErrCorrupt) || errors.Is(err, errBadPayload) {
		return walError(err)
	}
	return says(fmt.Errorf("reading the WAL: %w", err))
}
