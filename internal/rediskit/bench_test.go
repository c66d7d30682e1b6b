package rediskit

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine/internal/testserver"
)

// BenchmarkPut writes 1000 values of 300 bytes per round, by a plain pipeline of
// SET and by Put, alternating in the same run against the same server, and
// reports Put's share of the plain speed.
func BenchmarkPut(b *testing.B) {
	srv := testserver.Redis(b)
	c, rdb := connect(b, srv.URL())
	ctx := context.Background()
	const n = 1000
	for _, mode := range []string{"absent", "newer", "equal", "older"} {
		b.Run(mode, func(b *testing.B) {
			srv.Do(b, "FLUSHALL")
			vals := make([]Value, n)
			var plain, conditional time.Duration
			version := uint64(1) << 40
			fill := func() {
				for i := range vals {
					vals[i] = Value{Key: fmt.Sprintf("sync:item-%06d", i), Bytes: ranked(version, 0, 0, strings.Repeat("x", 253))}
				}
			}
			// prepare sets the stage, off the clock, for both alike.
			prepare := func(highest uint64) {
				switch mode {
				case "absent":
					srv.Do(b, "FLUSHALL")
				case "newer":
					version += 1 << 16
					fill()
				case "older":
					version = highest
					fill()
				}
			}
			fill()
			put(b, c, vals...)
			for b.Loop() {
				prepare(1<<40 - 1)
				start := time.Now()
				put(b, c, vals...)
				conditional += time.Since(start)

				prepare(1 << 40) // a plain SET must not lower what Put meets
				start = time.Now()
				pipe := rdb.Pipeline()
				for _, v := range vals {
					pipe.Set(ctx, v.Key, v.Bytes, 0)
				}
				if _, err := pipe.Exec(ctx); err != nil {
					b.Fatal(err)
				}
				plain += time.Since(start)
			}
			rounds := float64(b.N * n)
			b.ReportMetric(rounds/plain.Seconds(), "SET/s")
			b.ReportMetric(rounds/conditional.Seconds(), "Put/s")
			b.ReportMetric(plain.Seconds()/conditional.Seconds(), "Put:SET")
		})
	}
}

// BenchmarkGet reads one value of 300 bytes, by the raw client and by Get.
func BenchmarkGet(b *testing.B) {
	srv := testserver.Redis(b)
	c, rdb := connect(b, srv.URL())
	ctx := context.Background()
	put(b, c, Value{Key: "k", Bytes: ranked(1, 0, 0, strings.Repeat("x", 253))})
	b.Run("raw", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := rdb.Get(ctx, "k").Bytes(); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("rediskit", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := c.Get(ctx, "k"); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("ratio", func(b *testing.B) { // alternating, so that both see the same machine
		var raw, ours time.Duration
		for b.Loop() {
			t0 := time.Now()
			for range 50 {
				_, _ = rdb.Get(ctx, "k").Bytes()
			}
			t1 := time.Now()
			for range 50 {
				_, _ = c.Get(ctx, "k")
			}
			raw, ours = raw+t1.Sub(t0), ours+time.Since(t1)
		}
		b.ReportMetric(ours.Seconds()/raw.Seconds(), "Get:raw")
	})
}
