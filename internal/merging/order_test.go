//go:build crdt

package merging

// order_test.go is about merges and deletes of an item that the log has, and in which order they
// land.

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/faultproxy"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

// TestINV02AnItemThatWasInsertedAfterADeleteIsNotAbsent: after a kill in an outage, where the log
// still has the delete.
func TestINV02AnItemThatWasInsertedAfterADeleteIsNotAbsent(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	server := testserver.SharedMariaDB(t)
	db := server.NewDatabase(t)
	p := faultproxy.New(t, server.Addr())
	cfg := syncengine.Config{Dir: t.TempDir(), SQLURL: lab.Via(t, db, p), L3Timeout: time.Minute, FlushConcurrency: 2, BatchFlushCount: 1, CloseTimeout: 2 * time.Second}
	e, err := syncengine.Open(ctx, cfg)
	lab.Must(t, err)
	defer e.Close()
	lab.Put(t, e, "stuck", 1)
	lab.Must(t, e.Flush(ctx))
	tx, err := testserver.OpenSQL(t, db).Begin()
	lab.Must(t, err)
	defer tx.Rollback()
	var n int // somebody has locked a row: what is logged from here on is not trimmed
	lab.Must(t, tx.QueryRow("SELECT COUNT(*) FROM sync_items WHERE id = 'stuck' FOR UPDATE").Scan(&n))
	lab.Put(t, e, "stuck", 2)
	time.Sleep(300 * time.Millisecond) // it is on its way
	archived := syncengine.WithDurability(syncengine.Archived)
	lab.Must(t, e.Delete(ctx, "x", archived))
	_, err = e.Merge(ctx, "y", "PNCounter", json.RawMessage("7"), archived)
	lab.Must(t, err)
	y, err := e.Get(ctx, "y")
	lab.Must(t, err)
	lab.Must(t, e.Insert(ctx, syncengine.Item{ID: "x", CRDT: "PNCounter", Content: y.Content}))
	image := lab.Killed(t, cfg.Dir)
	p.Cut()
	cfg.Dir = image
	next, err := syncengine.Open(ctx, cfg)
	lab.Must(t, err)
	defer next.Close()
	if it, err := next.Get(ctx, "x"); errors.Is(err, syncengine.ErrNotFound) {
		t.Errorf("x was inserted, and after a kill in an outage: %v (stale %v)", err, it.Stale)
	}
}

// TestINV04ADeleteInTheLogLandsBeforeLaterMerges, though its priority is lower.
func TestINV04ADeleteInTheLogLandsBeforeLaterMerges(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	server := testserver.SharedMariaDB(t)
	p := faultproxy.New(t, server.Addr())
	cfg := syncengine.Config{Dir: t.TempDir(), SQLURL: lab.Via(t, server.NewDatabase(t), p), BatchFlushCount: 1}
	e := lab.Open(t, cfg)
	_, err := e.Merge(ctx, "x", "PNCounter", json.RawMessage("100"))
	lab.Must(t, err)
	lab.Must(t, e.Flush(ctx))
	p.Cut()
	lab.Must(t, e.Delete(ctx, "x", syncengine.WithPriority(syncengine.PriorityLow))) // logged
	_ = e.Close()                                                                    // it is left in the WAL
	e = lab.Open(t, cfg)                                                             // in the outage
	_, err = e.Merge(ctx, "x", "PNCounter", json.RawMessage("1"))
	lab.Must(t, err)
	lab.Put(t, e, "other", 1)
	lab.Put(t, e, "another", 1)
	p.Restore()
	p.Delay(10 * time.Millisecond) // SQL is not next door
	for e.Stats().PendingOps > 2 {
		time.Sleep(time.Millisecond)
	}
	it, err := e.Get(ctx, "x")
	lab.Must(t, err)
	if v := value(t, it, nil); v != "1" {
		t.Errorf("deleted, then 1 added: %s", v)
	}
	lab.Must(t, e.Submit(ctx, it)) // a state that was read may be submitted again at any time
	lab.Must(t, e.Flush(ctx))
	it, err = e.Rebuild(ctx, "x")
	lab.Must(t, err)
	if v := value(t, it, nil); v != "1" {
		t.Errorf("for ever: %s", v)
	}
}
