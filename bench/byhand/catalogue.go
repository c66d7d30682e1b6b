package main

// catalogue.go answers requests; what it asks of SQL and Redis is in storage.go.

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/go-sql-driver/mysql"
)

// Product is a document of the catalogue.
type Product struct {
	Name  string `json:"name"`
	Cents int    `json:"cents"`
}

// Cart maps SKUs to pieces.
type Cart map[string]int

const cartFor = 30 * time.Minute

type catalogue struct {
	*storage
	ends context.Context // when streams end
}

func newCatalogue(ends context.Context, s *storage) http.Handler {
	c := &catalogue{storage: s, ends: ends}
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /products/{key}", c.handle(keyed(c.putProduct)))
	mux.HandleFunc("GET /products/{key}", c.handle(keyed(c.getProduct)))
	mux.HandleFunc("DELETE /products/{key}", c.handle(keyed(c.deleteProduct)))
	mux.HandleFunc("GET /products", c.list)
	mux.HandleFunc("POST /import", c.handle(c.importLines))
	mux.HandleFunc("PUT /carts/{key}", c.handle(keyed(c.putCart)))
	mux.HandleFunc("GET /carts/{key}", c.handle(keyed(c.getCart)))
	mux.HandleFunc("GET /changes", c.changes)
	return mux
}

// handle answers with what fn returns, or its error.
func (c *catalogue) handle(fn func(r *http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		v, err := fn(r)
		if err != nil {
			http.Error(w, err.Error(), statusOf(err))
			return
		}
		_ = json.NewEncoder(w).Encode(v) // the client has left, or it works
	}
}

// keyed gives fn the key of the path.
func keyed(fn func(r *http.Request, key string) (any, error)) func(r *http.Request) (any, error) {
	return func(r *http.Request) (any, error) {
		key := r.PathValue("key")
		if err := checkKey(key); err != nil {
			return nil, err
		}
		return fn(r, key)
	}
}

var (
	errNotFound = errors.New("not found")
	errBadKey   = errors.New("a key is 1 to 500 bytes of UTF-8 without control characters")
	errBadBody  = errors.New("the body can't be read")
)

