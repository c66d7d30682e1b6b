package syncengine

// l3cond.go decides conditions in L3 on SQL (ConditionalStore). A transaction is that of
// l3write.go, but for step 2: the locked rows are put before Judge, and what it lets pass is
// written, of each id the last.
//
// # Unknown COMMITs
//
// When the reply to COMMIT is lost, the rows can't tell what happened: a condition that was met no
// longer holds, and a row that is above a plain write may have been written after that had landed,
// or before. So the row of sync_deltas that a transaction writes carries the engine and a nonce
// under a unique key. Landed inserts the same key by itself: a duplicate means that the transaction
// was committed; success, that it never will be, since its own row would now be the duplicate.
// While the transaction is open on the server the insert waits for its lock. The probe's row has a
// delta of no bytes: it is recognised when its own reply was lost.
//
// Apply asks by itself, before it repeats anything: a record that landed is not among those that
// Apply reports as outranked (unresolved).
//
// # Folding
//
// A row with a nonce stays until nobody can ask about it: its engine has gone on, or is not in
// the table of engines any more, and so gets no answer (fenceOf). Nonces of conditions, which
// the caller gives, are stored as even numbers, those of Apply as odd ones.

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/syncengine-go/syncengine/internal/digest"
	"github.com/syncengine-go/syncengine/internal/failpoint"
	"github.com/syncengine-go/syncengine/internal/sqlkit"
)

const (
	insertNonce = "INSERT INTO sync_deltas (delta, engine, nonce) VALUES (?, ?, ?)"
	selectProbe = "SELECT LENGTH(delta) FROM sync_deltas WHERE engine = ? AND nonce = ?"
)

func (s *sqlStore) ApplyIf(ctx context.Context, nonce uint64, units [][]Conditional) (verdicts []Verdict, err error) {
	var recs []Record
	for _, unit := range units {
		for i := range unit {
			recs = append(recs, unit[i].Record)
		}
	}
	plain, merges := splitMerges(recs)
	packed := rowsOf(plain, s.codec)
	if err := s.checkSizes(packed, merges); err != nil {
		return nil, err
	}
	if err := s.run(ctx, "apply if", func() error { return s.prepareWrites(ctx, recs, packed) }); err != nil {
		return nil, err
	}
	slices.SortStableFunc(recs, func(a, b Record) int { return strings.Compare(a.ID, b.ID) })
	recs = slices.CompactFunc(recs, func(a, b Record) bool { return a.ID == b.ID })
	s.nonce.Store(nonce)
	asker := s.engine()
	s.asker.Store(&asker)
	err = s.run(ctx, "apply if", func() (err error) {
		verdicts, err = s.applyIfOnce(ctx, nonce, recs, units)
		return err
	})
	if ce, ok := errors.AsType[*commitError](err); ok && ce.unknown() {
		return verdicts, says(fmt.Errorf("%w: %w", ErrUnknownOutcome, err))
	}
	if err != nil {
		return nil, err
	}
	s.foldSome(ctx)
	return verdicts, nil
}

func (s *sqlStore) applyIfOnce(ctx context.Context, nonce uint64, recs []Record, units [][]Conditional) (verdicts []Verdict, err error) {
	var p *plan
	err = s.inTx(ctx, func(tx *sqlkit.Tx) error {
		p = nil
		heads, err := s.lockHeads(ctx, tx, recs, nil)
		if err != nil {
			return err
		}
		if s.followed { // it may have waited for the locks
			notBefore(units, s.clock())
		}
		var write []Record
		rows := make(map[string]Meta, len(heads))
		for id, h := range heads {
			rows[id] = h.Meta
		}
		if verdicts, write = Judge(rows, units); !slices.ContainsFunc(verdicts, func(v Verdict) bool { return v.Decision == DecidedApplied }) {
			return nil
		}
		slices.SortFunc(write, func(a, b Record) int { return strings.Compare(a.ID, b.ID) })
		plain, merges := splitMerges(write)
		p, err = s.plan(ctx, tx, rowsOf(plain, s.codec), merges, heads, conditional(units))
		if err != nil {
			return err
		}
		if err := s.writePlan(ctx, tx, p); err != nil {
			return err
		}
		if err := s.noteDelta(ctx, tx, p, evenNonce(nonce)); err != nil {
			return err
		}
		failpoint.Hit(failpoint.L3Committing)
		return nil
	})
	if err == nil && p != nil {
		s.known.Wrote(p)
	}
	return verdicts, err
}

