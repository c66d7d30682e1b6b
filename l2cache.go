package syncengine

// l2cache.go is the way to L2: the store's own methods behind its breaker, and what is known of
// what it holds. An id whose write L2 missed is not read from there until it is repaired, or a
// read would answer with an old version (INV-2); nor is anything before L2 was compared, when it
// may have lost writes: after a crash between L3 and L2, or when another server answers
// (l2servers.go).
//
// No goroutines. Without an L2 nothing is found, and nothing is kept.

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/syncengine-go/syncengine/internal/digest"
)

const (
	missedKey = "l2_missed"
	unsureKey = "l2_unsure"
	usedKey   = "l2_used"
)

// cache is the department of L2.
type cache struct {
	*server
	store     CacheStore    // nil: none
	digest    cacheDigester // nil: the store has none
	messenger messenger     // the same
	closes    bool          // the store is this engine's own
	unwatch   func()        // nil: nothing is
	wal       *journal
	news      *news
	missed    l2Missed
	under     underWay
	known     l2Servers // run ids
	masters   l2Servers // replication ids
	dials     l2Dials
	owner     l2Owner
	unsure    atomic.Bool                 // the WAL file says that a crash may leave L2 behind L3
	withheld  atomic.Pointer[func() bool] // see Withhold
	back      chan struct{}               // cap 1: L2 was away
}

func newCache(s *server, wal *journal, news *news) *cache {
	c := &cache{server: s, wal: wal, news: news, back: make(chan struct{}, 1)}
	c.known.key, c.masters.key = serversKey, mastersKey
	c.missed.note = c.noteMissed
	return c
}

// Use sets the store. It is called once, by Open.
func (c *cache) Use(store CacheStore, closes bool) {
	c.store, c.closes = store, closes
	c.digest, _ = store.(cacheDigester)
	c.messenger, _ = store.(messenger)
}

// Follow sets the clock by which items expire, for a store that wants to know.
func (c *cache) Follow(clock func() time.Time) {
	if s, ok := c.store.(interface{ Follow(func() time.Time) }); ok {
		s.Follow(clock)
	}
}

// On reports whether there is an L2.
func (c *cache) On() bool { return c.store != nil }

// WatchBy takes what ends that Dialed is told.
func (c *cache) WatchBy(stop func()) { c.unwatch = stop }

// Close closes the store, if it is this engine's own.
func (c *cache) Close() error {
	if c.unwatch != nil {
		c.unwatch()
	}
	if c.store == nil || !c.closes {
		return nil
	}
	return c.store.Close()
}

// Load reads what an earlier engine knew of L2.
func (c *cache) Load(ctx context.Context) error {
	missed, err := c.wal.Meta(ctx, missedKey)
	if err != nil {
		return err
	}
	unsure, err := c.wal.Meta(ctx, unsureKey)
	if err != nil {
		return err
	}
	set := func(b []byte) bool { return len(b) > 0 && b[0] != 0 }
	c.unsure.Store(set(unsure))
	if set(missed) || set(unsure) {
		c.missed.addAll()
		return c.noteMissed(ctx, true)
	}
	return nil
}

// Succeed is told where this engine keeps copies, "" for nowhere. What an earlier one of the Dir
// has written, and kept elsewhere or nowhere, L2 may not have: and while L3 is away nobody else
// knows.
func (c *cache) Succeed(ctx context.Context, where string) error {
	was, err := c.wal.Meta(ctx, usedKey)
	if err != nil || string(was) == where {
		return err
	}
	if where != "" && !c.wal.Made() {
		c.missed.addAll()
		if err := c.noteMissed(ctx, true); err != nil {
			return err
		}
	}
	return c.wal.SetMeta(ctx, usedKey, []byte(where))
}

// Sure notes that all batches have reached L2, or that it is noted which did not.
func (c *cache) Sure(ctx context.Context) error {
	if !c.unsure.Load() {
		return nil
	}
	return c.wal.SetMeta(ctx, unsureKey, []byte{0})
}

// Unsure notes, once, that ops go to L3 and L2 that are not in the WAL. After a crash between
// the two nobody would know that L2 has missed them; so the next engine on this Dir compares all
// of L2 before it reads there. A clean end takes the note back.
func (c *cache) Unsure(ctx context.Context) {
	if c.store == nil || c.unsure.Load() {
		return
	}
	if err := c.wal.SetMeta(context.WithoutCancel(ctx), unsureKey, []byte{1}); err != nil {
		c.news.Log().Error("can't note in the WAL file that L2 may fall behind", "error", err)
		return
	}
	c.unsure.Store(true)
}

// Get reads a copy. It may be of an id that L2 has missed.
func (c *cache) Get(ctx context.Context, op, id string) (rec Record, err error) {
	if err := c.barred(); err != nil {
		return rec, err
	}
	err = c.Do(ctx, op, func(ctx context.Context) (err error) {
		if rec, err = c.store.Get(ctx, id); err == nil {
			err = c.whoAnswers(ctx)
		}
		return err
	})
	return rec, err
}

