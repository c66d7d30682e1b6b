// Package sqlkit holds what the library knows about SQL servers without a word about
// items: database URLs, pools, dialects, numbered migrations, and what a driver's
// error means. It is the only place that imports SQL drivers.
//
// No goroutines but those of leave.go. Nothing here ever puts a password into an error.
package sqlkit

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"
	_ "modernc.org/sqlite" // registers "sqlite"
)

// Dialect is the SQL a server speaks.
type Dialect string

// The dialects.
const (
	MySQL  Dialect = "mysql" // MySQL 8, MariaDB
	SQLite Dialect = "sqlite"
)

const (
	defaultConns  = 8
	sqliteReaders = 4
	connLifetime  = 3 * time.Minute
	dialTimeout   = 5 * time.Second
)

// Source is a parsed database URL.
type Source struct {
	Dialect Dialect
	Path    string // SQLite
	mysql   *mysql.Config
	conns   int
}

// Pools are the connections of one database: one for writing and one for reading. They
// are the same pool except for SQLite, where one connection writes and others read.
type Pools struct{ Write, Read *DB }

// OnePool returns Pools of one pool, for a namespace.
func OnePool(pool *sql.DB, d Dialect, prefix string) Pools {
	db := NewDB(pool, d, prefix)
	return Pools{Write: db, Read: db}
}

// Close closes both.
func (p Pools) Close() error {
	if p.Read == p.Write {
		return p.Write.Close()
	}
	return errors.Join(p.Read.Close(), p.Write.Close())
}

// Parse reads "sqlite:PATH" or "mysql://user:password@host:port/database?option=value".
// It does no I/O beyond looking whether the directory of a SQLite file exists. A
// password may be percent-encoded or raw: the userinfo ends at the last "@".
func Parse(raw string) (*Source, error) {
	if path, ok := strings.CutPrefix(raw, "sqlite:"); ok {
		return parseSQLite(strings.TrimPrefix(path, "//"))
	}
	rest, ok := strings.CutPrefix(raw, "mysql://")
	if !ok {
		return nil, errors.New(`must begin with "sqlite:" or "mysql://"`)
	}
	user, pass, rest := splitUser(rest)
	u, err := url.Parse("mysql://" + rest)
	if err != nil {
		return nil, errors.New("must be a URL with a valid host and port") // the parser's words could quote a misplaced password
	}
	cfg := mysql.NewConfig()
	cfg.User, cfg.Passwd = user, pass
	if err := setMySQLAddress(cfg, u); err != nil {
		return nil, err
	}
	s := &Source{Dialect: MySQL, mysql: cfg, conns: defaultConns}
	query := u.Query()
	for name, values := range query {
		if err := s.option(name, values[len(values)-1]); err != nil {
			return nil, err
		}
		if len(values) > 1 {
			return nil, fmt.Errorf("option %s is given twice", name)
		}
	}
	if query.Has("ca_file") {
		if cfg.TLSConfig != "true" {
			return nil, errors.New("option ca_file needs tls=true")
		}
		cfg.TLSConfig = ""
	}
	cfg.Timeout, cfg.DialFunc = dialTimeout, dial
	cfg.Collation = "utf8mb4_bin"
	cfg.MaxAllowedPacket = 0 // ask the server
	cfg.Logger = &mysql.NopLogger{}
	return s, nil
}

func parseSQLite(path string) (*Source, error) {
	switch {
	case path == "":
		return nil, errors.New("names no file: sqlite:PATH")
	case strings.HasPrefix(path, ":memory:"):
		return nil, errors.New("must name a file: each pooled connection would have its own memory database")
	case strings.ContainsRune(path, 0):
		return nil, errors.New("must not contain NUL")
	}
	if st, err := os.Stat(filepath.Dir(path)); err != nil || !st.IsDir() {
		return nil, errors.New("must lie in an existing directory")
	}
	if st, err := os.Stat(path); err == nil && st.IsDir() {
		return nil, errors.New("must be a file, is a directory")
	}
	return &Source{Dialect: SQLite, Path: path}, nil
}

func setMySQLAddress(cfg *mysql.Config, u *url.URL) error {
	host, port := u.Hostname(), u.Port()
	if host == "" {
		return errors.New("names no host")
	}
	if strings.Contains(host, ":") && !strings.HasPrefix(u.Host, "[") {
		return errors.New("must have one port, and an IPv6 address in brackets")
	}
	if port == "" {
		port = "3306"
	}
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
		return errors.New("port must lie in 1 to 65535")
	}
	cfg.Net, cfg.Addr = "tcp", net.JoinHostPort(host, port)
	cfg.DBName = strings.TrimPrefix(u.Path, "/")
	if cfg.DBName == "" {
		return errors.New("names no database: mysql://host/DATABASE")
	}
	if strings.ContainsAny(cfg.DBName, "/`\x00") {
		return errors.New("database name must not contain / or `")
	}
	if u.Fragment != "" {
		return errors.New("must not have a fragment")
	}
	return nil
}

