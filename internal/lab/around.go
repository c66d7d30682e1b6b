package lab

// around.go puts a function of the test around every call of a store, so that one place
// decides of each call whether it is made, and whether its answer comes back.

import (
	"context"
	"fmt"
	"time"

	"github.com/syncengine-go/syncengine"
)

// Around is told of a call by tier and method, makes it with do or not, and returns what the
// engine sees. When it returns an error after do, the reply is lost.
type Around func(ctx context.Context, tier, call string, do func() error) error

// AroundCache is an L2 whose calls go through fn.
type AroundCache struct {
	In syncengine.CacheStore
	Fn Around
}

func (a *AroundCache) Get(ctx context.Context, id string) (syncengine.Record, error) {
	return answer(ctx, a.Fn, "L2", "Get", func() (syncengine.Record, error) { return a.In.Get(ctx, id) })
}

func (a *AroundCache) GetMany(ctx context.Context, ids []string) ([]syncengine.Found, error) {
	return answer(ctx, a.Fn, "L2", "GetMany", func() ([]syncengine.Found, error) { return a.In.GetMany(ctx, ids) })
}

func (a *AroundCache) Put(ctx context.Context, recs []syncengine.Record) error {
	return a.Fn(ctx, "L2", "Put", func() error { return a.In.Put(ctx, recs) })
}

func (a *AroundCache) Remove(ctx context.Context, ids []string) error {
	return a.Fn(ctx, "L2", "Remove", func() error { return a.In.Remove(ctx, ids) })
}

func (a *AroundCache) Scan(ctx context.Context, fn func(ids []string) error) error {
	return a.Fn(ctx, "L2", "Scan", func() error { return a.In.Scan(ctx, fn) })
}

func (a *AroundCache) Ping(ctx context.Context) error {
	return a.Fn(ctx, "L2", "Ping", func() error { return a.In.Ping(ctx) })
}

func (a *AroundCache) Close() error { return nil }

// AroundArchive is the same for L3. applied, if set, is told of each Apply that was made,
// also when the reply is lost.
type AroundArchive struct {
	In      syncengine.ArchiveStore
	Fn      Around
	Applied func(recs []syncengine.Record)
}

func (a *AroundArchive) Prepare(ctx context.Context) error {
	return a.Fn(ctx, "L3", "Prepare", func() error { return a.In.Prepare(ctx) })
}

func (a *AroundArchive) Get(ctx context.Context, id string) (syncengine.Record, error) {
	return answer(ctx, a.Fn, "L3", "Get", func() (syncengine.Record, error) { return a.In.Get(ctx, id) })
}

func (a *AroundArchive) GetMany(ctx context.Context, ids []string) ([]syncengine.Found, error) {
	return answer(ctx, a.Fn, "L3", "GetMany", func() ([]syncengine.Found, error) { return a.In.GetMany(ctx, ids) })
}

func (a *AroundArchive) Heads(ctx context.Context, ids []string) ([]syncengine.Meta, error) {
	return answer(ctx, a.Fn, "L3", "Heads", func() ([]syncengine.Meta, error) { return a.In.Heads(ctx, ids) })
}

func (a *AroundArchive) Apply(ctx context.Context, recs []syncengine.Record) ([]syncengine.Meta, error) {
	return answer(ctx, a.Fn, "L3", "Apply", func() ([]syncengine.Meta, error) {
		above, err := a.In.Apply(ctx, recs)
		if err == nil && a.Applied != nil {
			a.Applied(recs)
		}
		return above, err
	})
}

func (a *AroundArchive) ApplyIf(ctx context.Context, nonce uint64, units [][]syncengine.Conditional) ([]syncengine.Verdict, error) {
	made := false
	var verdicts []syncengine.Verdict
	err := a.Fn(ctx, "L3", "ApplyIf", func() (err error) {
		verdicts, err = a.In.(syncengine.ConditionalStore).ApplyIf(ctx, nonce, units)
		made = err == nil
		for i := range verdicts {
			if made && a.Applied != nil && verdicts[i].Decision == syncengine.DecidedApplied {
				for k := range units[i] {
					a.Applied([]syncengine.Record{units[i][k].Record})
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

func (a *AroundArchive) Landed(ctx context.Context, nonce uint64) (bool, error) {
	return answer(ctx, a.Fn, "L3", "Landed", func() (bool, error) { return a.In.(syncengine.ConditionalStore).Landed(ctx, nonce) })
}

func (a *AroundArchive) Scan(ctx context.Context, after string, limit int) ([]syncengine.Meta, error) {
	return answer(ctx, a.Fn, "L3", "Scan", func() ([]syncengine.Meta, error) { return a.In.Scan(ctx, after, limit) })
}

// Expired needs an ExpiringStore within.
func (a *AroundArchive) Expired(ctx context.Context, at time.Time, limit int) ([]syncengine.Meta, error) {
	return answer(ctx, a.Fn, "L3", "Expired", func() ([]syncengine.Meta, error) {
		return a.In.(syncengine.ExpiringStore).Expired(ctx, at, limit)
	})
}

func (a *AroundArchive) PurgeTombstones(ctx context.Context, before time.Time, limit int) (int, error) {
	return answer(ctx, a.Fn, "L3", "PurgeTombstones", func() (int, error) { return a.In.PurgeTombstones(ctx, before, limit) })
}

func (a *AroundArchive) Ping(ctx context.Context) error {
	return a.Fn(ctx, "L3", "Ping", func() error { return a.In.Ping(ctx) })
}

func (a *AroundArchive) Close() error { return nil }

// answer makes a call that returns more than an error. With an error there is no answer, as
// with a server.
func answer[T any](ctx context.Context, fn Around, tier, call string, ask func() (T, error)) (out T, err error) {
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

// CacheOf returns all that an L2 holds.
func CacheOf(ctx context.Context, l2 syncengine.CacheStore) (map[string]syncengine.Record, error) {
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

// ArchiveOf returns all that an L3 holds, tombstones included.
func ArchiveOf(ctx context.Context, l3 syncengine.ArchiveStore) (map[string]syncengine.Record, error) {
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
