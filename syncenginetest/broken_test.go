package syncenginetest

// broken_test.go breaks one rule of a good store at a time: the suites must fail, and say which
// rule. Each runs in a process of its own, since a suite that fails fails its test.

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/storetest"
)

type (
	rec  = syncengine.Record
	meta = syncengine.Meta
)

// whole is all that the twin is.
type whole interface {
	syncengine.ConditionalStore
	syncengine.ListingStore
	syncengine.ExpiringStore
}

// broken is a good store but for the methods that are set.
type broken struct {
	whole
	get     func(id string) (rec, error)
	apply   func(recs []rec) ([]meta, error)
	heads   func(ids []string) ([]meta, error)
	scan    func(after string, limit int) ([]meta, error)
	list    func(prefix, after string, limit int, maxBytes int64) ([]syncengine.Found, bool, error)
	expired func(at time.Time, limit int) ([]meta, error)
	applyIf func(nonce uint64, units [][]syncengine.Conditional) ([]syncengine.Verdict, error)
	landed  func(nonce uint64) (bool, error)
}

func (b *broken) Get(ctx context.Context, id string) (rec, error) {
	if b.get == nil || ctx.Err() != nil {
		return b.whole.Get(ctx, id)
	}
	return b.get(id)
}

func (b *broken) Apply(ctx context.Context, recs []rec) ([]meta, error) {
	if b.apply == nil || ctx.Err() != nil {
		return b.whole.Apply(ctx, recs)
	}
	return b.apply(recs)
}

func (b *broken) Heads(ctx context.Context, ids []string) ([]meta, error) {
	if b.heads == nil || ctx.Err() != nil {
		return b.whole.Heads(ctx, ids)
	}
	return b.heads(ids)
}

func (b *broken) Scan(ctx context.Context, after string, limit int) ([]meta, error) {
	if b.scan == nil || ctx.Err() != nil {
		return b.whole.Scan(ctx, after, limit)
	}
	return b.scan(after, limit)
}

func (b *broken) List(ctx context.Context, prefix, after string, limit int, maxBytes int64) ([]syncengine.Found, bool, error) {
	if b.list == nil || ctx.Err() != nil {
		return b.whole.List(ctx, prefix, after, limit, maxBytes)
	}
	return b.list(prefix, after, limit, maxBytes)
}

func (b *broken) Expired(ctx context.Context, at time.Time, limit int) ([]meta, error) {
	if b.expired == nil || ctx.Err() != nil {
		return b.whole.Expired(ctx, at, limit)
	}
	return b.expired(at, limit)
}

func (b *broken) ApplyIf(ctx context.Context, nonce uint64, units [][]syncengine.Conditional) ([]syncengine.Verdict, error) {
	if b.applyIf == nil || ctx.Err() != nil {
		return b.whole.ApplyIf(ctx, nonce, units)
	}
	return b.applyIf(nonce, units)
}

func (b *broken) Landed(ctx context.Context, nonce uint64) (bool, error) {
	if b.landed == nil || ctx.Err() != nil {
		return b.whole.Landed(ctx, nonce)
	}
	return b.landed(nonce)
}

var bg = context.Background()

// brokenArchive is a way to break a store, and what the suite must say about it.
type brokenArchive struct {
	name, says string
	breaks     func(b *broken, in whole)
}

