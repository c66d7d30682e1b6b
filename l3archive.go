package syncengine

// l3archive.go is the way to L3: the store's own methods behind its breaker, with repetitions
// after an outage. What is known of L3 beside its breaker is one state (l3State), here alone.

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/syncengine-go/syncengine/internal/digest"
)

// archiveDigester is an L3 that knows its digest.
type archiveDigester interface {
	Digest(ctx context.Context) (*digest.Set, error)
	// Leaves returns the live rows of branches among the next rows with ids above after, and
	// where to go on: "" at the end.
	Leaves(ctx context.Context, branches []int, after string) (leaves []Meta, last string, err error)
	// Recount sums up all rows, calls bad for each that does not match its hash, returns how
	// many branches of the stored digest are wrong, and corrects them if fix is set. each bounds
	// a step, of which a large table takes many: a server that delivers no row for so long hangs.
	Recount(ctx context.Context, each time.Duration, fix bool, bad func(error)) (wrong int, err error)
}

// healer is an L3 that can replace a damaged row.
type healer interface {
	// Heal replaces the row of rec's id if it is a live row of rec's version, and reports
	// whether it did.
	Heal(ctx context.Context, rec Record) (bool, error)
}

// inserter is an L3 that need not look for a row before it writes one that is not there.
type inserter interface {
	// Insert is ApplyMerges. unseen, if not nil, tells of each record whether there is most likely
	// no row of its id.
	Insert(ctx context.Context, recs []Record, unseen []bool) (above []Meta, merged []Record, err error)
}

// archive is the department of L3.
type archive struct {
	*server
	news    *news
	store   ArchiveStore
	cond    ConditionalStore // these eight: nil when the store can't
	listing ListingStore
	merging MergingStore
	inserts inserter
	expires ExpiringStore
	compact compacter // nil: the store can't
	digest  archiveDigester
	healer  healer
	members registrar
	log     changeLog
	closes  bool                                             // the store is this engine's own
	private bool                                             // it is the file in Dir: no other engine writes there
	near    bool                                             // see Near
	admit   func(ctx context.Context, identity string) error // nil: any database is the right one
	hear    func(ctx context.Context) error                  // see Hear
	may     func() error                                     // see BeforeWrites
	nonce   uint64                                           // of the last ApplyIf; the loop "conditions" alone uses it

	preparing preparing
	together  together

	changing sync.Mutex // held while state is replaced and that is told
	state    atomic.Pointer[l3State]
}

// l3State is what is known of L3.
type l3State struct {
	prepared bool  // Prepare has succeeded once: nothing else is asked before
	down     bool  // what waits for L3 waits on, until Look says yes or a write succeeds
	cause    error // why the last write failed, for all that Look says; nil: it did not
	// told: users know of an outage. One in which a write has failed ends for them with a write
	// that does not, or they would be told of each time that is tried.
	told bool
}

func newArchive(s *server, news *news) *archive {
	a := &archive{server: s, news: news, together: newTogether(s.Work), nonce: uint64(time.Now().UnixNano())} // above those of an earlier engine on the same store
	a.state.Store(&l3State{})
	return a
}

// change replaces the state, and tells when writes begin or cease to fail: why is the cause.
func (a *archive) change(why error, fn func(s *l3State)) {
	was := a.state.Load()
	if s := was.after(fn); s.prepared == was.prepared && s.down == was.down && s.told == was.told && (s.cause == nil) == (was.cause == nil) {
		return // nearly always
	}
	a.changing.Lock()
	defer a.changing.Unlock()
	was = a.state.Load()
	s := was.after(fn)
	a.state.Store(&s)
	if s.told != was.told {
		a.news.L3Outage(s.told, why)
	}
}

func (s l3State) after(fn func(s *l3State)) l3State {
	if fn(&s); s.down {
		s.told = true
	} else if s.cause == nil {
		s.told = false
	}
	return s
}

// Down reports whether L3 takes no writes, as far as is known.
func (a *archive) Down() bool { return a.state.Load().down }

// Answers reports whether L3 has answered lately, as far as is known.
func (a *archive) Answers() bool { return !a.Down() && a.State() == "closed" }

