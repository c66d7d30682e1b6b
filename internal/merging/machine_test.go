//go:build crdt

package merging

// machine_test.go draws what one engine is asked to do, and what becomes of its L3, and compares
// each answer with plain numbers. A second engine adds to the same items now and then. L3 is a
// SQLite file behind a gate that is shut, or that swallows replies: then what was written is
// there, and the engine can't know.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/crdt"
	"github.com/syncengine-go/syncengine/internal/lab"
)

// What a gate does.
const (
	gateOpen int32 = iota
	gateShut
	gateMute // calls that write are made, and fail
)

// gate is an L3 that can be away.
type gate struct {
	syncengine.MergingStore
	mode *atomic.Int32
	dead atomic.Bool // its engine was killed: nothing goes through any more
}

func (g *gate) shut() error {
	if g.dead.Load() || g.mode.Load() == gateShut {
		return lab.ErrAway
	}
	return nil
}

func (g *gate) answer(err error) error {
	if err == nil && g.mode.Load() == gateMute {
		return lab.ErrAway
	}
	return err
}

func (g *gate) Prepare(ctx context.Context) error {
	if err := g.shut(); err != nil {
		return err
	}
	return g.MergingStore.Prepare(ctx)
}

func (g *gate) Ping(ctx context.Context) error {
	if err := g.shut(); err != nil {
		return err
	}
	return g.MergingStore.Ping(ctx)
}

func (g *gate) Get(ctx context.Context, id string) (syncengine.Record, error) {
	if err := g.shut(); err != nil {
		return syncengine.Record{}, err
	}
	return g.MergingStore.Get(ctx, id)
}

func (g *gate) GetMany(ctx context.Context, ids []string) ([]syncengine.Found, error) {
	if err := g.shut(); err != nil {
		return nil, err
	}
	return g.MergingStore.GetMany(ctx, ids)
}

func (g *gate) ApplyMerges(ctx context.Context, recs []syncengine.Record) (above []syncengine.Meta, merged []syncengine.Record, err error) {
	if err := g.shut(); err != nil {
		return nil, nil, err
	}
	above, merged, err = g.MergingStore.ApplyMerges(ctx, recs)
	return above, merged, g.answer(err)
}

func (g *gate) ApplyIf(ctx context.Context, nonce uint64, units [][]syncengine.Conditional) ([]syncengine.Verdict, error) {
	if err := g.shut(); err != nil {
		return nil, err
	}
	verdicts, err := g.MergingStore.ApplyIf(ctx, nonce, units)
	if err == nil && g.mode.Load() == gateMute {
		return verdicts, fmt.Errorf("%w: %w", syncengine.ErrUnknownOutcome, lab.ErrAway)
	}
	return verdicts, err
}

type machine struct {
	root  string
	dirs  int
	nodes int // of states so far
	shaky bool
	cfg   syncengine.Config
	gate  *gate
	mode  atomic.Int32
	e     *syncengine.Engine
	other *syncengine.Engine
	want  map[string]int
	read  map[string]json.RawMessage // states since an id began
}

const none = -1 << 30

var machineIDs = []string{"a", "b", "c"}

func (m *machine) open(t *rapid.T, dir string, raw syncengine.ArchiveStore) {
	m.gate = &gate{MergingStore: raw.(syncengine.MergingStore), mode: &m.mode}
	m.cfg.Dir, m.cfg.L3 = dir, m.gate
	e, err := syncengine.Open(context.Background(), m.cfg)
	noError(t, err)
	m.e = e
}

func noError(t *rapid.T, err error) {
	if err != nil {
		t.Fatal(err)
	}
}

// away reports whether L3 may not answer: it is away, or was, and nobody has seen since that the
// engine knows it is back.
func (m *machine) away() bool {
	if m.mode.Load() != gateOpen {
		m.shaky = true
	}
	if h := m.e.Health(context.Background()); m.shaky && m.mode.Load() == gateOpen && h.L3.OK && h.L3.Circuit == "closed" && !m.e.Stats().L3Down {
		m.shaky = false
		return true // still for what was asked before
	}
	return m.shaky
}

