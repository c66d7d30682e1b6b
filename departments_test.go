package syncengine

// departments_test.go builds departments for their own tests: each by its own constructor from
// those below it, wired as newEngine does it and opened as recovery.go does, without an engine.
// No loop runs but those of the log and of the events; a test starts the ones that it is about.

import (
	"context"
	"slices"
	"sync"
	"testing"
)

// House is departments without an engine, lowest first.
type House struct {
	News     *news
	Door     *door
	Memory   *l1
	Journal  *journal
	Pressure *pressure
	Cache    *cache
	Archive  *archive
	Trust    *trust
	Push     *push
	Queue    *queue // these three are the pipeline
	Numbers  *numbers
	Flush    *flusher
	Bad      *quarantine // from here on nil in a house that ends with the pipeline
	Repair   *repair
	Verifier *verifier
	Reader   *reader
	Writer   *writer

	End func() // ends all loops and closes the log, like the end of the test
}

// Plan tells how a house is built.
type Plan struct {
	L2      CacheStore // nil: none
	L3      ArchiveStore
	Private bool   // L3 is this house's alone
	Up      Sink   // stands for all that is above the pipeline, which is not built then
	Config  Config // without a Dir it gets a new one
}

// What a sink is told of.
type (
	Sink   = sink
	Unit   = unit
	LostOp = lostOp
)

// Promotion is a copy on its way to L2.
type Promotion = promotion

// HouseOn builds departments on stores of a test's.
func HouseOn(t testing.TB, p Plan) *House {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	if p.Config.Dir == "" {
		p.Config.Dir = t.TempDir()
	}
	cfg, ctx := p.Config.withDefaults(), context.Background()
	h := &House{News: newNews(cfg.Logger, cfg.OnEvent), Door: newDoor(), Memory: newL1(cfg.L1MaxBytes)}
	h.Journal = newJournal(walLimits{cfg.WALMaxItems, cfg.WALMaxBytes, cfg.thresholds()[LevelCritical-1].value})
	h.Pressure = newPressure(h.Memory, h.Journal, cfg.thresholds(), func(from, to BackpressureLevel) {
		h.Queue.Signal()
		h.News.Level(from, to)
	})
	h.Cache = newCache(newServer("L2", cfg.L2Timeout, cfg.L2Breaker, h.News, h.Door), h.Journal, h.News)
	if p.L2 != nil {
		h.Cache.Use(p.L2, false)
	}
	h.Archive = newArchive(newServer("L3", cfg.L3Timeout, cfg.L3Breaker, h.News, h.Door), h.News)
	h.Archive.Use(p.L3, false, p.Private)
	h.Trust = newTrust(cfg.InstanceID, h.Archive, h.Journal, h.News, trustLimits{cfg.FilterWarmupBatch, cfg.FilterSnapshotInterval, int64(cfg.FilterSnapshotInserts)})
	h.Push = newPush(h.Cache, h.Memory, h.Trust, h.News, true)
	up, all := p.Up, &above{}
	if up == nil {
		up = all
	}
	h.Queue = newQueue(queueLimitsOf(&cfg), h.Memory, h.Journal)
	h.Numbers = newNumbers(h.Memory, h.Journal, h.Queue, up)
	h.Flush = newFlusher(h.Queue, h.Numbers, h.Journal, h.Cache, h.Archive, h.Trust, h.Push, h.Pressure, h.Door, h.News, up, cfg.FlushConcurrency)
	if p.Up == nil {
		h.Bad = newQuarantine(h.Journal, h.Memory, h.Queue, h.Numbers, h.Archive, h.Door, h.News)
		h.Repair = newRepair(h.Memory, h.Cache, h.Archive, h.Trust, h.Bad, h.News)
		h.Verifier = newVerifier(h.Cache, h.Archive, h.Trust, h.Queue, h.Repair, h.News, cfg.VerifyInterval)
		h.Reader = newReader(h.Memory, h.Journal, h.Queue, h.Flush, h.Bad, h.Trust, h.Cache, h.Archive, h.Repair, h.Push, h.Pressure, h.Door, h.News, ages{cfg.L1MaxAge, cfg.AbsentFor, cfg.StaleFor})
		h.Writer = newWriter(&cfg, h.Memory, h.Journal, h.Queue, h.Flush, h.Numbers, h.Pressure, h.Cache, h.Archive, h.Trust, h.Push, h.Bad, h.Repair, h.Reader, h.Door, h.News)
		all.quarantine, all.repair, all.writer = h.Bad, h.Repair, h.Writer
	}
	h.Door.SpawnLast(h.News.Run)
	must(h.Journal.Open(ctx, cfg.WALPath, false, cfg.L1MaxBytes/8, 0))
	h.Door.SpawnLog(h.Journal.Run)
	h.End = sync.OnceFunc(func() {
		h.Door.Close()
		h.Door.AwaitLoops()
		h.Journal.End()
		h.Door.AwaitLog()
		if err := h.Journal.Close(); err != nil {
			t.Error(err)
		}
		h.News.End(ctx)
	})
	t.Cleanup(h.End)
	must(h.Archive.Prepare(ctx))
	h.load(ctx, must)
	return h
}

