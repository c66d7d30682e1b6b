package syncengine_test

// l3known_test.go has rows that a store takes for known, and that are not what they are taken for.

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/storetest"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

// knownL3s are databases, each with stores of several engines on it.
func knownL3s(t *testing.T) map[string]func(t *testing.T) []syncengine.ArchiveStore {
	owned := func(t *testing.T, url string) syncengine.ArchiveStore {
		s, err := syncengine.OpenSQLStore(url)
		lab.NoError(t, "open", err)
		t.Cleanup(func() { _ = s.Close() })
		lab.NoError(t, "prepare", s.Prepare(lab.Bounded(t)))
		return s
	}
	return map[string]func(t *testing.T) []syncengine.ArchiveStore{
		"SQLite": func(t *testing.T) []syncengine.ArchiveStore {
			url := "sqlite:" + t.TempDir() + "/l3.db"
			return []syncengine.ArchiveStore{owned(t, url), owned(t, url)}
		},
		"MariaDB": func(t *testing.T) []syncengine.ArchiveStore {
			url := testserver.SharedMariaDB(t).NewDatabase(t)
			stores := []syncengine.ArchiveStore{owned(t, url), owned(t, url)}
			mode := "SIMULTANEOUS_ASSIGNMENT"
			if testserver.IsMySQL() { // which has no such mode
				mode = "ANSI"
			}
			for _, options := range []string{"clientFoundRows=true", "sql_mode=%27%27", "sql_mode=%27" + mode + "%27&interpolateParams=true"} {
				db := lab.OpenDriver(t, "mysql", testserver.DSN(t, url)+"?"+options)
				db.SetMaxOpenConns(1) // nothing is prepared while it writes
				s := syncengine.NewSQLStore(syncengine.DialectMySQL, db)
				lab.NoError(t, "prepare", s.Prepare(lab.Bounded(t)))
				stores = append(stores, s)
			}
			return stores
		},
	}
}

// knownModel is what must be in an L3.
type knownModel struct {
	stores []syncengine.ArchiveStore
	rows   map[string]syncengine.Record
	clock  uint64
	nonce  uint64
}

// record draws what somebody writes to an id: most of it is new, some has come late.
func (m *knownModel) record(t *rapid.T, id string) syncengine.Record {
	m.clock += 10
	// Contents and times come again, so that a version, if it does, may be with what others had.
	r := storetest.Put(id, m.clock, fmt.Sprintf(`{"n":%d}`, rapid.IntRange(1, 3).Draw(t, "content")))
	r.UpdatedAt = time.Unix(1_700_000_000, 0).UTC()
	switch rapid.IntRange(0, 9).Draw(t, "form") {
	case 0:
		r.Priority = syncengine.PriorityHigh
	case 1:
		r.TraceParent, r.HomeInstanceID = "00-trace", "home"
	case 2:
		r.ExpiresAt = time.Now().Add(time.Hour).Truncate(time.Millisecond).UTC()
	case 5: // two engines have given one version
		if was, ok := m.rows[id]; ok {
			r.Version = was.Version
		}
	case 3:
		r.Deleted, r.Content, r.ContentHash = true, nil, [32]byte{}
	case 4:
		r.Version -= uint64(rapid.IntRange(1, int(m.clock)-1).Draw(t, "late"))
	}
	return r
}

// takes puts a record into the model, and reports whether L3 has something above it.
func (m *knownModel) takes(r syncengine.Record) (above bool) {
	was, ok := m.rows[r.ID]
	switch {
	case ok && was.Compare(&r) > 0:
		return true
	case ok && was.Compare(&r) == 0 && !r.Deleted && !was.ExpiresAt.Equal(r.ExpiresAt):
		return true // a version has one expiry
	}
	if !ok || was.Compare(&r) < 0 {
		m.rows[r.ID] = r
	}
	return false
}

// purge removes the rows of what was deleted.
func (m *knownModel) purge(t *rapid.T, s syncengine.ArchiveStore) {
	for n := -1; n != 0; {
		var err error
		if n, err = s.PurgeTombstones(context.Background(), time.Unix(4_000_000_000, 0), 1000); err != nil {
			t.Fatal(err)
		}
	}
	maps.DeleteFunc(m.rows, func(_ string, r syncengine.Record) bool { return r.Deleted })
}

