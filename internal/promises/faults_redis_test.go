package promises

// faults_redis_test.go takes Redis away in every way it can go, under an engine that goes on
// working: absent, killed, frozen, refusing, emptied, damaged, its replies lost. Every test
// has the same end: no call failed, every id read back is the newest, and Redis, looked at
// from outside, holds what SQL holds. Real servers, real clients; wires break in a proxy.

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/faultproxy"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

func TestRedisAbsentAtOpenIsUsedOnceItComes(t *testing.T) {
	ctx := context.Background()
	server := testserver.Redis(t)
	server.Kill()
	cfg := small(t, server.URL())
	e := lab.Open(t, cfg)
	want := numbered(500, 1)
	want.write(t, e)
	lab.Must(t, e.Flush(ctx))
	want.read(t, e)
	if h := e.Health(ctx); h.L2.OK || h.L2.Error == "" || !h.Ready {
		t.Errorf("Health without Redis: ready %v, %+v", h.Ready, h.L2)
	}
	server.Restart()
	rdb := lab.RedisAt(t, server.URL())
	want.wantRepaired(t, e, cfg, rdb)
	lab.Put(t, e, "later", 7)
	lab.Must(t, e.Flush(ctx))
	if ids := (contents{"later": 7}).differsIn(t, rdb); len(ids) > 0 {
		t.Error("a later write did not reach Redis")
	}
}

// TestRedisKilledUnderLoadAndRestartedEmptyIsRefilled: no caller notices, no read is stale.
func TestRedisKilledUnderLoadAndRestartedEmptyIsRefilled(t *testing.T) {
	ctx := context.Background()
	server := testserver.Redis(t)
	cfg := small(t, server.URL())
	cfg.BatchFlushInterval = 2 * time.Millisecond
	e := lab.Open(t, cfg)
	want := make(contents)
	var order sync.Mutex
	kills := 0
	load(t, e, 160, 40, want, func(ops int64) {
		order.Lock()
		defer order.Unlock()
		switch ops % 250 {
		case 50:
			server.Kill()
			kills++
		case 150:
			server.Restart()
		}
	})
	server.Restart() // empty once more
	lab.Must(t, e.Flush(ctx))
	want.read(t, e)
	lab.Eventually(t, "Redis is looked at again", func() bool { return e.Health(ctx).L2.OK && e.Stats().L2Missed == 0 })
	r, err := e.Verify(ctx, syncengine.VerifyOptions{Repair: true})
	if err != nil || r.Repaired != len(r.Divergent) {
		t.Errorf("Verify: %d of %d repaired, %v", r.Repaired, len(r.Divergent), err)
	}
	want.wantRepaired(t, e, cfg, lab.RedisAt(t, server.URL()))
	if kills < 5 {
		t.Errorf("Redis was killed %d times", kills)
	}
}

// TestRepliesLostAndRequestsCutShortAreHarmless breaks the wire after every possible number
// of bytes that matters, and loses replies to what was executed.
func TestRepliesLostAndRequestsCutShortAreHarmless(t *testing.T) {
	ctx := context.Background()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	server := testserver.Redis(t)
	proxy := faultproxy.New(t, server.Addr())
	cfg := small(t, lab.Via(t, server.URL(), proxy))
	cfg.BatchFlushInterval = time.Hour // batches of what a round wrote
	e := lab.Open(t, cfg)
	want := numbered(500, 0)
	want.write(t, e)
	lab.Must(t, e.Flush(ctx))
	cuts := []int64{0, 1, 2, 3, 10, 13, 14, 15, 50, 200, 500, 1000, 2000, 5000, 10_000, 15_000, 20_000}
	for range 27 {
		cuts = append(cuts, rng.Int64N(25_000))
	}
	for n, k := range cuts {
		e.Health(ctx) // closes the breaker if the round before has opened it
		if n%4 == 3 {
			proxy.SwallowReplies(true)
		} else {
			proxy.CutAfter(k)
		}
		round := make(contents)
		for range 60 {
			id := fmt.Sprint("id-", rng.IntN(500))
			if round[id] = n + 1; rng.IntN(5) == 0 {
				round[id] = -1
			}
		}
		round.write(t, e)
		lab.Must(t, e.Flush(ctx))
		maps.Copy(want, round)
		round.read(t, e)
		for range 20 { // and some that are not in memory
			id := fmt.Sprint("id-", rng.IntN(500))
			lab.WantContent(t, e, id, want[id])
		}
		proxy.SwallowReplies(false)
		proxy.CutAfter(-1)
	}
	if n := proxy.Connections(); n < len(cuts)/2 { // each broken one was replaced
		t.Errorf("%d connections were made, of %d wires broken", n, len(cuts))
	}
	want.wantRepaired(t, e, cfg, lab.RedisAt(t, server.URL()))
}

