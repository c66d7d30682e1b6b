// This file owns the places servers need: binaries, ports and directories.

package testserver

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"
)

// missingError says that a server's program is not installed.
type missingError struct{ name string }

func (e *missingError) Error() string {
	return e.name + " not found: run `make test`, which installs it"
}

// refuse ends the test if err is not nil: a missing program skips it, unless
// the environment says that servers are required.
func refuse(t testing.TB, err error) {
	t.Helper()
	var missing *missingError
	switch {
	case err == nil:
	case errors.As(err, &missing) && os.Getenv("SYNCENGINE_REQUIRE_SERVERS") != "1":
		t.Skipf("SKIPPED: %v", err)
	default:
		t.Fatalf("testserver: %v", err)
	}
}

// find looks for a program on PATH and where packages put servers that are not
// meant for PATH.
func find(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return filepath.Abs(path)
	}
	for _, dir := range []string{
		"/usr/sbin", "/usr/local/sbin", "/opt/homebrew/bin", "/opt/homebrew/opt/mariadb/bin",
		"/usr/local/opt/mariadb/bin",
	} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", &missingError{name}
}

// Ports come from below the range that kernels hand out for outgoing
// connections. From inside it, a client that redials a dead server may be given
// the server's port as its own, connect to itself, and block the restart. A
// cluster node also uses its port plus 10,000, hence the gap above the range.
const (
	firstPort = 11000
	lastPort  = 19999
)

var ports = struct {
	sync.Mutex // guards taken
	taken      map[int]bool
}{taken: map[int]bool{}}

// reservePort returns a port that was free a moment ago, and keeps it from
// other servers of this program, also while its server is down.
func reservePort() (int, error) {
	for range 200 {
		port := firstPort + rand.IntN(lastPort-firstPort+1)
		ports.Lock()
		taken := ports.taken[port]
		ports.taken[port] = true
		ports.Unlock()
		if taken {
			continue
		}
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err == nil {
			return port, l.Close()
		}
		releasePort(port)
	}
	return 0, fmt.Errorf("no free port between %d and %d", firstPort, lastPort)
}

func releasePort(port int) {
	ports.Lock()
	defer ports.Unlock()
	delete(ports.taken, port)
}

const dirPattern = "se-test-*"

// tempRoot is where servers' directories are made. A socket's path has at most
// 104 bytes on some systems, so a long TMPDIR is passed over.
func tempRoot() string {
	if root := os.TempDir(); len(root) <= 70 {
		return root
	}
	return "/tmp"
}

// newDir makes a server's directory. The returned file is locked as long as
// this program lives, which tells other programs that the directory is in use.
func newDir() (string, *os.File, error) {
	dir, err := os.MkdirTemp(tempRoot(), dirPattern)
	if err != nil {
		return "", nil, err
	}
	owner, err := os.Create(filepath.Join(dir, "owner"))
	if err != nil {
		return "", nil, err
	}
	return dir, owner, tryLock(owner, false)
}

var sweep sync.Once

// removeOrphans deletes directories that killed test programs left behind. Very
// young ones stay: their owner may not have its lock yet.
func removeOrphans() {
	found, _ := filepath.Glob(filepath.Join(tempRoot(), dirPattern))
	for _, dir := range found {
		path := filepath.Join(dir, "owner")
		info, err := os.Stat(path)
		if err != nil || time.Since(info.ModTime()) < 10*time.Minute {
			continue
		}
		f, err := os.Open(path)
		if err != nil {
			continue
		}
		if tryLock(f, false) == nil {
			_ = os.RemoveAll(dir) // best effort
		}
		_ = f.Close()
	}
}
