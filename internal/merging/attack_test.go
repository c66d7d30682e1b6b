//go:build crdt

package merging

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/crdt"
	"github.com/syncengine-go/syncengine/internal/faultproxy"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

// TestINV04ADeleteTakesWhatCameBeforeItWheneverItLands: a merge that came later overtakes it, since
// it is more urgent.
func TestINV04ADeleteTakesWhatCameBeforeItWheneverItLands(t *testing.T) {
	ctx := context.Background()
	buffered, archived := syncengine.WithDurability(syncengine.Buffered), syncengine.WithDurability(syncengine.Archived)
	for name, l3 := range l3s {
		t.Run(name, func(t *testing.T) {
			e := lab.Open(t, syncengine.Config{SQLURL: l3(t), BatchFlushCount: 1, BatchFlushInterval: time.Hour})
			merge(t, e, "c", "GCounter", "100", archived)
			for n := range 50 {
				lab.Must(t, e.Submit(ctx, syncengine.Item{ID: fmt.Sprint("id-", n), Content: []byte(`1`)}, buffered, syncengine.WithPriority(syncengine.PriorityHigh)))
			}
			lab.Must(t, e.Delete(ctx, "c", buffered))
			merge(t, e, "c", "GCounter", "1", buffered, syncengine.WithPriority(syncengine.PriorityCritical))
			wantValue(t, e, "c", "1")
			lab.Must(t, e.Flush(ctx))
			wantValue(t, e, "c", "1")
			if s := e.Stats(); s.Superseded != 0 {
				t.Errorf("%d superseded", s.Superseded)
			}
			_, err := e.Rebuild(ctx, "c")
			lab.Must(t, err)
			wantValue(t, e, "c", "1")
		})
	}
}

// TestINV04ADeleteOfAnEngineThatWasCutOffLandsLate: another engine's merge was in L3 first.
func TestINV04ADeleteOfAnEngineThatWasCutOffLandsLate(t *testing.T) {
	ctx := context.Background()
	server := testserver.SharedMariaDB(t)
	url, p := server.NewDatabase(t), faultproxy.New(t, server.Addr())
	archived := syncengine.WithDurability(syncengine.Archived)
	a := lab.Open(t, syncengine.Config{SQLURL: lab.Via(t, url, p), L3Timeout: time.Second})
	b := lab.Open(t, syncengine.Config{SQLURL: url, L1MaxAge: time.Millisecond})
	merge(t, a, "c", "GCounter", "100", archived)
	p.Cut()
	lab.Must(t, a.Delete(ctx, "c"))
	deleted := time.Now()
	lab.Eventually(t, "it is later", func() bool { return time.Since(deleted) > 2*time.Millisecond }) // versions are of milliseconds
	merge(t, b, "c", "GCounter", "1", archived)
	p.Restore()
	lab.Eventually(t, "the delete lands", func() bool { return a.Flush(ctx) == nil })
	wantValue(t, a, "c", "1")
	lab.Eventually(t, "the other sees it", func() bool { it, err := b.Get(ctx, "c"); return value(t, it, err) == "1" })
}

// TestAMergeOlderThanADeleteIsNotShown, not even until L3 says so.
func TestAMergeOlderThanADeleteIsNotShown(t *testing.T) {
	ctx := context.Background()
	e := lab.Open(t, syncengine.Config{Dir: t.TempDir(), BatchFlushInterval: time.Hour})
	archived := syncengine.WithDurability(syncengine.Archived)
	merge(t, e, "c", "GCounter", "1", archived)
	lab.Must(t, e.Delete(ctx, "c", archived))
	_, err := e.Merge(ctx, "c", "GCounter", json.RawMessage("100"), daysAgo(1))
	lab.Must(t, err)
	for range 2 {
		if it, err := e.Get(ctx, "c"); !errors.Is(err, syncengine.ErrNotFound) {
			t.Errorf("%s, %v", it.Content, err)
		}
		lab.Must(t, e.Flush(ctx))
	}
}

// TestAMergeMayBeOlderThanItsItem, whatever its durability: it is no older form of it.
func TestAMergeMayBeOlderThanItsItem(t *testing.T) {
	for _, cfg := range []syncengine.Config{{Dir: t.TempDir()}, {SQLURL: l3s["SQLite"](t)}} {
		e := lab.Open(t, cfg)
		for n, d := range []syncengine.Durability{syncengine.Archived, syncengine.Buffered, syncengine.Logged, syncengine.Archived} {
			merge(t, e, "c", "GCounter", "1", syncengine.WithDurability(d), daysAgo(n))
		}
		wantValue(t, e, "c", "4")
	}
}

