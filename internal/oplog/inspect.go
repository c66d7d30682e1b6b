package oplog

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/syncengine-go/syncengine/internal/sqlkit"
)

// inspect looks for damage before the log is opened for writing. It uses a connection that
// can't write: one that could would, when it is closed, copy what SQLite takes for the valid
// part of the -wal file into the main file and delete the rest, and with it the chance to
// restore anything.
//
// What it can't see is damage within payloads: reading them checks that. used tells that the
// file must hold a log.
func (l *Log) inspect(ctx context.Context, used bool) (err error) {
	db, err := sqlkit.OpenSQLite(l.opts.Path, "mode=ro")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	db.SetMaxOpenConns(1)
	return l.look(ctx, db, used)
}

// look is inspect on an open file.
func (l *Log) look(ctx context.Context, db runner, used bool) error {
	var verdict string
	if err := db.QueryRowContext(ctx, "PRAGMA quick_check(1)").Scan(&verdict); err != nil {
		return err
	}
	if verdict != "ok" {
		return fmt.Errorf("%w: %s", ErrCorrupt, verdict)
	}
	version, tables, err := readSchema(ctx, db)
	switch {
	case err != nil:
		return err
	case tables == 0 && used:
		return fmt.Errorf("%w: it was in use and holds no log; restore it, or remove it and %s.lock to start empty", ErrCorrupt, l.opts.Path)
	case tables == 0:
		return nil
	}
	meta, err := allMeta(ctx, db)
	if err != nil {
		return err
	}
	if version == 0 {
		if meta[ledgerKey] != nil {
			return fmt.Errorf("%w: it holds a ledger, and claims a format that has none", ErrCorrupt)
		}
		return l.witness.check(l.opts.Path, claim{})
	}
	for key, value := range meta {
		if _, err := unseal(key, value); err != nil {
			return err
		}
	}
	return l.audit(ctx, db)
}

// audit compares the ledgers with their tables and with the witness.
func (l *Log) audit(ctx context.Context, db runner) error {
	var want, got ledger
	var wantSide, gotSide sideLedger
	if err := errors.Join(readLedger(ctx, db, ledgerKey, want.fields()), readLedger(ctx, db, sideLedgerKey, wantSide.fields())); err != nil {
		return err
	}
	if err := l.witness.check(l.opts.Path, claim{want.commits, wantSide.commits}); err != nil {
		return err
	}
	var first int64
	if err := db.QueryRowContext(ctx, "SELECT COUNT(*), COALESCE(MIN(id), 0), COALESCE(MAX(id), 0) FROM segments").Scan(&got.rows, &first, &got.last); err != nil {
		return err
	}
	// TOTAL counts in floating point: a damaged id can make it wrong but not overflow.
	if err := db.QueryRowContext(ctx, "SELECT COUNT(*), CAST(TOTAL(id) AS INTEGER), COALESCE(MAX(id), 0) FROM quarantine").Scan(&gotSide.rows, &gotSide.sum, &gotSide.last); err != nil {
		return err
	}
	if got.rows != want.rows || got.rows > 0 && first <= want.trimmed || got.last > want.last {
		return fmt.Errorf("%w: it holds %d segments in %d to %d, the ledger says %d in %d to %d",
			ErrCorrupt, got.rows, first, got.last, want.rows, want.trimmed+1, want.last)
	}
	if gotSide.rows != wantSide.rows || gotSide.sum != wantSide.sum || gotSide.last > wantSide.last {
		return fmt.Errorf("%w: it holds %d quarantined payloads, the ledger says %d, or others", ErrCorrupt, gotSide.rows, wantSide.rows)
	}
	return nil
}

// begun reports whether the file holds anything. A rollback journal beside it stands for a
// file whose creation was cut off: later there is none, in WAL mode.
func (l *Log) begun() bool {
	st, err := os.Stat(l.opts.Path)
	if err != nil || st.Size() == 0 {
		return false
	}
	_, err = os.Stat(l.opts.Path + "-journal")
	return errors.Is(err, os.ErrNotExist)
}
