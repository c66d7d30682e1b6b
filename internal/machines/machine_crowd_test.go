package machines

// machine_crowd_test.go drives an engine by several goroutines at once: writes of all kinds at
// all levels, some whose caller leaves, on an L3 that refuses some ops, is away, or loses its
// replies; ops are retried and discarded meanwhile; and the engine is closed and opened, or its
// process ends in the middle. Beside it stands a plain map.
//
// Each goroutine has ids of its own, so that for each id there is an order of ops, and one
// counter that all increment. Of an id the map holds what reads may answer: after an accepted op
// that op alone; with an op whose fate its caller can't know, either; after a discard anything
// that came before, but never what was discarded.
//
// A crash is an image of the directory, with L3 in it, taken while no transaction can commit on
// either file: all that a kill leaves, at any moment.

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
)

const (
	crowdSize = 3 // goroutines
	crowdIDs  = 3 // of each
)

// crowd is one engine after another, and who uses it.
type crowd struct {
	root    string
	dir     string // of the engine that is open; a crash moves on to another
	images  int
	private bool
	cfg     syncengine.Config
	store   syncengine.ArchiveStore // what is around it; nil when L3 is private
	e       *syncengine.Engine

	mode    atomic.Int32 // of L3, when it is not private
	wasAway bool         // when the round began: an attempt from then may fail still
	muted   atomic.Bool  // since the last rest L3 may hold ops that the engine does not know it took
	over    atomic.Bool  // the image of a crash may be taken: what ends from here on is uncertain
	users   []*crowdUser

	mu     sync.Mutex
	faults []string

	counted, maybe atomic.Int64 // increments that are certain, and others of this engine
	before         int64        // others of engines before
}

const (
	l3There int32 = iota
	l3Away
	l3Mute // makes calls that write, and loses the replies
)

// crowdUser is one goroutine's ids, and its script for a round.
type crowdUser struct {
	c      *crowd
	ids    []string
	held   map[string]*fate
	script []crowdStep
	n      int
	story  []string // what happened to its ids
}

func (u *crowdUser) tell(format string, args ...any) {
	u.story = append(u.story, fmt.Sprintf(format, args...))
}

func (u *crowdUser) wrong(format string, args ...any) {
	u.c.wrong("%s\n  %s", fmt.Sprintf(format, args...), strings.Join(u.story[max(0, len(u.story)-12):], "\n  "))
}

// fate is what is known of an id.
type fate struct {
	may     []string        // contents that a read may answer, "" for none
	back    []string        // contents that a crash may leave: Buffered ops count from the last durable one on
	since   []string        // what was written since it was known what L3 holds, and that
	tainted map[string]bool // refused, or in a group with what is
	open    bool            // an op whose caller has left may still be on its way into the WAL
	ghosts  []string        // of calls of GetOrInsertWith that nobody waits for, and that may yet come
}

// mayHold reports whether a read may answer content.
func (f *fate) mayHold(content string) bool {
	return slices.Contains(f.may, content) || slices.Contains(f.ghosts, content)
}

func (f *fate) String() string { return fmt.Sprintf("%q (and perhaps %q)", f.may, f.ghosts) }

// holds reports whether that is all a read may answer.
func (f *fate) holds(content string) bool {
	return len(f.ghosts) == 0 && slices.Equal(f.may, []string{content})
}

type crowdStep struct {
	call       string
	id, other  int
	durability syncengine.Durability
	poison     bool
	leave      int // after how many microseconds the caller leaves; 0: never
}

var crowdCalls = []string{"submit", "submit", "delete", "group", "insert", "unchanged", "update", "make", "count", "count", "get", "get", "flush", "retry", "discard"}

func drawSteps(t *rapid.T) []crowdStep {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) crowdStep {
		return crowdStep{
			call: rapid.SampledFrom(crowdCalls).Draw(t, "call"),
			id:   rapid.IntRange(0, crowdIDs-1).Draw(t, "id"), other: rapid.IntRange(0, crowdIDs-1).Draw(t, "other"),
			durability: syncengine.Durability(rapid.IntRange(0, 3).Draw(t, "durability")),
			poison:     rapid.IntRange(0, 3).Draw(t, "poison") == 0,
			leave:      rapid.SampledFrom([]int{0, 0, 0, 1, 50, 300, 2000}).Draw(t, "leave"),
		}
	}), 1, 12).Draw(t, "script")
}

