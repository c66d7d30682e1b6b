package promises

// around_test.go puts a function of the test around every call of a store, so that one place
// decides of each call whether it is made, and whether its answer comes back.

import (
	"context"
	"fmt"
	"time"

	"github.com/syncengine-go/syncengine"
)

// around is told of a call by tier and method, makes it with do or not, and returns what the
// engine sees. When it returns an error after do, the reply is lost.
type around func(ctx context.Context, tier, call string, do func() error) error

// aroundCache is an L2 whose calls go through fn.
type aroundCache struct {
	in syncengine.CacheStore
	fn around
}

func (a *aroundCache) Get(ctx context.Context, id string) (syncengine.Record, error) {
	return answer(ctx, a.fn, "L2", "Get", func() (syncengine.Record, error) { return a.in.Get(ctx, id) })
}

func (a *aroundCache) GetMany(ctx context.Context, ids []string) ([]syncengine.Found, error) {
	return answer(ctx, a.fn, "L2", "GetMany", func() ([]syncengine.Found, error) { return a.in.GetMany(ctx, ids) })
}

func (a *aroundCache) Put(ctx context.Context, recs []syncengine.Record) error {
	return a.fn(ctx, "L2", "Put", func() error { return a.in.Put(ctx, recs) })
}

func (a *aroundCache) Remove(ctx context.Context, ids []string) error {
	return a.fn(ctx, "L2", "Remove", func() error { return a.in.Remove(ctx, ids) })
}

func (a *aroundCache) Scan(ctx context.Context, fn func(ids []string) error) error {
	return a.fn(ctx, "L2", "Scan", func() error { return a.in.Scan(ctx, fn) })
}

func (a *aroundCache) Ping(ctx context.Context) error {
	return a.fn(ctx, "L2", "Ping", func() error { return a.in.Ping(ctx) })
}

func (a *aroundCache) Close() error { return nil }

// aroundArchive is the same for L3. applied, if set, is told of each Apply that was made,
// also when the reply is lost.
type aroundArchive struct {
	in      syncengine.ArchiveStore
	fn      around
	applied func(recs []syncengine.Record)
}

func (a *aroundArchive) Prepare(ctx context.Context) error {
	return a.fn(ctx, "L3", "Prepare", func() error { return a.in.Prepare(ctx) })
}

func (a *aroundArchive) Get(ctx context.Context, id string) (syncengine.Record, error) {
	return answer(ctx, a.fn, "L3", "Get", func() (syncengine.Record, error) { return a.in.Get(ctx, id) })
}

func (a *aroundArchive) GetMany(ctx context.Context, ids []string) ([]syncengine.Found, error) {
	return answer(ctx, a.fn, "L3", "GetMany", func() ([]syncengine.Found, error) { return a.in.GetMany(ctx, ids) })
}

func (a *aroundArchive) Heads(ctx context.Context, ids []string) ([]syncengine.Meta, error) {
	return answer(ctx, a.fn, "L3", "Heads", func() ([]syncengine.Meta, error) { return a.in.Heads(ctx, ids) })
}

func (a *aroundArchive) Apply(ctx context.Context, recs []syncengine.Record) ([]syncengine.Meta, error) {
	return answer(ctx, a.fn, "L3", "Apply", func() ([]syncengine.Meta, error) {
		above, err := a.in.Apply(ctx, recs)
		if err == nil && a.applied != nil {
			a.applied(recs)
		}
		return above, err
	})
}

func (a *aroundArchive) ApplyIf(ctx context.Context, nonce uint64, units [][]syncengine.Conditional) ([]syncengine.Verdict, error) {
	made := false
	var verdicts []syncengine.Verdict
	err := a.fn(ctx, "L3", "ApplyIf", func() (err error) {
		verdicts, err = a.in.(syncengine.ConditionalStore).ApplyIf(ctx, nonce, units)
		made = err == nil
		for i := range verdicts {
			if made && a.applied != nil && verdicts[i].Decision == syncengine.DecidedApplied {
				for k := range units[i] {
					a.applied([]syncengine.Record{units[i][k].Record})
				}
			}
		}
		return err
	})
	if err != nil && made { // as a store does whose COMMIT had no reply
		err = fmt.Errorf("%w: %w", syncengine.ErrUnknownOutcome, err)
	}
	return verdicts, err
}

func (a *aroundArchive) Landed(ctx context.Context, nonce uint64) (bool, error) {
	return answer(ctx, a.fn, "L3", "Landed", func() (bool, error) { return a.in.(syncengine.ConditionalStore).Landed(ctx, nonce) })
}

func (a *aroundArchive) Scan(ctx context.Context, after string, limit int) ([]syncengine.Meta, error) {
	return answer(ctx, a.fn, "L3", "Scan", func() ([]syncengine.Meta, error) { return a.in.Scan(ctx, after, limit) })
}

func (a *aroundArchive) PurgeTombstones(ctx context.Context, before time.Time, limit int) (int, error) {
	return answer(ctx, a.fn, "L3", "PurgeTombstones", func() (int, error) { return a.in.PurgeTombstones(ctx, before, limit) })
}

func (a *aroundArchive) Ping(ctx context.Context) error {
	return a.fn(ctx, "L3", "Ping", func() error { return a.in.Ping(ctx) })
}

func (a *aroundArchive) Close() error { return nil }

// answer makes a call that returns more than an error. With an error there is no answer, as
// with a server.
func answer[T any](ctx context.Context, fn around, tier, call string, ask func() (T, error)) (out T, err error) {
	err = fn(ctx, tier, call, func() (err error) {
		out, err = ask()
		return err
	})
	if err != nil {
		var none T
		return none, err
	}
	return out, nil
}

// cacheOf returns all that an L2 holds.
func cacheOf(ctx context.Context, l2 syncengine.CacheStore) (map[string]syncengine.Record, error) {
	out := make(map[string]syncengine.Record)
	err := l2.Scan(ctx, func(ids []string) error {
		found, err := l2.GetMany(ctx, ids)
		for i := range found {
			if found[i].OK {
				out[ids[i]] = found[i].Record
			}
		}
		return err
	})
	return out, err
}

// archiveOf returns all that an L3 holds, tombstones included.
func archiveOf(ctx context.Context, l3 syncengine.ArchiveStore) (map[string]syncengine.Record, error) {
	out := make(map[string]syncengine.Record)
	for after := ""; ; {
		rows, err := l3.Scan(ctx, after, 1000)
		if err != nil || len(rows) == 0 {
			return out, err
		}
		ids := make([]string, len(rows))
		for i := range rows {
			ids[i] = rows[i].ID
		}
		found, err := l3.GetMany(ctx, ids)
		if err != nil {
			return nil, err
		}
		for i := range found {
			if found[i].OK {
				out[ids[i]] = found[i].Record
			}
		}
		after = ids[len(ids)-1]
	}
}
