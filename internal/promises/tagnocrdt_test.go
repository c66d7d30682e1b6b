//go:build !crdt

package promises

import (
	"context"
	"errors"
	"testing"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/storetest"
)

// callsOfTags are the public calls that this build does not have.
var callsOfTags = []string{"Merge", "Compact", "Rebuild"}

func mergeCalls(*syncengine.Engine) map[string]func(ctx context.Context) error { return nil }

// TestABuildWithoutKindsReadsThemAndWritesNothingOver: whatever call, and whether memory knows the
// row or not. What was acknowledged first goes to quarantine.
func TestABuildWithoutKindsReadsThemAndWritesNothingOver(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	const set = `{"elements":["x"],"vclock":{"clocks":{"n":[1,0]}}}`
	url := "sqlite:" + t.TempDir() + "/shared.db"
	raw, err := lab.OpenSQLStore(url)
	lab.Must(t, err)
	t.Cleanup(func() { _ = raw.Close() })
	lab.Must(t, raw.Prepare(ctx))
	rec := storetest.Put("c", 5, set)
	rec.CRDT = "GSet"
	_, err = raw.Apply(ctx, []syncengine.Record{rec})
	lab.Must(t, err)
	untouched := func(what string) {
		t.Helper()
		now, err := raw.Get(ctx, "c")
		if err != nil || now.Deleted || now.Version != 5 || now.CRDT != "GSet" || string(now.Content) != set {
			t.Errorf("after %s: %+v, %v", what, now, err)
		}
	}
	archived := syncengine.WithDurability(syncengine.Archived)
	plain := syncengine.Item{ID: "c", Content: []byte(`1`)}
	for what, write := range map[string]func(e *syncengine.Engine) error{
		"Submit": func(e *syncengine.Engine) error { return e.Submit(ctx, plain) },
		"Submit of what was read": func(e *syncengine.Engine) error {
			it, err := e.Get(ctx, "c")
			lab.Must(t, err)
			return e.Submit(ctx, it)
		},
		"Submit, Archived": func(e *syncengine.Engine) error { return e.Submit(ctx, plain, archived) },
		"Delete":           func(e *syncengine.Engine) error { return e.Delete(ctx, "c") },
		"Delete, Archived": func(e *syncengine.Engine) error { return e.Delete(ctx, "c", archived) },
		"Delete at its version": func(e *syncengine.Engine) error {
			return e.Delete(ctx, "c", syncengine.WithIfVersion(5))
		},
		"DeletePrefix": func(e *syncengine.Engine) error { _, err := e.DeletePrefix(ctx, "c"); return err },
		"Update": func(e *syncengine.Engine) error {
			_, err := e.Update(ctx, "c", func(syncengine.Item, bool) (syncengine.Item, error) { return plain, nil })
			return err
		},
		"SubmitMany": func(e *syncengine.Engine) error {
			_, err := e.SubmitMany(ctx, []syncengine.Item{{ID: "d", Content: []byte(`1`)}, plain})
			return err
		},
	} {
		for _, known := range []bool{false, true} {
			e := lab.Open(t, syncengine.Config{SQLURL: url})
			if known {
				it, err := e.Get(ctx, "c")
				if err != nil || it.CRDT != "GSet" || string(it.Content) != set {
					t.Errorf("Get: %+v, %v", it, err)
				}
			}
			err := write(e)
			if err == nil {
				err = e.Flush(ctx)
			}
			if !errors.Is(err, syncengine.ErrFeatureNotBuilt) && !errors.Is(err, syncengine.ErrRefused) {
				t.Errorf("%s, known %v: %v", what, known, err)
			}
			untouched(what)
			if _, err := e.DiscardQuarantined(ctx); err != nil {
				t.Error(err)
			}
			if it, err := e.Get(ctx, "c"); err != nil || it.CRDT != "GSet" || string(it.Content) != set {
				t.Errorf("%s, known %v, then Get: %+v, %v", what, known, it, err)
			}
			lab.Must(t, e.Close())
		}
	}
}
