package promises

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/faultproxy"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

// The text of an error begins with "syncengine: ", once, also when the caller's ctx ends while L3
// is asked; what is ctx's own error may be that alone.
func TestErrorsOfCallsThatEndWhileL3HangsBeginAsAllDo(t *testing.T) {
	server := testserver.SharedMariaDB(t)
	p := faultproxy.New(t, server.Addr())
	e := lab.Open(t, syncengine.Config{SQLURL: lab.Via(t, server.NewDatabase(t), p), L3Timeout: 2 * time.Second, CloseTimeout: time.Second})
	lab.Put(t, e, "k", 1, syncengine.WithDurability(syncengine.Archived))
	p.Hold()
	defer p.Release()
	for name, call := range map[string]func(ctx context.Context) error{
		"Update":       func(ctx context.Context) error { _, err := e.Update(ctx, "k", lab.Increment); return err },
		"Touch":        func(ctx context.Context) error { return e.Touch(ctx, "k", time.Hour) },
		"DeletePrefix": func(ctx context.Context) error { _, err := e.DeletePrefix(ctx, "k"); return err },
		"Status":       func(ctx context.Context) error { _, err := e.Status(ctx, "k"); return err },
		"WatchToken":   func(ctx context.Context) error { _, err := e.WatchToken(ctx); return err },
		"Watch": func(ctx context.Context) (err error) {
			for _, err = range e.Watch(ctx, "") {
			}
			return err
		},
		"All": func(ctx context.Context) (err error) {
			for _, err = range e.All(ctx, "") {
			}
			return err
		},
		"MerkleRoot": func(ctx context.Context) error { _, err := e.MerkleRoot(ctx); return err },
	} {
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		err := call(ctx)
		cancel()
		if err == nil || err != context.DeadlineExceeded && (!strings.HasPrefix(err.Error(), "syncengine: ") || strings.Count(err.Error(), "syncengine: ") > 1) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A loop that ends with its caller's ctx ends with what that says, whatever it was doing.
func TestAWatchEndsWithWhatItsContextSays(t *testing.T) {
	for _, url := range []string{"", testserver.SharedMariaDB(t).NewDatabase(t)} {
		e := lab.Open(t, syncengine.Config{SQLURL: url})
		for range 20 {
			ctx, cancel := context.WithCancel(context.Background())
			time.AfterFunc(time.Duration(rand.IntN(int(time.Millisecond))), cancel)
			for _, err := range e.Watch(ctx, "") {
				if err != context.Canceled {
					t.Errorf("%q: %v", url, err)
				}
			}
			cancel()
		}
	}
}

// A question for a token is answered: that nobody can.
func TestWatchTokenSaysThatL3IsAway(t *testing.T) {
	server := testserver.SharedMariaDB(t)
	p := faultproxy.New(t, server.Addr())
	e := lab.Open(t, syncengine.Config{SQLURL: lab.Via(t, server.NewDatabase(t), p), L3Timeout: 200 * time.Millisecond, CloseTimeout: time.Second})
	for _, trouble := range []struct{ begin, end func() }{{p.Hold, p.Release}, {p.Cut, p.Restore}} {
		trouble.begin()
		if _, err := e.WatchToken(lab.Bounded(t)); !errors.Is(err, syncengine.ErrUnavailable) {
			t.Error(err)
		}
		trouble.end()
	}
	lab.Eventually(t, "a token", func() bool { _, err := e.WatchToken(lab.Bounded(t)); return err == nil })
}

// With nothing waiting, Close has nothing to say of connections that an outage has ended.
func TestCloseAfterAnOutageIsWell(t *testing.T) {
	server := testserver.SharedMariaDB(t)
	p := faultproxy.New(t, server.Addr())
	for range 8 {
		e := lab.Open(t, syncengine.Config{SQLURL: lab.Via(t, server.NewDatabase(t), p), RedisURL: testserver.SharedRedis(t).URL(), KeyPrefix: lab.NewPrefix()})
		lab.Put(t, e, "k", 1)
		lab.Must(t, e.Flush(lab.Bounded(t)))
		p.Cut()
		lab.Put(t, e, "k", 2)
		p.Restore()
		lab.Must(t, e.Flush(lab.Bounded(t)))
		lab.NoError(t, "close", e.Close())
	}
}
