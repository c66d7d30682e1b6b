package rediskit

import (
	"context"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/syncengine-go/syncengine/internal/testserver"
)

// redisLog catches what go-redis logs, process-wide: it goes to stderr otherwise.
// No password of these tests may be in it.
type redisLog struct {
	mu   sync.Mutex // guards text
	text strings.Builder
}

func (l *redisLog) Printf(_ context.Context, format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprintf(&l.text, format+"\n", args...)
}

func TestMain(m *testing.M) {
	var log redisLog
	redis.SetLogger(&log)
	code := testserver.Run(m)
	if text := log.text.String(); code == 0 && (strings.Contains(text, "c4n4ry") || strings.Contains(text, canary)) {
		fmt.Fprintln(os.Stderr, "go-redis logged a password:", text)
		code = 1
	}
	if err := goleak.Find(testserver.LeakOptions()...); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, "goroutines left behind:", err)
		code = 1
	}
	os.Exit(code)
}

const (
	rankPrefix = `{"rank":"`
	rankWidth  = len(rankPrefix) + 16 + 1 + 1 + 1 + 8
)

// ranked makes a value with the rank version.state.hash.
func ranked(version uint64, state int, hash uint32, body string) []byte {
	return fmt.Appendf(nil, `%s%016x.%d.%08x","body":%q}`, rankPrefix, version, state, hash, body)
}

// connect opens url for the test and returns the client beside its raw twin.
func connect(t testing.TB, url string) (*Client, redis.UniversalClient) {
	t.Helper()
	rdb, err := Open(url)
	if err != nil {
		t.Fatal(err)
	}
	c := New(rdb, rankPrefix, rankWidth)
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return c, rdb
}

// within is a context that ends after d, for calls that must have ended by then.
func within(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

func put(t testing.TB, c *Client, vals ...Value) {
	t.Helper()
	if errs, err := c.Put(within(t, 10*time.Second), vals); err != nil || errs != nil {
		t.Fatalf("put: %v %v", errs, err)
	}
}

func wantGet(t testing.TB, c *Client, key string, want []byte) {
	t.Helper()
	got, err := c.Get(within(t, 10*time.Second), key)
	if err != nil || string(got) != string(want) {
		t.Errorf("get %q = %.120q, %v, want %.120q", key, got, err, want)
	}
}

func wantClass(t testing.TB, err error, class Class, reason string) {
	t.Helper()
	if Classify(err) != class || (reason != "" && Reason(err) != reason) {
		t.Errorf("error %v (%T) is %v/%s, want %v/%s", err, err, Classify(err), Reason(err), class, reason)
	}
}

// listen gives the address of a listener that accepts and never answers.
func listen(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l.Addr().String()
}

// oddKeys are keys that a slot, a glob or a parser may trip over.
var oddKeys = []string{
	"{x}", "}{", "{}a", "a{}b", "{{x}}", "{", "}", "a{b", "x{y}z", "*", "?", "[a]", `\`, "a b", "a\x00b", "\r\n", "é", "e\u0301",
	"🙂", "\xff\xfe", "a:b", ".a", "a.", strings.Repeat("k", 512), "0", "$5", "-1",
}
