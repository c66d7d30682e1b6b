package syncengine

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"

	"github.com/syncengine-go/syncengine/internal/rediskit"
	"github.com/syncengine-go/syncengine/internal/sqlkit"
)

// Durability says what a write has reached when Submit returns.
type Durability uint8

// The durability levels. DefaultDurability, the zero value, stands for
// Config.Durability, and there for Logged.
const (
	DefaultDurability Durability = iota
	// Buffered: the item is in L1 and queued. A killed process loses up to one flush
	// interval.
	Buffered
	// Logged: the WAL transaction that holds the op is fsynced. It survives a killed
	// process and, unless WALNoSync is set, power loss.
	Logged
	// Archived: L3 has committed the op.
	Archived
)

// String returns "default", "buffered", "logged" or "archived".
func (d Durability) String() string {
	switch d {
	case Buffered:
		return "buffered"
	case Logged:
		return "logged"
	case Archived:
		return "archived"
	}
	if d != DefaultDurability {
		return fmt.Sprintf("Durability(%d)", d)
	}
	return "default"
}

// Dialect names the SQL dialect of Config.DB.
type Dialect string

// The dialects.
const (
	DialectMySQL  Dialect = "mysql" // MySQL 8 and MariaDB 10.6 or newer
	DialectSQLite Dialect = "sqlite"
)

// Compression of the contents that L3 on SQL stores, of 128 bytes and more, where it makes them
// smaller. Hashes, versions and the other tiers know nothing of it, and it may be turned on and
// off: rows are read whatever is set when they were written; the column encoding of sync_items says
// "zstd" of a compressed one. It needs the build tag compression: without it any value but
// CompressionOff makes Open fail with ErrFeatureNotBuilt, and a compressed row is a
// *CorruptionError that is ErrFeatureNotBuilt as well.
type Compression string

// The compressions.
const (
	CompressionOff  Compression = ""
	CompressionZstd Compression = "zstd"
	// CompressionZstdDictionary makes small documents small, which CompressionZstd leaves as they
	// are: JSON of 270 bytes takes a third, for some ten times the work of not trying. The engine
	// trains a dictionary on the first thousand contents that it stores, and keeps it in the table
	// sync_dictionaries. A row that was compressed with it can't be read without that table: copy
	// and restore the two together.
	CompressionZstdDictionary Compression = "zstd-dictionary"
)

// BreakerPreset says when calls to a server are given up for a while, so that a dead server
// costs nothing. Only outages count, not absent or refused rows. An engine also asks in the
// background, and closes the breaker as soon as the server answers.
type BreakerPreset uint8

// The presets.
const (
	BreakerDefault    BreakerPreset = iota // opens after 5 failures in a row, for 30 s; 2 successes close it
	BreakerAggressive                      // 3 failures, 60 s, 3 successes
	BreakerLenient                         // 10 failures, 15 s, 1 success
)

// AccessStats is what Config.PriorityFunc decides on.
type AccessStats struct {
	ID           string
	Accesses     uint64        // reads seen by this engine's memory
	Idle         time.Duration // since the last of them; 0 when never read
	ContentBytes int
	Priority     Priority // as submitted
}

