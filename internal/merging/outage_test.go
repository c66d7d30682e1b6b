//go:build crdt

package merging

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

// TestINV02MergesInAnOutageAreReadAndCountOnce has merges in memory, in the spool, and of an
// earlier engine, of ids that were in memory and of ids that were not.
func TestINV02MergesInAnOutageAreReadAndCountOnce(t *testing.T) {
	ctx := context.Background()
	db := testserver.MariaDB(t)
	cfg := syncengine.Config{Dir: t.TempDir(), SQLURL: db.URL(), L3Timeout: time.Second, CloseTimeout: 10 * time.Second}
	e := lab.Open(t, cfg)
	for _, id := range []string{"known", "cold"} {
		merge(t, e, id, "GCounter", "100", syncengine.WithDurability(syncengine.Archived))
	}
	lab.Must(t, e.Close())
	e = lab.Open(t, cfg)
	wantValue(t, e, "known", "100")
	db.Kill()
	for n := range 300 {
		d := []syncengine.Durability{syncengine.Buffered, syncengine.Logged}[n%2]
		for _, id := range []string{"known", "cold", "new"} {
			merge(t, e, id, "GCounter", "1", syncengine.WithDurability(d))
		}
		if n%50 == 0 {
			wantValue(t, e, "known", fmt.Sprint(101+n))
		}
	}
	lab.Eventually(t, "the outage is known", func() bool { return e.Stats().L3Down })
	for n := range 50 {
		for _, id := range []string{"known", "cold", "new"} {
			merge(t, e, id, "GCounter", "1")
		}
		wantValue(t, e, "known", fmt.Sprint(401+n))
	}
	if _, err := e.Get(ctx, "cold"); !errors.Is(err, syncengine.ErrUnavailable) {
		t.Errorf("an id that was not in memory: %v", err)
	}
	if !e.Contains("cold") || !e.Contains("new") {
		t.Error("an id with merges under way is denied")
	}
	var pending *syncengine.PendingError
	if err := e.Close(); !errors.As(err, &pending) || pending.Ops == 0 {
		t.Fatalf("Close: %v", err)
	}
	e = lab.Open(t, cfg)
	if _, err := e.Get(ctx, "cold"); !errors.Is(err, syncengine.ErrUnavailable) {
		t.Errorf("after a restart: %v", err)
	}
	merge(t, e, "cold", "GCounter", "1")
	db.Restart()
	lab.Eventually(t, "Flush succeeds", func() bool { return e.Flush(ctx) == nil })
	wantValue(t, e, "known", "450")
	wantValue(t, e, "cold", "451")
	wantValue(t, e, "new", "350")
	other := lab.Open(t, syncengine.Config{SQLURL: db.URL()})
	wantValue(t, other, "cold", "451")
	if s := e.Stats(); s.PendingOps != 0 || s.WALItems != 0 || s.SpooledOps != 0 || s.L1Pinned != 0 {
		t.Errorf("after the drain: %+v", s)
	}
}

// TestINV09AMergeThatL3RefusesIsAloneInQuarantine also retries it under the same dot.
func TestINV09AMergeThatL3RefusesIsAloneInQuarantine(t *testing.T) {
	ctx := context.Background()
	url := l3s["SQLite"](t)
	e, other := lab.Open(t, syncengine.Config{SQLURL: url}), lab.Open(t, syncengine.Config{SQLURL: url})
	archived := syncengine.WithDurability(syncengine.Archived)
	lab.Must(t, other.Submit(ctx, syncengine.Item{ID: "plain", Content: []byte(`1`)}, archived))
	merge(t, e, "plain", "GCounter", "7") // this engine does not know
	merge(t, e, "good", "GCounter", "1")
	if err := e.Flush(ctx); !errors.Is(err, syncengine.ErrRefused) {
		t.Fatalf("Flush: %v", err)
	}
	wantValue(t, e, "good", "1")
	if it, err := e.Get(ctx, "plain"); err != nil || string(it.Content) != "1" {
		t.Errorf("%s, %v", it.Content, err)
	}
	if st, err := e.Status(ctx, "plain"); err != nil || !st.Quarantined || st.State != syncengine.StatusSynced {
		t.Errorf("status: %+v, %v", st, err)
	}
	ops, err := e.Quarantined(ctx)
	if err != nil || len(ops) != 1 || ops[0].ID != "plain" || string(ops[0].Content) != "7" {
		t.Fatalf("%+v, %v", ops, err)
	}
	if _, err := other.Merge(ctx, "plain", "GCounter", json.RawMessage("1"), archived); !errors.Is(err, syncengine.ErrKindMismatch) {
		t.Errorf("at Archived: %v", err)
	}
	_, err = other.DiscardQuarantined(ctx, "plain")
	lab.Must(t, err)
	lab.Must(t, other.Delete(ctx, "plain", archived))
	n, err := e.RetryQuarantined(ctx, "plain")
	if err != nil || n != 1 {
		t.Fatalf("retried %d, %v", n, err)
	}
	err = e.Flush(ctx)
	_, gerr := e.Get(ctx, "plain")
	t.Logf("retried below the delete: %v, %v", err, gerr)
	if err != nil || !errors.Is(gerr, syncengine.ErrNotFound) || e.Stats().Superseded != 1 {
		t.Errorf("a merge from before the delete: %v, %v, %d superseded", err, gerr, e.Stats().Superseded)
	}
	merge(t, e, "plain", "GCounter", "3", archived)
	wantValue(t, e, "plain", "3")
}

