package syncengine_test

// quarantine_test.go is about ops that L3 refuses: what becomes of them when something later
// lands, when they are retried or discarded, by several callers, and over crashes. L3 is a real
// SQLite file or a MariaDB; what it refuses it refuses by a constraint, or by a hook where the
// moment matters.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/faultproxy"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

// choosy is an L3 that refuses poison and the ids it is told to, and can be away.
type choosy struct {
	*hookedArchive
	away, tolerant atomic.Bool

	stuck   chan struct{} // gets one when the op of that id comes
	gate    chan struct{}
	release func() // lets it go on; tests defer it, since Close waits for hooks
}

func newChoosy(t testing.TB) *choosy {
	t.Helper()
	store, err := syncengine.OpenSQLStore("sqlite:" + filepath.Join(t.TempDir(), "archive.db"))
	must(t, err)
	t.Cleanup(func() { _ = store.Close() })
	c := &choosy{stuck: make(chan struct{}, 1)}
	c.gate, c.release = hold()
	there := func() error {
		if c.away.Load() {
			return errAway
		}
		return nil
	}
	c.hookedArchive = &hookedArchive{
		ArchiveStore: store, heads: there, get: there,
		prepare: func(context.Context) error { return there() },
		apply: func(ctx context.Context, recs []syncengine.Record) error {
			if err := there(); err != nil || c.tolerant.Load() {
				return err
			}
			for i := range recs {
				switch recs[i].ID {
				case "refused":
					return &syncengine.RefusedError{Err: errors.New("not this id")}
				case "stuck":
					select {
					case c.stuck <- struct{}{}:
					default:
					}
					<-c.gate
				}
			}
			return refusePoison(ctx, recs)
		},
	}
	return c
}

// stick submits an op that stays in flight, and keeps all that is logged later in the WAL.
func (c *choosy) stick(t testing.TB, e *syncengine.Engine) {
	t.Helper()
	put(t, e, "stuck", 1)
	<-c.stuck
}

// poisonous submits poison and has it refused.
func poisonous(t testing.TB, e *syncengine.Engine, ids ...string) {
	t.Helper()
	for _, id := range ids {
		must(t, e.Submit(context.Background(), syncengine.Item{ID: id, Content: poison}))
	}
	if err := e.Flush(context.Background()); !errors.Is(err, syncengine.ErrRefused) {
		t.Fatalf("Flush: %v, want ErrRefused", err)
	}
}

func wantPoison(t testing.TB, e *syncengine.Engine, id string) {
	t.Helper()
	if it, err := e.Get(context.Background(), id); err != nil || !bytes.Equal(it.Content, poison) {
		t.Fatalf("%s: %.40s, %v; want poison", id, it.Content, err)
	}
}

// wantQuarantined checks what is listed and counted; the ids of superseded ops end with "-".
func wantQuarantined(t testing.TB, e *syncengine.Engine, want ...string) (ops []syncengine.QuarantinedOp) {
	t.Helper()
	ops, err := e.Quarantined(context.Background())
	must(t, err)
	var got []string
	for _, op := range ops {
		if op.Superseded {
			op.ID += "-"
		}
		got = append(got, op.ID)
	}
	if fmt.Sprint(got) != fmt.Sprint(want) || e.Stats().Quarantined != len(want) {
		t.Fatalf("in quarantine: %v, counted %d; want %v", got, e.Stats().Quarantined, want)
	}
	return ops
}

// crashed copies the directory of an engine at rest: what a process leaves that is killed now.
func crashed(t testing.TB, dir string) (left string) {
	t.Helper()
	left = t.TempDir()
	files, err := filepath.Glob(filepath.Join(dir, "wal.db*"))
	must(t, err)
	for _, f := range files {
		b, err := os.ReadFile(f)
		must(t, err)
		must(t, os.WriteFile(filepath.Join(left, filepath.Base(f)), b, 0o600))
	}
	return left
}

