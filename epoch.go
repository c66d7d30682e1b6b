package syncengine

// epoch.go is the part of the queue (batch.go) that Flush waits on. An epoch counts the ops
// accepted between two Flush calls. Flush waits until its epoch and all before it are empty, or
// until it is told that L3 fails.

import "errors"

// epoch counts ops that a Flush waits for.
type epoch struct {
	ops     int
	sealed  bool
	refused int           // ops that went to quarantine, of which no Flush has been told
	waiting int           // Flush calls that will be told
	done    chan struct{} // closed when this and all earlier epochs are empty
}

// retire closes epochs that are sealed and empty, oldest first. Refusals of an epoch whose
// Flush calls have left, since L3 was away, are told to the next Flush.
func (q *queue) retire() {
	for len(q.epochs) > 1 && q.epochs[0].sealed && q.epochs[0].ops == 0 {
		if q.epochs[0].waiting == 0 {
			q.epochs[1].refused += q.epochs[0].refused
		}
		close(q.epochs[0].done)
		q.epochs = q.epochs[1:]
	}
}

// force begins a Flush: batches are due at once until unforce. It returns the last segment
// of which ops are spooled now.
func (q *queue) force() (spooledTo int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.forced++
	q.signal()
	if q.spooling {
		return q.written
	}
	return 0
}

// seal ends the open epoch. It returns all epochs that are not empty yet, it included as the
// last, and the channel that tells of failures from now on.
func (q *queue) seal() (waitFor []*epoch, failed chan struct{}) {
	q.mu.Lock()
	defer q.mu.Unlock()
	waitFor = append(waitFor, q.epochs...)
	waitFor[len(waitFor)-1].sealed = true
	for _, ep := range waitFor {
		ep.waiting++
	}
	q.epochs = append(q.epochs, &epoch{done: make(chan struct{})})
	q.retire()
	return waitFor, q.failed
}

// leave ends a Flush's wait for epochs whose end it does not see.
func (q *queue) leave(epochs []*epoch) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, ep := range epochs {
		if ep.waiting--; ep.waiting > 0 {
			continue
		}
		select {
		case <-ep.done: // between its decision to leave and now
			q.epochs[0].refused += ep.refused
		default: // retire will see to it
		}
	}
}

// unforce ends a Flush.
func (q *queue) unforce() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.forced--
}

// fail tells those who wait in Flush that L3 can't be written now. q.mu is held.
func (q *queue) fail(cause error) {
	if q.ended {
		return
	}
	q.cause = cause
	close(q.failed)
	q.failed = make(chan struct{})
}

// failNow is fail for callers without the lock.
func (q *queue) failNow(cause error) {
	q.mu.Lock()
	q.fail(cause)
	q.mu.Unlock()
}

// end tells all who wait in Flush, and all who will, that nothing is flushed any more.
func (q *queue) end(cause error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.cause, q.ended = cause, true
	close(q.failed)
}

// whyFailed returns why L3 failed last, never nil.
func (q *queue) whyFailed() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.cause == nil {
		return errors.New("L3 failed and is back")
	}
	return q.cause
}
