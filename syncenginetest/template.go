package syncenginetest

import (
	"context"
	"os"
	"path/filepath"
	"sync"

	"github.com/syncengine-go/syncengine"
)

// template is an archive.db with all tables and no rows. To make the tables takes longer than
// everything else that Open does.
var template = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "syncenginetest-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	e, err := syncengine.Open(context.Background(), syncengine.Config{Dir: dir, WALNoSync: true})
	if err != nil {
		return nil, err
	}
	if err := e.Close(); err != nil {
		return nil, err
	}
	return os.ReadFile(filepath.Join(dir, "archive.db"))
})

// fill puts the template into the directory of an engine that is to make an archive.db there. One
// with an L2 makes its own: the identity of a database goes with the file, and L2 goes by that.
func fill(cfg *syncengine.Config) error {
	if cfg.SQLURL != "" || cfg.DB != nil || cfg.L3 != nil || cfg.RedisURL != "" || cfg.Redis != nil || cfg.L2 != nil {
		return nil
	}
	path := filepath.Join(cfg.Dir, "archive.db")
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	b, err := template()
	if err != nil {
		return err
	}
	return os.WriteFile(path, b, 0o600)
}
