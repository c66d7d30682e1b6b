package crash

// crash_child_test.go is the process that the crash tests kill: this test binary, started
// again with its orders in the environment. It writes puts, deletes and groups from eight
// goroutines, reads its own writes back, and says on its standard output what it does. Each
// line is one write to the pipe, before a call begins and after it returned, so the parent
// knows of every acknowledgement and of none that was not given, whenever the kill comes.
//
// One line each; a key is an id, or the name of a group of ids:
//
//	try KEY N put|del     value N, or a delete with the number N, is about to be submitted
//	ack KEY N safe|mem    it was acknowledged, at Logged or above, or Buffered
//	ref KEY N             it was refused, nothing was changed
//	mark M, safe M        what had been acknowledged before the mark is in L3 or in the WAL
//	closed                Close has returned: that goes for all
//	kill POINT            the child kills itself at this point, now
//	wrong TEXT            a read gave a wrong answer
//	ready, end            open; the end of a child that nobody killed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/failpoint"
	"github.com/syncengine-go/syncengine/internal/lab"
)

const (
	crashEnv     = "SYNCENGINE_CRASH_CHILD"
	crashWriters = 8
	crashOwn     = 6  // ids of each writer, which nobody else writes
	crashHot     = 5  // ids that all writers write
	crashGroups  = 4  // groups that all writers write
	crashMembers = 12 // ids of a group
	crashBad     = 3  // ids that L3 refuses, besides the group of which it refuses one
	badGroup     = "bad-group"
)

// What a child does.
const (
	doWrite   = ""        // writes until it is killed, or to the end of Steps
	doRecover = "recover" // opens and lets the WAL drain
	doClose   = "close"   // closes while the writers go on, after Steps answers
	doHurry   = "hurry"   // the same, with no time to flush anything
	doStay    = "stay"    // writes to the end of Steps, and stays
)

// crashConfig is what parent and child agree on.
type crashConfig struct {
	Dir, SQLURL, RedisURL string
	Durability            syncengine.Durability
	L1MaxBytes            int64
	FlushInterval         time.Duration

	Refuse   bool  // L3 refuses ids that begin with "bad-"
	Flaky    bool  // L3 takes no writes now and then
	AwayFrom int64 // from so many calls on L3 takes no writes; 0: never

	Do     string
	Steps  int64           // see Do
	Kill   failpoint.Point // the child kills itself there,
	KillAt int64           // when it comes by for the KillAt-th time
	First  int64           // the number of its first op
	Seed   uint64          // of its choices, together with First
}

// url is the URL of L3.
func (c *crashConfig) url() string {
	if c.SQLURL == "" {
		return "sqlite:" + c.Dir + "/archive.db"
	}
	return c.SQLURL
}

// engine returns the engine's config. With a fault to inject L3 is the same store as Open
// would make, behind a hook.
func (c *crashConfig) engine() (syncengine.Config, error) {
	cfg := syncengine.Config{
		Dir: c.Dir, SQLURL: c.SQLURL, RedisURL: c.RedisURL, Durability: c.Durability,
		BatchFlushInterval: c.FlushInterval, L1MaxBytes: c.L1MaxBytes,
	}
	if !c.Refuse && !c.Flaky && c.AwayFrom == 0 {
		return cfg, nil
	}
	store, err := lab.OpenSQLStore(c.url())
	if err != nil {
		return cfg, err
	}
	cfg.SQLURL, cfg.L3 = "", &lab.HookedArchive{ArchiveStore: store, OnApply: c.beforeApply()}
	return cfg, nil
}

// beforeApply is an apply hook that injects the faults of c. An outage is a row of calls,
// since the engine tries three times before it believes in one; the next is far off, since a
// batch with refused ops takes many calls and is repeated as a whole.
func (c *crashConfig) beforeApply() func(context.Context, []syncengine.Record) error {
	var calls atomic.Int64
	first := 1 + c.rng(crashWriters).Int64N(20)
	return func(_ context.Context, recs []syncengine.Record) error {
		n := calls.Add(1)
		if c.Flaky && (n-first)%200 >= 0 && (n-first)%200 < 4 || c.AwayFrom > 0 && n >= c.AwayFrom {
			return lab.ErrAway
		}
		for i := range recs {
			if c.Refuse && strings.HasPrefix(recs[i].ID, "bad-") {
				return &syncengine.RefusedError{Err: errors.New("a bad id")}
			}
		}
		return nil
	}
}

// rng is the source of choices of a child's nth goroutine.
func (c *crashConfig) rng(n int) *rand.Rand {
	return rand.New(rand.NewPCG(c.Seed, uint64(c.First)+uint64(n)))
}

