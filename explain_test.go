package syncengine_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/faultproxy"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/storetest"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

// explained asks what a Get would do, makes it, and checks that it did that.
func explained(t *testing.T, e *syncengine.Engine, id string, source syncengine.ReadSource, outcome syncengine.ReadOutcome, says ...string) syncengine.Explanation {
	t.Helper()
	ctx := lab.Bounded(t)
	x, err := e.Explain(ctx, id)
	lab.Must(t, err)
	if x.Source != source || x.Outcome != outcome {
		t.Fatalf("%s: %s is %s from %q, want %s from %q", id, x, x.Outcome, x.Source, outcome, source)
	}
	for _, s := range says {
		if !strings.Contains(x.Verdict, s) {
			t.Errorf("%s: %q does not say %q", id, x, s)
		}
	}
	was := e.Stats()
	_, err = e.Get(ctx, id)
	now := e.Stats()
	if got := outcomeOf(err); got != outcome {
		t.Errorf("%s: %q, but Get: %v", id, x, err)
	}
	// What Get asked, by what it counted. A tier that can't be asked counts nothing.
	type asked struct{ hit, l2, l3 uint64 }
	did := asked{now.L1Hits - was.L1Hits, now.L2Hits + now.L2Misses - was.L2Hits - was.L2Misses, now.L3Hits + now.L3Misses - was.L3Hits - was.L3Misses}
	want := asked{}
	saysL2, saysL3 := strings.Contains(x.Verdict, "asks Redis") || strings.Contains(x.Verdict, "Redis does not have it"), strings.Contains(x.Verdict, "asks SQL")
	if x.L1.State != syncengine.TierAbsent {
		want.hit = 1
		if !x.L1Fresh {
			want.hit = 2 // Get looks once more before it asks
		}
	}
	if saysL2 {
		want.l2 = 1
	}
	if saysL3 && x.L3.State != syncengine.TierError {
		want.l3 = 1
	}
	if did != want {
		t.Errorf("%s: %q: Get counted %+v, want %+v", id, x, did, want)
	}
	return x
}

// pair is two engines on the same servers, each of which can be cut off for the first one.
type pair struct {
	e, other   *syncengine.Engine
	cfg        syncengine.Config
	sql, redis *faultproxy.Proxy
	server     *testserver.Server
	url        string
}

func newPair(t *testing.T, change func(cfg *syncengine.Config)) *pair {
	p := &pair{server: testserver.SharedRedis(t), url: testserver.SharedMariaDB(t).NewDatabase(t)}
	u, err := url.Parse(p.url)
	lab.Must(t, err)
	p.sql, p.redis = faultproxy.New(t, u.Host), faultproxy.New(t, p.server.Addr())
	plain := syncengine.Config{SQLURL: p.url, RedisURL: p.server.URL(), KeyPrefix: lab.NewPrefix(), NoPush: true}
	p.cfg = plain
	p.cfg.Dir, p.cfg.SQLURL, p.cfg.RedisURL = t.TempDir(), lab.Via(t, p.url, p.sql), lab.Via(t, p.server.URL(), p.redis)
	if change != nil {
		change(&p.cfg)
	}
	p.other = lab.Open(t, plain)
	lab.Put(t, p.other, "settles", 1) // it has joined
	lab.Must(t, p.other.Flush(lab.Bounded(t)))
	p.e = lab.Open(t, p.cfg)
	lab.Eventually(t, "Redis was compared", func() bool { return p.e.Stats().L2Missed == 0 && p.other.Stats().L2Missed == 0 })
	lab.Eventually(t, "what it has just read is believed: the other one knows of it", func() bool {
		lab.Put(t, p.e, "believed", 1)
		lab.Must(t, p.e.Flush(lab.Bounded(t)))
		before := p.e.Stats().L2Hits
		lab.WantContent(t, p.e, "believed", 1)
		return p.e.Stats().L2Hits == before
	})
	return p
}

// written stores ids by the other engine, so that memory has none of them.
func (p *pair) written(t *testing.T, ids ...string) {
	t.Helper()
	for _, id := range ids {
		lab.Put(t, p.other, id, 1)
	}
	lab.Must(t, p.other.Flush(lab.Bounded(t)))
}

