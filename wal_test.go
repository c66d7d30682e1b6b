package syncengine_test

import (
	"context"
	"testing"

	"github.com/syncengine-go/syncengine"
)

// TestTheNewestSpooledOpIsThatOfTheHighestVersion, wherever it lies in the log.
func TestTheNewestSpooledOpIsThatOfTheHighestVersion(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	hash := func(id string) uint64 { return uint64(id[0]) }
	nothing := func([]*syncengine.Entry, int64) bool { return false }
	var last int64
	t.Run("written", func(t *testing.T) {
		j := syncengine.NewJournal(t, dir, 100, 1<<20)
		for _, version := range []uint64{5, 9, 7} {
			seg, err := syncengine.AppendTo(j, syncengine.NewEntry("x", version, "1"), syncengine.NewEntry("y", version+100, "1"))
			must(t, err)
			j.AddSpooled(hash("x"), seg, version)
			last = seg
		}
		op, recovered, err := j.FindSpooled(ctx, "x", hash("x"))
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
		if op, _, err := j.FindSpooled(ctx, "x", hash("x")); op != nil || err != nil {
			t.Errorf("there is %v, %v", op, err)
		}
	})
	t.Run("recovered", func(t *testing.T) {
		j := syncengine.NewJournal(t, dir, 100, 1<<20)
		left, err := j.Recover(ctx, hash, nothing)
		if err != nil || left.Ops != 6 || left.Last != last {
			t.Fatalf("%+v, %v", left, err)
		}
		for id, want := range map[string]uint64{"x": 9, "y": 109} {
			op, recovered, err := j.FindSpooled(ctx, id, hash(id))
			if err != nil || op == nil || syncengine.IDOf(op) != id || syncengine.VersionOf(op) != want || !recovered {
				t.Errorf("the newest of %s is %v, recovered %v, %v", id, op, recovered, err)
			}
		}
	})
	t.Run("unwanted", func(t *testing.T) {
		j := syncengine.NewJournal(t, dir, 100, 1<<20)
		_, err := j.Recover(ctx, hash, func(ops []*syncengine.Entry, seg int64) bool { return syncengine.VersionOf(ops[0]) == 9 })
		must(t, err)
		if v, ok := j.Spooled(hash("x")); !ok || v != 7 {
			t.Errorf("the newest that is wanted: %d, %v", v, ok)
		}
	})
}

// TestALogPromisesNoMoreThanItHolds: a place is taken by ops before they are logged.
func TestALogPromisesNoMoreThanItHolds(t *testing.T) {
	j := syncengine.NewJournal(t, t.TempDir(), 3, 100)
	one := []*syncengine.Entry{syncengine.NewEntry("x", 1, "1")}
	two := []*syncengine.Entry{syncengine.NewEntry("x", 1, "1"), syncengine.NewEntry("y", 1, "1")}
	large := []*syncengine.Entry{syncengine.NewEntry("x", 1, string(make([]byte, 99)))}
	if !j.Reserve(two) || j.Reserve(two) || j.Reserve(large) || !j.Reserve(one) || j.Reserve(one) {
		t.Error("three ops, or 100 bytes")
	}
	j.Release(two)
	if !j.Reserve(one) {
		t.Error("what is released has no place")
	}
}
