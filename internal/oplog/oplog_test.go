package oplog

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// open opens a log in dir and runs its loop; stop closes it and waits.
func open(t testing.TB, path string) (l *Log, stop func()) {
	t.Helper()
	l, err := Open(context.Background(), Options{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(l.Run)
	var once sync.Once
	stop = func() {
		once.Do(func() {
			l.Close()
			wg.Wait()
			if err := l.CloseFiles(); err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(stop)
	return l, stop
}

// put appends one payload and waits for its commit.
func put(t testing.TB, l *Log, payload string) int64 {
	t.Helper()
	type result struct {
		seg int64
		err error
	}
	done := make(chan result, 1)
	l.Append(&Request{Payload: []byte(payload), Ops: 1, At: 1, Max: uint64(len(payload)), Done: func(seg *Segment, err error) {
		r := result{err: err}
		if err == nil {
			r.seg = seg.ID
		}
		done <- r
	}})
	r := <-done
	if r.err != nil {
		t.Fatal(r.err)
	}
	return r.seg
}

func TestAppendedSegmentsComeBackInOrderAfterReopen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "wal.db")
	l, stop := open(t, path)
	var want []string
	for i := range 20 {
		p := fmt.Sprintf("payload %d", i)
		put(t, l, p)
		want = append(want, p)
	}
	stop()
	l, _ = open(t, path)
	segs, err := l.ReadAfter(context.Background(), 0, 1<<60, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	for i, s := range segs {
		if string(s.Payload) != want[i] {
			t.Fatalf("segment %d holds %q, want %q", i, s.Payload, want[i])
		}
	}
	if len(segs) != len(want) {
		t.Fatalf("%d segments, want %d", len(segs), len(want))
	}
	if l.Max() != uint64(len("payload 19")) {
		t.Fatalf("Max = %d", l.Max())
	}
}

func TestTrimRemovesExactlyThePrefix(t *testing.T) {
	path := filepath.Join(t.TempDir(), "wal.db")
	l, stop := open(t, path)
	var ids []int64
	for i := range 10 {
		ids = append(ids, put(t, l, fmt.Sprint(i)))
	}
	l.Trim(ids[4])
	l.Trim(ids[2]) // an earlier one changes nothing
	stop()
	l, _ = open(t, path)
	segs, err := l.ReadAfter(context.Background(), 0, 1<<60, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	got := ""
	for _, s := range segs {
		got += string(s.Payload)
	}
	if got != "56789" {
		t.Fatalf("left: %q, want 56789", got)
	}
	if id := put(t, l, "new"); id <= ids[9] {
		t.Fatalf("segment id %d was reused", id)
	}
}

func TestConcurrentAppendsShareCommitsAndAllSurvive(t *testing.T) {
	path := filepath.Join(t.TempDir(), "wal.db")
	l, stop := open(t, path)
	var wg sync.WaitGroup
	for c := range 32 {
		wg.Go(func() {
			for i := range 50 {
				put(t, l, fmt.Sprintf("%02d-%02d;", c, i))
			}
		})
	}
	wg.Wait()
	stop()
	l, _ = open(t, path)
	tot, err := l.Totals(context.Background())
	if err != nil || tot.Ops != 1600 || tot.Bytes != 1600*6 {
		t.Fatalf("totals %+v, %v; want 1600 ops", tot, err)
	}
	segs, err := l.ReadAfter(context.Background(), 0, tot.Last, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	if len(segs) >= 1600 {
		t.Fatalf("%d segments for 1600 ops: no commit was shared", len(segs))
	}
}

func TestSecondOpenIsLockedUntilTheFirstCloses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "wal.db")
	_, stop := open(t, path)
	if _, err := Open(context.Background(), Options{Path: path}); !errors.Is(err, ErrLocked) {
		t.Fatalf("second open: %v, want ErrLocked", err)
	}
	stop()
	open(t, path)
}

func TestDamageIsAnErrorNeverAFreshStart(t *testing.T) {
	for name, damage := range map[string]func(path string) error{
		"truncated to nothing": func(p string) error { return os.Truncate(p, 0) },
		"removed":              os.Remove,
		"half":                 func(p string) error { return os.Truncate(p, 8192) },
		"garbage": func(p string) error {
			return os.WriteFile(p, []byte("this is not a database, it only has the name of one............"), 0o600)
		},
		"payload bits": func(p string) error {
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			for i := range b[:len(b)-4] {
				if string(b[i:i+4]) == "XXXX" {
					b[i] ^= 1
				}
			}
			return os.WriteFile(p, b, 0o600)
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "wal.db")
			l, stop := open(t, path)
			for range 10 {
				big := make([]byte, 8000)
				for i := range big {
					big[i] = 'X'
				}
				put(t, l, string(big))
			}
			stop()
			if err := damage(path); err != nil {
				t.Fatal(err)
			}
			l, err := Open(context.Background(), Options{Path: path})
			if err == nil {
				_, err = l.ReadAfter(context.Background(), 0, 1<<60, 1<<30)
				_ = l.CloseFiles()
			}
			if !errors.Is(err, ErrCorrupt) {
				t.Fatalf("got %v, want ErrCorrupt", err)
			}
		})
	}
}

func TestFilesAreReadableByTheirOwnerOnly(t *testing.T) {
	dir := t.TempDir()
	l, _ := open(t, filepath.Join(dir, "wal.db"))
	put(t, l, "x")
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		info, err := f.Info()
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", f.Name(), info.Mode())
		}
	}
	if len(files) < 3 {
		t.Fatalf("only %d files", len(files))
	}
}

