package machines

// machine_model_test.go is the map that machine_test.go compares an engine with, and the
// actions that only ask.

import (
	"context"
	"crypto/sha256"
	"errors"
	"maps"
	"slices"
	"time"

	"pgregory.net/rapid"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/storetest"
)

// A generator is made anew for each use, since one must not be shared between goroutines.
var (
	plainIDs    = []string{"a", "A", "b", "c", "d", "e", "f", "g", "h", "i.j", "{k}", "l:m"}
	numberedIDs = []string{"numbered-1", "numbered-2"}
)

// held is what the map knows of an id.
type held struct {
	now   string             // content; "" is absent
	early bool               // its op was accepted during the outage of L3 that lasts
	top   *syncengine.Record // of a numbered id: the highest op accepted
	stale []string           // contents of lower ops that were accepted and that L3 may not have refused yet
}

type model struct{ held map[string]*held }

func newModel() model {
	m := model{make(map[string]*held)}
	for _, id := range slices.Concat(plainIDs, numberedIDs) {
		m.held[id] = &held{}
	}
	return m
}

// wrote notes an accepted op; no content is a delete.
func (m *model) wrote(id string, content []byte, away bool) {
	m.held[id].now, m.held[id].early = string(content), away
}

// isStale reports whether an op of a numbered id loses.
func (m *model) isStale(rec *syncengine.Record) bool {
	top := m.held[rec.ID].top
	rec.ContentHash = [32]byte{}
	if !rec.Deleted {
		rec.ContentHash = sha256.Sum256(rec.Content)
	}
	return top != nil && rec.Compare(top) < 0
}

func (m *model) wroteNumbered(rec *syncengine.Record, away bool) {
	h := m.held[rec.ID]
	if m.isStale(rec) {
		h.stale = append(h.stale, string(rec.Content))
		return
	}
	h.top = rec
	m.wrote(rec.ID, rec.Content, away)
}

// staleIsGone notes that L3 has all ops.
func (m *model) staleIsGone() {
	for _, h := range m.held {
		h.stale = nil
	}
}

func (m *model) noneIsEarly() {
	for _, h := range m.held {
		h.early = false
	}
}

func (m *model) anyEarly() bool {
	for _, h := range m.held {
		if h.early {
			return true
		}
	}
	return false
}

// mayHold reports whether an answer is right; "" is absent.
func (h *held) mayHold(content string) bool {
	return content == h.now || slices.Contains(h.stale, content)
}

// judge decides on the answer of a read.
func (m *machine) judge(t *rapid.T, what, id string, content []byte, err error) {
	h := m.held[id]
	switch {
	case errors.Is(err, syncengine.ErrUnavailable) && m.shaky && !h.early, errors.Is(err, syncengine.ErrBackpressure):
	case errors.Is(err, syncengine.ErrNotFound):
		if !h.mayHold("") {
			t.Fatalf("%s: %s is not found, want %.40s (or %.40q)", what, id, h.now, h.stale)
		}
	case err != nil:
		t.Fatalf("%s of %s: %v (L3 was away: %v, the op is younger: %v)", what, id, err, m.shaky, h.early)
	case !h.mayHold(string(content)):
		t.Fatalf("%s: %s holds %.40s, want %.40s (or %.40q)", what, id, content, h.now, h.stale)
	}
}

func (m *machine) anyID(t *rapid.T) string {
	return rapid.SampledFrom(slices.Concat(plainIDs, numberedIDs)).Draw(t, "id")
}

func (m *machine) get(t *rapid.T) {
	id := m.anyID(t)
	it, err := m.e.Get(context.Background(), id)
	m.judge(t, "Get", id, it.Content, err)
	if !m.e.Contains(id) && !m.held[id].mayHold("") {
		t.Fatalf("Contains says that %s does not exist", id)
	}
}

func (m *machine) getMany(t *rapid.T) {
	m.getTheseMany(t, rapid.SliceOfN(rapid.SampledFrom(slices.Concat(plainIDs, numberedIDs)), 0, 8).Draw(t, "ids"))
}

func (m *machine) getTheseMany(t *rapid.T, ids []string) {
	items, err := m.e.GetMany(context.Background(), ids)
	if errors.Is(err, syncengine.ErrBackpressure) {
		return
	}
	for i, id := range ids {
		switch {
		case items[i] != nil:
			m.judge(t, "GetMany", id, items[i].Content, nil)
		case err == nil:
			m.judge(t, "GetMany", id, nil, syncengine.ErrNotFound)
		case m.held[id].early && m.held[id].now != "": // nil may stand for an answer that is missing, but not here
			t.Fatalf("GetMany does not answer %s, which was written during the outage: %v", id, err)
		default:
			if !errors.Is(err, syncengine.ErrUnavailable) || !m.shaky {
				t.Fatalf("GetMany: %v", err)
			}
		}
	}
}

