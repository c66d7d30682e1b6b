package storetest

// heads.go holds rows without content: the twin's Heads, and the tests of Heads and of what Apply
// returns.

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/syncengine-go/syncengine"
)

func (a *archive) Heads(ctx context.Context, ids []string) ([]syncengine.Meta, error) {
	found, err := a.GetMany(ctx, ids)
	if err != nil {
		return nil, err
	}
	var out []syncengine.Meta
	for i := range found {
		if r := &found[i].Record; found[i].OK {
			out = append(out, metaOf(r))
		}
	}
	return out, nil
}

// wantRows asserts that got has exactly the rows of want, in any order. rule is the call, and what
// it promises to return.
func wantRows(t testing.TB, rule string, got, want []syncengine.Meta) {
	t.Helper()
	byID := func(a, b syncengine.Meta) int { return cmp.Compare(a.ID, b.ID) }
	got, want = slices.SortedFunc(slices.Values(got), byID), slices.SortedFunc(slices.Values(want), byID)
	if slices.Equal(got, want) {
		return
	}
	for i := range max(len(got), len(want)) {
		switch {
		case i >= len(got) || i < len(want) && got[i].ID > want[i].ID:
			t.Errorf("%s: lacks %+v (%d rows, want %d)", rule, want[i], len(got), len(want))
		case i >= len(want) || got[i].ID < want[i].ID:
			t.Errorf("%s: and yet it returned %+v (%d rows, want %d)", rule, got[i], len(got), len(want))
		case got[i] != want[i]:
			t.Errorf("%s: %+v, want %+v", rule, got[i], want[i])
		default:
			continue
		}
		return // the first that differs says enough
	}
}

func testHeads(t *testing.T, s syncengine.ArchiveStore) {
	const rule = "ArchiveStore.Heads returns the rows of ids, tombstones included, those that exist"
	heads := func(ids []string, want ...syncengine.Meta) {
		t.Helper()
		rows, err := s.Heads(newContext(t), ids)
		must(t, "heads", err)
		wantRows(t, rule, rows, want)
	}
	heads(nil)
	heads([]string{"absent"})
	var recs []syncengine.Record
	var want []syncengine.Meta
	var ids []string
	add := func(r syncengine.Record) {
		recs, want, ids = append(recs, r), append(want, metaOf(&r)), append(ids, r.ID)
	}
	for i, id := range IDs() {
		if i%4 == 1 {
			add(Tombstone(id, uint64(i+1)))
		} else {
			add(expiring(Put(id, uint64(i+1), fmt.Sprint(i)), far))
		}
	}
	for i := range 3000 { // more than one statement has room for
		add(Put(fmt.Sprintf("head-%04d", (i*7919)%3000), 1, fmt.Sprint(i)))
	}
	must(t, "apply", applied(s.Apply(newContext(t), recs)))
	heads(append([]string{"absent", "b", "\u00c9"}, ids...), want...)
	heads(ids[1:2], want[1])
	heads(nil)
	higher := Put(ids[0], 1<<40, `"later"`)
	must(t, "apply", applied(s.Apply(newContext(t), []syncengine.Record{higher})))
	heads([]string{ids[0], "absent"}, metaOf(&higher))
}

// testAbove holds what Apply returns against every ordered pair of the ladder, in one call.
func testAbove(t *testing.T, s syncengine.ArchiveStore) {
	const rule = "ArchiveStore.Apply returns the rows that compare above their records and so stay, without content"
	var first, second, end []syncengine.Record
	var want []syncengine.Meta
	rungs := len(ladder(""))
	for i := range rungs {
		for j := range rungs {
			pair := ladder(fmt.Sprintf("%02d over %02d", j, i))
			if !pair[i].Deleted {
				pair[i] = expiring(pair[i], far)
			}
			first, second = append(first, pair[i]), append(second, pair[j])
			if j != i { // equal ones differ in what is carried along
				end = append(end, pair[max(i, j)])
			}
			if j < i {
				want = append(want, metaOf(&pair[i]))
			}
		}
	}
	apply := func(recs []syncengine.Record, want []syncengine.Meta) {
		t.Helper()
		above, err := s.Apply(newContext(t), recs)
		must(t, "apply", err)
		wantRows(t, rule, above, want)
	}
	apply(first, nil)
	apply(first, nil) // what is equal is not above
	apply(second, want)
	archiveKeeper(s).wantAll(t, end)
	apply(second, want) // as it is repeated after an unknown outcome
	archiveKeeper(s).wantAll(t, end)
}
