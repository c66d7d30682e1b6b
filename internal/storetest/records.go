package storetest

// records.go holds the tests that caches and archives share: what a record is, how two of
// one id compare, and that it comes back as it went in.

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
)

// keeper is what both kinds of store do.
type keeper struct {
	get     func(context.Context, string) (syncengine.Record, error)
	getMany func(context.Context, []string) ([]syncengine.Found, error)
	put     func(context.Context, []syncengine.Record) error
	ping    func(context.Context) error
	// others are the methods beside those, to be called with a dead context.
	others map[string]func(context.Context) error
}

func (k *keeper) mustPut(t testing.TB, recs ...syncengine.Record) {
	t.Helper()
	must(t, "put", k.put(newContext(t), recs))
}

// want asserts by Get and by GetMany that the store holds exactly r.
func (k *keeper) want(t testing.TB, r syncengine.Record) {
	t.Helper()
	got, err := k.get(newContext(t), r.ID)
	if err != nil {
		t.Errorf("get %q: %v", short(r.ID), err)
		return
	}
	if field := Diff(&got, &r); field != "" {
		t.Errorf("get %q: %s differs:\n got %s\nwant %s", short(r.ID), field, short(fmt.Sprintf("%+v", got)), short(fmt.Sprintf("%+v", r)))
	}
}

func (k *keeper) wantAbsent(t testing.TB, id string) {
	t.Helper()
	if _, err := k.get(newContext(t), id); !errors.Is(err, syncengine.ErrNotFound) {
		t.Errorf("get %q: %v, want ErrNotFound", short(id), err)
	}
}

// wantAll asserts by GetMany that the store holds exactly recs.
func (k *keeper) wantAll(t testing.TB, recs []syncengine.Record) {
	t.Helper()
	ids := make([]string, len(recs))
	for i := range recs {
		ids[i] = recs[i].ID
	}
	found, err := k.getMany(newContext(t), ids)
	must(t, "get many", err)
	if len(found) != len(ids) {
		t.Fatalf("get many of %d ids: %d answers", len(ids), len(found))
	}
	bad := 0
	for i := range found {
		f := &found[i]
		field := Diff(&f.Record, &recs[i])
		if f.OK && f.Err == nil && field == "" {
			continue
		}
		if bad++; bad <= 5 {
			t.Errorf("get many, place %d, id %q: ok %v, err %v, differs in %q", i, short(recs[i].ID), f.OK, f.Err, field)
		}
	}
	if bad > 5 {
		t.Errorf("and %d more", bad-5)
	}
}

func runRecords(t *testing.T, open func(*testing.T) *keeper) {
	t.Run("Get of an absent id is ErrNotFound", func(t *testing.T) {
		k := open(t)
		k.wantAbsent(t, "absent")
		k.mustPut(t, Put("present", 1, `1`))
		k.wantAbsent(t, "absent")
	})
	t.Run("what is put is there", func(t *testing.T) {
		k := open(t)
		k.mustPut(t, Put("a", 1, `{"n":1}`), Put("b", 2, `{"n":2}`))
		k.want(t, Put("a", 1, `{"n":1}`))
		k.want(t, Put("b", 2, `{"n":2}`))
	})
	t.Run("a tombstone is a record", func(t *testing.T) {
		k := open(t)
		k.mustPut(t, Tombstone("a", 3))
		k.want(t, Tombstone("a", 3))
		k.wantAll(t, []syncengine.Record{Tombstone("a", 3)})
	})
	t.Run("nothing is a valid call", func(t *testing.T) {
		k := open(t)
		must(t, "put", k.put(newContext(t), nil))
		if found, err := k.getMany(newContext(t), nil); err != nil || len(found) != 0 {
			t.Errorf("get many of no ids: %v, %v", found, err)
		}
	})
	t.Run("the higher record stays, whoever comes last", func(t *testing.T) { testOrder(t, open(t)) })
	t.Run("repeating a write changes nothing", func(t *testing.T) {
		k := open(t)
		recs := []syncengine.Record{Put("a", 5, `1`), Tombstone("b", 6), Put("c", 7, `3`)}
		for range 3 {
			k.mustPut(t, recs...)
			k.wantAll(t, recs)
		}
	})
	t.Run("GetMany is aligned with its ids", func(t *testing.T) { testAligned(t, open(t)) })
	t.Run("ids are compared byte by byte", func(t *testing.T) { testIDs(t, open(t)) })
	t.Run("content is kept byte for byte", func(t *testing.T) { testContents(t, open(t)) })
	t.Run("all fields are kept", func(t *testing.T) { testFields(t, open(t)) })
	t.Run("5000 records in one call", func(t *testing.T) { testMany(t, open(t)) })
	t.Run("records of 1 to 5 MiB in one call", func(t *testing.T) { testLarge(t, open(t)) })
	t.Run("a record of 16 MiB", func(t *testing.T) {
		k := open(t)
		big := Put("big", 1, `"`+strings.Repeat("x", 16<<20-2)+`"`)
		k.mustPut(t, big)
		k.want(t, big)
		k.wantAll(t, []syncengine.Record{big})
	})
	t.Run("concurrent writers end with the highest record", func(t *testing.T) { testConcurrent(t, open(t)) })
	t.Run("a dead context ends every call", func(t *testing.T) { testContext(t, open(t)) })
	t.Run("Ping of a server that answers", func(t *testing.T) { must(t, "ping", open(t).ping(newContext(t))) })
}

