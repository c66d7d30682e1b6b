//go:build !crdt

package promises

import (
	"context"

	"github.com/syncengine-go/syncengine"
)

// callsOfTags are the public calls that this build does not have.
var callsOfTags = []string{"Merge", "Compact", "Rebuild"}

func mergeCalls(*syncengine.Engine) map[string]func(ctx context.Context) error { return nil }
