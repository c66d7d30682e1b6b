package neighbours

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/faultproxy"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

// seen waits until an engine reads a content, and returns for how long.
func seen(t testing.TB, e *syncengine.Engine, id, want string) time.Duration {
	t.Helper()
	began := time.Now()
	for reads["Get"](e, id) != want {
		if time.Since(began) > 10*time.Second {
			t.Fatalf("%s is %s after 10 s, want %s", id, reads["Get"](e, id), want)
		}
		time.Sleep(100 * time.Microsecond)
	}
	return time.Since(began)
}

func listening(t testing.TB, engines ...*syncengine.Engine) {
	t.Helper()
	lab.Eventually(t, "all listen, and none is alone", func() bool {
		return !slices.ContainsFunc(engines, func(e *syncengine.Engine) bool { s := e.Stats(); return !s.PushListens || s.FilterTrusted })
	})
}

// TestINV15WhatOthersWriteIsSeenAtOnceThroughRedis: puts, deletes, groups, conditions, on one Redis
// and on a cluster. By L1MaxAge alone the copies in memory would do for an hour.
func TestINV15WhatOthersWriteIsSeenAtOnceThroughRedis(t *testing.T) {
	ctx := context.Background()
	for _, kind := range []string{"one Redis", "a cluster"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			sql := testserver.SharedMariaDB(t).NewDatabase(t)
			cfg := syncengine.Config{SQLURL: sql, L1MaxAge: time.Hour, KeyPrefix: lab.NewPrefix()}
			if kind == "one Redis" {
				cfg.RedisURL = testserver.SharedRedis(t).URL()
			} else {
				client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: testserver.RedisCluster(t, 3).Addrs(), ContextTimeoutEnabled: true})
				t.Cleanup(func() { _ = client.Close() })
				cfg.Redis = client
			}
			a, b := lab.Open(t, cfg), lab.Open(t, cfg)
			listening(t, a, b)
			for _, id := range []string{"x", "y", "z"} {
				submit(t, a, id, "1", archived)
				seen(t, b, id, "1")
				seen(t, a, id, "1")
			}
			submit(t, b, "x", "2")
			seen(t, a, "x", "2")
			lab.Must(t, b.Delete(ctx, "y"))
			seen(t, a, "y", "absent")
			_, err := b.Update(ctx, "z", func(it syncengine.Item, _ bool) (syncengine.Item, error) {
				it.Content = []byte("2")
				return it, nil
			})
			lab.Must(t, err)
			seen(t, a, "z", "2")
			_, err = a.SubmitMany(ctx, []syncengine.Item{{ID: "x", Content: []byte("3")}, {ID: "y", Content: []byte("3")}})
			lab.Must(t, err)
			seen(t, b, "x", "3")
			seen(t, b, "y", "3")
			if s := a.Stats(); s.PushHeard == 0 || s.PushTold == 0 || s.PushUntold != 0 {
				t.Errorf("%+v", s)
			}
		})
	}
}

// TestINV15AnEngineThatHasJustComeMissesNoWrite: what it reads at once, before the others know of
// it and tell it what they write, it compares again.
func TestINV15AnEngineThatHasJustComeMissesNoWrite(t *testing.T) {
	cfg := syncengine.Config{SQLURL: testserver.SharedMariaDB(t).NewDatabase(t), RedisURL: testserver.SharedRedis(t).URL(), KeyPrefix: lab.NewPrefix(), L1MaxAge: time.Hour}
	a := lab.Open(t, cfg)
	lab.Eventually(t, "a is alone", func() bool { return a.Stats().FilterTrusted })
	submit(t, a, "x", "0", archived)
	for n := range 4 {
		b := lab.Open(t, cfg)
		for range 1 + n*20 { // at different times before it is noticed
			reads["Get"](b, "x")
			time.Sleep(5 * time.Millisecond)
		}
		submit(t, a, "x", fmt.Sprint(n+1), archived)
		seen(t, b, "x", fmt.Sprint(n+1))
		lab.Must(t, b.Close())
	}
}

// TestPushIsBackAfterRedisWas, and what was told meanwhile is seen from the log in SQL. That
// nothing is heard is shown, also of a Redis that hangs.
func TestPushIsBackAfterRedisWas(t *testing.T) {
	sql := testserver.SharedMariaDB(t).NewDatabase(t)
	server := testserver.SharedRedis(t)
	p := faultproxy.New(t, server.Addr())
	cfg := syncengine.Config{SQLURL: sql, RedisURL: lab.Via(t, server.URL(), p), KeyPrefix: lab.NewPrefix(), L1MaxAge: 500 * time.Millisecond}
	a, b := lab.Open(t, cfg), lab.Open(t, cfg)
	listening(t, a, b)
	submit(t, a, "x", "1", archived)
	seen(t, b, "x", "1")
	for n, trouble := range []struct{ begin, end func() }{{p.Cut, p.Restore}, {p.Hold, p.Release}} {
		trouble.begin()
		lab.Eventually(t, "it says that it does not listen", func() bool { return !b.Stats().PushListens })
		content := fmt.Sprint(2 + n)
		submit(t, a, "x", content, archived)
		seen(t, b, "x", content)
		trouble.end()
		heard := b.Stats().PushHeard
		lab.Eventually(t, "messages come again", func() bool {
			submit(t, a, "y", "1", archived)
			return b.Stats().PushHeard > heard && b.Stats().PushListens
		})
	}
}

