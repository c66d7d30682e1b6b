package syncengine_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/storetest"
)

// carrier is an L2 that hands messages to a function.
type carrier struct {
	syncengine.CacheStore
	sent func(message []byte) error
}

func (c *carrier) Publish(_ context.Context, message []byte) error { return c.sent(message) }

func (c *carrier) Subscribe(ctx context.Context, _ func(), _ func([]byte)) error {
	<-ctx.Done()
	return ctx.Err()
}

// TestINV15ChangesThatAreToldAreForgottenElsewhere, those of a storm once each, in few messages,
// and none that came back to who sent it.
func TestINV15ChangesThatAreToldAreForgottenElsewhere(t *testing.T) {
	var messages [][]byte
	first, held, release := make(chan struct{}, 1), make(chan struct{}), make(chan struct{})
	l2 := &carrier{CacheStore: storetest.NewCache(), sent: func(m []byte) error {
		if messages = append(messages, m); len(messages) == 1 {
			first <- struct{}{}
			<-held
		}
		if len(messages) == 3 {
			close(release)
		}
		return nil
	}}
	house := func() *syncengine.House {
		return syncengine.HouseOn(t, syncengine.Plan{L2: l2, L3: storetest.NewArchive()})
	}
	a, b := house(), house()
	a.Start(a.Push.Run)
	a.Push.Announce([]syncengine.Record{storetest.Put("first", 1, "1")}, true)
	<-first
	for n := range 10_000 { // while a message is on its way
		a.Push.Announce([]syncengine.Record{storetest.Put(fmt.Sprint("x", n%2000), uint64(n+2), "1")}, true)
	}
	close(held)
	<-release
	for _, h := range []*syncengine.House{a, b} {
		for n := range 2000 {
			id := fmt.Sprint("x", n)
			h.Memory.Promote(syncengine.NewEntry(id, uint64(8001+n+n%3), "1"), h.Memory.Stamp(id))
		}
		stamp := h.Memory.Stamp("first")
		for _, m := range messages {
			h.Push.Hear(m)
		}
		h.Memory.Promote(syncengine.NewEntry("first", 1, "1"), stamp)
	}
	if n := a.Memory.Len(); n != 2001 {
		t.Errorf("who sent it forgets by its own message: %d are left", n)
	}
	for n := range 2000 {
		_, ok := b.Memory.Peek(fmt.Sprint("x", n))
		if fresh := n%3 > 0; ok != fresh {
			t.Errorf("x%d at %d is there: %v; it was written at %d", n, 8001+n+n%3, ok, 8002+n)
		}
	}
	if _, ok := b.Memory.Peek("first"); ok {
		t.Error("a copy that was read before the message is promoted after it")
	}
	for n := range messages[0] {
		b.Push.Hear(messages[0][:n]) // of any length
	}
}

func TestPushWaitsForNobodyAndForgetsWhatIsTooMuch(t *testing.T) {
	l2 := &carrier{CacheStore: storetest.NewCache(), sent: func([]byte) error { select {} }}
	h := syncengine.HouseOn(t, syncengine.Plan{L2: l2, L3: storetest.NewArchive()})
	recs := make([]syncengine.Record, 100_100)
	for n := range recs {
		recs[n] = storetest.Put(fmt.Sprint(n), 1, "1")
	}
	h.Push.Announce(recs, true)
	h.Push.Announce(recs[:1], true)
	var s syncengine.Stats
	if h.Push.Stats(&s); s.PushUntold != 100 || s.PushPending != 100_000 {
		t.Errorf("%d are not told, want 100; %d wait, want 100,000", s.PushUntold, s.PushPending)
	}
}
