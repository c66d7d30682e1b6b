package cuckoo

// set_test.go proves the promise, that no inserted id is ever denied, by asking for every one of
// them: after planned and unplanned growth, beside other goroutines, and after a filter underneath
// has failed. Seeds are random and logged; the dependency's kicks are random too, and not to be
// repeated.

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

func seeded(t testing.TB) Seed {
	t.Helper()
	seed := NewSeed()
	t.Logf("seed %x", seed)
	return seed
}

// nth returns the i-th of a kind of ids.
func nth(kind string, i int) string { return kind + ":" + strconv.Itoa(i) }

func insertRange(s *Set, kind string, from, to int) {
	for i := from; i < to; i++ {
		s.Insert(nth(kind, i))
	}
}

// wantAll asks for each of the first n ids of a kind.
func wantAll(t testing.TB, s *Set, kind string, n int) {
	t.Helper()
	denied := 0
	for i := range n {
		if !s.Contains(nth(kind, i)) {
			denied++
		}
	}
	if denied > 0 {
		t.Fatalf("%d of %d inserted ids are denied (%d layers)", denied, n, len(*s.layers.Load()))
	}
}

// affirmed returns the share of n ids, of a kind of which none was inserted, that the set affirms.
func affirmed(s *Set, kind string, n int) float64 {
	yes := 0
	for i := range n {
		if s.Contains(nth(kind, i)) {
			yes++
		}
	}
	return float64(yes) / float64(n)
}

func layerCount(s *Set) int { return len(*s.layers.Load()) }

func TestEmptySetDeniesEverything(t *testing.T) {
	for _, expected := range []int{-1, 0, 1, 100_000} {
		s := New(expected, seeded(t))
		if got := affirmed(s, "absent", 10_000); got != 0 {
			t.Errorf("New(%d) affirms %v of all ids", expected, got)
		}
		if s.Len() != 0 || s.Added() != 0 || s.Stale() != 0 || s.NeedsRebuild() || s.Poisoned() {
			t.Errorf("New(%d): len %d, added %d, stale %d, needs rebuild %v, poisoned %v",
				expected, s.Len(), s.Added(), s.Stale(), s.NeedsRebuild(), s.Poisoned())
		}
	}
}

// TestNoInsertedIDIsDenied takes ids of all shapes, in sets of the planned size and far beyond it,
// and asks for all of them at several points on the way.
func TestNoInsertedIDIsDenied(t *testing.T) {
	random := func(r *rand.Rand) string {
		b := make([]byte, 1+r.IntN(512))
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		return string(b)
	}
	shapes := map[string]func(r *rand.Rand, i int) string{
		"counting": func(_ *rand.Rand, i int) string { return strconv.Itoa(i) },
		"padded":   func(_ *rand.Rand, i int) string { return fmt.Sprintf("tenant/%012d/profile", i) },
		"hex":      func(r *rand.Rand, _ int) string { return fmt.Sprintf("%016x-%016x", r.Uint64(), r.Uint64()) },
		"zeros":    func(_ *rand.Rand, i int) string { return strings.Repeat("\x00", i) },
		"random":   func(r *rand.Rand, _ int) string { return random(r) },
	}
	for name, shape := range shapes {
		for _, size := range []struct{ expected, ids int }{{0, 500}, {1000, 1000}, {3000, 3000}, {0, 4000}, {500, 10_000}} {
			t.Run(fmt.Sprintf("%s/%d_of_%d", name, size.ids, size.expected), func(t *testing.T) {
				seed := seeded(t)
				r := rand.New(rand.NewChaCha8([32]byte(append(seed[:], seed[:]...))))
				s := New(size.expected, seed)
				var ids []string
				for i := range size.ids {
					ids = append(ids, shape(r, i))
					s.Insert(ids[i])
					if i%997 != 0 && i != size.ids-1 {
						continue
					}
					for _, id := range ids {
						if !s.Contains(id) {
							t.Fatalf("id %.40q is denied after %d inserts", id, i+1)
						}
					}
				}
			})
		}
	}
}

