package syncengine_test

import (
	"context"
	"fmt"
	"os"
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
	os.Exit(code)
}