func TestConditionsOnItemsThatAreMergedInto(t *testing.T) {
	for _, cfg := range []syncengine.Config{{Dir: t.TempDir()}, {SQLURL: l3s["MariaDB"](t)}} {
		ctx := context.Background()
		e := lab.Open(t, cfg)
		merge(t, e, "c", "GCounter", "1")
		it, err := e.Get(ctx, "c")
		lab.Must(t, err)
		if err := e.Insert(ctx, it); !errors.Is(err, syncengine.ErrExists) {
			t.Errorf("Insert: %v", err)
		}
		lab.Must(t, e.Flush(ctx))
		it, err = e.Get(ctx, "c")
		lab.Must(t, err)
		lab.Must(t, e.Submit(ctx, it, syncengine.IfUnchanged()))
		merge(t, e, "c", "GCounter", "1")
		if err := e.Submit(ctx, it, syncengine.IfUnchanged()); !errors.Is(err, syncengine.ErrConflict) {
			t.Errorf("IfUnchanged after a merge: %v", err)
		}
		wantValue(t, e, "c", "2")
		it, err = e.Update(ctx, "c", func(cur syncengine.Item, exists bool) (syncengine.Item, error) {
			if got := value(t, cur, nil); !exists || got != "2" {
				t.Errorf("Update is given %s", got)
			}
			return cur, nil
		})
		if got := value(t, it, err); got != "2" {
			t.Errorf("Update returns %s", got)
		}
		wantValue(t, e, "c", "2")
		if _, err := e.Update(ctx, "c", func(cur syncengine.Item, _ bool) (syncengine.Item, error) {
			cur.CRDT = ""
			return cur, nil
		}); !errors.Is(err, syncengine.ErrKindMismatch) {
			t.Errorf("Update to a plain item: %v", err)
		}
		lab.Must(t, e.Insert(ctx, syncengine.Item{ID: "d", CRDT: it.CRDT, Content: it.Content}))
		wantValue(t, e, "d", "2")
		merge(t, e, "d", "GCounter", "1")
		wantValue(t, e, "d", "3")
		if err := e.Delete(ctx, "d", syncengine.WithIfVersion(1)); !errors.Is(err, syncengine.ErrConflict) {
			t.Errorf("Delete: %v", err)
		}
		lab.Must(t, e.Delete(ctx, "d"))
		if _, err := e.Get(ctx, "d"); !errors.Is(err, syncengine.ErrNotFound) {
			t.Errorf("after Delete: %v", err)
		}
	}
}

// An item that was read while merges waited may be what a condition is about when they have landed:
// nobody has written it since.
func TestAConditionMayNameAViewWhoseMergesHaveLanded(t *testing.T) {
	ctx := context.Background()
	each := func(t *testing.T, cfg syncengine.Config, _ *sql.DB) {
		e := lab.Open(t, cfg)
		read := func(id, delta string) syncengine.Item {
			t.Helper()
			_, err := e.Merge(ctx, id, "PNCounter", []byte(delta))
			lab.Must(t, err)
			it, err := e.Get(ctx, id)
			lab.Must(t, err)
			return it
		}
		put, deleted, changed := read("put", "5"), read("deleted", "5"), read("changed", "5")
		lab.Must(t, e.Flush(ctx))
		_, err := e.Merge(ctx, "changed", "PNCounter", []byte("1"))
		lab.Must(t, err)
		for range 2 { // while that waits, and when it has landed
			if err := e.Submit(ctx, changed, syncengine.IfUnchanged()); !errors.Is(err, syncengine.ErrConflict) {
				t.Errorf("a put of what has changed: %v", err)
			}
			if err := e.Delete(ctx, "changed", syncengine.WithIfVersion(changed.Version)); !errors.Is(err, syncengine.ErrConflict) {
				t.Errorf("a delete of what has changed: %v", err)
			}
			lab.Must(t, e.Flush(ctx))
		}
		lab.NoError(t, "a put", e.Submit(ctx, put, syncengine.IfUnchanged()))
		lab.NoError(t, "a delete", e.Delete(ctx, "deleted", syncengine.WithIfVersion(deleted.Version)))
		if _, err := e.Get(ctx, "deleted"); !errors.Is(err, syncengine.ErrNotFound) {
			t.Errorf("after the delete: %v", err)
		}
		if err := e.Delete(ctx, "deleted", syncengine.WithIfVersion(deleted.Version)); !errors.Is(err, syncengine.ErrConflict) {
			t.Errorf("a second delete: %v", err)
		}
	}
	lab.EachL3(t, each)
	t.Run("in Dir", func(t *testing.T) { each(t, syncengine.Config{}, nil) })
}
