//go:build crdt

package merging

import (
	"context"
	"encoding/json"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

// daysAgo numbers a merge as one of so many days ago.
func daysAgo(n int) syncengine.WriteOption {
	return syncengine.WithVersion(syncengine.VersionAt(time.Now().AddDate(0, 0, -n)))
}

// rowsOf counts the rows of an item in sync_ops: of merges, snapshots of days, bases.
func rowsOf(t testing.TB, url, id string) (merges, days, bases int64) {
	t.Helper()
	db := testserver.OpenSQL(t, url)
	count := func(like string) int64 {
		var n int64
		lab.Must(t, db.QueryRow("SELECT COUNT(*) FROM sync_ops WHERE op LIKE ?", like).Scan(&n))
		return n
	}
	return count(id + "\x00%/%/%"), count(id + "\x00@%"), count(id + "\x00")
}

func TestCompactionKeepsWhatItMust(t *testing.T) {
	ctx := context.Background()
	url := l3s["MariaDB"](t)
	var done, steps atomic.Int64
	cfg := syncengine.Config{SQLURL: url, RetentionFullDays: 7, RetentionCompactDays: 30, OnEvent: syncengine.Events{
		Compacted: func(_ syncengine.CompactReport, over bool) {
			if steps.Add(1); over {
				done.Add(1)
			}
			panic("stays here")
		},
	}}
	e := lab.Open(t, cfg)
	for _, n := range []int{60, 50, 40, 31, 29, 29, 20, 10, 10, 8, 6, 5, 1, 0} {
		merge(t, e, "c", "GCounter", "1", daysAgo(n))
	}
	lab.Must(t, e.Flush(ctx))
	before, err := e.Get(ctx, "c")
	lab.Must(t, err)
	r, err := e.Compact(ctx)
	lab.Must(t, err)
	if r.Items != 1 || r.Ops != 10 || r.Damaged != 0 || r.Elsewhere {
		t.Errorf("%+v", r)
	}
	if merges, days, bases := rowsOf(t, url, "c"); merges != 4 || days != 4 || bases != 1 {
		t.Errorf("%d merges, %d days, %d bases are left; want 4, 4, 1", merges, days, bases)
	}
	lab.Eventually(t, "the end is told", func() bool { return done.Load() == 1 && steps.Load() > 1 })
	after, err := lab.Open(t, syncengine.Config{SQLURL: url}).Get(ctx, "c")
	if value(t, after, err) != "14" || after.Version != before.Version {
		t.Errorf("%s at %d, it was at %d", after.Content, after.Version, before.Version)
	}
	again, err := e.Rebuild(ctx, "c")
	if value(t, again, err) != "14" || again.Version != before.Version {
		t.Errorf("rebuilt: %s", again.Content)
	}
	if r, err := e.Compact(ctx); err != nil || r.Ops != 0 {
		t.Errorf("once more: %+v, %v", r, err)
	}
	merge(t, e, "c", "GCounter", "1", daysAgo(9)) // comes late
	lab.Must(t, e.Flush(ctx))
	if r, err := e.Compact(ctx); err != nil || r.Ops != 0 { // what came before it is younger
		t.Errorf("with a late one: %+v, %v", r, err)
	}
	wantValue(t, e, "c", "15")
}

func TestCompactionGoesOnInTheBackground(t *testing.T) {
	var folded atomic.Int64
	e := lab.Open(t, syncengine.Config{Dir: t.TempDir(), CompactionInterval: 20 * time.Millisecond, OnEvent: syncengine.Events{
		Compacted: func(r syncengine.CompactReport, done bool) {
			if done {
				folded.Add(int64(r.Ops))
			}
		},
	}})
	for range 20 {
		merge(t, e, "c", "GCounter", "1", daysAgo(10))
	}
	lab.Eventually(t, "all are folded", func() bool { return folded.Load() == 20 })
	wantValue(t, e, "c", "20")
}

// TestOneOfSeveralEnginesCompacts while its pass goes on, and another one as soon as that has
// ended, however it did.
func TestOneOfSeveralEnginesCompacts(t *testing.T) {
	ctx := context.Background()
	url := l3s["MariaDB"](t)
	db := testserver.OpenSQL(t, url)
	a, b := lab.Open(t, syncengine.Config{SQLURL: url, L3Timeout: time.Minute}), lab.Open(t, syncengine.Config{SQLURL: url})
	merge(t, a, "c", "GCounter", "1", daysAgo(10))
	lab.Must(t, a.Flush(ctx))
	held, err := db.Begin() // the item's row: a pass stops there
	lab.Must(t, err)
	defer func() { _ = held.Rollback() }()
	lab.Must(t, held.QueryRow("SELECT id FROM sync_items WHERE id = 'c' FOR UPDATE").Scan(new(string)))
	during, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		_, err := a.Compact(during)
		ended <- err
	}()
	lab.Eventually(t, "the first is at work", func() bool {
		return lab.Number(t, db, "SELECT COUNT(*) FROM sync_ops WHERE op = x'00'") == 1
	})
	if r, err := b.Compact(ctx); err != nil || !r.Elsewhere {
		t.Errorf("meanwhile the other: %+v, %v", r, err)
	}
	cancel()
	if err := <-ended; err == nil {
		t.Error("the first has come to an end")
	}
	lab.Must(t, held.Rollback())
	if r, err := b.Compact(ctx); err != nil || r.Elsewhere || r.Ops != 1 {
		t.Errorf("then the other: %+v, %v", r, err)
	}
	for range 2 {
		for _, e := range []*syncengine.Engine{a, b} {
			if r, err := e.Compact(ctx); err != nil || r.Elsewhere {
				t.Errorf("one after the other: %+v, %v", r, err)
			}
		}
	}
}

