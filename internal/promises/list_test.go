package promises

// list_test.go is about All: what it must show, in which order, at what cost, and how it ends.

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/storetest"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

// listed collects a listing, which must be in order; items without error.
func listed(t testing.TB, e *syncengine.Engine, prefix string) (ids []string, contents map[string]string) {
	t.Helper()
	contents = make(map[string]string)
	for it, err := range e.All(lab.Bounded(t), prefix) {
		lab.Must(t, err)
		if len(ids) > 0 && it.ID <= ids[len(ids)-1] || it.Version == 0 || !strings.HasPrefix(it.ID, prefix) {
			t.Fatalf("%q, version %d, came after %q", it.ID, it.Version, ids)
		}
		ids = append(ids, it.ID)
		contents[it.ID] = string(it.Content)
	}
	return ids, contents
}

// paged collects a listing in pages.
func paged(t testing.TB, e *syncengine.Engine, prefix string, size int) (ids []string) {
	t.Helper()
	for after, more := "", true; more; {
		n := 0
		for it, err := range e.AllAfter(lab.Bounded(t), prefix, after) {
			lab.Must(t, err)
			if n == size {
				break
			}
			n++
			after, ids = it.ID, append(ids, it.ID)
		}
		more = n == size
	}
	return ids
}

func wantListed(t testing.TB, e *syncengine.Engine, prefix string, want map[string]int) {
	t.Helper()
	ids, contents := listed(t, e, prefix)
	if !slices.Equal(ids, slices.Sorted(maps.Keys(want))) {
		t.Fatalf("listed %q, want %q", ids, slices.Sorted(maps.Keys(want)))
	}
	if got := paged(t, e, prefix, 1+len(ids)/3); !slices.Equal(got, ids) {
		t.Fatalf("listed in pages %q, want %q", got, ids)
	}
	for id, n := range want {
		if contents[id] != string(lab.Doc(id, n)) {
			t.Fatalf("%s is %.40s, want n = %d", id, contents[id], n)
		}
	}
}

func TestINV02AListingShowsAllThatWasAcknowledged(t *testing.T) {
	onEachL3(t, func(t *testing.T, cfg syncengine.Config) {
		ctx := context.Background()
		cfg.BatchFlushInterval = time.Hour // what nobody asks for stays in memory
		e := lab.Open(t, cfg)
		want := make(map[string]int)
		for round := range 4 {
			for n := range 150 {
				id := fmt.Sprintf("k.%03d", n)
				switch d := everyLevel[(n+round)%3]; {
				case d == syncengine.Archived && n%25 != 0:
				case (n+round)%5 == 0:
					lab.Must(t, e.Delete(ctx, id, syncengine.WithDurability(d)))
					delete(want, id)
				default:
					lab.Put(t, e, id, round, syncengine.WithDurability(d))
					want[id] = round
				}
			}
			lab.Put(t, e, "other", round, syncengine.WithDurability(syncengine.Buffered))
			wantListed(t, e, "k.", want)
		}
		lab.Must(t, e.Close())
		wantListed(t, lab.Open(t, cfg), "k.", want)
	})
}

// An engine finds more in the WAL than its memory holds, and L3 empty.
func TestINV02AListingShowsWhatIsSpooled(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	c := lab.NewChoosy(t)
	defer c.Release()
	c.Away.Store(true)
	cfg := syncengine.Config{Dir: t.TempDir(), L3: c, L1MaxBytes: 256 << 10}
	e := lab.Open(t, cfg)
	want := make(map[string]int)
	for n := range 3000 {
		id := fmt.Sprintf("k.%04d", n%1000)
		if n%7 == 3 {
			lab.Must(t, e.Delete(ctx, id))
			delete(want, id)
		} else {
			lab.Put(t, e, id, n)
			want[id] = n
		}
	}
	lab.Eventually(t, "ops are spooled", func() bool { return e.Stats().SpooledOps > 1000 })
	wantUnavailable(t, e)
	if err := e.Close(); !errors.Is(err, syncengine.ErrPending) {
		t.Fatalf("Close: %v", err)
	}
	e = lab.Open(t, cfg)
	wantUnavailable(t, e)
	c.Away.Store(false)
	wantListed(t, e, "k.", want)
}

// wantUnavailable checks that All says once that it can't tell, and shows nothing.
func wantUnavailable(t testing.TB, e *syncengine.Engine) {
	t.Helper()
	turns := 0
	for it, err := range e.All(lab.Bounded(t), "k.") {
		if turns++; !errors.Is(err, syncengine.ErrUnavailable) || it.ID != "" {
			t.Fatalf("%q, %v; want ErrUnavailable", it.ID, err)
		}
	}
	if turns != 1 {
		t.Fatalf("%d turns, want 1", turns)
	}
}

