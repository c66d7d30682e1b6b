package oplog

// witness_test.go proves what the lock file knows of the log: that a file which lacks
// acknowledged commits is refused, whatever they were about, and that the witness claims
// nothing it can't know. It puts copies of closed logs in each other's place.

import (
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/syncengine-go/syncengine/internal/filelock"
	"github.com/syncengine-go/syncengine/internal/sqlkit"
)

// session opens a log, lets fn work with it, and closes it.
func session(t *testing.T, opts Options, fn func(l *Log)) {
	t.Helper()
	l, err := Open(context.Background(), opts)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(l.Run)
	fn(l)
	l.Close()
	wg.Wait()
	if err := l.CloseFiles(); err != nil {
		t.Fatal(err)
	}
}

// wantRefused opens what must not open, and returns what the error says.
func wantRefused(t *testing.T, path string) string {
	t.Helper()
	l, err := Open(context.Background(), Options{Path: path})
	if err == nil {
		_ = l.CloseFiles()
		t.Fatal("opened, want ErrCorrupt")
	}
	if !errors.Is(err, ErrCorrupt) {
		t.Fatalf("%v, want ErrCorrupt", err)
	}
	return err.Error()
}

// wantPayloads compares all segments with want.
func wantPayloads(t *testing.T, l *Log, want string) {
	t.Helper()
	segs, err := l.ReadAfter(context.Background(), 0, 1<<62, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	got := ""
	for _, s := range segs {
		got += string(s.Payload)
	}
	if got != want {
		t.Errorf("the log holds %q, want %q", got, want)
	}
}

// claimed is what the lock file says.
func claimed(t *testing.T, path string) claim {
	t.Helper()
	lock, err := filelock.Acquire(path + ".lock")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = lock.Release() }()
	rec, _, err := lock.Read()
	if err != nil {
		t.Fatal(err)
	}
	return claim{int64(binary.BigEndian.Uint64(rec[:])), int64(binary.BigEndian.Uint64(rec[8:]))}
}

func TestAnOldCopyIsRefusedWhateverCommitItLacks(t *testing.T) {
	ctx := context.Background()
	for name, later := range map[string]func(l *Log) error{
		"a segment": func(l *Log) error { put(t, l, "later"); return nil },
		"a trim": func(l *Log) error {
			l.Trim(1) // Close makes it happen
			return nil
		},
		"a quarantined payload":              func(l *Log) error { _, err := l.AddBad(ctx, Bad{Payload: []byte("x")}); return err },
		"a deletion there":                   func(l *Log) error { return l.DeleteBad(ctx, 1) },
		"a value":                            func(l *Log) error { return l.SetMeta(ctx, "k", []byte("later")) },
		"the second of two":                  func(l *Log) error { return errors.Join(l.SetMeta(ctx, "k", nil), l.SetMeta(ctx, "k", nil)) },
		"a segment, while trims make up for": func(l *Log) error { l.Trim(put(t, l, "later")); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "wal.db")
			session(t, Options{Path: path}, func(l *Log) {
				put(t, l, "first ")
				if _, err := l.AddBad(ctx, Bad{Payload: []byte("bad")}); err != nil {
					t.Fatal(err)
				}
			})
			old, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			session(t, Options{Path: path}, func(l *Log) {
				if err := later(l); err != nil {
					t.Fatal(err)
				}
			})
			if err := os.WriteFile(path, old, 0o600); err != nil {
				t.Fatal(err)
			}
			for range 2 { // a refusal changes nothing
				text := wantRefused(t, path)
				for _, word := range []string{path, path + ".lock", path + "-wal", "Restore", "remove"} {
					if !strings.Contains(text, word) {
						t.Errorf("%q does not say %q", text, word)
					}
				}
			}
			if now, err := os.ReadFile(path); err != nil || string(now) != string(old) {
				t.Errorf("the refused file was changed, %v", err)
			}
			// Whoever removes the lock file accepts the loss.
			if err := os.Remove(path + ".lock"); err != nil {
				t.Fatal(err)
			}
			session(t, Options{Path: path}, func(l *Log) {
				wantPayloads(t, l, "first ")
				put(t, l, "second")
			})
			session(t, Options{Path: path}, func(l *Log) { wantPayloads(t, l, "first second") })
		})
	}
}

