package syncengine_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

// The crash tests start this test binary again as a child that writes without end, kill it
// with SIGKILL at a random moment, reopen its directory, and compare with what the child
// said it had acknowledged. The child reports each acknowledgement on its standard output
// after the call returned, so the parent never knows of more than was acknowledged.
//
// Child protocol, one line each:
//
//	try ID N     a put of value N to ID is about to be submitted
//	put ID N     it was acknowledged
//	tryd ID N    a delete of ID, as its Nth op
//	del ID N     acknowledged
//	tryg G N     a group G writes value N to all its ids
//	grp G N      acknowledged
const (
	crashEnv     = "SYNCENGINE_CRASH_CHILD"
	crashWriters = 8
	crashIDs     = 20 // per writer
	groupSize    = 25
)

// crashConfig is what parent and child agree on.
type crashConfig struct {
	Dir, SQLURL, RedisURL string
	Durability            syncengine.Durability
}

func (c crashConfig) engine() syncengine.Config {
	return syncengine.Config{
		Dir: c.Dir, SQLURL: c.SQLURL, RedisURL: c.RedisURL, Durability: c.Durability,
		BatchFlushInterval: 5 * time.Millisecond, L1MaxBytes: 1 << 20,
	}
}

// runCrashChild is the child's life. It ends only by being killed.
func runCrashChild(encoded string) int {
	var c crashConfig
	if err := json.Unmarshal([]byte(encoded), &c); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	ctx := context.Background()
	e, err := syncengine.Open(ctx, c.engine())
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	var mu sync.Mutex // guards out
	out := bufio.NewWriter(os.Stdout)
	say := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintf(out, format+"\n", args...)
		out.Flush()
	}
	say("ready")
	start := time.Now().UnixNano()
	var wg sync.WaitGroup
	for w := range crashWriters {
		wg.Go(func() {
			for n := start; ; n++ {
				if err := crashStep(ctx, e, w, n, say); err != nil {
					fmt.Fprintln(os.Stderr, err)
					os.Exit(1)
				}
			}
		})
	}
	wg.Wait()
	return 0
}

func crashStep(ctx context.Context, e *syncengine.Engine, w int, n int64, say func(string, ...any)) error {
	id := fmt.Sprintf("w%d-%d", w, rand.IntN(crashIDs))
	switch rand.IntN(10) {
	case 0:
		say("tryd %s %d", id, n)
		if err := e.Delete(ctx, id); err != nil {
			return err
		}
		say("del %s %d", id, n)
	case 1:
		g := fmt.Sprintf("g%d-%d", w, rand.IntN(3))
		items := make([]syncengine.Item, groupSize)
		for i := range items {
			items[i] = syncengine.Item{ID: fmt.Sprintf("%s-%d", g, i), Content: crashValue(n)}
		}
		say("tryg %s %d", g, n)
		if _, err := e.SubmitMany(ctx, items); err != nil {
			return err
		}
		say("grp %s %d", g, n)
	default:
		say("try %s %d", id, n)
		if err := e.Submit(ctx, syncengine.Item{ID: id, Content: crashValue(n)}); err != nil {
			return err
		}
		say("put %s %d", id, n)
	}
	return nil
}

func crashValue(n int64) []byte {
	return []byte(fmt.Sprintf(`{"n":"%d","pad":%q}`, n, strings.Repeat("x", 200)))
}

// crashModel is what the parent knows of one id or group.
type crashModel struct {
	acked, tried         int64 // last op acknowledged, last begun
	ackDelete, tryDelete bool
}

// crashHistory collects a child's lines.
type crashHistory struct {
	ids, groups map[string]*crashModel
	acks        int
}

func (h *crashHistory) read(line string) error {
	f := strings.Fields(line)
	if len(f) != 3 {
		return fmt.Errorf("bad line %q", line)
	}
	n, err := strconv.ParseInt(f[2], 10, 64)
	if err != nil {
		return err
	}
	of := h.ids
	if strings.HasSuffix(f[0], "g") || f[0] == "grp" {
		of = h.groups
	}
	m := of[f[1]]
	if m == nil {
		m = &crashModel{}
		of[f[1]] = m
	}
	switch f[0] {
	case "try", "tryg", "tryd":
		m.tried, m.tryDelete = n, f[0] == "tryd"
	case "put", "grp", "del":
		m.acked, m.ackDelete = n, f[0] == "del"
		h.acks++
	default:
		return fmt.Errorf("bad line %q", line)
	}
	return nil
}

