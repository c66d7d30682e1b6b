package rediskit

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine/internal/testserver"
)

// TestCluster starts one cluster, which takes seconds, for all it has to prove.
func TestCluster(t *testing.T) {
	t.Parallel()
	cl := testserver.RedisCluster(t, 3)
	// One address is enough, said or repeated in any form.
	one, _ := connect(t, "redis://"+cl.Addrs()[0]+"?cluster=true")
	// As many failed dials as a pool has places make go-redis look for the node in the background,
	// up to a second beyond Close: a large pool never does.
	url := "redis://" + strings.Join(cl.Addrs(), ",") + "?pool_size=1000"
	c, rdb := connect(t, url)
	digesting, _ := digestClient(t, url)
	repeated, _ := connect(t, "redis://"+cl.Addrs()[0]+"?addr="+cl.Addrs()[1])

	t.Run("odd keys", func(t *testing.T) { checkOddKeys(t, c) })

	vals := make([]Value, 2000)
	keys := make([]string, len(vals))
	for i := range vals {
		keys[i] = fmt.Sprintf("many:{%d}:%d", i%700, i)
		vals[i] = Value{Key: keys[i], Bytes: ranked(2, 0, 0, keys[i])}
	}
	t.Run("many slots", func(t *testing.T) {
		put(t, c, vals...)
		for i, node := range cl.Nodes {
			if n := node.Do(t, "DBSIZE"); n == "0" {
				t.Errorf("node %d holds nothing", i)
			}
		}
		got, errs, err := one.GetMany(within(t, 10*time.Second), keys)
		if err != nil {
			t.Fatal(err)
		}
		for i := range keys {
			if errs[i] != nil || string(got[i]) != string(vals[i].Bytes) {
				t.Fatalf("%s: %q %v", keys[i], got[i], errs[i])
			}
		}
	})
	t.Run("scripts lost on one node", func(t *testing.T) {
		cl.Nodes[1].Do(t, "SCRIPT", "FLUSH")
		older := slices.Clone(vals)
		for i := range older {
			older[i].Bytes = ranked(1, 0, 0, "older")
		}
		put(t, repeated, older...)
		wantGet(t, c, keys[7], vals[7].Bytes)
	})
	t.Run("wrong type and delete", func(t *testing.T) {
		ctx := within(t, 10*time.Second)
		for i := range 20 {
			rdb.LPush(ctx, fmt.Sprintf("list%d", i), "x")
		}
		for i := range 10 {
			key := fmt.Sprintf("list%d", i)
			if ok, err := c.DeleteIfEqual(ctx, key, nil); !ok || err != nil {
				t.Errorf("delete %s: %v %v", key, ok, err)
			}
			put(t, c, Value{Key: fmt.Sprintf("list%d", i+10), Bytes: ranked(1, 0, 0, "")})
		}
	})
	t.Run("scan covers every master", func(t *testing.T) {
		got := scan(t, one, "many:{", 50)
		want := slices.Sorted(slices.Values(keys))
		if !slices.Equal(got, want) {
			t.Errorf("scan found %d of %d keys", len(got), len(want))
		}
		var named []string
		err := one.ScanNames(within(t, 10*time.Second), "many:{", "0", time.Second, func(page []string) error {
			named = append(named, page...)
			return nil
		})
		for _, name := range named {
			if !strings.HasSuffix(name, "0") {
				t.Errorf("scan found %s", name)
			}
		}
		if slices.Sort(named); err != nil || len(slices.Compact(named)) != len(keys)/10 {
			t.Errorf("scan found %d names; %v", len(named), err)
		}
	})
	t.Run("info and ping of every master", func(t *testing.T) {
		servers, err := c.Info(within(t, 10*time.Second))
		if err != nil || len(servers) != 3 {
			t.Errorf("info: %v %v", servers, err)
		}
		if err := c.Ping(within(t, 10*time.Second)); err != nil {
			t.Error(err)
		}
	})
	t.Run("single client on a cluster", func(t *testing.T) {
		single, _ := connect(t, cl.Nodes[0].URL())
		errs, err := single.Put(within(t, 10*time.Second), vals[:100])
		if err == nil || len(errs) != 100 || slices.Contains(errs, nil) {
			t.Error("100 keys of many slots passed through one node")
		}
		wantClass(t, err, Other, "crossslot")
	})
	t.Run("digest", func(t *testing.T) { checkClusterDigest(t, cl, url) })
	t.Run("one node dead", func(t *testing.T) { // last: the node stays down
		cl.Nodes[2].Kill()
		newer := slices.Clone(vals)
		for i := range newer {
			newer[i].Bytes = ranked(3, 0, 0, keys[i])
		}
		errs, err := c.Put(within(t, 3*time.Second), newer)
		wantClass(t, err, Outage, "")
		processed := 0
		got, getErrs, getErr := c.GetMany(within(t, 3*time.Second), keys)
		wantClass(t, getErr, Outage, "")
		for i := range keys {
			if errs != nil && errs[i] == nil {
				processed++
				if getErrs[i] == nil && string(got[i]) != string(newer[i].Bytes) {
					t.Fatalf("%s is said to be processed, holds %q", keys[i], got[i])
				}
			}
			if getErrs[i] == nil && got[i] == nil {
				t.Fatalf("%s: an outage became an absent key", keys[i])
			}
		}
		if processed == 0 || processed == len(keys) {
			t.Errorf("%d of %d processed with one node of three dead", processed, len(keys))
		}
		wantClass(t, c.Ping(within(t, 3*time.Second)), Outage, "")
		_, _, err = digesting.Digest(within(t, 10*time.Second), "many:", Pages{Timeout: 3 * time.Second})
		wantClass(t, err, Outage, "")
	})
}
