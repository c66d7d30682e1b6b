// This file owns how Redis servers, clusters and sentinels are started, and a
// client just large enough to set them up and look at them from outside.

package testserver

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

const (
	kindRedis     = "redis"
	redisSlots    = 16384
	sentinelGroup = "primary"
)

// Redis starts a redis-server that ends with the test. args are appended to its
// command line and win, for example "--maxmemory", "10mb". Unless they say
// otherwise it keeps nothing on disk: after Kill and Restart it is empty.
func Redis(t testing.TB, args ...string) *Server {
	t.Helper()
	s, err := startRedis(args)
	return giveTo(t, s, err)
}

func startRedis(extra []string) (*Server, error) {
	bin, err := find("redis-server")
	if err != nil {
		return nil, err
	}
	s := &Server{kind: kindRedis, bin: bin, ready: redisReady, args: func(s *Server) []string {
		return append([]string{
			"--port", strconv.Itoa(s.port), "--bind", "127.0.0.1", "--dir", s.dir,
			"--save", "", "--appendonly", "no", "--daemonize", "no",
		}, extra...)
	}}
	for i, arg := range extra {
		if arg == "--requirepass" && i+1 < len(extra) {
			s.pass = extra[i+1]
		}
	}
	return newServer(s, nil)
}

// redisReady holds when this very process answers: another server may have
// taken the port first.
func redisReady(ctx context.Context, s *Server, pid int) error {
	_, err := s.command(ctx, "PING")
	// An error reply (MISCONF, MASTERDOWN) still shows a server at work, unless
	// it says that the data is not there yet.
	var refused replyError
	if err != nil && (!errors.As(err, &refused) || strings.HasPrefix(string(refused), "LOADING")) {
		return err
	}
	info, err := s.command(ctx, "INFO", "server")
	if err != nil {
		return err
	}
	if !strings.Contains(info, fmt.Sprintf("process_id:%d\r", pid)) {
		return fmt.Errorf("%w: another server answers on %s", errPortTaken, s.Addr())
	}
	return nil
}

// Do sends one command to a Redis on a connection of its own and returns the
// reply in a plain form: the string, the number as text, "" for nil, the
// elements of an array joined by newlines. An error reply ends the test.
func (s *Server) Do(t testing.TB, args ...string) string {
	t.Helper()
	if s.kind != kindRedis {
		t.Fatalf("testserver: Do on %s", s.kind)
	}
	ctx, cancel := context.WithTimeout(context.Background(), startDeadline)
	defer cancel()
	reply, err := s.command(ctx, args...)
	if err != nil {
		t.Fatalf("testserver: redis %v: %v", args, err)
	}
	return reply
}

// replyError is an error that Redis replied, as opposed to one of the wire.
type replyError string

func (e replyError) Error() string { return "redis: " + string(e) }

// command sends one command; an error reply comes back as a replyError.
func (s *Server) command(ctx context.Context, args ...string) (string, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", s.Addr())
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }()
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline) // fails only on a closed connection
	}
	in := bufio.NewReader(conn)
	if s.pass != "" {
		if _, err := roundTrip(conn, in, []string{"AUTH", s.pass}); err != nil {
			return "", err
		}
	}
	return roundTrip(conn, in, args)
}

func roundTrip(out io.Writer, in *bufio.Reader, args []string) (string, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "*%d\r\n", len(args))
	for _, arg := range args {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(arg), arg)
	}
	if _, err := io.WriteString(out, b.String()); err != nil {
		return "", err
	}
	return readReply(in)
}

func readReply(in *bufio.Reader) (string, error) {
	line, err := in.ReadString('\n')
	if err != nil {
		return "", err
	}
	line = strings.TrimSuffix(line, "\r\n")
	if line == "" {
		return "", fmt.Errorf("redis: empty reply line")
	}
	switch line[0] {
	case '+', ':':
		return line[1:], nil
	case '-':
		return "", replyError(line[1:])
	}
	n, err := strconv.Atoi(line[1:])
	switch {
	case err != nil || (line[0] != '$' && line[0] != '*'):
		return "", fmt.Errorf("redis: reply %q", line)
	case n < 0:
		return "", nil
	case line[0] == '$':
		body := make([]byte, n+2)
		_, err := io.ReadFull(in, body)
		return string(body[:n]), err
	}
	parts := make([]string, n)
	for i := range parts {
		if parts[i], err = readReply(in); err != nil {
			return "", err
		}
	}
	return strings.Join(parts, "\n"), nil
}

