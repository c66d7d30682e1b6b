package syncengine

// l3digest.go keeps the digest of L3 (merkle.go) in the transactions of the rows, so that
// it is exact at every commit and costs the same to read however many rows there are.
//
// A batch of 1000 rows touches most of the branches. If each branch were a row, batches
// would wait for each other's row locks, and write as many rows again. So a transaction
// appends one row to sync_deltas that says how the branches change; XOR is commutative, so
// nobody waits. The digest at any moment is the row of sync_digest and all deltas, read by
// one statement, which sees one state. Every few batches some engine folds the deltas into
// that row, so there are never many.
//
// A wrong digest, after rows were changed behind the engine's back, is corrected by one more
// delta (recount).

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/syncengine-go/syncengine/internal/digest"
	"github.com/syncengine-go/syncengine/internal/sqlkit"
)

const (
	insertDelta = "INSERT INTO sync_deltas (delta) VALUES (?)"
	// foldEvery is how many deltas this engine appends before it folds. Folding writes 57 KB,
	// reading costs some 20 KB per delta of a full batch.
	foldEvery = 32
	// leafWindow is sqlStore.window: some 50 ms of the server's time.
	leafWindow = 50_000
)

// Digest reads the digest of the live rows.
func (s *sqlStore) Digest(ctx context.Context) (set *digest.Set, err error) {
	err = s.run(ctx, "digest", func() error {
		var broken []any
		if set, broken, err = readDigest(ctx, s.pools.Read); err == nil && len(broken) > 0 {
			err = fmt.Errorf("%w: the stored digest can't be read; Verify with Deep and Repair counts anew", ErrCorruption)
		}
		return err
	})
	return set, err
}

// queryer is a pool or a transaction.
type queryer interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// readDigest sums up the stored parts. Those that can't be read, or are not there, are left out,
// and their ids are in broken: 0 is the row of sync_digest.
func readDigest(ctx context.Context, db queryer) (set *digest.Set, broken []any, err error) {
	set = new(digest.Set)
	rows, err := db.QueryContext(ctx, "SELECT 0 AS id, digest FROM sync_digest WHERE id = 1 UNION ALL SELECT id, delta FROM sync_deltas")
	if err != nil {
		return nil, nil, err
	}
	whole := false
	for rows.Next() && err == nil {
		var id int64
		var b sql.RawBytes
		if err = rows.Scan(&id, &b); err != nil {
			break
		}
		whole = whole || id == 0
		if add(set, b, id == 0) != nil {
			broken = append(broken, id)
		}
	}
	if !whole {
		broken = append(broken, int64(0))
	}
	return set, broken, errors.Join(err, rows.Err(), rows.Close())
}

// add puts a stored part into set: a whole digest or a delta.
func add(set *digest.Set, b []byte, whole bool) error {
	if len(b) == 0 {
		return nil // as the schema makes it, or a probe (l3cond.go)
	}
	if !whole {
		return set.Apply(b)
	}
	base, err := digest.Decode(b)
	if err == nil {
		set.Merge(base)
	}
	return err
}

// foldSome folds the deltas when this store has written many since it did so last. Errors
// are for nobody: the deltas stay, and the next batch tries again.
func (s *sqlStore) foldSome(ctx context.Context) {
	if s.deltas.Load() < foldEvery {
		return
	}
	switch err := s.fold(ctx); {
	case err == nil:
		s.deltas.Store(0)
	case sqlkit.LockHeld(err): // somebody else folds, or is frozen in it
		s.deltas.Store(foldEvery / 2)
	}
}