func TestKindsAreKnownOfWhatWaits(t *testing.T) {
	ctx := context.Background()
	e := lab.Open(t, syncengine.Config{Dir: t.TempDir(), BatchFlushInterval: time.Hour})
	merge(t, e, "c", "GCounter", "1")
	if _, err := e.Merge(ctx, "c", "PNCounter", json.RawMessage("1")); !errors.Is(err, syncengine.ErrKindMismatch) {
		t.Errorf("another kind: %v", err)
	}
	if err := e.Submit(ctx, syncengine.Item{ID: "c", Content: []byte(`1`)}); !errors.Is(err, syncengine.ErrKindMismatch) {
		t.Errorf("a plain item: %v", err)
	}
	set := syncengine.Item{ID: "g", CRDT: "GSet", Content: crdt.Empty(crdt.KindGSet)}
	for _, other := range []syncengine.Item{{ID: "g", Content: []byte(`1`)}, {ID: "g", CRDT: "GCounter", Content: crdt.Empty(crdt.KindGCounter)}} {
		if _, err := e.SubmitMany(ctx, []syncengine.Item{set, other}); !errors.Is(err, syncengine.ErrKindMismatch) {
			t.Errorf("a group with one id in two kinds, the other %q: %v", other.CRDT, err)
		}
	}
	var both []syncengine.Item
	for _, element := range []string{`["x"]`, `["y"]`} {
		content, err := crdt.Apply(crdt.KindGSet, nil, []byte(element), crdt.Op{Node: "n" + element[2:3]})
		lab.Must(t, err)
		both = append(both, syncengine.Item{ID: "g", CRDT: "GSet", Content: content})
	}
	_, err := e.SubmitMany(ctx, both)
	lab.Must(t, err)
	wantValue(t, e, "g", `["x","y"]`)
	lab.Must(t, e.Delete(ctx, "c"))
	lab.Must(t, e.Submit(ctx, syncengine.Item{ID: "c", Content: []byte(`1`)}))
	lab.Must(t, e.Flush(ctx))
}

// TestARefusalOfL3IsNoOutage as its caller sees it.
func TestARefusalOfL3IsNoOutage(t *testing.T) {
	ctx := context.Background()
	url := l3s["SQLite"](t)
	a, b := lab.Open(t, syncengine.Config{SQLURL: url}), lab.Open(t, syncengine.Config{SQLURL: url})
	archived := syncengine.WithDurability(syncengine.Archived)
	lab.Must(t, a.Submit(ctx, syncengine.Item{ID: "plain", Content: []byte(`1`)}, archived))
	_, err := b.Merge(ctx, "plain", "GCounter", json.RawMessage("1"), archived)
	if !errors.Is(err, syncengine.ErrRefused) || !errors.Is(err, syncengine.ErrKindMismatch) || errors.Is(err, syncengine.ErrUnavailable) {
		t.Errorf("%v", err)
	}
}

func TestAFactoryMayMakeAnItemWithAKind(t *testing.T) {
	ctx := context.Background()
	for _, cfg := range []syncengine.Config{{Dir: t.TempDir()}, {SQLURL: l3s["SQLite"](t)}} {
		e := lab.Open(t, cfg)
		it, err := e.GetOrInsertWith(ctx, "made", func(context.Context) (syncengine.Item, error) {
			return syncengine.Item{CRDT: "GSet", Content: crdt.Empty(crdt.KindGSet)}, nil
		})
		if err != nil || it.ID != "made" || it.CRDT != "GSet" {
			t.Errorf("%+v, %v", it, err)
		}
		merge(t, e, "made", "GSet", `["x"]`)
		wantValue(t, e, "made", `["x"]`)
	}
}

// TestManySmallMergesIntoALargeItemLand in one transaction, in time: a merge that read the whole
// item for itself would take thousands of times as long.
func TestManySmallMergesIntoALargeItemLand(t *testing.T) {
	ctx := context.Background()
	url := l3s["SQLite"](t)
	first := lab.Open(t, syncengine.Config{SQLURL: url})
	var large []string
	for n := range 20_000 {
		large = append(large, fmt.Sprintf("%q", fmt.Sprint("element-number-", n)))
	}
	merge(t, first, "s", "GSet", "["+strings.Join(large, ",")+"]", syncengine.WithDurability(syncengine.Archived))
	lab.Must(t, first.Close())
	e := lab.Open(t, syncengine.Config{SQLURL: url, L3Timeout: time.Minute})
	for n := range 1000 {
		merge(t, e, "s", "GSet", fmt.Sprintf(`["x%d"]`, n), syncengine.WithDurability(syncengine.Buffered))
	}
	lab.Must(t, e.Flush(ctx))
	it, err := e.Get(ctx, "s")
	lab.Must(t, err)
	var s crdt.GSet
	lab.Must(t, json.Unmarshal(it.Content, &s))
	if n := len(s.Elements()); n != 21_000 {
		t.Errorf("%d elements", n)
	}
}