// TestRedisThatRefusesIsReportedAndNeverReadStale has Redis refuse in all the ways a healthy
// looking server does, while half of what it holds is overwritten.
func TestRedisThatRefusesIsReportedAndNeverReadStale(t *testing.T) {
	for _, fault := range redisFaults {
		t.Run(fault.code, func(t *testing.T) {
			t.Parallel() // they wait more than they work
			ctx := context.Background()
			server := testserver.Redis(t, fault.args...)
			cfg := small(t, server.URL())
			e := lab.Open(t, cfg)
			want := numbered(500, 1)
			want.write(t, e)
			lab.Must(t, e.Flush(ctx))
			mend := fault.strike(t, server, lab.RedisAt(t, server.URL()))
			changed := numbered(300, 2)
			lab.Eventually(t, "the fault is there", func() bool {
				changed.write(t, e) // no caller's write fails
				lab.Must(t, e.Flush(ctx))
				return e.Stats().L2Missed != 0
			})
			maps.Copy(want, changed)
			want.read(t, e)
			if p := e.Health(ctx).L2; p.OK || !strings.Contains(p.Error, fault.code) {
				t.Errorf("Health says OK %v, %q; want it to name %s", p.OK, p.Error, fault.code)
			}
			want.read(t, e)
			mend()
			lab.Eventually(t, "Health is well again", func() bool { return e.Health(ctx).L2.OK })
			want.wantRepaired(t, e, cfg, lab.RedisAt(t, server.URL()))
		})
	}
}

// redisFaults bring a Redis into a state in which it answers with code, and out of it.
var redisFaults = []struct {
	code   string
	args   []string
	strike func(t *testing.T, server *testserver.Server, rdb redis.UniversalClient) (mend func())
}{
	{code: "OOM", strike: func(t *testing.T, server *testserver.Server, _ redis.UniversalClient) func() {
		server.Do(t, "CONFIG", "SET", "maxmemory-policy", "noeviction")
		server.Do(t, "CONFIG", "SET", "maxmemory", "1")
		return func() { server.Do(t, "CONFIG", "SET", "maxmemory", "0") }
	}},
	{code: "READONLY", strike: func(t *testing.T, server *testserver.Server, _ redis.UniversalClient) func() {
		server.Do(t, "REPLICAOF", "127.0.0.1", "1") // of nobody: it keeps and serves what it has
		return func() { server.Do(t, "REPLICAOF", "NO", "ONE") }
	}},
	{code: "NOAUTH", strike: func(t *testing.T, server *testserver.Server, rdb redis.UniversalClient) func() {
		conn := rdb.(*redis.Client).Conn() // let in before there was a password
		t.Cleanup(func() { _ = conn.Close() })
		lab.NoError(t, "requirepass", conn.ConfigSet(lab.Bounded(t), "requirepass", lab.CanaryWord).Err())
		lab.NoError(t, "client kill", conn.ClientKillByFilter(lab.Bounded(t), "TYPE", "normal", "SKIPME", "yes").Err())
		return func() { lab.NoError(t, "requirepass", conn.ConfigSet(lab.Bounded(t), "requirepass", "").Err()) }
	}},
	{code: "MISCONF", args: []string{"--save", "3600 1", "--stop-writes-on-bgsave-error", "yes", "--dbfilename", "none"},
		strike: func(t *testing.T, server *testserver.Server, _ redis.UniversalClient) func() {
			bgsave := func(status string) {
				server.Do(t, "BGSAVE")
				lab.Eventually(t, "the snapshot ends with "+status, func() bool {
					return strings.Contains(server.Do(t, "INFO", "persistence"), "rdb_last_bgsave_status:"+status)
				})
			}
			inTheWay := filepath.Join(server.Dir(), "none")
			lab.Must(t, os.Mkdir(inTheWay, 0o700)) // where the snapshot belongs
			bgsave("err")
			return func() {
				lab.Must(t, os.Remove(inTheWay))
				bgsave("ok")
			}
		}},
	// Loading its dump takes long enough to be seen, 10 ms for each key, and is hurried in the end.
	{code: "LOADING", args: []string{"--key-load-delay", "10000", "--loading-process-events-interval-bytes", "1024"},
		strike: func(t *testing.T, server *testserver.Server, rdb redis.UniversalClient) func() {
			server.Do(t, "SAVE")
			server.Kill()
			loaded := make(chan struct{})
			go func() {
				defer close(loaded)
				server.Restart() // returns when all is loaded
			}()
			lab.Eventually(t, "it is loading", func() bool {
				err := rdb.Ping(lab.Bounded(t)).Err()
				return err != nil && strings.Contains(err.Error(), "LOADING")
			})
			return func() {
				server.Do(t, "CONFIG", "SET", "key-load-delay", "0")
				<-loaded
			}
		}},
}

