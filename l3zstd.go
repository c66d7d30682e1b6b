//go:build compression

package syncengine

// l3zstd.go compresses contents with zstd (compress/).
//
// # Dictionaries
//
// Small documents shrink with a dictionary alone. With CompressionZstdDictionary an engine keeps
// the first contents that it stores, trains a dictionary on them and puts that into the table
// sync_dictionaries, unless another engine was first: then it uses that one. A dictionary is never
// changed and never removed, since rows can't be read without it. Engines read the table when they
// come, and again when they meet a row of a dictionary that they don't know.
//
// Training takes some tens of milliseconds, once in the life of a database, after a commit. If it
// or the INSERT fails, rows are compressed without a dictionary, and others try.

import (
	"context"
	"crypto/sha256"
	"errors"
	"sync"
	"sync/atomic"

	"github.com/syncengine-go/syncengine/compress"
	"github.com/syncengine-go/syncengine/internal/sqlkit"
)

const (
	maxUnpacked = 64 << 20 // larger contents are stored as they are, whatever MaxItemBytes is here or elsewhere

	trainOn      = 1000     // contents
	trainBytes   = 2 << 20  // of them, at most: then fewer do
	trainLargest = 16 << 10 // larger ones shrink without a dictionary
)

// zstd is a codec that packs if it is asked to, and always unpacks.
type zstd struct {
	opts   compress.Options
	packs  bool
	learns bool
	using  atomic.Pointer[compress.Codec]

	mu      sync.Mutex // guards the fields below
	samples [][]byte
	bytes   int
	known   int // dictionaries in using
}

func newCodec(cfg *Config) (codec, error) {
	z := &zstd{
		opts:  compress.Options{Level: cfg.CompressionLevel, MaxBytes: maxUnpacked},
		packs: cfg.Compression != CompressionOff, learns: cfg.Compression == CompressionZstdDictionary,
	}
	return z, z.use(nil)
}

// use makes a codec of dictionaries the one that works.
func (z *zstd) use(dictionaries [][]byte) error {
	opts := z.opts
	if opts.Dictionaries = dictionaries; !z.learns && len(dictionaries) > 0 {
		opts.Plain = true
	}
	c, err := compress.New(opts)
	if err != nil {
		return err
	}
	z.using.Store(c)
	z.mu.Lock()
	z.known = len(dictionaries)
	z.mu.Unlock()
	return nil
}

func (z *zstd) Pack(content []byte) (stored []byte, encoding string) {
	if z.packs && len(content) <= maxUnpacked {
		if packed, ok := z.using.Load().Pack(content); ok {
			return packed, "zstd"
		}
	}
	return content, ""
}

func (z *zstd) Unpack(stored []byte) ([]byte, error) {
	content, err := z.using.Load().Unpack(stored)
	if errors.Is(err, compress.ErrNoDictionary) {
		err = errLacksDictionary
	}
	return content, err
}

// sample keeps contents to train on. It reports whether there are enough.
func (z *zstd) sample(rows []storedRow) (enough bool) {
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.known > 0 {
		return false
	}
	for i := range rows {
		c := rows[i].Content
		if !rows[i].Deleted && len(c) >= compress.DefaultMinBytes && len(c) <= trainLargest {
			z.samples = append(z.samples, append([]byte(nil), c...))
			z.bytes += len(c)
		}
		if len(z.samples) >= trainOn || z.bytes >= trainBytes {
			return true
		}
	}
	return false
}

// taken returns the samples, and forgets them: whether or not a dictionary comes of them, the next
// one has others.
func (z *zstd) taken() [][]byte {
	z.mu.Lock()
	defer z.mu.Unlock()
	defer func() { z.samples, z.bytes = nil, 0 }()
	return z.samples
}

// recall reads what other engines have learned.
func (s *sqlStore) recall(ctx context.Context, from rowsFrom) error {
	_, err := s.loadDictionaries(ctx, from)
	return err
}

// learn is told of rows that were stored. It makes a dictionary when there is none.
func (s *sqlStore) learn(ctx context.Context, rows []storedRow) {
	z := s.codec.(*zstd)
	if !z.learns || !z.sample(rows) {
		return
	}
	samples := z.taken()
	if known, err := s.loadDictionaries(ctx, s.pools.Read); err != nil || known > 0 {
		return
	}
	d, err := compress.Train(compress.FirstID, samples)
	if err != nil {
		return
	}
	sum := sha256.Sum256(d)
	_, err = s.pools.Write.ExecContext(ctx, "INSERT INTO sync_dictionaries (id, dictionary, sha256) VALUES (1, ?, ?)", d, sum[:])
	if err == nil || sqlkit.IsDuplicate(err) {
		_, _ = s.loadDictionaries(ctx, s.pools.Read)
	}
}

// loadDictionaries reads the dictionaries of the database, and returns how many there are.
func (s *sqlStore) loadDictionaries(ctx context.Context, from rowsFrom) (known int, err error) {
	rows, err := from.QueryContext(ctx, "SELECT dictionary, sha256 FROM sync_dictionaries ORDER BY id")
	if err != nil {
		return 0, err
	}
	var all [][]byte
	for rows.Next() && err == nil {
		var d, sum []byte
		if err = rows.Scan(&d, &sum); err == nil {
			if have := sha256.Sum256(d); string(have[:]) == string(sum) { // else it is as good as lost
				all = append(all, d)
			}
		}
	}
	if err = errors.Join(err, rows.Err(), rows.Close()); err != nil || len(all) == 0 {
		return 0, err
	}
	return len(all), s.codec.(*zstd).use(all)
}
