package main

// errors.go is the only place that knows which HTTP status an error of the engine means.

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/syncengine-go/syncengine"
)

// badRequest is a request that never reaches the engine.
type badRequest struct{ text string }

func (e *badRequest) Error() string { return e.text }

// statusClientGone answers a client that has left already; only logs see it.
const statusClientGone = 499

// answerTo returns the status for an error and when a retry makes sense (0: not by waiting).
// The order matters where an error is several things at once: a commit that was under way
// when the deadline passed is a timeout first.
func answerTo(err error) (status int, retryAfter time.Duration) {
	var (
		bad      *badRequest
		tooLong  *http.MaxBytesError
		invalid  *syncengine.InvalidItemError
		pressure *syncengine.BackpressureError
	)
	switch {
	case errors.As(err, &bad):
		return http.StatusBadRequest, 0
	case errors.As(err, &tooLong):
		return http.StatusRequestEntityTooLarge, 0
	case errors.As(err, &invalid) && invalid.TooLarge:
		return http.StatusRequestEntityTooLarge, 0
	case errors.Is(err, syncengine.ErrInvalidItem), errors.Is(err, syncengine.ErrRefused):
		return http.StatusUnprocessableEntity, 0
	case errors.Is(err, syncengine.ErrNotFound):
		return http.StatusNotFound, 0
	case errors.Is(err, syncengine.ErrConflict), errors.Is(err, errPrecondition):
		return http.StatusPreconditionFailed, 0
	case errors.Is(err, syncengine.ErrUnknownOutcome): // it may have been stored
		return http.StatusGatewayTimeout, 0
	case errors.Is(err, syncengine.ErrStaleVersion), errors.Is(err, syncengine.ErrKindMismatch):
		return http.StatusConflict, 0
	case errors.As(err, &pressure):
		if status = pressure.Level.HTTPStatus(); status == 0 { // refused all the same
			status = http.StatusServiceUnavailable
		}
		return status, max(pressure.RetryAfter, time.Second)
	case errors.Is(err, syncengine.ErrUnavailable): // a server that hangs is a deadline that was exceeded, too
		return http.StatusServiceUnavailable, time.Second
	case errors.Is(err, context.DeadlineExceeded):
		return http.StatusGatewayTimeout, 0
	case errors.Is(err, context.Canceled):
		return statusClientGone, 0
	case errors.Is(err, syncengine.ErrClosed):
		return http.StatusServiceUnavailable, 0
	}
	return http.StatusInternalServerError, 0 // ErrCorruption, and what nobody foresaw
}

// fail answers with an error. What a client did wrong it is told in the engine's words,
// which never hold content; what went wrong behind us is logged, and the client told no
// more than the status says.
func (s *service) fail(w http.ResponseWriter, r *http.Request, err error) {
	status, retryAfter := answerTo(err)
	text := err.Error()
	if status >= http.StatusInternalServerError {
		s.log.Warn("request failed", "method", r.Method, "status", status, "error", err)
		text = http.StatusText(status)
	}
	if retryAfter > 0 {
		seconds := (retryAfter + time.Second - 1) / time.Second // rounded up
		w.Header().Set("Retry-After", strconv.FormatInt(int64(seconds), 10))
	}
	writeJSON(w, status, map[string]string{"error": text})
}