// Config opens an engine. The zero value of a field means the default in brackets. Open
// copies the struct, so changing it later changes nothing.
type Config struct {
	// Dir is a writable directory, required. It holds wal.db, and archive.db when no other L3
	// is given. Open creates it, for this user alone (0700), when the directory above it exists.
	Dir string
	// SQLURL names L3: "" is SQLite in Dir; "sqlite:PATH";
	// "mysql://user:pass@host:3306/db?tls=true" for MySQL and MariaDB. Options: tls
	// (true, false, skip-verify, preferred), ca_file (of an authority to believe, with
	// tls=true), max_open_conns.
	SQLURL string
	// RedisURL names L2: "" is no L2; "redis://user:pass@host:6379/0", "rediss://" for
	// TLS. Several comma-separated hosts, or ?cluster=true, are a Cluster;
	// ?master_name=NAME is Sentinel.
	RedisURL string
	// DB with Dialect, Redis, L2 and L3 are the caller's own handles and stores instead
	// of the URLs. The engine never closes them. A MySQL DB should have maxAllowedPacket=0
	// in its DSN: otherwise the driver assumes 64 MiB, and documents near the server's limit
	// (16 MiB by default) are refused; on it a transaction takes one round trip more than on
	// the engine's own connections, whose COMMIT the engine can leave, and a read whose context
	// ends before the reply costs its connection. A Redis client should have
	// ContextTimeoutEnabled, or a server that hangs costs a read its read timeout instead of
	// L2Timeout; it gets a hook that notices new connections, for good.
	DB      *sql.DB
	Dialect Dialect
	Redis   redis.UniversalClient
	L2      CacheStore
	L3      ArchiveStore
	// KeyPrefix precedes every id in Redis. That of one database may not begin with that of another
	// ["sync:"].
	KeyPrefix string
	// TablePrefix is what the names of L3's tables begin with, so that one database has room for
	// several namespaces, which know nothing of each other ["sync_"]. Up to 32 lower-case letters,
	// digits and "_", no digit first. On one Redis each needs a KeyPrefix of its own, too. A Dir
	// stays with its namespace while anything waits in it: Open refuses another one. It has no
	// meaning for L3, a store of your own.
	TablePrefix string
	// InstanceID names this engine in logs [random].
	InstanceID string

	// L1MaxBytes is the bound on L1 and the queue together, in bytes; from 64 KiB [256 MiB]. Beside
	// it, what writes copy until memory or the WAL has it is bounded by half of it, at least 4 MiB;
	// a larger call is let in alone. What waits for L3's decision is bounded by as much again.
	// Calls beyond that wait, within their ctx, before they copy.
	L1MaxBytes int64
	// MaxItemBytes is the largest Content, and delta of a Merge, in bytes; at most 1 GiB. The state
	// of an item with a CRDT kind, which merges make larger, has a bound of its own: 16 MiB, as in
	// package crdt [16 MiB].
	MaxItemBytes int64

	// One SubmitMany or DeleteMany is one transaction everywhere, so it is bounded: ops
	// [10,000], and bytes of ids and contents [16 MiB].
	GroupMaxItems int
	GroupMaxBytes int64

	// MaxClockSkew is how far ahead of this engine's clock a version given by WithVersion may
	// lie [1 min].
	MaxClockSkew time.Duration
	// FactoryTimeout bounds the factory of GetOrInsertWith [30 s].
	FactoryTimeout time.Duration

	// DefaultTTL is the time to live of what is put without WithTTL, see there. It does not apply
	// to items with a CRDT kind, which don't expire. An L3 of your own has to be an ExpiringStore
	// for it [0: for ever].
	DefaultTTL time.Duration

	Durability Durability // of Submit and Delete without WithDurability [Logged]

	BatchFlushInterval time.Duration // age at which the first op of a batch makes it due [100 ms]
	BatchFlushCount    int           // ops that make a batch due, at most 100,000 [1000]
	BatchFlushBytes    int64         // bytes of content that make a batch due [1 MiB]
	FlushConcurrency   int           // batches in flight at once, at most 64 [3]

	// Pressure at which each level begins, rising, above 0 and at most 1 [.70 .80 .90
	// .95 .98].
	BackpressureWarn, BackpressureThrottle, BackpressureCritical, BackpressureEmergency, BackpressureShutdown float64

	WALPath     string // the file of the log [Dir/wal.db]
	WALMaxItems int64  // ops the WAL holds at most, quarantine included; at least BatchFlushCount [1,000,000]
	WALMaxBytes int64  // bytes of those ops at most; at least BatchFlushBytes and 1 KiB [1 GiB]
	WALNoSync   bool   // do not fsync the WAL: Logged survives a killed process, not power loss [false]

	FilterWarmupBatch      int           // rows a filter rebuild reads at a time, at most 1,000,000 [10,000]
	FilterSnapshotInterval time.Duration // age at which a changed filter is saved in the WAL file [30 s]
	FilterSnapshotInserts  int           // new ids that make it due before [10,000]

	L2Timeout    time.Duration // bound on one L2 call; from 1 ms [500 ms]
	L3Timeout    time.Duration // bound on one L3 call, and on each step of making the tables and of a recount; from 1 ms [5 s]
	CloseTimeout time.Duration // bound on Close [30 s]
	L2Breaker    BreakerPreset // when calls to L2 are given up for a while [BreakerDefault]
	L3Breaker    BreakerPreset // the same of L3 [BreakerDefault]
	// LockWait is for how long Open waits while another engine has the WAL open, as the one before
	// has in a rolling update until it has ended. Then, and if it is 0, the error is ErrLocked. The
	// context of Open bounds it as well [0].
	LockWait time.Duration

	// How merges of CRDT items are kept in L3, with -tags crdt; see Engine.Compact.
	RetentionFullDays    int           // days for which each merge is kept, at most 100,000 [7]
	RetentionCompactDays int           // days for which a snapshot of each day is kept, from RetentionFullDays on, at most 100,000 [90]
	CompactionInterval   time.Duration // how often what is older is folded [1 h]

	TombstoneRetention time.Duration // how long deletes are remembered [7 days]
	// ChangeRetention is how long L3 keeps the log of which ids were written: so long ago may be
	// what WatchFrom goes on from; from 10 s [10 min]. A change takes some 10 bytes.
	ChangeRetention time.Duration
	// L1MaxAge is the age at which a clean L1 entry is compared with the tiers below, so that
	// writes of other engines are seen; to 100 ms [30 s]. Without effect on the SQLite file
	// in Dir, which no other engine is meant to write. While no tier can be asked, the entry
	// is served as it is, see StaleFor.
	L1MaxAge time.Duration

	// AbsentFor is for how long it is remembered that L3 has nothing of an id, so that asking
	// again costs no I/O, while the filter can't answer, since other engines write. An id that
	// another one inserts is then found after that time, or within milliseconds where messages
	// come (NoPush). It takes memory within L1MaxBytes; conditions and Update don't go by it
	// [0: not at all].
	AbsentFor time.Duration
	// StaleFor is for how long past L1MaxAge a copy in memory is served while L3 can't be asked,
	// with Item.Stale set: what stale-if-error is to HTTP. Then reads are ErrUnavailable. Negative:
	// they are at once. What this engine has written and L3 has not is served in any case [0: no
	// limit].
	StaleFor time.Duration

	// NoPush turns off messages between engines that share L3 and Redis, by which each drops its
	// copies of what another one has written, within milliseconds [they are on]. Without them, and
	// without Redis, each looks into the log of changes in L3 twice a second. An engine that is
	// alone sends none.
	NoPush bool

	// VerifyInterval is how often L2 is compared with L3 in the background, and repaired. It is
	// also done soon after Open, and when L2 is back from an outage; from 1 ms [1 h]. Below 0 for
	// never: L2 still gets what it is known to have missed, and Verify compares.
	VerifyInterval time.Duration

	Compression      Compression // of contents in L3, with -tags compression [CompressionOff]
	CompressionLevel int         // zstd's, from 1, the fastest, to 22; more than 6 means the same as 6 [1]

	// PriorityFunc decides the flush priority of a put whose id is in L1. It runs on the
	// submitting goroutine and must not block; a panic in it is recovered and the
	// item's own priority used. nil: Item.Priority, but an op of PriorityNormal is flushed like
	// one of PriorityHigh when its id was read 16 times from memory, the last time within the
	// last minute; so are deletes. WithPriority is never changed.
	PriorityFunc func(AccessStats) Priority

	// Logger is told of state changes and what goes wrong, at times with an id, never contents. Its
	// handler runs on the engine's goroutines, in the order of what happens: it must neither block
	// nor wait for the engine, as functions of OnEvent may [silent].
	Logger     *slog.Logger
	Registerer prometheus.Registerer // where metrics are registered [none]
	OnEvent    Events                // optional functions
}

