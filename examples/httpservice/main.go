// Command httpservice is a small REST service around a syncengine: JSON documents by id,
// kept byte for byte.
//
//	go run ./examples/httpservice -dir ./data
//	curl -X PUT --data '{"n": 1}' http://127.0.0.1:8080/items/my%2Fid
//	curl -i http://127.0.0.1:8080/items/my%2Fid
//
//	PUT    /items/{id}          store the body; ?version=N numbers the write yourself;
//	                            If-Match or If-None-Match: * make it conditional, else 412
//	GET    /items/{id}          the stored bytes; ETag is the content hash; If-None-Match: 304
//	DELETE /items/{id}          idempotent: 204 whether it existed or not; If-Match, else 412
//	GET    /items?id=a&id=b     several at once, aligned with the ids, null where not found
//	GET    /healthz             the process is alive
//	GET    /readyz              the engine serves reads and writes; tells about Redis and SQL
//	GET    /metrics             Prometheus
//	GET    /debug/sync/         a page about the engine, which shows no documents and changes nothing
//
// An id may hold any character but control characters; slashes in it are best written %2F.
// The service has no authentication: it listens on loopback unless told otherwise.
//
// main.go owns the process: flags, signals, the order of shutdown. service.go owns the
// routes, errors.go the mapping of the engine's errors to HTTP.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/syncengine-go/syncengine"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	err := run(ctx, os.Args[1:], os.Stderr)
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "httpservice:", err)
		os.Exit(1)
	}
}

// options are the command line. What it leaves out is taken from the environment, where
// URLs with passwords are better kept: command lines are visible to other users.
type options struct {
	addr, dir, redis, sql string
	requestTimeout        time.Duration
	drainTimeout          time.Duration
}

func parse(args []string, stderr io.Writer) (options, error) {
	var o options
	fs := flag.NewFlagSet("httpservice", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.StringVar(&o.addr, "addr", "", "address to listen on (default $SYNCENGINE_ADDR or 127.0.0.1:8080)")
	fs.StringVar(&o.dir, "dir", "", "directory of the engine, required, made if missing (default $SYNCENGINE_DIR)")
	fs.StringVar(&o.redis, "redis", "", "`URL` of Redis (default $SYNCENGINE_REDIS or no Redis)")
	fs.StringVar(&o.sql, "sql", "", "`URL` of the SQL database (default $SYNCENGINE_SQL or SQLite in the directory)")
	fs.DurationVar(&o.requestTimeout, "request-timeout", 10*time.Second, "bound on the work of one request")
	fs.DurationVar(&o.drainTimeout, "drain-timeout", 10*time.Second, "how long requests under way may take at shutdown")
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	for env, value := range map[string]*string{
		"SYNCENGINE_ADDR": &o.addr, "SYNCENGINE_DIR": &o.dir, "SYNCENGINE_REDIS": &o.redis, "SYNCENGINE_SQL": &o.sql,
	} {
		if *value == "" {
			*value = os.Getenv(env)
		}
	}
	if o.addr == "" {
		o.addr = "127.0.0.1:8080"
	}
	switch {
	case fs.NArg() > 0:
		return o, fmt.Errorf("unexpected argument %q", fs.Arg(0))
	case o.dir == "":
		return o, errors.New("-dir or SYNCENGINE_DIR is required")
	}
	return o, nil
}

// run serves until ctx ends, and returns when everything that was acknowledged is safe.
func run(ctx context.Context, args []string, stderr io.Writer) error {
	o, err := parse(args, stderr)
	if err != nil {
		return err
	}
	log := slog.New(slog.NewJSONHandler(stderr, nil))
	if err := os.MkdirAll(o.dir, 0o700); err != nil {
		return err
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	engine, err := syncengine.Open(ctx, syncengine.Config{
		Dir: o.dir, RedisURL: o.redis, SQLURL: o.sql, MaxItemBytes: maxItemBytes, Logger: log, Registerer: registry,
	})
	if err != nil {
		return err
	}
	s := &service{engine: engine, log: log, maxBody: maxItemBytes, timeout: o.requestTimeout}
	// The engine is closed last: until the last request has been answered it is in use.
	return errors.Join(serve(ctx, o, s.routes(registry), log), closeEngine(engine, log))
}

// maxItemBytes bounds a document; the engine's own default would be 16 MiB.
const maxItemBytes = 4 << 20

// serve answers requests until ctx ends, then lets those under way finish.
func serve(ctx context.Context, o options, h http.Handler, log *slog.Logger) error {
	server := &http.Server{
		Handler: h,
		// A client that is slow must not hold a connection for ever.
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      o.requestTimeout + 30*time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	listener, err := net.Listen("tcp", o.addr)
	if err != nil {
		return err
	}
	log.Info("listening", "addr", listener.Addr().String())
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	log.Info("shutting down")
	drain, cancel := context.WithTimeout(context.Background(), o.drainTimeout)
	defer cancel()
	if err := server.Shutdown(drain); err != nil {
		log.Warn("requests did not end in time, cutting them off", "error", err)
		return server.Close()
	}
	return nil
}

// closeEngine closes the engine. Ops that could not be flushed are in the WAL; the next
// start flushes them, so that is worth a warning and no failure.
func closeEngine(engine *syncengine.Engine, log *slog.Logger) error {
	err := engine.Close()
	var pending *syncengine.PendingError
	if errors.As(err, &pending) {
		log.Warn("closed with ops left in the WAL for the next start", "ops", pending.Ops, "error", err)
		return nil
	}
	return err
}
