package sqlkit

import (
	"context"
	"errors"
	"sync"
	"time"
)

// Statements are prepared statements of pools: each is prepared at its first use, once, and lives
// as long as they do.
//
// One caller prepares a statement, and others that want it wait for that. Would each prepare it,
// and close it again if another one was faster, it could wait for ever: database/sql closes a
// statement on the connection that it was prepared on, which may by then be in a transaction of
// somebody else, which waits for a lock of a row, which a caller holds that waits for whoever
// closes. What is kept is never closed while there are transactions.
type Statements struct {
	mu  sync.Mutex // guards all; nothing is waited for under it
	all map[statementKey]*prepared
}

// statementKey is a statement of one of the pools.
type statementKey struct {
	db   *DB
	text string
}

// prepared is a statement. The rest is valid when done is closed.
type prepared struct {
	done  chan struct{}
	st    *Stmt
	err   error
	ended bool // it was given up by somebody whose context ended, which proves nothing to others
}

// Get returns a statement. To prepare it takes a connection of the pool: in a transaction it may be
// that there is no other one.
func (s *Statements) Get(ctx context.Context, db *DB, text string) (*Stmt, error) {
	key := statementKey{db, text}
	for {
		s.mu.Lock()
		p := s.all[key]
		if p == nil {
			p = &prepared{done: make(chan struct{})}
			if s.all == nil {
				s.all = make(map[statementKey]*prepared)
			}
			s.all[key] = p
			s.mu.Unlock()
			return asked(ctx, db.idle > 0, func(under context.Context) (*Stmt, error) {
				s.prepare(under, ctx, key, p)
				return p.st, p.err
			}, func(*Stmt) {}) // it is kept for others
		}
		s.mu.Unlock()
		select {
		case <-p.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if !p.ended || ctx.Err() != nil {
			return p.st, p.err
		}
	}
}

// prepare prepares a statement under a context, for a caller with another one.
func (s *Statements) prepare(ctx, caller context.Context, key statementKey, p *prepared) {
	p.err = errors.New("preparing a statement was given up") // a driver panicked
	defer func() {
		if p.err != nil {
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.all[key] == p {
				delete(s.all, key)
			}
		}
		close(p.done)
	}()
	p.st, p.err = key.db.PrepareContext(ctx, key.text)
	p.ended = p.err != nil && isOver(caller)
}

// isOver reports whether ctx has ended, or is about to. What an error says is no help: one of a
// connection that goes by the deadline of ctx is the network's own, and may come before ctx knows.
func isOver(ctx context.Context) bool {
	at, ok := ctx.Deadline()
	return ctx.Err() != nil || ok && !time.Now().Before(at)
}

// Close closes all that are prepared. Nothing may be in use. It waits for that no longer than
// closeWait: the rest goes on in the background. In a pool of the caller's some connections may be
// in use by others, for long; database/sql waits for each.
func (s *Statements) Close() error {
	s.mu.Lock()
	all := s.all
	s.all = nil
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), closeWait)
	defer cancel()
	var errs []error
	if !await(ctx, func() {
		for _, p := range all {
			if <-p.done; p.st != nil {
				errs = append(errs, p.st.Close())
			}
		}
	}) {
		return nil
	}
	return errors.Join(errs...)
}

const closeWait = time.Second
