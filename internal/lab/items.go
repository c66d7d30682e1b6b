package lab

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/syncengine-go/syncengine"
)

// Open opens an engine that is closed with the test. Without a Dir it gets a new one.
func Open(t testing.TB, cfg syncengine.Config) *syncengine.Engine {
	t.Helper()
	if cfg.Compression == syncengine.CompressionOff && cfg.L3 == nil {
		cfg.Compression = Compression
	}
	return OpenAsIs(t, cfg)
}

// OpenAsIs is Open for tests that mind whether contents are compressed in L3.
func OpenAsIs(t testing.TB, cfg syncengine.Config) *syncengine.Engine {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	e, err := syncengine.Open(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	return e
}

// Doc is a document of some 300 bytes that names its id and a number.
func Doc(id string, n int) []byte {
	return []byte(fmt.Sprintf(`{"id":%q,"n":%d,"pad":%q}`, id, n, strings.Repeat("x", 240)))
}

// Put submits Doc(id, n).
func Put(t testing.TB, e *syncengine.Engine, id string, n int, opts ...syncengine.WriteOption) {
	t.Helper()
	Must(t, e.Submit(context.Background(), syncengine.Item{ID: id, Content: Doc(id, n)}, opts...))
}

// WantContent checks one id: n < 0 means that it must not exist.
func WantContent(t testing.TB, e *syncengine.Engine, id string, n int) {
	t.Helper()
	it, err := e.Get(context.Background(), id)
	switch {
	case n < 0 && errors.Is(err, syncengine.ErrNotFound):
	case n < 0:
		t.Fatalf("%s: got %v, %v; want not found", id, it.Version, err)
	case err != nil:
		t.Fatalf("%s: %v", id, err)
	case string(it.Content) != string(Doc(id, n)):
		t.Fatalf("%s holds %.60s, want n = %d", id, it.Content, n)
	}
}

// BigDoc is a JSON string of n KiB.
func BigDoc(n int) []byte { return []byte(`"` + strings.Repeat("x", n<<10-2) + `"`) }

// Trusted waits until the filter is trusted.
func Trusted(t testing.TB, e *syncengine.Engine) {
	t.Helper()
	Eventually(t, "the filter is trusted", func() bool { return e.Stats().FilterTrusted })
}

// Increment is a change for Update: it counts up a number.
func Increment(cur syncengine.Item, exists bool) (syncengine.Item, error) {
	n := 0
	if exists {
		if err := cur.Decode(&n); err != nil {
			return cur, err
		}
	}
	cur.Content = []byte(strconv.Itoa(n + 1))
	return cur, nil
}

// HeapInUse is what the heap holds after a collection.
func HeapInUse() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// Landed waits until L3 holds the newest write of an item and the queue has let go of it. Between
// the two an Update waits for all of the queue, and so for what a test holds back there.
func Landed(t testing.TB, e *syncengine.Engine, id string) {
	t.Helper()
	Eventually(t, id+" has landed", func() bool {
		s, err := e.Status(context.Background(), id)
		return err == nil && s.State == syncengine.StatusSynced
	})
}
