package promises

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
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/faultproxy"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/storetest"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

// poisonous submits poison and has it refused.
func poisonous(t testing.TB, e *syncengine.Engine, ids ...string) {
	t.Helper()
	for _, id := range ids {
		lab.Must(t, e.Submit(context.Background(), syncengine.Item{ID: id, Content: lab.Poison}))
	}
	if err := e.Flush(context.Background()); !errors.Is(err, syncengine.ErrRefused) {
		t.Fatalf("Flush: %v, want ErrRefused", err)
	}
}

func wantPoison(t testing.TB, e *syncengine.Engine, id string) {
	t.Helper()
	if it, err := e.Get(context.Background(), id); err != nil || !bytes.Equal(it.Content, lab.Poison) {
		t.Fatalf("%s: %.40s, %v; want poison", id, it.Content, err)
	}
}

// wantQuarantined checks what is listed and counted; the ids of superseded ops end with "-".
func wantQuarantined(t testing.TB, e *syncengine.Engine, want ...string) (ops []syncengine.QuarantinedOp) {
	t.Helper()
	ops, err := e.Quarantined(context.Background())
	lab.Must(t, err)
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

// L3 refused a put, and then took a later put or delete of the id. The refused document answered
// reads again after a restart with SQL down, and with SQL up once the tombstone was purged.
func TestINV04AQuarantinedOpAnswersNoReadOnceALaterOpLanded(t *testing.T) {
	t.Parallel()
	for name, later := range map[string]func(e *syncengine.Engine){
		"a put":    func(e *syncengine.Engine) { lab.Put(t, e, "x", 2) },
		"a delete": func(e *syncengine.Engine) { lab.Must(t, e.Delete(context.Background(), "x")) },
	} {
		t.Run(name, func(t *testing.T) {
			ctx := context.Background()
			n := 2
			if name == "a delete" {
				n = -1
			}
			dbURL := testserver.SharedMariaDB(t).NewDatabase(t)
			lab.Open(t, syncengine.Config{SQLURL: dbURL}) // makes the table
			outside := testserver.OpenSQL(t, dbURL)
			exec := func(query string) {
				t.Helper()
				_, err := outside.Exec(query)
				lab.Must(t, err)
			}
			exec("ALTER TABLE sync_items ADD CONSTRAINT no_poison CHECK (content IS NULL OR content NOT LIKE '%poison%')")
			u, err := url.Parse(dbURL)
			lab.Must(t, err)
			proxy := faultproxy.New(t, u.Host)
			cfg := syncengine.Config{
				Dir: t.TempDir(), SQLURL: lab.Via(t, dbURL, proxy),
				RedisURL: testserver.SharedRedis(t).URL(), KeyPrefix: lab.NewPrefix(),
			}
			e := lab.Open(t, cfg)
			poisonous(t, e, "x")
			later(e)
			lab.WantContent(t, e, "x", n)
			lab.Must(t, e.Flush(ctx))
			look := func() {
				t.Helper()
				lab.WantContent(t, e, "x", n)
				wantQuarantined(t, e, "x-")
				if st, err := e.Status(ctx, "x"); st.Quarantined {
					t.Errorf("Status: %+v, %v", st, err)
				}
			}
			look()
			lab.Must(t, e.Close())
			proxy.Cut()
			e = lab.Open(t, cfg)
			look()
			_ = e.Close() // L3 is away
			proxy.Restore()
			if n < 0 {
				exec("DELETE FROM sync_items") // as the purge does
			}
			cfg.RedisURL = ""
			e = lab.Open(t, cfg)
			look()
			if got, err := e.DiscardQuarantined(ctx, "x"); got != 1 || err != nil {
				t.Errorf("DiscardQuarantined: %d, %v", got, err)
			}
			wantQuarantined(t, e)
			lab.WantContent(t, e, "x", n)
		})
	}
}

// A superseded op was put back into the queue by a retry when L3's row was gone.
func TestINV04ARetryForgetsWhatIsSuperseded(t *testing.T) {
	ctx := context.Background()
	l3 := lab.NewChoosy(t)
	cfg := syncengine.Config{Dir: t.TempDir(), L3: l3, BatchFlushInterval: time.Hour}
	e := lab.Open(t, cfg)
	poisonous(t, e, "x")
	lab.Must(t, e.Delete(ctx, "x"))
	lab.Must(t, e.Flush(ctx))
	if n, err := l3.PurgeTombstones(ctx, time.Now().Add(time.Hour), 10); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	lab.Must(t, e.Close())
	e = lab.Open(t, cfg)
	l3.Tolerant.Store(true)
	if n, err := e.RetryQuarantined(ctx); n != 1 || err != nil {
		t.Fatalf("RetryQuarantined: %d, %v", n, err)
	}
	wantQuarantined(t, e)
	lab.Must(t, e.Flush(ctx))
	lab.WantContent(t, e, "x", -1)
}

// A later op of one id of a group leaves the others of the group readable.
func TestINV02AGroupIsSupersededIDByID(t *testing.T) {
	ctx := context.Background()
	l3 := lab.NewChoosy(t)
	cfg := syncengine.Config{Dir: t.TempDir(), L3: l3}
	e := lab.Open(t, cfg)
	_, err := e.SubmitMany(ctx, []syncengine.Item{{ID: "x", Content: lab.Poison}, {ID: "y", Content: lab.Poison}})
	lab.Must(t, err)
	poisonous(t, e, "z")
	lab.Put(t, e, "x", 2)
	if err := e.Flush(ctx); !errors.Is(err, syncengine.ErrRefused) { // of y
		t.Errorf("Flush: %v", err)
	}
	wantQuarantined(t, e, "x-", "y", "z")
	lab.Must(t, e.Close())
	e = lab.Open(t, cfg)
	lab.WantContent(t, e, "x", 2)
	wantPoison(t, e, "y")
	l3.Tolerant.Store(true)
	if n, err := e.RetryQuarantined(ctx, "x"); n != 2 || err != nil {
		t.Fatalf("RetryQuarantined: %d, %v", n, err)
	}
	if err := e.Flush(ctx); !errors.Is(err, syncengine.ErrRefused) { // of z
		t.Errorf("Flush: %v", err)
	}
	lab.WantContent(t, e, "x", 2)
	wantPoison(t, e, "y")
	wantQuarantined(t, e, "z")
}

// An op that was discarded and then submitted again, with the same version, was dropped from
// the WAL at the next Open, though it was acknowledged: submissions that had come to nothing had
// taken it off and put it back on the list.
func TestINV01ADiscardedOpThatIsSubmittedAgainIsNotDropped(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	l3 := lab.NewChoosy(t)
	cfg := syncengine.Config{Dir: t.TempDir(), L3: l3}
	e := lab.Open(t, cfg)
	op := syncengine.Item{ID: "x", Version: 5, Content: lab.Poison}
	for range 2 { // the second discard is about the second op
		lab.Must(t, e.Submit(ctx, op))
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
	l3.Away.Store(true)
	lab.Must(t, e.Submit(ctx, op))
	if err := e.Close(); !errors.Is(err, syncengine.ErrPending) {
		t.Fatalf("Close: %v", err)
	}
	for range 2 {
		e = lab.Open(t, cfg)
		wantPoison(t, e, "x")
		_ = e.Close()
	}
	l3.Away.Store(false)
	l3.Tolerant.Store(true)
	e = lab.Open(t, cfg)
	lab.Must(t, e.Flush(ctx))
	if rec, err := l3.Get(ctx, "x"); err != nil || !bytes.Equal(rec.Content, lab.Poison) {
		t.Errorf("L3 holds %.40s, %v", rec.Content, err)
	}
}

// Segments of commits that failed were counted when the op was discarded, and their numbers were
// given out again to what came after a restart.
func TestINV01ADiscardDoesNotReachIntoSegmentsOfTheNextEngine(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	l3 := lab.NewChoosy(t)
	defer l3.Release()
	cfg := syncengine.Config{Dir: t.TempDir(), L3: l3, FlushConcurrency: 2}
	e := lab.Open(t, cfg)
	l3.Stick(t, e)
	op := syncengine.Item{ID: "x", Version: 5, Content: lab.Poison}
	lab.Must(t, e.Submit(ctx, op))
	lab.Eventually(t, "the second is refused", func() bool { return e.Stats().Quarantined == 1 })
	repair := breakWAL(t, cfg.Dir)
	for n := range 10 {
		if err := e.Submit(ctx, syncengine.Item{ID: fmt.Sprint("lost-", n), Content: lab.Poison}); err == nil {
			t.Fatal("the WAL takes no ops")
		}
	}
	if n, err := e.DiscardQuarantined(ctx, "x"); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	repair()
	cfg.Dir = lab.Killed(t, cfg.Dir)
	l3.Release()
	_ = e.Close()
	l3.Away.Store(true)
	e = lab.Open(t, cfg)
	if it, err := e.Get(ctx, "x"); err == nil { // it is in the WAL still
		t.Fatalf("the discarded op is back: %s", it.Content)
	}
	lab.Must(t, e.Submit(ctx, op))
	for range 2 {
		_ = e.Close()
		e = lab.Open(t, cfg)
		wantPoison(t, e, "x")
	}
}

// A discard that timed out after its first step had noted the op as one to be dropped, and left
// it in quarantine: a retry of it reported success, and the next Open dropped it.
func TestINV01ADiscardThatFailsChangesNothing(t *testing.T) {
	t.Parallel()
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
			l3 := lab.NewChoosy(t)
			cfg := syncengine.Config{Dir: t.TempDir(), L3: l3}
			e := lab.Open(t, cfg)
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
			l3.Away.Store(true)
			if n, err := e.RetryQuarantined(ctx, "x"); n != 0 || !errors.Is(err, syncengine.ErrUnavailable) {
				t.Fatalf("RetryQuarantined while L3 can't be asked: %d, %v", n, err)
			}
			l3.Away.Store(false)
			l3.Tolerant.Store(true)
			if n, err := e.RetryQuarantined(ctx, "x"); n != 1 || err != nil {
				t.Fatalf("RetryQuarantined: %d, %v", n, err)
			}
			cfg.Dir = lab.Killed(t, cfg.Dir)
			_ = e.Close()
			e = lab.Open(t, cfg)
			wantPoison(t, e, "x")
			wantQuarantined(t, e, "y")
		})
	}
}

