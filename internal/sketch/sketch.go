// Package sketch remembers how often keys were seen, in a few bits each: a count-min sketch
// (Cormode and Muthukrishnan, 2005) of 4-bit counters with conservative update, whose counts
// are halved now and then, so that what was popular long ago is forgotten (the aging of
// TinyLFU, Einziger, Friedman and Manes, 2017).
//
// An estimate is never below what Raise said, but for aging; collisions make it too high now
// and then: with twice as many keys as it is planned for, for 2 % of them.
//
// No goroutines, no locks.
package sketch

const (
	// Max is the highest count. What is seen more often is popular enough.
	Max = 15

	wordsPerKey = 2 // measured: with fewer, a cache keeps noticeably less of what it should
	minWords    = 64

	// A word is 15 counters and, in the highest 4 bits, the age as of which they are halved.
	perWord  = 15
	ageShift = 4 * perWord
	ageMask  = 15
	halfMask = 0x0777777777777777 // what is left of the counters when each is shifted by one
)

// Sketch holds counts of keys, by their 64-bit hashes. The zero value is ready; it counts
// nothing before Grow.
type Sketch struct {
	words []uint64
	age   uint64 // how often counts were halved
	swept int    // words that Step has brought to that age
}

// Grow makes room for so many keys if there is less. Counts stay.
func (s *Sketch) Grow(keys int) {
	for len(s.words) < minWords || len(s.words) < keys*wordsPerKey {
		if len(s.words) == 0 {
			s.words = make([]uint64, minWords)
			for i := range s.words {
				s.words[i] = (s.age & ageMask) << ageShift
			}
		} else { // a key's word is at one of two places now: both say what the one said
			s.words = append(s.words[:len(s.words):len(s.words)], s.words...)
		}
		s.swept = 0
	}
}

// Bytes is the memory it takes.
func (s *Sketch) Bytes() int64 { return int64(8 * len(s.words)) }

// places returns the words and the shifts in them of the two counters of a key.
func (s *Sketch) places(hash uint64) (wordA, shiftA, wordB, shiftB uint64) {
	mask := uint64(len(s.words) - 1) // the length is a power of two
	other := hash * 0x9E3779B97F4A7C15
	return hash & mask, hash >> 40 % perWord * 4, other >> 20 & mask, other >> 56 % perWord * 4
}

// word returns a word as of now.
func (s *Sketch) word(i uint64) uint64 {
	w := s.words[i]
	for behind := (s.age - w>>ageShift) & ageMask; behind > 0; behind-- {
		w = w >> 1 & halfMask
	}
	return w&(1<<ageShift-1) | (s.age&ageMask)<<ageShift
}

// Estimate returns how often the key was seen, at most Max.
func (s *Sketch) Estimate(hash uint64) int {
	if len(s.words) == 0 {
		return 0
	}
	a, shiftA, b, shiftB := s.places(hash)
	return int(min(s.word(a)>>shiftA&Max, s.word(b)>>shiftB&Max))
}

// Raise notes that the key was seen at least so often.
func (s *Sketch) Raise(hash uint64, count int) {
	if len(s.words) == 0 {
		return
	}
	a, shiftA, b, shiftB := s.places(hash)
	to := uint64(min(count, Max))
	s.raise(a, shiftA, to)
	s.raise(b, shiftB, to)
}

func (s *Sketch) raise(i, shift, to uint64) {
	w := s.word(i)
	if w>>shift&Max < to {
		w = w&^(Max<<shift) | to<<shift
	}
	s.words[i] = w
}

// Age halves all counts, at once as far as estimates go. The work is done when a word is
// raised, or by Step.
func (s *Sketch) Age() {
	s.sweep(len(s.words)) // of the age before, if there is anything left: a word knows but four bits of its age
	s.age++
	s.swept = 0
}

// Step does a part of the work that Age has left. It is done when keys have been added a
// quarter as often as there is room for.
func (s *Sketch) Step() { s.sweep(min(len(s.words), s.swept+4*wordsPerKey)) }

func (s *Sketch) sweep(to int) {
	for ; s.swept < to; s.swept++ {
		s.words[s.swept] = s.word(uint64(s.swept))
	}
}