var brokenArchives = []brokenArchive{
	{"nothing is wrong", "", func(*broken, whole) {}},
	{"above is empty", "ArchiveStore.Apply returns the rows that compare above", func(b *broken, in whole) {
		b.apply = func(recs []rec) ([]meta, error) { _, err := in.Apply(bg, recs); return nil, err }
	}},
	{"above has equal rows", "ArchiveStore.Apply returns the rows that compare above", func(b *broken, in whole) {
		b.apply = func(recs []rec) ([]meta, error) {
			above, err := in.Apply(bg, recs)
			for i := range recs {
				row, _ := in.Get(bg, recs[i].ID)
				if recs[i].Compare(&row) == 0 && row.HomeInstanceID == recs[i].HomeInstanceID {
					above = append(above, headOf(&row))
				}
			}
			return above, err
		}
	}},
	{"above has the records", "ArchiveStore.Apply returns the rows that compare above", func(b *broken, in whole) {
		b.apply = func(recs []rec) ([]meta, error) {
			above, err := in.Apply(bg, recs)
			for i := range above {
				at := slices.IndexFunc(recs, func(r rec) bool { return r.ID == above[i].ID })
				above[i] = headOf(&recs[at])
			}
			return above, err
		}
	}},
	{"above lacks tombstones", "ArchiveStore.Apply returns the rows that compare above", func(b *broken, in whole) {
		b.apply = func(recs []rec) ([]meta, error) {
			above, err := in.Apply(bg, recs)
			return slices.DeleteFunc(above, func(m meta) bool { return m.Deleted }), err
		}
	}},
	{"Heads lacks tombstones", "ArchiveStore.Heads returns the rows of ids, tombstones included", func(b *broken, in whole) {
		b.heads = func(ids []string) ([]meta, error) {
			rows, err := in.Heads(bg, ids)
			return slices.DeleteFunc(rows, func(m meta) bool { return m.Deleted }), err
		}
	}},
	{"Heads of ids that do not exist", "those that exist", func(b *broken, in whole) {
		b.heads = func(ids []string) (out []meta, err error) {
			for _, id := range ids {
				row, _ := in.Get(bg, id)
				row.ID = id
				out = append(out, headOf(&row))
			}
			return out, nil
		}
	}},
	{"Heads of the first thousand", "ArchiveStore.Heads returns the rows of ids", func(b *broken, in whole) {
		b.heads = func(ids []string) ([]meta, error) { return in.Heads(bg, ids[:min(1000, len(ids))]) }
	}},
	{"Heads folds letters", "ArchiveStore.Heads returns the rows of ids", func(b *broken, in whole) {
		b.heads = func(ids []string) ([]meta, error) {
			ids = slices.Clone(ids)
			for i := range ids {
				ids[i] = strings.ToLower(ids[i])
			}
			return in.Heads(bg, ids)
		}
	}},
	{"Scan begins with after", "ArchiveStore.Scan returns up to limit rows with ids above after", func(b *broken, in whole) {
		b.scan = func(after string, limit int) ([]meta, error) {
			rows, err := in.Scan(bg, after, limit-1)
			first, _ := in.Heads(bg, []string{after})
			return append(first, rows...), err
		}
	}},
	{"Scan has short pages", "only the last page may be short", func(b *broken, in whole) {
		b.scan = func(after string, limit int) ([]meta, error) { return in.Scan(bg, after, min(limit, 5)) }
	}},
	{"Scan lacks tombstones", "tombstones included", func(b *broken, in whole) {
		b.scan = func(after string, limit int) ([]meta, error) {
			rows, err := in.Scan(bg, after, 1000)
			rows = slices.DeleteFunc(rows, func(m meta) bool { return m.Deleted })
			return rows[:min(limit, len(rows))], err
		}
	}},
	{"Scan begins at ids alone", "which need be no id", func(b *broken, in whole) {
		b.scan = func(after string, limit int) ([]meta, error) {
			if !utf8.ValidString(after) {
				return nil, errors.New("invalid UTF-8")
			}
			return in.Scan(bg, after, limit)
		}
	}},
	{"Scan counts rows", "the first rows above it", func(b *broken, in whole) {
		offsets := map[string]int{"": 0} // by where a page ended
		b.scan = func(after string, limit int) ([]meta, error) {
			from, known := offsets[after]
			if !known {
				rows, _ := in.Scan(bg, "", 1<<20)
				if from = slices.IndexFunc(rows, func(m meta) bool { return m.ID > after }); from < 0 {
					return nil, nil
				}
			}
			rows, err := in.Scan(bg, "", from+limit)
			rows = rows[min(from, len(rows)):]
			if len(rows) > 0 {
				offsets[rows[len(rows)-1].ID] = from + len(rows)
			}
			return rows, err
		}
	}},
	{"List folds letters", "ids begin with prefix", func(b *broken, in whole) {
		b.list = func(prefix, after string, limit int, _ int64) (page []syncengine.Found, _ bool, err error) {
			rows, err := in.Scan(bg, after, 1<<20)
			for i := 0; i < len(rows) && len(page) < limit; i++ {
				if strings.HasPrefix(strings.ToLower(rows[i].ID), strings.ToLower(prefix)) {
					f, _ := in.GetMany(bg, []string{rows[i].ID})
					page = append(page, f...)
				}
			}
			return page, len(page) == limit, err
		}
	}},
	{"List ignores maxBytes", "a page ends after the row with which contents have maxBytes", func(b *broken, in whole) {
		b.list = func(prefix, after string, limit int, _ int64) ([]syncengine.Found, bool, error) {
			return in.List(bg, prefix, after, limit, 1<<40)
		}
	}},
	{"List ignores limit", "a page ends after limit rows", func(b *broken, in whole) {
		b.list = func(prefix, after string, _ int, maxBytes int64) ([]syncengine.Found, bool, error) {
			return in.List(bg, prefix, after, 1<<20, maxBytes)
		}
	}},
	{"List has no more", "it returns all that begin with prefix", func(b *broken, in whole) {
		b.list = func(prefix, after string, limit int, maxBytes int64) ([]syncengine.Found, bool, error) {
			page, _, err := in.List(bg, prefix, after, limit, maxBytes)
			return page, false, err
		}
	}},
	{"List has always more", "it is set where the page has ended by them", func(b *broken, in whole) {
		b.list = func(prefix, after string, limit int, maxBytes int64) ([]syncengine.Found, bool, error) {
			page, _, err := in.List(bg, prefix, after, limit, maxBytes)
			return page, len(page) > 0, err
		}
	}},
	{"List lacks tombstones", "tombstones included", func(b *broken, in whole) {
		b.list = func(prefix, after string, limit int, maxBytes int64) ([]syncengine.Found, bool, error) {
			page, _, err := in.List(bg, prefix, after, 1<<20, 1<<40)
			page = slices.DeleteFunc(page, func(f syncengine.Found) bool { return f.Record.Deleted })
			bytes := int64(0)
			for i := range page {
				if bytes += int64(len(page[i].Record.Content)); i+1 == limit || bytes >= maxBytes {
					return page[:i+1], true, err
				}
			}
			return page, false, err
		}
	}},
	{"List has no content", "Content differs from what was put", func(b *broken, in whole) {
		b.list = func(prefix, after string, limit int, maxBytes int64) ([]syncengine.Found, bool, error) {
			page, more, err := in.List(bg, prefix, after, limit, maxBytes)
			for i := range page {
				page[i].Record.Content = nil
			}
			return page, more && len(page) == limit, err
		}
	}},
	{"List forgets when rows expire", "ExpiresAt differs from what was put", func(b *broken, in whole) {
		b.list = func(prefix, after string, limit int, maxBytes int64) ([]syncengine.Found, bool, error) {
			page, more, err := in.List(bg, prefix, after, limit, maxBytes)
			for i := range page {
				page[i].Record.ExpiresAt = time.Time{}
			}
			return page, more, err
		}
	}},
	{"List takes valid prefixes alone", "list: invalid UTF-8", func(b *broken, in whole) {
		b.list = func(prefix, after string, limit int, maxBytes int64) ([]syncengine.Found, bool, error) {
			if !utf8.ValidString(prefix) {
				return nil, false, errors.New("invalid UTF-8")
			}
			return in.List(bg, prefix, after, limit, maxBytes)
		}
	}},
	{"List holds a lock", "nothing is held open between two calls", func(b *broken, in whole) {
		held := false
		b.list = func(prefix, after string, limit int, maxBytes int64) (page []syncengine.Found, more bool, err error) {
			page, held, err = in.List(bg, prefix, after, limit, maxBytes)
			return page, held, err
		}
		b.apply = func(recs []rec) ([]meta, error) {
			if held {
				return nil, errors.New("the table is locked")
			}
			return in.Apply(bg, recs)
		}
	}},
	{"Expired is exclusive", "ExpiringStore.Expired returns live rows whose ExpiresAt is not after the time", func(b *broken, in whole) {
		b.expired = func(at time.Time, limit int) ([]meta, error) { return in.Expired(bg, at.Add(-1), limit) }
	}},
	{"Expired ignores limit", "ExpiringStore.Expired returns up to limit rows", func(b *broken, in whole) {
		b.expired = func(at time.Time, _ int) ([]meta, error) { return in.Expired(bg, at, 1000) }
	}},
	{"Expired deletes", "ExpiringStore.Expired changes nothing", func(b *broken, in whole) {
		b.expired = func(at time.Time, limit int) ([]meta, error) {
			rows, err := in.Expired(bg, at, limit)
			for _, m := range rows {
				_, _ = in.Apply(bg, []rec{storetest.Tombstone(m.ID, m.Version)})
			}
			return rows, err
		}
	}},
	{"Expired has what was deleted", "not those that were deleted", func(b *broken, in whole) {
		var due []meta
		b.expired = func(at time.Time, limit int) ([]meta, error) {
			rows, err := in.Expired(bg, at, limit)
			for _, m := range rows {
				if !slices.ContainsFunc(due, func(d meta) bool { return d.ID == m.ID }) {
					due = append(due, m)
				}
			}
			all := slices.Clone(due)
			all = slices.DeleteFunc(all, func(m meta) bool { return m.ExpiresAt.After(at) })
			return all[:min(limit, len(all))], err
		}
	}},
	{"conditions are not looked at", "ConditionalStore.ApplyIf decided", func(b *broken, in whole) {
		b.applyIf = func(nonce uint64, units [][]syncengine.Conditional) ([]syncengine.Verdict, error) {
			for _, unit := range units {
				for i := range unit {
					unit[i].Always = true
				}
			}
			return in.ApplyIf(bg, nonce, units)
		}
	}},
	{"the time is not looked at", "Conditional.Now", func(b *broken, in whole) {
		b.applyIf = func(nonce uint64, units [][]syncengine.Conditional) ([]syncengine.Verdict, error) {
			for _, unit := range units {
				for i := range unit {
					unit[i].Now = time.Time{}
				}
			}
			return in.ApplyIf(bg, nonce, units)
		}
	}},
	{"all has landed", "it reports whether the ApplyIf of that nonce was committed", func(b *broken, _ whole) {
		b.landed = func(uint64) (bool, error) { return true, nil }
	}},
	{"Landed forbids nothing", "of a nonce that Landed has denied", func(b *broken, in whole) {
		did := map[uint64]bool{}
		b.applyIf = func(nonce uint64, units [][]syncengine.Conditional) ([]syncengine.Verdict, error) {
			v, err := in.ApplyIf(bg, nonce, units)
			did[nonce] = slices.ContainsFunc(v, func(v syncengine.Verdict) bool { return v.Decision == syncengine.DecidedApplied })
			return v, err
		}
		b.landed = func(nonce uint64) (bool, error) { return did[nonce], nil }
	}},
}

