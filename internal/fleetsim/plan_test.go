package fleetsim

// plan_test.go makes trouble.

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/syncengine-go/syncengine/internal/faultproxy"
)

// healing is a fault that is going to end.
type healing struct {
	at time.Time
	fn func()
}

// faults are all kinds. What returns a function is under way until that is called.
var faults = []struct {
	name  string
	begin func(w *world, s *slot, rng *rand.Rand) (heal func())
}{
	{"open", func(w *world, s *slot, rng *rand.Rand) func() { s.open(rng, false); return nil }},
	{"close", func(w *world, s *slot, rng *rand.Rand) func() { s.close(); return nil }},
	{"kill", func(w *world, s *slot, rng *rand.Rand) func() {
		if s.kill() && rng.IntN(2) == 0 {
			s.open(rng, false)
		}
		return nil
	}},
	{"SQL", (*world).onSQL},
	{"Redis", (*world).onRedis},
	{"freeze", func(w *world, s *slot, rng *rand.Rand) func() { // a process that stands still, to the servers
		if s.sqlBad || s.l2Bad {
			return nil
		}
		s.sqlBad, s.l2Bad = true, true
		s.setGood(false)
		s.sql.Hold()
		s.cache.Hold()
		return func() {
			s.cache.Release()
			s.sql.Release()
			s.sqlBad, s.l2Bad = false, false
			s.setGood(true)
		}
	}},
	{"FLUSHALL", func(w *world, s *slot, rng *rand.Rand) func() { w.redis.Do(w.t, "FLUSHALL"); return nil }},
	{"Redis restarts", func(w *world, s *slot, rng *rand.Rand) func() { w.redis.Restart(); return nil }},
	{"Redis stands still", func(w *world, s *slot, rng *rand.Rand) func() {
		w.redis.Stop()
		time.Sleep(time.Duration(rng.IntN(1500)) * time.Millisecond)
		w.redis.Resume()
		return nil
	}},
	{"no Redis for all", func(w *world, s *slot, rng *rand.Rand) func() { return w.forAll(false) }},
	{"no SQL for all", func(w *world, s *slot, rng *rand.Rand) func() { return w.forAll(true) }},
	{"SQL restarts", func(w *world, s *slot, rng *rand.Rand) func() {
		defer w.badSQL()()
		w.db.Restart()
		return nil
	}},
	{"SQL stands still", func(w *world, s *slot, rng *rand.Rand) func() {
		defer w.badSQL()()
		w.db.Stop()
		time.Sleep(time.Duration(rng.IntN(2500)) * time.Millisecond)
		w.db.Resume()
		return nil
	}},
	{"one is left", func(w *world, s *slot, rng *rand.Rand) func() { // often the one that was before
		if rng.IntN(3) > 0 {
			s = w.slots[0]
		}
		w.allGo(rng, s)
		s.open(rng, false)
		for range 20 { // it comes to trust itself again
			w.until(100*time.Millisecond, func() bool { return false })
			s.readLately(rng)
		}
		return nil
	}},
	{"taken for dead", func(w *world, s *slot, rng *rand.Rand) func() { // and it does not know that yet
		other := w.slots[(s.number+1)%places]
		if s.sqlBad || other.sqlBad {
			return nil
		}
		w.allGo(rng, s, other)
		s.open(rng, false)
		other.open(rng, false)
		s.sqlBad = true
		s.setGood(false)
		s.sql.Hold()
		w.until(7*time.Second, func() bool { return false })
		s.sql.Release()
		s.sqlBad = false
		s.setGood(true)
		n, of := s.node.Load(), other.node.Load()
		for began := time.Now(); n != nil && of != nil && time.Since(began) < time.Second; {
			other.readOnce(of, s.insert(n, rng), rng)
		}
		return nil
	}},
	{"all come", func(w *world, s *slot, rng *rand.Rand) func() {
		for _, other := range w.slots {
			other.open(rng, false)
		}
		return nil
	}},
	{"past Redis", func(w *world, s *slot, rng *rand.Rand) func() { // nobody sees what Redis misses
		w.allGo(rng)
		s.openAs(rng, "")
		w.until(bound+time.Second, func() bool { return false })
		if rng.IntN(2) == 0 && !s.kill() {
			s.close()
		}
		w.slots[(s.number+1)%places].openAs(rng, "Redis")
		return nil
	}},
}

// allGo closes all engines but some, and kills a few.
func (w *world) allGo(rng *rand.Rand, but ...*slot) {
	for _, s := range w.slots {
		if !slices.Contains(but, s) && (rng.IntN(4) > 0 || !s.kill()) {
			s.close()
		}
	}
}

func (s *slot) readLately(rng *rand.Rand) {
	n := s.node.Load()
	if n == nil {
		return
	}
	for _, o := range s.w.lately(30) {
		s.readOnce(n, o, rng)
	}
}

