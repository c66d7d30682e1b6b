//go:build !crdt

package syncengine_test

import (
	"context"
	"errors"
	"reflect"
	"testing"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/storetest"
)

// mergeOf is a merge as an engine with -tags crdt accepts it.
func mergeOf(id string) syncengine.Record {
	rec := storetest.Put(syncengine.MergeKey{ID: id, Node: "n", Seq: 1, Delta: true}.String(), 7, "1")
	rec.CRDT = "PNCounter"
	return rec
}

// TestABuildWithoutKindsOpensNoWALInWhichMergesWait: they were acknowledged, and L3 would refuse
// them all.
func TestABuildWithoutKindsOpensNoWALInWhichMergesWait(t *testing.T) {
	ctx := context.Background()
	cfg := syncengine.Config{Dir: t.TempDir()}
	t.Run("written", func(t *testing.T) {
		j := syncengine.NewJournal(t, cfg.Dir, 100, 1<<20)
		_, err := syncengine.AppendTo(j, syncengine.OpsOf(storetest.Put("x", 6, "1"), mergeOf("c"))...)
		lab.Must(t, err)
	})
	look := func() (st syncengine.DirStatus, ops []syncengine.LoggedOp) {
		st, err := syncengine.ReadOffline(ctx, cfg, func(op syncengine.LoggedOp) error {
			ops = append(ops, op)
			return nil
		})
		lab.Must(t, err)
		return st, ops
	}
	st, ops := look()
	if len(ops) != 2 || !ops[1].Merge {
		t.Fatalf("in the WAL are %+v", ops)
	}
	e, err := syncengine.Open(ctx, cfg)
	if !errors.Is(err, syncengine.ErrFeatureNotBuilt) {
		t.Errorf("Open: %v", err)
		if err == nil {
			_ = e.Close()
		}
	}
	if err := syncengine.ForgetDatabase(ctx, cfg); !errors.Is(err, syncengine.ErrFeatureNotBuilt) {
		t.Errorf("ForgetDatabase: %v", err)
	}
	if s, o := look(); !reflect.DeepEqual(s, st) || !reflect.DeepEqual(o, ops) {
		t.Errorf("the WAL was %+v %+v, is %+v %+v", st, ops, s, o)
	}
}

// TestABuildWithoutKindsRetriesNoMerges: it could not open their WAL again. In quarantine they are
// in nobody's way.
func TestABuildWithoutKindsRetriesNoMerges(t *testing.T) {
	ctx := context.Background()
	cfg := syncengine.Config{Dir: t.TempDir()}
	h := syncengine.HouseOn(t, syncengine.Plan{L3: storetest.NewArchive(), Config: cfg})
	refuse(t, h, storetest.Put("x", 6, string(lab.Doc("x", 1))))
	refuse(t, h, mergeOf("c"))
	if n, err := h.Bad.Retry(ctx); n != 1 || !errors.Is(err, syncengine.ErrFeatureNotBuilt) || h.Bad.Count() != 1 {
		t.Errorf("%d retried, %v; %d are left", n, err, h.Bad.Count())
	}
	h.End()
	e := lab.Open(t, cfg)
	lab.WantContent(t, e, "x", 1)
	if ops, err := e.Quarantined(ctx); err != nil || len(ops) != 1 || ops[0].ID != "c" {
		t.Errorf("in quarantine are %+v, %v", ops, err)
	}
}
