package main

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const root = "../.."

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// documents are the paths of all of them.
func documents(t *testing.T) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && strings.HasPrefix(d.Name(), ".") && d.Name() != ".." {
			return fs.SkipDir
		}
		if strings.HasSuffix(path, ".md") {
			rel, _ := filepath.Rel(root, path)
			out = append(out, filepath.ToSlash(rel))
		}
		return err
	})
	if err != nil || len(out) < 12 {
		t.Fatal(out, err)
	}
	return out
}

func TestTheReferenceIsThatOfConfig(t *testing.T) {
	want, err := reference(root)
	if err != nil {
		t.Fatal(err)
	}
	if read(t, referenceFile) != string(want) {
		t.Errorf("%s is not what config.go and events.go say: run make reference", referenceFile)
	}
	fields, err := members(root+"/config.go", "Config")
	if err != nil || len(fields) < 40 {
		t.Fatal(len(fields), err)
	}
	for _, f := range fields {
		if !bytes.Contains(want, []byte("| `"+f.name+"` |")) || f.text == "" {
			t.Errorf("%s is missing, or says nothing", f.name)
		}
	}
}

func TestTheReadmeIsOneScreen(t *testing.T) {
	if n := strings.Count(read(t, "README.md"), "\n"); n >= 120 {
		t.Errorf("%d lines", n)
	}
}

// TestEachPromiseNamesItsTests: that they exist is for TestDocumentsNameTestsThatExist.
func TestEachPromiseNamesItsTests(t *testing.T) {
	parts := strings.Split(read(t, "PROMISES.md"), "\n## INV-")
	if len(parts) != 17 {
		t.Fatalf("%d promises", len(parts)-1)
	}
	for i, part := range parts[1:] {
		n := i + 1
		own := regexp.MustCompile(fmt.Sprintf(`(?m)^- .TestINV(%02d|\d\dAnd%02d)[A-Z]`, n, n))
		if !strings.HasPrefix(part, fmt.Sprintf("%d: ", n)) || !own.MatchString(part) {
			t.Errorf("INV-%d names no test of its own, or stands in the wrong place", n)
		}
	}
}

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile("(?m)^#+ (.+)$")
	fence   = regexp.MustCompile("(?ms)^```([a-z]*)\n(.*?)^```$")
)

// anchor is how a heading is linked to.
func anchor(text string) string {
	text = strings.ToLower(strings.ReplaceAll(text, " ", "-"))
	return regexp.MustCompile(`[^\p{L}\p{N}_-]`).ReplaceAllString(text, "")
}

func TestLinksLeadSomewhere(t *testing.T) {
	n := 0
	for _, doc := range documents(t) {
		text := fence.ReplaceAllString(read(t, doc), "")
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			target := m[1]
			if strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
				continue
			}
			n++
			file, at, _ := strings.Cut(target, "#")
			path := doc
			if file != "" {
				path = filepath.Join(filepath.Dir(doc), file)
			}
			if _, err := os.Stat(filepath.Join(root, path)); err != nil {
				t.Errorf("%s links to %s: %v", doc, target, err)
			} else if at != "" && !slices.ContainsFunc(heading.FindAllStringSubmatch(read(t, path), -1), func(h []string) bool { return anchor(h[1]) == at }) {
				t.Errorf("%s links to %s, which has no such heading", doc, target)
			}
		}
	}
	if n < 20 {
		t.Errorf("only %d links were found", n)
	}
}

// The modules that are linked into a program, on whatever system, stand in the list of licences.
func TestLicencesAreListed(t *testing.T) {
	text := read(t, "docs/licences.md")
	out, err := exec.Command("go", "list", "-deps", "-tags=crdt,compression", "-f", "{{with .Module}}{{if not .Main}}{{.Path}}{{end}}{{end}}",
		root, root+"/inspect", root+"/syncenginetest", root+"/cmd/syncengine").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, module := range strings.Fields(string(out)) {
		if !strings.Contains(text, "`"+module+"`") {
			t.Errorf("%s is not listed", module)
		}
	}
}

