package syncengine_test

import (
	"context"
	"errors"
	"testing"

	"github.com/syncengine-go/syncengine"
	"github.com/syncengine-go/syncengine/internal/lab"
)

func TestADoorThatClosesAwaitsWhoIsIn(t *testing.T) {
	d := syncengine.NewDoor()
	lab.Must(t, d.Enter())
	if first, busy := d.Close(); !first || !busy || !d.Closed() {
		t.Errorf("Close: %v, %v", first, busy)
	}
	if first, _ := d.Close(); first {
		t.Error("the second Close is the first")
	}
	if err := d.Enter(); err != syncengine.ErrClosed {
		t.Errorf("Enter: %v", err)
	}
	ctx, end := context.WithCancel(context.Background())
	end()
	left := make(chan struct{})
	d.Stay(func() { <-left }) // what a call leaves behind counts as well
	d.Leave()
	cut, done := d.Cut(context.Background())
	defer done()
	awaited := make(chan error, 1)
	d.SpawnLast(func() { awaited <- d.AwaitCalls(ctx, true) })
	<-cut.Done() // ctx has ended: calls under way are cut off,
	<-d.Context().Done()
	select {
	case err := <-awaited:
		t.Errorf("it did not wait: %v", err)
	default: // and awaited all the same
	}
	close(left)
	if err := <-awaited; !errors.Is(err, context.Canceled) {
		t.Errorf("AwaitCalls: %v", err)
	}
	d.AwaitLoops()
}

func TestACallThatIsCutOffSaysSo(t *testing.T) {
	gone, leave := context.WithCancel(context.Background())
	leave()
	other := errors.New("another error")
	for _, c := range []struct {
		name          string
		ctx           context.Context
		closed        bool
		err, want     error
		unknown, same bool
	}{
		{name: "no error", ctx: context.Background(), closed: true},
		{name: "another", ctx: context.Background(), closed: true, err: other, want: other, same: true},
		{name: "cut off", ctx: context.Background(), closed: true, err: context.Canceled, want: syncengine.ErrClosed},
		{name: "unavailable", ctx: context.Background(), closed: true, err: syncengine.ErrUnavailable, want: syncengine.ErrClosed},
		{name: "unknown", ctx: context.Background(), closed: true, err: syncengine.ErrUnknownOutcome, want: syncengine.ErrClosed, unknown: true},
		{name: "open", ctx: context.Background(), err: context.Canceled, want: context.Canceled, same: true},
		{name: "the caller left", ctx: gone, closed: true, err: context.Canceled, want: context.Canceled, same: true},
	} {
		d := syncengine.NewDoor()
		lab.Must(t, d.Enter())
		if c.closed {
			d.AwaitLoops() // background work is stopped
		}
		err := c.err
		if d.Exit(c.ctx, &err); !errors.Is(err, c.want) || errors.Is(err, syncengine.ErrUnknownOutcome) != c.unknown || c.same && err != c.err {
			t.Errorf("%s: %v becomes %v", c.name, c.err, err)
		}
	}
}
