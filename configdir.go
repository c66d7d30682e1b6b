package syncengine

// configdir.go checks the directory and the files that a config names, and makes Dir. Checking
// leaves nothing behind; makeDir comes once a config has no fault.

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
)

func (c *Config) checkPaths(v *faults) {
	if c.Dir == "" {
		v.errs = append(v.errs, errNoDir())
		return
	}
	made := true // else makeDir will do it, once all the rest is right
	switch st, err := os.Stat(c.Dir); {
	case errors.Is(err, os.ErrNotExist):
		if made = false; !c.checkParent(v) {
			return
		}
	case err != nil:
		v.add("Dir", strconv.Quote(c.Dir), "can't be read: "+err.Error())
		return
	case !st.IsDir():
		v.add("Dir", strconv.Quote(c.Dir), "must be a directory, is a file")
		return
	}
	if made {
		if err := checkWritable(c.Dir); err != nil {
			v.add("Dir", strconv.Quote(c.Dir), "must be writable: "+err.Error())
		}
	}
	if d := filepath.Dir(c.WALPath); filepath.Clean(d) != filepath.Clean(c.Dir) {
		if err := checkWritable(d); err != nil {
			v.add("WALPath", strconv.Quote(c.WALPath), "must lie in a writable directory: "+err.Error())
		}
	}
	if st, err := os.Stat(c.WALPath); err == nil && st.IsDir() {
		v.add("WALPath", strconv.Quote(c.WALPath), "must be a file, is a directory")
	}
}

// errNoDir is the fault of a config without a Dir.
func errNoDir() error {
	return &ConfigError{Field: "Dir", Value: `""`, Rule: "is required: a directory for wal.db and archive.db"}
}

// checkParent reports whether Dir, which does not exist, may be made: the directory above does.
// A tree is not made, since that hides a mistyped path, or a disk that is not mounted.
func (c *Config) checkParent(v *faults) bool {
	if _, err := os.Lstat(c.Dir); err == nil {
		v.add("Dir", strconv.Quote(c.Dir), "must be a directory, is a symbolic link to nothing")
		return false
	}
	parent := filepath.Dir(filepath.Clean(c.Dir))
	st, err := os.Stat(parent)
	switch {
	case errors.Is(err, os.ErrNotExist):
		v.add("Dir", strconv.Quote(c.Dir), "does not exist, nor does the directory above it")
	case err != nil:
		v.add("Dir", strconv.Quote(c.Dir), "can't be created: "+err.Error())
	case !st.IsDir():
		v.add("Dir", strconv.Quote(c.Dir), "can't be created: what is above it is a file")
	default:
		return true
	}
	return false
}

// makeDir creates Dir if it is missing. Power loss must not take it away with what was
// acknowledged in it, so the directory above is synced (INV-1).
func (c *Config) makeDir() error {
	if st, err := os.Stat(c.Dir); err == nil && st.IsDir() {
		return nil
	}
	refuse := func(err error) error {
		return &ConfigError{Field: "Dir", Value: strconv.Quote(c.Dir), Rule: "can't be created: " + err.Error()}
	}
	if err := os.Mkdir(c.Dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) { // another engine was faster
		return refuse(err)
	}
	if err := syncDir(filepath.Dir(filepath.Clean(c.Dir))); err != nil {
		return refuse(err)
	}
	if err := checkWritable(c.Dir); err != nil {
		return refuse(err)
	}
	return nil
}

// syncDir makes the entries of a directory durable, where the system can do that.
func syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	f, err := os.Open(dir)
	if errors.Is(err, os.ErrPermission) { // it may be written without being readable
		return nil
	}
	if err != nil {
		return err
	}
	err = f.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, errors.ErrUnsupported) { // some network file systems
		err = nil
	}
	return errors.Join(err, f.Close())
}

// checkWritable proves it by a file, because permission bits do not tell the truth to
// root, on read-only mounts or with access lists.
func checkWritable(dir string) error {
	f, err := os.CreateTemp(dir, ".syncengine-*")
	if err != nil {
		return err
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}
