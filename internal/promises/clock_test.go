package promises

// clock_test.go proves that a version far ahead, which one id has in L3 or was given by a caller,
// is a matter of that id alone.

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/storetest"
)

// wantTimely asserts that the version of a new write is the time it is made at.
func wantTimely(t *testing.T, e *syncengine.Engine, id string) {
	t.Helper()
	before := time.Now()
	lab.Put(t, e, id, 1)
	it, err := e.Get(context.Background(), id)
	lab.Must(t, err)
	if after := time.Now().Add(time.Second); it.Version < syncengine.VersionAt(before) || it.Version > syncengine.VersionAt(after) {
		t.Errorf("%s has version %d, want one of now, about %d", id, it.Version, syncengine.VersionAt(before))
	}
}

func TestINV16OneIDNumberedFarAheadDoesNotMoveTheOthers(t *testing.T) {
	for name, ahead := range map[string]uint64{"nanoseconds": uint64(time.Now().UnixNano()), "2^60": 1 << 60, "largest": syncengine.MaxVersion} {
		t.Run(name, func(t *testing.T) {
			l3 := storetest.NewArchive()
			cfg := syncengine.Config{Dir: t.TempDir(), L3: l3}
			e := lab.Open(t, cfg)
			rec := storetest.Put("ahead", ahead, string(lab.Doc("ahead", 1)))
			_, err := l3.Apply(context.Background(), []syncengine.Record{rec}) // by somebody else
			lab.Must(t, err)
			lab.WantContent(t, e, "ahead", 1)
			wantTimely(t, e, "a")
			lab.Must(t, e.Close())
			e = lab.Open(t, cfg) // what the WAL keeps
			wantTimely(t, e, "b")
			lab.WantContent(t, e, "ahead", 1)
			wantTimely(t, e, "c")
			lab.Must(t, e.Close())
			e = lab.Open(t, syncengine.Config{L3: l3}) // what L3 shows
			lab.WantContent(t, e, "ahead", 1)
			wantTimely(t, e, "d")
		})
	}
}

// Nobody's later write loses to it, either: not when the op is in the WAL alone.
func TestINV02AWriteIsAboveASpooledOpNumberedFarAhead(t *testing.T) {
	l3 := &lab.FaultyArchive{ArchiveStore: storetest.NewArchive()}
	e := lab.Open(t, syncengine.Config{L3: l3, L1MaxBytes: 64 << 10, MaxClockSkew: 2 * time.Hour})
	l3.Away.Store(true)
	fill := func(name string) {
		for n := range 300 {
			lab.Put(t, e, fmt.Sprint(name, n), n)
		}
	}
	fill("first")
	ctx := context.Background()
	lab.Must(t, e.Submit(ctx, syncengine.Item{ID: "a", Content: lab.Doc("a", 1)}, syncengine.WithVersion(syncengine.VersionAt(time.Now().Add(time.Hour)))))
	for round := 0; ; round++ {
		fill(fmt.Sprint("then-", round, "-"))
		if st, _ := e.Status(ctx, "a"); !st.InL1 { // L3, which is away, need not answer
			break
		} else if round == 200 { // on a busy machine it may take some
			t.Fatalf("the op does not leave memory: %+v, %d spooled", st, e.Stats().SpooledOps)
		}
	}
	lab.Put(t, e, "a", 2)
	lab.WantContent(t, e, "a", 2)
	fill("last")
	lab.WantContent(t, e, "a", 2)
	l3.Away.Store(false)
	lab.Eventually(t, "the drain succeeds", func() bool { return e.Flush(ctx) == nil })
	lab.WantContent(t, e, "a", 2)
	if rec, err := l3.Get(ctx, "a"); err != nil || string(rec.Content) != string(lab.Doc("a", 2)) {
		t.Errorf("in L3: %.40q, %v", rec.Content, err)
	}
}