// forgotten takes the copy of an id out of Redis.
func (p *pair) forgotten(t *testing.T, id string) {
	t.Helper()
	if got := p.server.Do(t, "DEL", p.cfg.KeyPrefix+id); got != "1" {
		t.Fatalf("deleting %s from Redis: %s", id, got)
	}
}

func TestExplainSaysWhatGetDoes(t *testing.T) {
	ctx := context.Background()
	p := newPair(t, nil)
	p.written(t, "both", "gone", "sql only")
	lab.Must(t, p.other.Delete(ctx, "gone"))
	lab.Must(t, p.other.Flush(ctx))
	p.forgotten(t, "sql only")

	x := explained(t, p.e, "both", syncengine.SourceL2, syncengine.OutcomeFound, "asks Redis: not in memory", "Redis has it")
	if x.L1.State != syncengine.TierAbsent || x.L2 != x.L3 || x.L2.State != syncengine.TierLive || x.L2.Version == 0 || x.Pending || x.FilterTrusted || !x.FilterMayContain {
		t.Errorf("both: %+v", x)
	}
	x = explained(t, p.e, "both", syncengine.SourceMemory, syncengine.OutcomeFound, "served from memory: fresh, checked ")
	if !x.L1Fresh || x.L1.ContentHash != x.L3.ContentHash || x.L1Age > time.Minute {
		t.Errorf("both, the second time: %+v", x)
	}
	explained(t, p.e, "gone", syncengine.SourceL2, syncengine.OutcomeNotFound, "Redis remembers a delete")
	if x = explained(t, p.e, "gone", syncengine.SourceMemory, syncengine.OutcomeNotFound, "not found without I/O: memory remembers a delete"); x.L1.State != syncengine.TierTombstone {
		t.Errorf("gone: %+v", x)
	}
	explained(t, p.e, "sql only", syncengine.SourceL3, syncengine.OutcomeFound, "asks SQL: not in memory; Redis does not have it; SQL has it")
	explained(t, p.e, "nowhere", syncengine.SourceL3, syncengine.OutcomeNotFound, "asks SQL: not in memory; Redis does not have it; not found: SQL has nothing")

	lab.Must(t, p.e.Submit(ctx, syncengine.Item{ID: "mine", Content: []byte("1"), HomeInstanceID: "berlin-7"}))
	if x = explained(t, p.e, "mine", syncengine.SourceMemory, syncengine.OutcomeFound); x.HomeInstanceID != "berlin-7" {
		t.Errorf("mine: %+v", x)
	}
	lab.Must(t, p.other.Close())
	lab.Trusted(t, p.e)
	explained(t, p.e, "nowhere", syncengine.SourceFilter, syncengine.OutcomeNotFound, "not found without I/O: the filter is trusted and denies it")
}

func TestExplainSaysThatAnAgedCopyIsCompared(t *testing.T) {
	p := newPair(t, func(cfg *syncengine.Config) { cfg.L1MaxAge = 300 * time.Millisecond })
	p.written(t, "x")
	lab.WantContent(t, p.e, "x", 1)
	aged := func() {
		t.Helper()
		lab.Eventually(t, "the copy ages", func() bool {
			x, err := p.e.Explain(lab.Bounded(t), "x")
			return err == nil && !x.L1Fresh
		})
	}
	aged()
	explained(t, p.e, "x", syncengine.SourceMemory, syncengine.OutcomeFound, "asks Redis: the copy in memory was checked", "nothing newer there")
	lab.Put(t, p.other, "x", 2)
	lab.Must(t, p.other.Flush(lab.Bounded(t)))
	lab.Eventually(t, "the copy is dropped", func() bool { // between Explain and Get it would be another answer
		x, err := p.e.Explain(lab.Bounded(t), "x")
		return err == nil && x.L1.State == syncengine.TierAbsent
	})
	explained(t, p.e, "x", syncengine.SourceL2, syncengine.OutcomeFound, "Redis has it")
	aged()
	p.sql.Cut()
	p.redis.Cut()
	explained(t, p.e, "x", syncengine.SourceMemory, syncengine.OutcomeFound, "asks SQL", "Redis can't be asked", "no answer there, so memory answers")
}

