package storetest

// twins.go holds the in-memory stores. They copy what they are given and keep of a record
// what a server keeps: no access counts, times in UTC and without a monotonic part.

import (
	"bytes"
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/syncengine-go/syncengine"
)

// rows are the records of a twin.
type rows map[string]syncengine.Record

// stored is r as a store gives it back.
func stored(r *syncengine.Record) syncengine.Record {
	out := *r
	out.AccessCount, out.LastAccessed, out.Stale = 0, time.Time{}, false
	out.UpdatedAt = time.Unix(0, r.UpdatedAt.UnixNano()).UTC()
	out.Content = bytes.Clone(r.Content)
	if r.Deleted {
		out.Content, out.ContentHash, out.ExpiresAt = nil, [32]byte{}, time.Time{}
	}
	return out
}

func (m rows) get(ctx context.Context, id string) (syncengine.Record, error) {
	if err := ctx.Err(); err != nil {
		return syncengine.Record{}, err
	}
	r, ok := m[id]
	if !ok {
		return syncengine.Record{}, syncengine.ErrNotFound
	}
	return r, nil
}

func (m rows) getMany(ctx context.Context, ids []string) ([]syncengine.Found, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	out := make([]syncengine.Found, len(ids))
	for i, id := range ids {
		out[i].Record, out[i].OK = m[id]
	}
	return out, nil
}

type cache struct {
	mu      sync.RWMutex // guards the fields below
	rows    rows
	damaged map[string]bool // ids under which something unreadable stands; no row is there
}

// NewCache returns an empty L2 in memory. It is a Digester.
func NewCache() syncengine.CacheStore { return &cache{rows: rows{}, damaged: map[string]bool{}} }

func (c *cache) Get(ctx context.Context, id string) (syncengine.Record, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.damaged[id] && ctx.Err() == nil {
		return syncengine.Record{}, unreadable(id)
	}
	return c.rows.get(ctx, id)
}

func (c *cache) GetMany(ctx context.Context, ids []string) ([]syncengine.Found, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	found, err := c.rows.getMany(ctx, ids)
	for i := range found {
		if c.damaged[ids[i]] {
			found[i].Err = unreadable(ids[i])
		}
	}
	return found, err
}

func unreadable(id string) error {
	return &syncengine.CorruptionError{ID: id, Tier: "L2", Expected: "a value of this engine", Actual: "unreadable"}
}

func (c *cache) Put(ctx context.Context, recs []syncengine.Record) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	for i := range recs {
		if old, ok := c.rows[recs[i].ID]; !ok || old.Compare(&recs[i]) <= 0 {
			c.rows[recs[i].ID] = stored(&recs[i])
			delete(c.damaged, recs[i].ID)
		}
	}
	return nil
}

func (c *cache) Remove(ctx context.Context, ids []string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	for _, id := range ids {
		delete(c.rows, id)
		delete(c.damaged, id)
	}
	return nil
}

func (c *cache) Scan(ctx context.Context, fn func(ids []string) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	c.mu.RLock()
	ids := slices.AppendSeq(slices.Collect(maps.Keys(c.rows)), maps.Keys(c.damaged))
	c.mu.RUnlock()
	for page := range slices.Chunk(ids, 1000) { // without the lock: fn may call the store
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := fn(page); err != nil {
			return err
		}
	}
	return nil
}

func (c *cache) Ping(ctx context.Context) error { return ctx.Err() }

func (c *cache) Close() error { return nil }

// archive is a store on a table.
type archive struct {
	*table
	asked  uint64          // nonce of the last ApplyIf; guarded by mu
	landed map[uint64]bool // whether it was committed, if it was or somebody has asked; the same
}

// table is what stores share.
type table struct {
	mu     sync.Mutex // guards the fields below
	rows   rows
	ids    []string // of rows, in byte order if sorted
	sorted bool
}

// NewArchive returns an empty L3 in memory. It is a ConditionalStore, an ExpiringStore and a
// ListingStore.
func NewArchive() syncengine.ArchiveStore {
	return &archive{table: &table{rows: rows{}}, landed: make(map[uint64]bool)}
}

// Another returns a second store on the rows of an archive that NewArchive made.
func Another(s syncengine.ArchiveStore) syncengine.ArchiveStore {
	return &archive{table: s.(*archive).table, landed: make(map[uint64]bool)}
}

func (a *archive) Prepare(ctx context.Context) error { return ctx.Err() }

func (a *archive) Get(ctx context.Context, id string) (syncengine.Record, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.rows.get(ctx, id)
}

func (a *archive) GetMany(ctx context.Context, ids []string) ([]syncengine.Found, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.rows.getMany(ctx, ids)
}

func (a *archive) Apply(ctx context.Context, recs []syncengine.Record) (above []syncengine.Meta, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return a.apply(recs), nil
}

// apply is Apply with a.mu held.
func (a *table) apply(recs []syncengine.Record) (above []syncengine.Meta) {
	for i := range recs {
		old, ok := a.rows[recs[i].ID]
		if m := metaOf(&old); ok && m.Outranks(&recs[i]) {
			above = append(above, m)
		}
		if ok && recs[i].Compare(&old) <= 0 {
			continue
		}
		if !ok {
			a.ids, a.sorted = append(a.ids, recs[i].ID), false
		}
		a.rows[recs[i].ID] = stored(&recs[i])
	}
	return above
}

func metaOf(r *syncengine.Record) syncengine.Meta {
	return syncengine.Meta{ID: r.ID, Version: r.Version, Deleted: r.Deleted, ContentHash: r.ContentHash, ExpiresAt: r.ExpiresAt}
}

// sort puts ids in order; a.mu is held.
func (a *table) sort() {
	if !a.sorted {
		slices.Sort(a.ids)
		a.sorted = true
	}
}

func (a *archive) Scan(ctx context.Context, after string, limit int) ([]syncengine.Meta, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	a.sort()
	at, found := slices.BinarySearch(a.ids, after)
	if found {
		at++
	}
	var out []syncengine.Meta
	for _, id := range a.ids[at:min(len(a.ids), at+limit)] {
		r := a.rows[id]
		out = append(out, metaOf(&r))
	}
	return out, nil
}

func (a *archive) PurgeTombstones(ctx context.Context, before time.Time, limit int) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	kept, n := a.ids[:0], 0
	for _, id := range a.ids {
		if r := a.rows[id]; n < limit && r.Deleted && r.UpdatedAt.Before(before) {
			delete(a.rows, id)
			n++
			continue
		}
		kept = append(kept, id)
	}
	clear(a.ids[len(kept):])
	a.ids = kept
	return n, nil
}

func (a *archive) Expired(ctx context.Context, at time.Time, limit int) (out []syncengine.Meta, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	for _, r := range a.rows {
		if len(out) < limit && !r.Deleted && !r.ExpiresAt.IsZero() && !r.ExpiresAt.After(at) {
			out = append(out, metaOf(&r))
		}
	}
	return out, nil
}

func (a *archive) Ping(ctx context.Context) error { return ctx.Err() }

func (a *archive) Close() error { return nil }
