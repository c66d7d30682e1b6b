package promises

// conditions_test.go tests conditional writes and the versions that they and all others get, on
// the engine's own SQLite file and on a shared L3.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

// onEachL3 runs a test on the private file, on a shared file, and on MariaDB.
func onEachL3(t *testing.T, test func(t *testing.T, cfg syncengine.Config)) {
	t.Run("private", func(t *testing.T) { test(t, syncengine.Config{Dir: t.TempDir()}) })
	t.Run("shared SQLite", func(t *testing.T) {
		test(t, syncengine.Config{Dir: t.TempDir(), SQLURL: "sqlite:" + t.TempDir() + "/shared.db"})
	})
	t.Run("MariaDB", func(t *testing.T) {
		test(t, syncengine.Config{Dir: t.TempDir(), SQLURL: testserver.SharedMariaDB(t).NewDatabase(t)})
	})
}

var everyLevel = []syncengine.Durability{syncengine.Buffered, syncengine.Logged, syncengine.Archived}

func TestINV14InsertHasOneWinner(t *testing.T) {
	onEachL3(t, func(t *testing.T, cfg syncengine.Config) {
		e := lab.Open(t, cfg)
		for round := range 20 {
			id, d := fmt.Sprint("new-", round), everyLevel[round%3]
			var won, lost atomic.Int32
			var wg sync.WaitGroup
			for n := range 16 {
				wg.Go(func() {
					err := e.Insert(context.Background(), syncengine.Item{ID: id, Content: lab.Doc(id, n)}, syncengine.WithDurability(d))
					var ce *syncengine.ConflictError
					switch {
					case err == nil:
						won.Add(1)
					case errors.Is(err, syncengine.ErrExists) && errors.Is(err, syncengine.ErrConflict) && errors.As(err, &ce) && ce.ID == id && ce.Want == 0 && ce.Have != 0:
						lost.Add(1)
					default:
						t.Errorf("Insert: %v", err)
					}
				})
			}
			wg.Wait()
			if won.Load() != 1 || lost.Load() != 15 {
				t.Fatalf("%d winners, %d losers", won.Load(), lost.Load())
			}
		}
	})
}

func TestINV14UpdateCountsExactly(t *testing.T) {
	onEachL3(t, func(t *testing.T, cfg syncengine.Config) {
		e := lab.Open(t, cfg)
		var wg sync.WaitGroup
		for g := range 8 {
			wg.Go(func() {
				for range 50 {
					if _, err := e.Update(context.Background(), "counter", lab.Increment, syncengine.WithDurability(everyLevel[g%3])); err != nil {
						t.Errorf("Update: %v", err)
						return
					}
				}
			})
		}
		wg.Wait()
		wantCount(t, e, 400)
		lab.Must(t, e.Flush(context.Background()))
		wantCount(t, e, 400)
		lab.Must(t, e.Close())
		wantCount(t, lab.Open(t, cfg), 400)
	})
}

func wantCount(t *testing.T, e *syncengine.Engine, want int) {
	t.Helper()
	it, err := e.Get(context.Background(), "counter")
	if err != nil || string(it.Content) != strconv.Itoa(want) {
		t.Errorf("the counter is %s, %v, want %d", it.Content, err, want)
	}
}

func TestINV14UpdateOnTwoEnginesCountsExactly(t *testing.T) {
	url := testserver.SharedMariaDB(t).NewDatabase(t)
	engines := []*syncengine.Engine{lab.Open(t, syncengine.Config{SQLURL: url}), lab.Open(t, syncengine.Config{SQLURL: url})}
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for range 25 {
				if _, err := engines[g%2].Update(context.Background(), "counter", lab.Increment); err != nil {
					t.Errorf("Update: %v", err)
					return
				}
			}
		})
	}
	wg.Wait()
	wantCount(t, lab.Open(t, syncengine.Config{SQLURL: url}), 200)
}

