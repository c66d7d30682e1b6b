package oplog

import (
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"
)

// formatVersion is kept as SQLite's user_version. Files of version 0 hold no ledgers, and
// their checksums cover payloads only.
const formatVersion = 1

// schema is stored in each file word for word, and compared with when a file is opened: a
// change here needs a new formatVersion and a step in upgrade.
var schema = [...]struct{ name, text string }{
	{"segments", `CREATE TABLE segments (
		id INTEGER PRIMARY KEY AUTOINCREMENT, -- AUTOINCREMENT: ids are not reused after a trim
		ops INTEGER NOT NULL, at INTEGER NOT NULL, crc INTEGER NOT NULL, payload BLOB NOT NULL)`},
	{"meta", `CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID`},
	{"quarantine", `CREATE TABLE quarantine (
		id INTEGER PRIMARY KEY AUTOINCREMENT, ops INTEGER NOT NULL, at INTEGER NOT NULL, attempts INTEGER NOT NULL,
		error TEXT NOT NULL, crc INTEGER NOT NULL, payload BLOB NOT NULL)`},
}

// A ledger says what its table must hold. It is written in every transaction on the table,
// and so that every commit touches one and the same page: SQLite has no checksum on the
// pages of the main file, and a page that is an older state of itself looks sound. Such
// pages appear when a -wal file goes missing whose checkpoint was cut off.
type (
	// ledger is about segments.
	ledger struct {
		commits int64 // by the loop, ever
		last    int64 // the newest id there ever was
		trimmed int64 // ids up to this one are gone
		rows    int64
		max     int64 // the largest Request.Max
	}
	// sideLedger is about quarantine, and counts the commits beside the loop.
	sideLedger struct {
		commits int64
		last    int64
		rows    int64
		sum     int64 // of all ids present
	}
)

func (l *ledger) fields() []*int64 {
	return []*int64{&l.commits, &l.last, &l.trimmed, &l.rows, &l.max}
}

func (l *sideLedger) fields() []*int64 { return []*int64{&l.commits, &l.last, &l.rows, &l.sum} }

// Keys of meta that the log itself uses.
const (
	ledgerKey     = "ledger"
	sideLedgerKey = "side ledger"
	oldMaxKey     = "max" // of version 0
)

const putMeta = "INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value"

// runner is a connection or a transaction.
type runner interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// seal appends a checksum of key and value to a value of meta.
func seal(key string, value []byte) []byte {
	sum := crc32.Update(crc32.Checksum([]byte(key), castagnoli), castagnoli, value)
	return binary.BigEndian.AppendUint32(value[:len(value):len(value)], sum)
}

// unseal checks and removes the checksum.
func unseal(key string, sealed []byte) ([]byte, error) {
	if n := len(sealed) - crc32.Size; n >= 0 && string(seal(key, sealed[:n])) == string(sealed) {
		return sealed[:n], nil
	}
	return nil, fmt.Errorf("%w: %q does not match its checksum", ErrCorrupt, key)
}

// sealLedger encodes the fields of a ledger.
func sealLedger(key string, fields []*int64) []byte {
	b := make([]byte, 0, 8*len(fields)+crc32.Size)
	for _, f := range fields {
		b = binary.BigEndian.AppendUint64(b, uint64(*f))
	}
	return seal(key, b)
}

// readLedger decodes them from meta.
func readLedger(ctx context.Context, db runner, key string, fields []*int64) error {
	b, err := readMeta(ctx, db, key)
	if err != nil {
		return err
	}
	if len(b) != 8*len(fields) {
		return fmt.Errorf("%w: it holds no %s", ErrCorrupt, key)
	}
	for i, f := range fields {
		*f = int64(binary.BigEndian.Uint64(b[8*i:]))
	}
	return nil
}

// readMeta returns a value of meta, nil when there is none.
func readMeta(ctx context.Context, db runner, key string) (value []byte, err error) {
	err = db.QueryRowContext(ctx, "SELECT value FROM meta WHERE key = ?", key).Scan(&value)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return unseal(key, value)
}

// segmentSum is the checksum of a row of segments.
func segmentSum(s *Segment) int64 {
	return rowSum("", s.Payload, s.ID, int64(s.Ops), s.At)
}

// badSum is the checksum of a row of quarantine.
func badSum(b *Bad) int64 {
	return rowSum(b.Error, b.Payload, b.ID, int64(b.Ops), b.At, int64(b.Attempts))
}

func rowSum(text string, payload []byte, numbers ...int64) int64 {
	head := make([]byte, 0, 40+len(text))
	for _, n := range numbers {
		head = binary.BigEndian.AppendUint64(head, uint64(n))
	}
	return int64(crc32.Update(crc32.Checksum(append(head, text...), castagnoli), castagnoli, payload))
}

