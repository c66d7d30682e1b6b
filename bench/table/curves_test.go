package table

// curves_test.go measures how what the engine does grows with how much it holds, and with how much
// it is asked at once, and draws it.
//
//	go test -timeout 0 -v -run Curves ./table [-sizes 10000,100000,1000000] [-svg FILE]
//	go test -timeout 0 -v -run Loads ./table [-svg FILE]

import (
	"bytes"
	"flag"
	"fmt"
	"math"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine"
)

var (
	sizes = flag.String("sizes", "10000,100000,1000000", "how many items TestCurves takes")
	svg   = flag.String("svg", "", "file that TestCurves or TestLoads draws to")
)

// curve is one quantity at each size.
type curve struct {
	name, unit string
	at         []int
	values     []float64
}

// TestCurves prints one line for each size, with SQLite below and Redis beside.
func TestCurves(t *testing.T) {
	curves := []*curve{{name: "Get, in memory", unit: "ns"}, {name: "Get, absent", unit: "ns"}, {name: "Submit, Buffered", unit: "ns"},
		{name: "until SQLite and Redis hold it", unit: "µs"}, {name: "open until the filter is trusted", unit: "ms"},
		{name: "verify", unit: "ms"}, {name: "memory beside id and content", unit: "bytes"}}
	for _, s := range strings.Split(*sizes, ",") {
		n := must[int](t)(strconv.Atoi(s))
		for i, v := range grown(t, n) {
			curves[i].at, curves[i].values = append(curves[i].at, n), append(curves[i].values, v)
		}
	}
	draw(t, curves)
}

// TestLoads prints one line for each of what may make a cliff: callers, ids, groups, bytes. There
// is no L3 that takes time.
func TestLoads(t *testing.T) {
	micros := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }
	var curves []*curve
	for _, c := range []struct {
		name, unit string
		at         []int
		of         func(n int) float64
	}{
		{"Submit, Logged, by callers", "µs", []int{1, 4, 16, 64, 256, 1000, 10_000}, func(n int) float64 {
			return micros(logged(n, max(20_000, min(1500*n, ingested)))(t))
		}},
		{"Submit, Buffered, by ids in turns", "µs", []int{1, 10, 100, 1000, 10_000, 100_000}, func(n int) float64 { return micros(hot(n)(t)) }},
		{"Get, in memory, by callers", "µs", []int{1, 4, 16, 64, 256, 1000, 10_000}, func(n int) float64 { return micros(gets(t, n)) }},
		{"SubmitMany, Logged, an item, by group", "µs", []int{1, 10, 100, 1000, 10_000}, func(n int) float64 {
			return micros(grouped(n, max(2000, min(ingested, 500*n)))(t))
		}},
		{"Submit, Logged, a KiB, by KiB of a document", "µs", []int{1, 4, 16, 64, 256, 1024}, func(n int) float64 {
			return micros(sized(n<<10, max(400, 8000/n))(t)) / float64(n)
		}},
	} {
		line := &curve{name: c.name, unit: c.unit, at: c.at}
		for _, n := range c.at {
			var values []float64
			for range *rounds {
				values = append(values, c.of(n))
			}
			slices.Sort(values)
			line.values = append(line.values, values[len(values)/2])
		}
		curves = append(curves, line)
	}
	draw(t, curves)
}

// gets reads ids that are in memory from so many callers.
func gets(t *testing.T, callers int) time.Duration {
	e := full(t)
	defer whole(t, e)
	ids := inMemory().ids
	return each(t, callers, 1_000_000, func(n int64) error {
		_, err := e.Get(ctx, ids[scattered(n, len(ids))])
		return err
	})
}

// draw prints curves as a table for each that has other sizes than the one before, and draws them
// if that is asked for.
func draw(t *testing.T, curves []*curve) {
	for i, c := range curves {
		if i == 0 || !slices.Equal(c.at, curves[i-1].at) {
			fmt.Print("\n| |")
			for _, n := range c.at {
				fmt.Printf(" %d |", n)
			}
			fmt.Println("\n|---|" + strings.Repeat("---|", len(c.at)))
		}
		fmt.Printf("| %s, %s |", c.name, c.unit)
		for _, v := range c.values {
			fmt.Printf(" %.4g |", v)
		}
		fmt.Println()
	}
	if *svg != "" {
		ok(t, os.WriteFile(*svg, drawn(curves), 0o644))
	}
}

