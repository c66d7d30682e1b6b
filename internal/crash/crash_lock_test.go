package crash

// crash_lock_test.go is about who may open a directory, and when: one engine at a time, and the
// next at once after it has ended, however it has.

import (
	"context"
	"errors"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
)

// TestASecondEngineIsLockedOutUntilTheFirstIsKilled opens the directory of a child that
// lives, and at once after it was killed.
func TestASecondEngineIsLockedOutUntilTheFirstIsKilled(t *testing.T) {
	t.Parallel()
	onCrashStores(t, func(t *testing.T, r *crashRun) {
		for range crashRounds(10) {
			r.child(t, r.c, func(line int, _ string, kill func()) {
				if line == 300 {
					kill()
				}
				if line%50 != 0 || line >= 300 {
					return
				}
				cfg, err := r.c.engine()
				lab.Must(t, err)
				e, err := syncengine.Open(context.Background(), cfg)
				if !errors.Is(err, syncengine.ErrLocked) {
					kill()
					t.Errorf("Open beside a living engine: %v, want ErrLocked", err)
				}
				if err == nil {
					_ = e.Close() // the test has failed
				}
			})
			r.look(t, nil)
		}
	})
}

// TestTheDirectoryIsFreeAfterCloseThoughProcessesAreStarted: a process that is being started
// holds, for a moment, copies of all descriptors of this one, that of the lock too.
func TestTheDirectoryIsFreeAfterCloseThoughProcessesAreStarted(t *testing.T) {
	dir := t.TempDir()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					_ = exec.Command(filepath.Join(dir, "no such program")).Run() // the fork is what counts
				}
			}
		})
	}
	locked := 0
	for range 50 {
		e, err := syncengine.Open(context.Background(), syncengine.Config{Dir: dir})
		if errors.Is(err, syncengine.ErrLocked) {
			locked++
			continue
		}
		lab.Must(t, err)
		lab.Must(t, e.Close())
	}
	close(stop)
	wg.Wait()
	if locked > 0 {
		t.Errorf("Open after Close found the directory locked %d times of 50", locked)
	}
}
