package neighbours

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"math/rand"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/faultproxy"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

// follow watches in the background until ctx ends, and hands over what comes.
func follow(ctx context.Context, e *syncengine.Engine, prefix string) <-chan syncengine.Change {
	seq, out := e.Watch(ctx, prefix), make(chan syncengine.Change, 10_000)
	go func() {
		defer close(out)
		for c, err := range seq {
			if err != nil {
				return
			}
			out <- c
		}
	}()
	return out
}

// next waits for a change.
func next(t testing.TB, changes <-chan syncengine.Change) syncengine.Change {
	t.Helper()
	select {
	case c, ok := <-changes:
		if !ok {
			t.Fatal("the watch has ended")
		}
		return c
	case <-time.After(10 * time.Second):
		t.Fatal("no change for 10 s")
	}
	return syncengine.Change{}
}

func TestWatchTellsOfWhatThisAndOtherEnginesWrite(t *testing.T) {
	lab.EachL3(t, func(t *testing.T, cfg syncengine.Config, _ *sql.DB) {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		cfg.KeyPrefix, cfg.RedisURL = lab.NewPrefix(), testserver.SharedRedis(t).URL()
		a := lab.Open(t, cfg)
		cfg.RedisURL = "" // nobody tells of what this one writes
		b := lab.Open(t, cfg)
		submit(t, a, "p:before", "0", archived)
		changes := follow(ctx, a, "p:")
		submit(t, a, "other", "0", archived)
		for n, e := range []*syncengine.Engine{a, b, a, b} {
			id, want := fmt.Sprint("p:", n%3), fmt.Sprint(n)
			submit(t, e, id, want, archived)
			c := next(t, changes)
			if c.Kind != syncengine.ChangePut || c.ID != id || string(c.Item.Content) != want || c.Version == 0 || c.Version != c.Item.Version {
				t.Fatalf("told of %+v, want %s of %s", c, want, id)
			}
		}
		lab.Must(t, b.Delete(ctx, "p:1", archived))
		if c := next(t, changes); c.Kind != syncengine.ChangeDelete || c.ID != "p:1" || c.Item.ID != "" {
			t.Fatalf("told of %+v", c)
		}
		_, err := a.SubmitMany(ctx, []syncengine.Item{{ID: "p:a", Content: []byte("1")}, {ID: "q", Content: []byte("1")}, {ID: "p:b", Content: []byte("1")}}, archived)
		lab.Must(t, err)
		for _, id := range []string{"p:a", "p:b"} {
			if c := next(t, changes); c.ID != id {
				t.Fatalf("told of %s, want %s", c.ID, id)
			}
		}
		if len(changes) > 0 {
			t.Errorf("and of %+v", <-changes)
		}
	})
}

func TestWatchTellsWhatExpires(t *testing.T) {
	lab.EachL3(t, func(t *testing.T, cfg syncengine.Config, _ *sql.DB) {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		e := lab.Open(t, cfg)
		changes := follow(ctx, e, "")
		submit(t, e, "x", "1", archived, syncengine.WithTTL(200*time.Millisecond))
		put := next(t, changes)
		for put.Kind != syncengine.ChangeExpire { // at once, on a slow machine
			if put.Kind != syncengine.ChangePut || put.Item.ExpiresAt.IsZero() {
				t.Fatalf("told of %+v", put)
			}
			expiry := next(t, changes)
			if expiry.Kind != syncengine.ChangeExpire || expiry.Version != put.Version || expiry.Item.ID != "" {
				t.Fatalf("told of %+v, and then of %+v", put, expiry)
			}
			put = expiry
		}
		submit(t, e, "x", "2", archived)
		for c := next(t, changes); c.Kind != syncengine.ChangePut; c = next(t, changes) {
			if c.Kind == syncengine.ChangeDelete {
				t.Errorf("told of %+v", c)
			}
		}
	})
}

// churn writes by two engines in the background, and at the end the item "last".
func churn(ctx context.Context, t *testing.T, engines []*syncengine.Engine) (done chan struct{}) {
	var writers sync.WaitGroup
	for w := range 4 {
		writers.Add(1)
		go func() {
			defer writers.Done()
			rng := rand.New(rand.NewSource(int64(w)))
			for n := range 150 {
				e, id := engines[w%2], fmt.Sprint("x", rng.Intn(40))
				var err error
				if rng.Intn(4) == 0 {
					err = e.Delete(ctx, id)
				} else {
					err = e.Submit(ctx, syncengine.Item{ID: id, Content: []byte(fmt.Sprintf(`"%d.%d"`, w, n))})
				}
				if err != nil {
					t.Error(err)
					return
				}
				if n%10 == 0 {
					time.Sleep(time.Millisecond)
				}
			}
		}()
	}
	done = make(chan struct{})
	go func() {
		defer close(done)
		writers.Wait()
		for _, e := range engines {
			if err := e.Flush(ctx); err != nil {
				t.Error(err)
			}
		}
		if err := engines[0].Submit(ctx, syncengine.Item{ID: "last", Content: []byte("1")}, archived); err != nil {
			t.Error(err)
		}
	}()
	return done
}

