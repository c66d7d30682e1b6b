package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestTheDocumentsHaveThisTable, and all that the two declare has a feature.
func TestTheDocumentsHaveThisTable(t *testing.T) {
	text, sums, err := table("../../../examples/catalogue", "..")
	if err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{
		"examples/catalogue/README.md": text,
		"docs/recipes.md":              fmt.Sprintf("%d lines of code, and %d by hand", sums[0], sums[1]),
	} {
		b, err := os.ReadFile("../../../" + file)
		if err != nil || !strings.Contains(string(b), want) {
			t.Errorf("%s has not (%v):\n%s", file, err, want)
		}
	}
}

func TestLinesWithCodeCount(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	before := features
	defer func() { features = before }()
	features = []feature{{name: "one", engine: "a b T.m"}, {name: "two", engine: "c d"}}
	write("a_test.go", "package p\n\nvar x = 1\n")
	write("a.go", `package p

import (
	"fmt"
)

// a comment
const (
	a = 1 // here, too

	b = `+"`x\n\n  y`"+`
	/* and
	here */
)

type T struct{} // of nothing: m has the feature

func (t *T) m() {

	// a comment
	fmt.Println(a)
}

var c = 2; var d int
`)
	lines, err := count(dir, func(f feature) string { return f.engine })
	if err == nil || !strings.Contains(err.Error(), "a.go:18:1: T has no feature") {
		t.Errorf("of a type without a feature: %v", err)
	}
	if lines[0] != 8 || lines[1] != 2 { // const a b y ) func Println }; the line of c and d counts for both
		t.Errorf("%d lines", lines)
	}
	features[0].engine += " T"
	if _, err := count(dir, func(f feature) string { return f.engine }); err != nil {
		t.Error(err)
	}
	features[1].engine += " gone"
	if _, err := count(dir, func(f feature) string { return f.engine }); err == nil || !strings.Contains(err.Error(), "gone has a feature, but is not there") {
		t.Errorf("of what is gone: %v", err)
	}
}
