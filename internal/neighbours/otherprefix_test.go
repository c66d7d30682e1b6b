package neighbours

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
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

// Of two databases with prefixes of which one begins with the other, the inner one leaves Redis
// alone, whichever came first: the outer one takes all that is there for its own.
func TestAKeyPrefixThatLiesInAnotherDatabasesIsRefused(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	redis, prefix := testserver.SharedRedis(t), lab.NewPrefix()
	config := func(inner string) syncengine.Config {
		return syncengine.Config{Dir: t.TempDir(), SQLURL: "sqlite:" + t.TempDir() + "/l3.db", RedisURL: redis.URL(), KeyPrefix: prefix + inner}
	}
	outer := config("")
	inner := lab.Open(t, config("x:"))
	submit(t, inner, "1", `"inner"`, archived)
	e := lab.Open(t, outer)
	lab.Eventually(t, "the inner one says why it does without Redis", func() bool {
		h := inner.Health(ctx)
		return !h.L2.OK && h.L2.Error != ""
	})
	if got := reads["Get"](inner, "1"); got != `"inner"` {
		t.Errorf("it reads %s", got)
	}
	other, err := syncengine.Open(ctx, config("y:"))
	if !errors.Is(err, syncengine.ErrSetup) {
		t.Errorf("one that comes later: %v", err)
	}
	if err == nil {
		_ = other.Close()
	}
	same := outer
	same.Dir, same.KeyPrefix = t.TempDir(), prefix+"z:"
	_ = lab.Open(t, same) // of the same database
	_, err = e.Verify(ctx, syncengine.VerifyOptions{Repair: true})
	lab.Must(t, err)
	rep, err := e.Verify(ctx, syncengine.VerifyOptions{})
	if err != nil || !rep.InSync {
		t.Errorf("the outer one: %+v, %v", rep, err)
	}
}