// What is discarded stays away, though the WAL holds it still.
func TestINV04WhatWasDiscardedDoesNotComeBackFromTheWAL(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	l3 := lab.NewChoosy(t)
	defer l3.Release()
	cfg := syncengine.Config{Dir: t.TempDir(), L3: l3, FlushConcurrency: 2}
	e := lab.Open(t, cfg)
	l3.Stick(t, e)
	lab.Must(t, e.Submit(ctx, syncengine.Item{ID: "x", Content: lab.Poison}))
	lab.Eventually(t, "the second is refused", func() bool { return e.Stats().Quarantined == 1 })
	if n, err := e.DiscardQuarantined(ctx); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	lab.Put(t, e, "later", 1)
	crash := lab.Killed(t, cfg.Dir)
	if n := lab.WALOps(t, crash); n < 2 {
		t.Fatalf("%d ops in the WAL: nothing is proven", n)
	}
	l3.Release()
	_ = e.Close()
	cfg.Dir = crash
	l3.Away.Store(true)
	l3.Tolerant.Store(true)
	e = lab.Open(t, cfg)
	if it, err := e.Get(ctx, "x"); err == nil {
		t.Errorf("the discarded op is back: %s", it.Content)
	}
	lab.WantContent(t, e, "later", 1)
	l3.Away.Store(false)
	lab.Eventually(t, "all is flushed", func() bool { return e.Flush(ctx) == nil })
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
			e := lab.Open(t, syncengine.Config{L3: lab.NewChoosy(t), BatchFlushInterval: time.Hour})
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
	l3 := lab.NewChoosy(t)
	e := lab.Open(t, syncengine.Config{L3: l3, BatchFlushInterval: time.Millisecond})
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
		lab.Must(t, err)
		left := ids - int(discarded.Load())
		if len(ops) != left || e.Stats().Quarantined != left {
			t.Fatalf("%d discarded, %d retried and refused again: %d ops listed, %d counted; want %d",
				discarded.Load(), retried.Load(), len(ops), e.Stats().Quarantined, left)
		}
		n, err := e.DiscardQuarantined(ctx)
		if lab.Must(t, err); n != left {
			t.Fatalf("%d discarded, want %d", n, left)
		}
		for _, id := range names {
			lab.WantContent(t, e, id, -1)
		}
	}
}