func statusOf(err error) int {
	switch {
	case errors.Is(err, errNotFound):
		return http.StatusNotFound
	case errors.Is(err, errBadKey), errors.Is(err, errBadBody):
		return http.StatusBadRequest
	case away(err):
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

// away reports whether SQL did not answer.
func away(err error) bool {
	var broken net.Error // a timeout is one, too
	return errors.As(err, &broken) || errors.Is(err, mysql.ErrInvalidConn)
}

// unlessAway forgives what could not be done while SQL is away, for what a page can do without.
func unlessAway(err error) error {
	if away(err) {
		slog.Warn("done without", "err", err)
		return nil
	}
	return err
}

func body[T any](r *http.Request) (v T, err error) {
	if err = json.NewDecoder(http.MaxBytesReader(nil, r.Body, 1<<20)).Decode(&v); err != nil {
		err = fmt.Errorf("%w: %w", errBadBody, err)
	}
	return v, err
}

func checkKey(key string) error {
	if key == "" || len(key) > 500 || !utf8.ValidString(key) || strings.ContainsFunc(key, unicode.IsControl) {
		return errBadKey
	}
	return nil
}

func (c *catalogue) putProduct(r *http.Request, sku string) (any, error) {
	p, err := body[Product](r)
	if err != nil {
		return nil, err
	}
	d, err := newDocument(sku, p)
	if err != nil {
		return nil, err
	}
	return p, c.storeProducts(r.Context(), []document{d})
}

func (c *catalogue) deleteProduct(r *http.Request, sku string) (any, error) {
	return nil, c.dropProduct(r.Context(), sku)
}

// getProduct counts each look, and does without the counter while SQL is away.
func (c *catalogue) getProduct(r *http.Request, sku string) (any, error) {
	p, err := cached[Product](r.Context(), c.storage, "product.", sku, selectProduct)
	if err != nil {
		return nil, err
	}
	views, err := c.countView(r.Context(), sku)
	err = unlessAway(err)
	return struct {
		Product
		Views int `json:"views"`
	}{p, views}, err
}

// list streams in bounded memory, however many there are.
func (c *catalogue) list(w http.ResponseWriter, r *http.Request) {
	out := json.NewEncoder(w)
	for after, more := "", true; more; {
		page, err := c.productsAfter(r.Context(), after)
		for _, d := range page {
			var p Product
			if err == nil {
				err = json.Unmarshal(d.doc, &p)
			}
			if err == nil {
				err = out.Encode(map[string]any{"sku": d.id, "product": p})
			}
			after = d.id
		}
		if err != nil {
			panic(http.ErrAbortHandler) // so that the client does not take it for the end
		}
		more = len(page) == pageRows
	}
}

// importLines stores what is in order, and tells what is not.
func (c *catalogue) importLines(r *http.Request) (any, error) {
	const batchRows, batchBytes = 500, 1 << 20
	bad, stored := []string{}, 0
	refuse := func(line int, err error) { bad = append(bad, fmt.Sprintf("line %d: %v", line, err)) }
	var batch []document
	size := 0
	flush := func() error {
		n, err := c.storeEach(r.Context(), batch, refuse)
		stored += n
		batch, size = batch[:0], 0
		return err
	}
	lines := bufio.NewScanner(r.Body)
	for n := 1; lines.Scan(); n++ {
		d, err := parseLine(lines.Bytes())
		if err != nil {
			refuse(n, err)
			continue
		}
		d.line = n
		batch, size = append(batch, d), size+len(d.doc)
		if len(batch) == batchRows || size >= batchBytes {
			if err := flush(); err != nil {
				return nil, err
			}
		}
	}
	if err := errors.Join(flush(), lines.Err()); err != nil {
		return nil, err
	}
	return map[string]any{"stored": stored, "bad": bad}, nil
}

func parseLine(b []byte) (document, error) {
	var line struct {
		SKU     string
		Product Product
	}
	if err := json.Unmarshal(b, &line); err != nil {
		return document{}, err
	}
	if line.SKU == "" {
		return document{}, errors.New("no sku")
	}
	if err := checkKey(line.SKU); err != nil {
		return document{}, err
	}
	return newDocument(line.SKU, line.Product)
}

func (c *catalogue) putCart(r *http.Request, id string) (any, error) {
	cart, err := body[Cart](r)
	if err != nil {
		return nil, err
	}
	d, err := newDocument(id, cart)
	if err != nil {
		return nil, err
	}
	return cart, c.storeCart(r.Context(), d, cartFor)
}

func (c *catalogue) getCart(r *http.Request, id string) (any, error) {
	cart, err := cached[Cart](r.Context(), c.storage, "cart.", id, selectCart)
	if err != nil {
		return nil, err
	}
	return cart, unlessAway(c.touchCart(r.Context(), id, cartFor))
}

// changes tells what happens to products. A browser that was cut off names the last event it got,
// and misses nothing.
func (c *catalogue) changes(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(c.ends, cancel)()
	at, err := c.placeInLog(ctx, r.Header.Get("Last-Event-ID"))
	if err != nil {
		http.Error(w, err.Error(), statusOf(err))
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	stream := http.NewResponseController(w)
	_ = stream.Flush() // the client sees that it is on
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		page, err := c.changesAfter(ctx, at)
		if errors.Is(err, errTrimmed) {
			fmt.Fprint(w, "event: again\ndata: list again, too much has happened\n\n")
			return
		}
		for _, change := range page { // none after another error: it asks again
			event, product := "put", string(change.doc)
			if change.doc == nil {
				event, product = "delete", "null"
			}
			fmt.Fprintf(w, "id: %d\nevent: %s\ndata: {\"id\":%q,\"product\":%s}\n\n", change.number, event, "product."+change.id, product)
			at = change.number
		}
		if len(page) > 0 && stream.Flush() != nil {
			return
		}
		if len(page) == pageRows {
			continue
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
