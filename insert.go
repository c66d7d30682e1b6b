package syncengine

// insert.go is get-or-insert: a read that ends in a write when there is nothing to read.

import (
	"context"
	"errors"
	"fmt"
)

// GetOrInsertWith returns the item of id, or calls factory and submits what it returns.
// At a time factory runs once per id in this engine; callers that come meanwhile share its
// result. It runs on a goroutine of the engine with ctx's values, and is cancelled only
// when the engine closes. It is called only after L3 or a tombstone said that the id does
// not exist, never after an error. Its item's ID may be empty; another id is
// ErrInvalidItem. A panic in it is returned as an error. A write that was submitted while
// factory ran wins over its result and is returned instead.
func (e *Engine) GetOrInsertWith(ctx context.Context, id string, factory func(context.Context) (Item, error)) (Item, error) {
	it, err := e.Get(ctx, id)
	if !errors.Is(err, ErrNotFound) {
		return it, err
	}
	if err := e.enterRead(ctx); err != nil {
		return Item{}, err
	}
	defer e.leave()
	values := context.WithoutCancel(ctx)
	rec, err := e.factories.do(ctx, id, 0, e.spawn, func() (Record, error) {
		it, err := e.insertWith(values, id, factory)
		return Record{Item: it}, err
	})
	return rec.Item, err
}

func (e *Engine) insertWith(ctx context.Context, id string, factory func(context.Context) (Item, error)) (Item, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(e.bg, cancel)()
	var made *Item
	for {
		// Stamp and version are taken before the last look: a write that comes later changes
		// the one, so that the insert is refused, and is above the other.
		stamp, version := e.l1.stamp(id), e.clock.Next()
		rec, err := e.find(ctx, id)
		switch {
		case err == nil && !rec.Deleted:
			return rec.Item, nil
		case err != nil && !errors.Is(err, ErrNotFound):
			return Item{}, err
		case rec.Version >= version: // deleted just now, or by a clock ahead of ours
			version = e.clock.NextAfter(rec.Version)
		}
		if made == nil {
			it, err := callFactory(ctx, factory)
			if err != nil {
				return Item{}, err
			}
			if def(&it.ID, id); it.ID != id {
				return Item{}, &InvalidItemError{ID: it.ID, Field: "ID", Rule: fmt.Sprintf("of the factory's item must be %q", id)}
			}
			if err := checkItem(&it, e.cfg.MaxItemBytes); err != nil {
				return Item{}, err
			}
			made = &it
		}
		op := e.newPut(made, &writeOptions{version: version})
		err = e.insert(ctx, op, stamp)
		if errors.Is(err, ErrStaleVersion) {
			continue // somebody wrote meanwhile, to this id or to one of its stripe: look again
		}
		return op.record().Item, err
	}
}

// insert submits an op unless its id was written since stamp was taken.
func (e *Engine) insert(ctx context.Context, op *entry, stamp uint64) error {
	if err := e.checkSize([]*entry{op}); err != nil {
		return err
	}
	if err := e.admit(ctx, []*entry{op}, Logged); err != nil {
		return err
	}
	return e.logOps(ctx, []*entry{op}, e.cfg.Durability, func(op *entry) error {
		if e.l1.stamp(op.id()) != stamp {
			return ErrStaleVersion
		}
		return e.assignVersion(op)
	})
}

func callFactory(ctx context.Context, factory func(context.Context) (Item, error)) (it Item, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("syncengine: factory panicked: %v", p)
		}
	}()
	return factory(ctx)
}