// ladder is a list of records of one id in rising order, each above all before it.
func ladder(id string) []syncengine.Record {
	a, b := Put(id, 2, `"left"`), Put(id, 2, `"right"`)
	if a.Compare(&b) > 0 {
		a, b = b, a
	}
	return []syncengine.Record{
		Put(id, 1, `"first"`), a, b, Tombstone(id, 2), Put(id, 3, `"over a tombstone"`), Tombstone(id, 4),
		Tombstone(id, 5), Put(id, 255, `1`), Put(id, 256, `1`), Put(id, 1<<53, `1`), Put(id, 1<<53+1, `1`), Put(id, 1<<62, `1`),
		Tombstone(id, 1<<62), Put(id, math.MaxInt64, `1`), Tombstone(id, math.MaxInt64),
	}
}

// testOrder writes every ordered pair of the ladder: one record, then another on top.
func testOrder(t *testing.T, k *keeper) {
	rungs := ladder("")
	for i := range rungs {
		for j := range rungs {
			id := fmt.Sprintf("%d over %d", j, i)
			pair := ladder(id)
			k.mustPut(t, pair[i])
			k.mustPut(t, pair[j])
			k.want(t, pair[max(i, j)])
		}
	}
}

func testAligned(t *testing.T, k *keeper) {
	k.mustPut(t, Put("a", 1, `1`), Put("b", 2, `2`), Tombstone("c", 3))
	ids := []string{"zz", "b", "a", "b", "absent", "c", "a", "absent", "c", "b"}
	found, err := k.getMany(newContext(t), ids)
	must(t, "get many", err)
	if len(found) != len(ids) {
		t.Fatalf("%d ids, %d answers", len(ids), len(found))
	}
	want := map[string]syncengine.Record{"a": Put("a", 1, `1`), "b": Put("b", 2, `2`), "c": Tombstone("c", 3)}
	for i, id := range ids {
		r, ok := want[id]
		if found[i].Err != nil || found[i].OK != ok {
			t.Errorf("place %d, id %q: ok %v, err %v", i, id, found[i].OK, found[i].Err)
		} else if field := Diff(&found[i].Record, &r); ok && field != "" {
			t.Errorf("place %d, id %q: %s differs: %+v", i, id, field, found[i].Record)
		}
	}
}

func testIDs(t *testing.T, k *keeper) {
	var recs []syncengine.Record
	for i, id := range IDs() {
		recs = append(recs, Put(id, uint64(i+1), fmt.Sprintf(`{"id":%d}`, i)))
	}
	k.mustPut(t, recs...)
	for _, r := range recs {
		k.want(t, r)
	}
	k.wantAll(t, recs)
	for _, id := range []string{"b", "a.c", "\u00c9", "\U0001f602", "{y}", "a.b.", "x", "NUL", "nan"} {
		k.wantAbsent(t, id)
	}
}