func TestNoPushIsSilent(t *testing.T) {
	sql, prefix := testserver.SharedMariaDB(t).NewDatabase(t), lab.NewPrefix()
	var engines []*syncengine.Engine
	for _, off := range []bool{true, false} {
		engines = append(engines, lab.Open(t, syncengine.Config{SQLURL: sql, RedisURL: testserver.SharedRedis(t).URL(), KeyPrefix: prefix, NoPush: off}))
	}
	lab.Eventually(t, "one listens", func() bool { return engines[1].Stats().PushListens })
	for range 3 {
		submit(t, engines[0], "x", "1", archived)
	}
	time.Sleep(50 * time.Millisecond)
	if s, other := engines[0].Stats(), engines[1].Stats(); s.PushTold+other.PushHeard > 0 || s.PushListens {
		t.Errorf("%d told, %d heard, listens %v", s.PushTold, other.PushHeard, s.PushListens)
	}
}

func TestAnEngineWithoutTheRightToSubscribeGoesOn(t *testing.T) {
	ctx := context.Background()
	server := testserver.SharedRedis(t)
	admin := lab.RedisAt(t, server.URL())
	lab.Must(t, admin.Do(ctx, "ACL", "SETUSER", "deaf", "on", ">pw", "~*", "resetchannels", "+@all").Err())
	u, err := url.Parse(server.URL())
	lab.Must(t, err)
	u.User = url.UserPassword("deaf", "pw")
	e := lab.Open(t, syncengine.Config{SQLURL: testserver.SharedMariaDB(t).NewDatabase(t), RedisURL: u.String(), KeyPrefix: lab.NewPrefix()})
	submit(t, e, "x", "1", archived)
	if got := reads["Get"](e, "x"); got != "1" {
		t.Error(got)
	}
	if h := e.Health(ctx); !h.L2.OK || e.Stats().PushListens {
		t.Errorf("%+v", h.L2)
	}
}

// writeSteadily writes other items, so many a second, until stop: which returns how many it were.
func writeSteadily(b *testing.B, e *syncengine.Engine, perSecond int) (stop func() float64) {
	end, ended, began, n := make(chan struct{}), make(chan struct{}), time.Now(), 0
	go func() {
		defer close(ended)
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
			case <-end:
				return
			}
			for ; n < int(time.Since(began).Seconds()*float64(perSecond)); n++ {
				submit(b, e, fmt.Sprint("other", n%1000), fmt.Sprint(n), syncengine.WithDurability(syncengine.Buffered))
			}
		}
	}()
	return func() float64 {
		close(end)
		<-ended
		return float64(n) / time.Since(began).Seconds()
	}
}

// BenchmarkPushLag writes 1000 items a second on one engine, and measures when another one, which
// holds an old copy, reads a new one, from the acknowledgement of an Archived write on.
func BenchmarkPushLag(b *testing.B) {
	for _, n := range []int{2, 5} {
		b.Run(fmt.Sprint(n, " engines"), func(b *testing.B) {
			sql, prefix := testserver.SharedMariaDB(b).NewDatabase(b), lab.NewPrefix()
			var engines []*syncengine.Engine
			for range n {
				engines = append(engines, lab.Open(b, syncengine.Config{SQLURL: sql, RedisURL: testserver.SharedRedis(b).URL(),
					KeyPrefix: prefix, L1MaxAge: time.Hour, BatchFlushInterval: time.Millisecond}))
			}
			listening(b, engines...)
			submit(b, engines[0], "x", "0", archived)
			stop := writeSteadily(b, engines[0], 1000)
			var lags []time.Duration
			i := 0
			for b.Loop() {
				i++
				seen(b, engines[n-1], "x", fmt.Sprint(i-1))
				submit(b, engines[0], "x", fmt.Sprint(i), archived)
				lags = append(lags, seen(b, engines[n-1], "x", fmt.Sprint(i)))
			}
			b.ReportMetric(stop(), "writes/s")
			slices.Sort(lags)
			b.ReportMetric(float64(lags[len(lags)/2].Microseconds()), "us-median")
			b.ReportMetric(float64(lags[len(lags)*99/100].Microseconds()), "us-99%")
		})
	}
}
