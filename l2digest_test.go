package syncengine_test

// l2digest_test.go proves that the digest Redis computes is that of what it holds, after all the
// engine does and after all that others may do behind its back: each damage either takes the value
// out of the digest or is named as unreadable, and the digest of the rest stays exact. A plain map
// of records beside the store is the model.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/digest"
	"github.com/syncengine-go/syncengine/internal/faultproxy"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/storetest"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

// digesterAt opens stores on rdb for storetest.RunDigest, with ways to damage a value in turn.
func digesterAt(rdb redis.UniversalClient) func(t *testing.T) (storetest.Digester, func(testing.TB, string)) {
	return func(*testing.T) (storetest.Digester, func(testing.TB, string)) {
		prefix := lab.NewPrefix()
		n := 0
		return syncengine.NewRedisStore(rdb, prefix, time.Hour, false), func(t testing.TB, id string) {
			ctx := lab.Bounded(t)
			lab.NoError(t, "del", rdb.Del(ctx, prefix+id).Err())
			r := storetest.Put("of another id", 1, `1`)
			switch n++; n % 5 {
			case 0:
				lab.NoError(t, "damage", rdb.Set(ctx, prefix+id, "garbage", 0).Err())
			case 1:
				lab.NoError(t, "damage", rdb.Set(ctx, prefix+id, "", 0).Err())
			case 2:
				lab.NoError(t, "damage", rdb.HSet(ctx, prefix+id, "a", "b").Err())
			case 3:
				lab.NoError(t, "damage", rdb.Set(ctx, prefix+id, syncengine.EncodeEnvelope(&r), 0).Err())
			case 4:
				lab.NoError(t, "damage", rdb.Set(ctx, prefix+id, 12345, 0).Err()) // kept as a number
			}
		}
	}
}

func TestRedisStoreSumsUpWhatItHolds(t *testing.T) {
	t.Parallel()
	rdb := lab.RedisAt(t, testserver.SharedRedis(t).URL())
	storetest.RunDigest(t, digesterAt(rdb))
}

// The golden values were made by another program in another language, from the format in l2.go. If
// this test fails, all that Redis holds has become unreadable.
func TestFormatOfRedisValuesNeverChanges(t *testing.T) {
	put, dead := storetest.Put(`x"y`, 7, ` {"n": 1.0}`), storetest.Tombstone(`x"y`, 7)
	put.Priority, put.HomeInstanceID = syncengine.PriorityHigh, "h"
	for want, r := range map[string]syncengine.Record{
		`{"rank":"0000000000000007.0.090ffaa5e006ed37d336a21e8e1494432c0bb8609aa1a8651e12c2b0d0e488b5","sum":"de3dca6fad2f7288",` +
			`"version":7,"updated_at":"2023-11-14T22:13:20.000000007Z","priority":1,"home":"h","content": {"n": 1.0}}`: put,
		`{"rank":"0000000000000007.1.0000000000000000000000000000000000000000000000000000000000000000","sum":"756fbf97c98b0788",` +
			`"version":7,"updated_at":"2023-11-14T22:13:20.000000007Z","deleted":true}`: dead,
	} {
		if got := syncengine.EncodeEnvelope(&r); string(got) != want {
			t.Errorf("written as\n%s, want\n%s", got, want)
		}
		got, err := syncengine.DecodeEnvelope(r.ID, []byte(want))
		if field := storetest.Diff(&got, &r); err != nil || field != "" {
			t.Errorf("read: %v, %s differs", err, field)
		}
	}
}

// digestModel is what the digest should be of.
type digestModel struct {
	live       map[string]syncengine.Record
	unreadable []string
}

// want compares the digest of s with the model, and returns it.
func (m *digestModel) want(t *testing.T, s storetest.Digester) *digest.Set {
	t.Helper()
	var want digest.Set
	for id, r := range m.live {
		want.Add(id, digest.LeafOf(id, r.Version, r.ContentHash))
	}
	set, unreadable, err := s.Digest(lab.Bounded(t), time.Minute)
	lab.NoError(t, "digest", err)
	slices.Sort(unreadable)
	slices.Sort(m.unreadable)
	if diff := set.Diff(&want); len(diff) != 0 || !slices.Equal(unreadable, m.unreadable) {
		t.Errorf("differs from the model in branches %v; unreadable %q, want %q", diff, unreadable, m.unreadable)
	}
	return set
}

