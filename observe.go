package syncengine

// observe.go shows the engine to its users: Stats and Health.

import (
	"context"
	"sync"
	"time"
)

// Stats returns a snapshot. It does no I/O, takes no lock for long, and also works on a
// closed engine.
func (e *Engine) Stats() Stats {
	pending, spooled, age := e.queue.pending()
	s := Stats{
		State: e.State(), Pressure: e.pressure.Now(), Level: e.pressure.Level(),
		L2Hits: e.l2Counts.hits.Load(), L2Misses: e.l2Counts.misses.Load(),
		L3Hits: e.l3Counts.hits.Load(), L3Misses: e.l3Counts.misses.Load(),
		PendingOps: pending, SpooledOps: spooled, OldestPending: age,
		FlushedOps: e.flush.flushed.Load(), DrainedOps: e.flush.drained.Load(), FlushBatches: e.flush.batches.Load(), FlushErrors: e.flush.errs.Load(),
		FilterEntries: e.filter.entries(), FilterTrusted: e.filter.trusted(),
		Quarantined: e.bad.count(), L3Down: e.flush.down.Load(), L2Missed: e.missed.count(),
	}
	e.l1.Stats(&s)
	e.wal.Stats(&s)
	e.news.Stats(&s)
	return s
}

// Health asks L2 and L3 for a sign of life, side by side, each within its timeout, past
// their breakers. It works in every state.
func (e *Engine) Health(ctx context.Context) Health {
	s := e.Stats()
	h := Health{State: s.State, Level: s.Level, PendingOps: s.PendingOps, Quarantined: s.Quarantined}
	h.Live = s.State != StateClosed
	h.Ready = (s.State == StateReady || s.State == StateRunning) && s.Level.AcceptsWrites()
	if e.door.Enter() != nil {
		return h
	}
	defer e.door.Leave()
	var wg sync.WaitGroup
	if e.l2 != nil {
		wg.Add(1)
		e.door.Spawn("health", func() {
			defer wg.Done()
			h.L2 = probe(ctx, e.cfg.L2Timeout, e.l2.Ping)
		})
	}
	h.L3 = probe(ctx, e.cfg.L3Timeout, func(ctx context.Context) error {
		if e.l3Ready.Load() {
			return e.l3.Ping(ctx)
		}
		return e.l3.Prepare(ctx)
	})
	wg.Wait()
	if h.L2.OK {
		e.cb2.reset() // the server answers
		if cause := e.l2Cause.Load(); cause != nil {
			h.L2.OK, h.L2.Error = false, "takes no writes: "+(*cause).Error()
		}
	}
	if cause := e.l3Cause.Load(); cause != nil && h.L3.OK { // a read-only server, say
		h.L3.OK, h.L3.Error = false, "takes no writes: "+(*cause).Error()
	}
	if h.L2.Configured {
		h.L2.Circuit = e.cb2.state()
	}
	h.L3.Circuit = e.cb3.state()
	return h
}

func probe(ctx context.Context, timeout time.Duration, ping func(context.Context) error) Probe {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	start := time.Now()
	err := ping(ctx)
	p := Probe{Configured: true, OK: err == nil, Latency: time.Since(start)}
	if err != nil {
		p.Error = err.Error()
	}
	return p
}
