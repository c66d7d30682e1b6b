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
	"slices"
	"strings"

	"github.com/syncengine-go/syncengine/internal/digest"
	"github.com/syncengine-go/syncengine/internal/failpoint"
	"github.com/syncengine-go/syncengine/internal/sqlkit"
)

// written are the columns of a row. Most rows have the default in all but a few: writtenPlain.
const (
	written      = columns + ", deleted_at, encoding"
	writtenPlain = "id, version, updated_at, content_hash, content"
)

// overwrite ends an INSERT of rows that exist and are locked; overwriteSQLite, on SQLite. VALUES(c)
// is deprecated in MySQL but the only form MariaDB knows. It is the default of c where the INSERT
// does not name it.
var overwrite, overwriteSQLite = func() (string, string) {
	var sets, excluded []string
	for _, c := range strings.Split(written, ", ") {
		if c != "id" {
			sets = append(sets, c+" = VALUES("+c+")")
			excluded = append(excluded, c+" = excluded."+c)
		}
	}
	return " ON DUPLICATE KEY UPDATE " + strings.Join(sets, ", "), " ON CONFLICT (id) DO UPDATE SET " + strings.Join(excluded, ", ")
}()

// swap ends an INSERT of simple rows of which each is written only over the row that is expected.
// That one's version and hash come in columns that a simple row has no use for. The first
// assignment compares them, and fails the statement if they are others (sqlkit.Overflow): so the
// rest need no condition, and all columns become what a simple row has in them. A row that is not
// there is inserted, and counts for one then (counted).
const (
	swapped    = writtenPlain + ", encoding"
	expectedIn = "deleted_at, trace_state"
)

var swap, swapSQLite = func() (string, string) {
	text := " ON DUPLICATE KEY UPDATE version = IF(version = VALUES(deleted_at) AND content_hash = VALUES(trace_state), VALUES(version), " +
		sqlkit.Overflow("version") + "), deleted_at = NULL, trace_state = ''"
	for _, c := range strings.Split(written, ", ") {
		if !slices.Contains([]string{"id", "version", "deleted_at", "trace_state"}, c) {
			text += ", " + c + " = VALUES(" + c + ")"
		}
	}
	return text, "UPDATE sync_items SET version = ?2, updated_at = ?3, content_hash = ?4, content = ?5, encoding = ?6, deleted = 0, deleted_at = NULL, " +
		"priority = 0, crdt = '', trace_parent = '', trace_state = '', home_instance = '', expires_at = NULL " +
		"WHERE id = ?1 AND version = ?7 AND content_hash = ?8" // the same of one row, with the same arguments
}()

// leave ends an INSERT that leaves a row that is there as it is, and does not count it (counted):
// so the last row may come again, to fill a statement.
const leave = " ON DUPLICATE KEY UPDATE version = version"

// mode is how rows are written.
type mode int

const (
	inserting   mode = iota // there is none
	overwriting             // there is one, and it is locked
	swapping                // there is the one that is expected, and both are simple
	modes
)

// insertText writes so many rows.
func (s *sqlStore) insertText(rows int, plain bool, how mode) string {
	names, tail := written, ""
	switch {
	case how == swapping && s.dialect == sqlkit.SQLite:
		return swapSQLite
	case how == swapping:
		names, tail = swapped+", "+expectedIn, swap
	case plain:
		names = writtenPlain
	}
	switch {
	case how == overwriting && s.dialect == sqlkit.SQLite:
		tail = overwriteSQLite
	case how == overwriting:
		tail = overwrite
	case how == inserting && s.counts.Load() && s.dialect == sqlkit.MySQL:
		tail = leave
	}
	place := "(" + placesFor(names) + ")"
	return "INSERT INTO sync_items (" + names + ") VALUES " + place + strings.Repeat(","+place, rows-1) + tail
}