const (
	maxFlushCount    = 100_000
	maxWarmupBatch   = 1_000_000 // a page is in memory as a whole
	maxRetentionDays = 100_000   // as nanoseconds an int64 holds 106,751 days
	leastWAL         = 1 << 10   // bytes: a log that can't hold one op refuses everything
	// leastWait bounds from below what nothing can be done in, and what a loop must not turn in.
	leastWait  = time.Millisecond
	lockSuffix = ".lock"
	// logSettle is how long a transaction may take from when its row of the log got its number:
	// twice as long as the server lets it stand still.
	logSettle   = 10 * time.Second
	changesKept = 10 * time.Minute
)

// withDefaults returns a copy of c in which zero values are replaced.
func (c Config) withDefaults() Config {
	def(&c.KeyPrefix, "sync:")
	def(&c.TablePrefix, sqlkit.Prefix)
	if c.InstanceID == "" {
		var b [8]byte
		_, _ = rand.Read(b[:]) // crypto/rand does not fail
		c.InstanceID = hex.EncodeToString(b[:])
	}
	def(&c.L1MaxBytes, 256<<20)
	def(&c.MaxItemBytes, 16<<20)
	def(&c.GroupMaxItems, 10_000)
	def(&c.GroupMaxBytes, 16<<20)
	def(&c.MaxClockSkew, time.Minute)
	def(&c.FactoryTimeout, 30*time.Second)
	def(&c.Durability, Logged)
	def(&c.BatchFlushInterval, 100*time.Millisecond)
	def(&c.BatchFlushCount, 1000)
	def(&c.BatchFlushBytes, 1<<20)
	def(&c.FlushConcurrency, 3)
	def(&c.BackpressureWarn, .70)
	def(&c.BackpressureThrottle, .80)
	def(&c.BackpressureCritical, .90)
	def(&c.BackpressureEmergency, .95)
	def(&c.BackpressureShutdown, .98)
	if c.WALPath == "" && c.Dir != "" {
		c.WALPath = filepath.Join(c.Dir, "wal.db")
	}
	def(&c.WALMaxItems, 1_000_000)
	def(&c.WALMaxBytes, 1<<30)
	def(&c.FilterWarmupBatch, 10_000)
	def(&c.FilterSnapshotInterval, 30*time.Second)
	def(&c.FilterSnapshotInserts, 10_000)
	def(&c.L2Timeout, 500*time.Millisecond)
	def(&c.L3Timeout, 5*time.Second)
	def(&c.CloseTimeout, 30*time.Second)
	def(&c.RetentionFullDays, 7)
	def(&c.RetentionCompactDays, 90)
	def(&c.CompactionInterval, time.Hour)
	def(&c.TombstoneRetention, 7*24*time.Hour)
	def(&c.ChangeRetention, changesKept)
	def(&c.L1MaxAge, 30*time.Second)
	def(&c.VerifyInterval, time.Hour)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	c.Logger = slog.New(guardedHandler{c.Logger.Handler()})
	return c
}