// TestWatchMissesNothing: whoever lists, watches from before the list, breaks off and goes on from
// the last token, on this engine or another one, again and again, ends with what L3 holds; and
// versions of an id never go down.
func TestWatchMissesNothing(t *testing.T) {
	lab.EachL3(t, func(t *testing.T, cfg syncengine.Config, _ *sql.DB) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		engines := []*syncengine.Engine{lab.Open(t, syncengine.Config{SQLURL: cfg.SQLURL, BatchFlushCount: 20}), lab.Open(t, syncengine.Config{SQLURL: cfg.SQLURL, BatchFlushInterval: time.Millisecond})}
		token, err := engines[0].WatchToken(ctx)
		lab.Must(t, err)
		done := churn(ctx, t, engines)
		rng := rand.New(rand.NewSource(9))
		seen, versions, over := map[string]string{}, map[string]uint64{}, false
		for round := 0; !over; round++ {
			left := rng.Intn(30)
			for c, err := range engines[round%2].WatchFrom(ctx, "", token) {
				lab.Must(t, err)
				if c.Version < versions[c.ID] {
					t.Fatalf("%s goes from version %d to %d", c.ID, versions[c.ID], c.Version)
				}
				versions[c.ID], token = c.Version, c.Token
				if delete(seen, c.ID); c.Kind == syncengine.ChangePut {
					seen[c.ID] = string(c.Item.Content)
				}
				over = over || c.ID == "last"
				if left--; left < 0 || over {
					break
				}
			}
		}
		<-done
		n := 0
		for it, err := range engines[0].All(ctx, "") {
			lab.Must(t, err)
			if n++; seen[it.ID] != string(it.Content) {
				t.Errorf("%s is %s, the watch said %q", it.ID, it.Content, seen[it.ID])
			}
		}
		if n != len(seen) {
			t.Errorf("%d items, the watch said %d", n, len(seen))
		}
	})
}

// TestWatchTellsOfWhatIsCommittedLate: a transaction that has got its number, and is committed
// after others with higher ones were told of.
func TestWatchTellsOfWhatIsCommittedLate(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	url := testserver.SharedMariaDB(t).NewDatabase(t)
	e := lab.Open(t, syncengine.Config{SQLURL: url})
	submit(t, e, "x", "0", archived)
	changes := follow(ctx, e, "")
	raw := testserver.OpenSQL(t, url)
	var delta, logged []byte
	lab.Must(t, raw.QueryRow("SELECT delta, changes FROM sync_deltas ORDER BY id LIMIT 1").Scan(&delta, &logged))
	tx, err := raw.BeginTx(ctx, nil)
	lab.Must(t, err)
	_, err = tx.Exec("INSERT INTO sync_deltas (delta, engine, nonce, changes, at) VALUES (?, 'nobody', 1, ?, UNIX_TIMESTAMP() * 1000000)", delta, logged)
	lab.Must(t, err)
	var tokens []string
	for n := range 40 { // more than are folded at once
		submit(t, e, "y", fmt.Sprint(n), archived)
		tokens = append(tokens, next(t, changes).Token)
	}
	lab.Must(t, tx.Commit())
	if c := next(t, changes); c.ID != "x" {
		t.Fatalf("told of %+v", c)
	}
	for c, err := range e.WatchFrom(ctx, "x", tokens[len(tokens)-1]) { // which was given out before the commit
		if lab.Must(t, err); c.ID == "x" {
			break
		}
	}
}

func TestAWatchOutlivesAnOutage(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	db := testserver.SharedMariaDB(t)
	url, p := db.NewDatabase(t), faultproxy.New(t, db.Addr())
	e, other := lab.Open(t, syncengine.Config{SQLURL: lab.Via(t, url, p), L3Timeout: 300 * time.Millisecond}), lab.Open(t, syncengine.Config{SQLURL: url})
	changes := follow(ctx, e, "")
	p.Cut()
	submit(t, other, "x", "1", archived)
	begun := make(chan (<-chan syncengine.Change))
	go func() { begun <- follow(ctx, e, "") }() // it waits for L3
	submit(t, e, "y", "1")
	p.Restore()
	again := <-begun
	submit(t, other, "z", "1", archived)
	got := map[string]bool{}
	for !got["x"] || !got["y"] {
		got[next(t, changes).ID] = true
	}
	for next(t, again).ID != "z" {
	}
}

