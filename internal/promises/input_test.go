package promises

// input_test.go puts odd ids and contents through every tier by the front door, and shows
// that what is refused is refused before anything happens.

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/storetest"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

// inputConfig is a config for these tests: patient, since some contents are large.
func inputConfig(t testing.TB) syncengine.Config {
	return syncengine.Config{Dir: t.TempDir(), L2Timeout: 20 * time.Second, L3Timeout: 20 * time.Second, L1MaxBytes: 1 << 30}
}

// openInput opens an engine for the test. The close is checked: nothing may be left over.
func openInput(t testing.TB, cfg syncengine.Config) *syncengine.Engine {
	t.Helper()
	e, err := syncengine.Open(lab.Bounded(t), cfg)
	lab.NoError(t, "open", err)
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return e
}

// nested is valid JSON of the given depth, arrays and objects in turn.
func nested(depth int) string {
	return strings.Repeat(`[{"a":`, depth/2) + strings.Repeat("[", depth%2) + "1" + strings.Repeat("]", depth%2) + strings.Repeat("}]", depth/2)
}

// acceptedItems are items with distinct ids: every odd id, and every odd content.
func acceptedItems() []syncengine.Item {
	contents := append(storetest.Contents(), nested(500), nested(10_000),
		strings.Repeat("[", 10_000)+strings.Repeat("]", 10_000), strings.Repeat(`{"":`, 10_000)+"0"+strings.Repeat("}", 10_000))
	var items []syncengine.Item
	for i, id := range storetest.IDs() {
		items = append(items, syncengine.Item{ID: id, Content: fmt.Appendf(nil, `{"id":%d}`, i)})
	}
	for i, c := range contents {
		items = append(items, syncengine.Item{ID: fmt.Sprintf("content-%d", i), Content: []byte(c)})
	}
	return items
}

// wantItem asserts what a tier answered.
func wantItem(t testing.TB, from string, got *syncengine.Item, err error, want *syncengine.Item) {
	t.Helper()
	if err != nil || got == nil {
		t.Errorf("%s: id %.80q: %v, %v", from, want.ID, got, err)
		return
	}
	if got.ID != want.ID || !bytes.Equal(got.Content, want.Content) || got.ContentHash != sha256.Sum256(want.Content) {
		t.Errorf("%s: id %.80q: got id %.80q, content %.80q, hash %x; want content %.80q", from, want.ID, got.ID, got.Content, got.ContentHash, want.Content)
	}
}

// wantItems asserts that e answers all items, by Get and, in an engine of its own that is
// as cold, by GetMany.
func wantItems(t *testing.T, from string, open func() *syncengine.Engine, items []syncengine.Item, check func(syncengine.Stats)) {
	t.Helper()
	e := open()
	for i := range items {
		got, err := e.Get(lab.Bounded(t), items[i].ID)
		wantItem(t, from, &got, err, &items[i])
	}
	check(e.Stats())
	many := open()
	got, err := many.GetMany(lab.Bounded(t), itemIDs(items))
	lab.NoError(t, from+": get many", err)
	for i := range items {
		wantItem(t, from+" by GetMany", got[i], nil, &items[i])
	}
	if many != e {
		check(many.Stats())
	}
}

func itemIDs(items []syncengine.Item) []string {
	ids := make([]string, len(items))
	for i := range items {
		ids[i] = items[i].ID
	}
	return ids
}

// deafArchive takes writes and lists ids, but answers no read.
type deafArchive struct{ syncengine.ArchiveStore }

func (deafArchive) Get(context.Context, string) (syncengine.Record, error) {
	return syncengine.Record{}, fmt.Errorf("deaf: %w", syncengine.ErrUnavailable)
}

func (deafArchive) GetMany(context.Context, []string) ([]syncengine.Found, error) {
	return nil, fmt.Errorf("deaf: %w", syncengine.ErrUnavailable)
}

// readOnlyArchive takes no writes.
type readOnlyArchive struct{ syncengine.ArchiveStore }