// MayRead reports whether copies of id may be read.
func (c *cache) MayRead(id string) bool {
	if c.store == nil || c.owner.barred.Load() != nil || !c.missed.mayRead(id) {
		return false
	}
	while := c.withheld.Load()
	return while == nil || !(*while)()
}

// Believes reports whether a copy that was read may be believed: L2 may have missed a later write,
// or the connection was new, and led to a server that may have forgotten.
func (c *cache) Believes(rec *Record) bool { return c.missed.believes(rec.ID, rec.Version) }

// Lookup reads a copy that may be believed; ErrNotFound is a miss.
func (c *cache) Lookup(ctx context.Context, id string) (Record, error) {
	rec, err := c.Get(ctx, "get", id)
	if err == nil && !c.Believes(&rec) {
		return Record{}, ErrNotFound
	}
	return rec, err
}

// GetMany reads copies. They may be of ids that L2 has missed.
func (c *cache) GetMany(ctx context.Context, ids []string) (found []Found, err error) {
	if err := c.barred(); err != nil {
		return nil, err
	}
	err = c.Do(ctx, "get_many", func(ctx context.Context) (err error) {
		if found, err = getMany(ctx, c.store, ids); err == nil {
			err = c.whoAnswers(ctx)
		}
		return err
	})
	return found, err
}

// Write is the flusher's way to L2. It never fails: what L2 misses is remembered. It returns
// whether L2 has all.
func (c *cache) Write(ctx context.Context, recs []Record) (all bool) {
	if c.store == nil {
		return true
	}
	err := c.Put(ctx, "put", recs)
	c.wrote(err)
	if err != nil {
		c.Miss(ctx, recs)
	}
	return err == nil
}

// Repair is Put for copies of what L3 holds.
func (c *cache) Repair(ctx context.Context, recs []Record) error {
	err := c.Put(ctx, "repair", recs)
	if err == nil {
		c.wrote(nil)
	}
	return err
}

// Put stores records, unless L2 holds something higher.
func (c *cache) Put(ctx context.Context, op string, recs []Record) error {
	if err := c.barred(); err != nil {
		return err
	}
	return c.Do(ctx, op, func(ctx context.Context) error { return c.store.Put(ctx, recs) })
}

// Remove removes copies.
func (c *cache) Remove(ctx context.Context, ids []string) error {
	if len(ids) == 0 {
		return nil
	}
	if err := c.barred(); err != nil {
		return err
	}
	return c.Do(ctx, "remove", func(ctx context.Context) error { return c.store.Remove(ctx, ids) })
}

// Miss remembers that L2 did not get what L3 may hold of these ids.
func (c *cache) Miss(ctx context.Context, recs []Record) {
	if c.store == nil {
		return
	}
	c.miss(ctx, recs, 0)
}

func (c *cache) miss(ctx context.Context, recs []Record, least uint64) {
	if err := c.missed.add(context.WithoutCancel(ctx), recs, least); err != nil {
		c.news.Log().Error("can't note in the WAL file that L2 missed writes", "error", err)
	}
}

// Others is told, by the log, that another engine has written an id.
func (c *cache) Others(id string, version uint64) {
	if c.store != nil {
		c.missed.wrote(id, version, false)
	}
}

// Told is told, by that engine itself, and whether L2 has it.
func (c *cache) Told(id string, version uint64, has bool) {
	switch {
	case c.store == nil:
	case has:
		c.missed.has(id, version)
	default:
		c.missed.wrote(id, version, true)
	}
}

// Promote is Put for copies of what L3 held a moment ago.
func (c *cache) Promote(ctx context.Context, recs []Record) error {
	c.missed.copied(recs)
	return c.Put(ctx, "promote", recs)
}

// LogRead is told that all of the log has been read that was there at the last call.
func (c *cache) LogRead() { c.missed.turn() }

// Suspect makes all of L2 suspect.
func (c *cache) Suspect(ctx context.Context) {
	if c.store == nil {
		return
	}
	c.missed.addAll()
	if err := c.noteMissed(context.WithoutCancel(ctx), true); err != nil {
		c.news.Log().Error("can't note in the WAL file that L2 missed writes", "error", err)
	}
}

// Behind reports whether copies may be read only since nobody can know better: they may be old, as
// long as it is not known what others have written.
func (c *cache) Behind() bool { return c.withheld.Load() != nil }

// Withhold keeps all of L2 from being read while fn says so; nil ends that.
func (c *cache) Withhold(while func() bool) {
	if while == nil {
		c.withheld.Store(nil)
		return
	}
	c.withheld.Store(&while)
}

// Doubt is told of ops that L3 may hold, or may not. This engine does not read their ids in L2
// until they were copied from L3; and the copies there are removed, for other engines.
func (c *cache) Doubt(ctx context.Context, unit []Conditional) {
	if c.store == nil {
		return
	}
	recs, ids := make([]Record, len(unit)), make([]string, len(unit))
	for i := range unit {
		recs[i], ids[i] = unit[i].Record, itemOf(unit[i].Record.ID)
		recs[i].ID = ids[i]
	}
	c.miss(ctx, recs, whole)
	c.wrote(c.Remove(ctx, ids))
}