// L3 refused a put, and then took a later put or delete of the id. The refused document answered
// reads again after a restart with SQL down, and with SQL up once the tombstone was purged.
func TestINV04AQuarantinedOpAnswersNoReadOnceALaterOpLanded(t *testing.T) {
	for name, later := range map[string]func(e *syncengine.Engine){
		"a put":    func(e *syncengine.Engine) { put(t, e, "x", 2) },
		"a delete": func(e *syncengine.Engine) { must(t, e.Delete(context.Background(), "x")) },
	} {
		t.Run(name, func(t *testing.T) {
			ctx := context.Background()
			n := 2
			if name == "a delete" {
				n = -1
			}
			dbURL := testserver.SharedMariaDB(t).NewDatabase(t)
			open(t, syncengine.Config{SQLURL: dbURL}) // makes the table
			outside := testserver.OpenSQL(t, dbURL)
			exec := func(query string) {
				t.Helper()
				_, err := outside.Exec(query)
				must(t, err)
			}
			exec("ALTER TABLE sync_items ADD CONSTRAINT no_poison CHECK (content IS NULL OR content NOT LIKE '%poison%')")
			u, err := url.Parse(dbURL)
			must(t, err)
			proxy := faultproxy.New(t, u.Host)
			cfg := syncengine.Config{
				Dir: t.TempDir(), SQLURL: via(t, dbURL, proxy),
				RedisURL: testserver.SharedRedis(t).URL(), KeyPrefix: newPrefix(),
			}
			e := open(t, cfg)
			poisonous(t, e, "x")
			later(e)
			wantContent(t, e, "x", n)
			must(t, e.Flush(ctx))
			look := func() {
				t.Helper()
				wantContent(t, e, "x", n)
				wantQuarantined(t, e, "x-")
				if st, err := e.Status(ctx, "x"); st.Quarantined {
					t.Errorf("Status: %+v, %v", st, err)
				}
			}
			look()
			must(t, e.Close())
			proxy.Cut()
			e = open(t, cfg)
			look()
			_ = e.Close() // L3 is away
			proxy.Restore()
			if n < 0 {
				exec("DELETE FROM sync_items") // as the purge does
			}
			cfg.RedisURL = ""
			e = open(t, cfg)
			look()
			if got, err := e.DiscardQuarantined(ctx, "x"); got != 1 || err != nil {
				t.Errorf("DiscardQuarantined: %d, %v", got, err)
			}
			wantQuarantined(t, e)
			wantContent(t, e, "x", n)
		})
	}
}

// A superseded op was put back into the queue by a retry when L3's row was gone.
func TestINV04ARetryForgetsWhatIsSuperseded(t *testing.T) {
	ctx := context.Background()
	l3 := newChoosy(t)
	cfg := syncengine.Config{Dir: t.TempDir(), L3: l3, BatchFlushInterval: time.Hour}
	e := open(t, cfg)
	poisonous(t, e, "x")
	must(t, e.Delete(ctx, "x"))
	must(t, e.Flush(ctx))
	if n, err := l3.PurgeTombstones(ctx, time.Now().Add(time.Hour), 10); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	must(t, e.Close())
	e = open(t, cfg)
	l3.tolerant.Store(true)
	if n, err := e.RetryQuarantined(ctx); n != 1 || err != nil {
		t.Fatalf("RetryQuarantined: %d, %v", n, err)
	}
	wantQuarantined(t, e)
	must(t, e.Flush(ctx))
	wantContent(t, e, "x", -1)
}

// A later op of one id of a group leaves the others of the group readable.
func TestINV02AGroupIsSupersededIDByID(t *testing.T) {
	ctx := context.Background()
	l3 := newChoosy(t)
	cfg := syncengine.Config{Dir: t.TempDir(), L3: l3}
	e := open(t, cfg)
	_, err := e.SubmitMany(ctx, []syncengine.Item{{ID: "x", Content: poison}, {ID: "y", Content: poison}})
	must(t, err)
	poisonous(t, e, "z")
	put(t, e, "x", 2)
	if err := e.Flush(ctx); !errors.Is(err, syncengine.ErrRefused) { // of y
		t.Errorf("Flush: %v", err)
	}
	wantQuarantined(t, e, "x-", "y", "z")
	must(t, e.Close())
	e = open(t, cfg)
	wantContent(t, e, "x", 2)
	wantPoison(t, e, "y")
	l3.tolerant.Store(true)
	if n, err := e.RetryQuarantined(ctx, "x"); n != 2 || err != nil {
		t.Fatalf("RetryQuarantined: %d, %v", n, err)
	}
	if err := e.Flush(ctx); !errors.Is(err, syncengine.ErrRefused) { // of z
		t.Errorf("Flush: %v", err)
	}
	wantContent(t, e, "x", 2)
	wantPoison(t, e, "y")
	wantQuarantined(t, e, "z")
}

