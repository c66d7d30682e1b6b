package postgres

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/faultproxy"
	"github.com/syncengine-go/syncengine/syncenginetest"
)

func TestStoreKeepsTheInterface(t *testing.T) {
	newSchema(t, server.addr) // skips
	syncenginetest.TestArchiveStore(t, func(t *testing.T) syncengine.ArchiveStore {
		return openAt(t, newSchema(t, server.addr))
	})
}

func TestStoresOnOneDatabaseKeepTheInterface(t *testing.T) {
	newSchema(t, server.addr) // skips
	syncenginetest.TestSharedArchiveStore(t, func(t *testing.T) func() syncengine.ArchiveStore {
		url := newSchema(t, server.addr)
		return func() syncengine.ArchiveStore { return openAt(t, url) }
	})
}

func put(id string, version uint64, content string) syncengine.Record {
	return syncengine.Record{Item: syncengine.Item{ID: id, Version: version, UpdatedAt: time.Unix(1_700_000_000, 0).UTC(),
		Content: json.RawMessage(content), ContentHash: sha256.Sum256([]byte(content))}}
}

func prepare(t *testing.T, s *Store) {
	t.Helper()
	if err := s.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// An absent row can't be locked, and yet only one of many may insert it.
func TestOnlyOneStoreInsertsAnID(t *testing.T) {
	url := newSchema(t, server.addr)
	const stores, ids = 4, 50
	var mu sync.Mutex
	won := make(map[string]int)
	var wg sync.WaitGroup
	for n := range stores {
		s := openAt(t, url)
		prepare(t, s)
		wg.Go(func() {
			for i := range ids {
				id := fmt.Sprint(i)
				v, err := s.ApplyIf(t.Context(), uint64(i+1), [][]syncengine.Conditional{{{Record: put(id, uint64(10+n), fmt.Sprint(n))}}})
				if err != nil {
					t.Errorf("store %d, id %s: %v", n, id, err)
				} else if v[0].Decision == syncengine.DecidedApplied {
					mu.Lock()
					won[id]++
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	for i := range ids {
		if n := won[fmt.Sprint(i)]; n != 1 {
			t.Errorf("id %d was inserted by %d stores", i, n)
		}
	}
	page, err := openAt(t, url).Scan(t.Context(), "", 1000)
	if err != nil || len(page) != ids {
		t.Errorf("%d rows, %v", len(page), err)
	}
}

// Conditions on rows that exist, of many stores at once: no increment is lost.
func TestStoresCountExactly(t *testing.T) {
	url := newSchema(t, server.addr)
	const stores, each = 4, 30
	var wg sync.WaitGroup
	for n := range stores {
		s := openAt(t, url)
		prepare(t, s)
		wg.Go(func() {
			nonce := uint64(0)
			for done := 0; done < each; {
				var version uint64
				var count int
				rec, err := s.Get(t.Context(), "n")
				if err == nil {
					version, err = rec.Version, json.Unmarshal(rec.Content, &count)
				}
				if err != nil && !errors.Is(err, syncengine.ErrNotFound) {
					t.Errorf("store %d: %v", n, err)
					return
				}
				nonce++
				next := syncengine.Conditional{Record: put("n", version+1, fmt.Sprint(count+1)), IfVersion: version}
				v, err := s.ApplyIf(t.Context(), nonce, [][]syncengine.Conditional{{next}})
				if err != nil {
					t.Errorf("store %d: %v", n, err)
					return
				}
				if v[0].Decision == syncengine.DecidedApplied {
					done++
				}
			}
		})
	}
	wg.Wait()
	if rec, err := openAt(t, url).Get(t.Context(), "n"); err != nil || string(rec.Content) != fmt.Sprint(stores*each) {
		t.Errorf("counted %s, %v, want %d", rec.Content, err, stores*each)
	}
}

// Apply returns the rows that are above, not those that are equal, and Heads those that exist.
func TestApplyReturnsTheRowsThatStay(t *testing.T) {
	s := openAt(t, newSchema(t, server.addr))
	prepare(t, s)
	high := put("high", 9, `1`)
	gone := syncengine.Record{Deleted: true, Item: syncengine.Item{ID: "gone", Version: 5, UpdatedAt: high.UpdatedAt}}
	if above, err := s.Apply(t.Context(), []syncengine.Record{high, gone, put("same", 5, `1`), put("low", 1, `1`)}); err != nil || len(above) != 0 {
		t.Fatalf("into an empty store: %v, %v", above, err)
	}
	above, err := s.Apply(t.Context(), []syncengine.Record{put("same", 5, `1`), put("new", 1, `1`), put("low", 2, `1`), put("high", 8, `1`), put("gone", 5, `1`)})
	sort := func(m []syncengine.Meta) {
		slices.SortFunc(m, func(a, b syncengine.Meta) int { return cmp.Compare(a.ID, b.ID) })
	}
	want := []syncengine.Meta{{ID: "gone", Version: 5, Deleted: true}, {ID: "high", Version: 9, ContentHash: high.ContentHash}}
	if sort(above); err != nil || !slices.Equal(above, want) {
		t.Errorf("above: %v, %v, want %v", above, err, want)
	}
	heads, err := s.Heads(t.Context(), []string{"high", "absent", "gone", "high"})
	if sort(heads); err != nil || !slices.Equal(heads, want) {
		t.Errorf("heads: %v, %v, want %v", heads, err, want)
	}
}

func TestEveryCallEndsWithItsContextWhenTheServerHangs(t *testing.T) {
	newSchema(t, server.addr) // skips
	wire := faultproxy.New(t, server.addr)
	s := openAt(t, newSchema(t, wire.Addr()))
	prepare(t, s)
	calls := map[string]func(context.Context) error{
		"Prepare": s.Prepare,
		"Ping":    s.Ping,
		"Get":     func(ctx context.Context) error { _, err := s.Get(ctx, "a"); return err },
		"Apply": func(ctx context.Context) error {
			_, err := s.Apply(ctx, []syncengine.Record{put("a", 1, `1`)})
			return err
		},
		"Landed": func(ctx context.Context) error { _, err := s.Landed(ctx, 1); return err },
	}
	for name, call := range calls {
		wire.Hold()
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		begin := time.Now()
		err := call(ctx)
		if took := time.Since(begin); took > 3*time.Second {
			t.Errorf("%s took %v", name, took)
		}
		if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, syncengine.ErrUnavailable) {
			t.Errorf("%s: %v, want an outage past its deadline", name, err)
		}
		cancel()
		wire.Release()
	}
}

func TestALostReplyToCommitIsUnknownUntilLandedTells(t *testing.T) {
	newSchema(t, server.addr) // skips
	wire := faultproxy.New(t, server.addr)
	s := openAt(t, newSchema(t, wire.Addr()))
	prepare(t, s)
	units := [][]syncengine.Conditional{{{Record: put("a", 1, `1`)}}}
	wire.SwallowReplyTo("commit\x00") // BEGIN says "read committed"
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	v, err := s.ApplyIf(ctx, 1, units)
	if !errors.Is(err, syncengine.ErrUnknownOutcome) || len(v) != 1 || v[0].Decision != syncengine.DecidedApplied {
		t.Fatalf("ApplyIf: %v, %v", v, err)
	}
	wire.CutConnections()
	wire.SwallowReplyTo("")
	if landed, err := s.Landed(t.Context(), 1); !landed || err != nil {
		t.Errorf("Landed: %v, %v", landed, err)
	}
}

func TestDamageAndRefusalsHaveTheirErrors(t *testing.T) {
	s := openAt(t, newSchema(t, server.addr))
	prepare(t, s)
	if _, err := s.Apply(t.Context(), []syncengine.Record{put("a", 1, `1`), put("b", 1, `1`)}); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"UPDATE sync_items SET content = '2' WHERE id = 'a'", "ALTER TABLE sync_items ADD CHECK (id <> 'no')"} {
		if _, err := s.db.ExecContext(t.Context(), text); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Get(t.Context(), "a"); !errors.Is(err, syncengine.ErrCorruption) {
		t.Errorf("a damaged row: %v", err)
	}
	if found, err := s.GetMany(t.Context(), []string{"a", "b"}); err != nil || found[0].Err == nil || !found[1].OK {
		t.Errorf("beside a damaged row: %+v, %v", found, err)
	}
	if _, err := s.Apply(t.Context(), []syncengine.Record{put("c", 1, `1`), put("no", 1, `1`)}); !errors.Is(err, syncengine.ErrRefused) {
		t.Errorf("a row that breaks a constraint: %v", err)
	}
	if _, err := s.Get(t.Context(), "c"); !errors.Is(err, syncengine.ErrNotFound) {
		t.Errorf("beside a refused row: %v", err)
	}
}

func TestPrepareTellsOutagesFromMistakes(t *testing.T) {
	newSchema(t, server.addr) // skips
	mistake := openAt(t, strings.Replace(at(server.addr), "/postgres?", "/nowhere?", 1)).Prepare(t.Context())
	if mistake == nil || errors.Is(mistake, syncengine.ErrUnavailable) {
		t.Errorf("a database that does not exist: %v, want no outage", mistake)
	}
	wire := faultproxy.New(t, server.addr)
	s := openAt(t, newSchema(t, wire.Addr()))
	wire.Cut()
	if err := s.Prepare(t.Context()); !errors.Is(err, syncengine.ErrUnavailable) {
		t.Errorf("no server: %v, want an outage", err)
	}
	wire.Restore()
	prepare(t, s)
}

func TestEnginesShareAPostgres(t *testing.T) {
	newSchema(t, server.addr) // skips
	wire := faultproxy.New(t, server.addr)
	url := newSchema(t, wire.Addr())
	on := func(cfg *syncengine.Config) { cfg.L3 = openAt(t, url) }
	one, two := syncenginetest.New(t, on), syncenginetest.New(t, on)
	ctx := t.Context()
	if err := one.Insert(ctx, syncengine.Item{ID: "a", Content: json.RawMessage(`1`)}); err != nil {
		t.Fatal(err)
	}
	if err := two.Insert(ctx, syncengine.Item{ID: "a", Content: json.RawMessage(`2`)}); !errors.Is(err, syncengine.ErrExists) {
		t.Errorf("a second insert: %v", err)
	}
	wire.Cut()
	if err := one.Submit(ctx, syncengine.Item{ID: "b", Content: json.RawMessage(`3`)}); err != nil {
		t.Fatalf("submit while Postgres is away: %v", err)
	}
	wire.Restore()
	syncenginetest.Settle(t, one)
	if it, err := two.Get(ctx, "b"); err != nil || string(it.Content) != `3` {
		t.Errorf("the other engine reads %s, %v", it.Content, err)
	}
}
