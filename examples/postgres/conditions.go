package postgres

// conditions.go decides conditions (ConditionalStore).
//
// A row that does not exist can't be locked. So all ids of the units are inserted as rows of
// version 0, which is none: existing rows are locked by that, the others made. Those that are
// still of version 0 at the end are deleted in the same transaction; nobody else sees any.
//
// A transaction inserts its nonce. Landed inserts the same key, as denied: while the transaction is
// open it waits for it, and whoever is first decides.

import (
	"context"
	"database/sql"
	"fmt"
	"maps"
	"slices"

	"github.com/syncengine-go/syncengine"
)

const (
	lockIDs = `INSERT INTO sync_items (` + columns + `)
SELECT id, 0, 0, false, '', NULL, 0, '', '', '', '', NULL FROM unnest($1::bytea[]) AS u(id)
ON CONFLICT (id) DO UPDATE SET version = excluded.version WHERE false`
	unlockIDs   = "DELETE FROM sync_items WHERE id = ANY($1::bytea[]) AND version = 0"
	insertNonce = "INSERT INTO sync_nonces (store, nonce, landed) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING"
	selectNonce = "SELECT landed FROM sync_nonces WHERE store = $1 AND nonce = $2"
	dropNonces  = "DELETE FROM sync_nonces WHERE store = $1 AND nonce < $2"
)

// ApplyIf judges units in one transaction.
func (s *Store) ApplyIf(ctx context.Context, nonce uint64, units [][]syncengine.Conditional) (verdicts []syncengine.Verdict, err error) {
	seen := make(map[string]bool)
	for _, unit := range units {
		for i := range unit {
			seen[unit[i].ID] = true
		}
	}
	ids := keys(slices.Sorted(maps.Keys(seen)))
	err = s.run(ctx, "apply if", func() error {
		return s.inTx(ctx, func(tx *sql.Tx) (err error) {
			verdicts, err = s.judge(ctx, tx, int64(nonce), ids, units)
			return err
		})
	})
	if unknown(err) {
		return verdicts, fmt.Errorf("%w: %w", syncengine.ErrUnknownOutcome, err)
	}
	if err != nil {
		return nil, err
	}
	return verdicts, nil
}

func (s *Store) judge(ctx context.Context, tx *sql.Tx, nonce int64, ids [][]byte, units [][]syncengine.Conditional) ([]syncengine.Verdict, error) {
	if _, err := tx.ExecContext(ctx, lockIDs, ids); err != nil {
		return nil, err
	}
	heads, err := s.heads(ctx, tx, ids)
	if err != nil {
		return nil, err
	}
	rows := make(map[string]syncengine.Meta, len(heads))
	for _, m := range heads {
		if m.Version != 0 {
			rows[m.ID] = m
		}
	}
	verdicts, write := syncengine.Judge(rows, units)
	if _, err := s.write(ctx, tx, inOrder(write)); err != nil {
		return nil, err
	}
	if _, err := tx.ExecContext(ctx, unlockIDs, ids); err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(verdicts, func(v syncengine.Verdict) bool { return v.Decision == syncengine.DecidedApplied }) {
		return verdicts, nil
	}
	if _, err := tx.ExecContext(ctx, dropNonces, s.self, nonce); err != nil {
		return nil, err
	}
	res, err := tx.ExecContext(ctx, insertNonce, s.self, nonce, true)
	if err != nil {
		return nil, err
	}
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		return nil, fmt.Errorf("nonce %d was used or denied before (%v)", nonce, err)
	}
	return verdicts, nil
}

// Landed reports whether the ApplyIf of nonce was committed, and sees to it that it is not if it
// was not.
func (s *Store) Landed(ctx context.Context, nonce uint64) (landed bool, err error) {
	err = s.run(ctx, "landed", func() error {
		if _, err := s.db.ExecContext(ctx, insertNonce, s.self, int64(nonce), false); err != nil {
			return err
		}
		return s.db.QueryRowContext(ctx, selectNonce, s.self, int64(nonce)).Scan(&landed)
	})
	return landed, err
}
