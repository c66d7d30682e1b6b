package crash

// crash_test.go kills a process that writes, at random moments, again and again, and holds
// what is left against what the process had been told (INV-1, 3, 4, 5, 11). The process is in
// crash_child_test.go, the judge in crash_history_test.go; kills at chosen moments are in
// crash_points_test.go.
//
// After each kill the rows of L3 are looked at from outside; then the directory is opened,
// which must succeed at once; every key is read while the WAL drains; now and then also
// after the drain, and by a second engine that has L3 alone.

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

// crashStores are the stores that processes are killed on.
var crashStores = []struct {
	name   string
	config func(t *testing.T) crashConfig
}{
	{"sqlite", func(*testing.T) crashConfig { return crashConfig{} }},
	{"mariadb and redis", func(t *testing.T) crashConfig {
		return crashConfig{SQLURL: testserver.SharedMariaDB(t).NewDatabase(t), RedisURL: testserver.Redis(t).URL()}
	}},
}

// onCrashStores runs a test on each of them, side by side.
func onCrashStores(t *testing.T, test func(t *testing.T, r *crashRun)) {
	for _, s := range crashStores {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			c := s.config(t)
			c.Dir, c.L1MaxBytes, c.FlushInterval = t.TempDir(), 1<<20, 5*time.Millisecond
			c.Durability = syncengine.Logged
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			c.Seed = seed
			r := &crashRun{c: c, h: newCrashHistory(), rng: rand.New(rand.NewPCG(seed, 0))}
			test(t, r)
			t.Logf("%d children, %d killed at points %v; Open took up to %v; %v", r.children, r.atPoints(), r.h.kills, r.slowest.Round(time.Millisecond), r.h)
		})
	}
}

// crashRounds is how often something is killed.
func crashRounds(n int) int {
	if testing.Short() {
		return max(1, n/10)
	}
	return n
}

// crashRun is one directory with its servers over many crashes.
type crashRun struct {
	c        crashConfig // of the next child
	h        *crashHistory
	rng      *rand.Rand // of all choices but those of the scheduler; a child's follow from its number
	children int64
	slowest  time.Duration // Open
}

func (r *crashRun) atPoints() (n int) {
	for _, k := range r.h.kills {
		n += k
	}
	return n
}

// child runs a child until it ends. after sees each line with its number and may kill; nil
// waits for the child to end by itself.
func (r *crashRun) child(t *testing.T, c crashConfig, after func(n int, line string, kill func())) {
	t.Helper()
	r.children++
	c.First = r.children << 32
	orders, err := json.Marshal(c)
	lab.Must(t, err)
	cmd := exec.Command(lab.ChildBinary(t))
	cmd.Env = append(os.Environ(), crashEnv+"="+string(orders))
	var stderr strings.Builder
	cmd.Stderr = &stderr
	pipe, err := cmd.StdoutPipe()
	lab.Must(t, err)
	lab.Must(t, cmd.Start())
	defer func() { _ = cmd.Process.Kill() }()
	hung := time.AfterFunc(2*time.Minute, func() { _ = cmd.Process.Signal(syscall.SIGQUIT) }) // it says where, on stderr
	defer hung.Stop()
	in := bufio.NewReader(pipe)
	for n := 1; ; n++ {
		line, err := in.ReadString('\n')
		if err != nil {
			break // the end, perhaps in the middle of a line
		}
		line = strings.TrimSuffix(line, "\n")
		if err := r.h.read(line); err != nil {
			t.Error(err)
		}
		if after != nil {
			after(n, line, func() { _ = cmd.Process.Kill() }) // what is in the pipe was acknowledged as well
		}
	}
	_ = cmd.Wait() // ended by a kill, mostly
	r.h.died()
	if stderr.Len() > 0 {
		t.Fatalf("the child says: %s", stderr.String())
	}
	r.wantNoFaults(t)
}

// killAfter kills a child a random while after so many lines.
func (r *crashRun) killAfter(lines int) func(int, string, func()) {
	while := time.Duration(r.rng.Int64N(int64(3 * time.Millisecond)))
	return func(n int, _ string, kill func()) {
		if n == lines {
			time.AfterFunc(while, kill)
		}
	}
}

func (r *crashRun) wantNoFaults(t *testing.T) {
	t.Helper()
	if len(r.h.faults) > 0 {
		t.Fatalf("child %d: %v:\n%s", r.children, r.h, strings.Join(r.h.faults[:min(len(r.h.faults), 20)], "\n"))
	}
}