// Without fsync a loss of power may take anything back: then an older file is no proof of
// damage, also not against what was claimed before.
func TestALogThatDoesNotSyncClaimsNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "wal.db")
	session(t, Options{Path: path}, func(l *Log) { put(t, l, "first ") })
	old, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	session(t, Options{Path: path}, func(l *Log) { put(t, l, "synced") })
	if c := claimed(t, path); c.commits != 2 {
		t.Fatalf("claimed: %+v, want 2 commits", c)
	}
	session(t, Options{Path: path, NoSync: true}, func(l *Log) {
		put(t, l, "not synced")
		if err := l.SetMeta(context.Background(), "k", []byte("v")); err != nil {
			t.Fatal(err)
		}
	})
	if c := claimed(t, path); c != (claim{}) {
		t.Errorf("claimed without fsync: %+v", c)
	}
	if err := os.WriteFile(path, old, 0o600); err != nil {
		t.Fatal(err)
	}
	session(t, Options{Path: path}, func(l *Log) {
		wantPayloads(t, l, "first ")
		put(t, l, "second")
	})
	if c := claimed(t, path); c.commits != 2 {
		t.Errorf("claimed, syncing again: %+v, want 2 commits", c)
	}
}

// What is claimed must be in the file also when commits fail, ids are skipped and segments
// taken back.
func TestFailedCommitsAreNotClaimed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "wal.db")
	session(t, Options{Path: path}, func(l *Log) {
		for n := range 10 {
			put(t, l, fmt.Sprint(n))
			if n%3 == 0 {
				failCommit(t, l)
			}
		}
	})
	session(t, Options{Path: path}, func(l *Log) {
		wantPayloads(t, l, "0123456789")
	})
	session(t, Options{Path: path}, func(l *Log) { wantPayloads(t, l, "0123456789") })
}

// failCommit makes one COMMIT fail, in a way after which its outcome counts as unknown: a
// constraint that SQLite looks at last.
func failCommit(t *testing.T, l *Log) {
	t.Helper()
	ctx := context.Background()
	exec := func(db interface {
		ExecContext(context.Context, string, ...any) (sql.Result, error)
	}, query string) {
		t.Helper()
		if _, err := db.ExecContext(ctx, query); err != nil {
			t.Fatal(err)
		}
	}
	exec(l.w.conn, "PRAGMA foreign_keys = ON") // until the file is reopened
	exec(l.sideDB, "CREATE TABLE orphans (parent INTEGER REFERENCES segments (id) DEFERRABLE INITIALLY DEFERRED)")
	exec(l.sideDB, "CREATE TRIGGER broken AFTER INSERT ON segments BEGIN INSERT INTO orphans VALUES (-1); END")
	if _, err := appendWait(l, []byte("never")); err == nil || !strings.Contains(err.Error(), "FOREIGN KEY") {
		t.Fatalf("the commit: %v, want it to fail", err)
	}
	release, err := l.hold(ctx) // waits until the file is open again
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	exec(l.sideDB, "DROP TABLE orphans")
	exec(l.sideDB, "DROP TRIGGER broken")
}

