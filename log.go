package syncengine

// log.go is the way of ops into the log, and from there into the queue.

import "sync/atomic"

// StartLog hands ops, which have their place in the log, to it; logged runs on its loop. At
// Archived it returns what to wait for then. After an error the ops have no place any more.
func (n *numbers) StartLog(ops []*entry, d Durability, assign func(*entry) (*entry, error), logged func(error)) (w *waiter, err error) {
	if d == Archived {
		w = newWaiter()
	}
	u := unitOf(ops, n.queue.Now())
	u.done = w
	err = n.LogUnit(ops, assign, func(seg *segment, last bool, err error) {
		if err == nil {
			n.queue.Accept(u, seg, last)
		} else {
			n.wal.Release(ops)
		}
		logged(err)
	})
	if err != nil {
		n.wal.Release(ops)
	}
	return w, err
}

// Log appends ops, which have their versions and their place, as one unit and waits for the commit.
func (n *numbers) Log(ops []*entry) error {
	logged := make(chan error, 1)
	_, err := n.StartLog(ops, Logged, n.noteLate, func(err error) { logged <- err })
	if err != nil {
		return err
	}
	return <-logged
}

// LogLone puts a unit that is in memory alone, and has its place there, into the log. AwaitLone
// waits until it is there, or not.
func (n *numbers) LogLone(u *unit) {
	n.order.Lock()
	defer n.order.Unlock()
	if n.queue.StartLogging(u.Ops()) {
		n.logKnown(u, func(error) {})
	}
}

// logKnown logs a unit whose ops are known already. The order lock is held.
func (n *numbers) logKnown(u *unit, logged func(error)) {
	ops := u.Ops()
	n.lone.Add(1)
	for _, op := range ops {
		_, _ = n.noteLate(op)
	}
	n.append(ops, nil, func(seg *segment, last bool, err error) {
		if err == nil {
			n.queue.Logged(u, seg, last)
		} else {
			n.queue.NotLogged(ops)
		}
		logged(err)
		n.lone.Done()
	})
}

// LogDecided is for ops that L3 has just decided to store. Where the log still has an earlier op of
// one of their items, a kill would leave that one as the newest that the Dir knows of, and it would
// answer while L3 is away (INV-2). So it goes now, if it and all before it are done, or these go
// into the log behind it: L3 finds that it has them when they come again. then is called when that
// is on disk, or with why it is not: then L3 has them all the same.
func (n *numbers) LogDecided(ops []*entry, then func(error)) {
	switch seg := n.wal.Kept(ops); {
	case seg == 0:
		then(nil)
		return
	case n.wal.Trimming(seg):
		n.wal.Trimmed(seg, then)
		return
	}
	for _, op := range ops {
		op.state.Or(stateDecided)
	}
	u := unitOf(ops, n.queue.Now())
	n.wal.Occupy(ops)
	n.wal.Lone(ops, 1)
	n.order.Lock()
	defer n.order.Unlock()
	n.logKnown(&u, then)
}

// AwaitLone waits for what LogLone and LogDecided have begun.
func (n *numbers) AwaitLone() { n.lone.Wait() }

// logMergesBefore puts merges that are in memory alone into the log before later ones of their
// items: the drain of the next engine goes by the order of the log, and merges of an item have to
// land in the order of their numbers (mergenumbers.go). lost tells at the commit that the log has
// not taken one.
func (n *numbers) logMergesBefore(ops []*entry) (lost func() bool) {
	var items []string
	for _, op := range ops {
		if op.isMerge() {
			items = append(items, op.item())
		}
	}
	if len(items) == 0 {
		return nil
	}
	us := n.queue.Lone(items...)
	if len(us) == 0 {
		return nil
	}
	failed := new(atomic.Bool)
	for i := range us {
		if n.queue.StartLogging(us[i].Ops()) {
			n.logKnown(&us[i], func(err error) {
				if err != nil {
					failed.Store(true)
				}
			})
		}
	}
	return failed.Load
}

// noteLate is an assign for ops that have their versions. Of an op that a later one of its id comes
// before in the log, that is noted there: once the later one has landed and is trimmed, the log of
// the next engine holds the earlier one alone, and it must not be taken for the newest.
func (n *numbers) noteLate(op *entry) (*entry, error) {
	if !op.isMerge() && n.Newest(op.id()).Version > op.version {
		op.state.Or(stateLate)
	}
	return nil, nil
}
