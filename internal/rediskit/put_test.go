package rediskit

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine/internal/faultproxy"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

func TestPutKeepsTheHigherRank(t *testing.T) {
	srv := testserver.Redis(t)
	c, rdb := connect(t, srv.URL())
	low, mid := ranked(0x1aa, 0, 0xab, "low"), ranked(0x1ab, 0, 0xaa, "mid")
	cases := []struct {
		name            string
		held, put, want []byte
	}{
		{"absent", nil, low, low},
		{"newer", low, mid, mid},
		{"older", mid, low, mid},
		{"equal version, higher state", mid, ranked(0x1ab, 1, 0, "del"), ranked(0x1ab, 1, 0, "del")},
		{"equal version, lower state", ranked(0x1ab, 1, 0, "del"), mid, ranked(0x1ab, 1, 0, "del")},
		{"tie, larger hash", mid, ranked(0x1ab, 0, 0xab, "x"), ranked(0x1ab, 0, 0xab, "x")},
		{"tie, smaller hash", mid, ranked(0x1ab, 0, 0xa9, "x"), mid},
		{"digit against letter", ranked(0x9, 0, 0, "9"), ranked(0xa, 0, 0, "a"), ranked(0xa, 0, 0, "a")},
		{"largest version", ranked(1<<64-1, 0, 0, "max"), mid, ranked(1<<64-1, 0, 0, "max")},
		{"equal, truncated body", mid[:rankWidth+3], mid, mid},
		{"equal, only a rank", mid[:rankWidth], mid, mid},
		{"rank cut short", ranked(1<<64-1, 9, 9, "")[:rankWidth-1], low, low},
		{"empty string", []byte{}, low, low},
		{"garbage", []byte("\xff\x00garbagezzzzzzzzzzzzzzzzzzzz, long enough to hold a rank"), low, low},
		{"foreign JSON", []byte(`{"Rank":"zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz"}`), low, low},
	}
	for i, tc := range cases {
		key := "k" + strconv.Itoa(i)
		if tc.held != nil {
			rdb.Set(within(t, time.Second), key, tc.held, 0)
		}
		put(t, c, Value{Key: key, Bytes: tc.put})
		if got, _ := c.Get(within(t, time.Second), key); string(got) != string(tc.want) {
			t.Errorf("%s: holds %q, want %q", tc.name, got, tc.want)
		}
	}
}

func TestPutReplacesOtherTypes(t *testing.T) {
	srv := testserver.Redis(t)
	c, _ := connect(t, srv.URL())
	srv.Do(t, "RPUSH", "list", "1")
	srv.Do(t, "HSET", "hash", "f", "1")
	srv.Do(t, "SADD", "set", "1")
	srv.Do(t, "ZADD", "zset", "1", "1")
	srv.Do(t, "XADD", "stream", "*", "f", "1")
	var vals []Value
	for _, key := range []string{"list", "hash", "set", "zset", "stream", "fresh"} {
		vals = append(vals, Value{Key: key, Bytes: ranked(1, 0, 0, key)})
	}
	put(t, c, vals...)
	for _, v := range vals {
		wantGet(t, c, v.Key, v.Bytes)
	}
}

func TestPutInAnyOrderEndsWithTheHighestRank(t *testing.T) {
	srv := testserver.Redis(t)
	c, _ := connect(t, srv.URL())
	seed := rand.Uint64()
	rnd := rand.New(rand.NewPCG(seed, 0))
	want := map[string][]byte{}
	var vals []Value
	for range 3000 {
		key := fmt.Sprintf("k%d", rnd.IntN(50))
		b := ranked(uint64(rnd.IntN(20))<<rnd.IntN(60), rnd.IntN(2), uint32(rnd.IntN(300)), "b")
		vals = append(vals, Value{Key: key, Bytes: b})
		if string(b) > string(want[key]) {
			want[key] = b
		}
	}
	var done sync.WaitGroup
	for part := range slices.Chunk(vals, 1000) { // concurrent writers, duplicates in one call
		done.Go(func() {
			if _, err := c.Put(within(t, 10*time.Second), part); err != nil {
				t.Error(err)
			}
		})
	}
	done.Wait()
	for key, b := range want {
		if got, _ := c.Get(within(t, time.Second), key); string(got) != string(b) {
			t.Errorf("seed %d: %s holds %q, want %q", seed, key, got, b)
		}
	}
}

