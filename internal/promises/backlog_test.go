package promises

// backlog_test.go proves what becomes of a long outage's ops: an engine opens on many of them
// at once and drains them in batches within its memory, their space is given back, and an op
// logged while an older one of its id drains is not trimmed with it.

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/storetest"
)

// leaveBacklog fills the WAL in dir with so many ops of ids of their own.
func leaveBacklog(t *testing.T, dir string, ops int) {
	t.Helper()
	const group = 250
	e := lab.Open(t, syncengine.Config{Dir: dir, L3: lab.AwayArchive(), L1MaxBytes: 8 << 20, CloseTimeout: time.Second})
	items := make([]syncengine.Item, group)
	for n := 0; n < ops; n += group {
		for i := range items {
			id := fmt.Sprint("id-", n+i)
			items[i] = syncengine.Item{ID: id, Content: lab.Doc(id, n+i)}
		}
		_, err := e.SubmitMany(context.Background(), items)
		lab.Must(t, err)
	}
	var pe *syncengine.PendingError
	if err := e.Close(); !errors.As(err, &pe) || pe.Ops != ops {
		t.Fatalf("Close: %v, want %d ops left", err, ops)
	}
}

func TestINV10ALargeBacklogIsUsableAtOpenAndDrainsInBatches(t *testing.T) {
	ops := 60_000
	if testing.Short() {
		ops = 20_000
	}
	const memory = 4 << 20
	ctx := context.Background()
	dir := t.TempDir()
	leaveBacklog(t, dir, ops)
	payload := fileBytes(t, filepath.Join(dir, "wal.db"))

	gate, release := lab.Hold()
	defer release()
	var calls, records, most atomic.Int64
	var e *syncengine.Engine
	l3 := storetest.NewArchive()
	opened := make(chan struct{})
	hooked := &lab.HookedArchive{ArchiveStore: l3, OnApply: func(_ context.Context, recs []syncengine.Record) error {
		<-opened
		<-gate
		calls.Add(1)
		records.Add(int64(len(recs)))
		most.Store(max(most.Load(), e.Stats().L1Bytes))
		return nil
	}}
	before := lab.HeapInUse()
	e = lab.Open(t, syncengine.Config{Dir: dir, L3: hooked, L1MaxBytes: memory, L3Timeout: time.Minute, FlushConcurrency: 1})
	close(opened)
	if s := e.Stats(); s.PendingOps != ops || s.WALItems != int64(ops) {
		t.Errorf("after Open %d ops are pending and %d in the WAL, want %d", s.PendingOps, s.WALItems, ops)
	}
	for n := 0; n < ops; n += 1 + ops/400 {
		lab.WantContent(t, e, fmt.Sprint("id-", n), n)
	}
	// What grows with the backlog is an index of some 40 bytes an op, in a map at most half empty.
	if grown, limit := lab.HeapInUse()-before, int64(2*memory+ops*100); grown > limit {
		t.Errorf("the heap grew by %d bytes for %d ops of %d bytes, want at most %d", grown, ops, payload, limit)
	}
	lab.Put(t, e, "id-0", ops+1) // writes go on, and rank after what waits
	release()
	lab.Must(t, e.Flush(ctx))
	if n, limit := calls.Load(), int64(ops/1000*3/2+10); n > limit {
		t.Errorf("the drain took %d batches for %d ops, want at most %d", n, ops, limit)
	}
	if records.Load() < int64(ops) {
		t.Errorf("L3 got %d records of %d", records.Load(), ops)
	}
	if limit := int64(memory) * 11 / 10; most.Load() > limit {
		t.Errorf("memory reached %d bytes, the bound is %d", most.Load(), limit)
	}
	if s := e.Stats(); s.PendingOps != 0 || s.WALItems != 0 || s.WALBytes != 0 || s.SpooledOps != 0 {
		t.Errorf("after the drain: %+v", s)
	}
	for n := 1; n < ops; n += 1 + ops/2000 {
		id := fmt.Sprint("id-", n)
		if rec, err := l3.Get(ctx, id); err != nil || string(rec.Content) != string(lab.Doc(id, n)) {
			t.Fatalf("L3 holds %.40q of %s, %v", rec.Content, id, err)
		}
	}
	lab.WantContent(t, e, "id-0", ops+1)
	wantSpaceBack(t, dir, payload)
}

func fileBytes(t testing.TB, path string) int64 {
	t.Helper()
	st, err := os.Stat(path)
	lab.Must(t, err)
	return st.Size()
}

// wantSpaceBack waits until the WAL has given back what a backlog took.
func wantSpaceBack(t *testing.T, dir string, was int64) {
	t.Helper()
	main, log := filepath.Join(dir, "wal.db"), filepath.Join(dir, "wal.db-wal")
	limit := max(was/4, 10<<20)
	lab.Eventually(t, "the WAL gives its space back", func() bool { return fileBytes(t, main) < limit })
	if n := fileBytes(t, log); n > 40<<20 {
		t.Errorf("wal.db-wal has %d bytes", n)
	}
}

