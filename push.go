package syncengine

// push.go tells the other engines which ids this one has written, so that they drop their copies
// within milliseconds instead of when those are L1MaxAge old (INV-15). It takes Redis, which
// carries the messages; one that is lost costs nothing but that time.
//
// What the flusher and the writer have brought to L2 is announced, never before: who drops a copy
// reads L2 next. A message names ids and versions; a copy of that version or a higher one stays. An
// engine does not listen to itself, and an engine alone is silent.
//
// Announcing never waits: ids are collected while a message is on its way, each once, so a storm of
// writes becomes few messages. Past pushMost ids the rest is not told.
//
// Two loops, "push" and "listen".

import (
	"context"
	"encoding/binary"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

const (
	pushMost   = 100_000 // ids that wait to be told
	pushChunk  = 1000    // ids of one message
	pushFormat = 1
	pushAgain  = time.Second // after a subscription has failed
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

	mu      sync.Mutex        // guards the two below
	pending map[string]uint64 // versions by id
	changed chan struct{}     // closed at the next change; nil: nobody waits

	told, untold, heard atomic.Uint64 // ids
	listens             atomic.Bool
}

func newPush(c *cache, mem *l1, t *trust, news *news, on bool) *push {
	return &push{cache: c, l1: mem, trust: t, news: news, on: on, self: newEngineID(), wake: make(chan struct{}, 1), pending: make(map[string]uint64)}
}

// On reports whether there are messages: the loops need not run without.
func (p *push) On() bool { return p.on && p.cache.Carries() }

// Changed returns a channel that is closed when this engine, or one that is heard, has written
// something to L3.
func (p *push) Changed() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.changed == nil {
		p.changed = make(chan struct{})
	}
	return p.changed
}

// tell wakes those who wait for a change.
func (p *push) tell() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.changed != nil {
		close(p.changed)
		p.changed = nil
	}
}

// Announce tells of what L3 and L2 hold now.
func (p *push) Announce(recs []Record) {
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
		p.pending[r.ID] = max(p.pending[r.ID], r.Version)
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
		p.pending = make(map[string]uint64)
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
func (p *push) encode(changes map[string]uint64) (message []byte, n int) {
	b := append(make([]byte, 0, 64*min(len(changes), pushChunk)), pushFormat)
	b = appendText(b, p.self)
	b = binary.AppendUvarint(b, uint64(p.trust.Time().Now().UnixMicro()))
	for id, version := range changes {
		if n++; n > pushChunk {
			return b, pushChunk
		}
		b = binary.AppendUvarint(appendText(b, id), version)
		delete(changes, id)
	}
	return b, n
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// Listen is the loop that receives.
func (p *push) Listen(ctx context.Context) {
	told := false
	for {
		_ = p.cache.Subscribe(ctx, func() {
			p.listens.Store(true)
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
			p.news.Log().Warn("messages of other engines are not heard: Redis is away, or its account may not subscribe; copies in memory are compared when they are L1MaxAge old")
		}
		if sleep(ctx, pushAgain) != nil {
			return
		}
	}
}

var errBadMessage = errors.New("a message can't be read")

// hear drops the copies that a message is about. One of another format is of a later version of
// this library: L1MaxAge has to do.
func (p *push) hear(message []byte) {
	if len(message) == 0 || message[0] != pushFormat {
		return
	}
	r := messageReader{rest: message[1:]}
	sender, at := r.text(), time.UnixMicro(int64(r.number()))
	if sender == p.self || r.err != nil {
		return
	}
	n := uint64(0)
	for len(r.rest) > 0 {
		id, version := r.text(), r.number()
		if r.err != nil {
			break
		}
		p.l1.Outdate(id, version)
		n++
	}
	p.tell()
	p.heard.Add(n)
	p.news.Heard(max(0, p.trust.Time().Now().Sub(at)))
}

// messageReader reads what encode wrote.
type messageReader struct {
	rest []byte
	err  error
}

func (r *messageReader) number() uint64 {
	v, n := binary.Uvarint(r.rest)
	if n <= 0 {
		r.rest, r.err = nil, errBadMessage
		return 0
	}
	r.rest = r.rest[n:]
	return v
}

func (r *messageReader) text() string {
	n := r.number()
	if n > uint64(len(r.rest)) {
		r.rest, r.err = nil, errBadMessage
		return ""
	}
	s := string(r.rest[:n])
	r.rest = r.rest[n:]
	return s
}

// Stats sets this department's part.
func (p *push) Stats(s *Stats) {
	s.PushTold, s.PushUntold, s.PushHeard = p.told.Load(), p.untold.Load(), p.heard.Load()
	s.PushListens = p.listens.Load()
}
