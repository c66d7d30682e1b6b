package machines

// sweep_test.go runs one scenario again and again; it uses every write call there is. In run
// k the k-th call of one method of a store goes wrong: it fails, or is made and then fails, or
// hangs, or begins an outage of several calls. What the calls of the engine said is kept as a
// model: an acknowledged op counts, a refused one does not, and of one whose outcome is
// unknown either may be true. When the faults are over, the engine, its reopened self, L2 and
// L3 must agree with the model. A method is done with when runs end before its k-th call, so
// no call is left out, also none that is added later.
//
// sweep_steps_test.go is the scenario.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/storetest"
)

// fault is what happens to store calls from the k-th of a method on.
type fault struct {
	name  string
	calls int  // how many calls in a row, of whatever method
	step  int  // from one run to the next; outages overlap
	made  bool // the call is made, its reply is lost; only calls that write count
	hangs bool // until its context ends
}

var sweepFaults = []fault{
	{name: "fails", calls: 1, step: 1},
	{name: "is made and fails", calls: 1, step: 1, made: true},
	{name: "hangs", calls: 1, step: 1, hangs: true},
	{name: "fails, and so do the next 3", calls: 4, step: 4},
	{name: "is made and fails, and so are the next 3", calls: 4, step: 4, made: true},
	{name: "fails, and so do the next 11", calls: 12, step: 12}, // beyond retries and breakers
}

// sweepCalls are the calls that the scenario makes while nothing has gone wrong, with whether
// they write. Others come after a fault only.
var (
	sweepCalls = map[string]bool{
		"L2 Get": false, "L2 GetMany": false, "L2 Put": true, "L2 Scan": false,
		"L3 Prepare": true, "L3 Get": false, "L3 GetMany": false, "L3 Heads": false, "L3 Apply": true, "L3 Scan": false,
		"L3 ApplyIf": true,
	}
	repairCalls = map[string]bool{"L2 Ping": false, "L2 Remove": true, "L3 Ping": false, "L3 Landed": false, "L3 PurgeTombstones": true,
		"L3 Expired": false}
)

// injector makes the at-th call of a method go wrong, and those after it as far as the fault
// says.
type injector struct {
	fault
	call string
	at   int

	mu    sync.Mutex // guards the fields below
	seen  map[string]int
	over  bool     // no more faults
	hits  []string // the calls that went wrong
	stuck []string // hung calls that the engine did not end
}

// strikes decides about a call.
func (in *injector) strikes(call string) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	nth := in.seen[call]
	in.seen[call]++
	counts := !in.made || sweepCalls[call] || repairCalls[call]
	begins := len(in.hits) == 0 && call == in.call && nth == in.at
	goesOn := len(in.hits) > 0 && len(in.hits) < in.calls
	if in.over || !counts || !begins && !goesOn {
		return false
	}
	in.hits = append(in.hits, call)
	return true
}

// patience is how long a hung call may last: far more than any timeout of the scenario.
const patience = 3 * time.Second

func (in *injector) around(ctx context.Context, tier, name string, do func() error) error {
	call := tier + " " + name
	switch {
	case !in.strikes(call):
		err := do()
		if call == "L3 Prepare" && errors.Is(err, context.DeadlineExceeded) {
			return lab.ErrAway // as the interface asks, when the machine was slower than the timeout
		}
		return err
	case in.made:
		_ = do() // nobody will know
	case in.hangs:
		limit := time.NewTimer(patience)
		defer limit.Stop()
		select {
		case <-ctx.Done():
			if tier == "L3" && name != "Prepare" { // where the interface asks for no more than that
				return ctx.Err()
			}
		case <-limit.C:
			in.mu.Lock()
			in.stuck = append(in.stuck, call)
			in.mu.Unlock()
		}
	}
	return lab.ErrAway
}

// end ends the faults and returns the calls that nothing ended.
func (in *injector) end() (stuck []string) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.over = true
	return in.stuck
}

// excuses reports whether a call of the engine may fail: after a call of a store did, or, when
// timeouts are short, since the machine is slow.
func (in *injector) excuses() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return len(in.hits) > 0 || in.hangs
}

// sweepRun is one run of the scenario.
type sweepRun struct {
	in  *injector
	cfg syncengine.Config
	l2  syncengine.CacheStore // without faults, to look into
	l3  syncengine.ArchiveStore
	e   *syncengine.Engine

	takesPoison atomic.Bool
	truth       map[string][]int // what an id may hold; absent is one of the values

	mu       sync.Mutex // guards problems
	problems []string
}

// absent is the value of an id that does not exist. Values from poisoned on are refused by L3
// until it takes poison.
const (
	absent   = -1
	poisoned = 1000
)

// page is a document of 5 KiB. 64 KiB of memory hold some ten of them, so that most reads of
// the scenario go to the stores, and some ops of an outage are spooled.
func page(id string, n int) []byte {
	word := "sound"
	if n >= poisoned {
		word = "poison"
	}
	head := fmt.Sprintf(`{"id":%q,"n":%d,"word":%q,"pad":"`, id, n, word)
	return append(append(make([]byte, 0, len(head)+len(pad)), head...), pad...)
}

