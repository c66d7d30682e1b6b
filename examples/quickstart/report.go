package main

// report.go prints: one row per step, and a progress line while a long step runs.

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// report prints the table. It is used by one goroutine.
type report struct {
	out      io.Writer
	progress io.Writer // nil: the user does not look at it
}

func newReport(stdout, stderr io.Writer) *report {
	r := &report{out: stdout}
	if isTerminal(stderr) {
		r.progress = stderr
	}
	return r
}

func (r *report) printf(format string, args ...any) { fmt.Fprintf(r.out, format, args...) }

func (r *report) header() {
	r.printf("%-38s %9s %10s %11s %9s  %s\n", "step", "items", "time", "items/s", "µs/item", "result")
}

// row prints one step. n is how many items it moved, 0 when that means nothing.
func (r *report) row(step string, n int, took time.Duration, result string) {
	items, rate, each := "", "", ""
	if n > 0 {
		items = strconv.Itoa(n)
		rate = fmt.Sprintf("%.0f", float64(n)/took.Seconds())
		each = fmt.Sprintf("%.1f", float64(took.Microseconds())/float64(n))
	}
	r.printf("%-38s %9s %10s %11s %9s  %s\n", step, items, round(took), rate, each, result)
}

// round keeps three digits or so.
func round(d time.Duration) time.Duration {
	switch {
	case d > time.Second:
		return d.Round(10 * time.Millisecond)
	case d > time.Millisecond:
		return d.Round(10 * time.Microsecond)
	}
	return d.Round(10 * time.Nanosecond)
}

const (
	progressAfter = 2 * time.Second
	progressEvery = 200 * time.Millisecond
)

// ticker shows how far a step has come, once it has run for progressAfter.
type ticker struct {
	r           *report
	step        string
	total, done int
	began, last time.Time
	shown       bool
}

func (r *report) ticker(step string, total int) *ticker {
	now := time.Now()
	return &ticker{r: r, step: step, total: total, began: now, last: now.Add(progressAfter - progressEvery)}
}

// add counts n more items.
func (t *ticker) add(n int) {
	t.done += n
	now := time.Now()
	if t.r.progress == nil || now.Sub(t.last) < progressEvery {
		return
	}
	t.last, t.shown = now, true
	fmt.Fprintf(t.r.progress, "\r\x1b[K%s: %d%% (%d of %d, %.0f/s)", t.step, 100*t.done/max(1, t.total), t.done, t.total,
		float64(t.done)/now.Sub(t.began).Seconds())
}

// end clears the line.
func (t *ticker) end() {
	if t.shown {
		fmt.Fprint(t.r.progress, "\r\x1b[K")
	}
}

// sizes describes the files of a directory.
func sizes(dir string) string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err.Error()
	}
	text := ""
	for _, e := range entries {
		if info, err := e.Info(); err == nil && info.Mode().IsRegular() && info.Size() > 0 {
			text += ", " + filepath.Base(e.Name()) + " " + size(info.Size())
		}
	}
	if text == "" {
		return "no files"
	}
	return text[len(", "):]
}

func size(n int64) string {
	switch {
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	case n >= 1<<10:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	}
	return fmt.Sprintf("%d B", n)
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return strconv.Itoa(n) + " " + noun + "s"
}
