package promises

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

// What is known of an id (that it is in quarantine, that Redis lacks it, that it is ahead of the
// clock) does not hold the memory of the op from which the id comes.
func TestINV10WhatIsKnownOfAnIDHoldsNoContent(t *testing.T) {
	const n, kib = 100, 512
	ctx := context.Background()
	refuse := func(context.Context, []syncengine.Record) error {
		return &syncengine.RefusedError{Err: errors.New("no")}
	}
	for name, open := range map[string]func(t *testing.T) (e *syncengine.Engine, opts []syncengine.WriteOption){
		"in quarantine": func(t *testing.T) (*syncengine.Engine, []syncengine.WriteOption) {
			return lab.Open(t, syncengine.Config{L3: refusing(t, refuse), L1MaxBytes: 8 << 20}), nil
		},
		"not in Redis": func(t *testing.T) (*syncengine.Engine, []syncengine.WriteOption) {
			redis := testserver.Redis(t)
			e := lab.Open(t, syncengine.Config{RedisURL: redis.URL(), L1MaxBytes: 8 << 20})
			lab.Put(t, e, "warm", 1)
			lab.Must(t, e.Flush(ctx))
			redis.Kill()
			return e, nil
		},
		"ahead of the clock": func(t *testing.T) (*syncengine.Engine, []syncengine.WriteOption) {
			e := lab.Open(t, syncengine.Config{SQLURL: testserver.SharedMariaDB(t).NewDatabase(t), L1MaxBytes: 8 << 20})
			return e, []syncengine.WriteOption{syncengine.WithVersion(syncengine.VersionAt(time.Now().Add(50 * time.Second)))}
		},
	} {
		t.Run(name, func(t *testing.T) {
			e, opts := open(t)
			before := lab.HeapInUse()
			for i := range n {
				lab.Must(t, e.Submit(ctx, syncengine.Item{ID: fmt.Sprint("id-", i), Content: lab.BigDoc(kib)}, opts...))
				_ = e.Flush(ctx)
			}
			if grown := lab.HeapInUse() - before; grown > 25<<20 {
				t.Errorf("%d items of %d KiB hold %d MiB at an L1MaxBytes of 8 MiB", n, kib, grown>>20)
			}
			if s := e.Stats(); name == "in quarantine" && s.Quarantined != n {
				t.Errorf("%d are in quarantine, want %d", s.Quarantined, n)
			}
		})
	}
}

func refusing(t *testing.T, onApply func(context.Context, []syncengine.Record) error) syncengine.ArchiveStore {
	sql, err := lab.OpenSQLStore("sqlite:" + t.TempDir() + "/a.db")
	lab.Must(t, err)
	t.Cleanup(func() { _ = sql.Close() })
	return &lab.HookedArchive{ArchiveStore: sql, OnApply: onApply}
}

// A slow event function is told of each op, and what waits for it is bounded: beyond that ops are
// told of without their contents.
func TestINV01And10ASlowEventFunctionIsToldOfAllWithinBounds(t *testing.T) {
	const n = 15_000
	ctx := context.Background()
	refuse := func(context.Context, []syncengine.Record) error {
		return &syncengine.RefusedError{Err: errors.New("no")}
	}
	gate := make(chan struct{})
	var told, whole int
	e := lab.OpenAsIs(t, syncengine.Config{L3: refusing(t, refuse), L1MaxBytes: 8 << 20, CloseTimeout: time.Minute, OnEvent: syncengine.Events{
		Quarantined: func(op syncengine.QuarantinedOp) {
			<-gate
			if told++; op.Content != nil {
				whole++
			}
			if op.ID == "" || len(op.GroupIDs) > 0 && op.Content != nil && len(op.Content) != 4<<10 {
				t.Errorf("told of %q, %d bytes", op.ID, len(op.Content))
			}
		},
	}})
	before := lab.HeapInUse()
	for at := 0; at < n; at += 1000 {
		items := make([]syncengine.Item, 1000)
		for i := range items {
			items[i] = syncengine.Item{ID: fmt.Sprint("id-", at+i), Content: lab.BigDoc(4)}
		}
		_, err := e.SubmitMany(ctx, items)
		lab.Must(t, err)
		_ = e.Flush(ctx)
	}
	if grown := lab.HeapInUse() - before; grown > 48<<20 {
		t.Errorf("%d events of 4 KiB hold %d MiB", n, grown>>20)
	}
	close(gate)
	lab.Must(t, e.Close())
	if told != n || whole == 0 || whole == n {
		t.Errorf("told of %d of %d, of %d with their contents", told, n, whole)
	}
}
