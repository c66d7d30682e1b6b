// Package lab holds what the tests of several packages share: how a package's tests are run, an
// engine and its stores opened for a test, stores that fail when they are told to, and checks.
// Only tests import it.
package lab

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/syncengine-go/syncengine/internal/testserver"
	"go.uber.org/goleak"
)

// CanaryWord is in every password that tests make up. Whatever shows it has leaked one.
const CanaryWord = "kn4ryb1rd"

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

// GoRedisLog is what go-redis has logged so far.
var GoRedisLog libraryLog

// Main runs the tests of a package, and fails the run when one left a goroutine behind, or when
// a password was logged. goleak waits for goroutines that end by themselves shortly after a Close.
func Main(m *testing.M) {
	redis.SetLogger(&GoRedisLog)
	code := testserver.Run(m)
	if err := goleak.Find(testserver.LeakOptions()...); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, "FAIL: goroutines left behind:", err)
		code = 1
	}
	if text := GoRedisLog.String(); strings.Contains(text, CanaryWord) {
		fmt.Fprintln(os.Stderr, "FAIL: go-redis logged a password:", text)
		code = 1
	}
	if childDir != "" {
		_ = os.RemoveAll(childDir)
	}
	os.Exit(code)
}

// Must ends the test over an error.
func Must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Eventually waits until cond holds, asking again whenever the engine may have moved.
func Eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	deadline := time.NewTimer(30 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("never came true: %s", what)
		}
	}
}

// Hold returns a channel for hooks to wait for, and what closes it. Tests defer that: Close
// waits for hooks.
func Hold() (gate chan struct{}, release func()) {
	gate = make(chan struct{})
	return gate, sync.OnceFunc(func() { close(gate) })
}

// Bounded is a context that ends with the test, or when the test hangs.
func Bounded(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// NoError ends the test over an error of what was done.
func NoError(t testing.TB, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// Checks makes rapid.Check make n checks until the test ends, unless the command line says how
// many. The number is the process's: such tests can't run beside each other.
func Checks(t *testing.T, n int) {
	if f := flag.Lookup("rapid.checks"); f.Value.String() == f.DefValue {
		Must(t, flag.Set(f.Name, strconv.Itoa(n)))
		t.Cleanup(func() { Must(t, flag.Set(f.Name, f.DefValue)) })
	}
}