// TestRankIgnoresTheServersLocale starts a server in a Danish locale, where "aa"
// sorts after "ab".
func TestRankIgnoresTheServersLocale(t *testing.T) {
	localedef, err := exec.LookPath("localedef")
	if err != nil {
		t.Skip("SKIPPED: no localedef on this machine")
	}
	dir := t.TempDir()
	if out, err := exec.Command(localedef, "-i", "da_DK", "-f", "UTF-8", dir+"/da_DK.UTF-8").CombinedOutput(); err != nil {
		t.Skipf("SKIPPED: no Danish locale on this machine: %v %s", err, out)
	}
	t.Setenv("LOCPATH", dir)
	t.Setenv("LC_ALL", "da_DK.UTF-8")
	srv := testserver.Redis(t)
	if srv.Do(t, "EVAL", "return tostring('aa' < 'ab')", "0") == "true" {
		t.Skip("SKIPPED: the server does not follow the locale")
	}
	c, _ := connect(t, srv.URL())
	older, newer := ranked(0x10aa, 0, 0, "older"), ranked(0x10ab, 0, 0, "newer")
	put(t, c, Value{Key: "k", Bytes: older})
	put(t, c, Value{Key: "k", Bytes: newer})
	wantGet(t, c, "k", newer)
	put(t, c, Value{Key: "k", Bytes: older})
	wantGet(t, c, "k", newer)
}

func TestPutOf5000ValuesIsOneRoundTrip(t *testing.T) {
	srv := testserver.Redis(t)
	c, _ := connect(t, srv.URL())
	put(t, c, Value{Key: "warm", Bytes: ranked(1, 0, 0, "")}) // connects and loads the script
	vals := make([]Value, 5000)
	keys := make([]string, len(vals))
	for i := range vals {
		keys[i] = fmt.Sprintf("k%d", i)
		vals[i] = Value{Key: keys[i], Bytes: ranked(uint64(i), 0, 0, strings.Repeat("x", i%700))}
	}
	before := calls(t, srv, "evalsha")
	put(t, c, vals...)
	if n := calls(t, srv, "evalsha") - before; n != len(vals)/chunkValues {
		t.Errorf("%d script calls for %d values, want %d", n, len(vals), len(vals)/chunkValues)
	}
	if n := calls(t, srv, "eval"); n != 1 { // the warm-up
		t.Errorf("%d EVAL calls, want 1", n)
	}
	got, errs, err := c.GetMany(within(t, 10*time.Second), keys)
	if err != nil {
		t.Fatal(err)
	}
	for i := range vals {
		if errs[i] != nil || string(got[i]) != string(vals[i].Bytes) {
			t.Fatalf("value %d: %q %v", i, got[i], errs[i])
		}
	}
}

// calls reads how often a command ran from INFO commandstats.
func calls(t testing.TB, srv *testserver.Server, command string) int {
	t.Helper()
	_, after, _ := strings.Cut(srv.Do(t, "INFO", "commandstats"), "cmdstat_"+command+":calls=")
	n, _ := strconv.Atoi(after[:max(0, strings.IndexByte(after, ','))])
	return n
}