func TestDigestSeesWhatOthersDoToValues(t *testing.T) {
	srv := testserver.Redis(t)
	rdb := lab.RedisAt(t, srv.URL())
	const prefix = "mine:"
	s := syncengine.NewRedisStore(rdb, prefix, time.Hour, false)
	set := func(id string, value []byte) func(*testing.T, context.Context) error {
		return func(_ *testing.T, ctx context.Context) error { return rdb.Set(ctx, prefix+id, value, 0).Err() }
	}
	old, x, y := storetest.Put("x", 3, `"old"`), storetest.Put("x", 7, `{"n":1}`), storetest.Put("y", 7, `{"n":1}`)
	dead, ahead := storetest.Tombstone("dead", 7), storetest.Tombstone("dead", 1<<50)
	value := syncengine.EncodeEnvelope(&x)
	replaced := func(value []byte, from, to string) []byte {
		out := bytes.Replace(value, []byte(from), []byte(to), 1)
		if bytes.Equal(out, value) {
			t.Fatalf("%q is not in %q", from, value)
		}
		return out
	}
	for name, test := range map[string]struct {
		damage func(t *testing.T, ctx context.Context) error
		then   func(m *digestModel) // what it does to the model
	}{
		"nothing": {func(*testing.T, context.Context) error { return nil }, func(*digestModel) {}},
		"DEL":     {func(_ *testing.T, ctx context.Context) error { return rdb.Del(ctx, prefix+"x").Err() }, func(m *digestModel) { delete(m.live, "x") }},
		"expiry": {
			func(t *testing.T, ctx context.Context) error {
				err := rdb.PExpire(ctx, prefix+"x", time.Millisecond).Err()
				lab.Eventually(t, "x has expired", func() bool { return rdb.Exists(ctx, prefix+"x").Val() == 0 })
				return err
			}, func(m *digestModel) { delete(m.live, "x") },
		},
		"garbage":       {set("x", []byte("garbage")), func(m *digestModel) { delete(m.live, "x"); m.unreadable = []string{"x"} }},
		"a stale value": {set("x", syncengine.EncodeEnvelope(&old)), func(m *digestModel) { m.live["x"] = old }},
		"the value of y, with the same rank": {
			set("x", syncengine.EncodeEnvelope(&y)), func(m *digestModel) { delete(m.live, "x"); m.unreadable = []string{"x"} },
		},
		"a byte of content, the rank stays": {
			set("x", replaced(value, `"n":1`, `"n":2`)), func(m *digestModel) { delete(m.live, "x"); m.unreadable = []string{"x"} },
		},
		"the time":                      {set("x", replaced(value, `"updated_at":"2`, `"updated_at":"1`)), func(m *digestModel) { delete(m.live, "x"); m.unreadable = []string{"x"} }},
		"a digit of the rank":           {set("x", replaced(value, `{"rank":"0`, `{"rank":"1`)), func(m *digestModel) { delete(m.live, "x"); m.unreadable = []string{"x"} }},
		"a tombstone's rank":            {set("dead", replaced(syncengine.EncodeEnvelope(&dead), `{"rank":"0`, `{"rank":"1`)), func(m *digestModel) { m.unreadable = []string{"dead"} }},
		"a tombstone that is no more":   {func(_ *testing.T, ctx context.Context) error { return rdb.Del(ctx, prefix+"dead").Err() }, func(*digestModel) {}},
		"a tombstone of the future":     {set("dead", syncengine.EncodeEnvelope(&ahead)), func(*digestModel) {}},
		"an item that L3 does not have": {set("z", func() []byte { z := storetest.Put("z", 1, `1`); return syncengine.EncodeEnvelope(&z) }()), func(m *digestModel) { m.live["z"] = storetest.Put("z", 1, `1`) }},
		"another type": {
			func(_ *testing.T, ctx context.Context) error {
				rdb.Del(ctx, prefix+"x")
				return rdb.RPush(ctx, prefix+"x", "a").Err()
			}, func(m *digestModel) { delete(m.live, "x"); m.unreadable = []string{"x"} },
		},
		"FLUSHALL": {func(_ *testing.T, ctx context.Context) error { return rdb.FlushAll(ctx).Err() }, func(m *digestModel) { clear(m.live) }},
		"keys that are no ids": {
			func(_ *testing.T, ctx context.Context) error {
				return rdb.MSet(ctx, prefix, "a", prefix+"\n", "b", prefix+"\xff", "c", prefix+"\x01digest:0:1", "d").Err()
			}, func(*digestModel) {},
		},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := lab.Bounded(t)
			lab.NoError(t, "flush", rdb.FlushAll(ctx).Err())
			lab.NoError(t, "put", s.Put(ctx, []syncengine.Record{x, y, dead, storetest.Put("keep", 1, `1`)}))
			m := &digestModel{live: map[string]syncengine.Record{"x": x, "y": y, "keep": storetest.Put("keep", 1, `1`)}}
			before := m.want(t, s)
			lab.NoError(t, "damage", test.damage(t, ctx))
			live := maps.Clone(m.live)
			test.then(m)
			after := m.want(t, s)
			if changed := !maps.EqualFunc(live, m.live, func(a, b syncengine.Record) bool { return a.Version == b.Version }); changed != (*before != *after) {
				t.Errorf("the digest changed: %v, want %v", !changed, changed)
			}
		})
	}
}