// TestADamagedRowIsRebuiltFromItsMerges in each way to read it, and tells of damaged merges.
func TestADamagedRowIsRebuiltFromItsMerges(t *testing.T) {
	ctx := context.Background()
	url := l3s["MariaDB"](t)
	db := testserver.OpenSQL(t, url)
	writer := lab.Open(t, syncengine.Config{SQLURL: url})
	for n := range 20 {
		merge(t, writer, "c", "GCounter", "1", daysAgo(20-n))
	}
	lab.Must(t, writer.Flush(ctx))
	_, err := writer.Compact(ctx)
	lab.Must(t, err)
	for name, read := range map[string]func(e *syncengine.Engine) (syncengine.Item, error){
		"Get":         func(e *syncengine.Engine) (syncengine.Item, error) { return e.Get(ctx, "c") },
		"GetVerified": func(e *syncengine.Engine) (syncengine.Item, error) { return e.GetVerified(ctx, "c") },
		"GetMany": func(e *syncengine.Engine) (syncengine.Item, error) {
			items, err := e.GetMany(ctx, []string{"c"})
			if err != nil || items[0] == nil {
				return syncengine.Item{}, errors.Join(err, errors.New("no item"))
			}
			return *items[0], nil
		},
		"Rebuild": func(e *syncengine.Engine) (syncengine.Item, error) { return e.Rebuild(ctx, "c") },
		"Verify": func(e *syncengine.Engine) (syncengine.Item, error) {
			r, err := e.Verify(ctx, syncengine.VerifyOptions{Deep: true, Repair: true})
			if err != nil || r.Healed != 1 {
				t.Errorf("Verify: %+v, %v", r, err)
			}
			return e.Get(ctx, "c")
		},
		"Merge": func(e *syncengine.Engine) (syncengine.Item, error) {
			return e.Merge(ctx, "c", "GCounter", json.RawMessage("0"), syncengine.WithDurability(syncengine.Archived))
		},
	} {
		_, err := db.Exec("UPDATE sync_items SET content = 'nonsense' WHERE id = 'c'")
		lab.Must(t, err)
		e := lab.Open(t, syncengine.Config{SQLURL: url})
		it, err := read(e)
		if got := value(t, it, err); got != "20" {
			t.Errorf("%s: %s", name, got)
		}
		if name != "Merge" && e.Stats().Healed != 1 {
			t.Errorf("%s: healed %d", name, e.Stats().Healed)
		}
		wantValue(t, lab.Open(t, syncengine.Config{SQLURL: url}), "c", "20")
		lab.Must(t, e.Close())
	}
	if v, err := writer.Verify(ctx, syncengine.VerifyOptions{Deep: true}); err != nil || len(v.Divergent) > 0 {
		t.Errorf("Verify: %+v, %v", v, err)
	}
	var told atomic.Int64
	e := lab.Open(t, syncengine.Config{SQLURL: url, OnEvent: syncengine.Events{Corrupted: func(*syncengine.CorruptionError) { told.Add(1) }}})
	_, err = db.Exec("UPDATE sync_ops SET content = '7' WHERE op LIKE 'c\x00%/d' LIMIT 1")
	lab.Must(t, err)
	it, err := e.Rebuild(ctx, "c")
	if got := value(t, it, err); got != "20" {
		t.Errorf("with a damaged merge: %s", got)
	}
	lab.Eventually(t, "the damaged merge is told of", func() bool { return told.Load() == 1 })
	if r, err := e.Compact(ctx); err != nil || r.Damaged != 0 {
		t.Logf("Compact: %+v, %v", r, err)
	}
}

