package crash

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/storetest"
)

// An import that meets a full disk waits, or says that it has ended: it never ends without an error
// while items are neither stored nor refused.
func TestINV09AnImportOnAFullDiskCountsEveryItem(t *testing.T) {
	dir := smallDisk(t, 32)
	l3 := &lab.FaultyArchive{ArchiveStore: storetest.NewArchive()}
	e := lab.Open(t, syncengine.Config{Dir: dir, L3: l3, L1MaxBytes: 4 << 20, CloseTimeout: 5 * time.Second})
	l3.Away.Store(true)
	remove := ballast(t, dir, "some", 14<<20)
	time.AfterFunc(3*time.Second, func() { // there is room again
		remove()
		l3.Away.Store(false)
	})
	const items = 2000
	refused := 0
	r, err := e.SubmitEach(lab.Bounded(t), func(yield func(syncengine.Item) bool) {
		for n := range items {
			if !yield(syncengine.Item{ID: fmt.Sprint("id-", n), Content: largeDoc(n)}) {
				return
			}
		}
	}, syncengine.EachOptions{OnError: func(syncengine.ItemError) { refused++ }})
	if err != nil {
		t.Fatal(err)
	}
	lab.Eventually(t, "L3 is back", func() bool { return e.Flush(context.Background()) == nil })
	missing := 0
	for n := range items {
		if _, err := e.Get(context.Background(), fmt.Sprint("id-", n)); err != nil {
			missing++
		}
	}
	if r.Total != items || r.Succeeded+r.Failed != items || r.Failed != refused || missing != r.Failed {
		t.Errorf("no error, and of %d items %d succeeded and %d failed; %d are missing", r.Total, r.Succeeded, r.Failed, missing)
	}
}
