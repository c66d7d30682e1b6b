package rediskit

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// No error of this file quotes any part of the URL but names of its own options:
// what a mistyped URL takes for a port, a path or an option may be a password.

var (
	errScheme    = errors.New("redis URL: must begin with redis:// or rediss://")
	errCharacter = errors.New("redis URL: holds a space or control character; percent-encode it")
	errUnescaped = errors.New("redis URL: an @ after the first / ? or #: percent-encode these four (and %) in user and password")
	errEscape    = errors.New("redis URL: a % that is not followed by two hex digits; write %25 for a plain one")
	errFragment  = errors.New("redis URL: a # that is not percent-encoded")
	errPassword  = errors.New("redis URL: a user without a password; for a password alone write redis://:PASSWORD@host")
	errPath      = errors.New("redis URL: path must be empty, or / and the number of a database")
	errNoHost    = errors.New("redis URL: no host")
)

// Open makes a client from a URL. It sends nothing: a server that is away is
// seen by the first call.
//
//	redis://user:password@host:6379/0       one server
//	redis://host1:6379,host2:6379           Cluster, also ?addr=host1:6379&addr=host2:6379
//	redis://host:6379?cluster=true          Cluster known by one address
//	redis://sentinel1,sentinel2/0?master_name=NAME&sentinel_password=…
//	rediss://…                              any of them over TLS
//
// User and password are percent-encoded; in the query + is a space. Other
// options: db, protocol (2, 3), client_name, pool_size, pipeline_pool_size,
// min_idle_conns, max_idle_conns, max_active_conns, and pool_timeout,
// dial_timeout, read_timeout, write_timeout, conn_max_idle_time,
// conn_max_lifetime as Go durations or whole seconds; with rediss
// insecure_skip_verify and ca_file (read by Open). The server name of TLS is the
// host. An unknown option is an error. Commands are never retried by the client
// (MaxRetries -1), end at their context's deadline, and dials are tried once.
func Open(rawURL string) (redis.UniversalClient, error) { return OpenWatched(rawURL, nil) }

// OpenWatched is Open with a function that is told the run id of the server on each new
// connection, before the connection serves its first command. A server that was restarted, or
// another one that took its place, has another run id: it may have forgotten the latest writes.
// watch must not call the client. It is told nothing if the account may not ask for INFO.
func OpenWatched(rawURL string, watch func(ctx context.Context, runID string)) (redis.UniversalClient, error) {
	t, err := parse(rawURL)
	if err != nil {
		return nil, err
	}
	if watch != nil {
		t.opts.OnConnect = func(ctx context.Context, cn *redis.Conn) error {
			info, err := cn.Info(ctx, "server").Result()
			if Forbidden(err) {
				return nil
			}
			if err != nil {
				return err
			}
			for line := range strings.Lines(info) {
				if id, ok := strings.CutPrefix(strings.TrimSpace(line), "run_id:"); ok {
					watch(ctx, id)
				}
			}
			return nil
		}
	}
	switch t.mode {
	case modeCluster:
		return redis.NewClusterClient(t.opts.Cluster()), nil
	case modeSentinel:
		return redis.NewFailoverClient(t.opts.Failover()), nil
	}
	return redis.NewClient(t.opts.Simple()), nil
}

type mode uint8

const (
	modeSingle mode = iota
	modeCluster
	modeSentinel
)

// target is what a URL stands for.
type target struct {
	mode mode
	opts redis.UniversalOptions
	tls  *tls.Config // nil for redis://
}

func parse(rawURL string) (*target, error) {
	u, err := split(rawURL)
	if err != nil {
		return nil, err
	}
	t := &target{}
	t.opts = redis.UniversalOptions{
		MaxRetries:            -1, // a lost reply is not a failure: retried above, by who knows what is harmless
		DialerRetries:         1,
		ContextTimeoutEnabled: true,
		Username:              u.user,
		Password:              u.password,
		// Handshake commands less: proxies don't know them, and of an account that lacks the right
		// to them newer servers write each refusal into the log of their ACL.
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
		DisableIdentity:          true,
	}
	if u.scheme == "rediss" {
		t.tls = &tls.Config{MinVersion: tls.VersionTLS12} // ServerName is set per connection, to its host
		t.opts.TLSConfig = t.tls
	}
	cluster, err := t.setOptions(u.query)
	if err != nil {
		return nil, err
	}
	if err := t.setAddrs(u.hosts, u.query["addr"]); err != nil {
		return nil, err
	}
	if err := t.setMode(cluster, u.query); err != nil {
		return nil, err
	}
	return t, t.setDB(u.path, u.query.Get("db"))
}

func (t *target) setAddrs(hosts, more []string) error {
	port := "6379"
	if t.opts.MasterName != "" {
		port = "26379"
	}
	for i, host := range append(hosts, more...) {
		addr, err := address(host, port)
		if err != nil {
			return fmt.Errorf("redis URL: address %d: %w", i+1, err)
		}
		t.opts.Addrs = append(t.opts.Addrs, addr)
	}
	if len(t.opts.Addrs) == 0 {
		return errNoHost
	}
	return nil
}

