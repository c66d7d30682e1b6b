package syncengine

// l3write.go is the write path of L3 on SQL. One transaction does, in this order:
//
//  1. reads and locks the rows of the batch (SELECT … FOR UPDATE; SQLite has one writer), but for
//     ids that the filter denies, and rows that are known (l3known.go)
//  2. compares in Go: a record that is not above its row is not written (INV-3, INV-4),
//     and a row that is above its record is reported to the caller
//  3. inserts the rows that were not there, overwrites those that were
//  4. writes down how the digest of L3 changes (l3digest.go)
//
// The rows stay locked until the commit, so the comparison holds. Only a row that was not
// there has nothing to lock: when there is one after all, since another engine has inserted it in
// between, or the filter was wrong, the plain INSERT fails on the primary key and the transaction
// is repeated, with a look at all; and so if a row that is known is not what it is taken for. Locks
// are taken in the order of the ids, so that engines that meet wait for each other instead of in a
// circle.
//
// All this may be repeated after an unknown outcome: what was applied compares
// equal, and is not written again.

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/syncengine-go/syncengine/internal/digest"
	"github.com/syncengine-go/syncengine/internal/failpoint"
	"github.com/syncengine-go/syncengine/internal/sqlkit"
)

// errRaced means that there is a row that our look, or the filter, did not know of, or one that is
// not what it was taken for.
var errRaced = errors.New("another engine has written the same id")

func (s *sqlStore) Apply(ctx context.Context, recs []Record) (above []Meta, err error) {
	above, _, err = s.ApplyMerges(ctx, recs)
	return above, err
}

func (s *sqlStore) ApplyMerges(ctx context.Context, recs []Record) (above []Meta, merged []Record, err error) {
	return s.Insert(ctx, recs, nil)
}

