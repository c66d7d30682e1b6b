package sqlkit

import "context"

// await calls fn, which waits for something that knows no context, and reports whether it has ended
// before ctx has. Else fn goes on in the background, and nobody awaits it: it waits for what is the
// caller's, a server's reply or other users of the caller's pool, and ends with that.
func await(ctx context.Context, fn func()) bool {
	done := make(chan struct{})
	go func() {
		defer close(done)
		fn()
	}()
	select {
	case <-done:
		return true
	case <-ctx.Done():
		return false
	}
}
