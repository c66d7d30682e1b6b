package cuckoo

import (
	"bytes"
	"fmt"
	"io"
	"sync/atomic"
	"testing"
)

const benchIDs = 1_000_000

// benchSet returns a full set, and ids that are in it or aren't.
func benchSet(kind string) (*Set, []string) {
	s := New(benchIDs, NewSeed())
	insertRange(s, "customer", 0, benchIDs)
	ids := make([]string, 1<<16)
	for i := range ids {
		ids[i] = nth(kind, i*15)
	}
	return s, ids
}

func BenchmarkContains(b *testing.B) {
	for _, c := range []struct{ name, kind string }{{"hit", "customer"}, {"miss", "nobody"}} {
		b.Run(c.name, func(b *testing.B) {
			s, ids := benchSet(c.kind)
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				s.Contains(ids[i&(len(ids)-1)])
				i++
			}
		})
	}
}

// BenchmarkContainsParallel asks from all cores: for many ids, and all for one.
func BenchmarkContainsParallel(b *testing.B) {
	for _, c := range []struct {
		name string
		mask int
	}{{"many", 1<<16 - 1}, {"one", 0}} {
		b.Run(c.name, func(b *testing.B) {
			s, ids := benchSet("nobody")
			var start atomic.Int64
			b.ReportAllocs()
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				i := int(start.Add(7919))
				for pb.Next() {
					s.Contains(ids[i&c.mask])
					i++
				}
			})
		})
	}
}

// BenchmarkContainsSmall is a set that fits a core's cache.
func BenchmarkContainsSmall(b *testing.B) {
	s := New(10_000, NewSeed())
	insertRange(s, "customer", 0, 10_000)
	ids := make([]string, 1<<10)
	for i := range ids {
		ids[i] = nth("nobody", i)
	}
	i := 0
	for b.Loop() {
		s.Contains(ids[i&(len(ids)-1)])
		i++
	}
}

// BenchmarkFill makes a set of a million ids.
func BenchmarkFill(b *testing.B) {
	ids := make([]string, benchIDs)
	for i := range ids {
		ids[i] = nth("customer", i)
	}
	for b.Loop() {
		s := New(benchIDs, NewSeed())
		for _, id := range ids {
			s.Insert(id)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/benchIDs, "ns/id")
}

func BenchmarkInsertAgain(b *testing.B) {
	s, ids := benchSet("customer")
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		s.Insert(ids[i&(len(ids)-1)])
		i++
	}
}

func BenchmarkEncode(b *testing.B) {
	s, _ := benchSet("customer")
	b.ReportAllocs()
	for b.Loop() {
		if err := s.Encode(io.Discard, Stamp{}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecode(b *testing.B) {
	s, _ := benchSet("customer")
	var out bytes.Buffer
	if err := s.Encode(&out, Stamp{}); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(out.Len()))
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := Decode(bytes.NewReader(out.Bytes())); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkHash(b *testing.B) {
	k := newSipKey(NewSeed())
	for _, length := range []int{16, 36, 512} {
		id := string(make([]byte, length))
		b.Run(fmt.Sprintf("id%d", length), func(b *testing.B) {
			for b.Loop() {
				k.hash(id)
			}
		})
	}
}
