package evict

// trial.go tries several shares for the arrivals at once: each in a miniature of the cache, with
// 1/2^k of its budget, that sees the uses of 1/2^k of the keys, chosen by hash. (Miniature
// simulations: Waldspurger, Saemundsson, Ahmad and Park, USENIX ATC 2017.) All trials see the
// same uses, so even a few hundred entries tell which share is better: what they have in
// common, the ups and downs of the load above all, cancels out.
//
// Uses that bring an entry in are tried at once. Uses that find one are noted by the reader, in
// slots that the next insert empties; when those are full, a use goes unseen. That is so only
// where there are hundreds of uses to an insert, and the share hardly matters.

import (
	"math"
	"math/bits"
	"math/rand/v2"
	"sync/atomic"
)

// shares are tried, the smallest first.
var shares = [...]float64{leastShare, .1, .3, .8}

const (
	leastRank  = 3  // at most one key in 2^3 is tried
	mostShades = 96 // a trial holds some half of that to all of it, or fewer when the cache is small
	fewest     = 64 // entries of a cache that is worth it

	keep = .98 // of what was found out stays each time the cache was used as often as it has entries
	// A larger share must bring this much more, and be more than luck: with as many hits as the
	// best had, differences of one half of their root are.
	better, luck = .002, .5

	shadeBytes = 72 // a shade, and its places in the map, in main and in the arrivals
)

// shade stands for an entry in a trial.
type shade struct {
	state State
	hash  uint64
	size  uint32
	last  uint32
}

func (s *shade) EvictState() *State { return &s.state }
func (s *shade) Size() int64        { return int64(s.size) }
func (s *shade) Pinned() bool       { return false }
func (s *shade) LastUse() uint32    { return s.last }

// trial is a miniature with one share.
type trial struct {
	stock[*shade]
	at   map[uint64]*shade // by hash
	used int64
	hits float64
}

// use is one use of a key. frequency is that of the key, with this use.
func (t *trial) use(hash uint64, size uint32, frequency int) {
	now := t.clock.Now()
	if s := t.at[hash]; s != nil {
		t.hits++
		s.state.Count(0)
		s.last = now
		return
	}
	s := &shade{hash: hash, size: size, last: now}
	t.at[hash] = s
	t.used += s.Size()
	t.add(s, hash, frequency, t.used > t.budget)
	t.shrink()
}

// shrink evicts down to the budget.
func (t *trial) shrink() {
	for t.used > t.budget {
		s, ok := t.loser()
		if !ok {
			return
		}
		t.drop(s)
	}
}

func (t *trial) drop(s *shade) {
	delete(t.at, s.hash)
	t.used -= s.Size()
	t.remove(s, s.hash)
}

// trials are nothing until the cache is full.
type trials struct {
	each       []trial
	rank       uint32 // keys whose hashes have so many leading zeros are tried
	nextChoice int64  // number of uses at which a share is chosen
}

func (ts *trials) bytes() (n int64) {
	for i := range ts.each {
		n += shadeBytes * int64(ts.each[i].len())
	}
	return n
}

// choose returns the smallest share of which no larger one is better by more than luck.
func (ts *trials) choose() float64 {
	most := 0.
	for i := range ts.each {
		most = max(most, ts.each[i].hits)
	}
	for i := range ts.each {
		t := &ts.each[i]
		if t.hits >= most*(1-better)-luck*math.Sqrt(most) {
			for i := range ts.each {
				ts.each[i].hits *= keep
			}
			return t.share
		}
	}
	return leastShare
}

// resize makes the trials as large as a cache of n entries and so many bytes needs.
func (ts *trials) resize(n int, budget int64, m *memory) {
	if ts.each == nil {
		ts.each = make([]trial, len(shares))
		for i, share := range shares {
			ts.each[i] = trial{stock: stock[*shade]{memory: m, share: share}, at: make(map[uint64]*shade)}
		}
	}
	ts.rank = max(leastRank, uint32(bits.Len(uint((n-1)/mostShades))))
	for i := range ts.each {
		t := &ts.each[i]
		t.budget = budget >> ts.rank
		for hash, s := range t.at {
			if uint32(bits.LeadingZeros64(hash)) < ts.rank {
				t.drop(s)
			}
		}
		t.shrink()
	}
}

