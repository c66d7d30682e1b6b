// This file owns how MariaDB is started, or MySQL in its place: a data directory
// prepared once per machine and user, a copy of it for each server, and the
// accounts in it.

package testserver

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"fmt"
	"io"
	"log"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
)

const (
	kindMariaDB   = "mariadb"
	mariaDatabase = "syncengine"

	// mariaUser is the account in URL: every right on every database, but not
	// those that let it pass read_only and max_connections, so that tests can
	// use both. Its password has every character that a careless URL parser
	// trips over.
	mariaUser     = "sync"
	mariaPassword = "p@ss:w/o?r#d%41"

	// mariaAdmin has all rights; SQL and OpenSQL use it.
	mariaAdmin = "outside"
)

const mariaSetup = `FLUSH PRIVILEGES;
` + mariaAccounts + `REVOKE SUPER, READ_ONLY ADMIN, CONNECTION ADMIN ON *.* FROM '` + mariaUser + `'@'%';
`

// mysqlSetup: each statement is a line of the file that the server reads.
const mysqlSetup = mariaAccounts + `REVOKE SUPER, CONNECTION_ADMIN ON *.* FROM '` + mariaUser + `'@'%';
`

const mariaAccounts = `CREATE DATABASE ` + mariaDatabase + `;
CREATE USER '` + mariaAdmin + `'@'%' IDENTIFIED BY '` + mariaPassword + `';
GRANT ALL ON *.* TO '` + mariaAdmin + `'@'%' WITH GRANT OPTION;
CREATE USER '` + mariaUser + `'@'%' IDENTIFIED BY '` + mariaPassword + `';
GRANT ALL ON *.* TO '` + mariaUser + `'@'%';
`

// MySQLServer, if set in the environment, is a mysqld of MySQL 8 or later that
// takes the place of MariaDB in all tests (make mysql).
const MySQLServer = "SYNCENGINE_MYSQLD"

// MariaDB starts a mariadbd that ends with the test. args are appended to its
// command line and win. It is as durable as a real one: data committed before
// Kill is there after Restart.
func MariaDB(t testing.TB, args ...string) *Server {
	t.Helper()
	s, err := startMariaDB(args)
	return giveTo(t, s, err)
}

// IsMySQL reports whether MySQL takes the place of MariaDB.
func IsMySQL() bool { return os.Getenv(MySQLServer) != "" }

func findMaria() (string, error) {
	if IsMySQL() {
		return os.Getenv(MySQLServer), nil
	}
	return find("mariadbd")
}

func startMariaDB(extra []string) (*Server, error) {
	bin, err := findMaria()
	if err != nil {
		return nil, err
	}
	template, err := prepareMariaDB(bin)
	if err != nil {
		return nil, err
	}
	s := &Server{kind: kindMariaDB, bin: bin, ready: mariaReady, args: func(s *Server) []string {
		return append(mariaServerArgs(s), extra...)
	}}
	return newServer(s, func(dir string) error {
		return os.CopyFS(filepath.Join(dir, "data"), os.DirFS(template))
	})
}

// mariaServerArgs are those of each server that runs.
func mariaServerArgs(s *Server) []string {
	return append(mariaBaseArgs(filepath.Join(s.dir, "data")),
		"--skip-networking=0", "--bind-address=127.0.0.1", "--port="+strconv.Itoa(s.port),
		"--socket="+filepath.Join(s.dir, "sock"), "--pid-file="+s.mariaPidFile(),
		"--tmpdir="+s.dir, "--skip-name-resolve", "--max-connections=400",
		// Nothing is gained from warming a cache that dies with the test.
		"--innodb-buffer-pool-load-at-startup=0", "--innodb-buffer-pool-dump-at-shutdown=0",
	)
}

// mariaBaseArgs are common to preparing and running. The log size is among
// them because a server that finds another size rewrites its log at start.
func mariaBaseArgs(data string) []string {
	args := []string{"--no-defaults", "--datadir=" + data, "--innodb-buffer-pool-size=64M"}
	if IsMySQL() { // which else has a log of changes, a second port, and more work at each commit
		args = append(args, "--innodb-redo-log-capacity=32M", "--disable-log-bin", "--mysqlx=OFF", "--secure-file-priv=NULL")
	} else {
		args = append(args, "--innodb-log-file-size=32M",
			"--innodb-temp-data-file-path=ibtmp1:2M:autoextend") // else 12 MB written at each start
	}
	if os.Getuid() == 0 {
		args = append(args, "--user=root")
	}
	return args
}

func (s *Server) mariaPidFile() string { return filepath.Join(s.dir, "pid") }