func TestChunksAreBoundedByCountAndBytes(t *testing.T) {
	c := New(nil, rankPrefix, rankWidth)
	big := append(ranked(1, 0, 0, ""), make([]byte, chunkBytes/2)...)
	huge := append(ranked(1, 0, 0, ""), make([]byte, 3*chunkBytes)...)
	vals := make([]Value, 0, 260)
	for range 250 {
		vals = append(vals, Value{Key: "k", Bytes: ranked(1, 0, 0, "")})
	}
	for _, b := range [][]byte{huge, big, big, []byte("no rank"), big} {
		vals = append(vals, Value{Key: "k", Bytes: b})
	}
	var bad []int
	got := c.chunks(vals, func(i int) { bad = append(bad, i) })
	want := []chunk{{0, 100}, {100, 200}, {200, 250}, {250, 251}, {251, 252}, {252, 253}, {254, 255}}
	if !slices.Equal(got, want) || !slices.Equal(bad, []int{253}) {
		t.Errorf("chunks %v bad %v, want %v [253]", got, bad, want)
	}
	c.spread = true
	if got := c.chunks(vals, func(int) {}); len(got) != len(vals)-1 || slices.ContainsFunc(got, func(ch chunk) bool { return ch.hi-ch.lo != 1 }) {
		t.Errorf("on a cluster: %d chunks for %d values", len(got), len(vals)-1)
	}
}

func TestPutSurvivesScriptFlush(t *testing.T) {
	srv := testserver.Redis(t)
	c, _ := connect(t, srv.URL())
	for round := range 3 {
		vals := make([]Value, 350)
		for i := range vals {
			vals[i] = Value{Key: fmt.Sprint(i), Bytes: ranked(uint64(round), 0, 0, "b")}
		}
		put(t, c, vals...)
		wantGet(t, c, "349", vals[349].Bytes)
		srv.Do(t, "SCRIPT", "FLUSH")
	}
}

func TestPutSetsAndClearsTTL(t *testing.T) {
	srv := testserver.Redis(t)
	c, _ := connect(t, srv.URL())
	put(t, c,
		Value{Key: "minute", Bytes: ranked(1, 0, 0, ""), TTL: time.Minute},
		Value{Key: "never", Bytes: ranked(1, 0, 0, "")},
		Value{Key: "short", Bytes: ranked(1, 0, 0, ""), TTL: time.Nanosecond}, // 1 ms, not "invalid expire"
		Value{Key: "cleared", Bytes: ranked(1, 0, 0, ""), TTL: time.Minute})
	put(t, c, Value{Key: "cleared", Bytes: ranked(1, 0, 0, "")})
	if ms, _ := strconv.Atoi(srv.Do(t, "PTTL", "minute")); ms < 50_000 || ms > 60_000 {
		t.Errorf("TTL of a minute is %d ms", ms)
	}
	if ms := srv.Do(t, "PTTL", "short"); ms == "-1" {
		t.Error("a TTL below a millisecond became no expiry")
	}
	for _, key := range []string{"never", "cleared"} {
		if ms := srv.Do(t, "PTTL", key); ms != "-1" {
			t.Errorf("%s expires in %s ms", key, ms)
		}
	}
}

func TestPutKeepsOddKeysApart(t *testing.T) {
	srv := testserver.Redis(t)
	c, _ := connect(t, srv.URL())
	checkOddKeys(t, c)
}

func checkOddKeys(t *testing.T, c *Client) {
	t.Helper()
	vals := make([]Value, len(oddKeys))
	for i, key := range oddKeys {
		vals[i] = Value{Key: "sync:" + key, Bytes: ranked(uint64(i), 0, 0, strconv.Itoa(i))}
	}
	put(t, c, vals...)
	for _, v := range vals {
		wantGet(t, c, v.Key, v.Bytes)
	}
}

func TestPutNamesValuesThatWereNeverSent(t *testing.T) {
	srv := testserver.Redis(t)
	c, _ := connect(t, srv.URL())
	good := ranked(1, 0, 0, "good")
	vals := []Value{
		{Key: "a", Bytes: good}, {Key: "b", Bytes: []byte("no rank, however long it may be, and it is long enough")},
		{Key: "c", Bytes: good[:rankWidth-1]}, {Key: "d", Bytes: nil}, {Key: "e", Bytes: good, TTL: -1}, {Key: "f", Bytes: good},
	}
	errs, err := c.Put(within(t, time.Second), vals)
	wantClass(t, err, Other, "badvalue")
	for i, v := range vals {
		if bad := i != 0 && i != 5; bad != errors.Is(errs[i], ErrBadValue) {
			t.Errorf("%s: %v", v.Key, errs[i])
		}
	}
	wantGet(t, c, "f", good)
	if n := srv.Do(t, "DBSIZE"); n != "2" {
		t.Errorf("%s keys, want 2", n)
	}
	if errs, err := c.Put(within(t, time.Second), nil); errs != nil || err != nil {
		t.Errorf("empty put: %v %v", errs, err)
	}
	if err := New(c.rdb, "longer than the width", 3).putOne(t, good); !errors.Is(err, ErrBadValue) {
		t.Errorf("impossible rank: %v", err)
	}
}