func testContents(t *testing.T, k *keeper) {
	var recs []syncengine.Record
	for i, c := range Contents() {
		recs = append(recs, Put(fmt.Sprint(i), 1, c))
	}
	k.mustPut(t, recs...)
	for _, r := range recs {
		k.want(t, r)
	}
	k.wantAll(t, recs)
}

// far is a time that tests don't reach.
var far = time.Date(2200, 2, 29, 23, 59, 59, 998e6, time.UTC)

// testFields writes each field at its edges, as a put and as a tombstone.
func testFields(t *testing.T, k *keeper) {
	odd := "quote \" backslash \\ tab \t line \n\r bell \a \x01\x1f delete \x7f NUL \x00 sep \u2028 \U0001f600 {}:,"
	changes := []func(*syncengine.Record){
		func(*syncengine.Record) {},
		func(r *syncengine.Record) { r.Priority = syncengine.PriorityLow },
		func(r *syncengine.Record) { r.Priority = syncengine.PriorityHigh },
		func(r *syncengine.Record) { r.Priority = syncengine.PriorityCritical },
		func(r *syncengine.Record) { r.CRDT = "GCounter" },
		func(r *syncengine.Record) { r.TraceParent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01" },
		func(r *syncengine.Record) { r.TraceParent = strings.Repeat("p", 64) },
		func(r *syncengine.Record) { r.TraceState = "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE" },
		func(r *syncengine.Record) { r.TraceState = strings.Repeat("\u00e9", 256) },
		func(r *syncengine.Record) { r.TraceState = odd },
		func(r *syncengine.Record) { r.HomeInstanceID = strings.Repeat("h", 255) },
		func(r *syncengine.Record) { r.HomeInstanceID = odd },
		func(r *syncengine.Record) { r.HomeInstanceID = "trailing space " },
		func(r *syncengine.Record) {
			r.Priority, r.CRDT, r.TraceParent, r.TraceState, r.HomeInstanceID = syncengine.PriorityLow, "ORSet", "p", "s", "h"
		},
		func(r *syncengine.Record) { r.Version = 1 },
		func(r *syncengine.Record) { r.Version = math.MaxInt64 },
	}
	for _, at := range []time.Time{
		time.Unix(0, 0), time.Unix(0, 1), time.Unix(0, -1), time.Unix(1_700_000_000, 123456789), time.Unix(1_700_000_000, 100),
		time.Date(1678, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2261, 12, 31, 23, 59, 59, 999999999, time.UTC),
		time.Date(2024, 2, 29, 23, 59, 59, 999999999, time.FixedZone("east", 5*3600+1800)),
	} {
		changes = append(changes, func(r *syncengine.Record) { r.UpdatedAt = at })
	}
	for _, at := range []time.Time{far, far.Add(time.Millisecond), far.AddDate(200, 0, 0)} {
		changes = append(changes, func(r *syncengine.Record) { r.ExpiresAt = at })
		changes = append(changes, func(r *syncengine.Record) { r.ExpiresAt, r.HomeInstanceID = at, "h" })
	}
	for i, change := range changes {
		for _, r := range []syncengine.Record{Put(fmt.Sprint("put", i), 9, `{"x":1}`), Tombstone(fmt.Sprint("delete", i), 9)} {
			change(&r)
			k.mustPut(t, r)
			if r.Deleted {
				r.ExpiresAt = time.Time{} // a tombstone has none
			}
			k.want(t, r)
			k.wantAll(t, []syncengine.Record{r})
		}
	}
}

func testMany(t *testing.T, k *keeper) {
	recs := make([]syncengine.Record, 5000)
	for i := range recs {
		recs[i] = Put(fmt.Sprintf("many-%05d", i), uint64(i+1), fmt.Sprintf(`{"n":%d,"text":%q}`, i, strings.Repeat("x", i%200)))
		if i%7 == 3 {
			recs[i] = Tombstone(recs[i].ID, recs[i].Version)
		}
	}
	k.mustPut(t, recs...)
	k.wantAll(t, recs)
}

func testLarge(t *testing.T, k *keeper) {
	var recs []syncengine.Record
	for i := range 5 {
		recs = append(recs, Put(fmt.Sprintf("large-%d", i), 1, `"`+strings.Repeat(string(rune('a'+i)), (i+1)<<20)+`"`))
		for j := range 20 { // small ones between them
			recs = append(recs, Put(fmt.Sprintf("large-%d-%02d", i, j), 1, fmt.Sprintf(`[%d,%d]`, i, j)))
		}
	}
	k.mustPut(t, recs...)
	k.wantAll(t, recs)
}

const (
	writers     = 8
	rounds      = 12
	perRound    = 40
	contendedID = 60
)

// testConcurrent lets writers that know nothing of each other write overlapping ids in
// random order, through one store or several on the same records. No error may surface: conflicts
// are the store's own business.
func testConcurrent(t *testing.T, k *keeper, others ...*keeper) {
	keepers := append([]*keeper{k}, others...)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	highest := make(map[string]syncengine.Record)
	work := make([][][]syncengine.Record, writers)
	for w := range work {
		for range rounds {
			var recs []syncengine.Record
			for _, n := range rng.Perm(contendedID)[:perRound] {
				r := Put(fmt.Sprintf("contended-%02d", n), 1+rng.Uint64N(40), fmt.Sprintf(`{"by":%d}`, rng.IntN(5)))
				if rng.IntN(4) == 0 {
					r = Tombstone(r.ID, r.Version)
				}
				if old, ok := highest[r.ID]; !ok || r.Compare(&old) > 0 {
					highest[r.ID] = r
				}
				recs = append(recs, r)
			}
			work[w] = append(work[w], recs)
		}
	}
	ctx := newContext(t)
	start := make(chan struct{})
	var wg sync.WaitGroup
	for w := range work {
		wg.Add(1)
		go func() {
			defer wg.Done()
			<-start
			k := keepers[w%len(keepers)]
			for _, recs := range work[w] {
				if err := k.put(ctx, recs); err != nil {
					t.Errorf("writer %d: %v", w, err)
					return
				}
				if _, err := k.getMany(ctx, []string{recs[0].ID, "absent", recs[1].ID}); err != nil {
					t.Errorf("reader %d: %v", w, err)
				}
			}
		}()
	}
	close(start)
	wg.Wait()
	var want []syncengine.Record
	for _, r := range highest {
		want = append(want, r)
	}
	slices.SortFunc(want, func(a, b syncengine.Record) int { return strings.Compare(a.ID, b.ID) })
	k.wantAll(t, want)
}

func testContext(t *testing.T, k *keeper) {
	k.mustPut(t, Put("a", 1, `1`))
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	late, cancelLate := context.WithDeadline(context.Background(), time.Unix(1, 0))
	defer cancelLate()
	calls := map[string]func(context.Context) error{
		"Get":     func(ctx context.Context) error { _, err := k.get(ctx, "a"); return err },
		"GetMany": func(ctx context.Context) error { _, err := k.getMany(ctx, []string{"a", "b"}); return err },
		"write": func(ctx context.Context) error {
			return k.put(ctx, []syncengine.Record{Put("a", 2, `2`), Put("b", 2, `2`)})
		},
		"Ping": k.ping,
	}
	for name, call := range k.others {
		calls[name] = call
	}
	for name, call := range calls {
		if err := call(gone); !errors.Is(err, context.Canceled) {
			t.Errorf("%s with a cancelled context: %v, want context.Canceled", name, err)
		}
		if err := call(late); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s with a context past its deadline: %v, want context.DeadlineExceeded", name, err)
		}
	}
	k.want(t, Put("a", 1, `1`))
	k.wantAbsent(t, "b")
}
