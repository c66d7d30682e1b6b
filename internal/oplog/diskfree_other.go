//go:build !linux && !darwin && !freebsd && !windows

package oplog

import "errors"

// diskFree is not known here: the log then learns that the disk is full from a failed commit.
func diskFree(string) (int64, error) { return 0, errors.ErrUnsupported }
