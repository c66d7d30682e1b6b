package evict

import (
	"fmt"
	"hash/maphash"
	"math/bits"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// item is an entry of a test's cache.
type item struct {
	state  State
	key    int
	size   int64
	pinned bool
}

func (i *item) EvictState() *State { return &i.state }
func (i *item) Size() int64        { return i.size }
func (i *item) Pinned() bool       { return i.pinned }
func (i *item) LastUse() uint32    { return 0 }

// noTime is a clock that stands.
type noTime struct{}

func (noTime) Now() uint32                { return 0 }
func (noTime) Since(uint32) time.Duration { return 0 }

// cache holds items by key.
type cache struct {
	*Policy[*item]
	at           map[int]*item
	seed         maphash.Seed
	used, budget int64
	hitCount     int64
}

func newCache(budget int64) *cache {
	c := &cache{at: make(map[int]*item), seed: maphash.MakeSeed(), budget: budget}
	c.Policy = New[*item](budget, noTime{}, func() int64 { return c.hitCount })
	return c
}

func (c *cache) hash(key int) uint64 { return maphash.Comparable(c.seed, key) }

func (c *cache) read(key int, size int64) (hit bool) {
	if i := c.at[key]; i != nil {
		c.hitCount++
		c.use(i)
		return true
	}
	c.put(&item{key: key, size: size})
	c.shrink(c.budget)
	return false
}

func (c *cache) use(i *item) {
	if p := c.Sample().Pace(); !i.state.Counted(p) {
		if rank := i.state.Count(p); c.Sample().Wants(rank) {
			c.Sample().Note(&i.state, c.hash(i.key), i.size)
		}
	}
}

func (c *cache) put(i *item) {
	c.at[i.key] = i
	c.used += i.size
	c.Add(i, c.hash(i.key), c.used > c.budget)
}

func (c *cache) shrink(to int64) {
	for tries := 0; c.used > to && tries < 64; tries++ {
		if i, ok := c.Loser(); ok {
			c.drop(i)
			tries = 0
		}
	}
}

func (c *cache) drop(i *item) {
	delete(c.at, i.key)
	c.used -= i.size
	c.Remove(i, c.hash(i.key))
}

// check compares what the policy knows with what is there.
func (c *cache) check(t interface{ Fatalf(string, ...any) }) {
	var arrived int64
	for _, i := range c.at {
		arrived += checkPlace(t, &c.all, i)
	}
	if len(c.at) != c.Len() || arrived != c.all.arrived {
		t.Fatalf("%d entries, %d bytes of arrivals; the policy counts %d, %d", len(c.at), arrived, c.Len(), c.all.arrived)
	}
	for n := range c.trials.each {
		tr := &c.trials.each[n]
		var used, arrived int64
		for hash, s := range tr.at {
			if s.hash != hash || uint32(bits.LeadingZeros64(hash)) < c.trials.rank {
				t.Fatalf("trial %d: a shade under another hash, or of a key that is not tried", n)
			}
			used += s.Size()
			arrived += checkPlace(t, &tr.stock, s)
		}
		if used != tr.used || arrived != tr.arrived || len(tr.at) != tr.len() || used > tr.budget {
			t.Fatalf("trial %d: %d shades, %d bytes, %d of arrivals; counted %d, %d, %d of at most %d", n, len(tr.at), used, arrived,
				tr.len(), tr.used, tr.arrived, tr.budget)
		}
	}
}

// checkPlace returns the size of e if it is an arrival.
func checkPlace[E Entry](t interface{ Fatalf(string, ...any) }, s *stock[E], e E) int64 {
	st, at := e.EvictState(), s.main
	if st.isArrival() {
		at = s.arrivals.ring
	}
	if at[int(st.slot)%len(at)] != e {
		t.Fatalf("an entry is not where it says")
	}
	if st.isArrival() {
		return e.Size()
	}
	return 0
}

func TestEntriesAreWhereTheySay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := newCache(int64(rapid.IntRange(1, 2000).Draw(t, "budget")))
		key := func(t *rapid.T) int { return rapid.IntRange(0, 2000).Draw(t, "key") }
		t.Repeat(map[string]func(*rapid.T){
			"read": func(t *rapid.T) {
				from := key(t)
				for k := range rapid.IntRange(1, 500).Draw(t, "n") {
					c.read(from+k, int64(k%7*k%11))
				}
			},
			"replace": func(t *rapid.T) {
				if old := c.at[key(t)]; old != nil {
					i := &item{key: old.key, size: int64(rapid.IntRange(0, 50).Draw(t, "size"))}
					c.at[i.key] = i
					c.used += i.size - old.size
					c.Replace(old, i)
				}
			},
			"pin": func(t *rapid.T) {
				if i := c.at[key(t)]; i != nil {
					i.pinned = !i.pinned
				}
			},
			"drop": func(t *rapid.T) {
				if i := c.at[key(t)]; i != nil {
					c.drop(i)
				}
			},
			"shrink": func(t *rapid.T) { c.shrink(int64(rapid.IntRange(0, 2000).Draw(t, "to"))) },
			"":       func(t *rapid.T) { c.check(t) },
		})
	})
}