func TestConditionsOfEveryKind(t *testing.T) {
	onEachL3(t, func(t *testing.T, cfg syncengine.Config) {
		ctx := context.Background()
		e := lab.Open(t, cfg)
		for _, d := range everyLevel {
			id := "x-" + d.String()
			at := syncengine.WithDurability(d)
			lab.Must(t, e.Insert(ctx, syncengine.Item{ID: id, Content: lab.Doc(id, 1)}, at))
			it, err := e.Get(ctx, id)
			lab.Must(t, err)
			lab.Must(t, e.Submit(ctx, it, syncengine.IfUnchanged(), at))
			wantConflict(t, e.Submit(ctx, it, syncengine.IfUnchanged(), at), id, it.Version)
			wantConflict(t, e.Delete(ctx, id, syncengine.WithIfVersion(it.Version), at), id, it.Version)
			lab.WantContent(t, e, id, 1)
			now, err := e.Get(ctx, id)
			lab.Must(t, err)
			if now.Version <= it.Version {
				t.Errorf("version %d after %d", now.Version, it.Version)
			}
			_, err = e.SubmitMany(ctx, []syncengine.Item{{ID: id + "-other", Content: lab.Doc("o", 1)}, it}, syncengine.IfUnchanged(), at)
			wantConflict(t, err, id, it.Version)
			lab.WantContent(t, e, id+"-other", -1)
			_, err = e.SubmitMany(ctx, []syncengine.Item{{ID: id + "-other", Content: lab.Doc("o", 1)}, now}, syncengine.IfUnchanged(), at)
			lab.Must(t, err)
			now, err = e.Get(ctx, id)
			lab.Must(t, err)
			_, err = e.DeleteMany(ctx, []string{id, "absent"}, syncengine.WithIfVersion(now.Version), at)
			wantConflict(t, err, "absent", now.Version)
			lab.Must(t, e.Delete(ctx, id, syncengine.WithIfVersion(now.Version), at))
			lab.WantContent(t, e, id, -1)
			lab.Must(t, e.Insert(ctx, syncengine.Item{ID: id, Content: lab.Doc(id, 5)}, at)) // a tombstone counts as absent
			lab.WantContent(t, e, id, 5)
			for _, both := range [][]syncengine.WriteOption{{syncengine.IfUnchanged(), syncengine.WithIfVersion(0)}, {syncengine.WithIfVersion(0), syncengine.IfUnchanged()}} {
				if err := e.Submit(ctx, syncengine.Item{ID: id + "-both", Content: lab.Doc("b", 1)}, both...); !errors.Is(err, syncengine.ErrInvalidItem) {
					t.Errorf("two conditions: %v", err)
				}
			}
			if err := e.Delete(ctx, id, syncengine.IfUnchanged()); !errors.Is(err, syncengine.ErrInvalidItem) {
				t.Errorf("Delete with IfUnchanged: %v", err)
			}
		}
	})
}

func wantConflict(t *testing.T, err error, id string, want uint64) {
	t.Helper()
	var ce *syncengine.ConflictError
	if !errors.As(err, &ce) || !errors.Is(err, syncengine.ErrConflict) || ce.ID != id || ce.Want != want {
		t.Errorf("%v, want a conflict of %s at version %d", err, id, want)
	}
}

// TestASubmittedItemNeverFailsForItsVersion: read, change, submit overwrites.
func TestASubmittedItemNeverFailsForItsVersion(t *testing.T) {
	ctx := context.Background()
	e := lab.Open(t, syncengine.Config{})
	lab.Put(t, e, "x", 0)
	for n := range 200 {
		it, err := e.Get(ctx, "x")
		lab.Must(t, err)
		it.Content = lab.Doc("x", n)
		lab.Must(t, e.Submit(ctx, it))
		lab.WantContent(t, e, "x", n)
	}
}