func (c *crowd) wrong(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults = append(c.faults, fmt.Sprintf(format, args...))
}

func (c *crowd) check(t *rapid.T) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.faults) > 0 {
		t.Fatal(strings.Join(c.faults, "\n"))
	}
}

// around is in front of an L3 that is not private.
func (c *crowd) around(_ context.Context, _, call string, do func() error) error {
	switch c.mode.Load() {
	case l3Away:
		return lab.ErrAway
	case l3Mute:
		if call == "Apply" || call == "ApplyIf" {
			if err := do(); err != nil {
				return err
			}
			return lab.ErrAway
		}
	}
	return do()
}

func (c *crowd) archive() string { return filepath.Join(c.dir, "archive.db") }

func (c *crowd) open(t *rapid.T) {
	c.cfg.Dir = c.dir
	if !c.private {
		store, err := lab.OpenSQLStore("sqlite:" + c.archive())
		if err != nil {
			t.Fatal(err)
		}
		c.store = store
		c.cfg.L3 = &lab.AroundArchive{In: store, Fn: c.around}
	}
	e, err := syncengine.Open(context.Background(), c.cfg)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	c.e = e
	c.before += c.maybe.Swap(0)
	for _, u := range c.users {
		u.tell("opened")
	}
}

// shut closes the engine, which may have work left if L3 is not there.
func (c *crowd) shut(t *rapid.T) {
	err := c.e.Close()
	if err != nil && (c.mode.Load() == l3There && !c.wasAway || !errors.Is(err, syncengine.ErrPending)) {
		t.Fatalf("Close: %v", err)
	}
	if c.store != nil {
		if err := c.store.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// raw is a connection of its own to a file of the engine's.
func raw(t *rapid.T, file string) *sql.DB {
	db, err := sql.Open("sqlite", "file:"+file+"?_pragma=busy_timeout(30000)&_txlock=immediate")
	if err != nil {
		t.Fatal(err)
	}
	return db
}

// refuse makes L3 refuse poison, or take it.
func (c *crowd) refuse(t *rapid.T, yes bool) {
	db := raw(t, c.archive())
	defer func() { _ = db.Close() }()
	for _, when := range []string{"INSERT", "UPDATE"} {
		text := "DROP TRIGGER IF EXISTS refuse_" + when
		if yes {
			text = "CREATE TRIGGER IF NOT EXISTS refuse_" + when + " BEFORE " + when + ` ON sync_items
				WHEN instr(NEW.content, CAST('poison' AS BLOB)) > 0 BEGIN SELECT RAISE(ABORT, 'poison'); END`
		}
		if _, err := db.Exec(text); err != nil {
			t.Fatal(err)
		}
	}
}

// image copies what a kill leaves.
func (c *crowd) image(t *rapid.T) {
	c.over.Store(true)
	c.images++
	left := filepath.Join(c.root, "image-"+strconv.Itoa(c.images))
	err := os.Mkdir(left, 0o700)
	if err == nil {
		err = lab.Image(c.dir, left, "wal.db", "archive.db")
	}
	if err != nil {
		t.Fatal(err)
	}
	c.dir = left
}

// round lets all users go through a script, and something happen meanwhile.
func (c *crowd) round(t *rapid.T) {
	for _, u := range c.users {
		u.script = drawSteps(t)
	}
	mode := rapid.SampledFrom([]int32{l3There, l3There, l3Away, l3Mute}).Draw(t, "L3")
	c.wasAway = c.mode.Load() != l3There
	then := rapid.SampledFrom([]string{"nothing", "close", "crash", "crash amid"}).Draw(t, "then")
	at := rapid.IntRange(0, 10).Draw(t, "L3 changes after steps")
	var steps atomic.Int64
	var wg sync.WaitGroup
	for _, u := range c.users {
		wg.Go(func() {
			for _, s := range u.script {
				if c.over.Load() {
					return
				}
				if int(steps.Add(1)) == at && !c.private {
					if mode == l3Mute {
						c.muted.Store(true)
					}
					c.mode.Store(mode)
				}
				u.do(s)
			}
		})
	}
	if then == "crash amid" {
		c.image(t)
	}
	wg.Wait()
	if then == "crash" {
		c.image(t)
	}
	c.check(t)
	if then != "nothing" {
		was := c.mode.Load()
		crash := strings.HasPrefix(then, "crash")
		for _, u := range c.users {
			u.ended(crash)
		}
		if crash {
			c.mode.Store(l3Away) // the one before does no more
		}
		c.shut(t)
		if rapid.IntRange(0, 3).Draw(t, "L3 is as it was") > 0 {
			was = l3There // else opening takes L3Timeout
		}
		c.mode.Store(was)
		c.over.Store(false)
		c.open(t)
	}
	for _, u := range c.users {
		u.look()
	}
	c.check(t)
}

// rest ends the outage, waits for all that waits, and settles what was open.
func (c *crowd) rest(t *rapid.T) {
	ctx := context.Background()
	c.mode.Store(l3There)
	deadline := time.Now().Add(30 * time.Second)
	var err error
	var ops []syncengine.QuarantinedOp
	for {
		err = c.e.Flush(ctx)
		over := time.Now().After(deadline)
		if err != nil && !errors.Is(err, syncengine.ErrRefused) {
			if over {
				t.Fatalf("Flush: %v; %+v", err, c.e.Stats())
			}
			continue
		}
		var lerr error
		if ops, lerr = c.e.Quarantined(ctx); lerr != nil {
			t.Fatalf("Quarantined: %v", lerr)
		}
		wanted := slices.DeleteFunc(slices.Clone(ops), func(op syncengine.QuarantinedOp) bool { return op.Superseded })
		if n := c.e.Stats().Quarantined; n == len(ops) && len(wanted) > 0 == (err != nil) {
			break
		} else if over || n == len(ops) && !c.late(wanted) { // else one came between the list and the count
			t.Fatalf("Flush: %v, with %+v in quarantine, counted %d", err, ops, n)
		}
	}
	c.places(t)
	c.muted.Store(false)
	for _, u := range c.users {
		u.tell("at rest: %v", err)
		u.settle(ops)
	}
	c.check(t)
	c.count(t)
}

// places checks that quarantine, and nothing else, has places in the account of the WAL.
func (c *crowd) places(t *rapid.T) {
	for start := time.Now(); ; time.Sleep(time.Millisecond) {
		_ = c.e.Flush(context.Background()) // ops whose callers have left may come, and be refused
		s, p := c.e.Stats(), c.e.MemoryPressure()
		places := math.Round(p * 1e6) // of WALMaxItems, more than of WALMaxBytes
		if s.WALItems == 0 && s.WALBytes == 0 && places == float64(s.Quarantined) {
			return
		}
		if time.Since(start) > 10*time.Second {
			t.Fatalf("at rest: WALItems %d, WALBytes %d, %d in quarantine, pressure %g", s.WALItems, s.WALBytes, s.Quarantined, p)
		}
	}
}

// count compares the counter with what was acknowledged.
func (c *crowd) count(t *rapid.T) {
	it, err := c.e.Get(context.Background(), "counter")
	n := 0
	switch {
	case err == nil:
		n, err = strconv.Atoi(string(it.Content))
	case errors.Is(err, syncengine.ErrNotFound):
		err = nil
	case errors.Is(err, syncengine.ErrUnavailable) && !c.private: // the engine may not know yet that L3 is back
		return
	}
	sure, maybe := c.counted.Load(), c.maybe.Load()
	more := int64(n) - sure
	if err != nil || more < 0 || more > c.before+maybe {
		t.Fatalf("the counter is %d, %v; acknowledged are %d, unknown %d", n, err, sure, c.before+maybe)
	}
	c.counted.Store(int64(n))
	c.maybe.Store(min(maybe, c.before+maybe-more)) // those may still come
	c.before = 0
}

func (u *crowdUser) content(poison bool) string {
	u.n++
	kind := "good"
	if poison {
		kind = "poison"
	}
	return fmt.Sprintf(`{"%s":"%s","n":%d}`, kind, u.ids[0], u.n)
}

// wrote notes what became of an op, by the error of its call.
func (u *crowdUser) wrote(s *crowdStep, what, id, content string, err error, tainted bool) {
	f := u.held[id]
	u.tell("%s %s %s at %d: %v (may be over: %v)", what, id, content, s.durability, err, u.c.over.Load())
	if tainted {
		f.tainted[content] = true
	}
	decided := slices.Contains([]string{"insert", "unchanged", "update", "make"}, what)
	d := s.durability
	if d == syncengine.DefaultDurability {
		d = u.c.cfg.Durability
	}
	switch {
	case err == nil && !u.c.over.Load():
		f.wrote(content, d == buffered && (u.c.private || !decided))
	case err == nil, errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded), errors.Is(err, syncengine.ErrUnknownOutcome):
		f.open = true
		f.may, f.back, f.since = append(f.may, content), append(f.back, content), append(f.since, content)
	case errors.Is(err, syncengine.ErrBackpressure), errors.Is(err, syncengine.ErrClosed):
	case errors.Is(err, syncengine.ErrUnavailable) && u.c.private:
		u.wrong("%s of %s: %v, though L3 is there", what, id, err)
	case decided && (errors.Is(err, syncengine.ErrUnavailable) || errors.Is(err, syncengine.ErrConflict)):
	case decided && u.c.private && d == archived && tainted && errors.Is(err, syncengine.ErrRefused): // what came before is in quarantine, or this
		f.may, f.back, f.since = append(f.may, content), append(f.back, content), append(f.since, content)
	case decided && errors.Is(err, syncengine.ErrRefused):
		if !tainted && !slices.ContainsFunc(f.may, func(c string) bool { return f.tainted[c] }) {
			u.wrong("%s of %s: %v; it may hold %s", what, id, err, f)
		}
	case errors.Is(err, syncengine.ErrUnavailable) && d == archived, errors.Is(err, syncengine.ErrRefused) && tainted && d == archived: // it is in the WAL, or in quarantine
		if f.wrote(content, false); u.c.over.Load() { // but perhaps not in the image
			f.loosen()
		}
	default:
		u.wrong("%s of %s (poison %v): %v", what, id, tainted, err)
	}
}

func (f *fate) wrote(content string, soft bool) {
	f.may, f.since = []string{content}, append(f.since, content)
	if !soft {
		f.back = nil
	}
	f.back = append(f.back, content)
}

// loosen says that only so much is known.
func (f *fate) loosen() { f.may, f.back = slices.Clone(f.since), slices.Clone(f.since) }

func (u *crowdUser) do(s crowdStep) {
	ctx := context.Background()
	if s.leave > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(s.leave)*time.Microsecond)
		defer cancel()
	}
	e, id := u.c.e, u.ids[s.id]
	f := u.held[id]
	d := syncengine.WithDurability(s.durability)
	switch s.call {
	case "submit":
		content := u.content(s.poison)
		u.wrote(&s, s.call, id, content, e.Submit(ctx, syncengine.Item{ID: id, Content: []byte(content)}, d), s.poison)
	case "delete":
		u.wrote(&s, s.call, id, "", e.Delete(ctx, id, d), false)
	case "group":
		u.group(ctx, &s, id, u.ids[s.other])
	case "insert":
		content := u.content(s.poison)
		err := e.Insert(ctx, syncengine.Item{ID: id, Content: []byte(content)}, d)
		if errors.Is(err, syncengine.ErrExists) && f.holds("") || err == nil && !f.mayHold("") {
			u.wrong("Insert of %s: %v; it may hold %s", id, err, f)
		}
		u.wrote(&s, s.call, id, content, err, s.poison)
	case "unchanged":
		it, err := e.Get(context.Background(), id)
		if err != nil {
			return
		}
		content := u.content(s.poison)
		was := string(it.Content)
		it.Content = []byte(content)
		err = e.Submit(ctx, it, d, syncengine.IfUnchanged())
		if errors.Is(err, syncengine.ErrConflict) && f.holds(was) {
			u.wrong("Submit of unchanged %s: %v; nobody else writes it", id, err)
		}
		u.wrote(&s, s.call, id, content, err, s.poison)
	case "update":
		content := u.content(s.poison)
		_, err := e.Update(ctx, id, func(cur syncengine.Item, exists bool) (syncengine.Item, error) {
			if !f.mayHold(string(cur.Content)) || exists != (len(cur.Content) > 0) {
				u.wrong("Update of %s is given %s (%v); it may hold %s", id, cur.Content, exists, f)
			}
			cur.Content = []byte(content)
			return cur, nil
		}, d)
		u.wrote(&s, s.call, id, content, err, s.poison)
	case "make":
		u.makeItem(ctx, &s, id)
	case "count":
		_, err := e.Update(ctx, "counter", lab.Increment, syncengine.WithDurability(syncengine.Logged))
		switch {
		case err == nil && !u.c.over.Load():
			u.c.counted.Add(1)
		case err == nil, errors.Is(err, context.DeadlineExceeded), errors.Is(err, syncengine.ErrUnknownOutcome):
			u.c.maybe.Add(1)
		case errors.Is(err, syncengine.ErrUnavailable) && !u.c.private, errors.Is(err, syncengine.ErrBackpressure), errors.Is(err, syncengine.ErrClosed):
		default:
			u.wrong("Update of the counter: %v", err)
		}
	case "get":
		u.judge(id)
	case "flush":
		u.tell("flush: %v", e.Flush(ctx))
	case "retry":
		n, err := e.RetryQuarantined(ctx, id)
		u.tell("retry %s: %d, %v", id, n, err)
		if err != nil && u.c.private && ctx.Err() == nil {
			u.wrong("RetryQuarantined(%s): %v", id, err)
		}
	case "discard":
		u.discard(ctx, id)
	}
}