// TestGrowthWithoutRebuildLosesNothing is the owner that doesn't come round to a rebuild for long.
func TestGrowthWithoutRebuildLosesNothing(t *testing.T) {
	s := New(1000, seeded(t))
	done := 0
	for _, n := range []int{1000, 1100, 1500, 5000, 30_000, 100_000} {
		insertRange(s, "id", done, n)
		done = n
		wantAll(t, s, "id", n)
		if n > 2000 && !s.NeedsRebuild() {
			t.Errorf("a set for 1000 ids with %d needs no rebuild", n)
		}
		// Each layer doubles the one before, so their number is logarithmic; each adds at most .08
		// % false positives.
		if layers := layerCount(s); layers > 12 {
			t.Errorf("%d layers for %d ids", layers, n)
		} else if got := affirmed(s, "absent", 100_000); got > .0008*float64(layers)+.0003 {
			t.Errorf("%.3f %% false positives with %d layers", 100*got, layers)
		}
		if got := s.Added(); float64(got) < .985*float64(n) || got > n {
			t.Errorf("%d of %d ids were added", got, n)
		}
	}
	wantSafeLoads(t, s)
}

// TestPlannedIDsFitTheFirstLayer: a second layer before the set has the ids it was made for would
// be a rebuild in vain. One in a thousand is planned for.
func TestPlannedIDsFitTheFirstLayer(t *testing.T) {
	spilled, sets := 0, 0
	for _, n := range []int{10, 800, 1000, 2500, 5000, 10_000, 10_200, 33_000} {
		for range 800_000 / (n + 20_000) {
			s := New(n, NewSeed())
			insertRange(s, "id", 0, n)
			sets++
			if layerCount(s) > 1 || s.NeedsRebuild() {
				spilled++
			}
		}
	}
	t.Logf("%d of %d sets have a second layer", spilled, sets)
	if sets < 200 || spilled > 3 { // at most 0.25 expected; 4 or more by chance in one run of 7,000
		t.Errorf("%d of %d sets have a second layer", spilled, sets)
	}
}

// TestLaterLayersAnswerOnlyForFullPartitions: the first ids that spill must not bring the second
// layer's false positives to everybody.
func TestLaterLayersAnswerOnlyForFullPartitions(t *testing.T) {
	s := New(100_000, seeded(t))
	n := 0
	for ; layerCount(s) < 2; n++ {
		s.Insert(nth("id", n))
	}
	second := (*s.layers.Load())[1]
	for i := range second.partitions { // now it affirms everything
		second.partitions[i].poisoned = true
	}
	full := 0
	first := (*s.layers.Load())[0]
	for i := range first.partitions {
		if first.partitions[i].full(first.limit) {
			full++
		}
	}
	share := float64(full) / float64(len(first.partitions))
	if share == 0 || share > .3 {
		t.Fatalf("%d of %d partitions are full with %d ids", full, len(first.partitions), n)
	}
	if got := affirmed(s, "absent", 100_000); got < share-.05 || got > share+.05 {
		t.Errorf("%.1f %% of absent ids got to the second layer, %.1f %% of partitions are full", 100*got, 100*share)
	}
	wantAll(t, s, "id", n)
}

// TestSpilledIDsSpreadOverTheNextLayer: what spills from one partition must not meet in one
// partition again, though its ids have a part of their hash in common.
func TestSpilledIDsSpreadOverTheNextLayer(t *testing.T) {
	s := New(0, seeded(t))
	first := newLayer(layout{minBits, 50})
	second := newLayer(layout{minBits, 50})
	target := &first.partitions[17]
	hits := make(map[*partition]int)
	for i := 0; len(hits) < 50 && i < 1_000_000; i++ {
		if h := s.key.hash(strconv.Itoa(i)); first.partition(h, 0) == target {
			hits[second.partition(h, 1)]++
		}
	}
	if len(hits) != 50 {
		t.Errorf("ids of one partition go to %d of 50 in the next layer", len(hits))
	}
}

func TestInsertingAgainChangesNothing(t *testing.T) {
	s := New(1000, seeded(t))
	insertRange(s, "id", 0, 900)
	before := snapshotOf(t, s)
	added := s.Added()
	for range 50 {
		for i := range 900 {
			if s.Insert(nth("id", i)) {
				t.Fatal("an id was added twice")
			}
		}
	}
	if s.Added() != added || string(snapshotOf(t, s)) != string(before) {
		t.Error("the set has changed")
	}
}

// TestInsertTellsWhetherTheSetHasChanged, and Added counts exactly that.
func TestInsertTellsWhetherTheSetHasChanged(t *testing.T) {
	s := New(50_000, seeded(t))
	changed := 0
	for i := range 60_000 {
		if contained := s.Contains(nth("id", i)); s.Insert(nth("id", i)) == contained {
			t.Fatal("Insert and Contains disagree")
		} else if !contained {
			changed++
		}
	}
	if s.Added() != changed || s.Len() != changed {
		t.Errorf("added %d, len %d, want %d", s.Added(), s.Len(), changed)
	}
}

