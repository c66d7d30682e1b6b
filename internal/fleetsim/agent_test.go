package fleetsim

// agent_test.go is an engine that is told what to do: in this process, or in a child that can be
// killed.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/rpc"
	"os"
	"os/exec"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/backdoor"
	"github.com/syncengine-go/syncengine/internal/lab"
)

const (
	childEnv   = "SYNCENGINE_FLEETSIM_CHILD"
	closeLimit = 30 * time.Second
)

func TestMain(m *testing.M) {
	useWrongClocks()
	if os.Getenv(childEnv) != "" {
		redis.SetLogger(&lab.GoRedisLog)
		server := rpc.NewServer()
		if err := server.RegisterName("Agent", new(agent)); err != nil {
			panic(err)
		}
		server.ServeConn(pipe{os.Stdin, os.Stdout})
		os.Exit(0)
	}
	lab.Main(m)
}

// useWrongClocks makes the clock of an engine wrong by what its InstanceID says. One that jumps
// does so every second.
func useWrongClocks() {
	of := func(instance string) (func() time.Time, bool) {
		switch {
		case strings.HasPrefix(instance, "ahead"):
			return func() time.Time { return time.Now().Add(time.Hour) }, true
		case strings.HasPrefix(instance, "behind"):
			return func() time.Time { return time.Now().Add(-time.Hour) }, true
		case strings.HasPrefix(instance, "jumping"):
			return func() time.Time {
				now := time.Now()
				return now.Add(time.Duration(now.Unix()%3-1) * time.Hour)
			}, true
		}
		return nil, false
	}
	backdoor.HostTime.Store(&of)
}

type pipe struct {
	io.Reader
	io.WriteCloser
}

// setup is how an engine is opened.
type setup struct {
	Dir, SQL, Redis, Prefix, Name string
	NoPush                        bool
	Flush                         time.Duration
}

// Request is one call of an engine.
type Request struct {
	Call       string
	ID         string
	IDs        []string
	Value      string
	Durability syncengine.Durability
	TTL        time.Duration
	If         uint64
	Token      string
	Within     time.Duration
	Setup      setup
	Deep       bool
}

// What became of a call.
const (
	done     = "done"
	absent   = "absent"
	conflict = "conflict"
	refused  = "refused" // nothing was changed
	unsure   = "unsure"  // it may take effect, now or later
	failed   = "failed"
)

// Reply is what an engine said.
type Reply struct {
	Outcome, Err string
	Value        string
	Version      uint64
	Stale        bool
	Yes          bool
	Many         map[string]string // those that are there
	Told         []told
	Token        string
	Report       syncengine.VerifyReport
	Stats        syncengine.Stats
	Superseded   []syncengine.SupersededOp
}

// told is a change that a watch told of.
type told struct {
	ID, Value, Token string
	Kind             syncengine.ChangeKind
	Version          uint64
}

// agent is an engine and what it was told to do.
type agent struct {
	e    *syncengine.Engine
	mu   sync.Mutex // guards lost
	lost []syncengine.SupersededOp
}

// Do is the method of the child.
func (a *agent) Do(req Request, out *Reply) error {
	ctx, cancel := context.WithTimeout(context.Background(), req.Within)
	defer cancel()
	if a.e == nil && req.Call != "open" {
		out.Outcome = failed
		return nil
	}
	err := a.call(ctx, &req, out)
	if out.Outcome = outcomeOf(&req, err); err != nil {
		out.Err = err.Error()
	}
	return nil
}

func outcomeOf(req *Request, err error) string {
	conditional := req.If != 0 || slices.Contains([]string{"update", "insert", "touch"}, req.Call)
	switch {
	case err == nil:
		return done
	case errors.Is(err, syncengine.ErrNotFound):
		return absent
	case errors.Is(err, syncengine.ErrConflict):
		return conflict
	case errors.Is(err, syncengine.ErrUnknownOutcome):
		return unsure
	case errors.Is(err, syncengine.ErrBackpressure), errors.Is(err, syncengine.ErrClosed),
		conditional && errors.Is(err, syncengine.ErrUnavailable):
		return refused
	case slices.Contains([]string{"put", "delete", "putmany", "deletemany"}, req.Call) || conditional:
		return unsure
	}
	return failed
}

