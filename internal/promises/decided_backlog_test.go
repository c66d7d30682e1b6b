package promises

// decided_backlog_test.go lets L3 decide while the log is full of what waits, and slow.

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/failpoint"
	"github.com/syncengine-go/syncengine/internal/lab"
)

// gatedStore is an L3 that holds writes of ids that begin with a name, and can be away.
type gatedStore struct {
	*lab.HookedArchive
	away  atomic.Bool
	gates map[string]chan struct{}
	in    chan string
}

func newGatedStore(t *testing.T, names ...string) *gatedStore {
	store, err := lab.OpenSQLStore("sqlite:" + filepath.Join(t.TempDir(), "a.db"))
	lab.Must(t, err)
	t.Cleanup(func() { _ = store.Close() })
	g := &gatedStore{gates: map[string]chan struct{}{}, in: make(chan string, 1000)}
	for _, n := range names {
		g.gates[n] = make(chan struct{})
	}
	there := func() error {
		if g.away.Load() {
			return lab.ErrAway
		}
		return nil
	}
	g.HookedArchive = &lab.HookedArchive{ArchiveStore: store, OnHeads: there, OnGet: there,
		OnPrepare: func(context.Context) error { return there() },
		OnApply: func(_ context.Context, recs []syncengine.Record) error {
			if err := there(); err != nil {
				return err
			}
			for _, r := range recs {
				for n, gate := range g.gates {
					if strings.HasPrefix(r.ID+string(r.Content), n) {
						g.in <- r.ID
						<-gate
					}
				}
			}
			return nil
		}}
	return g
}

func setByUpdate(t *testing.T, e *syncengine.Engine, n int) {
	t.Helper()
	_, err := e.Update(lab.Bounded(t), "x", func(syncengine.Item, bool) (syncengine.Item, error) {
		return syncengine.Item{Content: fmt.Append(nil, n)}, nil
	})
	lab.Must(t, err)
}

// wantDecided: in an outage a Dir answers with what was decided, or with nothing.
func wantDecided(t *testing.T, g *gatedStore, dir, want string) {
	t.Helper()
	g.away.Store(true)
	next := lab.Open(t, syncengine.Config{Dir: dir, L3: g})
	it, err := next.Get(context.Background(), "x")
	if !errors.Is(err, syncengine.ErrUnavailable) && string(it.Content) != want {
		t.Errorf("L3 has decided %s, acknowledged; after a restart in an outage x is %s, %v", want, it.Content, err)
	}
	_ = next.Close()
	g.away.Store(false)
}

// draining is an engine whose backlog is held at "front1" and "front2".
func draining(t *testing.T, g *gatedStore, cfg syncengine.Config) *syncengine.Engine {
	t.Helper()
	g.away.Store(true)
	e := lab.Open(t, cfg)
	lab.Put(t, e, "front1", 1)
	lab.Put(t, e, "front2", 1)
	for i := range 20 {
		lab.Put(t, e, fmt.Sprint("pre", i), 1)
	}
	_ = e.Close()
	g.away.Store(false)
	e = lab.Open(t, cfg)
	<-g.in
	<-g.in
	return e
}

// TestINV02UpdatesWhileABacklogDrainsAreKnown: what was decided goes into the log at its end; the
// next one must not take that for gone when what was before it is.
func TestINV02UpdatesWhileABacklogDrainsAreKnown(t *testing.T) {
	t.Parallel()
	for name, killed := range map[string]bool{"kill": true, "Close": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGatedStore(t, "front", "hold")
			cfg := syncengine.Config{Dir: t.TempDir(), L3: g, L3Timeout: time.Minute, FlushConcurrency: 2, BatchFlushCount: 1}
			e := draining(t, g, cfg)
			setByUpdate(t, e, 1)
			lab.Put(t, e, "hold1", 1) // other writes
			lab.Put(t, e, "hold2", 1)
			for i := range 20 {
				lab.Put(t, e, fmt.Sprint("other", i), 1)
			}
			setByUpdate(t, e, 2) // goes into the log, at the end of what drains
			close(g.gates["front"])
			<-g.in
			<-g.in                  // the drain is at "hold1" and "hold2"
			time.Sleep(time.Second) // what was before has gone from the log
			setByUpdate(t, e, 3)    // does not
			dir := cfg.Dir
			if killed {
				dir = lab.Killed(t, dir)
				close(g.gates["hold"])
			} else {
				g.away.Store(true)
				close(g.gates["hold"])
				_ = e.Close()
			}
			wantDecided(t, g, dir, "3")
		})
	}
}

