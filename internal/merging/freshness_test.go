//go:build crdt

package merging

import (
	"context"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
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