// Cluster is a Redis Cluster of masters, without replicas unless some are added.
type Cluster struct {
	// Nodes are the cluster's servers; each can be killed, frozen and restarted.
	Nodes []*Server
	// Replicas are those that AddReplica made.
	Replicas []*Server
}

// Addrs lists the nodes' host:port.
func (c *Cluster) Addrs() []string {
	addrs := make([]string, len(c.Nodes))
	for i, node := range c.Nodes {
		addrs[i] = node.Addr()
	}
	return addrs
}

// RedisCluster starts a Redis Cluster of n masters that share all slots evenly
// and returns once every node calls the cluster healthy. Redis itself waits two
// seconds before it does, so use it for few tests.
func RedisCluster(t testing.TB, n int) *Cluster {
	t.Helper()
	c := &Cluster{}
	for range n {
		c.Nodes = append(c.Nodes, clusterNode(t))
	}
	for i, node := range c.Nodes {
		// Equal epochs would be sorted out by the nodes, but slowly.
		node.Do(t, "CLUSTER", "SET-CONFIG-EPOCH", strconv.Itoa(i+1))
		slots := []string{"CLUSTER", "ADDSLOTS"}
		for slot := i * redisSlots / n; slot < (i+1)*redisSlots/n; slot++ {
			slots = append(slots, strconv.Itoa(slot))
		}
		node.Do(t, slots...)
	}
	for _, node := range c.Nodes[1:] {
		host, port, _ := net.SplitHostPort(node.Addr()) // built by JoinHostPort
		c.Nodes[0].Do(t, "CLUSTER", "MEET", host, port)
	}
	c.WaitHealthy(t)
	return c
}

// WaitHealthy returns once every node sees every node and calls the cluster
// healthy, for example after one was restarted.
func (c *Cluster) WaitHealthy(t testing.TB) {
	t.Helper()
	known := fmt.Sprintf("cluster_known_nodes:%d\r", len(c.Nodes)+len(c.Replicas))
	for _, node := range append(slices.Clone(c.Nodes), c.Replicas...) {
		err := pollUntil(nil, func(ctx context.Context) error {
			info, err := node.command(ctx, "CLUSTER", "INFO")
			if err != nil {
				return err
			}
			if !strings.Contains(info, "cluster_state:ok\r") || !strings.Contains(info, known) {
				return fmt.Errorf("cluster is not healthy on %s:\n%s", node.Addr(), info)
			}
			return nil
		})
		if err != nil {
			t.Fatalf("testserver: %v", err)
		}
	}
}

func clusterNode(t testing.TB) *Server {
	t.Helper()
	// The long timeout keeps a busy machine from looking like a dead node.
	return Redis(t, "--cluster-enabled", "yes", "--cluster-announce-ip", "127.0.0.1", "--cluster-node-timeout", "5000")
}

// AddReplica starts a replica of one of the nodes, and returns once it has what that has.
func (c *Cluster) AddReplica(t testing.TB, of *Server) *Server {
	t.Helper()
	s := clusterNode(t)
	c.Replicas = append(c.Replicas, s)
	host, port, _ := net.SplitHostPort(of.Addr()) // built by JoinHostPort
	s.Do(t, "CLUSTER", "MEET", host, port)
	c.WaitHealthy(t)
	id := of.Do(t, "CLUSTER", "MYID")
	eventually(t, func(ctx context.Context) error { // it may not know yet that this is a master
		_, err := s.command(ctx, "CLUSTER", "REPLICATE", id)
		return err
	})
	eventually(t, s.inStep)
	return s
}

// inStep is nil of a replica that has its master's data, and gets what is written.
func (s *Server) inStep(ctx context.Context) error {
	info, err := s.command(ctx, "INFO", "replication")
	if err == nil && !strings.Contains(info, "master_link_status:up") {
		err = fmt.Errorf("%s is not in step:\n%s", s.Addr(), info)
	}
	return err
}

// CutReplica makes a replica miss what is written to its master from now on.
func CutReplica(t testing.TB, replica, master *Server) {
	t.Helper()
	replica.Do(t, "CONFIG", "SET", "masterauth", "wrong")
	master.Do(t, "CLIENT", "KILL", "TYPE", "replica")
	eventually(t, func(ctx context.Context) error {
		if replica.inStep(ctx) == nil {
			return errors.New("the replica is still in step")
		}
		return nil
	})
}

func eventually(t testing.TB, check func(context.Context) error) {
	t.Helper()
	if err := pollUntil(nil, check); err != nil {
		t.Fatalf("testserver: %v", err)
	}
}

