package promises

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/faultproxy"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

// The text of an error begins with "syncengine: ", once, also when the caller's ctx ends while L3
// is asked; what is ctx's own error may be that alone.
func TestErrorsOfCallsThatEndWhileL3HangsBeginAsAllDo(t *testing.T) {
	server := testserver.SharedMariaDB(t)
	p := faultproxy.New(t, server.Addr())
	e := lab.Open(t, syncengine.Config{SQLURL: lab.Via(t, server.NewDatabase(t), p), L3Timeout: 2 * time.Second, CloseTimeout: time.Second})
	lab.Put(t, e, "k", 1, syncengine.WithDurability(syncengine.Archived))
	p.Hold()
	defer p.Release()
	for name, call := range map[string]func(ctx context.Context) error{
		"Update":       func(ctx context.Context) error { _, err := e.Update(ctx, "k", lab.Increment); return err },
		"Touch":        func(ctx context.Context) error { return e.Touch(ctx, "k", time.Hour) },
		"DeletePrefix": func(ctx context.Context) error { _, err := e.DeletePrefix(ctx, "k"); return err },
		"Status":       func(ctx context.Context) error { _, err := e.Status(ctx, "k"); return err },
		"MerkleRoot":   func(ctx context.Context) error { _, err := e.MerkleRoot(ctx); return err },
	} {
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		err := call(ctx)
		cancel()
		if err == nil || err != context.DeadlineExceeded && (!strings.HasPrefix(err.Error(), "syncengine: ") || strings.Count(err.Error(), "syncengine: ") > 1) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