// TestINV16OneNumberFarAheadDoesNotMoveOtherIDs: a caller's number orders its id alone, and one
// that lies in the future is refused.
func TestINV16OneNumberFarAheadDoesNotMoveOtherIDs(t *testing.T) {
	onEachL3(t, func(t *testing.T, cfg syncengine.Config) {
		ctx := context.Background()
		e := lab.Open(t, cfg)
		for _, v := range []uint64{uint64(time.Now().UnixNano()), 1 << 60, syncengine.VersionAt(time.Now().Add(2 * time.Minute)), syncengine.MaxVersion, 1 << 63} {
			err := e.Submit(ctx, syncengine.Item{ID: "numbered", Content: lab.Doc("numbered", 1)}, syncengine.WithVersion(v))
			if !errors.Is(err, syncengine.ErrInvalidItem) || !bytes.Contains([]byte(fmt.Sprint(err)), []byte("VersionAt")) {
				t.Errorf("version %d: %v, want ErrInvalidItem that names VersionAt", v, err)
			}
		}
		ahead := syncengine.VersionAt(time.Now().Add(50 * time.Second))
		for _, v := range []uint64{1, uint64(time.Now().UnixMicro()), ahead} {
			lab.Must(t, e.Submit(ctx, syncengine.Item{ID: "numbered", Content: lab.Doc("numbered", 2)}, syncengine.WithVersion(v)))
		}
		lab.Put(t, e, "other", 1)
		if it, err := e.Get(ctx, "other"); err != nil || it.Version >= syncengine.VersionAt(time.Now().Add(time.Second)) {
			t.Errorf("another id got version %d, %v: it followed", it.Version, err)
		}
		lab.Put(t, e, "numbered", 3) // the known one ahead gets its successor
		lab.WantContent(t, e, "numbered", 3)
		lab.Must(t, e.Flush(ctx))
		lab.Must(t, e.Close())
		e = lab.Open(t, cfg)
		lab.WantContent(t, e, "numbered", 3)
		lab.Put(t, e, "other", 2)
		lab.Must(t, e.Submit(ctx, syncengine.Item{ID: "third", Content: lab.Doc("third", 1)}, syncengine.WithDurability(syncengine.Archived)))
		lab.Must(t, e.Flush(ctx))
		lab.WantContent(t, e, "other", 2)
	})
}

// TestGetOrInsertWithNeverOverwritesAWrite: one begun beside it, at whatever moment.
func TestINV14GetOrInsertWithNeverOverwritesAWrite(t *testing.T) {
	onEachL3(t, func(t *testing.T, cfg syncengine.Config) {
		ctx := context.Background()
		e := lab.Open(t, cfg)
		rounds := 600
		if cfg.SQLURL != "" {
			rounds = 60
		}
		for n := range rounds {
			id := fmt.Sprint("id-", n)
			var wg sync.WaitGroup
			wg.Go(func() {
				for start := time.Now(); time.Since(start) < time.Duration(n%20)*10*time.Microsecond; {
				}
				lab.Must(t, e.Submit(ctx, syncengine.Item{ID: id, Content: lab.Doc(id, 1)}))
			})
			it, err := e.GetOrInsertWith(ctx, id, func(context.Context) (syncengine.Item, error) {
				return syncengine.Item{Content: lab.Doc(id, 2)}, nil
			})
			lab.Must(t, err)
			if got := string(it.Content); got != string(lab.Doc(id, 1)) && got != string(lab.Doc(id, 2)) {
				t.Fatalf("GetOrInsertWith: %s", got)
			}
			wg.Wait()
			lab.WantContent(t, e, id, 1)
		}
		lab.Must(t, e.Flush(ctx))
		for n := range rounds {
			lab.WantContent(t, e, fmt.Sprint("id-", n), 1)
		}
	})
}