// TestFlushedAndThinnedOutRedisIsNeverInSyncByMistake empties Redis, or takes random keys out
// of it, under load. When the load is over Verify must name exactly what is missing, as seen
// from outside, and repair it.
func TestFlushedAndThinnedOutRedisIsNeverInSyncByMistake(t *testing.T) {
	ctx := context.Background()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 2))
	server := testserver.Redis(t)
	rdb := lab.RedisAt(t, server.URL())
	cfg := small(t, server.URL())
	cfg.BatchFlushInterval = time.Millisecond
	e := lab.Open(t, cfg)
	want := make(contents)
	found := 0
	for round := range 3 {
		flushAt := int64(rng.IntN(500))
		load(t, e, 75, 40, want, func(ops int64) {
			switch {
			case ops == flushAt && round%2 == 0:
				server.Do(t, "FLUSHALL")
			case ops%3 == 0:
				lab.NoError(t, "del", rdb.Del(ctx, fmt.Sprintf("sync:w%d-%d", ops%8, ops%40)).Err())
			}
			if ops%200 == 0 { // a comparison in the midst of it fails nobody
				_, err := e.Verify(ctx, syncengine.VerifyOptions{Repair: round%3 == 0})
				lab.Must(t, err)
			}
		})
		lab.Must(t, e.Flush(ctx))
		// A copy that was read from SQL may still be on its way, and take the place of what has
		// been deleted here meanwhile: then what is missing before the look and after it differ,
		// and it is repeated. What stays is what counts.
		var missing []string
		lab.Eventually(t, "Verify names what is missing, no more and no less", func() bool {
			before := want.differsIn(t, rdb)
			r, err := e.Verify(ctx, syncengine.VerifyOptions{})
			lab.Must(t, err)
			missing = want.differsIn(t, rdb)
			if r.InSync != (len(r.Divergent) == 0) {
				t.Errorf("round %d: in sync %v, and divergent are %v", round, r.InSync, r.Divergent)
			}
			return subset(missing, r.Divergent) && subset(r.Divergent, before)
		})
		if r, err := e.Verify(ctx, syncengine.VerifyOptions{Repair: true}); err != nil || r.Repaired != len(r.Divergent) {
			t.Errorf("round %d: %d of %d repaired, %v", round, r.Repaired, len(r.Divergent), err)
		}
		found += len(missing)
		want.wantRepaired(t, e, cfg, rdb)
	}
	if found == 0 {
		t.Error("nothing was ever missing")
	}
}

