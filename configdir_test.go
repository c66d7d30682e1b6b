package syncengine_test

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/syncengine-go/syncengine"
)

func TestEnginesThatCreateOneDirectoryAtOnce(t *testing.T) {
	for round := range 300 {
		dir := filepath.Join(t.TempDir(), fmt.Sprint(round))
		start, errs := make(chan struct{}), make(chan error)
		for range 4 {
			go func() {
				<-start
				errs <- syncengine.MakeDir(dir)
			}()
		}
		close(start)
		for range 4 {
			if err := <-errs; err != nil {
				t.Errorf("round %d: one of four engines: %v", round, err)
			}
		}
		if t.Failed() {
			return
		}
	}
}