var pad = strings.Repeat("x", 5<<10) + `"}`

func newSweepRun(dir string, l3 syncengine.ArchiveStore, in *injector) *sweepRun {
	r := &sweepRun{in: in, l2: storetest.NewCache(), truth: make(map[string][]int)}
	r.l3 = &lab.HookedArchive{ArchiveStore: l3, OnApply: func(_ context.Context, recs []syncengine.Record) error {
		for i := range recs {
			if !r.takesPoison.Load() && bytes.Contains(recs[i].Content, []byte(`"poison"`)) {
				return &syncengine.RefusedError{Err: errors.New("poison")}
			}
		}
		return nil
	}}
	timeouts := map[string]time.Duration{"L2": 10 * time.Second, "L3": 10 * time.Second}
	if in.hangs { // of the tier that hangs alone: the other one may be slow, on a loaded machine
		tier, _, _ := strings.Cut(in.call, " ")
		timeouts[tier] = slowly(100 * time.Millisecond)
	}
	r.cfg = syncengine.Config{
		Dir: dir, L1MaxBytes: 64 << 10, WALNoSync: true, FlushConcurrency: 1, L1MaxAge: time.Hour,
		BatchFlushInterval: time.Hour, BatchFlushCount: 5, // when a batch is due does not depend on time
		L2Timeout: timeouts["L2"], L3Timeout: timeouts["L3"],
		L2: &lab.AroundCache{In: r.l2, Fn: r.in.around},
		L3: &lab.AroundArchive{In: r.l3, Fn: r.in.around, Applied: r.groupsAreWhole},
	}
	return r
}

func (r *sweepRun) failf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.problems = append(r.problems, fmt.Sprintf(format, args...))
}

// sweepGroups are written only as a whole, so that all ids of one hold the same value.
var sweepGroups = [][]string{{"group1-a", "group1-b", "group1-c"}, {"group2-a", "group2-b"}, {"bad-group-a", "bad-group-b"}}

// groupsAreWhole looks into L3 between two transactions.
func (r *sweepRun) groupsAreWhole([]syncengine.Record) {
	for _, ids := range sweepGroups {
		found, err := r.l3.GetMany(context.Background(), ids)
		if err != nil {
			r.failf("looking at group %v: %v", ids, err)
			continue
		}
		for i := range found {
			if a, b := valueOf(&found[0].Record), valueOf(&found[i].Record); a != b {
				r.failf("L3 holds a part of group %v: %d and %d", ids, a, b)
			}
		}
	}
}

// valueOf returns the value that a record stands for; the zero Record is absent.
func valueOf(rec *syncengine.Record) int {
	n := absent
	if rec.Version == 0 || rec.Deleted {
		return n
	}
	if _, text, ok := bytes.Cut(rec.Content, []byte(`"n":`)); !ok || !scan(text, &n) || !bytes.Equal(rec.Content, page(rec.ID, n)) {
		return -2 // nobody wrote that
	}
	return n
}

func scan(text []byte, n *int) bool {
	_, err := fmt.Sscanf(string(text[:min(len(text), 20)]), "%d", n)
	return err == nil
}

// until waits for cond, and notes as a problem when it never comes true.
func (r *sweepRun) until(what string, cond func() bool) {
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-deadline.C:
			r.failf("never came true: %s; %+v", what, r.e.Stats())
			return
		}
	}
}

// settle ends the faults, waits until all is at rest, and compares every tier with the model.
func (r *sweepRun) settle() {
	ctx := context.Background()
	if stuck := r.in.end(); len(stuck) > 0 {
		r.failf("nothing ended a call that hung: %v", stuck)
	}
	r.until("all is flushed", func() bool { return r.e.Flush(ctx) == nil })
	r.until("quarantine is empty", func() bool {
		_, err := r.e.RetryQuarantined(ctx)
		return err == nil && r.e.Flush(ctx) == nil && r.e.Stats().Quarantined == 0
	})
	r.until("L2 is repaired", func() bool { return r.e.Stats().L2Missed == 0 })
	r.until("the engine knows that the stores are back", func() bool {
		h := r.e.Health(ctx)
		return h.L2.Circuit == "closed" && h.L3.Circuit == "closed" && !r.e.Stats().L3Down
	})
	if s := r.e.Stats(); s.PendingOps != 0 || s.SpooledOps != 0 || s.L1Pinned != 0 {
		r.failf("after Flush ops are left: %+v", s)
	}
	r.until("the WAL is empty", func() bool { // an outage may just be putting Buffered ops there
		return r.e.Stats().WALItems == 0 && r.e.Stats().WALBytes == 0
	})
	rows, err := lab.ArchiveOf(ctx, r.l3)
	if err != nil {
		r.failf("reading L3: %v", err)
	}
	for id, may := range r.truth {
		rec := rows[id]
		n := valueOf(&rec)
		if !slices.Contains(may, n) {
			r.failf("L3 holds %d of %s, want one of %v", n, id, may)
		}
		r.truth[id] = []int{n} // from now on it is known
	}
	r.cacheAgrees(rows)
	r.until("all reads are answered", func() bool { return r.readAll("at rest") == 0 })
}

