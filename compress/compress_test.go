package compress_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"

	"github.com/klauspost/compress/zstd"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/syncengine-go/syncengine/compress"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func codec(t testing.TB, o compress.Options) *compress.Codec {
	t.Helper()
	c, err := compress.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// document is JSON of about so many bytes.
func document(size int) []byte {
	var rows []map[string]any
	for n := 0; n*60 < size; n++ {
		rows = append(rows, map[string]any{"id": n, "name": fmt.Sprint("name-", n), "price": n * 17 % 1000, "tags": []string{"a", "b"}})
	}
	b, err := json.Marshal(rows)
	if err != nil {
		panic(err)
	}
	return b
}

func TestAPackedDocumentIsSmallerAndComesBack(t *testing.T) {
	for _, level := range []int{0, 1, 3, 7, 22} {
		c := codec(t, compress.Options{Level: level})
		for _, size := range []int{200, 5000, 1 << 20} {
			doc := document(size)
			packed, ok := c.Pack(doc)
			if !ok || len(packed) > len(doc)*2/3 || !compress.Packed(packed) {
				t.Errorf("level %d: %d bytes become %d, %v", level, len(doc), len(packed), ok)
			}
			if got, err := c.Unpack(packed); err != nil || !bytes.Equal(got, doc) {
				t.Errorf("level %d: %d bytes come back as %d, %v", level, len(doc), len(got), err)
			}
		}
	}
}

func TestWhatDoesNotShrinkIsNotPacked(t *testing.T) {
	c := codec(t, compress.Options{MaxBytes: 10_000})
	noise := make([]byte, 2000)
	rnd := rand.NewChaCha8([32]byte{})
	_, _ = rnd.Read(noise)
	for name, doc := range map[string][]byte{"noise": noise, "nothing": nil, "little": []byte(`{"a":1,"a":1,"a":1}`), "too much": document(20_000)} {
		if packed, ok := c.Pack(doc); ok {
			t.Errorf("%s: %d bytes become %d", name, len(doc), len(packed))
		}
	}
}

func TestAnyDocumentComesBack(t *testing.T) {
	c := codec(t, compress.Options{MinBytes: 1})
	rapid.Check(t, func(t *rapid.T) {
		doc := bytes.Repeat(rapid.SliceOfN(rapid.Byte(), 1, 300).Draw(t, "doc"), rapid.IntRange(1, 200).Draw(t, "times"))
		packed, ok := c.Pack(doc)
		if !ok {
			return
		}
		if got, err := c.Unpack(packed); err != nil || !bytes.Equal(got, doc) {
			t.Fatalf("%d bytes come back as %d, %v", len(doc), len(got), err)
		}
	})
}

// bombs are frames that claim or hold more than they should.
func bombs(t testing.TB) map[string][]byte {
	t.Helper()
	zeros := make([]byte, 64<<20)
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	known := enc.EncodeAll(zeros, nil)
	var stream bytes.Buffer // a frame that does not say its size
	enc.Reset(&stream)
	if _, err = enc.Write(zeros); err == nil {
		err = enc.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	small := enc.EncodeAll(document(5000), nil)
	return map[string][]byte{
		"known size":      known,
		"unknown size":    stream.Bytes(),
		"many frames":     bytes.Repeat(small, 10_000),
		"a lie upwards":   {0x28, 0xb5, 0x2f, 0xfd, 0xa0, 0xff, 0xff, 0xff, 0x03, 0x01, 0x00, 0x00},
		"only skippable":  {0x50, 0x2a, 0x4d, 0x18, 0x00, 0x00, 0x00, 0x00},
		"skippable first": append([]byte{0x50, 0x2a, 0x4d, 0x18, 0x00, 0x00, 0x00, 0x00}, small...),
		"trailing bytes":  append(bytes.Clone(small), "more"...),
		"cut short":       small[:len(small)/2],
		"the magic alone": small[:4],
		"nothing":         nil,
		"plain":           []byte(`{"a":1}`),
	}
}

func TestABombIsRefusedAndCostsLittle(t *testing.T) {
	const most = 1 << 20
	c := codec(t, compress.Options{MaxBytes: most})
	for name, bomb := range bombs(t) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		doc, err := c.Unpack(bomb)
		runtime.ReadMemStats(&after)
		if !errors.Is(err, compress.ErrDamaged) && !errors.Is(err, compress.ErrTooLarge) || doc != nil {
			t.Errorf("%s: %d bytes, %v", name, len(doc), err)
		}
		if used := after.TotalAlloc - before.TotalAlloc; used > 4*most {
			t.Errorf("%s: %d bytes were allocated", name, used)
		}
	}
}