func headOf(r *rec) meta {
	return meta{ID: r.ID, Version: r.Version, Deleted: r.Deleted, ContentHash: r.ContentHash, ExpiresAt: r.ExpiresAt}
}

// brokenSharedArchives are good stores as long as they are alone.
var brokenSharedArchives = []brokenArchive{
	{"nothing is wrong", "", func(*broken, whole) {}},
	{"Get remembers rows", "ArchiveStore.Get of", func(b *broken, in whole) {
		var mu sync.Mutex
		known := map[string]rec{}
		b.get = func(id string) (rec, error) {
			mu.Lock()
			defer mu.Unlock()
			if r, ok := known[id]; ok {
				return r, nil
			}
			r, err := in.Get(bg, id)
			if err == nil {
				known[id] = r
			}
			return r, err
		}
		b.apply = func(recs []rec) ([]meta, error) {
			above, err := in.Apply(bg, recs)
			mu.Lock()
			defer mu.Unlock()
			for i := range recs {
				delete(known, recs[i].ID)
			}
			return above, err
		}
	}},
	{"Heads remembers absence", "ArchiveStore.Heads: what one store has written", func(b *broken, in whole) {
		absent := map[string]bool{}
		b.heads = func(ids []string) ([]meta, error) {
			rows, err := in.Heads(bg, ids)
			rows = slices.DeleteFunc(rows, func(m meta) bool { return absent[m.ID] })
			for _, id := range ids {
				absent[id] = absent[id] || !slices.ContainsFunc(rows, func(m meta) bool { return m.ID == id })
			}
			return rows, err
		}
		b.get = func(id string) (rec, error) {
			r, err := in.Get(bg, id)
			absent[id] = absent[id] || err != nil
			return r, err
		}
		_, _ = b.Heads(bg, []string{"x", "y", "z"})
	}},
	{"Scan is of a snapshot", "ArchiveStore.Scan: what one store has written", func(b *broken, in whole) {
		rows, _ := in.Scan(bg, "", 1000)
		b.scan = func(after string, limit int) ([]meta, error) {
			return slices.DeleteFunc(slices.Clone(rows), func(m meta) bool { return m.ID <= after }), nil
		}
	}},
	{"List is of a snapshot", "ListingStore.List: what one store has written", func(b *broken, in whole) {
		page, more, _ := in.List(bg, "", "", 1000, 1<<30)
		b.list = func(string, string, int, int64) ([]syncengine.Found, bool, error) { return page, more, nil }
	}},
	{"Expired is of a snapshot", "ExpiringStore.Expired: what one store has written", func(b *broken, in whole) {
		rows, _ := in.Expired(bg, time.Now().AddDate(1000, 0, 0), 1000)
		b.expired = func(time.Time, int) ([]meta, error) { return rows, nil }
	}},
	{"nonces are all of one store", "a nonce names a transaction of this store", func(b *broken, in whole) {
		b.applyIf = func(nonce uint64, units [][]syncengine.Conditional) ([]syncengine.Verdict, error) {
			return oneOf(in).ApplyIf(bg, nonce, units)
		}
		b.landed = func(nonce uint64) (bool, error) { return oneOf(in).Landed(bg, nonce) }
	}},
	{"conditions are judged before the transaction", "ConditionalStore.ApplyIf", func(b *broken, in whole) {
		b.applyIf = func(_ uint64, units [][]syncengine.Conditional) ([]syncengine.Verdict, error) {
			rows := map[string]meta{}
			for _, unit := range units {
				for i := range unit {
					heads, _ := in.Heads(bg, []string{unit[i].ID})
					for _, m := range heads {
						rows[m.ID] = m
					}
				}
			}
			verdicts, write := syncengine.Judge(rows, units)
			runtime.Gosched()
			_, err := in.Apply(bg, write)
			return verdicts, err
		}
	}},
}