func (s *Source) option(name, value string) error {
	switch name {
	case "tls":
		switch value {
		case "true", "false", "skip-verify", "preferred":
			s.mysql.TLSConfig = value
			return nil
		}
		return errors.New("option tls must be true, false, skip-verify or preferred")
	case "ca_file":
		text, err := os.ReadFile(value)
		if err != nil {
			return errors.New("option ca_file must name a file that can be read")
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(text) {
			return errors.New("option ca_file must hold certificates in PEM form")
		}
		s.mysql.TLS = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
		return nil
	case "max_open_conns":
		n, err := strconv.Atoi(value)
		if err != nil || n < 2 || n > 1000 {
			return errors.New("option max_open_conns must lie in 2 to 1000")
		}
		s.conns = n
		return nil
	}
	return fmt.Errorf("unknown option %.40q: tls, ca_file and max_open_conns are known", name)
}

// splitUser cuts "user:password@" off. The last "@" ends it, so a raw password may hold
// any character.
func splitUser(s string) (user, pass, rest string) {
	at := strings.LastIndexByte(s, '@')
	if at < 0 {
		return "", "", s
	}
	user, pass, _ = strings.Cut(s[:at], ":")
	return unescape(user), unescape(pass), s[at+1:]
}

func unescape(s string) string {
	if out, err := url.PathUnescape(s); err == nil {
		return out
	}
	return s // a raw % that begins no escape: taken as it stands
}

// Redact returns the URL without its password. Of a URL that Parse refuses it shows the
// scheme alone: nobody can tell which part of it is the password.
func Redact(raw string) string {
	s, err := Parse(raw)
	if path, ok := strings.CutPrefix(raw, "sqlite:"); ok {
		if colon := strings.Index(path, ":"); colon >= 0 && strings.Contains(path[colon:], "@") {
			return "sqlite:[redacted]" // user and password of another URL, by mistake
		}
		return raw
	}
	if err == nil {
		return "mysql://" + url.User(s.mysql.User).String() + ":xxxxx@" + s.mysql.Addr + "/" + s.mysql.DBName
	}
	scheme, _, ok := strings.Cut(raw, ":")
	if ok && (scheme == "mysql" || knownScheme.MatchString(raw)) {
		return scheme + "://[redacted]"
	}
	return "[redacted]"
}

// knownScheme matches what people give by mistake.
var knownScheme = regexp.MustCompile(`^(postgres|postgresql|mariadb|http|https|redis|rediss|file)://`)

// Place says where the database is, without user and password.
func (s *Source) Place() string {
	if s.Dialect == SQLite {
		if abs, err := filepath.Abs(s.Path); err == nil {
			return "sqlite:" + abs
		}
		return "sqlite:" + s.Path
	}
	return "mysql://" + s.mysql.Addr + "/" + s.mysql.DBName
}

// Open makes the pools, for a namespace; see DB. idle is the time after which the server may end a
// transaction that nobody uses, 0 for never. It does not connect, except that it creates a missing
// SQLite file readable by its owner only.
func (s *Source) Open(prefix string, idle time.Duration) (Pools, error) {
	if s.Dialect == SQLite {
		return openSQLite(s.Path, prefix)
	}
	pin(s.mysql)
	connector, err := mysql.NewConnector(s.mysql)
	if err != nil {
		return Pools{}, errors.New("bad mysql options") // the driver's text could quote the DSN
	}
	db := sql.OpenDB(pinned{connector, idle})
	db.SetMaxOpenConns(s.conns)
	db.SetMaxIdleConns(s.conns)
	db.SetConnMaxLifetime(connLifetime)
	pools := OnePool(db, MySQL, prefix)
	pools.Write.idle = s.conns
	return pools, nil
}

func openSQLite(path, prefix string) (Pools, error) {
	if err := TouchPrivate(path); err != nil {
		return Pools{}, err
	}
	w, err := OpenSQLite(path, "_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=cache_size(-16384)&_pragma=journal_size_limit(67108864)&_txlock=immediate")
	if err != nil {
		return Pools{}, err
	}
	w.SetMaxOpenConns(1)
	r, err := OpenSQLite(path, "_pragma=query_only(1)")
	if err != nil {
		return Pools{}, errors.Join(err, w.Close())
	}
	r.SetMaxOpenConns(sqliteReaders)
	r.SetMaxIdleConns(sqliteReaders)
	return Pools{Write: NewDB(w, SQLite, prefix), Read: NewDB(r, SQLite, prefix)}, nil
}

// OpenSQLite opens a pool on a SQLite file with a busy timeout and further URI options.
func OpenSQLite(path, options string) (*sql.DB, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	u := url.URL{Scheme: "file", OmitHost: true, Path: filepath.ToSlash(abs), RawQuery: "_pragma=busy_timeout(5000)&" + options}
	return sql.Open("sqlite", u.String())
}

// TouchPrivate creates the file with mode 0600 if it is missing. SQLite would create it
// readable by all; its -wal and -shm files take the mode of the main file.
func TouchPrivate(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		return nil // opening and closing an existing SQLite file would drop this process's POSIX locks on it
	}
	if err != nil {
		return err
	}
	return f.Close()
}

// leastPacket has room for some ids, and for a small item with all that is written of it.
const leastPacket = 16 << 10

// MaxPacket returns how many bytes one statement may have on this server. A server that takes too
// few is an *Unfit.
func MaxPacket(ctx context.Context, db *DB, d Dialect) (int64, error) {
	if d == SQLite {
		return 1 << 30, nil
	}
	var n int64
	err := db.QueryRowContext(ctx, "SELECT @@max_allowed_packet").Scan(&n)
	if err == nil && n < leastPacket {
		return 0, &Unfit{Problem: fmt.Sprintf("max_allowed_packet is %d: statements need 16 KiB, and each item as many bytes as it has", n), Mend: "SET GLOBAL max_allowed_packet = 16777216"}
	}
	return n, err
}