// known are the packages that snippets may name without importing them.
var known = map[string]string{
	"syncengine": "github.com/syncengine-go/syncengine", "crdt": "github.com/syncengine-go/syncengine/crdt",
	"inspect": "github.com/syncengine-go/syncengine/inspect", "syncenginetest": "github.com/syncengine-go/syncengine/syncenginetest",
	"prometheus": "github.com/prometheus/client_golang/prometheus",
	"json":       "encoding/json", "http": "net/http", "slog": "log/slog", "sql": "database/sql", "bufio": "", "context": "", "errors": "", "strconv": "",
	"fmt": "", "io": "", "log": "", "os": "", "strings": "", "time": "", "testing": "",
}

// imports are those that the code of a file needs.
func imports(f *ast.File) string {
	var b strings.Builder
	seen := make(map[string]bool)
	ast.Inspect(f, func(n ast.Node) bool {
		if sel, ok := n.(*ast.SelectorExpr); ok {
			if x, ok := sel.X.(*ast.Ident); ok && x.Obj == nil && !seen[x.Name] {
				seen[x.Name] = true
				if path, ok := known[x.Name]; ok {
					if path == "" {
						path = x.Name
					}
					fmt.Fprintf(&b, "import %q\n", path)
				}
			}
		}
		return true
	})
	return b.String()
}

// wrap makes a file of a snippet: declarations as they are, statements in a function.
func wrap(snippet string, n int) (string, error) {
	const head = "package snippets\n"
	f, err := parser.ParseFile(token.NewFileSet(), "", head+snippet, 0)
	if err == nil {
		return head + imports(f) + snippet, nil
	}
	snippet = fmt.Sprintf("func _(t *testing.T, ctx context.Context, engine *syncengine.Engine, item syncengine.Item) error { // %d\n%sreturn nil\n}\n", n, snippet)
	if f, err = parser.ParseFile(token.NewFileSet(), "", head+snippet, 0); err != nil {
		return "", err
	}
	return head + imports(f) + snippet, nil
}

// TestSnippetsCompileAndTheReadmesProgramRuns, in a module of a user, which has this one from the
// checkout.
func TestSnippetsCompileAndTheReadmesProgramRuns(t *testing.T) {
	if testing.Short() { // the run without tags does it
		return
	}
	abs, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const module = "github.com/syncengine-go/syncengine"
	write("go.mod", strings.Replace(read(t, "go.mod"), "module "+module, "module snippets", 1)+
		"\nrequire "+module+" v0.0.0\n\nreplace "+module+" => "+abs+"\n")
	write("go.sum", read(t, "go.sum"))
	program, n := "", 0
	for _, doc := range documents(t) {
		if doc != "README.md" && !strings.HasPrefix(doc, "docs/") {
			continue
		}
		for _, m := range fence.FindAllStringSubmatch(read(t, doc), -1) {
			if m[1] != "go" {
				continue
			}
			n++
			if strings.HasPrefix(m[2], "package main\n") {
				program = m[2]
				write("program/main.go", program)
				continue
			}
			text, err := wrap(m[2], n)
			if err != nil {
				t.Errorf("%s: %v in:\n%s", doc, err, m[2])
				continue
			}
			write(fmt.Sprintf("%s_%d.go", strings.ReplaceAll(strings.TrimSuffix(doc, ".md"), "/", "_"), n), text)
		}
	}
	if n < 15 || program == "" {
		t.Fatalf("%d snippets; a program: %t", n, program != "")
	}
	run := func(args ...string) string {
		t.Helper()
		cmd := exec.Command("go", args...)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "GOFLAGS=-mod=mod", "GOWORK=off", "GOPROXY=off")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("go %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	run("vet", "-unreachable=false", "./...") // snippets may return by themselves
	want := regexp.MustCompile(`// (\{.*)`).FindStringSubmatch(program)
	if got := run("run", "./program"); want == nil || got != want[1]+"\n" {
		t.Errorf("the program of the README printed %q, want %q", got, want)
	}
}