func (m *knownModel) check(t *testing.T, rt *rapid.T) {
	ids := make([]string, 0, len(m.rows))
	for id := range m.rows {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	found, err := m.stores[0].GetMany(context.Background(), ids)
	if err != nil {
		rt.Fatal(err)
	}
	for i, id := range ids {
		want, got := m.rows[id], found[i].Record
		if found[i].Err != nil || !found[i].OK || got.Version != want.Version || got.Deleted != want.Deleted || string(got.Content) != string(want.Content) ||
			got.Priority != want.Priority || got.TraceParent != want.TraceParent || got.HomeInstanceID != want.HomeInstanceID || !got.ExpiresAt.Equal(want.ExpiresAt) {
			rt.Fatalf("%s is %+v (%v), want %+v", id, got, found[i].Err, want)
		}
	}
	lab.WantDigest(t, m.stores[0])
}

// TestRowsThatAreKnownAreWhatTheyAreTakenFor: several engines write the same few ids in turns, also
// by conditions, so that what each knows of them is out of date again and again. L3 ends with the
// highest, in all columns, tells each writer what is above it, and its digest stays exact.
func TestRowsThatAreKnownAreWhatTheyAreTakenFor(t *testing.T) {
	t.Parallel()
	for name, open := range knownL3s(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			stores, run := open(t), 0
			rapid.Check(t, func(rt *rapid.T) {
				run++
				m := &knownModel{stores: stores, rows: make(map[string]syncengine.Record), clock: 1000}
				name := func(n int) string { return fmt.Sprintf("r%06d/%02d", run, n) }
				for range rapid.IntRange(1, 12).Draw(rt, "batches") {
					s := stores[rapid.IntRange(0, len(stores)-1).Draw(rt, "store")]
					picked := rapid.SliceOfNDistinct(rapid.IntRange(0, 11), 1, 12, rapid.ID[int]).Draw(rt, "ids")
					slices.Sort(picked)
					switch rapid.IntRange(0, 5).Draw(rt, "how") {
					case 1:
						m.purge(rt, s)
						continue
					case 0:
						r := m.record(rt, name(picked[0]))
						m.nonce++
						_, err := s.(syncengine.ConditionalStore).ApplyIf(context.Background(), uint64(run)<<20|m.nonce, [][]syncengine.Conditional{{{Record: r, Always: true}}})
						if err != nil {
							rt.Fatal(err)
						}
						m.takes(r)
						continue
					}
					var recs []syncengine.Record
					var want []string
					for _, n := range picked {
						r := m.record(rt, name(n))
						recs = append(recs, r)
						if m.takes(r) {
							want = append(want, r.ID)
						}
					}
					above, err := s.Apply(context.Background(), recs)
					if err != nil {
						rt.Fatal(err)
					}
					var got []string
					for _, a := range above {
						got = append(got, a.ID)
					}
					if slices.Sort(got); !slices.Equal(got, want) {
						rt.Fatalf("above: %v, want %v", got, want)
					}
				}
				m.check(t, rt)
			})
		})
	}
}

