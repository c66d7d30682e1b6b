package syncengine

// l3statements.go are the statements that write rows of L3 on SQL: their texts, what is prepared,
// and how rows are put into them.

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"strings"

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
// there is inserted, with these columns, and counts for one then (counted); if it comes again, to
// fill the statement, that fails on deleted_at, which is NULL in a live row. Else it counted for
// two, and made up for another row that is not there. (That it is live is compared for rows that
// somebody deletes by hand: such a one is in no digest.)
const (
	swapped    = writtenPlain + ", encoding"
	expectedIn = "deleted_at, trace_state"
)

var swap, swapSQLite = func() (string, string) {
	text := " ON DUPLICATE KEY UPDATE version = IF(version = VALUES(deleted_at) AND content_hash = VALUES(trace_state) AND deleted = 0 AND deleted_at IS NULL, VALUES(version), " +
		sqlkit.Overflow("version") + "), deleted_at = NULL, trace_state = ''"
	for _, c := range strings.Split(written, ", ") {
		if !slices.Contains([]string{"id", "version", "deleted_at", "trace_state"}, c) {
			text += ", " + c + " = VALUES(" + c + ")"
		}
	}
	return text, "UPDATE sync_items SET version = ?2, updated_at = ?3, content_hash = ?4, content = ?5, encoding = ?6, deleted = 0, deleted_at = NULL, " +
		"priority = 0, crdt = '', trace_parent = '', trace_state = '', home_instance = '', expires_at = NULL " +
		"WHERE id = ?1 AND version = ?7 AND content_hash = ?8 AND deleted = 0" // the same of one row, with the same arguments
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

// prepareWrites prepares what a transaction over records may need, before it: preparing takes a
// connection of the pool, which may have only one. A delete may be of an item that is merged into.
func (s *sqlStore) prepareWrites(ctx context.Context, recs []Record, packed []storedRow) error {
	need := writesReady{rows: len(recs)}
	need.merges = slices.ContainsFunc(recs, func(r Record) bool { return isMerge(r.ID) || crdtBuilt && r.Deleted })
	need.all = need.merges || slices.ContainsFunc(packed, func(r storedRow) bool { return !r.plain() })
	s.mu.Lock()
	ready, packet := slices.ContainsFunc(s.ready, need.within), s.packet
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
		if int64(len(text)) > packet/4 { // it is about more rows than fit, and never used
			continue
		}
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
	limit, counts := s.chunkLimit(), s.counts.Load()
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
