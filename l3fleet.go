package syncengine

// l3fleet.go keeps, in L3, which engines write there. fleet.go says what for and how the
// engines use it; this is the table and its rules:
//
//   - An engine has a row while it may write. Its id is never used again; tickets rise, and
//     rows become visible in the order of their tickets (joins take a lock).
//   - Apply writes nothing unless its engine has a fence, and writes to it. So when somebody has
//     removed the fence, no write of that engine can come any more, however long it was asleep;
//     Galera certifies the write, as it would not a shared lock. A fence is a few rows of a table
//     of its own, of which a transaction takes any one: flights don't wait for each other, nor
//     does the beat for them.
//   - Who is frozen in a transaction keeps its fence, until that ends: the server ends it after
//     fleetLease, on the sessions of a URL on MariaDB. MySQL has no such limit, nor may a pool of
//     the caller's have one, so who finds a member without a beat for a lease and its fence locked
//     ends it as well: the fence says, to those that read what is not committed, on which
//     connection it was written to. Nobody waits for that: the next beat tries again. A beat is one
//     statement, which leaves nothing open. Joining and evicting write to no fence of their own:
//     who is frozen in these, without such a limit, holds up others that join.
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
	// Join adds an engine that has beaten so often and returns its ticket. dead are engines known
	// to be no more. name is for people who look at the table.
	Join(ctx context.Context, id, name string, beats int64, dead []string) (ticket int64, err error)
	// Members returns the other engines, and the time on L3's clock, zero when there is no row at
	// all.
	Members(ctx context.Context, id string) (others []member, now time.Time, err error)
	// Beat notes that the engine me.ID is alive, and Seen, Clock and Ahead. gone tells that its row
	// was removed.
	Beat(ctx context.Context, me member) (gone bool, err error)
	// Evict removes an engine if it has not beaten since m was read.
	Evict(ctx context.Context, m member) error
	// Leave removes an engine.
	Leave(ctx context.Context, id string) error
	// Fence makes Apply demand the row of an engine; "" demands none.
	Fence(id string)
}

const beatsNot = -1

// errFenced means that somebody has removed this engine's row: it must join again.
var errFenced = errors.New("this engine was taken for dead by another one")

func (s *sqlStore) Join(ctx context.Context, id, name string, beats int64, dead []string) (ticket int64, err error) {
	err = s.run(ctx, "join", func() error {
		return s.inTx(ctx, func(tx *sqlkit.Tx) error {
			if s.dialect == sqlkit.MySQL { // so that joins commit in the order of their tickets, on Galera as well: it certifies no shared locks
				if _, err := tx.ExecContext(ctx, "UPDATE "+schemaTable+" SET applied_at = applied_at + 1 WHERE version = 1"); err != nil {
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
	if err == nil { // a thousand engines that live for a second leave no more to fold than one
		var left int32
		if s.pools.Write.QueryRowContext(ctx, "SELECT COUNT(*) FROM (SELECT id FROM sync_deltas LIMIT ?) AS d", foldEvery).Scan(&left) == nil {
			s.deltas.Add(left)
		}
	}
	return ticket, err
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
			var ahead, micros int64
			err = rows.Scan(&m.ID, &m.Name, &m.Ticket, &m.Seen, &m.Beats, &m.Clock, &ahead, &micros)
			m.Ahead, now = time.Duration(ahead)*time.Microsecond, time.UnixMicro(micros)
			if m.ID != id {
				out = append(out, m)
			}
		}
		return errors.Join(err, rows.Err(), rows.Close())
	})
	return out, now, err
}

func (s *sqlStore) Beat(ctx context.Context, me member) (gone bool, err error) {
	const text = "UPDATE sync_instances SET beats = beats + 1, seen = ?, clock = ?, ahead = ? WHERE id = ?"
	err = s.run(ctx, "beat", func() error { // by itself: who is frozen now leaves no transaction open
		if s.dialect == sqlkit.SQLite { // see writing
			s.writing.Lock()
			defer s.writing.Unlock()
		}
		res, err := s.pools.Write.ExecContext(ctx, text, me.Seen, int64(me.Clock), me.Ahead.Microseconds(), me.ID)
		if err != nil {
			return err
		}
		n, err := res.RowsAffected()
		gone = err == nil && n == 0
		return err
	})
	return gone, err
}

func (s *sqlStore) Evict(ctx context.Context, m member) error {
	free := true
	err := s.run(ctx, "evict", func() error {
		return s.inTx(ctx, func(tx *sqlkit.Tx) (err error) {
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
	defer func() { _ = tx.Rollback() }() // it was only read
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
		rows, err := tx.QueryContext(ctx, text, id)
		if err == nil {
			for rows.Next() { // the locks are all that is wanted
			}
			err = errors.Join(rows.Err(), rows.Close())
		}
		if err != nil {
			if sqlkit.LockHeld(err) {
				return false, nil
			}
			return false, err
		}
	}
	return true, nil
}

func (s *sqlStore) Leave(ctx context.Context, id string) error {
	return s.run(ctx, "leave", func() error {
		return s.inTx(ctx, func(tx *sqlkit.Tx) error {
			if _, err := tx.ExecContext(ctx, "DELETE FROM sync_instances WHERE id = ?", id); err != nil {
				return err
			}
			_, err := tx.ExecContext(ctx, "DELETE FROM sync_fences WHERE engine = ?", id)
			return err
		})
	})
}

func (s *sqlStore) Fence(id string) { s.fence.Store(&id) }

// demandFence fails unless the fence of this engine is there, and keeps it there until the
// transaction ends.
func (s *sqlStore) demandFence(ctx context.Context, tx *sqlkit.Tx) error {
	id := s.fence.Load()
	if id == nil || *id == "" {
		return nil
	}
	st, err := s.stmt(ctx, s.pools.Write, s.fenceText())
	if err != nil {
		return err
	}
	res, err := tx.StmtContext(ctx, st).ExecContext(ctx, *id, rand2.IntN(fenceSlots))
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil || n > 0 {
		return err
	}
	return errFenced
}

// A fence counts writes, up to fenceWrites and from 0 again; above that it has the connection of
// the last one, for endOpen.
const fenceWrites = 1_000_000

func (s *sqlStore) fenceText() string {
	writes := "CONNECTION_ID() * 1000000 + (writes + 1) % 1000000"
	if s.dialect == sqlkit.SQLite {
		writes = "writes + 1"
	}
	return "UPDATE sync_fences SET writes = " + writes + " WHERE engine = ? AND slot = ? AND EXISTS (SELECT 1 FROM sync_instances WHERE id = engine)"
}

// newEngineID returns an id that is never used again.
func newEngineID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // crypto/rand does not fail
	return hex.EncodeToString(b[:])
}
