package fleetsim

// client_test.go is what a client of an engine does, and what it must be told.

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/syncengine-go/syncengine"
)

// run works until the run ends.
func (s *slot) run() {
	for s.w.ctx.Err() == nil {
		s.w.pause.RLock()
		if n := s.node.Load(); n != nil {
			s.step(n)
		}
		s.w.pause.RUnlock()
		time.Sleep(time.Duration(s.rng.IntN(4000)) * time.Microsecond)
	}
}

// runReads only reads.
func (s *slot) runReads(rng *rand.Rand) {
	for s.w.ctx.Err() == nil {
		s.w.pause.RLock()
		if n := s.node.Load(); n != nil {
			s.read(n, s.w.lines[rng.IntN(len(s.w.lines))], rng)
			if rng.IntN(8) == 0 {
				s.decide(n, s.w.counters[rng.IntN(len(s.w.counters))])
			}
			if rng.IntN(4) == 0 {
				s.readCounter(n, s.w.counters[rng.IntN(len(s.w.counters))], rng)
			}
		}
		s.w.pause.RUnlock()
		time.Sleep(time.Duration(rng.IntN(6000)) * time.Microsecond)
	}
}

func (s *slot) step(n *node) {
	switch dice := s.rng.IntN(100); {
	case dice < 25:
		s.write(n)
	case dice < 33:
		s.increment(n, s.w.counters[s.rng.IntN(len(s.w.counters))])
	case dice < 39:
		s.insert(n, s.rng)
	case dice < 46:
		s.register(n, s.w.registers[s.rng.IntN(len(s.w.registers))])
	case dice < 80:
		s.read(n, s.w.lines[s.rng.IntN(len(s.w.lines))], s.rng)
	case dice < 86:
		s.readCounter(n, s.w.counters[s.rng.IntN(len(s.w.counters))], s.rng)
	case dice < 94:
		if some := s.w.lately([]int{10, 300}[s.rng.IntN(2)]); len(some) > 0 {
			s.readOnce(n, some[s.rng.IntN(len(some))], s.rng)
		}
	case dice < 97:
		marks := s.marks()
		if n.do(Request{Call: "flush"}).Outcome == done {
			s.flushed(marks, n)
		}
	case dice < 98:
		s.look(n)
	default:
		s.list(n)
	}
}

func (s *slot) durability() syncengine.Durability {
	return []syncengine.Durability{syncengine.Buffered, syncengine.Logged, syncengine.Logged, syncengine.Archived}[s.rng.IntN(4)]
}

func content(n int) string { return fmt.Sprintf(`{"n":%d}`, n) }

// write writes to a line of this place, and reads it back.
func (s *slot) write(n *node) {
	l := s.lines[s.rng.IntN(len(s.lines))]
	req := Request{ID: l.ids[0], IDs: l.ids, Durability: s.durability()}
	o := op{dur: req.Durability, node: n}
	last, certain := l.certain()
	dice := s.rng.IntN(10)
	switch {
	case strings.HasPrefix(req.ID, "t:") && dice < 3 && certain:
		req.Call, req.TTL = "touch", time.Duration(300+s.rng.IntN(1500))*time.Millisecond
		o.n, o.ttl, o.lives, o.del, o.dur = last.n, true, req.TTL, last.del, syncengine.Archived
	case strings.HasPrefix(req.ID, "t:"):
		req.Call, req.TTL = "put", time.Duration(300+s.rng.IntN(1500))*time.Millisecond
		if o.ttl, o.lives = true, req.TTL; strings.Contains(explain(n, req.ID), "not connected yet") {
			o.lives = 2 * time.Hour // it is counted by the host's clock, which may be an hour ahead
		}
	case len(l.ids) > 1 && dice < 2:
		req.Call, o.del = "deletemany", true
	case len(l.ids) > 1:
		req.Call = "putmany"
	case dice < 2:
		req.Call, o.del = "delete", true
	case dice < 4 && certain:
		r := n.do(Request{Call: "get", ID: req.ID})
		if r.Outcome != done {
			return
		}
		req.Call, req.If, o.dur = "put", r.Version, syncengine.Archived
	default:
		req.Call = "put"
	}
	p := l.begin(o)
	req.Value = content(p.n)
	r := n.do(req)
	if req.Call == "touch" && r.Outcome == absent { // it has expired
		r.Outcome = refused
	}
	if r.Outcome == conflict && !n.killed.Load() {
		s.w.wrong("place %d, %v: %s of %s: %s\n%v\n%s", s.number, n, req.Call, req.ID, r.Err, l, explain(n, req.ID))
	}
	l.end(p, &r)
	s.w.count(req.Call + " " + r.Outcome)
	if s.rng.IntN(3) == 0 {
		s.read(n, l, s.rng)
	}
}