// runAndKill starts a child, lets it work until about lines lines came, and kills it.
func (h *crashHistory) runAndKill(t *testing.T, c crashConfig, lines int) {
	t.Helper()
	encoded, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), crashEnv+"="+string(encoded))
	var stderr strings.Builder
	cmd.Stderr = &stderr
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewScanner(pipe)
	for n := 0; in.Scan(); n++ {
		if n == 0 { // "ready"
			continue
		}
		if err := h.read(in.Text()); err != nil && cmd.Process != nil {
			break // the line that was cut off by the kill
		}
		if n == lines {
			_ = cmd.Process.Kill() // what is still in the pipe was acknowledged as well
		}
	}
	_ = cmd.Wait()
	if stderr.Len() > 0 {
		t.Fatalf("child: %s", stderr.String())
	}
}

// check compares the engine with the history and returns what is wrong.
func (h *crashHistory) check(ctx context.Context, t *testing.T, e *syncengine.Engine) {
	t.Helper()
	for id, m := range h.ids {
		n, err := crashRead(ctx, e, id)
		if err != nil {
			t.Fatal(err)
		}
		ok := n == m.acked && !m.ackDelete || n == 0 && (m.ackDelete || m.acked == 0) // the last acknowledged op
		ok = ok || n == m.tried && !m.tryDelete || n == 0 && m.tryDelete              // or the one under way
		if !ok {
			t.Errorf("%s holds %d; acknowledged %d (delete %v), last tried %d (delete %v)", id, n, m.acked, m.ackDelete, m.tried, m.tryDelete)
		}
		if n == m.tried && m.tried != m.acked || n == 0 && m.tryDelete { // it was logged: from now on it must stay
			m.acked, m.ackDelete = m.tried, m.tryDelete
		}
	}
	for g, m := range h.groups {
		seen := make(map[int64]int)
		for i := range groupSize {
			n, err := crashRead(ctx, e, fmt.Sprintf("%s-%d", g, i))
			if err != nil {
				t.Fatal(err)
			}
			seen[n]++
		}
		if len(seen) != 1 {
			t.Errorf("group %s is torn: %v", g, seen)
			continue
		}
		for n := range seen {
			if n != m.acked && n != m.tried {
				t.Errorf("group %s holds %d; acknowledged %d, tried %d", g, n, m.acked, m.tried)
			}
			m.acked = n
		}
	}
}

// crashRead returns the number an id holds, 0 when it does not exist.
func crashRead(ctx context.Context, e *syncengine.Engine, id string) (int64, error) {
	it, err := e.Get(ctx, id)
	if errors.Is(err, syncengine.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	var v struct{ N string }
	if err := json.Unmarshal(it.Content, &v); err != nil {
		return 0, err
	}
	return strconv.ParseInt(v.N, 10, 64)
}

// TestINV1NothingAcknowledgedIsLostByKill kills a writing process again and again, for each
// kind of L3, with reads right after opening, after the drain, and from L3 alone.
func TestINV1NothingAcknowledgedIsLostByKill(t *testing.T) {
	rounds := 20
	for name, config := range map[string]func(t *testing.T) crashConfig{
		"sqlite": func(*testing.T) crashConfig { return crashConfig{} },
		"mariadb and redis": func(t *testing.T) crashConfig {
			return crashConfig{SQLURL: testserver.SharedMariaDB(t).NewDatabase(t), RedisURL: testserver.Redis(t).URL()}
		},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := context.Background()
			c := config(t)
			c.Dir, c.Durability = t.TempDir(), syncengine.Logged
			h := &crashHistory{ids: map[string]*crashModel{}, groups: map[string]*crashModel{}}
			for round := range rounds {
				h.runAndKill(t, c, 50+rand.IntN(600))
				e, err := syncengine.Open(ctx, c.engine())
				if err != nil {
					t.Fatal(err)
				}
				h.check(ctx, t, e)
				if round%4 == 3 { // also after the drain, and from L3 alone
					if err := e.Flush(ctx); err != nil {
						t.Fatal(err)
					}
					h.check(ctx, t, e)
					if s := e.Stats(); s.PendingOps != 0 || s.WALItems != 0 {
						t.Errorf("after Flush %d ops are pending, %d in the WAL", s.PendingOps, s.WALItems)
					}
					cold := c
					cold.Dir, cold.RedisURL = t.TempDir(), ""
					if c.SQLURL == "" {
						cold.SQLURL = "sqlite:" + c.Dir + "/archive.db"
					}
					other, err := syncengine.Open(ctx, cold.engine())
					if err != nil {
						t.Fatal(err)
					}
					h.check(ctx, t, other)
					if err := other.Close(); err != nil {
						t.Fatal(err)
					}
				}
				if err := e.Close(); err != nil {
					t.Fatal(err)
				}
				if t.Failed() {
					t.Fatalf("after round %d", round)
				}
			}
			t.Logf("%d kills, %d acknowledgements, 0 lost, 0 resurrected, 0 torn groups", rounds, h.acks)
		})
	}
}

// init turns this binary into the child when the parent asks for it.
func init() {
	if c := os.Getenv(crashEnv); c != "" {
		os.Exit(runCrashChild(c))
	}
}
