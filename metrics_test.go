package syncengine_test

import (
	"context"
	"fmt"
	"go/ast"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
)

// TestEveryOperationIsKnownToTheMetrics: calls to a tier are named by a literal, which is in the
// list of those whose series are made at Open.
func TestEveryOperationIsKnownToTheMetrics(t *testing.T) {
	calls := []string{"Do", "DoFor", "pass", "call", "ask", "again", "callFor", "Call", "Get", "GetOnce", "Put", "Scan"}
	found := make(map[string]bool)
	for _, f := range rootFiles(t) {
		ast.Inspect(f, func(n ast.Node) bool {
			c, ok := n.(*ast.CallExpr)
			if !ok || len(c.Args) < 3 {
				return true
			}
			sel, ok := c.Fun.(*ast.SelectorExpr)
			if lit, isLit := c.Args[1].(*ast.BasicLit); ok && isLit && slices.Contains(calls, sel.Sel.Name) {
				op, _ := strconv.Unquote(lit.Value)
				found[op] = true
			}
			return true
		})
	}
	known := make(map[string]bool)
	for _, ops := range syncengine.MetricOperations() {
		for _, op := range ops {
			if known[op] = true; !found[op] {
				t.Errorf("%s is called nowhere", op)
			}
		}
	}
	for op := range found {
		if !known[op] {
			t.Errorf("%s has no series from the start", op)
		}
	}
	if len(found) < 25 {
		t.Errorf("only %d operations were found", len(found))
	}
}

// BenchmarkMetrics shows what a Registerer costs, and what it would cost to time every Get.
func BenchmarkMetrics(b *testing.B) {
	ctx := context.Background()
	for _, on := range []bool{false, true} {
		cfg := syncengine.Config{WALNoSync: true, BatchFlushInterval: time.Hour}
		if on {
			cfg.Registerer = prometheus.NewRegistry()
		}
		e := lab.Open(b, cfg)
		ids := make([]string, 1000)
		for n := range ids {
			ids[n] = fmt.Sprint("id-", n)
			lab.Must(b, e.Submit(ctx, syncengine.Item{ID: ids[n], Content: lab.Doc(ids[n], n)}))
		}
		name := strings.ReplaceAll(fmt.Sprint("registered=", on), " ", "")
		b.Run("Get/"+name, func(b *testing.B) {
			n := 0
			for b.Loop() {
				if _, err := e.Get(ctx, ids[n%1000]); err != nil {
					b.Fatal(err)
				}
				n++
			}
		})
		b.Run("GetTimed/"+name, func(b *testing.B) {
			var sum time.Duration
			n := 0
			for b.Loop() {
				start := time.Now()
				if _, err := e.Get(ctx, ids[n%1000]); err != nil {
					b.Fatal(err)
				}
				sum += time.Since(start)
				n++
			}
		})
		for _, d := range []syncengine.Durability{syncengine.Buffered, syncengine.Logged} {
			b.Run("Submit/"+d.String()+"/"+name, func(b *testing.B) {
				content := lab.Doc("x", 1)
				n := 0
				for b.Loop() {
					if err := e.Submit(ctx, syncengine.Item{ID: ids[n%1000], Content: content}, syncengine.WithDurability(d)); err != nil {
						b.Fatal(err)
					}
					n++
				}
			})
		}
	}
}
