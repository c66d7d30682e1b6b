package syncengine_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"testing"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/storetest"
)

func item(id, content string) syncengine.Item {
	return syncengine.Item{ID: id, Content: []byte(content)}
}

// TestARefusedWriteLeavesNoTrace: no place in the log, nothing in memory or in the queue.
func TestARefusedWriteLeavesNoTrace(t *testing.T) {
	ctx := context.Background()
	gone, leave := context.WithCancel(ctx)
	leave()
	dir := t.TempDir()
	h := syncengine.HouseOn(t, syncengine.Plan{L3: storetest.NewArchive(), Config: syncengine.Config{
		Dir: dir, WALMaxItems: 100, BatchFlushCount: 10, MaxItemBytes: 100,
	}})
	state := func() string {
		ops, spooled, _ := h.Queue.Pending()
		return fmt.Sprintf("%d ops pending, %d spooled, %d items, %v full, %d in the log, %d alone", ops, spooled, h.Memory.Len(), h.Pressure.Now(), lab.WALOps(t, dir), h.Journal.Alone())
	}
	numbered, buffered := syncengine.WithVersion(5), syncengine.WithDurability(syncengine.Buffered)
	lab.Must(t, h.Writer.Submit(ctx, item("x", "1"), syncengine.WithVersion(9)))
	refused := func(name string, want error, err error, before string) {
		t.Helper()
		if after := state(); !errors.Is(err, want) || after != before {
			t.Errorf("%s: %v, %s; before it %s", name, err, after, before)
		}
	}
	before := state()
	refused("no JSON", syncengine.ErrInvalidItem, h.Writer.Submit(ctx, item("y", "{")), before)
	refused("too large", syncengine.ErrInvalidItem, h.Writer.Submit(ctx, item("y", string(lab.BigDoc(1)))), before)
	refused("below what is known", syncengine.ErrStaleVersion, h.Writer.Submit(ctx, item("x", "2"), numbered), before)
	refused("the same into memory", syncengine.ErrStaleVersion, h.Writer.Submit(ctx, item("x", "2"), numbered, buffered), before)
	_, err := h.Writer.SubmitMany(ctx, []syncengine.Item{item("y", "1"), item("x", "2")}, numbered)
	refused("one of a group", syncengine.ErrStaleVersion, err, before)
	refused("its caller has left", context.Canceled, h.Writer.Delete(gone, "x"), before)
	lab.Must(t, h.Pressure.Reserve(tenBytes(88)))
	lab.Must(t, h.Pressure.Reserve(tenBytes(2)))
	before = state()
	refused("it is full", syncengine.ErrBackpressure, h.Writer.Submit(ctx, item("y", "1")), before)
	refused("it is full, of a delete", syncengine.ErrBackpressure, h.Writer.Delete(ctx, "x", buffered), before)
}

// TestINV01AWriteIsAcknowledgedWhenTheLogHasIt, a group as one unit; what the log does not take is
// not, and not seen either.
func TestINV01AWriteIsAcknowledgedWhenTheLogHasIt(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	h := syncengine.HouseOn(t, syncengine.Plan{L3: storetest.NewArchive(), Config: syncengine.Config{Dir: dir}})
	want := func(when string, logged int64, alone int, ids ...string) {
		t.Helper()
		if n := lab.WALOps(t, dir); n != logged || h.Journal.Alone() != alone {
			t.Errorf("%s: %d ops are in the log, %d in memory alone; want %d and %d", when, n, h.Journal.Alone(), logged, alone)
		}
		for _, id := range ids {
			if _, ok := h.Memory.Peek(id); !ok || !h.Queue.Waits(id) {
				t.Errorf("%s: %s is in memory: %v, waits: %v", when, id, ok, h.Queue.Waits(id))
			}
		}
	}
	lab.Must(t, h.Writer.Submit(ctx, item("x", "1")))
	want("Logged", 1, 0, "x")
	_, err := h.Writer.SubmitMany(ctx, []syncengine.Item{item("a", "1"), item("b", "1")})
	lab.Must(t, err)
	want("a group", 3, 0, "a", "b")
	if segments, _ := h.Journal.Extent(); segments != 2 {
		t.Errorf("a group takes %d segments", segments-1)
	}
	lab.Must(t, h.Writer.Submit(ctx, item("y", "1"), syncengine.WithDurability(syncengine.Buffered)))
	want("Buffered", 3, 1, "y")
	full := h.Pressure.Now()
	h.Journal.End()
	err = h.Writer.Submit(ctx, item("z", "1"))
	if _, ok := h.Memory.Peek("z"); err == nil || ok || h.Queue.Waits("z") || h.Pressure.Now() != full {
		t.Errorf("when the log takes nothing: %v; it is in memory: %v, %v full", err, ok, h.Pressure.Now())
	}
	want("when the log takes nothing", 3, 1)
}