// look holds L3 against the history, opens the directory, and does the same with what the
// engine answers. then may go on with the engine.
func (r *crashRun) look(t *testing.T, then func(t *testing.T, e *syncengine.Engine)) {
	t.Helper()
	ctx := context.Background()
	if r.c.Durability == syncengine.Buffered {
		r.awaitConnections(t)
	}
	store, err := lab.OpenSQLStore(r.c.url())
	lab.Must(t, err)
	lab.Must(t, store.Prepare(ctx))
	lab.Must(t, r.h.checkL3(ctx, store))
	lab.Must(t, store.Close()) // else the engine would not be the first to open the file after the crash
	r.wantNoFaults(t)

	cfg, err := r.c.engine()
	lab.Must(t, err)
	start := time.Now()
	e, err := syncengine.Open(ctx, cfg)
	if err != nil {
		t.Fatalf("Open after child %d: %v", r.children, err)
	}
	r.slowest = max(r.slowest, time.Since(start))
	look := lookByGet(e)
	if r.children%2 == 0 {
		look = lookByGetMany(e)
	}
	lab.Must(t, r.h.check(ctx, "after Open", look))
	r.wantNoFaults(t)
	if then != nil {
		then(t, e)
	}
	r.close(t, e, cfg)
}

// close ends an engine. Now and then it gets no time to flush.
func (r *crashRun) close(t *testing.T, e *syncengine.Engine, cfg syncengine.Config) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if r.rng.IntN(8) == 0 {
		cancel()
	}
	if err := e.Shutdown(ctx); err != nil && !errors.As(err, new(*syncengine.PendingError)) && ctx.Err() == nil {
		t.Fatal(err)
	}
	if cfg.L3 != nil {
		lab.Must(t, cfg.L3.Close())
	}
}

// drained flushes and looks again, at L2 as well, and from L3 alone.
func (r *crashRun) drained(t *testing.T, e *syncengine.Engine) {
	t.Helper()
	ctx := context.Background()
	if err := e.Flush(ctx); err != nil && !(r.c.Refuse && errors.Is(err, syncengine.ErrRefused)) {
		t.Fatal(err)
	}
	lab.Must(t, r.h.check(ctx, "after Flush", lookByGet(e)))
	if s := e.Stats(); s.PendingOps != 0 || s.WALItems != 0 {
		t.Errorf("after Flush %d ops are pending, %d in the WAL", s.PendingOps, s.WALItems)
	}
	if r.c.Refuse {
		r.quarantined(t, e)
	}
	if r.c.RedisURL != "" {
		lab.Eventually(t, "L2 is repaired", func() bool { return e.Stats().L2Missed == 0 })
		report, err := e.Verify(ctx, syncengine.VerifyOptions{})
		lab.Must(t, err)
		if !report.InSync {
			t.Errorf("L2 differs from L3 in %v", report.Divergent)
		}
	}
	cold := lab.Open(t, syncengine.Config{SQLURL: r.c.url()})
	lab.Must(t, r.h.check(ctx, "from L3 alone", lookByGetMany(cold)))
	lab.Must(t, cold.Close())
	r.wantNoFaults(t)
}

// awaitConnections waits until MariaDB has noticed that the child is gone: a COMMIT that was
// under way must not come between two looks.
func (r *crashRun) awaitConnections(t *testing.T) {
	t.Helper()
	if r.c.SQLURL == "" {
		return
	}
	db := testserver.OpenSQL(t, r.c.SQLURL)
	defer func() { lab.Must(t, db.Close()) }()
	lab.Eventually(t, "the child's connections are gone", func() bool {
		var n int
		lab.Must(t, db.QueryRow("SELECT COUNT(*) FROM "+lab.Processes()+" WHERE db = DATABASE() AND id <> CONNECTION_ID()").Scan(&n))
		return n == 0
	})
}

// TestINV01NothingAcknowledgedIsLostByKill kills children at random moments, one to three in a
// row, under different loads: much and little memory, so that ops are spooled or not, and a
// database that is away now and then.
func TestINV01NothingAcknowledgedIsLostByKill(t *testing.T) {
	t.Parallel()
	onCrashStores(t, func(t *testing.T, r *crashRun) {
		for kills := int64(crashRounds(100)); r.children < kills; {
			acks, before := r.h.acks, r.children
			for range min(1+r.rng.Int64N(3), kills-r.children) {
				c := r.c
				c.L1MaxBytes = []int64{64 << 10, 1 << 20}[r.rng.IntN(2)]
				c.FlushInterval = []time.Duration{time.Millisecond, 5 * time.Millisecond, 50 * time.Millisecond}[r.rng.IntN(3)]
				c.Flaky = r.rng.IntN(3) == 0
				r.child(t, c, r.killAfter(1+r.rng.IntN(600)))
			}
			r.look(t, r.lastOf(kills, 10))
			t.Logf("%d kills, %d acknowledgements, then %d kills: %v", before, acks, r.children-before, r.h)
		}
	})
}

// lastOf returns drained for the last child and for one in so many looks, else nil.
func (r *crashRun) lastOf(children int64, in int) func(*testing.T, *syncengine.Engine) {
	if r.children < children && r.rng.IntN(in) > 0 {
		return nil
	}
	return r.drained
}
