package neighbours

import (
	"context"
	"database/sql"
	"fmt"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/faultproxy"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

// TestINV15WhatRedisWasNotToldIsSeen: by an engine that has no Redis, another prefix, or is cut off
// from it, or that may not send messages, while another one has copies in memory and in Redis. By
// L1MaxAge and VerifyInterval these would do for an hour.
func TestINV15WhatRedisWasNotToldIsSeen(t *testing.T) {
	ctx := context.Background()
	writers := map[string]func(t *testing.T, cfg *syncengine.Config){
		"nobody has Redis": nil,
		"no Redis":         func(_ *testing.T, cfg *syncengine.Config) { cfg.RedisURL = "" },
		"another prefix":   func(_ *testing.T, cfg *syncengine.Config) { cfg.KeyPrefix = lab.NewPrefix() },
		"no messages":      func(_ *testing.T, cfg *syncengine.Config) { cfg.NoPush = true },
		"cut off": func(t *testing.T, cfg *syncengine.Config) {
			p := faultproxy.New(t, testserver.SharedRedis(t).Addr())
			cfg.RedisURL = lab.Via(t, cfg.RedisURL, p)
			p.Cut()
		},
	}
	for name, change := range writers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := syncengine.Config{SQLURL: testserver.SharedMariaDB(t).NewDatabase(t), RedisURL: testserver.SharedRedis(t).URL(),
				KeyPrefix: lab.NewPrefix(), L1MaxAge: time.Hour}
			if change == nil {
				cfg.RedisURL, change = "", func(*testing.T, *syncengine.Config) {}
			}
			b := lab.Open(t, cfg)
			for _, id := range []string{"put", "deleted", "only in Redis"} {
				submit(t, b, id, "1", archived)
			}
			b.Invalidate("only in Redis")
			change(t, &cfg)
			a := lab.Open(t, cfg)
			submit(t, a, "put", "2", archived)
			submit(t, a, "only in Redis", "2", archived)
			lab.Must(t, a.Delete(ctx, "deleted", archived))
			seen(t, b, "put", "2")
			seen(t, b, "deleted", "absent")
			seen(t, b, "only in Redis", "2")
			for _, id := range []string{"put", "deleted", "only in Redis"} { // from Redis, or not
				want := reads["Get"](b, id)
				b.Invalidate(id)
				if got := reads["Get"](b, id); got != want {
					t.Errorf("%s is %s again", id, got)
				}
			}
			if cfg.RedisURL == "" && name != "no Redis" {
				return
			}
			lab.Eventually(t, "Redis is brought up to date", func() bool {
				r, err := b.Verify(ctx, syncengine.VerifyOptions{})
				return err == nil && r.InSync && b.Stats().L2Missed == 0
			})
		})
	}
}

// TestINV15WhatRedisHasIsStaleUntilItIsKnownWhatItLacks: an engine that opens while SQL is away
// reads Redis, and says so.
func TestINV15WhatRedisHasIsStaleUntilItIsKnownWhatItLacks(t *testing.T) {
	ctx := context.Background()
	db := testserver.SharedMariaDB(t)
	p := faultproxy.New(t, db.Addr())
	direct := syncengine.Config{SQLURL: db.NewDatabase(t), RedisURL: testserver.SharedRedis(t).URL(), KeyPrefix: lab.NewPrefix()}
	first := lab.Open(t, direct)
	submit(t, first, "x", "1", archived)
	lab.Must(t, first.Close())
	alone := direct
	alone.RedisURL = ""
	other := lab.Open(t, alone)
	submit(t, other, "x", "2", archived)
	lab.Must(t, other.Close())

	cfg := direct
	cfg.SQLURL = lab.Via(t, direct.SQLURL, p)
	p.Cut()
	e := lab.Open(t, cfg)
	for range 2 {
		if it, err := e.Get(ctx, "x"); err != nil || string(it.Content) != "1" || !it.Stale {
			t.Errorf("while SQL is away: %s, stale: %v, %v", it.Content, it.Stale, err)
		}
		if items, err := e.GetMany(ctx, []string{"x"}); err != nil || items[0] == nil || !items[0].Stale {
			t.Errorf("while SQL is away: %v, %v", items, err)
		}
	}
	p.Restore()
	lab.Eventually(t, "the new content is read", func() bool {
		it, err := e.Get(ctx, "x")
		if err != nil {
			t.Error(err)
		}
		if string(it.Content) == "1" && !it.Stale {
			t.Errorf("an old copy is taken for a new one")
		}
		return string(it.Content) == "2" && !it.Stale
	})
}

