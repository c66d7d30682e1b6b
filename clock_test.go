package syncengine_test

// clock_test.go proves that a version far ahead, which one id has in L3 or was given by a caller,
// is a matter of that id alone.

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/storetest"
)

// wantTimely asserts that the version of a new write is the time it is made at.
func wantTimely(t *testing.T, e *syncengine.Engine, id string) {
	t.Helper()
	before := time.Now()
	put(t, e, id, 1)
	it, err := e.Get(context.Background(), id)
	must(t, err)
	if after := time.Now().Add(time.Second); it.Version < syncengine.VersionAt(before) || it.Version > syncengine.VersionAt(after) {
		t.Errorf("%s has version %d, want one of now, about %d", id, it.Version, syncengine.VersionAt(before))
	}
}

func TestINV16OneIDNumberedFarAheadDoesNotMoveTheOthers(t *testing.T) {
	for name, ahead := range map[string]uint64{"nanoseconds": uint64(time.Now().UnixNano()), "2^60": 1 << 60, "largest": syncengine.MaxVersion} {
		t.Run(name, func(t *testing.T) {
			l3 := storetest.NewArchive()
			cfg := syncengine.Config{Dir: t.TempDir(), L3: l3}
			e := open(t, cfg)
			rec := storetest.Put("ahead", ahead, string(doc("ahead", 1)))
			_, err := l3.Apply(context.Background(), []syncengine.Record{rec}) // by somebody else
			must(t, err)
			wantContent(t, e, "ahead", 1)
			wantTimely(t, e, "a")
			must(t, e.Close())
			e = open(t, cfg) // what the WAL keeps
			wantTimely(t, e, "b")
			wantContent(t, e, "ahead", 1)
			wantTimely(t, e, "c")
			must(t, e.Close())
			e = open(t, syncengine.Config{L3: l3}) // what L3 shows
			wantContent(t, e, "ahead", 1)
			wantTimely(t, e, "d")
		})
	}
}

// Nobody's later write loses to it, either: not when the op is in the WAL alone.
func TestINV02AWriteIsAboveASpooledOpNumberedFarAhead(t *testing.T) {
	l3 := &faultyArchive{ArchiveStore: storetest.NewArchive()}
	e := open(t, syncengine.Config{L3: l3, L1MaxBytes: 64 << 10, MaxClockSkew: 2 * time.Hour})
	l3.away.Store(true)
	fill := func(name string) {
		for n := range 300 {
			put(t, e, fmt.Sprint(name, n), n)
		}
	}
	fill("first")
	ctx := context.Background()
	must(t, e.Submit(ctx, syncengine.Item{ID: "a", Content: doc("a", 1)}, syncengine.WithVersion(syncengine.VersionAt(time.Now().Add(time.Hour)))))
	for round := 0; ; round++ {
		fill(fmt.Sprint("then-", round, "-"))
		if st, _ := e.Status(ctx, "a"); !st.InL1 { // L3, which is away, need not answer
			break
		} else if round == 20 {
			t.Fatalf("the op does not leave memory: %+v, %d spooled", st, e.Stats().SpooledOps)
		}
	}
	put(t, e, "a", 2)
	wantContent(t, e, "a", 2)
	fill("last")
	wantContent(t, e, "a", 2)
	l3.away.Store(false)
	eventually(t, "the drain succeeds", func() bool { return e.Flush(ctx) == nil })
	wantContent(t, e, "a", 2)
	if rec, err := l3.Get(ctx, "a"); err != nil || string(rec.Content) != string(doc("a", 2)) {
		t.Errorf("in L3: %.40q, %v", rec.Content, err)
	}
}
