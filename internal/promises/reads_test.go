package promises

// reads_test.go proves what a read may count on whatever the load: memory answers at every
// level, and a load below it carries its caller's values and no caller's end.

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/sqlkit"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

// overfull returns an engine at LevelShutdown that holds "id-0" and up, the deleted id "gone",
// and below memory, in L3 alone, "old". Its filter is trusted.
func overfull(t *testing.T) *syncengine.Engine {
	t.Helper()
	ctx := lab.Bounded(t)
	cfg := syncengine.Config{Dir: t.TempDir(), WALMaxItems: 1000, L3Timeout: time.Minute,
		BackpressureWarn: .1, BackpressureThrottle: .15, BackpressureCritical: .28, BackpressureEmergency: .29, BackpressureShutdown: .3}
	e := lab.Open(t, cfg)
	lab.Put(t, e, "old", 1)
	lab.Must(t, e.Close())
	e = lab.Open(t, cfg)
	lab.Trusted(t, e)
	// Another program holds SQLite's lock for writing, so that nothing leaves the WAL.
	db, err := sqlkit.OpenSQLite(filepath.Join(cfg.Dir, "archive.db"), "")
	lab.Must(t, err)
	t.Cleanup(func() { lab.Must(t, db.Close()) })
	conn, err := db.Conn(ctx)
	lab.Must(t, err)
	_, err = conn.ExecContext(ctx, "BEGIN IMMEDIATE")
	lab.Must(t, err)
	t.Cleanup(func() { // before the engine closes
		_, err := conn.ExecContext(context.Background(), "ROLLBACK")
		lab.Must(t, errors.Join(err, conn.Close()))
	})
	lab.Must(t, e.Delete(ctx, "gone"))
	items := make([]syncengine.Item, 301)
	for i := range items {
		id := fmt.Sprint("id-", i)
		items[i] = syncengine.Item{ID: id, Content: lab.Doc(id, i)}
	}
	_, err = e.SubmitMany(ctx, items)
	lab.Must(t, err)
	if l := e.Backpressure(); l != syncengine.LevelShutdown {
		t.Fatalf("level %v", l)
	}
	return e
}

func TestINV10WhatMemoryHoldsIsServedAtLevelShutdown(t *testing.T) {
	ctx := lab.Bounded(t)
	e := overfull(t)
	held := func(it syncengine.Item, err error) {
		t.Helper()
		if err != nil || string(it.Content) != string(lab.Doc("id-0", 0)) {
			t.Errorf("an item in memory: %.20q, %v", it.Content, err)
		}
	}
	held(e.Get(ctx, "id-0"))
	held(e.GetVerified(ctx, "id-0"))
	held(e.GetOrInsertWith(ctx, "id-0", func(context.Context) (syncengine.Item, error) {
		return syncengine.Item{}, errors.New("must not be called")
	}))
	many, err := e.GetMany(ctx, []string{"id-0", "gone", "absent", "id-0"})
	if err != nil || many[0] == nil || many[1] != nil || many[2] != nil || many[3] == nil {
		t.Errorf("GetMany of what memory knows: %v, %v", many, err)
	}
	for _, id := range []string{"gone", "absent"} { // a tombstone in memory, and what the filter denies
		_, err := e.Get(ctx, id)
		_, verified := e.GetVerified(ctx, id)
		if !errors.Is(err, syncengine.ErrNotFound) || !errors.Is(verified, syncengine.ErrNotFound) || e.Contains(id) {
			t.Errorf("%s: %v, %v, %v", id, err, verified, e.Contains(id))
		}
	}
	if !e.Contains("id-0") || !e.Contains("old") {
		t.Error("Contains denies what is there")
	}

	var be *syncengine.BackpressureError
	_, err = e.Get(ctx, "old")
	if !errors.As(err, &be) || be.Level != syncengine.LevelShutdown {
		t.Errorf("what memory does not hold: %v", err)
	}
	if _, err := e.GetVerified(ctx, "old"); !errors.Is(err, syncengine.ErrBackpressure) {
		t.Errorf("the same, verified: %v", err)
	}
	many, err = e.GetMany(ctx, []string{"id-0", "old", "id-1"})
	if !errors.Is(err, syncengine.ErrBackpressure) || len(many) != 3 || many[0] == nil || many[1] != nil || many[2] == nil {
		t.Errorf("GetMany of three, one of which memory does not hold: %v, %v", many, err)
	}
	if _, err := e.GetMany(ctx, []string{"old"}); !errors.Is(err, syncengine.ErrBackpressure) {
		t.Errorf("GetMany of what memory does not hold: %v", err)
	}
}

