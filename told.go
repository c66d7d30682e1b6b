package syncengine

// told.go tells the user of batches, if Events.Flushed is set. No state.

import (
	"slices"
	"time"
)

// mostTraces is how many links a span has by default in OpenTelemetry.
const mostTraces = 128

// tell tells of a batch before the queue lets go of it. start is zero when nobody wants to know.
func (f *flusher) tell(b *batch, a *outcome, start time.Time, err error) {
	if start.IsZero() {
		return
	}
	t := FlushedBatch{Start: start, Took: time.Since(start), Ops: b.ops, Bytes: b.bytes, Refused: len(a.refused), Err: err}
	for i := range b.units {
		for _, e := range b.units[i].Ops() {
			if e.meta != nil && e.meta.traceParent != "" && len(t.TraceParents) < mostTraces && !slices.Contains(t.TraceParents, e.meta.traceParent) {
				t.TraceParents = append(t.TraceParents, e.meta.traceParent)
			}
		}
	}
	f.news.Flushed(t)
}
