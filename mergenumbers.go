package syncengine

// mergenumbers.go gives merges the numbers of their dots (mergekey.go): 1, 2, 3, and so on, of one
// Dir, whatever the item. They are part of what a delta does: the state has the same dots wherever
// it is applied, here in a view or in L3, and so a state that was read while merges wait can be
// submitted again. For that, merges of an item also land in the order of their numbers: the queue
// keeps them in one lane, a Buffered one does not overtake one that is being logged or is spooled
// (numbers.mustFollow), and one that is logged takes those before it, which memory alone has, into
// the log (numbers.logMergesBefore). Only what comes out of quarantine comes late.
//
// How far numbers are given out is kept in the WAL file beside the node's name, mergesAhead at a
// time: after a kill the next engine leaves out the rest of those. A number stays below 2^53, but
// after two million kills, so readers of JSON that know floats alone get it right.
//
// A kill may lose merges that were not durable, while somebody holds a state that has them. The
// next ones of the same node would claim to have seen those, and take them away where both meet. So
// after a kill that may have lost some, the Dir goes on as another node.
//
// Nor does a Dir prove that it is the newest: it may be restored from an older copy, or be one of
// several. So each engine claims the node that it finds there: L3 replaces the claim that it knows
// of the node if it is the one beside the name, and then the next one is stored there. Of the same
// copies one gets the node, of older ones none; the others go on as other nodes, as does an engine
// that L3 does not answer. What waits in a Dir keeps its dots. A copy that was made while an engine
// ran has the bound, and nobody gives out more in one life: hence the size of mergesAhead.

import (
	"context"
	"encoding/binary"
	"fmt"
)

const (
	mergesKey   = "merges"
	mergesAhead = 1 << 32
	nodeBytes   = 16 // of a name in the WAL file; the claim is behind it
)

// mergeNumbers is a part of numbers, and under its order lock, but for node.
type mergeNumbers struct {
	node        string // of this Dir
	claim       string // what L3 knows of the node; "": nothing yet
	last, bound uint64
	loose       bool // merges may get lost in a kill; stored with the bound
}

// load reads what an earlier engine has kept. The name of a new node is stored with the first
// bound: before, nobody has seen it. ClaimNode must follow before any merge.
func (m *mergeNumbers) load(ctx context.Context, wal *journal) error {
	b, err := wal.Meta(ctx, mergesKey)
	switch {
	case err != nil:
		return err
	case len(b) == 0:
		m.node = newNode()
		return nil
	case len(b) <= 9:
		return walError(fmt.Errorf("%w: numbers of merges", errBadPayload))
	}
	last, name := binary.BigEndian.Uint64(b), string(b[9:])
	if b[8] != 0 || last == 0 {
		m.node = newNode()
		return nil
	}
	m.last, m.bound = last, last
	m.node, m.claim = name[:min(nodeBytes, len(name))], name[min(nodeBytes, len(name)):]
	return nil
}

// ClaimNode makes sure that no other Dir goes on as the node that was found in this one, or makes
// this Dir another node: then mine is false. claim is archive.ClaimNode.
func (n *numbers) ClaimNode(ctx context.Context, claim func(ctx context.Context, node, was, now string) (bool, error)) (mine bool, err error) {
	m := &n.merges
	if m.last == 0 { // it is new
		return true, nil
	}
	now := newNode()
	if mine, err = claim(ctx, m.node, m.claim, now); mine && err == nil {
		m.claim = now
		err = m.save(ctx, n.wal, m.bound, false)
	}
	if !mine || err != nil {
		*m = mergeNumbers{node: newNode()}
	}
	return mine && err == nil, err
}

// next returns a number that was never given out.
func (m *mergeNumbers) next(wal *journal) (uint64, error) {
	if m.last == m.bound {
		if err := m.save(context.Background(), wal, m.last+mergesAhead, m.loose || !wal.Syncs()); err != nil {
			return 0, err
		}
	}
	m.last++
	return m.last, nil
}

// mayLose notes that a merge is accepted that a kill may lose.
func (m *mergeNumbers) mayLose(wal *journal) error {
	if m.loose {
		return nil
	}
	return m.save(context.Background(), wal, max(m.bound, m.last+1), true)
}

func (m *mergeNumbers) save(ctx context.Context, wal *journal, bound uint64, loose bool) error {
	b := append(binary.BigEndian.AppendUint64(nil, bound), 0)
	if loose {
		b[8] = 1
	}
	if err := wal.SetMeta(ctx, mergesKey, append(b, m.node+m.claim...)); err != nil {
		return err
	}
	m.bound, m.loose = bound, loose
	return nil
}

// close makes the bound exact: the log has all that is not in L3.
func (m *mergeNumbers) close(ctx context.Context, wal *journal) error {
	if m.bound == m.last && !m.loose {
		return nil
	}
	return m.save(ctx, wal, m.last, false)
}

// Node is the name of this Dir among those that merge.
func (n *numbers) Node() string { return n.merges.node }

// mustFollow reports whether a merge among ops would overtake another op of its item if it did not
// go through the log. The order lock is held.
func (n *numbers) mustFollow(ops []*entry) bool {
	for _, op := range ops {
		if !op.isMerge() {
			continue
		}
		n.mu.Lock()
		m := n.marks[op.item()]
		n.mu.Unlock()
		hash := n.l1.Hash(op.item())
		if _, spooled := n.wal.Spooled(hash); spooled || m.begun != m.ended || n.wal.SpooledMerges(hash) > 0 {
			return true
		}
	}
	return false
}
