//go:build crdt

package merging

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
)

// A listing shows what merges have made of an item, those that wait included, and no row of their
// own.
func TestINV02AListingShowsMergedItems(t *testing.T) {
	for name, url := range l3s {
		t.Run(name, func(t *testing.T) {
			ctx := context.Background()
			e := lab.Open(t, syncengine.Config{SQLURL: url(t)})
			for n := range 30 {
				_, err := e.Merge(ctx, fmt.Sprint("c.", n%3), "GCounter", json.RawMessage("1"), syncengine.WithDurability(syncengine.Durability(1+n%2)))
				lab.Must(t, err)
			}
			lab.Must(t, e.Delete(ctx, "c.1"))
			seen := ""
			for it, err := range e.All(ctx, "c.") {
				seen += fmt.Sprint(it.ID, "=", value(t, it, err), " ")
			}
			if seen != "c.0=10 c.2=10 " {
				t.Errorf("listed %s", seen)
			}
			if n, err := e.DeletePrefix(ctx, "c."); n != 2 || err != nil {
				t.Errorf("DeletePrefix: %d, %v", n, err)
			}
		})
	}
}