// TestINV01AnArchivedWriteIsAcknowledgedWhenL3HasIt, and readable before; what L3 refuses is an
// error, and kept.
func TestINV01AnArchivedWriteIsAcknowledgedWhenL3HasIt(t *testing.T) {
	ctx := context.Background()
	asked := make(chan struct{}, 10)
	gate, release := lab.Hold()
	defer release()
	l3 := storetest.NewArchive()
	h := syncengine.HouseOn(t, syncengine.Plan{Private: true, L3: &lab.HookedArchive{ArchiveStore: l3, OnApply: func(ctx context.Context, recs []syncengine.Record) error {
		asked <- struct{}{}
		<-gate
		return lab.RefusePoison(ctx, recs)
	}}})
	h.Start(h.Flush.Run)
	archived, done := syncengine.WithDurability(syncengine.Archived), make(chan error, 1)
	go func() { done <- h.Writer.Submit(ctx, item("x", "1"), archived) }()
	<-asked
	if it, err := h.Reader.Get(ctx, "x"); err != nil || len(done) > 0 {
		t.Errorf("before L3 has it: %+v, %v, acknowledged %v", it, err, len(done) > 0)
	}
	release()
	if err := <-done; err != nil || holds(t, l3, "x") == 0 {
		t.Errorf("%v; L3 holds it at %d", err, holds(t, l3, "x"))
	}
	err := h.Writer.Submit(ctx, item("y", string(lab.Poison)), archived)
	if it, read := h.Reader.Get(ctx, "y"); !errors.Is(err, syncengine.ErrRefused) || !h.Bad.Has("y") || read != nil {
		t.Errorf("what L3 refuses: %v; in quarantine %v, read as %s, %v", err, h.Bad.Has("y"), it.Content, read)
	}
}

// TestINV14WhereL3IsSharedItDecidesConditions: by what it holds, whatever is known here, and
// nothing of it is ever in the log.
func TestINV14WhereL3IsSharedItDecidesConditions(t *testing.T) {
	ctx := context.Background()
	dir, l3 := t.TempDir(), l3With(t, storetest.Put("x", 3, "41"), storetest.Put("deleted", 3, "1"))
	h := syncengine.HouseOn(t, syncengine.Plan{L3: l3, Config: syncengine.Config{Dir: dir}})
	h.Start(h.Writer.Decide)
	if it, err := h.Reader.Get(ctx, "deleted"); versionOf(t, it, err) != 3 {
		t.Fatal(err)
	}
	lab.Must(t, lab.Applied(l3.Apply(ctx, []syncengine.Record{storetest.Tombstone("deleted", 4)}))) // by another engine
	var conflict *syncengine.ConflictError
	if err := h.Writer.Insert(ctx, item("x", "1")); !errors.Is(err, syncengine.ErrExists) || !errors.As(err, &conflict) || conflict.Have != 3 {
		t.Errorf("Insert of what L3 holds: %v", err)
	}
	lab.Must(t, h.Writer.Insert(ctx, item("deleted", "2")))
	it, err := h.Writer.Update(ctx, "x", func(cur syncengine.Item, exists bool) (syncengine.Item, error) {
		n, err := strconv.Atoi(string(cur.Content))
		return item("", strconv.Itoa(n+1)), err
	})
	if err != nil || string(it.Content) != "42" || it.Version <= 3 {
		t.Errorf("Update: %+v, %v", it, err)
	}
	if got := holds(t, l3, "x"); got != it.Version || holds(t, l3, "deleted") <= 4 {
		t.Errorf("L3 holds x at %d, want %d", got, it.Version)
	}
	if e, ok := h.Memory.Peek("x"); !ok || syncengine.VersionOf(e) != it.Version || h.Queue.Waits("x") || lab.WALOps(t, dir) != 0 {
		t.Errorf("in memory %v, waits %v, %d ops in the log", ok, h.Queue.Waits("x"), lab.WALOps(t, dir))
	}
}
