package testserver

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	code := Run(m)
	if err := goleak.Find(LeakOptions()...); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// ping speaks to a Redis by hand, so that these tests don't rest on the client
// they test.
func ping(addr string, timeout time.Duration) error {
	conn, err := net.DialTimeout("tcp", addr, timeout)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	if _, err := conn.Write([]byte("PING\r\n")); err != nil {
		return err
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err == nil && line != "+PONG\r\n" {
		err = fmt.Errorf("reply %q", line)
	}
	return err
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}

func TestRedisAnswersOnItsURL(t *testing.T) {
	s := Redis(t)
	if err := ping(s.Addr(), startDeadline); err != nil {
		t.Fatal(err)
	}
	if want := "redis://" + s.Addr(); s.URL() != want {
		t.Errorf("URL = %s, want %s", s.URL(), want)
	}
	for _, want := range []string{"a\r\nb", "-not an error", ""} {
		if got := s.Do(t, "ECHO", want); got != want {
			t.Errorf("ECHO = %q, want %q", got, want)
		}
	}
}

func TestRedisArgumentsWin(t *testing.T) {
	s := Redis(t, "--maxmemory", "10mb", "--requirepass", "pass/word")
	if got := s.Do(t, "CONFIG", "GET", "maxmemory"); got != "maxmemory\n10485760" {
		t.Errorf("maxmemory = %q", got)
	}
	if want := "redis://:pass%2Fword@" + s.Addr(); s.URL() != want {
		t.Errorf("URL = %s, want %s", s.URL(), want)
	}
	if err := ping(s.Addr(), startDeadline); err == nil || !strings.Contains(err.Error(), "NOAUTH") {
		t.Errorf("ping without the password: %v, want NOAUTH", err)
	}
}

func TestKilledRedisRefusesAndComesBackEmptyOnItsPort(t *testing.T) {
	s := Redis(t)
	addr, pid := s.Addr(), s.Pid()
	s.Do(t, "SET", "k", "v")
	s.Kill()
	if err := ping(addr, startDeadline); err == nil {
		t.Fatal("a killed server answered")
	}
	if s.Pid() != 0 {
		t.Errorf("Pid of a killed server = %d", s.Pid())
	}
	s.Restart()
	if s.Addr() != addr || s.Pid() == pid || s.Pid() == 0 {
		t.Errorf("after Restart: %s pid %d; before: %s pid %d", s.Addr(), s.Pid(), addr, pid)
	}
	if got := s.Do(t, "EXISTS", "k"); got != "0" {
		t.Errorf("the key outlived the kill: EXISTS = %s", got)
	}
}

func TestRedisWithAppendOnlyKeepsDataOverKill(t *testing.T) {
	s := Redis(t, "--appendonly", "yes", "--appendfsync", "always")
	s.Do(t, "SET", "k", "v")
	s.Kill()
	s.Restart()
	if got := s.Do(t, "GET", "k"); got != "v" {
		t.Errorf("GET = %q, want v", got)
	}
}

func TestStoppedRedisHangsUntilResumed(t *testing.T) {
	s := Redis(t)
	s.Stop()
	if err := ping(s.Addr(), 100*time.Millisecond); !isTimeout(err) {
		t.Errorf("ping of a frozen server: %v, want a timeout", err)
	}
	s.Resume()
	if err := ping(s.Addr(), startDeadline); err != nil {
		t.Error(err)
	}
	s.Stop()
	s.Kill() // must not hang on a frozen process
	s.Restart()
}

func TestServerThatCannotStartShowsItsLog(t *testing.T) {
	if _, err := find("redis-server"); err != nil {
		refuse(t, err)
	}
	_, err := startRedis([]string{"--no-such-option", "1"})
	if err == nil || !strings.Contains(err.Error(), "no-such-option") {
		t.Fatalf("err = %v, want the server's own words", err)
	}
}

func TestTakenPortIsReportedAsSuch(t *testing.T) {
	s := Redis(t)
	second := &Server{kind: kindRedis, bin: s.bin, args: s.args, ready: redisReady, dir: t.TempDir(), port: s.port}
	if err := second.start(); !errors.Is(err, errPortTaken) {
		second.kill()
		t.Fatalf("err = %v, want errPortTaken", err)
	}
}

func TestClusterServesEverySlot(t *testing.T) {
	c := RedisCluster(t, 3)
	if len(c.Addrs()) != 3 {
		t.Fatalf("Addrs = %v", c.Addrs())
	}
	moved, stored := 0, 0
	for i := range 32 {
		ctx, cancel := context.WithTimeout(t.Context(), startDeadline)
		_, err := c.Nodes[0].command(ctx, "SET", fmt.Sprintf("key%d", i), "v")
		cancel()
		var refused replyError
		switch {
		case err == nil:
			stored++
		case errors.As(err, &refused) && strings.HasPrefix(string(refused), "MOVED "):
			if to := strings.Fields(string(refused))[2]; to != c.Nodes[1].Addr() && to != c.Nodes[2].Addr() {
				t.Errorf("moved to a stranger: %v", err)
			}
			moved++
		default:
			t.Fatal(err)
		}
	}
	if moved == 0 || stored == 0 {
		t.Errorf("%d moved, %d stored: the slots are not spread", moved, stored)
	}
	c.Nodes[2].Kill()
	c.Nodes[2].Restart()
	c.WaitHealthy(t)
}

func TestSentinelNamesItsMaster(t *testing.T) {
	s := RedisSentinel(t)
	if err := ping(s.Addr(), startDeadline); err != nil {
		t.Fatal(err)
	}
	got := s.Process.Do(t, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", s.MasterName)
	if want := strings.Replace(s.Master.Addr(), ":", "\n", 1); got != want {
		t.Errorf("master = %q, want %q", got, want)
	}
}

func count(t *testing.T, db *sql.DB) int {
	t.Helper()
	var n int
	if err := db.QueryRow("SELECT COUNT(*) FROM t").Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestKilledMariaDBKeepsCommittedRows(t *testing.T) {
	s := MariaDB(t)
	db := s.SQL(t)
	if _, err := db.Exec("CREATE TABLE t (id INT PRIMARY KEY); INSERT INTO t VALUES (1), (2)"); err != nil {
		t.Fatal(err)
	}
	tx, err := db.Begin()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec("INSERT INTO t VALUES (3)"); err != nil {
		t.Fatal(err)
	}
	addr := s.Addr()
	s.Kill()
	if err := tx.Commit(); err == nil {
		t.Error("a killed server committed")
	}
	if err := s.SQL(t).Ping(); err == nil {
		t.Error("a killed server answered")
	}
	s.Restart()
	if s.Addr() != addr {
		t.Errorf("Addr = %s, was %s", s.Addr(), addr)
	}
	if n := count(t, s.SQL(t)); n != 2 {
		t.Errorf("%d rows after kill and restart, want the 2 committed ones", n)
	}
}

func TestStoppedMariaDBHangsUntilResumed(t *testing.T) {
	s := MariaDB(t)
	db := s.SQL(t)
	if err := db.Ping(); err != nil {
		t.Fatal(err)
	}
	s.Stop()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := db.PingContext(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("ping of a frozen server: %v, want a timeout", err)
	}
	s.Resume()
	if err := db.Ping(); err != nil {
		t.Error(err)
	}
}

func TestMariaDBURLCarriesTheAwkwardPassword(t *testing.T) {
	s := MariaDB(t, "--max-allowed-packet=2M")
	u, err := url.Parse(s.URL())
	if err != nil {
		t.Fatal(err)
	}
	if pass, _ := u.User.Password(); u.User.Username() != mariaUser || pass != mariaPassword || u.Host != s.Addr() {
		t.Errorf("parsed back: %q %q %q", u.User.Username(), pass, u.Host)
	}
	if !strings.ContainsAny(mariaPassword, "@") || strings.ContainsAny(u.User.String(), "@/?#") {
		t.Errorf("not escaped: %s", u.User)
	}
	var packet int
	if err := s.SQL(t).QueryRow("SELECT @@max_allowed_packet").Scan(&packet); err != nil || packet != 2<<20 {
		t.Errorf("max_allowed_packet = %d, %v", packet, err)
	}
}

// TestMariaDBUserIsBoundByReadOnly: the account in URL must feel read_only, or
// tests of a read-only server would test nothing.
func TestMariaDBUserIsBoundByReadOnly(t *testing.T) {
	s := MariaDB(t)
	outside := s.SQL(t)
	if _, err := outside.Exec("CREATE TABLE t (id INT PRIMARY KEY); SET GLOBAL read_only = 1"); err != nil {
		t.Fatal(err)
	}
	db := openAs(t, s)
	if _, err := db.Exec("INSERT INTO t VALUES (1)"); err == nil || !strings.Contains(err.Error(), "read-only") {
		t.Errorf("insert: %v, want a read-only error", err)
	}
	if _, err := outside.Exec("SET GLOBAL read_only = 0"); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec("INSERT INTO t VALUES (1)"); err != nil {
		t.Error(err)
	}
}

func TestSharedMariaDBGivesEachTestAnEmptyDatabase(t *testing.T) {
	a, b := SharedMariaDB(t), SharedMariaDB(t)
	if a != b || a.Pid() == 0 {
		t.Fatalf("two servers, or none: %d, %d", a.Pid(), b.Pid())
	}
	one, two := a.NewDatabase(t), a.NewDatabase(t)
	if _, err := OpenSQL(t, one).Exec("CREATE TABLE t (id INT)"); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenSQL(t, two).Exec("SELECT * FROM t"); err == nil {
		t.Error("both tests see one table")
	}
	defer func() {
		if recover() == nil {
			t.Error("Kill of a shared server went through")
		}
	}()
	a.Kill()
}

func TestSharedRedisIsOneServer(t *testing.T) {
	if a, b := SharedRedis(t), SharedRedis(t); a != b || ping(a.Addr(), startDeadline) != nil {
		t.Error("two servers, or none that answers")
	}
}

// TestCleanupLeavesNothing runs servers in a subtest and looks for remains.
func TestCleanupLeavesNothing(t *testing.T) {
	var servers []*Server
	t.Run("servers", func(t *testing.T) { servers = append(servers, Redis(t), MariaDB(t)) })
	for _, s := range servers {
		if conn, err := net.Dial("tcp", s.Addr()); err == nil {
			_ = conn.Close()
			t.Errorf("%s still listens", s.kind)
		}
		if _, err := os.Stat(s.Dir()); !os.IsNotExist(err) {
			t.Errorf("%s left %s: %v", s.kind, s.Dir(), err)
		}
	}
}

// TestServersDieWithAKilledTestBinary starts this binary again as a child that
// starts both servers, and kills it the hard way.
func TestServersDieWithAKilledTestBinary(t *testing.T) {
	const role = "TESTSERVER_VICTIM"
	if os.Getenv(role) != "" {
		fmt.Printf("\nVICTIM %s %s\n", Redis(t).Addr(), MariaDB(t).Addr())
		select {} // until killed
	}
	if childAttributes() == nil {
		t.Skip("this system has no parent death signal")
	}
	Redis(t)                          // skips where the servers are missing
	temp, err := os.MkdirTemp("", "") // t.TempDir is too long for sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(temp) })
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.timeout=60s")
	cmd.Env = append(os.Environ(), role+"=1", "TMPDIR="+temp)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	lines := bufio.NewScanner(out)
	var addrs []string
	for addrs == nil && lines.Scan() {
		if f := strings.Fields(lines.Text()); len(f) == 3 && f[0] == "VICTIM" {
			addrs = f[1:]
		}
	}
	if len(addrs) != 2 {
		t.Fatal("the child started no servers")
	}
	_ = cmd.Process.Kill()
	for _, addr := range addrs {
		err := pollUntil(nil, func(context.Context) error {
			conn, err := net.Dial("tcp", addr)
			if err != nil {
				return nil
			}
			_ = conn.Close()
			return fmt.Errorf("%s still listens", addr)
		})
		if err != nil {
			t.Error(err)
		}
	}
}

// fakeTB stands for a test whose fate is looked at.
type fakeTB struct {
	testing.TB
	skipped, failed string
}

func (f *fakeTB) Helper() {}

func (f *fakeTB) Skipf(format string, args ...any) { f.skipped = fmt.Sprintf(format, args...) }

func (f *fakeTB) Fatalf(format string, args ...any) { f.failed = fmt.Sprintf(format, args...) }

func (f *fakeTB) Errorf(format string, args ...any) { f.failed = fmt.Sprintf(format, args...) }

func TestWhoeverStillUsesADatabaseAtTheEndFailsTheTest(t *testing.T) {
	s := SharedMariaDB(t)
	db := OpenSQL(t, s.NewDatabase(t))
	if _, err := db.Exec("CREATE TABLE t (id INT PRIMARY KEY)"); err != nil {
		t.Fatal(err)
	}
	tx, err := db.Begin()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback() }()
	if _, err := tx.Exec("INSERT INTO t VALUES (1)"); err != nil {
		t.Fatal(err)
	}
	var name string
	if err := tx.QueryRow("SELECT DATABASE()").Scan(&name); err != nil {
		t.Fatal(err)
	}
	var f fakeTB
	s.dropDatabase(&f, name)
	if f.failed == "" {
		t.Error("dropped under an open transaction")
	}
}

func TestMissingProgramSkipsUnlessServersAreRequired(t *testing.T) {
	_, err := find("no-such-server")
	for _, required := range []string{"", "1"} {
		t.Setenv("SYNCENGINE_REQUIRE_SERVERS", required)
		var f fakeTB
		refuse(&f, err)
		if (f.failed != "") != (required == "1") || (f.skipped != "") != (required == "") {
			t.Errorf("required=%q: skipped %q, failed %q", required, f.skipped, f.failed)
		}
		if !strings.Contains(f.skipped+f.failed, "no-such-server not found: run `make test`") {
			t.Errorf("message: %q", f.skipped+f.failed)
		}
	}
}

func TestBrokenServerFailsEvenWhenServersAreOptional(t *testing.T) {
	t.Setenv("SYNCENGINE_REQUIRE_SERVERS", "")
	var f fakeTB
	refuse(&f, errors.New("boom"))
	if f.failed == "" || f.skipped != "" {
		t.Errorf("skipped %q, failed %q", f.skipped, f.failed)
	}
}

// openAs opens the default database with the account that URL gives.
func openAs(t *testing.T, s *Server) *sql.DB {
	t.Helper()
	db, err := sql.Open("mysql", DSN(t, s.URL()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func BenchmarkStartRedis(b *testing.B) {
	for b.Loop() {
		s, err := startRedis(nil)
		refuse(b, err)
		s.remove()
	}
}

func BenchmarkStartMariaDB(b *testing.B) {
	for b.Loop() {
		s, err := startMariaDB(nil)
		refuse(b, err)
		s.remove()
	}
}

func BenchmarkRestartMariaDB(b *testing.B) {
	s := MariaDB(b)
	for b.Loop() {
		s.Restart()
	}
}
