//go:build crdt

package merging

// kill_test.go is the counter of two processes: each adds 1 again and again, compacts what is
// there, and is killed again and again, as are Redis and MariaDB. A line on its standard output
// before and after each call tells the parent what was tried and what was acknowledged.

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

const childEnv = "SYNCENGINE_MERGING_CHILD"

func TestMain(m *testing.M) {
	if text := os.Getenv(childEnv); text != "" {
		var cfg syncengine.Config
		if err := json.Unmarshal([]byte(text), &cfg); err != nil {
			panic(err)
		}
		addUntilTold(cfg)
		return
	}
	lab.Main(m)
}

// addUntilTold adds until its standard input ends, then closes.
func addUntilTold(cfg syncengine.Config) {
	ctx := context.Background()
	cfg.CompactionInterval = 20 * time.Millisecond
	e, err := syncengine.Open(ctx, cfg)
	if err != nil {
		lab.Say("wrong open: %v", err)
		return
	}
	var told atomic.Bool
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		told.Store(true)
	}()
	for n := 0; !told.Load(); n++ {
		lab.Say("try")
		d := []syncengine.Durability{syncengine.Logged, syncengine.Logged, syncengine.Archived}[n%3]
		_, err := e.Merge(ctx, "counter", "GCounter", json.RawMessage("1"), syncengine.WithDurability(d), daysAgo(10))
		if err != nil && (d == syncengine.Logged || e.State() == syncengine.StateClosed) {
			lab.Say("wrong merge: %v", err)
			return
		}
		lab.Say("ack") // an Archived one that L3 does not answer is in the WAL
	}
	if err := e.Close(); err != nil {
		lab.Say("wrong close: %v", err)
	}
	lab.Say("closed")
}

// child is a running process.
type child struct {
	cmd   *exec.Cmd
	stdin io.Closer
	done  chan struct{} // its output has ended
}

// counted is what all children of a test have said.
type counted struct{ tried, acked, closed atomic.Int64 }

func start(t *testing.T, cfg *syncengine.Config, sum *counted) *child {
	t.Helper()
	text, err := json.Marshal(map[string]any{"Dir": cfg.Dir, "SQLURL": cfg.SQLURL, "RedisURL": cfg.RedisURL, "L3Timeout": cfg.L3Timeout})
	lab.Must(t, err)
	c := &child{cmd: exec.Command(lab.ChildBinary(t)), done: make(chan struct{})}
	c.cmd.Env = append(os.Environ(), childEnv+"="+string(text))
	c.stdin, err = c.cmd.StdinPipe()
	lab.Must(t, err)
	out, err := c.cmd.StdoutPipe()
	lab.Must(t, err)
	lab.Must(t, c.cmd.Start())
	go func() {
		defer close(c.done)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			switch line := lines.Text(); line {
			case "try":
				sum.tried.Add(1)
			case "ack":
				sum.acked.Add(1)
			case "closed":
				sum.closed.Add(1)
			default:
				t.Errorf("a child says: %s", line)
			}
		}
	}()
	return c
}

func (c *child) kill() {
	_ = c.cmd.Process.Kill()
	<-c.done
	_ = c.cmd.Wait()
}

func TestINV01TheCounterOfTwoProcessesIsExactAfterKillsOfEverything(t *testing.T) {
	db, redis := testserver.MariaDB(t), testserver.Redis(t)
	sum := &counted{}
	cfgs, children := make([]syncengine.Config, 2), make([]*child, 2)
	for i := range cfgs {
		cfgs[i] = syncengine.Config{Dir: t.TempDir(), SQLURL: db.URL(), RedisURL: redis.URL(), L3Timeout: 2 * time.Second}
		children[i] = start(t, &cfgs[i], sum)
	}
	more := func(n int64) {
		t.Helper()
		from := sum.acked.Load()
		lab.Eventually(t, "the children go on", func() bool { return sum.acked.Load() >= from+n })
	}
	more(200)
	for round := range 4 {
		i := round % 2
		children[i].kill()
		if round == 1 {
			db.Kill()
			more(50)
		}
		if round == 2 {
			redis.Kill()
		}
		children[i] = start(t, &cfgs[i], sum)
		more(50)
		if round == 1 {
			children[0].kill() // what it has is in its WAL alone
			children[0] = start(t, &cfgs[0], sum)
			more(50)
			db.Restart()
		}
		if round == 2 {
			redis.Restart()
		}
		more(200)
	}
	for _, c := range children {
		lab.Must(t, c.stdin.Close())
		<-c.done
		lab.Must(t, c.cmd.Wait())
	}
	if sum.closed.Load() != 2 {
		t.Fatal("a child did not close")
	}
	if _, days, _ := rowsOf(t, db.URL(), "counter"); days == 0 {
		t.Error("nothing was compacted")
	}
	for i := range cfgs {
		e := lab.Open(t, cfgs[i])
		lab.Must(t, e.Flush(context.Background()))
		it, err := e.Get(context.Background(), "counter")
		n, err := strconv.ParseInt(value(t, it, err), 10, 64)
		lab.Must(t, err)
		t.Logf("%d acknowledged, %d tried, the counter is %d", sum.acked.Load(), sum.tried.Load(), n)
		if n < sum.acked.Load() || n > sum.tried.Load() {
			t.Errorf("the counter is %d: %d were acknowledged, %d tried", n, sum.acked.Load(), sum.tried.Load())
		}
		_, err = e.Rebuild(context.Background(), "counter")
		lab.Must(t, err)
		lab.Must(t, e.Close())
	}
}