// setMode decides what kind of client it is; cluster is "" if not asked for.
func (t *target) setMode(cluster string, query url.Values) error {
	switch {
	case query.Has("master_name"):
		if cluster == "true" {
			return errors.New("redis URL: cluster=true and master_name exclude each other")
		}
		t.mode = modeSentinel
	case query.Has("sentinel_username"), query.Has("sentinel_password"):
		return errors.New("redis URL: sentinel_username and sentinel_password need master_name")
	case cluster == "false" && len(t.opts.Addrs) > 1:
		return errors.New("redis URL: several addresses are a Cluster, but it says cluster=false")
	case cluster == "true" || len(t.opts.Addrs) > 1:
		t.mode, t.opts.IsClusterMode = modeCluster, true
	}
	return nil
}

func (t *target) setDB(path, option string) error {
	path = strings.TrimPrefix(path, "/")
	if path != "" && option != "" && path != option {
		return errors.New("redis URL: path and option db name different databases")
	}
	if path == "" && option == "" {
		return nil
	}
	text := option
	if path != "" {
		text = path
	}
	db, err := number(text, 0, 1<<20)
	switch {
	case err != nil && path != "":
		return errPath
	case err != nil:
		return fmt.Errorf("redis URL: db %w", err)
	case db != 0 && t.mode == modeCluster:
		return errors.New("redis URL: a Cluster has database 0 only")
	}
	t.opts.DB = db
	return nil
}

// address checks host[:port] and adds the port it lacks.
func address(s, defaultPort string) (string, error) {
	host, port := s, defaultPort
	if rest, ok := strings.CutPrefix(s, "["); ok {
		in, after, closed := strings.Cut(rest, "]")
		if ip, err := netip.ParseAddr(in); !closed || err != nil || !ip.Is6() {
			return "", errors.New("what is in [ ] must be an IPv6 address")
		}
		host = in
		if after != "" {
			if after[0] != ':' {
				return "", errors.New("nothing but a port may follow [ ]")
			}
			port = after[1:]
		}
	} else if h, p, found := strings.Cut(s, ":"); found {
		host, port = h, p
	}
	if host == "" {
		return "", errNoHost
	}
	if !strings.HasPrefix(s, "[") && strings.ContainsFunc(host, notInHost) {
		return "", errors.New("host may hold letters, digits, dots, hyphens and underscores")
	}
	n, err := number(port, 1, 65535)
	if err != nil {
		return "", fmt.Errorf("port %w", err)
	}
	return net.JoinHostPort(host, strconv.Itoa(n)), nil
}

func notInHost(r rune) bool {
	switch {
	case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '.', r == '-', r == '_':
		return false
	}
	return true
}

// parts is a URL taken apart. url.Parse is not used: its errors quote the
// password, and it refuses several hosts.
type parts struct {
	scheme         string
	hasUser        bool
	rawUser        string // as written, for Redact
	user, password string
	hosts          []string
	path           string
	query          url.Values
}

func split(raw string) (*parts, error) {
	scheme, rest, found := strings.Cut(raw, "://")
	if !found || scheme != "redis" && scheme != "rediss" {
		return nil, errScheme
	}
	if strings.ContainsFunc(raw, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		return nil, errCharacter
	}
	u := &parts{scheme: scheme}
	authority, tail := rest, ""
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		authority, tail = rest[:i], rest[i:]
	}
	switch {
	case strings.Contains(tail, "@"):
		return nil, errUnescaped
	case strings.Contains(tail, "#"):
		return nil, errFragment
	}
	if i := strings.LastIndex(authority, "@"); i >= 0 {
		if err := u.setUser(authority[:i]); err != nil {
			return nil, err
		}
		authority = authority[i+1:]
	}
	if authority != "" {
		u.hosts = strings.Split(authority, ",")
	}
	path, query, _ := strings.Cut(tail, "?")
	var err error
	if u.path, err = url.PathUnescape(path); err != nil {
		return nil, errEscape
	}
	if u.query, err = url.ParseQuery(query); err != nil {
		return nil, errors.New("redis URL: options must be name=value, joined by &, percent-encoded")
	}
	if u.path == "/" {
		u.path = ""
	}
	return u, nil
}

func (u *parts) setUser(userinfo string) error {
	name, password, _ := strings.Cut(userinfo, ":")
	var err1, err2 error
	u.user, err1 = url.PathUnescape(name)
	u.password, err2 = url.PathUnescape(password)
	switch {
	case err1 != nil || err2 != nil:
		return errEscape
	case name != "" && password == "":
		return errPassword
	}
	u.hasUser, u.rawUser = userinfo != "" && userinfo != ":", name
	return nil
}
