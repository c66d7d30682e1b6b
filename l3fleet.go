package syncengine

// l3fleet.go keeps, in L3, which engines write there. fleet.go says what for and how the
// engines use it; this is the table and its rules:
//
//   - An engine has a row while it may write. Its id is never used again; tickets rise, and
//     rows become visible in the order of their tickets (joins take a lock).
//   - A transaction begins with a write to a fence of its engine, and ends there when the fence
//     is gone. So when somebody has removed the fence, no write of that engine can come any more,
//     however long it was asleep; Galera certifies the write, as it would not a shared lock. A
//     fence is a few rows of a table of its own, of which a transaction takes any one: flights
//     don't wait for each other, nor does the beat for them. Who joins has no fence yet, and takes
//     one that is there for all that do: so they come one after the other.
//   - Who is frozen in a transaction keeps its fence, until that ends: the server ends it after
//     fleetLease, on the sessions of a URL on MariaDB. MySQL has no such limit, nor may a pool of
//     the caller's have one, so who finds a member without a beat for a lease and its fence locked
//     ends it as well: the fence says, to those that read what is not committed, on which
//     connection it was written to. That goes for one that has held the fence of joins for as long
//     as well. Nobody waits for that: the next beat tries again. What does without a fence is one
//     statement that leaves nothing open: a beat, the two by which an engine leaves.
//   - A row may be removed by its engine, by the next engine on the same Dir, or by anybody
//     who has seen its count of beats stand still for a lease. No clocks are compared.
//   - The engine whose private file this is does not beat, and nobody removes its row.

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/hex"
	"errors"
	rand2 "math/rand/v2"
	"strings"
	"time"

	"github.com/syncengine-go/syncengine/internal/sqlkit"
)

// member is another engine in the table.
type member struct {
	ID     string
	Name   string // for people
	Ticket int64
	Seen   int64         // the highest ticket this engine has noticed
	Clock  uint64        // its time, as a version
	Ahead  time.Duration // of L3's clock, on purpose: see fleettime.go
	Beats  int64         // beatsNot: it never beats
}

// registrar is an L3 that keeps a table of its engines.
type registrar interface {
	// Join adds an engine that has beaten so often and returns its ticket, 0 if another one is
	// joining. dead are engines known to be no more; for one that never beats they are all others
	// that never do. name is for people who look at the table.
	Join(ctx context.Context, id, name string, beats int64, dead []string) (ticket int64, err error)
	// Members returns the other engines, and the time on L3's clock.
	Members(ctx context.Context, id string) (others []member, now time.Time, err error)
	// Beat notes that the engine me.ID is alive, and Seen, Clock and Ahead. gone tells that its row
	// was removed.
	Beat(ctx context.Context, me member) (gone bool, err error)
	// Evict removes an engine if it has not beaten since m was read. by is the engine that does so.
	Evict(ctx context.Context, by string, m member) error
	// Leave removes an engine.
	Leave(ctx context.Context, id string) error
	// Fence makes all that is written from now on demand the fence of an engine; "" demands none.
	Fence(id string)
}

const beatsNot = -1

// errFenced means that somebody has removed this engine's row: it must join again.
var errFenced = errors.New("this engine was taken for dead by another one")