// Fail notes that L3 takes no writes, or that none can be made.
func (a *archive) Fail(cause error) { a.change(cause, func(s *l3State) { s.down = true }) }

// tried notes how a write ended: one that is refused for its own sake proves that others are taken.
func (a *archive) tried(err error) {
	switch {
	case err == nil, errors.Is(err, ErrRefused):
		a.wrote(nil)
	case isOutage(err):
		a.wrote(err)
	}
}

// wrote notes how a write ended: of causes the first stays, since later ones may only say that the
// circuit is open.
func (a *archive) wrote(err error) {
	a.change(err, func(s *l3State) {
		if err == nil {
			s.down, s.cause = false, nil
		} else if s.cause == nil {
			s.cause = err
		}
	})
}

// Use sets the store. It is called once, by Open.
func (a *archive) Use(store ArchiveStore, closes, private bool) {
	a.store, a.closes, a.private = store, closes, private
	a.cond, _ = store.(ConditionalStore)
	a.listing, _ = store.(ListingStore)
	a.merging, _ = store.(MergingStore)
	a.inserts, _ = store.(inserter)
	a.expires, _ = store.(ExpiringStore)
	a.compact, _ = store.(compacter)
	a.digest, _ = store.(archiveDigester)
	a.healer, _ = store.(healer)
	a.members, _ = store.(registrar)
	a.log, _ = store.(changeLog)
	sqlite, ok := store.(*sqlStore)
	a.near = ok && sqlite.Near()
}

// Follow sets the clock by which items expire, for a store that wants to know.
func (a *archive) Follow(clock func() time.Time) {
	if s, ok := a.store.(interface{ Follow(func() time.Time) }); ok {
		s.Follow(clock)
	}
}

// Close closes the store, if it is this engine's own.
func (a *archive) Close() error {
	if a.store == nil || !a.closes {
		return nil
	}
	return a.store.Close()
}

// Private reports whether L3 is the file in Dir: no other engine writes there.
func (a *archive) Private() bool { return a.private }

// Near reports whether L3 is a library of this process, not a server.
func (a *archive) Near() bool { return a.near }

// Members is where engines on this L3 are known, nil when the store can't.
func (a *archive) Members() registrar { return a.members }

// BeforeWrites makes fn decide, each time, whether this engine may write. It is called once.
func (a *archive) BeforeWrites(fn func() error) { a.may = fn }

func (a *archive) mayWrite() error {
	if a.may == nil {
		return nil
	}
	if err := a.may(); err != nil {
		return fmt.Errorf("L3: %w: %w: %w", ErrUnavailable, errNoWrites, err)
	}
	return nil
}

// Call makes a call once. Reads and writes are made again after an outage; passes over all rows are
// not.
func (a *archive) Call(ctx context.Context, op string, fn func(context.Context) error) error {
	return a.callFor(ctx, op, a.Timeout, fn)
}

func (a *archive) callFor(ctx context.Context, op string, timeout time.Duration, fn func(context.Context) error) error {
	if !a.Ready() {
		return unavailable("L3", errors.New("not connected yet"))
	}
	return a.DoFor(ctx, op, timeout, fn)
}

func (a *archive) again(ctx context.Context, op string, timeout time.Duration, fn func(context.Context) error) error {
	return a.Again(ctx, func(err error) bool {
		return !errors.Is(err, errFenced) && !errors.Is(err, ErrUnknownOutcome) && a.Ready()
	}, func() error { return a.callFor(ctx, op, timeout, fn) })
}

func (a *archive) ask(ctx context.Context, op string, fn func(context.Context) error) error {
	return a.again(ctx, op, a.Timeout, fn)
}

// Get reads a row.
func (a *archive) Get(ctx context.Context, id string) (rec Record, err error) {
	err = a.ask(ctx, "get", func(ctx context.Context) (err error) {
		rec, err = a.store.Get(ctx, id)
		return err
	})
	return rec, err
}

// GetOnce is Get without repetitions.
func (a *archive) GetOnce(ctx context.Context, op, id string) (rec Record, err error) {
	err = a.Call(ctx, op, func(ctx context.Context) (err error) {
		rec, err = a.store.Get(ctx, id)
		return err
	})
	return rec, err
}

