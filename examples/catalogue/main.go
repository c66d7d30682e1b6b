// Command catalogue is a product catalogue as a service would build it: typed documents, an import,
// counters, carts that expire, a listing, and a stream of what changes.
//
//	go run ./examples/catalogue -dir ./data
//	curl -X PUT --data '{"name": "Lamp", "cents": 4900}' http://127.0.0.1:8080/products/lamp
//	curl -N http://127.0.0.1:8080/changes
//
//	PUT    /products/{sku}         store a product
//	GET    /products/{sku}         the product, and how often it was looked at
//	DELETE /products/{sku}
//	GET    /products               all, as lines of JSON, in order of SKUs
//	POST   /import                 lines of {"sku": …, "product": {…}}; the reply counts them
//	PUT    /carts/{id}             store a cart, for half an hour
//	GET    /carts/{id}             the cart, for another half an hour
//	GET    /changes                server-sent events; a browser goes on where it was cut off
//
// catalogue.go is all there is to it; this file owns the process. For a service with limits, health
// and metrics see examples/httpservice.
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

	"github.com/syncengine-go/syncengine"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:8080", "address to listen on")
	dir := flag.String("dir", "data", "directory of the engine, made if missing")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *addr, syncengine.Config{Dir: *dir, SQLURL: os.Getenv("CATALOGUE_SQL"), RedisURL: os.Getenv("CATALOGUE_REDIS")}); err != nil {
		log.Fatal(err)
	}
}

// run serves until ctx ends.
func run(ctx context.Context, addr string, cfg syncengine.Config) error {
	engine, err := syncengine.Open(ctx, cfg)
	if err != nil {
		return err
	}
	server := &http.Server{Addr: addr, Handler: newCatalogue(ctx, engine)}
	done := make(chan error, 1) // ListenAndServe returns when Shutdown begins; the engine is in use until it has ended
	context.AfterFunc(ctx, func() { done <- server.Shutdown(context.Background()) })
	if err = server.ListenAndServe(); errors.Is(err, http.ErrServerClosed) {
		err = <-done
	}
	return errors.Join(err, engine.Close())
}
