package syncengine

// each.go writes many items that have nothing to do with each other: many at a time, so that they
// share commits, but each as an op of its own, so that what L3 refuses later takes no other with it
// (INV-9). Where L3 has to decide whether an item is stored, each is a question of its own, and
// many are answered by one transaction (decide.go): whatever share of the items are there
// already, an import of what is new costs no more. Where the log decides they are groups, since
// each item would be a commit of its own; a group that fails for one item is written again in
// halves. What is full is waited for. State is that of the call.

import (
	"context"
	"errors"
	"iter"
	"math/rand/v2"
	"time"
)

const (
	eachGroup  = 1000 // items of a group, where the config allows that many
	eachErrors = 100  // errors that an EachResult keeps
)

// EachOptions are what SubmitEach tells of. The zero value tells of nothing.
type EachOptions struct {
	// Progress is called after each group with the result so far; Errors is not to be changed.
	// Total may have one item more than the others: it was read, and is the first of the next
	// group.
	Progress func(EachResult)
	// OnError is called with each item that was refused.
	OnError func(ItemError)
}

// EachResult counts what became of the items given to SubmitEach. Those that are neither in
// Succeeded nor in Failed are the ones that the error returned is about.
type EachResult struct {
	Total, Succeeded, Failed int
	Errors                   []ItemError // the first 100
}

// ItemError is why one item was refused.
type ItemError struct {
	Index int // of the item, from 0
	ID    string
	Err   error
}

// each is one call.
type each struct {
	e     *writer
	tell  EachOptions
	o     writeOptions
	r     EachResult
	c     *call
	index []int           // of the ops of c
	ids   map[string]bool // of them
	bytes int64
}

func (e *writer) SubmitEach(ctx context.Context, items iter.Seq[Item], tell EachOptions, opts ...WriteOption) (EachResult, error) {
	o, err := e.options("", opts)
	if err == nil && items == nil {
		err = missing("", "items")
	}
	if err != nil {
		return EachResult{}, err
	}
	most := max(1, min(eachGroup, int64(e.cfg.GroupMaxItems), e.cfg.WALMaxItems/10))
	room := min(e.cfg.GroupMaxBytes, e.cfg.L1MaxBytes/10, e.cfg.WALMaxBytes/10)
	s := &each{e: e, tell: tell, o: o}
	s.begin()
	for it := range items {
		if err := ctx.Err(); err != nil {
			return s.r, err
		}
		s.r.Total++
		if err := checkItem(&it, e.cfg.MaxItemBytes); err != nil {
			s.failed(s.r.Total-1, it.ID, err)
			continue
		}
		size := int64(len(it.ID)+len(it.Content)) + entryOverhead
		if n := len(s.c.ops); n > 0 && (int64(n) >= most || s.bytes+size > room || s.ids[it.ID]) {
			if err := s.flush(ctx); err != nil {
				return s.r, err
			}
		}
		if err := s.c.put(e, &it, &s.o); err != nil {
			s.failed(s.r.Total-1, it.ID, err)
			continue
		}
		s.index, s.ids[it.ID], s.bytes = append(s.index, s.r.Total-1), true, s.bytes+size
	}
	return s.r, s.flush(ctx)
}

func (s *each) begin() {
	s.c, s.index, s.ids, s.bytes = s.o.call(0), nil, make(map[string]bool), 0
}

// flush writes the group.
func (s *each) flush(ctx context.Context) error {
	if err := s.write(ctx, s.c, s.index); err != nil {
		return err
	}
	s.begin()
	if s.tell.Progress != nil {
		s.tell.Progress(s.r)
	}
	return nil
}

// write writes what was gathered, or parts of a group.
func (s *each) write(ctx context.Context, c *call, index []int) error {
	if !s.e.decided(c) || s.e.asks(c) {
		return s.singly(ctx, c, index)
	}
	err := s.patiently(ctx, func() error { return s.e.write(ctx, c) })
	switch {
	case err == nil:
		s.r.Succeeded += len(c.ops)
		return nil
	case !isOfItems(err):
		return err
	case errors.Is(err, ErrRefused) || len(c.ops) == 1: // what is refused is in quarantine, with its group
		for i, op := range c.ops {
			s.failed(index[i], op.item(), err)
		}
		return nil
	}
	all := make([]int, len(c.ops))
	for i := range all {
		all[i] = i
	}
	half := len(all) / 2
	if err := s.write(ctx, s.part(c, all[:half]), index[:half]); err != nil {
		return err
	}
	return s.write(ctx, s.part(c, all[half:]), index[half:])
}

// singly writes the ops of a call as if each was a call's only one.
func (s *each) singly(ctx context.Context, c *call, index []int) error {
	if len(c.ops) == 0 {
		return ctx.Err()
	}
	return s.patiently(ctx, func() error {
		became, left, err := s.e.writeSingly(ctx, c)
		for _, o := range became {
			if o.err == nil {
				s.r.Succeeded++
			} else {
				s.failed(index[o.at], c.ops[o.at].item(), o.err)
			}
		}
		if isFull(err) {
			again := make([]int, len(left))
			for i, at := range left {
				again[i] = index[at]
			}
			c, index = s.part(c, left), again
		}
		return err
	})
}

