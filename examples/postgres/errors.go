package postgres

// errors.go runs transactions, and is the only place that looks at errors of the driver.

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/syncengine-go/syncengine"
)

const (
	tries     = 20
	firstWait = 2 * time.Millisecond
)

// run repeats what lost against another transaction, and puts errors into the engine's words.
func (s *Store) run(ctx context.Context, op string, fn func() error) error {
	for try := 1; ; try++ {
		err := fn()
		if err == nil {
			return nil
		}
		if !lost(err) || try == tries {
			return describe(ctx, op, err)
		}
		timer := time.NewTimer(rand.N(firstWait * time.Duration(try))) // not to meet again
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return describe(ctx, op, err)
		}
	}
}

// inTx runs fn in a READ COMMITTED transaction: each statement sees what was committed before it,
// so that what is read after a lock is what the lock holds.
func (s *Store) inTx(ctx context.Context, fn func(tx *sql.Tx) error) error {
	tx, err := s.db.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelReadCommitted})
	if err != nil {
		return err
	}
	if err := fn(tx); err != nil {
		_ = tx.Rollback()
		return err
	}
	if err := tx.Commit(); err != nil {
		return &commitError{err}
	}
	return nil
}

// commitError is an error of COMMIT itself.
type commitError struct{ err error }

func (e *commitError) Error() string { return "commit: " + e.err.Error() }

func (e *commitError) Unwrap() error { return e.err }

// unknown reports whether the transaction may have been committed: COMMIT may have been sent, and
// the server did not say that it refused it.
func unknown(err error) bool {
	if ce, ok := errors.AsType[*commitError](err); !ok || lost(ce) {
		return false
	}
	class, _ := state(err)
	return class != "22" && class != "23"
}

// state returns the SQLSTATE and its class, the first two characters; empty if it was not the
// server that spoke.
func state(err error) (class, code string) {
	if pe, ok := errors.AsType[*pgconn.PgError](err); ok && len(pe.Code) == 5 {
		return pe.Code[:2], pe.Code
	}
	return "", ""
}

// lost reports whether a repetition may succeed at once.
func lost(err error) bool {
	switch _, code := state(err); code {
	case "40001", "40P01", "55P03": // serialization failure, deadlock, lock not available
		return true
	}
	return false
}

// describe puts an error into the engine's words. What it does not know is an outage.
func describe(ctx context.Context, op string, err error) error {
	if cause := ctx.Err(); cause != nil && !errors.Is(err, cause) {
		err = fmt.Errorf("%w: %w", cause, err)
	}
	class, code := state(err)
	switch class {
	case "22", "23", "54": // data exception, constraint, a limit of the server
		return &syncengine.RefusedError{Err: err}
	case "28", "3D", "3F", "42": // password, database, schema, rights: Open fails
		return fmt.Errorf("postgres %s: %w", op, err)
	}
	switch {
	case code == "P0001": // raised by a trigger
		return &syncengine.RefusedError{Err: err}
	case class == "XX" && code != "XX000": // a damaged page or index
		return fmt.Errorf("postgres %s: %w: %w", op, syncengine.ErrCorruption, err)
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("postgres %s: %w", op, err)
	}
	return fmt.Errorf("postgres %s: %w: %w", op, syncengine.ErrUnavailable, err)
}
