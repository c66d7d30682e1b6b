//go:build crdt

package merging

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

// TestExplainOfMergesThatWait has those of an id that was in memory, and of one that was not.
func TestExplainOfMergesThatWait(t *testing.T) {
	ctx := context.Background()
	db := testserver.MariaDB(t)
	cfg := syncengine.Config{Dir: t.TempDir(), SQLURL: db.URL(), L3Timeout: time.Second, CloseTimeout: 10 * time.Second}
	e := lab.Open(t, cfg)
	for _, id := range []string{"known", "cold"} {
		merge(t, e, id, "GCounter", "100", syncengine.WithDurability(syncengine.Archived))
	}
	lab.Must(t, e.Close())
	e = lab.Open(t, cfg)
	wantValue(t, e, "known", "100")
	db.Kill()
	for _, id := range []string{"known", "cold"} {
		merge(t, e, id, "GCounter", "1")
	}
	lab.Eventually(t, "the outage is known", func() bool { return e.Stats().L3Down })
	for id, want := range map[string]syncengine.Explanation{
		"known": {Source: syncengine.SourceMemory, Outcome: syncengine.OutcomeFound, Verdict: "with the merges that wait for SQL"},
		"cold":  {Outcome: syncengine.OutcomeUnavailable, Verdict: "nobody here knows what they lead to"},
	} {
		x, err := e.Explain(ctx, id)
		lab.Must(t, err)
		if x.Source != want.Source || x.Outcome != want.Outcome || !strings.Contains(x.Verdict, want.Verdict) || !x.MergesWait || !x.Pending || x.CRDT != "GCounter" {
			t.Errorf("%s: %+v", id, x)
		}
		if _, err := e.Get(ctx, id); (err == nil) != (want.Outcome == syncengine.OutcomeFound) || err != nil && !errors.Is(err, syncengine.ErrUnavailable) {
			t.Errorf("%s: %q, but Get: %v", id, x, err)
		}
	}
	db.Restart()
	lab.Eventually(t, "all has landed", func() bool { return e.Flush(ctx) == nil })
	if x, err := e.Explain(ctx, "cold"); err != nil || x.MergesWait || x.Outcome != syncengine.OutcomeFound || x.CRDT != "GCounter" {
		t.Errorf("cold, after the outage: %+v, %v", x, err)
	}
}
