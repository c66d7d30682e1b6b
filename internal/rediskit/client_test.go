package rediskit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/syncengine-go/syncengine/internal/testserver"
)

func TestGetTellsAbsentFromEmptyFromWrongType(t *testing.T) {
	srv := testserver.Redis(t)
	c, _ := connect(t, srv.URL())
	srv.Do(t, "SET", "full", "x\x00\r\ny")
	srv.Do(t, "SET", "empty", "")
	srv.Do(t, "RPUSH", "list", "1")
	ctx := within(t, 5*time.Second)
	keys := []string{"full", "absent", "empty", "list", "full"}
	wantErr := []error{nil, ErrAbsent, nil, ErrWrongType, nil}
	want := []string{"x\x00\r\ny", "", "", "", "x\x00\r\ny"}
	many, errs, err := c.GetMany(ctx, keys)
	if err != nil {
		t.Fatal(err)
	}
	for i, key := range keys {
		b, err := c.Get(ctx, key)
		if err != wantErr[i] || string(b) != want[i] || (b == nil) != (err != nil) {
			t.Errorf("get %s: %q %v", key, b, err)
		}
		wantClass(t, err, Answered, "")
		if err == ErrAbsent {
			err = nil
		}
		if errs[i] != err || string(many[i]) != want[i] || (many[i] == nil) != (b == nil) {
			t.Errorf("get many %s: %q %v", key, many[i], errs[i])
		}
	}
	if vals, errs, err := c.GetMany(ctx, nil); vals != nil || errs != nil || err != nil {
		t.Error("no keys, but an answer")
	}
}

func TestDeleteIfEqualDeletesOnlyWhatWasSeen(t *testing.T) {
	srv := testserver.Redis(t)
	c, _ := connect(t, srv.URL())
	ctx := within(t, 5*time.Second)
	for _, tc := range []struct {
		setup   []string
		old     []byte
		deleted bool
	}{
		{[]string{"SET", "k", "seen\x00"}, []byte("seen\x00"), true},
		{[]string{"SET", "k", "repaired"}, []byte("seen"), false},
		{[]string{"SET", "k", ""}, []byte{}, true},
		{[]string{"SET", "k", "x"}, []byte{}, false},
		{[]string{"SET", "k", "x"}, nil, false},
		{[]string{"SET", "k", ""}, nil, false},
		{[]string{"DEL", "k"}, nil, false},
		{[]string{"DEL", "k"}, []byte{}, false},
		{[]string{"RPUSH", "k", "1"}, nil, true},
		{[]string{"HSET", "k", "f", "1"}, []byte("x"), false},
		{[]string{"HSET", "k", "f", "1"}, []byte{}, false},
	} {
		srv.Do(t, "DEL", "k")
		srv.Do(t, tc.setup...)
		before := srv.Do(t, "EXISTS", "k")
		deleted, err := c.DeleteIfEqual(ctx, "k", tc.old)
		if err != nil || deleted != tc.deleted {
			t.Errorf("%v with old %q: %v %v", tc.setup, tc.old, deleted, err)
		}
		if after := srv.Do(t, "EXISTS", "k"); (after != before) != tc.deleted {
			t.Errorf("%v with old %q: exists %s, then %s", tc.setup, tc.old, before, after)
		}
		srv.Do(t, "SCRIPT", "FLUSH")
	}
}

