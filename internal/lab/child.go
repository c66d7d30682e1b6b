package lab

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"sync"
	"testing"
)

// childDir holds what ChildBinary builds.
var childDir string

// ChildBinary is what tests start in order to kill it: this binary, built without the race
// detector if it has that. So a child starts and works several times as fast, and what it does
// is under the detector in other tests.
func ChildBinary(t testing.TB) string {
	t.Helper()
	path, err := buildChild()
	Must(t, err)
	return path
}

var buildChild = sync.OnceValues(func() (string, error) {
	args, raced := []string{"test", "-c"}, false
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			raced = raced || s.Key == "-race" && s.Value == "true"
			if s.Key == "-tags" {
				args = append(args, "-tags="+s.Value)
			}
		}
	}
	if _, err := exec.LookPath("go"); !raced || err != nil {
		return os.Args[0], nil
	}
	dir, err := os.MkdirTemp("", "syncengine-child-")
	if err != nil {
		return "", err
	}
	childDir = dir
	path := filepath.Join(dir, "child.test")
	out, err := exec.Command("go", append(args, "-o", path, ".")...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return path, nil
})

// Say tells the test that started this process a line.
func Say(format string, args ...any) {
	_, _ = fmt.Fprintf(os.Stdout, format+"\n", args...) // a parent that is gone ends this process by SIGPIPE
}
