package rediskit

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"syscall"

	"github.com/redis/go-redis/v9"
)

// Class tells what an error of this package means to its caller.
type Class uint8

const (
	// Answered: the server did what it was asked, or said what it holds (nil,
	// ErrAbsent, ErrWrongType).
	Answered Class = iota
	// Other: misuse, or an error reply that says nothing about the server's
	// health.
	Other
	// CallerGone: the caller's context was cancelled.
	CallerGone
	// Outage: the server can't be reached, can't serve, or lets nobody in. The
	// only class a circuit breaker counts. A deadline is an outage: whether it
	// was the caller's own is known to who derived the context.
	Outage
)

func (c Class) String() string {
	switch c {
	case Answered:
		return "answered"
	case CallerGone:
		return "caller gone"
	case Outage:
		return "outage"
	}
	return "other"
}

// Classify is the only place that looks at errors of go-redis. Of joined errors
// the gravest counts: Outage, then CallerGone, then Other.
func Classify(err error) Class {
	_, class := judge(err)
	return class
}

// Reason names an error in one word out of a fixed set, fit for a metric label:
// absent asking badvalue busy canceled client clusterdown crossslot db denied
// dns eof loading masterdown maxclients misconf moved network noauth nocluster
// noperm noreplicas noscript oom other pool protocol readonly refused reset
// sentinel closed server timeout tls tryagain unreachable unsupported wrongpass
// wrongtype, and "" for nil.
func Reason(err error) string {
	reason, _ := judge(err)
	return reason
}

// judge walks down the chain to the first error it knows.
func judge(err error) (string, Class) {
	for err != nil {
		if reason, class, known := judgeOne(err); known {
			return reason, class
		}
		switch e := err.(type) {
		case interface{ Unwrap() []error }:
			return judgeAll(e.Unwrap())
		case interface{ Unwrap() error }:
			err = e.Unwrap()
		default:
			if strings.HasPrefix(err.Error(), "redis: ") {
				return "client", Outage // go-redis gave up on its connections
			}
			return "other", Other
		}
	}
	return "", Answered
}

func judgeAll(errs []error) (string, Class) {
	reason, class := "", Answered
	for _, err := range errs {
		if r, c := judge(err); c > class || reason == "" {
			reason, class = r, c
		}
	}
	return reason, class
}

// judgeOne knows err itself, not what it wraps.
func judgeOne(err error) (reason string, class Class, known bool) {
	switch err {
	case ErrAbsent, redis.Nil:
		return "absent", Answered, true
	case ErrWrongType:
		return "wrongtype", Answered, true
	case ErrBadValue:
		return "badvalue", Other, true
	case errProtocol, errReply:
		return "protocol", Outage, true
	case context.Canceled:
		return "canceled", CallerGone, true
	case context.DeadlineExceeded, os.ErrDeadlineExceeded:
		return "timeout", Outage, true
	case redis.ErrClosed:
		return "closed", Other, true
	case redis.ErrPoolTimeout, redis.ErrPoolExhausted:
		return "pool", Outage, true
	case io.EOF, io.ErrUnexpectedEOF:
		return "eof", Outage, true
	}
	switch e := err.(type) {
	case redis.Error:
		reason, class = judgeReply(e.Error())
		return reason, class, true
	case *net.OpError:
		return judgeNet(e), networkClass(e), true
	case *net.DNSError:
		return "dns", Outage, true
	case syscall.Errno:
		return judgeErrno(e), Outage, true
	case tls.RecordHeaderError, *tls.CertificateVerificationError, tls.AlertError,
		x509.UnknownAuthorityError, x509.HostnameError, x509.CertificateInvalidError:
		return "tls", Outage, true
	case net.Error:
		if e.Timeout() {
			return "timeout", Outage, true
		}
	}
	return judgeText(err)
}

