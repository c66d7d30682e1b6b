package rediskit

// digestwire_test.go proves that Digest and Leaves read a hundredth of what a listing does, by
// counting the bytes on the wire, and measures what they cost the server.

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/syncengine-go/syncengine/internal/digest"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

// counted is a connection that counts bytes in both directions.
type counted struct {
	net.Conn
	n *atomic.Int64
}

func (c counted) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.n.Add(int64(n))
	return n, err
}

func (c counted) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.n.Add(int64(n))
	return n, err
}

// countingClient returns a client and the count of what it sent and received.
func countingClient(t testing.TB, srv *testserver.Server) (*redis.Client, *atomic.Int64) {
	t.Helper()
	wire := new(atomic.Int64)
	rdb := redis.NewClient(&redis.Options{Addr: srv.Addr(), ContextTimeoutEnabled: true, Dialer: func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		return counted{conn, wire}, err
	}})
	t.Cleanup(func() { _ = rdb.Close() })
	return rdb, wire
}

// populate lets the server make n sound values of some 500 bytes, 300 of them content.
func populate(t testing.TB, srv *testserver.Server, n int) {
	t.Helper()
	hash := sha256.Sum256([]byte("content"))
	for from := 0; from < n; from += 20_000 {
		srv.Do(t, "EVAL", `for i = ARGV[1], ARGV[2] do
			local id = string.format('customer-%08d', i)
			local rank = string.format('%016x.0.', i) .. ARGV[3]
			local rest = '","version":' .. i .. ',"updated_at":"2024-02-29T23:59:59.999999999Z","content":"' .. string.rep('x', 298) .. '"}'
			redis.call('SET', 'sync:' .. id, '{"rank":"' .. rank .. '","sum":"' .. string.sub(redis.sha1hex(id .. '\0' .. rank .. rest), 1, 16) .. rest)
		end`, "0", fmt.Sprint(from+1), fmt.Sprint(min(n, from+20_000)), hex.EncodeToString(hash[:]))
	}
}

func modelOf(n int) *digest.Set {
	hash := sha256.Sum256([]byte("content"))
	set := new(digest.Set)
	for i := 1; i <= n; i++ {
		id := fmt.Sprintf("customer-%08d", i)
		set.Add(id, digest.LeafOf(id, uint64(i), hash))
	}
	return set
}

// TestDigestReadsAHundredthOfAListing counts the bytes on the wire, both ways: Digest and Leaves of
// ten branches against reading all ranks, and against reading all values.
func TestDigestReadsAHundredthOfAListing(t *testing.T) {
	t.Parallel()
	const n = 200_000
	srv := testserver.Redis(t)
	populate(t, srv, n)
	rdb, wire := countingClient(t, srv)
	c := New(rdb, rankPrefix, digestWidth)
	ctx := within(t, 5*time.Minute)
	measure := func(what string, call func() error) int64 {
		t.Helper()
		before := wire.Load()
		if err := call(); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		bytes := wire.Load() - before
		t.Logf("%s: %d bytes, %.2f a key", what, bytes, float64(bytes)/n)
		return bytes
	}
	list := func(read func(pipe redis.Pipeliner, key string)) func() error {
		return func() error {
			return c.Scan(ctx, "sync:", 0, func(keys []string) error {
				pipe := rdb.Pipeline()
				for _, key := range keys {
					read(pipe, key)
				}
				_, err := pipe.Exec(ctx)
				return err
			})
		}
	}
	digests := measure("digest", func() error {
		set, _, err := c.Digest(ctx, "sync:", Pages{NoRest: true})
		if err == nil && *set != *modelOf(n) {
			t.Error("differs from the model")
		}
		return err
	})
	leaves := measure("leaves of 10 branches", func() error {
		found, err := c.Leaves(ctx, "sync:", []int{0, 200, 400, 600, 800, 1000, 1200, 1400, 1600, 2047}, Pages{NoRest: true})
		t.Logf("%d leaves", len(found))
		return err
	})
	ranks := measure("all ranks", list(func(pipe redis.Pipeliner, key string) { pipe.GetRange(ctx, key, 0, int64(digestWidth-1)) }))
	values := measure("all values", list(func(pipe redis.Pipeliner, key string) { pipe.Get(ctx, key) }))
	t.Logf("digest and leaves are %.2f %% of all ranks, %.2f %% of all values", 100*float64(digests+leaves)/float64(ranks), 100*float64(digests+leaves)/float64(values))
	if 100*(digests+leaves) > ranks {
		t.Errorf("%d bytes are more than 1 %% of %d", digests+leaves, ranks)
	}
}

// BenchmarkDigest sums up values of 300 bytes and reads ten branches: the time of one walk, without
// rests and with them, the server's processor time and the bytes on the wire per key, and how long
// pages take.
func BenchmarkDigest(b *testing.B) {
	for _, n := range []int{200_000, 1_000_000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			srv := testserver.Redis(b)
			populate(b, srv, n)
			rdb, wire := countingClient(b, srv)
			c := New(rdb, rankPrefix, digestWidth)
			ctx := context.Background()
			var pages []time.Duration // as the client sees them
			rdb.AddHook(&between{around: func(_ int, _ *redis.Cmd, run func() error) error {
				start := time.Now()
				err := run()
				pages = append(pages, time.Since(start))
				return err
			}})
			walk := func(name string, call func() error) {
				b.Run(name, func(b *testing.B) {
					pages = pages[:0]
					bytes, cpu := wire.Load(), serverSeconds(b, srv)
					for b.Loop() {
						if err := call(); err != nil {
							b.Fatal(err)
						}
					}
					keys := float64(b.N) * float64(n)
					b.ReportMetric(float64(wire.Load()-bytes)/keys, "bytes/key")
					b.ReportMetric((serverSeconds(b, srv)-cpu)*1e6/keys, "server-µs/key")
					slices.Sort(pages)
					b.ReportMetric(float64(len(pages))/float64(b.N), "pages")
					b.ReportMetric(float64(pages[len(pages)/2])/1e6, "median-page-ms")
					b.ReportMetric(float64(pages[len(pages)-1])/1e6, "longest-page-ms")
				})
			}
			walk("digest", func() error { _, _, err := c.Digest(ctx, "sync:", Pages{NoRest: true}); return err })
			walk("digest with rests", func() error { _, _, err := c.Digest(ctx, "sync:", Pages{}); return err })
			walk("leaves of 10 branches", func() error {
				_, err := c.Leaves(ctx, "sync:", []int{0, 200, 400, 600, 800, 1000, 1200, 1400, 1600, 2047}, Pages{NoRest: true})
				return err
			})
		})
	}
}

// serverSeconds is the processor time that the server's main thread has used.
func serverSeconds(t testing.TB, srv *testserver.Server) (seconds float64) {
	for line := range strings.Lines(srv.Do(t, "INFO", "cpu")) {
		if name, value, _ := strings.Cut(strings.TrimSpace(line), ":"); strings.HasSuffix(name, "_main_thread") {
			s, err := strconv.ParseFloat(value, 64)
			if err != nil {
				t.Fatal(err)
			}
			seconds += s
		}
	}
	return seconds
}