func (readOnlyArchive) Apply(context.Context, []syncengine.Record) ([]syncengine.Meta, error) {
	return nil, fmt.Errorf("read-only: %w", syncengine.ErrUnavailable)
}

func TestINV11EveryTierKeepsEveryIDAndContent(t *testing.T) {
	items := acceptedItems()
	for _, srv := range lab.SQLServers {
		t.Run(srv.Name, func(t *testing.T) {
			cfg := inputConfig(t)
			cfg.SQLURL, cfg.RedisURL, cfg.KeyPrefix = srv.URL(t), testserver.SharedRedis(t).URL(), lab.NewPrefix()
			e := openInput(t, cfg)
			for _, it := range items {
				lab.NoError(t, fmt.Sprintf("submit %.80q", it.ID), e.Submit(lab.Bounded(t), it, syncengine.WithDurability(syncengine.Buffered)))
			}
			lab.NoError(t, "flush", e.Flush(lab.Bounded(t)))
			wantItems(t, "L1", func() *syncengine.Engine { return e }, items, func(s syncengine.Stats) {
				if s.L2Hits+s.L2Misses+s.L3Hits+s.L3Misses != 0 || s.L1Items != len(items) || s.L2Missed != 0 {
					t.Errorf("L1 did not answer alone: %+v", s)
				}
			})
			wantItems(t, "L2", func() *syncengine.Engine {
				cold := inputConfig(t)
				cold.RedisURL, cold.KeyPrefix, cold.L3 = cfg.RedisURL, cfg.KeyPrefix, deafArchive{lab.ArchiveAt(t, cfg.SQLURL)}
				return openInput(t, cold)
			}, items, func(s syncengine.Stats) {
				if int(s.L2Hits) != len(items) || s.L3Hits != 0 || s.L2Misses != 0 || s.Corruptions != 0 {
					t.Errorf("L2 did not answer alone: %+v", s)
				}
			})
			wantItems(t, "L3", func() *syncengine.Engine {
				cold := inputConfig(t)
				cold.SQLURL = cfg.SQLURL
				return openInput(t, cold)
			}, items, func(s syncengine.Stats) {
				if int(s.L3Hits) != len(items) || s.L2Hits != 0 || s.L3Misses != 0 || s.Corruptions != 0 {
					t.Errorf("L3 did not answer alone: %+v", s)
				}
			})
			var rows int
			lab.NoError(t, "count", srv.Raw(t, cfg.SQLURL).QueryRowContext(lab.Bounded(t), "SELECT COUNT(*) FROM sync_items").Scan(&rows))
			if rows != len(items) {
				t.Errorf("%d rows for %d distinct ids", rows, len(items))
			}
			report, err := e.Verify(lab.Bounded(t), syncengine.VerifyOptions{})
			if err != nil || !report.InSync {
				t.Errorf("verify: %v, in sync %v, divergent %.300q", err, report.InSync, report.Divergent)
			}
		})
	}
}

// The WAL is a tier too: what only it holds comes back from it, after a restart.
func TestINV11TheWALKeepsEveryIDAndContent(t *testing.T) {
	items := acceptedItems()
	cfg := inputConfig(t)
	cfg.L3 = readOnlyArchive{storetest.NewArchive()}
	e, err := syncengine.Open(lab.Bounded(t), cfg)
	lab.NoError(t, "open", err)
	for _, it := range items {
		lab.NoError(t, fmt.Sprintf("submit %.80q", it.ID), e.Submit(lab.Bounded(t), it))
	}
	var pending *syncengine.PendingError
	if err := e.Close(); !errors.As(err, &pending) || pending.Ops != len(items) {
		t.Fatalf("close: %v, want %d ops pending", err, len(items))
	}
	e, err = syncengine.Open(lab.Bounded(t), cfg)
	lab.NoError(t, "open again", err)
	for i := range items {
		got, err := e.Get(lab.Bounded(t), items[i].ID)
		wantItem(t, "WAL", &got, err, &items[i])
	}
	if err := e.Close(); !errors.As(err, &pending) || pending.Ops != len(items) {
		t.Errorf("close: %v, want %d ops pending", err, len(items))
	}
	// And from there they reach an L3 that takes them.
	cfg.L3 = storetest.NewArchive()
	e = openInput(t, cfg)
	lab.NoError(t, "flush", e.Flush(lab.Bounded(t)))
	cold := inputConfig(t)
	cold.L3 = cfg.L3
	wantItems(t, "drained", func() *syncengine.Engine { cold.Dir = t.TempDir(); return openInput(t, cold) }, items, func(syncengine.Stats) {})
}

