package crdt

// cells.go is what all LWW kinds and FWWRegister share: a cell is one write, and a total order says
// which of two writes is later.

import (
	"cmp"
	"slices"
	"strings"
)

// cell is one write. Its node is never empty; a cell without a node is no write at all.
type cell struct {
	key       string // of an entry of a map or set, else empty
	timestamp uint64
	node      string
	removed   bool // a tombstone; its value is empty
	value     string
}

// compareWrites orders two writes of one key by timestamp, node, kind (removal above write) and
// value. Only equal writes compare as equal, so the later of two is the same whoever asks: that is
// what makes merging commute.
func compareWrites(a, b cell) int {
	if c := cmp.Or(cmp.Compare(a.timestamp, b.timestamp), strings.Compare(a.node, b.node)); c != 0 {
		return c
	}
	switch {
	case a.removed == b.removed:
		return strings.Compare(a.value, b.value)
	case a.removed:
		return 1
	}
	return -1
}

func later(a, b cell) cell {
	if compareWrites(a, b) < 0 {
		return b
	}
	return a
}

// cells has at most one cell of each key, and is sorted by key.
type cells []cell

func compareKeys(a, b cell) int { return strings.Compare(a.key, b.key) }

// cells reads an object of [timestamp, node], or of [value, timestamp, node].
func (c *cursor) cells(withValue, removed bool) (cells, error) {
	list := make(cells, 0, c.room(48))
	err := c.table(func(key string) error {
		if err := c.element(); err != nil {
			return err
		}
		x := cell{key: key, removed: removed}
		parts, skipped := 2, 1
		if withValue {
			parts, skipped = 3, 0
		}
		err := c.tuple(parts, func(i int) (err error) {
			switch i + skipped {
			case 0:
				x.value, err = c.str()
			case 1:
				x.timestamp, err = c.uint64()
			case 2:
				x.node, err = c.node()
			}
			return err
		})
		list = append(list, x)
		return err
	})
	if err == nil && !sortUnique(list, compareKeys) {
		err = c.fail("a key is there twice")
	}
	return list, err
}

func (list cells) find(key string) (int, bool) {
	return slices.BinarySearchFunc(list, key, func(x cell, key string) int {
		return strings.Compare(x.key, key)
	})
}

// put stores x if it is later than what is there, and counts it in the clock.
func (list *cells) put(k Kind, v *clock, op Op, x cell) error {
	i, ok := list.find(x.key)
	switch {
	case ok && compareWrites(x, (*list)[i]) <= 0:
		return nil
	case v.full(op, 1):
		return fullClock(k)
	case ok:
		(*list)[i] = x
	default:
		*list = slices.Insert(*list, i, x)
	}
	v.tick(op, 1)
	return nil
}

// putAll does what put does for each of the writes, which are of one operation, in any order. Of
// many writes, that would move the others as often.
func (list *cells) putAll(k Kind, v *clock, op Op, writes cells) error {
	if !sortUnique(writes, compareKeys) {
		writes = slices.Compact(writes)
	}
	writes = slices.DeleteFunc(writes, func(x cell) bool {
		i, ok := list.find(x.key)
		return ok && compareWrites(x, (*list)[i]) <= 0
	})
	if v.full(op, len(writes)) {
		return fullClock(k)
	}
	v.tick(op, len(writes))
	*list = list.join(writes)
	return nil
}

func (list cells) join(with cells) cells { return union(list, with, compareKeys, later) }

// append writes what cursor.cells reads.
func (list cells) append(b []byte, withValue bool) []byte {
	return appendList(b, "{}", list, func(b []byte, x cell) []byte {
		b = append(appendString(b, x.key), ":["...)
		if withValue {
			b = append(appendString(b, x.value), ',')
		}
		b = append(appendUint(b, x.timestamp), ',')
		return append(appendString(b, x.node), ']')
	})
}
