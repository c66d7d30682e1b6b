package rediskit

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/syncengine-go/syncengine/internal/digest"
)

// Client stores ranked values in one Redis, Sentinel group or Cluster. It is
// safe for concurrent use and holds nothing but the go-redis client.
type Client struct {
	rdb    redis.UniversalClient
	prefix string // what a rank begins with
	width  int    // bytes of a rank, prefix included
	// spread: keys live on different servers, so a script gets one key only.
	spread bool

	digestScript, leavesScript *redis.Script
}

// New uses c, whose options it can't change: see HonoursDeadlines. A value's
// rank is its first rankWidth bytes, and they begin with rankPrefix.
func New(c redis.UniversalClient, rankPrefix string, rankWidth int) *Client {
	_, cluster := c.(masters)
	_, ring := c.(shards)
	return &Client{
		rdb: c, prefix: rankPrefix, width: rankWidth, spread: cluster || ring,
		digestScript: walkScript(rankPrefix, rankWidth, digest.Branches, digestSource),
		leavesScript: walkScript(rankPrefix, rankWidth, digest.Branches, leavesSource),
	}
}

// masters is a redis.ClusterClient, shards a redis.Ring (and a ClusterClient).
type masters interface {
	ForEachMaster(context.Context, func(context.Context, *redis.Client) error) error
}
type shards interface {
	ForEachShard(context.Context, func(context.Context, *redis.Client) error) error
}

// HonoursDeadlines says whether calls through c end at their context's
// deadline. False for a client built without ContextTimeoutEnabled: there a
// server that hangs costs a read timeout (3 to 5 s) instead. A type it does not
// know counts as true.
func HonoursDeadlines(c redis.UniversalClient) bool {
	switch c := c.(type) {
	case *redis.Client:
		return c.Options().ContextTimeoutEnabled
	case *redis.ClusterClient:
		return c.Options().ContextTimeoutEnabled
	case *redis.Ring:
		return c.Options().ContextTimeoutEnabled
	}
	return true
}

// IsDefault reports whether the account is certainly the server's default one, which most likely
// may read all keys. One that may not has its tries noted in ACL LOG.
func (c *Client) IsDefault() bool {
	name := "?"
	switch c := c.rdb.(type) {
	case *redis.Client:
		if o := c.Options(); o.CredentialsProvider == nil && o.CredentialsProviderContext == nil && o.StreamingCredentialsProvider == nil {
			name = o.Username
		}
	case *redis.ClusterClient:
		if o := c.Options(); o.CredentialsProvider == nil && o.CredentialsProviderContext == nil && o.StreamingCredentialsProvider == nil {
			name = o.Username
		}
	}
	return name == "" || name == "default"
}

// Get returns the bytes under key, which the caller owns but must not change;
// ErrAbsent when there is no such key, ErrWrongType when it is no string. Any
// other error says that the server did not answer.
func (c *Client) Get(ctx context.Context, key string) ([]byte, error) {
	b, err := c.rdb.Get(ctx, key).Bytes()
	if err == nil && b != nil {
		return b, nil
	}
	return found(b, err)
}

// unanswered stands in a command until its reply comes. When a new connection
// is turned away (wrong password, no such database), go-redis fails Exec and
// leaves the commands of the pipeline without an error: an empty value each.
const unanswered = "\x00rediskit: no reply"

// GetMany reads keys in one round trip (per server of a Cluster). The first two
// results are aligned with keys: bytes and nil; nil and nil when there is no
// such key; nil and an error, ErrWrongType included, when the value is not
// known. The last result joins the errors other than ErrWrongType, one of a
// kind; nil means that the server answered for every key.
func (c *Client) GetMany(ctx context.Context, keys []string) ([][]byte, []error, error) {
	if len(keys) == 0 {
		return nil, nil, nil
	}
	pipe := c.rdb.Pipeline()
	cmds := make([]*redis.StringCmd, len(keys))
	for i, key := range keys {
		cmds[i] = pipe.Get(ctx, key)
		cmds[i].SetVal(unanswered)
	}
	_, execErr := pipe.Exec(ctx)
	if execErr == nil {
		execErr = errReply
	}
	vals, errs := make([][]byte, len(keys)), make([]error, len(keys))
	var unknown failures
	for i, cmd := range cmds {
		b, err := cmd.Bytes()
		if err == nil && string(b) == unanswered {
			err = execErr
		}
		vals[i], errs[i] = found(b, err)
		switch errs[i] {
		case nil, ErrWrongType:
		case ErrAbsent:
			errs[i] = nil
		default:
			unknown.add(errs[i])
		}
	}
	return vals, errs, unknown.err(len(keys))
}

// found turns the outcome of a GET into ours. redis.Nil is compared, not
// searched for: an unreachable sentinel wraps one.
func found(b []byte, err error) ([]byte, error) {
	switch {
	case err == nil && b == nil:
		return []byte{}, nil
	case err == nil:
		return b, nil
	case err == redis.Nil:
		return nil, ErrAbsent
	case redis.HasErrorPrefix(err, "WRONGTYPE"):
		return nil, ErrWrongType
	}
	return nil, wrap("get", err)
}

