package faultproxy

import (
	"bufio"
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
	"go.uber.org/goleak"

	"github.com/syncengine-go/syncengine/internal/testserver"
)

func TestMain(m *testing.M) { os.Exit(testserver.Run(m)) }

const patience = 10 * time.Second

// client speaks RESP inline commands by hand.
type client struct {
	net.Conn
	in *bufio.Reader
}

func dial(t *testing.T, addr string) *client {
	t.Helper()
	conn, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &client{conn, bufio.NewReader(conn)}
}

func (c *client) do(wait time.Duration, line string) (string, error) {
	if err := c.SetDeadline(time.Now().Add(wait)); err != nil {
		return "", err
	}
	if _, err := io.WriteString(c, line+"\r\n"); err != nil {
		return "", err
	}
	reply, err := c.in.ReadString('\n')
	return strings.TrimRight(reply, "\r\n"), err
}

func (c *client) must(t *testing.T, line, want string) {
	t.Helper()
	if got, err := c.do(patience, line); err != nil || got != want {
		t.Fatalf("%s: %q, %v; want %q", line, got, err, want)
	}
}

func timedOut(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}

// mustBreak wants the connection closed, as opposed to answered or silent.
func (c *client) mustBreak(t *testing.T, line string) {
	t.Helper()
	if got, err := c.do(patience, line); err == nil || timedOut(err) {
		t.Fatalf("%s: %q, %v; want a closed connection", line, got, err)
	}
}

func setup(t *testing.T) (*testserver.Server, *Proxy) {
	t.Helper()
	s := testserver.Redis(t)
	return s, New(t, s.Addr())
}

func TestForwardsBothWays(t *testing.T) {
	_, p := setup(t)
	a, b := dial(t, p.Addr()), dial(t, p.Addr())
	a.must(t, "SET k v", "+OK")
	b.must(t, "EXISTS k", ":1")
	if n := p.Connections(); n != 2 {
		t.Errorf("Connections = %d, want 2", n)
	}
	// More than one buffer in each direction.
	big := strings.Repeat("x", 300<<10)
	if _, err := fmt.Fprintf(a, "*2\r\n$4\r\nECHO\r\n$%d\r\n%s\r\n", len(big), big); err != nil {
		t.Fatal(err)
	}
	if _, err := a.in.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(big))
	if _, err := io.ReadFull(a.in, got); err != nil || string(got) != big {
		t.Errorf("a large value came back changed: %v", err)
	}
}

func TestClientThatStopsSendingStillGetsItsReplies(t *testing.T) {
	s := testserver.Redis(t)
	p := New(t, s.Addr())
	c := dial(t, p.Addr())
	if _, err := io.WriteString(c, "SET k v\r\n"); err != nil {
		t.Fatal(err)
	}
	if err := c.Conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := c.in.ReadString('\n'); got != "+OK\r\n" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestCutRefusesUntilRestored(t *testing.T) {
	_, p := setup(t)
	c := dial(t, p.Addr())
	c.must(t, "PING", "+PONG")
	p.Cut()
	p.Cut()
	c.mustBreak(t, "PING")
	if _, err := net.DialTimeout("tcp", p.Addr(), patience); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dial while cut: %v, want refused", err)
	}
	p.Restore()
	p.Restore()
	dial(t, p.Addr()).must(t, "PING", "+PONG")
}

func TestHeldRequestsArriveAfterRelease(t *testing.T) {
	s, p := setup(t)
	old := dial(t, p.Addr())
	old.must(t, "SET n 1", "+OK")
	p.Hold()
	p.Hold()
	if _, err := old.do(100*time.Millisecond, "INCR n"); !timedOut(err) {
		t.Errorf("old connection while held: %v, want a timeout", err)
	}
	fresh := dial(t, p.Addr()) // accepted all the same
	if _, err := fresh.do(100*time.Millisecond, "INCR n"); !timedOut(err) {
		t.Errorf("new connection while held: %v, want a timeout", err)
	}
	if got := s.Do(t, "GET", "n"); got != "1" {
		t.Errorf("n = %s: a held request reached the server", got)
	}
	p.Release()
	p.Release()
	for _, c := range []*client{old, fresh} {
		if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		if got, err := c.in.ReadString('\n'); err != nil || got[0] != ':' {
			t.Errorf("held reply: %q, %v", got, err)
		}
	}
	if got := s.Do(t, "GET", "n"); got != "3" {
		t.Errorf("n = %s after release, want 3", got)
	}
}

func TestDelaySlowsBothWays(t *testing.T) {
	_, p := setup(t)
	c := dial(t, p.Addr())
	c.must(t, "PING", "+PONG")
	p.Delay(30 * time.Millisecond)
	start := time.Now()
	c.must(t, "PING", "+PONG")
	if took := time.Since(start); took < 60*time.Millisecond {
		t.Errorf("a round trip took %v, want at least 2 × 30 ms", took)
	}
}