// TestINV14GetOrInsertWithDoesNotGiveOutWhatADeleteBeforeItRemoved: an earlier call has not ended
// inserting that.
func TestINV14GetOrInsertWithDoesNotGiveOutWhatADeleteBeforeItRemoved(t *testing.T) {
	ctx := lab.Bounded(t)
	l3 := newGated()
	e := lab.Open(t, syncengine.Config{L3: l3, L3Timeout: time.Minute, Durability: syncengine.Archived, BatchFlushInterval: time.Hour})
	insert := func(ctx context.Context, n int) (syncengine.Item, error) {
		return e.GetOrInsertWith(ctx, "x", func(context.Context) (syncengine.Item, error) {
			return syncengine.Item{Content: lab.Doc("x", n)}, nil
		})
	}
	first := make(chan error, 1)
	go func() {
		_, err := insert(ctx, 1)
		first <- err
	}()
	<-l3.seen // the insert waits in L3
	lab.Must(t, e.Delete(ctx, "x", syncengine.WithDurability(syncengine.Logged)))
	it, err := insert(&askedContext{Context: ctx, asked: sync.OnceFunc(l3.release)}, 2)
	if err != nil || !bytes.Equal(it.Content, lab.Doc("x", 2)) {
		t.Errorf("the call after the delete gets %.40s, %v", it.Content, err)
	}
	lab.Must(t, <-first)
	lab.Must(t, e.Flush(ctx))
	lab.WantContent(t, e, "x", 2)
	if rec, err := l3.Get(ctx, "x"); err != nil || rec.Deleted || !bytes.Equal(rec.Content, lab.Doc("x", 2)) {
		t.Errorf("in L3: %.40s, deleted %v, %v", rec.Content, rec.Deleted, err)
	}
}

// TestGetOrInsertWithIgnoresTheVersionOfTheFactorysItem: one below a tombstone's number must not
// make it try for ever, whether its caller waits or leaves.
func TestGetOrInsertWithIgnoresTheVersionOfTheFactorysItem(t *testing.T) {
	onEachL3(t, func(t *testing.T, cfg syncengine.Config) {
		ctx := lab.Bounded(t)
		e := lab.Open(t, cfg)
		for id, v := range map[string]uint64{"old": 10, "ahead": syncengine.VersionAt(time.Now().Add(30 * time.Second))} {
			lab.Must(t, e.Submit(ctx, syncengine.Item{ID: id, Content: lab.Doc(id, 1)}, syncengine.WithVersion(v)))
			lab.Must(t, e.Delete(ctx, id, syncengine.WithVersion(v+1)))
			its, leave := context.WithCancel(ctx)
			defer leave()
			left := make(chan struct{})
			insert := func(ctx context.Context) (syncengine.Item, error) {
				return e.GetOrInsertWith(ctx, id, func(context.Context) (syncengine.Item, error) {
					leave()
					<-left
					return syncengine.Item{Version: 7, Content: lab.Doc(id, 2)}, nil
				})
			}
			if _, err := insert(its); !errors.Is(err, context.Canceled) {
				t.Errorf("%s: the caller that left: %v", id, err)
			}
			close(left)
			it, err := insert(ctx)
			lab.Must(t, err)
			got, err := e.Get(ctx, id)
			if err != nil || got.Version != it.Version || got.Version <= v+1 || !bytes.Equal(got.Content, lab.Doc(id, 2)) {
				t.Errorf("%s: inserted at version %d, then %.40s at %d, %v, want one above %d", id, it.Version, got.Content, got.Version, err, v+1)
			}
		}
	})
}

func TestAFactoryMustNotAskForItsOwnID(t *testing.T) {
	ctx := context.Background()
	e := lab.Open(t, syncengine.Config{})
	var ask func(id, then string) func(context.Context) (syncengine.Item, error)
	ask = func(id, then string) func(context.Context) (syncengine.Item, error) {
		return func(ctx context.Context) (syncengine.Item, error) {
			it, err := e.GetOrInsertWith(ctx, then, ask(then, id))
			it.ID = id
			return it, err
		}
	}
	for _, then := range []string{"a", "b"} { // itself, or one that asks for it
		if _, err := e.GetOrInsertWith(ctx, "a", ask("a", then)); !errors.Is(err, syncengine.ErrInvalidItem) {
			t.Errorf("%v, want ErrInvalidItem", err)
		}
	}
}

