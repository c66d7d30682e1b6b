package syncengine

// open.go opens an engine: the departments first, then their wiring, then the sequence of
// recovery.go.

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/syncengine-go/syncengine/internal/filelock"
	"github.com/syncengine-go/syncengine/internal/rediskit"
	"github.com/syncengine-go/syncengine/internal/sqlkit"
)

// Open validates cfg, opens the WAL, connects, recovers what an earlier engine left in the
// WAL, and returns a running engine. The caller must Close it.
//
// When Redis or the SQL database does not answer, Open tries for about three seconds, or one
// L3Timeout when the database hangs, or takes longer to make its tables, and then returns an
// engine that accepts writes into the WAL, serves what it has, and goes on trying. ctx bounds Open
// only. When Open fails, it waits for event functions under way until ctx ends, at most
// CloseTimeout.
//
// Errors: ErrInvalidConfig (all faults joined), ErrLocked, ErrWALCorrupt, ErrSchema,
// ErrFeatureNotBuilt, a wrong password or unknown database of SQL, a *SetupError, also for a wrong
// password of Redis, and what the file system says.
//
// Without -tags crdt ErrFeatureNotBuilt is also the error while merges of CRDT items wait in the
// WAL: nothing there changes until an engine that has the tag opens it. Merges in quarantine are no
// reason.
func Open(ctx context.Context, cfg Config) (*Engine, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if err := cfg.makeDir(); err != nil {
		return nil, err
	}
	e := newEngine(cfg)
	if err := e.open(ctx); err != nil {
		return nil, errors.Join(err, e.abandon(ctx))
	}
	return e, nil
}

// above is the pipeline's sink.
type above struct {
	*quarantine
	*repair
	*writer
}

// newEngine makes the departments, without I/O.
func newEngine(cfg Config) *Engine {
	e := &Engine{
		cfg: cfg, door: newDoor(), news: newNews(cfg.Logger.With("instance", cfg.InstanceID), cfg.OnEvent),
		l1: newL1(cfg.L1MaxBytes), wal: newJournal(walLimits{cfg.WALMaxItems, cfg.WALMaxBytes, cfg.thresholds()[LevelCritical-1].value}),
		closed: make(chan struct{}),
	}
	up := &above{}
	e.pressure = newPressure(e.l1, e.wal, cfg.thresholds(), e.levelChanged)
	e.cache = newCache(newServer("L2", cfg.L2Timeout, cfg.L2Breaker, e.news, e.door), e.wal, e.news)
	e.archive = newArchive(newServer("L3", cfg.L3Timeout, cfg.L3Breaker, e.news, e.door), e.news)
	e.trust = newTrust(cfg.InstanceID, e.archive, e.wal, e.news, trustLimits{cfg.FilterWarmupBatch, cfg.FilterSnapshotInterval, int64(cfg.FilterSnapshotInserts)})
	e.trust.WhenNoticed(e.l1.Doubt)
	e.push = newPush(e.cache, e.l1, e.trust, e.news, !cfg.NoPush)
	e.tail = newTail(e.archive, e.trust, e.cache, e.l1, e.news)
	e.queue = newQueue(queueLimitsOf(&cfg), e.l1, e.wal)
	e.queue.AskAbsent(func(id string) bool { return !e.trust.MayContain(id) })
	e.home = &homeKeeper{wal: e.wal}
	e.numbers = newNumbers(e.l1, e.wal, e.queue, up)
	e.numbers.Follow(e.trust.Time())
	e.trust.Time().OnHost(hostTime(cfg.InstanceID))
	e.flush = newFlusher(e.queue, e.numbers, e.wal, e.cache, e.archive, e.trust, e.push, e.pressure, e.door, e.news, up, cfg.FlushConcurrency)
	e.bad = newQuarantine(e.wal, e.l1, e.queue, e.numbers, e.archive, e.door, e.news)
	e.repair = newRepair(e.l1, e.cache, e.archive, e.trust, e.bad, e.news)
	e.verifier = newVerifier(e.cache, e.archive, e.trust, e.queue, e.repair, e.news, cfg.VerifyInterval)
	e.compact = newCompaction(&cfg, e.archive, e.l1, e.cache, e.queue, e.flush, e.numbers, e.bad, e.repair, e.news)
	e.reader = newReader(e.l1, e.wal, e.queue, e.flush, e.bad, e.trust, e.cache, e.archive, e.repair, e.push, e.pressure, e.door, e.news, ages{cfg.L1MaxAge, cfg.AbsentFor, cfg.StaleFor})
	e.writer = newWriter(&cfg, e.l1, e.wal, e.queue, e.flush, e.numbers, e.pressure, e.cache, e.archive, e.trust, e.push, e.bad, e.repair, e.reader, e.door, e.news)
	up.quarantine, up.repair, up.writer = e.bad, e.repair, e.writer
	return e
}

