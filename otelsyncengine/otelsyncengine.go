// Package otelsyncengine makes OpenTelemetry spans of what a syncengine does.
//
// [Open] opens an engine whose calls are spans (syncengine.Submit and so on), children of what is
// in the caller's context. A write carries its trace context along in the item, as W3C traceparent
// and tracestate, through the log, SQL and Redis. Each batch that goes to SQL is a span
// syncengine.flush, a root of its own, with links to the writes in it: it belongs to many callers.
// A read has a link to the write that it has read.
//
// Spans have ids of items and counts, but neither contents nor texts of errors, which may quote
// them: an attribute syncengine.outcome says in a word how a call ended.
//
// A span costs some microseconds, a Get that memory answers 60 to 400 ns. [WithoutReads] leaves
// reads out.
//
// No goroutines. All is safe for concurrent use.
package otelsyncengine

import (
	"context"
	"encoding/json"
	"errors"
	"iter"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/syncengine-go/syncengine"
)

const scope = "github.com/syncengine-go/syncengine/otelsyncengine"

// Option changes what is traced. The zero value changes nothing.
type Option struct {
	provider trace.TracerProvider
	noReads  bool
}

// WithTracerProvider uses a provider instead of the global one. nil changes nothing.
func WithTracerProvider(p trace.TracerProvider) Option { return Option{provider: p} }

// WithoutReads makes no spans of reads.
func WithoutReads() Option { return Option{noReads: true} }

type settings struct {
	tracer trace.Tracer
	reads  bool
}

func settingsOf(opts []Option) settings {
	s, provider := settings{reads: true}, otel.GetTracerProvider()
	for _, o := range opts {
		if o.provider != nil {
			provider = o.provider
		}
		if o.noReads {
			s.reads = false
		}
	}
	s.tracer = provider.Tracer(scope)
	return s
}

// Engine is an engine whose calls are spans. Calls that it does not redefine are the engine's own,
// and not traced; nor is what a syncengine.Store made of it does.
type Engine struct {
	*syncengine.Engine
	settings
}

