//go:build unix && !linux

package testserver

import "syscall"

// childAttributes has nothing to offer here: there is no parent death signal.
func childAttributes() *syscall.SysProcAttr { return nil }

func (p *process) pause() error { return syscall.Kill(p.pid(), syscall.SIGSTOP) }
