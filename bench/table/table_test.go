// Package table measures the engine beside loops that use none of its code, written with the
// drivers alone, and beside caches and libraries that a user would otherwise pick. Each figure is
// a ratio of two times, taken in turns in one run: the median over the rounds, and between which
// values it was.
//
//	go test -timeout 0 -v -run Table ./table [-rounds 5] [-only REGEXP]
//
// The servers are real ones on loopback, MariaDB with a buffer pool of 1 GiB and a log of
// 512 MiB. A row says what the goal is and whether it was met; none fails: machines are noisy.
package table

import (
	"cmp"
	"flag"
	"fmt"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/syncengine-go/syncengine/internal/testserver"
)

var (
	rounds = flag.Int("rounds", 5, "how often each pair is measured")
	only   = flag.String("only", "", "regular expression: rows to measure")
)

func TestMain(m *testing.M) {
	flag.Parse()
	code := testserver.Run(m)
	for _, fn := range atEnd {
		fn()
	}
	os.Exit(code)
}

// row is one line: work that two do, in turns.
type row struct {
	work string
	// goal bounds the ratio ours/theirs of the times of one operation; 0 for none.
	goal float64
	// rounds is how often, if not as the flag says.
	rounds int
	// ours and theirs do the work once and return what one operation took.
	ours, theirs func(t *testing.T) time.Duration
	// figure, instead of these two, measures something that is compared with nothing, in a unit;
	// goal bounds it.
	figure func(t *testing.T) float64
	unit   string
}

// TestTable prints the table.
func TestTable(t *testing.T) {
	want := regexp.MustCompile(*only)
	fmt.Printf("Go %s, %d processors, %s\n\n", strings.TrimPrefix(runtime.Version(), "go"), runtime.GOMAXPROCS(0), time.Now().Format(time.DateOnly))
	fmt.Println("| work | an operation takes, ours / theirs | ratio, median (least–most) | goal | |\n|---|---|---|---|---|")
	for _, rows := range groups {
		for _, r := range rows {
			if want.MatchString(r.work) {
				t.Run(strings.ReplaceAll(r.work, " ", "_"), r.run)
			}
		}
	}
}

var groups = [][]row{memoryRows, readRows, writeRows, openRows}

func (r row) run(t *testing.T) {
	if r.figure != nil {
		r.measure(t)
		return
	}
	var ours, theirs []time.Duration
	var ratios []float64
	for range cmp.Or(r.rounds, *rounds) {
		theirs = append(theirs, r.theirs(t))
		ours = append(ours, r.ours(t))
		ratios = append(ratios, float64(ours[len(ours)-1])/float64(theirs[len(theirs)-1]))
	}
	slices.Sort(ratios)
	ratio := ratios[len(ratios)/2]
	goal, verdict := r.judge(ratio, "")
	fmt.Printf("| %s | %s / %s | %.2f (%.2f–%.2f) | %s | %s |\n", r.work, short(median(ours)), short(median(theirs)), ratio, ratios[0], ratios[len(ratios)-1], goal, verdict)
}

func (r row) judge(v float64, unit string) (goal, verdict string) {
	switch {
	case r.goal == 0:
		return "", ""
	case v > r.goal:
		verdict = "**missed**"
	default:
		verdict = "met"
	}
	return fmt.Sprintf("≤ %.4g%s", r.goal, unit), verdict
}

// measure prints the line of a figure: the median of its values.
func (r row) measure(t *testing.T) {
	var values []float64
	for range cmp.Or(r.rounds, *rounds) {
		values = append(values, r.figure(t))
	}
	slices.Sort(values)
	v, unit := values[len(values)/2], " "+r.unit
	goal, verdict := r.judge(v, unit)
	fmt.Printf("| %s | %.4g%s | (%.4g–%.4g) | %s | %s |\n", r.work, v, unit, values[0], values[len(values)-1], goal, verdict)
}

func median(ds []time.Duration) time.Duration {
	ds = slices.Sorted(slices.Values(ds))
	return ds[len(ds)/2]
}

// short is d with three digits.
func short(d time.Duration) string {
	switch {
	case d < time.Microsecond:
		return fmt.Sprintf("%d ns", d.Nanoseconds())
	case d < time.Millisecond:
		return fmt.Sprintf("%.3g µs", float64(d)/1e3)
	case d < time.Second:
		return fmt.Sprintf("%.3g ms", float64(d)/1e6)
	}
	return fmt.Sprintf("%.3g s", d.Seconds())
}

func must[T any](t testing.TB) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		ok(t, err)
		return v
	}
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