func (s *sqlStore) Join(ctx context.Context, id, name string, beats int64, dead []string) (ticket int64, err error) {
	free := true
	err = s.run(ctx, "join", func() error {
		if free, err = s.mayJoin(ctx); err != nil || !free {
			return err
		}
		return s.transact(ctx, "", func(tx *sqlkit.Tx) error {
			if err := s.holdJoins(ctx, tx); err != nil {
				return err
			}
			dead := dead
			if beats == beatsNot { // there is one owner at a time
				if dead, err = s.owners(ctx, tx); err != nil {
					return err
				}
			}
			args := []any{id}
			for _, d := range dead {
				args = append(args, d)
			}
			if _, err := tx.ExecContext(ctx, "DELETE FROM sync_instances WHERE id IN (?"+strings.Repeat(",?", len(dead))+")", args...); err != nil {
				return err
			}
			res, err := tx.ExecContext(ctx, "INSERT INTO sync_instances (id, name, seen, beats) VALUES (?, ?, 0, ?)", id, name, beats)
			if err != nil {
				return err
			}
			if ticket, err = res.LastInsertId(); err != nil {
				return err
			}
			if _, err := tx.ExecContext(ctx, "DELETE FROM sync_fences WHERE engine IN (?"+strings.Repeat(",?", len(dead))+")", args...); err != nil {
				return err
			}
			fence := make([]any, 0, 2*fenceSlots)
			for slot := range fenceSlots {
				fence = append(fence, id, slot)
			}
			_, err = tx.ExecContext(ctx, "INSERT INTO sync_fences (engine, slot) VALUES (?,?)"+strings.Repeat(",(?,?)", fenceSlots-1), fence...)
			return err
		})
	})
	if err == nil && !free {
		return 0, s.run(ctx, "join", func() error { return s.endJoin(ctx) })
	}
	if err == nil { // a thousand engines that live for a second leave no more to fold than one
		var left int32
		if s.pools.Write.QueryRowContext(ctx, "SELECT COUNT(*) FROM (SELECT id FROM sync_deltas LIMIT ?) AS d", foldEvery).Scan(&left) == nil {
			s.deltas.Add(left)
		}
	}
	return ticket, err
}

// owners returns the engines that do not beat.
func (s *sqlStore) owners(ctx context.Context, tx *sqlkit.Tx) (ids []string, err error) {
	rows, err := tx.QueryContext(ctx, "SELECT id FROM sync_instances WHERE beats = ?", beatsNot)
	if err != nil {
		return nil, err
	}
	for rows.Next() && err == nil {
		var id string
		err = rows.Scan(&id)
		ids = append(ids, id)
	}
	return ids, errors.Join(err, rows.Err(), rows.Close())
}

// fenceSlots is how many rows a fence has.
const fenceSlots = 16

// serverTime is the server's clock in microseconds of UTC, whatever the session's time zone.
func (s *sqlStore) serverTime() string {
	if s.dialect == sqlkit.MySQL {
		return "TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))"
	}
	return "CAST(ROUND((julianday('now') - 2440587.5) * 86400000) AS INTEGER) * 1000 + 500" // the middle of its millisecond
}

func (s *sqlStore) Members(ctx context.Context, id string) (out []member, now time.Time, err error) {
	err = s.run(ctx, "members", func() error {
		out = nil
		// On the writing pool: a replica would not do.
		rows, err := s.pools.Write.QueryContext(ctx, "SELECT id, name, ticket, seen, beats, clock, ahead, "+s.serverTime()+" FROM sync_instances")
		if err != nil {
			return err
		}
		for rows.Next() && err == nil {
			var m member
			var seen, beats, clock, ahead number // one bad row of a dead engine must not stop all others
			var micros int64
			err = rows.Scan(&m.ID, &m.Name, &m.Ticket, &seen, &beats, &clock, &ahead, &micros)
			m.Seen, m.Beats, m.Clock = seen.value, beats.value, uint64(max(clock.value, 0))
			m.Ahead, now = time.Duration(ahead.value)*time.Microsecond, time.UnixMicro(micros)
			if m.ID != id {
				out = append(out, m)
			}
		}
		if err := errors.Join(err, rows.Err(), rows.Close()); err != nil || !now.IsZero() {
			return err
		}
		var micros int64 // there is no row
		err = s.pools.Write.QueryRowContext(ctx, "SELECT "+s.serverTime()).Scan(&micros)
		now = time.UnixMicro(micros)
		return err
	})
	return out, now, err
}

func (s *sqlStore) Beat(ctx context.Context, me member) (gone bool, err error) {
	const text = "UPDATE sync_instances SET beats = beats + 1, seen = ?, clock = ?, ahead = ? WHERE id = ?"
	err = s.run(ctx, "beat", func() error {
		n, err := s.alone(ctx, text, me.Seen, int64(me.Clock), me.Ahead.Microseconds(), me.ID)
		gone = err == nil && n == 0
		return err
	})
	return gone, err
}