func (m *machine) add(t *rapid.T) {
	id := rapid.SampledFrom(machineIDs).Draw(t, "id")
	by := rapid.IntRange(-3, 9).Draw(t, "by")
	d := rapid.SampledFrom([]syncengine.Durability{syncengine.Buffered, syncengine.Logged, syncengine.Archived}).Draw(t, "durability")
	it, err := m.e.Merge(context.Background(), id, "PNCounter", json.RawMessage(strconv.Itoa(by)), syncengine.WithDurability(d), priority(t))
	if err != nil && !(d == syncengine.Archived && errors.Is(err, syncengine.ErrUnavailable)) {
		t.Fatalf("Merge: %v", err)
	}
	if m.want[id] == none {
		m.want[id] = 0
	}
	m.want[id] += by
	if err == nil && it.Content != nil {
		m.judge(t, "Merge", id, it, nil)
	}
}

func priority(t *rapid.T) syncengine.WriteOption {
	return syncengine.WithPriority(rapid.SampledFrom([]syncengine.Priority{syncengine.PriorityLow, syncengine.PriorityNormal, syncengine.PriorityCritical}).Draw(t, "priority"))
}

// again submits a state that was read some time ago, which has nothing new.
func (m *machine) again(t *rapid.T) {
	id := rapid.SampledFrom(machineIDs).Draw(t, "id")
	if m.read[id] == nil {
		return
	}
	d := rapid.SampledFrom([]syncengine.Durability{syncengine.Buffered, syncengine.Logged}).Draw(t, "durability")
	noError(t, m.e.Submit(context.Background(), syncengine.Item{ID: id, CRDT: "PNCounter", Content: m.read[id]}, syncengine.WithDurability(d), priority(t)))
}

// given submits a state that was read, perhaps where merges wait, through the other engine.
func (m *machine) given(t *rapid.T) {
	id := rapid.SampledFrom(machineIDs).Draw(t, "id")
	if m.read[id] == nil {
		return
	}
	archived := syncengine.WithDurability(syncengine.Archived)
	noError(t, m.other.Submit(context.Background(), syncengine.Item{ID: id, CRDT: "PNCounter", Content: m.read[id]}, archived))
	for at := time.Now(); time.Since(at) < 2*time.Millisecond; { // what comes next is later
		time.Sleep(time.Millisecond)
	}
}

func (m *machine) judge(t *rapid.T, call, id string, it syncengine.Item, err error) {
	if errors.Is(err, syncengine.ErrUnavailable) && m.away() {
		return
	}
	got := none
	if !errors.Is(err, syncengine.ErrNotFound) {
		if err != nil {
			t.Fatalf("%s of %s: %v", call, id, err)
		}
		v, err := crdt.Value(crdt.KindPNCounter, it.Content)
		noError(t, err)
		got, err = strconv.Atoi(string(v))
		noError(t, err)
		m.read[id] = it.Content
	}
	if got != m.want[id] {
		t.Fatalf("%s of %s: %d, want %d", call, id, got, m.want[id])
	}
}

func (m *machine) get(t *rapid.T) {
	id := rapid.SampledFrom(machineIDs).Draw(t, "id")
	it, err := m.e.Get(context.Background(), id)
	m.judge(t, "Get", id, it, err)
	if m.want[id] != none && !m.e.Contains(id) {
		t.Fatalf("Contains denies %s", id)
	}
}

func (m *machine) getMany(t *rapid.T) {
	items, err := m.e.GetMany(context.Background(), machineIDs)
	if err != nil && !(errors.Is(err, syncengine.ErrUnavailable) && m.away()) {
		t.Fatal(err)
	}
	for i, id := range machineIDs {
		if items[i] != nil {
			m.judge(t, "GetMany", id, *items[i], nil)
		} else if err == nil {
			m.judge(t, "GetMany", id, syncengine.Item{}, syncengine.ErrNotFound)
		}
	}
}

