package machines

// history_test.go lets several engines, each with a directory of its own, write and read the
// same ids over one shared L2 and L3, and checks what they said against what L3 was given.
//
// An id is a register whose value is the op of the highest rank (Record.Compare) written so
// far. So a history is right when, for each read: it answers with an op that was written; of
// at least the rank of every op that was acknowledged at Archived before it began; and of at
// least the rank of what the same reader saw before. For such a register that is all that
// linearizability asks of one reader, and no search is needed to check it. A tombstone has no
// version in an answer: the lowest that fits is taken.
//
// What an engine answers of other engines' writes may be old by L1MaxAge, and L2 may be behind
// L3 by a write under way, which also an op waits for that lost to it. So the reads that must
// be fresh are those of an engine without L2 that writes nothing and whose memory is too small
// for a document; of its answers "not found", those count that its memory can't have given.
// The others are asked for what they promise: a writer reads its own writes, and nobody sees an
// older op after a newer one.
//
// history_rules_test.go has single stories about engines that share stores.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
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

// read is a finished read. floor is the highest op of the id that was acknowledged before it
// began; its version is 0 when there was none.
type read struct {
	id    string
	floor syncengine.Record
	found bool
	got   syncengine.Record
}

// checkReads checks the reads of one reader, in their order. written holds, by id, all ops that
// any engine wrote.
func checkReads(reads []read, written map[string][]syncengine.Record) error {
	floors := make(map[string]syncengine.Record)
	for n, r := range reads {
		floor := floors[r.id]
		if r.floor.Version > 0 && r.floor.Compare(&floor) > 0 {
			floor = r.floor
		}
		if !r.found && floor.Version == 0 {
			continue
		}
		var best syncengine.Record // of what fits the answer
		for _, op := range written[r.id] {
			fits := op.Deleted && !r.found || r.found && op.Compare(&r.got) == 0 && bytes.Equal(op.Content, r.got.Content)
			if fits && op.Compare(&floor) >= 0 && (best.Version == 0 || op.Compare(&best) < 0) {
				best = op
			}
		}
		if best.Version == 0 {
			return fmt.Errorf("read %d of %s: found %v, version %d; it must be a write at or above version %d (deleted %v)",
				n, r.id, r.found, r.got.Version, floor.Version, floor.Deleted)
		}
		floors[r.id] = best
	}
	return nil
}