func (a *agent) call(ctx context.Context, req *Request, out *Reply) error {
	e := a.e
	opts := []syncengine.WriteOption{syncengine.WithDurability(req.Durability)}
	if req.If != 0 {
		opts = append(opts, syncengine.WithIfVersion(req.If))
	}
	if req.TTL != 0 {
		opts = append(opts, syncengine.WithTTL(req.TTL))
	}
	item := syncengine.Item{ID: req.ID, Content: []byte(req.Value)}
	show := func(it syncengine.Item, err error) error {
		out.Value, out.Version, out.Stale = string(it.Content), it.Version, it.Stale
		return err
	}
	switch req.Call {
	case "open":
		return a.open(ctx, req.Setup)
	case "close":
		return e.Close()
	case "put":
		return e.Submit(ctx, item, opts...)
	case "delete":
		return e.Delete(ctx, req.ID, opts...)
	case "putmany":
		var items []syncengine.Item
		for _, id := range req.IDs {
			items = append(items, syncengine.Item{ID: id, Content: []byte(req.Value)})
		}
		_, err := e.SubmitMany(ctx, items, opts...)
		return err
	case "deletemany":
		_, err := e.DeleteMany(ctx, req.IDs, opts...)
		return err
	case "insert":
		return e.Insert(ctx, item, opts...)
	case "touch":
		return e.Touch(ctx, req.ID, req.TTL)
	case "update":
		return show(e.Update(ctx, req.ID, lab.Increment, opts...))
	case "decide": // to change nothing
		return show(e.Update(ctx, req.ID, func(cur syncengine.Item, _ bool) (syncengine.Item, error) { return cur, syncengine.ErrNoChange }, opts...))
	case "get":
		return show(e.Get(ctx, req.ID))
	case "verified":
		return show(e.GetVerified(ctx, req.ID))
	case "status":
		s, err := e.Status(ctx, req.ID)
		if out.Version = s.Version; err == nil && s.State == syncengine.StatusMissing {
			err = syncengine.ErrNotFound
		}
		return err
	case "contains":
		out.Yes = e.Contains(req.ID)
	case "many":
		items, err := e.GetMany(ctx, req.IDs)
		out.Many = make(map[string]string)
		for _, it := range items {
			if it != nil {
				out.Many[it.ID] = string(it.Content)
				out.Stale = out.Stale || it.Stale
			}
		}
		return err
	case "all":
		out.Many = make(map[string]string)
		for it, err := range e.All(ctx, req.ID) {
			if err != nil {
				return err
			}
			out.Many[it.ID] = string(it.Content)
		}
	case "invalidate":
		e.Invalidate(req.IDs...)
	case "flush":
		return e.Flush(ctx)
	case "token":
		token, err := e.WatchToken(ctx)
		out.Token = token
		return err
	case "watch":
		return a.watch(ctx, req, out)
	case "verify":
		report, err := e.Verify(ctx, syncengine.VerifyOptions{Deep: req.Deep})
		out.Report = report
		return err
	case "stats":
		out.Stats = e.Stats()
		a.mu.Lock()
		out.Superseded, a.lost = a.lost, nil
		a.mu.Unlock()
	case "explain":
		x, err := e.Explain(ctx, req.ID)
		b, _ := json.MarshalIndent(x, "", " ")
		out.Value = x.String() + "\n" + string(b)
		return err
	default:
		return fmt.Errorf("what is %q", req.Call)
	}
	return nil
}