// read reads an id in some way.
func (s *slot) read(n *node, l *line, rng *rand.Rand) {
	id := l.ids[rng.IntN(len(l.ids))]
	forgot := rng.IntN(3) == 0
	if forgot {
		n.do(Request{Call: "invalidate", IDs: []string{id}})
	}
	s.readAs(n, l, id, []string{"get", "get", "verified", "many", "status"}[rng.IntN(5)], forgot)
}

func (s *slot) readAs(n *node, l *line, id, call string, forgot bool) {
	began := time.Now()
	own, ownFloor := l.slot == s.number, -1
	if own {
		ownFloor = l.ownFloor()
	}
	floor := l.floorAt(began.Add(-bound))
	good := s.goodSince.Load()
	well := s.good(began.Add(-bound))
	before := s.beforeSQL(n, id)
	r := n.do(Request{Call: call, ID: id, IDs: []string{id}})
	got := -1
	switch {
	case call == "many" && r.Outcome == done && r.Many[id] != "":
		got = valueOf(r.Many[id])
	case r.Outcome == absent || call == "many" && r.Outcome == done:
	case r.Outcome == done && call == "status":
		return // of what version it can't say
	case r.Outcome == done:
		got = valueOf(r.Value)
	default:
		s.w.count("reads failed")
		return
	}
	what := fmt.Sprintf("place %d, %v: %s of %s, Redis asked: %v, stale: %v, gives %d", s.number, n, call, id, forgot, r.Stale, got)
	if own && s.w.ctx.Err() == nil && !n.killed.Load() && !l.allows(ownFloor, got, time.Time{}) {
		s.w.wrong("INV-2: %s\n%v\n%s", what, l, explain(n, id))
	}
	well = well && good == s.goodSince.Load() && s.w.steady(began.Add(-bound))
	if well && before && (r.Stale || got == -1) { // that there is nothing can't be marked as stale
		s.w.count("reads before SQL was reached")
		well = false
	}
	if !well {
		floor = -1
		s.w.count("reads at any time")
	} else {
		s.w.count("reads in time")
	}
	expires := time.Time{}
	if well {
		expires = began.Add(-bound)
	}
	if !l.allows(floor, got, expires) {
		s.w.wrong("INV-15: %s\n%v\n%s", what, l, explain(n, id))
	}
}

// beforeSQL reports whether a read that is to come may be marked as stale, since Open has given up
// waiting for SQL. Afterwards it may be reached.
func (s *slot) beforeSQL(n *node, id string) bool {
	if n.connected.Load() {
		return false
	}
	told := explain(n, id)
	n.connected.Store(told != "" && !strings.Contains(told, "not connected yet"))
	return !n.connected.Load()
}

// list lists the lines, which is no cached answer.
func (s *slot) list(n *node) {
	began := time.Now()
	floors := make([]int, len(s.w.lines))
	for i, l := range s.w.lines {
		floors[i] = l.floorAt(began)
	}
	r := n.do(Request{Call: "all", ID: "o:"})
	if r.Outcome != done {
		return
	}
	s.w.count("lists")
	for i, l := range s.w.lines {
		if id := l.ids[0]; strings.HasPrefix(id, "o:") {
			got := -1
			if v, ok := r.Many[id]; ok {
				got = valueOf(v)
			}
			if !l.allows(floors[i], got, time.Time{}) {
				s.w.wrong("place %d, %v: All shows %d of %v", s.number, n, got, l)
			}
		}
	}
}

func (s *slot) increment(n *node, c *counter) {
	c.mu.Lock()
	c.begun++
	c.mu.Unlock()
	r := n.do(Request{Call: "update", ID: c.id})
	s.w.count("update " + r.Outcome)
	c.mu.Lock()
	defer c.mu.Unlock()
	switch v := valueOf(r.Value); r.Outcome {
	case done:
		if c.given[v] {
			s.w.wrong("INV-14: place %d, %v: Update of %s gives %d for the second time", s.number, n, c.id, v)
		}
		c.given[v] = true
		c.acked++
		c.reached = append(c.reached, reached{v, time.Now()})
	case unsure:
		c.unsure++
	}
}