func TestAWatchThatCantGoOnSaysSo(t *testing.T) {
	lab.EachL3(t, func(t *testing.T, cfg syncengine.Config, raw *sql.DB) {
		ctx := context.Background()
		cfg.ChangeRetention = 10 * time.Second
		e := lab.Open(t, cfg)
		submit(t, e, "x", "1", archived)
		old, err := e.WatchToken(ctx)
		lab.Must(t, err)
		expired := func(what, token string) {
			t.Helper()
			for _, err := range e.WatchFrom(ctx, "", token) {
				if !errors.Is(err, syncengine.ErrWatchExpired) {
					t.Errorf("%s: %v", what, err)
				}
				return
			}
			t.Errorf("%s: it ended", what)
		}
		for n := range 70 {
			submit(t, e, "x", fmt.Sprint(n), archived)
			if n == 35 {
				_, err := raw.Exec("UPDATE sync_log SET at = at - 11000000")
				lab.Must(t, err)
			}
		}
		var rows int
		lab.Must(t, raw.QueryRow("SELECT COUNT(*) FROM sync_log").Scan(&rows))
		if rows > 40 {
			t.Errorf("%d rows in the log", rows)
		}
		expired("a token that is too old", old)
		expired("no token", "x")
		expired("", "")
		expired("a token of another database", "0123"+old[4:])
		_, err = raw.Exec("DELETE FROM sync_log")
		lab.Must(t, err)
		now, err := e.WatchToken(ctx)
		lab.Must(t, err)
		_, err = raw.Exec("DELETE FROM sync_deltas")
		lab.Must(t, err)
		_, err = raw.Exec("UPDATE sync_meta SET value = '0' WHERE name = 'log_trimmed'")
		lab.Must(t, err)
		expired("a token of a database that has gone back", now)
	})
}

func TestAWatchEndsWithItsContextAndItsEngine(t *testing.T) {
	e := lab.Open(t, syncengine.Config{})
	ctx, cancel := context.WithCancel(context.Background())
	ends := func(seq func(func(syncengine.Change, error) bool), want error) <-chan struct{} {
		done := make(chan struct{})
		go func() {
			defer close(done)
			for _, err := range seq {
				if !errors.Is(err, want) {
					t.Errorf("%v, want %v", err, want)
				}
			}
		}()
		return done
	}
	one, two := ends(e.Watch(ctx, ""), context.Canceled), ends(e.Watch(context.Background(), ""), syncengine.ErrClosed)
	cancel()
	<-one
	lab.Must(t, e.Close())
	<-two
	<-ends(e.Watch(context.Background(), ""), syncengine.ErrClosed)
	if _, err := e.WatchToken(context.Background()); !errors.Is(err, syncengine.ErrClosed) {
		t.Error(err)
	}
}

// TestManyWatchesAskL3LikeOne: of the same ids and of others, when they hear of changes and when
// they find them later.
func TestManyWatchesAskL3LikeOne(t *testing.T) {
	lab.EachL3(t, func(t *testing.T, cfg syncengine.Config, _ *sql.DB) {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		reg := prometheus.NewRegistry()
		b := lab.Open(t, cfg)
		cfg.Registerer = reg
		a := lab.Open(t, cfg)
		asked := func() int { return lab.CallsOf(t, reg, "log") + lab.CallsOf(t, reg, "get_many") }
		const watches, rounds = 100, 10
		var same []<-chan syncengine.Change
		for n := range watches / 2 {
			same = append(same, follow(ctx, a, "p:"))
			follow(ctx, a, fmt.Sprint("other:", n))
		}
		before := asked()
		for n := range rounds {
			id := fmt.Sprint("p:", n)
			submit(t, []*syncengine.Engine{a, b}[n%2], id, "1", archived) // of what b writes nobody tells a
			for _, changes := range same {
				if c := next(t, changes); c.ID != id || string(c.Item.Content) != "1" {
					t.Fatalf("told of %+v, want %s", c, id)
				}
			}
		}
		// Each for itself they would ask twice that often for the rows alone.
		if n := asked() - before; n > watches*rounds/2 {
			t.Errorf("%d watches asked L3 %d times for %d changes", watches, n, rounds)
		}
	})
}

