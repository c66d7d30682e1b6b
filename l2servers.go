package syncengine

// l2servers.go notices a Redis that was restarted, or replaced by another one: it may have
// loaded an old dump, or missed what its predecessor acknowledged. What it holds then is not
// read before it was compared with L3 (INV-2). It sees the connections of a client that this engine
// made, of Config.RedisURL; those of Config.Redis, or an L2 of the caller's own, it does not.

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
)

const (
	serversKey  = "l2_servers"
	serversKept = 64 // of the run ids met, so many are remembered
)

type l2Servers struct {
	mu    sync.Mutex // guards the fields below
	known []string   // run ids; the WAL file has them as well
	read  bool
}

// Met is told which server a new connection leads to, before it is used. One that was not
// met before, while others were, has to be compared.
func (c *cache) Met(ctx context.Context, runID string) {
	ctx = context.WithoutCancel(ctx)
	s := &c.known
	s.mu.Lock()
	defer s.mu.Unlock()
	var err error
	if !s.read {
		var b []byte
		if b, err = c.wal.Meta(ctx, serversKey); err == nil {
			s.known, s.read = strings.Fields(string(b)), true
		}
	}
	if slices.Contains(s.known, runID) {
		return
	}
	if err != nil || len(s.known) > 0 {
		c.missed.addAll()
		err = errors.Join(err, c.noteMissed(ctx, true))
	}
	s.known = append(s.known, runID)
	s.known = s.known[max(0, len(s.known)-serversKept):]
	if err = errors.Join(err, c.wal.SetMeta(ctx, serversKey, []byte(strings.Join(s.known, " ")))); err != nil {
		c.news.Log().Error("can't note in the WAL file that Redis was restarted", "error", err)
	}
}