func TestPinnedEntriesStay(t *testing.T) {
	c := newCache(100)
	for key := range 60 {
		c.put(&item{key: -key, size: 1, pinned: true})
	}
	for key := range 10_000 {
		c.read(key, 1)
	}
	c.shrink(0)
	if len(c.at) != 60 {
		t.Errorf("%d entries are left of 60 that may not go", len(c.at))
	}
}

// Whoever is pinned after it came is not given out, even where there is nobody else.
func TestAPinnedArrivalIsNoLoser(t *testing.T) {
	c := newCache(100)
	for key := range 3 {
		c.put(&item{key: key, size: 100, pinned: true})
		if i, ok := c.Loser(); ok {
			t.Fatalf("%d, which is pinned, should go", i.key)
		}
	}
}

// An arrival that was read since it came stays one when its turn to leave comes, once for each
// look.
func TestAnArrivalThatWasReadGetsASecondChance(t *testing.T) {
	c := newCache(1 << 30)
	for key := range 3 {
		c.read(key, 1)
	}
	c.read(0, 1)
	for _, want := range []int{1, 2, 0} {
		if i := c.all.leave(); i.key != want {
			t.Fatalf("%d leaves the arrivals, want %d", i.key, want)
		}
	}
}

// Where only the newest is read again, arrivals get most of memory; in a loop, the least.
func TestTheShareOfArrivalsFollowsTheLoad(t *testing.T) {
	c := newCache(500)
	r := rand.New(rand.NewPCG(1, 2))
	for n := range 150_000 { // each key is read often, soon after it came, and then never again
		c.read(n/10-r.IntN(300), 1)
	}
	if c.all.share < .1 {
		t.Errorf("arrivals have %.2f of memory", c.all.share)
	}
	c.check(t)
	for range 200 {
		for key := range 1000 {
			c.read(key, 1)
		}
	}
	if c.all.share != leastShare {
		t.Errorf("arrivals have %.2f of memory in a loop", c.all.share)
	}
	c.check(t)
}

// However many entries a cache has, trials hold some tens.
func TestTrialsAreSmall(t *testing.T) {
	c := newCache(200_000)
	large := func() {
		for range 20 {
			for key := range 600 {
				c.read(-key-1, 400)
			}
		}
		for i := range c.trials.each {
			n := 0
			for _, s := range c.trials.each[i].at {
				n += int(s.size) / 400
			}
			if n < mostShades/4 {
				t.Errorf("beside %d large entries, trial %d holds %d", len(c.at), i, n)
			}
		}
		if c.trials.each == nil {
			t.Fatal("there are no trials")
		}
		c.check(t)
	}
	large()
	for key := range 300_000 {
		c.read(key, 1)
	}
	for i := range c.trials.each {
		if n := len(c.trials.each[i].at); n < mostShades/8 || n > 2*mostShades {
			t.Errorf("beside %d entries, trial %d holds %d", len(c.at), i, n)
		}
	}
	if n := c.trials.bytes(); n > 40_000 {
		t.Errorf("trials take %d bytes", n)
	}
	c.check(t)
	for _, i := range c.at {
		c.drop(i)
	}
	large()
}