// TestINV15WhatRedisHasMissedIsKnownAtOpen: what was written while nobody was there who has this
// Redis. The engine that opens reads no old copy from it, and after a clean end it reads all.
func TestINV15WhatRedisHasMissedIsKnownAtOpen(t *testing.T) {
	lab.EachL3(t, func(t *testing.T, cfg syncengine.Config, raw *sql.DB) {
		ctx := context.Background()
		cfg.RedisURL, cfg.KeyPrefix = testserver.SharedRedis(t).URL(), lab.NewPrefix()
		open := func(redis bool) *syncengine.Engine {
			c := cfg
			if !redis {
				c.RedisURL = ""
			}
			return lab.Open(t, c)
		}
		first := open(true)
		for n := range 20 {
			submit(t, first, fmt.Sprint("x", n), "1", archived)
		}
		lab.Must(t, first.Close())
		second := open(true)
		for n := range 20 {
			if got := reads["Get"](second, fmt.Sprint("x", n)); got != "1" {
				t.Fatal(got)
			}
		}
		if s := second.Stats(); s.L2Hits != 20 || s.L2Missed != 0 {
			t.Errorf("after a clean end %d of 20 are read from Redis, %d are missed", s.L2Hits, s.L2Missed)
		}
		lab.Must(t, second.Close())
		alone := open(false)
		submit(t, alone, "x1", "2", archived)
		lab.Must(t, alone.Delete(ctx, "x2", archived))
		lab.Must(t, alone.Close())
		third := open(true)
		for id, want := range map[string]string{"x0": "1", "x1": "2", "x2": "absent"} {
			if got := reads["Get"](third, id); got != want {
				t.Errorf("%s is %s, want %s", id, got, want)
			}
		}
		lab.Must(t, third.Close())
		alone = open(false)
		submit(t, alone, "x1", "3", archived)
		lab.Must(t, alone.Close())
		_, err := raw.Exec("UPDATE sync_meta SET value = '1000000' WHERE name = 'log_trimmed'") // the log does not reach back so far
		lab.Must(t, err)
		if got := reads["Get"](open(true), "x1"); got != "3" {
			t.Errorf("without a log x1 is %s", got)
		}
	})
}

// TestINV15ARedisWithoutAPlaceIsNotBelieved: it came back empty and was filled again, and
// those that did that have gone before they noted up to where it has all. An empty one is at the
// end.
func TestINV15ARedisWithoutAPlaceIsNotBelieved(t *testing.T) {
	lab.EachL3(t, func(t *testing.T, cfg syncengine.Config, _ *sql.DB) {
		server := testserver.SharedRedis(t)
		cfg.VerifyInterval = -1
		past := cfg
		cfg.RedisURL, cfg.KeyPrefix = server.URL(), lab.NewPrefix()
		first := lab.Open(t, cfg)
		submit(t, first, "x", "1", archived)
		lab.Must(t, first.Close())
		if server.Do(t, "DEL", cfg.KeyPrefix+"\x00place") != "1" {
			t.Fatal("Redis has no place")
		}
		alone := lab.Open(t, past)
		submit(t, alone, "x", "2", archived)
		lab.Must(t, alone.Close())
		second := lab.Open(t, cfg)
		if got := reads["Get"](second, "x"); got != "2" {
			t.Errorf("of a Redis that can be at any place x is %s", got)
		}
		lab.Eventually(t, "it was compared", func() bool { return second.Stats().L2Missed == 0 })
		lab.Must(t, second.Close())
		cfg.KeyPrefix = lab.NewPrefix()
		if s := lab.Open(t, cfg).Stats(); s.L2Missed != 0 {
			t.Errorf("an empty Redis is suspect: %d", s.L2Missed)
		}
	})
}

