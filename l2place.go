package syncengine

// l2place.go keeps, beside the documents in L2, up to which place in the log of L3 it has them
// (tail.go); and knows when what was under way at a time has reached L2.

import (
	"context"
	"errors"
	"sync/atomic"

	"github.com/syncengine-go/syncengine/internal/rediskit"
)

// placer is an L2 that keeps a place.
type placer interface {
	// SetPlace keeps a place.
	SetPlace(ctx context.Context, place string) error
	// Place returns it, "" for none.
	Place(ctx context.Context) (string, error)
}

func (s *redisStore) SetPlace(ctx context.Context, place string) error {
	return l2Error(s.c.Set(ctx, s.prefix+"\x00place", place))
}

func (s *redisStore) Place(ctx context.Context) (string, error) {
	b, err := s.c.Get(ctx, s.prefix+"\x00place")
	if errors.Is(err, rediskit.ErrAbsent) {
		return "", nil
	}
	return string(b), l2Error(err)
}

// Places reports whether L2 keeps a place.
func (c *cache) Places() bool {
	_, ok := c.store.(placer)
	return ok
}

// SetPlace keeps a place.
func (c *cache) SetPlace(ctx context.Context, place string) error {
	if err := c.barred(); err != nil {
		return err
	}
	return c.DoFor(ctx, "place", min(c.Timeout, loopTime), func(ctx context.Context) error { return c.store.(placer).SetPlace(ctx, place) })
}

// Place returns it.
func (c *cache) Place(ctx context.Context) (place string, err error) {
	if err := c.barred(); err != nil {
		return "", err
	}
	err = c.DoFor(ctx, "place", min(c.Timeout, loopTime), func(ctx context.Context) (err error) {
		place, err = c.store.(placer).Place(ctx)
		return err
	})
	return place, err
}

// Empty reports whether L2 holds no copies. One in which it takes long to find that out, among keys
// of others, is taken for one that does.
func (c *cache) Empty(ctx context.Context) (empty bool, err error) {
	found := errors.New("found")
	err = c.pass(ctx, "scan", func(ctx context.Context) error {
		within, cancel := context.WithTimeout(ctx, min(c.Timeout, loopTime))
		defer cancel()
		err := c.store.Scan(within, func(ids []string) error {
			if len(ids) > 0 {
				return found
			}
			return nil
		})
		if empty = err == nil; err == found || ctx.Err() == nil && within.Err() != nil {
			return nil
		}
		return err
	})
	return empty, err
}

// underWay counts writes that may be in L3 and not in L2, in two sets: those that have begun before
// the last mark, and since.
type underWay struct {
	set   atomic.Uint32
	count [2]atomic.Int64
}

// writesUnderWay are those of a time.
type writesUnderWay struct {
	set  uint32
	over bool
	gen  uint64 // of what L2 lacks, when they were over
}

// Begin begins a write, before it is sent to L3. What it returns is given to End when it has
// reached L2, or is known to have missed it.
func (c *cache) Begin() (set uint32) {
	set = c.under.set.Load() & 1
	c.under.count[set].Add(1)
	return set
}

// End ends a write.
func (c *cache) End(set uint32) { c.under.count[set].Add(-1) }

// Mark begins to wait for what is under way now. One mark at a time: it is over when Reached.
func (c *cache) Mark() *writesUnderWay {
	set := c.under.set.Load() & 1
	c.under.set.Store(set ^ 1)
	return &writesUnderWay{set: set}
}

// Reached reports whether all that was under way at a mark is over, and nothing is lacking in L2
// that was known to be lacking then.
func (c *cache) Reached(m *writesUnderWay) bool {
	if !m.over {
		if c.under.count[m.set].Load() != 0 {
			return false
		}
		m.over, m.gen = true, c.missed.now()
	}
	return c.missed.noneUntil(m.gen)
}
