//go:build compression

package syncengine_test

// l3zstd_test.go is about rows whose content is compressed: that they are small and read right,
// beside plain ones and whatever is set when they are read, and that damaged ones are noticed.

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/storetest"
)

// wordy is a document that shrinks.
func wordy(id string, n int) []byte {
	return []byte(fmt.Sprintf(`{"id":%q,"n":%d,"words":[%s"end"]}`, id, n, bytes.Repeat([]byte(`"the same words again",`), 40)))
}

// stored returns what a row holds.
func stored(t *testing.T, raw *sql.DB, id string) (content []byte, encoding string) {
	t.Helper()
	lab.Must(t, raw.QueryRow("SELECT content, encoding FROM sync_items WHERE id = ?", id).Scan(&content, &encoding))
	return content, encoding
}

func TestCompressedRowsAreSmallAndReadWhateverIsSet(t *testing.T) {
	lab.EachL3(t, func(t *testing.T, cfg syncengine.Config, raw *sql.DB) {
		ctx := context.Background()
		want := make(map[string][]byte)
		write := func(c syncengine.Compression, ids ...string) (root [32]byte) {
			cfg.Compression = c
			e := lab.OpenAsIs(t, cfg)
			for n, id := range ids {
				want[id] = wordy(id, n)
				if id == "short" {
					want[id] = []byte(`{}`)
				}
				lab.Must(t, e.Submit(ctx, syncengine.Item{ID: id, Content: want[id]}))
			}
			lab.Must(t, e.Flush(ctx))
			root, err := e.MerkleRoot(ctx)
			lab.Must(t, err)
			lab.Must(t, e.Close())
			return root
		}
		write(syncengine.CompressionZstd, "packed", "packed then plain", "short")
		write(syncengine.CompressionOff, "plain", "packed then plain", "plain then packed")
		root := write(syncengine.CompressionZstd, "plain then packed")
		for id, content := range want {
			isPacked := id == "packed" || id == "plain then packed"
			got, encoding := stored(t, raw, id)
			switch {
			case isPacked && (encoding != "zstd" || len(got) > len(content)/4 || !bytes.HasPrefix(got, []byte{0x28, 0xb5, 0x2f, 0xfd})):
				t.Errorf("%s: %d bytes are stored as %d, encoding %q", id, len(content), len(got), encoding)
			case !isPacked && (encoding != "" || !bytes.Equal(got, content)):
				t.Errorf("%s: %d bytes are stored as %d, encoding %q", id, len(content), len(got), encoding)
			}
		}
		for _, c := range []syncengine.Compression{syncengine.CompressionOff, syncengine.CompressionZstd} {
			cfg.Compression, cfg.Dir = c, t.TempDir() // one that knows nothing
			e := lab.OpenAsIs(t, cfg)
			for id, content := range want {
				it, err := e.GetVerified(ctx, id)
				if err != nil || !bytes.Equal(it.Content, content) {
					t.Errorf("%q: %s is %.60s, %v", c, id, it.Content, err)
				}
			}
			r, err := e.Verify(ctx, syncengine.VerifyOptions{Deep: true})
			if err != nil || !r.InSync {
				t.Errorf("%q: Verify: %+v, %v", c, r, err)
			}
			if got, err := e.MerkleRoot(ctx); err != nil || got != root {
				t.Errorf("%q: the root is %x, want %x; %v", c, got, root, err)
			}
			lab.Must(t, e.Close())
		}
	})
}

// The decision of L3, a heal and a group go other ways into a row.
func TestEveryWayIntoARowCompresses(t *testing.T) {
	lab.EachL3(t, func(t *testing.T, cfg syncengine.Config, raw *sql.DB) {
		ctx := context.Background()
		cfg.Compression = syncengine.CompressionZstd
		e := lab.OpenAsIs(t, cfg)
		lab.Must(t, e.Insert(ctx, syncengine.Item{ID: "inserted", Content: wordy("inserted", 1)}))
		_, err := e.SubmitMany(ctx, []syncengine.Item{{ID: "first", Content: wordy("first", 1)}, {ID: "second", Content: wordy("second", 1)}})
		lab.Must(t, err)
		lab.Must(t, e.Submit(ctx, syncengine.Item{ID: "healed", Content: wordy("healed", 1)}))
		lab.Must(t, e.Flush(ctx))
		_, err = raw.Exec("UPDATE sync_items SET content = ? WHERE id = ?", []byte("rotten"), "healed")
		lab.Must(t, err)
		if r, err := e.Verify(ctx, syncengine.VerifyOptions{Deep: true, Repair: true}); err != nil || r.Healed != 1 {
			t.Errorf("Verify: %+v, %v", r, err)
		}
		for _, id := range []string{"inserted", "first", "second", "healed"} {
			if content, encoding := stored(t, raw, id); encoding != "zstd" || len(content) > 300 {
				t.Errorf("%s: %d bytes, encoding %q", id, len(content), encoding)
			}
		}
	})
}

