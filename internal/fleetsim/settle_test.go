package fleetsim

// settle_test.go lets the fleet come to rest, and compares all with all.

import (
	"fmt"
	"math/rand/v2"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
)

// until asks again for a while.
func (w *world) until(limit time.Duration, ok func() bool) bool {
	for end := time.Now().Add(limit); w.ctx.Err() == nil; time.Sleep(20 * time.Millisecond) {
		if ok() {
			return true
		}
		if time.Now().After(end) {
			return false
		}
	}
	return true // it is over
}

// settle is called when all faults are healed. Nobody writes meanwhile.
func (w *world) settle(rng *rand.Rand) {
	w.pause.Lock()
	defer w.pause.Unlock()
	w.note("settle")
	for _, s := range w.slots {
		w.until(30*time.Second, func() bool {
			s.open(rng, false)
			return s.node.Load() != nil
		})
	}
	w.each(func(s *slot, n *node) {
		marks := s.marks()
		var r Reply
		if !w.until(40*time.Second, func() bool { r = n.do(Request{Call: "flush"}); return r.Outcome == done }) {
			w.wrong("place %d, %v: Flush, long after all faults: %s", s.number, n, r.Err)
		}
		s.flushed(marks, n)
	})
	flushed := time.Now()
	w.note("flushed")
	rows, err := lab.ArchiveOf(w.ctx, w.l3)
	if err != nil {
		if w.ctx.Err() == nil {
			w.wrong("L3: %v", err)
		}
		return
	}
	w.judge(rows)
	w.until(bound+time.Second, func() bool { return time.Since(flushed) > bound })
	w.note("compare")
	for _, forget := range []bool{false, true} {
		w.each(func(s *slot, n *node) { w.compare(s, n, rows, forget) })
	}
	w.each(func(s *slot, n *node) {
		s.look(n)
		s.replays.Store(false)
	})
	for i, f := range w.followers {
		diff := ""
		if !w.until(10*time.Second, func() bool { f.turn(300 * time.Millisecond); diff = f.differs(rows); return diff == "" }) {
			w.wrong("follower %d: %s", i, diff)
		}
	}
	w.note("verify")
	w.each(func(s *slot, n *node) {
		var r Reply
		in := func() bool {
			r = n.do(Request{Call: "verify", Deep: true, Within: 10 * time.Second})
			if r.Outcome == done && (r.Report.WrongBranches > 0 || len(r.Report.Corrupt) > 0) {
				w.wrong("place %d, %v: Verify: %d wrong branches, corrupt: %v", s.number, n, r.Report.WrongBranches, r.Report.Corrupt)
			}
			return r.Outcome == done && r.Report.InSync
		}
		if !w.until(20*time.Second, in) {
			w.wrong("place %d, %v: Verify: %s, %d divergent: %.10v, missed: %d", s.number, n, r.Err, len(r.Report.Divergent), r.Report.Divergent,
				n.do(Request{Call: "stats"}).Stats.L2Missed)
		}
	})
	w.reset(rows)
	w.note("settled")
	w.count("settled")
}

// each calls fn with all that are open, side by side.
func (w *world) each(fn func(s *slot, n *node)) {
	var all sync.WaitGroup
	for _, s := range w.slots {
		if n := s.node.Load(); n != nil {
			all.Go(func() { fn(s, n) })
		}
	}
	all.Wait()
}

// live reports whether a row is an item, surely.
func live(r syncengine.Record) bool { return !r.Deleted && r.ExpiresAt.IsZero() }

func rowOf(rows map[string]syncengine.Record, id string) int {
	if r, ok := rows[id]; ok && !r.Deleted {
		return valueOf(string(r.Content))
	}
	return -1
}