func (u *crowdUser) group(ctx context.Context, s *crowdStep, id, other string) {
	if id == other {
		return
	}
	one, two := u.content(s.poison), u.content(false)
	_, err := u.c.e.SubmitMany(ctx, []syncengine.Item{{ID: id, Content: []byte(one)}, {ID: other, Content: []byte(two)}}, syncengine.WithDurability(s.durability))
	u.wrote(s, s.call, id, one, err, s.poison)
	u.wrote(s, s.call, other, two, err, s.poison)
}

func (u *crowdUser) makeItem(ctx context.Context, s *crowdStep, id string) {
	f := u.held[id]
	content := u.content(s.poison)
	var called atomic.Bool
	it, err := u.c.e.GetOrInsertWith(ctx, id, func(context.Context) (syncengine.Item, error) {
		called.Store(true)
		return syncengine.Item{Content: []byte(content)}, nil
	})
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		u.tell("make %s %s: %v", id, content, err)
		f.ghosts = append(f.ghosts, content)
		f.tainted[content] = s.poison
	case called.Load() && !f.mayHold(""):
		u.wrong("GetOrInsertWith calls the factory; %s may hold %s", id, f)
	case called.Load() && (err != nil || string(it.Content) == content): // else an op of before came first
		s.durability = syncengine.DefaultDurability
		u.wrote(s, s.call, id, content, err, s.poison)
	case err == nil && !f.mayHold(string(it.Content)):
		u.wrong("GetOrInsertWith answers %s; %s may hold %s", it.Content, id, f)
	}
}

