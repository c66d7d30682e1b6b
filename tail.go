package syncengine

// tail.go follows what other engines write, by the log in L3 (l3log.go), so that it is seen within
// a beat or two whatever becomes of them and of Redis (INV-15): copies in memory below it are
// dropped, and copies in L2 below it are not believed. Where messages bring the same sooner
// (push.go), this finds nothing left to do.
//
// While the engine is alone there is nothing to follow. It only keeps its place near the end: from
// there it reads when others come, whom it notices before they write. But they may have gone again
// before it could read. So it goes to the end only if nobody came since it read last.
//
// # How far L2 is
//
// Beside the documents in L2 stands a place in the log: all up to there has reached L2. An engine
// that opens reads the log from that place on before it reads L2. So it knows what L2 lacks: of an
// engine that was killed between its commit and L2, or was cut off from L2, or has none, while
// nobody else was there. Each engine on that L2 moves the place on: to where it has read the log,
// once its own batches that were under way then have reached L2, and what it found lacking then was
// brought there. An L2 that is empty is at the end, and is given that place at once. One that holds
// copies and has no place is suspect: it has come back empty and was filled, and those that did
// that may have gone before they gave it one.
//
// One loop, "tail".

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/syncengine-go/syncengine/internal/changelog"
)

const (
	tailRows  = 64 // of the log, at once
	tailAlone = 10 // turns after which an engine alone looks where the log ends
)

// tail is that department.
type tail struct {
	archive *archive
	trust   *trust
	cache   *cache
	l1      *l1
	news    *news

	log    *logReader
	own    map[string]bool // names under which this engine has written
	turns  int
	read   uint64 // how often others had come when the log was read last, to its end
	alone  bool   // and that none was there then
	began  bool   // there may be copies in memory
	behind bool   // what L2 lacked before is not known yet
	next   *goal
}

// goal is a place that L2 has reached when all that was under way then is over.
type goal struct {
	place string
	since *writesUnderWay
}

func newTail(a *archive, t *trust, c *cache, mem *l1, news *news) *tail {
	return &tail{archive: a, trust: t, cache: c, l1: mem, news: news, own: make(map[string]bool)}
}

// On reports whether there is a log, and anything that others could make old.
func (t *tail) On() bool {
	return t.archive.KeepsLog() && (t.cache.On() || !t.archive.Private())
}

// Begin finds out what L2 lacks, before it is read.
func (t *tail) Begin(ctx context.Context) {
	if t.behind = t.cache.Places(); t.behind {
		// While L3 is away nobody can know better.
		t.cache.Withhold(func() bool { return t.archive.Ready() && !t.archive.Down() })
	}
	t.turn(ctx)
	t.began = true
}

// Run is the loop. What fails is tried again.
func (t *tail) Run(ctx context.Context) {
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		t.turn(ctx)
	}
}

// End moves the place in L2 to the end, when nothing is under way any more.
func (t *tail) End(ctx context.Context) {
	if !t.On() || !t.archive.Ready() || t.behind || !t.cache.Places() {
		return
	}
	t.turns, t.next = 0, nil
	t.turn(ctx)
	t.moveOn(ctx)
}

func (t *tail) turn(ctx context.Context) {
	if !t.archive.Ready() {
		return
	}
	t.own[t.archive.LogName()] = true
	if t.log == nil {
		log, err := t.archive.ReadLog(ctx)
		if err != nil {
			return
		}
		t.log = log
		if t.began {
			t.l1.Doubt() // of what was read before nobody knows
		}
	}
	if t.behind && t.catchUp(ctx) == nil {
		t.behind = false
		t.cache.Withhold(nil)
	}
	// One that was there when the log was read may have written since, and gone.
	ok, company, alone := false, t.trust.Company(), t.trust.Alone()
	if company == t.read && alone && t.alone {
		t.cache.LogRead() // there is nothing of others in it
		if t.turns++; t.turns%tailAlone == 1 {
			ok = t.skip(ctx)
		}
	} else if err := t.follow(ctx, t.log); errors.Is(err, errLogTrimmed) {
		t.log = nil
		t.cache.Suspect(ctx)
	} else if ok = err == nil; ok {
		t.read, t.alone = company, alone
		t.cache.LogRead()
	}
	if !t.behind && t.cache.Places() {
		t.moveOn(ctx)
		if ok && t.next == nil {
			t.next = &goal{t.log.Place(), t.cache.Mark()}
		}
	}
}

// skip goes to the end of the log if this engine was alone until then.
func (t *tail) skip(ctx context.Context) bool {
	log, err := t.archive.ReadLog(ctx)
	if err != nil || !t.trust.Alone() || t.trust.Company() != t.read {
		return false
	}
	t.log = log
	return true
}

// follow reads what there is.
func (t *tail) follow(ctx context.Context, log *logReader) error {
	for {
		rows, more, err := log.Next(ctx, tailRows, 0, 0)
		if err != nil {
			return err
		}
		for _, row := range rows {
			if !t.own[row.Engine] || log != t.log {
				t.outdate(row)
			}
			log.Done(row.Number)
		}
		if !more {
			return nil
		}
	}
}

// outdate makes what is known of ids older than what others have written.
func (t *tail) outdate(row logRow) {
	err := changelog.Read(row.Changes, func(c changelog.Change) bool {
		if c.Flags != loggedExpiry { // nobody needs to be told of that
			t.cache.Others(c.Key, c.Version) // first: who finds no copy reads L2
		}
		t.l1.Outdate(c.Key, c.Version)
		return true
	})
	if err != nil {
		t.l1.Doubt()
		t.news.Log().Error("a row of the log of changes can't be read", "row", row.Number)
	}
}

// catchUp reads the log from where L2 has reached.
func (t *tail) catchUp(ctx context.Context) error {
	place, err := t.cache.Place(ctx)
	if err == nil && place == "" {
		place, err = t.first(ctx)
	}
	if err != nil {
		return err
	}
	origin, number, _ := strings.Cut(place, "/")
	upTo, err := strconv.ParseInt(number, 10, 64)
	if err == nil {
		var log *logReader
		if log, err = t.archive.ReadLogAbove(ctx, origin, upTo); err == nil {
			err = t.follow(ctx, log)
		}
	}
	if errors.Is(err, errLogTrimmed) || errors.Is(err, strconv.ErrSyntax) || errors.Is(err, strconv.ErrRange) {
		t.cache.Suspect(ctx)
		return nil
	}
	return err
}

// first gives an L2 that has no place its first one, if it is empty, and returns it; else "", which
// is none. The log is looked at before L2: what comes there later was read later.
func (t *tail) first(ctx context.Context) (place string, err error) {
	log, err := t.archive.ReadLogSettled(ctx)
	if err != nil {
		return "", err
	}
	empty, err := t.cache.Empty(ctx)
	if err != nil || !empty {
		return "", err
	}
	return log.Place(), t.cache.SetPlace(ctx, log.Place())
}

// moveOn moves the place in L2, when it has reached one.
func (t *tail) moveOn(ctx context.Context) {
	if t.next != nil && t.cache.Reached(t.next.since) && t.cache.SetPlace(ctx, t.next.place) == nil {
		t.next = nil
	}
}
