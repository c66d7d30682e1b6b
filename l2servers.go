package syncengine

// l2servers.go notices a Redis that was restarted, or replaced by another one: it may have
// loaded an old dump, or missed what its predecessor acknowledged. What it holds then is not
// read before it was compared with L3 (INV-2). There are two signs:
//
//   - The run id of the server that a new connection leads to, before that is used; of a client
//     that this engine made, of Config.RedisURL.
//   - The replication id of each master, which is another one after each failover, and after a
//     restart; with each beat (l2owner.go), whoever made the client. So a failover to a replica
//     that had a connection already is noticed as well, however little it has missed. Of a client
//     that is the caller's (Config.Redis) it is asked for after each new connection, too, before
//     anything is believed that was read since: an old dump does not wait for a beat.

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

const (
	serversKey  = "l2_servers"
	mastersKey  = "l2_masters"
	serversKept = 64 // of the ids met, so many are remembered, or twice as many as there are
)

// l2Servers are ids that were met.
type l2Servers struct {
	key string // of the WAL file

	mu    sync.Mutex // guards the fields below
	known []string   // the WAL file has them as well
	read  bool
}

// Met is told which server a new connection leads to, before it is used.
func (c *cache) Met(ctx context.Context, runID string) { c.meet(ctx, &c.known, runID) }

// l2Dials are the new connections of a client of the caller's.
type l2Dials struct{ made, known atomic.Uint64 }

// Dialed is told of each, before it is used.
func (c *cache) Dialed() { c.dials.made.Add(1) }

// whoAnswers makes sure, after something was read, that it is known which servers there are.
func (c *cache) whoAnswers(ctx context.Context) error {
	made := c.dials.made.Load()
	claims, ok := c.store.(claimer)
	if !ok || made == c.dials.known.Load() {
		return nil
	}
	masters, err := claims.Masters(ctx)
	if err != nil { // of a cluster one may be away, and this says nothing of the others
		return fmt.Errorf("%w: %w", errWhoAnswers, err)
	}
	c.meet(ctx, &c.masters, masters...)
	for known := c.dials.known.Load(); known < made && !c.dials.known.CompareAndSwap(known, made); known = c.dials.known.Load() {
	}
	return nil
}

// meet notes ids. One that was not met before, while others were, has to be compared.
func (c *cache) meet(ctx context.Context, s *l2Servers, ids ...string) {
	ctx = context.WithoutCancel(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	var err error
	if !s.read {
		var b []byte
		if b, err = c.wal.Meta(ctx, s.key); err == nil {
			s.known, s.read = strings.Fields(string(b)), true
		}
	}
	ids = slices.DeleteFunc(ids, func(id string) bool { return slices.Contains(s.known, id) })
	if len(ids) == 0 {
		return
	}
	if err != nil || len(s.known) > 0 {
		c.missed.addAll()
		err = errors.Join(err, c.noteMissed(ctx, true))
	}
	s.known = append(s.known, ids...)
	s.known = s.known[max(0, len(s.known)-max(serversKept, 2*len(ids))):]
	if err = errors.Join(err, c.wal.SetMeta(ctx, s.key, []byte(strings.Join(s.known, " ")))); err != nil {
		c.news.Log().Error("can't note in the WAL file that Redis was restarted", "error", err)
	}
}
