//go:build unix

package testserver

import (
	"os"
	"syscall"
)

func (p *process) resume() error { return syscall.Kill(p.pid(), syscall.SIGCONT) }

// tryLock takes an exclusive lock on f; it is released when f is closed or the
// program ends in any way. Waits for it if wait is set.
func tryLock(f *os.File, wait bool) error {
	how := syscall.LOCK_EX
	if !wait {
		how |= syscall.LOCK_NB
	}
	for {
		err := syscall.Flock(int(f.Fd()), how)
		if err != syscall.EINTR {
			return err
		}
	}
}