func (a *agent) open(ctx context.Context, s setup) (err error) {
	cfg := syncengine.Config{Dir: s.Dir, SQLURL: s.SQL, RedisURL: s.Redis, KeyPrefix: s.Prefix, InstanceID: s.Name, NoPush: s.NoPush,
		L1MaxAge: maxAge, L2Timeout: 300 * time.Millisecond, L3Timeout: 1500 * time.Millisecond, CloseTimeout: 8 * time.Second,
		BatchFlushInterval: s.Flush, FilterSnapshotInterval: 2 * time.Second, LockWait: 5 * time.Second,
		OnEvent: syncengine.Events{Superseded: func(op syncengine.SupersededOp) {
			a.mu.Lock()
			a.lost = append(a.lost, op)
			a.mu.Unlock()
		}}}
	a.e, err = syncengine.Open(ctx, cfg)
	return err
}

// watch follows for a while, from a token.
func (a *agent) watch(ctx context.Context, req *Request, out *Reply) error {
	out.Token = req.Token
	for c, err := range a.e.WatchFrom(ctx, "", req.Token) {
		if errors.Is(err, context.DeadlineExceeded) {
			return nil
		} else if err != nil {
			return err
		}
		out.Told = append(out.Told, told{ID: c.ID, Value: string(c.Item.Content), Token: c.Token, Kind: c.Kind, Version: c.Version})
		if out.Token = c.Token; len(out.Told) == 200 {
			return nil
		}
	}
	return nil
}

// node is an agent from outside.
type node struct {
	number int
	setup  setup
	here   *agent // in this process
	remote *rpc.Client
	child  *exec.Cmd
	killed atomic.Bool
	// connected tells that the engine has reached SQL.
	connected atomic.Bool
}

// do asks. A child that is gone leaves a write unsure.
func (n *node) do(req Request) (out Reply) {
	if req.Within == 0 {
		req.Within = callTime
	}
	if n.here != nil {
		_ = n.here.Do(req, &out)
		return out
	}
	if err := n.remote.Call("Agent.Do", req, &out); err != nil {
		out = Reply{Outcome: outcomeOf(&Request{Call: req.Call}, err), Err: err.Error()}
	}
	return out
}

// start makes a node, which is not open yet.
func start(t testing.TB, number int, inChild bool) *node {
	n := &node{number: number, here: new(agent)}
	if !inChild {
		return n
	}
	cmd := exec.Command(lab.ChildBinary(t))
	cmd.Env, cmd.Stderr = append(os.Environ(), childEnv+"=1"), os.Stderr
	in, err := cmd.StdinPipe()
	lab.Must(t, err)
	out, err := cmd.StdoutPipe()
	lab.Must(t, err)
	lab.Must(t, cmd.Start())
	n.here, n.child, n.remote = nil, cmd, rpc.NewClient(pipe{out, in})
	return n
}

// close closes the engine. One that takes far longer than CloseTimeout shows what its goroutines
// do.
func (n *node) close() (r Reply, ok bool) {
	over := make(chan Reply, 1)
	go func() { over <- n.do(Request{Call: "close", Within: time.Minute}) }()
	select {
	case r = <-over:
		return r, true
	case <-time.After(closeLimit):
	}
	if n.child != nil {
		_ = n.child.Process.Signal(syscall.SIGQUIT) // it may have ended
	} else {
		_ = pprof.Lookup("goroutine").WriteTo(os.Stderr, 2)
	}
	return r, false
}

// kill ends a child, at once.
func (n *node) kill() {
	n.killed.Store(true)
	_ = n.child.Process.Kill() // it may have ended
	n.end()
}

// end waits for the end of a child whose engine is closed, or that was killed.
func (n *node) end() {
	if n.child != nil {
		_ = n.remote.Close()
		_ = n.child.Wait()
	}
}

func (n *node) String() string {
	s := fmt.Sprintf("engine %d (%s", n.number, n.setup.Name)
	for text, is := range map[string]bool{", child": n.child != nil, ", no Redis": n.setup.Redis == "", ", NoPush": n.setup.NoPush} {
		if is {
			s += text
		}
	}
	return s + ")"
}

// valueOf is the number in a content.
func valueOf(content string) int {
	if n, err := strconv.Atoi(content); err == nil {
		return n
	}
	var doc struct{ N int }
	if json.Unmarshal([]byte(content), &doc) != nil {
		return -1
	}
	return doc.N
}