func TestAFactoryThatNeverReturnsIsLeftBehind(t *testing.T) {
	ctx := context.Background()
	e := lab.Open(t, syncengine.Config{FactoryTimeout: 50 * time.Millisecond})
	forever := make(chan struct{})
	defer close(forever)
	for range 2 {
		_, err := e.GetOrInsertWith(ctx, "a", func(context.Context) (syncengine.Item, error) {
			<-forever
			return syncengine.Item{}, lab.ErrAway
		})
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v, want DeadlineExceeded", err)
		}
	}
	it, err := e.GetOrInsertWith(ctx, "a", func(context.Context) (syncengine.Item, error) {
		return syncengine.Item{Content: lab.Doc("a", 1)}, nil
	})
	if err != nil || !bytes.Equal(it.Content, lab.Doc("a", 1)) {
		t.Errorf("the next caller gets %s, %v", it.Content, err)
	}
	lab.Must(t, e.Close())
}

func TestGetOrInsertWithLooksOnce(t *testing.T) {
	e := lab.Open(t, syncengine.Config{})
	for n := range 100 {
		_, err := e.GetOrInsertWith(context.Background(), fmt.Sprint(n), func(context.Context) (syncengine.Item, error) {
			return syncengine.Item{Content: lab.Doc("a", n)}, nil
		})
		lab.Must(t, err)
	}
	if s := e.Stats(); s.L1Misses != 100 || s.L3Misses > 100 {
		t.Errorf("%d misses in L1, %d in L3, want 100", s.L1Misses, s.L3Misses)
	}
}

// TestWhatUpdatesFunctionSays: errors, no change, wrong ids.
func TestWhatUpdatesFunctionSays(t *testing.T) {
	onEachL3(t, func(t *testing.T, cfg syncengine.Config) {
		ctx := context.Background()
		e := lab.Open(t, cfg)
		say := func(err error) func(syncengine.Item, bool) (syncengine.Item, error) {
			return func(cur syncengine.Item, _ bool) (syncengine.Item, error) { return cur, err }
		}
		if it, err := e.Update(ctx, "x", say(syncengine.ErrNoChange)); err != nil || it.ID != "" {
			t.Errorf("no change of what is absent: %+v, %v", it, err)
		}
		lab.Put(t, e, "x", 1)
		if it, err := e.Update(ctx, "x", say(syncengine.ErrNoChange)); err != nil || !bytes.Equal(it.Content, lab.Doc("x", 1)) {
			t.Errorf("no change: %+v, %v", it, err)
		}
		if _, err := e.Update(ctx, "x", say(lab.ErrAway)); !errors.Is(err, lab.ErrAway) {
			t.Errorf("%v, want the function's error", err)
		}
		if _, err := e.Update(ctx, "x", func(syncengine.Item, bool) (syncengine.Item, error) { panic("a user's") }); err == nil {
			t.Error("a panic is no error")
		}
		if _, err := e.Update(ctx, "x", func(cur syncengine.Item, _ bool) (syncengine.Item, error) { cur.ID = "y"; return cur, nil }); !errors.Is(err, syncengine.ErrInvalidItem) {
			t.Errorf("another id: %v", err)
		}
		_, err := e.Update(ctx, "x", say(nil), syncengine.WithIfVersion(7))
		wantConflict(t, err, "x", 7)
		lab.WantContent(t, e, "x", 1)
	})
}