// Open opens an engine that is traced, its flushes included. Errors are those of syncengine.Open.
func Open(ctx context.Context, cfg syncengine.Config, opts ...Option) (*Engine, error) {
	cfg.OnEvent = Events(cfg.OnEvent, opts...)
	e, err := syncengine.Open(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return New(e, opts...), nil
}

// New traces the calls of an engine that is open. Its flushes are traced if its Config has Events.
func New(e *syncengine.Engine, opts ...Option) *Engine { return &Engine{e, settingsOf(opts)} }

// Events returns on with a function for Flushed that makes a span of each batch, and then calls
// that of on.
func Events(on syncengine.Events, opts ...Option) syncengine.Events {
	s, next := settingsOf(opts), on.Flushed
	on.Flushed = func(b syncengine.FlushedBatch) {
		s.flushed(&b)
		if next != nil {
			next(b)
		}
	}
	return on
}

var w3c propagation.TraceContext

// contextOf reads a trace context that an item carries.
func contextOf(parent, state string) trace.SpanContext {
	if parent == "" {
		return trace.SpanContext{}
	}
	carrier := propagation.MapCarrier{"traceparent": parent}
	if state != "" {
		carrier["tracestate"] = state
	}
	return trace.SpanContextFromContext(w3c.Extract(context.Background(), carrier))
}

func (s *settings) flushed(b *syncengine.FlushedBatch) {
	links := make([]trace.Link, 0, len(b.TraceParents))
	for _, parent := range b.TraceParents {
		if sc := contextOf(parent, ""); sc.IsValid() {
			links = append(links, trace.Link{SpanContext: sc})
		}
	}
	_, span := s.tracer.Start(context.Background(), "syncengine.flush", trace.WithNewRoot(), trace.WithTimestamp(b.Start), trace.WithLinks(links...),
		trace.WithAttributes(attribute.Int("syncengine.ops", b.Ops), attribute.Int64("syncengine.bytes", b.Bytes), attribute.Int("syncengine.refused", b.Refused)))
	note(span, b.Err)
	span.End(trace.WithTimestamp(b.Start.Add(b.Took)))
}

// start begins the span of a call.
func (s *settings) start(ctx context.Context, call string, attrs ...attribute.KeyValue) (context.Context, trace.Span) {
	return s.tracer.Start(ctx, "syncengine."+call, trace.WithAttributes(attrs...))
}

func id(id string) attribute.KeyValue { return attribute.String("syncengine.id", id) }

func items(n int) attribute.KeyValue { return attribute.Int("syncengine.items", n) }

// end ends the span of a call.
func end(span trace.Span, err error) {
	note(span, err)
	span.End()
}

// note says how a call ended. What a caller has to expect is no failure of the span.
func note(span trace.Span, err error) {
	outcome, failed := outcomeOf(err)
	span.SetAttributes(attribute.String("syncengine.outcome", outcome))
	if failed {
		span.SetStatus(codes.Error, outcome)
	}
}

var outcomes = []struct {
	err    error
	name   string
	failed bool
}{
	{syncengine.ErrNotFound, "not_found", false},
	{syncengine.ErrExists, "exists", false},
	{syncengine.ErrConflict, "conflict", false},
	{syncengine.ErrNoChange, "no_change", false},
	{syncengine.ErrInvalidItem, "invalid", true},
	{syncengine.ErrStaleVersion, "stale", true},
	{syncengine.ErrBackpressure, "backpressure", true},
	{syncengine.ErrRefused, "refused", true},
	{syncengine.ErrCorruption, "corrupt", true},
	{syncengine.ErrUnknownOutcome, "unknown", true},
	{syncengine.ErrUnavailable, "unavailable", true},
	{syncengine.ErrClosed, "closed", true},
	{context.Canceled, "canceled", true},
	{context.DeadlineExceeded, "deadline", true},
}

func outcomeOf(err error) (name string, failed bool) {
	if err == nil {
		return "ok", false
	}
	for _, o := range outcomes {
		if errors.Is(err, o.err) {
			return o.name, o.failed
		}
	}
	return "error", true
}

// maxTraceState is what an item takes.
const maxTraceState = 512

// mark puts the trace context of ctx into an item, instead of that of the write before.
func mark(ctx context.Context, it *syncengine.Item) {
	carrier := propagation.MapCarrier{}
	w3c.Inject(ctx, carrier)
	if parent := carrier["traceparent"]; parent != "" {
		it.TraceParent, it.TraceState = parent, ""
		if state := carrier["tracestate"]; len(state) <= maxTraceState {
			it.TraceState = state
		}
	}
}

// linked links a read to the write that it has read.
func linked(span trace.Span, it *syncengine.Item) {
	if it == nil || !span.IsRecording() {
		return
	}
	if sc := contextOf(it.TraceParent, it.TraceState); sc.IsValid() {
		span.AddLink(trace.Link{SpanContext: sc})
	}
}

// Submit is syncengine.Engine.Submit. The item carries the trace context of the call.
func (e *Engine) Submit(ctx context.Context, item syncengine.Item, opts ...syncengine.WriteOption) error {
	ctx, span := e.start(ctx, "Submit", id(item.ID))
	mark(ctx, &item)
	err := e.Engine.Submit(ctx, item, opts...)
	end(span, err)
	return err
}

// Insert is syncengine.Engine.Insert. The item carries the trace context of the call.
func (e *Engine) Insert(ctx context.Context, item syncengine.Item, opts ...syncengine.WriteOption) error {
	ctx, span := e.start(ctx, "Insert", id(item.ID))
	mark(ctx, &item)
	err := e.Engine.Insert(ctx, item, opts...)
	end(span, err)
	return err
}

// SubmitMany is syncengine.Engine.SubmitMany. The items carry the trace context of the call.
func (e *Engine) SubmitMany(ctx context.Context, list []syncengine.Item, opts ...syncengine.WriteOption) (syncengine.BatchResult, error) {
	ctx, span := e.start(ctx, "SubmitMany", items(len(list)))
	marked := append([]syncengine.Item(nil), list...)
	for i := range marked {
		mark(ctx, &marked[i])
	}
	result, err := e.Engine.SubmitMany(ctx, marked, opts...)
	end(span, err)
	return result, err
}

// SubmitEach is syncengine.Engine.SubmitEach. The items carry the trace context of the call.
func (e *Engine) SubmitEach(ctx context.Context, list iter.Seq[syncengine.Item], tell syncengine.EachOptions, opts ...syncengine.WriteOption) (syncengine.EachResult, error) {
	if list == nil {
		return e.Engine.SubmitEach(ctx, nil, tell, opts...)
	}
	ctx, span := e.start(ctx, "SubmitEach")
	result, err := e.Engine.SubmitEach(ctx, func(yield func(syncengine.Item) bool) {
		for it := range list {
			mark(ctx, &it)
			if !yield(it) {
				return
			}
		}
	}, tell, opts...)
	span.SetAttributes(items(result.Total), attribute.Int("syncengine.failed", result.Failed))
	end(span, err)
	return result, err
}

// Update is syncengine.Engine.Update. What fn returns carries the trace context of the call. Each
// run of fn is an event of the span.
func (e *Engine) Update(ctx context.Context, key string, fn func(cur syncengine.Item, exists bool) (syncengine.Item, error), opts ...syncengine.WriteOption) (syncengine.Item, error) {
	if fn == nil {
		return e.Engine.Update(ctx, key, nil, opts...)
	}
	ctx, span := e.start(ctx, "Update", id(key))
	it, err := e.Engine.Update(ctx, key, func(cur syncengine.Item, exists bool) (syncengine.Item, error) {
		span.AddEvent("update function", trace.WithAttributes(attribute.Bool("syncengine.exists", exists)))
		next, err := fn(cur, exists)
		mark(ctx, &next)
		return next, err
	}, opts...)
	end(span, err)
	return it, err
}

// Merge is syncengine.Engine.Merge. A merge carries no trace context.
func (e *Engine) Merge(ctx context.Context, key, kind string, delta json.RawMessage, opts ...syncengine.WriteOption) (syncengine.Item, error) {
	ctx, span := e.start(ctx, "Merge", id(key), attribute.String("syncengine.kind", kind))
	it, err := e.Engine.Merge(ctx, key, kind, delta, opts...)
	end(span, err)
	return it, err
}

// Touch is syncengine.Engine.Touch.
func (e *Engine) Touch(ctx context.Context, key string, ttl time.Duration) error {
	ctx, span := e.start(ctx, "Touch", id(key))
	err := e.Engine.Touch(ctx, key, ttl)
	end(span, err)
	return err
}

// Delete is syncengine.Engine.Delete. A delete carries no trace context.
func (e *Engine) Delete(ctx context.Context, key string, opts ...syncengine.WriteOption) error {
	ctx, span := e.start(ctx, "Delete", id(key))
	err := e.Engine.Delete(ctx, key, opts...)
	end(span, err)
	return err
}

// DeleteMany is syncengine.Engine.DeleteMany.
func (e *Engine) DeleteMany(ctx context.Context, ids []string, opts ...syncengine.WriteOption) (syncengine.BatchResult, error) {
	ctx, span := e.start(ctx, "DeleteMany", items(len(ids)))
	result, err := e.Engine.DeleteMany(ctx, ids, opts...)
	end(span, err)
	return result, err
}

// DeletePrefix is syncengine.Engine.DeletePrefix.
func (e *Engine) DeletePrefix(ctx context.Context, prefix string, opts ...syncengine.WriteOption) (int, error) {
	ctx, span := e.start(ctx, "DeletePrefix", attribute.String("syncengine.prefix", prefix))
	n, err := e.Engine.DeletePrefix(ctx, prefix, opts...)
	span.SetAttributes(items(n))
	end(span, err)
	return n, err
}

// Get is syncengine.Engine.Get.
func (e *Engine) Get(ctx context.Context, key string) (syncengine.Item, error) {
	return e.read(ctx, "Get", key, e.Engine.Get)
}

// GetVerified is syncengine.Engine.GetVerified.
func (e *Engine) GetVerified(ctx context.Context, key string) (syncengine.Item, error) {
	return e.read(ctx, "GetVerified", key, e.Engine.GetVerified)
}

func (e *Engine) read(ctx context.Context, call, key string, get func(context.Context, string) (syncengine.Item, error)) (syncengine.Item, error) {
	if !e.reads {
		return get(ctx, key)
	}
	ctx, span := e.start(ctx, call, id(key))
	it, err := get(ctx, key)
	linked(span, &it)
	end(span, err)
	return it, err
}

// GetMany is syncengine.Engine.GetMany.
func (e *Engine) GetMany(ctx context.Context, ids []string) ([]*syncengine.Item, error) {
	if !e.reads {
		return e.Engine.GetMany(ctx, ids)
	}
	ctx, span := e.start(ctx, "GetMany", items(len(ids)))
	list, err := e.Engine.GetMany(ctx, ids)
	for _, it := range list {
		linked(span, it)
	}
	end(span, err)
	return list, err
}

// GetOrInsertWith is syncengine.Engine.GetOrInsertWith. The factory's context has the span, and
// what it makes carries the trace context of the call that ran it.
func (e *Engine) GetOrInsertWith(ctx context.Context, key string, factory func(context.Context) (syncengine.Item, error), opts ...syncengine.WriteOption) (syncengine.Item, error) {
	if factory == nil {
		return e.Engine.GetOrInsertWith(ctx, key, nil, opts...)
	}
	ctx, span := e.start(ctx, "GetOrInsertWith", id(key))
	it, err := e.Engine.GetOrInsertWith(ctx, key, func(ctx context.Context) (syncengine.Item, error) {
		made, err := factory(ctx)
		mark(ctx, &made)
		return made, err
	}, opts...)
	end(span, err)
	return it, err
}

// All is syncengine.Engine.All. The span lasts as long as the loop.
func (e *Engine) All(ctx context.Context, prefix string) iter.Seq2[syncengine.Item, error] {
	return e.list(ctx, "All", prefix, "")
}

// AllAfter is syncengine.Engine.AllAfter. The span lasts as long as the loop.
func (e *Engine) AllAfter(ctx context.Context, prefix, after string) iter.Seq2[syncengine.Item, error] {
	return e.list(ctx, "AllAfter", prefix, after)
}

func (e *Engine) list(ctx context.Context, call, prefix, after string) iter.Seq2[syncengine.Item, error] {
	if !e.reads {
		return e.Engine.AllAfter(ctx, prefix, after)
	}
	return func(yield func(syncengine.Item, error) bool) {
		ctx, span := e.start(ctx, call, attribute.String("syncengine.prefix", prefix))
		n := 0
		var last error
		defer func() {
			span.SetAttributes(items(n))
			end(span, last)
		}()
		for it, err := range e.Engine.AllAfter(ctx, prefix, after) {
			if err == nil {
				n++
			} else {
				last = err
			}
			if !yield(it, err) {
				return
			}
		}
	}
}

// Flush is syncengine.Engine.Flush.
func (e *Engine) Flush(ctx context.Context) error {
	ctx, span := e.start(ctx, "Flush")
	err := e.Engine.Flush(ctx)
	end(span, err)
	return err
}

// Verify is syncengine.Engine.Verify.
func (e *Engine) Verify(ctx context.Context, opts syncengine.VerifyOptions) (syncengine.VerifyReport, error) {
	ctx, span := e.start(ctx, "Verify", attribute.Bool("syncengine.deep", opts.Deep), attribute.Bool("syncengine.repair", opts.Repair))
	report, err := e.Engine.Verify(ctx, opts)
	span.SetAttributes(attribute.Int("syncengine.divergent", len(report.Divergent)), attribute.Int("syncengine.corrupt", len(report.Corrupt)))
	end(span, err)
	return report, err
}
