package oplog

// space_test.go proves that the files of a log shrink when it has been drained, and stay
// small however it is read.

import (
	"context"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// An outage leaves a large file behind, and a log that never gave space back would be "full"
// for ever.
func TestADrainedLogGivesItsSpaceBack(t *testing.T) {
	path := filepath.Join(t.TempDir(), "wal.db")
	l, stop := open(t, path)
	payload := string(make([]byte, 1<<20))
	var last int64
	for range 40 {
		last = put(t, l, payload)
	}
	if size := fileSize(t, path); size < 30<<20 {
		t.Fatalf("the file has %d bytes", size)
	}
	kept := put(t, l, "kept")
	l.Trim(last)
	const slack = 3 * reclaimPages * 4096 // less than reclaimPages stay free, and as much may wait in the -wal file
	within(t, "the file shrinks", func() bool { return fileSize(t, path) < slack })
	if s, ok, err := l.Get(context.Background(), kept); err != nil || !ok || string(s.Payload) != "kept" {
		t.Errorf("the segment that stays: %q, %v, %v", s.Payload, ok, err)
	}
	put(t, l, "more")
	stop()
	l, _ = open(t, path)
	wantPayloads(t, l, "keptmore")
}

// within waits until cond holds.
func within(t *testing.T, what string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(trimDelay / 10)
	defer tick.Stop()
	for range 3000 {
		if cond() {
			return
		}
		<-tick.C
	}
	t.Fatalf("never came true: %s", what)
}

// SQLite starts the -wal file anew only when nobody reads from it: readers who follow each
// other without a gap made it grow as long as they went on.
func TestTheWALFileStaysSmallWhileReadersFollowEachOther(t *testing.T) {
	path := filepath.Join(t.TempDir(), "wal.db")
	l, _ := open(t, path)
	payload := string(make([]byte, 1<<20))
	first := put(t, l, payload)
	var end atomic.Bool
	var wg sync.WaitGroup
	for range 2 * readers {
		wg.Go(func() {
			for !end.Load() {
				if _, ok, err := l.Get(context.Background(), first); err != nil || !ok {
					t.Errorf("the first segment: %v, %v", ok, err)
				}
			}
		})
	}
	var largest int64
	for range walLimit * 3 / 2 >> 20 {
		put(t, l, payload)
		largest = max(largest, fileSize(t, path+"-wal"))
	}
	end.Store(true)
	wg.Wait()
	if limit := int64(walLimit + 2*walLook); largest > limit {
		t.Errorf("the -wal file grew to %d bytes, want at most %d", largest, limit)
	}
}