func TestAHitAtLevelShutdownAllocatesNothing(t *testing.T) {
	ctx := context.Background()
	e := overfull(t)
	if n := testing.AllocsPerRun(100, func() {
		if _, err := e.Get(ctx, "id-0"); err != nil {
			t.Error(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// A closed engine answers with ErrClosed, whatever its level was.
func TestAClosedEngineServesNothingFromMemory(t *testing.T) {
	e := lab.Open(t, syncengine.Config{})
	lab.Put(t, e, "a", 1)
	lab.Must(t, e.Close())
	_, err := e.Get(context.Background(), "a")
	_, verified := e.GetVerified(context.Background(), "a")
	_, many := e.GetMany(context.Background(), []string{"a"})
	for _, err := range []error{err, verified, many} {
		if !errors.Is(err, syncengine.ErrClosed) {
			t.Errorf("read after Close: %v", err)
		}
	}
}

// watchedArchive and watchedCache call look with the context of each Get.
type watchedArchive struct {
	syncengine.ArchiveStore
	look func(context.Context)
}

func (w *watchedArchive) Get(ctx context.Context, id string) (syncengine.Record, error) {
	w.look(ctx)
	return w.ArchiveStore.Get(ctx, id)
}

type watchedCache struct {
	syncengine.CacheStore
	look func(context.Context)
}

func (w *watchedCache) Get(ctx context.Context, id string) (syncengine.Record, error) {
	w.look(ctx)
	return w.CacheStore.Get(ctx, id)
}

// openWatched opens an engine on SQLite and Redis whose reads of "a", which is in SQLite alone,
// call look with the tier.
func openWatched(t *testing.T, cfg syncengine.Config, look func(tier string, ctx context.Context)) *syncengine.Engine {
	t.Helper()
	dir := t.TempDir()
	writer := lab.Open(t, syncengine.Config{Dir: dir})
	lab.Put(t, writer, "a", 1)
	lab.Must(t, writer.Close())
	archive, err := lab.OpenSQLStore("sqlite:" + filepath.Join(dir, "archive.db"))
	lab.Must(t, err)
	t.Cleanup(func() { lab.Must(t, archive.Close()) })
	client := lab.RedisAt(t, testserver.SharedRedis(t).URL())
	cfg.L3 = &watchedArchive{archive, func(ctx context.Context) { look("L3", ctx) }}
	cfg.L2 = &watchedCache{lab.NewRedisStore(client, lab.NewPrefix(), time.Hour), func(ctx context.Context) { look("L2", ctx) }}
	return lab.Open(t, cfg)
}

type traceKey struct{}

func traced(trace string) (context.Context, context.CancelFunc) {
	return context.WithCancel(context.WithValue(context.Background(), traceKey{}, trace))
}

func TestALoadHasItsFirstCallersValuesAndNotItsEnd(t *testing.T) {
	entered, release := make(chan context.Context), make(chan struct{})
	e := openWatched(t, syncengine.Config{L2Timeout: time.Minute, L3Timeout: time.Minute}, func(tier string, ctx context.Context) {
		if tier == "L2" {
			entered <- ctx
			<-release
		}
	})
	first, leave := traced("first")
	left := make(chan error, 1)
	go func() {
		_, err := e.Get(first, "a")
		left <- err
	}()
	load := <-entered
	leave()
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Errorf("the caller that left: %v", err)
	}
	if v := load.Value(traceKey{}); v != "first" {
		t.Errorf("the load has the value %v, want its first caller's", v)
	}
	if err := load.Err(); err != nil {
		t.Errorf("the load ended with its first caller: %v", err)
	}
	second, cancel := traced("second")
	defer cancel()
	stayed := make(chan error, 1)
	go func() {
		it, err := e.Get(second, "a")
		if err == nil && string(it.Content) != string(lab.Doc("a", 1)) {
			err = fmt.Errorf("content %q", it.Content)
		}
		stayed <- err
	}()
	release <- struct{}{} // the load under way, which the second caller joins if it is here already
	select {
	case <-entered: // it was not: it has a load of its own
		release <- struct{}{}
		lab.Must(t, <-stayed)
	case err := <-stayed:
		lab.Must(t, err)
	}
}

func TestEveryReadCarriesValuesToBothServers(t *testing.T) {
	for name, read := range map[string]func(context.Context, *syncengine.Engine) error{
		"Get":         func(ctx context.Context, e *syncengine.Engine) error { _, err := e.Get(ctx, "a"); return err },
		"GetVerified": func(ctx context.Context, e *syncengine.Engine) error { _, err := e.GetVerified(ctx, "a"); return err },
		"GetOrInsertWith": func(ctx context.Context, e *syncengine.Engine) error {
			_, err := e.GetOrInsertWith(ctx, "a", func(context.Context) (syncengine.Item, error) {
				return syncengine.Item{}, errors.New("exists")
			})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			seen := make(map[string]any)
			e := openWatched(t, syncengine.Config{}, func(tier string, ctx context.Context) { seen[tier] = ctx.Value(traceKey{}) })
			ctx, cancel := traced("mine")
			defer cancel()
			lab.Must(t, read(ctx, e))
			if seen["L2"] != "mine" || seen["L3"] != "mine" {
				t.Errorf("values: %v", seen)
			}
		})
	}
}

func TestALoadEndsWithTheEngine(t *testing.T) {
	entered := make(chan struct{}, 1)
	e := openWatched(t, syncengine.Config{L3Timeout: time.Hour, CloseTimeout: 50 * time.Millisecond}, func(tier string, ctx context.Context) {
		if tier == "L3" {
			entered <- struct{}{}
			<-ctx.Done()
		}
	})
	done := make(chan error, 1)
	go func() {
		ctx, cancel := traced("mine")
		defer cancel()
		_, err := e.Get(ctx, "a")
		done <- err
	}()
	<-entered
	_ = e.Close() // hangs if the load's context does not end
	if err := <-done; err == nil {
		t.Error("a load that was cut off has an answer")
	}
}

// An event function may wait for what opened the engine.
func TestAFailedOpenIsBoundedWhileAnEventFunctionWaitsForIt(t *testing.T) {
	dir := t.TempDir()
	lab.Open(t, syncengine.Config{Dir: dir}) // holds the lock
	for name, limit := range map[string]struct{ ctx, close time.Duration }{
		"by its context":  {50 * time.Millisecond, time.Hour},
		"by CloseTimeout": {0, 50 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := context.Background()
			if limit.ctx > 0 {
				c, cancel := context.WithTimeout(ctx, limit.ctx)
				defer cancel()
				ctx = c
			}
			returned, told := make(chan struct{}), make(chan struct{}, 10)
			cfg := syncengine.Config{Dir: dir, CloseTimeout: limit.close}
			cfg.OnEvent.StateChanged = func(syncengine.State, syncengine.State) {
				<-returned
				told <- struct{}{}
			}
			if _, err := syncengine.Open(ctx, cfg); !errors.Is(err, syncengine.ErrLocked) {
				t.Errorf("Open: %v, want ErrLocked", err)
			}
			close(returned)
			<-told // the function is left behind, not lost
		})
	}
}
