//go:build cluster

package cluster

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

const redisIDs = 2000

// pair opens two engines on a Redis. Nearly all they read comes from there: they have no room for
// it.
func pair(t *testing.T, redis string) []*syncengine.Engine {
	t.Helper()
	cfg := syncengine.Config{SQLURL: testserver.SharedMariaDB(t).NewDatabase(t), RedisURL: redis, KeyPrefix: lab.NewPrefix(), L3Timeout: l3Timeout, BatchFlushInterval: 5 * time.Millisecond, L1MaxAge: maxAge, L1MaxBytes: 1 << 20}
	return []*syncengine.Engine{lab.Open(t, cfg), lab.Open(t, cfg)}
}

// healthy waits until engines have all in Redis again, and returns how long that took since began.
func healthy(t *testing.T, engines []*syncengine.Engine, began time.Time) time.Duration {
	t.Helper()
	for n, e := range engines {
		defer func() {
			if t.Failed() {
				t.Logf("engine %d: %d missed, %+v", n, e.Stats().L2Missed, e.Health(context.Background()).L2)
			}
		}()
		lab.Eventually(t, "Redis is used again", func() bool {
			return e.Stats().L2Missed == 0 && e.Health(context.Background()).L2.OK
		})
	}
	return time.Since(began)
}

func TestRedisClusterThatReshardsUnderLoad(t *testing.T) {
	c := testserver.RedisCluster(t, 3)
	l := start(pair(t, "redis://"+strings.Join(c.Addrs(), ",")), redisIDs, archived)
	l.run(t, 1000)
	var ids []string
	for _, node := range c.Nodes {
		ids = append(ids, node.Do(t, "CLUSTER", "MYID"))
	}
	for round := range 6 {
		out, err := exec.Command("redis-cli", "--cluster", "reshard", c.Nodes[0].Addr(), "--cluster-from", ids[round%3],
			"--cluster-to", ids[(round+1)%3], "--cluster-slots", "1500", "--cluster-yes", "--cluster-pipeline", "5").CombinedOutput()
		if err != nil {
			t.Fatalf("reshard: %v\n%s", err, out)
		}
		l.run(t, 100)
	}
	l.end(t, healthy(t, l.engines, time.Now()))
}

// TestRedisClusterFailsOverToALaggingReplica, which the clients know already, and which does not
// have what was written for a while: nobody reads what it has for long.
func TestRedisClusterFailsOverToALaggingReplica(t *testing.T) {
	c := testserver.RedisCluster(t, 3)
	var replicas []*testserver.Server
	for _, node := range c.Nodes {
		replicas = append(replicas, c.AddReplica(t, node))
	}
	for name, lag := range map[string]time.Duration{"less than a beat": 300 * time.Millisecond, "seconds": 3 * time.Second} {
		t.Run(name, func(t *testing.T) {
			l := start(pair(t, "redis://"+strings.Join(c.Addrs(), ",")+"?cluster=true"), redisIDs, archived)
			l.run(t, 3000)
			n := 1
			if lag > time.Second {
				n = 2
			}
			testserver.CutReplica(t, replicas[n], c.Nodes[n])
			time.Sleep(lag) // the point of it
			l.run(t, 100)
			began := time.Now()
			l.forgiven.Store(began.Add(noticed).UnixNano())
			replicas[n].Do(t, "CLUSTER", "FAILOVER", "TAKEOVER")
			time.Sleep(noticed)
			l.end(t, healthy(t, l.engines, began)-noticed)
		})
	}
}

// TestRedisClusterAccount: what docs/operations.md lists is enough, with what a Cluster needs
// beside it; and what lacks is named.
func TestRedisClusterAccount(t *testing.T) {
	c := testserver.RedisCluster(t, 3)
	rights := "+get +set +incr +unlink +scan +exists +getrange +mset +eval +evalsha +ping +hello +publish +subscribe"
	if doc, err := os.ReadFile("../../docs/operations.md"); err != nil || !strings.Contains(string(doc), rights) {
		t.Errorf("docs/operations.md does not list the rights: %v", err)
	}
	for _, node := range c.Nodes {
		node.Do(t, append([]string{"ACL", "SETUSER", "service", "on", ">pw", "~sync:*", "&sync:!changes", "+spublish", "+ssubscribe", "+cluster"}, strings.Fields(rights)...)...)
	}
	ctx := context.Background()
	cfg := syncengine.Config{SQLURL: testserver.SharedMariaDB(t).NewDatabase(t), RedisURL: "redis://service:pw@" + strings.Join(c.Addrs(), ",")}
	a, b := lab.Open(t, cfg), lab.Open(t, cfg)
	lab.Eventually(t, "both listen", func() bool { return a.Stats().PushListens && b.Stats().PushListens })
	for n := range 100 {
		lab.Put(t, a, strconv.Itoa(n), 1, archived)
		lab.WantContent(t, b, strconv.Itoa(n), 1)
	}
	lab.Must(t, a.Delete(ctx, "7", archived))
	if r, err := b.Verify(ctx, syncengine.VerifyOptions{Repair: true}); err != nil || !r.InSync || !a.Health(ctx).L2.OK {
		t.Errorf("%+v %v", r, err)
	}
	for _, node := range c.Nodes {
		node.Do(t, "ACL", "SETUSER", "service", "-evalsha", "-spublish")
	}
	cfg.Dir = t.TempDir()
	if e, err := syncengine.Open(ctx, cfg); !errors.Is(err, syncengine.ErrSetup) || !strings.Contains(err.Error(), "ACL SETUSER service +evalsha") {
		_ = e.Close()
		t.Error(err)
	}
}

func TestSentinelsFailOverUnderLoad(t *testing.T) {
	g := testserver.RedisSentinels(t)
	l := start(pair(t, g.URL()), redisIDs, archived)
	l.run(t, 3000)
	began := time.Now()
	l.forgiven.Store(began.Add(30 * time.Second).UnixNano())
	first := g.Master(t)
	first.Kill()
	lab.Eventually(t, "another master is chosen", func() bool { return g.Master(t) != first })
	l.forgiven.Store(time.Now().Add(noticed).UnixNano())
	took := healthy(t, l.engines, began)
	l.run(t, 1000)
	time.Sleep(noticed)
	l.run(t, 1000)
	l.end(t, took)
}