func (s *sqlStore) Evict(ctx context.Context, by string, m member) error {
	free := true
	err := s.run(ctx, "evict", func() error {
		return s.transact(ctx, by, func(tx *sqlkit.Tx) (err error) {
			if free, err = s.lockFence(ctx, tx, m.ID); err != nil || !free {
				return err
			}
			res, err := tx.ExecContext(ctx, "DELETE FROM sync_instances WHERE id = ? AND beats = ?", m.ID, m.Beats)
			if err != nil {
				return err
			}
			if n, err := res.RowsAffected(); err != nil || n == 0 {
				return err // it has beaten meanwhile
			}
			_, err = tx.ExecContext(ctx, "DELETE FROM sync_fences WHERE engine = ?", m.ID)
			return err
		})
	})
	if err == nil && !free {
		err = s.run(ctx, "evict", func() error { return s.endOpen(ctx, m.ID) })
	}
	return err
}

// endOpen ends the connections of an engine on which a transaction is open that has written to its
// fence: those of the slots in which there is the same thing twice that is not committed. Nobody
// may end a connection of another account, unless an administrator: then the transaction stays.
func (s *sqlStore) endOpen(ctx context.Context, engine string) error {
	before, err := s.fenceNow(ctx, engine, sql.LevelReadUncommitted)
	if err != nil {
		return err
	}
	committed, err := s.fenceNow(ctx, engine, sql.LevelReadCommitted)
	if err != nil {
		return err
	}
	now, err := s.fenceNow(ctx, engine, sql.LevelReadUncommitted)
	if err != nil {
		return err
	}
	for slot, writes := range now {
		if conn := writes / fenceWrites; conn > 0 && writes == before[slot] && writes != committed[slot] {
			if err := sqlkit.Kill(ctx, s.pools.Write, conn); err != nil {
				return err
			}
		}
	}
	return nil
}

// fenceNow returns what stands in the slots of a fence.
func (s *sqlStore) fenceNow(ctx context.Context, engine string, level sql.IsolationLevel) (map[int]int64, error) {
	tx, err := s.pools.Write.BeginTx(ctx, &sql.TxOptions{Isolation: level})
	if err != nil {
		return nil, err
	}
	defer tx.Rollback() // it was only read
	rows, err := tx.QueryContext(ctx, "SELECT slot, writes FROM sync_fences WHERE engine = ?", engine)
	if err != nil {
		return nil, err
	}
	out := make(map[int]int64)
	for rows.Next() && err == nil {
		var slot int
		var writes int64
		err = rows.Scan(&slot, &writes)
		out[slot] = writes
	}
	return out, errors.Join(err, rows.Err(), rows.Close())
}

// lockFence locks the rows of an engine, unless a transaction of its own holds one of them.
func (s *sqlStore) lockFence(ctx context.Context, tx *sqlkit.Tx, id string) (free bool, err error) {
	if s.dialect == sqlkit.SQLite {
		return true, nil // there is one transaction at a time
	}
	for _, text := range []string{"SELECT 1 FROM sync_instances WHERE id = ? FOR UPDATE NOWAIT", "SELECT 1 FROM sync_fences WHERE engine = ? FOR UPDATE NOWAIT"} {
		if free, err = lockRows(ctx, tx, text, id); err != nil || !free {
			return false, err
		}
	}
	return true, nil
}

// lockRows runs a SELECT ... FOR UPDATE NOWAIT for its locks.
func lockRows(ctx context.Context, in interface {
	QueryContext(ctx context.Context, text string, args ...any) (*sql.Rows, error)
}, text, id string) (free bool, err error) {
	rows, err := in.QueryContext(ctx, text, id)
	if err == nil {
		for rows.Next() { // the locks are all that is wanted
		}
		err = errors.Join(rows.Err(), rows.Close())
	}
	if sqlkit.LockHeld(err) {
		return false, nil
	}
	return err == nil, err
}

