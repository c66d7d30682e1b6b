package syncengine

// news.go tells what happens: to the log, to the user's event functions, and to the counters and
// metrics, from one place for each kind of event. Whoever finds something out calls it once.
//
// Nothing here waits: event functions run on the loop "events". A breaker calls Circuit under its
// lock.

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/syncengine-go/syncengine/internal/eventloop"
)

// news is the department that tells.
type news struct {
	log    *slog.Logger
	on     Events
	loop   *eventloop.Loop
	meters *metrics // nil: nobody wants them

	corrupt, healed, superseded, retries atomic.Uint64
}

func newNews(log *slog.Logger, on Events) *news {
	return &news{log: log, on: on, loop: eventloop.New(log)}
}

// Open registers the metrics. stats and circuit are called at scrape time.
func (n *news) Open(reg prometheus.Registerer, stats func() Stats, circuit func(tier string) string) (err error) {
	n.meters, err = newMetrics(reg, stats, circuit, n.retries.Load)
	return err
}

// Run is the loop "events".
func (n *news) Run() { n.loop.Run() }

// End lets the event functions finish, as long as ctx allows: one that
// does not return, or that itself waits for Close, is left behind.
func (n *news) End(ctx context.Context) {
	n.loop.Close()
	select {
	case <-n.loop.Ended():
	case <-ctx.Done():
	}
}

// Unregister takes the metrics back.
func (n *news) Unregister() { n.meters.unregister() }

// Log is for what only the log is told of.
func (n *news) Log() *slog.Logger { return n.log }

// Stats sets this department's part.
func (n *news) Stats(s *Stats) {
	s.Corruptions, s.Healed, s.Superseded = n.corrupt.Load(), n.healed.Load(), n.superseded.Load()
}

// State tells that the engine is in another state.
func (n *news) State(from, to State) {
	n.log.Info("state changed", "from", from.String(), "to", to.String())
	if fn := n.on.StateChanged; fn != nil {
		n.loop.Tell(func() { fn(from, to) })
	}
}

// Level tells that backpressure has changed.
func (n *news) Level(from, to BackpressureLevel) {
	severity := slog.LevelInfo
	if to >= LevelWarn {
		severity = slog.LevelWarn
	}
	n.log.Log(context.Background(), severity, "backpressure changed", "from", from.String(), "to", to.String())
	if fn := n.on.BackpressureChanged; fn != nil {
		n.loop.Tell(func() { fn(from, to) })
	}
}

// Circuit tells that a breaker has changed, and why if it opens. It only hands over.
func (n *news) Circuit(tier, from, to string, cause error) {
	n.loop.Tell(func() {
		if cause != nil {
			n.log.Warn("circuit changed", "tier", tier, "from", from, "to", to, "error", plain(cause))
		} else {
			n.log.Warn("circuit changed", "tier", tier, "from", from, "to", to)
		}
		if fn := n.on.CircuitChanged; fn != nil {
			fn(tier, from, to)
		}
	})
}

// L3Outage tells that writes to L3 began or ceased to fail.
func (n *news) L3Outage(down bool, cause error) {
	if down {
		n.log.Warn("L3 takes no writes, ops wait in the WAL", "error", cause)
	} else {
		n.log.Info("L3 takes writes again")
	}
	if fn := n.on.L3Outage; fn != nil {
		n.loop.Tell(func() { fn(down, cause) })
	}
}

// ClockStep tells that L3's clock was set, or that another server answers.
func (n *news) ClockStep(step time.Duration) {
	n.log.Warn("the clock of SQL is not what it was", "step", step)
}

// Heard counts a message of another engine, which has taken so long.
func (n *news) Heard(lag time.Duration) { n.meters.heard(lag) }

// L2Outage tells that writes to L2 began (cause is set) or ceased to fail.
func (n *news) L2Outage(cause error) {
	if cause == nil {
		n.log.Info("L2 changed", "down", false)
	} else {
		n.log.Info("L2 changed", "down", true, "error", cause)
	}
	if fn := n.on.L2Outage; fn != nil {
		n.loop.Tell(func() { fn(cause != nil, cause) })
	}
}

// Quarantined tells that L3 refuses the ops of a unit. Its words could quote content, so the log
// gets its number for the error alone, 0 for none. op makes what the user is shown of the ith, if
// anybody wants to see it; its content may be the op's own.
func (n *news) Quarantined(count int, op func(i int) QuarantinedOp, number int) {
	n.log.Warn("L3 refused an op, now in quarantine", "ops", count, "sql_error", number)
	fn := n.on.Quarantined
	if fn == nil {
		return
	}
	for i := range count {
		op := op(i)
		n.ofOp(&op.ID, &op.Content, func() { fn(op) })
	}
}

