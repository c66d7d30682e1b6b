package syncengine_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"testing"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/syncengine-go/syncengine/internal/testserver"
)

// canaryWord is in every password these tests make up. Whatever shows it has leaked one.
const canaryWord = "kn4ryb1rd"

// libraryLog catches what go-redis logs for the whole process; it goes to stderr otherwise.
type libraryLog struct {
	mu   sync.Mutex // guards text
	text strings.Builder
}

func (l *libraryLog) Printf(_ context.Context, format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprintf(&l.text, format+"\n", args...)
}

func (l *libraryLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// goRedisLog is what go-redis has logged so far.
var goRedisLog libraryLog

// childDir holds what childBinary builds.
var childDir string

// childBinary is what tests start in order to kill it: this binary, built without the race
// detector if it has that. So a child starts and works several times as fast, and what it does
// is under the detector in other tests.
func childBinary(t testing.TB) string {
	t.Helper()
	path, err := buildChild()
	must(t, err)
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

// TestMain fails the run when a test left a goroutine behind, or when a password was
// logged. goleak waits for goroutines that end by themselves shortly after a Close.
func TestMain(m *testing.M) {
	redis.SetLogger(&goRedisLog)
	code := testserver.Run(m)
	if err := goleak.Find(testserver.LeakOptions()...); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, "FAIL: goroutines left behind:", err)
		code = 1
	}
	if text := goRedisLog.String(); strings.Contains(text, canaryWord) {
		fmt.Fprintln(os.Stderr, "FAIL: go-redis logged a password:", text)
		code = 1
	}
	if childDir != "" {
		_ = os.RemoveAll(childDir)
	}
	os.Exit(code)
}