// refusal is an item that must not pass, with the field and the words that say why.
type refusal struct {
	name, field, rule string
	item              syncengine.Item
}

func refusedIDs() map[string]string {
	long := strings.Repeat("x", syncengine.MaxIDBytes+1)
	return map[string]string{
		"": "empty", "\x00": "control", "a\x00b": "control", "a\n": "control", "\t": "control", "\x7f": "control", "a\x1fb": "control",
		"a\u0085": "control", "\u009f": "control", "\u0080\u00e9": "control", "\xff": "UTF-8", "a\xc3": "UTF-8", "\xc0\x80": "UTF-8",
		"\xed\xa0\x80": "UTF-8", "\xf4\x90\x80\x80": "UTF-8", "\u00e9\x80": "UTF-8", long: "512 bytes",
		strings.Repeat("\U0001f600", syncengine.MaxIDBytes/4) + "x": "512 bytes", strings.Repeat("x", 1<<20): "512 bytes",
	}
}

func refusedItems(maxBytes int) []refusal {
	ok := []byte(`1`)
	var out []refusal
	for _, id := range slices.Sorted(maps.Keys(refusedIDs())) {
		out = append(out, refusal{fmt.Sprintf("id %.20q", id), "ID", refusedIDs()[id], syncengine.Item{ID: id, Content: ok}})
	}
	for i, c := range []string{
		`{`, `{}x`, `1 2`, `{}{}`, `NaN`, `Infinity`, `-Infinity`, `{"a":NaN}`, "\ufeff{}", "\"\xff\"", "{\"\xc3\":1}", "\"\xed\xa0\x80\"", "\"\xc0\x80\"",
		`'a'`, `{a:1}`, `[1,]`, `{"a":1,}`, "\"\n\"", "\"\x00\"", `"\x41"`, `01`, `+1`, `.5`, `1.`, `0x10`, ` `, "\n", "1\x00", "\u00a01", `tru`, `/**/1`,
		"\x28\xb5\x2f\xfd", "1" + strings.Repeat(" ", 10) + "}", nested(10_001), strings.Repeat("[", 10_001) + strings.Repeat("]", 10_001),
		strings.Repeat("[", 60_000), strings.Repeat(`{"a":`, 10_001) + "1" + strings.Repeat("}", 10_001),
	} {
		out = append(out, refusal{fmt.Sprintf("content %d %.20q", i, c), "Content", "valid JSON", syncengine.Item{ID: "refused", Content: []byte(c)}})
	}
	large := []byte(`"` + strings.Repeat("x", maxBytes-1) + `"`)
	year := func(y int) time.Time { return time.Date(y, 6, 1, 0, 0, 0, 0, time.UTC) }
	return append(out,
		refusal{"nil content", "Content", "empty", syncengine.Item{ID: "refused"}},
		refusal{"empty content", "Content", "empty", syncengine.Item{ID: "refused", Content: []byte{}}},
		refusal{"one byte too many", "Content", "MaxItemBytes", syncengine.Item{ID: "refused", Content: large}},
		refusal{"priority 3", "Priority", "Priority", syncengine.Item{ID: "refused", Content: ok, Priority: 3}},
		refusal{"priority -2", "Priority", "Priority", syncengine.Item{ID: "refused", Content: ok, Priority: -2}},
		refusal{"long ago", "UpdatedAt", "years", syncengine.Item{ID: "refused", Content: ok, UpdatedAt: year(1677)}},
		refusal{"far ahead", "UpdatedAt", "years", syncengine.Item{ID: "refused", Content: ok, UpdatedAt: year(2262)}},
		refusal{"trace parent", "TraceParent", "64 bytes", syncengine.Item{ID: "refused", Content: ok, TraceParent: strings.Repeat("p", 65)}},
		refusal{"trace state", "TraceState", "512 bytes", syncengine.Item{ID: "refused", Content: ok, TraceState: strings.Repeat("s", 513)}},
		refusal{"home", "HomeInstanceID", "255 bytes", syncengine.Item{ID: "refused", Content: ok, HomeInstanceID: strings.Repeat("h", 256)}},
		refusal{"trace parent not UTF-8", "TraceParent", "UTF-8", syncengine.Item{ID: "refused", Content: ok, TraceParent: "\xff"}},
		refusal{"trace state not UTF-8", "TraceState", "UTF-8", syncengine.Item{ID: "refused", Content: ok, TraceState: "\xff"}},
		refusal{"home not UTF-8", "HomeInstanceID", "UTF-8", syncengine.Item{ID: "refused", Content: ok, HomeInstanceID: "\xff"}},
	)
}

