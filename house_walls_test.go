package syncengine_test

// house_walls_test.go keeps the walls between the departments, which CONTRIBUTING.md lists, lowest
// first:
//
//   - a lower-case member of a department's type is used in that department's files only;
//   - names go downwards only: a file may name what is declared in its own department and below.
//
// The contracts are no department: they hold types that all share, and no state.

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/syncengine-go/syncengine/internal/lab"
)

// house is the root package with its types, and who lives where.
type house struct {
	fset  *token.FileSet
	files []*ast.File
	info  types.Info
	rank  map[string]int // of the department of a file
	names []string       // of departments, lowest first
}

// departments reads the table of CONTRIBUTING.md.
func (h *house) departments(t *testing.T) {
	text, err := os.ReadFile("CONTRIBUTING.md")
	lab.Must(t, err)
	_, table, ok := strings.Cut(string(text), "## How the source is laid out")
	if !ok {
		t.Fatal("CONTRIBUTING.md has no table of departments")
	}
	_, table, _ = strings.Cut(table, "```")
	table, _, _ = strings.Cut(table, "```")
	h.rank = make(map[string]int)
	name := regexp.MustCompile(`^([a-z]+)\s`)
	for line := range strings.Lines(table) {
		if m := name.FindStringSubmatch(line); m != nil {
			h.names = append(h.names, m[1])
		}
		for _, f := range regexp.MustCompile(`\b[a-z0-9]+\.go\b`).FindAllString(line, -1) {
			if _, twice := h.rank[f]; twice {
				t.Errorf("CONTRIBUTING.md names %s twice", f)
			}
			h.rank[f] = len(h.names) - 1
		}
	}
}

// nothing imports every package as an empty one: what is declared here is known all the same.
type nothing struct{}

func (nothing) Import(path string) (*types.Package, error) {
	p := types.NewPackage(path, filepath.Base(path))
	p.MarkComplete()
	return p, nil
}

func buildHouse(t *testing.T) *house {
	t.Helper()
	h := &house{fset: token.NewFileSet(), info: types.Info{Uses: make(map[*ast.Ident]types.Object), Defs: make(map[*ast.Ident]types.Object), Selections: make(map[*ast.SelectorExpr]*types.Selection)}}
	h.departments(t)
	names, err := filepath.Glob("*.go")
	lab.Must(t, err)
	there := make(map[string]bool)
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(h.fset, name, nil, parser.SkipObjectResolution)
		lab.Must(t, err)
		h.files = append(h.files, f)
		there[name] = true
		if _, ok := h.rank[name]; !ok {
			t.Errorf("%s has no department in CONTRIBUTING.md", name)
		}
	}
	for name := range h.rank {
		if !there[name] {
			t.Errorf("CONTRIBUTING.md names %s, which does not exist", name)
		}
	}
	conf := types.Config{Importer: nothing{}, FakeImportC: true, Error: func(error) {}} // of what the empty packages lack
	_, _ = conf.Check("syncengine", h.fset, h.files, &h.info)
	return h
}

func (h *house) file(p token.Pos) string { return filepath.Base(h.fset.Position(p).Filename) }

// home returns the file that owns a member: the one that declares its type. It is "" for what is
// no member.
func (h *house) home(o types.Object) string {
	switch o := o.(type) {
	case *types.Var:
		if o.IsField() {
			return h.file(o.Pos())
		}
	case *types.Func:
		recv := o.Signature().Recv()
		if recv == nil {
			return ""
		}
		t := recv.Type()
		if p, ok := t.(*types.Pointer); ok {
			t = p.Elem()
		}
		if n, ok := t.(*types.Named); ok {
			return h.file(n.Obj().Pos())
		}
		return h.file(o.Pos())
	}
	return ""
}

// breaches lists what goes through walls: "reader uses conn of archive".
func (h *house) breaches() (crossings, upward []string) {
	for id, o := range h.info.Uses {
		if o.Pkg() == nil || o.Pkg().Path() != "syncengine" || !o.Pos().IsValid() {
			continue
		}
		at := h.file(id.Pos())
		if o.Parent() == o.Pkg().Scope() {
			if from := h.file(o.Pos()); h.rank[from] > h.rank[at] {
				upward = append(upward, fmt.Sprintf("%s (%s) names %s of %s (%s)", at, h.names[h.rank[at]], o.Name(), from, h.names[h.rank[from]]))
			}
			continue
		}
		owner := h.home(o)
		if owner == "" {
			continue
		}
		if !o.Exported() && h.rank[owner] > 0 && h.rank[owner] != h.rank[at] {
			crossings = append(crossings, fmt.Sprintf("%s (%s) uses %s of %s (%s)", at, h.names[h.rank[at]], o.Name(), owner, h.names[h.rank[owner]]))
		}
	}
	slices.Sort(crossings)
	slices.Sort(upward)
	return crossings, upward
}

func TestDepartmentsHaveWalls(t *testing.T) {
	crossings, upward := buildHouse(t).breaches()
	for what, list := range map[string][]string{"uses of another department's lower-case members": crossings, "uses of names that stand above": upward} {
		if len(list) > 0 {
			t.Errorf("%d %s:\n%s", len(list), what, strings.Join(slices.Compact(list), "\n"))
		}
	}
}