func (m *machine) status(t *rapid.T) {
	id := m.anyID(t)
	h := m.held[id]
	st, err := m.e.Status(context.Background(), id)
	switch {
	case errors.Is(err, syncengine.ErrBackpressure), err != nil && (m.shaky || m.away2.Load()):
	case err != nil:
		// L2's circuit may be open for a while after its outage.
		if m.l2 == nil || m.e.Health(context.Background()).L2.Circuit == "closed" && !errors.Is(err, syncengine.ErrUnavailable) {
			t.Fatalf("Status of %s: %v", id, err)
		}
	case len(h.stale) > 0:
	case (st.State == syncengine.StatusMissing) != (h.now == ""):
		t.Fatalf("Status of %s: %+v, want %.40q", id, st, h.now)
	case st.State == syncengine.StatusSynced && !st.InL3:
		t.Fatalf("Status of %s: %+v, synced without being in L3", id, st)
	}
}

func (m *machine) flush(t *rapid.T) {
	switch err := m.e.Flush(context.Background()); {
	case err == nil && m.away3.Load() && m.anyEarly():
		t.Fatal("Flush says that all is in L3, which is away")
	case err == nil:
		m.staleIsGone()
	case !m.shaky || !errors.Is(err, syncengine.ErrUnavailable):
		t.Fatalf("Flush: %v", err)
	}
}

// verify compares L2 with L3. Nobody writes meanwhile, and what L2 lost or missed is a
// difference, so only an error is checked here.
func (m *machine) verify(t *rapid.T) {
	if m.l2 == nil {
		t.Skip("no L2")
	}
	repair := rapid.Bool().Draw(t, "repair")
	if _, err := m.e.Verify(context.Background(), syncengine.VerifyOptions{Repair: repair}); err != nil && !errors.Is(err, syncengine.ErrUnavailable) {
		t.Fatalf("Verify: %v", err)
	}
}

// atRest ends all outages and compares every tier, this engine, its reopened self and one that
// knows L3 alone with the map.
func (m *machine) atRest(t *rapid.T) {
	ctx := context.Background()
	m.comeBack()
	m.away2.Store(false)
	m.steady(t)
	m.readAll(t)
	if m.l2 != nil {
		m.until(t, "L2 is repaired", func() bool { return m.e.Stats().L2Missed == 0 })
	}
	if s := m.e.Stats(); s.PendingOps != 0 || s.SpooledOps != 0 || s.L1Pinned != 0 {
		t.Fatalf("after Flush ops are left: %+v", s)
	}
	m.until(t, "the WAL is empty", func() bool { // an outage may just be putting Buffered ops there
		return m.e.Stats().WALItems == 0 && m.e.Stats().WALBytes == 0
	})
	m.tiersAgree(t)
	m.readAll(t)
	m.reopen(t)
	m.readAll(t)
	if err := m.e.Close(); err != nil {
		t.Fatalf("Close at rest: %v", err)
	}
	m.cfg.L2, m.cfg.WALPath = nil, m.cfg.Dir+"/other.db"
	m.open(t)
	m.readAll(t)
	if n := m.e.Stats().L3Misses + m.e.Stats().L3Hits; n == 0 {
		t.Fatalf("an engine on L3 alone did not ask it: %+v", m.e.Stats())
	}
	if err := m.e.Shutdown(ctx); err != nil {
		t.Fatalf("Shutdown at rest: %v", err)
	}
}

func (m *machine) readAll(t *rapid.T) {
	ids := slices.Concat(plainIDs, numberedIDs)
	for _, id := range ids {
		it, err := m.e.Get(context.Background(), id)
		m.judge(t, "Get at rest", id, it.Content, err)
	}
	m.getTheseMany(t, ids)
}

// tiersAgree looks into the stores.
func (m *machine) tiersAgree(t *rapid.T) {
	m.until(t, "what has expired is purged", func() bool {
		due, err := m.l3.(syncengine.ExpiringStore).Expired(context.Background(), time.Now(), 1)
		return err == nil && len(due) == 0 && m.e.Stats().L2Missed == 0
	})
	rows, err := lab.ArchiveOf(context.Background(), m.l3)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range slices.Sorted(maps.Keys(m.held)) {
		if rec := rows[id]; string(rec.Content) != m.held[id].now {
			t.Fatalf("L3 holds %.40s of %s, want %.40s", rec.Content, id, m.held[id].now)
		}
	}
	if m.l2 == nil {
		return
	}
	copies, err := lab.CacheOf(context.Background(), m.l2)
	if err != nil {
		t.Fatal(err)
	}
	for id, rec := range copies {
		row := rows[id]
		if !rec.ExpiresAt.IsZero() && !rec.ExpiresAt.After(time.Now()) { // a cache may drop it, and need not
			rec = syncengine.Record{Item: syncengine.Item{ID: id, Version: rec.Version, UpdatedAt: rec.ExpiresAt}, Deleted: true}
		}
		field := storetest.Diff(&rec, &row)
		switch {
		case rec.Compare(&row) == 0 && slices.Contains(numberedIDs, id): // an op repeated at another time: L3 keeps the first, L2 the second
		case rec.Deleted && row.Deleted && rec.Version < row.Version: // the id is as absent as by the newer one
		case field != "":
			t.Fatalf("L2 differs from L3 in %s of %s: version %d (deleted %v), L3 has %d (deleted %v)",
				field, id, rec.Version, rec.Deleted, row.Version, row.Deleted)
		}
	}
}
