package syncengine_test

import (
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"reflect"
	"strings"
	"testing"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
)

// TestTheZeroValueOfEachErrorCanBeAsked: a store or a test of the caller's may make one, with no
// words in it.
func TestTheZeroValueOfEachErrorCanBeAsked(t *testing.T) {
	all := map[string]error{}
	for _, err := range []error{
		&syncengine.InvalidItemError{}, &syncengine.ConfigError{}, &syncengine.ConflictError{}, &syncengine.BackpressureError{},
		&syncengine.CorruptionError{}, &syncengine.DecodeError{}, &syncengine.RefusedError{}, &syncengine.PendingError{},
		&syncengine.NotFoundError{}, &syncengine.SetupError{},
	} {
		all[reflect.TypeOf(err).Elem().Name()] = err
		if !strings.HasPrefix(err.Error(), "syncengine: ") || strings.Contains(err.Error(), "nil") {
			t.Errorf("%T says %q", err, err)
		}
		if errors.Is(err, errors.ErrUnsupported) || errors.Unwrap(err) != nil {
			t.Errorf("%T wraps %v", err, errors.Unwrap(err))
		}
	}
	file, err := parser.ParseFile(token.NewFileSet(), "errors.go", nil, 0)
	lab.Must(t, err)
	for _, d := range file.Decls {
		gen, ok := d.(*ast.GenDecl)
		if !ok || gen.Tok != token.TYPE {
			continue
		}
		for _, spec := range gen.Specs {
			if name := spec.(*ast.TypeSpec).Name; name.IsExported() && all[name.Name] == nil {
				t.Errorf("%s is not among them", name)
			}
		}
	}
}