// A caller that changes what it got from Get must not make the engine store what was never
// submitted, as if it were sound.
func TestINV11AChangedQuarantinedOpIsToldFromASoundOne(t *testing.T) {
	ctx := context.Background()
	l3 := lab.NewChoosy(t)
	cfg := syncengine.Config{Dir: t.TempDir(), L3: l3, BatchFlushInterval: time.Hour}
	e := lab.Open(t, cfg)
	lab.Put(t, e, "refused", 1, syncengine.WithDurability(syncengine.Buffered))
	it, err := e.Get(ctx, "refused")
	lab.Must(t, err)
	it.Content[len(it.Content)-3] = 'y'
	poisonous(t, e, "x")
	lab.Must(t, e.Close())
	e = lab.Open(t, cfg)
	wantQuarantined(t, e, "refused", "x")
	if it, err := e.Get(ctx, "refused"); !errors.Is(err, syncengine.ErrCorruption) {
		t.Errorf("Get: %.60s, %v", it.Content, err)
	}
	l3.Tolerant.Store(true)
	n, err := e.RetryQuarantined(ctx)
	var ce *syncengine.CorruptionError
	if n != 1 || !errors.As(err, &ce) || ce.ID != "refused" || ce.Tier != "WAL" {
		t.Errorf("RetryQuarantined: %d, %v", n, err)
	}
	wantQuarantined(t, e, "refused")
	lab.Put(t, e, "refused", 2)
	lab.WantContent(t, e, "refused", 2)
	lab.Must(t, e.Flush(ctx))
	wantQuarantined(t, e, "refused-")
	if n, err := e.RetryQuarantined(ctx); n != 1 || err != nil {
		t.Errorf("RetryQuarantined of a superseded op: %d, %v", n, err)
	}
	lab.WantContent(t, e, "refused", 2)
}