func TestExplainWhileServersAreAway(t *testing.T) {
	p := newPair(t, func(cfg *syncengine.Config) { cfg.L1MaxBytes = 128 << 10 })
	p.written(t, "x", "y")
	p.redis.Cut()
	lab.Put(t, p.e, "owed", 1)
	lab.Must(t, p.e.Flush(lab.Bounded(t)))
	if x := explained(t, p.e, "x", syncengine.SourceL3, syncengine.OutcomeFound, "Redis can't be asked; SQL has it"); x.L2.State != syncengine.TierError || x.L2.Error == "" {
		t.Errorf("without Redis: %+v", x)
	}
	if x, err := p.e.Explain(lab.Bounded(t), "owed"); err != nil || !x.L2Owed {
		t.Errorf("owed: %+v, %v", x, err)
	}
	p.sql.Cut()
	if x := explained(t, p.e, "y", syncengine.SourceNone, syncengine.OutcomeUnavailable, "unavailable: SQL can't be asked"); x.L3.State != syncengine.TierError || x.FilterTrusted {
		t.Errorf("without SQL: %+v", x)
	}
	lab.Put(t, p.e, "first", 1)
	if x := explained(t, p.e, "first", syncengine.SourceMemory, syncengine.OutcomeFound, "not yet in SQL"); !x.Pending || x.Spooled {
		t.Errorf("first: %+v", x)
	}
	for i := 0; p.e.Stats().SpooledOps < 500; i++ {
		lab.Put(t, p.e, "many-"+string(rune('a'+i%26)), i)
		lab.Put(t, p.e, "fill-"+time.Duration(i).String(), i)
	}
	// Of those that live in the WAL alone, find one that memory did not keep.
	found := false
	for i := 0; !found; i++ {
		x, err := p.e.Explain(lab.Bounded(t), "fill-"+time.Duration(i).String())
		lab.Must(t, err)
		if found = x.Spooled && x.L1.State == syncengine.TierAbsent; found {
			explained(t, p.e, x.ID, syncengine.SourceWAL, syncengine.OutcomeFound, "served from the WAL")
		}
	}
	_ = p.e.Close() // L3 is away
	p.e = lab.Open(t, p.cfg)
	explained(t, p.e, "first", syncengine.SourceWAL, syncengine.OutcomeFound, "asks SQL: an op of an earlier engine waits in the WAL", "SQL can't be asked")
	p.sql.Restore()
	p.redis.Restore()
	lab.Eventually(t, "all is in SQL", func() bool { return p.e.Flush(lab.Bounded(t)) == nil })
	if x, err := p.e.Explain(lab.Bounded(t), "first"); err != nil || x.Pending || x.L3.State != syncengine.TierLive {
		t.Errorf("after the outage: %+v, %v", x, err)
	}
}

func TestExplainSaysThatRedisIsOwedWrites(t *testing.T) {
	p := newPair(t, nil)
	p.written(t, "x")
	p.redis.Cut()
	cfg := p.cfg
	cfg.L1MaxBytes = 64 << 10
	lab.Must(t, p.e.Close())
	p.e = lab.Open(t, cfg)
	var lost string
	for i := 0; lost == ""; i++ {
		lab.Must(t, p.e.Submit(context.Background(), syncengine.Item{ID: fmt.Sprint(i), Content: lab.BigDoc(10)}))
		lab.Must(t, p.e.Flush(lab.Bounded(t)))
		for k := range i {
			x, err := p.e.Explain(lab.Bounded(t), fmt.Sprint(k))
			lab.Must(t, err)
			if x.L1.State == syncengine.TierAbsent {
				lost = x.ID
			}
		}
	}
	explained(t, p.e, lost, syncengine.SourceL3, syncengine.OutcomeFound, "Redis is not read since it is owed writes; SQL has it")
}