// A full cache drops one value for another, so filling it would drive out what is read for what
// is not. What it holds is still compared.
func TestAFullCacheIsCorrectedInTheBackgroundButNotFilled(t *testing.T) {
	ctx := context.Background()
	server := testserver.Redis(t, "--maxmemory-policy", "allkeys-lru")
	rdb := lab.RedisAt(t, server.URL())
	cfg := small(t, server.URL())
	cfg.VerifyInterval = 20 * time.Millisecond
	passes := make(chan syncengine.VerifyReport)
	cfg.OnEvent.Verified = func(r syncengine.VerifyReport) {
		select {
		case passes <- r:
		default: // nobody waits for it
		}
	}
	e := lab.Open(t, cfg)
	want := numbered(5, 1)
	want.write(t, e)
	lab.Must(t, e.Flush(ctx))
	old, err := rdb.Get(ctx, "sync:id-1").Result()
	lab.Must(t, err)
	lab.Must(t, e.Submit(ctx, syncengine.Item{ID: "id-1", Content: lab.Doc("id-1", 2)}))
	lab.Must(t, e.Flush(ctx))
	lab.Must(t, rdb.Set(ctx, "ballast", make([]byte, 32<<20), 0).Err()) // or a twentieth were less than what connections take
	info, err := rdb.InfoMap(ctx, "memory").Result()
	lab.Must(t, err)
	used, err := strconv.Atoi(info["Memory"]["used_memory"])
	lab.Must(t, err)
	lab.Must(t, rdb.ConfigSet(ctx, "maxmemory", strconv.Itoa(used+used/20)).Err())
	lab.Must(t, rdb.Set(ctx, "sync:id-1", old, 0).Err())
	lab.Must(t, rdb.Del(ctx, "sync:id-0").Err())
	for pass := 0; ; pass++ {
		r := <-passes
		if slices.Equal(r.Divergent, []string{"id-0"}) && r.Repaired == 0 {
			break // id-1 is corrected, id-0 is left alone
		}
		if pass > 200 {
			t.Fatalf("the 200th pass: %+v", r)
		}
	}
	if missing := (contents{"id-0": 1, "id-1": 2}).differsIn(t, rdb); !slices.Equal(missing, []string{"id-0"}) {
		t.Errorf("differ in Redis: %v", missing)
	}
	lab.Must(t, rdb.ConfigSet(ctx, "maxmemory", "0").Err())
	lab.Eventually(t, "it is filled once there is room", func() bool {
		return len((contents{"id-0": 1, "id-1": 2}).differsIn(t, rdb)) == 0
	})
}

func subset(part, whole []string) bool {
	return !slices.ContainsFunc(part, func(id string) bool { return !slices.Contains(whole, id) })
}

// TestINV03TheSlowerOfTwoEnginesDoesNotWinInRedis lets one engine's write to Redis hang in the
// wire until another engine has written the same ids: once within its timeout, once after it,
// when the request arrives although its sender has given it up (TRAPS 28).
func TestINV03TheSlowerOfTwoEnginesDoesNotWinInRedis(t *testing.T) {
	ctx := context.Background()
	for name, timeout := range map[string]time.Duration{"in time": time.Minute, "given up": 50 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := testserver.Redis(t)
			rdb := lab.RedisAt(t, server.URL())
			proxy := faultproxy.New(t, server.Addr())
			defer proxy.Release() // Close waits for what is held
			slowCfg := syncengine.Config{SQLURL: "sqlite:" + filepath.Join(t.TempDir(), "l3.db"), RedisURL: lab.Via(t, server.URL(), proxy), L2Timeout: timeout, BatchFlushInterval: time.Hour}
			slow := lab.Open(t, slowCfg)
			fastCfg := another(t, slowCfg)
			fastCfg.RedisURL, fastCfg.L2Timeout = server.URL(), time.Minute
			fast := lab.Open(t, fastCfg)
			numbered(50, 0).write(t, slow)
			lab.Must(t, slow.Flush(ctx)) // connected
			proxy.Hold()
			numbered(50, 1).write(t, slow)
			flushed := make(chan error, 1)
			go func() { flushed <- slow.Flush(ctx) }()
			lab.Eventually(t, "SQL has the slow one's ops", func() bool {
				st, err := fast.Status(ctx, "id-0")
				lab.Must(t, err)
				return st.VersionL3 > st.VersionL2
			})
			if timeout < time.Second { // the request is in the wire, and nobody waits for it
				lab.Must(t, <-flushed)
				flushed <- nil
			}
			want := make(contents)
			for id := range numbered(50, 0) {
				if want[id] = 2; id == "id-7" || id == "id-4" {
					want[id] = -1
				}
			}
			want.write(t, fast)
			lab.Must(t, fast.Flush(ctx))
			proxy.Release()
			lab.Must(t, <-flushed)
			lab.Eventually(t, "the slow one knows that Redis is well", func() bool { return slow.Health(ctx).L2.OK && slow.Stats().L2Missed == 0 })
			if ids := want.differsIn(t, rdb); len(ids) > 0 {
				t.Errorf("Redis holds something older of %v", ids)
			}
			want.wantRepaired(t, fast, fastCfg, rdb)
		})
	}
}

