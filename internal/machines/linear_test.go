package machines

// linear_test.go checks that calls are linearizable: that what all of them returned is what they
// would have returned one after the other, each at some moment between its begin and its end. On a
// private L3 that is so of everything. On a shared one it is of what is decided where the truth is
// (INV-14), and of what waits for L3 (Archived).
//
// Workers make calls on few ids for a moment, all with contents of their own; then the history of
// each id is checked, and other ids follow.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

// asked is what a call was asked for: write is its content, 0 for a delete; the id must hold want,
// if wants is set.
type asked struct {
	id          string
	call        string
	write, want int
	wants       bool
}

// said is what it returned: whether it wrote, and what was there when it was decided, if it told.
type said struct {
	wrote, told bool
	held        int
}

// register is the model: an id holds a number, 0 for nothing.
var register = porcupine.Model{
	Partition: func(history []porcupine.Operation) (out [][]porcupine.Operation) {
		of := make(map[string]int)
		for _, op := range history {
			id := op.Input.(asked).id
			at, ok := of[id]
			if !ok {
				at = len(out)
				of[id], out = at, append(out, nil)
			}
			out[at] = append(out[at], op)
		}
		return out
	},
	Init: func() any { return 0 },
	Step: func(state, in, out any) (bool, any) {
		held, q, r := state.(int), in.(asked), out.(said)
		if r.told && r.held != held || q.wants && r.wrote != (q.want == held) {
			return false, state
		}
		if r.wrote {
			return true, q.write
		}
		return true, state
	},
	DescribeOperation: func(in, out any) string { return fmt.Sprintf("%+v: %+v", in, out) },
}

// caller makes calls, and writes them down.
type caller struct {
	e       *syncengine.Engine
	n       int
	rng     *rand.Rand
	ids     []string
	private bool
	durable bool // nothing at Buffered
	numbers *atomic.Int64
	start   time.Time
	seen    map[string]syncengine.Item // what was read of an id last

	history []porcupine.Operation
}

func numberIn(it *syncengine.Item) int {
	var n int
	if len(it.Content) == 0 || json.Unmarshal(it.Content, &n) != nil {
		return 0
	}
	return n
}

var errDeclined = errors.New("declined")

func (c *caller) call(t *testing.T, ctx context.Context) {
	durability := syncengine.Archived
	if c.private {
		durability = []syncengine.Durability{syncengine.Buffered, syncengine.Logged, syncengine.Archived}[c.rng.IntN(3)]
	}
	if c.durable {
		durability = max(durability, syncengine.Logged)
	}
	at := syncengine.WithDurability(durability)
	q := asked{id: c.ids[c.rng.IntN(len(c.ids))], write: int(c.numbers.Add(1))}
	item := syncengine.Item{ID: q.id, Content: fmt.Append(nil, q.write)}
	seen := c.seen[q.id]
	var r said
	var err error
	began := time.Since(c.start)
	switch dice := c.rng.IntN(16); {
	case dice < 3:
		q.call, r.wrote = "put", true
		err = c.e.Submit(ctx, item, at)
	case dice < 5:
		q.call, q.write, r.wrote = "delete", 0, true
		err = c.e.Delete(ctx, q.id, at)
	case dice < 7:
		q.call, q.wants = "insert", true
		err = c.e.Insert(ctx, item, at)
		r.wrote = err == nil
	case dice < 9 && seen.Version != 0:
		q.call, q.wants, q.want = "put if unchanged", true, numberIn(&seen)
		item.Version = seen.Version
		err = c.e.Submit(ctx, item, at, syncengine.IfUnchanged())
		r.wrote = err == nil
	case dice < 10 && seen.Version != 0:
		q.call, q.wants, q.want, q.write = "delete if", true, numberIn(&seen), 0
		err = c.e.Delete(ctx, q.id, at, syncengine.WithIfVersion(seen.Version))
		r.wrote = err == nil
	case dice < 14 || !c.private:
		q.call = "update"
		var why error
		switch c.rng.IntN(5) {
		case 0:
			q.call, why = "decline", errDeclined
		case 1:
			q.call, why = "no change", syncengine.ErrNoChange
		}
		var it syncengine.Item
		it, err = c.e.Update(ctx, q.id, func(cur syncengine.Item, _ bool) (syncengine.Item, error) {
			r.told, r.held = true, numberIn(&cur)
			cur.Content = item.Content
			return cur, why
		}, at)
		if r.wrote = err == nil && why == nil; r.wrote {
			c.seen[q.id] = it
		}
	default:
		q.call, r.told = "get", true
		var it syncengine.Item
		it, err = c.e.Get(ctx, q.id)
		r.held, c.seen[q.id] = numberIn(&it), it
	}
	for _, fine := range []error{syncengine.ErrConflict, syncengine.ErrNotFound, errDeclined} {
		if errors.Is(err, fine) {
			err = nil
		}
	}
	if err != nil {
		t.Errorf("%s of %s: %v", q.call, q.id, err)
	}
	c.history = append(c.history, porcupine.Operation{ClientId: c.n, Input: q, Call: int64(began), Output: r, Return: int64(time.Since(c.start))})
}