// The same for an op that an outage puts into the WAL.
func TestINV11AChangedBufferedOpIsToldFromASoundOne(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	l3 := lab.NewChoosy(t)
	cfg := syncengine.Config{Dir: t.TempDir(), L3: l3, BatchFlushInterval: time.Hour, Durability: syncengine.Buffered}
	e := lab.Open(t, cfg)
	lab.Put(t, e, "changed", 1)
	lab.Put(t, e, "sound", 1)
	it, err := e.Get(ctx, "changed")
	lab.Must(t, err)
	it.Content[len(it.Content)-3] = 'y'
	l3.Away.Store(true)
	if err := e.Close(); !errors.Is(err, syncengine.ErrPending) {
		t.Fatalf("Close: %v", err)
	}
	e = lab.Open(t, cfg)
	if it, err := e.Get(ctx, "changed"); !errors.Is(err, syncengine.ErrCorruption) {
		t.Errorf("Get: %.60s, %v", it.Content, err)
	}
	lab.WantContent(t, e, "sound", 1)
}

// A group holds the very op that is discarded, and one that is not: it is another unit, and was
// accepted. Its other op was dropped when the drain read it.
func TestINV01ADiscardTakesNoGroupThatHoldsTheSameOp(t *testing.T) {
	ctx := context.Background()
	l3 := lab.NewChoosy(t)
	cfg := syncengine.Config{Dir: t.TempDir(), L3: l3, BatchFlushInterval: time.Hour}
	e := lab.Open(t, cfg)
	version := syncengine.WithVersion(syncengine.VersionAt(time.Now()))
	lab.Must(t, e.Submit(ctx, syncengine.Item{ID: "x", Content: lab.Poison}, version))
	if err := e.Flush(ctx); !errors.Is(err, syncengine.ErrRefused) {
		t.Fatalf("Flush: %v", err)
	}
	l3.Away.Store(true)
	_, err := e.SubmitMany(ctx, []syncengine.Item{{ID: "x", Content: lab.Poison}, {ID: "z", Content: lab.Doc("z", 1)}}, version)
	lab.Must(t, err)
	if n, err := e.DiscardQuarantined(ctx, "x"); n != 1 || err != nil {
		t.Fatalf("DiscardQuarantined: %d, %v", n, err)
	}
	cfg.Dir = lab.Killed(t, cfg.Dir)
	l3.Tolerant.Store(true)
	l3.Away.Store(false)
	e = lab.Open(t, cfg)
	lab.Must(t, e.Flush(ctx))
	lab.WantContent(t, e, "z", 1)
}

