package otelsyncengine

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/syncengine-go/syncengine"
)

// traced opens an engine whose spans go to an exporter in memory.
func traced(t *testing.T, opts ...Option) (*Engine, *tracetest.InMemoryExporter, trace.Tracer) {
	t.Helper()
	exporter := tracetest.NewInMemoryExporter()
	provider := sdk.NewTracerProvider(sdk.WithSyncer(exporter))
	e, err := Open(t.Context(), syncengine.Config{Dir: t.TempDir(), WALNoSync: true, BatchFlushInterval: time.Hour},
		append(opts, WithTracerProvider(provider))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	return e, exporter, provider.Tracer("service")
}

func named(spans tracetest.SpanStubs, name string) tracetest.SpanStubs {
	return slices.DeleteFunc(slices.Clone(spans), func(s tracetest.SpanStub) bool { return s.Name != name })
}

func attr(s tracetest.SpanStub, key string) attribute.Value {
	for _, a := range s.Attributes {
		if string(a.Key) == key {
			return a.Value
		}
	}
	return attribute.Value{}
}

func item(id string) syncengine.Item {
	return syncengine.Item{ID: id, Content: []byte(`{"secret":"swordfish"}`)}
}

func TestAFlushIsLinkedToTheWritesInIt(t *testing.T) {
	e, exporter, service := traced(t)
	ctx, request := service.Start(t.Context(), "request")
	for n := range 3 {
		if err := e.Submit(ctx, item(fmt.Sprint("id-", n))); err != nil {
			t.Fatal(err)
		}
	}
	request.End()
	if err := e.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := e.Close(); err != nil { // events are told by then
		t.Fatal(err)
	}
	spans := exporter.GetSpans()
	writes, flushes := named(spans, "syncengine.Submit"), named(spans, "syncengine.flush")
	if len(writes) != 3 || len(flushes) != 1 {
		t.Fatalf("%d writes, %d flushes", len(writes), len(flushes))
	}
	flush := flushes[0]
	if flush.Parent.IsValid() || len(flush.Links) != 3 || attr(flush, "syncengine.ops").AsInt64() != 3 || !flush.EndTime.After(flush.StartTime) {
		t.Errorf("flush: parent %v, %d links, %v", flush.Parent, len(flush.Links), flush.Attributes)
	}
	for _, w := range writes {
		if w.Parent.SpanID() != request.SpanContext().SpanID() {
			t.Errorf("a write has the parent %v", w.Parent)
		}
		if !slices.ContainsFunc(flush.Links, func(l sdk.Link) bool {
			return l.SpanContext.SpanID() == w.SpanContext.SpanID() && l.SpanContext.TraceID() == w.SpanContext.TraceID()
		}) {
			t.Errorf("no link to %v", w.SpanContext)
		}
	}
}

func TestTheTraceContextTravelsWithTheItem(t *testing.T) {
	e, exporter, service := traced(t)
	state, err := trace.ParseTraceState("vendor=opaque")
	if err != nil {
		t.Fatal(err)
	}
	remote := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: trace.FlagsSampled, TraceState: state, Remote: true})
	ctx, request := service.Start(trace.ContextWithRemoteSpanContext(t.Context(), remote), "request")
	old := item("x")
	old.TraceParent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01" // of the write that was read
	if err := e.Submit(ctx, old); err != nil {
		t.Fatal(err)
	}
	request.End()
	write := named(exporter.GetSpans(), "syncengine.Submit")[0]
	got, err := e.Get(t.Context(), "x")
	want := fmt.Sprintf("00-%s-%s-01", remote.TraceID(), write.SpanContext.SpanID())
	if err != nil || got.TraceParent != want || got.TraceState != "vendor=opaque" {
		t.Errorf("%q, %q, %v; want %q", got.TraceParent, got.TraceState, err, want)
	}
	read := named(exporter.GetSpans(), "syncengine.Get")[0]
	if len(read.Links) != 1 || read.Links[0].SpanContext.SpanID() != write.SpanContext.SpanID() {
		t.Errorf("the read has the links %v", read.Links)
	}
	if _, err := e.Update(t.Context(), "x", func(cur syncengine.Item, _ bool) (syncengine.Item, error) { return cur, nil }); err != nil {
		t.Fatal(err)
	}
	got, err = e.Engine.Get(t.Context(), "x")
	if update := named(exporter.GetSpans(), "syncengine.Update")[0]; err != nil || !strings.Contains(got.TraceParent, update.SpanContext.SpanID().String()) || got.TraceState != "" {
		t.Errorf("after Update: %q, %q, %v", got.TraceParent, got.TraceState, err)
	}
}

