package syncengine_test

import (
	"context"
	"testing"

	"sync"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/storetest"
)

// TestTheNewestSpooledOpIsThatOfTheHighestVersion, wherever it lies in the log.
func TestTheNewestSpooledOpIsThatOfTheHighestVersion(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	hash := func(id string) uint64 { return uint64(id[0]) }
	nothing := func([]*syncengine.OpEntry, int64) bool { return false }
	var last int64
	t.Run("written", func(t *testing.T) {
		j := syncengine.NewJournal(t, dir, 100, 1<<20)
		for _, version := range []uint64{5, 9, 7} {
			seg, err := syncengine.AppendTo(j, syncengine.NewEntry("x", version, "1"), syncengine.NewEntry("y", version+100, "1"))
			lab.Must(t, err)
			j.AddSpooled(hash("x"), seg, version)
			last = seg
		}
		op, recovered, err := j.FindSpooled(ctx, nil, "x", hash)
		if err != nil || op == nil || syncengine.VersionOf(op) != 9 || recovered {
			t.Errorf("the newest is %v, recovered %v, %v", op, recovered, err)
		}
		j.DropDiscarded(hash("x"), 9, last-2) // discarded in segments before
		if v, ok := j.Spooled(hash("x")); !ok || v != 9 {
			t.Errorf("an op of a later segment is gone: %d, %v", v, ok)
		}
		j.DropSpooled(hash("x"), 8)
		if v, ok := j.Spooled(hash("x")); !ok || v != 9 {
			t.Errorf("a later op is gone: %d, %v", v, ok)
		}
		j.DropSpooled(hash("x"), 9)
		if op, _, err := j.FindSpooled(ctx, nil, "x", hash); op != nil || err != nil {
			t.Errorf("there is %v, %v", op, err)
		}
	})
	t.Run("beside one that was discarded", func(t *testing.T) {
		j := syncengine.NewJournal(t, t.TempDir(), 100, 1<<20)
		seg, err := syncengine.AppendTo(j, syncengine.NewEntry("x", 5, "1"), syncengine.NewEntry("x", 6, "1"))
		lab.Must(t, err)
		j.AddSpooled(hash("x"), seg, 5)
		if op, _, err := j.FindSpooled(ctx, nil, "x", hash); err != nil || op == nil || syncengine.VersionOf(op) != 5 {
			t.Errorf("what is left is %v, %v", op, err)
		}
	})
	t.Run("recovered", func(t *testing.T) {
		j := syncengine.NewJournal(t, dir, 100, 1<<20)
		left, err := j.Recover(ctx, hash, nothing)
		if err != nil || left.Ops != 6 || left.Last != last {
			t.Fatalf("%+v, %v", left, err)
		}
		for id, want := range map[string]uint64{"x": 9, "y": 109} {
			op, recovered, err := j.FindSpooled(ctx, nil, id, hash)
			if err != nil || op == nil || syncengine.IDOf(op) != id || syncengine.VersionOf(op) != want || !recovered {
				t.Errorf("the newest of %s is %v, recovered %v, %v", id, op, recovered, err)
			}
		}
	})
	t.Run("unwanted", func(t *testing.T) {
		j := syncengine.NewJournal(t, dir, 100, 1<<20)
		_, err := j.Recover(ctx, hash, func(ops []*syncengine.OpEntry, seg int64) bool { return syncengine.VersionOf(ops[0]) == 9 })
		lab.Must(t, err)
		if v, ok := j.Spooled(hash("x")); !ok || v != 7 {
			t.Errorf("the newest that is wanted: %d, %v", v, ok)
		}
	})
}

// TestALogPromisesNoMoreThanItHolds: a place is taken by ops before they are logged.
func TestALogPromisesNoMoreThanItHolds(t *testing.T) {
	j := syncengine.NewJournal(t, t.TempDir(), 3, 100)
	one := []*syncengine.OpEntry{syncengine.NewEntry("x", 1, "1")}
	two := []*syncengine.OpEntry{syncengine.NewEntry("x", 1, "1"), syncengine.NewEntry("y", 1, "1")}
	large := []*syncengine.OpEntry{syncengine.NewEntry("x", 1, string(make([]byte, 99)))}
	if !j.Reserve(two) || j.Reserve(two) || j.Reserve(large) || !j.Reserve(one) || j.Reserve(one) {
		t.Error("three ops, or 100 bytes")
	}
	j.Release(two)
	if !j.Reserve(one) {
		t.Error("what is released has no place")
	}
}

// The copy of an outranked op becomes one of a later op, of another size, in the same place.
func TestThePlaceOfAnOpThatIsSubmittedAgainFitsIt(t *testing.T) {
	for _, sizes := range [][2]int{{1, 20}, {20, 1}} {
		ctx := context.Background()
		l3 := lab.NewChoosy(t)
		under, gate := make(chan bool), make(chan bool)
		inner, once := l3.OnApply, sync.OnceFunc(func() { close(under); <-gate })
		l3.OnApply = func(ctx context.Context, recs []syncengine.Record) error {
			if recs[0].ID == "x" {
				once()
			}
			return inner(ctx, recs)
		}
		e := lab.Open(t, syncengine.Config{L3: l3, BatchFlushInterval: time.Millisecond})
		first := make(chan error, 1)
		go func() {
			first <- e.Submit(ctx, syncengine.Item{ID: "x", Content: lab.BigDoc(sizes[0])}, syncengine.WithDurability(syncengine.Archived))
		}()
		<-under
		_, err := l3.ArchiveStore.Apply(ctx, []syncengine.Record{storetest.Put("x", syncengine.VersionAt(time.Now().Add(5*time.Second)), `"theirs"`)})
		lab.Must(t, err)
		lab.Must(t, e.Submit(ctx, syncengine.Item{ID: "x", Content: lab.BigDoc(sizes[1])}))
		close(gate)
		lab.Must(t, <-first)
		lab.Must(t, e.Flush(ctx))
		if items, bytes := syncengine.PlacesInWAL(e); items != 0 || bytes != 0 {
			t.Errorf("%d ops with %d bytes have a place in the WAL, and nothing waits", items, bytes)
		}
	}
}
