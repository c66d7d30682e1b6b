//go:build !compression

package syncengine_test

import (
	"context"
	"database/sql"
	"errors"
	"testing"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
)

// TestACompressedRowIsAClearErrorWithoutTheTag.
func TestACompressedRowIsAClearErrorWithoutTheTag(t *testing.T) {
	lab.EachL3(t, func(t *testing.T, cfg syncengine.Config, raw *sql.DB) {
		ctx := context.Background()
		e := lab.Open(t, cfg)
		lab.Put(t, e, "x", 1)
		lab.Put(t, e, "y", 1)
		lab.Must(t, e.Flush(ctx))
		lab.Must(t, e.Close())
		_, err := raw.Exec("UPDATE sync_items SET content = ?, encoding = 'zstd' WHERE id = 'x'", []byte{0x28, 0xb5, 0x2f, 0xfd, 0x20, 0x02, 0x11, 0, 0, '{', '}'})
		lab.Must(t, err)
		cfg.Dir = t.TempDir()
		e = lab.Open(t, cfg)
		if it, err := e.Get(ctx, "x"); !errors.Is(err, syncengine.ErrCorruption) || !errors.Is(err, syncengine.ErrFeatureNotBuilt) {
			t.Errorf("%s, %v", it.Content, err)
		}
		lab.WantContent(t, e, "y", 1)
		lab.Put(t, e, "x", 2) // over it
		lab.Must(t, e.Flush(ctx))
		var encoding string
		lab.Must(t, raw.QueryRow("SELECT encoding FROM sync_items WHERE id = 'x'").Scan(&encoding))
		if encoding != "" {
			t.Errorf("a plain row has the encoding %q", encoding)
		}
	})
}

func testCompression(t *testing.T) {
	refusedFeature(t, syncengine.Config{Compression: syncengine.CompressionZstd})
	refusedFeature(t, syncengine.Config{Compression: syncengine.CompressionZstdDictionary})
}

func testCompressionLevel(t *testing.T) { refusedFeature(t, syncengine.Config{CompressionLevel: 3}) }

func refusedFeature(t *testing.T, cfg syncengine.Config) {
	t.Helper()
	cfg.Dir = t.TempDir()
	if _, err := syncengine.Open(context.Background(), cfg); !errors.Is(err, syncengine.ErrFeatureNotBuilt) {
		t.Errorf("Open: %v, want ErrFeatureNotBuilt", err)
	}
}