// deleteScript answers 1 when it deleted. ARGV[1] says what for: 'type', or
// 'equal' to ARGV[2].
var deleteScript = redis.NewScript(`local cur = redis.pcall('GET', KEYS[1])
if type(cur) == 'table' then
  if not string.find(cur.err, 'WRONGTYPE', 1, true) then return cur end
  if ARGV[1] ~= 'type' then return 0 end
elseif ARGV[1] ~= 'equal' or cur ~= ARGV[2] then
  return 0
end
return redis.pcall('UNLINK', KEYS[1])`)

// DeleteIfEqual deletes key if it still holds exactly old (an empty old that is
// not nil is the empty string), or, when old is nil, if it still holds something
// that is not a string. It reports whether this call deleted it; after a lost
// reply a repeat reports false.
func (c *Client) DeleteIfEqual(ctx context.Context, key string, old []byte) (bool, error) {
	why, arg := "equal", old
	if old == nil {
		why, arg = "type", []byte{}
	}
	n, err := deleteScript.Run(ctx, c.rdb, []string{key}, why, arg).Int()
	if err != nil {
		return false, wrap("delete", err)
	}
	return n == 1, nil
}

// Ping asks the server, every master of a Cluster, for a sign of life.
func (c *Client) Ping(ctx context.Context) error {
	nodes, err := c.nodes(ctx)
	if err != nil {
		return wrap("ping", err)
	}
	for _, node := range nodes {
		if err := node.Ping(ctx).Err(); err != nil {
			return wrap("ping", err)
		}
	}
	return nil
}

// Close closes the go-redis client, also one handed to New. Calls after it fail
// with a "closed" error of class Other.
func (c *Client) Close() error { return c.rdb.Close() }

// Server describes one server, from its INFO. Fields a server does not report
// are zero.
type Server struct {
	Version               string
	Role                  string // master or slave
	UsedMemory, MaxMemory uint64 // bytes; MaxMemory 0 is no limit
	MaxMemoryPolicy       string
	ReplicationID         string // of what it holds and sends its replicas: another one after a restart or a failover
	Uptime                time.Duration
	Loading               bool
}

// Evicts reports whether the server is so full, to nine tenths, that it drops keys to take
// others, or soon will.
func (s Server) Evicts() bool {
	return s.MaxMemory > 0 && s.MaxMemoryPolicy != "noeviction" && s.UsedMemory > s.MaxMemory/10*9
}

// Info asks the server, every master of a Cluster, what it is: all, or some sections of INFO.
// Servers that answered are returned beside an error of others.
func (c *Client) Info(ctx context.Context, sections ...string) ([]Server, error) {
	nodes, err := c.nodes(ctx)
	if err != nil {
		return nil, wrap("info", err)
	}
	servers := make([]Server, 0, len(nodes))
	var failed failures
	for _, node := range nodes {
		text, err := node.Info(ctx, sections...).Result()
		if err != nil {
			failed.add(wrap("info", err))
			continue
		}
		servers = append(servers, parseInfo(text))
	}
	return servers, failed.err(len(nodes))
}

func parseInfo(text string) Server {
	var s Server
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimRight(line, "\r\n"), ":")
		switch name {
		case "redis_version":
			s.Version = value
		case "role":
			s.Role = value
		case "master_replid":
			s.ReplicationID = value
		case "used_memory":
			s.UsedMemory, _ = strconv.ParseUint(value, 10, 64)
		case "maxmemory":
			s.MaxMemory, _ = strconv.ParseUint(value, 10, 64)
		case "maxmemory_policy":
			s.MaxMemoryPolicy = value
		case "uptime_in_seconds":
			seconds, _ := strconv.ParseInt(value, 10, 64)
			s.Uptime = time.Duration(seconds) * time.Second
		case "loading":
			s.Loading = value == "1"
		}
	}
	return s
}

// nodes lists the servers that hold keys.
func (c *Client) nodes(ctx context.Context) ([]redis.Cmdable, error) {
	var each func(context.Context, func(context.Context, *redis.Client) error) error
	switch r := c.rdb.(type) {
	case masters:
		each = r.ForEachMaster
	case shards:
		each = r.ForEachShard
	default:
		return []redis.Cmdable{c.rdb}, nil
	}
	var (
		mu    sync.Mutex // guards nodes: ForEach calls from goroutines of its own
		nodes []redis.Cmdable
	)
	err := each(ctx, func(_ context.Context, node *redis.Client) error {
		mu.Lock()
		defer mu.Unlock()
		nodes = append(nodes, node)
		return nil
	})
	if err == nil && len(nodes) == 0 {
		err = serverError("CLUSTERDOWN no server holds keys")
	}
	return nodes, err
}
