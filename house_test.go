package syncengine_test

import (
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

	"github.com/syncengine-go/syncengine/internal/lab"
)

func rootFiles(t *testing.T) map[string]*ast.File {
	t.Helper()
	names, err := filepath.Glob("*.go")
	lab.Must(t, err)
	out := make(map[string]*ast.File)
	for _, name := range names {
		if !strings.HasSuffix(name, "_test.go") {
			f, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
			lab.Must(t, err)
			out[name] = f
		}
	}
	return out
}

// testOnly are packages that only tests import, and programs.
var testOnly = []string{
	"internal/testserver", "internal/faultproxy", "internal/storetest", "internal/lab", "internal/promises", "internal/machines",
	"internal/crash", "internal/neighbours", "internal/merging", "internal/testreport", "internal/docs", "internal/elsewhere", "examples", "bench",
	"otelsyncengine",
}

// libraryFiles parses all files that end up in a user's program.
func libraryFiles(t *testing.T, fn func(path string, f *ast.File)) {
	t.Helper()
	lab.Must(t, filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if slices.Contains(testOnly, filepath.ToSlash(path)) || strings.HasPrefix(d.Name(), ".") && path != "." {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err == nil {
			fn(filepath.ToSlash(path), f)
		}
		return err
	}))
}

func TestGoroutinesStartAtOneDoor(t *testing.T) {
	found, doors := 0, []string{"door.go", "internal/sqlkit/leave.go", "cmd/syncengine/output.go"} // the others say why
	libraryFiles(t, func(path string, f *ast.File) {
		ast.Inspect(f, func(n ast.Node) bool {
			if _, ok := n.(*ast.GoStmt); ok {
				if found++; !slices.Contains(doors, path) {
					t.Errorf("%s has a go statement", path)
				}
			}
			return true
		})
	})
	if found != len(doors) {
		t.Errorf("%d go statements, want one in each", found)
	}
}

// TestDriversAreImportedInOnePlace: the client libraries of a server stay in one package.
// config.go, l2.go name redis.UniversalClient, which is part of the public API.
func TestDriversAreImportedInOnePlace(t *testing.T) {
	allowed := map[string]func(path string) bool{
		"github.com/redis/go-redis": func(p string) bool {
			return strings.HasPrefix(p, "internal/rediskit/") || p == "config.go" || p == "l2.go"
		},
		"github.com/go-sql-driver/mysql": func(p string) bool { return strings.HasPrefix(p, "internal/sqlkit/") },
		"modernc.org/sqlite":             func(p string) bool { return strings.HasPrefix(p, "internal/sqlkit/") },
		// Not linked without -tags compression: l3zstd.go has that tag.
		"github.com/klauspost/compress": func(p string) bool { return strings.HasPrefix(p, "compress/") },
		"/syncengine/compress":          func(p string) bool { return p == "l3zstd.go" },
	}
	libraryFiles(t, func(path string, f *ast.File) {
		for _, imp := range f.Imports {
			for driver, ok := range allowed {
				if strings.Contains(imp.Path.Value, driver) && !ok(path) {
					t.Errorf("%s imports %s", path, driver)
				}
			}
		}
	})
}

// wallTimes are the functions that mean the host's clock, and why. It may be set back at any
// moment, so nothing else may ask for it.
var wallTimes = map[string]string{
	"l3row.go storedTime":     "rows hold wall time",
	"l3fleet.go Members":      "the clock of L3",
	"fleettime.go Now":        "the clock of L3",
	"fleettime.go L3":         "the clock of L3",
	"push.go encode":          "the clock of L3, which engines share",
	"push.go hear":            "the clock of L3, which engines share",
	"fleettime.go heard":      "the clock of L3",
	"fleettime.go timeOf":     "versions hold wall time",
	"l3compact.go age":        "the age of a merge in days is that of its version and of UpdatedAt",
	"l3compact.go dayKey":     "snapshots are of days",
	"l3compact.go Claim":      "a claim in L3 is given up by the wall clock of others",
	"kinds.go Merge":          "the clock of a CRDT has seconds, for people",
	"l3compact.go foldDays":   "rows hold wall time",
	"l3merge.go apply":        "rows hold wall time",
	"l3merge.go write":        "rows hold wall time",
	"entry.go newEntry":       "stored or shown as it is",
	"expiry.go millis":        "stored or shown as it is",
	"expiry.go expiryAt":      "stored or shown as it is",
	"entry.go fill":           "stored or shown as it is",
	"l2.go appendRest":        "stored or shown as it is",
	"l2.go decodeEnvelope":    "stored or shown as it is",
	"l3due.go due":            "stored or shown as it is",
	"l3row.go appendArgs":     "stored or shown as it is",
	"l3write.go Heal":         "stored or shown as it is",
	"item.go checkCarried":    "stored or shown as it is",
	"l1.go begin":             "stored or shown as it is",
	"l1.go time":              "stored or shown as it is",
	"offline.go wallTime":     "stored or shown as it is",
	"retry.go One":            "stored or shown as it is",
	"l3.go PurgeTombstones":   "when tombstones expire in L3",
	"wal.go Append":           "for an engine that comes later, with another clock of this kind",
	"flush.go refill":         "for an engine that comes later, with another clock of this kind",
	"spool.go ageOf":          "for an engine that comes later, with another clock of this kind",
	"retry.go Refuse":         "for an engine that comes later, with another clock of this kind",
	"fleet.go aloneNow":       "a second bound of a lease, for when the process was stopped",
	"fleet.go beat":           "a second bound of a lease, for when the process was stopped",
	"l3archive.go newArchive": "no time, a number above earlier ones",
}