// TestINV15WhatWasWrittenWhileTheLogCouldNotBeReadIsSeen: by one that came, wrote past Redis, and
// has left. The engine that stays is alone before and after.
func TestINV15WhatWasWrittenWhileTheLogCouldNotBeReadIsSeen(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	url := testserver.SharedMariaDB(t).NewDatabase(t)
	lab.ArchiveAt(t, url) // at leisure
	cfg := syncengine.Config{SQLURL: url, L3Timeout: 500 * time.Millisecond, L3Breaker: syncengine.BreakerLenient}
	withRedis := cfg
	withRedis.RedisURL, withRedis.KeyPrefix = testserver.SharedRedis(t).URL(), lab.NewPrefix()
	a := lab.Open(t, withRedis)
	submit(t, a, "x", "1", archived)
	lab.Trusted(t, a)
	b := lab.Open(t, cfg)
	conn, err := testserver.OpenSQL(t, url).Conn(ctx)
	lab.Must(t, err)
	defer conn.Close()
	_, err = conn.ExecContext(ctx, "LOCK TABLES sync_log WRITE")
	lab.Must(t, err)
	submit(t, b, "x", "2", archived)
	lab.Must(t, b.Close())
	lab.Trusted(t, a)           // alone again
	time.Sleep(2 * time.Second) // the look at the log that the lock holds up gives up
	_, err = conn.ExecContext(ctx, "UNLOCK TABLES")
	lab.Must(t, err)
	lab.Eventually(t, "it is seen, and not the copy in Redis", func() bool {
		a.Invalidate("x")
		return reads["Get"](a, "x") == "2"
	})
}

// TestINV02WhatWasWrittenPastRedisIsKnownInAnOutage: the Dir's engine had no Redis, or another
// KeyPrefix, and the next one has it, while SQL is away. What it holds may be older than what was
// acknowledged here.
func TestINV02WhatWasWrittenPastRedisIsKnownInAnOutage(t *testing.T) {
	t.Parallel()
	for name, past := range map[string]func(cfg *syncengine.Config){
		"no Redis":       func(cfg *syncengine.Config) { cfg.RedisURL = "" },
		"another prefix": func(cfg *syncengine.Config) { cfg.KeyPrefix = lab.NewPrefix() },
	} {
		t.Run(name, func(t *testing.T) {
			ctx := context.Background()
			db := testserver.SharedMariaDB(t)
			url := db.NewDatabase(t)
			p := faultproxy.New(t, db.Addr())
			cfg := syncengine.Config{Dir: t.TempDir(), SQLURL: lab.Via(t, url, p), L3Timeout: 3 * time.Second, RedisURL: testserver.SharedRedis(t).URL(), KeyPrefix: lab.NewPrefix(), VerifyInterval: -1}
			first := lab.Open(t, cfg)
			submit(t, first, "x", "1", archived)
			lab.Must(t, first.Close())
			other := cfg
			past(&other)
			second := lab.Open(t, other)
			submit(t, second, "x", "2", archived)
			lab.Must(t, second.Close())
			p.Cut()
			third := lab.OpenAsIs(t, cfg)
			if it, err := third.Get(ctx, "x"); err == nil && string(it.Content) != "2" {
				t.Errorf("in an outage x is %s, stale %v", it.Content, it.Stale)
			}
			p.Restore()
			lab.Eventually(t, "it is compared", func() bool { return third.Stats().L2Missed == 0 })
			if got := reads["Get"](third, "x"); got != "2" {
				t.Errorf("x is %s", got)
			}
			lab.Must(t, third.Close())
			p.Cut()
			fourth := lab.OpenAsIs(t, cfg)
			if it, err := fourth.Get(ctx, "x"); err != nil || string(it.Content) != "2" || !it.Stale {
				t.Errorf("after a clean end Redis is read in an outage: %s, stale %v, %v", it.Content, it.Stale, err)
			}
			p.Restore()
		})
	}
}