func TestTheHistoryCheckerKnowsRightFromWrong(t *testing.T) {
	put1, del2, put3 := storetest.Put("x", 1, `1`), storetest.Tombstone("x", 2), storetest.Put("x", 3, `3`)
	written := map[string][]syncengine.Record{"x": {put1, del2, put3}}
	none, forged := syncengine.Record{}, storetest.Put("x", 3, `4`)
	found := func(floor, got syncengine.Record) read { return read{"x", floor, true, got} }
	absent := func(floor syncengine.Record) read { return read{"x", floor, false, none} }
	for name, c := range map[string]struct {
		ok    bool
		reads []read
	}{
		"nothing was written yet":           {true, []read{absent(none)}},
		"an op under way may be seen":       {true, []read{found(none, put3)}},
		"or not":                            {true, []read{found(put1, put1)}},
		"up and up":                         {true, []read{absent(none), found(none, put1), absent(put1), found(del2, put3)}},
		"an acknowledged put is missed":     {false, []read{found(put3, put1)}},
		"an acknowledged delete is missed":  {false, []read{found(del2, put1)}},
		"an acknowledged put is not found":  {false, []read{absent(put3)}},
		"back to an older put":              {false, []read{found(none, put3), found(none, put1)}},
		"back to an older delete":           {false, []read{found(none, put3), absent(none)}},
		"a deleted put comes back":          {false, []read{found(none, put1), absent(none), found(none, put1)}},
		"content that nobody wrote":         {false, []read{found(none, forged)}},
		"another id's history is not mixed": {true, []read{found(none, put3), {"y", none, false, none}}},
	} {
		if err := checkReads(c.reads, written); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// sharedStores is an L2 and an L3 that engines share. Each engine has its own connections.
type sharedStores struct {
	l2 func() syncengine.CacheStore
	l3 func() syncengine.ArchiveStore
}

func twinStores(*testing.T) sharedStores {
	l2, l3 := storetest.NewCache(), storetest.NewArchive()
	return sharedStores{func() syncengine.CacheStore { return l2 }, func() syncengine.ArchiveStore { return l3 }}
}

func serverStores(t *testing.T) sharedStores {
	db, cache, prefix := testserver.SharedMariaDB(t).NewDatabase(t), testserver.SharedRedis(t).URL(), lab.NewPrefix()
	return sharedStores{
		l2: func() syncengine.CacheStore {
			return lab.NewRedisStore(lab.RedisAt(t, cache), prefix, time.Hour)
		},
		l3: func() syncengine.ArchiveStore { return lab.ArchiveAt(t, db) },
	}
}

// history is a run of several engines.
type history struct {
	t      *testing.T
	stores sharedStores
	flaky  bool // L3 now and then does not answer one of the writers

	mu      sync.Mutex                     // guards the fields below
	written map[string][]syncengine.Record // what L3 was given, by id
	last    map[string]syncengine.Record   // of an engine and id, what L3 was given last
	acked   map[string]syncengine.Record   // highest acknowledged, by id
}

func newHistory(t *testing.T, stores sharedStores) *history {
	return &history{
		t: t, stores: stores, written: make(map[string][]syncengine.Record),
		last: make(map[string]syncengine.Record), acked: make(map[string]syncengine.Record),
	}
}

// calls makes every call.
func calls(_ context.Context, _, _ string, do func() error) error { return do() }

// engine opens one on the shared stores. fn may fail its calls.
func (h *history) engine(name string, cfg syncengine.Config, withL2 bool, fn lab.Around) *syncengine.Engine {
	if withL2 {
		cfg.L2 = &lab.AroundCache{In: h.stores.l2(), Fn: fn}
	}
	cfg.L3 = &lab.AroundArchive{In: h.stores.l3(), Fn: fn, Applied: func(recs []syncengine.Record) {
		h.mu.Lock()
		defer h.mu.Unlock()
		for _, r := range recs {
			h.written[r.ID] = append(h.written[r.ID], r)
			h.last[name+" "+r.ID] = r
		}
	}}
	cfg.L1MaxAge, cfg.L2Timeout, cfg.L3Timeout = time.Nanosecond, 30*time.Second, 30*time.Second
	return lab.Open(h.t, cfg)
}

// ack notes that an engine's op of an id was acknowledged at Archived, and returns it. The
// engine has one writer of the id, so the op is what it gave L3 last.
func (h *history) ack(engine, id string, content []byte) syncengine.Record {
	h.mu.Lock()
	defer h.mu.Unlock()
	op := h.last[engine+" "+id]
	if op.Deleted != (content == nil) || !bytes.Equal(op.Content, content) {
		h.t.Errorf("%s: L3 was not given what was acknowledged of %s: version %d, deleted %v", engine, id, op.Version, op.Deleted)
	}
	if best := h.acked[id]; op.Compare(&best) > 0 {
		h.acked[id] = op
	}
	return op
}

func (h *history) floor(id string) syncengine.Record {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.acked[id]
}

// tome is a document larger than the smallest memory of an engine.
func tome(by string, n int) []byte {
	return fmt.Appendf(nil, `{"by":%q,"n":%d,"pad":"%s"}`, by, n, tomePad)
}

var tomePad = strings.Repeat("t", 65<<10)

// write lets an engine write some of the ids, and read each write back.
func (h *history) write(e *syncengine.Engine, name string, ids []string, ops int, rng *rand.Rand) (reads []read) {
	ctx := context.Background()
	archived := syncengine.WithDurability(syncengine.Archived)
	for n := range ops {
		id, other := ids[rng.IntN(len(ids))], ids[rng.IntN(len(ids))]
		content := tome(name, n)
		var err error
		written := map[string][]byte{id: content}
		switch kind := rng.IntN(6); {
		case kind == 0:
			written[id] = nil
			err = e.Delete(ctx, id, archived)
		case kind == 1 && other != id:
			written[other] = content
			_, err = e.SubmitMany(ctx, []syncengine.Item{{ID: id, Content: content}, {ID: other, Content: content}}, archived)
		default:
			err = e.Submit(ctx, syncengine.Item{ID: id, Content: content}, archived)
		}
		if h.flaky && errors.Is(err, syncengine.ErrUnavailable) {
			continue // it is written sooner or later
		}
		if err != nil {
			h.t.Errorf("%s: op %d: %v", name, n, err)
			return reads
		}
		for id, content := range written {
			reads = append(reads, h.get(e, id, h.ack(name, id, content))...)
		}
	}
	return reads
}

// get returns the read of an id, unless it was not answered.
func (h *history) get(e *syncengine.Engine, id string, floor syncengine.Record) []read {
	it, err := e.Get(context.Background(), id)
	if h.flaky && errors.Is(err, syncengine.ErrUnavailable) {
		return nil
	}
	if err != nil && !errors.Is(err, syncengine.ErrNotFound) {
		h.t.Errorf("Get of %s: %v", id, err)
	}
	return []read{{id, floor, err == nil, syncengine.Record{Item: it}}}
}

// again calls fn again and again until done is set, and one last time after that.
func again(done *atomic.Bool, fn func()) {
	tick := time.NewTicker(time.Millisecond) // leaves the processor to the writers
	defer tick.Stop()
	for last := false; !last; <-tick.C {
		last = done.Load()
		fn()
	}
}

// watch reads all ids. A fresh reader has no L2.
func (h *history) watch(e *syncengine.Engine, ids []string, fresh bool) (reads []read) {
	for _, id := range ids {
		var floor syncengine.Record
		if fresh {
			floor = h.floor(id)
		}
		inMemory := !e.Contains(id) // as a tombstone
		if r := h.get(e, id, floor); len(r) > 0 && (r[0].found || !inMemory) {
			reads = append(reads, r...)
		}
		if fresh {
			floor = h.floor(id)
			if st, err := e.Status(context.Background(), id); err != nil || st.VersionL3 < floor.Version {
				h.t.Errorf("version %d of %s was acknowledged, Status finds %d in L3, %v", floor.Version, id, st.VersionL3, err)
			}
		}
	}
	return reads
}

// tierWatch looks into L2 and then L3: in neither may a version go back, and L2 is never ahead
// of L3.
type tierWatch struct {
	h          *history
	l2         syncengine.CacheStore
	l3         syncengine.ArchiveStore
	low2, low3 map[string]syncengine.Record
	looks      int
}

func (h *history) watchTiers() *tierWatch {
	return &tierWatch{h: h, l2: h.stores.l2(), l3: h.stores.l3(), low2: make(map[string]syncengine.Record), low3: make(map[string]syncengine.Record)}
}

func (w *tierWatch) rise(tier string, low map[string]syncengine.Record, rec syncengine.Record) {
	if old := low[rec.ID]; rec.Compare(&old) < 0 {
		w.h.t.Errorf("%s went back from version %d to %d of %s", tier, old.Version, rec.Version, rec.ID)
	}
	low[rec.ID] = rec
}

func (w *tierWatch) look(ids []string) {
	w.looks++
	copies, err2 := w.l2.GetMany(context.Background(), ids)
	rows, err3 := w.l3.Heads(context.Background(), ids)
	if err := errors.Join(err2, err3); err != nil {
		w.h.t.Error(err)
		return
	}
	for _, m := range rows {
		w.rise("L3", w.low3, syncengine.Record{Item: syncengine.Item{ID: m.ID, Version: m.Version, ContentHash: m.ContentHash}, Deleted: m.Deleted})
	}
	for i, id := range ids {
		if !copies[i].OK {
			continue
		}
		w.rise("L2", w.low2, copies[i].Record)
		if row := w.low3[id]; copies[i].Record.Compare(&row) > 0 {
			w.h.t.Errorf("L2 holds version %d of %s, L3 only %d", copies[i].Record.Version, id, row.Version)
		}
	}
}

// ends checks that L3, L2 and all engines hold the highest op that was written, which is at
// least the highest acknowledged.
func (h *history) ends(ids []string, engines []*syncengine.Engine) {
	ctx := context.Background()
	rows, err := lab.ArchiveOf(ctx, h.stores.l3())
	lab.Must(h.t, err)
	copies, err := lab.CacheOf(ctx, h.stores.l2())
	lab.Must(h.t, err)
	for _, id := range ids {
		var best syncengine.Record
		for _, op := range h.written[id] {
			if op.Compare(&best) > 0 {
				best = op
			}
		}
		if acked := h.acked[id]; best.Compare(&acked) < 0 {
			h.t.Errorf("%s: version %d was acknowledged, L3 was given %d at most", id, acked.Version, best.Version)
		}
		if row := rows[id]; row.Compare(&best) != 0 {
			h.t.Errorf("L3 ends with version %d of %s (deleted %v), want %d", row.Version, id, row.Deleted, best.Version)
		}
		if c, ok := copies[id]; ok && c.Compare(&best) != 0 {
			h.t.Errorf("L2 ends with version %d of %s (deleted %v), want %d", c.Version, id, c.Deleted, best.Version)
		}
		for n, e := range engines {
			lab.Eventually(h.t, fmt.Sprintf("engine %d sees the last write of %s", n, id), func() bool {
				it, err := e.Get(ctx, id)
				return errors.Is(err, syncengine.ErrNotFound) && best.Deleted || err == nil && bytes.Equal(it.Content, best.Content)
			})
		}
	}
}

func TestINV03HistoriesOfSeveralEnginesAreInOrder(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name         string
		stores       func(*testing.T) sharedStores
		writers, ops int
		flaky        bool
	}{
		{"2 on twins", twinStores, 2, 300, false},
		{"3 on twins", twinStores, 3, 200, false},
		{"3 on twins, one with a flaky L3", twinStores, 3, 60, true},
		{"2 on MariaDB and Redis", serverStores, 2, 60, false},
		{"3 on MariaDB and Redis", serverStores, 3, 40, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			h := newHistory(t, c.stores(t))
			h.flaky = c.flaky
			h.run(seed, c.writers, c.ops)
		})
	}
}