// notBefore makes conditions go by a time that is not before now.
func notBefore(units [][]Conditional, now time.Time) {
	for _, unit := range units {
		for i := range unit {
			if c := &unit[i]; !c.Now.IsZero() && now.After(c.Now) {
				c.Now = now
			}
		}
	}
}

// conditional returns the ids of units whose ops have a condition.
func conditional(units [][]Conditional) map[string]bool {
	ids := make(map[string]bool)
	for _, unit := range units {
		for i := range unit {
			if !unit[i].Always {
				ids[unit[i].ID] = true
			}
		}
	}
	return ids
}

// noteDelta writes down how the digest changes, what was written, and the nonce of the transaction.
func (s *sqlStore) noteDelta(ctx context.Context, tx *sqlkit.Tx, p *plan, nonce int64) error {
	delta, changes := p.delta.AppendBinary(nil), p.changes()
	for _, param := range [][]byte{delta, changes} {
		if err := s.fits(param); err != nil {
			return err // there are too many rows
		}
	}
	err := s.exec(ctx, tx, s.insertLogged(), delta, s.engine(), nonce, changes)
	if sqlkit.IsDuplicate(err) { // no fault of a row: the next try has another one
		return fmt.Errorf("the nonce %d is in use: %v", nonce, err)
	}
	if err == nil {
		s.deltas.Add(1)
	}
	return err
}

// writePlan writes what a batch changes.
func (s *sqlStore) writePlan(ctx context.Context, tx *sqlkit.Tx, p *plan) error {
	if err := s.writeOps(ctx, tx, p); err != nil {
		return err
	}
	write := s.writeMySQL
	if s.dialect == sqlkit.SQLite {
		write = s.writeSQLite
	}
	if err := write(ctx, tx, p.fresh, inserting); err != nil {
		if sqlkit.IsDuplicate(err) {
			err = errors.Join(errRaced, err)
		}
		return err
	}
	if err := write(ctx, tx, p.over, overwriting); err != nil {
		return err
	}
	if err := write(ctx, tx, p.swap, swapping); err != nil || s.dialect == sqlkit.SQLite {
		return err
	}
	return s.writeDues(ctx, tx, p)
}

// engine is the id under which this store writes: of its engine's row, or, when no engine has
// fenced it, one of its own.
func (s *sqlStore) engine() string {
	return cmp.Or(s.fenceID(), s.self)
}

func (s *sqlStore) Landed(ctx context.Context, nonce uint64) (landed bool, err error) {
	if asker := s.asker.Load(); asker != nil && *asker != s.engine() {
		return false, fmt.Errorf("landed: %w: %w", ErrUnavailable, errFenced) // its rows may have been folded
	}
	return s.isThere(ctx, evenNonce(nonce))
}

func evenNonce(nonce uint64) int64 { return int64(nonce << 1) }

func (s *sqlStore) isThere(ctx context.Context, nonce int64) (landed bool, err error) {
	err = s.run(ctx, "landed", func() error {
		return s.inTx(ctx, func(tx *sqlkit.Tx) error {
			landed = false
			_, err := tx.ExecContext(ctx, insertNonce, []byte{}, s.engine(), nonce)
			if !sqlkit.IsDuplicate(err) {
				return err
			}
			var size int
			err = tx.QueryRowContext(ctx, selectProbe, s.engine(), nonce).Scan(&size)
			landed = err == nil && size > 0
			return err
		})
	})
	return landed, err
}

// commitError is an error of COMMIT itself.
type commitError struct{ err error }

func (e *commitError) Error() string { return "commit: " + e.err.Error() }

func (e *commitError) Unwrap() error { return e.err }