// ofOp makes tell tell the user of an op later, with copies of its id and content put in place: by
// then nothing else may hold its memory. When too much is held, the content is left out.
func (n *news) ofOp(inID *string, inContent *[]byte, tell func()) {
	id, content := *inID, *inContent
	*inID, *inContent = "", nil
	whole := func() {
		*inID, *inContent = strings.Clone(id), slices.Clone(content)
		tell()
	}
	if !n.loop.Offer(len(id)+len(content), whole) {
		*inID = strings.Clone(id)
		n.loop.Send(len(id), tell)
	}
}

// Corrupted tells of a copy that does not match its hash, if err says so.
func (n *news) Corrupted(err error) {
	var ce *CorruptionError
	if !errors.As(err, &ce) {
		return
	}
	n.corrupt.Add(1)
	n.meters.corruption(ce.Tier)
	n.log.Warn("corrupt copy", "tier", ce.Tier)
	if fn := n.on.Corrupted; fn != nil {
		n.loop.Send(len(ce.ID), func() { fn(ce) })
	}
}

// DamagedMerges tells of rows of merges that are left out, since they can't be read.
func (n *news) DamagedMerges(id string, rows int) {
	for range rows {
		n.Corrupted(&CorruptionError{ID: id, Tier: "L3", Expected: "a merge", Actual: "damaged"})
	}
}

// Healed tells that a corrupt copy was replaced.
func (n *news) Healed(id, tier string) {
	n.healed.Add(1)
	if fn := n.on.Healed; fn != nil {
		n.loop.Send(len(id), func() { fn(id, tier) })
	}
}

// Superseded tells of ops that L3 holds something higher of, by another engine. op makes what the
// user is shown of the ith, as in Quarantined.
func (n *news) Superseded(count int, op func(i int) SupersededOp) {
	n.superseded.Add(uint64(count))
	n.log.Warn("another engine's later write was in L3 first", "ops", count)
	fn := n.on.Superseded
	if fn == nil {
		return
	}
	for i := range count {
		op := op(i)
		n.ofOp(&op.ID, &op.Content, func() { fn(op) })
	}
}

// Verified tells how a verification ended. One in the background is told to the user as well.
func (n *news) Verified(r *VerifyReport, took time.Duration, err error, background bool) {
	n.meters.verified(took, len(r.Divergent), err)
	if !background || err != nil {
		return
	}
	if len(r.Divergent) > 0 {
		n.log.Info("L2 differed from L3", "ids", len(r.Divergent), "repaired", r.Repaired)
	}
	if fn := n.on.Verified; fn != nil {
		report := *r
		n.loop.Tell(func() { fn(report) })
	}
}

// Compacted tells how far a compaction is, and that it is over.
func (n *news) Compacted(r CompactReport, done bool) {
	if done && r.Ops > 0 {
		n.log.Info("merges compacted", "items", r.Items, "ops", r.Ops, "damaged", r.Damaged)
	}
	if fn := n.on.Compacted; fn != nil {
		n.loop.Tell(func() { fn(r, done) })
	}
}

// Call counts a call to a tier.
func (n *news) Call(tier, op string, start time.Time, err error) { n.meters.call(tier, op, start, err) }

// Start is when a call begins that is timed; zero when nobody wants to know.
func (n *news) Start() (t time.Time) {
	if n.meters != nil {
		t = time.Now()
	}
	return t
}

// Got counts a Get that memory did not answer at once.
func (n *news) Got(by answerer, start time.Time, err error) { n.meters.got(by, start, err) }

// Wrote counts a write that succeeded.
func (n *news) Wrote(d Durability, conditional bool, start time.Time, err error) {
	n.meters.wrote(d, conditional, start, err)
}

// FlushStart is when a batch begins that the user is told of; zero when nobody wants to know.
func (n *news) FlushStart() (t time.Time) {
	if n.on.Flushed != nil {
		t = time.Now()
	}
	return t
}

// Flushed tells what became of a batch. It is called only after a FlushStart that was not zero.
func (n *news) Flushed(b FlushedBatch) {
	fn := n.on.Flushed
	bytes := 0
	for _, parent := range b.TraceParents {
		bytes += len(parent)
	}
	n.loop.Send(bytes, func() { fn(b) })
}

// Batch counts a batch that has landed.
func (n *news) Batch(ops int, bytes int64) { n.meters.batch(ops, bytes) }

// Retried counts a call to L3 that is made again.
func (n *news) Retried() { n.retries.Add(1) }