// A retry forgets only what L3 holds something newer of. A later op of the id that is in quarantine
// itself, or waits, may be refused.
func TestINV01ARetryKeepsAnOpBelowAnotherThatIsRefused(t *testing.T) {
	ctx := context.Background()
	l3 := lab.NewChoosy(t)
	e := lab.Open(t, syncengine.Config{L3: l3})
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
			l3 := lab.NewChoosy(t)
			e := lab.Open(t, syncengine.Config{L3: l3, BatchFlushInterval: time.Hour, Durability: d})
			defer l3.Release()
			lab.Put(t, e, "refused", 1)
			lab.Put(t, e, "stuck", 1)
			flushed := make(chan error, 1)
			go func() { flushed <- e.Flush(ctx) }()
			<-l3.Stuck
			wantQuarantined(t, e, "refused")
			lab.WantContent(t, e, "refused", 1)
			if n, err := e.DiscardQuarantined(ctx, "refused"); n != 1 || err != nil {
				t.Fatalf("DiscardQuarantined: %d, %v", n, err)
			}
			for range 2 {
				if it, err := e.Get(ctx, "refused"); !errors.Is(err, syncengine.ErrNotFound) {
					t.Errorf("Get: %s, %v; want ErrNotFound", it.Content, err)
				}
				l3.Release()
				lab.Must(t, <-flushed)
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
			l3 := lab.NewChoosy(t)
			cfg := syncengine.Config{Dir: t.TempDir(), L3: l3, L1MaxAge: 1}
			e := lab.Open(t, cfg)
			poisonous(t, e, "x")
			lab.Must(t, e.Close())
			e = lab.Open(t, cfg) // memory holds nothing of it
			in := make(chan struct{})
			var first atomic.Bool
			l3.OnGet = func() error {
				if first.CompareAndSwap(false, true) {
					close(in)
					<-l3.Gate
				}
				return nil
			}
			defer l3.Release()
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
				l3.Release()
				lab.Must(t, <-before)
				before <- nil
			}
		})
	}
}

// Status says Quarantined of the newest op alone: not while a later one waits, nor when another
// engine's is in L3. And reads answer with that one, though the refused op was here.
func TestStatusSaysQuarantinedOfTheNewestOp(t *testing.T) {
	ctx := context.Background()
	l3 := lab.NewChoosy(t)
	defer l3.Release()
	e := lab.Open(t, syncengine.Config{L3: l3, BatchFlushInterval: time.Millisecond, L1MaxAge: time.Hour})
	want := func(when string, quarantined bool, state syncengine.SyncState) {
		t.Helper()
		if st, err := e.Status(ctx, "refused"); st.Quarantined != quarantined || st.State != state {
			t.Errorf("%s: %+v, %v", when, st, err)
		}
	}
	submit := func(n int) {
		t.Helper()
		lab.Must(t, e.Submit(ctx, syncengine.Item{ID: "refused", Content: fmt.Append(nil, n)}))
	}
	refused := func(n int) {
		t.Helper()
		lab.Eventually(t, "it is refused", func() bool { return e.Stats().Quarantined == n && e.Stats().PendingOps == 0 })
	}
	submit(1)
	refused(1)
	want("refused", true, syncengine.StatusPending)
	l3.Away.Store(true)
	submit(2)
	want("a later one waits", false, syncengine.StatusPending)
	l3.Away.Store(false)
	refused(2)
	want("that is refused, too", true, syncengine.StatusPending)
	higher := storetest.Put("refused", syncengine.VersionAt(time.Now().Add(time.Second)), "3")
	lab.NoError(t, "apply", lab.Applied(l3.ArchiveStore.Apply(ctx, []syncengine.Record{higher})))
	if it, err := e.Get(ctx, "refused"); err != nil || string(it.Content) != "3" {
		t.Errorf("Get: %s, %v", it.Content, err)
	}
	wantQuarantined(t, e, "refused-", "refused-")
	want("another engine's is above it", false, syncengine.StatusSynced)
	poisonous(t, e, "there")
	it, err := e.Get(ctx, "there")
	lab.Must(t, err)
	same := storetest.Put("there", it.Version, string(lab.Poison))
	lab.NoError(t, "apply", lab.Applied(l3.ArchiveStore.Apply(ctx, []syncengine.Record{same})))
	if st, err := e.Status(ctx, "there"); err != nil || st.Quarantined {
		t.Errorf("L3 has that very op: %+v, %v", st, err)
	}
	wantQuarantined(t, e, "refused-", "refused-")
}

// TestINV09ARefusalWithoutWordsIsQuarantined, whatever a store of the caller's leaves out.
func TestINV09ARefusalWithoutWordsIsQuarantined(t *testing.T) {
	ctx := lab.Bounded(t)
	e := lab.Open(t, syncengine.Config{L3: &lab.HookedArchive{ArchiveStore: storetest.NewArchive(), OnApply: func(context.Context, []syncengine.Record) error {
		return &syncengine.RefusedError{}
	}}})
	if err := e.Submit(ctx, syncengine.Item{ID: "x", Content: []byte("1")}, syncengine.WithDurability(syncengine.Archived)); !errors.Is(err, syncengine.ErrRefused) {
		t.Errorf("Submit: %v, want ErrRefused", err)
	}
	if ops := wantQuarantined(t, e, "x"); ops[0].Error == "" {
		t.Error("it says nothing")
	}
}

