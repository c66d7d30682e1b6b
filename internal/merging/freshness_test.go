//go:build crdt

package merging

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/crdt"
	"github.com/syncengine-go/syncengine/internal/faultproxy"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

// TestINV15AnItemWhoseMergesWaitInAnOutageIsStale as a plain op of one's own is that waits, by all
// reads; it is not before, nor after.
func TestINV15AnItemWhoseMergesWaitInAnOutageIsStale(t *testing.T) {
	ctx := context.Background()
	server := testserver.SharedMariaDB(t)
	url, p := server.NewDatabase(t), faultproxy.New(t, server.Addr())
	archived := syncengine.WithDurability(syncengine.Archived)
	a := lab.Open(t, syncengine.Config{SQLURL: lab.Via(t, url, p), L3Timeout: time.Second, L1MaxAge: 200 * time.Millisecond})
	b := lab.Open(t, syncengine.Config{SQLURL: url})
	merge(t, a, "c", "PNCounter", "1", archived)
	merge(t, b, "c", "PNCounter", "1", archived)
	lab.Put(t, a, "p", 1, archived)
	lab.Eventually(t, "a sees both", func() bool { it, err := a.Get(ctx, "c"); return value(t, it, err) == "2" })
	want := func(stale bool) {
		t.Helper()
		many, err := a.GetMany(ctx, []string{"p", "c"})
		lab.Must(t, err)
		it, err := a.Get(ctx, "c")
		lab.Must(t, err)
		verified, err := a.GetVerified(ctx, "c")
		lab.Must(t, err)
		if it.Stale != stale || verified.Stale != stale || many[0].Stale != stale || many[1].Stale != stale {
			t.Errorf("stale by Get %v, GetVerified %v, GetMany %v, and a plain item %v; want %v",
				it.Stale, verified.Stale, many[1].Stale, many[0].Stale, stale)
		}
	}
	want(false)
	p.Cut()
	merge(t, a, "c", "PNCounter", "10")
	lab.Put(t, a, "p", 2)
	lab.Eventually(t, "the outage is known", func() bool { return a.Stats().L3Down })
	want(true)
	p.Restore()
	lab.Eventually(t, "all has landed", func() bool { return a.Flush(ctx) == nil })
	want(false)
}

// TestINV15WhatIsToldWhileAMergeIsOnItsWayIsNotForgotten: a merge is in L3, and its batch, or the
// call that waits for the verdict on its condition, still waits for Redis, when this engine hears
// that another one has written the id since. Its twin for plain ops is in internal/neighbours.
func TestINV15WhatIsToldWhileAMergeIsOnItsWayIsNotForgotten(t *testing.T) {
	ctx := context.Background()
	archived := syncengine.WithDurability(syncengine.Archived)
	for _, own := range []string{"merge", "update"} {
		for _, others := range []string{"merge", "delete"} {
			t.Run(own+", "+others, func(t *testing.T) {
				a, b, raw, p := lab.BehindRedis(t)
				merge(t, a, "x", "PNCounter", "1", archived)
				lab.Put(t, a, "y", 0, archived)
				lab.Put(t, b, "z", 0, archived)
				wantValue(t, a, "x", "1")
				lab.Must(t, a.Flush(ctx))
				p.Hold()
				done := make(chan error, 1)
				if own == "merge" {
					merge(t, a, "x", "PNCounter", "10")
					done <- nil
				} else {
					go func() { done <- addTen(ctx, a) }()
				}
				lab.Eventually(t, "SQL has the merge", func() bool {
					return lab.Number(t, raw, "SELECT COUNT(*) FROM sync_ops WHERE op LIKE 'x%'") == 2
				})
				want := "111"
				if others == "merge" {
					merge(t, b, "x", "PNCounter", "100", archived)
				} else {
					want = "nothing"
					lab.Must(t, b.Delete(ctx, "x", archived))
				}
				lab.Put(t, b, "y", 2, archived)
				lab.Eventually(t, "it was told of both", func() bool { return a.Len() == 0 })
				p.Release()
				lab.Must(t, <-done)
				lab.Eventually(t, "it reads what the other one has written", func() bool {
					it, err := a.Get(ctx, "x")
					if errors.Is(err, syncengine.ErrNotFound) {
						return want == "nothing"
					}
					return value(t, it, err) == want
				})
			})
		}
	}
}

// addTen updates the counter x.
func addTen(ctx context.Context, e *syncengine.Engine) error {
	_, err := e.Update(ctx, "x", func(cur syncengine.Item, _ bool) (it syncengine.Item, err error) {
		it.CRDT = "PNCounter"
		it.Content, err = crdt.Apply(crdt.KindPNCounter, cur.Content, []byte("10"), crdt.Op{Node: "update"})
		return it, err
	})
	return err
}