// linear lets callers of engines work for a while, and checks.
func linear(t *testing.T, engines []*syncengine.Engine, private bool, during time.Duration) {
	const callers, calls = 6, 30
	ctx := lab.Bounded(t)
	seed := uint64(time.Now().UnixNano())
	var numbers atomic.Int64
	checked := 0
	for round, end := uint64(0), time.Now().Add(during); time.Now().Before(end) && !t.Failed(); round++ {
		var ids []string
		for n := range 3 {
			ids = append(ids, fmt.Sprintf("round-%d-%d", round, n))
		}
		var work sync.WaitGroup
		var all []*caller
		start := time.Now()
		for n := range callers {
			c := &caller{e: engines[n%len(engines)], n: n, rng: rand.New(rand.NewPCG(seed, round*callers+uint64(n))), ids: ids, private: private, numbers: &numbers, start: start, seen: make(map[string]syncengine.Item)}
			all = append(all, c)
			work.Go(func() {
				for range calls {
					c.call(t, ctx)
				}
			})
		}
		work.Wait()
		var history []porcupine.Operation
		for _, c := range all {
			history = append(history, c.history...)
		}
		checked += len(history)
		explained(t, history)
	}
	t.Logf("%d calls, seed %d", checked, seed)
}

// explained checks a history.
func explained(t *testing.T, history []porcupine.Operation) {
	t.Helper()
	if porcupine.CheckOperationsTimeout(register, history, 20*time.Second) != porcupine.Illegal {
		return
	}
	for _, of := range register.Partition(history) {
		if porcupine.CheckOperations(register, of) {
			continue
		}
		for _, op := range of {
			t.Logf("%d: %9d to %9d: %s", op.ClientId, op.Call, op.Return, register.DescribeOperation(op.Input, op.Output))
		}
	}
	t.Error("no order of these calls explains what they returned")
}

// TestINV14CallsOnAPrivateL3AreLinearizable whatever their durability.
func TestINV14CallsOnAPrivateL3AreLinearizable(t *testing.T) {
	for name, cfg := range map[string]syncengine.Config{
		"with room":    {BatchFlushInterval: 3 * time.Millisecond},
		"little room":  {BatchFlushInterval: time.Millisecond, L1MaxBytes: 64 << 10},
		"flushed late": {BatchFlushInterval: 200 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			linear(t, []*syncengine.Engine{lab.Open(t, cfg)}, true, 2*time.Second)
		})
	}
}

// TestINV14WhatIsDecidedInL3IsLinearizable, beside writes that wait for L3.
func TestINV14WhatIsDecidedInL3IsLinearizable(t *testing.T) {
	for name, with := range map[string]func(cfg *syncengine.Config){
		"without Redis": func(*syncengine.Config) {},
		"with Redis": func(cfg *syncengine.Config) {
			cfg.RedisURL, cfg.KeyPrefix = testserver.SharedRedis(t).URL(), "linear:"
		},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := syncengine.Config{SQLURL: testserver.SharedMariaDB(t).NewDatabase(t)}
			with(&cfg)
			engines := make([]*syncengine.Engine, 3)
			for n := range engines {
				engines[n] = lab.Open(t, cfg)
			}
			linear(t, engines, false, 3*time.Second)
		})
	}
}

// TestINV02WhatCallsReturnedHoldsAfterAKill: what the next engine answers is part of the history,
// but for ids of which a call was under way. Nobody else writes.
func TestINV02WhatCallsReturnedHoldsAfterAKill(t *testing.T) {
	for _, name := range []string{"private", "shared"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := lab.Bounded(t)
			cfg := syncengine.Config{Dir: t.TempDir(), BatchFlushInterval: 200 * time.Millisecond}
			if name != "private" {
				store, err := lab.OpenSQLStore("sqlite:" + filepath.Join(t.TempDir(), "shared.db"))
				lab.Must(t, err)
				t.Cleanup(func() { _ = store.Close() })
				cfg.L3 = store
			}
			var numbers atomic.Int64
			seed, start := uint64(time.Now().UnixNano()), time.Now()
			answers := 0
			for round := range uint64(8) {
				e, err := syncengine.Open(ctx, cfg)
				lab.Must(t, err)
				lab.Must(t, e.Flush(ctx)) // so that any call is possible
				var ids []string
				for n := range 60 {
					ids = append(ids, fmt.Sprintf("round-%d-%d", round, n))
				}
				var work sync.WaitGroup
				var over atomic.Bool
				all := make([]*caller, 6)
				for n := range all {
					c := &caller{e: e, n: n, rng: rand.New(rand.NewPCG(seed, round*100+uint64(n))), ids: ids, private: true, durable: true, numbers: &numbers, start: start, seen: make(map[string]syncengine.Item)}
					all[n] = c
					work.Go(func() {
						for !over.Load() {
							c.call(t, ctx)
						}
					})
				}
				time.Sleep(time.Duration(100+rand.IntN(100)) * time.Millisecond) // a kill comes at any time
				killed := int64(time.Since(start))
				over.Store(true)
				cfg.Dir = lab.Killed(t, cfg.Dir)
				work.Wait()
				lab.Must(t, e.Close())
				e, err = syncengine.Open(ctx, cfg)
				lab.Must(t, err)
				var history []porcupine.Operation
				unsure := make(map[string]bool)
				for _, c := range all {
					history = append(history, c.history...)
					if last := history[len(history)-1]; last.Return > killed {
						unsure[last.Input.(asked).id] = true
					}
				}
				for _, id := range ids {
					if unsure[id] {
						continue
					}
					began := time.Since(start)
					it, err := e.Get(ctx, id)
					if err != nil && !errors.Is(err, syncengine.ErrNotFound) {
						t.Error(err)
					}
					answers++
					history = append(history, porcupine.Operation{ClientId: len(all), Input: asked{id: id, call: "get after the kill"},
						Call: int64(began), Output: said{told: true, held: numberIn(&it)}, Return: int64(time.Since(start))})
				}
				explained(t, history)
				lab.Must(t, e.Close())
			}
			t.Logf("%d answers after kills, seed %d", answers, seed)
		})
	}
}