// decide asks for a counter where it is decided: what any engine has returned before counts.
func (s *slot) decide(n *node, c *counter) {
	began := time.Now()
	r := n.do(Request{Call: "decide", ID: c.id})
	if s.w.count("decide " + r.Outcome); r.Outcome != done {
		return
	}
	if got, least := max(0, valueOf(r.Value)), c.atLeast(began); got < least { // 0: it is not there
		s.w.wrong("INV-14: place %d, %v: %s is decided to be %d, and was %d\n%s", s.number, n, c.id, got, least, explain(n, c.id))
	}
}

func (s *slot) readCounter(n *node, c *counter, rng *rand.Rand) {
	began := time.Now()
	if rng.IntN(2) == 0 {
		n.do(Request{Call: "invalidate", IDs: []string{c.id}})
	}
	well, good := s.good(began.Add(-bound)), s.goodSince.Load()
	before := s.beforeSQL(n, c.id)
	r := n.do(Request{Call: []string{"get", "verified"}[rng.IntN(2)], ID: c.id})
	if !well || good != s.goodSince.Load() || !s.w.steady(began.Add(-bound)) {
		return
	}
	got := 0
	switch r.Outcome {
	case done:
		got = valueOf(r.Value)
	case absent:
	default:
		return
	}
	if before && (r.Stale || r.Outcome == absent) {
		s.w.count("reads before SQL was reached")
		return
	}
	s.w.count("counters read in time")
	if least := c.atLeast(began.Add(-bound)); got < least {
		s.w.wrong("INV-15: place %d, %v: %s is %d, and was %d\n%s", s.number, n, c.id, got, least, explain(n, c.id))
	}
}

// insert inserts an id that nobody has tried to, or that another client tries at the same time.
func (s *slot) insert(n *node, rng *rand.Rand) *once {
	s.w.onceMu.Lock()
	var o *once
	if k := len(s.w.onces); k > 0 && rng.IntN(3) == 0 {
		o = s.w.onces[k-1]
	} else {
		o = &once{id: fmt.Sprintf("i:%06d", k)}
		s.w.onces = append(s.w.onces, o)
	}
	s.w.onceMu.Unlock()
	value := fmt.Sprintf("%d", n.number*1_000_000+rng.IntN(1_000_000))
	r := n.do(Request{Call: "insert", ID: o.id, Value: value})
	s.w.count("insert " + r.Outcome)
	o.mu.Lock()
	defer o.mu.Unlock()
	switch r.Outcome {
	case done:
		if o.by != "" {
			s.w.wrong("INV-14: place %d, %v: %s was inserted twice", s.number, n, o.id)
		}
		o.by, o.at = value, time.Now()
	case unsure:
		o.unsure++
	}
	return o
}

// lately are ids that were inserted, the last ones.
func (w *world) lately(most int) []*once {
	w.onceMu.Lock()
	defer w.onceMu.Unlock()
	return slices.Clone(w.onces[max(0, len(w.onces)-most):])
}

// readOnce asks for an id that was inserted: nobody may say that it is not there.
func (s *slot) readOnce(n *node, o *once, rng *rand.Rand) {
	o.mu.Lock()
	by := o.by
	o.mu.Unlock()
	call := []string{"get", "contains", "many", "verified"}[rng.IntN(4)]
	r := n.do(Request{Call: call, ID: o.id, IDs: []string{o.id}})
	if by == "" {
		return
	}
	s.w.count("inserted ids read")
	if r.Outcome == absent || r.Outcome == done && (call == "contains" && !r.Yes || call == "many" && r.Many[o.id] != by) ||
		r.Outcome == done && (call == "get" || call == "verified") && r.Value != by {
		s.w.wrong("INV-7: place %d, %v: %s of %s, which was inserted: %s %q, %v\n%s", s.number, n, call, o.id, r.Outcome, r.Value, r.Yes, explain(n, o.id))
	}
}

// register writes to an id that all write.
func (s *slot) register(n *node, g *register) {
	w := &write{value: fmt.Sprintf(`"%d.%d"`, n.number, s.rng.Uint64()), dur: s.durability(), node: n, del: s.rng.IntN(5) == 0, begun: time.Now()}
	g.mu.Lock()
	g.writes = append(g.writes, w)
	g.mu.Unlock()
	req := Request{Call: "put", ID: g.id, Value: w.value, Durability: w.dur}
	if w.del {
		req.Call = "delete"
	}
	r := n.do(req)
	s.w.count("register " + r.Outcome)
	var version uint64
	if r.Outcome == done && !w.del {
		if back := n.do(Request{Call: "get", ID: g.id}); back.Outcome == done && back.Value == w.value {
			version = back.Version
		}
	}
	g.mu.Lock()
	w.ended, w.outcome, w.version = time.Now(), r.Outcome, version
	g.mu.Unlock()
}
