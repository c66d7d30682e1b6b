package syncenginetest

import (
	"context"
	"testing"

	"github.com/syncengine-go/syncengine"
)

// New opens an engine in a new temporary directory, on SQLite and without Redis, and closes it when
// the test ends. Its WAL is not fsynced (WALNoSync). Each change is made to that Config before
// Open, in order. New ends the test when Open fails; an error of Close fails the test.
func New(t testing.TB, changes ...func(*syncengine.Config)) *syncengine.Engine {
	t.Helper()
	cfg := syncengine.Config{Dir: t.TempDir(), WALNoSync: true}
	for _, change := range changes {
		change(&cfg)
	}
	if err := fill(&cfg); err != nil {
		t.Fatalf("syncenginetest: making a database: %v", err)
	}
	e, err := syncengine.Open(context.Background(), cfg)
	if err != nil {
		t.Fatalf("syncenginetest: open: %v", err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Errorf("syncenginetest: close: %v", err)
		}
	})
	return e
}
