package syncengine

// deleteprefix.go deletes what is below a prefix: ids are read from L3 in order, without content,
// and deleted in groups. Nothing is kept between two calls: what is left is found by the next one.

import (
	"context"
	"fmt"
)

// deleteGroup is how many ids one group has, where the config allows that many.
const deleteGroup = 1000

func (e *writer) DeletePrefix(ctx context.Context, prefix string, opts ...WriteOption) (n int, err error) {
	refuse := func(field, rule string) (int, error) {
		return 0, &InvalidItemError{ID: prefix, Field: field, Rule: rule}
	}
	o, err := e.options(prefix, opts)
	switch {
	case err != nil:
		return 0, err
	case prefix == "":
		return refuse("prefix", "must not be empty: delete everything by a prefix for each first byte there is")
	case len(prefix) > MaxIDBytes:
		return refuse("prefix", fmt.Sprintf("must be at most %d bytes, as ids are; has %d", MaxIDBytes, len(prefix)))
	case o.unchanged:
		return refuse("IfUnchanged", "is for single items: DeletePrefix has no condition")
	case o.conditional:
		return refuse("WithIfVersion", "is for single ids: DeletePrefix has no condition")
	case o.givenTTL:
		return refuse("WithTTL", "is for items that are put: a delete does not expire")
	case o.version != 0:
		return refuse("WithVersion", "is for single ids: items below a prefix have versions of their own")
	}
	most := max(1, min(deleteGroup, int64(e.cfg.GroupMaxItems), e.cfg.WALMaxItems/10))
	room := min(e.cfg.GroupMaxBytes, e.cfg.L1MaxBytes/10, e.cfg.WALMaxBytes/10)
	c, bytes := o.call(int(most)), int64(0)
	write := func() error {
		ops := len(c.ops)
		if err := e.write(ctx, c); err != nil {
			return err
		}
		n += ops
		c, bytes = o.call(int(most)), 0
		return nil
	}
	for id, err := range e.reader.IDs(ctx, prefix) {
		if err != nil {
			return n, err
		}
		op := e.newDelete(id, &o)
		size := sizeOf([]*entry{op})
		if len(c.ops) > 0 && (int64(len(c.ops)) == most || bytes+size > room) {
			if err := write(); err != nil {
				return n, err
			}
		}
		if c.ops, bytes = append(c.ops, op), bytes+size; ctx.Err() != nil {
			return n, ctx.Err()
		}
	}
	return n, write()
}