func def[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// validate checks a config after withDefaults and returns all faults joined.
func (c *Config) validate() error {
	v := &faults{}
	c.checkPaths(v)
	c.checkStores(v)
	c.checkDurations(v)
	c.checkThresholds(v)
	v.min("L1MaxBytes", c.L1MaxBytes, 64<<10)
	v.min("MaxItemBytes", c.MaxItemBytes, 1)
	v.that(c.MaxItemBytes <= 1<<30, "MaxItemBytes", c.MaxItemBytes, "must be at most 1 GiB")
	v.min("GroupMaxItems", int64(c.GroupMaxItems), 1)
	v.min("GroupMaxBytes", c.GroupMaxBytes, 1)
	v.that(c.Durability <= Archived, "Durability", c.Durability, "must be Buffered, Logged or Archived")
	v.within("BatchFlushCount", c.BatchFlushCount, 1, maxFlushCount)
	v.min("BatchFlushBytes", c.BatchFlushBytes, 1)
	v.within("FlushConcurrency", c.FlushConcurrency, 1, 64)
	v.that(c.L2Breaker <= BreakerLenient, "L2Breaker", c.L2Breaker, "must be one of the presets")
	v.that(c.L3Breaker <= BreakerLenient, "L3Breaker", c.L3Breaker, "must be one of the presets")
	v.that(c.WALMaxItems >= int64(max(c.BatchFlushCount, 1)), "WALMaxItems", c.WALMaxItems,
		fmt.Sprintf("must be at least BatchFlushCount = %d", c.BatchFlushCount))
	v.that(c.WALMaxBytes >= c.BatchFlushBytes, "WALMaxBytes", c.WALMaxBytes,
		fmt.Sprintf("must be at least BatchFlushBytes = %d", c.BatchFlushBytes))
	v.min("WALMaxBytes", c.WALMaxBytes, leastWAL)
	v.within("FilterWarmupBatch", c.FilterWarmupBatch, 1, maxWarmupBatch)
	v.min("FilterSnapshotInserts", int64(c.FilterSnapshotInserts), 1)
	v.within("RetentionFullDays", c.RetentionFullDays, 0, maxRetentionDays)
	v.that(c.RetentionCompactDays >= c.RetentionFullDays, "RetentionCompactDays", c.RetentionCompactDays,
		fmt.Sprintf("must be at least RetentionFullDays = %d", c.RetentionFullDays))
	v.that(c.RetentionCompactDays <= maxRetentionDays, "RetentionCompactDays", c.RetentionCompactDays,
		fmt.Sprintf("must be at most %d", maxRetentionDays))
	v.compression(c)
	return errors.Join(v.errs...)
}

func (c *Config) checkDurations(v *faults) {
	for _, d := range [...]struct {
		name  string
		d     time.Duration
		least time.Duration
	}{
		{"MaxClockSkew", c.MaxClockSkew, 0},
		{"FactoryTimeout", c.FactoryTimeout, 1},
		{"BatchFlushInterval", c.BatchFlushInterval, 1},
		{"FilterSnapshotInterval", c.FilterSnapshotInterval, 1},
		{"L2Timeout", c.L2Timeout, leastWait},
		{"L3Timeout", c.L3Timeout, leastWait},
		{"CloseTimeout", c.CloseTimeout, 1},
		{"CompactionInterval", c.CompactionInterval, 1},
		{"TombstoneRetention", c.TombstoneRetention, 1},
		{"ChangeRetention", c.ChangeRetention, logSettle},
		{"LockWait", c.LockWait, 0},
		{"DefaultTTL", c.DefaultTTL, 0},
		{"L1MaxAge", c.L1MaxAge, 1},
		{"AbsentFor", c.AbsentFor, 0},
	} {
		v.that(d.d >= d.least, d.name, d.d, "must be at least "+d.least.String())
	}
	v.that(c.VerifyInterval < 0 || c.VerifyInterval >= leastWait, "VerifyInterval", c.VerifyInterval, "must be at least "+leastWait.String()+", or below 0")
}

func (c *Config) checkStores(v *faults) {
	v.that(isTablePrefix(c.TablePrefix), "TablePrefix", strconv.Quote(c.TablePrefix),
		"must be up to 32 lower-case letters, digits and _, no digit first, and not begin with sqlite_")
	v.that(utf8.ValidString(c.KeyPrefix) && len(c.KeyPrefix) <= 256, "KeyPrefix", strconv.Quote(c.KeyPrefix),
		"must be valid UTF-8 of at most 256 bytes")
	v.that(len(c.InstanceID) <= maxHomeInstance && utf8.ValidString(c.InstanceID), "InstanceID", strconv.Quote(c.InstanceID),
		"must be valid UTF-8 of at most 255 bytes")
	given := func(names ...string) string { return strings.Join(names, " and ") }
	if c.SQLURL != "" {
		if _, err := sqlkit.Parse(c.SQLURL); err != nil {
			v.add("SQLURL", strconv.Quote(sqlkit.Redact(c.SQLURL)), err.Error())
		}
		v.that(c.DB == nil && c.L3 == nil, "SQLURL", strconv.Quote(sqlkit.Redact(c.SQLURL)), "excludes "+given("DB", "L3"))
	}
	v.that(c.DB == nil || c.L3 == nil, "DB", "(set)", "excludes L3")
	if c.DB != nil {
		v.that(c.Dialect == DialectMySQL || c.Dialect == DialectSQLite, "Dialect", strconv.Quote(string(c.Dialect)),
			`must be "mysql" or "sqlite" when DB is set`)
	} else {
		v.that(c.Dialect == "", "Dialect", strconv.Quote(string(c.Dialect)), "goes with DB only")
	}
	if c.RedisURL != "" {
		if client, err := rediskit.Open(c.RedisURL); err != nil {
			v.add("RedisURL", strconv.Quote(rediskit.Redact(c.RedisURL)), err.Error())
		} else {
			_ = client.Close() // nothing was dialled yet
		}
		v.that(c.Redis == nil && c.L2 == nil, "RedisURL", strconv.Quote(rediskit.Redact(c.RedisURL)), "excludes "+given("Redis", "L2"))
	}
	v.that(c.Redis == nil || c.L2 == nil, "Redis", "(set)", "excludes L2")
	if _, ok := c.L3.(ExpiringStore); c.DefaultTTL > 0 && c.L3 != nil {
		v.that(ok, "DefaultTTL", c.DefaultTTL, "needs an L3 that is an ExpiringStore")
	}
}

func (c *Config) checkThresholds(v *faults) {
	last, lastName := 0.0, "0"
	for _, t := range c.thresholds() {
		ok := !math.IsNaN(t.value) && t.value > last && t.value <= 1
		v.that(ok, t.name, t.value, "must be above "+lastName+" and at most 1")
		if ok {
			last = t.value
		}
		lastName = t.name
	}
}

type threshold struct {
	name  string
	value float64
}

func (c *Config) thresholds() [5]threshold {
	return [5]threshold{
		{"BackpressureWarn", c.BackpressureWarn}, {"BackpressureThrottle", c.BackpressureThrottle},
		{"BackpressureCritical", c.BackpressureCritical}, {"BackpressureEmergency", c.BackpressureEmergency},
		{"BackpressureShutdown", c.BackpressureShutdown},
	}
}

// faults collects what is wrong with a config.
type faults struct{ errs []error }

func (v *faults) add(field, value, rule string) {
	v.errs = append(v.errs, &ConfigError{Field: field, Value: value, Rule: rule})
}

func (v *faults) that(ok bool, field string, value any, rule string) {
	if !ok {
		v.add(field, fmt.Sprint(value), rule)
	}
}

func (v *faults) within(field string, value, least, most int) {
	v.that(value >= least && value <= most, field, value, fmt.Sprintf("must lie in %d to %d", least, most))
}

func (v *faults) min(field string, value, least int64) {
	v.that(value >= least, field, value, fmt.Sprintf("must be at least %d", least))
}

// guardedHandler keeps a panic of the user's handler away from the engine's goroutines: the
// record is lost.
type guardedHandler struct{ slog.Handler }

func (g guardedHandler) Enabled(ctx context.Context, l slog.Level) (on bool) {
	defer func() { _ = recover() }()
	return g.Handler.Enabled(ctx, l)
}

func (g guardedHandler) Handle(ctx context.Context, r slog.Record) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("log handler panicked: %v", p)
		}
	}()
	return g.Handler.Handle(ctx, r)
}