// wantInvalid asserts ErrInvalidItem that names field and rule, and shows no content.
func wantInvalid(t testing.TB, what string, err error, field, rule string) {
	t.Helper()
	var ie *syncengine.InvalidItemError
	if !errors.As(err, &ie) || !errors.Is(err, syncengine.ErrInvalidItem) {
		t.Errorf("%s: %v, want ErrInvalidItem", what, err)
		return
	}
	if ie.Field != field || !strings.Contains(ie.Rule, rule) || !strings.Contains(err.Error(), field) || !strings.Contains(err.Error(), rule) {
		t.Errorf("%s: %v: want field %s and a rule with %q", what, err, field, rule)
	}
	if ie.TooLarge != (rule == "MaxItemBytes") {
		t.Errorf("%s: TooLarge is %v", what, ie.TooLarge)
	}
	if len(err.Error()) > 600 {
		t.Errorf("%s: an error text of %d bytes", what, len(err.Error()))
	}
}

func TestRefusedInputChangesNothing(t *testing.T) {
	const maxBytes = 64 << 10
	for _, srv := range lab.SQLServers {
		t.Run(srv.Name, func(t *testing.T) {
			cfg := inputConfig(t)
			cfg.SQLURL, cfg.RedisURL, cfg.KeyPrefix, cfg.MaxItemBytes = srv.URL(t), testserver.SharedRedis(t).URL(), lab.NewPrefix(), maxBytes
			e := openInput(t, cfg)
			good := syncengine.Item{ID: "good", Content: []byte(`1`)}
			lab.NoError(t, "submit", e.Submit(lab.Bounded(t), syncengine.Item{ID: "held", Content: []byte(`"held"`)}, syncengine.WithDurability(syncengine.Archived)))
			raw, rdb := srv.Raw(t, cfg.SQLURL), lab.RedisAt(t, cfg.RedisURL)
			lab.Eventually(t, "it listens", func() bool { return e.Stats().PushListens })
			lab.Trusted(t, e)
			before := e.Stats()
			unchanged := func(what string) {
				t.Helper()
				if after := e.Stats(); after != before {
					t.Errorf("%s changed the engine:\n got %+v\nwant %+v", what, after, before)
					before = after
				}
			}
			for _, r := range refusedItems(maxBytes) {
				for _, d := range []syncengine.Durability{syncengine.Buffered, syncengine.Logged, syncengine.Archived} {
					wantInvalid(t, r.name, e.Submit(lab.Bounded(t), r.item, syncengine.WithDurability(d)), r.field, r.rule)
					for at := range 3 { // the bad one first, amid, last
						group := slices.Insert([]syncengine.Item{good, {ID: "good too", Content: []byte(`2`)}}, at, r.item)
						res, err := e.SubmitMany(lab.Bounded(t), group, syncengine.WithDurability(d))
						wantInvalid(t, r.name+" in a group", err, r.field, r.rule)
						if res != (syncengine.BatchResult{Total: 3, Failed: 3}) {
							t.Errorf("%s in a group: %+v", r.name, res)
						}
					}
				}
				unchanged(r.name)
			}
			for id, rule := range refusedIDs() {
				what := fmt.Sprintf("id %.20q", id)
				wantInvalid(t, "delete "+what, e.Delete(lab.Bounded(t), id), "ID", rule)
				res, err := e.DeleteMany(lab.Bounded(t), []string{"held", id})
				wantInvalid(t, "delete many "+what, err, "ID", rule)
				if res != (syncengine.BatchResult{Total: 2, Failed: 2}) {
					t.Errorf("delete many %s: %+v", what, res)
				}
				_, err = e.Get(lab.Bounded(t), id)
				wantInvalid(t, "get "+what, err, "ID", rule)
				_, err = e.GetVerified(lab.Bounded(t), id)
				wantInvalid(t, "get verified "+what, err, "ID", rule)
				_, err = e.GetMany(lab.Bounded(t), []string{"held", id})
				wantInvalid(t, "get many "+what, err, "ID", rule)
				_, err = e.Status(lab.Bounded(t), id)
				wantInvalid(t, "status "+what, err, "ID", rule)
				_, err = e.GetOrInsertWith(lab.Bounded(t), id, func(context.Context) (syncengine.Item, error) {
					t.Errorf("%s: the factory ran", what)
					return syncengine.Item{}, nil
				})
				wantInvalid(t, "get or insert "+what, err, "ID", rule)
				if e.Contains(id) {
					t.Errorf("contains %s", what)
				}
				unchanged(what)
			}
			lab.WantRows(t, raw, 1)
			keys, err := rdb.Keys(lab.Bounded(t), cfg.KeyPrefix+"*").Result()
			keys = slices.DeleteFunc(keys, func(key string) bool { return strings.Contains(key, "\x00") }) // whose it is
			if err != nil || len(keys) != 1 {
				t.Errorf("keys in Redis: %q, %v", keys, err)
			}
		})
	}
}