// TestARowThatIsKnownAndGone was removed by hand, or changed: what is written over it is all that
// it is.
func TestARowThatIsKnownAndGone(t *testing.T) {
	t.Parallel()
	byHand := map[string]string{"same": "UPDATE sync_items SET version = version WHERE id = '%s/a'",
		"gone": "DELETE FROM sync_items WHERE id = '%s/a'", "higher": "UPDATE sync_items SET version = 99 WHERE id = '%s/a'",
		"changed": "UPDATE sync_items SET priority = 1, trace_parent = 'p', trace_state = 's', home_instance = 'h', encoding = 'e', " +
			"updated_at = 1, expires_at = 1900000000000, deleted = 1, deleted_at = 1, crdt = '' WHERE id = '%s/a'"}
	for name, open := range knownL3s(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for i, s := range open(t) {
				for how, text := range byHand {
					prefix := fmt.Sprint(i, how)
					write := func(version uint64) []syncengine.Meta {
						var recs []syncengine.Record
						for _, id := range strings.Split("a b c d e f g h i", " ") { // with one more place in the statement
							recs = append(recs, storetest.Put(prefix+"/"+id, version, fmt.Sprint(version)))
						}
						above, err := s.Apply(lab.Bounded(t), recs)
						lab.NoError(t, "apply", err)
						return above
					}
					write(10)
					lab.NoError(t, text, syncengine.Exec(lab.Bounded(t), s, fmt.Sprintf(text, prefix)))
					known, before := syncengine.Known(s, prefix+"/i")
					above := write(20)
					if _, after := syncengine.Known(s, prefix+"/i"); how == "same" && (known != 10 || after > before) {
						t.Errorf("%s: it is known to be of version %d, and doubt went from %d to %d", prefix, known, before, after)
					}
					if higher := how == "higher"; higher != (len(above) == 1) || higher && above[0].Version != 99 {
						t.Errorf("%s: above: %v", prefix, above)
					}
					n := 0
					for _, m := range lab.RowsOf(t, s) {
						if !strings.HasPrefix(m.ID, prefix) || m.Version == 99 {
							continue
						}
						r, err := s.Get(lab.Bounded(t), m.ID)
						if want := storetest.Put(m.ID, 20, "20"); err != nil || storetest.Diff(&r, &want) != "" {
							t.Errorf("%s: %+v, %v", m.ID, r, err)
						}
						n++
					}
					if n < 8 {
						t.Errorf("%s: %d rows", prefix, n)
					}
				}
			}
		})
	}
}

// TestINV03TwoKnownRowsAreGone: another engine has deleted two of nine rows, of which one comes
// twice, to fill a statement of ten places, and their tombstones were purged. What a server counts
// was as many as if all had been there.
func TestINV03TwoKnownRowsAreGone(t *testing.T) {
	t.Parallel()
	for name, open := range knownL3s(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			stores := open(t)
			for i, s := range stores {
				id := func(n int) string { return fmt.Sprint(i, "/", n) }
				put := func(version uint64) (recs []syncengine.Record) {
					for n := range 9 {
						recs = append(recs, storetest.Put(id(n), version, fmt.Sprint(version)))
					}
					lab.NoError(t, "apply", lab.Applied(s.Apply(lab.Bounded(t), recs)))
					return recs
				}
				put(10)
				other := stores[(i+1)%len(stores)]
				var dels []syncengine.Record
				for _, n := range []int{0, 8} {
					dels = append(dels, syncengine.Record{Deleted: true, Item: syncengine.Item{ID: id(n), Version: 15, UpdatedAt: time.Unix(1, 0)}})
				}
				lab.NoError(t, "delete", lab.Applied(other.Apply(lab.Bounded(t), dels)))
				_, err := other.PurgeTombstones(lab.Bounded(t), time.Unix(1000, 0), 100)
				lab.NoError(t, "purge", err)
				for _, want := range put(20) {
					if r, err := other.Get(lab.Bounded(t), want.ID); err != nil || storetest.Diff(&r, &want) != "" {
						t.Errorf("%s: %+v, %v", want.ID, r, err)
					}
				}
				lab.WantDigest(t, other)
			}
		})
	}
}

// TestARowDeletedByHandIsInNoDigest: somebody deletes a row that a store knows, and the digest is
// counted anew. What the store writes then adds to it.
func TestARowDeletedByHandIsInNoDigest(t *testing.T) {
	t.Parallel()
	for name, open := range knownL3s(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			stores := open(t)
			s, other := stores[0], stores[1]
			for version := range uint64(3) {
				if version == 2 {
					lab.NoError(t, "by hand", syncengine.Exec(lab.Bounded(t), s, "UPDATE sync_items SET deleted = 1"))
					_, err := other.(syncengine.ArchiveDigester).Recount(lab.Bounded(t), time.Minute, true, func(error) {})
					lab.NoError(t, "recount", err)
				}
				lab.NoError(t, "apply", lab.Applied(s.Apply(lab.Bounded(t), []syncengine.Record{storetest.Put("x", version+1, fmt.Sprint(version))})))
			}
			lab.WantDigest(t, s)
		})
	}
}

