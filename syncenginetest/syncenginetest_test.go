package syncenginetest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/storetest"
)

func TestMain(m *testing.M) { lab.Main(m) }

func quick(cfg *syncengine.Config) {
	cfg.L3Timeout, cfg.L2Timeout = 200*time.Millisecond, 100*time.Millisecond
}

func TestSettledItemsAreInL3(t *testing.T) {
	e := New(t, func(cfg *syncengine.Config) { cfg.BatchFlushInterval = time.Hour })
	lab.Put(t, e, "a", 1)
	Settle(t, e)
	st, err := e.Status(context.Background(), "a")
	if err != nil || !st.InL3 || st.State != syncengine.StatusSynced {
		t.Errorf("status %+v, %v", st, err)
	}
}

func TestFaultsOfSQLAreFelt(t *testing.T) {
	s := Start(t)
	e := s.New(quick)
	ctx := context.Background()
	lab.Eventually(t, "the tables are there", func() bool { return e.Health(ctx).L3.OK })
	for i, f := range []Fault{SQLAway, SQLHangs} {
		s.On(f)
		if st, err := e.Status(ctx, "absent"); !errors.Is(err, syncengine.ErrUnavailable) {
			t.Errorf("%s: status %+v, %v", f, st, err)
		}
		id := fmt.Sprint("written.", i)
		lab.Put(t, e, id, 1)
		said := &saying{TB: t}
		said.run(func() { settle(said, e, 300*time.Millisecond) })
		if !strings.Contains(said.text, "1 ops pending") {
			t.Errorf("%s: settle said %q", f, said.text)
		}
		s.Off(f)
		Settle(t, e)
		if st, err := e.Status(ctx, id); err != nil || !st.InL3 || !st.InL2 {
			t.Errorf("after %s: %+v, %v", f, st, err)
		}
	}
}

func TestFaultsOfRedisAreFelt(t *testing.T) {
	s := Start(t)
	e := s.New(quick)
	ctx := context.Background()
	lab.Eventually(t, "the tables are there", func() bool { return e.Health(ctx).L3.OK })
	for _, f := range []Fault{RedisAway, RedisHangs} {
		s.On(f)
		if h := e.Health(ctx); h.L2.OK || !h.L3.OK {
			t.Errorf("%s: health %+v", f, h)
		}
		s.Off(f)
		lab.Eventually(t, "Redis is back", func() bool { return e.Health(ctx).L2.OK })
	}
}

func TestSlowServersAreSlow(t *testing.T) {
	s := Start(t)
	e := s.New()
	ctx := context.Background()
	s.On(SQLSlow)
	s.On(RedisSlow)
	if h := e.Health(ctx); !h.L2.OK || !h.L3.OK || h.L2.Latency < slow || h.L3.Latency < slow {
		t.Errorf("health %+v", h)
	}
}

func TestKilledServersComeBack(t *testing.T) {
	s := Start(t)
	e := s.New(quick)
	s.SQL.Kill()
	lab.Put(t, e, "a", 1)
	s.SQL.Restart()
	Settle(t, e)
}

func TestTwinsPassTheSuites(t *testing.T) {
	t.Run("archive", func(t *testing.T) {
		TestArchiveStore(t, func(*testing.T) syncengine.ArchiveStore { return storetest.NewArchive() })
	})
	t.Run("cache", func(t *testing.T) {
		TestCacheStore(t, func(*testing.T) syncengine.CacheStore { return storetest.NewCache() })
	})
	t.Run("archives", func(t *testing.T) {
		TestSharedArchiveStore(t, func(*testing.T) func() syncengine.ArchiveStore {
			s := storetest.NewArchive()
			return func() syncengine.ArchiveStore { return storetest.Another(s) }
		})
	})
	t.Run("caches", func(t *testing.T) {
		TestSharedCacheStore(t, func(*testing.T) func() syncengine.CacheStore {
			s := storetest.NewCache()
			return func() syncengine.CacheStore { return s }
		})
	})
}

// saying is a test that may fail, and keeps what it says.
type saying struct {
	testing.TB
	text string
}

func (s *saying) Fatalf(format string, args ...any) {
	s.text = fmt.Sprintf(format, args...)
	panic(s)
}

func (s *saying) run(fn func()) {
	defer func() {
		if r := recover(); r != nil && r != any(s) {
			panic(r)
		}
	}()
	fn()
}

func BenchmarkNew(b *testing.B) {
	New(b) // the first one takes longer
	for b.Loop() {
		e := New(b)
		b.StopTimer()
		lab.Must(b, e.Close())
		b.StartTimer()
	}
}
