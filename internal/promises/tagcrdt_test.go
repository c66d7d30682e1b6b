//go:build crdt

package promises

import (
	"context"
	"encoding/json"

	"github.com/syncengine-go/syncengine"
)

// callsOfTags are the public calls that this build does not have.
var callsOfTags []string

func mergeCalls(e *syncengine.Engine) map[string]func(ctx context.Context) error {
	return map[string]func(ctx context.Context) error{
		"Merge": func(ctx context.Context) error {
			_, err := e.Merge(ctx, "merged", "GCounter", json.RawMessage("1"), syncengine.WithDurability(syncengine.Archived))
			return err
		},
		"Compact": func(ctx context.Context) error { _, err := e.Compact(ctx); return err },
		"Rebuild": func(ctx context.Context) error { _, err := e.Rebuild(ctx, "unknown-6"); return err },
	}
}
