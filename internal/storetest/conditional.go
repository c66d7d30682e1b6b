package storetest

// conditional.go holds what an archive adds that decides conditions: the twin's way of it, and the
// suite.

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
)

var _ syncengine.ConditionalStore = (*archive)(nil)

func (a *archive) ApplyIf(ctx context.Context, nonce uint64, units [][]syncengine.Conditional) ([]syncengine.Verdict, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if _, known := a.landed[nonce]; known || nonce < a.asked {
		return nil, fmt.Errorf("nonce %d was used or asked about before", nonce)
	}
	a.asked = nonce
	clear(a.landed) // nobody will ask about lower ones
	rows := make(map[string]syncengine.Meta)
	for _, unit := range units {
		for i := range unit {
			if r, ok := a.rows[unit[i].ID]; ok {
				rows[r.ID] = metaOf(&r)
			}
		}
	}
	verdicts, write := syncengine.Judge(rows, units)
	a.apply(write)
	if slices.ContainsFunc(verdicts, func(v syncengine.Verdict) bool { return v.Decision == syncengine.DecidedApplied }) {
		a.landed[nonce] = true
	}
	return verdicts, nil
}

func (a *archive) Landed(ctx context.Context, nonce uint64) (bool, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return false, err
	}
	if nonce < a.asked {
		return false, fmt.Errorf("nonce %d is settled", nonce)
	}
	landed := a.landed[nonce]
	a.landed[nonce] = landed // if it has not, it may not any more
	return landed, nil
}

// If is a record that is stored if its id is at a version, or, at 0, has no live row.
func If(version uint64, r syncengine.Record) syncengine.Conditional {
	return syncengine.Conditional{Record: r, IfVersion: version}
}

// Always is a record that is stored unless it is below its row.
func Always(r syncengine.Record) syncengine.Conditional {
	return syncengine.Conditional{Record: r, Always: true}
}

// unit reads better than a slice.
func unit(recs ...syncengine.Conditional) []syncengine.Conditional { return recs }

// judged is a store, and the nonce of the last call.
type judged struct {
	syncengine.ConditionalStore
	nonce uint64
}

// apply asserts that the units are decided as wanted, each "applied", "conflict AT ROW" or
// "outranked AT ROW"; and that Landed tells that something was stored if something was.
func (s *judged) apply(t testing.TB, units [][]syncengine.Conditional, want ...string) {
	t.Helper()
	s.nonce++
	verdicts, err := s.ApplyIf(newContext(t), s.nonce, units)
	must(t, "apply if", err)
	var got []string
	for _, v := range verdicts {
		got = append(got, verdictText(v))
	}
	if !slices.Equal(got, want) {
		t.Errorf("ConditionalStore.ApplyIf decided\n%q, want\n%q", got, want)
	}
	landed, err := s.Landed(newContext(t), s.nonce)
	if err != nil || landed != slices.Contains(want, "applied") {
		t.Errorf("ConditionalStore.Landed: %v, %v after %q: it reports whether the ApplyIf of that nonce was committed", landed, err, want)
	}
}

func verdictText(v syncengine.Verdict) string {
	row := "none"
	if v.Row != (syncengine.Meta{}) {
		row = fmt.Sprintf("%s@%d", short(v.Row.ID), v.Row.Version)
	}
	if v.Row.Deleted {
		row += " deleted"
	}
	switch v.Decision {
	case syncengine.DecidedApplied:
		if v != (syncengine.Verdict{}) {
			return fmt.Sprintf("applied, and yet %d %s", v.At, row)
		}
		return "applied"
	case syncengine.DecidedConflict:
		return fmt.Sprintf("conflict %d %s", v.At, row)
	}
	return fmt.Sprintf("outranked %d %s", v.At, row)
}

