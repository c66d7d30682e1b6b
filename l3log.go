package syncengine

// l3log.go keeps, in L3, a log of what was written there. Each transaction writes down the ids it
// wrote and their versions, in the row of sync_deltas that it adds anyway; when that is folded
// (l3digest.go) they move to the table sync_log. There they stay for Config.ChangeRetention: for
// Watch, which may resume from any place in it, and for engines that look what others have written
// (tail.go). So nothing that is in L3 is missing in the log, whatever became of who wrote it.
//
// # Reading
//
// Rows have rising numbers, but transactions are not committed in the order of their numbers. A
// reader therefore knows up to where it has read all, and which rows above that. A number that is
// missing is waited for, until a row above it is logSettle old: a transaction ends within a lease
// of its row, or the server ends it (fleetLease). Some numbers never come, since their transactions
// were rolled back. SQLite commits in order.
//
// Of one id the rows are in the order of its versions: whoever writes it next has waited for the
// lock of its row. What is trimmed is noted, so a reader that comes too late learns that.
//
// Readers of one engine that stand at the same place, as nearly all do, and have heard the same
// news ask together (together): however many there are, L3 is asked about as often as by one.

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/syncengine-go/syncengine/internal/changelog"
	"github.com/syncengine-go/syncengine/internal/loader"
	"github.com/syncengine-go/syncengine/internal/sqlkit"
)

const (
	logTrim  = 1000 // rows removed at once
	logHeads = 10_000
	logKeeps = 64 << 10 // bytes of what readers asked together last
)

// Flags of a change in the log.
const (
	loggedDelete = 1 + iota
	loggedExpiry // the delete of an item that was due (expiry.go)
)

// changeLog is an L3 that keeps a log.
type changeLog interface {
	// LogName is the engine whose rows those are that are written now.
	LogName() string
	// LogEnd returns up to where all rows are there or never will be, for a reader that begins, and
	// the number of the last.
	LogEnd(ctx context.Context) (upTo, last int64, err error)
	// LogHeads returns the first rows above a number, without changes, and up to where the log was
	// trimmed.
	LogHeads(ctx context.Context, above int64) (heads []logHead, trimmed int64, err error)
	// LogChanges returns the changes of rows, by number. One that was trimmed is missing.
	LogChanges(ctx context.Context, numbers []int64) (map[int64][]byte, error)
	// Sizes returns of rows with contents how many bytes these have there.
	Sizes(ctx context.Context, ids []string) (map[string]int, error)
}

// logHead is a row of the log.
type logHead struct {
	Number  int64
	Engine  string // whose
	Settled bool   // numbers below it come no more
}

// KeepingChanges sets how long the log is kept.
func (s *sqlStore) KeepingChanges(d time.Duration) *sqlStore {
	s.logFor = d
	return s
}

// changes are what a batch changes, for the log.
func (p *plan) changes() []byte {
	var a changelog.Appender
	rows := mergeSorted(mergeSorted(p.fresh, p.over), p.swap)
	b := make([]byte, 0, 16*len(rows))
	for _, r := range rows {
		c := changelog.Change{Key: r.ID, Version: r.Version}
		switch {
		case p.expired[r.ID]:
			c.Flags = loggedExpiry
		case r.Deleted:
			c.Flags = loggedDelete
		}
		b = a.Append(b, c)
	}
	return b
}

// mergeSorted puts two lists that are in order of ids into one.
func mergeSorted(a, b []*storedRow) []*storedRow {
	out := make([]*storedRow, 0, len(a)+len(b))
	for len(a) > 0 && len(b) > 0 {
		if a[0].ID <= b[0].ID {
			out, a = append(out, a[0]), a[1:]
		} else {
			out, b = append(out, b[0]), b[1:]
		}
	}
	return append(append(out, a...), b...)
}

// insertLogged adds the row of a transaction.
func (s *sqlStore) insertLogged() string {
	return "INSERT INTO sync_deltas (delta, engine, nonce, changes, at) VALUES (?, ?, ?, ?, " + s.serverTime() + ")"
}

// moveToLog keeps the changes of rows that are folded.
func (s *sqlStore) moveToLog(ctx context.Context, tx *sqlkit.Tx, ids []any) error {
	_, err := tx.ExecContext(ctx, "INSERT INTO sync_log (id, engine, at, changes) SELECT id, engine, at, changes FROM sync_deltas WHERE changes IS NOT NULL AND id IN (?"+
		strings.Repeat(",?", len(ids)-1)+")", ids...)
	return err
}

