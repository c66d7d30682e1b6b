package syncengine

// log.go is the way of ops into the log, and from there into the queue.

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

// LogLone puts a unit that is in memory alone, and has its place there, into the log.
func (n *numbers) LogLone(u *unit, then func(seg *segment, last bool, err error)) {
	_ = n.LogUnit(u.Ops(), n.noteLate, then)
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
