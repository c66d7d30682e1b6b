// Command byhand is examples/catalogue without the engine: the same routes with the same answers,
// on database/sql and go-redis, for several replicas on one MariaDB and one Redis. It is there to
// be counted beside the example (make lines), and written to be deployed:
//
//   - reads come from Redis, or from MariaDB, which is asked once for a key however many wait;
//   - a write puts its copy into Redis, where an older one never replaces it;
//   - an import shares transactions, and tells of each line that is not in order;
//   - what expires does so by MariaDB's clock;
//   - changes are numbered in the order of their commits, so that a stream can go on from a number.
//
// What the library does and this does not:
//
//   - It accepts nothing while MariaDB is away, or its disk is full: there is no log of its own, no
//     queue with a bound, and no levels at which less and less is served.
//   - Nothing is kept in the memory of the process, so that each read costs a round trip; each read
//     of an id that never was costs one to MariaDB: no filter knows, and nothing remembers.
//   - Without breakers, a server that hangs costs each request its timeout.
//   - What Redis was not told, since it was away or the process died after the commit, is served as
//     it was until its copy expires, ten minutes at most. Nothing compares Redis with MariaDB.
//   - No content has a hash: bytes that rot are served or fail to decode. No read is verified, no
//     copy healed.
//   - A COMMIT whose reply was lost is an error, whether or not it took place.
//   - One transaction at a time writes to the log of changes, since it locks its head until the
//     commit. Streams ask each half a second, and are told by nobody that there is something.
//   - No metrics, no health, no explanation of a read, no command for an operator.
//
// It takes a DSN of go-sql-driver and a URL of go-redis:
//
//	export CATALOGUE_SQL='user:password@tcp(127.0.0.1:3306)/shop' CATALOGUE_REDIS=redis://127.0.0.1
//	go run ./byhand
package main

import (
	"context"
	"errors"
	"flag"
	"log"
	"net/http"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:8080", "address to listen on")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *addr, os.Getenv("CATALOGUE_SQL"), os.Getenv("CATALOGUE_REDIS")); err != nil {
		log.Fatal(err)
	}
}

// run serves until ctx ends.
func run(ctx context.Context, addr, dsn, redisURL string) error {
	s, err := openStorage(ctx, dsn, redisURL)
	if err != nil {
		return err
	}
	go s.purge(ctx)
	server := &http.Server{Addr: addr, Handler: newCatalogue(ctx, s)}
	done := make(chan error, 1) // ListenAndServe returns when Shutdown begins; the storage is in use until it has ended
	context.AfterFunc(ctx, func() { done <- server.Shutdown(context.Background()) })
	if err = server.ListenAndServe(); errors.Is(err, http.ErrServerClosed) {
		err = <-done
	}
	return errors.Join(err, s.close())
}