func TestExplainOfAnIDInQuarantine(t *testing.T) {
	p := newPair(t, nil)
	_, err := testserver.OpenSQL(t, p.url).Exec("ALTER TABLE sync_items ADD CONSTRAINT no_poison CHECK (content IS NULL OR content NOT LIKE '%poison%')")
	lab.Must(t, err)
	p.written(t, "x", "y")
	for _, id := range []string{"x", "y"} {
		lab.Must(t, p.e.Submit(context.Background(), syncengine.Item{ID: id, Content: lab.Poison}))
	}
	if err := p.e.Flush(lab.Bounded(t)); !errors.Is(err, syncengine.ErrRefused) {
		t.Fatal(err)
	}
	asked := func() { // what SQL refused memory has let go of
		t.Helper()
		explained(t, p.e, "x", syncengine.SourceWAL, syncengine.OutcomeFound, "asks SQL: SQL has refused an op of it", "the op is above what SQL has")
	}
	asked()
	if it, err := p.e.Get(lab.Bounded(t), "x"); err != nil || string(it.Content) != string(lab.Poison) {
		t.Errorf("Get: %s, %v", it.Content, err)
	}
	x := explained(t, p.e, "x", syncengine.SourceMemory, syncengine.OutcomeFound, "SQL has refused an op of it")
	if x.Quarantined != 1 || x.Superseded != 0 || !strings.Contains(x.Refusal, "no_poison") || x.L3.Version >= x.L1.Version {
		t.Errorf("x: %+v", x)
	}
	lab.Put(t, p.e, "y", 2)
	lab.Eventually(t, "a later op has landed", func() bool {
		x, err := p.e.Explain(lab.Bounded(t), "y")
		return err == nil && x.Superseded == 1 && x.Quarantined == 0
	})
	lab.Must(t, p.e.Close())
	p.e = lab.Open(t, p.cfg)
	asked()
}

func TestExplainOfACorruptRowAndUnderPressure(t *testing.T) {
	p := newPair(t, func(cfg *syncengine.Config) {
		cfg.RedisURL, cfg.WALMaxItems, cfg.BatchFlushCount = "", 10, 1
		cfg.BackpressureWarn, cfg.BackpressureThrottle, cfg.BackpressureCritical = .01, .02, .97
		cfg.BackpressureEmergency, cfg.BackpressureShutdown = .98, .99
	})
	p.written(t, "rotten", "x")
	_, err := testserver.OpenSQL(t, p.url).Exec("UPDATE sync_items SET content = '2' WHERE id = 'rotten'")
	lab.Must(t, err)
	x := explained(t, p.e, "rotten", syncengine.SourceNone, syncengine.OutcomeCorrupt, "does not match its hash")
	if x.L2.State != syncengine.TierOff || x.L3.State != syncengine.TierError {
		t.Errorf("rotten: %+v", x)
	}
	p.sql.Cut()
	for i := range 10 {
		lab.Put(t, p.e, "full-"+string(rune('a'+i)), 1)
	}
	lab.Eventually(t, "reads are refused", func() bool { return !p.e.Backpressure().AcceptsReads() })
	explained(t, p.e, "x", syncengine.SourceNone, syncengine.OutcomeRefused, "reads are refused")
	explained(t, p.e, "full-a", syncengine.SourceMemory, syncengine.OutcomeFound)
}

// outcomeOf is what an error of Get is called in an Explanation.
func outcomeOf(err error) syncengine.ReadOutcome {
	switch {
	case err == nil:
		return syncengine.OutcomeFound
	case errors.Is(err, syncengine.ErrNotFound):
		return syncengine.OutcomeNotFound
	case errors.Is(err, syncengine.ErrBackpressure):
		return syncengine.OutcomeRefused
	case errors.Is(err, syncengine.ErrCorruption):
		return syncengine.OutcomeCorrupt
	case errors.Is(err, syncengine.ErrUnavailable):
		return syncengine.OutcomeUnavailable
	}
	return syncengine.ReadOutcome(err.Error())
}

