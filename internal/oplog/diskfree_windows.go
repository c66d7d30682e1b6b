package oplog

import (
	"path/filepath"

	"golang.org/x/sys/windows"
)

// diskFree returns how many bytes this process may still write to the disk that holds path.
func diskFree(path string) (int64, error) {
	dir, err := windows.UTF16PtrFromString(filepath.Dir(path))
	if err != nil {
		return 0, err
	}
	var free uint64
	err = windows.GetDiskFreeSpaceEx(dir, &free, nil, nil)
	return int64(free), err
}