// judge decides on a read.
func (u *crowdUser) judge(id string) {
	it, err := u.c.e.Get(context.Background(), id)
	f := u.held[id]
	switch {
	case errors.Is(err, syncengine.ErrUnavailable) && u.c.mode.Load() != l3There, errors.Is(err, syncengine.ErrBackpressure):
	case err != nil && !errors.Is(err, syncengine.ErrNotFound):
		if u.c.private || !errors.Is(err, syncengine.ErrUnavailable) { // else the engine may not know yet that L3 is back
			u.wrong("Get of %s: %v", id, err)
		}
	case !f.mayHold(string(it.Content)):
		u.wrong("Get of %s answers %q, it may hold %s", id, it.Content, f)
	}
}

// ended notes that the engine is no more.
func (u *crowdUser) ended(crash bool) {
	u.tell("ended, by a crash: %v", crash)
	for _, f := range u.held {
		f.may, f.back, f.since = append(f.may, f.ghosts...), append(f.back, f.ghosts...), append(f.since, f.ghosts...)
		f.ghosts, f.open = nil, false
		if crash {
			f.may = append(f.may, f.back...)
		}
	}
}

func (u *crowdUser) look() {
	for _, id := range u.ids {
		u.judge(id)
	}
}

// quarantined returns what is in quarantine of an id, with its groups.
func (u *crowdUser) quarantined(id string) (mine []syncengine.QuarantinedOp) {
	list, err := u.c.e.Quarantined(context.Background())
	if err != nil && !errors.Is(err, syncengine.ErrClosed) {
		u.wrong("Quarantined: %v", err)
	}
	for _, op := range list {
		if op.ID == id || slices.Contains(op.GroupIDs, id) {
			mine = append(mine, op)
		}
	}
	return mine
}

