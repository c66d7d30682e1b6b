package fleetsim

import (
	"fmt"
	"sync"
	"time"

	"github.com/syncengine-go/syncengine"
)

// op is a write of a line.
type op struct {
	n         int
	del       bool
	ttl       bool
	lives     time.Duration
	expiry    time.Time // it is gone then at the latest; zero: not known
	dur       syncengine.Durability
	node      *node
	acked     bool
	refused   bool
	committed time.Time // known to be in L3 since then
}

// holds reports whether the op can't be lost any more.
func (o *op) holds() bool {
	return o.acked && (o.dur >= syncengine.Logged || !o.node.killed.Load() || !o.committed.IsZero())
}

func (o *op) String() string {
	s := fmt.Sprintf("%d", o.n)
	for text, is := range map[string]bool{" deleted": o.del, " acked": o.acked, " refused": o.refused, " in L3": !o.committed.IsZero(), " killed": o.node != nil && o.node.killed.Load()} {
		if is {
			s += text
		}
	}
	return s + " " + o.dur.String()
}

// line is what one client writes to an id, or to the ids of a group, in order.
type line struct {
	ids  []string
	slot int

	mu   sync.Mutex // guards the fields below
	ops  []*op
	next int
}

// begin notes a write that is going to be asked for.
func (l *line) begin(o op) *op {
	l.mu.Lock()
	defer l.mu.Unlock()
	if o.n == 0 {
		l.next++
		o.n = l.next
	}
	l.ops = append(l.ops, &o)
	return &o
}

// end notes what became of it.
func (l *line) end(o *op, r *Reply) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	switch r.Outcome {
	case done:
		o.acked = true
		if o.dur == syncengine.Archived {
			l.inL3(len(l.ops)-1, now)
		}
		o.expiry = now.Add(o.lives)
	case unsure:
		o.expiry = now.Add(o.lives)
	default:
		o.refused = true
	}
}

// inL3 notes that an op, and so what came before it, is in L3. mu is held.
func (l *line) inL3(upTo int, at time.Time) {
	for _, o := range l.ops[:upTo+1] {
		if o.acked && o.committed.IsZero() {
			o.committed = at
		}
	}
}

// mark returns how many ops were asked for, for flushed.
func (l *line) mark() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.ops)
}

// flushed notes that what an engine had accepted by a mark is in L3.
func (l *line) flushed(mark int, by *node) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := mark - 1; i >= 0; i-- {
		if l.ops[i].acked && l.ops[i].node == by {
			l.inL3(i, time.Now())
			return
		}
	}
}

// ownFloor is the last op that this client's engine must show, or a later one; -1 for none.
func (l *line) ownFloor() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := len(l.ops) - 1; i >= 0; i-- {
		if l.ops[i].holds() {
			return i
		}
	}
	return -1
}

// floorAt is the last op that was known to be in L3 at a time.
func (l *line) floorAt(at time.Time) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := len(l.ops) - 1; i >= 0; i-- {
		if c := l.ops[i].committed; !c.IsZero() && c.Before(at) {
			return i
		}
	}
	return -1
}

// certain reports whether there is one state that the id may have.
func (l *line) certain() (last *op, ok bool) {
	floor := l.ownFloor()
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := len(l.ops) - 1; i > floor; i-- {
		if !l.ops[i].refused {
			return nil, false
		}
	}
	if floor < 0 {
		return nil, false
	}
	return l.ops[floor], true
}

// allows reports whether a read may have given that, of n < 0 nothing. expires says at which time
// the read began, if items that had expired then must be gone.
func (l *line) allows(floor, n int, expires time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n < 0 && floor < 0 {
		return true
	}
	for _, o := range l.ops[max(floor, 0):] {
		switch {
		case o.refused:
		case n < 0 && (o.del || o.ttl):
			return true
		case n >= 0 && o.n == n && !o.del && (!o.ttl || expires.IsZero() || o.expiry.IsZero() || expires.Before(o.expiry)):
			return true
		}
	}
	return false
}

// reset forgets all but what L3 holds now.
func (l *line) reset(n int, del, ttl bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ops = []*op{{n: n, del: del, ttl: ttl, acked: true, dur: syncengine.Archived, node: new(node), committed: time.Now()}}
}

func (l *line) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := fmt.Sprintf("%v, of place %d:", l.ids, l.slot)
	for _, o := range l.ops[max(0, len(l.ops)-12):] {
		s += fmt.Sprintf("\n   %v", o)
		if !o.committed.IsZero() {
			s += fmt.Sprintf(" for %v", time.Since(o.committed).Round(time.Millisecond))
		}
	}
	return s
}

// counter is an id that all increment.
type counter struct {
	id string

	mu            sync.Mutex // guards the fields below
	acked, unsure int
	begun         int
	given         map[int]bool // what Update has returned
	reached       []reached
}

// reached is a value that Update has returned.
type reached struct {
	n  int
	at time.Time
}

// atLeast is the highest value that was reached at a time.
func (c *counter) atLeast(at time.Time) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range c.reached {
		if r.at.Before(at) {
			n = max(n, r.n)
		}
	}
	return n
}

// once is an id that is inserted.
type once struct {
	id     string
	mu     sync.Mutex // guards the fields below
	by     string     // whose insert was acknowledged
	at     time.Time
	unsure int
}

// write is one of a register: an id that all write.
type write struct {
	value        string
	del          bool
	dur          syncengine.Durability
	node         *node
	begun, ended time.Time
	outcome      string
	version      uint64 // as it was read back, 0 if not
}

// register is that id.
type register struct {
	id string

	mu     sync.Mutex // guards the field below
	writes []*write
}