func (s *sqlStore) Insert(ctx context.Context, recs []Record, unseen []bool) (above []Meta, merged []Record, err error) {
	plain, merges := splitMerges(recs)
	if len(merges) > 0 {
		unseen = nil // a merge needs the row
	}
	packed := rowsOf(plain, s.codec) // before rows are locked
	if err := s.checkSizes(packed, merges); err != nil {
		return nil, nil, err
	}
	if err := s.run(ctx, "apply", func() error { return s.prepareWrites(ctx, recs, packed) }); err != nil {
		return nil, nil, err
	}
	if err := s.resolve(ctx); err != nil {
		return nil, nil, err
	}
	if len(merges) == 0 && s.counts.Load() {
		s.known.Expect(packed)
	}
	err = s.run(ctx, "apply", func() (err error) {
		above, merged, err = s.applyOnce(ctx, recs, packed, merges, unseen)
		unseen = nil
		for i := range packed {
			packed[i].known = false
		}
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	above = s.plain.forgive(recs, above)
	s.learn(ctx, packed)
	s.foldSome(ctx)
	return above, merged, nil
}

// checkSizes refuses what the server would. MySQL must not even be asked: it remembers the
// refusal of a long parameter in the prepared statement and then refuses the next rows, too.
func (s *sqlStore) checkSizes(packed []storedRow, merges []itemMerges) error {
	for i := range packed {
		if err := s.fits(packed[i].content); err != nil {
			return err
		}
	}
	for i := range merges {
		for _, op := range merges[i].ops {
			if err := s.fits(op.Content); err != nil {
				return err
			}
		}
	}
	return nil
}

// fits refuses a parameter that the server would not take: it may close the connection over it,
// which would be an outage.
func (s *sqlStore) fits(what []byte) error {
	s.mu.Lock()
	packet := s.packet
	s.mu.Unlock()
	if n := int64(len(what)); n > packet {
		return &RefusedError{Err: fmt.Errorf("%d bytes don't fit into the server's max_allowed_packet of %d", n, packet)}
	}
	return nil
}

// inTx runs fn in a transaction on the writing pool which holds a fence of this engine, once it has
// one. An error of COMMIT is a *commitError.
func (s *sqlStore) inTx(ctx context.Context, fn func(tx *sqlkit.Tx) error) error {
	return s.transact(ctx, s.fenceID(), fn)
}

// transact is inTx with the fence of an engine, "" for none.
func (s *sqlStore) transact(ctx context.Context, fence string, fn func(tx *sqlkit.Tx) error) error {
	var opts *sql.TxOptions
	if s.dialect == sqlkit.MySQL {
		opts = &sql.TxOptions{Isolation: sql.LevelReadCommitted} // set for each transaction: a pool's connections differ
	} else {
		s.writing.Lock()
		defer s.writing.Unlock()
	}
	hold, err := s.fenceOf(ctx, fence)
	if err != nil {
		return err
	}
	tx, err := s.pools.Write.BeginTx(ctx, opts)
	if err != nil {
		return err
	}
	if err = hold(tx); err == nil {
		err = fn(tx)
	}
	if err != nil {
		tx.Rollback()
		return err
	}
	if ctx.Err() != nil { // Commit would not send anything either, but not tell it from a lost reply
		tx.Rollback()
		return ctx.Err()
	}
	if err := tx.Commit(ctx); err != nil {
		return &commitError{err}
	}
	return nil
}

func (s *sqlStore) applyOnce(ctx context.Context, recs []Record, packed []storedRow, merges []itemMerges, unseen []bool) (above []Meta, merged []Record, err error) {
	nonce, engine := s.plain.begin(), s.engine()
	var wrote []Meta
	var p *plan
	defer func() {
		ce, ok := errors.AsType[*commitError](err)
		s.plain.end(nonce, ok && ce.unknown(), engine, wrote)
	}()
	err = s.inTx(ctx, func(tx *sqlkit.Tx) error {
		heads, err := s.lockHeads(ctx, tx, recs, func(i int) bool {
			return unseen != nil && unseen[i] || len(merges) == 0 && packed[i].known
		})
		if err != nil {
			return err
		}
		p, err = s.plan(ctx, tx, packed, merges, heads, nil)
		if err != nil {
			return err
		}
		above, merged = p.above, p.merged
		if err := s.writePlan(ctx, tx, p); err != nil {
			return err
		}
		wrote = wrote[:0]
		for _, rows := range [...][]*storedRow{p.fresh, p.over, p.swap, p.covered} {
			for _, r := range rows {
				wrote = append(wrote, r.meta())
			}
		}
		if len(wrote) > 0 {
			if err := s.noteDelta(ctx, tx, p, nonce); err != nil {
				return err
			}
		}
		failpoint.Hit(failpoint.L3Committing)
		return nil
	})
	if err == nil {
		s.known.Wrote(p)
	}
	return above, merged, err
}

// plan is what a batch does to the rows of L3.
type plan struct {
	fresh, over []*storedRow // to insert, to overwrite
	swap        []*storedRow // to write over rows that are known
	above       []Meta       // rows that stay, since they compare above their records
	delta       digest.Delta
	expired     map[string]bool // ids of over that are purged
	due, undue  []due           // when the rows will be, and no longer are

	merged  []Record     // what items are that were merged into
	covered []*storedRow // applied before those merges, which leave nothing of them
	late    []*storedRow // deletes below live items with a kind
	drop    []string     // keys of rows of sync_ops to remove
	gone    []string     // items whose merges are forgotten, since they were deleted
	ops     []opRow      // merges to insert
	bases   []opRow      // to insert or overwrite
}

// lockedHead is a row of sync_items without content, which the transaction has locked.
type lockedHead struct {
	Meta
	kind      string
	deletedAt int64 // unix nanoseconds, 0 for NULL
	lapsed    bool  // it is live, and has expired
}

// gone reports whether there is no item.
func (h *lockedHead) gone() bool { return h.Deleted || h.lapsed }

// planOf compares the records of a batch with the rows of their ids. One of an id that is also
// merged into is noted in heads instead of being written.
func planOf(recs []storedRow, merges []itemMerges, heads map[string]lockedHead) (*plan, error) {
	p := &plan{}
	var also map[string]bool
	for i := range merges {
		if also == nil {
			also = make(map[string]bool, len(merges))
		}
		also[merges[i].id] = true
	}
	for i := range recs {
		r := &recs[i]
		if r.known { // and above it
			p.swap = append(p.swap, r)
			p.delta.Replace(r.ID, digest.LeafOf(r.ID, r.over.version, r.over.hash), digest.LeafOf(r.ID, r.Version, r.ContentHash))
			continue
		}
		m, exists := heads[r.ID]
		if exists {
			head := m.record()
			switch c := r.Compare(&head); {
			case c < 0 && r.Deleted && !m.Deleted && m.kind != "" && crdtBuilt:
				p.late = append(p.late, r) // merges that came after it have raised the version
				continue
			case c < 0:
				p.above = append(p.above, m.Meta)
				continue
			case m.twin(r.Record):
				p.above = append(p.above, m.Meta)
				continue
			case c == 0:
				continue
			}
			if !m.gone() && (m.kind != "" || crdtBuilt) {
				if err := mayReplace(m.kind, r.Record); err != nil {
					return nil, err
				}
			}
			if m.kind != "" && !m.Deleted {
				p.gone = append(p.gone, r.ID)
			}
		}
		if also[r.ID] {
			p.covered = append(p.covered, r)
			continue
		}
		p.write(r, exists, &m)
	}
	return p, nil
}

// write adds a row that replaces another one, if that exists.
func (p *plan) write(r *storedRow, exists bool, was *lockedHead) {
	if d, ok := was.due(); exists && ok {
		p.undue = append(p.undue, d)
	}
	if d, ok := r.due(); ok {
		p.due = append(p.due, d)
	}
	if exists {
		p.over = append(p.over, r)
	} else {
		p.fresh = append(p.fresh, r)
	}
	if exists && !was.Deleted {
		p.delta.Remove(was.ID, digest.LeafOf(was.ID, was.Version, was.ContentHash))
	}
	if exists && r.Deleted && r.Version == was.Version && !was.ExpiresAt.IsZero() {
		if p.expired == nil {
			p.expired = make(map[string]bool)
		}
		p.expired[r.ID] = true
	}
	if !r.Deleted {
		p.delta.Add(r.ID, digest.LeafOf(r.ID, r.Version, r.ContentHash))
	}
}

// mayReplace refuses to write over a live item what is not of its kind, and without -tags crdt
// anything at all over one that has a kind.
func mayReplace(kind string, r *Record) *RefusedError {
	switch {
	case kind == "" && r.CRDT == "":
		return nil
	case !crdtBuilt && kind != "":
		return &RefusedError{Err: fmt.Errorf("item %q is a CRDT, of kind %s: %w: build with -tags crdt", itemOf(r.ID), kind, ErrFeatureNotBuilt)}
	case r.Deleted || r.CRDT == kind:
		return nil
	}
	name := func(kind string) string {
		if kind == "" {
			return "a plain item"
		}
		return "of kind " + kind
	}
	return &RefusedError{Err: fmt.Errorf("item %q is %s, this op %s: %w", itemOf(r.ID), name(kind), name(r.CRDT), ErrKindMismatch)}
}

// lockHeads reads the rows of the records' items and locks them until the transaction ends, but for
// those that need no look.
func (s *sqlStore) lockHeads(ctx context.Context, tx *sqlkit.Tx, recs []Record, without func(i int) bool) (map[string]lockedHead, error) {
	ids := make([]string, 0, len(recs))
	for i := range recs { // sorted
		if without != nil && without(i) {
			continue
		}
		if id := itemOf(recs[i].ID); len(ids) == 0 || id != ids[len(ids)-1] {
			ids = append(ids, id)
		}
	}
	heads := make(map[string]lockedHead, len(ids))
	for rest := ids; len(rest) > 0; {
		n := min(len(rest), s.fitting(maxLookup))
		args := make([]any, places(n))
		for i := range args {
			args[i] = rest[min(i, n-1)]
		}
		st, err := s.stmt(ctx, s.pools.Write, s.lockText(n))
		if err != nil {
			return nil, err
		}
		rows, err := tx.StmtContext(ctx, st).QueryContext(ctx, args...)
		if err != nil {
			return nil, err
		}
		for rows.Next() && err == nil {
			var m lockedHead
			if m, err = scanLocked(rows); err == nil {
				m.lapsed = m.expired(s.clock)
				heads[m.ID] = m
			}
		}
		if err = errors.Join(err, rows.Err(), rows.Close()); err != nil {
			return nil, err
		}
		rest = rest[n:]
	}
	return heads, nil
}

func (s *sqlStore) lockText(n int) string {
	text := selectMany(headColumns+", crdt, deleted_at", n)
	if s.dialect == sqlkit.MySQL {
		text += " FOR UPDATE"
	}
	return text
}

const healRow = "UPDATE sync_items SET content_hash = ?, content = ?, encoding = ?, updated_at = ?, priority = ?, crdt = ?, trace_parent = ?, " +
	"trace_state = ?, home_instance = ? WHERE id = ? AND version = ? AND deleted = 0"

// Heal replaces the row of rec's id if it is a live row of rec's version.
func (s *sqlStore) Heal(ctx context.Context, r Record) (done bool, err error) {
	row := rowsOf([]Record{r}, s.codec)[0]
	err = s.run(ctx, "heal", func() error {
		return s.inTx(ctx, func(tx *sqlkit.Tx) error {
			res, err := tx.ExecContext(ctx, healRow, r.ContentHash[:], row.content, row.encoding, r.UpdatedAt.UnixNano(), int64(r.Priority), r.CRDT,
				r.TraceParent, r.TraceState, r.HomeInstanceID, r.ID, int64(r.Version))
			if err != nil {
				return err
			}
			n, err := res.RowsAffected()
			done = n > 0
			return err
		})
	})
	return done, err
}

// alone runs one statement by itself: who is frozen in it leaves no transaction open.
func (s *sqlStore) alone(ctx context.Context, text string, args ...any) (rows int64, err error) {
	if s.dialect == sqlkit.SQLite { // see writing
		s.writing.Lock()
		defer s.writing.Unlock()
	}
	res, err := s.pools.Write.ExecContext(ctx, text, args...)
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}