// The file can also lose its end while the process lives: the reopening after a failed
// commit looks as closely as Open.
func TestALogThatLostItsEndIsNotReopenedAfterAFailedCommit(t *testing.T) {
	path := filepath.Join(t.TempDir(), "wal.db")
	session(t, Options{Path: path}, func(l *Log) { put(t, l, "first") })
	old, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	l, err := Open(context.Background(), Options{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	commit := func() (err error) {
		l.commit([]*Request{{Payload: []byte("x"), Ops: 1, Done: func(_ *Segment, e error) { err = e }}}, 0)
		return err
	}
	if err := commit(); err != nil {
		t.Fatal(err)
	}
	l.abandon(nil, false) // as after a failed fsync
	if err := os.WriteFile(path, old, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := commit(); !errors.Is(err, ErrCorrupt) {
			t.Errorf("commit: %v, want ErrCorrupt", err)
		}
	}
	if err := l.CloseFiles(); err != nil {
		t.Error(err)
	}
}

// After a failed fsync, pages of the -wal file may be in memory alone, for good: nothing may
// be appended behind them. The connection of another process keeps Close from emptying the
// file, as a failing disk does.
func TestTheWALFileIsStartedAnewAfterAFailedCommit(t *testing.T) {
	ctx := context.Background()
	path := filepath.Join(t.TempDir(), "wal.db")
	session(t, Options{Path: path}, func(l *Log) {
		other, err := sqlkit.OpenSQLite(path, "")
		if err != nil {
			t.Fatal(err)
		}
		defer other.Close()
		if err := other.PingContext(ctx); err != nil {
			t.Fatal(err)
		}
		var n int
		if err := other.QueryRowContext(ctx, "SELECT COUNT(*) FROM segments").Scan(&n); err != nil {
			t.Fatal(err)
		}
		for range 40 {
			put(t, l, strings.Repeat("x", 40_000))
		}
		before := fileSize(t, path+"-wal")
		failCommit(t, l)
		put(t, l, "y")
		if after := fileSize(t, path+"-wal"); after > before/10 {
			t.Errorf("the -wal file had %d bytes, and has %d after the failed commit", before, after)
		}
	})
}

func fileSize(t *testing.T, path string) int64 {
	t.Helper()
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return st.Size()
}

// An unreadable record claims nothing, but the file was in use.
func TestADamagedLockFileClaimsNothingAndForgetsNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "wal.db")
	session(t, Options{Path: path}, func(l *Log) { put(t, l, "first") })
	old, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	session(t, Options{Path: path}, func(l *Log) { put(t, l, "second") })
	for _, text := range []string{"in use", "in use 0000", "\x00\x00\x00\x00"} {
		if err := errors.Join(os.WriteFile(path+".lock", []byte(text), 0o600), os.Remove(path)); err != nil {
			t.Fatal(err)
		}
		wantRefused(t, path)
		if err := errors.Join(os.WriteFile(path+".lock", []byte(text), 0o600), os.WriteFile(path, old, 0o600)); err != nil {
			t.Fatal(err)
		}
		session(t, Options{Path: path}, func(l *Log) { wantPayloads(t, l, "first") })
	}
}

// TestAFileThatIsNotNewIsRead though its lock is gone and a journal lies beside, as of a file whose
// creation was cut off.
func TestAFileThatIsNotNewIsRead(t *testing.T) {
	ctx := context.Background()
	path := filepath.Join(t.TempDir(), "wal.db")
	session(t, Options{Path: path}, func(l *Log) {
		_, err := l.AddBad(ctx, Bad{Payload: []byte("bad")})
		if err := errors.Join(err, l.SetMeta(ctx, "k", []byte("v")), l.SetBlob(ctx, "b", []byte("blob"))); err != nil {
			t.Fatal(err)
		}
	})
	if err := errors.Join(os.Remove(path+".lock"), os.WriteFile(path+"-journal", nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	session(t, Options{Path: path}, func(l *Log) {
		bads, err := l.Bads(ctx, 0, 10)
		v, verr := l.Meta(ctx, "k")
		b, berr := l.Blob(ctx, "b")
		if err := errors.Join(err, verr, berr); err != nil || len(bads) != 1 || string(v) != "v" || string(b) != "blob" || l.Made() {
			t.Errorf("%d in quarantine, %q, %q, new %v, %v", len(bads), v, b, l.Made(), err)
		}
	})
}