// TestIDSkippedForAnothersSakeStays is trap 19: ids that are affirmed though absent are inserted,
// which changes nothing, and must be affirmed for ever, whatever comes and goes.
func TestIDSkippedForAnothersSakeStays(t *testing.T) {
	const room = 20_000
	s := New(room, seeded(t))
	insertRange(s, "id", 0, room)
	var skipped []string
	for i := 0; len(skipped) < 200; i++ {
		if id := nth("absent", i); s.Contains(id) {
			if s.Insert(id) {
				t.Fatal("an affirmed id was added")
			}
			skipped = append(skipped, id)
		}
	}
	s.AddStale(room) // all others are deleted
	insertRange(s, "more", 0, 4*room)
	for _, id := range skipped {
		if !s.Contains(id) {
			t.Errorf("%s is denied after its insert", id)
		}
	}
}

// TestFailedFilterDeniesNothing overfills filters, which loses fingerprints, on purpose.
func TestFailedFilterDeniesNothing(t *testing.T) {
	for range 20 {
		s := New(800, seeded(t))
		l := (*s.layers.Load())[0]
		l.limit = 1 << l.bits
		n := 0
		for ; !s.Poisoned(); n++ {
			if n > 2000 {
				t.Fatal("the filter never fails")
			}
			s.Insert(nth("id", n))
		}
		wantAll(t, s, "id", n)
		if !s.NeedsRebuild() {
			t.Error("a poisoned set needs no rebuild")
		}
		insertRange(s, "id", n, n+1000)
		wantAll(t, s, "id", n+1000)
	}
}

// TestSeedDecidesWhichAbsentIDsAreAffirmed: what collides in one set is of no use against another.
func TestSeedDecidesWhichAbsentIDsAreAffirmed(t *testing.T) {
	const room = 20_000
	one, other := New(room, seeded(t)), New(room, seeded(t))
	insertRange(one, "id", 0, room)
	insertRange(other, "id", 0, room)
	inOne, inBoth := 0, 0
	for i := range 1_000_000 {
		if id := nth("absent", i); one.Contains(id) {
			inOne++
			if other.Contains(id) {
				inBoth++
			}
		}
	}
	if inOne < 300 || inBoth > inOne/25 {
		t.Errorf("%d absent ids are affirmed by one set, %d of them by another", inOne, inBoth)
	}
}

func TestStaleIDsAskForARebuild(t *testing.T) {
	const ids = 10_000
	s := New(ids, seeded(t))
	insertRange(s, "id", 0, ids)
	added := s.Added()
	check := func(stale, length int, rebuild bool) {
		t.Helper()
		if s.Stale() != stale || s.Len() != length || s.NeedsRebuild() != rebuild || s.Added() != added {
			t.Errorf("stale %d, len %d, needs rebuild %v, added %d; want %d, %d, %v, %d",
				s.Stale(), s.Len(), s.NeedsRebuild(), s.Added(), stale, length, rebuild, added)
		}
	}
	s.AddStale(1500)
	check(1500, added-1500, false)
	s.AddStale(600)
	check(2100, added-2100, true)
	s.AddStale(-200)
	check(1900, added-1900, false)
	s.AddStale(-5000)
	check(0, added, false)
	s.AddStale(100_000)
	check(added, 0, true)
	wantAll(t, s, "id", ids)

	small := New(100, seeded(t))
	insertRange(small, "id", 0, 100)
	small.AddStale(90)
	if small.NeedsRebuild() {
		t.Error("90 stale ids are worth a rebuild")
	}
}