// allocated is how many MiB a function allocates, which tells what it has read and decoded.
func allocated(fn func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	fn()
	runtime.ReadMemStats(&after)
	return (after.TotalAlloc - before.TotalAlloc) >> 20
}

// manyOps is a group of 2000 with 500 bytes each: read and decoded whole it takes over 3 MiB.
func manyOps() (items []syncengine.Item, ids []string) {
	for i := range 2000 {
		ids = append(ids, fmt.Sprintf("g:%08d", i))
		items = append(items, syncengine.Item{ID: ids[i], Content: []byte(`"poison` + strings.Repeat("x", 500) + `"`)})
	}
	return items, ids
}

// Each id that was read of a refused group cost the whole group: GetMany of 500 of 2,000 allocated
// 1.6 GiB. A call reads the group once, a listing once for each page; between its ids are others.
func TestINV09ARefusedGroupCostsACallNoMoreThanItsOps(t *testing.T) {
	ctx := context.Background()
	items, ids := manyOps()
	getMany := func(t testing.TB, e *syncengine.Engine, want func(i int) []byte) {
		got, err := e.GetMany(ctx, ids[:500])
		lab.Must(t, err)
		for i, it := range got {
			if it == nil || it.ID != ids[i] || !bytes.Equal(it.Content, want(i)) {
				t.Fatalf("item %d is %v", i, it)
			}
		}
	}
	superseded := func(t testing.TB, e *syncengine.Engine, want int) {
		ops, err := e.Quarantined(ctx)
		lab.Must(t, err)
		n := 0
		for _, op := range ops {
			if op.Superseded {
				n++
			}
		}
		if len(ops) != len(ids) || n != want {
			t.Errorf("%d are in quarantine, %d of them superseded; want %d of %d", len(ops), n, want, len(ids))
		}
	}
	for name, c := range map[string]struct {
		before func(t testing.TB, url string)
		call   func(t testing.TB, e *syncengine.Engine)
	}{
		"GetMany": {nil, func(t testing.TB, e *syncengine.Engine) {
			getMany(t, e, func(i int) []byte { return items[i].Content })
		}},
		"GetMany of what another engine has written since": {func(t testing.TB, url string) {
			others := make([]syncengine.Item, 500)
			for i := range others {
				others[i] = syncengine.Item{ID: ids[i], Content: []byte("1")}
			}
			_, err := lab.Open(t, syncengine.Config{SQLURL: url}).SubmitMany(ctx, others, syncengine.WithDurability(syncengine.Archived))
			lab.Must(t, err)
		}, func(t testing.TB, e *syncengine.Engine) {
			getMany(t, e, func(int) []byte { return []byte("1") })
			superseded(t, e, 500)
		}},
		"All": {nil, func(t testing.TB, e *syncengine.Engine) {
			n := 0
			for it, err := range e.All(ctx, "g:") {
				lab.Must(t, err)
				if of := items[n/2]; n%2 == 0 && (it.ID != of.ID || !bytes.Equal(it.Content, of.Content)) || n%2 == 1 && it.ID != of.ID+"+" {
					t.Fatalf("item %d of the listing is %s", n, it.ID)
				}
				n++
			}
			if n != 2*len(ids) {
				t.Errorf("%d items are listed", n)
			}
		}},
		"DeletePrefix": {nil, func(t testing.TB, e *syncengine.Engine) {
			if n, err := e.DeletePrefix(ctx, "g:"); n != 2*len(ids) || err != nil {
				t.Errorf("%d are deleted, %v", n, err)
			}
			lab.Must(t, e.Flush(ctx))
			superseded(t, e, len(ids))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			url := testserver.SharedMariaDB(t).NewDatabase(t)
			cfg := syncengine.Config{SQLURL: url, Dir: t.TempDir()}
			e := lab.Open(t, cfg)
			_, err := testserver.OpenSQL(t, url).Exec("ALTER TABLE sync_items ADD CONSTRAINT no_poison CHECK (content IS NULL OR content NOT LIKE '%poison%')")
			lab.Must(t, err)
			between := make([]syncengine.Item, len(ids))
			for i, id := range ids {
				between[i] = syncengine.Item{ID: id + "+", Content: []byte("1")}
			}
			for _, group := range [][]syncengine.Item{between, items} {
				_, err = e.SubmitMany(ctx, group)
				lab.Must(t, err)
			}
			if err := e.Flush(ctx); !errors.Is(err, syncengine.ErrRefused) {
				t.Errorf("Flush: %v", err)
			}
			lab.Must(t, e.Close())
			if c.before != nil {
				c.before(t, url)
			}
			e = lab.Open(t, cfg) // memory has none of them
			if mib := allocated(func() { c.call(t, e) }); mib > 100 {
				t.Errorf("allocates %d MiB for a group of 1 MiB", mib)
			} else {
				t.Logf("%d MiB", mib)
			}
		})
	}
}

