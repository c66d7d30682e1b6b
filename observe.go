package syncengine

// observe.go shows the engine to its users: Stats and Health.

import (
	"context"
	"sync"
)

// Stats returns a snapshot. It does no I/O, takes no lock for long, and also works on a
// closed engine.
func (e *Engine) Stats() Stats {
	pending, spooled, age := e.queue.Pending()
	s := Stats{
		State: e.State(), Pressure: e.pressure.Now(), Level: e.pressure.Level(),
		PendingOps: pending, SpooledOps: spooled, OldestPending: age,
		Quarantined: e.bad.Count(),
	}
	e.flush.Stats(&s)
	e.l1.Stats(&s)
	e.wal.Stats(&s)
	e.cache.Stats(&s)
	e.trust.Stats(&s)
	e.push.Stats(&s)
	e.archive.Stats(&s)
	e.repair.Stats(&s)
	e.news.Stats(&s)
	return s
}

// Health asks L2 and L3 for a sign of life, side by side, each within its timeout, past
// their breakers. It may be called in every state; of an engine that is closing or closed nobody is
// asked, and both probes say that they are not configured.
func (e *Engine) Health(ctx context.Context) Health {
	s := e.Stats()
	h := Health{State: s.State, Level: s.Level, PendingOps: s.PendingOps, Quarantined: s.Quarantined}
	h.ClockOffset, _ = e.trust.Time().Offset()
	h.Fleet = e.trust.Fleet()
	h.Live = s.State != StateClosed
	h.Ready = (s.State == StateReady || s.State == StateRunning) && s.Level.AcceptsWrites()
	if e.door.Enter() != nil {
		return h
	}
	defer e.door.Leave()
	var wg sync.WaitGroup
	wg.Add(1)
	e.door.Spawn("health", func() {
		defer wg.Done()
		h.L2 = e.cache.Health(ctx)
	})
	h.L3 = e.archive.Health(ctx)
	wg.Wait()
	return h
}

// Verify compares L2 with L3 and, with Repair, fixes exactly the ids that differ. Without an
// L2 and without Deep it is a *ConfigError. L3 answers from its digest, and Redis computes its
// own, so little is read however much they hold; of stores of the caller's own, everything
// is. Where Redis is another database's it is ErrSetup. It may take as long as Redis needs to look
// at all its values; ctx bounds it.
func (e *Engine) Verify(ctx context.Context, opts VerifyOptions) (report VerifyReport, err error) {
	if err := e.door.Enter(); err != nil {
		return VerifyReport{}, err
	}
	defer e.door.Exit(ctx, &err)
	if !e.cache.On() && !opts.Deep {
		return VerifyReport{}, &ConfigError{Field: "RedisURL", Value: `""`, Rule: "Verify compares L2 with L3: it needs an L2"}
	}
	return e.verifier.Verify(ctx, opts)
}

// MerkleRoot returns the digest of the live items of L3: SHA-256 over the branches, each
// the XOR of the leaves of its items and their count (internal/digest). A leaf is an id, its
// version and the hash of its content. So copies of the same items have equal roots, in whatever
// order they were made; the same contents written twice differ, since their versions do. It is that
// of one moment, and reading it costs the same however many items there are; only an L3 of the
// caller's own is read whole.
// XOR detects accidents, not an adversary who picks contents. An item that has expired is in it
// until some engine has purged it, a second or two later.
func (e *Engine) MerkleRoot(ctx context.Context) (root [32]byte, err error) {
	if err := e.door.Enter(); err != nil {
		return [32]byte{}, err
	}
	defer e.door.Exit(ctx, &err)
	set, err := e.archive.Digest(ctx, nil)
	if err != nil {
		return [32]byte{}, unavailableUnless(ctx, err)
	}
	return set.Root(), nil
}