// fold moves the deltas into the row of sync_digest.
func (s *sqlStore) fold(ctx context.Context) error {
	return s.inTx(ctx, func(tx *sqlkit.Tx) error {
		lock := "SELECT digest FROM sync_digest WHERE id = 1"
		if s.dialect == sqlkit.MySQL {
			lock += " FOR UPDATE NOWAIT" // nobody waits for another one's fold, least of all with a batch
		}
		var base []byte
		if err := tx.QueryRowContext(ctx, lock).Scan(&base); err != nil {
			return err
		}
		set := new(digest.Set)
		if err := add(set, base, true); err != nil {
			return err
		}
		ids, err := s.applyDeltas(ctx, tx, set)
		if err != nil || len(ids) == 0 {
			return err
		}
		if err := s.moveToLog(ctx, tx, ids); err != nil {
			return err
		}
		// Exactly those that were read: a delta of a lower id may be committed later.
		if _, err := tx.ExecContext(ctx, "DELETE FROM sync_deltas WHERE id IN (?"+strings.Repeat(",?", len(ids)-1)+")", ids...); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, "UPDATE sync_digest SET digest = ? WHERE id = 1", set.AppendBinary(nil)); err != nil {
			return err
		}
		return s.trimLog(ctx, tx)
	})
}

// foldMost bounds how many deltas one transaction folds.
const foldMost = 1000

// Leaves returns the live rows of branches, without content, among the next rows with ids
// above after, and where to go on; last is "" at the end. No index knows the branch of a row:
// it would cost each insert a write to a random page. The server looks at the ids alone,
// which it has in an index.
func (s *sqlStore) Leaves(ctx context.Context, branches []int, after string) (leaves []Meta, last string, err error) {
	var ids []string
	err = s.run(ctx, "leaves", func() (err error) {
		if s.dialect == sqlkit.MySQL && s.fitting(maxLookup) == maxLookup && !s.noSHA1.Load() {
			if ids, last, err = s.idsThere(ctx, branches, after); !sqlkit.LacksFunction(err) {
				return err
			}
			s.noSHA1.Store(true)
		} // else no server, one with no room for so many numbers, or without SHA1, as MySQL since 9.6
		ids, last, err = s.idsHere(ctx, branches, after)
		return err
	})
	if err != nil || len(ids) == 0 {
		return nil, last, err
	}
	leaves, err = s.Heads(ctx, ids)
	return slices.DeleteFunc(leaves, func(m Meta) bool { return m.Deleted }), last, err
}

func (s *sqlStore) idsHere(ctx context.Context, branches []int, after string) (ids []string, last string, err error) {
	want := make(map[int]bool, len(branches))
	for _, b := range branches {
		want[b] = true
	}
	rows, err := s.pools.Read.QueryContext(ctx, "SELECT id FROM sync_items WHERE id > ? ORDER BY id LIMIT ?", after, s.window)
	if err != nil {
		return nil, "", err
	}
	n := 0
	for ; rows.Next() && err == nil; n++ {
		if err = rows.Scan(&last); err == nil && want[digest.Branch(last)] {
			ids = append(ids, last)
		}
	}
	if n < s.window {
		last = ""
	}
	return ids, last, errors.Join(err, rows.Err(), rows.Close())
}

func (s *sqlStore) idsThere(ctx context.Context, branches []int, after string) (ids []string, last string, err error) {
	const live = " FROM sync_items FORCE INDEX (PRIMARY) WHERE deleted = 0 AND id > ?"
	var end []byte
	err = s.pools.Read.QueryRowContext(ctx, "SELECT MAX(id) FROM (SELECT id"+live+" ORDER BY id LIMIT ?) AS w", after, s.window).Scan(&end)
	if err != nil || len(end) == 0 {
		return nil, "", err
	}
	args := []any{after, end}
	for _, b := range branches {
		args = append(args, b)
	}
	// digest.Branch in SQL: the first 11 bits of SHA-1.
	rows, err := s.pools.Read.QueryContext(ctx, "SELECT id"+live+" AND id <= ? AND CONV(LEFT(SHA1(id), 3), 16, 10) DIV 2 IN (?"+
		strings.Repeat(",?", len(branches)-1)+")", args...)
	if err != nil {
		return nil, "", err
	}
	for rows.Next() && err == nil {
		var id string
		err = rows.Scan(&id)
		ids = append(ids, id)
	}
	return ids, string(end), errors.Join(err, rows.Err(), rows.Close())
}