// A group whose one item is stale is refused as a whole, too.
func TestAStaleItemRefusesItsGroup(t *testing.T) {
	e := openInput(t, inputConfig(t))
	lab.NoError(t, "submit", e.Submit(lab.Bounded(t), syncengine.Item{ID: "numbered", Content: []byte(`10`)}, syncengine.WithVersion(10)))
	for _, d := range []syncengine.Durability{syncengine.Buffered, syncengine.Logged, syncengine.Archived} {
		res, err := e.SubmitMany(lab.Bounded(t), []syncengine.Item{
			{ID: "a", Content: []byte(`1`)}, {ID: "numbered", Content: []byte(`9`)}, {ID: "b", Content: []byte(`1`)},
		}, syncengine.WithDurability(d), syncengine.WithVersion(9))
		if !errors.Is(err, syncengine.ErrStaleVersion) || res != (syncengine.BatchResult{Total: 3, Failed: 3}) {
			t.Errorf("%v: %+v, %v, want ErrStaleVersion", d, res, err)
		}
	}
	lab.NoError(t, "flush", e.Flush(lab.Bounded(t)))
	for _, id := range []string{"a", "b"} {
		if _, err := e.Get(lab.Bounded(t), id); !errors.Is(err, syncengine.ErrNotFound) {
			t.Errorf("%s: %v, want ErrNotFound", id, err)
		}
	}
}

