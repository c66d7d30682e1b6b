package lab

import (
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/backdoor"
)

// OpenSQLStore is L3 as Open makes it from Config.SQLURL. Close closes its pools.
func OpenSQLStore(url string) (syncengine.ArchiveStore, error) {
	s, err := backdoor.OpenSQLStore(url)
	if err != nil {
		return nil, err
	}
	return s.(syncengine.ArchiveStore), nil
}

// NewRedisStore is L2 on a client of the test's own.
func NewRedisStore(c redis.UniversalClient, prefix string, tombstones time.Duration) syncengine.CacheStore {
	cfg := syncengine.Config{Redis: c, KeyPrefix: prefix, TombstoneRetention: tombstones}
	return backdoor.NewRedisStore(cfg).(syncengine.CacheStore)
}

// DecodeEnvelope reads a value of L2.
func DecodeEnvelope(id string, b []byte) (syncengine.Record, error) {
	r, err := backdoor.DecodeEnvelope(id, b)
	return r.(syncengine.Record), err
}