func (e *Engine) open(ctx context.Context) error {
	e.door.SpawnLast(e.news.Run)
	e.setState(StateConnecting)
	if err := e.wal.Open(ctx, e.cfg.WALPath, !e.cfg.WALNoSync, e.cfg.L1MaxBytes/8, e.cfg.LockWait); err != nil {
		return err
	}
	e.door.SpawnLog(e.wal.Run)
	if err := e.openStores(ctx); err != nil {
		return err
	}
	if err := e.news.Open(e.cfg.Registerer, e.Stats, e.circuitState); err != nil {
		return err
	}
	return e.recover(ctx)
}

// openStores makes L2 and L3 from the config. It does not connect.
func (e *Engine) openStores(ctx context.Context) error {
	if err := e.openL2(); err != nil {
		return err
	}
	if err := e.openL3(ctx); err != nil {
		return err
	}
	e.cache.Follow(e.trust.Time().L3)
	e.archive.Follow(e.trust.Time().L3)
	return nil
}

func (e *Engine) openL2() error {
	switch {
	case e.cfg.L2 != nil:
		e.cache.Use(e.cfg.L2, false)
	case e.cfg.Redis != nil:
		e.cache.Use(newRedisStore(e.cfg.Redis, e.cfg.KeyPrefix, e.cfg.TombstoneRetention, false), true)
		e.cache.WatchBy(rediskit.WatchDials(e.cfg.Redis, e.cache.Dialed))
		if !rediskit.HonoursDeadlines(e.cfg.Redis) {
			e.news.Log().Warn("the Redis client ignores deadlines: make it with ContextTimeoutEnabled, or a hung server costs reads its read timeout")
		}
	case e.cfg.RedisURL != "":
		client, err := rediskit.OpenWatched(e.cfg.RedisURL, e.cache.Met)
		if err != nil {
			return &ConfigError{Field: "RedisURL", Value: rediskit.Redact(e.cfg.RedisURL), Rule: err.Error()}
		}
		e.cache.Use(newRedisStore(client, e.cfg.KeyPrefix, e.cfg.TombstoneRetention, true), true)
	}
	return nil
}

func (e *Engine) openL3(ctx context.Context) error {
	// Only the file in Dir is this engine's alone.
	private := e.cfg.L3 == nil && e.cfg.DB == nil && e.cfg.SQLURL == ""
	codec, err := newCodec(&e.cfg)
	if err != nil {
		return err
	}
	use := func(s *sqlStore) {
		e.archive.Use(s.KeepingChanges(e.cfg.ChangeRetention).Remembering(e.cfg.L1MaxBytes/64), true, private)
	}
	switch {
	case e.cfg.L3 != nil:
		e.archive.Use(e.cfg.L3, false, private)
	case e.cfg.DB != nil:
		use(newSQLStore(sqlkit.Dialect(e.cfg.Dialect), sqlkit.OnePool(e.cfg.DB, sqlkit.Dialect(e.cfg.Dialect), e.cfg.TablePrefix), codec, false))
	default:
		url := e.cfg.SQLURL
		if url == "" {
			url = "sqlite:" + filepath.Join(e.cfg.Dir, "archive.db")
		}
		src, err := sqlkit.Parse(url)
		if err != nil {
			return &ConfigError{Field: "SQLURL", Value: sqlkit.Redact(url), Rule: err.Error()}
		}
		if src.Dialect == sqlkit.SQLite {
			if err := e.lockFile(ctx, src.Path, private); err != nil {
				return err
			}
		}
		pools, err := src.Open(e.cfg.TablePrefix, fleetLease)
		if err != nil {
			return says(fmt.Errorf("opening %s: %w", sqlkit.Redact(url), err))
		}
		use(newSQLStore(src.Dialect, pools, codec, true))
	}
	return nil
}

// lockFile keeps engines that write off an SQLite file that one of them has for itself, as that in
// Dir: that one goes by what it remembers, and would see nothing of theirs. Those that name a file
// by SQLURL share it from their first write on; they may read one that is in somebody's Dir.
func (e *Engine) lockFile(ctx context.Context, path string, private bool) (err error) {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	if !private {
		e.archive.BeforeWrites(func() error { return e.shareFile(path) })
		return nil
	}
	ended := awaitLock(ctx, e.cfg.LockWait, func() bool {
		e.fileLock, err = filelock.Acquire(path + ".lock")
		return errors.Is(err, filelock.ErrHeld)
	})
	switch {
	case errors.Is(err, filelock.ErrHeld):
		err = fmt.Errorf("%w: %s is open by SQLURL, or for another engine on this Dir", ErrLocked, path)
	case err != nil:
		err = says(fmt.Errorf("opening %s: %w", path, err))
	}
	return errors.Join(err, ended)
}

func (e *Engine) shareFile(path string) error {
	e.sharing.Lock()
	defer e.sharing.Unlock()
	if e.fileLock != nil {
		return nil
	}
	lock, err := filelock.Share(path + ".lock")
	switch {
	case errors.Is(err, filelock.ErrHeld):
		return fmt.Errorf("%w: %s is in the Dir of one that has no SQLURL, and so for itself", ErrLocked, path)
	case errors.Is(err, fs.ErrPermission): // of another user, who shares it
		return nil
	}
	e.fileLock = lock
	return err
}

func (e *Engine) circuitState(tier string) string {
	if tier == "l2" {
		return e.cache.State()
	}
	return e.archive.State()
}