func TestEveryFlippedBitIsNoticed(t *testing.T) {
	c := codec(t, compress.Options{})
	doc := document(600)
	packed, _ := c.Pack(doc)
	for bit := range len(packed) * 8 {
		bad := bytes.Clone(packed)
		bad[bit/8] ^= 1 << (bit % 8)
		if got, err := c.Unpack(bad); err == nil && !bytes.Equal(got, doc) {
			t.Errorf("bit %d: %d other bytes come back", bit, len(got))
		}
	}
}

func TestCallsSideBySide(t *testing.T) {
	c := codec(t, compress.Options{})
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for n := range 50 {
				doc := document(300 + 100*g + n)
				packed, _ := c.Pack(doc)
				if got, err := c.Unpack(packed); err != nil || !bytes.Equal(got, doc) {
					t.Errorf("%d bytes come back as %d, %v", len(doc), len(got), err)
				}
			}
		})
	}
	wg.Wait()
}

// person is a document of some 270 bytes.
func person(n int) []byte {
	rnd := rand.New(rand.NewPCG(uint64(n), 1))
	pick := func(of ...string) string { return of[rnd.IntN(len(of))] }
	b, err := json.Marshal(map[string]any{
		"id": fmt.Sprintf("user:%08d", n), "email": fmt.Sprintf("%s%d@example.com", pick("alice", "bob", "carol", "dave"), rnd.IntN(100_000)),
		"name": pick("Alice", "Bob", "Carol", "Dave") + " " + pick("Smith", "Jones", "Miller"), "created_at": fmt.Sprintf("2026-%02d-%02dT12:00:00Z", 1+rnd.IntN(12), 1+rnd.IntN(28)),
		"status": pick("active", "suspended", "deleted"), "balance_cents": rnd.IntN(1e7),
		"address":     map[string]any{"city": pick("Berlin", "Paris", "London", "Madrid"), "zip": fmt.Sprint(10_000 + rnd.IntN(89_999))},
		"preferences": map[string]bool{"dark_mode": rnd.IntN(2) == 0, "notifications": rnd.IntN(2) == 0},
	})
	if err != nil {
		panic(err)
	}
	return b
}

func people(n int) (docs [][]byte) {
	for i := range n {
		docs = append(docs, person(i))
	}
	return docs
}

func TestADictionaryMakesSmallDocumentsSmall(t *testing.T) {
	d, err := compress.Train(compress.FirstID, people(1000))
	if err != nil {
		t.Fatal(err)
	}
	with, without := codec(t, compress.Options{Dictionaries: [][]byte{d}}), codec(t, compress.Options{})
	plain, packed := 0, 0
	for n := 1000; n < 2000; n++ {
		doc := person(n)
		p, ok := with.Pack(doc)
		if !ok {
			t.Fatalf("%s is not packed", doc)
		}
		plain, packed = plain+len(doc), packed+len(p)
		if got, err := with.Unpack(p); err != nil || !bytes.Equal(got, doc) {
			t.Fatalf("%d bytes come back as %d, %v", len(doc), len(got), err)
		}
		if _, err := without.Unpack(p); err != compress.ErrNoDictionary {
			t.Fatalf("without the dictionary: %v", err)
		}
	}
	if packed > plain/2 {
		t.Errorf("%d bytes become %d", plain, packed)
	}
	doc := document(5000)
	p, _ := without.Pack(doc)
	if got, err := with.Unpack(p); err != nil || !bytes.Equal(got, doc) {
		t.Errorf("what was packed without it: %d bytes, %v", len(got), err)
	}
}

