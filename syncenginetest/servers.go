package syncenginetest

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/faultproxy"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

// Fault is something that goes wrong between an engine and one of its servers.
type Fault string

// The faults. Away: connections are cut and refused. Hangs: requests are taken and nothing is
// answered; what was held back is delivered when it ends. Slow: each piece of data takes 50 ms more
// in each direction.
const (
	SQLAway    Fault = "SQL away"
	SQLHangs   Fault = "SQL hangs"
	SQLSlow    Fault = "SQL slow"
	RedisAway  Fault = "Redis away"
	RedisHangs Fault = "Redis hangs"
	RedisSlow  Fault = "Redis slow"
)

const slow = 50 * time.Millisecond

// Faults returns all faults.
func Faults() []Fault {
	return []Fault{SQLAway, SQLHangs, SQLSlow, RedisAway, RedisHangs, RedisSlow}
}

// Servers are a Redis and a MariaDB of one test. Methods are safe for concurrent use.
type Servers struct {
	// SQL and Redis are the server processes. Redis keeps nothing over Kill and Restart.
	SQL, Redis *Server

	t testing.TB
}

// Server is one server process behind a wire that can fail.
type Server struct {
	process *testserver.Server
	wire    *faultproxy.Proxy
	url     string
}

// Start starts redis-server and mariadbd on loopback ports; they end with the test. Where a program
// is missing the test is skipped, or fails if the environment has SYNCENGINE_REQUIRE_SERVERS=1.
func Start(t testing.TB) *Servers {
	t.Helper()
	return &Servers{SQL: behind(t, testserver.MariaDB(t)), Redis: behind(t, testserver.Redis(t)), t: t}
}

func behind(t testing.TB, process *testserver.Server) *Server {
	wire := faultproxy.New(t, process.Addr())
	return &Server{process, wire, strings.Replace(process.URL(), process.Addr(), wire.Addr(), 1)}
}

// URL is for Config.SQLURL or Config.RedisURL. Faults are on its way. It never changes.
func (s *Server) URL() string { return s.url }

// Kill ends the process with SIGKILL and waits until it is gone. Harmless when it is.
func (s *Server) Kill() { s.process.Kill() }

// Restart kills the process if it runs, starts it on the same data, and returns once it answers.
func (s *Server) Restart() { s.process.Restart() }

// New is the function New with the URLs of the servers.
func (s *Servers) New(changes ...func(*syncengine.Config)) *syncengine.Engine {
	s.t.Helper()
	use := func(cfg *syncengine.Config) { cfg.SQLURL, cfg.RedisURL = s.SQL.URL(), s.Redis.URL() }
	return New(s.t, slices.Concat([]func(*syncengine.Config){use}, changes)...)
}

// On makes a fault begin, for open and new connections. It ends with Off, or before what was opened
// earlier in the test is closed. Harmless when it is on. An unknown fault ends the test.
func (s *Servers) On(f Fault) {
	s.t.Helper()
	s.set(f, true)
	s.t.Cleanup(func() { s.set(f, false) })
}

// Off ends a fault. Harmless when it is off.
func (s *Servers) Off(f Fault) {
	s.t.Helper()
	s.set(f, false)
}

func (s *Servers) set(f Fault, on bool) {
	s.t.Helper()
	server, kind, _ := strings.Cut(string(f), " ")
	wire := s.SQL.wire
	if server == "Redis" {
		wire = s.Redis.wire
	}
	switch {
	case !slices.Contains(Faults(), f):
		s.t.Fatalf("syncenginetest: unknown fault %q", f)
	case kind == "away" && on:
		wire.Cut()
	case kind == "away":
		wire.Restore()
	case kind == "hangs" && on:
		wire.Hold()
	case kind == "hangs":
		wire.Release()
	case on:
		wire.Delay(slow)
	default:
		wire.Delay(0)
	}
}