// The store and the world write at random; only what is there counts.
func TestDigestOfARandomHistoryIsThatOfTheModel(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	rdb := lab.RedisAt(t, testserver.Redis(t).URL())
	s := syncengine.NewRedisStore(rdb, "h:", time.Hour, false)
	m := &digestModel{live: map[string]syncengine.Record{}}
	held := map[string]syncengine.Record{} // tombstones too
	for round := range 8 {
		for range 300 {
			r := storetest.Put(fmt.Sprintf("id-%d", rng.IntN(400)), 1+rng.Uint64N(1000), fmt.Sprint(rng.IntN(3)))
			switch rng.IntN(10) {
			case 0:
				lab.NoError(t, "del", rdb.Del(lab.Bounded(t), "h:"+r.ID).Err())
				delete(held, r.ID)
				continue
			case 1: // a value from outside, stale or not
				lab.NoError(t, "set", rdb.Set(lab.Bounded(t), "h:"+r.ID, syncengine.EncodeEnvelope(&r), 0).Err())
				held[r.ID] = r
				continue
			case 2, 3:
				r = storetest.Tombstone(r.ID, r.Version)
			}
			lab.NoError(t, "put", s.Put(lab.Bounded(t), []syncengine.Record{r}))
			if was, ok := held[r.ID]; !ok || r.Compare(&was) >= 0 {
				held[r.ID] = r
			}
		}
		m.live = maps.Clone(held)
		maps.DeleteFunc(m.live, func(_ string, r syncengine.Record) bool { return r.Deleted })
		if m.want(t, s); t.Failed() {
			t.Fatalf("in round %d", round)
		}
	}
}

// Keys beside the prefix are neither counted nor touched, and nothing of a walk remains.
func TestDigestStaysWithinItsPrefix(t *testing.T) {
	rdb := lab.RedisAt(t, testserver.Redis(t).URL())
	for _, prefix := range []string{"sync:", "*", "[ab]?:", `\`, "{tag}", "{", "}{", "{}", "a b", "é", "%d$head", "", "'\"]]"} {
		t.Run(prefix, func(t *testing.T) {
			ctx := lab.Bounded(t)
			lab.NoError(t, "flush", rdb.FlushDB(ctx).Err())
			s := syncengine.NewRedisStore(rdb, prefix, time.Hour, false)
			m := &digestModel{live: map[string]syncengine.Record{}}
			var recs []syncengine.Record
			for i := range 1500 { // several pages
				recs = append(recs, storetest.Put(fmt.Sprintf("id-%d", i), 1, `1`))
				m.live[recs[i].ID] = recs[i]
			}
			lab.NoError(t, "put", s.Put(ctx, recs))
			others := map[string]string{}
			if prefix != "" { // of which every key is
				for _, key := range []string{"other", "syn", "sync", "abc:id-1", "aX:id-1", "X", "tag}id-1"} {
					others[key] = key
					lab.NoError(t, "set", rdb.Set(ctx, key, key, time.Hour).Err())
				}
			}
			m.want(t, s)
			leaves, unreadable, err := s.Leaves(ctx, time.Minute, []int{digest.Branch("id-7")})
			if err != nil || len(unreadable) != 0 || !slices.ContainsFunc(leaves, func(l syncengine.Meta) bool { return l.ID == "id-7" }) {
				t.Errorf("leaves: %v, unreadable %q, %d leaves", err, unreadable, len(leaves))
			}
			for key, value := range others {
				if got, ttl := rdb.Get(ctx, key).Val(), rdb.PTTL(ctx, key).Val(); got != value || ttl <= 0 {
					t.Errorf("%q holds %q for %v", key, got, ttl)
				}
			}
			if n := rdb.DBSize(ctx).Val(); n != int64(len(recs)+len(others)) {
				t.Errorf("%d keys, want %d", n, len(recs)+len(others))
			}
		})
	}
}

// INV-8: a tier that can't be asked is no tier that holds nothing.
func TestINV08DigestOfAServerThatIsAwayIsAnOutage(t *testing.T) {
	srv := testserver.Redis(t)
	proxy := faultproxy.New(t, srv.Addr())
	s := syncengine.NewRedisStore(lab.RedisAt(t, "redis://"+proxy.Addr()), "p:", time.Hour, false)
	lab.NoError(t, "put", s.Put(lab.Bounded(t), []syncengine.Record{storetest.Put("a", 1, `1`)}))
	proxy.Hold()
	for name, call := range map[string]func() error{
		"digest": func() error { _, _, err := s.Digest(lab.Bounded(t), 50*time.Millisecond); return err },
		"leaves": func() error {
			_, _, err := s.Leaves(lab.Bounded(t), 50*time.Millisecond, []int{digest.Branch("a")})
			return err
		},
	} {
		if err := call(); !errors.Is(err, syncengine.ErrUnavailable) || errors.Is(err, context.Canceled) {
			t.Errorf("%s of a server that hangs: %v", name, err)
		}
	}
}