// GetMany reads rows.
func (a *archive) GetMany(ctx context.Context, ids []string) (found []Found, err error) {
	err = a.ask(ctx, "get_many", func(ctx context.Context) (err error) {
		found, err = getMany(ctx, a.store, ids)
		return err
	})
	return found, err
}

// GetManyOnce is GetMany without repetitions.
func (a *archive) GetManyOnce(ctx context.Context, ids []string) (found []Found, err error) {
	err = a.Call(ctx, "get_many", func(ctx context.Context) (err error) {
		found, err = getMany(ctx, a.store, ids)
		return err
	})
	return found, err
}

// Heads reads rows without their contents.
func (a *archive) Heads(ctx context.Context, ids []string) (out []Meta, err error) {
	err = a.ask(ctx, "heads", func(ctx context.Context) (err error) {
		out, err = a.store.Heads(ctx, ids)
		return err
	})
	return out, err
}

// Scan reads a page of rows without their contents. op names the call in metrics.
func (a *archive) Scan(ctx context.Context, op, after string, limit int) (rows []Meta, err error) {
	err = a.ask(ctx, op, func(ctx context.Context) (err error) {
		rows, err = a.store.Scan(ctx, after, limit)
		return err
	})
	return rows, err
}

// Lists reports whether L3 lists rows with content.
func (a *archive) Lists() bool { return a.listing != nil }

// List reads a page of rows.
func (a *archive) List(ctx context.Context, prefix, after string, limit int, maxBytes int64) (page []Found, more bool, err error) {
	err = a.ask(ctx, "list", func(ctx context.Context) (err error) {
		page, more, err = a.listing.List(ctx, prefix, after, limit, maxBytes)
		return err
	})
	return page, more, err
}

// Merges reports whether L3 merges the ops of CRDT items.
func (a *archive) Merges() bool { return a.merging != nil }

// Apply writes records in one transaction and returns the rows that compare above them, and what
// items are that were merged into. Other engines must know of this one first, and the filter of the
// ids. unseen: see inserter.
func (a *archive) Apply(ctx context.Context, recs []Record, unseen []bool) (above []Meta, merged []Record, err error) {
	err = a.again(ctx, "apply", a.timeFor(recs), func(ctx context.Context) (err error) {
		if err := a.mayWrite(); err != nil {
			return err
		}
		switch {
		case a.inserts != nil:
			above, merged, err = a.inserts.Insert(ctx, recs, unseen)
		case a.merging != nil:
			above, merged, err = a.merging.ApplyMerges(ctx, recs)
		default:
			above, err = a.store.Apply(ctx, recs)
		}
		unseen = nil // what was tried may be there
		return err
	})
	a.tried(err)
	return above, merged, err
}

// Compacts reports whether L3 keeps merges that can be compacted.
func (a *archive) Compacts() bool { return a.compact != nil }

// ClaimNode reports whether this engine may go on as a node. With a store that can't tell, it may.
func (a *archive) ClaimNode(ctx context.Context, node, was, now string) (mine bool, err error) {
	if a.compact == nil {
		return true, nil
	}
	err = a.Call(ctx, "compact", func(ctx context.Context) (err error) {
		if err := a.mayWrite(); err != nil {
			return err
		}
		mine, err = a.compact.ClaimNode(ctx, node, was, now)
		return err
	})
	return mine, err
}

// ClaimCompaction reports whether this engine may compact for a while.
func (a *archive) ClaimCompaction(ctx context.Context, who string, now time.Time, during time.Duration) (mine bool, err error) {
	err = a.ask(ctx, "compact", func(ctx context.Context) (err error) {
		mine, err = a.compact.Claim(ctx, who, now, during)
		return err
	})
	return mine, err
}

// UnclaimCompaction gives back what this engine has claimed.
func (a *archive) UnclaimCompaction(ctx context.Context, who string) error {
	return a.Call(ctx, "compact", func(ctx context.Context) error { return a.compact.Unclaim(ctx, who) })
}

// MergedAbove returns some of the items that have merges, in order.
func (a *archive) MergedAbove(ctx context.Context, after string) (ids []string, err error) {
	err = a.ask(ctx, "compact", func(ctx context.Context) (err error) {
		ids, err = a.compact.ItemsAbove(ctx, after)
		return err
	})
	return ids, err
}