// firsts are the first stores that were opened on their records.
var firsts = map[whole]whole{}

func oneOf(s whole) whole { return firsts[s] }

// brokenCache is a good cache but for the methods that are set.
type brokenCache struct {
	syncengine.CacheStore
	get    func(id string) (rec, error)
	put    func(recs []rec) error
	remove func(ids []string) error
	scan   func(fn func([]string) error) error
}

func (b *brokenCache) Get(ctx context.Context, id string) (rec, error) {
	if b.get == nil || ctx.Err() != nil {
		return b.CacheStore.Get(ctx, id)
	}
	return b.get(id)
}

func (b *brokenCache) Put(ctx context.Context, recs []rec) error {
	if b.put == nil || ctx.Err() != nil {
		return b.CacheStore.Put(ctx, recs)
	}
	return b.put(recs)
}

func (b *brokenCache) Remove(ctx context.Context, ids []string) error {
	if b.remove == nil || ctx.Err() != nil {
		return b.CacheStore.Remove(ctx, ids)
	}
	return b.remove(ids)
}

func (b *brokenCache) Scan(ctx context.Context, fn func([]string) error) error {
	if b.scan == nil || ctx.Err() != nil {
		return b.CacheStore.Scan(ctx, fn)
	}
	return b.scan(fn)
}