func TestSameIDTwiceInAGroupLastWins(t *testing.T) {
	for _, d := range []syncengine.Durability{syncengine.Buffered, syncengine.Logged, syncengine.Archived} {
		t.Run(d.String(), func(t *testing.T) {
			cfg := inputConfig(t)
			cfg.Durability, cfg.RedisURL, cfg.KeyPrefix = d, testserver.SharedRedis(t).URL(), lab.NewPrefix()
			e := openInput(t, cfg)
			items := []syncengine.Item{
				{ID: "x", Content: []byte(`"z is above"`)}, {ID: "y", Content: []byte(`1`)}, {ID: "x", Content: []byte(`"2"`)},
				{ID: "n", Version: 7, Content: []byte(`7`)}, {ID: "n", Version: 3, Content: []byte(`3`)}, {ID: "x", Content: []byte(`"a"`)},
			}
			res, err := e.SubmitMany(lab.Bounded(t), items)
			if err != nil || res != (syncengine.BatchResult{Total: 6, Succeeded: 6}) {
				t.Fatalf("submit many: %+v, %v", res, err)
			}
			want := []syncengine.Item{{ID: "x", Content: []byte(`"a"`)}, {ID: "y", Content: []byte(`1`)}, {ID: "n", Content: []byte(`3`)}}
			check := func(from string, e *syncengine.Engine) {
				for i := range want {
					got, err := e.Get(lab.Bounded(t), want[i].ID)
					wantItem(t, from, &got, err, &want[i])
				}
			}
			check("L1", e)
			lab.NoError(t, "flush", e.Flush(lab.Bounded(t)))
			check("L1 after the flush", e)
			cold := inputConfig(t)
			cold.SQLURL = "sqlite:" + cfg.Dir + "/archive.db"
			check("L3", openInput(t, cold))
			cold = inputConfig(t)
			cold.RedisURL, cold.KeyPrefix, cold.L3 = cfg.RedisURL, cfg.KeyPrefix, deafArchive{storetest.NewArchive()}
			check("L2", openInput(t, cold))
			res, err = e.DeleteMany(lab.Bounded(t), []string{"x", "y", "x"})
			if err != nil || res != (syncengine.BatchResult{Total: 3, Succeeded: 3}) {
				t.Errorf("delete many: %+v, %v", res, err)
			}
			for _, id := range []string{"x", "y"} {
				if _, err := e.Get(lab.Bounded(t), id); !errors.Is(err, syncengine.ErrNotFound) {
					t.Errorf("%s after the delete: %v", id, err)
				}
			}
		})
	}
}

func TestAnEmptyGroupIsNoError(t *testing.T) {
	e := openInput(t, inputConfig(t))
	if res, err := e.SubmitMany(lab.Bounded(t), nil); err != nil || res != (syncengine.BatchResult{}) {
		t.Errorf("submit none: %+v, %v", res, err)
	}
	if res, err := e.DeleteMany(lab.Bounded(t), nil); err != nil || res != (syncengine.BatchResult{}) {
		t.Errorf("delete none: %+v, %v", res, err)
	}
	if got, err := e.GetMany(lab.Bounded(t), nil); err != nil || len(got) != 0 {
		t.Errorf("get none: %v, %v", got, err)
	}
}

