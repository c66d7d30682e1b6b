//go:build !unix

package testserver

import (
	"errors"
	"os"
	"syscall"
)

// Neither server is packaged for these systems, so tests skip before any of
// this is reached; it exists so that the tests compile.

func childAttributes() *syscall.SysProcAttr { return nil }

func (p *process) pause() error { return errors.ErrUnsupported }

func (p *process) resume() error { return errors.ErrUnsupported }

func tryLock(*os.File, bool) error { return nil }

func become(attr *syscall.SysProcAttr, _ *account) *syscall.SysProcAttr { return attr }