// Settle notes up to where the merges of a node are settled, and returns that of all nodes.
func (a *archive) Settle(ctx context.Context, node string, upTo uint64) (settled map[string]uint64, err error) {
	err = a.ask(ctx, "compact", func(ctx context.Context) (err error) {
		settled, err = a.compact.Settle(ctx, node, upTo)
		return err
	})
	return settled, err
}

// CompactItem folds some of what is old of an item.
func (a *archive) CompactItem(ctx context.Context, id string, keepOps, keepDays time.Time, settled map[string]uint64) (r CompactReport, more bool, err error) {
	err = a.ask(ctx, "compact", func(ctx context.Context) (err error) {
		r, more, err = a.compact.CompactItem(ctx, id, keepOps, keepDays, settled)
		return err
	})
	return r, more, err
}

// Rebuild makes an item's row what its merges make it, if it is not.
func (a *archive) Rebuild(ctx context.Context, id string) (rec Record, changed bool, damaged int, err error) {
	err = a.ask(ctx, "rebuild", func(ctx context.Context) (err error) {
		rec, changed, damaged, err = a.compact.Rebuild(ctx, id)
		return err
	})
	return rec, changed, damaged, err
}

// Conditional reports whether L3 decides conditions.
func (a *archive) Conditional() bool { return a.cond != nil }

// ApplyIf decides units in one transaction. One call at a time.
func (a *archive) ApplyIf(ctx context.Context, units [][]Conditional, recs []Record) (verdicts []Verdict, err error) {
	err = a.again(ctx, "apply_if", a.timeFor(recs), func(ctx context.Context) (err error) {
		if err := a.mayWrite(); err != nil {
			return err
		}
		a.nonce++
		verdicts, err = a.cond.ApplyIf(ctx, a.nonce, units)
		return err
	})
	a.tried(err)
	return verdicts, err
}

// WasCommitted tells what became of the last ApplyIf.
func (a *archive) WasCommitted(ctx context.Context) (landed bool, err error) {
	err = a.ask(ctx, "landed", func(ctx context.Context) (err error) {
		landed, err = a.cond.Landed(ctx, a.nonce)
		return err
	})
	return landed, err
}

// PurgeTombstones removes some that were written before a time, and returns how many.
func (a *archive) PurgeTombstones(ctx context.Context, before time.Time, limit int) (n int, err error) {
	err = a.callFor(ctx, "purge", a.Timeout, func(ctx context.Context) (err error) {
		n, err = a.store.PurgeTombstones(ctx, before, limit)
		return err
	})
	return n, err
}

// Expires reports whether L3 finds what has expired.
func (a *archive) Expires() bool { return a.expires != nil }

// Expired returns some of the live rows whose time has come.
func (a *archive) Expired(ctx context.Context, at time.Time, limit int) (rows []Meta, err error) {
	err = a.Call(ctx, "expired", func(ctx context.Context) (err error) {
		rows, err = a.expires.Expired(ctx, at, limit)
		return err
	})
	return rows, err
}

// Heals reports whether damaged rows can be replaced.
func (a *archive) Heals() bool { return a.healer != nil }

// Heal replaces a damaged row of the same version, and reports whether it did.
func (a *archive) Heal(ctx context.Context, rec Record) (done bool, err error) {
	err = a.ask(ctx, "heal", func(ctx context.Context) (err error) {
		done, err = a.healer.Heal(ctx, rec)
		return err
	})
	return done, err
}

// KeepsLog reports whether L3 keeps a log of what was written.
func (a *archive) KeepsLog() bool { return a.log != nil }

// LogName is the engine whose rows of the log are written now.
func (a *archive) LogName() string { return a.log.LogName() }

// LogEnd returns where the log ends.
func (a *archive) LogEnd(ctx context.Context) (upTo, last int64, err error) {
	err = a.Call(ctx, "log", func(ctx context.Context) (err error) {
		upTo, last, err = a.log.LogEnd(ctx)
		return err
	})
	return upTo, last, err
}

// LogHeads returns rows of the log without their changes.
func (a *archive) LogHeads(ctx context.Context, above int64) (heads []logHead, trimmed int64, err error) {
	err = a.Call(ctx, "log", func(ctx context.Context) (err error) {
		heads, trimmed, err = a.log.LogHeads(ctx, above)
		return err
	})
	return heads, trimmed, err
}