func TestScanTakesThePrefixLiterally(t *testing.T) {
	srv := testserver.Redis(t)
	c, rdb := connect(t, srv.URL())
	ctx := within(t, 10*time.Second)
	prefixes := []string{"sync:", `a*?[b]\c:`, "*", "?", "[a-z]", `\`, `\*`, "^", "[^a]", "é", "\xff", ""}
	for _, prefix := range prefixes {
		for i := range 25 {
			rdb.Set(ctx, fmt.Sprint(prefix, "key", i), "v", 0)
		}
	}
	// Keys that an unescaped prefix would match as well.
	for _, key := range []string{"sync", "aXXb\\c:key", "ab\\c:key1", "Xkey1", "akey1", "bkey1", "zkey1"} {
		rdb.Set(ctx, key, "v", 0)
	}
	all := rdb.Keys(ctx, "*").Val()
	for _, prefix := range prefixes {
		var want []string
		for _, key := range all {
			if strings.HasPrefix(key, prefix) {
				want = append(want, key)
			}
		}
		slices.Sort(want)
		for _, count := range []int{0, 3} {
			if got := scan(t, c, prefix, count); !slices.Equal(got, want) {
				t.Errorf("scan %q: %d keys, want %d", prefix, len(got), len(want))
			}
		}
	}
	stop, n := errors.New("enough"), 0
	if err := c.Scan(ctx, "sync:", 1, func([]string) error { n++; return stop }); err != stop || n != 1 {
		t.Errorf("fn ended the scan: %v after %d calls", err, n)
	}
}

// scan collects keys, sorted, each once.
func scan(t *testing.T, c *Client, prefix string, count int) []string {
	t.Helper()
	var keys []string
	err := c.Scan(within(t, 20*time.Second), prefix, count, func(page []string) error {
		if len(page) == 0 {
			t.Error("empty page")
		}
		keys = append(keys, page...)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

func TestPingAndInfo(t *testing.T) {
	srv := testserver.Redis(t, "--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lru")
	c, _ := connect(t, srv.URL())
	ctx := within(t, 5*time.Second)
	if err := c.Ping(ctx); err != nil {
		t.Fatal(err)
	}
	servers, err := c.Info(ctx)
	if err != nil || len(servers) != 1 {
		t.Fatalf("info: %v %v", servers, err)
	}
	s := servers[0]
	if s.Version == "" || s.Role != "master" || s.UsedMemory == 0 || s.MaxMemory != 64<<20 || s.MaxMemoryPolicy != "allkeys-lru" || s.Loading {
		t.Errorf("info: %+v", s)
	}
	srv.Kill()
	for range 2 {
		err = c.Ping(ctx)
	}
	wantClass(t, err, Outage, "refused")
	_, err = c.Info(ctx)
	wantClass(t, err, Outage, "refused")
}

func TestSentinelLeadsToTheMaster(t *testing.T) {
	s := testserver.RedisSentinel(t)
	c, _ := connect(t, "redis://"+s.Addr()+"/3?master_name="+s.MasterName)
	put(t, c, Value{Key: "k", Bytes: ranked(1, 0, 0, "x")})
	wantGet(t, c, "k", ranked(1, 0, 0, "x"))
	if info := s.Master.Do(t, "INFO", "keyspace"); !strings.Contains(info, "db3:keys=1") {
		t.Errorf("not in database 3 of the master: %s", info)
	}

	if _, bad, err := c.Digest(within(t, 5*time.Second), "", Pages{}); err != nil || len(bad) != 1 || bad[0] != "k" { // it has no sum
		t.Errorf("digest: %v, unreadable %q", err, bad)
	}

	// A sentinel that does not know the master answers nil: that is no absent key.
	other, _ := connect(t, "redis://"+s.Addr()+"?master_name=nobody")
	_, err := other.Get(within(t, 5*time.Second), "k")
	wantClass(t, err, Outage, "sentinel")
	vals, errs, err := other.GetMany(within(t, 5*time.Second), []string{"k"})
	wantClass(t, err, Outage, "sentinel")
	if vals[0] != nil || errs[0] == nil {
		t.Errorf("get many: %v %v", vals, errs)
	}

	s.Process.Kill()
	away, _ := connect(t, "redis://"+s.Addr()+"?master_name="+s.MasterName)
	_, err = away.Get(within(t, 5*time.Second), "k")
	wantClass(t, err, Outage, "")
}

func TestFrozenSentinelCostsTheDeadline(t *testing.T) {
	c, _ := connect(t, "redis://"+listen(t)+"?master_name=m&dial_timeout=1s&read_timeout=1s")
	start := time.Now()
	_, err := c.Get(within(t, 150*time.Millisecond), "k")
	if d := time.Since(start); d > time.Second {
		t.Errorf("took %v", d)
	}
	wantClass(t, err, Outage, "timeout")
}

func TestTLSToAPlainServerIsAnOutage(t *testing.T) {
	srv := testserver.Redis(t)
	for _, options := range []string{"", "?insecure_skip_verify=true"} {
		c, _ := connect(t, "rediss://"+srv.Addr()+options)
		_, err := c.Get(within(t, 300*time.Millisecond), "k") // the server waits for the end of a line
		wantClass(t, err, Outage, "")
	}
	c, _ := connect(t, "rediss://"+listen(t)+"?dial_timeout=1s") // handshake is never answered
	start := time.Now()
	_, err := c.Get(within(t, 150*time.Millisecond), "k")
	if d := time.Since(start); d > 900*time.Millisecond {
		t.Errorf("took %v", d)
	}
	wantClass(t, err, Outage, "timeout")
}

func TestRefusalsOfTheServerAreOutages(t *testing.T) {
	const secret = "c4n4ry"
	auth := testserver.Redis(t, "--requirepass", "right")
	plain := testserver.Redis(t)
	for _, tc := range []struct {
		url, reason string
	}{
		{"redis://" + auth.Addr(), "noauth"},
		{"redis://:" + secret + "@" + auth.Addr(), "wrongpass"},
		{"redis://" + secret + ":" + secret + "@" + plain.Addr(), "wrongpass"},
		{"redis://" + plain.Addr() + "/99", "db"},
		{"redis://" + plain.Addr() + "?cluster=true", "nocluster"},
	} {
		c, _ := connect(t, tc.url)
		_, err := c.Get(within(t, 5*time.Second), "k")
		wantClass(t, err, Outage, tc.reason)
		noSecret(t, err, secret)
		_, err = c.Put(within(t, 5*time.Second), []Value{{Key: "k", Bytes: ranked(1, 0, 0, "")}})
		wantClass(t, err, Outage, tc.reason)
		noSecret(t, err, secret)
		vals, errs, err := c.GetMany(within(t, 5*time.Second), []string{"k", "l"})
		wantClass(t, err, Outage, tc.reason)
		if vals[0] != nil || vals[1] != nil || errs[0] == nil || errs[1] == nil {
			t.Errorf("%s: get many took a refusal for an answer: %q %v", tc.reason, vals, errs)
		}
		wantClass(t, c.Ping(within(t, 5*time.Second)), Outage, tc.reason)
	}
	c, _ := connect(t, auth.URL())
	put(t, c, Value{Key: "k", Bytes: ranked(1, 0, 0, "")})

	auth.Do(t, "ACL", "SETUSER", "reader", "on", ">pw", "+@read", "+@connection", "+@scripting", "~*")
	reader, _ := connect(t, "redis://reader:pw@"+auth.Addr())
	errs, err := reader.Put(within(t, 5*time.Second), []Value{{Key: "k", Bytes: ranked(2, 0, 0, "")}, {Key: "k", Bytes: ranked(0, 0, 0, "")}})
	wantClass(t, err, Outage, "noperm")
	if len(errs) != 2 || errs[0] == nil || errs[1] != nil {
		t.Errorf("a value of lower rank needs no permission to write: %v", errs)
	}
}

// TestServerThatEchoesArgumentsKeepsThePassword: a server that does not know
// AUTH or HELLO quotes its arguments in the error.
func TestServerThatEchoesArgumentsKeepsThePassword(t *testing.T) {
	const secret = "c4n4ry"
	srv := testserver.Redis(t, "--rename-command", "AUTH", "", "--rename-command", "HELLO", "", "--rename-command", "EVAL", "",
		"--rename-command", "EVALSHA", "")
	for _, user := range []string{"", "u"} {
		c, _ := connect(t, "redis://"+user+":"+secret+"@"+srv.Addr())
		ctx := within(t, 5*time.Second)
		_, err := c.Get(ctx, "k")
		noSecret(t, err, secret)
		wantClass(t, err, Other, "unsupported")
		noSecret(t, c.Ping(ctx), secret)
		_, _, err = c.GetMany(ctx, []string{"k"})
		noSecret(t, err, secret)
	}
	c, _ := connect(t, "redis://"+srv.Addr())
	errs, err := c.Put(within(t, 5*time.Second), []Value{{Key: "k", Bytes: ranked(1, 0, 0, secret)}})
	wantClass(t, err, Other, "unsupported")
	noSecret(t, err, secret)
	noSecret(t, errs[0], secret)
}

// noSecret looks through an error and everything it wraps.
func noSecret(t *testing.T, err error, secret string) {
	t.Helper()
	if err == nil {
		t.Error("no error")
		return
	}
	var walk func(error)
	walk = func(err error) {
		for _, text := range []string{err.Error(), fmt.Sprintf("%+v", err), fmt.Sprintf("%#v", err), Reason(err)} {
			if strings.Contains(text, secret) {
				t.Errorf("%q holds the password", text)
			}
		}
		switch e := err.(type) {
		case interface{ Unwrap() []error }:
			for _, err := range e.Unwrap() {
				walk(err)
			}
		case interface{ Unwrap() error }:
			if err := e.Unwrap(); err != nil {
				walk(err)
			}
		}
	}
	walk(err)
}

func TestReadOnlyReplicaIsAnOutageForWrites(t *testing.T) {
	master, replica := testserver.Redis(t), testserver.Redis(t)
	host, port, _ := strings.Cut(master.Addr(), ":")
	replica.Do(t, "REPLICAOF", host, port)
	c, _ := connect(t, replica.URL())
	errs, err := c.Put(within(t, 5*time.Second), []Value{{Key: "k", Bytes: ranked(1, 0, 0, "")}})
	if len(errs) != 1 || errs[0] == nil {
		t.Errorf("errs %v", errs)
	}
	if r := Reason(err); Classify(err) != Outage || (r != "readonly" && r != "loading" && r != "masterdown") {
		t.Errorf("%v is %v/%s", err, Classify(err), r)
	}
}

func TestFailedDiskIsAnOutageForWrites(t *testing.T) {
	srv := testserver.Redis(t, "--save", "3600 1", "--stop-writes-on-bgsave-error", "yes", "--dbfilename", "none")
	c, _ := connect(t, srv.URL())
	put(t, c, Value{Key: "k", Bytes: ranked(1, 0, 0, "")})
	breakDisk(t, srv)
	errs, err := c.Put(within(t, 5*time.Second), []Value{{Key: "k", Bytes: ranked(2, 0, 0, "")}})
	wantClass(t, err, Outage, "misconf")
	if len(errs) != 1 || errs[0] == nil {
		t.Errorf("errs %v", errs)
	}
	wantGet(t, c, "k", ranked(1, 0, 0, ""))
	wantClass(t, c.Ping(within(t, 5*time.Second)), Outage, "misconf")
}

func TestCancelledCallerIsNotAnOutage(t *testing.T) {
	srv := testserver.Redis(t)
	c, _ := connect(t, srv.URL())
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := c.Get(ctx, "k")
	wantClass(t, err, CallerGone, "canceled")
	_, err = c.Put(ctx, []Value{{Key: "k", Bytes: ranked(1, 0, 0, "")}})
	wantClass(t, err, CallerGone, "canceled")
	_, _, err = c.GetMany(ctx, []string{"k"})
	wantClass(t, err, CallerGone, "canceled")
	wantClass(t, c.Ping(ctx), CallerGone, "canceled")
	if n := srv.Do(t, "EXISTS", "k"); n != "0" {
		t.Error("stored for a caller that was gone")
	}
}

func TestClosedClientIsNotAnOutage(t *testing.T) {
	srv := testserver.Redis(t)
	rdb, err := Open(srv.URL())
	if err != nil {
		t.Fatal(err)
	}
	c := New(rdb, rankPrefix, rankWidth)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = c.Get(within(t, time.Second), "k")
	wantClass(t, err, Other, "closed")
}

func TestHonoursDeadlines(t *testing.T) {
	careless := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"})
	defer careless.Close()
	if HonoursDeadlines(careless) {
		t.Error("a client without ContextTimeoutEnabled")
	}
	for _, url := range []string{"redis://127.0.0.1:1", "redis://127.0.0.1:1?cluster=true", "redis://127.0.0.1:1?master_name=m"} {
		if _, rdb := connect(t, url); !HonoursDeadlines(rdb) {
			t.Errorf("%s: %T does not", url, rdb)
		}
	}
}

func TestDeleteRemovesWhateverTheKeysHold(t *testing.T) {
	srv := testserver.Redis(t)
	c, _ := connect(t, srv.URL())
	srv.Do(t, "SET", "a", "x")
	srv.Do(t, "RPUSH", "{b}", "x")
	srv.Do(t, "SET", "kept", "x")
	ctx := within(t, 5*time.Second)
	for range 2 { // a repeat is harmless
		if err := c.Delete(ctx, []string{"a", "{b}", "absent"}); err != nil {
			t.Fatal(err)
		}
	}
	if keys := srv.Do(t, "KEYS", "*"); keys != "kept" {
		t.Errorf("left: %q", keys)
	}
	stranger, _ := connect(t, "redis://u:wrong@"+srv.Addr())
	wantClass(t, stranger.Delete(ctx, []string{"kept"}), Outage, "wrongpass")
}
