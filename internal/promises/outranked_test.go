package promises

// outranked_test.go is about what an engine must remember of an id beyond memory: versions above
// the clock, wherever their ops have gone, and discards, wherever what is discarded is.

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/storetest"
)

// slowDecision is an L3 whose ApplyIf can be held, and can lose its replies.
type slowDecision struct {
	*lab.AroundArchive
	hold, mute atomic.Bool
	in         chan struct{} // gets one when an ApplyIf is held
	gate       chan struct{}
	release    func()
}

func newSlowDecision(t *testing.T) *slowDecision {
	t.Helper()
	store, err := lab.OpenSQLStore("sqlite:" + filepath.Join(t.TempDir(), "archive.db"))
	lab.Must(t, err)
	t.Cleanup(func() { _ = store.Close() })
	s := &slowDecision{in: make(chan struct{}, 10)}
	s.gate, s.release = lab.Hold()
	s.AroundArchive = &lab.AroundArchive{In: store, Fn: func(ctx context.Context, _, call string, do func() error) error {
		if call == "ApplyIf" && s.hold.Load() {
			s.in <- struct{}{}
			select {
			case <-s.gate:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if !s.mute.Load() {
			return do()
		}
		if call == "ApplyIf" {
			_ = do()
		}
		return lab.ErrAway
	}}
	return s
}

// ahead numbers an op ahead of the clock.
func ahead(by time.Duration) syncengine.WriteOption {
	return syncengine.WithVersion(syncengine.VersionAt(time.Now().Add(by)))
}

// crowdOut lets other ids take the place of x in memory.
func crowdOut(t *testing.T, e *syncengine.Engine) {
	t.Helper()
	leavesL1(t, e, "x", func(round int) {
		lab.Must(t, e.Submit(context.Background(), syncengine.Item{ID: fmt.Sprint("other-", round), Content: lab.BigDoc(20)}))
		_ = e.Flush(context.Background())
	})
}

// L3 refused an op numbered ahead. A later op got a lower number, and reads went on answering with
// the refused one.
func TestINV16AWriteIsAboveARefusedOpOfItsID(t *testing.T) {
	for _, how := range []string{"in memory", "reopened", "evicted"} {
		t.Run(how, func(t *testing.T) {
			ctx := context.Background()
			l3 := lab.NewChoosy(t)
			cfg := syncengine.Config{Dir: t.TempDir(), L3: l3, L1MaxBytes: 64 << 10}
			e := lab.Open(t, cfg)
			lab.Must(t, e.Submit(ctx, syncengine.Item{ID: "x", Content: lab.Poison}, ahead(50*time.Second)))
			if err := e.Flush(ctx); !errors.Is(err, syncengine.ErrRefused) {
				t.Fatalf("Flush: %v", err)
			}
			switch how {
			case "reopened":
				lab.Must(t, e.Close())
				e = lab.Open(t, cfg)
			case "evicted":
				crowdOut(t, e)
			}
			lab.Put(t, e, "x", 2)
			lab.Must(t, e.Flush(ctx)) // what is refused is superseded
			crowdOut(t, e)
			lab.WantContent(t, e, "x", 2)
			l3.Tolerant.Store(true)
			_, err := e.RetryQuarantined(ctx)
			lab.Must(t, err)
			lab.Must(t, e.Flush(ctx))
			lab.WantContent(t, e, "x", 2)
		})
	}
}

// L3 has decided a conditional write numbered ahead, and this engine does not know, or is killed
// before it can note anything.
func TestINV16AWriteIsAboveADecisionThatNobodyHasHeard(t *testing.T) {
	for _, how := range []string{"mute", "killed"} {
		t.Run(how, func(t *testing.T) {
			ctx := context.Background()
			l3 := newSlowDecision(t)
			cfg := syncengine.Config{Dir: t.TempDir(), L3: l3, L3Timeout: 200 * time.Millisecond}
			e := lab.Open(t, cfg)
			lab.Put(t, e, "other", 1)
			lab.Must(t, e.Flush(ctx))
			lab.Eventually(t, "the log is empty", func() bool { return e.Stats().WALItems == 0 })
			if how == "mute" {
				l3.mute.Store(true)
				if err := e.Insert(ctx, syncengine.Item{ID: "x", Content: lab.Doc("x", 1)}, ahead(50*time.Second)); err == nil {
					t.Fatal("Insert says that it was stored")
				}
				l3.mute.Store(false)
			} else {
				inner := l3.Fn
				l3.Fn = func(ctx context.Context, tier, call string, do func() error) error {
					err := inner(ctx, tier, call, do)
					if call == "ApplyIf" {
						cfg.Dir = lab.Killed(t, cfg.Dir)
					}
					return err
				}
				lab.Must(t, e.Insert(ctx, syncengine.Item{ID: "x", Content: lab.Doc("x", 1)}, ahead(50*time.Second)))
				l3.Fn = inner
				e = lab.Open(t, cfg)
			}
			lab.Put(t, e, "x", 2)
			lab.Eventually(t, "L3 is back", func() bool { return e.Flush(ctx) == nil })
			lab.WantContent(t, e, "x", 2)
			wantNoneSuperseded(t, e)
		})
	}
}

// More ids than are kept one by one.
func TestINV16ManyIDsNumberedAheadAreKnownAfterACrash(t *testing.T) {
	ctx := context.Background()
	l3 := storetest.NewArchive()
	cfg := syncengine.Config{Dir: t.TempDir(), L3: l3}
	e := lab.Open(t, cfg)
	items := make([]syncengine.Item, 1200)
	for i := range items {
		items[i] = syncengine.Item{ID: fmt.Sprint("a-", i), Content: lab.Doc("a", 1)}
	}
	_, err := e.SubmitMany(ctx, items, ahead(50*time.Second))
	lab.Must(t, err)
	lab.Must(t, e.Flush(ctx))
	lab.Eventually(t, "the log is empty", func() bool { return e.Stats().WALItems == 0 })
	e = lab.Open(t, syncengine.Config{Dir: lab.Killed(t, cfg.Dir), L3: l3})
	for _, id := range []string{"a-5", "a-1100"} {
		lab.Put(t, e, id, 2)
		lab.Must(t, e.Flush(ctx))
		lab.WantContent(t, e, id, 2)
	}
	wantNoneSuperseded(t, e)
}

// Nothing can be written above the largest version there is: that is said, and not tried for ever.
func TestAnArchivedOpBelowTheLargestVersionIsStale(t *testing.T) {
	ctx := context.Background()
	for n := range 4 {
		l3 := lab.NewChoosy(t)
		e := lab.Open(t, syncengine.Config{L3: l3, BatchFlushInterval: time.Millisecond})
		_, err := l3.ArchiveStore.Apply(ctx, []syncengine.Record{storetest.Put("x", syncengine.MaxVersion, `"theirs"`)})
		lab.Must(t, err)
		err = e.Submit(ctx, syncengine.Item{ID: "x", Content: lab.Doc("x", n)}, syncengine.WithDurability(syncengine.Archived))
		rec, gerr := l3.ArchiveStore.Get(ctx, "x")
		lab.Must(t, gerr)
		if (err == nil) != (string(rec.Content) == string(lab.Doc("x", n))) || err != nil && !errors.Is(err, syncengine.ErrStaleVersion) {
			t.Errorf("Submit: %v; L3 holds %.30s", err, rec.Content)
		}
		if n := e.Stats().FlushedOps; n > 5 {
			t.Errorf("%d ops were flushed for one call", n)
		}
	}
}

// refusedAndLogged leaves x in quarantine and, by a crash, in the WAL as well, behind and before so
// many others. l3, which is empty, refuses it again.
func refusedAndLogged(t *testing.T, others int) (cfg syncengine.Config, l3 *lab.Choosy) {
	t.Helper()
	first := lab.NewChoosy(t)
	defer first.Release()
	cfg = syncengine.Config{Dir: t.TempDir(), L3: first, BatchFlushInterval: time.Millisecond, BatchFlushCount: 1}
	e := lab.Open(t, cfg)
	first.Stick(t, e) // keeps the WAL from being trimmed
	for i := range others {
		lab.Put(t, e, fmt.Sprint("before ", i), 1)
	}
	lab.Must(t, e.Submit(context.Background(), syncengine.Item{ID: "x", Content: lab.Poison}))
	lab.Eventually(t, "it is refused", func() bool { return e.Stats().Quarantined == 1 })
	for i := range others {
		lab.Put(t, e, fmt.Sprint("behind ", i), 1)
	}
	cfg.Dir = lab.Killed(t, cfg.Dir)
	l3 = lab.NewChoosy(t)
	l3.Release()
	cfg.L3 = l3
	return cfg, l3
}

// heldAt makes l3 wait, once, with the op of an id: under tells that it has it, and it goes on when
// gate is closed.
func heldAt(l3 *lab.Choosy, id string) (under, gate chan bool) {
	under, gate = make(chan bool), make(chan bool)
	inner, once := l3.OnApply, sync.OnceFunc(func() { close(under); <-gate })
	l3.OnApply = func(ctx context.Context, recs []syncengine.Record) error {
		if recs[0].ID == id {
			once()
		}
		return inner(ctx, recs)
	}
	return under, gate
}

// After a crash an op is in the WAL and in quarantine. It is discarded while the drain has it.
func TestADiscardedOpDoesNotComeBackFromTheDrain(t *testing.T) {
	for name, takes := range map[string]bool{"that L3 refuses again": false, "that L3 takes now": true} {
		t.Run(name, func(t *testing.T) {
			ctx := context.Background()
			cfg, l3 := refusedAndLogged(t, 0)
			l3.Tolerant.Store(takes)
			under, gate := heldAt(l3, "x")
			e := lab.Open(t, cfg)
			<-under // the WAL has it as well
			short, cancel := context.WithTimeout(ctx, time.Millisecond)
			defer cancel()
			if n, err := e.DiscardQuarantined(short, "x"); n != 0 || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("DiscardQuarantined, while L3 has it in hands: %d, %v", n, err)
			}
			wantQuarantined(t, e, "x")
			discarded := make(chan error, 1)
			want := 1
			if takes {
				want = 0
			}
			go func() {
				n, err := e.DiscardQuarantined(ctx, "x")
				if n != want {
					err = fmt.Errorf("%d ops, want %d; %w", n, want, err)
				}
				discarded <- err
			}()
			close(gate)
			lab.Must(t, <-discarded)
			lab.Must(t, e.Flush(ctx))
			wantQuarantined(t, e)
			if takes {
				wantPoison(t, e, "x")
			} else {
				lab.WantContent(t, e, "x", -1)
			}
		})
	}
}

// After a crash an op is in the WAL and in quarantine. It is retried while the drain has it, L3
// refuses what the drain has, and before it refuses what was retried, too, the op is discarded: it
// was counted as discarded, and came back.
func TestARetriedOpThatIsDiscardedDoesNotComeBack(t *testing.T) {
	ctx := context.Background()
	cfg, l3 := refusedAndLogged(t, 0)
	under, gate := heldAt(l3, "x")
	cfg.BatchFlushInterval, cfg.BatchFlushCount = time.Hour, 1000
	e := lab.Open(t, cfg)
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	_ = e.Flush(short) // after it what is retried waits
	<-under            // the WAL has it as well
	retried := make(chan error, 1)
	go func() {
		n, err := e.RetryQuarantined(ctx, "x")
		if n != 1 {
			err = fmt.Errorf("%d ops; %w", n, err)
		}
		retried <- err
	}()
	select { // it may wait for what the drain has
	case err := <-retried:
		retried <- err
	case <-time.After(300 * time.Millisecond):
	}
	close(gate)
	lab.Must(t, <-retried)
	discardsForGood(t, e, cfg, l3)
}

// The drain has not read yet what the WAL has of an op that is retried: it was refused first, and
// discarded, and what was retried came back.
func TestWhatTheDrainHasNotReadIsDiscardedByARetry(t *testing.T) {
	ctx := context.Background()
	cfg, l3 := refusedAndLogged(t, 20)
	first, goOn := heldAt(l3, "before 0")
	second, goOnAgain := heldAt(l3, "behind 0")
	cfg.FlushConcurrency = 1
	e := lab.Open(t, cfg)
	<-first
	if n, err := e.RetryQuarantined(ctx); n != 1 || err != nil {
		t.Fatalf("RetryQuarantined: %d, %v", n, err)
	}
	close(goOn)
	<-second // the old copy is done with
	if n, err := e.DiscardQuarantined(ctx, "x"); n != 0 || err != nil {
		t.Errorf("DiscardQuarantined, while what was retried waits: %d, %v", n, err)
	}
	close(goOnAgain)
	discardsForGood(t, e, cfg, l3)
}

// Two ops of an id are in quarantine, and the older one is retried, with its group: reads answered
// with it, while it waited, after it was refused again, and after it landed.
func TestINV02TheNewestRefusedAnswersWhenAnOlderOneIsRetried(t *testing.T) {
	ctx := context.Background()
	l3 := lab.NewChoosy(t)
	defer l3.Release()
	cfg := syncengine.Config{Dir: t.TempDir(), L3: l3, BatchFlushInterval: time.Hour}
	e := lab.Open(t, cfg)
	refused := func() {
		t.Helper()
		if err := e.Flush(ctx); !errors.Is(err, syncengine.ErrRefused) {
			t.Fatalf("Flush: %v", err)
		}
	}
	_, err := e.SubmitMany(ctx, []syncengine.Item{{ID: "refused", Content: []byte(`1`)}, {ID: "y", Content: []byte(`1`)}})
	lab.Must(t, err)
	refused()
	const newest = `2`
	lab.Must(t, e.Submit(ctx, syncengine.Item{ID: "refused", Content: []byte(newest)}))
	refused()
	lab.Must(t, e.Close())
	e = lab.Open(t, cfg)
	retry := func() {
		t.Helper()
		if n, err := e.RetryQuarantined(ctx, "y"); n != 2 || err != nil {
			t.Fatalf("RetryQuarantined: %d, %v", n, err)
		}
	}
	agree := func(when string) {
		t.Helper()
		it, err := e.Get(ctx, "refused")
		if string(it.Content) != newest {
			t.Errorf("%s: Get: %q, %v", when, it.Content, err)
		}
		all, err := e.GetMany(ctx, []string{"refused"})
		if err != nil || all[0] == nil || string(all[0].Content) != newest {
			t.Errorf("%s: GetMany: %v, %v", when, all, err)
		}
	}
	retry()
	agree("while it waits")
	refused()
	agree("after it was refused again")
	e.Invalidate("refused")
	retry()
	l3.Tolerant.Store(true)
	refused() // the newest still is
	agree("after it landed")
	wantQuarantined(t, e, "refused")
}

// An op is in quarantine, and a later one of its id in the log since before a kill: reads answer
// with that while the refused one is retried, and when both have landed.
func TestINV02ARetryHidesNothingThatWaitsInTheLog(t *testing.T) {
	ctx := context.Background()
	for name, later := range map[string]func(e *syncengine.Engine) error{
		"a later put": func(e *syncengine.Engine) error {
			return e.Submit(ctx, syncengine.Item{ID: "x", Content: lab.Doc("x", 3)}, syncengine.WithVersion(3))
		},
		"a delete of its version": func(e *syncengine.Engine) error { return e.Delete(ctx, "x", syncengine.WithVersion(2)) },
	} {
		t.Run(name, func(t *testing.T) {
			first := lab.NewChoosy(t)
			defer first.Release()
			cfg := syncengine.Config{Dir: t.TempDir(), L3: first, BatchFlushInterval: time.Millisecond, BatchFlushCount: 2, FlushConcurrency: 1, L1MaxAge: time.Hour}
			e := lab.Open(t, cfg)
			lab.Must(t, e.Submit(ctx, syncengine.Item{ID: "x", Content: lab.Poison}, syncengine.WithVersion(2)))
			lab.Eventually(t, "it is refused", func() bool { return e.Stats().Quarantined == 1 })
			first.Stick(t, e)     // keeps all in the WAL
			lab.Put(t, e, "a", 1) // the first batch has these two
			lab.Must(t, later(e))
			want := -1
			if name == "a later put" {
				want = 3
			}
			cfg.Dir = lab.Killed(t, cfg.Dir)
			first.Release()
			l3 := lab.NewChoosy(t)
			l3.Release()
			under, gate := heldAt(l3, "a")
			cfg.L3 = l3
			e = lab.Open(t, cfg)
			<-under
			n, err := e.RetryQuarantined(ctx, "x")
			if n != 1 || err != nil {
				t.Errorf("RetryQuarantined: %d, %v", n, err)
			}
			it, err := e.Get(ctx, "x")
			if want < 0 != errors.Is(err, syncengine.ErrNotFound) || want > 0 && string(it.Content) != string(lab.Doc("x", want)) {
				t.Errorf("while it is retried: %.40s, %v", it.Content, err)
			}
			l3.Tolerant.Store(true)
			close(gate)
			lab.Must(t, e.Flush(ctx))
			lab.WantContent(t, e, "x", want)
			wantQuarantined(t, e)
		})
	}
}

// An op that waits in the WAL since before a kill is known by its version alone: between it and
// another one of that version the contents decide, as if it were in memory.
func TestINV02ATieWithWhatWaitsInTheWALIsDecided(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	low, high := []byte(`1`), []byte(`2`)
	if a, b := sha256.Sum256(low), sha256.Sum256(high); bytes.Compare(a[:], b[:]) > 0 {
		low, high = high, low
	}
	cases := map[string]struct {
		first, then []byte // nil: a delete
		stale       bool
	}{"lower": {high, low, true}, "refused": {high, low, true}, "the same": {high, high, false}, "higher": {low, high, false},
		"a put over a delete": {nil, high, true}, "a delete": {high, nil, false}}
	write := func(e *syncengine.Engine, id string, content []byte) error {
		if content == nil {
			return e.Delete(ctx, id, syncengine.WithVersion(5))
		}
		return e.Submit(ctx, syncengine.Item{ID: id, Content: content}, syncengine.WithVersion(5))
	}
	l3 := lab.NewChoosy(t)
	defer l3.Release()
	cfg := syncengine.Config{Dir: t.TempDir(), L3: l3, BatchFlushInterval: time.Millisecond}
	e := lab.Open(t, cfg)
	lab.Must(t, write(e, "refused", cases["refused"].first))
	lab.Eventually(t, "it is refused", func() bool { return e.Stats().Quarantined == 1 })
	l3.Away.Store(true)
	for id, c := range cases {
		lab.Must(t, write(e, id, c.first))
	}
	cfg.Dir = lab.Killed(t, cfg.Dir)
	e = lab.Open(t, cfg)
	for id, c := range cases {
		if err := write(e, id, c.then); errors.Is(err, syncengine.ErrStaleVersion) != c.stale {
			t.Errorf("%s: %v", id, err)
		}
		want := c.then
		if c.stale {
			want = c.first
		}
		if it, err := e.Get(ctx, id); !bytes.Equal(it.Content, want) || errors.Is(err, syncengine.ErrNotFound) != (want == nil) {
			t.Errorf("%s: Get: %s, %v", id, it.Content, err)
		}
	}
}

// An op loses a tie to one that waits behind it, and is refused: a retry does not put it into the
// log behind that, where after a kill it would be the last.
func TestINV02ARetriedLoserOfATieAnswersNotAfterAKill(t *testing.T) {
	ctx := context.Background()
	first := lab.NewChoosy(t)
	defer first.Release()
	cfg := syncengine.Config{Dir: t.TempDir(), L3: first, BatchFlushInterval: time.Millisecond, BatchFlushCount: 1, FlushConcurrency: 1}
	e := lab.Open(t, cfg)
	lab.Must(t, e.Submit(ctx, syncengine.Item{ID: "x", Content: lab.Poison}, syncengine.WithVersion(2)))
	lab.Eventually(t, "it is refused", func() bool { return e.Stats().Quarantined == 1 })
	first.Stick(t, e)
	lab.Must(t, e.Delete(ctx, "x", syncengine.WithVersion(2)))
	if n, err := e.RetryQuarantined(ctx); n != 1 || err != nil {
		t.Errorf("RetryQuarantined: %d, %v", n, err)
	}
	cfg.Dir = lab.Killed(t, cfg.Dir)
	first.Release()
	l3 := lab.NewChoosy(t)
	l3.Away.Store(true)
	cfg.L3 = l3
	e = lab.Open(t, cfg)
	if it, err := e.Get(ctx, "x"); !errors.Is(err, syncengine.ErrNotFound) {
		t.Errorf("Get: %.40s, %v", it.Content, err)
	}
}

// rotOldestRow damages the oldest row of quarantine in the file.
func rotOldestRow(t *testing.T, cfg syncengine.Config) {
	t.Helper()
	_, err := lab.OpenDriver(t, "sqlite", filepath.Join(cfg.Dir, "wal.db")).Exec("UPDATE quarantine SET crc = crc + 1 WHERE id = (SELECT MIN(id) FROM quarantine)")
	lab.Must(t, err)
}

// A row rots that the log has a sound copy of: a retry, which can't read it, leaves that copy
// alone.
func TestINV01ARetryOfADamagedRowLeavesWhatTheLogHasOfIt(t *testing.T) {
	ctx := context.Background()
	cfg, l3 := refusedAndLogged(t, 0)
	l3.Away.Store(true)
	e := lab.Open(t, cfg)
	rotOldestRow(t, cfg)
	if n, err := e.RetryQuarantined(ctx); n != 0 || !errors.Is(err, syncengine.ErrWALCorrupt) {
		t.Errorf("RetryQuarantined: %d, %v", n, err)
	}
	l3.Tolerant.Store(true)
	l3.Away.Store(false)
	lab.Eventually(t, "what the log has is in L3", func() bool { r, err := l3.ArchiveStore.Get(ctx, "x"); return err == nil && !r.Deleted })
	lab.Must(t, e.Flush(ctx))
	wantQuarantined(t, e)
	wantPoison(t, e, "x")
}

// A row that rotted in the file is told; the others are retried.
func TestADamagedRowStopsNoRetryOfOthers(t *testing.T) {
	ctx := context.Background()
	l3 := lab.NewChoosy(t)
	defer l3.Release()
	cfg := syncengine.Config{Dir: t.TempDir(), L3: l3, BatchFlushInterval: time.Hour}
	e := lab.Open(t, cfg)
	for _, id := range []string{"first", "second"} {
		lab.Must(t, e.Submit(ctx, syncengine.Item{ID: id, Content: lab.Poison}))
		if err := e.Flush(ctx); !errors.Is(err, syncengine.ErrRefused) {
			t.Fatalf("Flush: %v", err)
		}
	}
	rotOldestRow(t, cfg)
	ops, err := e.Quarantined(ctx)
	if len(ops) != 1 || ops[0].ID != "second" || !errors.Is(err, syncengine.ErrWALCorrupt) || !strings.Contains(err.Error(), `["first"]`) {
		t.Errorf("Quarantined: %+v, %v", ops, err)
	}
	if n, err := e.RetryQuarantined(ctx); n != 1 || !errors.Is(err, syncengine.ErrWALCorrupt) {
		t.Errorf("RetryQuarantined: %d, %v", n, err)
	}
	l3.Tolerant.Store(true)
	_ = e.Flush(ctx)
	wantPoison(t, e, "second")
	if n, err := e.DiscardQuarantined(ctx, "first"); n != 1 || err != nil {
		t.Errorf("DiscardQuarantined: %d, %v", n, err)
	}
	lab.Must(t, e.Flush(ctx))
}

// Many ops are in quarantine and in the WAL: each is retried once, and discarded once.
func TestManyAreRetriedAndDiscardedAfterACrash(t *testing.T) {
	ctx := context.Background()
	const many = 250
	first := lab.NewChoosy(t)
	defer first.Release()
	cfg := syncengine.Config{Dir: t.TempDir(), L3: first, BatchFlushInterval: time.Millisecond}
	e := lab.Open(t, cfg)
	first.Stick(t, e)
	var ids []string
	for i := range many {
		ids = append(ids, fmt.Sprint("x", i))
		lab.Must(t, e.Submit(ctx, syncengine.Item{ID: ids[i], Content: lab.Poison}))
	}
	lab.Eventually(t, "all are refused", func() bool { return e.Stats().Quarantined == many })
	cfg.Dir = lab.Killed(t, cfg.Dir)
	first.Release()
	l3 := lab.NewChoosy(t)
	l3.Away.Store(true)
	cfg.L3 = l3
	l3.Release()
	e = lab.Open(t, cfg)
	if n, err := e.RetryQuarantined(ctx, ids...); n != 0 || !errors.Is(err, syncengine.ErrUnavailable) {
		t.Errorf("RetryQuarantined in an outage: %d, %v", n, err)
	}
	if n := e.Stats().Quarantined; n != many {
		t.Errorf("%d are in quarantine, want %d", n, many)
	}
	l3.Away.Store(false)
	lab.Eventually(t, "L3 is back", func() bool { _, err := e.GetVerified(ctx, "nothing"); return errors.Is(err, syncengine.ErrNotFound) })
	for _, id := range ids { // the drain has passed over what the log has of it, perhaps
		wantPoison(t, e, id)
	}
	n, err := e.RetryQuarantined(ctx)
	if n < many || err != nil {
		t.Errorf("RetryQuarantined: %d, %v", n, err)
	}
	if err := e.Flush(ctx); !errors.Is(err, syncengine.ErrRefused) {
		t.Errorf("Flush: %v", err)
	}
	if n := e.Stats().Quarantined; n != many {
		t.Errorf("%d are in quarantine, want %d", n, many)
	}
	if n, err := e.DiscardQuarantined(ctx, ids...); n != many || err != nil {
		t.Errorf("DiscardQuarantined: %d, %v", n, err)
	}
	l3.Tolerant.Store(true)
	cfg.Dir = lab.Killed(t, cfg.Dir)
	e = lab.Open(t, cfg)
	lab.Must(t, e.Flush(ctx))
	wantQuarantined(t, e)
	for _, id := range ids {
		lab.WantContent(t, e, id, -1)
	}
}

// discardsForGood discards x once L3 has refused it, and looks for it, also after a crash.
func discardsForGood(t *testing.T, e *syncengine.Engine, cfg syncengine.Config, l3 *lab.Choosy) {
	t.Helper()
	ctx := context.Background()
	for n := 0; n == 0; {
		var err error
		if n, err = e.DiscardQuarantined(ctx, "x"); err != nil || n > 1 {
			t.Fatalf("DiscardQuarantined: %d, %v", n, err)
		}
		if n == 0 { // L3 has not refused it again
			if err := e.Flush(ctx); !errors.Is(err, syncengine.ErrRefused) {
				t.Fatalf("Flush: %v", err)
			}
		}
	}
	lab.WantContent(t, e, "x", -1)
	lab.Must(t, e.Flush(ctx))
	wantQuarantined(t, e)
	lab.WantContent(t, e, "x", -1)
	l3.Tolerant.Store(true)
	cfg.Dir = lab.Killed(t, cfg.Dir)
	e = lab.Open(t, cfg)
	lab.Must(t, e.Flush(ctx))
	lab.WantContent(t, e, "x", -1)
}

// An op is discarded whose like waits in the WAL, for an Archived caller: the same id, version and
// content. The caller waited for ever.
func TestAnArchivedCallIsToldThatItsOpWasDiscarded(t *testing.T) {
	ctx := context.Background()
	l3 := lab.NewChoosy(t)
	defer l3.Release()
	e := lab.Open(t, syncengine.Config{L3: struct{ syncengine.ArchiveStore }{l3}, L1MaxBytes: 64 << 10, BatchFlushInterval: time.Millisecond, FlushConcurrency: 1})
	version := ahead(0)
	lab.Must(t, e.Submit(ctx, syncengine.Item{ID: "x", Content: lab.Poison}, version))
	if err := e.Flush(ctx); !errors.Is(err, syncengine.ErrRefused) {
		t.Fatalf("Flush: %v", err)
	}
	l3.Stick(t, e)
	for i := 0; e.Stats().SpooledOps == 0; i++ {
		lab.Put(t, e, fmt.Sprint("other-", i), i)
	}
	before := e.Stats().SpooledOps
	done := make(chan error, 1)
	go func() {
		done <- e.Submit(ctx, syncengine.Item{ID: "x", Content: lab.Poison}, version, syncengine.WithDurability(syncengine.Archived))
	}()
	lab.Eventually(t, "it is spooled", func() bool { return e.Stats().SpooledOps > before })
	_, err := e.DiscardQuarantined(ctx)
	lab.Must(t, err)
	l3.Release()
	_ = e.Flush(ctx)
	if err := <-done; !errors.Is(err, syncengine.ErrRefused) {
		t.Errorf("the Archived call: %v", err)
	}
}

// Two ops are discarded; a group of the very same two was accepted later.
func TestINV01ADiscardOfOpsTakesNoGroupOfThem(t *testing.T) {
	ctx := context.Background()
	l3 := lab.NewChoosy(t)
	defer l3.Release()
	e := lab.Open(t, syncengine.Config{L3: l3, L1MaxBytes: 64 << 10, BatchFlushInterval: time.Millisecond, FlushConcurrency: 1})
	version := ahead(0)
	for _, id := range []string{"x", "y"} {
		lab.Must(t, e.Submit(ctx, syncengine.Item{ID: id, Content: lab.Poison}, version))
	}
	if err := e.Flush(ctx); !errors.Is(err, syncengine.ErrRefused) {
		t.Fatalf("Flush: %v", err)
	}
	l3.Stick(t, e)
	for i := 0; e.Stats().SpooledOps == 0; i++ {
		lab.Put(t, e, fmt.Sprint("other-", i), i)
	}
	l3.Tolerant.Store(true)
	_, err := e.SubmitMany(ctx, []syncengine.Item{{ID: "x", Content: lab.Poison}, {ID: "y", Content: lab.Poison}}, version)
	lab.Must(t, err)
	_, err = e.DiscardQuarantined(ctx)
	lab.Must(t, err)
	l3.Release()
	lab.Must(t, e.Flush(ctx))
	wantPoison(t, e, "x")
	wantPoison(t, e, "y")
}

// What an event function, or a reader, does to the content that it got.
func TestINV11WhatIsShownMayBeWrittenInto(t *testing.T) {
	ctx := context.Background()
	told := make(chan bool, 1)
	e := lab.Open(t, syncengine.Config{L3: lab.NewChoosy(t), BatchFlushInterval: time.Millisecond, OnEvent: syncengine.Events{Quarantined: func(op syncengine.QuarantinedOp) {
		clear(op.Content)
		told <- true
	}}})
	lab.Must(t, e.Submit(ctx, syncengine.Item{ID: "x", Content: lab.Poison}))
	<-told
	wantPoison(t, e, "x")
	e = lab.Open(t, syncengine.Config{})
	lab.Must(t, e.Submit(ctx, syncengine.Item{ID: "counter", Content: []byte("1")}))
	lab.Must(t, e.Flush(ctx))
	it, err := e.Get(ctx, "counter")
	lab.Must(t, err)
	it.Content[0] = '7'
	if it, err = e.Update(ctx, "counter", lab.Increment); err != nil || string(it.Content) != "2" {
		t.Errorf("1 + 1 = %s, %v", it.Content, err)
	}
}

// An op waits below one that is refused and discarded: since that overtook it, or since both are in
// the WAL. It was not found, and a new one was put in its place.
func TestINV02ADiscardUncoversWhatWaits(t *testing.T) {
	for _, budget := range []int64{1 << 20, 64 << 10} {
		t.Run(fmt.Sprint(budget), func(t *testing.T) {
			ctx := context.Background()
			l3 := lab.NewChoosy(t)
			defer l3.Release()
			cfg := syncengine.Config{Dir: t.TempDir(), L3: l3, BatchFlushInterval: time.Hour, BatchFlushCount: 1, FlushConcurrency: 1, L1MaxBytes: budget}
			e := lab.Open(t, cfg)
			l3.Stick(t, e)
			if budget < 1<<20 {
				for i := 0; e.Stats().SpooledOps == 0; i++ {
					lab.Put(t, e, fmt.Sprint("other-", i), i)
				}
			}
			lab.Put(t, e, "x", 1, syncengine.WithPriority(syncengine.PriorityLow))
			lab.Must(t, e.Submit(ctx, syncengine.Item{ID: "x", Content: lab.Poison}, syncengine.WithPriority(syncengine.PriorityCritical)))
			lab.Put(t, e, "stuck", 2, syncengine.WithPriority(syncengine.PriorityLow)) // before x, if it is older
			var leaves sync.Once
			inner := l3.OnApply
			l3.OnApply = func(ctx context.Context, recs []syncengine.Record) error {
				if recs[0].ID == "x" && string(recs[0].Content) != string(lab.Poison) {
					leaves.Do(func() { l3.Away.Store(true) })
				}
				return inner(ctx, recs)
			}
			l3.Release()
			lab.Eventually(t, "poison is refused", func() bool { return e.Stats().Quarantined == 1 })
			if n, err := e.DiscardQuarantined(ctx, "x"); n != 1 || err != nil {
				t.Fatalf("DiscardQuarantined: %d, %v", n, err)
			}
			lab.WantContent(t, e, "x", 1)
			leaves.Do(func() {}) // it may not have been asked yet
			l3.Away.Store(false)
			lab.Eventually(t, "L3 is back", func() bool { return e.Flush(ctx) == nil })
			lab.WantContent(t, e, "x", 1)
			wantNoneSuperseded(t, e)
		})
	}
}

// The rows before a damaged one are listed once.
func TestADamagedRowDoublesNoOtherInTheList(t *testing.T) {
	ctx := context.Background()
	cfg := syncengine.Config{Dir: t.TempDir(), L3: lab.NewChoosy(t), BatchFlushInterval: time.Hour}
	e := lab.Open(t, cfg)
	poisonous(t, e, "first", "second", "third")
	db := lab.OpenDriver(t, "sqlite", filepath.Join(cfg.Dir, "wal.db"))
	_, err := db.Exec("UPDATE quarantine SET crc = crc + 1 WHERE id = (SELECT MIN(id) + 1 FROM quarantine)")
	lab.Must(t, err)
	ops, err := e.Quarantined(ctx)
	if len(ops) != 2 || ops[0].ID != "first" || ops[1].ID != "third" || !errors.Is(err, syncengine.ErrWALCorrupt) {
		t.Errorf("Quarantined: %+v, %v", ops, err)
	}
}