// SentinelGroup is a master with two replicas, and three sentinels that choose another master when
// two of them see the first one dead for a second.
type SentinelGroup struct {
	// MasterName is what clients ask sentinels for.
	MasterName string
	// Nodes are the servers, the first master first; Sentinels the others. All can be killed.
	Nodes, Sentinels []*Server
}

// RedisSentinels starts a group, and returns once it could do without its master.
func RedisSentinels(t testing.TB) *SentinelGroup {
	t.Helper()
	g := &SentinelGroup{MasterName: sentinelGroup, Nodes: []*Server{Redis(t)}}
	host, port, _ := net.SplitHostPort(g.Nodes[0].Addr()) // built by JoinHostPort
	for range 2 {
		g.Nodes = append(g.Nodes, Redis(t, "--replicaof", host+" "+port, "--repl-diskless-sync-delay", "0"))
	}
	for _, replica := range g.Nodes[1:] {
		eventually(t, replica.inStep)
	}
	for range 3 {
		s, err := startSentinel(g.Nodes[0], 2, time.Second)
		g.Sentinels = append(g.Sentinels, giveTo(t, s, err))
	}
	for _, s := range g.Sentinels {
		eventually(t, func(ctx context.Context) error {
			text, err := s.command(ctx, "SENTINEL", "MASTER", sentinelGroup)
			if f := strings.Split(text, "\n"); err == nil && (field(f, "num-slaves") != "2" || field(f, "num-other-sentinels") != "2") {
				err = fmt.Errorf("a sentinel does not know all: %q", f)
			}
			return err
		})
	}
	return g
}

// field returns the value of a name in a list of names and values.
func field(list []string, name string) string {
	for i := 0; i+1 < len(list); i += 2 {
		if list[i] == name {
			return list[i+1]
		}
	}
	return ""
}

// URL has the addresses of the sentinels.
func (g *SentinelGroup) URL() string {
	addrs := make([]string, len(g.Sentinels))
	for i, s := range g.Sentinels {
		addrs[i] = s.Addr()
	}
	return "redis://" + strings.Join(addrs, ",") + "?master_name=" + g.MasterName
}

// Master is the master that the sentinels name now.
func (g *SentinelGroup) Master(t testing.TB) *Server {
	t.Helper()
	_, port, _ := strings.Cut(g.Sentinels[0].Do(t, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", g.MasterName), "\n")
	for _, s := range g.Nodes {
		if strconv.Itoa(s.port) == port {
			return s
		}
	}
	return nil
}

// Sentinel is one Redis Sentinel that watches one master.
type Sentinel struct {
	// MasterName is what clients ask the sentinel for.
	MasterName string
	// Master is the watched server, Process the sentinel itself.
	Master, Process *Server
}

// Addr is the sentinel's host:port.
func (s *Sentinel) Addr() string { return s.Process.Addr() }

// RedisSentinel starts a Redis and a sentinel that watches it, and returns once
// the sentinel can name the master.
func RedisSentinel(t testing.TB) *Sentinel {
	t.Helper()
	master := Redis(t)
	process, err := startSentinel(master, 1, 5*time.Second)
	s := &Sentinel{MasterName: sentinelGroup, Master: master, Process: giveTo(t, process, err)}
	err = pollUntil(nil, func(ctx context.Context) error {
		_, err := process.command(ctx, "SENTINEL", "CKQUORUM", sentinelGroup)
		return err
	})
	if err != nil {
		t.Fatalf("testserver: %v", err)
	}
	return s
}

func startSentinel(master *Server, quorum int, dead time.Duration) (*Server, error) {
	bin, err := find("redis-server")
	if err != nil {
		return nil, err
	}
	// A sentinel keeps its state in its configuration, so it needs a file.
	s := &Server{kind: kindRedis, bin: bin, ready: redisReady, args: func(s *Server) []string {
		return []string{filepath.Join(s.dir, "sentinel.conf"), "--sentinel", "--port", strconv.Itoa(s.port)}
	}}
	return newServer(s, func(dir string) error {
		host, port, _ := net.SplitHostPort(master.Addr()) // built by JoinHostPort
		conf := fmt.Sprintf("bind 127.0.0.1\ndir %s\nsentinel monitor %s %s %s %d\n"+
			"sentinel down-after-milliseconds %s %d\nsentinel failover-timeout %s 10000\n", dir, sentinelGroup, host, port, quorum,
			sentinelGroup, dead.Milliseconds(), sentinelGroup)
		return os.WriteFile(filepath.Join(dir, "sentinel.conf"), []byte(conf), 0o600)
	})
}