// writeSingly writes the ops of a call, each as a unit of its own, until one can't be written for
// no fault of its own: that is the error. When it is for want of room, left are the places of all
// ops that are not written for it. Of the others it returns what became of them, and calls nobody:
// it is a call that Close waits for, and the caller's functions may block, or close.
func (e *writer) writeSingly(ctx context.Context, c *call) (became []fate, left []int, err error) {
	if err := e.door.Enter(); err != nil {
		return nil, nil, err
	}
	defer e.door.Exit(ctx, &err)
	start, decided, admitted := e.news.Start(), e.decided(c), false
	if decided { // for all at once: who has some of it waits for nothing
		if err := e.enterLate(ctx, c); err != nil {
			return nil, nil, err
		}
		defer e.leave(c)
	}
	under, next := make([]sent, 0, len(c.ops)), 0
	for ; next < len(c.ops); admitted = true {
		u := sent{c: c.only(next)}
		if decided {
			err = e.beginToAsk(ctx, &u, admitted)
		} else if admitted {
			u.l, err = e.begin(ctx, u.c, e.pressure.AdmitMore)
		} else {
			u.l, err = e.begin(ctx, u.c, e.pressure.Admit)
		}
		if err != nil && !isOfItems(err) {
			break
		}
		if u.done() {
			e.news.Wrote(c.d, decided, start, err)
			became = append(became, fate{next, err})
			err = nil
		}
		under = append(under, u)
		next++
	}
	for i := range under {
		u := &under[i]
		if u.done() {
			continue
		}
		failed := e.end(ctx, u)
		if e.news.Wrote(c.d, decided, start, failed); failed == nil || isOfItems(failed) {
			became = append(became, fate{i, failed})
		} else {
			if isFull(failed) {
				left = append(left, i)
			}
			if err == nil || isFull(err) || errors.Is(failed, ErrUnknownOutcome) { // L3 may store some
				err = failed
			}
		}
	}
	for ; next < len(c.ops); next++ {
		left = append(left, next)
	}
	return became, left, err
}

// fate is what became of the op at a place of a call: nil, or an error of its own.
type fate struct {
	at  int
	err error
}

// sent is an op of writeSingly on its way: into the log, or before L3.
type sent struct {
	c *call
	l *logging
	q *question
}

func (u *sent) done() bool { return u.l == nil && u.q == nil }

// only is the call of one of a call's ops.
func (c *call) only(i int) *call {
	one := &call{ops: c.ops[i : i+1 : i+1], d: c.d, numbered: c.numbered}
	if c.want != nil {
		one.want = c.want[i : i+1]
	}
	return one
}

// beginToAsk puts an op before L3.
func (e *writer) beginToAsk(ctx context.Context, u *sent, admitted bool) error {
	u.c.kept = true
	if err := e.check(u.c); err != nil {
		return err
	}
	if !admitted {
		if err := e.admitIf(ctx); err != nil {
			return err
		}
	}
	e.noteViews(u.c)
	q, err := e.ask(ctx, u.c, 0)
	if err == nil {
		u.q = q
	}
	return err
}

// end waits for what becomes of an op.
func (e *writer) end(ctx context.Context, u *sent) error {
	if u.q != nil {
		return e.hear(ctx, u.c, u.q)
	}
	return e.await(ctx, u.l)
}

// isFull reports whether a write was refused for want of room.
func isFull(err error) bool {
	var full *BackpressureError
	return errors.As(err, &full)
}

// part is a call for the ops at some places of one that has failed.
func (s *each) part(c *call, places []int) *call {
	p := s.o.call(len(places))
	for _, i := range places {
		rec := c.ops[i].record()
		rec.Version = s.o.version
		p.ops = append(p.ops, newEntry(&rec))
		if c.want != nil {
			p.want = append(p.want, c.want[i])
		}
	}
	return p
}

// isOfItems reports whether a write failed for what it was to write. Other items may be taken.
func isOfItems(err error) bool {
	for _, of := range []error{ErrInvalidItem, ErrStaleVersion, ErrConflict, ErrKindMismatch, ErrFeatureNotBuilt, ErrRefused} {
		if errors.Is(err, of) {
			return true
		}
	}
	return false
}

// patiently writes, again while it is refused for want of room, until ctx ends.
func (s *each) patiently(ctx context.Context, write func() error) error {
	for try := 0; ; try++ {
		err := write()
		var full *BackpressureError
		if !errors.As(err, &full) || ctx.Err() != nil {
			return err
		}
		timer := time.NewTimer(rand.N(min(full.RetryAfter, 10*time.Millisecond<<min(try, 10)) + time.Millisecond))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return errors.Join(ctx.Err(), err)
		}
	}
}

func (s *each) failed(index int, id string, err error) {
	s.r.Failed++
	ie := ItemError{Index: index, ID: id, Err: err}
	if len(s.r.Errors) < eachErrors {
		s.r.Errors = append(s.r.Errors, ie)
	}
	if s.tell.OnError != nil {
		s.tell.OnError(ie)
	}
}
