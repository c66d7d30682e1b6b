package syncengine

// export_test.go lends rooms of the engine to the tests outside the package.

import (
	"context"
	"database/sql"

	"github.com/syncengine-go/syncengine/internal/sqlkit"
)

// NewRedisStore is L2 on a client of the test's own.
var NewRedisStore = newRedisStore

// EncodeEnvelope and DecodeEnvelope are the form of a value in L2.
var (
	EncodeEnvelope = encodeEnvelope
	DecodeEnvelope = decodeEnvelope
)

// OpenSQLStore is L3 as Open makes it from Config.SQLURL. Close closes its pools.
func OpenSQLStore(url string) (ArchiveStore, error) {
	src, err := sqlkit.Parse(url)
	if err != nil {
		return nil, err
	}
	pools, err := src.Open()
	if err != nil {
		return nil, err
	}
	return newSQLStore(src.Dialect, pools, true), nil
}

// NewSQLStore is L3 as Open makes it from Config.DB.
func NewSQLStore(d Dialect, db *sql.DB) ArchiveStore {
	return newSQLStore(sqlkit.Dialect(d), sqlkit.Pools{Write: db, Read: db}, false)
}

// ArchiveDigester is what an L3 of ours can do besides.
type ArchiveDigester = archiveDigester

// SetLeafWindow makes Leaves of a store look at n ids at a time.
func SetLeafWindow(s ArchiveStore, n int) { s.(*sqlStore).window = n }

// RebuildFilter builds the filter's set anew, if the engine is alone.
func RebuildFilter(ctx context.Context, e *Engine) error {
	return e.trust.warmFilter(ctx, roomNone)
}

// MakeDir creates Config.Dir as Open does.
func MakeDir(dir string) error {
	cfg := Config{Dir: dir}
	return cfg.makeDir()
}

// Registrar is an L3 that keeps a table of its engines.
type Registrar = registrar

// FoldDeltas folds what may be folded.
func FoldDeltas(ctx context.Context, s ArchiveStore) error { return s.(*sqlStore).fold(ctx) }

// MigrateTo brings a database to the n-th of the migrations.
func MigrateTo(ctx context.Context, db *sql.DB, d Dialect, n int) error {
	return sqlkit.Migrate(ctx, db, sqlkit.Dialect(d), schemaTable, migrations[sqlkit.Dialect(d)][:n])
}

// PlacesInWAL returns how many ops have a place in the WAL, and their bytes.
func PlacesInWAL(e *Engine) (items, bytes int64) { return e.wal.items.Load(), e.wal.bytes.Load() }
