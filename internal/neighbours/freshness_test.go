package neighbours

// freshness_test.go has engines that come, write and go, Redis that holds what others have
// overwritten, and an L3 that went back.

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/faultproxy"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/storetest"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

var archived = syncengine.WithDurability(syncengine.Archived)

// reads are the ways to ask for an item. Each returns the content, or "absent".
var reads = map[string]func(e *syncengine.Engine, id string) string{
	"Get":         func(e *syncengine.Engine, id string) string { return shown(e.Get(context.Background(), id)) },
	"GetVerified": func(e *syncengine.Engine, id string) string { return shown(e.GetVerified(context.Background(), id)) },
	"GetMany": func(e *syncengine.Engine, id string) string {
		items, err := e.GetMany(context.Background(), []string{id})
		if err == nil && items[0] == nil {
			return "absent"
		} else if err != nil {
			return err.Error()
		}
		return string(items[0].Content)
	},
	"GetOrInsertWith": func(e *syncengine.Engine, id string) string {
		return shown(e.GetOrInsertWith(context.Background(), id, func(context.Context) (syncengine.Item, error) {
			return syncengine.Item{}, syncengine.ErrNotFound
		}))
	},
}

func shown(it syncengine.Item, err error) string {
	if errors.Is(err, syncengine.ErrNotFound) {
		return "absent"
	} else if err != nil {
		return err.Error()
	}
	return string(it.Content)
}

func submit(t testing.TB, e *syncengine.Engine, id, content string, opts ...syncengine.WriteOption) {
	t.Helper()
	lab.Must(t, e.Submit(context.Background(), syncengine.Item{ID: id, Content: []byte(content)}, opts...))
}

// TestINV15WhatAnEngineWroteThatHasLeftIsSeen: the one that stays is alone again, and its copies
// are from before.
func TestINV15WhatAnEngineWroteThatHasLeftIsSeen(t *testing.T) {
	ctx := context.Background()
	for _, name := range []string{"SQLite", "MariaDB"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := "sqlite:" + t.TempDir() + "/shared.db"
			if name == "MariaDB" {
				url = testserver.SharedMariaDB(t).NewDatabase(t)
			}
			a := lab.Open(t, syncengine.Config{SQLURL: url, L1MaxAge: time.Second})
			lab.Eventually(t, "a is alone", func() bool { return a.Stats().FilterTrusted })
			time.Sleep(600 * time.Millisecond) // what it writes is younger than its first time alone
			for call := range reads {
				submit(t, a, "changed-"+call, "1", archived)
				submit(t, a, "deleted-"+call, "1", archived)
				lab.Must(t, a.Delete(ctx, "made-"+call, archived))
			}
			b := lab.Open(t, syncengine.Config{SQLURL: url})
			for call := range reads {
				submit(t, b, "changed-"+call, "2", archived)
				lab.Must(t, b.Delete(ctx, "deleted-"+call, archived))
				submit(t, b, "made-"+call, "2", archived)
			}
			lab.Must(t, b.Close())
			lab.Eventually(t, "a is alone again", func() bool { return a.Stats().FilterTrusted })
			time.Sleep(time.Second) // L1MaxAge
			for call, get := range reads {
				if !a.Contains("made-" + call) {
					t.Error("Contains denies an item, of which memory has an old tombstone")
				}
				for id, want := range map[string]string{"changed-" + call: "2", "deleted-" + call: "absent", "made-" + call: "2"} {
					if got := get(a, id); got != want {
						t.Errorf("%s(%s): %s, want %s", call, id, got, want)
					}
				}
			}
			// What was read since is fresh as long as nobody comes.
			before := a.Stats()
			time.Sleep(1200 * time.Millisecond)
			for call, get := range reads {
				get(a, "changed-"+call)
			}
			if s := a.Stats(); s.L3Hits != before.L3Hits {
				t.Errorf("L3 was asked %d times", s.L3Hits-before.L3Hits)
			}
		})
	}
}

// TestINV15CopiesPastTheirAgeAreComparedByEveryRead.
func TestINV15CopiesPastTheirAgeAreComparedByEveryRead(t *testing.T) {
	url := testserver.SharedMariaDB(t).NewDatabase(t)
	a := lab.Open(t, syncengine.Config{SQLURL: url, L1MaxAge: 200 * time.Millisecond})
	b := lab.Open(t, syncengine.Config{SQLURL: url})
	for call := range reads {
		submit(t, a, call, "1", archived)
	}
	for call := range reads {
		submit(t, b, call, "2", archived)
	}
	time.Sleep(500 * time.Millisecond)
	for call, get := range reads {
		if got := get(a, call); got != "2" {
			t.Errorf("%s: %s, want 2", call, got)
		}
	}
}

// TestINV02EveryReadPrefersWhatMemoryKnowsToAnOldCopyInRedis.
func TestINV02EveryReadPrefersWhatMemoryKnowsToAnOldCopyInRedis(t *testing.T) {
	ctx := context.Background()
	url, redis, prefix := testserver.SharedMariaDB(t).NewDatabase(t), testserver.SharedRedis(t).URL(), lab.NewPrefix()
	e := lab.Open(t, syncengine.Config{SQLURL: url, RedisURL: redis, KeyPrefix: prefix, L1MaxAge: 200 * time.Millisecond})
	lab.Open(t, syncengine.Config{SQLURL: url}) // company
	l2 := lab.NewRedisStore(lab.RedisAt(t, redis), prefix, time.Hour)
	for call := range reads {
		submit(t, e, call, "1", archived)
	}
	lab.Must(t, e.Flush(ctx))
	old, err := l2.GetMany(ctx, []string{"Get"})
	lab.Must(t, err)
	for call := range reads {
		submit(t, e, call, "2", archived)
	}
	lab.Must(t, e.Flush(ctx))
	for call := range reads {
		rec := old[0].Record
		rec.ID = call
		lab.Must(t, l2.Remove(ctx, []string{call}))
		lab.Must(t, l2.Put(ctx, []syncengine.Record{rec}))
	}
	time.Sleep(500 * time.Millisecond)
	for call, get := range reads {
		if got := get(e, call); got != "2" {
			t.Errorf("%s: %s, want 2", call, got)
		}
	}
}