// TestAnUpdateWhoseCallerLeavesWakesThoseWhoBuiltOnIt: they were given a result that nobody will
// write any more.
func TestAnUpdateWhoseCallerLeavesWakesThoseWhoBuiltOnIt(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	l3 := newGated()
	e := lab.Open(t, syncengine.Config{L3: l3, L3Timeout: time.Minute})
	first, left := make(chan error, 1), make(chan error, 1)
	go func() { first <- e.Insert(ctx, syncengine.Item{ID: "y", Content: lab.Doc("y", 1)}) }()
	<-l3.seen // the loop that asks L3 is busy
	its, leave := context.WithCancel(ctx)
	ran := make(chan struct{})
	go func() {
		_, err := e.Update(its, "x", func(syncengine.Item, bool) (syncengine.Item, error) {
			close(ran)
			return syncengine.Item{Content: lab.Doc("x", 1)}, nil
		})
		left <- err
	}()
	<-ran
	calls := 0
	it, err := e.Update(ctx, "x", func(_ syncengine.Item, exists bool) (syncengine.Item, error) {
		if calls++; calls == 1 {
			if !exists {
				t.Error("the second caller was not given the result of the first")
			}
			leave()
			if err := <-left; !errors.Is(err, context.Canceled) {
				t.Errorf("the caller that left: %v", err)
			}
		}
		return syncengine.Item{}, syncengine.ErrNoChange
	})
	if err != nil || it.ID != "" || calls != 2 {
		t.Errorf("after %d calls of the function: %+v, %v", calls, it, err)
	}
	l3.release()
	lab.Must(t, <-first)
}

// TestAnUpdateWhoseFunctionEndsItsGoroutineLetsTheNextOneIn: t.FailNow does that.
func TestAnUpdateWhoseFunctionEndsItsGoroutineLetsTheNextOneIn(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	e := lab.Open(t, syncengine.Config{})
	running, waits := make(chan struct{}), make(chan struct{})
	go func() {
		_, _ = e.Update(ctx, "counter", func(cur syncengine.Item, _ bool) (syncengine.Item, error) {
			close(running)
			<-waits
			runtime.Goexit()
			return cur, nil
		})
	}()
	<-running
	_, err := e.Update(&askedContext{Context: ctx, asked: sync.OnceFunc(func() { close(waits) })}, "counter", lab.Increment)
	lab.Must(t, err)
	wantCount(t, e, 1)
}

// askedContext tells when somebody begins to wait for its end.
type askedContext struct {
	context.Context
	asked func()
}

func (c *askedContext) Done() <-chan struct{} {
	c.asked()
	return c.Context.Done()
}

// TestINV14AnUpdateIsNeverMadeOfWhatABufferedWriteHasReplaced: one goroutine writes rising numbers,
// at Buffered; others update the item, and leave the number as it is. So nobody may see an old one.
func TestINV14AnUpdateIsNeverMadeOfWhatABufferedWriteHasReplaced(t *testing.T) {
	ctx := lab.Bounded(t)
	e := lab.Open(t, syncengine.Config{BatchFlushInterval: time.Millisecond})
	number := func(it *syncengine.Item) (n int) {
		_, _ = fmt.Sscanf(string(it.Content), `"%d`, &n)
		return n
	}
	var over atomic.Bool
	var work sync.WaitGroup
	for g := range 6 {
		work.Go(func() {
			for n := 0; !over.Load(); n++ {
				_, err := e.Update(ctx, fmt.Sprint("x", n%3), func(cur syncengine.Item, _ bool) (syncengine.Item, error) {
					cur.Content = fmt.Appendf(nil, `"%d of %d"`, number(&cur), g)
					return cur, nil
				}, syncengine.WithDurability([]syncengine.Durability{syncengine.Buffered, syncengine.Logged}[n%2]))
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	last := make(map[string]int)
	for n, end := 1, time.Now().Add(2*time.Second); time.Now().Before(end) && !t.Failed(); n++ {
		id := fmt.Sprint("x", n%3)
		if it, err := e.Get(ctx, id); last[id] != 0 && (err != nil || number(&it) < last[id]) {
			t.Errorf("after %d was accepted: %s, %v", last[id], it.Content, err)
		}
		lab.Must(t, e.Submit(ctx, syncengine.Item{ID: id, Content: fmt.Appendf(nil, `"%d"`, n)}, syncengine.WithDurability(syncengine.Buffered)))
		last[id] = n
		runtime.Gosched()
	}
	over.Store(true)
	work.Wait()
}
