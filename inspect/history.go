package inspect

// history.go keeps what was seen with each page, and draws it.

import (
	"fmt"
	"strings"
	"time"

	"github.com/syncengine-go/syncengine"
)

// mostSamples are ten minutes of a page that is looked at every two seconds.
const mostSamples = 300

// sample is what one page saw.
type sample struct {
	at                  time.Time
	hits, reads, landed uint64 // counters
	pending             int
}

func sampleOf(s *syncengine.Stats, at time.Time) sample {
	return sample{at: at, hits: s.L1Hits, reads: s.L1Hits + s.L1Misses, landed: s.FlushedOps, pending: s.PendingOps}
}

// history is a ring of samples.
type history struct {
	ring [mostSamples]sample
	next int // where the next one goes
	n    int
}

func (h *history) add(s sample) {
	h.ring[h.next] = s
	h.next = (h.next + 1) % mostSamples
	h.n = min(h.n+1, mostSamples)
}

// all returns the samples, oldest first.
func (h *history) all() []sample {
	out := make([]sample, 0, h.n)
	for i := range h.n {
		out = append(out, h.ring[(h.next-h.n+i+mostSamples)%mostSamples])
	}
	return out
}

const chartWidth, chartHeight = 300, 60

// chart is a line in a box of chartWidth by chartHeight.
type chart struct {
	Name, Now, Most, Span string
	Line, Area            string // points of SVG; empty when there are too few samples
}

// point is a value at a time.
type point struct {
	at    time.Time
	value float64
}

// charts draws the samples.
func charts(samples []sample) []chart {
	var reads, landed, pending, ratios []point
	for i, s := range samples {
		pending = append(pending, point{s.at, float64(s.pending)})
		if i == 0 {
			continue
		}
		was := samples[i-1]
		seconds := s.at.Sub(was.at).Seconds()
		reads = append(reads, point{s.at, rate(was.reads, s.reads, seconds)})
		landed = append(landed, point{s.at, rate(was.landed, s.landed, seconds)})
		if asked := delta(was.reads, s.reads); asked > 0 {
			ratios = append(ratios, point{s.at, min(1, delta(was.hits, s.hits)/asked)})
		}
	}
	number := func(f float64) string {
		if f < 10 && f > 0 {
			return fmt.Sprintf("%.1f", f)
		}
		return num(int64(f))
	}
	whole := func(f float64) string { return num(int64(f)) }
	return []chart{
		draw("reads / s", reads, 0, number), draw("ops into SQL / s", landed, 0, number),
		draw("pending ops", pending, 0, whole), draw("answered by memory", ratios, 1, percent),
	}
}

// delta is how much a counter has grown; an estimated one may have fallen.
func delta(was, now uint64) float64 { return max(0, float64(now)-float64(was)) }

func rate(was, now uint64, seconds float64) float64 {
	if seconds <= 0 {
		return 0
	}
	return delta(was, now) / seconds
}

// draw makes a line of points. The top of the box is the largest of them, or top.
func draw(name string, points []point, top float64, words func(float64) string) chart {
	c := chart{Name: name, Now: "–"}
	if len(points) == 0 {
		return c
	}
	last := points[len(points)-1]
	c.Now = words(last.value)
	most := 0.0
	for _, p := range points {
		most = max(most, p.value)
	}
	c.Most = words(most)
	began, width := points[0].at, last.at.Sub(points[0].at)
	if width <= 0 {
		return c
	}
	c.Span = span(width)
	if top = max(top, most); top == 0 {
		top = 1
	}
	var b strings.Builder
	for _, p := range points {
		x := float64(p.at.Sub(began)) / float64(width) * chartWidth
		fmt.Fprintf(&b, "%.1f,%.1f ", x, chartHeight-1-p.value/top*(chartHeight-2))
	}
	c.Line = strings.TrimSpace(b.String())
	c.Area = fmt.Sprintf("0,%d %s %d,%d", chartHeight, c.Line, chartWidth, chartHeight)
	return c
}