// TestWatchesThatAskTogetherMissNothing: each is told what L3 holds in the end, and of no id of a
// version that is below one that it was told before, however fast its loop is.
func TestWatchesThatAskTogetherMissNothing(t *testing.T) {
	lab.EachL3(t, func(t *testing.T, cfg syncengine.Config, _ *sql.DB) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		engines := []*syncengine.Engine{lab.Open(t, cfg), lab.Open(t, syncengine.Config{SQLURL: cfg.SQLURL, BatchFlushInterval: time.Millisecond})}
		const watches = 12
		told := make([]map[string]string, watches)
		var loops sync.WaitGroup
		for n := range watches {
			seq := engines[0].Watch(ctx, "")
			loops.Add(1)
			go func() {
				defer loops.Done()
				told[n] = map[string]string{}
				versions := map[string]uint64{}
				for c, err := range seq {
					if err != nil {
						t.Error(err)
						return
					}
					if c.Version < versions[c.ID] {
						t.Errorf("%s goes from version %d to %d", c.ID, versions[c.ID], c.Version)
					}
					versions[c.ID] = c.Version
					if delete(told[n], c.ID); c.Kind == syncengine.ChangePut {
						told[n][c.ID] = string(c.Item.Content)
					}
					if c.ID == "last" {
						return
					}
					if n%3 == 1 && len(versions)%8 == 0 {
						time.Sleep(time.Millisecond)
					}
				}
			}()
		}
		<-churn(ctx, t, engines)
		loops.Wait()
		held := map[string]string{}
		for it, err := range engines[0].All(ctx, "") {
			lab.Must(t, err)
			held[it.ID] = string(it.Content)
		}
		for n := range told {
			if !maps.Equal(told[n], held) {
				t.Errorf("a watch tells of %v; there is %v", told[n], held)
			}
		}
	})
}

// TestLittleIsKeptForASlowLoop: of groups of many ids no more than the next changes.
func TestLittleIsKeptForASlowLoop(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	e := lab.OpenAsIs(t, syncengine.Config{L1MaxBytes: 16 << 20})
	token, err := e.WatchToken(ctx)
	lab.Must(t, err)
	for g := range 4 {
		var items []syncengine.Item
		for i := range 10_000 {
			items = append(items, syncengine.Item{ID: fmt.Sprintf("customer:%08d:%08d", g, i), Content: []byte("1")})
		}
		_, err := e.SubmitMany(ctx, items, archived)
		lab.Must(t, err)
	}
	lab.Must(t, e.Flush(ctx))
	before := lab.HeapInUse()
	const loops = 10
	var stands, ended sync.WaitGroup
	for range loops {
		stands.Add(1)
		ended.Add(1)
		go func() {
			defer ended.Done()
			for _, err := range e.WatchFrom(ctx, "", token) {
				if err != nil {
					t.Error(err)
				}
				stands.Done()
				<-ctx.Done()
				return
			}
		}()
	}
	stands.Wait()
	if each := (lab.HeapInUse() - before) / loops; each > 1<<20 {
		t.Errorf("%d KiB are kept for each loop, of contents of one byte", each>>10)
	}
	cancel()
	ended.Wait()
}

// TestAWatchTellsLargeGroupsInParts: each change once, in order, also when it goes on in the
// middle.
func TestAWatchTellsLargeGroupsInParts(t *testing.T) {
	lab.EachL3(t, func(t *testing.T, cfg syncengine.Config, _ *sql.DB) {
		ctx := context.Background()
		e := lab.Open(t, cfg)
		token, err := e.WatchToken(ctx)
		lab.Must(t, err)
		id := func(n int) string { return fmt.Sprintf("p:%05d", n) }
		const all = 5000
		for from := 0; from < all; from += all / 2 {
			var items []syncengine.Item
			for n := from; n < from+all/2; n++ {
				items = append(items, syncengine.Item{ID: id(n), Content: []byte("1")}, syncengine.Item{ID: fmt.Sprint("other", n), Content: []byte("1")})
			}
			_, err := e.SubmitMany(ctx, items, archived)
			lab.Must(t, err)
		}
		rng := rand.New(rand.NewSource(4))
		for n := 0; n < all; {
			left := 1 + rng.Intn(2000)
			for c, err := range e.WatchFrom(ctx, "p:", token) {
				if lab.Must(t, err); c.ID != id(n) {
					t.Fatalf("told of %s, want %s", c.ID, id(n))
				}
				token = c.Token
				n++
				if left--; left == 0 || n == all {
					break
				}
			}
		}
	})
}