func TestQuarantineAndMetaSurviveReopen(t *testing.T) {
	ctx := context.Background()
	path := filepath.Join(t.TempDir(), "wal.db")
	l, stop := open(t, path)
	a, err := l.AddBad(ctx, Bad{Ops: 1, At: 5, Attempts: 1, Error: "refused", Payload: []byte("bad")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.AddBad(ctx, Bad{Ops: 2, Payload: []byte("worse")}); err != nil {
		t.Fatal(err)
	}
	if err := l.SetMeta(ctx, "k", []byte("v")); err != nil {
		t.Fatal(err)
	}
	stop()
	l, _ = open(t, path)
	if err := l.DeleteBad(ctx, a); err != nil {
		t.Fatal(err)
	}
	bads, err := l.Bads(ctx, 0, 1<<60)
	if err != nil || len(bads) != 1 || string(bads[0].Payload) != "worse" || bads[0].Ops != 2 {
		t.Fatalf("quarantine %+v, %v", bads, err)
	}
	if v, err := l.Meta(ctx, "k"); err != nil || string(v) != "v" {
		t.Fatalf("meta %q, %v", v, err)
	}
}

func TestAppendAfterCloseIsRefused(t *testing.T) {
	l, stop := open(t, filepath.Join(t.TempDir(), "wal.db"))
	stop()
	var got error
	l.Append(&Request{Done: func(_ *Segment, err error) { got = err }})
	if !errors.Is(got, ErrClosed) {
		t.Fatalf("got %v", got)
	}
}

func TestTrimmedTellsWhenSegmentsAreGone(t *testing.T) {
	l, stop := open(t, filepath.Join(t.TempDir(), "wal.db"))
	told := make(chan error, 1)
	tell := func(err error) { told <- err }
	for range 3 {
		put(t, l, "x")
	}
	l.Trim(2)
	l.Trimmed(2, tell)
	if err := <-told; err != nil {
		t.Fatal(err)
	}
	if _, trimmed := l.Extent(); trimmed != 2 || l.Trims() != 2 {
		t.Errorf("%d are gone, %d may go", trimmed, l.Trims())
	}
	l.Trimmed(1, tell)
	if err := <-told; err != nil {
		t.Errorf("of what is gone: %v", err)
	}
	stop()
	l.Trimmed(3, tell)
	if err := <-told; !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// Each trim used to start the delay anew, so trims that kept coming kept all segments.
func TestTrimsThatKeepComingDoNotPutEachOtherOff(t *testing.T) {
	l, _ := open(t, filepath.Join(t.TempDir(), "wal.db"))
	var ids []int64
	for range 10 {
		ids = append(ids, put(t, l, "x"))
	}
	tick := time.NewTicker(trimDelay / 10)
	defer tick.Stop()
	for range 300 {
		l.Trim(ids[4])
		tot, err := l.Totals(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if tot.Ops == 5 {
			return
		}
		<-tick.C
	}
	t.Error("segments are never trimmed while trims keep coming")
}

// After a failed commit the file stayed closed, also to readers, until the next append.
func TestALogIsReadableAgainAfterAFailedCommitWithoutAnAppend(t *testing.T) {
	ctx := context.Background()
	l, stop := open(t, filepath.Join(t.TempDir(), "wal.db"))
	put(t, l, "x")
	stop()
	l, err := Open(ctx, Options{Path: l.opts.Path})
	if err != nil {
		t.Fatal(err)
	}
	l.abandon(nil, false) // as commit does when it can't know what is on disk
	var wg sync.WaitGroup
	wg.Go(l.Run)
	if tot, err := l.Totals(ctx); err != nil || tot.Ops != 1 {
		t.Errorf("totals %+v, %v; want 1 op", tot, err)
	}
	l.Close()
	wg.Wait()
	if err := l.CloseFiles(); err != nil {
		t.Error(err)
	}
}

// A commit that failed because another process held the lock closed the file to readers.
func TestALogThatAnotherProcessHasLockedStaysReadable(t *testing.T) {
	ctx := context.Background()
	l, _ := open(t, filepath.Join(t.TempDir(), "wal.db"))
	seg := put(t, l, "x")
	if _, err := l.w.conn.ExecContext(ctx, "PRAGMA busy_timeout(1)"); err != nil {
		t.Fatal(err)
	}
	tx, err := l.sideDB.BeginTx(ctx, nil) // takes the lock at once
	if err != nil {
		t.Fatal(err)
	}
	failed := make(chan error, 1)
	l.Append(&Request{Payload: []byte("y"), Ops: 1, Done: func(_ *Segment, err error) { failed <- err }})
	if err := <-failed; err == nil {
		t.Error("a commit got past the lock")
	}
	if s, ok, err := l.Get(ctx, seg); err != nil || !ok || string(s.Payload) != "x" {
		t.Errorf("while it is locked: %q, %v, %v", s.Payload, ok, err)
	}
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	put(t, l, "z")
	segs, err := l.ReadAfter(ctx, 0, 1<<60, 1<<20)
	if err != nil || len(segs) != 2 || string(segs[1].Payload) != "z" {
		t.Errorf("after the lock went: %d segments, %v; want x and z", len(segs), err)
	}
}

// BenchmarkAppend64 measures 64 callers that each wait for their commit.
func BenchmarkAppend64(b *testing.B) {
	l, _ := open(b, filepath.Join(b.TempDir(), "wal.db"))
	payload := make([]byte, 350)
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		done := make(chan error, 1)
		for pb.Next() {
			l.Append(&Request{Payload: payload, Ops: 1, Max: uint64(time.Now().UnixNano()), Done: func(seg *Segment, err error) { l.Trim(seg.ID); done <- err }})
			if err := <-done; err != nil {
				b.Error(err)
			}
		}
	})
}

// BenchmarkAppend1 measures one caller that waits for its commit.
func BenchmarkAppend1(b *testing.B) {
	l, _ := open(b, filepath.Join(b.TempDir(), "wal.db"))
	payload := make([]byte, 350)
	done := make(chan int64, 1)
	for b.Loop() {
		l.Append(&Request{Payload: payload, Ops: 1, Max: uint64(time.Now().UnixNano()), Done: func(seg *Segment, err error) { done <- seg.ID }})
		l.Trim(<-done)
	}
}

func TestNoSyncIsTheOnlyWayToSkipTheFsync(t *testing.T) {
	for noSync, want := range map[bool]int{false: 2, true: 0} { // 2 is FULL, 0 is OFF
		l, err := Open(context.Background(), Options{Path: filepath.Join(t.TempDir(), "wal.db"), NoSync: noSync})
		if err != nil {
			t.Fatal(err)
		}
		for who, ask := range map[string]interface {
			QueryRowContext(context.Context, string, ...any) *sql.Row
		}{"Run": l.w.conn, "the side": l.sideDB} {
			var got int
			if err := ask.QueryRowContext(context.Background(), "PRAGMA synchronous").Scan(&got); err != nil || got != want {
				t.Errorf("NoSync %v: synchronous of %s is %d, %v; want %d", noSync, who, got, err, want)
			}
		}
		if err := l.CloseFiles(); err != nil {
			t.Error(err)
		}
	}
}