func (c *Client) putOne(t *testing.T, b []byte) error {
	_, err := c.Put(within(t, time.Second), []Value{{Key: "k", Bytes: b}})
	return err
}

// TestPutTellsFailedKeysFromProcessedOnes runs out of memory part-way through a
// script: what it says was processed must be there, and what it says was not
// must not be taken for stored.
func TestPutTellsFailedKeysFromProcessedOnes(t *testing.T) {
	srv := testserver.Redis(t, "--maxmemory", "8mb", "--maxmemory-policy", "noeviction")
	c, _ := connect(t, srv.URL())
	newest := ranked(1<<40, 0, 0, "newest")
	put(t, c, Value{Key: "newest", Bytes: newest})
	vals := []Value{{Key: "newest", Bytes: ranked(1, 0, 0, "old")}}
	for i := range 12 {
		vals = append(vals, Value{Key: fmt.Sprint("k", i), Bytes: append(ranked(1, 0, 0, ""), make([]byte, 700_000)...)})
	}
	// All in one script call, whatever their size.
	lone := chunk{0, len(vals)}
	errs := make([]error, len(vals))
	fail := func(i int, err error) { errs[i] = err }
	ctx := within(t, 20*time.Second)
	c.send(ctx, vals, []chunk{lone}, "eval", putSource, fail)
	c.send(ctx, vals, []chunk{lone}, "eval", putSource, fail)

	// And cut into chunks by Put itself.
	more := make([]Value, 30)
	for i := range more {
		more[i] = Value{Key: fmt.Sprint("m", i), Bytes: append(ranked(1, 0, 0, ""), make([]byte, 300_000)...)}
	}
	moreErrs, err := c.Put(ctx, append(more, vals[0]))
	wantClass(t, err, Outage, "oom")
	if moreErrs == nil || moreErrs[30] != nil {
		t.Errorf("a value that lost to a higher rank needs no memory: %v", moreErrs)
	}
	errs, vals = append(errs, moreErrs...), append(vals, append(more, vals[0])...)

	failed := 0
	for i, v := range vals {
		n, _ := strconv.Atoi(srv.Do(t, "STRLEN", v.Key))
		switch {
		case v.Key == "newest":
			if errs[i] != nil {
				t.Errorf("newest: %v", errs[i])
			}
		case errs[i] == nil && n != len(v.Bytes):
			t.Errorf("%s: said to be processed, holds %d bytes", v.Key, n)
		case errs[i] != nil:
			failed++
			wantClass(t, errs[i], Outage, "oom")
			if n != 0 {
				t.Errorf("%s: failed with %v, but holds %d bytes", v.Key, errs[i], n)
			}
		}
	}
	if failed == 0 || failed == len(vals) {
		t.Errorf("%d of %d failed: the server was not filled part-way", failed, len(vals))
	}
	wantGet(t, c, "newest", newest)
}

