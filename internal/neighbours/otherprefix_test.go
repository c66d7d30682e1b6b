package neighbours

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

// What waits in a Dir for one namespace does not land in another one without a word.
func TestWhatWaitsForANamespaceDoesNotLandInAnother(t *testing.T) {
	ctx := context.Background()
	server := testserver.MariaDB(t)
	cfg := syncengine.Config{Dir: t.TempDir(), SQLURL: server.URL(), TablePrefix: "blue_", CloseTimeout: time.Second}
	blue := lab.Open(t, cfg)
	submit(t, blue, "x", "1", archived)
	server.Kill()
	submit(t, blue, "x", "2")
	if err := blue.Close(); !errors.Is(err, syncengine.ErrPending) {
		t.Fatal(err)
	}
	server.Restart()
	green := cfg
	green.TablePrefix = "green_"
	e, err := syncengine.Open(ctx, green)
	if err != nil {
		return // it says so
	}
	defer func() { _ = e.Close() }()
	lab.Must(t, e.Flush(lab.Bounded(t)))
	raw := testserver.OpenSQL(t, server.URL())
	if n := lab.Number(t, raw, "SELECT COUNT(*) FROM green_items WHERE id = 'x'"); n != 0 {
		t.Error("what blue's caller was told is kept is in green")
	}
	lab.Must(t, e.Close())
	if got := reads["Get"](lab.Open(t, cfg), "x"); got != "2" {
		t.Errorf("blue has %s, and 2 was acknowledged", got)
	}
}
