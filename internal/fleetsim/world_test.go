package fleetsim

import (
	"context"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/faultproxy"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

const (
	places   = 5
	maxAge   = time.Second
	callTime = 2500 * time.Millisecond
	// bound is after what time another engine's write is seen: L1MaxAge, two beats, and what a busy
	// machine takes.
	bound = maxAge + 2*500*time.Millisecond + time.Second
)

// world is the fleet and its servers.
type world struct {
	t     *testing.T
	seed  uint64
	began time.Time
	ctx   context.Context // ends with the first mistake
	stop  context.CancelFunc

	db, redis *testserver.Server
	raw       *sql.DB
	l3        syncengine.ArchiveStore
	slots     []*slot
	lines     []*line
	counters  []*counter
	registers []*register
	followers []*follower

	pause   sync.RWMutex // held by who checks
	nodes   atomic.Int64
	lag     atomic.Int64 // when this process last had to wait for its turn, or a server for its
	trouble sync.Mutex   // guards the next two
	log     []string
	counts  map[string]int

	onceMu sync.Mutex // guards onces
	onces  []*once
}

// slot is a place for an engine.
type slot struct {
	w          *world
	number     int
	dir        string
	sql, cache *faultproxy.Proxy
	node       atomic.Pointer[node]
	lines      []*line
	rng        *rand.Rand
	busy       sync.Mutex // held while an engine is opened or closed here

	goodSince     atomic.Int64 // L3 was there for an engine here since then, in nanoseconds of the world; 0: it is not
	sqlBad, l2Bad bool         // of the plan alone
	replays       atomic.Bool  // what is in the WAL may have been in L3 before: there was a kill
}

func (w *world) now() int64 { return int64(time.Since(w.began)) + 1 }

// note keeps what happened, for who has to find out why.
func (w *world) note(format string, args ...any) {
	w.trouble.Lock()
	defer w.trouble.Unlock()
	w.log = append(w.log, fmt.Sprintf("%8.3f  ", time.Since(w.began).Seconds())+fmt.Sprintf(format, args...))
}

func (w *world) count(what string) {
	w.trouble.Lock()
	w.counts[what]++
	w.trouble.Unlock()
}

// wrong ends the run.
func (w *world) wrong(format string, args ...any) {
	if w.ctx.Err() != nil {
		return
	}
	w.stop()
	w.trouble.Lock()
	defer w.trouble.Unlock()
	w.t.Errorf("seed %d, after %.3f s: %s\nlately:\n%s", w.seed, time.Since(w.began).Seconds(), fmt.Sprintf(format, args...),
		strings.Join(w.log[max(0, len(w.log)-40):], "\n"))
}

// steady reports whether this process and the servers were quick since a time.
func (w *world) steady(since time.Time) bool {
	return w.began.Add(time.Duration(w.lag.Load())).Before(since)
}

// watchPace notes when this machine is too busy for checks of time.
func (w *world) watchPace() {
	for last := time.Now(); w.ctx.Err() == nil; {
		time.Sleep(20 * time.Millisecond)
		ctx, cancel := context.WithTimeout(w.ctx, time.Second)
		var one int
		_ = w.raw.QueryRowContext(ctx, "SELECT 1").Scan(&one) // one that is down is slow as well
		cancel()
		if time.Since(last) > 500*time.Millisecond {
			w.lag.Store(w.now())
			w.count("slow moments")
		}
		last = time.Now()
	}
}

func newWorld(t *testing.T, seed uint64) *world {
	w := &world{t: t, seed: seed, db: testserver.MariaDB(t), redis: testserver.Redis(t), counts: make(map[string]int)}
	w.ctx, w.stop = context.WithCancel(context.Background())
	w.raw = w.db.SQL(t)
	w.l3 = lab.ArchiveAt(t, w.db.URL())
	for n := range places {
		s := &slot{w: w, number: n, dir: t.TempDir(), sql: faultproxy.New(t, w.db.Addr()), cache: faultproxy.New(t, w.redis.Addr()),
			rng: rand.New(rand.NewPCG(seed, uint64(n)))}
		for k := range 12 {
			s.lines = append(s.lines, &line{ids: []string{fmt.Sprintf("o:%d:%d", n, k)}, slot: n})
		}
		for k := range 4 {
			s.lines = append(s.lines, &line{ids: []string{fmt.Sprintf("t:%d:%d", n, k)}, slot: n})
			g := fmt.Sprintf("g:%d:%d:", n, k)
			s.lines = append(s.lines, &line{ids: []string{g + "a", g + "b"}, slot: n})
		}
		w.slots, w.lines = append(w.slots, s), append(w.lines, s.lines...)
	}
	for k := range 4 {
		w.counters = append(w.counters, &counter{id: fmt.Sprint("c:", k), given: make(map[int]bool)})
		w.registers = append(w.registers, &register{id: fmt.Sprint("r:", k)})
	}
	w.began = time.Now()
	return w
}

// open opens an engine here, as the dice say.
func (s *slot) open(rng *rand.Rand, plain bool) {
	s.openAs(rng, map[bool]string{true: "Redis", false: "dice"}[plain])
}

// openAs is open with Redis, or without ("").
func (s *slot) openAs(rng *rand.Rand, redis string) {
	s.busy.Lock()
	defer s.busy.Unlock()
	if s.node.Load() != nil {
		return
	}
	w := s.w
	n := start(w.t, int(w.nodes.Add(1)), rng.IntN(2) == 0)
	n.setup = setup{Dir: s.dir, SQL: lab.Via(w.t, w.db.URL(), s.sql), Redis: lab.Via(w.t, w.redis.URL(), s.cache), Prefix: "sim:",
		Name: []string{"right", "right", "ahead", "behind", "jumping"}[rng.IntN(5)], Flush: time.Duration(5+rng.IntN(60)) * time.Millisecond}
	switch dice := rng.IntN(8); {
	case redis == "Redis":
	case dice < 2 || redis == "":
		n.setup.Redis = ""
	case dice == 2:
		n.setup.NoPush = true
	}
	r := n.do(Request{Call: "open", Setup: n.setup, Within: 20 * time.Second})
	if r.Outcome != done {
		w.note("place %d: %v can't be opened: %s", s.number, n, r.Err)
		w.count("failed opens")
		if s.good(time.Now().Add(-bound)) && w.steady(time.Now().Add(-bound)) {
			w.wrong("place %d: %v can't be opened: %s", s.number, n, r.Err)
		}
		if n.child != nil {
			n.kill()
		}
		return
	}
	w.note("place %d: %v is open", s.number, n)
	w.count("opens")
	for range 30 { // what it finds in Redis is from before it came
		s.read(n, w.lines[rng.IntN(len(w.lines))], rng)
	}
	s.node.Store(n)
}

// close closes the engine here.
func (s *slot) close() {
	s.busy.Lock()
	defer s.busy.Unlock()
	n := s.node.Swap(nil)
	if n == nil {
		return
	}
	marks := s.marks()
	s.look(n)
	r, ok := n.close()
	if !ok {
		s.w.wrong("INV-12: place %d: %v was not closed after %v: see what its goroutines do", s.number, n, closeLimit)
		return
	}
	s.w.note("place %d: %v is closed: %s", s.number, n, r.Err)
	s.w.count("closes")
	switch {
	case r.Outcome == done:
		s.flushed(marks, n)
	case !strings.Contains(r.Err, syncengine.ErrPending.Error()) && !strings.Contains(r.Err, "left in the WAL"):
		s.w.wrong("place %d: Close: %s", s.number, r.Err)
	}
	n.end()
}

// kill kills it, if it is a child.
func (s *slot) kill() bool {
	s.busy.Lock()
	defer s.busy.Unlock()
	n := s.node.Load()
	if n == nil || n.child == nil {
		return false
	}
	s.node.Store(nil)
	s.replays.Store(true)
	n.kill()
	s.w.note("place %d: %v is killed", s.number, n)
	s.w.count("kills")
	return true
}

func (s *slot) marks() []int {
	marks := make([]int, len(s.lines))
	for i, l := range s.lines {
		marks[i] = l.mark()
	}
	return marks
}

func (s *slot) flushed(marks []int, by *node) {
	for i, l := range s.lines {
		l.flushed(marks[i], by)
	}
}

// look asks what the engine has lost to others: nothing of what it alone writes.
func (s *slot) look(n *node) {
	r := n.do(Request{Call: "stats"})
	for _, op := range r.Superseded {
		if strings.HasPrefix(op.ID, "r:") {
			s.w.count("superseded")
			continue
		}
		if s.replays.Load() { // that it was stored before, and then replaced, nobody knows after a crash
			continue
		}
		s.w.wrong("place %d, %v: %s, which nobody else writes, was superseded: version %d by %d", s.number, n, op.ID, op.Version, op.By)
	}
	if r.Stats.Quarantined > 0 {
		s.w.wrong("place %d, %v: %d in quarantine", s.number, n, r.Stats.Quarantined)
	}
}

// good reports whether L3 was there for an engine here since a time.
func (s *slot) good(since time.Time) bool {
	at := s.goodSince.Load()
	return at > 0 && s.w.began.Add(time.Duration(at)).Before(since)
}

func (s *slot) setGood(yes bool) {
	if s.goodSince.Store(0); yes {
		s.goodSince.Store(s.w.now())
	}
}

// follower keeps a copy of L3 by what it is told.
type follower struct {
	w        *world
	rng      *rand.Rand
	token    string
	older    []string
	values   map[string]string
	versions map[string]uint64
}

// turn goes on at some engine.
func (f *follower) turn(within time.Duration) {
	n := f.w.slots[f.rng.IntN(places)].node.Load()
	if n == nil {
		return
	}
	if f.rng.IntN(10) == 0 && len(f.older) > 0 {
		f.token = f.older[f.rng.IntN(len(f.older))]
	}
	r := n.do(Request{Call: "watch", Token: f.token, Within: within})
	f.token = r.Token
	for _, c := range r.Told {
		f.w.count("changes told")
		if c.Version < f.versions[c.ID] {
			f.w.wrong("%v: Watch tells of %s in version %d, after %d", n, c.ID, c.Version, f.versions[c.ID])
		}
		f.versions[c.ID] = c.Version
		if delete(f.values, c.ID); c.Kind == syncengine.ChangePut {
			f.values[c.ID] = c.Value
		}
	}
	if len(r.Told) > 0 {
		f.older = append(f.older[max(0, len(f.older)-20):], r.Told[f.rng.IntN(len(r.Told))].Token)
	}
	if strings.Contains(r.Err, syncengine.ErrWatchExpired.Error()) || strings.Contains(r.Err, syncengine.ErrCorruption.Error()) {
		f.w.wrong("%v: Watch from %q: %s", n, f.token, r.Err)
	}
	if r.Token == "" { // the child was killed
		f.token = f.older[len(f.older)-1]
	}
}

// explain is what an engine knows of an id.
func explain(n *node, id string) string {
	return n.do(Request{Call: "explain", ID: id}).Value
}
