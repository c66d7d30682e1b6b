package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// run gives report the events of a real `go test` on a package made of body.
func run(t *testing.T, body string, allowed ...string) (string, bool) {
	t.Helper()
	dir := t.TempDir()
	files := map[string]string{"go.mod": "module sample\n\ngo 1.24\n", "sample_test.go": "package sample\n\n" + body}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("go", "test", "-json", "./...")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOFLAGS=", "GOWORK=off")
	events, err := cmd.Output()
	if err != nil && len(events) == 0 {
		t.Fatal(err)
	}
	return text(t, string(events), allowed...)
}

func text(t *testing.T, events string, allowed ...string) (string, bool) {
	t.Helper()
	var out strings.Builder
	ok, err := report(strings.NewReader(events), &out, allowed, 2)
	if err != nil {
		t.Fatal(err)
	}
	return out.String(), ok
}

func TestReport(t *testing.T) {
	const imports = "import \"testing\"\n\n"
	for _, c := range []struct {
		name, body string
		allowed    []string
		ok         bool
		want       []string
		not        string
		last       string
	}{
		{
			name: "pass", ok: true, last: "1 passed, 0 failed, 0 skipped",
			body: imports + "func TestA(t *testing.T) { t.Log(\"chatter\") }",
			want: []string{"ok  \tsample\t"}, not: "chatter",
		},
		{
			name: "failure in full, the rest quiet", last: "1 passed, 2 failed, 0 skipped",
			body: imports + "func TestA(t *testing.T) { t.Log(\"chatter\") }\n" +
				"func TestB(t *testing.T) { t.Run(\"sub\", func(t *testing.T) { t.Error(\"the cause\") }) }",
			want: []string{"--- FAIL: TestB", "--- FAIL: TestB/sub", "the cause", "FAIL\tsample\t", "\nfailed: sample TestB\nfailed: sample TestB/sub\n"}, not: "chatter",
		},
		{
			name: "skip", last: "0 passed, 0 failed, 1 skipped",
			body: imports + "func TestA(t *testing.T) { t.Skip(\"no server\") }",
			want: []string{"NOT ALLOWED  sample  TestA  ", "no server"},
		},
		{
			name: "allowed skip", ok: true, last: "1 passed, 0 failed, 1 skipped", allowed: []string{"TestA"},
			body: imports + "func TestA(t *testing.T) { t.Run(\"sub\", func(t *testing.T) { t.Skip(\"root only\") }) }",
			want: []string{"allowed      sample  TestA/sub  "},
		},
		{
			name: "allowing one does not allow its namesakes", allowed: []string{"TestA"},
			body: imports + "func TestAB(t *testing.T) { t.Skip(\"\") }",
			last: "0 passed, 0 failed, 1 skipped",
		},
		{
			name: "panic", last: "0 passed, 1 failed, 0 skipped",
			body: imports + "func TestA(t *testing.T) { panic(\"the cause\") }",
			want: []string{"panic: the cause", "FAIL\tsample\t"},
		},
		{
			name: "exit in mid-test", last: "0 passed, 1 failed, 0 skipped",
			body: "import (\n\t\"os\"\n\t\"testing\"\n)\n\nfunc TestA(t *testing.T) { println(\"last words\"); os.Exit(3) }",
			want: []string{"last words", "FAIL\tsample\t", "\nfailed: sample TestA"},
		},
		{
			name: "panic of nobody's after a good test", last: "1 passed, 1 failed, 0 skipped",
			body: "import (\n\t\"testing\"\n\t\"time\"\n)\n\n" +
				"func TestA(t *testing.T) { t.Parallel(); time.AfterFunc(time.Second, func() { panic(\"the cause\") }); select {} }\n" +
				"func TestB(t *testing.T) { t.Parallel() }",
			want: []string{"panic: the cause", "goroutine ", "\nfailed: sample TestA (had not ended)\n"},
		},
		{
			name: "TestMain fails after good tests", last: "1 passed, 1 failed, 0 skipped",
			body: "import (\n\t\"os\"\n\t\"testing\"\n)\n\nfunc TestA(t *testing.T) {}\n" +
				"func TestMain(m *testing.M) { m.Run(); println(\"a leak\"); os.Exit(1) }",
			want: []string{"a leak", "FAIL\tsample\t", "\nfailed: sample\n"},
		},
		{
			name: "does not compile", last: "0 passed, 1 failed, 0 skipped",
			body: imports + "func TestA(t *testing.T) { undefined() }",
			want: []string{"undefined: undefined", "FAIL\tsample [build failed]"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, ok := run(t, c.body, c.allowed...)
			if ok != c.ok {
				t.Errorf("ok = %v, want %v", ok, c.ok)
			}
			for _, want := range c.want {
				if !strings.Contains(got, want) {
					t.Errorf("lacks %q", want)
				}
			}
			if c.not != "" && strings.Contains(got, c.not) {
				t.Errorf("has %q", c.not)
			}
			if !strings.HasSuffix(got, "\n"+c.last+"\n") {
				t.Errorf("last line is not %q", c.last)
			}
			if t.Failed() {
				t.Log(got)
			}
		})
	}
}

func TestNothingTestedIsAFailure(t *testing.T) {
	if got, ok := text(t, ""); ok {
		t.Errorf("ok on an empty run:\n%s", got)
	}
}

func TestRunThatBreaksOffIsAFailure(t *testing.T) {
	got, ok := text(t, `{"Action":"run","Package":"p","Test":"TestA"}`+"\n"+
		`{"Action":"output","Package":"p","Test":"TestA","Output":"last words\n"}`)
	if ok || !strings.Contains(got, "last words") || !strings.HasSuffix(got, "0 passed, 1 failed, 0 skipped\n") {
		t.Errorf("ok=%v\n%s", ok, got)
	}
}

func TestForeignLinesPassThrough(t *testing.T) {
	if got, _ := text(t, "go: warning: matched no packages\n"); !strings.Contains(got, "matched no packages") {
		t.Errorf("lost:\n%s", got)
	}
}

func TestAllowListNeedsReasons(t *testing.T) {
	path := filepath.Join(t.TempDir(), "allowed")
	write := func(s string) {
		if err := os.WriteFile(path, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("# comment\n\nTestA  # needs root\nTestB/sub # slow\n")
	names, err := readAllowed(path)
	if err != nil || strings.Join(names, " ") != "TestA TestB/sub" {
		t.Errorf("%v, %v", names, err)
	}
	write("TestA\n")
	if _, err := readAllowed(path); err == nil {
		t.Error("a line without a reason was accepted")
	}
}

func TestTheSlowestAreListed(t *testing.T) {
	events := `{"Action":"pass","Package":"sample","Test":"TestQuick","Elapsed":0.1}
{"Action":"pass","Package":"sample","Test":"TestSlow/part","Elapsed":9}
{"Action":"pass","Package":"sample","Test":"TestSlow","Elapsed":9.5}
{"Action":"pass","Package":"sample","Test":"TestMiddling","Elapsed":2}
{"Action":"pass","Package":"sample","Elapsed":12}
`
	const want = "    9.5 s  sample TestSlow\n    2.0 s  sample TestMiddling\n4 passed, 0 failed, 0 skipped\n"
	if got, _ := text(t, events); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}