func TestINV08AListingThatMeetsAnOutageSaysSo(t *testing.T) {
	db := testserver.MariaDB(t)
	e := lab.Open(t, syncengine.Config{SQLURL: db.URL()})
	for n := range 500 {
		lab.Put(t, e, fmt.Sprintf("k.%03d", n), n, syncengine.WithDurability(syncengine.Buffered))
	}
	lab.Must(t, e.Flush(context.Background()))
	seen := 0
	var last error
	for it, err := range e.All(lab.Bounded(t), "") {
		if last != nil {
			t.Fatalf("%q, %v came after %v", it.ID, err, last)
		}
		if last = err; err == nil {
			seen++
		}
		if seen == 1 {
			db.Kill()
		}
	}
	if !errors.Is(last, syncengine.ErrUnavailable) || seen >= 500 {
		t.Errorf("%d items, then %v", seen, last)
	}
}

func TestINV02AListingShowsWhatL3Refuses(t *testing.T) {
	ctx := context.Background()
	c := lab.NewChoosy(t)
	defer c.Release()
	cfg := syncengine.Config{Dir: t.TempDir(), L3: c}
	e := lab.Open(t, cfg)
	for _, id := range []string{"b", "d", "f", "refused"} {
		c.Tolerant.Store(true)
		lab.Put(t, e, id, 1, syncengine.WithDurability(syncengine.Archived))
	}
	c.Tolerant.Store(false)
	poisonous(t, e, "a", "d", "e", "g", "z")
	lab.Must(t, e.Delete(ctx, "refused"))
	lab.Put(t, e, "g", 1)
	if err := e.Flush(ctx); !errors.Is(err, syncengine.ErrRefused) {
		t.Fatalf("Flush: %v", err)
	}
	check := func(e *syncengine.Engine) {
		t.Helper()
		ids, contents := listed(t, e, "")
		if got := fmt.Sprint(ids); got != "[a b d e f g z]" {
			t.Errorf("listed %s", got)
		}
		for _, id := range ids {
			it, err := e.Get(ctx, id)
			if err != nil || string(it.Content) != contents[id] {
				t.Errorf("%s: All shows %.30s, Get %.30s, %v", id, contents[id], it.Content, err)
			}
		}
		for size := range 8 {
			if got := paged(t, e, "", size+1); !slices.Equal(got, ids) {
				t.Errorf("in pages of %d: %s", size+1, got)
			}
		}
		if ids, _ := listed(t, e, "e"); fmt.Sprint(ids) != "[e]" {
			t.Errorf("below e: %s", ids)
		}
		if ids, _ := listed(t, e, "refused"); len(ids) != 0 {
			t.Errorf("a deleted item is listed: %s", ids)
		}
	}
	check(e)
	lab.Must(t, e.Close())
	e = lab.Open(t, cfg)
	check(e)
	// One is retried while the loop runs, and lands behind it or before it: it comes once.
	n := 0
	for it, err := range e.All(ctx, "") {
		lab.Must(t, err)
		if n++; it.ID == "a" {
			c.Tolerant.Store(true)
			_, err := e.RetryQuarantined(ctx, "d", "e", "z")
			lab.Must(t, err)
			lab.Must(t, e.Delete(ctx, "b"))
		}
	}
	if n != 7 {
		t.Errorf("%d items, want 7: all of them were read before", n)
	}
}

func TestAListingHealsDamagedRowsOrTellsOfThem(t *testing.T) {
	ctx := context.Background()
	cfg := syncengine.Config{Dir: t.TempDir(), SQLURL: testserver.SharedMariaDB(t).NewDatabase(t)}
	raw := testserver.OpenSQL(t, cfg.SQLURL)
	e := lab.Open(t, cfg)
	for n := range 5 {
		lab.Put(t, e, fmt.Sprint("k.", n), n)
	}
	lab.Must(t, e.Flush(ctx))
	rot(t, raw, "k.1")
	wantListed(t, e, "k.", map[string]int{"k.0": 0, "k.1": 1, "k.2": 2, "k.3": 3, "k.4": 4})
	wantL3(t, cfg, "k.1", 1)
	lab.Must(t, e.Close())

	e = lab.Open(t, cfg)
	rot(t, raw, "k.1")
	rot(t, raw, "k.3")
	var got []string
	for it, err := range e.All(ctx, "k.") {
		var ce *syncengine.CorruptionError
		if errors.As(err, &ce) && it.ID == "" {
			it.ID = "!" + ce.ID
		} else {
			lab.Must(t, err)
		}
		got = append(got, it.ID)
	}
	if fmt.Sprint(got) != "[k.0 !k.1 k.2 !k.3 k.4]" {
		t.Errorf("got %s", got)
	}
}