// judgeText knows the errors go-redis makes with errors.New and keeps to itself.
func judgeText(err error) (reason string, class Class, known bool) {
	text := err.Error()
	switch {
	case strings.HasPrefix(text, "redis: all sentinels specified"):
		// It may wrap redis.Nil (a sentinel that does not know the master): this
		// is not an absent key.
		switch {
		case errors.Is(err, context.Canceled):
			return "canceled", CallerGone, true
		case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
			return "timeout", Outage, true
		}
		return "sentinel", Outage, true
	case strings.HasPrefix(text, "redis: cluster has no nodes"):
		return "clusterdown", Outage, true
	case strings.HasPrefix(text, "redis: can't parse"), strings.HasPrefix(text, "redis: invalid"),
		strings.HasPrefix(text, "redis: got "), strings.HasPrefix(text, "redis: connection unusable"),
		strings.HasPrefix(text, "redis: can't peek"), text == "unexpected read from socket":
		return "protocol", Outage, true
	}
	return "", 0, false
}

func networkClass(err *net.OpError) Class {
	if errors.Is(err, context.Canceled) {
		return CallerGone
	}
	return Outage
}

func judgeNet(err *net.OpError) string {
	var (
		dns   *net.DNSError
		errno syscall.Errno
		alert tls.AlertError
	)
	switch {
	case errors.Is(err, context.Canceled):
		return "canceled"
	case errors.As(err, &dns):
		return "dns"
	case err.Timeout():
		return "timeout"
	case errors.As(err, &alert), err.Op == "remote error":
		return "tls"
	case errors.As(err, &errno):
		return judgeErrno(errno)
	}
	return "network"
}

func judgeErrno(errno syscall.Errno) string {
	switch errno {
	case syscall.ECONNREFUSED:
		return "refused"
	case syscall.ECONNRESET, syscall.EPIPE, syscall.ECONNABORTED:
		return "reset"
	case syscall.EHOSTUNREACH, syscall.ENETUNREACH:
		return "unreachable"
	case syscall.ETIMEDOUT:
		return "timeout"
	}
	return "network"
}

// replyCodes are the first words of error replies.
var replyCodes = map[string]struct {
	reason string
	class  Class
}{
	"WRONGTYPE":   {"wrongtype", Answered},
	"LOADING":     {"loading", Outage},
	"MASTERDOWN":  {"masterdown", Outage},
	"CLUSTERDOWN": {"clusterdown", Outage},
	"TRYAGAIN":    {"tryagain", Outage},
	"READONLY":    {"readonly", Outage},
	"OOM":         {"oom", Outage},
	"MISCONF":     {"misconf", Outage},
	"NOAUTH":      {"noauth", Outage},
	"WRONGPASS":   {"wrongpass", Outage},
	"NOPERM":      {"noperm", Outage},
	"BUSY":        {"busy", Outage},
	"NOREPLICAS":  {"noreplicas", Outage},
	"DENIED":      {"denied", Outage},
	"MOVED":       {"moved", Outage}, // left over after the client followed all it may
	"ASK":         {"asking", Outage},
	"CROSSSLOT":   {"crossslot", Other},
	"NOSCRIPT":    {"noscript", Other},
}

// replyPhrases are replies without a code of their own.
var replyPhrases = []struct {
	phrase, reason string
	class          Class
}{
	{"max number of clients reached", "maxclients", Outage},
	{"-READONLY ", "readonly", Outage}, // raised inside a script by old servers
	{"-OOM ", "oom", Outage},
	{"invalid password", "wrongpass", Outage},
	{"unauthenticated", "noauth", Outage},
	{"without any password configured", "wrongpass", Outage},
	{"The user executing the script can't", "noperm", Outage},
	{"ACL failure in script", "noperm", Outage}, // Valkey, and Redis above 7.0
	{"DB index is out of range", "db", Outage},
	{"SELECT is not allowed in cluster mode", "db", Outage},
	{"cluster support disabled", "nocluster", Outage},
	{"while the cluster is down", "clusterdown", Outage}, // inside a script
	{"unknown command", "unsupported", Other},
}

func judgeReply(text string) (string, Class) {
	code, _, _ := strings.Cut(strings.TrimPrefix(text, "ERR "), " ")
	if known, ok := replyCodes[code]; ok {
		return known.reason, known.class
	}
	for _, p := range replyPhrases {
		if strings.Contains(text, p.phrase) {
			return p.reason, p.class
		}
	}
	return "server", Other
}

// Forbidden reports whether an account has no right to a command.
func Forbidden(err error) bool { return err != nil && Reason(err) == "noperm" }

// NotLetIn reports whether a server asks for another user or password.
func NotLetIn(err error) bool {
	return err != nil && (Reason(err) == "noauth" || Reason(err) == "wrongpass")
}