// cacheAgrees checks that L2 holds of an id what L3 holds, or nothing.
func (r *sweepRun) cacheAgrees(rows map[string]syncengine.Record) {
	copies, err := lab.CacheOf(context.Background(), r.l2)
	if err != nil {
		r.failf("reading L2: %v", err)
	}
	for id, rec := range copies {
		row := rows[id]
		if field := storetest.Diff(&rec, &row); field != "" {
			r.failf("L2 differs from L3 in %s of %s: version %d (deleted %v), L3 has %d (deleted %v)",
				field, id, rec.Version, rec.Deleted, row.Version, row.Deleted)
		}
	}
}

// run plays the scenario and returns what is wrong.
func (r *sweepRun) run() []string {
	if r.open() && r.scenario() {
		r.settle()
		if err := r.e.Close(); err != nil {
			r.failf("Close at rest: %v", err)
		}
		if r.open() {
			r.until("all reads are answered after reopening", func() bool { return r.readAll("after reopening") == 0 })
			if err := r.e.Close(); err != nil {
				r.failf("Close after reopening: %v", err)
			}
		}
	}
	return r.problems
}

// sweeper runs the scenario.
type sweeper struct {
	t       *testing.T
	root    string
	wider   int // than the step of the fault
	missed  int // runs that must end before the call, since the number of calls depends on what L1 evicts
	archive func(dir string) (syncengine.ArchiveStore, error)
	runs    atomic.Int64
}

// method begins faults at call 0 of a method, and so on in steps, until the call is not reached
// any more.
func (s *sweeper) method(f fault, call string) {
	bad := 0
	for at, missed := 0, 0; missed < s.missed && bad < 3; at += f.step * s.wider {
		in := &injector{fault: f, call: call, at: at, seen: make(map[string]int)}
		dir := filepath.Join(s.root, fmt.Sprint(s.runs.Add(1)))
		problems := s.run(in, dir)
		for again := 0; at == 0 && len(in.hits) == 0 && again < 2; again++ { // on a loaded machine L3 may have been given up before
			in = &injector{fault: f, call: call, at: at, seen: make(map[string]int)}
			problems = append(problems, s.run(in, filepath.Join(s.root, fmt.Sprint(s.runs.Add(1))))...)
		}
		if len(in.hits) == 0 {
			missed++
			if at == 0 {
				problems = append(problems, "the scenario never calls it")
			}
		}
		for call := range in.seen {
			_, first := sweepCalls[call]
			if _, later := repairCalls[call]; !first && !later {
				problems = append(problems, "the scenario calls "+call+", too, with which no run begins")
			}
		}
		if len(problems) > 0 {
			bad++
			s.t.Errorf("call %d of %s %s (%v):\n\t%s", at, call, f.name, in.hits, strings.Join(problems[:min(len(problems), 12)], "\n\t"))
		}
	}
}

func (s *sweeper) run(in *injector, dir string) []string {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return []string{err.Error()}
	}
	l3, err := s.archive(dir)
	if err != nil {
		return []string{err.Error()}
	}
	problems := newSweepRun(dir, l3, in).run()
	if err := l3.Close(); err != nil {
		problems = append(problems, err.Error())
	}
	return problems
}

// sweep has many runs side by side, since they mostly wait.
func (s *sweeper) sweep(faults []fault) {
	tasks := make(chan func(), len(faults)*len(sweepCalls)) // all of them
	for _, f := range faults {
		for call, isWrite := range sweepCalls {
			if isWrite || !f.made {
				tasks <- func() { s.method(f, call) }
			}
		}
	}
	close(tasks)
	var wg sync.WaitGroup
	for range 12 {
		wg.Go(func() {
			for task := range tasks {
				task()
			}
		})
	}
	wg.Wait()
	s.t.Logf("%d runs", s.runs.Load())
}

func TestINV01AStoreCallThatGoesWrongLosesNothingWhicheverItIs(t *testing.T) {
	t.Parallel()
	s := &sweeper{t: t, root: t.TempDir(), wider: 1, missed: 2}
	s.archive = func(string) (syncengine.ArchiveStore, error) { return storetest.NewArchive(), nil }
	s.sweep(sweepFaults)
}

// TestINV01AStoreCallThatGoesWrongLosesNothingInSQLite is the same with a real L3, at every
// seventh call.
func TestINV01AStoreCallThatGoesWrongLosesNothingInSQLite(t *testing.T) {
	s := &sweeper{t: t, root: t.TempDir(), wider: 7, missed: 1}
	s.archive = func(dir string) (syncengine.ArchiveStore, error) {
		l3, err := lab.OpenSQLStore("sqlite:" + filepath.Join(dir, "archive.db"))
		if err == nil { // making the schema takes longer than the timeouts of a run allow, on a loaded machine
			err = l3.Prepare(context.Background())
		}
		return l3, err
	}
	s.sweep(sweepFaults[:3])
}