func TestALaterDictionaryPacksAndAnEarlierOneUnpacks(t *testing.T) {
	var dicts [][]byte
	for n := range 2 {
		d, err := compress.Train(uint32(compress.FirstID+n), people(300+n))
		if err != nil {
			t.Fatal(err)
		}
		dicts = append(dicts, d)
	}
	first, both := codec(t, compress.Options{Dictionaries: dicts[:1]}), codec(t, compress.Options{Dictionaries: dicts})
	p, _ := first.Pack(person(5000))
	if got, err := both.Unpack(p); err != nil || !bytes.Equal(got, person(5000)) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	p, _ = both.Pack(person(5000))
	if _, err := first.Unpack(p); err != compress.ErrNoDictionary {
		t.Errorf("the first knows the second: %v", err)
	}
}

func TestNoDictionaryComesOfNothing(t *testing.T) {
	noise := make([][]byte, 100)
	rnd := rand.NewChaCha8([32]byte{})
	for i := range noise {
		noise[i] = make([]byte, 300)
		_, _ = rnd.Read(noise[i])
	}
	for name, samples := range map[string][][]byte{"nothing": nil, "empty": make([][]byte, 100), "one": people(1), "noise": noise} {
		if d, err := compress.Train(compress.FirstID, samples); err == nil {
			if c, err := compress.New(compress.Options{Dictionaries: [][]byte{d}}); err != nil {
				t.Errorf("%s: a dictionary of %d bytes that is none: %v", name, len(d), err)
			} else {
				_ = c.Close()
			}
		}
	}
	for _, id := range []uint32{0, compress.FirstID - 1, compress.LastID + 1} {
		if _, err := compress.Train(id, people(300)); err == nil {
			t.Errorf("the id %d is taken", id)
		}
	}
	if _, err := compress.New(compress.Options{Dictionaries: [][]byte{[]byte("no dictionary")}}); err == nil {
		t.Error("any bytes are a dictionary")
	}
}

func TestOptionsAreChecked(t *testing.T) {
	for _, o := range []compress.Options{{Level: -1}, {Level: 23}, {MaxBytes: -1}, {MaxBytes: 5 << 30}} {
		if _, err := compress.New(o); err == nil {
			t.Errorf("%+v is taken", o)
		}
	}
}

func FuzzUnpack(f *testing.F) {
	c := codec(f, compress.Options{MaxBytes: 1 << 20})
	packed, _ := c.Pack(document(600))
	f.Add(packed)
	f.Add([]byte(`{"a":1}`))
	f.Fuzz(func(t *testing.T, packed []byte) {
		if doc, err := c.Unpack(packed); err == nil && len(doc) > 1<<20 {
			t.Errorf("%d bytes", len(doc))
		}
	})
}

func BenchmarkPack(b *testing.B) {
	for name, docs := range map[string][][]byte{"270 B": people(2000), "2 kB": {document(2000)}} {
		for _, dictionary := range []string{"without", "with a dictionary"} {
			b.Run(name+"/"+dictionary, func(b *testing.B) {
				var o compress.Options
				if dictionary != "without" {
					d, err := compress.Train(compress.FirstID, append(people(500), docs[:len(docs)/2]...))
					if err != nil {
						b.Fatal(err)
					}
					o.Dictionaries = [][]byte{d}
				}
				c := codec(b, o)
				plain, packed := 0, 0
				for n := 0; b.Loop(); n++ {
					doc := docs[len(docs)/2+n%(len(docs)-len(docs)/2)]
					plain, packed = plain+len(doc), packed+len(doc)
					if p, ok := c.Pack(doc); ok {
						packed += len(p) - len(doc)
					}
				}
				b.SetBytes(int64(plain / b.N))
				b.ReportMetric(float64(packed)/float64(plain), "ratio")
			})
		}
	}
}

func BenchmarkUnpack(b *testing.B) {
	c := codec(b, compress.Options{})
	doc := document(2000)
	packed, _ := c.Pack(doc)
	b.SetBytes(int64(len(doc)))
	for b.Loop() {
		if _, err := c.Unpack(packed); err != nil {
			b.Fatal(err)
		}
	}
}