type brokenCacheCase struct {
	name, says string
	breaks     func(b *brokenCache, in syncengine.CacheStore)
}

var brokenCaches = []brokenCacheCase{
	{"nothing is wrong", "", func(*brokenCache, syncengine.CacheStore) {}},
	{"the last one wins", "the_higher_record_stays", func(b *brokenCache, in syncengine.CacheStore) {
		b.put = func(recs []rec) error {
			for i := range recs {
				_ = in.Remove(bg, []string{recs[i].ID})
				_ = in.Put(bg, recs[i:i+1])
			}
			return nil
		}
	}},
	{"Remove leaves tombstones", "Remove_drops_ids,_whatever_is_stored_there", func(b *brokenCache, in syncengine.CacheStore) {
		b.remove = func(ids []string) error {
			return in.Remove(bg, slices.DeleteFunc(slices.Clone(ids), func(id string) bool { r, _ := in.Get(bg, id); return r.Deleted }))
		}
	}},
	{"Scan lacks tombstones", "Scan_delivers_every_id", func(b *brokenCache, in syncengine.CacheStore) {
		b.scan = func(fn func([]string) error) error {
			return in.Scan(bg, func(ids []string) error {
				return fn(slices.DeleteFunc(slices.Clone(ids), func(id string) bool { r, _ := in.Get(bg, id); return r.Deleted }))
			})
		}
	}},
}

