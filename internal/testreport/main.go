// Command testreport reads `go test -json` from standard input and prints what
// people and CI tools expect from go test: one line per package, failures in
// full. At the end it names them once more: of a long log often only the end is kept.
// It adds a table of skipped tests, and fails on a skip that the allow list does not
// name: a skipped test proves nothing, and nobody notices. With -slowest it says where
// the time went.
//
//	go test -json ./... | go run ./internal/testreport -allow .ci/allowed-skips
//
// It never runs tests itself and holds no state beyond one run. Its last line is
// "N passed, N failed, N skipped"; subtests count.
package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

func main() {
	allowFile := flag.String("allow", "", "file with tests that may be skipped, one a line")
	slowest := flag.Int("slowest", 0, "tests to list with their times, the longest first")
	flag.Parse()
	allowed, err := readAllowed(*allowFile)
	if err != nil {
		fmt.Fprintln(os.Stderr, "testreport:", err)
		os.Exit(2)
	}
	ok, err := report(os.Stdin, os.Stdout, allowed, *slowest)
	if err != nil {
		fmt.Fprintln(os.Stderr, "testreport:", err)
		os.Exit(2)
	}
	if !ok {
		os.Exit(1)
	}
}

// readAllowed reads lines of the form "TestName  # reason". The reason is
// required. No file name means that no test may be skipped.
func readAllowed(path string) ([]string, error) {
	if path == "" {
		return nil, nil
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var names []string
	for i, line := range strings.Split(string(b), "\n") {
		name, reason, _ := strings.Cut(line, "#")
		name, reason = strings.TrimSpace(name), strings.TrimSpace(reason)
		if name == "" {
			continue
		}
		if reason == "" {
			return nil, fmt.Errorf("%s:%d: %s has no reason", path, i+1, name)
		}
		names = append(names, name)
	}
	return names, nil
}

// event is one line of `go test -json` (see `go doc test2json`).
type event struct {
	Action     string
	Package    string
	ImportPath string // of build output, instead of Package
	Test       string
	Output     string
	Elapsed    float64 // seconds
}

// suite collects one package until it ends.
type suite struct {
	output []string // of the package itself
	order  []string // tests in the order they started
	tests  map[string]*test
}

type test struct {
	outcome string // "pass", "fail", "skip", or "" while it runs
	output  []string
	seconds float64
}

type skip struct{ pkg, test, reason string }

// timed is a test, not a subtest, and how long it ran, in seconds.
type timed struct {
	seconds   float64
	pkg, test string
}

// tally is the result of a run so far.
type tally struct {
	passed, failed int
	failures       []string // what failed, a line each
	skips          []skip
	times          []timed
	suites         map[string]*suite
	build          map[string][]string // compiler output by import path
	packages       int
}

// report turns the events on in into text on out. It is false if a test or
// package failed, a test was skipped that allowed does not name, or no package
// was tested at all.
func report(in io.Reader, out io.Writer, allowed []string, slowest int) (bool, error) {
	w := bufio.NewWriter(out)
	t := tally{suites: map[string]*suite{}, build: map[string][]string{}}
	lines := bufio.NewReader(in)
	for {
		line, err := lines.ReadString('\n') // of any length
		if line != "" {
			t.line(w, line)
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return false, err
		}
	}
	for pkg := range t.suites { // cut off: go test itself died
		t.finish(w, pkg, "fail")
	}
	if t.packages == 0 {
		fmt.Fprintln(w, "FAIL: no package was tested")
	}
	slices.SortFunc(t.times, func(a, b timed) int { return cmp.Compare(b.seconds, a.seconds) })
	for _, c := range t.times[:min(slowest, len(t.times))] {
		fmt.Fprintf(w, "%7.1f s  %s %s\n", c.seconds, c.pkg, c.test)
	}
	for _, f := range t.failures {
		fmt.Fprintln(w, "failed:", f)
	}
	refused := t.printSkips(w, allowed)
	fmt.Fprintf(w, "%d passed, %d failed, %d skipped\n", t.passed, t.failed, len(t.skips))
	return t.packages > 0 && t.failed == 0 && refused == 0, w.Flush()
}

func (t *tally) line(w *bufio.Writer, line string) {
	var e event
	if !strings.HasPrefix(line, "{") || json.Unmarshal([]byte(line), &e) != nil {
		fmt.Fprint(w, line) // go test's own words, for example about flags
		return
	}
	switch e.Action {
	case "build-output":
		t.build[e.ImportPath] = append(t.build[e.ImportPath], e.Output)
		return
	case "build-fail":
		fmt.Fprint(w, strings.Join(t.build[e.ImportPath], ""))
		return
	}
	s := t.suites[e.Package]
	if s == nil {
		s = &suite{tests: map[string]*test{}}
		t.suites[e.Package] = s
	}
	if e.Test != "" {
		s.event(e)
		return
	}
	switch e.Action {
	case "output":
		s.output = append(s.output, e.Output)
	case "pass", "fail", "skip":
		t.finish(w, e.Package, e.Action)
		_ = w.Flush() // an error is kept and returned by the last Flush
	}
}

func (s *suite) event(e event) {
	c := s.tests[e.Test]
	if c == nil {
		c = &test{}
		s.tests[e.Test] = c
		s.order = append(s.order, e.Test)
	}
	switch e.Action {
	case "output":
		c.output = append(c.output, e.Output)
	case "pass", "fail", "skip":
		c.outcome, c.seconds = e.Action, e.Elapsed
	}
}

// finish counts and prints a package that has ended.
func (t *tally) finish(w io.Writer, pkg, outcome string) {
	s := t.suites[pkg]
	delete(t.suites, pkg)
	t.packages++
	failed := 0
	for _, name := range s.order {
		c := s.tests[name]
		if !strings.Contains(name, "/") {
			t.times = append(t.times, timed{c.seconds, pkg, name})
		}
		switch c.outcome {
		case "pass":
			t.passed++
			if outcome == "fail" {
				fmt.Fprint(w, strings.Join(after(c.output, "--- PASS: "+name+" ("), ""))
			}
		case "skip":
			t.skips = append(t.skips, skip{pkg, name, reason(c.output)})
		default: // failed, or still running when the package ended
			failed++
			how := ""
			if c.outcome == "" {
				how = " (had not ended)"
			}
			t.failures = append(t.failures, pkg+" "+name+how)
			fmt.Fprint(w, strings.Join(slices.DeleteFunc(c.output, isProgress), ""))
		}
	}
	if outcome == "fail" && failed == 0 {
		failed = 1 // did not compile, TestMain, a race outside tests
		t.failures = append(t.failures, pkg)
	}
	t.failed += failed
	for _, line := range s.output {
		if outcome == "fail" || isSummary(line) {
			fmt.Fprint(w, line)
		}
	}
}

// after is what follows the line that begins with verdict. With a test that has passed that is not
// of its own, though go test says so: it is the panic of something else, or of a timeout.
func after(output []string, verdict string) []string {
	at := slices.IndexFunc(output, func(line string) bool { return strings.HasPrefix(strings.TrimSpace(line), verdict) })
	if at < 0 {
		return nil
	}
	return output[at+1:]
}

// isProgress holds for lines that only say that a test goes on.
func isProgress(line string) bool { return strings.HasPrefix(line, "=== ") }

// isSummary holds for the one line that go test prints for a good package.
func isSummary(line string) bool {
	return strings.HasPrefix(line, "ok  \t") || strings.HasPrefix(line, "?   \t")
}

// reason is what a skipped test said last.
func reason(output []string) string {
	said := ""
	for _, line := range output {
		line = strings.TrimSpace(line)
		if line != "" && !isProgress(line) && !strings.HasPrefix(line, "--- ") {
			said = line
		}
	}
	return said
}

// printSkips prints the skipped tests and returns how many are not allowed. An
// allowed test may skip its subtests too.
func (t *tally) printSkips(w io.Writer, allowed []string) (refused int) {
	if len(t.skips) > 0 {
		fmt.Fprintln(w, "\nskipped tests:")
	}
	for _, s := range t.skips {
		verdict := "NOT ALLOWED"
		if slices.ContainsFunc(allowed, func(name string) bool {
			return s.test == name || strings.HasPrefix(s.test, name+"/")
		}) {
			verdict = "allowed"
		} else {
			refused++
		}
		fmt.Fprintf(w, "  %-11s  %s  %s  %s\n", verdict, s.pkg, s.test, s.reason)
	}
	if refused > 0 {
		fmt.Fprintf(w, "FAIL: %d skipped tests are not in the list of allowed skips\n", refused)
	}
	return refused
}