// TestForeignValuesInRedisAreMissesAndAreReplaced damages keys behind the engine's back: of
// another type, garbage, cut short, and the sound value of another id.
func TestForeignValuesInRedisAreMissesAndAreReplaced(t *testing.T) {
	ctx := context.Background()
	server := testserver.Redis(t)
	rdb := lab.RedisAt(t, server.URL())
	cfg := small(t, server.URL())
	writer := lab.Open(t, cfg)
	want := numbered(200, 3)
	want.write(t, writer)
	lab.Must(t, writer.Flush(ctx))
	set := func(key, value string) error { return rdb.Set(ctx, key, value, 0).Err() }
	damages := []func(key, sound, other string) error{
		func(key, _, _ string) error { return rdb.RPush(ctx, key, "a").Err() },
		func(key, _, _ string) error { return rdb.HSet(ctx, key, "a", "b").Err() },
		func(key, _, _ string) error { return set(key, "garbage") },
		func(key, _, _ string) error { return set(key, "") },
		func(key, sound, _ string) error { return set(key, sound[:90]) },
		func(key, sound, _ string) error { return set(key, strings.Replace(sound, `"n":3`, `"n":9`, 1)) },
		func(key, _, other string) error { return set(key, other) },
	}
	healed, verified := make(chan string, 1000), make(chan bool, 100)
	cfg = another(t, cfg)
	cfg.OnEvent.Healed = func(id, tier string) { healed <- tier + " " + id }
	cfg.OnEvent.Verified = func(syncengine.VerifyReport) { verified <- true }
	reader := lab.Open(t, cfg)
	<-verified // else it would find the damage before the reads do
	damaged := 0
	for n := 0; n < 200; n += 5 { // of each five the fourth is a sound neighbour, the fifth deleted
		for i := range 3 {
			key, other := fmt.Sprint("sync:id-", n+i), fmt.Sprint("sync:id-", n+3)
			sound := rdb.Get(ctx, key).Val()
			lab.Must(t, rdb.Del(ctx, key).Err())
			lab.Must(t, damages[damaged%len(damages)](key, sound, rdb.Get(ctx, other).Val()))
			damaged++
		}
	}
	for n := 0; n < 100; n++ {
		lab.WantContent(t, reader, fmt.Sprint("id-", n), want[fmt.Sprint("id-", n)])
	}
	var ids []string
	for n := 100; n < 200; n++ {
		ids = append(ids, fmt.Sprint("id-", n))
	}
	items, err := reader.GetMany(ctx, ids)
	lab.Must(t, err)
	for i, id := range ids {
		if it := items[i]; (it == nil) != (want[id] < 0) || it != nil && string(it.Content) != string(lab.Doc(id, 3)) {
			t.Errorf("GetMany of %s: %+v", id, it)
		}
	}
	if s := reader.Stats(); s.Corruptions != uint64(damaged) || s.L2Misses != uint64(damaged) {
		t.Errorf("%d keys were damaged: %d corruptions and %d misses are counted", damaged, s.Corruptions, s.L2Misses)
	}
	lab.Eventually(t, "all are healed", func() bool { return len(healed) == damaged && reader.Stats().Healed == uint64(damaged) })
	want.wantRepaired(t, reader, cfg, rdb)
}

