package neighbours

// clock_test.go gives engines clocks that are wrong.

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/backdoor"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

// jumps is how far the clocks of hosts named "jumping…" are wrong now.
var jumps atomic.Int64

// useWrongClocks makes the clock of an engine wrong by what its InstanceID says.
func useWrongClocks() {
	of := func(instance string) (func() time.Time, bool) {
		switch {
		case strings.HasPrefix(instance, "ahead"):
			return func() time.Time { return time.Now().Add(time.Hour) }, true
		case strings.HasPrefix(instance, "behind"):
			return func() time.Time { return time.Now().Add(-time.Hour) }, true
		case strings.HasPrefix(instance, "jumping"):
			return func() time.Time { return time.Now().Add(time.Duration(jumps.Load())) }, true
		}
		return nil, false
	}
	backdoor.HostTime.Store(&of)
}

func TestMain(m *testing.M) {
	useWrongClocks()
	lab.Main(m)
}

// eachShared calls run with an L3 that several engines may use.
func eachShared(t *testing.T, run func(t *testing.T, url string)) {
	t.Run("SQLite", func(t *testing.T) { run(t, "sqlite:"+t.TempDir()+"/shared.db") })
	t.Run("MariaDB", func(t *testing.T) { run(t, testserver.SharedMariaDB(t).NewDatabase(t)) })
}

// TestINV16TheLaterWriteWinsWhateverTheHostsClocksSay: each writes in turn, at Logged, and nothing
// is superseded.
func TestINV16TheLaterWriteWinsWhateverTheHostsClocksSay(t *testing.T) {
	ctx := context.Background()
	eachShared(t, func(t *testing.T, url string) {
		var engines []*syncengine.Engine
		for _, name := range []string{"ahead", "behind", "right", "jumping"} {
			engines = append(engines, lab.Open(t, syncengine.Config{SQLURL: url, InstanceID: name, L1MaxAge: 100 * time.Millisecond}))
		}
		reader := lab.Open(t, syncengine.Config{SQLURL: url})
		n := 0
		for round := range 4 {
			jumps.Store(int64(time.Duration(round%3-1) * time.Hour))
			for i, e := range engines {
				n++
				e.Invalidate("x") // what an engine knows of an id it numbers above
				if i%2 == 0 || round == 0 {
					submit(t, e, "x", fmt.Sprint(n))
				} else {
					lab.Must(t, e.Delete(ctx, "x"))
					submit(t, e, "x", fmt.Sprint(n))
				}
				lab.Must(t, e.Flush(ctx))
				time.Sleep(20 * time.Millisecond) // more than a look at the clock is wrong by
				reader.Invalidate("x")
				if got := reads["Get"](reader, "x"); got != fmt.Sprint(n) {
					t.Errorf("after write %d, by engine %d: %s", n, i, got)
				}
			}
		}
		for i, e := range engines {
			if s := e.Stats(); s.Superseded > 0 {
				t.Errorf("%d ops of engine %d are superseded", s.Superseded, i)
			}
			it, err := e.Get(ctx, "x")
			lab.Must(t, err)
			if at := time.UnixMilli(int64(it.Version >> 16)); time.Since(at).Abs() > time.Minute {
				t.Errorf("a version of %v", at)
			}
		}
		if h := engines[0].Health(ctx); (h.ClockOffset - time.Hour).Abs() > time.Minute {
			t.Errorf("an engine that is an hour ahead: %v", h.ClockOffset)
		}
	})
}

// TestINV16AnEngineThatOpensInAnOutageKeepsItsPlaceInTime: by the host's clock at first, then by
// L3's; what it has written by then stays.
func TestINV16AnEngineThatOpensInAnOutageKeepsItsPlaceInTime(t *testing.T) {
	ctx := context.Background()
	for _, name := range []string{"ahead", "behind"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := testserver.MariaDB(t)
			first := lab.Open(t, syncengine.Config{SQLURL: db.URL()})
			submit(t, first, "lives", "1", archived, ttl(30*time.Minute))
			lab.Must(t, first.Close())
			db.Kill()
			e := lab.Open(t, syncengine.Config{SQLURL: db.URL(), InstanceID: name, L3Timeout: time.Second})
			submit(t, e, "x", "1")
			db.Restart()
			lab.Eventually(t, "Flush succeeds", func() bool { return e.Flush(ctx) == nil })
			other := lab.Open(t, syncengine.Config{SQLURL: db.URL(), InstanceID: "right"})
			for n, e := range []*syncengine.Engine{other, e, other} {
				e.Invalidate("x")
				submit(t, e, "x", fmt.Sprint(n+2))
				lab.Must(t, e.Flush(ctx))
				time.Sleep(20 * time.Millisecond)
			}
			for _, e := range []*syncengine.Engine{e, other} {
				e.Invalidate("x")
				if got := reads["Get"](e, "x"); got != "4" {
					t.Errorf("%s, want 4", got)
				}
				if s := e.Stats(); s.Superseded > 0 {
					t.Errorf("%d superseded", s.Superseded)
				}
				if _, err := e.Verify(ctx, syncengine.VerifyOptions{Deep: true}); err != nil { // which purges
					t.Error(err)
				}
				if got := reads["Get"](e, "lives"); got != "1" || e.Stats().Expired > 0 {
					t.Errorf("by its host's clock an item has expired: %s", got)
				}
			}
		})
	}
}

// After a kill versions begin above a bound that is ahead of those that were given out. That moves
// nobody's time, however many kills there are.
func TestINV16KillsDoNotMoveTheTime(t *testing.T) {
	t.Parallel()
	for name, url := range map[string]string{"SQLite": "", "MariaDB": testserver.SharedMariaDB(t).NewDatabase(t)} {
		t.Run(name, func(t *testing.T) {
			ctx := context.Background()
			cfg := syncengine.Config{Dir: t.TempDir(), SQLURL: url}
			for range 8 {
				e := lab.Open(t, cfg)
				if url != "" { // it has met its neighbours, and they have met it
					lab.Eventually(t, "it has joined", func() bool { return e.Health(ctx).Fleet.Joined })
				}
				lab.Must(t, e.Submit(ctx, syncengine.Item{ID: "x", Content: []byte("1")}, syncengine.WithDurability(syncengine.Buffered)))
				it, err := e.Get(ctx, "x")
				lab.Must(t, err)
				if at := time.UnixMilli(int64(it.Version >> 16)); time.Until(at) > 1500*time.Millisecond {
					t.Fatalf("a version of %v, %v ahead", at, time.Until(at))
				}
				if ahead := e.Health(ctx).Fleet.Ahead; ahead > 500*time.Millisecond {
					t.Fatalf("the time is %v ahead", ahead)
				}
				cfg.Dir = lab.Killed(t, cfg.Dir)
				if url == "" { // else the file would be another one's
					lab.Must(t, e.Close())
				}
			}
		})
	}
}
