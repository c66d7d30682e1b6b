package sqlkit

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/go-sql-driver/mysql"
	"modernc.org/sqlite"
)

// Class is what a driver error means for the caller.
type Class uint8

// The classes. Whether a statement was applied is unknown after Outage; it was
// certainly not applied after the others.
const (
	Outage     Class = iota // the server can't be asked, or can't write just now; repeat later
	Unwritable              // the server answers, but takes no writes: a full disk, read-only; repeat later
	Conflict                // deadlock, lock wait, busy: repeat at once
	Refused                 // this row, for its own sake
	Canceled                // the caller left
	Permanent               // wrong password, unknown database or variable: repeating does not help
	Corrupt                 // the database file is damaged
)

// Classify tells what err means. What it does not know is an Outage: the op is kept and
// tried again.
func Classify(err error) Class {
	if errors.Is(err, context.Canceled) {
		return Canceled
	}
	if _, ok := errors.AsType[*Unfit](err); ok {
		return Permanent
	}
	if me, ok := errors.AsType[*mysql.MySQLError](err); ok {
		return classifyMySQL(me)
	}
	if se, ok := errors.AsType[*sqlite.Error](err); ok {
		return classifySQLite(se.Code())
	}
	if errors.Is(err, mysql.ErrPktTooLarge) {
		return Refused
	}
	return Outage
}

// Number returns the number that the database has for an error, 0 for none. Unlike its text it
// quotes no content.
func Number(err error) int {
	if me, ok := errors.AsType[*mysql.MySQLError](err); ok {
		return int(me.Number)
	}
	if se, ok := errors.AsType[*sqlite.Error](err); ok {
		return se.Code()
	}
	return 0
}

// LockHeld reports whether a statement with NOWAIT met a lock.
func LockHeld(err error) bool {
	me, ok := errors.AsType[*mysql.MySQLError](err)
	return ok && (me.Number == 1205 || me.Number == 3572)
}

// Kill ends a connection of a MySQL server. It is no error that there is none, or that it is
// another account's.
func Kill(ctx context.Context, db *DB, conn int64) error {
	_, err := db.ExecContext(ctx, fmt.Sprintf("KILL CONNECTION %d", conn))
	if me, ok := errors.AsType[*mysql.MySQLError](err); ok && (me.Number == noSuchThread || me.Number == notOwner) {
		return nil
	}
	return err
}

const noSuchThread, notOwner = 1094, 1095

func classifyMySQL(e *mysql.MySQLError) Class {
	switch e.Number {
	case 1213, 1205, 1020: // deadlock, lock wait timeout, record changed since last read
		return Conflict
	case 1044, 1045, 1049, 1698: // access denied, unknown database
		return Permanent
	case 3118, 4151, 3955, 1820, 1862, 3159: // an account that is locked (three forms), whose password has expired (two), that needs TLS
		return Permanent
	case 1193, 1231, 1232, 1238: // a variable of the DSN that the server does not know, or with another value
		return Permanent
	case deniedTable, deniedColumn, deniedPrivilege: // a right that was taken away
		return Unwritable
	case 1290, 1792, 1836, 1874, 3989, 1021, 1026, 1114: // read-only (five forms), disk full, error writing file, table full
		return Unwritable
	case 1153, 1301, 1118, 1197: // packet too long, row too large, transaction too large for the binary log
		return Refused
	case 1105: // "unknown error", which proxies use for outages; the server, for a parameter too long
		if strings.Contains(e.Message, "max_allowed_packet") {
			return Refused
		}
		return Outage
	case 4025, 3819: // CHECK, MariaDB and MySQL
		return Refused
	}
	// SQLSTATE classes: 22 data exception, 23 constraint, 45 raised by a trigger.
	switch string(e.SQLState[:2]) {
	case "22", "23", "45":
		return Refused
	}
	return Outage
}

// SQLite's primary result codes.
const (
	sqliteBusy, sqliteLocked                   = 5, 6
	sqliteReadOnly, sqliteFull                 = 8, 13
	sqliteCorrupt, sqliteNotADB                = 11, 26
	sqliteTooBig, sqliteConstraint, sqliteType = 18, 19, 20
	sqlitePrimaryKey, sqliteUnique             = 1555, 2067 // extended codes
)

func classifySQLite(code int) Class {
	switch code & 0xff { // Code is the extended code
	case sqliteBusy, sqliteLocked:
		return Conflict
	case sqliteReadOnly, sqliteFull:
		return Unwritable
	case sqliteCorrupt, sqliteNotADB:
		return Corrupt
	case sqliteTooBig, sqliteConstraint, sqliteType:
		return Refused
	}
	return Outage
}

// RolledBack reports whether err means that a SQLite transaction certainly left no trace and
// that its handle is sound: the disk was full, or another process held the lock.
func RolledBack(err error) bool {
	se, ok := errors.AsType[*sqlite.Error](err)
	return ok && (se.Code()&0xff == sqliteFull || classifySQLite(se.Code()) == Conflict)
}

// IsDuplicate reports whether err means that a row with that key exists.
func IsDuplicate(err error) bool {
	if se, ok := errors.AsType[*sqlite.Error](err); ok {
		return se.Code() == sqliteUnique || se.Code() == sqlitePrimaryKey
	}
	me, ok := errors.AsType[*mysql.MySQLError](err)
	return ok && me.Number == 1062
}

// Overflow is an expression that fails a statement of MySQL in every sql_mode, and only where it is
// evaluated: a product with a column is no constant. IsOverflow knows the error.
func Overflow(column string) string { return "(ABS(" + column + ") + 2) * 9223372036854775807" }

// IsOverflow reports whether err is that of Overflow.
func IsOverflow(err error) bool {
	me, ok := errors.AsType[*mysql.MySQLError](err)
	return ok && me.Number == 1690
}

// LacksFunction reports whether err means that the server has no function of a statement.
func LacksFunction(err error) bool {
	me, ok := errors.AsType[*mysql.MySQLError](err)
	return ok && me.Number == 1305
}

// isThere reports whether err means that a column or key that was to be added exists, or that one
// that was to be dropped does not.
func isThere(err error) bool {
	me, ok := errors.AsType[*mysql.MySQLError](err)
	return ok && (me.Number == 1060 || me.Number == 1061 || me.Number == 1091)
}

// isNoTable reports whether err means that there is no such table. A caller's pool may have another
// driver of SQLite, with the same words.
func isNoTable(err error) bool {
	if me, ok := errors.AsType[*mysql.MySQLError](err); ok {
		return me.Number == 1146
	}
	return err != nil && strings.Contains(err.Error(), "no such table")
}

// isOther reports whether err means that a table has not the columns that it should have.
func isOther(err error) bool {
	if me, ok := errors.AsType[*mysql.MySQLError](err); ok {
		return me.Number == 1054 || me.Number == 1136
	}
	return err != nil && (strings.Contains(err.Error(), "no such column") || strings.Contains(err.Error(), "has no column"))
}

// isAltered reports whether err means that SQLite has a column that was to be added: there, unlike
// with MySQL, a migration is recorded together with what it makes.
func isAltered(err error) bool { return strings.Contains(err.Error(), "duplicate column name") }
