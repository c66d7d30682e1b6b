package syncengine

// insert.go is get-or-insert: Get, then a factory, then Insert. What makes the last step right
// is in conditions.go: a write that came meanwhile, acknowledged or not, decides against it.

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

func (e *writer) GetOrInsertWith(ctx context.Context, id string, factory func(context.Context) (Item, error), opts ...WriteOption) (item Item, err error) {
	if err := checkID(id); err != nil {
		return Item{}, err
	}
	if factory == nil {
		return Item{}, missing(id, "factory")
	}
	o, err := e.options(id, opts)
	if err != nil {
		return Item{}, err
	}
	if o.conditional || o.version != 0 {
		return Item{}, &InvalidItemError{ID: id, Field: "options", Rule: "of GetOrInsertWith have no condition and no version: it inserts"}
	}
	if ent, ok := e.l1.Peek(id); ok && !ent.gone(e.now) && e.reader.Fresh(ent) {
		if item, err = e.reader.Get(ctx, id); !errors.Is(err, ErrNotFound) {
			return item, err
		}
	}
	if err := e.reader.Enter(ctx); err != nil {
		return Item{}, err
	}
	defer e.door.Exit(ctx, &err)
	if made, _ := ctx.Value(madeKey{}).(*madeID); made.holds(id) {
		return Item{}, &InvalidItemError{ID: id, Field: "factory", Rule: "must not ask GetOrInsertWith for the id it makes: it would wait for itself"}
	}
	with := o // a copy, so that what memory answers costs no allocation
	with.conditional = true
	for try := 0; ; try++ {
		known := e.numbers.Newest(id).Version // a result below it began before a write that has ended
		make := func() (Record, error) { return e.findOrMake(ctx, id, factory, &with) }
		rec, err := e.makers.Do(ctx, id, e.bad.Discards(id), make, 0, false)
		if err != nil || rec.Version >= known || try == 2 { // memory may know what L3 has lost
			return rec.Item, err
		}
	}
}

// madeKey is the key of a context's *madeID: the ids that factories are making for which it
// was made.
type madeKey struct{}

type madeID struct {
	id    string
	outer *madeID
}

func (m *madeID) holds(id string) bool {
	for ; m != nil; m = m.outer {
		if m.id == id {
			return true
		}
	}
	return false
}

// findOrMake looks for id in all tiers, and makes and inserts it when it is absent.
func (e *writer) findOrMake(values context.Context, id string, factory func(context.Context) (Item, error), o *writeOptions) (Record, error) {
	ctx, cancel := e.door.Until(context.WithoutCancel(values))
	defer cancel()
	ids := []string{id}
	failed := e.numbers.Watch(ids) // before the look, so that nothing comes in between unseen
	defer e.numbers.Unwatch(ids)
	rec, err := e.reader.Find(ctx, id)
	switch {
	case err == nil && !rec.Deleted:
		return rec, nil
	case err != nil && !errors.Is(err, ErrNotFound):
		return Record{}, err
	}
	it, err := e.runFactory(ctx, id, factory)
	if err != nil {
		return Record{}, err
	}
	if def(&it.ID, id); it.ID != id {
		return Record{}, &InvalidItemError{ID: it.ID, Field: "ID", Rule: fmt.Sprintf("of the factory's item must be %q", id)}
	}
	if err := checkItem(&it, e.cfg.MaxItemBytes); err != nil {
		return Record{}, err
	}
	if err := o.mayExpire(&it); err != nil {
		return Record{}, err
	}
	c, err := e.newCall(ctx, o, 1, roomFor(&it))
	if err != nil {
		return Record{}, err
	}
	defer e.leave(c)
	if err := c.put(e, &it, o); err != nil {
		return Record{}, err
	}
	return e.insertMade(ctx, c, knownAs(&rec, failed[0]))
}

// insertMade inserts what a factory made for an id that held nothing.
func (e *writer) insertMade(ctx context.Context, c *call, at known) (Record, error) {
	if err := e.door.Enter(); err != nil { // its callers may have left: Shutdown flushes after it
		return Record{}, err
	}
	defer e.door.Leave()
	err := e.checkSize(c.ops)
	if err == nil && e.archive.Private() && !c.merges() { // no second look at what is known
		if err = e.pressure.Allow(ctx); err == nil {
			err = e.logKnown(ctx, c, []known{at})
		}
	} else if err == nil {
		err = e.writeIf(ctx, c)
	}
	if errors.Is(err, errUnsettled) {
		err = e.writeIf(ctx, c)
	}
	for ; errors.Is(err, ErrExists); err = e.writeIf(ctx, c) {
		there, terr := e.truth(ctx, itemsOf(c.ops))
		if terr != nil {
			return Record{}, terr
		}
		if there[0].Version != 0 && !there[0].Deleted {
			return there[0], nil
		}
		c.renumber() // it was deleted since
	}
	return e.storedAs(c.ops[0]), err
}

// runFactory calls factory, for FactoryTimeout at most, whether it looks at its context or not.
func (e *writer) runFactory(ctx context.Context, id string, factory func(context.Context) (Item, error)) (Item, error) {
	outer, _ := ctx.Value(madeKey{}).(*madeID)
	ctx, end := e.door.UntilClosing(ctx)
	defer end()
	closed := ctx.Done()
	ctx, cancel := context.WithTimeout(context.WithValue(ctx, madeKey{}, &madeID{id, outer}), e.cfg.FactoryTimeout)
	defer cancel()
	type result struct {
		it  Item
		err error
	}
	made := make(chan result, 1) // one that comes too late is for nobody
	var alone sync.WaitGroup     // nobody waits for a factory that does not end
	goIn(&alone, func() {
		r := result{err: errors.New("syncengine: the factory ended its goroutine")} // by runtime.Goexit
		defer func() { made <- r }()
		r.it, r.err = callFactory(ctx, factory)
	})
	patience := time.NewTimer(e.cfg.FactoryTimeout)
	defer patience.Stop()
	late := func() error {
		return fmt.Errorf("syncengine: the factory of item %q gave no result within FactoryTimeout = %s: %w", id, e.cfg.FactoryTimeout, context.DeadlineExceeded)
	}
	select {
	case r := <-made:
		if r.err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return Item{}, errors.Join(late(), r.err)
		}
		if r.err != nil && ctx.Err() != nil {
			return Item{}, ErrClosed
		}
		return r.it, r.err
	case <-closed: // Close does not wait for a factory that goes on
		return Item{}, ErrClosed
	case <-patience.C:
		return Item{}, late()
	}
}

func callFactory(ctx context.Context, factory func(context.Context) (Item, error)) (it Item, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("syncengine: factory panicked: %v", p)
		}
	}()
	return factory(ctx)
}
