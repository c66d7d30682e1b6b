package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/storetest"
)

// AwayArchive is an L3 that connects and then takes no writes.
func AwayArchive() syncengine.ArchiveStore {
	return &refusingArchive{ArchiveStore: storetest.NewArchive()}
}

type refusingArchive struct{ syncengine.ArchiveStore }

func (*refusingArchive) Apply(context.Context, []syncengine.Record) ([]syncengine.Meta, error) {
	return nil, syncengine.ErrUnavailable
}

// SlowArchive holds Apply until Release is closed or its context ends.
type SlowArchive struct {
	syncengine.ArchiveStore
	Entered, Release chan struct{}
	now, Most        atomic.Int32
	mu               sync.Mutex // guards most
}

func (s *SlowArchive) Apply(ctx context.Context, recs []syncengine.Record) ([]syncengine.Meta, error) {
	n := s.now.Add(1)
	defer s.now.Add(-1)
	s.mu.Lock()
	s.Most.Store(max(s.Most.Load(), n))
	s.mu.Unlock()
	select {
	case s.Entered <- struct{}{}:
	default: // enough is known
	}
	select {
	case <-s.Release:
		return s.ArchiveStore.Apply(ctx, recs)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// FaultyArchive is an L3 that can be told to be away.
type FaultyArchive struct {
	syncengine.ArchiveStore
	Away atomic.Bool
}

func (f *FaultyArchive) err() error {
	if f.Away.Load() {
		return fmt.Errorf("told to be away: %w", syncengine.ErrUnavailable)
	}
	return nil
}

func (f *FaultyArchive) Prepare(ctx context.Context) error {
	return errors.Join(f.err(), f.ArchiveStore.Prepare(ctx))
}

func (f *FaultyArchive) Expired(ctx context.Context, at time.Time, limit int) ([]syncengine.Meta, error) {
	if err := f.err(); err != nil {
		return nil, err
	}
	return f.ArchiveStore.(syncengine.ExpiringStore).Expired(ctx, at, limit)
}

func (f *FaultyArchive) Apply(ctx context.Context, recs []syncengine.Record) ([]syncengine.Meta, error) {
	if err := f.err(); err != nil {
		return nil, err
	}
	return f.ArchiveStore.Apply(ctx, recs)
}

func (f *FaultyArchive) ApplyIf(ctx context.Context, nonce uint64, units [][]syncengine.Conditional) ([]syncengine.Verdict, error) {
	if err := f.err(); err != nil {
		return nil, err
	}
	return f.ArchiveStore.(syncengine.ConditionalStore).ApplyIf(ctx, nonce, units)
}

func (f *FaultyArchive) Landed(ctx context.Context, nonce uint64) (bool, error) {
	if err := f.err(); err != nil {
		return false, err
	}
	return f.ArchiveStore.(syncengine.ConditionalStore).Landed(ctx, nonce)
}

// HookedArchive is an L3 that asks the test before a call. A hook may block, or fail the call.
type HookedArchive struct {
	syncengine.ArchiveStore
	OnPrepare func(ctx context.Context) error
	OnApply   func(ctx context.Context, recs []syncengine.Record) error
	OnHeads   func() error
	OnGet     func() error // of Get, GetMany and List
}

func (h *HookedArchive) Prepare(ctx context.Context) error {
	if h.OnPrepare != nil {
		if err := h.OnPrepare(ctx); err != nil {
			return err
		}
	}
	return h.ArchiveStore.Prepare(ctx)
}

func (h *HookedArchive) Apply(ctx context.Context, recs []syncengine.Record) ([]syncengine.Meta, error) {
	if h.OnApply != nil {
		if err := h.OnApply(ctx, recs); err != nil {
			return nil, err
		}
	}
	return h.ArchiveStore.Apply(ctx, recs)
}

func (h *HookedArchive) ApplyIf(ctx context.Context, nonce uint64, units [][]syncengine.Conditional) ([]syncengine.Verdict, error) {
	if h.OnApply != nil {
		for _, unit := range units {
			for i := range unit {
				if err := h.OnApply(ctx, []syncengine.Record{unit[i].Record}); err != nil {
					return nil, err
				}
			}
		}
	}
	return h.ArchiveStore.(syncengine.ConditionalStore).ApplyIf(ctx, nonce, units)
}

func (h *HookedArchive) Landed(ctx context.Context, nonce uint64) (bool, error) {
	return h.ArchiveStore.(syncengine.ConditionalStore).Landed(ctx, nonce)
}

func (h *HookedArchive) Heads(ctx context.Context, ids []string) ([]syncengine.Meta, error) {
	if h.OnHeads != nil {
		if err := h.OnHeads(); err != nil {
			return nil, err
		}
	}
	return h.ArchiveStore.Heads(ctx, ids)
}

// Get returns content of its own, as a server's client does.
func (h *HookedArchive) Get(ctx context.Context, id string) (syncengine.Record, error) {
	if h.OnGet != nil {
		if err := h.OnGet(); err != nil {
			return syncengine.Record{}, err
		}
	}
	rec, err := h.ArchiveStore.Get(ctx, id)
	rec.Content = bytes.Clone(rec.Content)
	return rec, err
}

func (h *HookedArchive) GetMany(ctx context.Context, ids []string) ([]syncengine.Found, error) {
	if h.OnGet != nil {
		if err := h.OnGet(); err != nil {
			return nil, err
		}
	}
	return h.ArchiveStore.GetMany(ctx, ids)
}

func (h *HookedArchive) List(ctx context.Context, prefix, after string, limit int, maxBytes int64) ([]syncengine.Found, bool, error) {
	if h.OnGet != nil {
		if err := h.OnGet(); err != nil {
			return nil, false, err
		}
	}
	return h.ArchiveStore.(syncengine.ListingStore).List(ctx, prefix, after, limit, maxBytes)
}

// HookedCache is the same for L2.
type HookedCache struct {
	syncengine.CacheStore
	OnGet    func(id string) error
	OnPut    func(ctx context.Context, recs []syncengine.Record) error
	OnRemove func()
}

func (h *HookedCache) Get(ctx context.Context, id string) (syncengine.Record, error) {
	if h.OnGet != nil {
		if err := h.OnGet(id); err != nil {
			return syncengine.Record{}, err
		}
	}
	return h.CacheStore.Get(ctx, id)
}

func (h *HookedCache) Put(ctx context.Context, recs []syncengine.Record) error {
	if h.OnPut != nil {
		if err := h.OnPut(ctx, recs); err != nil {
			return err
		}
	}
	return h.CacheStore.Put(ctx, recs)
}

func (h *HookedCache) Remove(ctx context.Context, ids []string) error {
	if h.OnRemove != nil {
		h.OnRemove()
	}
	return h.CacheStore.Remove(ctx, ids)
}

// ErrAway is what a store says that is away.
var ErrAway = fmt.Errorf("told to be away: %w", syncengine.ErrUnavailable)

// Poison is a content that some L3 refuse.
var Poison = []byte(`{"poison":true}`)

// RefusePoison is an OnApply of an L3 that refuses Poison for its own sake.
func RefusePoison(_ context.Context, recs []syncengine.Record) error {
	for i := range recs {
		if bytes.Equal(recs[i].Content, Poison) {
			return &syncengine.RefusedError{Err: errors.New("poison")}
		}
	}
	return nil
}

// Choosy is an L3 that refuses Poison and the ids it is told to, and can be away.
type Choosy struct {
	*HookedArchive
	Away, Tolerant atomic.Bool

	Stuck   chan struct{} // gets one when the op of that id comes
	Gate    chan struct{}
	Release func() // lets it go on; tests defer it, since Close waits for hooks
}

// Stick submits an op that stays in flight, and keeps all that is logged later in the WAL.
func (c *Choosy) Stick(t testing.TB, e *syncengine.Engine) {
	t.Helper()
	Put(t, e, "stuck", 1)
	<-c.Stuck
}

// NewChoosy is a Choosy on SQLite.
func NewChoosy(t testing.TB) *Choosy {
	t.Helper()
	store, err := OpenSQLStore("sqlite:" + filepath.Join(t.TempDir(), "archive.db"))
	Must(t, err)
	t.Cleanup(func() { _ = store.Close() })
	c := &Choosy{Stuck: make(chan struct{}, 1)}
	c.Gate, c.Release = Hold()
	there := func() error {
		if c.Away.Load() {
			return ErrAway
		}
		return nil
	}
	c.HookedArchive = &HookedArchive{
		ArchiveStore: store, OnHeads: there, OnGet: there,
		OnPrepare: func(context.Context) error { return there() },
		OnApply: func(ctx context.Context, recs []syncengine.Record) error {
			if err := there(); err != nil || c.Tolerant.Load() {
				return err
			}
			for i := range recs {
				switch recs[i].ID {
				case "refused":
					return &syncengine.RefusedError{Err: errors.New("not this id")}
				case "stuck":
					select {
					case c.Stuck <- struct{}{}:
					default:
					}
					<-c.Gate
				}
			}
			return RefusePoison(ctx, recs)
		},
	}
	return c
}
