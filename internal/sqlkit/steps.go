package sqlkit

import (
	"context"
	"errors"
	"time"
)

// Setting up a database takes some seventy statements, and to make its tables a hundred more: on a
// server that is far away, or has much to do, a bound that is meant for one would cut it off each
// time, before it gets anywhere. So each step of it has a bound, and the whole has none.

// ErrSlowStep is why a context of InSteps has ended, if a step took too long.
var ErrSlowStep = errors.New("the server did not answer in time")

// steps is the bound of InSteps.
type steps struct {
	within context.Context
	each   time.Duration
	timer  *time.Timer
}

type stepsKey struct{}

// InSteps returns a context that ends when a step of what is done under it takes longer than each,
// with ErrSlowStep as its cause. Those who do it say when a step begins (Step). The first one
// begins now.
func InSteps(ctx context.Context, each time.Duration) (context.Context, context.CancelFunc) {
	under, cancel := context.WithCancelCause(ctx)
	s := &steps{within: ctx, each: each, timer: time.AfterFunc(each, func() { cancel(ErrSlowStep) })}
	return context.WithValue(under, stepsKey{}, s), func() {
		s.timer.Stop()
		cancel(nil)
	}
}

// Step begins a step, if ctx is under InSteps.
func Step(ctx context.Context) {
	if s, ok := ctx.Value(stepsKey{}).(*steps); ok {
		s.timer.Reset(s.each)
	}
}

// longStep begins one that takes as long as it takes, as a statement that writes all rows of a
// table. Where the server is gone, the connection fails.
func longStep(ctx context.Context) {
	if s, ok := ctx.Value(stepsKey{}).(*steps); ok {
		s.timer.Stop()
	}
}

// afterSteps returns a context for what is to be done when a step took too long, but not if nobody
// wants anything any more.
func afterSteps(ctx context.Context, timeout time.Duration) (context.Context, context.CancelFunc) {
	if s, ok := ctx.Value(stepsKey{}).(*steps); ok {
		return context.WithTimeout(s.within, timeout)
	}
	return context.WithTimeout(context.WithoutCancel(ctx), timeout)
}