// The same of a group that only the WAL has, in an outage.
func TestINV09ASpooledGroupCostsACallNoMoreThanItsOps(t *testing.T) {
	ctx := context.Background()
	items, ids := manyOps()
	l3 := &lab.FaultyArchive{ArchiveStore: storetest.NewArchive()}
	cfg := syncengine.Config{L3: l3, Dir: t.TempDir()}
	e := lab.Open(t, cfg)
	lab.Must(t, e.Flush(ctx))
	l3.Away.Store(true)
	_, err := e.SubmitMany(ctx, items)
	lab.Must(t, err)
	_ = e.Close() // L3 is away
	e = lab.Open(t, cfg)
	var got []*syncengine.Item
	mib := allocated(func() { got, err = e.GetMany(ctx, ids[:500]) })
	lab.Must(t, err)
	for i, it := range got {
		if it == nil || it.ID != ids[i] || !bytes.Equal(it.Content, items[i].Content) {
			t.Fatalf("item %d is %v", i, it)
		}
	}
	if mib > 100 {
		t.Errorf("GetMany of 500 of 2000 allocates %d MiB for a group of 1 MiB", mib)
	}
}

// L3 took an op, and then refused a group with an earlier one of its id, which an outage had put
// into the log behind it. While L3 was away, after a restart, reads answered with the earlier one.
func TestINV04AnOpThatIsRefusedAfterALaterOneLandedAnswersNoRead(t *testing.T) {
	t.Parallel()
	for _, batch := range []int{1, 1000} {
		t.Run(fmt.Sprint("batches of ", batch), func(t *testing.T) {
			ctx := context.Background()
			l3 := lab.NewChoosy(t)
			cfg := syncengine.Config{Dir: t.TempDir(), L3: l3, BatchFlushInterval: time.Hour, BatchFlushCount: batch, L3Timeout: time.Second}
			e := lab.Open(t, cfg)
			l3.Away.Store(true)
			group := []syncengine.Item{{ID: "x", Content: lab.Doc("x", 1)}, {ID: "y", Content: lab.Poison}}
			_, err := e.SubmitMany(ctx, group, syncengine.WithDurability(syncengine.Buffered))
			lab.Must(t, err)
			lab.Put(t, e, "x", 2)
			if err := e.Close(); !errors.Is(err, syncengine.ErrPending) {
				t.Fatalf("Close: %v", err)
			}
			l3.Away.Store(false)
			e = lab.Open(t, cfg)
			if err := e.Flush(ctx); !errors.Is(err, syncengine.ErrRefused) {
				t.Fatalf("Flush: %v, want ErrRefused", err)
			}
			lab.Must(t, e.Close())
			l3.Away.Store(true)
			e = lab.Open(t, cfg)
			if it, err := e.Get(ctx, "x"); !errors.Is(err, syncengine.ErrUnavailable) {
				t.Errorf("Get: %.20s, %v", it.Content, err)
			}
			its, err := e.GetMany(ctx, []string{"x"})
			if its[0] != nil || !errors.Is(err, syncengine.ErrUnavailable) {
				t.Errorf("GetMany: %v, %v", its, err)
			}
			_ = e.Close() // L3 is away
			l3.Away.Store(false)
			e = lab.Open(t, cfg)
			lab.WantContent(t, e, "x", 2)
			wantQuarantined(t, e, "x-", "y")
		})
	}
}