func TestCutAfterDeliversExactlyThatMany(t *testing.T) {
	s, p := setup(t)
	c := dial(t, p.Addr())
	c.must(t, "PING", "+PONG")
	const whole = "SET a 1\r\n"
	// The first command fits, the second loses its line end.
	p.CutAfter(int64(len(whole)*2 - 2))
	got, err := c.do(patience, "SET a 1\r\nSET b 2\r\nSET c 3\r\n"+strings.Repeat("PING\r\n", 100))
	if err == nil && got == "+OK" { // the server has answered the first before the proxy came to cut
		got, err = c.in.ReadString('\n')
	}
	if err == nil || timedOut(err) {
		t.Fatalf("%q, %v; want a closed connection", got, err)
	}
	again := dial(t, p.Addr())
	again.must(t, "EXISTS a", ":1")
	again.must(t, "EXISTS b c", ":0")
	if n := s.Do(t, "DBSIZE"); n != "1" {
		t.Errorf("DBSIZE = %s, want 1", n)
	}
}

func TestCutAfterCountsOverRequestsAndCanBeCalledOff(t *testing.T) {
	_, p := setup(t)
	c := dial(t, p.Addr())
	p.CutAfter(20) // three PINGs of six bytes, not a fourth
	for range 3 {
		c.must(t, "PING", "+PONG")
	}
	c.mustBreak(t, "PING")
	p.CutAfter(3)
	p.CutAfter(-1)
	dial(t, p.Addr()).must(t, "PING", "+PONG")
}

func TestSwallowedRepliesWereExecuted(t *testing.T) {
	s, p := setup(t)
	c := dial(t, p.Addr())
	c.must(t, "PING", "+PONG")
	p.SwallowReplies(true)
	// Far more than one buffer: the first replies come before the last request.
	const increments = 20_000
	c.mustBreak(t, strings.Repeat("INCR n\r\n", increments-1)+"INCR n")
	if got := s.Do(t, "GET", "n"); got != strconv.Itoa(increments) {
		t.Errorf("n = %s, want the whole pipeline of %d executed", got, increments)
	}
	if n := p.Swallowed(); n != 1 {
		t.Errorf("Swallowed = %d, want 1", n)
	}
	dial(t, p.Addr()).mustBreak(t, "PING")
	p.SwallowReplies(false)
	dial(t, p.Addr()).must(t, "PING", "+PONG")
}

func TestCommitWhoseReplyIsLostIsApplied(t *testing.T) {
	s := testserver.SharedMariaDB(t)
	address := s.NewDatabase(t)
	outside := testserver.OpenSQL(t, address)
	if _, err := outside.Exec("CREATE TABLE t (id INT PRIMARY KEY)"); err != nil {
		t.Fatal(err)
	}
	p := New(t, s.Addr())
	cfg, err := mysql.ParseDSN(testserver.DSN(t, address))
	if err != nil {
		t.Fatal(err)
	}
	cfg.Addr, cfg.Logger = p.Addr(), log.New(io.Discard, "", 0)
	connector, err := mysql.NewConnector(cfg)
	if err != nil {
		t.Fatal(err)
	}
	db := sql.OpenDB(connector)
	defer func() { _ = db.Close() }()

	p.SwallowReplyTo("COMMIT")
	tx, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec("INSERT INTO t VALUES (1)"); err != nil {
		t.Fatal(err)
	}
	if err := tx.Commit(); err == nil {
		t.Error("Commit returned nil without a reply")
	}
	var n int
	if err := outside.QueryRow("SELECT COUNT(*) FROM t").Scan(&n); err != nil || n != 1 {
		t.Errorf("%d rows, %v; want 1", n, err)
	}
	// Only once: the next transaction is served.
	if _, err := db.ExecContext(t.Context(), "INSERT INTO t VALUES (2)"); err != nil {
		t.Error(err)
	}
}

func TestDeadUpstreamBreaksTheConnection(t *testing.T) {
	s, p := setup(t)
	c := dial(t, p.Addr())
	c.must(t, "PING", "+PONG")
	s.Kill()
	c.mustBreak(t, "PING")
	dial(t, p.Addr()).mustBreak(t, "PING")
	s.Restart()
	dial(t, p.Addr()).must(t, "PING", "+PONG")
}

func TestCloseAwaitsEveryGoroutine(t *testing.T) {
	s := testserver.Redis(t)
	before := goleak.IgnoreCurrent()
	p := New(t, s.Addr())
	for range 100 {
		c := dial(t, p.Addr())
		c.must(t, "PING", "+PONG")
	}
	p.Hold()
	held := dial(t, p.Addr())
	if _, err := held.do(10*time.Millisecond, "PING"); !timedOut(err) {
		t.Errorf("held: %v", err)
	}
	s.Stop() // nor may a silent server keep it
	p.Close()
	// At once, while goleak would give them some time to end.
	stacks := make([]byte, 1<<20)
	if stacks = stacks[:runtime.Stack(stacks, true)]; bytes.Contains(stacks, []byte("faultproxy.(*Proxy)")) {
		t.Errorf("goroutines outlived Close:\n%s", stacks)
	}
	p.Close()
	p.Restore() // must not bring a closed proxy back
	if err := goleak.Find(append(testserver.LeakOptions(), before)...); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", p.Addr()); err == nil {
		_ = conn.Close()
		t.Error("a closed proxy accepts")
	}
}
