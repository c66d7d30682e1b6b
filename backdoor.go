package syncengine

// backdoor.go lends the stores to tests in other packages, and an option to cmd/syncengine, by
// internal/backdoor. It holds no state, and the library calls nothing of it but hostTime.

import (
	"time"

	"github.com/syncengine-go/syncengine/internal/backdoor"
	"github.com/syncengine-go/syncengine/internal/sqlkit"
)

func init() {
	backdoor.OpenSQLStore = func(url string) (any, error) { return openSQLStore(url) }
	backdoor.NewRedisStore = func(config any) any {
		cfg := config.(Config)
		return newRedisStore(cfg.Redis, cfg.KeyPrefix, cfg.TombstoneRetention, false)
	}
	backdoor.ExpiresAt = func(at time.Time) any { return expiresAt(at) }
	backdoor.DecodeEnvelope = func(id string, value []byte) (any, error) { return decodeEnvelope(id, value) }
}

// hostTime is the clock of the host, or what a test gives out for it.
func hostTime(instance string) func() time.Time {
	if of := backdoor.HostTime.Load(); of != nil {
		if clock, ok := (*of)(instance); ok {
			return clock
		}
	}
	return time.Now
}

// openSQLStore is L3 as Open makes it from Config.SQLURL. Close closes its pools.
func openSQLStore(url string) (ArchiveStore, error) {
	src, err := sqlkit.Parse(url)
	if err != nil {
		return nil, err
	}
	codec, err := newCodec(&Config{})
	if err != nil {
		return nil, err
	}
	pools, err := src.Open("", fleetLease)
	if err != nil {
		return nil, err
	}
	return newSQLStore(src.Dialect, pools, codec, true), nil
}