// RunConditional holds a ConditionalStore against its interface. open returns an empty store,
// prepared; it closes what it opened by t.Cleanup.
func RunConditional(t *testing.T, open func(t *testing.T) syncengine.ConditionalStore) {
	start := func(t *testing.T, recs ...syncengine.Record) (*judged, *keeper) {
		s := open(t)
		k := archiveKeeper(s)
		k.mustPut(t, recs...)
		return &judged{ConditionalStore: s}, k
	}
	type units = [][]syncengine.Conditional
	t.Run("a condition on the version of the live row", func(t *testing.T) {
		s, k := start(t, Put("a", 5, `5`), Tombstone("gone", 5))
		s.apply(t, units{unit(If(5, Put("a", 6, `6`)))}, "applied")
		s.apply(t, units{unit(If(5, Put("a", 7, `7`)))}, "conflict 0 a@6")
		s.apply(t, units{unit(If(7, Put("a", 7, `7`)))}, "conflict 0 a@6")
		s.apply(t, units{unit(If(0, Put("a", 7, `7`)))}, "conflict 0 a@6")
		s.apply(t, units{unit(If(1, Put("new", 7, `7`)))}, "conflict 0 none")
		s.apply(t, units{unit(If(5, Put("gone", 7, `7`)))}, "conflict 0 gone@5 deleted")
		k.wantAll(t, []syncengine.Record{Put("a", 6, `6`), Tombstone("gone", 5)})
		k.wantAbsent(t, "new")
		s.apply(t, units{unit(If(0, Put("new", 7, `7`))), unit(If(0, Put("gone", 7, `7`))), unit(If(6, Tombstone("a", 7)))},
			"applied", "applied", "applied")
		k.wantAll(t, []syncengine.Record{Put("new", 7, `7`), Put("gone", 7, `7`), Tombstone("a", 7)})
		s.apply(t, units{unit(If(0, Put("a", 8, `8`)))}, "applied")
		k.want(t, Put("a", 8, `8`))
	})
	t.Run("a record that is not above its row", func(t *testing.T) {
		s, k := start(t, Put("a", 5, `5`), Tombstone("gone", 9))
		s.apply(t, units{unit(If(0, Put("gone", 9, `9`)))}, "outranked 0 gone@9 deleted") // a delete beats a put
		s.apply(t, units{unit(If(0, Tombstone("gone", 9)))}, "outranked 0 gone@9 deleted")
		s.apply(t, units{unit(If(5, Put("a", 5, `5`)))}, "outranked 0 a@5")
		s.apply(t, units{unit(If(5, Put("a", 4, `4`)))}, "outranked 0 a@5")
		k.wantAll(t, []syncengine.Record{Put("a", 5, `5`), Tombstone("gone", 9)})
		s.apply(t, units{unit(If(5, Tombstone("a", 5)))}, "applied")
		s.apply(t, units{unit(If(0, Put("gone", 10, `9`)))}, "applied")
		k.wantAll(t, []syncengine.Record{Tombstone("a", 5), Put("gone", 10, `9`)})
	})
	t.Run("equal versions are ordered by content hash", func(t *testing.T) {
		low, high := ladder("a")[1], ladder("a")[2]
		s, k := start(t, low)
		s.apply(t, units{unit(If(2, high))}, "applied")
		s.apply(t, units{unit(If(2, low))}, "outranked 0 a@2")
		s.apply(t, units{unit(Always(low))}, "outranked 0 a@2")
		k.want(t, high)
	})
	t.Run("a record without a condition", func(t *testing.T) {
		s, k := start(t, Put("a", 5, `5`), Tombstone("gone", 5))
		s.apply(t, units{unit(Always(Put("a", 4, `4`)))}, "outranked 0 a@5")
		s.apply(t, units{unit(Always(Put("a", 5, `5`))), unit(Always(Tombstone("gone", 5)))}, "applied", "applied") // equal
		k.wantAll(t, []syncengine.Record{Put("a", 5, `5`), Tombstone("gone", 5)})
		waived := Always(Put("a", 6, `6`))
		waived.IfVersion = 77
		s.apply(t, units{unit(waived), unit(Always(Put("gone", 6, `6`))), unit(Always(Put("new", 6, `6`)))}, "applied", "applied", "applied")
		k.wantAll(t, []syncengine.Record{Put("a", 6, `6`), Put("gone", 6, `6`), Put("new", 6, `6`)})
	})
	t.Run("a unit is stored as a whole or not at all", func(t *testing.T) {
		s, k := start(t, Put("a", 5, `5`), Put("b", 5, `5`), Put("c", 50, `5`), Tombstone("d", 60))
		s.apply(t, units{
			unit(If(5, Put("a", 6, `6`)), If(4, Put("b", 6, `6`)), If(0, Put("c", 6, `6`))), // the first that fails
			unit(If(0, Put("n", 6, `6`)), Always(Put("b", 5, `5`)), If(50, Put("c", 6, `6`)), If(0, Put("d", 6, `6`)), Always(Put("a", 1, `1`))),
			unit(If(50, Put("c", 6, `6`)), If(9, Put("n", 6, `6`))), // conflicts come before ranks
		}, "conflict 1 b@5", "outranked 3 d@60 deleted", "conflict 1 none")
		k.wantAll(t, []syncengine.Record{Put("a", 5, `5`), Put("b", 5, `5`), Put("c", 50, `5`), Tombstone("d", 60)})
		k.wantAbsent(t, "n")
		s.apply(t, units{unit(If(5, Put("b", 6, `6`)), If(5, Tombstone("a", 6)), If(0, Put("n", 6, `6`)), Always(Put("c", 50, `5`)))}, "applied")
		k.wantAll(t, []syncengine.Record{Tombstone("a", 6), Put("b", 6, `6`), Put("c", 50, `5`), Put("n", 6, `6`)})
	})
	t.Run("units see what those before them have stored", func(t *testing.T) {
		s, k := start(t, Put("a", 5, `5`))
		s.apply(t, units{
			unit(If(5, Put("a", 6, `6`))), unit(If(5, Put("a", 7, `7`))), unit(If(6, Put("a", 7, `7`)), If(0, Put("b", 7, `7`))),
			unit(If(0, Put("b", 8, `8`))), unit(If(7, Tombstone("b", 8))), unit(If(0, Put("b", 8, `8`))), unit(If(0, Put("b", 9, `9`))),
			unit(If(7, Put("a", 8, `8`)), If(1, Put("b", 9, `9`))), unit(If(0, Put("c", 1, `1`))), unit(If(1, Tombstone("c", 2))),
		}, "applied", "conflict 0 a@6", "applied", "conflict 0 b@7", "applied", "outranked 0 b@8 deleted", "applied",
			"conflict 1 b@9", "applied", "applied")
		k.wantAll(t, []syncengine.Record{Put("a", 7, `7`), Put("b", 9, `9`), Tombstone("c", 2)})
	})
	t.Run("nothing is a valid call", func(t *testing.T) {
		s, _ := start(t)
		s.apply(t, nil)
		s.apply(t, units{{}}, "applied")
	})
	t.Run("odd ids and contents, in units of any size", func(t *testing.T) { testOddUnits(t, open(t)) })
	t.Run("verdicts and rows are those of a model", func(t *testing.T) { testUnitsLikeAModel(t, open(t)) })
	t.Run("Landed forbids what it has denied", func(t *testing.T) {
		s, k := start(t)
		for range 2 { // and says the same again
			if landed, err := s.Landed(newContext(t), 7); landed || err != nil {
				t.Fatalf("landed: %v, %v", landed, err)
			}
		}
		_, err := s.ApplyIf(newContext(t), 7, units{unit(If(0, Put("a", 1, `1`)))})
		if err == nil || errors.Is(err, syncengine.ErrUnknownOutcome) || errors.Is(err, syncengine.ErrRefused) {
			t.Errorf("ConditionalStore.ApplyIf of a nonce that Landed has denied: %v, want an error that says it was not stored", err)
		}
		k.wantAbsent(t, "a")
		if landed, err := s.Landed(newContext(t), 7); landed || err != nil {
			t.Errorf("landed: %v, %v", landed, err)
		}
		s.nonce = 7
		s.apply(t, units{unit(If(0, Put("a", 1, `1`)))}, "applied")
	})
	t.Run("plain writers and conditions count exactly", func(t *testing.T) { testCounters(t, open(t)) })
	t.Run("a dead context ends ApplyIf and Landed", func(t *testing.T) {
		s, k := start(t)
		gone, cancel := context.WithCancel(context.Background())
		cancel()
		late, cancelLate := context.WithDeadline(context.Background(), time.Unix(1, 0))
		defer cancelLate()
		for ctx, want := range map[context.Context]error{gone: context.Canceled, late: context.DeadlineExceeded} {
			_, err := s.ApplyIf(ctx, 1, units{unit(If(0, Put("a", 1, `1`)))})
			if !errors.Is(err, want) || errors.Is(err, syncengine.ErrUnknownOutcome) {
				t.Errorf("ApplyIf: %v, want %v and no doubt", err, want)
			}
			if _, err = s.Landed(ctx, 1); !errors.Is(err, want) {
				t.Errorf("Landed: %v, want %v", err, want)
			}
		}
		k.wantAbsent(t, "a")
	})
}