// TestAgesAndWaitsAreMonotonicTime: no other function takes from a time its monotonic reading,
// with which time.Since and Sub don't follow a clock that is set.
func TestAgesAndWaitsAreMonotonicTime(t *testing.T) {
	strips := []string{"Unix", "UnixMilli", "UnixMicro", "UnixNano", "Round", "Truncate", "UTC", "Local", "In"}
	found := make(map[string]bool)
	for name, f := range rootFiles(t) {
		for _, d := range f.Decls {
			where := name
			if fn, ok := d.(*ast.FuncDecl); ok {
				where += " " + fn.Name.Name
			}
			ast.Inspect(d, func(n ast.Node) bool {
				if sel, ok := n.(*ast.SelectorExpr); ok && slices.Contains(strips, sel.Sel.Name) {
					if found[where] = true; wallTimes[where] == "" {
						t.Errorf("%s uses %s: ages and waits come from time.Since or Sub alone", where, sel.Sel.Name)
					}
				}
				return true
			})
		}
	}
	for where := range wallTimes {
		if !found[where] {
			t.Errorf("%s does not ask for the host's clock any more", where)
		}
	}
}

// TestEachPromiseHasATest: those of INV-1 are the tests whose names begin with TestINV01, and so
// on.
func TestEachPromiseHasATest(t *testing.T) {
	name := regexp.MustCompile(`func Test(\w*)`)
	number := regexp.MustCompile(`^INV(\d\d)(?:And(\d\d))?[A-Z]`)
	found := make(map[string]int)
	lab.Must(t, filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, m := range name.FindAllSubmatch(text, -1) {
			n := number.FindSubmatch(m[1])
			if n == nil && regexp.MustCompile(`INV\d`).Match(m[1]) {
				t.Errorf("%s: Test%s: the number of a promise has two digits and comes first", path, m[1])
			}
			for _, n := range n[min(1, len(n)):] {
				found[string(n)]++
			}
		}
		return err
	}))
	for n := 1; n <= 16; n++ {
		if promise := fmt.Sprintf("%02d", n); found[promise] == 0 {
			t.Errorf("no test is named TestINV%s", promise)
		}
	}
}

// TestDocumentsNameTestsThatExist: what documents say is shown by tests that are there, suites for
// others included.
func TestDocumentsNameTestsThatExist(t *testing.T) {
	there := make(map[string]bool)
	lab.Must(t, filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, m := range regexp.MustCompile(`(?m)^func (Test\w+)\(`).FindAllSubmatch(text, -1) {
			there[string(m[1])] = true
		}
		return err
	}))
	names, err := filepath.Glob("*.md")
	lab.Must(t, err)
	more, err := filepath.Glob("docs/*.md")
	lab.Must(t, err)
	for _, name := range append(names, more...) {
		text, err := os.ReadFile(name)
		lab.Must(t, err)
		for _, test := range regexp.MustCompile("`(Test\\w+)`").FindAllSubmatch(text, -1) {
			if !there[string(test[1])] {
				t.Errorf("%s names %s, which there is not", name, test[1])
			}
		}
	}
}

// TestCommentsFitTheScreen: lines of comments are at most 100 columns wide, but for what is set in
// columns or is code.
func TestCommentsFitTheScreen(t *testing.T) {
	lab.Must(t, filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") {
			return err
		}
		text, err := os.ReadFile(path)
		for i, line := range strings.Split(string(text), "\n") {
			comment, ok := strings.CutPrefix(strings.TrimLeft(line, "\t"), "//")
			if ok && !strings.HasPrefix(comment, "\t") && len([]rune(strings.ReplaceAll(line, "\t", "    "))) > 100 {
				t.Errorf("%s:%d has a comment of more than 100 columns", path, i+1)
			}
		}
		return err
	}))
}

// TestLibcIsTheVersionSQLiteWasBuiltWith: another version of modernc.org/libc crashes inside
// SQLite sooner or later.
func TestLibcIsTheVersionSQLiteWasBuiltWith(t *testing.T) {
	version := func(goMod string) string {
		text, err := os.ReadFile(goMod)
		lab.Must(t, err)
		m := regexp.MustCompile(`(?m)modernc\.org/libc (v\S+)`).FindSubmatch(text)
		if m == nil {
			t.Fatalf("%s does not name modernc.org/libc", goMod)
		}
		return string(m[1])
	}
	out, err := exec.Command("go", "list", "-m", "-f", "{{.GoMod}}", "modernc.org/sqlite").Output()
	lab.Must(t, err)
	if ours, theirs := version("go.mod"), version(strings.TrimSpace(string(out))); ours != theirs {
		t.Errorf("go.mod has modernc.org/libc %s, modernc.org/sqlite wants %s", ours, theirs)
	}
}