// TestINV02AnUpdateAfterAWriteThatOvertookTheLogIsKnown: a Buffered write has landed before a
// spooled one of its id, which the log still has.
func TestINV02AnUpdateAfterAWriteThatOvertookTheLogIsKnown(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	g := newGatedStore(t, "front", "hold", "mid")
	cfg := syncengine.Config{Dir: t.TempDir(), L3: g, L3Timeout: time.Minute, FlushConcurrency: 3, BatchFlushCount: 1}
	e := draining(t, g, cfg)
	_, err := e.Update(ctx, "warm", lab.Increment)
	lab.Must(t, err)
	for _, id := range []string{"hold1", "hold2", "mid"} {
		lab.Put(t, e, id, 1)
	}
	for i := range 20 {
		lab.Put(t, e, fmt.Sprint("other", i), 1)
	}
	lab.Must(t, e.Submit(ctx, syncengine.Item{ID: "x", Content: []byte("1")})) // waits in the log alone
	close(g.gates["front"])
	for range 3 {
		<-g.in
	}
	time.Sleep(500 * time.Millisecond) // the drain has read all there is room for
	lab.Must(t, e.Submit(ctx, syncengine.Item{ID: "x", Content: []byte("2")}, syncengine.WithDurability(syncengine.Buffered), syncengine.WithPriority(syncengine.PriorityCritical)))
	close(g.gates["mid"])
	lab.Landed(t, e, "x")
	r, err := g.Get(ctx, "x")
	if lab.Must(t, err); string(r.Content) != "2" {
		t.Errorf("L3 holds %s", r.Content)
	}
	setByUpdate(t, e, 3)
	image := lab.Killed(t, cfg.Dir)
	close(g.gates["hold"])
	wantDecided(t, g, image, "3")
}

// TestINV02UpdatesInLineOnASlowLogAreKnown: the op before them in the log lands between the two
// decisions, and what the first is to leave there is still on its way.
func TestINV02UpdatesInLineOnASlowLogAreKnown(t *testing.T) {
	ctx := context.Background()
	g := newGatedStore(t, "front", "x2", "x3")
	dir := t.TempDir()
	e := lab.Open(t, syncengine.Config{Dir: dir, L3: g, L3Timeout: time.Minute, FlushConcurrency: 2, BatchFlushCount: 1})
	_, err := e.Update(ctx, "warm", lab.Increment)
	lab.Must(t, err)
	lab.Put(t, e, "front", 1)
	<-g.in
	lab.Must(t, e.Submit(ctx, syncengine.Item{ID: "x", Content: []byte("1")}, syncengine.WithDurability(syncengine.Archived)))
	time.Sleep(200 * time.Millisecond) // 1 has landed and is where it was in the log
	a, b, z := make(chan bool), make(chan bool), make(chan bool)
	go func() { setByUpdate(t, e, 2); close(a) }()
	<-g.in
	go func() { setByUpdate(t, e, 3); close(b) }()
	time.Sleep(300 * time.Millisecond) // it stands behind that one
	var hang atomic.Bool
	hang.Store(true)
	inWAL, gate := make(chan bool, 9), make(chan bool)
	failpoint.SetHook(func(p failpoint.Point) {
		if p == failpoint.WALCommitting && hang.Load() {
			inWAL <- true
			<-gate
		}
	})
	defer failpoint.SetHook(func(failpoint.Point) {})
	go func() { lab.Put(t, e, "z", 1); close(z) }()
	<-inWAL
	close(g.gates["x2"])
	<-g.in // 2 is decided
	close(g.gates["front"])
	time.Sleep(300 * time.Millisecond) // that has landed
	close(g.gates["x3"])
	time.Sleep(300 * time.Millisecond) // 3 is decided
	hang.Store(false)
	close(gate)
	<-b
	image := lab.Killed(t, dir)
	<-a
	<-z
	wantDecided(t, g, image, "3")
}

// TestWhatWasDecidedIsNotToldSuperseded: it waits in the log as well, the engine is closed, and
// another one goes on.
func TestWhatWasDecidedIsNotToldSuperseded(t *testing.T) {
	t.Parallel()
	g := newGatedStore(t, "front")
	told := make(chan syncengine.SupersededOp, 100)
	cfg := syncengine.Config{Dir: t.TempDir(), L3: g, L3Timeout: time.Minute, FlushConcurrency: 2, BatchFlushCount: 1,
		OnEvent: syncengine.Events{Superseded: func(op syncengine.SupersededOp) { told <- op }}}
	e := draining(t, g, cfg)
	setByUpdate(t, e, 1)
	g.away.Store(true)
	close(g.gates["front"])
	_ = e.Close()
	g.away.Store(false)
	setByUpdate(t, lab.Open(t, syncengine.Config{L3: g}), 2)
	e = lab.Open(t, cfg)
	lab.Eventually(t, "flushed", func() bool { return e.Flush(context.Background()) == nil })
	if n := e.Stats().Superseded; n != 0 {
		op := <-told
		t.Errorf("superseded: %s %s, which L3 had stored", op.ID, op.Content)
	}
}