func TestASliceChangedAfterSubmitChangesNothing(t *testing.T) {
	for _, d := range []syncengine.Durability{syncengine.Buffered, syncengine.Logged, syncengine.Archived} {
		t.Run(d.String(), func(t *testing.T) {
			cfg := inputConfig(t)
			cfg.Durability, cfg.RedisURL, cfg.KeyPrefix = d, testserver.SharedRedis(t).URL(), lab.NewPrefix()
			// Nothing is flushed before the slices change, but at Archived.
			cfg.BatchFlushInterval = time.Hour
			e := openInput(t, cfg)
			const sound, evil = `{"text":"sound"}`, `{"text":"evil!"}`
			content := []byte(sound)
			lab.NoError(t, "submit", e.Submit(lab.Bounded(t), syncengine.Item{ID: "one", Content: content}))
			copy(content, evil)
			copy(content, sound)
			group := []syncengine.Item{{ID: "two", Content: content}, {ID: "three", Content: content}}
			_, err := e.SubmitMany(lab.Bounded(t), group)
			lab.NoError(t, "submit many", err)
			copy(content, evil)
			group[0], group[1] = syncengine.Item{ID: "nobody", Content: []byte(evil)}, syncengine.Item{}
			made := []byte(sound)
			_, err = e.GetOrInsertWith(lab.Bounded(t), "four", func(context.Context) (syncengine.Item, error) {
				return syncengine.Item{Content: made}, nil
			})
			lab.NoError(t, "get or insert", err)
			copy(made, evil)
			var want []syncengine.Item
			for _, id := range []string{"one", "two", "three", "four"} {
				want = append(want, syncengine.Item{ID: id, Content: []byte(sound)})
			}
			check := func(from string, e *syncengine.Engine) {
				for i := range want {
					got, err := e.GetVerified(lab.Bounded(t), want[i].ID)
					wantItem(t, from, &got, err, &want[i])
				}
			}
			check("L1", e)
			lab.NoError(t, "flush", e.Flush(lab.Bounded(t)))
			cold := inputConfig(t)
			cold.SQLURL = "sqlite:" + cfg.Dir + "/archive.db"
			check("L3", openInput(t, cold))
			cold = inputConfig(t)
			cold.RedisURL, cold.KeyPrefix, cold.L3 = cfg.RedisURL, cfg.KeyPrefix, deafArchive{storetest.NewArchive()}
			check("L2", openInput(t, cold))
		})
	}
}

// The default MaxItemBytes on a MariaDB with its default max_allowed_packet: both are
// 16 MiB.
func TestContentOfExactlyMaxItemBytes(t *testing.T) {
	const most = 16 << 20
	cfg := inputConfig(t)
	cfg.SQLURL, cfg.RedisURL, cfg.KeyPrefix = testserver.SharedMariaDB(t).NewDatabase(t), testserver.SharedRedis(t).URL(), lab.NewPrefix()
	e := openInput(t, cfg)
	full := syncengine.Item{ID: "full", Content: []byte(`"` + strings.Repeat("x", most-2) + `"`)}
	over := syncengine.Item{ID: "over", Content: []byte(`"` + strings.Repeat("x", most-1) + `"`)}
	small := syncengine.Item{ID: "small", Content: []byte(`1`)}
	lab.NoError(t, "submit", e.Submit(lab.Bounded(t), small))
	lab.NoError(t, "submit", e.Submit(lab.Bounded(t), full, syncengine.WithDurability(syncengine.Archived)))
	wantInvalid(t, "one byte more", e.Submit(lab.Bounded(t), over), "Content", "MaxItemBytes")
	lab.NoError(t, "flush", e.Flush(lab.Bounded(t)))
	if ops, err := e.Quarantined(lab.Bounded(t)); err != nil || len(ops) != 0 {
		t.Errorf("quarantined: %d ops, %v", len(ops), err)
	}
	items := []syncengine.Item{full, small}
	cold := inputConfig(t)
	cold.SQLURL = cfg.SQLURL
	wantItems(t, "L3", func() *syncengine.Engine { cold.Dir = t.TempDir(); return openInput(t, cold) }, items, func(syncengine.Stats) {})
	second := inputConfig(t)
	second.RedisURL, second.KeyPrefix, second.L3 = cfg.RedisURL, cfg.KeyPrefix, deafArchive{storetest.NewArchive()}
	wantItems(t, "L2", func() *syncengine.Engine { second.Dir = t.TempDir(); return openInput(t, second) }, items, func(syncengine.Stats) {})
}

func TestMaxItemBytesIsALimitToTheByte(t *testing.T) {
	cfg := inputConfig(t)
	cfg.MaxItemBytes = 100
	e := openInput(t, cfg)
	for n := 98; n <= 102; n++ {
		err := e.Submit(lab.Bounded(t), syncengine.Item{ID: fmt.Sprint(n), Content: []byte(`"` + strings.Repeat("x", n-2) + `"`)})
		if n <= 100 {
			lab.NoError(t, fmt.Sprint(n), err)
		} else {
			wantInvalid(t, fmt.Sprint(n), err, "Content", "MaxItemBytes")
		}
	}
}