// TestExplainAgreesWithGetWhateverHappens takes steps at random, and after each asks for an id. The
// engine goes on meanwhile, so the two need not agree at once.
func TestExplainAgreesWithGetWhateverHappens(t *testing.T) {
	ctx, steps, seed := context.Background(), 80, uint64(time.Now().UnixNano())
	if testing.Short() {
		steps = 20
	}
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	p := newPair(t, func(cfg *syncengine.Config) {
		cfg.L1MaxAge, cfg.L1MaxBytes = 200*time.Millisecond, 64<<10
		cfg.L2Timeout, cfg.L3Timeout, cfg.CloseTimeout = 200*time.Millisecond, 500*time.Millisecond, 2*time.Second
	})
	anID := func() string { return fmt.Sprint("id-", random.IntN(12)) }
	seen := make(map[string]int)
	for range steps {
		id, step := anID(), random.IntN(10)
		switch step {
		case 0, 1:
			_ = p.e.Submit(ctx, syncengine.Item{ID: id, Content: lab.BigDoc(1 + random.IntN(8))})
		case 2:
			_ = p.e.Delete(ctx, id)
		case 3:
			lab.Put(t, p.other, id, step)
			lab.Must(t, p.other.Flush(ctx))
		case 4:
			lab.Must(t, p.other.Delete(ctx, id))
			lab.Must(t, p.other.Flush(ctx))
		case 5:
			p.sql.Cut()
		case 6:
			p.sql.Restore()
		case 7:
			p.redis.Cut()
		case 8:
			p.redis.Restore()
		case 9:
			_ = p.e.Close() // perhaps without SQL
			p.e = lab.Open(t, p.cfg)
		}
		id = anID()
		var last string
		lab.Eventually(t, "Explain and Get agree", func() bool {
			x, err := p.e.Explain(ctx, id)
			lab.Must(t, err)
			_, err = p.e.Get(ctx, id)
			if got := outcomeOf(err); got != x.Outcome {
				if said := fmt.Sprintf("%s: %q, but Get: %v", id, x, err); said != last {
					last = said
					t.Log(said)
				}
				return false
			}
			seen[fmt.Sprint(x.Outcome, " from ", x.Source)]++
			return true
		})
	}
	t.Log(seen)
}

func TestExplainOfWhatCanNotBe(t *testing.T) {
	e := lab.Open(t, syncengine.Config{})
	if _, err := e.Explain(lab.Bounded(t), "a\x00b"); !errors.Is(err, syncengine.ErrInvalidItem) {
		t.Errorf("an id with a NUL: %v", err)
	}
	lab.Must(t, e.Close())
	if _, err := e.Explain(lab.Bounded(t), "a"); !errors.Is(err, syncengine.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}

// TestExplainEndsWithItsContext: a hung tier is an error of that tier.
func TestExplainEndsWithItsContext(t *testing.T) {
	p := newPair(t, func(cfg *syncengine.Config) { cfg.L2Timeout, cfg.L3Timeout = time.Minute, time.Minute })
	p.sql.Hold()
	p.redis.Hold()
	defer p.sql.Release()
	defer p.redis.Release()
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	x, err := p.e.Explain(ctx, "x")
	if err != nil || x.L2.State != syncengine.TierError || x.L3.State != syncengine.TierError || x.Outcome != syncengine.OutcomeUnavailable {
		t.Errorf("%+v, %v", x, err)
	}
}

// TestExplainOfAnOpInFlight: it is in the batch that L3 holds up.
func TestExplainOfAnOpInFlight(t *testing.T) {
	gate, release := lab.Hold()
	defer release()
	held := false
	e := lab.Open(t, syncengine.Config{L3: &lab.AroundArchive{In: storetest.NewArchive(), Fn: func(_ context.Context, _, call string, do func() error) error {
		if call == "Apply" && held {
			<-gate
		}
		return do()
	}}})
	held = true
	lab.Put(t, e, "x", 1)
	lab.Eventually(t, "it is in flight", func() bool {
		x, err := e.Explain(lab.Bounded(t), "x")
		return err == nil && x.InFlight && x.Pending
	})
	if x, err := e.Explain(lab.Bounded(t), "y"); err != nil || x.InFlight || x.Pending {
		t.Errorf("y: %+v, %v", x, err)
	}
	release()
	lab.Must(t, e.Flush(lab.Bounded(t)))
	if x, err := e.Explain(lab.Bounded(t), "x"); err != nil || x.InFlight || x.Pending {
		t.Errorf("landed: %+v, %v", x, err)
	}
}

func TestAnExplanationSurvivesJSON(t *testing.T) {
	e := lab.Open(t, syncengine.Config{})
	lab.Put(t, e, "x", 1)
	lab.Must(t, e.Flush(lab.Bounded(t)))
	x, err := e.Explain(lab.Bounded(t), "x")
	lab.Must(t, err)
	b, err := json.Marshal(x)
	lab.Must(t, err)
	var back syncengine.Explanation
	lab.Must(t, json.Unmarshal(b, &back))
	if !reflect.DeepEqual(x, back) {
		t.Errorf("%+v\n%+v\n%s", x, back, b)
	}
	if !strings.Contains(string(b), `"version":"`) || strings.Contains(string(b), "pad") {
		t.Errorf("versions are text, and content is never there: %s", b)
	}
}