func (m *machine) remove(t *rapid.T) {
	id := rapid.SampledFrom(machineIDs).Draw(t, "id")
	noError(t, m.e.Delete(context.Background(), id))
	m.want[id] = none
	delete(m.read, id)
}

// state merges a state that nobody else has.
func (m *machine) state(t *rapid.T) {
	id := rapid.SampledFrom(machineIDs).Draw(t, "id")
	m.nodes++
	node := fmt.Sprint("foreign-", m.nodes)
	content, err := crdt.Apply(crdt.KindPNCounter, nil, []byte("2"), crdt.Op{Node: node})
	noError(t, err)
	noError(t, m.e.Submit(context.Background(), syncengine.Item{ID: id, CRDT: "PNCounter", Content: content}))
	if m.want[id] == none {
		m.want[id] = 0
	}
	m.want[id] += 2
}

func (m *machine) update(t *rapid.T) {
	if m.away() {
		return
	}
	id := rapid.SampledFrom(machineIDs).Draw(t, "id")
	it, err := m.e.Update(context.Background(), id, func(cur syncengine.Item, exists bool) (syncengine.Item, error) {
		if exists != (m.want[id] != none) {
			t.Errorf("Update of %s: exists %v, want %d", id, exists, m.want[id])
		}
		var state []byte
		if exists {
			state = cur.Content
		}
		content, err := crdt.Apply(crdt.KindPNCounter, state, []byte("1"), crdt.Op{Node: "updates"})
		return syncengine.Item{CRDT: "PNCounter", Content: content}, err
	})
	if errors.Is(err, syncengine.ErrUnavailable) { // the circuit is open: nothing was sent
		return
	}
	noError(t, err)
	if m.want[id] == none {
		m.want[id] = 0
	}
	m.want[id]++
	m.judge(t, "Update", id, it, nil)
}

func (m *machine) flush(t *rapid.T) {
	if err := m.e.Flush(context.Background()); err != nil && !m.away() {
		t.Fatalf("Flush: %v", err)
	}
}

// others lets another engine add.
func (m *machine) others(t *rapid.T) {
	id := rapid.SampledFrom(machineIDs).Draw(t, "id")
	if m.away() || m.want[id] == none || m.e.Flush(context.Background()) != nil {
		return
	}
	archived := syncengine.WithDurability(syncengine.Archived)
	_, err := m.other.Merge(context.Background(), id, "PNCounter", json.RawMessage("5"), archived)
	noError(t, err)
	m.want[id] += 5
	for deadline := time.Now().Add(10 * time.Second); ; { // L1MaxAge passes
		it, err := m.e.Get(context.Background(), id)
		if errors.Is(err, syncengine.ErrUnavailable) && time.Now().Before(deadline) {
			continue
		}
		noError(t, err)
		v, err := crdt.Value(crdt.KindPNCounter, it.Content)
		noError(t, err)
		if string(v) == strconv.Itoa(m.want[id]) {
			return
		}
		if time.Now().After(deadline) {
			rec, err := m.gate.MergingStore.Get(context.Background(), id)
			t.Fatalf("%s is %s at %d, want %d; L3 has %s at %d, %v; the other superseded %d", id, v, it.Version, m.want[id], rec.Content, rec.Version, err, m.other.Stats().Superseded)
		}
		time.Sleep(time.Millisecond)
	}
}

func (m *machine) reopen(t *rapid.T, raw syncengine.ArchiveStore) {
	var pending *syncengine.PendingError
	if err := m.e.Close(); err != nil && !(m.away() && errors.As(err, &pending)) {
		t.Fatalf("Close: %v", err)
	}
	m.open(t, m.cfg.Dir, raw)
}

