// Command lines counts the code of examples/catalogue and of the same by hand, for each feature:
// lines with code, without comments, blank lines and imports. All files that are not tests count.
//
//	go run ./byhand/lines
//
// Each function, type, constant and variable has a feature in the table below. One that has none,
// or is not there any more, is an error, so that the table cannot go stale.
package main

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/scanner"
	"go/token"
	"io/fs"
	"log"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// feature names what each side declares for it; of a method Type.Name.
type feature struct {
	name         string
	engine, hand string
}

var features = []feature{
	{"products, written and deleted",
		"Product catalogue.putProduct catalogue.deleteProduct",
		"Product catalogue.putProduct catalogue.deleteProduct document newDocument productsTable storage.storeProducts storage.dropProduct"},
	{"products, read and counted",
		"catalogue.getProduct",
		"catalogue.getProduct selectProduct viewsTable storage.countView"},
	{"copies that are read first",
		"",
		"cacheFor askFor cached keepNewer storage.remember"},
	{"import",
		"catalogue.importLines",
		"catalogue.importLines parseLine storage.storeEach"},
	{"listing",
		"catalogue.list",
		"catalogue.list storage.productsAfter"},
	{"carts that expire",
		"Cart cartFor catalogue.putCart catalogue.getCart",
		"Cart cartFor catalogue.putCart catalogue.getCart cartsTable selectCart storage.storeCart storage.touchCart"},
	{"stream of changes",
		"catalogue.changes",
		"catalogue.changes changesTable headTable headRow change errTrimmed logChanges storage.placeInLog storage.changesAfter"},
	{"removal of what is over",
		"",
		"storage.purge"},
	{"transactions, rows",
		"",
		"storage.transact querier collect pageRows"},
	{"HTTP and set-up",
		"catalogue newCatalogue catalogue.handle statusOf errBadBody body unlessAway main run",
		"catalogue newCatalogue catalogue.handle keyed statusOf errNotFound errBadKey errBadBody body checkKey away unlessAway " +
			"storage openStorage storage.close main run"},
}

func main() {
	text, _, err := table("../examples/catalogue", "byhand")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Print(text)
}

// table counts the packages in two directories.
func table(engine, hand string) (text string, sums [2]int, err error) {
	a, err1 := count(engine, func(f feature) string { return f.engine })
	b, err2 := count(hand, func(f feature) string { return f.hand })
	var out strings.Builder
	fmt.Fprintln(&out, "| feature | with the engine | by hand |\n|---|---|---|")
	for i, f := range features {
		fmt.Fprintf(&out, "| %s | %d | %d |\n", f.name, a[i], b[i])
		sums[0], sums[1] = sums[0]+a[i], sums[1]+b[i]
	}
	fmt.Fprintf(&out, "| **all** | **%d** | **%d** |\n", sums[0], sums[1])
	return out.String(), sums, errors.Join(err1, err2)
}

// count returns the lines of each feature, of the package in a directory.
func count(dir string, names func(feature) string) ([]int, error) {
	of := map[string]int{} // the feature of what is declared
	var errs []error
	for i, f := range features {
		for _, name := range strings.Fields(names(f)) {
			if _, twice := of[name]; twice {
				errs = append(errs, fmt.Errorf("%s: %s has two features", dir, name))
			}
			of[name] = i
		}
	}
	lines := make([]int, len(features))
	fset := token.NewFileSet()
	paths, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if len(paths) == 0 {
		err = errors.Join(err, fmt.Errorf("%s: %w", dir, fs.ErrNotExist))
	}
	if err != nil {
		return lines, err
	}
	left := map[string]bool{} // of the table
	for name := range of {
		left[name] = true
	}
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		src, err := os.ReadFile(path)
		if err != nil {
			return lines, err
		}
		file, err := parser.ParseFile(fset, path, src, 0)
		if err != nil {
			return lines, err
		}
		code := codeLines(src)
		for _, d := range declared(file) {
			i, known := of[d.name]
			if !known {
				errs = append(errs, fmt.Errorf("%s: %s has no feature: give it one in byhand/lines", fset.Position(d.pos), d.name))
				continue
			}
			delete(left, d.name)
			for l := fset.Position(d.pos).Line; l <= fset.Position(d.end).Line; l++ {
				if code[l] {
					lines[i]++
				}
			}
		}
	}
	for name := range left {
		errs = append(errs, fmt.Errorf("%s: %s has a feature, but is not there", dir, name))
	}
	slices.SortFunc(errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return lines, errors.Join(errs...)
}

type decl struct {
	name     string
	pos, end token.Pos
}

// declared is what a file declares. The brackets around several constants belong to the first and
// the last.
func declared(file *ast.File) (all []decl) {
	for _, d := range file.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			name := d.Name.Name
			if d.Recv != nil {
				at := d.Recv.List[0].Type
				if p, ok := at.(*ast.StarExpr); ok {
					at = p.X
				}
				name = at.(*ast.Ident).Name + "." + name
			}
			all = append(all, decl{name, d.Pos(), d.End()})
		case *ast.GenDecl:
			if d.Tok == token.IMPORT {
				continue
			}
			for i, spec := range d.Specs {
				one := decl{pos: spec.Pos(), end: spec.End()}
				if i == 0 {
					one.pos = d.Pos()
				}
				if i == len(d.Specs)-1 {
					one.end = d.End()
				}
				switch spec := spec.(type) {
				case *ast.TypeSpec:
					one.name = spec.Name.Name
				case *ast.ValueSpec:
					one.name = spec.Names[0].Name
				}
				all = append(all, one)
			}
		}
	}
	return all
}

// codeLines are the lines that have a token, or a part of one that is not blank.
func codeLines(src []byte) map[int]bool {
	fset := token.NewFileSet()
	file := fset.AddFile("", -1, len(src))
	var s scanner.Scanner
	s.Init(file, src, nil, 0) // leaves out comments
	lines := map[int]bool{}
	for {
		pos, tok, text := s.Scan()
		if tok == token.EOF {
			return lines
		}
		if tok == token.SEMICOLON && text == "\n" {
			continue // is not there
		}
		at := file.Line(pos)
		for i, part := range strings.Split(text, "\n") {
			if i == 0 || strings.TrimSpace(part) != "" {
				lines[at+i] = true
			}
		}
	}
}