// latePuts lets some writes reach L2 late, so that a newer op may be there before an older
// one.
func latePuts(fn lab.Around) lab.Around {
	return func(ctx context.Context, tier, call string, do func() error) error {
		if tier == "L2" && call == "Put" && rand.IntN(3) == 0 {
			<-time.After(time.Duration(rand.Int64N(int64(20 * time.Millisecond))))
		}
		return fn(ctx, tier, call, do)
	}
}

// flakyL3 fails some calls of L3 until done is set; of some, only the reply is lost.
func flakyL3(done *atomic.Bool) lab.Around {
	return func(_ context.Context, tier, call string, do func() error) error {
		if tier == "L3" && call != "Prepare" && !done.Load() {
			switch rand.IntN(12) {
			case 0:
				return lab.ErrAway
			case 1, 2:
				_ = do() // nobody will know
				return lab.ErrAway
			}
		}
		return do()
	}
}

func (h *history) run(seed uint64, writers, ops int) {
	ids := []string{"a", "b", "c", "d", "e", "f"}
	first := h.engine("first", syncengine.Config{}, true, calls)
	for n, id := range ids { // from now on L2 holds all of them
		lab.Must(h.t, first.Submit(context.Background(), syncengine.Item{ID: id, Content: tome("first", n)}, syncengine.WithDurability(syncengine.Archived)))
	}
	engines := []*syncengine.Engine{first}
	reads := make([][]read, 2*writers+2)
	var writing, looking sync.WaitGroup
	var done atomic.Bool
	for w := range writers {
		name, fn := fmt.Sprint("writer ", w), calls
		if h.flaky && w == 0 {
			fn = flakyL3(&done)
		}
		e := h.engine(name, syncengine.Config{BatchFlushInterval: time.Millisecond, L1MaxBytes: 1 << 20}, true, latePuts(fn))
		engines = append(engines, e)
		for half := range 2 { // two writers an engine, each of ids of its own
			rng := rand.New(rand.NewPCG(seed, uint64(2*w+half)))
			writing.Go(func() { reads[2*w+half] = h.write(e, name, ids[3*half:3*half+3], ops, rng) })
		}
	}
	for n, fresh := range []bool{true, false} {
		e := h.engine(fmt.Sprint("reader ", n), syncengine.Config{L1MaxBytes: 64 << 10}, !fresh, calls)
		engines = append(engines, e)
		rs := &reads[2*writers+n]
		looking.Go(func() { again(&done, func() { *rs = append(*rs, h.watch(e, ids, fresh)...) }) })
	}
	tiers := h.watchTiers()
	looking.Go(func() { again(&done, func() { tiers.look(ids) }) })
	writing.Wait()
	done.Store(true)
	looking.Wait()
	for n, rs := range reads {
		if err := checkReads(rs, h.written); err != nil {
			h.t.Errorf("reader %d: %v", n, err)
		}
	}
	for _, e := range engines {
		lab.Eventually(h.t, "all is flushed", func() bool { return e.Flush(context.Background()) == nil })
	}
	h.ends(ids, engines)
	h.t.Logf("%d reads, %d of them fresh ones, %d looks into the tiers", len(slices.Concat(reads...)), len(reads[2*writers]), tiers.looks)
}
