package fleetsim

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"
)

const trouble = 4 * time.Second

var (
	runFor  = flag.Duration("fleetsim.for", trouble, "for how long trouble is made")
	runSeed = flag.Uint64("fleetsim.seed", 0, "seed of the plan; 0: by the clock")
	runOnly = flag.String("fleetsim.only", "", "kinds of faults, with commas; all others are left out")
	runLog  = flag.Bool("fleetsim.log", false, "print all that was done")
)

// TestINV14And15AFleetInTrouble: see the package's doc.
func TestINV14And15AFleetInTrouble(t *testing.T) {
	last := *runFor
	if testing.Short() && last == trouble {
		last /= 2
	}
	seed := *runSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("-fleetsim.seed=%d", seed)
	w := newWorld(t, seed)
	rng := rand.New(rand.NewPCG(seed, 1000))
	for _, s := range w.slots {
		s.setGood(true)
		if s.number < 2 || rng.IntN(2) == 0 {
			s.open(rng, s.number < 2)
		}
	}
	token := w.slots[0].node.Load().do(Request{Call: "token"}).Token
	for n := range 2 {
		w.followers = append(w.followers, &follower{w: w, rng: rand.New(rand.NewPCG(seed, uint64(2000+n))), token: token, older: []string{token},
			values: make(map[string]string), versions: make(map[string]uint64)})
	}
	var work sync.WaitGroup
	for _, s := range w.slots {
		work.Go(s.run)
		work.Go(func() { s.runReads(rand.New(rand.NewPCG(seed, uint64(4000+s.number)))) })
	}
	for _, f := range w.followers {
		work.Go(func() {
			for w.ctx.Err() == nil {
				w.pause.RLock()
				f.turn(time.Duration(50+f.rng.IntN(400)) * time.Millisecond)
				w.pause.RUnlock()
			}
		})
	}
	work.Go(w.watchPace)
	work.Go(func() { w.watchGroups(rand.New(rand.NewPCG(seed, 3000))) })
	for end := time.Now().Add(last); w.ctx.Err() == nil && time.Now().Before(end); {
		until := time.Now().Add(time.Duration(4+rng.IntN(8)) * time.Second)
		if until.After(end) {
			until = end
		}
		w.plan(rng, until)
		w.settle(rng)
	}
	w.stop()
	work.Wait()
	for _, s := range w.slots {
		if n := s.node.Load(); n != nil {
			if _, ok := n.close(); !ok {
				t.Errorf("%v was not closed after %v", n, closeLimit)
			}
			n.end()
		}
	}
	t.Log(w.summary())
	if *runLog {
		t.Log("\n" + strings.Join(w.log, "\n"))
	}
	if w.counts["settled"] == 0 && !t.Failed() || w.counts["reads in time"]+w.counts["reads at any time"] == 0 {
		t.Error("nothing was checked")
	}
}

func (w *world) summary() string {
	var out []string
	for what, n := range w.counts {
		out = append(out, fmt.Sprintf("%s: %d", what, n))
	}
	sort.Strings(out)
	return strings.Join(out, "; ")
}
