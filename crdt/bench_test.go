package crdt

// bench_test.go measures states of 100 entries, half of which the other state of a merge has, too.
// They are of 10 nodes, or of 100 for counters and MVRegister, which have one entry of each. The
// other registers have one entry.

import (
	"fmt"
	"testing"
)

const benchEntries = 100

// benchState returns a state of 100 entries, the first of which is number from.
func benchState(t testing.TB, k Kind, from int) []byte {
	s := newState(k)
	for i := from; i < from+benchEntries; i++ {
		c := change{node: fmt.Sprintf("node-%d", i%10), amount: int64(i), key: fmt.Sprintf("element-%04d", i), value: "some value", time: 1700000000000 + uint64(i)}
		switch k {
		case KindGCounter, KindPNCounter:
			c.node = fmt.Sprintf("node-%04d", i)
		case KindMVRegister:
			c.node, c.value = fmt.Sprintf("node-%04d", i), c.key
			concurrent := newState(k)
			must(t, c.do(concurrent))
			s.join(concurrent)
			continue
		}
		must(t, c.do(s))
	}
	b, err := marshal(s)
	return []byte(sure(t, b, err))
}

func BenchmarkMerge(b *testing.B) {
	for _, k := range Kinds() {
		b.Run(k.String(), func(b *testing.B) {
			x, y := benchState(b, k, 0), benchState(b, k, benchEntries/2)
			b.SetBytes(int64(len(x) + len(y)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Merge(k, x, y); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkApply(b *testing.B) {
	for _, k := range Kinds() {
		b.Run(k.String(), func(b *testing.B) {
			state := benchState(b, k, 0)
			c := change{node: "node-3", amount: 1, key: "element-0050", value: "another value", time: 1800000000000}
			delta, op := c.delta(k), c.op()
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Apply(k, state, delta, op); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