// TestINV01AnOpLoggedWhileItsIDDrainsIsNotTrimmedWithIt writes an id again while L3 takes its
// older op, from memory or from the spool; then L3 goes away and the engine is closed, so that
// the newer op is in the WAL or nowhere.
func TestINV01AnOpLoggedWhileItsIDDrainsIsNotTrimmedWithIt(t *testing.T) {
	for _, spooled := range []bool{false, true} {
		t.Run(fmt.Sprintf("spooled %v", spooled), func(t *testing.T) {
			ctx := context.Background()
			l3 := storetest.NewArchive()
			var away atomic.Bool
			gate, release := lab.Hold()
			defer release()
			reached := make(chan struct{}, 1)
			hooked := &lab.HookedArchive{ArchiveStore: l3, OnApply: func(_ context.Context, recs []syncengine.Record) error {
				if away.Load() {
					return lab.ErrAway
				}
				for i := range recs {
					if recs[i].ID == "x" && string(recs[i].Content) == string(lab.Doc("x", 1)) {
						reached <- struct{}{}
						<-gate
						away.Store(true) // after this batch
					}
				}
				return nil
			}}
			cfg := syncengine.Config{Dir: t.TempDir(), L3: hooked, L1MaxBytes: 64 << 10, L3Timeout: time.Minute,
				FlushConcurrency: 1, CloseTimeout: time.Second}
			e := lab.Open(t, cfg)
			away.Store(spooled)
			for n := 0; spooled && e.Stats().SpooledOps == 0; n++ {
				lab.Put(t, e, fmt.Sprint("fill-", n), n)
			}
			lab.Put(t, e, "x", 1)
			away.Store(false)
			flushed := make(chan error, 1)
			go func() { flushed <- e.Flush(ctx) }()
			<-reached
			lab.Put(t, e, "x", 2)
			release()
			<-flushed
			lab.Eventually(t, "the older op is done", func() bool { return e.Stats().WALItems == 1 })
			var pe *syncengine.PendingError
			if err := e.Close(); !errors.As(err, &pe) || pe.Ops != 1 {
				t.Fatalf("Close: %v, want the newer op to be left", err)
			}
			if rec, err := l3.Get(ctx, "x"); err != nil || string(rec.Content) != string(lab.Doc("x", 1)) {
				t.Fatalf("L3 holds %.40q, %v; want the older op", rec.Content, err)
			}
			away.Store(false)
			e = lab.Open(t, cfg)
			lab.WantContent(t, e, "x", 2)
			lab.Must(t, e.Flush(ctx))
			if rec, err := l3.Get(ctx, "x"); err != nil || string(rec.Content) != string(lab.Doc("x", 2)) {
				t.Errorf("L3 holds %.40q, %v; want the newer op", rec.Content, err)
			}
		})
	}
}

// TestBufferedOpsLoggedWhileOthersSpoolAreAccountedFor has ops in memory alone when memory is
// full of others, and L3 fails: they go into the WAL, behind those.
func TestBufferedOpsLoggedWhileOthersSpoolAreAccountedFor(t *testing.T) {
	ctx := context.Background()
	gate, release := lab.Hold()
	var away atomic.Bool
	away.Store(true)
	l3 := &lab.HookedArchive{ArchiveStore: storetest.NewArchive(), OnApply: func(context.Context, []syncengine.Record) error {
		if <-gate; away.Load() {
			return lab.ErrAway
		}
		return nil
	}}
	e := lab.Open(t, syncengine.Config{L3: l3, L1MaxBytes: 64 << 10, FlushConcurrency: 1, BatchFlushCount: 5, BatchFlushInterval: time.Hour, L3Timeout: time.Minute})
	for n := range 20 {
		lab.Put(t, e, fmt.Sprint("in memory-", n), 1, syncengine.WithDurability(syncengine.Buffered))
	}
	for n := 0; e.Stats().SpooledOps == 0; n++ {
		lab.Put(t, e, fmt.Sprint("logged-", n), 1)
	}
	logged := e.Stats().WALItems
	release()
	lab.Eventually(t, "the ops in memory are logged", func() bool { return e.Stats().WALItems >= logged+20 })
	away.Store(false)
	lab.Eventually(t, "Flush succeeds", func() bool { return e.Flush(ctx) == nil })
	lab.Eventually(t, "nothing is left", func() bool { s := e.Stats(); return s.PendingOps == 0 && s.WALItems == 0 && s.SpooledOps == 0 })
	for n := range 20 {
		lab.WantContent(t, e, fmt.Sprint("in memory-", n), 1)
	}
}
