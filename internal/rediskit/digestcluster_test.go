package rediskit

// digestcluster_test.go proves that Digest and Leaves see all masters of a Cluster, keep their
// state on each of them, and leave a key whose slot is moving to its owner. TestCluster runs it.

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/syncengine-go/syncengine/internal/digest"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

func checkClusterDigest(t *testing.T, cl *testserver.Cluster, url string) {
	c, rdb := digestClient(t, url)
	t.Run("all masters", func(t *testing.T) {
		h := hold(t, rdb, "p:", 4000)
		h.want(t, c, Pages{})
		h.want(t, c, fast)

		// Each master alone: it keeps a state under a name that it owns, and the three sum up.
		var whole digest.Set
		for _, node := range cl.Nodes {
			one, single := digestClient(t, node.URL())
			single.AddHook(&between{around: func(n int, _ *redis.Cmd, run func() error) error {
				if n == 5 && len(states(t, single)) != 1 {
					t.Errorf("states: %q", states(t, single))
				}
				return run()
			}})
			set, _, err := one.Digest(within(t, 30*time.Second), "p:", fast)
			if err != nil {
				t.Fatal(err)
			}
			for i := range set {
				whole[i].Merge(set[i])
			}
			if keys := states(t, single); len(keys) != 0 {
				t.Errorf("left behind: %q", keys)
			}
		}
		if whole != h.set {
			t.Errorf("the masters' digests differ from the whole in %d branches", len(whole.Diff(&h.set)))
		}
	})
	t.Run("all keys on one master", func(t *testing.T) { // the others can own no state
		hold(t, rdb, "{tag}:", 1000).want(t, c, fast)
	})
	t.Run("a slot that moves", func(t *testing.T) { checkMovingSlot(t, cl, c, rdb) })
}

func checkMovingSlot(t *testing.T, cl *testserver.Cluster, c *Client, rdb redis.UniversalClient) {
	h := hold(t, rdb, "mv:", 200)
	const id = "id-151"
	slot := cl.Nodes[0].Do(t, "CLUSTER", "KEYSLOT", "mv:"+id)
	from := slices.IndexFunc(cl.Nodes, func(node *testserver.Server) bool {
		return slices.Contains(strings.Split(node.Do(t, "CLUSTER", "GETKEYSINSLOT", slot, "1000"), "\n"), "mv:"+id)
	})
	old, owner := cl.Nodes[from], cl.Nodes[(from+1)%3]
	owner.Do(t, "CLUSTER", "SETSLOT", slot, "IMPORTING", old.Do(t, "CLUSTER", "MYID"))
	old.Do(t, "CLUSTER", "SETSLOT", slot, "MIGRATING", owner.Do(t, "CLUSTER", "MYID"))
	host, port, _ := strings.Cut(owner.Addr(), ":")
	for _, key := range strings.Split(old.Do(t, "CLUSTER", "GETKEYSINSLOT", slot, "1000"), "\n") {
		if reply := old.Do(t, "MIGRATE", host, port, key, "0", "5000"); reply != "OK" {
			t.Fatalf("migrate %q: %s", key, reply)
		}
	}
	set, bad, err := c.Digest(within(t, 30*time.Second), "mv:", fast)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(bad)
	// Both servers hold the slot by half: neither answers for its keys, which may be missed but
	// are not taken for damaged.
	if diff := set.Diff(&h.set); !slices.Equal(diff, []int{digest.Branch(id)}) || !slices.Equal(bad, h.bad) {
		t.Errorf("differs in branches %v, want %d; unreadable %.200q", diff, digest.Branch(id), bad)
	}
	for _, node := range append([]*testserver.Server{owner, old}, cl.Nodes...) {
		node.Do(t, "CLUSTER", "SETSLOT", slot, "NODE", owner.Do(t, "CLUSTER", "MYID"))
	}
	h.want(t, c, fast)
}

// The state is of use to one server for a moment: neither replicas nor the append-only file get it.
func TestStateOfADigestIsNotReplicated(t *testing.T) {
	srv := testserver.Redis(t, "--appendonly", "yes", "--appendfsync", "always")
	c, rdb := digestClient(t, srv.URL())
	h := hold(t, rdb, "p:", 2000)
	size := func() (sum int64) {
		files, err := filepath.Glob(filepath.Join(srv.Dir(), "appendonly*", "*"))
		if err != nil || len(files) == 0 {
			t.Fatalf("no append-only files: %v, %v", files, err)
		}
		for _, name := range files {
			info, err := os.Stat(name)
			if err != nil {
				t.Fatal(err)
			}
			sum += info.Size()
		}
		return sum
	}
	before := size()
	if err := rdb.Set(within(t, 5*time.Second), "other", "x", 0).Err(); err != nil || size() <= before {
		t.Fatalf("the file doesn't grow by a write: %v", err)
	}
	before = size()
	set, _, err := c.Digest(within(t, 30*time.Second), "p:", fast)
	if err != nil || *set != h.set {
		t.Fatalf("%v", err)
	}
	if grown := size() - before; grown > 200 { // that the key is gone
		t.Errorf("the append-only file grew by %d bytes", grown)
	}
	if n := fmt.Sprint(rdb.DBSize(within(t, 5*time.Second)).Val()); n != fmt.Sprint(2000+len(h.bad)+1) {
		t.Errorf("%s keys", n)
	}
}