// judge compares L3 with the model.
func (w *world) judge(rows map[string]syncengine.Record) {
	for _, l := range w.lines {
		floor := l.ownFloor()
		for _, id := range l.ids {
			if got := rowOf(rows, id); !l.allows(floor, got, time.Time{}) {
				w.wrong("INV-1: L3 holds %d of %s\n%v", got, id, l)
			}
		}
	}
	for _, c := range w.counters {
		if got := max(rowOf(rows, c.id), 0); got < c.acked || got > c.acked+c.unsure {
			w.wrong("INV-14: %s is %d after %d increments and %d perhaps", c.id, got, c.acked, c.unsure)
		}
	}
	for _, o := range w.onces {
		r, ok := rows[o.id]
		if o.by != "" && (!ok || string(r.Content) != o.by) {
			w.wrong("INV-14: %s is %s, want %s", o.id, r.Content, o.by)
		} else if ok && o.by == "" && o.unsure == 0 {
			w.wrong("INV-14: %s is there, and nobody has inserted it", o.id)
		}
	}
	for _, g := range w.registers {
		r, there := rows[g.id]
		var last *write // that whoever waits for L3 has written last
		for _, x := range g.writes {
			if x.outcome == done && x.dur == syncengine.Archived && (last == nil || x.begun.After(last.begun)) {
				last = x
			}
			if x.version > r.Version && (x.dur >= syncengine.Logged || !x.node.killed.Load()) {
				w.wrong("INV-1: %s is at version %d, and %s was accepted at %d", g.id, r.Version, x.value, x.version)
			}
		}
		if last == nil {
			continue
		}
		if !there {
			w.wrong("INV-1: %s is not there, and was written", g.id)
		}
		for _, x := range g.writes {
			if !r.Deleted && x.value == string(r.Content) && x.dur == syncengine.Archived && x.outcome == done && x.ended.Before(last.begun) {
				w.wrong("INV-16: L3 holds %s of %s, by %v, in version %d; after that %s (delete: %v) by %v was acknowledged", x.value, g.id, x.node, r.Version,
					last.value, last.del, last.node)
			}
		}
	}
}

// compare asks an engine for all there is, which must be what L3 holds.
func (w *world) compare(s *slot, n *node, rows map[string]syncengine.Record, forget bool) {
	var ids []string
	for id := range rows {
		ids = append(ids, id)
	}
	sort.Strings(ids)
	ids = ids[max(0, len(ids)-400):] // older inserted ids come first
	if forget {
		n.do(Request{Call: "invalidate", IDs: ids})
	}
	many := n.do(Request{Call: "many", IDs: ids})
	if many.Outcome != done {
		w.wrong("place %d, %v: GetMany, long after all faults: %s", s.number, n, many.Err)
	}
	for _, id := range ids {
		row := rows[id]
		if !row.Deleted && !row.ExpiresAt.IsZero() {
			continue
		}
		want := ""
		if live(row) {
			want = string(row.Content)
		}
		got := n.do(Request{Call: []string{"get", "verified"}[len(id)%2], ID: id})
		if got.Value != want || many.Many[id] != want || got.Outcome == failed {
			w.wrong("place %d, %v: at rest, Redis asked: %v, %s is %q, by GetMany %q, and %q in L3; %s\n%s", s.number, n, forget, id, got.Value, many.Many[id],
				want, got.Err, explain(n, id))
			return
		}
	}
}

// differs compares what a follower knows with L3.
func (f *follower) differs(rows map[string]syncengine.Record) string {
	for id, row := range rows {
		if got, ok := f.values[id]; live(row) && (!ok || got != string(row.Content)) {
			return fmt.Sprintf("%s is %q, was told of %q, version %d of %d", id, row.Content, got, f.versions[id], row.Version)
		} else if row.Deleted && ok {
			return fmt.Sprintf("%s is deleted, was told of %q", id, got)
		}
	}
	for id := range f.values {
		if _, ok := rows[id]; !ok {
			return id + " is not there"
		}
	}
	return ""
}

// reset makes the model small again.
func (w *world) reset(rows map[string]syncengine.Record) {
	for _, l := range w.lines {
		if r, ok := rows[l.ids[0]]; ok {
			n := rowOf(rows, l.ids[0])
			l.reset(n, r.Deleted, !r.ExpiresAt.IsZero() || strings.HasPrefix(l.ids[0], "t:"))
		}
	}
	for _, c := range w.counters {
		c.reached = []reached{{max(rowOf(rows, c.id), 0), time.Now()}}
	}
	for _, g := range w.registers {
		g.writes = nil
	}
}