// TestManyRowsAreKnown: room is made for what is written.
func TestManyRowsAreKnown(t *testing.T) {
	t.Parallel()
	const rows = 20_000
	s := knownL3s(t)["SQLite"](t)[0]
	var recs []syncengine.Record
	for n := range rows {
		recs = append(recs, storetest.Put(fmt.Sprintf("row-%06d", n), 10, "1"))
	}
	for batch := range slices.Chunk(recs, 1000) {
		lab.NoError(t, "apply", lab.Applied(s.Apply(lab.Bounded(t), batch)))
	}
	known := 0
	for i := range recs {
		if version, _ := syncengine.Known(s, recs[i].ID); version == 10 {
			known++
		}
	}
	if known < rows-rows/50 {
		t.Errorf("%d of %d rows are known", known, rows)
	}
}

// TestRowsAreKnownWithinBounds, which are wider where there is more memory.
func TestRowsAreKnownWithinBounds(t *testing.T) {
	t.Parallel()
	const some, many = 1 << 17, 1 << 19
	for _, c := range []struct{ bytes, rows, known, places int }{
		{0, 1000, 1000, 1 << 11},
		{0, many, some / 2, some},
		{1 << 20, many, some / 2, some},
		{many * 48, many / 2, many / 2, many},
		{2*many*48 - 1, many / 2, many / 2, many}, // no more than that
		{many * 48, 2 * many, many / 2, many},
	} {
		known, places := syncengine.KnownOf(int64(c.bytes), c.rows)
		if known < c.known-c.known/20 || places != c.places {
			t.Errorf("%d bytes, %d rows: %d are known, in %d places; want %d in %d", c.bytes, c.rows, known, places, c.known, c.places)
		}
	}
}

// TestAVersionThatTwoEnginesHaveGiven, as replicators may that bring versions along: one knows the
// row that the other has written over, and then writes what that one has.
func TestAVersionThatTwoEnginesHaveGiven(t *testing.T) {
	t.Parallel()
	for name, open := range knownL3s(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			stores := open(t)
			for i, s := range stores {
				put := func(s syncengine.ArchiveStore, version uint64, content string, expires time.Time) {
					r := storetest.Put(fmt.Sprint("x", i), version, content)
					r.UpdatedAt, r.ExpiresAt = time.Unix(1_700_000_000, 0).UTC(), expires
					above, err := s.Apply(lab.Bounded(t), []syncengine.Record{r})
					lab.NoError(t, "apply", err)
					if len(above) > 0 {
						t.Errorf("above: %v", above)
					}
				}
				low, high := storetest.Put("", 0, "1"), storetest.Put("", 0, "2")
				if low.Compare(&high) > 0 {
					low, high = high, low
				}
				put(s, 10, string(low.Content), time.Time{})
				put(stores[(i+1)%2], 10, string(high.Content), time.Unix(1_900_000_000, 0))
				put(s, 20, string(high.Content), time.Time{})
				r, err := s.Get(lab.Bounded(t), fmt.Sprint("x", i))
				lab.NoError(t, "get", err)
				if r.Version != 20 || !r.ExpiresAt.IsZero() {
					t.Errorf("%+v", r)
				}
				lab.WantDigest(t, s)
			}
		})
	}
}

// TestINV09ARaceIsNoRefusal: a row is not what it was taken for, and the context ends before the
// statement, which has failed for that, is made again. Nobody has refused anything.
func TestINV09ARaceIsNoRefusal(t *testing.T) {
	ctx := context.Background()
	for name, open := range knownL3s(t) {
		t.Run(name, func(t *testing.T) {
			stores := open(t)
			a, b := stores[0], stores[1]
			version := uint64(1)
			lab.Must(t, lab.Applied(a.Apply(ctx, []syncengine.Record{storetest.Put("x", version, "1")})))
			for ended := 0; ended < 60 && version < 4000; version += 2 {
				lab.Must(t, lab.Applied(b.Apply(ctx, []syncengine.Record{storetest.Put("x", version+1, "2")})))
				short, cancel := context.WithTimeout(ctx, time.Duration(rand.IntN(3000))*time.Microsecond)
				err := lab.Applied(a.Apply(short, []syncengine.Record{storetest.Put("x", version+2, "3")}))
				cancel()
				if err == nil {
					continue
				}
				ended++
				if !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, syncengine.ErrUnavailable) || errors.Is(err, syncengine.ErrRefused) {
					t.Fatal(err)
				}
				lab.Must(t, lab.Applied(a.Apply(ctx, []syncengine.Record{storetest.Put("x", version+2, "3")})))
			}
		})
	}
}