const (
	// joins is whose fence those hold that join. It has one slot.
	joins = "joins"
	// Who has been joining for so long is frozen.
	joinFor = 5 * time.Second
)

// mayJoin reports whether no other engine is joining. It leaves no lock.
func (s *sqlStore) mayJoin(ctx context.Context) (free bool, err error) {
	if s.dialect == sqlkit.SQLite {
		return true, nil // there is one transaction at a time
	}
	return lockRows(ctx, s.pools.Write, "SELECT 1 FROM sync_fences WHERE engine = ? FOR UPDATE NOWAIT", joins)
}

// holdJoins makes those that join commit in the order of their tickets. It is the first thing that
// a transaction does: who is frozen in one has written to the fence.
func (s *sqlStore) holdJoins(ctx context.Context, tx *sqlkit.Tx) error {
	if s.dialect == sqlkit.SQLite {
		return nil
	}
	_, err := tx.ExecContext(ctx, "INSERT INTO sync_fences (engine, slot, writes) VALUES (?, 0, CONNECTION_ID() * 1000000) ON DUPLICATE KEY UPDATE writes = "+s.fenceCount(), joins)
	return err
}

// endJoin ends the transaction of one that has been joining for a lease.
func (s *sqlStore) endJoin(ctx context.Context) error {
	now, err := s.fenceNow(ctx, joins, sql.LevelReadUncommitted)
	if err != nil {
		return err
	}
	s.mu.Lock()
	if s.joining != now[0] {
		s.joining, s.joiningSince = now[0], time.Now()
	}
	frozen := time.Since(s.joiningSince) > joinFor
	s.mu.Unlock()
	if !frozen {
		return nil
	}
	return s.endOpen(ctx, joins)
}

func (s *sqlStore) Leave(ctx context.Context, id string) error {
	return s.run(ctx, "leave", func() error {
		if _, err := s.alone(ctx, "DELETE FROM sync_fences WHERE engine = ?", id); err != nil { // first: without these it writes nothing
			return err
		}
		_, err := s.alone(ctx, "DELETE FROM sync_instances WHERE id = ?", id)
		return err
	})
}

func (s *sqlStore) Fence(id string) { s.fence.Store(&id) }

// fenceID is the engine that Fence has told.
func (s *sqlStore) fenceID() string {
	if id := s.fence.Load(); id != nil {
		return *id
	}
	return ""
}

// fenceOf returns what begins a transaction: it fails unless the fence of an engine is there, and
// keeps it there until the transaction ends. For "" there is nothing to hold.
func (s *sqlStore) fenceOf(ctx context.Context, engine string) (hold func(tx *sqlkit.Tx) error, err error) {
	if engine == "" {
		return func(*sqlkit.Tx) error { return nil }, nil
	}
	st, err := s.stmt(ctx, s.pools.Write, s.fenceText()) // not in the transaction: there may be no other connection
	if err != nil {
		return nil, err
	}
	return func(tx *sqlkit.Tx) error {
		res, err := tx.StmtContext(ctx, st).ExecContext(ctx, engine, rand2.IntN(fenceSlots))
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n > 0 {
			return err
		}
		return errFenced
	}, nil
}

// A fence counts writes, up to fenceWrites and from 0 again; above that it has the connection of
// the last one, for endOpen.
const fenceWrites = 1_000_000

func (s *sqlStore) fenceCount() string {
	if s.dialect == sqlkit.SQLite {
		return "writes + 1"
	}
	return "CONNECTION_ID() * 1000000 + MOD(writes + 1, 1000000)" // % is none with sql_mode ORACLE
}

func (s *sqlStore) fenceText() string {
	return "UPDATE sync_fences SET writes = " + s.fenceCount() + " WHERE engine = ? AND slot = ? AND EXISTS (SELECT 1 FROM sync_instances WHERE id = engine)"
}

// newEngineID returns an id that is never used again.
func newEngineID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // crypto/rand does not fail
	return hex.EncodeToString(b[:])
}