// try lets the trials see the uses that were noted, and the one that brings e.
func (p *Policy[E]) try(e E, hash uint64, frequency, n int) {
	ts := &p.trials
	if n >= fewest && (ts.each == nil || n>>ts.rank > mostShades || n>>ts.rank < mostShades/4 && ts.rank > leastRank) {
		ts.resize(n, p.all.budget, p.all.memory)
		p.sample.least.Store(ts.rank)
	}
	if ts.each == nil {
		return
	}
	p.sample.drain(func(hash uint64, size uint32, b uint64) {
		if uint32(bits.LeadingZeros64(hash)) >= ts.rank {
			for i := range ts.each {
				ts.each[i].use(hash, size, p.all.frequencyOf(b))
			}
		}
	})
	if uint32(bits.LeadingZeros64(hash)) >= ts.rank {
		for i := range ts.each {
			ts.each[i].use(hash, uint32(min(e.Size(), math.MaxUint32)), frequency)
		}
	}
}

// Pace is what readers have to know: the epoch in the low 8 bits, and whether it is busy.
type Pace uint32

const busy = 1 << 8

// Busy tells whether there are so many uses that not each of them should be counted.
func (p Pace) Busy() bool { return p&busy != 0 }

// Sample holds uses that readers have noted for the trials.
type Sample struct {
	_     [64]byte      // the line of the next two is seldom written to
	pace  atomic.Uint32 // a Pace
	least atomic.Uint32 // rank of keys that are noted
	_     [64]byte
	turn  int // the next stripe to be emptied
	notes [4]stripe
}

// Pace is that of now.
func (s *Sample) Pace() Pace { return Pace(s.pace.Load()) }

// SetBusy sets Pace.Busy.
func (s *Sample) SetBusy(on bool) {
	if on {
		s.pace.Or(busy)
	} else {
		s.pace.And(^uint32(busy))
	}
}

// nextEpoch begins an epoch. Only one at a time calls it.
func (s *Sample) nextEpoch() {
	for {
		p := s.pace.Load()
		if s.pace.CompareAndSwap(p, p&busy|(p+1)&byteMask) {
			return
		}
	}
}

// stripe is a part of them; readers choose one at random, so that they don't meet.
type stripe struct {
	n     atomic.Uint32
	slots [32]slot
	_     [64]byte
}

type slot struct{ hash, sizeBits atomic.Uint64 }

// Wants tells whether uses of entries of the rank should be noted.
func (s *Sample) Wants(rank uint32) bool { return rank >= s.least.Load() }

// Note notes a use that was counted, if there is room. Readers that meet in a slot may mix up two
// uses, or lose one.
func (s *Sample) Note(st *State, hash uint64, size int64) {
	to := &s.notes[rand.Uint32()%uint32(len(s.notes))]
	if to.n.Load() >= uint32(len(to.slots)) {
		return
	}
	if i := to.n.Add(1) - 1; i < uint32(len(to.slots)) {
		to.slots[i].sizeBits.Store(uint64(min(size, math.MaxUint32))<<32 | st.bits.Load()&math.MaxUint32)
		to.slots[i].hash.Store(hash)
	}
}

// drain calls fn for the uses in one stripe, and empties it.
func (s *Sample) drain(fn func(hash uint64, size uint32, b uint64)) {
	from := &s.notes[s.turn%len(s.notes)]
	s.turn++
	n := min(int(from.n.Load()), len(from.slots))
	for i := range from.slots[:n] {
		if hash := from.slots[i].hash.Swap(0); hash != 0 {
			sb := from.slots[i].sizeBits.Load()
			fn(hash, uint32(sb>>32), sb&math.MaxUint32)
		}
	}
	if n > 0 {
		from.n.Store(0)
	}
}
