// Package backdoor lends the stores of the root package, which it does not export, to tests in
// other packages, and what cmd/syncengine alone needs. The root fills it when a program starts. It
// can not name the types of the root: package lab gives them back.
package backdoor

import (
	"sync/atomic"
	"time"
)

var (
	// OpenSQLStore is L3 as Open makes it from Config.SQLURL: an ArchiveStore.
	OpenSQLStore func(url string) (archive any, err error)
	// NewRedisStore is L2 as Open makes it from Redis, KeyPrefix and TombstoneRetention of a
	// Config: a CacheStore.
	NewRedisStore func(config any) (cache any)
	// HostTime, if it is set, is asked for the time of the host by engines that are opened from
	// then on, with their InstanceID. false: this one's clock is right.
	HostTime atomic.Pointer[func(instance string) (func() time.Time, bool)]
	// ExpiresAt makes items of a call expire at a time, as WithTTL does after one: a WriteOption.
	ExpiresAt func(at time.Time) (option any)
	// DecodeEnvelope reads the value of an id in L2: a Record.
	DecodeEnvelope func(id string, value []byte) (record any, err error)
)
