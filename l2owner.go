package syncengine

// l2owner.go knows whose the Redis is: the documents under a prefix are of one L3. Another database
// with the same prefix would be read for this one, and "repaired". So would one whose prefix begins
// with that of this one. Who comes first stays: who comes later sees to it that it neither lies in
// another one nor another one in it, which takes a walk over all keys, before the first claim only.
// Of two that come at once the inner one gives way, once it sees the other.
//
// Two keys stand beside the documents, with names that no id has. The owner is L3's identity and a
// random text; who comes first sets it. The beat is a number that each engine counts up each
// second. So this also notices a server that has gone back, however it did that and whoever made
// the client: a dump that was loaded, a replica that was behind, another server behind the same
// name. Its beat is not above the last one seen, or its random text is another one; then nothing in
// it is read before it was compared with L3. Keys that are missing tell nothing: what is not there
// is not old.
//
// The identity of L3 is kept in the WAL file, for an engine that opens while L3 is away.

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const identityKey = "l3_identity"

// loopTime bounds a look, and a message: a call that hangs can't be cut off, and Close waits for
// the loops.
const loopTime = time.Second

var (
	errForeign = errors.New("it holds the documents of another database")
	errNotYet  = errors.New("it is not known yet whether it holds the documents of another database")
)

// claimer is an L2 that can be claimed.
type claimer interface {
	// Rights returns the statement that gives the account what it lacks, "" if that is nothing, and
	// the same for what can be done without.
	Rights(ctx context.Context) (needed, wanted string, err error)
	// Claim makes owner the owner, unless there is one, and returns whose L2 is.
	Claim(ctx context.Context, owner string) (held string, err error)
	// Claimed reports whether it has an owner.
	Claimed(ctx context.Context) (bool, error)
	// Inner returns the prefix of an L2 that lies in this one and whose owner is foreign, "" for
	// none. It looks at last first, the one it returned before, and then walks over all keys.
	// timeout bounds each step.
	Inner(ctx context.Context, timeout time.Duration, foreign func(owner string) bool, last string) (inner string, err error)
	// Outer returns the owners of L2s that this one lies in, since their prefixes are the beginning
	// of its own: as far as that can be known.
	Outer(ctx context.Context) (owners []string)
	// Beat counts, and returns to where.
	Beat(ctx context.Context) (int64, error)
	// Masters returns ids of the masters, none if it can't know. A master that was restarted, or
	// was a replica before, has another one.
	Masters(ctx context.Context) ([]string, error)
}

// l2Owner is what is known of it.
type l2Owner struct {
	barred atomic.Pointer[error] // why L2 must be left alone: &errForeign, &errNotYet, or nil

	mu       sync.Mutex // held by Claim
	allowed  bool       // the account may do all that is needed
	refused  bool       // it was told that it may not
	identity string     // of L3
	stored   bool       // in the WAL file
	text     string     // the owner as it was last
	claims   int        // how often it was claimed
	inside   bool       // of another database's, as far as is known
	inner    string     // the prefix of another database's that was seen in this one
	beat     int64      // as it was last
}

// Claim makes sure that L2 is that of the L3 with an identity, "" while L3 has not told it, and has
// not gone back. It is called now and then. The error is a *SetupError when L2 is another
// database's, or may not be used as it must; another one means that nobody knows.
func (c *cache) Claim(ctx context.Context, identity string) error {
	claims, ok := c.store.(claimer)
	if !ok {
		return nil
	}
	o := &c.owner
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := o.know(ctx, c.wal, identity); err != nil || o.identity == "" {
		return err
	}
	if err := c.allowed(ctx, claims); err != nil {
		return err
	}
	if err := c.alone(ctx, claims); err != nil {
		return err
	}
	var held string
	var beat int64
	var masters []string
	mine := o.identity + "/" + newNode()
	err := c.DoFor(ctx, "claim", min(c.Timeout, loopTime), func(ctx context.Context) (err error) {
		if held, err = claims.Claim(ctx, mine); err == nil {
			beat, err = claims.Beat(ctx)
		}
		if err == nil {
			masters, err = claims.Masters(ctx)
		}
		return err
	})
	c.meet(ctx, &c.masters, masters...)
	if err != nil {
		return err
	}
	o.claims++
	if o.foreign(held) {
		c.foreign(true)
		return &SetupError{Server: "redis", Problem: "the documents under this KeyPrefix are those of another database",
			Mend: "give each database a KeyPrefix of its own; or, if the other one is no more, delete the keys that begin with it"}
	}
	back := held != mine && o.text != "" && (held != o.text || beat <= o.beat && beat > 1)
	if back || o.barred.Load() == &errForeign {
		c.missed.addAll()
		if err := c.noteMissed(context.WithoutCancel(ctx), true); err != nil {
			return err
		}
	}
	o.text, o.beat = held, beat
	c.foreign(false)
	return nil
}

