// Command docs writes docs/reference.md, the reference of Config and Events, from their doc
// comments. Run it in the root of the repository (make reference). Its tests hold all documents
// against the code: snippets compile, links lead somewhere, and what is said to be tested is.
package main

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"log"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

const referenceFile = "docs/reference.md"

func main() {
	text, err := reference(".")
	if err == nil {
		err = os.WriteFile(referenceFile, text, 0o644)
	}
	if err != nil {
		log.Fatal(err)
	}
}

// sections are the fields of Config by what they are about. A field that none of them names stands
// under the last one.
var sections = []struct {
	title  string
	fields []string
}{
	{"Where", []string{"Dir", "SQLURL", "RedisURL", "DB", "Dialect", "Redis", "L2", "L3", "KeyPrefix", "TablePrefix", "InstanceID", "LockWait"}},
	{"Memory (L1)", []string{"L1MaxBytes", "L1MaxAge", "AbsentFor", "StaleFor"}},
	{"Redis (L2)", []string{"L2Timeout", "L2Breaker", "NoPush", "VerifyInterval"}},
	{"SQL (L3)", []string{"L3Timeout", "L3Breaker", "TombstoneRetention", "ChangeRetention", "Compression", "CompressionLevel"}},
	{"The log (WAL)", []string{"WALPath", "WALMaxItems", "WALMaxBytes", "WALNoSync"}},
	{"Writes", []string{"Durability", "DefaultTTL", "MaxItemBytes", "GroupMaxItems", "GroupMaxBytes", "MaxClockSkew", "FactoryTimeout", "PriorityFunc"}},
	{"Flush", []string{"BatchFlushInterval", "BatchFlushCount", "BatchFlushBytes", "FlushConcurrency", "CloseTimeout"}},
	{"Backpressure", []string{"BackpressureWarn", "BackpressureThrottle", "BackpressureCritical", "BackpressureEmergency", "BackpressureShutdown"}},
	{"Filter", []string{"FilterWarmupBatch", "FilterSnapshotInterval", "FilterSnapshotInserts"}},
	{"Merges (-tags crdt)", []string{"RetentionFullDays", "RetentionCompactDays", "CompactionInterval"}},
	{"What it tells, and the rest", []string{"Logger", "Registerer", "OnEvent"}},
}

// member is a field of a struct.
type member struct {
	name, typ, def, text string
}

// reference makes the page of the repository at root.
func reference(root string) ([]byte, error) {
	fields, err := members(filepath.Join(root, "config.go"), "Config")
	if err != nil {
		return nil, err
	}
	events, err := members(filepath.Join(root, "events.go"), "Events")
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	b.WriteString("# Reference of Config\n\n<!-- Made by `make reference` from config.go and events.go. Do not edit. -->\n\n" +
		"`Open` takes one struct. The zero value of a field means its default. Only `Dir` is required. `Open` returns all\n" +
		"faults of a Config at once, each with the field, its value and the rule. " +
		"`go doc syncengine.Config` shows the same text.\n")
	known := make(map[string]bool)
	for _, s := range sections {
		for _, f := range s.fields {
			known[f] = true
		}
	}
	for i, s := range sections {
		fmt.Fprintf(&b, "\n## %s\n\n| field | type | default | meaning |\n|---|---|---|---|\n", s.title)
		for _, f := range fields {
			if slices.Contains(s.fields, f.name) || i == len(sections)-1 && !known[f.name] {
				fmt.Fprintf(&b, "| `%s` | `%s` | %s | %s |\n", f.name, f.typ, f.def, f.text)
			}
		}
	}
	b.WriteString("\n## Values\n\n| value | meaning |\n|---|---|\n")
	values, err := constants(filepath.Join(root, "config.go"))
	if err != nil {
		return nil, err
	}
	for _, v := range values {
		if v.text != "" {
			fmt.Fprintf(&b, "| `%s` | %s |\n", v.name, v.text)
		}
	}
	b.WriteString("\n## Events\n\n`Config.OnEvent` holds functions. Each may be nil. They run on the engine's own goroutines, outside its locks,\n" +
		"one at a time and in order. A slow one delays the next events, not reads or writes.\n\n| function | called when |\n|---|---|\n")
	for _, f := range events {
		fmt.Fprintf(&b, "| `%s%s` | %s |\n", f.name, strings.TrimPrefix(f.typ, "func"), f.text)
	}
	return b.Bytes(), nil
}

// bracketed is a default in a doc comment.
var bracketed = regexp.MustCompile(`\s*\[([^\]]+)\]`)

// members reads the exported fields of a struct. A field without a comment is meant by the one
// above it.
func members(file, name string) ([]member, error) {
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, file, nil, parser.ParseComments)
	if err != nil {
		return nil, err
	}
	typ, err := structType(f, name)
	if err != nil {
		return nil, err
	}
	var out []member
	var above string    // the field whose comment holds for the next ones as well
	var defs [][]string // its defaults that nobody has had yet
	for _, field := range typ.Fields.List {
		var t bytes.Buffer
		if err := format.Node(&t, fset, field.Type); err != nil {
			return nil, err
		}
		text := strings.Join(strings.Fields(field.Doc.Text()+" "+field.Comment.Text()), " ")
		if text != "" {
			above, defs = field.Names[0].Name, bracketed.FindAllStringSubmatch(text, -1)
		}
		for i, n := range field.Names {
			m := member{name: n.Name, typ: strings.ReplaceAll(t.String(), "|", `\|`), text: text}
			if (text == "" || i > 0) && above != "" {
				m.text = "see `" + above + "`"
			}
			switch {
			case len(defs) == 1 && len(field.Names) > 1: // one for each
				if each := strings.Fields(defs[0][1]); len(each) == len(field.Names) {
					m.def = each[i]
				}
			case len(defs) > 0:
				m.def, defs = defs[0][1], defs[1:]
			}
			out = append(out, m)
		}
	}
	for i := range out {
		text := bracketed.ReplaceAllString(out[i].text, "")
		out[i].text = strings.ReplaceAll(strings.TrimSpace(text), "|", `\|`)
	}
	return out, nil
}

// constants reads the exported constants of a file, which are values of Config's fields.
func constants(file string) ([]member, error) {
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments)
	if err != nil {
		return nil, err
	}
	var out []member
	for _, d := range f.Decls {
		g, ok := d.(*ast.GenDecl)
		if !ok || g.Tok != token.CONST {
			continue
		}
		for _, s := range g.Specs {
			if v := s.(*ast.ValueSpec); v.Names[0].IsExported() {
				text := v.Doc.Text() + " " + v.Comment.Text()
				text = strings.TrimPrefix(strings.Join(strings.Fields(text), " "), v.Names[0].Name+": ")
				out = append(out, member{name: v.Names[0].Name, text: text})
			}
		}
	}
	return out, nil
}

func structType(f *ast.File, name string) (*ast.StructType, error) {
	for _, d := range f.Decls {
		g, ok := d.(*ast.GenDecl)
		if !ok {
			continue
		}
		for _, s := range g.Specs {
			if ts, ok := s.(*ast.TypeSpec); ok && ts.Name.Name == name {
				if st, ok := ts.Type.(*ast.StructType); ok {
					return st, nil
				}
			}
		}
	}
	return nil, fmt.Errorf("no struct %s", name)
}