// TestEachCallIsASpanThatSaysHowItEnded, and none tells contents.
func TestEachCallIsASpanThatSaysHowItEnded(t *testing.T) {
	e, exporter, _ := traced(t)
	ctx := t.Context()
	calls := []struct {
		span, outcome string
		do            func() error
	}{
		{"Submit", "ok", func() error { return e.Submit(ctx, item("a")) }},
		{"Submit", "invalid", func() error { return e.Submit(ctx, syncengine.Item{ID: "bad", Content: []byte("swordfish")}) }},
		{"Insert", "exists", func() error { return e.Insert(ctx, item("a")) }},
		{"Submit", "conflict", func() error { return e.Submit(ctx, item("a"), syncengine.WithIfVersion(1)) }},
		{"Update", "ok", func() error {
			_, err := e.Update(ctx, "a", func(cur syncengine.Item, _ bool) (syncengine.Item, error) { return cur, syncengine.ErrNoChange })
			return err
		}},
		{"SubmitMany", "ok", func() error { _, err := e.SubmitMany(ctx, []syncengine.Item{item("b"), item("c")}); return err }},
		{"SubmitEach", "ok", func() error {
			_, err := e.SubmitEach(ctx, slices.Values([]syncengine.Item{item("d")}), syncengine.EachOptions{})
			return err
		}},
		{"Get", "ok", func() error { _, err := e.Get(ctx, "a"); return err }},
		{"Get", "not_found", func() error { _, err := e.Get(ctx, "absent"); return err }},
		{"GetVerified", "ok", func() error { _, err := e.GetVerified(ctx, "a"); return err }},
		{"GetMany", "ok", func() error { _, err := e.GetMany(ctx, []string{"a", "absent"}); return err }},
		{"GetOrInsertWith", "ok", func() error {
			_, err := e.GetOrInsertWith(ctx, "made", func(context.Context) (syncengine.Item, error) { return item(""), nil })
			return err
		}},
		{"All", "ok", func() error {
			for _, err := range e.All(ctx, "") {
				if err != nil {
					return err
				}
			}
			return nil
		}},
		{"AllAfter", "ok", func() error {
			for _, err := range e.AllAfter(ctx, "", "a") {
				if err != nil {
					return err
				}
			}
			return nil
		}},
		{"Merge", "error", func() error { _, err := e.Merge(ctx, "n", "PNCounter", []byte("1")); return err }},
		{"Touch", "ok", func() error { return e.Touch(ctx, "a", time.Hour) }},
		{"Delete", "ok", func() error { return e.Delete(ctx, "a") }},
		{"DeleteMany", "ok", func() error { _, err := e.DeleteMany(ctx, []string{"b", "c"}); return err }},
		{"DeletePrefix", "ok", func() error { _, err := e.DeletePrefix(ctx, "d"); return err }},
		{"Flush", "ok", func() error { return e.Flush(ctx) }},
		{"Verify", "ok", func() error { _, err := e.Verify(ctx, syncengine.VerifyOptions{Deep: true}); return err }},
	}
	seen := make(map[string]bool)
	for _, c := range calls {
		seen[c.span] = true
		exporter.Reset()
		err := c.do()
		spans := named(exporter.GetSpans(), "syncengine."+c.span)
		if len(spans) != 1 || attr(spans[0], "syncengine.outcome").AsString() != c.outcome {
			t.Errorf("%s: %v: spans %v, want the outcome %s", c.span, err, spans, c.outcome)
			continue
		}
		failed := spans[0].Status.Code == codes.Error
		if want := c.outcome == "invalid" || c.outcome == "error"; failed != want {
			t.Errorf("%s, %s: failed is %t", c.span, c.outcome, failed)
		}
		if text := fmt.Sprintf("%+v", spans); strings.Contains(text, "swordfish") {
			t.Errorf("%s tells content: %s", c.span, text)
		}
	}
	typ := reflect.TypeFor[*Engine]()
	for i := range typ.NumMethod() {
		m := typ.Method(i)
		if m.Type.NumIn() > 1 && m.Type.In(1) == reflect.TypeFor[context.Context]() && !seen[m.Name] &&
			!slices.Contains(untraced, m.Name) {
			t.Errorf("%s is not traced, and nobody has said so", m.Name)
		}
	}
}

// untraced are the calls that take a context and are left as they are.
var untraced = []string{"Status", "Explain", "Health", "MerkleRoot", "Quarantined", "RetryQuarantined", "DiscardQuarantined", "Compact", "Rebuild", "Shutdown",
	"Watch", "WatchFrom", "WatchToken"}

func TestAFunctionThatIsNilIsRefusedAtOnce(t *testing.T) {
	e, _, _ := traced(t)
	_, each := e.SubmitEach(t.Context(), nil, syncengine.EachOptions{})
	_, update := e.Update(t.Context(), "x", nil)
	_, insert := e.GetOrInsertWith(t.Context(), "x", nil)
	for _, err := range []error{each, update, insert} {
		if !errors.Is(err, syncengine.ErrInvalidItem) {
			t.Error(err)
		}
	}
}

func TestReadsAreLeftOutIfAsked(t *testing.T) {
	e, exporter, _ := traced(t, WithoutReads())
	if _, err := e.Get(t.Context(), "absent"); !errors.Is(err, syncengine.ErrNotFound) {
		t.Fatal(err)
	}
	if _, err := e.GetMany(t.Context(), []string{"absent"}); err != nil {
		t.Fatal(err)
	}
	for range e.All(t.Context(), "") {
	}
	if spans := exporter.GetSpans(); len(spans) != 0 {
		t.Errorf("%v", spans)
	}
}

func ExampleOpen() {
	ctx := context.Background()
	engine, err := Open(ctx, syncengine.Config{Dir: "data"}) // the global TracerProvider
	if err != nil {
		panic(err)
	}
	defer engine.Close()
	_ = engine.Submit(ctx, syncengine.Item{ID: "a", Content: []byte(`1`)}) // ctx of a request
}