func TestAListingEndsWhenItsCallerDoes(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	e := lab.Open(t, syncengine.Config{})
	for n := range 100 {
		lab.Put(t, e, fmt.Sprintf("k.%02d", n), n, syncengine.WithDurability(syncengine.Buffered))
	}
	n := 0
	for _, err := range e.All(ctx, "") {
		if n++; n == 3 {
			cancel()
		}
		if n == 4 && err != context.Canceled || n < 4 && err != nil || n > 4 {
			t.Errorf("turn %d: %v", n, err)
		}
	}
	if n != 4 {
		t.Errorf("%d turns after ctx had ended in the third", n)
	}
	// The loop may close the engine; what was read before is there.
	n = 0
	var last error
	for _, err := range e.All(context.Background(), "") {
		if n++; n == 1 {
			lab.Must(t, e.Close())
		}
		last = err
	}
	if !errors.Is(last, syncengine.ErrClosed) || n < 2 || n > 100 {
		t.Errorf("%d turns, then %v", n, last)
	}
	for _, err := range e.All(context.Background(), "") {
		if !errors.Is(err, syncengine.ErrClosed) {
			t.Errorf("of a closed engine: %v", err)
		}
	}
}

func TestAStoreThatListsNothingIsAnError(t *testing.T) {
	e := lab.Open(t, syncengine.Config{L3: storetest.NewArchive()})
	for it, err := range e.All(context.Background(), "") {
		var ce *syncengine.ConfigError
		if !errors.As(err, &ce) || ce.Field != "L3" || it.ID != "" {
			t.Errorf("%v, %v", it.ID, err)
		}
	}
}

// A loop of any length takes neither memory in proportion, nor places in L1, nor a connection.
func TestINV10AListingTakesBoundedMemory(t *testing.T) {
	const items = 12_000
	content := []byte(fmt.Sprintf(`{"pad":%q}`, strings.Repeat("x", 3000)))
	ctx := context.Background()
	onEachL3(t, func(t *testing.T, cfg syncengine.Config) {
		cfg.L1MaxBytes = 8 << 20
		e := lab.Open(t, cfg)
		group := make([]syncengine.Item, 1000)
		for n := 0; n < items; n += len(group) {
			for i := range group {
				id := fmt.Sprintf("k.%06d", n+i)
				group[i] = syncengine.Item{ID: id, Content: content}
			}
			_, err := e.SubmitMany(ctx, group)
			lab.Must(t, err)
		}
		clear(group)
		lab.Must(t, e.Flush(ctx))
		lab.Must(t, e.Close())
		e = lab.Open(t, cfg)
		lab.Put(t, e, "k.hot", 0)
		heap := func() uint64 {
			var m runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&m)
			return m.HeapAlloc
		}
		before, most, n := heap(), uint64(0), 0
		for _, err := range e.All(ctx, "") {
			lab.Must(t, err)
			if n++; n%3000 == 0 {
				most = max(most, heap())
			}
		}
		if n != items+1 {
			t.Errorf("%d items, want %d", n, items+1)
		}
		if limit := before + 16<<20; most > limit {
			t.Errorf("the heap grew from %d KiB to %d KiB over some 30 MiB of items", before>>10, most>>10)
		}
		if e.Len() != 1 {
			t.Errorf("%d items in L1, want the one that was put", e.Len())
		}
	})
}

// Each writer has ids of its own, and knows what it has acknowledged; others list meanwhile.
func TestINV02And03AListingBesideWriters(t *testing.T) {
	onEachL3(t, func(t *testing.T, cfg syncengine.Config) {
		ctx := context.Background()
		e := lab.Open(t, cfg)
		var others, writers sync.WaitGroup
		var done atomic.Bool
		others.Go(func() {
			for !done.Load() {
				listed(t, e, "")
			}
		})
		for w := range 4 {
			writers.Go(func() {
				prefix := fmt.Sprintf("w%d.", w)
				want := make(map[string]int)
				for n := range 300 {
					id := fmt.Sprint(prefix, n*7919%40)
					if n%3 == 1 {
						lab.Must(t, e.Delete(ctx, id, syncengine.WithDurability(syncengine.Buffered)))
						delete(want, id)
					} else {
						lab.Put(t, e, id, n, syncengine.WithDurability(everyLevel[n%2]))
						want[id] = n
					}
					if n%20 == 0 {
						wantListed(t, e, prefix, want)
					}
				}
			})
		}
		writers.Wait()
		done.Store(true)
		others.Wait()
	})
}
