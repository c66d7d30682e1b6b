// Package testserver starts real redis-server and mariadbd processes for tests.
//
// Each server listens on its own loopback port and owns a temporary data
// directory; both are gone when the test ends. A server can be killed, frozen,
// thawed and restarted on the same port and data. Where the binaries are
// missing, tests skip loudly, or fail if SYNCENGINE_REQUIRE_SERVERS=1.
//
//	func TestSomething(t *testing.T) {
//		redis := testserver.Redis(t)
//		db := testserver.SharedMariaDB(t).NewDatabase(t)
//		...
//		redis.Kill()
//		redis.Restart()
//	}
//
//	func TestMain(m *testing.M) { os.Exit(testserver.Run(m)) }
//
// This file owns Server: its directory, port and process. It must never signal
// a process that it did not start.
package testserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// startDeadline bounds every wait for a server; pollEvery is the pause between
// two connection attempts of such a wait.
const (
	startDeadline = 15 * time.Second
	pollEvery     = 5 * time.Millisecond
)

// Server is one server process. Its methods are safe for concurrent use.
type Server struct {
	kind  string // "redis" or "mariadb"
	bin   string
	args  func(s *Server) []string
	ready func(ctx context.Context, s *Server, pid int) error
	dir   string
	port  int
	pass  string // Redis only: the value of --requirepass
	owner *os.File
	as    *account // whom the process runs as; nil: this program's
	slow  bool     // it may take four times startDeadline

	shared bool
	t      testing.TB // nil when shared: no single test owns the server

	mu   sync.Mutex // guards proc; held during start and kill, which are short
	proc *process   // nil while the server is down
}

// Addr is the server's host:port on 127.0.0.1. It stays the same after Restart.
func (s *Server) Addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)) }

// URL is redis://127.0.0.1:port, with the password if one was given by
// --requirepass, or mysql://user:password@127.0.0.1:port/database with the
// password escaped.
func (s *Server) URL() string {
	if s.kind == kindMariaDB {
		return s.databaseURL(mariaDatabase)
	}
	u := url.URL{Scheme: "redis", Host: s.Addr()}
	if s.pass != "" {
		u.User = url.UserPassword("", s.pass)
	}
	return u.String()
}

// Pid is the process id, 0 while the server is down.
func (s *Server) Pid() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc == nil {
		return 0
	}
	return s.proc.pid()
}

// Dir is the directory that holds the server's data and its log, server.log.
func (s *Server) Dir() string { return s.dir }

// Kill ends the server with SIGKILL, frozen or not, and waits until it is gone.
// Harmless when it is down already. Not for shared servers: it panics.
func (s *Server) Kill() {
	s.notShared("Kill")
	s.kill()
}

// Stop freezes the server (SIGSTOP): connections are still accepted by the
// kernel, nothing is answered. Not for shared servers.
func (s *Server) Stop() { s.notShared("Stop"); s.signal("stop", (*process).pause) }

// Resume thaws a server frozen by Stop.
func (s *Server) Resume() { s.notShared("Resume"); s.signal("resume", (*process).resume) }

// Restart kills the server if it runs, starts it again on the same data and
// port, and returns once it answers. Not for shared servers.
func (s *Server) Restart() {
	s.notShared("Restart")
	s.kill()
	deadline := time.Now().Add(startDeadline)
	for {
		err := s.start()
		if err == nil {
			return
		}
		// Somebody else's short-lived socket may sit on our port for a moment.
		if errors.Is(err, errPortTaken) && time.Now().Before(deadline) {
			continue
		}
		s.fatalf("restart %s: %v", s.kind, err)
		return
	}
}

func (s *Server) kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc != nil {
		s.proc.kill()
		s.proc = nil
	}
}

func (s *Server) signal(what string, send func(*process) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc == nil {
		s.fatalf("%s %s: it is not running", what, s.kind)
		return
	}
	if err := send(s.proc); err != nil {
		s.fatalf("%s %s: %v", what, s.kind, err)
	}
}

func (s *Server) notShared(op string) {
	if s.shared {
		panic("testserver: " + op + " on a shared server, which other tests use: start one of your own")
	}
}

func (s *Server) fatalf(format string, args ...any) {
	if s.t == nil {
		panic("testserver: " + fmt.Sprintf(format, args...))
	}
	s.t.Helper()
	s.t.Fatalf("testserver: "+format, args...)
}

var errPortTaken = errors.New("port taken")

// newServer fills in the directory and port and starts the server. prepare, if
// set, fills the directory before the first start.
func newServer(s *Server, prepare func(dir string) error) (*Server, error) {
	sweep.Do(removeOrphans)
	dir, owner, err := newDir()
	if err != nil {
		return nil, err
	}
	s.dir, s.owner = dir, owner
	if prepare != nil {
		if err := prepare(dir); err != nil {
			s.remove()
			return nil, err
		}
	}
	for attempt := 0; ; attempt++ {
		if s.port, err = reservePort(); err == nil {
			if err = s.start(); err == nil {
				return s, nil
			}
			releasePort(s.port)
		}
		if attempt == 4 || !errors.Is(err, errPortTaken) {
			s.remove()
			return nil, err
		}
	}
}

// start starts the process and returns once it answers as itself.
func (s *Server) start() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc != nil {
		return fmt.Errorf("%s runs already", s.kind)
	}
	var logged int64
	if info, err := os.Stat(s.logPath()); err == nil {
		logged = info.Size()
	}
	p, err := startProcess(s.bin, s.args(s), s.logPath(), s.as)
	if err != nil {
		return err
	}
	within := startDeadline
	if s.slow {
		within *= 4
	}
	err = pollFor(within, p.done, func(ctx context.Context) error { return s.ready(ctx, s, p.pid()) })
	if err != nil {
		p.kill()
		tail := s.logTail(logged)
		if strings.Contains(tail, "ddress already in use") {
			return fmt.Errorf("%w: %d", errPortTaken, s.port)
		}
		return fmt.Errorf("%s did not start: %w (exit: %v)\n%s", s.kind, err, p.err, tail)
	}
	s.proc = p
	return nil
}

// pollUntil calls check until it succeeds, the process ends (ended is closed;
// nil means nothing to watch), or startDeadline has passed.
func pollUntil(ended <-chan struct{}, check func(context.Context) error) error {
	return pollFor(startDeadline, ended, check)
}

func pollFor(within time.Duration, ended <-chan struct{}, check func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		err := check(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ended:
			return fmt.Errorf("the process ended: %w", err)
		case <-ctx.Done():
			return fmt.Errorf("not ready after %v: %w", within, err)
		}
	}
}

func (s *Server) logPath() string { return filepath.Join(s.dir, "server.log") }

// logTail is the end of what the server printed since byte from.
func (s *Server) logTail(from int64) string {
	b, err := os.ReadFile(s.logPath())
	if err != nil {
		return err.Error()
	}
	const most = 4 << 10
	b = b[min(from, int64(len(b))):]
	if len(b) > most {
		b = b[len(b)-most:]
	}
	return "--- end of " + s.kind + " log ---\n" + string(b)
}

// remove ends the server and deletes everything it left.
func (s *Server) remove() {
	s.kill()
	_ = os.RemoveAll(s.dir) // a leftover is swept by a later run
	_ = s.owner.Close()
	releasePort(s.port)
}

// giveTo ties a started server to t, or ends the test if it could not start.
func giveTo(t testing.TB, s *Server, err error) *Server {
	t.Helper()
	refuse(t, err)
	s.t = t
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(s.logTail(0))
		}
		s.remove()
	})
	return s
}
