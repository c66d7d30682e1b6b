package promises

// metrics_test.go holds the metrics against what is said of them, and the dashboard and the alert
// rules of examples/observability against the metrics.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
	"github.com/syncengine-go/syncengine/internal/storetest"
	"github.com/syncengine-go/syncengine/internal/testserver"
)

// seriesOf lists the series of a registry with their values; of histograms the counts.
func seriesOf(t testing.TB, reg *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	lab.Must(t, err)
	out := make(map[string]float64)
	for _, f := range families {
		for _, m := range f.Metric {
			name := f.GetName()
			for _, l := range m.Label {
				name += fmt.Sprintf(",%s=%s", l.GetName(), l.GetValue())
			}
			out[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return out
}

func TestAllSeriesAreThereFromTheStart(t *testing.T) {
	ctx := context.Background()
	reg := prometheus.NewRegistry()
	cfg := syncengine.Config{SQLURL: testserver.SharedMariaDB(t).NewDatabase(t), RedisURL: testserver.SharedRedis(t).URL(), KeyPrefix: lab.NewPrefix()}
	other := lab.Open(t, cfg)
	lab.Put(t, other, "of-another", 1)
	lab.Must(t, other.Flush(ctx))
	cfg.Registerer, cfg.Dir = reg, t.TempDir()
	e := lab.Open(t, cfg)
	before := seriesOf(t, reg)
	if len(before) < 200 {
		t.Fatalf("%d series", len(before))
	}

	for n, d := range []syncengine.Durability{syncengine.Buffered, syncengine.Logged, syncengine.Archived} {
		lab.Put(t, e, "secret-id", n, syncengine.WithDurability(d))
	}
	lab.Must(t, e.Insert(ctx, syncengine.Item{ID: "inserted", Content: lab.Doc("inserted", 1)}))
	_, err := e.Update(ctx, "inserted", func(it syncengine.Item, _ bool) (syncengine.Item, error) { return it, nil })
	lab.Must(t, err)
	lab.Must(t, e.Delete(ctx, "deleted", syncengine.WithDurability(syncengine.Archived)))
	lab.WantContent(t, e, "of-another", 1)
	lab.WantContent(t, e, "absent", -1)
	_, err = e.Status(ctx, "secret-id")
	lab.Must(t, err)
	_, err = e.Explain(ctx, "secret-id")
	lab.Must(t, err)
	_, err = e.GetMany(ctx, []string{"secret-id", "absent", "absent-too"})
	lab.Must(t, err)
	for _, err := range e.All(ctx, "") {
		lab.Must(t, err)
	}
	_, err = e.Verify(ctx, syncengine.VerifyOptions{Deep: true, Repair: true})
	lab.Must(t, err)

	after := seriesOf(t, reg)
	for name, was := range after {
		if _, ok := before[name]; !ok {
			t.Errorf("%s = %v came later", name, was)
		}
		if strings.Contains(name, "secret-id") {
			t.Errorf("an id in a label: %s", name)
		}
	}
	for name, want := range map[string]float64{
		"sync_engine_submit_seconds,durability=buffered":  1,
		"sync_engine_submit_seconds,durability=logged":    1,
		"sync_engine_submit_seconds,durability=archived":  2,
		"sync_engine_submit_seconds,durability=condition": 2,
		"sync_engine_get_seconds,tier=l2":                 1,
		"sync_engine_get_seconds,tier=l3":                 1,
		"sync_engine_get_seconds,tier=none":               0,
	} {
		if got := after[name] - before[name]; got != want {
			t.Errorf("%s rose by %v, want %v", name, got, want)
		}
	}
}

// TestABatchIsToldWithTheTracesInIt: when it goes back, and when it has landed.
func TestABatchIsToldWithTheTracesInIt(t *testing.T) {
	ctx := context.Background()
	l3 := &lab.FaultyArchive{ArchiveStore: storetest.NewArchive()}
	told := make(chan syncengine.FlushedBatch, 100)
	e := lab.Open(t, syncengine.Config{L3: &lab.HookedArchive{ArchiveStore: l3, OnApply: lab.RefusePoison}, BatchFlushInterval: time.Hour,
		OnEvent: syncengine.Events{Flushed: func(b syncengine.FlushedBatch) { told <- b }}})
	traces := []string{"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "00-0af7651916cd43dd8448eb211c80319d-b7ad6b7169203332-01"}
	for n, trace := range []string{traces[0], "", traces[1], traces[0]} {
		lab.Must(t, e.Submit(ctx, syncengine.Item{ID: fmt.Sprint("id-", n), Content: lab.Doc("x", n), TraceParent: trace}))
	}
	lab.Must(t, e.Submit(ctx, syncengine.Item{ID: "bad", Content: lab.Poison}))
	l3.Away.Store(true)
	if err := e.Flush(ctx); !errors.Is(err, syncengine.ErrUnavailable) {
		t.Fatal(err)
	}
	next := func() (b syncengine.FlushedBatch) {
		t.Helper()
		select {
		case b = <-told:
		case <-lab.Bounded(t).Done():
			t.Fatal("nothing is told")
		}
		return b
	}
	back := next()
	slices.Sort(back.TraceParents)
	if back.Err == nil || back.Ops != 5 || !slices.Equal(back.TraceParents, traces) {
		t.Errorf("went back: %+v", back)
	}
	l3.Away.Store(false)
	lab.Eventually(t, "it has landed", func() bool { return errors.Is(e.Flush(ctx), syncengine.ErrRefused) })
	landed := next()
	for landed.Err != nil {
		landed = next()
	}
	slices.Sort(landed.TraceParents)
	if landed.Ops != 5 || landed.Refused != 1 || !slices.Equal(landed.TraceParents, traces) || landed.Took <= 0 || time.Since(landed.Start) > time.Minute {
		t.Errorf("landed: %+v", landed)
	}
}

// query finds the metrics that an expression names, with their selectors.
var query = regexp.MustCompile(`(sync_engine_\w+)(?:\{([^}]*)\})?`)

// TestTheDashboardAndAlertsAskForWhatThereIs: metrics, labels and values of labels.
func TestTheDashboardAndAlertsAskForWhatThereIs(t *testing.T) {
	reg := prometheus.NewRegistry()
	lab.Open(t, syncengine.Config{Registerer: reg})
	families, err := reg.Gather()
	lab.Must(t, err)
	labels := make(map[string]map[string][]string) // of each metric, with their values
	for _, f := range families {
		known := map[string][]string{"instance": nil} // Prometheus adds it
		for _, m := range f.Metric {
			for _, l := range m.Label {
				known[l.GetName()] = append(known[l.GetName()], l.GetValue())
			}
		}
		names := []string{f.GetName()}
		if f.Metric[0].Histogram != nil {
			names = []string{f.GetName() + "_bucket", f.GetName() + "_count", f.GetName() + "_sum"}
			known["le"] = nil
		}
		for _, name := range names {
			labels[name] = known
		}
	}

	var exprs []string
	text, err := os.ReadFile("../../examples/observability/dashboard.json")
	lab.Must(t, err)
	var dashboard any
	lab.Must(t, json.Unmarshal(text, &dashboard))
	collect(dashboard, &exprs)
	inDashboard := len(exprs)
	text, err = os.ReadFile("../../examples/observability/alerts.yaml")
	lab.Must(t, err)
	for _, m := range regexp.MustCompile(`(?m)^\s+expr: (.+)$`).FindAllSubmatch(text, -1) {
		exprs = append(exprs, string(m[1]))
	}
	if inDashboard < 30 || len(exprs)-inDashboard != strings.Count(string(text), "- alert:") {
		t.Fatalf("%d expressions of the dashboard, %d of %d alerts", inDashboard, len(exprs)-inDashboard, strings.Count(string(text), "- alert:"))
	}
	for _, expr := range exprs {
		asked := query.FindAllStringSubmatch(expr, -1)
		if len(asked) == 0 || strings.Count(expr, "(") != strings.Count(expr, ")") {
			t.Errorf("no query: %s", expr)
		}
		for _, m := range asked {
			known, ok := labels[m[1]]
			if !ok {
				t.Errorf("there is no %s: %s", m[1], expr)
				continue
			}
			for _, sel := range regexp.MustCompile(`(\w+)(=~|=)"([^"]*)"`).FindAllStringSubmatch(m[2], -1) {
				values, ok := known[sel[1]]
				for _, v := range strings.Split(sel[3], "|") {
					if !ok || values != nil && !slices.Contains(values, v) {
						t.Errorf("%s has no %s = %s: %s", m[1], sel[1], v, expr)
					}
				}
			}
			for _, by := range regexp.MustCompile(`by \(([^)]*)\)`).FindAllStringSubmatch(expr, -1) {
				for l := range strings.SplitSeq(by[1], ", ") {
					if _, ok := known[l]; !ok {
						t.Errorf("%s has no label %s: %s", m[1], l, expr)
					}
				}
			}
		}
	}
	doc, err := os.ReadFile("../../docs/operations.md")
	lab.Must(t, err)
	_, table, _ := strings.Cut(string(doc), "\n## Metrics\n")
	table, _, _ = strings.Cut(table, "\n## ")
	for _, f := range families {
		name := strings.TrimPrefix(f.GetName(), "sync_engine_")
		if !regexp.MustCompile("`" + name + "[`{]").MatchString(table) {
			t.Errorf("docs/operations.md does not tell of %s", name)
		}
	}
}

// collect finds the expressions in a dashboard.
func collect(v any, exprs *[]string) {
	switch v := v.(type) {
	case map[string]any:
		for key, x := range v {
			if text, ok := x.(string); ok && (key == "expr" || key == "definition") {
				*exprs = append(*exprs, text)
			}
			collect(x, exprs)
		}
	case []any:
		for _, x := range v {
			collect(x, exprs)
		}
	}
}
