package syncengine_test

import (
	"context"
	"time"

	"github.com/syncengine-go/syncengine"
)

// nullArchive is an L3 that takes everything and keeps nothing: for benchmarks of what
// comes before L3.
type nullArchive struct{}

func (nullArchive) Prepare(context.Context) error { return nil }

func (nullArchive) Get(context.Context, string) (syncengine.Record, error) {
	return syncengine.Record{}, syncengine.ErrNotFound
}

func (nullArchive) GetMany(_ context.Context, ids []string) ([]syncengine.Found, error) {
	return make([]syncengine.Found, len(ids)), nil
}

func (nullArchive) Heads(context.Context, []string) ([]syncengine.Meta, error) { return nil, nil }

func (nullArchive) Apply(context.Context, []syncengine.Record) ([]syncengine.Meta, error) {
	return nil, nil
}

func (nullArchive) Scan(context.Context, string, int) ([]syncengine.Meta, error) { return nil, nil }

func (nullArchive) PurgeTombstones(context.Context, time.Time, int) (int, error) { return 0, nil }

func (nullArchive) Ping(context.Context) error { return nil }

func (nullArchive) Close() error { return nil }