// testOddUnits writes all odd ids, each with an odd content, in one call.
func testOddUnits(t *testing.T, s syncengine.ConditionalStore) {
	k, contents := archiveKeeper(s), Contents()
	var recs []syncengine.Record
	var units [][]syncengine.Conditional
	for i, id := range IDs() {
		r := Put(id, uint64(i+1), contents[i%len(contents)])
		if recs = append(recs, r); i%4 == 0 {
			units = append(units, nil)
		}
		units[len(units)-1] = append(units[len(units)-1], If(0, r))
	}
	for i := range 3000 { // more than one statement has room for
		r := Put(fmt.Sprintf("unit-%04d", (i*7919)%3000), 1, `1`)
		recs, units = append(recs, r), append(units, unit(If(0, r)))
	}
	verdicts, err := s.ApplyIf(newContext(t), 1, units)
	must(t, "apply if", err)
	for i, v := range verdicts {
		if v.Decision != syncengine.DecidedApplied {
			t.Errorf("unit %d: %s", i, verdictText(v))
		}
	}
	k.wantAll(t, recs)
}

// testUnitsLikeAModel draws units over few ids and compares with the twin, which decides one
// after the other and keeps no account of what changes.
func testUnitsLikeAModel(t *testing.T, s syncengine.ConditionalStore) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	model := NewArchive().(syncengine.ConditionalStore)
	ids := []string{"a", "b", "c", "d", "e"}
	decided := make(map[syncengine.Decision]int)
	for nonce := range uint64(40) {
		var units [][]syncengine.Conditional
		for range 1 + rng.IntN(12) {
			var one []syncengine.Conditional
			for _, i := range rng.Perm(len(ids))[:1+rng.IntN(3)] {
				base := nonce * 3
				r := Put(ids[i], 1+base+rng.Uint64N(8), fmt.Sprint(rng.IntN(3)))
				if rng.IntN(4) == 0 {
					r = Tombstone(ids[i], r.Version)
				}
				one = append(one, syncengine.Conditional{Record: r, Always: rng.IntN(3) == 0})
				if m, err := model.Heads(newContext(t), ids[i:i+1]); err == nil && len(m) == 1 && !m[0].Deleted && rng.IntN(5) > 0 {
					one[len(one)-1].IfVersion = m[0].Version
				}
			}
			units = append(units, one)
		}
		want, err := model.ApplyIf(newContext(t), nonce, units)
		must(t, "model", err)
		got, err := s.ApplyIf(newContext(t), nonce, units)
		must(t, "apply if", err)
		if !slices.Equal(got, want) {
			t.Fatalf("call %d:\n got %+v\nwant %+v\n of %+v", nonce, got, want, units)
		}
		for _, v := range got {
			decided[v.Decision]++
		}
		found, err := model.GetMany(newContext(t), ids)
		must(t, "model", err)
		for i := range found {
			if found[i].OK {
				archiveKeeper(s).want(t, found[i].Record)
			}
		}
	}
	if len(decided) != 3 {
		t.Errorf("not every decision was met: %v", decided)
	}
}

