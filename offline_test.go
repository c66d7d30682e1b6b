package syncengine_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

// filesOf tells of each file in a directory what a change would show in.
func filesOf(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := make(map[string]string)
	entries, err := os.ReadDir(dir)
	lab.Must(t, err)
	for _, e := range entries {
		info, err := e.Info()
		lab.Must(t, err)
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		lab.Must(t, err)
		out[e.Name()] = fmt.Sprintf("%s %s %x", info.Mode(), info.ModTime(), sha256.Sum256(b))
	}
	return out
}

// TestReadOfflineShowsTheWALAndChangesNothing reads what a Close leaves in an outage, and what a
// kill does, whose -wal file is there.
func TestReadOfflineShowsTheWALAndChangesNothing(t *testing.T) {
	ctx := context.Background()
	db := testserver.MariaDB(t)
	cfg := syncengine.Config{Dir: t.TempDir(), SQLURL: db.URL()}
	e := lab.Open(t, cfg)
	_, err := db.SQL(t).Exec("ALTER TABLE sync_items ADD CONSTRAINT no_poison CHECK (content IS NULL OR content NOT LIKE '%poison%')")
	lab.Must(t, err)
	lab.Must(t, e.Submit(ctx, syncengine.Item{ID: "bad", Content: lab.Poison}))
	if err := e.Flush(ctx); !errors.Is(err, syncengine.ErrRefused) {
		t.Fatal(err)
	}
	db.Kill()
	lab.Put(t, e, "one", 1)
	lab.Must(t, e.Delete(ctx, "two"))
	_, err = e.SubmitMany(ctx, []syncengine.Item{{ID: "g1", Content: []byte("1")}, {ID: "g2", Content: []byte("2")}})
	lab.Must(t, err)
	if _, err := syncengine.ReadOffline(ctx, cfg, nil); !errors.Is(err, syncengine.ErrLocked) {
		t.Errorf("while an engine has it: %v", err)
	}
	killed := lab.Killed(t, cfg.Dir)
	if err := e.Close(); !errors.Is(err, syncengine.ErrPending) {
		t.Fatal(err)
	}
	for name, dir := range map[string]string{"closed": cfg.Dir, "killed": killed} {
		t.Run(name, func(t *testing.T) {
			if st, err := os.Stat(filepath.Join(dir, "wal.db-wal")); (err == nil && st.Size() > 0) != (name == "killed") {
				t.Fatalf("the -wal file: %v, %v", st, err)
			}
			before := filesOf(t, dir)
			units := make(map[string]int)
			var ids []string
			st, err := syncengine.ReadOffline(ctx, syncengine.Config{Dir: dir}, func(op syncengine.LoggedOp) error {
				ids = append(ids, op.ID)
				units[op.ID] = op.Unit
				if op.Version == 0 || op.Segment == 0 || op.Deleted != (op.ID == "two") || op.ID == "one" && string(op.Content) != string(lab.Doc("one", 1)) {
					t.Errorf("%+v", op)
				}
				return nil
			})
			lab.Must(t, err)
			// Of "bad" the segment may not be trimmed yet.
			if n := len(ids); n < 4 || !reflect.DeepEqual(ids[n-4:], []string{"one", "two", "g1", "g2"}) || units["g1"] != units["g2"] {
				t.Errorf("ops %v in units %v", ids, units)
			}
			if st.Ops != len(ids) || st.Bytes == 0 || st.Oldest.IsZero() || len(st.Quarantine) != 1 || st.Quarantine[0].ID != "bad" || st.MetRedis {
				t.Errorf("%+v", st)
			}
			if after := filesOf(t, dir); !reflect.DeepEqual(before, after) {
				t.Errorf("files before: %v\nafter: %v", before, after)
			}
			stop := errors.New("stop")
			if _, err := syncengine.ReadOffline(ctx, syncengine.Config{Dir: dir}, func(syncengine.LoggedOp) error { return stop }); !errors.Is(err, stop) {
				t.Errorf("an error of the caller: %v", err)
			}
		})
	}
	db.Restart()
	again := lab.Open(t, cfg)
	if err := again.Flush(lab.Bounded(t)); !errors.Is(err, syncengine.ErrRefused) {
		t.Fatal(err)
	}
	if n, err := again.DiscardQuarantined(ctx); n != 1 || err != nil {
		t.Errorf("discarded %d, %v", n, err)
	}
	lab.Must(t, again.Close())
	if st, err := syncengine.ReadOffline(ctx, cfg, nil); err != nil || st.Ops != 0 || len(st.Quarantine) != 0 || !st.Oldest.IsZero() {
		t.Errorf("after the drain: %+v, %v", st, err)
	}
}

