package oplog

// format_test.go proves what is checked about a file beyond SQLite's own structure: its
// tables, its ledgers, the checksums of its rows; and that files of the first builds go on
// working.

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/syncengine-go/syncengine/internal/sqlkit"
)

// oldLog is a log as the first builds wrote it.
func oldLog(t *testing.T, path string) {
	t.Helper()
	ctx := context.Background()
	db, err := sqlkit.OpenSQLite(path, "_pragma=auto_vacuum(2)&_pragma=journal_mode(WAL)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	exec := func(query string, args ...any) {
		t.Helper()
		if _, err := db.ExecContext(ctx, query, args...); err != nil {
			t.Fatal(err)
		}
	}
	for _, table := range schema {
		exec(strings.Replace(table.text, "CREATE TABLE", "CREATE TABLE IF NOT EXISTS", 1))
	}
	for _, p := range []string{"zero", "one ", "two ", "three"} {
		exec("INSERT INTO segments (ops, at, crc, payload) VALUES (1, 1, ?, ?)", payloadSum([]byte(p)), []byte(p))
	}
	exec("DELETE FROM segments WHERE id IN (1, 4)")
	exec("INSERT INTO quarantine (ops, at, attempts, error, crc, payload) VALUES (1, 1, 1, 'why', ?, ?)", payloadSum([]byte("bad")), []byte("bad"))
	exec("INSERT INTO meta (key, value) VALUES ('max', ?), ('l2_missed', ?)", int64(77), []byte{1})
	if err := os.WriteFile(path+".lock", []byte("in use"), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestALogOfTheFirstBuildsIsUpgraded(t *testing.T) {
	ctx := context.Background()
	path := filepath.Join(t.TempDir(), "wal.db")
	oldLog(t, path)
	old, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	check := func(l *Log, segments string, bads ...int64) {
		t.Helper()
		wantPayloads(t, l, segments)
		if l.Max() != 77 {
			t.Errorf("Max = %d, want 77", l.Max())
		}
		if v, err := l.Meta(ctx, "l2_missed"); err != nil || string(v) != "\x01" {
			t.Errorf("meta %q, %v", v, err)
		}
		got, err := l.Bads(ctx, 0, 1<<62)
		if err != nil || len(got) != len(bads) {
			t.Errorf("quarantine %+v, %v; want %v", got, err, bads)
		}
		for i, b := range got {
			if b.ID != bads[i] || string(b.Payload) != "bad" {
				t.Errorf("quarantined payload %d is %q, want %d", b.ID, b.Payload, bads[i])
			}
		}
	}
	session(t, Options{Path: path}, func(l *Log) {
		check(l, "one two ", 1)
		if seg := put(t, l, "five"); seg != 5 {
			t.Errorf("segment %d, want 5: ids are not reused", seg)
		}
		if id, err := l.AddBad(ctx, Bad{Payload: []byte("bad")}); err != nil || id != 2 {
			t.Errorf("quarantined under %d, %v; want 2", id, err)
		}
	})
	session(t, Options{Path: path}, func(l *Log) {
		check(l, "one two five", 1, 2)
		if err := l.DeleteBad(ctx, 1); err != nil {
			t.Error(err)
		}
	})
	session(t, Options{Path: path}, func(l *Log) { check(l, "one two five", 2) })
	if err := os.WriteFile(path, old, 0o600); err != nil {
		t.Fatal(err)
	}
	wantRefused(t, path) // a copy from before the upgrade lacks what came after it
}

func TestAFileOfAnotherFormatIsRefused(t *testing.T) {
	for name, c := range map[string]struct{ change, want string }{
		"a newer one":          {"PRAGMA user_version = 2", "format 2"},
		"a missing table":      {"DROP TABLE quarantine", "2 tables"},
		"a changed table":      {"ALTER TABLE segments ADD COLUMN more TEXT", "segments"},
		"a renamed table":      {"ALTER TABLE segments RENAME TO fragments", "2 tables"},
		"no tables":            {"DROP TABLE segments; DROP TABLE meta; DROP TABLE quarantine", "0 tables"},
		"no format":            {"PRAGMA user_version = 0", "a format that has none"},
		"no format, no lock":   {"PRAGMA user_version = 0", "a format that has none"},
		"no ledger":            {"DELETE FROM meta WHERE key = 'ledger'", "no ledger"},
		"a segment less":       {"DELETE FROM segments WHERE id = 2", "1 segments"},
		"an id changed":        {"UPDATE segments SET id = 9 WHERE id = 2", "the ledger says"},
		"one back":             {"UPDATE segments SET id = 0 WHERE id = 1", "the ledger says"},
		"a value changed":      {"UPDATE meta SET value = x'00' WHERE key = 'k'", "checksum"},
		"a key changed":        {"UPDATE meta SET key = 'l' WHERE key = 'k'", "checksum"},
		"a quarantined less":   {"DELETE FROM quarantine", "quarantined"},
		"another in its place": {"UPDATE quarantine SET id = 0", "quarantined"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := context.Background()
			path := filepath.Join(t.TempDir(), "wal.db")
			session(t, Options{Path: path}, func(l *Log) {
				put(t, l, "a")
				put(t, l, "b")
				if _, err := l.AddBad(ctx, Bad{Payload: []byte("bad")}); err != nil {
					t.Fatal(err)
				}
				if err := l.SetMeta(ctx, "k", []byte("v")); err != nil {
					t.Fatal(err)
				}
			})
			change(t, path, c.change)
			if strings.HasSuffix(name, "no lock") {
				if err := os.Remove(path + ".lock"); err != nil {
					t.Fatal(err)
				}
			}
			before, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if text := wantRefused(t, path); !strings.Contains(text, c.want) {
				t.Errorf("%q does not say %q", text, c.want)
			}
			if after, err := os.ReadFile(path); err != nil || string(after) != string(before) {
				t.Errorf("the refused file was changed, %v", err)
			}
		})
	}
}

// Columns that are not the payload are covered by the checksum, too.
func TestADamagedColumnIsAnError(t *testing.T) {
	ctx := context.Background()
	for _, sql := range []string{
		"UPDATE segments SET ops = 2", "UPDATE segments SET at = 5", "UPDATE segments SET crc = crc + 1", "UPDATE segments SET crc = -crc",
		"UPDATE segments SET ops = 'many'", "UPDATE segments SET payload = payload || x'00'", "UPDATE segments SET crc = crc + (1 << 32)",
		"UPDATE quarantine SET ops = 2", "UPDATE quarantine SET at = 5", "UPDATE quarantine SET error = 'no'", "UPDATE quarantine SET attempts = 9",
		"UPDATE quarantine SET payload = x''", "UPDATE quarantine SET ops = 1.5",
	} {
		t.Run(sql, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "wal.db")
			session(t, Options{Path: path}, func(l *Log) {
				put(t, l, "a")
				if _, err := l.AddBad(ctx, Bad{Ops: 1, At: 1, Attempts: 1, Error: "why", Payload: []byte("bad")}); err != nil {
					t.Fatal(err)
				}
			})
			change(t, path, sql)
			session(t, Options{Path: path}, func(l *Log) {
				_, err1 := l.ReadAfter(ctx, 0, 1<<62, 1<<30)
				_, err2 := l.Bads(ctx, 0, 1<<62)
				if err := errors.Join(err1, err2); !errors.Is(err, ErrCorrupt) {
					t.Errorf("%v, want ErrCorrupt", err)
				}
			})
		})
	}
}

// change runs SQL on a closed log.
func change(t *testing.T, path, query string) {
	t.Helper()
	db, err := sqlkit.OpenSQLite(path, "")
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}()
	if _, err := db.ExecContext(context.Background(), query); err != nil {
		t.Fatal(err)
	}
}