func TestFrequencyIsRememberedAndHalved(t *testing.T) {
	c := newCache(1000)
	for key := range 900 { // with few entries, an era is short
		c.read(key, 1)
	}
	frequency := func() int { return c.all.frequency(&c.at[-1].state) }
	for range 12 {
		c.read(-1, 1)
	}
	if f := frequency(); f != 12 {
		t.Fatalf("12 uses count as %d", f)
	}
	c.drop(c.at[-1])
	c.read(-1, 1)
	if f := frequency(); f < 13 {
		t.Errorf("after it was gone, 13 uses count as %d", f)
	}
	was := frequency()
	c.all.era++
	if f := frequency(); f != was/2 {
		t.Errorf("in the next era they count as %d", f)
	}
	for range 3 {
		c.read(-1, 1)
	}
	if f := frequency(); f != was/2+3 {
		t.Errorf("with 3 more they count as %d", f)
	}
}

func TestWhatIsKnownOfAKeyOutlivesAnOverwrite(t *testing.T) {
	c := newCache(1000)
	for range 6 {
		c.read(-1, 1)
	}
	old, i := c.at[-1], &item{key: -1, size: 2}
	c.at[-1] = i
	c.Replace(old, i)
	if f, n := c.all.frequency(&i.state), i.state.Uses(); f != 6 || n != 5 {
		t.Errorf("6 uses, 5 of them after it came, count as %d and %d", f, n)
	}
	c.check(t)
}

// While a cache is busy, a use is counted once per epoch, and epochs end as entries come in.
func TestABusyCacheCountsOncePerEpoch(t *testing.T) {
	c := newCache(1 << 30)
	for key := range 640 {
		c.read(key, 1)
	}
	c.put(&item{key: -1, size: 1})
	state := &c.at[-1].state
	for range 3 {
		c.use(c.at[-1])
	}
	if f, n := c.all.frequency(state), state.Uses(); f != 4 || n != 3 {
		t.Fatalf("3 uses after it came count as %d and %d", f, n)
	}
	c.Sample().SetBusy(true)
	was, key := 4, 1000
	for epoch := range 5 {
		begun := c.Sample().Pace()
		for end := key + len(c.at); c.Sample().Pace() == begun && key < end; key++ {
			c.put(&item{key: key, size: 1})
		}
		for range 10 {
			c.use(c.at[-1])
		}
		if f := c.all.frequency(state); f != was+1 {
			t.Fatalf("10 uses in epoch %d count as %d", epoch, f-was)
		}
		was++
	}
	if n := state.Uses(); n != 3 {
		t.Errorf("Uses went to %d, which is for others to count now", n)
	}
	c.Sample().SetBusy(false)
	for range 2 {
		c.use(c.at[-1])
	}
	if f, n := c.all.frequency(state), state.Uses(); f != was+2 || n != 5 {
		t.Errorf("2 uses of a cache no longer busy count as %d and %d", f-was, n-3)
	}
}

// What is taken out of the middle leaves gaps, which must not add up.
func TestGapsAmongTheArrivalsAreClosed(t *testing.T) {
	c := newCache(1 << 30)
	c.put(&item{key: -1, size: 1})
	oldest := c.at[-1]
	for key := range 10_000 {
		c.put(&item{key: key, size: 1})
		c.drop(c.at[key])
	}
	if q := &c.all.arrivals; len(q.ring) > 16 || q.n != 1 || q.pop() != oldest {
		t.Errorf("the ring has %d places, %d entries", len(q.ring), q.n)
	}
}

// TestReadersMeetEviction reads side by side while entries come and go; for the race detector.
func TestReadersMeetEviction(t *testing.T) {
	c := newCache(2000)
	for key := range 3000 {
		c.read(key, 1)
	}
	var items []*item
	for _, i := range c.at {
		items = append(items, i)
	}
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				i := items[n%len(items)]
				c.use(i)
			}
		})
	}
	for key := range 30_000 {
		c.put(&item{key: 10_000 + key, size: 1})
		c.shrink(c.budget)
	}
	close(stop)
	readers.Wait()
	c.check(t)
	hits := 0.
	for n := range c.trials.each {
		hits += c.trials.each[n].hits
	}
	if hits == 0 {
		t.Error("no trial saw a use that found an entry")
	}
}

// BenchmarkUse is what a reader pays.
func BenchmarkUse(b *testing.B) {
	for _, busy := range []bool{false, true} {
		b.Run(fmt.Sprint("busy=", busy), func(b *testing.B) {
			c := newCache(1000)
			for key := range 2000 {
				c.read(key, 1)
			}
			c.Sample().SetBusy(busy)
			var items []*item
			for _, i := range c.at {
				items = append(items, i)
			}
			for n := 0; b.Loop(); n++ {
				c.use(items[n%len(items)])
			}
		})
	}
}