// plan makes faults until a time, and then ends them all. Each phase has kinds of its own, and a
// pace: all kinds at once would hide what one of them does.
func (w *world) plan(rng *rand.Rand, until time.Time) {
	var kinds []int
	for i, f := range faults {
		if *runOnly != "" && slices.Contains(strings.Split(*runOnly, ","), f.name) || *runOnly == "" && rng.IntN(3) == 0 {
			kinds = append(kinds, i)
		}
	}
	if len(kinds) == 0 {
		kinds = []int{rng.IntN(len(faults))}
	}
	pace := 50 + rng.IntN(1500)
	var heal []healing
	for {
		now := time.Now()
		over := w.ctx.Err() != nil || now.After(until)
		rest := heal[:0]
		for _, h := range heal {
			if over || now.After(h.at) {
				h.fn()
			} else {
				rest = append(rest, h)
			}
		}
		if heal = rest; over {
			return
		}
		s, f := w.slots[rng.IntN(places)], faults[kinds[rng.IntN(len(kinds))]]
		w.note("place %d: %s", s.number, f.name)
		w.count("fault: " + f.name)
		if end := f.begin(w, s, rng); end != nil {
			h := healing{time.Now().Add(time.Duration(100+rng.IntN(1500)) * time.Millisecond), func() {
				end()
				w.note("place %d: end of %s", s.number, f.name)
			}}
			if rng.IntN(6) == 0 {
				h.at = h.at.Add(6 * time.Second) // longer than a lease
			}
			heal = append(heal, h)
		}
		w.until(time.Duration(50+rng.IntN(pace))*time.Millisecond, func() bool { return false })
	}
}

func (w *world) onSQL(s *slot, rng *rand.Rand) func() {
	switch rng.IntN(5) {
	case 0:
		s.sql.SwallowReplyTo("COMMIT")
		return nil
	case 1:
		s.sql.CutConnections()
		return nil
	}
	if s.sqlBad {
		return nil
	}
	s.sqlBad = true
	s.setGood(false)
	heal := upset(s.sql, rng)
	return func() {
		heal()
		s.sqlBad = false
		s.setGood(true)
	}
}

func (w *world) onRedis(s *slot, rng *rand.Rand) func() {
	if rng.IntN(4) == 0 {
		s.cache.CutConnections()
		return nil
	}
	if s.l2Bad {
		return nil
	}
	s.l2Bad = true
	heal := upset(s.cache, rng)
	return func() {
		heal()
		s.l2Bad = false
	}
}

func upset(p *faultproxy.Proxy, rng *rand.Rand) (heal func()) {
	switch rng.IntN(4) {
	case 0:
		p.Hold()
		return p.Release
	case 1:
		p.Delay(time.Duration(1+rng.IntN(60)) * time.Millisecond)
		return func() { p.Delay(0) }
	case 2:
		p.SwallowReplies(true)
		return func() { p.SwallowReplies(false); p.CutConnections() }
	}
	p.Cut()
	return p.Restore
}

// badSQL notes that SQL is away for all, until what it returns is called.
func (w *world) badSQL() func() {
	for _, s := range w.slots {
		s.setGood(false)
	}
	return func() {
		for _, s := range w.slots {
			if !s.sqlBad {
				s.setGood(true)
			}
		}
	}
}

func (w *world) forAll(sql bool) func() {
	var mine []*slot
	for _, s := range w.slots {
		switch {
		case sql && !s.sqlBad:
			s.sqlBad = true
			s.setGood(false)
			s.sql.Cut()
		case !sql && !s.l2Bad:
			s.l2Bad = true
			s.cache.Cut()
		default:
			continue
		}
		mine = append(mine, s)
	}
	return func() {
		for _, s := range mine {
			if sql {
				s.sql.Restore()
				s.sqlBad = false
				s.setGood(true)
			} else {
				s.cache.Restore()
				s.l2Bad = false
			}
		}
	}
}

// watchGroups looks at L3 all the time: a group is there as a whole, or not (INV-5).
func (w *world) watchGroups(rng *rand.Rand) {
	for w.ctx.Err() == nil {
		l := w.lines[rng.IntN(len(w.lines))]
		if len(l.ids) < 2 {
			continue
		}
		ctx, cancel := context.WithTimeout(w.ctx, time.Second)
		rows, err := w.raw.QueryContext(ctx, "SELECT deleted, COALESCE(content, '') FROM sync_items WHERE id IN (?, ?)", l.ids[0], l.ids[1])
		var seen []string
		for err == nil && rows.Next() {
			var deleted bool
			var b []byte
			if err = rows.Scan(&deleted, &b); err == nil {
				seen = append(seen, fmt.Sprint(deleted, string(b)))
			}
		}
		if err == nil {
			if err = rows.Err(); err == nil && len(seen) > 0 && (len(seen) != 2 || seen[0] != seen[1]) {
				w.wrong("INV-5: L3 holds %q of the group %v", seen, l)
			}
			_ = rows.Close()
			w.count("groups looked at")
		}
		cancel()
		time.Sleep(10 * time.Millisecond)
	}
}