func TestNewItemRefusesWhatItCannotMarshal(t *testing.T) {
	it, err := syncengine.NewItem("id", map[string]any{"a": 1, "b": []string{"<x>"}})
	lab.NoError(t, "new item", err)
	e := openInput(t, inputConfig(t))
	lab.NoError(t, "submit", e.Submit(lab.Bounded(t), it))
	for what, v := range map[string]any{"a channel": make(chan int), "a function": func() {}, "NaN": nan()} {
		_, err := syncengine.NewItem("id", v)
		wantInvalid(t, what, err, "Content", "can't be encoded by encoding/json")
	}
	_, err = syncengine.NewItem("id", telling{})
	wantInvalid(t, "a type that tells its content", err, "Content", "can't be encoded by encoding/json")
	if strings.Contains(err.Error(), "secret") || !errors.Is(err, errTelling) {
		t.Errorf("%v: it is to wrap the codec's error, and not to quote it", err)
	}
	for id, rule := range refusedIDs() {
		_, err := syncengine.NewItem(id, 1)
		wantInvalid(t, fmt.Sprintf("id %.20q", id), err, "ID", rule)
	}
}

var errTelling = errors.New("can't encode secret")

// telling is a type whose error quotes what it holds.
type telling struct{}

func (telling) MarshalJSON() ([]byte, error) { return nil, errTelling }

func nan() float64 { zero := 0.0; return zero / zero }

// TestAFunctionThatIsNilIsRefusedAtOnce, with nothing asked, on a typed view as well.
func TestAFunctionThatIsNilIsRefusedAtOnce(t *testing.T) {
	ctx := lab.Bounded(t)
	e := lab.Open(t, syncengine.Config{})
	s := syncengine.NewStore[int](e, "x/")
	_, err := e.SubmitEach(ctx, nil, syncengine.EachOptions{})
	wantInvalid(t, "SubmitEach", err, "items", "nil")
	_, err = e.Update(ctx, "x", nil)
	wantInvalid(t, "Update", err, "fn", "nil")
	_, err = e.GetOrInsertWith(ctx, "x", nil)
	wantInvalid(t, "GetOrInsertWith", err, "factory", "nil")
	_, err = s.Update(ctx, "x", nil)
	wantInvalid(t, "Update of a Store", err, "fn", "nil")
	_, err = s.UpdateExisting(ctx, "x", nil)
	wantInvalid(t, "UpdateExisting", err, "fn", "nil")
	_, err = s.GetOrInsertWith(ctx, "x", nil)
	wantInvalid(t, "GetOrInsertWith of a Store", err, "factory", "nil")
}

// TestWhatIsWrongWithOptionsNamesTheIDOfTheCall, and none where the call is about several.
func TestWhatIsWrongWithOptionsNamesTheIDOfTheCall(t *testing.T) {
	ctx := lab.Bounded(t)
	e := lab.Open(t, syncengine.Config{})
	x, never := syncengine.Item{ID: "x", Content: []byte(`1`)}, syncengine.WithTTL(-1)
	_, update := e.Update(ctx, "x", lab.Increment, never)
	_, insert := e.GetOrInsertWith(ctx, "x", func(context.Context) (syncengine.Item, error) { return x, nil }, never)
	for _, err := range []error{e.Submit(ctx, x, never), e.Insert(ctx, x, never), e.Touch(ctx, "x", -1), update, insert} {
		if err == nil || err.Error() != `syncengine: invalid item "x": WithTTL must not be negative` {
			t.Error(err)
		}
	}
	if _, err := e.SubmitMany(ctx, []syncengine.Item{x}, never); err == nil || err.Error() != `syncengine: invalid item: WithTTL must not be negative` {
		t.Error(err)
	}
	if err := e.Delete(ctx, ""); err == nil || !strings.Contains(err.Error(), `invalid item "": ID`) {
		t.Error(err)
	}
}
