package syncengine

// marks.go is what numbers (versions.go) knows of ops that are not in L1 yet, or not any more.
//
// Between its version and L1 an op is nowhere to be found: its commit is under way. A mark
// tells the newest such op of an id. Marks are also kept for ids that somebody watches, who
// reads what an id holds, decides, and must know what came in between: an op may be accepted,
// flushed and evicted in that time. What became of those ops is noted, too (Decided).

import (
	"context"
	"strings"
)

// mark is what is known of an id between versions and L1.
type mark struct {
	op       *entry  // the newest op that got its version while the mark was there
	begun    uint64  // ops that went on their way into the log
	ended    uint64  // the part of them that got there, or not
	failed   uint64  // the part of those that did not
	watchers int     // see Watch
	landed   uint64  // the newest version of ops that L3 has taken while it was watched
	lost     *lostOp // the newest op that it has not, since it holds something higher; nil: none
	waits    []numberWait
}

// begin marks ops that are about to be appended to the log.
func (n *numbers) begin(ops []*entry) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, op := range ops {
		m := n.marks[op.item()]
		m.begun++
		m.see(op)
		if op.isMerge() {
			n.logging[op] = struct{}{}
		}
		n.marks[op.item()] = m
	}
}

// end takes the marks of begin back: the ops are in memory now, or the log did not take them.
func (n *numbers) end(ops []*entry, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, op := range ops {
		m := n.marks[op.item()]
		m.ended++ // the log tells in order
		delete(n.logging, op)
		if err != nil {
			m.failed++
		}
		if m.op == op {
			if m.op = nil; err == nil && m.watchers > 0 {
				m.op = op.shadow()
			}
		}
		for len(m.waits) > 0 && m.waits[0].upTo <= int64(m.ended) {
			close(m.waits[0].done)
			m.waits = m.waits[1:]
		}
		n.put(op.item(), m)
	}
}

// note tells those who watch the ids of ops.
func (n *numbers) note(ops []*entry) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.marks) == 0 {
		return
	}
	for _, op := range ops {
		if m, ok := n.marks[op.item()]; ok {
			m.see(op.shadow())
			n.put(op.item(), m)
		}
	}
}

func (n *numbers) put(id string, m mark) {
	if m.begun == m.ended && m.watchers == 0 {
		delete(n.marks, id)
	} else {
		n.marks[strings.Clone(id)] = m // a map takes the new key, which may be in an op's own memory
	}
}

// underWay reports whether the newest op is on its way into the log. Of others the mark keeps
// no content.
func (m *mark) underWay() bool { return m.op != nil && m.op.idLen > 0 }

func (m *mark) see(op *entry) {
	if m.op == nil || op.compare(m.op) > 0 {
		m.op = op
	}
}

// Watch keeps the marks of ids until Unwatch, and returns how many of their ops the log had
// not taken by then.
func (n *numbers) Watch(ids []string) (failed []uint64) {
	failed = make([]uint64, len(ids))
	n.mu.Lock()
	defer n.mu.Unlock()
	for i, id := range ids {
		m := n.marks[id]
		m.watchers++
		n.watched.Add(1)
		n.marks[id] = m
		failed[i] = m.failed
	}
	return failed
}

// Discarded is told of ids whose newest op is no more: who watches them must look again.
func (n *numbers) Discarded(ids []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, id := range ids {
		if m, ok := n.marks[id]; ok {
			m.failed++
			n.marks[id] = m
		}
	}
}

func (n *numbers) Unwatch(ids []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, id := range ids {
		m := n.marks[id]
		m.watchers--
		n.watched.Add(-1)
		n.put(id, m)
	}
}

// Settle waits for the ops of ids that are on their way into the log.
func (n *numbers) Settle(ctx context.Context, ids ...string) error {
	for _, id := range ids {
		n.mu.Lock()
		m := n.marks[id]
		if m.begun == m.ended {
			n.mu.Unlock()
			continue
		}
		w := numberWait{int64(m.begun), make(chan struct{})}
		m.waits = append(m.waits, w)
		n.marks[id] = m
		n.mu.Unlock()
		select {
		case <-w.done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// Decided is told what became of units in L3, before memory lets go of them.
func (n *numbers) Decided(ctx context.Context, units []unit, a *outcome) error {
	if n.watched.Load() > 0 {
		n.mu.Lock()
		for i := range units {
			for _, e := range units[i].Ops() {
				m, ok := n.marks[e.item()]
				if !ok || a.refused[e] != nil {
					continue
				}
				if l, lost := a.lost[e]; !lost {
					m.landed = max(m.landed, e.version)
				} else if m.lost == nil || l.Op.Version > m.lost.Op.Version {
					m.lost = &l
				}
				n.marks[e.item()] = m
			}
		}
		n.mu.Unlock()
	}
	return n.KeepAhead(ctx, a.stored)
}

// Stored is told of ops that L3 has taken directly. Those with a condition stand for none that came
// before: they were made of what L3 held then, and an op that it does not hold was not in that.
func (n *numbers) Stored(ops []*entry, conditional bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, op := range ops {
		if m, ok := n.marks[op.item()]; ok {
			if m.see(op.shadow()); !conditional {
				m.landed = max(m.landed, op.version)
			}
			n.marks[op.item()] = m
		}
	}
}