// TestNobodyIsDeniedBesideWriters: readers ask for what writers have inserted, while partitions
// kick and layers grow.
func TestNobodyIsDeniedBesideWriters(t *testing.T) {
	const writers, readers = 4, 4
	each := 5_000
	if raceDetector {
		each = 1_000
	}
	s := New(1000, seeded(t))
	var progress [writers]atomic.Int64 // how many ids of a writer are inserted for certain
	var wg, writing sync.WaitGroup
	stop := make(chan struct{})
	for w := range writers {
		writing.Add(1)
		wg.Go(func() {
			defer writing.Done()
			for i := range each {
				s.Insert(nth(strconv.Itoa(w), i))
				s.Insert(nth("all", i)) // by all writers at once
				progress[w].Store(int64(i + 1))
			}
		})
	}
	for r := range readers {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(r), 1))
			for {
				select {
				case <-stop:
					return
				default:
				}
				w := rnd.IntN(writers)
				n := int(progress[w].Load())
				if n == 0 {
					continue
				}
				for range 50 {
					i := n - 1 - rnd.IntN(min(n, 1+rnd.IntN(n))) // the young ones more often
					if !s.Contains(nth(strconv.Itoa(w), i)) || !s.Contains(nth("all", i)) {
						t.Errorf("id %d of writer %d is denied", i, w)
						return
					}
				}
				_, _, _, _ = s.Len(), s.Bytes(), s.NeedsRebuild(), s.Stale()
			}
		})
	}
	writing.Wait()
	close(stop)
	wg.Wait()
	for w := range writers {
		wantAll(t, s, strconv.Itoa(w), each)
	}
	wantAll(t, s, "all", each)
	wantSafeLoads(t, s)
	if got := s.Added(); got > (writers+1)*each || float64(got) < .985*float64((writers+1)*each) {
		t.Errorf("%d ids added, want about %d", got, (writers+1)*each)
	}
}

// TestInsertLooksAgainUnderTheLock is the writer that was overtaken between its look and its lock:
// by one who has inserted the same id, or who has taken the last place.
func TestInsertLooksAgainUnderTheLock(t *testing.T) {
	s := New(0, seeded(t))
	l := (*s.layers.Load())[0]
	p := &l.partitions[0]
	add := func(i int) outcome {
		d := newDigests(s.key.hash(nth("id", i)))
		defer scratch.Put(d)
		return p.add(d, l.limit)
	}
	n := 0
	for ; !p.full(l.limit); n++ {
		add(n)
	}
	added := s.Added()
	for i := range n {
		if got := add(i); got != present {
			t.Fatalf("id %d, which is there, has outcome %d", i, got)
		}
	}
	later := make(map[outcome]int)
	for i := n; i < n+1000; i++ {
		later[add(i)]++
	}
	if later[inserted] > 0 || later[noRoom] < 900 || s.Added() != added {
		t.Errorf("a full partition takes more: outcomes %v, %d ids and then %d", later, added, s.Added())
	}
}

// TestFingerprintsAreNotRepeated: of an id that one filter affirms and the other doesn't, only the
// other gets a fingerprint. So no number of ids can fill two buckets with one fingerprint.
func TestFingerprintsAreNotRepeated(t *testing.T) {
	onlyA, onlyB := 0, 0
	for range 5 {
		s := New(0, seeded(t))
		p := &(*s.layers.Load())[0].partitions[0]
		for i := range 800 {
			d := newDigests(s.key.hash(nth("id", i)))
			inA, inB := p.a.Lookup(d.a[:]), p.b.Lookup(d.b[:])
			scratch.Put(d)
			a, b := p.a.Count(), p.b.Count()
			s.Insert(nth("id", i))
			if inA && p.a.Count() != a || inB && p.b.Count() != b {
				t.Fatal("a fingerprint was put in beside one like it")
			}
			if inA && !inB {
				onlyA++
			}
			if inB && !inA {
				onlyB++
			}
		}
	}
	if onlyA == 0 || onlyB == 0 { // about 50 of each
		t.Errorf("one filter alone affirmed %d and %d of the new ids", onlyA, onlyB)
	}
}

// TestLayerIsAddedOnce: those that find the last layer full together must not add one each.
func TestLayerIsAddedOnce(t *testing.T) {
	s := New(0, seeded(t))
	first, second := s.grow(1), s.grow(1)
	if len(first) != 2 || len(second) != 2 || first[1] != second[1] {
		t.Errorf("%d layers, then %d", len(first), len(second))
	}
}

func TestLookupsAllocateNothing(t *testing.T) {
	s := New(2000, seeded(t))
	insertRange(s, "id", 0, 3000)
	if layerCount(s) < 2 {
		t.Fatal("want a set of two layers")
	}
	for name, id := range map[string]string{
		"present": "id:1", "late": "id:2999", "absent": "no", "empty": "", "long": strings.Repeat("x", 512),
	} {
		if n := testing.AllocsPerRun(1000, func() { s.Contains(id) }); n != 0 {
			t.Errorf("Contains(%s) allocates %v times", name, n)
		}
		s.Insert(id)
		if n := testing.AllocsPerRun(1000, func() { s.Insert(id) }); n != 0 {
			t.Errorf("inserting %s again allocates %v times", name, n)
		}
	}
}