// TestINV15ARepairReachesMemory: what Redis held was taken into memory before it was repaired, be
// it behind L3 or, after L3 was restored from a backup, ahead of it.
func TestINV15ARepairReachesMemory(t *testing.T) {
	ctx := context.Background()
	url, redis := testserver.SharedMariaDB(t).NewDatabase(t), testserver.SharedRedis(t).URL()
	for _, ahead := range []bool{false, true} {
		t.Run(fmt.Sprint("ahead ", ahead), func(t *testing.T) {
			prefix := lab.NewPrefix()
			cfg := syncengine.Config{Dir: t.TempDir(), SQLURL: url, RedisURL: redis, KeyPrefix: prefix, VerifyInterval: time.Hour}
			e := lab.Open(t, cfg)
			id := prefix + "x"
			submit(t, e, id, "1", archived)
			lab.Must(t, e.Flush(ctx))
			it, err := e.Get(ctx, id)
			lab.Must(t, err)
			rec := storetest.Put(id, it.Version+1, "2")
			l2, l3 := lab.NewRedisStore(lab.RedisAt(t, redis), prefix, time.Hour), lab.ArchiveAt(t, url)
			want := "2"
			if ahead {
				want = "1"
				lab.Must(t, l2.Put(ctx, []syncengine.Record{rec}))
			} else {
				_, err = l3.Apply(ctx, []syncengine.Record{rec})
				lab.Must(t, err)
			}
			e.Invalidate(id)
			if got := reads["Get"](e, id); got == want {
				t.Fatalf("Get before the repair: %s, there is nothing to repair", got)
			}
			r, err := e.Verify(ctx, syncengine.VerifyOptions{Repair: true})
			if err != nil || len(r.Divergent) == 0 {
				t.Fatalf("%+v, %v", r, err)
			}
			for call, get := range reads {
				if got := get(e, id); got != want {
					t.Errorf("%s: %s, want %s", call, got, want)
				}
			}
			st, err := e.Status(ctx, id)
			if err != nil || st.Version != st.VersionL3 {
				t.Errorf("%+v, %v", st, err)
			}
		})
	}
}

func TestInvalidateForgetsCopiesAndNoOps(t *testing.T) {
	ctx := context.Background()
	url := "sqlite:" + t.TempDir() + "/shared.db"
	e := lab.Open(t, syncengine.Config{SQLURL: url, BatchFlushInterval: time.Hour})
	lab.Eventually(t, "memory answers", func() bool {
		submit(t, e, "copy", "1", archived)
		before := e.Stats().L3Hits
		return reads["Get"](e, "copy") == "1" && e.Stats().L3Hits == before
	})
	submit(t, e, "op", "1", syncengine.WithDurability(syncengine.Buffered))
	db := lab.OpenDriver(t, "sqlite", url[len("sqlite:"):]+"?_pragma=busy_timeout(5000)")
	_, err := db.Exec("DELETE FROM sync_items WHERE id = 'copy'")
	lab.Must(t, err)
	if got := reads["Get"](e, "copy"); got != "1" {
		t.Fatalf("%s: memory was not asked", got)
	}
	e.Invalidate("copy", "op", "nothing")
	if got := reads["Get"](e, "copy"); got != "absent" {
		t.Errorf("after Invalidate: %s", got)
	}
	if got := reads["Get"](e, "op"); got != "1" {
		t.Errorf("an op that waits: %s", got)
	}
	lab.Must(t, e.Flush(ctx))
}

// TestVerifyTakesNoWriteUnderWayForADifference: another engine writes to L3 first and to Redis
// then.
func TestVerifyTakesNoWriteUnderWayForADifference(t *testing.T) {
	ctx := context.Background()
	cfg := syncengine.Config{SQLURL: testserver.SharedMariaDB(t).NewDatabase(t), RedisURL: testserver.SharedRedis(t).URL(), KeyPrefix: lab.NewPrefix()}
	e := lab.Open(t, cfg)
	p := faultproxy.New(t, testserver.SharedRedis(t).Addr())
	cfg.RedisURL = lab.Via(t, cfg.RedisURL, p)
	other := lab.Open(t, cfg)
	submit(t, other, "first", "1", archived)
	p.Delay(5 * time.Millisecond)
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			default:
			}
			id := fmt.Sprint("x", n%20)
			if n%3 == 0 {
				_ = other.Delete(ctx, id, archived)
			} else {
				_ = other.Submit(ctx, syncengine.Item{ID: id, Content: []byte(fmt.Sprint(n))}, archived)
			}
		}
	}()
	for range 100 {
		if r, err := e.Verify(ctx, syncengine.VerifyOptions{}); err != nil || !r.InSync {
			t.Errorf("%+v, %v", r, err)
			break
		}
	}
	close(stop)
	<-done
}
