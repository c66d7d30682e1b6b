package neighbours

import (
	"context"
	"errors"
	"io"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/faultproxy"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

// What waits in a Dir for one namespace does not land in another one without a word.
func TestWhatWaitsForANamespaceDoesNotLandInAnother(t *testing.T) {
	ctx := context.Background()
	server := testserver.MariaDB(t)
	cfg := syncengine.Config{Dir: t.TempDir(), SQLURL: server.URL(), TablePrefix: "blue_", CloseTimeout: time.Second}
	blue := lab.Open(t, cfg)
	submit(t, blue, "x", "1", archived)
	server.Kill()
	submit(t, blue, "x", "2")
	if err := blue.Close(); !errors.Is(err, syncengine.ErrPending) {
		t.Fatal(err)
	}
	server.Restart()
	green := cfg
	green.TablePrefix = "green_"
	e, err := syncengine.Open(ctx, green)
	if err != nil {
		return // it says so
	}
	defer func() { _ = e.Close() }()
	lab.Must(t, e.Flush(lab.Bounded(t)))
	raw := testserver.OpenSQL(t, server.URL())
	if n := lab.Number(t, raw, "SELECT COUNT(*) FROM green_items WHERE id = 'x'"); n != 0 {
		t.Error("what blue's caller was told is kept is in green")
	}
	lab.Must(t, e.Close())
	if got := reads["Get"](lab.Open(t, cfg), "x"); got != "2" {
		t.Errorf("blue has %s, and 2 was acknowledged", got)
	}
}

// Of two databases with prefixes of which one begins with the other, who comes later is refused:
// the outer one would take all that is there for its own.
func TestAKeyPrefixThatLiesInAnotherDatabasesIsRefused(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	redis, prefix := testserver.SharedRedis(t), lab.NewPrefix()
	outer := prefixed(t, redis.URL(), prefix)
	e := lab.Open(t, outer)
	submit(t, e, "x", "1", archived)
	inner := prefixed(t, redis.URL(), prefix+"y:")
	if se := openFails(t, inner); !strings.Contains(se.Mend, "KeyPrefix") {
		t.Errorf("%v", se)
	}
	if n, err := lab.RedisAt(t, redis.URL()).Exists(ctx, inner.KeyPrefix+"\x00owner").Result(); err != nil || n != 0 {
		t.Errorf("who was refused has claimed it: %d, %v", n, err)
	}
	same := outer
	same.Dir, same.KeyPrefix = t.TempDir(), prefix+"z:"
	_ = lab.Open(t, same) // of the same database
	_, err := e.Verify(ctx, syncengine.VerifyOptions{Repair: true})
	lab.Must(t, err)
	rep, err := e.Verify(ctx, syncengine.VerifyOptions{})
	if err != nil || !rep.InSync {
		t.Errorf("the outer one: %+v, %v", rep, err)
	}
}

// prefixed is of a database of its own.
func prefixed(t *testing.T, redisURL, prefix string) syncengine.Config {
	return syncengine.Config{Dir: t.TempDir(), SQLURL: "sqlite:" + t.TempDir() + "/l3.db", RedisURL: redisURL, KeyPrefix: prefix}
}

// Signs that mean something in a pattern mean themselves; and whoever asks may do no more than is
// documented.
func TestAKeyPrefixThatAnotherDatabasesBeginsWithIsRefused(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	redis, prefix := testserver.SharedRedis(t), lab.NewPrefix()
	first := prefixed(t, redis.URL(), prefix+`a*[b]?\:e?u:`)
	first.SQLURL = testserver.SharedMariaDB(t).NewDatabase(t)
	inner := lab.Open(t, first)
	submit(t, inner, "1", `"inner"`, archived)

	outer := prefixed(t, redisAccount(t, redis, "outer", prefix, redisRights), prefix+`a*[b]?\:`)
	table := first // of another namespace of the same database
	table.KeyPrefix, table.TablePrefix = outer.KeyPrefix, "other_"
	for _, cfg := range []syncengine.Config{outer, table} {
		if se := openFails(t, cfg); !strings.Contains(se.Problem, strconv.Quote(first.KeyPrefix)) || !strings.Contains(se.Mend, "KeyPrefix") {
			t.Errorf("%v", se)
		}
	}
	if n, err := lab.RedisAt(t, redis.URL()).Exists(ctx, outer.KeyPrefix+"\x00owner").Result(); err != nil || n != 0 {
		t.Errorf("who was refused has claimed it: %d, %v", n, err)
	}
	beside := outer
	beside.Dir, beside.KeyPrefix = t.TempDir(), prefix+`a*b?`
	_ = lab.Open(t, beside)
	same := first
	same.Dir, same.KeyPrefix = t.TempDir(), outer.KeyPrefix
	lab.Must(t, lab.Open(t, same).Close()) // of the same database

	first.Dir = t.TempDir()
	for _, e := range []*syncengine.Engine{inner, lab.Open(t, first)} {
		hits := e.Stats().L2Hits
		e.Invalidate("1")
		if got := reads["Get"](e, "1"); got != `"inner"` || !e.Health(ctx).L2.OK || e.Stats().L2Hits == hits {
			t.Errorf("the inner one reads %s; %+v", got, e.Health(ctx).L2)
		}
	}
}

// Redis may come later than the engine, which touches nothing there before it knows.
func TestARedisThatComesLaterWithAnInnerKeyPrefixIsLeftAlone(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	redis, prefix := testserver.SharedRedis(t), lab.NewPrefix()
	client := lab.RedisAt(t, redis.URL())
	inner := lab.Open(t, prefixed(t, redis.URL(), prefix+"x:"))
	submit(t, inner, "1", `"inner"`, archived)
	proxy := faultproxy.New(t, redis.Addr())
	proxy.Cut()
	outer := lab.Open(t, prefixed(t, lab.Via(t, redis.URL(), proxy), prefix))
	submit(t, outer, "1", `"outer"`, archived)
	proxy.Restore()
	lab.Eventually(t, "a verification does not begin", func() bool {
		_, err := outer.Verify(ctx, syncengine.VerifyOptions{Repair: true})
		return errors.Is(err, syncengine.ErrSetup)
	})
	lab.Eventually(t, "it says why it does without Redis", func() bool {
		return outer.Health(ctx).L2.Error == "it holds the documents of another database"
	})
	if n, err := client.Exists(ctx, prefix+"x:1").Result(); err != nil || n != 1 || !inner.Health(ctx).L2.OK {
		t.Errorf("the inner one: %d, %v, %+v", n, err, inner.Health(ctx).L2)
	}
	lab.Must(t, inner.Close())
	lab.Must(t, client.Del(ctx, prefix+"x:\x00owner").Err())
	lab.Eventually(t, "the other one is no more", func() bool { return outer.Health(ctx).L2.OK && outer.Stats().L2Missed == 0 })
}

// Of two that came at once, and did not see each other, the inner one gives way.
func TestAKeyPrefixThatAnotherDatabasesCameToLieAroundGivesWay(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	redis, prefix := testserver.SharedRedis(t), lab.NewPrefix()
	client := lab.RedisAt(t, redis.URL())
	inner := lab.Open(t, prefixed(t, redis.URL(), prefix+"x:"))
	submit(t, inner, "1", `"inner"`, archived)
	lab.Must(t, client.Set(ctx, prefix+"\x00owner", "another/x", 0).Err())
	lab.Eventually(t, "it says why it does without Redis", func() bool {
		h := inner.Health(ctx)
		return !h.L2.OK && h.L2.Error != ""
	})
	if got := reads["Get"](inner, "1"); got != `"inner"` {
		t.Errorf("it reads %s", got)
	}
	lab.Must(t, client.Del(ctx, prefix+"\x00owner").Err())
	lab.Eventually(t, "the other one is no more", func() bool { return inner.Health(ctx).L2.OK })
}

// noWalk is a client whose walks over keys fail.
type noWalk struct{ on *atomic.Bool }

func (noWalk) DialHook(next redis.DialHook) redis.DialHook { return next }
func (noWalk) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}
func (w noWalk) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if w.on.Load() && cmd.Name() == "scan" {
			return io.ErrUnexpectedEOF
		}
		return next(ctx, cmd)
	}
}

func TestARedisIsNotUsedBeforeItIsKnownWhoseItIs(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	client, prefix := lab.RedisAt(t, testserver.SharedRedis(t).URL()), lab.NewPrefix()
	var on atomic.Bool
	on.Store(true)
	client.AddHook(noWalk{&on})
	cfg := prefixed(t, "", prefix)
	cfg.Redis = client
	e := lab.Open(t, cfg)
	submit(t, e, "x", "1", archived)
	if n, err := client.Exists(ctx, prefix+"x", prefix+"\x00owner").Result(); err != nil || n != 0 {
		t.Errorf("it is written to: %d, %v", n, err)
	}
	if h := e.Health(ctx); h.L2.OK || h.L2.Error == "" {
		t.Errorf("%+v", h.L2)
	}
	on.Store(false)
	lab.Eventually(t, "all is well, and what was missed is there", func() bool {
		n, err := client.Exists(ctx, prefix+"x").Result()
		return e.Health(ctx).L2.OK && err == nil && n == 1
	})
}