// An op that was discarded and then submitted again, with the same version, was dropped from
// the WAL at the next Open, though it was acknowledged: submissions that had come to nothing had
// taken it off and put it back on the list.
func TestINV01ADiscardedOpThatIsSubmittedAgainIsNotDropped(t *testing.T) {
	ctx := context.Background()
	l3 := newChoosy(t)
	cfg := syncengine.Config{Dir: t.TempDir(), L3: l3}
	e := open(t, cfg)
	op := syncengine.Item{ID: "x", Version: 5, Content: poison}
	for range 2 { // the second discard is about the second op
		must(t, e.Submit(ctx, op))
		if err := e.Flush(ctx); !errors.Is(err, syncengine.ErrRefused) {
			t.Fatal(err)
		}
		if n, err := e.DiscardQuarantined(ctx, "x"); n != 1 || err != nil {
			t.Fatal(n, err)
		}
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	for range 3 {
		if err := e.Submit(ended, op); err == nil {
			t.Error("Submit with a context that has ended succeeds")
		}
	}
	l3.away.Store(true)
	must(t, e.Submit(ctx, op))
	if err := e.Close(); !errors.Is(err, syncengine.ErrPending) {
		t.Fatalf("Close: %v", err)
	}
	for range 2 {
		e = open(t, cfg)
		wantPoison(t, e, "x")
		_ = e.Close()
	}
	l3.away.Store(false)
	l3.tolerant.Store(true)
	e = open(t, cfg)
	must(t, e.Flush(ctx))
	if rec, err := l3.Get(ctx, "x"); err != nil || !bytes.Equal(rec.Content, poison) {
		t.Errorf("L3 holds %.40s, %v", rec.Content, err)
	}
}

// Segments of commits that failed were counted when the op was discarded, and their numbers were
// given out again to what came after a restart.
func TestINV01ADiscardDoesNotReachIntoSegmentsOfTheNextEngine(t *testing.T) {
	ctx := context.Background()
	l3 := newChoosy(t)
	defer l3.release()
	cfg := syncengine.Config{Dir: t.TempDir(), L3: l3, FlushConcurrency: 2}
	e := open(t, cfg)
	l3.stick(t, e)
	op := syncengine.Item{ID: "x", Version: 5, Content: poison}
	must(t, e.Submit(ctx, op))
	eventually(t, "the second is refused", func() bool { return e.Stats().Quarantined == 1 })
	repair := breakWAL(t, cfg.Dir)
	for n := range 10 {
		if err := e.Submit(ctx, syncengine.Item{ID: fmt.Sprint("lost-", n), Content: poison}); err == nil {
			t.Fatal("the WAL takes no ops")
		}
	}
	if n, err := e.DiscardQuarantined(ctx, "x"); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	repair()
	cfg.Dir = crashed(t, cfg.Dir)
	l3.release()
	_ = e.Close()
	l3.away.Store(true)
	e = open(t, cfg)
	if it, err := e.Get(ctx, "x"); err == nil { // it is in the WAL still
		t.Fatalf("the discarded op is back: %s", it.Content)
	}
	must(t, e.Submit(ctx, op))
	for range 2 {
		_ = e.Close()
		e = open(t, cfg)
		wantPoison(t, e, "x")
	}
}

// A discard that timed out after its first step had noted the op as one to be dropped, and left
// it in quarantine: a retry of it reported success, and the next Open dropped it.
func TestINV01ADiscardThatFailsChangesNothing(t *testing.T) {
	ctx := context.Background()
	ended, cancel := context.WithCancel(ctx)
	cancel()
	for name, c := range map[string]struct {
		ctx   context.Context
		fault string
	}{
		"its context has ended":       {ended, ""},
		"rows can't be removed":       {ctx, "DELETE ON quarantine"},
		"the list can't be stored":    {ctx, "INSERT ON meta WHEN NEW.key = 'discarded'"},
		"the ledger can't be written": {ctx, "INSERT ON meta WHEN NEW.key = 'side ledger'"},
	} {
		t.Run(name, func(t *testing.T) {
			l3 := newChoosy(t)
			cfg := syncengine.Config{Dir: t.TempDir(), L3: l3}
			e := open(t, cfg)
			poisonous(t, e, "x", "y")
			conn := walFile(t, cfg.Dir)
			if c.fault != "" {
				execSQL(t, conn, "CREATE TRIGGER broken BEFORE "+c.fault+" BEGIN SELECT RAISE(ABORT, 'broken by a test'); END")
			}
			if n, err := e.DiscardQuarantined(c.ctx, "x"); n != 0 || err == nil {
				t.Fatalf("DiscardQuarantined: %d, %v", n, err)
			}
			if c.fault != "" {
				execSQL(t, conn, "DROP TRIGGER broken")
			}
			wantQuarantined(t, e, "x", "y")
			wantPoison(t, e, "x")
			l3.away.Store(true)
			if n, err := e.RetryQuarantined(ctx, "x"); n != 0 || !errors.Is(err, syncengine.ErrUnavailable) {
				t.Fatalf("RetryQuarantined while L3 can't be asked: %d, %v", n, err)
			}
			l3.away.Store(false)
			l3.tolerant.Store(true)
			if n, err := e.RetryQuarantined(ctx, "x"); n != 1 || err != nil {
				t.Fatalf("RetryQuarantined: %d, %v", n, err)
			}
			cfg.Dir = crashed(t, cfg.Dir)
			_ = e.Close()
			e = open(t, cfg)
			wantPoison(t, e, "x")
			wantQuarantined(t, e, "y")
		})
	}
}

// What is discarded stays away, though the WAL holds it still.
func TestINV04WhatWasDiscardedDoesNotComeBackFromTheWAL(t *testing.T) {
	ctx := context.Background()
	l3 := newChoosy(t)
	defer l3.release()
	cfg := syncengine.Config{Dir: t.TempDir(), L3: l3, FlushConcurrency: 2}
	e := open(t, cfg)
	l3.stick(t, e)
	must(t, e.Submit(ctx, syncengine.Item{ID: "x", Content: poison}))
	eventually(t, "the second is refused", func() bool { return e.Stats().Quarantined == 1 })
	if n, err := e.DiscardQuarantined(ctx); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	put(t, e, "later", 1)
	crash := crashed(t, cfg.Dir)
	if n := walOps(t, crash); n < 2 {
		t.Fatalf("%d ops in the WAL: nothing is proven", n)
	}
	l3.release()
	_ = e.Close()
	cfg.Dir = crash
	l3.away.Store(true)
	l3.tolerant.Store(true)
	e = open(t, cfg)
	if it, err := e.Get(ctx, "x"); err == nil {
		t.Errorf("the discarded op is back: %s", it.Content)
	}
	wantContent(t, e, "later", 1)
	l3.away.Store(false)
	eventually(t, "all is flushed", func() bool { return e.Flush(ctx) == nil })
	if rec, err := l3.Get(ctx, "x"); !errors.Is(err, syncengine.ErrNotFound) {
		t.Errorf("L3 holds %+v, %v", rec, err)
	}
}

// Calls side by side handled the same row, counted it once each, and took the others with it.
func TestINV02CallsSideBySideHandleEachQuarantinedOpOnce(t *testing.T) {
	ctx := context.Background()
	for name, call := range map[string]func(e *syncengine.Engine, ids ...string) (int, error){
		"discard": func(e *syncengine.Engine, ids ...string) (int, error) { return e.DiscardQuarantined(ctx, ids...) },
		"retry":   func(e *syncengine.Engine, ids ...string) (int, error) { return e.RetryQuarantined(ctx, ids...) },
	} {
		t.Run(name, func(t *testing.T) {
			e := open(t, syncengine.Config{L3: newChoosy(t), BatchFlushInterval: time.Hour})
			poisonous(t, e, "a", "b", "c")
			side := func(ids ...string) (sum int64) {
				t.Helper()
				var total atomic.Int64
				var wg sync.WaitGroup
				for range 8 {
					wg.Go(func() {
						n, err := call(e, ids...)
						if err != nil {
							t.Error(err)
						}
						total.Add(int64(n))
					})
				}
				wg.Wait()
				return total.Load()
			}
			if n := side("a"); n != 1 {
				t.Errorf("%d ops were reported, want 1", n)
			}
			wantQuarantined(t, e, "b", "c")
			wantPoison(t, e, "b")
			wantPoison(t, e, "c")
			if n := side("a", "b"); n != 1 {
				t.Errorf("%d ops were reported, want 1", n)
			}
			if n := side(); n != 1 {
				t.Errorf("%d ops were reported, want 1", n)
			}
			wantQuarantined(t, e)
			if name == "retry" {
				if err := e.Flush(ctx); !errors.Is(err, syncengine.ErrRefused) {
					t.Fatal(err)
				}
				for _, op := range wantQuarantined(t, e, "a", "b", "c") {
					if op.Attempts != 2 {
						t.Errorf("%s was refused %d times, want 2", op.ID, op.Attempts)
					}
				}
			}
		})
	}
}

// All kinds of calls at once, while ops land and are refused again. In the end each op has
// left once, or is there.
func TestINV12QuarantineCountsAreExactWhateverRunsBesides(t *testing.T) {
	ctx := context.Background()
	l3 := newChoosy(t)
	e := open(t, syncengine.Config{L3: l3, BatchFlushInterval: time.Millisecond})
	const ids, rounds = 24, 4
	var names []string
	for i := range ids {
		names = append(names, fmt.Sprint("id-", i))
	}
	for range rounds {
		poisonous(t, e, names...)
		var discarded, retried atomic.Int64
		var wg sync.WaitGroup
		for g := range 6 {
			wg.Go(func() {
				for i := range ids {
					id := names[(i*(g+1))%ids]
					switch g % 3 {
					case 0:
						n, err := e.DiscardQuarantined(ctx, id)
						discarded.Add(int64(n))
						if err != nil {
							t.Error(err)
						}
					case 1:
						n, err := e.RetryQuarantined(ctx, id)
						retried.Add(int64(n))
						if err != nil {
							t.Error(err)
						}
					default:
						if _, err := e.Get(ctx, id); err != nil && !errors.Is(err, syncengine.ErrNotFound) {
							t.Error(err)
						}
					}
				}
			})
		}
		wg.Wait()
		_ = e.Flush(ctx)
		ops, err := e.Quarantined(ctx)
		must(t, err)
		left := ids - int(discarded.Load())
		if len(ops) != left || e.Stats().Quarantined != left {
			t.Fatalf("%d discarded, %d retried and refused again: %d ops listed, %d counted; want %d",
				discarded.Load(), retried.Load(), len(ops), e.Stats().Quarantined, left)
		}
		n, err := e.DiscardQuarantined(ctx)
		if must(t, err); n != left {
			t.Fatalf("%d discarded, want %d", n, left)
		}
		for _, id := range names {
			wantContent(t, e, id, -1)
		}
	}
}

// A caller that changes what it got from Get must not make the engine store what was never
// submitted, as if it were sound.
func TestINV11AChangedQuarantinedOpIsToldFromASoundOne(t *testing.T) {
	ctx := context.Background()
	l3 := newChoosy(t)
	cfg := syncengine.Config{Dir: t.TempDir(), L3: l3, BatchFlushInterval: time.Hour}
	e := open(t, cfg)
	put(t, e, "refused", 1, syncengine.WithDurability(syncengine.Buffered))
	it, err := e.Get(ctx, "refused")
	must(t, err)
	it.Content[len(it.Content)-3] = 'y'
	poisonous(t, e, "x")
	must(t, e.Close())
	e = open(t, cfg)
	wantQuarantined(t, e, "refused", "x")
	if it, err := e.Get(ctx, "refused"); !errors.Is(err, syncengine.ErrCorruption) {
		t.Errorf("Get: %.60s, %v", it.Content, err)
	}
	l3.tolerant.Store(true)
	n, err := e.RetryQuarantined(ctx)
	var ce *syncengine.CorruptionError
	if n != 1 || !errors.As(err, &ce) || ce.ID != "refused" || ce.Tier != "WAL" {
		t.Errorf("RetryQuarantined: %d, %v", n, err)
	}
	wantQuarantined(t, e, "refused")
	put(t, e, "refused", 2)
	wantContent(t, e, "refused", 2)
	must(t, e.Flush(ctx))
	wantQuarantined(t, e, "refused-")
	if n, err := e.RetryQuarantined(ctx); n != 1 || err != nil {
		t.Errorf("RetryQuarantined of a superseded op: %d, %v", n, err)
	}
	wantContent(t, e, "refused", 2)
}

// The same for an op that an outage puts into the WAL.
func TestINV11AChangedBufferedOpIsToldFromASoundOne(t *testing.T) {
	ctx := context.Background()
	l3 := newChoosy(t)
	cfg := syncengine.Config{Dir: t.TempDir(), L3: l3, BatchFlushInterval: time.Hour, Durability: syncengine.Buffered}
	e := open(t, cfg)
	put(t, e, "changed", 1)
	put(t, e, "sound", 1)
	it, err := e.Get(ctx, "changed")
	must(t, err)
	it.Content[len(it.Content)-3] = 'y'
	l3.away.Store(true)
	if err := e.Close(); !errors.Is(err, syncengine.ErrPending) {
		t.Fatalf("Close: %v", err)
	}
	e = open(t, cfg)
	if it, err := e.Get(ctx, "changed"); !errors.Is(err, syncengine.ErrCorruption) {
		t.Errorf("Get: %.60s, %v", it.Content, err)
	}
	wantContent(t, e, "sound", 1)
}

// A group holds the very op that is discarded, and one that is not: it is another unit, and was
// accepted. Its other op was dropped when the drain read it.
func TestINV01ADiscardTakesNoGroupThatHoldsTheSameOp(t *testing.T) {
	ctx := context.Background()
	l3 := newChoosy(t)
	cfg := syncengine.Config{Dir: t.TempDir(), L3: l3, BatchFlushInterval: time.Hour}
	e := open(t, cfg)
	version := syncengine.WithVersion(syncengine.VersionAt(time.Now()))
	must(t, e.Submit(ctx, syncengine.Item{ID: "x", Content: poison}, version))
	if err := e.Flush(ctx); !errors.Is(err, syncengine.ErrRefused) {
		t.Fatalf("Flush: %v", err)
	}
	l3.away.Store(true)
	_, err := e.SubmitMany(ctx, []syncengine.Item{{ID: "x", Content: poison}, {ID: "z", Content: doc("z", 1)}}, version)
	must(t, err)
	if n, err := e.DiscardQuarantined(ctx, "x"); n != 1 || err != nil {
		t.Fatalf("DiscardQuarantined: %d, %v", n, err)
	}
	cfg.Dir = crashed(t, cfg.Dir)
	l3.tolerant.Store(true)
	l3.away.Store(false)
	e = open(t, cfg)
	must(t, e.Flush(ctx))
	wantContent(t, e, "z", 1)
}

// A retry forgets only what L3 holds something newer of. A later op of the id that is in quarantine
// itself, or waits, may be refused.
func TestINV01ARetryKeepsAnOpBelowAnotherThatIsRefused(t *testing.T) {
	ctx := context.Background()
	l3 := newChoosy(t)
	e := open(t, syncengine.Config{L3: l3})
	poisonous(t, e, "x")
	poisonous(t, e, "x")
	wantQuarantined(t, e, "x", "x")
	if n, err := e.RetryQuarantined(ctx); n != 2 || err != nil {
		t.Fatalf("RetryQuarantined: %d, %v", n, err)
	}
	if err := e.Flush(ctx); !errors.Is(err, syncengine.ErrRefused) {
		t.Errorf("Flush: %v", err)
	}
	wantQuarantined(t, e, "x", "x")
}

// A batch goes on for as long as L3 takes for the rest of it. What it has brought into quarantine
// may be discarded meanwhile, and memory held on to it.
func TestINV02WhatIsDiscardedWhileItsBatchGoesOnIsGone(t *testing.T) {
	for name, d := range map[string]syncengine.Durability{"buffered": syncengine.Buffered, "logged": syncengine.Logged} {
		t.Run(name, func(t *testing.T) {
			ctx := context.Background()
			l3 := newChoosy(t)
			e := open(t, syncengine.Config{L3: l3, BatchFlushInterval: time.Hour, Durability: d})
			defer l3.release()
			put(t, e, "refused", 1)
			put(t, e, "stuck", 1)
			flushed := make(chan error, 1)
			go func() { flushed <- e.Flush(ctx) }()
			<-l3.stuck
			wantQuarantined(t, e, "refused")
			wantContent(t, e, "refused", 1)
			if n, err := e.DiscardQuarantined(ctx, "refused"); n != 1 || err != nil {
				t.Fatalf("DiscardQuarantined: %d, %v", n, err)
			}
			for range 2 {
				if it, err := e.Get(ctx, "refused"); !errors.Is(err, syncengine.ErrNotFound) {
					t.Errorf("Get: %s, %v; want ErrNotFound", it.Content, err)
				}
				l3.release()
				must(t, <-flushed)
				flushed <- nil
			}
		})
	}
}

// A read that had found a discarded op brought it to memory afterwards, and readers that came after
// the discard shared it.
func TestINV02AReadThatBeganBeforeADiscardIsNotShared(t *testing.T) {
	ctx := context.Background()
	for name, get := range map[string]func(e *syncengine.Engine) (syncengine.Item, error){
		"Get": func(e *syncengine.Engine) (syncengine.Item, error) { return e.Get(ctx, "x") },
		"GetMany": func(e *syncengine.Engine) (syncengine.Item, error) {
			found, err := e.GetMany(ctx, []string{"x"})
			if err != nil {
				return syncengine.Item{}, err
			} else if found[0] == nil {
				return syncengine.Item{}, syncengine.ErrNotFound
			}
			return *found[0], nil
		},
		"GetOrInsertWith": func(e *syncengine.Engine) (syncengine.Item, error) {
			return e.GetOrInsertWith(ctx, "x", func(context.Context) (syncengine.Item, error) { return syncengine.Item{}, syncengine.ErrNotFound })
		},
	} {
		t.Run(name, func(t *testing.T) {
			l3 := newChoosy(t)
			cfg := syncengine.Config{Dir: t.TempDir(), L3: l3, L1MaxAge: 1}
			e := open(t, cfg)
			poisonous(t, e, "x")
			must(t, e.Close())
			e = open(t, cfg) // memory holds nothing of it
			in := make(chan struct{})
			var first atomic.Bool
			l3.get = func() error {
				if first.CompareAndSwap(false, true) {
					close(in)
					<-l3.gate
				}
				return nil
			}
			defer l3.release()
			before := make(chan error, 1)
			go func() {
				_, err := get(e)
				before <- err
			}()
			<-in
			if n, err := e.DiscardQuarantined(ctx, "x"); n != 1 || err != nil {
				t.Fatalf("DiscardQuarantined: %d, %v", n, err)
			}
			for _, when := range []string{"while it goes on", "when it is over"} {
				returns(t, name, func() {
					if it, err := get(e); !errors.Is(err, syncengine.ErrNotFound) {
						t.Errorf("%s: %s, %v; want ErrNotFound", when, it.Content, err)
					}
				})
				l3.release()
				must(t, <-before)
				before <- nil
			}
		})
	}
}
