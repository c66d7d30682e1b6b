package postgres

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The server ends with the thread that started it, so that is the main one.
func init() { runtime.LockOSThread() }

// server is a Postgres that all tests share. addr is empty, and missing says why, if there is none.
var server struct {
	addr, missing string
	process       *exec.Cmd
}

func TestMain(m *testing.M) {
	os.Exit(runWithServer(m))
}

func runWithServer(m *testing.M) int {
	bin := binaries()
	if bin == "" {
		server.missing = "initdb and postgres are neither in PATH nor in /usr/lib/postgresql/*/bin"
		return m.Run()
	}
	dir, err := os.MkdirTemp("", "syncengine-postgres-")
	if err == nil {
		defer func() { _ = os.RemoveAll(dir) }()
		err = start(bin, dir)
	}
	if server.process != nil {
		defer stop()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "start Postgres:", err)
		return 1
	}
	return m.Run()
}

// binaries returns the directory of the newest Postgres, "" for none.
func binaries() string {
	if path, err := exec.LookPath("initdb"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil {
			return filepath.Dir(path)
		}
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if len(found) == 0 {
		return ""
	}
	return filepath.Dir(slices.Max(found))
}

// start starts a server in dir. Postgres refuses to run as root: then it is the user postgres or
// nobody.
func start(bin, dir string) error {
	attr := &syscall.SysProcAttr{}
	if os.Getuid() == 0 {
		u, err := user.Lookup("postgres")
		if err != nil {
			u, err = user.Lookup("nobody")
		}
		if err != nil {
			return err
		}
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		if err := os.Chown(dir, uid, gid); err != nil {
			return err
		}
		attr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	}
	data := filepath.Join(dir, "data")
	initdb := exec.Command(filepath.Join(bin, "initdb"), "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync")
	initdb.SysProcAttr, initdb.Dir = attr, dir
	if out, err := initdb.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w\n%s", err, out)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server.addr = l.Addr().String()
	_, port, _ := strings.Cut(server.addr, ":")
	if err := l.Close(); err != nil {
		return err
	}
	attr.Pdeathsig = syscall.SIGQUIT
	p := exec.Command(filepath.Join(bin, "postgres"), "-D", data, "-p", port, "-c", "listen_addresses=127.0.0.1",
		"-c", "unix_socket_directories=", "-c", "fsync=off", "-c", "max_connections=200")
	p.SysProcAttr, p.Dir = attr, dir
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	p.Stdout, p.Stderr = log, log
	if err := p.Start(); err != nil {
		return err
	}
	server.process = p
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	s, err := New(at(server.addr))
	if err != nil {
		return err
	}
	defer func() { _ = s.Close() }()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if err = s.Ping(ctx); err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			said, _ := os.ReadFile(log.Name())
			return fmt.Errorf("%w\n%s", err, said)
		}
	}
}

// stop ends the server at once, and waits until it is gone.
func stop() {
	_ = server.process.Process.Signal(syscall.SIGQUIT)
	_ = server.process.Wait()
}

func at(addr string) string { return "postgres://postgres@" + addr + "/postgres?sslmode=disable" }

// newSchema returns the URL of a new, empty schema, by way of addr.
func newSchema(t *testing.T, addr string) string {
	t.Helper()
	if server.missing != "" {
		t.Skip("no Postgres: " + server.missing)
	}
	s, err := New(at(server.addr))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	schemas++
	name := fmt.Sprintf("s%d", schemas)
	if _, err := s.db.Exec("CREATE SCHEMA " + name); err != nil {
		t.Fatal(err)
	}
	return at(addr) + "&search_path=" + name
}

var schemas int // tests don't run in parallel

// openAt opens a store, not yet prepared, for as long as the test.
func openAt(t *testing.T, url string) *Store {
	t.Helper()
	s, err := New(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}