// trimLog removes some rows that are too old. The caller holds the lock of a fold.
func (s *sqlStore) trimLog(ctx context.Context, tx *sqlkit.Tx) error {
	var first, end sql.NullInt64
	if err := tx.QueryRowContext(ctx, "SELECT MIN(id) FROM sync_log").Scan(&first); err != nil || !first.Valid {
		return err
	}
	err := tx.QueryRowContext(ctx, "SELECT id FROM sync_log WHERE at >= "+s.serverTime()+" - ? ORDER BY id LIMIT 1", s.logFor.Microseconds()).Scan(&end)
	if errors.Is(err, sql.ErrNoRows) {
		err = tx.QueryRowContext(ctx, "SELECT MAX(id) + 1 FROM sync_log").Scan(&end)
	}
	if end.Int64 = min(end.Int64, first.Int64+logTrim); err != nil || end.Int64 <= first.Int64 {
		return err
	}
	if _, err := tx.ExecContext(ctx, "UPDATE sync_meta SET value = ? WHERE name = 'log_trimmed'", strconv.FormatInt(end.Int64-1, 10)); err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, "DELETE FROM sync_log WHERE id < ?", end.Int64)
	return err
}

// logPool is where the log is read: a replica would not do.
func (s *sqlStore) logPool() *sqlkit.DB {
	if s.dialect == sqlkit.SQLite {
		return s.pools.Read
	}
	return s.pools.Write
}

func (s *sqlStore) LogName() string { return s.engine() }

func (s *sqlStore) LogEnd(ctx context.Context) (upTo, last int64, err error) {
	max := func(where string) string {
		highest := func(table string) string {
			return "SELECT id FROM (SELECT id FROM " + table + " WHERE changes IS NOT NULL" + where + " ORDER BY id DESC LIMIT 1) AS " + table
		}
		return "(SELECT MAX(id) FROM (" + highest("sync_deltas") + " UNION ALL " + highest("sync_log") + " UNION ALL SELECT " + trimmedTo + ") AS l)"
	}
	settled, args := "", []any{}
	if s.dialect == sqlkit.MySQL {
		settled, args = " AND at < "+s.serverTime()+" - ?", []any{logSettle.Microseconds(), logSettle.Microseconds()}
	}
	text := "SELECT " + max(settled) + ", " + max("")
	err = s.run(ctx, "log", func() error {
		st, err := s.stmt(ctx, s.logPool(), text)
		if err != nil {
			return err
		}
		return st.QueryRowContext(ctx, args...).Scan(&upTo, &last)
	})
	return upTo, last, err
}

// trimmedTo is the number of the last row that was trimmed.
const trimmedTo = "CAST(value AS SIGNED) AS id FROM sync_meta WHERE name = 'log_trimmed'"

func (s *sqlStore) LogHeads(ctx context.Context, above int64) (heads []logHead, trimmed int64, err error) {
	// One statement sees one state: a row that is being folded is in one of the two tables. The row
	// of sync_meta comes first, since numbers begin at 1.
	text := "SELECT id, engine, at, 0 AS trimmed FROM sync_deltas WHERE id > ? AND changes IS NOT NULL" +
		" UNION ALL SELECT id, engine, at, 0 FROM sync_log WHERE id > ?" +
		" UNION ALL SELECT 0, '', " + s.serverTime() + ", " + strings.Replace(trimmedTo, " AS id", "", 1) + " ORDER BY id LIMIT ?"
	err = s.run(ctx, "log", func() error {
		heads = heads[:0]
		st, err := s.stmt(ctx, s.logPool(), text)
		if err != nil {
			return err
		}
		rows, err := st.QueryContext(ctx, above, above, logHeads)
		if err != nil {
			return err
		}
		var now int64
		for rows.Next() && err == nil {
			var h logHead
			var at, to int64
			if err = rows.Scan(&h.Number, &h.Engine, &at, &to); err != nil {
				break
			}
			if h.Number == 0 {
				now, trimmed = at, to
				continue
			}
			h.Settled = s.dialect == sqlkit.SQLite || at < now-logSettle.Microseconds()
			heads = append(heads, h)
		}
		return errors.Join(err, rows.Err(), rows.Close())
	})
	return heads, trimmed, err
}