// grown measures one size, in the order of the curves.
func grown(t *testing.T, n int) []float64 {
	cfg := syncengine.Config{Dir: t.TempDir(), SQLURL: newSQLite(t), RedisURL: newRedis(t), Durability: syncengine.Buffered,
		L1MaxBytes: 8 << 30, L1MaxAge: time.Hour, VerifyInterval: 24 * time.Hour}
	e := open(t, cfg)
	settle(t, e)
	ids := idsOf(n)
	before := heap()
	start := time.Now()
	var submits time.Duration
	const timed = 5000 // at the end, when all the others are there
	for i, id := range ids {
		if i == n-timed {
			ok(t, e.Flush(ctx))
			submits = 0
		}
		at := time.Now()
		ok(t, e.Submit(ctx, syncengine.Item{ID: id, Content: document}))
		submits += time.Since(at)
	}
	ok(t, e.Flush(ctx))
	held := time.Since(start)
	inRedis(t, n)
	settle(t, e)
	memory := float64(heap()-before) / float64(n)
	memory -= float64(len(document)) // the ids are held by this test, too
	reading := func(prefix string, want error) float64 {
		const reads = 500_000
		names := make([]string, 100_000)
		for i := range names {
			names[i] = prefix + ids[scattered(int64(i), n)]
		}
		at := time.Now()
		for i := range reads {
			if _, err := e.Get(ctx, names[i%len(names)]); err != want {
				t.Fatalf("Get: %v", err)
			}
		}
		return float64(time.Since(at).Nanoseconds()) / reads
	}
	get, absent := reading("", nil), reading("no-", syncengine.ErrNotFound)
	at := time.Now()
	r := must[syncengine.VerifyReport](t)(e.Verify(ctx, syncengine.VerifyOptions{}))
	verify := time.Since(at)
	if !r.InSync {
		t.Fatalf("%+v", r)
	}
	whole(t, e)
	at = time.Now()
	e = open(t, cfg)
	defer whole(t, e)
	await(t, func() bool { return e.Stats().FilterTrusted })
	opened := time.Since(at)
	return []float64{get, absent, float64(submits.Nanoseconds()) / timed, float64(held.Microseconds()) / float64(n),
		float64(opened.Microseconds()) / 1000, float64(verify.Microseconds()) / 1000, memory}
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// drawn is a picture of curves, one beside the other, with logarithmic axes.
func drawn(curves []*curve) []byte {
	const w, h, margin, columns = 260, 150, 40, 4
	var b bytes.Buffer
	rows := (len(curves) + columns - 1) / columns
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="11">`+"\n", columns*(w+margin)+margin, rows*(h+2*margin)+10)
	fmt.Fprintln(&b, `<rect width="100%" height="100%" fill="white"/>`)
	for i, c := range curves {
		ns := c.at
		left, top := float64(margin+i%columns*(w+margin)), float64(margin+i/columns*(h+2*margin))
		least, most := math.Inf(1), math.Inf(-1)
		for _, v := range c.values {
			least, most = min(least, v), max(most, v)
		}
		low, high := math.Floor(math.Log10(least)), math.Ceil(math.Log10(most)+1e-9)
		x := func(n int) float64 {
			return left + w*(math.Log10(float64(n))-math.Log10(float64(ns[0])))/math.Max(1, math.Log10(float64(ns[len(ns)-1]))-math.Log10(float64(ns[0])))
		}
		y := func(v float64) float64 { return top + h - h*(math.Log10(v)-low)/(high-low) }
		fmt.Fprintf(&b, `<text x="%.0f" y="%.0f" font-weight="bold">%s, %s</text>`+"\n", left, top-8, c.name, c.unit)
		for p := low; p <= high; p++ {
			at := y(math.Pow(10, p))
			fmt.Fprintf(&b, `<line x1="%.0f" x2="%.0f" y1="%.1f" y2="%.1f" stroke="#ddd"/><text x="%.0f" y="%.1f" text-anchor="end" fill="#666">%g</text>`+"\n",
				left, left+w, at, at, left-4, at+4, math.Pow(10, p))
		}
		points := make([]string, len(ns))
		for k, n := range ns {
			points[k] = fmt.Sprintf("%.1f,%.1f", x(n), y(c.values[k]))
			fmt.Fprintf(&b, `<circle cx="%.1f" cy="%.1f" r="3" fill="#06c"/><text x="%.1f" y="%.1f" fill="#06c">%.3g</text>`+"\n", x(n), y(c.values[k]), x(n)-8, y(c.values[k])-6, c.values[k])
			fmt.Fprintf(&b, `<text x="%.1f" y="%.1f" text-anchor="middle" fill="#666">%s</text>`+"\n", x(n), top+h+14, round(n))
		}
		fmt.Fprintf(&b, `<polyline points="%s" fill="none" stroke="#06c" stroke-width="1.5"/>`+"\n", strings.Join(points, " "))
	}
	fmt.Fprintln(&b, "</svg>")
	return b.Bytes()
}

func round(n int) string {
	switch {
	case n%1_000_000 == 0:
		return fmt.Sprint(n/1_000_000, " M")
	case n%1000 == 0:
		return fmt.Sprint(n/1000, " k")
	}
	return fmt.Sprint(n)
}