// discard discards what is in quarantine of an id, with its groups.
func (u *crowdUser) discard(ctx context.Context, id string) {
	mine := u.quarantined(id)
	n, err := u.c.e.DiscardQuarantined(ctx, id)
	u.tell("discard %s: %d, %v", id, n, err)
	if err != nil || n == 0 && u.c.over.Load() {
		return
	}
	for _, op := range mine {
		f := u.held[op.ID]
		gone := func(c string) bool { return c == string(op.Content) }
		if n == len(mine) && !u.c.over.Load() {
			if slices.ContainsFunc(f.may, gone) {
				f.loosen()
			}
			if slices.ContainsFunc(f.back, gone) {
				f.back = slices.Clone(f.since)
			}
			// Deletes have no name. L3 may hold what is superseded, and what it took and lost the
			// reply of: sent once more after a crash, and not refused any more.
			if !op.Deleted && !op.Superseded && !u.c.muted.Load() {
				f.may, f.back, f.since = slices.DeleteFunc(f.may, gone), slices.DeleteFunc(f.back, gone), slices.DeleteFunc(f.since, gone)
			}
		} else {
			f.loosen()
		}
	}
	if n > 0 && n != len(mine) { // some came meanwhile
		for _, id := range u.ids {
			u.held[id].loosen()
		}
	}
}