// prepareMariaDB returns the prepared data directory for this mariadbd and
// makes it if it is the first to ask.
func prepareMariaDB(bin string) (string, error) {
	version, err := exec.Command(bin, "--no-defaults", "--version").Output()
	if err != nil {
		return "", fmt.Errorf("%s --version: %w", bin, err)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = filepath.Join(os.TempDir(), fmt.Sprintf("cache-%d", os.Getuid()))
	}
	cache = filepath.Join(cache, "syncengine-test")
	if err := os.MkdirAll(cache, 0o700); err != nil {
		return "", err
	}
	sum := sha256.Sum256(fmt.Append(version, mariaSetup, mysqlSetup, mariaBaseArgs("")))
	final := filepath.Join(cache, fmt.Sprintf("%x", sum[:8]))

	// One test binary prepares, the others of this machine wait for it.
	lock, err := os.OpenFile(filepath.Join(cache, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return "", err
	}
	defer func() { _ = lock.Close() }()
	if err := tryLock(lock, true); err != nil {
		return "", fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	if _, err := os.Stat(final); err == nil {
		return final, nil
	}
	temp, err := os.MkdirTemp(cache, "new-*")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(temp) }() // gone already if all went well
	install := installMariaDB
	if IsMySQL() {
		install = installMySQL
	}
	if err := install(bin, temp); err != nil {
		return "", err
	}
	return final, os.Rename(temp, final)
}

func installMySQL(bin, data string) error {
	setup := data + ".sql"
	if err := os.WriteFile(setup, []byte(mysqlSetup), 0o600); err != nil {
		return err
	}
	defer func() { _ = os.Remove(setup) }()
	args := append(mariaBaseArgs(data), "--initialize-insecure", "--init-file="+setup)
	if out, err := exec.Command(bin, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("mysqld --initialize-insecure: %w\n%s", err, out)
	}
	return nil
}

// installMariaDB makes a data directory with this package's accounts in it.
func installMariaDB(bin, data string) error {
	install, err := find("mariadb-install-db")
	if err != nil {
		return err
	}
	args := append(mariaBaseArgs(data), "--auth-root-authentication-method=normal", "--skip-test-db")
	if out, err := exec.Command(install, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("mariadb-install-db: %w\n%s", err, out)
	}
	setup := exec.Command(bin, append(mariaBaseArgs(data), "--bootstrap")...)
	setup.Stdin = strings.NewReader(mariaSetup)
	if out, err := setup.CombinedOutput(); err != nil {
		return fmt.Errorf("mariadbd --bootstrap: %w\n%s", err, out)
	}
	return nil
}

// mariaReady holds when this very server answers: the pid file is in its own
// directory, so no other server has that name for it.
func mariaReady(ctx context.Context, s *Server, _ int) error {
	db, err := openMaria(s.Addr(), "")
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	var pidFile string
	if err := db.QueryRowContext(ctx, "SELECT @@pid_file").Scan(&pidFile); err != nil {
		return err
	}
	if pidFile != s.mariaPidFile() {
		return fmt.Errorf("%w: another server answers on %s", errPortTaken, s.Addr())
	}
	return nil
}

// openMaria opens database as the account with all rights.
func openMaria(addr, database string) (*sql.DB, error) {
	cfg := mysql.NewConfig()
	cfg.User, cfg.Passwd, cfg.Net, cfg.Addr, cfg.DBName = mariaAdmin, mariaPassword, "tcp", addr, database
	cfg.MultiStatements = true
	cfg.Timeout = startDeadline
	// The driver prints every connection that a killed server breaks.
	cfg.Logger = log.New(io.Discard, "", 0)
	connector, err := mysql.NewConnector(cfg)
	if err != nil {
		return nil, err
	}
	return sql.OpenDB(connector), nil
}

func (s *Server) databaseURL(database string) string {
	u := url.URL{
		Scheme: "mysql", User: url.UserPassword(mariaUser, mariaPassword),
		Host: s.Addr(), Path: "/" + database,
	}
	return u.String()
}

// SQL opens a MariaDB's default database from outside, with all rights, to look
// at what the engine did or to change settings under it. Closed when the test
// ends.
func (s *Server) SQL(t testing.TB) *sql.DB {
	t.Helper()
	if s.kind != kindMariaDB {
		t.Fatalf("testserver: SQL on %s", s.kind)
	}
	return OpenSQL(t, s.URL())
}

// OpenSQL opens the database of a URL that this package made from outside, with
// all rights. Closed when the test ends. It does not connect yet.
func OpenSQL(t testing.TB, rawURL string) *sql.DB {
	t.Helper()
	u, err := url.Parse(rawURL)
	if err != nil {
		t.Fatalf("testserver: %v", err)
	}
	db, err := openMaria(u.Host, strings.TrimPrefix(u.Path, "/"))
	if err != nil {
		t.Fatalf("testserver: %v", err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// DSN is a URL that this package made, in the form that the MySQL driver takes
// and with the account of the URL, for tests that need the engine's own rights.
func DSN(t testing.TB, rawURL string) string {
	t.Helper()
	u, err := url.Parse(rawURL)
	if err != nil {
		t.Fatalf("testserver: %v", err)
	}
	cfg := mysql.NewConfig()
	cfg.User = u.User.Username()
	cfg.Passwd, _ = u.User.Password()
	cfg.Net, cfg.Addr, cfg.DBName = "tcp", u.Host, strings.TrimPrefix(u.Path, "/")
	return cfg.FormatDSN()
}

var databases atomic.Int64

// NewDatabase makes an empty database and returns its URL. Its character set is
// the server's default (latin1 on many versions, on purpose: the engine must
// not depend on it). Dropped when the test ends if the server is shared.
func (s *Server) NewDatabase(t testing.TB) string {
	t.Helper()
	name := fmt.Sprintf("test_%d", databases.Add(1))
	ctx, cancel := context.WithTimeout(context.Background(), startDeadline)
	defer cancel()
	if _, err := s.SQL(t).ExecContext(ctx, "CREATE DATABASE "+name); err != nil {
		t.Fatalf("testserver: %v", err)
	}
	if s.shared {
		t.Cleanup(func() { s.dropDatabase(t, name) })
	}
	return s.databaseURL(name)
}

// dropDatabase fails the test when something still uses the database: whoever
// does has outlived its test.
func (s *Server) dropDatabase(t testing.TB, name string) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	db, err := openMaria(s.Addr(), "")
	if err == nil {
		_, err = db.ExecContext(ctx, "SET lock_wait_timeout = 1; DROP DATABASE "+name)
		_ = db.Close()
	}
	if err != nil {
		t.Errorf("testserver: drop %s: %v", name, err)
	}
}