// TestFrozenRedisIsSkippedAndUsedAgainAfterItThaws: the breaker closes without being asked.
func TestFrozenRedisIsSkippedAndUsedAgainAfterItThaws(t *testing.T) {
	ctx := context.Background()
	server := testserver.Redis(t)
	circuit := make(chan string, 100)
	cfg := small(t, server.URL())
	cfg.L2Timeout = 200 * time.Millisecond
	cfg.OnEvent.CircuitChanged = func(tier, from, to string) { circuit <- tier + " " + from + " " + to }
	var log listener
	cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
	e := lab.Open(t, cfg)
	want := numbered(500, 1)
	want.write(t, e)
	lab.Must(t, e.Flush(ctx))
	server.Stop()
	returns(t, "reading all with Redis frozen", func() { // each at its timeout would be a minute and more
		want.read(t, e)
		want.read(t, e)
	})
	if got := told(t, circuit); got != "L2 closed open" {
		t.Errorf("the circuit went %s", got)
	}
	if opened := log.line("circuit changed"); !strings.Contains(opened, "to=open error=") || !strings.Contains(opened, "redis: unavailable") {
		t.Errorf("the log says %q", opened)
	}
	server.Resume()
	if got := told(t, circuit); got != "L2 open closed" { // without being asked by anybody
		t.Errorf("the circuit went %s", got)
	}
	hits := e.Stats().L2Hits
	want.read(t, e)
	if e.Stats().L2Hits == hits {
		t.Error("Redis is back and is not read")
	}
	want.wantRepaired(t, e, cfg, lab.RedisAt(t, server.URL()))
}

// TestINV02ARedisThatComesBackWithAnOldDumpIsNotReadStale: Redis took the writes, was killed, and
// came back with what it had saved before them. Nothing was written to it meanwhile.
func TestINV02ARedisThatComesBackWithAnOldDumpIsNotReadStale(t *testing.T) {
	t.Parallel()
	for _, made := range []string{"by the engine", "by the caller", "by the caller, a ring"} {
		t.Run(made, func(t *testing.T) {
			t.Parallel()
			ctx := context.Background()
			server := testserver.Redis(t)
			cfg := small(t, server.URL())
			switch made {
			case "by the caller":
				cfg.RedisURL, cfg.Redis = "", redis.NewClient(&redis.Options{Addr: server.Addr(), ContextTimeoutEnabled: true})
			case "by the caller, a ring":
				cfg.RedisURL, cfg.Redis = "", redis.NewRing(&redis.RingOptions{Addrs: map[string]string{"one": server.Addr()}, ContextTimeoutEnabled: true})
			}
			if cfg.Redis != nil {
				t.Cleanup(func() { lab.Must(t, cfg.Redis.Close()) })
			}
			e := lab.Open(t, cfg)
			numbered(500, 1).write(t, e)
			lab.Must(t, e.Flush(ctx))
			server.Do(t, "SAVE")
			want := numbered(500, 2)
			want.write(t, e)
			lab.Must(t, e.Flush(ctx))
			server.Kill()
			server.Restart()
			if n := documentsIn(t, server); n != "500" {
				t.Fatalf("Redis came back with %s keys", n)
			}
			want.read(t, e)
			lab.Must(t, e.Close()) // nor does a restart forget it
			want.read(t, lab.Open(t, cfg))
		})
	}
}

// unasked is a client that gets no answer to INFO while it is on.
type unasked struct{ on atomic.Bool }

func (u *unasked) DialHook(next redis.DialHook) redis.DialHook { return next }

func (u *unasked) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if u.on.Load() && cmd.Name() == "info" {
			cmd.SetErr(lab.ErrAway)
			return lab.ErrAway
		}
		return next(ctx, cmd)
	}
}

func (u *unasked) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