// append appends the arguments of a row. One that comes again to fill a statement expects itself.
func (how mode) append(args []any, r *storedRow, plain, again bool) []any {
	args = appendArgs(args, r, plain || how == swapping)
	switch {
	case how != swapping:
		return args
	case again:
		return append(args, r.encoding, int64(r.Version), r.ContentHash[:])
	}
	return append(args, r.encoding, int64(r.over.version), r.over.hash[:])
}

// placesFor are the places of columns.
func placesFor(names string) string { return "?" + strings.Repeat(",?", strings.Count(names, ",")) }

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

func (s *sqlStore) fits(content []byte) error {
	s.mu.Lock()
	packet := s.packet
	s.mu.Unlock()
	if n := int64(len(content)); n > packet {
		return &RefusedError{Err: fmt.Errorf("content of %d bytes is larger than the server's max_allowed_packet of %d", n, packet)}
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
		_ = tx.Rollback() // its error adds nothing: the connection is given up
		return err
	}
	if ctx.Err() != nil { // Commit would not send anything either, but not tell it from a lost reply
		_ = tx.Rollback()
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
		n := min(len(rest), maxLookup)
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

// prepareWrites prepares what a transaction over records may need, before it: preparing takes a
// connection of the pool, which may have only one. A delete may be of an item that is merged into.
func (s *sqlStore) prepareWrites(ctx context.Context, recs []Record, packed []storedRow) error {
	need := writesReady{rows: len(recs)}
	need.merges = slices.ContainsFunc(recs, func(r Record) bool { return isMerge(r.ID) || crdtBuilt && r.Deleted })
	need.all = need.merges || slices.ContainsFunc(packed, func(r storedRow) bool { return !r.plain() })
	s.mu.Lock()
	ready := slices.ContainsFunc(s.ready, need.within)
	s.mu.Unlock()
	if ready {
		return nil
	}
	texts := []string{s.insertLogged()}
	if need.merges {
		texts = append(texts, s.mergeTexts(need.rows)...)
	}
	for k := 1; ; k *= 2 {
		if texts = append(texts, s.lockText(k)); k <= maxDues && s.dialect == sqlkit.MySQL {
			texts = append(texts, insertDues(k), deleteDues(k))
		}
		if k >= need.rows || k >= maxLookup {
			break
		}
	}
	for _, plain := range []bool{true, false} {
		if !plain && !need.all {
			break
		}
		for _, n := range chunkSizes {
			if n > maxChunk(plain) {
				break
			}
			for how := range modes {
				texts = append(texts, s.insertText(n, plain, how))
			}
			if n >= need.rows || s.dialect == sqlkit.SQLite {
				break // the last one has room for all: some may fill places
			}
		}
	}
	for _, text := range texts {
		if _, err := s.stmt(ctx, s.pools.Write, text); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ready = append(slices.DeleteFunc(s.ready, func(r writesReady) bool { return r.within(need) }), need)
	return nil
}

// writesReady are records that all is prepared for.
type writesReady struct {
	rows        int
	merges, all bool // with merges; with rows that are not plain
}

// within reports whether what is ready for o is all that r needs.
func (r writesReady) within(o writesReady) bool {
	return r.rows <= o.rows && (o.merges || !r.merges) && (o.all || !r.all)
}

// exec runs a prepared statement in a transaction.
func (s *sqlStore) exec(ctx context.Context, tx *sqlkit.Tx, text string, args ...any) error {
	st, err := s.stmt(ctx, s.pools.Write, text)
	if err != nil {
		return err
	}
	_, err = tx.StmtContext(ctx, st).ExecContext(ctx, args...)
	return err
}

// writeSQLite writes row by row: SQLite is a library, there are no round trips to save.
func (s *sqlStore) writeSQLite(ctx context.Context, tx *sqlkit.Tx, rows []*storedRow, how mode) error {
	var texts [2]*sqlkit.Stmt // for plain rows, and others
	args := make([]any, 0, 16)
	for _, r := range rows {
		plain := r.plain() && how != swapping
		st := &texts[0]
		if !plain {
			st = &texts[1]
		}
		if *st == nil {
			prepared, err := s.stmt(ctx, s.pools.Write, s.insertText(1, plain, how))
			if err != nil {
				return err
			}
			*st = tx.StmtContext(ctx, prepared)
		}
		args = how.append(args[:0], r, plain, false)
		res, err := (*st).ExecContext(ctx, args...)
		if err == nil && how == swapping {
			err = s.counted(res, 1)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// writeMySQL writes rows by multi-row statements: each is a round trip, and takes the server as
// long as ten rows.
func (s *sqlStore) writeMySQL(ctx context.Context, tx *sqlkit.Tx, rows []*storedRow, how mode) error {
	s.mu.Lock()
	limit := min(chunkBytes, s.packet/4)
	s.mu.Unlock()
	counts := s.counts.Load()
	var args []any
	for len(rows) > 0 {
		n, places, plain := chunkOf(rows, how != inserting || counts, how, limit)
		if args == nil {
			args = make([]any, 0, places*8)
		}
		args = args[:0]
		for i := range places {
			args = how.append(args, rows[min(i, n-1)], plain, i >= n)
		}
		st, err := s.stmt(ctx, s.pools.Write, s.insertText(places, plain, how))
		if err != nil {
			return err
		}
		res, err := tx.StmtContext(ctx, st).ExecContext(ctx, args...)
		switch {
		case how == swapping && sqlkit.IsOverflow(err):
			s.known.Failed()
			err = errors.Join(errRaced, err)
		case err != nil:
		case how == swapping:
			err = s.counted(res, 2*n)
		case how == inserting && counts:
			err = s.counted(res, n)
		}
		if err != nil {
			return err
		}
		rows = rows[n:]
	}
	return nil
}

// counted fails unless a statement has written all rows, as the database counts them. MySQL counts
// a row that was not there for one, one that was for two, and one that stays as it is for nothing:
// a row that comes again to fill a statement, or, of those to insert, one that was there.
func (s *sqlStore) counted(res sql.Result, want int) error {
	n, err := res.RowsAffected()
	if err == nil && n != int64(want) {
		s.known.Failed()
		err = errRaced
	}
	return err
}

// chunkSizes are how many rows one statement may have: as prepared statements have a number each.
var chunkSizes = []int{1, 2, 5, 10, 20, 50, 100, 200, 500, 1000}

// chunkWithin is the largest of them that is not above n, which is at least 1.
func chunkWithin(n int) int {
	i, found := slices.BinarySearch(chunkSizes, n)
	if !found {
		i--
	}
	return chunkSizes[min(i, len(chunkSizes)-1)]
}

// maxChunk bounds the places of a statement: a server keeps some hundred bytes for each, in each
// connection.
func maxChunk(plain bool) int {
	if plain {
		return 1000
	}
	return 500
}

// chunkOf returns how many of the rows one statement takes, within limit bytes (one row always
// goes alone, whatever its size); how many places it has: one of chunkSizes; and whether the rows
// are all plain. Where rows may come again, the last one fills up to an eighth of the places: that
// is less than another statement.
func chunkOf(rows []*storedRow, again bool, how mode, limit int64) (n, places int, plain bool) {
	plain, bytes, last := true, int64(0), int64(0)
	for ; n < len(rows); n++ {
		all := plain && (how == swapping || rows[n].plain())
		size := int64(len(rows[n].ID)+len(rows[n].content)) + rowOverheadSQL
		if n > 0 && (bytes+size > limit || n >= maxChunk(all)) {
			break
		}
		plain, bytes, last = all, bytes+size, size
	}
	places = chunkWithin(n)
	if i := slices.Index(chunkSizes, places) + 1; again && n > places && i < len(chunkSizes) {
		if more := chunkSizes[i]; n >= more-more/8 && bytes+int64(more-n)*last <= limit {
			return n, more, plain
		}
	}
	return places, places, plain
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
