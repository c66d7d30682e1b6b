package cuckoo

// set.go is the set as its owner sees it: a list of layers that only ever grows.

import (
	"crypto/rand"
	"encoding/binary"
	"math/bits"
	"slices"
	"sync"
	"sync/atomic"
	"unsafe"
)

// Seed is the key of a set's hash. Give each set its own, and keep it from whoever chooses the ids.
type Seed [16]byte

// NewSeed returns a random seed.
func NewSeed() (seed Seed) {
	_, _ = rand.Read(seed[:]) // never fails: the program crashes instead
	return seed
}

const (
	// staleShare is the part of a set, as 1/staleShare, that may be stale before it is worth a
	// rebuild.
	staleShare = 5
	// staleFloor is how many stale ids are never worth one: about as many as the smallest set
	// holds.
	staleFloor = 1000
)

// Set is a set of ids. Make it with New or Decode. All methods may be called at once by many
// goroutines; none does I/O but Encode. A Set must not be copied.
type Set struct {
	seed   Seed
	key    sipKey
	canary [8]byte // what the dependency's hash was when the set was made
	stale  atomic.Int64

	// layers is copied when it grows, so that lookups need no lock to walk it.
	layers atomic.Pointer[[]*layer]
	growMu sync.Mutex // held to append to layers
}

// New returns an empty set with room for the expected number of ids; it takes its whole memory at
// once. More ids fit too, see NeedsRebuild. Less than none counts as none, and more than 2^30 (2.6
// GB) as that.
func New(expected int, seed Seed) *Set {
	return newSet(seed, []*layer{newLayer(plan(expected))})
}

func newSet(seed Seed, layers []*layer) *Set {
	s := &Set{seed: seed, key: newSipKey(seed), canary: canary()}
	s.layers.Store(&layers)
	return s
}

// Contains reports whether id may be in the set. False is definite: no Insert of id has returned
// before the call. It doesn't allocate.
func (s *Set) Contains(id string) bool {
	h := s.key.hash(id)
	d := newDigests(h)
	defer scratch.Put(d)
	for i, l := range *s.layers.Load() {
		if found, full := l.partition(h, i).contains(d, l.limit); found || !full {
			return found
		}
	}
	return false
}

// Insert puts id in. It never fails; where there is no room it makes some, in less than a
// millisecond per million ids. It reports whether the set has changed; if not, it contained the id
// already, be it by mistake, and goes on containing it. Inserting an id again is cheap and changes
// nothing.
func (s *Set) Insert(id string) (added bool) {
	h := s.key.hash(id)
	d := newDigests(h)
	defer scratch.Put(d)
	for i := 0; ; i++ {
		layers := *s.layers.Load()
		if i == len(layers) {
			layers = s.grow(i)
		}
		l := layers[i]
		switch l.partition(h, i).insert(d, l.limit) {
		case inserted:
			return true
		case present:
			return false
		}
	}
}

// grow appends layer number n unless it is there by now.
func (s *Set) grow(n int) []*layer {
	s.growMu.Lock()
	defer s.growMu.Unlock()
	layers := *s.layers.Load()
	if len(layers) > n {
		return layers
	}
	room := layers[0].capacity() / 10
	if n > 1 {
		room = 2 * layers[n-1].capacity()
	}
	layers = append(slices.Clone(layers), newLayer(plan(room)))
	s.layers.Store(&layers)
	return layers
}

// Added returns how many Inserts have changed the set: the number of distinct ids, short of those
// (less than one in a thousand) it had contained by mistake.
func (s *Set) Added() int {
	added, _ := s.sum()
	return added
}

// AddStale tells the set that n of its ids have been deleted where it matters. It changes nothing
// but Len, Stale and NeedsRebuild. A negative n takes it back: the set can't tell when a deleted id
// is inserted again, but its owner may.
func (s *Set) AddStale(n int) { s.stale.Add(int64(n)) }

// Stale returns the sum of all AddStale, not less than 0 nor more than Added.
func (s *Set) Stale() int { return s.staleOf(s.Added()) }

func (s *Set) staleOf(added int) int { return int(min(max(s.stale.Load(), 0), int64(added))) }

// Len returns Added without Stale, an estimate of how many ids the owner has.
func (s *Set) Len() int {
	added := s.Added()
	return added - s.staleOf(added)
}

// Bytes returns how much memory the set takes.
func (s *Set) Bytes() int {
	layers := *s.layers.Load()
	n := int(unsafe.Sizeof(*s)) + 8*len(layers)
	for _, l := range layers {
		n += l.bytes()
	}
	return n
}

// NeedsRebuild reports whether the owner should make a new set, feed it all ids, and use it
// instead: because ids had to go to a second layer, because more than a fifth of all ids (and more
// than 1000) are stale, or because the set is poisoned. It is never urgent, this set goes on being
// right. Tell the new one at least as many ids as there are, or it will need a rebuild soon.
func (s *Set) NeedsRebuild() bool {
	added, poisoned := s.sum()
	stale := s.staleOf(added)
	return poisoned || len(*s.layers.Load()) > 1 || stale > staleFloor && stale > added/staleShare
}

// Poisoned reports whether a filter underneath has refused an id and thereby lost another one. It
// should never happen; the part of the set it happened to affirms every id since.
func (s *Set) Poisoned() bool {
	_, poisoned := s.sum()
	return poisoned
}

// sum asks all partitions, which takes about 10 ns each.
func (s *Set) sum() (added int, poisoned bool) {
	for _, l := range *s.layers.Load() {
		for i := range l.partitions {
			n, bad := l.partitions[i].state()
			added += n
			poisoned = poisoned || bad
		}
	}
	return added, poisoned
}

// digests are what the two filters of a partition are fed of an id. The dependency takes them as
// slices through an interface, which would put them on the heap at each call; hence the pool.
type digests struct{ a, b [8]byte }

var scratch = sync.Pool{New: func() any { return new(digests) }}

// newDigests derives both from the id's hash. 64 bits are enough for two: a partition tells ids
// apart by at most 22 bits each, and mix makes the second independent of the first for the purpose.
func newDigests(h uint64) *digests {
	d := scratch.Get().(*digests)
	binary.LittleEndian.PutUint64(d.a[:], h)
	binary.LittleEndian.PutUint64(d.b[:], mix(h))
	return d
}

// mix is the finaliser of MurmurHash3: one to one, and each bit of h changes about half of the
// result.
func mix(h uint64) uint64 {
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}

// partition returns the partition of the id with hash h, if l is layer number i. What reaches a
// later layer comes from a few full partitions of the one before, so each layer spreads hashes in a
// way of its own.
func (l *layer) partition(h uint64, i int) *partition {
	if i > 0 {
		h = mix(h + uint64(i)*0x9e3779b97f4a7c15)
	}
	k, _ := bits.Mul64(h, uint64(len(l.partitions)))
	return &l.partitions[k]
}