// Owed returns a few of the ids that L2 has missed, or that all are, with what Paid needs.
func (c *cache) Owed(n int) (ids []string, all bool, gen uint64) { return c.missed.pick(n) }

// Owes reports whether L2 has missed anything.
func (c *cache) Owes() bool { return c.missed.owes() }

// Paid forgets ids, or all, unless they were missed again since.
func (c *cache) Paid(ctx context.Context, ids []string, all bool, gen uint64) error {
	return c.missed.repaired(ctx, ids, all, gen)
}

// Back gets a signal when L2 was away: what it lost in an outage nobody has noted.
func (c *cache) Back() <-chan struct{} { return c.back }

// Look closes the breaker if L2 answers, sooner than by its own timeout.
func (c *cache) Look(ctx context.Context) {
	if c.State() != "closed" && c.Ping(ctx) == nil {
		c.Reset()
		c.noteBack()
	}
}

// Ping asks L2 for a sign of life, past its breaker.
func (c *cache) Ping(ctx context.Context) error { return c.Probe(ctx, c.store.Ping) }

// Health asks L2 for a sign of life. It is not well while writes fail.
func (c *cache) Health(ctx context.Context) (p Probe) {
	if c.store == nil {
		return p
	}
	if p = c.Ask(ctx, c.store.Ping); p.OK {
		c.Reset() // the server answers
		if cause := c.WriteCause(); cause != nil {
			p.OK, p.Error = false, "takes no writes: "+cause.Error()
		}
		if why := c.owner.barred.Load(); why != nil {
			p.OK, p.Error = false, (*why).Error()
		}
	}
	p.Circuit = c.State()
	return p
}

// HasDigest reports whether L2 sums up by itself what it holds; else Scan does for Digest and
// Leaves.
func (c *cache) HasDigest() bool { return c.digest != nil }

// Digest returns the digest of L2, and the ids whose values can't be read.
func (c *cache) Digest(ctx context.Context) (set *digest.Set, unreadable []string, err error) {
	err = c.pass(ctx, "digest", func(ctx context.Context) (err error) {
		set, unreadable, err = c.digest.Digest(ctx, c.Timeout)
		return err
	})
	return set, unreadable, err
}

// Leaves returns the leaves of some branches, and the ids whose values can't be read.
func (c *cache) Leaves(ctx context.Context, branches []int) (out []Meta, unreadable []string, err error) {
	err = c.pass(ctx, "leaves", func(ctx context.Context) (err error) {
		out, unreadable, err = c.digest.Leaves(ctx, c.Timeout, branches)
		return err
	})
	return out, unreadable, err
}

// Evicts reports whether L2 is full and drops something for each new value. One that has no
// digest is not asked.
func (c *cache) Evicts(ctx context.Context) (full bool, err error) {
	if c.digest == nil {
		return false, nil
	}
	err = c.Do(ctx, "evicts", func(ctx context.Context) (err error) {
		full, err = c.digest.Evicts(ctx, c.Timeout)
		return err
	})
	return full, err
}

// Scan calls fn with all ids, some at a time; an error of fn ends it. A store that delivers
// nothing for L2Timeout is left.
func (c *cache) Scan(ctx context.Context, fn func(ctx context.Context, ids []string) error) error {
	return c.pass(ctx, "scan", func(ctx context.Context) error {
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		idle := time.AfterFunc(c.Timeout, func() { cancel(context.DeadlineExceeded) })
		defer idle.Stop()
		err := c.store.Scan(ctx, func(ids []string) error {
			idle.Stop()
			defer idle.Reset(c.Timeout)
			return fn(ctx, ids)
		})
		if err != nil && context.Cause(ctx) == context.DeadlineExceeded {
			return context.DeadlineExceeded
		}
		return err
	})
}

// Stats sets this department's part.
func (c *cache) Stats(s *Stats) {
	s.L2Hits, s.L2Misses = c.Counts()
	s.L2Missed, s.L2Doubted = c.missed.count()
}

func (c *cache) pass(ctx context.Context, op string, fn func(context.Context) error) error {
	if err := c.barred(); err != nil {
		return err
	}
	return c.DoFor(ctx, op, passTime, fn)
}

// wrote notes how a write to L2 ended, and tells the user when writes begin or cease to fail.
func (c *cache) wrote(err error) {
	if c.Wrote(err) {
		if err == nil {
			c.noteBack()
		}
		c.news.L2Outage(err)
	}
}

func (c *cache) noteBack() {
	select {
	case c.back <- struct{}{}:
	default: // one signal is enough
	}
}

// noteMissed keeps the mark in the WAL file.
func (c *cache) noteMissed(ctx context.Context, dirty bool) error {
	v := []byte{0}
	if dirty {
		v[0] = 1
	}
	return c.wal.SetMeta(ctx, missedKey, v)
}