// The same of one that was retried behind the later one.
func TestINV04AnOpThatIsRetriedBehindALaterOneAnswersNoRead(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	l3 := lab.NewChoosy(t)
	defer l3.Release()
	cfg := syncengine.Config{Dir: t.TempDir(), L3: l3, L3Timeout: time.Minute, FlushConcurrency: 1, BatchFlushCount: 1}
	e := lab.Open(t, cfg)
	_, err := e.SubmitMany(ctx, []syncengine.Item{{ID: "x", Content: lab.Doc("x", 1)}, {ID: "y", Content: lab.Poison}})
	lab.Must(t, err)
	if err := e.Flush(ctx); !errors.Is(err, syncengine.ErrRefused) {
		t.Fatalf("Flush: %v, want ErrRefused", err)
	}
	l3.Stick(t, e)
	lab.Put(t, e, "x", 2)
	if n, err := e.RetryQuarantined(ctx, "x"); n != 2 || err != nil {
		t.Fatalf("RetryQuarantined: %d, %v", n, err)
	}
	l3.Release()
	if err := e.Flush(ctx); !errors.Is(err, syncengine.ErrRefused) {
		t.Fatalf("Flush: %v, want ErrRefused", err)
	}
	lab.Must(t, e.Close())
	l3.Away.Store(true)
	cfg.L3Timeout = time.Second
	e = lab.Open(t, cfg)
	if it, err := e.Get(ctx, "x"); !errors.Is(err, syncengine.ErrUnavailable) {
		t.Errorf("Get: %.20s, %v", it.Content, err)
	}
}

// TestINV10QuarantineTakesRoomInTheWAL: what L3 refuses takes room, so an L3 that refuses
// everything ends in refusals, and not in a full disk. Reads go on, and who mends the cause, or
// discards, gets the room back; also after a restart, and with limits that have been lowered.
func TestINV10QuarantineTakesRoomInTheWAL(t *testing.T) {
	t.Parallel()
	for name, durability := range map[string]syncengine.Durability{"Buffered": syncengine.Buffered, "Logged": syncengine.Logged} {
		t.Run(name, func(t *testing.T) {
			ctx := context.Background()
			l3 := lab.NewChoosy(t)
			cfg := syncengine.Config{Dir: t.TempDir(), L3: l3, Durability: durability, WALMaxItems: 200, BatchFlushCount: 20}
			e := lab.Open(t, cfg)
			n := 0
			submit := func() (err error) {
				for ; err == nil; n++ {
					err = e.Submit(ctx, syncengine.Item{ID: fmt.Sprint("bad-", n), Content: lab.Poison})
				}
				n-- // the last was not accepted
				return err
			}
			settled := func(n int) {
				t.Helper()
				if err := e.Flush(ctx); err != nil && !errors.Is(err, syncengine.ErrRefused) {
					t.Fatalf("Flush: %v", err)
				}
				if s := e.Stats(); s.Quarantined != n || s.WALItems != 0 || s.WALBytes != 0 {
					t.Fatalf("%d in quarantine, want %d; WALItems %d, WALBytes %d", s.Quarantined, n, s.WALItems, s.WALBytes)
				}
				if p := e.MemoryPressure(); p != min(.9, float64(n)/float64(cfg.WALMaxItems)) {
					t.Fatalf("pressure %g with %d in quarantine", p, n)
				}
			}
			full := func() {
				t.Helper()
				err := e.Submit(ctx, syncengine.Item{ID: "more", Content: lab.Doc("more", 1)})
				if !errors.Is(err, syncengine.ErrBackpressure) || !strings.Contains(err.Error(), "retried or discarded") {
					t.Fatalf("Submit: %v", err)
				}
				wantPoison(t, e, "bad-0")
			}
			if err := submit(); !errors.Is(err, syncengine.ErrBackpressure) {
				t.Fatalf("Submit: %v", err)
			}
			lab.Eventually(t, "it is full of what was refused", func() bool { // some were on their way
				_ = e.Flush(ctx)
				_ = submit()
				return e.Stats().Quarantined == 180
			})
			settled(180)
			full()
			lab.Must(t, e.Close())

			cfg.WALMaxItems = 100
			e = lab.Open(t, cfg)
			settled(180)
			full()
			if got, err := e.RetryQuarantined(ctx); got != 180 || err != nil { // which needs no more room
				t.Fatalf("RetryQuarantined: %d, %v", got, err)
			}
			settled(180)
			full()
			if got, err := e.DiscardQuarantined(ctx, "bad-1"); got != 1 || err != nil {
				t.Fatalf("DiscardQuarantined: %d, %v", got, err)
			}
			l3.Tolerant.Store(true)
			if got, err := e.RetryQuarantined(ctx); got != 179 || err != nil {
				t.Fatalf("RetryQuarantined: %d, %v", got, err)
			}
			settled(0)
			lab.Put(t, e, "more", 1)
		})
	}
}