// testCounters has one caller of conditions count in rows up by one, while plain writers put
// the same content under higher versions.
func testCounters(t *testing.T, s syncengine.ConditionalStore) {
	const goal = 60
	ctx := newContext(t)
	must(t, "apply", applied(s.Apply(ctx, []syncengine.Record{Put("n", 1, `0`)})))
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 2 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for n := 0; ; n++ {
				select {
				case <-done:
					return
				default:
				}
				_, err := s.Apply(ctx, []syncengine.Record{Put("beside", uint64(n+1), `1`), Put("m", uint64(n+1), `1`)})
				if err != nil {
					t.Errorf("apply: %v", err)
					return
				}
			}
		}()
	}
	version, count, nonce := uint64(1), 0, uint64(0)
	for count < goal && !t.Failed() {
		nonce++
		next := Put("n", version+1, fmt.Sprint(count+1))
		verdicts, err := s.ApplyIf(ctx, nonce, [][]syncengine.Conditional{
			unit(If(version, next), Always(Tombstone("m", 1<<40+nonce))), unit(If(version, next)),
		})
		if err != nil || verdicts[0].Decision != syncengine.DecidedApplied || verdicts[1].Decision != syncengine.DecidedConflict {
			t.Errorf("call %d: %v, %v", nonce, verdicts, err)
		}
		version, count = version+1, count+1
	}
	close(done)
	wg.Wait()
	archiveKeeper(s).wantAll(t, []syncengine.Record{Put("n", version, fmt.Sprint(goal)), Tombstone("m", 1<<40+nonce)})
}