func (s *sqlStore) LogChanges(ctx context.Context, numbers []int64) (map[int64][]byte, error) {
	out := make(map[int64][]byte, len(numbers))
	for some := range slices.Chunk(numbers, s.fitting(maxLookup)) {
		args := make([]any, 2*len(some))
		for i, n := range some {
			args[i], args[len(some)+i] = n, n
		}
		in := " WHERE changes IS NOT NULL AND id IN (?" + strings.Repeat(",?", len(some)-1) + ")"
		err := s.run(ctx, "log", func() error {
			rows, err := s.logPool().QueryContext(ctx, "SELECT id, changes FROM sync_deltas"+in+" UNION ALL SELECT id, changes FROM sync_log"+in, args...)
			if err != nil {
				return err
			}
			for rows.Next() && err == nil {
				var n int64
				var b []byte
				err = rows.Scan(&n, &b)
				out[n] = b
			}
			return errors.Join(err, rows.Err(), rows.Close())
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// errLogTrimmed means that a reader of the log comes too late.
var errLogTrimmed = errors.New("the log of changes does not reach back so far")

// logReader reads the log, each row once.
type logReader struct {
	archive *archive
	upTo    int64              // all rows up to here were read
	above   map[int64]struct{} // rows above it that were
	heads   []logHead          // what there was above upTo when it was last looked, as far as Next went
	seen    uint64             // the number of that look
}

// together are the calls of readers that ask together. The last answers are kept, if they are
// small: where L3 is a library, most calls are over before another reader can join.
type together struct {
	looks   *loader.Calls[lookAt, logSeen]
	changes *loader.Calls[string, map[int64][]byte] // by the numbers of rows, which never change
	looked  *atomic.Uint64                          // how many looks have begun
}

func newTogether(work func(func())) together {
	few := func(s logSeen) bool { return len(s.heads) <= logKeeps/64 }
	small := func(changes map[int64][]byte) bool {
		n := 0
		for _, b := range changes {
			n += len(b)
		}
		return n <= logKeeps
	}
	return together{loader.NewCalls[lookAt](work, few), loader.NewCalls[string](work, small), new(atomic.Uint64)}
}

// lookAt is a look at what is above a number, by readers who have heard the same news.
type lookAt struct {
	above int64
	news  uint64
}

// logSeen is what a look has seen. Nobody changes the heads.
type logSeen struct {
	heads   []logHead
	trimmed int64
	number  uint64
}

// logRow is a row with its changes.
type logRow struct {
	Number  int64
	Engine  string
	Changes []byte
}

// ReadLog returns a reader that begins with what is written from now on.
func (a *archive) ReadLog(ctx context.Context) (*logReader, error) {
	r, err := a.ReadLogSettled(ctx)
	if err != nil {
		return nil, err
	}
	if err := r.look(ctx, 0, 0); err != nil {
		return nil, err
	}
	for _, h := range r.heads {
		r.above[h.Number] = struct{}{}
	}
	r.advance()
	return r, nil
}

// ReadLogSettled returns a reader that begins a little before that, with what may still have been
// under way somewhere lately.
func (a *archive) ReadLogSettled(ctx context.Context) (*logReader, error) {
	upTo, _, err := a.LogEnd(ctx)
	return &logReader{archive: a, upTo: upTo, above: make(map[int64]struct{})}, err
}

// ReadLogAbove returns a reader that begins above a number of the log of an origin, or
// errLogTrimmed when that is none of this L3, or was never reached: the database has gone back.
func (a *archive) ReadLogAbove(ctx context.Context, origin string, upTo int64) (*logReader, error) {
	_, last, err := a.LogEnd(ctx)
	if err != nil {
		return nil, err
	}
	r := &logReader{archive: a, upTo: upTo, above: make(map[int64]struct{})}
	if origin != r.Origin() || upTo > last {
		return nil, errLogTrimmed
	}
	return r, r.look(ctx, 0, 0)
}

// Origin names the L3 whose log it is, in letters and digits.
func (r *logReader) Origin() string {
	id := strings.ReplaceAll(r.archive.Identity(), "-", "")
	return id[:min(len(id), 12)]
}

// UpTo returns the number up to which all rows were read.
func (r *logReader) UpTo() int64 { return r.upTo }

// Place names where all was read up to, with the origin.
func (r *logReader) Place() string { return r.Origin() + "/" + strconv.FormatInt(r.upTo, 10) }

// Fork returns a reader that begins where this one stands.
func (r *logReader) Fork() *logReader {
	f := *r
	f.above = maps.Clone(r.above)
	return &f
}

// Seen is the number of the last look: looks with higher ones began after it. Readers of one engine
// with the same number have seen the same.
func (r *logReader) Seen() uint64 { return r.seen }

// Looked returns the highest number of a look that has begun.
func (a *archive) Looked() uint64 { return a.together.looked.Load() }

// Next returns the next rows, at most so many, and whether there are more. It returns them again
// until Done is told of them. After errLogTrimmed the reader is of no use.
//
// Readers ask together if they name the same news: what they get may be older than their call, but
// not than those news. A look that was over before the call has a number above after. With the news
// 0 a reader asks alone.
func (r *logReader) Next(ctx context.Context, most int, news, after uint64) (rows []logRow, more bool, err error) {
	if err := r.look(ctx, news, after); err != nil {
		return nil, false, err
	}
	var numbers []int64
	for i, h := range r.heads {
		if _, read := r.above[h.Number]; read {
			continue
		}
		if more = len(numbers) == most; more {
			r.heads = slices.Clone(r.heads[:i]) // the rest is looked at again, and many until then
			break
		}
		numbers, rows = append(numbers, h.Number), append(rows, logRow{Number: h.Number, Engine: h.Engine})
	}
	if len(rows) == 0 {
		return nil, false, nil
	}
	changes, err := r.archive.changesOf(ctx, numbers, news)
	if err != nil {
		return nil, false, err
	}
	for i := range rows {
		b, ok := changes[rows[i].Number]
		if !ok {
			return nil, false, errLogTrimmed
		}
		rows[i].Changes = b
	}
	return rows, more, nil
}

// Done notes that a row was read.
func (r *logReader) Done(number int64) {
	r.above[number] = struct{}{}
	r.advance()
}

func (r *logReader) look(ctx context.Context, news, after uint64) error {
	seen, err := r.archive.lookAbove(ctx, r.upTo, news, after)
	switch {
	case err != nil:
		return err
	case seen.trimmed > r.upTo:
		return errLogTrimmed
	}
	r.heads, r.seen = seen.heads, seen.number
	r.advance() // what was read before may be settled now
	return nil
}

// lookAbove looks at what is above a number. What is asked together does not end with one caller.
func (a *archive) lookAbove(ctx context.Context, above int64, news, after uint64) (logSeen, error) {
	look := func(ctx context.Context) (s logSeen, err error) {
		s.number = a.together.looked.Add(1)
		s.heads, s.trimmed, err = a.LogHeads(ctx, above)
		return s, err
	}
	if news == 0 {
		return look(ctx)
	}
	late := func(s logSeen) bool { return s.number > after }
	return a.together.looks.Do(ctx, lookAt{above, news}, late, func() (logSeen, error) { return look(a.Background(ctx)) })
}

// changesOf returns the changes of rows.
func (a *archive) changesOf(ctx context.Context, numbers []int64, news uint64) (map[int64][]byte, error) {
	if news == 0 {
		return a.LogChanges(ctx, numbers)
	}
	any := func(map[int64][]byte) bool { return true }
	return a.together.changes.Do(ctx, fmt.Sprint(numbers), any, func() (map[int64][]byte, error) { return a.LogChanges(a.Background(ctx), numbers) })
}

// advance finds up to where all rows were read.
func (r *logReader) advance() {
	for len(r.heads) > 0 {
		h := r.heads[0]
		if _, read := r.above[h.Number]; !read || h.Number != r.upTo+1 && !h.Settled {
			return
		}
		delete(r.above, h.Number)
		r.upTo, r.heads = h.Number, r.heads[1:]
	}
}

func (s *sqlStore) Sizes(ctx context.Context, ids []string) (map[string]int, error) {
	sizes := make(map[string]int, len(ids))
	err := s.lookup(ctx, "heads", "id, LENGTH(content)", ids, func(rows *sql.Rows) error {
		var id string
		var n sql.NullInt64
		err := rows.Scan(&id, &n)
		sizes[id] = int(n.Int64)
		return err
	})
	return sizes, err
}

// Sizes returns how many bytes the contents of rows have.
func (a *archive) Sizes(ctx context.Context, ids []string) (sizes map[string]int, err error) {
	err = a.Call(ctx, "log", func(ctx context.Context) (err error) {
		sizes, err = a.log.Sizes(ctx, ids)
		return err
	})
	return sizes, err
}