// settle reads all ids while nothing is under way: what is found is what is held.
func (u *crowdUser) settle(quarantined []syncengine.QuarantinedOp) {
	for _, id := range u.ids {
		u.judge(id)
		if slices.ContainsFunc(quarantined, func(op syncengine.QuarantinedOp) bool { return op.ID == id }) {
			continue
		}
		if it, err := u.c.e.Get(context.Background(), id); err == nil || errors.Is(err, syncengine.ErrNotFound) {
			f := u.held[id]
			if f.open {
				continue
			}
			now := string(it.Content)
			f.may, f.back, f.since = []string{now}, []string{now}, []string{now}
		}
	}
}

// atEnd takes all poison in, and compares the engine, its reopened self and L3.
func (c *crowd) atEnd(t *rapid.T) {
	c.rest(t)
	c.refuse(t, false)
	ctx := context.Background()
	before := c.e.Stats().Quarantined
	n, err := c.e.RetryQuarantined(ctx)
	for start := time.Now(); n == 0 && errors.Is(err, syncengine.ErrUnavailable) && time.Since(start) < 30*time.Second; {
		n, err = c.e.RetryQuarantined(ctx) // an engine with nothing to flush may rest before it has reached L3
	}
	if err != nil || n != before {
		t.Fatalf("RetryQuarantined at rest: %d of %d, %v", n, before, err)
	}
	for {
		err := c.e.Flush(ctx)
		if err == nil {
			break
		}
		// An op whose caller has left may come, and be refused, until L3 takes poison.
		late, lerr := c.e.Quarantined(ctx)
		if !errors.Is(err, syncengine.ErrRefused) || lerr != nil || !c.late(late) {
			t.Fatalf("Flush when all is taken: %v, with %+v in quarantine (%v)", err, late, lerr)
		}
		if n, err := c.e.RetryQuarantined(ctx); err != nil || n < len(late) {
			t.Fatalf("RetryQuarantined of %+v: %d, %v", late, n, err)
		}
	}
	c.rest(t)
	c.shut(t)
	for _, u := range c.users {
		u.ended(false)
	}
	c.open(t)
	c.rest(t)
	store, err := lab.OpenSQLStore("sqlite:" + c.archive())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = store.Close() }()
	rows, err := lab.ArchiveOf(ctx, store)
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range c.users {
		for _, id := range u.ids {
			if rec := rows[id]; string(rec.Content) != u.held[id].may[0] {
				t.Fatalf("L3 holds %q of %s, reads answer %q", rec.Content, id, u.held[id].may[0])
			}
		}
	}
}