func (g guardedHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return guardedHandler{g.Handler.WithAttrs(attrs)}
}

func (g guardedHandler) WithGroup(name string) slog.Handler {
	return guardedHandler{g.Handler.WithGroup(name)}
}

func (v *faults) compression(c *Config) {
	if !compressionBuilt {
		if c.Compression != CompressionOff {
			v.unbuilt("Compression", string(c.Compression))
		}
		if c.CompressionLevel != 0 {
			v.unbuilt("CompressionLevel", c.CompressionLevel)
		}
		return
	}
	known := slices.Contains([]Compression{CompressionOff, CompressionZstd, CompressionZstdDictionary}, c.Compression)
	v.that(known, "Compression", string(c.Compression), `must be "", "zstd" or "zstd-dictionary"`)
	v.that(c.CompressionLevel >= 0 && c.CompressionLevel <= 22, "CompressionLevel", c.CompressionLevel, "must be from 0 to 22")
	v.that(c.Compression == CompressionOff || c.L3 == nil, "Compression", string(c.Compression), "is of L3 on SQL, not of an L3 of your own")
}

func (v *faults) unbuilt(field string, value any) {
	v.errs = append(v.errs, says(fmt.Errorf("config %s = %#v: %w: build with -tags compression", field, value, ErrFeatureNotBuilt)))
}

// tablePrefix is what a TablePrefix may be. SQLite takes letters of both cases for the same name in
// one place, and for two in another.
var tablePrefix = regexp.MustCompile(`^[a-z_][a-z0-9_]{0,31}$`)

func isTablePrefix(p string) bool {
	return p == "" || tablePrefix.MatchString(p) && !strings.HasPrefix(p, "sqlite_")
}