func TestReadOfflineOfWhatIsNotThereOrDamaged(t *testing.T) {
	ctx := context.Background()
	_, err := syncengine.ReadOffline(ctx, syncengine.Config{}, nil)
	for call, err := range map[string]error{"ReadOffline": err, "ForgetDatabase": syncengine.ForgetDatabase(ctx, syncengine.Config{})} {
		var fault *syncengine.ConfigError
		if !errors.As(err, &fault) || fault.Field != "Dir" {
			t.Errorf("%s without a Dir: %v", call, err)
		}
	}
	empty := t.TempDir()
	if _, err := syncengine.ReadOffline(ctx, syncengine.Config{Dir: empty}, nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an empty directory: %v", err)
	}
	if left := filesOf(t, empty); len(left) != 0 {
		t.Errorf("it made %v", left)
	}
	cfg := syncengine.Config{Dir: t.TempDir()}
	e := lab.Open(t, cfg)
	lab.Put(t, e, "x", 1)
	lab.Must(t, e.Close())
	wal := filepath.Join(cfg.Dir, "wal.db")
	b, err := os.ReadFile(wal)
	lab.Must(t, err)
	lab.Must(t, os.WriteFile(wal, b[:len(b)/2], 0o600))
	if _, err := syncengine.ReadOffline(ctx, cfg, nil); !errors.Is(err, syncengine.ErrWALCorrupt) {
		t.Errorf("half a file: %v", err)
	}
	lab.Must(t, os.Remove(wal))
	if _, err := syncengine.ReadOffline(ctx, cfg, nil); !errors.Is(err, syncengine.ErrWALCorrupt) {
		t.Errorf("no file, but it was in use: %v", err)
	}
}

// TestADatabaseMadeFromSchemaNeedsNoRightToMakeTables: the user may read and write rows, no more.
func TestADatabaseMadeFromSchemaNeedsNoRightToMakeTables(t *testing.T) {
	db := testserver.MariaDB(t)
	root := db.SQL(t)
	for _, text := range append(syncengine.Schema(syncengine.DialectMySQL),
		"CREATE USER app@'127.0.0.1' IDENTIFIED BY 'kn4ryb1rd'",
		"GRANT SELECT, INSERT, UPDATE, DELETE ON "+databaseOf(t, db.URL())+".* TO app@'127.0.0.1'",
	) {
		if _, err := root.Exec(text); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
	}
	e := lab.Open(t, syncengine.Config{SQLURL: "mysql://app:kn4ryb1rd@" + db.Addr() + "/" + databaseOf(t, db.URL())})
	ctx := lab.Bounded(t)
	lab.Put(t, e, "x", 1, syncengine.WithDurability(syncengine.Archived))
	lab.Must(t, e.Delete(ctx, "x", syncengine.WithDurability(syncengine.Archived)))
	_, err := e.Update(ctx, "n", lab.Increment)
	lab.Must(t, err)
	report, err := e.Verify(ctx, syncengine.VerifyOptions{Deep: true})
	if err != nil || !report.InSync {
		t.Errorf("%+v, %v", report, err)
	}
	lab.Must(t, e.Close())
	if got := syncengine.Schema("oracle"); got != nil {
		t.Errorf("of a dialect that there is not: %v", got)
	}
}

func databaseOf(t *testing.T, url string) string {
	t.Helper()
	return url[len(url)-len(filepath.Base(url)):]
}