var brokenSharedCaches = []brokenCacheCase{
	{"nothing is wrong", "", func(*brokenCache, syncengine.CacheStore) {}},
	{"Get remembers absence", "CacheStore.Get of", func(b *brokenCache, in syncengine.CacheStore) {
		absent := map[string]bool{}
		b.get = func(id string) (rec, error) {
			r, err := in.Get(bg, id)
			if absent[id] = absent[id] || err != nil; absent[id] {
				return rec{}, syncengine.ErrNotFound
			}
			return r, nil
		}
	}},
	{"Put compares with what it put itself", "the_higher_record_stays", func(b *brokenCache, in syncengine.CacheStore) {
		var mu sync.Mutex
		mine := map[string]rec{}
		b.put = func(recs []rec) error {
			mu.Lock()
			defer mu.Unlock()
			for i := range recs {
				if old, ok := mine[recs[i].ID]; !ok || old.Compare(&recs[i]) <= 0 {
					mine[recs[i].ID] = recs[i]
					_ = in.Remove(bg, []string{recs[i].ID})
					_ = in.Put(bg, recs[i:i+1])
				}
			}
			return nil
		}
	}},
	{"Scan has its own ids alone", "CacheStore.Scan of another store", func(b *brokenCache, in syncengine.CacheStore) {
		var mu sync.Mutex
		var mine []string
		b.put = func(recs []rec) error {
			mu.Lock()
			defer mu.Unlock()
			for i := range recs {
				mine = append(mine, recs[i].ID)
			}
			return in.Put(bg, recs)
		}
		b.scan = func(fn func([]string) error) error { return fn(mine) }
	}},
}