// TestTheBaseRemembersNodesNotMerges, but for those of which something may still come: here one
// that L3 refuses for a while, which is older than all that is folded.
func TestTheBaseRemembersNodesNotMerges(t *testing.T) {
	ctx := context.Background()
	url := l3s["MariaDB"](t)
	db := testserver.OpenSQL(t, url)
	e := lab.Open(t, syncengine.Config{SQLURL: url})
	applied := func() (n int) {
		t.Helper()
		lab.Must(t, db.QueryRow("SELECT LENGTH(applied) FROM sync_ops WHERE op = ?", "c\x00").Scan(&n))
		return n
	}
	_, err := db.Exec("CREATE TRIGGER no_13 BEFORE INSERT ON sync_ops FOR EACH ROW IF NEW.content = '13' THEN SIGNAL SQLSTATE '45000'; END IF")
	lab.Must(t, err)
	merge(t, e, "c", "GCounter", "13", daysAgo(20))
	if err := e.Flush(ctx); !errors.Is(err, syncengine.ErrRefused) {
		t.Fatalf("Flush: %v", err)
	}
	for range 300 {
		merge(t, e, "c", "GCounter", "1", daysAgo(20))
	}
	if err := e.Flush(ctx); err != nil && !errors.Is(err, syncengine.ErrRefused) {
		t.Fatal(err)
	}
	r, err := e.Compact(ctx)
	if err != nil || r.Ops != 300 {
		t.Fatalf("%+v, %v", r, err)
	}
	if n := applied(); n < 300 {
		t.Errorf("with one in quarantine the base has %d bytes: it has forgotten dots", n)
	}
	_, err = db.Exec("DROP TRIGGER no_13")
	lab.Must(t, err)
	if n, err := e.RetryQuarantined(ctx); n != 1 || err != nil {
		t.Fatalf("retried %d, %v", n, err)
	}
	lab.Must(t, e.Flush(ctx))
	wantValue(t, e, "c", "313")
	merge(t, e, "c", "GCounter", "1", daysAgo(20))
	lab.Must(t, e.Flush(ctx))
	if r, err := e.Compact(ctx); err != nil || r.Ops != 2 {
		t.Fatalf("%+v, %v", r, err)
	}
	if n := applied(); n > 64 {
		t.Errorf("with all settled the base has %d bytes", n)
	}
	wantValue(t, lab.Open(t, syncengine.Config{SQLURL: url}), "c", "314")
}
