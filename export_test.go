package syncengine

// export_test.go lends rooms of the engine to the tests beside it that are outside the package.
// Tests in other packages have internal/backdoor.

import (
	"context"
	"database/sql"
	"log/slog"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

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
var OpenSQLStore = openSQLStore

func testCodec() codec {
	c, err := newCodec(&Config{})
	if err != nil {
		panic(err)
	}
	return c
}

// NewSQLStore is L3 as Open makes it from Config.DB.
func NewSQLStore(d Dialect, db *sql.DB) ArchiveStore {
	return NewSQLStoreNamed(d, db, "")
}

// NewSQLStoreNamed is NewSQLStore with a TablePrefix.
func NewSQLStoreNamed(d Dialect, db *sql.DB, tablePrefix string) ArchiveStore {
	return newSQLStore(sqlkit.Dialect(d), sqlkit.OnePool(db, sqlkit.Dialect(d), tablePrefix), testCodec(), false)
}

// PrepareInSteps is that of a SQL store.
func PrepareInSteps(ctx context.Context, s ArchiveStore, each time.Duration) error {
	return s.(*sqlStore).PrepareInSteps(ctx, each)
}

// Exec runs a statement as a store's own connections do.
func Exec(ctx context.Context, s ArchiveStore, text string) error {
	_, err := s.(*sqlStore).pools.Write.ExecContext(ctx, text)
	return err
}

// KnownOf is how many of so many rows a store knows that may take so many bytes for them, and how
// many it has places for.
func KnownOf(bytes int64, rows int) (known, places int) {
	k := &new(sqlStore).Remembering(bytes).known
	for n := range rows {
		k.grow(1)
		k.set(knownKey(strconv.Itoa(n)), knownRow{version: uint64(n + 1)})
	}
	for n := range rows {
		if row := k.find(knownKey(strconv.Itoa(n))); row != nil && row.version == uint64(n+1) {
			known++
		}
	}
	return known, len(k.sets) * knownWays
}

// Known is the version of which a store takes a row to be, 0 if it knows nothing of it, and how
// much it doubts what it knows.
func Known(s ArchiveStore, id string) (version uint64, doubt int) {
	k := &s.(*sqlStore).known
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.sets != nil {
		if row := k.find(knownKey(id)); row != nil {
			version = row.version
		}
	}
	return version, k.doubt
}

// ArchiveDigester is what an L3 of ours can do besides.
type ArchiveDigester = archiveDigester

// SetLeafWindow makes Leaves of a store look at n ids at a time.
func SetLeafWindow(s ArchiveStore, n int) { s.(*sqlStore).window = n }

// RebuildFilter builds the filter's set anew, if the engine is alone.
func RebuildFilter(ctx context.Context, e *Engine) error {
	return e.trust.warmFilter(ctx, roomNone)
}

// Marks counts the ids of which something is on its way into the log, or that somebody watches.
func Marks(e *Engine) int {
	e.numbers.mu.Lock()
	defer e.numbers.mu.Unlock()
	return len(e.numbers.marks)
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
	return sqlkit.Migrate(ctx, sqlkit.NewDB(db, sqlkit.Dialect(d), ""), sqlkit.Dialect(d), schemaTable, migrations[sqlkit.Dialect(d)][:n])
}

// PlacesInWAL returns how many ops have a place in the WAL, and their bytes.
func PlacesInWAL(e *Engine) (items, bytes int64) { return e.wal.items.Load(), e.wal.bytes.Load() }

// The departments, as their own tests build them: without an engine, on stores of the test's.
type (
	Door    = door
	Journal = journal
	Cache   = cache
	Archive = archive
	OpEntry = entry
)

// NewDoor is a door that is open.
var NewDoor = newDoor

// NewJournal opens a log in a directory. Its loop runs until the test ends.
func NewJournal(t testing.TB, dir string, items, bytes int64) *Journal {
	t.Helper()
	j := newJournal(walLimits{items, bytes, 1})
	if err := j.Open(context.Background(), filepath.Join(dir, "wal.db"), false, 1<<20, 0); err != nil {
		t.Fatal(err)
	}
	var loop sync.WaitGroup
	loop.Go(j.Run)
	t.Cleanup(func() {
		j.End()
		loop.Wait()
		if err := j.Close(); err != nil {
			t.Error(err)
		}
	})
	return j
}

// quietNews tells events alone.
func quietNews(t testing.TB, on Events) *news {
	n := newNews(slog.New(slog.DiscardHandler), on)
	var loop sync.WaitGroup
	loop.Go(n.Run)
	t.Cleanup(func() {
		n.End(context.Background())
		loop.Wait()
	})
	return n
}

// NewCacheOf is the department of L2 on a store.
func NewCacheOf(t testing.TB, store CacheStore, j *Journal, on Events) *Cache {
	n := quietNews(t, on)
	c := newCache(newServer("L2", time.Second, BreakerDefault, n, newDoor()), j, n)
	c.Use(store, false)
	return c
}

// NewArchiveOf is the department of L3 on a store.
func NewArchiveOf(t testing.TB, store ArchiveStore, on Events) *Archive {
	n := quietNews(t, on)
	a := newArchive(newServer("L3", time.Second, BreakerDefault, n, newDoor()), n)
	a.Use(store, false, false)
	return a
}

// Hear is what a message does.
func (p *push) Hear(message []byte) { p.hear(message) }

// NewEntry is an op that has its version.
func NewEntry(id string, version uint64, content string) *OpEntry {
	return newEntry(&Record{Item: Item{ID: id, Version: version, Content: []byte(content)}})
}

// AppendTo puts a unit into a log and returns the number of its segment.
func AppendTo(j *Journal, ops ...*OpEntry) (segment int64, err error) {
	done := make(chan struct{})
	j.Append(ops, ops[0].version, nil, func(s *segmentOf, _ bool, e error) {
		if err = e; e == nil {
			segment = s.id
		}
		close(done)
	})
	<-done
	return segment, err
}

type segmentOf = segment

// IDOf and VersionOf tell what an op is.
func IDOf(e *OpEntry) string      { return e.id() }
func VersionOf(e *OpEntry) uint64 { return e.version }

// NewReading begins what a call reads of the WAL that asks for many ids.
var NewReading = newReading

// Compacter is what an L3 of ours can do with merges.
type Compacter = compacter

// MetricOperations are the operations whose series are made at Open, by tier.
func MetricOperations() map[string][]string { return operations }
