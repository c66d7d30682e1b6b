// Command elsewhere checks the types of this module, its tests included, as a compiler for another
// system or processor would: constants that are too large for 32 bits, functions that a system
// lacks. It takes what is imported from source and leaves function bodies of that out, so it is
// done in seconds where building all for another system takes minutes.
//
//	go run ./internal/elsewhere [-tags T] windows/amd64 darwin/arm64 linux/386
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

func main() {
	tags := flag.String("tags", "", "build tags")
	flag.Parse()
	failed := false
	for _, platform := range flag.Args() {
		n, err := check(".", platform, *tags)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			failed = true
			continue
		}
		fmt.Printf("%s: %d packages\n", platform, n)
	}
	if failed || flag.NArg() == 0 {
		os.Exit(1)
	}
}

// listed is a package as go list tells of it.
type listed struct {
	ImportPath, Dir, ForTest string
	GoFiles                  []string
	Imports                  []string
	ImportMap                map[string]string
	Module                   *struct{ Main bool }
	Error                    *struct{ Err string }
}

// check checks the packages of the module in dir, and returns how many.
func check(dir, platform, tags string) (int, error) {
	system, processor, ok := strings.Cut(platform, "/")
	if !ok {
		return 0, fmt.Errorf("%q is no system/processor", platform)
	}
	cmd := exec.Command("go", "list", "-deps", "-test", "-tags="+tags, "-json=ImportPath,Dir,ForTest,GoFiles,Imports,ImportMap,Module,Error", "./...")
	cmd.Dir, cmd.Stderr = dir, os.Stderr
	cmd.Env = append(os.Environ(), "GOOS="+system, "GOARCH="+processor, "CGO_ENABLED=0")
	out, err := cmd.Output()
	if err != nil {
		return 0, fmt.Errorf("%s: go list: %w", platform, err)
	}
	done := map[string]*types.Package{"unsafe": types.Unsafe}
	sizes := types.SizesFor("gc", processor)
	n := 0
	var faults []error
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; { // what is imported comes first
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return n, errors.Join(faults...)
		} else if err != nil {
			return n, err
		}
		if p.ImportPath == "unsafe" || strings.HasSuffix(p.ImportPath, ".test") { // the latter is made by go test
			continue
		}
		own := p.Module != nil && p.Module.Main
		conf := types.Config{Importer: imports{p.ImportMap, done}, IgnoreFuncBodies: !own, Sizes: sizes, FakeImportC: true, Error: func(err error) {
			if own {
				faults = append(faults, fmt.Errorf("%s: %w", platform, err))
			}
		}}
		fset := token.NewFileSet()
		var files []*ast.File
		for _, name := range p.GoFiles {
			f, err := parser.ParseFile(fset, filepath.Join(p.Dir, name), nil, parser.SkipObjectResolution)
			if err != nil {
				return n, err
			}
			files = append(files, f)
		}
		path, _, _ := strings.Cut(p.ImportPath, " ") // of a package with its tests
		done[p.ImportPath], _ = conf.Check(path, fset, files, nil)
		if own {
			n++
		}
	}
}

// imports finds what a package imports among those that were checked.
type imports struct {
	renamed map[string]string
	done    map[string]*types.Package
}

func (i imports) Import(path string) (*types.Package, error) {
	if to, ok := i.renamed[path]; ok {
		path = to
	}
	if p := i.done[path]; p != nil {
		return p, nil
	}
	return nil, fmt.Errorf("%s was not listed", path)
}
