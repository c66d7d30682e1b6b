package promises

import (
	"context"
	"fmt"
	"testing"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/storetest"
)

// An id that is asked for twice is answered twice, whoever has it: memory, the WAL alone, or L3.
func TestINV08GetManyAnswersAnIDAsOftenAsItIsAskedFor(t *testing.T) {
	ctx := context.Background()
	l3 := &lab.FaultyArchive{ArchiveStore: storetest.NewArchive()}
	e := lab.Open(t, syncengine.Config{L3: l3, L1MaxBytes: 64 << 10})
	const items = 1000
	for n := range items {
		lab.Put(t, e, fmt.Sprint("in L3-", n), n)
	}
	lab.Must(t, e.Flush(ctx))
	twice := func(prefix string) {
		t.Helper()
		for n := range items {
			id := fmt.Sprint(prefix, n)
			got, err := e.GetMany(ctx, []string{id, id, id})
			lab.Must(t, err)
			for i, it := range got {
				if it == nil || string(it.Content) != string(lab.Doc(id, n)) {
					t.Fatalf("%s in place %d: %v", id, i, it)
				}
			}
		}
	}
	twice("in L3-")
	l3.Away.Store(true)
	for n := range items {
		lab.Put(t, e, fmt.Sprint("in the WAL-", n), n)
	}
	if s := e.Stats(); s.SpooledOps < items/2 {
		t.Fatalf("%d ops are in the WAL alone", s.SpooledOps)
	}
	twice("in the WAL-")
}
