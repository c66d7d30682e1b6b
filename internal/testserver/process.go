// This file owns the life of one child process: start, early-exit detection,
// kill. It knows nothing about Redis or MariaDB.
//
// Goroutines: spawnLoop (one, for the life of the program) and process.wait
// (one per child, ends with the child). LeakOptions names both.

package testserver

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync"

	"go.uber.org/goleak"
)

// process is one running or finished child.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed by wait once the child is reaped
	err  error         // why it ended; read only after done is closed
}

// account is a user of the system.
type account struct{ uid, gid int }

type spawnRequest struct {
	cmd   *exec.Cmd
	reply chan error
}

var spawner struct {
	once     sync.Once
	requests chan spawnRequest
}

// spawnLoop starts every child from one OS thread that never ends. The parent
// death signal (see childAttributes) fires when the forking thread ends, and
// the Go runtime retires threads at will: forked from an ordinary goroutine, a
// server could be killed in the middle of a test.
func spawnLoop(requests <-chan spawnRequest) {
	runtime.LockOSThread()
	for r := range requests {
		r.reply <- r.cmd.Start()
	}
}

// startProcess runs bin with its output appended to the file logPath. The
// child dies with this program, however this program ends (Linux only;
// elsewhere a killed test binary leaves its servers behind). It runs as the
// account as, nil for this program's.
func startProcess(bin string, args []string, logPath string, as *account) (*process, error) {
	spawner.once.Do(func() {
		spawner.requests = make(chan spawnRequest)
		go spawnLoop(spawner.requests)
	})
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }() // the child holds its own descriptor

	cmd := exec.Command(bin, args...)
	cmd.Stdout, cmd.Stderr = log, log // files: exec needs no copying goroutines
	cmd.SysProcAttr = become(childAttributes(), as)
	r := spawnRequest{cmd: cmd, reply: make(chan error)}
	spawner.requests <- r
	if err := <-r.reply; err != nil {
		return nil, fmt.Errorf("start %s: %w", bin, err)
	}
	p := &process{cmd: cmd, done: make(chan struct{})}
	go p.wait()
	return p, nil
}

func (p *process) wait() {
	p.err = p.cmd.Wait()
	close(p.done)
}

// kill ends the child and returns once the kernel has let go of its sockets
// and files. Harmless when the child is gone already.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // the only error is "already finished"
	<-p.done
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// LeakOptions names the goroutines this package keeps while a server runs, for
// tests that check for leaks with goleak. The server under test owns none of
// them.
func LeakOptions() []goleak.Option {
	const pkg = "github.com/syncengine-go/syncengine/internal/testserver."
	return []goleak.Option{
		goleak.IgnoreAnyFunction(pkg + "spawnLoop"),
		goleak.IgnoreAnyFunction(pkg + "(*process).wait"),
	}
}
