package rediskit

import (
	"errors"
	"fmt"
	"strings"

	"github.com/redis/go-redis/v9"
)

var (
	// ErrAbsent says that the server answered and holds no such key.
	ErrAbsent = errors.New("redis: no such key")
	// ErrWrongType says that the key holds something that is not a string.
	ErrWrongType = errors.New("redis: key holds another type")
	// ErrBadValue says that a Value was not sent, because its bytes carry no
	// rank or its TTL is negative.
	ErrBadValue = errors.New("redis: value without a rank, or with a negative TTL")
)

var (
	errReply    = errors.New("redis: reply of an unexpected shape")
	errProtocol = errors.New("redis: reply that is not well-formed")
)

// serverError is an error reply whose text is safe to print.
type serverError string

func (e serverError) Error() string { return string(e) }
func (serverError) RedisError()     {}

var _ redis.Error = serverError("")

// wrap names the operation and takes out of err what must not be printed.
func wrap(op string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("redis %s: %w", op, clean(err))
}

// clean cuts the chain where a text quotes arguments or replies. A server that
// does not know AUTH or HELLO answers with the arguments, which are the
// password; a parse error of go-redis quotes up to 100 bytes of a value.
func clean(err error) error {
	text := err.Error()
	if head, _, found := strings.Cut(text, "with args beginning"); found {
		head = strings.TrimRight(head, " ,")
		if i := strings.Index(head, "ERR "); i >= 0 {
			head = head[i:]
		}
		return serverError(head)
	}
	if r, _ := judge(err); r == "protocol" {
		return errProtocol
	}
	return err
}