// LogChanges returns the changes of rows of the log.
func (a *archive) LogChanges(ctx context.Context, numbers []int64) (changes map[int64][]byte, err error) {
	err = a.Call(ctx, "log", func(ctx context.Context) (err error) {
		changes, err = a.log.LogChanges(ctx, numbers)
		return err
	})
	return changes, err
}

// HasDigest reports whether L3 keeps a digest of its rows; else they are read for it.
func (a *archive) HasDigest() bool { return a.digest != nil }

// Digest returns the digest of the rows. one, if not nil, is told of each live row when they had
// to be read for it.
func (a *archive) Digest(ctx context.Context, one func(*Meta)) (set *digest.Set, err error) {
	if a.digest != nil {
		err = a.ask(ctx, "digest", func(ctx context.Context) (err error) {
			set, err = a.digest.Digest(ctx)
			return err
		})
		return set, err
	}
	set = new(digest.Set)
	page := func(ctx context.Context, after string) ([]Meta, error) { return a.Scan(ctx, "scan", after, scanRows) }
	err = scanL3(ctx, page, func(rows []Meta) error {
		for i := range rows {
			if addToDigest(set, &rows[i]); !rows[i].Deleted && one != nil {
				one(&rows[i])
			}
		}
		return nil
	})
	return set, err
}

// Root returns the root of the digest. ok is false when it would have to be computed from all
// rows.
func (a *archive) Root(ctx context.Context) (root [32]byte, ok bool, err error) {
	if a.digest == nil {
		return root, false, nil
	}
	set, err := a.Digest(ctx, nil)
	if err != nil {
		return root, false, err
	}
	return set.Root(), true, nil
}

// Leaves returns the leaves of some branches.
func (a *archive) Leaves(ctx context.Context, branches []int) (out []Meta, err error) {
	for after, first := "", true; first || after != ""; first = false {
		err := a.ask(ctx, "leaves", func(ctx context.Context) error {
			leaves, last, err := a.digest.Leaves(ctx, branches, after)
			if err == nil {
				out, after = append(out, leaves...), last
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Recount reads all rows and compares them with the digest, which it corrects with fix. bad is
// told of rows that are corrupt.
func (a *archive) Recount(ctx context.Context, fix bool, bad func(error)) (wrong int, err error) {
	err = a.callFor(ctx, "recount", passTime, func(ctx context.Context) (err error) {
		wrong, err = a.digest.Recount(ctx, a.Timeout, fix, bad)
		return err
	})
	return wrong, err
}

// Health asks L3 for a sign of life. It is not well while writes fail, as on a read-only server.
func (a *archive) Health(ctx context.Context) Probe {
	ping := a.awaitPrepared // or reads would fail where this says that it is well
	if a.Ready() {
		ping = a.store.Ping
	}
	p := a.Ask(ctx, ping)
	if cause := a.state.Load().cause; cause != nil && p.OK {
		p.OK, p.Error = false, "takes no writes: "+cause.Error()
	}
	p.Circuit = a.State()
	return p
}

// Stats sets this department's part.
func (a *archive) Stats(s *Stats) {
	s.L3Hits, s.L3Misses = a.Counts()
	s.L3Down = a.Down()
}

// scanRows is how many rows are read at once.
const scanRows = 1000

// What a transaction may hold within one L3Timeout; it gets another one for as much again.
const (
	rowsPerTimeout  = 1000
	bytesPerTimeout = 4 << 20
)

// timeFor is how long a transaction over records may take: a large group must not be cut off for
// ever by a bound that is meant for servers that hang (INV-9).
func (a *archive) timeFor(recs []Record) time.Duration {
	var bytes int64
	for i := range recs {
		bytes += int64(len(recs[i].ID) + len(recs[i].Content))
	}
	times := 1 + time.Duration(max(0, len(recs)-1)/rowsPerTimeout) + time.Duration(max(0, bytes-1)/bytesPerTimeout)
	if t := a.Timeout * times; t/times == a.Timeout {
		return t
	}
	return a.Timeout // so long that it makes no difference
}
