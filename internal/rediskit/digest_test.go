package rediskit

// digest_test.go proves that Digest and Leaves are exact however their walk is cut into pages,
// whatever becomes of the state it keeps on the server and whichever calls are repeated or lost. A
// hook in the client stands between the pages; the model is a digest computed here from the same
// values.

import (
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/syncengine-go/syncengine/internal/digest"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

const digestWidth = len(rankPrefix) + 16 + 1 + 1 + 1 + 64

// summed makes a value that Digest can read, and its rank.
func summed(id string, version uint64, live bool, content string) (value []byte, rank string) {
	hash, state := sha256.Sum256([]byte(content)), 0
	if !live {
		hash, state = [32]byte{}, 1
	}
	rank = fmt.Sprintf("%016x.%d.%064x", version, state, hash)
	rest := fmt.Sprintf(`","content":%s}`, content)
	sum := sha1.Sum([]byte(id + "\x00" + rank + rest))
	return fmt.Appendf(nil, "%s%s%s%x%s", rankPrefix, rank, SumMark, sum[:SumDigits/2], rest), rank
}

// digestClient is a client for such values, and the go-redis client in it.
func digestClient(t testing.TB, url string) (*Client, redis.UniversalClient) {
	t.Helper()
	_, rdb := connect(t, url)
	return New(rdb, rankPrefix, digestWidth), rdb
}

// holding is what a server holds: values by id.
type holding struct {
	prefix string
	set    digest.Set
	ranks  map[string]string // of sound values, tombstones too; "" of unreadable ones
	bad    []string
}

// hold stores n values of which some are tombstones or unreadable; the first are odd ids.
func hold(t testing.TB, rdb redis.UniversalClient, prefix string, n int) *holding {
	t.Helper()
	h := &holding{prefix: prefix, ranks: map[string]string{}}
	ctx := within(t, 30*time.Second)
	pipe := rdb.Pipeline()
	for i := range n {
		id := fmt.Sprintf("id-%d", i)
		if i < len(oddKeys) && !strings.ContainsRune(oddKeys[i], 0) {
			id = oddKeys[i]
		}
		content := fmt.Sprintf(`{"n":%d,"t":%q}`, i, strings.Repeat("x", i%300))
		value, rank := summed(id, uint64(i)<<20+1, i%7 != 3, content)
		h.ranks[id] = rank
		if i%7 != 3 {
			h.set.Add(id, digest.LeafOf(id, uint64(i)<<20+1, sha256.Sum256([]byte(content))))
		}
		pipe.Set(ctx, prefix+id, value, 0)
	}
	for i, damage := range []func(key string){
		func(key string) { pipe.Set(ctx, key, "garbage", 0) },
		func(key string) { pipe.Set(ctx, key, "", 0) },
		func(key string) { pipe.Set(ctx, key, 12345, 0) },
		func(key string) { pipe.SAdd(ctx, key, "a") },
		func(key string) { pipe.Set(ctx, key, ranked(1, 0, 0, "another width"), 0) },
	} {
		h.ranks[fmt.Sprintf("bad-%d", i)] = ""
		h.bad = append(h.bad, fmt.Sprintf("bad-%d", i))
		damage(prefix + h.bad[i])
	}
	if _, err := pipe.Exec(ctx); err != nil {
		t.Fatal(err)
	}
	return h
}

// want asserts that Digest gives exactly what is held, and Leaves that of some branches.
func (h *holding) want(t testing.TB, c *Client, pages Pages) {
	t.Helper()
	set, bad, err := c.Digest(within(t, 60*time.Second), h.prefix, pages)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(bad)
	if diff := set.Diff(&h.set); len(diff) != 0 || !slices.Equal(bad, h.bad) {
		t.Fatalf("differs in %d branches; unreadable %.200q, want %.200q", len(diff), bad, h.bad)
	}
	h.wantLeaves(t, c, pages)
}

func (h *holding) wantLeaves(t testing.TB, c *Client, pages Pages) {
	t.Helper()
	var branches []int
	want := map[string]string{}
	for id := range h.ranks {
		if b := digest.Branch(id); b%5 == 0 || b == digest.Branch("bad-0") {
			branches = append(branches, b)
			want[id] = h.ranks[id]
		}
	}
	leaves, err := c.Leaves(within(t, 60*time.Second), h.prefix, branches, pages)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, leaf := range leaves {
		got[leaf.ID] = leaf.Rank
	}
	if !maps.Equal(got, want) || len(leaves) != len(want) {
		t.Fatalf("%d leaves of %d ids, want %d", len(leaves), len(got), len(want))
	}
}

// between stands around every script call of a client. around gets the number of the call, from 0,
// and may run it any number of times.
type between struct {
	calls  atomic.Int64
	begun  atomic.Int64 // calls that began a walk
	within atomic.Int64 // calls with a deadline
	around func(n int, cmd *redis.Cmd, run func() error) error
}

func (h *between) DialHook(next redis.DialHook) redis.DialHook { return next }
func (h *between) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (h *between) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		script, ok := cmd.(*redis.Cmd)
		if !ok || cmd.Name() != "evalsha" {
			return next(ctx, cmd)
		}
		if cmd.Args()[5] == "0" { // its cursor
			h.begun.Add(1)
		}
		if _, ok := ctx.Deadline(); ok {
			h.within.Add(1)
		}
		return h.around(int(h.calls.Add(1)-1), script, func() error { return next(ctx, cmd) })
	}
}