// Recount reads all rows with their content in one snapshot, which takes time and one
// connection. It calls bad for each row that does not match its hash, and corrects the stored
// digest where it is not that of the rows, if fix is set; it returns how many branches are wrong.
//
// However large the table is, each step is short: rows come as the server reads them, unsorted and
// all, so the next one is a step. What writes goes over the table in windows.
func (s *sqlStore) Recount(ctx context.Context, each time.Duration, fix bool, bad func(error)) (wrong int, err error) {
	err = s.inSteps(ctx, each, func(ctx context.Context) (err error) {
		wrong, err = s.recount(ctx, fix, bad)
		return err
	})
	return wrong, err
}

func (s *sqlStore) recount(ctx context.Context, fix bool, bad func(error)) (wrong int, err error) {
	opts := &sql.TxOptions{ReadOnly: true}
	if s.dialect == sqlkit.MySQL {
		opts.Isolation = sql.LevelRepeatableRead
	}
	tx, err := s.pools.Read.BeginTx(ctx, opts)
	if err != nil {
		return 0, s.describe("recount", err)
	}
	defer tx.Rollback() // it wrote nothing
	// First, so that the dictionary of each row that the transaction sees is known.
	sqlkit.Step(ctx)
	if err := s.recall(ctx, tx); err != nil {
		return 0, s.describe("recount", err)
	}
	sqlkit.Step(ctx)
	stored, broken, err := readDigest(ctx, tx)
	if err != nil {
		return 0, s.describe("recount", err)
	}
	counted, err := s.count(ctx, tx, bad)
	if err != nil {
		return 0, s.describe("recount", err)
	}
	correction, wrong := digest.Between(stored, counted)
	if len(broken) > 0 {
		wrong = max(wrong, 1)
	}
	if !fix {
		return wrong, nil
	}
	tx.Rollback()    // there may be no other connection
	s.known.Forget() // what was counted are the rows, whatever somebody did to them by hand
	if err := s.mendDues(ctx); err != nil || wrong == 0 {
		return wrong, err
	}
	// Nobody else touches the broken parts: a fold fails on them.
	return wrong, s.run(ctx, "recount", func() error {
		sqlkit.Step(ctx)
		return s.inTx(ctx, func(tx *sqlkit.Tx) error {
			for _, id := range broken {
				sqlkit.Step(ctx)
				// The row of a delta stays: it may be what tells that its transaction landed.
				text, empty := "UPDATE sync_deltas SET delta = ? WHERE id = ?", new(digest.Delta).AppendBinary(nil)
				if id == int64(0) {
					text, empty, id = "REPLACE INTO sync_digest (digest, id) VALUES (?, ?)", []byte{}, int64(1)
				}
				if _, err := tx.ExecContext(ctx, text, empty, id); err != nil {
					return err
				}
			}
			sqlkit.Step(ctx)
			_, err := tx.ExecContext(ctx, insertDelta, correction.AppendBinary(nil))
			return err
		})
	})
}

// count sums up all rows.
func (s *sqlStore) count(ctx context.Context, tx *sqlkit.Tx, bad func(error)) (*digest.Set, error) {
	set := new(digest.Set)
	sqlkit.Step(ctx)
	rows, err := tx.QueryContext(ctx, "SELECT "+columns+" FROM sync_items")
	if err != nil {
		return nil, err
	}
	var row scanned
	for rows.Next() && err == nil {
		sqlkit.Step(ctx)
		row = scanned{}
		if err = rows.Scan(row.fields()...); err != nil {
			break
		}
		if _, err := row.record(s.codec); err != nil {
			bad(err)
		}
		if m := row.head(); !m.Deleted {
			addToDigest(set, &m)
		}
	}
	return set, errors.Join(err, rows.Err(), rows.Close())
}