// unknown reports whether the transaction may have been committed: the server has not said that
// it was not.
func (e *commitError) unknown() bool {
	switch sqlkit.Classify(e.err) {
	case sqlkit.Outage, sqlkit.Unwritable, sqlkit.Canceled, sqlkit.Corrupt:
		return true
	}
	return false
}

// foldable are the deltas that may be folded, see above.
const foldable = `SELECT id, delta FROM sync_deltas AS d WHERE nonce IS NULL
	OR engine = ? AND (nonce % 2 = 0 AND nonce < ? OR nonce % 2 = 1 AND nonce < ?)
	OR engine <> ? AND NOT EXISTS (SELECT 1 FROM sync_instances AS i WHERE i.id = d.engine) ORDER BY id LIMIT ?`

func (s *sqlStore) applyDeltas(ctx context.Context, tx *sqlkit.Tx, set *digest.Set) (ids []any, err error) {
	rows, err := tx.QueryContext(ctx, foldable, s.engine(), evenNonce(s.nonce.Load()), s.plain.lowest(), s.engine(), foldMost)
	if err != nil {
		return nil, err
	}
	for rows.Next() && err == nil {
		var id int64
		var b sql.RawBytes
		if err = rows.Scan(&id, &b); err == nil {
			err = add(set, b, false)
		}
		ids = append(ids, id)
	}
	return ids, errors.Join(err, rows.Err(), rows.Close())
}

// unresolved knows the transactions of Apply that are under way, or whose outcome is unknown, and
// what those wrote that were found to have landed.
type unresolved struct {
	mu     sync.Mutex // guards the fields below
	last   int64      // nonce
	open   map[int64]struct{}
	asked  map[int64]asked // outcome unknown
	landed map[string]Meta // of each id what landed, until it was applied again
}

// asked is a transaction of unknown outcome.
type asked struct {
	engine string
	wrote  []Meta
}

// begin opens a transaction.
func (u *unresolved) begin() int64 {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.open == nil {
		u.last, u.open, u.asked, u.landed = 1, make(map[int64]struct{}), make(map[int64]asked), make(map[string]Meta)
	}
	u.last += 2
	u.open[u.last] = struct{}{}
	return u.last
}

// end closes it. wrote is what it wrote, if that is unknown.
func (u *unresolved) end(nonce int64, unknown bool, engine string, wrote []Meta) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if unknown {
		u.asked[nonce] = asked{engine, wrote}
	} else {
		delete(u.open, nonce)
	}
}

// lowest is below all that somebody may ask about.
func (u *unresolved) lowest() int64 {
	u.mu.Lock()
	defer u.mu.Unlock()
	low := u.last + 2
	for n := range u.open {
		low = min(low, n)
	}
	return low
}

// resolve finds out what became of the transactions of which that is unknown.
func (s *sqlStore) resolve(ctx context.Context) error {
	u := &s.plain
	u.mu.Lock()
	ask := slices.Collect(maps.Keys(u.asked))
	u.mu.Unlock()
	for _, nonce := range ask {
		u.mu.Lock()
		tx := u.asked[nonce]
		u.mu.Unlock()
		landed, err := false, error(nil)
		if tx.engine == s.engine() { // else its row may have been folded: nobody can tell
			landed, err = s.isThere(ctx, nonce)
		}
		if err != nil {
			return err
		}
		u.mu.Lock()
		for _, m := range tx.wrote {
			if landed {
				u.landed[m.ID] = m
			}
		}
		delete(u.asked, nonce)
		delete(u.open, nonce)
		u.mu.Unlock()
	}
	return nil
}

// forgive drops from the rows that are above records those whose records had landed before.
func (u *unresolved) forgive(recs []Record, above []Meta) []Meta {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.landed) == 0 {
		return above
	}
	mine := make(map[string]Meta)
	for i := range recs {
		id := recs[i].ID
		as := recs[i].meta()
		if m, ok := u.landed[id]; ok && m.same(&as) {
			mine[id] = m
		}
		delete(u.landed, id)
	}
	return slices.DeleteFunc(above, func(row Meta) bool {
		_, ok := mine[row.ID]
		return ok
	})
}