// init turns this binary into the child when the parent asks for it.
func init() {
	if orders := os.Getenv(crashEnv); orders != "" {
		if err := runCrashChild(orders); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
}

// killAt installs the hook that ends this process in the middle of whatever runs into it.
func (c *crashConfig) killAt() error {
	self, err := os.FindProcess(os.Getpid())
	if err != nil || c.Kill == "" {
		return err
	}
	var hits atomic.Int64
	failpoint.SetHook(func(p failpoint.Point) {
		if p == c.Kill && hits.Add(1) == c.KillAt {
			lab.Say("kill %s", p)
			_ = self.Kill() // SIGKILL
			select {}       // not one instruction further
		}
	})
	return nil
}

func runCrashChild(orders string) error {
	var c crashConfig
	if err := json.Unmarshal([]byte(orders), &c); err != nil {
		return err
	}
	if err := c.killAt(); err != nil {
		return err
	}
	cfg, err := c.engine()
	if err != nil {
		return err
	}
	e, err := syncengine.Open(context.Background(), cfg)
	if err != nil {
		return err
	}
	lab.Say("ready")
	k := &crashChild{c: c, e: e, enough: make(chan struct{})}
	k.next.Store(c.First)
	switch c.Do {
	case doRecover:
		_ = e.Flush(context.Background())
	case doClose, doHurry:
		err = k.writeAndClose()
	default:
		err = k.write()
	}
	lab.Say("end")
	if c.Do == doStay && err == nil {
		select {}
	}
	return err
}

type crashChild struct {
	c             crashConfig
	e             *syncengine.Engine
	next, answers atomic.Int64
	enough        chan struct{} // closed after Steps answers, refusals too: they may be all there is in an outage
}

// write runs the writers to their end.
func (k *crashChild) write() error {
	var wg sync.WaitGroup
	errs := make([]error, crashWriters)
	for w := range crashWriters {
		wg.Go(func() { errs[w] = k.writer(w) })
	}
	if k.c.Durability == syncengine.Buffered {
		stop := make(chan struct{})
		defer close(stop)
		go k.marks(stop)
	}
	wg.Wait()
	return errors.Join(errs...)
}

// writeAndClose closes in the middle of the writers' work.
func (k *crashChild) writeAndClose() error {
	written := make(chan error, 1)
	go func() { written <- k.write() }()
	<-k.enough
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if k.c.Do == doHurry {
		cancel()
	}
	err := k.e.Shutdown(ctx)
	if err != nil && !errors.As(err, new(*syncengine.PendingError)) && !errors.Is(err, ctx.Err()) {
		return err
	}
	lab.Say("closed")
	return <-written
}

// marks says again and again what has become safe: after a Flush, or by what Stats tells of
// the oldest pending op, without making anything happen.
func (k *crashChild) marks(stop chan struct{}) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for m := 0; ; m++ {
		lab.Say("mark %d", m)
		marked := time.Now().UnixNano()
		flush := m%8 == 0
		safe := flush && k.e.Flush(context.Background()) == nil
		for !flush && !safe {
			select {
			case <-tick.C:
			case <-stop:
				return
			}
			now := time.Now().UnixNano()
			s := k.e.Stats()
			safe = s.PendingOps == 0 || now-int64(s.OldestPending) > marked
		}
		if safe {
			lab.Say("safe %d", m)
		}
		select {
		case <-tick.C:
		case <-stop:
			return
		}
	}
}

func (k *crashChild) closes() bool { return k.c.Do == doClose || k.c.Do == doHurry }

// crashWriter is one of the writers. It knows what its own ids must hold.
type crashWriter struct {
	*crashChild
	w   int
	own map[string]int64 // 0: deleted
	rng *rand.Rand
}

