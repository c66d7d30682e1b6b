package main

import (
	"bufio"
	"compress/gzip"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sort"
	"strings"
)

const (
	items = 10_000 // of the patterns that are made up
	reads = 600_000
)

// pattern is a sequence of reads.
type pattern struct {
	name  string
	reads []uint32
	sizes []int   // of each item's content; nil: all are itemBytes
	at    []int64 // sizes of the cache in items; nil: 1, 5, 10 and 25 % of the data
}

// rooms are the sizes of the cache in bytes.
func (p *pattern) rooms() (rooms []int64) {
	if p.at != nil {
		for _, n := range p.at {
			rooms = append(rooms, n*itemCost)
		}
		return rooms
	}
	seen := make(map[uint32]bool)
	var data int64
	for _, k := range p.reads {
		if !seen[k] {
			seen[k] = true
			data += p.cost(k)
		}
	}
	return []int64{data / 100, data / 20, data / 10, data / 4}
}

func (p *pattern) size(k uint32) int {
	if p.sizes == nil {
		return itemBytes
	}
	return p.sizes[k]
}

func (p *pattern) cost(k uint32) int64 { return int64(p.size(k)) + itemCost - itemBytes }

// hits returns the share of reads that a cache answers, in percent.
func (p *pattern) hits(mk func(int64) (cache, error), room int64) (float64, error) {
	c, err := mk(room)
	if err != nil {
		return 0, err
	}
	n := 0
	for _, k := range p.reads {
		if c.read(k, p.size(k)) {
			n++
		}
	}
	return 100 * float64(n) / float64(len(p.reads)), c.close()
}

func patterns(dir string) ([]pattern, error) {
	r := rand.New(rand.NewPCG(1, 2))
	fill := func(next func(i int) uint32) []uint32 {
		out := make([]uint32, reads)
		for i := range out {
			out[i] = next(i)
		}
		return out
	}
	var ps []pattern
	for _, s := range []float64{.7, .9, 1.1} {
		z := zipf(r, s, items)
		ps = append(ps, pattern{name: fmt.Sprintf("zipf %.1f", s), reads: fill(func(int) uint32 { return z() })})
	}
	ps = append(ps, pattern{name: "loop", reads: fill(func(i int) uint32 { return uint32(i % items) })})

	hot := zipf(r, .9, items/2)
	ps = append(ps, pattern{name: "hot set and scans", reads: fill(func(i int) uint32 {
		if round := i % 7500; round >= 5000 { // a scan over half of the cold ones
			return items/2 + uint32(i/7500*2500+round-5000)%(items/2)
		}
		return hot()
	})})

	z := zipf(r, 1, items)
	ps = append(ps,
		pattern{name: "hot set that jumps", reads: fill(func(i int) uint32 { return (z() + uint32(i/60_000*1500)) % items })},
		pattern{name: "hot set that drifts", reads: fill(func(i int) uint32 { return (z()*7919 + uint32(i/20)) % items })})

	sizes := make([]int, items)
	for i := range sizes {
		sizes[i] = min(64<<10, max(64, int(1500*math.Exp(1.3*r.NormFloat64()))))
	}
	z = zipf(r, .9, items)
	ps = append(ps, pattern{name: "mixed sizes", sizes: sizes, reads: fill(func(int) uint32 { return z() })})

	if dir == "" {
		return ps, nil
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.txt.gz"))
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		keys, err := readTrace(f)
		if err != nil {
			return nil, err
		}
		name := strings.TrimSuffix(filepath.Base(f), ".txt.gz")
		ps = append(ps, pattern{name: name, reads: keys, at: traceRooms[name]})
	}
	return ps, nil
}

// traceRooms are the sizes that these traces are usually run with.
var traceRooms = map[string][]int64{
	"web07":  {128, 512, 2048, 4096},
	"gli":    {250, 500, 1000, 2000},
	"multi1": {100, 500, 1000, 2000},
	"sprite": {100, 250, 500, 1000},
	"loop":   {100, 256, 500, 1000},
}

// zipf draws k with a probability in proportion to 1/(k+1)^s.
func zipf(r *rand.Rand, s float64, n int) func() uint32 {
	cumulative := make([]float64, n)
	total := 0.
	for i := range cumulative {
		total += math.Pow(float64(i+1), -s)
		cumulative[i] = total
	}
	return func() uint32 { return uint32(sort.SearchFloat64s(cumulative, r.Float64()*total)) }
}

func readTrace(file string) (keys []uint32, err error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	z, err := gzip.NewReader(f)
	if err != nil {
		return nil, err
	}
	numbers := make(map[string]uint32)
	lines := bufio.NewScanner(z)
	for lines.Scan() {
		k, ok := numbers[lines.Text()]
		if !ok {
			k = uint32(len(numbers))
			numbers[lines.Text()] = k
		}
		keys = append(keys, k)
	}
	return keys, lines.Err()
}
