//go:build linux || darwin || freebsd

package oplog

import "syscall"

// diskFree returns how many bytes this process may still write to the disk that holds path.
func diskFree(path string) (int64, error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(path, &st); err != nil {
		return 0, err
	}
	return int64(st.Bavail) * int64(st.Bsize), nil
}