func TestADamagedFrameIsCorruptionAndCostsItsNeighboursNothing(t *testing.T) {
	lab.EachL3(t, func(t *testing.T, cfg syncengine.Config, raw *sql.DB) {
		ctx := context.Background()
		cfg.Compression = syncengine.CompressionZstd
		e := lab.OpenAsIs(t, cfg)
		enc, err := zstd.NewWriter(nil)
		lab.Must(t, err)
		bomb := enc.EncodeAll(make([]byte, 256<<20), nil)
		bad := map[string][]byte{"bomb": bomb, "cut short": enc.EncodeAll(wordy("x", 1), nil)[:20], "another's": enc.EncodeAll(wordy("x", 1), nil)}
		ids := []string{"sound"}
		for id := range bad {
			ids = append(ids, id)
		}
		for _, id := range ids {
			lab.Must(t, e.Submit(ctx, syncengine.Item{ID: id, Content: wordy(id, 1)}))
		}
		lab.Must(t, e.Flush(ctx))
		lab.Must(t, e.Close())
		for id, frame := range bad {
			_, err := raw.Exec("UPDATE sync_items SET content = ? WHERE id = ?", frame, id)
			lab.Must(t, err)
		}
		cfg.Dir = t.TempDir()
		e = lab.OpenAsIs(t, cfg)
		for id := range bad {
			var ce *syncengine.CorruptionError
			if it, err := e.Get(ctx, id); !errors.As(err, &ce) || ce.Tier != "L3" || ce.ID != id {
				t.Errorf("%s: %.40s, %v", id, it.Content, err)
			}
		}
		items, err := e.GetMany(ctx, ids)
		if !errors.Is(err, syncengine.ErrCorruption) || items[0] == nil || !bytes.Equal(items[0].Content, wordy("sound", 1)) {
			t.Errorf("GetMany: %v, %v", items, err)
		}
	})
}

// small is a document of some 200 bytes, which shrinks with a dictionary alone.
func small200(id string, n int) []byte {
	return []byte(fmt.Sprintf(`{"id":%q,"email":"user%d@example.com","created_at":"2026-11-%02dT12:%02d:00Z","balance_cents":%d,"status":"active","address":{"city":"Berlin","zip":"%d"}}`,
		id, n*7919%100_000, 1+n%28, n%60, n*104_729%1_000_000, 10_000+n*31%89_999))
}

// Two engines come with an empty database, and a third that was there before the dictionary is.
func TestADictionaryIsTrainedOnceAndKnownToAll(t *testing.T) {
	lab.EachL3(t, func(t *testing.T, cfg syncengine.Config, raw *sql.DB) {
		ctx := context.Background()
		cfg.Compression = syncengine.CompressionZstd
		cfg.L1MaxAge = 1
		early := lab.OpenAsIs(t, cfg)
		lab.Must(t, early.Submit(ctx, syncengine.Item{ID: "first", Content: []byte(`{}`)}))
		lab.Must(t, early.Flush(ctx))
		cfg.Compression = syncengine.CompressionZstdDictionary
		engines := []*syncengine.Engine{lab.OpenAsIs(t, cfg), lab.OpenAsIs(t, cfg)}
		for round := range 3 { // at first there is no dictionary
			for k, e := range engines {
				for n := range 600 {
					id := fmt.Sprintf("%d-%d-%d", round, k, n)
					lab.Must(t, e.Submit(ctx, syncengine.Item{ID: id, Content: small200(id, n)}))
				}
				lab.Must(t, e.Flush(ctx))
			}
		}
		var dictionaries, plain, packed int
		lab.Must(t, raw.QueryRow("SELECT COUNT(*) FROM sync_dictionaries").Scan(&dictionaries))
		lab.Must(t, raw.QueryRow("SELECT COUNT(*) FROM sync_items WHERE id LIKE '2-%' AND encoding = ''").Scan(&plain))
		lab.Must(t, raw.QueryRow("SELECT MAX(LENGTH(content)) FROM sync_items WHERE id LIKE '2-%'").Scan(&packed))
		if dictionaries != 1 || plain != 0 || packed > 120 {
			t.Errorf("%d dictionaries; of the last round %d rows are plain, the largest takes %d bytes", dictionaries, plain, packed)
		}
		cfg.Compression = syncengine.CompressionOff
		for name, e := range map[string]*syncengine.Engine{"one that was there before": early, "one that compresses nothing": lab.OpenAsIs(t, cfg)} {
			for n, id := range []string{"0-0-0", "2-0-599", "2-1-0"} {
				want := small200(id, []int{0, 599, 0}[n])
				if it, err := e.Get(ctx, id); err != nil || !bytes.Equal(it.Content, want) {
					t.Errorf("%s: Get of %s: %.40s, %v", name, id, it.Content, err)
				}
			}
			items, err := e.GetMany(ctx, []string{"2-0-1", "0-1-2", "2-1-3"})
			for k, n := range []int{1, 2, 3} {
				if err != nil || items[k] == nil || !bytes.Equal(items[k].Content, small200(items[k].ID, n)) {
					t.Errorf("%s: GetMany: %v, %v", name, items[k], err)
				}
			}
			r, err := e.Verify(ctx, syncengine.VerifyOptions{Deep: true})
			if err != nil || !r.InSync {
				t.Errorf("%s: Verify: %+v, %v", name, r, err)
			}
		}
		_, err := raw.Exec("UPDATE sync_dictionaries SET dictionary = ?", []byte("damaged"))
		lab.Must(t, err)
		cfg.Dir = t.TempDir()
		e := lab.OpenAsIs(t, cfg)
		if it, err := e.Get(ctx, "2-0-1"); !errors.Is(err, syncengine.ErrCorruption) {
			t.Errorf("without the dictionary: %s, %v", it.Content, err)
		}
		if it, err := e.Get(ctx, "first"); err != nil || string(it.Content) != `{}` {
			t.Errorf("a plain row, without the dictionary: %s, %v", it.Content, err)
		}
	})
}