func (k *crashChild) writer(w int) error {
	cw := &crashWriter{k, w, make(map[string]int64), k.c.rng(w)}
	for n := int64(0); k.c.Steps == 0 || k.closes() || n < k.c.Steps; n++ {
		err := cw.step()
		if errors.Is(err, syncengine.ErrClosed) && k.closes() {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (k *crashWriter) step() error {
	deleted := k.rng.IntN(4) == 0
	switch d := k.rng.IntN(100); {
	case d < 20:
		return k.read()
	case d < 35:
		return k.op(fmt.Sprintf("hot-%d", k.rng.IntN(crashHot)), deleted)
	case d < 50:
		return k.op(fmt.Sprintf("group-%d", k.rng.IntN(crashGroups)), deleted)
	case d < 51 && k.c.Refuse && k.rng.IntN(2) == 0:
		return k.op(badGroup, deleted)
	case d < 51 && k.c.Refuse:
		return k.op(fmt.Sprintf("bad-%d", k.rng.IntN(crashBad)), deleted)
	}
	return k.op(k.ownID(), deleted)
}

// op submits one op of a key, and says so.
func (k *crashWriter) op(key string, deleted bool) error {
	n, kind, d := k.next.Add(1), "put", k.c.Durability
	if deleted {
		kind = "del"
	}
	switch odds := k.rng.IntN(50); {
	case odds == 0 && d == syncengine.Logged:
		d = syncengine.Archived
	case odds < 5:
		d = syncengine.Logged
	}
	lab.Say("try %s %d %s", key, n, kind)
	err := k.submit(key, n, deleted, d)
	if k.answers.Add(1) == k.c.Steps {
		defer close(k.enough)
	}
	switch {
	case d == syncengine.Archived && (errors.Is(err, syncengine.ErrUnavailable) || errors.Is(err, syncengine.ErrRefused)):
		// Not in L3, but in the WAL or in quarantine: acknowledged all the same.
	case errors.Is(err, syncengine.ErrBackpressure) || errors.Is(err, syncengine.ErrClosed):
		lab.Say("ref %s %d", key, n)
		if errors.Is(err, syncengine.ErrClosed) {
			return err
		}
		k.awaitRoom()
		return nil
	case err != nil:
		return fmt.Errorf("%s %s: %w", kind, key, err)
	}
	if d == syncengine.Buffered {
		lab.Say("ack %s %d mem", key, n)
	} else {
		lab.Say("ack %s %d safe", key, n)
	}
	if strings.HasPrefix(key, "own-") {
		if k.own[key] = n; deleted {
			k.own[key] = 0
		}
	}
	return nil
}

// awaitRoom waits, as a caller should, until the engine takes writes again. Writers that only
// end with the engine go on asking.
func (k *crashWriter) awaitRoom() {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !k.closes() && !k.e.Backpressure().AcceptsWrites() {
		<-tick.C
	}
}

func (k *crashWriter) submit(key string, n int64, deleted bool, d syncengine.Durability) (err error) {
	ctx, ids := context.Background(), crashIDsOf(key)
	opt := syncengine.WithDurability(d)
	switch {
	case len(ids) == 1 && deleted:
		err = k.e.Delete(ctx, key, opt)
	case len(ids) == 1:
		err = k.e.Submit(ctx, syncengine.Item{ID: key, Content: crashValue(n)}, opt)
	case deleted:
		_, err = k.e.DeleteMany(ctx, ids, opt)
	default:
		items := make([]syncengine.Item, len(ids))
		for i, id := range ids {
			items[i] = syncengine.Item{ID: id, Content: crashValue(n)}
		}
		_, err = k.e.SubmitMany(ctx, items, opt)
	}
	return err
}

// read looks whether an id of the writer's own holds what it wrote last (INV-2).
func (k *crashWriter) read() error {
	id := k.ownID()
	want, written := k.own[id]
	if !written {
		return nil
	}
	got, err := crashRead(k.e.Get(context.Background(), id))
	switch {
	case errors.Is(err, syncengine.ErrBackpressure):
	case k.c.AwayFrom > 0 && errors.Is(err, syncengine.ErrUnavailable): // the breaker of L3 is open: it is not a miss
	case err != nil:
		return fmt.Errorf("get %s: %w", id, err)
	case got != want:
		lab.Say("wrong answer: %s holds %d, want %d", id, got, want)
	}
	return nil
}

func (k *crashWriter) ownID() string { return fmt.Sprintf("own-%d-%d", k.w, k.rng.IntN(crashOwn)) }

// crashIDsOf returns the ids behind a key.
func crashIDsOf(key string) []string {
	if !strings.HasPrefix(key, "group-") && key != badGroup {
		return []string{key}
	}
	ids := make([]string, crashMembers)
	for i := range ids {
		ids[i] = fmt.Sprintf("member-%d-of-%s", i, key)
	}
	if key == badGroup {
		ids[crashMembers/2] = "bad-member"
	}
	return ids
}

// crashValue is the content of op n, of a length of its own.
func crashValue(n int64) []byte {
	return fmt.Appendf(nil, `{"n":%d,"pad":%q}`, n, strings.Repeat("x", 100+int(n%9)*100))
}

// crashRead returns the number of the op that wrote what Get answered, 0 for not found.
func crashRead(it syncengine.Item, err error) (int64, error) {
	if errors.Is(err, syncengine.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return crashNumber(it.Content)
}

func crashNumber(content []byte) (int64, error) {
	var v struct{ N int64 }
	if err := json.Unmarshal(content, &v); err != nil {
		return 0, err
	}
	if string(content) != string(crashValue(v.N)) {
		return 0, fmt.Errorf("content is none that was written: %.60s", content)
	}
	return v.N, nil
}