// brokenStores are by the name of their suite.
var brokenStores = map[string]func(t *testing.T, name string){
	"archive": func(t *testing.T, name string) {
		c := named(brokenArchives, func(c brokenArchive) bool { return c.name == name })
		TestArchiveStore(t, func(*testing.T) syncengine.ArchiveStore { return breakArchive(storetest.NewArchive(), c) })
	},
	"shared archive": func(t *testing.T, name string) {
		c := named(brokenSharedArchives, func(c brokenArchive) bool { return c.name == name })
		TestSharedArchiveStore(t, func(*testing.T) func() syncengine.ArchiveStore {
			first := storetest.NewArchive()
			return func() syncengine.ArchiveStore {
				s := storetest.Another(first)
				firsts[s.(whole)] = first.(whole)
				return breakArchive(s, c)
			}
		})
	},
	"cache": func(t *testing.T, name string) {
		c := named(brokenCaches, func(c brokenCacheCase) bool { return c.name == name })
		TestCacheStore(t, func(*testing.T) syncengine.CacheStore { return breakCache(storetest.NewCache(), c) })
	},
	"shared cache": func(t *testing.T, name string) {
		c := named(brokenSharedCaches, func(c brokenCacheCase) bool { return c.name == name })
		TestSharedCacheStore(t, func(*testing.T) func() syncengine.CacheStore {
			s := storetest.NewCache()
			return func() syncengine.CacheStore { return breakCache(s, c) }
		})
	},
}

func named[C any](cases []C, is func(C) bool) C { return cases[slices.IndexFunc(cases, is)] }

func breakArchive(s syncengine.ArchiveStore, c brokenArchive) syncengine.ArchiveStore {
	b := &broken{whole: s.(whole)}
	c.breaks(b, b.whole)
	return b
}

func breakCache(s syncengine.CacheStore, c brokenCacheCase) syncengine.CacheStore {
	b := &brokenCache{CacheStore: s}
	c.breaks(b, s)
	return b
}

const brokenEnv = "SYNCENGINETEST_BROKEN"

// TestABrokenStore is the process that TestTheSuitesNameTheRuleThatIsBroken starts; by itself it is
// nothing.
func TestABrokenStore(t *testing.T) {
	suite, name, ok := strings.Cut(os.Getenv(brokenEnv), "/")
	if !ok {
		return
	}
	brokenStores[suite](t, name)
}

func TestTheSuitesNameTheRuleThatIsBroken(t *testing.T) {
	for _, c := range brokenArchives {
		runBroken(t, "archive", c.name, c.says, "")
	}
	for _, c := range brokenSharedArchives {
		runBroken(t, "shared archive", c.name, c.says, "")
	}
	for _, c := range brokenCaches {
		runBroken(t, "cache", c.name, c.says, "")
	}
	for _, c := range brokenSharedCaches {
		runBroken(t, "shared cache", c.name, c.says, "")
	}
}

// runBroken runs a suite, or the parts of it that match, and asserts that it fails and says so; or,
// if it is to say nothing, that it passes.
func runBroken(t *testing.T, suite, name, says, parts string) {
	t.Run(suite+"/"+name, func(t *testing.T) {
		child := exec.Command(os.Args[0], "-test.run=^TestABrokenStore$/"+parts, "-test.timeout=2m")
		child.Env = append(os.Environ(), brokenEnv+"="+suite+"/"+name)
		out, err := child.CombinedOutput()
		exit, failed := errors.AsType[*exec.ExitError](err)
		switch {
		case err != nil && !failed:
			t.Fatal(err)
		case failed != (says != ""):
			t.Errorf("the suite has failed: %v\n%s", failed, out)
		case failed && (exit.ExitCode() != 1 || !strings.Contains(string(out), says) || strings.Contains(string(out), "panic:")):
			t.Errorf("the suite does not say %q: %v\n%s", says, err, out)
		}
	})
}