// load takes over what an earlier house on the Dir has left.
func (h *House) load(ctx context.Context, must func(error)) {
	unwanted := func([]*entry, int64) bool { return false }
	if h.Bad != nil {
		must(h.Bad.Load(ctx))
		unwanted = h.Bad.WasDiscarded
	}
	must(h.Numbers.Load(ctx))
	left, err := h.Journal.Recover(ctx, h.Memory.Hash, unwanted)
	must(err)
	if left.Last > 0 {
		h.Queue.Restore(left.Ops, left.First, left.Last, left.Oldest)
	}
	if h.Cache.On() {
		must(h.Cache.Load(ctx))
	}
	h.Trust.Meet()
	must(h.Trust.Load(ctx))
}

// Start runs loops until the house ends.
func (h *House) Start(loops ...func(context.Context)) {
	for _, loop := range loops {
		h.Door.Spawn("a test's", func() { loop(h.Door.Context()) })
	}
}

// Log puts a unit, whose ops have their versions, into the log and the queue, like a write.
func (h *House) Log(t testing.TB, recs ...Record) {
	t.Helper()
	ops := OpsOf(recs...)
	if err := h.Pressure.Admit(context.Background(), ops); err != nil {
		t.Fatal(err)
	}
	if err := h.Numbers.Log(ops); err != nil {
		t.Fatal(err)
	}
}

// Buffer puts a unit into the queue alone, like a Buffered write.
func (h *House) Buffer(t testing.TB, recs ...Record) {
	t.Helper()
	ops := OpsOf(recs...)
	if err := h.Pressure.Admit(context.Background(), ops); err != nil {
		t.Fatal(err)
	}
	if !h.Queue.Promise(sizeOf(ops)) {
		t.Fatal("memory takes no more")
	}
	if err := h.Numbers.AcceptUnit(unitOf(ops, h.Queue.Now()), h.Numbers.Assign); err != nil {
		t.Fatal(err)
	}
}

// OpsOf are the ops of records.
func OpsOf(recs ...Record) (ops []*OpEntry) {
	for i := range recs {
		ops = append(ops, newEntry(&recs[i]))
	}
	return ops
}

// UnitOf is a unit of ops.
func UnitOf(ops ...*OpEntry) *Unit {
	u := unitOf(slices.Clone(ops), 0)
	return &u
}

// RecordOf is what an op is to a store.
func RecordOf(e *OpEntry) Record { return e.record() }

// BuildFilter builds the filter's set anew, if nobody else writes to L3.
func (h *House) BuildFilter(ctx context.Context) error { return h.Trust.warmFilter(ctx, roomNone) }
