package testserver

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// childAttributes makes the kernel kill the child when this program ends, even
// by SIGKILL or a test timeout.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}

// pause freezes the child and returns once every thread of it stands still:
// kill(2) only queues the signal, and a request sent right after it might
// still be answered. WNOWAIT leaves the exit status for process.wait.
func (p *process) pause() error {
	if err := syscall.Kill(p.pid(), syscall.SIGSTOP); err != nil {
		return err
	}
	for {
		err := unix.Waitid(unix.P_PID, p.pid(), nil, unix.WSTOPPED|unix.WNOWAIT, nil)
		if err != unix.EINTR {
			return err
		}
	}
}
