package main

// output.go writes, and waits for files no longer than a command may take.

import (
	"bytes"
	"context"
	"fmt"
	"io"
)

// output writes to standard output, or a file, and keeps the first error: what was printed without
// a look at it has failed all the same.
type output struct {
	w     io.Writer
	ctx   context.Context // that of writing; nil: no bound
	lines int             // that were written, whole
	err   error
}

// writeError is an error of an output.
type writeError struct{ error }

func (e *writeError) Unwrap() error { return e.error }

func (o *output) Write(b []byte) (n int, err error) {
	if o.err != nil {
		return 0, o.err
	}
	if o.ctx == nil {
		n, err = o.w.Write(b)
	} else if n, err = within(o.ctx, func() (int, error) { return o.w.Write(b) }); o.ctx.Err() != nil && err != nil {
		err = fmt.Errorf("nobody reads what is written: %w", err)
	}
	if o.lines += bytes.Count(b[:n], []byte("\n")); err != nil {
		o.err = &writeError{err}
	}
	return n, o.err
}

// input reads within a context.
type input struct {
	ctx context.Context
	r   io.Reader
	buf []byte // not that of the caller: a read that is left goes on
}

func (i *input) Read(b []byte) (int, error) {
	if i.buf == nil {
		i.buf = make([]byte, 1<<16)
	}
	part := i.buf[:min(len(b), len(i.buf))]
	n, err := within(i.ctx, func() (int, error) { return i.r.Read(part) })
	return copy(b, part[:n]), err
}

// within calls fn, which knows no context, and leaves it when ctx ends: then it goes on until the
// process ends.
func within[T any](ctx context.Context, fn func() (T, error)) (v T, err error) {
	type result struct {
		v   T
		err error
	}
	if ctx.Err() != nil {
		return v, ctx.Err()
	}
	done := make(chan result, 1)
	go func() {
		v, err := fn()
		done <- result{v, err}
	}()
	select {
	case r := <-done:
		return r.v, r.err
	case <-ctx.Done():
		return v, ctx.Err()
	}
}
