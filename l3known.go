package syncengine

// l3known.go is what a store on SQL takes the rows to be that it wrote last, so that it need not
// look at them before it writes over them.
//
// To look at 1000 rows and lock them takes the server half as long as to write them. What the look
// is for, the row's version, which the new one must be above, and its hash, which leaves the
// digest, is known of rows that were written lately. So such a row is written on condition that it
// has the very version and hash that it is taken for (swap): the server compares them under the
// lock that it takes to write. If one has not, since another engine has written it, or somebody by
// hand, nothing of the transaction stays, and it is repeated with a look at all. So what is known
// of a row may be out of date. Both are compared, since two engines may have given one version.
//
// Only simple rows are remembered (storedRow.simple), and only such are written over them: there
// is nothing else to see to. They are kept in sets of eight places, of which the one with the
// lowest version, which was written first, makes room; 48 bytes each. Room for them grows with what
// is written, up to 6 MB, or what Remembering says: writing the same rows in turns, more of them
// than have room, is as if nothing were known.

import (
	"hash/maphash"
	"math/bits"
	"sync"
)

const (
	knownWays    = 8
	knownFirst   = 1 << 5  // sets
	knownMost    = 1 << 14 // sets, by default
	knownBytes   = 48      // of a row
	longestDoubt = 1 << 10 // batches
)

// knownRows is all that a store knows. Its zero value knows nothing.
type knownRows struct {
	mu    sync.Mutex
	most  int // sets; 0: knownMost
	sets  []knownSet
	used  int // rows were written to free places since there are so many sets
	pause int // for so many batches more rows are looked at
	doubt int // how long the next pause will be: others write the same rows
}

type knownSet struct {
	keys [knownWays]uint64 // hashes of ids; of ids that share one the versions differ
	rows [knownWays]knownRow
}

type knownRow struct {
	version uint64 // 0: the place is free
	hash    [32]byte
}

var knownSeed = maphash.MakeSeed()

func knownKey(id string) uint64 { return maphash.String(knownSeed, id) }

// Remembering lets a store take so many bytes for what it knows of rows, if that is more than it
// takes anyhow.
func (s *sqlStore) Remembering(bytes int64) *sqlStore {
	if sets := bytes / (knownWays * knownBytes); sets > 0 {
		s.known.most = 1 << (bits.Len64(uint64(sets)) - 1)
	}
	return s
}

// find returns what is known of a row; nil: nothing.
func (k *knownRows) find(key uint64) *knownRow {
	set := &k.sets[key%uint64(len(k.sets))]
	for i := range set.keys {
		if set.keys[i] == key && set.rows[i].version != 0 {
			return &set.rows[i]
		}
	}
	return nil
}

// set notes a row, unless it is known to be a later one.
func (k *knownRows) set(key uint64, row knownRow) {
	if was := k.find(key); was != nil {
		if was.version <= row.version {
			*was = row
		}
		return
	}
	set, to := &k.sets[key%uint64(len(k.sets))], 0
	for i := range set.rows {
		if set.rows[i].version < set.rows[to].version {
			to = i
		}
	}
	if set.rows[to].version == 0 {
		k.used++
	}
	set.keys[to], set.rows[to] = key, row
}

// grow makes room for rows that are written.
func (k *knownRows) grow(rows int) {
	size := max(len(k.sets), knownFirst)
	for size < max(k.most, knownMost) && k.used+rows > size*knownWays/2 {
		size *= 2
	}
	if size == len(k.sets) {
		return
	}
	old := k.sets
	k.sets, k.used = make([]knownSet, size), 0
	for i := range old {
		for n, row := range old[i].rows {
			if row.version != 0 {
				k.set(old[i].keys[n], row)
			}
		}
	}
}

// Expect notes in rows that are to be written what those of their ids are, as far as it is known
// and they are above it.
func (k *knownRows) Expect(rows []storedRow) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.pause > 0 {
		k.pause--
		return
	}
	if k.sets == nil {
		return
	}
	for i := range rows {
		r := &rows[i]
		if !r.simple() {
			continue
		}
		if row := k.find(knownKey(r.ID)); row != nil && row.version < r.Version {
			r.known, r.over = true, *row
		}
	}
}

// Wrote is told what a transaction wrote. Those that follow each other on a row may tell in any
// order.
func (k *knownRows) Wrote(p *plan) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.grow(len(p.fresh) + len(p.over))
	for _, rows := range [...][]*storedRow{p.fresh, p.over, p.swap} {
		for _, r := range rows {
			key := knownKey(r.ID)
			if r.simple() {
				k.set(key, knownRow{r.Version, r.ContentHash})
			} else if was := k.find(key); was != nil {
				*was = knownRow{}
			}
		}
	}
	if len(p.swap) > 0 {
		k.doubt /= 2
	}
}

// Failed is told that a row was not what it was taken for. The next ones will not be, either, while
// other engines write the same: each time it takes longer until a row is taken for known again.
func (k *knownRows) Failed() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.sets, k.used = nil, 0
	k.pause, k.doubt = k.doubt, min(2*k.doubt+1, longestDoubt)
}

// Forget forgets all.
func (k *knownRows) Forget() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.sets, k.used = nil, 0
}