// crash goes on with a copy of the directory. What is in memory alone is lost: it is flushed, or
// logged by an outage, first.
func (m *machine) crash(t *rapid.T, raw syncengine.ArchiveStore) {
	if m.e.Flush(context.Background()) != nil {
		return // Buffered ones are on their way into the log
	}
	old := m.e
	m.dirs++
	to := filepath.Join(m.root, strconv.Itoa(m.dirs))
	noError(t, os.Mkdir(to, 0o700))
	m.gate.dead.Store(true)
	noError(t, lab.Image(m.cfg.Dir, to, "wal.db"))
	m.open(t, to, raw)
	_ = old.Close()
}

func TestINV02MergedItemsAreNumbersWhateverHappens(t *testing.T) {
	lab.Checks(t, 15)
	root := t.TempDir()
	var runs atomic.Int64
	rapid.Check(t, func(t *rapid.T) {
		dir := filepath.Join(root, strconv.FormatInt(runs.Add(1), 10))
		noError(t, os.MkdirAll(filepath.Join(dir, "0"), 0o700))
		url := "sqlite:" + filepath.Join(dir, "shared.db")
		raw, err := lab.OpenSQLStore(url)
		noError(t, err)
		defer func() { _ = raw.Close() }()
		noError(t, raw.Prepare(context.Background()))
		m := &machine{root: dir, want: make(map[string]int), read: make(map[string]json.RawMessage)}
		for _, id := range machineIDs {
			m.want[id] = none
		}
		m.cfg = syncengine.Config{
			BatchFlushInterval: rapid.SampledFrom([]time.Duration{time.Millisecond, 20 * time.Millisecond, time.Hour}).Draw(t, "BatchFlushInterval"),
			BatchFlushCount:    rapid.SampledFrom([]int{1, 2, 1000}).Draw(t, "BatchFlushCount"),
			FlushConcurrency:   rapid.IntRange(1, 3).Draw(t, "FlushConcurrency"),
			L1MaxBytes:         rapid.SampledFrom([]int64{1 << 20, 64 << 20}).Draw(t, "L1MaxBytes"),
			L1MaxAge:           100 * time.Millisecond, CloseTimeout: 500 * time.Millisecond,
		}
		m.open(t, filepath.Join(dir, "0"), raw)
		defer func() { _ = m.e.Close() }()
		otherDir := filepath.Join(dir, "other")
		m.other, err = syncengine.Open(context.Background(), syncengine.Config{Dir: otherDir, SQLURL: url})
		noError(t, err)
		defer func() { _ = m.other.Close() }()
		t.Repeat(map[string]func(*rapid.T){
			"add": m.add, "add (again)": m.add, "add (once more)": m.add, "a state": m.state, "a state again": m.again, "a state is given to the other": m.given, "get": m.get, "get (again)": m.get,
			"get many": m.getMany, "remove": m.remove, "update": m.update, "flush": m.flush, "another engine adds": m.others,
			"L3 goes or comes": func(t *rapid.T) {
				m.mode.Store(rapid.SampledFrom([]int32{gateOpen, gateOpen, gateShut, gateMute}).Draw(t, "gate"))
			},
			"close and open": func(t *rapid.T) { m.reopen(t, raw) },
			"crash and open": func(t *rapid.T) { m.crash(t, raw) },
		})
		m.mode.Store(gateOpen)
		deadline := time.Now().Add(20 * time.Second)
		for m.e.Flush(context.Background()) != nil {
			if time.Now().After(deadline) {
				t.Fatal("Flush does not succeed")
			}
			time.Sleep(time.Millisecond)
		}
		for _, id := range machineIDs {
			it, err := m.e.Get(context.Background(), id)
			for errors.Is(err, syncengine.ErrUnavailable) && time.Now().Before(deadline) { // the circuit closes by itself
				time.Sleep(time.Millisecond)
				it, err = m.e.Get(context.Background(), id)
			}
			m.judge(t, "Get at the end", id, it, err)
			if m.want[id] != none {
				it, err = m.other.Rebuild(context.Background(), id)
				m.judge(t, "Rebuild", id, it, err)
			}
		}
		if s := m.e.Stats(); s.PendingOps != 0 || s.WALItems != 0 || s.L1Pinned != 0 {
			t.Fatalf("at the end: %+v", s)
		}
	})
}