// As long as it is not known who answers on a new connection, SQL does; but that is no failure of
// Redis, which goes on to get what is written.
func TestINV02WhoIsNotKnownIsNotRead(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	server := testserver.Redis(t)
	cfg := small(t, server.URL())
	client, ask := redis.NewClient(&redis.Options{Addr: server.Addr(), ContextTimeoutEnabled: true}), &unasked{}
	defer client.Close()
	client.AddHook(ask)
	cfg.RedisURL, cfg.Redis = "", client
	var opened atomic.Bool
	cfg.OnEvent.CircuitChanged = func(tier, from, to string) { opened.Store(true) }
	e := lab.Open(t, cfg)
	want := numbered(500, 1)
	want.write(t, e)
	lab.Must(t, e.Flush(ctx))
	hits := e.Stats().L2Hits
	want.read(t, e)
	if e.Stats().L2Hits == hits {
		t.Error("Redis is not read")
	}
	ask.on.Store(true)
	server.Do(t, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
	hits = e.Stats().L2Hits
	want.read(t, e)
	if n := e.Stats().L2Hits - hits; n > 0 || opened.Load() {
		t.Errorf("%d reads from Redis, whoever that is; a circuit changed: %v", n, opened.Load())
	}
	ask.on.Store(false)
	lab.Eventually(t, "Redis is read again", func() bool { want.read(t, e); return e.Stats().L2Hits > hits })
}

// TestINV02And04ACopyOnItsWayToRedisBringsNothingBack: copies of what was read arrive after the
// ids were written, and Redis, emptied in between, does not remember those writes.
func TestINV02And04ACopyOnItsWayToRedisBringsNothingBack(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	server := testserver.Redis(t)
	cfg := syncengine.Config{Dir: t.TempDir(), L1MaxBytes: 64 << 10, L2Timeout: time.Minute}
	before := lab.Open(t, cfg)
	contents{"changed": 1, "deleted": 1, "next": 1, "last": 1}.write(t, before)
	lab.Must(t, before.Close())
	gate, release := lab.Hold()
	defer release()
	var copies sync.Map // ids of which a copy was sent
	var armed atomic.Bool
	arrives := func(id string) {
		t.Helper()
		lab.Eventually(t, "a copy of "+id+" is sent", func() bool { _, sent := copies.Load(id); return sent })
	}
	cfg.L2 = &lab.HookedCache{
		CacheStore: lab.NewRedisStore(lab.RedisAt(t, server.URL()), "sync:", time.Hour),
		OnPut: func(_ context.Context, recs []syncengine.Record) error {
			for _, r := range recs {
				if armed.Load() && string(r.Content) == string(lab.Doc(r.ID, 1)) {
					copies.Store(r.ID, true)
					<-gate
				}
			}
			return nil
		},
	}
	// The comparison after Open copies, too, which is another matter.
	verified, once := make(chan struct{}), sync.Once{}
	cfg.OnEvent.Verified = func(syncengine.VerifyReport) { once.Do(func() { close(verified) }) }
	e := lab.Open(t, cfg)
	<-verified
	server.Do(t, "FLUSHALL")
	armed.Store(true)
	lab.WantContent(t, e, "changed", 1)
	arrives("changed")
	lab.WantContent(t, e, "deleted", 1) // its copy waits behind the first
	contents{"changed": 2, "deleted": -1}.write(t, e)
	lab.Must(t, e.Flush(ctx))
	server.Do(t, "FLUSHALL")
	release()
	for _, later := range []string{"next", "last"} { // copies go one batch after the other
		lab.WantContent(t, e, later, 1)
		arrives(later)
	}
	lab.Eventually(t, "L2 is repaired", func() bool { return e.Stats().L2Missed == 0 })
	leavesL1(t, e, "changed", func(int) {
		for n := range 20 {
			lab.Must(t, e.Submit(ctx, syncengine.Item{ID: fmt.Sprint("large-", n), Content: lab.BigDoc(4)}, syncengine.WithDurability(syncengine.Buffered)))
		}
		lab.Must(t, e.Flush(ctx))
	})
	lab.WantContent(t, e, "changed", 2)
	lab.WantContent(t, lab.Open(t, another(t, cfg)), "deleted", -1)
}