// states are the keys in which walks keep their sums.
func states(t testing.TB, rdb redis.UniversalClient) []string {
	t.Helper()
	keys, err := rdb.Keys(within(t, 5*time.Second), "*"+stateMark+"digest:*").Result()
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

var fast = Pages{NoRest: true, Work: 1} // a page is one step

func TestDigestIsExactHoweverItIsCutIntoPages(t *testing.T) {
	srv := testserver.Redis(t)
	c, rdb := digestClient(t, srv.URL())
	h := hold(t, rdb, "p:", 3000)
	hold(t, rdb, "another:", 500)
	for name, pages := range map[string]Pages{
		"the usual": {}, "with a timeout": {Timeout: time.Minute}, "a step a page": fast, "all in one": {Work: 1 << 30}, "two steps, with rests": {Work: 10_000},
	} {
		t.Run(name, func(t *testing.T) {
			h.want(t, c, pages)
			if keys := states(t, rdb); len(keys) != 0 {
				t.Errorf("left behind: %q", keys)
			}
		})
	}
	empty := &holding{prefix: "nothing:", ranks: map[string]string{"id-0": ""}}
	set, bad, err := c.Digest(within(t, 10*time.Second), empty.prefix, Pages{})
	if err != nil || *set != (digest.Set{}) || len(bad) != 0 {
		t.Errorf("of no keys: %v, unreadable %q", err, bad)
	}
}

// What happens between two pages: to the state, to the server's scripts, to the reply.
func TestDigestIsExactWhateverBecomesOfItsState(t *testing.T) {
	drop := func(t *testing.T, rdb redis.UniversalClient) {
		keys := states(t, rdb)
		if len(keys) != 1 {
			t.Errorf("%d states: %q", len(keys), keys)
		}
		rdb.Del(within(t, 5*time.Second), keys...)
	}
	for name, around := range map[string]func(t *testing.T, srv *testserver.Server, rdb redis.UniversalClient, n int, run func() error) error{
		"it stays, but not for ever": func(t *testing.T, _ *testserver.Server, rdb redis.UniversalClient, n int, run func() error) error {
			if n == 5 {
				keys := states(t, rdb)
				if len(keys) != 1 || !strings.HasPrefix(keys[0], "p:") {
					t.Errorf("states: %q", keys)
				} else if ttl := rdb.PTTL(within(t, 5*time.Second), keys[0]).Val(); ttl <= 0 || ttl > 5*time.Minute {
					t.Errorf("it lives for %v", ttl)
				}
			}
			return run()
		},
		"evicted": func(t *testing.T, _ *testserver.Server, rdb redis.UniversalClient, n int, run func() error) error {
			if n == 5 {
				drop(t, rdb)
			}
			return run()
		},
		"overwritten": func(t *testing.T, srv *testserver.Server, rdb redis.UniversalClient, n int, run func() error) error {
			if n == 5 {
				srv.Do(t, "SET", states(t, rdb)[0], "x")
			}
			return run()
		},
		"of another type": func(t *testing.T, srv *testserver.Server, rdb redis.UniversalClient, n int, run func() error) error {
			if n == 5 {
				key := states(t, rdb)[0]
				drop(t, rdb)
				srv.Do(t, "RPUSH", key, "x")
			}
			return run()
		},
		"every call is repeated, as after a lost reply": func(_ *testing.T, _ *testserver.Server, _ redis.UniversalClient, _ int, run func() error) error {
			if err := run(); err != nil {
				return err
			}
			return run()
		},
		"one call is repeated": func(_ *testing.T, _ *testserver.Server, _ redis.UniversalClient, n int, run func() error) error {
			if n == 6 {
				_ = run() // the reply that was lost
			}
			return run()
		},
		"memory runs full": func(t *testing.T, srv *testserver.Server, _ redis.UniversalClient, n int, run func() error) error {
			if n == 5 {
				srv.Do(t, "CONFIG", "SET", "maxmemory", "1")
			}
			return run()
		},
		"the scripts are gone": func(t *testing.T, srv *testserver.Server, _ redis.UniversalClient, n int, run func() error) error {
			if n%3 == 0 {
				srv.Do(t, "SCRIPT", "FLUSH")
			}
			return run()
		},
	} {
		t.Run(name, func(t *testing.T) {
			srv := testserver.Redis(t)
			c, rdb := digestClient(t, srv.URL())
			h := hold(t, rdb, "p:", 2000)
			hook := &between{around: func(n int, _ *redis.Cmd, run func() error) error { return around(t, srv, rdb, n, run) }}
			rdb.AddHook(hook)
			h.want(t, c, fast)
			if n := hook.calls.Load(); n < 20 {
				t.Errorf("only %d pages: nothing was tested", n)
			}
			if n := hook.begun.Load(); name == "memory runs full" && n != 2 {
				t.Errorf("%d walks for one Digest and one Leaves: what was summed up was thrown away", n)
			}
		})
	}
}

// Where no state can be kept, the walk does without.
func TestDigestNeedsNoPermissionToWrite(t *testing.T) {
	for name, deny := range map[string]func(t *testing.T, srv *testserver.Server) (url string){
		"a reader": func(t *testing.T, srv *testserver.Server) string {
			srv.Do(t, "ACL", "SETUSER", "reader", "on", ">pw", "+@read", "+@connection", "+@scripting", "~*")
			return "redis://reader:pw@" + srv.Addr()
		},
		"full": func(t *testing.T, srv *testserver.Server) string {
			srv.Do(t, "CONFIG", "SET", "maxmemory", "1")
			return srv.URL()
		},
		"a replica": func(t *testing.T, srv *testserver.Server) string {
			srv.Do(t, "REPLICAOF", "127.0.0.1", "1")
			return srv.URL()
		},
		"too few replicas": func(t *testing.T, srv *testserver.Server) string {
			srv.Do(t, "CONFIG", "SET", "min-replicas-to-write", "1")
			return srv.URL()
		},
	} {
		t.Run(name, func(t *testing.T) {
			srv := testserver.Redis(t)
			_, writer := digestClient(t, srv.URL())
			h := hold(t, writer, "p:", 2000)
			c, rdb := digestClient(t, deny(t, srv))
			hook := &between{around: func(n int, _ *redis.Cmd, run func() error) error {
				if n == 5 && len(states(t, writer)) != 0 {
					t.Error("a state was kept: nothing was tested")
				}
				return run()
			}}
			rdb.AddHook(hook)
			if h.want(t, c, fast); hook.begun.Load() != 2 {
				t.Errorf("%d walks for one Digest and one Leaves", hook.begun.Load())
			}
		})
	}
	t.Run("no permission to read either", func(t *testing.T) {
		srv := testserver.Redis(t)
		_, writer := digestClient(t, srv.URL())
		hold(t, writer, "p:", 10)
		srv.Do(t, "ACL", "SETUSER", "stranger", "on", ">pw", "+scan", "+@connection", "+@scripting", "~*")
		c, _ := digestClient(t, "redis://stranger:pw@"+srv.Addr())
		_, _, err := c.Digest(within(t, 10*time.Second), "p:", fast)
		wantClass(t, err, Outage, "noperm")
		_, err = c.Leaves(within(t, 10*time.Second), "p:", []int{digest.Branch("bad-0")}, fast)
		wantClass(t, err, Outage, "noperm")
	})
}

// Large values are read one by one, so that no page lasts long, and are in the digest all the same.
func TestLargeValuesHavePagesOfTheirOwn(t *testing.T) {
	t.Parallel()
	srv := testserver.Redis(t)
	c, rdb := digestClient(t, srv.URL())
	h := hold(t, rdb, "p:", 300)
	ctx := within(t, 30*time.Second)
	for i, size := range []int{wholeLimit - 1, wholeLimit, wholeLimit + 1, 3 * wholeLimit, 1 << 20, 5 << 20} {
		for k := range 5 {
			id := fmt.Sprintf("large-%d-%d", i, k)
			value, _ := summed(id, 7, true, `""`)
			content := `"` + strings.Repeat("y", size-len(value)) + `"`
			value, rank := summed(id, 7, true, content)
			if len(value) != size {
				t.Fatalf("%d bytes, want %d", len(value), size)
			}
			if k == 4 {
				value[size/2]++
				rank = ""
				h.bad = append(h.bad, id)
			} else {
				h.set.Add(id, digest.LeafOf(id, 7, sha256.Sum256([]byte(content))))
			}
			h.ranks[id] = rank
			if err := rdb.Set(ctx, "p:"+id, value, 0).Err(); err != nil {
				t.Fatal(err)
			}
		}
	}
	h.want(t, c, Pages{})
	h.want(t, c, fast)

	// Gone, or of another type, since the page that named it.
	named := 0
	rdb.AddHook(&between{around: func(_ int, cmd *redis.Cmd, run func() error) error {
		if args := cmd.Args(); args[5] == "" && named == 0 {
			named = len(args) - 8
			srv.Do(t, "DEL", "p:large-3-0", "p:large-3-1")
			srv.Do(t, "RPUSH", "p:large-3-1", "x")
		}
		return run()
	}})
	for _, id := range []string{"large-3-0", "large-3-1"} {
		value, err := rdb.Get(ctx, "p:"+id).Bytes()
		if err != nil {
			t.Fatal(err)
		}
		content := value[strings.Index(string(value), `"content":`)+len(`"content":`) : len(value)-1]
		h.set.Remove(id, digest.LeafOf(id, 7, sha256.Sum256(content)))
	}
	h.bad = append(h.bad, "large-3-1")
	slices.Sort(h.bad)
	h.ranks["large-3-1"] = ""
	delete(h.ranks, "large-3-0")
	h.want(t, c, fast)
	if named != 25 {
		t.Errorf("%d values were named to be read alone, want 25", named)
	}
}

// A scan may deliver a key twice; Leaves names it once, and so does Digest if it is unreadable.
func TestAKeyIsNamedOnceHoweverOftenItIsSeen(t *testing.T) {
	c, rdb := digestClient(t, testserver.Redis(t).URL())
	h := hold(t, rdb, "p:", 500)
	rdb.AddHook(&between{around: func(_ int, cmd *redis.Cmd, run func() error) error {
		err := run()
		if list, ok := cmd.Val().([]any); ok {
			for at := 1; at < len(list)-3; at++ { // rows and unreadable ids
				if rows, ok := list[at].([]any); ok {
					list[at] = append(rows, rows...)
				}
			}
		}
		return err
	}})
	h.want(t, c, fast)
	if leaves, err := c.Leaves(within(t, 5*time.Second), "p:", nil, fast); err != nil || leaves != nil {
		t.Errorf("of no branches: %v, %v", leaves, err)
	}
}

func TestPagesEndAtTheirTimeoutAndTheWalkWithItsCaller(t *testing.T) {
	srv := testserver.Redis(t)
	c, rdb := digestClient(t, srv.URL())
	hold(t, rdb, "p:", 2000)
	calls := map[string]func(ctx context.Context, pages Pages) error{
		"digest": func(ctx context.Context, pages Pages) error { _, _, err := c.Digest(ctx, "p:", pages); return err },
		"leaves": func(ctx context.Context, pages Pages) error {
			_, err := c.Leaves(ctx, "p:", []int{1, 2, 3}, pages)
			return err
		},
	}
	var cancel context.CancelFunc
	hook := &between{}
	hook.around = func(n int, _ *redis.Cmd, run func() error) error {
		err := run()
		if n == 3 {
			cancel()
		}
		return err
	}
	rdb.AddHook(hook)
	for name, call := range calls {
		for _, pages := range []Pages{fast, {Work: 1}} {
			var ctx context.Context
			ctx, cancel = context.WithCancel(within(t, 30*time.Second))
			hook.calls.Store(0)
			err := call(ctx, pages)
			if wantClass(t, err, CallerGone, "canceled"); hook.calls.Load() != 4 {
				t.Errorf("%s went on for %d pages after its caller left", name, hook.calls.Load()-4)
			}
			cancel()
		}
		hook.calls.Store(1000) // no page cancels any more
		hook.within.Store(0)
		if err := call(context.Background(), Pages{Timeout: time.Minute, NoRest: true}); err != nil {
			t.Error(err)
		}
		if all := hook.calls.Load() - 1000; all == 0 || hook.within.Load() != all {
			t.Errorf("%d of %d pages of %s have a deadline", hook.within.Load(), all, name)
		}
	}
	srv.Stop()
	for _, call := range calls {
		wantClass(t, call(within(t, 30*time.Second), Pages{Timeout: 100 * time.Millisecond}), Outage, "timeout")
	}
	srv.Kill()
	for _, call := range calls {
		wantClass(t, call(within(t, 30*time.Second), Pages{Timeout: time.Second}), Outage, "")
	}
}
