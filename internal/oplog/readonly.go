package oplog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/syncengine-go/syncengine/internal/filelock"
	"github.com/syncengine-go/syncengine/internal/sqlkit"
)

// Snapshot is a log that nobody has open, to be read. Nothing on disk changes by it: not even the
// -shm file comes into being, which SQLite makes for a reader, too. So a file without a -wal file
// is read as one that can't change, and of one with a -wal file a copy is made, in the directory
// for temporary files, and read. While a Snapshot is open nobody else can open the log.
type Snapshot struct {
	l    *Log
	temp string // directory of the copy
}

// OpenSnapshot checks a log as Open does. An error that is fs.ErrNotExist means that there is none.
func OpenSnapshot(ctx context.Context, path string) (_ *Snapshot, err error) {
	_, missing := os.Stat(path)
	if missing != nil && !errors.Is(missing, os.ErrNotExist) {
		return nil, missing
	}
	s := &Snapshot{l: &Log{opts: Options{Path: path}, witness: &witness{}, opened: make(chan struct{})}}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	used := false
	if _, err := os.Stat(path + ".lock"); err == nil { // else the log was never opened, and Acquire would make the file
		lock, err := filelock.Acquire(path + ".lock")
		if errors.Is(err, filelock.ErrHeld) {
			return nil, fmt.Errorf("%w: %s", ErrLocked, path)
		}
		if err != nil {
			return nil, err
		}
		s.l.lock = lock
		if s.l.witness, used, err = newWitness(lock, true); err != nil {
			return nil, err
		}
	}
	if missing != nil && used {
		return nil, fmt.Errorf("%w: %s is missing but was in use", ErrCorrupt, path)
	}
	if missing != nil {
		return nil, missing
	}
	from, options := path, "mode=ro&immutable=1"
	if st, err := os.Stat(path + "-wal"); err == nil && st.Size() > 0 {
		if from, err = s.copy(path); err != nil {
			return nil, err
		}
		options = "_pragma=query_only(1)"
	}
	if s.l.reader, err = sqlkit.OpenSQLite(from, options); err != nil {
		return nil, err
	}
	s.l.reader.SetMaxOpenConns(1)
	s.l.sideDB = s.l.reader
	if err := s.l.look(ctx, s.l.reader, used); err != nil {
		return nil, fmt.Errorf("checking %s: %w", path, s.l.describe(err))
	}
	version, tables, err := readSchema(ctx, s.l.reader)
	if err == nil && version != formatVersion && tables > 0 {
		err = fmt.Errorf("%s has format %d, of an earlier build: open it with an engine once", path, version)
	}
	if err == nil && tables == 0 {
		err = fmt.Errorf("%s holds no log: %w", path, os.ErrNotExist)
	}
	if err == nil {
		err = readLedger(ctx, s.l.reader, ledgerKey, s.l.ledger.fields())
	}
	if err != nil {
		return nil, s.l.describe(err)
	}
	s.l.extend()
	return s, nil
}

// copy copies the file and its -wal file.
func (s *Snapshot) copy(path string) (to string, err error) {
	if s.temp, err = os.MkdirTemp("", "syncengine-wal-"); err != nil {
		return "", err
	}
	to = filepath.Join(s.temp, "wal.db")
	for _, suffix := range []string{"", "-wal"} {
		if err := copyFile(to+suffix, path+suffix); err != nil {
			return "", err
		}
	}
	return to, nil
}

func copyFile(to, from string) (err error) {
	r, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	w, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(w, r)
	return errors.Join(err, w.Close())
}

// Close ends the reading, and removes the copy.
func (s *Snapshot) Close() error {
	err := s.l.closeFiles()
	if s.l.lock != nil {
		err = errors.Join(err, s.l.lock.Release())
	}
	if s.temp != "" {
		err = errors.Join(err, os.RemoveAll(s.temp))
	}
	return err
}

// Totals is Log.Totals.
func (s *Snapshot) Totals(ctx context.Context) (Totals, error) { return s.l.Totals(ctx) }

// ReadAfter is Log.ReadAfter.
func (s *Snapshot) ReadAfter(ctx context.Context, after, upTo, maxBytes int64) ([]Segment, error) {
	return s.l.ReadAfter(ctx, after, upTo, maxBytes)
}

// EachBad is Log.EachBad.
func (s *Snapshot) EachBad(ctx context.Context, first, last int64, fn func(Bad) error) error {
	return s.l.EachBad(ctx, first, last, fn)
}

// Meta is Log.Meta.
func (s *Snapshot) Meta(ctx context.Context, key string) ([]byte, error) { return s.l.Meta(ctx, key) }

// Extent is Log.Extent.
func (s *Snapshot) Extent() (last, trimmed int64) { return s.l.Extent() }