// late reports whether all the ops are of calls that nobody waits for.
func (c *crowd) late(ops []syncengine.QuarantinedOp) bool {
	for _, op := range ops {
		for _, u := range c.users {
			if f, own := u.held[op.ID]; own && !f.open && !slices.Contains(f.ghosts, string(op.Content)) {
				return false
			}
		}
	}
	return len(ops) > 0
}

func runCrowd(t *rapid.T, root string, private bool) {
	c := &crowd{root: root, dir: filepath.Join(root, "first"), private: private}
	c.cfg = syncengine.Config{
		Durability:         syncengine.Durability(rapid.IntRange(0, 3).Draw(t, "Durability")),
		BatchFlushInterval: time.Duration(rapid.SampledFrom([]int64{1e6, 20e6, 3600e9}).Draw(t, "BatchFlushInterval")),
		BatchFlushCount:    rapid.SampledFrom([]int{1, 3, 1000}).Draw(t, "BatchFlushCount"),
		L1MaxAge:           time.Duration(rapid.SampledFrom([]int64{1, 3600e9}).Draw(t, "L1MaxAge")),
		L3Timeout:          5 * time.Second,
		WALNoSync:          true, // images are of a kill, not of a power loss
	}
	if !private {
		c.cfg.L3Timeout = time.Second
	}
	if err := os.Mkdir(c.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for g := range crowdSize {
		u := &crowdUser{c: c, held: make(map[string]*fate)}
		for i := range crowdIDs {
			id := fmt.Sprintf("own-%d-%d", g, i)
			u.ids = append(u.ids, id)
			u.held[id] = &fate{may: []string{""}, back: []string{""}, since: []string{""}, tainted: make(map[string]bool)}
		}
		c.users = append(c.users, u)
	}
	c.open(t)
	defer func() { // also after a fault
		_ = c.e.Close()
		if c.store != nil {
			_ = c.store.Close()
		}
	}()
	for c.e.Flush(context.Background()) != nil || c.e.Stats().L3Down { // on a slow machine L3 may come late
		runtime.Gosched()
	}
	c.refuse(t, true)
	t.Repeat(map[string]func(*rapid.T){
		"round": c.round, "round (again)": c.round, "round (once more)": c.round,
		"rest":                  c.rest,
		"L3 refuses poison":     func(t *rapid.T) { c.refuse(t, true) },
		"L3 refuses no poison ": func(t *rapid.T) { c.refuse(t, false) },
	})
	c.atEnd(t)
}

func TestINV01ACrowdOnAnL3ThatRefusesLosesNothing(t *testing.T) {
	lab.Checks(t, 10)
	for name, private := range map[string]bool{"private": true, "shared": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root := t.TempDir()
			var n atomic.Int64
			rapid.Check(t, func(t *rapid.T) {
				dir := filepath.Join(root, strconv.FormatInt(n.Add(1), 10))
				if err := os.Mkdir(dir, 0o700); err != nil {
					t.Fatal(err)
				}
				runCrowd(t, dir, private)
			})
		})
	}
}
