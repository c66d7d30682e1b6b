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

// become makes a child run as an account, nil for this program's.
func become(attr *syscall.SysProcAttr, as *account) *syscall.SysProcAttr {
	if as == nil {
		return attr
	}
	if attr == nil {
		attr = &syscall.SysProcAttr{}
	}
	attr.Credential = &syscall.Credential{Uid: uint32(as.uid), Gid: uint32(as.gid)}
	return attr
}