func TestSwallowedAndCutRepliesAreHarmless(t *testing.T) {
	srv := testserver.Redis(t)
	proxy := faultproxy.New(t, srv.Addr())
	c, _ := connect(t, "redis://"+proxy.Addr())
	vals := make([]Value, 300)
	for i := range vals {
		vals[i] = Value{Key: fmt.Sprint(i), Bytes: ranked(2, 0, 0, "new")}
	}
	proxy.SwallowReplies(true)
	errs, err := c.Put(within(t, 5*time.Second), vals)
	wantClass(t, err, Outage, "")
	for i := range vals {
		if errs == nil || errs[i] == nil {
			t.Fatalf("value %d is said to be processed, but nobody heard so", i)
		}
	}
	proxy.SwallowReplies(false)
	put(t, c, vals...)
	put(t, c, vals...)
	for i := range vals {
		vals[i].Bytes = ranked(1, 0, 0, "old")
	}
	for _, n := range []int64{1, 100, 1000, 20_000, 40_000} { // breaks anywhere in the request
		proxy.CutAfter(n)
		if _, err := c.Put(within(t, 5*time.Second), vals); err != nil {
			wantClass(t, err, Outage, "")
		}
	}
	proxy.CutAfter(-1)
	wantGet(t, c, "0", ranked(2, 0, 0, "new"))
	wantGet(t, c, "299", ranked(2, 0, 0, "new"))
}

func TestFrozenServerCostsTheDeadline(t *testing.T) {
	srv := testserver.Redis(t)
	c, _ := connect(t, srv.URL())
	ctx := within(t, 10*time.Second)
	put(t, c, Value{Key: "k", Bytes: ranked(1, 0, 0, "")})
	if err := c.Ping(ctx); err != nil {
		t.Fatal(err)
	}
	srv.Stop()
	for _, run := range []struct {
		name string
		call func(ctx context.Context) error
	}{
		{"put", func(ctx context.Context) error {
			errs, err := c.Put(ctx, []Value{{Key: "k", Bytes: ranked(2, 0, 0, "")}})
			if len(errs) != 1 || errs[0] == nil {
				t.Errorf("put: %v", errs)
			}
			return err
		}},
		{"get", func(ctx context.Context) error { _, err := c.Get(ctx, "k"); return err }},
		{"get many", func(ctx context.Context) error {
			vals, errs, err := c.GetMany(ctx, []string{"k", "l"})
			if vals[0] != nil || errs[0] == nil || errs[1] == nil {
				t.Errorf("get many: %v %v", vals, errs)
			}
			return err
		}},
		{"delete", func(ctx context.Context) error { _, err := c.DeleteIfEqual(ctx, "k", nil); return err }},
		{"scan", func(ctx context.Context) error { return c.Scan(ctx, "", 0, func([]string) error { return nil }) }},
		{"ping", c.Ping},
	} {
		start := time.Now()
		err := run.call(within(t, 150*time.Millisecond))
		if d := time.Since(start); d > time.Second || d < 100*time.Millisecond {
			t.Errorf("%s took %v", run.name, d)
		}
		wantClass(t, err, Outage, "timeout")
	}
	srv.Resume()
	if _, err := c.Get(within(t, 10*time.Second), "k"); err != nil {
		t.Errorf("after resume: %v", err)
	}
}

func TestPutUsesTheServerAgainAfterRestart(t *testing.T) {
	srv := testserver.Redis(t)
	c, _ := connect(t, srv.URL())
	put(t, c, Value{Key: "k", Bytes: ranked(1, 0, 0, "")})
	srv.Kill()
	start := time.Now()
	errs, err := c.Put(within(t, 5*time.Second), []Value{{Key: "k", Bytes: ranked(2, 0, 0, "")}})
	for range 2 { // the first may see the old connection end
		wantClass(t, err, Outage, "")
		if len(errs) != 1 || errs[0] == nil {
			t.Errorf("errs %v", errs)
		}
		errs, err = c.Put(within(t, 5*time.Second), []Value{{Key: "k", Bytes: ranked(2, 0, 0, "")}})
	}
	wantClass(t, err, Outage, "refused")
	if d := time.Since(start); d > time.Second {
		t.Errorf("a dead server cost %v: somebody retries", d)
	}
	srv.Restart() // empty, and without the script
	put(t, c, Value{Key: "k", Bytes: ranked(2, 0, 0, "")})
	wantGet(t, c, "k", ranked(2, 0, 0, ""))
}