func testCompression(t *testing.T) {
	for _, bad := range []syncengine.Config{{Compression: "gzip"}, {Compression: syncengine.CompressionZstd, L3: storetest.NewArchive()}} {
		bad.Dir = t.TempDir()
		var ce *syncengine.ConfigError
		if _, err := syncengine.Open(context.Background(), bad); !errors.As(err, &ce) || ce.Field != "Compression" {
			t.Errorf("%q: %v", bad.Compression, err)
		}
	}
	TestCompressedRowsAreSmallAndReadWhateverIsSet(t)
}

// testCompressionLevel: levels differ in what they make of a document.
func testCompressionLevel(t *testing.T) {
	lab.EachL3(t, func(t *testing.T, cfg syncengine.Config, raw *sql.DB) {
		ctx := context.Background()
		var doc []byte
		for n := range 200 {
			doc = append(doc, small200("x", n*n)...)
			doc = append(doc, ',')
		}
		doc = append(append([]byte{'['}, doc...), "0]"...)
		sizes := make(map[int]int)
		for _, level := range []int{1, 6} {
			cfg.Compression, cfg.CompressionLevel = syncengine.CompressionZstd, level
			e := lab.OpenAsIs(t, cfg)
			id := fmt.Sprint("level-", level)
			lab.Must(t, e.Submit(ctx, syncengine.Item{ID: id, Content: doc}))
			lab.Must(t, e.Flush(ctx))
			content, _ := stored(t, raw, id)
			sizes[level] = len(content)
		}
		if sizes[6] >= sizes[1] {
			t.Errorf("%d bytes at level 1 and %d at level 6", sizes[1], sizes[6])
		}
	})
}

// An engine that came before the dictionary meets rows of it in several calls at once.
func TestReadersMeetANewDictionaryTogether(t *testing.T) {
	lab.EachL3(t, func(t *testing.T, cfg syncengine.Config, raw *sql.DB) {
		ctx := context.Background()
		cfg.Compression = syncengine.CompressionZstd
		early := lab.OpenAsIs(t, cfg)
		lab.Put(t, early, "first", 1)
		lab.Must(t, early.Flush(ctx))
		cfg.Compression, cfg.Dir = syncengine.CompressionZstdDictionary, t.TempDir()
		e := lab.OpenAsIs(t, cfg)
		var ids []string
		for n := range 2 * 1100 { // the first half trains
			id := fmt.Sprint("doc-", n)
			lab.Must(t, e.Submit(ctx, syncengine.Item{ID: id, Content: small200(id, n)}))
			if ids = append(ids, id); n == 1100 {
				lab.Must(t, e.Flush(ctx))
			}
		}
		lab.Must(t, e.Flush(ctx))
		var wg sync.WaitGroup
		for g := range 8 {
			wg.Go(func() {
				items, err := early.GetMany(ctx, ids[1200+g*100:1300+g*100])
				lab.Must(t, err)
				for k, it := range items {
					if n := 1200 + g*100 + k; it == nil || !bytes.Equal(it.Content, small200(ids[n], n)) {
						t.Errorf("%s: %v", ids[n], it)
					}
				}
			})
		}
		wg.Wait()
		if n := early.Stats().Corruptions; n > 0 {
			t.Errorf("%d sound rows were told to be corrupt", n)
		}
	})
}