// payloadSum is what version 0 had in place of the two above. A row of today whose other
// columns are damaged matches it as seldom as any other number.
func payloadSum(payload []byte) int64 { return int64(crc32.Checksum(payload, castagnoli)) }

// prepare creates the tables in a new file, made, or upgrades an old one.
func prepare(ctx context.Context, conn *sql.Conn) (made bool, err error) {
	version, tables, err := readSchema(ctx, conn)
	if err != nil || version == formatVersion {
		return false, err
	}
	tx, err := conn.BeginTx(ctx, nil)
	if err != nil {
		return false, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, tx.Rollback())
		}
	}()
	if made = tables == 0; made {
		for _, t := range schema {
			if _, err := tx.ExecContext(ctx, t.text); err != nil {
				return false, err
			}
		}
		err = putLedgers(ctx, tx, new(ledger), new(sideLedger))
	} else {
		err = upgrade(ctx, tx)
	}
	if err != nil {
		return false, err
	}
	if _, err := tx.ExecContext(ctx, fmt.Sprintf("PRAGMA user_version = %d", formatVersion)); err != nil {
		return false, err
	}
	return made, tx.Commit()
}

// upgrade gives the tables of version 0 their ledgers.
func upgrade(ctx context.Context, tx *sql.Tx) error {
	old, err := allMeta(ctx, tx)
	if err != nil {
		return err
	}
	var l ledger
	var side sideLedger
	if err := tx.QueryRowContext(ctx, "SELECT COUNT(*), COALESCE(MIN(id) - 1, 0), COALESCE(MAX(id), 0) FROM segments").Scan(&l.rows, &l.trimmed, &l.last); err != nil {
		return err
	}
	if err := tx.QueryRowContext(ctx, "SELECT COUNT(*), COALESCE(SUM(id), 0), COALESCE(MAX(id), 0) FROM quarantine").Scan(&side.rows, &side.sum, &side.last); err != nil {
		return err
	}
	for table, last := range map[string]*int64{"segments": &l.last, "quarantine": &side.last} { // beyond what was deleted
		var seq int64
		if err := tx.QueryRowContext(ctx, "SELECT COALESCE(MAX(seq), 0) FROM sqlite_sequence WHERE name = ?", table).Scan(&seq); err != nil {
			return err
		}
		*last = max(*last, seq)
	}
	for key, value := range old {
		switch key {
		case oldMaxKey:
			if l.max, err = strconv.ParseInt(string(value), 10, 64); err != nil {
				return fmt.Errorf("%w: %s is no number", ErrCorrupt, key)
			}
			_, err = tx.ExecContext(ctx, "DELETE FROM meta WHERE key = ?", key)
		default:
			_, err = tx.ExecContext(ctx, putMeta, key, seal(key, value))
		}
		if err != nil {
			return err
		}
	}
	return putLedgers(ctx, tx, &l, &side)
}

func putLedgers(ctx context.Context, tx *sql.Tx, l *ledger, side *sideLedger) error {
	_, err := tx.ExecContext(ctx, "INSERT INTO meta (key, value) VALUES (?, ?), (?, ?)",
		ledgerKey, sealLedger(ledgerKey, l.fields()), sideLedgerKey, sealLedger(sideLedgerKey, side.fields()))
	return err
}

// allMeta returns the rows of meta as they are stored.
func allMeta(ctx context.Context, db runner) (_ map[string][]byte, err error) {
	rows, err := db.QueryContext(ctx, "SELECT key, value FROM meta")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	all := make(map[string][]byte)
	for rows.Next() {
		var key string
		var value []byte
		if err := rows.Scan(&key, &value); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
		all[key] = value
	}
	return all, rows.Err()
}

// readSchema returns the format of a file and how many of the log's tables it has: none in
// a file that is new, else all.
func readSchema(ctx context.Context, db runner) (version, tables int, err error) {
	if err := db.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
		return 0, 0, err
	}
	found := make(map[string]string)
	rows, err := db.QueryContext(ctx, "SELECT name, sql FROM sqlite_master WHERE type = 'table'")
	if err != nil {
		return 0, 0, err
	}
	for rows.Next() && err == nil {
		var name, text string
		err = rows.Scan(&name, &text)
		found[name] = text
	}
	if err := errors.Join(err, rows.Err(), rows.Close()); err != nil {
		return 0, 0, err
	}
	for _, t := range schema {
		text, ok := found[t.name]
		if ok && text != t.text {
			return 0, 0, fmt.Errorf("%w: table %s is not the one that was made: %s", ErrCorrupt, t.name, strings.ToValidUTF8(text, "?"))
		}
		if ok {
			tables++
		}
	}
	if tables != len(schema) && tables+version > 0 || version < 0 || version > formatVersion {
		return 0, 0, fmt.Errorf("%w: it has format %d and %d tables, this build knows format %d and %d tables: damaged, or written by a newer build",
			ErrCorrupt, version, tables, formatVersion, len(schema))
	}
	return version, tables, nil
}
