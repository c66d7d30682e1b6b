package syncengine

// push.go tells the other engines which ids this one has written, so that they drop their copies
// within milliseconds instead of when those are L1MaxAge old (INV-15). It takes Redis, which
// carries the messages; one that is lost costs nothing but that time.
//
// What the flusher and the writer have brought to L2 is announced, never before: who drops a copy
// reads L2 next. A message names ids and versions, and which of them L2 has missed; a copy of that
// version or a higher one stays. An engine does not listen to itself, and an engine alone is
// silent. What a message does not tell, the log in L3 does a little later (tail.go).
//
// Announcing never waits: ids are collected while a message is on its way, each once, so a storm of
// writes becomes few messages. Past pushMost ids the rest is not told.
//
// Two loops, "push" and "listen".

import (
	"context"
	"encoding/binary"
	"sync"
	"sync/atomic"
	"time"

	"github.com/syncengine-go/syncengine/internal/changelog"
)

const (
	pushMost   = 100_000 // ids that wait to be told
	pushChunk  = 1000    // ids of one message
	pushFormat = 1
	// toldLacking is a flag: L2 has not got that version.
	toldLacking = 1
	pushAgain   = time.Second // after a subscription has failed
)

// push is that department.
type push struct {
	cache *cache
	l1    *l1
	trust *trust
	news  *news
	on    bool
	self  string
	wake  chan struct{} // cap 1

	mu      sync.Mutex // guards the three below
	pending map[string]tidings
	changed chan struct{} // closed at the next change; nil: nobody waits
	changes uint64        // how many there were, and one

	told, untold, heard atomic.Uint64 // ids
	listens             atomic.Bool
}

func newPush(c *cache, mem *l1, t *trust, news *news, on bool) *push {
	return &push{cache: c, l1: mem, trust: t, news: news, on: on, self: newEngineID(), wake: make(chan struct{}, 1), pending: make(map[string]tidings), changes: 1}
}

// On reports whether there are messages: the loops need not run without.
func (p *push) On() bool { return p.on && p.cache.Carries() }

// Changed returns a channel that is closed when this engine, or one that is heard, has written
// something to L3, and the number of the last time it had, from 1.
func (p *push) Changed() (<-chan struct{}, uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.changed == nil {
		p.changed = make(chan struct{})
	}
	return p.changed, p.changes
}

// tell wakes those who wait for a change.
func (p *push) tell() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.changes++
	if p.changed != nil {
		close(p.changed)
		p.changed = nil
	}
}

// tidings are what is told of an id.
type tidings struct {
	version uint64
	lacking bool // L2 has not got it
}

// Announce tells of what L3 holds now, and L2, unless it has missed it.
func (p *push) Announce(recs []Record, inL2 bool) {
	p.tell()
	if !p.On() || p.trust.Alone() {
		return
	}
	p.mu.Lock()
	for i := range recs {
		r := &recs[i]
		if _, ok := p.pending[r.ID]; !ok && len(p.pending) >= pushMost {
			p.untold.Add(1)
			continue
		}
		if t, ok := p.pending[r.ID]; !ok || t.version <= r.Version {
			p.pending[r.ID] = tidings{r.Version, !inL2}
		}
	}
	p.mu.Unlock()
	select {
	case p.wake <- struct{}{}:
	default: // a signal is already pending
	}
}

// Run is the loop that sends.
func (p *push) Run(ctx context.Context) {
	for {
		select {
		case <-p.wake:
		case <-ctx.Done():
			return
		}
		p.mu.Lock()
		changes := p.pending
		p.pending = make(map[string]tidings)
		p.mu.Unlock()
		for len(changes) > 0 {
			message, n := p.encode(changes)
			if err := p.cache.Publish(ctx, message); err != nil {
				p.untold.Add(uint64(n))
			} else {
				p.told.Add(uint64(n))
			}
		}
	}
}

// encode takes some of the changes into a message.
func (p *push) encode(changes map[string]tidings) (message []byte, n int) {
	b := append(make([]byte, 0, 64*min(len(changes), pushChunk)), pushFormat)
	b = append(b, p.self...)
	b = binary.AppendUvarint(b, uint64(p.trust.Time().Now().UnixMicro()))
	var a changelog.Appender
	for id, t := range changes {
		if n++; n > pushChunk {
			return b, pushChunk
		}
		c := changelog.Change{Key: id, Version: t.version}
		if t.lacking {
			c.Flags = toldLacking
		}
		b = a.Append(b, c)
		delete(changes, id)
	}
	return b, n
}

// Listen is the loop that receives.
func (p *push) Listen(ctx context.Context) {
	told := false
	for {
		_ = p.cache.Subscribe(ctx, func() {
			if p.listens.Store(true); told {
				told = false
				p.news.Log().Info("messages of other engines are heard again")
			}
			if !p.trust.Alone() {
				p.l1.Doubt() // nobody knows what was told before
			}
		}, p.hear)
		p.listens.Store(false)
		if ctx.Err() != nil {
			return
		}
		if !told {
			told = true
			// Not what Redis said: of a wrong password it may be that (INV-13).
			p.news.Log().Warn("messages of other engines are not heard: Redis is away, or its account may not subscribe; the log of changes in SQL tells of their writes, or copies are compared when they are L1MaxAge old")
		}
		if sleep(ctx, pushAgain) != nil {
			return
		}
	}
}

// hear drops the copies that a message is about. One of another format is of a later version of
// this library: the log has to do.
func (p *push) hear(message []byte) {
	head := 1 + len(p.self)
	if len(message) <= head || message[0] != pushFormat || string(message[1:head]) == p.self {
		return
	}
	at, w := binary.Uvarint(message[head:])
	if w <= 0 {
		return
	}
	n := uint64(0)
	_ = changelog.Read(message[head+w:], func(c changelog.Change) bool { // what can be read
		p.cache.Told(c.Key, c.Version, c.Flags&toldLacking == 0) // first: who finds no copy reads L2
		p.l1.Outdate(c.Key, c.Version)
		n++
		return true
	})
	p.tell()
	p.heard.Add(n)
	p.news.Heard(max(0, p.trust.Time().Now().Sub(time.UnixMicro(int64(at)))))
}

// Stats sets this department's part.
func (p *push) Stats(s *Stats) {
	s.PushTold, s.PushUntold, s.PushHeard = p.told.Load(), p.untold.Load(), p.heard.Load()
	s.PushListens = p.listens.Load()
	p.mu.Lock()
	s.PushPending = len(p.pending)
	p.mu.Unlock()
}