// alone makes sure, now and then, that L2 lies in none of another database; and before it gets its
// first owner, which L2 is left alone for, that none of another database lies in it. An owner that
// got lost while this engine ran is not its first. What is refused claims nothing: that would be in
// the other one's way.
func (c *cache) alone(ctx context.Context, claims claimer) error {
	o := &c.owner
	if o.text != "" && !o.inside && o.claims%outerEvery != 0 {
		return nil
	}
	step := min(c.Timeout, loopTime)
	var claimed bool
	err := c.DoFor(ctx, "claim", step, func(ctx context.Context) (err error) {
		if claimed, err = claims.Claimed(ctx); err == nil {
			o.inside = slices.ContainsFunc(claims.Outer(ctx), o.foreign)
		}
		return err
	})
	if err == nil && !o.inside && !claimed && o.text == "" {
		o.barred.CompareAndSwap(nil, &errNotYet)
		err = c.DoFor(ctx, "scan", passTime, func(ctx context.Context) (err error) {
			o.inner, err = claims.Inner(ctx, step, o.foreign, o.inner)
			return err
		})
	} else {
		o.inner = ""
	}
	problem := ""
	switch {
	case err != nil:
		return err
	case o.inside:
		problem = "this KeyPrefix begins with that of another database, which takes the documents here for its own"
	case o.inner != "":
		problem = "the KeyPrefix of another database, " + strconv.Quote(o.inner) + ", begins with this one, which would take the documents there for its own"
	default:
		return nil
	}
	c.foreign(true)
	return &SetupError{Server: "redis", Problem: problem,
		Mend: "give each database a KeyPrefix that no other one begins with; or, if the other one is no more, delete its keys"}
}

// allowed makes sure, once, that the account may do what is needed. The error is a *SetupError if
// not.
func (c *cache) allowed(ctx context.Context, claims claimer) error {
	o := &c.owner
	if o.allowed {
		return nil
	}
	var needed, wanted string
	err := c.DoFor(ctx, "rights", min(c.Timeout, loopTime), func(ctx context.Context) (err error) {
		needed, wanted, err = claims.Rights(ctx)
		return err
	})
	if setup, ok := errors.AsType[*SetupError](err); ok { // no outage
		return setup
	}
	if err != nil {
		return err
	}
	if needed != "" {
		if !o.refused {
			o.refused = true
			c.news.Log().Error("the Redis account lacks a right", "mend", needed)
		}
		return &SetupError{Server: "redis", Problem: "the account lacks a right", Mend: needed}
	}
	if o.allowed = true; wanted != "" {
		c.news.Log().Warn("the Redis account lacks a right that is useful: INFO tells of failovers, messages tell of what other engines write", "mend", wanted)
	}
	return nil
}

// outerEvery is how often L2 is claimed for one look at whether it lies in another one.
const outerEvery = 4

// foreign reports whether an owner is another database.
func (o *l2Owner) foreign(owner string) bool {
	whose, _, _ := strings.Cut(owner, "/")
	return whose != o.identity
}

func (o *l2Owner) know(ctx context.Context, wal *journal, identity string) error {
	if identity == "" && o.identity == "" {
		b, err := wal.Meta(ctx, identityKey)
		o.identity = string(b)
		return err
	}
	if identity == "" || o.stored && identity == o.identity {
		return nil
	}
	o.identity = identity
	err := wal.SetMeta(ctx, identityKey, []byte(identity))
	o.stored = err == nil
	return err
}

// foreign notes whether L2 is another database's, and tells when that changes.
func (c *cache) foreign(is bool) {
	var why *error
	if is {
		why = &errForeign
	}
	switch was := c.owner.barred.Swap(why); {
	case is && was != why:
		c.news.Log().Error("Redis holds the documents of another database under this KeyPrefix: it is left alone")
	case was == &errForeign && !is:
		c.news.Log().Info("Redis is this database's again")
	}
}

// barred is an error while L2 must be left alone.
func (c *cache) barred() error {
	if why := c.owner.barred.Load(); why != nil {
		return unavailable("L2", *why)
	}
	return nil
}
